"""The page's first screen: a sentence for each question with its verdict, the clearest figure, the caveats."""

from __future__ import annotations

from collections.abc import Iterator

from gated_lpi.report.caveats import caveats
from gated_lpi.report.claims import claims
from gated_lpi.report.content import Content, chart_figure
from gated_lpi.report.html import Html, section, tag
from gated_lpi.report.lead import Answered, Tone, by_method, neurons_or_routing, recalled
from gated_lpi.report.tables import listing

TONES: dict[str, Tone] = {
    "supported": "supported",
    "contradicted": "contradicted",
    "mixed": "mixed",
}
NO_FIGURE = (
    "No two groups of arms are compared over training, and no measure of one has intervals over it, so there is no "
    "figure to show."
)

HOW_TO_READ = (
    "Square brackets hold 95% intervals; of differences over training, bands that hold at all checkpoints at once. "
    "Points are percentage points."
)
VERDICTS = (
    " Supported: told apart in the direction that was claimed, at some time, and never in the other. “In these runs”: "
    "other seeds may differ."
)


def first_screen(content: Content) -> Html:
    """Head, verdicts, figure and caveats."""
    results = content.results
    answers = tag("ul", *(_answer(one) for one in _questions(content)), class_="answers")
    first = "contrast" if "contrast" in content.charts else "against_chance"
    shown = chart_figure(content, first, NO_FIGURE)
    warned = caveats(results, content.diagnosis, trusted="trust" in content.tables)
    limits = tag(
        "div", tag("h3", "Caveats"), tag("ul", *warned) if warned else tag("p", "None to name."), class_="caveats"
    )
    return tag(
        "header",
        tag("h1", content.run.experiment.name),
        tag("p", _what(content), class_="soft"),
        section(
            "found",
            "What was found here",
            tag("div", tag("div", answers), tag("div", shown, limits), class_="first"),
            tag("p", HOW_TO_READ + (VERDICTS if claims(results) else ""), class_="soft"),
        ),
    )


def _questions(content: Content) -> Iterator[Answered]:
    results = content.results
    yield recalled(results)
    for claim in claims(results):
        tone = TONES.get(claim.answer.lower().split()[0], "undecided")
        yield Answered(claim.question, claim.answer, tone, claim.short, "source")
    yield from (one for one in (by_method(results), neurons_or_routing(results)) if one is not None)


def _answer(one: Answered) -> Html:
    verdict = tag("span", one.verdict, class_=f"verdict {one.tone}")
    question = tag("strong", tag("a", one.question, href=f"#{one.anchor}"))
    return tag("li", question, " ", verdict, tag("p", one.sentence))


def _what(content: Content) -> str:
    arms = content.results.groups or {arm.name: (arm.name,) for arm in content.results.arms}
    counted = [name if len(names) == 1 else f"{name} ({len(names)} runs)" for name, names in arms.items()]
    return (
        f"Gated-LPI report of {listing(counted)}: which neurons raise the log-probability of known facts, and when in "
        "training they came to."
    )
