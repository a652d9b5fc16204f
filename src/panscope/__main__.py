"""`python -m panscope` is the command line."""

from panscope.cli import main

main()
