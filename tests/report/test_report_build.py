"""The report as files: one page that needs nothing else, with every section, and figures that open."""

import itertools
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import xarray as xr
from matplotlib.image import imread

from gated_lpi.errors import RunError
from gated_lpi.report import ReportFiles, build_report, load_results
from gated_lpi.report.explorer_links import ADDRESS
from gated_lpi.report.tables import show
from synthetic_run import DENSE, MOE, NASTY_TOKENS, ArmPlan, SyntheticRun

SECTIONS = [
    "found",
    "run",
    "source",
    "diagnosis",
    "stability",
    "profiles",
    "concentration",
    "steadiness",
    "entropy",
    "method",
    "ablations",
    "neurons-or-routing",
    "routing",
    "recall",
    "units",
    "definitions",
    "provenance",
]
CHARTS = {
    "contrast",
    "trajectories",
    "stability",
    "layer_profiles",
    "profile_correlation",
    "concentration",
    "entropy",
    "ablation",
    "expert_utilisation",
    "routing",
    "routing_null",
    "hits",
    "base_logprob",
}
VOID = {"br", "hr", "meta"}


class Page(HTMLParser):
    """What the tests look at: elements, ids, links, tables' cells, and whether every tag is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.loads: list[str] = []
        self.headings: list[str] = []
        self.rows: list[list[str]] = []
        self.words: list[str] = []
        self.lang: str | None = None
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.open += [] if tag in VOID else [tag]
        self.ids += [given["id"]] if given.get("id") else []
        self.links += [given["href"]] if tag == "a" and given.get("href") else []
        self.loads += [value for name in ("src", "srcset", "data", "poster") if (value := given.get(name))]
        self.loads += [tag] if tag in ("link", "iframe", "object", "img") else []
        self.headings += [tag] if re.fullmatch(r"h\d", tag) else []
        self.lang = given.get("lang") if tag == "html" else self.lang
        self.rows += [[]] if tag == "tr" else []
        if tag == "td":
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not {"script", "style"} & set(self.open):
            self.words.append(data)
        if "td" in self.open:
            self.rows[-1][-1] += data

    @property
    def text(self) -> str:
        return "".join(self.words)


def read(files: ReportFiles) -> tuple[str, Page]:
    text = files.html.read_text(encoding="utf-8")
    return text, Page(text)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> SyntheticRun:
    return SyntheticRun(tmp_path_factory.mktemp("run"), {"moe": MOE, "dense": DENSE}, name="<i>a & b</i>")


@pytest.fixture(scope="module")
def files(run: SyntheticRun) -> ReportFiles:
    return build_report(run)


@pytest.fixture(scope="module")
def page(files: ReportFiles) -> Page:
    return read(files)[1]


def test_every_section_is_there_in_order_and_linked(page: Page) -> None:
    assert [i for i in page.ids if i in SECTIONS] == SECTIONS
    assert {f"#{anchor}" for anchor in SECTIONS[1:]} <= set(page.links)
    assert len(page.ids) == len(set(page.ids))
    assert page.lang == "en"


def test_headings_go_down_one_level_at_a_time(page: Page) -> None:
    levels = [int(tag[1]) for tag in page.headings]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(later - earlier <= 1 for earlier, later in itertools.pairwise(levels))


def test_nothing_is_loaded_from_elsewhere(page: Page) -> None:
    assert page.loads == []
    elsewhere = {link for link in page.links if not link.startswith(("#", ADDRESS))}
    assert elsewhere == {"https://arxiv.org/abs/2601.08383"}
    assert all(link[1:] in page.ids for link in page.links if link.startswith("#"))


def test_page_has_no_style_that_loads(files: ReportFiles) -> None:
    style = files.html.read_text(encoding="utf-8").split("<style>")[1].split("</style>")[0]
    assert "url(" not in style
    assert "@import" not in style


def test_page_is_small_enough(files: ReportFiles) -> None:
    assert files.html.stat().st_size < 3_000_000


def test_figures_are_files_that_open(files: ReportFiles, run: SyntheticRun) -> None:
    assert {path.stem for path in files.figures} == CHARTS
    assert len(files.figures) == 2 * len(CHARTS)
    for path in files.figures:
        assert path.parent == run.path / "figures"
        if path.suffix == ".svg":
            assert ElementTree.parse(path).getroot().tag.endswith("svg")
        else:
            pixels = imread(path)
            assert pixels.shape[0] > 200
            assert float(np.std(pixels[..., :3])) > 0.01


def test_every_place_for_a_figure_gets_one(files: ReportFiles, page: Page) -> None:
    text = files.html.read_text(encoding="utf-8")
    data = json.loads(text.split('id="figure-data">')[1].split("</script>")[0])
    places = {i for i in page.ids if i.startswith("plot-")}
    assert places == set(data["figures"]) == {f"plot-{name}" for name in CHARTS}
    assert all(figure["data"] for figure in data["figures"].values())
    assert data["templates"]["light"] != data["templates"]["dark"]


def test_text_is_escaped_and_tokens_are_made_visible(files: ReportFiles, page: Page) -> None:
    text = files.html.read_text(encoding="utf-8")
    body = text.split("<body>")[1].split("<script>")[0]
    assert "<i>" not in body
    assert "<b>" not in body
    assert "\x07" not in text
    assert "<i>a & b</i>" in page.text
    assert "<b>&\"'" in page.text
    assert "␣Paris" in page.text
    assert "\\n" in page.text
    assert "\\u200b" in page.text
    assert NASTY_TOKENS[-1] in page.text


def test_numbers_in_tables_are_the_summary_s(run: SyntheticRun, page: Page) -> None:
    results = load_results(run)
    for arm in results.arms:
        for kind, words in (("ffn", "FFN neurons"), ("attention", "attention neurons")):
            here = arm.summary.sel(kind=kind)
            row = next(row for row in page.rows if row[:2] == [arm.name, words] and len(row) == 9 and "%" in row[2])
            assert row[2] == show(float(here["gain_top_set"].mean()), "share")
            assert row[3].startswith(show(float(here["gain_top_set"][-1]), "share"))
            assert row[7].startswith(show(float(here["importance_share"][-1]), "share"))
            window = next(row for row in page.rows if row[:3] == [arm.name, words, "all"])
            assert window[4] == show(float(here["rho_avg"].sel(window="all")), "number")
            assert window[8] == show(float(here["sigma_rel_median"].sel(window="all")), "number")


def test_summary_file_holds_the_summaries_and_the_tables(files: ReportFiles, run: SyntheticRun) -> None:
    content = json.loads(files.summary.read_text(encoding="utf-8"))
    assert list(content["arms"]) == ["moe", "dense"]
    stability = content["arms"]["moe"]["data_vars"]["stability"]["data"]
    assert np.array(stability) == pytest.approx(load_results(run).arms[0].summary["stability"].to_numpy())
    ablations = content["tables"]["ablations"]
    assert ablations["columns"][0] == "arm"
    assert [row[0] for row in ablations["rows"]] == ["moe"] * 3 + ["dense"] * 3
    drop = ablations["rows"][1][ablations["columns"].index("drop")]
    assert drop[0] == pytest.approx(20.5, abs=1)
    assert drop[1] < drop[0] < drop[2]


def test_scaled_down_ablations_say_so(page: Page) -> None:
    assert any("6 of 12 available (scaled down from 10)" in row for row in page.rows)


def test_provenance_is_complete(page: Page) -> None:
    keys = {row[0] for row in page.rows if len(row) == 2}
    assert {"experiment.metrics.fraction", "experiment.name", "run.facts_sha256", "summary.level", "moe.norm"} <= keys
    assert any(row and row[0] == "step-200" and row[1] == "200" for row in page.rows)


def test_no_drafts_are_left(files: ReportFiles, run: SyntheticRun) -> None:
    assert not list(run.path.rglob("*.draft"))
    assert files.html == run.path / "report.html"


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> ReportFiles:
    """One dense arm with one checkpoint, no tokens and no record; a second arm without results."""
    folder = tmp_path_factory.mktemp("bare")
    plan = ArmPlan(steps=(100,), tokens=False, record=False)
    return build_report(SyntheticRun(folder / "run", {"only": plan, "late": None}), folder / "elsewhere")


def test_what_is_not_there_is_said(bare: ReportFiles) -> None:
    page = read(bare)[1]
    assert [i for i in page.ids if i in SECTIONS] == [anchor for anchor in SECTIONS if anchor != "source"]
    assert {link[1:] for link in page.links} == set(SECTIONS) - {"found", "source"}
    assert "no pairs" in page.text
    assert "so there is no figure to show." in page.text
    assert "only: ablations not run." in page.text
    assert "three claims" not in page.text
    assert "no mixture-of-experts arm: there is nothing to compare" in page.text
    assert "Dense arms have no routing: only." in page.text
    assert "Arm late is left out: late holds no complete checkpoint yet" in page.text


@pytest.mark.usefixtures("undrawn")
def test_the_publication_is_left_out_whole_where_there_is_nothing_to_compare(tmp_path: Path) -> None:
    files = build_report(SyntheticRun(tmp_path, {"moe": MOE}))
    page = read(files)[1]
    assert [i for i in page.ids if i in SECTIONS] == [anchor for anchor in SECTIONS if anchor != "source"]
    assert "no dense arm: there is nothing to compare" in page.text
    assert not [link for link in page.links if not link.startswith(("#", ADDRESS))]
    assert {"beside_paper", "claims"}.isdisjoint(json.loads(files.summary.read_text(encoding="utf-8"))["tables"])
    assert "FFN neurons: J_stab stays at or above 0.5 " in page.text  # said of every run
    assert "plot-against_chance" in page.ids
    assert "plot-contrast" not in page.ids
    assert not re.search(r"(Supported|Contradicted|Mixed|Undecided)", page.text)


def test_the_publication_s_claims_and_figures_are_one_section(files: ReportFiles, page: Page) -> None:
    text = files.html.read_text(encoding="utf-8")
    part = text.split('<section id="source"')[1].split("</section>")[0]
    assert part.count("<article") == text.count("<article") == 3
    assert "OLMoE-1B-7B" in part
    assert "9.44%" in part
    assert page.text.count("9.44%") == 1
    assert {"beside_paper", "claims"} <= json.loads(files.summary.read_text(encoding="utf-8"))["tables"].keys()
    assert part.index('id="plot-trajectories"') < part.index("<article")
    assert part.count("What would change this: ") == 3


def test_figures_without_content_are_not_written(bare: ReportFiles) -> None:
    drawn = {path.stem for path in bare.figures}
    assert {"stability", "routing", "expert_utilisation", "ablation"}.isdisjoint(drawn)
    assert {"layer_profiles", "hits", "base_logprob"} <= drawn


def test_report_goes_where_it_is_asked_to(bare: ReportFiles) -> None:
    assert {path.relative_to(bare.html.parents[1]).parts[0] for path in (bare.html, bare.summary, *bare.figures)} == {
        "elsewhere"
    }


class Remarkable(SyntheticRun):
    """Remarks in the records of an arm with results, and two arms without any whose checkpoints are quarantined."""

    def scores(self, arm: str) -> xr.Dataset:
        found = super().scores(arm)
        records = found.attrs["checkpoints"]
        for record in records:
            record |= {"n_skipped": 12, "skipped": ["<i>no token</i>"], "collisions": ["two are alike"], "notes": []}
        records[0]["notes"] = ["only the first"]
        for record in records[2:]:
            record["notes"] = ["the later ones"]
        return found

    def quarantined(self, arm: str) -> list[dict[str, Any]]:
        if arm == "damaged":
            raise RunError("a list that cannot be read")
        return [{"key": "step-7", "step": 7, "error": "ModelError", "quarantined": f"what befell {arm}"}]


@pytest.mark.usefixtures("undrawn")
def test_remarks_and_quarantines_of_all_arms_are_shown(tmp_path: Path) -> None:
    run = Remarkable(tmp_path, {"moe": MOE, "none": None, "damaged": None})
    files = build_report(run)
    page = read(files)[1]
    said = {row[2]: row[:2] for row in page.rows if len(row) == 3}
    assert said == {
        "only the first": ["moe", "step-0"],
        "the later ones": ["moe", "7 of 9, from step-2 to step-200"],
        "12 facts are skipped, the first: <i>no token</i>": ["moe", "all"],
        "two are alike": ["moe", "all"],
    }
    assert "moe: 80 prompts of 8 relations, 12 facts skipped, " in page.text
    assert "Remarks on the checkpoints: 4" in page.text
    assert ["none", "step-7", "7", "ModelError", "what befell none"] in page.rows
    assert load_results(run).quarantined == {"none": run.quarantined("none")}
    tables = json.loads(files.summary.read_text(encoding="utf-8"))["tables"]
    assert len(tables["remarks"]["rows"]) == 4
    assert [row[0] for row in tables["quarantined"]["rows"]] == ["none"]


def test_without_remarks_there_is_no_table_of_them(files: ReportFiles) -> None:
    tables = json.loads(files.summary.read_text(encoding="utf-8"))["tables"]
    assert {"remarks", "quarantined"}.isdisjoint(tables)


def test_a_run_without_results_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no results to report yet"):
        build_report(SyntheticRun(tmp_path, {"moe": None}))
    assert not list(tmp_path.iterdir())
