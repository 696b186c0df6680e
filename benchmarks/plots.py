"""Figures and tables of docs/benchmarks.md from benchmarks/results/full.json: `python -m benchmarks.plots`.

Tables go between `<!-- begin: NAME -->` and `<!-- end: NAME -->`; the prose around them is written by hand.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks import tables
from benchmarks.run import RESULTS
from benchmarks.tables import Results, Section
from gated_lpi.report.static import STYLE, image

DOCS = Path(__file__).resolve().parent.parent / "docs"
BLUE, ORANGE, GREY = "#0072b2", "#d55e00", "#7a7f87"
CURVES = {"prompts": "prompts", "units": "units", "vocabulary": "tokens of the vocabulary", "threads": "threads"}


def main(results: Path = RESULTS / "full.json", docs: Path = DOCS) -> None:
    """Draw and write everything."""
    found: Results = json.loads(results.read_text(encoding="utf-8"))
    folder = docs / "benchmarks"
    folder.mkdir(exist_ok=True)
    style: dict[Any, Any] = {**STYLE, "svg.fonttype": "none"}
    with matplotlib.rc_context(style):
        drawn = {"ratios": ratios(found), "scaling": scaling(found)}
        if found["smollm2"]:
            drawn["gradients"] = gradients(found)
        for name, figure in drawn.items():
            (folder / f"{name}.svg").write_bytes(image(figure, "svg"))
    page = docs / "benchmarks.md"
    page.write_text(filled(page.read_text(encoding="utf-8"), found), encoding="utf-8")


def filled(text: str, found: Results, sections: Mapping[str, Section] = tables.SECTIONS) -> str:
    """The page with every marked section written anew.

    Raises:
        ValueError: the page lacks a section.
    """
    for name, section in sections.items():
        begin, end = f"<!-- begin: {name} -->", f"<!-- end: {name} -->"
        pattern = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.DOTALL)
        new = "\n".join([begin, "", *section(found), "", end])
        text, count = pattern.subn(lambda _, new=new: new, text)
        if count != 1:
            raise ValueError(f"the page has {count} sections {name!r}; write '{begin}' and '{end}' into it once")
    return text


def ratios(found: Results) -> Figure:
    """Published over certified of each work, with what it must reach and the aim."""
    works = tables.works(found)
    figure = Figure(figsize=(7.2, 0.55 * len(works) + 0.9), layout="constrained")
    axes = figure.add_subplot()
    first = next((row for row, work in enumerate(works) if work.goal is not None), 0)
    for row, work in enumerate(works):
        ratio = work.published / work.fast
        axes.barh(row, ratio, color=BLUE, height=0.55)
        axes.text(ratio / 1.05, row, tables.times(ratio), va="center", ha="right", color="white")
        if work.goal is not None:
            axes.plot(
                [work.goal.must] * 2, [row - 0.4, row + 0.4], color=ORANGE, label="must" if row == first else None
            )
            axes.plot(
                [work.goal.aim] * 2, [row - 0.4, row + 0.4], "--", color=GREY, label="aim" if row == first else None
            )
    axes.set_xscale("log")
    axes.set_xlim(10, 10_000)
    axes.set_yticks(range(len(works)), [work.name.split(", ")[0] + _depth(work.name) for work in works])
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    axes.set_xlabel("times faster than the published formula, preparation included")
    if any(work.goal is not None for work in works):
        axes.legend(loc="lower right")
    return figure


def _depth(name: str) -> str:
    parts = [f"{depth}-layer scales" for depth in ("middle", "last")] + ["measured routing"]
    return "".join(f", {part.removesuffix('-layer scales')}" for part in parts if part in name)


def scaling(found: Results) -> Figure:
    """Seconds against prompts, units, vocabulary and threads."""
    figure = Figure(figsize=(7.2, 5.0), layout="constrained")
    grid = figure.subplots(2, 2).ravel()
    for axes, (name, label) in zip(grid, CURVES.items(), strict=True):
        points = found["curves"][name]
        sizes = [point["x"] for point in points]
        _line(axes, sizes, [point["fast"] for point in points], BLUE, "certified")
        _line(axes, sizes, [point["lens"] for point in points], GREY, "logit lens")
        axes.set_xlabel(label)
        axes.set_ylabel("seconds")
        _logarithmic(axes, sizes)
    grid[0].legend()
    return figure


def gradients(found: Results) -> Figure:
    """Seconds a prompt against the number of prompts."""
    real = found["smollm2"]
    points = [(row["x"], row["per_prompt"]) for row in real["gradient"]["curve"]]
    figure = Figure(figsize=(4.4, 2.9), layout="constrained")
    axes = figure.add_subplot()
    sizes = [n for n, _ in points]
    _line(axes, sizes, [each for _, each in points], BLUE, "certified, all units")
    axes.axhline(real["gradient"]["per_prompt"], color=ORANGE, label=f"activation {tables.TIMES} gradient")
    axes.axhline(real["published"]["per_prompt"], color=GREY, label="published formula")
    axes.set_xlabel("prompts scored together")
    axes.set_ylabel("seconds a prompt")
    _logarithmic(axes, sizes)
    axes.legend()
    return figure


def _line(axes: Axes, x: list[float], y: list[float], colour: str, label: str) -> None:
    axes.plot(x, y, "o-", color=colour, label=label, markersize=4)


def _logarithmic(axes: Axes, sizes: list[float]) -> None:
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
    axes.minorticks_off()


if __name__ == "__main__":
    main()
