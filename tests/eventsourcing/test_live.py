"""The aggregates of an application live in actors, and are used like objects."""

from __future__ import annotations

import copy
import threading
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from functools import partial
from typing import TYPE_CHECKING, Any, assert_type
from uuid import UUID, uuid4

import pykka
import pytest
from eventsourcing.application import AggregateNotFoundError, Application
from eventsourcing.domain import Aggregate, BaseAggregate
from eventsourcing.persistence import IntegrityError, OperationalError

from pykka_registry import RegistryStopped
from pykka_registry.eventsourcing import (
    AggregateExists,
    CommandIdReused,
    ConcurrencyError,
    Decision,
    LiveAggregates,
    LiveRef,
    live_aggregates,
)
from tests.eventsourcing.accounts import (
    ADA,
    Account,
    Bank,
    Diary,
    Insertions,
    Library,
    Overdrawn,
    Refusal,
    balance,
    count_reads,
    failing,
    open_bank,
    stored,
)
from tests.support import Gate, poll

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from eventsourcing.utils import EnvType

    from tests.eventsourcing.support import Store


@pytest.fixture
def bank(popo: Store) -> Generator[Bank]:
    with open_bank(popo) as bank:
        yield bank


@pytest.fixture
def accounts(bank: Bank) -> Generator[LiveAggregates[Account]]:
    with live_aggregates(bank, Account, refusals=[Refusal]) as accounts:
        yield accounts


def elsewhere(app: Application[Any], amount: Decimal, id_: UUID = ADA) -> None:
    """Deposit as another process would."""
    account: Account = stored(app, id_)
    account.deposit(amount)
    app.save(account)


# Using them.


def test_a_command_is_stored_when_it_returns(store: Store) -> None:
    with open_bank(store) as bank, live_aggregates(bank, Account) as accounts:
        account = accounts.create(Account, "Ada")
        assert account.id == ADA
        assert account.call(Account.deposit, Decimal("10.00")) == Decimal("10.00")
        assert stored(bank).balance == Decimal("10.00")
        assert account.submit(Account.withdraw, Decimal("3.00")).get() == Decimal("7.00")
        assert stored(bank).balance == Decimal("7.00")
        account.call(Account.close)
        assert stored(bank).is_closed


def test_ids_may_be_texts(store: Store) -> None:
    library = Library(env=store.env(ORIGINATOR_ID_TYPE="text"))
    try:
        with live_aggregates(library, Diary) as diaries:
            diary = diaries.using(command_id="first").create(Diary, "Ada")
            assert diaries.using(command_id="first").create(Diary, "Ada") == diary
            diary.using(command_id="second").call(Diary.write, "Hello!")
            diary.using(command_id="second").call(Diary.write, "Hello!")
            assert diary.query(lambda diary: diary.lines) == ["Hello!"]
            assert stored(library, "diary of Ada").lines == ["Hello!"]
            with pytest.raises(TypeError, match="of type str"):
                diaries.ref(ADA)
    finally:
        library.close()


def test_an_aggregate_is_loaded_once(bank: Bank, accounts: LiveAggregates[Account]) -> None:
    account = accounts.create(Account, "Ada")
    account.stop()
    reads = count_reads(bank.recorder)
    for _ in range(5):
        account.call(Account.deposit, Decimal(1))
    assert len(reads) == 1
    assert stored(bank).balance == 5


def test_many_callers_of_one_account_have_no_conflicts(
    bank: Bank, accounts: LiveAggregates[Account]
) -> None:
    insertions = Insertions(bank.recorder)
    account = accounts.create(Account, "Ada")
    with ThreadPoolExecutor(8) as threads:
        deposit: Callable[[Decimal], Decimal] = partial(account.call, Account.deposit)  # type: ignore[call-arg]
        list(threads.map(deposit, [Decimal(1)] * 200))
    assert stored(bank).balance == 200
    assert sum(insertions.sizes) == 201


def test_execute_tells_the_version_and_the_events(accounts: LiveAggregates[Account]) -> None:
    account = accounts.create(Account, "Ada")
    decision: Decision[Decimal] = account.execute(Account.deposit, Decimal(5))
    assert decision == Decision(Decimal(5), 2, decision.events)
    [deposited] = decision.events
    assert isinstance(deposited, Account.Deposited)
    assert deposited.amount == 5


def test_dispatch_returns_a_future_of_the_decision(
    bank: Bank, accounts: LiveAggregates[Account]
) -> None:
    account = accounts.create(Account, "Ada").using(command_id="a")
    for is_repeated in (False, True):
        decision = account.dispatch(Account.deposit, Decimal(5)).get(timeout=60)
        assert (decision.result, decision.version) == (Decimal(5), 2)
        assert decision.is_repeated == is_repeated
    with pytest.raises(CommandIdReused):
        account.dispatch(Account.deposit, Decimal(6)).get(timeout=60)
    assert stored(bank).balance == 5


def test_a_method_that_triggers_nothing_stores_nothing(
    bank: Bank, accounts: LiveAggregates[Account]
) -> None:
    account = accounts.create(Account, "Ada")
    insertions = Insertions(bank.recorder)
    assert account.execute(Account.pair) == Decision(("Ada", Decimal(0)), 1)
    assert account.query(lambda account: account.owner) == "Ada"
    assert insertions.sizes == []


def test_a_query_that_triggers_an_event_is_refused_and_leaves_nothing(
    bank: Bank, accounts: LiveAggregates[Account]
) -> None:
    account = accounts.create(Account, "Ada")
    with pytest.raises(TypeError, match="must not trigger events"):
        account.query(lambda account: account.deposit(Decimal(1)))
    with pytest.raises(TypeError, match="without a command_id"):
        account.using(command_id="a").query(balance)
    assert account.query(balance) == stored(bank).balance == 0


def test_a_subclass_overrides_by_name(bank: Bank) -> None:
    class Savings(Account):
        def pair(self) -> tuple[str, Decimal]:
            return f"{self.owner}'s savings", self.balance

    with live_aggregates(bank, Account) as accounts:
        savings = accounts.create(Savings, "Ada")
        assert savings.call(Account.pair) == ("Ada's savings", Decimal(0))


def test_what_is_no_method_is_refused_with_the_fix(accounts: LiveAggregates[Account]) -> None:
    account = accounts.create(Account, "Ada")
    wrong: Any
    everything: list[Any] = [balance, len, 5, "deposit", Account("Eve").owner, Diary.write]
    for wrong in everything:
        with pytest.raises(TypeError, match="no method of Account"):
            account.call(wrong)
    wrong = Account("Eve").deposit
    with pytest.raises(TypeError, match=r"bound to one object: pass Account\.deposit"):
        account.call(wrong, Decimal(1))
    wrong = Account("Eve").close  # a method that the library has made
    with pytest.raises(TypeError, match=r"bound to one object: pass Account\.close"):
        account.call(wrong)
    with pytest.raises(TypeError, match="timeout must be a number"):
        account.using(timeout="5")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    with pytest.raises(TypeError, match="patience"):
        account.using(patience=5)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


def test_refs_are_values(bank: Bank, accounts: LiveAggregates[Account]) -> None:
    ada = accounts.ref(ADA)
    assert ada == accounts.ref(ADA).using(timeout=5, command_id="a")
    assert hash(ada) == hash(accounts.ref(ADA))
    assert ada != accounts.ref(uuid4())
    assert ada != ADA
    assert repr(ada) == f"<LiveRef of Account {ADA!r}>"
    assert repr(accounts).startswith("<LiveAggregates of Account in 'Account'")
    with live_aggregates(bank, Account) as others:
        assert ada != others.ref(ADA)
    wrong: Any = str(ADA)
    with pytest.raises(TypeError, match="of type UUID"):
        accounts.ref(wrong)


def test_options_add_up_and_a_timeout_ends_the_wait(accounts: LiveAggregates[Account]) -> None:
    account = accounts.create(Account, "Ada")
    gate = Gate()
    held = account.submit(Account.call, gate.pass_through)
    gate.wait_until_reached()
    patient = account.using(timeout=0.01).using(command_id="a")
    with pytest.raises(pykka.Timeout):
        patient.call(Account.deposit, Decimal(1))
    gate.open()
    held.get()
    assert account.query(balance) == 0  # the command has expired
    assert patient.using(timeout=None).call(Account.deposit, Decimal(1)) == 1


def test_what_nobody_blocks_on_does_not_expire(accounts: LiveAggregates[Account]) -> None:
    account = accounts.create(Account, "Ada")
    gate = Gate()
    held = account.submit(Account.call, gate.pass_through)
    gate.wait_until_reached()
    hasty = account.using(timeout=0.01)
    submitted = hasty.submit(Account.deposit, Decimal(1))
    dispatched = hasty.dispatch(Account.deposit, Decimal(2))
    for future in (submitted, dispatched):
        with pytest.raises(pykka.Timeout):
            future.get()
    for timeout in (0, -1):
        with pytest.raises(pykka.Timeout):
            account.using(timeout=timeout).call(Account.deposit, Decimal(4))
    gate.open()
    held.get()
    assert account.query(balance) == 3


def test_the_registry_has_its_policies_and_ends_with_the_block(bank: Bank) -> None:
    with live_aggregates(bank, Account, name="accounts", max_live=2) as accounts:
        for number in range(10):
            accounts.create(Account, str(number))
        assert accounts.registry.stats().live <= 2
        account = accounts.ref(Account.create_id("3"))
        assert account.query(lambda account: account.owner) == "3"
        assert account.id in accounts.registry
        assert account.stop()
        assert account.id not in accounts.registry
        assert account.stop(block=False).get() is False
    with pytest.raises(RegistryStopped):
        account.query(balance)
    assert "accounts" in repr(accounts)
    again = live_aggregates(bank, Account)
    assert again.drain(timeout=30) == []
    assert live_aggregates(bank, Account).stop()


def test_messages_that_are_no_commands_are_ignored(accounts: LiveAggregates[Account]) -> None:
    account = accounts.create(Account, "Ada")
    accounts.registry[ADA].tell("hello")
    assert account.query(balance) == 0


def test_a_checker_knows_what_goes_in_and_out(accounts: LiveAggregates[Account]) -> None:
    account = accounts.create(Account, "Ada")
    assert_type(account, LiveRef[Account])
    assert_type(accounts.ref(ADA).or_create(Account, "Ada"), LiveRef[Account])
    assert_type(account.call(Account.deposit, Decimal(1)), Decimal)
    assert_type(account.using(timeout=5).call(Account.pair), tuple[str, Decimal])
    assert_type(account.submit(Account.deposit, Decimal(1)), pykka.Future[Decimal])
    assert_type(account.execute(Account.deposit, Decimal(1)).result, Decimal)
    assert_type(account.dispatch(Account.pair), pykka.Future[Decision[tuple[str, Decimal]]])
    assert_type(account.validate(Account.deposit, Decimal(1)), Decision[Decimal])
    assert_type(account.query(lambda account: account.owner), str)
    with pytest.raises(TypeError, match="patience"):
        account.using(patience=5)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    for wrong in (account.call, account.execute, account.validate):
        with pytest.raises(TypeError):
            wrong(Account.deposit)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    assert account.query(balance) == 3


# Three ways to call.


def test_an_absent_aggregate_is_not_found_and_leaves_no_actor(
    accounts: LiveAggregates[Account],
) -> None:
    account = accounts.ref(ADA)
    for _ in range(2):
        with pytest.raises(AggregateNotFoundError):
            account.call(Account.deposit, Decimal(1))
        poll(lambda: accounts.registry.stats().live == 0)
    with pytest.raises(AggregateNotFoundError):
        account.query(balance)
    assert accounts.create(Account, "Ada").call(Account.deposit, Decimal(1)) == 1
    assert ADA in accounts.registry


def test_an_actor_that_finds_none_stays_if_one_is_created_before_it_goes(
    accounts: LiveAggregates[Account],
) -> None:
    account = accounts.ref(ADA)
    gate = Gate()

    def new() -> Account:
        gate.pass_through()
        raise AggregateNotFoundError

    lost = account.or_create(new).submit(Account.deposit, Decimal(1))
    gate.wait_until_reached()
    found = account.or_create(Account, "Ada").submit(Account.deposit, Decimal(2))
    gate.open()
    with pytest.raises(AggregateNotFoundError):
        lost.get()
    assert found.get() == 2
    assert accounts.registry.stats().activations == 1
    assert ADA in accounts.registry


def test_no_actor_is_left_of_one_that_is_absent_whatever_was_tried(bank: Bank) -> None:
    refusals = [Refusal, AggregateNotFoundError]
    insertions = Insertions(bank.recorder)
    with (
        live_aggregates(bank, Account, refusals=refusals) as accounts,
        live_aggregates(bank, Dog) as dogs,
    ):
        taken = accounts.create(Account, "Eve").using(command_id="taken")
        taken.call(Account.deposit, Decimal(1))
        taken.stop()
        commands: list[tuple[type[Exception], Callable[[LiveRef[Account]], object]]] = [
            (CommandIdReused, lambda ref: ref.using(command_id="taken").call(Account.close)),
            (CommandIdReused, lambda ref: ref.using(command_id="taken").validate(Account.close)),
            (AggregateNotFoundError, lambda ref: ref.using(command_id="a").call(Account.close)),
            (AggregateNotFoundError, lambda ref: ref.using(command_id="a").call(Account.close)),
            (AggregateNotFoundError, lambda ref: ref.using(command_id="a").validate(Account.close)),
            (AggregateNotFoundError, lambda ref: ref.query(balance)),
            (ConcurrencyError, lambda ref: ref.using(expected_version=1).call(Account.close)),
            (OperationalError, lambda _: accounts.create(Account, "Ada")),
            (OperationalError, lambda ref: ref.call(Account.close)),
            (Overdrawn, lambda ref: ref.call(Account.withdraw, Decimal(1))),
            (Overdrawn, lambda ref: ref.validate(Account.withdraw, Decimal(1))),
        ]
        for number, (error, command) in enumerate(commands):
            ref = accounts.ref(ADA)
            if error in (ConcurrencyError, OperationalError, Overdrawn):
                ref = ref.or_create(Account, "Ada")
            insertions.before += [failing(OperationalError("down"))] * (error is OperationalError)
            with pytest.raises(error):
                command(ref)
            assert insertions.before == []
            poll(lambda: accounts.registry.stats().live == 0)
            assert ADA not in accounts.registry, number
        fido = dogs.using(command_id="b").create(Dog, "Fido")
        # The second Fido is another, who will not be.
        assert dogs.using(command_id="b").create(Dog, "Fido") == fido
        poll(lambda: dogs.registry.stats().live == 1)
        assert fido.id in dogs.registry


class Dog(Aggregate):
    def __init__(self, name: str) -> None:
        self.name = name


def test_one_that_exists_stays_where_it_is_whatever_was_refused(
    bank: Bank, accounts: LiveAggregates[Account]
) -> None:
    account = accounts.create(Account, "Ada")
    account.using(command_id="a").call(Account.deposit, Decimal(1))
    reads = count_reads(bank.recorder)
    with pytest.raises(AggregateExists):
        accounts.create(Account, "Ada")
    assert account.query(balance) == 1
    assert reads == []
    with pytest.raises(ConcurrencyError):
        account.using(expected_version=9).call(Account.close)
    assert account.query(balance) == 1
    assert len(reads) == 1  # the caller may have known more
    assert accounts.registry.stats().activations == 1
    account.stop()
    # What is known to exist need not be in memory to stay.
    assert account.using(command_id="a").call(Account.deposit, Decimal(1)) == 1
    with pytest.raises(ConcurrencyError):
        account.using(expected_version=9).call(Account.close)
    assert account.using(command_id="a").call(Account.deposit, Decimal(1)) == 1
    assert accounts.registry.stats().activations == 2
    assert ADA in accounts.registry


def test_one_that_exists_cannot_be_created(bank: Bank, accounts: LiveAggregates[Account]) -> None:
    account = accounts.create(Account, "Ada")
    for _ in range(2):
        with pytest.raises(AggregateExists, match="get_or_create") as raised:
            accounts.create(Account, "Ada")
        assert raised.value.aggregate_id == ADA
        account.stop()  # the second time it is not in memory
    assert stored(bank).version == 1


def test_get_or_create_creates_once(bank: Bank, accounts: LiveAggregates[Account]) -> None:
    account = accounts.get_or_create(Account, "Ada")
    account.call(Account.deposit, Decimal(1))
    assert accounts.get_or_create(Account, "Ada") == account
    account.stop()
    assert accounts.get_or_create(Account, "Ada").query(balance) == 1
    assert stored(bank).version == 2


def test_or_create_stores_both_in_one_save(bank: Bank, accounts: LiveAggregates[Account]) -> None:
    insertions = Insertions(bank.recorder)
    account = accounts.ref(ADA).or_create(Account, "Ada")
    assert account.call(Account.deposit, Decimal(1)) == 1
    assert account.using(timeout=5).call(Account.deposit, Decimal(1)) == 2
    assert insertions.sizes == [2, 1]
    with pytest.raises(ValueError, match="was made for the id"):
        accounts.ref(uuid4()).or_create(Account, "Ada").call(Account.deposit, Decimal(1))


def test_or_create_that_is_refused_creates_nothing(accounts: LiveAggregates[Account]) -> None:
    with pytest.raises(Overdrawn):
        accounts.ref(ADA).or_create(Account, "Ada").call(Account.withdraw, Decimal(1))
    poll(lambda: accounts.registry.stats().live == 0)
    with pytest.raises(AggregateNotFoundError):
        accounts.ref(ADA).query(balance)


def test_a_race_to_create_has_one_winner(bank: Bank) -> None:
    with live_aggregates(bank, Account) as here, live_aggregates(bank, Account) as there:
        barrier = threading.Barrier(8)

        def open_account(number: int) -> bool:
            barrier.wait()
            try:
                (here, there)[number % 2].create(Account, "Ada")
            except AggregateExists:
                return False
            return True

        with ThreadPoolExecutor(8) as threads:
            assert sum(threads.map(open_account, range(8))) == 1
        refs = [live.get_or_create(Account, "Eve") for live in (here, there)]
        assert [ref.query(lambda account: account.version) for ref in refs] == [1, 1]


def test_a_factory_must_make_the_right_thing(accounts: LiveAggregates[Account]) -> None:
    wrong: Any = Diary
    with pytest.raises(TypeError, match="must make a Account, and has made Diary"):
        accounts.create(wrong, "Ada")


# A command is one turn.


def test_an_exception_leaves_nothing_of_what_the_method_had_done(
    bank: Bank, accounts: LiveAggregates[Account]
) -> None:
    account = accounts.create(Account, "Ada")
    amounts = [Decimal(5), Decimal(0)]
    with pytest.raises(ValueError, match="missing"):
        account.call(Account.move, amounts)
    assert account.query(balance) == 0
    assert account.call(Account.deposit, Decimal(1)) == stored(bank).balance == 1
    with pytest.raises(Overdrawn, match="only 1"):
        account.call(Account.move, [Decimal(1), Decimal(-1), Decimal(-9)])
    assert account.query(lambda account: account.history) == [1]


def test_a_handler_that_is_interrupted_leaves_nothing(accounts: LiveAggregates[Account]) -> None:
    account = accounts.create(Account, "Ada")
    with pytest.raises(KeyboardInterrupt):
        account.call(Account.call, failing(KeyboardInterrupt()))
    assert account.call(Account.deposit, Decimal(1)) == 1


def test_a_failed_load_serves_nobody(bank: Bank, accounts: LiveAggregates[Account]) -> None:
    account = accounts.create(Account, "Ada")
    account.stop()
    select = bank.recorder.select_events
    vars(bank.recorder)["select_events"] = failing(OperationalError("the store is down"))
    for _ in range(3):
        with pytest.raises(OperationalError, match="is down"):
            account.call(Account.deposit, Decimal(1))
    vars(bank.recorder)["select_events"] = select
    assert account.call(Account.deposit, Decimal(1)) == 1


def test_an_aggregate_of_another_class_is_refused(bank: Bank) -> None:
    dog = Dog("Fido")
    bank.save(dog)
    with (
        live_aggregates(bank, Account) as accounts,
        pytest.raises(TypeError, match="is a Dog, not a Account"),
    ):
        accounts.ref(dog.id).query(balance)


def test_what_is_made_must_be_new(bank: Bank, accounts: LiveAggregates[Account]) -> None:
    spent, gone_on = Account("Ada"), Account("Ada")
    spent.collect_events()
    gone_on.collect_events()
    gone_on.deposit(Decimal(1))
    for made in (spent, gone_on):
        factory = partial(copy.copy, made)
        account = accounts.ref(ADA).or_create(factory)
        for method in (account.call, account.validate):
            with pytest.raises(ValueError, match="without the event of version 1"):
                method(Account.deposit, Decimal(1))
        with pytest.raises(ValueError, match="without the event of version 1"):
            accounts.create(factory)
    assert bank.recorder.max_notification_id() is None
    poll(lambda: accounts.registry.stats().live == 0)


def test_what_a_factory_keeps_is_not_the_live_one(
    bank: Bank, accounts: LiveAggregates[Account]
) -> None:
    mine = Account("Ada")
    account = accounts.create(lambda: mine)
    account.call(Account.deposit, Decimal(1))
    assert mine.balance == 0
    assert stored(bank).balance == 1


class AuditedBank(Bank):
    name = "Bank"

    def __init__(self, env: EnvType | None = None) -> None:
        super().__init__(env)
        self.saved: list[tuple[UUID, int]] = []

    def save(self, *objs: Any, **kwargs: Any) -> list[Any]:
        self.saved += [(obj.id, obj.version) for obj in objs]
        return super().save(*objs, **kwargs)


def test_an_application_may_look_at_what_it_saves(popo: Store) -> None:
    with (
        open_bank(popo, AuditedBank) as bank,
        live_aggregates(bank, Account, refusals=[Refusal]) as accounts,
    ):
        account = accounts.create(Account, "Ada")
        account.call(Account.move, [Decimal(1), Decimal(1)])
        account.using(command_id="a").call(Account.deposit, Decimal(1))
        with pytest.raises(Overdrawn):
            account.using(command_id="b").call(Account.withdraw, Decimal(9))
        account.using(command_id="c").call(Account.has, Decimal(9))
        assert bank.saved == [(ADA, version) for version in (1, 3, 4, 4, 4)]


def test_an_application_may_have_its_save_replaced(
    popo: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_bank(popo) as bank:
        save, saved = bank.save, list[tuple[Any, int]]()

        def note(*objs: Any, **kwargs: Any) -> Any:
            saved.extend((each.id, each.version) for each in objs)
            return save(*objs, **kwargs)

        monkeypatch.setattr(bank, "save", note)
        with live_aggregates(bank, Account) as accounts:
            accounts.create(Account, "Ada").call(Account.deposit, Decimal(1))
        assert saved == [(ADA, 1), (ADA, 2)]


# Others write, too.


def test_what_another_process_has_stored_is_seen_before_it_is_decided(
    store: Store,
) -> None:
    with open_bank(store) as bank, live_aggregates(bank, Account) as accounts:
        account = accounts.create(Account, "Ada")
        elsewhere(bank, Decimal(5))
        assert account.call(Account.deposit, Decimal(1)) == 6
        elsewhere(bank, Decimal(5))
        elsewhere(bank, Decimal(5))
        assert account.execute(Account.withdraw, Decimal(16)).version == 6
        assert stored(bank).balance == 0


def test_a_refusal_rests_on_what_is_stored(bank: Bank, accounts: LiveAggregates[Account]) -> None:
    account = accounts.create(Account, "Ada")
    elsewhere(bank, Decimal(5))
    assert account.call(Account.withdraw, Decimal(5)) == 0
    with pytest.raises(Overdrawn):
        account.call(Account.withdraw, Decimal(5))


def test_a_decision_without_events_rests_on_what_is_stored(
    store: Store,
) -> None:
    with open_bank(store) as bank, live_aggregates(bank, Account) as accounts:
        account = accounts.create(Account, "Ada")
        for number in (1, 2):
            elsewhere(bank, Decimal(5))
            assert account.call(Account.has, Decimal(5 * number))
        elsewhere(bank, Decimal(5))
        command = account.using(command_id="a")
        assert command.call(Account.has, Decimal(15))
        assert command.call(Account.has, Decimal(15))
        receipt = accounts.receipt("a")
        assert receipt is not None
        assert (receipt.result, receipt.aggregate_version) == (True, 4)
        reads = count_reads(bank.recorder)
        assert account.call(Account.has, Decimal(15))
        assert account.query(balance) == 15
        assert len(reads) == 1  # a look at what comes after it, for the command


def test_a_decision_without_events_is_made_again_if_another_was_faster(bank: Bank) -> None:
    with live_aggregates(bank, Account) as accounts:
        account = accounts.create(Account, "Ada")
        times: list[bool] = []

        class Rival(Decimal):
            def __le__(self, other: Any) -> bool:
                elsewhere(bank, Decimal(5))
                times.append(super().__le__(other))
                return times[-1]

        # What has just been loaded is not looked at again, whoever comes then.
        assert account.call(Account.has, Rival(1))
        assert times == [False, True]


def test_a_query_that_expects_a_version_has_it(
    bank: Bank, accounts: LiveAggregates[Account]
) -> None:
    account = accounts.create(Account, "Ada")
    assert account.using(expected_version=1).query(balance) == 0
    elsewhere(bank, Decimal(5))
    assert account.query(balance) == 0  # it is in memory
    with pytest.raises(ConcurrencyError, match="at version 2, and the caller expects 1"):
        account.using(expected_version=1).query(balance)
    assert account.using(expected_version=2).query(balance) == 5


def test_a_command_is_decided_again_so_often_and_no_more(bank: Bank) -> None:
    with live_aggregates(bank, Account, retries=3) as accounts:
        account = accounts.create(Account, "Ada")
        insertions = Insertions(bank.recorder)

        def rival(_events: object) -> None:
            insertions.before.clear()
            elsewhere(bank, Decimal(10))
            insertions.before.append(rival)

        insertions.before.append(rival)
        with pytest.raises(ConcurrencyError, match="4 times") as raised:
            account.call(Account.deposit, Decimal(1))
        assert isinstance(raised.value, IntegrityError)
        assert (raised.value.aggregate_id, raised.value.attempts) == (ADA, 4)
        insertions.before.clear()
        assert account.call(Account.deposit, Decimal(1)) == stored(bank).balance == 41


def test_a_caller_may_expect_a_version(bank: Bank, accounts: LiveAggregates[Account]) -> None:
    account = accounts.create(Account, "Ada")
    assert account.using(expected_version=1).call(Account.deposit, Decimal(1)) == 1
    with pytest.raises(ConcurrencyError, match="at version 2, and the caller expects 1") as raised:
        account.using(expected_version=1).call(Account.deposit, Decimal(1))
    assert (raised.value.expected, raised.value.found) == (1, 2)
    elsewhere(bank, Decimal(5))
    # The caller knows more than the actor's memory.
    assert account.using(expected_version=3).call(Account.deposit, Decimal(1)) == 7
    insertions = Insertions(bank.recorder)
    insertions.before.append(lambda _: elsewhere(bank, Decimal(5)))
    with pytest.raises(ConcurrencyError, match="at version 5, and the caller expects 4"):
        account.using(expected_version=4).call(Account.deposit, Decimal(1))
    new = accounts.ref(Account.create_id("Eve")).or_create(Account, "Eve")
    assert new.using(expected_version=0).call(Account.deposit, Decimal(1)) == 1
    with pytest.raises(ConcurrencyError):
        new.using(expected_version=0).call(Account.deposit, Decimal(1))


# Wrong use.


def test_wrong_use_is_found_at_once(bank: Bank, popo: Store) -> None:
    wrong: Any
    for wrong in (None, Bank):
        with pytest.raises(TypeError, match="the application comes first"):
            live_aggregates(wrong, Account)
    for wrong in (None, Bank, Account("Ada")):
        with pytest.raises(TypeError, match="the class of the aggregates"):
            live_aggregates(bank, wrong)
    for wrong in (5, int, "Refusal"):
        with pytest.raises(TypeError, match="refusals are classes"):
            live_aggregates(bank, Account, refusals=[wrong])
    with pytest.raises(ValueError, match="retries"):
        live_aggregates(bank, Account, retries=-1)
    with pytest.raises(TypeError, match="did you mean 'idle'"):
        live_aggregates(bank, Account, idl=5)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]

    class Vague(BaseAggregate[UUID]):
        pass

    with pytest.raises(TypeError, match="has no class Event"):
        live_aggregates(bank, Vague)
    settings = {"AGGREGATE_CACHE_MAXSIZE": "10", "AGGREGATE_CACHE_FASTFORWARD": "no"}
    with (
        open_bank(popo, settings=settings) as caching,
        pytest.raises(ValueError, match="leave AGGREGATE_CACHE_MAXSIZE empty"),
    ):
        live_aggregates(caching, Account)


def test_an_application_may_have_a_cache_of_its_own(popo: Store) -> None:
    settings = {"AGGREGATE_CACHE_MAXSIZE": "10", "DEEPCOPY_FROM_AGGREGATE_CACHE": "no"}
    with open_bank(popo, settings=settings) as bank, live_aggregates(bank, Account) as accounts:
        account = accounts.create(Account, "Ada")
        account.stop()
        shared = stored(bank)
        assert account.call(Account.deposit, Decimal(1)) == 1
        assert shared.balance == 0
        assert stored(bank).balance == 1


@pytest.mark.parametrize(
    ("wrong", "error"), [("5", TypeError), (True, TypeError), (1.0, TypeError), (-1, ValueError)]
)
def test_an_expected_version_is_a_whole_number(
    wrong: Any, error: type[Exception], accounts: LiveAggregates[Account]
) -> None:
    with pytest.raises(error, match="expected_version must be"):
        accounts.ref(ADA).using(expected_version=wrong)
    with pytest.raises(error, match="expected_version must be"):
        accounts.using(expected_version=wrong)
