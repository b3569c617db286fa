"""What there is to train: models, data sets and the messages about them.

Knows nothing of rounds; `rounds` builds on it. Read `services.py` first.
"""
