"""Other ends for answers that were begun: what per-step credit asks for. Same engine, same rewards, own seeds."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

from rlcore.errors import RewardError
from rlcore.rollout.clock import POLL_S, Clock
from rlcore.rollout.desk import Scorer, request_seed
from rlcore.rollout.engine import Engine
from rlcore.rollout.prompt import PromptEncoder
from rlcore.types import Completion, Group, Prefix, Request, Rollout, Sampling


def continuations(
    prefixes: Sequence[Prefix],
    *,
    engine: Engine,
    encoder: PromptEncoder,
    scorer: Scorer,
    sampling: Sampling,
    seed: int,
    deadline_s: float,
    max_length: int,
    reward_deadline_s: float = 600.0,
) -> list[Group]:
    """The whole answers, prefix included, that continue each prefix, with their verdicts; in the order of `prefixes`.

    They are named `<rollout id>@<length>~<number>`. What is not written `deadline_s` after the start is aborted and left out, so
    a group may hold fewer answers than asked for, or none. Tokens of the prefix keep the log-probability they were written with.
    Raises `EngineError` if aborted requests do not come back, `RewardError` if verdicts stay out. The engine and the scorer
    must have nothing else in flight.
    """
    owner: dict[str, Prefix] = {}
    written: dict[str, list[Rollout]] = {prefix.id: [] for prefix in prefixes}
    missing = {prefix.id: prefix.n for prefix in prefixes}
    requests = []
    for prefix in prefixes:
        for request in _requests(prefix, sampling, seed, max_length):
            owner[request.id] = prefix
            requests.append(request)
    verdicts: dict[str, list] = {}
    engine.submit(requests)
    clock = Clock(engine, time.monotonic() + deadline_s)
    while owner:
        for completion in clock.poll(owner.keys()):
            prefix = owner.pop(completion.request_id)
            missing[prefix.id] -= 1
            if completion.finish != "aborted":
                written[prefix.id].append(_whole(completion, prefix, encoder))
            if not missing[prefix.id] and written[prefix.id]:
                written[prefix.id].sort(key=lambda rollout: int(rollout.id.rpartition("~")[2]))
                scorer.submit(prefix.id, prefix.task, written[prefix.id])
        verdicts |= scorer.poll(0.0)
    _wait_for(
        verdicts, {id for id, rollouts in written.items() if rollouts}, scorer, reward_deadline_s
    )
    return [
        Group(task=prefix.task, rollouts=written[prefix.id], verdicts=verdicts.get(prefix.id, []))
        for prefix in prefixes
    ]


def _requests(prefix: Prefix, sampling: Sampling, seed: int, max_length: int) -> list[Request]:
    prompt_ids = prefix.rollout.token_ids[: prefix.rollout.mask.index(True)]
    room = max_length - len(prompt_ids) - prefix.length
    fitted = replace(sampling, max_tokens=min(prefix.max_tokens, room))
    return [
        Request(
            id=f"{prefix.id}~{k}",
            prompt_ids=prompt_ids,
            prefix_ids=prefix.rollout.completion_ids[: prefix.length],
            sampling=fitted,
            seed=request_seed(seed, prefix.id, k),
        )
        for k in range(prefix.n)
    ]


def _whole(completion: Completion, prefix: Prefix, encoder: PromptEncoder) -> Rollout:
    begun, first = prefix.rollout, prefix.rollout.mask.index(True)
    kept = first + prefix.length
    return Rollout.from_tokens(
        id=completion.request_id,
        task_id=prefix.task.id,
        token_ids=begun.token_ids[:kept] + completion.token_ids,
        mask=begun.mask[:kept] + [True] * len(completion.token_ids),
        logprobs=begun.logprobs[:kept] + completion.logprobs,
        text=encoder.decode(begun.completion_ids[: prefix.length] + completion.token_ids),
        finish=completion.finish,
        versions=[version or 0 for version in begun.versions[:kept]] + completion.versions,
        temperature=begun.temperature,
        support=_joined_support(begun, kept, completion),
    )


def _joined_support(
    begun: Rollout, kept: int, completion: Completion
) -> list[list[int] | None] | None:
    if begun.support is None and completion.support is None:
        return None
    before = begun.support[:kept] if begun.support is not None else [None] * kept
    after = completion.support
    if after is None:
        after = [None] * len(completion.token_ids)
    return before + after


def _wait_for(
    verdicts: dict[str, list], wanted: set[str], scorer: Scorer, deadline_s: float
) -> None:
    until = time.monotonic() + deadline_s
    while late := wanted - verdicts.keys():
        if time.monotonic() > until:
            raise RewardError(
                f"{len(late)} of {len(wanted)} continued answers have no verdict {deadline_s:g} s after the last was written "
                f"(first: {min(late)!r}); make the reward faster or raise its deadline"
            )
        verdicts |= scorer.poll(POLL_S)
