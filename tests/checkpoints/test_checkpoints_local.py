import json
import os
import socket
from pathlib import Path

import pytest

from gated_lpi.checkpoints import list_local, list_series, scan_local, select
from gated_lpi.errors import CheckpointError

MOST = 2**63 - 1


@pytest.mark.parametrize(
    ("name", "step", "tokens", "stage"),
    [
        ("step-100", 100, None, ""),
        ("step_100", 100, None, ""),
        ("step100", 100, None, ""),
        ("step-000100", 100, None, ""),
        ("checkpoint-500", 500, None, ""),
        ("step5000-tokens20B", 5000, 20_000_000_000, ""),
        ("step10-tokens1.5T", 10, 1_500_000_000_000, ""),
        ("step10-tokens2048", 10, 2048, ""),
        ("stage1-step300", 300, None, "stage1"),
        ("stage2-ingredient3-step7-tokens3M", 7, 3_000_000, "stage2-ingredient3"),
        ("stage1-step-40", 40, None, "stage1"),
    ],
)
def test_names_give_step_tokens_and_stage(tmp_path, name, step, tokens, stage):
    (tmp_path / name).mkdir()
    (found,) = list_local(tmp_path)
    assert (found.key, found.step, found.tokens, found.stage, found.commit) == (name, step, tokens, stage, "")
    assert found.path == tmp_path / name


@pytest.mark.parametrize("name", ["ckpt_003", "stage2-step5-mix-a", "logs", "step", "step-1-tmp", "my-step5"])
def test_other_folders_are_listed_as_ignored(tmp_path, name):
    (tmp_path / name).mkdir()
    (tmp_path / "step-1").mkdir()
    (tmp_path / ".trainer").mkdir()
    listing = scan_local(tmp_path)
    assert [c.key for c in listing.checkpoints] == ["step-1"]
    assert listing.ignored == (name,)


def reasons(folder):
    return {item.name: item.reason for item in scan_local(folder).excluded}


def test_what_is_no_folder_is_listed_with_the_reason(tmp_path):
    (tmp_path / "step-1").mkdir()
    for name in ("step-2", "README.md", ".hidden"):
        (tmp_path / name).write_text("a file")
    (tmp_path / "step-3").symlink_to("gone")
    (tmp_path / "step-4").symlink_to("step-4")
    (tmp_path / "step-5").symlink_to("step-6")
    (tmp_path / "step-6").symlink_to("step-5")
    (tmp_path / "step-7").symlink_to("README.md")
    (tmp_path / "step-8").symlink_to("README.md/below")
    os.mkfifo(tmp_path / "step-9")
    assert reasons(tmp_path) == {
        "README.md": "a file, not a folder",
        "step-2": "a file, not a folder",
        "step-3": "a link to nothing",
        "step-4": "a link that leads back to itself",
        "step-5": "a link that leads back to itself",
        "step-6": "a link that leads back to itself",
        "step-7": "a file, not a folder",
        "step-8": "a link to nothing",
        "step-9": "neither a file nor a folder",
    }
    assert scan_local(tmp_path).left_out[0] == "left out: README.md, step-2, step-7: a file, not a folder"


def test_a_link_to_a_checkpoint_is_one(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "series").mkdir()
    (tmp_path / "series" / "step-3").symlink_to("../elsewhere")
    assert [c.step for c in list_local(tmp_path / "series")] == [3]


def test_a_series_of_nothing_but_what_is_left_out_says_why(tmp_path):
    (tmp_path / "step-2").write_text("a file")
    (tmp_path / "step-3").symlink_to("gone")
    with pytest.raises(CheckpointError, match=r"step-2 \(a file, not a folder\); step-3 \(a link to nothing\)"):
        list_series(tmp_path)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("step-" + "9" * 22, "tells a step of 22 digits, more than 9,223,372,036,854,775,807"),
        ("step-" + "9" * 200, "tells a step of 200 digits"),
        (f"step-{MOST + 1}", "tells a step of 19 digits"),
        ("step-5-tokens9999999999T", "tells tokens of 22 digits"),
        ("step\u0661\u0662", "names no step"),
        ("step-\u0665", "names no step"),
        ("ckpt_" + "9" * 30, "tells a number of 30 digits"),
        ("step-5\n", "names no step"),
        ("step-5\\", "names no step"),
        ("step--5", "names no step"),
    ],
)
def test_folders_that_tell_no_usable_number(tmp_path, name, reason):
    (tmp_path / name).mkdir()
    (tmp_path / f"step-{MOST}").mkdir()
    (tmp_path / "step-000000000000000000000000000004").mkdir()
    listing = scan_local(tmp_path)
    assert [c.step for c in listing.checkpoints] == [4, MOST]
    (left,) = listing.excluded
    assert left.name == name
    assert reason in left.reason
    assert [c.step for c in select(listing.checkpoints, count=2).checkpoints] == [4, MOST]


def test_a_name_that_no_output_can_take_is_spelt_out(tmp_path):
    (tmp_path / "step-1").mkdir()
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/step-5\xff")).mkdir()
    assert reasons(tmp_path) == {"step-5\\udcff": "names no step"}


def test_sorted_by_number_within_stage(tmp_path):
    for name in ("step-1000", "step-9", "step-20", "stage2-step3", "stage1-step800"):
        (tmp_path / name).mkdir()
    keys = [c.key for c in list_local(tmp_path)]
    assert keys == ["step-9", "step-20", "step-1000", "stage1-step800", "stage2-step3"]


def test_record_gives_tokens_and_stage(tmp_path):
    folder = tmp_path / "step-5-tokens1B"
    folder.mkdir()
    (folder / "checkpoint.json").write_text(json.dumps({"step": 5, "tokens": 123, "stage": "train"}))
    (found,) = list_local(tmp_path)
    assert (found.tokens, found.stage) == (123, "train")


@pytest.mark.parametrize(
    ("record", "words"),
    [
        ("{", "cannot be read as JSON (not JSON"),
        ("", "cannot be read as JSON"),
        (b"\xff", "cannot be read as JSON ('utf-8' codec"),
        ('{"a":' * 100_000, "nested too deeply"),
        ('{"step": ' + "9" * 5000 + "}", "cannot be read as JSON (not usable JSON"),
        ('{"step": 5, "step": 5}', "'step' is given twice"),
        ("[1]", "holds a list. Expected an object"),
        ("null", "holds None. Expected an object"),
        ('{"step": "5"}', "has step '5'"),
        ('{"step": null}', "has step None"),
        ('{"step": true}', "has step True"),
        ('{"step": NaN}', "has step nan"),
        ('{"step": 5.0}', "has step 5.0"),
        ('{"step": -5}', "has step -5"),
        ('{"step": 6}', "says step 6, but the folder's name says step 5"),
        ('{"tokens": 1.5}', "has tokens 1.5"),
        ('{"tokens": true}', "has tokens True"),
        ('{"tokens": -1}', "has tokens -1"),
        (
            '{"tokens": 9223372036854775808}',
            "has tokens 9223372036854775808. Expected an object whose tokens is 0 to",
        ),
        ('{"tokens": ' + "9" * 4000 + "}", "has tokens an integer of about 4,001 digits"),
        ('{"tokens": 1e999}', "has tokens inf"),
        ('{"stage": 1}', "has stage 1"),
        ('{"stage": null}', "has stage None"),
        ('{"stage": "\\ud800"}', r"has stage '\ud800'"),
        ('{"stage": "a\\u0000"}', r"has stage 'a\x00'"),
        ('{"stage": "a\\nb"}', r"has stage 'a\nb'"),
    ],
)
def test_an_unusable_record_excludes_its_folder(tmp_path, record, words):
    for step in (4, 5):
        (tmp_path / f"step-{step}").mkdir()
    file = tmp_path / "step-5" / "checkpoint.json"
    file.write_bytes(record if isinstance(record, bytes) else record.encode())
    listing = scan_local(tmp_path)
    assert [c.step for c in listing.checkpoints] == [4]
    (left,) = listing.excluded
    assert left.name == "step-5"
    assert words in left.reason
    assert left.reason.startswith("its checkpoint.json ")
    assert left.reason.endswith("correct it, or delete it if the folder's name says enough")
    assert len(left.reason) < 400
    (tmp_path / "step-4").rmdir()
    with pytest.raises(CheckpointError, match=r"holds no checkpoint folders \(found: step-5 \(its checkpoint.json"):
        list_local(tmp_path)


@pytest.mark.parametrize("kind", ["folder", "dead link", "loop", "socket"])
def test_a_record_that_is_no_file_excludes_its_folder(tmp_path, kind, monkeypatch):
    folder = tmp_path / "step-5"
    folder.mkdir()
    file = folder / "checkpoint.json"
    if kind == "folder":
        file.mkdir()
    elif kind == "socket":
        monkeypatch.chdir(folder)  # such names are short
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(file.name)
    else:
        file.symlink_to("gone" if kind == "dead link" else file.name)
    expected = {
        "folder": "is a folder",
        "dead link": "is a link to nothing",
        "loop": "is a link that leads back to itself",
        "socket": "is neither a file nor a folder",
    }
    assert reasons(tmp_path)["step-5"].startswith(f"its checkpoint.json {expected[kind]}; correct it")


def test_the_largest_numbers_are_kept_exactly(tmp_path):
    (tmp_path / f"step-{MOST}").mkdir()
    (tmp_path / f"step-{MOST}" / "checkpoint.json").write_text(json.dumps({"step": MOST, "tokens": MOST}))
    (found,) = list_local(tmp_path)
    assert (found.step, found.tokens) == (MOST, MOST)


def test_a_folder_that_cannot_be_read(tmp_path, monkeypatch):
    """As root everything can be read, so that the refusal is put in here."""

    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(CheckpointError, match=r"cannot be read.*Permission denied"):
        scan_local(tmp_path)


def test_two_folders_of_one_step_are_refused(tmp_path):
    (tmp_path / "step-5").mkdir()
    (tmp_path / "checkpoint-5").mkdir()
    with pytest.raises(CheckpointError, match="checkpoint-5 and step-5 all claim step 5"):
        list_local(tmp_path)


def test_no_folder_and_no_checkpoints_are_errors(tmp_path):
    with pytest.raises(CheckpointError, match="is not a folder"):
        list_local(tmp_path / "absent")
    (tmp_path / "ckpt_1").mkdir()
    with pytest.raises(CheckpointError, match=r"found: ckpt_1.*Expected sub-folders named step-100"):
        list_local(tmp_path)
