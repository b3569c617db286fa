"""The owner's JSON: what a model file may say, its check, its sizes and the Keras model of it.

A model file comes from a stranger, and Keras's own loading of such files can be talked
into running code. So we read it into plain types of our own, against a table of what is
allowed, and write fresh Keras objects from those.

Nothing here imports Keras, except `build`. Nothing here imports Django, or does I/O.

Read `check` first (bytes -> ModelFile), then `allowlist` (the table), then `shapes`
(how large a model is, known before any Keras object exists), then `build`.
"""
