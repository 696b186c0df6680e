"""Every attack of the campaign, the longest first. A line here is all that an attack needs beside its file."""

from torture import flips, full, fuzz, hostile, hub, kill, prefix, signals, writers
from torture.attack import Attack

ATTACKS = (
    Attack("kill", "SIGKILL at random moments, local engine", 100, 3, 18, kill.forked, "torture/kill.py"),
    Attack("kill-ray", "SIGKILL of the driver, Ray engine", 8, 1, 7, kill.on_ray, "torture/kill.py"),
    Attack("kill-command", "SIGKILL of the whole command", 10, 1, 6, kill.commanded, "torture/kill.py"),
    Attack("signals", "SIGINT and SIGTERM at random moments", 60, 2, 11, signals.interrupt, "torture/signals.py"),
    Attack("full", "no disk, memory or files left, or read-only", 30, 6, 12, full.starve, "torture/full.py"),
    Attack("hub", "a hub with faults, alone and in pairs", 120, 6, 7, hub.stream, "torture/hub.py"),
    Attack("writers", "two commands on one folder, read meanwhile", 16, 1, 7, writers.collide, "torture/writers.py"),
    Attack("fuzz-runs", "fuzzed experiments and files of runs", 10_000, 40, 13, fuzz.runs, "torture/fuzz.py"),
    Attack("fuzz-checkpoints", "fuzzed names, hubs and weights", 10_000, 40, 11, fuzz.checkpoints, "torture/fuzz.py"),
    Attack("fuzz-configs", "fuzzed configs and tokenizers", 10_000, 40, 10, fuzz.configs, "torture/fuzz.py"),
    Attack("fuzz-facts", "fuzzed facts", 10_000, 200, 4, fuzz.facts, "torture/fuzz.py"),
    Attack("flips", "a bit flipped in a finished run", 250, 8, 6, flips.flip, "torture/flips.py"),
    Attack("prefix", "a power cut after every write", 1000, 20, 4, prefix.cut, "torture/prefix.py"),
    Attack("hostile", "checkpoints that are broken, odd or mean", 1000, 16, 4, hostile.load, "torture/hostile.py"),
)
