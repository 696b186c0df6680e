"""What a figure shows, apart from what draws it: panels of lines with bands, or heat maps.

Charts are built once (`charts`) and drawn twice, interactively (`figures`) and for print (`static`), so the two
cannot differ. Positions are those of linear axes: a scale such as `StepScale` has been applied before, and its
ticks say what the positions mean. NaN is a gap.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

Style = Literal["solid", "dashed", "points"]
Marker = Literal["circle", "square", "diamond", "triangle-up", "cross", "star"]

# Okabe and Ito's colours, which all common kinds of colour vision tell apart; those too pale for white last.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKERS: tuple[Marker, ...] = ("circle", "square", "diamond", "triangle-up", "cross", "star")
# Even in lightness and safe for colour-blind readers: viridis, and red-blue with white at the centre.
SEQUENTIAL = (
    "#440154",
    "#482878",
    "#3e4989",
    "#31688e",
    "#26828e",
    "#1f9e89",
    "#35b779",
    "#6ece58",
    "#b5de2b",
    "#fde725",
)
DIVERGING = ("#2166ac", "#4393c3", "#92c5de", "#d1e5f0", "#f7f7f7", "#fddbc7", "#f4a582", "#d6604d", "#b2182b")
MOST_TICKS = 8
GREY = "#7b838c"  # of what is no arm's: a null, no difference


class ArmStyle(NamedTuple):
    """How an arm looks in every figure.

    Attributes:
        colour: as HTML writes it.
        marker: of its points.
    """

    colour: str
    marker: Marker


@dataclass(frozen=True)
class Axis:
    """An axis.

    Attributes:
        label: what it shows.
        ticks: (position, text); none for the backend's own.
        percent: whether its values are shares, shown in %.
        limits: where it begins and ends; None: where its values do.
        scale: axes of one chart with the same scale are read against one another, so that `alike` gives them the same
            limits, and they are zoomed together; "": on its own.
    """

    label: str
    ticks: tuple[tuple[float, str], ...] = ()
    percent: bool = False
    limits: tuple[float, float] | None = None
    scale: str = ""


@dataclass(frozen=True)
class Line:
    """A series of points.

    Attributes:
        label: what it is called.
        group: lines of one group are shown and hidden together.
        style: its arm's.
        x, y: positions of the points.
        hover: what each point is.
        low, high: ends of its band, or of each point's error bar; None without.
        drawn: solid, dashed, or as points alone.
        faint: whether it stands back.
        in_legend: whether the legend names it.
    """

    label: str
    group: str
    style: ArmStyle
    x: tuple[float, ...]
    y: tuple[float, ...]
    hover: tuple[str, ...]
    low: tuple[float, ...] | None = None
    high: tuple[float, ...] | None = None
    drawn: Style = "solid"
    faint: bool = False
    in_legend: bool = True


@dataclass(frozen=True)
class Heat:
    """A matrix as colours; the first row is at the bottom.

    Attributes:
        values: [rows, columns].
        rows, columns: their names.
        limits: the values that the colour scale begins and ends at.
        label: of the colour scale.
        diverging: whether the scale has a middle.
        over_training: whether columns are checkpoints.
    """

    values: NDArray[np.float64]
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    limits: tuple[float, float]
    label: str
    diverging: bool = False
    over_training: bool = False


@dataclass(frozen=True)
class Bars:
    """Bars from one value to another, in one colour where they rise and another where they fall.

    Attributes:
        label: what they are called.
        x: positions.
        low, high: where each begins and ends.
        hover: what each is.
        rising, falling: colours as HTML writes them.
    """

    label: str
    x: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    hover: tuple[str, ...]
    rising: str = COLOURS[0]
    falling: str = COLOURS[1]


@dataclass(frozen=True)
class Panel:
    """One pair of axes with its content: a heat map, or bars and lines.

    Attributes:
        title: above it.
        x, y: its axes.
        lines: drawn one over the other.
        heat: the heat map; None where there are lines.
        bars: drawn behind the lines.
    """

    title: str
    x: Axis
    y: Axis
    lines: tuple[Line, ...] = ()
    heat: Heat | None = None
    bars: tuple[Bars, ...] = ()


@dataclass(frozen=True)
class Chart:
    """A figure: panels filled in row by row.

    Attributes:
        name: what it is called in files.
        title: above it.
        caption: how to read it.
        panels: in reading order.
        columns: panels in a row.
    """

    name: str
    title: str
    caption: str
    panels: tuple[Panel, ...]
    columns: int = 2

    @property
    def rows(self) -> int:
        """Rows of panels."""
        return -(-len(self.panels) // self.columns)


class StepScale:
    """Positions for steps or tokens: as they are, or log(1 + v/first) where they are spaced by a factor.

    `first` is the smallest positive value, so 0 has a place of its own at the left edge.
    """

    def __init__(self, values: Iterable[float]) -> None:
        self._values = sorted(set(values))
        positive = [value for value in self._values if value > 0]
        gaps = np.diff(self._values)
        self._first = positive[0] if positive else 1.0
        self.logarithmic = len(positive) > 2 and bool(gaps[-1] > 4 * np.median(gaps))

    def position(self, value: float) -> float:
        """Where a value lies on the axis."""
        return float(np.log10(1.0 + value / self._first)) if self.logarithmic else float(value)

    def axis(self, label: str, scale: str = "") -> Axis:
        """The axis, with ticks at values that are there and far enough apart to be read."""
        where = [self.position(value) for value in self._values]
        kept = spread_out(where, (where[-1] - where[0]) / MOST_TICKS)
        ticks = tuple((where[i], short_number(self._values[i])) for i in kept)
        return Axis(f"{label} (log scale)" if self.logarithmic else label, ticks, scale=scale)


def spread_out(positions: Sequence[float], gap: float) -> list[int]:
    """Indices of ascending positions at least `gap` apart; the last is among them."""
    kept: list[int] = []
    for index in reversed(range(len(positions))):
        if not kept or positions[kept[-1]] - positions[index] >= gap:
            kept.append(index)
    return kept[::-1]


def category_axis(label: str, names: Sequence[str], most: int = MOST_TICKS) -> Axis:
    """An axis of categories at 0, 1, 2, …, at most about `most` of them labelled."""
    kept = spread_out(range(len(names)), len(names) / most)
    return Axis(label, tuple((float(i), names[i]) for i in kept))


def short_number(value: float) -> str:
    """A count in few characters: 1200000 is 1.2M."""
    for size, suffix in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{suffix}"
    return f"{value:.4g}"


def arm_styles(arms: Iterable[str]) -> dict[str, ArmStyle]:
    """Colour and marker of each arm, by its place; beyond six arms they repeat in other combinations."""
    n = len(COLOURS)
    return {arm: ArmStyle(COLOURS[i % n], MARKERS[(i + i // n) % n]) for i, arm in enumerate(arms)}


def group_styles(groups: Mapping[str, Sequence[str]]) -> dict[str, ArmStyle]:
    """Colour and marker of each group and of each of its arms, which have its colour and markers of their own."""
    n = len(MARKERS)
    styles = arm_styles(groups)
    for group, arms in groups.items():
        first = MARKERS.index(styles[group].marker)
        for place, arm in enumerate(arms):
            styles[arm] = ArmStyle(styles[group].colour, MARKERS[(first + place) % n])
    return styles
