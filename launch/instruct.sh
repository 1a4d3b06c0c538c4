#!/usr/bin/env bash
# From a fresh clone to an instruction-tuned model that follows more instructions: installs into .venv, brings
# SmolLM2-135M-Instruct, runs recipes/instruct.yaml. Arguments go to the recipe, for example: bash launch/instruct.sh seed=1
#   --quick            6 steps and a quarter of the eval set (36 prompts): whether it runs, not what it learns
#   IFEVAL=file.jsonl  also evaluates on these prompts of IFEval; IFEVAL=google/IFEval takes them from the hub
set -euo pipefail
. "$(dirname "$0")/environment.sh"
recipe=instruct
settings=()
if [ "${1:-}" = --quick ]; then
    shift
    settings+=(stages.rl.steps=6 stages.before.limit=36 stages.after.limit=36)
fi
if [ -n "${IFEVAL:-}" ]; then
    recipe=instruct_ifeval
    settings+=("tasks.ifeval.path=$IFEVAL")
fi
rlcore models get smollm2
exec rlcore train "$recipe" --overwrite --json "${settings[@]}" "$@"
