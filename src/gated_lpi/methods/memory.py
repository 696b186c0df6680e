"""How much is worked on at a time, so that the working set stays below a cap, whatever the prompts' length.

The working set is what attribution holds beside the model and the result. It has three parts: what is prepared of the
checkpoint (`fixed_bytes`); what is kept of each prompt of a batch (`prompt_bytes`); and, one after the other and in the
same half of the cap, the activations of a forward pass (`token_bytes` for each token of it) and the tiles of the
estimators. A forward pass holds one prompt at least, and a batch too: a cap below that is refused.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch

from gated_lpi.errors import OptionError
from gated_lpi.methods.contract import Room
from gated_lpi.methods.lpi.certified.eight_bit import code_bytes
from gated_lpi.methods.side_by_side import at_a_time
from gated_lpi.methods.tiles import at_once
from gated_lpi.models import Block, Model
from gated_lpi.trace import LOGITS_AT_ONCE, TOKENS_AT_ONCE, Limits

BACKWARD = 1.5  # activations that a backward pass holds of a layer, over those that a forward pass works with there
ONE_LAYER, EAGER_LAYER = 3, 4  # those of a backward pass of one layer alone, without weights of attention and with them
STATES = 2  # copies of the inputs of all layers that such a pass goes back to
LOGITS, CAPPED = 18, 6  # copies of an item's logits in a backward pass from its value, and of those that a softcap adds
TOKENS_SEEN = 24  # of an ordinary prompt, for estimates of time before prompts are known
FULL_TILES, TILES_OF_A_GPU = 2**29, 2**31
TOKENS_OF_A_GPU = 2**13  # in a forward pass there
SHARE_OF_FREE = (
    8  # of what is free of a GPU, one in so many bytes is for tiles, and as much for what is kept of prompts
)
MOST_PROMPTS = 2048  # that are worked on together
OVERHEAD = 2**23  # of libraries and threads, and holes that freed memory leaves
PAIR_BYTES, NUMBER_BYTES = 512, 32  # of the arrays of one pair, and of the copies of one number of [units, V]


class Sizes(NamedTuple):
    """What is worked on at a time.

    Attributes:
        prompts: prompts in a batch.
        forward: what of a batch is run at a time.
        room: what an estimator holds at a time.
        by_layer: whether a pass holds activations of one layer at a time, and no more than the inputs of the others.
    """

    prompts: int
    forward: Limits
    room: Room
    by_layer: bool = False


def sizes_for(
    model: Model,
    batch_size: int | None,
    memory: int | None,
    longest: int,
    *,
    items: int = 1,
    by_position: bool = False,
    passes: bool = False,
    weights: bool = False,
    by_layer: bool = False,
    all_experts: bool = False,
    routing: bool = False,
) -> Sizes:
    """Split the work so that it fits into `memory` bytes.

    Args:
        model: the model.
        batch_size: prompts in a batch, at most; None: as many as are worth working on together.
        memory: the cap, in bytes; None takes `batch_size` prompts at a time, and several blocks side by side.
        longest: tokens of the longest prompt.
        items: tokens of the longest answer, each of which is predicted.
        by_position: whether attention units are scored at every source position.
        passes: whether a method runs the model itself, and a pass holds the activations of every layer and the scores
            of every unit.
        weights: whether it sees the weights of attention, of every layer.
        by_layer: whether it can hold the activations of one layer at a time, which takes longer: it is made to where
            not even one prompt fits otherwise, and has nearly all of the cap then.
        all_experts: whether units are scored of experts that a prompt is not routed to.
        routing: whether what the routers did is kept of every position.

    Raises:
        OptionError: less than one prompt fits; says how much is needed.
    """
    each = items * prompt_bytes(model, longest if by_position else 0, all_experts=all_experts)
    prompts = max(1, (batch_size or _usual_batch(model, each)) // items)
    if memory is None:
        room = usual_room(model.device, blocks=1 if passes else at_a_time(model.device.type))
        tokens = at_once(TOKENS_AT_ONCE, model.device, TOKENS_OF_A_GPU)
        return Sizes(prompts, Limits(tokens, _logits_at_once(model, room)), room)
    half = memory // 2
    room = _room(min(FULL_TILES, half // 2))
    logits = _logits_at_once(model, room)
    fixed, token = fixed_bytes(model), token_bytes(model, longest, eager=by_position or weights)
    if routing:  # logits, gates and experts as they are recorded, and laid out
        everywhere = 4 * _number(model) * len(model.experts)
        each, token = each + longest * everywhere, token + everywhere
    held, tiled = token, 2 * NUMBER_BYTES * model.readout.vocabulary
    if passes:
        inputs = STATES * _number(model) * model.readout.weight.shape[1]
        whole = 2 * _number(model) * _heads(model) * longest if weights else BACKWARD * token
        held = math.ceil(model.n_layers * whole) + (token if weights else 0)
        one_layer = EAGER_LAYER if model.module.config._attn_implementation == "eager" else ONE_LAYER
        layered = math.ceil(model.n_layers * inputs + one_layer * token)
        copies = LOGITS + (0 if model.readout.affine else CAPPED)
        each = _number(model) * (2 * len(model.units) + copies * items * model.readout.vocabulary)
        by_layer = by_layer and layered < held and memory < 2 * max(fixed + each, longest * held)
        held = layered if by_layer else held
    if by_layer:
        half, least = memory - fixed - each, max(fixed + each + longest * held, 2 * tiled)
    else:
        least = 2 * max(fixed + each, longest * held, tiled)
    if memory < least:
        raise OptionError(
            f"memory={memory} bytes hold less than the working set of one prompt of {longest} tokens with this model; "
            f"give at least {math.ceil(least / 1e6)}MB, or shorter prompts"
        )
    forward = Limits(max(longest, min(TOKENS_AT_ONCE, half // held)), logits, frugal=True)
    return Sizes(min(prompts, (memory - half - fixed) // each), forward, room, by_layer)


def usual_room(device: torch.device, *, blocks: int = 1) -> Room:
    """What may be held at a time where memory is not capped; on a GPU more, if it is free.

    Args:
        device: where it is held.
        blocks: that are scored side by side and share it.
    """
    free = _free(device)
    tiles = FULL_TILES if free is None else max(FULL_TILES, min(TILES_OF_A_GPU, free // SHARE_OF_FREE))
    return _room(tiles // blocks)._replace(blocks=blocks)


def _room(tiles: int) -> Room:
    """Room of so many bytes of pairs, and as many of numbers beside them."""
    return Room(max(1, tiles // PAIR_BYTES), max(1, tiles // NUMBER_BYTES))


def _logits_at_once(model: Model, room: Room) -> int:
    return max(1, min(LOGITS_AT_ONCE, room.numbers // model.readout.vocabulary))


def _free(device: torch.device) -> int | None:
    """Bytes of a GPU that nobody holds; None of what is none, or does not say."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else None


def _usual_batch(model: Model, each: int) -> int:
    """Prompts that are worked on together on this model's device, each of which holds `each` bytes."""
    usual, free = usual_batch(*model.readout.weight.shape), _free(model.device)
    return usual if free is None else max(usual, min(MOST_PROMPTS, free // (SHARE_OF_FREE * each)))


def usual_batch(vocabulary: int, d: int) -> int:
    """Prompts that are worked on together on a CPU where nobody says how many.

    What is done once for a batch should not weigh more than what is done for each prompt: for a small vocabulary that
    is the number of calls, for a wide residual stream the products of [d, d] matrices.

    Args:
        vocabulary: number of tokens.
        d: width of the residual stream.
    """
    return max(192, min(MOST_PROMPTS, max(2**23 // vocabulary, d // 4)))


def prompt_bytes(model: Model, positions: int = 0, *, all_experts: bool = False) -> int:
    """Bytes that are kept of one prompt of a batch: log p and its copies, bases, coefficients.

    Args:
        model: the model.
        positions: source positions at which attention units are scored one by one.
        all_experts: whether units are scored of experts that the prompt is not routed to: their coefficients are kept
            of every block, and twice in float64 of the one that is being scored.
    """
    d, n = model.readout.weight.shape[1], _number(model)
    widths = sum(_active_width(model, block) for block in model.blocks)
    kept = n * (5 * model.readout.vocabulary + 3 * d * len(model.blocks) + 2 * widths)
    attention = [block.n_units for block in model.blocks if block.kind == "attention"]
    if all_experts:
        routed = [writer.n_units for _, writer in model.routed()]
        kept += n * sum(routed) + (n + 16) * max(routed)
    return kept + positions * (n * sum(attention) + (2 * n + 40) * max(attention, default=0))


def token_bytes(model: Model, longest: int, *, eager: bool = False) -> int:
    """Bytes that a forward pass holds of one token of prompts of `longest` tokens: the activations of one layer.

    Args:
        model: the model.
        longest: tokens of the longest prompt.
        eager: whether the weights of attention are computed, whatever the model does by itself.
    """
    d = model.readout.weight.shape[1]
    mixing = max((block.n_units for block in model.blocks if block.kind != "ffn"), default=0)
    ffn = max((_active_width(model, block) for block in model.blocks if block.kind == "ffn"), default=0)
    routed = any(writer.kind == "routed" for block in model.blocks for writer in block.writers)
    experts = 3 * d * model.experts_per_token if routed else 0
    eager = eager or model.module.config._attn_implementation == "eager"
    weights = 4 * _heads(model) * longest if eager else 0
    return _number(model) * (8 * d + 8 * mixing + 5 * ffn + experts + weights + 2 * longest)


def fixed_bytes(model: Model) -> int:
    """Bytes that are held whatever the number of prompts: what is prepared, and rows of the unembedding by rank."""
    vocabulary, d = model.readout.weight.shape
    prepared = OVERHEAD + 8 * (2 * d * d + 2 * len(model.units) + 4 * vocabulary + 4096 * d)
    return prepared + code_bytes(vocabulary, d, model.device.type)


def _heads(model: Model) -> int:
    """Heads of the attention that has most; 0 where there is none."""
    return max((block.n_heads for block in model.blocks if block.kind == "attention"), default=0)


def _number(model: Model) -> int:
    return 4 if str(model.dtype) == "torch.float32" else 8


def _active_width(model: Model, block: Block) -> int:
    """Units of a block that one token uses."""
    return sum(
        writer.width * (model.experts_per_token if writer.kind == "routed" else writer.n_experts)
        for writer in block.writers
    )
