"""`python -m edgetiny`: the command line."""

import sys

from edgetiny.cli import main

sys.exit(main())
