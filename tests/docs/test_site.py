"""The site of the documentation: links that lead to pages of it, the API from docstrings, nothing from elsewhere."""

import re
import runpy
import sys
import tomllib
from pathlib import Path

import pytest

import gated_lpi

ROOT = Path(__file__).parents[2]
SITE = ROOT / "docs" / "site"


@pytest.fixture(scope="module")
def site():
    """The modules of docs/site by name."""
    sys.path.insert(0, str(SITE))
    try:
        yield {name: runpy.run_path(str(SITE / f"{name}.py")) for name in ("api", "files", "nav", "build")}
    finally:
        sys.path.remove(str(SITE))


def test_links_to_files_outside_lead_to_pages_that_are_made_of_them(site):
    page = (
        "[a](../src/gated_lpi/errors.py) [b](runs.md#x) [c](../README.md) [d](https://e.f)\n```\n[g](../Makefile)\n```"
    )
    led = site["files"]["with_site_links"](page, "docs", ".")
    assert "[a](files/src/gated_lpi/errors.py.md)" in led
    assert "[b](runs.md#x) [c](files/README.md) [d](https://e.f)" in led
    assert "[g](../Makefile)" in led
    assert site["files"]["linked"](page, "docs") == {"src/gated_lpi/errors.py", "README.md"}
    deeper = site["files"]["with_site_links"](
        "[a](../../src/gated_lpi/errors.py) [b](../runs.md)", "docs/findings", "findings"
    )
    assert deeper == "[a](../files/src/gated_lpi/errors.py.md) [b](../runs.md)"


def test_pages_of_root_files_lead_back_into_the_documentation(site):
    assert "](../docs/" not in (page := site["files"]["page_of"]("CONTRIBUTING.md"))
    assert "](../architecture.md)" in page


def test_every_public_name_is_on_a_page_of_the_api(site):
    page = site["api"]["page"]("gated_lpi")
    missing = {name for name in gated_lpi.__all__ if name[0] != "_" and f"\n## {name}\n" not in page}
    assert missing == set()
    assert "**Raises**" in page
    assert "method: MethodOptions" in page
    assert "gated_lpi.metrics" in site["api"]["modules"]()
    assert not {"gated_lpi._common", "gated_lpi.cli"} & set(site["api"]["modules"]())


def test_what_would_be_fetched_from_elsewhere_is_found(site, tmp_path):
    (tmp_path / "a.html").write_text('<a href="https://x.y">x</a><script src="//cdn.z/x.js"></script><img src="a.png">')
    (tmp_path / "b.html").write_text(
        '<link rel="stylesheet" href="https://fonts.z/a.css"/><link rel="next" href="https://x.y">'
    )
    (tmp_path / "c.css").write_text("@font-face { src: url(https://fonts.z/a.woff2) } a { background: url(b.png) }")
    found = [line.split(":")[0] for line in site["build"]["fetched"](tmp_path)]
    assert found == ["a.html", "b.html", "c.css"]


def test_the_version_is_the_same_everywhere():
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert re.search(rf"^version: {re.escape(version)}$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)
    assert re.search(rf"^## .*\b{re.escape(version)}\b", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)


def test_the_readme_begins_with_what_it_answers_a_picture_and_two_commands():
    readme = (ROOT / "README.md").read_text()
    first, _, rest = readme.partition("\n## ")
    assert first.count("![") == 1
    assert re.findall(r"^make \w+", first, re.MULTILINE) == ["make demo", "make test"]
    assert "|---|" not in first
    code = re.search(r"```python\n(.*?)```", rest, re.DOTALL)[1]
    assert len([line for line in code.splitlines() if line]) <= 10
