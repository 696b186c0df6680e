"""Scores against the published formulas, computed by `published.py` alone and stored in `parity.npz`.

The same weights go to `published.py` as arrays and to transformers as a checkpoint folder with its experts one by one,
and from there through `load_model` and `attribute`, as a user's would.

How near the two can come is up to transformers: also in a float64 model it computes norms, RoPE, the router's softmax
and that of eager attention in float32, which leaves 1e-6 nats. `THROUGHOUT` takes these to float64 too, and what is
left then is the formulas: 1e-14.
"""

import ast
import json
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import make_parity
import numpy as np
import published
import pytest
import torch
import xarray as xr
from make_parity import CONFIGS, FILE, NORMS, PROMPTS
from safetensors.numpy import save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import PreTrainedTokenizerFast
from transformers.models.olmo import modeling_olmo
from transformers.models.olmoe import modeling_olmoe

from flat import attribute
from gated_lpi import load_model
from gated_lpi.models import Model

MODELING = {"olmoe": modeling_olmoe, "olmo": modeling_olmo}
with np.load(FILE) as stored_file:
    STORED = dict(stored_file)


class Precision(NamedTuple):
    """A model's dtype, whether its casts to float32 are undone, and how near the stored scores it must come, nats."""

    dtype: str
    throughout: bool
    limit: float

    def __str__(self) -> str:
        return f"{self.dtype}{' throughout' if self.throughout else ''}"


THROUGHOUT = Precision("float64", True, 1e-10)
PRECISIONS = (THROUGHOUT, Precision("float64", False, 5e-6), Precision("float32", False, 5e-5))


class WideTorch(ModuleType):
    """The module torch, but for its float32, which is float64."""

    float32 = float = torch.float64

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)


def weights(network: str) -> dict[str, np.ndarray]:
    """A network's stored weights by checkpoint key."""
    start = f"{network}/weights/"
    return {key.removeprefix(start): values for key, values in STORED.items() if key.startswith(start)}


def stored(network: str, norm: str, prompt: int) -> published.Scores:
    return published.Scores(*(STORED[f"{network}/{norm}/{prompt}/{kind}"] for kind in published.Scores._fields))


def live(network: str, prompt: int, norm: str = "frozen", **changes: Any) -> published.Scores:
    """The stored scores computed again, under changed circumstances."""
    ids, target = PROMPTS[prompt]
    arguments = {"weights": weights(network), "ids": ids, "target": target} | changes
    return published.scores(config=CONFIGS[network], norm=norm, **arguments)


def save_checkpoint(network: str, folder: Path) -> None:
    """A folder as published: one tensor for each weight of each expert, and a tokenizer whose word "w7" is token 7."""
    save_file(weights(network), folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(CONFIGS[network]))
    words = WordLevel({f"w{i}": i for i in range(CONFIGS[network]["vocab_size"])}, unk_token="w0")
    tokenizer = Tokenizer(words)
    tokenizer.pre_tokenizer = WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="w0", unk_token="w0").save_pretrained(folder)


def loaded(network: str, precision: Precision, folder: Path, patch: pytest.MonkeyPatch) -> Model:
    if precision.throughout:
        patch.setattr(MODELING[network], "torch", WideTorch("torch"))
    save_checkpoint(network, folder)
    return load_model(str(folder), dtype=precision.dtype)


class Compared(NamedTuple):
    network: str
    limit: float  # how near its scores must come, nats
    model: Model


@pytest.fixture(scope="module", params=[(n, p) for n in CONFIGS for p in PRECISIONS], ids=lambda p: f"{p[0]} {p[1]}")
def compared(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Compared]:
    """Each network in each precision."""
    network, precision = request.param
    with pytest.MonkeyPatch.context() as patch:
        yield Compared(network, precision.limit, loaded(network, precision, tmp_path_factory.mktemp(network), patch))


@pytest.fixture(params=CONFIGS)
def network(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def model(network: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Model:
    """The network in float64 throughout."""
    return loaded(network, THROUGHOUT, tmp_path, monkeypatch)


def attributed(model: Model, **options: Any) -> xr.Dataset:
    """`attribute` on the prompts as text."""
    pairs = [(" ".join(f"w{i}" for i in ids), f"w{target}") for ids, target in PROMPTS]
    return attribute(model, pairs, **options)


def laid_out(data: xr.Dataset, prompt: int, like: published.Scores) -> dict[str, np.ndarray]:
    """What `attribute` found for one prompt, along the axes of `like`; NaN where it found nothing."""
    row = data.isel(prompt=prompt)
    laid = {kind: np.full_like(values, np.nan) for kind, values in like._asdict().items()}
    attention = row["block"].values == "attention"
    layer, head, expert, neuron = (row[name].values for name in ("layer", "head", "expert", "neuron"))
    of_head = layer[attention], head[attention], neuron[attention]
    laid["attention"][of_head] = row["lpi"].values[attention]
    laid["ffn"][layer[~attention], expert[~attention].clip(0), neuron[~attention]] = row["lpi"].values[~attention]
    laid["heads"][row["head_unit_layer"].values, row["head_unit_head"].values] = row["head_lpi"].values
    of_block = row["block_layer"].values, (row["block_kind"].values == "ffn").astype(int)
    laid["blocks"][of_block] = row["block_lpi"].values
    laid["base"][of_block] = row["base_logprob"].values
    if "expert_lpi" in row:
        laid["experts"][row["expert_unit_layer"].values, row["expert_unit_expert"].values] = row["expert_lpi"].values
    else:  # a dense FFN is no expert
        del laid["experts"]
    if "position_lpi" in row:
        tokens = like.positions.shape[1]
        assert np.isnan(row["position_lpi"].values[tokens:]).all()
        laid["positions"][of_head[0], :, of_head[1], of_head[2]] = row["position_lpi"].values[:tokens].T
    else:
        del laid["positions"]
    return laid


def assert_equal(found: dict[str, np.ndarray], wanted: published.Scores, limits: dict[str, float]) -> None:
    for kind, values in found.items():
        worst = np.abs(values - getattr(wanted, kind)).max()
        assert worst <= limits[kind], f"{kind} differ by {worst}"  # also where it is NaN


@pytest.mark.parametrize("positions", ["summed", "resolved"])
@pytest.mark.parametrize("estimator", ["reference", "exact", "fast"])
@pytest.mark.parametrize("norm", NORMS)
def test_every_score_is_the_published_one(compared, norm, estimator, positions):
    network, limit, model = compared
    data = attributed(model, norm=norm, estimator=estimator, positions=positions)
    assert data["target_id"].values.tolist() == [target for _, target in PROMPTS]
    certified = estimator == "fast" and norm == "frozen"
    assert (data["error_bound"].values > 0).all() == certified
    for prompt in range(len(PROMPTS)):
        wanted = stored(network, norm, prompt)
        if positions == "resolved":  # a unit's score is then the sum of those of its positions
            wanted = wanted._replace(attention=wanted.positions.sum(axis=1))
        limits = dict.fromkeys(published.Scores._fields, limit)
        bounds = data["error_bound"].values[prompt]
        for block, kinds in (("attention", ("positions", "attention", "heads")), ("ffn", ("ffn", "experts"))):
            for kind in kinds:
                limits[kind] += bounds[data["block_kind"].values == block].max()
        limits["blocks"] += bounds.max()
        assert_equal(laid_out(data, prompt, wanted), wanted, limits)


def test_the_model_s_own_prediction_is_the_published_target(network, model):
    data = attributed(model, target="top1", estimator="exact")
    for prompt, (ids, object_id) in enumerate(PROMPTS):
        net = published.Network(weights(network), CONFIGS[network])
        top1 = int(published.Readout(net).logits(net.run(ids).final).argmax())
        assert top1 != object_id
        assert data["target_id"].values[prompt] == top1
        wanted = live(network, prompt, target=top1)
        assert_equal(laid_out(data, prompt, wanted), wanted, dict.fromkeys(published.Scores._fields, THROUGHOUT.limit))


def test_the_file_is_what_its_script_makes():
    built = make_parity.built()
    assert built.keys() == STORED.keys()
    for key, values in built.items():
        if "/weights/" in key:
            np.testing.assert_array_equal(values, STORED[key], err_msg=key)
        else:
            assert values.shape == STORED[key].shape, key
            assert np.abs(values - STORED[key]).max() <= 1e-10, key
    assert FILE.stat().st_size < 300_000


def test_the_published_formulas_borrow_nothing():
    tree = ast.parse(Path(published.__file__).read_text(encoding="utf-8"))
    modules = {name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names}
    modules |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert modules == {"collections.abc", "typing", "numpy", "numpy.typing"}


@pytest.mark.parametrize("norm", NORMS)
def test_blocks_lead_from_base_to_base_and_to_the_model_s_logits(network, model, norm):
    """The parts that are scored add up to the network, and the network is the one that transformers runs."""
    for prompt, (ids, target) in enumerate(PROMPTS):
        found = stored(network, norm, prompt)
        with torch.no_grad():
            log_p = model.module(torch.tensor([ids]), use_cache=False).logits[0, -1].log_softmax(dim=-1)
        bases = np.append(found.base, log_p[target].item())
        np.testing.assert_allclose(found.blocks.ravel(), np.diff(bases), rtol=0, atol=1e-12)


def top_tenth(scores: np.ndarray) -> set[int]:
    count = -(-scores.size // 10)
    return set(np.argsort(-scores.ravel(), kind="stable")[:count].tolist())


@pytest.mark.parametrize("norm", NORMS)
def test_without_a_causal_mask_scores_are_of_another_network(network, model, norm):
    for prompt, (ids, _) in enumerate(PROMPTS):
        net = published.Network(weights(network), CONFIGS[network], causal=False)
        everything = torch.ones(1, 1, len(ids), len(ids), dtype=torch.bool)
        with torch.no_grad():
            logits = model.module(torch.tensor([ids]), attention_mask=everything, use_cache=False).logits[0, -1]
        np.testing.assert_allclose(published.Readout(net).logits(net.run(ids).final), logits, rtol=0, atol=1e-12)

        masked, open_ = stored(network, norm, prompt), live(network, prompt, norm, causal=False)
        moved = {kind: np.abs(getattr(masked, kind) - getattr(open_, kind)) for kind in ("ffn", "attention", "blocks")}
        if len(ids) == 1:  # nothing comes after
            assert all((values == 0).all() for values in moved.values())
            continue
        assert all(values[1].max() > 0.1 for values in moved.values())
        shared = top_tenth(masked.positions) & top_tenth(open_.positions)
        assert len(shared) / len(top_tenth(masked.positions) | top_tenth(open_.positions)) < 0.9
        if norm == "recomputed":  # the last position sees all in any case, so that layer 0 is as it was
            assert all((values[0] == 0).all() for values in moved.values())


@pytest.mark.parametrize("norm", NORMS)
def test_a_readout_that_does_not_centre_misses_the_logits_of_olmo_but_not_of_olmoe(network, model, norm):
    for prompt, (ids, _) in enumerate(PROMPTS):
        net = published.Network(weights(network), CONFIGS[network])
        final = net.run(ids).final
        with torch.no_grad():
            logits = model.module(torch.tensor([ids]), use_cache=False).logits[0, -1].numpy()
        missed = np.abs(published.Readout(net, centre=False).logits(final) - logits).max()
        moved = np.abs(stored(network, norm, prompt).ffn - live(network, prompt, norm, centre=False).ffn).max()
        assert np.abs(published.Readout(net).logits(final) - logits).max() < 1e-12
        if network == "olmo":
            assert missed > 0.3
            assert moved > 5e-3
        else:
            assert missed < 1e-12
            assert moved == 0


def test_the_readout_s_epsilon_matters_for_small_residuals_only(network):
    def moved(**changes):
        pairs = zip(live(network, 0, **changes), live(network, 0, readout_eps=1e-6, **changes), strict=True)
        return max(np.abs(own - other).max() for own, other in pairs)

    writing = ("embed_tokens", "o_proj", "down_proj")
    small = {k: v * np.float32(0.01) if any(w in k for w in writing) else v for k, v in weights(network).items()}
    assert 1e-8 < moved() < 1e-5
    assert moved(weights=small) > 1e-2


@pytest.mark.parametrize("norm", NORMS)
def test_the_option_for_the_readout_s_epsilon_is_the_published_constant(network, norm, model):
    data = attributed(model, norm=norm, estimator="exact", readout_eps=1e-6)
    assert data.attrs["readout_eps"] == 1e-6
    for prompt in range(len(PROMPTS)):
        wanted, own = live(network, prompt, norm, readout_eps=1e-6), stored(network, norm, prompt)
        assert_equal(laid_out(data, prompt, wanted), wanted, dict.fromkeys(published.Scores._fields, THROUGHOUT.limit))
        assert np.abs(wanted.ffn - own.ffn).max() > 100 * THROUGHOUT.limit  # or the option would show nothing
