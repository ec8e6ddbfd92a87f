"""An aggregate ref: an address that never dies, and what can be done with it in every state."""

from __future__ import annotations

import abc
import contextlib
import functools
import inspect
import threading
from typing import TYPE_CHECKING, Any, TypeVar, cast

import pykka
import pytest

from pykka_registry import (
    AggregateMixin,
    AggregateProxy,
    AggregateRef,
    AggregateRegistry,
    DeadLetterReason,
    EndReason,
    KeyAlreadyRegistered,
    Registered,
    RegistryRef,
    RegistryStopped,
    Terminated,
    Undeliverable,
    WaitCycle,
)
from tests.support import (
    PATIENCE,
    Counting,
    Gate,
    Listener,
    Runtime,
    in_threads,
    join,
    nothing_remains,
    poll,
    start_thread,
    told_when,
    wait_for,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Hashable


T = TypeVar("T")


class Statement:
    """Something that an account has, and that a proxy goes into."""

    title = "none"

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.footer = pykka.traversable(Footer())

    def write(self, line: str) -> int:
        self.lines.append(line)
        return len(self.lines)


class Footer:
    """One step further down."""

    text = "page 1"

    def shout(self) -> str:
        return self.text.upper()


class Account(AggregateMixin, Runtime):
    """One of everything that a proxy may come across."""

    currency = "EUR"
    limit: int
    statement = pykka.traversable(Statement())

    def on_start(self) -> None:
        self.balance = 0
        self._pin = 1234
        self.register = "a cash register"
        self.mro = "Monthly Report On…"

    def on_receive(self, message: Any) -> Any:
        return message(self) if callable(message) else ("received", message)

    @property
    def cents(self) -> int:
        return self.balance * 100

    @cents.setter
    def cents(self, cents: int) -> None:
        self.balance = cents // 100

    @property
    def overdrawn(self) -> bool:
        return self.balance < 0

    def deposit(self, amount: int, *, times: int = 1) -> int:
        self.balance += amount * times
        return self.balance

    def patient(self, *, timeout: int, method: str) -> tuple[int, str]:
        return timeout, method

    def wait_at(self, gate: Gate) -> None:
        gate.pass_through()

    def fail(self, error: BaseException) -> None:
        raise error

    @staticmethod
    def rounded(amount: float) -> int:
        return round(amount)

    @classmethod
    def name_of_class(cls) -> str:
        return cls.__name__

    def _audit(self) -> str:
        return "audited"


class Savings(Account):
    """Overrides, and has something of its own."""

    def deposit(self, amount: int, *, times: int = 1) -> int:
        return super().deposit(amount, times=times) + 1_000_000

    def interest(self) -> int:
        return 3


class Other(AggregateMixin, Runtime):
    """Is no account."""

    def withdraw(self) -> None:
        raise AssertionError("nobody calls it")


@pytest.fixture
def accounts() -> Generator[RegistryRef[Account]]:
    with AggregateRegistry.start(
        Account, name="accounts", backoff=(0, 0), max_failures=10**6
    ) as registry:
        yield registry


def within(ref: AggregateRef[Account], function: Callable[[Any], T]) -> T:
    """Run the function in the aggregate's handler, and return what it returns."""
    return cast("T", ref.ask(function))


def tell(ref: AggregateRef[Account], function: Callable[[Any], object]) -> None:
    """Have the function run in the aggregate's handler."""
    ref.tell(function)


def put(proxy: AggregateProxy[Any], attribute: str, value: object) -> None:
    """Assign to an attribute; a checker would take its own word for what can be read then."""
    setattr(proxy, attribute, value)


def never_activated(registry: RegistryRef[Any]) -> bool:
    stats = registry.stats()
    return stats.activations == stats.live == stats.waiting == 0


# What a ref is.


def test_to_make_and_compare_refs_costs_no_activation(accounts: RegistryRef[Account]) -> None:
    threads = threading.active_count()
    made = 0
    for key in range(1_000):
        ref = accounts.ref(key)
        made += ref == accounts.ref(key) and hash(ref) == hash(accounts.ref(key))
        assert ref.key == key
        assert str(key) in repr(ref)
        proxy = ref.using(timeout=5).proxy()
        assert callable(proxy.deposit)
        assert "deposit" in dir(proxy)
        assert repr(proxy.statement)
        assert repr(proxy.deposit)
        assert proxy == ref.proxy()
    assert made == 1_000
    assert never_activated(accounts)
    assert threading.active_count() == threads
    assert nothing_remains(accounts)


def test_refs_are_equal_by_registry_and_key(accounts: RegistryRef[Account]) -> None:
    ref = accounts.ref("a")
    same = [accounts.ref("a"), ref.using(timeout=5), accounts.proxy().ref("a").get()]
    assert {ref, *same} == {ref}
    for other in same:
        assert ref == other
        assert hash(ref) == hash(other)
    with AggregateRegistry.start(Account, name="accounts") as others:
        different: list[object] = [
            accounts.ref("b"),
            others.ref("a"),
            "a",
            None,
            accounts.get_or_start("a"),
            ref.proxy(),
        ]
        for other in different:
            assert ref != other
            assert other != ref
        assert {ref: 1, others.ref("a"): 2}[ref] == 1


def test_refs_of_equal_keys_are_equal(accounts: RegistryRef[Account]) -> None:
    """As in the table: 1, 1.0 and True are one key."""
    assert len({accounts.ref(key) for key in (1, 1.0, True)}) == 1
    assert accounts.ref(1).call(Account.deposit, 5) == accounts.ref(1.0).call(Account.deposit, 0)


def test_a_ref_says_its_key_and_its_registry(accounts: RegistryRef[Account]) -> None:
    class Mute:
        def __repr__(self) -> str:
            raise ValueError("no")

    key = ("acc", 1)
    ref = accounts.ref(key)
    assert ref.key is key
    assert repr(ref) == "<AggregateRef ('acc', 1) in 'accounts'>"
    assert repr(accounts.ref(Mute())) == "<AggregateRef <Mute without a repr> in 'accounts'>"
    with pytest.raises(AttributeError):
        ref.key = "another"  # type: ignore[misc]


def test_a_key_that_cannot_be_hashed_is_refused_at_once(accounts: RegistryRef[Account]) -> None:
    with pytest.raises(TypeError, match=r"a key must be hashable, and \['a'\] is not"):
        accounts.ref(cast("Any", ["a"]))
    assert never_activated(accounts)


@pytest.mark.parametrize("call", ["tell", "ask", "stop", "proxy"])
def test_the_signatures_are_pykkas(call: str) -> None:
    def shape(function: Any) -> list[tuple[str, Any, Any]]:
        parameters = inspect.signature(function).parameters.values()
        return [(parameter.name, parameter.kind, parameter.default) for parameter in parameters]

    assert shape(getattr(AggregateRef, call)) == shape(getattr(pykka.ActorRef, call))


# Tell, ask, call, submit.


def test_ask_and_tell_are_answered_as_pykka_answers(accounts: RegistryRef[Account]) -> None:
    ref = accounts.ref("a")
    assert ref.ask("x") == ("received", "x")
    future = ref.ask("y", block=False)
    assert isinstance(future, pykka.Future)
    assert future.get() == ("received", "y")
    done = threading.Event()
    tell(ref, lambda _: done.set())
    wait_for(done)
    with pytest.raises(ZeroDivisionError):
        within(ref, lambda _: 1 // 0)
    assert accounts.stats().activations == 1  # what an asker gets is no failure


@pytest.mark.parametrize("end", ["stop", "fail", "passivate", "plain stop"])
def test_a_ref_outlives_every_incarnation(end: str, accounts: RegistryRef[Account]) -> None:
    ref = accounts.ref("a")
    proxy = ref.proxy()
    urns: set[str] = set()
    for _ in range(5):
        urns.add(within(ref, lambda account: account.actor_urn))
        live = accounts["a"]
        assert ref.call(Account.deposit, 1) == 1
        assert proxy.balance.get() == 1
        if end == "stop":
            assert ref.stop() is True
        elif end == "fail":
            proxy.fail.defer(ValueError("no"))
        elif end == "passivate":
            proxy.passivate().get()
        else:
            live.stop()
        assert live.actor_stopped.wait(PATIENCE)
    assert len(urns) == 5
    assert accounts.stats().activations == 5


def test_call_waits_for_the_result_and_submit_returns_a_future(
    accounts: RegistryRef[Account],
) -> None:
    ref = accounts.ref("a")
    assert ref.call(Account.deposit, 10) == 10
    assert ref.call(Account.deposit, amount=5, times=2) == 20
    future = ref.submit(Account.deposit, 1)
    assert isinstance(future, pykka.Future)
    assert future.get() == 21
    with pytest.raises(OSError, match="disk"):
        ref.call(Account.fail, OSError("disk"))
    failed = ref.submit(Account.fail, OSError("disk"))
    with pytest.raises(OSError, match="disk"):
        failed.get()
    assert ref.call(Account._audit) == "audited"
    assert ref.call(Account.deposit, 0) == 21
    assert accounts.stats().activations == 1


def test_the_methods_arguments_may_have_any_names(accounts: RegistryRef[Account]) -> None:
    ref = accounts.ref("a").using(timeout=PATIENCE)
    assert ref.call(Account.patient, timeout=1, method="m") == (1, "m")
    assert ref.submit(Account.patient, timeout=2, method="n").get() == (2, "n")


def test_static_and_class_methods_can_be_called(accounts: RegistryRef[Account]) -> None:
    call = cast("Any", accounts.ref("a").call)  # for a checker they are no methods
    assert call(Account.rounded, 1.2) == 1
    assert call(Account.name_of_class) == "Account"


def test_an_override_wins_over_the_method_that_was_passed() -> None:
    with AggregateRegistry.start(Savings) as savings:
        assert savings.ref("a").call(Account.deposit, 1) == 1_000_001
        assert savings.ref("a").submit(Account.deposit, 1).get() == 1_000_002
        assert savings.ref("a").proxy().name_of_class().get() == "Savings"


def test_an_incarnation_of_a_subclass_uses_its_own_override(
    accounts: RegistryRef[Account],
) -> None:
    Savings.start(accounts, "s")
    assert accounts.ref("s").call(Account.deposit, 1) == 1_000_001
    assert accounts.ref("s").proxy().deposit(1).get() == 1_000_002


class Shape(AggregateMixin, Runtime, abc.ABC):
    @abc.abstractmethod
    def area(self) -> int: ...


class Square(Shape):
    def area(self) -> int:
        return 4


def test_an_abstract_bases_method_calls_the_one_that_is_there() -> None:
    with AggregateRegistry.start(Square) as squares:
        assert squares.ref("a").call(Shape.area) == 4


WRONG: dict[str, tuple[Any, str]] = {
    "lambda": (lambda: 1, r"has no name to send: pass a method of the class, like Account\."),
    "partial": (functools.partial(Account.deposit, amount=1), "has no name to send"),
    "property": (Account.cents, r"; read an attribute with ref\.proxy\(\)\.cents$"),
    "attribute": (Account.currency, r"; read an attribute with ref\.proxy\(\)\.balance$"),
    "name": ("deposit", "has no name to send"),
    "None": (None, "has no name to send"),
    "builtin": (len, "Account has no method 'len'"),
    "class": (Account, "Account has no method 'Account'"),
    "other class's": (Other.withdraw, "Account has no method 'withdraw'"),
    "subclass's": (Savings.interest, "Account has no method 'interest'"),
    "of object with that name": (Counting.fail, ""),
}


@pytest.mark.parametrize("call", ["call", "submit"])
@pytest.mark.parametrize("what", [what for what, (_, text) in WRONG.items() if text])
def test_what_is_no_method_of_the_class_is_refused_at_once(
    what: str, call: str, accounts: RegistryRef[Account]
) -> None:
    wrong, text = WRONG[what]
    with pytest.raises(TypeError, match=text):
        getattr(accounts.ref("a"), call)(wrong)
    assert never_activated(accounts)


@pytest.mark.parametrize("call", ["call", "submit"])
def test_a_bound_method_is_refused_at_once(call: str, accounts: RegistryRef[Account]) -> None:
    by_hand = Account()
    with pytest.raises(TypeError, match=r"is bound to one actor: pass Account\.deposit, from the"):
        getattr(accounts.ref("a"), call)(by_hand.deposit)
    assert never_activated(accounts)


def test_only_the_name_of_a_method_counts(accounts: RegistryRef[Account]) -> None:
    """A checker knows better; here the name of another class's method finds our own."""
    ref: AggregateRef[Any] = accounts.ref("a")
    with pytest.raises(OSError, match="ours"):
        ref.call(WRONG["of object with that name"][0], OSError("ours"))


def test_a_private_method_may_be_called(accounts: RegistryRef[Account]) -> None:
    """`call` is for those who see the class; a proxy shows public names only."""
    assert accounts.ref("a").call(Account._audit) == Account()._audit()


def test_a_ref_is_not_made_by_hand(accounts: RegistryRef[Account]) -> None:
    for wrong in (accounts, None, "accounts"):
        with pytest.raises(TypeError, match=r"registry\.ref\(key\) makes one"):
            AggregateRef(wrong, 1)


def test_a_call_in_a_registry_without_a_class() -> None:
    with AggregateRegistry.start() as registry:
        ref = registry.ref("a")
        for wrong in (lambda: ref.call(Account.deposit, 1), lambda: ref.ask("x")):
            with pytest.raises(TypeError, match="has no aggregate class, so it can start nothing"):
                wrong()
        with pytest.raises(TypeError, match="has no aggregate class"):
            ref.tell("x")
        with pytest.raises(TypeError, match="has no name to send"):
            ref.call(cast("Any", lambda: 1))
        Account.start(registry, "a")
        assert ref.call(Account.deposit, 3) == 3
        assert ref.submit(Account.deposit, 3).get() == 6
        with pytest.raises(AttributeError, match="withdraw"):
            ref.call(Other.withdraw)
        assert ref.ask("x") == ("received", "x")
        assert ref.stop() is True
        assert nothing_remains(registry)


# Using.


def test_using_changes_nothing_but_the_timeout(accounts: RegistryRef[Account]) -> None:
    ref = accounts.ref("a")
    gate = Gate()
    hasty = ref.using(timeout=0.01)
    assert hasty is not ref
    assert hasty == ref
    ref.proxy().wait_at(gate)
    gate.wait_until_reached()
    with pytest.raises(pykka.Timeout):
        hasty.call(Account.deposit, 1)
    with pytest.raises(pykka.Timeout):
        hasty.ask("x")
    for future in (
        hasty.submit(Account.deposit, 1),
        hasty.ask("x", block=False),
        hasty.proxy().deposit(1),
        hasty.proxy().balance,
        hasty.proxy().statement.write("x"),
        hasty.proxy().balance.map(str),
    ):
        with pytest.raises(pykka.Timeout):
            future.get()
    with pytest.raises(pykka.Timeout):
        hasty.proxy().balance = 5
    patient = hasty.using(timeout=None).submit(Account.deposit, 1)
    gate.open()
    assert patient.get() == 3  # two of the others' deposits were only slow, and one has expired
    assert hasty.using(timeout=PATIENCE).call(Account.deposit, 0) == 3
    assert accounts.stats().expired == 3


def test_what_is_said_with_the_call_goes_before_using(accounts: RegistryRef[Account]) -> None:
    gate = Gate()
    accounts.ref("a").proxy().wait_at(gate)
    gate.wait_until_reached()
    patient = accounts.ref("a").using(timeout=3600)
    with pytest.raises(pykka.Timeout):
        patient.ask("x", timeout=0.01)
    with pytest.raises(pykka.Timeout):
        patient.submit(Account.deposit, 1).get(timeout=0.01)
    hasty = accounts.ref("a").using(timeout=0)
    answers: list[Any] = []
    waiting = start_thread(lambda: answers.append(hasty.ask("y", timeout=PATIENCE)))
    gate.open()
    join(waiting)
    assert answers == [("received", "y")]


@pytest.mark.parametrize("timeout", ["5", float("nan"), object()])
def test_a_timeout_that_is_no_number_is_refused(
    timeout: Any, accounts: RegistryRef[Account]
) -> None:
    ref = accounts.ref("a")
    for wrong in (
        lambda: ref.using(timeout=timeout),
        lambda: ref.ask("x", timeout=timeout),
        lambda: ref.stop(timeout=timeout),
    ):
        with pytest.raises(TypeError, match="timeout must be a number of seconds"):
            wrong()
    assert never_activated(accounts)


# The proxy.


def test_what_is_callable_in_the_class_is_a_method(accounts: RegistryRef[Account]) -> None:
    proxy = accounts.ref("a").proxy()
    future = proxy.deposit(10, times=2)
    assert isinstance(future, pykka.Future)
    assert future.get() == 20
    assert proxy.rounded(2.7).get() == 3
    assert proxy.name_of_class().get() == "Account"
    with pytest.raises(OSError, match="disk"):
        proxy.fail(OSError("disk")).get()
    with pytest.raises(TypeError, match="deposit"):
        proxy.deposit().get()
    assert proxy.stop().get() is None
    assert accounts.stats().activations == 1


def test_a_deferred_call_is_told(
    accounts: RegistryRef[Account], listener: pykka.ActorRef[Listener]
) -> None:
    accounts.subscribe(listener)
    proxy = accounts.ref("a").proxy()
    assert proxy.deposit.defer(7) is None
    assert proxy.balance.get() == 7
    proxy.fail.defer(OSError("disk"))
    told = told_when(listener, lambda told: any(isinstance(e, Terminated) for e in told))
    assert [e.reason for e in told if isinstance(e, Terminated)] == [EndReason.FAILED]


def test_any_other_name_is_read_from_the_live_aggregate(accounts: RegistryRef[Account]) -> None:
    proxy = accounts.ref("a").proxy()
    assert proxy.balance.get() == 0  # the instance's
    assert proxy.currency.get() == "EUR"  # the class's
    assert proxy.cents.get() == 0  # a property
    assert proxy.key.get() == "a"  # the mixin's
    within(accounts.ref("a"), lambda account: setattr(account, "currency", "SEK"))
    assert proxy.currency.get() == "SEK"  # the instance's goes first


@pytest.mark.parametrize("attribute", ["register", "mro"])
def test_what_only_the_metaclass_has_is_no_method(
    attribute: str, accounts: RegistryRef[Account]
) -> None:
    """`Account.register` is `ABCMeta`'s; an account's own `register` is an attribute like any."""
    assert callable(getattr(Account, attribute))
    found = getattr(accounts.ref("a").proxy(), attribute)
    assert isinstance(found, pykka.Future)
    assert found.get() == getattr(accounts.get_or_start("a").proxy(), attribute).get()


def test_the_absence_of_an_attribute_fails_its_future(accounts: RegistryRef[Account]) -> None:
    proxy = accounts.ref("a").proxy()
    missing = proxy.no_such_thing
    assert isinstance(missing, pykka.Future)
    with pytest.raises(AttributeError, match="no_such_thing"):
        missing.get()
    with pytest.raises(AttributeError, match="limit"):
        _ = proxy.limit.get()  # only annotated
    assert proxy.balance.get() == 0
    assert accounts.stats().activations == 1


def test_who_calls_what_is_no_method_is_told_which_one_was_meant(
    accounts: RegistryRef[Account],
) -> None:
    proxy = accounts.ref("a").proxy()
    instance = r"What only an instance has needs registry\.get\(key\)\.proxy\(\)$"
    for call, text in (
        (proxy.depositt, r"^Account has no method 'depositt'; did you mean 'deposit'\? "),
        (proxy.cent, r"^Account has no method 'cent'\. "),  # cents is no method
        (proxy.balance, r"^Account has no method 'balance'\. "),
        (proxy.statement.wrote, r"^Statement has no method 'wrote'; did you mean 'write'\? "),
    ):
        for attempt in (call, call.defer):
            with pytest.raises(TypeError, match=f"{text}{instance}"):
                attempt(10)
    with pytest.raises(TypeError, match=r"a future is not callable; get\(\)"):
        proxy.balance.map(str)(1)
    assert proxy.balance.map(str).get() == "0"


def test_a_proxy_that_knows_no_class_says_so() -> None:
    with AggregateRegistry.start() as registry:
        Account.start(registry, "a")
        proxy = registry.ref("a").proxy()
        with pytest.raises(TypeError, match=r"^this registry has no aggregate class, so a proxy"):
            proxy.deposit(10)
        assert proxy.balance.get() == 0


def test_setting_an_attribute_waits_until_it_is_set(accounts: RegistryRef[Account]) -> None:
    proxy = accounts.ref("a").proxy()
    put(proxy, "balance", 5)
    assert accounts.stats().activations == 1
    seen: list[int] = []
    within(accounts.ref("a"), lambda account: seen.append(account.balance))
    assert seen == [5]
    put(proxy, "cents", 700)
    assert proxy.balance.get() == 7
    with pytest.raises(AttributeError):
        proxy.overdrawn = True
    assert proxy.balance.get() == 7
    assert accounts.stats().activations == 1


def test_traversable_attributes_of_the_class_are_gone_into(
    accounts: RegistryRef[Account],
) -> None:
    statement = accounts.ref("a").proxy().statement
    assert repr(statement).startswith("<AggregateProxy 'statement' of ")
    assert never_activated(accounts)
    assert statement.write("line").get() >= 1
    assert statement.title.get() == "none"
    assert statement.lines.get()[-1] == "line"
    put(statement.footer, "text", "page 2")
    assert statement.footer.text.get() == "page 2"
    assert statement.footer.shout().get() == "PAGE 2"
    put(statement.footer, "text", "page 1")
    statement.write.defer("deferred")
    assert statement.lines.get()[-1] == "deferred"
    with pytest.raises(AttributeError, match="nothing"):
        statement.nothing.get()
    with pytest.raises(AttributeError):
        _ = statement._secret
    assert dir(statement) == sorted(
        name for name in dir(Account.statement) if not name.startswith("_")
    )
    assert "footer" in repr(statement.footer)


def test_private_names_are_no_part_of_a_proxy(accounts: RegistryRef[Account]) -> None:
    proxy = accounts.ref("a").proxy()
    for name in ("_pin", "_audit", "__missing__", "_pykka_registry_life"):
        with pytest.raises(AttributeError, match="is private"):
            getattr(proxy, name)
        with pytest.raises(AttributeError, match="is private"):
            setattr(proxy, name, 1)
    assert never_activated(accounts)


def test_a_proxy_lists_the_public_names_of_the_class(accounts: RegistryRef[Account]) -> None:
    names = dir(accounts.ref("a").proxy())
    assert {"deposit", "currency", "cents", "statement", "stop"} <= set(names)
    assert not [name for name in names if name.startswith("_")]
    assert never_activated(accounts)


def test_proxies_are_equal_by_ref_and_path(accounts: RegistryRef[Account]) -> None:
    ref = accounts.ref("a")
    proxy = ref.proxy()
    assert proxy.actor_ref == ref
    assert proxy == accounts.ref("a").proxy()
    assert hash(proxy) == hash(accounts.ref("a").proxy())
    assert proxy.statement == ref.proxy().statement
    assert hash(proxy.statement) == hash(ref.proxy().statement)
    different: list[object] = [accounts.ref("b").proxy(), proxy.statement, ref, "a"]
    for other in different:
        assert proxy != other
    assert repr(ref) in repr(proxy)
    assert repr(ref) in repr(proxy.deposit)
    assert "deposit" in repr(proxy.deposit)
    assert never_activated(accounts)


# A key that has a foreign actor.


def test_a_ref_on_the_key_of_a_foreign_actor(
    accounts: RegistryRef[Account], listener: pykka.ActorRef[Listener]
) -> None:
    """It is no aggregate, so it gets nothing; and a ref does not stop it."""
    accounts.register("f", listener)
    ref = accounts.ref("f")
    calls: list[Callable[[], Any]] = [
        lambda: ref.tell("x"),
        lambda: ref.ask("x"),
        lambda: ref.ask("x", timeout=PATIENCE),
        lambda: ref.ask("x", block=False).get(),
        lambda: ref.call(Account.deposit, 1),
        lambda: ref.submit(Account.deposit, 1).get(),
        lambda: ref.proxy().deposit(1).get(),
        lambda: ref.ask("x", block=False, timeout=1).get(),
        lambda: setattr(ref.proxy(), "balance", 1),
    ]
    for call in calls:
        with pytest.raises(KeyAlreadyRegistered) as raised:
            call()
        assert raised.value.key == "f"
        assert raised.value.ref is listener
        assert str(raised.value) == (
            "key 'f' has a foreign actor, which an AggregateRef does not reach: "
            "send to registry.get('f')"
        )
    assert ref.stop() is False
    assert listener.is_alive()
    assert listener.proxy().told.get() == []
    assert never_activated(accounts)


def test_a_dead_foreign_actor_is_replaced_by_a_send(accounts: RegistryRef[Account]) -> None:
    foreign = pykka.ThreadingActor.start()
    accounts.register("f", foreign)
    foreign.stop()
    assert accounts.ref("f").call(Account.deposit, 1) == 1
    assert accounts.get("f") is not foreign


# From within aggregates.


def test_refs_work_from_within_other_aggregates_and_their_hooks() -> None:
    answers: dict[str, Any] = {}

    class Hooked(Counting):
        def __init__(self) -> None:
            super().__init__()
            self.send("in the constructor")

        def on_start(self) -> None:
            super().on_start()
            self.send("in on_start")

        def on_stop(self) -> None:
            self.send("in on_stop")

        def send(self, when: str) -> None:
            if self.key == "a":
                counter = self.registry.ref("counter")
                answers[when] = counter.call(Counting.add)
                counter.proxy().add.defer()
                counter.tell("nothing that it knows")

    with AggregateRegistry.start(Hooked) as registry, AggregateRegistry.start(Counting) as others:
        registry.ref("a").call(Hooked.send, "in a handler")
        assert registry.ref("a").call(Counting.run, lambda: others.ref("b").call(Counting.add)) == 1
        registry.ref("a").stop()
        assert answers == {
            "in the constructor": 1,
            "in on_start": 3,
            "in a handler": 5,
            "in on_stop": 7,
        }
        assert registry.ref("counter").call(Counting.add, 0) == 8
        assert registry.stats().dead_letters == {}


def test_refs_travel_in_messages_and_as_keys_of_a_dict(accounts: RegistryRef[Account]) -> None:
    ledger = {accounts.ref(key): key for key in "abc"}
    a = accounts.ref("a")

    def pay(_: Account, to: AggregateRef[Account]) -> tuple[str, int]:
        return ledger[to], to.call(Account.deposit, 5)

    assert within(a, lambda account: pay(account, accounts.ref("b"))) == ("b", 5)


def test_what_is_told_to_oneself_is_handled_afterwards(accounts: RegistryRef[Account]) -> None:
    order: list[str] = []
    done = threading.Event()

    def tell_myself(account: Any) -> None:
        me: AggregateRef[Account] = account.registry.ref(account.key)
        tell(me, lambda _: order.append("first"))
        tell(me, lambda _: order.append("second"))
        tell(me, lambda _: done.set())
        order.append("the handler itself")

    accounts.ref("a").tell(tell_myself)
    wait_for(done)
    assert order == ["the handler itself", "first", "second"]


def test_to_passivate_and_then_send_to_oneself_loses_nothing(
    accounts: RegistryRef[Account], listener: pykka.ActorRef[Listener]
) -> None:
    accounts.subscribe(listener)
    handled: list[int] = []
    rounds = 50

    def again(account: Any, i: int) -> None:
        handled.append(i)
        if i < rounds:
            account.passivate()
            tell(account.registry.ref(account.key), lambda account: again(account, i + 1))

    tell(accounts.ref("a"), lambda account: again(account, 1))
    told = told_when(listener, lambda told: any(isinstance(e, Terminated) for e in told))
    assert handled == list(range(1, rounds + 1))
    assert told[-1].reason is EndReason.OWN_WORD


def test_what_is_told_to_oneself_in_ones_last_hook_wakes_a_successor() -> None:
    handled = threading.Event()
    urns: list[str] = []

    class Phoenix(AggregateMixin, Runtime):
        def on_receive(self, message: Any) -> None:
            urns.append(self.actor_urn)
            handled.set()

        def on_stop(self) -> None:
            if not handled.is_set():
                urns.append(self.actor_urn)
                self.registry.ref(self.key).tell("from your predecessor")

    with AggregateRegistry.start(Phoenix) as registry:
        registry.get_or_start("a")
        assert registry.ref("a").stop() is True
        wait_for(handled)
        assert len(set(urns)) == 2


@pytest.mark.parametrize("when", ["constructor", "on_start", "handler", "on_stop"])
@pytest.mark.parametrize("call", ["ask", "ask in time", "submit", "proxy", "set", "stop"])
def test_to_wait_for_oneself_is_a_wait_cycle(when: str, call: str) -> None:
    """It is refused to the one that waits; the message is not handled, and nothing else ends."""
    errors: list[WaitCycle] = []
    handled: list[Any] = []

    class Narcissus(AggregateMixin, Runtime):
        def __init__(self) -> None:
            super().__init__()
            self.wait("constructor")

        def on_start(self) -> None:
            self.wait("on_start")

        def on_stop(self) -> None:
            self.wait("on_stop")

        def on_receive(self, message: Any) -> Any:
            handled.append(message)
            return message

        def handle(self) -> None:
            self.wait("handler")

        def touch(self) -> None:
            handled.append("touch")

        def wait(self, where: str) -> None:
            if where != when or errors:
                return
            me: AggregateRef[Narcissus] = self.registry.ref(self.key)
            calls: dict[str, Callable[[], Any]] = {
                "ask": lambda: me.ask("x"),
                "ask in time": lambda: me.ask("x", timeout=PATIENCE),
                "submit": lambda: me.submit(Narcissus.touch).get(),
                "proxy": lambda: me.proxy().touch().get(),
                "set": lambda: setattr(me.proxy(), "x", 1),
                "stop": me.stop,
            }
            with pytest.raises(WaitCycle) as raised:
                calls[call]()
            errors.append(raised.value)

    with AggregateRegistry.start(Narcissus) as registry:
        ref = registry.ref("a")
        ref.call(Narcissus.handle)
        if when == "on_stop":
            assert ref.stop() is True
        else:
            assert ref.ask("still there") == "still there"
            assert registry.stats().activations == 1
        assert len(errors) == 1
        assert errors[0].keys == ("a",)
        assert handled in ([], ["still there"])
        assert registry.stats().expired == 0


def test_a_cycle_through_refs_is_refused_to_the_one_that_closes_it(
    accounts: RegistryRef[Account],
) -> None:
    a, b = accounts.ref("a"), accounts.ref("b")
    with pytest.raises(WaitCycle) as raised:
        within(a, lambda _: within(b, lambda _: a.call(Account.deposit, 1)))
    assert sorted(raised.value.keys) == ["a", "b"]
    assert a.call(Account.deposit, 0) in {0, 1}  # if it was A that closed it B has had its answer


def test_a_chain_through_refs_is_no_cycle(accounts: RegistryRef[Account]) -> None:
    def down(account: Any) -> int:
        if account.key == 20:
            return 20
        answer: int = account.registry.ref(account.key + 1).ask(down)
        return answer

    assert accounts.ref(0).ask(down) == 20


# The matrix: what a send and a stop do in each state.


class Held(Counting):
    """Stays in a hook until the gate that the test has put up there is opened."""

    def __init__(self, gates: dict[str, Gate], handled: list[Any]) -> None:
        super().__init__()
        self._gates = gates
        self._handled = handled

    def on_start(self) -> None:
        super().on_start()
        self._pass("on_start")

    def on_stop(self) -> None:
        self._pass("on_stop")

    def on_failure(self, *_: Any) -> None:
        self._pass("on_failure")

    def on_receive(self, message: Any) -> Any:
        self._handled.append(message)
        return message

    def _pass(self, where: str) -> None:
        if where in self._gates:
            self._gates[where].pass_through()


def no_row_remains(registry: RegistryRef[Any]) -> bool:
    """Tell whether nothing is left of any key but its failures, which are kept for a while."""
    stats = registry.stats()
    waiting = (stats.active, stats.waiting, stats.starting, stats.backoff, stats.queued)
    return not registry._table._entries and not any(waiting)


class Scene:
    """A registry whose key "a" is in a certain state, until `end` is called."""

    def __init__(self, state: str, listener: pykka.ActorRef[Listener]) -> None:
        self.state = state
        self.gates: dict[str, Gate] = {}
        self.handled: list[Any] = []
        policies: Any = {"drain_timeout": PATIENCE, "backoff": (0, 0)}
        if state == "backoff":
            policies["backoff"] = (3600, 3600)
        if state == "quarantined":
            policies["max_failures"] = 0
        if state == "abandoned":
            policies["stop_timeout"] = 0.05
        self.registry = AggregateRegistry.start(Held, args=(self.gates, self.handled), **policies)
        self.registry.subscribe(listener)
        self.ref = self.registry.ref("a")
        self.gate = Gate()
        self.shutdown: pykka.Future[bool] | None = None
        getattr(self, f"_make_{state.replace(' ', '_')}")(listener)

    def end(self) -> None:
        self.gate.open()
        for gate in self.gates.values():
            gate.open()
        self.ref.stop()  # what rests would be waited for
        self.registry.stop()
        if self.state == "abandoned":  # no shutdown waits for it
            for thread in threading.enumerate():
                if thread.name.startswith("Held-"):
                    join(thread)
            poll(lambda: no_row_remains(self.registry))  # on the pool there is none to join
        assert no_row_remains(self.registry)

    def _make_absent(self, _: object) -> None:
        pass

    def _make_starting(self, _: object) -> None:
        self.gates["on_start"] = self.gate
        self.registry.proxy().get_or_start("a").get()
        self.gate.wait_until_reached()
        del self.gates["on_start"]

    def _make_active(self, _: object) -> None:
        self.registry.get_or_start("a")

    def _make_busy(self, _: object) -> None:
        self.ref.proxy().wait_at(self.gate)
        self.gate.wait_until_reached()

    def _make_stopping(self, _: object) -> None:
        self.gates["on_stop"] = self.gate
        self.registry.get_or_start("a").stop(block=False)
        self.gate.wait_until_reached()
        del self.gates["on_stop"]

    def _make_failing(self, _: object) -> None:
        self.gates["on_failure"] = self.gate
        self._fail()
        self.gate.wait_until_reached()
        del self.gates["on_failure"]

    def _make_at_rest(self, listener: pykka.ActorRef[Listener]) -> None:
        self._fail()
        told_when(listener, lambda told: any(isinstance(e, Terminated) for e in told))

    def _make_backoff(self, listener: pykka.ActorRef[Listener]) -> None:
        self._make_at_rest(listener)
        self.ref.tell("waits for the backoff to be over")
        assert self.registry.stats().backoff == 1

    def _make_quarantined(self, listener: pykka.ActorRef[Listener]) -> None:
        self._make_at_rest(listener)
        assert self.registry.stats().quarantined == 1

    def _make_abandoned(self, listener: pykka.ActorRef[Listener]) -> None:
        self._make_stopping(listener)
        told_when(listener, lambda told: any(isinstance(e, Terminated) for e in told))
        assert self.registry.stats().quarantined == 1

    def _make_registry_stopping(self, listener: pykka.ActorRef[Listener]) -> None:
        self._make_busy(listener)
        self.shutdown = self.registry.stop(block=False)
        self.registry.ask("by now it is stopping")

    def _make_registry_stopped(self, _: object) -> None:
        self.registry.stop()

    def _fail(self) -> None:
        self.ref.proxy().fail.defer(ValueError("no"))


@pytest.fixture
def scene(request: pytest.FixtureRequest, listener: pykka.ActorRef[Listener]) -> Generator[Scene]:
    scene = Scene(request.param, listener)
    yield scene
    scene.end()


SENDS: dict[str, Callable[[AggregateRef[Held]], Any]] = {
    "tell": lambda ref: ref.tell("x"),
    "ask": lambda ref: ref.ask("x", block=False),
    "submit": lambda ref: ref.submit(Held.add, 1),
    "proxy": lambda ref: ref.proxy().add(1),
    "attribute": lambda ref: ref.proxy().count,
    "defer": lambda ref: ref.proxy().add.defer(1),
}


@pytest.mark.parametrize("send", SENDS)
@pytest.mark.parametrize(
    ("scene", "activations"),
    [
        ("absent", 1),
        ("starting", 1),
        ("active", 1),
        ("busy", 1),
        ("stopping", 2),
        ("failing", 2),
        ("at rest", 2),
    ],
    indirect=["scene"],
)
def test_a_send_is_handled_by_the_incarnation_that_is_or_the_next_one(
    scene: Scene, activations: int, send: str
) -> None:
    assert scene.registry.stats().queued == 0
    answer = SENDS[send](scene.ref)
    scene.gate.open()
    assert scene.ref.ask("after") == "after"
    if isinstance(answer, pykka.Future):
        assert answer.get() in {"x", 1, 0}
    if send in {"tell", "ask"}:
        assert scene.handled == ["x", "after"]
    if send == "defer":
        assert scene.ref.call(Held.add, 0) == 1
    stats = scene.registry.stats()
    assert stats.activations == activations
    assert stats.queued == 0
    assert stats.dead_letters == {}


@pytest.mark.parametrize("send", SENDS)
@pytest.mark.parametrize("scene", ["backoff"], indirect=True)
def test_a_send_to_a_key_that_rests_waits(scene: Scene, send: str) -> None:
    before = scene.registry.stats().queued
    answer = SENDS[send](scene.ref)
    assert scene.registry.stats().queued == before + 1
    assert scene.registry.stats().activations == 1
    assert scene.ref.stop() is False
    if isinstance(answer, pykka.Future):
        with pytest.raises(Undeliverable, match="was stopped while it rested"):
            answer.get()
    else:
        assert len(scene.registry.dead_letters) == 2


@pytest.mark.parametrize("send", SENDS)
@pytest.mark.parametrize(
    ("scene", "error"),
    [
        ("quarantined", Undeliverable),
        ("abandoned", Undeliverable),
        ("registry stopping", RegistryStopped),
        ("registry stopped", RegistryStopped),
    ],
    indirect=["scene"],
)
def test_a_send_that_is_refused_says_so_to_its_sender(
    scene: Scene, error: type[Exception], send: str
) -> None:
    """What is told is refused at once; a future brings the refusal to who waits for it."""
    refusals = 0
    try:
        answer = SENDS[send](scene.ref)
    except error:
        refusals += 1
    else:
        assert isinstance(answer, pykka.Future)
        with pytest.raises(error):
            answer.get()
        refusals += 1
    for call in (lambda: scene.ref.ask("x"), lambda: scene.ref.call(Held.add, 1)):
        with pytest.raises(error):
            call()
        refusals += 1
    assert refusals == 3
    assert scene.handled == []
    assert scene.registry.stats().dead_letters == {}  # it was not accepted, and its sender knows


@pytest.mark.parametrize("scene", ["quarantined"], indirect=True)
def test_the_refusal_of_a_quarantined_key_has_its_cause(scene: Scene) -> None:
    for call in (lambda: scene.ref.tell("x"), lambda: scene.ref.ask("x")):
        with pytest.raises(Undeliverable, match="'a' is quarantined") as raised:
            call()
        assert isinstance(raised.value.__cause__, ValueError)
        assert raised.value.key == "a"
    assert scene.registry.release("a") is True
    assert scene.ref.ask("x") == "x"


def test_own_aggregates_may_send_while_the_registry_stops_until_all_is_quiet() -> None:
    handled: list[int] = []

    class Ring(AggregateMixin, Runtime):
        def on_receive(self, message: Any) -> None:
            if isinstance(message, Gate):
                message.pass_through()
                self.registry.ref(1).tell(1)
                return
            handled.append(message)
            if message < 30:  # both those that are there and those that are not
                self.registry.ref((message + 1) % 7).tell(message + 1)

    gate = Gate()
    registry = AggregateRegistry.start(Ring)
    registry.ref(0).tell(gate)
    gate.wait_until_reached()
    shutdown = registry.stop(block=False)
    registry.ask("by now it is stopping")
    with pytest.raises(RegistryStopped):
        registry.ref(0).tell("from outside")
    gate.open()
    assert shutdown.get() is True
    registry.stop()
    assert handled == list(range(1, 31))
    assert registry.stats().dead_letters == {}


@pytest.mark.parametrize(
    ("scene", "result"),
    [
        ("absent", False),
        ("at rest", False),
        ("backoff", False),
        ("quarantined", False),
        ("abandoned", False),
        ("registry stopped", False),
        ("active", True),
    ],
    indirect=["scene"],
)
def test_a_stop_where_nothing_has_to_be_waited_for(scene: Scene, result: bool) -> None:
    activations = scene.registry.stats().activations
    assert scene.ref.stop() is result
    assert scene.ref.stop() is False
    assert scene.ref.stop(block=False).get() is False
    assert scene.registry.stats().activations == activations
    assert "a" not in scene.registry


@pytest.mark.parametrize(
    "scene", ["starting", "busy", "stopping", "failing", "registry stopping"], indirect=True
)
def test_a_stop_waits_for_the_end_of_what_is_there(scene: Scene) -> None:
    activations = scene.registry.stats().activations
    stopped = scene.ref.stop(block=False)
    with pytest.raises(pykka.Timeout):
        stopped.get(timeout=0.01)
    with pytest.raises(pykka.Timeout):
        scene.ref.stop(timeout=0.01)
    scene.gate.open()
    assert stopped.get() is True
    assert "a" not in scene.registry
    if scene.shutdown is None:
        assert scene.ref.stop() is False
        assert scene.registry.stats().activations == max(activations, 1)
        assert no_row_remains(scene.registry)
    else:
        assert scene.shutdown.get() is True


@pytest.mark.parametrize("scene", ["backoff"], indirect=True)
def test_a_stop_at_rest_reports_what_waits(scene: Scene) -> None:
    asked = scene.ref.ask("asked", block=False)
    wanted = scene.registry.proxy().get_or_start("a").get()
    assert scene.ref.stop() is False
    with pytest.raises(Undeliverable, match="was stopped while it rested"):
        asked.get()
    with pytest.raises(Undeliverable, match="was stopped while it rested"):
        wanted.get()
    (letter,) = scene.registry.dead_letters
    assert (letter.key, letter.message) == ("a", "waits for the backoff to be over")
    assert letter.reason is DeadLetterReason.STOPPED
    stats = scene.registry.stats()
    assert (stats.backoff, stats.queued, stats.activations) == (0, 0, 1)
    assert no_row_remains(scene.registry)


def test_what_a_stop_at_rest_reports_has_the_failure_as_its_cause(
    listener: pykka.ActorRef[Listener],
) -> None:
    with AggregateRegistry.start(Counting, backoff=(3600, 3600)) as registry:
        registry.subscribe(listener)
        ref = registry.ref("a")
        gate = Gate()
        ref.proxy().wait_at(gate)
        gate.wait_until_reached()
        ref.proxy().fail.defer(ValueError("no"))
        asked = ref.ask("asked", block=False)
        ref.tell("told")
        gate.open()
        told_when(listener, lambda told: any(isinstance(e, Terminated) for e in told))
        assert registry.stats().backoff == 1
        assert ref.stop() is False
        with pytest.raises(Undeliverable, match="was stopped while it rested") as raised:
            asked.get()
        (letter,) = registry.dead_letters
        assert isinstance(raised.value.__cause__, ValueError)
        assert isinstance(letter.cause, ValueError)


@pytest.mark.parametrize("restart", ["at once", "on message"])
def test_a_stop_at_rest_means_that_nothing_is_started(
    restart: Any, listener: pykka.ActorRef[Listener]
) -> None:
    with AggregateRegistry.start(Counting, restart=restart, backoff=(3600, 3600)) as registry:
        registry.subscribe(listener)
        registry.ref("a").proxy().fail.defer(ValueError("no"))
        told_when(listener, lambda told: any(isinstance(e, Terminated) for e in told))
        assert registry.stats().backoff == (1 if restart == "at once" else 0)
        assert registry.ref("a").stop() is False
        assert registry.stats().backoff == 0
        assert no_row_remains(registry)


def test_a_stop_comes_after_what_was_sent_before_and_before_what_is_sent_later(
    counters: RegistryRef[Counting], listener: pykka.ActorRef[Listener]
) -> None:
    counters.subscribe(listener)
    gate = Gate()
    proxy = counters.ref("a").proxy()
    proxy.wait_at(gate)
    gate.wait_until_reached()
    before = [proxy.add() for _ in range(3)]
    stops = [counters.ref("a").stop(block=False) for _ in range(3)]
    later = [proxy.add() for _ in range(2)]
    last = counters.ref("a").stop(block=False)
    gate.open()
    assert [future.get() for future in before] == [1, 2, 3]
    assert [future.get() for future in later] == [1, 2]
    assert [stop.get() for stop in (*stops, last)] == [True] * 4
    told = told_when(listener, lambda told: len(told) >= 4)
    assert [(type(e), e.incarnation) for e in told] == [
        (Registered, 1),
        (Terminated, 1),
        (Registered, 2),
        (Terminated, 2),
    ]
    assert counters.ref("a").stop() is False


def test_many_stops_at_once_end_one_incarnation(counters: RegistryRef[Counting]) -> None:
    for rounds in range(1, 21):
        counters.ref("a").call(Counting.add)
        results = in_threads([counters.ref("a").stop for _ in range(4)])
        assert set(results) <= {True, False}
        assert True in results
        assert counters.stats().activations == rounds
    assert nothing_remains(counters)


def test_a_stop_that_was_given_up_stops_all_the_same(counters: RegistryRef[Counting]) -> None:
    gate = Gate()
    live = counters.get_or_start("a")
    live.proxy().wait_at(gate)
    gate.wait_until_reached()
    with pytest.raises(pykka.Timeout):
        counters.ref("a").stop(timeout=0.01)
    gate.open()
    assert live.actor_stopped.wait(PATIENCE)


def test_when_a_stop_has_returned_the_key_is_free() -> None:
    """Also with a hook that takes its time: the key is free at the very end of the teardown."""
    ended: list[Hashable] = []

    class Slow(Counting):
        def on_stop(self) -> None:
            with contextlib.suppress(pykka.Timeout):
                pykka.ThreadingFuture[None]().get(timeout=0.01)
            ended.append(self.key)

    with AggregateRegistry.start(Slow) as registry:
        for key in range(10):
            registry.get_or_start(key)
            assert registry.ref(key).stop() is True
            assert ended[-1] == key
            assert registry.stats().live == 0
            assert nothing_remains(registry)
