"""The registry's face: reading, starting, and what it says to wrong use."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import pykka
import pytest

from pykka_registry import (
    AggregateMixin,
    AggregateRegistry,
    KeyAlreadyRegistered,
    RegistryError,
    RegistryRef,
    RegistryStopped,
    Undeliverable,
)
from tests.support import (
    Counting,
    Gate,
    Runtime,
    join,
    start_thread,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable


def test_a_key_is_absent_until_its_aggregate_is_started(counters: RegistryRef[Counting]) -> None:
    assert counters.get("a") is None
    assert counters.get("a", "nobody") == "nobody"
    assert "a" not in counters
    assert len(counters) == 0
    assert list(counters) == []
    with pytest.raises(KeyError) as raised:
        counters["a"]
    assert raised.value.args == ("a",)


def test_it_reads_like_a_mapping(counters: RegistryRef[Counting]) -> None:
    a = counters.get_or_start("a")
    b = counters.get_or_start("b")
    assert counters.get("a") is a
    assert counters["b"] is b
    assert "a" in counters
    assert len(counters) == 2
    assert set(counters) == {"a", "b"} == set(counters.keys())
    assert set(counters.values()) == {a, b}
    assert dict(counters.items()) == {"a": a, "b": b}


def test_iteration_goes_over_a_snapshot(counters: RegistryRef[Counting]) -> None:
    for key in range(3):
        counters.get_or_start(key)
    seen: list[Any] = []
    for key in counters:
        seen.append(key)
        counters[key].stop()
        counters.get_or_start(("another", key))
    assert sorted(seen) == [0, 1, 2]


def test_an_empty_registry_is_true(counters: RegistryRef[Counting]) -> None:
    assert len(counters) == 0
    assert bool(counters) is True


@pytest.mark.parametrize(
    "key", ["a", 42, uuid.UUID(int=7), ("account", 7), None, frozenset({1}), 3.5, b"x", ""]
)
def test_any_hashable_value_is_a_key(counters: RegistryRef[Counting], key: Hashable) -> None:
    ref = counters.get_or_start(key)
    assert ref.proxy().whoami().get() == (key, ref.actor_urn)
    assert counters[key] is ref


def test_keys_are_equal_as_python_says(counters: RegistryRef[Counting]) -> None:
    assert counters.get_or_start(1) is counters.get_or_start(1.0)
    assert counters.get_or_start("1") is not counters.get_or_start(1)


def test_get_or_start_returns_the_live_actor(counters: RegistryRef[Counting]) -> None:
    assert counters.get_or_start("a") is counters.get_or_start("a")


def test_start_new_refuses_a_taken_key_and_names_the_owner(
    counters: RegistryRef[Counting],
) -> None:
    ref = counters.start_new("a")
    with pytest.raises(KeyAlreadyRegistered) as raised:
        counters.start_new("a")
    assert raised.value.key == "a"
    assert raised.value.ref is ref
    assert str(ref) in str(raised.value)
    assert "get_or_start()" in str(raised.value)
    assert isinstance(raised.value, RegistryError)


def test_a_taken_key_constructs_nothing() -> None:
    constructed: list[object] = []

    class Counted(AggregateMixin, Runtime):
        def __init__(self) -> None:
            super().__init__()
            constructed.append(self.key)

    with AggregateRegistry.start(Counted) as registry:
        registry.start_new("a")
        for _ in range(3):
            with pytest.raises(KeyAlreadyRegistered):
                registry.start_new("a")
            with pytest.raises(KeyAlreadyRegistered):
                Counted.start(registry, "a")
        assert constructed == ["a"]


def test_start_on_a_key_that_is_starting_is_refused_at_once() -> None:
    gate = Gate()

    class Slow(AggregateMixin, Runtime):
        def on_start(self) -> None:
            gate.pass_through()

    with AggregateRegistry.start(Slow) as registry:
        thread = start_thread(lambda: registry.get_or_start("a"))
        gate.wait_until_reached()
        with pytest.raises(KeyAlreadyRegistered) as raised:
            registry.start_new("a")
        assert raised.value.ref is None
        assert "starting" in str(raised.value)
        assert registry.get("a") is None
        assert len(registry) == 0
        gate.open()
        join(thread)
        assert "a" in registry


def test_the_registrys_arguments_go_to_each_constructor() -> None:
    class Described(AggregateMixin, Runtime):
        def __init__(self, first: str, *, second: str = "") -> None:
            super().__init__()
            self.described = (first, second)

    with AggregateRegistry.start(Described, args=("x",), kwargs={"second": "y"}) as registry:
        assert registry.get_or_start("a").proxy().described.get() == ("x", "y")
        assert registry.start_new("b").proxy().described.get() == ("x", "y")
        assert Described.start(registry, "c").proxy().described.get() == ("x", "y")


def test_starts_own_arguments_serve_that_incarnation_only() -> None:
    class Described(AggregateMixin, Runtime):
        def __init__(self, first: str) -> None:
            super().__init__()
            self.first = first

    with AggregateRegistry.start(Described, args=("registry's",)) as registry:
        mine = Described.start(registry, "a", "mine")
        assert mine.proxy().first.get() == "mine"
        mine.stop()
        assert registry.get_or_start("a").proxy().first.get() == "registry's"


def test_start_takes_a_subclass_of_the_registrys_class() -> None:
    class Special(Counting):
        pass

    class Other(AggregateMixin, Runtime):
        pass

    with AggregateRegistry.start(Counting) as registry:
        ref = Special.start(registry, "a")
        assert ref.actor_class is Special
        with pytest.raises(TypeError, match="starts Counting and its subclasses"):
            Other.start(registry, "b")
        assert "b" not in registry


def test_a_subclass_with_another_constructor_is_checked_against_the_registrys_arguments() -> None:
    class Base(AggregateMixin, Runtime):
        def __init__(self, one: int) -> None:
            super().__init__()
            self.one = one

    class Bare(Base):
        def __init__(self) -> None:
            super().__init__(0)

    with AggregateRegistry.start(Base, args=(1,)) as registry:
        with pytest.raises(TypeError, match=r"Bare\(\) does not take these arguments"):
            Bare.start(registry, "a")
        assert len(registry) == 0


def test_a_registry_without_a_class_keeps_what_others_start() -> None:
    with AggregateRegistry.start() as registry:
        ref = Counting.start(registry, "a")
        assert registry.get("a") is ref
        with pytest.raises(TypeError, match="has no aggregate class"):
            registry.get_or_start("b")
        with pytest.raises(TypeError, match="has no aggregate class"):
            registry.start_new("b")


def test_registries_live_side_by_side() -> None:
    with AggregateRegistry.start(Counting) as one, AggregateRegistry.start(Counting) as two:
        a = one.get_or_start("a")
        assert "a" not in two
        assert two.get_or_start("a") is not a


def test_the_calls_work_as_messages(counters: RegistryRef[Counting]) -> None:
    plain: pykka.ActorRef[Any] = pykka.ActorRegistry.get_by_class(AggregateRegistry)[0]
    proxy = pykka.ActorProxy(actor_ref=plain)
    a = proxy.get_or_start("a").get().get()
    assert counters["a"] is a
    assert proxy.get("a").get() is a
    assert proxy.get("b", 0).get() == 0
    b = proxy.start_new("b").get().get()
    assert proxy.keys().get() == ["a", "b"]
    assert proxy.values().get() == [a, b]
    assert proxy.items().get() == [("a", a), ("b", b)]
    with pytest.raises(KeyAlreadyRegistered):
        proxy.start_new("b").get()


def test_a_message_that_waits_answers_with_a_future_of_the_failure() -> None:
    class Broken(AggregateMixin, Runtime):
        def on_start(self) -> None:
            raise ValueError("no")

    with AggregateRegistry.start(Broken) as registry:
        future = registry.proxy().get_or_start("a").get()
        with pytest.raises(ValueError, match="no"):
            future.get()


def test_drain_and_stop_work_as_messages(counters: RegistryRef[Counting]) -> None:
    proxy = counters.proxy()
    counters.get_or_start("a")
    assert proxy.drain().get().get() == []
    assert not counters.is_alive()


def test_an_actors_own_stop_drains_too(counters: RegistryRef[Counting]) -> None:
    a = counters.get_or_start("a")
    counters.proxy().stop.defer()
    counters.drain()
    assert not a.is_alive()


def test_the_registry_is_itself_a_pykka_actor(counters: RegistryRef[Counting]) -> None:
    assert issubclass(AggregateRegistry, pykka.ThreadingActor)
    assert pykka.ActorRegistry.get_by_urn(counters.actor_urn) is counters
    assert isinstance(counters, pykka.ActorRef)
    assert counters.actor_class is AggregateRegistry


def test_it_says_who_it_is() -> None:
    with AggregateRegistry.start(Counting, name="accounts") as registry:
        assert str(registry) == f"'accounts' ({registry.actor_urn})"
        assert repr(registry) == f"<RegistryRef {registry}>"
    with AggregateRegistry.start() as registry:
        assert "'AggregateRegistry'" in repr(registry)


def test_an_error_in_a_message_never_ends_it(counters: RegistryRef[Counting]) -> None:
    counters.proxy().get.defer([])  # a tell, with a key that cannot be one
    with pytest.raises(TypeError):
        counters.proxy().get([]).get()
    counters.tell("anything")
    assert counters.ask("anything") is None
    assert counters.is_alive()
    assert counters.get_or_start("a").is_alive()


UNHASHABLE: Any = ["a", "list"]


def test_an_unhashable_key_is_refused_with_the_fix(counters: RegistryRef[Counting]) -> None:
    foreign = pykka.ThreadingActor.start()
    calls: list[Callable[[], object]] = [
        lambda: counters.get(UNHASHABLE),
        lambda: counters[UNHASHABLE],
        lambda: UNHASHABLE in counters,
        lambda: counters.get_or_start(UNHASHABLE),
        lambda: counters.start_new(UNHASHABLE),
        lambda: Counting.start(counters, UNHASHABLE),
        lambda: counters.register(UNHASHABLE, foreign),
        lambda: counters.unregister(UNHASHABLE, foreign),
    ]
    for call in calls:
        with pytest.raises(TypeError, match=r"a key must be hashable.*use a str"):
            call()
    foreign.stop()


def test_a_keys_own_type_error_is_passed_on(counters: RegistryRef[Counting]) -> None:
    class Odd:
        def __hash__(self) -> int:
            return hash("a")

        def __eq__(self, other: object) -> bool:
            raise TypeError("never equal")

    counters.get_or_start("a")
    with pytest.raises(TypeError, match="never equal"):
        counters.get(Odd())


def test_arguments_that_the_constructor_does_not_take_are_refused_before_anything_starts() -> None:
    class Picky(AggregateMixin, Runtime):
        def __init__(self, database: str) -> None:
            super().__init__()

    with pytest.raises(TypeError, match=r"Picky\(database: 'str'\) does not take.*missing"):
        AggregateRegistry.start(Picky)
    with pytest.raises(TypeError, match="unexpected keyword argument 'data'"):
        AggregateRegistry.start(Picky, args=("db",), kwargs={"data": 1})
    assert pykka.ActorRegistry.get_all() == []
    with AggregateRegistry.start(Picky, args=("db",)) as registry:
        with pytest.raises(TypeError, match="too many positional arguments"):
            Picky.start(registry, "a", 1, 2)
        assert registry.get("a") is None


def test_arguments_without_a_constructor_are_not_swallowed() -> None:
    """Pykka's own constructor takes whatever it is given."""

    class Plain(AggregateMixin, Runtime): ...

    class Base(Runtime):
        def __init__(self, database: str) -> None:
            super().__init__()
            self.database = database

    class Derived(AggregateMixin, Base): ...

    class Made(AggregateMixin, Runtime):
        database: str

        def __new__(cls, database: str) -> Any:
            self = super().__new__(cls)
            self.database = database
            return self

    text = "^Plain has no __init__ of its own, so it takes no arguments"
    with pytest.raises(TypeError, match=rf"{text}$"):
        AggregateRegistry.start(Plain, args=("db",))
    with pytest.raises(TypeError, match=rf"{text}$"):
        AggregateRegistry.start(Plain, kwargs={"database": "db"})
    assert pykka.ActorRegistry.get_all() == []
    with AggregateRegistry.start(Plain) as registry:
        with pytest.raises(TypeError, match=rf"{text}; start"):
            Plain.start(registry, "a", "db")
        assert registry.get_or_start("a").is_alive()
    classes: list[Any] = [Derived, Made]
    for cls in classes:
        with AggregateRegistry.start(cls, args=("db",)) as registry:
            assert registry.get_or_start("a").proxy().database.get() == "db"
    with pytest.raises(TypeError, match=r"^Derived\(database: .*does not take these arguments"):
        AggregateRegistry.start(Derived)


def test_args_that_are_no_tuple_are_refused() -> None:
    args: Any = "database"
    with pytest.raises(TypeError, match=r"args=\(argument,\)"):
        AggregateRegistry.start(Counting, args=args)


@pytest.mark.parametrize("wrong", [[1], "db", 0, ()])
def test_kwargs_that_are_no_mapping_are_refused(wrong: Any) -> None:
    with pytest.raises(TypeError) as raised:
        AggregateRegistry.start(Counting, kwargs=wrong)
    assert str(raised.value) == f"kwargs must be a mapping, not {wrong!r}"


@pytest.mark.parametrize("wrong", [5, b"accounts", Counting])
def test_a_name_that_is_no_text_is_refused(wrong: Any) -> None:
    with pytest.raises(TypeError, match=r"^name must be a str, not "):
        AggregateRegistry.start(Counting, name=wrong)
    with pytest.raises(TypeError, match=r"^name must be a str, not "):
        AggregateRegistry.start(name=wrong)


T = TypeVar("T")


class Box(AggregateMixin, pykka.ThreadingActor, Generic[T]):
    def __init__(self, content: T) -> None:
        super().__init__()
        self.content = content

    def look(self) -> T:
        return self.content


def test_a_generic_class_may_be_given_its_arguments() -> None:
    with AggregateRegistry.start(Box[int], args=(5,)) as boxes:
        assert boxes.ref("a").call(Box[int].look) == 5
        assert boxes.get_or_start("a").actor_class is Box
        assert Box[int].start(boxes, "b", 6).proxy().look().get() == 6


def test_arguments_without_a_class_are_refused() -> None:
    start: Any = AggregateRegistry.start
    with pytest.raises(TypeError, match="pass its class, too"):
        start(args=(1,))
    with pytest.raises(TypeError, match="pass its class, too"):
        start(kwargs={"x": 1})


@pytest.mark.parametrize(
    "wrong",
    [42, "Counting", pykka.ThreadingActor, object(), AggregateMixin, list[int], Counting | None],
)
def test_what_is_no_aggregate_class_is_refused(wrong: Any) -> None:
    with pytest.raises(TypeError, match="is no aggregate class: write class Account") as raised:
        AggregateRegistry.start(wrong)
    assert str(raised.value).startswith(repr(wrong))


def test_start_wants_the_registry_first(counters: RegistryRef[Counting]) -> None:
    start: Any = Counting.start
    with pytest.raises(TypeError, match=r"Counting.start\(registry, key, ...\)"):
        start("acc-1", counters)
    with pytest.raises(TypeError, match="takes the registry and the key first"):
        start(pykka.ActorRegistry, "acc-1")


def test_a_stopped_registry_says_so() -> None:
    registry = AggregateRegistry.start(Counting, name="accounts")
    foreign = pykka.ThreadingActor.start()
    registry.get_or_start("a")
    assert registry.stop() is True
    calls: list[Callable[[], object]] = [
        lambda: registry.get_or_start("a"),
        lambda: registry.start_new("a"),
        lambda: Counting.start(registry, "a"),
        lambda: registry.register("a", foreign),
        lambda: registry.subscribe(foreign),
    ]
    for call in calls:
        with pytest.raises(RegistryStopped, match="registry 'accounts' is stopping or has stopped"):
            call()
    assert registry.get("a") is None
    assert len(registry) == 0
    assert registry.stop() is False
    assert registry.drain() == []
    assert registry.unregister("a", foreign) is False
    registry.unsubscribe(foreign)
    foreign.stop()


def test_timeouts_are_pykkas_and_name_the_key() -> None:
    gate = Gate()

    class Slow(AggregateMixin, Runtime):
        def on_start(self) -> None:
            gate.pass_through()

    with AggregateRegistry.start(Slow) as registry:
        with pytest.raises(pykka.Timeout, match=r"key 'a' had no active aggregate within 0.01"):
            registry.get_or_start("a", timeout=0.01)
        with pytest.raises(pykka.Timeout):
            registry.start_new("b", timeout=0.01)
        with pytest.raises(pykka.Timeout):
            Slow.start(registry, "c", timeout=0.01)
        gate.open()
        # The timeouts have ended the waits, not the activations.
        for key in "abc":
            assert registry.get_or_start(key).is_alive()


def test_who_gives_up_waiting_for_a_predecessor_leaves_the_line() -> None:
    gate = Gate()

    class SlowToStop(AggregateMixin, Runtime):
        def on_stop(self) -> None:
            gate.pass_through()

    with AggregateRegistry.start(SlowToStop) as registry:
        registry.get_or_start("a").stop(block=False)
        gate.wait_until_reached()
        with pytest.raises(pykka.Timeout):
            registry.start_new("a", timeout=0.01)
        with pytest.raises(pykka.Timeout):
            registry.get_or_start("a", timeout=0)
        gate.open()
        assert registry.start_new("a").is_alive()


def test_of_those_in_line_the_first_is_served_and_the_others_share_or_are_refused() -> None:
    gate = Gate()
    started: list[str] = []

    class SlowToStop(AggregateMixin, Runtime):
        def __init__(self) -> None:
            super().__init__()
            started.append(self.actor_urn)

        def on_stop(self) -> None:
            gate.pass_through()

    with AggregateRegistry.start(SlowToStop) as registry:
        proxy = registry.proxy()
        for first_in_line in ("get_or_start", "start_new"):
            started.clear()
            gate = Gate()
            registry.get_or_start("a").stop(block=False)
            gate.wait_until_reached()
            line = [first_in_line, "start_new", "get_or_start", "start_new", "get_or_start"]
            futures = [getattr(proxy, call)("a").get() for call in line]
            assert len(started) == 1
            gate.open()
            ref = futures[0].get()
            assert ref is registry["a"]
            assert len(started) == 2
            for call, future in zip(line[1:], futures[1:], strict=True):
                if call == "get_or_start":
                    assert future.get() is ref
                else:
                    with pytest.raises(KeyAlreadyRegistered):
                        future.get()
            ref.stop()


def test_a_dead_actors_ref_refuses_as_pykka_says(counters: RegistryRef[Counting]) -> None:
    ref = counters.get_or_start("a")
    ref.stop()
    with pytest.raises(pykka.ActorDeadError):
        ref.tell("anything")
    with pytest.raises(pykka.ActorDeadError):
        ref.ask("anything")
    assert ref.stop() is False
    error = Undeliverable("a", "ended")
    assert isinstance(error, pykka.ActorDeadError)
    assert str(error) == "aggregate 'a' ended"


@pytest.mark.parametrize("timeout", ["5", (1,), float("nan"), True])
def test_a_timeout_that_is_no_number_is_refused_before_anything_starts(
    counters: RegistryRef[Counting], timeout: Any
) -> None:
    for call in (
        lambda: counters.get_or_start("a", timeout=timeout),
        lambda: counters.start_new("a", timeout=timeout),
        lambda: Counting.start(counters, "a", timeout=timeout),
        lambda: counters.drain(timeout=timeout),
        lambda: counters.stop(timeout=timeout),
        lambda: AggregateRegistry.start(Counting, drain_timeout=timeout),
    ):
        with pytest.raises(TypeError, match="must be a number of seconds"):
            call()
    assert counters._table._entries == {}
    assert counters.is_alive()


def test_a_negative_timeout_is_over_at_once_as_in_pykka(counters: RegistryRef[Counting]) -> None:
    gate = Gate()
    held = counters.ref("a")
    waiting = held.submit(Counting.wait_at, gate)
    gate.wait_until_reached()
    for call in (
        lambda: counters.wait_for("b", timeout=-1),
        lambda: counters["a"].ask("x", timeout=-1),
        lambda: held.ask("x", timeout=-1),
        lambda: held.using(timeout=-1).call(Counting.add),
        lambda: held.stop(timeout=-1),
        lambda: waiting.get(timeout=-1),
        lambda: counters.stop(timeout=-1),
    ):
        with pytest.raises(pykka.Timeout):
            call()
    assert counters.drain(timeout=-1) == ["a"]
    gate.open()
    assert waiting.get() is None


def test_a_registry_is_given_no_negative_times(counters: RegistryRef[Counting]) -> None:
    with pytest.raises(ValueError, match="drain_timeout must be at least 0 seconds"):
        AggregateRegistry.start(Counting, drain_timeout=-1)


def test_a_constructors_argument_without_args_is_refused_with_the_fix() -> None:
    start: Any = AggregateRegistry.start
    with pytest.raises(TypeError, match=r"go into args: AggregateRegistry.start\(Account, args="):
        start(Counting, "database")


def test_starts_own_arguments_replace_the_registrys_and_the_error_says_so() -> None:
    class Described(AggregateMixin, Runtime):
        def __init__(self, database: str, currency: str = "EUR") -> None:
            super().__init__()

    with (
        AggregateRegistry.start(Described, args=("db",)) as registry,
        pytest.raises(TypeError, match=r"'database'; start.* take the place of all"),
    ):
        Described.start(registry, "a", currency="CZK")


def test_a_registry_is_started_not_constructed() -> None:
    construct: Any = AggregateRegistry
    for arguments in ((), (Counting,)):
        with pytest.raises(TypeError, match=r"not constructed: AggregateRegistry.start\(Account\)"):
            construct(*arguments)
