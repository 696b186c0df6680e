"""`python -m torture`: the campaign, or some of it, and its table."""

import argparse
import os
import sys
import tempfile
from pathlib import Path

from torture.campaign import carry_out
from torture.registry import ATTACKS
from torture.table import as_markdown, as_text, failed, put_between_marks


def main() -> int:
    """Carry out what was asked for and print the table; 1 if anything is wrong."""
    names = [attack.name for attack in ATTACKS]
    parser = argparse.ArgumentParser(prog="make torture", description="Everything that could go wrong, brought about.")
    parser.add_argument("attacks", nargs="*", metavar="ATTACK", help=f"default: all of {', '.join(names)}")
    parser.add_argument("--quick", action="store_true", help="a few tries of each")
    parser.add_argument("--count", type=int, help="so many tries of each")
    parser.add_argument("--seed", type=int, default=0, help="of the first try; the others follow it")
    parser.add_argument("--jobs", type=int, default=min(2, os.cpu_count() or 1), help="attacks at a time")
    parser.add_argument("--into", type=Path, help="put the table into this document, between its marks")
    given = parser.parse_args()
    unknown = sorted(set(given.attacks) - set(names))
    if unknown:
        parser.error(f"no attack is named {', '.join(unknown)}; there are {', '.join(names)}")
    chosen = [attack for attack in ATTACKS if attack.name in given.attacks or not given.attacks]
    planned = [(attack, given.count or (attack.quick if given.quick else attack.full)) for attack in chosen]
    with tempfile.TemporaryDirectory(prefix="torture-", ignore_cleanup_errors=True) as folder:
        rows = carry_out(planned, given.seed, Path(folder), lambda text: print(text, flush=True), given.jobs)
    how = " ".join(["python -m torture", *sys.argv[1:]]) if given.into is None else "make torture"
    print(f"\n{as_text(rows)}")
    for row in rows:
        for why, seed in row.wrong:
            again = "" if seed < 0 else f"; again: make torture ARGS='{row.attack.name} --seed {seed} --count 1'"
            print(f"\nWRONG: {row.attack.name}{again}\n{why}")
    if given.into is not None:
        put_between_marks(given.into, as_markdown(rows, f"{how}{' ARGS=--quick' if given.quick else ''}"))
    return int(failed(rows))


if __name__ == "__main__":
    sys.exit(main())
