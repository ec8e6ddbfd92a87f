"""Take each guard out and see its test fail: a test that passes without the guard proves nothing.

    python -m tests.guards [WORD ...]

Each guard is a piece of the package's source and what stands there without it. The package and its
tests are copied to an empty folder, the guard is taken out there, and the tests that are named
beside it must fail or time out. With words only the guards whose description has one of them are
tried. The exit status tells whether every guard was missed.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
SECONDS_PER_TEST = 10
AT_ONCE = 4


@dataclass(frozen=True)
class Guard:
    """A guard, and the tests that miss it."""

    what: str
    file: str
    guard: str
    without: str
    tests: str


GUARDS = [
    Guard(
        "claiming a key is atomic",
        "_rows.py",
        "            self._entries[entry.key] = entry\n",
        "            self._lock.release(); __import__('time').sleep(0); self._lock.acquire()  # type: ignore\n"
        "            self._entries[entry.key] = entry\n",
        "tests/test_races.py",
    ),
    Guard(
        "a successor starts after its predecessor's teardown",
        "_table.py",
        "            self._move(entry, State.STOPPING)\n"
        "            self.admission.leave(incarnation)\n",
        "            self._move(entry, State.STOPPING)\n"
        "            self.admission.leave(incarnation)\n"
        "            self._entries.pop(entry.key)\n"
        "            self._entries[object()] = entry\n"
        "            entry.key = next(k for k, e in self._entries.items() if e is entry)\n",
        "tests/test_aggregate.py::test_a_successor_starts_only_after_on_stop_has_returned",
    ),
    Guard(
        "a thread that comes late finds that it is not wanted",
        "_table.py",
        "        if self._is_due(incarnation):\n            incarnation.life = life\n",
        "        if True:\n            incarnation.life = life\n",
        "tests/test_aggregate.py -k keyboard_interrupt_before",
    ),
    Guard(
        "the referee sees a successor that starts too early",
        "_table.py",
        "            self._move(entry, State.STOPPING)\n"
        "            self.admission.leave(incarnation)\n",
        "            self._move(entry, State.STOPPING)\n"
        "            self.admission.leave(incarnation)\n"
        "            self._entries.pop(entry.key)\n"
        "            self._entries[object()] = entry\n"
        "            entry.key = next(k for k, e in self._entries.items() if e is entry)\n",
        "tests/test_races.py::test_no_key_ever_has_two_live_incarnations",
    ),
    Guard(
        "a ref leaves the table before it is dead",
        "_life.py",
        "            self._life.end()\n            super().set()\n",
        "            super().set()\n            self._life.end()\n",
        "tests/test_x3m_defects.py",
    ),
    Guard(
        "a closed inbox refuses",
        "_inbox.py",
        "            if self._error is not None:\n                return False\n",
        "            if self._error is not None and __import__('sys').argv is None:\n"
        "                return False\n",
        "tests/test_races.py::test_an_ask_that_races_with_a_stop_always_completes",
    ),
    Guard(
        "leftover asks are answered",
        "_life.py",
        "                fail(envelope, self.undeliverable())\n",
        "                pass\n",
        "tests/test_aggregate.py::test_messages_accepted_before_a_stop_are_handled",
    ),
    Guard(
        "leftover asks are answered before on_stop and stop_all run",
        "_life.py",
        "    def set(self) -> None:\n",
        "    def set(self) -> None:\n"
        "        return super().set()\n"
        "\n"
        "    def unused(self) -> None:\n",
        "tests/test_shutdown.py::test_system_exit_while_others_are_blocked_on_asks",
    ),
    Guard(
        "an asker is told of a BaseException",
        "_life.py",
        '        fail(envelope, self.undeliverable(f"ended with {type(error).__name__} in the handler"))\n',
        "",
        "tests/test_aggregate.py::test_a_base_exception_in_a_handler_stops_every_actor",
    ),
    Guard(
        "a cycle of waits is seen",
        "_waits.py",
        "        if runner == me:\n",
        "        if runner == -1:\n",
        "tests/test_waits.py::test_asking_oneself",
    ),
    Guard(
        "an edge that is over does not count",
        "_waits.py",
        "        if target is None or its_wait.done():\n",
        "        if target is None:\n",
        "tests/test_waits.py -k even_while",
    ),
    Guard(
        "to publish a wait and to look for a cycle is one step",
        "_waits.py",
        "                _blocked[me] = wait\n        if cycle is not None:\n",
        "                _lock.release(); __import__('time').sleep(0.001); _lock.acquire()\n"
        "                _blocked[me] = wait\n"
        "        if cycle is not None:\n",
        "tests/test_waits.py::test_of_two_that_close_a_cycle_at_once_exactly_one_is_refused",
    ),
    Guard(
        "to begin a message and to withdraw it is one choice",
        "_future.py",
        "            return not self._done\n",
        "            return True\n",
        "tests/test_waits.py::test_a_refused_message_is_never_handled tests/test_future.py",
    ),
    Guard(
        "a message that has begun is not withdrawn",
        "_future.py",
        "if unless_begun and self._begun:",
        "if False:",
        "tests/test_future.py",
    ),
    Guard(
        "a failed start frees the key",
        "_table.py",
        "            self._begin(entry, after)\n        else:\n            self._remove(entry)\n",
        "            self._begin(entry, after)\n",
        "tests/test_aggregate.py -k fails_runs_no_hook",
    ),
    Guard(
        "an interrupted claim is taken back",
        "_rows.py",
        "        begun = entry.incarnation is not None and entry.incarnation.begun\n",
        "        begun = entry.incarnation is not None and entry.incarnation.launched\n",
        "tests/test_aggregate.py -k keyboard_interrupt",
    ),
    Guard(
        "who gives up leaves the line",
        "_rows.py",
        "        entry.requests.remove(request)\n        self._drop_if_unwanted(entry, after)\n",
        "",
        "tests/test_registry.py -k leaves_the_line",
    ),
    Guard(
        "who insists on a new actor is not served with another's",
        "_rows.py",
        "                if request.exclusive:\n"
        "                    entry.requests.remove(request)\n",
        "                if False:\n                    entry.requests.remove(request)\n",
        "tests/test_registry.py -k in_line",
    ),
    Guard(
        "an abandoned incarnation has one end",
        "_table.py",
        "        if entry.state is State.QUARANTINED:  # its end was published when it was abandoned\n"
        "            self._remove(entry)\n",
        "        if entry.state is State.QUARANTINED:  # its end was published when it was abandoned\n"
        "            self._end(incarnation, reason, cause)\n"
        "            self._remove(entry)\n",
        "tests/test_shutdown.py -k abandoned_key",
    ),
    Guard(
        "a stopping registry starts nothing",
        "_table.py",
        "        self._check_open()\n        key = request.key\n",
        "        key = request.key\n",
        "tests/test_registry.py -k a_stopped_registry",
    ),
    Guard(
        "an activation under way is stopped when it ends",
        "_table.py",
        "        if looks or self.refusal is not None or self.admission.wants_place_of(incarnation):\n",
        "        if looks or self.admission.wants_place_of(incarnation):\n",
        "tests/test_shutdown.py -k under_way",
    ),
    Guard(
        "a shutdown waits for the threads to end",
        "_table.py",
        "            thread.join(max(deadline - time.monotonic(), 0))\n",
        "            pass\n",
        "tests/test_shutdown.py -k no_thread_is_left",
    ),
    Guard(
        "a thread that is about to end does not wait for itself",
        "_table.py",
        "            threads = self._leaving - {threading.current_thread()}\n",
        "            threads = self._leaving.copy()\n",
        "tests/test_shutdown.py -k about_to_end",
    ),
    Guard(
        "a shutdown knows the threads that are about to end",
        "_table.py",
        "                self._leaving.add(threading.current_thread())\n            self._ended",
        "                pass\n            self._ended",
        "tests/test_shutdown.py -k no_thread_is_left",
    ),
    Guard(
        "a shutdown has told every end before it is over",
        "_registry.py",
        "        told = self._table.courier.finish(_LAST_WORDS)\n",
        "        told = True\n",
        "tests/test_events.py -k shutdown_tells tests/test_shutdown.py",
    ),
    Guard(
        "the registry drains when the main thread has ended",
        "_registry.py",
        "        if not threading.main_thread().is_alive():\n",
        "        if False:\n",
        "tests/test_shutdown.py -k interpreter_ends",
    ),
    Guard(
        "a failing message does not end the registry",
        "_registry.py",
        "                fail(envelope, error)\n                if envelope.reply_to is None:\n",
        "                fail(envelope, error)\n"
        "                if envelope.reply_to is None:\n"
        "                    raise\n",
        "tests/test_registry.py -k never_ends_it",
    ),
    Guard(
        "a forked child refuses",
        "_fork.py",
        "    for table in tables:\n        table.forked()\n",
        "",
        "tests/test_shutdown.py -k fork",
    ),
    Guard(
        "a forked child has locks of its own",
        "_table.py",
        "        self._lock = threading.Lock()\n        self.refusal = FORKED\n",
        "        self.refusal = FORKED\n",
        "tests/test_shutdown.py -k fork",
    ),
    Guard(
        "a dead foreign actor is not returned",
        "_foreign.py",
        "        return row.ref if row is not None and row.is_alive() else None\n",
        "        return row.ref if row is not None else None\n",
        "tests/test_foreign.py",
    ),
    Guard(
        "unregister compares before it deletes",
        "_foreign.py",
        "        if row is None or row.is_over or row.ref is not ref:\n",
        "        if row is None or row.is_over:\n",
        "tests/test_foreign.py",
    ),
    Guard(
        "a future with a hook is part of the graph",
        "_future.py",
        "                    with _waits.running(mine):\n",
        "                    with __import__('contextlib').nullcontext():\n",
        "tests/test_waits.py -k outside_thread",
    ),
    Guard(
        "only who has sent a message takes it back",
        "_future.py",
        "                if self._sender is _waits.this_thread() and self.withdraw(error):\n",
        "                if self.withdraw(error):\n",
        "tests/test_waits.py -k somebody_else",
    ),
    Guard(
        "a shutdown is part of the graph",
        "_registry_ref.py",
        '            cast("Future[Any]", future).target = self._table\n',
        "            pass\n",
        "tests/test_waits.py -k shutdown",
    ),
    Guard(
        "what is ending becomes active no more",
        "_table.py",
        "        if incarnation.ending or entry.state is not State.STARTING:\n",
        "        if entry.state is not State.STARTING:\n",
        "tests/test_aggregate.py -k as_on_start_ends",
    ),
    Guard(
        "who comes to a shutdown late waits for its end",
        "_registry_ref.py",
        "        self._table.finished.get(timeout=seconds_left)",
        "        _ = (seconds_left)",
        "tests/test_shutdown.py -k comes_to_a_shutdown_late",
    ),
    Guard(
        "a log line comes after what it tells of",
        "_log.py",
        "    with contextlib.suppress(Exception):\n",
        "    if True:\n",
        "tests/test_aggregate.py -k logging_handler",
    ),
    Guard(
        "no user code runs under the lock",
        "_foreign.py",
        "        return not (self.is_over or self.ref.actor_stopped.is_set())\n",
        "        return not self.is_over and self.ref.is_alive()\n",
        "tests/test_foreign.py -k under_a_lock",
    ),
    Guard(
        "a kept ref keeps no actor",
        "_life.py",
        "        _frames.empty(self.tracebacks, self.incarnation.blueprint.aggregate_class)\n"
        "        self.tracebacks = []\n"
        "        self.cause = None\n",
        "        pass\n",
        "tests/test_aggregate.py -k freed_at_once",
    ),
    Guard(
        "an event is told to those who had subscribed",
        "_courier.py",
        "            for listener in notice.listeners:\n",
        "            for listener in self._listeners:\n",
        "tests/test_events.py -k had_subscribed",
    ),
    Guard(
        "a dead listener is dropped",
        "_courier.py",
        '                    self.unsubscribe(cast("Ref", listener))\n',
        "                    pass\n",
        "tests/test_events.py",
    ),
    Guard(
        "what is left over goes first",
        "_table.py",
        "            entry.queue.extendleft(reversed(letters))\n",
        "            self._lock.release(); __import__('time').sleep(0.001); self._lock.acquire()\n"
        "            entry.queue.extend(letters)\n",
        "tests/test_delivery.py -k stays_in_order_while",
    ),
    Guard(
        "what is left over is kept",
        "_table.py",
        "            entry.queue.extendleft(reversed(letters))\n",
        "",
        "tests/test_delivery.py -k goes_first",
    ),
    Guard(
        "what is left over stays in order",
        "_table.py",
        "            entry.queue.extendleft(reversed(letters))\n",
        "            entry.queue.extendleft(letters)\n",
        "tests/test_delivery.py -k goes_first",
    ),
    Guard(
        "what has waited is in the inbox before anybody finds the actor",
        "_table.py",
        "        incarnation.inbox.extend(self._take_queue(entry))\n"
        "        self._move(entry, State.ACTIVE)\n",
        "        self._move(entry, State.ACTIVE)\n"
        "        __import__('time').sleep(0.001)\n"
        "        incarnation.inbox.extend(self._take_queue(entry))\n",
        "tests/test_delivery.py -k stays_in_order_while",
    ),
    Guard(
        "a letter that a closed inbox refuses goes to the next incarnation",
        "_table.py",
        "                if inbox.accept(letter):\n                    return\n",
        "                inbox.accept(letter)\n                return\n",
        "tests/test_passivation.py -k meets_a_retirement",
    ),
    Guard(
        "to expire a message and to begin it is one choice",
        "_table.py",
        "        if not future.withdraw(error):\n",
        "        if not future.fail(error):\n",
        "tests/test_delivery.py -k does_not_expire",
    ),
    Guard(
        "an expired message is not handled",
        "_life.py",
        "        if isinstance(envelope.reply_to, Future) and not envelope.reply_to.begin():\n",
        "        if isinstance(envelope.reply_to, Future) and not envelope.reply_to.begin() and False:\n",
        "tests/test_delivery.py -k never_handled",
    ),
    Guard(
        "whoever is about to retire stays if a message has slipped in",
        "_table.py",
        "        if not incarnation.inbox.close_if_empty(incarnation.life.undeliverable):\n",
        "        if incarnation.inbox.close(incarnation.life.undeliverable) is None:\n",
        "tests/test_passivation.py -k slips_in",
    ),
    Guard(
        "whoever was asked to make way is asked again when it is idle",
        "_table.py",
        "            incarnation.asked = reason\n",
        "            incarnation.asked = incarnation.asked or reason\n",
        "tests/test_passivation.py -k make_way",
    ),
    Guard(
        "one that is at work is not asked to go",
        "_inbox.py",
        "            if self._parked is not None and not self._visited:\n",
        "            if not self._visited:\n",
        "tests/test_ceiling.py -k counts_on",
    ),
    Guard(
        "one that is at work says so when it is idle",
        "_inbox.py",
        "            self._visited = False\n            self._nudged = True\n            return False\n",
        "            self._visited = False\n            return False\n",
        "tests/test_ceiling.py -k counts_on",
    ),
    Guard(
        "one that was visited says so when it is idle",
        "_inbox.py",
        "            self._visited = False\n            self._nudged = True\n            return False\n",
        "            self._nudged = self._nudged or self._parked is None\n"
        "            self._visited = False\n            return False\n",
        "tests/test_ceiling.py -k two_looks -o faulthandler_timeout=3",
    ),
    Guard(
        "one that was visited is not asked to go",
        "_inbox.py",
        "            if self._parked is not None and not self._visited:\n",
        "            if self._parked is not None:\n",
        "tests/test_ceiling.py -k visit",
    ),
    Guard(
        "no more are live than may be",
        "_admission.py",
        "        return len(self._live) >= self._ceiling\n",
        "        return len(self._live) > self._ceiling\n",
        "tests/test_ceiling.py -k never_more",
    ),
    Guard(
        "a place is taken from the launch on",
        "_admission.py",
        "            self._live[incarnation] = None\n            self._starting.add(incarnation)\n",
        "            self._starting.add(incarnation)\n",
        "tests/test_ceiling.py -k never_more",
    ),
    Guard(
        "a place is held to the last line of teardown",
        "_table.py",
        "            self.admission.leave(incarnation)\n",
        "            self.admission.end(incarnation)\n",
        "tests/test_ceiling.py -k never_more",
    ),
    Guard(
        "an abandoned one keeps its place",
        "_rows.py",
        "        self.admission.give_up(incarnation)\n",
        "        self.admission.end(incarnation)\n",
        "tests/test_ceiling.py -k abandoned_keeps",
    ),
    Guard(
        "no more start at once than may",
        "_admission.py",
        "            if len(self._starting) < self._max_starting:\n",
        "            if True:\n",
        "tests/test_ceiling.py -k start_at_once_than",
    ),
    Guard(
        "who waits for a place that none can make is refused at once",
        "_waits.py",
        "        if cycle is None and places and _is_hopeless(wait, me):\n",
        "        if False:\n",
        "tests/test_ceiling.py -k only_place",
    ),
    Guard(
        "who waits for a place that somebody can make is not refused",
        "_waits.py",
        "        if cycle is None and places and _is_hopeless(wait, me):\n",
        "        if cycle is None and places:\n",
        "tests/test_ceiling.py -k idle_one",
    ),
    Guard(
        "no more messages wait than may",
        "_rows.py",
        "        if self._queued >= self.policy.max_queued:\n",
        "        if self._queued > self.policy.max_queued:\n",
        "tests/test_delivery.py -k wait_than_may",
    ),
    Guard(
        "a key rests after a failure",
        "_rows.py",
        "        if rest and entry.state is not State.BACKOFF:\n",
        "        if False:\n",
        "tests/test_supervision.py -k doubles",
    ),
    Guard(
        "a key that has failed too often is quarantined",
        "_table.py",
        "            if self._failures.exceed(record):\n",
        "            if False:\n",
        "tests/test_supervision.py -k one_failure_too_many",
    ),
    Guard(
        "a quarantined key refuses messages",
        "_table.py",
        "        elif entry.state is State.QUARANTINED:\n            raise undeliverable(entry)\n",
        "",
        "tests/test_supervision.py -k refuses_everything",
    ),
    Guard(
        "a quarantined key refuses starts",
        "_table.py",
        "        elif entry.state is State.QUARANTINED:\n            raise quarantined(entry)\n",
        "",
        "tests/test_supervision.py -k refuses_everything",
    ),
    Guard(
        "each key has a budget of its own",
        "_supervision.py",
        "        record = self._records.get(key)\n        if record is None:\n",
        "        record = next(iter(self._records.values()), None)\n        if record is None:\n",
        "tests/test_supervision.py -k share_a_budget",
    ),
    Guard(
        "failures count however long a start takes",
        "_rows.py",
        "        elif entry.state is not State.STOPPING:\n            self._alarm(record, None)\n",
        "",
        "tests/test_supervision.py -k start_takes_long",
    ),
    Guard(
        "failures do not count for ever",
        "_rows.py",
        "            self._alarm(record, record.due - now if record.due > now else None)\n",
        "            record.due = now + 1e9\n",
        "tests/test_supervision.py -k forgotten",
    ),
    Guard(
        "its own aggregates may send in a registry that drains",
        "_table.py",
        "(self._is_over or not self.runs_here())",
        "True",
        "tests/test_shutdown.py -k flow_until",
    ),
    Guard(
        "a shutdown is over when nobody is left",
        "_table.py",
        "            return len(self._entries) + len(self._lost) == self._states[State.QUARANTINED]\n",
        "            return True\n",
        "tests/test_shutdown.py -k flow_until",
    ),
    Guard(
        "an abandoned key cannot be released",
        "_table.py",
        "            if entry.incarnation is not None:\n                raise quarantined(entry)\n",
        "",
        "tests/test_supervision.py -k cannot_be_released",
    ),
    Guard(
        "a late end frees the key",
        "_table.py",
        "        if entry.state is State.QUARANTINED:  # its end was published when it was abandoned\n"
        "            self._remove(entry)\n",
        "        if entry.state is State.QUARANTINED:  # its end was published when it was abandoned\n"
        "            pass\n",
        "tests/test_supervision.py -k cannot_be_released",
    ),
    Guard(
        "each dead letter is counted",
        "_dead_letters.py",
        "            self.counts[reason] += 1\n",
        "            self.counts[reason] = len(self.kept)\n",
        "tests/test_delivery.py -k all_are_counted",
    ),
    Guard(
        "a failure keeps no actor: the frames that it has passed are emptied",
        "_frames.py",
        "                _empty(passed.tb_frame, cls)\n",
        "                pass\n",
        "tests/test_supervision.py -k dead_letter_keeps",
    ),
    Guard(
        "a failure keeps no actor: the frames that had called those are emptied",
        "_frames.py",
        "                _empty(frame, cls)\n",
        "                pass\n",
        "tests/test_supervision.py -k dead_letter_keeps",
    ),
    Guard(
        "a failure's frames close no generator of others",
        "_frames.py",
        "    if not can_wait or any(cls in type(value).__mro__ for value in gc.get_referents(frame)):\n",
        "    if not can_wait or cls:\n",
        "tests/test_supervision.py -k others_wait_in",
    ),
    Guard(
        "an entry is in the table before it is anything",
        "_rows.py",
        "        if before is State.ABSENT:\n            self._entries[entry.key] = entry\n",
        "        if before is State.ABSENT and state is not State.BACKOFF:\n"
        "            self._entries[entry.key] = entry\n",
        "tests/test_mending.py -k resting_and_absent",
    ),
    Guard(
        "good keys are found while a bad one goes",
        "_rows.py",
        "        entries: dict[Hashable, Entry] = {}\n        active: dict[Hashable, Ref] = {}\n",
        "        rows, self._entries, self.active = list(self._entries.values()), {}, {}\n"
        "        entries, active = self._entries, self.active\n"
        "        self._entries = entries = dict.fromkeys(())  # type: ignore\n"
        "        self._entries = dict(enumerate(rows))  # type: ignore\n",
        "tests/test_hostile_keys.py -k found_all_the_time",
    ),
    Guard(
        "expired letters are taken out without a gap",
        "_rows.py",
        "        entry.queue = kept\n        entry.left_over = left_over\n        for letter in dropped:\n",
        "        entry.queue = deque()\n        entry.queue = kept\n        for letter in dropped:\n",
        "tests/test_mending.py -k purge",
    ),
    Guard(
        "what is given up is marked, so that mending goes on with it",
        "_rows.py",
        "        entry.given_up = reason, error  # if an interrupt comes now, mending goes on with it\n",
        "",
        "tests/test_mending.py -k given_up",
    ),
    Guard(
        "a foreign actor's end is told before its row goes",
        "_foreign.py",
        "        self._announce_end(key, row)\n        if self._rows.get(key) is row:\n"
        "            del self._rows[key]\n",
        "        if self._rows.get(key) is row:\n            del self._rows[key]\n"
        "        self._announce_end(key, row)\n",
        "tests/test_mending.py -k foreign",
    ),
    Guard(
        "who watches an absent key waits for its new entry",
        "_rows.py",
        "                self._aim_watchers(entry)\n",
        "                pass\n",
        "tests/test_watch.py -k was_absent -o faulthandler_timeout=5",
    ),
    Guard(
        "who starts while all are busy looks for itself",
        "_table.py",
        "        if looks or self.refusal is not None or",
        "        if self.refusal is not None or",
        "tests/test_model.py -k whatever_order",
    ),
    Guard(
        "who was found idle and is not is looked at again",
        "_table.py",
        "            if asked is EndReason.IDLE:  # it has rung, and a message has come since\n",
        "            if False:\n",
        "tests/test_passivation.py -k found_idle",
    ),
    Guard(
        "who was found idle looks whether it still is",
        "_table.py",
        " or (asked is EndReason.IDLE and _is_idle(incarnation)):\n",
        " or asked is EndReason.IDLE:\n",
        "tests/test_passivation.py -k found_idle",
    ),
    Guard(
        "a conflict in a batch fails only its own save",
        "eventsourcing/_group_commit.py",
        "        except _REFUSALS:\n            batch.outcome = _Apart()\n",
        "",
        "tests/eventsourcing/test_group_commit.py -k conflict_fails_only_its_own_save",
    ),
    Guard(
        "what carries keyword arguments is written alone",
        "eventsourcing/_group_commit.py",
        "            name != FENCE and not (name == _TRACKING and value is None)\n",
        "            False and (name, value)\n",
        "tests/eventsourcing/test_group_commit.py -k keyword_arguments",
    ),
    Guard(
        "batches are written in turn",
        "eventsourcing/_group_commit.py",
        "            before.wait()\n",
        "            pass\n",
        "tests/eventsourcing/test_group_commit.py -k in_one_transaction",
    ),
    Guard(
        "a batch is closed before it is written",
        "eventsourcing/_group_commit.py",
        "                    mine.is_open = False\n",
        "                    pass\n",
        "tests/eventsourcing/test_group_commit.py -k in_one_transaction",
    ),
    Guard(
        "a batch has bounds",
        "eventsourcing/_group_commit.py",
        "                and last.callers < self._max_callers\n",
        "",
        "tests/eventsourcing/test_group_commit.py -k no_more_callers",
    ),
    Guard(
        "whoever leads wakes the others, however it ends",
        "eventsourcing/_group_commit.py",
        "        with mine.done:\n            batch, start = self._join(mine)\n",
        "        mine.done.acquire()\n        if True:\n            batch, start = self._join(mine)\n",
        "tests/eventsourcing/test_group_commit.py -k interrupt_ends_the_leader",
    ),
    Guard(
        "an interrupt leaves the others in doubt",
        "eventsourcing/_group_commit.py",
        "        batch.outcome = _Apart(in_doubt=True)\n",
        "",
        "tests/eventsourcing/test_group_commit.py -k after_an_interrupt",
    ),
    Guard(
        "each caller raises an exception of its own",
        "eventsourcing/_group_commit.py",
        "            raise _own(outcome.error) from outcome.error\n",
        "            raise outcome.error\n",
        "tests/eventsourcing/test_group_commit.py -k told_to_each",
    ),
    Guard(
        "nothing is kept of what was stored",
        "eventsourcing/_group_commit.py",
        "                self._last = None\n",
        "                pass\n",
        "tests/eventsourcing/test_group_commit.py -k nothing_is_kept",
    ),
    Guard(
        "a fence that would be ignored is refused",
        "eventsourcing/_group_commit.py",
        "        if fences and not isinstance(self._recorder, FencedRecorder):\n",
        "        if False:\n",
        "tests/eventsourcing/test_group_commit.py -k would_ignore",
    ),
    Guard(
        "a stale epoch is refused",
        "eventsourcing/_fence.py",
        "        if current != fence.epoch:\n",
        "        if current is None:\n",
        "tests/eventsourcing/test_take_over.py -k sqlite",
    ),
    Guard(
        "a save keeps a claim waiting",
        "eventsourcing/postgres.py",
        " ORDER BY owner FOR SHARE",
        "",
        "tests/eventsourcing/test_fence.py -k has_been_checked",
    ),
    Guard(
        "a claim is not overtaken by saves",
        "eventsourcing/postgres.py",
        "            curs.execute(self._lock_statement)\n",
        "",
        "tests/eventsourcing/test_fence.py -k overtaken",
    ),
    Guard(
        "a claim is durable",
        "eventsourcing/postgres.py",
        "set_config('synchronous_commit', 'on', true) ",
        "1 ",
        "tests/eventsourcing/test_fence.py -k durable",
    ),
    Guard(
        "database functions do not go past a fence",
        "eventsourcing/postgres.py",
        "self.datastore.enable_db_functions:",
        "False:",
        "tests/eventsourcing/test_fence.py -k database_functions",
    ),
    Guard(
        "SQLite checks a fence once it has become the writer",
        "eventsourcing/sqlite.py",
        "        self._check(c, fences)\n        return ids\n",
        "        return ids\n",
        "tests/eventsourcing/test_fence.py -k stores_until",
    ),
    Guard(
        "who has been replaced is told so, and not of a conflict",
        "eventsourcing/sqlite.py",
        "            self._check(c, fences)  # whoever has been replaced is to know, not to try again\n",
        "",
        "tests/eventsourcing/test_fence.py -k conflict_to_the_owner_only",
    ),
    Guard(
        "a claim tries a stale fence",
        "eventsourcing/_claim.py",
        "    raise ProgrammingError(message)\n",
        "    return fence\n",
        "tests/eventsourcing/test_fence.py -k found_out",
    ),
    Guard(
        "who comes second to create the tables tries again",
        "eventsourcing/postgres.py",
        "                if not left or not any(race in str(error) for race in _RACES):\n",
        "                if True:\n",
        "tests/eventsourcing/test_take_over.py -k many_may",
    ),
]


def missed(guard: Guard) -> bool:
    """Tell whether the named tests miss the guard."""
    with tempfile.TemporaryDirectory() as folder:
        for name in ("pykka_registry", "tests"):
            # With what is compiled already, but for the one file.
            stale = f"{Path(guard.file).stem}.*.pyc"
            shutil.copytree(
                ROOT / name, Path(folder, name), ignore=shutil.ignore_patterns("bank", stale)
            )
        shutil.copy(ROOT / "pyproject.toml", folder)
        path = Path(folder, "pykka_registry", guard.file)
        source = path.read_text("utf-8")
        if source.count(guard.guard) != 1:
            message = (
                f"{guard.file} has {source.count(guard.guard)} times, not once: {guard.guard!r}"
            )
            raise LookupError(message)
        path.write_text(source.replace(guard.guard, guard.without), "utf-8")
        command = [sys.executable, "-m", "pytest", "-qx", "-p", "no:cacheprovider"]
        done = subprocess.run(
            [*command, "-o", f"faulthandler_timeout={SECONDS_PER_TEST}", *guard.tests.split()],
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
            timeout=180,
        )
        # 1: a test failed; the timeout ends the run with 1, too. Anything else is not a test's verdict.
        if done.returncode not in (0, 1):
            raise RuntimeError(done.stdout + done.stderr)
        return done.returncode == 1


def main(words: list[str]) -> int:
    """Try the guards."""
    wanted = [g for g in GUARDS if not words or any(word in g.what for word in words)]
    unmissed = 0
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for guard, is_missed in zip(wanted, pool.map(missed, wanted), strict=True):
            unmissed += not is_missed
            print(f"{'missed' if is_missed else 'NOT MISSED'}: {guard.what}", flush=True)
    print(f"{len(wanted) - unmissed} of {len(wanted)} guards are missed by their tests")
    return 1 if unmissed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
