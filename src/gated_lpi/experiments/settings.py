"""How a run is carried out, which changes none of its results: on what it runs and where its checkpoints are kept."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from gated_lpi.errors import OptionError
from gated_lpi.options import DeviceMap, refuse_two_places
from gated_lpi.options.methods import in_bytes
from gated_lpi.options.spec import GREATEST, Positive, Spec, Text, Whole

EngineKind = Literal["local", "ray"]


Bytes = Annotated[int, BeforeValidator(in_bytes), Field(ge=1, le=GREATEST)]


class EngineSpec(Spec):
    """What computes.

    Attributes:
        kind: "local", in this process; or "ray", on a Ray cluster (or one started here).
        num_cpus, num_gpus, memory: what Ray keeps for one checkpoint; memory in bytes or as "64GB".
        retries: how often Ray tries a checkpoint again whose worker died, before it is quarantined.
        prefetch: how many checkpoints ahead are downloaded while one computes (local).
        workers: how many processes train arms, score checkpoints that are on this machine (local) and ablate at once,
            each with one thread. None: one thing after the other, in this process, with all its threads.
    """

    kind: EngineKind = "local"
    num_cpus: float = Field(default=1.0, ge=0)
    num_gpus: float = Field(default=0.0, ge=0)
    memory: Bytes | None = None
    retries: Whole = 2
    prefetch: Whole = 1
    workers: Positive | None = None


class StorageSpec(Spec):
    """Where checkpoints of a hub are kept.

    Attributes:
        cache_dir: folder of downloads; None for huggingface_hub's own cache.
        disk_budget: the most bytes of its own downloads that a run holds at a time, such as "200GB". None: one
            checkpoint more than `prefetch`.
        offline: ask no hub; use what is on this machine.
        endpoint: the hub's address; None for $HF_ENDPOINT or https://huggingface.co.
        device: what to compute on, as torch names it; "auto" is CUDA where there is any.
        device_map: spread each model over several devices, as accelerate does it; instead of `device`.
        keep_downloads: delete nothing.
    """

    cache_dir: Text | None = None
    disk_budget: Bytes | None = None
    offline: bool = False
    endpoint: Text | None = None
    device: Text = "auto"
    device_map: DeviceMap | None = None
    keep_downloads: bool = False

    @model_validator(mode="after")
    def _one_place(self) -> StorageSpec:
        try:
            refuse_two_places(self.device, self.device_map)
        except OptionError as error:
            raise ValueError(str(error)) from error
        return self
