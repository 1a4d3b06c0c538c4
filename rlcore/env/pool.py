"""Runs the episodes of a stage in worker processes, so that no environment and no tool can stop a run.

    pool.reset(key, task, seed)      begin an episode
    pool.step(key, message)          give it the policy's completion
    pool.poll(timeout_s)             what environments said since the last call, by key

An episode stays in the worker in which it began. A turn that is late kills its worker; so does one that crashes it. The
episode that caused it has failed: its rollout gets no reward, never 0. The others of that worker are rebuilt in its successor by
replaying their completions, which needs environments that reply equally to equal completions.
"""

from __future__ import annotations

import asyncio
import atexit
import pickle
import queue
import threading
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from rlcore.env.base import Observation
from rlcore.env.child import Setup
from rlcore.env.forms import EnvironmentSpec
from rlcore.env.worker import EnvironmentWorker, WorkerLost
from rlcore.errors import EnvError
from rlcore.types import Message, Task


@dataclass(frozen=True, slots=True)
class Failed:
    """An episode that ended without a reward."""

    status: Literal["timed-out", "crashed"]
    reason: str


@dataclass(slots=True)
class _Episode:
    key: str
    worker: EnvironmentWorker
    task: bytes
    """The pickled columns: the worker can answer even if it cannot read them."""
    generation: int = 0
    """Of the worker's process that holds it; 0 before the start."""
    said: list[tuple[Message, dict[str, Any]]] = field(default_factory=list)
    """Completions with their replies, to be replayed in another process."""
    to_say: list[Message] = field(default_factory=list)
    """Completions that it begins with, of an episode that it continues."""
    begun: dict[str, Any] | None = None
    """The first observation."""
    forgotten: bool = False


class EnvironmentPool:
    """Episodes of one environment in several processes.

    deadline_s: for one turn. memory_gb: limit on each worker's data segment, None for none. max_reply: characters
    of one message; the rest is cut. python: another interpreter for the workers. Raises `EnvError`
    if the environment cannot be imported or given its parameters.
    """

    def __init__(
        self,
        spec: EnvironmentSpec,
        *,
        workers: int = 4,
        deadline_s: float = 30.0,
        memory_gb: float | None = 4,
        max_reply: int = 20_000,
        python: str | None = None,
    ) -> None:
        setup = Setup(spec, memory_gb, max_reply, deadline_s)
        self._done: queue.Queue[tuple[_Episode, Observation | Failed | BaseException]] = (
            queue.Queue()
        )
        self._episodes: dict[str, _Episode] = {}
        self._waiting: set[str] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._closed = False
        self._workers = [
            EnvironmentWorker(setup, deadline_s=deadline_s, python=python)
            for _ in range(workers)
        ]
        self._wait(self._start())
        atexit.register(self.close)
        try:
            # The others go on importing while the engine starts.
            loaded = self._wait(self._workers[0].ready())
        except EnvError:
            self.close()
            raise
        self.tools: list[dict[str, Any]] = loaded["tools"]
        self.asks: list[str] = loaded["asks"]
        """Columns of the task, or parameters, without which no episode can begin."""
        self.overlaid: list[str] = loaded["overlaid"]
        """Parameters of the recipe that would take the place of a column of the same name."""
        self.rewards: bool = loaded["rewards"]
        """Whether a turn can have a reward."""

    @property
    def pids(self) -> list[int | None]:
        """Process ids of the workers."""
        return [worker.pid for worker in self._workers]

    def reset(self, key: str, task: Task, seed: int, said: Sequence[Message] = ()) -> None:
        """Begin an episode; its first observation comes back from `poll`. said: completions that it is given at once, in
        order, to continue an episode of before: then the reply to the last comes back."""
        columns = {**task.columns, "prompt": task.prompt, "answer": task.answer, "seed": seed}
        worker = min(self._workers, key=lambda one: one.episodes)
        worker.episodes += 1
        self._episodes[key] = _Episode(key, worker, pickle.dumps(columns), to_say=list(said))
        self._submit(self._episodes[key], None)

    def step(self, key: str, message: Message) -> None:
        """Give an episode the policy's completion; the reply comes back from `poll`."""
        self._submit(self._episodes[key], message)

    def forget(self, key: str) -> None:
        """End an episode before it is done. What it would still say is dropped."""
        self._waiting.discard(key)
        episode = self._episodes.pop(key, None)
        if episode is not None and not self._closed:
            episode.worker.episodes -= 1
            self._loop.call_soon_threadsafe(self._close_episode, episode)

    def poll(self, timeout_s: float) -> list[tuple[str, Observation | Failed]]:
        """What was said since the last call; waits at most `timeout_s` for the first. Returns at once if nobody is asked."""
        answers = []
        try:
            if self._waiting:
                answers.append(self._done.get(timeout=timeout_s))
            while True:
                answers.append(self._done.get_nowait())
        except queue.Empty:
            pass
        wanted: list[tuple[str, Observation | Failed]] = []
        for episode, answer in answers:
            if isinstance(answer, BaseException):
                raise answer
            key = episode.key
            # An episode that was forgotten may have had the same key.
            if key not in self._waiting or self._episodes.get(key) is not episode:
                continue
            self._waiting.discard(key)
            if isinstance(answer, Failed) or answer.done:
                self.forget(key)
            wanted.append((key, answer))
        return wanted

    def close(self) -> None:
        """Kill the workers; open episodes are dropped."""
        if self._closed:
            return
        self._closed = True
        atexit.unregister(self.close)
        self._wait(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5.0)
        if not self._thread.is_alive():
            self._loop.close()

    def __enter__(self) -> EnvironmentPool:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    # on the event loop -----------------------------------------------------------------------------------------

    async def _start(self) -> None:
        for worker in self._workers:
            await worker.start()

    async def _end(self) -> None:
        for worker in self._workers:
            await worker.close()
        current = asyncio.current_task()
        others = [task for task in asyncio.all_tasks() if task is not current]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    def _wait(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def _submit(self, episode: _Episode, message: Message | None) -> None:
        self._waiting.add(episode.key)

        async def answered() -> None:
            answer: Observation | Failed | BaseException
            try:
                content = await self._in_turn(episode, message)
                answer = content if isinstance(content, Failed) else _observation(content)
            except asyncio.CancelledError:
                raise
            except BaseException as error:  # a bug: `poll` raises it
                answer = error
            self._done.put((episode, answer))

        asyncio.run_coroutine_threadsafe(answered(), self._loop)

    async def _in_turn(
        self, episode: _Episode, message: Message | None
    ) -> dict[str, Any] | Failed:
        """The reply to a completion, or to nothing at the start; where calls of several episodes were lost together, each is
        tried again alone, and the one that fails then is the cause."""
        exclusive = False
        while True:
            try:
                async with episode.worker.turn(exclusive=exclusive):
                    if episode.forgotten:
                        return Failed("crashed", "it was ended")
                    return await self._reply(episode, message)
            except WorkerLost as lost:
                if lost.alone or exclusive:
                    return Failed(lost.status, lost.reason)
                exclusive = True
            except EnvError as error:  # its file changed since the start, or memory is short
                return Failed("crashed", str(error))

    async def _reply(
        self, episode: _Episode, message: Message | None
    ) -> dict[str, Any] | Failed:
        worker, generation = episode.worker, episode.worker.generation
        if episode.generation != generation:
            rebuilt = await self._rebuilt(episode, generation)
            if isinstance(rebuilt, Failed):
                return rebuilt
            if message is None:
                return await self._continued(episode, rebuilt, generation)
        assert message is not None
        reply = _usable(await worker.call("step", episode.key, message, generation))
        if not isinstance(reply, Failed):
            episode.said.append((message, reply))
        return reply

    async def _continued(
        self, episode: _Episode, first: dict[str, Any], generation: int
    ) -> dict[str, Any] | Failed:
        """Give a new episode the completions that it continues; the last reply."""
        last = episode.said[-1][1] if episode.said else first
        while episode.to_say:
            if last["done"]:
                return Failed("crashed", "the environment ended earlier than it did before")
            message = episode.to_say[0]
            reply = _usable(await episode.worker.call("step", episode.key, message, generation))
            if isinstance(reply, Failed):
                return reply
            episode.said.append((message, reply))
            episode.to_say.pop(0)
            last = reply
        return last

    async def _rebuilt(self, episode: _Episode, generation: int) -> dict[str, Any] | Failed:
        """Begin the episode in the worker's process and replay its completions; the first observation."""
        # Set before: what is begun has to be closed, should it be forgotten meanwhile.
        episode.generation = generation
        worker = episode.worker
        first = _usable(await worker.call("reset", episode.key, episode.task, generation))
        if isinstance(first, Failed):
            return first
        episode.begun = episode.begun or first
        same = first == episode.begun
        for message, reply in episode.said if same else ():
            again = _usable(await worker.call("step", episode.key, message, generation))
            if isinstance(again, Failed):
                return Failed(again.status, f"{LOST}, and in its replay: {again.reason}")
            if again != reply:
                same = False
                break
        if not same:
            worker.tell("close", episode.key)
            return Failed(
                "crashed",
                f"{LOST}: the environment replies differently to the same completions",
            )
        return first

    def _close_episode(self, episode: _Episode) -> None:
        episode.forgotten = True
        if episode.generation == episode.worker.generation and not self._closed:
            episode.worker.tell("close", episode.key)


LOST = "its worker died of another episode, and it could not be rebuilt"


def _usable(content: dict[str, Any]) -> dict[str, Any] | Failed:
    for status in ("crashed", "timed-out"):
        if status in content:
            return Failed(status, content[status])  # type: ignore[arg-type]
    return content


def _observation(content: dict[str, Any]) -> Observation:
    messages = content["messages"]
    return Observation(
        reply=messages[0]["content"] if content["as_text"] else messages,
        reward=content["reward"],
        done=content["done"],
        state=content["state"],
        restart=content["restart"],
        text=content["text"],
        metrics=content["metrics"],
    )
