"""Stage `search`: pairs of steps by a tree search of the hardest requests. It trains nothing.

The rows go to `samples/<stage>/` of the run folder, for a stage `{kind: prefer, pairs: given, data: <stage>}`.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeFloat, PositiveInt
from step_tree import GRADES, Node, agreement, back_up, judged, leaf, next_child, step_pairs

from rlcore.analysis.demonstration_losses import losses_of
from rlcore.credit.split import Splitter, regex
from rlcore.recipe.shared_sections import SamplingSection
from rlcore.rollout.engine import generate
from rlcore.run.seeds import derive
from rlcore.run.session import Run
from rlcore.stages.base import TaskStage
from rlcore.types import Completion, Request, Sampling, Task

FRAGMENTS = 2
"""Fragments of a step."""


class TreeSearch(TaskStage):
    headline = ("search/pairs", "search/reward")
    trains = False
    writes_samples = True
    files = "samples"

    hardest: Annotated[float, Field(gt=0, le=1)] = Field(
        0.3, description="share of the tasks that is searched, in each category the same"
    )
    choose: Literal["loss", "random"] = Field(
        "loss", description="which tasks these are: those of the highest loss of the reference, or any"
    )
    actions: Annotated[int, Field(ge=2)] = Field(3, description="steps sampled at a node")
    depth: PositiveInt = Field(3, description="longest path of the tree, in steps")
    iterations: PositiveInt = Field(5, description="visits of a tree")
    simulated: PositiveInt = Field(2, description="steps sampled behind a new node, for its reward")
    exploration: NonNegativeFloat = Field(1.0, description="c of the rule that chooses a child")
    fragment: str = Field(
        r"\. |, |=|\(", description=f"what ends a fragment of text; a step has {FRAGMENTS}"
    )
    min_gap: float = Field(0.1, description="least difference of the values of a pair")
    max_overlap: float = Field(0.95, description="the most that the texts of a pair have in common")
    min_value: float = Field(-0.3, description="least value of the better step of a pair")
    judge: str = Field(
        "", description="text with {prompt} and {completion} after which the policy says A, B, C or D"
    )
    sampling: SamplingSection = Field(default_factory=SamplingSection)

    @property
    def imitates(self) -> bool:
        return True  # the references are demonstrations

    def run(self, run: Run) -> None:
        started = time.perf_counter()
        if run.accelerator.is_main_process:
            run.folder.new_sample(self.label)
        run.accelerator.wait_for_everyone()
        run.publish(run.cursor.step)
        with run.tracker.wait("searching"):
            mine = run.my_share(hard_tasks(run, self))
            forest = Forest(run, self, mine)
            forest.grow()
            rows = [asdict(pair) for pair in forest.pairs()]
        run.folder.append_sample(self.label, run.accelerator.process_index, rows)
        totals = run.gather([(len(mine), forest.asked, len(rows), forest.reward)])
        tasks, completions, pairs, reward = map(sum, zip(*totals, strict=True))
        row = {
            "stage": self.label,
            "step": run.cursor.step,
            "tasks": tasks,
            "completions": completions,
            "search/pairs": pairs,
            "search/reward": reward / max(1, tasks * self.iterations),
            "time/total": time.perf_counter() - started,
        }
        run.tracker.sampled(self, row)
        run.end_stage()


def hard_tasks(run: Run, stage: TreeSearch) -> list[Task]:
    """The hardest share of each category, or a random one; the same on all ranks."""
    tasks = run.tasks(stage.tasks)
    numbers = range(len(tasks))
    if stage.choose == "random":
        draw = random.Random(derive(run.recipe.seed, "random tasks", run.cursor.stage))
        hardness = [draw.random() for _ in numbers]
    else:
        mine = run.my_share(numbers)
        losses = losses_of(run.policy, [tasks[number] for number in mine], run.encoder)
        known = dict(run.gather(zip(mine, losses, strict=True)))
        hardness = [known[number] for number in numbers]
    by_category: dict[str, list[int]] = {}
    for number in sorted(numbers, key=lambda number: -hardness[number]):
        by_category.setdefault(tasks[number].category, []).append(number)
    chosen = []
    for sorted_numbers in by_category.values():
        chosen += sorted_numbers[: math.ceil(stage.hardest * len(sorted_numbers))]
    return [tasks[number] for number in sorted(chosen)]


@dataclass(frozen=True, kw_only=True, eq=False)
class _Tree:
    task: Task
    prompt_ids: list[int]
    root: Node


class Forest:
    """The trees of all tasks of this rank. They grow side by side, so that the engine has many requests at once."""

    def __init__(self, run: Run, stage: TreeSearch, tasks: Sequence[Task]) -> None:
        self._run, self._stage = run, stage
        self._split: Splitter = regex(at=stage.fragment)
        self._seed = derive(run.recipe.seed, "search", run.cursor.stage)
        self.asked = 0
        """Completions that were sampled, most of them a step long."""
        self._trees = [
            _Tree(task=task, prompt_ids=run.encoder.encode(task), root=Node()) for task in tasks
        ]
        self.reward = 0.0
        """Sum over all visits."""

    def grow(self) -> None:
        """`iterations` visits of each tree: down to a leaf, its children, a simulation behind one, and back."""
        stage = self._stage
        for _ in range(stage.iterations):
            leaves = [leaf(tree.root, stage.exploration) for tree in self._trees]
            self._expand(leaves)
            visited = [
                next_child(node, stage.exploration) if node.children else node for node in leaves
            ]
            rewards = self._rewards(self._simulated(visited))
            for node, reward in zip(visited, rewards, strict=True):
                back_up(node, reward)
            self.reward += sum(rewards)

    def pairs(self) -> Iterator[Any]:
        stage, decode = self._stage, self._run.encoder.decode
        for tree in self._trees:
            yield from step_pairs(
                tree.root,
                task_id=tree.task.id,
                prompt_ids=tree.prompt_ids,
                text_of=lambda node: decode(node.step_ids),
                min_gap=stage.min_gap,
                max_overlap=stage.max_overlap,
                min_value=stage.min_value,
            )

    def _expand(self, leaves: Sequence[Node]) -> None:
        """Sample children of the leaves that may have some."""
        growing = [
            (tree, node)
            for tree, node in zip(self._trees, leaves, strict=True)
            if not node.ended and node.depth < self._stage.depth
        ]
        asked = [pair for pair in growing for _ in range(self._stage.actions)]
        paths = [(tree, node.path_ids) for tree, node in asked]
        for (_, node), written in zip(asked, self._sample(paths, steps=1), strict=True):
            ids, ended = self._cut(written, steps=1)
            node.add(ids, written.logprobs[: len(ids)], ended=ended)

    def _simulated(self, visited: Sequence[Node]) -> list[tuple[list[int], bool]]:
        """Completion behind each node's step as far as it was simulated, and whether it ended."""
        running = [
            (tree, node.path_ids)
            for tree, node in zip(self._trees, visited, strict=True)
            if not node.ended
        ]
        written = iter(self._sample(running, steps=self._stage.simulated))
        texts = []
        for node in visited:
            if node.ended:
                texts.append((node.path_ids, True))
                continue
            ids, ended = self._cut(next(written), steps=self._stage.simulated)
            texts.append(([*node.path_ids, *ids], ended))
        return texts

    def _sample(
        self, paths: Sequence[tuple[_Tree, list[int]]], *, steps: int
    ) -> list[Completion]:
        """One continuation of each path, of at most `steps` times `sampling.max_tokens` tokens."""
        requests = []
        for tree, path in paths:
            room = self._run.max_length - len(tree.prompt_ids) - len(path)
            section = self._stage.sampling
            sampling = Sampling(
                max_tokens=max(1, min(steps * section.max_tokens, room)),
                temperature=section.temperature,
            )
            self.asked += 1
            requests.append(
                Request(
                    id=f"{tree.task.id}#{self.asked}",
                    prompt_ids=tree.prompt_ids,
                    prefix_ids=path,
                    sampling=sampling,
                    seed=derive(self._seed, tree.task.id, self.asked),
                )
            )
        deadline_s = self._run.recipe.engine.deadline_s
        return generate(self._run.engine(), requests, deadline_s) if requests else []

    def _cut(self, written: Completion, *, steps: int) -> tuple[list[int], bool]:
        """Tokens of the first `steps` steps, and whether the completion ends with them."""
        spans = self._split(written.token_ids, self._run.encoder.decode)
        kept = spans[: steps * FRAGMENTS]
        end = kept[-1].end if kept else 0
        ended = written.finish == "stop" and end == len(written.token_ids)
        return written.token_ids[:end], ended

    def _rewards(self, completions: Sequence[tuple[list[int], bool]]) -> list[float]:
        decode = self._run.encoder.decode
        rewards = [
            agreement(decode(ids), tree.task.demonstration, ended=ended)
            for tree, (ids, ended) in zip(self._trees, completions, strict=True)
        ]
        if not self._stage.judge:
            return rewards
        verdicts = self._verdicts([decode(ids) for ids, _ in completions])
        return [fast + full for fast, full in zip(rewards, verdicts, strict=True)]

    def _verdicts(self, texts: Sequence[str]) -> list[float]:
        """The full reward of each tree's completion: the policy judges itself."""
        encode = self._run.encoder.ids
        sequences = []
        for tree, text in zip(self._trees, texts, strict=True):
            asked = self._stage.judge.format(prompt=tree.task.prompt, completion=text)
            sequences += [[*encode(asked), encode(grade)[-1]] for grade in GRADES]
        scores = [score.logprobs[-1] for score in self._run.engine().score(sequences)]
        grades = len(GRADES)
        return [judged(scores[i : i + grades]) for i in range(0, len(scores), grades)]
