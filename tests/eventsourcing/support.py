"""What these tests share: stores, events, recorders that can be held up, and threads."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Generic, TypeVar
from uuid import UUID, uuid4

from eventsourcing.persistence import (
    ApplicationRecorder,
    InfrastructureFactory,
    ProcessRecorder,
    StoredEvent,
)
from eventsourcing.utils import Environment

from pykka_registry.eventsourcing import GroupCommitRecorder
from pykka_registry.eventsourcing.popo import FencedPOPOApplicationRecorder
from tests.support import PATIENCE, Gate

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence

T = TypeVar("T")


@dataclass(frozen=True)
class Store:
    """A store that is new and empty, and the settings with which the library finds it."""

    kind: str
    settings: dict[str, str]
    url: str = field(default="", repr=False)
    package: str = "pykka_registry.eventsourcing"

    def as_the_librarys(self) -> Store:
        return replace(self, package="eventsourcing")

    def env(self, **more: str) -> dict[str, str]:
        return self.settings | {"PERSISTENCE_MODULE": f"{self.package}.{self.kind}"} | more

    @contextmanager
    def factory(self, **more: str) -> Generator[InfrastructureFactory[Any]]:
        env = Environment(env=self.env(**more))
        factory: InfrastructureFactory[Any] = InfrastructureFactory.construct(env)
        try:
            yield factory
        finally:
            factory.close()

    @contextmanager
    def recorder(self, **more: str) -> Generator[ApplicationRecorder]:
        with self.factory(**more) as factory:
            yield factory.application_recorder()

    @contextmanager
    def process_recorder(self, **more: str) -> Generator[ProcessRecorder]:
        with self.factory(**more) as factory:
            yield factory.process_recorder()


def event(
    originator_id: UUID | str | None = None, version: int = 1, state: bytes = b"state"
) -> StoredEvent:
    return StoredEvent(originator_id or uuid4(), version, "topic", state)


def ids_in_log(recorder: ApplicationRecorder, events: Sequence[StoredEvent]) -> list[int]:
    """Return the notification ids of these events, `-1` where one is not in the log."""
    ids = {
        (n.originator_id, n.originator_version, n.state): n.id
        for n in recorder.select_notifications(start=None, limit=1_000_000)
    }
    return [ids.get((e.originator_id, e.originator_version, e.state), -1) for e in events]


@dataclass(frozen=True)
class Call:
    """What the wrapped recorder was asked to store in one transaction."""

    events: list[StoredEvent]
    kwargs: dict[str, Any]


class Watched(FencedPOPOApplicationRecorder):
    """A real recorder that tells how it is called, and does what a test wants before or after."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Call] = []
        self.before: Callable[[Sequence[StoredEvent]], object] = len
        self.after: Callable[[Sequence[StoredEvent]], object] = len

    def insert_events(
        self, stored_events: Sequence[StoredEvent], **kwargs: Any
    ) -> Sequence[int] | None:
        self.calls.append(Call(list(stored_events), kwargs))
        self.before(stored_events)
        ids = super().insert_events(stored_events, **kwargs)
        self.after(stored_events)
        return ids

    @property
    def sizes(self) -> list[int]:
        """How many events each transaction had."""
        return [len(call.events) for call in self.calls]


class HeldUp(FencedPOPOApplicationRecorder):
    """Has another recorder store, once it is let."""

    def __init__(self, recorder: ApplicationRecorder) -> None:
        super().__init__()
        self.gate = Gate()
        self._other = recorder

    def insert_events(
        self, stored_events: Sequence[StoredEvent], **kwargs: Any
    ) -> Sequence[int] | None:
        self.gate.pass_through()
        return self._other.insert_events(stored_events, **kwargs)


class Observed(GroupCommitRecorder):
    """Group commit that tells when somebody has come to wait."""

    def __init__(self, recorder: ApplicationRecorder, **kwargs: int) -> None:
        super().__init__(recorder, **kwargs)
        self._joined = threading.Semaphore(0)

    def _join(self, mine: Any) -> Any:
        try:
            return super()._join(mine)
        finally:
            self._joined.release()

    def wait_for_joined(self, count: int = 1) -> None:
        for _ in range(count):
            assert self._joined.acquire(timeout=PATIENCE), "nobody has come"


class Caller(Generic[T]):
    """A thread that calls something once, and what came of it."""

    def __init__(self, function: Callable[..., T], *args: Any, **kwargs: Any) -> None:
        self._function = function
        self._args = args
        self._kwargs = kwargs
        self._results: list[T] = []
        self._errors: list[BaseException] = []
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._results.append(self._function(*self._args, **self._kwargs))
        except BaseException as error:  # noqa: BLE001  # the test looks at it
            self._errors.append(error)

    def _join(self) -> None:
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive(), "it hangs"

    def is_done(self) -> bool:
        return not self._thread.is_alive()

    @property
    def result(self) -> T:
        """Wait for the result."""
        self._join()
        for error in self._errors:
            raise error
        return self._results[0]

    @property
    def error(self) -> BaseException:
        """Wait for the error."""
        self._join()
        assert self._errors, f"no error, but {self._results}"
        return self._errors[0]


class Busy:
    """A store that is busy with a first save, so that whoever comes now gathers behind it."""

    def __init__(self, **kwargs: int) -> None:
        self.store = Watched()
        self.recorder = Observed(self.store, **kwargs)
        self.first = event()
        self._gate = Gate()
        self.store.before = self._hold
        self._caller = Caller(self.recorder.insert_events, [self.first])
        self.recorder.wait_for_joined()
        self._gate.wait_until_reached()

    def _hold(self, events: Sequence[StoredEvent]) -> None:
        if self.first in events:
            self._gate.pass_through()

    def save(self, *events: StoredEvent, **kwargs: Any) -> Caller[Sequence[int] | None]:
        """Have a thread save, and return when it waits."""
        caller = Caller(self.recorder.insert_events, events, **kwargs)
        self.recorder.wait_for_joined()
        return caller

    def fail(self, *, on: StoredEvent, error: BaseException, after: bool = False) -> None:
        """Have the store raise once, before or after it has stored a batch with an event in it."""
        to_raise = [error]

        def hold_or_fail(events: Sequence[StoredEvent]) -> None:
            self._hold(events)
            if on in events and not after and to_raise:
                raise to_raise.pop()

        def fail_after(events: Sequence[StoredEvent]) -> None:
            if on in events and to_raise:
                raise to_raise.pop()

        self.store.before = hold_or_fail
        if after:
            self.store.after = fail_after

    def go_on(self) -> None:
        """Let the first save be stored, and then the others."""
        self._gate.open()
        assert self._caller.result == [1]
