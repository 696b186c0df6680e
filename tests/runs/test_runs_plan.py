"""What an experiment would take, from recorded listings; nothing is downloaded and nothing made."""

import json
import re
import sys

import pytest

from gated_lpi import load_facts
from gated_lpi.checkpoints import Hub, list_local
from gated_lpi.cli import main
from gated_lpi.errors import OptionError
from gated_lpi.experiments import Experiment, preset
from gated_lpi.runs.plan import plan
from gated_lpi.training import ArmSpec, TrainingSpec
from gated_lpi.training.arms import new_model
from gated_lpi.training.corpus import build_corpus
from gated_lpi.training.tokenizer import train_tokenizer
from gated_lpi.training.trainer import planned_tokens, train_arm

ENDPOINT = "https://hub.test"
LISTED = {
    "allenai/OLMoE-1B-7B-0924": (
        13_838_000_000,
        ("step10000-tokens41B", "step100000-tokens419B", "step600000-tokens2516B", "step1200000-tokens5033B"),
    ),
    "allenai/OLMo-7B-0424-hf": (
        13_776_000_000,
        ("step10000-tokens41B", "step100000-tokens419B", "step600000-tokens2515B"),
    ),
}


@pytest.fixture
def recorded(tmp_path):
    """A cache in which the two repositories of the paper's preset were listed once."""
    root = tmp_path / "cache" / ".gated-lpi" / re.sub(r"\W+", "-", ENDPOINT.split("://")[1])
    for repo, (size, branches) in LISTED.items():
        folder = root / repo.replace("/", "--")
        folder.mkdir(parents=True)
        commits = {name: f"{number:040x}" for number, name in enumerate(("main", *branches), start=1)}
        (folder / "branches.json").write_text(json.dumps(commits))
        for name, commit in commits.items():
            files = [{"name": "config.json", "size": 700, "sha256": "", "git_oid": "c" * 40}]
            for half in (1, 2):
                shard = f"model-0000{half}-of-00002.safetensors"
                digest = f"{hash_of(repo, name, half):064x}"
                files.append({"name": shard, "size": size // 2, "sha256": digest, "git_oid": ""})
            (folder / f"{commit}.json").write_text(json.dumps({"files": files, "shards": None}))
    return tmp_path / "cache"


def hash_of(*parts):
    return int.from_bytes("/".join(map(str, parts)).encode()[-30:], "big")


def paper(cache, **storage):
    return preset("paper").with_settings(
        storage={"cache_dir": str(cache), "endpoint": ENDPOINT, "offline": True, **storage}
    )


def test_the_recorded_listings_are_those_that_a_hub_reads(recorded):
    hub = Hub(endpoint=ENDPOINT, cache_dir=recorded, offline=True)
    assert len(hub.branches("allenai/OLMoE-1B-7B-0924")) == 5


def test_the_papers_preset_is_planned_from_its_listings(recorded):
    made = plan(paper(recorded), price_per_hour=2.0, flops=20e12)
    moe, dense = made.arms
    assert moe.checkpoints == LISTED["allenai/OLMoE-1B-7B-0924"][1]
    assert dense.checkpoints == LISTED["allenai/OLMo-7B-0424-hf"][1]
    assert moe.download == pytest.approx(4 * 13.838e9, rel=1e-6)
    assert moe.disk == pytest.approx(2 * 13.838e9, rel=1e-6)
    assert 27e9 < moe.memory < 36e9  # 6.9B parameters in float32, and the working set
    assert made.total.download == moe.download + dense.download
    assert made.total.cost == pytest.approx(2.0 * made.total.seconds / 3600)
    assert made.total.seconds > made.total.download / 100e6 * 0.99


def test_the_disk_holds_what_the_settings_say(recorded):
    kept, ahead, none = (
        plan(spec).arms[0].disk
        for spec in (
            paper(recorded, keep_downloads=True),
            paper(recorded).with_settings(engine={"prefetch": 2}),
            paper(recorded).with_settings(engine={"prefetch": 0}),
        )
    )
    assert [round(size / 13.838e9) for size in (kept, ahead, none)] == [4, 3, 1]
    assert plan(paper(recorded, disk_budget="20GB")).arms[0].disk == 20e9


def test_the_command_prints_a_plan_and_makes_nothing(recorded, tmp_path, monkeypatch, capsys):
    file = tmp_path / "experiment.toml"
    storage = f'[storage]\ncache_dir = "{recorded}"\nendpoint = "{ENDPOINT}"\noffline = true\n'
    arm = '[[arms]]\nname = "a"\nseries = "allenai/OLMoE-1B-7B-0924"\nsteps = ["90K"]\n'
    file.write_text(f'name = "x"\n{storage}{arm}')
    before = sorted(tmp_path.rglob("*"))
    for extra in ([], ["--json", "--price", "3", "--flops", "20T"]):
        monkeypatch.setattr(
            sys, "argv", ["gated-lpi", "run", str(file), "--out", str(tmp_path / "r"), "--plan", *extra]
        )
        main_exit()
        shown = capsys.readouterr().out
    assert sorted(tmp_path.rglob("*")) == before
    found = json.loads(shown)
    assert found["total"]["download"] == pytest.approx(13.838e9, rel=1e-6)
    assert found["arms"][0]["notes"][0].startswith("asked for 90,000 steps, nearest is 100,000")
    assert found["total"]["cost"] > 0


def main_exit():
    with pytest.raises(SystemExit) as stop:
        main()
    assert not stop.value.code


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "experiment file or --preset"),
        (["--preset", "demo"], "--out"),
        (["--preset", "demo", "--out", "nowhere://bucket/run"], "Protocol not known"),
        (["--preset", "demo", "--out", "x", "--json"], "belong to --plan"),
        (["--preset", "none", "--out", "x"], "demo, paper, pythia-160m"),
    ],
)
def test_what_does_not_go_together_is_refused(arguments, message, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["gated-lpi", "run", *arguments])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 2
    assert message in " ".join(capsys.readouterr().err.split())


def test_an_arm_that_is_aligned_with_a_trained_one_is_planned_from_its_steps(tmp_path):
    tokens = planned(tmp_path, {})
    folder = tmp_path / "series"
    for step, seen in tokens.items():
        (folder / f"step-{7 * step}").mkdir(parents=True)
        (folder / f"step-{7 * step}" / "checkpoint.json").write_text(json.dumps({"tokens": seen}))
        (folder / f"step-{7 * step}" / "model.safetensors").write_bytes(b"0" * 1000)
    made = plan(aligned(folder))
    assert [arm.arm for arm in made.arms] == ["trained", "other"]
    assert made.arms[0].notes[0].startswith("trained by the run: ")
    assert made.arms[1].checkpoints == tuple(f"step-{7 * step}" for step in tokens)
    assert made.arms[1].seconds > 0


def test_an_alignment_that_will_find_nothing_is_said_before_anything_is_trained(tmp_path):
    folder = tmp_path / "series" / "step-1"
    folder.mkdir(parents=True)
    (folder / "checkpoint.json").write_text(json.dumps({"tokens": 10**12}))
    with pytest.raises(OptionError, match=r"arm 'other': no checkpoint of .* is within 10% .*'trained'"):
        plan(aligned(folder.parent))


TRAINING = {
    "steps": 6,
    "batch_size": 4,
    "checkpoints": 4,
    "size": {"hidden": 16, "layers": 1, "heads": 2, "kv_heads": 1, "experts": 4, "expert_width": 8, "vocab_size": 300},
}


def aligned(folder):
    arms = [
        {"name": "trained", "train": "moe"},
        {"name": "other", "series": str(folder), "tokens_aligned_with": "trained"},
    ]
    return Experiment.model_validate({"name": "x", "training": TRAINING, "arms": arms})


def planned(tmp_path, changes):
    """Tokens by step as they are planned, once they are known to be those of the training itself."""
    spec = TrainingSpec.model_validate(TRAINING | changes)
    corpus = build_corpus(load_facts("builtin"))
    tokenizer = train_tokenizer(corpus, spec.size.vocab_size)
    found = planned_tokens(spec, corpus, tokenizer)
    train_arm(ArmSpec(name="trained", kind="moe"), spec, corpus, tokenizer, tmp_path / "trained")
    assert found == {c.step: c.tokens for c in list_local(tmp_path / "trained")}
    return found


def test_planned_tokens_are_those_of_the_training_whatever_the_context(tmp_path):
    found = planned(tmp_path, {"context": 8, "loss": "all", "seed": 3})
    assert next(iter(found)) == 0
    assert all(tokens <= step * 4 * 8 for step, tokens in found.items())


@pytest.mark.parametrize("kind", ["moe", "dense_active", "dense_total", "moe_shared"])
def test_training_is_estimated_by_the_parameters_that_a_token_uses(kind):
    size = TRAINING["size"] | {"experts": 4, "experts_per_token": 2, "normalise_gates": False}
    training = TRAINING | {"size": size}
    spec = Experiment.model_validate({"name": "x", "training": training, "arms": [{"name": "a", "train": kind}]})
    (arm,) = plan(spec, flops=1e9, price_per_hour=3.6).arms
    corpus = build_corpus(load_facts("builtin"))
    tokenizer = train_tokenizer(corpus, spec.training.size.vocab_size)
    model = new_model(ArmSpec(name="a", kind=kind), spec.training, tokenizer)
    parameters = sum(p.numel() for p in model.parameters())
    idle = sum(p.numel() for name, p in model.named_parameters() if ".experts." in name)
    idle *= {"moe": 1 / 2, "moe_shared": 2 / 3}.get(kind, 0)
    tokens = planned_tokens(spec.training, corpus, tokenizer)
    assert arm.training == pytest.approx(6 * (parameters - idle) * max(tokens.values()) / 1e9)
    assert arm.seconds > arm.training
    assert arm.cost == pytest.approx(arm.seconds * 3.6 / 3600)
    assert arm.disk == 4 * parameters * len(arm.checkpoints)
    assert arm.memory >= 16 * parameters
    assert arm.checkpoints == tuple(f"step-{step}" for step in tokens)
    assert arm.download == 0


def test_disk_of_trained_arms_adds_up():
    arms = [{"name": "a", "train": "moe"}, {"name": "b", "train": "dense_active"}]
    made = plan(Experiment.model_validate({"name": "x", "training": TRAINING, "arms": arms}))
    assert made.total.disk == sum(arm.disk for arm in made.arms) > 0
    assert made.total.training == sum(arm.training for arm in made.arms)
