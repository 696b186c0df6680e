"""Where the subject stands among a prompt's tokens, on tokenizers of several makes, fast and slow."""

import pytest
from test_facts_targets import BYTES, META, SPEEDS, WORDS

from gated_lpi.errors import FactsError
from gated_lpi.facts import EncodedPrompt, Prompt, encode, subject_positions


def asked(template, subject, answer="Paris"):
    return Prompt(template.replace("{}", subject), answer, "capital", subject, answer, template)


def tokens(tokenizer, prompt, bos=None):
    """The subject's tokens, and where the first of them is."""
    (encoded,) = encode(tokenizer, [prompt], bos=bos)
    found = subject_positions(tokenizer, encoded)
    assert list(found) == sorted(found)
    return tokenizer.convert_ids_to_tokens([encoded.ids[place] for place in found]), found[0]


@SPEEDS
@pytest.mark.parametrize(
    ("fast", "template", "subject", "expected", "first"),
    [
        (BYTES, "The capital of {} is", "France", ["ĠFrance"], 3),
        (BYTES, "{} has the capital", "France", ["Fr", "ance"], 0),
        (BYTES, "The capital of {} is", "Japan", ["ĠJapan"], 3),
        (BYTES, "The capital of {}, is", "Japan", ["ĠJapan"], 3),
        (BYTES, "The capital of {} is", "Japan Tokyo", ["ĠJapan", "ĠTokyo"], 3),
        (BYTES, "Tokyo and {} is", "Tokyo", ["ĠTokyo"], None),  # of a subject that stands there twice, its own place
        (META, "the capital of {} is", "France", list("France"), None),
        (META, "{} is", "France", list("France"), 2),
        (META, "the capital of {}", "Jap is", [*"Jap", "▁is"], None),
        (WORDS, "The capital of {} is", "France", ["France"], 3),
        (WORDS, "{} is", "France", ["France"], 0),
    ],
)
def test_its_tokens_are_those_that_show_it(speed, fast, template, subject, expected, first):
    found, place = tokens(speed(fast), asked(template, subject))
    assert found == expected
    if first is not None:
        assert place == first


@SPEEDS
@pytest.mark.parametrize("template", ["the capital of {} is", "{} is", "it is {}"])
@pytest.mark.parametrize("bos", [None, True, False])
def test_a_bos_token_that_is_added_or_taken_away_moves_it(speed, template, bos):
    found, place = tokens(speed(META), asked(template, "France"), bos)
    assert found == list("France")
    assert place == tokens(META, asked(template, "France"))[1] - (bos is False)


@SPEEDS
def test_a_bos_token_that_the_tokenizer_does_not_add_by_itself(speed):
    plain = {template: tokens(WORDS, asked(template, "France"))[1] for template in ("{} is", "The capital of {} is")}
    for template, place in plain.items():
        (encoded,) = encode(WORDS, [asked(template, "France")])
        added = EncodedPrompt((0, *encoded.ids), encoded.target_id, "", encoded.prompt)
        assert subject_positions(speed(WORDS), added) == (place + 1,)


@SPEEDS
def test_the_template_says_which_of_two_it_is_and_the_text_where_there_is_none(speed):
    first, second = asked("{} and Japan is", "Japan"), asked("Japan and {} is", "Japan")
    assert tokens(speed(WORDS), first)[1] < tokens(speed(WORDS), second)[1]
    bare = Prompt("The capital of France is", "Paris", subject="France")
    assert tokens(speed(WORDS), bare) == (["France"], 3)
    odd = Prompt("The capital of France is", "Paris", subject="France", template="{}: which capital?")
    assert tokens(speed(WORDS), odd) == (["France"], 3)  # a template that the text is not made of


def test_a_subject_that_is_not_there_is_refused_by_name():
    for prompt, told in (
        (Prompt("The capital of France is", "Paris"), "names no subject"),
        (Prompt("The capital of France is", "Paris", subject="Peru"), "'Peru' is not in its prompt"),
    ):
        (encoded,) = encode(WORDS, [prompt])
        with pytest.raises(FactsError, match=told):
            subject_positions(WORDS, encoded)
