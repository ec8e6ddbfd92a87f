"""What an application of the `eventsourcing` library gains from sharing its store well.

`GroupCommitRecorder` stores what many threads save at the same time in one transaction; `claim` and
`Fence` keep an owner that has been replaced from storing anything. Neither needs an actor. The
modules `sqlite`, `postgres` and `popo` are persistence modules for the library's setting.
"""

from pykka_registry.eventsourcing._claim import claim
from pykka_registry.eventsourcing._exceptions import Fenced, OutcomeUnknown
from pykka_registry.eventsourcing._fence import Fence, FencedRecorder
from pykka_registry.eventsourcing._group_commit import (
    GroupCommitProcessRecorder,
    GroupCommitRecorder,
)

__all__ = [
    "Fence",
    "Fenced",
    "FencedRecorder",
    "GroupCommitProcessRecorder",
    "GroupCommitRecorder",
    "OutcomeUnknown",
    "claim",
]
