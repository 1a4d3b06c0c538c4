"""The commands `rlcore bench` and `rlcore corpus`: measure this machine, or a raw text."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path

from rich.table import Table

from rlcore.cli.options import count, size
from rlcore.terminal import make_console

console = make_console()

BENCH_SIZES = {
    "repeats": "calls of each side that count",
    "prompts": "prompts in a batch",
    "group-size": "completions of a prompt",
    "prompt-tokens": "tokens of a prompt",
    "answer-min": "shortest completion",
    "answer-max": "longest completion",
    "hidden-size": "of the model tiny (head: of its last layer)",
    "layers": "of the model tiny",
    "micro-batch-tokens": "tokens we take in one forward",
    "trl-micro-batch": "sequences TRL takes in one forward, 0 for all",
    "vocabulary": "head only",
    "tokens": "head only",
    "megabytes": "corpus only: of synthetic text",
    "samples": "rewards only: completions in the batch",
    "servers": "publish only: vLLM servers on this machine",
    "rollouts": "credit only: continuations of a prefix",
    "workers": "rewards only: processes that score",
}


def add_commands(command: Callable[..., argparse.ArgumentParser]) -> None:
    """Declare the commands."""
    sub = command(
        "bench",
        bench,
        "measure on this machine, mostly against others, and print ratios with their spread",
    )
    sub.add_argument(
        "what",
        choices=[
            "learner",
            "head",
            "train",
            "rollout",
            "rewards",
            "credit",
            "corpus",
            "overlap",
            "checkpoint",
            "publish",
            "memory",
            "device",
        ],
        help="what is timed",
    )
    sub.add_argument(
        "--against", choices=["trl"], default="trl", help="the other side of learner and train"
    )
    sub.add_argument(
        "--shape",
        choices=["ragged", "shared"],
        default="ragged",
        help="short prompts, ragged completions; long prompts",
    )
    sub.add_argument(
        "--model",
        metavar="MODEL",
        help="learner, train, rollout, checkpoint and publish: tiny, qwen3-0.6b or qwen2.5-1.5b with random weights, smollm2, or a model folder",
    )
    sub.add_argument(
        "--dtype", choices=["float32", "bfloat16"], help="learner, rollout and publish"
    )
    for option, about in BENCH_SIZES.items():
        number = size if option == "trl-micro-batch" else count
        sub.add_argument(f"--{option}", type=number, metavar="N", help=about)
    sub.add_argument("--json", action="store_true", help="print one line of JSON")
    _add_device(sub)

    _add_corpus(command)


def _add_device(bench: argparse.ArgumentParser) -> None:
    group = bench.add_argument_group("device", "what needs a GPU, in sections; docs/gpu.md")
    group.add_argument(
        "--minutes", type=float, default=8.0, metavar="N", help="most time of this call"
    )
    group.add_argument(
        "--out",
        type=Path,
        default=Path("results.json"),
        metavar="FILE",
        help="results, which several calls continue",
    )
    group.add_argument("--tiny", action="store_true", help="toy sizes, on a CPU too")
    group.add_argument(
        "--only",
        type=lambda text: text.split(","),
        default=[],
        metavar="A,B",
        help="sections, of correctness, learner, engine, step, gap, instruct",
    )
    group.add_argument(
        "--again", action="store_true", help="also run sections that are green already"
    )


def _add_corpus(command: Callable[..., argparse.ArgumentParser]) -> None:
    sub = command("corpus", corpus, "prepare raw text and count what was dropped at each step")
    sub.add_argument(
        "file",
        metavar="FILE",
        help="txt, jsonl, jsonl.gz or parquet file, folder, or a hub name",
    )
    sub.add_argument(
        "overrides",
        nargs="*",
        metavar="key=value",
        help="keys of a corpus task set, for example unit=paragraph",
    )
    sub.add_argument(
        "--against",
        nargs="+",
        default=[],
        metavar="EXAM",
        help="evaluation files whose n-grams must not occur",
    )
    sub.add_argument("--json", action="store_true", help="print one line of JSON")


def device(arguments: argparse.Namespace) -> int:
    """1 if a case failed."""
    from rlcore.bench.device.run import bench_device

    passed = bench_device(
        minutes=arguments.minutes,
        out=arguments.out,
        tiny=arguments.tiny,
        only=arguments.only,
        again=arguments.again,
        say=lambda text: print(text, flush=True),
    )
    print(f"results are in {arguments.out}")
    return int(not passed)


def bench(arguments: argparse.Namespace) -> int | None:
    if arguments.what == "device":
        return device(arguments)
    from rlcore.bench.run import in_words, run, shown

    result = run(
        arguments.what,
        {key: value for key, value in vars(arguments).items() if value is not None},
    )
    if arguments.json:
        print(json.dumps(result))
        return None
    table = Table("what", "value")
    for key, value in result.items():
        table.add_row(key.replace("_", " "), shown(value))
    console.print(table, width=min(100, console.width))
    for line in in_words(result):
        print(line)
    return None


def corpus(arguments: argparse.Namespace) -> None:
    from rlcore.recipe.corpus import survey

    settings = [
        *arguments.overrides,
        *(f"keep.against=[{', '.join(arguments.against)}]" for _ in arguments.against[:1]),
    ]
    result = survey(arguments.file, settings)
    if arguments.json:
        print(json.dumps(result))
        return
    table = Table("what", "value")
    for key, value in result.items():
        table.add_row(key, f"{value:,}" if isinstance(value, int) else str(value))
    console.print(table)
