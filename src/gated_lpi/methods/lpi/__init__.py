"""Gated-LPI: `method` is the way in, `exact` and `reference` two of its estimators, `certified` the fast one.

`groups` scores heads, experts and blocks, `chebyshev` sums exponentials for `exact`.
"""
