"""Build the documentation as a site: python docs/site/build.py [FOLDER]. A warning is an error.

1. The pages of `docs` are laid out in a folder, with links that lead to pages of the site (`files`).
2. What is made here and not kept is put beside them: the API from docstrings (`api`), files and notebooks that pages
   link to (`files`), the order of all pages (`nav`).
3. Sphinx makes HTML of it (`conf`).
4. A page that would fetch a script, style, font or picture from another server fails the build.
"""

import os
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from sphinx.cmd.build import main as sphinx_build

import api
import files
import nav

SITE = Path(__file__).resolve().parent
ROOT = SITE.parents[1]
DOCS = ROOT / "docs"
COPIED = (".png", ".svg", ".json")
FETCHED = re.compile(
    r"<(?:script|img|iframe|source|video|audio|embed)\b[^>]*\ssrc=[\"']?(?:https?:)?//[^\"'>\s]+"
    r"|<link\b(?=[^>]*\brel=[\"']?(?:stylesheet|preload|preconnect|icon|modulepreload))"
    r"[^>]*href=[\"']?(?:https?:)?//[^\"'>\s]+"
)
FETCHED_BY_STYLE = re.compile(r"(?:@import\s*|url\()[\"']?(?:https?:)?//[^\"')\s]+")


def lay_out(folder: Path) -> None:
    """Put all pages of the site into an empty folder."""
    outside = {f"{page.removeprefix('files/')}" for page in ("CHANGELOG.md", "CONTRIBUTING.md")}
    for path in sorted(DOCS.rglob("*")):
        place = path.relative_to(DOCS)
        if path.suffix == ".md":
            text = path.read_text(encoding="utf-8")
            source = path.parent.relative_to(ROOT).as_posix()
            outside |= files.linked(text, source)
            text = files.with_site_links(text, source, place.parent.as_posix())
            _write(folder / place, _completed(place.as_posix(), text))
        elif path.suffix in COPIED and "data" not in place.parts:
            (folder / place).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, folder / place)
    listed = {page for section in nav.SECTIONS.values() for page in section}
    waiting = sorted(outside)
    while waiting:  # pages of files may link to files
        target = waiting.pop()
        text = files.page_of(target)
        if target.endswith((".md", ".ipynb")):
            found = files.linked((ROOT / target).read_text(encoding="utf-8"), str(Path(target).parent)) - outside
            outside |= found
            waiting += sorted(found)
        place = files.place_of(target)
        _write(folder / place, text if place.removesuffix(".md") in listed else _alone(text))
    for path in api.modules():
        _write(folder / "api" / f"{path}.md", api.page(path))


def _completed(place: str, text: str) -> str:
    """A page with what the site alone has: the order of pages on the first one, links to the API on its list."""
    if place == "index.md":
        trees = (_tree(title, pages) for title, pages in nav.SECTIONS.items())
        return text + "\n" + "\n".join(trees)
    if place == "api.md":
        text = re.sub(r"^\| `(gated_lpi[\w.]*)` \|", r"| [`\1`](api/\1.md) |", text, flags=re.MULTILINE)
        return text + "\n" + _tree("", [f"api/{path}" for path in api.modules()])
    if place.startswith("findings/") and place != "findings/README.md":
        return _alone(text)
    return text


def _tree(title: str, pages: tuple[str, ...] | list[str]) -> str:
    caption = [f":caption: {title}"] if title else []
    return "\n".join(["```{toctree}", ":hidden:", ":maxdepth: 1", *caption, "", *pages, "```", ""])


def _alone(text: str) -> str:
    """A page that is not in the list of pages, since others lead to it."""
    return f"---\norphan: true\n---\n\n{text}"


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def fetched(site: Path) -> Iterator[str]:
    """What pages and styles of a site would fetch from elsewhere."""
    for pattern, names in ((FETCHED, "*.html"), (FETCHED_BY_STYLE, "*.css")):
        for path in sorted(site.rglob(names)):
            for match in pattern.findall(path.read_text(encoding="utf-8")):
                yield f"{path.relative_to(site)}: {match}"


def main() -> None:
    """Build the site; exit with 1 at a warning, or if a page would fetch anything."""
    out = Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / ".cache" / "site").resolve()
    pages = out.with_name(f"{out.name}-pages")
    for folder in (out, pages):
        shutil.rmtree(folder, ignore_errors=True)
    pages.mkdir(parents=True)
    lay_out(pages)
    jobs = str(min(os.cpu_count() or 1, 4))
    options = ["-b", "html", "-c", str(SITE), "-W", "--keep-going", "-q", "-j", jobs, "-d", str(pages / ".doctrees")]
    failed = sphinx_build([*options, str(pages), str(out)])
    elsewhere = list(fetched(out))
    if elsewhere:
        print("these pages would fetch from other servers:", *elsewhere[:20], sep="\n", file=sys.stderr)
    if not failed and not elsewhere:
        print(f"site: {out / 'index.html'}")
    sys.exit(bool(failed or elsewhere))


if __name__ == "__main__":
    main()
