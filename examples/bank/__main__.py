"""Run the bank: `python -m examples.bank --help`."""

from __future__ import annotations

import sys

from examples.bank.cli import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
