"""The training itself: versions, the updates that make them, and who takes part.

`services.py` is the life of an update, `merges.py` how a version comes about, `series.py`
which frames are kept, `assignments.py` what a volunteer is told. Only `evaluate.py`
imports Keras.
"""
