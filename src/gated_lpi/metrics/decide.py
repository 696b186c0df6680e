"""The verdict on a claim about two arms: supported, contradicted, or undecided with what would decide it.

Given are a difference d (first arm less second), its interval, and the smallest difference of interest δ: less than
that would be no finding, whatever its p-value. δ = 0 asks for the direction alone.

| claimed | supported | contradicted |
|---|---|---|
| greater | the interval is above 0 and d ≥ δ | the interval is below δ (δ = 0: below 0) |
| smaller | the same of −d | the same of −d |
| different | the interval does not hold 0 and |d| ≥ δ | the interval lies within (−δ, δ); never for δ = 0 |
| same | the interval lies within (−δ, δ) | it does not hold 0 and |d| ≥ δ |

All else is undecided: a wide interval says nothing, least of all that there is no difference. What would decide is the
number of replicates with which a true difference as large as the one seen (or, where d falls short of δ, a true
distance from δ as large as that) is found with a power of 0.8, by comparisons.py.

**Over time** the interval is a simultaneous band: "greater", "smaller" and "different" claim it of some checkpoint, and
are contradicted only where all checkpoints contradict them; "same" claims it of all and is contradicted by one.

**What the interval is over.** A claim about arms is one about other seeds as well. An interval over relations alone
(one replicate) cannot decide it, whatever it holds, and the verdict is undecided; `about="runs"` asks about these runs
alone. **Families of comparisons**: with an adjusted p-value (`holm`), a difference counts as not 0 only if that is
below alpha too.
"""

from typing import Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import ArrayLike

from gated_lpi.errors import OptionError
from gated_lpi.metrics._arrays import BoolArray, FloatArray, open_unit_interval
from gated_lpi.metrics.bands import Band
from gated_lpi.metrics.comparisons import GroupDifference, replicates_needed
from gated_lpi.metrics.hierarchical import Over

Claimed = Literal["greater", "smaller", "different", "same"]
Verdict = Literal["supported", "contradicted", "undecided"]

_POWER = 0.8


class Decision(NamedTuple):
    """What a difference says of a claim.

    Attributes:
        verdict: "supported", "contradicted" or "undecided".
        detail: why, in words and numbers.
        would_decide: what it would take, in words; "" where it is decided.
        replicates_needed: in each arm (or pairs); None where it is decided, or cannot be told.
    """

    verdict: Verdict
    detail: str
    would_decide: str
    replicates_needed: int | None


class DecisionOverTime(NamedTuple):
    """What a difference over checkpoints says of a claim.

    Attributes:
        verdict, detail, would_decide, replicates_needed: as in `Decision`.
        first, last: steps of the first and last checkpoint that carries the verdict: that supports, or (of "same")
            contradicts; None where none does.
        greatest: step of the greatest difference among those, or among all checkpoints where there is none.
        difference, low, high: there.
    """

    verdict: Verdict
    detail: str
    would_decide: str
    replicates_needed: int | None
    first: int | None
    last: int | None
    greatest: int | None
    difference: float
    low: float
    high: float


def decide(
    difference: float,
    low: float,
    high: float,
    *,
    claimed: Claimed,
    smallest: float = 0.0,
    sd: float | None = None,
    paired: bool = False,
    replicates: int | None = None,
    over: Over = "replicates",
    about: Literal["arms", "runs"] = "arms",
    p_adjusted: float | None = None,
    comparisons: int = 1,
    alpha: float = 0.05,
) -> Decision:
    """The verdict on a claim about a difference.

    Args:
        difference, low, high: the first arm less the second, with its interval; NaN where there is none.
        claimed: that the first is greater, smaller, or different, or that both are the same.
        smallest: the smallest difference of interest, δ, 0 or more, in the unit of the difference.
        sd: standard deviation of replicates within an arm (of pairs: of their differences), for what would decide.
        paired: whether replicates come in pairs.
        replicates: how many there were in the smaller arm, to tell whether more of them would help.
        over: what the interval is over.
        about: whether the claim is about arms, or about these runs alone.
        p_adjusted: the p-value of the difference after Holm, if it is one of a family.
        comparisons: in that family, for what would decide.
        alpha: what p must be below.

    Raises:
        OptionError: a claim of another kind, `smallest` below 0 or 0 for "same", or an interval upside down.
    """
    _checked(claimed, smallest, alpha)
    if low > high:
        raise OptionError(f"the interval runs from {low} to {high}; expected the lower end first.")
    if np.isnan([difference, low, high]).any():
        return Decision("undecided", "there is no interval", _more(over), None)
    seen = f"{difference:+.3g} [{low:+.3g}, {high:+.3g}]"
    if over != "replicates" and about == "arms":
        return Decision("undecided", f"{seen}, over {over} alone: other seeds were not seen", _more(over), None)
    sure = p_adjusted is None or p_adjusted < alpha
    d, lower, upper = (np.array([end], dtype=np.float64) for end in (difference, low, high))
    supported, contradicted = _judged(d, lower, upper, claimed, smallest, sure)
    if supported[0] or contradicted[0]:
        return Decision(
            "supported" if supported[0] else "contradicted",
            f"{seen}{_why(difference, low, high, claimed, smallest, bool(supported[0]))}",
            "",
            None,
        )
    detail = f"{seen} holds too much" if sure else f"{seen}, and p is {p_adjusted:.2g} after Holm"
    text, needed = _takes(_distance(difference, claimed, smallest), sd, paired, replicates, comparisons, alpha)
    return Decision("undecided", detail, text, needed)


def decide_groups(
    found: GroupDifference,
    *,
    claimed: Claimed,
    smallest: float = 0.0,
    p_adjusted: float | None = None,
    comparisons: int = 1,
    alpha: float = 0.05,
) -> Decision:
    """The verdict on a claim about two groups of replicates, as `compare_groups` compared them.

    Args:
        found: the comparison; its level should be 1 − alpha.
        claimed, smallest, p_adjusted, comparisons, alpha: as in `decide`.

    Raises:
        OptionError: as in `decide`.
    """
    return decide(
        found.difference,
        found.low,
        found.high,
        claimed=claimed,
        smallest=smallest,
        sd=found.sd,
        paired=len(found.replicates) == 1,
        replicates=min(found.replicates),
        p_adjusted=p_adjusted,
        comparisons=comparisons,
        alpha=alpha,
    )


def decide_over_time(
    band: Band,
    steps: ArrayLike,
    *,
    claimed: Claimed,
    smallest: float = 0.0,
    sd: ArrayLike | None = None,
    paired: bool = False,
    replicates: int | None = None,
    about: Literal["arms", "runs"] = "arms",
    alpha: float = 0.05,
) -> DecisionOverTime:
    """The verdict on a claim about the difference of two trajectories.

    Args:
        band: of the difference, first arm less second, such as `hierarchical_difference_band`; undefined checkpoints
            are left out.
        steps: [K], of the checkpoints.
        claimed: "greater", "smaller" or "different" at some checkpoint; "same" at all.
        smallest: the smallest difference of interest, 0 or more.
        sd: [K], standard deviation of replicates at each checkpoint, for what would decide; the number of checkpoints
            counts as that of comparisons, which asks for more than a band does.
        paired, replicates, about, alpha: as in `decide`.

    Raises:
        OptionError: as in `decide`, or steps or sd of another length than the band.
    """
    _checked(claimed, smallest, alpha)
    at = np.asarray(steps)
    spread = None if sd is None else np.asarray(sd, dtype=np.float64)
    if at.shape != band.estimate.shape or (spread is not None and spread.shape != at.shape):
        raise OptionError(
            f"steps has shape {at.shape}; expected one step, and one sd, for each of {band.estimate.size} checkpoints."
        )
    kept = np.flatnonzero(~np.isnan(band.low) & ~np.isnan(band.high))
    nan = float("nan")
    if not kept.size:
        return DecisionOverTime(
            "undecided", "there is no band", _more(band.over), None, None, None, None, nan, nan, nan
        )
    d, low, high = band.estimate[kept], band.low[kept], band.high[kept]
    supported, contradicted = _judged(d, low, high, claimed, smallest, True)
    if claimed == "same":
        verdict: Verdict = "contradicted" if contradicted.any() else "supported" if supported.all() else "undecided"
        carries = contradicted
    else:
        verdict = "supported" if supported.any() else "contradicted" if contradicted.all() else "undecided"
        carries = supported
    size = {"greater": d, "smaller": -d}.get(claimed, np.abs(d))
    greatest = int(np.argmax(np.where(carries, size, -np.inf) if carries.any() else size))
    places = np.flatnonzero(carries)
    first, last = (int(at[kept[places[0]]]), int(at[kept[places[-1]]])) if places.size else (None, None)
    step = int(at[kept[greatest]])
    seen = f"greatest at step {step}: {d[greatest]:+.3g} [{low[greatest]:+.3g}, {high[greatest]:+.3g}]"
    where = f"{places.size} of {kept.size} checkpoints, steps {first} to {last}; " if places.size else ""
    detail = where + seen + _turned(low, high, at[kept], claimed)
    text, needed = "", None
    if band.over != "replicates" and about == "arms":
        verdict, detail, text = (
            "undecided",
            f"{detail}; over {band.over} alone: other seeds were not seen",
            _more(band.over),
        )
    elif verdict == "undecided":
        one = None if spread is None else float(spread[kept[greatest]])
        distance = _distance(float(d[greatest]), claimed, smallest)
        text, needed = _takes(distance, one, paired, replicates, kept.size, alpha)
    return DecisionOverTime(
        verdict,
        detail,
        text,
        needed,
        first,
        last,
        step,
        float(d[greatest]),
        float(low[greatest]),
        float(high[greatest]),
    )


def _checked(claimed: str, smallest: float, alpha: float) -> None:
    if claimed not in get_args(Claimed):
        raise OptionError(f"claimed is {claimed!r}; expected one of {', '.join(get_args(Claimed))}.")
    if not smallest >= 0 or (claimed == "same" and smallest == 0):
        raise OptionError(
            f"smallest is {smallest} for {claimed!r}; expected the smallest difference of interest, 0 or more, and "
            "above 0 for 'same': no data show that there is no difference at all."
        )
    open_unit_interval("alpha", alpha)


def _judged(
    d: FloatArray, low: FloatArray, high: FloatArray, claimed: str, smallest: float, sure: bool
) -> tuple[BoolArray, BoolArray]:
    """Where a claim is supported, and where it is contradicted, [K] each."""
    if claimed == "smaller":
        d, low, high = -d, -high, -low
    if claimed in ("greater", "smaller"):
        below = (high < 0) & sure
        return (low > 0) & (d >= smallest) & sure, high < smallest if smallest > 0 else below
    differs = ((low > 0) | (high < 0)) & (np.abs(d) >= smallest) & sure
    within = (-smallest < low) & (high < smallest)
    return (within, differs) if claimed == "same" else (differs, within)


def _why(d: float, low: float, high: float, claimed: str, smallest: float, supported: bool) -> str:
    """What of the interval decided, in words."""
    within = -smallest < low and high < smallest
    if within:
        return f": no difference of {smallest:.3g}"
    if supported or claimed == "same":
        return f": at least {smallest:.3g} throughout" if smallest > 0 and min(abs(low), abs(high)) >= smallest else ""
    return ": the other way round" if (d < 0) == (claimed == "greater") else f": not {smallest:.3g} {claimed}"


def _turned(low: FloatArray, high: FloatArray, steps: FloatArray, claimed: str) -> str:
    """Where a directed claim is turned round, in words."""
    opposite = {"greater": high < 0, "smaller": low > 0}.get(claimed)
    if opposite is None or not opposite.any():
        return ""
    at = steps[opposite]
    return f"; the other way round at {at.size} of {steps.size} checkpoints, steps {int(at[0])} to {int(at[-1])}"


def _distance(d: float, claimed: str, smallest: float) -> float:
    """How far the truth would be from what has to be excluded, if it were the difference that was seen."""
    size = {"greater": d, "smaller": -d}.get(claimed, abs(d))
    return size if size >= smallest else smallest - size


def _more(over: Over) -> str:
    return "two or more replicates of each arm" if over != "replicates" else "more replicates in which it is defined"


def _takes(
    distance: float, sd: float | None, paired: bool, replicates: int | None, comparisons: int, alpha: float
) -> tuple[str, int | None]:
    """What it would take to decide, in words, and how many replicates; None where it cannot be told."""
    if sd is None or not sd > 0:
        return "more replicates; how many depends on their standard deviation, which is not known", None
    needed = replicates_needed(distance, sd, paired=paired, alpha=alpha, comparisons=comparisons, power=_POWER)
    if needed is None:
        return f"nothing within reach: more than 10,000 replicates for a difference of {distance:.3g}", None
    if replicates is not None and needed <= replicates:
        return (
            f"not replicates as such: by their spread {needed} would do; more relations, if the interval is over "
            "those, or arms of equal numbers",
            None,
        )
    each = "pairs of replicates" if paired else "replicates of each arm"
    return f"{needed} {each}, for a difference of {distance:.3g} with a power of {_POWER}", needed
