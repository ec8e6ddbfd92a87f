"""What this package relies on in Pykka, by name: an upgrade that changes a fact fails here."""

from __future__ import annotations

import inspect
import subprocess
import sys
import threading
from typing import Any

import pykka
import pytest
from pykka import messages
from pykka._envelope import Envelope

from tests.support import Gate, join


class Plain(pykka.ThreadingActor):
    def __init__(self, hooks: list[str], gate: Gate | None = None) -> None:
        super().__init__()
        self._hooks = hooks
        self._gate = gate

    def on_stop(self) -> None:
        self._hooks.append("on_stop")
        if self._gate is not None:
            self._gate.pass_through()

    def on_failure(self, *_args: Any) -> None:
        self._hooks.append("on_failure")

    def on_receive(self, message: Any) -> Any:
        if isinstance(message, BaseException):
            raise message
        return message


def thread_of(name: str) -> threading.Thread:
    return next(t for t in threading.enumerate() if t.name.startswith(name))


def test_a_message_put_after_the_teardown_is_stranded() -> None:
    """Why our inbox can be closed: between its look at the flag and its put the actor may end."""
    ref = Plain.start([])
    thread = thread_of("Plain")
    ref.stop()
    join(thread)
    future = pykka.ThreadingFuture[Any]()
    ref.actor_inbox.put(Envelope("hello", reply_to=future))
    with pytest.raises(pykka.Timeout):
        future.get(timeout=0.01)


def test_an_actor_is_dead_while_its_on_stop_still_runs() -> None:
    """Why a successor waits for the end of teardown, not for `is_alive()`."""
    gate = Gate()
    ref = Plain.start([], gate)
    ref.stop(block=False)
    gate.wait_until_reached()
    assert not ref.is_alive()
    assert pykka.ActorRegistry.get_by_urn(ref.actor_urn) is None
    gate.open()


def test_which_hooks_run_at_which_end() -> None:
    hooks: list[str] = []
    ref = Plain.start(hooks)
    with pytest.raises(ValueError, match="no"):
        ref.ask(ValueError("no"))
    assert hooks == []
    thread = thread_of("Plain")
    ref.tell(ValueError("no"))
    join(thread)
    assert hooks == ["on_failure"]
    hooks.clear()
    Plain.start(hooks).stop()
    assert hooks == ["on_stop"]


def test_a_base_exception_in_a_handler_stops_all_and_never_answers() -> None:
    """Why ours answers the asker itself."""
    hooks: list[str] = []
    ref = Plain.start(hooks)
    other = Plain.start(hooks)
    thread = thread_of("Plain")
    future = ref.ask(SystemExit(1), block=False)
    assert other.actor_stopped.wait(60)
    join(thread)
    assert hooks == ["on_stop", "on_stop"]
    with pytest.raises(pykka.Timeout):
        future.get(timeout=0.01)


def test_an_actor_makes_its_inbox_its_flag_and_its_ref_in_this_order_in_its_constructor() -> None:
    """Why the mixin can have them ready: the ref copies the other two."""
    order: list[str] = []

    class Watched(pykka.ThreadingActor):
        def __setattr__(self, name: str, value: object) -> None:
            order.append(name)
            super().__setattr__(name, value)

    actor = Watched()
    assert order == ["actor_urn", "actor_inbox", "actor_stopped", "_actor_ref"]
    assert actor.actor_ref.actor_inbox is actor.actor_inbox
    assert actor.actor_ref.actor_stopped is actor.actor_stopped


def test_an_ask_makes_its_future_through_the_actors_class() -> None:
    class Mine(pykka.ThreadingFuture[Any]):
        pass

    class WithFuture(pykka.ThreadingActor):
        @staticmethod
        def _create_future() -> pykka.Future[Any]:
            return Mine()

    ref = WithFuture.start()
    assert isinstance(ref.ask(messages.ProxyGetAttr(("actor_urn",)), block=False), Mine)
    stopped = ref.stop(block=False)
    assert type(stopped) is Mine
    assert stopped.get() is True


def test_an_ask_expects_an_inbox_not_to_raise() -> None:
    """Why our inbox fails the future: `ask(block=False)`, `stop` and `stop_all` would raise."""

    class Refusing:
        def put(self, envelope: object, /) -> None:
            raise pykka.ActorDeadError("closed")

    ref = Plain.start([])
    inbox = ref.actor_inbox
    ref.actor_inbox = Refusing()  # type: ignore[assignment]
    with pytest.raises(pykka.ActorDeadError):
        ref.ask("x", block=False)
    with pytest.raises(pykka.ActorDeadError):
        ref.stop(block=False)
    ref.actor_inbox = inbox
    ref.stop()


def test_a_stop_is_an_ask_for_an_actor_stop() -> None:
    """Why leftover stops can be told from other messages."""
    seen: list[Any] = []

    class Looking(pykka.ThreadingActor):
        def _handle_receive(self, message: Any) -> Any:
            seen.append(message)
            return super()._handle_receive(message)

    Looking.start().stop()
    assert [type(message) for message in seen] == [messages._ActorStop]


def test_handle_receive_takes_a_message_to_its_handler() -> None:
    actor = Plain([])
    assert actor._handle_receive("hello") == "hello"
    call = messages.ProxyCall(attr_path=("on_receive",), args=("hello",), kwargs={})
    assert actor._handle_receive(call) == "hello"
    assert actor._handle_receive(messages.ProxyGetAttr(attr_path=("_hooks",))) == []
    assert not actor.actor_stopped.is_set()
    actor._handle_receive(messages._ActorStop())
    assert actor.actor_stopped.is_set()
    assert actor._hooks == ["on_stop"]


def test_the_steps_of_the_actor_loop_that_the_registry_overrides() -> None:
    source = inspect.getsource(pykka.Actor._actor_loop)
    steps = ["_actor_loop_setup()", "_actor_loop_running()", "_actor_loop_teardown()"]
    positions = [source.index(step) for step in steps]
    assert positions == sorted(positions)


def test_start_registers_before_the_loop_starts_and_returns_the_actors_ref() -> None:
    """Why `AggregateRegistry.start` returns its `RegistryRef`, and cleans up after a failure."""
    registered: list[bool] = []

    class Looking(pykka.ThreadingActor):
        def _start_actor_loop(self) -> None:
            registered.append(pykka.ActorRegistry.get_by_urn(self.actor_urn) is self.actor_ref)
            super()._start_actor_loop()

    ref = Looking.start()
    assert registered == [True]
    ref.stop()


def test_the_main_thread_is_over_before_the_interpreter_joins_the_others() -> None:
    code = """
import threading
def watch():
    while threading.main_thread().is_alive():
        pass
    print("over")
threading.Thread(target=watch).start()
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "over\n"
