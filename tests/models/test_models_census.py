"""The census of types of causal language models: whole, and what trying a type says today."""

import json

import pytest
import transformers
from scripts.make_families import examined
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from gated_lpi.models import FAMILIES, list_types
from gated_lpi.models.census import FILE

MADE = json.loads(FILE.read_text(encoding="utf-8"))
KNOWN = {one["model_type"]: one for one in MADE["types"]}
# One of each kind of answer; all that are attributed without a row are tried by tests/golden.
SAMPLE = (
    "afmoe",
    "bert",
    "gemma3",
    "gemma4_assistant",
    "gemma4_text",
    "gpt_neo",
    "lfm2",
    "olmoe",
    "openai-gpt",
    "whisper",
)


def test_every_type_of_the_installed_transformers_is_attributed_or_refused_with_a_reason():
    types = list_types()
    assert {one.model_type for one in types} == set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
    for one in types:
        assert (one.status, bool(one.reason), bool(one.family)) in (
            ("attributed", False, True),
            ("refused", True, False),
        ), one


def test_the_census_is_of_the_version_that_is_tested():
    if MADE["transformers"] == transformers.__version__:
        assert KNOWN.keys() == set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES), "run make families"
    rows = {model_type: family.name for family in FAMILIES for model_type in family.model_types}
    assert {model_type: KNOWN[model_type]["family"] for model_type in rows} == rows


def test_a_type_that_was_never_tried_says_so(monkeypatch, tmp_path):
    file = tmp_path / "census.json"
    file.write_text(json.dumps({"transformers": "5.0.0", "types": [KNOWN["llama"]]}))
    monkeypatch.setattr("gated_lpi.models.census.FILE", file)
    types = {one.model_type: one for one in list_types()}
    assert types["llama"].status == "attributed"
    assert "never tried: the census was made with transformers 5.0.0" in types["qwen2"].reason


@pytest.mark.parametrize("model_type", SAMPLE)
def test_trying_a_type_again_says_what_the_census_says(model_type):
    assert examined(model_type) == KNOWN[model_type]
