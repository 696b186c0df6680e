"""Which neurons carry a language model's knowledge, and when in pre-training they came to carry it."""
