"""A command that has an id is done once, and gets its first answer whenever it is sent again."""

from __future__ import annotations

import enum
import math
from collections import Counter
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any, NamedTuple, Self
from uuid import UUID, uuid4

import pytest
from eventsourcing.domain import Aggregate, event
from eventsourcing.persistence import OperationalError, Transcoding

from pykka_registry.eventsourcing import (
    AggregateExists,
    CommandIdReused,
    Decision,
    LiveAggregates,
    LiveRef,
    Receipt,
    live_aggregates,
    receipt_id,
)
from tests.eventsourcing.accounts import (
    ADA,
    Account,
    Bank,
    Insertions,
    Overdrawn,
    Refusal,
    balance,
    count_reads,
    failing,
    open_bank,
    stored,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from tests.eventsourcing.support import Store


@pytest.fixture
def bank(popo: Store) -> Generator[Bank]:
    with open_bank(popo) as bank:
        yield bank


@pytest.fixture
def accounts(bank: Bank) -> Generator[LiveAggregates[Account]]:
    with live_aggregates(bank, Account, refusals=[Refusal]) as accounts:
        yield accounts


def test_a_command_that_is_sent_again_gets_its_first_answer(store: Store) -> None:
    with open_bank(store) as bank, live_aggregates(bank, Account) as accounts:
        account = accounts.create(Account, "Ada")
        insertions = Insertions(bank.recorder)
        command = account.using(command_id=UUID(int=1))
        assert command.execute(Account.deposit, Decimal(5)).version == 2
        assert insertions.sizes == [2]  # the event and the receipt
        account.call(Account.deposit, Decimal(1))
        for _ in range(2):
            again = command.execute(Account.deposit, Decimal(5))
            assert again == Decision(Decimal(5), 2, (), is_repeated=True)
            account.stop()
        assert command.submit(Account.deposit, Decimal(5)).get() == 5
        assert account.query(balance) == 6
        with live_aggregates(bank, Account) as others:  # another process, or years later
            other = others.ref(ADA).using(command_id=UUID(int=1))
            assert other.call(Account.deposit, Decimal(5)) == 5
        assert stored(bank).balance == 6


def test_where_one_was_done_before_the_next_is_looked_for_first(
    bank: Bank, accounts: LiveAggregates[Account]
) -> None:
    account = accounts.create(Account, "Ada")
    commands = [account.using(command_id=f"{number}") for number in range(5)]
    for command in commands[:4]:
        command.call(Account.deposit, Decimal(1))
    assert commands[0].execute(Account.deposit, Decimal(1)).is_repeated
    account.stop()
    reads, insertions = count_reads(bank.recorder), Insertions(bank.recorder)
    for number in (1, 2, 3):
        decision = commands[number].execute(Account.deposit, Decimal(1))
        assert decision == Decision(Decimal(number + 1), number + 2, (), is_repeated=True)
    assert len(reads) == 3  # their receipts, and not the account
    with pytest.raises(CommandIdReused):
        commands[3].call(Account.deposit, Decimal(2))
    assert insertions.sizes == []
    assert commands[4].call(Account.deposit, Decimal(1)) == 5
    for number in range(5, 7):
        account.using(command_id=f"{number}").call(Account.deposit, Decimal(1))
    assert len(reads) == 3 + 1 + 2  # one was looked for in vain, and the account was loaded
    assert stored(bank).balance == 7


def test_who_is_answered_again_sees_what_has_been_stored_by_then(
    bank: Bank, accounts: LiveAggregates[Account]
) -> None:
    account = accounts.create(Account, "Ada")
    account.using(command_id="a").call(Account.deposit, Decimal(1))
    assert account.using(command_id="a").execute(Account.deposit, Decimal(1)).is_repeated
    assert account.query(balance) == 1
    with live_aggregates(bank, Account) as others:  # another process
        others.ref(ADA).using(command_id="b").call(Account.deposit, Decimal(1))
    reads = count_reads(bank.recorder)
    assert account.using(command_id="b").execute(Account.deposit, Decimal(1)).is_repeated
    assert len(reads) == 1  # that one was looked for first
    assert account.query(balance) == 2


def test_a_receipt_is_an_event_of_its_own_stream(
    bank: Bank, accounts: LiveAggregates[Account]
) -> None:
    account = accounts.create(Account, "Ada")
    account.using(command_id="a").call(Account.deposit, Decimal(5))
    receipt = accounts.receipt("a")
    assert isinstance(receipt, Receipt)
    assert receipt.originator_id == receipt_id("a")
    assert (receipt.command_id, receipt.command, receipt.result) == ("a", "deposit", 5)
    assert (UUID(receipt.aggregate_id), receipt.aggregate_version) == (ADA, 2)
    assert accounts.receipt("b") is None
    log = bank.notification_log.select(1, 10)
    assert [item.originator_id for item in log] == [ADA, ADA, receipt_id("a")]
    assert log[-1].topic == "pykka_registry.eventsourcing:Receipt"
    [from_log] = [bank.mapper.to_domain_event(log[-1])]
    assert from_log == receipt


def test_a_refusal_once_given_stays_and_is_raised_as_it_was(
    accounts: LiveAggregates[Account],
) -> None:
    account = accounts.create(Account, "Ada")
    command = account.using(command_id="a")
    with pytest.raises(Overdrawn) as first:
        command.call(Account.withdraw, Decimal(5))
    account.call(Account.deposit, Decimal(100))
    for _ in range(2):
        with pytest.raises(Overdrawn) as again:
            command.call(Account.withdraw, Decimal(5))
        assert again.value is not first.value
        assert again.value.args == first.value.args == ("there are only 0", Decimal(0))
        assert again.value.amount == first.value.amount == Decimal(5)
        account.stop()
    receipt = accounts.receipt("a")
    assert receipt is not None
    assert receipt.refusal == "tests.eventsourcing.accounts:Overdrawn"
    assert account.query(balance) == 100


def test_any_other_exception_leaves_no_receipt(
    bank: Bank, accounts: LiveAggregates[Account]
) -> None:
    account = accounts.create(Account, "Ada")
    command = account.using(command_id="a")
    with pytest.raises(ValueError, match="missing"):
        command.call(Account.move, [Decimal(1), Decimal(0)])
    assert accounts.receipt("a") is None
    assert command.call(Account.move, [Decimal(1), Decimal(2)]) == 2
    with live_aggregates(bank, Account) as nothing_registered:
        other = nothing_registered.ref(ADA).using(command_id="b")
        with pytest.raises(Overdrawn):
            other.call(Account.withdraw, Decimal(5))
        assert other.call(Account.withdraw, Decimal(1)) == 2


def test_a_command_that_could_not_be_done_twice_gets_its_first_answer(
    accounts: LiveAggregates[Account],
) -> None:
    account = accounts.create(Account, "Ada").using(command_id="a")
    for _ in range(2):
        account.call(Account.close)


def test_a_command_that_decides_nothing_is_done_by_that(
    accounts: LiveAggregates[Account],
) -> None:
    account = accounts.create(Account, "Ada")
    account.using(command_id="a").call(Account.move, [])
    receipt = accounts.receipt("a")
    assert receipt is not None
    assert (receipt.result, receipt.aggregate_version) == (0, 1)


def test_to_create_is_a_command_too(bank: Bank, accounts: LiveAggregates[Account]) -> None:
    command = accounts.using(command_id="a")
    account = command.create(Account, "Ada")
    for _ in range(2):
        assert command.create(Account, "Ada") == account
        account.stop()
    with pytest.raises(AggregateExists):
        accounts.using(command_id="b").create(Account, "Ada")
    assert accounts.using(command_id="c").get_or_create(Account, "Ada") == account
    assert stored(bank).version == 1


@pytest.mark.parametrize("way", ["create", "get_or_create"])
def test_an_aggregate_whose_id_is_chance_is_created_once(way: str, bank: Bank) -> None:
    with live_aggregates(bank, Dog) as dogs:
        command = dogs.using(command_id="a")
        create: Callable[..., LiveRef[Dog]] = getattr(command, way)
        fido = create(Dog, "Fido")
        assert create(Dog, "Fido") == create(Dog, name="Fido") == fido
        with pytest.raises(CommandIdReused):
            create(Dog, "Bello")
        fido.using(command_id="b").call(Dog.bark)
    assert len(bank.notification_log.select(1, 10)) == 4


class Dog(Aggregate):
    def __init__(self, name: str) -> None:
        self.name = name
        self.barks = 0

    def bark(self) -> None:
        self.trigger_event(self.Barked)

    class Barked(Aggregate.Event):
        def apply(self, dog: Dog) -> None:
            dog.barks += 1


def test_a_factory_may_be_any_function(bank: Bank) -> None:
    def buy(name: str, *, price: int) -> Dog:
        assert price
        return Dog(name)

    with live_aggregates(bank, Dog) as dogs:
        command = dogs.using(command_id="a")
        fido = command.create(buy, "Fido", price=1)
        assert command.create(buy, price=1, name="Fido") == fido
        with pytest.raises(CommandIdReused):
            command.create(buy, "Fido", price=2)
        vars(buy)["__signature__"] = "none that Python understands"
        command = dogs.using(command_id="b")
        fido = command.create(buy, "Fido", price=1)
        assert command.create(buy, "Fido", price=1) == fido


def test_a_command_is_the_same_however_its_arguments_are_passed(bank: Bank) -> None:
    with live_aggregates(bank, Chest) as chests:
        chest = chests.create(Chest)
        put = chest.using(command_id="a")
        put.call(Chest.put, "socks", 2, label="blue", size=5)
        assert put.execute(Chest.put, size=5, label="blue", count=2, what="socks").is_repeated
        assert put.execute(Chest.put, "socks", size=5, count=2, label="blue").is_repeated
        for other in ({"size": "blue", "label": 5}, {"size": 5}, {"size": 5, "brand": "blue"}):
            with pytest.raises(CommandIdReused):
                put.call(Chest.put, "socks", 2, **other)
        take = chest.using(command_id="b")
        take.call(Chest.take, "socks", 1)  # a method that the library has made
        assert take.execute(Chest.take, count=1, what="socks").is_repeated
        with pytest.raises(CommandIdReused):
            take.call(Chest.take, count=2, what="socks")
        lend = chest.using(command_id="d")
        lend.call(Chest.lend, "socks", to="Eve", count=1)
        assert lend.execute(Chest.lend, "socks", count=1, to="Eve").is_repeated
        assert lend.execute(Chest.lend, what="socks", count=1, to="Eve").is_repeated
        with pytest.raises(CommandIdReused):
            lend.call(Chest.lend, "socks", to="Eve", count=2)
        with pytest.raises(TypeError, match="missing"):
            chest.using(command_id="c").call(Chest.put, size=1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


def test_a_command_is_the_same_whatever_the_order_of_a_dict(bank: Bank) -> None:
    with live_aggregates(bank, Chest) as chests:
        chest = chests.create(Chest).using(command_id="a")
        chest.call(Chest.fill, {"socks": {"blue": 1, "red": Decimal(2)}, "hats": 3})
        again = {"hats": 3, "socks": {"red": Decimal(2), "blue": 1}}
        assert chest.execute(Chest.fill, again).is_repeated
        assert chest.execute(Chest.fill, content=again).is_repeated
        with pytest.raises(CommandIdReused):
            chest.call(Chest.fill, {"socks": {"blue": 1, "red": Decimal(3)}, "hats": 3})


class Chest(Aggregate):
    def put(self, /, what: str, count: int = 1, **details: object) -> None:
        pass

    @event("Taken")
    def take(self, what: str, count: int) -> None:
        pass

    def lend(self, what: str, *, to: str, count: int) -> None:
        pass

    def fill(self, content: dict[str, Any]) -> None:
        pass


def test_an_id_that_belongs_to_another_command_is_refused(
    accounts: LiveAggregates[Account],
) -> None:
    account = accounts.create(Account, "Ada").using(command_id="a")
    account.call(Account.deposit, Decimal(1))
    with pytest.raises(CommandIdReused, match="used before, for deposit") as raised:
        account.call(Account.deposit, Decimal(2))
    assert (raised.value.command_id, raised.value.command) == ("a", "deposit")
    with pytest.raises(CommandIdReused):
        account.call(Account.withdraw, Decimal(1))
    other = accounts.create(Account, "Eve").using(command_id="a")
    with pytest.raises(CommandIdReused):
        other.call(Account.deposit, Decimal(1))
    assert accounts.ref(ADA).query(balance) == 1
    assert accounts.ref(other.id).query(balance) == 0


def test_arguments_that_no_event_could_carry_are_no_hindrance(
    accounts: LiveAggregates[Account],
) -> None:
    account = accounts.create(Account, "Ada").using(command_id="a")
    for _ in range(2):
        assert account.call(Account.call, lambda: 5) == 5


def test_an_argument_that_no_event_could_carry_does_not_hide_the_others(
    accounts: LiveAggregates[Account],
) -> None:
    account = accounts.create(Account, "Ada").using(command_id="a")
    assert account.call(Account.call, lambda *_: 5, 1, object()) == 5
    assert account.execute(Account.call, lambda *_: 5, 1, object()).is_repeated
    for others in ((2, object()), (object(), 1), (1, 1), (1, object(), object())):
        with pytest.raises(CommandIdReused):
            account.call(Account.call, lambda *_: 5, *others)


def test_an_answer_that_a_receipt_cannot_keep_is_refused(
    bank: Bank, accounts: LiveAggregates[Account]
) -> None:
    account = accounts.create(Account, "Ada")
    with pytest.raises(TypeError, match=r"pair has returned \('Ada'.*register a transcoding"):
        account.using(command_id="a").call(Account.pair)
    with pytest.raises(TypeError):
        account.using(command_id="a").call(Account.call, object)
    assert accounts.receipt("a") is None
    assert bank.recorder.max_notification_id() == 1


class Size(enum.IntEnum):
    SMALL = 1


class Colour(enum.StrEnum):
    BLUE = "blue"


class Socks(NamedTuple):
    pairs: int


@dataclass(frozen=True)
class Drawer:
    content: Any


class DrawerAsContent(Transcoding):
    type = Drawer
    name = "drawer"

    def encode(self, obj: Drawer) -> Any:
        return obj.content

    def decode(self, data: Any) -> Drawer:
        return Drawer(data)


class SetAsList(Transcoding):
    type = set
    name = "set"

    def encode(self, obj: set[Any]) -> list[Any]:
        return list(obj)

    def decode(self, data: list[Any]) -> set[Any]:
        return set(data)


@pytest.fixture
def richer_bank(bank: Bank) -> Bank:
    transcoder: Any = bank.mapper.transcoder
    transcoder.register(DrawerAsContent())
    transcoder.register(SetAsList())
    return bank


@pytest.mark.parametrize(
    "result",
    [
        Size.SMALL,
        Colour.BLUE,
        Socks(2),
        Counter("a"),
        [Size.SMALL],
        {"a": {"size": Size.SMALL}},
        {Colour.BLUE: 1},
        {1: 2},
        Drawer(Size.SMALL),
        Drawer((1, 2)),
        {Size.SMALL},
        "\ud800",
        10**5000,
    ],
    ids=lambda result: type(result).__name__,
)
def test_an_answer_whose_type_a_receipt_would_lose_is_refused(
    result: object, richer_bank: Bank
) -> None:
    with live_aggregates(richer_bank, Account) as accounts:
        account = accounts.create(Account, "Ada").using(command_id="a")
        with pytest.raises(TypeError, match=r"call has returned .*register a transcoding"):
            account.call(Account.call, lambda: result)
        assert accounts.receipt("a") is None


@pytest.mark.parametrize(
    "result",
    [
        [1, [None, True, 2.5, "text"]],
        {"a": {"b": [Decimal("1.0")]}},
        {1, 2},
        Drawer({"a": [1]}),
        {"drawer": Drawer(5)},
        [math.nan],
        10**500,
    ],
    ids=lambda result: type(result).__name__,
)
def test_an_answer_that_a_receipt_keeps_may_be_of_any_shape(
    result: object, richer_bank: Bank
) -> None:
    with live_aggregates(richer_bank, Account) as accounts:
        account = accounts.create(Account, "Ada").using(command_id="a")
        for _ in range(2):
            assert repr(account.call(Account.call, lambda: result)) == repr(result)


class Rejected(Exception):
    """A refusal that is simple, as its subclasses are not."""


class Slotted(Rejected):
    __slots__ = ("amount",)

    def __init__(self, amount: int) -> None:
        super().__init__("too much")
        self.amount = amount


class Particular(Rejected):
    def __new__(cls, amount: int, *, why: str) -> Self:
        del why
        return super().__new__(cls, amount)

    def __init__(self, amount: int, *, why: str) -> None:
        super().__init__(amount)
        self.why = why


class NoSuchFile(Rejected, FileNotFoundError):
    pass


class Described(Rejected):
    def __init__(self, what: object) -> None:
        super().__init__("it is rejected")
        self.what = what


class HasTopic(Rejected):
    TOPIC = "tests: HasTopic"


class HasTopicOfBase(HasTopic):
    pass


class HasUnknownTopic(Rejected):
    TOPIC = "tests: HasUnknownTopic"


def local_refusal() -> type[Rejected]:
    class Local(Rejected):
        pass

    return Local


def test_refusals_of_all_kinds_are_raised_again_as_they_were(richer_bank: Bank) -> None:
    described = Described([Decimal(1), {"a": None}])
    described.add_note("by a test")
    with live_aggregates(richer_bank, Account, refusals=[Rejected, HasTopic]) as accounts:
        account = accounts.create(Account, "Ada")
        for refusal in (
            Rejected(),
            Rejected("text", "\xe4", 1, [2.5]),
            described,
            Described(Drawer(1)),
            HasTopic(5),
            NoSuchFile(2, "there is none"),
        ):
            command = account.using(command_id=uuid4())
            raised: list[Exception] = []
            for _ in range(2):
                with pytest.raises(Rejected) as info:
                    command.call(Account.call, fail, refusal)
                raised.append(info.value)
            first, again = raised
            assert again is not first
            assert type(again) is type(first)
            assert (again.args, vars(again)) == (first.args, vars(first))
            assert getattr(again, "errno", None) == getattr(first, "errno", None)


@pytest.mark.parametrize(
    ("refusal", "says"),
    [
        (Rejected(1, (2, 3)), r"call has raised Rejected with argument 2, \(2, 3\), which"),
        (Rejected({1: 2}), "argument 1, {1: 2}, which a receipt would give again as {'1': 2}"),
        (Rejected(Size.SMALL), "argument 1, .* again as 1, of type int: .* register a transcoding"),
        (Rejected(object()), "argument 1, .* cannot keep"),
        (Rejected("\ud800"), "argument 1, .* cannot keep"),
        (Rejected(10**5000), "argument 1, .* cannot keep"),
        (Described(Size.SMALL), "Described with the attribute what, .* as 1, of type int"),
        (Slotted(5), "Slotted could not be raised again with its amount: .* no __slots__"),
        (NoSuchFile(2, "there is none", "a file"), "raised again with its filename"),
        (Particular(5, why="it is"), r"Particular could not be .* arguments, \(5,\) .*__new__"),
        (local_refusal()("no"), "topic, .*local_refusal.* in a module, not in a function"),
        (HasTopicOfBase("no"), "TOPIC needs one of its own"),
        (HasUnknownTopic("no"), "must be one of the refusals itself"),
    ],
)
def test_a_refusal_that_a_receipt_cannot_keep_is_a_mistake(
    refusal: Exception, says: str, bank: Bank
) -> None:
    with live_aggregates(bank, Account, refusals=[Rejected, HasTopic]) as accounts:
        account = accounts.create(Account, "Ada")
        for _ in range(2):
            with pytest.raises(TypeError, match=says) as raised:
                account.using(command_id="a").call(Account.call, fail, refusal)
            assert raised.value.__cause__ is refusal
        assert accounts.receipt("a") is None
        with pytest.raises(type(refusal)):
            account.call(Account.call, fail, refusal)


@pytest.mark.parametrize("refusal", [local_refusal(), HasTopicOfBase])
def test_a_class_of_refusals_that_nobody_could_find_again_is_refused_at_once(
    refusal: type[Exception], bank: Bank
) -> None:
    with pytest.raises(TypeError, match="could not be found again by its topic"):
        live_aggregates(bank, Account, refusals=[HasTopic, refusal])


def fail(error: Exception) -> None:
    raise error


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_refusal_whose_acknowledgement_is_lost_is_given_once(
    moment: str, accounts: LiveAggregates[Account], bank: Bank
) -> None:
    account = accounts.create(Account, "Ada")
    command = account.using(command_id="a")
    getattr(Insertions(bank.recorder), moment).append(failing(OperationalError("lost")))
    with pytest.raises(Overdrawn if moment == "after" else OperationalError):
        command.call(Account.withdraw, Decimal(5))
    account.call(Account.deposit, Decimal(5))
    if moment == "after":
        with pytest.raises(Overdrawn):
            command.call(Account.withdraw, Decimal(5))
    else:
        assert command.call(Account.withdraw, Decimal(5)) == 0


@pytest.mark.parametrize("amount", [Decimal(1), Decimal(9)])
def test_a_command_that_another_process_does_at_the_same_time_is_done_once(
    amount: Decimal, store: Store
) -> None:
    with (
        open_bank(store) as bank,
        live_aggregates(bank, Account, refusals=[Refusal]) as here,
        live_aggregates(bank, Account, refusals=[Refusal]) as there,
    ):
        here.create(Account, "Ada").call(Account.deposit, Decimal(5))
        answers: list[Any] = []

        def withdraw(live: LiveAggregates[Account]) -> None:
            try:
                answers.append(live.ref(ADA).using(command_id="a").call(Account.withdraw, amount))
            except Overdrawn as refusal:
                answers.append(refusal.args)

        insertions = Insertions(bank.recorder)
        insertions.before.append(lambda _: withdraw(there))
        withdraw(here)
        assert len(answers) == 2
        assert answers[0] == answers[1]
        assert len(insertions.sizes) == 2
        assert stored(bank).balance == 5 - (amount if amount == 1 else 0)


def test_ids_of_commands_are_of_one_space(accounts: LiveAggregates[Account]) -> None:
    command_id = uuid4()
    account = accounts.create(Account, "Ada")
    account.using(command_id=command_id).call(Account.deposit, Decimal(1))
    assert account.using(command_id=str(command_id)).call(Account.deposit, Decimal(1)) == 1
    assert account.query(balance) == 1


@pytest.mark.parametrize("wrong", [5, 1.5, b"a", True, object(), ["a"]])
def test_an_id_of_a_command_is_a_text_or_a_uuid(
    wrong: Any, accounts: LiveAggregates[Account]
) -> None:
    for use in (accounts.using, accounts.ref(ADA).using, accounts.receipt):
        with pytest.raises(TypeError, match="a command id must be a str or a UUID"):
            use(command_id=wrong)


@pytest.mark.parametrize(("wrong", "says"), [("", "empty"), ("\ud800", "cannot be stored")])
def test_an_id_of_a_command_can_be_stored_and_is_not_empty(
    wrong: str, says: str, accounts: LiveAggregates[Account]
) -> None:
    for use in (accounts.using, accounts.ref(ADA).using, accounts.receipt):
        with pytest.raises(ValueError, match=says):
            use(command_id=wrong)
    account = accounts.create(Account, "Ada")
    for text in ("\0", "\U0001f600", "x" * 100_000):
        for _ in range(2):
            assert account.using(command_id=text).call(Account.call, lambda: 5) == 5
