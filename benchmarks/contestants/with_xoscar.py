"""xoscar with a pool in this process: an actor is found by its `uid`.

All is done in one event loop, `uvloop`, which xoscar installs and which is faster with it. A ref
comes from `actor_ref`, which calls the actor directly; what `create_actor` returns sends messages
and takes many times longer. Methods are plain: xoscar takes longer for coroutines.
"""

from __future__ import annotations

import asyncio
import importlib
import itertools
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from benchmarks.contestants import BLOCKED_FOR, IT, WORKERS, Amounts, in_turn, key_of
from benchmarks.memory import resident

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from benchmarks.contestants import Rounds

# By name: xoscar has no types, and type checkers need neither.
xoscar: Any = importlib.import_module("xoscar")
uvloop: Any = importlib.import_module("uvloop")


class Account(xoscar.Actor):  # type: ignore[misc]  # its base has no types
    """An actor."""

    def __init__(self) -> None:
        self.balance = 0

    def deposit(self, amount: int) -> int:
        """Add an amount and return the sum."""
        self.balance += amount
        return self.balance

    def set(self, event: asyncio.Event) -> None:
        """Tell somebody that all messages before have been handled."""
        event.set()

    async def sleep(self, seconds: float) -> None:
        """Block a thread, and not the event loop."""
        await asyncio.to_thread(time.sleep, seconds)


class Pool:
    """A pool of actors, and the event loop that it lives in."""

    def __init__(self) -> None:
        self.loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
        pool = self.run(xoscar.create_actor_pool("127.0.0.1", n_process=0))
        self.address: str = pool.external_address
        self._pool = pool  # the loop alone does not keep it

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Run it to its end."""
        return self.loop.run_until_complete(coroutine)

    async def start(self, key: str) -> None:
        """Start an actor."""
        await xoscar.create_actor(Account, uid=key, address=self.address)

    async def ref(self, key: str) -> Any:
        """Find an actor."""
        return await xoscar.actor_ref(self.address, key)

    async def start_some(self, count: int) -> list[Any]:
        """Start actors and return their refs."""
        for number in range(count):
            await self.start(key_of(number))
        return [await self.ref(key_of(number)) for number in range(count)]


def key_call(amounts: Amounts) -> Rounds:
    """Call a method of an idle actor, by its key."""
    pool = Pool()
    pool.run(pool.start_some(amounts.idle))
    keys = in_turn(map(key_of, range(amounts.idle)), amounts.calls)

    async def call() -> float:
        address = pool.address
        start = time.perf_counter()
        for key in keys:
            ref = await xoscar.actor_ref(address, key)
            await ref.deposit(1)
        return (time.perf_counter() - start) / len(keys)

    while True:
        yield {IT: pool.run(call())}


def idle_ask(amounts: Amounts) -> Rounds:
    """Call a method of an idle actor, with its ref at hand."""
    pool = Pool()
    refs: list[Any] = in_turn(pool.run(pool.start_some(amounts.idle)), amounts.calls)

    async def ask() -> float:
        start = time.perf_counter()
        for ref in refs:
            await ref.deposit(1)
        return (time.perf_counter() - start) / len(refs)

    while True:
        yield {IT: pool.run(ask())}


def crowd(amounts: Amounts) -> Rounds:
    """Call from several tasks at once, each another actor."""
    pool = Pool()
    refs = pool.run(pool.start_some(amounts.callers))

    async def ask_often(ref: Any) -> None:
        for _ in range(amounts.calls_of_each):
            await ref.deposit(1)

    async def ask_all() -> float:
        start = time.perf_counter()
        await asyncio.gather(*map(ask_often, refs))
        return (time.perf_counter() - start) / (amounts.callers * amounts.calls_of_each)

    while True:
        yield {IT: pool.run(ask_all())}


def pipelined(amounts: Amounts) -> Rounds:
    """Call many times, then collect the answers."""
    pool = Pool()
    (ref,) = pool.run(pool.start_some(1))

    async def ask_all() -> float:
        start = time.perf_counter()
        await asyncio.gather(*[ref.deposit(1) for _ in range(amounts.pipelined)])
        return (time.perf_counter() - start) / amounts.pipelined

    while True:
        yield {IT: pool.run(ask_all())}


def tells(amounts: Amounts) -> Rounds:
    """Tell many times, and wait until the last one has been handled."""
    pool = Pool()
    (ref,) = pool.run(pool.start_some(1))

    async def tell_all() -> float:
        handled = asyncio.Event()
        start = time.perf_counter()
        for _ in range(amounts.tells):
            await ref.deposit.tell(1)
        await ref.set.tell(handled)
        await handled.wait()
        return (time.perf_counter() - start) / amounts.tells

    while True:
        yield {IT: pool.run(tell_all())}


def lives(amounts: Amounts) -> Rounds:
    """Start actors and stop them again, beside others that are live."""
    pool = Pool()
    pool.run(pool.start_some(amounts.live))
    numbers = itertools.count(amounts.live)

    async def start_and_stop(keys: list[str]) -> tuple[float, float]:
        start = time.perf_counter()
        refs = [await xoscar.create_actor(Account, uid=key, address=pool.address) for key in keys]
        middle = time.perf_counter()
        for ref in refs:
            await xoscar.destroy_actor(ref)
        end = time.perf_counter()
        return (middle - start) / len(keys), (end - middle) / len(keys)

    while True:
        keys = [key_of(number) for number in itertools.islice(numbers, amounts.started)]
        start, stop = pool.run(start_and_stop(keys))
        yield {"start": start, "stop": stop}


def memory(amounts: Amounts) -> Rounds:
    """Start many actors and call each once; yield the bytes that each of them holds."""
    pool = Pool()

    async def start_and_ask(numbers: range) -> None:
        for number in numbers:
            await pool.start(key_of(number))
            await (await pool.ref(key_of(number))).deposit(1)

    pool.run(start_and_ask(range(-100, 0)))
    before = resident()
    pool.run(start_and_ask(range(amounts.remembered)))
    yield {IT: (resident() - before) / amounts.remembered}


def blocking(amounts: Amounts) -> Rounds:
    """Call many actors at once whose handlers block a thread, of as many as the others have."""
    pool = Pool()
    pool.loop.set_default_executor(ThreadPoolExecutor(WORKERS))
    refs = pool.run(pool.start_some(amounts.blocking))

    async def ask_all() -> float:
        start = time.perf_counter()
        await asyncio.gather(*[ref.sleep(BLOCKED_FOR) for ref in refs])
        return time.perf_counter() - start

    while True:
        yield {IT: pool.run(ask_all())}
