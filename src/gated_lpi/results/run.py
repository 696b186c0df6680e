"""A run on disk: an experiment and what it found, one arm beside the other.

run/
  run.json              the experiment, the facts' digest and the versions it was started with
  results/ARM.zarr      scores of every checkpoint (`store`)
  results/ARM.commit.json       what is complete in them, the second copy (`commit`)
  results/ARM.split.zarr        how its changes split into routing and neurons, if that was asked for
  results/ARM.follow.zarr       what units that are followed write, serve and resemble, if that was asked for
  results/ARM.json      ablations and top units of the last checkpoint (`records`)
  results/ARM.summary.json      every metric of an arm, computed when it was first asked for (`summaries`)
  results/ARM.METHOD.summary.json   the same by further methods; over known facts ARM.known.summary.json and so on
  results/ARM.known.json        which facts the arm's last checkpoint knows, if scores over them are kept (`known`)
  results/ARM.quarantine.json   checkpoints that could not be used, and why (`quarantine`)
  series/ARM.json       checkpoints that were chosen from a hub, with their commits (`choices`)
  downloads.json        commits whose files the run itself brought to this machine (`downloads`)
  frequencies.json      how often the corpus of trained arms has each fact, if it is one of their own (`frequencies`)
  training/ARM/step-N   checkpoints of arms that the experiment trained
  report.html, summary.json, figures/, report.sha256    what the report made of it
  explore/              what the explorer derived of it; may be deleted
  .writer.lock, .writer.json    who writes to the folder (`writer`)

The folder may be an fsspec address ("s3://bucket/run"). downloads.json and training/ are then in a folder of this
machine, `Run.local`.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
from collections import defaultdict
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import xarray as xr
from pydantic import BaseModel, ConfigDict, model_validator

from gated_lpi import score_schema as schema
from gated_lpi._common.folders import (
    Folder,
    as_folder,
    is_draft,
    is_remote,
    make,
    names,
    read_text,
    refuse_links,
    unwritten,
)
from gated_lpi.datasets import Records
from gated_lpi.errors import DamagedError, NoRunError, OptionError, RunError, RunExistsError
from gated_lpi.experiments.experiment import Arm, Experiment, FactsSpec, FollowSpec, RoutingSpec
from gated_lpi.facts.teaching import FactFrequency
from gated_lpi.metrics import summarise
from gated_lpi.options import ALL_UNITS
from gated_lpi.options.methods import FORMER
from gated_lpi.results.described import described, html_of
from gated_lpi.results.files import read_file, write_file
from gated_lpi.results.frames import ROWS, metrics_frame, unit_frames
from gated_lpi.results.frequencies import FREQUENCIES, kept_frequencies
from gated_lpi.results.quarantine import Quarantine
from gated_lpi.results.records import ArmRecord
from gated_lpi.results.store import ResultStore
from gated_lpi.results.summaries import keep_summary, kept_summary, made_of, summary_file
from gated_lpi.results.whole import as_dataset, as_datatree
from gated_lpi.results.writer import is_ours
from gated_lpi.training.spec import CorpusSpec
from gated_lpi.version import __version__

if TYPE_CHECKING:
    import pandas as pd

    from gated_lpi.report.plots import RunPlots

_LOG = logging.getLogger(__name__)
RUN_FILE = "run.json"
LEVELS = 3  # of folders within a run, from which the run is named
SHOWN = 6  # differences between two runs that an error names


class _Description(BaseModel):
    """The content of run.json: the experiment, and whatever else was noted.

    Attributes:
        experiment: what is or was run.
    """

    model_config = ConfigDict(extra="allow")

    experiment: Experiment

    @model_validator(mode="before")
    @classmethod
    def _of_one_method(cls, content: Any) -> Any:
        """A run of a version that knew no other method has scores by LPI."""
        if isinstance(content, dict) and isinstance(content.get("experiment"), dict):
            attribution = content["experiment"].get("attribution", {})
            if isinstance(attribution, dict) and "methods" not in attribution:
                experiment = content["experiment"] | {"attribution": {**attribution, "methods": ["lpi"]}}
                return content | {"experiment": experiment}
        return content


class Run:
    """A run folder, opened. Get one from `open_run` or `create_run`.

    Attributes:
        path: the folder, a `Path`, or a `UPath` for one at an address.
        experiment: what is or was run.
        info: the content of run.json beside the experiment: facts digest, versions.
    """

    def __init__(self, path: Folder, experiment: Experiment, info: dict[str, Any]) -> None:
        self.path = path
        self.experiment = experiment
        self.info = info

    def __repr__(self) -> str:
        """Its name and place, and what each arm has."""
        return described(self)

    def _repr_html_(self) -> str:
        return html_of(self)

    @property
    def plot(self) -> RunPlots:
        """Charts of the run: `run.plot.stability()`; its repr names all of them."""
        # Charts stand above results, as a plotting library does above the data that it draws, and are found by name.
        plots: RunPlots = import_module("gated_lpi.report.plots").RunPlots(self)
        return plots

    @property
    def arms(self) -> tuple[str, ...]:
        """Names of the experiment's arms."""
        return tuple(arm.name for arm in self.experiment.arms)

    @property
    def local(self) -> Path:
        """The folder whose files must be on this machine.

        That is the run's own, or for a run at an address a folder in $GATED_LPI_CACHE (default ~/.cache/gated-lpi),
        named after the address, the experiment and the facts.
        """
        if not is_remote(self.path):
            return self.path
        cache = Path(os.environ.get("GATED_LPI_CACHE") or Path.home() / ".cache" / "gated-lpi")
        address = str(self.path)
        what = json.dumps([address, _as_first_written(self.experiment), self.info.get("facts_sha256")])
        digest = hashlib.sha256(what.encode()).hexdigest()[:16]
        return cache.expanduser().absolute() / "runs" / f"{re.sub(r'[^A-Za-z0-9]+', '-', address)[-60:]}-{digest}"

    def store(self, arm: str) -> ResultStore:
        """Where an arm's scores are.

        Raises:
            OptionError: no arm has this name.
        """
        return ResultStore(self.path / "results" / f"{self._known(arm)}.zarr")

    def scores(self, arm: str) -> xr.Dataset:
        """An arm's scores over its checkpoints, read lazily.

        Returns:
            `lpi (checkpoint, relation, unit)`, `lpi_mean (checkpoint, unit)` and the rest of what `attribute` returns.
                Attributes: `checkpoints`, the provenance of each; `quarantined`, those that could not be used, if there
                are any.

        Raises:
            OptionError: no arm has this name.
            DamagedError: what is there is not what was written; later, as values are read, too.
            RunError: none of its checkpoints is complete.
        """
        quarantined = self.quarantined(arm)
        try:
            scores = self.store(arm).open()
        except DamagedError:
            raise
        except RunError as error:
            if not quarantined:
                raise
            raise RunError(f"{error}. {len(quarantined)} are quarantined: {quarantined[0]['quarantined']}") from error
        return scores.assign_attrs(quarantined=Records(quarantined)) if quarantined else scores

    def split_store(self, arm: str) -> ResultStore:
        """Where the splits of an arm's changes into routing and neurons are.

        Raises:
            OptionError: no arm has this name.
        """
        return ResultStore(self.path / "results" / f"{self._known(arm)}.split.zarr")

    def split(self, arm: str) -> xr.Dataset | None:
        """How an arm's changes between consecutive checkpoints split into routing and neurons, read lazily.

        Returns:
            What `gated_lpi.split_change` returns, by relation, with a `checkpoint` dimension in front: the later one of
                each pair. None where no change was split.

        Raises:
            OptionError: no arm has this name.
            DamagedError: what is there is not what was written.
            RunError: it cannot be read.
        """
        store = self.split_store(arm)
        return store.open() if store.keys() else None

    def follow_store(self, arm: str) -> ResultStore:
        """Where it is kept what units that are followed write, serve and resemble.

        Raises:
            OptionError: no arm has this name.
        """
        return ResultStore(self.path / "results" / f"{self._known(arm)}.follow.zarr")

    def followed(self, arm: str) -> xr.Dataset | None:
        """The units of an arm that are followed (`follow.units`), checkpoint by checkpoint, read lazily.

        Returns:
            What `gated_lpi.runs.portraits.portraits` returns, with a `checkpoint` dimension in front. None where no
                units are followed.

        Raises:
            OptionError: no arm has this name.
            DamagedError: what is there is not what was written.
            RunError: it cannot be read.
        """
        store = self.follow_store(arm)
        return store.open() if store.keys() else None

    def stores(self, arm: str) -> tuple[ResultStore, ...]:
        """All that an arm has.

        Raises:
            OptionError: no arm has this name.
        """
        return self.store(arm), self.split_store(arm), self.follow_store(arm)

    def methods(self, arm: str) -> tuple[str, ...]:
        """The methods that an arm has scores of every unit by, as names of variables; `…_contrast` against foils.

        Raises:
            OptionError: no arm has this name.
            DamagedError: what is there is not what was written.
            RunError: none of its checkpoints is complete.
        """
        return self._methods_in(self.scores(arm))

    def known_file(self, arm: str) -> Folder:
        """Where it is kept which facts an arm's last checkpoint knows.

        Raises:
            OptionError: no arm has this name.
        """
        return self.path / "results" / f"{self._known(arm)}.known.json"

    def summary(self, arm: str, method: str | None = None, facts: schema.WhichFacts = "all") -> xr.Dataset:
        """Every summary metric of an arm: what `gated_lpi.summarise` makes of its scores with the experiment's options.

        It is computed once, and kept in results/ARM.summary.json, those of further methods in
        results/ARM.METHOD.summary.json, with digests of what it came from; over known facts in files with that word.

        Args:
            arm: its name.
            method: one of `methods`; None: the first of them.
            facts: "all"; or "known" at each checkpoint, or "known_last", at the arm's last one, where the experiment's
                `attribution.known` had such scores kept.

        Raises:
            OptionError: no arm has this name, it has no scores by the method or over these facts, or the options do not
                fit its checkpoints.
            DamagedError: what is there is not what was written.
            RunError: none of its checkpoints is complete.
        """
        options = self.experiment.metrics.model_dump(mode="json")
        scores = self.scores(arm)
        known = self._methods_in(scores)
        if method is not None and method not in known:
            raise OptionError(
                f"method {method!r} was asked for; arm {arm!r} has scores by {', '.join(known) or 'none'}: name it in "
                "the experiment's attribution.methods and run into a new folder"
            )
        chosen = method or next(iter(known), schema.LPI)
        if facts != "all" and schema.over_facts(chosen, facts) not in scores:
            raise OptionError(
                f"facts={facts!r} was asked for; arm {arm!r} has no {schema.over_facts(chosen, facts)}: "
                + self._why_unknown(arm, facts)
            )
        digest = self.store(arm).digest()
        file = summary_file(self.path, arm, chosen, known, facts)
        asked = ({} if chosen == schema.LPI else {"method": chosen}) | ({} if facts == "all" else {"facts": facts})
        source = made_of(digest or "", options | asked)
        summary = None if digest is None else kept_summary(file, source)
        _LOG.debug(
            "%s: metrics of arm %s by %s are %s", self.path, arm, chosen, "computed" if summary is None else "kept"
        )
        if summary is None:
            summary = summarise(scores, **self.experiment.metrics.model_dump(), method=chosen, facts=facts)
            if digest is not None:
                keep_summary(file, source, summary)
        return summary

    def to_dataset(self, facts: schema.WhichFacts = "all") -> xr.Dataset:
        """Every summary metric of every arm by every method, as one dataset.

        Scores of units are not in it, as arms need not have the same units: `scores`, or `to_datatree` for all of them.

        Args:
            facts: over which facts; see `summary`.

        Returns:
            The variables of `summary` with `arm` and `by`, the method, in front, NaN where an arm has none.
                `checkpoint` are the checkpoints of any arm in training order, with an index on `step`; `tokens` (arm,
                checkpoint) is −1 where they are unknown. Variables have `long_name` and `units`. Attributes: `run`,
                `experiment`, options of the metrics, and `missing`, the arms without results, with the reason.

        Raises:
            OptionError: no arm has a summary, and of one the options are why.
            RunError: no arm has a summary.
        """
        return as_dataset(self, facts)

    def to_dataframe(self, facts: schema.WhichFacts = "all") -> pd.DataFrame:
        """Every summary metric of every arm by every method as a table of pandas, a row a number.

        Args:
            facts: over which facts; see `summary`.

        Returns:
            The columns of `gated_lpi.results.frames.METRIC_COLUMNS`: arm, method, metric, kind, step, …, value, low,
                high, chance; missing where a metric has none.

        Raises:
            OptionError: no arm has a summary, and of one the options are why.
            RunError: no arm has a summary.
        """
        return metrics_frame(self, facts)

    def unit_frames(self, arm: str, steps: str | int = "all", rows: int = ROWS) -> Iterator[pd.DataFrame]:
        """An arm's units and their scores as tables of pandas, read a slice at a time: `next(run.unit_frames(arm))`.

        Args:
            arm: its name.
            steps: "all" checkpoints, the "last" one, or those of a training step.
            rows: units of a slice, at most.

        Yields:
            The columns of `gated_lpi.results.frames.UNIT_COLUMNS` and one of mean scores, nats, for each of `methods`
                and of what is measured of a sample of units (true effects, NaN for the others).

        Raises:
            OptionError: no arm has this name, no checkpoint this step, or units have no scores.
            DamagedError: what is there is not what was written.
            RunError: none of its checkpoints is complete.
        """
        return unit_frames(self, arm, steps, rows)

    def to_datatree(self) -> xr.DataTree:
        """Everything of every arm, read lazily: nodes ARM/scores, ARM/split and ARM/summary/METHOD.

        Raises:
            OptionError: no arm has results, and of one the options are why.
            RunError: no arm has results.
        """
        return as_datatree(self)

    def quarantine(self, arm: str) -> Quarantine:
        """Where it is kept which checkpoints of an arm could not be used.

        Raises:
            OptionError: no arm has this name.
        """
        return Quarantine(self.path / "results" / f"{self._known(arm)}.quarantine.json")

    def quarantined(self, arm: str) -> list[dict[str, Any]]:
        """The checkpoints of an arm that could not be used: `key`, `step`, `quarantined` (why), `error` (its class).

        Raises:
            OptionError: no arm has this name.
            RunError: the file is there but cannot be read.
        """
        return self.quarantine(arm).records()

    def duplicates(self, arm: str) -> list[tuple[str, ...]]:
        """Checkpoints of an arm that have the same weights under different names, by their hashes after download.

        Raises:
            OptionError: no arm has this name.
            RunError: what is there is no result store, or a later version of this package wrote it.
        """
        keys: dict[str, list[str]] = defaultdict(list)
        for record in self.store(arm).records():
            if record.get("weights_sha256"):
                keys[record["weights_sha256"]].append(record["key"])
        return [tuple(same) for same in keys.values() if len(same) > 1]

    def record(self, arm: str) -> ArmRecord | None:
        """Ablations and top units of an arm's last checkpoint; None if it has not come to them.

        Raises:
            OptionError: no arm has this name.
            RunError: the file is there but cannot be read.
        """
        advice = "delete it, and run again: the arm's last checkpoint is ablated again"
        file, what = self._record_path(arm), "ablations and top units of an arm"
        record = read_file(file, ArmRecord, what, advice)
        if record is not None and record.arm != arm:
            raise RunError(f"{file} cannot be read as {what} (it is of an arm {record.arm!r}); {advice}")
        return record

    def write_record(self, record: ArmRecord) -> None:
        """Keep an arm's record.

        Raises:
            OptionError: no arm has the record's name.
            RunError: the file could not be written.
        """
        write_file(self._record_path(record.arm), record.model_dump(mode="json"))

    def frequencies(self) -> tuple[FactFrequency, ...]:
        """How often the corpus of the trained arms has each fact, those that are asked about first.

        Returns:
            Relation, subject, object, rank, sentences and asked of each. Nothing where the experiment has no
                `[corpus]`, or before its arms are trained.

        Raises:
            RunError: the file is there but cannot be read.
        """
        return kept_frequencies(self.path / FREQUENCIES)

    def training_folder(self, arm: str) -> Path:
        """Where the checkpoints of an arm that the run trains itself are, on this machine.

        Raises:
            OptionError: no arm has this name.
        """
        return self.local / "training" / self._known(arm)

    def _why_unknown(self, arm: str, facts: str) -> str:
        """Why an arm has no scores over some facts, and what to do."""
        if facts not in get_args(schema.WhichFacts):
            return f"expected one of {', '.join(get_args(schema.WhichFacts))}"
        if facts == schema.KNOWN_LAST and self.experiment.attribution.known:
            return f"its last checkpoint could not be used when it was begun; {self.known_file(arm)} says why"
        return "set known = true in the experiment's [attribution] and run into a new folder"

    def _methods_in(self, scores: xr.Dataset) -> tuple[str, ...]:
        return tuple(name for name in self.experiment.attribution.asked() if schema.mean_of(name) in scores)

    def _record_path(self, arm: str) -> Folder:
        return self.path / "results" / f"{self._known(arm)}.json"

    def _known(self, arm: str) -> str:
        if arm not in self.arms:
            raise OptionError(f"arm {arm!r} was asked for; this run has {', '.join(self.arms)}")
        return arm


def open_run(path: str | Folder) -> Run:
    """Open a run folder to read its results.

    Args:
        path: the folder or fsspec address that `gated-lpi demo` or `gated-lpi run` wrote.

    Returns:
        The run; `run.arms` names its arms, `run.scores(arm)` is an `xarray.Dataset` over checkpoints.

    Raises:
        NoRunError: there is no run in this folder.
        RunError: its description cannot be read.
        OptionError: an address for which no fsspec package is installed.
    """
    folder = as_folder(path)
    advice = "it was written by another version, or edited. Restore it, or run again into a new folder"
    content = read_file(folder / RUN_FILE, _Description, "a run's description", advice)
    if content is None:
        raise NoRunError(f"{folder} holds no {RUN_FILE}; {_instead(folder)}")
    return Run(folder, content.experiment, dict(content.model_extra or {}))


def _instead(folder: Folder) -> str:
    """What to give in place of something that is no run: the run that it is within, or else a new one."""
    above = folder
    for _ in range(LEVELS):
        above = above.parent
        if read_text(above / RUN_FILE) is not None:
            return f"it is within a run: give that run's folder, {above}"
    if folder.exists():
        return "give the folder of a run (`gated-lpi demo` makes one)"
    return f"give the folder of a run (`gated-lpi demo --out {folder}` makes one)"


def create_run(path: str | Folder, experiment: Experiment, facts_sha256: str, corpus_sha256: str | None = None) -> Run:
    """Start a run in a new or empty folder, or take up the same experiment's run again.

    Args:
        path: the folder or fsspec address.
        experiment: what is to be run.
        facts_sha256: digest of the facts.
        corpus_sha256: digest of the corpus of an experiment that says what is in it.

    Raises:
        RunExistsError: the folder holds another run, or other files; nothing in it is touched.
        WriteError: the folder cannot be written to.
        RunError: a folder of the run is a link that leads out of it, or its description cannot be read.
        OptionError: an address for which no fsspec package is installed.
    """
    folder = as_folder(path)
    refuse_other_files(folder)
    refuse_links(folder / "results", deep=True)
    for name in ("series", "training", "figures"):
        refuse_links(folder / name)
    if read_text(folder / RUN_FILE) is not None:
        run = open_run(folder)
        differing = run.experiment.differences(experiment)
        if run.info.get("facts_sha256") != facts_sha256:
            differing.append("the facts themselves")
        if run.info.get("corpus_sha256") != corpus_sha256:
            differing.append("the corpus itself: its facts, or lines of its text files")
        if differing:
            rest = f"; and {len(differing) - SHOWN} more" if len(differing) > SHOWN else ""
            raise RunExistsError(
                f"{folder} holds another run; it differs in {'; '.join(differing[:SHOWN])}{rest}. Give another "
                "folder, or delete this one if its results are not needed"
            )
        _make(folder / "results")
        return run
    _make(folder)
    corpus = {} if corpus_sha256 is None else {"corpus_sha256": corpus_sha256}
    info = {"facts_sha256": facts_sha256, **corpus, "gated_lpi": __version__}
    write_file(folder / RUN_FILE, {"experiment": experiment.model_dump(mode="json"), **info})
    _make(folder / "results")
    return Run(folder, experiment, info)


_FIRST_KEYS = (
    "norm",
    "target",
    "estimator",
    "tolerance",
    "units",
    "positions",
    "batch_size",
    "memory",
    "readout_eps",
)


_LATER_ARM_KEYS = ("training", "group", "replicates", "family_row", "words", "bytes", "tokenizer", "trust_remote_code")


def _as_first_written(experiment: Experiment) -> dict[str, Any]:
    """The content of run.json as it was at first, in order and names, so that a name made of it stays."""
    content = experiment.model_dump(mode="json")
    for key in ("separator", "on_error"):
        if content["facts"][key] == FactsSpec.model_fields[key].default:
            del content["facts"][key]
    attribution = content["attribution"]
    if attribution["units"] == list(ALL_UNITS):
        attribution["units"] = [unit for unit in ALL_UNITS if unit != "mixer"]  # all that there were
    content["attribution"] = {key: _formerly(attribution[key]) for key in _FIRST_KEYS}
    for key, unasked in (("routing", RoutingSpec()), ("follow", FollowSpec())):
        if content[key] == unasked.model_dump():
            del content[key]
    content["training"] = experiment.training.identity()
    if content["corpus"] == CorpusSpec().model_dump(mode="json"):
        del content["corpus"]
    if content["ablation"]["text"] is None:
        del content["ablation"]["text"]
    del content["engine"]["workers"]
    for arm in content["arms"]:
        for key in _LATER_ARM_KEYS:
            if key in arm and arm[key] == Arm.model_fields[key].default:
                del arm[key]
    return content


def _formerly(value: Any) -> Any:
    return next((former for former, name in FORMER.items() if name == value), value)


def refuse_other_files(folder: Folder) -> None:
    """Refuse a folder that is no run's and not empty; what a run leaves that was killed at its beginning is nothing.

    Raises:
        RunExistsError: it holds other files.
        RunError: it cannot be read.
    """
    try:
        if read_text(folder / RUN_FILE) is None and not all(is_ours(name) or is_draft(name) for name in names(folder)):
            raise RunExistsError(f"{folder} exists and is not a run; give a new or empty folder")
    except NotADirectoryError:
        raise RunExistsError(f"{folder} is a file, not a folder; give a new or empty folder") from None
    except (OSError, ValueError) as error:
        raise RunError(
            f"{folder / RUN_FILE} cannot be read ({error}); make it readable, or give a new folder"
        ) from error


def _make(folder: Folder) -> None:
    try:
        make(folder)
    except OSError as error:
        raise unwritten(folder, error) from error
