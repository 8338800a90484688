"""`python -m autodraft` is the command `autodraft`."""

from autodraft.cli import main

main()
