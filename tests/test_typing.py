"""What a type checker knows: mypy and pyright check this file, and the tests run it.

Where a line is wrong on purpose a comment says which error a checker must find there: for both of
them a comment that silences nothing is an error itself.
"""

# pyright: reportUnnecessaryTypeIgnoreComment=true

from __future__ import annotations

import abc
from typing import Any, Literal, assert_type

import pykka

from pykka_registry import (
    AggregateMixin,
    AggregateProxy,
    AggregateRef,
    AggregateRegistry,
    EndReason,
    Registered,
    RegistryRef,
    Terminated,
)


class Account(AggregateMixin, pykka.ThreadingActor):
    def __init__(self, balance: int = 0) -> None:
        super().__init__()
        self.balance = balance

    def deposit(self, amount: int, *, note: str = "") -> int:
        self.balance += amount
        return self.balance

    # The slash is for mypy, which else takes `self` for one of the filters.
    def history(self, /, *days: int, **filters: str) -> list[tuple[int, str]]:
        return [(day, filters.get("kind", "any")) for day in days]

    def close(self) -> None:
        self.balance = 0

    def timed(self, method: str, timeout: float) -> tuple[str, float]:
        return method, timeout

    @property
    def cents(self) -> int:
        return self.balance * 100


class Savings(Account):
    def deposit(self, amount: int, *, note: str = "", rate: float = 0.5) -> int:
        return super().deposit(amount, note=note) + int(amount * rate)

    def interest(self, rate: float) -> float:
        return self.balance * rate


class Parcel(AggregateMixin, pykka.ThreadingActor, abc.ABC):
    @abc.abstractmethod
    def weigh(self, scale: Literal["g", "kg"]) -> float: ...


class Letter(Parcel):
    def weigh(self, scale: Literal["g", "kg"]) -> float:
        return 20.0 if scale == "g" else 0.02


def test_refs_know_their_class() -> None:
    with AggregateRegistry.start(Account, args=(5,), name="accounts") as accounts:
        assert_type(accounts, RegistryRef[Account])
        assert_type(accounts.get_or_start("a"), pykka.ActorRef[Account])
        assert_type(accounts.start_new("b", timeout=5), pykka.ActorRef[Account])
        assert_type(accounts.get("a"), pykka.ActorRef[Account] | None)
        assert_type(accounts.get("a", 0), pykka.ActorRef[Account] | int)
        assert_type(accounts["a"], pykka.ActorRef[Account])
        assert_type(accounts.values(), list[pykka.ActorRef[Account]])
        assert_type(accounts.items(), list[tuple[Any, pykka.ActorRef[Account]]])
        assert_type("a" in accounts, bool)
        assert_type(Savings.start(accounts, "s", 7), pykka.ActorRef[Savings])
        assert_type(accounts.drain(), list[Any])
        assert_type(accounts.stop(), bool)
        assert_type(accounts.stop(block=False), pykka.Future[bool])
        keys: list[str] = sorted(accounts)
        assert keys == []


def test_a_registry_without_a_class_has_refs_of_any_class() -> None:
    with AggregateRegistry.start() as registry:
        assert_type(registry, RegistryRef[Any])
        ref: pykka.ActorRef[Account] = Account.start(registry, "a")
        assert registry.get("a") is ref


def test_a_registry_is_passed_around_as_a_pykka_ref() -> None:
    def stop(ref: pykka.ActorRef[Any]) -> bool:
        return ref.stop(block=True)

    assert stop(AggregateRegistry.start(Account))


def test_events_know_what_they_carry() -> None:
    def describe(event: Registered | Terminated) -> str:
        match event:
            case Registered(key, incarnation, ref):
                assert_type(ref, pykka.ActorRef[Any])
                return f"{key} {incarnation} {ref.actor_class.__name__}"
            case Terminated(key, incarnation, reason, cause):
                assert_type(incarnation, int)
                assert_type(reason, EndReason)
                assert_type(cause, BaseException | None)
                return f"{key} {incarnation} {reason.value}: {cause}"

    assert describe(Terminated("a", 1, EndReason.FAILED, ValueError("no"))) == "a 1 failed: no"
    ref = Account().actor_ref
    assert describe(Registered("a", 1, ref)) == "a 1 Account"


def test_an_aggregate_ref_knows_its_class() -> None:
    with AggregateRegistry.start(Account) as accounts:
        ref = accounts.ref("a")
        assert_type(ref, AggregateRef[Account])
        assert_type(ref.using(timeout=5), AggregateRef[Account])
        assert_type(ref.using(timeout=None), AggregateRef[Account])
        assert_type(ref.proxy(), AggregateProxy[Account])
        assert_type(ref.proxy().actor_ref, AggregateRef[Account])
        assert_type(ref.key, Any)
        assert_type(ref.tell("x"), None)
        assert_type(ref.ask("x", block=False), pykka.Future[Any])
        assert_type(ref.ask("x", block=True), Any)
        assert_type(ref.stop(block=False), pykka.Future[bool])
        assert_type(ref.stop(), bool)
        assert_type(ref.stop(timeout=5), bool)
    with AggregateRegistry.start() as registry:
        assert_type(registry.ref("a"), AggregateRef[Any])


def test_a_call_has_the_arguments_and_the_result_of_its_method() -> None:
    with AggregateRegistry.start(Account) as accounts:
        ref = accounts.ref("a")
        assert_type(ref.call(Account.deposit, 5), int)
        assert_type(ref.call(Account.deposit, amount=5, note="x"), int)
        assert_type(ref.submit(Account.deposit, 5), pykka.Future[int])
        assert_type(ref.submit(Account.deposit, 5).get(), int)
        assert_type(ref.using(timeout=5).call(Account.deposit, 5), int)
        assert_type(ref.using(timeout=5).submit(Account.deposit, 5), pykka.Future[int])
        assert_type(ref.call(Account.history, 1, 2, kind="x"), list[tuple[int, str]])
        assert_type(ref.call(Account.timed, method="m", timeout=2.5), tuple[str, float])
        ref.call(Account.close)
        assert_type(ref.submit(Account.close), pykka.Future[None])


def test_a_subclass_is_called_by_its_own_and_its_bases_methods() -> None:
    with AggregateRegistry.start(Savings) as savings:
        ref = savings.ref("a")
        assert_type(ref.call(Savings.deposit, 5, rate=0.1), int)
        assert_type(ref.call(Account.deposit, 5), int)
        assert_type(ref.call(Savings.interest, 0.1), float)
    with AggregateRegistry.start(Letter) as letters:
        assert_type(letters.ref("a").call(Parcel.weigh, "g"), float)
        assert_type(letters.ref("a").submit(Parcel.weigh, scale="kg"), pykka.Future[float])


def test_a_ref_may_be_handed_to_what_works_with_any_class() -> None:
    def put(ref: AggregateRef[Account], amount: int) -> int:
        return ref.call(Account.deposit, amount)

    def stop(ref: AggregateRef[Any]) -> bool:
        return ref.stop(block=True)

    with AggregateRegistry.start(Account) as accounts:
        assert put(accounts.ref("a"), 5) == 5
        assert stop(accounts.ref("a")) is True


def what_a_checker_refuses(account: AggregateRef[Account], live: pykka.ActorRef[Account]) -> None:
    """Is never called: most of it would do no harm, or fail only when it is too late."""
    # Wrong arguments.
    account.call(Account.deposit)  # type: ignore[call-arg]
    account.call(Account.deposit, "5")  # type: ignore[arg-type]
    account.call(Account.deposit, 5, "x")  # type: ignore[call-arg]
    account.call(Account.deposit, 5, note=5)  # type: ignore[arg-type]
    account.call(Account.deposit, 5, rate=0.5)  # type: ignore[call-arg]
    account.call(Account.deposit, 5, timeout=5)  # type: ignore[call-arg]
    account.call(Account.close, 1)  # type: ignore[call-arg]
    account.call(Account.history, "monday")  # type: ignore[arg-type]
    account.submit(Account.deposit)  # type: ignore[call-arg]
    account.submit(Account.deposit, "5")  # type: ignore[arg-type]
    account.submit(Account.deposit, 5, timeout=5)  # type: ignore[call-arg]
    account.using(timeout=5).call(Account.deposit, "5")  # type: ignore[arg-type]
    # Wrong results.
    text: str = account.call(Account.deposit, 5)  # type: ignore[assignment]
    future: pykka.Future[str] = account.submit(Account.deposit, 5)  # type: ignore[arg-type]
    number: int = account.submit(Account.deposit, 5)  # type: ignore[assignment]
    # What is no method, or none of this class.
    account.call("deposit", 5)  # type: ignore[arg-type]
    account.call(Account.cents)  # type: ignore[arg-type]
    account.call(Savings.interest, 0.1)  # type: ignore[arg-type]
    account.call(Letter.weigh, "g")  # type: ignore[arg-type]
    account.call(live.proxy)  # type: ignore[arg-type]
    account.call(len)  # type: ignore[arg-type]
    account.submit(Savings.interest, 0.1)  # type: ignore[arg-type]
    account.call(method=Account.close)  # type: ignore[call-arg]
    account.call()  # type: ignore[call-arg]
    account.call(Account.withdraw, 5)  # type: ignore[attr-defined]
    # Options.
    account.using(5)  # type: ignore[call-arg]
    account.using()  # type: ignore[call-arg]
    account.using(timeout="5")  # type: ignore[arg-type]
    account.using(patience=5)  # type: ignore[call-arg]
    account.tell("x", timeout=5)  # type: ignore[call-arg]
    account.stop(True)  # type: ignore[call-overload]
    # What is no plain ref, and has no live actor's parts.
    plain: pykka.ActorRef[Account] = account  # type: ignore[assignment]
    urn = account.actor_urn  # type: ignore[attr-defined]
    account.key = "b"  # type: ignore[misc]
    savings: AggregateRef[Savings] = account  # type: ignore[assignment]
    del text, future, number, plain, savings, urn


def what_a_checker_refuses_of_a_registry(accounts: RegistryRef[Account]) -> None:
    """Is never called."""
    accounts.ref()  # type: ignore[call-arg]
    accounts.ref(["a", "b"])  # type: ignore[arg-type]
    accounts.ref("a", timeout=5)  # type: ignore[call-arg]
    savings: AggregateRef[Savings] = accounts.ref("a")  # type: ignore[assignment]
    AggregateRegistry.start(Account, idle="60")  # type: ignore[call-overload]
    AggregateRegistry.start(Account, idel=60)  # type: ignore[call-overload]
    AggregateRegistry.start(Account, restart="always")  # type: ignore[call-overload]
    del savings
