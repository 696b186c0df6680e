"""`python -m gated_lpi` is `gated-lpi`."""

from gated_lpi.cli import main

main()
