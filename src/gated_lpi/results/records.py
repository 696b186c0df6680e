"""What a run keeps beside its scores: ablations and top units of an arm's last checkpoint, as plain records."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from gated_lpi.results.files import Number

Share = Annotated[float, Field(ge=0, le=1)]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class AblationRow(_Record):
    """One intervention and its random control.

    Attributes:
        name: as a table shows it, such as "top-10 heads".
        kind: "head" or "unit".
        asked, count: how many were asked for and how many were ablated (fewer where the model is small).
        available: how many there are to choose from.
        chosen: what was ablated, as labels such as "layer 3 head 1".
        hit: HIT@k with the ablation.
        random_hits: HIT@k with as many random ones ablated, one value a draw.
        method: by whose scores they were chosen.
        text_loss: loss on unrelated text with the ablation, nats per token; None where it was not measured.
        random_text_losses: the same with random ones.
        by_relation: HIT@k of each relation, which may be a task, with the ablation.
        random_by_relation: the same with random ones, mean over the draws.
    """

    name: str
    kind: str
    asked: Number
    count: Number
    available: Number
    chosen: tuple[str, ...]
    hit: Share
    random_hits: tuple[Share, ...]
    method: str = "lpi"
    text_loss: float | None = None
    random_text_losses: tuple[float, ...] = ()
    by_relation: dict[str, Share] = {}
    random_by_relation: dict[str, Share] = {}


class AblationTable(_Record):
    """All interventions on one checkpoint of an arm.

    Attributes:
        checkpoint: its name.
        step: its training step.
        k: the k of HIT@k.
        n_prompts: prompts that HIT@k is over.
        hit: the intact HIT@k, a share.
        text_loss: the intact loss on unrelated text, nats per token; None where it was not measured.
        by_relation: the intact HIT@k of each relation.
        rows: the interventions.
        skipped: which rows were asked for and could not be had, and why.
    """

    checkpoint: str
    step: Number
    k: Number
    n_prompts: Annotated[Number, Field(ge=1)]
    hit: Share
    rows: tuple[AblationRow, ...]
    skipped: tuple[str, ...] = ()
    text_loss: float | None = None
    by_relation: dict[str, Share] = {}


class SelectivityRow(_Record):
    """The top FFN units by one method's ranking on some relations, silenced.

    Attributes:
        method: by whose scores they were ranked.
        share, count: of the FFN units.
        silenced: "hit_k" and "logprob" of the relations that ranked them, "other_hit_k" and "other_logprob" of others,
            "text_loss" on unrelated text; what could not be measured is not there.
        same_layers: the same with as many random units of the same layers, one value a draw.
    """

    method: str
    share: Share
    count: Number
    silenced: dict[str, float]
    same_layers: dict[str, tuple[float, ...]]


class Selectivity(_Record):
    """What silencing units costs relations that did not choose them.

    Attributes:
        ranked, others: the relations that units were ranked on, and those that look on.
        intact: of the intact model, as `SelectivityRow.silenced`.
        rows: by method and share.
    """

    ranked: tuple[str, ...]
    others: tuple[str, ...]
    intact: dict[str, float]
    rows: tuple[SelectivityRow, ...]


class RedundancyRow(_Record):
    """The top experts by one method, silenced with free and with frozen routing.

    Attributes:
        method: by whose scores of units, summed over experts.
        experts: their names.
        hit_free, hit_frozen: HIT@k where routers may answer, and where every token keeps its experts.
        logprob_intact, logprob_free, logprob_frozen: log p(target), mean over prompts, nats.
        random_recovered: log p with free less that with frozen routing of as many random experts of the same layers,
            one value a draw.
        jaccard: overlap of a token's experts with those of the intact model, mean over tokens and layers.
        random_jaccard: the same with the random ones.
    """

    method: str
    experts: tuple[str, ...]
    hit_free: Share
    hit_frozen: Share
    logprob_intact: float
    logprob_free: float
    logprob_frozen: float
    random_recovered: tuple[float, ...]
    jaccard: Share
    random_jaccard: tuple[Share, ...]


class TopUnit(_Record):
    """A unit of great mean importance and the tokens that its value vector moves.

    Attributes:
        label: its name, such as "layer 2 expert 5 neuron 17".
        block: "attention", "mixer" or "ffn".
        layer, expert, head, neuron: its coordinates, as `UnitTable` has them.
        lpi: mean over prompts, in nats.
        mean_coefficient: tells the coefficient's usual sign.
        promoted, suppressed: tokens whose logits the value vector raises and lowers most where its coefficient is
            positive.
    """

    label: str
    block: str
    layer: int
    expert: int
    head: int
    neuron: int
    lpi: float
    mean_coefficient: float
    promoted: tuple[str, ...]
    suppressed: tuple[str, ...]


class ArmRecord(_Record):
    """What is known of an arm when its last checkpoint is done.

    Attributes:
        arm: its name.
        parameters: number of the model's parameters.
        parameters_active: number of those that one token passes through.
        ablation: what silencing heads and units costs.
        top_ffn, top_attention, top_mixer: top units, greatest first; none of a kind that has no scores.
        selectivity: what silencing units costs other relations; None where it was not measured.
        redundancy: how routing answers when top experts are silenced; none where that was not asked for.
    """

    arm: str
    parameters: Number
    parameters_active: Number
    ablation: AblationTable
    top_ffn: tuple[TopUnit, ...]
    top_attention: tuple[TopUnit, ...]
    selectivity: Selectivity | None = None
    redundancy: tuple[RedundancyRow, ...] = ()
    top_mixer: tuple[TopUnit, ...] = ()

    def top(self, kind: str) -> tuple[TopUnit, ...]:
        """The top units of a kind: "ffn", "attention" or "mixer"."""
        found: tuple[TopUnit, ...] = getattr(self, f"top_{kind}")
        return found
