"""Races, forced: barriers, a tiny switch interval, and a count of what happened."""

from __future__ import annotations

import functools
import random
import threading
from typing import TYPE_CHECKING, Any

import pykka
from pykka import messages

from pykka_registry import (
    AggregateMixin,
    AggregateRegistry,
    KeyAlreadyRegistered,
    RegistryRef,
)
from tests.support import (
    PATIENCE,
    Counting,
    Referee,
    Runtime,
    in_threads,
    join,
    tiny_switch_interval,
)

if TYPE_CHECKING:
    from types import TracebackType


def test_a_storm_on_cold_keys_constructs_each_once() -> None:
    """100 threads, 10 cold keys: one construction per key, and everybody gets that actor."""
    constructed: list[Any] = []

    class Cold(AggregateMixin, Runtime):
        def __init__(self) -> None:
            super().__init__()
            constructed.append(self.key)

    with tiny_switch_interval(), AggregateRegistry.start(Cold) as registry:
        for storm in range(5):
            keys = [(storm, i % 10) for i in range(100)]
            refs = in_threads([functools.partial(registry.get_or_start, key) for key in keys])
            for key, ref in zip(keys, refs, strict=True):
                assert ref is registry[key]
            assert len(set(refs)) == 10
        assert sorted(constructed) == [(storm, i) for storm in range(5) for i in range(10)]


def test_a_storm_of_start_new_has_one_winner_per_key(counters: RegistryRef[Counting]) -> None:
    with tiny_switch_interval():
        for storm in range(5):
            keys = [(storm, i % 10) for i in range(100)]
            results = in_threads([functools.partial(counters.start_new, key) for key in keys])
            winners = [result for result in results if isinstance(result, pykka.ActorRef)]
            assert len(winners) == 10
            assert sum(isinstance(r, KeyAlreadyRegistered) for r in results) == 90


class Refereed(AggregateMixin, Runtime):
    """Tells a referee when it lives: from its constructor's first line to its last hook's last."""

    def __init__(self, referee: Referee, chance: random.Random) -> None:
        referee.enter(self.key)
        self._referee = referee
        self._chance = chance
        if chance.random() < 0.05:
            referee.leave(self.key)
            raise ValueError("in the constructor")
        super().__init__()

    def on_start(self) -> None:
        if self._chance.random() < 0.05:
            self._referee.leave(self.key)
            raise ValueError("in on_start")

    def on_stop(self) -> None:
        if self._chance.random() < 0.1:
            self._referee.leave(self.key)
            raise ValueError("in on_stop")
        self._referee.leave(self.key)

    def on_failure(
        self,
        exception_type: type[BaseException] | None,
        exception_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._referee.leave(self.key)

    def on_receive(self, message: Any) -> Any:
        if message == "fail":
            raise ValueError("in a handler")
        return self.actor_urn


def test_no_key_ever_has_two_live_incarnations() -> None:
    """Starts, stops and failures in every hook, at random; 8 threads, 5 keys, a referee outside."""
    referee = Referee()
    rounds = 250

    def churn(seed: int, registry: RegistryRef[Refereed]) -> int:
        chance = random.Random(seed)
        asked = 0
        for _ in range(rounds):
            try:
                ref = registry.get_or_start(chance.randrange(5))
                what = chance.random()
                if what < 0.2:
                    ref.stop()
                elif what < 0.3:
                    ref.stop(block=False)
                elif what < 0.4:
                    ref.tell("fail")
                else:
                    assert ref.ask("who") == ref.actor_urn
                    asked += 1
            except (ValueError, pykka.ActorDeadError):
                pass
        return asked

    with tiny_switch_interval():
        registry = AggregateRegistry.start(
            Refereed,
            args=(referee, random.Random(1)),
            backoff=(0, 0.001),
            max_failures=1_000_000,
        )
        asked = in_threads([functools.partial(churn, seed, registry) for seed in range(8)])
        registry.stop()
    assert all(isinstance(count, int) and count > 20 for count in asked), asked
    assert referee.fouls == []
    assert referee.live() == 0
    assert sum(referee.entered.values()) > 200


def test_an_ask_that_races_with_a_stop_always_completes() -> None:
    """Asks against stops by the ten thousand: each is answered or refused, none is stranded."""
    rounds = 1_500
    askers = 8
    answered = refused = 0
    with AggregateRegistry.start(Counting) as registry:
        for key in range(rounds):
            ref = registry.get_or_start(key)
            futures: list[pykka.Future[Any]] = []
            message = messages.ProxyCall(attr_path=("add",), args=(1,), kwargs={})
            barrier = threading.Barrier(2)

            def ask(
                ref: Any = ref,
                futures: Any = futures,
                message: Any = message,
                barrier: Any = barrier,
            ) -> None:
                barrier.wait()
                for _ in range(askers):
                    futures.append(ref.ask(message, block=False))

            thread = threading.Thread(target=ask)
            thread.start()
            with tiny_switch_interval():
                barrier.wait()
                while key % 2 and not futures:  # else a busy machine may let one side win for ever
                    pass
                assert ref.stop() is True
                join(thread)
            for future in futures:
                try:
                    assert future.get(timeout=PATIENCE) > 0
                    answered += 1
                except pykka.ActorDeadError:
                    refused += 1
    assert answered + refused == rounds * askers
    assert answered > 0
    assert refused > 0
