"""What an application of the `eventsourcing` library gains from sharing its store well.

`GroupCommitRecorder` stores what many threads save at the same time in one transaction; `claim` and
`Fence` keep an owner that has been replaced from storing anything. Neither needs an actor. The
modules `sqlite`, `postgres` and `popo` are persistence modules for the library's setting.

`live_aggregates` has the aggregates of an application live in actors.
"""

from pykka_registry.eventsourcing._claim import claim
from pykka_registry.eventsourcing._command import Decision
from pykka_registry.eventsourcing._exceptions import (
    AggregateExists,
    CommandIdReused,
    ConcurrencyError,
    Fenced,
    OutcomeUnknown,
)
from pykka_registry.eventsourcing._fence import Fence, FencedRecorder
from pykka_registry.eventsourcing._group_commit import (
    GroupCommitProcessRecorder,
    GroupCommitRecorder,
)
from pykka_registry.eventsourcing._live import LiveAggregates, LiveRef, live_aggregates
from pykka_registry.eventsourcing._receipts import Receipt, StrReceipt, receipt_id

__all__ = [
    "AggregateExists",
    "CommandIdReused",
    "ConcurrencyError",
    "Decision",
    "Fence",
    "Fenced",
    "FencedRecorder",
    "GroupCommitProcessRecorder",
    "GroupCommitRecorder",
    "LiveAggregates",
    "LiveRef",
    "OutcomeUnknown",
    "Receipt",
    "StrReceipt",
    "claim",
    "live_aggregates",
    "receipt_id",
]
