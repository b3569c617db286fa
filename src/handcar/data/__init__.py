"""Records: from an owner's file to chunks, and from chunks to the batches that train.

On the owner's side `importers.py` reads a file and cuts it, `chunks.py` is the format that
travels. On the volunteer's side `blocks.py` keeps chunks decoded and memory-mapped, and
`order.py` says which records make the next batch. Read `chunks.py` first, then `order.py`.
NumPy and Zstandard only: no network, no Keras, no Django here.
"""
