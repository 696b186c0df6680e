"""The exceptions that gated-lpi raises on purpose: one small tree.

    GatedLPIError
    ├── OptionError          an argument outside what it may be
    ├── FactsError           a facts file that cannot be used
    ├── ModelError           a model that cannot be attributed
    │   ├── UnknownFamilyError
    │   └── ReconstructionError
    ├── CheckpointError      a checkpoint that cannot be found or trusted
    │   ├── FetchError
    │   └── WeightsError
    └── RunError             a run folder that cannot be used
        ├── NoRunError
        ├── RunExistsError
        ├── RunBusyError
        ├── DamagedError
        └── WriteError

Every message says what was given, what was expected and what to do next. What to do with any error of its kind is the
class's `advice`, which ends what the command line says of it; `{help}` in it is the command that explains the verb.
"""

from typing import ClassVar


class GatedLPIError(Exception):
    """Base of every error that this package raises on purpose.

    Attributes:
        advice: what to do next about any error of this class.
    """

    advice: ClassVar[str] = "{help} explains the command"


class OptionError(GatedLPIError, ValueError):
    """An argument has a value outside what it may be."""

    advice = "{help} lists what may be given, with an example"


class FactsError(GatedLPIError, ValueError):
    """A facts source cannot be read, or its content cannot be used."""

    advice = "docs/facts.md says what a facts file may hold; --on-error skip leaves out, and names, what cannot be used"


class ModelError(GatedLPIError):
    """A model cannot be attributed."""

    advice = "gated-lpi check MODEL says what of a model can be scored, gated-lpi families which types can be"


class UnknownFamilyError(ModelError):
    """The model's family has no row in the table of families, and none can be read off it.

    Attributes:
        reason: what about the model is in the way, as part of a sentence; "" where there is no more to say than that
            no row covers it.
    """

    advice = "docs/families.md adds a family, step by step; gated-lpi families lists those that are there"

    def __init__(self, message: str, reason: str = "") -> None:
        super().__init__(message)
        self.reason = reason


class ReconstructionError(ModelError):
    """Unit contributions do not add up to what a block wrote to the residual stream."""

    advice = "gated-lpi check MODEL shows each block's error; a bug report with it is welcome"


class CheckpointError(GatedLPIError):
    """A checkpoint or a series of checkpoints cannot be found or trusted."""

    advice = "gated-lpi checkpoints NAME lists a series; docs/checkpoints.md says how checkpoints are named and chosen"


class FetchError(CheckpointError):
    """A checkpoint could not be brought here, and may be as good as any: the hub failed, or the disk is full."""

    advice = "run the same command again once the hub answers or the disk has room: what is complete is kept"


class WeightsError(CheckpointError):
    """A checkpoint's weights are missing, cut short, in a refused format or not finite."""

    advice = "download or save the checkpoint again; gated-lpi checkpoints NAME lists the others"


class RunError(GatedLPIError):
    """A run folder cannot be read or written."""

    advice = "gated-lpi verify RUN says what of a run is whole; the same gated-lpi run command goes on from there"


class NoRunError(RunError):
    """There is no run where one was to be read."""

    advice = "gated-lpi demo makes a small run, gated-lpi run one of your own; give its folder"


class RunExistsError(RunError):
    """The output folder already holds another run."""

    advice = "give a new folder with --out, or the experiment that this run was started with"


class RunBusyError(RunError):
    """Another process writes to the run folder."""

    advice = "wait until the other process is done, or end it; reading a run needs no waiting"


class DamagedError(RunError):
    """Results are not what was written."""

    advice = "run the same gated-lpi run command again: what does not verify is computed again"


class WriteError(RunError):
    """A folder could not be written to: the disk is full, fails, or is read-only."""

    advice = "free space or mend the folder, and run the same command again: what is complete is kept"
