"""An odd checkpoint costs itself alone: it is quarantined by name, whatever it brings about, and the run goes on."""

import errno
import html
import json
import re
import shutil
import sys

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import PreTrainedTokenizerFast

from gated_lpi import open_run
from gated_lpi.cli import main
from gated_lpi.errors import ModelError, RunError
from gated_lpi.experiments import Experiment
from gated_lpi.report import build_report
from gated_lpi.results.store import MisfitError, ResultStore
from gated_lpi.runs import run_experiment, scoring
from tiny_runs import BY_LPI, Notes, tiny_experiment
from tiny_text import CAPITALS, WORDS, save_checkpoint, save_facts

STEPS = (0, 10, 20, 30)


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    folder = tmp_path_factory.mktemp("good")
    for seed, step in enumerate(STEPS):
        save_checkpoint(folder / f"step-{step}", "Qwen3", seed)
    return folder


@pytest.fixture
def series(good, tmp_path):
    return shutil.copytree(good, tmp_path / "series")


def experiment(tmp_path, *folders):
    arms = ({"name": folder.name, "checkpoints": str(folder)} for folder in folders)
    return tiny_experiment(save_facts(tmp_path / "facts", [CAPITALS]), *arms, attribution=BY_LPI)


def reconfigure(folder, **changes):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))


def with_vocabulary(folder, words):
    tokenizer = Tokenizer(WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]").save_pretrained(folder)


def resaved(folder, case, **changes):
    shutil.rmtree(folder)
    save_checkpoint(folder, case, seed=1, **changes)


SPECIAL = ["[PAD]", "[UNK]"]
SWAPPED = [{"Paris": "Tokyo", "Tokyo": "Paris"}.get(word, word) for word in WORDS]
ODD = {
    "an unknown activation": (lambda f: reconfigure(f, hidden_act="nonesuch"), None, "nonesuch"),
    "sizes that do not fit each other": (lambda f: reconfigure(f, num_key_value_heads=3), None, ""),
    "another width": (lambda f: resaved(f, "Qwen3", hidden_size=48), "MisfitError", r"shape differs \(.*width 48"),
    "another depth": (lambda f: resaved(f, "Qwen3", num_hidden_layers=3), "MisfitError", r"layers 3.*layers 2"),
    "another vocabulary": (lambda f: resaved(f, "Qwen3", vocab_size=70), "MisfitError", r"vocabulary 70"),
    "another family": (lambda f: resaved(f, "Llama"), "MisfitError", r"family differs \(Llama; Qwen3 in step-0\)"),
    "experts": (lambda f: resaved(f, "Qwen3-MoE"), "MisfitError", r"experts 8.*experts 0"),
    "a target without a token": (
        lambda f: with_vocabulary(f, [*SPECIAL, *(word for word in WORDS if word != "Tokyo")]),
        "FactsError",
        r"(?s)subject 'Japan', object 'Tokyo'.*special or unknown token",
    ),
    "targets that are swapped": (
        lambda f: with_vocabulary(f, [*SPECIAL, *SWAPPED]),
        "MisfitError",
        r"the token ids of the targets differ from those of step-0",
    ),
    "a vocabulary in another order": (
        lambda f: with_vocabulary(f, [*SPECIAL, *reversed(WORDS)]),
        "MisfitError",
        r"the token ids of the prompts differ from those of step-0; the token ids of the targets differ",
    ),
}


QUICK = ("another width", "a target without a token", "targets that are swapped")  # one of each kind of check


@pytest.mark.parametrize("odd", [pytest.param(odd, marks=[] if odd in QUICK else [pytest.mark.slow]) for odd in ODD])
@pytest.mark.usefixtures("undrawn")
def test_an_odd_checkpoint_is_quarantined_by_name_and_the_run_goes_on(series, tmp_path, odd):
    spoil, error, message = ODD[odd]
    spoil(series / "step-10")
    run = run_experiment(experiment(tmp_path, series), tmp_path / "run")
    assert run.scores("series")["step"].values.tolist() == [0, 20, 30]
    (record,) = run.quarantined("series")
    assert (record["key"], record["step"]) == ("step-10", 10)
    assert error is None or record["error"] == error
    assert re.search(message, record["quarantined"])
    assert run.record("series").ablation.checkpoint == "step-30"
    assert "step-10 could not be used" in build_report(run).html.read_text()


def test_a_padding_id_beyond_the_vocabulary_costs_nothing_and_is_said(series, tmp_path):
    reconfigure(series / "step-10", pad_token_id=999)
    notes = Notes()
    run = run_experiment(experiment(tmp_path, series), tmp_path / "run", notes)
    assert run.scores("series")["step"].values.tolist() == [0, 10, 20, 30]
    (said,) = [note for note in notes.said if "999" in note]
    assert said.startswith("series: step-10: pad_token_id = 999 of its config is no row")


@pytest.mark.usefixtures("undrawn")
def test_what_is_skipped_replaced_or_alike_is_in_the_record_and_said_once(series, tmp_path):
    content = experiment(tmp_path, series).model_dump() | {"name": "test"}
    spec = Experiment.model_validate(content | {"facts": content["facts"] | {"on_error": "skip"}})
    odd = {
        "name": "odd",
        "prompt_templates": ["The {} is"],
        "samples": [
            {"subject": "sky", "object": "blue"},
            {"subject": "sun", "object": "nowhere"},
            {"subject": "sky", "object": "blue sky"},
        ],
    }
    (tmp_path / "facts" / "odd.json").write_text(json.dumps(odd))
    notes = Notes()
    run = run_experiment(spec, tmp_path / "run", notes)
    records = run.store("series").records()
    assert [record["n_skipped"] for record in records] == [1, 1, 1, 1]
    assert "object 'nowhere'" in records[0]["skipped"][0]
    assert records[0]["bos_added"] == 0
    assert [note for note in notes.said if "nowhere" in note] == [
        f"series: step-0: 1 fact is skipped: {records[0]['skipped'][0]}"
    ]
    assert len([note for note in notes.said if "share their first token" in note]) == 1
    assert run.scores("series")["n_prompts"].values.tolist() == [4, 2]
    page = html.unescape(build_report(run).html.read_text())
    assert page.count(f"1 fact is skipped: {records[0]['skipped'][0]}") == 1


def test_a_separator_is_part_of_what_is_asked(series, tmp_path):
    plain = experiment(tmp_path, series)
    content = plain.model_dump()
    joined = Experiment.model_validate(content | {"facts": content["facts"] | {"separator": "\n"}})
    first, second = (run_experiment(spec, tmp_path / name) for spec, name in ((plain, "a"), (joined, "b")))
    assert first.scores("series")["text"].values[0] == "The capital of France is Paris"
    assert second.scores("series")["text"].values[0] == "The capital of France is\nParis"
    assert first.info["facts_sha256"] != second.info["facts_sha256"]


def test_tokens_that_no_prompt_has_may_move(series, tmp_path):
    words = [*SPECIAL, *WORDS, "later"]
    with_vocabulary(series / "step-10", words)
    run = run_experiment(experiment(tmp_path, series), tmp_path / "run")
    assert run.quarantined("series") == []
    digests = [record["tokenizer_sha256"] for record in run.store("series").records()]
    assert digests[0] != digests[1]
    assert digests[0] == digests[2]


def test_a_store_of_before_goes_on(series, tmp_path):
    spec = experiment(tmp_path, series)
    shutil.move(series / "step-30", tmp_path / "step-30")
    run = run_experiment(spec, tmp_path / "run")
    file = run.path / "results" / "series.zarr" / "zarr.json"
    content = json.loads(file.read_text())
    for record in content["attributes"]["checkpoints"]:
        for key in ("family", "shape", "prompts_sha256", "targets_sha256", "tokenizer_sha256"):
            del record[key]
    for key in ("format", "sha256", "digests"):
        del content["attributes"][key]
    file.write_text(json.dumps(content))
    (run.path / "results" / "series.commit.json").unlink()
    shutil.move(tmp_path / "step-30", series / "step-30")
    save_checkpoint(series / "step-40", "Llama", 4)
    run = run_experiment(spec, tmp_path / "run")
    records = run.store("series").records()
    assert ["family" in record for record in records] == [False, False, False, True]
    assert [record["key"] for record in run.quarantined("series")] == ["step-40"]


class Broken(Exception):
    """Stands for an error that nobody foresaw."""


def failing(monkeypatch, error, *keys):
    load = scoring.load_checkpoint

    def loaded(checkpoint, *how):
        if checkpoint.key in keys:
            raise error
        return load(checkpoint, *how)

    monkeypatch.setattr(scoring, "load_checkpoint", loaded)


def test_an_unforeseen_error_is_told_with_its_class_and_place(series, tmp_path, monkeypatch):
    failing(monkeypatch, Broken("no\nidea"), "step-10", "step-20")
    run = run_experiment(experiment(tmp_path, series), tmp_path / "run")
    assert run.scores("series")["step"].values.tolist() == [0, 30]
    for record in run.quarantined("series"):
        assert record["error"] == "Broken"
        assert record["quarantined"].startswith("Broken: no (test_runs_odd_checkpoints.py, line ")


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EIO, "Input/output error"),
        RuntimeError("unable to mmap 9 bytes from file <x>: Cannot allocate memory (12)"),
        RuntimeError("can't start new thread"),
        KeyboardInterrupt(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_is_the_machines_fault_ends_the_run(series, tmp_path, monkeypatch, error):
    failing(monkeypatch, error, "step-10")
    spec = experiment(tmp_path, series)
    with pytest.raises(type(error)):
        run_experiment(spec, tmp_path / "run")
    monkeypatch.undo()
    run = run_experiment(spec, tmp_path / "run")
    assert run.scores("series")["step"].values.tolist() == list(STEPS)
    assert run.quarantined("series") == []


def test_nor_does_memory_count_against_a_checkpoint_that_could_not_be_loaded_for_it(series, tmp_path, monkeypatch):
    wrapped = ModelError("its weights cannot be read (no more)")
    wrapped.__cause__ = MemoryError()
    failing(monkeypatch, wrapped, "step-10")
    with pytest.raises(MemoryError):
        run_experiment(experiment(tmp_path, series), tmp_path / "run")
    assert open_run(tmp_path / "run").quarantined("series") == []


def test_a_fault_of_all_is_no_fault_of_the_first_two(series, tmp_path, monkeypatch):
    spec = experiment(tmp_path, series)
    failing(monkeypatch, Broken("no idea"), *(f"step-{step}" for step in STEPS))
    with pytest.raises(RunError, match=r"step-0 of series and step-10 of series failed with Broken.*before anything"):
        run_experiment(spec, tmp_path / "run")
    monkeypatch.undo()
    run = run_experiment(spec, tmp_path / "run")
    assert run.quarantined("series") == []
    assert run.scores("series").sizes["checkpoint"] == 4


def test_facts_that_no_tokenizer_takes_end_the_run(series, tmp_path):
    for step in STEPS:
        ODD["a target without a token"][0](series / f"step-{step}")
    with pytest.raises(RunError, match=r"(?s)failed with FactsError.*'Tokyo'"):
        run_experiment(experiment(tmp_path, series), tmp_path / "run")


@pytest.mark.slow
@pytest.mark.usefixtures("undrawn")
def test_an_arm_without_any_usable_checkpoint_leaves_the_others_alone(series, tmp_path, monkeypatch, capsys):
    shutil.copytree(series, tmp_path / "bad")
    for step in STEPS:
        reconfigure(tmp_path / "bad" / f"step-{step}", model_type="nonesuch")
    notes = Notes()
    run = run_experiment(experiment(tmp_path, tmp_path / "bad", series), tmp_path / "run", notes)
    assert "bad: none of its checkpoints could be used, 4 are quarantined: no results" in notes.said
    assert run.scores("series").sizes["checkpoint"] == 4
    page = build_report(run).html.read_text()
    assert "Arm bad is left out" in page
    assert page.count("nonesuch") >= len(STEPS)  # why, for every one of them
    monkeypatch.setattr(sys, "argv", ["gated-lpi", "metrics", str(run.path), "--json"])
    with pytest.raises(SystemExit) as stop:
        main()
    assert not stop.value.code
    out, err = capsys.readouterr()
    assert list(json.loads(out)) == ["series"]
    assert "bad: no results:" in err
    assert "4 are quarantined" in " ".join(err.split())


@pytest.mark.parametrize("missing", ["lpi", "expert"])
def test_a_checkpoint_without_what_the_others_have_is_refused(tmp_path, missing):
    from tiny_store import record, scores

    store = ResultStore(tmp_path / "arm.zarr")
    extra = scores(0).assign(expert=("unit", range(6)))
    store.append(extra, record(0))
    with pytest.raises(MisfitError, match=f"has no {missing}"):
        store.append(extra.drop_vars(missing), record(2))
    assert store.keys() == ["step-0"]


def test_a_count_beyond_any_array_is_refused(tmp_path):
    from tiny_store import record, scores

    store = ResultStore(tmp_path / "arm.zarr")
    store.append(scores(0), record(0))
    with pytest.raises(MisfitError, match="the step of big are more than arrays can hold"):
        store.append(scores(2), {"key": "big", "step": 10**400})
