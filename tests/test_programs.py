"""Programs that the tests fork from a process which has LangGraph loaded begin and end as any other."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.support.processes import Process, run

PROGRAM = """
import atexit, json, os, random, sys, threading, warnings
ours = [name for name in sys.modules if name.split(".")[0] in ("langgraph_checkpoint_dual", "tests")]
here = [__name__, __file__, sys.argv, sys.path[0], os.getcwd(), os.environ["SAID"], sys.stdin.read(), random.random()]
print(json.dumps([*here, ours, sys.modules["__main__"].__dict__ is globals(), threading.active_count()]))
print("langgraph.graph" in sys.modules, file=sys.stderr)
atexit.register(print, "at exit")
class Last:
    def __del__(self): os.write(1, b"collected")
last = Last()
last.itself = last
left_open = open(__file__)
"""


def program(folder: Path, end: str = "") -> Path:
    path = folder / "program.py"
    path.write_text(PROGRAM + end, encoding="utf-8")
    return path


def told(folder: Path, end: str = "", **options: Any) -> Any:
    done = run(program(folder, end), "a", "b", given="given", cwd=folder, env={"SAID": "x"}, **options)
    first, *others = done.stdout.splitlines()
    return json.loads(first), others, done


def test_a_program_is_by_itself(tmp_path: Path) -> None:
    path = str(program(tmp_path))
    here, _, done = told(tmp_path)
    other, _, _ = told(tmp_path)
    assert done.stderr.startswith("True\n")
    assert here[:7] == ["__main__", path, [path, "a", "b"], str(tmp_path), str(tmp_path), "x", "given"]
    assert here[7] != other[7], "both have drawn the same"
    assert here[8:] == [[], True, 1]


def test_a_program_ends_as_any_other(tmp_path: Path) -> None:
    _, others, done = told(tmp_path)
    assert (done.returncode, others) == (0, ["at exit", "collected"])
    assert "ResourceWarning: unclosed file" in done.stderr
    for end, code, complaint in (("sys.exit(3)", 3, ""), ("1 / 0", 1, "ZeroDivisionError"), ("os.abort()", -6, "")):
        _, _, done = told(tmp_path, end)
        assert done.returncode == code
        assert complaint in done.stderr


def test_warnings_are_errors_unless_asked_otherwise(tmp_path: Path) -> None:
    end = "warnings.warn('careful')"
    assert told(tmp_path, end)[2].returncode == 1
    assert "UserWarning: careful" in told(tmp_path, end, warnings=None)[2].stderr
    assert "careful" not in told(tmp_path, end, warnings="ignore")[2].stderr


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_program_is_ended_by_a_signal(tmp_path: Path, number: signal.Signals) -> None:
    with Process(
        program(tmp_path, "print('ready', flush=True)\nthreading.Event().wait()"), env={"SAID": ""}
    ) as process:
        process.stdin.close()
        while process.stdout.readline() != "ready\n":
            assert process.poll() is None
        process.send_signal(number)
        assert process.wait(60) == -number
        assert process.poll() == -number
