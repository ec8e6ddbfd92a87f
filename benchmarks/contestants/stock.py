"""Stock Pykka: a `ThreadingActor` each, with its ref at hand: Pykka knows no keys.

A method is called by the message that a proxy would send, which takes less than a proxy.
`start` returns before `on_start` has run, and is not asked to wait for it here.
"""

from __future__ import annotations

import itertools
import threading
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import pykka
from pykka.messages import ProxyCall

from benchmarks.contestants import BLOCKED_FOR, IT, Amounts, in_turn, key_of, seconds_all_at_once
from benchmarks.memory import resident

if TYPE_CHECKING:
    from benchmarks.contestants import Rounds


class Account(pykka.ThreadingActor):
    """An actor."""

    use_daemon_thread = True

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


class Sleeper(pykka.ThreadingActor):
    """An actor whose handler blocks."""

    use_daemon_thread = True

    def on_receive(self, message: float) -> None:
        """Block for so many seconds."""
        time.sleep(message)


def key_call(amounts: Amounts) -> Rounds:
    """Call a method of an idle actor."""
    refs = _in_turn(amounts)
    while True:
        start = time.perf_counter()
        for ref in refs:
            ref.ask(ProxyCall(("deposit",), (1,), {}))
        yield {IT: (time.perf_counter() - start) / len(refs)}


def idle_ask(amounts: Amounts) -> Rounds:
    """Ask an idle actor."""
    refs = _in_turn(amounts)
    while True:
        start = time.perf_counter()
        for ref in refs:
            ref.ask(1)
        yield {IT: (time.perf_counter() - start) / len(refs)}


def crowd(amounts: Amounts) -> Rounds:
    """Ask from several threads at once, each another actor."""
    refs = [Account.start() for _ in range(amounts.callers)]
    callers = [partial(_ask_often, ref, amounts.calls_of_each) for ref in refs]
    while True:
        seconds = seconds_all_at_once(callers)
        yield {IT: seconds / (amounts.callers * amounts.calls_of_each)}


def pipelined(amounts: Amounts) -> Rounds:
    """Ask many times, then collect the answers."""
    ref = Account.start()
    while True:
        start = time.perf_counter()
        futures = [ref.ask(1, block=False) for _ in range(amounts.pipelined)]
        for future in futures:
            future.get()
        yield {IT: (time.perf_counter() - start) / amounts.pipelined}


def tells(amounts: Amounts) -> Rounds:
    """Tell many times, and wait until the last one has been handled."""
    ref = Account.start()
    while True:
        handled = threading.Event()
        start = time.perf_counter()
        for _ in range(amounts.tells):
            ref.tell(1)
        ref.tell(handled)
        handled.wait()
        yield {IT: (time.perf_counter() - start) / amounts.tells}


def lives(amounts: Amounts) -> Rounds:
    """Start actors and stop them again, beside others that are live; a `dict` has the keys."""
    refs = {key_of(number): Account.start() for number in range(amounts.live)}
    numbers = itertools.count(amounts.live)
    while True:
        keys = [key_of(number) for number in itertools.islice(numbers, amounts.started)]
        start = time.perf_counter()
        for key in keys:
            refs[key] = Account.start()
        middle = time.perf_counter()
        for key in keys:
            refs.pop(key).stop()
        end = time.perf_counter()
        yield {"start": (middle - start) / len(keys), "stop": (end - middle) / len(keys)}


def memory(amounts: Amounts) -> Rounds:
    """Start many actors and call each once; yield the bytes that each of them holds."""
    refs = {key_of(number): Account.start() for number in range(-100, 0)}
    for ref in refs.values():
        ref.ask(ProxyCall(("deposit",), (1,), {}))
    before = resident()
    for number in range(amounts.remembered_threads):
        refs[key_of(number)] = ref = Account.start()
        ref.ask(ProxyCall(("deposit",), (1,), {}))
    yield {IT: (resident() - before) / amounts.remembered_threads}


def blocking(amounts: Amounts) -> Rounds:
    """Ask many actors at once whose handlers block; each has its own thread to block."""
    refs = [Sleeper.start() for _ in range(amounts.blocking)]
    while True:
        start = time.perf_counter()
        futures = [ref.ask(BLOCKED_FOR, block=False) for ref in refs]
        for future in futures:
            future.get()
        yield {IT: time.perf_counter() - start}


def _in_turn(amounts: Amounts) -> list[pykka.ActorRef[Account]]:
    """Start some actors; return their refs in turn, over and over."""
    refs = [Account.start() for _ in range(amounts.idle)]
    return in_turn(refs, amounts.calls)


def _ask_often(ref: pykka.ActorRef[Account], times: int) -> None:
    for _ in range(times):
        ref.ask(1)
