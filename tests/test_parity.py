"""Changing the import prefix is the whole change: public names, parameters and defaults of the official savers."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from langgraph.checkpoint.base import BaseCheckpointSaver

import langgraph_checkpoint_dual
from tests.support.savers import KINDS, Kind

# Documented upstream as internal, and bound to their tables.
INTERNAL = {"cursor"}


def public_methods(saver_class: type) -> Iterator[str]:
    for name in dir(saver_class):
        if not name.startswith("_") and name not in INTERNAL and callable(getattr(saver_class, name)):
            yield name


CASES = [(kind, name) for kind in KINDS for name in public_methods(kind.official)]


def parameters(function: Callable[..., Any]) -> list[inspect.Parameter]:
    return list(inspect.signature(function).parameters.values())


@pytest.mark.parametrize(("kind", "name"), CASES, ids=lambda case: str(case))
def test_takes_every_call_that_the_official_method_takes(kind: Kind, name: str) -> None:
    official, ours = parameters(getattr(kind.official, name)), parameters(getattr(kind.ours, name))
    ours_by_name = {one.name: one for one in ours}
    for at, theirs in enumerate(official):
        assert theirs.name in ours_by_name
        mine = ours_by_name[theirs.name]
        assert mine.default == theirs.default
        if theirs.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD:
            assert ours[at].name == theirs.name
            assert mine.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
    known = {one.name for one in official}
    for mine in ours:
        optional = mine.default is not inspect.Parameter.empty or mine.kind in (
            inspect.Parameter.VAR_KEYWORD,
            inspect.Parameter.VAR_POSITIONAL,
        )
        assert mine.name in known or optional, f"{mine.name} is required here and unknown there"


@pytest.mark.parametrize(("kind", "name"), CASES, ids=lambda case: str(case))
def test_is_awaited_where_the_official_method_is(kind: Kind, name: str) -> None:
    official, ours = getattr(kind.official, name), getattr(kind.ours, name)
    assert inspect.iscoroutinefunction(ours) == inspect.iscoroutinefunction(official)


def test_constructor_takes_what_the_official_one_takes(kind: Kind) -> None:
    official, ours = parameters(kind.official.__init__), parameters(kind.ours.__init__)
    positional = [one.name for one in official if one.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD]
    assert [one.name for one in ours][: len(positional)] == positional
    assert {one.name: one.default for one in official}.items() <= {one.name: one.default for one in ours}.items()


def test_is_a_saver_for_langgraph(kind: Kind) -> None:
    assert issubclass(kind.ours, BaseCheckpointSaver)
    assert getattr(langgraph_checkpoint_dual, kind.class_name) is kind.ours
    assert kind.class_name in langgraph_checkpoint_dual.__all__


@pytest.mark.parametrize("name", [name for name in public_methods(BaseCheckpointSaver) if name != "with_allowlist"])
def test_implements_the_whole_interface_itself(kind: Kind, name: str) -> None:
    overridden = getattr(kind.ours, name) is not getattr(BaseCheckpointSaver, name)
    assert overridden or name in {"get", "aget"}  # those two only call get_tuple and aget_tuple
    assert "task_path" in inspect.signature(kind.ours.put_writes).parameters  # LangGraph looks for this name
    assert "task_path" in inspect.signature(kind.ours.aput_writes).parameters


async def test_attributes_of_the_official_object(kind: Kind, saver: Any) -> None:
    assert saver.conn is not None
    assert saver.serde is not None
    assert saver.config_specs == []
