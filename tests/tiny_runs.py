"""What makes an experiment on tiny models quick: few draws, one share of heads and units to mask."""

QUICK = {"metrics": {"draws": 3}, "ablation": {"random_draws": 1, "top_units": 1, "heads": [1], "units": [0.1]}}
