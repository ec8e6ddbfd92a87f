"""When a live aggregate has nothing more to do, as far as its events and its state tell."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

from pykka_registry._checks import check_callable, check_seconds

if TYPE_CHECKING:
    from collections.abc import Callable

    from eventsourcing.domain import DomainEventProtocol

__all__ = ["Retirement"]


class Retirement:
    """After how many seconds without a message an aggregate is passivated.

    The rule of the last event holds, if it has one; else what the function of the state says; else
    the registry's `idle`.
    """

    def __init__(
        self,
        idle: float | None,
        on: Mapping[type[Any], float | None] | None,
        after: Callable[[Any], float | None] | None,
    ) -> None:
        _check_rules(on)
        if after is not None:
            check_callable(after, "passivate_after")
        self.idle = idle
        self._on = dict(on or {})
        self._after = after

    @property
    def has_rules(self) -> bool:
        """Whether events say anything."""
        return bool(self._on)

    def after(self, aggregate: Any, last: DomainEventProtocol[Any] | None) -> float | None:
        """Return it for an aggregate.

        Args:
            aggregate: The aggregate, as it is stored.
            last: Its last event; `None` if that is not known, and there are no rules.
        """
        for cls in type(last).__mro__ if self._on else ():  # of a class and its bases, the nearest
            if cls in self._on:
                return self._on[cls]
        return self.idle if self._after is None else self._after(aggregate)


def _check_rules(rules: object) -> None:
    if rules is None:
        return
    if not isinstance(rules, Mapping):
        message = f"passivate_on must be a mapping, {{EventClass: seconds}}, not {rules!r}"
        raise TypeError(message)
    for event_class, seconds in cast("Mapping[object, object]", rules).items():
        if not isinstance(event_class, type):
            message = f"passivate_on has event classes as keys, which {event_class!r} is not"
            raise TypeError(message)
        if seconds is not None:
            check_seconds(seconds, f"passivate_on[{event_class.__name__}]", least=0)
