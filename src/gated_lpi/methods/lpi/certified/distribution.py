"""p = softmax(base logits) of P prompts, laid out as the fast estimator reads it.

1. Tokens are ranked by the largest probability that any prompt gives them. The first `HEAD` of them hold most of the
   mass where it is concentrated; their logits are computed again in float64, so that p errs outside of them only.
2. Nested sets of tokens, the first n of the ranking for a few n, and what lies outside of each: its mass, the
   largest probability in it, the longest row of the unembedding.
3. E_p[w], the mean row of the unembedding under p, one matrix product.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from gated_lpi.methods.lens import BaseLogits
from gated_lpi.methods.lpi.certified.unembedding import Unembedding
from gated_lpi.methods.rounding import BlockedProduct, gamma, product_gamma, sum_in_runs
from gated_lpi.models import Readout

HEAD = 1024
HEAD_SHARE = 16  # of a small vocabulary, one token in so many
LEVELS = (0, 1024, 4096)
COLUMNS = 4096


@dataclass(frozen=True)
class Distribution:
    """p of P prompts over V tokens.

    Attributes:
        log_p: [P, V], columns in the order of the vocabulary.
        log_z: [P], float64, the logits less `log_p`.
        p: [P, K], of the tokens of the largest level below the last, columns by rank.
        order: [V], the tokens by rank.
        levels: sizes of the nested token sets, from 0 to V.
        head: how many of the first tokens have logits from float64.
        inside: [L, P], float64, mass of each set.
        tail_max: [L, P], float64, largest probability outside of it.
        tail_norm: [L], float64, largest ‖w_j − w̄‖ outside of it.
        mean: [P, d], float64, E_p[w] − w̄.
        mean_error: [P], float64, bound on the length of its rounding error.
        error: [P], float64, no log-probability outside the first `HEAD` tokens is off by more (but for a constant).
        error_per_norm: [P], float64, nor by more than this times ‖w_j‖, plus `head_error`.
        head_error: [P], float64, none of the first `HEAD` is off by more than this.
        outside_head: [P], float64, mass outside of the first `HEAD`.
        outside_norm: [P], float64, √(Σ p_j·‖w_j‖²) over the tokens outside of them.
        outside_norms: [V], ‖w_j‖ of the tokens outside of them, 0 for these.
        storage: [P], float64, how far Σ_j exp(log_p) may be from 1.
    """

    log_p: Tensor
    log_z: Tensor
    p: Tensor
    order: Tensor
    levels: tuple[int, ...]
    head: int
    inside: Tensor
    tail_max: Tensor
    tail_norm: Tensor
    mean: Tensor
    mean_error: Tensor
    error: Tensor
    error_per_norm: Tensor
    head_error: Tensor
    outside_head: Tensor
    outside_norm: Tensor
    outside_norms: Tensor
    storage: Tensor
    _kept: list[Tensor] = field(default_factory=list)

    def rows(self, table: Unembedding, ranks: slice) -> Tensor:
        """w_j − w̄ of the tokens of these ranks, [n, d]; rows of the levels are kept, as every slab asks for them."""
        kept = self.levels[-2]
        if ranks.stop > kept:
            return table.rows(self.order[ranks])
        if not self._kept:
            self._kept.append(table.rows(self.order[:kept]))
        return self._kept[0][ranks]


def distribution(readout: Readout, table: Unembedding, base: Tensor, logits: BaseLogits) -> Distribution:
    """Lay out p of P prompts.

    Args:
        readout: the model's.
        table: of the checkpoint.
        base: [P, d], the residual stream before the block writes.
        logits: its logit lens; `logits.log_p` itself is refined.
    """
    vocabulary = readout.vocabulary
    levels = (*(n for n in LEVELS if n < vocabulary), vocabulary)
    order = logits.log_p.amax(dim=0).argsort(descending=True)
    head = order[: min(HEAD, vocabulary // HEAD_SHARE)]
    log_p, log_z = _refine_head(readout, base, logits, head)
    likeliest = order[: levels[-2]]
    p = log_p.index_select(1, likeliest).exp_()
    outside_norms = table.raw_norms.index_fill(0, head, 0.0)
    sums = _sums_over_vocabulary(table, log_p, outside_norms)
    beyond = largest_beyond(log_p, likeliest)
    inside, tail_max, tail_norm = _outside(p, beyond, table.norms[order], levels)
    storage = 2 * logits.storage
    offset = storage * torch.linalg.vector_norm(table.mean.double())
    return Distribution(
        log_p=log_p,
        log_z=log_z,
        p=p,
        order=order,
        levels=levels,
        head=len(head),
        inside=inside,
        tail_max=tail_max,
        tail_norm=tail_norm,
        mean=sums.row - table.mean,
        mean_error=product_gamma(COLUMNS, base.dtype) * sums.norm + offset,
        error=logits.error + storage,
        error_per_norm=logits.error / readout.longest_row,
        head_error=storage,
        outside_head=sums.outside,
        outside_norm=sums.outside_squares.sqrt(),
        outside_norms=outside_norms,
        storage=storage,
    )


def _refine_head(readout: Readout, base: Tensor, logits: BaseLogits, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """log p with the logits of some tokens in float64, [P, V], and log Σ exp(logit), [P]; refines `logits.log_p`."""
    offset = readout.offset()
    head = readout.fold(base.double()) @ readout.weight[tokens].double().T * logits.inverse_scale.unsqueeze(-1)
    if offset is not None:
        head += offset[tokens]
    refined = head - logits.log_z.unsqueeze(-1)
    before = logits.log_p[:, tokens].double().exp().sum(dim=-1)
    shift = torch.log1p(refined.exp().sum(dim=-1) - before).unsqueeze(-1)
    log_p = logits.log_p.sub_(shift.to(logits.log_p.dtype))
    log_p[:, tokens] = (refined - shift).to(log_p.dtype)
    return log_p, logits.log_z + shift.squeeze(-1)


class _OverVocabulary(NamedTuple):
    """Sums over the vocabulary, float64.

    Attributes:
        row: [P, d], Σ p·w.
        norm: [P], Σ p·‖w‖.
        outside: [P], mass of the tokens outside the head, rounded up.
        outside_squares: [P], Σ p·‖w‖² over these tokens, rounded up.
    """

    row: Tensor
    norm: Tensor
    outside: Tensor
    outside_squares: Tensor


def _sums_over_vocabulary(table: Unembedding, log_p: Tensor, outside_norms: Tensor) -> _OverVocabulary:
    """One pass over p, in the order of the vocabulary."""
    n_prompts, vocabulary = log_p.shape
    row = torch.zeros(n_prompts, table.weight.shape[1], dtype=torch.float64, device=log_p.device)
    outside = (outside_norms > 0).to(log_p.dtype)
    unit = outside_norms.max().clamp_min(torch.finfo(log_p.dtype).tiny)  # over which squares do not underflow
    weights = torch.stack([table.raw_norms, outside, (outside_norms / unit).square()])
    sums = row.new_zeros(3, n_prompts)
    multiply = BlockedProduct(row.shape[0], row.shape[1], log_p)
    for start in range(0, vocabulary, COLUMNS):
        columns = slice(start, start + COLUMNS)
        p = log_p[:, columns].exp()
        row += multiply(p, table.weight[columns])
        sums += weights[:, columns] @ p.T  # not p times three columns, which takes three times as long
    norm, mass, squares = sums * (1 + 2 * gamma(COLUMNS + 8, log_p.dtype))
    return _OverVocabulary(row, norm, mass, squares * unit.double().square())


def largest_beyond(log_p: Tensor, tokens: Tensor) -> Tensor:
    """The largest probability of each prompt outside of some tokens.

    Args:
        log_p: [P, V].
        tokens: [n].

    Returns:
        [P], float64.
    """
    hidden = torch.zeros(log_p.shape[1], dtype=log_p.dtype, device=log_p.device)
    hidden[tokens] = -torch.inf
    columns = range(0, log_p.shape[1], COLUMNS)
    parts = [(log_p[:, i : i + COLUMNS] + hidden[i : i + COLUMNS]).amax(dim=-1) for i in columns]
    return torch.stack(parts).amax(dim=0).double().exp()


def _outside(p: Tensor, beyond: Tensor, norms: Tensor, levels: tuple[int, ...]) -> tuple[Tensor, Tensor, Tensor]:
    """Mass inside each level, and largest probability and longest row outside of it; `p` and `norms` by rank."""
    inside = torch.zeros(len(levels), len(p), dtype=torch.float64, device=p.device)
    largest = torch.zeros_like(inside)
    longest = torch.zeros(len(levels), dtype=torch.float64, device=p.device)
    inside[-1], largest[-2] = 1.0, beyond
    for k, (start, stop) in enumerate(itertools.pairwise(levels)):
        longest[k] = norms[start:stop].max()
        if stop < levels[-1]:
            band = p[:, start:stop]
            inside[k + 1] = inside[k] + sum_in_runs(band)
            largest[k] = band.amax(dim=-1)
    return inside, _suffix_maximum(largest), _suffix_maximum(longest)


def _suffix_maximum(values: Tensor) -> Tensor:
    return values.flip(0).cummax(dim=0).values.flip(0)
