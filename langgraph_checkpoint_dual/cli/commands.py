"""How commands are declared: each takes a `Desk`, and has the options that all share besides its own."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any, get_type_hints

import typer

from langgraph_checkpoint_dual.cli.outcomes import Code, told
from langgraph_checkpoint_dual.cli.places import opened
from langgraph_checkpoint_dual.errors import ConfigError
from langgraph_checkpoint_dual.opening import masked, secrets_of
from langgraph_checkpoint_dual.saver import Saver

Database = Annotated[
    str | None,
    typer.Option(
        "--db", "-d", envvar="LANGGRAPH_DUAL_URL", metavar="URL", show_default=False,
        help="The database: postgresql://…, sqlite:///file.db, or the path of a SQLite file.",
    ),
]  # fmt: skip
Schema = Annotated[str | None, typer.Option("--schema", metavar="NAME", help="Postgres: the schema of the tables.")]
Prefix = Annotated[str, typer.Option("--prefix", metavar="TEXT", help="What the names of the tables begin with.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before something is removed.")]


@dataclass(frozen=True)
class Desk:
    """What every command is given: the database to work on, and how to print."""

    url: str | None
    schema: str | None
    prefix: str
    as_json: bool

    @property
    def database(self) -> str:
        """The URL of the database.

        Raises:
            ConfigError: if none was given.
        """
        if not self.url:
            raise ConfigError(
                "which database? Name it with --db URL, or in the environment variable LANGGRAPH_DUAL_URL"
            )
        return self.url

    @property
    def shown(self) -> str:
        """The database's URL without its password."""
        return self.mask(self.database)

    def mask(self, text: str) -> str:
        """Text without the database's password."""
        return masked(text, *(secrets_of(self.url) if self.url else ()))

    @contextmanager
    def saver(self, **options: Any) -> Iterator[Saver]:
        """The saver on the database; the options are those of `opened`."""
        with opened(self.database, self.schema, self.prefix, **options) as saver:
            yield saver


def confirm(question: str, *, yes: bool) -> None:
    """Ask before something is removed; without a terminal to ask, `--yes` is needed."""
    if yes:
        return
    if not typer.get_text_stream("stdin").isatty():
        raise ConfigError(f"{question} There is no terminal to ask; say --yes if you mean it")
    if not _says_yes(question):
        typer.secho("nothing was changed", err=True)
        raise typer.Exit(Code.NO)


def _says_yes(question: str) -> bool:
    """The answer of whoever sits at the terminal; none is a no."""
    while True:
        typer.echo(f"{question} [y/N]: ", nl=False, err=True)
        answer = sys.stdin.readline().strip().lower()
        if answer in ("", "n", "no", "y", "yes"):
            return answer.startswith("y")


_SHARED: dict[str, tuple[Any, Any]] = {
    "db": (Database, None),
    "schema": (Schema, None),
    "prefix": (Prefix, "dual_"),
    "json": (AsJson, False),
}


def command(
    app: typer.Typer, name: str, *, panel: str | None = None, json: bool = True
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Makes a function a command: its first parameter is the `Desk`, the others are the command's own.

    Args:
        panel: under which heading the help lists it.
        json: whether it prints something that `--json` turns into JSON.
    """
    shared = {key: value for key, value in _SHARED.items() if json or key != "json"}

    def register(function: Callable[..., None]) -> Callable[..., None]:
        hints = get_type_hints(function, include_extras=True)
        own = list(inspect.signature(function).parameters.values())[1:]

        def run(**arguments: Any) -> None:
            given = [arguments.pop(key, None) for key in _SHARED]
            desk = Desk(given[0], given[1], given[2], bool(given[3]))
            with told(desk.mask):
                function(desk, **arguments)

        parameters = [one.replace(annotation=hints[one.name], kind=inspect.Parameter.KEYWORD_ONLY) for one in own]
        parameters += [
            inspect.Parameter(key, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)
            for key, (kind, default) in shared.items()
        ]
        vars(run)["__signature__"] = inspect.Signature(parameters)
        run.__annotations__ = {one.name: one.annotation for one in parameters}
        run.__doc__ = function.__doc__
        app.command(name, rich_help_panel=panel)(run)
        return function

    return register
