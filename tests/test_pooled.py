# mypy: disable-error-code="type-abstract"
"""What users of Pykka rely on, on threads and on the pool; then what only the pool promises."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import contextvars
import functools
import gc
import logging
import operator
import queue
import signal
import subprocess
import sys
import textwrap
import threading
import time
import traceback
import weakref
from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, cast

import pykka
import pytest
from pykka import messages

from pykka_registry import PooledActor, WaitCycle, _future, _pooled, _turns, _waits
from tests.support import PATIENCE, Gate, NoThreads, in_threads, poll, tiny_switch_interval

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable

    from pykka_registry._future import Future
    from pykka_registry._inbox import Inbox

A = TypeVar("A", bound=pykka.Actor)
T = TypeVar("T")

POOL = "pykka-registry-pool"

variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="nobody's")


class Runtime(NamedTuple):
    """One of the two runtimes: makes a behaviour, an actor without a runtime, a class to start."""

    base: type[pykka.Actor]

    def on(self, behaviour: type[A], **attributes: Any) -> type[A]:
        return cast("type[A]", type(behaviour.__name__, (behaviour, self.base), {**attributes}))

    def start(self, behaviour: type[A], *args: Any, **kwargs: Any) -> pykka.ActorRef[A]:
        return self.on(behaviour).start(*args, **kwargs)

    def future(self) -> pykka.Future[Any]:
        return self.base._create_future()


@pytest.fixture(params=["threads", "pooled", "pooled-not-helping", "pooled-one-thread"])
def runtime(request: pytest.FixtureRequest) -> Generator[Runtime]:
    match request.param:
        case "threads":
            yield Runtime(pykka.ThreadingActor)
        case "pooled":
            yield Runtime(PooledActor)
        case "pooled-not-helping":
            yield Runtime(type("NotHelping", (PooledActor,), {"helping": False}))
        case _:
            with concurrent.futures.ThreadPoolExecutor(1) as executor:
                yield Runtime(type("OnOneThread", (PooledActor,), {"executor": executor}))


pooled = Runtime(PooledActor)


class Hooks:
    """The hooks that were called, which a test can wait for."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self._changed = threading.Condition()

    def add(self, call: str) -> None:
        with self._changed:
            self.calls.append(call)
            self._changed.notify_all()

    def wait_for(self, *calls: str) -> None:
        """Wait until these were called, and no others."""
        with self._changed:
            self._changed.wait_for(lambda: len(self.calls) >= len(calls), PATIENCE)
            assert self.calls == [*calls]


class Doing(pykka.Actor):
    """Calls the function that it is sent, raises the error, and echoes everything else."""

    def __init__(self, hooks: Hooks | None = None, **raises: BaseException) -> None:
        super().__init__()
        self._hooks = hooks or Hooks()
        self._raises = raises
        self.count = 0

    def _called(self, hook: str, *args: object) -> None:
        self._hooks.add(f"{hook}({', '.join(map(repr, args))})" if args else hook)
        if hook in self._raises:
            raise self._raises[hook]

    def on_start(self) -> None:
        self._called("on_start")

    def on_stop(self) -> None:
        self._called("on_stop")

    def on_failure(self, exception_type: object, exception_value: object, traceback: Any) -> None:
        assert exception_type is type(exception_value)
        assert traceback is not None
        self._called("on_failure", exception_value)

    def on_receive(self, message: Any) -> Any:
        if isinstance(message, BaseException):
            raise message
        return message(self) if callable(message) else message

    def add(self, amount: int = 1) -> int:
        self.count += amount
        return self.count


def do(function: Callable[[Doing], T]) -> Callable[[Doing], T]:
    """Return a message that makes an actor call the function; here for its type alone."""
    return function


def send(ref: pykka.ActorRef[Any], function: Callable[[Any], T]) -> pykka.Future[T]:
    """Ask the actor to call the function with itself."""
    return ref.ask(function, block=False)


def call(
    ref: pykka.ActorRef[Any], function: Callable[[Any], T], *, timeout: float | None = None
) -> T:
    """Ask the actor to call the function with itself, and wait for the answer."""
    answer: Any = ref.ask(function, timeout=timeout)
    return cast("T", answer)


def hold(ref: pykka.ActorRef[Any]) -> Gate:
    """Keep the actor in a handler until the gate is opened, from the moment this returns."""
    gate = Gate()
    ref.tell(do(lambda _: gate.pass_through()))
    gate.wait_until_reached()
    return gate


def end_by(ref: pykka.ActorRef[Any], message: object) -> None:
    """Send what ends the actor, and wait until what is queued behind it is refused."""
    gate = hold(ref)
    ref.tell(message)
    behind = ref.ask("behind", block=False)
    gate.open()
    with pytest.raises(pykka.ActorDeadError, match="stopped before handling the message"):
        behind.get(timeout=PATIENCE)
    assert not ref.is_alive()
    assert pykka.ActorRegistry.get_by_urn(ref.actor_urn) is None


def thread_of(_actor: object) -> threading.Thread:
    """Return the thread that a handler runs in."""
    return threading.current_thread()


# Hooks: each way in which an actor can end.


def test_stop_runs_on_stop(runtime: Runtime) -> None:
    hooks = Hooks()
    assert runtime.start(Doing, hooks).stop() is True
    assert hooks.calls == ["on_start", "on_stop"]


def test_an_actor_that_stops_itself_handles_what_came_before_and_runs_on_stop(
    runtime: Runtime,
) -> None:
    hooks = Hooks()
    ref = runtime.start(Doing, hooks)
    gate = hold(ref)
    ref.tell(do(lambda actor: actor.stop()))
    before = ref.ask("before", block=False)
    gate.open()
    assert before.get(timeout=PATIENCE) == "before"
    hooks.wait_for("on_start", "on_stop")
    assert not ref.is_alive()


def test_an_exception_in_on_start_stops_it_without_a_hook(
    runtime: Runtime, caplog: pytest.LogCaptureFixture
) -> None:
    hooks = Hooks()
    gate = Gate()

    class Failing(Doing):
        def on_start(self) -> None:
            gate.pass_through()
            super().on_start()

    ref = runtime.start(Failing, hooks, on_start=ValueError("no"))
    assert ref.is_alive()
    early = ref.ask("early", block=False)
    ref.tell("lost")
    gate.open()
    with pytest.raises(pykka.ActorDeadError, match="stopped before handling the message"):
        early.get(timeout=PATIENCE)
    assert not ref.is_alive()
    assert pykka.ActorRegistry.get_by_urn(ref.actor_urn) is None
    assert hooks.calls == ["on_start"]
    assert logged(caplog, ref, "ERROR") == ["Unhandled exception in {}: ValueError('no')"]


def test_an_exception_in_a_tell_runs_on_failure_alone(runtime: Runtime) -> None:
    hooks = Hooks()
    ref = runtime.start(Doing, hooks)
    end_by(ref, ValueError("no"))
    hooks.wait_for("on_start", "on_failure(ValueError('no'))")


def test_an_exception_in_an_ask_runs_no_hook_and_the_actor_lives_on(runtime: Runtime) -> None:
    hooks = Hooks()
    ref = runtime.start(Doing, hooks)
    with pytest.raises(ValueError, match="no"):
        ref.ask(ValueError("no"))
    with pytest.raises(TypeError):
        ref.proxy().add("one").get()
    assert ref.is_alive()
    assert ref.ask("still there") == "still there"
    assert hooks.calls == ["on_start"]
    ref.stop()


def test_an_exception_in_on_stop_is_logged_and_the_stop_succeeds(
    runtime: Runtime, caplog: pytest.LogCaptureFixture
) -> None:
    hooks = Hooks()
    ref = runtime.start(Doing, hooks, on_stop=ValueError("no"))
    assert ref.stop() is True
    assert hooks.calls == ["on_start", "on_stop"]
    assert logged(caplog, ref, "ERROR") == ["Unhandled exception in {}: ValueError('no')"]


def test_an_exception_in_on_failure_is_logged_too(
    runtime: Runtime, caplog: pytest.LogCaptureFixture
) -> None:
    hooks = Hooks()
    ref = runtime.start(Doing, hooks, on_failure=LookupError("on the way out"))
    end_by(ref, ValueError("no"))
    hooks.wait_for("on_start", "on_failure(ValueError('no'))")
    wait_until_logged(caplog, ref, "Unhandled exception in {}: LookupError('on the way out')")
    assert logged(caplog, ref, "ERROR") == [
        "Unhandled exception in {}: ValueError('no')",
        "Unhandled exception in {}: LookupError('on the way out')",
    ]


@pytest.mark.parametrize("error", [SystemExit(1), KeyboardInterrupt(), GeneratorExit()], ids=repr)
def test_a_base_exception_in_a_tell_runs_on_stop_and_stops_all_actors(
    runtime: Runtime, error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "pykka")
    hooks, others = Hooks(), Hooks()
    bystanders = [runtime.start(Doing, others) for _ in range(3)]
    others.wait_for(*["on_start"] * 3)
    ref = runtime.start(Doing, hooks)
    end_by(ref, error)
    hooks.wait_for("on_start", "on_stop")
    others.wait_for(*["on_start"] * 3, *["on_stop"] * 3)
    assert not any(bystander.is_alive() for bystander in bystanders)
    assert pykka.ActorRegistry.get_all() == []
    assert f"{error!r} in {{}}. Stopping all actors." in logged(caplog, ref, "DEBUG")


def test_an_exception_in_the_constructor_goes_to_whoever_starts_it(runtime: Runtime) -> None:
    class Broken(Doing):
        def __init__(self) -> None:
            super().__init__()
            raise ValueError("no")

    before = set(threading.enumerate())
    with pytest.raises(ValueError, match="no"):
        runtime.start(Broken)
    assert pykka.ActorRegistry.get_all() == []
    assert set(threading.enumerate()) <= before


def test_forgetting_supers_constructor_fails_at_start_and_starts_nothing(runtime: Runtime) -> None:
    """Pykka has a message for it, which its own property keeps it from giving."""

    class Forgetful(Doing):
        def __init__(self) -> None:
            pass

    before = set(threading.enumerate())
    with pytest.raises((AssertionError, AttributeError), match=r"super\(\)|_actor_ref"):
        runtime.start(Forgetful)
    assert pykka.ActorRegistry.get_all() == []
    assert set(threading.enumerate()) <= before


def test_the_constructor_gets_the_arguments_in_the_thread_that_starts_the_actor(
    runtime: Runtime,
) -> None:
    class Given(pykka.Actor):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.given = (args, kwargs, threading.current_thread())

    ref = runtime.start(Given, 1, two=2)
    assert ref.proxy().given.get() == ((1,), {"two": 2}, threading.current_thread())
    ref.stop()


def test_start_does_not_wait_for_on_start_but_every_message_does(runtime: Runtime) -> None:
    hooks = Hooks()
    gate = Gate()

    class Slow(Doing):
        def on_start(self) -> None:
            gate.pass_through()
            super().on_start()

    ref = runtime.start(Slow, hooks)
    gate.wait_until_reached()
    ref.tell(do(lambda _: hooks.add("told")))
    assert ref.is_alive()
    assert pykka.ActorRegistry.get_by_urn(ref.actor_urn) is ref
    with pytest.raises(pykka.Timeout):
        call(ref, lambda _: hooks.add("asked"), timeout=0.01)
    gate.open()
    ref.stop()
    assert hooks.calls == ["on_start", "told", "asked", "on_stop"]


# Stopping.


def test_an_actor_is_dead_and_out_of_the_registry_while_its_on_stop_runs(runtime: Runtime) -> None:
    gate = Gate()

    class SlowToStop(Doing):
        def on_stop(self) -> None:
            gate.pass_through()

    ref = runtime.start(SlowToStop)
    stopped = ref.stop(block=False)
    gate.wait_until_reached()
    assert not ref.is_alive()
    assert pykka.ActorRegistry.get_by_urn(ref.actor_urn) is None
    with pytest.raises(pykka.Timeout):
        stopped.get(timeout=0.01)
    gate.open()
    assert stopped.get(timeout=PATIENCE) is True


def test_stop_returns_after_on_stop_and_tells_whether_there_was_something_to_stop(
    runtime: Runtime,
) -> None:
    hooks = Hooks()
    ref = runtime.start(Doing, hooks)
    assert ref.is_alive()
    assert ref.stop() is True
    assert hooks.calls == ["on_start", "on_stop"]
    assert not ref.is_alive()
    assert ref.stop() is False
    assert ref.stop(timeout=PATIENCE) is False
    assert ref.stop(block=False).get() is False


def test_a_stop_that_nobody_waits_for_is_carried_out(runtime: Runtime) -> None:
    hooks = Hooks()
    ref = runtime.start(Doing, hooks)
    ref.stop(block=False)
    assert ref.actor_stopped.wait(PATIENCE)
    hooks.wait_for("on_start", "on_stop")


def test_a_stop_that_times_out_is_carried_out_all_the_same(runtime: Runtime) -> None:
    ref = runtime.start(Doing)
    gate = hold(ref)
    with pytest.raises(pykka.Timeout):
        ref.stop(timeout=0.01)
    assert ref.is_alive()
    gate.open()
    assert ref.actor_stopped.wait(PATIENCE)


def test_what_is_queued_before_a_stop_is_handled_and_what_is_behind_is_refused(
    runtime: Runtime,
) -> None:
    hooks = Hooks()
    ref = runtime.start(Doing, hooks)
    gate = hold(ref)
    ref.tell(do(lambda _: hooks.add("before")))
    before = ref.ask("before", block=False)
    first = ref.stop(block=False)
    behind = ref.ask("behind", block=False)
    ref.tell(do(lambda _: hooks.add("behind")))
    second = ref.stop(block=False)
    gate.open()
    assert before.get(timeout=PATIENCE) == "before"
    assert first.get(timeout=PATIENCE) is True
    assert second.get(timeout=PATIENCE) is True
    with pytest.raises(pykka.ActorDeadError, match=f"{ref.actor_urn}.* stopped before handling"):
        behind.get(timeout=PATIENCE)
    assert hooks.calls == ["on_start", "before", "on_stop"]


def test_a_dead_actor_says_that_it_is_not_found(runtime: Runtime) -> None:
    ref = runtime.start(Doing)
    proxy = ref.proxy()
    ref.stop()
    not_found = rf"Doing \({ref.actor_urn}\) not found"
    with pytest.raises(pykka.ActorDeadError, match=not_found):
        ref.tell("x")
    with pytest.raises(pykka.ActorDeadError, match=not_found):
        ref.ask("x")
    with pytest.raises(pykka.ActorDeadError, match=not_found):
        ref.ask("x", timeout=PATIENCE)
    future = ref.ask("x", block=False)
    with pytest.raises(pykka.ActorDeadError, match=not_found):
        future.get()
    with pytest.raises(pykka.ActorDeadError, match=not_found):
        ref.proxy()
    future = proxy.add()
    with pytest.raises(pykka.ActorDeadError, match=not_found):
        future.get()
    with pytest.raises(pykka.ActorDeadError, match=not_found):
        proxy.add.defer()
    with pytest.raises(pykka.ActorDeadError, match=not_found):
        proxy.count = 1


# What an actor is called.


def test_an_actor_and_its_ref_have_one_urn_and_say_it_alike(runtime: Runtime) -> None:
    ref = runtime.start(Doing)
    assert ref.actor_urn.startswith("urn:uuid:")
    assert ref.actor_class.__name__ == "Doing"
    assert str(ref) == f"Doing ({ref.actor_urn})"
    assert repr(ref) == f"<ActorRef for Doing ({ref.actor_urn})>"
    assert call(ref, str) == str(ref)
    assert call(ref, lambda actor: actor.actor_urn) == ref.actor_urn
    assert call(ref, lambda actor: actor.actor_ref) is ref
    assert call(ref, lambda actor: actor.actor_inbox is ref.actor_inbox) is True
    assert call(ref, lambda actor: actor.actor_stopped is ref.actor_stopped) is True
    assert call(ref, lambda actor: actor.actor_stopped.is_set()) is False
    assert isinstance(ref, pykka.ActorRef)
    other = runtime.start(Doing)
    assert other.actor_urn != ref.actor_urn
    assert len({ref, other, ref}) == 2
    assert ref != other
    assert ref.actor_stopped.wait(0) is False
    ref.stop()
    assert ref.actor_stopped.wait(0) is True
    other.stop()


def test_the_ref_is_ready_in_the_constructor(runtime: Runtime) -> None:
    class Early(Doing):
        def __init__(self) -> None:
            super().__init__()
            self._later = self.actor_ref.proxy()
            self._later.add.defer(2)
            self.actor_ref.tell(do(lambda actor: actor.add(3)))

    ref = runtime.start(Early)
    assert ref.proxy().count.get() == 5
    ref.stop()


# Messages.


def test_tell_returns_nothing_and_ask_the_answer_or_a_future(runtime: Runtime) -> None:
    ref = runtime.start(Doing)
    gate = hold(ref)
    assert ref.tell("x") is None  # type: ignore[func-returns-value]
    future = ref.ask("x", block=False)
    assert isinstance(future, pykka.Future)
    with pytest.raises(pykka.Timeout, match=r"0\.01 seconds"):
        ref.ask("late", timeout=0.01)
    with pytest.raises(pykka.Timeout):
        ref.ask("late", timeout=0)
    gate.open()
    assert future.get() == "x"
    assert ref.ask("x") == "x"
    assert ref.ask("x", timeout=PATIENCE) == "x"
    assert ref.ask(None) is None
    ref.stop()


def test_an_ask_that_timed_out_is_handled_all_the_same(runtime: Runtime) -> None:
    ref = runtime.start(Doing)
    gate = hold(ref)
    with pytest.raises(pykka.Timeout):
        call(ref, lambda actor: actor.add(), timeout=0.01)
    gate.open()
    assert call(ref, lambda actor: actor.count) == 1
    ref.stop()


def test_a_message_that_nobody_handles_is_logged_and_answered_with_none(
    runtime: Runtime, caplog: pytest.LogCaptureFixture
) -> None:
    class Bare(pykka.Actor):
        pass

    ref = runtime.start(Bare)
    assert ref.ask({"a": 1}) is None
    assert logged(caplog, ref, "WARNING") == ["Unexpected message received by {}: {'a': 1}"]
    ref.stop()


def test_an_exception_reaches_the_asker_with_the_handlers_traceback(runtime: Runtime) -> None:
    error = ValueError("no")

    class Raising(Doing):
        def where_it_happens(self) -> None:
            raise error

    ref = runtime.start(Raising)
    asks: list[Callable[[], Any]] = [
        lambda: ref.proxy().where_it_happens().get(),
        lambda: ref.ask(messages.ProxyCall(("where_it_happens",), (), {})),
        lambda: call(ref, lambda actor: actor.where_it_happens(), timeout=PATIENCE),
    ]
    for ask in asks:
        with pytest.raises(ValueError, match="no") as raised:
            ask()
        assert raised.value is error
        frames = [frame.name for frame in traceback.extract_tb(raised.value.__traceback__)]
        assert frames[-1] == "where_it_happens"
    ref.stop()


# The proxy.


@pykka.traversable
class Drawer:
    def __init__(self, inner: Drawer | None = None) -> None:
        self.content = "socks"
        if inner is not None:
            self.inner = inner

    def look(self) -> str:
        return self.content

    def whose_thread(self) -> threading.Thread:
        return threading.current_thread()


class Chest(Doing):
    kind = "chest"

    def __init__(self) -> None:
        super().__init__()
        self.drawer = Drawer(Drawer())
        self.plain = object()
        self._hidden = 1

    @property
    def contents(self) -> str:
        return self.drawer.content

    @contents.setter
    def contents(self, value: str) -> None:
        if not value:
            raise ValueError("empty")
        self.drawer.content = value

    def with_keywords(self, *args: int, **kwargs: int) -> tuple[tuple[int, ...], dict[str, int]]:
        return args, kwargs

    def install(self) -> None:
        self.added = "later"


@pytest.fixture
def chest(runtime: Runtime) -> Generator[pykka.ActorRef[Chest]]:
    ref = runtime.start(Chest)
    yield ref
    ref.stop()


def test_a_proxy_calls_methods_and_reads_attributes(chest: pykka.ActorRef[Chest]) -> None:
    proxy = chest.proxy()
    assert isinstance(proxy.add(2), pykka.Future)
    assert proxy.add(amount=2).get() == 4
    assert proxy.count.get() == 4
    assert proxy.with_keywords(1, 2, three=3).get() == ((1, 2), {"three": 3})
    assert proxy.kind.get() == "chest"
    assert proxy.contents.get() == "socks"
    assert proxy.actor_urn.get() == chest.actor_urn


def test_a_proxy_sets_attributes_and_raises_what_that_raises(chest: pykka.ActorRef[Chest]) -> None:
    proxy: Any = chest.proxy()
    proxy.count = 7
    assert chest.proxy().count.get() == 7
    proxy.contents = "shirts"
    assert proxy.drawer.look().get() == "shirts"
    with pytest.raises(ValueError, match="empty"):
        proxy.contents = ""
    proxy.drawer.content = "hats"
    assert chest.proxy().contents.get() == "hats"
    assert chest.is_alive()


def test_a_proxy_walks_traversable_attributes(chest: pykka.ActorRef[Chest]) -> None:
    proxy = chest.proxy()
    assert proxy.drawer.content.get() == "socks"
    proxy.drawer.inner.content = "shoes"
    assert proxy.drawer.inner.look().get() == "shoes"
    assert proxy.drawer.look().get() == "socks"
    thread = proxy.drawer.inner.whose_thread().get(timeout=PATIENCE)
    assert thread is not threading.current_thread()
    assert isinstance(proxy.plain, pykka.Future)


def test_a_proxy_has_no_private_and_no_unknown_names(chest: pykka.ActorRef[Chest]) -> None:
    proxy = chest.proxy()
    with pytest.raises(AttributeError, match="has no attribute '_hidden'"):
        _ = proxy._hidden
    with pytest.raises(AttributeError, match="has no attribute 'unknown'"):
        _ = proxy.unknown
    with pytest.raises(AttributeError, match="has no attribute 'added'"):
        _ = proxy.added
    proxy.install().get()
    assert proxy.added.get() == "later"
    assert {"add", "count", "drawer", "kind", "contents"} <= set(dir(proxy))


def test_a_deferred_call_is_a_tell(runtime: Runtime) -> None:
    hooks = Hooks()
    ref = runtime.start(Doing, hooks)
    proxy = ref.proxy()
    proxy.add.defer(amount=3)
    assert proxy.count.get() == 3
    gate = hold(ref)
    proxy.add.defer("one")
    behind = proxy.count
    gate.open()
    with pytest.raises(pykka.ActorDeadError):
        behind.get(timeout=PATIENCE)
    with hooks._changed:
        assert hooks._changed.wait_for(lambda: len(hooks.calls) == 2, PATIENCE)
    assert hooks.calls[1].startswith("on_failure(TypeError(")


def test_proxies_of_one_actor_are_equal(runtime: Runtime) -> None:
    ref, other = runtime.start(Chest), runtime.start(Chest)
    assert ref.proxy() == pykka.ActorProxy(actor_ref=ref)
    assert hash(ref.proxy()) == hash(ref.proxy())
    assert ref.proxy() != other.proxy()
    assert ref.proxy() != ref.proxy().drawer
    assert repr(ref.proxy()) == f"<ActorProxy for Chest ({ref.actor_urn}), attr_path=()>"
    pykka.ActorRegistry.stop_all()


def test_an_actor_may_use_a_proxy_of_its_own_for_later(runtime: Runtime) -> None:
    hooks = Hooks()

    class Patient(pykka.Actor):
        def __init__(self) -> None:
            super().__init__()
            self._later = self.actor_ref.proxy()

        def start_work(self) -> None:
            self._later.finish_work.defer()
            hooks.add("started")

        def finish_work(self) -> None:
            hooks.add("finished")

        def on_receive(self, message: Any) -> None:
            message(self)

    ref = runtime.start(Patient)
    gate = hold(ref)
    ref.proxy().start_work()
    ref.tell(do(lambda _: hooks.add("in between")))
    gate.open()
    hooks.wait_for("started", "in between", "finished")
    ref.stop()


# Futures.


def test_a_future_is_set_once_and_read_often(runtime: Runtime) -> None:
    future = runtime.future()
    assert repr(future) == "<pykka.Future>"
    with pytest.raises(pykka.Timeout, match="0 seconds"):
        future.get(timeout=0)
    future.set("value")
    assert [future.get(), future.get(timeout=0), future.get(timeout=1)] == ["value"] * 3
    agains: list[Callable[[], None]] = [
        future.set,
        future.set_exception,
        lambda: future.set_get_hook(str),
    ]
    for again in agains:
        with pytest.raises(queue.Full):
            again()
    assert future.get() == "value"
    nothing = runtime.future()
    nothing.set()
    assert nothing.get() is None


def test_a_future_takes_the_exception_at_hand_or_the_one_it_is_given(runtime: Runtime) -> None:
    at_hand, given, bare = runtime.future(), runtime.future(), runtime.future()
    try:
        raise ValueError("at hand")  # noqa: TRY301
    except ValueError:
        at_hand.set_exception()
    error = LookupError("given")
    given.set_exception((LookupError, error, None))
    bare.set_exception((LookupError, None, None))
    for _ in range(2):
        with pytest.raises(ValueError, match="at hand") as raised:
            at_hand.get()
        assert traceback.extract_tb(raised.value.__traceback__)[-1].line is not None
        with pytest.raises(LookupError) as other:
            given.get(timeout=0)
        assert other.value is error
        with pytest.raises(LookupError):
            bare.get()
    with pytest.raises(queue.Full):
        given.set(1)


def test_a_get_hook_makes_the_value_once_when_asked(runtime: Runtime) -> None:
    asked: list[float | None] = []

    def hook(timeout: float | None) -> int:
        asked.append(timeout)
        return len(asked)

    future = runtime.future()
    future.set_get_hook(hook)
    assert asked == []
    assert [future.get(timeout=0.5), future.get(), future.get(timeout=2)] == [1, 1, 1]
    assert asked == [0.5]
    with pytest.raises(queue.Full):
        future.set(1)
    with pytest.raises(queue.Full):
        future.set_exception((ValueError, ValueError(), None))


def test_a_get_hook_that_raised_is_run_again(runtime: Runtime) -> None:
    raises: list[Exception] = [pykka.Timeout("not yet"), ValueError("no")]

    def hook(_timeout: float | None) -> int:
        if raises:
            raise raises.pop(0)
        return 3

    future = runtime.future()
    future.set_get_hook(hook)
    with pytest.raises(pykka.Timeout):
        future.get(timeout=0)
    with pytest.raises(ValueError, match="no"):
        future.get()
    assert future.get() == 3


def test_all_who_wait_for_a_future_get_its_value(runtime: Runtime) -> None:
    ref = runtime.start(Doing)
    gate = hold(ref)
    future = ref.ask("x", block=False)
    waiting: list[Callable[[], Any]] = [future.get] * 4
    waiting += [functools.partial(future.get, timeout=PATIENCE)] * 4
    assert in_threads([*waiting, gate.open]) == ["x"] * 8 + [None]
    ref.stop()


def test_futures_can_be_mapped_filtered_reduced_and_joined(runtime: Runtime) -> None:
    ref = runtime.start(Doing)
    numbers: pykka.Future[Iterable[int]] = ref.ask([1, 2, 3, 4], block=False)

    def is_even(number: int) -> bool:
        return number % 2 == 0

    def is_large(number: int) -> bool:
        return number > 4

    assert numbers.map(sum).get() == 10
    assert numbers.filter(is_even).get() == [2, 4]
    assert numbers.reduce(operator.add).get() == 10
    assert numbers.reduce(operator.add, 5).get() == 15
    assert numbers.filter(is_large).reduce(operator.add, 5).get() == 5
    assert numbers.map(sum).map(lambda n: n + 1).get(timeout=PATIENCE) == 11
    mapped: object = numbers.map(sum)
    assert type(mapped) is type(numbers)
    others = [ref.ask("a", block=False), pykka.ThreadingFuture[Any](), ref.ask("c", block=False)]
    others[1].set("b")
    assert numbers.map(sum).join(*others).get() == [10, "a", "b", "c"]
    with pytest.raises(TypeError):
        ref.ask(1, block=False).filter(bool).get()
    with pytest.raises(ZeroDivisionError):
        numbers.map(lambda n: 1 / (sum(n) - 10)).get()
    failed = ref.ask(ValueError("no"), block=False)
    with pytest.raises(ValueError, match="no"):
        failed.map(len).get()
    with pytest.raises(ValueError, match="no"):
        ref.ask("x", block=False).join(failed).get()
    ref.stop()


def test_get_all_collects_in_order_and_with_a_timeout(runtime: Runtime) -> None:
    refs = [runtime.start(Doing) for _ in range(5)]
    futures = [ref.ask(i, block=False) for i, ref in enumerate(refs)]
    assert pykka.get_all(futures) == [0, 1, 2, 3, 4]
    assert pykka.get_all(futures, timeout=PATIENCE) == [0, 1, 2, 3, 4]
    gate = hold(refs[0])
    late = refs[0].ask("late", block=False)
    with pytest.raises(pykka.Timeout):
        pykka.get_all([*futures, late], timeout=0.01)
    gate.open()
    assert pykka.get_all([late]) == ["late"]
    pykka.ActorRegistry.stop_all()


def test_a_future_that_is_mapped_times_out_and_can_be_asked_again(runtime: Runtime) -> None:
    ref = runtime.start(Doing)
    gate = hold(ref)
    mapped = ref.ask(20, block=False).map(lambda n: n + 1)
    with pytest.raises(pykka.Timeout):
        mapped.get(timeout=0.01)
    gate.open()
    assert mapped.get() == 21
    ref.stop()


def test_a_future_can_be_awaited(runtime: Runtime) -> None:
    ref = runtime.start(Doing)

    async def main() -> list[Any]:
        proxy = ref.proxy()
        with pytest.raises(ValueError, match="no"):
            await ref.ask(ValueError("no"), block=False)
        answered = ref.ask("again", block=False)
        return [
            await ref.ask("asked", block=False),
            await proxy.add(3),
            await proxy.count,
            await answered,
            await answered,
            await answered.map(len),
        ]

    assert asyncio.run(main()) == ["asked", 3, 3, "again", "again", 5]
    ref.stop()


# Pykka's registry.


class Special(Doing):
    pass


def test_pykkas_registry_finds_live_actors(runtime: Runtime) -> None:
    doing, special = runtime.on(Doing), runtime.on(Special)
    first, second, third = doing.start(), doing.start(), special.start()
    registry = pykka.ActorRegistry
    assert registry.get_all() == [first, second, third]
    assert registry.get_by_class(doing) == [first, second]
    assert registry.get_by_class(Special) == [third]
    assert registry.get_by_class(Doing) == [first, second, third]
    assert registry.get_by_class(runtime.base) == [first, second, third]
    assert registry.get_by_class_name("Doing") == [first, second]
    assert registry.get_by_class_name("Nobody") == []
    assert registry.get_by_urn(second.actor_urn) is second
    second.stop()
    assert registry.get_all() == [first, third]
    assert registry.get_by_urn(second.actor_urn) is None
    assert registry.stop_all() == [True, True]
    assert registry.get_all() == []
    assert registry.stop_all() == []


def test_a_broadcast_reaches_all_or_those_of_a_class(runtime: Runtime) -> None:
    doing, special = runtime.on(Doing), runtime.on(Special)
    refs: list[pykka.ActorRef[Any]] = [doing.start(), doing.start(), special.start()]
    pykka.ActorRegistry.broadcast(do(lambda actor: actor.add(1)))
    pykka.ActorRegistry.broadcast(do(lambda actor: actor.add(10)), target_class=special)
    pykka.ActorRegistry.broadcast(do(lambda actor: actor.add(100)), target_class="Doing")
    assert [ref.proxy().count.get() for ref in refs] == [101, 101, 11]
    pykka.ActorRegistry.stop_all()


def test_stop_all_stops_the_last_started_first(runtime: Runtime) -> None:
    stopped: list[int] = []

    class Numbered(pykka.Actor):
        def __init__(self, number: int) -> None:
            super().__init__()
            self._number = number

        def on_stop(self) -> None:
            stopped.append(self._number)

    for number in range(5):
        runtime.start(Numbered, number)
    assert pykka.ActorRegistry.stop_all() == [True] * 5
    assert stopped == [4, 3, 2, 1, 0]


def test_stop_all_can_be_waited_for_later_or_with_a_timeout(runtime: Runtime) -> None:
    refs = [runtime.start(Doing) for _ in range(3)]
    gate = hold(refs[2])
    with pytest.raises(pykka.Timeout):
        pykka.ActorRegistry.stop_all(timeout=0.01)
    futures = pykka.ActorRegistry.stop_all(block=False)
    gate.open()
    assert pykka.get_all(futures, timeout=PATIENCE) == [True] * 3
    assert not any(ref.is_alive() for ref in refs)


def test_a_live_actor_that_nobody_refers_to_lives_on(runtime: Runtime) -> None:
    urn = runtime.start(Doing).actor_urn
    gc.collect()
    ref = pykka.ActorRegistry.get_by_urn(urn)
    assert ref is not None
    assert ref.ask("still there") == "still there"
    assert ref.proxy().count.get() == 0
    ref.stop()


# The log.


def logged(caplog: pytest.LogCaptureFixture, ref: pykka.ActorRef[Any], *levels: str) -> list[str]:
    """Return what Pykka's logger was told of these levels, with the actor's name left out."""
    return [
        record.getMessage().replace(str(ref), "{}")
        + (f" {record.exc_info[1]!r}" if record.exc_info else "")
        for record in caplog.records
        if record.name == "pykka" and record.levelname in levels
    ]


def wait_until_logged(
    caplog: pytest.LogCaptureFixture, ref: pykka.ActorRef[Any], text: str
) -> None:
    """Wait for a line that is logged when the last message has been answered."""
    found = threading.Event()

    class Looking(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            look()

    def look() -> None:
        if text in logged(caplog, ref, "DEBUG", "INFO", "WARNING", "ERROR"):
            found.set()

    handler = Looking()
    logging.getLogger().addHandler(handler)  # behind caplog's own
    try:
        look()
        assert found.wait(PATIENCE), f"{text!r} was not logged"
    finally:
        logging.getLogger().removeHandler(handler)


def test_the_log_tells_of_a_life(runtime: Runtime, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "pykka")
    ref = runtime.start(Doing)
    with pytest.raises(ValueError, match="no"):
        ref.ask(ValueError("no"))
    ref.stop()
    assert logged(caplog, ref, "DEBUG", "INFO", "WARNING", "ERROR") == [
        "Registered {}",
        "Starting {}",
        "Exception returned from {} to caller: ValueError('no')",
        "Unregistered {}",
        "Stopped {}",
    ]
    assert logged(caplog, ref, "INFO") == ["Exception returned from {} to caller: ValueError('no')"]


def test_the_log_tells_of_a_failure(runtime: Runtime, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "pykka")
    ref = runtime.start(Doing)
    end_by(ref, ValueError("no"))
    assert logged(caplog, ref, "DEBUG", "INFO", "WARNING", "ERROR") == [
        "Registered {}",
        "Starting {}",
        "Unhandled exception in {}: ValueError('no')",
        "Unregistered {}",
    ]
    assert logged(caplog, ref, "ERROR") == ["Unhandled exception in {}: ValueError('no')"]


# Actors among each other.


class Link(pykka.Actor):
    """Asks the next one before it answers how many they are."""

    def __init__(self, following: pykka.ActorRef[Link] | None) -> None:
        super().__init__()
        self._following = following

    def on_receive(self, message: Any) -> int:
        if self._following is None:
            return 1
        return 1 + cast("int", self._following.ask(message))

    def length(self) -> int:
        if self._following is None:
            return 1
        return 1 + cast("int", self._following.proxy().length().get())


def chain(actor_class: type[Link], length: int) -> pykka.ActorRef[Link]:
    """Start so many links, and return the first."""
    ref: pykka.ActorRef[Link] | None = None
    for _ in range(length):
        ref = actor_class.start(ref)
    assert ref is not None
    return ref


def test_an_actor_asks_another_in_its_handler(runtime: Runtime) -> None:
    ref = chain(runtime.on(Link), 5)
    assert ref.ask("how many?") == 5
    assert ref.ask("how many?", timeout=PATIENCE) == 5
    assert ref.proxy().length().get() == 5
    pykka.ActorRegistry.stop_all()


def test_an_actor_starts_and_stops_others_wherever_it_is(runtime: Runtime) -> None:
    child_class = runtime.on(Doing)
    answers: list[Any] = []

    def with_a_child(where: str) -> None:
        child = child_class.start()
        answers.append(child.ask(where))
        assert child.stop() is True

    class Parent(Doing):
        def __init__(self) -> None:
            super().__init__()
            with_a_child("__init__")

        def on_start(self) -> None:
            with_a_child("on_start")

        def on_stop(self) -> None:
            with_a_child("on_stop")

    ref = runtime.start(Parent)
    call(ref, lambda _: with_a_child("handler"))
    ref.stop()
    assert answers == ["__init__", "on_start", "handler", "on_stop"]


def test_an_actor_that_asks_itself_times_out_and_lives_on(runtime: Runtime) -> None:
    def ask_itself(actor: Doing) -> None:
        call(actor.actor_ref, lambda me: me.add(), timeout=0.01)

    ref = runtime.start(Doing)
    with pytest.raises(pykka.Timeout):
        call(ref, ask_itself)
    assert ref.proxy().count.get() == 1
    ref.stop()


def test_two_actors_that_ask_each_other_time_out_and_live_on(runtime: Runtime) -> None:
    one, other = runtime.start(Doing), runtime.start(Doing)

    def ask_back(_: Doing) -> Any:
        return one.ask("back", timeout=0.01)

    def ask_other(_: Doing) -> Any:
        return call(other, ask_back)

    with pytest.raises(pykka.Timeout):
        call(one, ask_other)
    assert [one.ask("x"), other.ask("x")] == ["x", "x"]
    pykka.ActorRegistry.stop_all()


def test_a_future_may_be_passed_on_and_waited_for_by_another_actor(runtime: Runtime) -> None:
    one, other = runtime.start(Doing), runtime.start(Doing)
    future = one.ask("value", block=False)
    assert call(other, lambda _: future.get()) == "value"
    pykka.ActorRegistry.stop_all()


# One message at a time, in order.


class Careful(pykka.Actor):
    """Notices when two of its handlers run at a time."""

    def __init__(self) -> None:
        super().__init__()
        self._inside = 0
        self.fouls = 0
        self.handled = 0
        self.seen: list[tuple[int, int]] = []

    def on_receive(self, message: tuple[int, int]) -> None:
        self._inside += 1
        self.fouls += self._inside != 1
        handled = self.handled
        self.seen.append(message)
        for _ in range(3):  # let others in, if they can come in
            self.fouls += self._inside != 1
        self.handled = handled + 1
        self._inside -= 1


def test_messages_are_handled_one_at_a_time_and_in_the_order_of_each_sender(
    runtime: Runtime,
) -> None:
    senders, each = 8, 250
    with tiny_switch_interval():
        ref = runtime.start(Careful)

        def send(sender: int) -> None:
            for number in range(each):
                match (sender + number) % 4:
                    case 0:
                        ref.ask((sender, number))
                    case 1:
                        ref.ask((sender, number), timeout=PATIENCE)
                    case 2:
                        ref.ask((sender, number), block=False)
                    case _:
                        ref.tell((sender, number))

        results = in_threads([functools.partial(send, sender) for sender in range(senders)])
        assert results == [None] * senders
        proxy = ref.proxy()
        fouls, handled, seen = pykka.get_all([proxy.fouls, proxy.handled, proxy.seen])
        ref.stop()
    assert fouls == 0
    assert handled == senders * each
    for sender in range(senders):
        assert [number for who, number in seen if who == sender] == list(range(each))


def test_what_a_sender_wrote_before_and_a_handler_in_its_turn_the_next_one_sees(
    runtime: Runtime,
) -> None:
    """A turn happens after the sending of its message and after the turn before it."""
    refs = [runtime.start(Doing) for _ in range(2)]
    rounds = 200
    with tiny_switch_interval():
        for number in range(rounds):
            box = {"wrote": number}
            ref = refs[number % 2]

            def take(actor: Doing, box: dict[str, int] = box) -> int:
                actor.count += 1
                box["read"] = box.pop("wrote")
                return box["read"]

            assert call(ref, take, timeout=PATIENCE if number % 3 else None) == number
            assert box == {"read": number}
    assert [ref.proxy().count.get() for ref in refs] == [rounds // 2] * 2
    pykka.ActorRegistry.stop_all()


# Contexts and event loops.


class InContext(Doing):
    def __init__(self, hooks: Hooks) -> None:
        super().__init__(hooks)
        hooks.add(f"__init__: {variable.get()}")

    def on_start(self) -> None:
        self._hooks.add(f"on_start: {variable.get()}")
        variable.set("the start's")

    def on_stop(self) -> None:
        self._hooks.add(f"on_stop: {variable.get()}")

    def on_receive(self, message: str) -> str:
        before = variable.get()
        variable.set(message)
        return before


@pytest.mark.parametrize("timeout", [None, PATIENCE])
def test_an_actor_has_one_context_which_is_not_its_callers(
    runtime: Runtime, timeout: float | None
) -> None:
    hooks = Hooks()
    token = variable.set("the caller's")
    try:
        ref, other = runtime.start(InContext, hooks), runtime.start(InContext, Hooks())
        assert ref.ask("first", timeout=timeout) == "the start's"
        assert variable.get() == "the caller's"
        assert ref.ask("second", timeout=timeout) == "first"
        assert in_threads([lambda: ref.ask("third", timeout=timeout)]) == ["second"]
        assert other.ask("other's", timeout=timeout) == "the start's"
        assert ref.stop(timeout=timeout) is True
        other.stop()
        assert variable.get() == "the caller's"
    finally:
        variable.reset(token)
    assert hooks.calls == ["__init__: the caller's", "on_start: nobody's", "on_stop: third"]


def test_a_context_is_the_actors_own_again_when_another_one_has_answered(
    runtime: Runtime,
) -> None:
    def set_and_ask(value: str, *others: pykka.ActorRef[Doing]) -> Callable[[Doing], list[str]]:
        def handler(_: Doing) -> list[str]:
            before = variable.get()
            variable.set(value)
            asked = call(others[0], set_and_ask(value + "'", *others[1:])) if others else []
            return [before, *asked, variable.get()]

        return handler

    one, two, three = (runtime.start(Doing) for _ in range(3))
    nobodys = ["nobody's"] * 3
    assert call(one, set_and_ask("a", two, three)) == [*nobodys, "a''", "a'", "a"]
    assert call(one, set_and_ask("b", two, three)) == ["a", "a'", "a''", "b''", "b'", "b"]
    assert variable.get() == "nobody's"
    pykka.ActorRegistry.stop_all()


def test_a_handler_may_run_an_event_loop_of_its_own(runtime: Runtime) -> None:
    ref = runtime.start(Doing)

    async def inside() -> str:
        await asyncio.sleep(0)
        return "inside"

    def run_loop(_: Doing) -> str:
        return asyncio.run(inside())

    async def outside() -> list[Any]:
        return [call(ref, run_loop), await send(ref, run_loop)]

    assert call(ref, run_loop) == "inside"
    assert asyncio.run(outside()) == ["inside", "inside"]
    ref.stop()


def test_a_ctrl_c_that_finds_the_asker_waiting_ends_the_wait_and_nothing_else(
    runtime: Runtime,
) -> None:
    ref = runtime.start(Doing)
    main = threading.main_thread().ident
    assert main is not None
    interrupted = threading.Event()

    def interrupt_once(*_: object) -> None:
        if not interrupted.is_set():
            interrupted.set()
            raise KeyboardInterrupt

    def interrupt(actor: Doing) -> None:
        # A signal that comes right before the wait begins does not end it: the next one does.
        while not interrupted.wait(0.01):
            signal.pthread_kill(main, signal.SIGINT)
        actor.add()

    before = signal.signal(signal.SIGINT, interrupt_once)
    try:
        with pytest.raises(KeyboardInterrupt):
            call(ref, interrupt, timeout=PATIENCE)
    finally:
        signal.signal(signal.SIGINT, before)
    assert ref.is_alive()
    assert ref.proxy().count.get() == 1
    ref.stop()


# What remains of an actor.


class Remembered(Doing):
    def __init__(self, gone: threading.Event) -> None:
        super().__init__()
        weakref.finalize(self, gone.set)


def by_stop(ref: pykka.ActorRef[Any]) -> None:
    assert ref.ask("x") == "x"
    ref.stop()


def by_a_failing_tell(ref: pykka.ActorRef[Any]) -> None:
    ref.tell(raise_in_a_handler)
    assert ref.actor_stopped.wait(PATIENCE)


def by_itself(ref: pykka.ActorRef[Any]) -> None:
    ref.tell(do(lambda actor: actor.stop()))
    assert ref.actor_stopped.wait(PATIENCE)


def by_stop_with_messages_left(ref: pykka.ActorRef[Any]) -> None:
    gate = hold(ref)
    ref.stop(block=False)
    left = [ref.ask("left", block=False) for _ in range(3)]
    ref.tell("left")
    gate.open()
    for future in left:
        with contextlib.suppress(pykka.ActorDeadError):
            future.get(timeout=PATIENCE)


def raise_in_a_handler(_: object) -> None:
    raise ValueError("no")


def check_freed(runtime: Runtime, end: Callable[[pykka.ActorRef[Any]], None]) -> None:
    """Check that an actor is freed when it ends, without the garbage collector."""
    gone = threading.Event()
    gc.collect()
    gc.disable()
    try:
        ref = runtime.start(Remembered, gone)
        kept = [ref.ask("kept", block=False), ref.proxy().count]
        end(ref)
        assert gone.wait(PATIENCE), "a reference cycle keeps the actor"
    finally:
        gc.enable()
    assert pykka.get_all(kept) == ["kept", 0]
    assert not ref.is_alive()


@pytest.fixture
def no_log(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep pytest from keeping what is logged, whose tracebacks keep the actor."""
    monkeypatch.setattr(logging.getLogger("pykka"), "disabled", True)


@pytest.mark.usefixtures("no_log")
@pytest.mark.parametrize("end", [by_stop, by_a_failing_tell, by_itself, by_stop_with_messages_left])
def test_a_stopped_actor_is_freed_at_once_though_its_ref_and_futures_are_kept(
    runtime: Runtime, end: Callable[[pykka.ActorRef[Any]], None]
) -> None:
    check_freed(runtime, end)


@pytest.mark.usefixtures("no_log")
def test_an_exception_that_an_asker_got_keeps_no_actor_longer_than_until_the_next_collection(
    runtime: Runtime,
) -> None:
    """Its traceback holds the frames of those who handed it on, which may hold it in turn."""
    gone = threading.Event()
    ref = runtime.start(Remembered, gone)
    with contextlib.suppress(ValueError):
        ref.ask(raise_in_a_handler)
    ref.stop()
    deadline = time.monotonic() + PATIENCE
    while not gone.wait(0.001):
        assert time.monotonic() < deadline, "the actor is still there"
        gc.collect()


# The pool alone: threads.


@pytest.fixture
def one_thread() -> Generator[concurrent.futures.ThreadPoolExecutor]:
    """A pool of a single thread."""
    with concurrent.futures.ThreadPoolExecutor(1, "one-thread") as executor:
        yield executor


def settle(executor: concurrent.futures.ThreadPoolExecutor) -> None:
    """Wait until a pool of a single thread has done what it had to do, so that actors are idle."""
    for _ in range(3):
        executor.submit(int).result(PATIENCE)


def start_idle(
    executor: concurrent.futures.ThreadPoolExecutor, *args: Any, **attributes: Any
) -> pykka.ActorRef[Doing]:
    """Start an actor on a pool of a single thread, and wait until it is idle."""
    ref = pooled.on(Doing, executor=executor, **attributes).start(*args)
    settle(executor)
    return ref


def occupy(executor: concurrent.futures.ThreadPoolExecutor) -> Gate:
    """Keep the thread of a pool of a single thread busy until the gate is opened."""
    gate = Gate()
    executor.submit(gate.pass_through)
    gate.wait_until_reached()
    return gate


def outcome(function: Callable[[], object]) -> str:
    """Return what the function returns, or the name of what it raises."""
    try:
        return str(function())
    except Exception as error:  # noqa: BLE001
        return type(error).__name__


def test_idle_actors_occupy_no_threads() -> None:
    before = threading.active_count()
    actor_class = pooled.on(Doing)
    refs = [actor_class.start() for _ in range(2_000)]
    assert pykka.get_all([ref.ask(i, block=False) for i, ref in enumerate(refs)]) == [*range(2_000)]
    assert threading.active_count() - before <= 64
    assert len(pykka.ActorRegistry.stop_all()) == 2_000
    assert threading.active_count() - before <= 64


def test_stop_all_ends_with_thousands_of_actors() -> None:
    hooks = Hooks()
    actor_class = pooled.on(Doing)
    for _ in range(5_000):
        actor_class.start(hooks)
    assert pykka.ActorRegistry.stop_all() == [True] * 5_000
    assert hooks.calls.count("on_stop") == 5_000
    assert pykka.ActorRegistry.get_all() == []


def test_the_shared_pools_threads_have_its_name() -> None:
    ref = pooled.start(Doing)
    assert call(ref, thread_of, timeout=PATIENCE).name.startswith(f"{POOL}_")
    ref.stop()


def test_a_class_may_have_an_executor_of_its_own(
    one_thread: concurrent.futures.ThreadPoolExecutor,
) -> None:
    own = pooled.on(Doing, executor=one_thread).start()
    shared = pooled.on(Doing).start()
    assert call(own, thread_of, timeout=PATIENCE).name.startswith("one-thread_")
    assert call(shared, thread_of, timeout=PATIENCE).name.startswith(POOL)
    own.stop()
    shared.stop()


def test_any_executor_will_do_whose_tasks_run_in_threads_of_this_process() -> None:
    class ThreadEach(concurrent.futures.Executor):
        def submit(
            self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any
        ) -> concurrent.futures.Future[Any]:
            future: concurrent.futures.Future[Any] = concurrent.futures.Future()

            def task() -> None:
                future.set_result(fn(*args, **kwargs))

            threading.Thread(target=task, name="a-thread-each").start()
            return future

    ref = pooled.on(Doing, executor=ThreadEach()).start()
    assert call(ref, thread_of, timeout=PATIENCE).name == "a-thread-each"
    assert [ref.ask(i, timeout=PATIENCE) for i in range(50)] == [*range(50)]
    ref.stop()


def test_a_busy_actor_starves_no_other_on_a_pool_of_one_thread(
    one_thread: concurrent.futures.ThreadPoolExecutor,
) -> None:
    busy, other = start_idle(one_thread), start_idle(one_thread)
    handled: list[int] = []
    gate = hold(busy)
    for _ in range(10_000):
        busy.tell(handled.append)
    at = send(other, lambda _: len(handled))
    gate.open()
    assert at.get(timeout=PATIENCE) <= 1_000
    assert call(busy, lambda _: len(handled)) == 10_000
    pykka.ActorRegistry.stop_all()


def test_an_actor_that_always_tells_itself_more_starves_no_other(
    one_thread: concurrent.futures.ThreadPoolExecutor,
) -> None:
    restless, other = start_idle(one_thread), start_idle(one_thread)
    enough = threading.Event()

    def go_on(actor: Doing) -> None:
        if not enough.is_set() and actor.add() < 200_000:
            actor.actor_ref.tell(go_on)

    gate = hold(restless)
    restless.tell(go_on)
    answer = other.ask("my turn", block=False)
    gate.open()
    assert answer.get(timeout=PATIENCE) == "my turn"
    enough.set()
    assert call(restless, lambda actor: actor.count) < 200_000
    pykka.ActorRegistry.stop_all()


def test_handlers_that_block_hold_up_no_more_than_their_threads(
    one_thread: concurrent.futures.ThreadPoolExecutor,
) -> None:
    """Where the only thread is taken, who waits for an actor serves it."""
    idle, blocked = start_idle(one_thread), start_idle(one_thread)
    gate = hold(blocked)
    assert call(idle, thread_of) is threading.current_thread()
    assert idle.proxy().add().get() == 1
    assert idle.stop() is True
    gate.open()
    blocked.stop()


# Waiting is helping.


def test_who_waits_for_an_idle_actor_runs_its_handler(
    one_thread: concurrent.futures.ThreadPoolExecutor,
) -> None:
    ref = start_idle(one_thread)
    me = threading.current_thread()
    assert call(ref, thread_of) is me
    assert in_threads([lambda: call(ref, thread_of) is threading.current_thread()]) == [True]
    assert call(ref, thread_of) is me
    ref.stop()


def test_with_a_timeout_the_pool_runs_the_handler(
    one_thread: concurrent.futures.ThreadPoolExecutor,
) -> None:
    ref = start_idle(one_thread)
    assert call(ref, thread_of, timeout=PATIENCE).name == "one-thread_0"
    assert send(ref, thread_of).get(timeout=PATIENCE).name == "one-thread_0"
    ref.stop()


def test_with_helping_off_the_pool_runs_the_handler(
    one_thread: concurrent.futures.ThreadPoolExecutor,
) -> None:
    ref = start_idle(one_thread, helping=False)
    assert call(ref, thread_of).name == "one-thread_0"
    assert send(ref, thread_of).get().name == "one-thread_0"
    gate = occupy(one_thread)
    assert in_threads([lambda: call(ref, thread_of).name, gate.open]) == ["one-thread_0", None]
    assert ref.stop() is True


def test_in_an_event_loops_thread_the_pool_runs_the_handler(
    one_thread: concurrent.futures.ThreadPoolExecutor,
) -> None:
    ref = start_idle(one_thread)

    async def main() -> list[str]:
        return [
            call(ref, thread_of).name,
            send(ref, thread_of).get().name,
            (await send(ref, thread_of)).name,
        ]

    assert asyncio.run(main()) == ["one-thread_0"] * 3
    settle(one_thread)
    assert call(ref, thread_of) is threading.current_thread()
    ref.stop()


def test_who_waits_later_helps_if_the_pool_has_not_come_to_it(
    one_thread: concurrent.futures.ThreadPoolExecutor,
) -> None:
    ref = start_idle(one_thread)
    gate = occupy(one_thread)
    me = threading.current_thread()
    ref.tell(do(lambda actor: actor.add()))
    future = send(ref, thread_of)
    mapped = send(ref, thread_of).map(lambda thread: thread is me)
    joined = ref.ask(1, block=False).join(ref.ask(2, block=False))
    stopped = ref.stop(block=False)
    assert future.get() is me
    assert mapped.get() is True
    assert joined.get() == [1, 2]
    assert stopped.get() is True
    gate.open()
    settle(one_thread)


def test_who_waits_for_a_busy_actor_waits_as_usual(
    one_thread: concurrent.futures.ThreadPoolExecutor,
) -> None:
    ref = start_idle(one_thread)
    gate = hold(ref)
    future = ref.ask("behind", block=False)
    results = in_threads([future.get, lambda: ref.ask("behind, too"), gate.open])
    assert results == ["behind", "behind, too", None]
    ref.stop()


def test_a_helper_goes_on_with_its_own_work_once_it_is_answered(
    one_thread: concurrent.futures.ThreadPoolExecutor,
) -> None:
    ref = start_idle(one_thread)
    enough = threading.Event()

    def go_on(actor: Doing) -> str:
        if not enough.is_set() and actor.add() < 200_000:
            actor.actor_ref.tell(go_on)
        return "begun"

    assert call(ref, go_on) == "begun"
    enough.set()
    assert call(ref, lambda actor: actor.count) < 200_000
    ref.stop()


def test_a_helper_goes_on_until_its_own_answer_is_there(
    one_thread: concurrent.futures.ThreadPoolExecutor,
) -> None:
    ref = start_idle(one_thread)
    gate = occupy(one_thread)
    threads: list[threading.Thread] = []
    for _ in range(200):  # more than a turn handles
        ref.tell(do(lambda actor: threads.append(thread_of(actor))))
    assert ref.ask("x") == "x"
    assert threads == [threading.current_thread()] * 200
    gate.open()
    settle(one_thread)
    ref.stop()


def test_a_helper_handles_nothing_behind_its_own_message(
    one_thread: concurrent.futures.ThreadPoolExecutor,
) -> None:
    ref = start_idle(one_thread)
    gate = occupy(one_thread)
    threads: list[threading.Thread] = []
    answer = ref.ask("x", block=False)
    for _ in range(10):
        ref.tell(do(lambda actor: threads.append(thread_of(actor))))
    assert answer.get() == "x"
    assert threads == []
    gate.open()
    settle(one_thread)
    assert [thread.name for thread in threads] == ["one-thread_0"] * 10
    ref.stop()


def test_what_a_helper_leaves_is_handled_by_the_pool(
    one_thread: concurrent.futures.ThreadPoolExecutor,
) -> None:
    ref = start_idle(one_thread)
    handled = threading.Event()

    def leave_something(actor: Doing) -> None:
        actor.actor_ref.tell(do(lambda _: handled.set()))

    ref.ask(leave_something)
    assert handled.wait(PATIENCE)
    ref.stop()


def test_a_helped_handler_sees_the_callers_thread_locals_and_locks(
    one_thread: concurrent.futures.ThreadPoolExecutor,
) -> None:
    ref = start_idle(one_thread)
    local = threading.local()
    local.value = "the caller's"
    lock = threading.RLock()
    with lock:
        assert call(ref, lambda _: local.value) == "the caller's"
        assert call(ref, lambda _: lock.acquire(blocking=False)) is True
        lock.release()
    ref.stop()


def test_who_finds_the_answer_there_runs_nobodys_turn(
    one_thread: concurrent.futures.ThreadPoolExecutor,
) -> None:
    ref = start_idle(one_thread)
    future = ref.ask("x", block=False)
    settle(one_thread)
    gate = occupy(one_thread)
    threads: list[threading.Thread] = []
    ref.tell(do(lambda _: threads.append(threading.current_thread())))
    assert future.get() == "x"
    assert threads == []
    gate.open()
    settle(one_thread)
    assert [thread.name for thread in threads] == ["one-thread_0"]
    ref.stop()


@pytest.mark.parametrize("timeout", [None, PATIENCE], ids=["helped", "in the pool"])
@pytest.mark.parametrize("length", [300, 2_000])
def test_a_chain_of_actors_cannot_exhaust_a_pool_of_one_thread_nor_the_stack(
    one_thread: concurrent.futures.ThreadPoolExecutor, length: int, timeout: float | None
) -> None:
    ref = chain(pooled.on(Link, executor=one_thread), length)
    assert ref.ask("how many?", timeout=timeout) == length
    assert ref.proxy().length().get(timeout=timeout) == length
    assert len(pykka.ActorRegistry.stop_all()) == length


def test_a_chain_of_actors_cannot_exhaust_the_shared_pool() -> None:
    ref = chain(pooled.on(Link), 2_000)
    assert ref.ask("how many?") == 2_000
    assert in_threads([lambda: ref.ask("how many?")] * 4) == [2_000] * 4
    assert len(pykka.ActorRegistry.stop_all()) == 2_000


def test_many_callers_and_many_actors_ask_and_answer_on_one_thread(
    one_thread: concurrent.futures.ThreadPoolExecutor,
) -> None:
    careful = pooled.on(Careful, executor=one_thread)
    refs = [careful.start() for _ in range(4)]
    callers, each = 6, 100
    with tiny_switch_interval():

        def call(caller: int) -> None:
            for number in range(each):
                ref = refs[(caller + number) % len(refs)]
                if number % 2:
                    ref.ask((caller, number))
                else:
                    ref.ask((caller, number), block=False).get()

        assert in_threads([functools.partial(call, i) for i in range(callers)]) == [None] * callers
    assert sum(ref.proxy().handled.get() for ref in refs) == callers * each
    assert sum(ref.proxy().fouls.get() for ref in refs) == 0
    pykka.ActorRegistry.stop_all()


# Never hangs.


def test_an_ask_that_races_with_a_stop_is_answered_or_refused() -> None:
    rounds, outcomes = 120, dict.fromkeys(["x", "ActorDeadError"], 0)
    actor_class = pooled.on(Doing)
    with tiny_switch_interval():
        for _ in range(rounds):
            ref = actor_class.start()
            asks: list[Callable[[], object]] = [
                functools.partial(ref.ask, "x"),
                functools.partial(ref.ask, "x", timeout=PATIENCE),
                ref.ask("x", block=False).get,
                ref.stop,
            ]
            for result in in_threads([functools.partial(outcome, ask) for ask in asks])[:3]:
                outcomes[str(result)] += 1
    assert len(outcomes) == 2
    assert sum(outcomes.values()) == 3 * rounds


def test_an_ask_that_races_with_a_failure_is_answered_or_refused() -> None:
    rounds, outcomes = 120, dict.fromkeys(["x", "ActorDeadError"], 0)
    actor_class = pooled.on(Doing)
    with tiny_switch_interval():
        for _ in range(rounds):
            ref = actor_class.start()
            functions: list[Callable[[], object]] = [
                functools.partial(ref.ask, "x"),
                functools.partial(ref.ask, "x", timeout=PATIENCE),
                functools.partial(ref.tell, ValueError("no")),
            ]
            for result in in_threads([functools.partial(outcome, f) for f in functions])[:2]:
                outcomes[str(result)] += 1
            assert ref.actor_stopped.wait(PATIENCE)
    assert len(outcomes) == 2
    assert sum(outcomes.values()) == 2 * rounds


@pytest.mark.parametrize("timeout", [None, PATIENCE], ids=["helped", "in the pool"])
def test_who_asks_for_a_system_exit_is_told_of_the_actors_death_and_all_actors_stop(
    one_thread: concurrent.futures.ThreadPoolExecutor, timeout: float | None
) -> None:
    hooks, others = Hooks(), Hooks()
    bystander = start_idle(one_thread, others)
    ref = start_idle(one_thread, hooks)
    error = SystemExit(1)
    with pytest.raises(pykka.ActorDeadError) as raised:
        ref.ask(error, timeout=timeout)
    assert raised.value.__cause__ is error
    hooks.wait_for("on_start", "on_stop")
    others.wait_for("on_start", "on_stop")
    assert bystander.actor_stopped.wait(PATIENCE)
    settle(one_thread)


def test_a_system_exit_of_an_actor_whose_stop_flag_was_set_stops_all_actors_too(
    runtime: Runtime,
) -> None:
    hooks, others = Hooks(), Hooks()
    runtime.start(Doing, others)
    ref = runtime.start(Doing, hooks)

    def leave(actor: Doing) -> None:
        actor.actor_stopped.set()
        raise SystemExit

    ref.tell(leave)
    hooks.wait_for("on_start", "on_stop")
    others.wait_for("on_start", "on_stop")
    poll(lambda: pykka.ActorRegistry.get_all() == [])


def test_a_system_exit_behind_an_ask_in_a_handler_stops_both_actors(
    one_thread: concurrent.futures.ThreadPoolExecutor,
) -> None:
    """All actors stop, also the one whose handler waits for the one that brought it about."""
    hooks = Hooks()
    inner = start_idle(one_thread, hooks)
    outer = start_idle(one_thread, hooks)
    with pytest.raises(pykka.ActorDeadError):
        call(outer, lambda _: inner.ask(SystemExit(1)))
    hooks.wait_for("on_start", "on_start", "on_stop", "on_stop")
    assert outer.actor_stopped.wait(PATIENCE)
    assert not inner.is_alive()


@pytest.mark.parametrize("error", [SystemExit(1), KeyboardInterrupt()], ids=repr)
def test_a_base_exception_in_on_start_ends_the_actor(
    error: BaseException, one_thread: concurrent.futures.ThreadPoolExecutor
) -> None:
    """Stock Pykka's thread dies of it, and its ref looks alive for ever."""
    gate = occupy(one_thread)
    ref = pooled.on(Doing, executor=one_thread).start(on_start=error)
    future = ref.ask("x", block=False)
    gate.open()
    with pytest.raises(pykka.ActorDeadError):
        future.get(timeout=PATIENCE)
    assert not ref.is_alive()
    assert pykka.ActorRegistry.get_all() == []
    settle(one_thread)


@pytest.mark.parametrize("error", [SystemExit(1), KeyboardInterrupt()], ids=repr)
def test_a_base_exception_in_on_stop_leaves_nobody_waiting(
    error: BaseException, one_thread: concurrent.futures.ThreadPoolExecutor
) -> None:
    ref = start_idle(one_thread)
    call(ref, lambda actor: actor._raises.update(on_stop=error))
    assert ref.stop(timeout=PATIENCE) is True
    assert not ref.is_alive()
    assert pykka.ActorRegistry.get_all() == []
    settle(one_thread)


# Ctrl-C.


def interrupt_by_raising(_: Doing) -> None:
    raise KeyboardInterrupt


def interrupt_by_signal(_: Doing) -> None:
    signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize("interrupt", [interrupt_by_raising, interrupt_by_signal])
def test_a_ctrl_c_in_a_helped_handler_is_raised_to_the_caller_and_fails_that_actor_alone(
    one_thread: concurrent.futures.ThreadPoolExecutor, interrupt: Callable[[Doing], None]
) -> None:
    hooks, others = Hooks(), Hooks()
    bystander = start_idle(one_thread, others)
    ref = start_idle(one_thread, hooks)
    with pytest.raises(KeyboardInterrupt):
        call(ref, interrupt)
    hooks.wait_for("on_start", "on_failure(KeyboardInterrupt())")
    assert not ref.is_alive()
    assert pykka.ActorRegistry.get_all() == [bystander]
    with pytest.raises(pykka.ActorDeadError):
        ref.ask("x")
    assert call(bystander, thread_of, timeout=PATIENCE).name == "one-thread_0"
    settle(one_thread)
    assert call(bystander, thread_of) is threading.current_thread()
    assert others.calls == ["on_start"]
    bystander.stop()


def test_a_ctrl_c_in_a_message_that_came_before_the_helpers_own_is_raised_to_the_helper(
    one_thread: concurrent.futures.ThreadPoolExecutor,
) -> None:
    hooks = Hooks()
    ref = start_idle(one_thread, hooks)
    gate = occupy(one_thread)
    ref.tell(interrupt_by_signal)
    behind = ref.ask("behind", block=False)
    with pytest.raises(KeyboardInterrupt):
        ref.ask("mine")
    with pytest.raises(pykka.ActorDeadError):
        behind.get(timeout=PATIENCE)
    hooks.wait_for("on_start", "on_failure(KeyboardInterrupt())")
    gate.open()
    settle(one_thread)


def test_a_ctrl_c_passes_through_the_handlers_that_wait_for_one_another(
    one_thread: concurrent.futures.ThreadPoolExecutor,
) -> None:
    hooks = Hooks()
    bystander = start_idle(one_thread)
    inner = start_idle(one_thread, hooks)
    outer = start_idle(one_thread, hooks)
    with pytest.raises(KeyboardInterrupt):
        call(outer, lambda _: call(inner, interrupt_by_signal))
    hooks.wait_for("on_start", "on_start", *["on_failure(KeyboardInterrupt())"] * 2)
    assert not inner.is_alive()
    assert not outer.is_alive()
    assert bystander.ask("x", timeout=PATIENCE) == "x"
    bystander.stop()


def test_a_handler_that_catches_a_ctrl_c_of_the_one_it_asks_lives_on(
    one_thread: concurrent.futures.ThreadPoolExecutor,
) -> None:
    inner, outer = start_idle(one_thread), start_idle(one_thread)

    def ask_and_catch(_: Doing) -> str:
        try:
            call(inner, interrupt_by_signal)
        except KeyboardInterrupt:
            return "caught"
        return "nothing came"

    assert outer.ask(ask_and_catch) == "caught"
    assert not inner.is_alive()
    assert outer.is_alive()
    outer.stop()


def test_the_others_who_wait_for_an_actor_that_a_ctrl_c_ended_are_told_of_its_death(
    one_thread: concurrent.futures.ThreadPoolExecutor,
) -> None:
    ref = start_idle(one_thread)
    gate = occupy(one_thread)
    reply: list[pykka.Future[Any]] = []

    def interrupt_with_others_waiting(actor: Doing) -> None:
        reply.extend(actor.actor_ref.ask(i, block=False) for i in range(3))
        interrupt_by_signal(actor)

    with pytest.raises(KeyboardInterrupt):
        ref.ask(interrupt_with_others_waiting)
    outcomes = [outcome(functools.partial(future.get, timeout=PATIENCE)) for future in reply]
    assert outcomes == ["ActorDeadError"] * 3
    gate.open()
    settle(one_thread)


# A Ctrl-C between the lines of a turn.


class InterruptedLog(logging.Handler):
    """Raises a Ctrl-C at the first line of Pykka's log that has a text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self._text = text
        self.struck = False

    def emit(self, record: logging.LogRecord) -> None:
        if self._text in record.getMessage() and not self.struck:
            self.struck = True
            raise KeyboardInterrupt

    def __enter__(self) -> None:
        logging.getLogger("pykka").addHandler(self)

    def __exit__(self, *_exc_info: object) -> None:
        logging.getLogger("pykka").removeHandler(self)


class InterruptedContext:
    """Stands in for an actor's context variables: a Ctrl-C comes as a turn enters or leaves it."""

    def __init__(self, when: str) -> None:
        self._when = when
        self._context = contextvars.Context()

    def run(self, function: Callable[..., T], *args: Any) -> T:
        when, self._when = self._when, ""
        if when == "before":
            raise KeyboardInterrupt
        result = self._context.run(function, *args)
        if when == "after":
            raise KeyboardInterrupt
        return result


def test_a_ctrl_c_right_after_a_handler_fails_that_actor_and_is_raised_to_the_helper(
    one_thread: concurrent.futures.ThreadPoolExecutor, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "pykka")
    hooks = Hooks()
    ref = start_idle(one_thread, hooks)
    gate = occupy(one_thread)
    failing = ref.ask(ValueError("no"), block=False)
    behind = ref.ask("behind", block=False)
    with InterruptedLog("Exception returned"), pytest.raises(KeyboardInterrupt):
        ref.ask("mine")
    gate.open()
    with pytest.raises(ValueError, match="no"):
        failing.get(timeout=PATIENCE)
    with pytest.raises(pykka.ActorDeadError):
        behind.get(timeout=PATIENCE)
    hooks.wait_for("on_start", "on_failure(KeyboardInterrupt())")
    assert pykka.ActorRegistry.get_all() == []
    settle(one_thread)


def test_a_ctrl_c_right_after_on_stop_leaves_nobody_waiting_for_the_stop(
    one_thread: concurrent.futures.ThreadPoolExecutor,
) -> None:
    hooks = Hooks()
    ref = pooled.on(Doing, executor=one_thread).start(hooks, on_stop=ValueError("no"))
    settle(one_thread)
    gate = occupy(one_thread)
    stopped = ref.stop(block=False)
    with InterruptedLog("Unhandled exception"), pytest.raises(KeyboardInterrupt):
        ref.ask("mine")
    gate.open()
    assert stopped.get(timeout=PATIENCE) is True
    assert hooks.calls[:2] == ["on_start", "on_stop"]
    assert not ref.is_alive()
    settle(one_thread)


def test_a_ctrl_c_as_a_stop_is_answered_leaves_the_actor_stopped(
    one_thread: concurrent.futures.ThreadPoolExecutor,
) -> None:
    hooks = Hooks()
    ref = start_idle(one_thread, hooks)
    gate = occupy(one_thread)
    answer = cast("Future[Any]", ref.ask(messages._ActorStop(), block=False))
    interrupts = [KeyboardInterrupt()]

    def be_interrupted(_: object) -> None:
        if interrupts:
            raise interrupts.pop()

    answer.add_done_callback(be_interrupted)
    behind = ref.ask("behind", block=False)
    with pytest.raises(KeyboardInterrupt):
        behind.get()
    gate.open()
    with pytest.raises(pykka.ActorDeadError):
        behind.get(timeout=PATIENCE)
    assert answer.get(timeout=0) is None
    assert hooks.calls == ["on_start", "on_stop"]
    settle(one_thread)


def test_a_ctrl_c_between_two_messages_fails_the_actor_and_tells_those_behind(
    one_thread: concurrent.futures.ThreadPoolExecutor,
) -> None:
    hooks = Hooks()
    ref = start_idle(one_thread, hooks)

    class Interrupted(deque[Any]):
        def popleft(self) -> Any:
            raise KeyboardInterrupt

    def interrupt_the_next(actor: Doing) -> None:
        inbox = cast("Inbox", actor.actor_inbox)
        inbox._batch = Interrupted(inbox._batch)

    gate = occupy(one_thread)
    before = send(ref, interrupt_the_next)
    behind = ref.ask("behind", block=False)
    with pytest.raises(KeyboardInterrupt):
        behind.get()
    assert before.get(timeout=0) is None
    with pytest.raises(pykka.ActorDeadError):
        behind.get(timeout=PATIENCE)
    hooks.wait_for("on_start", "on_failure(KeyboardInterrupt())")
    gate.open()
    settle(one_thread)


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_ctrl_c_at_the_edge_of_a_turn_leaves_the_rest_to_others(
    when: str, one_thread: concurrent.futures.ThreadPoolExecutor
) -> None:
    hooks = Hooks()
    ref = start_idle(one_thread, hooks)
    gate = occupy(one_thread)
    before = send(ref, lambda actor: actor.add())
    cast("Any", ref)._turns.context = InterruptedContext(when)
    with pytest.raises(KeyboardInterrupt):
        before.get()
    gate.open()
    assert before.get(timeout=PATIENCE) == 1
    assert call(ref, lambda actor: actor.count, timeout=PATIENCE) == 1
    assert hooks.calls == ["on_start"]
    settle(one_thread)
    ref.stop()


def test_a_ctrl_c_before_all_are_told_to_stop_does_not_keep_them_from_it(
    one_thread: concurrent.futures.ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    hooks, others = Hooks(), Hooks()
    start_idle(one_thread, others)
    ref = start_idle(one_thread, hooks)

    def be_interrupted(_function: object) -> None:
        monkeypatch.undo()
        raise KeyboardInterrupt

    monkeypatch.setattr(_pooled, "in_spare_thread", be_interrupted)
    with pytest.raises(KeyboardInterrupt):
        ref.ask(SystemExit(1))
    others.wait_for("on_start", "on_stop")
    assert hooks.calls == ["on_start", "on_stop"]
    poll(lambda: pykka.ActorRegistry.get_all() == [])
    settle(one_thread)


def test_a_ctrl_c_before_the_executor_has_taken_a_start_is_raised_and_the_actor_lives() -> None:
    class Interrupted(concurrent.futures.ThreadPoolExecutor):
        interrupts = 1

        def submit(self, *args: Any, **kwargs: Any) -> Any:
            if self.interrupts:
                self.interrupts = 0
                raise KeyboardInterrupt
            return super().submit(*args, **kwargs)

    with Interrupted(1) as executor:
        hooks = Hooks()
        with pytest.raises(KeyboardInterrupt):
            pooled.on(Doing, executor=executor).start(hooks)
        (ref,) = pykka.ActorRegistry.get_all()
        assert ref.ask("x", timeout=PATIENCE) == "x"
        assert hooks.calls == ["on_start"]
        ref.stop()


# The future in an event loop.


def test_to_await_an_answer_does_not_block_the_event_loop() -> None:
    ref = pooled.start(Doing)

    async def main() -> list[Any]:
        gate = Gate()

        def pass_gate(_: Doing) -> str:
            gate.pass_through()
            return "passed"

        async def open_gate() -> str:
            gate.open()
            return "opened"

        return [*await asyncio.gather(answer_of(send(ref, pass_gate)), open_gate())]

    assert asyncio.run(main()) == ["passed", "opened"]
    ref.stop()


async def answer_of(future: pykka.Future[T]) -> T:
    return await future


def test_to_await_an_exception_or_a_dead_actor_raises() -> None:
    ref = pooled.start(Doing)

    async def main() -> None:
        gate = hold(ref)
        failing = ref.ask(ValueError("no"), block=False)
        ref.stop(block=False)
        behind = ref.ask("behind", block=False)
        asyncio.get_running_loop().call_soon(gate.open)
        with pytest.raises(ValueError, match="no"):
            await failing
        with pytest.raises(pykka.ActorDeadError):
            await behind
        with pytest.raises(pykka.ActorDeadError):
            await ref.ask("dead", block=False)

    asyncio.run(main())


@pytest.mark.parametrize("what", ["map", "join", "stop"])
def test_to_await_a_future_made_of_others_does_not_block_the_event_loop_either(what: str) -> None:
    ref, other = pooled.start(Doing), pooled.start(Doing)

    async def main() -> Any:
        gate = hold(ref)
        reply: dict[str, Callable[[], pykka.Future[Any]]] = {
            "map": lambda: ref.ask("x", block=False).map(lambda x: x * 2),
            "join": lambda: other.ask("y", block=False).join(ref.ask("x", block=False)),
            "stop": lambda: ref.stop(block=False),
        }

        async def open_gate() -> None:
            gate.open()

        value, _ = await asyncio.gather(answer_of(reply[what]()), open_gate())
        return value

    assert asyncio.run(main()) == {"map": "xx", "join": ["y", "x"], "stop": True}[what]
    pykka.ActorRegistry.stop_all()


def test_many_tasks_await_many_answers_and_one_answer(
    one_thread: concurrent.futures.ThreadPoolExecutor,
) -> None:
    refs = [pooled.on(Doing, executor=one_thread).start() for _ in range(10)]

    async def main() -> None:
        asked = [answer_of(ref.ask(i, block=False)) for i in range(20) for ref in refs]
        assert await asyncio.gather(*asked) == [i for i in range(20) for _ in refs]
        shared = refs[0].ask("shared", block=False)
        assert await asyncio.gather(*[answer_of(shared) for _ in range(5)]) == ["shared"] * 5

    asyncio.run(main())
    pykka.ActorRegistry.stop_all()


def test_a_task_that_gives_up_leaves_the_answer_to_others() -> None:
    ref = pooled.start(Doing)

    async def main() -> Any:
        gate = hold(ref)
        future = send(ref, lambda actor: actor.add())
        patient = asyncio.create_task(answer_of(future))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(answer_of(future), 0.01)
        gate.open()
        return await patient, future.get(timeout=0)

    assert asyncio.run(main()) == (1, 1)
    ref.stop()


def test_an_answer_may_come_when_the_loop_that_awaited_it_is_closed() -> None:
    ref = pooled.start(Doing)
    gate = hold(ref)
    future = ref.ask("late", block=False)

    async def give_up() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(answer_of(future), 0.01)

    asyncio.run(give_up())
    gate.open()
    assert future.get(timeout=PATIENCE) == "late"
    assert ref.ask("lives on", timeout=PATIENCE) == "lives on"
    ref.stop()


# An executor that is shut down, and the end of the process.


def test_what_is_sent_after_the_executor_is_shut_down_is_handled_all_the_same(
    one_thread: concurrent.futures.ThreadPoolExecutor,
) -> None:
    hooks = Hooks()
    ref = start_idle(one_thread, hooks)
    one_thread.shutdown()
    told = threading.Event()
    ref.tell(do(lambda _: told.set()))
    assert told.wait(PATIENCE)
    assert ref.ask("helped") == "helped"
    assert ref.ask("x", timeout=PATIENCE) == "x"
    assert ref.proxy().add().get(timeout=PATIENCE) == 1
    late = pooled.on(Doing, executor=one_thread).start()
    assert late.ask("late", timeout=PATIENCE) == "late"
    assert late.stop() is True
    assert ref.stop(timeout=PATIENCE) is True
    assert hooks.calls == ["on_start", "on_stop"]


@pytest.mark.parametrize("cancel", [False, True], ids=["and runs what it has", "and cancels it"])
def test_what_waits_for_the_pool_when_the_executor_is_shut_down_is_handled(
    one_thread: concurrent.futures.ThreadPoolExecutor, *, cancel: bool
) -> None:
    refs = [start_idle(one_thread) for _ in range(3)]
    gate = occupy(one_thread)
    told = threading.Event()
    refs[0].tell(do(lambda _: told.set()))
    asked = refs[1].ask("asked", block=False)
    helped = refs[2].ask("helped", block=False)
    one_thread.shutdown(wait=False, cancel_futures=cancel)
    assert helped.get() == "helped"
    gate.open()
    assert told.wait(PATIENCE)
    assert asked.get(timeout=PATIENCE) == "asked"
    assert pykka.ActorRegistry.stop_all(timeout=PATIENCE) == [True] * 3


def run_program(program: str) -> str:
    """Run a program in a process of its own, which has to end by itself, and return its output."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(program)],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.stderr == ""
    assert done.returncode == 0
    return done.stdout


PRELUDE = """
import pykka
from pykka_registry import PooledActor

class Doing(PooledActor):
    def on_receive(self, message):
        return message(self) if callable(message) else message
"""


def test_the_process_ends_though_pooled_actors_live() -> None:
    out = run_program(
        PRELUDE
        + """
refs = [Doing.start() for _ in range(100)]
print(sum(ref.ask(i, timeout=60) for i, ref in enumerate(refs)))
print(sum(ref.ask(i) for i, ref in enumerate(refs)))
"""
    )
    assert out == "4950\n4950\n"


def test_the_process_ends_though_messages_wait() -> None:
    run_program(
        PRELUDE
        + """
refs = [Doing.start() for _ in range(100)]
for i, ref in enumerate(refs):
    for _ in range(100):
        ref.tell(i)
        ref.ask(i, block=False)
"""
    )


def test_the_process_ends_though_a_handler_tells_and_asks_while_it_ends() -> None:
    out = run_program(
        PRELUDE
        + """
import concurrent.futures
one, other = Doing.start(), Doing.start()
other.ask("is idle")

def wait_until_the_process_ends():
    # Not for the main thread's end: that waits for the pools' threads, of which this is one.
    with concurrent.futures.ThreadPoolExecutor(1) as executor:
        try:
            while True:
                executor.submit(int).result()
        except RuntimeError:
            pass

def tell_and_ask(actor):
    wait_until_the_process_ends()
    try:
        other.tell("told")
        other.ask("asked")
        other.ask("asked", timeout=60)
        other.stop()
    except pykka.ActorDeadError:
        pass
    print("went on", flush=True)

one.tell(tell_and_ask)
"""
    )
    assert out == "went on\n"


def test_stop_all_at_exit_ends() -> None:
    out = run_program(
        PRELUDE
        + """
import atexit
refs = [Doing.start() for _ in range(10)]
atexit.register(lambda: print(pykka.ActorRegistry.stop_all(timeout=60).count(True)))
"""
    )
    assert out == "10\n"


# What is told the pool, and what is not.


def test_an_actor_waits_in_its_pool_once_however_often_it_is_asked(
    one_thread: concurrent.futures.ThreadPoolExecutor,
) -> None:
    ref = start_idle(one_thread)
    gate = occupy(one_thread)
    for i in range(100):
        assert ref.ask(i, block=False).get() == i  # who waits runs it before the pool comes to it
    assert one_thread._work_queue.qsize() == 1
    gate.open()
    assert ref.ask("x", timeout=PATIENCE) == "x"
    ref.stop()


def test_who_waits_in_a_handler_is_rescued_as_often_as_it_takes(
    one_thread: concurrent.futures.ThreadPoolExecutor,
) -> None:
    other = pooled.on(Doing, executor=one_thread, helping=False).start()
    ref = start_idle(one_thread)

    def tell_more_than_one_turn_handles(_: Doing) -> object:
        for i in range(200):
            other.tell(i)
        return other.ask("last")

    assert send(ref, tell_more_than_one_turn_handles).get(timeout=PATIENCE) == "last"
    ref.stop()
    other.stop()


def test_who_awaits_in_a_handler_is_rescued_too(
    one_thread: concurrent.futures.ThreadPoolExecutor,
) -> None:
    other, ref = start_idle(one_thread), start_idle(one_thread)

    async def answer() -> Any:
        return await answer_of(other.ask("x", block=False))

    assert send(ref, lambda _: asyncio.run(answer())).get(timeout=PATIENCE) == "x"
    ref.stop()
    other.stop()


def test_who_awaits_its_own_actor_in_a_handler_is_refused() -> None:
    ref, other = pooled.start(Doing), pooled.start(Doing)

    async def answer(of: pykka.ActorRef[Any], message: object) -> Any:
        return await answer_of(of.ask(message, block=False))

    def ask_back(_: Doing) -> object:
        return asyncio.run(answer(ref, "x"))

    with pytest.raises(WaitCycle):
        call(ref, lambda _: asyncio.run(answer(ref, "x")), timeout=PATIENCE)
    with pytest.raises(WaitCycle):
        call(ref, lambda _: asyncio.run(answer(other, ask_back)), timeout=PATIENCE)
    assert ref.ask("lives on") == "lives on"
    assert _waits._awaits == {}
    ref.stop()
    other.stop()


def test_what_a_handler_awaits_besides_what_is_there_already_counts_as_waited_for() -> None:
    """The edge of the one that is there goes, and that of the other stays."""
    ref, quick, slow = (pooled.start(Doing) for _ in range(3))
    first, second = Gate(), Gate()

    def ask_back(_: Doing) -> object:
        second.pass_through()
        return ref.ask("x")

    async def both() -> None:
        asked = [send(quick, lambda _: first.pass_through()), slow.ask(ask_back, block=False)]
        tasks = [asyncio.ensure_future(answer_of(future)) for future in asked]
        await asyncio.sleep(0)
        assert [len(awaits) for awaits in _waits._awaits.values()] == [2]
        first.open()
        await tasks[0]
        second.open()
        with pytest.raises(WaitCycle):
            await tasks[1]

    call(ref, lambda _: asyncio.run(both()), timeout=PATIENCE)
    assert _waits._awaits == {}
    pykka.ActorRegistry.stop_all()


def test_who_waits_outside_of_an_actor_leaves_it_to_the_executor(
    one_thread: concurrent.futures.ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_future, "_FORGOTTEN", 0.001)
    ref = start_idle(one_thread, helping=False)
    gate = occupy(one_thread)
    answer = send(ref, thread_of)
    with pytest.raises(pykka.Timeout):
        answer.get(timeout=0.1)
    gate.open()
    assert answer.get(timeout=PATIENCE).name == "one-thread_0"
    ref.stop()


def test_what_a_caller_is_handling_no_handler_sees(
    one_thread: concurrent.futures.ThreadPoolExecutor,
) -> None:
    ref = start_idle(one_thread)
    try:
        raise ValueError("the caller's")  # noqa: TRY301
    except ValueError:
        assert call(ref, lambda _: sys.exception()) is None
        assert call(ref, thread_of).name == "one-thread_0"
    ref.stop()


def test_where_no_thread_is_to_be_had_a_tell_runs_nothing_and_waits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    executor = concurrent.futures.ThreadPoolExecutor(1)
    ref = start_idle(executor)
    executor.shutdown()
    told: list[threading.Thread] = []
    with NoThreads(monkeypatch):
        for _ in range(3000):  # many turns: they are not taken on top of each other
            ref.tell(do(lambda actor: told.append(thread_of(actor))))
        assert told == []
    _turns.remember()  # as a registry does twice a second
    assert ref.ask("x", timeout=PATIENCE) == "x"
    assert len(told) == 3000
    assert threading.current_thread() not in told
    ref.stop()


def test_a_system_exit_in_a_callback_of_a_future_is_the_callbacks_own_trouble() -> None:
    ref = pooled.start(Doing)
    gate = hold(ref)
    answer = cast("Future[Any]", ref.ask("x", block=False))

    def leave(_: object) -> None:
        raise SystemExit

    answer.add_done_callback(leave)
    gate.open()
    assert ref.ask("lives on", timeout=PATIENCE) == "lives on"
    ref.stop()


def test_who_is_stopped_by_its_flag_comes_to_its_end_and_handles_nothing_more() -> None:
    ref = pooled.start(Doing)
    assert ref.ask("x", timeout=PATIENCE) == "x"
    gate = hold(ref)
    behind = ref.ask("behind", block=False)
    ref.actor_stopped.set()
    with pytest.raises(pykka.ActorDeadError):
        ref.ask("dead")
    gate.open()
    with pytest.raises(pykka.ActorDeadError):
        behind.get(timeout=PATIENCE)
    poll(lambda: pykka.ActorRegistry.get_all() == [])
    idle = pooled.start(Doing)
    assert idle.ask("x", timeout=PATIENCE) == "x"
    idle.actor_stopped.set()
    poll(lambda: pykka.ActorRegistry.get_all() == [])


@pytest.mark.parametrize("name", ["_create_actor_inbox", "_create_future", "_start_actor_loop"])
def test_a_class_with_a_part_of_another_runtime_is_refused(name: str) -> None:
    with pytest.raises(TypeError, match=f"defines {name}, which a PooledActor has for itself"):
        pooled.on(Doing, **{name: None})
