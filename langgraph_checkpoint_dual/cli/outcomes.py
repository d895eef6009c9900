"""How a command ends: its exit code, and what is said of an error. No password and no traceback is ever shown."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import IntEnum

import typer

from langgraph_checkpoint_dual.cli import EXIT_CODE, SAID
from langgraph_checkpoint_dual.cli.interrupts import gently
from langgraph_checkpoint_dual.errors import CheckpointerError, ConfigError, ThreadNotFoundError


class Code(IntEnum):
    """The exit codes."""

    DONE = 0
    NO = 1
    """The answer is no: something is damaged or different, a search found nothing, or a question was declined."""
    USAGE = 2
    """The command cannot be understood."""
    NOT_FOUND = 3
    """There is no such database, thread or checkpoint."""
    FAILED = 4
    """The database cannot be used, or what was asked for failed."""
    INTERRUPTED = EXIT_CODE


class NotFound(CheckpointerError):
    """What a command is about does not exist."""


def code_of(error: BaseException) -> Code:
    """The exit code that an error means."""
    if isinstance(error, (NotFound, ThreadNotFoundError)):
        return Code.NOT_FOUND
    if isinstance(error, ConfigError):
        return Code.USAGE
    return Code.FAILED


@contextmanager
def told(mask: Callable[[str], str]) -> Iterator[None]:
    """Turns errors into a line on stderr and an exit code.

    Args:
        mask: takes a text and returns it without secrets.
    """
    try:
        with gently():
            yield
    except BrokenPipeError:  # nobody reads on: typer ends without a word
        raise
    except (CheckpointerError, sqlite3.Error, OSError, ValueError) as exc:
        _tell(mask(_text(exc)))
        raise typer.Exit(code_of(exc)) from None
    except KeyboardInterrupt:
        typer.secho(SAID, err=True, fg=typer.colors.RED)
        raise typer.Exit(Code.INTERRUPTED) from None
    except Exception as exc:
        if not type(exc).__module__.startswith("psycopg"):
            raise
        _tell(mask(_text(exc)))
        raise typer.Exit(Code.FAILED) from None


def _text(error: BaseException) -> str:
    said = str(error).strip() or type(error).__name__
    return said if isinstance(error, CheckpointerError) else f"{type(error).__name__}: {said}"


def _tell(text: str) -> None:
    typer.secho(f"langgraph-dual: {text}", err=True, fg=typer.colors.RED)
