"""The one entry point of comparing methods.

1. Every method scores every unit on all facts (`scored`), with the plain target, and against a foil if asked for.
2. Agreement of every pair: Spearman, Kendall, overlap of the top sets, with intervals over prompts.
3. Each is held against true effects on a sample of units (`truth`).
4. Each ranks units on one half of the facts; what it ranks highest is silenced, and the other half is asked (`curves`).

What fails on the way is noted, and the rest goes on.
"""

from __future__ import annotations

import datetime
import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, get_args

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from gated_lpi.ablation import read_text, text_windows
from gated_lpi.comparison import asked as asking
from gated_lpi.comparison import curves, truth
from gated_lpi.comparison.scored import Failures, Meter, Scorer
from gated_lpi.datasets import as_expected, texts
from gated_lpi.errors import OptionError
from gated_lpi.facts import FactSet, OnError
from gated_lpi.facts.types import Templates
from gated_lpi.metrics import agreement_interval, overlap_chance
from gated_lpi.models import Model, require_model
from gated_lpi.options import At, Explained, Foil, How, MethodOptions, Scoring, TrueEffect
from gated_lpi.options.methods import to_flat
from gated_lpi.prompting import Prompting, encode_facts
from gated_lpi.version import __version__

SHARES = (0.001, 0.003, 0.01, 0.03, 0.1)
PLAIN, CONTRAST = "plain", "contrast"
PASSES = 3  # over the facts that a method takes, roughly; a unit's true effect and an ablation are one each
Scores = dict[str, dict[str, xr.DataArray]]


def compare(
    model: Model,
    facts: FactSet,
    methods: Sequence[str] | Mapping[str, MethodOptions] = ("lpi", "grad_x_act"),
    *,
    foil: Foil | None = None,
    units: Sequence[str] = ("ffn",),
    at: At = "all",
    how: How = "zero",
    sample: int | None = 8,
    shares: Sequence[float] = SHARES,
    control_draws: int = 5,
    others: FactSet | None = None,
    text: str | Path | None = None,
    known: bool = False,
    k: int = 10,
    fraction: float = 0.01,
    draws: int = 200,
    seed: int = 0,
    templates: Templates = "first",
    separator: str | None = None,
    on_error: OnError = "raise",
    bos: bool | None = None,
    batch_size: int | None = None,
    memory: int | str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> xr.Dataset:
    """Compare methods: with each other, with true effects, and by what silencing the units that each ranks first does.

    Args:
        model: from `load_model` or `wrap_model`.
        facts: what it is asked.
        methods: names of `gated_lpi.options.METHODS_BY_NAME`, but for true_effect and rollout; or, under names of one's
            own, options: {"ig_2": IntegratedGradients(points=2)}.
        foil: "relation" or "fact": everything once more, with the target measured against this.
        units: kinds that are compared, each by itself: "ffn", "attention", "mixer".
        at: "all" positions or the "last": where units are silenced, and where named methods scale them, if they do.
        how: what silenced coefficients become: "zero", their "mean" or a "resample".
        sample: units of each block whose true effect is measured; None: none.
        shares: of the units of a kind that are silenced, or kept; ascending. Empty: nothing is ablated.
        control_draws: random sets beside each.
        others: facts of other relations, for the damage. None: a third of the relations of `facts`, which are then
            neither ranked on nor tested, if it has three or more.
        text: a file, for the loss on it, in place of the built-in one.
        known: only facts whose target is among the `k` likeliest tokens.
        k: the k of HIT@k.
        fraction: of the units that is a top set, where sets are compared.
        draws: of resamples and permutations.
        seed: of samples, halves, random sets and resamples.
        templates, separator, on_error, bos, batch_size, memory: as for `attribute`.
        progress: called with (passes over the facts done, in all, roughly).

    Returns:
        docs/results.md lists the variables. Over `end` stand estimate, low and high of a 95% interval.
        `agreement (target, pair, kind, figure, end)` of every pair, and its `overlap_chance`;
        `truth (scale, by, kind, part, figure, end)` and `truth_chance` against true effects;
        what was measured along curves, (target, by, kind, mode, share), by the names that `ablate` has, with
        `…_control`, `…_intact` and, by tested prompt, `target_…`; `area` and `drop_at_damage`, with controls.
        `target_agreement (by, kind, figure, end)` of the plain and the contrast score, if there is a foil.
        `attrs["failed"]` lists what could not be done.

    Raises:
        OptionError: a method that scores no units, or another option outside what it may be.
        FactsError, ModelError: as for `attribute`; or no relation has two facts; or all methods failed with one.
    """
    require_model(model)
    chosen = asking.chosen_methods(methods, at)
    kinds = asking.refuse_kinds(units)
    shares = _refuse(foil, shares, control_draws, draws, k)
    scoring = Scoring(units=kinds, keep="prompts", batch_size=batch_size, memory=memory)  # type: ignore[arg-type]
    truly = None if sample is None else TrueEffect(at=at, how=how, sample=sample, sample_seed=seed)
    facts, templates = asking.pinned(facts, templates)
    how_asked = Prompting(templates, separator, on_error, bos)
    if shares:
        text_windows(model, read_text(text))  # refused before any work
    asked = encode_facts(model, facts, how_asked)
    if known:
        facts = asking.only_known(model, facts, asked.prompts, k)
        asked = encode_facts(model, facts, how_asked)
    halves = asking.split(facts, others, seed) if shares else None
    targets: dict[str, Foil | None] = {PLAIN: None, **({} if foil is None else {CONTRAST: foil})}

    n_units = 0 if sample is None else sum(min(sample, b.n_units) for b in model.blocks if b.kind in kinds)
    bench = curves.Bench(model, shares, control_draws, {})
    total = len(chosen) * PASSES * (len(targets) + (truly is not None))
    total += n_units * len(targets)
    total += (bench.evaluations * 2 if shares else 0) * len(chosen) * len(targets) * len(kinds)
    meter, failures = Meter(progress, total), Failures()
    scorer = Scorer(model, facts, asked, how_asked, scoring, meter)

    scores: Scores = {}
    for target, against in targets.items():
        scores[target] = {}
        for name, options in chosen.items():
            with failures.kept(f"{name} ({target})"):
                wanted = options if against is None else asking.against(options, against)
                scores[target][name] = scorer.units(wanted, PASSES)
    if not scores[PLAIN]:
        assert failures.first is not None
        raise failures.first
    names = list(scores[PLAIN])
    setting = _Setting(model, names, kinds, list(targets), draws, seed, fraction)
    parts = [_agreement(setting, scores)]
    if truly is not None:
        with failures.kept("true_effect"):
            parts.append(_truth(setting, scores, chosen, truly, foil, scorer, n_units, failures))
    if halves is not None:
        ablation = {
            "facts": halves.tested,
            "others": halves.others,
            "how": how,
            "at": at,
            "text": text,
            "k": k,
            "seed": seed,
            "templates": templates,
            "separator": separator,
            "on_error": on_error,
            "bos": bos,
        }
        bench = curves.Bench(model, shares, control_draws, ablation)
        with failures.kept("ablation"):
            parts.append(_curves(setting, scores, halves, bench, meter, failures))
    found = xr.merge(parts, compat="no_conflicts", join="outer", combine_attrs="drop")
    counts = {} if halves is None else {"n_ranked": len(halves.ranked), "n_tested": len(halves.tested)}
    if halves is not None and halves.others is not None:
        counts["n_other"] = len(halves.others)
    found = found.assign_attrs(
        methods=json.dumps({name: {"class": type(one).__name__, **to_flat(one)} for name, one in chosen.items()}),
        foil=foil or "",
        at=at,
        how=how,
        sample=sample or 0,
        known=int(known),
        k=k,
        fraction=fraction,
        draws=draws,
        control_draws=control_draws,
        seed=seed,
        templates=how_asked.templates,
        facts=facts.source,
        facts_sha256=facts.sha256,
        n_prompts=len(asked.prompts),
        skipped=[str(fact) for fact in (*facts.skipped, *asked.skipped)],
        text="built-in" if text is None else str(text),
        **counts,
        failed=failures.notes,
        gated_lpi=__version__,
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        **model.provenance,
    )
    return as_expected(found)


class _Setting(NamedTuple):
    """What all parts share.

    Attributes:
        model: the model.
        methods: names of those that scored the plain target.
        kinds: of units.
        targets: "plain", and "contrast" if there is a foil.
        draws, seed, fraction: of intervals, and of top sets.
    """

    model: Model
    methods: list[str]
    kinds: tuple[str, ...]
    targets: list[str]
    draws: int
    seed: int
    fraction: float

    @property
    def n_layers(self) -> int:
        """Layers of the model."""
        return 1 + max(block.layer for block in self.model.blocks)

    def interval(self, first: xr.DataArray, second: xr.DataArray, kind: str) -> NDArray[np.float64]:
        """Agreement of two scores of the units of a kind, [figures, ends]."""
        inside = first["block"].to_numpy() == kind
        left, right = (one.to_numpy()[:, inside] for one in (first, second))
        layer = first["layer"].to_numpy()[inside]
        found = agreement_interval(left, right, layer, self.fraction, draws=self.draws, seed=self.seed)
        return np.transpose(found)


def _agreement(setting: _Setting, scores: Scores) -> xr.Dataset:
    """Of every pair of methods, and of each method's plain and contrast score."""
    pairs = list(itertools.combinations(setting.methods, 2))
    shape = (len(setting.kinds), len(truth.FIGURES), len(truth.ENDS))
    between = np.full((len(setting.targets), len(pairs), *shape), np.nan)
    across = np.full((len(setting.methods), *shape), np.nan)
    chance, within = np.empty((len(setting.kinds), 3)), np.empty(len(setting.kinds))
    for k, kind in enumerate(setting.kinds):
        one = scores[PLAIN][setting.methods[0]]
        null = overlap_chance(one["layer"].to_numpy()[one["block"].to_numpy() == kind], setting.fraction)
        chance[k], within[k] = null[:3], null.mean_within
        for t, target in enumerate(setting.targets):
            by = scores[target]
            for p, (a, b) in enumerate(pairs):
                if a in by and b in by:
                    between[t, p, k] = setting.interval(by[a], by[b], kind)
        for m, method in enumerate(setting.methods):
            if method in scores.get(CONTRAST, {}):
                across[m, k] = setting.interval(scores[PLAIN][method], scores[CONTRAST][method], kind)
    coords = {
        **_coords(target=setting.targets, by=setting.methods, kind=setting.kinds),
        **_coords(figure=truth.FIGURES, end=truth.ENDS, pair=[f"{a}, {b}" for a, b in pairs]),
    }
    found = {
        "agreement": (("target", "pair", "kind", "figure", "end"), between),
        "overlap_chance": (("kind", "end"), chance),
        "overlap_within_chance": ("kind", within),
    }
    if CONTRAST in setting.targets:
        found["target_agreement"] = (("by", "kind", "figure", "end"), across)
    if not pairs:
        del found["agreement"], coords["pair"]
    return xr.Dataset(found, coords)


def _truth(
    setting: _Setting,
    scores: Scores,
    chosen: Mapping[str, Explained],
    truly: TrueEffect,
    foil: Foil | None,
    scorer: Scorer,
    passes: int,
    failures: Failures,
) -> xr.Dataset:
    """Every method against true effects on every scale."""
    measured = scorer(truly, passes)
    effects = {"logprob": measured["true_effect"].load(), "margin": measured["true_effect_margin"].load()}
    by_scale = {"logprob": scores[PLAIN], "margin": {}}
    for name in setting.methods:
        with failures.kept(f"{name} (margin)"):
            by_scale["margin"][name] = scorer.units(asking.against(chosen[name], "best"), PASSES)
    if foil is not None:
        with failures.kept("true_effect (contrast)"):
            effects[CONTRAST] = scorer(asking.against(truly, foil), passes)["true_effect"].load()
            by_scale[CONTRAST] = scores[CONTRAST]
    parts = [part.name for part in truth.parts_of(np.zeros(0, dtype=np.int64), setting.n_layers)]
    shape = (len(effects), len(setting.methods), len(setting.kinds), len(parts), len(truth.FIGURES), len(truth.ENDS))
    found, chance = np.full(shape, np.nan), np.full(shape, np.nan)
    counts = np.zeros((len(setting.kinds), len(parts)), dtype=np.int64)
    for k, kind in enumerate(setting.kinds):
        sampled = truth.sampled_units(effects["logprob"], kind)
        layer = effects["logprob"]["layer"].to_numpy()[sampled]
        counts[k] = [int(part.units.sum()) for part in truth.parts_of(layer, setting.n_layers)]
        for s, (scale, effect) in enumerate(effects.items()):
            for m, method in enumerate(setting.methods):
                if method in by_scale[scale]:
                    options = {"draws": setting.draws, "seed": setting.seed}
                    held = truth.held_against(by_scale[scale][method], effect, kind, setting.n_layers, **options)
                    found[s, m, k], chance[s, m, k] = held
    dims = ("scale", "by", "kind", "part", "figure", "end")
    coords = {
        **_coords(scale=list(effects), by=setting.methods, kind=setting.kinds, part=parts),
        **_coords(figure=truth.FIGURES, end=truth.ENDS),
    }
    variables = {"truth": (dims, found), "truth_chance": (dims, chance), "truth_units": (("kind", "part"), counts)}
    return xr.Dataset(variables, coords)


def _curves(
    setting: _Setting, scores: Scores, halves: asking.Halves, bench: curves.Bench, meter: Meter, failures: Failures
) -> xr.Dataset:
    """What silencing does, for every target, method and kind."""
    places = list(itertools.product(setting.targets, setting.methods, setting.kinds))
    measured: dict[tuple[str, str, str], list[xr.Dataset]] = {}
    summaries: dict[tuple[str, str, str], curves.Summary] = {}
    random: dict[tuple[str, str], xr.Dataset] = {}
    nothing: dict[str, xr.Dataset] = {}
    for place in places:
        target, method, kind = place
        if method not in scores[target]:
            continue
        with failures.kept(f"ablation by {method} ({target}, {kind})"):
            ranking = scores[target][method]
            ranking = ranking.isel(prompt=asking.rows_of(ranking, halves.ranked))
            if kind not in nothing:
                nothing[kind] = bench.nothing(ranking, kind)
            both = []
            for mode in curves.MODES:
                with meter.part(bench.evaluations):
                    both.append(bench.run(ranking, kind, mode, random.get((kind, mode))))
                random.setdefault((kind, mode), both[-1])
            silenced, kept = both
            summaries[place] = curves.summarised(
                silenced, kept, nothing[kind], bench.shares, draws=setting.draws, seed=setting.seed
            )
            measured[place] = both
    if not measured:
        return xr.Dataset()
    return _curves_dataset(setting, bench, places, measured, summaries)


def _curves_dataset(
    setting: _Setting,
    bench: curves.Bench,
    places: Sequence[tuple[str, str, str]],
    measured: Mapping[tuple[str, str, str], list[xr.Dataset]],
    summaries: Mapping[tuple[str, str, str], curves.Summary],
) -> xr.Dataset:
    leading = {"target": setting.targets, "by": setting.methods, "kind": setting.kinds}
    shape = tuple(len(names) for names in leading.values())
    some = next(iter(measured.values()))
    blank = curves.stacked(some, bench.shares) * np.nan
    rows = [curves.stacked(measured[p], bench.shares) if p in measured else blank for p in places]
    found: dict[str, Any] = {}
    for name, variable in rows[0].data_vars.items():
        values = np.stack([row[name].transpose(*variable.dims).to_numpy() for row in rows])
        own = ["mode" if dim == "curve" else str(dim) for dim in variable.dims]
        found[str(name)] = ((*leading, *own), values.reshape(*shape, *values.shape[1:]))
    empty = curves.Summary(*(np.full(one.shape, np.nan) for one in next(iter(summaries.values()))))
    dims_of = {
        "area": ("area_of", "curve_scale", "end"),
        "area_control": ("area_of", "curve_scale", "control", "draw"),
        "drop_at_damage": ("curve_scale", "damage", "end"),
        "drop_at_damage_control": ("curve_scale", "damage", "control"),
    }
    for index, (name, dims) in enumerate(dims_of.items()):
        values = np.stack([summaries.get(place, empty)[index] for place in places])
        found[name] = ((*leading, *dims), values.reshape(*shape, *values.shape[1:]))
    coords = {
        **_coords(**leading, mode=curves.MODES, control=curves.CONTROLS, area_of=curves.AREAS),
        **_coords(curve_scale=curves.SCALES, end=truth.ENDS),
        "share": list(bench.shares),
        "damage": list(curves.DAMAGES),
    }
    return xr.Dataset(found, coords).merge(curves.intact(some[0]), compat="override")


def _coords(**names: Sequence[str]) -> dict[str, NDArray[np.object_]]:
    """Coordinates of texts as objects, which every store keeps at any length."""
    return {name: texts(values) for name, values in names.items()}


def _refuse(foil: str | None, shares: Sequence[float], control_draws: int, draws: int, k: int) -> tuple[float, ...]:
    """The shares, once all of these are known to be what they may."""
    if foil is not None and foil not in asking.FOILS:
        why = "; the margin is always compared" if foil in get_args(Foil) else ""
        raise OptionError(
            f"foil={foil!r} was given{why}; expected one of {', '.join(map(repr, asking.FOILS))}, or None"
        )
    given = tuple(float(share) for share in shares)
    if any(not 0 < share < 1 for share in given) or list(given) != sorted(set(given)):
        raise OptionError(
            f"shares={list(shares)} was given; expected shares above 0 and below 1 that ascend, each once"
        )
    for name, value in (("control_draws", control_draws), ("draws", draws), ("k", k)):
        if value < 1:
            raise OptionError(f"{name}={value} was given; expected a whole number of at least 1")
    return given
