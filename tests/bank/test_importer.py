"""From rows to accounts: every row once, in order, with far fewer live actors than accounts."""

from __future__ import annotations

import random
import threading
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
from eventsourcing.persistence import OperationalError

from examples.bank import accounts as accounts_module
from examples.bank import importer as module
from examples.bank.accounts import live_accounts
from examples.bank.application import Bank
from examples.bank.audit import balances_in, disagreements
from examples.bank.importer import Importer, Tally
from examples.bank.interrupt import Stopped
from examples.bank.problems import Failed
from examples.bank.store import find_store
from examples.bank.transactions import BadRow, open_transactions
from examples.bank.waiting import never
from pykka_registry import EndReason, Overloaded, Undeliverable
from pykka_registry.eventsourcing import _live
from tests.bank.support import (
    BOOK,
    Columns,
    Referee,
    make_rows,
    open_bank,
    replace_book,
    stored_balances,
    sums,
    watch,
    watched_by,
    write_csv,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from decimal import Decimal
    from pathlib import Path

    from eventsourcing.persistence import Recording

    from examples.bank.domain import Account
    from pykka_registry import Stats
    from pykka_registry.eventsourcing import LiveAggregates

ROWS = make_rows(600, 40)


@pytest.fixture
def referee(monkeypatch: pytest.MonkeyPatch) -> Referee:
    return watch(monkeypatch)


@pytest.fixture
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything that is done in portions is done in small ones."""
    monkeypatch.setattr(module, "CHUNK", 100)
    monkeypatch.setattr(module, "MAX_IN_FLIGHT", 7)


def import_rows(
    folder: Path,
    rows: list[Columns],
    *,
    bank_class: type[Bank] = Bank,
    max_live: int = 5,
    wants_to_stop: Callable[[], bool] = never,
    on_progress: Callable[[Tally], None] = lambda _tally: None,
    on_open: Callable[[Bank, LiveAggregates[Account]], object] = lambda _bank, _accounts: None,
    on_end: Callable[[Stats], None] = lambda _stats: None,
) -> Tally:
    path = write_csv(folder / "t.csv", rows)
    bank = bank_class(env=find_store(str(folder / "bank.sqlite"), create=True).settings)
    try:
        with (
            live_accounts(bank, max_live=max_live) as accounts,
            open_transactions(str(path)) as transactions,
        ):
            on_open(bank, accounts)
            importer = Importer(
                bank, accounts, wants_to_stop=wants_to_stop, on_progress=on_progress
            )
            try:
                importer.run(transactions)
            finally:
                stats = accounts.registry.stats()
                assert stats.queued == stats.waiting == 0
                assert stats.live <= max_live
                on_end(stats)
            return importer.tally
    finally:
        bank.close()


def test_every_row_is_booked(tmp_path: Path) -> None:
    tally = import_rows(tmp_path, ROWS)
    assert (tally.rows, tally.booked, tally.already_booked, tally.rejected) == (600, 600, 0, 0)
    assert tally.events == 600 * 2 + 40
    assert stored_balances(tmp_path / "bank.sqlite") == sums(ROWS)
    assert {key: balance for key, (_, balance) in tally.last_known.items()} == sums(ROWS)


@pytest.mark.parametrize("max_live", [2, 50])
def test_a_second_run_books_nothing(tmp_path: Path, max_live: int) -> None:
    import_rows(tmp_path, ROWS, max_live=max_live)
    tally = import_rows(tmp_path, ROWS, max_live=max_live)
    assert (tally.rows, tally.booked, tally.already_booked, tally.events) == (600, 0, 600, 0)
    assert {key: balance for key, (_, balance) in tally.last_known.items()} == sums(ROWS)
    assert stored_balances(tmp_path / "bank.sqlite") == sums(ROWS)


@pytest.mark.usefixtures("small_steps")
@pytest.mark.parametrize("max_live", [1, 2, 7])
def test_no_more_accounts_are_live_than_allowed_so_they_come_and_go(
    tmp_path: Path, referee: Referee, max_live: int
) -> None:
    ended: list[Stats] = []
    rows = make_rows(300, 40)
    tally = import_rows(tmp_path, rows, max_live=max_live, on_end=ended.append)
    assert tally.booked == 300
    assert 0 < referee.most <= max_live
    assert referee.most_per_account == 1
    (stats,) = ended
    assert stats.activations == referee.activations > 2 * 40
    assert stats.ends == {EndReason.EVICTED: stats.activations - stats.live}
    assert stored_balances(tmp_path / "bank.sqlite") == sums(rows)


@pytest.mark.parametrize("max_live", [1, 2, 16])
def test_an_account_is_activated_once_for_its_rows_however_many_messages_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, max_live: int
) -> None:
    """Each activation replays the account's events: those that are not needed cost time."""
    monkeypatch.setattr(module, "MAX_IN_FLIGHT", 7)
    ended: list[Stats] = []
    rows = [*make_rows(200, 40), *make_rows(100, 1, first=1000)]
    tally = import_rows(tmp_path, rows, max_live=max_live, on_end=ended.append)
    assert tally.booked == 300
    assert ended[0].activations == 40
    assert stored_balances(tmp_path / "bank.sqlite") == sums(rows)


def test_accounts_come_back_for_what_the_file_says_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "FIRST_CHUNK", 100)
    ended: list[Stats] = []
    tally = import_rows(tmp_path, ROWS, max_live=4, on_end=ended.append)
    assert tally.booked == 600
    # Of the first 100 rows each account has some, of the next 400, and of the last 100.
    assert 3 * 40 - 2 * 4 <= ended[0].activations <= 3 * 40
    assert ended[0].ends == {EndReason.EVICTED: ended[0].activations - ended[0].live}
    assert stored_balances(tmp_path / "bank.sqlite") == sums(ROWS)


def test_chunks_grow_up_to_a_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FIRST_CHUNK", 10)
    monkeypatch.setattr(module, "CHUNK", 100)
    numbers: Any = iter(range(300))
    assert [len(chunk) for chunk in module._chunks(numbers)] == [10, 40, 100, 100, 50]


def test_as_many_accounts_are_live_at_once_as_allowed(
    tmp_path: Path, referee: Referee, monkeypatch: pytest.MonkeyPatch
) -> None:
    together = threading.Barrier(5)

    def book_together(account: Account, *args: Any, **kwargs: Any) -> Decimal:
        together.wait(60)
        return BOOK(account, *args, **kwargs)

    replace_book(monkeypatch, book_together)
    import_rows(tmp_path, make_rows(40, 40), max_live=5)
    assert referee.most == 5


def test_rows_of_an_account_that_wait_together_are_stored_together(tmp_path: Path) -> None:
    saves: list[int] = []

    class CountingBank(Bank):
        def save(self, *objs: Any, **kwargs: Any) -> list[Recording[Any]]:
            saves.append(1)
            return super().save(*objs, **kwargs)

    tally = import_rows(tmp_path, make_rows(400, 20), bank_class=CountingBank, max_live=1)
    assert tally.booked == 400
    assert len(saves) <= 3 * 20  # as a rule its first row alone, and then the others


@pytest.mark.usefixtures("small_steps")
def test_each_accounts_rows_are_booked_in_the_files_order(tmp_path: Path) -> None:
    rows = make_rows(600, 40)
    random.Random(1).shuffle(rows)
    import_rows(tmp_path, rows)
    with open_bank(tmp_path / "bank.sqlite") as bank:
        account_ids = list(bank.account_ids())
        assert len(account_ids) == 40
        for account_id in account_ids:
            account = bank.account(account_id)
            assert account is not None
            events = list(bank.events.get(account.id))
            booked = [getattr(event, "reference", "") for event in events[1:]]
            assert booked == [row[0] for row in rows if row[1] == account_id]


def test_few_rows_are_in_flight_at_any_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One account, one slow reader: what is not answered is not sent."""
    most = 0
    sent = 0

    def count(account: Account, *args: Any, **kwargs: Any) -> Decimal:
        nonlocal sent
        sent += 1
        return BOOK(account, *args, **kwargs)

    def look(tally: Tally) -> None:
        nonlocal most
        most = max(most, sent - tally.rows)

    replace_book(monkeypatch, count)
    import_rows(tmp_path, make_rows(1500, 1), on_progress=look)
    assert sent == 1500
    assert 0 < most <= module.MAX_IN_FLIGHT


@pytest.mark.parametrize("max_live", [1, 50])
def test_an_id_that_comes_again_with_other_content_is_rejected_with_its_line(
    tmp_path: Path, max_live: int
) -> None:
    rows = [
        ("1", "A", "2024-02-29", "1.00"),
        ("1", "A", "2024-02-29", "1.00"),
        ("1", "A", "2024-02-29", "2.00"),
        ("2", "A", "2024-02-29", "5.00"),
    ]
    tally = import_rows(tmp_path, rows, max_live=max_live)
    assert (tally.booked, tally.already_booked, tally.rejected) == (2, 1, 1)
    (rejection,) = tally.rejections
    assert rejection.line == 4
    assert "'1' was booked before as account 'A', 2024-02-29, 1.00" in rejection.reason
    tally = import_rows(tmp_path, [("1", "B", "2024-02-29", "1.00"), rows[3]])
    assert (tally.booked, tally.already_booked, tally.rejected) == (0, 1, 1)
    assert {key: str(b) for key, b in stored_balances(tmp_path / "bank.sqlite").items()} == {
        "A": "6.00"
    }


@pytest.mark.usefixtures("small_steps")
def test_an_id_on_many_accounts_of_one_file_is_booked_on_the_first_of_them(tmp_path: Path) -> None:
    rows = [(str(n % 30), f"{n * 7 % 20}", "2024-02-29", "1.00") for n in range(250)]
    random.Random(1).shuffle(rows)
    first: dict[str, str] = {}
    for number, account, _, _ in rows:
        first.setdefault(number, account)
    tally = import_rows(tmp_path, rows, max_live=10)
    assert (tally.rows, tally.booked, tally.already_booked + tally.rejected) == (250, 30, 220)
    assert stored_balances(tmp_path / "bank.sqlite") == Counter(first.values())


def test_bad_rows_are_counted_and_only_the_first_are_kept(tmp_path: Path) -> None:
    rows = [("1", "A", "2024-02-29", "1.00"), *[("", "A", "2024-02-29", "1.00")] * 1500]
    tally = import_rows(tmp_path, rows)
    assert (tally.rows, tally.booked, tally.rejected) == (1501, 1, 1500)
    assert len(tally.rejections) == 1000
    assert tally.rejections[0] == BadRow(3, "transaction_id is empty")


@pytest.mark.usefixtures("small_steps")
@pytest.mark.parametrize("max_live", [1, 2, 50])
def test_stopped_on_the_way_it_counts_what_is_booked_and_goes_on_later(
    tmp_path: Path, max_live: int
) -> None:
    booked_when_asked = 0
    wish = threading.Event()

    def look(tally: Tally) -> None:
        nonlocal booked_when_asked
        if tally.booked > 200 and not wish.is_set():
            booked_when_asked = tally.booked
            wish.set()

    tally = import_rows(
        tmp_path, ROWS, max_live=max_live, wants_to_stop=wish.is_set, on_progress=look
    )
    assert 200 < booked_when_asked <= tally.booked <= booked_when_asked + module.MAX_IN_FLIGHT
    done = import_rows(tmp_path, ROWS, max_live=max_live)
    assert (done.already_booked, done.booked) == (tally.booked, 600 - tally.booked)
    assert stored_balances(tmp_path / "bank.sqlite") == sums(ROWS)


def test_once_stopped_rows_that_wait_for_their_turn_are_not_booked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wish = threading.Event()
    opened: list[Bank] = []
    calls = 0

    def hold(account: Account, *args: Any, **kwargs: Any) -> Decimal:
        nonlocal calls
        calls += 1
        if calls == 150:
            wish.set()
            assert opened[0].closing.wait(60)
        return BOOK(account, *args, **kwargs)

    with monkeypatch.context() as held:
        replace_book(held, hold)
        tally = import_rows(
            tmp_path,
            make_rows(800, 1),
            wants_to_stop=wish.is_set,
            on_open=lambda bank, _: opened.append(bank),
        )
    assert 0 < tally.rows == tally.booked < 150
    done = import_rows(tmp_path, make_rows(800, 1))
    assert (done.already_booked, done.rows) == (tally.booked, 800)


def test_once_stopped_accounts_that_wait_for_their_turn_to_be_live_book_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wish = threading.Event()
    opened: list[Bank] = []

    def hold(account: Account, *args: Any, **kwargs: Any) -> Decimal:
        wish.set()
        assert opened[0].closing.wait(60)
        return BOOK(account, *args, **kwargs)

    replace_book(monkeypatch, hold)
    tally = import_rows(
        tmp_path,
        make_rows(300, 100),
        max_live=2,
        wants_to_stop=wish.is_set,
        on_open=lambda bank, _: opened.append(bank),
    )
    assert tally.rows == 0
    assert stored_balances(tmp_path / "bank.sqlite") == {}


def test_while_an_account_is_held_up_it_looks_often_if_it_shall_stop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = threading.Event()
    looked_often = threading.Event()
    looks = 0

    def hold(account: Account, *args: Any, **kwargs: Any) -> Decimal:
        held.set()
        assert looked_often.wait(20)
        return BOOK(account, *args, **kwargs)

    def look() -> bool:
        nonlocal looks
        looks += held.is_set()
        if looks == 20:
            looked_often.set()
        return looked_often.is_set()

    replace_book(monkeypatch, hold)
    import_rows(tmp_path, make_rows(1, 1), wants_to_stop=look)
    assert looks == 20


def test_an_actor_that_cannot_start_ends_it_with_nothing_half_booked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    referee = Referee()
    watched: Any = watched_by(referee)

    class LateActor(watched):  # type: ignore[misc]
        def on_start(self) -> None:
            if referee.activations > 20:
                referee.leave(self.registry.actor_urn, self.key)  # it has no end of its own
                message = "out of something"
                raise RuntimeError(message)

    with monkeypatch.context() as late:
        late.setattr(_live, "LiveActor", LateActor)
        with pytest.raises(Undeliverable, match="failed to start"):
            import_rows(tmp_path, ROWS)
    assert referee.most_per_account == 1
    done = import_rows(tmp_path, ROWS)
    assert 0 < done.already_booked < 600
    assert stored_balances(tmp_path / "bank.sqlite") == sums(ROWS)


def test_an_account_that_does_not_get_its_turn_ends_it_with_nothing_half_booked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    others_gave_up = threading.Event()
    hogged = threading.Event()
    opened: list[LiveAggregates[Account]] = []

    def hog(account: Account, *args: Any, **kwargs: Any) -> Decimal:
        hogged.set()
        assert others_gave_up.wait(60)
        return BOOK(account, *args, **kwargs)

    def look() -> bool:
        if hogged.is_set() and opened[0].registry.stats().queued == 0:
            others_gave_up.set()
        return False

    with monkeypatch.context() as held:
        replace_book(held, hog)
        held.setattr(accounts_module, "TURN", 0.2)
        with pytest.raises(Overloaded):
            import_rows(
                tmp_path,
                ROWS,
                max_live=1,
                wants_to_stop=look,
                on_open=lambda _, accounts: opened.append(accounts),
            )
    done = import_rows(tmp_path, ROWS)
    assert 0 < done.already_booked < 600
    assert stored_balances(tmp_path / "bank.sqlite") == sums(ROWS)


def test_the_audit_stops_between_two_accounts(tmp_path: Path) -> None:
    import_rows(tmp_path, ROWS)
    read: list[str] = []

    class WatchedBank(Bank):
        def account(self, account_id: str, version: int | None = None) -> Account | None:
            read.append(account_id)
            return super().account(account_id, version)

    bank = WatchedBank(env=find_store(str(tmp_path / "bank.sqlite"), create=False).settings)
    try:
        with pytest.raises(Stopped):
            balances_in(bank, lambda: len(read) == 3)
    finally:
        bank.close()
    assert len(read) == 3


@pytest.mark.usefixtures("small_steps")
@pytest.mark.parametrize("max_live", [1, 2, 50])
def test_a_store_that_fails_half_way_ends_it_and_loses_nothing(
    tmp_path: Path, max_live: int
) -> None:
    class FailingBank(Bank):
        saves = 0

        def save(self, *objs: Any, **kwargs: Any) -> list[Recording[Any]]:
            self.saves += 1
            if self.saves > 50:
                message = "database or disk is full"
                raise OperationalError(message)
            return super().save(*objs, **kwargs)

    with pytest.raises(Failed, match=r"failed after \d+ rows: database or disk is full; nothing"):
        import_rows(tmp_path, ROWS, bank_class=FailingBank, max_live=max_live)
    tally = import_rows(tmp_path, ROWS)
    assert tally.already_booked > 0
    assert tally.booked + tally.already_booked == 600
    assert stored_balances(tmp_path / "bank.sqlite") == sums(ROWS)


def test_the_audit_finds_an_account_that_is_not_what_its_actor_said(tmp_path: Path) -> None:
    tally = import_rows(tmp_path, ROWS)
    with open_bank(tmp_path / "bank.sqlite") as bank:
        balances = balances_in(bank, never)
        assert balances == sums(ROWS)
        assert disagreements(bank, balances, tally.last_known) == []
        version, balance = tally.last_known["7"]
        for wrong in [
            (version, balance + 1),
            (version + 1, balance + 1),
            (version - 1, balance + 1),
        ]:
            found = disagreements(bank, balances, tally.last_known | {"7": wrong})
            assert len(found) == 1
            assert "account '7': its actor said" in found[0]
        assert disagreements(bank, balances, {"X": (1, balance)}) != []


def test_an_answer_stays_right_when_another_process_books_more(tmp_path: Path) -> None:
    tally = import_rows(tmp_path, ROWS)
    import_rows(tmp_path, make_rows(40, 40, first=1000))
    with open_bank(tmp_path / "bank.sqlite") as bank:
        balances = balances_in(bank, never)
        assert balances != sums(ROWS)
        assert disagreements(bank, balances, tally.last_known) == []
