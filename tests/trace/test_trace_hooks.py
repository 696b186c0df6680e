import pytest
import torch

from gated_lpi.trace import last_logits, pad, record, trace
from tiny_models import CASES, random_prompts, tiny_model


def hooks(module):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in module.modules())


@pytest.mark.parametrize("case", CASES, ids=str)
def test_hooks_are_gone_after_success_and_after_an_error(case):
    model = tiny_model(case)
    trace(model, random_prompts())
    last_logits(model, random_prompts())
    assert hooks(model.module) == 0
    with record(model, pad(random_prompts())):
        assert hooks(model.module) > 0
    assert hooks(model.module) == 0
    for run in (trace, last_logits):
        with pytest.raises(IndexError):
            run(model, [[10_000]])
        assert hooks(model.module) == 0


def test_what_is_recorded_is_a_copy():
    # Some models change activations in place later on.
    batch = pad([[1, 2, 3], [4, 5]])
    states = torch.zeros(2, 3, 4)
    picked = batch.pick(states)
    states += 1
    assert picked.shape == (2, 4)
    assert (picked == 0).all()
