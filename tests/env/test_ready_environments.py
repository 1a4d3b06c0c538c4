"""The ready environments: their splits, bounds and replies, in this process and through the pool."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import pytest

from rewards.text import exact
from rlcore.env.forms import ENVIRONMENTS, EnvironmentSpec
from rlcore.env.pool import EnvironmentPool
from rlcore.environments import calculator, facts, grid_world, number_guessing
from rlcore.environments.play import Policy, mean_rewards, play
from rlcore.errors import RecipeError, TaskError
from rlcore.recipe.build import TASKS
from rlcore.types import Task


class Ready(NamedTuple):
    environment: Callable[..., Any]
    tasks: Callable[..., Sequence[Task]]
    policies: dict[str, Policy]
    settings: dict[str, Any]
    teacher: Policy
    key: Callable[[Task], str]
    """What is held out."""


READY = {
    "number_guessing": Ready(
        number_guessing.NumberGuessing,
        number_guessing.number_guessing,
        number_guessing.POLICIES,
        {"sizes": [7, 15, 31]},
        number_guessing.forgetful(0.5),
        lambda task: task.prompt,
    ),
    "calculator": Ready(
        calculator.Calculator,
        calculator.calculator,
        calculator.POLICIES,
        {"steps": [1, 2, 3]},
        calculator.hasty(0.5),
        lambda task: task.prompt,
    ),
    "facts": Ready(
        facts.Facts,
        facts.facts,
        facts.POLICIES,
        {"hops": [1, 2, 3], "blanks": [1, 2]},
        facts.hasty(0.5),
        lambda task: task.prompt,
    ),
    "grid_world": Ready(
        grid_world.GridWorld,
        grid_world.grid_world,
        grid_world.POLICIES,
        {"kinds": ["open", "walls", "key"], "sizes": [4, 5]},
        grid_world.wandering(0.5),
        lambda task: str(grid_world.map_of(task.columns)),
    ),
}
NAMES = list(READY)


def scripted(texts: Sequence[str], then: Policy | None = None) -> Policy:
    """Says these texts, one a turn, and goes on as `then`."""
    left = list(texts)

    def act(task: Task, messages: Sequence[Any], rng: random.Random) -> str:
        return left.pop(0) if left else then(task, messages, rng)

    return act


@pytest.mark.parametrize("name", NAMES)
def test_splits_never_meet_whatever_seed_and_size(name: str) -> None:
    ready = READY[name]
    train: set[str] = set()
    held_out: set[str] = set()
    for seed in (0, 1):
        train |= {ready.key(task) for task in ready.tasks(size=500, seed=seed, **ready.settings)}
        others = ready.tasks(split="heldout", size=200, seed=seed + 5, **ready.settings)
        held_out |= {ready.key(task) for task in others}
    assert len(train) > 200 and len(held_out) > 20
    assert not train & held_out


@pytest.mark.parametrize("name", NAMES)
def test_a_task_depends_on_seed_split_and_index_only(name: str) -> None:
    ready = READY[name]
    short = ready.tasks(size=10, seed=3, mistakes=0.5, **ready.settings)
    long = ready.tasks(size=1000, seed=3, mistakes=0.5, **ready.settings)
    assert list(short) == long[:10]
    assert short[0] != ready.tasks(size=10, seed=4, mistakes=0.5, **ready.settings)[0]
    assert short.column("category") == [task.category for task in short]
    assert short.column("level") == [task.columns["level"] for task in short]
    assert len(set(long.column("category"))) > 1


@pytest.mark.parametrize("name", NAMES)
def test_bounds(name: str) -> None:
    """The optimal policy solves every task, in as few turns as it can; the random one and the weak teacher do not."""
    ready = READY[name]
    tasks = ready.tasks(split="heldout", size=100, **ready.settings)
    policies = {**ready.policies, "teacher": ready.teacher}
    means = mean_rewards(ready.environment, tasks, policies)
    assert means["optimal"] == 1.0
    assert means["random"] < 0.4
    assert means["random"] < means["teacher"] < 0.8
    rng = random.Random(0)
    for task in tasks:
        turns = play(ready.environment(), task, ready.policies["optimal"], rng).turns
        assert turns <= task.columns.get("budget", task.columns.get("guesses"))


@pytest.mark.parametrize("name", NAMES)
def test_demonstrations_are_what_the_environment_says(name: str) -> None:
    """Played again, completion by completion, an environment gives the replies of the demonstration."""
    ready = READY[name]
    for task in ready.tasks(size=40, mistakes=0.3, **ready.settings):
        completions = [one["content"] for one in task.demonstration if one["role"] == "assistant"]
        again = play(ready.environment(), task, scripted(completions), random.Random(0))
        assert again.messages == task.demonstration and again.done
        assert task.demonstration[0]["role"] == task.demonstration[-1]["role"] == "assistant"
    solved = ready.tasks(size=40, **ready.settings)
    assert mean_rewards(ready.environment, solved, {"again": demonstrated}) == {"again": 1.0}


def demonstrated(task: Task, messages: Sequence[Any], rng: random.Random) -> str:
    return task.demonstration[len(messages)]["content"]


@pytest.mark.parametrize("name", NAMES)
def test_equal_states_are_equal_situations(name: str) -> None:
    """GiGPO compares rollouts of one task from equal states: what the optimal policy does there is equally good."""
    ready = READY[name]
    values: dict[tuple[str, str | None], set[float]] = {}
    rng = random.Random(0)
    for task in ready.tasks(size=5, seed=9, **ready.settings):
        for _ in range(6):
            half = play(ready.environment(), task, ready.teacher, rng)
            for turn, state in enumerate(half.states):
                said = [one for one in half.messages if one["role"] == "assistant"][:turn]
                if name == "grid_world":
                    left = grid_world._walked(task, said)
                    values.setdefault((task.id, state), set()).add(left[0].distance(left[1]))
                    continue
                # Whether it can still be solved from here.
                texts = [one["content"] for one in said]
                policy = scripted(texts, then=ready.policies["optimal"])
                end = play(ready.environment(), task, policy, rng)
                values.setdefault((task.id, state), set()).add(end.reward)
    assert len(values) > 10
    assert all(len(outcomes) == 1 for outcomes in values.values())


@pytest.mark.parametrize("name", NAMES)
def test_episodes_in_the_pool_equal_those_in_this_process(name: str) -> None:
    ready = READY[name]
    tasks = ready.tasks(size=6, seed=2, **ready.settings)
    expected = {
        task.id: play(ready.environment(), task, ready.teacher, random.Random(i))
        for i, task in enumerate(tasks)
    }
    rngs = {task.id: random.Random(i) for i, task in enumerate(tasks)}
    said: dict[str, list[Any]] = {task.id: [] for task in tasks}
    states: dict[str, list[Any]] = {task.id: [] for task in tasks}
    rewards = dict.fromkeys(said, 0.0)
    with EnvironmentPool(EnvironmentSpec(name), workers=2) as pool:
        for task in tasks:
            pool.reset(task.id, task, 0)
        by_id = {task.id: task for task in tasks}
        while answers := pool.poll(30.0):
            for key, observation in answers:
                rewards[key] += observation.reward
                if observation.done:
                    continue
                states[key].append(observation.state)
                if isinstance(observation.reply, str):
                    said[key].append({"role": "user", "content": observation.reply})
                text = ready.teacher(by_id[key], said[key], rngs[key])
                said[key].append({"role": "assistant", "content": text})
                pool.step(key, said[key][-1])
    for key, episode in expected.items():
        assert (said[key], rewards[key], states[key]) == (
            episode.messages,
            episode.reward,
            episode.states,
        )


def act(environment: Any, task: Task, *texts: str) -> Any:
    """What the environment says to the last of these completions."""
    offered = {**task.columns, "answer": task.answer}
    names = environment.reset.__code__.co_varnames[: environment.reset.__code__.co_argcount]
    environment.reset(**{name: offered[name] for name in names if name in offered})
    observation = None
    for text in texts:
        observation = environment.step({"role": "assistant", "content": text})
    return observation


def test_a_guess_is_exactly_one_number() -> None:
    task = number_guessing.number_guessing(size=1, sizes=[15])[0]
    everything = " ".join(map(str, range(task.columns["low"], task.columns["high"] + 1)))
    game = number_guessing.NumberGuessing()
    assert act(game, task, everything).reward == 0.0
    assert act(game, task, "no number").reply == task.prompt
    assert act(game, task, f"It is {task.answer}!").reward == 1.0
    last = act(game, task, *["none"] * task.columns["guesses"])
    assert last.done and last.reward == 0.0
    words = number_guessing.number_guessing(size=1, sizes=[15], form="words")[0]
    assert act(game, words, "none").reply == "Write exactly one number."
    too_low = words.columns["low"] - 1
    assert act(game, words, str(too_low)).reply == "Higher."


def test_calculator_calls() -> None:
    task = calculator.calculator(size=1, steps=[2])[0]
    game = calculator.Calculator()
    first, second = task.columns["expressions"]
    assert act(game, task, f"?{first}").reply == f"{second.rstrip('0123456789')[:-1]}."
    nested = second.replace(second.rstrip("0123456789")[:-1], f"({first})", 1)
    assert act(game, task, f"?{nested}").reply == f"{task.answer}."
    assert act(game, task, f"={task.answer}").reward == 1.0
    assert act(game, task, f"={task.answer}0").reward == 0.0
    for malformed in ("?1+", "?1/0", "? __import__('os')", task.answer):
        observation = act(game, task, malformed)
        assert observation.reply == "!." and observation.metrics == {"malformed_calls": 1.0}
    # Who spends the budget on calls gets no answer in.
    spent = act(game, task, *["?1+1"] * task.columns["budget"])
    assert spent.done and spent.reward == 0.0


def test_facts_are_those_of_the_task() -> None:
    tasks = facts.facts(size=200, hops=[1])
    answers = {(task.prompt, task.answer) for task in tasks}
    assert len({prompt for prompt, _ in answers}) < len(answers)  # equal questions, other facts
    assert all(task.answer not in task.prompt for task in facts.facts(size=300, hops=[1, 2, 3]))
    base = facts.FactBase("a")
    assert base.lookup("kal", "b") == base.lookup("kal", "b") != facts.FactBase("b").lookup("kal", "b")
    assert base.lookup("kal", "x") is base.lookup("nobody", "b") is None
    assert all(base.lookup(name, "b") != name for name in facts.NAMES)
    assert base.search("boss of Kal?") == [base.sentence("kal", "b")]
    assert len(base.search("Kal")) == 4 and base.search("who is it") == []


def test_listing_everything_raises_recall_and_not_the_penalised_form() -> None:
    task = facts.facts(size=1, hops=[1], blanks=[3])[0]
    right = task.answer.split(",")
    everything = "=" + ",".join(facts.NAMES)
    one = f"={right[0]}"

    def reward(text: str, **judge: Any) -> float:
        return act(facts.Facts(**judge), task, text).reward

    assert reward(everything, judged="recall") == 1.0 > reward(one, judged="recall")
    penalised = reward(everything, judged="penalised_recall")
    assert penalised < 0.01 < reward(one, judged="penalised_recall")
    assert reward(f"={task.answer}", judged="penalised_recall") == 1.0
    assert reward(f"={','.join(reversed(right))}", judged="recall") == 1.0
    assert reward(f"={','.join(reversed(right))}") == 0.0
    # One right name, said often, is one right name.
    assert reward("=" + ",".join([right[0]] * 3), judged="recall") == pytest.approx(1 / 3)


def test_the_format_is_rewarded_only_with_a_well_formed_search() -> None:
    task = facts.facts(size=1, hops=[1], blanks=[2])[0]
    searches = [f"?{name}>{path}" for name, path in task.columns["chains"]]
    answer = f"={task.answer}"

    def reward(*texts: str) -> float:
        return act(facts.Facts("recall", format_weight=0.25), task, *texts).reward

    assert reward(*searches, answer) == 1.0
    assert reward(answer) == 0.75
    assert reward("?nonsense", *searches[1:], answer) == 0.75
    assert reward("?kal", answer) == 0.75
    assert reward(searches[0], "=") == 0.25


def test_a_move_that_is_undone_costs_turns_and_not_the_goal() -> None:
    task = next(
        task for task in grid_world.grid_world(size=50, kinds=["open"]) if task.columns["level"] > 2
    )
    grid = grid_world.map_of(task.columns)
    way, where = [], grid.beginning
    while where.cell != grid.goal:
        way.append(grid.best_moves(where)[0])
        where = grid.after(where, way[-1])
    back = {"n": "s", "s": "n", "e": "w", "w": "e"}
    detour = [way[0], back[way[0]], *way]
    assert act(grid_world.GridWorld(), task, *detour).reward == 1.0
    single_moves = [grid_world.GridWorld(turn_weight=1.0) for _ in range(2)]
    assert act(single_moves[0], task, way[0]).reward == pytest.approx(1 / len(way))
    assert act(single_moves[1], task, way[0], back[way[0]]).reward == 0.0
    # Cut at the limit: no goal, no reward.
    turns = task.columns["budget"]
    circling = [way[0], back[way[0]]] * turns
    cut = act(grid_world.GridWorld(), task, *circling[:turns])
    assert cut.done and cut.reward == 0.0


def test_the_door_needs_its_key() -> None:
    for task in grid_world.grid_world(size=500, kinds=["key"], sizes=[3], walls=0.0):
        grid = grid_world.map_of(task.columns)
        doors = [move for move in "nesw" if grid.after(grid.beginning, move).cell == grid.start]
        right, down = grid.goal[0] - grid.start[0], grid.goal[1] - grid.start[1]
        if abs(right) + abs(down) == 1:
            move = {(0, -1): "n", (1, 0): "e", (0, 1): "s", (-1, 0): "w"}[right, down]
            assert move in doors
            refused = act(grid_world.GridWorld(), task, move)
            assert not refused.done and refused.reply == task.prompt
            break
    else:
        raise AssertionError("no start next to its door")
    for where in grid.reachable():
        assert all(grid.after(where, move).has_key >= where.has_key for move in "nesw")


def test_single_moves_share_the_maps_of_their_split() -> None:
    for task in grid_world.grid_moves(size=50, kinds=["key", "walls"], thoughts=True):
        thought, _, move = task.demonstration.partition(">")
        assert move in task.answer and len(thought) == 4
        # Any best move counts, another does not, and none without the format.
        for other in "nesw":
            judged = exact(f"{thought}>{other}", task.answer, after=">")
            assert judged == float(other in task.answer)
        assert exact(move, task.answer, after=">").status == "wrong-format"
    weak = grid_world.grid_moves(size=300, mistakes=1.0)
    right = sum(task.demonstration in task.answer for task in weak)
    assert 60 < right < 200


BAD = [
    ("number_guessing", {"sizes": [1]}),
    ("number_guessing", {"mistakes": 2.0}),
    ("number_guessing", {"form": "chat"}),
    ("number_guessing", {"sizes": [99], "split": "heldout"}),
    ("calculator", {"steps": []}),
    ("calculator", {"digits": 0}),
    ("facts", {"hops": [0]}),
    ("facts", {"blanks": [99]}),
    ("facts", {"split": "test"}),
    ("grid_world", {"kinds": ["maze"]}),
    ("grid_world", {"sizes": [11]}),
    ("grid_world", {"walls": 0.9}),
    ("grid_world", {"size": 0}),
]


@pytest.mark.parametrize(("name", "settings"), BAD)
def test_bad_settings_are_named(name: str, settings: dict[str, Any]) -> None:
    with pytest.raises(TaskError, match=name):
        READY[name].tasks(**settings)


def test_every_ready_environment_has_tasks_of_its_name() -> None:
    assert set(READY) <= set(ENVIRONMENTS) & set(TASKS)
    with pytest.raises(RecipeError, match="judge by"):
        facts.Facts(judged="best")


@pytest.mark.parametrize("name", ["calculator", "facts"])
def test_forms_with_tools_are_solved_by_their_demonstrations(name: str) -> None:
    """The calls of a demonstration, made in the pool, give its replies, and its last message is the answer."""
    spec = EnvironmentSpec(tools=["calculator"]) if name == "calculator" else EnvironmentSpec("fact_search")
    tasks = READY[name].tasks(size=4, form="tools", **READY[name].settings)
    with EnvironmentPool(spec, workers=1) as pool:
        for task in tasks:
            pool.reset("x", task, 0)
            pool.poll(60.0)
            *talk, last = task.demonstration
            assert last["content"] == task.answer
            for message in talk:
                if message["role"] == "assistant":
                    pool.step("x", message)
                    (_, observation), *_ = pool.poll(60.0)
                    assert not observation.metrics.get("failed_calls")
                else:
                    assert observation.reply == [message]
            pool.step("x", last)
            assert pool.poll(60.0)[0][1].done
