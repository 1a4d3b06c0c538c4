#!/usr/bin/env bash
# Run on the GPU machine, from a piece that launch/gpu/carry.sh made.
#   bash receive.sh add       takes this folder's piece to $STORE and checks it
#   bash receive.sh join      when all pieces are there: puts the files together and checks them
#   bash receive.sh install   unpacks the packages to $STORE/site, writes $STORE/env.sh, tries their imports
#   bash receive.sh model     SmolLM2 as a model folder, where recipes look for it; run it from the project's root
# env: STORE=~/rlcore_gpu  RLCORE_PYTHON=python3
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
store=${STORE:-$HOME/rlcore_gpu}
python=${RLCORE_PYTHON:-python3}
sum() { sha256sum < "$1" | cut -d' ' -f1; }
fail() {
    echo "error: $*" >&2
    exit 1
}

add() {
    mkdir -p "$store/parts"
    if [ -f "$store/MANIFEST" ] && ! cmp -s "$here/MANIFEST" "$store/MANIFEST"; then
        echo "the pieces in $store are of another packing: removed"
        rm -rf "$store/parts" && mkdir "$store/parts"
    fi
    cp "$here/MANIFEST" "$store/"
    local n part expected taken=0
    for path in "$here"/*.[0-9][0-9][0-9]; do
        part=$(basename "$path")
        expected=$(awk -v part="$part" '$1 == "part" && $2 == part {print $3}' "$store/MANIFEST")
        [ -n "$expected" ] || fail "$part is not in the manifest: bring the piece again"
        [ "$(sum "$path")" = "$expected" ] || fail "$part is damaged: bring the piece again"
        cp "$path" "$store/parts/.$part" && mv "$store/parts/.$part" "$store/parts/$part"
        taken=$((taken + 1))
        echo "have $part"
    done
    [ $taken -gt 0 ] || fail "there is no piece in $here"
    while read -r kind part _ _ n; do
        [ "$kind" = part ] && [ ! -f "$store/parts/$part" ] && echo "still to bring: $n ($part)"
    done < "$store/MANIFEST"
    return 0
}

join() {
    [ -f "$store/MANIFEST" ] || fail "no piece was added yet: bash receive.sh add"
    local kind name expected missing=0
    while read -r kind part expected _ n; do
        [ "$kind" = part ] || continue
        if [ ! -f "$store/parts/$part" ]; then
            echo "missing: $n ($part)" >&2
            missing=1
        elif [ "$(sum "$store/parts/$part")" != "$expected" ]; then
            echo "damaged: $n ($part)" >&2
            missing=1
        fi
    done < "$store/MANIFEST"
    [ $missing = 0 ] || fail "bring those pieces first"
    while read -r kind name expected _; do
        [ "$kind" = file ] || continue
        [ -f "$store/$name" ] && [ "$(sum "$store/$name")" = "$expected" ] && { echo "whole $name"; continue; }
        # the manifest has the parts in order
        awk -v name="$name" -v folder="$store/parts/" '$1 == "part" && $4 == name {print folder $2}' "$store/MANIFEST" |
            tr '\n' '\0' | xargs -0 cat > "$store/.$name"
        [ "$(sum "$store/.$name")" = "$expected" ] || fail "$name is not what was packed"
        mv "$store/.$name" "$store/$name"
        echo "whole $name"
    done < "$store/MANIFEST"
}

install() {
    join
    rm -rf "$store/site" && mkdir "$store/site"
    if command -v xz > /dev/null; then
        xz -dc -T0 "$store/site.tar.xz" | tar -C "$store/site" -xf -
    else
        "$python" -c "import sys, tarfile; tarfile.open(sys.argv[1], 'r:xz').extractall(sys.argv[2], filter='fully_trusted')" \
            "$store/site.tar.xz" "$store/site"
    fi
    cat > "$store/env.sh" << END
export PYTHONPATH=$store/site\${PYTHONPATH:+:\$PYTHONPATH}
export VLLM_USE_FLASHINFER_SAMPLER=0  # flashinfer is not carried, and vLLM 0.26 imports it unless told not to
export VLLM_NO_USAGE_STATS=1 DO_NOT_TRACK=1 HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false PYTHONUNBUFFERED=1
export VLLM_WORKER_MULTIPROC_METHOD=spawn
END
    echo "$(du -sm "$store/site" | cut -f1) MiB in $store/site; before any command: . $store/env.sh"
    # shellcheck disable=SC1091
    . "$store/env.sh"
    "$python" - << 'END'
import importlib, importlib.util, sys
for name in ("yaml", "rich", "filelock", "pyarrow", "xxhash", "httpx", "pydantic", "safetensors", "accelerate", "peft", "transformers"):
    if importlib.util.find_spec(name) is None:
        print("absent", name, "(rlcore needs it, and it is not carried)")
import torch
print("torch", torch.__version__, "cuda", torch.cuda.is_available())
bad = 0
for name in ("vllm._C_stable_libtorch", "vllm.vllm_flash_attn._vllm_fa3_C", "vllm.cumem_allocator", "vllm", "vllm.entrypoints.llm", "gguf",
             "datasets", "math_verify", "trl", "trl.trainer.grpo_trainer", "trl.generation.vllm_generation"):
    try:
        importlib.import_module(name)
    except BaseException as error:
        bad += 1
        print("failed", name, type(error).__name__, str(error)[:300])
    else:
        print("imported", name)
sys.exit(bad > 0)
END
}

model() {
    join
    [ -f rlcore/__main__.py ] || fail "run this from the project's root"
    if [ -f "$store/env.sh" ]; then . "$store/env.sh"; fi
    PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH} PIP_NO_INDEX=1 PIP_FIND_LINKS=$store HF_HUB_OFFLINE=1 \
        "$python" -m rlcore models get smollm2
}

[ $# -ge 1 ] || { sed -n '2,7p' "$0"; exit 2; }
for verb in "$@"; do
    case $verb in
        add | join | install | model) $verb ;;
        *) echo "error: there is no verb $verb: add, join, install, model" >&2; exit 2 ;;
    esac
done
