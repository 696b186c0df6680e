"""The certificate of the fast estimator: an interval that a score lies in, from moments over part of the vocabulary.

With y_j = c·(u_j − a), a close to μ = E_p[u] and g(y) = e^y − 1 − y ≥ 0,

    I = c·(u_target − a) − log E,    E = E_p[e^y] = 1 + c·(μ − a) + Σ_{j in S} p_j·g(y_j) + Σ_{j in T} p_j·g(y_j)

for any split of the vocabulary into S and T, since E_p[y] = c·(μ − a). (docs/method.md has the proof of each step.)

1. g(y) = φ(y)·y² with φ(y) = (e^y − 1 − y)/y² increasing, so on S the sum lies between φ(min y) and φ(max y) times
   Σ_S p·y², which the first and second moments give. Where the third and fourth are there too, it also is
   ½Σp·y² + ⅙Σp·y³ plus between ψ(min y) and ψ(max y) times Σp·y⁴, ψ(y) = (e^y − 1 − y − y²/2 − y³/6)/y⁴ increasing.
   Or it is summed term by term, which costs too much for units but not for a vector that only one prompt has.
2. On T, 0 ≤ Σ_T p·g(y) ≤ φ(max_T y)·Σ_T p·y², where Σ_T p_j·u_j² ≤ r·Σ_T q_j·u_j² for any weights q of the tokens
   and r = max_T p_j/q_j (`envelope`), and y ≤ |c|·‖v‖·max_T‖w − w̄‖ + |c·a|. Where u was found roughly on T
   (`eight_bit`), Σ_T p·u² and the ends of y there are known from both sides, and with them Σ_T p·g(y). Where û is good
   enough (`two_digits`), g(ŷ) is summed term by term.
3. What rounding may do to a, to u on S, to the moments and to p itself widens the interval.

4. The score is a guess of what the sums really are, kept so near the interval's middle that its bound, half the
   interval's width plus its distance from the middle, stays within the tolerance. The guess: φ ≈ ½ on S, and p·u² in T
   as if p were proportional to q there. The middle alone would be low by half the tail's bound everywhere.

Arithmetic is in the dtype of the pairs, float64 or float32, on [P, n] pairs of prompts and units; its rounding is part
of the bound.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from gated_lpi.methods.rounding import unit_roundoff
from gated_lpi.methods.tiles import at_once

LARGEST = 30.0  # exponents above this are left to the exact sum
TILE_BYTES = 2**18  # bytes of a matrix of pairs at a time, for each thread: they stay in a processor's cache
SAFETY = {torch.float64: 1e-9, torch.float32: 2e-5}  # relative: of the arithmetic on sums of terms of one sign
ABSOLUTE = {torch.float64: 1e-12, torch.float32: 2e-6}  # of that on scores, over the size of their terms
EXPONENTIAL = 16  # unit roundoffs of e^y + 1 + |y| that computing e^y − 1 − y may cost
UNDERFLOW = 1e-30
ROUGH = 2e-4  # relative: of sums over runs of tokens in float32, whatever the dtype of the weights
ROUGHER = 1e-2  # the same where what is summed, and sums of runs, were rounded to bfloat16


class Pairs(NamedTuple):
    """Prompts and units, all pairs of which are scored.

    Attributes:
        c: [P, n], coefficient over σ.
        shift: [P, n], a.
        gain: [P, n], c·(u_target − a) for the same a, found in float64.
        length: [n], ‖v‖, rounded up.
        shift_error, gain_error: [P, 1], bounds on |c·(μ − a)| and on the rounding of `gain`, over |c|·‖v‖.
        squares: [n], float64, upper bound on Σ_j q_j·u_j² over the vocabulary, q the weights of an envelope.
    """

    c: Tensor
    shift: Tensor
    gain: Tensor
    length: Tensor
    shift_error: Tensor
    gain_error: Tensor
    squares: Tensor

    def units(self, chosen: Tensor | slice) -> Pairs:
        """The pairs of some of the units; `chosen` [m] are their indices, or a slice."""
        c, shift, gain = (part[:, chosen] for part in (self.c, self.shift, self.gain))
        return self._replace(c=c, shift=shift, gain=gain, length=self.length[chosen], squares=self.squares[chosen])


class Moments(NamedTuple):
    """Sums over the tokens of S, as computed; some are not always there.

    Attributes:
        first: [P, n], Σp·u.
        second: [P, n], Σp·u².
        squares: [n], a lower bound on Σq·u², q the weights of the envelope.
        least, largest: [n], least and largest u.
        third, fourth: [P, n], Σp·u³ and Σp·u⁴, or None.
        above: [P, n], Σp·g(y) of the y that u gives in the pairs' dtype, or None.
        outside_least, outside_largest: [n], bounds on u and û over the tokens of T, or None.
        outside_second: [P, n], Σ_T p·û² of a rough û, or None.
        outside_wrong: [n], Σ_T p·(u − û)² is at most the largest p in T times the square of this; or None.
        outside_above: [P, n], Σ_T p·g(ŷ) of the ŷ that û gives in the pairs' dtype, or None.
    """

    first: Tensor
    second: Tensor
    squares: Tensor
    least: Tensor
    largest: Tensor
    third: Tensor | None = None
    fourth: Tensor | None = None
    above: Tensor | None = None
    outside_least: Tensor | None = None
    outside_largest: Tensor | None = None
    outside_second: Tensor | None = None
    outside_wrong: Tensor | None = None
    outside_above: Tensor | None = None

    def units(self, chosen: Tensor | slice) -> Moments:
        """The moments of some of the units; `chosen` [m] are their indices, or a slice."""
        return self._each(lambda part: part[..., chosen])

    def to(self, dtype: torch.dtype) -> Moments:
        """These moments in another dtype, all but `squares`."""
        return self._each(lambda part: part.to(dtype))._replace(squares=self.squares)

    def _each(self, change: Callable[[Tensor], Tensor]) -> Moments:
        return Moments(*(None if part is None else change(part) for part in self))  # type: ignore[arg-type]


class Region(NamedTuple):
    """What is known of S and T, for all units alike.

    Attributes:
        inside, outside: [P, 1], mass of S; mass of T, at most.
        tail_scale: [P, 1], r with p ≤ r·q in T, q the weights of the envelope.
        tail_max: [P, 1], largest p in T.
        tail_norm: largest ‖w_j − w̄‖ in T (0 where T is empty).
        inside_norm: largest ‖w_j − w̄‖ in S.
        inside_tokens, tail_tokens: how many tokens are in S and in T.
        tail_weight: Σ q over T.
        outside_head: [P, 1], mass of the tokens whose log p may be off by `error`; that of the others by `head_error`.
        outside_error: [P, 1], √(Σ p_j·D_j²) over these tokens, D_j ≤ `error` bounding the error of log p_j.
        error: [P, 1], bound on the error of log p of the tokens outside of the head.
        head_error: [P, 1], bound on that of the tokens in the head.
        storage: [P, 1], how far Σ p may be from 1.
        unit_rounding: γ of a product over the width, which u on S is computed by; a number, or [P, 1].
        sum_rounding: γ of the sums over tokens.
        storing: unit roundoff of the dtype that scores are stored in.
        rough: relative error of the sums over û in T.
    """

    inside: Tensor
    outside: Tensor
    tail_scale: Tensor
    tail_max: Tensor
    tail_norm: Tensor
    tail_weight: Tensor
    inside_norm: float
    inside_tokens: int
    tail_tokens: int
    outside_head: Tensor
    outside_error: Tensor
    error: Tensor
    head_error: Tensor
    storage: Tensor
    unit_rounding: float | Tensor
    sum_rounding: float
    storing: float
    rough: float = ROUGH

    def to(self, dtype: torch.dtype) -> Region:
        """This region in another dtype."""
        return Region(*(part.to(dtype) if isinstance(part, Tensor) else part for part in self))  # type: ignore[arg-type]


class Certificate(NamedTuple):
    """Scores with their error bounds.

    Attributes:
        score: [P, n], nats.
        bound: [P, n], nats; infinite or NaN where nothing can be said.
    """

    score: Tensor
    bound: Tensor


def certify(pairs: Pairs, moments: Moments, region: Region, tolerance: float | Tensor) -> Certificate:
    """Score each pair, with a bound on its error; the score leaves the interval's middle within the tolerance only.

    Args:
        pairs: [P, n] of them.
        moments: over the tokens of S.
        region: what is known of S and T.
        tolerance: nats; a number, or [P, 1].
    """
    n_prompts, n_units = pairs.c.shape
    region = region.to(pairs.c.dtype)
    tile = at_once(TILE_BYTES * torch.get_num_threads(), pairs.c.device)
    size = max(1, tile // max(1, n_prompts * pairs.c.element_size()))
    if n_units <= size:
        return _certify(pairs, moments, region, tolerance)
    parts = [
        _certify(pairs.units(some), moments.units(some), region, tolerance)
        for some in (slice(start, start + size) for start in range(0, n_units, size))
    ]
    return Certificate(*(torch.cat(values, dim=1) for values in zip(*parts, strict=True)))


class _Given(NamedTuple):
    """What follows from pairs and region, [P, n].

    Attributes:
        size: |c|·‖v‖.
        centre: c·a.
        shift_error: bound on |E_p[y]|.
        wrong: bound on the rounding of y in S.
    """

    size: Tensor
    centre: Tensor
    shift_error: Tensor
    wrong: Tensor


class _Sums(NamedTuple):
    """Sums over some tokens, [P, n].

    Attributes:
        low, high: bounds on Σ p·g(y).
        guess: what it may be.
        variance: upper bound on Σ p·y².
        reach: upper bound on y.
    """

    low: Tensor
    high: Tensor
    guess: Tensor
    variance: Tensor
    reach: Tensor

    def add(self, other: _Sums) -> _Sums:
        """The sums over both sets of tokens."""
        low, high, guess, variance, _ = (one + another for one, another in zip(self, other, strict=True))
        return _Sums(low, high, guess, variance, torch.maximum(self.reach, other.reach))


def _certify(pairs: Pairs, moments: Moments, region: Region, tolerance: float | Tensor) -> Certificate:
    dtype, gain = pairs.c.dtype, pairs.gain.abs()
    given = _given(pairs, region)
    parts = [_tail(pairs, moments, region, given)] if region.tail_tokens else []
    if region.inside_tokens:
        parts.append(_inside(pairs, moments.to(dtype), region, given))
    sums = parts[0] if len(parts) == 1 else parts[0].add(parts[1])
    widen = 1 + SAFETY[dtype] + 2 * region.storage
    above = sums.high * widen + given.shift_error
    below = (sums.low * (2 - widen) - given.shift_error).clamp_min(-0.5)
    top, bottom = torch.log1p(above), torch.log1p(below)
    bound = (top - bottom) / 2 + pairs.gain_error.to(dtype) * given.size
    bound = (bound + _probability_error(region, sums.variance, above)) * (1 + SAFETY[dtype])
    terms = gain + top
    bound = bound + 2 * region.storing * terms + ABSOLUTE[dtype] * (terms + given.centre.abs() + sums.reach.abs())
    certain = (sums.reach <= LARGEST) & (given.shift_error < 0.25) & (bottom <= top)
    bound = torch.where(certain, bound + UNDERFLOW, torch.inf)
    middle = (top + bottom) / 2
    room = (tolerance - bound).clamp_min(0.0)
    moved = (torch.log1p(sums.guess.clamp_min(0.0)) - middle).clamp(-room, room)
    return Certificate(pairs.gain - middle - moved, bound + moved.abs())


def _given(pairs: Pairs, region: Region) -> _Given:
    rounding = unit_roundoff(pairs.c.dtype)
    size, centre = pairs.c.abs() * pairs.length, pairs.c * pairs.shift
    shift_error = size * pairs.shift_error.to(size.dtype) + (2 * region.storage + 16 * rounding) * centre.abs()
    wrong = (region.unit_rounding + 8 * rounding) * region.inside_norm * size
    return _Given(size, centre, shift_error * (1 + SAFETY[pairs.c.dtype]), wrong)


class _Interval(NamedTuple):
    low: Tensor
    high: Tensor


def _inside(pairs: Pairs, moments: Moments, region: Region, given: _Given) -> _Sums:
    """Step 1; rounding included."""
    variance = _variance(pairs, moments, region, given)
    one, other = pairs.c * (moments.least - pairs.shift), pairs.c * (moments.largest - pairs.shift)
    least, largest = torch.minimum(one, other) - given.wrong, torch.maximum(one, other) + given.wrong
    low, high = phi(least) * variance.low, phi(largest) * variance.high
    guess = (variance.low + variance.high) / 4
    if moments.third is not None and moments.fourth is not None:
        other_low, other_high = _higher(pairs, moments, region, given, variance, least, largest)
        low, high = torch.maximum(low, other_low), torch.minimum(high, other_high)  # both intervals hold
        guess = (low + high) / 2
    if moments.above is not None:
        sums = _summed_up(moments.above, region, given, variance)
        low, high, guess = torch.maximum(low, sums.low), torch.minimum(high, sums.high), moments.above
    return _Sums(low, high, guess, variance.high, largest)


def _summed_up(above: Tensor, region: Region, given: _Given, variance: _Interval) -> _Interval:
    """Bounds on Σ_S p·g(y) where it was summed term by term."""
    wrong, root, rounding = given.wrong, (variance.high * region.inside).sqrt(), unit_roundoff(above.dtype)
    above = above.clamp_min(0.0)  # the difference of what is nearly equal may come out below
    above_most = above * (1 + region.sum_rounding + SAFETY[above.dtype])
    lost = 2 * EXPONENTIAL * rounding * (region.inside + root + above_most)  # Σ_S p·(e^y + 1 + |y|), twice at most
    tilted = root + above_most + lost  # at least Σ_S p·|e^y − 1|
    moved = wrong * (tilted + torch.expm1(wrong) * (region.inside + tilted)) + lost
    return _Interval((2 * above - above_most - moved).clamp_min(0.0), above_most + moved)


def _variance(pairs: Pairs, moments: Moments, region: Region, given: _Given) -> _Interval:
    """Bounds on Σ_S p·y²."""
    c, shift, root_mass = pairs.c, pairs.shift, region.inside.sqrt()
    spread = c.square() * (moments.second - 2 * shift * moments.first + shift.square() * region.inside)
    second = moments.second.clamp_min(0.0).sqrt()
    relative = region.sum_rounding + SAFETY[c.dtype]
    rounding = relative * (c.abs() * (second + shift.abs() * root_mass)).square()
    wrong = given.wrong * root_mass
    high = ((spread + rounding).clamp_min(0.0).sqrt() + wrong).square()
    low = ((spread - rounding).clamp_min(0.0).sqrt() - wrong).clamp_min(0.0).square()
    return _Interval(low, high)


def _higher(
    pairs: Pairs,
    moments: Moments,
    region: Region,
    given: _Given,
    variance: _Interval,
    least: Tensor,
    largest: Tensor,
) -> _Interval:
    """Bounds on Σ_S p·g(y) by four moments."""
    assert moments.third is not None
    assert moments.fourth is not None
    c, shift, mass, wrong = pairs.c, pairs.shift, region.inside, given.wrong
    first, second, third, fourth = moments.first, moments.second, moments.third, moments.fourth
    cube = third - 3 * shift * second + 3 * shift.square() * first - shift**3 * mass
    quad = fourth - 4 * shift * third + 6 * shift.square() * second - 4 * shift**3 * first + shift**4 * mass
    size_1 = (second.clamp_min(0.0) * mass).sqrt()  # bounds on Σp·|u| and Σp·|u|³
    size_3 = (second.clamp_min(0.0) * fourth.clamp_min(0.0)).sqrt()
    a = shift.abs()
    error = region.sum_rounding + SAFETY[c.dtype]
    two = c.square() * (second - 2 * shift * first + shift.square() * mass)
    two_error = error * c.square() * (second + 2 * a * size_1 + shift.square() * mass)
    three = c**3 * cube
    three_error = error * c.abs() ** 3 * (size_3 + 3 * a * second + 3 * a.square() * size_1 + a**3 * mass)
    four = c**4 * quad
    four_error = error * c**4 * (fourth + 4 * a * size_3 + 6 * a.square() * second + 4 * a**3 * size_1 + a**4 * mass)
    # Sums above are of the computed u. With |y − y'| ≤ w, |g(y) − g(y')| ≤ w·(|e^y − 1| + (e^w − 1)·e^y), and again
    # |e^y − 1| ≤ |y| + g(y).
    tilted = (variance.high * mass).sqrt() + phi(largest) * variance.high  # at least Σ_S p·|e^y − 1|
    moved = wrong * (tilted + torch.expm1(wrong) * (mass + tilted))
    middle = two / 2 + three / 6
    slack = two_error / 2 + three_error / 6 + moved
    high = middle + psi(largest) * (four + four_error).clamp_min(0.0) + slack
    low = middle + psi(least) * (four - four_error).clamp_min(0.0) - slack
    return _Interval(low, high)


def _tail(pairs: Pairs, moments: Moments, region: Region, given: _Given) -> _Sums:
    """Step 2: Σ_T p·y² is c²·Σ_T p·u² − 2·ca·Σ_T p·cu + (ca)²·p(T), with Σ_T p·u = μ − Σ_S p·u."""
    c, centre = pairs.c, given.centre
    weighted = (pairs.squares - moments.squares).clamp_min(0.0).to(c.dtype)  # at least Σ_T q·u²
    rest, first_error = centre, given.shift_error  # c·Σ_T p·u, and how wrong
    if region.inside_tokens:
        seen = moments.to(c.dtype)
        second = c.abs() * seen.second.clamp_min(0.0).sqrt()
        rest = centre - c * seen.first
        first_error = first_error + region.sum_rounding * second * region.inside.sqrt() + given.wrong * region.inside
    cross = centre.square() * region.outside - 2 * centre * rest
    doubt = 2 * centre.abs() * first_error
    square, safety = c.square(), SAFETY[c.dtype]
    most = region.tail_scale * (weighted * (1 + 1e-6))
    guess = region.outside / region.tail_weight * (square * weighted) + cross
    reach = given.size * region.tail_norm + centre.abs()
    rough = _rough(pairs, moments, region)
    if rough is None:
        variance = (square * most + cross + doubt).clamp_min(0.0) * (1 + safety)
        low = torch.zeros_like(variance)
    else:
        variance = (square * torch.minimum(most, rough.most) + cross + doubt).clamp_min(0.0) * (1 + safety)
        doubt = doubt + (2 * region.storage + safety) * centre.square() + safety * cross.abs()
        least = (square * rough.least * (1 - safety) + cross - doubt).clamp_min(0.0)
        low = phi(torch.maximum(rough.bottom, -reach)) * least * (1 - safety)
        reach = torch.minimum(reach, rough.top)
        guess = square * rough.middle + cross
    high, guess = phi(reach) * variance, torch.minimum(guess.clamp_min(0.0), variance) / 2
    if rough is not None and moments.outside_above is not None:
        guess = moments.outside_above.to(c.dtype)
        sums = _summed_up_roughly(guess, rough, region, given, variance)
        low, high = torch.maximum(low, sums.low), torch.minimum(high, sums.high)
    return _Sums(low, high, guess, variance, reach)


def _summed_up_roughly(above: Tensor, rough: _Rough, region: Region, given: _Given, variance: Tensor) -> _Interval:
    """Bounds on Σ_T p·g(y) where g(ŷ) was summed term by term.

    |g(y) − g(ŷ)| is |y − ŷ|·|e^ξ − 1| for a ξ between them, and |e^ξ − 1| ≤ e^b·(|y| + |y − ŷ|) where y, ŷ ≤ b, b ≥ 0.

    Args:
        above: [P, n], the sum.
        rough, region, given: of the pairs.
        variance: [P, n], Σ_T p·y² at most.
    """
    rounding = unit_roundoff(above.dtype)
    off = rough.wrong + 8 * rounding * region.inside_norm * given.size * region.outside.sqrt()  # of y as of ŷ
    root = variance.sqrt() + off  # at least √Σ_T p·ŷ²
    above = above.clamp_min(0.0)
    most = above * (1 + region.rough + SAFETY[above.dtype])
    moved = torch.exp(rough.top.clamp_min(0.0)) * (1 + ROUGH) * off * (root + off)
    moved = moved.nan_to_num(nan=torch.inf, posinf=torch.inf)
    lost = 2 * EXPONENTIAL * rounding * (region.outside + root * region.outside.sqrt() + most)
    return _Interval((2 * above - most - moved - lost).clamp_min(0.0), most + moved + lost)


class _Rough(NamedTuple):
    """What a rough û tells of the tokens of T, [P, n].

    Attributes:
        least, middle, most: Σ_T p·u² is at least, about, at most this.
        bottom, top: bounds on y over T, and on ŷ.
        wrong: √Σ_T p·(cu − cû)² is at most this.
    """

    least: Tensor
    middle: Tensor
    most: Tensor
    bottom: Tensor
    top: Tensor
    wrong: Tensor


def _rough(pairs: Pairs, moments: Moments, region: Region) -> _Rough | None:
    """By the triangle inequality of √(Σ_T p·x²); None where no û is known."""
    found, wrong = moments.outside_second, moments.outside_wrong
    least, largest = moments.outside_least, moments.outside_largest
    if found is None or wrong is None or least is None or largest is None:
        return None
    dtype = pairs.c.dtype
    found = found.to(dtype)
    off = region.tail_max.sqrt() * wrong.to(dtype)
    most = ((found * (1 + region.rough)).sqrt() + off).square()
    fewest = ((found * (1 - region.rough)).sqrt() - off).clamp_min(0.0).square()
    one, other = (pairs.c * (end.to(dtype) - pairs.shift) for end in (least, largest))
    return _Rough(fewest, found, most, torch.minimum(one, other), torch.maximum(one, other), pairs.c.abs() * off)


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
    """(e^y − 1 − y)/y² of `y` [...], ½ at 0; shape kept. Increasing on the whole line."""
    return _quotient(y, 2)


def psi(y: Tensor) -> Tensor:
    """(e^y − 1 − y − y²/2 − y³/6)/y⁴ of `y` [...], 1/24 at 0; shape kept. Increasing on the whole line."""
    return _quotient(y, 4)


# By dtype and order: |y| below which a series of so many terms is used, since the quotient loses digits there.
SERIES = {
    (torch.float64, 2): (1e-2, 5),
    (torch.float64, 4): (0.3, 7),
    (torch.float32, 2): (0.1, 4),
    (torch.float32, 4): (2.0, 12),
}


def _quotient(y: Tensor, order: int) -> Tensor:
    """What is left of e^y after its first terms, over y^order: Σ_k y^k/(k + order)!.

    Never of another y below: one nearer to 0 would make of a lower bound none.
    """
    y = y.clamp(max=2 * LARGEST)
    limit, terms = SERIES[y.dtype, order]
    small = y.abs() < limit
    series = torch.zeros_like(y)
    for k in reversed(range(terms)):
        series = series.mul_(y).add_(1 / math.factorial(k + order))
    safe = torch.where(small, 1.0, y)
    rest = (torch.expm1(safe) - safe) / safe.square()
    for k in range(2, order):
        rest = (rest - 1 / math.factorial(k)) / safe
    return torch.where(small, series, rest)
