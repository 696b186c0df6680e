"""How facts are put to a model: joint, BOS, ids that the model does not have, and facts that are skipped."""

import numpy as np
import pytest
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.models import WordLevel
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from flat import attribute
from gated_lpi.errors import FactsError, ModelError, OptionError
from gated_lpi.facts import FactSet, Prompt, Relation, Sample, encode
from gated_lpi.loading import wrap_model
from gated_lpi.prompting import Prompting, encode_facts
from tiny_models import CASES, tiny_module
from tiny_text import FACTS, speaking_model, tiny_tokenizer

QUICK = {"units": ("ffn",), "estimator": "exact"}
CHARACTERS = ["[UNK]", "<s>", *"0123456789+=", " ", "x"]


def spelling_tokenizer(*, adds_bos=False, extra=()):
    """A token for each character, spaces too, and a BOS token that it puts first or does not."""
    tokenizer = Tokenizer(WordLevel({c: i for i, c in enumerate([*CHARACTERS, *extra])}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    if adds_bos:
        tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", unk_token="[UNK]")


def spelling_model(**options):
    return wrap_model(tiny_module("Llama"), spelling_tokenizer(**options))


def ids_of(model, pairs, **how):
    facts = FactSet((Relation("sums", ("{}",), tuple(Sample(*pair) for pair in pairs)),), source="test")
    return [(item.ids, item.target_id) for item in encode_facts(model, facts, Prompting(**how)).prompts]


def spelt(text):
    return tuple(CHARACTERS.index(character) for character in text)


def test_answers_follow_without_a_space_if_asked():
    model = spelling_model()
    assert ids_of(model, [("12+34=", "46")]) == [(spelt("12+34= "), spelt("4")[0])]
    assert ids_of(model, [("12+34=", "46")], separator="") == [(spelt("12+34="), spelt("4")[0])]
    assert ids_of(model, [("12+34=", "46")], separator="x") == [(spelt("12+34=x"), spelt("4")[0])]
    joined = attribute(model, [("12+34=", "46")], separator="", **QUICK)
    spaced = attribute(model, [("12+34=", "46")], **QUICK)
    assert joined["text"].values.tolist() == ["12+34=46"]
    assert spaced["text"].values.tolist() == ["12+34= 46"]
    assert joined.attrs["separator"] == ""
    assert "separator" not in spaced.attrs
    assert not np.allclose(joined["lpi"], spaced["lpi"], atol=1e-4)


@pytest.mark.parametrize("adds_bos", [False, True])
@pytest.mark.parametrize("bos", [None, True, False])
def test_a_bos_token_is_as_asked_and_recorded(adds_bos, bos):
    model = spelling_model(adds_bos=adds_bos)
    wanted = adds_bos if bos is None else bos
    start = (1,) if wanted else ()
    assert ids_of(model, [("1+1=", "2")], separator="", bos=bos) == [((*start, *spelt("1+1=")), spelt("2")[0])]
    found = attribute(model, [("1+1=", "2")], separator="", bos=bos, **QUICK)
    assert found.attrs["bos_added"] == wanted
    assert found.attrs.get("bos") == bos


def test_a_bos_token_makes_room_for_an_answer_that_the_prompt_brings_no_token_before():
    model = spelling_model(adds_bos=True)
    prompt = Prompt(text="", target="4", separator="")
    assert encode(model.tokenizer, [prompt])[0].ids == (1,)
    with pytest.raises(FactsError, match="no token comes before"):
        encode(model.tokenizer, [prompt], bos=False)


def test_a_bos_token_that_the_tokenizer_lacks_is_refused():
    with pytest.raises(OptionError, match="names no BOS token"):
        attribute(speaking_model("Llama"), FACTS, bos=True, **QUICK)


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ([("1+1=", "Z")], r"token 'Z' has id 80, but the model has 64 logits"),
        ([("Z+1=", "2")], r"token 'Z' has id 80, but the model has 64 input embeddings"),
    ],
)
def test_ids_that_the_model_does_not_have_name_the_fact(pairs, message):
    filling = [chr(0x4E00 + i) for i in range(80 - len(CHARACTERS))]
    model = spelling_model(extra=[*filling, "Z"])
    with pytest.raises(FactsError, match=message) as told:
        attribute(model, pairs, separator="", **QUICK)
    assert f"subject {pairs[0][0]!r}" in str(told.value)


@pytest.mark.parametrize("pad", [64, 10**9, -1, None])
def test_any_padding_id_will_do(pad):
    tokenizer = tiny_tokenizer()
    if pad is None:
        tokenizer.pad_token = None
    else:
        tokenizer = wrap(tokenizer, pad)
    model = wrap_model(tiny_module("Llama"), tokenizer)
    assert np.array_equal(
        attribute(model, FACTS, **QUICK)["lpi"], attribute(speaking_model("Llama"), FACTS, **QUICK)["lpi"]
    )


def wrap(tokenizer, pad):
    """The same tokenizer with another padding id than its vocabulary has, as some checkpoints' settings say."""

    class Padded(type(tokenizer)):
        pad_token_id = pad

    tokenizer.__class__ = Padded
    return tokenizer


def test_one_bad_fact_is_skipped_counted_and_listed():
    model = speaking_model("OLMoE")
    good = [(p.text, p.target) for p in FACTS.prompts("first")]
    bad = ("The capital of Nowhere is", "Erewhon")
    with pytest.raises(FactsError, match=r"'Erewhon'.*special or unknown"):
        attribute(model, [*good[:2], bad, *good[2:]], **QUICK)
    found = attribute(model, [*good[:2], bad, *good[2:]], on_error="skip", **QUICK)
    (said,) = found.attrs["skipped"]
    assert "'Erewhon'" in said
    assert found.sizes["prompt"] == len(good)
    assert np.allclose(found["lpi"], attribute(model, good, **QUICK)["lpi"], atol=1e-5)
    with pytest.raises(FactsError, match="'Erewhon'"):
        attribute(model, [bad], on_error="skip", **QUICK)


def test_targets_that_cannot_be_told_apart_are_reported():
    model = speaking_model("Llama")
    found = attribute(
        model, [("The sky is", "blue"), ("The sun is", "blue yellow"), ("A sky looks", "yellow")], **QUICK
    )
    (said,) = found.attrs["collisions"]
    assert "2 objects share their first token" in said
    assert "blue, blue yellow" in said
    assert attribute(model, FACTS, **QUICK).attrs["collisions"] == []


@pytest.mark.parametrize(
    ("option", "value"),
    [("separator", 3), ("separator", "\ud800"), ("on_error", "ignore"), ("bos", "yes"), ("templates", "some")],
)
def test_options_that_mean_nothing_are_refused(option, value):
    with pytest.raises(OptionError, match=option):
        attribute(speaking_model("Llama"), FACTS, **{option: value}, **QUICK)


@pytest.mark.parametrize("eps", [-1e-6, float("nan"), float("inf")])
def test_an_epsilon_that_is_none_is_refused(eps):
    with pytest.raises(OptionError, match="readout_eps"):
        attribute(speaking_model("Llama"), FACTS, readout_eps=eps, **QUICK)


def test_a_model_without_a_tokenizer_is_refused():
    with pytest.raises(ModelError, match="came without a tokenizer"):
        attribute(wrap_model(tiny_module("Llama")), FACTS, **QUICK)


def short_model(case, limit=12, **changes):
    """A model of the family with a short context."""
    key = "n_positions" if str(case) == "GPT-2" else "max_position_embeddings"
    return wrap_model(tiny_module(case, **{key: limit}, **changes), spelling_tokenizer())


def asked(model, text, answer, how="first", **options):
    facts = FactSet((Relation("sums", ("{}",), (Sample(text, answer), Sample("1+1=", "2"))),), source="test")
    return encode_facts(model, facts, Prompting(separator="", **options), answer=how)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_no_more_tokens_than_the_context_are_given_to_a_model(case):
    model = short_model(case)
    assert model.context == 12
    full, over = "1+1+1+1+1+1=", "11+1+1+1+1+1="
    assert len(asked(model, full, "6").prompts[0].ids) == 12
    with pytest.raises(FactsError) as caught:
        asked(model, over, "16")
    reason = (
        "the model would be given 13 tokens (13 of the prompt), but its context is 12 tokens; shorten the prompt or"
    )
    assert f"subject {over!r}" in str(caught.value)
    assert reason in str(caught.value)
    kept, skipped = asked(model, over, "16", on_error="skip")
    assert [item.prompt.subject for item in kept] == ["1+1="]
    assert len(skipped) == 1


def test_an_answer_counts_as_far_as_the_model_is_given_it():
    model = short_model("GPT-2")
    prompt = "1+1+1+1+1+="
    assert len(asked(model, prompt, "333").prompts[0].answer_ids) == 3
    assert len(asked(model, prompt, "33", "all").prompts[0].full_ids) == 13
    with pytest.raises(FactsError, match=r"given 13 tokens \(11 of the prompt and 2 of the answer; its last is only"):
        asked(model, prompt, "333", "all")


def test_positions_that_stretch_with_the_text_have_no_limit_and_other_rotary_ones_that_of_the_configuration():
    stretching = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}
    model = short_model("Llama", rope_parameters=stretching)
    assert model.context is None
    assert len(asked(model, "1+" * 20, "6").prompts[0].ids) == 40
    fixed = short_model("Llama")
    fixed.module.config.max_position_embeddings = 64
    assert fixed.context == 64


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("2x#", r"the answer's token 3 is '\[UNK\]', a special or unknown token"),
        ("2Z", "token 'Z' has id 80, but the model has 64 logits"),
    ],
)
def test_all_tokens_of_an_answer_must_be_ones_that_the_model_can_say_if_it_is_asked_for_all(answer, reason):
    model = spelling_model(extra=[*(f"<{i}>" for i in range(80 - len(CHARACTERS))), "Z"])
    assert len(asked(model, "1+2=", answer).prompts) == 2
    with pytest.raises(FactsError, match=reason):
        asked(model, "1+2=", answer, "all")


def test_another_answer_than_the_first_token_or_all_is_refused():
    with pytest.raises(OptionError, match=r"answer='last' was given; expected 'first', .* or 'all'"):
        asked(spelling_model(), "1+2=", "3", "last")


def test_a_task_is_scored_by_its_name_with_a_relation_for_each_difficulty():
    model = spelling_model(extra=["*", "-", "\n"])
    task = "arithmetic:steps=1/2,shots=1,n=3,control=identity"
    scores = attribute(model, task, keep="relations", **QUICK)
    names = ["arithmetic 1 step (identity)", "arithmetic 2 steps (identity)"]
    assert scores["relation"].values.tolist() == names
    assert scores.attrs["facts"] == "arithmetic:steps=1/2,shots=1,n=3,seed=0,control=identity,spaced=true"
    assert np.isfinite(scores["lpi"]).all()
    assert all(text.count(" = ") == 2 and text[-1].isdigit() for text in scores["text"].values)
