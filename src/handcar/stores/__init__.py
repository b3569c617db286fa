"""Where frozen bytes live, and how they get there and back over lines that break.

`base.py` says what a store is; `disk.py` is a folder that the owner's own web server shows,
`s3.py` a bucket of Amazon's or whoever speaks its protocol, `rclone.py` Google Drive,
Dropbox, Box and the others that rclone knows, `handcar.py` the Handcar server itself.
`links.py` knows which links give bytes and which show a page, `trial.py` tries one as a
volunteer would, `signing.py` signs links to private buckets. `http.py` is how volunteers
fetch from any of them, `answers.py` what an HTTP answer means. Read `http.py` first. No
Keras and no Django here, and nothing of volunteers or the server.
"""
