"""Every attack of the campaign, the longest first. A line here is all that an attack needs beside its file."""

from torture import flips, full, fuzz, hostile, hub, kill, prefix, signals, writers
from torture.attack import Attack

ATTACKS = (
    Attack("kill", "SIGKILL at random moments, local engine", 100, 4, 22, kill.forked, "torture/kill.py"),
    Attack("kill-ray", "SIGKILL of the driver, Ray engine", 8, 1, 8, kill.on_ray, "torture/kill.py"),
    Attack("kill-command", "SIGKILL of the whole command", 10, 1, 7, kill.commanded, "torture/kill.py"),
    Attack("signals", "SIGINT and SIGTERM at random moments", 60, 2, 12, signals.interrupt, "torture/signals.py"),
    Attack("full", "no disk, memory or files left, or read-only", 48, 6, 10, full.starve, "torture/full.py"),
    Attack("hub", "a hub with faults, alone and in pairs", 120, 4, 8, hub.stream, "torture/hub.py"),
    Attack("writers", "two commands on one folder, read meanwhile", 16, 1, 8, writers.collide, "torture/writers.py"),
    Attack("fuzz-runs", "fuzzed experiments and files of runs", 10_000, 40, 10, fuzz.runs, "torture/fuzz.py"),
    Attack("fuzz-checkpoints", "fuzzed names, hubs and weights", 10_000, 40, 9, fuzz.checkpoints, "torture/fuzz.py"),
    Attack("fuzz-configs", "fuzzed configs and tokenizers", 10_000, 40, 8, fuzz.configs, "torture/fuzz.py"),
    Attack("fuzz-facts", "fuzzed facts", 10_000, 200, 3, fuzz.facts, "torture/fuzz.py"),
    Attack("flips", "a bit flipped in a finished run", 250, 8, 6, flips.flip, "torture/flips.py"),
    Attack("prefix", "a power cut after every write", 1000, 10, 5, prefix.cut, "torture/prefix.py"),
    Attack("hostile", "checkpoints that are broken, odd or mean", 1000, 16, 4, hostile.load, "torture/hostile.py"),
)
