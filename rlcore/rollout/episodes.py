"""The environment's side of a generator: it is told of completions, and says which rollouts go on.

generator                                   environment
begin(attempt)           -- task -->        reset
                         <- prompt --
completed(attempt)       -- message -->     step
                         <- reply --        the next completion, or the end
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rlcore.env.base import Observation, messages_of
from rlcore.env.pool import EnvironmentPool, Failed
from rlcore.errors import TaskError
from rlcore.rollout.attempt import Attempt
from rlcore.rollout.conversation import Conversation
from rlcore.rollout.open_group import OpenGroup
from rlcore.rollout.talk import Talk
from rlcore.types import Message, Task


class NoEpisodes:
    """Of a generator without an environment: a rollout is over with its completion."""

    waiting = False
    make_prompts = False
    """Whether the prompt of an attempt comes from its environment, which `begin` asks."""

    def begin(self, attempt: Attempt, group: OpenGroup) -> None:
        """Nobody is asked."""

    def completed(self, attempt: Attempt, group: OpenGroup) -> None:
        """Nobody is told."""

    def forget(self, group: OpenGroup) -> None:
        """Nobody is asked."""

    def poll(self, timeout_s: float) -> Iterator[tuple[OpenGroup, Attempt]]:
        """Nobody replies."""
        return iter(())


class Episodes(NoEpisodes):
    """Keeps the attempts whose environment is asked, by id."""

    make_prompts = True

    def __init__(
        self,
        pool: EnvironmentPool,
        conversation: Conversation,
        *,
        max_turns: int,
        max_tokens: int,
        max_length: int,
    ) -> None:
        """max_turns: completions of a rollout. max_tokens: of one completion. max_length: of all together, with prompt and
        replies."""
        self._pool, self._conversation = pool, conversation
        self._max_turns, self._max_tokens, self._max_length = max_turns, max_tokens, max_length
        self._asked: dict[str, tuple[OpenGroup, Attempt]] = {}

    @property
    def waiting(self) -> bool:  # type: ignore[override]
        """Whether a reply is still to come."""
        return bool(self._asked)

    def begin(self, attempt: Attempt, group: OpenGroup) -> None:
        """Ask for the prompt of an attempt; or for the reply to its last completion, if it continues a rollout."""
        if attempt.talk is None:
            attempt.talk = Talk(seed=group.environment_seed)
            attempt.finish = "aborted"  # stands if there is never a completion
        talk = attempt.talk
        self._asked[attempt.id] = (group, attempt)
        self._pool.reset(attempt.id, group.task, talk.seed, talk.said)

    def completed(self, attempt: Attempt, group: OpenGroup) -> None:
        """Tell the environment of a completion, unless it was cut: then the episode ends with it."""
        talk = attempt.talk
        if talk is None or attempt.finish is None:
            return
        message = self._conversation.message(attempt.prompt_ids, attempt.token_ids)
        talk.messages.append(message)
        talk.text = None  # what was said of an earlier completion
        if attempt.finish != "stop" or group.expired:
            talk.end("length" if attempt.finish == "length" else "aborted")
            self._pool.forget(attempt.id)
            return
        attempt.close_completion()
        talk.is_waiting = True
        self._asked[attempt.id] = (group, attempt)
        self._pool.step(attempt.id, message)

    def forget(self, group: OpenGroup) -> None:
        """Cut the episodes of a group; completions that are being written end theirs when they come."""
        for attempt in group.running:
            self._pool.forget(attempt.id)
            if self._asked.pop(attempt.id, None) is not None and attempt.talk is not None:
                attempt.talk.end("aborted")

    def poll(self, timeout_s: float) -> Iterator[tuple[OpenGroup, Attempt]]:
        """The attempts whose environment has replied: their next completion can begin, or they are over."""
        for key, answer in self._pool.poll(timeout_s):
            if key in self._asked:
                group, attempt = self._asked.pop(key)
                self._hear(attempt, group.task, answer)
                yield group, attempt

    def _hear(self, attempt: Attempt, task: Task, answer: Observation | Failed) -> None:
        talk = attempt.talk
        assert talk is not None
        if isinstance(answer, Failed):
            self._fail(attempt, answer.status, answer.reason)
            return
        if not talk.states:
            self._set_prompt(attempt, task, talk, answer)
            return
        talk.hear(answer)
        if answer.done:
            return
        if len(talk.rewards) >= self._max_turns:
            self._end(attempt, "max_turns")
            return
        reply = messages_of(answer.reply)
        talk.messages += reply
        if answer.restart:
            ids, is_whole = self._conversation.whole(task, reply), True
        else:
            ids, is_whole = self._reply_ids(attempt, task, talk, reply)
        before = 0 if is_whole else len(attempt.prompt_ids) + len(attempt.token_ids)
        room = self._max_length - before - len(ids)
        if room < 1:
            self._end(attempt, "length")
            return
        talk.states.append(answer.state)
        attempt.go_on(ids, restart=is_whole, room=min(self._max_tokens, room))

    def _end(self, attempt: Attempt, ending: str) -> None:
        assert attempt.talk is not None
        attempt.talk.end(ending)
        self._pool.forget(attempt.id)

    def _fail(self, attempt: Attempt, status: str, reason: str) -> None:
        """The rollout has no score. Before its first completion nothing was cut: `aborted` would be said of a deadline."""
        assert attempt.talk is not None
        if not attempt.talk.states:
            attempt.finish = "stop"
        attempt.talk.end(status, reason)

    def _set_prompt(
        self, attempt: Attempt, task: Task, talk: Talk, answer: Observation
    ) -> None:
        talk.is_waiting = False
        ids, talk.messages = self._conversation.begin(task, answer)
        talk.prompt_messages = len(talk.messages)
        room = self._max_length - len(ids)
        if room < 1:
            raise TaskError(
                f"the prompt of task {task.id!r} has {len(ids)} tokens with what its environment adds, and max_length is "
                f"{self._max_length}, which leaves no room for a completion; raise engine.max_length"
            )
        talk.states.append(answer.state)
        attempt.begin(ids, room=min(self._max_tokens, room))

    def _reply_ids(
        self, attempt: Attempt, task: Task, talk: Talk, reply: Sequence[Message]
    ) -> tuple[list[int], bool]:
        """Tokens of the reply, or of the whole conversation if the chat template rewrites what was before."""
        conversation = self._conversation
        if conversation.history == "template":
            whole = conversation.whole(task, talk.messages)
            before = [*attempt.prompt_ids, *attempt.token_ids]
            if whole[: len(before)] != before:
                return whole, True
            return whole[len(before) :], False
        return conversation.reply_ids(attempt.token_ids, reply), False
