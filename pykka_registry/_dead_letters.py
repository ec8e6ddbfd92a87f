"""Messages that were told, and that nobody will handle: counted, kept for a while, shown to a hook.

Who asked gets an error. Nobody waits for what was told, so this is where it is reported.
"""

from __future__ import annotations

import logging
from collections import Counter, deque
from typing import TYPE_CHECKING, Any

from pykka_registry._courier import Hook
from pykka_registry._events import DeadLetter, DeadLetterReason
from pykka_registry._log import count, log, name

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable

    from pykka_registry._courier import Courier
    from pykka_registry._policy import Policy

__all__ = ["DeadLetters"]


class DeadLetters:
    """One registry's dead letters, written under its table's lock only.

    `kept` may be copied without it.
    """

    def __init__(self, name: str, policy: Policy, courier: Courier) -> None:
        self._name = name
        self.kept: deque[DeadLetter] = deque(maxlen=policy.dead_letters)
        self.counts: Counter[DeadLetterReason] = Counter()
        self._courier = courier
        self._hooks: list[Hook] = []
        if policy.on_dead_letter is not None:
            self._hooks.append(Hook(policy.on_dead_letter))

    def add(
        self,
        key: Hashable,
        messages: Iterable[Any],
        reason: DeadLetterReason,
        cause: BaseException | None,
        later: Callable[..., None],
    ) -> None:
        """Report messages, one by one; the log is written by what is handed to `later`."""
        number = 0
        for message in messages:
            number += 1
            letter = DeadLetter(key, message, reason, cause)
            self.counts[reason] += 1
            self.kept.append(letter)
            if self._hooks:
                self._courier.post(letter, self._hooks)
        if number:
            later(self._warn, key, number, reason)

    def _warn(self, key: Hashable, number: int, reason: DeadLetterReason) -> None:
        what = "registry %r: %s to key %s became %s: %s"
        became = "a dead letter" if number == 1 else "dead letters"
        sent = count(number, "message")
        log(logging.WARNING, what, self._name, sent, name(key), became, reason.value)
