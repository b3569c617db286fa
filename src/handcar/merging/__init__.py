"""Updates become the next version. NumPy only; no I/O, no clock, no chance.

Read `merge.py`: one page says what a version is. `activity.py` measures how much work is
going on, `staleness.py` what a late update still counts, `filters.py` what may not count.
"""
