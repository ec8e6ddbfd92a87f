"""Decisions: how the rows of a table are changed, and the only lock on them.

Who may touch what: every write to the rows, an entry, or an incarnation happens under the table's
lock, but for what is said to be set once. `active` is read without it: reading a `dict` is atomic,
on a free-threaded build too, and a ref leaves `active` before its actor's stop flag is set, so a
ref that is found there was alive when it was found.

Under the lock only the table's fields change, inboxes and futures are touched (their locks are
leaves), and keys are hashed and compared. No constructor, hook, handler, listener or `__repr__`
runs under it: what is decided under the lock is carried out after it; see `_change`.
"""

from __future__ import annotations

import logging
import threading
import time
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from pykka_registry._after import After
from pykka_registry._exceptions import RegistryError, RegistryStopped
from pykka_registry._fork import FORKED
from pykka_registry._log import log, name
from pykka_registry._mending import mend
from pykka_registry._rows import Rows

if TYPE_CHECKING:
    from collections.abc import Callable

    from pykka_registry._entry import Blueprint, Incarnation
    from pykka_registry._policy import Policy

__all__ = ["Decisions"]

T = TypeVar("T")


class Decisions(Rows):
    """Rows, and the lock that everything in them needs."""

    def __init__(self, blueprint: Blueprint | None, name: str, policy: Policy) -> None:
        super().__init__(blueprint, name, policy)
        self._lock = threading.Lock()
        self._is_torn = False
        """A decision was begun, and has not come to its end."""

    def check_process(self) -> None:
        """Raise `RegistryStopped` in a forked child."""
        if self.refusal is FORKED:
            raise RegistryStopped(FORKED)

    def launch(self, incarnation: Incarnation) -> None:
        """Have it begun by its runtime."""
        try:
            incarnation.blueprint.aggregate_class._pykka_registry_launch(incarnation)
        except (RuntimeError, MemoryError) as error:  # there are too many threads
            self._change(partial(self._refuse, incarnation, error))

    def _refuse(self, incarnation: Incarnation, error: Exception, after: After) -> None:
        if incarnation.begun or not incarnation.launched:
            return
        if self._is_due(incarnation):
            self.admission.refuse(incarnation, error, after.do)
            now = time.monotonic()
            incarnation.due_by = incarnation.due_by or now + self.policy.start_timeout
            self._alarm(incarnation.entry, max(incarnation.due_by - now, 0))
            self._hurry_if_urgent(incarnation.entry, after)
            self._drop_if_unwanted(incarnation.entry, after)
        else:
            incarnation.begun = True
            self._never_mind(incarnation, after)

    def _change(self, decide: Callable[[After], T]) -> T:
        """Decide under the lock, then carry out what was decided, interrupted or not.

        A decision that is cut short is mended at once; see `_mending`. If that is cut short, too,
        the next decision begins with it.
        """
        after = After()
        try:
            with self._lock:
                if self._is_torn:
                    self._mend(after)
                self._is_torn = True
                try:
                    result = decide(after)
                except Exception as error:
                    # These are raised on purpose, before anything is changed.
                    no_class = self.blueprint is None and isinstance(error, TypeError)
                    self._is_torn = not (no_class or isinstance(error, RegistryError))
                    raise
                self._is_torn = False
            after.run()
        except BaseException:
            try:
                if self._is_torn:
                    with self._lock:
                        self._mend(after)
            finally:
                after.run()
            raise
        if self._unsaid:
            self._name_the_lost()
        return result

    def _mend(self, after: After) -> None:
        if self._is_torn:  # pragma: no branch  # another thread may have come first
            mend(self, after)
            self._is_torn = False

    def _name_the_lost(self) -> None:
        """Log whose keys were lost; `__repr__` and log handlers are user code."""
        while True:
            try:
                key, error = self._unsaid.pop()
            except IndexError:  # another thread may name some, too
                return
            log(
                logging.ERROR,
                "key %s is no good any more, so nobody finds it",
                name(key),
                error=error,
            )
