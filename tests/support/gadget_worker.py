"""A process that reads forged rows which name dangerous things, and reports whatever it was made to do.

Prints JSON: how many rows it read, those that were not refused, and what was imported, opened, started or called.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import sys
from collections.abc import Iterator
from typing import Any

import ormsgpack
from pydantic import BaseModel

from langgraph_checkpoint_dual.errors import DecodeError
from langgraph_checkpoint_dual.serde import Serializer

GADGETS = [
    *(("os", name) for name in ("system", "remove", "popen", "_wrap_close", "path.exists", "environ.clear")),
    *(("subprocess", name) for name in ("Popen", "run", "check_output")),
    *(("builtins", name) for name in ("eval", "exec", "open", "__import__", "getattr", "type", "map", "object")),
    *(("importlib", name) for name in ("import_module", "reload")),
    *(("pickle", name) for name in ("loads", "load", "Unpickler")),
    *(("functools", name) for name in ("partial", "reduce", "partialmethod")),
    *(("operator", name) for name in ("attrgetter", "methodcaller", "itemgetter")),
    *(("pathlib", name) for name in ("Path.unlink", "Path.touch", "Path.home")),
    *(("types", name) for name in ("FunctionType", "CodeType", "ModuleType", "new_class")),
    *(("collections", name) for name in ("namedtuple", "UserDict", "Counter.fromkeys")),
    *(("langgraph_checkpoint_dual.serde.trust", name) for name in ("importlib.import_module", "os.getenv", "Trust")),
    *(("langgraph_checkpoint_dual.serde", name) for name in ("serializer.pickle.loads", "Serializer.loads_typed")),
    ("langgraph_checkpoint_dual.serde.serializer", "pickle.loads"),
    *(("langchain_core.runnables.base", name) for name in ("RunnableLambda", "Runnable")),
    *(("__main__", name) for name in ("planted", "Planted", "Model.build", "Model.__init__", "Outer.Hidden")),
    ("posix", "system"), ("shutil", "rmtree"), ("runpy", "run_path"), ("threading", "Thread"), ("socket", "socket"),
    ("logging", "FileHandler"), ("tempfile", "NamedTemporaryFile"), ("io", "FileIO"), ("sqlite3", "connect"),
    ("re", "sub"), ("ctypes", "CDLL"), ("enum", "Enum"), ("weakref", "finalize"), ("urllib.request", "urlopen"),
    ("antigravity", "fly"), ("this", "s"), ("not.there", "Thing"), ("", ""),
]  # fmt: skip
PAYLOADS: list[Any] = ["true", ["true"], {"command": "true"}, [["true"], {"shell": True}], {"x": "true"}, None]
TAILS: list[tuple[Any, ...]] = [(), ("fromisoformat",), ("build",), ({"a": 1}, None), ("dict", {"a": 1}, None)]
WATCHED = (
    "os.",
    "subprocess.",
    "open",
    "exec",
    "compile",
    "socket.",
    "shutil.",
    "pickle.",
    "ctypes.",
    "import",
    "marshal.",
)

called: list[str] = []


def planted(*args: Any, **kwargs: Any) -> None:
    called.append(f"planted({args!r}, {kwargs!r})")


class Planted:
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        planted(*args, **kwargs)


class Model(BaseModel):
    @classmethod
    def build(cls, *args: Any, **kwargs: Any) -> None:
        planted(*args, **kwargs)


class Outer:
    Hidden = planted


def _pack(value: Any) -> bytes:
    return ormsgpack.packb(value, option=ormsgpack.OPT_NON_STR_KEYS)


def _msgpack_rows(name: tuple[str, str]) -> Iterator[tuple[str, bytes]]:
    for code, payload, tail in itertools.product([*range(6), 36, 37, 38], PAYLOADS, TAILS):
        yield "msgpack", _pack([ormsgpack.Ext(code, _pack((*name, payload, *tail)))])
    for payload in PAYLOADS:
        yield "msgpack", _pack(ormsgpack.Ext(38, _pack(("__main__", "Model", [["class", *name]], payload))))
        yield (
            "msgpack",
            _pack(ormsgpack.Ext(36, _pack(("collections", "defaultdict", "defaultdict", {}, {"": name[1]})))),
        )


def _json_rows(name: tuple[str, str]) -> Iterator[tuple[str, bytes]]:
    arguments = ({}, {"args": ["true"]}, {"kwargs": {"x": "true"}}, {"args": [["true"]], "kwargs": {"shell": True}})
    methods = ({}, {"method": "fromisoformat"}, {"method": ["system", None]})
    for version, given, method in itertools.product((1, 2), arguments, methods):
        row = {"lc": version, "type": "constructor", "id": [*name[0].split("."), name[1]], **given, **method}
        yield "json", json.dumps(row).encode()


def main() -> None:
    """Read every row with serializers of every strictness."""
    serializers = [
        Serializer(),
        Serializer(allowed_msgpack_modules=[("a", "b")]),
        Serializer(allowed_json_modules=True),
    ]
    rows = [row for name in GADGETS for row in (*_msgpack_rows(name), *_json_rows(name))]
    for serializer in serializers:  # whatever is loaded on first use is loaded now
        serializer.loads_typed(serializer.dumps_typed([Model()] if serializer is serializers[0] else [1]))
    revived: list[str] = []
    before, active = set(sys.modules), True

    def audit(event: str, args: tuple[Any, ...]) -> None:
        if active and event.startswith(WATCHED):
            called.append(f"{event} {args!r}"[:200])

    sys.addaudithook(audit)
    for serializer, row in itertools.product(serializers, rows):
        with contextlib.suppress(DecodeError):
            revived.append(f"{row!r} -> {serializer.loads_typed(row)!r}"[:300])
    active = False
    events = [*called, *sorted(set(sys.modules) - before)]
    print(json.dumps({"rows": len(rows) * len(serializers), "revived": revived[:20], "events": events[:20]}))


if __name__ == "__main__":
    main()
