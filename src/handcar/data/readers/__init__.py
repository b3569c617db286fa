"""One module for each kind of data that an owner may have.

Each has a function `read(path, reading) -> Found` (reading.py): it spools what it reads into
memory-mapped arrays, tells how far it is, and names what it can't read by file and place.
`importers.py` chooses among them. Libraries that only owners need are imported inside functions.
"""
