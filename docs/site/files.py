"""Files outside the documentation that its pages link to, as pages of the site: sources, notebooks, the change log.

On a Git host these links lead to the files; on the site to pages of `files/`, to which the links are rewritten.
"""

import base64
import posixpath
import re
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCS = "docs"
LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#)([^)\s#]+)(?=[)#\s])")
FENCED = re.compile(r"(^(`{3,}).*?^\2$)", re.DOTALL | re.MULTILINE)
LANGUAGES = {".py": "python", ".toml": "toml", ".json": "json", ".cff": "yaml", ".sh": "bash"}


def linked(text: str, folder: str) -> set[str]:
    """The files outside the documentation that a page links to, from the root.

    Args:
        text: the page.
        folder: where it is, from the root.
    """
    found = (_outside(link, folder) for link in LINK.findall(FENCED.sub("", text)))
    return {target for target in found if target is not None}


def with_site_links(text: str, folder: str, here: str) -> str:
    """A page whose links lead to where things are on the site.

    Args:
        text: the page.
        folder: where it is in the repository, from the root.
        here: where it is on the site: the folder, from the site's root.
    """

    def led(match: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(folder, match[1]))
        if target == DOCS or target.startswith(f"{DOCS}/"):
            place = posixpath.relpath(target, DOCS)
        elif _outside(match[1], folder) is not None:
            place = place_of(target)
        else:
            return match[0]
        return posixpath.relpath(place, here or ".")

    return _outside_fences(text, lambda part: LINK.sub(led, part))


def place_of(target: str) -> str:
    """Where on the site the page of a file is."""
    path = Path(target)
    return f"files/{path.with_suffix('.md') if path.suffix in ('.md', '.ipynb') else f'{path}.md'}"


def page_of(target: str) -> str:
    """The page of a file."""
    path = ROOT / target
    folder = posixpath.dirname(target)
    here = posixpath.dirname(place_of(target))
    if path.suffix == ".ipynb":
        return with_site_links(_notebook(path), folder, here)
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".md":
        return with_site_links(text, folder, here)
    return f"# {target}\n\n`````{LANGUAGES.get(path.suffix, 'text')}\n{text.rstrip()}\n`````\n"


def _notebook(path: Path) -> str:
    """A notebook with the outputs that it has, pictures inside."""
    from nbconvert import MarkdownExporter  # takes seconds to import

    text, resources = MarkdownExporter().from_filename(str(path))
    for name, content in (resources.get("outputs") or {}).items():
        text = text.replace(f"({name})", f"(data:image/png;base64,{base64.b64encode(content).decode()})")
    return str(text)


def _outside(link: str, folder: str) -> str | None:
    target = posixpath.normpath(posixpath.join(folder, link))
    inside = target == DOCS or target.startswith((f"{DOCS}/", ".."))
    return None if inside or not (ROOT / target).is_file() else target


def _outside_fences(text: str, change: Callable[[str], str]) -> str:
    parts, last = [], 0
    for fence in FENCED.finditer(text):
        parts += [change(text[last : fence.start()]), fence[0]]
        last = fence.end()
    return "".join([*parts, change(text[last:])])
