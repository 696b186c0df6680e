"""Positions of a prompt by their tokens, on the page of a fact; and by number alone in stores of earlier versions."""

import html
import json
import re

import pytest
from starlette.testclient import TestClient

import explored_runs
from explored_runs import HOSTILE, explored_run
from gated_lpi.explore import Workspace, create_app
from gated_lpi.results import create_run

FACT = "/fact?arm=moe&prompt=3&checkpoint=step-20"
SHOWN = [HOSTILE, "␣$x$␣\\u202e", "␣is"]


@pytest.fixture(params=["kept", "older"])
def client(request, tmp_path, monkeypatch):
    run = explored_run(tmp_path / "run", steps=(0, 20), arms=("moe",))
    if request.param == "older":
        older = create_run(tmp_path / "older", run.experiment, "ab" * 32)
        scores = explored_runs.scores
        monkeypatch.setattr(explored_runs, "scores", lambda arm, step: scores(arm, step).drop_vars("token_text"))
        explored_runs.add(older, "moe", 0)
        monkeypatch.setattr(explored_runs, "scores", scores)
        explored_runs.add(older, "moe", 20)  # a store goes on as it was begun
        run = older
    workspace = Workspace(run, findings=False)
    yield TestClient(create_app(workspace), base_url="http://127.0.0.1"), request.param == "kept"
    workspace.close()


def test_positions_and_routes_have_the_texts_of_tokens(client):
    browser, kept = client
    text = browser.get(FACT).text
    drawn = text[text.index('"layer 0, position 0') :].split("]")[0]
    escaped = [token.replace("<", "&lt;") for token in SHOWN]
    said = [f"layer 0, position {place} {token if kept else ''}".rstrip() for place, token in enumerate(escaped)]
    assert json.loads(f"[{drawn}]") == said
    table = text[text.index('id="table-routes"') :].split("</table>")[0]
    assert re.findall(r'scope="col"[^>]*>(.*?)<', table) == [
        "position",
        *(["text"] if kept else []),
        "layer 0",
        "layer 1",
    ]
    cells = re.findall(r'scope="row">(.*?)</th>\s*<td class="words">(.*?)</td>', table)
    assert [number for number, _ in cells] == ["0", "1", "2"]
    assert ([html.unescape(cell) for _, cell in cells] == SHOWN) == kept
    assert "<script>alert" not in text
    assert "\u202e" not in text
