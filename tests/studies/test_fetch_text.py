"""How scripts/fetch_text.py cleans what it fetches; the packages themselves are not fetched."""

import importlib.util
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "fetch_text.py"
NOUNS = r"""  1 This software and database is being provided to you, the LICENSEE | by Princeton
00045646 04 n 02 rally 1 rallying 1 003 @ 00036762 n 0000 | the feat of mustering strength; "he  started a rally";
00046177 04 n 01 running_away 0 001 @ 00030358 n 0000 | the act of leaving a place you are expected to be
00000001 00 s 01 afloat(p) 0 000 | borne on the water; floating
00000002 00 s 01 be 0 000 | short
"""
ENTRIES = r"""00-database-info
   This file was converted from the original database on a Tuesday.

Coagulate \Co*ag"u*late\, v. t. [imp. & p. p. {Coagulated}; p.
   pr. & vb. n. {Coagulating}.]
   To cause (a liquid) to change into a curdlike or semisolid
   state; to curdle; as, rennet coagulates milk. --Boyle.
   [1913 Webster]

            They would not thread the gates of any town.
                                                  --Shak.

   Syn: To thicken; concrete; curdle; clot; congeal together.
        [1913 Webster]

   2. (Chem.) A mass that has been curdled by whatever means.
      [WordNet 1.5]

Coagulum \Co*ag"u*lum\, n.; pl. {Coagula}. [L. See {Coagulate},
v. t.]
   1. The thick, curdy precipitate formed by {coagulation}.
      [1913 Webster]
"""


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("fetch_text", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_gloss_is_a_line_with_its_first_word(script):
    assert list(script.wordnet_lines(NOUNS.splitlines())) == [
        'rally: the feat of mustering strength; "he started a rally"',
        "running away: the act of leaving a place you are expected to be",
        "afloat: borne on the water; floating",
    ]


def test_a_sense_is_a_line_without_etymology_sources_quotations_and_wordnet(script):
    assert list(script.gcide_lines(ENTRIES.splitlines())) == [
        "Coagulate: to cause (a liquid) to change into a curdlike or semisolid state; to curdle; as, rennet coagulates "
        "milk.",
        "Coagulum: the thick, curdy precipitate formed by coagulation.",
    ]


def test_every_fiftieth_line_is_kept_out_and_none_comes_twice(script, tmp_path, capsys):
    lines = [f"word {i}: a definition" for i in range(120)]
    script.write(tmp_path, "some", *script.split([*lines, *lines]))
    trained, held_out = ((tmp_path / name).read_text().splitlines() for name in ("some.txt", "some.held-out.txt"))
    assert held_out == [lines[49], lines[99]]
    assert trained == [line for line in lines if line not in held_out]
    assert "118 lines, 472 words" in capsys.readouterr().out


def test_a_part_is_evenly_of_both_and_holds_nothing_that_is_kept_out(script):
    first, second = ([f"{name} {i}: a definition" for i in range(1000)] for name in ("gloss", "sense"))
    second[10] = first[49]  # which is kept out of the first text
    trained, held_out = script.part([script.split(first), script.split(second)], 200)
    assert len(trained) == len(set(trained)) == 200
    assert 0.9 < sum(line.startswith("gloss") for line in trained) / 100 < 1.1
    assert not set(trained) & set(held_out)
    assert first[49] not in held_out
    assert len(held_out) == 4
    whole, kept_out = script.part([script.split(first)], 5000)
    assert (whole, kept_out) == script.split(first)


@pytest.mark.parametrize("given", ["0", "-1", "many", "1.5"])
def test_a_part_of_no_lines_is_refused(script, given, monkeypatch, capsys):
    monkeypatch.setattr(script.sys, "argv", ["fetch_text.py", "--lines", given])
    with pytest.raises(SystemExit):
        script.main()
    assert "--lines" in capsys.readouterr().err


def test_a_package_that_is_there_is_not_downloaded_again(script, tmp_path, monkeypatch):
    monkeypatch.setattr(script.subprocess, "run", lambda *_, **__: pytest.fail("apt was asked"))
    file = tmp_path / "wordnet-base_1_all.deb"
    file.touch()
    assert script.download("wordnet-base", tmp_path) == file


def test_without_apt_it_is_said_what_to_do(script, tmp_path, monkeypatch):
    def missing(*_, **__):
        raise FileNotFoundError("apt-get")

    monkeypatch.setattr(script.subprocess, "run", missing)
    with pytest.raises(SystemExit, match=r"apt-get is not on this machine; download dict-gcide .* put the \.deb into"):
        script.download("dict-gcide", tmp_path)
