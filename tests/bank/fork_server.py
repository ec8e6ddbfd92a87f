"""Runs the program many times and kills each run at another moment; started by `test_crashes`.

Each run is a fork of this process, which has imported everything and started nothing: a fresh
interpreter for each would take ten times as long.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from typing import TYPE_CHECKING, Any

from eventsourcing.application import Application

from examples.bank.cli import main

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


def killed_at(save: int, *, before: bool, arguments: Sequence[str]) -> int:
    """Run the program and kill it right before or after a save; return how the run ended."""
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1]
    original: Callable[..., Any] = Application[Any].save
    saves = 0

    def sabotaged(self: Application[Any], *objs: Any, **kwargs: Any) -> Any:
        nonlocal saves
        saves += 1
        if before and saves == save:
            os.kill(os.getpid(), signal.SIGKILL)
        result = original(self, *objs, **kwargs)
        if saves == save:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    Application.save = sabotaged  # type: ignore[method-assign]  # that is the sabotage
    sys.stdout.flush()
    os._exit(main(arguments))


if __name__ == "__main__":
    for case in json.load(sys.stdin):
        end = killed_at(case["save"], before=case["before"], arguments=case["arguments"])
        sys.stdout.write(f"{end}\n")
