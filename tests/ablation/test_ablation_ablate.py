"""Ablation from facts to a table: every figure again by hand, every family, curves, rankings, and what is refused."""

from contextlib import nullcontext

import numpy as np
import pytest
import xarray as xr

import gated_lpi
from gated_lpi import ablate, attribute
from gated_lpi.ablation import recall, silenced, target_ranks, target_scores, text_loss, text_windows
from gated_lpi.errors import OptionError
from gated_lpi.facts import FactSet, Relation, Sample, encode
from gated_lpi.interventions import record_coefficients, record_routing, replayed
from gated_lpi.metrics import drop_at_damage_interval, faithfulness_intervals
from gated_lpi.prompting import encode_facts
from gated_lpi.trace import last_logits
from tiny_models import CASES, MOE_CASES, tiny_model
from tiny_text import CAPITALS, COLOURS, FACTS, WORDS, speaking_model

QUICK = {"draws": 2, "k": 3}


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    file = tmp_path_factory.mktemp("text") / "words.txt"
    file.write_text(" ".join(WORDS * 3))
    return file


@pytest.fixture(scope="module")
def moe():
    return speaking_model("Qwen2-MoE")


def by_hand(model, prompts, text, units, k=3, **options):
    """Every figure with these units silenced, from logits."""
    encoded = encode(model.tokenizer, prompts)
    with silenced(model, units, **options):
        logits = last_logits(model, [item.ids for item in encoded]).double()
        loss = text_loss(model, text_windows(model, text.read_text()))
    targets = [item.target_id for item in encoded]
    own = np.array([float(row[target]) for row, target in zip(logits, targets, strict=True)])
    others = np.array(
        [max(row.tolist()[:target] + row.tolist()[target + 1 :]) for row, target in zip(logits, targets, strict=True)]
    )
    logprob = logits.log_softmax(-1)[range(len(targets)), targets].numpy()
    ranks = np.array([(row > row[target]).sum() for row, target in zip(logits, targets, strict=True)])
    return {
        "hit_1": (ranks < 1).mean(),
        "hit_k": (ranks < k).mean(),
        "logprob": logprob.mean(),
        "margin": (own - others).mean(),
        "text_loss": loss,
    }


@pytest.mark.parametrize("case", CASES, ids=str)
def test_named_units_and_heads_by_hand(case, text):
    model = speaking_model(case)
    label = model.label(len(model.units) - 3)
    found = ablate(model, FACTS, units=[label, 2], heads=["L1 H2"], text=text, templates="all", **QUICK)
    silent = np.array([len(model.units) - 3, 2, *model.head_units(6)])
    prompts = FACTS.prompts("all")
    for suffix, units in (("", silent), ("_intact", silent[:0])):
        for name, value in by_hand(model, prompts, text, units).items():
            assert float(found[f"{name}{suffix}"].squeeze()) == pytest.approx(value, abs=1e-5), name
    assert found["row"].values.tolist() == [f"layer 1 head 2, layer 0 head 0 neuron 2, {label}"]
    assert int(found["n_units"][0]) == len(silent)
    assert np.isnan(found["share"]).all()
    assert np.isnan(found["other_hit_k"]).all()
    assert found["hit_k_control"].dims == ("row", "control", "draw")
    assert np.isfinite(found["text_loss_control"]).all()
    assert found["target_rank"].shape == (1, len(prompts))
    assert found["relation"].values.tolist() == [prompt.relation for prompt in prompts]


def test_shares_of_a_ranking_make_a_curve(moe, text):
    scores = attribute(moe, FACTS)
    found = ablate(moe, FACTS, scores=scores, share=(0.05, 0.5, 1.0), text=text, controls=(), **QUICK)
    importance = scores["lpi"].mean("prompt").to_numpy()
    ffn = np.flatnonzero(moe.units.block == "ffn")
    order = ffn[np.argsort(-importance[ffn], kind="stable")]
    for row, share in enumerate((0.05, 0.5, 1.0)):
        count = int(np.ceil(share * len(ffn)))
        expected = by_hand(moe, FACTS.prompts("first"), text, order[:count])
        assert {name: float(found[name][row]) for name in expected} == pytest.approx(expected, abs=1e-5)
    assert found["row"].values.tolist() == ["top 5% ffn units", "top 50% ffn units", "top 100% ffn units"]
    assert found.attrs["ranked"] == "ffn units by lpi"
    assert "hit_k_control" not in found


def test_all_but_the_top_share_gives_faithfulness(moe, text):
    scores = attribute(moe, FACTS)["lpi"]
    found = ablate(
        moe, FACTS, scores=scores, kind="all", share=(0, 0.1, 0.5), complement=True, text=text, controls=(), **QUICK
    )
    everything = by_hand(moe, FACTS.prompts("first"), text, np.arange(len(moe.units)))
    assert float(found["logprob"][0]) == pytest.approx(everything["logprob"], abs=1e-5)
    assert found["n_units"].values.tolist() == [
        len(moe.units) - int(np.ceil(share * len(moe.units))) for share in (0, 0.1, 0.5)
    ]
    areas = faithfulness_intervals(
        found["share"][1:],
        found["target_logprob"][1:].T,
        found["target_logprob_intact"],
        found["target_logprob"][0],
        draws=20,
    )
    assert np.isfinite([areas.cpr.estimate, areas.cpr.low, areas.cmd.high]).all()


def test_drops_at_equal_damage_follow_from_a_curve(moe, text):
    scores = attribute(moe, FACTS, method=gated_lpi.GradientTimesActivation())
    found = ablate(moe, FACTS, scores=scores, share=(0.05, 0.2, 0.5, 1.0), text=text, controls=(), **QUICK)
    assert found.attrs["ranked"] == "ffn units by grad_x_act"
    damage = found["text_loss"] - found["text_loss_intact"]
    drop = (found["target_logprob_intact"] - found["target_logprob"]).transpose("prompt", "row")
    greatest = float(damage.max())
    assert greatest > 0
    at_equal = drop_at_damage_interval(damage, drop, at=[0.0, greatest], draws=20)
    assert at_equal.estimate.tolist() == pytest.approx([0.0, float(drop.mean("prompt")[int(np.argmax(damage.values))])])


def test_relations_that_were_not_ranked_are_the_others(moe, text):
    scores = attribute(moe, FactSet((CAPITALS,), "test"))
    found = ablate(moe, FACTS, scores=scores, share=0.5, text=text, controls=(), **QUICK)
    assert set(found["relation"].values.tolist()) == {"capital"}
    assert found.attrs["n_other"] == 2
    given = ablate(
        moe, FactSet((CAPITALS,), "t"), scores=scores, share=0.5, others=FactSet((COLOURS,), "t"), text=text, **QUICK
    )
    for name in ("hit_1", "hit_k", "logprob"):
        assert float(found[f"other_{name}"][0]) == float(given[f"other_{name}"][0])
        assert np.isfinite(given[f"other_{name}_control"]).all()
    silent = moe.units.block == "ffn"
    colours = by_hand(moe, FactSet((COLOURS,), "t").prompts("first"), text, np.flatnonzero(silent))
    whole = ablate(moe, FACTS, scores=scores, share=1.0, text=text, controls=(), **QUICK)
    assert float(whole["other_logprob"][0]) == pytest.approx(colours["logprob"], abs=1e-5)
    # Scores of relations that are not asked, or that do not say: all facts are asked, and none are others.
    for other in (attribute(moe, FACTS)["lpi"].to_numpy().mean(axis=0), scores["lpi"].drop_vars("prompt_relation")):
        assert ablate(moe, FACTS, scores=other, text=text, controls=(), **QUICK).attrs["n_other"] == 0


@pytest.mark.parametrize("how", ["mean", "resample"])
@pytest.mark.parametrize("at", ["all", "last"])
def test_other_ways_of_silencing_by_hand(moe, text, how, at):
    found = ablate(moe, FACTS, units=["L1 E2"], how=how, at=at, text=text, controls=("expert",), seed=3, **QUICK)
    units = moe.units.find("L1 E2")
    prompts = FACTS.prompts("first")
    reference = record_coefficients(moe, [item.ids for item in encode(moe.tokenizer, prompts)], seed=3)
    expected = by_hand(moe, prompts, text, units, how=how, at=at, reference=reference, seed=3)
    # A reference of fewer units draws the same tokens.
    assert {name: float(found[name][0]) for name in expected} == pytest.approx(expected, abs=1e-5)
    assert found["control_shared"].values.tolist() == [[1.0]]  # all of an expert


@pytest.mark.parametrize("case", MOE_CASES, ids=str)
def test_frozen_routing_is_the_intact_models(case, text):
    model = speaking_model(case)
    units = model.units.find("L0 attention")
    found = ablate(model, FACTS, units=units, routing="frozen", text=text, controls=("layer",), **QUICK)
    encoded = encode(model.tokenizer, FACTS.prompts("first"))
    recorded = record_routing(model, [item.ids for item in encoded])
    with replayed(model, recorded), silenced(model, units):
        frozen = target_scores(model, encoded)
    np.testing.assert_allclose(found["target_logprob"][0], frozen.logprob, atol=1e-5)
    with silenced(model, units):
        free = target_scores(model, encoded)
    assert np.abs(free.logprob - frozen.logprob).max() > 1e-4
    np.testing.assert_allclose(found["target_logprob_intact"], target_scores(model, encoded).logprob, atol=1e-5)


def test_heads_are_ranked_by_their_scores(moe, text):
    scores = attribute(moe, FACTS)
    found = ablate(moe, FACTS, scores=scores, variable="head_lpi", share=0.25, text=text, **QUICK)
    best = np.argsort(-scores["head_lpi"].mean("prompt").to_numpy(), kind="stable")[:2]
    units = np.concatenate([moe.head_units(int(head)) for head in best])
    expected = by_hand(moe, FACTS.prompts("first"), text, units)
    assert float(found["logprob"][0]) == pytest.approx(expected["logprob"], abs=1e-5)
    assert found["row"].values.tolist() == ["top 25% heads"]


def test_scores_by_relation_are_weighted_by_prompts(moe, text):
    by_relation = attribute(moe, FACTS, keep="relations")
    by_prompt = attribute(moe, FACTS)
    rows = [
        ablate(moe, FACTS, scores=scores, share=0.1, text=text, controls=(), **QUICK)
        for scores in (by_relation, by_prompt)
    ]
    assert rows[0]["target_logprob"].values.tolist() == rows[1]["target_logprob"].values.tolist()


def test_draws_are_those_of_the_seed_and_the_progress_is_told(moe, text):
    told = []
    options = {"units": ["L1 E2 n3", "L0 H1 n2"], "text": text, **QUICK}
    first = ablate(moe, FACTS, progress=lambda done, total: told.append((done, total)), **options)
    again = ablate(moe, FACTS, **options)
    other = ablate(moe, FACTS, seed=1, **options)
    same = [str(name) for name in first.data_vars]
    xr.testing.assert_equal(first[same], again[same])
    assert told == [(i, 8) for i in range(1, 9)]  # intact, chosen, 3 controls of 2 draws
    assert not np.array_equal(first["logprob_control"], other["logprob_control"])
    fewer = ablate(moe, FACTS, controls=("expert",), **options)
    np.testing.assert_array_equal(fewer["logprob_control"][:, 0], first["logprob_control"].sel(control="expert"))


def test_ranks_are_those_of_target_ranks(moe):
    encoded = encode(moe.tokenizer, FACTS.prompts("all"))
    found = target_scores(moe, encoded, batch_size=3)
    assert found.rank.tolist() == target_ranks(moe, encoded).tolist()
    assert ((found.margin >= 0) == (found.rank == 0)).all()
    assert found.logprob.tolist() == pytest.approx(attribute(moe, FACTS, templates="all")["target_logprob"].values)


@pytest.mark.parametrize("routing", ["free", "frozen"])
def test_whole_answers_are_those_of_recall(moe, text, routing):
    two = Relation("pair", ("The {} is",), (Sample("sky", "blue yellow"), Sample("sun", "Paris")))
    facts = FactSet((CAPITALS, two), "test")
    units = moe.units.find("L1 E2")
    found = ablate(moe, facts, units=units, answer="all", routing=routing, at="last", text=text, draws=1, k=20)
    asked = encode_facts(moe, facts, answer="all").prompts
    given = [[*item.full_ids[:-1]] for item in asked]
    with (
        silenced(moe, units, at="last"),
        replayed(moe, record_routing(moe, given)) if routing == "frozen" else nullcontext(),
    ):
        expected = recall(moe, asked, "all")
    np.testing.assert_allclose(found["target_logprob"][0], expected.log_probabilities, atol=1e-5)
    assert found["target_rank"][0].values.tolist() == expected.ranks.tolist()
    assert float(found["hit_1"][0]) == expected.exact.mean()
    assert found.attrs["answer"] == "all"
    whole = target_scores(moe, asked, "all", batch_size=1)
    plain = recall(moe, asked, "all")
    assert whole.rank.tolist() == plain.ranks.tolist()
    assert ((whole.margin >= 0) == plain.exact).all()
    assert len(asked[4].answer_ids) == 2
    first = target_scores(moe, asked)
    assert whole.margin[4] <= first.margin[4]
    assert whole.logprob[4] < first.logprob[4]


def test_it_can_be_stored(moe, text, tmp_path):
    found = ablate(moe, FACTS, units=[3], text=text, **QUICK)
    found.to_zarr(tmp_path / "ablation.zarr", consolidated=False)
    back = xr.open_zarr(tmp_path / "ablation.zarr", consolidated=False)
    assert back.attrs["facts"] == "test"
    assert back["hit_k"].values.tolist() == found["hit_k"].values.tolist()


def test_the_built_in_text_is_the_default():
    model = speaking_model("Llama")
    found = ablate(model, FACTS, units=[1], controls=(), **QUICK)
    assert found.attrs["text"] == "built-in"
    assert found.attrs["n_text_tokens"] > 300


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "none were given: give one of the two"),
        ({"units": [1], "scores": np.zeros(3)}, "both were given"),
        ({"units": []}, "no unit and no head was given"),
        ({"units": [10**6]}, "unit 1000000 was given"),
        ({"units": ["L1 E99 n1"]}, "no such unit"),
        ({"heads": [8]}, "head 8 was given; this model's heads are 0 to 7"),
        ({"units": [1], "complement": True}, "complement=True was given without scores"),
        ({"units": [1], "how": "noise"}, "how='noise'"),
        ({"units": [1], "at": "first"}, "at='first'"),
        ({"units": [1], "routing": "held"}, "routing='held' was given; expected 'free' or 'frozen'"),
        ({"units": [1], "controls": ("rnd",)}, r"controls=\('rnd',\) was given; expected some of 'random', 'layer'"),
        ({"units": [1], "controls": "layer"}, "controls='layer' was given"),
        ({"units": [1], "controls": ("layer", "layer")}, "each once"),
        ({"units": [1], "draws": 0}, "draws=0"),
        ({"units": [1], "k": 0}, "k=0"),
        ({"units": [1], "answer": "last"}, "answer='last' was given"),
        ({"scores": np.zeros(3)}, r"scores of shape \(3,\) were given; expected one for each of the model's"),
        ({"scores": np.zeros(1), "kind": "mlp"}, "kind='mlp'"),
    ],
)
def test_what_cannot_be_ablated_is_refused(moe, options, message):
    with pytest.raises(OptionError, match=message):
        ablate(moe, FACTS, **options)


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (lambda s: s, {"variable": "block_lpi"}, "variable='block_lpi' was given; expected one of the scores of units"),
        (lambda s: s, {"share": 1.5}, "fraction is 1.5"),
        (lambda s: s, {"share": ()}, "share is empty"),
        (lambda s: s, {"share": 1.0, "complement": True}, "share 1.0 was given with complement"),
        (lambda s: s.drop_vars(["lpi", "head_lpi"]), {}, "no variable was given; .*: none"),
        (lambda s: s.isel(unit=slice(5)), {}, "scores of 5 units were given, which are not those of this model"),
        (lambda s: s.isel(unit=slice(None, None, -1)), {}, "not those of this model"),
        (lambda s: s.isel(unit=s["block"].values == "attention"), {}, "kind='ffn' was given, and the scores are of no"),
        (lambda s: s.expand_dims(checkpoint=2)[["lpi"]], {}, r"select one checkpoint of a run with \.isel"),
        (lambda s: s.isel(head_unit=slice(3)), {"variable": "head_lpi"}, "scores of 3 heads were given"),
        (lambda s: s.where(s["neuron"] % 2 == 0, float("inf")), {}, "NaN or infinite"),
        (lambda s: s.where(s["neuron"] % 2 == 0), {}, r"no value for [\d,]+ of [\d,]+ units.*of a sample unless"),
        (lambda s: s["block_lpi"], {}, "expected `unit` or `head_unit`"),
    ],
)
def test_scores_that_rank_nothing_are_refused(moe, change, options, message):
    with pytest.raises(OptionError, match=message):
        ablate(moe, FACTS, scores=change(attribute(moe, FACTS)), **options)


def test_dense_models_have_no_routing_to_freeze():
    with pytest.raises(OptionError, match="no routed experts"):
        ablate(speaking_model("Llama"), FACTS, units=[1], routing="frozen")
    with pytest.raises(gated_lpi.ModelError, match="without a tokenizer"):
        ablate(tiny_model("Llama"), FACTS, units=[1])
