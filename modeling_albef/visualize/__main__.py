"""Run the command."""

from . import main

main()
