"""Tasks and their controls: every answer worked out again from the words of its own prompt."""

import ast
import inspect
import json
import operator
import re
from collections import Counter
from pathlib import Path

import pytest

import gated_lpi
from gated_lpi.errors import FactsError, OptionError
from gated_lpi.facts import FactSet, Prompt, load_facts, tasks
from gated_lpi.facts.loaders import ACCEPTED
from gated_lpi.facts.tasks import arithmetic, gsm8k, key_value, needle, people, two_hop, variables
from gated_lpi.facts.tasks.named import MADE, READ
from gated_lpi.facts.tasks.words import ADJECTIVES, DID, NAMES, NOUNS, VALUES, WHERE, WHO, rough_tokens

BUILTIN = Path(gated_lpi.__file__).parent / "facts" / "builtin"
SAMPLES = {
    relation["name"]: [(sample["subject"], sample["object"]) for sample in relation["samples"]]
    for relation in (json.loads(path.read_text(encoding="utf-8")) for path in BUILTIN.glob("*.json"))
}


def prompts(facts: FactSet, part: str) -> list[Prompt]:
    """Those of relations whose name ends so; "" are the task's own, which are no control."""
    return [p for p in facts.prompts("all") if (p.relation.endswith(part) if part else not p.relation.endswith(")"))]


# Arithmetic

SIGNS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul}


def value_of(node: ast.AST, seen: list[int]) -> int:
    """The value of an expression by Python's own grammar; every value on the way is kept in `seen`."""
    if isinstance(node, ast.Expression):
        return value_of(node.body, seen)
    if isinstance(node, ast.Constant):
        return node.value
    assert isinstance(node, ast.BinOp)
    seen.append(SIGNS[type(node.op)](value_of(node.left, seen), value_of(node.right, seen)))
    return seen[-1]


@pytest.mark.parametrize("spaced", [True, False])
def test_chains_of_arithmetic_come_to_their_answers(spaced: bool) -> None:
    facts = arithmetic(steps=(1, 2, 3, 4), shots=2, n=60, control="all", spaced=spaced)
    for prompt in facts.prompts():
        steps = int(re.match(r"arithmetic (\d) steps?( \(\w+\))?$", prompt.relation)[1])
        *before, question = prompt.text.split("\n")
        equals = " = " if spaced else "="
        if prompt.relation.endswith("(stated)"):
            assert before.pop() == f"{question}{prompt.target}"
        assert question == prompt.subject + equals
        assert len({prompt.subject, *(line.split(equals)[0] for line in before)}) == 3
        for chain, answer in [(prompt.subject, prompt.target), *(line.split(equals) for line in before)]:
            seen: list[int] = []
            assert answer == str(value_of(ast.parse(chain, mode="eval"), seen))
            assert len(seen) == steps
            assert all(0 <= number <= 99 for number in seen)
            numbers = re.findall(r"\d+", chain)
            if prompt.relation.endswith("(identity)"):
                assert answer == numbers[0]
                assert set(numbers[1:]) <= {"0", "1"}
            else:
                assert all("2" <= number <= "9" for number in numbers)
        assert prompt.joined == prompt.text + prompt.target
    assert {len(relation.samples) for relation in facts.relations} == {60}
    assert [p.subject for p in prompts(facts, "(stated)")] == [p.subject for p in prompts(facts, "")]


def test_answers_of_arithmetic_are_not_all_alike() -> None:
    for steps in (1, 2, 3, 4):
        answers = Counter(p.target for p in arithmetic(steps=steps, n=100).prompts())
        assert len(answers) >= 30
        assert max(answers.values()) <= 12


@pytest.mark.slow
def test_there_are_only_so_many_chains() -> None:
    with pytest.raises(OptionError, match=r"n=500 was given, but arithmetic 1 step has 164 questions that differ; ask"):
        arithmetic(steps=1, shots=0, n=500)
    assert len(arithmetic(steps=1, shots=0, n=164)) == 164


# Two hops

CAPITAL_OF = {city: country for country, city in SAMPLES["country capital"]}
LOOK_UP = {
    "capital to currency": (CAPITAL_OF, dict(SAMPLES["country currency"])),
    "capital to language": (CAPITAL_OF, dict(SAMPLES["country language"])),
    "capital to continent": (CAPITAL_OF, dict(SAMPLES["country continent"])),
    "state abbreviation to capital": (
        {short: state for state, short in SAMPLES["state abbreviation"]},
        dict(SAMPLES["state capital"]),
    ),
    "state capital to abbreviation": (
        {city: state for state, city in SAMPLES["state capital"]},
        dict(SAMPLES["state abbreviation"]),
    ),
    "comparative to antonym": (
        {more: plain for plain, more in SAMPLES["adjective comparative"]},
        dict(SAMPLES["adjective antonym"]),
    ),
    "antonym to comparative": (dict(SAMPLES["adjective antonym"]), dict(SAMPLES["adjective comparative"])),
}
STATED = re.compile(
    r"^(The (?:capital|postal abbreviation|comparative form|opposite) of (?:the state of )?(.+?) is (.+?)\. )"
)


@pytest.fixture(scope="module")
def hops() -> FactSet:
    return two_hop(control="all")


def test_two_hops_lead_where_the_builtin_relations_do(hops: FactSet) -> None:
    names = set()
    for prompt in hops.prompts("all"):
        name, variant = re.fullmatch(r"two-hop ([\w ]+?)(?: \((\w+)\))?", prompt.relation).groups()
        names.add(name)
        first, second = LOOK_UP[name]
        question, bridge = prompt.text, first[prompt.subject]
        if variant:
            statement, one, other = STATED.match(prompt.text).groups()
            question = prompt.text.removeprefix(statement)
            given, bridge = (one, other) if name == "antonym to comparative" else (other, one)
            assert given == prompt.subject
            assert (bridge == first[prompt.subject]) == (variant == "stated")
        assert prompt.subject in question
        assert (prompt.bridge, prompt.object) == (bridge, second[bridge])
        assert prompt.target == f" {prompt.object}"
        assert not re.search(rf"\b{re.escape(bridge)}\b", question)
        if variant == "shuffled":
            assert prompt.object != second[first[prompt.subject]]
    assert names == set(LOOK_UP)


def test_two_hop_questions_read_as_the_builtin_ones_with_the_bridge_described(hops: FactSet) -> None:
    files = [json.loads(path.read_text(encoding="utf-8")) for path in BUILTIN.glob("*.json")]
    wordings = [template.split("{}") for relation in files for template in relation["prompt_templates"]]
    for prompt in prompts(hops, ""):
        fitting = [parts for parts in wordings if prompt.text.startswith(parts[0]) and prompt.text.endswith(parts[1])]
        described = [prompt.text.removeprefix(start).removesuffix(end) for start, end in fitting]
        assert any(text.startswith("the ") and text.endswith(f" {prompt.subject}") for text in described)


def test_two_hop_is_as_large_as_promised(hops: FactSet) -> None:
    sizes = {r.name.removeprefix("two-hop "): len(r.samples) for r in hops.relations}
    for name in LOOK_UP:
        assert sizes[name] == sizes[f"{name} (stated)"] == sizes[f"{name} (shuffled)"] >= 15
    assert sum(sizes[name] for name in LOOK_UP) >= 300


def test_the_bridge_can_be_asked_for() -> None:
    answers, bridges = two_hop(), two_hop(target="bridge")
    for answer, bridge in zip(answers.prompts("all"), bridges.prompts("all"), strict=True):
        assert (bridge.text, bridge.object) == (answer.text, answer.bridge)
        assert bridge.relation == f"{answer.relation}, bridge"
        assert bridge.bridge is None
    assert answers.sha256 != bridges.sha256


def test_a_part_of_the_questions_is_drawn() -> None:
    few = two_hop(n=5, seed=3)
    assert {len(relation.samples) for relation in few.relations} == {5}
    assert few.sha256 != two_hop(n=5, seed=4).sha256
    assert set(few.prompts()) <= set(two_hop().prompts())


# Long contexts

LENGTHS = (64, 256, 1024, 4096)


def test_words_are_in_one_list_only() -> None:
    filling = [word for text in (*WHO, *DID, *WHERE) for word in text.split()]
    words = [*ADJECTIVES, *NOUNS, *VALUES, *(name.lower() for name in NAMES), *dict.fromkeys(filling)]
    words += ["any", "other", "key", "code", "word", "of", "anyone", "else", "is", "none", "value"]
    assert [word for word, n in Counter(words).items() if n > 1] == []


@pytest.mark.parametrize("keys", [1, 3])
def test_values_are_those_of_their_keys_in_the_list(keys: int) -> None:
    for prompt in key_value(length=LENGTHS, keys=keys, n=12, control="all").prompts():
        head, *lines, question = prompt.text.split("\n")
        listed = [tuple(line.split(": ")) for line in lines]
        values = dict(listed)
        assert len(values) == len(listed)
        asked = question.removesuffix(":").split(", ")
        assert len(set(asked)) == keys
        otherwise = head.removeprefix("any other key: ")
        assert prompt.target == " " + ", ".join(values.get(key, otherwise) for key in asked)
        places = [list(values).index(key) for key in asked if key in values]
        check_place(prompt, places, len(lines), keys)
        assert prompt.subject == asked[0]
        assert prompt.template.index("{}") == prompt.text.index(asked[0])


@pytest.mark.parametrize("keys", [1, 4])
def test_needles_are_in_their_haystacks(keys: int) -> None:
    for prompt in needle(length=LENGTHS, keys=keys, n=12, control="all").prompts():
        head, *sentences = re.findall(r"[^.]+\.", prompt.text)
        asked = re.search(r"\. The code word of (\w+) is$", prompt.text)[1]
        told = [re.fullmatch(r" The code word of (\w+) is (\w+)\.", sentence) for sentence in sentences]
        words = {match[1]: match[2] for match in told if match}
        assert len(words) == keys
        otherwise = re.fullmatch(r"The code word of anyone else is (\w+)\.", head)[1]
        assert prompt.target == " " + words.get(asked, otherwise)
        places = [i for i, match in enumerate(told) if match and match[1] == asked]
        check_place(prompt, places, len(sentences), 1)
        assert prompt.subject == asked
        assert prompt.template.index("{}") == prompt.text.index(asked)


def check_place(prompt: Prompt, places: list[int], n: int, asked: int) -> None:
    """Where what is asked for stands: nowhere, at the end, or before it, as the relation's name says."""
    if prompt.relation.endswith("(absent)"):
        assert places == []
    elif prompt.relation.endswith("(last)"):
        assert sorted(places) == list(range(n - asked, n))
    else:
        assert len(places) == asked
        assert max(places) < n - 1


def test_what_is_asked_for_is_anywhere_in_the_context() -> None:
    for facts in (key_value(length=512, n=200), needle(length=512, n=200)):
        depths = [p.template.index("{}") / len(p.text) for p in facts.prompts()]
        assert [sum(low <= depth < low + 0.25 for depth in depths) > 25 for low in (0, 0.25, 0.5, 0.75)] == [True] * 4


def test_variables_have_the_values_that_their_chains_begin_with() -> None:
    facts = variables(hops=(1, 2, 4), length=LENGTHS, n=12, control="all")
    for prompt in facts.prompts():
        *lines, question = prompt.text.split("\n")
        hops, variant = re.match(r"variables (\d) hops? \d+(?: \((\w+)\))?$", prompt.relation).groups()
        asked = re.fullmatch(r"The value of (x\d+) is", question)[1]
        if variant == "stated":
            assert lines.pop() == f"{question}{prompt.target}."
        known: dict[str, tuple[str, int]] = {}
        for line in lines:
            name, given = line.split(" = ")
            assert name not in known
            value, steps = known[given] if given.startswith("x") else (given, -1)
            known[name] = (value, steps + 1)
        assert prompt.target == f" {known[asked][0]}"
        assert known[asked][1] == (0 if variant == "direct" else int(hops))
        firsts = [line for line in lines if re.search(r"= \d", line)]
        assert sum(line.endswith(prompt.target) for line in firsts) == 1
        assert prompt.subject == asked
        assert prompt.template.index("{}") == prompt.text.index(f"{asked} = ")


@pytest.mark.parametrize("task", [key_value, needle, variables])
def test_contexts_are_about_as_long_as_asked(task) -> None:
    for prompt in task(length=LENGTHS, n=6, control="all").prompts():
        length = int(re.search(r" (\d{2,})", prompt.relation)[1])
        assert abs(rough_tokens(prompt.text) - length) <= max(16, 0.06 * length)


# Reasoning

LINE = {
    "question": "Ann has 3 {red} boxes of 4 pens. She gives 5 away. How many are left?",
    "answer": "She has 3*4=<<3*4=12>>12 pens.\nLeft are 12-5=<<12-5=7>>7.\n#### 7",
}


def save(path: Path, *lines: object) -> Path:
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines), encoding="utf-8")
    return path


def test_reasoning_is_in_the_prompt_and_the_number_is_the_answer(tmp_path: Path) -> None:
    direct = {"question": "What is 1,000 + 1?", "answer": "#### 1,001"}
    path = save(tmp_path / "test.jsonl", LINE, "", direct, {**direct, "extra": 1})
    facts = load_facts(f"gsm8k:{path}")
    assert facts == gsm8k(path)
    assert [(r.name, len(r.samples)) for r in facts.relations] == [("gsm8k 0 steps", 1), ("gsm8k 2 steps", 1)]
    plain, thought = facts.prompts()
    assert thought.text == f"Question: {LINE['question']}\nAnswer: She has 3*4=12 pens.\nLeft are 12-5=7.\n####"
    assert (thought.joined, thought.subject) == (f"{thought.text} 7", LINE["question"])
    assert plain.joined == "Question: What is 1,000 + 1?\nAnswer: \n#### 1,001"


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "not JSON"),
        ("[]", "expected a JSON object"),
        ({"answer": "#### 1"}, "no key 'question'"),
        ({"question": "q"}, "no key 'answer'"),
        ({"question": "q", "answer": 4}, "'answer' is int 4; expected a text"),
        ({"question": " ", "answer": "#### 1"}, "the subject is ''"),
        ({"question": "q", "answer": "so it is 4"}, "the answer ends in 'so it is 4'; expected a last line like '####"),
        ({"question": "q", "answer": "#### many"}, "the answer ends in '#### many'"),
        ({"question": "q", "answer": "the set {} is\n#### 0"}, "the reasoning has '{}' in it"),
    ],
)
def test_malformed_lines_are_named_with_their_numbers(tmp_path: Path, line: object, reason: str) -> None:
    path = save(tmp_path / "g.jsonl", LINE, "", line)
    with pytest.raises(FactsError, match=rf"^{re.escape(str(path))}: line 3: .*{re.escape(reason)}"):
        gsm8k(path)
    facts = load_facts(f"gsm8k:{path}", on_error="skip")
    assert len(facts) == 1
    assert [skipped.fact for skipped in facts.skipped] == [f"{path}: line 3"]
    assert facts.notes[0].startswith("skipped 1 of 2 lines: line 3: ")
    with pytest.raises(FactsError, match=r"this file: no fact is left, for all 1 were skipped"):
        gsm8k(save(tmp_path / "h.jsonl", line), on_error="skip")


def test_a_file_of_reasoning_that_is_empty_missing_or_not_named_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FactsError, match=r"g\.jsonl: no lines; give one JSON object a line"):
        gsm8k(save(tmp_path / "g.jsonl"))
    with pytest.raises(FactsError, match=r"nowhere\.jsonl: cannot be read \(No such file"):
        load_facts(f"gsm8k:{tmp_path / 'nowhere.jsonl'}")
    with pytest.raises(FactsError, match="gsm8k is read from a file; give gsm8k:FILE"):
        load_facts("gsm8k")


# By name

DIGESTS = {
    "two-hop": "235afc4572927af7",
    "arithmetic": "86e63a63c6915a48",
    "key-value": "53a5bde99f7e7e7e",
    "needle": "f4c18e874db41f5f",
    "variables": "3f1dd1953351d6c0",
    "people": "c759a266a2d789ca",
}


@pytest.mark.parametrize("name", MADE)
def test_a_task_is_the_same_by_name_by_its_source_and_every_time(name: str) -> None:
    facts = load_facts(name)
    assert facts == MADE[name]() == load_facts(facts.source)
    assert facts.source.startswith(f"{name}:")
    assert facts.sha256[:16] == DIGESTS[name]
    assert load_facts(f"{name}:seed=1").sha256 != facts.sha256
    assert all(relation.name.startswith(f"{name} ") for relation in facts.relations)


def test_every_task_is_offered_and_says_what_its_parameters_are() -> None:
    assert {getattr(tasks, name) for name in tasks.__all__} == {*MADE.values(), gsm8k}
    for task in (*MADE.values(), gsm8k):
        told = inspect.getdoc(task)
        assert all(re.search(rf"^    {name}: ", told, re.MULTILINE) for name in inspect.signature(task).parameters)


def test_parameters_are_those_of_the_functions() -> None:
    assert load_facts("arithmetic:steps=1/3,n=7,seed=5,control=all,spaced=false") == arithmetic(
        steps=(1, 3), n=7, seed=5, control="all", spaced=False
    )
    assert load_facts("needle:length=64,keys=2,n=3") == needle(length=64, keys=2, n=3)
    assert load_facts("two-hop:target=bridge,n=2") == two_hop(target="bridge", n=2)


def test_several_tasks_and_the_builtin_facts_are_one_set(tmp_path: Path) -> None:
    path = save(tmp_path / "a;b.jsonl", LINE, "{")
    names = ["builtin", "two-hop:n=2", "needle:length=64,n=2"]
    facts = load_facts(";".join(names), separator="\n")
    parts = [load_facts(name, separator="\n") for name in names]
    assert facts.relations == tuple(relation for part in parts for relation in part.relations)
    assert load_facts(facts.source, separator="\n") == facts
    assert len(load_facts(f"gsm8k:{path}", on_error="skip")) == 1
    with pytest.raises(FactsError, match="more than one relation is named 'needle 64'"):
        load_facts("needle:length=64;needle:length=64,seed=1")
    with pytest.raises(FactsError, match="builtin;nothing: no such file"):
        load_facts("builtin;nothing")


def test_a_separator_is_for_tasks_that_name_none() -> None:
    assert load_facts("arithmetic:n=1", separator="\n").prompts()[0].separator == ""
    assert load_facts("needle:n=1", separator="\n").prompts()[0].separator == "\n"


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (
            "arithmetic:step=2",
            "arithmetic: 'step=2' is no parameter of this task .* from steps, shots, n, seed,",
        ),
        ("arithmetic:steps", "arithmetic: 'steps' is no parameter of this task with a value"),
        ("arithmetic:" + "x" * 5000, r"arithmetic: 'x+\.\.\.x+' is no parameter"),
        ("arithmetic:n=2,n=3", "arithmetic: 'n=3' is given twice"),
        ("arithmetic:steps=0", "steps=0 was given; expected a whole number from 1 to 8"),
        ("arithmetic:steps=1/x", "steps='1/x' was given; expected a whole number from 1 to 8"),
        ("arithmetic:n=-1", "n=-1 was given; expected a whole number of at least 1"),
        ("arithmetic:control=easy", "control='easy' was given; expected one of none, identity, stated, all"),
        ("arithmetic:n=" + "9" * 5000, "n='9999"),
        ("arithmetic:seed=x", "seed='x' was given; expected a whole number of at least 0"),
        ("arithmetic:spaced=3", "spaced=3 was given; expected true or false"),
        ("two-hop:target=subject", "target='subject' was given; expected one of object, bridge"),
        ("key-value:length=12", "length=12 was given; expected a whole number from 32 to 8192"),
        ("needle:keys=true", "keys=True was given"),
        ("variables:hops=9", "hops=9 was given; expected a whole number from 1 to 4"),
    ],
)
def test_parameters_that_mean_nothing_are_refused(source: str, reason: str) -> None:
    with pytest.raises(OptionError, match=reason):
        load_facts(source)


def test_no_numbers_are_none() -> None:
    with pytest.raises(OptionError, match=r"steps=\(\) was given; expected at least one whole number"):
        arithmetic(steps=())
    assert arithmetic(steps=[2, 2], n=1) == arithmetic(steps=2, n=1)


def test_an_unknown_name_lists_the_tasks_and_a_path_is_no_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FactsError, match=r"arithmetics: no such file or folder; give .*two-hop, arithmetic, key-value"):
        load_facts("arithmetics")
    assert all(name in ACCEPTED for name in (*MADE, READ))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FactsError, match="arithmetic: no such file"):
        load_facts(Path("arithmetic"))


# People


def test_people_have_names_of_their_own_and_one_fact_a_relation() -> None:
    facts = people(n=2000, relations=8, objects=100)
    assert [len(relation.samples) for relation in facts.relations] == [2000] * 8
    names = {tuple(sample.subject for sample in relation.samples) for relation in facts.relations}
    assert len(names) == 1
    (everyone,) = names
    assert len(set(everyone)) == 2000
    assert len(people(n=20_000, relations=1)) == 20_000
    words = {word for name in everyone for word in name.split()}
    objects = [{sample.object for sample in relation.samples} for relation in facts.relations]
    assert len(set.union(*objects)) == sum(map(len, objects)) == 800
    assert words.isdisjoint(set.union(*objects))


def test_objects_of_people_are_one_word_each_and_differ_in_two_letters() -> None:
    for relation in people(n=640, relations=8, objects=64).relations:
        counts = Counter(sample.object for sample in relation.samples)
        assert set(counts.values()) == {10}
        assert len({word[:2].lower() for word in counts}) == len(counts) == 64
        assert all(re.fullmatch(r"[A-Za-z]{5,}", word) for word in counts)
        assert len(relation.prompt_templates) >= 4
        assert len({" ".join(template.split()) for template in relation.prompt_templates}) == 5


def test_fewer_people_are_the_first_of_more() -> None:
    few, many = people(n=70, objects=16), people(n=300, objects=16)
    for one, other in zip(few.relations, many.relations, strict=True):
        assert one.samples == other.samples[:70]
    assert people(n=70, objects=16, seed=1).relations[0].samples[0] != few.relations[0].samples[0]


def test_people_asked_about_are_spread_over_all_and_keep_their_facts_and_wordings() -> None:
    everyone, some = people(n=200, seed=3), people(n=200, seed=3, asked=20)
    assert some.source.startswith("people:n=200,")
    assert ",asked=20," in some.source
    order = [sample.subject for sample in everyone.relations[0].samples]
    places = [order.index(sample.subject) for sample in some.relations[0].samples]
    assert places == list(range(5, 200, 10))
    assert {(p.text, p.target) for p in some.prompts("held_out")} <= {
        (p.text, p.target) for p in everyone.prompts("held_out")
    }
    assert people(n=7, asked=7).relations == people(n=7).relations


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"n": 20_001}, r"n=20001 was given; expected a whole number from 1 to 20000"),
        ({"relations": 9}, r"relations=9 was given; expected a whole number from 1 to 8"),
        ({"objects": 1}, r"objects=1 was given; expected a whole number from 2 to 100"),
        ({"n": 5, "asked": 6}, r"asked=6 was given, of n=5 people; .*raise n"),
        ({"asked": 0}, r"asked=0 was given"),
    ],
)
def test_people_that_cannot_be_made(given: dict[str, int], said: str) -> None:
    with pytest.raises(OptionError, match=said):
        people(**given)
