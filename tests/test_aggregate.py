"""The mixin: the class checks, and every way in which an aggregate's life can go."""

from __future__ import annotations

import abc
import contextlib
import functools
import gc
import logging
import threading
import weakref
from typing import TYPE_CHECKING, Any

import pykka
import pytest
from pykka import messages
from pykka._envelope import Envelope

from pykka_registry import (
    AggregateMixin,
    AggregateRegistry,
    EndReason,
    KeyAlreadyRegistered,
    Overloaded,
    Registered,
    RegistryRef,
    RegistryStopped,
    Terminated,
    Undeliverable,
)
from pykka_registry._entry import Blueprint, Entry, Incarnation
from pykka_registry._future import Future
from pykka_registry._life import Life
from pykka_registry._policy import Policy
from pykka_registry._table import Table
from tests.support import (
    ON_POOL,
    PATIENCE,
    Counting,
    Gate,
    Listener,
    Runtime,
    actors_of,
    in_threads,
    join,
    poll,
    start_thread,
    start_timeout,
    told_count,
)

if TYPE_CHECKING:
    from types import TracebackType


# The class.


def test_the_mixin_after_the_actor_class_is_refused_with_the_fix() -> None:
    with pytest.raises(
        TypeError, match=r"write class Account\(AggregateMixin, pykka.ThreadingActor\)"
    ):

        class Account(pykka.ThreadingActor, AggregateMixin):  # pyright: ignore[reportUnusedClass]
            pass


def test_another_actor_class_before_the_mixin_is_refused() -> None:
    class Base(Runtime):
        pass

    with pytest.raises(
        TypeError,
        match=r"must come before Base in the bases.*write class Account\(Counting, Base\)",
    ):

        class Account(Base, Counting):  # pyright: ignore[reportUnusedClass]
            pass


def test_another_runtime_is_refused_with_the_fix() -> None:
    class OwnLoop(pykka.ThreadingActor):
        def _start_actor_loop(self) -> None:
            raise NotImplementedError

    with pytest.raises(TypeError, match=r"OwnLoop is a runtime of its own.*_start_actor_loop"):

        class Account(AggregateMixin, OwnLoop):  # pyright: ignore[reportUnusedClass]
            pass

    class Gevent(pykka.Actor):
        @staticmethod
        def _create_actor_inbox() -> Any:
            raise NotImplementedError

    with pytest.raises(TypeError, match=r"write class Other\(AggregateMixin, pykka.ThreadingActor"):

        class Other(AggregateMixin, Gevent):  # pyright: ignore[reportUnusedClass]
            pass


@pytest.mark.parametrize("name", ["key", "registry"])
def test_a_name_that_every_aggregate_has_is_refused(name: str) -> None:
    with pytest.raises(TypeError, match=f"Named defines {name}, which every aggregate has"):
        type("Named", (AggregateMixin, Runtime), {name: "mine"})


def test_key_and_registry_cannot_be_set(counters: RegistryRef[Counting]) -> None:
    actor = Counting()
    with pytest.raises(AttributeError, match="an aggregate's key is given by its registry"):
        actor.key = "mine"
    with pytest.raises(AttributeError, match="an aggregate has its registry already"):
        actor.registry = counters


def test_a_class_without_a_runtime_is_refused_when_it_is_started() -> None:
    class Half(AggregateMixin):
        pass

    with pytest.raises(TypeError, match="Half has no runtime: write class Half"):
        AggregateRegistry.start(Half)  # type: ignore[type-abstract]


def test_an_abstract_class_is_refused_and_says_what_it_lacks() -> None:
    class Abstract(AggregateMixin, Runtime):
        @abc.abstractmethod
        def interest(self) -> int: ...

    with pytest.raises(TypeError, match="Abstract is abstract: it lacks interest"):
        AggregateRegistry.start(Abstract)  # type: ignore[type-abstract]


def test_a_mixin_of_ones_own_may_come_between() -> None:
    class Logged(AggregateMixin):
        def name(self) -> str:
            return f"the {self.key}"

    class Account(Logged, Runtime):
        pass

    with AggregateRegistry.start(Account) as registry:
        assert registry.get_or_start("a").proxy().name().get() == "the a"


def test_an_aggregate_made_by_hand_works_but_has_no_key() -> None:
    counting = Counting()
    counting.on_start()
    assert counting.add(2) == 2
    with pytest.raises(AttributeError, match=r"Counting has no key.*Counting.start\(registry, key"):
        counting.key  # noqa: B018
    with pytest.raises(AttributeError, match="has no registry"):
        counting.registry  # noqa: B018
    assert counting.actor_ref.is_alive()
    counting.actor_stopped.set()
    ref = counting.actor_ref
    assert not ref.is_alive()
    with pytest.raises(pykka.ActorDeadError, match="not found"):
        ref.tell("anything")
    with pytest.raises(pykka.ActorDeadError, match="not found"):
        ref.ask("anything", block=False).get(timeout=PATIENCE)
    assert ref.stop(timeout=PATIENCE) is False


# Constructor and hooks.


def test_key_and_registry_are_there_from_the_constructor_on() -> None:
    seen: list[tuple[str, object, object]] = []

    class Nosy(AggregateMixin, Runtime):
        def __init__(self) -> None:
            seen.append(("before super", self.key, self.registry))
            super().__init__()
            seen.append(("after super", self.key, self.registry))

        def on_start(self) -> None:
            seen.append(("on_start", self.key, self.registry))

        def on_stop(self) -> None:
            seen.append(("on_stop", self.key, self.registry))

    with AggregateRegistry.start(Nosy) as registry:
        registry.get_or_start("a").stop()
        assert seen == [
            (when, "a", registry) for when in ("before super", "after super", "on_start", "on_stop")
        ]


def test_forgetting_super_switches_nothing_off() -> None:
    class Forgetful(AggregateMixin, Runtime):
        def __init__(self) -> None:
            self.received: list[Any] = []

        def on_start(self) -> None: ...

        def on_stop(self) -> None: ...

        def on_failure(
            self,
            exception_type: type[BaseException] | None,
            exception_value: BaseException | None,
            traceback: TracebackType | None,
        ) -> None: ...

        def on_receive(self, message: Any) -> Any:
            self.received.append(message)
            return len(self.received)

    with AggregateRegistry.start(Forgetful) as registry:
        ref = registry.get_or_start("a")
        assert ref.ask("x") == 1
        assert registry["a"] is ref
        assert ref.stop() is True
        assert "a" not in registry


@pytest.mark.threads
def test_constructor_and_hooks_run_in_one_thread_of_the_aggregates_own() -> None:
    threads: list[threading.Thread] = []

    class Where(AggregateMixin, Runtime):
        def __init__(self) -> None:
            super().__init__()
            threads.append(threading.current_thread())

        def on_start(self) -> None:
            threads.append(threading.current_thread())

        def on_stop(self) -> None:
            threads.append(threading.current_thread())

    with AggregateRegistry.start(Where) as registry:
        registry.get_or_start("a").stop()
    assert len(threads) == 3
    assert len(set(threads)) == 1
    assert threads[0].name == "Where-1"
    assert threads[0] is not threading.current_thread()


@pytest.mark.threads
def test_daemon_threads_are_as_the_class_says() -> None:
    class Daemon(AggregateMixin, Runtime):
        use_daemon_thread = True

        def is_daemon(self) -> bool:
            return threading.current_thread().daemon

    with AggregateRegistry.start(Daemon) as registry:
        assert registry.get_or_start("a").proxy().is_daemon().get() is True


def test_a_proxy_of_one_that_ends_meanwhile_is_refused_as_that_of_a_dead_one(
    counters: RegistryRef[Counting],
) -> None:
    ref = counters.get_or_start("a")
    is_alive = ref.is_alive

    def end_after_the_look() -> bool:
        alive = is_alive()
        counters.ref("a").stop()
        poll(lambda: ref._life.actor is None)  # type: ignore[attr-defined]  # ours
        return alive

    ref.is_alive = end_after_the_look  # type: ignore[method-assign]
    with pytest.raises(pykka.ActorDeadError, match="not found"):
        ref.proxy()


def test_a_proxy_made_in_the_constructor_works() -> None:
    class Deferring(AggregateMixin, Runtime):
        def __init__(self) -> None:
            super().__init__()
            self.done = threading.Event()
            self._later = self.actor_ref.proxy()

        def work(self) -> None:
            self._later.done.set()

        def work_later(self) -> None:
            self._later.finish.defer()

        def finish(self) -> None:
            self.done.set()

    with AggregateRegistry.start(Deferring) as registry:
        ref = registry.get_or_start("a")
        done = ref.proxy().done.get()
        ref.proxy().work_later().get()
        assert done.wait(60)


# Every end: what the hook table of Pykka's documentation has, each with its hooks, its reason and a
# free key.


class Hooked(AggregateMixin, Runtime):
    """Records its hooks, and raises where it is told to."""

    def __init__(self, calls: list[str], raises: dict[str, BaseException]) -> None:
        super().__init__()
        self._calls = calls
        self._raises = raises
        self._called("__init__")

    def _called(self, hook: str) -> None:
        self._calls.append(hook)
        if hook in self._raises:
            raise self._raises[hook]

    def on_start(self) -> None:
        self._called("on_start")

    def on_stop(self) -> None:
        self._called("on_stop")

    def on_failure(
        self,
        exception_type: type[BaseException] | None,
        exception_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._called(f"on_failure({exception_value!r})")

    def on_receive(self, message: Any) -> Any:
        if isinstance(message, BaseException):
            raise message
        return message


class Ends:
    """A registry of `Hooked` and what became of it."""

    def __init__(
        self,
        raises: dict[str, BaseException],
        listener: pykka.ActorRef[Listener],
    ) -> None:
        self.calls: list[str] = []
        self.registry = AggregateRegistry.start(Hooked, args=(self.calls, raises))
        self.registry.subscribe(listener)
        self._listener = listener

    def expect(self, *expected: Registered | Terminated) -> None:
        """Check that these and no other events came, that the key is free, that all shuts down."""
        events = told_count(self._listener, len(expected))
        assert events == list(expected)
        assert "a" not in self.registry
        assert self.registry.drain() == []
        assert self._listener.proxy().told.get() == list(expected)


def test_a_stopped_aggregate_runs_on_stop(listener: pykka.ActorRef[Listener]) -> None:
    ends = Ends({}, listener)
    ref = ends.registry.get_or_start("a")
    assert ref.stop() is True
    assert ends.calls == ["__init__", "on_start", "on_stop"]
    ends.expect(Registered("a", 1, ref), Terminated("a", 1, EndReason.STOPPED))


def test_an_aggregate_that_stops_itself_runs_on_stop(listener: pykka.ActorRef[Listener]) -> None:
    ends = Ends({}, listener)
    ref = ends.registry.get_or_start("a")
    ref.proxy().stop().get()
    ends.expect(Registered("a", 1, ref), Terminated("a", 1, EndReason.STOPPED))
    assert ends.calls == ["__init__", "on_start", "on_stop"]


@pytest.mark.parametrize("error", [ValueError("no"), SystemExit(1), KeyboardInterrupt()])
@pytest.mark.parametrize("hook", ["__init__", "on_start"])
def test_a_start_that_fails_runs_no_hook_and_frees_the_key(
    hook: str,
    error: BaseException,
    listener: pykka.ActorRef[Listener],
    caplog: pytest.LogCaptureFixture,
) -> None:
    ends = Ends({hook: error}, listener)
    for _ in range(2):
        with pytest.raises(BaseException) as raised:  # noqa: PT011
            ends.registry.get_or_start("a", timeout=PATIENCE)  # with a timeout nobody helps
        if isinstance(error, Exception):
            assert raised.value is error
        else:
            assert isinstance(raised.value, Undeliverable)
            assert raised.value.__cause__ is error
            assert str(raised.value) == f"aggregate 'a' failed to start; the cause: {error!r}"
        assert "a" not in ends.registry
    assert ends.calls == (["__init__", "on_start"] if hook == "on_start" else ["__init__"]) * 2
    assert "Hooked 'a' #1 failed to start" in caplog.text
    ends.expect(
        Terminated("a", 1, EndReason.START_FAILED), Terminated("a", 2, EndReason.START_FAILED)
    )


def test_terminated_carries_the_cause(listener: pykka.ActorRef[Listener]) -> None:
    error = ValueError("no")
    ends = Ends({"on_start": error}, listener)
    with pytest.raises(ValueError, match="no"):
        ends.registry.start_new("a")
    assert told_count(listener, 1)[0].cause is error
    ends.registry.stop()


def test_a_failing_tell_runs_on_failure_only(
    listener: pykka.ActorRef[Listener], caplog: pytest.LogCaptureFixture
) -> None:
    ends = Ends({}, listener)
    ref = ends.registry.get_or_start("a")
    ref.tell(ValueError("no"))
    ends.expect(Registered("a", 1, ref), Terminated("a", 1, EndReason.FAILED))
    assert ends.calls == ["__init__", "on_start", "on_failure(ValueError('no'))"]
    assert "Hooked 'a' #1 failed" in caplog.text
    assert not ref.is_alive()


@pytest.mark.parametrize("raised", [RuntimeError("in a hook"), SystemExit(2)])
def test_on_failure_may_fail(
    raised: BaseException,
    listener: pykka.ActorRef[Listener],
    caplog: pytest.LogCaptureFixture,
) -> None:
    ends = Ends({"on_failure(ValueError('no'))": raised}, listener)
    ref = ends.registry.get_or_start("a")
    ref.tell(ValueError("no"))
    ends.expect(Registered("a", 1, ref), Terminated("a", 1, EndReason.FAILED))
    assert "Hooked 'a' #1 raised in its last hook" in caplog.text


def test_an_exception_that_an_asker_gets_ends_nothing(
    listener: pykka.ActorRef[Listener], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    ends = Ends({}, listener)
    ref = ends.registry.get_or_start("a")
    with pytest.raises(ValueError, match="no"):
        ref.ask(ValueError("no"))
    assert ref.ask("still there") == "still there"
    assert "Hooked 'a' #1 answers with an exception" in caplog.text
    ref.stop()
    ends.expect(Registered("a", 1, ref), Terminated("a", 1, EndReason.STOPPED))


@pytest.mark.parametrize("raised", [ValueError("in on_stop"), SystemExit(2)])
def test_on_stop_may_fail(raised: BaseException, listener: pykka.ActorRef[Listener]) -> None:
    ends = Ends({"on_stop": raised}, listener)
    bystander = pykka.ThreadingActor.start()
    ref = ends.registry.get_or_start("a")
    assert ref.stop() is True
    assert ends.calls == ["__init__", "on_start", "on_stop"]
    ends.expect(Registered("a", 1, ref), Terminated("a", 1, EndReason.STOPPED))
    assert bystander.is_alive()
    bystander.stop()


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), GeneratorExit()])
@pytest.mark.parametrize("call", ["ask", "tell"])
def test_a_base_exception_in_a_handler_stops_every_actor(
    call: str, error: BaseException, listener: pykka.ActorRef[Listener]
) -> None:
    ends = Ends({}, listener)
    bystander = pykka.ThreadingActor.start()
    ref = ends.registry.get_or_start("a")
    other = ends.registry.get_or_start("b")
    if call == "tell":
        ref.tell(error)
    else:
        with pytest.raises(Undeliverable) as raised:
            ref.ask(error, timeout=PATIENCE)  # with a timeout nobody helps
        assert raised.value.__cause__ is error
        assert raised.value.key == "a"
        assert type(error).__name__ in str(raised.value)
    actors: list[pykka.ActorRef[Any]] = [ref, other, bystander, ends.registry, listener]
    for actor in actors:
        assert actor.actor_stopped.wait(60)
    assert ends.calls.count("on_stop") == 2
    assert "a" not in ends.registry


def test_a_base_exception_in_on_stop_after_one_in_a_handler_is_logged(
    caplog: pytest.LogCaptureFixture, listener: pykka.ActorRef[Listener]
) -> None:
    ends = Ends({"on_stop": SystemExit(4)}, listener)
    ref = ends.registry.get_or_start("a")
    with pytest.raises(Undeliverable):
        ref.ask(SystemExit(3))
    ends.registry.drain()
    assert "raised in its last hook" in caplog.text
    assert ends.calls == ["__init__", "on_start", "on_stop"]


def test_stop_all_ends_everything(listener: pykka.ActorRef[Listener]) -> None:
    ends = Ends({}, listener)
    refs = [ends.registry.get_or_start(key) for key in "abc"]
    assert pykka.ActorRegistry.stop_all() == [True] * (2 if ON_POOL else 5)
    assert not any(ref.is_alive() for ref in refs)
    assert not ends.registry.is_alive()
    assert ends.calls.count("on_stop") == 3


def test_a_stop_flag_that_somebody_sets_from_outside_ends_the_aggregate(
    listener: pykka.ActorRef[Listener],
) -> None:
    ends = Ends({}, listener)
    ref = ends.registry.get_or_start("a")
    ref.actor_stopped.set()
    ref.actor_stopped.set()
    ends.expect(Registered("a", 1, ref), Terminated("a", 1, EndReason.STOPPED))
    assert ref not in pykka.ActorRegistry.get_all()


def test_a_handler_that_sets_the_stop_flag_ends_the_aggregate(
    counters: RegistryRef[Counting],
) -> None:
    ref = counters.get_or_start("a")
    later = ref.proxy().run(ref.actor_stopped.set)
    assert later.get() is None
    assert counters.get("a") is None
    again = counters.start_new("a")
    assert actors_of(Counting, counters) == [again]


def test_a_stop_flag_that_somebody_sets_as_on_start_ends_leaves_no_stale_row(
    counters: RegistryRef[Counting], monkeypatch: pytest.MonkeyPatch
) -> None:
    activated = counters._table.activated

    def set_first(incarnation: Any, ref: Any) -> bool:
        setter = threading.Thread(target=ref.actor_stopped.set)
        setter.start()
        setter.join()
        return activated(incarnation, ref)

    with monkeypatch.context() as patch:
        patch.setattr(counters._table, "activated", set_first)
        with pytest.raises(Undeliverable):
            counters.get_or_start("a")
    assert "a" not in counters
    assert counters._table._entries == {}
    assert actors_of(Counting, counters) == []
    assert counters.get_or_start("a").is_alive()


def test_a_stop_flag_set_in_on_start_makes_the_start_fail(
    listener: pykka.ActorRef[Listener],
) -> None:
    class Suicidal(AggregateMixin, Runtime):
        def on_start(self) -> None:
            self.actor_stopped.set()

    with AggregateRegistry.start(Suicidal) as registry:
        registry.subscribe(listener)
        with pytest.raises(Undeliverable):
            registry.get_or_start("a")
        assert told_count(listener, 1) == [Terminated("a", 1, EndReason.START_FAILED)]


def no_thread(self: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")


@pytest.mark.threads
def test_a_thread_that_cannot_start_is_a_ceiling_that_others_may_lift(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with AggregateRegistry.start(Counting) as registry:
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", no_thread)
            future = registry.proxy().get_or_start("a").get()
            assert registry.stats().waiting == 1
        ref = future.get(timeout=PATIENCE)  # tried again at the next tick
        assert registry["a"] is ref


@pytest.mark.threads
def test_a_thread_that_cannot_start_for_long_overloads_and_frees_the_key(
    listener: pykka.ActorRef[Listener], monkeypatch: pytest.MonkeyPatch
) -> None:
    ends = Ends({}, listener)
    with monkeypatch.context() as patch, start_timeout(ends.registry, 0.05):
        patch.setattr(threading.Thread, "start", no_thread)
        with pytest.raises(Overloaded, match="the system grants no thread") as raised:
            ends.registry.get_or_start("a")
        assert str(raised.value.__cause__) == "can't start new thread"
        assert actors_of(Hooked, ends.registry) == []
        assert ends.registry._table._entries == {}
    ref = ends.registry.get_or_start("a")
    assert ends.calls == ["__init__", "on_start"]
    ref.stop()
    (began, ended) = told_count(listener, 2)
    assert began == Registered("a", began.incarnation, ref)
    assert ended == Terminated("a", began.incarnation, EndReason.STOPPED)
    assert ends.registry.drain() == []


@pytest.mark.threads
def test_a_thread_that_cannot_start_takes_the_place_of_an_idle_aggregate(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    normal = threading.Thread.start
    refused: list[threading.Thread] = []

    def one_at_a_time(self: threading.Thread) -> None:
        if any(thread.name.startswith("Counting-") for thread in threading.enumerate()):
            refused.append(self)
            no_thread(self)
        normal(self)

    with AggregateRegistry.start(Counting) as registry:
        monkeypatch.setattr(threading.Thread, "start", one_at_a_time)
        assert [registry.ref(key).call(Counting.add) for key in "abc"] == [1, 1, 1]
        assert registry.stats().ends == {EndReason.EVICTED: 2}
        assert refused


@pytest.mark.threads
def test_a_successor_whose_thread_cannot_start_waits_for_one_that_can(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gate = Gate()
    normal = threading.Thread.start

    class SlowToStop(AggregateMixin, Runtime):
        def on_stop(self) -> None:
            gate.pass_through()

    def no_thread_for_it(self: threading.Thread) -> None:
        if self.name.startswith("SlowToStop"):
            no_thread(self)
        normal(self)

    with AggregateRegistry.start(SlowToStop) as registry:
        registry.get_or_start("a").stop(block=False)
        gate.wait_until_reached()
        future = registry.proxy().get_or_start("a").get()
        with monkeypatch.context() as patch, start_timeout(registry, 0.05):
            patch.setattr(threading.Thread, "start", no_thread_for_it)
            gate.open()
            with pytest.raises(Overloaded):
                future.get()
        assert registry.get_or_start("a").is_alive()


def test_a_launch_that_fails_after_its_key_was_abandoned_has_one_end(
    listener: pykka.ActorRef[Listener],
) -> None:
    launched = Gate()

    def failing(incarnation: Any) -> None:
        launched.pass_through()
        registry._table._change(
            functools.partial(registry._table._refuse, incarnation, RuntimeError("no thread"))
        )

    registry = AggregateRegistry.start(Counting)
    registry.subscribe(listener)
    registry._table.launch = failing  # type: ignore[method-assign]
    errors: list[BaseException] = []

    def start() -> None:
        try:
            registry.get_or_start("a", timeout=PATIENCE)  # with a timeout nobody helps
        except RegistryStopped as error:
            errors.append(error)

    thread = start_thread(start)
    launched.wait_until_reached()
    assert registry.drain(timeout=0) == ["a"]
    launched.open()
    join(thread)
    assert len(errors) == 1
    assert registry._table._entries == {}
    assert registry.stats().live == 0
    assert listener.proxy().told.get() == [Terminated("a", 1, EndReason.ABANDONED)]


def test_a_registry_whose_thread_cannot_start_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def no_thread(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", no_thread)
        with pytest.raises(RuntimeError, match="can't start new thread"):
            AggregateRegistry.start(Counting)
    assert pykka.ActorRegistry.get_all() == []


@pytest.mark.threads
def test_a_keyboard_interrupt_before_the_thread_has_started_frees_the_key(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    launched: list[threading.Thread] = []
    constructed: list[str] = []

    class Witnessed(Counting):
        def __init__(self) -> None:
            constructed.append(threading.current_thread().name)
            super().__init__()

    def interrupted(self: threading.Thread) -> None:
        launched.append(self)
        raise KeyboardInterrupt

    with AggregateRegistry.start(Witnessed) as registry:
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", interrupted)
            with pytest.raises(KeyboardInterrupt):
                registry.get_or_start("a")
        assert "a" not in registry
        assert registry._table._entries == {}
        ref = registry.start_new("a")
        # The thread comes late after all: it finds that it is not wanted and constructs nothing.
        launched[0].start()
        join(launched[0])
        assert actors_of(Witnessed, registry) == [ref]
        assert len(constructed) == 1


@pytest.mark.threads
def test_a_keyboard_interrupt_after_the_thread_has_taken_over_ends_the_wait_only(
    counters: RegistryRef[Counting], monkeypatch: pytest.MonkeyPatch
) -> None:
    normal = threading.Thread.start

    def interrupted(self: threading.Thread) -> None:
        normal(self)
        while "a" not in counters:
            pass
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", interrupted)
        with pytest.raises(KeyboardInterrupt):
            counters.get_or_start("a")
    assert counters["a"].is_alive()


def test_a_keyboard_interrupt_in_the_middle_of_the_claim_frees_the_key(
    counters: RegistryRef[Counting],
) -> None:
    class Interrupting(dict[Any, Any]):
        def __setitem__(self, key: object, value: object) -> None:
            raise KeyboardInterrupt

    table = counters._table
    before = table._entries
    table._entries = Interrupting()
    with pytest.raises(KeyboardInterrupt):
        counters.get_or_start("a")
    table._entries = before
    assert counters.start_new("a").is_alive()


def test_a_keyboard_interrupt_while_waiting_leaves_the_line(
    counters: RegistryRef[Counting], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(self: Future[Any], *, timeout: float | None = None) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Future, "get", interrupted)
        for _ in range(2):
            with pytest.raises(KeyboardInterrupt):
                counters._table.obtain(counters._request("a", exclusive=False), None)
    assert counters.get_or_start("a").is_alive()


def test_an_interrupted_claim_is_shared_by_nobody() -> None:
    """Who waits for the same activation gets it all the same: it is launched again."""
    with AggregateRegistry.start(Counting) as registry:
        table = registry._table
        launched = Gate()

        def interrupted(incarnation: Any) -> None:
            launched.pass_through()
            raise KeyboardInterrupt

        table.launch = interrupted  # type: ignore[method-assign]
        errors: list[BaseException] = []

        def first() -> None:
            try:
                registry.get_or_start("a", timeout=PATIENCE)  # with a timeout nobody helps
            except BaseException as error:  # noqa: BLE001
                errors.append(error)

        thread = start_thread(first)
        launched.wait_until_reached()
        future = registry.proxy().get_or_start("a").get()
        launched.open()
        join(thread)
        assert isinstance(errors[0], KeyboardInterrupt)
        del table.launch
        assert future.get(timeout=PATIENCE) is registry["a"]


def test_a_logging_handler_that_raises_changes_nothing(
    listener: pykka.ActorRef[Listener],
) -> None:
    class Broken(logging.Handler):
        def handle(self, record: logging.LogRecord) -> bool:
            broken.append(record.getMessage())
            raise OSError("no space left on device")

    broken: list[str] = []
    logger = logging.getLogger("pykka_registry")
    handler, level = Broken(), logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    try:
        ends = Ends({"on_start": OSError("no start")}, listener)
        with pytest.raises(OSError, match="no start"):
            ends.registry.get_or_start("a")
        assert actors_of(Hooked, ends.registry) == []
        ends.registry.stop()
        ends = Ends({}, listener)
        ref = ends.registry.get_or_start("a")
        with pytest.raises(ValueError, match="no"):
            ref.ask(ValueError("no"))
        assert ref.is_alive()
        ends.registry.proxy().get.defer([])
        ref.tell(ValueError("no"))
        assert ends.registry.drain() == []
        assert ends.calls == ["__init__", "on_start", "on_failure(ValueError('no'))"]
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
    assert len(broken) == 4


class Nameless:
    """A key that cannot say what it is."""

    def __repr__(self) -> str:
        raise ValueError("no repr")


def test_a_key_whose_repr_raises_is_a_key() -> None:
    gate = Gate()

    class Slow(Counting):
        def on_start(self) -> None:
            super().on_start()
            gate.pass_through()

    with AggregateRegistry.start(Slow) as registry:
        key = Nameless()
        with pytest.raises(pykka.Timeout, match="key <Nameless without a repr> had no active"):
            registry.get_or_start(key, timeout=0.01)
        gate.open()
        ref = registry.get_or_start(key)
        with pytest.raises(KeyAlreadyRegistered, match="key <Nameless without a repr> is taken"):
            registry.start_new(key)
        with pytest.raises(ValueError, match="no"):
            ref.proxy().fail(ValueError("no")).get()
        ref.proxy().fail.defer(ValueError("no"))
        assert ref.actor_stopped.wait(60)


class Heavy(AggregateMixin, Runtime):
    """Says when its state is gone."""

    def __init__(self, gone: threading.Event, fails_in: str) -> None:
        super().__init__()
        self.state = State()
        weakref.finalize(self.state, gone.set)
        if fails_in == "__init__":
            raise ValueError("no")
        self._fails_in = fails_in

    def on_start(self) -> None:
        if self._fails_in == "on_start":
            raise ValueError("no")

    def fail(self) -> None:
        raise ValueError("no")


class State:
    """Something worth to be freed."""


@pytest.mark.parametrize("fails_in", ["__init__", "on_start", "tell"])
def test_what_has_failed_is_freed_at_once(fails_in: str) -> None:
    """A kept ref does not keep its actor, and no exception keeps itself: the collector is off."""
    gone = threading.Event()
    gc.collect()
    gc.disable()
    logging.disable()  # a log that is captured keeps the exceptions in it
    try:
        with AggregateRegistry.start(Heavy, args=(gone, fails_in)) as registry:
            ref = None
            with contextlib.suppress(ValueError):
                ref = registry.get_or_start("a")
                ref.tell(messages.ProxyCall(("fail",), (), {}))
            assert gone.wait(10)
            assert (ref is None) is (fails_in != "tell")
    finally:
        logging.disable(logging.NOTSET)
        gc.enable()


def test_an_aggregates_own_method_called_stop_is_its_own() -> None:
    gate = Gate()

    class Player(AggregateMixin, Runtime):
        def on_start(self) -> None:
            gate.pass_through()

        def stop(self) -> None:
            """Stop the music."""

    registry = AggregateRegistry.start(Player)
    starting = registry.proxy().get_or_start("a").get()
    gate.wait_until_reached()
    stopped = registry.stop(block=False)
    registry.ask("by now it is stopping")
    gate.open()
    assert stopped.get() is True
    assert not starting.get().is_alive()
    registry.stop()


def test_a_stop_that_somebody_outside_finds_after_the_end_is_answered() -> None:
    """The flag is set from outside, and its setter sees the stop when nobody else is there."""
    blueprint = Blueprint(Counting, (), {})
    table = Table(blueprint, "table", Policy())
    life = Life(Incarnation(Entry("a", table), blueprint, None))
    future: Future[Any] = Future()
    life.inbox.put(Envelope(messages._ActorStop(), reply_to=future))
    life.is_over = True
    life.set()
    assert future.get(timeout=60) is True


# Stopping.


def test_messages_accepted_before_a_stop_are_handled(counters: RegistryRef[Counting]) -> None:
    gate = Gate()
    ref = counters.get_or_start("a")
    proxy = ref.proxy()
    proxy.wait_at(gate)
    gate.wait_until_reached()
    futures = [proxy.add() for _ in range(10)]
    stopped = ref.stop(block=False)
    late = [proxy.add() for _ in range(3)]
    second = ref.stop(block=False)
    gate.open()
    assert stopped.get() is True
    assert [future.get() for future in futures] == list(range(1, 11))
    for future in late:
        with pytest.raises(Undeliverable, match="aggregate 'a' ended before it handled"):
            future.get()
    # Pykka: true "if the actor is stopped or was being stopped at the time of the call".
    assert second.get() is True


def test_told_messages_that_are_left_over_are_logged(
    counters: RegistryRef[Counting], caplog: pytest.LogCaptureFixture
) -> None:
    gate = Gate()
    ref = counters.get_or_start("a")
    proxy = ref.proxy()
    proxy.wait_at(gate)
    gate.wait_until_reached()
    stopped = ref.stop(block=False)
    for _ in range(3):
        ref.tell("too late")
    gate.open()
    stopped.get()
    assert "registry 'Counting': 3 messages to key 'a' became dead letters: ended" in caplog.text


def test_one_told_message_that_is_left_over_is_logged_as_one(
    counters: RegistryRef[Counting], caplog: pytest.LogCaptureFixture
) -> None:
    gate = Gate()
    ref = counters.get_or_start("a")
    ref.proxy().wait_at(gate)
    gate.wait_until_reached()
    stopped = ref.stop(block=False)
    ref.tell("too late")
    gate.open()
    stopped.get()
    assert "registry 'Counting': 1 message to key 'a' became a dead letter: ended" in caplog.text


def test_who_asks_a_failing_aggregate_gets_the_cause(counters: RegistryRef[Counting]) -> None:
    gate = Gate()
    ref = counters.get_or_start("a")
    proxy = ref.proxy()
    proxy.wait_at(gate)
    gate.wait_until_reached()
    error = ValueError("no")
    proxy.fail.defer(error)
    future = proxy.add()
    gate.open()
    with pytest.raises(Undeliverable) as raised:
        future.get()
    assert raised.value.__cause__ is error


def test_when_stop_returns_the_key_is_free(counters: RegistryRef[Counting]) -> None:
    for _ in range(100):
        ref = counters.start_new("a")
        assert ref.stop() is True
        assert not counters._table._entries


def test_a_successor_starts_only_after_on_stop_has_returned() -> None:
    gate = Gate()
    events: list[str] = []

    class Slow(AggregateMixin, Runtime):
        def on_start(self) -> None:
            events.append("start")

        def on_stop(self) -> None:
            gate.pass_through()
            events.append("stopped")

    with AggregateRegistry.start(Slow) as registry:
        first = registry.get_or_start("a")
        first.stop(block=False)
        gate.wait_until_reached()
        assert registry.get("a") is None
        assert not first.is_alive()
        future = registry.proxy().get_or_start("a").get()
        with AggregateRegistry.start(Counting) as other:  # time enough for it to come too early
            for key in range(20):
                other.get_or_start(key)
        assert events == ["start"]
        gate.open()
        assert future.get() is not first
        assert events == ["start", "stopped", "start"]


def test_many_stops_at_once_all_return_true(counters: RegistryRef[Counting]) -> None:
    gate = Gate()
    ref = counters.get_or_start("a")
    ref.proxy().wait_at(gate)
    gate.wait_until_reached()
    stops = [ref.stop(block=False) for _ in range(10)]
    gate.open()
    assert [stop.get() for stop in stops] == [True] * 10
    assert ref.stop() is False


def test_an_answer_to_a_future_that_has_one_ends_nothing(counters: RegistryRef[Counting]) -> None:
    gate = Gate()
    ref = counters.get_or_start("a")
    ref.proxy().wait_at(gate)
    gate.wait_until_reached()
    future: Any = ref.proxy().add(1)
    gate2, gate3 = Gate(), Gate()
    during: Any = ref.proxy().wait_at(gate2)

    def wait_and_fail() -> None:
        gate3.pass_through()
        raise ValueError("no")

    failing: Any = ref.proxy().run(wait_and_fail)
    gate.open()
    assert future.get() == 1
    gate2.wait_until_reached()
    during.set("somebody else's")
    gate2.open()
    gate3.wait_until_reached()
    failing.set("somebody else's")
    gate3.open()
    assert ref.proxy().add(1).get() == 2
    assert during.get() == "somebody else's"


def test_concurrent_starters_share_one_failure() -> None:
    gate = Gate()
    constructed: list[object] = []

    class Failing(AggregateMixin, Runtime):
        def on_start(self) -> None:
            constructed.append(self)
            gate.pass_through()
            raise ValueError("no")

    with AggregateRegistry.start(Failing) as registry:
        first = registry.proxy().get_or_start("a").get()
        gate.wait_until_reached()
        futures = [registry.proxy().get_or_start("a").get() for _ in range(10)]
        gate.open()
        results = in_threads([future.get for future in [first, *futures]])
        assert [type(result) for result in results] == [ValueError] * 11
        assert len(constructed) == 1
        assert "a" not in registry


def test_a_ref_has_what_pykkas_own_has_and_nothing_else() -> None:
    with AggregateRegistry.start(Counting) as registry:
        ref: Any = registry.get_or_start("a")
        unknown = "'IncarnationRef' object has no attribute 'unknown'"
        with pytest.raises(AttributeError, match=unknown):
            ref.unknown  # noqa: B018
        assert not hasattr(ref, "__unknown__")
        ref.stop()
        with pytest.raises(AttributeError, match=unknown):
            ref.unknown  # noqa: B018
