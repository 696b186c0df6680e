"""A study as a file: an experiment, the questions that it is to answer, and the analyses that answer them.

    name = "load-balance"
    seeds = [0, 1, 2]
    [[arms]] …                      everything that an experiment file may have
    [study]
    title = "…"                     and what is asked, in words
    question = ["…"]
    design = "…"
    limits = "…"                    what it does not show
    [[study.analyses]]
    name = "recall"                 and the options of the analysis

A study may analyse the run of another one (`runs = "twins"`); it then has no experiment of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, SerializeAsAny, ValidationError, model_validator

from gated_lpi.errors import OptionError
from gated_lpi.experiments.experiment import Experiment, read_toml
from gated_lpi.options.explain import describe
from gated_lpi.options.methods import Listed
from gated_lpi.options.spec import Spec, Text
from gated_lpi.studies.table import analysis_of
from gated_lpi.training.spec import ArmName

_PRESETS = Path(__file__).parent.parent / "presets" / "studies"
_TABLE = "study"


class AnalysisSpec(Spec):
    """One analysis of a study.

    Attributes:
        name: which one (`table`).
        label: what its files are named after; the name unless another analysis has it.
        options: its own, all other keys of the file's table.
    """

    name: str
    label: ArmName
    options: SerializeAsAny[Spec]

    @model_validator(mode="before")
    @classmethod
    def _read(cls, given: Any) -> Any:
        if not isinstance(given, dict) or "options" in given or not isinstance(given.get("name"), str):
            return given
        name = given["name"]
        try:
            options = analysis_of(name).options
            rest = {key: value for key, value in given.items() if key not in ("name", "label")}
            return {"name": name, "label": given.get("label", name), "options": options.model_validate(rest)}
        except OptionError as error:
            raise ValueError(str(error)) from None
        except ValidationError as error:
            raise ValueError(f"{name}: {describe(error, options, 'its options')}") from None


class Study(Spec):
    """What is studied.

    Attributes:
        name: of its folder and findings.
        title: in a few words.
        question: the questions that it answers.
        design: how.
        limits: what it does not show.
        runs: the study whose run is analysed; None: its own.
        analyses: what is made of the run.
        experiment: what is run.
    """

    name: ArmName
    title: Text
    question: Listed[Text]
    design: Text
    limits: Text
    runs: ArmName | None = None
    analyses: Annotated[tuple[AnalysisSpec, ...], Field(min_length=1)]
    experiment: Experiment

    @model_validator(mode="after")
    def _labels_differ(self) -> Study:
        labels = [analysis.label.casefold() for analysis in self.analyses]
        twice = next((label for i, label in enumerate(labels) if label in labels[:i]), None)
        if twice is not None:
            raise ValueError(f"two analyses have the label {twice!r}, which names files; give one another `label`")
        return self

    @property
    def run(self) -> str:
        """The name of the run's folder."""
        return self.runs or self.name


def studies() -> tuple[str, ...]:
    """The names of the studies that come with the package."""
    return tuple(sorted(path.stem for path in _PRESETS.glob("*.toml")))


def load_study(study: str | Path) -> Study:
    """Read a study that comes with the package, by name, or a file.

    A study that analyses another's run finds it beside its own file, or among those of the package.

    Raises:
        OptionError: there is no such study; or it has a key or value that means nothing, which is named.
    """
    file = _find(study, None)
    content = read_toml(file)
    table = _table(content, file)
    runs = table.get("runs")
    own = {key: value for key, value in content.items() if key != _TABLE}
    if runs is None:
        experiment = own
    else:
        extra = own.keys() - {"name"}
        if extra:
            raise OptionError(
                f"{file} has study.runs = {runs!r} beside {', '.join(sorted(extra))}; a study of another's run has no "
                "experiment of its own: leave one of the two out"
            )
        other = _find(str(runs), file.parent)
        experiment = {key: value for key, value in read_toml(other).items() if key != _TABLE}
        if "runs" in _table(read_toml(other), other):
            raise OptionError(f"{file} has study.runs = {runs!r}, which has no run of its own; name the study that has")
    try:
        return Study.model_validate({"name": own.get("name"), **table, "experiment": experiment})
    except ValidationError as error:
        raise OptionError(f"{file} is not a study: {describe(error, Study, 'study')}") from error


def _find(study: str | Path, beside: Path | None) -> Path:
    """The file of a study."""
    if isinstance(study, str) and beside is not None and (beside / f"{study}.toml").is_file():
        return beside / f"{study}.toml"
    if isinstance(study, str) and study in studies():
        return _PRESETS / f"{study}.toml"
    file = Path(study)
    if beside is not None or (file.suffix != ".toml" and not file.exists()):
        raise OptionError(f"study {str(study)!r} was asked for; give a file (TOML), or one of {', '.join(studies())}")
    return file


def _table(content: Mapping[str, Any], file: Path) -> dict[str, Any]:
    table = content.get(_TABLE)
    if not isinstance(table, dict):
        raise OptionError(
            f"{file} has no table [study] with title, question, design, limits and analyses, which makes a study of an "
            "experiment; add it, or run the experiment: gated-lpi run FILE --out DIR"
        )
    taken = table.keys() & {"name", "experiment"}
    if taken:
        raise OptionError(f"{file}: study.{min(taken)}: there is no such key; the name stands at the top of the file")
    return table
