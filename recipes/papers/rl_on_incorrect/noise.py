"""How noisy is the gradient of a credit scheme, and where does the noise sit?

    python recipes/papers/rl_on_incorrect/noise.py --model runs/incorrect_online/runs/long/start --out runs/noise

Draws groups of answers with a model (recipe `noise`), and takes the gradient of each group by itself, under GRPO's advantages
and under those of siblings. With g the gradient of a group, the table gives |E g|^2, estimated without bias from two halves of
the groups, the trace of the covariance of g, and their quotient: the groups after which the mean gradient is as large as its
noise. The last rows keep the advantages of letters only, or of all the rest only.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from transformers import AutoModelForCausalLM, PreTrainedModel

from rlcore.credit.group import Credit, group_credit
from rlcore.credit.siblings import Siblings
from rlcore.credit.split import delimiter
from rlcore.credit.vine import vine
from rlcore.recipe.load import load
from rlcore.run.checkpoint import all_checkpoints
from rlcore.run.driver import train
from rlcore.run.folder import RunFolder
from rlcore.run.stored import read_stored
from rlcore.terminal import one_sentence_errors
from rlcore.tokenizer import load_tokenizer
from rlcore.types import Group, Sample

HERE = Path(__file__).resolve().parent


def only(credit: Credit, tokens: set[int], inside: bool) -> Credit:
    """The credit with advantage 0 on tokens outside (or inside) a set."""

    def kept(sample: Sample) -> Sample:
        values = zip(sample.advantages, sample.token_ids, strict=True)
        return replace(
            sample,
            advantages=[a if (token in tokens) == inside else 0.0 for a, token in values],
        )

    return lambda groups: [[kept(sample) for sample in samples] for samples in credit(groups)]


def gradients(
    model: PreTrainedModel, group: Group, credits: dict[str, Credit]
) -> dict[str, torch.Tensor]:
    """Gradient [parameters] of 1/G sum_i 1/n_i sum_t A_t log pi_t under each credit."""
    rows = [rollout.token_ids for rollout in group.rollouts]
    longest = max(map(len, rows))
    ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
    logprobs = (
        model(ids).logits[:, :-1].log_softmax(-1).gather(-1, ids[:, 1:, None]).squeeze(-1)
    )
    found = {}
    for name, credit in credits.items():
        weights = torch.zeros(len(rows), longest)
        for row, sample in zip(weights, credit([group])[0], strict=True):
            trained = torch.tensor(
                [a if on else 0.0 for a, on in zip(sample.advantages, sample.mask, strict=True)]
            )
            row[: len(trained)] = trained / sum(sample.mask) / len(rows)
        parts = torch.autograd.grad(
            (logprobs * weights[:, 1:]).sum(), list(model.parameters()), retain_graph=True
        )
        found[name] = torch.cat([part.flatten() for part in parts])
    return found


def measure(
    model: PreTrainedModel, groups: Sequence[Group], credits: dict[str, Credit]
) -> dict[str, tuple[float, float]]:
    """|E g|^2 and the trace of the covariance of g, by credit."""
    half = len(groups) // 2
    sums = {name: [0.0, 0.0] for name in credits}
    squares = dict.fromkeys(credits, 0.0)
    for position, group in enumerate(groups[: 2 * half]):
        for name, gradient in gradients(model, group, credits).items():
            sums[name][position % 2] = sums[name][position % 2] + gradient
            squares[name] += float(gradient @ gradient) / (2 * half)
    signal = {name: float(first @ second) / half**2 for name, (first, second) in sums.items()}
    return {name: (signal[name], squares[name] - signal[name]) for name in credits}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--model", type=Path, required=True, help="run folder of the model that answers"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("runs/incorrect_noise"), help="folder for the answers"
    )
    arguments = parser.parse_args()
    place = all_checkpoints(RunFolder(arguments.model).checkpoints)[-1]
    changes = [
        f"model={{path: {place}, config: null, tokenizer: null}}",
        f"run.folder={arguments.out.parent}",
    ]
    recipe = load(str(HERE / "noise.yaml"), [*changes, f"name={arguments.out.name}"])
    train(recipe, overwrite=True, console=Console(file=io.StringIO()))
    tokenizer = load_tokenizer(place)

    def decode(ids: list[int]) -> str:
        return tokenizer.decode(ids, skip_special_tokens=True)

    letters = {
        i
        for i in range(len(tokenizer))
        if len(text := decode([i])) == 1 and text.isalpha() and text.isascii()
    }
    mean = group_credit(baseline="mean", zero_variance="keep")
    stored = read_stored(arguments.out / "samples" / "drawn")
    estimator = Siblings(
        split=delimiter(at=";"), decode=decode, state=r"=\d+", completions="all"
    )
    groups, _ = estimator([one.group for one in stored])
    credits = {"GRPO": mean, "siblings": vine(mean)}
    for name, credit in list(credits.items()):
        credits |= {
            f"{name}, letters": only(credit, letters, True),
            f"{name}, the rest": only(credit, letters, False),
        }
    table = Table("advantages", "|E g|^2", "trace", "groups", title=f"{len(groups)} groups")
    for name, (signal, trace) in measure(
        AutoModelForCausalLM.from_pretrained(place), groups, credits
    ).items():
        table.add_row(
            name,
            f"{signal:.2e}",
            f"{trace:.2e}",
            f"{trace / signal:.1f}" if signal > 0 else "no signal seen",
        )
    Console().print(table)


if __name__ == "__main__":
    with one_sentence_errors():
        main()
