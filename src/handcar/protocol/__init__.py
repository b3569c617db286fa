"""What the two sides say to each other, as plain checked data.

Server and volunteer both import these classes; neither imports the other. Nothing here
does I/O, knows the time, or imports Django, Keras or a network library.
Read `messages.py` first, then `limits.py`.
"""
