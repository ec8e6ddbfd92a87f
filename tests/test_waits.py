"""A wait that could never end is refused to the one that closes the cycle, and to nobody else."""

from __future__ import annotations

import itertools
import threading
from typing import TYPE_CHECKING, Any

import pykka
import pytest

from pykka_registry import AggregateMixin, AggregateRegistry, RegistryRef, WaitCycle, _waits
from tests.support import (
    PATIENCE,
    Counting,
    Gate,
    Runtime,
    in_threads,
    join,
    start_thread,
    tiny_switch_interval,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Hashable


@pytest.fixture(autouse=True)
def no_wait_is_left() -> Generator[None]:
    yield
    assert _waits._blocked == {}


def test_asking_for_ones_own_key_from_on_start() -> None:
    errors: list[WaitCycle] = []

    class Narcissus(AggregateMixin, Runtime):
        def on_start(self) -> None:
            try:
                self.registry.get_or_start(self.key)
            except WaitCycle as error:
                errors.append(error)
                raise

    with AggregateRegistry.start(Narcissus) as registry:
        with pytest.raises(WaitCycle) as raised:
            registry.get_or_start("a")
        assert errors == [raised.value]
        assert errors[0].keys == ("a",)
        assert str(errors[0]).startswith("waiting for 'a' would never end: the one that waits ")
        assert "a" not in registry


@pytest.mark.parametrize("call", ["get_or_start", "start_new"])
def test_asking_for_ones_own_key_from_on_stop(call: str) -> None:
    errors: list[BaseException] = []

    class Phoenix(AggregateMixin, Runtime):
        def on_stop(self) -> None:
            try:
                getattr(self.registry, call)(self.key)
            except WaitCycle as error:
                errors.append(error)

    with AggregateRegistry.start(Phoenix) as registry:
        registry.get_or_start("a").stop()
        assert [type(error) for error in errors] == [WaitCycle]
        assert not registry._table._entries


def test_two_whose_on_starts_wait_for_each_other() -> None:
    both = threading.Barrier(2, timeout=PATIENCE)

    class Lover(AggregateMixin, Runtime):
        def on_start(self) -> None:
            both.wait()
            self.registry.get_or_start({"romeo": "juliet", "juliet": "romeo"}[self.key])

    with AggregateRegistry.start(Lover) as registry:
        results = in_threads(
            [lambda: registry.get_or_start("romeo"), lambda: registry.get_or_start("juliet")]
        )
        # One closes the cycle, and its failure is what the other waited for.
        assert [type(result) for result in results] == [WaitCycle, WaitCycle]
        assert len(registry) == 0


def test_asking_oneself() -> None:
    class Talker(AggregateMixin, Runtime):
        def __init__(self) -> None:
            super().__init__()
            with pytest.raises(WaitCycle):
                self.actor_ref.ask("in the constructor")

        def on_start(self) -> None:
            with pytest.raises(WaitCycle):
                self.actor_ref.ask("in on_start")

        def on_receive(self, message: Any) -> Any:
            if message == "ask":
                self.actor_ref.ask("in a handler")
            if message == "stop":
                self.actor_ref.stop()
            return message

    with AggregateRegistry.start(Talker) as registry:
        ref = registry.get_or_start("a")
        with pytest.raises(WaitCycle):
            ref.ask("ask")
        with pytest.raises(WaitCycle):
            ref.ask("stop")
        assert ref.ask("still there") == "still there"


def test_a_refused_message_is_never_handled(counters: RegistryRef[Counting]) -> None:
    ref = counters.get_or_start("a")
    proxy = ref.proxy()
    with pytest.raises(WaitCycle):
        proxy.run(lambda: proxy.add(100).get()).get()
    assert proxy.add(1).get() == 1


def test_a_message_that_somebody_else_has_sent_is_handled(
    counters: RegistryRef[Counting],
) -> None:
    """Only the one that sent it can take it back by waiting for it in vain."""
    gate = Gate()
    proxy = counters.get_or_start("a").proxy()

    def wait_for_it() -> None:
        gate.pass_through()
        shared[0].get()

    refused = proxy.run(wait_for_it)
    gate.wait_until_reached()
    shared: list[Any] = [proxy.add(100)]
    gate.open()
    with pytest.raises(WaitCycle):
        refused.get()
    assert shared[0].get() == 100


def test_a_successor_is_not_taken_for_its_predecessor() -> None:
    """One waits for the predecessor's stop to be answered, and the successor asks that one."""

    class Slow(Counting):
        def on_start(self) -> None:
            super().on_start()
            if "k" in started and self.key == "k":
                self.registry["a"].proxy().add(1).get()
            started.append(self.key)

        def on_stop(self) -> None:
            if self.key == "k" and started.count("k") == 1:
                held.pass_through()

    started: list[Any] = []
    for _ in range(30):
        held = Gate()
        started.clear()
        with AggregateRegistry.start(Slow) as registry:
            predecessor = registry.get_or_start("k")
            a = registry.get_or_start("a").proxy()
            stopped = a.run(predecessor.stop)
            held.wait_until_reached()
            successor = registry.proxy().get_or_start("k").get()
            held.open()
            assert stopped.get() is True
            assert successor.get() is not predecessor


@pytest.mark.parametrize("wrap", ["plain", "map", "join", "stop"])
def test_a_shared_future_closes_a_cycle_like_any_other(
    counters: RegistryRef[Counting], wrap: str
) -> None:
    """B's handler waits for what B itself has to bring about, in which A waits already."""
    a = counters.get_or_start("a").proxy()
    b_ref = counters.get_or_start("b")
    b = b_ref.proxy()
    gate = Gate()

    def wait_for_shared() -> Any:
        gate.pass_through()
        return shared.get()

    refused = b.run(wait_for_shared)
    gate.wait_until_reached()
    make: dict[str, Callable[[], Any]] = {
        "plain": lambda: b.add(1),
        "map": lambda: b.add(1).map(str),
        "join": lambda: b.add(1).join(b.add(1)),
        "stop": lambda: b_ref.stop(block=False),
    }
    shared = make[wrap]()
    waiting = a.run(shared.get)
    while not _waits._blocked:
        pass
    gate.open()
    with pytest.raises(WaitCycle):
        refused.get()
    assert waiting.get() in (1, "1", [1, 2], True)


def test_a_cycle_through_a_hook_that_an_outside_thread_runs_is_refused() -> None:
    errors: list[BaseException] = []

    class Clingy(Counting):
        def on_stop(self) -> None:
            if self.key == "k":
                gate.pass_through()
                try:
                    self.registry["a"].proxy().add(1).get()
                except WaitCycle as error:
                    errors.append(error)

    gate = Gate()
    with AggregateRegistry.start(Clingy) as registry:
        a = registry.get_or_start("a").proxy()
        stopped = registry.get_or_start("k").stop(block=False)
        gate.wait_until_reached()
        outside = start_thread(stopped.get)
        while not _waits._blocked:
            pass
        waiting = a.run(stopped.get)
        while len(_waits._blocked) < 2:
            pass
        gate.open()
        assert waiting.get() is True
        join(outside)
    assert len(errors) == 1


@pytest.mark.parametrize("call", ["stop", "drain"])
def test_a_cycle_through_the_shutdown_of_another_registry_is_refused(
    call: str, counters: RegistryRef[Counting]
) -> None:
    """A waits for the shutdown of B's registry, and B asks A; the other way round for a drain."""
    others = AggregateRegistry.start(Counting)
    a = counters.get_or_start("a").proxy()
    b = others.get_or_start("b").proxy()
    gate = Gate()

    def ask_a() -> Any:
        gate.pass_through()
        return a.add(1).get()

    asking = b.run(ask_a)
    gate.wait_until_reached()
    shutdown = a.run(getattr(others, call))
    while not _waits._blocked:
        pass
    gate.open()
    with pytest.raises(WaitCycle):
        asking.get()
    assert shutdown.get() in (True, [])


@pytest.mark.parametrize("call", ["stop", "drain"])
def test_a_shutdown_that_would_close_a_cycle(call: str, counters: RegistryRef[Counting]) -> None:
    """`stop` is refused, and the shutdown goes on; `drain` never raises, and its time runs out."""
    others = AggregateRegistry.start(Counting, drain_timeout=0.1)
    a = counters.get_or_start("a").proxy()
    b = others.get_or_start("b").proxy()
    gate = Gate()

    def shut_down() -> Any:
        gate.pass_through()
        return getattr(others, call)()

    shutdown = a.run(shut_down)
    gate.wait_until_reached()
    asking = b.run(lambda: a.add(1).get())
    while not _waits._blocked:
        pass
    gate.open()
    if call == "stop":
        with pytest.raises(WaitCycle):
            shutdown.get()
    else:
        assert shutdown.get() == ["b"]
    assert asking.get() == 1
    others.stop()


@pytest.mark.parametrize("length", [2, 3, 7])
def test_a_cycle_of_handlers_is_refused_once(counters: RegistryRef[Counting], length: int) -> None:
    """Each asks the next one, at the same moment; the last one would close the cycle."""
    proxies = [counters.get_or_start(key).proxy() for key in range(length)]
    everybody_runs = threading.Barrier(length, timeout=PATIENCE)

    def ask_next(i: int) -> Any:
        everybody_runs.wait()
        return proxies[(i + 1) % length].add(1).get()

    futures = [proxies[i].run(ask_next, i) for i in range(length)]
    results = in_threads([future.get for future in futures])
    refused = [result for result in results if isinstance(result, WaitCycle)]
    assert len(refused) == 1
    assert sorted(refused[0].keys) == list(range(length))
    assert [result for result in results if result not in refused] == [1] * (length - 1)


def test_a_cycle_through_two_registries_is_refused(counters: RegistryRef[Counting]) -> None:
    with AggregateRegistry.start(Counting) as others:
        a = counters.get_or_start("a").proxy()
        b = others.get_or_start("b").proxy()
        with pytest.raises(WaitCycle) as raised:
            a.run(lambda: b.run(lambda: a.add().get()).get()).get()
        assert raised.value.keys == ("a", "b")


def test_a_handler_that_waits_for_an_activation_that_asks_it_is_refused() -> None:
    class Asker(AggregateMixin, Runtime):
        def on_start(self) -> None:
            if self.key == "child":
                self.registry["parent"].ask("anything")

        def start_child(self) -> None:
            self.registry.get_or_start("child")

    with AggregateRegistry.start(Asker) as registry:
        parent = registry.get_or_start("parent").proxy()
        # If the child asks first it is the parent whose wait would close the cycle, else the
        # child's.
        with pytest.raises(WaitCycle):
            parent.start_child().get()


def test_a_stop_that_waits_for_one_that_asks_back_from_on_stop() -> None:
    """The deadlock of a blocking stop whose target asks back from its `on_stop`."""
    errors: list[BaseException] = []

    class Clingy(AggregateMixin, Runtime):
        def on_stop(self) -> None:
            if self.key == "child":
                try:
                    self.registry["parent"].ask("may I?")
                except WaitCycle as error:
                    errors.append(error)

        def stop_child(self) -> Any:
            return self.registry["child"].stop()

    with AggregateRegistry.start(Clingy) as registry:
        registry.get_or_start("child")
        stopped = registry.get_or_start("parent").proxy().stop_child()
        # If the child asks before the parent waits for its end, it is the parent whose wait would
        # close the cycle.
        try:
            assert stopped.get() is True
        except WaitCycle as error:
            errors.append(error)
        assert len(errors) == 1


def test_chains_and_trees_are_no_cycles(counters: RegistryRef[Counting]) -> None:
    proxies = [counters.get_or_start(key).proxy() for key in range(10)]

    def down(i: int) -> Any:
        if i == len(proxies) - 1:
            return proxies[i - 1].add.defer(1)
        return proxies[i + 1].run(down, i + 1).get()

    in_threads([proxies[0].run(down, 0).get])
    assert proxies[8].add(1).get() == 2


def test_waiting_with_a_timeout_is_refused_too(counters: RegistryRef[Counting]) -> None:
    proxy = counters.get_or_start("a").proxy()
    with pytest.raises(WaitCycle):
        proxy.run(lambda: proxy.add().get(timeout=30)).get()


def test_a_wait_that_timed_out_is_no_edge(counters: RegistryRef[Counting]) -> None:
    gate = Gate()
    a = counters.get_or_start("a").proxy()
    b = counters.get_or_start("b").proxy()
    b.wait_at(gate)
    gate.wait_until_reached()
    gate2 = Gate()

    def give_up_then_wait() -> None:
        with pytest.raises(pykka.Timeout):
            b.add().get(timeout=0.01)
        gate2.pass_through()

    done = a.run(give_up_then_wait)
    gate2.wait_until_reached()
    gate.open()
    answer = b.run(lambda: a.add(5).get())
    gate2.open()
    done.get()
    assert answer.get() == 5


class Thing(_waits.Runs):
    """Something to wait for, and a wait for it, whose ends the test decides."""

    def __init__(self, key: str) -> None:
        self._key = key

    def key_of(self) -> tuple[Hashable, ...]:
        return (self._key,)


class Waiting:
    def __init__(self, target: _waits.Waited) -> None:
        self.target: _waits.Waited | None = target
        self.urgent = False
        self.over = False

    def done(self) -> bool:
        return self.over


def test_an_answer_that_is_there_is_no_edge_even_while_its_asker_still_sleeps() -> None:
    """One asked us and was answered, but has not woken yet; to ask it back now is no cycle."""
    us, other = Thing("us"), Thing("other")
    others_wait, our_wait = Waiting(us), Waiting(other)
    asleep = Gate()

    def sleep() -> None:
        with _waits.running(other), _waits.blocked_on(others_wait):
            asleep.pass_through()

    thread = start_thread(sleep)
    asleep.wait_until_reached()
    with _waits.running(us):
        with pytest.raises(WaitCycle) as raised, _waits.blocked_on(our_wait):
            raise AssertionError("this would wait for ever")
        assert raised.value.keys == ("other", "us")
        others_wait.over = True
        with _waits.blocked_on(our_wait):
            assert len(_waits._blocked) == 2
    asleep.open()
    join(thread)


def test_who_waits_for_the_same_is_looked_at_once() -> None:
    """Many wait for one, which waits for somebody else still: no cycle, however one looks."""
    us, hub, rest = Thing("us"), Thing("hub"), Thing("rest")
    asleep = Gate()

    class Crowd(_waits.Runs):
        def runners(self) -> list[int]:
            return [*hub.runners(), *hub.runners()]

        def urge(self, wait: _waits.Wait) -> None: ...

        def was_withdrawn(self, wait: _waits.Wait) -> None:
            raise AssertionError("it was not sent")

    def sleep() -> None:
        with _waits.running(hub), _waits.blocked_on(Waiting(rest)):
            asleep.pass_through()

    thread = start_thread(sleep)
    asleep.wait_until_reached()
    with _waits.running(us), _waits.blocked_on(Waiting(Crowd())):
        assert len(_waits._blocked) == 2
    asleep.open()
    join(thread)


def test_what_is_raised_right_after_a_wait_was_published_leaves_no_edge(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As `PyThreadState_SetAsyncExc` may have it, between any two lines."""

    class Interrupting:
        """Raises when it is released, once a wait was published under it."""

        def __init__(self) -> None:
            self._lock = threading.Lock()

        def __enter__(self) -> None:
            self._lock.acquire()

        def __exit__(self, *_exc_info: object) -> None:
            published = bool(_waits._blocked)
            self._lock.release()
            if published:
                raise KeyboardInterrupt

    monkeypatch.setattr(_waits, "_lock", Interrupting())
    us, other = Thing("us"), Thing("other")
    with (
        pytest.raises(KeyboardInterrupt),
        _waits.running(us),
        _waits.blocked_on(Waiting(other)),
    ):
        raise AssertionError
    assert _waits._blocked == {}


def test_a_long_chain_of_waits_is_followed_to_its_end() -> None:
    things = [Thing(f"thing {i}") for i in range(5_000)]
    for i, thing in enumerate(things):
        thing.runner = -i - 1
    for thing, following in itertools.pairwise(things):
        assert thing.runner is not None
        _waits._blocked[thing.runner] = _waits._Blocked(Waiting(following), (thing,))
    try:
        with _waits.running(Thing("us")), _waits.blocked_on(Waiting(things[0])):
            assert len(_waits._blocked) == 5_000
        with (
            _waits.running(things[-1]),
            pytest.raises(WaitCycle) as raised,
            _waits.blocked_on(Waiting(things[0])),
        ):
            raise AssertionError("this would wait for ever")
        assert len(raised.value.keys) == 5_000
    finally:
        _waits._blocked.clear()


def test_a_cycle_names_those_too_that_a_thread_runs_on_top_of_each_other() -> None:
    """Who helps runs one more; the one below waits for it, as if each had a thread of its own."""
    a, b, c, d = (Thing(key) for key in "abcd")
    asleep = Gate()

    def sleep() -> None:
        with (
            _waits.running(Thing("e")),
            _waits.running(c),
            _waits.running(d),
            _waits.blocked_on(Waiting(a)),
        ):
            asleep.pass_through()

    thread = start_thread(sleep)
    asleep.wait_until_reached()
    with (
        _waits.running(a),
        _waits.running(b),
        pytest.raises(WaitCycle) as raised,
        _waits.blocked_on(Waiting(c)),
    ):
        raise AssertionError("this would wait for ever")
    asleep.open()
    join(thread)
    assert raised.value.keys == ("c", "d", "a", "b")


def test_a_thread_is_not_taken_for_one_that_has_ended() -> None:
    """Idents are used again, and the sender of a message may have ended long ago."""
    senders: list[Any] = []
    idents: list[int] = []
    for _ in range(20):
        thread = threading.Thread(target=lambda: senders.append(_waits.this_thread()))
        thread.start()
        idents.append(thread.ident or 0)
        join(thread)
    assert len(set(map(id, senders))) == 20
    assert len(set(idents)) < 20


def test_ping_pong_at_full_speed_is_never_mistaken_for_a_cycle(
    counters: RegistryRef[Counting],
) -> None:
    """A asks B, and B asks A right after: an edge that is over must not count."""
    a = counters.get_or_start("a").proxy()
    b = counters.get_or_start("b").proxy()
    c = counters.get_or_start("c").proxy()
    rounds = 2_000

    def ask_many(proxy: Any) -> int:
        return sum(proxy.add(0).get() == 0 for _ in range(rounds))

    def relay() -> int:
        """C asks A; A has an ask at B under way, or B one at A, never both."""
        done = 0
        for i in range(rounds):
            first, second = (a, b) if i % 2 else (b, a)
            done += first.run(lambda second=second: second.add(0).get()).get() == 0
        return done

    with tiny_switch_interval():
        results = in_threads([lambda: c.run(relay).get(), lambda: ask_many(a), lambda: ask_many(b)])
    assert results == [rounds] * 3


def test_of_two_that_close_a_cycle_at_once_exactly_one_is_refused(
    counters: RegistryRef[Counting],
) -> None:
    a = counters.get_or_start("a").proxy()
    b = counters.get_or_start("b").proxy()
    refused = 0
    with tiny_switch_interval():
        for _ in range(300):
            both = threading.Barrier(2, timeout=PATIENCE)

            def meet_and_ask(other: Any, both: threading.Barrier = both) -> Any:
                both.wait()
                return other.add(0).get()

            futures = [a.run(meet_and_ask, b), b.run(meet_and_ask, a)]
            results = in_threads([future.get for future in futures])
            refused += sum(isinstance(result, WaitCycle) for result in results)
            assert sorted(map(str, map(type, results))) == sorted(map(str, (int, WaitCycle))), (
                results
            )
    assert refused == 300
