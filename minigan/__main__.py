"""`python -m minigan`: the command line."""

import sys

from minigan.cli import main

sys.exit(main())
