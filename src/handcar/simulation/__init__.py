"""Pretend volunteers, and the pretend lines that they hang on: for demos, tests, benchmarks.

It may use the volunteer's pure state, merging and wire; never Django, never Keras.
Read `network.py` first: one household's line as a TCP proxy with rates, latency and faults.
"""
