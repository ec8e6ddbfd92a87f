"""Two processes take a name from each other, under load; the store shows who stored when."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pykka_registry.eventsourcing import claim
from tests.eventsourcing.owner import ENOUGH, NAME, THREADS
from tests.support import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Generator

    from tests.eventsourcing.support import Store

ROOT = Path(__file__).parent.parent.parent


class Process:
    """An owner of its own process; see `tests.eventsourcing.owner`."""

    def __init__(self, popen: subprocess.Popen[str]) -> None:
        self._popen = popen

    def tell(self) -> None:
        assert self._popen.stdin
        self._popen.stdin.write("claim\n")
        self._popen.stdin.flush()

    def hear(self) -> dict[str, Any]:
        assert self._popen.stdout
        line = self._popen.stdout.readline()
        assert line, "the process has ended; see its standard error"
        answer: dict[str, Any] = json.loads(line)
        return answer

    def end(self) -> dict[int, int]:
        """Return how many events it has stored under each of its epochs."""
        assert self._popen.stdin
        self._popen.stdin.close()
        stored = {int(epoch): count for epoch, count in self.hear()["stored"].items()}
        assert self._popen.wait(PATIENCE) == 0
        return stored


@contextmanager
def owner(store: Store, **settings: str) -> Generator[Process]:
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    with subprocess.Popen(
        [sys.executable, "-W", "error", "-m", "tests.eventsourcing.owner"],
        cwd=ROOT,
        env=os.environ | store.env(**settings) | {"PYTHONPATH": path},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as popen:
        try:
            yield Process(popen)
        finally:
            popen.kill()


@pytest.mark.parametrize(
    ("kind", "group_commit", "take_overs"),
    [("sqlite_file", "yes", 60), ("postgres", "yes", 60), ("postgres", "no", 20)],
)
def test_nothing_of_the_old_owner_is_stored_once_the_new_one_has_loaded(
    kind: str, group_commit: str, take_overs: int, request: pytest.FixtureRequest
) -> None:
    store: Store = request.getfixturevalue(kind)
    loaded: dict[int, int] = {}
    with ExitStack() as stack:
        recorder = stack.enter_context(store.recorder())  # and with it the tables
        owners = [stack.enter_context(owner(store, GROUP_COMMIT=group_commit)) for _ in range(2)]
        for number in range(take_overs + 1):
            # The other one is storing, with all its threads, while this one claims.
            new_owner = owners[number % 2]
            new_owner.tell()
            claimed = new_owner.hear()
            loaded[claimed["epoch"]] = claimed["loaded"]
            assert new_owner.hear() == {"under_load": True}
        claim(recorder, NAME)
        stored = owners[0].end() | owners[1].end()
        log = recorder.select_notifications(None, 1_000_000)
    assert sorted(loaded) == sorted(stored) == list(range(1, take_overs + 2))
    assert min(stored.values()) >= THREADS * ENOUGH
    assert len(log) == sum(stored.values())
    epochs = [(notification.id, json.loads(notification.state)["epoch"]) for notification in log]
    for (_, earlier), (id_, later) in pairwise(epochs):
        assert earlier <= later, f"event {id_} is of an owner that had been replaced"
    for id_, epoch in epochs:
        assert loaded[epoch] < id_ <= loaded.get(epoch + 1, id_), (id_, epoch)
