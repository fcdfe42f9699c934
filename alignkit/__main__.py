"""`python -m alignkit`: the same as `alignkit`."""

from __future__ import annotations

import sys

from alignkit.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
