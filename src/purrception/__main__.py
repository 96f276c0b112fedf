"""``python -m purrception`` is ``purrception``."""

import sys

from purrception.cli import main

if __name__ == "__main__":
    sys.exit(main())
