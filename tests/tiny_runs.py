"""What makes an experiment on tiny models quick: few draws, one share of heads and units to mask."""

from contextlib import nullcontext

QUICK = {"metrics": {"draws": 3}, "ablation": {"random_draws": 1, "top_units": 1, "heads": [1], "units": [0.1]}}


class Notes:
    """A progress that keeps what was said."""

    def __init__(self):
        self.said = []

    def note(self, text):
        self.said.append(text)

    def task(self, _label):
        return nullcontext(lambda _done, _total: None)
