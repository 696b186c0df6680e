"""The program `gated-lpi`, also as `python -m gated_lpi`: signals are seen to before anything else is imported."""

from gated_lpi._common.signals import ended_by_signals


def main() -> None:
    """Run the command line."""
    ended_by_signals(_command_line, leave=True)


def _command_line() -> None:
    from gated_lpi import cli

    cli.main()


if __name__ == "__main__":
    main()
