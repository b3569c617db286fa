"""The volunteer's side: one command that downloads, trains and sends, and never waits.

`state.py` decides: events in, instructions out, no I/O, no clock, no threads; read it first.
`join.py` runs the instructions and feeds the events back. `training.py` is the only module
here that imports Keras. `journal.py` is what survives kill -9. Never imports the server.
"""
