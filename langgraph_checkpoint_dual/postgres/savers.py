"""`PostgresSaver` and `AsyncPostgresSaver`: how they are opened, set up and closed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from typing import Any

from langgraph.checkpoint.serde.base import SerializerProtocol
from psycopg import AsyncConnection, AsyncPipeline, Connection, Pipeline
from psycopg_pool import AsyncConnectionPool, ConnectionPool
from typing_extensions import Self

from langgraph_checkpoint_dual.cache import Cache
from langgraph_checkpoint_dual.core.conversations.indexing import set_up
from langgraph_checkpoint_dual.core.integrity import Given
from langgraph_checkpoint_dual.core.redacting import Redact
from langgraph_checkpoint_dual.core.retention import Retention
from langgraph_checkpoint_dual.core.tx import finish
from langgraph_checkpoint_dual.errors import ConfigError
from langgraph_checkpoint_dual.hopping import HoppingFace
from langgraph_checkpoint_dual.observing import Observer
from langgraph_checkpoint_dual.postgres.driver import BlockingEngine, LoopEngine, OneLoop
from langgraph_checkpoint_dual.postgres.pools import Beside, blocking_pool, loop_pool
from langgraph_checkpoint_dual.postgres.schema import Schema
from langgraph_checkpoint_dual.postgres.sessions import AsyncConn, Limits, SyncConn
from langgraph_checkpoint_dual.postgres.statements import Dialect
from langgraph_checkpoint_dual.saver import Saver


class PostgresSaver(Saver):
    """A checkpoint saver on Postgres.

    Args:
        conn: a psycopg connection or pool (used as it comes and never closed here), or a connection string, for which a
            pool is opened here: use the saver as a context manager then, or `close` it.
        pipe: the pipeline that the connection is in, if it is in one.
        serde: the serializer; `Serializer()` unless given.
        schema: the schema of the tables, made by `setup` if it is not there; unless given, the connection's search path
            decides.
        prefix: what the names of the tables begin with.
        cache: what to remember of stored checkpoints, `Cache(max_bytes, max_entries)`.
        fence: refuse, with `StaleHeadError`, to put a checkpoint whose parent is not the latest of its thread and
            namespace any more, unless it is a deliberate fork or update: of two runs on one thread one wins each step.
        late: what becomes of what a run puts whose thread was deleted since it began: "drop" leaves it out and logs a
            warning, "raise" raises `DeletedError`.
        history: "all" keeps every checkpoint; "latest" only what is needed to go on: a put takes away the checkpoint
            that it goes on from, with the subgraphs that this called.
        retention: the policy that is applied to a thread now and then as checkpoints are put to it; see
            docs/retention.md. It cannot have `max_idle`.
        adopt: read the threads that the official saver has left in the same database, where the search path finds its
            tables, as if they were ours. They are looked for once, by the first operation, and again after `setup`.
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
        retry_for: for how many seconds an operation whose connection was lost, or that met a deadlock, is repeated on
            another connection; then `UnavailableError`. Repeating is safe: what was stored already is recognised. 0
            never repeats, and nor does a single connection.
        response_timeout: after how many seconds without an answer the connection of an operation is given up as lost;
            `None` waits for ever.
        options: for a connection string: `min_size` (1), `max_size` (10), `timeout` (30 seconds for a free connection)
            and other options of psycopg's pool; any other goes to the connections.
    """

    _system = "postgresql"

    def __init__(
        self,
        conn: SyncConn | str,
        pipe: Pipeline | None = None,
        serde: SerializerProtocol | None = None,
        *,
        schema: str | None = None,
        prefix: str = "dual_",
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
        retry_for: float = 30.0,
        response_timeout: float | None = 60.0,
        **options: Any,
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
        _check(conn, (Connection, ConnectionPool), pipe, options)
        owned = isinstance(conn, str)
        self.conn: SyncConn = blocking_pool(conn, options) if isinstance(conn, str) else conn
        self.pipe = pipe
        tables = Schema(Dialect(schema, prefix), schema)
        reopen = partial(blocking_pool, conn, options) if isinstance(conn, str) else None
        limits = Limits(retry_for, response_timeout)
        self._engine = BlockingEngine(self.conn, tables, limits, pipe=pipe, owned=owned, reopen=reopen)
        self._blocking, self._looping = self._engine, HoppingFace(self._engine)

    @classmethod
    @contextmanager
    def from_conn_string(
        cls, conn_string: str, *, pipeline: bool = False, serde: SerializerProtocol | None = None, **options: Any
    ) -> Iterator[Self]:
        """A saver on a pool of its own, closed at the end of the block. `options` are those of the class.

        `pipeline` is accepted and changes nothing: an operation is one round trip already.
        """
        with cls(conn_string, serde=serde, **options) as saver:
            yield saver

    def setup(self, *, create: bool = True) -> None:
        """Make the tables, or bring them up to date. Done by the first operation otherwise.

        Args:
            create: `False` only checks that the tables, and this role's rights on them, are there; nothing is changed.

        Raises:
            SchemaError: if the database is newer than this package, or something is missing and cannot be made; it says
                what.
        """
        self._adoption.forget()
        if create:
            self._engine.setup()
        else:
            self._engine.verify()
        finish(set_up(self._index, self._blocking, create=create))

    @staticmethod
    def ddl(*, schema: str | None = None, prefix: str = "dual_", search: bool = False) -> str:
        """What `setup` does in an empty database, as SQL for someone else to run. It is one transaction.

        Args:
            search: with the table that savers with `search=True` need.
        """
        return Schema(Dialect(schema, prefix), schema).ddl(search=search)

    def close(self) -> None:
        self._engine.close()

    async def aclose(self) -> None:
        await asyncio.to_thread(self.close)


class AsyncPostgresSaver(Saver):
    """The checkpoint saver on Postgres for event loops.

    Its blocking methods work too, from any thread: they use blocking connections of their own, opened when needed.
    These are also used on event loops that psycopg refuses: on Windows' `ProactorEventLoop`, and on a second one.

    Args:
        conn: a psycopg async connection or pool (used as it comes and never closed here), or a connection string, for
            which a pool is opened here: use the saver as an async context manager then, or `aclose` it.
        pipe, serde, schema, prefix, cache, fence, late, history, retention, adopt, search, redact, observer, plaintext,
            integrity_key, retry_for, response_timeout, options: as for `PostgresSaver`.
    """

    _system = "postgresql"

    def __init__(
        self,
        conn: AsyncConn | str,
        pipe: AsyncPipeline | None = None,
        serde: SerializerProtocol | None = None,
        *,
        schema: str | None = None,
        prefix: str = "dual_",
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
        retry_for: float = 30.0,
        response_timeout: float | None = 60.0,
        **options: Any,
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
        _check(conn, (AsyncConnection, AsyncConnectionPool), pipe, options)
        owned = isinstance(conn, str)
        self.conn: AsyncConn = loop_pool(conn, options) if isinstance(conn, str) else conn
        self.pipe = pipe
        limits = Limits(retry_for, response_timeout)
        dialect = Dialect(schema, prefix)
        opens = Beside(self.conn)
        self._beside = BlockingEngine(opens, Schema(dialect, schema), limits, owned=True)
        self._engine = LoopEngine(self.conn, Schema(dialect, schema), limits, pipe=pipe, owned=owned)
        self._blocking = self._beside
        self._looping: OneLoop = OneLoop(self._engine, self._beside, opens)

    @classmethod
    @asynccontextmanager
    async def from_conn_string(
        cls, conn_string: str, *, pipeline: bool = False, serde: SerializerProtocol | None = None, **options: Any
    ) -> AsyncIterator[Self]:
        """A saver on a pool of its own, closed at the end of the block. `options` are those of the class.

        `pipeline` is accepted and changes nothing: an operation is one round trip already.
        """
        async with cls(conn_string, serde=serde, **options) as saver:
            yield saver

    async def setup(self, *, create: bool = True) -> None:
        """As `PostgresSaver.setup`."""
        self._adoption.forget()
        await self._looping.setup(create)
        await set_up(self._index, self._looping, create=create)

    ddl = staticmethod(PostgresSaver.ddl)

    def close(self) -> None:
        """Close what blocking methods have opened, and refuse further operations.

        A pool that this saver opened can only be closed by its event loop: use `aclose` or `async with` for it.
        """
        self._beside.close()
        self._engine.refuse()

    async def aclose(self) -> None:
        await self._engine.aclose()
        await asyncio.to_thread(self._beside.close)


def _check(conn: Any, kinds: tuple[type, ...], pipe: Any, options: dict[str, Any]) -> None:
    if not isinstance(conn, (str, *kinds)):
        names = ", ".join(kind.__name__ for kind in kinds)
        raise ConfigError(f"conn must be a connection string or one of {names}, not a {type(conn).__name__}")
    if pipe is not None and not isinstance(conn, kinds[0]):
        raise ValueError("a pipeline belongs to a single connection, not to a pool")
    if options and not isinstance(conn, str):
        raise ConfigError(
            f"{', '.join(sorted(options))}: only for a connection string; set it on the pool or connection"
        )
