"""Every error's message says what to do: a reading of all places that raise one, not of some examples.

It reads messages as they are written, and asks for a word of advice in each. It cannot tell good advice from bad, nor
see into messages that are made elsewhere and only passed on; the command line adds the `advice` of the error's class to
all of them, which tests/cli/test_cli_verbosity.py checks.
"""

import ast
import inspect
import re
from pathlib import Path

import gated_lpi
from gated_lpi import errors

SOURCE = Path(gated_lpi.__file__).parent
NAMES = {name for name, value in vars(errors).items() if inspect.isclass(value)} | {"MisfitError"}
OF_PAGES = "explore"  # its errors are shown on pages, beside what there is
ADVICE = re.compile(
    r"\b("
    r"add|ask|attribute|be cut|belongs to the method|check|choose|compare|delete|did you mean|download|end|expected|"
    r"export|fetch|flatten|free|give|go on|index|install|keep|leave|let|list|lists|load|make|mend|merge|move|name|"
    r"needed|pass|pip|put|raise|rank|reduce|rename|remove|restore|reword|run|save|says|score|search|see|select|set|start|state|"
    r"take|taken over|tell|train|try|use|wait|write)\b",
    re.I,
)
FEW = 4  # words that a message has of its own, at most, where all of it is made elsewhere
ENDS_ELSEWHERE = re.compile(r"[;:] ?(\{\})+$")  # where its end is, which is the advice


def written(node):
    """A message's own words; what is put in is {}."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(part.value if isinstance(part, ast.Constant) else "{}" for part in node.values)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return written(node.left) + written(node.right)
    return "{}"


def messages():
    for file in sorted(SOURCE.rglob("*.py")):
        if OF_PAGES in file.relative_to(SOURCE).parts:
            continue
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and node.args:
                name = getattr(node.func, "id", getattr(node.func, "attr", ""))
                if name in NAMES:
                    yield f"{file.relative_to(SOURCE)}:{node.lineno}", written(node.args[0])


def own_words(message):
    return len(re.findall(r"[A-Za-z]{2,}", message.replace("{}", " ")))


def advises(message):
    """Whether a message has a word of advice, or is or ends in what is made elsewhere."""
    made_elsewhere = "{}" in message and own_words(message) <= FEW
    return bool(ADVICE.search(message) or made_elsewhere or ENDS_ELSEWHERE.search(message))


def test_every_message_advises():
    found = dict(messages())
    assert len(found) > 400
    assert {place: message for place, message in found.items() if not advises(message)} == {}


def test_a_message_that_only_complains_is_found():
    assert not advises("the file {} has {} lines, which is too many")
    assert advises("the file {} has {} lines; give one with two")
