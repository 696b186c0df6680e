"""The cap on the working set: how it is read, and what it changes."""

import json
import math
import os
import re
import subprocess
import sys

import numpy as np
import pytest

from flat import asked
from gated_lpi.errors import OptionError
from gated_lpi.methods import attribute_encoded
from gated_lpi.methods.memory import fixed_bytes, prompt_bytes, sizes_for, usual_batch
from gated_lpi.options import parse_memory
from tiny_models import encoded, random_prompts, tiny_model


@pytest.mark.parametrize(
    ("given", "expected"),
    [(1000, 1000), ("1000", 1000), ("2GB", 2 * 10**9), ("1.5 gib", 1610612736), ("512MB", 512 * 10**6)],
)
def test_amounts_of_memory(given, expected):
    assert parse_memory(given) == expected


@pytest.mark.parametrize(
    "given", ["", "much", "2XB", "-1GB", "GB", "0", 0, -5, "9" * 400, 10**400, "٢GB", "1e9", "0.1"]
)
def test_what_is_no_amount_is_refused(given):
    with pytest.raises(OptionError, match="512MB"):
        parse_memory(given)


def test_less_memory_means_fewer_prompts_and_smaller_pieces():
    model = tiny_model("OLMoE")
    assert sizes_for(model, 64, None, 12).prompts == 64
    small, large = (sizes_for(model, 10**6, n, 12) for n in (3 * 10**7, 10**8))
    assert 0 < small.prompts < large.prompts
    assert small.room.pairs < large.room.pairs
    assert small.room.numbers < large.room.numbers
    assert large.prompts * prompt_bytes(model) + fixed_bytes(model) < 10**8
    with pytest.raises(OptionError, match="less than the working set of one prompt of 12 tokens"):
        sizes_for(model, 64, 1000, 12)


@pytest.mark.parametrize(
    ("vocabulary", "width", "prompts"), [(49152, 576, 192), (3644, 128, 2048), (50304, 4096, 1024), (16384, 768, 512)]
)
def test_small_vocabularies_and_wide_models_take_more_prompts_at_a_time(vocabulary, width, prompts):
    assert usual_batch(vocabulary, width) == prompts


@pytest.mark.parametrize("estimator", ["fast", "exact"])
def test_a_cap_changes_no_score(estimator):
    model, prompts = tiny_model("OLMoE"), random_prompts(12)
    options = {"units": ("ffn", "attention"), "estimator": estimator}
    found = []
    for memory in (None, 2 * (fixed_bytes(model) + 3 * prompt_bytes(model))):
        collector, results = attribute_encoded(model, encoded(prompts), *asked(memory=memory, **options))
        found.append((collector.result("lpi"), results.blocks["error_bound"].max()))
    (whole, one), (parts, two) = found
    assert np.abs(whole - parts).max() <= one + two + 1e-5


@pytest.mark.parametrize("positions", ["summed", "resolved"])
@pytest.mark.parametrize("long", [12, 48])
def test_a_cap_that_is_too_low_names_the_least_that_works(long, positions):
    model = tiny_model("Llama", max_position_embeddings=64)
    prompts = encoded([[1] * long, [2, 3]])
    options = {"units": ("ffn", "attention"), "positions": positions, "keep": "mean"}
    with pytest.raises(OptionError, match=rf"one prompt of {long} tokens.*give at least \d+MB") as told:
        attribute_encoded(model, prompts, *asked(memory=1000, **options))
    least = re.search(r"at least (\d+MB)", str(told.value))[1]
    collector, _ = attribute_encoded(model, prompts, *asked(memory=least, **options))
    assert np.isfinite(collector.result("lpi")).all()


# What is freed beneath a block that stays: in glibc's heap unless large blocks are kept apart from it.
BENEATH = """
import sys
import torch
from gated_lpi._common.heap import keep_large_apart

def held():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmRSS")) // 1024

if sys.argv[1] == "apart":
    keep_large_apart()
torch.empty(31 * 2**20, dtype=torch.uint8)  # by its size glibc tells from then on what is large
freed, stays = torch.ones(5 * 2**20), torch.ones(600)
before = held()
del freed
print(before - held())
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="what is held is read from /proc")
@pytest.mark.parametrize(("how", "least", "most"), [("as it is", -5, 5), ("apart", 15, 25)])
def test_large_blocks_go_back_at_once(how, least, most):
    command, environment = [sys.executable, "-c", BENEATH, how], os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert least <= int(done.stdout) <= most


# In a process of its own, whose peak is that of the attribution: what it held before is taken off.
MEASURE = """
import ctypes, gc, json, sys
import torch
from gated_lpi.errors import OptionError
from gated_lpi.methods import attribute_encoded
from flat import asked
from tiny_models import encoded, tiny_model

def held(key):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(key)) * 1024

sizes = dict(vocab_size=16000, hidden_size=128, num_hidden_layers=1, num_attention_heads=8, num_key_value_heads=8)
sizes |= dict(max_position_embeddings=4096)
found = []
for family, estimator, positions, count, length, gate, caps in json.loads(sys.argv[1]):
    width = 64 if family == "OLMoE" else 512
    model = tiny_model(family, **sizes, intermediate_size=width)
    generator = torch.Generator().manual_seed(0)
    prompts = encoded(torch.randint(16000, (count, length), generator=generator).tolist())
    options = dict(keep="mean", estimator=estimator, positions=positions, gate=gate)
    attribute_encoded(model, prompts[:1], *asked(batch_size=1, **options | {"positions": "summed"}))
    for cap in caps:
        gc.collect()
        ctypes.CDLL("libc.so.6").malloc_trim(0)
        before = held("VmRSS")
        open("/proc/self/clear_refs", "w").write("5")
        attribute_encoded(model, prompts, *asked(memory=cap, **options))
        found.append((family, estimator, positions, length, gate, cap, held("VmHWM") - before))
print(json.dumps(found))
"""


LONG = [
    ("Llama", "fast", "summed", 3, 800, "gated"),
    ("Llama", "exact", "summed", 2, 800, "gated"),
    ("OLMoE", "fast", "summed", 3, 800, "gated"),
    # At six times the least, hundreds of short prompts in a forward pass.
    ("Llama", "fast", "summed", 300, 6, "gated"),
    ("OLMoE", "fast", "summed", 80, 6, "open"),  # every expert's coefficients, for each of many prompts
]
SHORT = [
    ("Gemma2", "exact", "summed", 3, 300, "gated"),  # eager attention, softcap
    ("Llama", "exact", "resolved", 2, 60, "gated"),
]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the peak is read from /proc")
@pytest.mark.parametrize(
    "cases", [pytest.param(LONG, id="long", marks=pytest.mark.slow), pytest.param(SHORT, id="short")]
)
def test_the_cap_holds_for_prompts_of_any_length(cases):
    plans = [(*case, [f"{math.ceil(factor * least(*case))}MB" for factor in (1, 2, 6)]) for case in cases]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", MEASURE, json.dumps(plans)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    for family, estimator, positions, length, gate, cap, peak in json.loads(done.stdout.splitlines()[-1]):
        assert peak <= parse_memory(cap), f"{family} {estimator} {positions} {length} {gate}: {peak:,} > {cap}"


def least(family, _, positions, count, length, gate):
    """What the refusal of a cap of one kilobyte names, in MB."""
    width = {"intermediate_size": 64 if family == "OLMoE" else 512}
    heads = {"num_attention_heads": 8, "num_key_value_heads": 8}
    model = tiny_model(family, vocab_size=16000, hidden_size=128, num_hidden_layers=1, **heads, **width)
    with pytest.raises(OptionError) as told:
        sizes_for(model, count, 1000, length, by_position=positions == "resolved", all_experts=gate == "open")
    return int(re.search(r"at least (\d+)MB", str(told.value))[1])
