"""Forward passes → everything that attribution needs of them, at the last position of every prompt or at others.

1. Prompts are cut into batches by their tokens and padded on the right; a batch says where its items are, the pairs of
   prompt and position that are recorded (`batches`).
2. Hooks record each block there (`hooks`), and attention position by position if that is asked for (`attention`).
3. The coefficients of routed experts are computed again from what was recorded, for the experts that were routed to
   (`experts`).
   Whoever acts inside a forward pass can ask which batch it is of (`running`).
4. What the routers did at every position can be had by itself (`trace_routing`).
5. Batches are joined to one trace (`forward`), which lays out each block's units as slabs (`records`).

What FFNs read of what attention writes is seen by disturbing it (`beside`).

A pass can be taken up again at any layer, by whatever changes a block and runs the later ones (`resume`).
"""

from gated_lpi.trace.batches import (
    LOGITS_AT_ONCE,
    TOKENS_AT_ONCE,
    USUAL,
    Batch,
    Limits,
    forward_passes,
    pad,
    resolve_positions,
    similar_lengths,
)
from gated_lpi.trace.beside import reads_what_was_written
from gated_lpi.trace.experts import expert_coefficients
from gated_lpi.trace.forward import last_logits, pad_id, target_rank, trace, trace_routing
from gated_lpi.trace.hooks import LayerRouting, Recording, record, record_final
from gated_lpi.trace.records import BlockTrace, PromptRouting, Slab, Trace, WriterTrace
from gated_lpi.trace.resume import ResumablePass
from gated_lpi.trace.running import run, running, running_batch

__all__ = [
    "LOGITS_AT_ONCE",
    "TOKENS_AT_ONCE",
    "USUAL",
    "Batch",
    "BlockTrace",
    "LayerRouting",
    "Limits",
    "PromptRouting",
    "Recording",
    "ResumablePass",
    "Slab",
    "Trace",
    "WriterTrace",
    "expert_coefficients",
    "forward_passes",
    "last_logits",
    "pad",
    "pad_id",
    "reads_what_was_written",
    "record",
    "record_final",
    "resolve_positions",
    "run",
    "running",
    "running_batch",
    "similar_lengths",
    "target_rank",
    "trace",
    "trace_routing",
]
