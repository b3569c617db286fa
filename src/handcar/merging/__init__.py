"""Updates become the next version. NumPy only; no I/O, no clock, no chance.

Read `merge.py`: one page says what a version is; `cadence.py` says when there is one, `rules.py`
what else there is to choose. `filters.py`, `direction.py`, `gate.py` and `audit.py` say which
updates may not count, `trust.py` and `staleness.py` how much the others do, `clipping.py` bounds
what any one of them does, `watch.py` says when a version must be taken back.
"""
