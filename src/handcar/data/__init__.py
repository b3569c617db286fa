"""Records: from an owner's file to chunks, and from chunks to the batches that train.

On the owner's side `importers.py` chooses what reads the data: `readers/` has a module a kind.
They spool what they read to disk (`spool.py`), `sources.py` looks through it and tells what was
found; `records.py` takes what a program makes. `cut.py` cuts it; `chunks.py` is the format that
travels, its columns written by `numbers.py` or `pictures.py`. On the volunteer's side
`blocks.py` keeps chunks decoded and memory-mapped, and `order.py` says which records make the
next batch. Read `chunks.py` first, then `order.py`. No network, no Keras, no Django here; only
owners need more than NumPy, Zstandard and imagecodecs.
"""
