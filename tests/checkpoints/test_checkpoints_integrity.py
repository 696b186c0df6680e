"""Each defect that a listing can show before any download, and that nothing is dropped for it."""

import json

import pytest

from gated_lpi.checkpoints import Checkpoint, find_gaps, inspect_series, list_series
from gated_lpi.errors import OptionError
from hub_server import HubServer

ONE = "model.safetensors"
INDEX = "model.safetensors.index.json"


def shard(i, n=3):
    return f"model-{i:05}-of-{n:05}.safetensors"


def sharded(*contents, n=3):
    placed = {f"layer.{i}": shard(i + 1, n) for i in range(n)}
    files = {shard(i + 1, n): content.encode() for i, content in enumerate(contents)}
    return {**files, INDEX: json.dumps({"weight_map": placed}).encode(), "config.json": b"{}"}


def single(content):
    return {ONE: content.encode(), "config.json": b"{}"}


def inspect(hub_of, branches, repo="a/b", **options):
    with HubServer({repo: branches}) as server:
        hub = hub_of(server)
        report = inspect_series(list_series(repo, hub=hub), hub=hub, **options)
        weights = server.asked(r"resolve/.*\.(safetensors|bin)$")
    assert not weights, "weights were downloaded"
    return report


def test_a_clean_series(hub_of):
    report = inspect(hub_of, {f"step{i}": sharded(f"a{i}", f"b{i}", f"c{i}") for i in range(5)})
    assert report.clean
    assert report.inspected == tuple(f"step{i}" for i in range(5))
    assert (report.duplicates, report.shared, report.missing, report.gaps, report.main) == ((), (), {}, (), "")
    assert set(report.sizes.values()) == {6}


def test_duplicates_are_marked_and_kept(hub_of):
    """As in OLMo issue 915: three names, one set of weights."""
    branches = {f"step{i}": sharded(f"a{i}", f"b{i}", f"c{i}") for i in range(1, 7)}
    branches["step3"] = branches["step5"] = branches["step1"]
    report = inspect(hub_of, branches)
    assert report.duplicates == (("step1", "step3", "step5"),)
    assert not report.shared
    assert report.flags["step3"] == ("same weights as step1, step5",)
    assert report.flags["step2"] == ()
    assert len(report.inspected) == 6
    assert not report.clean


def test_one_commit_under_two_names_is_a_duplicate_too(tmp_path):
    series = list_series_of(tmp_path, {"step-1": "x", "step-2": "y"})
    twin = [*series.checkpoints, Checkpoint(series.checkpoints[0].path, "step-9", 9, None, "")]
    assert inspect_series(series, twin).duplicates == (("step-1", "step-9"),)


def list_series_of(folder, contents):
    for name, content in contents.items():
        (folder / name).mkdir()
        (folder / name / ONE).write_text(content)
    return list_series(folder)


def test_a_shard_of_another_checkpoint(hub_of):
    """As in Pythia issue 206: the first shard is that of the last checkpoint, and it is a pickle."""
    names = [f"pytorch_model-{i:05}-of-00003.bin" for i in (1, 2, 3)]

    def pickled(*contents):
        return {name: content.encode() for name, content in zip(names, contents, strict=True)}

    branches = {f"step{i}": pickled(f"a{i}", f"b{i}", f"c{i}") for i in (1, 2, 3, 4)}
    branches["step2"] = pickled("a4", "b2", "c2")
    report = inspect(hub_of, branches)
    assert [(shared.keys, shared.files) for shared in report.shared] == [(("step2", "step4"), (names[0],))]
    assert not report.duplicates
    assert report.flags["step2"][0] == f"shares {names[0]} with step4"
    assert "never opened" in report.flags["step1"][0]


def test_a_shared_pickle_beside_safetensors_is_seen(hub_of):
    branches = {f"step{i}": {ONE: f"{i}".encode(), "pytorch_model.bin": b"same"} for i in (1, 2)}
    report = inspect(hub_of, branches)
    assert report.shared[0].files == ("pytorch_model.bin",)
    assert not report.duplicates


def test_a_shard_of_another_series(hub_of):
    with HubServer(
        {
            "a/b": {"step1": sharded("a", "b", "c"), "step2": sharded("d", "e", "f")},
            "a/other": {"step7": sharded("x", "e", "y")},
        }
    ) as server:
        hub = hub_of(server)
        other = list_series("a/other", hub=hub)
        report = inspect_series(list_series("a/b", hub=hub), against=[other], hub=hub)
    assert report.flags == {"step1": (), "step2": (f"shares {shard(2)} with a/other:step7",)}
    assert report.inspected == ("step1", "step2")


def test_missing_shards(hub_of):
    report = inspect(hub_of, {"step1": sharded("a", "b", "c"), "step2": sharded("d", "e")})
    assert report.missing == {"step2": (shard(3),)}
    assert f"1 shards missing: {shard(3)}" in report.flags["step2"]
    assert report.flags["step1"] == ()


def test_shards_without_an_index_tell_their_number(hub_of):
    report = inspect(
        hub_of, {"step1": {shard(1): b"a", shard(3): b"c"}, "step2": {shard(i): b"%d" % i for i in (1, 2, 3)}}
    )
    assert report.missing == {"step1": (shard(2),)}


def test_no_weights_and_an_index_that_is_none(hub_of):
    broken = {**sharded("a", "b", "c"), INDEX: b"[]"}
    report = inspect(hub_of, {"step1": single("a"), "step2": {"config.json": b"{}"}, "step3": broken})
    assert report.flags["step1"] == ()
    assert report.flags["step2"] == ("holds no weights",)
    assert "cannot be used" in report.flags["step3"][0]


def test_an_odd_size(hub_of):
    report = inspect(
        hub_of, {"step1": single("aa"), "step2": single("bb"), "step3": single("cc"), "step4": single("d")}
    )
    assert report.odd_sizes == ("step4",)
    assert report.flags["step4"] == ("1 bytes of weights, unlike most others",)


@pytest.mark.parametrize(
    ("main", "words", "flagged"),
    [
        (single("c"), "main has the weights of step3", None),
        (single("a"), "main has the weights of step1", "step1"),
        (single("anneal"), "main has the weights of no checkpoint that was inspected", None),
        ({"README.md": b"nothing"}, "main holds no usable weights", None),
    ],
)
def test_main_is_never_taken_for_granted(hub_of, main, words, flagged):
    report = inspect(hub_of, {"main": main, "step1": single("a"), "step2": single("b"), "step3": single("c")})
    assert words in report.main
    flags = {key for key, value in report.flags.items() if value}
    assert flags == ({flagged} if flagged else set())
    assert not report.duplicates


def test_known_defects_are_beside_what_was_found(hub_of):
    """As in Pythia issue 205: early branches serve the final weights."""
    branches = {
        "main": single("final"),
        **{f"step{i}": single("final") for i in (0, 1, 143_000)},
        "step66000": single("other"),
    }
    report = inspect(hub_of, branches, repo="EleutherAI/pythia-2.8b")
    flags = report.flags["step1"]
    assert flags[0] == "same weights as step0, step143000"
    assert flags[1] == "same weights as main, but not the last checkpoint"
    assert any(flag.startswith("known: serves the final weights") and "issues/205" in flag for flag in flags)
    assert report.flags["step66000"] == ()
    assert "known: as a rule step143000" in report.main
    assert not any("pythia-12b" in defect.repos for defect in report.known)


def test_what_was_listed_once_is_not_asked_again(hub_of):
    """One request per commit, one per different index, none the second time, offline neither."""
    with HubServer({"a/b": {f"step{i}": sharded(f"a{i}", f"b{i}", f"c{i}") for i in range(4)}}) as server:
        hub = hub_of(server)
        series = list_series("a/b", hub=hub)
        first = inspect_series(series, hub=hub)
        assert len(server.asked("GET /api/models/a/b/revision")) == 4
        assert len(server.asked("resolve.*index.json")) == 1
        count = len(server.requests)
        assert inspect_series(series, hub=hub_of(server)) == first
        assert inspect_series(series, hub=hub_of(server, offline=True)) == first
        assert len(server.requests) == count


@pytest.mark.parametrize(
    ("kind", "options"), [("status", {"code": 429, "headers": {"Retry-After": "0"}}), ("slow", {"seconds": 0.6})]
)
def test_inspection_is_patient(hub_of, kind, options):
    with HubServer({"a/b": {"step1": sharded("a", "b", "c"), "step2": sharded("d", "e", "f")}}) as server:
        hub = hub_of(server, timeout=0.2)
        series = list_series("a/b", hub=hub)
        server.fault(kind, "revision", **options)
        server.fault(kind, "index.json", **options)
        assert inspect_series(series, hub=hub).clean
        assert all(fault.times == 0 for fault in server.faults)


def test_only_the_chosen_ones_are_asked_for_and_progress_is_told(hub_of):
    told = []
    with HubServer({"a/b": {"main": single("m"), **{f"step{i}": single(f"{i}") for i in range(9)}}}) as server:
        hub = hub_of(server)
        series = list_series("a/b", hub=hub)
        report = inspect_series(series, series.checkpoints[:2], hub=hub, progress=lambda *now: told.append(now))
        assert len(server.asked("revision")) == 3
        with pytest.raises(OptionError, match="No checkpoints were given"):
            inspect_series(series, [], hub=hub)
    assert report.inspected == ("step0", "step1")
    assert told == [(0, 3), (1, 3), (2, 3), (3, 3)]


def test_local_folders_are_hashed(tmp_path):
    series = list_series_of(tmp_path, {"step-1": "aa", "step-2": "bb", "step-3": "aa", "step-4": "cc"})
    (tmp_path / "step-4" / ONE).unlink()
    (tmp_path / "step-4" / "pytorch_model.bin").write_bytes(b"aa")
    for state in ("optimizer.pt", "rng_state_0.pth", "training_args.bin"):
        (tmp_path / "step-4" / state).write_bytes(b"bb")
    report = inspect_series(series)
    assert report.duplicates == (("step-1", "step-3", "step-4"),)
    assert report.flags["step-2"] == ()
    assert "pickled weights only" in report.flags["step-4"][1]
    assert report.main == ""


def at(steps, stage=""):
    return [Checkpoint(None, f"{stage}step{step}", step, None, stage) for step in steps]


def test_gaps():
    olmo_1b = [20000, 30000, 40000, 50000, *range(52000, 61000, 1000), *range(63000, 72000, 1000), 80000]
    olmo_1b += [90000, *range(95000, 107000, 1000), *range(110000, 118000, 1000), 117850, *range(330000, 338000, 1000)]
    found = [(gap.after, gap.before, gap.absent) for gap in find_gaps(at(olmo_1b))]
    assert found == [
        ("step60000", "step63000", 2),
        ("step71000", "step80000", 8),
        ("step80000", "step90000", 9),
        ("step90000", "step95000", 4),
        ("step106000", "step110000", 3),
        ("step117850", "step330000", 211),
    ]


def test_a_rule_with_a_dense_beginning_has_no_gaps():
    assert find_gaps(at([0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, *range(1000, 20_000, 1000)])) == ()
    assert find_gaps(at([1, 10, 100, 1000, 10_000, 100_000])) == ()
    assert find_gaps(at([0, 1000, 5000])) == ()
    assert find_gaps(at([0, 1, 2, 1000, 2000])) == ()


def test_gaps_are_those_of_a_stage():
    series = at(range(0, 6000, 1000), "stage1") + at([*range(0, 4000, 500), 6000], "stage2")
    (gap,) = find_gaps(series)
    assert (gap.stage, gap.after, gap.before, gap.absent) == ("stage2", "stage2step3500", "stage2step6000", 4)
