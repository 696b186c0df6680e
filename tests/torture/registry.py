"""Every attack of the campaign, the longest first. A line here is all that an attack needs beside its file."""

from torture import flips, full, fuzz, hostile, hub, kill, prefix, writers
from torture.attack import Attack

ATTACKS = (
    Attack("kill", "SIGKILL at random moments, local engine", 100, 4, 25, kill.forked, "torture/kill.py"),
    Attack("kill-ray", "SIGKILL of the driver, Ray engine", 12, 1, 10, kill.on_ray, "torture/kill.py"),
    Attack("kill-command", "SIGKILL of the whole command", 12, 1, 8, kill.commanded, "torture/kill.py"),
    Attack("prefix", "a power cut after every write", 1000, 12, 10, prefix.cut, "torture/prefix.py"),
    Attack("flips", "a bit flipped in a finished run", 250, 12, 12, flips.flip, "torture/flips.py"),
    Attack("fuzz-facts", "fuzzed facts", 10_000, 200, 8, fuzz.facts, "torture/fuzz.py"),
    Attack(
        "fuzz-checkpoints", "fuzzed names, listings, hubs, weights", 10_000, 60, 12, fuzz.checkpoints, "torture/fuzz.py"
    ),
    Attack("fuzz-runs", "fuzzed experiments and files of runs", 10_000, 60, 12, fuzz.runs, "torture/fuzz.py"),
    Attack("fuzz-configs", "fuzzed configs and tokenizers of models", 10_000, 60, 12, fuzz.configs, "torture/fuzz.py"),
    Attack("hostile", "checkpoints that are broken, odd or mean", 1000, 12, 8, hostile.load, "torture/hostile.py"),
    Attack("hub", "a hub with faults, alone and in pairs", 100, 4, 12, hub.stream, "torture/hub.py"),
    Attack("writers", "two commands on one folder, read meanwhile", 20, 1, 10, writers.collide, "torture/writers.py"),
    Attack("full", "no disk, memory or files left, or read-only", 60, 6, 12, full.starve, "torture/full.py"),
)
