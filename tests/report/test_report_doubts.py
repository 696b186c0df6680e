"""What a sceptic asks of a run: is it the method, the routing, damage to the model; what is wrong with the training."""

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from test_report_build import Page

from gated_lpi.diagnosis import Diagnosis, Finding, examine
from gated_lpi.metrics import method_agreement, spearman_within
from gated_lpi.report import all_charts, build_report, load_results, plotly_figure
from gated_lpi.report.arms import Results
from gated_lpi.report.by_method import agreement_sentence, findings, method_name, sentences, verdict
from gated_lpi.report.claims import claims
from gated_lpi.report.doubt_tables import selectivity
from gated_lpi.report.doubts import damage
from gated_lpi.report.estimates import Estimate, ablation_damage
from gated_lpi.report.routing_share import routing_sentences
from gated_lpi.report.tables import show
from gated_lpi.report.tabulate import all_tables
from gated_lpi.report.token_routes import routes
from gated_lpi.results import Selectivity, SelectivityRow
from synthetic_run import DENSE, INTACT_LOSS, MOE, ArmPlan, SyntheticRun, record

SPLIT_ENDS = {"": 0.0, "_low": -0.05, "_high": 0.1}
TWICE = {"moe": replace(MOE, other={}, positions=True, damage=0.3), "dense": replace(DENSE, other={}, damage=0.1)}


def loaded(**plans: ArmPlan) -> Results:
    return load_results(SyntheticRun(Path("unused"), plans))


@pytest.fixture(scope="module", autouse=True)
def no_files() -> Iterator[None]:
    """Figures are drawn, but not as files."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gated_lpi.report.build.FORMATS", ())
        yield


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> SyntheticRun:
    return SyntheticRun(tmp_path_factory.mktemp("run"), TWICE)


@pytest.fixture(scope="module")
def results(run: SyntheticRun) -> Results:
    return load_results(run)


@pytest.fixture(scope="module")
def page(run: SyntheticRun) -> str:
    return build_report(run).html.read_text(encoding="utf-8").split("<body>")[1].split("<script>")[0]


def section(page: str, anchor: str) -> str:
    return page.split(f'<section id="{anchor}"')[1].split("</section>")[0]


def test_methods_that_say_the_same_are_said_to(results: Results) -> None:
    assert results.methods == ["lpi", "grad_x_act"]
    told = findings(results)
    assert {found.kind for found in told} == {"ffn", "attention"}
    assert {found.outcome for found in told} <= {"same", "none"}
    said = verdict(results)
    assert said is not None
    assert said.endswith("No finding depends on the method.")
    lines = list(sentences(results))
    assert any(line.startswith("FFN neurons, R_t: moe is ") for line in lines)
    assert not any("not told apart from" in line for line in lines)


def test_a_finding_that_the_method_turns_round_is_named() -> None:
    steep, even = {"spread": 1.8}, {"spread": 0.2}
    results = loaded(moe=replace(MOE, spread=0.2, other=steep), dense=replace(DENSE, spread=1.8, other=even))
    found = next(found for found in findings(results) if found.words == "R_t" and found.kind == "ffn")
    assert found.ways == {"lpi": "lower", "grad_x_act": "higher"}
    assert found.outcome == "opposite"
    assert "a finding of the method, not of the model" in str(verdict(results))
    line = next(sentence for sentence in sentences(results) if sentence.startswith("FFN neurons, R_t"))
    assert "moe is lower than dense by Gated-LPI from step 1 to step 200, " in line
    assert line.endswith("higher than dense by gradient times activation from step 1 to step 200.")


def test_a_finding_of_some_methods_only_is_not_called_reversed() -> None:
    alike = replace(DENSE, spread=1.0, other={"spread": 0.2})
    results = loaded(a=replace(alike, other={"spread": 1.8}), b=alike)
    assert "opposite" not in {found.outcome for found in findings(results) if found.words == "J_stab"}
    counted = re.findall(r"\d+", str(verdict(results)))
    total, *parts = map(int, counted)
    assert total == len(findings(results))
    assert sum(parts) == total


@pytest.mark.usefixtures("undrawn")
def test_one_method_alone_has_no_verdict(tmp_path: Path) -> None:
    results = loaded(moe=MOE, dense=DENSE)
    assert verdict(results) is None
    assert agreement_sentence(results) is None
    assert {"methods", "method_agreement"}.isdisjoint(all_charts(results))
    text = build_report(SyntheticRun(tmp_path, {"moe": MOE, "dense": DENSE})).html.read_text(encoding="utf-8")
    assert "Neurons were scored by Gated-LPI alone" in text


def test_one_checkpoint_by_two_methods_is_reported(tmp_path: Path) -> None:
    only = replace(MOE, steps=(5,), other={}, positions=True)
    files = build_report(SyntheticRun(tmp_path, {"only": only}))
    text = Page(files.html.read_text(encoding="utf-8")).text
    assert "only: there is one checkpoint, and no pair, so what routing alone explains cannot be said." in text
    assert "no measure of two groups has an interval by two of them" in text


def test_numbers_by_method_are_those_of_its_summary(run: SyntheticRun, results: Results) -> None:
    rows = {row[:3]: row for row in all_tables(run, results)["methods"].rows}
    for arm in results.arms:
        for method in results.methods:
            here = run.summary(arm.name, method).sel(kind="ffn")
            row = rows[arm.name, "FFN neurons", method_name(method)]
            assert row[3].value == float(here["stability"][-1])
            assert row[6].low == float(here["gain_top_set_low"][-1])
            assert row[8:] == (float(here["rho_avg"][0]), float(here["sigma_rel"][0]))


def test_every_method_has_a_row_of_panels_on_one_scale(results: Results) -> None:
    chart = all_charts(results)["methods"]
    assert chart.columns == 4
    assert [panel.title.split(":\n")[0] for panel in chart.panels] == ["Gated-LPI"] * 4 + [
        "gradient times activation"
    ] * 4
    assert len({panel.y.limits for panel in chart.panels}) == 1
    assert {line.group for panel in chart.panels for line in panel.lines} == {"moe", "dense"}
    figure = plotly_figure(chart)
    assert tuple(figure.layout.yaxis.range) == chart.panels[0].y.limits
    assert figure.layout.annotations[0].text == "Gated-LPI:<br>J_stab, FFN neurons"


def test_agreement_is_that_of_the_mean_scores(run: SyntheticRun, results: Results) -> None:
    scores = run.scores("moe")
    found = method_agreement(scores, ["lpi", "grad_x_act"], draws=30)
    ffn = scores["block"].to_numpy() == "ffn"
    by_hand = spearman_within(
        scores["lpi_mean"][3, ffn], scores["grad_x_act_mean"][3, ffn], scores["layer"].to_numpy()[ffn]
    )
    here = found.isel(comparison=0).sel(kind="ffn")
    assert float(here["spearman_within"][3]) == by_hand
    last = here.isel(checkpoint=-1)
    assert float(last["spearman_within_low"]) <= float(last["spearman_within"]) + 1e-9
    assert np.isnan(here["spearman_within_low"].to_numpy()[:-1]).all()
    assert found["method"].item() == "lpi"
    said = agreement_sentence(results)
    assert f"moe {float(results.arms[0].agreement['spearman_within'][0, 0, -1]):#.3g} [" in str(said)


def test_rankings_that_are_unrelated_agree_as_chance_does(run: SyntheticRun) -> None:
    scores = run.scores("dense").copy()
    random = np.random.default_rng(3)
    scores["grad_x_act_mean"] = scores["lpi_mean"].copy(data=random.standard_normal(scores["lpi_mean"].shape))
    found = method_agreement(scores.drop_vars("grad_x_act"), ["lpi", "grad_x_act"], fraction=0.25)
    ffn = found.sel(kind="ffn").isel(comparison=0)
    assert abs(float(ffn["spearman_within"].mean())) < 0.1
    assert float(ffn["overlap"].mean()) == pytest.approx(float(ffn["overlap_chance"]), abs=0.1)
    assert np.isnan(found["spearman_within_low"]).all()


def test_the_part_of_the_routing_is_the_summary_s(results: Results) -> None:
    summary = results.arms[0].summary.sel(kind="ffn")
    alone, observed = summary["stability_routing_null"], summary["stability"]
    moe, dense = routing_sentences(results)
    ends = [summary[f"stability_routing_null_{end}"] for end in ("low", "high")]
    share = Estimate(*(float(part.sum() / observed.sum()) for part in (alone, *ends)))
    assert share.low < share.value < share.high
    assert f"routing alone explains {show(share, 'share')} of J_stab" in moe
    assert f"have a J_stab of {show(float(alone[-1]), 'number')} [" in moe
    assert f"where {show(float(observed[-1]), 'number')} [" in moe
    assert "lies above what routing alone gives" in moe
    assert f"(chance {show(float(results.arms[0].summary['expert_stability_chance']), 'number')})" in moe
    assert dense == "Dense arms have no routing to tell from neurons: dense."


def test_sets_that_only_the_routing_keeps_are_not_told_from_it() -> None:
    results = loaded(moe=replace(MOE, spread=0.0, noise=20.0))
    (moe,) = routing_sentences(results)
    assert "The J_stab observed is not distinguishable from what routing alone gives." in moe


def test_arms_whose_scores_name_no_expert_say_so() -> None:
    found = loaded(moe=MOE)
    bare = found.arms[0].summary.drop_vars("expert_stability")
    (said,) = routing_sentences(replace(found, arms=(replace(found.arms[0], summary=bare),)))
    assert "its scores do not say which expert a neuron is of" in said


class Split(SyntheticRun):
    """A run whose changes were split."""

    def split(self, arm: str) -> xr.Dataset | None:
        steps = np.array(self.scores(arm)["step"])[1:]
        share = np.linspace(0.5, 0.1, steps.size)
        variables = {f"routing_share{end}": ("checkpoint", share + by) for end, by in SPLIT_ENDS.items()}
        return xr.Dataset(variables, {"step": ("checkpoint", steps)}) if arm == "moe" else None


def test_the_split_of_changes_is_said_and_drawn_where_there_is_one(run: SyntheticRun, results: Results) -> None:
    found = load_results(Split(run.path, {"moe": MOE, "dense": DENSE}))
    said = routing_sentences(found)
    assert "routing explains 10.0% [5.0, 20.0] at the last pair, 10.0% to 50.0% over 8 pairs." in said[1]
    (panel,) = all_charts(found)["routing_split"].panels
    assert [line.label for line in panel.lines] == ["moe"]
    assert panel.lines[0].hover[-1] == "moe, step 200"
    assert "routing_split" not in all_charts(results)
    assert len(routing_sentences(results)) == 2


def test_only_moe_arms_have_panels_of_the_routing_null(results: Results) -> None:
    chart = all_charts(results)["routing_null"]
    assert [panel.title for panel in chart.panels] == ["moe: J_stab", "moe: R_t"]
    labels = {line.label for line in chart.panels[0].lines}
    assert labels == {"moe", "moe, chance", "routing alone"}
    assert next(line for line in chart.panels[0].lines if line.label == "routing alone").low is not None


def test_ablations_by_every_ranking_are_kept_apart(run: SyntheticRun, results: Results) -> None:
    table = all_tables(run, results)["ablations"]
    moe = [row for row in table.rows if row[0] == "moe"]
    assert [row[2] for row in moe] == ["Gated-LPI"] * 3 + ["gradient times activation"] * 3
    drops = {(row[1], row[2]): row[7].value for row in moe}
    assert drops["top-1 head", "Gated-LPI"] < drops["top-1 head", "gradient times activation"]
    said = " ".join(claims(results)[2].sentences)
    assert "By gradient times activation, FFN neurons: The drop of recall without the top-" in said
    ticks = all_charts(results)["ablation"].panels[0].x.ticks
    assert [text.split("\n")[0] for _, text in ticks[:2]] == ["top-1 head", "top-1 head"]
    assert len(ticks) == 6


def test_drop_is_drawn_against_damage(results: Results) -> None:
    chart = all_charts(results)["damage"]
    heads, ffn = chart.panels
    chosen = next(line for line in heads.lines if line.label == "moe, by Gated-LPI")
    table = record("moe", TWICE["moe"]).ablation
    assert chosen.x == pytest.approx([row.text_loss - INTACT_LOSS for row in table.rows[:2]])
    control = next(line for line in ffn.lines if line.label == "moe, by Gated-LPI, random")
    assert len(control.x) == 10
    assert max(control.x) < min(chosen.x)
    assert "loss +0.3 nats" in chosen.hover[0]


def test_without_damage_there_is_no_chart_of_it(run: SyntheticRun) -> None:
    old = record("moe", replace(MOE))
    assert ablation_damage(old.ablation, old.ablation.rows[0]) is None
    assert damage({"moe": old, "none": None}).panels == ()
    results = loaded(moe=MOE)
    assert "damage" not in all_tables(run, results)


def test_tokens_and_their_experts_are_those_of_the_store(run: SyntheticRun, page: str) -> None:
    scores = run.scores("moe").isel(checkpoint=-1)
    found = routes(run.scores("moe"))
    assert [route.relation for route in found] == [f"relation {i}" for i in range(4)]
    assert [len(route.tokens) for route in found] == [4] * 4
    gates = scores["position_gate"][0, 2].to_numpy()
    layer = scores["expert_unit_layer"].to_numpy()
    expected = {(int(e), float(g)) for e, g in zip(scores["expert_unit_expert"], gates, strict=True) if g > 0}
    assert {pair for cell in found[0].tokens[2] for pair in cell} == expected
    assert found[0].layers == tuple(sorted(set(layer.tolist())))
    part = section(page, "routing")
    assert part.count("<details>") == 4
    assert "The &lt;b&gt;capital&lt;/b&gt; of &amp; \\u202e 0 is" in part
    expert, gate = found[0].tokens[0][0][0]
    assert f"L0 E{expert} ({gate:.2f})" in part


def test_long_prompts_and_many_experts_are_cut_short(run: SyntheticRun, results: Results) -> None:
    scores = (
        results.arms[0]
        .scores.isel(position=[0] * 100)
        .assign_coords(text=("prompt", ["x" * 999] * results.arms[0].scores.sizes["prompt"]))
    )
    scores["position_gate"] = scores["position_gate"].fillna(0.5) + 0.1
    many = replace(results, arms=(replace(results.arms[0], scores=scores),))
    table = all_tables(run, many)["routes_moe_1"]
    assert len(table.rows) == 64
    assert [table.rows[0][0], table.rows[-1][0]] == [36, 99]
    assert "the last 64 of 100 tokens" in table.caption
    assert len(table.caption) < 700
    wide = scores.isel(expert_unit=[0, 1, 2, 3, 0, 1]).assign_coords(
        expert_unit_layer=("expert_unit", [0] * 6), expert_unit_expert=("expert_unit", range(6))
    )
    table = all_tables(run, replace(many, arms=(replace(many.arms[0], scores=wide),)))["routes_moe_1"]
    assert table.rows[0][1].endswith(" and 2 more")


def test_utilisation_is_shown_by_relation_where_it_was_kept(run: SyntheticRun, results: Results) -> None:
    panel = all_charts(results)["utilisation_by_relation"].panels[1]
    assert panel.title == "moe: layer 1"
    kept = run.scores("moe")["expert_utilisation"][-1].to_numpy()[:, 4:8]
    assert panel.heat is not None
    assert panel.heat.values == pytest.approx(kept)
    assert "utilisation_by_relation" not in all_charts(loaded(moe=MOE))


def test_of_many_layers_a_few_are_drawn() -> None:
    deep = loaded(deep=replace(MOE, layers=9, positions=True, steps=(0, 1)))
    titles = [panel.title for panel in all_charts(deep)["utilisation_by_relation"].panels]
    assert titles == [f"deep: layer {layer}" for layer in (0, 4, 8)]


def test_what_is_wrong_is_listed_with_its_evidence(run: SyntheticRun, page: str) -> None:
    found = examine(run).findings
    part = section(page, "diagnosis")
    assert found
    for one in found:
        assert f"{one.arm}: {one.name}." in part
    assert part.count("<li>") == len(found)
    content = json.loads((run.path / "summary.json").read_text(encoding="utf-8"))
    assert [one["name"] for one in content["diagnosis"]["findings"]] == [one.name for one in found]
    assert set(content["by_method"]["moe"]) == {"lpi", "grad_x_act"}


@pytest.mark.usefixtures("undrawn")
def test_nothing_wrong_and_nothing_judged_are_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = build_report(SyntheticRun(tmp_path / "a", {"dense": DENSE})).html.read_text(encoding="utf-8")
    assert "None of expert collapse, routing instability and neuron churn was found." in text
    keys = tuple(f"step-{i}" for i in range(9))
    odd = Diagnosis((Finding("neuron churn", "dense", keys, 0.1, 0.2, "late <i>churn</i>"),), ("dense: too <few>",))
    monkeypatch.setattr("gated_lpi.report.build.examine", lambda _: odd)
    text = build_report(SyntheticRun(tmp_path / "b", {"dense": DENSE})).html.read_text(encoding="utf-8")
    assert (
        "Late &lt;i&gt;churn&lt;/i&gt;. Measured 0.100, threshold 0.200; checkpoints: step-0 to step-8 (9 of them)."
        in text
    )
    assert "Not judged: dense: too &lt;few&gt;." in text


def test_rankings_are_compared_where_all_do_the_same_damage(results: Results) -> None:
    def row(method: str, share: float, logprob: float, text_loss: float) -> SelectivityRow:
        silenced = {"hit_k": 0.5, "logprob": logprob, "text_loss": text_loss, "other_logprob": -3.5}
        return SelectivityRow(method=method, share=share, count=4, silenced=silenced, same_layers={"text_loss": (3.1,)})

    found = Selectivity(
        ranked=("a",),
        others=("b",),
        intact={"hit_k": 1.0, "logprob": -2.0, "text_loss": 3.0, "other_logprob": -3.0},
        rows=(
            row("lpi", 0.1, -3.0, 3.2),
            row("lpi", 0.2, -6.0, 3.6),
            row("grad_x_act", 0.1, -5.0, 3.4),
            row("grad_x_act", 0.2, -6.0, 3.3),
        ),
    )
    arm = replace(results.arms[0], record=record("moe", MOE).model_copy(update={"selectivity": found}))
    table = selectivity(replace(results, arms=(arm,)))
    shown = [dict(zip(range(len(table.columns)), cells, strict=True)) for cells in table.rows]
    assert [cells[13] for cells in shown] == ["2.50 at +0.400"] * 2 + ["3.00 at +0.400"] * 2  # 1 + (4 - 1) / 2
    assert (shown[0][3], shown[0][4], shown[0][9], shown[0][10]) == (1.0, 0.5, 1.0, 0.5)
    assert (shown[0][11], shown[0][12]) == (pytest.approx(0.2), pytest.approx(0.1))
    assert np.isnan(shown[0][6])
    harmless = found.model_copy(update={"rows": (*found.rows, row("direct_effect", 0.1, -3.0, 2.9))})
    arm = replace(arm, record=arm.record.model_copy(update={"selectivity": harmless}))
    assert {cells[13] for cells in selectivity(replace(results, arms=(arm,))).rows} == {None}
