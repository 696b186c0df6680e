"""Every attack of the campaign, the longest first. A line here is all that an attack needs beside its file."""

from torture import kill
from torture.attack import Attack

ATTACKS = (
    Attack("kill", "SIGKILL at random moments, local engine", 100, 4, 25, kill.forked, "torture/kill.py"),
    Attack("kill-ray", "SIGKILL of the driver, Ray engine", 12, 1, 10, kill.on_ray, "torture/kill.py"),
    Attack("kill-command", "SIGKILL of the whole command", 12, 1, 8, kill.commanded, "torture/kill.py"),
)
