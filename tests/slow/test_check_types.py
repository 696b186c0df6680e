"""`gated-lpi check` on a tiny model of every type of transformers: it says what the table of types says."""

import json

import pytest
import transformers
from typer.testing import CliRunner

from gated_lpi.cli import app
from gated_lpi.errors import GatedLPIError
from gated_lpi.models import list_types
from tiny_types import save_tiny

pytestmark = pytest.mark.slow

ALONE = "transformers makes no tiny model of it alone"


@pytest.mark.parametrize("known", list_types(), ids=lambda known: known.model_type)
def test_check_says_what_the_table_of_types_says(known, tmp_path):
    transformers.utils.logging.disable_progress_bar()
    if known.reason.startswith(ALONE):
        with pytest.raises(Exception):  # noqa: B017, PT011  whatever transformers makes of a type that it lists
            save_tiny(known.model_type, tmp_path)
        return
    try:
        save_tiny(known.model_type, tmp_path)
    except Exception:  # of a type that is refused before its weights are asked for
        if known.status == "attributed":
            raise
        return
    done = CliRunner().invoke(app, ["check", str(tmp_path), "--prompts", "8", "--json"])
    if known.status == "attributed":
        assert done.exception is None, done.exception
        found = json.loads(done.stdout)
        assert found["family"] == known.family
        assert found["coverage"] > 0.8
        proof = found["reconstruction"]
        assert max(proof[part] for part in ("block", "layer", "residual", "logits")) <= proof["tolerance"]
    else:
        assert isinstance(done.exception, GatedLPIError), done.output
        assert done.stdout == ""
