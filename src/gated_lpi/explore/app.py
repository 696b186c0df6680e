"""The web app: addresses, the pages behind them, and what every answer says to the browser.

Pages are made on the server, and their whole state is in the address. Every answer forbids the browser to load anything
from elsewhere, or to run a script that is not the app's own; and only the hosts that the app was started for are
answered, so that no page of the web can read it by way of a name of its own.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from threading import Lock
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from gated_lpi._common.entries import printable
from gated_lpi.errors import GatedLPIError, OptionError
from gated_lpi.explore.checkpoint import checkpoint
from gated_lpi.explore.compare import compare
from gated_lpi.explore.drawing import picture, plotly_json, templates
from gated_lpi.explore.fact import fact
from gated_lpi.explore.facts import facts
from gated_lpi.explore.overview import overview
from gated_lpi.explore.routing import routed, routing
from gated_lpi.explore.sheet import written
from gated_lpi.explore.unit import unit
from gated_lpi.explore.units import units
from gated_lpi.explore.view import Params, View, ViewFunction, address
from gated_lpi.explore.workspace import Workspace
from gated_lpi.report.chart_words import described
from gated_lpi.report.tables import visible

LOOPBACK = ("127.0.0.1", "localhost", "::1", "[::1]")
VIEWS: dict[str, ViewFunction] = {
    "": overview,
    "checkpoint": checkpoint,
    "units": units,
    "unit": unit,
    "facts": facts,
    "fact": fact,
    "compare": compare,
    "routing": routing,
}
MENU = (
    ("", "Overview"),
    ("units", "Units"),
    ("facts", "Facts"),
    ("compare", "Compare"),
    ("routing", "Routing"),
)
WITHIN = {"unit": "units", "fact": "facts"}  # pages that are reached by way of another
CHECKPOINT = {"compare": "a"}  # what pages call the checkpoint that they are of, where it is something else
POLICY = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
        "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}
TYPES = {
    "csv": "text/csv; charset=utf-8",
    "parquet": "application/vnd.apache.parquet",
    "png": "image/png",
    "svg": "image/svg+xml",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
}
STATIC = {  # files that pages load, and the package that each is of
    "app.css": ("gated_lpi.explore", "static"),
    "app.js": ("gated_lpi.explore", "static"),
    "walk.js": ("gated_lpi.report", "page_files"),
}


def create_app(workspace: Workspace, hosts: Sequence[str] = LOOPBACK) -> Starlette:
    """The app that explores a run.

    Args:
        workspace: what is explored.
        hosts: names that it answers to; "*" for all.
    """
    drawing = Lock()  # matplotlib's settings are the process's

    def page(request: Request) -> Response:
        name = request.path_params.get("page", "")
        view = _view(name, workspace, request)
        if view.redirect:
            return RedirectResponse(view.redirect, 303)
        return HTMLResponse(_render(workspace, view, name, request))

    def export(request: Request) -> Response:
        name, what, form = (request.path_params[key] for key in ("page", "name", "form"))
        view = _view("" if name == "overview" else name, workspace, request)
        if form in ("csv", "parquet") and what in view.sheets:
            content = written(view.sheets[what], form)
        elif form in ("png", "svg") and what in view.charts:
            with drawing:
                content = picture(view.charts[what].chart, form)
        else:
            raise HTTPException(404, f"{what}.{form} is nothing that this page exports")
        return Response(
            content, headers={"Content-Disposition": f'attachment; filename="{what}.{form}"'}, media_type=TYPES[form]
        )

    def status(_request: Request) -> Response:
        now = workspace.progress
        said = None if now is None else {"words": now.words, "done": now.done, "total": now.total}
        return JSONResponse({"progress": said, "version": workspace.look()})

    def static(request: Request) -> Response:
        name = request.path_params["name"]
        if name == "plotly.js":
            return Response(_plotly(), headers={"Cache-Control": "max-age=86400"}, media_type=TYPES["js"])
        if name not in STATIC:
            raise HTTPException(404, "there is no such file")
        package, folder = STATIC[name]
        content = files(package).joinpath(folder, name).read_bytes()
        return Response(content, headers={"Cache-Control": "no-cache"}, media_type=TYPES[name.rsplit(".", 1)[1]])

    def failed(request: Request, error: Exception) -> Response:
        status_code = (
            error.status_code if isinstance(error, HTTPException) else 400 if isinstance(error, OptionError) else 503
        )
        text = error.detail if isinstance(error, HTTPException) else str(error)
        view = View("Not shown", "error.html", {"text": text, "status": status_code})
        return HTMLResponse(_render(workspace, view, "", request), status_code)

    return Starlette(
        routes=[
            Route("/static/{name}", static),
            Route("/status.json", status),
            Route("/export/{page}/{name}.{form}", export),
            Route("/", page),
            Route("/{page}", page),
        ],
        middleware=[
            Middleware(TrustedHostMiddleware, allowed_hosts=list(hosts), www_redirect=False),
            Middleware(_Policy),
            Middleware(GZipMiddleware, minimum_size=2048, compresslevel=1),
        ],
        exception_handlers={HTTPException: failed, GatedLPIError: failed},
    )


class _Policy:
    """Adds what every answer says to the browser."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def with_policy(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [
                    *message["headers"],
                    *((key.lower().encode(), value.encode()) for key, value in POLICY.items()),
                ]
            await send(message)

        await self._app(scope, receive, with_policy if scope["type"] == "http" else send)


def _view(name: str, workspace: Workspace, request: Request) -> View:
    if name not in VIEWS:
        raise HTTPException(404, f"there is no page {name!r}; the pages are linked above")
    shown, asked = workspace.run.experiment.name, request.query_params.get("run")
    if asked not in (None, shown):
        raise OptionError(
            f"the address is of the run {asked!r}, and this is the explorer of {shown!r}: explore that run, or make "
            "its report again with the address of its explorer (gated-lpi report RUN --explorer ADDRESS)"
        )
    return VIEWS[name](workspace, Params(dict(request.query_params)))


def _render(workspace: Workspace, view: View, name: str, request: Request) -> str:
    params = Params(dict(request.query_params))

    def export(what: str, form: str) -> str:
        return params.to(f"export/{name or 'overview'}/{what}.{form}")

    here = _here(workspace, params, name)
    figures = {key: plotly_json(drawn.chart, drawn.links) for key, drawn in view.charts.items()}
    return (
        _environment()
        .get_template(view.template)
        .render(
            {
                "run": workspace.run.experiment.name,
                "view": view,
                "page": name,
                "menu": [(_there(workspace, here, key), label, key == WITHIN.get(name, name)) for key, label in MENU],
                "here": here,
                "progress": workspace.progress,
                "version": workspace.version,
                "notes": list(workspace.notes.values()),
                "figures": _script_json(figures),
                "colours": _script_json(templates()),
                "export": export,
                "to": params.to,
                "address": address,
                **view.values,
            }
        )
    )


def _here(workspace: Workspace, params: Params, page: str) -> dict[str, str]:
    """The arm that a page is of, and the checkpoint and method that its address names, if the arm has them."""
    arms, asked = workspace.arms, params.text("arm")
    arm = arms.get(asked) if asked else next(iter(arms.values()), None)
    if arm is None:
        return {}
    checkpoint, method = params.text(CHECKPOINT.get(page, "checkpoint")), params.text("method")
    found = {"arm": arm.name}
    if checkpoint in {one.key for one in arm.moments}:
        found["checkpoint"] = str(checkpoint)
    if method in arm.methods:
        found["method"] = str(method)
    return found


def _there(workspace: Workspace, here: Mapping[str, str], page: str) -> str:
    """The address of a page of the menu, of the same arm, checkpoint and method where it can be of them."""
    if page == "routing" and here.get("arm") not in routed(workspace):
        return address(page)
    names = {"checkpoint": CHECKPOINT.get(page, "checkpoint")}
    return address(page, **{names.get(key, key): value for key, value in here.items()})


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("gated_lpi.explore"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_clean,
    )
    environment.filters |= {"described": described, "visible": visible}
    return environment


def _clean(value: Any) -> Any:
    """Texts without characters that HTML forbids, or that turn the direction of what follows."""
    return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _script_json(figures: Mapping[str, Any]) -> Markup:
    """Data for a script element: nothing in it can end the element."""
    text = json.dumps(figures, allow_nan=False, separators=(",", ":"))
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))


@cache
def _plotly() -> bytes:
    import plotly.offline

    text: str = plotly.offline.get_plotlyjs()
    return text.encode()
