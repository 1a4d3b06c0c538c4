"""Continuing answers through an engine and the real scorer: names, seeds, tokens, deadlines, and the planted error of a text."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

import pytest

from rlcore.credit.monte_carlo import MonteCarlo
from rlcore.credit.split import delimiter
from rlcore.rollout.collector import Collector
from rlcore.rollout.generator import Generator
from rlcore.rollout.prompt import PromptEncoder
from rlcore.rollout.scripted import ScriptedEngine
from rlcore.scoring.forms import RewardSpec
from rlcore.scoring.scorer import Scorer
from rlcore.tokenizer import byte_tokenizer
from rlcore.types import Group, Prefix, Request, Rollout, Sampling, Task, Verdict
from tests.credit.chains import valued

ENCODER = PromptEncoder(byte_tokenizer())
SAMPLING = Sampling(max_tokens=64)
ERROR = 0.05


def encode(text: str) -> list[int]:
    return [
        *ENCODER.tokenizer(text, add_special_tokens=False).input_ids,
        ENCODER.tokenizer.eos_token_id,
    ]


def worked(
    numbers: Sequence[int], begun: str, rng: random.Random, wrong_at: int | None = None
) -> str:
    """`begun` carried on as "7+15=22;22+4=26", with a forgotten carry in a step now and then, or in step `wrong_at` alone."""
    steps = [step for step in begun.split(";") if step]
    partial = int(steps[-1].split("=")[1]) if steps else numbers[0]
    for i in range(len(steps), len(numbers) - 1):
        total = partial + numbers[i + 1]
        wrong = rng.random() < ERROR if wrong_at is None else i == wrong_at
        steps.append(f"{partial}+{numbers[i + 1]}={total - 10 * wrong}")
        partial = total - 10 * wrong
    return ";".join(steps)


def carried_on(request: Request) -> list[int]:
    numbers = [int(n) for n in ENCODER.decode(request.prompt_ids).removesuffix("=?").split("+")]
    begun = ENCODER.decode(request.prefix_ids)
    return request.prefix_ids + encode(
        worked(numbers, begun, random.Random(request.seed))[len(begun) :]
    )


def answered(task: Task, text: str, number: int) -> Rollout:
    prompt, answer = ENCODER.encode(task), encode(text)
    return Rollout.from_tokens(
        id=f"{task.id}#{number}", task_id=task.id, token_ids=prompt + answer, mask=[False] * len(prompt) + [True] * len(answer),
        logprobs=[0.0] * len(prompt) + [-0.25] * len(answer), text=text, finish="stop", versions=[0] * len(prompt) + [4] * (len(answer) - 1) + [3],
    )  # fmt: skip


def collector(engine: ScriptedEngine, scorer: Scorer, max_length: int = 128) -> Collector:
    generator = Generator(
        engine=engine,
        encoder=ENCODER,
        scorer=scorer,
        sampling=SAMPLING,
        group_size=1,
        seed_of_batch=lambda batch: 0,
        max_length=max_length,
    )
    return Collector(generator, streaming=False)


@pytest.fixture(scope="module")
def scorer() -> Iterator[Scorer]:
    with Scorer([RewardSpec("exact", params={"after": "="})]) as made:
        yield made


def chains(n: int) -> list[tuple[Group, int]]:
    rng, made = random.Random(1), []
    for i in range(n):
        numbers = [rng.randint(1, 19) for _ in range(6)]
        wrong_at = rng.randrange(5)
        task = Task(
            id=f"sum{i}", prompt="+".join(map(str, numbers)) + "=?", answer=str(sum(numbers))
        )
        texts = [worked(numbers, "", rng, wrong_at=9), worked(numbers, "", rng, wrong_at=wrong_at)]
        rollouts = [answered(task, text, k) for k, text in enumerate(texts)]
        made.append(
            (
                Group(
                    task=task, rollouts=rollouts, verdicts=[Verdict(value=1.0), Verdict(value=0.0)]
                ),
                wrong_at,
            )
        )
    return made


def test_the_forgotten_carry_is_found_in_the_text_of_an_answer(scorer: Scorer) -> None:
    engine = ScriptedEngine(carried_on, logprob=-1.0)

    def continue_(prefixes: Sequence[Prefix], left_s: float) -> list[Group]:
        return collector(engine, scorer).continue_prefixes(
            prefixes, batch=0, seed=7, deadline_s=left_s
        )

    made = chains(60)
    estimate = MonteCarlo(
        continue_=continue_,
        split=delimiter(at=";"),
        decode=ENCODER.decode,
        max_tokens=64,
        rollouts=16,
        search="bisect",
    )
    values, cost, continuations_ = valued(estimate, [group for group, _ in made])
    found = [values[group.rollouts[1].id].pit() == wrong_at for group, wrong_at in made]
    assert sum(found) >= 0.95 * len(found)
    assert cost.tokens > 0 and len(continuations_) == cost.prefixes


def some(scorer: object, engine: ScriptedEngine, **settings: object) -> tuple[Prefix, list[Group]]:
    [(group, _)] = chains(1)
    prefix = Prefix(
        task=group.task,
        rollout=group.rollouts[0],
        length=group.rollouts[0].text.index(";") + 1,
        n=3,
        max_tokens=60,
    )
    settings = {"seed": 7, "deadline_s": 30.0, "max_length": 128, **settings}
    collect = collector(engine, scorer, max_length=settings.pop("max_length"))
    return prefix, collect.continue_prefixes([prefix], batch=0, **settings)  # type: ignore[arg-type]


def test_continuations_are_whole_answers_with_the_prefix_as_it_was_written(scorer: Scorer) -> None:
    requests: list[Request] = []

    def script(request: Request) -> list[int]:
        requests.append(request)
        return request.prefix_ids + encode("=26")

    prefix, [group] = some(scorer, ScriptedEngine(script, logprob=-1.0))
    prompt, kept = ENCODER.encode(prefix.task), prefix.length
    assert [rollout.id for rollout in group.rollouts] == [f"sum0#0@{kept}~{k}" for k in range(3)]
    assert len({request.seed for request in requests}) == 3
    for rollout in group.rollouts:
        assert rollout.token_ids == prompt + prefix.rollout.completion_ids[:kept] + encode("=26")
        assert rollout.logprobs == [0.0] * len(prompt) + [-0.25] * kept + [-1.0] * 4
        assert rollout.text == ENCODER.decode(prefix.rollout.completion_ids[:kept]) + "=26"
        assert (rollout.version_min, rollout.version_max) == (0, 4)
    _, [again] = some(scorer, ScriptedEngine(script), seed=8)
    assert {r.seed for r in requests[:3]}.isdisjoint(r.seed for r in requests[3:]) and len(
        again.rollouts
    ) == 3


def test_stragglers_are_aborted_and_left_out(scorer: Scorer) -> None:
    never = {f"sum0#0@{kept}~1": 10**9 for kept in range(20)}
    _, [group] = some(scorer, ScriptedEngine(carried_on, delay=never), deadline_s=0.2)
    assert [rollout.id[-2:] for rollout in group.rollouts] == ["~0", "~2"] and len(
        group.verdicts
    ) == 2


def test_the_model_s_length_bounds_a_continuation(scorer: Scorer) -> None:
    [(group, _)] = chains(1)
    longest = len(ENCODER.encode(group.task)) + group.rollouts[0].text.index(";") + 3
    _, [group] = some(scorer, ScriptedEngine(carried_on), max_length=longest)
    assert {len(rollout.token_ids) for rollout in group.rollouts} == {longest}
    assert {rollout.finish for rollout in group.rollouts} == {"length"}
