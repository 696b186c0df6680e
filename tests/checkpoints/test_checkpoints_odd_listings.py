"""What a hub may say that no hub should: what cannot be used is left out with the reason, and no error escapes."""

import dataclasses
import email.utils
import json

import pytest

from answers import ADDRESS, answering
from gated_lpi.checkpoints import Checkpoint, Fetched, Hub, evict, fetch, inspect_series, list_series
from gated_lpi.checkpoints.inventory import Inventory, RemoteFile
from gated_lpi.errors import CheckpointError, FetchError, WeightsError

COMMIT = "0123456789" * 4
SHA = "ab" * 32
ONE = "model.safetensors"
INDEX = "model.safetensors.index.json"
B, T = 10**9, 10**12
DEEP = b'{"branches":' * 100_000
ABSENT = object()


@pytest.fixture
def hub(tmp_path):
    return Hub(endpoint=ADDRESS, cache_dir=tmp_path / "cache", token=False, attempts=2, base_delay=0.0)


def branch(name, commit=COMMIT):
    return {"name": name, "ref": f"refs/heads/{name}", "targetCommit": commit}


def refs(*branches):
    return json.dumps({"branches": list(branches), "converts": [], "tags": []}).encode()


def listed(hub, *branches, repo="a/b"):
    with answering(lambda _: (200, {}, refs(*branches))):
        return list_series(repo, hub=hub)


def excluded(series):
    return {item.name: item.reason for item in series.excluded}


@pytest.mark.parametrize(
    ("name", "shown", "reason"),
    [
        ("step" + "9" * 22, None, "tells a step of 22 digits, more than 9,223,372,036,854,775,807"),
        ("step" + "9" * 5000, None, "tells a step of 5000 digits"),
        ("step5-tokens" + "9" * 5000 + "T", None, "tells tokens of 5012 digits"),
        ("step\u0661\u0662", None, "names no step"),
        ("step5\0", None, "names no step"),
        ("step5\\", None, "names no step"),
        ("../step5", None, "names no step"),
        ("step5\ud800", "step5\\ud800", "names no step"),
        ("step5-\ud800", "step5-\\ud800", r"a side run: '-\ud800' follows the step"),
        ("-step5", None, "names no step"),
        ("", None, "names no step"),
        (None, "None", "names no step"),
        (["step5"], "a list", "names no step"),
        (True, "True", "names no step"),
    ],
)
def test_a_branch_of_an_odd_name_is_left_out(hub, name, shown, reason):
    series = listed(hub, branch("step1"), branch(name), branch("step2"))
    assert [c.step for c in series.checkpoints] == [1, 2]
    assert list(excluded(series)) == [name if shown is None else shown]
    assert reason in series.excluded[0].reason
    assert all(line.encode() for line in series.left_out)
    assert list_series("a/b", hub=hub, offline=True) == series


@pytest.mark.parametrize(
    "commit", ["", "main", "../" * 13, COMMIT[:-1], COMMIT + "0", COMMIT.replace("9", "g"), "\ud800"]
)
def test_a_branch_without_a_commit_is_left_out(hub, commit):
    series = listed(hub, branch("step1"), branch("step2", commit), branch("main", commit))
    assert [c.step for c in series.checkpoints] == [1]
    assert excluded(series)["step2"] == "the hub tells no commit of it, or several"
    assert series.main is None
    assert list_series("a/b", hub=hub, offline=True) == series


@pytest.mark.parametrize("commit", [None, 5, True, [], {}, float("nan")])
def test_a_commit_that_is_no_text(hub, commit):
    assert excluded(listed(hub, branch("step1"), branch("step2", commit))) == {
        "step2": "the hub tells no commit of it, or several"
    }


def test_a_branch_of_two_commits_is_left_out(hub):
    series = listed(hub, branch("step1"), branch("step2"), branch("step2", "f" * 40), branch("step2"), branch("step1"))
    assert [c.step for c in series.checkpoints] == [1]
    assert excluded(series) == {"step2": "the hub tells no commit of it, or several"}


@pytest.mark.parametrize(
    ("repo", "name", "largest"),
    [
        ("EleutherAI/pythia-70m", "step{}", (2**63 - 1) // 2_097_152),
        ("LLM360/Amber", "ckpt_{}", (2**63 - 1) // 3_497_600_000 - 1),
    ],
)
def test_tokens_by_the_suites_data_have_to_fit_too(hub, repo, name, largest):
    series = listed(
        hub, branch(name.format(5)), branch(name.format(largest)), branch(name.format(largest + 1)), repo=repo
    )
    assert [c.step for c in series.checkpoints] == [5, largest]
    assert series.checkpoints[-1].tokens <= 2**63 - 1
    assert "tokens that are more than 9,223,372,036,854,775,807" in excluded(series)[name.format(largest + 1)]


def test_a_point_without_a_commit_or_tokens_is_left_out(hub):
    bodies = {
        "/api/models/a/b-5T/refs": refs(branch("main")),
        "/api/models/a/b-6T/refs": refs(branch("main", "none")),
        f"/api/models/a/b-{'9' * 22}T/refs": refs(branch("main")),
        "/api/models/a/b-7T/refs": refs(),
    }
    repos = [path.removeprefix("/api/models/").removesuffix("/refs") for path in bodies]
    with answering(lambda path: (200, {}, bodies[path])):
        series = list_series(repos, hub=hub)
    assert [(c.key, c.tokens) for c in series.checkpoints] == [("b-5T", 5 * T)]
    assert {name: reason[:35] for name, reason in excluded(series).items()} == {
        "a/b-6T": "the hub tells no commit of it, or s",
        f"a/b-{'9' * 22}T": "its name tells no tokens that can b",
        "a/b-7T": "has no branch main",
    }


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>please log in</html>",
        b"null",
        b"[]",
        b"5",
        b"{}",
        b'{"branches": null}',
        b'{"branches": [1], "converts": [], "tags": []}',
        b'{"branches": [{"name": "step1"}], "converts": [], "tags": []}',
        b'{"branches": [], "converts": []}',
        b'{"branches": ' + b"9" * 5000 + b"}",
        b"\xff\xfe\x00",
        DEEP,
    ],
)
def test_an_answer_of_another_shape(hub, body):
    with answering(lambda _: (200, {}, body)):
        with pytest.raises(
            FetchError, match=r"answered for the branches of a/b with what is not understood.*HF_ENDPOINT"
        ):
            list_series("a/b", hub=hub)
        with pytest.raises(FetchError, match="answered for the files of a/b at 01234567 with what is not understood"):
            hub.inventory("a/b", COMMIT)
    assert not (hub.cache / ".gated-lpi").exists(), "what is not understood is not kept"


@pytest.mark.parametrize(
    "source", [[], [""], ["a/b", "../.."], ["a/b/c"], ["a b/c"], ["a/b", "\ud800/b"], ["a/b", "9" * 20_000 + "/\n"]]
)
def test_repositories_that_are_none(hub, source):
    with answering(lambda _: (404, {"X-Error-Code": "RepoNotFound"}, b"")), pytest.raises(CheckpointError) as caught:
        list_series(source, hub=hub)
    assert len(str(caught.value).encode()) < 600


@pytest.mark.parametrize("source", ["9" * 5000, "a\0b", "\ud800", "", "step\u0661/\u0662"])
def test_sources_that_are_nothing(hub, source):
    with answering(lambda _: (500, {}, b"")) as asked, pytest.raises(CheckpointError, match="no folder here, no suite"):
        list_series(source, hub=hub)
    assert not asked


def sibling(name, size=700, sha256=SHA, git_oid="c" * 40):
    lfs = {} if sha256 is ABSENT else {"lfs": {"sha256": sha256, "size": size, "pointerSize": 134}}
    return {"rfilename": name, "size": size, "blobId": git_oid, **lfs}


def info(*siblings):
    return json.dumps({"_id": "1", "id": "a/b", "modelId": "a/b", "sha": COMMIT, "siblings": list(siblings)}).encode()


class Listing:
    """A repository with one branch, step1, that lists these files; the index has this text."""

    def __init__(self, *siblings, index=b"{}"):
        self.siblings, self.index = siblings, index

    def __call__(self, path):
        if path.endswith("/refs"):
            return 200, {}, refs(branch("step1"))
        return 200, {}, self.index if path.endswith(INDEX) else info(*self.siblings)


@pytest.mark.parametrize(
    "name",
    [
        "model\0.safetensors",
        "tokenizer\0.json",
        "tokenizer\\..\\..\\x.json",
        "../tokenizer.json",
        "/etc/tokenizer.json",
        "a/../b",
        "a//b",
        "a/",
        "..",
        "",
        "tokenizer\n.json",
        "tokenizer\ud800.json",
        "tokenizer" + "x" * 300,
        None,
        5,
        ["model.safetensors"],
    ],
)
def test_a_file_of_an_odd_name_is_left_out(hub, name):
    with answering(Listing(sibling(ONE), sibling(name), sibling("config.json", sha256=ABSENT))) as asked:
        series = list_series("a/b", hub=hub)
        report = inspect_series(series, hub=hub)
        assert [f.name for f in hub.inventory("a/b", COMMIT).files] == [ONE, "config.json"]
        asked.clear()
        with pytest.raises(CheckpointError):
            fetch(series.checkpoints[0], hub=hub)  # the server's answers are no files
    assert all(path.endswith(("config.json", ONE)) for path in asked), "the odd name was asked for"
    (line,) = report.left_out["step1"]
    assert line.endswith("not the name of a file that could be kept in a folder")
    (flag,) = report.flags["step1"]
    assert flag.startswith("1 entries of its listing cannot be used: ")
    assert flag.encode()
    assert report.sizes == {"step1": 700}


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"size": -1}, "its size is -1, not a number of bytes up to 9,223,372,036,854,775,807"),
        ({"size": 2**63}, "its size is 9223372036854775808"),
        ({"size": 1.5}, "its size is 1.5"),
        ({"size": float("nan")}, "its size is nan"),
        ({"size": True}, "its size is True"),
        ({"size": "700"}, "its size is '700'"),
        ({"size": [1]}, "its size is a list"),
        ({"sha256": "../../x"}, "its SHA-256 is '../../x', not 64 hexadecimal digits"),
        ({"sha256": SHA[:-1]}, "not 64 hexadecimal digits"),
        ({"sha256": 5}, "its SHA-256 is 5"),
        ({"sha256": {"a": 1}}, "its SHA-256 is a dict"),
        ({"git_oid": "*"}, "its git id is '*', not 40 or 64 hexadecimal digits"),
        ({"git_oid": ["c"]}, "its git id is a list"),
    ],
)
def test_a_file_of_odd_facts_is_left_out(hub, entry, words):
    with answering(Listing(sibling("config.json", sha256=ABSENT), sibling(ONE, **entry))) as asked:
        series = list_series("a/b", hub=hub)
        report = inspect_series(series, hub=hub)
        asked.clear()
        with pytest.raises(
            WeightsError, match=r"step1 of a/b holds no weights; its listing has 'model\.safetensors': its"
        ):
            fetch(series.checkpoints[0], hub=hub)
        assert not asked
    assert words in report.left_out["step1"][0]
    assert report.unusable == {"step1": "holds no weights"}


def test_a_file_that_is_listed_twice(hub):
    with answering(Listing(sibling(ONE), sibling(ONE, size=9))):
        assert hub.inventory("a/b", COMMIT) == Inventory(
            (RemoteFile(ONE, 700, SHA, "c" * 40),), None, ("'model.safetensors': it is listed twice",)
        )


def test_unknown_sizes_and_hashes_are_no_errors(hub):
    with answering(Listing(sibling(ONE, size=None, sha256=ABSENT, git_oid=None))):
        assert hub.inventory("a/b", COMMIT).files == (RemoteFile(ONE, 0),)


@pytest.mark.parametrize(
    "index",
    [
        b"",
        b"[]",
        b"{}",
        b'{"weight_map": NaN}',
        b'{"weight_map": {}}',
        b'{"weight_map": {"w": "../x.safetensors"}}',
        b'{"weight_map": {"w": "x\\u0000.safetensors"}}',
        b'{"weight_map": {"w": "x\\ud800.safetensors"}}',
        b'{"weight_map": {"w": "a\\\\b.safetensors"}}',
        b'{"weight_map": {"w": "pytorch_model.bin"}}',
        b'{"weight_map": {"w": 5}}',
        b'{"weight_map": {"w": ["x.safetensors"]}}',
        b'{"weight_map": {"w": "x.safetensors", "w": "x.safetensors"}}',
        b'{"weight_map": ' + b"9" * 5000 + b"}",
        b'{"weight_map":' * 100_000,
    ],
)
def test_an_index_that_is_none_makes_its_checkpoint_unusable(hub, index):
    with answering(Listing(sibling(INDEX, sha256=ABSENT), sibling("x.safetensors"), index=index)):
        series = list_series("a/b", hub=hub)
        report = inspect_series(series, hub=hub)
        with pytest.raises(WeightsError, match=r"index\.json of a/b at 01234567 cannot be used"):
            fetch(series.checkpoints[0], hub=hub)
    assert "cannot be used" in report.unusable["step1"]
    assert len(report.flags["step1"][0].encode()) < 500


def test_safetensors_that_transformers_does_not_look_for(hub):
    with answering(Listing(sibling("weights.safetensors"), sibling("pytorch_model.bin"))) as asked:
        series = list_series("a/b", hub=hub)
        report = inspect_series(series, hub=hub)
        asked.clear()
        with pytest.raises(WeightsError, match=r"step1 of a/b holds weights\.safetensors, but neither model\.safe"):
            fetch(series.checkpoints[0], hub=hub)
        assert not asked
    assert report.unusable["step1"].endswith("transformers loads none of these")


def test_a_single_file_goes_before_the_index(hub):
    """As transformers reads them: the index beside the file is not even asked for."""
    shard = "model-00001-of-00001.safetensors"
    listing = Listing(sibling(ONE), sibling(INDEX, sha256=ABSENT), sibling(shard, sha256="cd" * 32))
    with answering(listing) as asked:
        found = hub.inventory("a/b", COMMIT)
        report = inspect_series(list_series("a/b", hub=hub), hub=hub)
    assert [file.name for file in found.weights] == [ONE]
    assert report.aside == {"step1": (shard,)}
    assert report.flags == {"step1": ()}
    assert not [path for path in asked if path.endswith(INDEX)]


@pytest.mark.parametrize(
    "name", ["x\0.json", "a\\b.json", "../x.json", "/tmp/x.json", "a/../../x", "", "\ud800", "x" * 300, None]
)
def test_no_odd_name_is_downloaded(hub, tmp_path, name):
    with (
        answering(lambda _: (200, {}, b"content")) as asked,
        pytest.raises(CheckpointError, match="not the name of a file"),
    ):
        hub.download("a/b", COMMIT, name)
    assert not asked
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("commit", ["", "main", "../../..", "\0", "c" * 5000, "\ud800", COMMIT.upper() + "A"])
def test_nothing_is_asked_for_at_what_is_no_commit(hub, tmp_path, commit):
    checkpoint = Checkpoint(None, "step1", 1, None, "", commit, "a/b", "step1")
    calls = (
        lambda: hub.inventory("a/b", commit),
        lambda: hub.download("a/b", commit, "config.json"),
        lambda: fetch(checkpoint, hub=hub),
        lambda: fetch(checkpoint, hub=hub, offline=True),
    )
    for call in calls:
        with answering(lambda _: (200, {}, info(sibling(ONE)))) as asked:
            with pytest.raises(CheckpointError, match=r"was given as a commit of a/b. Expected its full id"):
                call()
            assert not asked
    assert not list(tmp_path.iterdir())


def test_eviction_deletes_nothing_outside_the_cache(hub, tmp_path):
    outside = tmp_path / "outside"
    outside.write_text("kept")
    hub.cache.mkdir()
    odd = (outside, hub.cache / ".." / "outside", hub.cache / "\0", tmp_path)
    assert evict(Fetched(hub.cache, odd), hub=hub) == 0
    assert outside.read_text() == "kept"


def test_a_file_in_place_of_the_cache(tmp_path):
    (tmp_path / "cache").write_text("a file")
    hub = Hub(endpoint=ADDRESS, cache_dir=tmp_path / "cache", offline=True)
    assert evict(Fetched(tmp_path, (tmp_path / "x",)), hub=hub) == 0
    with pytest.raises(CheckpointError, match="was never listed on this machine"):
        list_series("a/b", hub=hub)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b"5",
        b"\xff",
        DEEP,
        b'{"step1": ' + b"9" * 5000 + b"}",
        b'{"step1": 5}',
        b'{"step1": null}',
        b'{"step1": "main"}',
        f'{{"step1": "{COMMIT}", "step1": "{COMMIT}"}}'.encode(),
        f'{{"step1": "{COMMIT}", "files": []}}'.encode(),
    ],
)
def test_a_kept_listing_that_is_damaged_was_not_kept(hub, text):
    series = listed(hub, branch("step1"))
    (record,) = hub.cache.rglob("branches.json")
    record.write_bytes(text)
    with pytest.raises(CheckpointError, match=r"was never listed on this machine.*once while online"):
        list_series("a/b", hub=hub, offline=True)
    assert listed(hub, branch("step1")) == list_series("a/b", hub=hub, offline=True) == series


SOUND = {"name": ONE, "size": 700, "sha256": SHA, "git_oid": ""}


@pytest.mark.parametrize(
    "value",
    [
        None,
        [],
        5,
        {},
        {"files": None, "shards": None},
        {"files": {}, "shards": None},
        {"files": [5], "shards": None},
        {"files": [{"name": ONE}], "shards": None},
        {"files": [{**SOUND, "other": 1}], "shards": None},
        {"files": [{**SOUND, "name": "../x"}], "shards": None},
        {"files": [{**SOUND, "name": None}], "shards": None},
        {"files": [{**SOUND, "size": -1}], "shards": None},
        {"files": [{**SOUND, "size": True}], "shards": None},
        {"files": [{**SOUND, "sha256": "x"}], "shards": None},
        {"files": [{**SOUND, "git_oid": 5}], "shards": None},
        {"files": [SOUND, SOUND], "shards": None},
        {"files": [SOUND], "shards": "x"},
        {"files": [SOUND], "shards": []},
        {"files": [SOUND], "shards": [5]},
        {"files": [SOUND], "shards": ["../x.safetensors"]},
        {"files": [SOUND], "shards": None, "left_out": "x"},
        {"files": [SOUND], "shards": None, "left_out": [5]},
        {"files": [{**SOUND, "name": INDEX}], "shards": None},
    ],
)
def test_kept_files_of_the_wrong_shape_were_not_kept(hub, value):
    with answering(Listing(sibling(ONE))) as asked:
        found = hub.inventory("a/b", COMMIT)
        (record,) = hub.cache.rglob(f"{COMMIT}.json")
        record.write_text(json.dumps(value))
        with pytest.raises(CheckpointError, match="were never listed on this machine"):
            dataclasses.replace(hub, offline=True).inventory("a/b", COMMIT)
        asked.clear()
        assert hub.inventory("a/b", COMMIT) == found
        assert len(asked) == 1
        assert dataclasses.replace(hub, offline=True).inventory("a/b", COMMIT) == found


def test_files_that_were_kept_before_are_read(hub):
    """Records of earlier versions know nothing of entries that are left out."""
    with answering(Listing(sibling(ONE))):
        found = hub.inventory("a/b", COMMIT)
    (record,) = hub.cache.rglob(f"{COMMIT}.json")
    record.write_text(json.dumps({"files": [dataclasses.asdict(file) for file in found.files], "shards": None}))
    assert dataclasses.replace(hub, offline=True).inventory("a/b", COMMIT) == found


def test_what_is_left_out_is_kept_with_the_rest(hub):
    with answering(Listing(sibling(ONE), sibling("\ud800"))):
        found = hub.inventory("a/b", COMMIT)
    assert found.left_out == (r"'\ud800': not the name of a file that could be kept in a folder",)
    assert dataclasses.replace(hub, offline=True).inventory("a/b", COMMIT) == found


LATE = email.utils.formatdate(2**36)


@pytest.mark.parametrize(
    ("headers", "asked"),
    [
        ({"Retry-After": "9" * 400}, 1),
        ({"Retry-After": "9" * 5000}, 1),
        ({"Retry-After": LATE}, 1),
        ({"Retry-After": "\u00b2"}, 2),  # a digit to str.isdigit, and no number to float
        ({"Retry-After": "\u00b2\u00b3"}, 2),
        ({"Retry-After": "-5"}, 2),
        ({"Retry-After": "1e999"}, 2),
        ({"Retry-After": "nan"}, 2),
        ({"Retry-After": "inf"}, 2),
        ({"Retry-After": "Mon, 01 Jan 0000 00:00:00 GMT"}, 2),
        ({"Retry-After": "Mon, 01 Jan 0001 00:00:00 -0000"}, 2),
        ({"Retry-After": "Fri, 31 Dec 9999 23:59:59 -0000"}, None),
        ({"Retry-After": "Mon, 99 Jan 2020 99:99:99 +9999"}, 2),
        ({"Retry-After": "Mon, 01 Jan " + "9" * 5000 + " 00:00:00 GMT"}, 2),
        ({"RateLimit": '"api";r=0;t=' + "9" * 400}, 1),
        ({"RateLimit": '"api";r=0;t=\u00b2'}, 2),
    ],
)
def test_absurd_waits_are_no_waits(hub, headers, asked):
    """A wait that is no number is not asked for; one that is too long ends the asking, with the hub's refusal."""
    encoded = {name: value.encode("latin-1") for name, value in headers.items()}
    answer = answering(lambda _: (429, encoded, b""))
    with answer as requests, pytest.raises(FetchError, match=r"refuses further requests for now \(429"):
        hub.branches("a/b")
    assert asked is None or len(requests) == asked


def test_a_wait_that_the_client_itself_cannot_read(hub):
    """huggingface_hub reads this header before we do, and fails on more digits than Python reads."""
    with answering(lambda _: (429, {"RateLimit": '"api";r=0;t=' + "9" * 5000}, b"")), pytest.raises(FetchError):
        hub.branches("a/b")


def test_patience_without_end_is_no_overflow(tmp_path):
    hub = Hub(endpoint=ADDRESS, cache_dir=tmp_path, token=False, attempts=1100, base_delay=0.0)
    with answering(lambda _: (503, {}, b"")) as requests, pytest.raises(FetchError, match="asked 1100 times"):
        hub.branches("a/b")
    assert len(requests) == 1100
