"""What is said and shown first: sentences with effects, the clearest contrast, axes that can be read together."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from gated_lpi.claims.words import MINUS, finding_sentence, interval, leading, written
from gated_lpi.report import all_charts, load_results, plotly_figure
from gated_lpi.report.against_chance import against_chance
from gated_lpi.report.arms import Results
from gated_lpi.report.by_method import verdict
from gated_lpi.report.chart import ArmStyle, Axis, Bars, Chart, Heat, Line, Panel, group_styles
from gated_lpi.report.chart_words import described
from gated_lpi.report.contrast import _drawn, contrast, strongest
from gated_lpi.report.estimates import Estimate
from gated_lpi.report.lead import by_method, one_sentence, recalled
from gated_lpi.report.shared_axes import alike
from gated_lpi.report.tables import show
from synthetic_run import DENSE, MOE, STEPS, ArmPlan, SyntheticRun

MEASURED = ("stability", "gain_top_set")
LOOK = ArmStyle("#000000", "circle")


@pytest.fixture(scope="module")
def results() -> Results:
    steps = tuple(1234 * step for step in STEPS)  # in figures as 1.23k
    plans = {"moe": replace(MOE, spread=1.6), "dense": DENSE, "total": replace(DENSE, width=80)}
    plans = {name: replace(plan, steps=steps) for name, plan in plans.items()}
    return load_results(SyntheticRun(Path("unused"), plans))


def line(y: tuple[float, ...], label: str = "a", **more: object) -> Line:
    x = tuple(float(i) for i in range(len(y)))
    hover = tuple(f"{label}, step {10 * i}" for i in range(len(y)))
    return Line(label, label, LOOK, x, y, hover, **more)  # type: ignore[arg-type]


def test_a_claim_s_sentence_has_the_effect_against_each_dense_group(results: Results) -> None:
    finding = results.judged[0].findings[0]
    said = one_sentence(finding)
    for pair in finding.pairs:
        told = finding.of(*pair)
        answer = finding.against(*pair)
        one = leading(told, answer)
        assert answer == "supported"
        assert f"in moe than in {pair[1]}" in said
        assert interval(one, one.greatest(), size=True) in said
    assert said.endswith(".")
    assert said.count(". ") == 0  # one sentence


def untold(results: Results, low: float, high: float) -> Results:
    """The results with every difference between these ends, and none that survives Holm's correction for 7."""
    judged = []
    for one in results.judged:
        findings = []
        for finding in one.findings:
            compared = [
                replace(
                    of,
                    contrast=of.contrast._replace(
                        low=np.full_like(of.contrast.low, low), high=np.full_like(of.contrast.high, high)
                    ),
                    adjusted=0.2,
                    family=7,
                )
                for of in finding.comparisons
            ]
            findings.append(replace(finding, comparisons=tuple(compared)))
        judged.append(replace(one, findings=tuple(findings)))
    return replace(results, judged=tuple(judged))


def test_a_band_without_0_that_decides_nothing_is_said_to_be_corrected(results: Results) -> None:
    why = ", whose band leaves 0 out only before Holm's correction for 7 measures (p = 0.2)"
    for low, high, said in ((0.25, 0.5, True), (-0.5, -0.25, True), (-0.25, 0.5, False)):
        shown = untold(results, low, high)
        finding = shown.judged[0].findings[0]
        assert (why in one_sentence(finding)) == said
        assert (why in finding_sentence(finding)) == said
        assert (why in contrast(shown).caption) == said
        assert "told apart: the greatest difference is" in contrast(shown).caption
    assert why not in one_sentence(results.judged[0].findings[0])


def test_the_method_is_not_judged_by_no_difference() -> None:
    plans = {"moe": replace(MOE, spread=1.6, other={"spread": 1.6}), "dense": replace(DENSE, other={"spread": 0.5})}
    found = load_results(SyntheticRun(Path("unused"), plans))
    told, none = by_method(found), by_method(untold(found, -1.0, 1.0))
    assert told is not None
    assert none is not None
    assert told.verdict != "Cannot be told"
    assert (none.verdict, none.tone) == ("Cannot be told", "undecided")
    assert "0 " not in none.sentence.replace("from 0 ", "")
    assert str(verdict(untold(found, -1.0, 1.0))).startswith("It cannot be told: ")
    assert not str(verdict(found)).startswith("It cannot be told")


def test_no_zero_is_negative() -> None:
    assert written(-0.04, "factors") == "0.0"
    assert written(-0.0004, "share", signed=True) == "+0.0"
    assert written(-0.06, "factors") == f"{MINUS}0.1"
    assert show(Estimate(-0.0, -0.0, 0.5), "share") == "0.0% [0.0, 50.0]"


def test_recall_below_what_is_reliable_is_no_yes(results: Results) -> None:
    assert recalled(results).verdict == "Yes"
    forgetful = load_results(SyntheticRun(Path("unused"), {"moe": replace(MOE, recall=0.5), "dense": DENSE}))
    assert recalled(forgetful).verdict == "Not all"
    assert "50.0%" in recalled(forgetful).sentence


def test_the_figure_is_of_the_difference_of_most_standard_errors(results: Results) -> None:
    one = strongest(results)
    assert one is not None
    assert one.told
    rivals = [
        other
        for judged in results.judged
        for other in judged.comparisons
        if judged.facts == "all" and other.measure.over_time and other.measure.counted and other.told
    ]

    def errors(compared):  # type: ignore[no-untyped-def]
        place = compared.greatest()
        return abs(compared.contrast.estimate[place]) / compared.contrast.error[place]

    assert errors(one) == pytest.approx(max(map(errors, rivals)))
    chart = contrast(results)
    (panel,) = chart.panels
    assert {"moe", "dense", "total"} <= {line.label for line in panel.lines}
    marks = next(line for line in panel.lines if line.label.startswith("moe, told from"))
    assert len(marks.x) == int((one.higher | one.lower).sum())
    assert interval(one, one.greatest(), size=True) in chart.title
    assert ("ands: pointwise" in chart.caption) == any(line.low is not None for line in panel.lines)
    assert ("ashed: chance" in chart.caption) == any(line.drawn == "dashed" for line in panel.lines)


def test_only_what_is_drawn_is_explained() -> None:
    axis = Axis("")
    line = Line("a", "a", LOOK, (0.0,), (1.0,), ("",))
    assert _drawn(Panel("", axis, axis, (line,))) == ""
    assert (
        _drawn(Panel("", axis, axis, (replace(line, low=(0.0,), high=(2.0,)),))) == "Bands: pointwise 95% intervals. "
    )
    assert _drawn(Panel("", axis, axis, (replace(line, drawn="dashed"),))) == "Dashed: chance. "


def test_one_arm_alone_has_no_contrast() -> None:
    only = load_results(SyntheticRun(Path("unused"), {"moe": MOE}))
    assert strongest(only) is None
    assert contrast(only).panels == ()


def clear(summary: xr.Dataset, name: str) -> float:
    """How far a measure's intervals are above chance, as a share of the room there, mean over pairs."""
    here = summary.sel(kind="ffn")
    above = np.minimum(here[f"{name}_low"], here[name]) - here[f"{name}_chance"]
    return float((above.clip(min=0) / (1 - here[f"{name}_chance"])).mean())


@pytest.mark.parametrize("plan", [MOE, replace(DENSE, spread=2.5, noise=2.0), replace(DENSE, spread=0.2, noise=0.05)])
def test_one_arm_alone_is_shown_against_chance(plan: ArmPlan) -> None:
    only = load_results(SyntheticRun(Path("unused"), {"only": plan}))
    chart = next(iter(all_charts(only).values()))
    assert chart.name == "against_chance"
    (panel,) = chart.panels
    curve, chance = panel.lines
    summary = only.arms[0].summary
    parted = {name: clear(summary, name) for name in ("stability", "gain_top_set")}
    assert parted["stability"] != parted["gain_top_set"]
    name, label = max((("stability", "J_stab"), ("gain_top_set", "R_t")), key=lambda one: parted[one[0]])
    assert panel.y.label == label
    assert curve.y == pytest.approx(summary[name].sel(kind="ffn").to_numpy())
    assert curve.low is not None
    assert chance.label == "only, chance"
    assert chart.caption.count(".") == 1
    assert f"({label}), over training: FFN neurons, by Gated-LPI" in chart.caption
    told = int((np.minimum(curve.low, curve.y) > np.array(chance.y)).sum())
    said = "every checkpoint" if told == len(curve.y) else f"{told} of {len(curve.y)} checkpoints"
    assert chart.title.startswith(f"{label}: above chance at {said}, ")
    assert chart.title.endswith(" at step 200")
    assert described(chart).startswith("only ")


def test_what_is_not_told_from_chance_is_not_said_to_be() -> None:
    only = load_results(SyntheticRun(Path("unused"), {"only": DENSE}))
    arm = only.arms[0]
    ends = {"_low": -1, "_high": 1}
    wide = {f"{name}{end}": arm.summary[name] + shift for name in MEASURED for end, shift in ends.items()}
    chart = against_chance(replace(only, arms=(replace(arm, summary=arm.summary.assign(wide)),)))
    assert ": nowhere told from chance, " in chart.title
    bare = arm.summary.drop_vars([f"{name}_low" for name in MEASURED])
    assert against_chance(replace(only, arms=(replace(arm, summary=bare),))).panels == ()


def test_of_groups_that_are_not_compared_all_are_shown_and_one_is_named() -> None:
    two = load_results(SyntheticRun(Path("unused"), {"one": DENSE, "other": replace(DENSE, noise=3.0)}))
    chart = against_chance(replace(two, judged=()))
    assert {line.label for line in chart.panels[0].lines} == {"one", "one, chance", "other", "other, chance"}
    assert " of one: above chance at " in chart.title


def test_axes_of_one_scale_begin_and_end_alike() -> None:
    panels = (
        Panel("one", Axis("step", scale="step"), Axis("J", scale="J"), (line((0.2, 0.4)),)),
        Panel(
            "two",
            Axis("step", scale="step"),
            Axis("J", scale="J"),
            (line((0.1, 0.9, math.nan), low=(0.0, 0.8, 0.8), high=(0.2, 1.0, 1.0)),),
        ),
        Panel("own", Axis("step", scale="step"), Axis("H"), (line((5.0,)),)),
    )
    one, two, own = alike(Chart("c", "", "", panels)).panels
    assert one.y.limits == two.y.limits == pytest.approx((-0.04, 1.04))
    assert one.x.limits == two.x.limits == own.x.limits == pytest.approx((-0.08, 2.08))
    assert own.y.limits is None


def test_all_small_multiples_share_their_axes(results: Results) -> None:
    shared = 0
    for chart in all_charts(results).values():
        for way in ("x", "y"):
            limits: dict[str, set[object]] = {}
            for panel in chart.panels:
                axis = getattr(panel, way)
                if axis.scale and panel.lines:
                    limits.setdefault(axis.scale, set()).add(axis.limits)
                    values = [v for one in panel.lines for v in getattr(one, way) if np.isfinite(v)]
                    assert axis.limits is None or axis.limits[0] <= min(values) <= max(values) <= axis.limits[1]
            assert all(len(found) == 1 for found in limits.values())
            shared += sum(found != {None} for found in limits.values())
    assert shared > 10
    drawn = plotly_figure(all_charts(results)["stability"]).layout
    assert drawn.yaxis2.matches == "y"
    assert drawn.xaxis2.matches == "x"
    assert drawn.xaxis3.matches is None  # tokens are no steps


def test_replicates_have_their_group_s_colour() -> None:
    styles = group_styles({"moe": ("moe-0", "moe-1"), "dense": ("dense",)})
    assert styles["moe"].colour == styles["moe-0"].colour == styles["moe-1"].colour != styles["dense"].colour
    assert styles["moe-0"] != styles["moe-1"]
    assert len({style.marker for style in (styles["moe-0"], styles["moe-1"])}) == 2


def test_charts_are_told_in_words() -> None:
    lines = (line((0.1, 0.75, 0.5), "a"), line((math.nan, 0.25), "b"), line((0.0, 0.0), "a, chance", in_legend=False))
    heat = Heat(np.array([[0.0, 1.5], [-2.0, np.nan]]), ("layer 0", "layer 1"), ("step 0", "step 5"), (-2, 2), "nats")
    bars = Bars("blocks", (0.0, 1.0, 2.0), (-6.0, -5.0, -2.0), (-5.0, -2.0, -2.5), ("FFN 0", "attention 1", "FFN 1"))
    level = Bars("parts", (0.0, 1.0), (0.0, 0.0), (0.0, math.nan), ("E0", "E1"))
    panels = (
        Panel("R_t", Axis("step"), Axis("share", percent=True), lines),
        Panel("map", Axis("step"), Axis("layer"), heat=heat),
        Panel("", Axis("block"), Axis("nats"), bars=(bars, level)),
    )
    assert described(Chart("c", "", "", panels)) == (
        "R_t: a 10% at step 0, 50% at step 20, highest 75% at step 10; b 25% at step 10. "
        "map: nats from -2 to 1.5, greatest at layer 0, step 5. "
        "blocks rise most by 3 at attention 1, fall most by 0.5 at FFN 1; parts are all 0."
    )
