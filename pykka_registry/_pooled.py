"""A Pykka actor that has no thread of its own: many actors on few threads; see `_turns`."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, ClassVar, cast

import pykka
from pykka import messages

from pykka_registry._checks import check_executor
from pykka_registry._events import EndReason
from pykka_registry._flag import StopFlag
from pykka_registry._future import Future
from pykka_registry._inbox import Inbox, answer, fail, is_stop
from pykka_registry._pool import in_spare_thread
from pykka_registry._turns import Turns, send_and_help
from pykka_registry._waits import Runs, may_help, mine

if TYPE_CHECKING:
    import concurrent.futures
    import contextvars
    import threading
    from collections.abc import Hashable

    from pykka._actor import ActorInbox

    from pykka_registry._inbox import Mail

__all__ = ["PooledActor"]

_logger = logging.getLogger("pykka")
"""Pykka's own: a pooled actor logs what any other does."""


_RUNTIME = frozenset({"_create_actor_inbox", "_create_future", "_start_actor_loop"})


class PooledActor(pykka.Actor):
    """A Pykka actor that takes turns on a pool of threads, and occupies none while it is idle.

    All that Pykka documents of an actor holds. It handles one message at a time, in order, and
    what one turn has written the next one sees, whichever threads run them.

    **Who waits helps.** A thread that blocks, without a timeout, on the answer of an actor that
    nobody runs just now, runs it itself. The actor's code then sees that thread's thread-locals,
    and holds the re-entrant locks that the thread holds; context variables are the actor's own. A
    Ctrl-C that lands in the actor's code is raised to the thread that waits; the actor ends as
    failed, and nothing else stops. A thread that runs an asyncio event loop never helps, nor one
    that is handling an exception, nor does anybody help a class that says `helping = False`.

    Handlers that block occupy a thread of the pool each. If all are occupied others wait; but what
    a handler waits for is run by a spare thread, whatever the executor, if nobody else begins it.

    An actor that is idle does not keep the process alive, as a thread of its own would: when the
    main thread ends, and nothing is left to run, the process ends without a call of `on_stop`.
    """

    executor: ClassVar[concurrent.futures.Executor | None] = None
    """Who runs the turns; its tasks must run in threads of this process. `None`: a pool of 32
    threads that all share."""

    helping: ClassVar[bool] = True
    """Whether a thread that waits for this actor may run it."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Refuse what could not run, and parts of another runtime, which nobody would look at."""
        super().__init_subclass__(**kwargs)
        check_executor(cls.executor, f"{cls.__name__}.executor")
        helping: Any = cls.helping
        if not isinstance(helping, bool):
            msg = f"{cls.__name__}.helping must be True or False, not {helping!r}"
            raise TypeError(msg)
        if pykka.ThreadingActor in cls.__mro__:  # `issubclass` would ask for what it has not yet
            msg = (
                f"{cls.__name__} has two runtimes: take PooledActor or pykka.ThreadingActor, "
                "not both"
            )
            raise TypeError(msg)
        if hasattr(cls, "_pykka_registry_launch"):  # an aggregate: see `check_bases`
            return
        for base in cls.__mro__[: cls.__mro__.index(PooledActor)]:
            own = _RUNTIME & vars(base).keys()
            if own:
                msg = (
                    f"{base.__name__} defines {', '.join(sorted(own))}, which a PooledActor has "
                    "for itself: it works with its own inbox and futures only"
                )
                raise TypeError(msg)

    @staticmethod
    def _create_actor_inbox() -> ActorInbox:
        return cast("ActorInbox", Inbox())

    @staticmethod
    def _create_future() -> pykka.Future[Any]:
        return Future()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        if hasattr(type(self), "_pykka_registry_launch"):
            return  # an aggregate, which has all this from its life
        super().__init__(*args, **kwargs)
        self._pykka_registry_turns = turns = _ActorTurns(self)
        self.actor_inbox = cast("ActorInbox", turns.inbox)
        self.actor_stopped = cast("threading.Event", _Flag(turns))
        self._pykka_registry_ref = _PooledRef(self)

    @property
    def actor_ref(self) -> pykka.ActorRef[Any]:
        """See `pykka.Actor.actor_ref`."""
        try:
            return self._pykka_registry_ref
        except AttributeError:
            cls = type(self).__name__
            msg = f"{cls} has no ref yet: its __init__ must call super().__init__() first"
            raise AttributeError(msg) from None

    def _start_actor_loop(self) -> None:
        turns = self._pykka_registry_turns
        depth = len(mine.running)
        try:
            turns.inbox.begin()
            turns.inbox.take_back(turns)
            turns.wake()
        except BaseException:
            turns.recover(depth)
            raise


class _PooledRef(pykka.ActorRef[Any]):
    """A ref whose blocking `ask` helps."""

    def __init__(self, actor: PooledActor) -> None:
        super().__init__(actor)
        self._turns = actor._pykka_registry_turns

    def ask(self, message: Any, *, block: bool = True, timeout: float | None = None) -> Any:
        if not block or timeout is not None:
            return super().ask(message, block=block, timeout=timeout)
        turns = self._turns
        depth = len(mine.running)
        try:
            if turns.claim():
                return turns.here(turns.receive, message)
        except BaseException:
            turns.recover(depth)
            raise
        return send_and_help(self._send, message).get()

    def _send(self, message: Any) -> Future[Any]:
        return cast("Future[Any]", super().ask(message, block=False))


class _Flag(StopFlag):
    """A stop flag that, if it is set from outside, has the actor come to its end."""

    __slots__ = ("_turns",)

    def __init__(self, turns: _ActorTurns) -> None:
        super().__init__()
        self._turns = turns

    def set(self) -> None:
        """Set it, and have the actor see that."""
        super().set()
        self._turns.inbox.nudge()


class _ActorTurns(Turns, Runs):
    """The turns of an actor that is no aggregate: what Pykka's loop does, message by message."""

    def __init__(self, actor: PooledActor) -> None:
        self.inbox = Inbox(self)
        self.context: contextvars.Context | None = None
        self.interrupt: BaseException | None = None
        self.broken: tuple[BaseException | None, Mail | None] | None = None
        self.is_helped = False
        self.has_started = False
        self.runner: int | None = None
        self._actor: PooledActor | None = actor
        self._class = type(actor)
        self._urn = actor.actor_urn
        self._is_listed = True
        """Pykka's registry knows it."""
        self._left: list[Mail] = []
        """What is to be refused at its end."""
        self._stops_all = False

    yields_to_timeouts = True

    def key_of(self) -> tuple[Hashable, ...]:
        """Return what to name it by."""
        return (self._urn,)

    @property
    def runs(self) -> Runs:
        """Itself."""
        return self

    @property
    def executor(self) -> concurrent.futures.Executor | None:
        """Who runs its turns."""
        return self._class.executor

    @property
    def helping(self) -> bool:
        """Whether a thread that waits for it may run it."""
        return self._class.helping

    def is_part_of(self, target: object) -> bool:
        """Tell whether who waits for the target waits for this."""
        return Runs.is_part_of(self, target)

    def claim(self) -> bool:
        """Begin a turn in this thread, if nobody runs it, nothing waits for it, and it may be."""
        actor = self._actor
        return (
            actor is not None
            and not actor.actor_stopped.is_set()
            and self.helping
            and may_help()
            and self.inbox.claim_idle()
        )

    def has_ended(self) -> bool:
        """Tell whether nothing is left to run, but for `finish`, which was cut short."""
        return self._actor is None

    def receive(self, message: Any) -> Any:
        """Handle a message; within a turn."""
        assert self._actor is not None
        return self._actor._handle_receive(message)

    def start_up(self) -> EndReason | None:
        """Run `on_start`; the result is why the actor ends, if it does."""
        actor = self._actor
        assert actor is not None
        try:
            actor.on_start()
        except BaseException as error:  # noqa: BLE001  # what Pykka does not survive here
            self._note_interrupt(error)
            self._note_failure(error)
        return EndReason.START_FAILED if actor.actor_stopped.is_set() else None

    def step(self, envelope: Mail | None) -> EndReason | None:
        """Handle a message as Pykka's loop does; the result is why the actor ends, if it does."""
        actor = self._actor
        assert actor is not None
        future = None if envelope is None else envelope.reply_to
        # Else whoever asked has been told that it will not be handled.
        if envelope is not None and (not isinstance(future, Future) or future.begin()):
            try:
                reply = actor._handle_receive(envelope.message)
            except BaseException as error:  # noqa: BLE001
                self._handle_exception(error, envelope)
            else:
                if is_stop(envelope.message):
                    self._is_listed = False
                answer(envelope, reply)
        return EndReason.STOPPED if actor.actor_stopped.is_set() else None

    def _handle_exception(self, error: BaseException, envelope: Mail) -> None:
        if is_stop(envelope.message):  # it came from on_stop, so that has run
            self._note_interrupt(error)
            self._note_failure(error)
            answer(envelope, None)
        elif not isinstance(error, Exception):
            self.end_with(error, envelope)
        elif envelope.reply_to is None:
            self._fail(error)
        else:
            fail(envelope, error)
            self.note_answer(error)

    def note_answer(self, error: Exception) -> None:
        """Take note that an asker gets this exception."""
        _logger.info("Exception returned from %s to caller:", self._actor, exc_info=error)

    def end_with(self, error: BaseException, envelope: Mail | None) -> pykka.ActorDeadError:
        """End it because a handler raised SystemExit or its like; returns what its asker gets."""
        actor = self._actor
        assert actor is not None
        dead = pykka.ActorDeadError(f"{actor.actor_ref} ended with {error!r} in the handler")
        dead.__cause__ = error
        if envelope is not None:
            fail(envelope, dead)
        if self._note_interrupt(error):
            self._fail(error)
        else:
            _logger.debug("%r in %s. Stopping all actors.", error, actor)
            self._stops_all = True
            actor._handle_receive(messages._ActorStop())
            self._is_listed = False
        return dead

    def crash(self, error: BaseException, envelope: Mail | None) -> None:
        """End it because its thread was interrupted outside of its code, with this in hand."""
        if envelope is not None and is_stop(envelope.message):
            self._left.append(envelope)
        elif envelope is not None:
            fail(envelope, self._dead())
        if self._actor is not None and not self._actor.actor_stopped.is_set():
            self._fail(error)

    def finish(self, _reason: EndReason) -> None:
        """Refuse what is left, and let go of the actor."""
        actor = self._actor
        if actor is not None:
            if self._is_listed:
                pykka.ActorRegistry.unregister(actor.actor_ref)
            actor.actor_stopped.set()
        self.inbox.close(self._gone, left=self._left)
        while self._left:
            envelope = self._left[0]
            if is_stop(envelope.message):
                answer(envelope, None)
            else:
                fail(envelope, self._dead())
            del self._left[0]
        self._actor = self.context = None
        if self._stops_all:
            # Pykka does this before it refuses what is left. In a thread that nobody waits for: the
            # one that helps may run actors that are to end.
            in_spare_thread(pykka.ActorRegistry.stop_all)

    def _fail(self, error: BaseException) -> None:
        actor = self._actor
        assert actor is not None
        self._note_failure(error)
        try:
            actor.on_failure(type(error), error, error.__traceback__)
        except BaseException as another:  # noqa: BLE001
            self._note_interrupt(another)
            self._note_failure(another)

    def _note_failure(self, error: BaseException) -> None:
        """Do what Pykka does with an actor that fails."""
        actor = self._actor
        assert actor is not None
        _logger.error("Unhandled exception in %s:", actor, exc_info=error)
        pykka.ActorRegistry.unregister(actor.actor_ref)
        self._is_listed = False
        actor.actor_stopped.set()

    def _note_interrupt(self, error: BaseException) -> bool:
        """Tell whether this is a Ctrl-C that has landed in a thread that helps."""
        if self.is_helped and isinstance(error, KeyboardInterrupt):
            self.interrupt = error
            return True
        return False

    def _dead(self) -> pykka.ActorDeadError:
        name = f"{self._class.__name__} ({self._urn})"
        return pykka.ActorDeadError(f"{name} stopped before handling the message")

    def _gone(self) -> pykka.ActorDeadError:
        return pykka.ActorDeadError(f"{self._class.__name__} ({self._urn}) not found")
