"""`rlcore serve`: vLLM servers for a recipe's model, on this machine, until they are told to end."""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from rlcore.cli.options import count, port
from rlcore.errors import EngineError
from rlcore.recipe.load import load

if TYPE_CHECKING:
    from rlcore.recipe.schema import Recipe
    from rlcore.rollout.server_process import ServerProcesses, ServerSettings

_LOOK_S = 0.5


def add_commands(command: Callable[..., argparse.ArgumentParser]) -> None:
    """Declare the command."""
    from rlcore.cli import recipes as cli_recipes

    sub = command(
        "serve",
        serve,
        "start vLLM servers for a recipe's model on this machine, and start again those that die",
    )
    cli_recipes.takes_recipe(sub)
    sub.add_argument("--replicas", type=count, default=1, metavar="N", help="servers")
    sub.add_argument(
        "--tensor-parallel", type=count, default=1, metavar="T", help="GPUs of each server"
    )
    sub.add_argument(
        "--port", type=port, default=8000, metavar="P", help="of the first; the others follow"
    )
    sub.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen at: 0.0.0.0 for learners on other machines. Whoever reaches the "
        "port can replace the weights, so only in a network that you trust",
    )
    sub.add_argument(
        "--logs", type=Path, metavar="FOLDER", help="for the servers' output; else temporary"
    )


def serve(arguments: argparse.Namespace) -> int:
    """0 if the servers were told to end; raises `EngineError` if none is left."""
    from rlcore.rollout.server_process import ServerProcesses

    recipe = load(arguments.recipe, arguments.overrides)
    ports = range(arguments.port, arguments.port + arguments.replicas)
    with _served_model(recipe, arguments.tensor_parallel) as settings:
        servers = ServerProcesses(
            settings,
            arguments.replicas,
            host=arguments.host,
            ports=ports,
            first_device=0,
            log_folder=arguments.logs,
            say=lambda text: print(text, flush=True),
        )
        print(f"starting; {servers.logs} has the output of the servers", flush=True)
        try:
            _watch(servers)
        except KeyboardInterrupt:
            return 0
        finally:
            servers.close()
    return 0


def _watch(servers: ServerProcesses) -> None:
    announced = False
    while not servers.ended:
        if servers.all_up and not announced:
            print(f"RLCORE_SERVERS={','.join(servers.urls)}", flush=True)
            announced = True
        time.sleep(_LOOK_S)
    raise EngineError(f"no server is left: {servers.whys}")


@contextmanager
def _served_model(recipe: Recipe, tensor_parallel: int) -> Iterator[ServerSettings]:
    """What servers of this recipe are started with."""
    folder = Path(tempfile.mkdtemp(prefix="rlcore_serve_"))
    try:
        yield _settings(recipe, tensor_parallel, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _settings(recipe: Recipe, tensor_parallel: int, folder: Path) -> ServerSettings:
    """A model made from scratch, of a GGUF file or with other tokens is written to the folder first."""
    from accelerate import Accelerator

    from rlcore.gguf import is_gguf
    from rlcore.pretrained import load_config
    from rlcore.recipe.build_learner import build_policy, starting_point
    from rlcore.rollout.server_process import ServerSettings

    path = starting_point(recipe.model.path) if recipe.model.path else None
    adapter_rank = None
    model = recipe.model
    is_changed = bool(model.tokenizer or model.peft or model.control_tokens)
    if path and not (is_changed or is_gguf(path)):
        served = path
        config = load_config(path).get_text_config()
        longest = getattr(config, "max_position_embeddings", None) or sys.maxsize
    else:
        served = str(folder)
        policy = build_policy(recipe, None, Accelerator(cpu=True))
        is_apart = recipe.engine.sync == "adapter"
        policy.save(folder, base=is_apart)
        longest = policy.max_length
        adapter_rank = policy.adapter.rank if is_apart and policy.adapter else None
    return ServerSettings(
        model=served,
        dtype=recipe.model.dtype,
        max_length=min(recipe.engine.max_length, longest),
        max_sequences=recipe.engine.max_sequences,
        tensor_parallel=tensor_parallel,
        adapter_rank=adapter_rank,
        memory_gb=recipe.engine.parameters.get("memory_gb"),
    )
