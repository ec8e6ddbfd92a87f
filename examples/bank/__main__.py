"""Run the bank: `python -m examples.bank --help`."""

from __future__ import annotations

import signal
import sys

from examples.bank.interrupt import end_at_once

if __name__ == "__main__":
    # Before the other imports: they take long enough for somebody to press Ctrl-C.
    signal.signal(signal.SIGINT, lambda _signal, _frame: end_at_once())
    from examples.bank.cli import main

    status = main(sys.argv[1:])
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.exit(status)
