"""`python -m handcar`: the same as the `handcar` command."""

from handcar.cli import main

main()
