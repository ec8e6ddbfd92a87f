"""What puts a table right again whose last decision was cut short.

A KeyboardInterrupt may come between any two steps of a decision, and a key's own `__hash__` and
`__eq__` may raise. What is left then is half done. Which state each entry is in, whose incarnation
it has, what waits in its queue and who asks for a start is taken as it stands; all else follows
from that, and is made anew. It looks at every entry, and is rare.

All of it needs the table's lock.
"""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from typing import TYPE_CHECKING, cast

from pykka_registry._entry import State
from pykka_registry._events import DeadLetterReason
from pykka_registry._inbox import is_expired, is_stop
from pykka_registry._rows import LAUNCH_AGAIN, abandoned, launch, undeliverable

if TYPE_CHECKING:
    from pykka_registry._after import After
    from pykka_registry._entry import Entry, Incarnation
    from pykka_registry._rows import Rows
    from pykka_registry._supervision import Record

__all__ = ["mend"]


def mend(table: Rows, after: After) -> None:
    """Make what a table keeps besides its rows consistent with them, and go on from there."""
    if table._lost:
        table._make_anew(dict(table._lost))
    _forget_strangers(table)
    for entry in table._all_entries():
        _mend_entry(table, entry)
    table._alarms.mend()
    _mend_active(table)
    moved = _count(table)
    entries = table._all_entries()
    table.admission.mend([e.incarnation for e in entries if e.incarnation is not None])
    for entry in entries:
        _go_on(table, entry, after, moved=moved)
    for record in table._failures.all():
        if not table._alarms.has(record) and _is_left_alone(table, record):
            table._alarm(record, table.policy.failure_window)
    table._admit(after)
    table._check_settled()


def _forget_strangers(table: Rows) -> None:
    """Let go of entries that have not come into the table, or have just left it."""
    there = set(table._all_entries())
    for incarnation in table.admission.all():
        if incarnation.entry not in there:
            incarnation.entry.state = State.ABSENT
            incarnation.entry.alarm = None


def _mend_entry(table: Rows, entry: Entry) -> None:
    """Finish what an entry has only half of."""
    incarnation = entry.incarnation
    if incarnation is not None and incarnation.begun and incarnation.life is None:  # it has ended
        entry.incarnation = incarnation = None
        if entry.state is State.QUARANTINED:
            entry.state = State.ABSENT
    if entry.state is State.ABSENT:
        entry.alarm = None
        table._delete(entry)
        return
    if incarnation is not None and entry.state is State.STOPPING and not incarnation.begun:
        entry.incarnation = incarnation = None  # a successor that has not come into the line
    if entry.state is State.BACKOFF:
        entry.incarnation = None
    elif entry.state in {State.STARTING, State.STOPPING} and incarnation is None:
        # It has ended, or was not wanted; who waits for the key now comes to it by its alarm.
        entry.state = State.BACKOFF
        entry.ref = None
    entry.left_over = min(entry.left_over, len(entry.queue))


def _mend_active(table: Rows) -> None:
    """Let look-ups find those who are active, and nobody else."""
    for key, ref in list(table.active.items()):
        owner = cast("Incarnation", ref._life.inbox.owner)
        if owner.entry.state is not State.ACTIVE or owner.entry.ref is not ref:
            with contextlib.suppress(Exception):  # a key's own __hash__ or __eq__
                table.active.pop(key, None)
    for entry in table._entries.values():
        if entry.state is State.ACTIVE and entry.ref is not None:
            with contextlib.suppress(Exception):  # the same
                table.active[entry.key] = entry.ref


def _count(table: Rows) -> bool:
    """Count anew; tells whether an entry was between two states."""
    entries = table._all_entries()
    states = Counter(entry.state for entry in entries)
    states[State.ABSENT] = -len(entries)
    moved = any(states[state] != table._states[state] for state in State)
    table._states = states
    table._queued = table._quiet = 0
    for entry in entries:
        entry.expired = 0
        for letter in entry.queue:
            if is_stop(letter.message):
                continue
            is_counted = not is_expired(letter)
            if letter.reply_to is not None:
                letter.reply_to.queued = is_counted
            table._queued += is_counted
            entry.expired += not is_counted
        if entry.incarnation is not None:
            entry.incarnation.quiet &= entry.state is State.ACTIVE
            table._quiet += entry.incarnation.quiet
    return moved


def _go_on(table: Rows, entry: Entry, after: After, *, moved: bool) -> None:
    """See that something happens next to an entry: an alarm, a launch, an end."""
    incarnation = entry.incarnation
    if entry.given_up is not None:
        table._give_up(entry, *entry.given_up, after)
        return
    if entry.state is State.QUARANTINED and entry.queue:
        if incarnation is None:
            reason, error = DeadLetterReason.QUARANTINED, undeliverable(entry)
        else:
            reason, error = DeadLetterReason.ABANDONED, abandoned(entry)
        table._report_queue(entry, reason, error, after)
    if incarnation is not None and incarnation.launched and not incarnation.begun:
        table._alarm(entry, LAUNCH_AGAIN)
        after.do(launch, incarnation)
    elif moved or not table._alarms.has(entry):
        table._alarm(entry, _delay(table, entry))
    if incarnation is not None and incarnation.life is not None:
        if entry.state is State.ACTIVE:
            if table.refusal is not None or table.admission.wants_place_of(incarnation):
                incarnation.inbox.nudge(after.do)
        elif entry.state is State.STOPPING:
            after.do(incarnation.life.set)  # it may not have come to that
    table._drop_if_unwanted(entry, after)


def _delay(table: Rows, entry: Entry) -> float | None:
    """Return after how many seconds an entry is to be looked at, in the state that it is in."""
    incarnation = entry.incarnation
    if entry.state is State.BACKOFF:
        record = None
        with contextlib.suppress(Exception):  # a key's own __hash__ or __eq__
            record = table._failures.get(entry.key)
        return 0.0 if record is None else record.rest(time.monotonic())
    if entry.state is State.ACTIVE:
        assert incarnation is not None
        return table._linger if table.refusal is not None else incarnation.idle or None
    if entry.state is State.QUARANTINED:
        by_itself = incarnation is None and table.policy.restart != "never"
        return table.policy.quarantine if by_itself else None
    is_starting = entry.state is State.STARTING
    return table.policy.start_timeout if is_starting else table.policy.stop_timeout


def _is_left_alone(table: Rows, record: Record) -> bool:
    """Tell whether a key's failures are to be forgotten after a while."""
    entry = None
    with contextlib.suppress(Exception):  # a key's own __hash__ or __eq__
        entry = table._entries.get(record.key)
    return entry is None or entry.state is State.ACTIVE
