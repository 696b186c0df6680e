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
        ├── RunExistsError
        ├── RunBusyError
        ├── DamagedError
        └── WriteError

Every message says what was given, what was expected and what to do next.
"""


class GatedLPIError(Exception):
    """Base of every error that this package raises on purpose."""


class OptionError(GatedLPIError, ValueError):
    """An argument has a value outside what it may be."""


class FactsError(GatedLPIError, ValueError):
    """A facts source cannot be read, or its content cannot be used."""


class ModelError(GatedLPIError):
    """A model cannot be attributed."""


class UnknownFamilyError(ModelError):
    """The model's family has no row in the table of families, and none can be read off it.

    Attributes:
        reason: what about the model is in the way, as part of a sentence; "" where there is no more to say than that
            no row covers it.
    """

    def __init__(self, message: str, reason: str = "") -> None:
        super().__init__(message)
        self.reason = reason


class ReconstructionError(ModelError):
    """Unit contributions do not add up to what a block wrote to the residual stream."""


class CheckpointError(GatedLPIError):
    """A checkpoint or a series of checkpoints cannot be found or trusted."""


class FetchError(CheckpointError):
    """A checkpoint could not be brought here, and may be as good as any: the hub failed, or the disk is full."""


class WeightsError(CheckpointError):
    """A checkpoint's weights are missing, cut short, in a refused format or not finite."""


class RunError(GatedLPIError):
    """A run folder cannot be read or written."""


class RunExistsError(RunError):
    """The output folder already holds another run."""


class RunBusyError(RunError):
    """Another process writes to the run folder."""


class DamagedError(RunError):
    """Results are not what was written."""


class WriteError(RunError):
    """A folder could not be written to: the disk is full, fails, or is read-only."""
