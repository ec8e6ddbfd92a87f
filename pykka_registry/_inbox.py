"""An inbox that can be closed: what is put in is handed out, handed back or refused.

Pykka's own inbox cannot be closed, so a message that is put between an actor's last look and the
end of its thread is stranded: its `ask` hangs for ever. Here `close` and `put` are atomic against
each other. After `close` has returned what was left, a `put` fails the envelope's future, or raises
if there is none to fail. `close_if_empty` is what lets an actor be passivated: if a message
has slipped in it stays open, and the actor stays.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Any

from pykka import messages

from pykka_registry._future import Future

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import TypeAlias

    import pykka
    from pykka._envelope import Envelope

    from pykka_registry._waits import Waited

    Mail: TypeAlias = "Envelope[Any] | Letter"

__all__ = ["Inbox", "Letter", "Mail", "answer", "fail", "is_expired", "is_stop", "stop_letter"]


class Letter:
    """An envelope that is addressed to a key: if one incarnation leaves it over, the next gets it.

    Written by its sender only, before it is sent.
    """

    __slots__ = ("message", "reply_to")

    def __init__(self, message: Any, reply_to: Future[Any] | None = None) -> None:
        self.message = message
        self.reply_to = reply_to


class Inbox:
    """A queue with many writers and one reader, in the shape that Pykka asks of an inbox.

    All fields but `owner` are touched only under `_lock`, which is a leaf: no user code runs under
    it. `owner` is set once, before the actor's constructor runs. `closed` turns true once, and may
    be read without the lock.
    """

    __slots__ = (
        "_envelopes",
        "_error",
        "_idle_since",
        "_lock",
        "_nudged",
        "_parked",
        "_visited",
        "owner",
    )

    def __init__(self, owner: Waited | None = None) -> None:
        self.owner = owner
        self._lock = threading.Lock()
        self._envelopes: deque[Mail] = deque()
        self._error: Callable[[], pykka.ActorDeadError] | None = None
        """Makes what a refused message fails with, once the inbox is closed."""
        self._parked: threading.Lock | None = None
        """What the reader sleeps on, while it does."""
        self._nudged = False
        """The reader is to look up from an empty inbox once."""
        self._visited = False
        """Something was put in since `is_cold` has looked."""
        self._idle_since = 0.0
        """When the reader has found nothing to do, in seconds of `time.monotonic`."""

    @property
    def idle_from(self) -> float:
        """When the reader has last found nothing to do; read by itself."""
        return self._idle_since

    @property
    def closed(self) -> bool:
        """Whether nothing is accepted any longer."""
        return self._error is not None

    def put(self, envelope: Envelope[Any], /) -> None:
        """Accept the envelope, waking the reader.

        Raises:
            pykka.ActorDeadError: If the inbox is closed and nobody waits for a reply. Who does gets
                it as the reply, because Pykka's `ask(block=False)`, `stop` and `stop_all` expect an
                inbox not to raise.

        """
        if isinstance(envelope.reply_to, Future):
            envelope.reply_to.sent_to(self.owner)
        if self.accept(envelope):
            return
        assert self._error is not None
        error = self._error()
        if envelope.reply_to is None:
            raise error
        fail(envelope, error)

    def accept(self, envelope: Mail) -> bool:
        """Take the envelope in, waking the reader; false if the inbox is closed. Atomic."""
        with self._lock:
            if self._error is not None:
                return False
            # Waking comes before appending, so that a KeyboardInterrupt between the two loses a
            # message that was not accepted yet, and never the wake-up for one that was.
            self._wake()
            self._visited = True
            self._envelopes.append(envelope)
            return True

    def extend(self, envelopes: Iterable[Mail]) -> None:
        """Take in what has waited for this inbox, which is open."""
        with self._lock:
            self._wake()
            self._envelopes.extend(envelopes)

    def get(self, timeout: float | None = None) -> Mail | None:
        """Wait for the next envelope and take it out; for the one reader.

        Args:
            timeout: Seconds to wait at most; `None` waits for as long as it takes.

        Returns:
            The envelope, or `None` if there is none and the inbox is closed, or was nudged, or
            `timeout` seconds have passed.

        """
        parked = threading.Lock()
        parked.acquire()
        was_idle = False
        while True:
            with self._lock:
                if self._envelopes:
                    return self._envelopes.popleft()
                if not was_idle:
                    was_idle = True
                    self._idle_since = time.monotonic()
                if self._error is not None or self._nudged:
                    self._nudged = False
                    return None
                self._parked = parked
            if not parked.acquire(timeout=-1 if timeout is None else max(timeout, 0)):
                with self._lock:
                    self._parked = None
                    return self._envelopes.popleft() if self._envelopes else None

    def nudge(self) -> None:
        """Make `get` return `None` once, as soon as there is nothing to hand out."""
        with self._lock:
            self._nudged = True
            self._wake()

    def idle_since(self) -> float | None:
        """Return since when the reader has slept on an empty inbox, or `None` if it does not."""
        with self._lock:
            return None if self._parked is None else self._idle_since

    def is_cold(self) -> bool:
        """Tell whether the reader sleeps and nothing was put in since the last look.

        If that is not so, the reader is to say when it next has nothing to do.
        """
        with self._lock:
            if self._parked is not None and not self._visited:
                return True
            self._visited = False
            self._nudged = True
            return False

    def empty(self) -> bool:
        """Tell whether there is nothing to get; out of date as soon as it is said."""
        return not self._envelopes

    def close_if_empty(self, error: Callable[[], pykka.ActorDeadError]) -> bool:
        """Refuse whatever is put from now on, unless there is something to get. Atomic.

        Args:
            error: Makes what a refused message fails with.

        Returns:
            Whether the inbox is closed.

        """
        with self._lock:
            if self._envelopes:
                return False
            self._refuse_from_now_on(error)
            return True

    def close(self, error: Callable[[], pykka.ActorDeadError]) -> list[Mail]:
        """Refuse whatever is put from now on, and return what was not taken out. Atomic.

        Args:
            error: Makes what a refused message fails with.

        """
        with self._lock:
            self._refuse_from_now_on(error)
            left = list(self._envelopes)
            self._envelopes.clear()
            return left

    def end(self, error: Callable[[], pykka.ActorDeadError]) -> None:
        """Refuse whatever is put from now on; what was put before is still handed out. Atomic.

        Args:
            error: Makes what a refused message fails with.

        """
        with self._lock:
            self._refuse_from_now_on(error)

    def _refuse_from_now_on(self, error: Callable[[], pykka.ActorDeadError]) -> None:
        """Needs the lock."""
        self._error = error
        self._wake()

    def _wake(self) -> None:
        """Let the reader go on. Needs the lock."""
        if self._parked is not None:
            try:  # noqa: SIM105  # this costs nothing
                self._parked.release()
            except RuntimeError:  # an interrupt has come right after this the last time
                pass
            self._parked = None

    def close_after_fork(self, error: Callable[[], pykka.ActorDeadError]) -> None:
        """Close in a forked child, where the lock may be held by a thread that does not exist."""
        self._lock = threading.Lock()
        self._parked = None
        self.close(error)


def is_stop(message: object) -> bool:
    """Tell whether this is a request to stop.

    One that is left over is answered with success, as in Pykka, where other messages fail.
    """
    return isinstance(message, messages._ActorStop)


def stop_letter(reply_to: Future[bool]) -> Letter:
    """Return the request to stop that goes by way of the key."""
    return Letter(messages._ActorStop(), reply_to)


def is_expired(letter: Letter) -> bool:
    """Tell whether its asker has given up, or knows already what became of it."""
    return letter.reply_to is not None and letter.reply_to.done()


def answer(envelope: Mail, value: Any) -> None:
    """Reply to whoever asked, if anybody did."""
    if envelope.reply_to is not None:
        with contextlib.suppress(
            queue.Full
        ):  # the asker has set its own future; that must not end the actor
            envelope.reply_to.set(value)


def fail(envelope: Mail, error: BaseException) -> None:
    """Reply with `error` to whoever asked, if anybody did."""
    if envelope.reply_to is not None:
        with contextlib.suppress(queue.Full):
            envelope.reply_to.set_exception((type(error), error, error.__traceback__))
