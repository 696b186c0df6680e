"""The explorer in Chromium: a way through its pages, by mouse and by keys, at two widths, with names that attack."""

import re
import shutil
import socket
import time
from threading import Thread
from urllib.parse import urlencode

import pytest
import uvicorn
from playwright.sync_api import expect, sync_playwright

from explored_runs import HOSTILE, add, explored_run
from gated_lpi.experiments import Experiment
from gated_lpi.explore import Workspace, create_app

SYSTEMS = ("chromium", "chromium-browser", "google-chrome")  # else playwright's own, `playwright install chromium`


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    run = explored_run(tmp_path_factory.mktemp("browsed") / "run", steps=(0, 10, 20))
    add(run, "dense", 40, HOSTILE)
    made = Workspace(run)
    made.settle()
    yield made
    made.close()


def served(workspace):
    """A server that answers, its thread, and its address."""
    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(create_app(workspace), log_level="warning", lifespan="off"))
    thread = Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    while not server.started:
        time.sleep(0.01)
    return server, thread, f"http://127.0.0.1:{listening.getsockname()[1]}"


@pytest.fixture(scope="module")
def address(workspace):
    server, thread, found = served(workspace)
    yield found
    server.should_exit = True
    thread.join()


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as started:
        system = next(filter(None, map(shutil.which, SYSTEMS)), None)
        opened = started.chromium.launch(executable_path=system, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def page(browser, request):
    """A page of the width and colours that a test asks for; whatever it complains of fails the test."""
    width, scheme = getattr(request, "param", (1280, "light"))
    context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
    opened = context.new_page()
    complaints, elsewhere = [], []
    opened.on("console", lambda said: complaints.append(said.text) if said.type in ("error", "warning") else None)
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    opened.on("dialog", lambda dialog: (complaints.append(dialog.message), dialog.dismiss()))
    opened.on("request", lambda asked: elsewhere.append(asked.url) if "127.0.0.1" not in asked.url else None)
    yield opened
    context.close()
    assert not complaints
    assert not [url for url in elsewhere if not url.startswith(("data:", "blob:"))]


def test_a_way_from_the_overview_to_a_unit_and_back(page, address):
    page.goto(address)
    expect(page.get_by_role("heading", level=1)).to_have_text(HOSTILE)
    expect(page.locator(".js-plotly-plot")).to_be_visible()
    page.get_by_role("link", name="Units", exact=True).click()
    page.get_by_label("Neurons", exact=True).select_option("ffn")
    page.get_by_role("button", name="Show").click()
    assert "kind=ffn" in page.url
    assert "head=" not in page.url  # empty fields are left out
    page.get_by_role("link", name="gain, nats").click()
    expect(page.locator("th[aria-sort=descending]")).to_contain_text("gain")
    table = page.url
    name = page.locator("#table-units tbody a").first.text_content()
    page.locator("#table-units tbody a").first.click()
    expect(page.get_by_role("heading", level=1)).to_contain_text(name)
    expect(page.locator("#figure-curve .js-plotly-plot")).to_be_visible()
    unit = page.url
    page.reload()
    expect(page.get_by_role("heading", level=1)).to_contain_text(name)
    page.go_back()
    assert page.url == table
    page.go_forward()
    assert page.url == unit


def test_a_point_of_a_chart_leads_to_its_checkpoint(page, address):
    page.goto(f"{address}/unit?arm=moe&unit=L0+E0+n1")
    plot = page.locator("#figure-curve .js-plotly-plot")
    expect(plot).to_be_visible()
    point = plot.locator(".scatterlayer .trace .points path").nth(1)
    box = point.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    expect(plot.locator(".hoverlayer .hovertext").first).to_be_visible()
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.wait_for_url("**checkpoint=step-10**")
    expect(page.get_by_label("Checkpoint", exact=True)).to_have_value("step-10")


@pytest.mark.parametrize("panel", ["xy", "x2y2"], ids=["J_stab", "R_t"])
def test_a_point_of_the_overview_leads_to_its_checkpoint(page, address, panel):
    page.goto(address)
    point = page.locator(f"#figure-measures .subplot.{panel} .scatterlayer .trace .points path").nth(1)
    page.locator("#figure-measures").scroll_into_view_if_needed()
    box = point.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    expect(page.locator("#figure-measures .hoverlayer .hovertext").first).to_contain_text("moe, step-20")
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.wait_for_url("**/checkpoint?arm=moe&checkpoint=step-20")
    expect(page.get_by_role("heading", level=1)).to_have_text("moe, step-20")


def test_a_checkpoint_called_like_a_script_is_shown_as_it_is(page, address):
    with pytest.raises(ValueError, match=r"arms\.0\.name"):  # arms cannot be called so, being names of files
        Experiment.model_validate({"name": "run", "arms": [{"name": HOSTILE, "checkpoints": "folder"}]})
    here = urlencode({"arm": "dense", "checkpoint": HOSTILE})
    for path in (f"checkpoint?{here}", f"fact?{here}&prompt=1", f"facts?{here}", f"units?{here}", "compare?arm=dense"):
        page.goto(f"{address}/{path}")
        expect(page.locator("main")).to_contain_text(HOSTILE)
        expect(page.locator(".js-plotly-plot").first).to_be_visible()
        assert page.locator("main script, svg script").count() == 0
    page.goto(f"{address}/unit?arm=dense&unit=L0+n1")
    plot = page.locator("#figure-curve .js-plotly-plot")
    plot.focus()
    for _ in range(4):
        page.keyboard.press("ArrowRight")
    expect(page.locator("#spoken")).to_contain_text(f"L0 n1, {HOSTILE}: ")
    expect(plot.locator(".hoverlayer")).to_contain_text(f"L0 n1, {HOSTILE}")
    page.keyboard.press("Enter")
    page.wait_for_url(f"**{urlencode({'checkpoint': HOSTILE})}")
    page.get_by_label("Find a unit").fill("L1 n3")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_contain_text("L1 n3")
    expect(page.get_by_label("Checkpoint", exact=True)).to_have_value(HOSTILE)


def test_keys_find_units_turn_pages_and_walk_tables(page, address):
    page.goto(f"{address}/checkpoint?arm=moe&checkpoint=step-10")
    page.keyboard.press("[")
    page.wait_for_url("**checkpoint=step-0")
    page.keyboard.press("/")
    page.keyboard.type("L1 E2 n3")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_contain_text("L1 E2 n3")
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to content")).to_be_focused()
    page.goto(f"{address}/units?arm=dense")
    page.locator("#table-units tbody a").first.focus()
    page.keyboard.press("ArrowDown")
    expect(page.locator("#table-units tbody a").nth(1)).to_be_focused()


def test_keys_walk_through_the_points_of_a_chart_and_follow_them(page, address):
    page.goto(f"{address}/unit?arm=moe&unit=L0+E0+n1")
    plot, spoken = page.locator("#figure-curve .js-plotly-plot"), page.locator("#spoken")
    expect(plot).to_have_accessible_name(re.compile(r"Score over training\. L0 E0 n1 .+ at step-0, .+ at step-20"))
    plot.focus()
    page.keyboard.press("ArrowRight")
    expect(spoken).to_contain_text("L0 E0 n1, step-0: ")
    page.keyboard.press("ArrowRight")
    expect(spoken).to_contain_text("L0 E0 n1, step-10: ")
    expect(plot.locator(".hoverlayer .hovertext").first).to_be_visible()
    page.keyboard.press("ArrowDown")
    expect(spoken).to_contain_text("error bound above, step-10: ")
    page.keyboard.press("Enter")
    page.wait_for_url("**checkpoint=step-10**")
    page.locator("#figure-relations .js-plotly-plot").focus()
    page.keyboard.press("ArrowUp")
    expect(spoken).to_contain_text(f"{HOSTILE}, step-0: ")  # a map, whose points lead nowhere
    here = page.url
    page.keyboard.press("Enter")
    assert page.url == here


@pytest.mark.parametrize("page", [(400, "dark"), (1280, "light")], indirect=True, ids=["narrow", "wide"])
def test_every_page_fits_its_width_and_shows_names_as_they_are(page, address):
    dark = page.evaluate("matchMedia('(prefers-color-scheme: dark)').matches")
    paths = ("", "checkpoint", "units", "unit?arm=moe&unit=L0+E0+n1", "facts", "fact?prompt=1", "compare", "routing")
    for path in paths:
        page.goto(f"{address}/{path}")
        for plot in page.locator("[data-figure]").all():
            expect(plot).to_have_class(re.compile("js-plotly-plot"))
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), path
        assert page.get_by_role("button", name="Share chart").count() == 0  # nothing is sent to anyone
        assert page.evaluate("document.querySelectorAll('main script, svg script').length") == 0
    page.goto(f"{address}/unit?arm=moe&unit=L0+E0+n1")
    expect(page.locator("#figure-relations")).to_contain_text(HOSTILE)
    colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert colour == ("rgb(20, 23, 26)" if dark else "rgb(255, 255, 255)")


def test_a_page_that_waits_is_loaded_again_once_a_checkpoint_is_there(page, tmp_path, monkeypatch):
    monkeypatch.setattr("gated_lpi.explore.workspace.LOOK", 0.0)
    run = explored_run(tmp_path / "run", steps=(), arms=("dense",))
    workspace = Workspace(run, findings=False)
    server, thread, found = served(workspace)
    try:
        page.goto(found)
        expect(page.locator("main")).to_contain_text("No checkpoint is complete yet")
        add(run, "dense", 10)
        expect(page.locator("main")).to_contain_text("1 checkpoints up to step-10", timeout=20_000)
    finally:
        page.close()
        server.should_exit = True
        thread.join()
        workspace.close()
