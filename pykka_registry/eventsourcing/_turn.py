"""The actor around an aggregate: a command is one turn of it.

It loads the aggregate with its first command, decides, stores, and only then answers. The object in
memory is a copy of what is stored. So after any exception it is thrown away, for nobody knows what
it holds then, and the next command loads it again.

While other commands wait in the inbox they are decided one after the other, and stored together:
a batch. Until it is stored nobody has an answer, and nothing but commands sees what it has decided.
"""

from __future__ import annotations

import copy
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from eventsourcing.application import AggregateNotFoundError
from eventsourcing.persistence import (
    DataError,
    IntegrityError,
    InterfaceError,
    NotSupportedError,
    OperationalError,
    PersistenceError,
    ProgrammingError,
)

from pykka_registry._aggregate import AggregateMixin, owe
from pykka_registry._future import Future
from pykka_registry._log import log
from pykka_registry._pooled import PooledActor
from pykka_registry.eventsourcing._command import Command, Decision
from pykka_registry.eventsourcing._exceptions import (
    AggregateExists,
    ConcurrencyError,
    Fenced,
    OutcomeUnknown,
)
from pykka_registry.eventsourcing._group_commit import own
from pykka_registry.eventsourcing._outcome import Outcome, comes_from, look_up
from pykka_registry.eventsourcing._receipts import ReceiptBase

if TYPE_CHECKING:
    from collections.abc import Sequence

    from eventsourcing.application import Application
    from eventsourcing.domain import DomainEventProtocol

    from pykka_registry.eventsourcing._newcomers import Newcomers
    from pykka_registry.eventsourcing._receipts import Receipts
    from pykka_registry.eventsourcing._retirement import Retirement
    from pykka_registry.eventsourcing._snapshots import Snapshots

__all__ = ["LiveActor", "Pending", "Reply", "Setup"]

_NOT_STORED = (DataError, NotSupportedError, ProgrammingError, Fenced)
"""Errors that mean: the store has looked at it, and nothing of it was stored."""

_NO_ANSWER = (InterfaceError, OperationalError)
"""Errors that the store may not have raised: the connection was lost."""

_MOST_IN_BATCH = 100
"""Commands that are stored together, at most."""


@dataclass(frozen=True, slots=True)
class Setup:
    """What all the actors of one `LiveAggregates` share."""

    app: Application[Any]
    snapshots: Snapshots
    receipts: Receipts
    newcomers: Newcomers
    retirement: Retirement
    refusals: tuple[type[Exception], ...]
    attempts: int
    saves_plainly: bool
    inserts_once: bool
    may_store_later: bool


class _Events:
    """What an application is to save, in the place of an aggregate.

    Not the aggregate: the application would keep it, and take snapshots before we answer. Not the
    events one by one: of each the library would find out what it is, and that takes longer than to
    store it. Only one that comes alone is quicker without this.
    """

    # No settings of snapshots are about this class, so the application takes none by its id.

    def __init__(self, aggregate_id: Any, events: Sequence[DomainEventProtocol[Any]]) -> None:
        self.id = aggregate_id
        """The aggregate's, for a `save` of the application's own that looks at what it is given."""
        self._events = events

    @property
    def version(self) -> int:
        """The version that the aggregate has by the events."""
        last = self._events[-1]
        return last.aggregate_version if isinstance(last, ReceiptBase) else last.originator_version

    def collect_events(self) -> Sequence[DomainEventProtocol[Any]]:
        """Return the events; the library calls it."""
        return self._events


class _TakeSnapshot:
    """Tells an actor to take one, once those who wait for its answers have them."""


class _Flush:
    """Tells an actor to store its batch, even if nobody comes whom it has waited for."""


class Pending(Future[Decision[Any]]):
    """What a command is answered with that is stored later, together with others.

    It gets its result in the actor's turns only, and so does the reply that waits for it.
    """

    __slots__ = ("_reply",)

    def __init__(self) -> None:
        super().__init__()
        self._reply: Reply | None = None

    def give(self, value: Decision[Any]) -> bool:
        """Set the decision, once it is stored."""
        return super().give(value) and (self._reply is None or self._reply.give(value))

    def fail(self, error: BaseException) -> bool:
        """Set the exception."""
        return super().fail(error) and (self._reply is None or self._reply.fail(error))

    def hand_to(self, reply: Reply) -> None:
        """Have the reply get the result, now or later."""
        self._reply = reply
        if self._done:
            if self._exc_info is None:
                reply.give(self._value)
            else:
                assert self._exc_info[1] is not None
                reply.fail(self._exc_info[1])


class Reply(Future[Any]):
    """The reply to a command that nobody blocks on: of its decision, or of its result alone."""

    __slots__ = ("_is_whole",)

    def __init__(self, *, is_whole: bool) -> None:
        super().__init__()
        self._is_whole = is_whole

    def give(self, value: Decision[Any] | Pending) -> bool:
        """Set what a command has been answered with, unless that is still to come."""
        if isinstance(value, Pending):
            value.hand_to(self)
            return True
        return super().give(value if self._is_whole else value.result)


@dataclass(slots=True)
class _Decided:
    """A command in a batch."""

    command: Command
    decision: Decision[Any]
    events: list[DomainEventProtocol[Any]]
    answer: Pending


class LiveActor(AggregateMixin, PooledActor):
    """Has one aggregate, whose id is its key, and is the only one in this process to change it."""

    def __init__(self, setup: Setup) -> None:
        super().__init__()
        self._app = setup.app
        self._snapshots = setup.snapshots
        self._receipts = setup.receipts
        self._newcomers = setup.newcomers
        self._retirement = setup.retirement
        self._refusals = setup.refusals
        self._attempts = setup.attempts
        self._saves_plainly = setup.saves_plainly
        self._inserts_once = setup.inserts_once
        self._may_store_later = setup.may_store_later
        self._aggregate: Any = None
        """As it is stored, but for what the batch is to store. Or `None`, if that is to be found
        out; and while a command works on it, for that may fail at any point."""
        self._exists = False
        """Whether the aggregate is known to exist; if so it will for ever."""
        self._idle = setup.retirement.idle
        """After how many seconds it is passivated, as things are."""
        self._is_leaving = False
        """Whether it is to go, because there is no aggregate."""
        self._batch: list[_Decided] = []

    def execute(self, command: Command) -> Decision[Any] | Pending:
        """Carry out a command: when this returns it is stored, or it will be when that is done."""
        try:
            return self._take_turn(command)
        finally:
            self._leave_if_there_is_none()

    def _take_turn(self, command: Command) -> Decision[Any] | Pending:
        if self._receipts.was_found:
            first = self._receipts.find(command.terms.command_id)
            if first is not None:
                return self._repeat(first, command)
        others_wait = not self.actor_inbox.empty()
        if not (others_wait or self._batch) or not command.may_share:
            self._flush()
            return self._execute_alone(command)
        try:
            is_taken_for_new = self._is_likely_to_be_new(command)
            aggregate, version = self._load_or_make(command, is_taken_for_new=is_taken_for_new)
            self._aggregate = None
            decision = self._decide(command, aggregate, is_made=version == 0)
            events = self._to_store(command, decision)
        except Exception:  # noqa: BLE001  # it comes again, when nobody else depends on it
            self._flush()
            return self._execute_alone(command)
        except BaseException:
            self._flush()
            raise
        answer = Pending()
        owe(self, answer)
        self._batch.append(_Decided(command, decision, events, answer))
        self._aggregate = aggregate
        count = len(self._batch)
        if not others_wait or count == _MOST_IN_BATCH or (count == 1 and not self._remind()):
            self._flush()
        return answer

    def _remind(self) -> bool:
        """Have the batch stored in any case: those that wait may give up, and then nobody comes."""
        return self._tell_myself(_Flush())

    def _tell_myself(self, message: object) -> bool:
        """Put a message behind those that wait; false if the actor is about to end.

        Nobody waits for the answer. But what is asked and not answered is no dead letter.
        """
        answer: Any = self.actor_ref.ask(message, block=False)
        return not answer.done()

    def on_stop(self) -> None:
        """Store what is decided."""
        self._flush()

    def on_failure(self, *_error: object) -> None:
        """Store what is decided."""
        self._flush()

    def _flush(self) -> None:
        """Store the batch, and answer; or each of its commands alone, if that is not to be."""
        batch, self._batch = self._batch, []
        if not batch:
            return
        try:
            if not self._store_batch(batch):
                self._newcomers.was_there()
                for decided in batch:
                    try:
                        decided.answer.give(self._execute_alone(decided.command, is_again=True))
                    except Exception as error:  # noqa: BLE001  # it goes to its caller
                        decided.answer.fail(error)
        finally:
            for decided in batch:
                decided.answer.fail(OutcomeUnknown())  # an interrupt; who has an answer keeps it

    def _store_batch(self, batch: Sequence[_Decided]) -> bool:
        """Store a batch, and answer; false if each of its commands is to be carried out alone."""
        aggregate, self._aggregate = self._aggregate, None
        events = [event for decided in batch for event in decided.events]
        made = [event for decided in batch for event in decided.decision.events]
        try:
            # Only events of the aggregate are checked for its version when they are saved.
            is_old = not made and self._is_old(batch[-1].decision.version)
            if is_old or (events and not self._save(events)):
                return False
        except OutcomeUnknown as error:
            for decided in batch:
                decided.answer.fail(_unknown(error))
            return True
        except (IntegrityError, *_NOT_STORED):
            return False
        except PersistenceError as error:
            # To ask a store that has failed again for each would only take their time.
            for decided in batch:
                decided.answer.fail(own(error))
            return True
        except Exception:  # noqa: BLE001  # nothing is stored, perhaps because of one of them
            return False
        self._aggregate = aggregate
        self._note_what_is_stored(aggregate, made)
        for decided in batch:
            decided.answer.give(decided.decision)
        return True

    def _execute_alone(self, command: Command, *, is_again: bool = False) -> Decision[Any]:
        # If a batch could not be stored some of it may have been done before.
        first = self._receipts.find(command.terms.command_id) if is_again else None
        return self._execute(command) if first is None else self._repeat(first, command)

    def validate(self, command: Command) -> Decision[Any]:
        """Carry out a command on a copy."""
        self._flush()
        try:
            first = self._receipts.find(command.terms.command_id)
            if first is not None:
                return self._repeat(first, command)
            if self._aggregate is not None and self._is_old(self._aggregate.version):
                self._aggregate = None  # what would be is decided on what is stored
            return self._try(command)
        finally:
            self._leave_if_there_is_none()

    def _try(self, command: Command) -> Decision[Any]:
        version = 0
        try:
            aggregate, version = self._load_or_make(command)
            decision = self._decide(command, copy.deepcopy(aggregate), is_made=version == 0)
        except self._refusals as error:
            if command.terms.command_id is not None:
                self._receipts.of_refusal(command, self.key, version, error)
            raise
        self._to_store(command, decision)  # which fails if a receipt cannot keep the answer
        return decision

    def on_receive(self, message: object) -> None:
        """Store the batch, and take a snapshot if it says so."""
        self._flush()
        if isinstance(message, _TakeSnapshot) and self._aggregate is not None:
            self._snapshots.take(self._aggregate)
        self._leave_if_there_is_none()

    def _is_likely_to_be_new(self, command: Command) -> bool:
        """Tell whether to decide without a look at the store if there is an aggregate already."""
        return (
            self._newcomers.are_likely
            and command.new is not None
            and command.may_share
            and self._aggregate is None
            and not self._exists
            # Events that are there already must not be taken for ours, of the same microsecond.
            and (self._inserts_once or command.terms.command_id is not None)
        )

    def _take_for_new(self, command: Command) -> Decision[Any] | None:
        """Carry out a command as if there were no aggregate; `None` if there may be one.

        Raises:
            PersistenceError: what the store has failed with.
        """
        try:
            aggregate, _ = self._load_or_make(command, is_taken_for_new=True)
            decision = self._decide(command, aggregate, is_made=True)
        except Exception:  # noqa: BLE001  # the caller is to get it for what is stored
            return None
        try:
            is_stored, first = self._store(command, decision)
        except Exception as error:
            if isinstance(error, PersistenceError) and not isinstance(error, _NOT_STORED):
                raise
            return None  # nothing is stored, and why may have to do with what was made
        if is_stored:
            self._aggregate = aggregate
            self._note_what_is_stored(aggregate, decision.events)
            return decision
        self._newcomers.was_there()
        return None if first is None else self._repeat(first, command)

    def _execute(self, command: Command) -> Decision[Any]:
        if self._is_likely_to_be_new(command):
            decision = self._take_for_new(command)
            if decision is not None:
                return decision
        for _ in range(self._attempts):
            was_in_memory = self._aggregate is not None
            version = 0
            try:
                aggregate, version = self._load_or_make(command)
                self._aggregate = None
                decision = self._decide(command, aggregate, is_made=version == 0)
            except Exception as error:  # noqa: BLE001  # whatever it is, it goes to the caller
                if was_in_memory and version and self._is_old(version):
                    continue  # another process may have given it reason to decide otherwise
                return self._refuse(command, version, error)
            if was_in_memory and self._is_stale(command, decision):
                continue
            is_stored, first = self._store(command, decision)
            if is_stored:
                self._aggregate = aggregate
                self._note_what_is_stored(aggregate, decision.events)
                return decision
            if first is not None:
                return self._repeat(first, command)
            if command.must_be_new:
                raise AggregateExists(self.key)
        raise ConcurrencyError(self.key, attempts=self._attempts)

    def _load_or_make(self, command: Command, *, is_taken_for_new: bool = False) -> tuple[Any, int]:
        """Return the aggregate and its version, which is 0 if this has made it.

        If it must be new, or is taken for new, the store is not asked.

        Raises:
            AggregateExists: if it must be new, and is not.
            AggregateNotFoundError: if there is none, and the command makes none.
            ConcurrencyError: if it is not of the version that the caller expects.
        """
        expected = command.terms.expected_version
        if expected is not None and self._aggregate is not None:
            if self._aggregate.version == expected:
                return self._aggregate, expected
            self._aggregate = None  # the caller may know more
        aggregate, version = self._aggregate, None
        if aggregate is None and not (command.must_be_new or is_taken_for_new):
            aggregate = self._look_for(command)
        if aggregate is None:
            assert command.new is not None
            aggregate, version = command.new(), 0
            if aggregate.id != self.key:
                message = f"{aggregate!r} was made for the id {self.key!r}, which it does not have"
                raise ValueError(message)
        elif command.must_be_new:
            raise AggregateExists(self.key)
        if version is None:
            version = aggregate.version
        if expected is not None and version != expected:
            raise ConcurrencyError(self.key, expected=expected, found=version)
        return aggregate, version

    def _look_for(self, command: Command) -> Any:
        """Load the aggregate; return `None` if there is none, and the command makes it."""
        try:
            aggregate = self._load()
        except AggregateNotFoundError:
            if command.new is None:
                raise
            self._newcomers.has_come()
            return None
        if command.new is not None:
            self._newcomers.was_there()
        return aggregate

    def _load(self) -> Any:
        aggregate = self._aggregate = self._snapshots.load(self.key)
        self._note_that_it_exists()
        self._look_ahead(aggregate, ())
        return aggregate

    def _decide(self, command: Command, aggregate: Any, *, is_made: bool) -> Decision[Any]:
        result = command.run(aggregate)
        events = tuple(aggregate.collect_events())
        first = aggregate.INITIAL_VERSION
        if is_made and not (events and events[0].originator_version == first):
            # It would be taken for stored, and what follows would be stored without a beginning.
            message = (
                f"{aggregate!r} was made without the event of version {first} that creates it: "
                "the factory must make a new one each time, that nobody has saved"
            )
            raise ValueError(message)
        if events and not command.stores:
            message = f"a query must not trigger events, and this one has: {events}"
            raise TypeError(message)
        return Decision(result, aggregate.version, events)

    def _refuse(self, command: Command, version: int, error: Exception) -> Decision[Any]:
        """Answer a command of which nothing has come but an error."""
        command_id = command.terms.command_id
        first = self._receipts.find(command_id)
        if first is None and command_id is not None and isinstance(error, self._refusals):
            receipt = self._receipts.of_refusal(command, self.key, version, error)
            if not self._save([receipt]):
                first = self._receipts.find(command_id)
        if first is not None:
            return self._repeat(first, command)
        raise error

    def _repeat(self, receipt: ReceiptBase[Any], command: Command) -> Decision[Any]:
        """Answer a command that is done, and note what its receipt says of the aggregate."""
        if receipt.aggregate_version and receipt.aggregate_id == str(self.key):
            self._note_that_it_exists()
            # Who has an answer from another process is to see what that has stored.
            if self._aggregate is not None and self._aggregate.version < receipt.aggregate_version:
                self._flush()
                self._aggregate = None
        return self._receipts.repeat(receipt, command, self.key)

    def _store(
        self, command: Command, decision: Decision[Any]
    ) -> tuple[bool, ReceiptBase[Any] | None]:
        """Store what was decided; if that is not to be, return the receipt that is in its way."""
        events = self._to_store(command, decision)
        if not events or self._save(events):
            return True, None
        return False, self._receipts.find(command.terms.command_id)

    def _to_store(
        self, command: Command, decision: Decision[Any]
    ) -> list[DomainEventProtocol[Any]]:
        events: list[DomainEventProtocol[Any]] = [*decision.events]
        if command.terms.command_id is not None:
            events.append(self._receipts.of_answer(command, self.key, decision))
        return events

    def _save(self, events: Sequence[DomainEventProtocol[Any]]) -> bool:
        """Store events, and tell whether they are stored; if not, others are at their versions.

        Raises:
            OutcomeUnknown: if that cannot be found out, or may still change.
            Exception: what the store has failed with, if nothing is stored.
        """
        is_plain = len(events) == 1 and self._saves_plainly
        saved: Any = events[0] if is_plain else _Events(self.key, events)
        try:
            self._app.save(saved)
        except _NOT_STORED:
            raise
        except Exception as error:
            if not isinstance(error, PersistenceError) and not self._can_be_encoded(events):
                raise  # before anything came to the store
            try:
                outcome = look_up(self._app.events, events)
            except Exception:  # noqa: BLE001  # the first error says more
                raise OutcomeUnknown from error
            if outcome is Outcome.NOBODYS:
                if self._may_store_later and isinstance(error, _NO_ANSWER):
                    raise OutcomeUnknown from error
                raise
            if isinstance(error, IntegrityError):
                is_anothers = self._inserts_once and comes_from(error, self._app.events)
                return outcome is Outcome.OURS and not is_anothers
            if outcome is Outcome.OURS:
                what = "the store has failed, but the events of %r are stored"
                log(logging.WARNING, what, self.key, error=error)
            return outcome is Outcome.OURS
        return True

    def _can_be_encoded(self, events: Sequence[DomainEventProtocol[Any]]) -> bool:
        try:
            for event in events:
                self._app.events.mapper.to_stored_event(event)
        except Exception:  # noqa: BLE001  # whatever a transcoding may raise
            return False
        return True

    def _is_stale(self, command: Command, decision: Decision[Any]) -> bool:
        """Tell whether another process was faster than what has decided nothing that is saved."""
        must_be_current = command.stores or command.terms.expected_version is not None
        return must_be_current and not decision.events and self._is_old(decision.version)

    def _is_old(self, version: int) -> bool:
        recorder = self._app.events.recorder
        return bool(recorder.select_events(self.key, gt=version, limit=1))

    def _note_what_is_stored(
        self, aggregate: Any, events: Sequence[DomainEventProtocol[Any]]
    ) -> None:
        if events:
            self._note_that_it_exists()
            if aggregate is not None:  # else another command has failed on it since
                self._look_ahead(aggregate, events)

    def _look_ahead(self, aggregate: Any, events: Sequence[DomainEventProtocol[Any]]) -> None:
        """See to what may follow from a command that is stored, or from what has been loaded.

        Nothing of this can fail a command.
        """
        if self._snapshots.are_due(aggregate, events):
            self._tell_myself(_TakeSnapshot())
        try:
            last = events[-1] if events else self._last_event(aggregate.version)
            idle = self._retirement.after(aggregate, last)
            if idle != self._idle:
                self.passivate(idle)
                self._idle = idle
        except Exception as error:  # noqa: BLE001  # the user's function, or the store
            what = "passivate_on or passivate_after has failed for %r"
            log(logging.ERROR, what, self.key, error=error)

    def _last_event(self, version: int) -> DomainEventProtocol[Any] | None:
        """Read the event of a version, if there are rules that ask for it."""
        if not self._retirement.has_rules:
            return None
        return next(self._app.events.get(self.key, gt=version - 1, lte=version), None)

    def _leave_if_there_is_none(self) -> None:
        """Go, as soon as nothing waits, unless there is an aggregate, or a batch will make one."""
        if not self._exists and not self._batch:
            self.passivate(0)
            self._is_leaving = True

    def _note_that_it_exists(self) -> None:
        self._exists = True
        if self._is_leaving:
            self.passivate(self._idle)
            self._is_leaving = False


def _unknown(error: OutcomeUnknown) -> OutcomeUnknown:
    """Return one like it: two threads must not raise the same."""
    another = OutcomeUnknown()
    another.__cause__ = error.__cause__
    return another
