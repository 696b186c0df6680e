"""Where prompt and answer part, on tokenizers of several makes, fast and slow, against what they give jointly."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from gated_lpi.errors import FactsError
from gated_lpi.facts import Collision, Prompt, encode, first_token_collisions, join, load_facts

TEXT = ["The capital of France is Paris", "The capital of Japan is Tokyo", "Paris Parma Tokyo Toulouse"] * 4


def byte_level() -> PreTrainedTokenizerFast:
    """GPT-2's make: bytes, the space in front of a word belongs to its token, no special tokens added."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=330, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(TEXT, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


def metaspace() -> PreTrainedTokenizerFast:
    """Llama's make: "▁" for spaces, which may stand alone, byte fallback left out, <s> in front, </s> behind."""
    words = ["<unk>", "<s>", "</s>", "▁", *"abcdefghijklmnopqrstuvwxyzFJPT", "is", "▁is"]
    model = models.BPE(
        vocab={word: i for i, word in enumerate(words)},
        merges=[("i", "s"), ("▁", "is")],
        unk_token="<unk>",
    )
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse()])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>")


def word_level() -> PreTrainedTokenizerFast:
    """One token a word, and <unk> for words that the vocabulary lacks."""
    words = ["<unk>", *dict.fromkeys(" ".join(TEXT).split())]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")


class Slow:
    """A tokenizer that gives no offsets, as those written in Python do."""

    is_fast = False

    def __init__(self, fast: PreTrainedTokenizerFast) -> None:
        self._fast = fast
        self.all_special_ids = fast.all_special_ids
        self.bos_token_id = fast.bos_token_id
        self.convert_ids_to_tokens = fast.convert_ids_to_tokens
        self.decode = fast.decode

    def __call__(self, text: str, *, return_offsets_mapping: bool = False) -> Any:
        assert not return_offsets_mapping
        return self._fast(text)


BYTES, META, WORDS = byte_level(), metaspace(), word_level()
SPEEDS = pytest.mark.parametrize("speed", [lambda fast: fast, Slow], ids=["fast", "slow"])
Speed = Callable[[PreTrainedTokenizerFast], Any]


def fact(text: str, target: str) -> Prompt:
    return Prompt(text, target, relation="capital", subject="France", object=target.strip(), template="of {} is")


@SPEEDS
@pytest.mark.parametrize(
    ("fast", "text", "target", "token"),
    [
        (BYTES, "The capital of France is", "Paris", "ĠParis"),
        (BYTES, "The capital of France is", " Paris", "ĠParis"),
        (BYTES, "The capital of France is ", "Paris", "ĠParis"),
        (BYTES, "The capital of France is\n", "Paris", "Paris"),
        (BYTES, "The capital of France is", "Ästad", "Ã"),
        (BYTES, "The capital of France is", "東京", "æ"),
        (META, "the capital of France is", "Paris", "P"),
        (META, "it", "is", "▁is"),
        (WORDS, "The capital of France is", "Paris", "Paris"),
    ],
)
def test_the_target_is_the_first_token_that_shows_the_answer(
    speed: Speed, fast: PreTrainedTokenizerFast, text: str, target: str, token: str
) -> None:
    (encoded,) = encode(speed(fast), [fact(text, target)])
    joint = fast(join(text, target))["input_ids"]
    assert encoded.target_token == token
    assert encoded.target_id == fast.convert_tokens_to_ids(token)
    assert joint[: len(encoded.ids) + 1] == [*encoded.ids, encoded.target_id]
    assert encoded.prompt == fact(text, target)


@SPEEDS
def test_special_tokens_come_in_front_and_a_lone_space_mark_stays_with_the_prompt(speed: Speed) -> None:
    (encoded,) = encode(speed(META), [fact("it is", "Paris")])
    assert META.convert_ids_to_tokens(list(encoded.ids)) == ["<s>", "▁", "i", "t", "▁is", "▁"]
    assert encoded.target_token == "P"


@SPEEDS
@pytest.mark.parametrize(
    ("fast", "text", "target", "reason"),
    [
        (BYTES, "Pa", "\u200bris", None),
        (META, "it i", "s", None),
        (BYTES, "The capital is", "  ", "the answer is blank"),
        (BYTES, "", "Paris", "no token comes before"),
        (WORDS, "", "Paris", "no token comes before"),
        (WORDS, "The capital is", "Atlantis", "'<unk>', a special or unknown token"),
        (META, "it is", "Ω", "'<unk>', a special or unknown token"),
    ],
)
def test_only_answers_that_cannot_be_predicted_are_refused(
    speed: Speed, fast: PreTrainedTokenizerFast, text: str, target: str, reason: str | None
) -> None:
    if reason is None:
        assert len(encode(speed(fast), [fact(text, target)])) == 1
    else:
        with pytest.raises(FactsError, match=reason) as caught:
            encode(speed(fast), [fact(text, target)])
        for name in ("'capital'", "'France'", repr(target.strip() or target), "'of {} is'"):
            assert name in str(caught.value)


def fusing() -> PreTrainedTokenizerFast:
    """Pieces that reach across a space: "of Paris" is a single one; "£" has none and leaves no trace."""
    vocab = {piece: i for i, piece in enumerate(["o", "f", " ", "P", "of", " P", "of P"])}
    tokenizer = Tokenizer(models.BPE(vocab, merges=[("o", "f"), (" ", "P"), ("of", " P")]))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


@SPEEDS
def test_a_token_across_the_boundary_is_refused(speed: Speed) -> None:
    with pytest.raises(FactsError, match="'of P' covers both the prompt's end and the answer's start"):
        encode(speed(fusing()), [fact("o of", "P")])


@SPEEDS
def test_an_answer_without_any_token_is_refused(speed: Speed) -> None:
    with pytest.raises(FactsError, match="gives the answer no token"):
        encode(speed(fusing()), [fact("of", "£")])


@SPEEDS
def test_whitespace_after_a_dropped_character_is_not_the_target(speed: Speed) -> None:
    fast = byte_level()
    fast.backend_tokenizer.normalizer = normalizers.Replace("\u200b", "")
    (encoded,) = encode(speed(fast), [fact("The capital of France is", "\u200b  Paris")])
    assert encoded.target_token == "ĠParis"


words = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=12)


@given(text=words, target=words)
def test_input_and_target_begin_the_joint_tokens_whatever_the_words(text: str, target: str) -> None:
    assume(text.strip() and target.strip())
    (encoded,) = encode(BYTES, [Prompt(text + " so", target)])
    joint = BYTES(join(text + " so", target))["input_ids"]
    assert joint[: len(encoded.ids) + 1] == [*encoded.ids, encoded.target_id]
    before = BYTES.decode(list(encoded.ids))
    assert before.rstrip() == (text + " so").rstrip()


@given(text=words, target=words, space=st.sampled_from(["", " "]))
def test_fast_and_slow_tokenizers_part_prompt_and_answer_alike(text: str, target: str, space: str) -> None:
    assume(not target[0].isspace())
    prompt = Prompt(f"{text} so", space + target)
    assert encode(BYTES, [prompt]) == encode(Slow(BYTES), [prompt])


def test_every_builtin_prompt_has_a_target_in_a_byte_level_vocabulary() -> None:
    prompts = load_facts("builtin").prompts("all")
    encoded = encode(BYTES, prompts)
    assert [item.prompt for item in encoded] == list(prompts)
    for item in encoded:
        assert BYTES.decode(list(item.ids)).removesuffix(" ") == item.prompt.text


def test_objects_that_share_their_first_token_are_grouped_by_relation() -> None:
    def city(relation: str, target: str) -> Prompt:
        return Prompt("It is", f" {target}", relation=relation, object=target)

    prompts = [
        city("a", "Paris"),
        city("a", "Xo"),
        city("a", "Xi"),
        city("a", "Xo"),
        city("b", "Xy"),
        city("b", "Tokyo"),
    ]
    assert first_token_collisions(encode(BYTES, prompts)) == [Collision("a", "X", ("Xo", "Xi"))]
    assert first_token_collisions([]) == []
