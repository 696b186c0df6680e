"""The report's forms: one page with every section, links that the explorer answers, Markdown and PDF, and names that
attack in each of them.
"""

import json
import re
import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from markdown_it import MarkdownIt
from playwright.sync_api import Browser, expect, sync_playwright
from starlette.testclient import TestClient

from explored_runs import EXPERTS, HEAD_WIDTH, HOSTILE, LAYERS, RELATIONS, TOKENS, WIDTH, explored_run
from gated_lpi._common.entries import printable
from gated_lpi.diagnosis import Diagnosis, Finding
from gated_lpi.errors import OptionError, WriteError
from gated_lpi.explore import Workspace, create_app
from gated_lpi.report import ReportFiles, build_report, load_results
from gated_lpi.report.build import _still_there
from gated_lpi.report.content import Content
from gated_lpi.report.explorer_links import ADDRESS, explorer_at, unit_link
from gated_lpi.report.html import Html, data_table, folded, items, join, section, tag
from gated_lpi.report.markdown import anchor_of, markdown
from gated_lpi.report.sections import _diagnosis
from gated_lpi.report.tables import Column, Table, visible
from gated_lpi.results import Run
from gated_lpi.results.records import AblationRow, RedundancyRow

SYSTEMS = ("chromium", "chromium-browser", "google-chrome")  # else playwright's own, `playwright install chromium`
LINK = "[x](javascript:alert(1))"
MARKS = {"h1", "h2", "h3", "p", "ul", "li", "strong", "em", "a", "img", "code", "sub", "sup", "details", "summary"}
MARKS |= {"table", "thead", "tbody", "tr", "th", "td"}
NAMES = [
    HOSTILE,
    *RELATIONS,
    LINK,
    "![x](http://127.0.0.1/x.png)",
    "a|b|c",
    "| a | b |\n| --- | --- |",
    "`code` ``` ~~~",
    "- item",
    "1. item",
    "# heading",
    "*a* _b_ **c** ~~d~~ $x$ \\",
    "<details open ontoggle=alert(1)>",
    "&lt;script&gt;",
    "http://127.0.0.1/ www.example.org",
]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Three arms with all that a run can keep, by two methods; heads and experts of one were silenced."""
    made = explored_run(tmp_path_factory.mktemp("forms") / "run", arms=("moe", "dense", "dense-b"))
    before = made.record("moe")
    assert before is not None
    heads = AblationRow(
        name="top-10 heads",
        kind="head",
        asked=10,
        count=2,
        available=4,
        chosen=("layer 0 head 1", "layer 1 head 0"),
        hit=0.5,
        random_hits=(1.0, 0.75),
    )
    experts = RedundancyRow(
        method="lpi",
        experts=("layer 1 expert 2", "layer 0 expert 3"),
        hit_free=1.0,
        hit_frozen=0.5,
        logprob_intact=-1.0,
        logprob_free=-1.5,
        logprob_frozen=-2.0,
        random_recovered=(0.0, 0.1),
        jaccard=0.8,
        random_jaccard=(0.9, 1.0),
    )
    ablation = before.ablation.model_copy(update={"rows": (heads,)})
    made.write_record(before.model_copy(update={"ablation": ablation, "redundancy": (experts,)}))
    return made


@pytest.fixture(scope="module")
def browser_that_copies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """In the browser's place: what it is given to print becomes the PDF."""
    program = tmp_path_factory.mktemp("bin") / "copies"
    program.write_text(
        "#!/bin/sh\nfor a; do case $a in --print-to-pdf=*) to=${a#*=};; file://*) from=${a#file://};; esac; done\n"
        'cp "$from" "$to"\n'
    )
    program.chmod(0o755)
    return program


@pytest.fixture(scope="module")
def files(run: Run, browser_that_copies: Path) -> Iterator[ReportFiles]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gated_lpi.report.build.FORMATS", ())  # the figures are drawn, but not as files
        patch.setenv("GATED_LPI_CHROMIUM", str(browser_that_copies))
        yield build_report(run, formats=("html", "md", "pdf"))


@pytest.fixture(scope="module")
def html(files: ReportFiles) -> str:
    return files.html.read_text(encoding="utf-8")


class Elements(HTMLParser):
    """Elements, their attributes and the text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def values(self, tag: str, name: str) -> list[str]:
        return [given[name] or "" for element, given in self.elements if element == tag and name in given]


def rendered(text: str) -> Elements:
    """Markdown as a host shows it, by another's implementation, which comes with rich."""
    return Elements(MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).render(text))


def to_explorer(html: str, page: str) -> list[str]:
    """Addresses that lead to a page of the explorer, without where it is."""
    links = [link.removeprefix(ADDRESS) for link in Elements(html).values("a", "href") if link.startswith(ADDRESS)]
    return [f"/{link}" for link in links if link.startswith(f"{page}?")]


@contextmanager
def explored(run: Run) -> Iterator[TestClient]:
    """The explorer of a run."""
    workspace = Workspace(run, findings=False)
    try:
        yield TestClient(create_app(workspace), base_url=ADDRESS)
    finally:
        workspace.close()


def test_a_page_with_several_arms_and_every_section_is_small(files: ReportFiles, html: str) -> None:
    assert files.html.stat().st_size < 3_000_000
    assert len(html.split('id="figure-data">')[0]) > 1_000_000  # plotly.js is in it
    assert {"trust", "method_agreement", "routes_moe_1"} <= json.loads(files.summary.read_text())["tables"].keys()


def test_the_first_screen_answers_each_question_shows_a_contrast_and_warns(html: str) -> None:
    first = html.split("<header>")[1].split("</header>")[0]
    questions = re.findall(
        r"<li><strong><a href=\"#([a-z-]+)\">([^<]+)</a></strong> <span class=\"verdict [a-z]+\">", first
    )
    assert [anchor for anchor, _ in questions] == [
        "recall",
        "source",
        "source",
        "source",
        "method",
        "neurons-or-routing",
    ]
    assert len(re.findall(r"<p>[^<]+\.</p></li>", first)) == len(questions)
    assert first.count('<figure id="figure-contrast">') == first.count("<figure") == 1
    caveats = first.split('class="caveats"')[1]
    assert "One training run of each model" in caveats
    assert "Some top sets are small, down to" in caveats
    assert "no true effect" not in caveats  # they were measured


def test_figures_have_words_for_those_who_cannot_see_them(html: str) -> None:
    places = [given for tag, given in Elements(html).elements if "plot" in (given.get("class") or "").split()]
    assert len(places) > 10
    assert all(re.search(r"\d", given["aria-label"] or "") and given["tabindex"] == "0" for given in places)


def test_names_of_neurons_lead_to_the_explorer_that_knows_them(run: Run, files: ReportFiles, html: str) -> None:
    links = to_explorer(html, "unit")
    assert len(links) == 3  # of each arm its top FFN neuron
    with explored(run) as client:
        for link in links:
            answer = client.get(link)
            assert answer.status_code == 200
            assert "neuron 1" in answer.text.split("<h1")[1].split("</h1>")[0]
        other = client.get("/units?arm=moe&run=another")
        assert other.status_code == 400
        assert "the address is of the run" in other.text
    assert not re.search(r"\]\(http://127", files.pages["md"].read_text(encoding="utf-8"))


def test_names_of_heads_and_experts_lead_to_their_neurons(run: Run, html: str) -> None:
    links = to_explorer(html, "units")
    asked = [parse_qs(urlsplit(link).query)["q"][0] for link in links]
    silenced = ["L0 H1", "L1 H0", "L1 E2", "L0 E3"]
    assert asked[:4] == silenced
    of_routes = Counter(name[:4] for name in asked[4:])
    assert of_routes == {f"L{layer} E": 2 * len(RELATIONS) for layer in range(LAYERS)}  # of each prompt's last token
    with explored(run) as client:
        for link, name in dict(zip(links, asked, strict=True)).items():
            answer = client.get(link)
            assert answer.status_code == 200
            shown = re.findall(r">(L\d [HE]\d) n\d+<", answer.text)
            assert shown == [name] * (HEAD_WIDTH if "H" in name else WIDTH)


def test_experts_that_are_idle_lead_to_their_neurons(run: Run) -> None:
    idle = tuple(f"layer 1 expert {number}" for number in range(EXPERTS))
    found = Diagnosis((Finding("expert collapse", "moe", ("step-10", "step-20"), 1.0, 0.6, "evidence", idle),), ())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gated_lpi.report.sections.MOST_IDLE", 3)
        content = Content(run, load_results(run), found, {}, {}, datetime.now(UTC), explorer=explorer_at(ADDRESS, "r"))
        said = join(*next(_diagnosis(content)).finding)
    assert " Idle where it is worst: " in said
    assert Elements(said).text.endswith("L1 E0, L1 E1, L1 E2 and 1 more.")
    assert len(to_explorer(said, "units")) == 3
    assert parse_qs(urlsplit(to_explorer(said, "units")[0]).query)["checkpoint"] == ["step-20"]


def test_tokens_of_prompts_are_named(files: ReportFiles, html: str) -> None:
    shown = [visible(token) for token in TOKENS]
    table = json.loads(files.summary.read_text(encoding="utf-8"))["tables"]["routes_moe_1"]
    assert table["columns"][:3] == ["position", "text", "layer 0"]
    assert [row[:2] for row in table["rows"]] == [[place, [token]] for place, token in enumerate(TOKENS)]
    for page in (Elements(html), rendered(files.pages["md"].read_text(encoding="utf-8"))):
        assert all(token in page.text for token in shown)
    figures = json.loads(html.split('id="figure-data">')[1].split("</script>")[0])["figures"]
    names = figures["plot-attention_positions"]["data"][0]["meta"]
    assert names["columns"] == [f"position {place} {token.replace('<', '&lt;')}" for place, token in enumerate(shown)]


def test_addresses_of_explorers_are_looked_at() -> None:
    assert explorer_at("none", "r") is None
    explorer = explorer_at("https://example.org/x", "a b")
    assert explorer is not None
    assert explorer.link(unit_link("moe", "L0 E0 n1", "step-1")) == (
        "https://example.org/x/unit?run=a+b&arm=moe&unit=L0+E0+n1&checkpoint=step-1"
    )
    for odd in ("javascript:alert(1)", "127.0.0.1:8765", "http://", "http://x/ y", "http://x/?a=1", "http://[x"):
        with pytest.raises(OptionError, match=r"expected one such as http://127\.0\.0\.1:8765/"):
            explorer_at(odd, "r")


def test_the_markdown_has_what_the_page_has(files: ReportFiles, html: str) -> None:
    text = files.pages["md"].read_text(encoding="utf-8")
    shown, page = rendered(text), Elements(html.split("<body>")[1].split("<noscript>")[0])
    kinds = {tag for tag, _ in shown.elements}
    assert kinds <= MARKS
    counts = Counter(tag for tag, _ in shown.elements)
    of_page = Counter(tag for tag, _ in page.elements)
    assert counts["table"] == of_page["table"]
    assert counts["td"] == of_page["td"]
    assert counts["img"] == of_page["figure"]
    assert counts["h2"] == of_page["h2"] - 1  # the contents are the host's
    sources = shown.values("img", "src")
    assert sources[0] == "figures/contrast.png"
    assert all(re.fullmatch(r"figures/[a-z_]+\.png", source) for source in sources)
    assert all(alt.strip() for alt in shown.values("img", "alt"))
    addresses = shown.values("a", "href")
    assert {urlsplit(link).scheme for link in addresses if not link.startswith("#")} == {"https"}
    headings = {anchor_of(line.removeprefix("## ")) for line in text.splitlines() if line.startswith("## ")}
    assert {"#what-was-run", "#recall-and-the-logit-lens"} <= {link for link in addresses if link[0] == "#"} <= headings
    assert printable(RELATIONS[0]) in shown.text


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_a_text_wherever_it_stands_in_markdown(name: str) -> None:
    table = Table("t", name, (Column(name), Column("n", "number"), Column("k", "tokens")), ((name, 1.0, (name,)),))
    parts = (tag("h2", name), tag("p", name), items([name]), folded(name, data_table(table)))
    shown = rendered(markdown(join(*parts, tag("p", tag("strong", name), " after")), "figures"))
    counts = Counter(tag for tag, _ in shown.elements)
    allowed = {"h2": 1, "p": 2, "ul": 1, "li": 1, "details": 1, "summary": 1, "table": 1, "thead": 1, "tbody": 1}
    allowed |= {"tr": 2, "th": 3, "td": 3, "code": 1, "strong": 1}
    del counts["p"]  # the caption and the paragraph, and what the host makes of a table's surroundings
    assert all(counts[tag] <= most for tag, most in allowed.items())
    assert set(counts) <= set(allowed)
    words = " ".join(printable(name).split())
    assert " ".join(shown.text.split()).count(words) >= 6


def test_links_within_the_page_lead_to_its_headings_in_markdown() -> None:
    page = join(
        tag("p", tag("a", "which", href="#a"), tag("a", "none", href="#b")), section("a", "Drop & Co.'s, again")
    )
    shown = rendered(markdown(page, "figures"))
    assert shown.values("a", "href") == ["#drop--cos-again"]


def test_only_addresses_of_the_web_become_links_in_markdown() -> None:
    links = [tag("a", "x", href=to) for to in ("#part", "javascript:alert(1)", "https://example.org/a_(b)|c")]
    shown = rendered(markdown(tag("p", *(Html(link) for link in links)), "figures"))
    assert shown.values("a", "href") == ["https://example.org/a_%28b%29%7Cc"]


def test_paper_gets_figures_that_are_drawn_and_no_scripts(files: ReportFiles, html: str) -> None:
    page = Elements(files.pages["pdf"].read_text(encoding="utf-8"))
    assert "script" not in {tag for tag, _ in page.elements}
    pictures = page.values("img", "src")
    assert len(pictures) == len(re.findall("<figure ", html))
    assert all(picture.startswith("data:image/svg+xml;base64,") for picture in pictures)
    assert page.values("link", "href") == []
    assert {urlsplit(link).scheme for link in page.values("a", "href")} == {"", "https"}  # no explorer of this machine


def test_digests_are_of_all_pages(files: ReportFiles) -> None:
    lines = (files.html.parent / "report.sha256").read_text().splitlines()
    assert [line.split("  ")[1] for line in lines] == ["summary.json", "report.html", "report.md", "report.pdf"]
    assert _still_there(files.html.parent, {"report.html", "summary.json"}) == lines[2:]  # pages that are not rewritten


def test_without_a_browser_it_is_said_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GATED_LPI_CHROMIUM", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("gated_lpi.report.pdf.BROWSERS", ("chromium", "google-chrome"))
    run = explored_run(tmp_path / "run", (0,), ("moe",))
    with pytest.raises(OptionError, match=r"none of chromium, google-chrome .*install one \(apt install chromium"):
        build_report(run, formats=("pdf",))
    assert not (tmp_path / "run" / "figures").exists()
    with pytest.raises(OptionError, match="format 'docx' was given; expected html, md, pdf"):
        build_report(run, formats=("docx",))  # type: ignore[arg-type]


def test_a_browser_that_fails_is_quoted(tmp_path: Path) -> None:
    from gated_lpi.report.pdf import printed

    program = tmp_path / "fails"
    program.write_text("#!/bin/sh\necho no display >&2\nexit 3\n")
    program.chmod(0o755)
    with pytest.raises(WriteError, match=r"did not print it \(no display\); try again"):
        printed("<p>x</p>", str(program))


@pytest.mark.slow
def test_a_browser_prints_it(run: Run, tmp_path: Path) -> None:
    found = build_report(run, tmp_path, formats=("pdf",)).pages["pdf"].read_bytes()
    assert found.startswith(b"%PDF-")
    assert len(re.findall(rb"/Type\s*/Page\b", found)) > 3


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as started:
        system = next(filter(None, map(shutil.which, SYSTEMS)), None)
        opened = started.chromium.launch(executable_path=system, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.mark.usefixtures("undrawn")
def test_the_page_of_one_arm_fits_three_widths_and_is_walked_by_keys(browser: Browser, tmp_path: Path) -> None:
    html = build_report(explored_run(tmp_path / "run", (0, 10, 20), ("dense",))).html
    page = browser.new_page(viewport={"width": 1280, "height": 800})
    complaints: list[str] = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(html.as_uri())
    plot = page.locator("#plot-against_chance")
    expect(plot).to_have_class(re.compile("js-plotly-plot"))
    assert page.locator("#figure-against_chance").evaluate("it => it.getBoundingClientRect().bottom") < 800
    for width in (400, 800, 1280):
        page.set_viewport_size({"width": width, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        page.wait_for_function(
            "[...document.querySelectorAll('figure .scroll')].every(frame => frame.scrollWidth <= frame.clientWidth)"
        )
    plot.focus()
    plot.press("ArrowRight")
    expect(page.locator("#spoken")).to_contain_text("dense, step 10: ")
    plot.press("ArrowRight")
    expect(page.locator("#spoken")).to_contain_text("dense, step 20: ")
    assert not complaints
    page.close()


@pytest.mark.slow
def test_the_page_is_read_at_three_widths_by_keys_and_on_paper(browser: Browser, files: ReportFiles) -> None:
    complaints: list[str] = []
    elsewhere: list[str] = []
    page = browser.new_page(viewport={"width": 1280, "height": 800})
    page.on("console", lambda said: complaints.append(said.text) if said.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("dialog", lambda dialog: (complaints.append(dialog.message), dialog.dismiss()))
    page.on("request", lambda asked: elsewhere.append(asked.url))
    page.goto(files.html.as_uri())
    count = page.locator(".plot").count()
    expect(page.locator(".js-plotly-plot")).to_have_count(count)
    assert page.locator(".modebar-btn").count() > 0
    assert page.locator(".modebar-btn[data-title^=Share]").count() == 0  # nothing is sent to anyone
    first = page.locator("#figure-contrast")
    assert first.evaluate("figure => figure.getBoundingClientRect().bottom") < 800  # the first screen
    for width in (1280, 800, 400):
        page.set_viewport_size({"width": width, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        page.wait_for_function(
            "[...document.querySelectorAll('figure .scroll')].every(frame => frame.scrollWidth <= frame.clientWidth)"
        )
    page.set_viewport_size({"width": 1280, "height": 800})
    plot = page.locator("#plot-contrast")
    plot.focus()
    said = page.locator("#spoken")
    plot.press("ArrowRight")
    begun = said.text_content()
    assert begun is not None
    assert begun.startswith(("moe, step ", "dense, step ", "dense-b, step "))
    plot.press("ArrowRight")
    assert said.text_content() != begun
    expect(plot.locator(".hovertext").first).to_be_visible()
    heat = page.locator("#plot-layer_profiles")
    heat.focus()
    heat.press("ArrowDown")
    expect(said).to_contain_text("layer 0, step 0: ")
    page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    assert page.locator("details:not([open])").count() == 0
    assert page.evaluate("document.getElementById('plot-contrast').layout.width") == 690
    page.evaluate("window.dispatchEvent(new Event('afterprint'))")
    assert page.locator("details[open]").count() == 0
    assert not complaints
    assert not [url for url in elsewhere if not url.startswith(("file:", "data:", "blob:"))]
    page.close()
