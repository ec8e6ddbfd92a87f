"""Foreign actors: the registry keeps them for as long as they live, and never stops them."""

from __future__ import annotations

import functools
from typing import Any

import pykka
import pytest

from pykka_registry import (
    AggregateRegistry,
    EndReason,
    KeyAlreadyRegistered,
    Registered,
    RegistryRef,
    Terminated,
)
from tests.support import Counting, Listener, in_threads, told_count


class Foreign(pykka.ThreadingActor):
    pass


def test_a_registered_actor_is_found(counters: RegistryRef[Any]) -> None:
    ref = Foreign.start()
    counters.register("f", ref)
    assert counters.get("f") is ref
    assert counters["f"] is ref
    assert "f" in counters
    assert len(counters) == 1
    assert counters.items() == [("f", ref)]
    assert counters.get_or_start("f") is ref
    ref.stop()


def test_to_register_it_again_does_nothing(counters: RegistryRef[Any]) -> None:
    ref = Foreign.start()
    counters.register("f", ref)
    counters.register("f", ref)
    counters.register("g", ref)
    assert counters.items() == [("f", ref), ("g", ref)]
    ref.stop()


def test_a_live_owner_is_not_replaced(counters: RegistryRef[Any]) -> None:
    one, two = Foreign.start(), Foreign.start()
    counters.register("f", one)
    with pytest.raises(KeyAlreadyRegistered) as raised:
        counters.register("f", two)
    assert raised.value.ref is one
    with pytest.raises(KeyAlreadyRegistered):
        counters.start_new("f")
    aggregate = counters.get_or_start("a")
    with pytest.raises(KeyAlreadyRegistered) as raised:
        counters.register("a", two)
    assert raised.value.ref is aggregate
    one.stop()
    two.stop()


def test_of_many_who_register_at_once_one_wins(counters: RegistryRef[Any]) -> None:
    refs = [Foreign.start() for _ in range(8)]
    for key in range(20):
        calls = [functools.partial(counters.register, key, ref) for ref in refs]
        results = in_threads(calls)
        assert [r for r in results if r is None] == [None]
        assert sum(isinstance(r, KeyAlreadyRegistered) for r in results) == 7
    for ref in refs:
        ref.stop()


def test_a_dead_one_is_never_returned_and_is_replaced_at_once(
    counters: RegistryRef[Any], listener: pykka.ActorRef[Listener]
) -> None:
    counters.subscribe(listener)
    one, two = Foreign.start(), Foreign.start()
    counters.register("f", one)
    one.stop()
    assert counters.get("f") is None
    assert "f" not in counters
    assert len(counters) == 0
    assert list(counters) == []
    counters.register("f", two)
    assert counters["f"] is two
    two.stop()
    aggregate = counters.start_new("f")
    assert told_count(listener, 5) == [
        Registered("f", 1, one),
        Terminated("f", 1, EndReason.UNKNOWN),
        Registered("f", 2, two),
        Terminated("f", 2, EndReason.UNKNOWN),
        Registered("f", 3, aggregate),
    ]


def test_the_dead_are_swept_and_reported_once(
    counters: RegistryRef[Any], listener: pykka.ActorRef[Listener]
) -> None:
    counters.subscribe(listener)
    ref = Foreign.start()
    alive = Foreign.start()
    counters.register("f", ref)
    counters.register("g", alive)
    ref.stop()
    assert told_count(listener, 3) == [
        Registered("f", 1, ref),
        Registered("g", 2, alive),
        Terminated("f", 1, EndReason.UNKNOWN),
    ]
    assert "f" not in counters._table.foreign._rows
    alive.stop()


def test_unregister_is_compare_and_delete(
    counters: RegistryRef[Any], listener: pykka.ActorRef[Listener]
) -> None:
    counters.subscribe(listener)
    one, two = Foreign.start(), Foreign.start()
    counters.register("f", one)
    assert counters.unregister("f", two) is False
    assert counters.unregister("nothing", one) is False
    assert counters.get("f") is one
    assert counters.unregister("f", one) is True
    assert counters.unregister("f", one) is False
    assert counters.get("f") is None
    assert one.is_alive()
    assert told_count(listener, 2)[1] == Terminated("f", 1, EndReason.UNREGISTERED)
    one.stop()
    two.stop()


def test_a_dead_actor_is_not_registered(counters: RegistryRef[Any]) -> None:
    ref = Foreign.start()
    ref.stop()
    with pytest.raises(pykka.ActorDeadError, match=r"the actor to register Foreign .* is dead"):
        counters.register("f", ref)


def test_what_is_no_ref_is_not_registered(counters: RegistryRef[Any]) -> None:
    with pytest.raises(TypeError, match="must be an ActorRef, as an actor's start"):
        counters.register("f", Foreign)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="must be an ActorRef"):
        counters.subscribe("f")  # type: ignore[arg-type]


def test_an_aggregate_registers_itself_and_the_error_says_how(
    counters: RegistryRef[Any],
) -> None:
    ref = counters.get_or_start("a")
    with pytest.raises(TypeError, match=r"start it with Counting.start\(registry, key\)"):
        counters.register("b", ref)
    with pytest.raises(TypeError, match=r"stop it with its ref's stop\(\)"):
        counters.unregister("a", ref)
    assert counters["a"] is ref


def test_a_registry_may_be_registered_in_a_registry(counters: RegistryRef[Any]) -> None:
    with AggregateRegistry.start(Counting) as other:
        counters.register("other", other)
        assert counters["other"] is other


def test_shutdown_leaves_foreign_actors_alone(listener: pykka.ActorRef[Listener]) -> None:
    registry = AggregateRegistry.start(Counting)
    registry.subscribe(listener)
    ref = Foreign.start()
    registry.register("f", ref)
    registry.stop()
    assert ref.is_alive()
    assert registry.get("f") is None
    assert told_count(listener, 2) == [
        Registered("f", 1, ref),
        Terminated("f", 1, EndReason.UNREGISTERED),
    ]
    ref.stop()


def test_register_and_unregister_work_as_messages(counters: RegistryRef[Any]) -> None:
    ref = Foreign.start()
    proxy = counters.proxy()
    proxy.register("f", ref).get()
    assert proxy.get("f").get() is ref
    assert proxy.unregister("f", ref).get() is True
    assert counters.get("f") is None
    ref.stop()


class Moody:
    """A key whose hash fails from some moment on."""

    fails = False

    def __hash__(self) -> int:
        if Moody.fails:
            raise ValueError("no hash today")
        return 1


def test_a_key_that_fails_ends_no_sweep(
    counters: RegistryRef[Any], caplog: pytest.LogCaptureFixture
) -> None:
    ref = Foreign.start()
    key = Moody()
    other = Foreign.start()
    counters.register(key, ref)
    counters.register("other", other)
    Moody.fails = True
    ref.stop()
    while "registry 'Counting' could not sweep" not in caplog.text:
        counters.ask("is it alive?")
    other.stop()
    while "other" in counters._table.foreign._rows:
        counters.ask("is it alive?")
    assert caplog.text.count("could not sweep") == 1  # its end was told, so that is that
    assert counters.stats().ends == {EndReason.UNKNOWN: 2}
    Moody.fails = False
    assert counters.get(key) is None
    assert counters.unregister(key, ref) is False
    counters.ref(key).stop()
    assert counters.get_or_start(key).is_alive()


def test_a_refs_own_is_alive_does_not_run_under_a_lock(counters: RegistryRef[Any]) -> None:
    class Chatty(pykka.ActorRef[Foreign]):
        def is_alive(self) -> bool:
            counters.stats()  # takes the lock
            return super().is_alive()

    ref = Foreign.start()
    ref.__class__ = Chatty
    counters.register("f", ref)
    assert counters.get("f") is ref
    assert counters.unregister("f", ref) is True
    ref.stop()


def test_what_is_no_ref_is_not_unregistered(counters: RegistryRef[Any]) -> None:
    with pytest.raises(TypeError, match="the actor to unregister must be an ActorRef"):
        counters.unregister("f", 5)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="the listener must be an ActorRef"):
        counters.unsubscribe(3)  # type: ignore[arg-type]
