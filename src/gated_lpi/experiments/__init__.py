"""What is run, as plain data: experiment files, their options, and what is wrong with one, in words. No torch."""

from gated_lpi.experiments.experiment import Arm, Experiment, load_experiment, preset, presets

__all__ = ["Arm", "Experiment", "load_experiment", "preset", "presets"]
