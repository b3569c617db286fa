"""Weights to bytes and back, the same bits on every machine. NumPy and Zstandard only.

`layout.py` says in which order a model's weights lie, `container.py` how sections of bytes
are framed, `codecs.py` how numbers become few bytes, `frames.py` what a keyframe, a delta
and an update are. Read `frames.py` first. No I/O, no network, no Keras, no Django here.
"""
