"""JSON from elsewhere: read as it is written, or refused with a reason."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gated_lpi._common.foreign import ForeignTextError, has_surrogate, parse_json

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(PLAIN)
def test_what_json_writes_comes_back(value: object) -> None:
    assert parse_json(json.dumps(value)) == value


@given(PLAIN, st.text().filter(lambda key: key != "other"))
def test_the_place_of_a_repeated_key_is_where_it_stands(value: object, key: str) -> None:
    before = f'{{{json.dumps(key)}: {json.dumps(value)}, "other": [{{}}],\n'
    with pytest.raises(ForeignTextError, match="again at line 3, column 3;"):
        parse_json(f"[\n{before}  {json.dumps(key)}: 1}}]")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"a": 1, "b": {"c": 1, "c": 2}}', "key 'c' is given twice in one object, again at line 1, column 24"),
        (
            '[{"a": "}{"},\n {"x\\"": [{}],\n  "x\\u0022" : 2}, oops',
            "twice in one object, again at line 3, column 3",
        ),
        ('{"a": 1, "a": {"b": 1, "b": 2}}', "key 'b' is given twice in one object, again at line 1, column 24"),
        ("[" * 100_000, "nested too deeply"),
        ("[" + "9" * 5000 + "]", "4300 digits"),
        ('{"a": ', "not JSON: Expecting value at line 1, column 7"),
        ("", "not JSON"),
    ],
)
def test_what_cannot_be_used_is_refused_with_the_reason(text: str, reason: str) -> None:
    with pytest.raises(ForeignTextError, match=reason):
        parse_json(text)


def test_half_a_surrogate_pair_is_seen() -> None:
    assert has_surrogate("a\udc80")
    assert not has_surrogate("a😀")
