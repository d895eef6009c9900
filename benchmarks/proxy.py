"""A TCP relay on the loopback that delays each direction, so that a local Postgres answers like one across a network.

It runs in its own process. Bytes are delayed, not throttled: any number of them may be on the way at the same time.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import selectors
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection

import psycopg
from psycopg.conninfo import make_conninfo

ONE_WAY_SECONDS = 0.001


class DelayLine:
    """Writes what it is fed to a transport, in order, `delay` seconds later."""

    def __init__(self, transport: asyncio.Transport, delay: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._transport = transport
        self._delay = delay
        self._queue: deque[tuple[float, bytes | None]] = deque()

    def feed(self, data: bytes | None) -> None:
        """Pass `data` on after the delay; None closes the transport."""
        self._queue.append((self._loop.time() + self._delay, data))
        if len(self._queue) == 1:
            self._loop.call_at(self._queue[0][0], self._release)

    def _release(self) -> None:
        while self._queue and self._queue[0][0] <= self._loop.time():
            data = self._queue.popleft()[1]
            if data is None:
                self._transport.close()
            elif not self._transport.is_closing():
                self._transport.write(data)
        if self._queue:
            self._loop.call_at(self._queue[0][0], self._release)


class Relay(asyncio.Protocol):
    """One end of a relayed connection; bytes that arrive before the other end is connected are kept."""

    def __init__(self) -> None:
        self.line: DelayLine | None = None
        self.transport: asyncio.Transport | None = None
        self._early: list[bytes | None] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def connect_to(self, line: DelayLine) -> None:
        """From now on pass everything to `line`."""
        self.line = line
        for data in self._early:
            line.feed(data)
        self._early.clear()

    def data_received(self, data: bytes) -> None:
        self._pass_on(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._pass_on(None)

    def _pass_on(self, data: bytes | None) -> None:
        if self.line is None:
            self._early.append(data)
        else:
            self.line.feed(data)


class ClientSide(Relay):
    """Accepts a client and connects it to the server."""

    def __init__(self, host: str, port: int, delay: float) -> None:
        super().__init__()
        self._host, self._port, self._delay = host, port, delay
        self._connecting: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._connecting = asyncio.get_running_loop().create_task(self._connect())

    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        if self._host.startswith("/"):
            _, server = await loop.create_unix_connection(Relay, f"{self._host}/.s.PGSQL.{self._port}")
        else:
            _, server = await loop.create_connection(Relay, self._host, self._port)
        assert self.transport is not None
        assert server.transport is not None
        server.connect_to(DelayLine(self.transport, self._delay))
        self.connect_to(DelayLine(server.transport, self._delay))


async def _serve(host: str, port: int, delay: float, ready: Connection) -> None:
    server = await asyncio.get_running_loop().create_server(lambda: ClientSide(host, port, delay), "127.0.0.1", 0)
    ready.send(server.sockets[0].getsockname()[1])
    await server.serve_forever()


def _run(host: str, port: int, delay: float, ready: Connection) -> None:
    # select() takes fractions of a millisecond; the default epoll rounds every delay up to the next one.
    loop = asyncio.SelectorEventLoop(selectors.SelectSelector())
    loop.run_until_complete(_serve(host, port, delay, ready))


@contextmanager
def delayed(location: str, one_way: float = ONE_WAY_SECONDS) -> Iterator[str]:
    """A connection string that reaches the server of `location` through the relay.

    Args:
        location: Postgres connection string; a unix socket or TCP without SSL.
        one_way: seconds that each direction is delayed.
    """
    with psycopg.connect(location) as connection:
        host, port = connection.info.host, connection.info.port
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_run, args=(host, port, one_way, sender), daemon=True)
    process.start()
    try:
        if not receiver.poll(30):
            raise RuntimeError("the relay did not start")
        relayed = {"host": "127.0.0.1", "port": receiver.recv(), "sslmode": "disable", "gssencmode": "disable"}
        yield make_conninfo(location, **relayed)
    finally:
        process.terminate()
        process.join()
