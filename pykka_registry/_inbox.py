"""An inbox that can be closed: what is put in is handed out, handed back or refused.

Pykka's own inbox cannot be closed, so a message that is put between an actor's last look and the
end of its thread is stranded: its `ask` hangs for ever. Here `close` and `put` are atomic against
each other. After `close` has returned what was left, a `put` fails the envelope's future, or raises
if there is none to fail. `close_if_empty` is what lets an actor retire: if a message has slipped in
it stays open, and the actor stays.

One class serves both runtimes. Its reader either works, or is *parked* with a way to wake it: a
thread sleeps in `get`, and waking releases the lock that it sleeps on; what runs in turns has left
with `leave`, and waking hands it to a pool, where it is *due* until a thread claims it.
"""

from __future__ import annotations

import contextlib
import enum
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
    Wake: TypeAlias = Callable[[], object]
    Later: TypeAlias = Callable[[Wake], object]

__all__ = [
    "NOTHING",
    "Inbox",
    "Letter",
    "Mail",
    "Nothing",
    "answer",
    "fail",
    "is_expired",
    "is_stop",
    "stop_letter",
]


class Nothing(enum.Enum):
    """The type of `NOTHING`."""

    NOTHING = "nothing"


NOTHING = Nothing.NOTHING
"""What `take` returns if there is nothing to do."""


class Letter:
    """An envelope that is addressed to a key: if one incarnation leaves it over, the next gets it.

    Written by its sender only, before it is sent.
    """

    __slots__ = ("message", "reply_to")

    def __init__(self, message: Any, reply_to: Future[Any] | None = None) -> None:
        self.message = message
        self.reply_to = reply_to


def _now(wake: Wake) -> object:
    return wake()


class Inbox:
    """A queue with many writers and one reader, in the shape that Pykka asks of an inbox.

    All fields but `owner` are touched only under `_lock`, which is a leaf: nothing that is not this
    module's runs under it. Waking may run an executor's code, so it is done after the lock is
    released, or handed to `later` by whoever holds another lock. `owner` is set once, before the
    actor's constructor runs. `closed` turns true once, and may be read without the lock.
    """

    __slots__ = (
        "_envelopes",
        "_error",
        "_idle_since",
        "_is_due",
        "_lock",
        "_nudged",
        "_parked",
        "_visited",
        "_worked",
        "owner",
    )

    def __init__(self, owner: Waited | None = None) -> None:
        self.owner = owner
        self._lock = threading.Lock()
        self._envelopes: deque[Mail] | None = None
        """There while there is something in it: an empty one takes 600 bytes."""
        self._error: Callable[[], pykka.ActorDeadError] | None = None
        """Makes what a refused message fails with, once the inbox is closed."""
        self._parked: Wake | None = None
        """Wakes the reader, while that is parked."""
        self._is_due = False
        """The reader was woken to take a turn, and no thread has begun that."""
        self._nudged = False
        """The reader is to look up from an empty inbox once."""
        self._visited = False
        """Something was put in since `is_cold` has looked."""
        self._worked = True
        """Something was handed out since the reader has found nothing to do."""
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

    # For writers.

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

    def accept(self, envelope: Mail, later: Later = _now) -> bool:
        """Take the envelope in, waking the reader; false if the inbox is closed. Atomic."""
        wake: Wake | None = None
        try:
            with self._lock:
                if self._error is not None:
                    return False
                # Taken before appending, so that a KeyboardInterrupt between the two loses a
                # message that was not accepted yet, and never the wake-up for one that was.
                if self._parked is not None:
                    wake = self._unpark()
                self._visited = True
                if self._envelopes is None:
                    self._envelopes = deque()
                self._envelopes.append(envelope)
        finally:
            if wake is not None:
                later(wake)
        return True

    def extend(self, envelopes: Iterable[Mail]) -> None:
        """Take in what has waited for this inbox, which is open; by its reader."""
        left = deque(envelopes)
        if not left:
            return
        with self._lock:
            if self._envelopes is not None:
                left.extend(self._envelopes)
            self._envelopes = left

    def nudge(self, later: Later = _now) -> None:
        """Make the reader find nothing once, as soon as there is nothing to hand out."""
        with self._lock:
            self._nudged = True
            wake = self._unpark()
        if wake is not None:
            later(wake)

    def idle_since(self) -> float | None:
        """Return since when the reader is parked on an empty inbox, or `None` if it is not."""
        with self._lock:
            return None if self._parked is None else self._idle_since

    def is_cold(self) -> bool:
        """Tell whether the reader is parked and nothing was put in since the last look.

        If not, the reader is nudged, but not woken: it says when it has nothing to do again.
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

    # For a reader that is a thread.

    def get(self, timeout: float | None = None) -> Mail | None:
        """Wait for the next envelope and take it out.

        Args:
            timeout: Seconds to wait at most; `None` waits for as long as it takes.

        Returns:
            The envelope, or `None` if there is none and the inbox is closed, or was nudged, or
            `timeout` seconds have passed.

        """
        asleep = threading.Lock()
        asleep.acquire()
        while True:
            with self._lock:
                if self._envelopes:
                    return self._take()
                if not self._park(asleep.release):
                    self._nudged = False
                    return None
            if not asleep.acquire(timeout=-1 if timeout is None else max(timeout, 0)):
                with self._lock:
                    self._parked = None
                    return self._take() if self._envelopes else None

    # For a reader that runs in turns.

    def take(self) -> Mail | Nothing | None:
        """Take out the next envelope, within a turn.

        Returns:
            The envelope; `None` if there is none and the inbox is closed or was nudged; else
            `NOTHING`.

        """
        with self._lock:
            if self._envelopes:
                return self._take()
            if self._error is None and not self._nudged:
                return NOTHING
            self._nudged = False
            return None

    def claim_due(self) -> bool:
        """Begin the turn that the reader was woken for, unless another thread has. Atomic."""
        with self._lock:
            is_due, self._is_due = self._is_due, False
            return is_due

    def claim_idle(self) -> bool:
        """Begin a turn for what does not go through the inbox, if nothing else waits. Atomic."""
        with self._lock:
            if self._parked is None or self._error is not None:
                return False
            self._parked = None
            self._visited = self._worked = True
            return True

    def leave(self, wake: Wake) -> bool:
        """End a turn; true if there is more to do, so that the reader is due. Atomic."""
        with self._lock:
            if not self._envelopes and self._park(wake):
                return False
            self._is_due = True
            return True

    # Closing.

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
            self._error = error
            return True

    def close(
        self, error: Callable[[], pykka.ActorDeadError], later: Later = _now
    ) -> list[Mail]:
        """Refuse whatever is put from now on, and return what was not taken out. Atomic.

        Args:
            error: Makes what a refused message fails with.
            later: Is handed what wakes the reader.

        """
        with self._lock:
            self._error = error
            left = list(self._envelopes or ())
            self._envelopes = None
            wake = self._unpark()
        if wake is not None:
            later(wake)
        return left

    def end(self, error: Callable[[], pykka.ActorDeadError]) -> None:
        """Refuse whatever is put from now on; what was put before is still handed out. Atomic.

        Args:
            error: Makes what a refused message fails with.

        """
        with self._lock:
            self._error = error
            wake = self._unpark()
        if wake is not None:
            wake()

    def close_after_fork(self, error: Callable[[], pykka.ActorDeadError]) -> None:
        """Close in a forked child, where the lock may be held by a thread that does not exist."""
        self._lock = threading.Lock()
        self._parked = None
        self.close(error)

    # What follows needs the lock.

    def _take(self) -> Mail:
        assert self._envelopes
        self._worked = True
        envelope = self._envelopes.popleft()
        if not self._envelopes:
            self._envelopes = None
        return envelope

    def _park(self, wake: Wake) -> bool:
        """Park the reader, which has found nothing, unless it is to look up."""
        if self._worked:
            self._worked = False
            self._idle_since = time.monotonic()
        if self._error is not None or self._nudged:
            return False
        self._parked = wake
        return True

    def _unpark(self) -> Wake | None:
        """Return what wakes the reader, if it is parked; whoever has that must call it."""
        wake = self._parked
        if wake is not None:
            self._parked = None
            self._is_due = True
        return wake


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
