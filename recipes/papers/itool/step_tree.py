"""The tree of one request: which step is tried next, what a call is worth, and pairs of steps.

iTool (arXiv 2501.09766) and its repository. A node is a step of the completion; its children are steps that the
policy sampled after it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from difflib import SequenceMatcher

from rlcore.credit.pairs import Pair

GRADES = {"A": 1.0, "B": 0.1, "C": -1.0, "D": -2.0}
"""What each grade of the judge is worth, before the sum is divided by four."""


@dataclass(eq=False, kw_only=True)
class Node:
    """A step: its tokens, and what the search has found out about what begins with it."""

    step_ids: list[int] = field(default_factory=list)
    """Empty at the root."""
    prior: float = 1.0
    """exp of the mean log-probability of its tokens."""
    parent: Node | None = None
    ended: bool = False
    """Whether the completion ends with this step."""
    children: list[Node] = field(default_factory=list)
    visits: int = 0
    total: float = 0.0
    """Sum of the rewards of all visits."""

    @property
    def value(self) -> float:
        """Mean reward, 0 before the first visit."""
        return self.total / max(1, self.visits)

    @property
    def depth(self) -> int:
        return 0 if self.parent is None else self.parent.depth + 1

    @property
    def path_ids(self) -> list[int]:
        """Tokens of the completion up to the end of this step."""
        before = [] if self.parent is None else self.parent.path_ids
        return [*before, *self.step_ids]

    def add(self, step_ids: list[int], logprobs: Sequence[float], *, ended: bool) -> None:
        """A sampled step as a child; one that is there already is not added again. logprobs: of the tokens."""
        if step_ids and all(child.step_ids != step_ids for child in self.children):
            prior = math.exp(sum(logprobs) / len(logprobs))
            self.children.append(
                Node(step_ids=step_ids, prior=prior, parent=self, ended=ended)
            )


def leaf(root: Node, exploration: float) -> Node:
    """The node without children that the search comes to from the root."""
    node = root
    while node.children:
        node = next_child(node, exploration)
    return node


def next_child(node: Node, exploration: float) -> Node:
    """The child with the largest value / (visits + 1) + c p sqrt(ln N / (visits + 1)); value is the sum of its rewards."""

    def bound(child: Node) -> float:
        share = math.sqrt(math.log(max(1, node.visits)) / (child.visits + 1))
        return child.total / (child.visits + 1) + exploration * child.prior * share

    return max(node.children, key=bound)


def back_up(node: Node | None, reward: float) -> None:
    """Count a visit with its reward at the node and at all before it."""
    while node is not None:
        node.visits += 1
        node.total += reward
        node = node.parent


def agreement(text: str, reference: str, *, ended: bool) -> float:
    """The fast reward, -0.6 to 0.6: 0.1 or -0.1 for brackets, and the share of text in common - 0.5.

    A text that has not ended is compared with as much of the reference.
    """
    compared = reference if ended else reference[: len(text)]
    closes = [position for position, sign in enumerate(text) if sign == ")"]
    closes_there = [position for position, sign in enumerate(compared) if sign == ")"]
    brackets = 0.1 if closes == closes_there else -0.1
    return brackets + SequenceMatcher(None, text, compared, autojunk=False).ratio() - 0.5


def judged(logprobs: Sequence[float]) -> float:
    """The full reward, -0.5 to 0.25. logprobs: of the grades A, B, C, D as the judge's next token; their odds count."""
    highest = max(logprobs)
    odds = [math.exp(value - highest) for value in logprobs]
    worth = sum(odd * grade for odd, grade in zip(odds, GRADES.values(), strict=True))
    return worth / sum(odds) / 4


def step_pairs(
    root: Node,
    *,
    task_id: str,
    prompt_ids: list[int],
    text_of: Callable[[Node], str],
    min_gap: float,
    max_overlap: float,
    min_value: float,
) -> Iterator[Pair]:
    """From each node, its best child against its worst; the prompt of a pair goes up to the end of the node.

    text_of: the text of a node's step. min_gap: least difference of the two values. max_overlap: the most that the texts may have
    in common, 0 to 1. min_value: least value of the better one. Only children that were visited have a value.
    """
    nodes = [root]
    while nodes:
        node = nodes.pop()
        nodes += node.children
        visited = [child for child in node.children if child.visits]
        if len(visited) < 2:
            continue
        best = max(visited, key=lambda child: child.value)
        worst = min(visited, key=lambda child: child.value)
        overlap = SequenceMatcher(None, text_of(best), text_of(worst), autojunk=False).ratio()
        gap = best.value - worst.value
        if gap >= min_gap and overlap <= max_overlap and best.value >= min_value:
            yield Pair(
                task_id=task_id,
                prompt_ids=[*prompt_ids, *node.path_ids],
                chosen_ids=best.step_ids,
                rejected_ids=worst.step_ids,
                margin=gap,
            )
