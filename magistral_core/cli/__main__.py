"""`python -m magistral_core.cli`: the same as the `magistral` command."""

import sys

from magistral_core.cli.app import main

sys.exit(main())
