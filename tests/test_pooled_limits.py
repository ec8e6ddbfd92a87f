"""Where a pooled actor must not be run, or would not be, and classes that could not."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from typing import Any

import pykka
import pytest
from pykka.messages import ProxyCall

from pykka_registry import AggregateMixin, AggregateRegistry, PooledActor, WaitCycle, _turns
from tests.support import PATIENCE, Gate, join, poll, start_thread


class Echo(PooledActor):
    """Answers with what it gets."""

    def on_receive(self, message: Any) -> Any:
        return message


# Waits that lead back.


class Circular(AggregateMixin, PooledActor):
    """Awaits its own answer, by way of a function on it."""

    def me(self) -> int:
        return 1

    def await_itself(self, how: str) -> int:
        async def main() -> Any:
            if how == "stop":
                return await self.actor_ref.stop(block=False)
            mine = self.registry.ref(self.key).submit(Circular.me)
            return await mine.map(lambda number: number + 1)

        return asyncio.run(main())  # type: ignore[no-any-return]


@pytest.mark.parametrize("how", ["map", "stop"])
def test_who_awaits_what_follows_from_its_own_answer_is_told(how: str) -> None:
    with AggregateRegistry.start(Circular) as registry:
        answer = registry.ref("a").submit(Circular.await_itself, how)
        with pytest.raises(WaitCycle, match="'a'"):
            answer.get(timeout=PATIENCE)


class Plain(PooledActor):
    """Asks itself, which is refused."""

    def __init__(self) -> None:
        super().__init__()
        self.hits = 0

    def hit(self) -> None:
        self.hits += 1

    def ask_itself(self, message: Any) -> str:
        try:
            self.actor_ref.ask(message)
        except WaitCycle:
            return "refused"
        raise AssertionError

    def stop_itself(self) -> str:
        try:
            self.actor_ref.stop()
        except WaitCycle:
            return "refused"
        raise AssertionError


def test_what_is_taken_back_because_of_a_cycle_is_not_handled_without_a_registry_either() -> None:
    proxy = Plain.start().proxy()
    assert proxy.ask_itself(ProxyCall(("hit",), (), {})).get(timeout=PATIENCE) == "refused"
    assert proxy.stop_itself().get(timeout=PATIENCE) == "refused"
    assert proxy.hits.get(timeout=PATIENCE) == 0
    proxy.actor_ref.stop()


# The stack.


class Deep(AggregateMixin, PooledActor):
    """Needs some room on the stack."""

    def on_receive(self, frames: int) -> int:
        return frames and self.on_receive(frames - 1)


def test_nobody_who_is_deep_in_its_own_stack_runs_what_others_have_sent() -> None:
    gate = Gate()
    with (
        concurrent.futures.ThreadPoolExecutor(1) as executor,
        AggregateRegistry.start(Deep, executor=executor) as registry,
    ):
        ref = registry.ref("a")
        ref.ask(0)
        executor.submit(gate.pass_through)  # so that nobody but the caller could take the turn
        gate.wait_until_reached()
        answer = ref.ask(300, block=False)
        ref.tell(300)

        def go_down(frames: int) -> Any:
            return go_down(frames - 1) if frames else ref.ask(0)

        results: list[Any] = []
        thread = start_thread(lambda: results.append(go_down(800)))
        inbox: Any = registry["a"].actor_inbox

        def waits_or_has_helped() -> bool:
            letters: list[Any] = list(inbox._envelopes or ())
            waits = len(letters) == 3 and letters[-1].reply_to._waiters
            return bool(waits or registry.stats().ends)

        poll(waits_or_has_helped)
        gate.open()
        assert answer.get(timeout=PATIENCE) == 0
        join(thread)
        assert results == [0]
        assert not registry.stats().ends


# Executors.


class Broken(concurrent.futures.Executor):
    """Takes everything, and fails to run it, as one whose threads cannot begin."""

    def submit(self, _fn: Any, /, *_args: Any, **_kwargs: Any) -> concurrent.futures.Future[Any]:
        future: concurrent.futures.Future[Any] = concurrent.futures.Future()
        future.set_exception(concurrent.futures.BrokenExecutor("no database"))
        return future


def test_what_an_executor_takes_and_does_not_run_is_run_by_a_spare_thread() -> None:
    class OnBroken(AggregateMixin, Echo):
        executor = Broken()

    with AggregateRegistry.start(OnBroken) as registry:
        assert registry.ref("a").ask(1, timeout=PATIENCE) == 1
        assert registry.ref("a").ask(2, timeout=PATIENCE) == 2


def test_a_class_with_what_is_no_executor_is_refused_where_it_is_defined() -> None:
    with pytest.raises(TypeError, match=r"Wrong\.executor must be an executor whose tasks run in"):
        type("Wrong", (PooledActor,), {"executor": Echo.on_receive})
    with pytest.raises(TypeError, match=r"Wrong\.executor must be .* not .*ProcessPoolExecutor"):
        type("Wrong", (Echo,), {"executor": concurrent.futures.ProcessPoolExecutor(1)})


def test_a_class_that_says_neither_true_nor_false_is_refused_where_it_is_defined() -> None:
    with pytest.raises(TypeError, match=r"Wrong\.helping must be True or False, not 'no'"):
        type("Wrong", (PooledActor,), {"helping": "no"})


@pytest.mark.parametrize("mixins", [(), (AggregateMixin,)])
def test_a_class_with_two_runtimes_is_refused_where_it_is_defined(
    mixins: tuple[type[Any], ...],
) -> None:
    with pytest.raises(TypeError, match="Both has two runtimes: take PooledActor or"):
        type("Both", (*mixins, PooledActor, pykka.ThreadingActor), {})


def test_a_class_that_hands_on_what_it_does_not_have_starts() -> None:
    class Delegating(PooledActor):
        def __init__(self, to: Any) -> None:
            super().__init__()
            self._to = to

        def __getattr__(self, name: str) -> Any:
            return getattr(self._to, name)

    ref = Delegating.start([1, 2])
    assert ref.ask(ProxyCall(("count",), (1,), {}), timeout=PATIENCE) == 1
    ref.stop()


# The interpreter's end.


def test_who_is_due_when_the_interpreter_gives_no_thread_is_run_by_who_looks_after_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """CPython 3.12.0 to 3.12.2 start no thread once the main thread has ended."""

    class Ended:
        def is_alive(self) -> bool:
            return False

    def refuse(*_args: Any) -> None:
        raise RuntimeError("can't create new thread at interpreter shutdown")

    ref = Echo.start()
    assert ref.ask(1) == 1
    inbox: Any = ref.actor_inbox
    poll(lambda: not inbox._is_submitted)  # else the pool, which was told of the start, comes yet
    with monkeypatch.context() as patch:
        patch.setattr(_turns, "in_pool", refuse)
        answer = ref.ask(2, block=False)
        _turns.remember()
        with pytest.raises(pykka.Timeout):
            answer.get(timeout=0)
        patch.setattr(threading, "main_thread", Ended)

        def is_looked_after() -> bool:  # another thread may be at it, too, and in vain
            _turns.remember()
            return answer.done()  # type: ignore[attr-defined, no-any-return]  # one of ours

        poll(is_looked_after)
        assert answer.get(timeout=0) == 2
    ref.stop()
