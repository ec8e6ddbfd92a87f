"""A network between an application and a PostgreSQL server, that a test can cut at a statement."""

from __future__ import annotations

import selectors
import socket
import threading
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from enum import Enum, auto
from pathlib import Path
from typing import TYPE_CHECKING

from psycopg.conninfo import conninfo_to_dict

from tests.support import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Generator

    from tests.eventsourcing.support import Store

_COMMIT = b"COMMIT"
_COMMITTED = b"COMMIT\0"  # the tag with which the server says that it has
_BLOCK = 65_536


class Moment(Enum):
    """When the connection of a commit is cut."""

    BEFORE = auto()
    """The statement does not come to the server."""

    IN_FLIGHT = auto()
    """It does, and nobody waits for what the server does with it."""

    AFTER = auto()
    """The server has committed, and its answer does not come to the client."""


@dataclass(eq=False)
class _Connection:
    client: socket.socket
    server: socket.socket
    hides_answers: bool = False

    def close(self) -> None:
        self.client.close()
        self.server.close()


class Link:
    """Forwards what clients and the server send, until it is told to cut them off.

    What it is told is told before the client sends, and what it has done is seen by what the client
    gets; so no lock is needed.
    """

    def __init__(self, server: str) -> None:
        self.cuts: list[Moment] = []
        """What becomes of the next commits."""
        self.outage: tuple[bytes, ...] = ()
        """Statements that cut their connection, whenever no commit is to be cut."""
        self.cut = 0
        """How many connections were cut."""
        self._server = server
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._wake, self._woken = socket.socketpair()
        self._selector = selectors.DefaultSelector()
        self._connections: set[_Connection] = set()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._wake.close()
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive(), "it hangs"

    def _run(self) -> None:
        with self._listener, self._woken, self._selector:
            self._selector.register(self._listener, selectors.EVENT_READ)
            self._selector.register(self._woken, selectors.EVENT_READ)
            while self._step():
                pass
            for connection in list(self._connections):
                self._close(connection)

    def _step(self) -> bool:
        for key, _ in self._selector.select():
            if key.fileobj is self._woken:
                return False
            if key.fileobj is self._listener:
                self._accept()
            elif key.data in self._connections:  # and not just closed
                self._forward(key.data, is_from_client=key.fileobj is key.data.client)
        return True

    def _accept(self) -> None:
        server = socket.socket(socket.AF_UNIX)
        server.connect(self._server)
        connection = _Connection(self._listener.accept()[0], server)
        self._connections.add(connection)
        for end in (connection.client, connection.server):
            self._selector.register(end, selectors.EVENT_READ, connection)

    def _close(self, connection: _Connection) -> None:
        self._connections.remove(connection)
        for end in (connection.client, connection.server):
            self._selector.unregister(end)
        connection.close()

    def _cut(self, connection: _Connection) -> None:
        self.cut += 1
        self._close(connection)

    def _forward(self, connection: _Connection, *, is_from_client: bool) -> None:
        try:
            data = (connection.client if is_from_client else connection.server).recv(_BLOCK)
            if not data:
                self._close(connection)
            elif is_from_client:
                self._from_client(connection, data)
            elif not connection.hides_answers:
                connection.client.sendall(data)
            elif _COMMITTED in data:
                self._cut(connection)
        except OSError:  # one of them has gone
            self._close(connection)

    def _from_client(self, connection: _Connection, data: bytes) -> None:
        moment = self.cuts.pop(0) if self.cuts and _COMMIT in data else None
        is_out = moment is None and not self.cuts and any(word in data for word in self.outage)
        if is_out or moment is Moment.BEFORE:
            self._cut(connection)
            return
        connection.hides_answers |= moment is Moment.AFTER  # what is sent next is a synchronisation
        connection.server.sendall(data)
        if moment is Moment.IN_FLIGHT:
            self._cut(connection)


@contextmanager
def link_to(store: Store) -> Generator[tuple[Link, Store]]:
    """Put a link before a server; return it, and the store for those who are to go by it."""
    where = conninfo_to_dict(store.url)
    server = Path(str(where["host"]), f".s.PGSQL.{where.get('port') or 5432}")
    with closing(Link(str(server))) as link:
        settings = {
            "POSTGRES_HOST": "127.0.0.1",
            "POSTGRES_PORT": str(link.port),
            "POSTGRES_POOL_SIZE": "1",
        }
        yield link, replace(store, settings=store.settings | settings)
