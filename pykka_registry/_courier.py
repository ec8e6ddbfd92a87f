"""Takes events to listeners, in a thread of its own: one that blocks holds up only listeners.

`Courier.post` is called with the table's lock held, so it only puts. The thread is started by the
first subscription and ended by the registry's shutdown. It is a daemon: a listener whose inbox is
full for ever must not keep the interpreter from ending.
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
    from collections.abc import Callable

    from pykka._envelope import Envelope

    from pykka_registry._events import Registered, Terminated

__all__ = ["Courier"]

Ref = pykka.ActorRef[Any]


@dataclass(frozen=True, slots=True)
class _Notice:
    """An envelope, as an inbox takes one: an event, and who had subscribed when it happened."""

    message: Registered | Terminated
    listeners: tuple[Ref, ...]
    reply_to: None = None


class Courier:
    """One registry's way to its listeners.

    `_thread` and `_ended` are touched under `_lock` only.
    """

    def __init__(self, name: str, unsubscribe: Callable[[Ref], None]) -> None:
        self._name = name
        self._unsubscribe = unsubscribe
        self._inbox = Inbox()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._ended = False

    def post(self, event: Registered | Terminated, listeners: tuple[Ref, ...]) -> None:
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
                    self._unsubscribe(listener)
                except Exception as error:  # noqa: BLE001  # a listener's own trouble
                    log(
                        logging.ERROR,
                        "listener %s did not take %r",
                        listener,
                        notice.message,
                        error=error,
                    )


def _refuse() -> pykka.ActorDeadError:
    return pykka.ActorDeadError("the registry has stopped")
