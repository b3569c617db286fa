"""SQLite for many threads: Django's own backend, and a line in which writers wait."""
