"""Series from a loopback hub: what is in them, what is left out and why, without a network and with a bad one."""

import shutil
import socket
import time

import pytest

from gated_lpi.checkpoints import list_series
from gated_lpi.errors import CheckpointError
from gated_lpi.loading import load_model
from hub_server import LISTINGS, HubServer, recorded

B = 10**9


@pytest.fixture(scope="module")
def suites_hub():
    with HubServer(recorded()) as server:
        yield server


def shown(series):
    return [(c.key, c.stage, c.step, None if c.tokens is None else c.tokens / B) for c in series.checkpoints]


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (
            "olmoe-0924",
            [
                ("step5000-tokens20B", "", 5000, 20),
                ("step10000-tokens41B", "", 10_000, 41),
                ("step1000000-tokens4194B", "", 1_000_000, 4194),
                ("step1220000-tokens5117B", "", 1_220_000, 5117),
            ],
        ),
        (
            "allenai/OLMoE-1B-7B-0125",
            [
                ("step1000-tokens4B", "", 1000, 4),
                ("stage2-ingredient1-step100-tokens1B", "stage2-ingredient1", 100, 1),
            ],
        ),
        (
            "allenai/OLMo-2-1124-7B",
            [
                ("stage1-step101000-tokens424B", "stage1", 101_000, 424),
                ("stage1-step175000-tokens735B", "stage1", 175_000, 735),
                ("stage2-ingredient1-step1000-tokens5B", "stage2-ingredient1", 1000, 5),
                ("stage2-ingredient2-step1000-tokens5B", "stage2-ingredient2", 1000, 5),
            ],
        ),
        (
            "allenai/Olmo-3-1025-7B",
            [
                ("stage1-step1000", "stage1", 1000, None),
                ("stage1-step20000", "stage1", 20_000, None),
                ("stage2-step47684", "stage2", 47_684, None),
                ("stage3-step100", "stage3", 100, None),
            ],
        ),
        (
            "EleutherAI/pythia-70m",
            [
                ("step0", "", 0, 0),
                ("step1", "", 1, 2_097_152 / B),
                ("step512", "", 512, 512 * 2_097_152 / B),
                ("step1000", "", 1000, 2.097152),
                ("step64000", "", 64_000, 134.217728),
                ("step143000", "", 143_000, 299.892736),
            ],
        ),
        (
            "amber",
            [("ckpt_000", "", 0, 3.4976), ("ckpt_010", "", 10, 38.4736), ("ckpt_358", "", 358, 1255.6384)],
        ),
        (
            "smollm3",
            [
                ("stage1-step-40000", "stage1", 40_000, 94.37184),
                ("stage1-step-3440000", "stage1", 3_440_000, 8115.97824),
                ("stage2-step-3480000", "stage2", 3_480_000, 8210.35008),
                ("stage3-step-4720000", "stage3", 4_720_000, 11135.87712),
                ("lc-4k-to-32k-step-4000", "lc-4k-to-32k", 4000, None),
                ("lc-4k-to-32k-step-20000", "lc-4k-to-32k", 20_000, None),
                ("lc-32k-to-64k-step-4000", "lc-32k-to-64k", 4000, None),
            ],
        ),
        (
            "swiss-ai/Apertus-8B-2509",
            [
                ("step50000-tokens210B", "", 50_000, 210),
                ("step1750000-tokens7652B", "", 1_750_000, 7652),
                ("step2627139-tokens15T", "", 2_627_139, 15_000),
            ],
        ),
        (
            "stanford-crfm/alias-gpt2-small-x21",
            [
                ("checkpoint-0", "", 0, None),
                ("checkpoint-5000", "", 5000, None),
                ("checkpoint-400000", "", 400_000, None),
            ],
        ),
    ],
)
def test_schemes_of_the_suites(suites_hub, hub_of, source, expected):
    series = list_series(source, hub=hub_of(suites_hub))
    found = shown(series)
    assert [row[:3] for row in found] == [row[:3] for row in expected]
    assert [row[3] for row in found] == [pytest.approx(row[3]) if row[3] else row[3] for row in expected]
    names = {c.revision for c in series.checkpoints} | {item.name for item in series.excluded}
    assert names == set(LISTINGS[series.checkpoints[0].repo]), "a branch is neither taken nor listed as left out"


def test_commits_are_pinned(suites_hub, hub_of):
    repo = "allenai/OLMoE-1B-7B-0924"
    series = list_series(repo, hub=hub_of(suites_hub))
    first = series.checkpoints[0]
    assert (first.path, first.repo, first.revision) == (None, repo, "step5000-tokens20B")
    assert first.commit == suites_hub.commit(repo, "step5000-tokens20B")
    assert series.main.commit == suites_hub.commit(repo, "main")
    assert len(suites_hub.asked(f"GET /api/models/{repo}/refs")) >= 1


@pytest.mark.parametrize(
    ("repo", "name", "reason"),
    [
        ("allenai/OLMoE-1B-7B-0924", "main", "anneal from step1200000"),
        ("HuggingFaceTB/SmolLM3-3B-checkpoints", "main", "holds no model"),
        ("HuggingFaceTB/SmolLM3-3B-checkpoints", "it-SFT", "instruction tuning"),
        ("allenai/Olmo-3-1025-7B", "main", "default branch"),
        ("allenai/Olmo-3-1025-7B", "stage2-step47684-mix-a-from-stage1-step1413814", "side run"),
        ("allenai/OLMo-7B-0424-hf", "anneal-from-step600000", "names no step"),
    ],
)
def test_what_is_left_out_is_listed_with_the_reason(suites_hub, hub_of, repo, name, reason):
    excluded = {item.name: item.reason for item in list_series(repo, hub=hub_of(suites_hub)).excluded}
    assert reason in excluded[name]


def test_parallel_ingredients_are_noted(suites_hub, hub_of):
    notes = list_series("allenai/OLMo-2-1124-7B", hub=hub_of(suites_hub)).notes
    assert any("stage2-ingredient1, stage2-ingredient2 are parallel runs" in note for note in notes)


def test_early_training_in_a_repository_of_its_own_joins(suites_hub, hub_of):
    series = list_series("allenai/OLMo-2-0425-1B", hub=hub_of(suites_hub))
    assert [(c.key, c.repo.rsplit("/")[-1]) for c in series.checkpoints] == [
        ("stage1-step1000-tokens3B", "OLMo-2-0425-1B-early-training"),
        ("stage1-step10000-tokens21B", "OLMo-2-0425-1B"),
    ]
    rival = next(item for item in series.excluded if item.name == "stage1-step10000-tokens21B")
    assert rival.repo == "allenai/OLMo-2-0425-1B-early-training"
    assert "claims the same step as stage1-step10000-tokens21B of allenai/OLMo-2-0425-1B" in rival.reason


def test_a_joined_repository_that_is_gone_is_listed(hub_of):
    with HubServer(recorded("allenai/OLMo-2-0425-1B")) as server:
        series = list_series("allenai/OLMo-2-0425-1B", hub=hub_of(server))
    assert len(series.checkpoints) == 1
    gone = next(item for item in series.excluded if "early-training" in item.name)
    assert "not to be had" in gone.reason


@pytest.mark.parametrize(
    "source",
    ["ling-mini", [repo for repo in LISTINGS if "Ling" in repo], [repo for repo in LISTINGS if "Ling" in repo][::-1]],
)
def test_a_series_over_repositories(suites_hub, hub_of, source):
    series = list_series(source, hub=hub_of(suites_hub))
    assert shown(series) == [(f"Ling-mini-base-2.0-{n}T", "", 1000 * n, 1000 * n) for n in (5, 10, 15, 20)]
    assert {c.step_unit for c in series.checkpoints} == {"billion tokens"}
    assert {c.revision for c in series.checkpoints} == {"main"}
    assert any("no optimizer steps are known" in note for note in series.notes)


def test_points_that_are_gone_are_listed(suites_hub, hub_of):
    series = list_series("openmoe-8b", hub=hub_of(suites_hub))
    assert [c.tokens / B for c in series.checkpoints] == [400, 1000, 1100]
    assert [item.name for item in series.excluded] == ["OrionZheng/openmoe-8b-600B", "OrionZheng/openmoe-8b-800B"]


def test_two_branches_of_one_step_are_both_shown(hub_of):
    with HubServer({"a/b": {"step100": {}, "step100-tokens4B": {}, "step200": {}}}) as server:
        series = list_series("a/b", hub=hub_of(server))
    assert [c.step for c in series.checkpoints] == [100, 200]
    assert "claims the same step as step100" in series.excluded[0].reason


def test_an_index_without_a_suite_is_refused(hub_of):
    with HubServer({"a/b": {"main": {}, "ckpt_001": {}}}) as server:
        with pytest.raises(CheckpointError, match=r"ckpt_001 \(counts checkpoints, not steps"):
            list_series("a/b", hub=hub_of(server))
        server.repos["a/b"]["step5"] = {}
        series = list_series("a/b", hub=hub_of(server))
    assert [c.key for c in series.checkpoints] == ["step5"]
    assert {item.name for item in series.excluded} == {"main", "ckpt_001"}


def test_a_folder_is_a_series(tmp_path):
    for name in ("checkpoint-100", "checkpoint-20", "ckpt_003", "logs"):
        (tmp_path / name).mkdir()
    series = list_series(str(tmp_path))
    assert [(c.key, c.path) for c in series.checkpoints] == [
        ("checkpoint-20", tmp_path / "checkpoint-20"),
        ("checkpoint-100", tmp_path / "checkpoint-100"),
    ]
    assert {item.name: item.reason[:6] for item in series.excluded} == {"ckpt_003": "counts", "logs": "names "}
    assert series.main is None


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("pythia", "several series. Give one of its repositories: EleutherAI/pythia-14m"),
        ("datadecide", r"several series. Give one of its repositories: any that matches allenai/DataDecide-\*\."),
        (
            "emo-twins",
            r"repositories: allenai/StdMoE_1b4b_130B, allenai/Dense_1b_130B, or one that matches allenai/Emo_1b14b_\* "
            r"or allenai/StdMoE_1b14b_\*\.",
        ),
        ("nothing-of-that-name", "no folder here, no suite and no repository"),
        ("a/absent", "does not show the branches of a/absent"),
        ("a/empty", r"no branch, and no folder of main, that names a step \(found: main"),
    ],
)
def test_errors_say_what_to_do(hub_of, source, words):
    with HubServer({"a/empty": {"main": {}}}) as server, pytest.raises(CheckpointError, match=words):
        list_series(source, hub=hub_of(server))


def test_listed_before_means_listed_offline(hub_of):
    with HubServer(recorded("EleutherAI/pythia-70m")) as server:
        hub = hub_of(server)
        online = list_series("EleutherAI/pythia-70m", hub=hub)
        count = len(server.requests)
        offline = list_series("EleutherAI/pythia-70m", hub=hub, offline=True)
        assert len(server.requests) == count
    assert offline == online


def test_downloaded_by_others_means_listed_offline(tmp_path, hub_of):
    """What another program left in the cache names branches too; nothing else is known of the repository."""
    storage = tmp_path / "cache" / "models--a--b"
    commit = "0123456789" * 4
    (storage / "refs").mkdir(parents=True)
    (storage / "refs" / "step300").write_text(commit)
    (storage / "snapshots" / commit).mkdir(parents=True)
    (storage / "snapshots" / commit / "config.json").write_text("{}")
    with HubServer({}) as server:
        (found,) = list_series("a/b", hub=hub_of(server), offline=True).checkpoints
        assert (found.key, found.commit, found.step) == ("step300", commit, 300)
        shutil.rmtree(storage)
        with pytest.raises(CheckpointError, match="never listed on this machine"):
            list_series("a/b", hub=hub_of(server), offline=True)


def test_the_variable_of_huggingface_hub_means_offline(monkeypatch, hub_of):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with HubServer(recorded("EleutherAI/pythia-70m")) as server:
        with pytest.raises(CheckpointError, match="never listed on this machine"):
            list_series("EleutherAI/pythia-70m", hub=hub_of(server))
        assert not server.requests


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("status", {"code": 429, "headers": {"Retry-After": "0"}}),
        ("status", {"code": 429, "headers": {"RateLimit": '"api";r=0;t=0'}}),
        ("status", {"code": 503, "headers": {"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}}),
        ("status", {"code": 500}),
        ("cut", {"after": 3}),
        ("slow", {"seconds": 0.6}),
    ],
)
def test_listing_is_patient(hub_of, kind, options):
    with HubServer(recorded("allenai/OLMoE-1B-7B-0924")) as server:
        server.fault(kind, "/refs", times=2, **options)
        series = list_series("olmoe-0924", hub=hub_of(server, timeout=0.2))
        assert len(server.asked("/refs")) == 3
    assert len(series.checkpoints) == 4


def test_the_hub_says_how_long_to_wait(hub_of):
    with HubServer({"a/b": {"step1": {}}}) as server:
        server.fault("status", "/refs", code=429, headers={"Retry-After": "1"})
        started = time.monotonic()
        list_series("a/b", hub=hub_of(server))
    assert time.monotonic() - started >= 1


@pytest.mark.parametrize(
    ("options", "words", "requests"),
    [
        ({"code": 500}, "did not answer for the branches of a/b \\(asked 3 times; Server error '500", 3),
        ({"code": 429}, r"refuses further requests for now \(429, asked 3 times.*hf auth login", 3),
        ({"code": 429, "headers": {"Retry-After": "3600"}}, r"429, asked 1 times", 1),
        ({"code": 403}, "refused the branches of a/b \\(403 Forbidden", 1),
    ],
)
def test_patience_ends(hub_of, options, words, requests):
    with HubServer({"a/b": {"step1": {}}}) as server:
        server.fault("status", "/refs", times=9, **options)
        with pytest.raises(CheckpointError, match=words):
            list_series("a/b", hub=hub_of(server, attempts=3))
        assert len(server.requests) == requests


def test_a_hub_whose_name_is_unknown_is_not_asked_for_long(monkeypatch, hub_of):
    asked = []

    def unknown(*_, **__):
        asked.append(1)
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    with HubServer({}) as server:
        hub = hub_of(server, attempts=6)
    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(CheckpointError, match=r"asked 2 times; .*Name or service not known"):
        list_series("a/b", hub=hub)
    with pytest.raises(CheckpointError, match=r"^no folder 'nomodel' is here, so .* as a repository: .*asked 2 times"):
        load_model("nomodel", hub=hub)
    assert len(asked) == 4


def test_a_hub_that_is_not_there(hub_of):
    with HubServer({}) as server:
        hub = hub_of(server, attempts=2)
    with pytest.raises(CheckpointError, match=r"did not answer.*asked 2 times.*work offline"):
        list_series("a/b", hub=hub)
