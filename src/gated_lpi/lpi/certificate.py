"""The certificate of the fast estimator: an interval that a score lies in, from moments over part of the vocabulary.

With y_j = c·(u_j − a), a close to μ = E_p[u] and g(y) = e^y − 1 − y ≥ 0,

    I = c·(u_target − a) − log E,    E = E_p[e^y] = 1 + c·(μ − a) + Σ_{j in S} p_j·g(y_j) + Σ_{j in T} p_j·g(y_j)

for any split of the vocabulary into S and T, since E_p[y] = c·(μ − a). (docs/method.md has the proof of each step.)

1. g(y) = φ(y)·y² with φ(y) = (e^y − 1 − y)/y² increasing, so on S the sum lies between φ(min y) and φ(max y) times
   Σ_S p·y², which the first and second moments give. Where the third and fourth are there too, it also is
   ½Σp·y² + ⅙Σp·y³ plus between ψ(min y) and ψ(max y) times Σp·y⁴, ψ(y) = (e^y − 1 − y − y²/2 − y³/6)/y⁴ increasing.
2. On T, 0 ≤ Σ_T p·g(y) ≤ φ(max_T y)·Σ_T p·y², where Σ_T p_j·u_j² ≤ r·Σ_T q_j·u_j² for any weights q of the tokens
   and r = max_T p_j/q_j (`envelope`), and y ≤ |c|·‖v‖·max_T‖w − w̄‖ + |c·a|, or what bounds on u say (`reach`).
3. What rounding may do to a, to u on S, to the moments and to p itself widens the interval.

4. The score is a guess of what the sums really are, kept so near the interval's middle that its bound, half the
   interval's width plus its distance from the middle, stays within the tolerance. The guess: φ ≈ ½ on S, and p·u² in T
   as if p were proportional to q there. The middle alone would be low by half the tail's bound everywhere.

All arithmetic here is in float64, on [P, n] pairs of prompts and units.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

LARGEST = 30.0  # exponents above this are left to the exact sum
TILE = 2**15  # pairs at a time for each thread: their arrays stay in a processor's cache
SAFETY = 1e-9  # relative, for the float64 arithmetic of the certificate itself


class Pairs(NamedTuple):
    """Prompts and units, of which some or all pairs are scored.

    Attributes:
        c: [P, n], coefficient over σ.
        shift: [P, n], a.
        gain: [P, n], c·(u_target − a).
        size: [P, n], |c|·‖v‖.
        shift_error, gain_error: [P, n], bounds on |c·(μ − a)| and on the rounding of `gain`.
        squares: [n], upper bound on Σ_j q_j·u_j² over the vocabulary, q the weights of an envelope.
    """

    c: Tensor
    shift: Tensor
    gain: Tensor
    size: Tensor
    shift_error: Tensor
    gain_error: Tensor
    squares: Tensor

    def units(self, chosen: Tensor | slice) -> Pairs:
        """The same for some of the units."""
        return Pairs(*(part[..., chosen] for part in self))


class Moments(NamedTuple):
    """Sums over the tokens of S, as computed: Σp·u and Σp·u² [P, n], least and largest u [n]; float64.

    `squares` [n] is a lower bound on Σq·u², q the weights of the envelope. Not always there: `third` and `fourth`,
    Σp·u³ and Σp·u⁴; `outside_least` and `outside_largest` [n], bounds on u over the tokens of T.
    """

    first: Tensor
    second: Tensor
    squares: Tensor
    least: Tensor
    largest: Tensor
    third: Tensor | None = None
    fourth: Tensor | None = None
    outside_least: Tensor | None = None
    outside_largest: Tensor | None = None

    def units(self, chosen: Tensor | slice) -> Moments:
        """The same for some of the units."""
        return Moments(*(None if part is None else part[..., chosen] for part in self))  # type: ignore[arg-type]


class Region(NamedTuple):
    """What is known of S and T, the same for all units.

    Attributes:
        inside: [P, 1], mass of S.
        tail_scale: [P, 1], r with p ≤ r·q in T, q the weights of the envelope.
        tail_norm: largest ‖w_j − w̄‖ in T (0 where T is empty).
        inside_norm: largest ‖w_j − w̄‖ in S.
        tail_tokens: how many tokens are in T, and `tail_weight`, Σ q over them.
        outside_head: [P, 1], mass of the tokens whose log p may be off by `error` [P, 1]; the others by `head_error`.
        outside_error: [P, 1], √(Σ p_j·D_j²) over these tokens, D_j ≤ `error` bounding the error of log p_j.
        storage: [P, 1], how far Σ p may be from 1.
        unit_rounding: γ of a product over the width, which u on S is computed by.
        sum_rounding: γ of the sums over tokens.
        storing: unit roundoff of the dtype that scores are stored in.
    """

    inside: Tensor
    tail_scale: Tensor
    tail_norm: Tensor
    tail_weight: Tensor
    inside_norm: float
    tail_tokens: int
    outside_head: Tensor
    outside_error: Tensor
    error: Tensor
    head_error: Tensor
    storage: Tensor
    unit_rounding: float
    sum_rounding: float
    storing: float


class Estimate(NamedTuple):
    """Scores and their error bounds, [P, n]; a bound is infinite or NaN where nothing can be said."""

    score: Tensor
    bound: Tensor


def certify(pairs: Pairs, moments: Moments, region: Region, tolerance: float) -> Estimate:
    """Score each pair, with a bound on its error; the score leaves the interval's middle within the tolerance only."""
    n_units = pairs.c.shape[1]
    size = max(1, TILE * torch.get_num_threads() // max(1, len(pairs.c)))
    if n_units <= size:
        return _certify(pairs, moments, region, tolerance)
    parts = [
        _certify(pairs.units(some), moments.units(some), region, tolerance)
        for some in (slice(start, start + size) for start in range(0, n_units, size))
    ]
    return Estimate(*(torch.cat(values, dim=1) for values in zip(*parts, strict=True)))


def _certify(pairs: Pairs, moments: Moments, region: Region, tolerance: float) -> Estimate:
    size = pairs.size
    centre = pairs.c * pairs.shift
    variance, least, largest = _inside(pairs, moments, region)
    shift_error = pairs.shift_error + 2 * region.storage * centre.abs()
    low, high = phi(least) * variance.low, phi(largest) * variance.high
    guess = (variance.low + variance.high) / 4
    tail_variance, tail_high, reach = torch.zeros_like(size), torch.zeros_like(size), largest
    if region.tail_tokens:
        tail_reach = _tail_reach(pairs, moments, size * region.tail_norm + centre.abs())
        tail_variance, tail_guess = _tail_variance(pairs, moments, region, centre, shift_error)
        tail_high = phi(tail_reach) * tail_variance
        reach = torch.maximum(largest, tail_reach)
        guess = guess + tail_guess / 2
    if moments.third is not None and moments.fourth is not None:
        low, high = _narrowed(low, high, _higher(pairs, moments, region, variance, least, largest))
        guess = (low + high) / 2
    widen = 1 + SAFETY + 2 * region.storage
    above = (high + tail_high) * widen + shift_error
    below = (low * (2 - widen) - shift_error).clamp_min(-0.5)
    top, bottom = torch.log1p(above), torch.log1p(below)
    bound = (top - bottom) / 2 + pairs.gain_error
    bound = bound + _probability_error(region, variance.high + tail_variance, above)
    bound = bound + 2 * region.storing * (pairs.gain.abs() + top) + 1e-12 * (pairs.gain.abs() + size)
    certain = (reach <= LARGEST) & (shift_error < 0.25)
    bound = torch.where(certain, bound, torch.inf)
    middle = (top + bottom) / 2
    room = (tolerance - bound).clamp_min(0.0)
    moved = (torch.log1p(guess.clamp_min(0.0)) - middle).clamp(-room, room)
    return Estimate(pairs.gain - middle - moved, bound + moved.abs())


def _tail_reach(pairs: Pairs, moments: Moments, by_norms: Tensor) -> Tensor:
    """Upper bound on y over T."""
    if moments.outside_least is None or moments.outside_largest is None:
        return by_norms
    one, other = (pairs.c * (end - pairs.shift) for end in (moments.outside_least, moments.outside_largest))
    return torch.minimum(by_norms, torch.maximum(one, other))


class _Interval(NamedTuple):
    low: Tensor
    high: Tensor


def _inside(pairs: Pairs, moments: Moments, region: Region) -> tuple[_Interval, Tensor, Tensor]:
    """Bounds on Σ_S p·y², and on y over S (step 1); rounding included."""
    c, shift = pairs.c, pairs.shift
    wrong = region.unit_rounding * pairs.size * region.inside_norm  # of c·u_j
    root_mass = region.inside.sqrt()
    spread = c.square() * (moments.second - 2 * shift * moments.first + shift.square() * region.inside)
    second = moments.second.clamp_min(0.0).sqrt()
    rounding = (region.sum_rounding + SAFETY) * (c.abs() * (second + shift.abs() * root_mass)).square()
    high = ((spread + rounding).clamp_min(0.0).sqrt() + wrong * root_mass).square()
    low = ((spread - rounding).clamp_min(0.0).sqrt() - wrong * root_mass).clamp_min(0.0).square()
    one, other = c * (moments.least - shift), c * (moments.largest - shift)
    return _Interval(low, high), torch.minimum(one, other) - wrong, torch.maximum(one, other) + wrong


def _higher(
    pairs: Pairs, moments: Moments, region: Region, variance: _Interval, least: Tensor, largest: Tensor
) -> _Interval:
    """Bounds on Σ_S p·g(y) by four moments (step 1); rounding included."""
    assert moments.third is not None
    assert moments.fourth is not None
    c, shift, mass = pairs.c, pairs.shift, region.inside
    first, second, third, fourth = moments.first, moments.second, moments.third, moments.fourth
    cube = third - 3 * shift * second + 3 * shift.square() * first - shift**3 * mass
    quad = fourth - 4 * shift * third + 6 * shift.square() * second - 4 * shift**3 * first + shift**4 * mass
    size_1 = (second.clamp_min(0.0) * mass).sqrt()  # bounds on Σp·|u| and Σp·|u|³
    size_3 = (second.clamp_min(0.0) * fourth.clamp_min(0.0)).sqrt()
    a = shift.abs()
    error = region.sum_rounding + SAFETY
    two = c.square() * (second - 2 * shift * first + shift.square() * mass)
    two_error = error * c.square() * (second + 2 * a * size_1 + shift.square() * mass)
    three = c**3 * cube
    three_error = error * c.abs() ** 3 * (size_3 + 3 * a * second + 3 * a.square() * size_1 + a**3 * mass)
    four = c**4 * quad
    four_error = error * c**4 * (fourth + 4 * a * size_3 + 6 * a.square() * second + 4 * a**3 * size_1 + a**4 * mass)
    wrong = region.unit_rounding * pairs.size * region.inside_norm
    # Sums above are of the computed u. With |y − y'| ≤ w, |g(y) − g(y')| ≤ w·(|e^y − 1| + (e^w − 1)·e^y), and again
    # |e^y − 1| ≤ |y| + g(y).
    sum_of_g = phi(largest) * variance.high
    moved = wrong * ((variance.high * mass).sqrt() + sum_of_g + torch.expm1(wrong) * (1 + sum_of_g))
    middle = two / 2 + three / 6
    slack = two_error / 2 + three_error / 6 + moved
    high = middle + psi(largest) * (four + four_error).clamp_min(0.0) + slack
    low = middle + psi(least) * (four - four_error).clamp_min(0.0) - slack
    return _Interval(low, high)


def _narrowed(low: Tensor, high: Tensor, other: _Interval) -> tuple[Tensor, Tensor]:
    """Both intervals hold, so what they share does."""
    return torch.maximum(low, other.low), torch.minimum(high, other.high)


def _tail_variance(
    pairs: Pairs, moments: Moments, region: Region, centre: Tensor, shift_error: Tensor
) -> tuple[Tensor, Tensor]:
    """Upper bound on Σ_T p·y² (step 2), and a guess of it.

    It is c²·Σ_T p·u² − 2·ca·Σ_T p·cu + (ca)²·p(T), with Σ_T p·u = μ − Σ_S p·u.
    """
    c = pairs.c.abs()
    first = pairs.c * moments.first
    second = c * moments.second.clamp_min(0.0).sqrt()
    wrong = region.unit_rounding * pairs.size * region.inside_norm
    first_error = shift_error + region.sum_rounding * second * region.inside.sqrt() + wrong * region.inside
    outside = (1.0 - region.inside).clamp_min(0.0) + region.storage
    cross = -2 * centre * (centre - first) + centre.square() * outside
    squares = c.square() * (pairs.squares - moments.squares).clamp_min(0.0)
    largest = region.tail_scale * (1 + 1e-6) * squares + cross + 2 * centre.abs() * first_error
    guess = outside / region.tail_weight * squares + cross
    high = largest.clamp_min(0.0) * (1 + SAFETY)
    return high, torch.minimum(guess.clamp_min(0.0), high)


def _probability_error(region: Region, variance: Tensor, above: Tensor) -> Tensor:
    """What errors D of log p do to a score: at most e^{2 max D}·Σ_j D_j·|q_j − p_j|, with q ∝ p·e^y.

    E·|q_j − p_j| ≤ p_j·(|e^{y_j} − 1| + |E − 1|) with |e^y − 1| ≤ |y| + g(y), and Σ_j p_j·D_j·|y_j| is at most
    √(Σ p_j·D_j²)·√(Σ p_j·y_j²); E is above ¾ where it matters.
    """
    root = variance.sqrt()
    moved = region.outside_error * root + region.error * (1 + region.outside_head) * above
    moved = moved + region.head_error * (root + 2 * above)
    return moved * torch.exp(2 * region.error) * (4 / 3)


def phi(y: Tensor) -> Tensor:
    """(e^y − 1 − y)/y², ½ at 0; increasing on the whole line."""
    y = y.clamp(-1e6, 2 * LARGEST)
    small = y.abs() < 1e-2
    safe = torch.where(small, 1.0, y)
    series = 0.5 + y * (1 / 6 + y * (1 / 24 + y * (1 / 120 + y / 720)))
    return torch.where(small, series, (torch.expm1(safe) - safe) / safe.square())


def psi(y: Tensor) -> Tensor:
    """(e^y − 1 − y − y²/2 − y³/6)/y⁴, 1/24 at 0; increasing on the whole line."""
    y = y.clamp(-1e6, 2 * LARGEST)
    small = y.abs() < 0.3
    safe = torch.where(small, 1.0, y)
    series = 1 / 24 + y * (1 / 120 + y * (1 / 720 + y * (1 / 5040 + y * (1 / 40320 + y * (1 / 362880 + y / 3628800)))))
    square = safe.square()
    direct = (torch.expm1(safe) - safe - square / 2 - square * safe / 6) / square.square()
    return torch.where(small, series, direct)
