"""Take each guard out and see its test fail: a test that passes without the guard proves nothing.

    python -m tests.guards [WORD ...]

Each guard is a piece of the package's source and what stands there without it. The package and its
tests are copied to an empty folder, the guard is taken out there, and the tests that are named
beside it must fail or time out. With words only the guards whose description has one of them are
tried. The exit status tells whether every guard was missed.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
SECONDS_PER_TEST = 10
AT_ONCE = 6


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
        "_course.py",
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
        "_course.py",
        "        if self._is_due(incarnation):\n            self.admission.moved_at",
        "        if True:\n            self.admission.moved_at",
        "tests/test_aggregate.py -k keyboard_interrupt_before",
    ),
    Guard(
        "the referee sees a successor that starts too early",
        "_course.py",
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
        "_flag.py",
        "        self.end()\n        self._is_set = True\n",
        "        self._is_set = True\n        self.end()\n",
        "tests/test_x3m_defects.py",
    ),
    Guard(
        "a closed inbox refuses",
        "_inbox.py",
        "                if self._error is not None:\n                    return False\n",
        "                if self._error is not None and __import__('sys').argv is None:\n"
        "                    return False\n",
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
        "_flag.py",
        "        self.end()\n",
        "        pass\n",
        "tests/test_shutdown.py::test_system_exit_while_others_are_blocked_on_asks",
    ),
    Guard(
        "an asker is told of a BaseException",
        "_life.py",
        "            fail(envelope, answer)\n",
        "            pass\n",
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
        "a cycle goes on through what a thread runs on top of what is waited for",
        "_waits.py",
        "running[ran[-1] + 1 :] if ran else ()",
        "()",
        "tests/test_waits.py::test_a_cycle_names_those_too_that_a_thread_runs_on_top_of_each_other",
    ),
    Guard(
        "to publish a wait and to look for a cycle is one step",
        "_waits.py",
        "                _blocked[me] = _Blocked(wait, tuple(mine.running))\n        if cycle is not None:\n",
        "                _lock.release(); __import__('time').sleep(0.001); _lock.acquire()\n"
        "                _blocked[me] = _Blocked(wait, tuple(mine.running))\n"
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
        "(unless_begun and self._begun)",
        "False",
        "tests/test_future.py",
    ),
    Guard(
        "a failed start frees the key",
        "_course.py",
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
        "_course.py",
        "            incarnation.life = None\n            self._remove(entry)\n",
        "            self._end(incarnation, reason, cause)\n            self._remove(entry)\n",
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
        "_course.py",
        "        if looks or self.refusal is not None or self.admission.wants_place_of(incarnation):\n",
        "        if looks or self.admission.wants_place_of(incarnation):\n",
        "tests/test_shutdown.py -k under_way",
    ),
    Guard(
        "a shutdown waits for the threads to end",
        "_closing.py",
        "            one.join(max(deadline - time.monotonic(), 0))\n",
        "            pass\n",
        "tests/test_shutdown.py -k no_thread_is_left",
    ),
    Guard(
        "a thread that is about to end does not wait for itself",
        "_closing.py",
        "[*self._leaving - {threading.current_thread()}, *self._tails]",
        "[*self._leaving, *self._tails]",
        "tests/test_shutdown.py -k about_to_end",
    ),
    Guard(
        "a shutdown knows the threads that are about to end",
        "_course.py",
        "                self._leaving.add(leaving)\n",
        "                pass\n",
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
        "_closing.py",
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
        "who waits is woken though an interrupt comes right after the result",
        "_future.py",
        "                _call(waiters)\n        except BaseException:\n            _call(waiters or [])\n",
        "                _call(waiters)\n        except BaseException:\n",
        "tests/test_interrupts.py -k who_waits_is_woken",
    ),
    Guard(
        "who is woken twice is no trouble",
        "_future.py",
        "    except RuntimeError:  # an interrupt came right after this, and it is done once more\n",
        "    except LookupError:\n",
        "tests/test_interrupts.py -k who_waits_is_woken",
    ),
    Guard(
        "interrupted: what was taken out is put back",
        "_inbox.py",
        "                        batch.appendleft(first)\n",
        "                        pass\n",
        "tests/test_interrupts.py -k before_it_or_behind",
    ),
    Guard(
        "interrupted: what was left over is there when it is closed again",
        "_course.py",
        "        for envelope in life.inbox.close(life.undeliverable, after.do, left):\n",
        "        for envelope in life.inbox.close(life.undeliverable, after.do):\n",
        "tests/test_interrupts.py -k before_it_or_behind",
    ),
    Guard(
        "interrupted: a request to stop is answered before it is taken out",
        "_life.py",
        "                answer(envelope, value=True)\n                stops.remove(envelope)\n",
        "                stops.remove(envelope)\n                answer(envelope, value=True)\n",
        "tests/test_interrupts.py -k before_it_or_behind",
    ),
    Guard(
        "interrupted: what was put back into a closed inbox is left over",
        "_pooled_life.py",
        "        if not self.inbox.empty():\n",
        "        if False:\n",
        "tests/test_pooled_life.py -k put_back_when",
    ),
    Guard(
        "interrupted: a queue goes to the inbox in one step",
        "_inbox.py",
        "            self._envelopes, source.queue = waited, ()\n",
        "            source.queue = ()\n            len(waited)\n            self._envelopes = waited\n",
        "tests/test_interrupts.py -k before_it_or_behind",
    ),
    Guard(
        "interrupted: a successor that has not come into the line is made anew",
        "_mending.py",
        "        entry.incarnation = incarnation = None  # a successor that has not come into the line\n",
        "        pass\n",
        "tests/test_interrupts.py -k before_it_or_behind",
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
        "        if self._sender is _waits.this_thread() and self.withdraw(error):\n",
        "        if self.withdraw(error):\n",
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
        "_course.py",
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
        "        _frames.empty(ending.tracebacks, self.incarnation.blueprint.aggregate_class)\n"
        "        ending.tracebacks = ()\n"
        "        ending.cause = None\n",
        "        pass\n",
        "tests/test_aggregate.py -k freed_at_once",
    ),
    Guard(
        "an event is told to those who had subscribed",
        "_courier.py",
        "            for listener in notice.listeners:\n",
        "            for listener in self.listeners:\n",
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
        "_course.py",
        "            entry.queue, ending.left = deque([*letters, *entry.queue]), asked\n",
        "            self._lock.release(); __import__('time').sleep(0.001); self._lock.acquire()\n"
        "            entry.queue, ending.left = deque([*entry.queue, *letters]), asked\n",
        "tests/test_delivery.py -k stays_in_order_while",
    ),
    Guard(
        "what is left over is kept",
        "_course.py",
        "            entry.queue, ending.left = deque([*letters, *entry.queue]), asked\n",
        "            ending.left = asked\n",
        "tests/test_delivery.py -k goes_first",
    ),
    Guard(
        "what is left over stays in order",
        "_course.py",
        "            entry.queue, ending.left = deque([*letters, *entry.queue]), asked\n",
        "            entry.queue, ending.left = deque([*reversed(letters), *entry.queue]), asked\n",
        "tests/test_delivery.py -k goes_first",
    ),
    Guard(
        "what has waited is in the inbox before anybody finds the actor",
        "_course.py",
        "            self._deliver_queue(entry, incarnation.inbox)\n"
        "        self._move(entry, State.ACTIVE)\n",
        "            pass\n"
        "        self._move(entry, State.ACTIVE)\n"
        "        __import__('time').sleep(0.001)\n"
        "        while entry.queue:\n"
        "            self._count_out(entry, entry.queue[0])\n"
        "            incarnation.inbox.accept(entry.queue.popleft())\n",
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
        "            if isinstance(future, Future) and not future.begin():\n",
        "            if isinstance(future, Future) and not future.begin() and False:\n",
        "tests/test_delivery.py -k never_handled",
    ),
    Guard(
        "whoever is about to retire stays if a message has slipped in",
        "_course.py",
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
        "        return self._live >= self._ceiling\n",
        "        return self._live > self._ceiling\n",
        "tests/test_ceiling.py -k never_more",
    ),
    Guard(
        "a place is taken from the launch on",
        "_admission.py",
        "            self._live += 1\n            self._starting.add(incarnation)\n",
        "            self._starting.add(incarnation)\n",
        "tests/test_ceiling.py -k never_more",
    ),
    Guard(
        "a place is held to the last line of teardown",
        "_course.py",
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
        "_course.py",
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
        "_closing.py",
        "            return len(entries) == self._states[State.QUARANTINED]\n",
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
        "_course.py",
        "            incarnation.life = None\n            self._remove(entry)\n",
        "            incarnation.life = None\n",
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
        "tests/test_supervision.py -k keeps_the_actor",
    ),
    Guard(
        "a failure keeps no actor: the frames that had called those are emptied",
        "_frames.py",
        "                _empty(frame, cls)\n",
        "                pass\n",
        "tests/test_supervision.py -k keeps_the_actor",
    ),
    Guard(
        "who awaits what follows from an answer waits for that",
        "_future.py",
        "                there.target = self._hook\n",
        "",
        "tests/test_pooled_limits.py -k follows_from_its_own_answer",
    ),
    Guard(
        "what was taken back is not handled without a registry either",
        "_pooled.py",
        " and (not isinstance(future, Future) or future.begin()):\n",
        ":\n",
        "tests/test_pooled_limits.py -k taken_back",
    ),
    Guard(
        "nobody who is deep in its own stack runs what others have sent",
        "_turns.py",
        " and _waits.has_room()):",
        "):",
        "tests/test_pooled_limits.py -k deep_in_its_own",
    ),
    Guard(
        "what an executor has failed to run is run elsewhere",
        "_pool.py",
        " or task.exception() is not None:",
        ":",
        "tests/test_pooled_limits.py -k does_not_run",
    ),
    Guard(
        "what is due when there are no more threads is run by who looks after it",
        "_turns.py",
        "    if forgotten and not threading.main_thread().is_alive():\n",
        "    if False:\n",
        "tests/test_pooled_limits.py -k gives_no_thread",
    ),
    Guard(
        "an actor is submitted to its pool once",
        "_inbox.py",
        "                return False\n            self._is_submitted = True\n",
        "                return False\n            self._is_submitted = False\n",
        "tests/test_pooled.py -k waits_in_its_pool_once",
    ),
    Guard(
        "a helper stops helping once its answer is there",
        "_turns.py",
        "                if until is not None and until.done():\n",
        "                if until is not None and until.done() and until is None:\n",
        "tests/test_pooled.py -k nothing_behind_its_own",
    ),
    Guard(
        "a helper goes on until its answer is there",
        "_future.py",
        "                while target.help(self):\n",
        "                if target.help(self):\n",
        "tests/test_pooled.py -k goes_on_until_its_own",
    ),
    Guard(
        "an answer goes to an event loop in the way that is safe from another thread",
        "_future.py",
        "                loop.call_soon_threadsafe(wake)\n",
        "                loop.call_soon(wake)\n",
        "tests/test_future.py -k safe_from_another_thread",
    ),
    Guard(
        "an answer hurts nobody when the loop has closed",
        "_future.py",
        "            with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile\n",
        "            if True:\n",
        "tests/test_future.py -k loop_that_awaits_it_was_closed",
    ),
    Guard(
        "what a handler awaits besides counts on",
        "_waits.py",
        "            if awaits:\n                _awaits[me] = awaits\n",
        "            pass\n",
        "tests/test_pooled.py -k awaits_besides",
    ),
    Guard(
        "a message whose handler had begun is no dead letter",
        "_pooled_life.py",
        "or callee is Life._handle_exception.__code__\n",
        "or callee is None\n",
        "tests/test_pooled_life.py -k is_no_dead_letter",
    ),
    Guard(
        "a message whose handler had not begun is a dead letter",
        "_pooled_life.py",
        "            if envelope.reply_to is None and not _had_begun(error):\n",
        "            if False:\n",
        "tests/test_pooled_life.py -k 'is_a_dead_letter or says_that_it_stays'",
    ),
    Guard(
        "a turn is claimed in one step",
        "_inbox.py",
        "            if self._turn != _DUE:\n                return False\n",
        "            if self._turn != _DUE:\n"
        "                return False\n"
        "            self._lock.release(); __import__('time').sleep(0.001); self._lock.acquire()\n",
        "tests/test_pooled.py -k handled_one_at_a_time",
    ),
    Guard(
        "who leaves looks whether something has come",
        "_inbox.py",
        "                if not self._envelopes and self._park(reader):\n",
        "                if self._park(reader):\n",
        "tests/test_inbox.py -k has_not_left",
    ),
    Guard(
        "a turn that is cut short is due again",
        "_turns.py",
        "            self.inbox.take_back(self)\n        self.wake_if_due()\n",
        "            pass\n        self.wake_if_due()\n",
        "tests/test_mending.py -k interrupted_anywhere_is_taken",
    ),
    Guard(
        "a turn that is cut short is no longer run by its thread",
        "_turns.py",
        "        del running[depth:]\n",
        "",
        "tests/test_mending.py -k interrupted_anywhere_is_taken",
    ),
    Guard(
        "one batch goes by, and others get theirs",
        "_turns.py",
        "            for _ in range(BATCH):\n",
        "            while True:\n",
        "tests/test_pooled.py -k starves",
    ),
    Guard(
        "with a timeout nobody helps",
        "_future.py",
        "            if timeout is None:\n                while target.help(self):\n",
        "            if True:\n                while target.help(self):\n",
        "tests/test_pooled.py -k with_a_timeout_the_pool",
    ),
    Guard(
        "a thread that runs an event loop does not help",
        "_waits.py",
        "        and _get_running_loop() is None\n",
        "",
        "tests/test_pooled.py -k event_loops_thread",
    ),
    Guard(
        "a thread that handles an exception does not help",
        "_waits.py",
        "        and sys.exception() is None\n",
        "",
        "tests/test_pooled.py -k caller_is_handling",
    ),
    Guard(
        "a thread runs so many actors on top of each other at most",
        "_waits.py",
        "        len(mine.running) < DEPTH\n        and",
        "        True\n        and",
        "tests/test_pooled.py -k nor_the_stack",
    ),
    Guard(
        "nobody helps a class that says so",
        "_turns.py",
        "        if not (self.helping and _waits.may_help()",
        "        if not (_waits.may_help()",
        "tests/test_pooled.py -k helping_off",
    ),
    Guard(
        "nobody helps an idle one of a class that says so",
        "_pooled.py",
        "            and self.helping\n",
        "",
        "tests/test_pooled.py -k helping_off",
    ),
    Guard(
        "who helps runs no neighbour's turn",
        "_turns.py",
        "            if ours is None and target is not None and one.is_part_of(target):\n",
        "            if ours is None:\n",
        "tests/test_turns.py -k makes_room",
    ),
    Guard(
        "who does not wait runs nobody's turn",
        "_turns.py",
        "        target = future.target if helps else None\n",
        "        target = future.target\n",
        "tests/test_turns.py -k does_not_wait_for_a_stop",
    ),
    Guard(
        "a callback runs while nothing is held back",
        "_future.py",
        "    held, _waits.mine.held = _waits.mine.held, None",
        "    held = _waits.mine.held",
        "tests/test_turns.py -k may_wait_for_what_it_sends",
    ),
    Guard(
        "an actor's context is not its caller's",
        "_turns.py",
        "            reason = context.run(self._work, until)\n",
        "            reason = self._work(until)\n",
        "tests/test_pooled.py -k which_is_not_its_callers",
    ),
    Guard(
        "an idle actor's context is not its caller's",
        "_turns.py",
        "            return context.run(function, *args)\n",
        "            return function(*args)\n",
        "tests/test_pooled.py -k which_is_not_its_callers",
    ),
    Guard(
        "an actor keeps its context",
        "_turns.py",
        "            self.context = context\n        else:\n",
        "            self.context = None\n        else:\n",
        "tests/test_pooled.py -k which_is_not_its_callers",
    ),
    Guard(
        "a Ctrl-C in a helped handler is raised to the helper",
        "_turns.py",
        "            if interrupt is not None:\n                raise interrupt\n",
        "",
        "tests/test_pooled.py -k before_the_helpers_own",
    ),
    Guard(
        "who waits in a handler is rescued more than once",
        "_future.py",
        "                        self.target.rescue()\n"
        "                        rescue_at = time.monotonic() + _patience()\n",
        "                        self.target.rescue()\n"
        "                        rescue_at = float('inf')\n",
        "tests/test_pooled.py -k rescued_as_often",
    ),
    Guard(
        "who awaits in a handler is rescued",
        "_future.py",
        "            target.rescue()\n\n",
        "            pass\n\n",
        "tests/test_pooled.py -k awaits_in_a_handler",
    ),
    Guard(
        "a worker of the pool does not leave what has come meanwhile",
        "_pool.py",
        "                        if not self._due:\n",
        "                        if True:\n",
        "tests/test_shared_pool.py -k about_to_leave",
    ),
    Guard(
        "nobody counts on a worker that may never begin",
        "_pool.py",
        "                if self._running and len(self._running)",
        "                if len(self._running)",
        "tests/test_shared_pool.py -k counts_on",
    ),
    Guard(
        "one whose place was taken back does not begin",
        "_course.py",
        "        if incarnation.begun or not incarnation.launched:  #",
        "        if incarnation.begun:  #",
        "tests/test_pooled_life.py -k lost_its_place",
    ),
    Guard(
        "what nobody was to be had for is left to who runs",
        "_pool.py",
        "                if isinstance(error, RuntimeError) and not self._running:",
        "                if isinstance(error, RuntimeError):",
        "tests/test_shared_pool.py -k who_runs_comes_to_it",
    ),
    Guard(
        "a worker that is ended by the log is gone",
        "_pool.py",
        "            with self._lock:\n                self._running.discard(worker)\n",
        "            pass\n",
        "tests/test_shared_pool.py -k log_has_ended",
    ),
    Guard(
        "nobody counts on a spare thread that has not begun",
        "_pool.py",
        "                if any(thread.is_alive() for thread in self._threads):",
        "                if self._threads:",
        "tests/test_turns.py -k not_counted_on",
    ),
    Guard(
        "who waits for one of a few helps at once",
        "_turns.py",
        "        if self.inbox.count() > MANY:",
        "        if self.inbox.count() > 1:",
        "tests/test_turns.py -k lets_the_pool_come",
    ),
    Guard(
        "a dead ref touches no lock",
        "_actor_ref.py",
        "        if life._is_set or not life.inbox.accept",
        "        if not life.inbox.accept",
        "tests/test_aggregate.py -k made_by_hand_works",
    ),
    Guard(
        "live: what is taken for new is decided again whatever its command raises",
        "eventsourcing/_turn.py",
        "        except Exception:  # noqa: BLE001  # the caller is to get it for what is stored\n",
        "        except LookupError:\n",
        "tests/eventsourcing/test_newcomers.py -k of_the_stores_kind",
    ),
    Guard(
        "the end of a thread's stack is no fault of a key's",
        "_course.py",
        "            except RecursionError:\n                raise",
        "            except ZeroDivisionError:\n                raise",
        "tests/test_mending.py -k blames_not_the_key",
    ),
    Guard(
        "a forked child has a pool of its own",
        "_pool.py",
        "    _shared.__init__()  # type: ignore[misc]  # as new\n",
        "",
        "tests/test_turns.py -k somebody_held",
    ),
    Guard(
        "a forked child has spare threads of its own",
        "_pool.py",
        "    _spares.__init__()  # type: ignore[misc]  # the same\n",
        "",
        "tests/test_turns.py -k somebody_held",
    ),
    Guard(
        "a forked child's inboxes have locks of their own",
        "_pooled_life.py",
        "after_in_child=_make_locks",
        "after_in_child=int",
        "tests/test_turns.py -k somebody_held",
    ),
    Guard(
        "a forked child's lives have a lock of their own",
        "_life.py",
        "after_in_child=_make_lock",
        "after_in_child=int",
        "tests/test_turns.py -k somebody_held",
    ),
    Guard(
        "a forked child's stop flags have a lock of their own",
        "_flag.py",
        "after_in_child=_make_lock",
        "after_in_child=int",
        "tests/test_turns.py -k somebody_held",
    ),
    Guard(
        "a forked child's waits have a lock of their own",
        "_waits.py",
        "    _lock = threading.Lock()\n    _blocked.clear()\n",
        "    _blocked.clear()\n",
        "tests/test_turns.py -k somebody_held",
    ),
    Guard(
        "a child that is forked in a handler runs nothing that the parent runs",
        "_waits.py",
        "    mine.running = []\n",
        "",
        "tests/test_turns.py -k forked_in_a_handler",
    ),
    Guard(
        "a child that comes back from a handler hands the actor to no pool",
        "_inbox.py",
        "            if self._turn == _NOBODY:  # in a child that was forked within the turn\n"
        "                return False\n",
        "",
        "tests/test_turns.py -k comes_back",
    ),
    Guard(
        "a child that comes back from a start is refused what it started for",
        "_course.py",
        "            future.fail(RegistryStopped(FORKED))\n",
        "            pass\n",
        "tests/test_turns.py -k forked_in_a_start",
    ),
    Guard(
        "a proxy of one that ends meanwhile is refused as that of a dead one",
        "_life.py",
        '        elif name.startswith("_actor"):  # what a proxy asks for\n',
        "        elif False:\n",
        "tests/test_aggregate.py -k ends_meanwhile",
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
        "        entries: dict[Hashable, Entry] = {}\n"
        "        active: dict[Hashable, IncarnationRef] = {}\n",
        "        rows, self._entries, self.active = list(self._entries.values()), {}, {}\n"
        "        entries, active = self._entries, self.active\n"
        "        self._entries = entries = dict.fromkeys(())  # type: ignore\n"
        "        self._entries = dict(enumerate(rows))  # type: ignore\n"
        "        self._publish(active)\n",
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
        "_course.py",
        "        if looks or self.refusal is not None or",
        "        if self.refusal is not None or",
        "tests/test_model.py -k whatever_order",
    ),
    Guard(
        "who was found idle and is not is looked at again",
        "_course.py",
        "            if asked is EndReason.IDLE:  # it has rung, and a message has come since\n",
        "            if False:\n",
        "tests/test_passivation.py -k found_idle",
    ),
    Guard(
        "who was found idle looks whether it still is",
        "_course.py",
        " or (asked is EndReason.IDLE and _is_idle(incarnation)):\n",
        " or asked is EndReason.IDLE:\n",
        "tests/test_passivation.py -k found_idle",
    ),
    Guard(
        "the constructor of a base is run",
        "_aggregate.py",
        "        elif self._pykka_registry_has_base:\n            super().__init__(*args, **kwargs)\n",
        "",
        "tests/test_registry.py -k not_swallowed",
    ),
    Guard(
        "the arguments of a base's constructor are checked",
        "_class_checks.py",
        "        signature = inspect.signature(init or mixin.__init__)\n",
        "        signature = inspect.signature(mixin.__init__)\n",
        "tests/test_registry.py -k not_swallowed",
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
        "            raise own(outcome.error) from outcome.error\n",
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
    Guard(
        "live: a reply means stored",
        "eventsourcing/_turn.py",
        "        if not events or self._save(events):\n            return True, None\n",
        "        if True:\n            return True, None\n",
        "tests/eventsourcing/test_live.py -k stored_when_it_returns",
    ),
    Guard(
        "live: nobody of a batch is answered before it is stored",
        "eventsourcing/_turn.py",
        "        self._batch.append(_Decided(command, decision, events, answer))\n",
        "        self._batch.append(_Decided(command, decision, events, answer))\n        answer.give(decision)\n",
        "tests/eventsourcing/test_batches.py -k not_asked_again",
    ),
    Guard(
        "live: a batch that cannot be stored goes again one by one",
        "eventsourcing/_turn.py",
        "                        decided.answer.give(self._execute_alone(decided.command, is_again=True))\n",
        "                        raise IntegrityError\n",
        "tests/eventsourcing/test_batches.py -k conflict_makes",
    ),
    Guard(
        "live: what was done before is found before it is decided again",
        "eventsourcing/_turn.py",
        "first = self._receipts.find(command.terms.command_id) if is_again else None\n",
        "first = None\n",
        "tests/eventsourcing/test_batches.py -k done_before",
    ),
    Guard(
        "live: where one was done before the next is looked for first",
        "eventsourcing/_turn.py",
        "        if self._receipts.was_found:\n",
        "        if False:\n",
        "tests/eventsourcing/test_receipts.py -k looked_for_first",
    ),
    Guard(
        "live: one that is taken for new and is there is decided again",
        "eventsourcing/_turn.py",
        "        return None if first is None else self._repeat(first, command)\n",
        "        raise IntegrityError\n",
        "tests/eventsourcing/test_newcomers.py -k found_out",
    ),
    Guard(
        "live: a refusal does not rest on a guess",
        "eventsourcing/_turn.py",
        "  # the caller is to get it for what is stored\n            return None\n",
        "\n            raise\n",
        "tests/eventsourcing/test_newcomers.py -k refusal_rests_on",
    ),
    Guard(
        "live: a batch that rests on a guess goes again on what is stored",
        "eventsourcing/_turn.py",
        "                self._newcomers.was_there()\n                for decided in batch:\n",
        "                for decided in batch:\n",
        "tests/eventsourcing/test_newcomers.py -k is_not_guessed_again",
    ),
    Guard(
        "live: what is there is not taken for the events of a guess",
        "eventsourcing/_turn.py",
        "            and (self._inserts_once or command.terms.command_id is not None)\n",
        "",
        "tests/eventsourcing/test_newcomers.py -k meet_themselves",
    ),
    Guard(
        "live: an application's own save gets what looks like an aggregate",
        "eventsourcing/_turn.py",
        "is_plain = len(events) == 1 and self._saves_plainly\n",
        "is_plain = len(events) == 1\n",
        "tests/eventsourcing/test_live.py -k look_at_what_it_saves",
    ),
    Guard(
        "live: what is likely to be new is not looked for",
        "eventsourcing/_turn.py",
        "            self._newcomers.are_likely\n",
        "            False\n",
        "tests/eventsourcing/test_newcomers.py -k is_not_looked_for",
    ),
    Guard(
        "live: who is answered again sees what was stored by then",
        "eventsourcing/_turn.py",
        "                self._flush()\n                self._aggregate = None\n        return self._receipts",
        "                pass\n        return self._receipts",
        "tests/eventsourcing/test_receipts.py -k answered_again_sees",
    ),
    Guard(
        "live: a store that has failed is not asked again for each of a batch",
        "eventsourcing/_turn.py",
        "                decided.answer.fail(own(error))\n            return True\n",
        "                pass\n            return False\n",
        "tests/eventsourcing/test_batches.py -k not_asked_again",
    ),
    Guard(
        "live: a batch is stored even if those that are behind it give up",
        "eventsourcing/_turn.py",
        "        return self._tell_myself(_Flush())\n",
        "        return True\n",
        "tests/eventsourcing/test_batches.py -k give_up",
    ),
    Guard(
        "live: an interrupt leaves nobody of a batch waiting",
        "eventsourcing/_turn.py",
        "                decided.answer.fail(OutcomeUnknown())  # an interrupt; who has an answer keeps it\n",
        "                pass\n",
        "tests/eventsourcing/test_batches.py -k interrupt_while",
    ),
    Guard(
        "live: equal events after a lost acknowledgement are our own",
        "eventsourcing/_turn.py",
        "return outcome is Outcome.OURS and not is_anothers\n",
        "return False\n",
        "tests/eventsourcing/test_lost_acknowledgements.py -k writes_twice",
    ),
    Guard(
        "live: what a rival has stored is not taken for ours",
        "eventsourcing/_outcome.py",
        "        return ours.state == theirs.state\n",
        "        return True\n",
        "tests/eventsourcing/test_lost_acknowledgements.py -k rival",
    ),
    Guard(
        "live: a store that cannot be asked leaves the outcome unknown",
        "eventsourcing/_turn.py",
        "  # the first error says more\n                raise OutcomeUnknown from error\n",
        "\n                raise error\n",
        "tests/eventsourcing/test_lost_acknowledgements.py -k cannot_be_learned",
    ),
    Guard(
        "live: an answer has a receipt",
        "eventsourcing/_turn.py",
        "            events.append(self._receipts.of_answer(command, self.key, decision))\n",
        "            pass\n",
        "tests/eventsourcing/test_receipts.py -k gets_its_first_answer",
    ),
    Guard(
        "live: a refusal has a receipt",
        "eventsourcing/_turn.py",
        "isinstance(error, self._refusals):",
        "False:",
        "tests/eventsourcing/test_receipts.py -k refusal_once_given",
    ),
    Guard(
        "live: an argument that cannot be encoded does not hide the others",
        "eventsourcing/_receipts.py",
        '        return f"{cls.__module__}.{cls.__qualname__}".encode(errors="replace")\n',
        "        raise\n",
        "tests/eventsourcing/test_receipts.py -k hide_the_others",
    ),
    Guard(
        "live: keywords and positions are the same arguments",
        "eventsourcing/_live.py",
        "            args, kwargs = of_method(name, self._class, args, kwargs)\n",
        "            pass\n",
        "tests/eventsourcing/test_receipts.py -k arguments_are_passed",
    ),
    Guard(
        "live: keywords that a method collects have no order",
        "eventsourcing/_receipts.py",
        "named = sorted(kwargs.items())",
        "named = list(kwargs.items())",
        "tests/eventsourcing/test_receipts.py -k arguments_are_passed",
    ),
    Guard(
        "live: the keys of a dict have no order",
        "eventsourcing/_receipts.py",
        "sort_keys=True",
        "sort_keys=False",
        "tests/eventsourcing/test_receipts.py -k order_of_a_dict",
    ),
    Guard(
        "live: an id by chance does not make another command",
        "eventsourcing/_receipts.py",
        "command.makes_id",
        "command.must_be_new",
        "tests/eventsourcing/test_receipts.py -k id_is_chance",
    ),
    Guard(
        "live: an answer is given again in its own type",
        "eventsourcing/_kept.py",
        "    if type(kept) is not type(given):\n",
        "    if False:\n",
        "tests/eventsourcing/test_receipts.py -k would_lose",
    ),
    Guard(
        "live: a refusal is tried before it has a receipt",
        "eventsourcing/_receipts.py",
        "            self._try_refusal(command, error)\n",
        "            pass\n",
        "tests/eventsourcing/test_receipts.py -k is_a_mistake",
    ),
    Guard(
        "live: a class of refusals can be found again",
        "eventsourcing/_live.py",
        "        check_has_topic(refusal)\n",
        "",
        "tests/eventsourcing/test_receipts.py -k nobody_could_find",
    ),
    Guard(
        "live: an id belongs to one command",
        "eventsourcing/_receipts.py",
        "        if (receipt.command, receipt.fingerprint) != (command.name, fingerprint):\n",
        "        if False:\n",
        "tests/eventsourcing/test_receipts.py -k another_command",
    ),
    Guard(
        "live: after the store has failed the object is thrown away",
        "eventsourcing/_turn.py",
        "                self._aggregate = None\n                decision",
        "                decision",
        "tests/eventsourcing/test_lost_acknowledgements.py -k was_not_stored",
    ),
    Guard(
        "live: after a method has failed the object is thrown away",
        "eventsourcing/_turn.py",
        "                self._aggregate = None\n                decision",
        "                decision",
        "tests/eventsourcing/test_live.py -k refusal_rests_on",
    ),
    Guard(
        "live: after one in a batch has failed the object is thrown away",
        "eventsourcing/_turn.py",
        "            self._aggregate = None\n            decision",
        "            decision",
        "tests/eventsourcing/test_batches.py -k fails_only_once",
    ),
    Guard(
        "live: after a batch has failed the object is thrown away",
        "eventsourcing/_turn.py",
        "        aggregate, self._aggregate = self._aggregate, None\n",
        "        aggregate = self._aggregate\n",
        "tests/eventsourcing/test_batches.py -k conflict_makes",
    ),
    Guard(
        "live: a refusal rests on what is stored",
        "eventsourcing/_turn.py",
        "if was_in_memory and version and self._is_old(version):",
        "if False:",
        "tests/eventsourcing/test_live.py -k rests_on",
    ),
    Guard(
        "live: a dry run works on a copy",
        "eventsourcing/_turn.py",
        "copy.deepcopy(aggregate)",
        "aggregate",
        "tests/eventsourcing/test_validate.py -k it_returns",
    ),
    Guard(
        "live: the type of an id is checked",
        "eventsourcing/_live.py",
        "        if not isinstance(aggregate_id, self._id_type):\n",
        "        if False:\n",
        "tests/eventsourcing/test_live.py -k ids_may_be_texts",
    ),
    Guard(
        "live: an absent aggregate leaves no actor",
        "eventsourcing/_turn.py",
        "            self.passivate(0)\n            self._is_leaving = True\n",
        "            self._is_leaving = True\n",
        "tests/eventsourcing/test_live.py -k leaves_no_actor",
    ),
    Guard(
        "live: an absent aggregate leaves no actor, whatever comes of a command",
        "eventsourcing/_turn.py",
        "            return self._take_turn(command)\n        finally:\n            self._leave_if_there_is_none()\n",
        "            return self._take_turn(command)\n        except AggregateNotFoundError:\n            self._leave_if_there_is_none()\n            raise\n",
        "tests/eventsourcing/test_live.py -k whatever_was_tried",
    ),
    Guard(
        "live: what is only asked for does not go",
        "eventsourcing/_turn.py",
        "        if not self._exists and not self._batch:\n",
        "        if self._aggregate is None and not self._batch:\n",
        "tests/eventsourcing/test_live.py -k stays_where_it_is",
    ),
    Guard(
        "live: a snapshot that cannot be read fails nobody",
        "eventsourcing/_snapshots.py",
        "            aggregate = self._replay.get(aggregate_id)\n",
        "            raise\n",
        "tests/eventsourcing/test_snapshots.py -k cannot_be_read",
    ),
    Guard(
        "live: what is created is a new copy each time it is decided",
        "eventsourcing/_live.py",
        "            new=functools.partial(copy.deepcopy, aggregate),\n",
        "            new=lambda: aggregate,\n",
        "tests/eventsourcing/test_batches.py -k creates_is_created",
    ),
    Guard(
        "live: what is made has the event that creates it",
        "eventsourcing/_turn.py",
        "        if is_made and not (events",
        "        if False and not (events",
        "tests/eventsourcing/test_live.py -k must_be_new",
    ),
    Guard(
        "live: a decision without events rests on what is stored",
        "eventsourcing/_turn.py",
        "            if was_in_memory and self._is_stale(command, decision):\n",
        "            if False:\n",
        "tests/eventsourcing/test_live.py -k decision_without_events_rests",
    ),
    Guard(
        "live: a query that expects a version has it",
        "eventsourcing/_turn.py",
        "command.stores or command.terms.expected_version is not None",
        "command.stores",
        "tests/eventsourcing/test_live.py -k query_that_expects",
    ),
    Guard(
        "live: a batch without events rests on what is stored",
        "eventsourcing/_turn.py",
        "not made and self._is_old(batch[-1].decision.version)",
        "False",
        "tests/eventsourcing/test_batches.py -k decides_nothing",
    ),
    Guard(
        "live: a dry run rests on what is stored",
        "eventsourcing/_turn.py",
        "        if self._aggregate is not None and self._is_old(self._aggregate.version):\n",
        "        if False:\n",
        "tests/eventsourcing/test_validate.py -k rests_on",
    ),
    Guard(
        "live: an event that cannot be encoded leaves no doubt",
        "eventsourcing/_turn.py",
        "not isinstance(error, PersistenceError) and not self._can_be_encoded(events):",
        "False:",
        "tests/eventsourcing/test_batches.py -k cannot_be_encoded",
    ),
    Guard(
        "live: equal events in a store that tries once are another's",
        "eventsourcing/_turn.py",
        "return outcome is Outcome.OURS and not is_anothers\n",
        "return outcome is Outcome.OURS\n",
        "tests/eventsourcing/test_lost_acknowledgements.py -k same_microsecond",
    ),
    Guard(
        "live: only what the store itself refuses is not there",
        "eventsourcing/_turn.py",
        "self._inserts_once and comes_from(error, self._app.events)",
        "self._inserts_once",
        "tests/eventsourcing/test_lost_acknowledgements.py -k fails_afterwards",
    ),
    Guard(
        "live: what a server may store yet is in doubt",
        "eventsourcing/_turn.py",
        "self._may_store_later and isinstance(error, _NO_ANSWER):",
        "False:",
        "tests/eventsourcing/test_lost_acknowledgements.py -k was_not_stored",
    ),
    Guard(
        "live: what an actor reminds itself of is no dead letter",
        "eventsourcing/_turn.py",
        "        answer: Any = self.actor_ref.ask(message, block=False)\n        return not answer.done()\n",
        "        self.actor_ref.tell(message)\n        return True\n",
        "tests/eventsourcing/test_batches.py -k no_dead_letter",
    ),
    Guard(
        "live: what has been loaded goes by its last event",
        "eventsourcing/_turn.py",
        "events[-1] if events else self._last_event(aggregate.version)",
        "events[-1] if events else None",
        "tests/eventsourcing/test_retirement.py -k rule_of_the_last_event",
    ),
    Guard(
        "live: passivate_after sees what is stored",
        "eventsourcing/_turn.py",
        "            self._aggregate = None\n            decision",
        "            decision",
        "tests/eventsourcing/test_retirement.py -k no_function_sees",
    ),
    Guard(
        "live: a commit that comes while it is looked up is seen",
        "eventsourcing/_outcome.py",
        "    if outcomes == {Outcome.OURS, Outcome.NOBODYS}:\n",
        "    if False:\n",
        "tests/eventsourcing/test_lost_acknowledgements.py -k while_it_is_looked_up",
    ),
    Guard(
        "live: who waits for a batch waits for its aggregate",
        "eventsourcing/_turn.py",
        "        owe(self, answer)\n",
        "",
        "tests/eventsourcing/test_batches.py -k who_waits_for_the_batch",
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
        # Without what takes longer to import than most of these tests run; `@given` works without.
        plugins = ["-p", "no:cacheprovider", "-p", "no:hypothesispytest", "-p", "no:xdist"]
        options = ["-o", f"faulthandler_timeout={SECONDS_PER_TEST}"]
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-qx",
            *plugins,
            *options,
            *shlex.split(guard.tests),
        ]
        status, output = run_in_session(command, folder)
        # 1: a test failed; the timeout ends the run with 1, too, unless the dump of the stacks meets one
        # that changes under it and crashes. Anything else is not a test's verdict.
        has_timed_out = re.search(r"Timeout \(\d+:", output) is not None
        if status not in (0, 1) and not has_timed_out:
            raise RuntimeError(output)
        return status != 0


def run_in_session(command: list[str], folder: str) -> tuple[int, str]:
    """Run a command; return its status and output.

    Without its guard a test may leave a process that hangs: what it has started ends with it. The
    output goes to a file, for such a process would keep a pipe open.
    """
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as output:
        process = subprocess.Popen(
            command, cwd=folder, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            status = process.wait(timeout=180)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        output.seek(0)
        return status, output.read()


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
