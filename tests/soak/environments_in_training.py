"""Faults in the environment of a running training, by hundreds: does any rollout get a wrong reward, is anything left behind?

    python -m tests.soak.environments_in_training --faults 500

The environment of `tests/env/guessing.py` hangs, dies, raises, lies about its types or forks in a quarter of its replies. Steps are added
until so many rollouts have failed. Every other rollout's reward is computed again, from its completions, without faults.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from tests.env.test_multi_turn_runs import (
    orphans,
    reward_without_trouble,
    rollouts,
    write_recipe,
)
from tests.run.whole import finish, start

STEPS = 4


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--faults", type=int, default=500)
    wanted = parser.parse_args().faults
    began = time.monotonic()
    recipe = write_recipe(Path(tempfile.mkdtemp()))
    steps, failed, rows = 0, [], []
    while len(failed) < wanted:
        steps += STEPS
        finish(
            start(
                "train",
                recipe,
                *(["--resume"] if steps > STEPS else []),
                f"stages.rl.steps={steps}",
                "stages.rl.groups_per_step=16",
                "stages.rl.env.trouble=0.25",
                "stages.rl.env.deadline_s=3.0",
                "stages.rl.env.memory_gb=1",
                cold=True,
            ),
            timeout_s=3600,
        )
        rows = rollouts(recipe)
        failed = [row for row in rows if row["value"] is None]
        print(f"{len(failed)} of {len(rows)} rollouts failed after {steps} steps", file=sys.stderr)
    wrong = [
        row["id"]
        for row in rows
        if row["value"] is not None
        and abs(row["value"] - reward_without_trouble(row)) > 1e-9
    ]
    time.sleep(3.0)  # workers look for their parent every second
    left = orphans()
    result = {
        "rollouts": len(rows),
        "failed": Counter(row["status"] for row in failed),
        "wrong_rewards": wrong,
        "processes_left": sorted(left),
        "seconds": round(time.monotonic() - began),
    }
    print(json.dumps(result))
    return 1 if wrong or left else 0


if __name__ == "__main__":
    sys.exit(main())
