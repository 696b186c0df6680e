"""Types without a row in the table: the row that is read off each, its proof, and scores against frozen values."""

import json

import pytest
import transformers
from make_types import FILE, TYPES, golden_of_type, resolves, values_of

from gated_lpi.models.rows import differences

TOLERANCE = 2e-5  # of a float32 forward pass
GOLDEN = json.loads(FILE.read_text(encoding="utf-8"))
ADVICE = (
    "frozen with {made_with}; installed is transformers {installed}. If the new values are right: "
    "python tests/golden/make_types.py"
)


@pytest.mark.parametrize("model_type", TYPES)
def test_a_type_is_read_and_scored_as_frozen(model_type):
    assert model_type in GOLDEN["types"], f"{model_type} has no frozen values: run python tests/golden/make_types.py"
    frozen, model = GOLDEN["types"][model_type], golden_of_type(model_type)
    advice = ADVICE.format(made_with=GOLDEN["made_with"], installed=transformers.__version__)
    assert json.loads(json.dumps(dict(differences(model.family)))) == frozen["row"], advice
    found = values_of(model, "exact")
    for kind in ("lpi", "logits"):
        for name, value in frozen[kind].items():
            assert found[kind][name] == pytest.approx(value, abs=TOLERANCE), (kind, name, advice)
    assert resolves(model) == frozen["by_position"]


def test_nothing_frozen_is_left_over_or_idle():
    assert GOLDEN["types"].keys() >= set(TYPES)
    if GOLDEN["made_with"]["transformers"] == transformers.__version__:
        assert GOLDEN["types"].keys() == set(TYPES)
    for model_type, kinds in GOLDEN["types"].items():
        assert max(map(abs, kinds["lpi"].values())) > 1e-4, model_type
