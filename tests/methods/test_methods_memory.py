"""The cap on the working set of methods that run the model: peaks of a process, as for LPI."""

import json
import os
import re
import subprocess
import sys

import pytest

from gated_lpi.errors import OptionError
from gated_lpi.methods.memory import sizes_for
from gated_lpi.options import parse_memory
from tiny_models import tiny_model

SIZES = {"vocab_size": 16000, "hidden_size": 128, "num_attention_heads": 8, "num_key_value_heads": 8}
SIZES |= {"num_hidden_layers": 5, "max_position_embeddings": 4096}

# In a process of its own, whose peak is that of the attribution: what it held before is taken off.
MEASURE = """
import ctypes, gc, json, sys
import torch
from gated_lpi.methods import attribute_encoded
from gated_lpi.methods.rollout import AttentionRollout
from gated_lpi.options import GradientTimesActivation, IntegratedGradients, Rollout, Scoring, TrueEffect
from tiny_models import encoded, tiny_model

class OfTheFirst(AttentionRollout):
    def prepare(self, model, asked):
        return {one.encoded: (0,) for one in asked}

METHODS = {
    "grad_x_act": GradientTimesActivation(),
    "integrated_gradients": IntegratedGradients(points=1),
    "true_effect": TrueEffect(sample=1),
    "rollout": OfTheFirst(Rollout()),
}

def held(key):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(key)) * 1024

found = []
sizes, plans = json.loads(sys.argv[1])
for family, width, method, count, length, caps in plans:
    model = tiny_model(family, **sizes, intermediate_size=width)
    generator = torch.Generator().manual_seed(0)
    prompts = encoded(torch.randint(sizes["vocab_size"], (count, length), generator=generator).tolist())
    attribute_encoded(model, prompts[:1], METHODS[method], Scoring(batch_size=1))
    for cap in caps:
        gc.collect()
        ctypes.CDLL("libc.so.6").malloc_trim(0)
        before = held("VmRSS")
        open("/proc/self/clear_refs", "w").write("5")
        attribute_encoded(model, prompts, METHODS[method], Scoring(memory=cap, keep="mean"))
        found.append((family, method, length, cap, held("VmHWM") - before))
print(json.dumps(found))
"""


def least(family, width, method, count, length, by_layer=True):
    """What the refusal of a cap of one kilobyte names, in MB; perhaps of a method that can do with one layer."""
    model = tiny_model(family, **SIZES, intermediate_size=width)
    by_layer = by_layer and method != "rollout"
    with pytest.raises(OptionError) as told:
        sizes_for(model, count, 1000, length, passes=True, weights=method == "rollout", by_layer=by_layer)
    return int(re.search(r"at least (\d+)MB", str(told.value))[1])


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the peak is read from /proc")
@pytest.mark.parametrize("methods", [("grad_x_act",), ("integrated_gradients", "true_effect", "rollout")])
@pytest.mark.slow
def test_the_cap_holds_for_methods_that_run_the_model(methods):
    cases = [
        (family, width, method, count, length)
        for family, width in (("Llama", 512), ("Gemma2", 512), ("OLMoE", 64))  # Gemma2: eager attention, softcap
        for method in methods
        for count, length in ((2, 600), (60, 6))
    ]
    plans = []
    for case in cases:  # layer by layer, then the whole at once
        floor = least(*case, by_layer=False)
        plans.append((*case, [f"{cap}MB" for cap in sorted({least(*case), floor, 2 * floor})]))
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", MEASURE, json.dumps((SIZES, plans))]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    for family, method, length, cap, peak in json.loads(done.stdout.splitlines()[-1]):
        assert peak <= parse_memory(cap), f"{family} {method} {length}: {peak:,} > {cap}"


@pytest.mark.parametrize("method", ["grad_x_act", "integrated_gradients"])
def test_long_prompts_take_the_inputs_of_layers_and_the_activations_of_one(method):
    whole, small = (least("Llama", 512, method, 1, 600, by_layer=chosen) for chosen in (False, True))
    assert small < 0.6 * whole


@pytest.mark.parametrize("method", ["grad_x_act", "rollout"])
def test_longer_prompts_and_more_layers_need_more(method):
    small = least("Llama", 512, method, 1, 600)
    assert least("Llama", 512, method, 1, 1200) > 1.8 * small
