"""Which names of torch and vLLM rlcore uses, and which of them a version has, read from sources without importing them.

The table beside this file is made from unpacked wheels of the versions that cannot be installed here:

    pip download --no-deps vllm==0.26.0 ...; unzip -q vllm-0.26.0*.whl '*.py' '*.pyi' -d FOLDER
    python -m tests.device.api "torch 2.11.0=FOLDER" "vllm 0.26.0=FOLDER" ...
"""

from __future__ import annotations

import ast
import json
import sys
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
TABLE = Path(__file__).with_name("api_names.json")
ROOTS = ("torch", "vllm")
KEYWORDS = {
    # passed as **settings, or to methods of objects, where no scan sees them
    "torch.nn.attention.varlen.varlen_attn": ["scale", "window_size", "enable_gqa"],
    "torch.nn.attention.flex_attention.flex_attention": ["score_mod", "block_mask", "scale", "enable_gqa"],
    "torch.nn.attention.flex_attention.create_block_mask": ["device"],
    "torch.optim.AdamW": ["lr", "betas", "fused"],
    "torch.optim.Muon": ["lr", "weight_decay", "adjust_lr_fn"],
    "vllm.v1.engine.llm_engine.LLMEngine.reset_prefix_cache": ["reset_running_requests"],
    "vllm.v1.engine.llm_engine.LLMEngine.add_request": ["lora_request"],
    "vllm.v1.engine.llm_engine.LLMEngine.collective_rpc": ["method", "args"],
    "vllm.v1.engine.llm_engine.LLMEngine.apply_model": ["func"],
    "vllm.v1.engine.llm_engine.LLMEngine.add_lora": ["lora_request"],
    "vllm.v1.engine.llm_engine.LLMEngine.sleep": ["level"],
    "vllm.v1.engine.llm_engine.LLMEngine.wake_up": [],
    "vllm.engine.arg_utils.EngineArgs": [
        "model", "dtype", "max_model_len", "max_num_seqs", "seed", "tensor_parallel_size", "enable_prefix_caching",
        "kv_cache_memory_bytes", "enable_lora", "max_loras", "max_cpu_loras", "max_lora_rank", "enable_chunked_prefill",
        "max_num_batched_tokens", "enforce_eager", "logprobs_mode", "max_logprobs", "async_scheduling", "disable_log_stats",
        "use_tqdm_on_load", "worker_extension_cls", "distributed_executor_backend", "enable_sleep_mode", "gpu_memory_utilization",
    ],
    "vllm.sampling_params.SamplingParams": [
        "max_tokens", "temperature", "top_p", "top_k", "min_p", "stop", "ignore_eos", "stop_token_ids", "seed", "logprobs",
        "detokenize", "skip_special_tokens", "output_kind", "prompt_logprobs",
    ],
    "vllm.lora.request.LoRARequest": ["load_inplace"],
    "vllm.model_executor.layers.utils.dispatch_cpu_unquantized_gemm": ["layer", "remove_weight"],
}  # fmt: skip
"""Function or class -> names of parameters (fields) that rlcore gives."""


# --- what rlcore uses ---------------------------------------------------------------------------------------------------


def used_names(paths: list[Path]) -> dict[str, set[str]]:
    """Dotted name of torch or vLLM -> files that use it."""
    used: dict[str, set[str]] = {}
    for path in paths:
        for name in names_of_file(path.read_text(encoding="utf-8")):
            if ".rlcore_" in name:  # put there by rlcore itself
                continue
            used.setdefault(name, set()).add(str(path.relative_to(ROOT)))
    return used


def names_of_file(text: str) -> set[str]:
    """Imports, and chains of attributes that begin with an imported name. A chain counts with all its beginnings' longest form."""
    tree = ast.parse(text)
    alias: dict[str, str] = {}
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for item in node.names:
                if item.name.split(".")[0] in ROOTS:
                    names.add(item.name)
                    alias[item.asname or item.name.split(".")[0]] = item.name if item.asname else item.name.split(".")[0]
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] in ROOTS:
            for item in node.names:
                name = f"{node.module}.{item.name}"
                names.add(name)
                alias[item.asname or item.name] = name
    for node in ast.walk(tree):
        chain = _chain(node)
        if chain and chain[0] in alias:
            names.add(".".join([alias[chain[0]], *chain[1:]]))
    return names


def _chain(node: ast.AST) -> list[str]:
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return [node.id, *reversed(parts)] if isinstance(node, ast.Name) and parts else []


# --- what a version has --------------------------------------------------------------------------------------------------


class Sources:
    """A package's files, unpacked. Names are looked for where they are bound: definitions, assignments, imports, stubs."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._parse = cache(self._read)

    def has(self, name: str) -> bool:
        """Whether the dotted name is there. What lies inside an object that is no class (`torch.float32.itemsize`) is not asked."""
        return self._find(name) is not None

    def parameters(self, name: str) -> set[str] | None:
        """Of a function or of a class: parameters and fields, those of its bases too; None where the name is not there.

        {"*"} where anything is taken.
        """
        found = self._find(name)
        if not isinstance(found, tuple):
            return None if found is None else {"*"}
        module, node = found
        if isinstance(node, ast.ClassDef):
            return self._of_class(module, node)
        arguments = node.args
        named = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
        return {item.arg for item in named} | ({"*"} if arguments.kwarg else set())

    def _of_class(self, module: str, node: ast.ClassDef) -> set[str]:
        fields = {
            item.target.id for item in node.body if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)
        }
        for item in node.body:
            if isinstance(item, ast.FunctionDef) and item.name in ("__init__", "__new__"):
                fields |= {arg.arg for arg in [*item.args.args, *item.args.kwonlyargs]}
        for base in node.bases:
            name = ".".join(_chain(base)) or getattr(base, "id", "")
            inherited = self._find(f"{module}.{name}") if name else None
            if isinstance(inherited, tuple) and isinstance(inherited[1], ast.ClassDef):
                fields |= self._of_class(*inherited)
        return fields

    def _find(self, name: str, depth: int = 0) -> object:
        """(module, definition), True for what is there without one, None."""
        parts = name.split(".")
        for cut in range(len(parts), 0, -1):
            module = ".".join(parts[:cut])
            if self._parse(module) is None:
                continue
            rest = parts[cut:]
            return self._inside(module, rest, depth) if rest else True
        return None

    def _inside(self, module: str, rest: list[str], depth: int) -> object:
        bound = self._parse(module)
        assert bound is not None
        target = bound.get(rest[0])
        if target is None and module == "torch" and self._in_stubs(rest[0]):
            return True
        if target is None and depth < 12:
            for other in bound.get("*", []):
                found = self._find(".".join([other, *rest]), depth + 1)
                if found is not None:
                    return found
        if target is None:
            return None
        if isinstance(target, str) and target.split(".")[0] not in ROOTS:
            return True  # of another package, such as math.inf
        if isinstance(target, str):  # an import
            return self._find(".".join([target, *rest[1:]]), depth + 1) if depth < 12 else None
        if isinstance(target, ast.ClassDef) and len(rest) > 1:
            return self._member(module, target, rest[1], depth)
        if isinstance(target, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            return module, target
        return True

    def _member(self, module: str, node: ast.ClassDef, name: str, depth: int) -> object:
        for item in node.body:
            if isinstance(item, ast.FunctionDef | ast.AsyncFunctionDef) and item.name == name:
                return module, item
            targets = item.targets if isinstance(item, ast.Assign) else [getattr(item, "target", None)]
            if any(isinstance(t, ast.Name) and t.id == name for t in targets):
                return True
        for base in node.bases:
            inherited = self._find(f"{module}.{'.'.join(_chain(base)) or getattr(base, 'id', '')}", depth + 1)
            if isinstance(inherited, tuple) and isinstance(inherited[1], ast.ClassDef) and depth < 12:
                found = self._member(*inherited, name, depth + 1)
                if found is not None:
                    return found
        return None

    def _in_stubs(self, name: str) -> bool:
        return any(name in (self._parse(f"torch._C.{stub}") or {}) for stub in ("__init__", "_VariableFunctions"))

    def _read(self, module: str) -> dict[str, object] | None:
        """Names bound at the top of a module, under `if` and `try` too; None if there is no such module."""
        base = self._folder / Path(*module.split("."))
        package = True
        for path in (base / "__init__.py", base.with_suffix(".py"), base.with_suffix(".pyi")):
            if path.is_file():
                package = path.name == "__init__.py"
                break
        else:
            return None if not (base.is_dir() and any(base.glob("*.py*"))) else {}
        bound: dict[str, object] = {}
        _bind(ast.parse(path.read_text(encoding="utf-8", errors="replace")).body, module, package, bound)
        return bound


def _bind(body: list[ast.stmt], module: str, package: bool, bound: dict[str, object]) -> None:
    for node in body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            bound[node.name] = node
        elif isinstance(node, ast.Import):
            for item in node.names:
                bound.setdefault(item.asname or item.name.split(".")[0], item.name if item.asname else item.name.split(".")[0])
        elif isinstance(node, ast.ImportFrom):
            above = module.split(".")
            if node.level:
                above = above[: len(above) - node.level + int(package)]
            source = ".".join([*(above if node.level else []), *([node.module] if node.module else [])])
            for item in node.names:
                if item.name == "*":
                    bound.setdefault("*", []).append(source)  # type: ignore[union-attr]
                else:
                    bound[item.asname or item.name] = f"{source}.{item.name}"
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                for name in ast.walk(target):
                    if isinstance(name, ast.Name):
                        bound.setdefault(name.id, node)
            _lazy(node, module, bound)
        elif isinstance(node, ast.If | ast.Try | ast.With):
            for part in ("body", "orelse", "finalbody"):
                _bind(getattr(node, part, []), module, package, bound)
            for handler in getattr(node, "handlers", []):
                _bind(handler.body, module, package, bound)


def _lazy(node: ast.Assign | ast.AnnAssign, module: str, bound: dict[str, object]) -> None:
    """vLLM's `MODULE_ATTRS = {"LLM": ".entrypoints.llm:LLM"}`, which its `__getattr__` reads."""
    if not isinstance(node.value, ast.Dict):
        return
    for key, value in zip(node.value.keys, node.value.values, strict=True):
        if isinstance(key, ast.Constant) and isinstance(value, ast.Constant) and ":" in str(value.value):
            place, _, attribute = str(value.value).partition(":")
            bound[str(key.value)] = f"{module}{place}.{attribute}" if place.startswith(".") else f"{place}.{attribute}"


# --- the table -----------------------------------------------------------------------------------------------------------


def sources_of_rlcore() -> list[Path]:
    return sorted([*ROOT.glob("rlcore/**/*.py"), *ROOT.glob("rewards/**/*.py")])


def main(argv: list[str]) -> None:
    """Write the table; arguments "torch 2.11.0=FOLDER"."""
    versions = dict(argument.split("=", 1) for argument in argv)
    sources = {version: Sources(Path(folder)) for version, folder in versions.items()}
    lacking: dict[str, list[str]] = {}
    for name in sorted(used_names(sources_of_rlcore())):
        of_package = [v for v in versions if v.split()[0] == name.split(".")[0]]
        lacking[name] = [version for version in of_package if not sources[version].has(name)]
    keywords: dict[str, dict[str, list[str]]] = {}
    for function, names in KEYWORDS.items():
        of_package = [v for v in versions if v.split()[0] == function.split(".")[0]]
        taken = {version: sources[version].parameters(function) for version in of_package}
        lacking[function] = [version for version, known in taken.items() if known is None]
        keywords[function] = {
            name: [v for v, known in taken.items() if known is not None and not {name, "*"} & known] for name in names
        }
    table = {"versions": list(versions), "lacking": lacking, "keywords": keywords}
    TABLE.write_text(json.dumps(table, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
