"""Figures that pages give of the project in passing are those of the project."""

import json
import re
from importlib.resources import files
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
TYPES = json.loads(files("gated_lpi").joinpath("models/census.json").read_text(encoding="utf-8"))["types"]
OF_TYPES = re.compile(r"(\d+)\s+of\s+the\s+(\d+)\s+types")


def given(page):
    return [tuple(map(int, found)) for found in OF_TYPES.findall(page.read_text(encoding="utf-8"))]


@pytest.mark.parametrize("page", [page for page in PAGES if given(page)], ids=lambda page: page.name)
def test_how_many_types_are_attributed(page):
    attributed = sum(one["status"] == "attributed" for one in TYPES)
    assert set(given(page)) == {(attributed, len(TYPES))}


def test_some_page_says_it():
    assert any(map(given, PAGES))
