"""Recall of whole answers: against the model's own decoding, and against a forward pass for every token."""

import numpy as np
import pytest
import torch

from gated_lpi.ablation import recall, silenced, target_ranks
from gated_lpi.errors import OptionError
from gated_lpi.facts import EncodedPrompt, Prompt
from gated_lpi.prompting import encode_facts
from tiny_models import CASES, random_prompts, tiny_model
from tiny_text import FACTS, speaking_model

N_ANSWER = 4


def decoded(model, ids, count=N_ANSWER):
    """What transformers' own greedy decoding says."""
    given = torch.tensor([ids])
    model.module.generation_config.eos_token_id = None
    said = model.module.generate(
        given, attention_mask=torch.ones_like(given), do_sample=False, max_new_tokens=count, pad_token_id=0
    )
    return said[0, len(ids) :].tolist()


def item(ids, answer):
    return EncodedPrompt(tuple(ids), answer[0], "", Prompt("", ""), tuple(answer))


def other(token):
    return (token + 1) % 64


def asked_of(model):
    """Prompts with the answer that the model gives, and with answers of several lengths that it does not."""
    for index, ids in enumerate(random_prompts(6)):
        said = decoded(model, ids, 1 + index % N_ANSWER)
        yield item(ids, said)
        yield item(ids, [*said[:-1], other(said[-1])])
        yield item(ids, [other(said[0]), *said[1:]])
        yield item(ids, [(7 * index + k) % 64 for k in range(N_ANSWER)])


@pytest.mark.parametrize("case", CASES, ids=str)
def test_exact_match_is_that_of_greedy_decoding(case):
    model = tiny_model(case)
    items = list(asked_of(model))
    found = recall(model, items, "all", batch_size=13)
    said = [decoded(model, one.ids, len(one.answer_ids)) == list(one.answer_ids) for one in items]
    assert 6 <= sum(said) <= 12
    assert found.exact.tolist() == said
    assert (found.ranks == 0).tolist() == said


@pytest.mark.parametrize("name", ["GPT-2", "OLMoE", "Gemma2", "Granite-MoE", "Qwen3-MoE"])
def test_an_answers_log_probability_is_the_sum_over_its_tokens_and_its_rank_the_worst_of_them(name):
    model = tiny_model(name)
    items = list(asked_of(model))
    found = recall(model, items, "all")
    for p, one in enumerate(items):
        log_p, ranks = 0.0, []
        for k, token in enumerate(one.answer_ids):
            with torch.no_grad():
                logits = model.module(torch.tensor([[*one.ids, *one.answer_ids[:k]]])).logits[0, -1].double()
            log_p += float(logits.log_softmax(-1)[token])
            ranks.append(int((logits > logits[token]).sum()))
        assert found.log_probabilities[p] == pytest.approx(log_p, abs=1e-4)
        assert found.ranks[p] == max(ranks)


def test_the_first_token_alone_is_what_target_ranks_finds():
    model = speaking_model("Qwen3-MoE")
    encoded = encode_facts(model, FACTS).prompts
    calls = []
    found = recall(model, encoded, batch_size=2, progress=lambda *counts: calls.append(counts))
    assert found.ranks.tolist() == target_ranks(model, encoded).tolist()
    assert found.exact is None
    assert calls[-1] == (len(encoded), len(encoded))
    longer = [item(one.ids, (one.target_id, 3, 4)) for one in encoded]
    assert np.allclose(recall(model, longer).log_probabilities, found.log_probabilities, atol=1e-6)
    whole = recall(model, longer, "all")
    assert (whole.ranks >= found.ranks).all()
    assert (whole.log_probabilities < found.log_probabilities).all()


def test_silencing_shows_in_whole_answers():
    model = tiny_model("OLMo2")
    items = [item(ids, decoded(model, ids)) for ids in random_prompts(8)]
    assert recall(model, items, "all").exact.all()
    with silenced(model, np.arange(model.block_units(2).start)):
        assert not recall(model, items, "all").exact.all()
    assert recall(model, items, "all").exact.all()


def test_what_cannot_be_asked_is_refused():
    model = tiny_model("GPT-2")
    with pytest.raises(OptionError, match="0 prompts were given"):
        recall(model, [], "all")
    with pytest.raises(OptionError, match="answer='last' was given"):
        recall(model, [item([1], [2])], "last")
