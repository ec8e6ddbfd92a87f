"""Takes events to listeners, in a thread of its own: one that blocks holds up only listeners.

`Courier.announce` is called with the table's lock held, so it only puts. The thread is started by
the first subscription, or with the registry if that has a hook, and ended by the registry's
shutdown. It is a daemon: a listener whose inbox is full for ever must not keep the interpreter from
ending.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import pykka

from pykka_registry._inbox import Inbox
from pykka_registry._log import log

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pykka._envelope import Envelope

    from pykka_registry._events import DeadLetter, Registered, Terminated

__all__ = ["Courier", "Hook"]

Ref = pykka.ActorRef[Any]


class Hook:
    """A function that is told as a listener is."""

    def __init__(self, function: Callable[[DeadLetter], object]) -> None:
        self._function = function

    def __str__(self) -> str:
        return f"function {self._function!r}"

    def tell(self, letter: Any) -> None:
        """Call the function, come what may."""
        try:
            self._function(letter)
        except BaseException as error:  # noqa: BLE001  # it must not end the telling
            log(logging.ERROR, "%s failed at %r", self, letter, error=error)


@dataclass(frozen=True, slots=True)
class _Notice:
    """An envelope, as an inbox takes one: an event, and who had subscribed when it happened."""

    message: Registered | Terminated | DeadLetter
    listeners: Sequence[Ref | Hook]
    reply_to: None = None


class Courier:
    """One registry's way to its listeners.

    `_thread`, `_ended` and `listeners` are written under `_lock` only; the last is a tuple, and
    read without it.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._inbox = Inbox()
        self._lock = threading.Lock()
        self.listeners: tuple[Ref, ...] = ()
        self._thread: threading.Thread | None = None
        self._ended = False

    def subscribe(self, listener: Ref) -> None:
        """Tell `listener` of everything that is announced from now on."""
        with self._lock:
            if listener not in self.listeners:
                self.listeners = (*self.listeners, listener)

    def unsubscribe(self, listener: Ref) -> None:
        """Tell `listener` no more."""
        with self._lock:
            self.listeners = tuple(ref for ref in self.listeners if ref is not listener)

    def announce(self, event: Registered | Terminated) -> None:
        """Have the event told to all listeners; to make one for none takes longer than to look."""
        self.post(event, self.listeners)

    def post(
        self, event: Registered | Terminated | DeadLetter, listeners: Sequence[Ref | Hook]
    ) -> None:
        """Have the event told, after those before it; neither blocks nor runs user code."""
        # After the end nobody can tell it, and that must not fail whoever changes the table.
        with contextlib.suppress(pykka.ActorDeadError):
            self._inbox.put(cast("Envelope[Any]", _Notice(event, listeners)))

    def start(self) -> None:
        """Begin to tell, if that has not begun."""
        with self._lock:
            if self._thread is None and not self._ended:
                thread = threading.Thread(
                    target=self._run, name=f"{self._name}-courier", daemon=True
                )
                thread.start()
                self._thread = thread

    def runs_here(self) -> bool:
        """Tell whether the calling thread is the one that tells."""
        with self._lock:
            return threading.current_thread() is self._thread

    def finish(self, timeout: float) -> bool:
        """Tell what has been posted, for so many seconds at most; false if a listener blocks."""
        self._inbox.end(_refuse)
        with self._lock:
            self._ended = True
            thread = self._thread
        if thread is None:
            return True
        thread.join(min(timeout, threading.TIMEOUT_MAX))
        return not thread.is_alive()

    def _run(self) -> None:
        while True:
            notice = cast("_Notice | None", self._inbox.get())
            if notice is None:
                return
            for listener in notice.listeners:
                try:
                    listener.tell(notice.message)
                except pykka.ActorDeadError:
                    self.unsubscribe(cast("Ref", listener))
                except BaseException as error:  # noqa: BLE001  # a listener's own trouble
                    log(
                        logging.ERROR,
                        "listener %s did not take %r",
                        listener,
                        notice.message,
                        error=error,
                    )


def _refuse() -> pykka.ActorDeadError:
    return pykka.ActorDeadError("the registry has stopped")
