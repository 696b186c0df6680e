"""The page in its three forms: for browsers, with figures that answer; for paper, with figures drawn; as Markdown.

All three have the same body. The first holds plotly.js, of which the part for axes is enough (MIT licence; its text is
in `page_files/plotly-LICENSE.txt`), so that it needs no network and stays small.
"""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from importlib.resources import files
from string import Template
from typing import Any

from gated_lpi.report.content import Content
from gated_lpi.report.figure_json import figure_json, templates, with_shared_lists
from gated_lpi.report.html import escape
from gated_lpi.report.markdown import markdown
from gated_lpi.report.sections import body

NOSCRIPT = "<noscript><p>Figures need scripts; the same figures are files in the folder figures.</p></noscript>"


def interactive(content: Content) -> str:
    """The page for browsers: one file that needs nothing else, whose figures show values and can be zoomed."""
    figures = {name: figure_json(chart) for name, chart in content.charts.items()}
    heights = {name: int(figure["layout"]["height"]) for name, figure in figures.items()}
    named = {f"plot-{name}": figure for name, figure in figures.items()}
    data = with_shared_lists(named) | {"templates": templates()}
    scripts = (
        f'{NOSCRIPT}<p class="spoken" id="spoken" aria-live="polite"></p>\n'
        f"<script>{_file('plotly-cartesian.min.js')}</script>\n"
        f'<script type="application/json" id="figure-data">{_script_json(data)}</script>\n'
        f"<script>\n{_file('walk.js')}{_file('page.js')}</script>"
    )
    return _page(replace(content, heights=heights), "light dark", scripts)


def for_paper(content: Content, pictures: Mapping[str, bytes]) -> str:
    """The page for a printer: no script, and every figure as it is in SVG.

    Args:
        content: of the page.
        pictures: SVG files of all charts, by name.
    """
    addresses = {name: f"data:image/svg+xml;base64,{b64encode(picture).decode()}" for name, picture in pictures.items()}
    return _page(replace(content, pictures=addresses), "light", "")


def as_markdown(content: Content, figures: str) -> str:
    """The page as Markdown, with its figures in a folder beside it."""
    return markdown(body(content), figures)


def _page(content: Content, scheme: str, scripts: str) -> str:
    return Template(_file("page.html")).substitute(
        title=escape(f"{content.run.experiment.name}: Gated-LPI report"),
        scheme=scheme,
        style=_file("page.css"),
        body=body(content),
        scripts=scripts,
    )


@cache
def _file(name: str) -> str:
    return files("gated_lpi.report").joinpath("page_files", name).read_text(encoding="utf-8")


def _script_json(data: Any) -> str:
    """Data for a script element: nothing in it can end the element."""
    return json.dumps(data, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
