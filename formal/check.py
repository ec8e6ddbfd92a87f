"""Check the model in `delivery.pml` in all its states; see `docs/model.md`.

    python -m formal.check [--deep] [--no-spare] [WORD ...]

There are four kinds of checks. In a world of a given size nothing must go wrong, whatever the order
in which threads take turns. Things of which the model says that they do no harm must be possible,
or it proves nothing. With a guard taken out, something must go wrong, and just what is named beside
it. And there are guards that nothing here depends on; `--no-spare` leaves those out. `--deep` tries
larger worlds, and nothing else. With words only the checks whose description has one of them are
made. The exit status tells whether all is as expected.

Needs `spin` and `gcc`.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

MODEL = Path(__file__).parent / "delivery.pml"
AT_ONCE = 2
MEGABYTES = 2_900
"""How much memory one check may take; in a deep one it is twice as much."""
STEPS = 100_000
"""How long a run may be; all are far shorter, and it is an error if one is not."""

HOLDS = "holds"
POSSIBLE = "possible"
DEADLOCK = "deadlock"
ENDLESS = "endless"


@dataclass(frozen=True)
class Check:
    """A world, and what is expected to be found in it."""

    what: str
    letters: str
    """For each sender the keys of the letters that it sends; "?" marks an ask."""
    settings: str
    """What else is defined for the model."""
    expected: str = HOLDS
    """Or the name of what goes wrong."""
    ends: bool = False
    """See whether every run comes to an end, and not what is found in its states."""
    reduced: bool = True
    """Skip orders of which Spin can tell that they make no difference."""


ONE_KEY = "a a? | a? a"
TWO_KEYS = "a b? | b a"
THREE_KEYS = "a c? | b a"
ONE_PLACE = "MAX_LIVE=1 FAILURES=1"
TWO_PLACES = "MAX_LIVE=2 FAILURES=0 STOPS=0"
HANGING = "MAX_LIVE=2 FAILURES=0 STOPS=0 HANGS=1"
VISITED = "MAX_LIVE=1 FAILURES=0 STOPS=0 VISITS=1"

WORLDS = [
    Check("one key", "a a? a | a? a a?", "FAILURES=1 STOPS=1"),
    Check("one key, three senders", "a a? | a a | a? a", "FAILURES=0 STOPS=0"),
    Check("one key, which is given up", ONE_KEY, "FAILURES=2 STOPS=1 ABANDONS=1"),
    Check("one key, which is ended from outside", ONE_KEY, "FAILURES=1 STOPS=1 OUTSIDERS=1"),
    Check("two keys, one place", "a b? a | b a? b", "MAX_LIVE=1 FAILURES=1 STOPS=0"),
    Check("two keys, one place, one is given up", TWO_KEYS, "MAX_LIVE=1 FAILURES=1 ABANDONS=1"),
    Check(
        "three keys, two places, one start at once",
        THREE_KEYS,
        "MAX_LIVE=2 MAX_STARTING=1 FAILURES=0",
    ),
    Check("three keys, two places, one handler hangs", THREE_KEYS, HANGING),
    Check("two keys, one place, one is visited between two looks", TWO_KEYS, VISITED),
    Check("one key: every run ends", ONE_KEY, "", ends=True),
    Check("two keys, one place: every run ends", TWO_KEYS, ONE_PLACE, ends=True),
    Check("three keys, two places: every run ends", THREE_KEYS, TWO_PLACES, ends=True),
]

POSSIBILITIES = [
    Check("every letter is handled", ONE_KEY, "REACH=ALL_HANDLED", POSSIBLE),
    Check("a successor handles what was left over", ONE_KEY, "REACH=TAKEOVER", POSSIBLE),
    Check("an expired letter is skipped", ONE_KEY, "REACH=EXPIRY", POSSIBLE),
    Check("an inbox has closed since a sender found it", ONE_KEY, "REACH=REFUSED", POSSIBLE),
    Check("one that is hidden still gets a letter", ONE_KEY, "ABANDONS=1 REACH=LATE_PUT", POSSIBLE),
    Check("who wants to retire has got a letter", ONE_KEY, "REACH=DECLINE", POSSIBLE),
    Check("who retires has a successor at once", ONE_KEY, "REACH=SUCCESSOR", POSSIBLE),
    Check("a key is active again after a rest", ONE_KEY, "REACH=RANG", POSSIBLE),
    Check("a tell outlives a start that fails", ONE_KEY, "REACH=TELL_STAYED", POSSIBLE),
    Check("letters of a quarantined key are reported", ONE_KEY, "REACH=QUARANTINE", POSSIBLE),
    Check("a key is dropped that nobody waits for", ONE_KEY, "REACH=UNWANTED", POSSIBLE),
    Check("letters of one given up are reported", ONE_KEY, "ABANDONS=1 REACH=GIVEN_UP", POSSIBLE),
    Check("one is given up before it begins", ONE_KEY, "ABANDONS=1 REACH=NEVER_MIND", POSSIBLE),
    Check(
        "left-overs of a late stranger, if an end is three steps",
        ONE_KEY,
        "OUTSIDERS=1 THREE_STEPS REACH=TOO_LATE",
        POSSIBLE,
    ),
    Check(
        "letters of one stopped at rest are reported", ONE_KEY, "REACH=STOPPED_AT_REST", POSSIBLE
    ),
    Check("who is idle makes room", TWO_KEYS, "MAX_LIVE=1 REACH=EVICTION", POSSIBLE),
    Check(
        "who is to make room has got a letter",
        TWO_KEYS,
        "MAX_LIVE=1 REACH=ASKED_BUT_BUSY",
        POSSIBLE,
    ),
    Check(
        "one makes room that nobody needs",
        THREE_KEYS,
        TWO_PLACES + " REACH=NEEDLESS_EVICTION",
        POSSIBLE,
    ),
]

GUARDS = [
    Check("to find an inbox empty and to close it is one step", ONE_KEY, "NO_ATOMIC_REST", "lost"),
    Check("a closed inbox refuses", ONE_KEY, "NO_CLOSED_LOOK", "lost"),
    Check("left-overs are kept", ONE_KEY, "NO_REQUEUE", "lost"),
    Check(
        "left-overs go to the front, if an end is three steps",
        ONE_KEY,
        "THREE_STEPS NO_FRONT",
        "out_of_order",
    ),
    Check("left-overs of one given up are reported", ONE_KEY, "ABANDONS=1 NO_OWNER_LOOK", "lost"),
    Check(
        "the same for a late stranger, if an end is three steps",
        ONE_KEY,
        "OUTSIDERS=1 THREE_STEPS NO_OWNER_LOOK",
        "lost",
    ),
    Check("a key with letters gets a successor", ONE_KEY, "NO_QUEUE_LOOK", "lost"),
    Check("letters that have waited go first", ONE_KEY, "NO_MOVE_FIRST", "out_of_order"),
    Check(
        "a key is hidden before its inbox closes", ONE_KEY, "NO_STOPPING_FIRST", "active_but_closed"
    ),
    Check("a successor waits for the very end", ONE_KEY, "NO_WAIT_FOR_ENDED", "double_live"),
    Check("a late thread looks whether it is due", ONE_KEY, "NO_DUE_LOOK", "double_live"),
    Check(
        "to begin a letter and to withdraw it is one choice",
        ONE_KEY,
        "NO_ATOMIC_BEGIN",
        "two_fates",
    ),
    Check(
        "a reader looks whether it is nudged before it sleeps",
        TWO_KEYS,
        "MAX_LIVE=1 NO_NUDGED_LOOK",
        DEADLOCK,
    ),
    Check("who is busy is nudged, too", TWO_KEYS, "MAX_LIVE=1 NO_BUSY_NUDGE", DEADLOCK),
    Check(
        "who declines has others asked, or is nudged",
        TWO_KEYS,
        "MAX_LIVE=1 NO_RENEWAL NO_RELIEF",
        DEADLOCK,
    ),
    Check("who declines has others asked", THREE_KEYS, HANGING + " NO_RELIEF", DEADLOCK),
    Check("nobody is counted on for ever", THREE_KEYS, HANGING + " NO_TICK", DEADLOCK),
    Check("who was visited is nudged, too", TWO_KEYS, VISITED + " NO_VISITED_NUDGE", DEADLOCK),
]

SPARE = [
    Check("who becomes active looks whether it is to go", TWO_KEYS, ONE_PLACE + " NO_SELF_NUDGE"),
    Check("the same, where one hangs", THREE_KEYS, HANGING + " NO_SELF_NUDGE"),
    Check("who declines is nudged", TWO_KEYS, ONE_PLACE + " NO_RENEWAL"),
    Check("the same, where one hangs", THREE_KEYS, HANGING + " NO_RENEWAL"),
    Check("who was asked to go says that it is busy", TWO_KEYS, ONE_PLACE + " NO_DECLINE"),
    Check("the same, where one hangs", THREE_KEYS, HANGING + " NO_DECLINE"),
    Check(
        "the look whose the left-overs are, where none is given up",
        ONE_KEY,
        "OUTSIDERS=1 FAILURES=1 NO_OWNER_LOOK",
    ),
    Check("left-overs go to the front", ONE_KEY, "FAILURES=1 STOPS=1 NO_FRONT"),
    Check("an end is one step", ONE_KEY, "FAILURES=1 STOPS=1 THREE_STEPS"),
    Check("the same, where one is given up", ONE_KEY, "FAILURES=1 STOPS=0 ABANDONS=1 THREE_STEPS"),
    Check(
        "the same, where a stranger ends one",
        ONE_KEY,
        "FAILURES=1 STOPS=0 OUTSIDERS=1 THREE_STEPS",
    ),
]

DEEP = [
    Check("one key, more letters", "a a? a a | a? a a a?", "FAILURES=1 STOPS=1"),
    Check("one key, three senders", "a a? | a? a | a a?", "FAILURES=2 STOPS=1"),
    Check("one key, more failures and stops", "a a? a | a? a a?", "FAILURES=4 STOPS=2"),
    Check("one key, which is given up", "a a? a | a? a a?", "FAILURES=1 STOPS=0 ABANDONS=1"),
    Check(
        "one key, which is ended from outside", "a a? a | a? a a?", "FAILURES=1 STOPS=0 OUTSIDERS=1"
    ),
    Check("one key, in all orders", "a a? a | a? a a?", "FAILURES=1 STOPS=1", reduced=False),
    Check("two keys, one place", "a b? a | b a? b", "MAX_LIVE=1 FAILURES=2 STOPS=1"),
    Check("three keys, two places", "a c? a | b a? c", "MAX_LIVE=2 FAILURES=0 STOPS=1"),
    Check("three keys, two places, one handler hangs", "a c? a | b a c", HANGING),
    Check("two keys, one place: every run ends", "a b? a | b a? b", ONE_PLACE, ends=True),
]


@dataclass(frozen=True)
class Found:
    """What Spin has found."""

    outcome: str
    states: int
    depth: int
    megabytes: float
    seconds: float


def definitions(check: Check) -> list[str]:
    """Return what to define for the model."""
    senders = [sender.split() for sender in check.letters.split("|")]
    letters = [letter for sender in senders for letter in sender]
    keys = sorted({letter.rstrip("?") for letter in letters})
    asks = sum(1 << i for i, letter in enumerate(letters) if letter.endswith("?"))
    targets = sum(keys.index(letter.rstrip("?")) << 2 * i for i, letter in enumerate(letters))
    if len({len(sender) for sender in senders}) != 1:
        raise ValueError(f"each sender must send as many letters as the others: {check.letters!r}")
    model = MODEL.read_text("utf-8")
    for name in re.findall(r"\w*[A-Z]\w*", check.settings):
        if not re.search(rf"\b{name}\b", model):
            raise LookupError(f"{MODEL.name} knows no {name}")
    size = {
        "SENDERS": len(senders),
        "LETTERS": len(senders[0]),
        "KEYS": len(keys),
        "ASKS": asks,
        "TARGETS": targets,
    }
    return [f"-D{name}={value}" for name, value in size.items()] + [
        f"-D{setting}" for setting in check.settings.split()
    ]


def find(check: Check, megabytes: int) -> Found:
    """Let Spin look at all states, or until something is wrong."""
    options = ["-DNP"] if check.ends else ["-DSAFETY"]
    options += [] if check.reduced else ["-DNOREDUCE"]
    options += ["-DCOLLAPSE", f"-DMEMLIM={megabytes}"]
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(MODEL, folder)
        _run(folder, "spin", "-a", *definitions(check), MODEL.name)
        # What is over after a moment is not worth a long compilation.
        optimise = "-O1" if check.expected == HOLDS else "-O0"
        _run(folder, "gcc", optimise, "-w", *options, "-o", "pan", "pan.c")
        begin = time.monotonic()
        said = _run(folder, "./pan", f"-m{STEPS}", *(["-l"] if check.ends else []))
        seconds = time.monotonic() - begin
    states = re.search(r"(\d+) states, stored", said)
    depth = re.search(r"depth reached (\d+)", said)
    memory = re.search(r"([\d.]+)\s+total actual memory usage", said)
    if states is None or depth is None or memory is None:
        raise RuntimeError(f"{check.what}: Spin has said:\n{said}")
    return Found(_outcome(said), int(states[1]), int(depth[1]), float(memory[1]), seconds)


def _outcome(said: str) -> str:
    error = re.search(r"^pan:\d+: (.*) \(at depth \d+\)", said, re.MULTILINE)
    if error is None:
        is_complete = (
            "Full statespace search" in said
            and "errors: 0" in said
            and "not completed" not in said
            and "max search depth too small" not in said
        )
        return HOLDS if is_complete else "not completed"
    if error[1].startswith("invalid end state"):
        return DEADLOCK
    if error[1].startswith("non-progress cycle"):
        return ENDLESS
    flag = re.fullmatch(r"assertion violated\s+!\((\w+)\)", error[1])
    if flag is not None:
        return flag[1]
    if re.fullmatch(r"assertion violated\s+\((\d+)!=\1\)", error[1]):
        return POSSIBLE
    return error[1]


def _run(folder: str, *command: str) -> str:
    done = subprocess.run(  # noqa: S603  # Spin, gcc, and what they have made
        command,
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} has failed:\n{done.stdout}")
    return done.stdout


def _say(line: str) -> None:
    print(line, flush=True)  # noqa: T201


def main(words: list[str]) -> int:
    """Make the checks."""
    missing = [tool for tool in ("spin", "gcc") if shutil.which(tool) is None]
    if missing:
        _say(f"{' and '.join(missing)} must be installed: apt-get install spin gcc")
        return 2
    is_deep = "--deep" in words
    has_spare = not is_deep and "--no-spare" not in words
    words = [word for word in words if word not in {"--deep", "--no-spare"}]
    parts = {
        "Nothing goes wrong in any state:": DEEP if is_deep else WORLDS,
        "These can happen:": [] if is_deep else POSSIBILITIES,
        "Without this something goes wrong:": [] if is_deep else GUARDS,
        "Without this nothing goes wrong, either:": SPARE if has_spare else [],
    }
    megabytes = MEGABYTES * (2 if is_deep else 1)
    wrong = 0
    begin = time.monotonic()
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for title, checks in parts.items():
            wanted = [c for c in checks if not words or any(word in c.what for word in words)]
            if wanted:
                _say(title)
            for check, found in zip(
                wanted, pool.map(partial(find, megabytes=megabytes), wanted), strict=True
            ):
                is_right = found.outcome == check.expected
                wrong += not is_right
                _say(
                    f"  {'' if is_right else 'WRONG: '}{found.outcome:17} {check.what:57} "
                    f"{found.states:>11,} states {found.depth:>4} deep "
                    f"{found.megabytes:>6,.0f} MB {found.seconds:5.1f} s"
                )
                if not is_right:
                    _say(f"    expected: {check.expected}; with {' '.join(definitions(check))}")
    seconds = time.monotonic() - begin
    _say(f"{wrong or 'nothing'} is not as expected; {seconds:.0f} s, on {os.cpu_count()} cores")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
