"""Fetch English text for training on: the glosses of WordNet and a dictionary in the public domain, as Debian has them.

1. `apt-get download` puts the packages `wordnet-base` (6 MB) and `dict-gcide` (15 MB) into the folder, from the mirror
   that apt is set up with; nothing is installed, no root is needed. Packages that are there already are taken as they
   are. `dpkg-deb` unpacks them.
2. Glosses and definitions are cleaned, one a line, "word: definition"; what comes twice is written once. What the
   dictionary has from WordNet is left out of it.
3. Every 50th line is kept out of training, in a second file: wordnet.txt and wordnet.held-out.txt, gcide.txt and
   gcide.held-out.txt.
4. A part of both together, evenly over their lines, is what a small model can read several times: part.txt and, of the
   lines that are kept out, as great a part in part.held-out.txt.

Licences, which are copied beside the texts: WordNet 3.0 is Princeton University's, free to use, copy and change with
its notice. GCIDE derives from Webster's Revised Unabridged Dictionary of 1913; it is under the GNU GPL, version 2 or
later. Nothing of either comes with this package.
"""

from __future__ import annotations

import argparse
import gzip
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

PACKAGES = ("wordnet-base", "dict-gcide")
WORDNET = "usr/share/wordnet"
GCIDE = "usr/share/dictd/gcide.dict.dz"
KINDS = ("noun", "verb", "adj", "adv")
HELD_OUT = 50  # every so many lines one is kept out of training
PART = 6_800  # lines of part.txt
SHORTEST, LONGEST = 20, 400  # characters of a line
QUOTATION = 8 * " "  # how the dictionary indents what others wrote

_SOURCE = re.compile(r"\[(?:1913 Webster|Webster 1913 Suppl\.|PJC|[^\]]*\bWebster\b[^\]]*|RP|AS|MW10|Century[^\]]*)\]")
_BRACKETS = re.compile(r"\[[^\[\]]*\]")
_QUOTED = re.compile(r"\s*--\s?[A-Z][\w. ]*\.?(?=\s|$)")
_SENSE = re.compile(r"^(?:\d+\.|\([a-z]\)|\{[^}]*\}[^.]{0,40}[.,]?)\s*")


def main() -> None:
    """Fetch, clean and write, and say how much it is."""
    parser = argparse.ArgumentParser(description="Fetch WordNet's glosses and the GCIDE dictionary as plain text.")
    parser.add_argument("folder", nargs="?", type=Path, default=Path(".cache/text"), help="where texts are put")
    parser.add_argument("--lines", type=lines_of, default=PART, help=f"lines of part.txt; {PART:,} unless given")
    arguments = parser.parse_args()
    folder: Path = arguments.folder
    folder.mkdir(parents=True, exist_ok=True)
    (folder / ".gitignore").write_text("*\n")
    unpacked = {package: unpack(download(package, folder), folder / package) for package in PACKAGES}
    glosses = [
        line for kind in KINDS for line in wordnet_lines(read(unpacked["wordnet-base"] / WORDNET / f"data.{kind}"))
    ]
    with gzip.open(found(unpacked["dict-gcide"] / GCIDE), "rt", encoding="utf-8", errors="replace") as stream:
        definitions = list(gcide_lines(stream))
    for name, lines in (("wordnet", glosses), ("gcide", definitions)):
        write(folder, name, *split(lines))
    write(folder, "part", *part([split(glosses), split(definitions)], arguments.lines))
    for package, root in unpacked.items():
        shutil.copyfile(found(root / "usr/share/doc" / package / "copyright"), folder / f"{package}.copyright")
        shutil.rmtree(root)
    texts = ", ".join(f'"{folder / name}.txt"' for name in ("wordnet", "gcide"))
    print(f"\nTrain on them with [corpus] texts = [{texts}]; licences: {folder}/*.copyright")


def download(package: str, folder: Path) -> Path:
    """The newest file of a package in the folder; apt's, if there is none."""
    there = sorted(folder.glob(f"{package}_*.deb"))
    if not there:
        print(f"downloading {package}", flush=True)
        advice = f"download {package} from a Debian or Ubuntu mirror and put the .deb into {folder}"
        try:
            done = subprocess.run(["apt-get", "download", "--quiet", package], cwd=folder, check=False)
        except FileNotFoundError:
            sys.exit(f"apt-get is not on this machine; {advice}")
        if done.returncode != 0:
            sys.exit(f"apt-get could not download {package}; see its message, try `apt-get update`, or {advice}")
        there = sorted(folder.glob(f"{package}_*.deb"))
    return there[-1]


def unpack(package: Path, folder: Path) -> Path:
    """The files of a package, under a folder."""
    shutil.rmtree(folder, ignore_errors=True)
    try:
        done = subprocess.run(["dpkg-deb", "-x", str(package), str(folder)], check=False)
    except FileNotFoundError:
        sys.exit("dpkg-deb is not on this machine; install dpkg, or run this on Debian or Ubuntu")
    if done.returncode != 0:
        sys.exit(f"{package} is damaged; delete it and try again")
    return folder


def found(file: Path) -> Path:
    """A file of a package, once it is known to be there."""
    if not file.is_file():
        sys.exit(f"{file} is not in its package, which is of another version; expected that of Debian 12 or later")
    return file


def read(file: Path) -> Iterable[str]:
    """The lines of a file of a package."""
    return found(file).read_text(encoding="utf-8", errors="replace").splitlines()


def wordnet_lines(lines: Iterable[str]) -> Iterator[str]:
    """A line for each synset of a data file of WordNet: its first word and its gloss, examples and all.

    Args:
        lines: of data.noun and its like: "offset number kind count word … | gloss", after a licence that is indented.
    """
    for line in lines:
        head, bar, gloss = line.partition(" | ")
        fields = head.split()
        if line.startswith(" ") or not bar or len(fields) < 5:
            continue
        word = re.sub(r"\([a-z]+\)$", "", fields[4]).replace("_", " ")
        yield from fitting(f"{word}: {spaced(gloss).rstrip(';')}")


def gcide_lines(lines: Iterable[str]) -> Iterator[str]:
    """A line for each sense of an entry of GCIDE: its headword and the definition.

    Args:
        lines: "Headword \\pronunciation\\, kind. [etymology]", then paragraphs that are indented, one a sense.
    """
    word, paragraph = "", [""]
    for line in (*lines, ""):
        if line.startswith(" ") and line.strip():
            if paragraph or not line.startswith(QUOTATION):
                paragraph.append(line.strip())
            continue
        if word:
            yield from _sense(word, " ".join(paragraph))
        paragraph = []
        if line.strip():  # not indented: another entry, or the end of an etymology
            headword, slash, _ = line.partition(" \\")
            word = headword.strip() if slash and not line.startswith("00-database") else word
            paragraph = [line.partition("]")[2]] if not slash else [after_head(line)]


def after_head(line: str) -> str:
    """What follows pronunciation and kind in the first line of an entry: the beginning of an etymology, if any."""
    return "[" + line.partition("[")[2] if "[" in line else ""


def _sense(word: str, text: str) -> Iterator[str]:
    """The definition of a sense without number, etymologies, sources and whose quotation it is; none of WordNet's."""
    if "[WordNet" in text or text.startswith(("Syn:", "Note:", "Usage:")):
        return
    plain = spaced(_SOURCE.sub("", text))
    while _BRACKETS.search(plain):
        plain = _BRACKETS.sub("", plain)
    plain = spaced(_QUOTED.sub("", _SENSE.sub("", spaced(plain))))
    plain = plain.replace("{", "").replace("}", "").replace("`", "").strip(" .;,")
    if plain[:1].isupper() and "[" not in plain and "]" not in plain and "\\" not in plain:
        yield from fitting(f"{word}: {plain[0].lower()}{plain[1:]}.")


def spaced(text: str) -> str:
    """A text with one space wherever it has white space."""
    return " ".join(text.split())


def fitting(line: str) -> Iterator[str]:
    """A line, if it is neither short nor long."""
    if SHORTEST <= len(line) <= LONGEST and line.isprintable():
        yield line


def lines_of(text: str) -> int:
    """How many lines a part is to have.

    Raises:
        ValueError: not a whole number from 1 on.
    """
    number = int(text)
    if number < 1:
        raise ValueError(text)
    return number


def split(lines: Iterable[str]) -> tuple[list[str], list[str]]:
    """Lines, each once: those to train on, and every 50th, which is kept out."""
    different = list(dict.fromkeys(lines))
    return [line for place, line in enumerate(different, 1) if place % HELD_OUT], different[HELD_OUT - 1 :: HELD_OUT]


def part(texts: Iterable[tuple[list[str], list[str]]], most: int) -> tuple[list[str], list[str]]:
    """So many lines of several texts that are split, evenly over them, and as great a part of what is kept out.

    No line is in both, should one text have what is kept out of another.
    """
    kept, held_out = (
        list(dict.fromkeys(line for some in which for line in some)) for which in zip(*texts, strict=True)
    )
    share = min(most / len(kept), 1.0)
    trained = evenly(kept, round(share * len(kept)))
    known = set(kept)
    return trained, evenly([line for line in held_out if line not in known], round(share * len(held_out)))


def evenly(lines: list[str], most: int) -> list[str]:
    """At most so many of some lines, evenly over them."""
    return [lines[place * len(lines) // most] for place in range(most)] if most < len(lines) else lines


def write(folder: Path, name: str, trained: list[str], held_out: list[str]) -> None:
    """Write lines to train on, and those that are kept out of it to a file of their own; say how much it is."""
    for file, some in ((f"{name}.txt", trained), (f"{name}.held-out.txt", held_out)):
        content = "\n".join(some) + "\n"
        (folder / file).write_text(content, encoding="utf-8")
        print(f"{folder / file}: {len(some):,} lines, {len(content.split()):,} words, {len(content) / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
