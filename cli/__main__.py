"""`python -m cli`: the `gigamil` command, for torchrun."""

from cli.app import main

main()
