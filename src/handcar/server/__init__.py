"""The server: hands out work, takes updates, and makes the next version of each model.

    accounts   volunteers and owners, and their tokens
    catalog    models, data sets, their bytes, and messages
    rounds     versions, updates, heartbeats: the training itself
    dashboard  the pages for people

Inside an app `views -> services -> models`. Web processes never import Keras; only
`rounds/evaluate.py` does, in a process of its own. Read `rounds/services.py` first (the
life of an update), then `rounds/merges.py` and `worker.py`.
"""
