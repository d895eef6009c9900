"""What a metadata filter matches: the same on both databases, namely what Postgres calls containment."""

from __future__ import annotations

import json
import math
from typing import Any

import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.checkpoints import listed, put
from tests.support.model import contains, matches

NESTED = {"a": {"b": [1, {"c": "x"}], "d": None}}
CASES: list[tuple[dict[str, Any], dict[str, Any], bool]] = [
    # metadata, filter, whether it matches
    ({}, {}, True),
    ({"k": 1}, {}, True),
    ({"k": 1}, {"k": 1}, True),
    ({"k": 1}, {"k": 1.0}, True),
    ({"k": 1}, {"k": True}, False),
    ({"k": True}, {"k": 1}, False),
    ({"k": True}, {"k": True}, True),
    ({"k": False}, {"k": 0}, False),
    ({"k": 1}, {"k": "1"}, False),
    ({"k": "true"}, {"k": True}, False),
    ({"k": "A"}, {"k": "a"}, False),
    ({"k": "abc"}, {"k": "ab"}, False),
    ({"k": 2**70}, {"k": 2**70}, True),
    ({"k": 2**70}, {"k": 2**70 + 1}, False),
    ({"k": 0.1}, {"k": 0.1}, True),
    ({"k": math.inf}, {"k": math.inf}, True),
    ({"k": math.inf}, {"k": -math.inf}, False),
    ({"k": 1}, {"k": math.inf}, False),
    # None means null or missing, at the top
    ({}, {"k": None}, True),
    ({"k": None}, {"k": None}, True),
    ({"k": 0}, {"k": None}, False),
    ({"k": ""}, {"k": None}, False),
    ({"other": 1}, {"k": None, "other": 1}, True),
    ({"other": 1}, {"k": None, "other": 2}, False),
    (NESTED, {"a": {"d": None}}, True),
    (NESTED, {"a": {"missing": None}}, False),
    # nested containment
    (NESTED, {"a": {}}, True),
    (NESTED, {"a": {"b": [1]}}, True),
    (NESTED, {"a": {"b": [{"c": "x"}]}}, True),
    (NESTED, {"a": {"b": [{"c": "x"}, 1, 1]}}, True),
    (NESTED, {"a": {"b": [2]}}, False),
    (NESTED, {"a": {"b": {"c": "x"}}}, False),
    (NESTED, {"a": {"b": 1}}, False),
    (NESTED, {"a": []}, False),
    ({"k": [1, 2, 3]}, {"k": [3, 1]}, True),
    ({"k": [1, 2, 3]}, {"k": []}, True),
    ({"k": [1, 2, 3]}, {"k": [True]}, False),
    ({"k": [[1, 2]]}, {"k": [[1]]}, True),
    ({"k": [1, 2]}, {"k": [[1]]}, False),
    ({"k": [1]}, {"k": 1}, False),
    ({"k": 1}, {"k": [1]}, False),
    # names that a path language would take apart
    ({"a.b": 1}, {"a.b": 1}, True),
    ({"a": {"b": 1}}, {"a.b": 1}, False),
    ({"q\"uo'te": 1}, {"q\"uo'te": 1}, True),
    ({"$": 1, "[0]": 2, "": 3}, {"$": 1, "[0]": 2, "": 3}, True),
]


@pytest.mark.parametrize(("stored", "wanted", "expected"), CASES, ids=repr)
def test_cases_are_what_the_model_says(stored: Any, wanted: Any, expected: bool) -> None:
    assert matches(wanted, stored) is expected


async def test_cases(subject: Any) -> None:
    configs = [await put(subject, values={}, **stored) for stored, _, _ in CASES]
    for at, (_, wanted, _) in enumerate(CASES):
        found = [one.config for one in await listed(subject, None, filter=wanted)]
        assert (configs[at] in found) is CASES[at][2], CASES[at]
        expected = [one for one, (stored, _, _) in zip(configs, CASES, strict=True) if matches(wanted, stored)]
        assert found == expected[::-1], wanted


async def test_combine_with_before_and_limit(subject: Any) -> None:
    configs = [await put(subject, values={}, parity=n % 2) for n in range(40)]
    found = await listed(subject, None, filter={"parity": 1}, before=configs[30], limit=12)
    assert [one.config for one in found] == configs[29:5:-2]


json_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-2, 2), st.sampled_from([0.5, 1.0, "", "a", "1"])),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.sampled_from("abc"), inner, max_size=3)),
    max_leaves=8,
)
json_objects = st.dictionaries(st.sampled_from("abc"), json_values, max_size=3)


def test_the_model_is_the_containment_of_postgres(postgres_uri: str) -> None:
    with psycopg.connect(postgres_uri) as connection:

        @settings(max_examples=300)
        @given(json_objects, json_objects)
        def check(whole: dict[str, Any], part: dict[str, Any]) -> None:
            query = "SELECT %s::text::jsonb @> %s::text::jsonb"
            row = connection.execute(query, (json.dumps(whole), json.dumps(part))).fetchone()
            assert row == (contains(whole, part),)

        check()
