"""How the library's environment settings switch group commit on and set its bounds."""

from __future__ import annotations

from typing import TYPE_CHECKING, overload

from eventsourcing.persistence import ApplicationRecorder, ProcessRecorder
from eventsourcing.utils import strtobool

from pykka_registry.eventsourcing._group_commit import (
    MAX_CALLERS,
    MAX_EVENTS,
    GroupCommitProcessRecorder,
    GroupCommitRecorder,
)

if TYPE_CHECKING:
    from eventsourcing.utils import Environment

__all__ = ["with_group_commit"]

_GROUP_COMMIT = "GROUP_COMMIT"
_GROUP_COMMIT_MAX_EVENTS = "GROUP_COMMIT_MAX_EVENTS"
_GROUP_COMMIT_MAX_CALLERS = "GROUP_COMMIT_MAX_CALLERS"


@overload
def with_group_commit(recorder: ProcessRecorder, env: Environment) -> ProcessRecorder: ...


@overload
def with_group_commit(recorder: ApplicationRecorder, env: Environment) -> ApplicationRecorder: ...


def with_group_commit(recorder: ApplicationRecorder, env: Environment) -> ApplicationRecorder:
    """Wrap a recorder as the settings say.

    Raises:
        OSError: if a setting is not what it has to be; the library's own settings do the same.
    """
    if not _boolean(env, _GROUP_COMMIT, default="yes"):
        return recorder
    max_events = _positive(env, _GROUP_COMMIT_MAX_EVENTS, default=MAX_EVENTS)
    max_callers = _positive(env, _GROUP_COMMIT_MAX_CALLERS, default=MAX_CALLERS)
    if isinstance(recorder, ProcessRecorder):
        return GroupCommitProcessRecorder(recorder, max_events=max_events, max_callers=max_callers)
    return GroupCommitRecorder(recorder, max_events=max_events, max_callers=max_callers)


def _boolean(env: Environment, key: str, *, default: str) -> bool:
    value = env.get(key) or default
    try:
        return strtobool(value)
    except ValueError:
        message = f"{key} is {value!r}, and has to be yes, no, or another of the library's truths"
        raise OSError(message) from None


def _positive(env: Environment, key: str, *, default: int) -> int:
    value = env.get(key) or str(default)
    if not value.isdecimal() or int(value) < 1:
        message = f"{key} is {value!r}, and has to be a whole number, at least 1"
        raise OSError(message)
    return int(value)
