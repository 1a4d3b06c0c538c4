"""`python -m rlcore` is the `rlcore` command, for launchers that want a module."""

import sys

from rlcore.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
