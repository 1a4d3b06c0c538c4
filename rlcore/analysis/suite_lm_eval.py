"""lm-evaluation-harness with one of our engines as its model: `rlcore eval MODEL_OR_RUN --suite lm-eval:TASKS`.

The harness makes prompts and scores; log-likelihoods come from `Engine.score`, completions from its requests. Tasks,
few-shot prompts and metrics are therefore those that published numbers were measured with.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

from lm_eval import simple_evaluate, utils
from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import (
    handle_stop_sequences,
    normalize_gen_kwargs,
    postprocess_generated_text,
)
from lm_eval.tasks import TaskManager

from rlcore.errors import RecipeError
from rlcore.plugin import in_words
from rlcore.rollout.engine import Engine, generate
from rlcore.run.seeds import derive
from rlcore.types import Request, Sampling

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

AT_ONCE = 1024
"""Sequences that are handed to the engine together."""
BOOTSTRAPS = 1000
"""For standard errors; those of a mean are computed without."""
MAX_TOKENS = 256
"""Longest completion where a task does not say, as in the harness's own models."""
TAKEN = {"temperature", "top_p", "top_k", "min_p"}
"""Settings of a task that are passed on; those of `IGNORED` change nothing here."""
IGNORED = {"do_sample", "num_beams", "use_cache"}


@dataclass(frozen=True)
class Suite:
    """What is evaluated, and how."""

    tasks: Sequence[str]
    limit: int | None = None
    """Documents of each task; None for all."""
    num_fewshot: int | None = None
    """None: as the task says."""
    chat: bool = False
    """Whether prompts go through the model's chat template."""
    folder: Path | None = None
    """Where task files of your own lie."""


class EngineModel(TemplateLM):
    """An engine as the harness sees a model: texts in, log-likelihoods and texts out."""

    def __init__(
        self,
        engine: Engine,
        tokenizer: PreTrainedTokenizerBase,
        *,
        max_length: int,
        deadline_s: float = 600.0,
        seed: int = 0,
    ) -> None:
        """max_length: of the engine. deadline_s: for each portion of completions."""
        super().__init__()
        self.tokenizer = tokenizer
        self._engine, self._deadline_s, self._seed = engine, deadline_s, seed
        # vLLM scores one token fewer than it reads, and a window is one token longer than its context.
        self.max_length = max_length - 2

    @property
    def eot_token_id(self) -> int:
        return self.tokenizer.eos_token_id

    @property
    def prefix_token_id(self) -> int:
        start = self.tokenizer.bos_token_id
        return self.eot_token_id if start is None else start

    @property
    def tokenizer_name(self) -> str:
        return self.tokenizer.name_or_path.replace("/", "__")

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **kwargs: Any
    ) -> list[int]:
        special = True if add_special_tokens is None else add_special_tokens
        start = self.tokenizer.bos_token
        if add_special_tokens is None and start and string.startswith(start):
            special = False
        return self.tokenizer.encode(string, add_special_tokens=special)

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        return self.tokenizer.apply_chat_template(
            chat_history,
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=not add_generation_prompt,
        )

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], **kwargs: Any
    ) -> list[tuple[float, bool]]:
        """(log-likelihood of the continuation, whether each of its tokens is the most probable one)."""
        results = []
        for start in range(0, len(requests), AT_ONCE):
            portion = requests[start : start + AT_ONCE]
            # too long ones lose their beginning
            texts = [
                (context + after)[-(self.max_length + 1) :] for _, context, after in portion
            ]
            scores = self._engine.score(texts, top_k=1)
            for (_, _, after), text, score in zip(portion, texts, scores, strict=True):
                first = len(text) - len(after) - 1
                logprobs = score.logprobs[first:]
                best = [max(top, key=top.__getitem__) for top in score.top[first:]]
                results.append((sum(logprobs), best == text[first + 1 :]))
        return results

    def loglikelihood_rolling(
        self, requests: Sequence[Any], disable_tqdm: bool = False
    ) -> list[float]:
        totals = []
        for (text,) in (request.args for request in requests):
            windows = utils.get_rolling_token_windows(
                token_list=self.tok_encode(text),
                prefix_token=self.prefix_token_id,
                max_seq_len=self.max_length,
                context_len=1,
            )
            parts = [(None, *utils.make_disjoint_window(window)) for window in windows]
            totals.append(sum(logprob for logprob, _ in self._loglikelihood_tokens(parts)))
        return totals

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        asked = [self._request(i, *request.args) for i, request in enumerate(requests)]
        texts = []
        for start in range(0, len(asked), AT_ONCE):
            portion = asked[start : start + AT_ONCE]
            completions = generate(self._engine, portion, self._deadline_s)
            for request, completion in zip(portion, completions, strict=True):
                text = self.tokenizer.decode(completion.token_ids, skip_special_tokens=True)
                stops = list(request.sampling.stop)
                texts.append(postprocess_generated_text(text, stops, think_end_token=None))
        return texts

    def _request(self, number: int, context: str, settings: Mapping[str, Any]) -> Request:
        values = normalize_gen_kwargs(dict(settings), MAX_TOKENS)
        end = self.tokenizer.decode(self.eot_token_id)
        stop = handle_stop_sequences(values.pop("until", None), eos=end)
        max_tokens = values.pop("max_gen_toks")
        unknown = values.keys() - TAKEN - IGNORED
        if unknown:
            raise RecipeError(
                f"a task asks for the generation setting {min(unknown)!r}, which the engines do not have: "
                f"they have {', '.join(sorted(TAKEN))}"
            )
        room = self.max_length + 2 - max_tokens
        if room < 1:
            raise RecipeError(
                f"a task asks for completions of {max_tokens} tokens, which leaves no room for a prompt in "
                f"engine.max_length ({self.max_length + 2}): raise it"
            )
        return Request(
            id=f"lm-eval/{number}",
            prompt_ids=self.tok_encode(context)[-room:],
            sampling=Sampling(
                max_tokens=max_tokens,
                stop=tuple(stop),
                **{key: value for key, value in values.items() if key in TAKEN},
            ),
            seed=derive(self._seed, "lm-eval", number),
        )


@contextlib.contextmanager
def _one_process() -> Iterator[None]:
    """Inside, the harness draws its bootstrap samples here: processes forked beside an engine may hang. What it prints of them
    goes to standard error."""
    alone = mock.patch.dict(os.environ, DISABLE_MULTIPROC="1")
    with alone, contextlib.redirect_stdout(sys.stderr):
        yield


def run_suite(model: EngineModel, suite: Suite) -> dict[str, dict[str, Any]]:
    """Task -> its metrics, as the harness names them. Raises `RecipeError` for a task that it does not have."""
    if suite.folder is not None and not suite.folder.is_dir():
        raise RecipeError(f"--tasks-from {suite.folder}: there is no such folder")
    manager = TaskManager(include_path=str(suite.folder) if suite.folder else None)
    missing = [task for task in suite.tasks if not manager.match_tasks([task])]
    if missing:
        raise RecipeError(
            f"lm-eval has no task {missing[0]!r}: 'lm-eval ls tasks' lists them, and --tasks-from names a folder "
            "with task files of your own"
        )
    try:
        with _one_process():
            record = simple_evaluate(
                model=model,
                tasks=list(suite.tasks),
                limit=suite.limit,
                num_fewshot=suite.num_fewshot,
                apply_chat_template=suite.chat,
                task_manager=manager,
                bootstrap_iters=BOOTSTRAPS,
                random_seed=0,
                numpy_random_seed=0,
                torch_random_seed=0,
                fewshot_random_seed=0,
            )
    except (OSError, ConnectionError) as error:
        raise RecipeError(
            f"the data of {', '.join(suite.tasks)} cannot be had: {in_words(error)}"
        ) from error
    return record["results"]
