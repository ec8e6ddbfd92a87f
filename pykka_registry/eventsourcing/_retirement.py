"""When a live aggregate has nothing more to do, as far as its events and its state tell."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

from pykka_registry._checks import check_callable, check_seconds

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from eventsourcing.domain import DomainEventProtocol

__all__ = ["Retirement"]


class Retirement:
    """After how many seconds without a message an aggregate is passivated.

    The rule of the last event that has one holds; else what the function of the state says; else
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

    def after(
        self, aggregate: Any, events: Sequence[DomainEventProtocol[Any]], now: float | None
    ) -> float | None:
        """Return it for an aggregate that has just been loaded, or has just stored these events.

        Args:
            aggregate: The aggregate.
            events: Its new events.
            now: What holds so far, which stays if nothing speaks against it.
        """
        for event in reversed(events) if self._on else ():
            for cls in type(event).__mro__:  # of a class and its bases, the nearest rule
                if cls in self._on:
                    return self._on[cls]
        if self._after is not None:
            return self._after(aggregate)
        return self.idle if events else now


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
