"""Pretend volunteers, and the pretend lines that they hang on: for demos, tests, benchmarks.

Two ways to pretend. `network.py` is one household's line as a TCP proxy with rates, latency and
faults, for real processes in real time. `run.py` is a whole training in virtual time, with real
training, coding and merging: read it first, then `volunteers.py` and `hub.py`. No Django here.
"""
