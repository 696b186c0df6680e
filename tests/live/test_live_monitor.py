"""Looking at a model in any training loop: what is seen is right, and nothing of the training is touched."""

import copy
import random
from itertools import pairwise

import numpy as np
import pytest
import torch

import gated_lpi
from gated_lpi import LiveMonitor
from gated_lpi.errors import FactsError, ModelError, OptionError, RunExistsError
from gated_lpi.interventions import undisturbed
from gated_lpi.live import ARM
from gated_lpi.loading import borrow_model
from gated_lpi.metrics import top_set_stability
from tiny_models import tiny_module
from tiny_text import CAPITALS, FACTS, tiny_tokenizer
from tiny_types import tiny_of_type


def in_training(case="Qwen3-MoE", **options):
    """A model in the middle of a training: some gradients, some modules in evaluation mode, hooks, buffers."""
    module = tiny_module(case, **options).train()
    logits = module(torch.tensor([[3, 4, 5]])).logits
    logits.square().mean().backward()
    module.model.layers[0].self_attn.eval()
    module.model.norm.weight.grad = None
    module.model.layers[1].input_layernorm.weight.requires_grad_(False)
    module.register_buffer("counted", torch.zeros(2))
    module.register_forward_hook(count)
    return module


def count(module, *_):
    module.counted += 1


def state(module):
    return {
        "modes": [part.training for part in module.modules()],
        "gradients": [None if weight.grad is None else weight.grad.clone() for weight in module.parameters()],
        "same gradients": [id(weight.grad) for weight in module.parameters()],
        "required": [weight.requires_grad for weight in module.parameters()],
        "weights": [weight.detach().clone() for weight in module.parameters()],
        "buffers": [(name, id(buffer), buffer.clone()) for name, buffer in module.named_buffers()],
        "hooks": [
            (list(part._forward_hooks), list(part._forward_pre_hooks), list(part._backward_hooks))
            for part in module.modules()
        ],
        "config": module.config.to_dict(),
        "attributes": {name: sorted(vars(part)) for name, part in module.named_modules()},
        "random": (random.getstate(), repr(np.random.get_state()), torch.get_rng_state()),  # noqa: NPY002
    }


def alike(a, b):
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(alike, a, b))
    return a == b


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_look_leaves_everything_as_it_was(dtype):
    module = in_training().to(dtype)
    before = state(module)
    monitor = LiveMonitor(
        module, tiny_tokenizer(), FACTS, methods=("lpi", "grad_x_act"), attribution={"routing": "all"}
    )
    monitor.observe(3)
    after = state(module)
    for name in before:
        assert alike(before[name], after[name]), name


def test_an_error_leaves_everything_as_it_was():
    module = in_training()
    before = state(module)

    def fail():
        assert not any(part.training for part in module.modules())
        assert all(weight.grad is None for weight in module.parameters())
        module(torch.tensor([[1]]))
        for weight in module.parameters():
            weight.requires_grad_(False)
        assert torch.rand(3).sum() + random.random() + np.random.rand() > 0  # noqa: NPY002
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), undisturbed(module):
        fail()
    for name, after in state(module).items():
        assert alike(before[name], after), name


@pytest.mark.parametrize("case", ["Qwen3-MoE", "GPT-2"])
def test_scores_are_those_of_attribute_at_every_look(case):
    module = tiny_module(case).train()
    monitor = LiveMonitor(module, tiny_tokenizer(), FACTS, fraction=0.1)
    means = []
    for step in range(3):
        seen = monitor.observe(step, tokens=10 * step)
        expected = gated_lpi.attribute(speaking_model_of(module), FACTS, keep="mean")
        stored = monitor.run.scores(ARM).isel(checkpoint=-1)
        np.testing.assert_allclose(stored["lpi_mean"], expected["lpi"], atol=1e-6)
        means.append(expected["lpi"].to_numpy()[expected["block"].to_numpy() == "ffn"])
        move(module, step)
    assert seen.metrics["j_stab"] == top_set_stability(np.stack(means[-2:]), 0.1)[0]
    assert not any(np.array_equal(a, b) for a, b in pairwise(means))
    assert (seen.key, seen.tokens, seen.scored) == ("step-2", 20, True)


def move(module, seed):
    """A step of some training."""
    with torch.no_grad():
        for weight in module.parameters():
            weight.add_(0.05 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(seed)))


def speaking_model_of(module):
    copy = tiny_module({"Qwen3MoeForCausalLM": "Qwen3-MoE"}.get(type(module).__name__, "GPT-2"))
    copy.load_state_dict(module.state_dict())
    return gated_lpi.wrap_model(copy, tiny_tokenizer())


def test_a_copy_of_bfloat16_scores_as_the_float32_model_of_the_same_weights():
    module = tiny_module("Qwen3-MoE").to(torch.bfloat16)
    monitor = LiveMonitor(module, tiny_tokenizer(), FACTS)
    monitor.observe(0)
    whole = copy.deepcopy(module).float()
    expected = gated_lpi.attribute(gated_lpi.wrap_model(whole, tiny_tokenizer()), FACTS, keep="mean")
    np.testing.assert_allclose(monitor.run.scores(ARM)["lpi_mean"][0], expected["lpi"], atol=1e-6)
    tied = tiny_module("Qwen3-MoE", tie_word_embeddings=True).to(torch.float16)
    with borrow_model(tied) as model:
        assert model.module.lm_head.weight is model.module.model.embed_tokens.weight
        assert model.module is not tied


def test_what_wraps_a_model_is_taken_off_and_float64_stays():
    module = tiny_module("GPT-2").double()
    with borrow_model(torch.nn.DataParallel(module)) as model:
        assert model.module is module
        assert model.notes == ()
    compiled = torch.compile(module, backend="eager")
    with borrow_model(compiled) as model:
        assert model.module is module


def test_a_model_in_parts_or_without_tokenizer_or_family_is_refused_at_once():
    spread = tiny_module("Qwen3-MoE")
    spread.lm_head.weight.ds_id = 1
    with pytest.raises(
        ModelError, match=r"holds no whole lm_head\.weight of Qwen3MoeForCausalLM: weights that are spread"
    ):
        LiveMonitor(spread, tiny_tokenizer(), FACTS)
    with pytest.raises(ModelError, match="without a tokenizer"):
        LiveMonitor(tiny_module("Qwen3-MoE"), None, FACTS)
    unlike = tiny_of_type("rwkv")
    with pytest.raises(gated_lpi.UnknownFamilyError):
        LiveMonitor(unlike, tiny_tokenizer(), FACTS)
    held = tiny_module("Qwen3-MoE").to(torch.bfloat16)
    held.cached = torch.ones(2, requires_grad=True) * 2
    with pytest.raises(ModelError, match=r"cannot be copied to float32 .*score its saved checkpoints"):
        LiveMonitor(held, tiny_tokenizer(), FACTS)


def test_options_and_steps_that_mean_nothing_are_refused():
    module, tokenizer = tiny_module("Qwen3-MoE"), tiny_tokenizer()
    with pytest.raises(OptionError, match=r"attribution\.unit: there is no such key"):
        LiveMonitor(module, tokenizer, FACTS, attribution={"unit": "ffn"})
    with pytest.raises(OptionError, match=r"options of a live run: metrics\.fraction"):
        LiveMonitor(module, tokenizer, FACTS, fraction=2)
    with pytest.raises(FactsError):
        LiveMonitor(module, tokenizer, [("The capital of France is", "nothing-of-the-kind")])
    monitor = LiveMonitor(module, tokenizer, FACTS)
    for step in (-1, 1.5, True):
        with pytest.raises(OptionError, match="expected the number of optimizer steps done"):
            monitor.observe(step)


def test_a_monitor_that_is_made_again_goes_on(tmp_path):
    module = tiny_module("Qwen3-MoE")
    first = LiveMonitor(module, tiny_tokenizer(), FACTS, out=tmp_path)
    first.observe(0)
    again = LiveMonitor(module, tiny_tokenizer(), FACTS, out=tmp_path)
    again.begin(0)
    seen = again.observe(0)
    assert not seen.scored
    move(module, 0)
    assert 0 <= again.observe(1).metrics["j_stab"] <= 1
    move(module, 1)
    with pytest.raises(RunExistsError, match="scores of step-1 that are of other weights"):
        again.observe(1)
    with pytest.raises(RunExistsError, match="the facts themselves"):
        LiveMonitor(module, tiny_tokenizer(), gated_lpi.FactSet((CAPITALS,), "test"), out=tmp_path)
    assert gated_lpi.open_run(tmp_path).store(ARM).keys() == ["step-0", "step-1"]


def test_a_folder_of_ones_own_goes_with_the_monitor():
    monitor = LiveMonitor(tiny_module("Qwen3-MoE"), tiny_tokenizer(), FACTS)
    folder = monitor.run.path
    monitor.observe(0)
    assert folder.is_dir()
    del monitor
    assert not folder.exists()


def test_units_may_be_left_out_and_dense_models_have_no_experts():
    heads = LiveMonitor(tiny_module("GPT-2"), tiny_tokenizer(), FACTS, attribution={"units": ("heads",)})
    assert set(heads.observe(0).metrics) == {"hit_at_10"}
    module = tiny_module("GPT-2")
    dense = LiveMonitor(module, tiny_tokenizer(), FACTS)
    dense.observe(0)
    assert not {"j_stab", "rho", "r_t"} & set(dense.observe(3).metrics)  # the same weights: nothing can be said
    move(module, 0)
    metrics = dense.observe(5).metrics
    assert {"j_stab", "rho", "attention/j_stab"} <= set(metrics)
    assert not {"load_imbalance", "dead_experts"} & set(metrics)
