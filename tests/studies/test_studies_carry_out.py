"""A study from its file to its page: done once, shared with what analyses the same run, made again where it differs."""

import json
import re
import shutil

import pytest

from gated_lpi.errors import FactsError, RunError
from gated_lpi.results import open_run
from gated_lpi.studies import carry_out, load_study, publish, run_study
from gated_lpi.studies.finding import StudyResult
from gated_lpi.studies.index import results_in
from gated_lpi.studies.study import AnalysisSpec
from tiny_runs import Notes
from tiny_studies import save_study


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    study = load_study(save_study(folder))
    notes = Notes()
    result = run_study(study, folder / "out", notes)
    shared = [note for note in notes.said if "share their first token" in note]
    assert len(shared) == len({note.split(": ", 2)[2] for note in shared})  # said of one arm for all
    return folder, study, result


def test_what_is_the_same_of_several_arms_is_said_once_and_counted():
    notes = Notes()
    once = carry_out._Once(notes, {"a", "b"})
    for text in ("a: step-0: 3 facts skipped", "b: step-2: 3 facts skipped", "facts: 3 facts skipped", "b: other"):
        once.note(text)
    once.close()
    assert notes.said == [
        "a: step-0: 3 facts skipped",
        "facts: 3 facts skipped",
        "b: other",
        "1 lines were the same of other arms, and not shown",
    ]


def files(folder):
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}


@pytest.mark.slow
def test_a_study_trains_analyses_and_writes_its_page(done):
    folder, study, result = done
    findings = folder / "out" / "tiny.findings"
    run = open_run(folder / "out" / "tiny")
    assert run.experiment.differences(study.experiment) == []
    assert (run.path / "report.html").is_file()
    summaries = {path.name for path in (run.path / "results").glob("*.summary.json")}
    assert summaries == {f"{arm}{end}.summary.json" for arm in run.arms for end in ("", ".grad_x_act")}
    assert StudyResult.model_validate_json(result.model_dump_json()) == result
    assert [kept.label for kept in result.analyses] == ["recall", "sweep", "ablation_curves"]
    groups = ["moe-load_balancing-0.0", "moe-load_balancing-0.1"]
    assert list(result.arms) == groups
    assert result.seconds["training"] > 0
    assert result.seconds["attribution"] > 0
    assert result.seconds["analyses"] > 0
    asked = [(verdict.claim.split(":")[0], verdict.method) for verdict in result.verdicts]
    methods = ("lpi", "grad_x_act")
    assert asked == [
        ("Every arm has HIT@10 of 90% before 50% of its steps", ""),
        *(("importance_share rises with load_balancing", method) for method in methods),
        *((group, method) for group in groups for method in methods),
    ]
    page = (findings / "page.md").read_text()
    for text in (
        "# Tiny",
        "**Is it tiny?**",
        "Two cells of two seeds.",
        "Anything at all.",
        "gated-lpi study tiny.toml --out studies",
    ):
        assert text in page
    assert page.count("importance_share rises with load_balancing |") == 1  # by both methods in one row
    for name in (figure for kept in result.analyses for figure in kept.figures):
        assert f"({name})" in page
        assert (findings / name).read_bytes().startswith(b"\x89PNG")
    for name in re.findall(r"\]\(([^)]+)\)", page):
        assert (findings / name).is_file()
    index = (folder / "out" / "index.md").read_text()
    assert "[tiny](tiny.findings/page.md)" in index
    assert "no claim judged" not in index  # the analyses' claims carry questions of their own


@pytest.mark.slow
def test_pages_are_published_with_their_figures_and_an_index(done, tmp_path):
    folder, _, result = done
    index, written, kept = publish(folder / "out", tmp_path / "docs")
    assert index == tmp_path / "docs" / "index.md"
    assert (written, kept) == (("tiny",), ())
    names = set(re.findall(r"\]\(([^)]+)\)", index.read_text() + (tmp_path / "docs" / "tiny.md").read_text()))
    assert {"tiny.md", "index.png", "index.md", "tiny.json"} < names  # the page leads back, and to the numbers
    assert all((tmp_path / "docs" / name).is_file() for name in names)
    assert len(names) >= 2 + sum(len(kept.figures) for kept in result.analyses)
    assert (tmp_path / "docs" / "tiny.json").is_file()


@pytest.mark.slow
def test_the_sweep_has_the_values_that_summaries_have(done):
    folder, _, result = done
    run = open_run(folder / "out" / "tiny")
    rows = {(row[0], row[1]): row for row in result.analyses[1].found.tables[0].rows}
    for group, arms in run.experiment.groups.items():
        last = [float(run.summary(arm, "lpi")["importance_share"].sel(kind="ffn")[-1]) for arm in arms]
        assert rows["Gated-LPI", group][3] == pytest.approx(sum(last) / 2)
        assert rows["Gated-LPI", group][2] == group.rsplit("-", 1)[1]


@pytest.mark.slow
def test_the_curve_of_all_units_but_the_random_ones_is_that_of_ablate(done):
    from gated_lpi.ablation import ablate
    from gated_lpi.loading import load_model

    folder, study, result = done
    run = open_run(folder / "out" / "tiny")
    drops = [[], []]
    for arm in run.experiment.groups["moe-load_balancing-0.0"]:
        model = load_model(str(run.training_folder(arm) / "step-6"))
        scores = run.scores(arm)["lpi_mean"].isel(checkpoint=-1)
        found = ablate(
            model, study.experiment.facts.load(), scores=scores, share=(0.1, 0.5), templates="first", controls=()
        )
        for row, drop in enumerate(drops):
            drop.append(100 * float(found["hit_1_intact"] - found["hit_1"][row]))
    table = result.analyses[2].found.tables[0]
    rows = [row for row in table.rows if row[0] == "moe-load_balancing-0.0" and row[2] == "Gated-LPI"]
    assert [row[3] for row in rows] == ["10%", "50%"]
    assert [row[4] for row in rows] == pytest.approx([sum(drop) / 2 for drop in drops])


@pytest.mark.slow
def test_what_was_done_is_not_done_again(done):
    folder, study, result = done
    before = files(folder / "out" / "tiny.findings")
    notes = Notes()
    again = run_study(study, folder / "out", notes)
    assert notes.said == []
    assert again.analyses == result.analyses
    after = files(folder / "out" / "tiny.findings")
    kept = [name for name in before if name.startswith(("recall", "sweep", "ablation"))]
    assert len(kept) == 6
    assert {name: before[name] for name in kept} == {name: after[name] for name in kept}


@pytest.mark.slow
def test_an_analysis_with_other_options_or_a_damaged_file_is_made_again(done, tmp_path):
    folder, study, result = done
    shutil.copytree(folder / "out", tmp_path / "out")
    findings = tmp_path / "out" / "tiny.findings"
    recall = findings / "recall.json"
    recall.write_text(recall.read_text().replace("every", "never", 1).replace("Every", "Never", 1))
    recall, sweep, curves = study.analyses
    options = sweep.options.model_copy(update={"at": "mean"})
    changed = study.model_copy(update={"analyses": (recall, sweep.model_copy(update={"options": options}), curves)})
    notes = Notes()
    before = files(findings)
    again = run_study(changed, tmp_path / "out", notes)
    assert [note.split(":")[0] for note in notes.said] == ["recall"]
    assert again.analyses[0].found == result.analyses[0].found
    assert again.analyses[1].made_of != result.analyses[1].made_of
    assert again.analyses[2] == result.analyses[2]
    assert files(findings)["ablation_curves.json"] == before["ablation_curves.json"]


@pytest.mark.slow
def test_a_study_of_the_same_run_trains_nothing(done):
    folder, _, _ = done
    other = load_study(folder / "again.toml")
    trained = files(folder / "out" / "tiny" / "training")
    result = run_study(other, folder / "out")
    assert files(folder / "out" / "tiny" / "training") == trained
    assert not (folder / "out" / "again").exists()
    assert result.run == "tiny"
    assert result.verdicts == []
    assert {found.study for found in results_in(folder / "out")} == {"tiny", "again"}
    kept = json.loads((folder / "out" / "again.findings" / "findings.json").read_text())
    assert kept["analyses"][0]["options"]["at"] == "area"


@pytest.mark.slow
def test_an_analysis_is_made_of_the_training_and_of_files_that_its_options_name(done, tmp_path):
    folder, study, _ = done
    shutil.copytree(folder / "out" / "tiny", tmp_path / "tiny")
    run = open_run(tmp_path / "tiny")
    text = tmp_path / "held-out.txt"
    text.write_text("One line.\n")
    recall = study.analyses[0]
    reads = AnalysisSpec.model_validate({"name": "text", "text": str(text)})
    before = {one.name: carry_out.made_of(run, one) for one in (recall, reads)}
    text.write_text("Another line.\n")
    assert carry_out.made_of(run, recall) == before["recall"]
    assert carry_out.made_of(run, reads) != before["text"]
    text.write_text("One line.\n")
    assert carry_out.made_of(run, reads) == before["text"]
    (run.training_folder(run.arms[0]) / "stabilise.json").write_text("{}")
    assert carry_out.made_of(run, recall) != before["recall"]


@pytest.mark.slow
def test_a_folder_in_place_of_a_text_is_refused(done, tmp_path):
    folder, _, _ = done
    reads = AnalysisSpec.model_validate({"name": "text", "text": str(tmp_path)})
    with pytest.raises(RunError, match=r"cannot be read: .*expected a file"):
        carry_out.made_of(open_run(folder / "out" / "tiny"), reads)


@pytest.mark.parametrize("there", ["none", "part.txt"])
def test_a_study_of_a_text_that_is_not_there_is_refused_before_it_trains(tmp_path, monkeypatch, there):
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".cache" / "text").mkdir(parents=True)
    (tmp_path / ".cache" / "text" / there).write_text("a line\n")
    missing = "part.held-out.txt" if there == "part.txt" else "part.txt"
    with pytest.raises(FactsError, match=rf"^\.cache/text/{missing} is not there, .*'text' reads; .*`make text`"):
        run_study(load_study("text"), tmp_path / "out")
    assert not (tmp_path / "out").exists()
