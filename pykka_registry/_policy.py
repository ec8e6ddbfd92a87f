"""What a registry's user decides, as the keywords of `AggregateRegistry.start`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypedDict, get_args

from pykka_registry._checks import (
    check_callable,
    check_choice,
    check_count,
    check_executor,
    check_keywords,
    check_pair,
    check_seconds,
)

if TYPE_CHECKING:
    import concurrent.futures
    from collections.abc import Callable, Mapping

    from pykka_registry._events import DeadLetter

__all__ = ["Policies", "Policy", "Restart"]

Restart = Literal["on message", "at once", "never"]


class Policies(TypedDict, total=False):
    """The keywords, for type checkers; `Policy` says what they mean."""

    idle: float | None
    max_live: int | None
    max_starting: int
    max_queued: int
    start_timeout: float
    stop_timeout: float
    drain_timeout: float
    restart: Restart
    backoff: tuple[float, float]
    max_failures: int
    failure_window: float
    quarantine: float | None
    dead_letters: int
    on_dead_letter: Callable[[DeadLetter], object] | None
    executor: concurrent.futures.Executor | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """When aggregates come and go, and for how long others wait. Times are seconds."""

    idle: float | None = None
    """After how long without a message an aggregate is retired; `None`: never."""

    max_live: int | None = None
    """How many aggregates are live at most; at this ceiling the coldest idle one is retired."""

    max_starting: int = 64
    """How many activations run at once at most."""

    max_queued: int = 100_000
    """How many messages wait at most for keys that are not active."""

    start_timeout: float = 30.0
    """How long a key waits for a place under the ceiling, and then an activation may take."""

    stop_timeout: float = 30.0
    """How long an aggregate may take to end once it has begun to, before it is abandoned."""

    drain_timeout: float = 30.0
    """How long a shutdown gives the aggregates to end."""

    restart: Restart = "on message"
    """When a key that failed is activated again."""

    backoff: tuple[float, float] = (0.1, 30.0)
    """How long a key rests after its first failure, and at most; each failure doubles it."""

    max_failures: int = 5
    """After how many failures a key is quarantined: with the first one beyond this number."""

    failure_window: float = 60.0
    """After how long active without a failure, or at rest and left alone, a key's are forgotten."""

    quarantine: float | None = 300.0
    """After how long a quarantined key is released by itself; `None`: never."""

    dead_letters: int = 1_000
    """How many dead letters are kept."""

    on_dead_letter: Callable[[DeadLetter], object] | None = None
    """Is called with each dead letter, in a thread that does nothing else but tell."""

    executor: concurrent.futures.Executor | None = None
    """Who runs the turns of pooled aggregates; `None`: what their class says."""

    @classmethod
    def of(cls, keywords: Mapping[str, object]) -> Policy:
        """Return the policy that these keywords ask for.

        Raises:
            TypeError: If there is no such keyword, or it has a value of the wrong type.
            ValueError: If a value is out of range.

        """
        check_keywords(keywords, cls.__dataclass_fields__, "AggregateRegistry.start()")
        return cls(**keywords)  # type: ignore[arg-type]  # checked below

    def __post_init__(self) -> None:
        for what in ("start_timeout", "stop_timeout", "drain_timeout", "failure_window"):
            check_seconds(getattr(self, what), what, least=0)
        for what in ("idle", "quarantine"):
            if getattr(self, what) is not None:
                check_seconds(getattr(self, what), what, least=0)
        for what in ("max_starting", "max_queued"):
            check_count(getattr(self, what), what, least=1)
        for what in ("max_failures", "dead_letters"):
            check_count(getattr(self, what), what, least=0)
        if self.max_live is not None:
            check_count(self.max_live, "max_live", least=1)
        check_choice(self.restart, "restart", get_args(Restart))
        check_pair(self.backoff, "backoff", "(first, most)")
        first, most = self.backoff
        check_seconds(first, "backoff's first", least=0)
        check_seconds(most, "backoff's most", least=first)
        if self.on_dead_letter is not None:
            check_callable(self.on_dead_letter, "on_dead_letter")
        check_executor(self.executor, "executor")
