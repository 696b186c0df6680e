"""The README's lines of Python, as they stand: on a small model here, and, slowly, on SmolLM2 with their output."""

import os
import re
import tomllib
from pathlib import Path

import pytest

import gated_lpi
from tiny_text import speaking_model

ROOT = Path(__file__).parents[2]
CODE, OUTPUT = re.search(
    r"```python\n(.*?)```\n\n```text\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL
).groups()


def test_every_extra_that_users_install_is_in_the_page_on_installing():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    page = (ROOT / "docs" / "install.md").read_text(encoding="utf-8")
    listed = dict(re.findall(r"^\| `(\w+)` \| (.*?) \|", page, re.MULTILINE))
    extras = {name: needs for name, needs in project["optional-dependencies"].items() if name not in ("test", "dev")}
    assert listed.keys() == extras.keys()
    for name, needs in extras.items():
        assert listed[name] == ", ".join(re.match(r"[\w-]+", need)[0] for need in needs)


def test_its_lines_run(monkeypatch, capsys):
    monkeypatch.setattr(gated_lpi, "load_model", lambda _: speaking_model("Qwen3-MoE"), raising=False)
    exec(CODE.replace("The capital of France is", "The sky is").replace('"Paris"', '"blue"'), {})
    lines = capsys.readouterr().out.splitlines()
    shape = [re.sub(r"[-+]?\d[\d.e+-]*", "#", line) for line in OUTPUT.splitlines()]
    assert [re.sub(r" (head|expert) \d+", "", re.sub(r"[-+]?\d[\d.e+-]*", "#", line)) for line in lines][-1] == shape[
        -1
    ]
    assert len(lines) == len(shape)
    assert all(line.endswith(" nats") for line in lines[:-1])


@pytest.mark.slow
def test_its_output_is_that_of_smollm2(capsys):
    folder = Path(os.environ.get("GATED_LPI_SMOLLM2") or ROOT / ".cache" / "smollm2") / "model"
    exec(CODE.replace(".cache/smollm2/model", str(folder)), {})
    assert capsys.readouterr().out == OUTPUT
