"""The report's page in Chromium: figures at three widths, walked through by keys, and printed."""

import shutil

import pytest
from playwright.sync_api import expect, sync_playwright

from explored_runs import explored_run
from gated_lpi.report import build_report

SYSTEMS = ("chromium", "chromium-browser", "google-chrome")  # else playwright's own, `playwright install chromium`


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    run = explored_run(tmp_path_factory.mktemp("browser") / "run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gated_lpi.report.build.FORMATS", ())  # the figures are drawn, but not as files
        return build_report(run).html.as_uri()


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as started:
        system = next(filter(None, map(shutil.which, SYSTEMS)), None)
        opened = started.chromium.launch(executable_path=system, args=["--no-sandbox"])
        yield opened
        opened.close()


def test_the_page_is_read_at_three_widths_by_keys_and_on_paper(browser, address):
    complaints, elsewhere = [], []
    page = browser.new_page(viewport={"width": 1280, "height": 800})
    page.on("console", lambda said: complaints.append(said.text) if said.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("dialog", lambda dialog: (complaints.append(dialog.message), dialog.dismiss()))
    page.on("request", lambda asked: elsewhere.append(asked.url))
    page.goto(address)
    count = page.locator(".plot").count()
    expect(page.locator(".js-plotly-plot")).to_have_count(count)
    first = page.locator("#figure-contrast")
    assert first.bounding_box()["y"] + first.locator(".plot").bounding_box()["height"] < 800  # the first screen
    for width in (1280, 800, 400):
        page.set_viewport_size({"width": width, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.set_viewport_size({"width": 1280, "height": 800})
    plot = page.locator("#plot-contrast")
    plot.focus()
    said = page.locator("#spoken")
    plot.press("ArrowRight")
    begun = said.text_content()
    assert begun.startswith(("moe, step ", "dense, step "))
    plot.press("ArrowRight")
    assert said.text_content() != begun
    expect(plot.locator(".hovertext").first).to_be_visible()
    heat = page.locator("#plot-layer_profiles")
    heat.focus()
    heat.press("ArrowDown")
    assert said.text_content().startswith("layer 0, step 0: ")
    page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    assert page.locator("details:not([open])").count() == 0
    assert page.evaluate("document.getElementById('plot-contrast').layout.width") == 690
    page.evaluate("window.dispatchEvent(new Event('afterprint'))")
    assert page.locator("details[open]").count() == 0
    assert not complaints
    assert not [url for url in elsewhere if not url.startswith(("file:", "data:", "blob:"))]
    page.close()
