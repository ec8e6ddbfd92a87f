"""This package: aggregates on `PooledActor`, in a registry."""

from __future__ import annotations

import itertools
import math
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any

from benchmarks.contestants import (
    BLOCKED_FOR,
    IT,
    WORKERS,
    Amounts,
    in_turn,
    key_of,
    seconds_all_at_once,
)
from benchmarks.memory import resident
from pykka_registry import AggregateMixin, AggregateRegistry, PooledActor

if TYPE_CHECKING:
    import pykka

    from benchmarks.contestants import Rounds
    from pykka_registry import RegistryRef

PATIENCE = 5.0
"""A timeout that is never reached: with one, who waits sleeps and does not help."""


class Account(AggregateMixin, PooledActor):
    """An aggregate."""

    def __init__(self) -> None:
        super().__init__()
        self.balance = 0

    def deposit(self, amount: int) -> int:
        """Add an amount and return the sum."""
        self.balance += amount
        return self.balance

    def on_receive(self, message: Any) -> int:
        """Do the same, or tell somebody that all messages before have been handled."""
        if isinstance(message, threading.Event):
            message.set()
            return self.balance
        return self.deposit(message)


class Sleeper(AggregateMixin, PooledActor):
    """An aggregate whose handler blocks, with a pool that is wide enough for many of them."""

    executor = ThreadPoolExecutor(WORKERS)

    def on_receive(self, message: float) -> None:
        """Block for so many seconds."""
        time.sleep(message)


def key_call(amounts: Amounts) -> Rounds:
    """Call a method of an idle aggregate, by its key."""
    with AggregateRegistry.start(Account) as registry:
        keys = _in_turn(registry, amounts)
        while True:
            start = time.perf_counter()
            for key in keys:
                registry.ref(key).call(Account.deposit, 1)
            yield {IT: (time.perf_counter() - start) / len(keys)}


def patient_key_call(amounts: Amounts) -> Rounds:
    """Do the same with a timeout."""
    with AggregateRegistry.start(Account) as registry:
        keys = _in_turn(registry, amounts)
        while True:
            start = time.perf_counter()
            for key in keys:
                registry.ref(key).using(timeout=PATIENCE).call(Account.deposit, 1)
            yield {IT: (time.perf_counter() - start) / len(keys)}


def idle_ask(amounts: Amounts) -> Rounds:
    """Ask an idle aggregate, with its ref at hand."""
    with AggregateRegistry.start(Account) as registry:
        refs = [registry[key] for key in _in_turn(registry, amounts)]
        while True:
            start = time.perf_counter()
            for ref in refs:
                ref.ask(1)
            yield {IT: (time.perf_counter() - start) / len(refs)}


def patient_idle_ask(amounts: Amounts) -> Rounds:
    """Do the same with a timeout."""
    with AggregateRegistry.start(Account) as registry:
        refs = [registry[key] for key in _in_turn(registry, amounts)]
        while True:
            start = time.perf_counter()
            for ref in refs:
                ref.ask(1, timeout=PATIENCE)
            yield {IT: (time.perf_counter() - start) / len(refs)}


def crowd(amounts: Amounts) -> Rounds:
    """Ask from several threads at once, each another aggregate."""
    with AggregateRegistry.start(Account) as registry:
        refs = [registry.get_or_start(key_of(number)) for number in range(amounts.callers)]
        callers = [partial(_ask_often, ref, amounts.calls_of_each) for ref in refs]
        while True:
            seconds = seconds_all_at_once(callers)
            yield {IT: seconds / (amounts.callers * amounts.calls_of_each)}


def pipelined(amounts: Amounts) -> Rounds:
    """Ask many times, then collect the answers."""
    with AggregateRegistry.start(Account) as registry:
        ref = registry.get_or_start(key_of(0))
        while True:
            start = time.perf_counter()
            futures = [ref.ask(1, block=False) for _ in range(amounts.pipelined)]
            for future in futures:
                future.get()
            yield {IT: (time.perf_counter() - start) / amounts.pipelined}


def tells(amounts: Amounts) -> Rounds:
    """Tell many times, and wait until the last one has been handled."""
    with AggregateRegistry.start(Account) as registry:
        ref = registry.get_or_start(key_of(0))
        while True:
            handled = threading.Event()
            start = time.perf_counter()
            for _ in range(amounts.tells):
                ref.tell(1)
            ref.tell(handled)
            handled.wait()
            yield {IT: (time.perf_counter() - start) / amounts.tells}


def lives(amounts: Amounts) -> Rounds:
    """Start new keys and stop them again, beside others that are live."""
    with AggregateRegistry.start(Account) as registry:
        for number in range(amounts.live):
            registry.get_or_start(key_of(number))
        numbers = itertools.count(amounts.live)
        while True:
            keys = [key_of(number) for number in itertools.islice(numbers, amounts.started)]
            start = time.perf_counter()
            for key in keys:
                registry.get_or_start(key)
            middle = time.perf_counter()
            for key in keys:
                registry.ref(key).stop()
            end = time.perf_counter()
            yield {"start": (middle - start) / len(keys), "stop": (end - middle) / len(keys)}


def memory(amounts: Amounts) -> Rounds:
    """Start many aggregates and call each once; yield the bytes that each of them holds."""
    with AggregateRegistry.start(Account) as registry:
        for number in range(-100, 0):
            registry.ref(key_of(number)).call(Account.deposit, 1)
        before = resident()
        for number in range(amounts.remembered):
            registry.ref(key_of(number)).call(Account.deposit, 1)
        yield {IT: (resident() - before) / amounts.remembered}


def blocking(amounts: Amounts) -> Rounds:
    """Ask many aggregates at once whose handlers block; yield the seconds until all have answered.

    Ideal is that all threads of the pool block all the time.
    """
    with AggregateRegistry.start(Sleeper) as registry:
        refs = [registry.get_or_start(key_of(number)) for number in range(amounts.blocking)]
        while True:
            start = time.perf_counter()
            futures = [ref.ask(BLOCKED_FOR, block=False) for ref in refs]
            for future in futures:
                future.get()
            seconds = time.perf_counter() - start
            ideal = math.ceil(amounts.blocking / WORKERS) * BLOCKED_FOR
            yield {IT: seconds, "ideal": ideal}


def _in_turn(registry: RegistryRef[Account], amounts: Amounts) -> list[str]:
    """Start some aggregates; return their keys in turn, over and over."""
    keys = [key_of(number) for number in range(amounts.idle)]
    for key in keys:
        registry.get_or_start(key)
    return in_turn(keys, amounts.calls)


def _ask_often(ref: pykka.ActorRef[Account], times: int) -> None:
    for _ in range(times):
        ref.ask(1)
