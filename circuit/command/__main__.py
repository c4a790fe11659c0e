"""The command line of a clone: `python -m circuit.command`."""

from __future__ import annotations

import sys

from circuit.command.main import main

if __name__ == "__main__":
    sys.exit(main())
