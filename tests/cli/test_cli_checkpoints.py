"""`gated-lpi checkpoints` over a loopback hub with the suites' recorded branches."""

import json
import os
import re
import subprocess
import sys

import pytest
import test_cli
import torch
from huggingface_hub import constants
from safetensors.torch import save_file

from hub_server import LISTINGS, HubServer, recorded

ONE = "model.safetensors"


@pytest.fixture(scope="module")
def server():
    with HubServer(recorded()) as running:
        yield running


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    """Run `gated-lpi checkpoints ARGUMENTS` against a server: exit code, standard output, standard error."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_IMPLICIT_TOKEN", True)
    monkeypatch.chdir(tmp_path)

    def call(server, *arguments):
        if server is not None:
            monkeypatch.setenv("HF_ENDPOINT", server.url)
            arguments = (*arguments, "--cache-dir", tmp_path / "cache")
        return test_cli.run(monkeypatch, capsys, "checkpoints", *arguments)

    return call


def flat(text):
    return " ".join(text.split())


@pytest.mark.parametrize("repo", [repo for repo in LISTINGS if len(LISTINGS[repo]) > 1])
def test_every_branch_of_every_suite_is_shown_once(run, server, repo):
    code, out, err = run(server, repo, "--json")
    assert code == 0, err
    shown = json.loads(out)
    names = [c["revision"] for c in shown["checkpoints"] if c["repo"] == repo]
    left_out = [item["name"] for item in shown["excluded"] if item["repo"] == repo]
    assert sorted(names + left_out) == sorted(LISTINGS[repo])
    assert all(item["reason"] for item in shown["excluded"])
    assert all(c["commit"] == server.commit(c["repo"], c["revision"]) for c in shown["checkpoints"])
    code, out, _ = run(server, repo)
    assert code == 0
    assert all(name in out for name in LISTINGS[repo])


@pytest.mark.parametrize("arguments", [["ling-mini"], [repo for repo in LISTINGS if "Ling" in repo]])
def test_a_series_over_repositories(run, server, arguments):
    code, out, _ = run(server, *arguments)
    assert code == 0
    places = [out.index(f"Ling-mini-base-2.0-{n}T ") for n in (5, 10, 15, 20)]
    assert places == sorted(places)
    assert "20,000.0B" in out
    assert "the step column counts billions of tokens" in flat(out)


def test_the_table_says_what_is_left_out_and_why(run, server):
    code, out, _ = run(server, "olmoe-0924")
    assert code == 0
    assert "4 of 4 checkpoints" in out
    assert "step1000000-tokens4194B" in out
    assert "4,194.0B" in out
    assert server.commit("allenai/OLMoE-1B-7B-0924", "step5000-tokens20B")[:8] in out
    assert "left out: main: a 100B-token anneal" in flat(out)


def test_mismatches_are_shown(run, server):
    _, out, _ = run(server, "EleutherAI/pythia-70m", "--steps", "0,60k,143000")
    assert "3 of 6 checkpoints" in out
    assert "asked for 60,000 steps: nearest is 64,000 (step64000, +4,000)" in out
    _, out, _ = run(server, "EleutherAI/pythia-70m", "--tokens", "300B", "--json")
    (match,) = json.loads(out)["matches"]
    assert (match["axis"], match["key"], match["mismatch"]) == (
        "tokens",
        "step143000",
        143_000 * 2_097_152 - 300 * 10**9,
    )
    _, out, _ = run(server, "EleutherAI/pythia-70m", "--count", "3", "--spacing", "log", "--json")
    assert [c["step"] for c in json.loads(out)["checkpoints"]] == [0, 1, 143_000]
    _, out, _ = run(server, "EleutherAI/pythia-70m", "--every", "1000")
    assert "140 multiples of the asked-for distance have no checkpoint near them" in out


def test_a_stage_can_be_chosen(run, server):
    repo = "HuggingFaceTB/SmolLM3-3B-checkpoints"
    code, _, err = run(server, repo, "--count", "2")
    assert code == 2
    assert "steps begin anew within the stages" in flat(err)
    _, out, _ = run(server, repo, "--count", "2", "--stage", "stage1", "--stage", "stage2", "--json")
    assert [c["key"] for c in json.loads(out)["checkpoints"]] == ["stage1-step-40000", "stage2-step-3480000"]


def test_integrity_is_shown(run):
    contents = {1: b"aa", 2: b"bb", 3: b"aa", 5: b"cc", 6: b"dd", 7: b"ee", 8: b"ff"}
    branches = {f"step{i}": {ONE: content} for i, content in contents.items()}
    other = {"step1": {ONE: b"zz"}, "step2": {ONE: b"bb"}}
    with HubServer({"a/b": {"main": {ONE: b"ff"}, **branches}, "a/other": other}) as server:
        code, out, _ = run(server, "a/b", "--integrity", "--against", "a/other")
        assert code == 0
        assert not server.asked("resolve")
        text = flat(out)
        assert "same weights as step3" in text
        assert "identical weights: step1, step3" in text
        assert "identical weights: step2, a/other:step2" in text
        assert "gap: about 1 absent between step3 and step5" in text
        assert "main has the weights of step8" in text
        assert "7 inspected by hash before any download, 3 of them flagged" in text
        _, out, _ = run(server, "a/b", "--integrity", "--json", "--steps", "1,2,3")
        found = json.loads(out)["integrity"]
        assert found["duplicates"] == [["step1", "step3"]]
        assert found["flags"] == {"step1": ["same weights as step3"], "step2": [], "step3": ["same weights as step1"]}


def test_known_defects_are_shown(run, server):
    _, out, _ = run(server, "allenai/OLMo-2-1124-7B", "--stage", "stage1")
    assert "issues/915): stage1-step101000-tokens424B, stage1-step175000-tokens735B" in flat(out)
    _, out, _ = run(server, "allenai/OLMo-2-1124-7B", "--stage", "stage1", "--integrity", "--json")
    flags = json.loads(out)["integrity"]["flags"]["stage1-step101000-tokens424B"]
    assert any("issues/915" in flag for flag in flags)


def test_offline_shows_what_was_listed(run):
    with HubServer(recorded("allenai/OLMoE-1B-7B-0924")) as server:
        run(server, "olmoe-0924")
        count = len(server.requests)
        code, out, _ = run(server, "olmoe-0924", "--offline")
        assert code == 0
        assert "4 of 4 checkpoints" in out
        assert len(server.requests) == count


def test_a_folder(run, tmp_path):
    for name in ("checkpoint-5", "checkpoint-10", "logs"):
        (tmp_path / "run" / name).mkdir(parents=True)
        (tmp_path / "run" / name / ONE).write_text(name)
    code, out, _ = run(None, "run", "--integrity")
    assert code == 0
    assert out.index("checkpoint-5") < out.index("checkpoint-10")
    assert "left out: logs: names no step" in out


def test_a_folder_of_odd_entries(run, tmp_path):
    """Everything that is left out is shown, and nothing in a name or record ends the listing."""
    series = tmp_path / "run"
    for name in ("step-1", "step-2", "step-3", "step-" + "9" * 22, "step-\u0665", "step-7\udcff"):
        (series / name).mkdir(parents=True)
        (series / name / ONE).write_text(name[:6])
    (series / "step-2" / "consolidated.safetensors").write_text("the same in another layout")
    (series / "step-3" / "checkpoint.json").write_text('{"tokens": true}')
    (series / "README.md").write_text("")
    (series / "step-8").symlink_to("gone")
    code, out, err = run(None, "run", "--integrity")
    assert code == 0, err
    text = flat(out)
    assert "2 of 2 checkpoints" in text
    for line in (
        "left out: README.md: a file, not a folder",
        "left out: step-8: a link to nothing",
        "left out: step-9999999999999999999999: tells a step of 22 digits",
        "left out: step-3: its checkpoint.json has tokens True",
        "no part of the weights, left aside: consolidated.safetensors of step-2",
    ):
        assert line in text
    assert "step-7\\udcff" in text
    _, out, _ = run(None, "run", "--integrity", "--json")
    shown = json.loads(out)
    assert len(shown["checkpoints"]) + len(shown["excluded"]) == 8
    assert shown["integrity"]["aside"] == {"step-2": ["consolidated.safetensors"]}


def test_a_hub_of_odd_entries(run):
    branches = {
        "step1": {ONE: b"a", "tokenizer\\.json": b"{}"},
        "step" + "9" * 5000: {},
        "step5\0": {},
        "step\u0665": {},
    }
    with HubServer({"a/b": branches}) as server:
        code, out, err = run(server, "a/b", "--integrity", "--json")
    assert code == 0, err
    shown = json.loads(out)
    assert [c["key"] for c in shown["checkpoints"]] == ["step1"]
    assert {item["name"] for item in shown["excluded"]} == set(branches) - {"step1"}
    (flag,) = shown["integrity"]["flags"]["step1"]
    assert "its listing cannot be used: 'tokenizer\\\\.json': not the name of a file" in flag


def test_the_known_suites(run):
    code, out, _ = run(None)
    assert code == 0
    assert "olmoe-0924 (MoE)" in out
    told = "".join(cell for line in out.splitlines() for cell in line.split("│")[3:4])
    assert "EleutherAI/pythia-410m-seed9,step40000:abranchwithoutweights" in told.replace(" ", "")
    _, out, _ = run(None, "--json")
    assert {"pythia", "olmo-2", "ling-mini"} <= {suite["name"] for suite in json.loads(out)}


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["pythia"], 1, "Give one of its repositories: EleutherAI/pythia-14m"),
        (["nothing"], 1, "no folder here, no suite and no repository"),
        (["a/absent"], 1, "does not show the branches of a/absent"),
        (["olmoe-0924", "--steps", "1", "--tokens", "5B"], 2, "steps and tokens were given"),
        (["olmoe-0924", "--spacing", "log"], 2, "without count"),
        (["olmoe-0924", "--steps", "soon"], 2, "Expected a number such as 5000"),
        (["olmoe-0924", "--steps", "\u0661"], 2, "Expected a number such as 5000"),
        (["olmoe-0924", "--tokens", "9" * 22], 2, "more than 9,223,372,036,854,775,807, the largest number"),
        (["olmoe-0924", "--tokens", "9" * 5000 + "T"], 2, "more than 9,223,372,036,854,775,807, the largest number"),
        (["olmoe-0924", "--count", "9" * 22], 2, "count=9999999999999999999999 was given"),
        (["9" * 5000], 1, "no folder here, no suite and no repository"),
        (["--count", "3"], 2, "nothing to choose from"),
    ],
)
def test_errors_are_one_message_and_an_exit_code(run, server, arguments, code, words):
    found, _, err = run(server, *arguments)
    assert found == code
    assert words in flat(err)
    assert "Traceback" not in err


def test_the_installed_command_asks_the_hub_of_the_environment(server, tmp_path):
    environment = os.environ | {
        "HF_ENDPOINT": server.url,
        "HF_HOME": str(tmp_path),
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }
    command = [sys.executable, "-m", "gated_lpi", "checkpoints", "swiss-ai/Apertus-8B-2509", "--json"]
    shown = json.loads(subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout)
    assert [c["tokens"] for c in shown["checkpoints"]] == [210 * 10**9, 7652 * 10**9, 15 * 10**12]
    offline = environment | {"HF_HUB_OFFLINE": "1", "HF_ENDPOINT": server.url}
    again = json.loads(subprocess.run(command, check=True, capture_output=True, text=True, env=offline).stdout)
    assert again == shown


def test_continuity_says_what_breaks_off(run, tmp_path):
    """Steps 1 to 4 go on from each other, and none of them from step 0."""
    generator = torch.Generator().manual_seed(0)
    other, now, drift = (torch.randn(32, 32, generator=generator) for _ in range(3))
    for step in range(5):
        (tmp_path / f"step-{step}").mkdir()
        weights = other if step == 0 else now + 0.01 * step * drift
        save_file({"layers.0.weight": weights}, tmp_path / f"step-{step}" / ONE)
    code, out, _ = run(None, tmp_path, "--continuity")
    assert code == 0
    assert "breaks off: step-1 after step-0: layers.*.weight no more like it than two random draws, as" in flat(out)
    assert "1 kinds of matrices break off the series' own trend" in flat(out)
    code, out, _ = run(None, tmp_path, "--continuity", "--json", "--steps", "1,2,3,4")
    assert code == 0
    assert json.loads(out)["continuity"]["breaks"] == []
    _, out, _ = run(None, tmp_path, "--continuity", "--steps", "0,1")
    assert "1 of 1 pairs of neighbours are no more like each other than two random draws" in flat(out)
    assert "so few show no trend: give 4 or more, or look for distances near 1.41 yourself" in flat(out)
    assert re.search(r"step-1 \S+ 1\.4", flat(out))
