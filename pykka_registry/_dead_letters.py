"""Messages that were told, and that nobody will handle: counted, kept for a while, shown to a hook.

Who asked gets an error. Nobody waits for what was told, so this is where it is reported.
"""

from __future__ import annotations

import logging
from collections import Counter, deque
from typing import TYPE_CHECKING, Any

from pykka_registry._courier import Hook
from pykka_registry._events import DeadLetter, DeadLetterReason
from pykka_registry._log import log, name

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Sequence

    from pykka_registry._courier import Courier
    from pykka_registry._policy import Policy

__all__ = ["DeadLetters"]


class DeadLetters:
    """One registry's dead letters, written under its table's lock only.

    `kept` may be copied without it.
    """

    def __init__(self, policy: Policy, courier: Courier) -> None:
        self.kept: deque[DeadLetter] = deque(maxlen=policy.dead_letters)
        self.counts: Counter[DeadLetterReason] = Counter()
        self._courier = courier
        self._hooks: list[Hook] = []
        if policy.on_dead_letter is not None:
            self._hooks.append(Hook(policy.on_dead_letter))

    def add(
        self,
        key: Hashable,
        messages: Sequence[Any],
        reason: DeadLetterReason,
        cause: BaseException | None,
        later: Callable[..., None],
    ) -> None:
        """Report messages; the log is written by what is handed to `later`."""
        if not messages:
            return
        self.counts[reason] += len(messages)
        for message in messages:
            letter = DeadLetter(key, message, reason, cause)
            self.kept.append(letter)
            if self._hooks:
                self._courier.post(letter, self._hooks)
        later(_warn, key, len(messages), reason)


def _warn(key: Hashable, count: int, reason: DeadLetterReason) -> None:
    what = "%d messages that %s was told are dead letters: %s"
    log(logging.WARNING, what, count, name(key), reason.value)
