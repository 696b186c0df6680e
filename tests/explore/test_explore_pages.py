"""Every page of the explorer: its numbers are the run's, its state is in the address, names are text."""

import io
import json
import re
import signal
import socket
import subprocess
import sys
from html import unescape
from html.parser import HTMLParser
from urllib.parse import parse_qsl, urlsplit
from urllib.request import urlopen

import numpy as np
import pandas as pd
import pytest
from starlette.testclient import TestClient

from explored_runs import HOSTILE, RELATIONS, STEPS, add, explored_run
from gated_lpi.errors import OptionError
from gated_lpi.explore import Workspace, create_app, serve
from gated_lpi.explore.app import VIEWS
from gated_lpi.explore.view import Params
from gated_lpi.metrics import jaccard, top_set
from gated_lpi.report.chart import COLOURS
from gated_lpi.report.tables import show

ADDRESSES = (
    "/",
    "/?kind=attention&method=grad_x_act&clock=step",
    "/checkpoint?arm=moe&checkpoint=step-10",
    "/units?arm=dense&sort=gain&order=ascending",
    "/unit?arm=moe&unit=L0+E0+n1",
    "/unit?arm=dense&unit=L1+H1+n2&checkpoint=step-10&method=grad_x_act",
    "/facts?state=known",
    "/fact?arm=moe&prompt=3&checkpoint=step-20",
    "/fact?arm=dense&prompt=0&block=1",
    "/fact?arm=moe&prompt=5&block=2&part=L1+H0&method=grad_x_act",
    "/compare",
    "/compare?arm=moe&arm2=dense",
    "/compare?arm=moe&a=step-40&method2=grad_x_act&kind=attention",
    "/routing?layer=1&checkpoint=step-0",
)


class Page(HTMLParser):
    """What a page holds: elements, links and texts."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.links, self.words, self.ids = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.elements.append((tag, attributes))
        self.links += [value for key, value in attrs if key in ("href", "src", "action")]
        if "id" in attributes:
            self.ids.append(attributes["id"])

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


def rows_of(text, table):
    """The rows of a table of a page, as dicts of texts."""
    body = text[text.index(f'id="table-{table}"') :].split("</table>")[0]
    cells = [re.findall(r"<t[hd][^>]*>\s*(.*?)\s*</t[hd]>", row, re.S) for row in body.split("<tr")[1:]]
    plain = [[re.sub(r"<[^>]+>", "", cell).strip(" ▼▲\n") for cell in row] for row in cells]
    return [dict(zip(plain[0], row, strict=True)) for row in plain[1:]]


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    made = Workspace(explored_run(tmp_path_factory.mktemp("explored") / "run"))
    made.settle()
    assert made.notes == {}
    yield made
    made.close()


@pytest.fixture(scope="module")
def client(workspace):
    return TestClient(create_app(workspace), base_url="http://127.0.0.1")


@pytest.mark.parametrize("address", ADDRESSES)
def test_pages_are_whole_and_their_links_stay_here_and_lead_somewhere(client, address):
    answer = client.get(address)
    assert answer.status_code == 200, Page(answer.text).text
    page = Page(answer.text)
    assert "script-src 'self'" in answer.headers["content-security-policy"]
    assert len(page.ids) == len(set(page.ids))
    outside = [link for link in page.links if not link.startswith(("/", "#", "data:,"))]
    assert not outside
    assert HOSTILE in page.text
    scripts = [attributes for tag, attributes in page.elements if tag == "script"]
    assert all(one.get("src", "").startswith("/static/") or one["type"] == "application/json" for one in scripts)
    assert not [key for _, attributes in page.elements for key in attributes if key.startswith("on")]
    assert "\u202e" not in answer.text
    labelled = {"input", "select"} & {tag for tag, _ in page.elements}
    assert not labelled or "label" in {tag for tag, _ in page.elements}
    for link in dict.fromkeys(link for link in page.links if link.startswith("/") and "/export/" not in link):
        if urlsplit(link).path != urlsplit(address).path:
            assert client.get(link).status_code == 200, link


def exports_of(client, address):
    page = Page(client.get(address).text)
    return [link for link in page.links if link.startswith("/export/")]


@pytest.fixture(scope="module")
def drawn():
    """Which charts of which page were drawn: they take long, and are the same at another address."""
    return set()


@pytest.mark.parametrize("address", ADDRESSES)
def test_every_view_exports_its_tables_and_charts(client, drawn, address):
    links = exports_of(client, address)
    forms = {link.split("?")[0].rsplit(".", 1)[1] for link in links}
    assert forms == {"csv", "parquet", "png", "svg"}
    for link in links:
        path = urlsplit(link).path
        form = path.rsplit(".", 1)[1]
        once = path if form == "svg" else (urlsplit(address).path, form)  # every chart as SVG, one of a page as PNG
        if form in ("png", "svg") and once in drawn:
            continue
        drawn.add(once)
        content = client.get(link)
        assert content.status_code == 200, link
        assert content.headers["content-disposition"].endswith(f'.{form}"')
        if form == "csv":
            table = pd.read_csv(io.BytesIO(content.content))
            other = pd.read_parquet(io.BytesIO(client.get(link.replace(".csv", ".parquet")).content))
            assert list(table) == list(other)
            assert len(table) == len(other) > 0, link
        if form == "svg":
            assert content.content.startswith(b"<?xml")
            assert b"<script" not in content.content


@pytest.mark.parametrize("address", ADDRESSES)
def test_the_numbers_of_every_chart_are_in_a_table_of_its_page(workspace, client, address):
    path, query = urlsplit(address).path, urlsplit(address).query
    view = VIEWS[path[1:]](workspace, Params(dict(parse_qsl(query))))
    assert view.charts
    ids = Page(client.get(address).text).ids
    for name, one in view.charts.items():
        assert f"figure-{name}" in ids
        assert f"table-{one.table}" in ids


def values_of(client, page, name, query):
    return pd.read_csv(io.BytesIO(client.get(f"/export/{page}/{name}.csv?{query}").content))


def test_tables_have_the_numbers_of_charts(workspace, client):
    """Those that no other table has."""
    scores = workspace.run.scores("moe")
    learning = values_of(client, "fact", "learning", "arm=moe&prompt=3")
    assert learning["rank"].tolist() == scores["target_rank"][:, 3].to_numpy().tolist()
    assert np.allclose(learning["logprob"], scores["target_logprob"][:, 3])
    positions = values_of(client, "fact", "positions", "arm=moe&prompt=3&checkpoint=step-10")
    assert np.allclose(positions.iloc[:, 1:], scores["layer_position_lpi"][1, 3].to_numpy().T)
    known = values_of(client, "facts", "known", "arm=moe")
    assert known["known"].tolist() == (scores["target_rank"] < 10).sum("prompt").to_numpy().tolist()
    assert ((known["share_low"] < known["share"]) | (known["share"] == 0)).all()
    expert = values_of(client, "unit", "expert", "arm=moe&unit=L0+E1+n1")
    assert np.allclose(expert["expert_gate"], scores["expert_gate"][..., 1].mean("relation"))
    relations = values_of(client, "unit", "relations", "arm=moe&unit=L0+E0+n1")
    unit = int(workspace.arm("moe").units.find("L0 E0 n1")[0])
    assert np.allclose(relations["score"], scores["lpi"][..., unit].to_numpy().reshape(-1), rtol=1e-6)
    saturation = values_of(client, "routing", "saturation", "layer=1")
    assert saturation["layer"].tolist()[-1] == saturation["lowest"].tolist()[-1] == 1
    assert (saturation["lowest"] <= saturation["mean"]).all()
    summary = values_of(client, "routing", "summary", "layer=1")
    assert summary["routing_distance"].isna().tolist() == [True, False, False, False]
    assert (summary["utilisation_entropy_lowest"] <= summary["utilisation_entropy_highest"]).all()
    together = values_of(client, "routing", "together", "layer=1")
    assert len(together) == 6
    assert together["over"].is_monotonic_decreasing


def test_unlike_arms_are_compared_by_layer_and_alike_ones_by_neuron(workspace, client):
    layers = values_of(client, "compare", "layers", "arm=moe&arm2=dense")
    inside = workspace.arm("dense").lives("lpi").sets[-1]
    inside = workspace.arm("dense").of_kind(inside, "ffn")
    counts = np.bincount(workspace.arm("dense").units.layer[inside], minlength=2)
    assert layers["second"].tolist() == counts.tolist()
    assert np.allclose(layers["second_share"], counts / counts.sum())
    scores = values_of(client, "compare", "scores", "arm=moe&a=step-0&b=step-40")
    mean = workspace.run.scores("moe")["lpi_mean"].to_numpy()[[0, 3]][:, workspace.arm("moe").kinds["ffn"]]
    order = np.argsort(-mean[1], kind="stable")
    assert np.allclose(scores[["first", "second"]].to_numpy().T, mean[:, order], rtol=1e-6)
    assert set(scores["top"][:4]) <= {"second", "both"}


def test_units_are_those_of_the_run_sorted_and_filtered(workspace, client):
    run, moe = workspace.run, workspace.arm("moe")
    mean = run.scores("moe")["lpi_mean"].to_numpy()
    whole = pd.read_csv(io.BytesIO(client.get("/export/units/units.csv?arm=moe&checkpoint=step-20").content))
    order = np.argsort(-mean[2], kind="stable")
    assert np.allclose(whole["score"], mean[2][order], rtol=1e-6)
    assert np.allclose(whole["gain"], (mean[2] - mean[1])[order], rtol=1e-4, atol=1e-6)
    assert whole["layer"].tolist() == moe.units.layer[order].tolist()
    address = "/export/units/units.csv?arm=moe&kind=ffn&layer=1&expert=2&least_score=0&sort=gain&order=ascending"
    some = pd.read_csv(io.BytesIO(client.get(address).content))
    units = moe.units
    kept = (units.layer == 1) & (units.expert == 2) & (mean[3] >= 0)
    assert len(some) == kept.sum() > 0
    assert some["gain"].is_monotonic_increasing
    relation = run.scores("moe")["lpi"].to_numpy()[3, 1]
    page = client.get("/units", params={"arm": "moe", "relation": RELATIONS[1], "top": "now"})
    rows = rows_of(page.text, "units")
    inside = np.concatenate([units_of[top_set(mean[3][units_of], 0.1)] for units_of in moe.kinds.values()])
    best = inside[np.argsort(-relation[inside], kind="stable")]
    assert [row["unit"] for row in rows] == [units.short(int(unit)) for unit in best]
    assert {row["in the top set"] for row in rows} == {"yes"}


def test_true_effects_are_a_column_of_units_and_rank_none(workspace, client):
    table = pd.read_csv(io.BytesIO(client.get("/export/units/units.csv?arm=moe&sort=true_effect").content))
    effect = workspace.run.scores("moe")["true_effect"].to_numpy()[3]
    assert table["true_effect"].notna().sum() == np.isfinite(effect[0]).sum()
    assert table["true_effect"].dropna().is_monotonic_decreasing
    assert np.allclose(np.sort(table["true_effect"].dropna()), np.sort(effect.mean(axis=0)[np.isfinite(effect[0])]))
    asked = {"arm": "moe", "relation": RELATIONS[1], "sort": "true_effect"}
    rows = rows_of(client.get("/units", params=asked).text, "units")
    assert rows[0]["true effect, nats"] == show(float(np.nanmax(effect[1])), "number")
    refused = client.get("/units?arm=moe&method=true_effect")
    assert refused.status_code == 400
    assert "sort=true_effect" in Page(refused.text).text


def test_a_search_leads_to_the_unit_or_says_what_is_wrong(client):
    found = client.get("/units?arm=moe&q=l0+e0+N1", follow_redirects=False)
    assert found.status_code == 303
    assert dict(parse_qsl(urlsplit(found.headers["location"]).query))["unit"] == "L0 E0 n1"
    assert "5 of 52 neurons" in Page(client.get("/units?arm=moe&q=L1+E3").text).text
    wrong = Page(client.get("/units", params={"arm": "moe", "q": HOSTILE}).text)
    assert "is no name of units" in wrong.text
    assert ("p", {"class": "warning", "role": "alert"}) in wrong.elements


@pytest.mark.parametrize(
    ("address", "here"),
    [
        ("/units?arm=dense&checkpoint=step-10&method=grad_x_act", "arm=dense&checkpoint=step-10&method=grad_x_act"),
        ("/fact?arm=dense&prompt=0&checkpoint=step-10", "arm=dense&checkpoint=step-10"),
        ("/compare?arm=dense&a=step-10&arm2=moe&b=step-40", "arm=dense&checkpoint=step-10"),
        ("/?method=grad_x_act", "arm=moe&method=grad_x_act"),
        ("/units?arm=dense&checkpoint=step-9", "arm=dense"),  # which there is not
    ],
)
def test_the_menu_and_the_search_stay_at_the_arm_checkpoint_and_method(client, address, here):
    page = Page(client.get(address).text)
    assert {f"/{to}?{here}" for to in ("", "units", "facts")} <= set(page.links)
    assert f"/compare?{here.replace('checkpoint', 'a')}" in page.links
    assert ("/routing" if "dense" in here else f"/routing?{here}") in page.links
    given = [one for tag, one in page.elements if tag == "input" and one.get("type") == "hidden"]
    search = {one["name"]: one["value"] for one in given[: len(parse_qsl(here))]}
    assert search == dict(parse_qsl(here))
    found = client.get("/units", params={"q": "L1 n3" if "dense" in here else "L1 E0 n3", **search})
    assert found.history[0].status_code == 303
    assert search.items() <= dict(parse_qsl(found.url.query.decode())).items()


def test_forms_keep_a_method_that_their_page_does_not_ask_for(client):
    for path in ("facts", "routing"):
        elements = Page(client.get(f"/{path}?arm=moe&method=grad_x_act").text).elements
        kept = [one["value"] for tag, one in elements if tag == "input" and one.get("name") == "method"]
        assert kept == ["grad_x_act"] * 2  # of the search, and of the form
        none = Page(client.get(f"/{path}?arm=moe").text).elements
        assert not [one for tag, one in none if tag == "input" and one.get("name") == "method"]


def figures_of(client, address):
    """The charts of a page as its script has them."""
    text = client.get(address).text
    return json.loads(text.split('id="figure-data">')[1].split("</script>")[0])


def test_replicates_have_one_colour_and_their_mean_leads_to_the_first_of_them(tmp_path):
    run = explored_run(tmp_path / "run", steps=(0, 10), arms=("moe", "dense-1", "dense-2"), group="dense")
    workspace = Workspace(run)
    workspace.settle()
    client = TestClient(create_app(workspace), base_url="http://127.0.0.1")
    drawn = figures_of(client, "/")["measures"]
    mean = next(trace for trace in drawn["data"] if trace.get("name") == "dense")
    point = "dense, step-10 (leads to dense-1)"
    assert point in mean["text"]
    assert drawn["links"][point] == "/checkpoint?arm=dense-1&checkpoint=step-10"
    assert drawn["links"]["moe, step-10"] == "/checkpoint?arm=moe&checkpoint=step-10"
    seen = {"/": mean["line"]["color"]}
    for page, chart in (("unit", "curve"), ("facts", "known"), ("checkpoint", "layers")):
        first = figures_of(client, f"/{page}?arm=dense-2&unit=L0+n1")[chart]["data"]
        seen[page] = next(trace for trace in first if trace.get("text"))["line"]["color"]
    assert set(seen.values()) == {COLOURS[1]}, seen
    workspace.close()


def test_a_units_page_has_its_curve_its_relations_its_expert_and_its_tokens(workspace, client):
    text = client.get("/unit?arm=moe&unit=L0+E0+n1&checkpoint=step-10").text
    scores = workspace.run.scores("moe")
    unit = int(workspace.arm("moe").units.find("L0 E0 n1")[0])
    table = pd.read_csv(io.BytesIO(client.get("/export/unit/history.csv?arm=moe&unit=L0+E0+n1").content))
    assert np.allclose(table["score"], scores["lpi_mean"][:, unit], rtol=1e-6)
    assert (table["score_low"] <= table["score_high"]).all()
    bound = scores["error_bound"].mean("prompt")[:, 1]
    assert np.allclose(table["bound"], bound)
    relations = {row["relation"]: row["score, nats"] for row in rows_of(text, "relations")}
    assert len(relations) == len(RELATIONS)
    effects = scores["true_effect"][1, :, unit].to_numpy()
    assert np.isfinite(effects).all() == bool(rows_of(text, "true_effect"))
    page = Page(text)
    described = Page(client.get("/unit?arm=dense&unit=L0+n1").text)  # of an arm whose units are not followed
    assert "promotes ␣Paris" in described.text
    tokens = rows_of(text, "tokens")
    assert [row["checkpoint"] for row in tokens] == [f"step-{step}" for step in STEPS]
    assert [row["promotes"].split(" ")[0] for row in tokens] == [f"␣at␣{step}" for step in STEPS]
    assert {row["prompts"] for row in tokens} == {"100.0%"}
    (best, other) = rows_of(text, "prompts")
    assert (unescape(best["prompt"]), best["LPI, nats"]) == (f"{HOSTILE} is at", "0.500")
    assert other["coefficient"] == "\N{MINUS SIGN}1.00"
    assert [row["unit"] for row in rows_of(text, "neighbours")] == ["L0 H0 n0"]
    kept = client.get("/export/unit/prompts.csv?arm=moe&unit=L0+E0+n1&checkpoint=step-10").content
    assert pd.read_csv(io.BytesIO(kept))["score"].tolist() == [0.5, 0.125]
    kept = client.get("/export/unit/tokens.csv?arm=moe&unit=L0+E0+n1").content
    assert pd.read_csv(io.BytesIO(kept))["promoted"][1] == f"\N{OPEN BOX}at\N{OPEN BOX}10 {HOSTILE}"
    unreached = client.get("/unit?arm=moe&unit=L1+H0+n0&checkpoint=step-0").text
    assert "No prompt reaches it at step-0" in Page(unreached).text
    assert {"figure-curve", "figure-relations", "figure-expert"} <= set(page.ids)
    other = Page(client.get("/unit?arm=moe&unit=L0+H0+n0").text)
    assert 'model.value(int(model.units.find("L0 H0 n0")[0]))' in other.text


def test_facts_say_what_is_known_and_since_when(workspace, client):
    ranks = workspace.run.scores("dense")["target_rank"].to_numpy()
    table = pd.read_csv(io.BytesIO(client.get("/export/facts/facts.csv?arm=dense&checkpoint=step-10").content))
    assert table["rank"].tolist() == ranks[1].tolist()
    known, steps = ranks < 10, [0, 10, 20, 40]
    for prompt in range(ranks.shape[1]):
        after = [step for at, step in enumerate(steps) if known[at:, prompt].all()]
        assert table["learnt"][prompt] == after[0]
        assert table["first"][prompt] == steps[int(known[:, prompt].argmax())]
    blocks = pd.read_csv(io.BytesIO(client.get("/export/fact/blocks.csv?arm=dense&prompt=5").content))
    base = workspace.run.scores("dense")["base_logprob"].to_numpy()[-1, 5]
    assert np.allclose(blocks["before"], base)
    assert np.allclose(blocks["gain"], blocks["after"] - blocks["before"])


def test_a_fact_leads_from_its_block_to_an_expert_and_its_neurons_by_every_method(workspace, client):
    arm, scores = workspace.arm("moe"), workspace.run.scores("moe").isel(checkpoint=1)
    here = "arm=moe&prompt=3&checkpoint=step-10&block=3"  # the FFN of layer 1, and a fact of the first relation
    own = values_of(client, "fact", "parts", here)
    assert np.allclose(own["score"], np.sort(scores["expert_lpi"][0, 4:].to_numpy())[::-1])
    assert set(own["neurons"]) == {5}
    summed = values_of(client, "fact", "parts", f"{here}&method=grad_x_act")
    gradients = scores["grad_x_act"][0].to_numpy()
    for name, score in zip(summed["part"], summed["score"], strict=True):
        assert np.isclose(score, gradients[arm.units.find(name)].sum(), rtol=1e-5)
    page = Page(client.get(f"/fact?{here}&method=grad_x_act").text)
    (to,) = {link for link in page.links if "part=L1+E2" in link}
    narrowed = client.get(to)
    assert "Inside FFN 1 → L1 E2" in Page(narrowed.text).text
    assert "sum of its neurons" in Page(narrowed.text).text
    units = values_of(client, "fact", "units", urlsplit(to).query)
    inside = arm.units.find("L1 E2")
    order = inside[np.argsort(-gradients[inside], kind="stable")]
    assert units["unit"].tolist() == [arm.units.short(int(unit)) for unit in order]
    links = Page(narrowed.text).links
    assert "/unit?arm=moe&checkpoint=step-10&method=grad_x_act&unit=" + units["unit"][0].replace(" ", "+") in links
    dense = Page(client.get("/fact?arm=dense&prompt=0&block=1").text)
    assert "table-units" in dense.ids
    assert "table-parts" not in dense.ids  # the FFN of a dense model has no experts


def test_a_comparison_lists_who_entered_and_left_the_top_set(workspace, client):
    arm = workspace.arm("moe")
    mean = workspace.run.scores("moe")["lpi_mean"].to_numpy()
    units = arm.kinds["ffn"]
    before, after = (units[top_set(mean[at][units], 0.1)] for at in (0, 3))
    address = "arm=moe&a=step-0&b=step-40&kind=ffn"
    for what, expected in (("entered", np.setdiff1d(after, before)), ("left", np.setdiff1d(before, after))):
        table = pd.read_csv(io.BytesIO(client.get(f"/export/compare/{what}.csv?{address}").content))
        assert set(table["unit"]) == {arm.units.short(int(unit)) for unit in expected}
    assert f"{jaccard(before, after):.3g} (Jaccard; chance" in Page(client.get(f"/compare?{address}").text).text


def test_routing_shows_the_load_of_every_expert(workspace, client):
    table = pd.read_csv(io.BytesIO(client.get("/export/routing/load.csv?layer=1").content))
    load = workspace.run.scores("moe")["expert_utilisation"].mean("relation").to_numpy()[:, 4:]
    assert np.allclose(table["share"], load.reshape(-1))
    assert {"figure-load", "figure-saturation", "figure-together"} <= set(Page(client.get("/routing").text).ids)


@pytest.mark.parametrize(
    ("address", "status", "said"),
    [
        ("/nowhere", 404, "there is no page 'nowhere'"),
        ("/export/units/nothing.csv", 404, "nothing that this page exports"),
        ("/static/../app.py", 404, ""),
        ("/unit?arm=moe&unit=L9+n1", 400, "this model has no such unit: its layers are 0 to 1"),
        ("/unit?arm=moe&unit=L0+E0", 400, "which is 5 units"),
        ("/unit?arm=moe", 400, "no unit was asked for"),
        ("/units?arm=nobody", 400, "With results are moe, dense"),
        ("/units?checkpoint=step-9", 400, "has step-0 to step-40"),
        ("/units?sort=<script>", 400, "expected one of score"),
        ("/units?page=-1", 400, "expected a whole number"),
        ("/units?least_score=nan", 400, "expected a number such as 0.01"),
        ("/units?relation=none", 400, "relation 'none' was asked for"),
        ("/fact?prompt=99", 400, "arm moe has 12"),
        ("/fact?prompt=0&block=9", 400, "has 4, counted from 0"),
        ("/fact?prompt=0&block=0&part=L1+E0", 400, "attention 0 of moe has L0 H"),
        ("/routing?arm=dense", 400, "no routed experts; moe have"),
    ],
)
def test_what_cannot_be_shown_is_said_with_what_can(client, address, status, said):
    answer = client.get(address)
    assert answer.status_code == status
    assert said in Page(answer.text).text


def test_only_the_hosts_that_it_was_started_for_are_answered(client):
    assert client.get("/", headers={"host": "evil.example"}).status_code == 400
    assert client.get("/", headers={"host": "localhost:1234"}).status_code == 200


def test_an_empty_run_says_so_and_a_run_that_is_written_is_followed(tmp_path, monkeypatch):
    monkeypatch.setattr("gated_lpi.explore.workspace.LOOK", 0.0)
    run = explored_run(tmp_path / "run", steps=(), arms=("dense",))
    workspace = Workspace(run, findings=False)
    client = TestClient(create_app(workspace), base_url="http://127.0.0.1")
    assert "No checkpoint is complete yet" in Page(client.get("/").text).text
    for page in ("units", "facts", "compare", "checkpoint"):
        answer = client.get(f"/{page}")
        assert (answer.status_code, "no arm of this run has a complete checkpoint" in answer.text) == (503, True)
    assert "No arm keeps what routers did" in Page(client.get("/routing").text).text
    for step in (10, 20):
        add(run, "dense", step)
        assert f"step-{step}" in Page(client.get("/units").text).text
        assert client.get("/unit?unit=L0+n1").status_code == 200
    workspace.settle()
    table = pd.read_csv(io.BytesIO(client.get("/export/unit/history.csv?unit=L0+n1").content))
    assert table["checkpoint"].tolist() == ["step-10", "step-20"]
    assert table["score_low"].notna().all()
    workspace.close()


def test_a_folder_that_cannot_be_written_to_is_explored_as_well(tmp_path):
    run = explored_run(tmp_path / "run", steps=(0, 10), arms=("dense",))
    (run.path / "explore").write_text("in the way")
    workspace = Workspace(run, findings=False)
    workspace.settle()
    assert workspace.notes == {}
    assert workspace.arm("dense").curve("lpi", 0).shape == (2, 3)
    workspace.close()


def test_what_was_said_of_a_run_is_kept_until_its_scores_change(workspace, monkeypatch):
    def refuse(*_):
        raise AssertionError("judged anew")

    monkeypatch.setattr("gated_lpi.explore.said.load_results", refuse)
    again = Workspace(workspace.run, by_relation=False)
    again.settle()
    assert again.notes == {}
    assert again.findings.said == workspace.findings.said
    again.close()


FREE = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "transformers"):
            raise ImportError(f"{name} is blocked")
sys.meta_path.insert(0, Blocked())
"""


def test_the_command_says_where_it_is_answers_without_torch_and_ends_when_it_is_interrupted(workspace):
    arguments = ["gated-lpi", "explore", str(workspace.run.path), "--no-browser"]
    code = f"{FREE}\nsys.argv = {arguments!r}\nfrom gated_lpi.cli import main\nmain()"
    started = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        line = started.stdout.readline()
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/\n", line), started.stderr.read()
        for address in ADDRESSES:
            with urlopen(line.strip() + address[1:]) as answer:
                assert answer.status == 200
        started.send_signal(signal.SIGINT)
        said, complained = started.communicate(timeout=30)
    finally:
        started.kill()
        started.communicate()
    assert said == ""
    assert complained.rstrip().endswith("ended")
    assert "Traceback" not in complained
    assert started.returncode == 130


def test_an_address_that_is_taken_is_refused(workspace):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OptionError, match=rf"127.0.0.1:{port} cannot be listened at .* give another --port"):
            serve(workspace.run, port=port, browser=False)
