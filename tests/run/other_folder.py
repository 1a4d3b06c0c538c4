"""Run in each process: the `rlcore` command, where each rank has a working directory of its own, as on nodes without shared files."""

import os
import sys

from rlcore.cli.main import main
from rlcore.run import shared_files

shared_files.DEADLINE_S = 0.5
os.chdir(f"node{os.environ['RANK']}")
sys.exit(main(sys.argv[1:]))
