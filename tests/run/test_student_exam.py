"""The reward `student_exam`: what is asked, what it is worth, that no exam is taken twice; and the recipes of LbT and ARTE."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from statistics import fmean
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, Qwen2Config

from rlcore.credit.pairs import best_worst_pairs
from rlcore.errors import RlcoreError, TaskError
from rlcore.pretrained import load_causal_lm
from rlcore.recipe.build import build_tasks
from rlcore.recipe.check import check
from rlcore.recipe.load import load
from rlcore.rollout.hf import HfEngine
from rlcore.rollout.prompt import PromptEncoder
from rlcore.run.exam_questions import ExamQuestions, prompt_text, with_example
from rlcore.run.exam_scores import ExamScores
from rlcore.run.folder import RunFolder, read_rows
from rlcore.run.stored import read_stored
from rlcore.run.student import Student
from rlcore.run.student_exam import ExamContext, StudentExam
from rlcore.tokenizer import byte_tokenizer, load_tokenizer
from rlcore.types import Group, Rollout, Task, Verdict
from tests.run.whole import TINY, finish, kill_when, run_folder, start, story

METHODS = Path(__file__).parents[2] / "recipes/methods"
EXACT = {"use": "exact", "after": "="}


# What is asked ------------------------------------------------------------------------------------------------


def sums(n: int = 10) -> list[Task]:
    return [Task(id=f"sum/{i}", prompt=f"{i}+1?", answer=str(i + 1), category="odd" if i % 2 else "even") for i in range(n)]


def test_the_exam_never_has_the_taught_question() -> None:
    tasks = sums()
    exams = ExamQuestions(tasks, name="exam", num_questions=None)
    for task in tasks:
        asked = exams.of(task)
        assert [q.id for q in asked] == [q.id for q in tasks if q.category == task.category and q.id != task.id]
    # the same question under another id, with other spaces, or as a chat message
    for prompt in ("4+1?", " 4+1?\n", [{"role": "user", "content": "4+1?"}]):
        asked = exams.of(Task(id="other", prompt=prompt, category="even"))
        assert "sum/4" not in {q.id for q in asked} and len(asked) == 4


def test_all_completions_of_a_question_take_the_same_exam() -> None:
    exams = ExamQuestions(sums(40), name="exam", by=None, num_questions=5)
    again = ExamQuestions(sums(40), name="exam", by=None, num_questions=5)
    drawn = {task.id: [q.id for q in exams.of(task)] for task in sums(40)}
    assert all(len(set(ids)) == 5 for ids in drawn.values())
    assert drawn == {task.id: [q.id for q in again.of(task)] for task in reversed(sums(40))}
    assert len({tuple(ids) for ids in drawn.values()}) > 30, "other questions have other exams"


def test_exams_go_by_a_column() -> None:
    tasks = [Task(id=str(i), prompt=f"{i}?", columns={"kind": i % 3}) for i in range(9)]
    asked = ExamQuestions(tasks, name="exam", by="kind", num_questions=None).of(tasks[4])
    assert [q.id for q in asked] == ["1", "7"]
    with pytest.raises(TaskError, match="no question with the same kind \\('5'\\) for task 'x'"):
        ExamQuestions(tasks, name="exam", by="kind").of(Task(id="x", prompt="x?", columns={"kind": 5}))
    with pytest.raises(TaskError, match="column 'level', which task '0' does not have"):
        ExamQuestions(tasks, name="exam", by="level")


def test_the_example_stands_before_the_question() -> None:
    taught, question = Task(id="t", prompt="1+1?"), Task(id="q", prompt="2+2?", answer="4")
    read = with_example(question, taught, "{2}", template=None, format="plain")
    assert read.prompt == "1+1?{2}\n2+2?" and (read.id, read.answer) == ("q", "4")
    read = with_example(question, taught, "2", template=None, format="chat")
    roles = [(m["role"], m["content"]) for m in read.prompt]
    assert roles == [("user", "1+1?"), ("assistant", "2"), ("user", "2+2?")]
    read = with_example(question, taught, "What is 1+1? 2", template="{completion} / {question}", format="chat")
    assert read.prompt == "What is 1+1? 2 / 2+2?"
    with_system = Task(id="s", prompt=[{"role": "system", "content": "Be brief."}, {"role": "user", "content": "3?"}])
    read = with_example(with_system, with_system, "3", template=None, format="chat")
    assert [m["role"] for m in read.prompt] == ["system", "user", "assistant", "user"], "said once"


# What it is worth ---------------------------------------------------------------------------------------------


def group_of(task: Task, *completions: str) -> Group:
    rollouts = [
        Rollout.from_tokens(
            id=f"{task.id}#{i}", task_id=task.id, token_ids=[1, 2], mask=[False, True], logprobs=[0.0, -1.0], text=text
        )
        for i, text in enumerate(completions)
    ]  # fmt: skip
    return Group(task=task, rollouts=rollouts, verdicts=[Verdict(value=0.0)] * len(rollouts))


class Counting(HfEngine):
    """The engine of transformers, which also counts what it is asked."""

    asked = 0

    def submit(self, requests: Any) -> None:
        self.asked += len(requests)
        super().submit(requests)


def reward_with(
    folder: Path, exam: list[Task], *, scores: ExamScores | None = None, max_length: int = 40, **keys: Any
) -> tuple[StudentExam, Counting]:
    """The reward with the student in a folder, and the student's engine."""
    engine = Counting(folder, max_length=max_length, max_sequences=512)
    student = Student(engine, PromptEncoder(load_tokenizer(folder)), max_length, 60.0)
    context = ExamContext(
        tasks_of=lambda name: exam, student_of=lambda path, engine: student, scores=scores or ExamScores(None)
    )
    made = StudentExam(SimpleNamespace(), questions="exam", max_tokens=8, exam_context=context, **{"check": EXACT, **keys})
    return made, engine


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with runs: two students, and the recipes of LbT and ARTE with the first of them."""
    folder = tmp_path_factory.mktemp("methods")
    (folder / "taught_tasks.py").symlink_to(METHODS / "taught_tasks.py")
    for name in ("taught_student", "lbt", "arte_student"):
        (folder / f"{name}.yaml").symlink_to(METHODS / f"{name}.yaml")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for overrides in ((), ("tasks.demonstrations.style=strokes", "tasks.heldout.style=strokes", "name=strokes_student")):
            finish(start("train", "taught_student.yaml", *overrides))
        finish(start("train", "lbt.yaml"))
        finish(start("train", "arte_student.yaml"))
        drafts = "tasks.written.path=runs/lbt/samples/drafts/rank*.jsonl"
        finish(start("train", "arte_student.yaml", drafts, "name=arte_drafts"))
        finish(start("train", "arte_student.yaml", "model.path=runs/strokes_student", "name=arte_other"))
    return folder / "runs"


def checkpoint_of(runs: Path, name: str) -> Path:
    return sorted((runs / name / "checkpoints").glob("step_*"))[-1]


def task_set(runs: Path, name: str) -> list[Task]:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(runs.parent)
        return list(build_tasks(load("lbt.yaml").tasks[name]))


def drafts_of(runs: Path) -> list[Group]:
    return [stored.group for stored in read_stored(runs / "lbt/samples/drafts")]


@torch.no_grad()
def greedy(model: Any, tokenizer: Any, prompt: str) -> str:
    """Token by token without a cache, until the end token or eight tokens."""
    ids = tokenizer(prompt, add_special_tokens=False).input_ids
    written: list[int] = []
    while len(written) < 8 and tokenizer.eos_token_id not in written:
        logits = model(torch.tensor([[*ids, *written]]), use_cache=False).logits[0, -1]
        written.append(int(logits.argmax()))
    return tokenizer.decode([id for id in written if id != tokenizer.eos_token_id])


@pytest.mark.slow
def test_the_score_is_the_student_s_accuracy_behind_the_example(runs: Path) -> None:
    """Scores of the run against a plain decoding of the student's checkpoint."""
    folder = checkpoint_of(runs, "taught_student")
    model, tokenizer = load_causal_lm(folder, "float32", attention="eager").eval(), load_tokenizer(folder)
    exam = task_set(runs, "exam")
    seen = set()
    for row in read_rows(runs / "lbt/samples/drafts/rank0.jsonl")[:24]:
        own = [q for q in exam if q.category == row["category"]]
        marks = []
        for question in own:
            said = greedy(model, tokenizer, f"{row['prompt']}{row['text']}\n{question.prompt}")
            marks.append(float(said.rpartition("=")[2] == question.answer))
        assert row["parts"]["student_exam"] == fmean(marks), row["text"]
        assert row["value"] == row["parts"]["exact"] + fmean(marks)
        seen.add(fmean(marks))
    assert len(seen) > 1, "a score that is always the same would show nothing"


@pytest.mark.slow
def test_other_students_rank_other_drafts_first(runs: Path) -> None:
    """The student that reads digits and the one that reads strokes, on the same drafts: pairs of the same questions, in the
    notation of each."""
    exam, drafts = task_set(runs, "exam"), drafts_of(runs)
    decode = byte_tokenizer().decode
    chosen = {}
    for name in ("taught_student", "strokes_student"):
        reward, _ = reward_with(checkpoint_of(runs, name), exam)
        chosen[name] = {}
        for group, scores in zip(drafts, reward(drafts), strict=True):
            verdicts = [Verdict(value=score.value) for score in scores]
            scored = Group(task=group.task, rollouts=group.rollouts, verdicts=verdicts)
            for pair in best_worst_pairs(scored):
                assert pair.task_id == group.task.id and pair.prompt_ids == group.rollouts[0].prompt_ids
                chosen[name][pair.task_id] = decode(pair.chosen_ids)
    both = chosen["taught_student"].keys() & chosen["strokes_student"].keys()
    assert len(both) > 20
    assert fmean(chosen["taught_student"][id][0] == "+" for id in both) > 0.75
    assert fmean(chosen["strokes_student"][id][0] == "|" for id in both) > 0.75
    assert fmean(chosen["taught_student"][id] != chosen["strokes_student"][id] for id in both) > 0.75


@pytest.mark.slow
def test_no_exam_is_taken_twice(runs: Path, tmp_path: Path) -> None:
    exam, folder = task_set(runs, "exam"), checkpoint_of(runs, "taught_student")
    task = Task(id="t", prompt="c3?", answer="6", category="c")
    reward, engine = reward_with(folder, exam, scores=ExamScores(tmp_path))
    first = reward([group_of(task, "+3=6", "+1=4", "+3=6")])
    assert engine.asked == 2 * 2, "two different completions, two questions"
    assert [score.value for score in first[0]] == [1.0, 0.0, 1.0]
    assert reward([group_of(task, "+1=4", "+3=6")]) == [[first[0][1], first[0][0]]] and engine.asked == 4
    reward([group_of(task, "+2=5")])
    assert engine.asked == 6
    # a later process, whose file was cut in the middle of its last row
    path = tmp_path / "rank0.jsonl"
    rows = path.read_text().splitlines(keepends=True)
    assert len(rows) == 3 and json.loads(rows[0])["questions"] in (["exam/c6", "exam/c7"], ["exam/c7", "exam/c6"])
    path.write_text("".join(rows[:2]) + rows[2][:30])
    later, engine = reward_with(folder, exam, scores=ExamScores(tmp_path))
    assert later([group_of(task, "+3=6", "+1=4", "+3=6")]) == first and engine.asked == 0
    later([group_of(task, "+2=5")])
    assert engine.asked == 2
    assert [json.loads(row)["key"] for row in path.read_text().splitlines()] == [json.loads(row)["key"] for row in rows]
    # another student, another exam, another check: other exams
    for other_folder, other_exam, keys in (
        (checkpoint_of(runs, "strokes_student"), exam, {}),
        (folder, exam[1:], {"by": None}),
        (folder, exam, {"check": "exact"}),
    ):
        other, engine = reward_with(other_folder, other_exam, scores=ExamScores(tmp_path), **keys)
        other([group_of(task, "+3=6")])
        assert engine.asked > 0


@pytest.mark.slow
def test_answers_can_be_sampled(runs: Path) -> None:
    """The mean over all answers of all questions; drawn alike by two processes."""
    exam, folder = task_set(runs, "exam"), checkpoint_of(runs, "taught_student")
    task = Task(id="t", prompt="c3?", answer="6", category="c")
    found = []
    for _ in range(2):
        reward, engine = reward_with(folder, exam, num_samples=8, temperature=2.0)
        [[score]] = reward([group_of(task, "+3=6")])
        assert engine.asked == 2 * 8
        found.append(score.value)
    assert found[0] == found[1] and 0 < found[0] < 1 and (found[0] * 16).is_integer()


def test_a_student_that_ignores_its_context_gives_no_signal(tmp_path: Path) -> None:
    """A model without attention writes by its last token alone: every completion has the same score, and there are no pairs."""
    torch.manual_seed(3)
    tokenizer = byte_tokenizer()
    config = Qwen2Config(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=64, initializer_range=0.5,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_config(config)
    for layer in model.model.layers:
        layer.self_attn.o_proj.weight.data.zero_()
    model.lm_head.weight.data[128:].zero_()  # plain text, and no end token
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    said = greedy(model.eval(), tokenizer, "c7?")
    assert said == greedy(model, tokenizer, "another text?")
    (tmp_path / "marks.py").write_text("from rlcore import reward\n\n@reward\ndef same(completion, answer):\n    return completion == answer\n")
    exam = [Task(id=str(i), prompt=f"c{i}?", answer=said if i % 2 else "never") for i in range(4)]
    reward, engine = reward_with(tmp_path, exam, check=f"{tmp_path}/marks.py:same", by=None)
    group = group_of(Task(id="t", prompt="c9?", category="c"), "+3=2", "+1=0", "||=1", "")
    [scores] = reward([group])
    assert engine.asked == 16 and [score.value for score in scores] == [0.5] * 4
    verdicts = [Verdict(value=score.value) for score in scores]
    assert not list(best_worst_pairs(Group(task=group.task, rollouts=group.rollouts, verdicts=verdicts)))


@pytest.mark.slow
def test_an_example_that_is_too_long_has_no_score(runs: Path) -> None:
    reward, engine = reward_with(checkpoint_of(runs, "taught_student"), task_set(runs, "exam"))
    group = group_of(Task(id="t", prompt="c3?", category="c"), "+3=6", "+" * 40)
    assert [score.value for score in reward([group])[0]] == [1.0, None]
    assert engine.asked == 2


# Whole runs ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_score_chooses_answers_that_the_majority_does_not(runs: Path) -> None:
    """M1: the teacher is wrong more often than right, and its wrong answers teach nothing that is right."""
    before, after = RunFolder(runs / "lbt").evaluations()
    assert before["maj@8"] < 0.55
    assert before["vote_sum@8"] > before["maj@8"] + 0.25
    assert before["vote_max@8"] > before["maj@8"] + 0.25
    # M2: pairs by correctness and score
    assert after["accuracy"] > before["accuracy"] + 0.1
    assert after["reward/student_exam"] > before["reward/student_exam"] + 0.3


@pytest.mark.slow
def test_pairs_are_of_one_question_and_ranked_by_both_rewards(runs: Path) -> None:
    of_task = defaultdict(list)
    for row in read_rows(runs / "lbt/samples/drafts/rank0.jsonl"):
        of_task[row["task"]].append(row)
    pairs = read_rows(runs / "lbt/pairs/prefer.jsonl")
    assert len(pairs) > 30
    for pair in pairs:
        values = {row["text"]: row["value"] for row in of_task[pair["task"]]}
        assert values[pair["chosen"]] == max(values.values()) and values[pair["rejected"]] == min(values.values())
        assert all(row["prompt"] == pair["prompt"] for row in of_task[pair["task"]])


@pytest.mark.slow
def test_the_tailored_set_teaches_this_student_more_than_the_drafts(runs: Path) -> None:
    sets = {name: read_rows(runs / f"lbt/samples/{name}/rank0.jsonl") for name in ("drafts", "tailored")}
    assert len(sets["drafts"]) == len(sets["tailored"])
    [tailored] = RunFolder(runs / "arte_student").evaluations()
    [drafts] = RunFolder(runs / "arte_drafts").evaluations()
    [other] = RunFolder(runs / "arte_other").evaluations()
    assert tailored["accuracy"] > drafts["accuracy"] + 0.15
    assert tailored["accuracy"] > other["accuracy"] + 0.15, "the set is made for one student"


@pytest.mark.slow
def test_questions_for_scoring_training_and_testing_are_disjoint(runs: Path) -> None:
    sets = [{prompt_text(task.prompt) for task in task_set(runs, name)} for name in ("seeds", "exam", "test")]
    assert all(sets) and not (sets[0] & sets[1] or sets[0] & sets[2] or sets[1] & sets[2])
    asked = {question for row in read_rows(runs / "lbt/exams/rank0.jsonl") for question in row["questions"]}
    assert asked == {task.id for task in task_set(runs, "exam")}


STAGES = """
  - {kind: sft, tasks: demonstrations, steps: 4, batch_size: 16, optim: {lr: 1e-2, warmup_steps: 2}}
  - {kind: sample, name: drawn, tasks: demonstrations, limit: 8, num_samples: 2, rewards: &both [{use: length, max_tokens: 4, weight: 0},
     {use: student_exam, questions: eval_set, check: {use: length, max_tokens: 6}, num_questions: 3, max_tokens: 8}], sampling: {max_tokens: 12}}
  - {kind: rl, tasks: demonstrations, steps: 6, groups_per_step: 4, group_size: 4, rewards: *both, sampling: {max_tokens: 12},
     optim: {lr: 1e-2}}
run: {checkpoint_every: 2}
"""


def write(folder: Path) -> Path:
    folder.mkdir()
    path = folder / "tiny.yaml"
    path.write_text(TINY.split("stages:")[0] + "stages:" + STAGES + f"run.folder: {folder / 'runs'}\n")
    return path


def test_kill_and_resume_are_exact(tmp_path: Path) -> None:
    """The student is the model that the rl stage began with, also in the run that was resumed in its middle."""
    whole, killed = write(tmp_path / "whole"), write(tmp_path / "killed")
    finish(start("train", whole))
    kill_when(start("train", killed), (run_folder(killed) / "checkpoints/step_000008").exists)
    finish(start("train", killed, "--resume"))
    assert story(run_folder(killed)) == story(run_folder(whole))
    scores = []
    for recipe in (whole, killed):
        rows = [row for path in sorted((run_folder(recipe) / "exams").glob("*")) for row in read_rows(path)]
        assert len({row["key"] for row in rows}) == len(rows)
        scores.append({row["key"]: row["marks"] for row in rows})
    assert scores[0] == scores[1] and len({tuple(marks) for marks in scores[0].values()}) > 1
    # two processes, each with a student of its own, score as one does
    two = write(tmp_path / "two")
    finish(start("train", two, processes=2))
    of_one, of_two = ([r for r in read_rows(run_folder(recipe) / "metrics.jsonl") if r["stage"] == "rl"] for recipe in (whole, two))
    assert [row["reward/student_exam"] for row in of_two] == pytest.approx([row["reward/student_exam"] for row in of_one], abs=1e-6)


@pytest.mark.parametrize(
    ("reward", "sentence"),
    [
        ("{use: student_exam, questions: exams}", "the questions of student_exam are 'exams', but the recipe's task sets are"),
        ("{use: student_exam, questions: demonstrations, student: nowhere}", "neither policy nor a folder here nor a hub name"),
        ("{use: student_exam, questions: demonstrations, check: exacd}", "exacd"),
        ("{use: student_exam, questions: demonstrations, check: {after: x}}", "check of student_exam names no reward"),
        ("{use: student_exam, questions: demonstrations, num_questions: 0}", "num_questions"),
        ("{use: student_exam, questions: demonstrations, num_samples: 4}", "no effect at temperature 0"),
        ("{use: student_exam, questions: demonstrations, template: '{completion}'}", "no {question}"),
        ("{use: student_exam, questions: demonstrations, template: '{completion}{question}{x}'}", "its fields are"),
        ("{use: student_exam, questions: demonstrations, by: topic}", "the column 'topic'"),
        ("{use: student_exam, questions: eval_set}", "of eval_set, which a stage evaluates, are also in eval_set"),
        ("{use: student_exam}", "needs a value for questions"),
    ],
)
def test_what_cannot_work_is_refused(tmp_path: Path, reward: str, sentence: str) -> None:
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY)
    with pytest.raises(RlcoreError) as error:
        check(load(str(path), [f"stages.rl.rewards=[{{use: length, max_tokens: 4}}, {reward}]"]))
    assert sentence in str(error.value), error.value
