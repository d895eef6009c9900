"""`SqliteSaver` and `AsyncSqliteSaver`: how they are opened, set up and closed."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from os import PathLike, fspath
from typing import Any

import aiosqlite
from langgraph.checkpoint.serde.base import SerializerProtocol
from typing_extensions import Self

from langgraph_checkpoint_dual.cache import Cache
from langgraph_checkpoint_dual.core.conversations.indexing import set_up
from langgraph_checkpoint_dual.core.integrity import Given
from langgraph_checkpoint_dual.core.redacting import Redact
from langgraph_checkpoint_dual.core.retention import Retention
from langgraph_checkpoint_dual.core.tx import finish
from langgraph_checkpoint_dual.errors import ConfigError
from langgraph_checkpoint_dual.observing import Observer
from langgraph_checkpoint_dual.saver import Saver
from langgraph_checkpoint_dual.sqlite.connections import FileConnections, OneConnection
from langgraph_checkpoint_dual.sqlite.driver import DEFAULT_TIMEOUT, LoopFace, SqliteEngine
from langgraph_checkpoint_dual.sqlite.schema import ddl
from langgraph_checkpoint_dual.sqlite.through_aiosqlite import AiosqliteBlockingFace, AiosqliteFace

_SYNCHRONOUS = ("EXTRA", "FULL", "NORMAL", "OFF")


class _SqliteSaver(Saver):
    """What the two SQLite savers share."""

    _system = "sqlite"
    _backend: SqliteEngine | AiosqliteFace

    @staticmethod
    def ddl(*, prefix: str = "dual_", search: bool = False) -> str:
        """What `setup` does in an empty database, as SQL for someone else to run. It is one transaction.

        Args:
            search: with the tables that savers with `search=True` need.
        """
        return ddl(prefix, search=search)

    def close(self) -> None:
        self._backend.close()

    async def aclose(self) -> None:
        await asyncio.to_thread(self._backend.close)


class SqliteSaver(_SqliteSaver):
    """A checkpoint saver on SQLite.

    Args:
        conn: a connection (made with `check_same_thread=False`; used as it comes and never closed here), or the path
            of a file, or `":memory:"`. A path is opened here: use the saver as a context manager, or `close` it.
        serde: the serializer; `Serializer()` unless given.
        prefix: what the names of the tables begin with.
        timeout: how long a write waits for other processes' locks, in seconds; then it raises `BusyError`.
        synchronous: SQLite's setting for files opened here; `FULL` survives power loss.
        cache: what to remember of stored checkpoints, `Cache(max_bytes, max_entries)`.
        fence: refuse, with `StaleHeadError`, to put a checkpoint whose parent is not the latest of its thread and
            namespace any more, unless it is a deliberate fork or update: of two runs on one thread one wins each step.
        late: what becomes of what a run puts whose thread was deleted since it began: "drop" leaves it out and logs a
            warning, "raise" raises `DeletedError`.
        history: "all" keeps every checkpoint; "latest" only what is needed to go on: a put takes away the checkpoint
            that it goes on from, with the subgraphs that this called.
        retention: the policy that is applied to a thread now and then as checkpoints are put to it; see
            docs/retention.md. It cannot have `max_idle`.
        adopt: read the threads that the official saver has left in the same database as if they were ours. They are
            looked for once, by the first operation, and again after `setup`.
        search: index the words of messages for `search`; a text instead of `True` names the channel of messages.
        redact: what never reaches the database of metadata, which LangGraph fills from the run's config: keys and
            patterns (`["*token*", "api_key"]`), or a function that takes the metadata and returns what to store; see
            docs/secrets.md.
        observer: what to log, or measure, of operations; `Observer()` unless given.
        plaintext: what becomes of stored values that are not encrypted if `serde` encrypts: "refuse" raises
            `PlaintextError`, "read" reads them; see docs/encryption.md.
        integrity_key: 16 to 64 random bytes; what is stored has MACs under it, so that rows which somebody without the
            key has changed are refused. Or a list of such keys, of which the first makes MACs and all check them.
            `adopt` is off then. See docs/encryption.md.
    """

    _backend: SqliteEngine

    def __init__(
        self,
        conn: sqlite3.Connection | str | PathLike[str],
        *,
        serde: SerializerProtocol | None = None,
        prefix: str = "dual_",
        timeout: float = DEFAULT_TIMEOUT,
        synchronous: str = "FULL",
        cache: Cache | None = None,
        fence: bool = False,
        late: str = "drop",
        history: str = "all",
        retention: Retention | None = None,
        adopt: bool = True,
        search: bool | str = False,
        redact: Redact | None = None,
        observer: Observer | None = None,
        plaintext: str = "refuse",
        integrity_key: Given = None,
    ) -> None:
        super().__init__(
            serde=serde,
            cache=cache,
            fence=fence,
            late=late,
            history=history,
            retention=retention,
            adopt=adopt,
            search=search,
            redact=redact,
            observer=observer,
            plaintext=plaintext,
            integrity_key=integrity_key,
        )
        self.conn = conn
        self._backend = _engine(conn, prefix=prefix, timeout=timeout, synchronous=synchronous)
        self._blocking, self._looping = self._backend, LoopFace(self._backend)

    @classmethod
    @contextmanager
    def from_conn_string(cls, conn_string: str, **options: Any) -> Iterator[Self]:
        """A saver on a file or `":memory:"`, closed at the end of the block. `options` are those of the class."""
        with cls(conn_string, **options) as saver:
            yield saver

    def setup(self, *, create: bool = True) -> None:
        """Make the tables, or bring them up to date. Done by the first operation otherwise.

        Args:
            create: `False` only checks that the tables are there and up to date; nothing is changed.

        Raises:
            SchemaError: if the database is newer than this package, or something is missing and cannot be made.
        """
        self._adoption.forget()
        if create:
            self._backend.setup()
        else:
            self._backend.verify()
        finish(set_up(self._index, self._blocking, create=create))

    @property
    def is_setup(self) -> bool:
        """Whether the tables are known to be there and up to date."""
        return self._backend.is_ready

    @contextmanager
    def cursor(self, transaction: bool = True) -> Iterator[sqlite3.Cursor]:
        """A cursor on the connection that writes, for statements of one's own; committed at the end if `transaction`.

        While the block runs, no other operation writes. It is rolled back if the block raises.
        """
        self._backend.setup()
        with self._backend.alone(commit=transaction) as conn:
            yield conn.cursor()


class AsyncSqliteSaver(_SqliteSaver):
    """The checkpoint saver on SQLite for event loops; its blocking methods work too, from any thread.

    Args:
        conn: an `aiosqlite.Connection` (used as it comes and never closed here), or the path of a file, or
            `":memory:"`. A path is opened here, without aiosqlite: use the saver as a context manager, or `aclose` it.
        serde, prefix, timeout, synchronous, cache, fence, late, history, retention, adopt, search, redact, observer,
            plaintext, integrity_key: as for `SqliteSaver`.
    """

    def __init__(
        self,
        conn: aiosqlite.Connection | str | PathLike[str],
        *,
        serde: SerializerProtocol | None = None,
        prefix: str = "dual_",
        timeout: float = DEFAULT_TIMEOUT,
        synchronous: str = "FULL",
        cache: Cache | None = None,
        fence: bool = False,
        late: str = "drop",
        history: str = "all",
        retention: Retention | None = None,
        adopt: bool = True,
        search: bool | str = False,
        redact: Redact | None = None,
        observer: Observer | None = None,
        plaintext: str = "refuse",
        integrity_key: Given = None,
    ) -> None:
        super().__init__(
            serde=serde,
            cache=cache,
            fence=fence,
            late=late,
            history=history,
            retention=retention,
            adopt=adopt,
            search=search,
            redact=redact,
            observer=observer,
            plaintext=plaintext,
            integrity_key=integrity_key,
        )
        self.conn = conn
        self._looping: LoopFace | AiosqliteFace
        if isinstance(conn, aiosqlite.Connection):
            self._backend = self._looping = AiosqliteFace(conn, prefix=prefix, timeout=timeout)
            self._blocking = AiosqliteBlockingFace(self._looping)
        else:
            self._backend = _engine(conn, prefix=prefix, timeout=timeout, synchronous=synchronous)
            self._blocking, self._looping = self._backend, LoopFace(self._backend)

    @classmethod
    @asynccontextmanager
    async def from_conn_string(cls, conn_string: str, **options: Any) -> AsyncIterator[Self]:
        """A saver on a file or `":memory:"`, closed at the end of the block. `options` are those of the class."""
        async with cls(conn_string, **options) as saver:
            yield saver

    async def setup(self, *, create: bool = True) -> None:
        """As `SqliteSaver.setup`."""
        self._adoption.forget()
        if create:
            await self._looping.setup()
        else:
            await self._looping.verify()
        await set_up(self._index, self._looping, create=create)


def _engine(conn: Any, *, prefix: str, timeout: float, synchronous: str) -> SqliteEngine:
    if synchronous not in _SYNCHRONOUS:
        raise ConfigError(f"synchronous must be one of {', '.join(_SYNCHRONOUS)}, not {synchronous!r}")
    return SqliteEngine(_connections(conn, timeout, synchronous), prefix=prefix, timeout=timeout)


def _connections(conn: Any, timeout: float, synchronous: str) -> FileConnections | OneConnection:
    if isinstance(conn, sqlite3.Connection):
        return OneConnection(conn, owned=False)
    path = fspath(conn) if isinstance(conn, (str, PathLike)) else None
    if not isinstance(path, str):
        raise ConfigError(f"conn must be a connection or a path, not a {type(conn).__name__}")
    if path in ("", ":memory:") or "mode=memory" in path:
        shared = sqlite3.connect(path, isolation_level=None, check_same_thread=False, uri=path.startswith("file:"))
        return OneConnection(shared, owned=True)
    return FileConnections(path, timeout=timeout, synchronous=synchronous)
