"""Weights of neighbours against the series' own trend: what breaks off is found, and an honest series is left alone."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from gated_lpi.checkpoints import Checkpoint, check_continuity
from gated_lpi.errors import OptionError

STEPS = (0, 1, 2, 4, 8, 16, 32)
LAYERS, EXPERTS = 2, 4


def start(seed):
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(*shape, generator=generator) * 0.02  # noqa: E731
    tensors = {"embed.weight": draw(64, 32), "norm.weight": torch.ones(32)}
    for layer in range(LAYERS):
        tensors[f"layers.{layer}.attn.weight"] = draw(32, 32)
        tensors[f"layers.{layer}.experts.down_proj"] = draw(EXPERTS, 32, 48)
    return tensors


def course(seed=0):
    """A run whose weights drift: a fixed direction and noise, faster with the size of the step."""
    now = start(seed)
    drift = start(seed + 100)
    generator = torch.Generator().manual_seed(seed + 7)
    found = [dict(now)]
    for before, after in pairwise(STEPS):
        size = 0.03 * (after - before)
        now = {
            name: value
            if value.dim() < 2
            else value + size * (drift[name] + 0.01 * torch.randn(value.shape, generator=generator))
            for name, value in now.items()
        }
        found.append(dict(now))
    return found


def write(folder, states):
    checkpoints = []
    for step, state in zip(STEPS, states, strict=True):
        path = folder / f"step-{step}"
        path.mkdir(parents=True)
        save_file({name: value.contiguous() for name, value in state.items()}, path / "model.safetensors")
        (path / "config.json").write_text("{}")
        checkpoints.append(Checkpoint(path, path.name, step, None, ""))
    return checkpoints


def test_an_honest_series_goes_on(tmp_path):
    found = check_continuity(write(tmp_path, course()))
    assert found.breaks == ()
    assert len(found.distances) == len(STEPS) - 1
    assert np.all(np.diff(found.distances[2:]) > 0), "intervals double, and so do distances"


def test_a_first_step_of_another_run(tmp_path):
    states = course()
    states[0] = start(5)
    found = check_continuity(write(tmp_path, states))
    assert {(b.what, b.before, b.key) for b in found.breaks} == {("parts", "step-0", "step-1")}
    assert {b.kind for b in found.breaks} == {"embed.weight", "layers.*.attn.weight", "layers.*.experts.down_proj[*]"}
    assert all(b.matrices == b.of for b in found.breaks)
    assert all(b.distance == pytest.approx(2**0.5, abs=0.1) for b in found.breaks)


@pytest.mark.parametrize("other", [(6,), (0,), (0, 1), (0, 1, 2), (3,), (4, 5, 6)], ids=str)
def test_checkpoints_of_another_run(tmp_path, other):
    """At the end, at the start, in the first half, in between: also where the intervals beside them are long."""
    states, strange = course(), course(3)
    for index in other:
        states[index] = strange[index]
    found = check_continuity(write(tmp_path, states))
    joints = [i for i in range(len(STEPS) - 1) if (i in other) != (i + 1 in other)]
    expected = {("parts", f"step-{STEPS[i]}", f"step-{STEPS[i + 1]}") for i in joints}
    assert expected <= {(b.what, b.before, b.key) for b in found.breaks}
    assert {b.key for b in found.breaks} == {key for _, _, key in expected}
    assert all(b.matrices == b.of for b in found.breaks if b.what == "parts")
    assert found.untold == ""


@pytest.mark.parametrize("left", [0.3, 0.15])
def test_early_training_goes_far_and_is_no_break(tmp_path, left):
    """A first interval after which little is left of the initial weights: 1.2 to 1.3 from them, and not unrelated."""
    states, first = course(), start(5)
    for name, value in first.items():
        first[name] = left * states[1][name] + (1 - left**2) ** 0.5 * value
    states[0] = first
    found = check_continuity(write(tmp_path, states))
    assert found.distances[0] > 1.15
    assert "parts" not in {b.what for b in found.breaks}


def test_unrelated_checkpoints_tell_nothing(tmp_path):
    found = check_continuity(write(tmp_path, [start(20 + i) for i in range(len(STEPS))]))
    assert found.breaks == ()
    assert found.untold.startswith("6 of 6 pairs of neighbours are no more like each other than two random draws")


@pytest.mark.parametrize("count", [2, 3, 4])
def test_few_checkpoints_show_no_trend(tmp_path, count):
    found = check_continuity(write(tmp_path, course())[:count])
    assert ("so few show no trend: give 4 or more" in found.untold) == (count < 4)


def test_two_unrelated_checkpoints(tmp_path):
    states = course()
    states[1] = start(5)
    assert "1 of 1 pairs" in check_continuity(write(tmp_path, states)[:2]).untold


def test_experts_that_were_never_converted(tmp_path):
    """A converter left the same initial experts in every checkpoint: they rest while the model moves."""
    states = course()
    for state in states[1:]:
        for layer in range(LAYERS):
            state[f"layers.{layer}.experts.down_proj"] = states[0][f"layers.{layer}.experts.down_proj"]
    found = check_continuity(write(tmp_path, states))
    assert {(b.what, b.kind, b.matrices) for b in found.breaks} == {
        ("rests", "layers.*.experts.down_proj[*]", LAYERS * EXPERTS)
    }
    assert [b.key for b in found.breaks] == [f"step-{step}" for step in STEPS[1:]]


def test_experts_that_are_drawn_anew_by_every_conversion(tmp_path):
    states = course()
    for seed, state in enumerate(states):
        for layer in range(LAYERS):
            state[f"layers.{layer}.experts.down_proj"] = start(50 + seed)[f"layers.{layer}.experts.down_proj"]
    found = check_continuity(write(tmp_path, states))
    assert {(b.what, b.kind) for b in found.breaks} == {("unrelated", "layers.*.experts.down_proj[*]")}
    assert sum(b.matrices for b in found.breaks) >= LAYERS * EXPERTS


def test_some_experts_of_one_checkpoint_are_random(tmp_path):
    states = course()
    states[3]["layers.1.experts.down_proj"] = states[3]["layers.1.experts.down_proj"].clone()
    states[3]["layers.1.experts.down_proj"][2] = start(9)["layers.1.experts.down_proj"][2]
    found = check_continuity(write(tmp_path, states))
    assert {(b.key, b.kind, b.matrices, b.of) for b in found.breaks} == {
        ("step-4", "layers.*.experts.down_proj[*]", 1, LAYERS * EXPERTS),
        ("step-8", "layers.*.experts.down_proj[*]", 1, LAYERS * EXPERTS),
    }


def test_one_checkpoint_that_holds_the_last_one_s_matrix(tmp_path):
    states = course()
    states[1]["layers.0.attn.weight"] = states[-1]["layers.0.attn.weight"]
    found = check_continuity(write(tmp_path, states))
    assert found.breaks
    assert {b.kind for b in found.breaks} == {"layers.*.attn.weight"}
    assert {b.matrices for b in found.breaks} == {1}


def test_what_cannot_be_compared(tmp_path):
    checkpoints = write(tmp_path, course())
    with pytest.raises(OptionError, match="1 checkpoints of 1 stages"):
        check_continuity(checkpoints[:1])
    with pytest.raises(OptionError, match="is not on this machine"):
        check_continuity([Checkpoint(None, "a", 0, None, ""), checkpoints[0]])
