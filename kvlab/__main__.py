"""``python -m kvlab``: the command line, with the current folder importable."""

from kvlab.cli import main

main()
