"""An inbox that can be closed: what is put in is handed out, handed back or refused.

Pykka's own inbox cannot be closed, so a message that is put between an actor's last look and the
end of its thread is stranded: its `ask` hangs for ever. Here `close` and `put` are atomic against
each other. After `close` has returned what was left, a `put` fails the envelope's future, or raises
if there is none to fail. `close_if_empty` is what lets an actor be passivated: if a message
has slipped in it stays open, and the actor stays.

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
from _thread import LockType
from collections import deque
from typing import TYPE_CHECKING, Any, Protocol

from pykka import messages

from pykka_registry._future import Future

if TYPE_CHECKING:
    from collections.abc import Callable
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
    "Wakeable",
    "answer",
    "fail",
    "forgotten",
    "is_expired",
    "is_stop",
    "stop_letter",
]


_Stop = messages._ActorStop
_STOP = _Stop()


class Wakeable(Protocol):
    """A reader that runs in turns."""

    def wake(self) -> None:
        """See that it takes a turn."""
        ...

    def wake_if_due(self) -> None:
        """Do so if it is due and nobody was told."""
        ...


class Queue(Protocol):
    """Something in which letters wait."""

    queue: deque[Letter] | tuple[()]


forgotten: dict[Wakeable, None] = {}
"""Who may be due without anybody being told: an interrupt, or the end of the stack, came between.
They are woken by the next who looks after them; see `_turns.remember`. To put one in takes no call
of a function, so it can be done at the very end of the stack."""

_NOBODY = 0
_DUE = -1
"""What is in `Inbox._turn` besides the identity of a thread."""


def _this_thread() -> int:
    """Return the identity of the calling thread; this takes as much of the stack as to give up."""
    return threading.get_ident()


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

    All fields but `owner` and `_batch` are touched only under `_lock`, which is a leaf: nothing
    that is not this module's runs under it. Without it `is_due` looks at `_turn`, which may be out
    of date then; `begin` writes it before anybody else has the inbox, and `let_go` once it is
    closed, when nobody claims it any more. What the reader has taken over at once is in `_batch`;
    the reader takes from that without the lock, and who closes the inbox takes what is left: to
    take one from a `deque` is atomic, on a free-threaded build too, so each goes to one of the two.
    Waking may run an executor's code, so it is done after the lock is
    released, or handed to `later` by whoever holds another lock. `owner` is set once, before the
    actor's constructor runs. `closed` turns true once, and may be read without the lock.
    """

    __slots__ = (
        "_batch",
        "_envelopes",
        "_error",
        "_idle_since",
        "_is_submitted",
        "_lock",
        "_nudged",
        "_parked",
        "_reader",
        "_turn",
        "_visited",
        "_worked",
        "owner",
    )

    def __init__(self, owner: Waited | None = None, lock: LockType | None = None) -> None:
        self.owner = owner
        self._lock = threading.Lock() if lock is None else lock
        self._envelopes: deque[Mail] | None = None
        """There while there is something in it: an empty one takes 600 bytes."""
        self._batch: deque[Mail] | tuple[()] = ()
        """What comes before them, taken over by the reader."""
        self._error: Callable[[], pykka.ActorDeadError] | None = None
        """Makes what a refused message fails with, once the inbox is closed."""
        self._parked: LockType | Wakeable | None = None
        """The lock that the reader sleeps on, or the reader that runs in turns, while parked."""
        self._reader: Wakeable | None = None
        """The reader that runs in turns, once it has left for the first time."""
        self._turn = _NOBODY
        """`_DUE` if that one was woken to take a turn, and no thread has begun it; the thread that
        has. It is written in one step, so that an interrupt finds it in one state or the other; who
        is parked is so whatever is said here."""
        self._is_submitted = False
        """The pool was told, and has not come to it. It may be told before it is due again."""
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
        try:
            with self._lock:
                if self._error is not None:
                    return False
                # Before appending, so that a KeyboardInterrupt between the two loses a message that
                # was not accepted yet, and never the wake-up for one that was.
                if self._parked is not None:
                    self._unpark()
                # The first two are what that one asks, too: a call costs time.
                is_due = self._turn == _DUE and not self._is_submitted
                wake = self._wake_again() if is_due else None
                self._visited = True
                if self._envelopes is None:
                    self._envelopes = deque()
                self._envelopes.append(envelope)
            if wake is not None:
                later(wake)
        except BaseException:
            if self._reader is not None:
                forgotten[self._reader] = None
            raise
        return True

    def take_queue_of(self, source: Queue) -> None:
        """Take in what has waited for this inbox, which is open; by its reader."""
        with self._lock:
            waited: deque[Mail] = deque(source.queue)
            waited.extend(self._envelopes or ())
            # In one: an interrupt finds each of them here or there.
            self._envelopes, source.queue = waited, ()

    def nudge(self, later: Later = _now) -> None:
        """Make the reader find nothing once, as soon as there is nothing to hand out."""
        try:
            with self._lock:
                self._nudged = True
                wake = self._unpark() or self._wake_again()
            if wake is not None:
                later(wake)
        except BaseException:
            if self._reader is not None:
                forgotten[self._reader] = None
            raise

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
        return not self._batch and not self._envelopes

    def count(self) -> int:
        """Return how many there are to get; out of date as soon as it is said."""
        return len(self._batch) + len(self._envelopes or ())

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
            if self._batch:
                with contextlib.suppress(IndexError):  # it was closed meanwhile
                    return self._batch.popleft()
            with self._lock:
                if self._envelopes:
                    self._take_over()
                    continue
                if not self._park(asleep):
                    self._nudged = False
                    return None
            if not asleep.acquire(timeout=-1 if timeout is None else max(timeout, 0)):
                with self._lock:
                    self._parked = None
                    if not self._envelopes:
                        return None

    # For a reader that runs in turns.

    def take(self) -> Mail | Nothing | None:
        """Take out the next envelope, within a turn.

        Returns:
            The envelope; `None` if there is none and the inbox is closed or was nudged; else
            `NOTHING`.

        """
        while True:
            batch = self._batch
            if batch:
                first = None
                try:
                    first = batch[0]
                    batch.popleft()
                    return first  # noqa: TRY300  # so that this is still put back below
                except IndexError:  # it was closed meanwhile
                    pass
                except BaseException:  # an interrupt right after it was taken out
                    if first is not None and not (batch and batch[0] is first):
                        batch.appendleft(first)
                    raise
            with self._lock:
                if not self._envelopes:
                    if self._error is None and not self._nudged:
                        self._batch = ()
                        return NOTHING
                    self._nudged = False
                    return None
                self._take_over()

    def claim_due(self) -> bool:
        """Begin the turn that the reader was woken for, unless another thread has. Atomic."""
        with self._lock:
            if self._turn != _DUE:
                return False
            self._turn = _this_thread()
            self._parked = None
            return True

    def claim_idle(self) -> bool:
        """Begin a turn for what does not go through the inbox, if nothing else waits. Atomic."""
        with self._lock:
            if self._parked is None or self._error is not None:
                return False
            self._turn = threading.get_ident()
            self._parked = None
            self._visited = self._worked = True
            return True

    def begin(self) -> None:
        """Begin the first turn, which nobody else can have."""
        self._turn = threading.get_ident()

    def is_claimed_here(self) -> bool:
        """Tell whether the calling thread has begun a turn, and not ended it, or was parked since.

        If so the turn is its own: nobody can make it due any longer.
        """
        with self._lock:
            if self._turn != threading.get_ident():
                return False
            self._parked = None
            return True

    def take_back(self, reader: Wakeable) -> None:
        """Make the turn that the calling thread has begun, and does not take to its end, due."""
        with self._lock:
            self._reader = reader
            self._nudged = True
            self._turn = _DUE

    def let_go(self) -> None:
        """End the last turn."""
        self._turn = _NOBODY

    def is_due(self) -> bool:
        """Tell whether nobody runs a turn that is due; out of date as soon as it is said."""
        return self._turn == _DUE

    def is_forgotten(self) -> bool:
        """Tell whether the reader is due, and the pool was not told."""
        with self._lock:
            return self._wake_again() is not None

    def submit(self) -> bool:
        """Take note that the pool is about to be told; false if it was told already. Atomic."""
        with self._lock:
            if self._is_submitted:
                return False
            self._is_submitted = True
            return True

    def arrive(self) -> None:
        """Take note that the pool has come to it, or could not be told."""
        with self._lock:
            self._is_submitted = False

    def leave(self, reader: Wakeable) -> bool:
        """End a turn; true if there is more to do, so that the reader is due. Atomic."""
        with self._lock:
            self._reader = reader
            if not self._batch:
                self._batch = ()
                if not self._envelopes and self._park(reader):
                    self._turn = _NOBODY
                    return False
            if self._turn == _NOBODY:  # in a child that was forked within the turn
                return False
            self._turn = _DUE
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
            if self._batch or self._envelopes:
                return False
            self._error = error
            return True

    def close(
        self,
        error: Callable[[], pykka.ActorDeadError],
        later: Later = _now,
        left: list[Mail] | None = None,
    ) -> list[Mail]:
        """Refuse whatever is put from now on, and return what was not taken out. Atomic.

        Args:
            error: Makes what a refused message fails with.
            later: Is handed what wakes the reader.
            left: Is extended by what was not taken out, and returned. Whoever may be interrupted
                keeps it, and so finds in it what it has not dealt with.

        """
        left = [] if left is None else left
        taken: list[Mail] = []
        batch: deque[Mail] | tuple[()] = ()
        try:
            with self._lock:
                self._error = error
                wake = self._unpark() or self._wake_again()
                batch = self._batch
                if batch:
                    # From the end, so that the reader gets either the first of them or none; and in
                    # one call, which keeps what it has taken though an interrupt comes.
                    with contextlib.suppress(IndexError):
                        taken.extend(iter(batch.pop, None))
                if taken or self._envelopes:
                    end, rest = len(left), self._envelopes or ()
                    left[end:], taken, self._envelopes = [*taken[::-1], *rest], [], None
            if wake is not None:
                later(wake)
        except BaseException:
            if isinstance(batch, deque):
                batch.extend(taken[::-1])
            if self._reader is not None:
                forgotten[self._reader] = None
            raise
        return left

    def end(self, error: Callable[[], pykka.ActorDeadError]) -> None:
        """Refuse whatever is put from now on; what was put before is still handed out. Atomic.

        For a reader that is a thread.

        Args:
            error: Makes what a refused message fails with.

        """
        with self._lock:
            self._error = error
            self._unpark()

    def close_after_fork(self, error: Callable[[], pykka.ActorDeadError]) -> None:
        """Close in a forked child, where the lock may be held by a thread that does not exist.

        The reader is not woken: it does not exist either, or must not run.
        """
        self._lock = threading.Lock()
        self._parked = None
        self._turn = _NOBODY
        self.close(error)

    # What follows needs the lock.

    def _take_over(self) -> None:
        """Let the reader have all that there is, which is something."""
        assert self._envelopes
        self._worked = True
        self._batch, self._envelopes = self._envelopes, None

    def _wake_again(self) -> Wake | None:
        """Return what wakes a reader that is due, if the pool was not told.

        An interrupt may have come before that, or a thread that was to help does not.
        """
        if self._turn == _DUE and not self._is_submitted and self._reader is not None:
            return self._reader.wake
        return None

    def _park(self, reader: LockType | Wakeable) -> bool:
        """Park the reader, which has found nothing, unless it is to look up."""
        if self._worked:
            self._worked = False
            self._idle_since = time.monotonic()
        if self._error is not None or self._nudged:
            return False
        self._parked = reader
        return True

    def _unpark(self) -> Wake | None:
        """Wake the reader if it is parked; one that runs in turns is woken by who gets it returned.

        A thread is woken at once, which runs nobody's code, so that an interrupt loses no wake-up.
        """
        parked = self._parked
        if isinstance(parked, LockType):
            with contextlib.suppress(RuntimeError):  # an interrupt has come right after this before
                parked.release()
            self._parked = None
        elif parked is not None:
            self._turn = _DUE
            self._parked = None
            return None if self._is_submitted else parked.wake
        return None


def is_stop(message: object) -> bool:
    """Tell whether this is a request to stop.

    One that is left over is answered with success, as in Pykka, where other messages fail.
    """
    return message.__class__ is _Stop


def stop_letter(reply_to: Future[bool]) -> Letter:
    """Return the request to stop that goes by way of the key."""
    return Letter(_STOP, reply_to)


def is_expired(letter: Letter) -> bool:
    """Tell whether its asker has given up, or knows already what became of it."""
    return letter.reply_to is not None and letter.reply_to.done()


def answer(envelope: Mail, value: Any) -> None:
    """Reply to whoever asked, if anybody did."""
    future = envelope.reply_to
    if isinstance(future, Future):
        future.give(value)  # or the asker has set its own future; that must not end the actor
    elif future is not None:
        with contextlib.suppress(queue.Full):
            future.set(value)


def fail(envelope: Mail, error: BaseException) -> None:
    """Reply with `error` to whoever asked, if anybody did."""
    if envelope.reply_to is not None:
        with contextlib.suppress(queue.Full):
            envelope.reply_to.set_exception((type(error), error, error.__traceback__))
