"""What can keep a command from its work, as the user is told of it."""

from __future__ import annotations

import re


class Problem(Exception):  # noqa: N818 - base of the two below, never raised itself
    """One line for the user, and an exit status."""

    status: int


class Unusable(Problem):
    """What the user gave cannot be worked with; nothing was booked."""

    status = 2


class Failed(Problem):
    """The command was started and could not be finished."""

    status = 1


def without_secrets(text: str) -> str:
    """Cut off what follows `://`, as the URL of a database may have a password in it."""
    return re.sub(r"://\S+", "://...", text)
