"""`python -m tfpyop`, the same as the command `tfpyop`."""

import sys

from tfpyop.cli import main

sys.exit(main())
