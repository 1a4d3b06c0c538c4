"""Questions on synthetic facts that only a search can answer. Difficulty is the number of searches in a chain, or of blanks.

    prompt "kal>b>t?"                     the teacher of kal's boss
    completion "?kal>b"    reply "mip."
    completion "?mip>t"    reply "zor."
    completion "=zor"                     reward 1

So in the form `short`, with the environment `facts`, for byte models. Several blanks, "kal>b mip>f?", are answered with "=mip,tam".
In the form `tools` the task is in English and the environment is `fact_search`, whose tool is `search`; a reward such as
`match` judges the last message. Every task has facts of its own, so that no weights can hold them.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Sequence
from hashlib import blake2b
from itertools import count, product
from typing import Any, Literal, NamedTuple

from rlcore.env.base import Observation
from rlcore.environments.play import Policy, demonstrated
from rlcore.environments.task_set import Split, check_share, task_set
from rlcore.errors import RecipeError, TaskError
from rlcore.types import Message, Task

Form = Literal["short", "tools"]
Judged = Literal["exact", "recall", "penalised_recall"]
CONSONANTS = "bdfgklmnprstvz"
NAMES = tuple(map("".join, product(CONSONANTS, "aeiou", CONSONANTS)))
RELATIONS = {"b": "boss", "f": "friend", "n": "neighbour", "t": "teacher"}
MOST_PARTS = 8
"""Hops, and blanks."""
MOST_RESULTS = 4
"""Facts in a result of the tool `search`."""


class FactBase(NamedTuple):
    """Who is whose boss, friend, neighbour and teacher: a function of `seed`, computed when it is asked for."""

    seed: str

    def lookup(self, name: str, relation: str) -> str | None:
        """The person who stands in this relation to `name`; None for an unknown name or relation."""
        if name not in _INDEX or relation not in RELATIONS:
            return None
        digest = blake2b(f"{self.seed}/{name}/{relation}".encode(), digest_size=8).digest()
        distance = 1 + int.from_bytes(digest, "big") % (len(NAMES) - 1)
        return NAMES[(_INDEX[name] + distance) % len(NAMES)]

    def sentence(self, name: str, relation: str) -> str:
        """A fact in English."""
        other = self.lookup(name, relation)
        assert other is not None
        return f"The {RELATIONS[relation]} of {name.title()} is {other.title()}."

    def search(self, query: str) -> list[str]:
        """The facts on the people and relations that a query names; all relations if it names none."""
        words = re.findall(r"[a-z]+", query.lower())
        names = [word for word in words if word in _INDEX]
        relations = [letter for letter, word in RELATIONS.items() if word in words]
        pairs = product(dict.fromkeys(names), relations or RELATIONS)
        return [self.sentence(name, relation) for name, relation in pairs][:MOST_RESULTS]


_INDEX = {name: i for i, name in enumerate(NAMES)}


def list_reward(answers: Sequence[str], right: Sequence[str], judged: Judged) -> float:
    """How well a list of answers fits the right ones, 0 to 1.

    exact: equal, in order. recall: the fraction of the right ones among the answers, which an
    answer that lists everything earns too. penalised_recall: that, times right / answers where
    there are more answers than right ones.

    >>> list_reward(["a", "b", "c", "d"], ["b", "d"], "recall")
    1.0
    >>> list_reward(["a", "b", "c", "d"], ["b", "d"], "penalised_recall")
    0.5
    """
    if judged == "exact":
        return float(list(answers) == list(right))
    common = Counter(answers) & Counter(right)
    recall = common.total() / len(right)
    if judged == "recall":
        return recall
    return recall * min(1.0, len(right) / max(1, len(answers)))


class Facts:
    """The environment. A completion is a search, "?name>relation", or the answer, "=name" or "=name,name".

    The reply to a search is a name, or "!" where there is no such fact. Anything else is told "!" too. All use up one of `budget`
    completions.
    """

    def __init__(self, judged: Judged = "exact", format_weight: float = 0.0) -> None:
        """judged: see `list_reward`. format_weight: share of the reward that is for the format: at least one search, and
        nothing malformed up to the answer; the answer itself has the rest.
        """
        if judged not in ("exact", "recall", "penalised_recall"):
            raise RecipeError(
                f"facts does not judge by {judged!r}: choose exact, recall or penalised_recall"
            )
        if not 0 <= format_weight <= 1:
            raise RecipeError(
                f"facts.format_weight is {format_weight}, but must be from 0 to 1"
            )
        self._judged = judged
        self._format_weight = format_weight

    def reset(self, answer: str, facts: str, budget: int) -> Observation:
        self._right = answer.split(",")
        self._facts = FactBase(facts)
        self._left = budget
        self._results: list[str] = []
        self._malformed = 0
        return Observation(state=self._state)

    def step(self, message: Message) -> Observation:
        text = message["content"].strip()
        self._left -= 1
        if text.startswith("="):
            answers = [part.strip() for part in text[1:].split(",")]
            well_formed = bool(self._results) and not self._malformed
            reward = (1 - self._format_weight) * list_reward(answers, self._right, self._judged)
            return Observation(reward=reward + self._format_weight * well_formed, done=True)
        if not self._left:
            return Observation(done=True)
        name, _, relation = text[1:].partition(">")
        result = self._facts.lookup(name, relation) if text.startswith("?") else None
        if result is None:
            self._malformed += 1
            return Observation("!.", state=self._state, metrics={"malformed_calls": 1.0})
        self._results.append(result)
        return Observation(f"{result}.", state=self._state, metrics={"tool_calls": 1.0})

    @property
    def _state(self) -> str:
        return f"{' '.join(self._results)}, {self._left} left"


class FactSearch:
    """The environment of the form `tools`: the policy calls `search`."""

    def reset(self, facts: str, **columns: Any) -> None:
        self._facts = FactBase(facts)

    def search(self, query: str) -> str:
        """Search the facts about people.

        Args:
            query: The name of a person and what to know of them, for example "boss of Kal".
        """
        return "\n".join(self._facts.search(query)) or "Nothing was found: name a person."


class _Question(NamedTuple):
    chains: tuple[tuple[str, str], ...]
    """(name, letters of the relations that are followed from it) for each blank."""

    @property
    def key(self) -> str:
        return str(self.chains)

    @property
    def category(self) -> str:
        hops = len(self.chains[0][1])
        blanks = len(self.chains)
        return f"{hops}-hops" if blanks == 1 else f"{hops}-hops-{blanks}-blanks"

    @property
    def level(self) -> int:
        return sum(len(path) for _, path in self.chains)

    def searches(self, facts: FactBase) -> tuple[list[tuple[str, str]], list[str]]:
        """(name, relation) of each search, and the answer to each blank."""
        pairs, answers = [], []
        for name, path in self.chains:
            for relation in path:
                pairs.append((name, relation))
                name = facts.lookup(name, relation) or ""
            answers.append(name)
        return pairs, answers

    def names_differ(self, facts: FactBase) -> bool:
        """Whether no name comes twice, in the question, on the way or in the answer."""
        pairs, answers = self.searches(facts)
        names = [name for name, _ in pairs] + answers
        return len(set(names)) == len(names)

    @property
    def short(self) -> str:
        return " ".join(">".join((name, *path)) for name, path in self.chains) + "?"

    @property
    def words(self) -> str:
        lines = []
        for name, path in self.chains:
            relations = " of the ".join(RELATIONS[letter] for letter in reversed(path))
            lines.append(f"Who is the {relations} of {name.title()}?")
        how = "Use the tool search, one fact at a time, then write only the"
        return " ".join([*lines, how, "name." if len(lines) == 1 else "names, with commas."])


def facts(
    *,
    split: Split = "train",
    size: int = 10_000,
    seed: int = 0,
    hops: Sequence[int] = (1, 2),
    blanks: Sequence[int] = (1,),
    extra_turns: int = 1,
    mistakes: float = 0.0,
    form: Form = "short",
) -> Sequence[Task]:
    """Questions with so many blanks, each a chain of so many facts (one of `hops` and one of `blanks`, drawn evenly).

    Task i is a function of (seed, split, i) and the settings, and so are its facts. An answer takes one completion more than
    there are facts to search; `extra_turns` come on top. Demonstrations search each fact, but with probability `mistakes`, before
    each search, they give up and answer with the names they have. Raises `TaskError` for settings that give no such task.
    """
    check_share("facts", "mistakes", mistakes)
    for name, counts in (("hops", hops), ("blanks", blanks)):
        if not counts or not 1 <= min(counts) <= max(counts) <= MOST_PARTS:
            raise TaskError(f"facts.{name} must be from 1 to {MOST_PARTS}, got {tuple(counts)}")
    if extra_turns < 0 or form not in ("short", "tools"):
        raise TaskError(
            f"facts needs extra_turns >= 0 and the form 'short' or 'tools', got {extra_turns} and {form!r}"
        )

    def draw(rng: random.Random) -> _Question:
        number, length = rng.choice(blanks), rng.choice(hops)
        names = rng.sample(NAMES, number)
        return _Question(
            tuple((name, "".join(rng.choices("bfnt", k=length))) for name in names)
        )

    def make(id: str, question: _Question, rng: random.Random) -> Task:
        # A chain that comes back to a name of the question would be answered without a search.
        bases = (FactBase(f"{id}/{number}") for number in count())
        base = next(one for one in bases if question.names_differ(one))
        searches, answers = question.searches(base)
        answer = ",".join(answers)
        columns = {
            "facts": base.seed,
            "chains": [list(chain) for chain in question.chains],
            "budget": len(searches) + 1 + extra_turns,
        }
        if form == "tools":
            return Task(
                id=id,
                prompt=question.words,
                answer=answer.title(),
                demonstration=_calls(base, searches, answer.title()),
                columns=columns,
            )
        task = Task(id=id, prompt=question.short, answer=answer, columns=columns)
        return demonstrated(Facts(), task, hasty(mistakes), rng)

    return task_set("facts", draw, make, split=split, size=size, seed=seed)


def _calls(base: FactBase, searches: Sequence[tuple[str, str]], answer: str) -> list[Message]:
    """The demonstration in the form `tools`."""
    messages: list[Message] = []
    for name, relation in searches:
        query = f"{RELATIONS[relation]} of {name.title()}"
        call = {
            "type": "function",
            "function": {"name": "search", "arguments": {"query": query}},
        }
        messages.append({"role": "assistant", "content": "", "tool_calls": [call]})
        result = "\n".join(base.search(query))
        messages.append({"role": "tool", "name": "search", "content": result})
    return [*messages, {"role": "assistant", "content": answer}]


def _progress(task: Task, messages: Sequence[Message]) -> tuple[list[str], str | None]:
    """The names known for each blank so far, and the next search; None when all are known."""
    replies = [m["content"].rstrip(".") for m in messages if m["role"] != "assistant"]
    names, next_search = [], None
    for name, path in task.columns["chains"]:
        for relation in path:
            if not replies:
                next_search = next_search or f"?{name}>{relation}"
                break
            name = replies.pop(0)
        names.append(name)
    return names, next_search


def optimal(task: Task, messages: Sequence[Message], rng: random.Random) -> str:
    """Search each fact, then answer."""
    names, next_search = _progress(task, messages)
    return next_search or f"={','.join(names)}"


def guess(task: Task, messages: Sequence[Message], rng: random.Random) -> str:
    """Answer at once with any names."""
    return f"={','.join(rng.choices(NAMES, k=len(task.columns['chains'])))}"


def hasty(mistakes: float) -> Policy:
    """The optimal policy, but before each search it gives up with probability `mistakes` and answers with what it has."""

    def act(task: Task, messages: Sequence[Message], rng: random.Random) -> str:
        names, next_search = _progress(task, messages)
        if next_search is None or rng.random() < mistakes:
            return f"={','.join(names)}"
        return next_search

    return act


POLICIES: dict[str, Policy] = {"random": guess, "optimal": optimal}
