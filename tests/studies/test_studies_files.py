"""Files of studies: what they may hold, and what is said of those that cannot be used."""

import pytest

from gated_lpi.errors import OptionError
from gated_lpi.experiments import load_experiment, presets
from gated_lpi.studies import load_study, studies
from gated_lpi.studies.table import ANALYSES, analysis_of
from tiny_studies import save_study


def test_studies_are_no_presets_of_run():
    assert not set(studies()) & set(presets())


@pytest.mark.parametrize("name", studies())
def test_every_study_of_the_package_can_be_read_and_says_what_it_asks(name):
    study = load_study(name)
    assert study.name == name
    assert study.run in studies()
    replicates = {len(arms) for group, arms in study.experiment.groups.items()}
    assert min(replicates) >= 3
    assert all(len(text) > 40 for text in (study.design, study.limits))
    assert all(question.endswith("?") for question in study.question)


@pytest.mark.parametrize("name", sorted(ANALYSES))
def test_every_analysis_has_options_that_are_documented(name):
    row = analysis_of(name)
    assert all(f"{field}:" in row.options.__doc__.replace(",", ":") for field in row.options.model_fields)
    assert callable(row.analyse)


def test_the_code_of_an_analysis_is_its_file_and_what_it_uses(monkeypatch, tmp_path):
    from gated_lpi.studies import _intervals, recall

    before = analysis_of("recall").code
    assert before != analysis_of("sweep").code
    for module in (recall, _intervals):
        changed = tmp_path / module.__name__
        changed.write_text("# another\n")
        with monkeypatch.context() as patch:
            patch.setattr(module, "__file__", str(changed))
            assert analysis_of("recall").code != before
    assert analysis_of("recall").code == before


def test_a_study_is_refused_as_an_experiment(tmp_path):
    with pytest.raises(OptionError, match=r"is a study.*gated-lpi study"):
        load_experiment(save_study(tmp_path))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('title = "Tiny"', "", r"title: Field required"),
        ('title = "Tiny"', 'titel = "Tiny"', r"titel: there is no such key.*mean title\?"),
        ('name = "recall"', 'name = "recal"', r"analyses\.0: analysis 'recal' was asked for; did you mean recall\?"),
        ('name = "recall"', 'name = "recall"\nkk = 3', r"recall: kk: there is no such key.*mean k\?"),
        ('name = "recall"', 'name = "recall"\nlabel = "sweep"', r"two analyses have the label 'sweep'"),
        ('name = "recall"', 'name = "recall"\nlabel = "../up"', r"analyses\.0\.label: .*pattern"),
        ("rises = true", 'claim = "it rises"', r"claim = 'it rises' was given without `rises`"),
        ("seeds = [0, 1]", "seeds = [0, 0]", r"experiment\.seeds: 0 is listed twice"),
        ("seeds = [0, 1]", "sedes = [0, 1]", r"experiment\.sedes: there is no such key.*mean seeds\?"),
        ("[study]", "[study]\nname = 'other'", r"study\.name: there is no such key"),
        ("[study]", "[study]\nruns = 'twins'", r"runs = 'twins' beside ablation, arms, .*leave one"),
    ],
    ids=lambda part: part[-40:],
)
def test_what_a_study_cannot_be_is_refused_by_name(tmp_path, old, new, message):
    file = save_study(tmp_path)
    file.write_text(file.read_text().replace(old, new, 1))
    with pytest.raises(OptionError, match=message):
        load_study(file)


def test_an_experiment_is_refused_as_a_study(tmp_path):
    file = save_study(tmp_path)
    file.write_text(file.read_text().split("[study]")[0])
    with pytest.raises(OptionError, match=r"has no table \[study\].*gated-lpi run FILE"):
        load_study(file)


def test_a_study_that_is_not_there_or_whose_run_is_not(tmp_path):
    with pytest.raises(OptionError, match=r"'nothing' was asked for; give a file .*, or one of .*twins"):
        load_study("nothing")
    save_study(tmp_path)
    again = tmp_path / "again.toml"
    again.write_text(again.read_text().replace('runs = "tiny"', 'runs = "none"'))
    with pytest.raises(OptionError, match=r"study 'none' was asked for"):
        load_study(again)
    again.write_text(again.read_text().replace('runs = "none"', 'runs = "again"'))
    with pytest.raises(OptionError, match=r"which has no run of its own"):
        load_study(again)
