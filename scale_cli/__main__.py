"""`python -m scale_cli`: the command `scale`."""

import sys

from scale_cli.cli import main

sys.exit(main())
