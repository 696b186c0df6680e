"""The table of public suites."""

import pytest
from pydantic import ValidationError

from gated_lpi.checkpoints import Checkpoint, Suite, suites
from gated_lpi.checkpoints.suites import suite_named, suite_of
from hub_server import LISTINGS


def test_every_recorded_repository_belongs_to_a_suite():
    points = {point.repo for suite in suites() for point in suite.points}
    joined = {repo for suite in suites() for repos in suite.joined.values() for repo in repos}
    for repo in LISTINGS:
        assert repo in points | joined or suite_of(repo) is not None, repo


def test_suites_are_found_by_name_and_by_repository():
    assert suite_named("OLMoE-0924").repos == ("allenai/OLMoE-1B-7B-0924",)
    assert suite_named("nothing") is None
    assert suite_of("EleutherAI/pythia-410m-seed7").name == "polypythias"
    assert suite_of("EleutherAI/pythia-160m-deduped").tokens_per_step == 2_097_152
    assert suite_of("allenai/OLMo-2-1124-7B").name == "olmo-2"
    assert suite_of("allenai/OLMo-7B").name == "olmo"
    assert suite_of("someone/model") is None


@pytest.mark.parametrize(
    ("repo", "stage", "step", "words"),
    [
        ("allenai/OLMo-2-1124-7B", "stage1", 175_000, ["byte-identical weights"]),
        ("allenai/OLMo-2-1124-7B", "stage1", 176_000, []),
        ("allenai/OLMo-2-1124-7B", "stage2", 175_000, []),
        ("allenai/OLMo-2-1124-13B", "stage1", 175_000, []),
        ("EleutherAI/pythia-2.8b", "", 31_000, ["final weights"]),
        ("EleutherAI/pythia-2.8b", "", 55_000, ["final weights"]),
        ("EleutherAI/pythia-2.8b", "", 57_000, ["serve one file"]),
        ("EleutherAI/pythia-2.8b", "", 66_000, []),
        ("EleutherAI/pythia-12b", "", 58_000, ["first shard"]),
        ("EleutherAI/pythia-410m", "", 2, ["steps 0, 1 and 2"]),
        ("EleutherAI/pythia-410m", "", 4, []),
        ("EleutherAI/pythia-410m-seed9", "", 40_000, ["without weights"]),
        ("EleutherAI/pythia-410m-seed6", "", 88_000, ["without weights"]),
        ("EleutherAI/pythia-410m-seed2", "", 111_000, ["without weights"]),
        ("EleutherAI/pythia-410m-seed2", "", 40_000, []),
        ("EleutherAI/pythia-160m-weight-seed1", "", 0, ["do not descend"]),
        ("EleutherAI/pythia-160m-weight-seed2", "", 0, ["do not descend"]),
        ("EleutherAI/pythia-160m-data-seed1", "", 0, []),
    ],
)
def test_known_defects_are_those_of_the_very_checkpoint(repo, stage, step, words):
    checkpoint = Checkpoint(None, "key", step, None, stage, repo=repo)
    found = [defect.what for defect in suite_of(repo).defects if defect.afflicts(checkpoint)]
    assert len(found) == len(words)
    assert all(word in what for word, what in zip(words, found, strict=True))


def test_what_cannot_be_run_as_it_is_says_so():
    found = {suite.name: suite for suite in suites()}
    assert {name for name, suite in found.items() if suite.runs == "not"} == {
        "ling-mini",
        "openmoe-8b",
        "olmo",
        "datadecide",
    }
    assert {name for name, suite in found.items() if suite.runs == "import"} == {"flame-moe"}
    assert found["ling-mini"].obstacle.startswith("CANNOT BE RUN: ")
    assert found["emo-twins"].obstacle.startswith("need trust_remote_code: ")
    assert found["pythia"].obstacle == ""
    assert {"smollm2", "polypythias", "datadecide", "lucie", "marin", "k2-v2", "babylm", "flame-moe"} <= set(found)


def test_a_defect_says_what_it_concerns():
    told = {name: [str(defect) for defect in suite_named(name).defects] for name in ("polypythias", "pythia", "olmo-2")}
    assert "EleutherAI/pythia-410m-seed9, step 40000: a branch without weights" in told["polypythias"]
    assert "steps 0, 1, 2: steps 0, 1 and 2 hold the same weights in many of the models" in told["pythia"]
    assert any(one.startswith("EleutherAI/pythia-2.8b, steps 0 to 53000, 55000, ") for one in told["pythia"])
    assert any(
        one.startswith("allenai/OLMo-2-1124-7B, stage1, steps 101000, 175000, 300000: ") for one in told["olmo-2"]
    )
    assert str(suite_named("olmo").defects[-1]) == "gaps in the list of checkpoints"


def test_every_defect_has_a_source():
    assert all(defect.source.startswith("https://") for suite in suites() for defect in suite.defects)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"name": "x", "scheme": "step"}, "either repos or points"),
        ({"name": "x", "scheme": "step", "repos": ["a/b"], "point": [{"repo": "a/c-5T"}]}, "either repos or points"),
        ({"name": "x", "scheme": "epoch", "repos": ["a/b"]}, "no scheme 'epoch'"),
        ({"name": "x", "scheme": "step", "repos": ["a/b"], "runs": "not"}, "says why not as they are"),
        ({"name": "x", "scheme": "step", "repos": ["a/b"], "why": "x"}, "says why not as they are"),
        ({"name": "x", "scheme": "step", "repos": ["a/b"], "replicates": ["a/b-seed"]}, "where the seed stands"),
        ({"name": "x", "scheme": "step", "repos": ["a/b"], "tokens_per_step": 0}, "greater than 0"),
        ({"name": "x", "scheme": "step", "repos": ["a/b"], "token_per_step": 5}, "not permitted"),
        ({"name": "x", "scheme": "repository", "point": [{"repo": "a/model"}]}, "tells no tokens"),
        ({"name": "x", "scheme": "repository", "point": [{"repo": f"a/b-{'9' * 22}T"}]}, "tells no tokens"),
        ({"name": "x", "scheme": "repository", "point": [{"repo": "a/b", "tokens": -1}]}, "greater than or equal to 0"),
        ({"name": "x", "scheme": "repository", "point": [{"repo": "a/b", "tokens": 2**63}]}, "less than or equal to"),
        ({"name": "x", "scheme": "repository", "point": [{"repo": "a/b", "tokens": True}]}, "valid integer"),
        ({"name": "x", "scheme": "step", "repos": ["a/b"], "tokens_per_step": 2**63}, "less than or equal to"),
        ({"name": "x", "scheme": "step", "repos": ["a/b"], "tokens_per_step": True}, "valid integer"),
        ({"name": "x", "scheme": "index", "repos": ["a/b"], "index": {"tokens": 10**22}}, "less than or equal to"),
        ({"name": "x", "scheme": "index", "repos": ["a/b"], "index": {"tokens": 5, "first": -1}}, "greater than or eq"),
        (
            {"name": "x", "scheme": "step", "repos": ["a/b"], "defect": [{"what": "", "source": "", "steps": [-1]}]},
            "greater than or equal to 0",
        ),
    ],
)
def test_a_wrong_row_is_refused(row, words):
    with pytest.raises(ValidationError, match=words):
        Suite.model_validate(row)
