"""The inbox: closing it and putting something in are atomic against each other."""

from __future__ import annotations

import threading
from typing import Any

import pykka
import pytest
from pykka._envelope import Envelope

from pykka_registry._future import Future
from pykka_registry._inbox import NOTHING, Inbox
from tests.support import PATIENCE, in_threads, join, start_thread, tiny_switch_interval, wait_for


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
