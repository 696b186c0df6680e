"""Studies on tiny arms: two groups, two seeds, six steps."""

from tiny_runs import BRIEF
from tiny_text import CAPITALS, save_facts

STUDY = """
name = "{name}"
seeds = [0, 1]
[facts]
source = "{facts}"
templates = "first"
[metrics]
draws = 3
[ablation]
random_draws = 1
top_units = 1
heads = [1]
units = [0.1]
text = "{text}"
[training]
steps = 6
checkpoints = 3
batch_size = 2
warmup_steps = 1
context = 32
size = {{ hidden = 16, layers = 1, heads = 2, kv_heads = 1, experts = 2, expert_width = 8, vocab_size = 270 }}
[[arms]]
train = "moe"
grid = {{ load_balancing = [0.0, 0.1] }}
[study]
title = "Tiny"
question = ["Is it tiny?", "And quick?"]
design = "Two cells of two seeds."
limits = "Anything at all."
[[study.analyses]]
name = "recall"
[[study.analyses]]
name = "sweep"
key = "load_balancing"
measure = "importance_share"
rises = true
draws = 50
[[study.analyses]]
name = "ablation_curves"
shares = [0.1, 0.5]
judged = 0.1
at = ["last"]
draws = 1
"""
AGAIN = """
name = "again"
[study]
title = "The same run"
question = ["What of its entropy?"]
design = "Nothing is trained."
limits = "The same."
runs = "{name}"
[[study.analyses]]
name = "sweep"
key = "load_balancing"
measure = "entropy"
at = "area"
draws = 20
"""


def save_study(folder, name="tiny"):
    """A study's file, and beside it that of one which analyses its run."""
    facts = save_facts(folder / "facts", [CAPITALS])
    (folder / f"{name}.toml").write_text(STUDY.format(name=name, facts=facts, text=BRIEF))
    (folder / "again.toml").write_text(AGAIN.format(name=name))
    return folder / f"{name}.toml"
