import json

import pytest

from gated_lpi.checkpoints import list_local, scan_local
from gated_lpi.errors import CheckpointError


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
    (tmp_path / "step-2").write_text("a file, not a folder")
    listing = scan_local(tmp_path)
    assert [c.key for c in listing.checkpoints] == ["step-1"]
    assert listing.ignored == (name,)


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
        ("{", "cannot be read as JSON"),
        ("[1]", "Expected an object"),
        ('{"step": "5"}', "Expected an object"),
        ('{"step": 5, "tokens": 1.5}', "Expected an object"),
        ('{"step": 6}', "says step 6"),
    ],
)
def test_unusable_record_is_an_error(tmp_path, record, words):
    (tmp_path / "step-5").mkdir()
    (tmp_path / "step-5" / "checkpoint.json").write_text(record)
    with pytest.raises(CheckpointError, match=words):
        list_local(tmp_path)


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
