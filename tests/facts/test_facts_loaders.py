"""Reading facts from files and pairs: what comes back, what is repaired and noted, what is refused and how."""

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gated_lpi.errors import FactsError
from gated_lpi.facts import FactSet, Sample, load_facts

OWN = {
    "name": "river mouth",
    "prompt_templates": ["The river {} flows into the", "{} ends in the"],
    "prompt_templates_zs": ["Where does {} end? In the"],
    "properties": {"relation_type": "factual", "symmetric": False},
    "samples": [{"subject": "Danube", "object": "Black Sea"}, {"subject": "Nile", "object": "Mediterranean"}],
}

# Real relation files, where the machine has them: set GATED_LPI_LRE to their folder.
LRE = Path(os.environ["GATED_LPI_LRE"]) if "GATED_LPI_LRE" in os.environ else None
LRE_FILES = sorted(LRE.rglob("*.json")) if LRE else []


def write(path: Path, content: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def write_lines(path: Path, *lines: object) -> Path:
    return write(path, "\n".join(json.dumps(line) for line in lines) + "\n")


def own(**changes: object) -> dict[str, object]:
    return {**OWN, **changes}


@pytest.fixture(params=[OWN, *LRE_FILES], ids=lambda given: given.stem if isinstance(given, Path) else "own")
def relation_file(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    given = request.param
    return given if isinstance(given, Path) else write(tmp_path / "own.json", given)


@pytest.fixture(params=[None, *([LRE] if LRE else [])], ids=["own", *(["LRE"] if LRE else [])])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    if request.param is not None:
        return request.param
    write(tmp_path / "b" / "rivers.json", OWN)
    write(tmp_path / "a" / "z" / "lakes.json", own(name="lake country", samples=[*OWN["samples"], OWN["samples"][0]]))
    write(tmp_path / "a" / "README.md", "not facts")
    return tmp_path


def test_a_relation_file_comes_back_whole(relation_file: Path) -> None:
    raw = json.loads(relation_file.read_text(encoding="utf-8"))
    (relation,) = load_facts(relation_file).relations
    assert relation.name == raw["name"]
    assert list(relation.prompt_templates) == raw["prompt_templates"]
    assert list(relation.prompt_templates_zs) == raw["prompt_templates_zs"]
    assert relation.properties == raw["properties"]
    assert {s.subject for s in relation.samples} == {s["subject"] for s in raw["samples"]}
    assert not any("\\u" in s.object for s in relation.samples)


def test_a_folder_is_read_through_in_the_order_of_paths(folder: Path) -> None:
    raws = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.rglob("*.json"))]
    facts = load_facts(str(folder))
    assert [relation.name for relation in facts.relations] == [raw["name"] for raw in raws]
    distinct = sum(len({(s["subject"], s["object"]) for s in raw["samples"]}) for raw in raws)
    assert len(facts) == distinct
    assert any("exact repeats" in note for note in facts.notes)
    assert facts.source == str(folder)


def test_optional_keys_may_be_left_out(tmp_path: Path) -> None:
    minimal = {key: OWN[key] for key in ("name", "prompt_templates", "samples")}
    (relation,) = load_facts(write(tmp_path / "r.json", minimal)).relations
    assert (relation.prompt_templates_zs, relation.properties) == ((), {})


def test_the_same_facts_hash_alike_from_anywhere(tmp_path: Path) -> None:
    here, there = write(tmp_path / "a" / "r.json", OWN), write(tmp_path / "b" / "r.json", json.dumps(OWN, indent=4))
    assert load_facts(here).sha256 == load_facts(there).sha256 == load_facts(tmp_path / "a").sha256


def test_a_byte_order_mark_is_no_error(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    path.write_text(json.dumps(OWN), encoding="utf-8-sig")
    assert len(load_facts(path)) == 2


def test_double_escapes_are_undone_and_counted(tmp_path: Path) -> None:
    samples = [
        {"subject": "Brazil", "object": "Bras\\u00edlia"},
        {"subject": "C\\u00f4te", "object": "smile \\ud83d\\ude00"},
        {"subject": "plain", "object": "half \\ud83d alone"},
    ]
    facts = load_facts(write(tmp_path / "r.json", own(samples=samples)))
    assert [(s.subject, s.object) for s in facts.relations[0].samples] == [
        ("Brazil", "Brasília"),
        ("Côte", "smile 😀"),
        ("plain", "half \\ud83d alone"),
    ]
    assert "r.json: unescaped 3 texts that were escaped twice" in facts.notes
    assert any("escapes left as text" in note for note in facts.notes)


def test_exact_repeats_are_dropped_and_second_objects_kept(tmp_path: Path) -> None:
    pairs = [("apple", "fruit"), ("apple", "plant"), ("apple", "fruit"), ("oak", "tree")]
    samples = [{"subject": s, "object": o} for s, o in pairs]
    facts = load_facts(write(tmp_path / "r.json", own(samples=samples)))
    assert facts.relations[0].samples == (Sample("apple", "fruit"), Sample("apple", "plant"), Sample("oak", "tree"))
    assert facts.notes == (
        "r.json: dropped 1 exact repeats: apple → fruit",
        "r.json: kept, but odd: 1 subjects with several objects: apple → fruit | plant",
    )


@pytest.mark.parametrize(
    ("text", "remark"),
    [
        (" Paris", "whitespace at an end"),
        ("New  York", "whitespace other than single spaces"),
        ("New\u00a0York", "whitespace other than single spaces"),
        ("Par\u200bis", "invisible"),
        ("<b>Paris</b>", "HTML"),
        ("AT&amp;T", "HTML"),
    ],
)
def test_odd_text_is_kept_and_noted(tmp_path: Path, text: str, remark: str) -> None:
    facts = load_facts(write(tmp_path / "r.json", own(samples=[{"subject": "x", "object": text}])))
    assert facts.relations[0].samples[0].object == text
    assert len(facts.notes) == 1
    assert remark in facts.notes[0]


def test_fact_lines_keep_their_own_templates(tmp_path: Path) -> None:
    lines = [
        {"relation": "capital", "subject": "France", "object": "Paris", "template": "The capital of {} is"},
        {"relation": "colour", "subject": "Snow", "object": "white", "template": "{} is"},
        {"relation": "capital", "subject": "Japan", "object": "Tokyo", "template": "{} has its capital in"},
        {"relation": "capital", "subject": "France", "object": "Paris", "template": "{} is ruled from"},
    ]
    facts = load_facts(write_lines(tmp_path / "f.jsonl", *lines))
    assert [relation.name for relation in facts.relations] == ["capital", "colour"]
    assert [p.text for p in facts.prompts()] == [
        "The capital of France is",
        "Japan has its capital in",
        "France is ruled from",
        "Snow is",
    ]
    assert len(facts) == 4
    assert facts.notes == ()


def test_prompt_lines_come_back_as_written(tmp_path: Path) -> None:
    lines = [
        {"prompt": "2 + {x} =", "target": "4"},
        {"prompt": "Say hello ", "target": "world", "relation": "greeting"},
    ]
    facts = load_facts(write_lines(tmp_path / "p.jsonl", *lines))
    assert [(p.relation, p.text, p.target, p.object) for p in facts.prompts()] == [
        ("prompts", "2 + {x} =", " 4", "4"),
        ("greeting", "Say hello ", "world", "world"),
    ]


def test_repeated_lines_are_dropped_and_noted(tmp_path: Path) -> None:
    line = {"prompt": "One and one is", "target": "two"}
    facts = load_facts(write_lines(tmp_path / "p.jsonl", line, line))
    assert len(facts) == 1
    assert "dropped 1 exact repeats" in facts.notes[0]


def test_blank_lines_and_line_separators_inside_text_do_not_split(tmp_path: Path) -> None:
    path = write(tmp_path / "p.jsonl", '\n{"prompt": "a\u2028b", "target": "c"}\r\n\n')
    assert load_facts(path).prompts()[0].text == "a\u2028b"


visible = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(lambda text: text.strip())


@given(st.lists(st.tuples(visible, visible), min_size=1, max_size=5))
def test_pairs_give_one_prompt_each(pairs: list[tuple[str, str]]) -> None:
    prompts = load_facts(pairs).prompts()
    assert [(p.text, p.object) for p in prompts] == pairs


def test_repeated_pairs_are_kept_and_noted() -> None:
    facts = load_facts([("One is", "1"), ("One is", "1")])
    assert len(facts.prompts()) == 2
    assert facts.notes == ("repeated facts: One is → 1",)


BAD_FILES = [
    ("{", r"not JSON: .* at line 1, column 2"),
    ([1], "expected a JSON object, got list"),
    ({"prompt_templates": ["{}"]}, r"no key 'name' \(there are: 'prompt_templates'\)"),
    (own(name=3), "'name' is int 3; expected a text"),
    (own(prompt_templates="{} is"), "relation 'river mouth': 'prompt_templates' is str"),
    (own(prompt_templates=[1]), r"'prompt_templates\[0\]' is int 1"),
    (own(prompt_templates=[]), "relation 'river mouth': no prompt_templates"),
    (own(prompt_templates=["no slot"]), "relation 'river mouth': template 'no slot' has 0 times"),
    (own(prompt_templates_zs=["{} {}"]), "template '{} {}' has 2 times"),
    (own(properties=[]), "'properties' is list"),
    (own(samples=[]), "relation 'river mouth': no samples"),
    (own(samples={}), "'samples' is dict"),
    (own(samples=[{"subject": "a", "object": "b"}, {"subject": "a"}]), "sample 1: no key 'object'"),
    (own(samples=[{"subject": "a", "object": None}]), "sample 0: 'object' is NoneType None"),
    (own(samples=[{"subject": "", "object": "b"}]), "sample 0: the subject is ''"),
    (own(samples=[{"subject": "a", "object": "\ud800"}]), "sample 0: 'object' .* half of a surrogate pair"),
    (own(samples=["a"]), "sample 0: expected a JSON object, got str"),
]


@pytest.mark.parametrize(("content", "message"), BAD_FILES)
def test_one_bad_file_in_a_folder_raises_with_its_path(tmp_path: Path, content: object, message: str) -> None:
    write(tmp_path / "good.json", own(name="good"))
    bad = write(tmp_path / "sub" / "bad.json", content)
    with pytest.raises(FactsError, match=message) as caught:
        load_facts(tmp_path)
    assert str(caught.value).startswith(f"{bad}: ")


BAD_LINES = [
    ("{oops", "line 2: not JSON: .* column 2"),
    ('["a"]', "line 2: expected a JSON object"),
    ('{"prompt": "a"}', "line 2: no key 'target'"),
    ('{"prompt": "a", "target": " "}', "line 2: the object is ' '"),
    ('{"subject": "a"}', "line 2: no key 'relation'"),
    ('{"relation": "r", "subject": "a", "object": "b", "template": "x"}', "line 2: relation 'r': template 'x'"),
    ('{"relation": " ", "prompt": "a", "target": "b"}', "the relation's name is ' '"),
]


@pytest.mark.parametrize(("line", "message"), BAD_LINES)
def test_a_bad_line_is_named(tmp_path: Path, line: str, message: str) -> None:
    path = write(tmp_path / "f.jsonl", '{"prompt": "a", "target": "b"}\n' + line)
    with pytest.raises(FactsError, match=message) as caught:
        load_facts(path)
    assert str(caught.value).startswith(f"{path}: ")


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ([], "no pairs were given"),
        (["ab"], "pair 0: 'ab' is not a pair"),
        ([("a", "b"), ("a", "b", "c")], "pair 1: .* is not a pair"),
        ([("a", 1)], "pair 0: 'target' is int 1"),
        ([("a", "b"), ("", "b")], "pair 1: the subject is ''"),
        (7, 'cannot be read from int 7; give "builtin"'),
    ],
)
def test_what_is_no_sequence_of_pairs_is_refused(pairs, message: str) -> None:
    with pytest.raises(FactsError, match=message):
        load_facts(pairs)


def test_missing_and_foreign_paths_list_what_is_accepted(tmp_path: Path) -> None:
    with pytest.raises(FactsError, match=r"nowhere: no such file or folder; give \"builtin\", an LRE relation"):
        load_facts(tmp_path / "nowhere")
    with pytest.raises(FactsError, match=r"not read from \.csv files; give \"builtin\""):
        load_facts(write(tmp_path / "f.csv", "a,b"))
    with pytest.raises(FactsError, match=r"no \*\.json file in this folder"):
        load_facts(tmp_path)
    with pytest.raises(FactsError, match="no lines"):
        load_facts(write(tmp_path / "empty.jsonl", "\n"))


def test_unreadable_bytes_and_folders_in_disguise_are_refused(tmp_path: Path) -> None:
    (tmp_path / "latin.json").write_bytes('{"name": "Brasília"}'.encode("latin-1"))
    with pytest.raises(FactsError, match=r"latin\.json: not UTF-8 text"):
        load_facts(tmp_path)
    (tmp_path / "folder" / "x.json").mkdir(parents=True)
    with pytest.raises(FactsError, match=r"x\.json: cannot be read"):
        load_facts(tmp_path / "folder")


def test_two_files_with_one_relation_name_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "a.json", OWN)
    write(tmp_path / "b.json", OWN)
    with pytest.raises(FactsError, match=r"b\.json: another file of .* has relation 'river mouth' too"):
        load_facts(tmp_path)


def test_loading_gives_a_fact_set_from_text_and_path_alike(tmp_path: Path) -> None:
    path = write(tmp_path / "r.json", OWN)
    assert isinstance(load_facts(path), FactSet)
    assert load_facts(str(path)) == load_facts(path)
