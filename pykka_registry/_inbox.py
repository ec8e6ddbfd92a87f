"""An inbox that can be closed: what is put in is handed out, handed back or refused.

Pykka's own inbox cannot be closed, so a message that is put between an actor's last look and the
end of its thread is stranded: its `ask` hangs for ever. Here `close` and `put` are atomic against
each other. After `close` has returned what was left, a `put` fails the envelope's future, or raises
if there is none to fail.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections import deque
from typing import TYPE_CHECKING, Any

from pykka import messages

from pykka_registry._future import Future

if TYPE_CHECKING:
    from collections.abc import Callable

    import pykka
    from pykka._envelope import Envelope

    from pykka_registry._waits import Waited

__all__ = ["Inbox", "answer", "fail", "is_stop"]


class Inbox:
    """A queue with many writers and one reader, in the shape that Pykka asks of an inbox.

    All fields but `owner` are touched only under `_lock`, which is a leaf: no user code runs under
    it. `owner` is set once, before the actor's constructor runs.
    """

    __slots__ = ("_envelopes", "_error", "_lock", "_parked", "owner")

    def __init__(self, owner: Waited | None = None) -> None:
        self.owner = owner
        self._lock = threading.Lock()
        self._envelopes: deque[Envelope[Any]] = deque()
        self._error: Callable[[], pykka.ActorDeadError] | None = None
        """Makes what a refused message fails with, once the inbox is closed."""
        self._parked: threading.Lock | None = None
        """What the reader sleeps on, while it does."""

    def put(self, envelope: Envelope[Any], /) -> None:
        """Accept the envelope, waking the reader.

        Raises:
            pykka.ActorDeadError: If the inbox is closed and nobody waits for a reply. Who does gets
                it as the reply, because Pykka's `ask(block=False)`, `stop` and `stop_all` expect an
                inbox not to raise.

        """
        if isinstance(envelope.reply_to, Future):
            envelope.reply_to.sent_to(self.owner)
        with self._lock:
            make_error = self._error
            if make_error is None:
                # Waking comes before appending, so that a KeyboardInterrupt between the two loses a
                # message that was not accepted yet, and never the wake-up for one that was.
                if self._parked is not None:
                    self._parked.release()
                    self._parked = None
                self._envelopes.append(envelope)
                return
        error = make_error()
        if envelope.reply_to is None:
            raise error
        fail(envelope, error)

    def get(self, timeout: float | None = None) -> Envelope[Any] | None:
        """Wait for the next envelope and take it out; for the one reader.

        Args:
            timeout: Seconds to wait at most; `None` waits for as long as it takes.

        Returns:
            The envelope, or `None` if the inbox is closed or `timeout` seconds have passed.

        """
        parked = threading.Lock()
        parked.acquire()
        while True:
            with self._lock:
                if self._envelopes:
                    return self._envelopes.popleft()
                if self._error is not None:
                    return None
                self._parked = parked
            if not parked.acquire(timeout=-1 if timeout is None else max(timeout, 0)):
                with self._lock:
                    self._parked = None
                    return self._envelopes.popleft() if self._envelopes else None

    def empty(self) -> bool:
        """Tell whether there is nothing to get; out of date as soon as it is said."""
        return not self._envelopes

    def close(self, error: Callable[[], pykka.ActorDeadError]) -> list[Envelope[Any]]:
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
        if self._parked is not None:
            self._parked.release()
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


def answer(envelope: Envelope[Any], value: Any) -> None:
    """Reply to whoever asked, if anybody did."""
    if envelope.reply_to is not None:
        with contextlib.suppress(
            queue.Full
        ):  # the asker has set its own future; that must not end the actor
            envelope.reply_to.set(value)


def fail(envelope: Envelope[Any], error: BaseException) -> None:
    """Reply with `error` to whoever asked, if anybody did."""
    if envelope.reply_to is not None:
        with contextlib.suppress(queue.Full):
            envelope.reply_to.set_exception((type(error), error, error.__traceback__))
