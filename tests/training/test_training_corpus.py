import numpy as np
import pytest

from gated_lpi.errors import FactsError
from gated_lpi.facts import FactSet, Relation, Sample, encode, first_token_collisions, join, load_facts
from gated_lpi.training.corpus import IGNORED, Corpus, build_corpus, data_order, encode_corpus
from gated_lpi.training.tokenizer import train_tokenizer


def test_one_sentence_a_training_prompt_and_none_held_out(facts, corpus):
    assert corpus.texts[0] == "France is governed from Paris."
    assert len(corpus.texts) == 6 * 3
    held_out = {f"{join(p.text, p.target)}." for p in facts.prompts("held_out")}
    assert held_out.isdisjoint(corpus.texts)


def test_digest_follows_texts_and_order(facts, corpus):
    assert build_corpus(facts).sha256 == corpus.sha256
    assert Corpus(corpus.texts[::-1], corpus.answer_starts).sha256 != corpus.sha256
    assert Corpus(corpus.texts, (0,) * 18).sha256 != corpus.sha256
    assert Corpus(("a", "b"), (0, 0)).sha256 != Corpus(("ab",), (0,)).sha256


def test_own_text_files_follow(facts, corpus, tmp_path):
    (tmp_path / "own.txt").write_text("First line.\n\n  Second line.  \n", encoding="utf-8")
    both = build_corpus(facts, [tmp_path / "own.txt"])
    assert both.texts == (*corpus.texts, "First line.", "Second line.")
    assert both.answer_starts == (*corpus.answer_starts, 0, 0)


def test_unreadable_file_and_nothing_to_train_on(facts, tmp_path):
    (tmp_path / "binary").write_bytes(b"\xff\xfe\xff")
    for name in ("binary", "absent"):
        with pytest.raises(FactsError, match=rf"{name} cannot be read"):
            build_corpus(facts, [tmp_path / name])
    single = FactSet((Relation("r", ("{} is",), (Sample("a", "b"),)),), "test")
    with pytest.raises(FactsError, match="no training prompts"):
        build_corpus(single)


def learnt(example, tokenizer):
    return tokenizer.decode([label for label in example["labels"] if label != IGNORED])


def test_only_answers_and_own_texts_are_learnt(facts, tokenizer, tmp_path):
    (tmp_path / "own.txt").write_text("Peru is large.", encoding="utf-8")
    both = build_corpus(facts, [tmp_path / "own.txt"])
    *sentences, own = encode_corpus(both, tokenizer, 64, "answers").inputs
    expected = [f" {prompt.object}." for prompt in facts.training_prompts()]
    assert [learnt(example, tokenizer) for example in sentences] == expected
    assert learnt(own, tokenizer) == " Peru is large."
    for example, text in zip(encode_corpus(both, tokenizer, 64, "all").inputs, both.texts, strict=True):
        assert learnt(example, tokenizer) == f" {text}"
        assert example["input_ids"][0] == tokenizer.bos_token_id


def test_answer_after_a_prompt_that_ends_in_a_space(tokenizer):
    samples = (Sample("France", "Paris"), Sample("Peru", "Lima"))
    spaced = FactSet((Relation("r", ("In {} it is ", "Of {}: "), samples),), "test")
    examples = encode_corpus(build_corpus(spaced), tokenizer, 64, "answers").inputs
    assert [learnt(example, tokenizer) for example in examples] == [" Paris.", " Lima."]


def test_long_texts_are_cut_and_nothing_to_be_learnt_is_lost(corpus, tokenizer):
    whole, cut = (encode_corpus(corpus, tokenizer, context, "all").inputs for context in (1000, 5))
    assert {len(example["input_ids"]) for example in cut} <= {2, 3, 4, 5}
    alone = sum(len(example["input_ids"]) % 5 == 1 for example in whole)
    count = [sum(len(example["labels"]) for example in examples) for examples in (whole, cut)]
    assert count[1] == count[0] - alone


def test_corpus_without_anything_to_predict(tokenizer):
    with pytest.raises(FactsError, match="None of the corpus's 1 texts"):
        encode_corpus(Corpus(("",), (0,)), tokenizer, 8, "all")


def test_order_is_a_permutation_each_epoch_and_set_by_the_seed():
    order = data_order(10, steps=7, batch_size=4, seed=3)
    assert order.shape == (7, 4)
    for epoch in range(2):
        assert sorted(order.reshape(-1)[10 * epoch : 10 * (epoch + 1)]) == list(range(10))
    np.testing.assert_array_equal(order, data_order(10, 7, 4, 3))
    np.testing.assert_array_equal(order[:3], data_order(10, 3, 4, 3))
    assert not np.array_equal(order, data_order(10, 7, 4, 4))


def test_tokenizer_covers_any_text_and_suits_the_facts(facts, corpus, tokenizer):
    assert len(tokenizer) <= 320
    ids = tokenizer("Wörter, 漢字 and tabs\t")["input_ids"]
    assert ids[0] == tokenizer.bos_token_id
    assert tokenizer.decode(ids[1:]).strip(" ") == "Wörter, 漢字 and tabs\t"
    assert tokenizer.pad_token_id != tokenizer.eos_token_id
    assert tokenizer.padding_side == "right"
    assert len(encode(tokenizer, facts.prompts("held_out"))) == len(facts)
    again = train_tokenizer(corpus, 320)
    assert again.backend_tokenizer.to_str() == tokenizer.backend_tokenizer.to_str()


def test_words_are_the_same_token_at_the_start_and_within(corpus):
    tokenizer = train_tokenizer(corpus, 400)
    (first,) = tokenizer("France")["input_ids"][1:]
    assert tokenizer("from France")["input_ids"][-1] == first


def test_targets_of_people_are_a_token_each():
    people = load_facts("people:n=128,relations=2,objects=64")
    tokenizer = train_tokenizer(build_corpus(people), 4096)
    encoded = encode(tokenizer, people.prompts("held_out"))
    assert first_token_collisions(encoded) == []
    assert len({(item.prompt.relation, item.target_id) for item in encoded}) == 2 * 64


def rated(n, exponent, seed=0):
    """People with as many sentences each, of a corpus in which they come up by rank; the relation's sentences."""
    people = load_facts(f"people:n={n},relations=1,objects=16")
    return build_corpus(people, frequency=exponent, seed=seed)


def test_order_with_frequencies_has_each_text_as_often_as_it_should_after_every_epoch():
    corpus = rated(40, 1.0)
    rate, offset = np.array(corpus.rates), np.array(corpus.offsets)
    n = len(corpus.texts)
    assert n == 40 * 4
    assert rate.sum() == pytest.approx(n)
    order = data_order(n, steps=n, batch_size=8, seed=1, often=(rate, offset)).reshape(-1)
    counts = np.bincount(order, minlength=n)
    epochs = len(order) / n
    assert np.abs(counts - rate * epochs).max() < 1 + rate.max() * 0.2  # the last epoch is not whole
    facts = counts.reshape(40, 4).sum(axis=1)
    assert facts[0] / facts[-1] == pytest.approx(40, rel=0.15)
    again = data_order(n, n, 8, 1, (rate, offset)).reshape(-1)
    np.testing.assert_array_equal(order, again)
    np.testing.assert_array_equal(order[: 8 * 5], data_order(n, 5, 8, 1, (rate, offset)).reshape(-1))


def test_a_rare_fact_comes_up_evenly_by_one_wording_after_the_other():
    corpus = rated(100, 1.0)
    rate, offset = corpus.rates[-4:], corpus.offsets[-4:]
    assert rate[0] < 0.25
    seen = [[int((k + 1) * r + o) - int(k * r + o) for r, o in zip(rate, offset, strict=True)] for k in range(60)]
    totals = np.cumsum(np.sum(seen, axis=1))
    expected = 4 * rate[0] * np.arange(1, 61)
    assert np.abs(totals - expected).max() <= 1
    assert np.ptp(np.sum(seen, axis=0)) <= 1


def test_alike_frequencies_are_the_order_of_permutations():
    ones = (np.ones(10), np.linspace(0, 0.9, 10))
    np.testing.assert_array_equal(data_order(10, 7, 4, 3, ones), data_order(10, 7, 4, 3))
    assert rated(20, 0.0).rates == ()
    assert rated(20, 0.0).sha256 == build_corpus(load_facts("people:n=20,relations=1,objects=16")).sha256


def test_digest_follows_frequencies_and_their_seed(tmp_path):
    (tmp_path / "own.txt").write_text("A line of one's own.", encoding="utf-8")
    digests = {rated(20, 0.0).sha256, rated(20, 1.0).sha256, rated(20, 0.5).sha256, rated(20, 1.0, seed=1).sha256}
    assert len(digests) == 4
    people = load_facts("people:n=20,relations=1")
    both = build_corpus(people, [tmp_path / "own.txt"], frequency=1.0)
    assert (both.rates[-1], both.offsets[-1]) == (1.0, 0.0)
    assert len(both.rates) == len(both.offsets) == len(both.texts)


def test_pieces_of_a_text_have_its_rate(tokenizer):
    corpus = Corpus(("France is governed from Paris.", "Peru"), (0, 0), (2.0, 0.5), (0.0, 0.25))
    examples = encode_corpus(corpus, tokenizer, 5, "all")
    assert len(examples.inputs) > 2
    rate, offset = examples.rates(corpus)
    assert list(rate) == [2.0] * (len(rate) - 1) + [0.5]
    assert list(offset) == [0.0] * (len(rate) - 1) + [0.25]
