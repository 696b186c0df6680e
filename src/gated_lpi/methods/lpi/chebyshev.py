"""log E_p[exp(c·u)] for many pairs at once, by matrix products, to the last digit of the dtype.

1. Per unit, u ranges over [a − r, a + r] in the vocabulary; with z = (u − a)/r in [−1, 1] and y = c·r,
   E_p[exp(c·u)] = e^{c·a} · E_p[exp(y·z)].
2. exp(y·z) = I₀(y) + 2 Σ_k I_k(y)·T_k(z): Chebyshev polynomials, with modified Bessel functions as coefficients
   (Abramowitz & Stegun 9.6.34). So all pairs of a slab need E_p[T_k(z)] for k = 1, 2, …, one matrix product
   [P × V]·[V × n] per order, whatever their c.
3. Since |T_k| ≤ 1, what is cut off after order K is at most 2 Σ_{k>K} I_k(|y|). With I_k(y) ≤ (y/2)^k/k! · e^{y²/4}
   the terms fall at least like those of a geometric series of ratio |y|/(2(K+2)), and as E_p[exp(y·z)] ≥ e^{−|y|} the
   logarithm is off by at most e^{|y|} times the tail. Orders are added until that is below the dtype's epsilon for
   all but a few pairs; those, and pairs with |y| > `MAX_Y`, where rounding would grow, are left to the caller.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

MAX_Y = 2.0
MAX_ORDER = 12
LEFT_OVER = 0.02
BESSEL_TERMS = 12


class SeriesResult(NamedTuple):
    """Logarithms of mean exponentials.

    Attributes:
        log_mean: [P, n].
        done: [P, n], where that is right.
    """

    log_mean: Tensor
    done: Tensor


def log_mean_exp(c: Tensor, u: Tensor, p: Tensor) -> SeriesResult:
    """log Σ_j p_j·exp(c·u_j) of P prompts and n units.

    Args:
        c: [P, n].
        u: [n, V].
        p: [P, V], rows that sum to 1.

    Returns:
        The logarithms, and which of them are right to the last digit.
    """
    low, high = u.amin(dim=-1), u.amax(dim=-1)
    middle, radius = (high + low) / 2, (high - low) / 2
    z = (u - middle.unsqueeze(-1)) / radius.clamp_min(torch.finfo(u.dtype).tiny).unsqueeze(-1)
    y = c * radius
    epsilon = torch.finfo(u.dtype).eps
    usable = y.abs() <= MAX_Y
    done = torch.zeros_like(usable)
    before, polynomial = torch.ones_like(z), z
    mean = _bessel(0, y)
    for order in range(1, MAX_ORDER + 1):
        mean += 2 * _bessel(order, y) * (p @ polynomial.T)
        done = usable & (_tail(order, y) <= epsilon)
        if int((usable & ~done).sum()) <= LEFT_OVER * usable.numel():
            break
        before, polynomial = polynomial, torch.addcmul(-before, z, polynomial, value=2)
    return SeriesResult(c * middle + mean.clamp_min(epsilon).log_(), done)


def _bessel(order: int, y: Tensor) -> Tensor:
    """I_order(y) by its power series, Σ_m (y/2)^{order+2m} / (m!·(order+m)!); to rounding for |y| ≤ MAX_Y."""
    half = y / 2
    square = half.square()
    total = torch.zeros_like(y)
    for m in reversed(range(BESSEL_TERMS)):
        total = total * square + 1 / (math.factorial(m) * math.factorial(order + m))
    return total * half**order


def _tail(order: int, y: Tensor) -> Tensor:
    """Bound on the error of the logarithm when the series ends with this order (step 3)."""
    size = y.abs()
    ratio = size / (2 * (order + 2))
    first = (size / 2) ** (order + 1) / math.factorial(order + 1) * (size.square() / 4).exp()
    return 2 * first / (1 - ratio).clamp_min(0.5) * size.exp()
