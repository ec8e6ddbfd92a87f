"""The inbox: closing it and putting something in are atomic against each other."""

from __future__ import annotations

import threading
from collections import deque
from typing import TYPE_CHECKING, Any, cast

import pykka
import pytest
from pykka._envelope import Envelope

from pykka_registry._future import Future
from pykka_registry._inbox import NOTHING, Inbox, answer, fail, forgotten
from pykka_registry._turns import remember
from tests.support import PATIENCE, in_threads, join, start_thread, tiny_switch_interval, wait_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


def dead() -> pykka.ActorDeadError:
    return pykka.ActorDeadError("closed")


class Reader:
    """Runs in turns, and counts what it is woken for."""

    woken = 0

    def wake(self) -> None:
        self.woken += 1

    wake_if_due = wake


def test_it_is_first_in_first_out() -> None:
    inbox = Inbox()
    assert inbox.empty()
    envelopes: list[Envelope[Any]] = [Envelope(i) for i in range(5)]
    for envelope in envelopes:
        inbox.put(envelope)
    assert not inbox.empty()
    assert [inbox.get() for _ in range(5)] == envelopes
    assert inbox.empty()


def test_the_reader_sleeps_until_something_comes() -> None:
    inbox = Inbox()
    got: list[Any] = []
    thread = start_thread(lambda: got.extend(inbox.get() for _ in range(2)))
    while inbox._parked is None:
        pass
    one, two = Envelope(1), Envelope(2)
    inbox.put(one)
    inbox.put(two)
    join(thread)
    assert got == [one, two]


@pytest.mark.parametrize("timeout", [0, 0.01, -5])
def test_the_reader_gives_up_after_its_timeout(timeout: float) -> None:
    inbox = Inbox()
    assert inbox.get(timeout=timeout) is None
    inbox.put(Envelope(1))
    assert inbox.get(timeout=timeout) is not None


def test_what_comes_as_the_reader_gives_up_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """The put comes between the timeout and the reader's last look."""
    inbox = Inbox()
    envelope: Envelope[Any] = Envelope(1)

    class Late:
        """Stands in for the lock that the reader sleeps on, which ends with a put and a timeout."""

        def release(self) -> None:
            pass

        def acquire(self, timeout: float | None = None) -> bool:
            if timeout is not None:
                inbox._parked = None
                inbox.put(envelope)
            return False

    with monkeypatch.context() as patch:
        patch.setattr(threading, "Lock", Late)
        assert inbox.get(timeout=1) is envelope


def test_who_leaves_with_something_to_do_has_not_left() -> None:
    """It comes after the reader has found nothing, and before it leaves: nobody is woken for it."""
    inbox, reader, envelope = Inbox(), Reader(), Envelope[Any](1)
    inbox.begin()
    assert inbox.take() is NOTHING
    inbox.put(envelope)
    assert inbox.leave(reader) is True
    assert inbox.claim_due()
    assert inbox.take() is envelope
    assert inbox.take() is NOTHING
    assert inbox.leave(reader) is False
    assert reader.woken == 0


def test_closing_hands_back_what_was_left_and_refuses_the_rest() -> None:
    inbox = Inbox()
    told: Envelope[Any] = Envelope(1)
    inbox.put(told)
    assert inbox.close(dead) == [told]
    assert inbox.close(dead) == []
    with pytest.raises(pykka.ActorDeadError, match="closed"):
        inbox.put(Envelope(2))
    future: Future[Any] = Future()
    inbox.put(Envelope(3, reply_to=future))
    with pytest.raises(pykka.ActorDeadError, match="closed"):
        future.get()
    assert inbox.get() is None


def test_closing_wakes_the_reader() -> None:
    inbox = Inbox()
    got: list[Any] = []
    thread = start_thread(lambda: got.append(inbox.get()))
    while inbox._parked is None:
        pass
    inbox.close(dead)
    join(thread)
    assert got == [None]


def test_a_refused_future_that_was_set_before_stays_as_it_is() -> None:
    inbox = Inbox()
    inbox.close(dead)
    future: Future[Any] = Future()
    future.set(1)
    inbox.put(Envelope(1, reply_to=future))
    assert future.get() == 1


def test_each_message_is_handed_out_handed_back_or_refused() -> None:
    """Writers, a reader and a closer at once: what was put in is counted on the other side."""
    rounds, writers, each = 150, 4, 20
    handed_out = handed_back = refused = 0
    with tiny_switch_interval():
        for _ in range(rounds):
            inbox = Inbox()
            flows = threading.Event()

            def write(inbox: Inbox = inbox) -> int:
                refusals = 0
                for i in range(each):
                    try:
                        inbox.put(Envelope(i))
                    except pykka.ActorDeadError:
                        refusals += 1
                return refusals

            def read(inbox: Inbox = inbox, flows: threading.Event = flows) -> int:
                count = 0
                while inbox.get(timeout=PATIENCE) is not None:
                    flows.set()
                    count += 1
                return count

            def close(inbox: Inbox = inbox, flows: threading.Event = flows) -> int:
                wait_for(flows)
                return len(inbox.close(dead))

            *refusals, read_count, left = in_threads([*[write] * writers, read, close])
            assert all(isinstance(n, int) for n in [*refusals, read_count, left])
            refused += sum(refusals)  # type: ignore[arg-type]
            handed_out += read_count  # type: ignore[operator]
            handed_back += left  # type: ignore[operator]
    assert handed_out + handed_back + refused == rounds * writers * each
    assert refused > 0
    assert handed_out > 0


# An interrupt, or another thread, between two steps.


def parked() -> tuple[Inbox, Reader]:
    """Return an inbox whose reader has left with nothing to do."""
    inbox, reader = Inbox(), Reader()
    inbox.begin()
    assert inbox.take() is NOTHING
    assert inbox.leave(reader) is False
    return inbox, reader


def interrupt(_: object) -> None:
    raise KeyboardInterrupt


LATER: dict[str, Callable[[Inbox], object]] = {
    "put": lambda inbox: inbox.accept(Envelope[Any](1), later=interrupt),
    "nudge": lambda inbox: inbox.nudge(later=interrupt),
    "close": lambda inbox: inbox.close(dead, later=interrupt),
}


@pytest.mark.parametrize("what", LATER)
def test_a_reader_of_whom_nobody_was_told_is_woken_by_who_looks_after_the_forgotten(
    what: str,
) -> None:
    inbox, reader = parked()
    with pytest.raises(KeyboardInterrupt):
        LATER[what](inbox)
    assert reader.woken == 0
    assert inbox.is_due()
    remember()
    assert reader.woken == 1
    assert reader not in forgotten


class InterruptedLock:
    """Stands in for a lock that an interrupt keeps the first who comes from taking."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._interrupts = 1

    def __enter__(self) -> None:
        if self._interrupts:
            self._interrupts = 0
            raise KeyboardInterrupt
        self._lock.acquire()

    def __exit__(self, *_exc_info: object) -> None:
        self._lock.release()


CALLS: dict[str, Callable[[Inbox], object]] = {
    "put": lambda inbox: inbox.put(Envelope[Any](1)),
    "nudge": lambda inbox: inbox.nudge(),
    "close": lambda inbox: inbox.close(dead),
}


@pytest.mark.parametrize("what", CALLS)
def test_an_interrupt_before_anything_is_done_leaves_nothing_done(what: str) -> None:
    inbox = Inbox(lock=cast("Any", InterruptedLock()))
    with pytest.raises(KeyboardInterrupt):
        CALLS[what](inbox)
    assert forgotten == {}
    assert (inbox.empty(), inbox.closed, inbox.get(timeout=0)) == (True, False, None)
    inbox.put(Envelope[Any](2))
    assert inbox.close(dead)[0].message == 2


class Troubled(deque[Any]):
    """What the reader has taken over, with trouble as something is taken out."""

    def __init__(self, envelopes: Iterable[Any], trouble: Callable[[], object]) -> None:
        super().__init__(envelopes)
        self._trouble: Callable[[], object] | None = trouble

    def have_trouble(self) -> None:
        trouble, self._trouble = self._trouble, None
        if trouble is not None:
            trouble()


class TroubledBefore(Troubled):
    def popleft(self) -> Any:
        self.have_trouble()
        return super().popleft()

    def pop(self) -> Any:  # type: ignore[override]
        self.have_trouble()
        return super().pop()


class TroubledAfter(Troubled):
    def popleft(self) -> Any:
        envelope = super().popleft()
        self.have_trouble()
        return envelope


def taken_over(cls: type[Troubled], trouble: Callable[[Inbox], object]) -> Inbox:
    """Return an inbox whose reader has taken over 1, 2 and 3, and handled the 1; 4 came later."""
    inbox = Inbox()
    for number in (1, 2, 3):
        inbox.put(Envelope[Any](number))
    assert message_of(inbox.take()) == 1
    inbox._batch = cls(inbox._batch, lambda: trouble(inbox))
    inbox.put(Envelope[Any](4))
    return inbox


def message_of(envelope: Any) -> Any:
    return envelope.message


@pytest.mark.parametrize("cls", [TroubledBefore, TroubledAfter])
def test_what_is_taken_as_an_interrupt_comes_is_not_lost(cls: type[Troubled]) -> None:
    inbox = taken_over(cls, interrupt)
    with pytest.raises(KeyboardInterrupt):
        inbox.take()
    assert [message_of(inbox.take()) for _ in range(3)] == [2, 3, 4]
    assert inbox.take() is NOTHING


def test_what_is_left_as_an_interrupt_comes_is_there_when_it_is_closed_again() -> None:
    inbox = taken_over(TroubledBefore, interrupt)
    with pytest.raises(KeyboardInterrupt):
        inbox.close(dead)
    left: list[Any] = [Envelope[Any](0)]
    assert inbox.close(dead, left=left) is left
    assert [message_of(envelope) for envelope in left] == [0, 2, 3, 4]


def test_what_is_closed_as_it_is_taken_goes_to_who_has_closed_it() -> None:
    left: list[Any] = []
    inbox = taken_over(TroubledBefore, lambda inbox: inbox.close(dead, left=left))
    assert inbox.take() is None
    assert [message_of(envelope) for envelope in left] == [2, 3, 4]


def test_who_asks_with_another_future_gets_an_answer_if_it_wants_one() -> None:
    """An envelope may be made by hand, as Pykka's own are."""
    future = pykka.ThreadingFuture[int]()
    answer(Envelope[Any](1, reply_to=future), 3)
    assert future.get(timeout=0) == 3
    answer(Envelope[Any](1, reply_to=future), 4)  # it has one
    fail(Envelope[Any](1, reply_to=future), dead())
    assert future.get(timeout=0) == 3
