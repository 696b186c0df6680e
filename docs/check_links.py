"""Check that every relative link and image of the documentation points at a file, and every anchor at a heading."""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
FENCE = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)
HEADING = re.compile(r"^#+\s+(.*)$", re.MULTILINE)


def anchors(path: Path) -> set[str]:
    """The anchors that a Markdown file's headings get."""
    headings = HEADING.findall(FENCE.sub("", path.read_text(encoding="utf-8")))
    return {re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-") for heading in headings}


def problems(path: Path) -> list[str]:
    """What is wrong with the links of one Markdown file."""
    found = []
    for link in LINK.findall(FENCE.sub("", path.read_text(encoding="utf-8"))):
        target, _, anchor = link.partition("#")
        if re.match(r"[a-z]+:", link):
            continue
        file = (path.parent / target).resolve() if target else path
        if not file.exists():
            found.append(f"{path.relative_to(ROOT)}: no file at {link}")
        elif anchor and anchor not in anchors(file):
            found.append(f"{path.relative_to(ROOT)}: no heading for {link}")
    return found


def main() -> None:
    """Check the Markdown files at the root and under docs; exit with 1 if a link is broken."""
    files = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
    broken = [problem for path in files for problem in problems(path)]
    print("\n".join(broken) or f"{len(files)} files, every link leads somewhere")
    sys.exit(bool(broken))


if __name__ == "__main__":
    main()
