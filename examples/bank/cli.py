"""The command line: what the user may say, in which order things happen, how it ends.

Exit status: 0 done, 1 failed or refused, 2 unusable input, 130 stopped by Ctrl-C.
"""

from __future__ import annotations

import argparse
import io
import logging
import os
import sys
import time
from contextlib import contextmanager, nullcontext
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NoReturn
from uuid import uuid4

from examples.bank.accounts import MAX_LIVE, live_accounts
from examples.bank.audit import balances_in, disagreements
from examples.bank.balances import check_balances_path, write_balances
from examples.bank.domain import Refusal
from examples.bank.importer import Importer
from examples.bank.interrupt import PROGRAM, STOPPED, CtrlC, Stopped
from examples.bank.money import parse_amount, plain
from examples.bank.problems import Failed, Problem, Unusable, without_secrets
from examples.bank.sample import sample_csv
from examples.bank.screen import Screen
from examples.bank.store import STORE_ERRORS, Store, cause_of, explain, find_store, first_line
from examples.bank.transactions import TransactionFile, check_id, open_transactions
from examples.bank.transfer import Order, State
from examples.bank.transfers import TransferDesk, open_desk
from pykka_registry import RegistryError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence
    from contextlib import AbstractContextManager
    from decimal import Decimal

    from examples.bank.application import Bank

_BESIDE_THE_STORE = ("-wal", "-shm", "-journal")  # SQLite's own


def main(arguments: Sequence[str]) -> int:
    """Run one command; return its exit status."""
    # What goes wrong is said below, once; Pykka's log would say it a second time.
    logging.basicConfig(handlers=[logging.NullHandler()])
    ctrl_c = CtrlC()
    with ctrl_c.heard():
        try:
            status = _run(arguments, Screen(), ctrl_c)
            sys.stdout.flush()
        except Stopped:
            ctrl_c.say_farewell()
            return STOPPED
        except Problem as problem:
            _complain(str(problem))
            return problem.status
        except (OSError, RuntimeError, RegistryError) as error:
            # No disk space for the output, no further thread: not ours to mend.
            _complain(f"failed: {first_line(error.__cause__ or error)}; {ctrl_c.how_to_go_on}")
            _give_up_output()
            return Failed.status
        return status


def _run(arguments: Sequence[str], screen: Screen, ctrl_c: CtrlC) -> int:
    if arguments and arguments[0] == "transfer":
        return _transfer(_transfer_parser().parse_args(arguments[1:]), screen, ctrl_c)
    parser = _import_parser()
    options, unknown = parser.parse_known_args(arguments)
    if unknown and options.file == "transfer":
        parser.error(f"transfer comes first: {PROGRAM} transfer FROM TO AMOUNT --db STORE")
    if unknown:
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    return _import(options, screen, ctrl_c)


def _complain(line: str) -> None:
    print(f"{PROGRAM}: {without_secrets(line)}", file=sys.stderr)


def _give_up_output() -> None:
    try:
        sys.stdout.flush()
    except OSError:
        # Python would try again at the very end, and complain in its own words.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(
            Unusable.status, f"{PROGRAM}: {without_secrets(message)}; see {self.prog} --help\n"
        )


def _import_parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog=PROGRAM,
        description="Book the transactions of a CSV file, each one once.",
        epilog=f"See also: {PROGRAM} transfer --help",
    )
    parser.add_argument(
        "file",
        nargs="?",
        metavar="FILE",
        help="CSV with the header transaction_id,account_id,date,amount; without it a sample",
    )
    _add_db(parser)
    parser.add_argument(
        "--balances",
        default="balances.csv",
        metavar="FILE",
        help="where to write account_id,balance (default: %(default)s)",
    )
    parser.add_argument(
        "--max-live",
        type=_positive,
        default=MAX_LIVE,
        metavar="N",
        help="account actors that are live at the same time, at most (default: %(default)s)",
    )
    return parser


def _transfer_parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog=f"{PROGRAM} transfer",
        description="Move money from one account to another, as a whole or not at all.",
    )
    parser.add_argument("payer", type=_id, metavar="FROM", help="the account that pays")
    parser.add_argument("payee", type=_id, metavar="TO", help="the account that receives")
    parser.add_argument("amount", type=_amount, metavar="AMOUNT", help="such as 12.50")
    _add_db(parser)
    parser.add_argument(
        "--id",
        type=_id,
        metavar="ID",
        help="name the transfer: the same command with the same id is the same transfer",
    )
    return parser


def _add_db(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--db",
        default="bank.sqlite",
        metavar="STORE",
        help="path of a SQLite file, or postgresql://user:password@host:port/dbname "
        "(default: %(default)s)",
    )


def _positive(text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number <= 0:
        msg = f"{text!r} is not a positive whole number"
        raise argparse.ArgumentTypeError(msg)
    return number


def _id(text: str) -> str:
    try:
        check_id("the id", text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return text


def _amount(text: str) -> Decimal:
    try:
        amount = parse_amount(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    if amount <= 0:
        msg = f"{text} is not more than nothing"
        raise argparse.ArgumentTypeError(msg)
    return amount


def _import(options: argparse.Namespace, screen: Screen, ctrl_c: CtrlC) -> int:
    _check_paths(options.file, options.db, options.balances)
    with _transactions(options.file) as transactions:
        check_balances_path(options.balances)
        store = find_store(options.db, create=True)
        with ctrl_c.as_a_wish() as wants_to_stop:
            with _open(store, wants_to_stop) as bank:
                _finish_transfers(bank, screen, wants_to_stop, options.max_live)
                last_known = _book(bank, transactions, options.max_live, screen, wants_to_stop)
            return _verify(store, last_known, options.balances, screen, wants_to_stop)


def _book(
    bank: Bank,
    transactions: TransactionFile,
    max_live: int,
    screen: Screen,
    wants_to_stop: Callable[[], bool],
) -> dict[str, tuple[int, Decimal]]:
    started = time.monotonic()
    with (
        live_accounts(bank, max_live=max_live) as accounts,
        screen.progress(transactions.rows, lambda: accounts.registry.stats().live) as on_progress,
    ):
        importer = Importer(bank, accounts, wants_to_stop=wants_to_stop, on_progress=on_progress)
        finished = importer.run(transactions)
        activations = accounts.registry.stats().activations
    tally = importer.tally
    screen.rejections(transactions.name, tally)
    screen.summary(tally, activations, time.monotonic() - started)
    if not finished:
        raise Stopped
    return tally.last_known


def _verify(
    store: Store,
    last_known: dict[str, tuple[int, Decimal]],
    balances_path: str,
    screen: Screen,
    wants_to_stop: Callable[[], bool],
) -> int:
    # A fresh application: nothing that is still in some memory can make it agree.
    with _open(store, wants_to_stop) as bank:
        with screen.waiting("reading every account again"):
            balances = balances_in(bank, wants_to_stop)
        found = disagreements(bank, balances, last_known)
    if found:
        msg = "the store and the actors disagree: " + "; ".join(found[:5])
        raise Failed(msg)
    write_balances(balances_path, balances)
    screen.say(
        f"All {len(balances):,} accounts were read from the store again and agree with the actors."
    )
    screen.say(f"Balances: {balances_path}   Store: {store.name}")
    return 0


def _transfer(options: argparse.Namespace, screen: Screen, ctrl_c: CtrlC) -> int:
    if options.payer == options.payee:
        msg = f"{options.payer!r} is both accounts; a transfer needs two"
        raise Unusable(msg)
    order = Order(
        transfer_id=options.id or str(uuid4()),
        payer=options.payer,
        payee=options.payee,
        amount=options.amount,
        on=datetime.now(UTC).date(),
    )
    if options.id is None:
        # Without it the same command would be another transfer.
        ctrl_c.how_to_go_on = (
            f"nothing is half booked: run the same command with --id {order.transfer_id} to go on"
        )
    store = find_store(options.db, create=False)
    with ctrl_c.as_a_wish() as wants_to_stop, _open(store, wants_to_stop) as bank:
        _finish_transfers(bank, screen, wants_to_stop)
        for account_id in (order.payer, order.payee):
            if bank.account(account_id) is None:
                msg = f"account {account_id!r} is unknown in {store.name}; nothing was moved"
                raise Failed(msg)
        with open_desk(bank, wants_to_stop) as desk:
            return _carry_out(bank, desk, order, screen)


def _carry_out(bank: Bank, desk: TransferDesk, order: Order, screen: Screen) -> int:
    before = bank.transfer(order.transfer_id)
    name = f"transfer {order.transfer_id}"
    try:
        transfer = desk.carry_out(order)
    except Refusal as refusal:
        raise Failed(str(refusal)) from refusal
    except STORE_ERRORS as error:
        msg = f"{name}: the store failed: {cause_of(error)}; the next command will finish it"
        raise Failed(msg) from error
    if transfer.state is State.REFUSED:
        msg = f"{name} was refused: {transfer.reason}; nothing was moved"
        raise Failed(msg)
    if transfer.state is State.REFUNDED:
        msg = f"{name} was refused: {transfer.reason}; {transfer.payer!r} got the money back"
        raise Failed(msg)
    done_before = before is not None and before.is_over
    what = "was completed before, nothing more was moved" if done_before else "completed"
    screen.say(f"{name} {what}: {plain(transfer.amount)} from {transfer.payer} to {transfer.payee}")
    return 0


def _finish_transfers(
    bank: Bank, screen: Screen, wants_to_stop: Callable[[], bool], max_live: int = MAX_LIVE
) -> None:
    if not bank.unfinished_transfers():
        return
    with open_desk(bank, wants_to_stop, max_live=max_live) as desk:
        for transfer in desk.finish_all():
            screen.say(
                f"An unfinished transfer was found and is now {transfer.state}: "
                f"{transfer.transfer_id}, {plain(transfer.amount)} "
                f"from {transfer.payer} to {transfer.payee}"
            )


def _check_paths(file: str | None, db: str, balances: str) -> None:
    paths = {"the transactions": file, "the store": db, "the balances": balances}
    store = os.path.realpath(db)
    seen = dict.fromkeys((store + suffix for suffix in _BESIDE_THE_STORE), "a file of the store")
    for what, path in paths.items():
        if path is None:
            continue
        if "://" in path:
            if what == "the store":
                continue
            msg = f"{what} cannot be at a URL; give the path of a file"
            raise Unusable(msg)
        other = seen.setdefault(os.path.realpath(path), what)
        if other != what:
            msg = f"{path}: cannot be both {other} and {what}"
            raise Unusable(msg)


def _transactions(file: str | None) -> AbstractContextManager[TransactionFile]:
    if file is not None:
        return open_transactions(file)
    lines = [line.encode() + b"\n" for line in sample_csv()]
    return nullcontext(TransactionFile("sample", io.BytesIO(b"".join(lines)), len(lines) - 1))


@contextmanager
def _open(store: Store, wants_to_stop: Callable[[], bool]) -> Generator[Bank]:
    """Open a store, and turn what it raises into one line."""
    bank = store.open(wants_to_stop)
    try:
        yield bank
    except STORE_ERRORS as error:
        msg = f"{store.name}: the store failed: {explain(error)}"
        raise Failed(msg) from error
    finally:
        bank.close()
