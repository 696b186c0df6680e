"""Methods side by side: do they agree with each other, with what silencing a unit really does, and in what they find?

`compare` is the way in. `asked` says which methods and which facts, `scored` gives every unit its scores, `truth` holds
them against true effects, `curves` silences what each ranks highest.
"""

from gated_lpi.comparison.comparing import compare

__all__ = ["compare"]
