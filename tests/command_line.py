"""The command line, run in this process."""

import sys

from gated_lpi.cli import main


def run(monkeypatch, capsys, *arguments):
    """Run `gated-lpi ARGUMENTS` in this process: exit code, standard output, standard error."""
    monkeypatch.setattr(sys, "argv", ["gated-lpi", *map(str, arguments)])
    try:
        main()
        code = 0
    except SystemExit as stop:
        code = stop.code or 0
    captured = capsys.readouterr()
    return code, captured.out, captured.err
