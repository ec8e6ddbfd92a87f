"""A process that becomes the owner of a name when it is told to, and stores until it is replaced.

    python -m tests.eventsourcing.owner

The settings of its store are in the environment. Each line of its standard input lets it claim; it
answers with a line of JSON once it has claimed and loaded, and another once each of its threads has
stored a few events; they go on until it is replaced. When its input ends it says how many events it
has stored under each epoch, and ends.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from typing import TYPE_CHECKING
from uuid import uuid4

from eventsourcing.persistence import InfrastructureFactory, StoredEvent
from eventsourcing.utils import Environment

from pykka_registry.eventsourcing import Fence, Fenced, claim
from tests.support import PATIENCE

if TYPE_CHECKING:
    from eventsourcing.persistence import ApplicationRecorder

NAME = "owner"
THREADS = 4
ENOUGH = 2  # events of each thread


class Owner:
    """What the process does under one epoch."""

    def __init__(self, recorder: ApplicationRecorder) -> None:
        self.fence: Fence = claim(recorder, NAME)
        self.loaded = recorder.max_notification_id() or 0
        self.under_load = threading.Barrier(THREADS + 1)
        self.stored = [0] * THREADS
        self._recorder = recorder
        self._threads = [
            threading.Thread(target=self._store, args=[number], daemon=True)
            for number in range(THREADS)
        ]
        for thread in self._threads:
            thread.start()

    def _store(self, number: int) -> None:
        state = json.dumps({"epoch": self.fence.epoch, "process": os.getpid()}).encode()
        while True:
            events = [StoredEvent(uuid4(), 1, "stored", state) for _ in range(2)]
            try:
                self._recorder.insert_events(events, tracking=None, fence=self.fence)
            except Fenced:
                return
            self.stored[number] += len(events)
            if self.stored[number] == ENOUGH * len(events):
                self.under_load.wait(PATIENCE)

    def wait_until_replaced(self) -> None:
        for thread in self._threads:
            thread.join(PATIENCE)
            if thread.is_alive():
                raise TimeoutError


def tell(**what: object) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


def main() -> None:
    factory = InfrastructureFactory.construct(Environment(env=dict(os.environ)))
    recorder = factory.application_recorder()
    stored: dict[int, int] = {}
    for _ in sys.stdin:
        owner = Owner(recorder)
        tell(epoch=owner.fence.epoch, loaded=owner.loaded)
        owner.under_load.wait(PATIENCE)
        tell(under_load=True)
        owner.wait_until_replaced()
        stored[owner.fence.epoch] = sum(owner.stored)
    tell(stored=stored)
    factory.close()


if __name__ == "__main__":
    main()
