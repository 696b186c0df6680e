"""Tasks: questions whose answer has to be worked out, or facts that nobody knows, from a seed or a file.

1. Each task is a function of keyword arguments that gives a `FactSet` with a relation for each difficulty, so that
   results by relation are results by difficulty. `load_facts("arithmetic:steps=2/3,n=50")` calls it by name (`named`).
2. Those that are made have *controls*, with `control=`: questions of the same form where no more is asked for than to
   read or copy, so that the answer is known without the task's skill. "all": the task and each control in one set.
3. What is drawn depends on the arguments alone, on any machine and in any version of Python (`drawing`).
4. A sample's subject is what is asked about. In long contexts its place in the prompt is where the context speaks of
   it, and in the question where the context does not.
"""

from gated_lpi.facts.tasks.arithmetic import arithmetic
from gated_lpi.facts.tasks.gsm8k import gsm8k
from gated_lpi.facts.tasks.people import people
from gated_lpi.facts.tasks.retrieval import key_value, needle
from gated_lpi.facts.tasks.two_hop import two_hop
from gated_lpi.facts.tasks.variables import variables

__all__ = ["arithmetic", "gsm8k", "key_value", "needle", "people", "two_hop", "variables"]
