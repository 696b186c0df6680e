"""Files and values that nobody should give as facts, and somebody does: each an error that names it, or handled."""

import inspect
import json
import os
import pickle
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gated_lpi.errors import FactsError
from gated_lpi.facts import FactSet, Prompt, Relation, Sample, load_facts
from gated_lpi.facts import loaders as loaders_module
from gated_lpi.facts.values import MAX_DEPTH

OWN = {"name": "r", "prompt_templates": ["{} is", "the {} is"], "samples": [{"subject": "a", "object": "b"}]}
SAMPLE = {"subject": "a", "object": "b"}
HUGE = "9" * 5000


def write(path: Path, content: object) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def nested(depth: int) -> str:
    return "[" * depth + "]" * depth


@pytest.mark.parametrize(
    ("content", "place"),
    [
        ('{"name": "r",\n "name": "s"}', "key 'name' is given twice in one object, again at line 2, column 2"),
        (
            '{"name": "r", "prompt_templates": ["{}"], "samples": [\n{"subject": "a", "object": "b"},\n'
            '{"subject": "a", "object": "b", "object": "c"}]}',
            "key 'object' is given twice in one object, again at line 3, column 33",
        ),
    ],
)
@pytest.mark.parametrize("on_error", ["raise", "skip"])
def test_a_key_given_twice_is_refused_with_file_place_and_key(
    tmp_path: Path, content: str, place: str, on_error: Any
) -> None:
    path = write(tmp_path / "r.json", content)
    with pytest.raises(FactsError, match=place) as caught:
        load_facts(path, on_error=on_error)
    assert str(caught.value).startswith(f"{path}: ")


def test_a_key_given_twice_in_a_line_is_refused_with_file_line_and_key(tmp_path: Path) -> None:
    path = write(tmp_path / "f.jsonl", '{"prompt": "a", "target": "b"}\n{"prompt": "a", "target": "b", "target": "c"}')
    with pytest.raises(FactsError, match="line 2: key 'target' is given twice in one object, again at column 32"):
        load_facts(path)


HOSTILE = [
    ("[" * 100_000, "nested too deeply"),
    ('{"a":' * 100_000, "nested too deeply"),
    (nested(700), "expected a JSON object"),
    (HUGE, "4300 digits"),
    ("", "not JSON"),
    ("\u0000", "not JSON"),
    ("\ufeff\ufeff{}", "not JSON"),
    ('{"\\ud800": 1}', r"'a key' is str '\\ud800', with half of a surrogate pair"),
    ('{"x": {"\\udfff": 1}}', "'a key' is .* half of a surrogate pair"),
    ('{"x": ["\\ud800"]}', "'x' is .* half of a surrogate pair"),
    (f'{{"x": {nested(700)}}}', f"'x' holds lists or objects more than {MAX_DEPTH} levels deep"),
    (f'{{"x": {nested(MAX_DEPTH)}}}', f"'x' holds lists or objects more than {MAX_DEPTH} levels deep"),
    (f'{{"x": {nested(MAX_DEPTH - 1)}}}', "no key"),
]


@pytest.mark.parametrize(("text", "reason"), HOSTILE, ids=lambda given: given[:20])
def test_hostile_json_is_an_error_that_names_the_file(tmp_path: Path, text: str, reason: str) -> None:
    for path in (write(tmp_path / "r.json", text), write(tmp_path / "f.jsonl", '{"prompt":"a","target":"b"}\n' + text)):
        if not text and path.suffix == ".jsonl":
            continue
        with pytest.raises(FactsError, match=reason) as caught:
            load_facts(path)
        assert str(caught.value).startswith(f"{path}: ")
        assert len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (f'"properties": {{"x": {nested(700)}}}', "'x' holds lists or objects more than 64"),
        ('"properties": {"x": {"\\ud800": 1}}', "'a key' is .* surrogate"),
        ('"samples": [{"subject": "a", "object": "b", "more": ' + nested(700) + "}]", "sample 0: 'more' holds"),
        ('"samples": [{"subject": "a", "object": "b", "\\ud800": 1}]', "sample 0: 'a key' is .* surrogate"),
        ('"samples": [{"subject": "a", "object": ' + "1" * 4000 + "}]", "sample 0: 'object' is int 1"),
        ('"prompt_templates": ["{} \\ud800"]', "'prompt_templates' is .* surrogate"),
        ('"prompt_templates": null', "'prompt_templates' is NoneType None"),
    ],
)
def test_hostile_parts_of_a_relation_are_errors_that_name_it(tmp_path: Path, change: str, reason: str) -> None:
    key = json.loads("{" + change + "}").keys()
    rest = json.dumps({name: value for name, value in OWN.items() if name not in key})[1:-1]
    path = write(tmp_path / "r.json", "{" + rest + ", " + change + "}")
    with pytest.raises(FactsError, match=reason) as caught:
        load_facts(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert len(str(caught.value)) < 1000


def test_deep_and_odd_properties_within_the_limit_are_kept_and_hashed(tmp_path: Path) -> None:
    properties = {"x": json.loads(nested(MAX_DEPTH - 2)), "n": float("nan"), "i": 10**4000}
    facts = load_facts(write(tmp_path / "r.json", {**OWN, "properties": properties}))
    assert facts.relations[0].properties["i"] == 10**4000
    assert len(facts.sha256) == 64
    assert pickle.loads(pickle.dumps(facts)).sha256 == facts.sha256


def test_control_characters_are_kept_noted_and_shown_escaped(tmp_path: Path) -> None:
    samples = [{"subject": "nul\u0000", "object": "\u001b[31mred"}] * 2 + [{"subject": "nul\u0000", "object": "x"}]
    facts = load_facts(write(tmp_path / "r.json", {**OWN, "name": "bell\u0007", "samples": samples}))
    assert facts.relations[0].samples == (Sample("nul\0", "\x1b[31mred"), Sample("nul\0", "x"))
    assert [note.partition(": ")[2] for note in facts.notes] == [
        r"dropped 1 exact repeats: 'nul\x00' → '\x1b[31mred'",
        r"kept, but odd: 1 subjects with several objects: 'nul\x00' → '\x1b[31mred' | x",
        r"kept, but odd: invisible or undecodable characters: 'bell\x07', 'nul\x00', '\x1b[31mred'",
    ]


def test_windows_files_are_read_as_they_are_meant(tmp_path: Path) -> None:
    line = '{"prompt": "a", "target": "b"}'
    path = tmp_path / "f.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + f'{line}\r\n\r\n{line[:-3]}c"}}\r\n'.encode())
    facts = load_facts(path)
    assert [prompt.joined for prompt in facts.prompts()] == ["a b", "a c"]
    path.write_bytes(line.encode("utf-16"))
    with pytest.raises(FactsError, match=r"f\.jsonl: not UTF-8 text .* save it as UTF-8"):
        load_facts(path)
    path.write_bytes(line.encode("utf-16-le"))
    with pytest.raises(FactsError, match=r"f\.jsonl: line 1: not JSON"):
        load_facts(path)


def test_pipes_and_devices_are_refused_without_being_opened(tmp_path: Path) -> None:
    for name in ("x.json", "x.jsonl"):
        os.mkfifo(tmp_path / name)
        with pytest.raises(FactsError, match=f"{name}: cannot be read, for it is a folder, pipe or device"):
            load_facts(tmp_path / name)
    with pytest.raises(FactsError, match=r"x\.json: cannot be read"):
        load_facts(tmp_path)


def test_links_to_folders_are_not_followed_and_noted(tmp_path: Path) -> None:
    (tmp_path / "facts" / "below").mkdir(parents=True)
    (tmp_path / "other").mkdir()
    write(tmp_path / "facts" / "below" / "r.json", OWN)
    write(tmp_path / "other" / "s.json", {**OWN, "name": "s"})
    (tmp_path / "facts" / "below" / "loop").symlink_to(tmp_path / "facts")
    (tmp_path / "facts" / "elsewhere").symlink_to(tmp_path / "other")
    facts = load_facts(tmp_path / "facts")
    assert [relation.name for relation in facts.relations] == ["r"]
    assert facts.notes == (
        f"{Path('below', 'loop')}: a link to a folder, not followed",
        "elsewhere: a link to a folder, not followed",
    )
    (tmp_path / "way").symlink_to(tmp_path / "other")
    assert len(load_facts(tmp_path / "way")) == 1


def test_links_that_lead_nowhere_are_errors(tmp_path: Path) -> None:
    (tmp_path / "self.json").symlink_to(tmp_path / "self.json")
    with pytest.raises(FactsError, match=r"self\.json: cannot be read"):
        load_facts(tmp_path)
    with pytest.raises(FactsError, match=r"self\.json: cannot be read"):
        load_facts(tmp_path / "self.json")
    (tmp_path / "gone").symlink_to(tmp_path / "nothing")
    with pytest.raises(FactsError, match="gone: no such file or folder"):
        load_facts(tmp_path / "gone")


def test_a_file_that_vanishes_while_the_folder_is_read_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = write(tmp_path / "a.json", OWN), write(tmp_path / "b.json", {**OWN, "name": "s"})
    content = loaders_module.content

    def vanishing(path: Path) -> str:
        second.unlink(missing_ok=True)
        return content(path)

    monkeypatch.setattr(loaders_module, "content", vanishing)
    with pytest.raises(FactsError, match=r"b\.json: cannot be read \(No such file"):
        load_facts(first.parent)


def test_a_folder_that_vanishes_or_cannot_be_listed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: Path) -> Iterator[Path]:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(FactsError, match=rf"{tmp_path}: cannot be listed \(Permission denied\)"):
        load_facts(tmp_path)


def test_a_folder_of_more_levels_than_python_has_frames_is_read(tmp_path: Path) -> None:
    folder = tmp_path.joinpath(*["d"] * 400)
    folder.mkdir(parents=True)
    write(folder / "r.json", OWN)
    usual = sys.getrecursionlimit()
    try:
        sys.setrecursionlimit(len(inspect.stack(0)) + 150)
        assert len(load_facts(tmp_path)) == 1
    finally:
        sys.setrecursionlimit(usual)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("a" * 300 + ".json", "cannot be read"),
        ("a/" * 5000 + "x.json", "cannot be read"),
        ("x\0y.json", r"'x\\x00y.json': no such file"),
        ("\ud800.json", r"'\\ud800.json': no such file"),
        ("", "the source is an empty text"),
        ("x.json/y", "no such file or folder"),
    ],
)
def test_paths_that_no_file_can_have_are_errors(source: str, message: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "x.json", OWN)
    with pytest.raises(FactsError, match=message) as caught:
        load_facts(source)
    assert str(caught.value).encode()


def test_names_of_files_that_are_no_text_can_be_shown(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"\xff")).mkdir()
    write(tmp_path / os.fsdecode(b"\xff") / "r.json", {**OWN, "samples": [SAMPLE, SAMPLE, {}]})
    facts = load_facts(tmp_path / os.fsdecode(b"\xff"), on_error="skip")
    assert facts.source.encode().endswith(rb"\udcff'")
    assert all(str(text).encode() for text in (*facts.notes, *facts.skipped))


PAIRS = [("a", "b"), ("c", "d")]


@pytest.mark.parametrize(
    "make",
    [
        lambda: PAIRS,
        lambda: tuple(PAIRS),
        lambda: [list(pair) for pair in PAIRS],
        lambda: (pair for pair in PAIRS),
        lambda: zip(("a", "c"), ("b", "d"), strict=True),
        lambda: {"a": "b", "c": "d"}.items(),
        lambda: np.array(PAIRS),
        lambda: np.array(PAIRS, dtype=object),
        lambda: list(np.array(PAIRS)),
        lambda: map(iter, PAIRS),
    ],
)
def test_pairs_in_every_form_that_keeps_an_order(make: Callable[[], Any]) -> None:
    facts = load_facts(make())
    assert facts == load_facts(PAIRS)
    assert all(type(text) is str for s in facts.relations[0].samples for text in (s.subject, s.object))
    assert facts.sha256 == load_facts(PAIRS).sha256


NO_PAIRS: list[Any] = [
    (None, "facts cannot be read from NoneType None"),
    (0.5, "facts cannot be read from float 0.5"),
    (b"ab", "facts cannot be read from bytes"),
    ({"a": "b"}, "facts cannot be read from dict"),
    ({("a", "b")}, "facts cannot be read from set"),
    (np.array(3), r"array\(3\) holds no items"),
    (np.array(["a", "b"]), r"pair 0: .* is not a pair"),
    (np.array([["a", "b", "c"]]), "pair 0: .* is not a pair"),
    (np.array([[1, 2]]), "pair 0: 'prompt' is int64"),
    (iter(()), "no pairs were given"),
    ([None], "pair 0: None is not a pair"),
    ([{"a": 1, "b": 2}], "pair 0: .* is not a pair"),
    ([{"a", "b"}], "pair 0: .* is not a pair"),
    ([b"ab"], "pair 0: .* is not a pair"),
    ([np.array(3)], r"pair 0: array\(3\) holds no items"),
    ([("a", b"b")], "pair 0: 'target' is bytes"),
    ([("a", 10**5000)], "pair 0: 'target' is int of too many digits"),
    ([(10**5000,)], r"pair 0: .* is not a pair"),
    ([("a", "\ud800")], "pair 0: 'target' is .* surrogate"),
    ([json.loads(nested(700))], r"pair 0: \[\[\[\[...\]\]\]\] is not a pair"),
    ([("a", json.loads(nested(700)))], "pair 0: 'target' is list"),
    ([("a", "x" * 10**6, "c")], r"pair 0: \('a', 'xxx.*xxx', 'c'\) is not a pair"),
    (load_facts(PAIRS), "facts cannot be read from FactSet"),
]


@pytest.mark.parametrize(("pairs", "message"), NO_PAIRS, ids=lambda given: given[:40] if isinstance(given, str) else "")
def test_what_is_no_pair_is_refused_in_few_words(pairs: Any, message: str) -> None:
    with pytest.raises(FactsError, match=message) as caught:
        load_facts(pairs)
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Sample(1, "b"), "'subject' is int 1; expected a text"),
        (lambda: Sample("a", None), "'object' is NoneType None"),
        (lambda: Sample("a", "\udfff"), "'object' is .* surrogate"),
        (lambda: Sample("a", "b", 3), "'template' is int 3"),
        (lambda: Sample("a", "b", "{} \ud800"), "'template' is .* surrogate"),
        (lambda: Relation(None, ("{}",), (Sample("a", "b"),)), "'name' is NoneType"),
        (lambda: Relation("r", (1,), (Sample("a", "b"),)), "'template' is int 1"),
    ],
)
def test_facts_made_in_code_are_checked_alike(build: Callable[[], Any], message: str) -> None:
    with pytest.raises(FactsError, match=message):
        build()


def test_keys_that_mean_nothing_are_noted(tmp_path: Path) -> None:
    samples = [{**SAMPLE, "id": i, "seperator": ""} for i in range(2)]
    facts = load_facts(write(tmp_path / "r.json", {**OWN, "samples": samples, "seperator": ""}))
    assert facts.notes[0] == "r.json: keys that are not read: 'seperator' (3 times), 'id' (2 times)"
    line = {"prompt": "a", "target": "b", "template": "{} is"}
    facts = load_facts(write(tmp_path / "f.jsonl", line))
    assert facts.notes == ("keys that are not read: 'template' (1 times)",)


@pytest.mark.parametrize(
    ("samples", "notes"),
    [
        (
            [("caf\u00e9", "x"), ("cafe\u0301", "x")],
            [
                r"subjects that differ only in case, spaces or Unicode form: 'café' | 'cafe\u0301'",
                r"facts that differ only in case, spaces or Unicode form: 'café' → 'x' | 'cafe\u0301' → 'x'",
            ],
        ),
        (
            [("France", "Paris"), ("Gaul", "paris"), ("Frankia", "PARIS")],
            ["objects that differ only in case, spaces or Unicode form: 'Paris' | 'paris' | 'PARIS'"],
        ),
        (
            [("New York", "x"), ("new  york", "y")],
            [
                "subjects that differ only in case, spaces or Unicode form: 'New York' | 'new  york'",
                "whitespace other than single spaces: 'new  york'",
            ],
        ),
        ([("Stra\u00dfe", "x"), ("STRASSE", "y")], ["subjects that differ only in case, spaces or Unicode form: "]),
        ([("\u212b", "x"), ("\u00e5", "y")], ["subjects that differ only in case, spaces or Unicode form: "]),
        ([("Paris", "Parys"), ("resume", "r\u00e9sum\u00e9"), ("a", "b")], []),
    ],
)
def test_facts_that_only_a_tokenizer_tells_apart_are_noted(samples: list[tuple[str, str]], notes: list[str]) -> None:
    found = load_facts(samples).notes
    assert len(found) == len(notes)
    for line, expected in zip(found, notes, strict=True):
        assert line.startswith(expected)


def test_templates_that_only_a_tokenizer_tells_apart_are_noted(tmp_path: Path) -> None:
    facts = load_facts(write(tmp_path / "r.json", {**OWN, "prompt_templates": ["{} is", "{} IS"]}))
    assert facts.notes == (
        "r.json: kept, but odd: templates that differ only in case, spaces or Unicode form: '{} is' | '{} IS'",
    )


@pytest.mark.parametrize("suffix", ["json", "jsonl"])
def test_loading_doubled_facts_takes_comparisons_in_proportion_to_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    count = 2000
    samples = [{"subject": f"s{i}", "object": f"o{i}"} for i in range(count)] * 2
    lines = [{"relation": "r", "template": "{} is", **sample} for sample in samples]
    text = json.dumps({**OWN, "samples": samples}) if suffix == "json" else "\n".join(map(json.dumps, lines))
    path = write(tmp_path / f"facts.{suffix}", text)
    compared = 0
    equal = Sample.__eq__

    def counting(self: Sample, other: object) -> bool:
        nonlocal compared
        compared += 1
        return equal(self, other)

    monkeypatch.setattr(Sample, "__eq__", counting)
    facts = load_facts(path)
    assert any(f"dropped {count} exact repeats" in note for note in facts.notes)
    assert len(facts.prompts("all")) == count * (2 if suffix == "json" else 1)
    assert facts.sha256
    assert count <= compared <= 8 * count


def test_a_fact_set_shows_what_it_skipped_when_it_is_copied_whole(tmp_path: Path) -> None:
    facts = load_facts(write(tmp_path / "r.json", {**OWN, "samples": [SAMPLE, {}]}), on_error="skip")
    again: FactSet = pickle.loads(pickle.dumps(facts))
    assert again == facts
    assert again.skipped == facts.skipped != ()
    assert facts.prompts()[0] == Prompt("a is", " b", "r", "a", "b", "{} is")
