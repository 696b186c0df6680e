"""Attention rollout: by hand, by enumerating paths, and over the case table."""

import itertools

import numpy as np
import pytest
import torch

import gated_lpi
from gated_lpi.errors import FactsError, ModelError, OptionError
from gated_lpi.facts import FactSet, Relation, Sample, encode, subject_positions
from gated_lpi.methods.rollout import head_shares
from gated_lpi.trace import pad, run
from gated_lpi.trace.attention import listening
from tiny_models import CASES, tiny_model
from tiny_text import FACTS, speaking_model


def test_one_layer_by_hand():
    # Of the last position's ½·(0.6 + 0.2)/2 on the subject, the first head brings three parts of four.
    weights = torch.tensor([[[[1.0, 0.0], [0.6, 0.4]], [[1.0, 0.0], [0.2, 0.8]]]])
    (shares,) = head_shares([weights], torch.tensor([1]), torch.tensor([[1.0, 0.0]]))
    assert shares.tolist() == [[pytest.approx(0.75), pytest.approx(0.25)]]


def test_a_subject_that_is_not_seen_has_no_shares():
    (shares,) = head_shares([torch.eye(3).expand(1, 2, 3, 3)], torch.tensor([2]), torch.tensor([[1.0, 0.0, 0.0]]))
    assert shares.tolist() == [[0.0, 0.0]]


def random_weights(layers, heads, positions, seed=0):
    """Causal weights whose rows sum to 1, [1, H, S, S] of each layer."""
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(layers, 1, heads, positions, positions, generator=generator)
    mask = torch.full((positions, positions), -torch.inf).triu(1)
    return list((scores + mask).softmax(dim=-1))


def by_paths(weights, last, subject):
    """Shares of the heads, and of the residual path beside them, from every path by itself: [L, H + 1]."""
    n_layers, heads, size = len(weights), weights[0].shape[1], weights[0].shape[-1]
    found = np.zeros((n_layers, heads + 1))
    # At each layer, from the last to the first, a path takes a head to any position, or stays where it is.
    for steps in itertools.product(itertools.product(range(heads + 1), range(size)), repeat=n_layers):
        place, mass = last, 1.0
        for layer, (way, target) in zip(reversed(range(n_layers)), reversed(steps), strict=True):
            if way == heads:
                mass *= 0.5 * (target == place)
            else:
                mass *= 0.5 / heads * float(weights[layer][0, way, place, target])
            place = target
        if mass and place in subject:
            for layer, (way, _) in enumerate(steps):
                found[layer, way] += mass
    return found / found.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("subject", [{0}, {1}, {0, 2}])
def test_two_layers_path_by_path(subject):
    weights = random_weights(2, 2, 4)
    marks = torch.tensor([[float(place in subject) for place in range(4)]])
    shares = torch.cat(head_shares(weights, torch.tensor([3]), marks)).numpy()
    expected = by_paths(weights, 3, subject)
    np.testing.assert_allclose(shares, expected[:, :-1], atol=1e-6)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_heads_of_a_layer_and_the_residual_path_are_the_whole_of_every_family(case):
    model = speaking_model(case)
    scores = gated_lpi.attribute(model, FACTS, templates="all", method=gated_lpi.Rollout())
    assert scores["rollout"].dims == ("prompt", "head_unit")
    encoded = encode(model.tokenizer, FACTS.prompts("all"))
    heads = len(model.heads) // model.n_layers
    shares = scores["rollout"].values.reshape(len(encoded), model.n_layers, heads)
    assert (shares >= 0).all()
    for item, found in zip(encoded, shares, strict=True):
        subject = subject_positions(model.tokenizer, item)
        assert item.prompt.subject == " ".join(model.tokenizer.convert_ids_to_tokens([item.ids[p] for p in subject]))
        mixed = []  # of each layer, one prompt by itself
        size = len(item.ids)

        def hear(_, weights, __, mixed=mixed, size=size):
            apart = weights[0, :, :, :size].double()
            mixed.append((apart / apart.sum(dim=-1, keepdim=True)).mean(dim=0).numpy())

        with torch.no_grad(), listening(model.module, hear):
            run(model, pad([item.ids]))
        np.testing.assert_allclose(np.stack(mixed).sum(axis=-1), 1, atol=1e-6)
        steps = [0.5 * layer + 0.5 * np.eye(size) for layer in mixed]
        marks = np.isin(np.arange(size), subject).astype(float)
        mass = (np.linalg.multi_dot([*steps[::-1], marks]))[-1]
        for layer in range(model.n_layers):
            above, below = np.eye(size)[-1], marks
            for step in steps[layer + 1 :][::-1]:
                above = above @ step
            for step in steps[:layer]:
                below = step @ below
            residual = 0.5 * (above * below).sum() / mass
            assert abs(found[layer].sum() + residual - 1) < 1e-5


def test_prompts_of_the_same_words_may_have_different_subjects():
    relations = [
        Relation(name, (template,), (Sample(subject, "Paris"),))
        for name, template, subject in (("a", "{} capital Japan is", "France"), ("b", "France capital {} is", "Japan"))
    ]
    model = speaking_model("Llama")
    both = gated_lpi.attribute(model, FactSet(tuple(relations), "test"), method=gated_lpi.Rollout())["rollout"]
    for index, relation in enumerate(relations):
        one = gated_lpi.attribute(model, FactSet((relation,), "test"), method=gated_lpi.Rollout())["rollout"]
        np.testing.assert_allclose(both[index], one[0], atol=1e-6)
    assert np.abs(both[0] - both[1]).max() > 1e-3


@pytest.mark.parametrize("keep", ["relations", "mean"])
def test_means_of_shares(keep):
    model = speaking_model("OLMoE")
    whole = gated_lpi.attribute(model, FACTS, method=gated_lpi.Rollout())
    found = gated_lpi.attribute(model, FACTS, method=gated_lpi.Rollout(), keep=keep)["rollout"]
    of = whole["prompt_relation"].values
    means = [whole["rollout"].values[of == name].mean(axis=0) for name in ("capital", "colour")]
    expected = np.stack(means) if keep == "relations" else whole["rollout"].values.mean(axis=0)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_what_rollout_cannot_do_without_is_named():
    model = speaking_model("Llama")
    with pytest.raises(FactsError, match=r"names no subject.*bare prompts"):
        gated_lpi.attribute(model, [("The sky is", "blue")], method=gated_lpi.Rollout())
    with pytest.raises(OptionError, match=r"rollout scores heads.*add 'heads'"):
        gated_lpi.attribute(model, FACTS, method=gated_lpi.Rollout(), units=("ffn",))
    with pytest.raises(ModelError, match="came without a tokenizer"):
        gated_lpi.methods.attribute_encoded(
            tiny_model("Llama"), encode(model.tokenizer, FACTS.prompts()), gated_lpi.Rollout()
        )
