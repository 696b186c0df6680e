"""Experiments that say what their arms are trained on: more facts, own texts, frequencies."""

import json

import pytest
from pydantic import ValidationError

from gated_lpi.errors import FactsError, RunExistsError
from gated_lpi.experiments import Experiment, load_experiment
from gated_lpi.facts import load_facts
from gated_lpi.results import open_run, verify_run
from gated_lpi.runs import run_experiment
from gated_lpi.runs.train import corpus_of
from gated_lpi.training import CorpusSpec
from tiny_runs import QUICK, TRAINING, Notes, as_toml

ASKED = "people:n=12,relations=2,objects=6,asked=4"


def experiment(corpus, **changes):
    content = {
        "name": "corpus",
        "facts": {"source": ASKED},
        "arms": [{"name": "moe", "train": "moe"}],
        "training": TRAINING | {"context": 64},
        "attribution": {"methods": ["lpi"], "units": ["ffn", "attention", "heads"]},
        "corpus": corpus,
        **QUICK,
    }
    return Experiment.model_validate(content | changes)


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    file = tmp_path_factory.mktemp("texts") / "own.txt"
    file.write_text("A line of one's own.\nAnd another.\n", encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def spec(text):
    return experiment({"facts": ["people:n=12,relations=2,objects=6"], "texts": [str(text)], "frequency": 1.0})


@pytest.fixture(scope="module")
def run(spec, tmp_path_factory):
    return run_experiment(spec, tmp_path_factory.mktemp("runs") / "run")


def test_a_run_is_trained_on_all_and_asked_about_some(run, spec):
    assert run.scores("moe").sizes["relation"] == 2
    trained = json.loads((run.training_folder("moe") / "arm.json").read_text())
    corpus = corpus_of(spec, spec.facts.load())
    assert trained["corpus_sha256"] == corpus.sha256 == open_run(run.path).info["corpus_sha256"]
    assert len(corpus.texts) == 12 * 2 * 4 + 2
    assert run.record("moe").ablation.n_prompts == 4 * 2


def test_frequencies_are_kept_and_read_without_training(run):
    found = open_run(run.path).frequencies()
    birthplaces = [fact for fact in found if fact.relation == "people birthplace" and fact.sentences]
    assert sorted(fact.rank for fact in birthplaces) == list(range(1, 13))
    assert [fact.rank for fact in birthplaces if fact.asked] == [2, 5, 8, 11]
    assert [fact.sentences * fact.rank for fact in birthplaces] == pytest.approx([birthplaces[0].sentences * 2] * 12)
    assert sum(fact.sentences for fact in birthplaces) == pytest.approx(12 * 4)


def test_damaged_frequencies_are_found_and_written_anew(run, spec):
    file = run.path / "frequencies.json"
    sound = file.read_text()
    file.write_text(sound.replace("true", "false", 1))
    assert [(finding.what, finding.status) for finding in verify_run(run)] == [("corpus", "damaged")]
    run_experiment(spec, run.path)
    assert file.read_text() == sound
    assert verify_run(run) == []


def test_a_run_refuses_texts_that_have_changed(run, spec, text):
    before = text.read_text()
    text.write_text(before + "A third line.\n")
    with pytest.raises(RunExistsError, match=r"differs in the corpus itself: its facts, or lines of its text files"):
        run_experiment(spec, run.path)
    text.write_text(before)
    with pytest.raises(RunExistsError, match=r"corpus\.frequency \(1\.0 there, 0\.5 given\)"):
        run_experiment(experiment(spec.corpus.model_dump() | {"frequency": 0.5}), run.path)


def test_without_a_corpus_nothing_of_it_is_kept(tmp_path):
    plain = experiment({})
    run = run_experiment(plain, tmp_path, Notes())
    assert not (tmp_path / "frequencies.json").exists()
    assert run.frequencies() == ()
    assert "corpus_sha256" not in run.info
    assert corpus_of(plain, plain.facts.load()).texts == corpus_of(plain, load_facts(ASKED)).texts


def test_a_corpus_that_cannot_be_is_refused(tmp_path):
    with pytest.raises(ValidationError, match=r"corpus was given, but no arm has `train`"):
        experiment({"frequency": 1.0}, arms=[{"name": "a", "checkpoints": "folder"}])
    with pytest.raises(ValidationError, match="frequency"):
        CorpusSpec(frequency=-1)
    other = experiment({"facts": ["people:n=12,relations=2,objects=5"]})
    with pytest.raises(FactsError, match=r"has the object .* in relation 'people birthplace'.*same seed and objects"):
        run_experiment(other, tmp_path / "new")
    assert not (tmp_path / "new").exists()
    absent = experiment({"texts": [str(tmp_path / "absent.txt")]})
    with pytest.raises(FactsError, match=r"absent\.txt cannot be read"):
        run_experiment(absent, tmp_path / "new")


def test_a_list_of_sources_is_one_set_and_a_file_can_say_so(tmp_path):
    sources = ["two-hop:n=2", "people:n=3,relations=1"]
    spec = experiment({"facts": ["people:n=9,relations=1"]}, facts={"source": sources})
    (tmp_path / "file.toml").write_text(as_toml(spec))
    assert load_experiment(tmp_path / "file.toml") == spec
    facts = spec.facts.load()
    assert facts.sha256 == load_facts(";".join(sources)).sha256
    assert experiment({}, facts={"source": sources[:1]}).facts.load().sha256 == load_facts(sources[0]).sha256
