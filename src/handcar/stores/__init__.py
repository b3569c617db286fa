"""Where frozen bytes live, and how they get there and back over lines that break.

`base.py` says what a store is; `disk.py` is a folder that the owner's own web server shows,
`handcar.py` the Handcar server itself. `http.py` is how volunteers fetch from any of them,
`answers.py` what an HTTP answer means. Read `http.py` first. No Keras and no Django here,
and nothing of volunteers or the server.
"""
