"""The web pages: how every model stands, who trains it, how to join.

Pages work without JavaScript; with it, htmx fetches the part that changes every few
seconds and `chart.js` draws the curves. Reads what `catalog` and `rounds` know, changes
nothing. Names and descriptions are strangers' text: never marked safe.
Read `views.py` first.
"""
