"""`python -m rlcore.bench.device` is `rlcore bench device`."""

import sys

from rlcore.cli.main import main

sys.exit(main(["bench", "device", *sys.argv[1:]]))
