"""One incarnation's life, from its constructor to the last line of its teardown.

This is the one module that stands in for Pykka's actor loop. Of Pykka's private parts it calls
`_handle_receive`, which takes a message to its handler; `tests/test_pykka_facts.py` pins what is
relied on.

A life has a beginning, steps and an end. Here a thread of its own takes it through them; how it
does without one is in `_pooled_life`.
"""

from __future__ import annotations

import logging
import os
import threading
import time
import uuid
from typing import TYPE_CHECKING, Any

import pykka

from pykka_registry import _frames, _waits
from pykka_registry._actor_ref import IncarnationRef
from pykka_registry._events import EndReason
from pykka_registry._exceptions import Undeliverable
from pykka_registry._flag import StopFlag
from pykka_registry._future import Future
from pykka_registry._inbox import Inbox, answer, fail, is_stop
from pykka_registry._log import log, name

if TYPE_CHECKING:
    from _thread import LockType
    from collections.abc import Callable, Sequence
    from types import TracebackType

    from pykka_registry._aggregate import AggregateMixin
    from pykka_registry._entry import Incarnation
    from pykka_registry._inbox import Mail

__all__ = ["Life", "Tail", "live"]

_LOCK: list[LockType] = []
"""Guards a few lines that are rarely run."""


def _make_lock() -> None:
    """Make it, and another in a forked child, where a thread that is not there may hold it."""
    _LOCK[:] = [threading.Lock()]


_make_lock()
if hasattr(os, "register_at_fork"):  # pragma: no branch  # there is no fork on Windows
    os.register_at_fork(after_in_child=_make_lock)


class Tail:
    """The last few lines of an end, in a thread that goes on after them."""

    __slots__ = ("__weakref__", "_lock")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()

    def over(self) -> None:
        """Say that they have run."""
        self._lock.release()

    def join(self, timeout: float) -> None:
        """Wait until they have, for so many seconds at most."""
        if self._lock.acquire(timeout=timeout):
            self._lock.release()


class Ending:
    """What a life has once something ends it; see `Life`."""

    __slots__ = ("cause", "is_abandoned", "left", "stops", "stops_all", "tracebacks")

    def __init__(self) -> None:
        self.cause: BaseException | None = None
        """What it failed of."""
        self.tracebacks: Sequence[TracebackType] = ()
        """Those of the cause, and of what has led to it, as they were before others got it."""
        self.left: list[Mail] | None = None
        """What was left over when its inbox was closed, and is not dealt with yet."""
        self.stops: list[Mail] = []
        """Who asked it to stop: answered when the key is free."""
        self.is_abandoned = False
        """It did not start or end in time, and its key is quarantined until it ends."""
        self.stops_all = False
        """A handler ended with SystemExit or its like."""


class Life(StopFlag):
    """What an aggregate has from before its constructor to after its end; and its stop flag.

    There may be a million that wait for their next message. So what only its end needs is an object
    of its own, made under `_LOCK` when it is first wanted.

    All fields are written by the one thread that runs the aggregate at the time, but for one case:
    somebody outside who sets the stop flag of a ref, or abandons the aggregate, runs `end` in their
    thread, which appends to `Ending.stops` and then looks at `is_over`. The aggregate's thread sets
    `is_over` and then empties `stops`. So each stop is answered by one of the two. `_urn` is
    written once, under `_LOCK`.
    """

    __slots__ = (
        "_urn",
        "actor",
        "ending",
        "inbox",
        "incarnation",
        "is_over",
        "ref",
    )

    def __init__(
        self, incarnation: Incarnation | None, actor: AggregateMixin | None = None
    ) -> None:
        super().__init__()
        self.incarnation = incarnation
        self.actor = actor
        """There from its constructor to its end."""
        self.inbox = Inbox(incarnation, self.inbox_lock())
        self.ref = IncarnationRef(self)
        self.ending: Ending | None = None
        self.is_over = False
        """The key is free, or its successor's."""
        self._urn: str | None = None

    @property
    def actor_class(self) -> type[pykka.Actor]:
        """The class of its actor."""
        if self.incarnation is None:
            return type(self.actor)  # type: ignore[return-value]  # constructed by hand: it is there
        return self.incarnation.blueprint.aggregate_class

    @property
    def urn(self) -> str:
        """What Pykka calls it. Made when somebody asks, which takes longer than to start one."""
        with _LOCK[0]:
            if self._urn is None:
                self._urn = uuid.uuid4().urn
            return self._urn

    @property
    def cause(self) -> BaseException | None:
        """What it failed of."""
        return None if self.ending is None else self.ending.cause

    def begin_to_end(self) -> Ending:
        """Return what there is for its end, the same for all who ask."""
        if self.ending is None:
            with _LOCK[0]:
                if self.ending is None:
                    self.ending = Ending()
        return self.ending

    def describe(self, name: str) -> Any:
        """Return what Pykka's own ref of this actor has by this name."""
        match name:
            case "actor_class":
                return self.actor_class
            case "actor_inbox":
                return self.inbox
            case "actor_stopped":
                return self
            case "actor_urn":
                return self.urn
            case _:
                pass
        actor = self.actor
        if actor is not None:
            known = vars(pykka.ActorRef(actor))
            if name in known:
                return known[name]
        elif name.startswith("_actor"):  # what a proxy asks for
            msg = f"{self.actor_class.__name__} ({self.urn}) not found"
            raise pykka.ActorDeadError(msg)
        msg = f"{IncarnationRef.__name__!r} object has no attribute {name!r}"
        raise AttributeError(msg)

    # Running a message in the thread that waits for it.

    def claim(self) -> bool:
        """Begin a turn in this thread, if that may be: not for one that has its own thread."""
        return False

    def recover(self, depth: int) -> None:
        """Do nothing: nobody else runs it."""

    def here(self, function: Callable[..., Any], /, *args: Any) -> Any:
        """Run a message in the turn that was claimed."""
        raise NotImplementedError

    def help(self, until: Future[Any]) -> bool:  # noqa: ARG002
        """Return false: it has a thread of its own."""
        return False

    def rescue(self) -> None:
        """Do nothing: it has a thread of its own."""

    def receive(self, message: Any) -> Any:
        """Handle a message; within a turn."""
        assert self.actor is not None
        return self.actor._handle_receive(message)

    def invoke(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call a method; within a turn."""
        return getattr(self.actor, name)(*args, **kwargs)

    # Its course.

    def start(self) -> EndReason | None:
        """Construct the actor and start it; the result is why it ends, if it does.

        Whatever user code raises goes no further, here and in what follows.
        """
        incarnation = self.incarnation
        assert incarnation is not None
        blueprint = incarnation.blueprint
        cls = blueprint.aggregate_class
        try:
            actor = cls.__new__(cls, *blueprint.args, **blueprint.kwargs)
            actor._pykka_registry_life = self
            self.actor = actor
            actor.__init__(*blueprint.args, **blueprint.kwargs)  # type: ignore[misc]  # as cls() does
            self.show()
        except BaseException as error:  # noqa: BLE001  # nothing may leave a claimed key behind
            return self._fail_start(error)
        try:
            actor.on_start()
            is_active = incarnation.entry.table.activated(incarnation, self.ref)
        except BaseException as error:  # noqa: BLE001  # its own, or its key's __hash__ or __eq__
            self.hide()
            return self._fail_start(error)
        if not is_active:
            # Its flag was set, or it took so long that it was abandoned.
            self.hide()
            self._run_last_hook_if_abandoned()
            return EndReason.START_FAILED
        return None

    def step(self, envelope: Mail | None) -> EndReason | None:  # noqa: C901  # a call costs time
        """Handle a message, or see what else there is to do; the result is why it ends, if so."""
        incarnation = self.incarnation
        assert incarnation is not None
        if envelope is None:
            reason = incarnation.entry.table.rest(incarnation)
            if reason is not None:
                self._passivate(reason)
                return reason
        else:
            if incarnation.asked is not None:
                incarnation.entry.table.decline(incarnation)
            future = envelope.reply_to
            if isinstance(future, Future) and not future.begin():
                return None  # whoever asked has been told that it will not be handled
            message = envelope.message
            if is_stop(message):
                self._stop(envelope)
                return EndReason.STOPPED
            try:
                reply = self.actor._handle_receive(message)  # type: ignore[union-attr]
            except BaseException as error:  # noqa: BLE001
                reason = self._handle_exception(error, envelope)
                if reason is not None:
                    return reason
            else:
                if isinstance(future, Future):
                    future.give(reply)
                elif future is not None:
                    answer(envelope, reply)
        if not self._is_set and self.inbox._error is None:
            return None
        # Somebody has set the flag, which Pykka's own stop does only after this:
        self.hide()
        self._run_last_hook_if_abandoned()
        return EndReason.STOPPED

    def finish(self, reason: EndReason) -> None:
        """Free the key, and let go of the actor."""
        incarnation = self.incarnation
        assert incarnation is not None
        stops_all = self.begin_to_end().stops_all
        leaving = None if stops_all else self.leaving()
        try:
            try:
                self.set()
            finally:
                try:
                    incarnation.entry.table.ended(incarnation, reason, self.cause, leaving)
                finally:  # whatever a key may raise, nobody waits for ever
                    self.is_over = True
                    self.answer_stops()
                    self.actor = None
                    self._forget_cause()
        finally:
            if isinstance(leaving, Tail):
                try:
                    incarnation.entry.table.has_left(leaving)
                finally:
                    leaving.over()
        if stops_all:
            # Pykka does this before the teardown. Here it comes last: it waits for every other
            # actor, and some of them may be waiting for this one.
            self.stop_all()

    # What the runtime decides.

    def inbox_lock(self) -> LockType:
        """Return the lock of its inbox."""
        return threading.Lock()

    def leaving(self) -> threading.Thread | Tail:
        """Return what a shutdown joins once the key is free, so that nothing goes on after it."""
        return threading.current_thread()

    def show(self) -> None:
        """Let Pykka's registry know it."""
        pykka.ActorRegistry.register(self.ref)

    def hide(self) -> None:
        """Take it out of Pykka's registry."""
        pykka.ActorRegistry.unregister(self.ref)

    def stop_all(self) -> None:
        """Stop all actors, because of a handler that raised SystemExit or its like."""
        pykka.ActorRegistry.stop_all()

    def note_interrupt(self, _error: BaseException) -> bool:
        """Tell whether this was meant for the thread, and not for the actor."""
        return False

    # Its end.

    def end(self) -> None:
        """Hide the aggregate, and answer whoever waits for a reply that will not come.

        This runs right before the stop flag is set, and whatever ends an actor in Pykka sets that:
        so a ref that `get` has returned was alive then, and who waits in vain learns it before
        `on_stop` or `on_failure` runs, which may be waiting for them in turn.
        """
        if self.incarnation is None:
            return
        for envelope in self.incarnation.entry.table.stopping(self.incarnation, self):
            if is_stop(envelope.message):
                self._note_stop(envelope)
            else:
                fail(envelope, self.undeliverable())
        self.begin_to_end().left = None  # last: who is interrupted before this comes here once more
        if self.is_over:
            self.answer_stops()

    def abandon(self) -> None:
        """Count it as dead from now on, though its thread still runs; in another thread."""
        self.begin_to_end().is_abandoned = True
        self.hide()
        self.set()

    def answer_stops(self) -> None:
        """Tell whoever asked it to stop that it has."""
        stops = self.begin_to_end().stops
        while stops:
            # Taken out when it is answered: an interrupt may come between, and another thread, too.
            try:
                envelope = stops[0]
                answer(envelope, value=True)
                stops.remove(envelope)
            except (IndexError, ValueError):
                continue

    def undeliverable(self, why: str = "ended before it handled the message") -> Undeliverable:
        """Return what an asker gets in place of an answer."""
        assert self.incarnation is not None
        error = Undeliverable(self.incarnation.entry.key, why)
        error.__cause__ = self.cause
        return error

    def _note_stop(self, envelope: Mail) -> None:
        self.begin_to_end().stops.append(envelope)

    def _handle_exception(self, error: BaseException, envelope: Mail) -> EndReason | None:
        if not isinstance(error, Exception):
            self.end_with(error, envelope)
            return EndReason.FAILED
        if envelope.reply_to is None:
            self.fail(error)
            return EndReason.FAILED
        fail(envelope, error)
        self.note_answer(error)
        return None

    def _stop(self, envelope: Mail) -> None:
        """End because somebody wants it to."""
        assert self.actor is not None
        if envelope.reply_to is not None:
            self._note_stop(envelope)
        self._die()
        self._run_hook(self.actor.on_stop)

    def note_answer(self, error: Exception) -> None:
        """Take note that an asker gets this exception."""
        log(logging.INFO, "%s answers with an exception", self, error=error)

    def _passivate(self, reason: EndReason) -> None:
        """End because it is idle; its inbox is closed, and was empty."""
        since = time.monotonic() - self.inbox.idle_from
        log(logging.DEBUG, "%s is %s, after %.3f s without a message", self, reason.value, since)
        self._die()
        assert self.actor is not None
        self._run_hook(self.actor.on_stop)

    def _fail_start(self, error: BaseException) -> EndReason:
        self.note_interrupt(error)
        self._note_cause(error)
        self.set()
        log(logging.ERROR, "%s failed to start", self, error=error)
        return EndReason.START_FAILED

    def fail(self, error: BaseException) -> None:
        """End because a `tell` raised."""
        actor = self.actor
        assert actor is not None
        self._note_cause(error)
        self._die()
        log(logging.ERROR, "%s failed", self, error=error)
        self._run_hook(lambda: actor.on_failure(type(error), error, error.__traceback__))

    def end_with(self, error: BaseException, envelope: Mail | None) -> Undeliverable:
        """End because a handler raised SystemExit or its like, as all actors now will.

        Returns:
            What its asker gets.

        """
        self.begin_to_end().cause = error
        answer = self.undeliverable(f"ended with {type(error).__name__} in the handler")
        if envelope is not None:
            fail(envelope, answer)
        if self.note_interrupt(error):
            self.fail(error)
            return answer
        self.begin_to_end().stops_all = True
        self._die()
        log(logging.DEBUG, "%s ends all actors, for %r", self, error)
        assert self.actor is not None
        self._run_hook(self.actor.on_stop)
        return answer

    def _note_cause(self, error: BaseException) -> None:
        ending = self.begin_to_end()
        ending.cause = error
        ending.tracebacks = _frames.tracebacks(error)

    def _die(self) -> None:
        self.hide()
        self.set()

    def _forget_cause(self) -> None:
        """Let go of the actor, which the traceback of what it failed of holds.

        A ref that somebody keeps holds this life, and a quarantined key, one that rests, and the
        dead letters keep the exception: the frames that it has passed here are emptied.
        """
        assert self.incarnation is not None
        ending = self.begin_to_end()
        _frames.empty(ending.tracebacks, self.incarnation.blueprint.aggregate_class)
        ending.tracebacks = ()
        ending.cause = None

    def _run_last_hook_if_abandoned(self) -> None:
        """Run `on_stop` at a late end; at other ends by the flag nobody runs it, as in Pykka."""
        if self.begin_to_end().is_abandoned:
            assert self.actor is not None
            self._run_hook(self.actor.on_stop)

    def _run_hook(self, hook: Callable[[], None]) -> None:
        try:
            hook()
        except BaseException as error:  # noqa: BLE001  # the end must be seen to the end
            self.note_interrupt(error)
            self._log_failed_hook(error)

    def _log_failed_hook(self, error: BaseException) -> None:
        log(logging.ERROR, "%s raised in its last hook", self, error=error)

    def __str__(self) -> str:
        assert self.incarnation is not None
        cls = self.incarnation.blueprint.aggregate_class
        return f"{cls.__name__} {name(self.incarnation.entry.key)} #{self.incarnation.number}"


def live(incarnation: Incarnation) -> None:
    """Run the whole life of an incarnation; the body of its thread."""
    life = Life(incarnation)
    if not incarnation.entry.table.begin(incarnation, life):
        return
    reason: EndReason | None = EndReason.FAILED
    try:
        with _waits.running(incarnation):
            reason = life.start()
            while reason is None:
                reason = life.step(life.inbox.get())
    finally:
        life.finish(reason or EndReason.FAILED)
