"""rlcore runs on torch 2.11 with vLLM 0.26 and on torch 2.13 with vLLM 0.31 to 0.33: no newer name is used without a fallback.

The table `api_names.json` says which names each version lacks; `tests/device/api.py` makes it from unpacked wheels.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import json
from importlib import metadata
from pathlib import Path

import pytest
import torch

from rlcore.bench.device.attention import FEATURES, LAYOUTS, compare_kernel
from rlcore.learner import attention_cuda
from tests.device.api import KEYWORDS, ROOT, TABLE, names_of_file, sources_of_rlcore, used_names

TABLED = json.loads(TABLE.read_text())
SUPPORTED = ["torch 2.11.0", "torch 2.13.0", "torch 2.14.0", "vllm 0.26.0", "vllm 0.31.0", "vllm 0.32.0", "vllm 0.33.0"]


def unguarded(text: str, lacking: set[str]) -> set[str]:
    """Names of `lacking` that a file imports or reads outside of a `try` that catches their absence and of `hasattr`.

    What is reached through a guarded import is guarded with it.
    """
    tree = ast.parse(text)
    guarded: set[ast.AST] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Try) and any(_catches_absence(handler) for handler in node.handlers):
            for statement in node.body:
                guarded |= set(ast.walk(statement))
    imported_safely: set[str] = set()
    unsafe: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            names = {f"{node.module}.{item.name}" for item in node.names}
        elif isinstance(node, ast.Import):
            names = {item.name for item in node.names}
        else:
            continue
        (imported_safely if node in guarded else unsafe).update(names & lacking)
    asked = {
        node.args[1].value
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id in ("hasattr", "getattr")
        and len(node.args) > 1
        and isinstance(node.args[1], ast.Constant)
    }
    for name in names_of_file(text) & lacking:
        is_below = any(name.startswith(f"{safe}.") or name == safe for safe in imported_safely)
        if not is_below and name.rpartition(".")[2] not in asked:
            unsafe.add(name)
    return unsafe


def _catches_absence(handler: ast.ExceptHandler) -> bool:
    caught = ast.unparse(handler.type) if handler.type else "Exception"
    return any(name in caught for name in ("ImportError", "AttributeError", "Exception"))


def test_the_table_knows_every_name_that_is_used() -> None:
    missing = set(used_names(sources_of_rlcore())) - set(TABLED["lacking"])
    assert not missing, f"not in {TABLE.name}: {sorted(missing)}; make it again (tests/device/api.py says how)"
    assert TABLED["versions"] == SUPPORTED
    assert KEYWORDS.keys() == TABLED["keywords"].keys()
    for function, names in KEYWORDS.items():
        assert sorted(TABLED["keywords"][function]) == sorted(names)


@pytest.mark.parametrize("path", sources_of_rlcore(), ids=lambda path: str(path.relative_to(ROOT)))
def test_no_newer_name_is_used_without_a_fallback(path: Path) -> None:
    lacking = {name for name, versions in TABLED["lacking"].items() if versions}
    assert not unguarded(path.read_text(encoding="utf-8"), lacking)


def test_a_newer_parameter_is_asked_for_before_it_is_given() -> None:
    """`takes(function, "name")` in a file that calls the function."""
    text = "\n".join(path.read_text(encoding="utf-8") for path in sources_of_rlcore())
    for function, names in TABLED["keywords"].items():
        for name, versions in names.items():
            short = function.rpartition(".")[2]
            assert not versions or f'takes({short}, "{name}")' in text, (function, name, versions)


def test_the_scan_sees_what_it_should(tmp_path: Path) -> None:
    """Planted: a plain import, a plain attribute, a guarded import, one that is asked for."""
    newer = {"vllm.new.Thing", "vllm.new.Thing.part", "torch.optim.Newest"}
    assert unguarded("from vllm.new import Thing\n", newer) == {"vllm.new.Thing"}
    assert unguarded("import torch\ntorch.optim.Newest(1)\n", newer) == {"torch.optim.Newest"}
    safe = "try:\n    from vllm.new import Thing\nexcept ImportError:\n    Thing = None\nThing.part()\n"
    assert unguarded(safe, newer) == set()
    wrong = safe.replace("ImportError", "ValueError")
    assert unguarded(wrong, newer) == {"vllm.new.Thing", "vllm.new.Thing.part"}
    asked = "import torch\nif hasattr(torch.optim, 'Newest'):\n    torch.optim.Newest(1)\n"
    assert unguarded(asked, newer) == set()


@pytest.mark.parametrize("package", ["torch", "vllm"])
def test_the_table_is_right_about_what_is_installed_here(package: str) -> None:
    """Its column of the installed version, read from sources, against the objects themselves."""
    version = _installed(package)
    column = f"{package} {version}"
    if column not in SUPPORTED:
        pytest.skip(f"{package} {version} is not in the table")
    names = [name for name in TABLED["lacking"] if name.split(".")[0] == package]
    if not torch.distributed.is_nccl_available():  # a build without CUDA
        names = [name for name in names if "ProcessGroupNCCL" not in name]
    wrong = [name for name in names if _exists(name) != (column not in TABLED["lacking"][name])]
    assert names and not wrong
    for function, keywords in TABLED["keywords"].items():
        if function.split(".")[0] != package:
            continue
        parameters = inspect.signature(_object(function)).parameters
        for name, versions in keywords.items():
            assert (name in parameters) == (column not in versions), (function, name)


def _installed(package: str) -> str:
    for name in (package, f"{package}-cpu"):
        try:
            return metadata.version(name).partition("+")[0]
        except metadata.PackageNotFoundError:
            continue
    return "absent"


def _object(name: str) -> object:
    parts = name.split(".")
    for cut in range(len(parts), 0, -1):
        try:
            value = importlib.import_module(".".join(parts[:cut]))
        except ModuleNotFoundError:
            continue
        for part in parts[cut:]:
            value = getattr(value, part)
        return value
    raise AttributeError(name)


def _exists(name: str) -> bool:
    try:
        _object(name)
    except AttributeError:
        return False
    return True


# --- the fallbacks themselves -------------------------------------------------------------------------------------------


def _varlen(query, key, value, borders, _, longest, __, *, scale=None, window_size=(-1, -1)):
    """torch 2.11's `varlen_attn` by its documentation, for sequences side by side: [T, H, D], heads of one number."""
    assert query.shape == key.shape == value.shape, "torch 2.11 is given as many key heads as query heads"
    assert int(borders.diff().max()) == longest
    outputs = []
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    for begin, end in zip(borders[:-1].tolist(), borders[1:].tolist(), strict=True):
        q, k, v = (x[begin:end].transpose(0, 1) for x in (query, key, value))
        distance = torch.arange(end - begin)[:, None] - torch.arange(end - begin)
        near = (distance >= 0) & (window_size[0] < 0 or distance <= window_size[0])
        scores = (q @ k.transpose(1, 2) * scale).masked_fill(~near, float("-inf"))
        outputs.append((scores.softmax(-1) @ v).transpose(0, 1))
    return torch.cat(outputs)


def _varlen_grouped(query, key, value, *rest, enable_gqa=False, **settings):
    """torch 2.13's: fewer key heads, if it is told."""
    assert enable_gqa == (query.shape[1] != key.shape[1])
    repeat = query.shape[1] // key.shape[1]
    return _varlen(query, key.repeat_interleave(repeat, 1), value.repeat_interleave(repeat, 1), *rest, **settings)


@pytest.mark.parametrize("key_heads", [8, 2, 1])
@pytest.mark.parametrize("feature", ["plain", "window"])
@pytest.mark.parametrize("kernel", [_varlen, _varlen_grouped])
def test_flash_attention_with_grouped_heads_on_either_torch(monkeypatch, kernel, feature, key_heads) -> None:
    """Values and gradients, against float64 with an explicit mask."""
    monkeypatch.setattr(attention_cuda, "_varlen_attn", lambda: kernel)
    compare_kernel(
        attention_cuda.flash, LAYOUTS["packed"], FEATURES[feature], torch.float32, key_heads=key_heads
    )


@pytest.mark.parametrize("fails", [False, True])
def test_flash_attention_3_is_switched_on_where_it_can_be(monkeypatch, caplog, fails) -> None:
    import torch.nn.attention as attention

    asked = []

    def activate(name):
        asked.append(name)
        if fails:
            raise RuntimeError("does not expose FA3 backward kernels")

    monkeypatch.setattr(attention, "activate_flash_attention_impl", activate)
    attention_cuda._varlen_attn.cache_clear()
    assert attention_cuda._varlen_attn() and asked == []  # no Hopper GPU
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    attention_cuda._varlen_attn.cache_clear()
    assert attention_cuda._varlen_attn() and asked == []  # no kernels
    monkeypatch.setattr(attention_cuda, "find_spec", lambda name: name)
    attention_cuda._varlen_attn.cache_clear()
    caplog.set_level("INFO")
    if fails:
        with pytest.warns(UserWarning, match="FlashAttention 3 does not work here and 2 is used"):
            attention_cuda._varlen_attn()
    else:
        attention_cuda._varlen_attn()
        assert "FlashAttention 3" in caplog.text
    assert asked == ["FA3"]
    attention_cuda._varlen_attn.cache_clear()


def test_fused_adamw_is_for_gpus_by_default() -> None:
    """On a CPU the plain loop stays, whose roundings stored runs have; the fused kernel is there when asked for."""
    from rlcore.learner.optim import adamw

    settings = {"lr": 1e-3, "betas": (0.9, 0.95), "weight_decay": 0.0}
    module = torch.nn.Linear(4, 4)
    assert not any(group["fused"] for group in adamw(module, **settings).param_groups)
    assert all(group["fused"] for group in adamw(module, fused=True, **settings).param_groups)


@pytest.mark.parametrize(("cache", "share"), [(20 << 30, 0.25), (1 << 20, 0.01), (79 << 30, 0.9)])
def test_vllm_starts_on_a_gpu_that_the_learner_is_on(monkeypatch, tmp_path, cache, share) -> None:
    """vLLM refuses a start where less than `gpu_memory_utilization` of the GPU is free, 0.9 by default, though its cache is given."""
    from rlcore.rollout import server_process
    from rlcore.rollout.vllm_config import share_at_start

    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (30 << 30, 80 << 30))
    assert share_at_start(cache) == share
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(server_process, "read_config", lambda *_: None)
    settings = server_process.ServerSettings(
        model=str(tmp_path), dtype="bfloat16", max_length=64, memory_gb=cache / 2**30
    )
    words = settings.command("localhost", 8000)
    assert float(words[words.index("--gpu-memory-utilization") + 1]) == share
    assert int(words[words.index("--kv-cache-memory-bytes") + 1]) == cache
