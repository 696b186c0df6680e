"""What analyses find: plain data that JSON holds, verdicts by intervals, and how pages and the index show them."""

import json

import numpy as np
import pytest
from matplotlib.figure import Figure
from pydantic import ValidationError

from gated_lpi.claims import CLAIMS
from gated_lpi.errors import RunError
from gated_lpi.results.files import write_file
from gated_lpi.studies import density, prior, publish
from gated_lpi.studies._intervals import difference, over_replicates
from gated_lpi.studies.finding import Analysis, KeptAnalysis, StudyResult, Table, Verdict, judged
from gated_lpi.studies.index import index, short_claim, write_index
from gated_lpi.studies.page import effect, markdown_table, page, would_change


def verdict(word, method, value, **more):
    numbers = {"claim": "C", "effect": value, "low": value - 1, "high": value + 1}
    return Verdict(question="Q?", method=method, verdict=word, unit="nats", **numbers | more)


def result(*verdicts, questions=("Q?",), name="s"):
    kept = KeptAnalysis(
        label="a", name="recall", options={}, made_of="x", seconds=3600, found=Analysis(verdicts=list(verdicts))
    )
    texts = {"title": "T", "design": "D", "limits": "L", "run": name}
    return StudyResult(study=name, question=list(questions), arms={"g": ["g-1"]}, analyses=[kept], **texts)


def test_an_analysis_is_json_without_its_figures():
    table = Table(name="t", caption="c", columns=["a", "b"], rows=[["x", np.float32(0.5)], [np.int64(3), float("nan")]])
    found = Analysis(verdicts=[verdict("undecided", "lpi", np.float64(2))], tables=[table], figures={"f": Figure()})
    content = json.loads(found.model_dump_json())
    assert "figures" not in content
    assert content["tables"][0]["rows"] == [["x", 0.5], [3, None]]
    assert Analysis.model_validate(content) == found.model_copy(update={"figures": {}})
    assert json.dumps(content, allow_nan=False)


def test_what_is_no_number_is_none_and_what_is_no_table_is_refused():
    empty = verdict("undecided", "", 1.0, effect=float("nan"), low=float("inf"))
    assert (empty.effect, empty.low) == (None, None)
    with pytest.raises(ValidationError, match="row 1 of table 't' has 1 cells for 2 columns"):
        Table(name="t", caption="c", columns=["a", "b"], rows=[[1, 2], [3]])


@pytest.mark.parametrize(
    ("low", "high", "claimed", "word"),
    [
        (1, 2, "above", "supported"),
        (1, 2, "below", "contradicted"),
        (-2, -1, "below", "supported"),
        (-2, -1, "above", "contradicted"),
        (-1, 1, "above", "undecided"),
        (0, 1, "above", "undecided"),
        (float("nan"), 1, "above", "undecided"),
        (None, None, "below", "undecided"),
    ],
)
def test_a_verdict_is_where_the_interval_lies(low, high, claimed, word):
    assert judged(low, high, claimed=claimed) == word


def test_intervals_over_replicates_are_students_and_welchs():
    found = over_replicates([1.0, 2.0, 3.0, float("nan")])
    half = 4.302652729911275 / 3**0.5  # t of two degrees of freedom, standard deviation 1
    assert found.value == 2.0
    assert (found.low, found.high, found.n) == (pytest.approx(2 - half), pytest.approx(2 + half), 3)
    assert np.isnan(over_replicates([5.0]).low)
    assert over_replicates([]).n == 0
    apart = difference({0: 1.0, 1: 2.0, 2: 3.0}, {3: 11.0, 4: 12.0, 5: 13.0})
    assert apart.value == -10.0
    assert apart.high - apart.value == pytest.approx(2.7764451051977987 * (2 / 3) ** 0.5)


def test_a_page_has_methods_side_by_side():
    text = page(result(verdict("supported", "lpi", 2.0, would_decide="W"), verdict("contradicted", "grad_x_act", -2.0)))
    row = next(line for line in text.splitlines() if line.startswith("| Q? | C |"))
    assert "**supported**: 2 [1, 3] nats | **contradicted**: -2 [-3, -1] nats | W |" in row


def test_what_would_change_our_mind_of_a_decided_claim_is_what_takes_its_interval_back():
    open_ = verdict("undecided", "lpi", 2.0, would_decide="More replicates, until the interval leaves 0 out.")
    assert would_change([open_]) == "More replicates, until the interval leaves 0 out."
    decided = open_.model_copy(update={"verdict": "supported"})
    assert would_change([decided]) == "Other replicates whose interval holds 0, 1 nats away."
    above = decided.model_copy(
        update={"would_decide": "More replicates, until the interval leaves -2.5 out; and more."}
    )
    assert would_change([above]) == "Other replicates whose interval holds -2.5, 3.5 nats away."
    assert would_change([decided.model_copy(update={"would_decide": "a density"})]) == "a density"
    assert would_change([verdict("supported", "lpi", 2.0)]) is None


def test_a_figure_says_what_it_shows_and_a_table_that_replicates_agree():
    table = Table(name="t", caption="Numbers.", columns=["a", "low", "high"], rows=[[1, 0.5, 2], [1, 1, 1]])
    found = {"found": Analysis(tables=[table]), "figures": ["share.sweep.png", "share.other-thing.png"]}
    kept = result().analyses[0].model_copy(update=found)
    text = page(result().model_copy(update={"analyses": [kept]}))
    assert "the measure of every arm against the option that is swept" in text
    assert ": other thing](" in text
    assert "all replicates gave that number" in text
    apart = kept.model_copy(update={"found": Analysis(tables=[table.model_copy(update={"rows": [[1, 0.5, 2]]})])})
    assert "all replicates gave that number" not in page(result().model_copy(update={"analyses": [apart]}))


def test_variations_have_a_table_of_their_own_and_no_row_of_the_index():
    varied = verdict("undecided", "lpi", 2.0, claim="C (attention)", variation="attention", because="of single runs")
    both = result(verdict("supported", "lpi", 2.0), varied)
    text = page(both)
    assert (
        text.index("| Q? | C |") < text.index("The same claims of other units") < text.index("| Q? | C (attention) |")
    )
    assert "| undecided (of single runs): 2 [1, 3] nats |" in text
    assert "attention" not in index([both])
    assert "1 of 1 verdicts of single methods are decided" in index([both])
    assert "The same claims" not in page(result(verdict("supported", "lpi", 2.0)))


def test_a_long_table_is_cut_on_the_page_and_says_so():
    table = Table(name="t", caption="Numbers.", columns=["a"], rows=[[f"row {i}"] for i in range(103)])
    kept = result().analyses[0].model_copy(update={"found": Analysis(tables=[table])})
    text = page(result().model_copy(update={"analyses": [kept]}))
    assert "| row 99 |" in text
    assert "| row 100 |" not in text
    assert "3 more rows are in the findings as JSON." in text


def test_a_verdict_without_an_effect_is_its_word_alone():
    alone = verdict("contradicted", "", 0.0, effect=None, low=None, high=None)
    assert "| **contradicted** |" in page(result(alone))
    assert "| C | contradicted | - | - | - | - |" in index([result(alone)])


def test_cells_cannot_break_a_table():
    assert markdown_table(["a"], [["x|y\nz"], [None]]).splitlines() == ["| a |", "| --- |", "| x\\|y z |", "| - |"]
    assert effect(verdict("undecided", "", 0.00012, low=None)) == "0.00012 nats"


def test_what_rounding_leaves_of_nothing_is_nothing():
    assert markdown_table(["a"], [[-3.7e-15], [2e-9], [1e15]]).splitlines()[2:] == ["| 0 |", "| 2e-09 |", "| 1e+15 |"]


def test_the_index_says_where_methods_differ_and_what_is_open():
    one = result(verdict("supported", "lpi", 2.0), verdict("contradicted", "grad_x_act", -2.0), questions=("Q?", "R?"))
    two = result(verdict("supported", "", 2.0), verdict("supported", "rollout", 3.0), name="t")
    text = index([one, two])
    assert "4 of 4 verdicts of single methods are decided; chance alone would decide about 0, " in text
    assert [line.split("](")[1] for line in text.splitlines() if line.startswith("- [")] == [
        "s.findings/page.md)",
        "t.findings/page.md)",
    ]
    assert sum(line.startswith("| ---") for line in text.splitlines()) == 1  # one table
    rows = [line for line in text.splitlines() if line.startswith("| ")][2:]
    assert rows == [
        "| **Q?** ([s](s.findings/page.md), [t](t.findings/page.md)) |  |  |  |  |  |",
        "| C (s) | depends on the method | 2 [1, 3] nats | supported | contradicted: -2 [-3, -1] nats | - |",
        "| C (t) | supported; 1 more method: supported | 2 [1, 3] nats | - | - | - |",
        "| **R?** ([s](s.findings/page.md)) | no claim judged | - | - | - | - |",
    ]


def test_a_question_whose_claims_carry_another_is_not_called_unjudged():
    assert "no claim judged" not in index([result(verdict("supported", "lpi", 2.0), questions=("Other?",))])
    assert "| **Other?** ([s](s.findings/page.md)) | no claim judged |" in index([result(questions=("Other?",))])


def test_a_verdict_that_another_study_of_the_run_has_alike_is_there_once():
    shared = verdict("supported", "lpi", 2.0)
    foil = verdict("undecided", "lpi_contrast", 0.0)
    one = result(shared, name="twins")
    two = result(shared, foil, name="prior").model_copy(update={"run": "twins"})
    text = index([two, one])
    assert "| C | supported | 2 [1, 3] nats | supported | - | - |" in text
    assert "| C, scored against a foil | undecided | 0 [-1, 1] nats | undecided | - | - |" in text
    assert "1 of 2 verdicts" in text
    both = index([result(shared, name="a"), result(shared, name="b")])  # other runs
    assert "| C (a) | supported |" in both
    assert "| C (b) | supported |" in both
    other = result(verdict("supported", "lpi", 2.5), name="prior").model_copy(update={"run": "twins"})
    assert index([other, one]).count(" | supported | 2") == 2  # other numbers


def test_what_claims_share_is_said_once_above_them():
    claims = ("moe: top units matter", "dense: top units matter", "as before: A (x)", "as before: B (y)", "alone: C")
    text = index([result(*(verdict("undecided", "lpi", 2.0, claim=claim) for claim in claims))])
    first = [line.split(" | ")[0].removeprefix("| ") for line in text.splitlines() if line.startswith("| ")][3:]
    assert first == ["*top units matter:*", "moe", "dense", "*as before:*", "A (x)", "B (y)", "alone: C"]


def test_claims_are_short_in_the_index():
    full = CLAIMS[0].claim.rstrip(".")
    assert short_claim(f"{full} (against dense)") == "Importance is more concentrated in the MoE (against dense)"
    assert short_claim(f"As before: {CLAIMS[1].claim.rstrip('.')} (a against b)") == (
        "As before: The MoE settles earlier (a against b)"
    )
    text = index([result(verdict("undecided", "lpi", 2.0, claim=full, would_decide="more; much beside"))])
    assert "| Importance is more concentrated in the MoE | undecided |" in text
    assert text.rstrip().endswith("| more |")


def test_what_was_published_before_stays(tmp_path):
    def study(name):
        file = tmp_path / "out" / f"{name}.findings" / "findings.json"
        file.parent.mkdir(parents=True)
        write_file(file, result(verdict("supported", "lpi", 2.0), name=name).model_dump(mode="json"))
        return file.parent

    docs = tmp_path / "docs"
    with pytest.raises(RunError, match=r"no study has findings in .*carry one out first"):
        publish(None, docs)
    first = study("first")
    assert publish(tmp_path / "out", docs)[1:] == (("first",), ())
    (first / "findings.json").unlink()
    study("second")
    (docs / "first.md").write_text("old")
    (docs / "notes.json").write_text("{}")  # of no study
    found = publish(tmp_path / "out", docs)
    assert found[1:] == (("second",), ("first",))
    assert "([first](first.md), [second](second.md))" in found.page.read_text()
    assert (docs / "first.md").read_text().startswith("# T")
    before = {file.name: file.read_bytes() for file in docs.iterdir()}
    assert publish(None, docs)[1:] == ((), ("first", "second"))
    assert {file.name: file.read_bytes() for file in docs.iterdir()} == before


@pytest.mark.parametrize(
    ("answers", "facts", "said"),
    [
        (("undecided", "undecided"), "all", "either way"),
        (("mixed", "mixed"), "known", "mixed either way"),
        (("undecided", "supported"), "all", "undecided plainly, supported with the foil"),
        (("mixed", "supported"), "known", "mixed plainly, supported over known facts"),
    ],
)
def test_reasons_are_as_short_as_cells(answers, facts, said):
    assert prior.briefly(answers, prior.Variant("lpi", "lpi", facts, "")) == said


def test_reasons_of_densities_are_as_short_as_cells():
    assert density.briefly("undecided", 0, 5) == "at every density"
    assert density.briefly("mixed", 2, 5) == "mixed on all checkpoints, otherwise at 2 of 4 densities"


def test_an_index_of_nothing_and_of_damage(tmp_path):
    assert "No study is complete yet" in write_index(tmp_path).read_text()
    file = tmp_path / "s.findings" / "findings.json"
    file.parent.mkdir()
    write_file(file, result(verdict("supported", "lpi", 2.0)).model_dump(mode="json"))
    assert "[s]" in write_index(tmp_path).read_text()
    file.write_text(file.read_text().replace('"D"', '"E"'))
    with pytest.raises(RunError, match=r"cannot be read as a study's findings .*run the study again"):
        write_index(tmp_path)
