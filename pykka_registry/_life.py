"""One incarnation's life, from its constructor to the last line of its teardown, in its own thread.

This is the one module that stands in for Pykka's actor loop. Of Pykka's private parts it calls
`_handle_receive`, which takes a message to its handler; `tests/test_pykka_facts.py` pins what is
relied on.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Any

import pykka

from pykka_registry import _frames, _waits
from pykka_registry._events import EndReason
from pykka_registry._exceptions import Undeliverable
from pykka_registry._future import Future
from pykka_registry._inbox import Inbox, answer, fail, is_stop
from pykka_registry._log import log, name

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from pykka_registry._aggregate import AggregateMixin
    from pykka_registry._entry import Incarnation
    from pykka_registry._inbox import Mail

__all__ = ["Life", "live"]


class StopFlag(threading.Event):
    """The event by which Pykka tells whether an actor is alive; to set it ends the aggregate."""

    def __init__(self, life: Life) -> None:
        super().__init__()
        self._life = life

    def set(self) -> None:
        """End the aggregate, then set the flag."""
        if not self.is_set():
            self._life.end()
            super().set()


class Life:
    """What an aggregate has from before its constructor to after its end.

    All fields are written by the aggregate's own thread only, but for one case: somebody outside
    who sets the stop flag of a ref, or abandons the aggregate, runs `end` in their thread, which
    appends to `stops` and then looks at `is_over`. The aggregate's thread sets `is_over` and
    then empties `stops`. So each stop is answered by one of the two.
    """

    def __init__(self, incarnation: Incarnation | None) -> None:
        self.incarnation = incarnation
        self.inbox = Inbox(incarnation)
        self.stopped = StopFlag(self)
        self.ref: pykka.ActorRef[Any] | None = None
        """What Pykka knows it by, from the end of its constructor on."""
        self.cause: BaseException | None = None
        """What it failed of."""
        self.tracebacks: list[TracebackType] = []
        """Those of the cause, and of what has led to it, as they were before others got it."""
        self.stops: deque[Mail] = deque()
        """Who asked it to stop: answered when the key is free."""
        self.is_over = False
        """The key is free, or its successor's."""
        self.is_abandoned = False
        """It did not start or end in time, and its key is quarantined until it ends."""
        self.stops_all = False
        """A handler ended with SystemExit or its like."""

    def run(self, incarnation: Incarnation) -> EndReason:
        """Construct the actor, start it and serve it until it ends.

        Whatever user code raises goes no further.
        """
        blueprint = incarnation.blueprint
        cls = blueprint.aggregate_class
        try:
            actor = cls.__new__(cls, *blueprint.args, **blueprint.kwargs)
            actor._pykka_registry_life = self
            actor.__init__(*blueprint.args, **blueprint.kwargs)  # type: ignore[misc]  # as cls() does
            if not hasattr(actor, "actor_urn"):
                # The user's constructor has forgotten super().__init__().
                pykka.Actor.__init__(actor)
            self.ref = actor.actor_ref
            pykka.ActorRegistry.register(self.ref)
        except BaseException as error:  # noqa: BLE001  # nothing may leave a claimed key behind
            return self._fail_start(error)
        try:
            actor.on_start()
            is_active = incarnation.entry.table.activated(incarnation, actor.actor_ref)
        except BaseException as error:  # noqa: BLE001  # its own, or its key's __hash__ or __eq__
            pykka.ActorRegistry.unregister(actor.actor_ref)
            return self._fail_start(error)
        if not is_active:
            # Its flag was set, or it took so long that it was abandoned.
            pykka.ActorRegistry.unregister(actor.actor_ref)
            self._run_last_hook_if_abandoned(actor)
            return EndReason.START_FAILED
        return self._serve(actor, incarnation)

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
                self.stops.append(envelope)
            else:
                fail(envelope, self.undeliverable())
        if self.is_over:
            self.answer_stops()

    def abandon(self) -> None:
        """Count it as dead from now on, though its thread still runs; in another thread."""
        self.is_abandoned = True
        if self.ref is not None:
            pykka.ActorRegistry.unregister(self.ref)
        self.stopped.set()

    def forget_cause(self) -> None:
        """Let go of the actor, which the traceback of what it failed of holds.

        A ref that somebody keeps holds this life, and a quarantined key, one that rests, and the
        dead letters keep the exception: the frames that it has passed here are emptied.
        """
        assert self.incarnation is not None
        _frames.empty(self.tracebacks, self.incarnation.blueprint.aggregate_class)
        self.tracebacks = []
        self.cause = None

    def answer_stops(self) -> None:
        """Tell whoever asked it to stop that it has."""
        with contextlib.suppress(IndexError):
            while True:
                answer(self.stops.popleft(), value=True)

    def _serve(self, actor: AggregateMixin, incarnation: Incarnation) -> EndReason:
        """Handle one message after the other, as Pykka's loop does."""
        table = incarnation.entry.table
        while not self.stopped.is_set():
            envelope = self.inbox.get()
            if envelope is not None:
                if incarnation.asked is not None:
                    table.decline(incarnation)
                reason = self._handle(actor, envelope)
            else:
                reason = table.rest(incarnation)
                if reason is not None:
                    self._retire(actor, reason)
                elif self.inbox.closed:  # somebody outside has set the flag, or has given it up
                    break
            if reason is not None:
                return reason
        # Somebody has set the flag, which Pykka's own stop does only after this:
        pykka.ActorRegistry.unregister(actor.actor_ref)
        self._run_last_hook_if_abandoned(actor)
        return EndReason.STOPPED

    def _handle(self, actor: AggregateMixin, envelope: Mail) -> EndReason | None:
        """Handle one message; the result is why the aggregate ends, if it does."""
        if isinstance(envelope.reply_to, Future) and not envelope.reply_to.begin():
            return None  # whoever asked has been told that it will not be handled
        try:
            reply = actor._handle_receive(envelope.message)
        except Exception as error:  # noqa: BLE001
            if envelope.reply_to is None:
                self._fail(actor, error)
                return EndReason.FAILED
            fail(envelope, error)
            log(logging.INFO, "%s answers with an exception", self, error=error)
        except BaseException as error:  # noqa: BLE001
            if is_stop(envelope.message):  # it came from on_stop, so that has run
                self.stops.append(envelope)
                self._log_failed_hook(error)
                return EndReason.STOPPED
            self._exit(actor, error, envelope)
            return EndReason.FAILED
        else:
            if is_stop(envelope.message):
                self.stops.append(envelope)
                return EndReason.STOPPED
            answer(envelope, reply)
        return None

    def _retire(self, actor: AggregateMixin, reason: EndReason) -> None:
        """End because it is idle; its inbox is closed, and was empty."""
        since = time.monotonic() - self.inbox.idle_from
        log(logging.DEBUG, "%s is %s, after %.3f s without a message", self, reason.value, since)
        self._die(actor)
        self._run_hook(actor.on_stop)

    def _fail_start(self, error: BaseException) -> EndReason:
        self.cause = error
        self.tracebacks = _frames.tracebacks(error)
        self.stopped.set()
        log(logging.ERROR, "%s failed to start", self, error=error)
        return EndReason.START_FAILED

    def _fail(self, actor: AggregateMixin, error: Exception) -> None:
        """End because a `tell` raised."""
        self.cause = error
        self.tracebacks = _frames.tracebacks(error)
        self._die(actor)
        log(logging.ERROR, "%s failed", self, error=error)
        self._run_hook(lambda: actor.on_failure(type(error), error, error.__traceback__))

    def _exit(self, actor: AggregateMixin, error: BaseException, envelope: Mail) -> None:
        """End because a handler raised SystemExit or its like, as all actors now will."""
        self.cause = error
        self.stops_all = True
        fail(envelope, self.undeliverable(f"ended with {type(error).__name__} in the handler"))
        self._die(actor)
        log(logging.DEBUG, "%s ends all actors, for %r", self, error)
        self._run_hook(actor.on_stop)

    def _die(self, actor: AggregateMixin) -> None:
        pykka.ActorRegistry.unregister(actor.actor_ref)
        self.stopped.set()

    def undeliverable(self, why: str = "ended before it handled the message") -> Undeliverable:
        """Return what an asker gets in place of an answer."""
        assert self.incarnation is not None
        error = Undeliverable(self.incarnation.entry.key, why)
        error.__cause__ = self.cause
        return error

    def _run_last_hook_if_abandoned(self, actor: AggregateMixin) -> None:
        """Run `on_stop` at a late end; at other ends by the flag nobody runs it, as in Pykka."""
        if self.is_abandoned:
            self._run_hook(actor.on_stop)

    def _run_hook(self, hook: Callable[[], None]) -> None:
        try:
            hook()
        except BaseException as error:  # noqa: BLE001  # the end must be seen to the end
            self._log_failed_hook(error)

    def _log_failed_hook(self, error: BaseException) -> None:
        log(logging.ERROR, "%s raised in its last hook", self, error=error)

    def __str__(self) -> str:
        assert self.incarnation is not None
        cls = self.incarnation.blueprint.aggregate_class
        return f"{cls.__name__} {name(self.incarnation.entry.key)} #{self.incarnation.number}"


def live(incarnation: Incarnation) -> None:
    """Run the whole life of an incarnation; the body of its thread."""
    table = incarnation.entry.table
    life = Life(incarnation)
    if not table.begin(incarnation, life):
        return
    reason = EndReason.FAILED
    try:
        with _waits.running(incarnation):
            reason = life.run(incarnation)
    finally:
        try:
            life.stopped.set()
        finally:
            try:
                table.ended(incarnation, reason, life.cause, leaves=not life.stops_all)
            finally:  # whatever a key may raise, nobody waits for ever
                life.is_over = True
                life.answer_stops()
                life.forget_cause()
    if life.stops_all:
        # Pykka does this before the teardown. Here it comes last: it waits for every other actor,
        # and some of them may be waiting for this one.
        pykka.ActorRegistry.stop_all()
