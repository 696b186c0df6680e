"""Gradient × activation and integrated gradients against captum, where captum can do them: on dense models."""

import numpy as np
import pytest
import torch
from captum.attr import IntegratedGradients as CaptumIntegratedGradients
from captum.attr import LayerGradientXActivation

from gated_lpi.options import GradientTimesActivation, IntegratedGradients
from passes import questions, scores_of
from tiny_models import tiny_model

DENSE = ["Llama", "GPT-2", "GPT-NeoX (Pythia)", "OLMo2", "Gemma2", "Qwen3"]


def forward_of(model, item):
    """log p of a prompt's target, as captum calls a model: embeddings [B, S, d] → [B]."""

    def forward(embedded):
        logits = model.module(inputs_embeds=embedded, use_cache=False).logits[:, -1]
        return torch.log_softmax(logits, dim=-1)[:, item.target_id]

    return forward


def embedded(model, item):
    return model.module.get_input_embeddings()(torch.tensor([item.ids])).detach().requires_grad_(True)


@pytest.mark.parametrize("case", DENSE)
def test_gradient_times_activation_is_captums(case):
    model, prompts = tiny_model(case, torch.float64), questions(3)
    found = scores_of(model, GradientTimesActivation(), prompts)[0]["grad_x_act"]
    last = scores_of(model, GradientTimesActivation(at="last"), prompts)[0]["grad_x_act"]
    for row, item in enumerate(prompts):
        for index, block in enumerate(model.blocks):
            (writer,) = block.writers
            captum = LayerGradientXActivation(forward_of(model, item), writer.module)
            by_position = captum.attribute(embedded(model, item), attribute_to_layer_input=True)
            by_position = by_position.detach().reshape(-1, block.n_units).numpy()
            units = model.block_units(index)
            np.testing.assert_allclose(found[row, units], by_position.sum(axis=0), atol=2e-6)
            np.testing.assert_allclose(last[row, units], by_position[-1], atol=2e-6)


def recorded(model, item, writer):
    """What a projection is given when the model runs over a prompt: [1, S, n], or [S, n]."""
    seen = []
    handle = writer.module.register_forward_pre_hook(lambda _, args: seen.append(args[0].detach()))
    with torch.no_grad():
        model.module(torch.tensor([item.ids]), use_cache=False)
    handle.remove()
    return seen[0].reshape(1, len(item.ids), -1)


def given_instead(model, item, writer):
    """log p of the target, [B], where a projection is given other inputs [B, S, n]."""

    def forward(inputs):
        handle = writer.module.register_forward_pre_hook(lambda _, args: (inputs.view_as(args[0]), *args[1:]))
        try:
            ids = torch.tensor([item.ids]).expand(len(inputs), -1)
            logits = model.module(ids, use_cache=False).logits[:, -1]
            return torch.log_softmax(logits, dim=-1)[:, item.target_id]
        finally:
            handle.remove()

    return forward


@pytest.mark.parametrize("case", DENSE)
def test_integrated_gradients_are_captums(case):
    model, prompts = tiny_model(case, torch.float64), questions(2)
    found = scores_of(model, IntegratedGradients(points=6), prompts)[0]["integrated_gradients"]
    last = scores_of(model, IntegratedGradients(points=6, at="last"), prompts)[0]["integrated_gradients"]
    for row, item in enumerate(prompts):
        for index, block in enumerate(model.blocks):
            (writer,) = block.writers
            inputs = recorded(model, item, writer)
            captum = CaptumIntegratedGradients(given_instead(model, item, writer))
            but_the_last = inputs.clone()
            but_the_last[:, -1] = 0.0
            for scores, baseline in ((found, torch.zeros_like(inputs)), (last, but_the_last)):
                every = captum.attribute(inputs, baseline, n_steps=6, method="gausslegendre")
                expected = every[0].sum(dim=0).detach().numpy()
                np.testing.assert_allclose(scores[row, model.block_units(index)], expected, atol=2e-6)
