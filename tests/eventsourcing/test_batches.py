"""Commands that wait for one aggregate are decided one after the other, and stored together."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pykka
import pytest
from eventsourcing.persistence import (
    DataError,
    OperationalError,
    TranscodingNotRegisteredError,
)

from pykka_registry import AggregateMixin, AggregateRegistry, Undeliverable, WaitCycle
from pykka_registry.eventsourcing import LiveAggregates, OutcomeUnknown, live_aggregates
from pykka_registry.eventsourcing._command import Decision
from pykka_registry.eventsourcing._turn import LiveActor, Pending, Reply
from tests.eventsourcing.accounts import (
    ADA,
    Account,
    Bank,
    Insertions,
    Overdrawn,
    Refusal,
    SnapshottingBank,
    balance,
    count_reads,
    failing,
    open_bank,
    stored,
)
from tests.eventsourcing.support import Caller
from tests.support import Gate, poll

if TYPE_CHECKING:
    from collections.abc import Generator

    from pykka_registry.eventsourcing import LiveRef
    from tests.eventsourcing.support import Store

ONE = Decimal(1)


@pytest.fixture
def bank(popo: Store) -> Generator[Bank]:
    with open_bank(popo) as bank:
        yield bank


@pytest.fixture
def accounts(bank: Bank) -> Generator[LiveAggregates[Account]]:
    with live_aggregates(bank, Account, refusals=[Refusal], backoff=(0, 0)) as accounts:
        yield accounts


class Held:
    """An account that is busy, so that commands gather."""

    def __init__(self, bank: Bank, accounts: LiveAggregates[Account]) -> None:
        self.account: LiveRef[Account] = accounts.get_or_create(Account, "Ada")
        self._gate = Gate()
        self._busy = self.account.submit(Account.call, self._gate.pass_through)
        self._gate.wait_until_reached()
        self.insertions = Insertions(bank.recorder)

    def deposit(self, times: int = 1, command_id: str | None = None) -> list[pykka.Future[Decimal]]:
        ref = self.account.using(command_id=command_id)
        return [ref.submit(Account.deposit, ONE) for _ in range(times)]

    def go_on(self) -> None:
        self._gate.open()
        self._busy.get(timeout=60)  # with a timeout: this thread runs no actor


def results(futures: list[pykka.Future[Any]]) -> list[object]:
    found: list[object] = []
    for future in futures:
        try:
            found.append(future.get(timeout=60))
        except Exception as error:  # noqa: BLE001  # the test looks at it
            found.append(type(error))
    return found


def test_they_are_stored_in_one_save_and_each_has_its_own_answer(store: Store) -> None:
    with open_bank(store) as bank, live_aggregates(bank, Account) as accounts:
        held = Held(bank, accounts)
        futures = held.deposit(5) + held.deposit(1, "a")
        held.go_on()
        assert results(futures) == [1, 2, 3, 4, 5, 6]
        assert held.insertions.sizes == [7]
        assert stored(bank).balance == held.account.query(balance) == 6
        assert accounts.receipt("a") is not None


def test_one_that_is_refused_harms_no_other(bank: Bank, accounts: LiveAggregates[Account]) -> None:
    held = Held(bank, accounts)
    futures: list[pykka.Future[Any]] = [
        *held.deposit(2),
        held.account.using(command_id="a").submit(Account.withdraw, Decimal(9)),
        held.account.submit(Account.move, [ONE, Decimal(0)]),
        *held.deposit(2),
    ]
    held.go_on()
    assert results(futures) == [1, 2, Overdrawn, ValueError, 3, 4]
    assert stored(bank).balance == 4
    receipt = accounts.receipt("a")
    assert receipt is not None
    assert receipt.arguments[1] == 2


def test_one_that_fails_only_once_leaves_nothing_of_that(
    bank: Bank, accounts: LiveAggregates[Account]
) -> None:
    class Moody(list[Decimal]):
        def __len__(self) -> int:
            self.append(ONE)
            if super().__len__() == 3:
                raise MemoryError
            return super().__len__()

    held = Held(bank, accounts)
    futures: list[pykka.Future[Any]] = [
        *held.deposit(1),
        held.account.submit(Account.move, Moody([ONE, ONE])),
        *held.deposit(1),
    ]
    held.go_on()
    assert results(futures) == [1, 4, 5]
    assert stored(bank).balance == 5


def test_what_insists_or_only_looks_comes_after_what_was_decided(
    bank: Bank, accounts: LiveAggregates[Account]
) -> None:
    held = Held(bank, accounts)
    futures: list[pykka.Future[Any]] = [
        *held.deposit(2),
        held.account.using(expected_version=3).submit(Account.deposit, ONE),
        held.account.using(expected_version=3).submit(Account.deposit, ONE),
        *held.deposit(2),
    ]
    held.go_on()
    assert [r for r in results(futures) if isinstance(r, Decimal)] == [1, 2, 3, 4, 5]
    again = Held(bank, accounts)
    futures = [*again.deposit(2)]
    accounts.registry[ADA].tell("something else")
    futures += again.deposit(1)
    again.go_on()
    assert results(futures) == [6, 7, 8]
    assert again.account.validate(Account.deposit, ONE).result == 9
    assert again.insertions.sizes[0] == 2


def test_the_same_command_twice_in_one_is_done_once(
    bank: Bank, accounts: LiveAggregates[Account]
) -> None:
    held = Held(bank, accounts)
    futures = held.deposit(3, "a")
    held.go_on()
    assert results(futures) == [1, 1, 1]
    assert stored(bank).balance == 1


def test_a_conflict_makes_them_go_again_one_by_one(
    bank: Bank, accounts: LiveAggregates[Account]
) -> None:
    held = Held(bank, accounts)
    futures = held.deposit(3)

    def rival(_events: object) -> None:
        account: Account = stored(bank)
        account.deposit(Decimal(10))
        bank.save(account)

    held.insertions.before.append(rival)
    held.go_on()
    assert results(futures) == [11, 12, 13]
    assert stored(bank).balance == 13


def test_a_batch_that_decides_nothing_rests_on_what_is_stored(
    bank: Bank, accounts: LiveAggregates[Account]
) -> None:
    held = Held(bank, accounts)

    def rival() -> None:
        account: Account = stored(bank)
        account.deposit(ONE)
        bank.save(account)

    rivals = [rival]
    futures: list[pykka.Future[Any]] = [
        held.account.submit(Account.call, lambda: rivals and rivals.pop()()),
        held.account.submit(Account.has, ONE),
        held.account.using(command_id="a").submit(Account.has, ONE),
    ]
    held.go_on()
    assert results(futures)[1:] == [True, True]
    receipt = accounts.receipt("a")
    assert receipt is not None
    assert (receipt.result, receipt.aggregate_version) == (True, 2)


def test_a_store_that_fails_is_not_asked_again_for_each(
    bank: Bank, accounts: LiveAggregates[Account]
) -> None:
    held = Held(bank, accounts)
    futures = held.deposit(3)
    held.insertions.before.append(failing(OperationalError("down")))
    held.go_on()
    errors: list[BaseException] = []
    for future in futures:
        with pytest.raises(OperationalError, match="down") as raised:
            future.get(timeout=60)
        errors.append(raised.value)
    assert len(set(map(id, errors))) == 3  # two threads must not raise the same
    assert len(held.insertions.sizes) == 1
    lost = Held(bank, accounts)
    futures = lost.deposit(3)
    lost.insertions.after.append(failing(OperationalError("lost")))
    lost.go_on()
    assert results(futures) == [1, 2, 3]
    assert stored(bank).balance == 3


def test_one_whose_event_cannot_be_encoded_fails_alone(
    bank: Bank, accounts: LiveAggregates[Account]
) -> None:
    held = Held(bank, accounts)
    futures: list[pykka.Future[Any]] = [
        *held.deposit(1),
        held.account.submit(Account.note, object()),
        *held.deposit(1),
    ]
    held.go_on()
    assert results(futures) == [1, TranscodingNotRegisteredError, 2]
    assert stored(bank).balance == 2


def test_one_that_the_store_refuses_fails_alone(
    bank: Bank, accounts: LiveAggregates[Account]
) -> None:
    held = Held(bank, accounts)
    futures = held.deposit(3)
    held.insertions.before += [failing(DataError("too long"))] * 2
    held.go_on()
    assert results(futures) == [DataError, 1, 2]
    assert stored(bank).balance == 2


def test_one_that_creates_is_created_though_the_batch_has_failed(
    bank: Bank, accounts: LiveAggregates[Account]
) -> None:
    gate = Gate()

    def slow() -> Account:
        gate.pass_through()
        return Account("Ada")

    # A dry run keeps it busy, and leaves nothing.
    busy = Caller(accounts.ref(ADA).or_create(slow).validate, Account.deposit, ONE)
    gate.wait_until_reached()
    insertions = Insertions(bank.recorder)
    insertions.before.append(failing(OSError("a hiccup")))
    callers: list[Caller[LiveRef[Account]]] = []
    for _ in range(2):
        callers.append(Caller(accounts.get_or_create, Account, "Ada"))
        poll(lambda: len(waiting(accounts)) >= len(callers))
    gate.open()
    assert busy.result.result == 1
    assert {caller.result.id for caller in callers} == {ADA}
    assert stored(bank).version == 1
    assert accounts.ref(ADA).call(Account.deposit, ONE) == 1
    assert stored(bank).version == 2


def test_what_was_done_before_is_answered_without_deciding_it_again(
    bank: Bank, accounts: LiveAggregates[Account]
) -> None:
    ref = accounts.get_or_create(Account, "Ada")
    for number in range(5):
        ref.using(command_id=f"{number}").call(Account.deposit, ONE)
    held = Held(bank, accounts)
    reads = count_reads(bank.recorder)
    futures = [
        ref.using(command_id=f"{number}").dispatch(Account.deposit, ONE) for number in range(6)
    ]
    held.go_on()
    decisions = [future.get(timeout=60) for future in futures]
    assert [decision.is_repeated for decision in decisions] == [True] * 5 + [False]
    assert [decision.result for decision in decisions] == [1, 2, 3, 4, 5, 6]
    assert reads.count(None) == 6 + 1  # their receipts, and the aggregate for the one that is new
    assert stored(bank).balance == 6


def test_an_outcome_that_cannot_be_learned_is_unknown_to_all(
    bank: Bank, accounts: LiveAggregates[Account]
) -> None:
    held = Held(bank, accounts)
    futures = held.deposit(2) + held.deposit(1, "a")
    select = bank.recorder.select_events

    def break_down(_events: object) -> None:
        vars(bank.recorder)["select_events"] = failing(OperationalError("down"))
        raise OperationalError("going down")

    held.insertions.after.append(break_down)
    held.go_on()
    errors: list[BaseException] = []
    for future in futures:
        with pytest.raises(OutcomeUnknown) as raised:
            future.get()
        errors.append(raised.value)
    assert len(set(map(id, errors))) == 3
    assert {str(error.__cause__) for error in errors} == {"going down"}
    vars(bank.recorder)["select_events"] = select
    assert held.account.using(command_id="a").call(Account.deposit, ONE) == 3


def test_an_interrupt_while_they_are_stored_leaves_nobody_waiting(
    bank: Bank, accounts: LiveAggregates[Account]
) -> None:
    held = Held(bank, accounts)
    futures = held.deposit(3)
    held.insertions.before.append(failing(KeyboardInterrupt()))
    held.go_on()
    assert set(results(futures)) <= {OutcomeUnknown, Undeliverable}
    assert stored(bank).balance == 0
    poll(lambda: not accounts.registry.is_alive())  # as Pykka does, it stops everybody


def test_an_interrupt_in_a_method_leaves_nobody_waiting(
    bank: Bank, accounts: LiveAggregates[Account]
) -> None:
    held = Held(bank, accounts)
    futures = [
        *held.deposit(2),
        held.account.submit(Account.call, failing(SystemExit())),
        *held.deposit(1),
    ]
    held.go_on()
    assert results(futures)[:2] == [1, 2]
    assert stored(bank).balance >= 2
    poll(lambda: not accounts.registry.is_alive())  # as Pykka does, it stops everybody


def test_those_that_are_decided_are_stored_when_it_stops(
    bank: Bank, accounts: LiveAggregates[Account]
) -> None:
    held = Held(bank, accounts)
    futures = held.deposit(2)
    stopped = held.account.stop(block=False)
    held.go_on()
    assert results(futures) == [1, 2]
    assert stopped.get()
    assert held.insertions.sizes == [2]


def test_what_an_actor_reminds_itself_of_is_no_dead_letter(popo: Store) -> None:
    with (
        open_bank(popo, SnapshottingBank) as bank,
        live_aggregates(bank, Account) as accounts,
    ):
        held = Held(bank, accounts)
        futures = held.deposit(4)  # the last of them asks for a snapshot
        stopped = held.account.stop(block=False)
        held.go_on()
        assert results(futures) == [1, 2, 3, 4]
        assert stopped.get()
        assert accounts.drain() == []
        assert sum(accounts.registry.stats().dead_letters.values()) == 0


def test_a_long_queue_is_stored_in_several(bank: Bank, accounts: LiveAggregates[Account]) -> None:
    held = Held(bank, accounts)
    futures = held.deposit(250)
    held.go_on()
    assert results(futures) == list(range(1, 251))
    assert held.insertions.sizes[:2] == [100, 100]


def test_callers_who_wait_have_their_answers(bank: Bank, accounts: LiveAggregates[Account]) -> None:
    held = Held(bank, accounts)
    inbox = len(held.deposit(1))
    callers: list[Caller[Any]] = []
    for ref in (held.account, held.account.using(timeout=60)):
        for method in (ref.call, ref.execute):
            callers.append(Caller(method, Account.deposit, ONE))
            inbox += 1
            poll(lambda: len(waiting(accounts)) >= inbox)  # noqa: B023  # it is polled here
    held.deposit(1)
    held.go_on()
    assert callers[0].result == 2
    assert callers[1].result.version == 4
    assert callers[2].result == 4
    assert callers[3].result.version == 6
    assert held.insertions.sizes == [6]


def waiting(accounts: LiveAggregates[Account]) -> list[object]:
    """What waits for the account."""
    inbox: Any = accounts.registry[ADA].actor_inbox
    return [*inbox._batch, *(inbox._envelopes or ())]


def test_one_that_fails_has_stored_what_it_has_decided(
    bank: Bank, accounts: LiveAggregates[Account]
) -> None:
    held = Held(bank, accounts)
    futures = held.deposit(2)
    actor = accounts.registry.ref(ADA)
    actor.submit(LiveActor.on_failure)  # as Pykka does
    futures += held.deposit(1)
    held.go_on()
    assert results(futures) == [1, 2, 3]
    assert held.insertions.sizes == [2, 1]


def test_those_that_give_up_leave_nobody_waiting(
    bank: Bank, accounts: LiveAggregates[Account]
) -> None:
    held = Held(bank, accounts)
    futures = held.deposit(1)
    with pytest.raises(pykka.Timeout):
        held.account.using(timeout=0.01).call(Account.deposit, ONE)
    held.go_on()
    assert results(futures) == [1]
    assert held.account.query(balance) == 1


class Customer(AggregateMixin, pykka.ThreadingActor):
    """Another aggregate, which waits for an account."""

    def pay(self, account: LiveRef[Account]) -> Decimal:
        return account.call(Account.deposit, ONE)

    def sign(self) -> None:
        pass


def test_a_wait_for_one_who_waits_for_the_batch_is_refused(
    bank: Bank, accounts: LiveAggregates[Account]
) -> None:
    held = Held(bank, accounts)
    with AggregateRegistry.start(Customer) as customers:
        customer = customers.ref("Ada")
        paid = customer.submit(Customer.pay, held.account)
        poll(lambda: len(waiting(accounts)) == 1)
        asked = held.account.submit(Account.call, customer.call, Customer.sign)
        held.go_on()
        found = results([paid, asked])
        assert WaitCycle in found  # of the one that came second
        assert customer.call(Customer.sign) is None
    assert stored(bank).balance == 1


@pytest.mark.parametrize("is_whole", [True, False])
def test_a_reply_that_comes_after_the_batch_is_stored_gets_what_has_become_of_it(
    *, is_whole: bool
) -> None:
    decision = Decision("result", 1)
    stored, failed = Pending(), Pending()
    stored.give(decision)
    failed.fail(ValueError("no"))
    replies = [Reply(is_whole=is_whole) for _ in range(2)]
    for reply, pending in zip(replies, [stored, failed], strict=True):
        reply.give(pending)
    assert replies[0].get(timeout=0) == (decision if is_whole else "result")
    with pytest.raises(ValueError, match="no"):
        replies[1].get(timeout=0)
