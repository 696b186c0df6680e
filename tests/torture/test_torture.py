"""The campaign itself: it counts what attacks tell, and takes nothing wrong for right."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from torture.attack import Attack, ended_clearly
from torture.campaign import carry_out
from torture.registry import ATTACKS
from torture.table import Row, as_markdown, as_text, failed, put_between_marks

TESTS = Path(__file__).parents[1]


def planted(ground):
    """Two good tries, one that fails; then it dies."""
    for seed in ground.seeds():
        with ground.judging(seed, "planted"):
            assert seed % 3 != 2, "an array that is not what was written"
            ground.came("survived")
    ground.remark("said")
    os._exit(7)


def idle(_ground):
    """Nothing is tried."""


@pytest.mark.slow
def test_two_cheap_attacks_come_out_right():
    command = [sys.executable, "-m", "torture", "fuzz-facts", "hostile", "--count", "3"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=TESTS.parent)
    assert done.returncode == 0, done.stdout + done.stderr
    cells = {line.split()[0]: line.split()[-6:] for line in done.stdout.split("\n\n")[1].splitlines()}
    assert cells["hostile"][0] == "3"
    assert cells["fuzz-facts"][0] == "9"  # three of each of the three loaders
    assert {row[4] for name, row in cells.items() if name != "attack"} == {"0"}


@pytest.mark.slow
def test_a_planted_wrong_is_counted_and_so_is_an_attack_that_dies(tmp_path):
    said = []
    attack = Attack("planted", "", 4, 1, 1, planted, "torture/test_torture.py")
    (row,) = carry_out([(attack, 4)], 0, tmp_path, said.append)
    assert row.counts == {"survived": 3}
    (why, seed), (died, _) = row.wrong
    assert "an array that is not what was written" in why
    assert seed == 2
    assert died == "the attack itself ended with 7"
    assert failed([row])
    assert any("WRONG, seed 2" in line for line in said)
    assert "planted: said" in as_text([row])


@pytest.mark.slow
def test_an_attack_that_tries_nothing_is_a_failure(tmp_path):
    rows = carry_out([(Attack("idle", "", 1, 1, 1, idle, ""), 5)], 0, tmp_path, lambda _: None)
    assert failed(rows)
    assert "0 of 5" in as_text(rows)


def test_what_is_no_clear_line_is_wrong():
    ended_clearly(1, "training\nerror: x could not be written: no space. Free space")
    for code, said in ((-6, "error: a"), (0, "error: a"), (1, ""), (1, "Traceback\nerror: a"), (1, "oh no")):
        with pytest.raises(AssertionError):
            ended_clearly(code, said)


def test_the_table_goes_between_the_marks(tmp_path):
    file = tmp_path / "x.md"
    file.write_text("a\n<!-- torture: begin -->\nold\n<!-- torture: end -->\nb\n")
    row = Row(ATTACKS[0], 3)
    row.take(("came", "healed", 2))
    put_between_marks(file, as_markdown([row], "make torture"))
    text = file.read_text()
    assert f"| {ATTACKS[0].name} | {ATTACKS[0].what} | 2 of 3 | 0 | 2 | 0 | 0 | 0 |" in text
    assert "old" not in text
    assert text.endswith("<!-- torture: end -->\nb\n")
    with pytest.raises(ValueError, match="has no line"):
        put_between_marks(tmp_path / "x.md.", "") if (tmp_path / "x.md.").write_text("none") else None


def test_the_registry_names_files_that_are_there_and_fits_an_hour():
    names = [attack.name for attack in ATTACKS]
    assert len(set(names)) == len(names)
    assert all((TESTS / attack.file).is_file() for attack in ATTACKS)
    assert all(attack.quick <= attack.full for attack in ATTACKS)
    assert sum(attack.minutes for attack in ATTACKS) <= 2 * 60  # two at a time
    reliability = (TESTS.parent / "docs" / "reliability.md").read_text()
    assert all(f"`{attack.name}`" in reliability for attack in ATTACKS)
