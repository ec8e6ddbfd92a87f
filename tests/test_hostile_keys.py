"""A key that raises when hashed or compared, or has changed: it harms nobody, nobody hangs."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import pytest

from pykka_registry import AggregateRegistry, RegistryError, Undeliverable
from tests.support import (
    PATIENCE,
    Counting,
    Gate,
    Listener,
    join,
    nothing_remains,
    poll,
    start_thread,
)
from tests.test_passivation import ends

if TYPE_CHECKING:
    from collections.abc import Callable

    import pykka

    from pykka_registry import RegistryRef


class Key:
    """Once it is told to it raises when it is hashed or compared, or has changed its hash."""

    def __init__(self, how: str) -> None:
        self.how = how
        self.is_bad = False

    def __hash__(self) -> int:
        if self.is_bad and self.how == "__hash__":
            raise ValueError("__hash__")
        return 2 if self.is_bad and self.how == "another hash" else 1

    def __eq__(self, other: object) -> bool:
        if self.is_bad and self.how == "__eq__" and other is not self:
            raise ValueError("__eq__")
        return other is self


class Held(Counting):
    """Passes a gate where it is told to."""

    def __init__(self, where: str, gate: Gate) -> None:
        super().__init__()
        self._where = where
        self._gate = gate

    def on_start(self) -> None:
        super().on_start()
        self._pass("starting")

    def on_stop(self) -> None:
        self._pass("stopping")

    def on_failure(self, *_exc_info: Any) -> None:
        self._pass("failing")

    def _pass(self, where: str) -> None:
        if where == self._where and isinstance(self.key, Key) and self.key.how:
            self._gate.pass_through()


HOW = pytest.mark.parametrize("how", ["__hash__", "__eq__", "another hash"])


def ends_soon(registry: RegistryRef[Any]) -> list[Any]:
    """Drain, which must not take its time."""
    result: list[Any] = []
    join(start_thread(lambda: result.extend(registry.drain(timeout=2 * PATIENCE))))
    assert registry._table._lost == {}
    assert registry._table._unsaid == []
    return result


@HOW
@pytest.mark.parametrize("where", ["active", "starting", "stopping", "failing", "resting"])
@pytest.mark.parametrize("then", ["its end", "drain"])
def test_a_key_that_raises_hinders_nobody_and_is_named(
    how: str, where: str, then: str, caplog: pytest.LogCaptureFixture
) -> None:
    key, gate = Key(how), Gate()
    registry = AggregateRegistry.start(Held, args=(where, gate), backoff=(0.2, 0.2))
    neighbours: list[Any] = [1, *(Key("") for _ in range(3))]
    for neighbour in neighbours:  # some with the same hash
        assert registry.ref(neighbour).call(Counting.add) == 1
    waiting: list[pykka.Future[Any]] = []
    address = registry.ref(key)
    ref: pykka.ActorRef[Any] | None = None
    if where == "active":
        ref = registry.get_or_start(key)
    elif where == "starting":
        waiting = [address.submit(Counting.add), registry.proxy().get_or_start(key).get()]
        gate.wait_until_reached()
    elif where == "stopping":
        registry.get_or_start(key)
        waiting = [address.stop(block=False), address.submit(Counting.add)]
        gate.wait_until_reached()
    else:
        address.proxy().fail.defer(ValueError("no"))
        if where == "failing":
            gate.wait_until_reached()
        else:
            poll(lambda: registry.stats().ends)
        waiting = [address.submit(Counting.add), registry.proxy().get_or_start(key).get()]
    key.is_bad = True
    if then == "its end":
        gate.open()
        if ref is not None:
            assert ref.stop(timeout=PATIENCE) is True
        if where != "resting":
            # One that has only changed has a successor, for somebody waits.
            one_more = where == "starting" or (how == "another hash" and where != "active")
            poll(lambda: registry.stats().live <= len(neighbours) + one_more)
    drained: list[Any] = []
    thread = start_thread(lambda: drained.append(ends_soon(registry)))
    gate.open()
    join(thread)
    assert drained == [[]]
    for future in waiting:
        with contextlib.suppress(RegistryError, ValueError):  # it is answered, in any case
            future.get(timeout=PATIENCE)
    assert registry.stats().live == 0
    assert nothing_remains(registry)
    assert not registry._table.thread or not registry._table.thread.is_alive()


@HOW
def test_many_keys_that_raise_come_to_their_ends(how: str) -> None:
    keys = [Key(how) for _ in range(20)]
    listener = Listener.start()
    registry = AggregateRegistry.start(Counting)
    registry.subscribe(listener)
    refs = [registry.get_or_start(key) for key in keys]
    good = registry.ref("good")
    assert good.call(Counting.add) == 1
    for key in keys:
        key.is_bad = True
    for ref in refs[:10]:
        assert ref.stop(timeout=PATIENCE) is True
    assert good.call(Counting.add) == 2
    assert registry.stats().live == 11
    gate = Gate()
    refs[-1].proxy().wait_at(gate)
    gate.wait_until_reached()
    drained: list[Any] = []
    thread = start_thread(lambda: drained.append(ends_soon(registry)))
    poll(lambda: registry.stats().live == 1)
    gate.open()
    join(thread)
    assert drained == [[]]
    assert {id(end.key) for end in ends(listener, 21)} == {id("good"), *map(id, keys)}
    assert nothing_remains(registry)
    listener.stop()


def test_a_quarantined_key_that_raises_holds_up_no_drain() -> None:
    key = Key("__hash__")
    registry = AggregateRegistry.start(Counting, max_failures=0, quarantine=None)
    registry.ref(key).proxy().fail.defer(ValueError("no"))
    poll(lambda: registry.stats().quarantined)
    key.is_bad = True
    assert ends_soon(registry) == []
    assert nothing_remains(registry)


def test_an_idle_aggregate_whose_key_raises_retires(caplog: pytest.LogCaptureFixture) -> None:
    key = Key("__hash__")
    with AggregateRegistry.start(Counting, idle=0.05) as registry:
        ref = registry.get_or_start(key)
        key.is_bad = True
        poll(lambda: not ref.is_alive())
        poll(lambda: not registry.stats().live)
        poll(lambda: "so nobody finds it" in caplog.text)
        assert registry.ref("good").call(Counting.add) == 1


def test_a_resting_key_that_raises_when_its_time_comes_answers_who_waits() -> None:
    key = Key("__hash__")
    with AggregateRegistry.start(Counting, backoff=(0.1, 0.1)) as registry:
        address = registry.ref(key)
        address.proxy().fail.defer(ValueError("no"))
        asked = address.submit(Counting.add)
        address.tell("told")
        poll(lambda: registry.stats().backoff)
        key.is_bad = True
        with pytest.raises(Undeliverable, match="cannot be hashed or compared any more"):
            asked.get(timeout=PATIENCE)
        assert [letter.message for letter in registry.dead_letters] == ["told"]
        assert registry.stats().backoff == 0


@pytest.mark.parametrize("end", ["dead", "alive"])
def test_a_foreign_actor_whose_key_raises_hinders_no_sweep_and_no_drain(end: str) -> None:
    key = Key("__hash__")
    listener = Listener.start()
    foreign: list[pykka.ActorRef[Any]] = [Listener.start() for _ in range(2)]
    registry = AggregateRegistry.start(Counting)
    registry.subscribe(listener)
    registry.register(key, foreign[0])
    registry.register("good", foreign[1])
    key.is_bad = True
    if end == "dead":
        for ref in foreign:
            ref.stop()
        assert {id(event.key) for event in ends(listener, 2)} == {id(key), id("good")}
    assert ends_soon(registry) == []
    assert len({id(event.key) for event in ends(listener, 2)}) == 2
    for ref in (*foreign, listener):
        ref.stop()


def test_who_sends_to_a_key_that_raises_gets_what_it_raises() -> None:
    key = Key("__hash__")
    with AggregateRegistry.start(Counting) as registry:
        address = registry.ref(key)
        assert address.call(Counting.add) == 1
        key.is_bad = True
        calls: list[Callable[[], Any]] = [
            lambda: address.tell("x"),
            lambda: address.ask("x"),
            address.stop,
            lambda: registry.get(key),
            lambda: registry.get_or_start(key),
            lambda: registry.wait_for(key, timeout=0),
            lambda: registry.release(key),
        ]
        for call in calls:
            with pytest.raises(ValueError, match="__hash__"):
                call()
        assert registry.ref("good").call(Counting.add) == 1


@HOW
def test_a_drain_waits_for_one_that_ends_and_is_found_no_more(how: str) -> None:
    key, gate = Key(how), Gate()
    registry = AggregateRegistry.start(Held, args=("stopping", gate))
    if how == "__eq__":
        registry.get_or_start(Key(""))  # one to compare it with
    ref = registry.get_or_start(key)
    key.is_bad = True
    stopped = ref.stop(block=False)
    gate.wait_until_reached()
    drained: list[Any] = []
    thread = start_thread(lambda: drained.append(ends_soon(registry)))
    poll(lambda: registry.stats().live == 1)
    poll(lambda: registry._table.refusal is not None)
    gate.open()
    join(thread)
    assert stopped.get(timeout=PATIENCE) is True
    assert drained == [[]]
    assert nothing_remains(registry)


def test_a_quarantined_key_that_raises_when_its_time_comes_stays_there(
    caplog: pytest.LogCaptureFixture,
) -> None:
    key = Key("__hash__")
    with AggregateRegistry.start(Counting, max_failures=0, quarantine=0.05) as registry:
        registry.ref(key).proxy().fail.defer(ValueError("no"))
        poll(lambda: registry.stats().quarantined)
        key.is_bad = True
        poll(lambda: "the alarm of key" in caplog.text)
        assert registry.ref("good").call(Counting.add) == 1
        assert registry.stats().quarantined == 1


def test_an_abandoned_key_that_is_found_no_more_holds_up_no_drain() -> None:
    key, gate = Key("__hash__"), Gate()
    registry = AggregateRegistry.start(Held, args=("stopping", gate), stop_timeout=0.05)
    ref = registry.get_or_start(key)
    key.is_bad = True
    ref.stop(block=False)
    gate.wait_until_reached()
    poll(lambda: registry.stats().quarantined)
    drained: list[Any] = []
    join(start_thread(lambda: drained.extend(registry.drain(timeout=2 * PATIENCE))))
    assert drained == [key]
    gate.open()
    poll(lambda: not registry.stats().live)
    assert nothing_remains(registry)


class Chameleon:
    """Becomes equal to its like."""

    value: object

    def __init__(self, value: object) -> None:
        self.value = value

    def __hash__(self) -> int:
        return hash(self.value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Chameleon) and other.value == self.value


def test_keys_that_become_equal_come_to_their_ends_one_by_one() -> None:
    keys = [Chameleon(number) for number in range(4)]
    registry = AggregateRegistry.start(Counting)
    refs = [registry.get_or_start(key) for key in keys]
    for key in keys:
        key.value = "the same"
    assert refs[0].stop(timeout=PATIENCE) is True
    assert all(ref.is_alive() for ref in refs[1:])
    assert ends_soon(registry) == []
    assert not any(ref.is_alive() for ref in refs)
    assert nothing_remains(registry)


class Looking:
    """A good key that has a look whenever it is hashed, so between any two that are put in."""

    def __init__(self, look: Callable[[], object]) -> None:
        self._look = look

    def __hash__(self) -> int:
        self._look()
        return 1

    __eq__ = object.__eq__


def test_while_bad_keys_go_the_good_ones_are_found_all_the_time() -> None:
    bad = [Key("__hash__") for _ in range(3)]
    found: list[bool] = []
    with AggregateRegistry.start(Counting) as registry:
        for _ in range(3):
            registry.get_or_start(Looking(lambda: found.append("good" in registry)))
        registry.get_or_start("good")
        refs = [registry.get_or_start(key) for key in bad]
        for key in bad:
            key.is_bad = True
        found.clear()
        for ref in refs:
            ref.stop()
        assert len(found) >= len(bad) * 3
        assert all(found)
