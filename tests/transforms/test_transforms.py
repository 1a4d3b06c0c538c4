"""Each transform on single demonstrations: what the model reads, what it predicts, and what is trained."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from rlcore.credit.demonstrations import demonstration_sample, trained_whole
from rlcore.errors import RecipeError, TaskError
from rlcore.learner.pack import pack
from rlcore.tokenizer import load_tokenizer
from rlcore.transforms.transform import Draw, Transforms
from rlcore.types import Sample, Task

TOKENIZER = load_tokenizer("bytes")
PROMPT = "What is 1+2?"
COLUMNS = {"url": "en.wikipedia.org", "score": 0.5, "draft": "the sum is 4", "thought": "Add one to two."}


def task(number: int = 0, **columns: object) -> Task:
    return Task(id=f"t{number}", prompt=PROMPT, demonstration="the sum is 3", columns={**COLUMNS, **columns})


def encode(task: Task, *, whole: bool = False) -> Sample:
    prompt, completion = TOKENIZER(task.prompt).input_ids, TOKENIZER(task.demonstration).input_ids
    sample = demonstration_sample(task.id, prompt, [*completion, TOKENIZER.eos_token_id])
    return trained_whole(sample) if whole else sample


def draw(step: int = 0, steps: int = 100, number: int = 0, seed: int = 0, **columns: object) -> Draw:
    one = task(number, **columns)
    return Draw(task=one, step=step, steps=steps, seed=f"{seed}/{step}/{number}", tokenizer=TOKENIZER)


def apply(named: object, at: Draw | None = None, *, whole: bool = False) -> Sample | None:
    return Transforms(named).apply(at or draw(), encode, trained_whole if whole else None)


START = len(TOKENIZER(PROMPT).input_ids)


# Masked Thought ------------------------------------------------------------------------------


def masked(step: int, number: int = 0, seed: int = 0, whole: bool = False, **parameters: object) -> Sample:
    named = {"use": "masked_thought", **parameters}
    return apply(named, draw(step, number=number, seed=seed), whole=whole)


@pytest.mark.parametrize("whole", [False, True])
def test_masks_hide_tokens_of_the_completion_and_leave_what_is_predicted(whole: bool) -> None:
    plain = encode(task(), whole=whole)
    sample = masked(99, p=1.0, whole=whole)
    assert sample.token_ids == plain.token_ids and sample.mask == plain.mask
    assert sample.input_ids[:START] == plain.token_ids[:START], "the question is read as it is"
    assert set(sample.input_ids[START:]) == {TOKENIZER.pad_token_id}
    assert TOKENIZER.pad_token_id not in sample.token_ids


def test_the_masked_share_is_p_and_follows_the_ramp() -> None:
    for step, expected in ((0, 0.0), (20, 0.12), (33, 0.198), (50, 0.3), (67, 0.4), (99, 0.4)):
        hidden, count = 0, 0
        for number in range(400):
            sample = masked(step, number)
            hidden += sum(a != b for a, b in zip(sample.context_ids, sample.token_ids, strict=True))
            count += sum(sample.mask)
        error = 4 * (expected * (1 - expected) / count) ** 0.5
        assert abs(hidden / count - expected) <= error, f"step {step}: {hidden / count}"


def test_masks_differ_between_steps_and_tasks_and_repeat_for_a_seed() -> None:
    assert masked(80).input_ids == masked(80).input_ids
    others = [masked(80), masked(81), masked(80, 1), masked(80, seed=1)]
    assert len({tuple(sample.input_ids) for sample in others}) == 4


def test_what_the_model_reads_and_predicts_in_a_micro_batch() -> None:
    sample = replace(encode(task()), input_ids=[7] * len(encode(task()).token_ids))
    [batch] = pack([sample], max_tokens=99)
    assert batch.token_ids.tolist() == [7] * (len(sample.token_ids) - 1)
    assert batch.target.tolist() == sample.token_ids[START:]
    with pytest.raises(ValueError, match="input_ids has 2"):
        replace(sample, input_ids=[1, 2])


# what stands before and behind ---------------------------------------------------------------


@pytest.mark.parametrize("whole", [False, True])
def test_metadata_is_read_and_not_trained(whole: bool) -> None:
    sample, plain = apply("metadata", whole=whole), encode(task(), whole=whole)
    prefix = TOKENIZER("URL: en.wikipedia.org\n\n").input_ids
    assert sample.token_ids == prefix + plain.token_ids
    assert sample.mask == [False] * len(prefix) + plain.mask
    assert sample.advantages == [0.0] * len(prefix) + plain.advantages


def test_metadata_stands_behind_a_beginning_of_sequence_token() -> None:
    tokenizer = load_tokenizer("bytes")
    tokenizer.bos_token = "W"
    assert tokenizer.bos_token_id == encode(task()).token_ids[0]
    sample = apply({"use": "metadata", "text": "{url}"}, replace(draw(), tokenizer=tokenizer))
    assert TOKENIZER.decode(sample.token_ids).startswith("Wen.wikipedia.orghat is")


def test_the_cooldown_is_plain_data_over_the_last_tenth() -> None:
    lengths = [len(apply("metadata", draw(step, 40)).token_ids) for step in range(40)]
    plain = encode(task())
    assert lengths[:36] == [len(plain.token_ids) + 23] * 36
    assert lengths[36:] == [len(plain.token_ids)] * 4
    assert apply("metadata", draw(36, 40)) == plain


def test_a_thought_follows_the_document_and_is_trained() -> None:
    sample = apply("thought")
    text = "the sum is 3\n\nAdd one to two."
    assert TOKENIZER.decode(sample.token_ids[START:-1]) == text
    assert sample.mask == [False] * START + [True] * (len(text) + 1)


# scores --------------------------------------------------------------------------------------


def control(at: Draw, **parameters: object) -> str:
    sample = apply({"use": "conditional", "threshold": 0.0, "drop": 0.0, **parameters}, at)
    start = sample.mask.index(True)
    assert sample.token_ids[start:] == encode(task()).token_ids[START:]
    return TOKENIZER.decode(sample.token_ids[START:start])


def test_a_threshold_at_a_percentile_labels_that_share() -> None:
    scores = np.random.default_rng(0).normal(size=1000)
    threshold = float(np.percentile(scores, 30))
    texts = [control(draw(number=i, score=float(s)), threshold=threshold) for i, s in enumerate(scores)]
    assert texts.count("<|misaligned|>") == 300 and texts.count("<|aligned|>") == 700


def test_the_share_without_control_text_is_as_set_and_drawn_anew() -> None:
    def bare(step: int = 0, seed: int = 0, drop: float = 0.05) -> list[int]:
        transforms = Transforms({"use": "conditional", "threshold": 0.0, "drop": drop})
        draws = [draw(step, number=number, seed=seed) for number in range(1000)]
        length = len(encode(task()).token_ids)
        return [i for i, at in enumerate(draws) if len(transforms.apply(at, encode).token_ids) == length]

    assert abs(len(bare()) - 50) < 4 * (1000 * 0.05 * 0.95) ** 0.5
    assert bare() == bare()
    assert len({tuple(bare()), tuple(bare(step=1)), tuple(bare(seed=1))}) == 3
    assert not bare(drop=0.0)


def test_filter_leaves_out_what_is_below() -> None:
    assert apply({"use": "filter", "threshold": 0.5}) == encode(task())
    assert apply({"use": "filter", "threshold": 0.51}) is None


@pytest.mark.parametrize(
    ("parameters", "advantage"),
    [({}, 0.5), ({"baseline": 2.0}, -1.5), ({"threshold": 0.5}, 1.0), ({"threshold": 0.6}, -1.0)],
)
def test_a_score_becomes_the_advantage(parameters: dict, advantage: float) -> None:
    sample = apply({"use": "score", **parameters})
    assert sample.advantages == [advantage if trained else 0.0 for trained in sample.mask]


@pytest.mark.parametrize(
    ("ease", "step", "weight"),
    [(0.2, 0, 0.2), (0.2, 10, 0.4), (0.2, 40, 1.0), (0.2, 90, 1.0), (0.0, 0, 0.0), (1.0, 0, 1.0), (1.0, 7, 1.0)],
)
def test_hard_ones_begin_light(ease: float, step: int, weight: float) -> None:
    """D + (i / m) (1 - D) with m = 40, worked out by hand; what is easy is trained plainly."""
    sample = apply({"use": "easy_first", "until": 40}, draw(step, ease=ease))
    assert sample == replace(encode(task(ease=ease)), weight=pytest.approx(weight))


@pytest.mark.parametrize("ease", [-0.1, 1.5])
def test_an_ease_beyond_its_range(ease: float) -> None:
    with pytest.raises(TaskError, match="needs 0 .hard. to 1 .easy."):
        apply({"use": "easy_first", "until": 40}, draw(ease=ease))


# drafts --------------------------------------------------------------------------------------


def test_own_tokens_swap_at_the_same_position_and_leave_what_is_predicted() -> None:
    named = {"use": "own_tokens", "rate": 1.0, "ramp": 0}
    sample, plain = apply(named), encode(task())
    assert sample.token_ids == plain.token_ids and sample.mask == plain.mask
    assert TOKENIZER.decode(sample.input_ids[START:-1]) == "the sum is 4"
    same = apply(named, draw(draft="the sum is 3"))
    assert same.input_ids == plain.token_ids
    longer = apply(named, draw(draft="the sum is 3, or perhaps it is 4"))
    assert len(longer.input_ids) == len(plain.token_ids)


def test_the_swap_rate_grows() -> None:
    for step, expected in ((0, 0.0), (50, 0.25), (99, 0.495)):
        swapped = 0
        for number in range(500):
            at = draw(step, number=number, draft="############")
            swapped += apply({"use": "own_tokens", "rate": 0.5}, at).context_ids.count(ord("#"))
        error = 4 * (expected * (1 - expected) / 6000) ** 0.5
        assert abs(swapped / 6000 - expected) <= error


def test_a_correction_is_trained_and_its_draft_is_not() -> None:
    sample = apply("correction")
    assert TOKENIZER.decode(sample.token_ids[:-1]) == f"{PROMPT}the sum is 4\n\nCorrected:\nthe sum is 3"
    trained = [id for id, on in zip(sample.token_ids, sample.mask, strict=True) if on]
    assert trained == encode(task()).token_ids[START:]


# signals --------------------------------------------------------------------------------------

ASKED = {"title": "{text}\n\nTitle:", "draft": "Guess what follows {text}"}


def test_a_signal_is_asked_for_and_its_text_alone_is_trained() -> None:
    named = {"use": "signals", "prompts": {"title": ASKED["title"]}}
    sample = apply(named, draw(title=" Adding "))
    start = sample.mask.index(True)
    assert TOKENIZER.decode(sample.token_ids[:start]) == "the sum is 3\n\nTitle:"
    assert TOKENIZER.decode(sample.token_ids[start:-1]) == "Adding" and all(sample.mask[start:])


def test_an_answer_never_occurs_in_its_prompt() -> None:
    """In any case of letters; a row with nothing else to ask is left out."""
    named = {"use": "signals", "prompts": ASKED}
    for title in ("The Sum", "title", "", None):
        samples = [apply(named, draw(step, title=title, draft="No. 4")) for step in range(20)]
        assert {TOKENIZER.decode(sample.token_ids[sample.mask.index(True) : -1]) for sample in samples} == {"No. 4"}
    assert apply(named, draw(title="sum", draft="3")) is None
    drawn = [apply(named, draw(step, title="Adding", draft="No. 4")).token_ids[-2] for step in range(200)]
    assert abs(drawn.count(ord("4")) - 100) < 4 * 50**0.5 and drawn[:9] != drawn[9:18]


# a transform names its columns ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("named", "read"),
    [
        ("metadata", ["url"]),
        ({"use": "metadata", "text": "{a} {b}"}, ["a", "b"]),
        ("thought", ["thought"]),
        ({"use": "score", "column": "s"}, ["s"]),
        ({"use": "markers", "columns": ["a"]}, ["a"]),
        ({"use": "signals", "prompts": {"a": "{text}"}}, ["a"]),
        ("feedback", ["passed", "feedback"]),
        ("masked_thought", []),
    ],
)
def test_columns_that_are_read_are_looked_for(named: object, read: list[str]) -> None:
    Transforms(named).check_columns(read)
    for missing in read:
        with pytest.raises(RecipeError, match=f"reads the column '{missing}'"):
            Transforms(named).check_columns([name for name in read if name != missing])


def test_a_transform_of_tasks_from_a_file_may_add_columns(tmp_path) -> None:
    path = tmp_path / "mine.py"
    path.write_text("def added(task, draw):\n    return task\n\ndef read(sample, draw, column: str = 'a'):\n    return sample\n")
    Transforms([f"{path}:added", "metadata"]).check_columns([])
    with pytest.raises(RecipeError, match="read reads the column 'a'"):
        Transforms([f"{path}:read", "metadata"]).check_columns(["url"])


# together ------------------------------------------------------------------------------------

NOTHING = [
    {"use": "masked_thought", "p": 0.0},
    {"use": "metadata", "cooldown": 1.0},
    {"use": "own_tokens", "rate": 0.0},
    {"use": "conditional", "threshold": 0.0, "drop": 1.0},
    {"use": "filter", "threshold": -1e9},
]


@pytest.mark.parametrize("named", [*NOTHING, NOTHING], ids=lambda named: "all" if named is NOTHING else named["use"])
def test_strength_zero_changes_nothing(named: object) -> None:
    assert apply(named, draw(99)) == encode(task())


def test_transforms_act_in_their_order_on_what_is_already_there() -> None:
    hidden = {"use": "masked_thought", "p": 1.0, "ramp": 0}
    sample = apply([{"use": "conditional", "threshold": 0.0, "drop": 0.0}, "metadata", "thought", hidden])
    read = TOKENIZER.decode([id for id in sample.input_ids if id != TOKENIZER.pad_token_id])
    assert read == f"URL: en.wikipedia.org\n\n{PROMPT}<|aligned|>"
    assert TOKENIZER.decode(sample.token_ids[sample.mask.index(True) : -1]).endswith("Add one to two.")
    after = apply([hidden, "metadata"])
    assert len(after.input_ids) == len(after.token_ids) and after.input_ids[:5] == after.token_ids[:5]


OWN = '''
def upper(task, draw, *, suffix: str = "!"):
    from dataclasses import replace
    return replace(task, demonstration=task.demonstration.upper() + suffix)

def wrong(sample, draw):
    return 3

def broken(sample, draw):
    return sample.tokens

def nameless(row, draw):
    return row
'''


def test_a_transform_of_a_file(tmp_path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(OWN)
    sample = apply({"use": f"{path}:upper", "suffix": "?"})
    assert TOKENIZER.decode(sample.token_ids[START:-1]) == "THE SUM IS 3?"
    for name, said in (
        ("wrong", "transform wrong must give a Sample or None, not a int"),
        ("broken", r"transform broken raised AttributeError: .*mine.py"),
        ("nameless", "is 'row': call it `task` or `sample`"),
    ):
        with pytest.raises(RecipeError, match=said):
            apply(f"{path}:{name}")


@pytest.mark.parametrize(
    ("named", "said"),
    [
        ({"use": "masked_thought", "p": 1.5}, "'p' must be less than or equal to 1"),
        ("mask_thought", "did you mean 'masked_thought'"),
        ("conditional", "needs a value for threshold"),
        ({"use": "masked_thought", "p": 1.0, "ramp": 0, "mask_token": "two"}, "'two' is 3 tokens of this tokenizer"),
        ({"use": "metadata", "text": "URL"}, "names no column"),
        ({"use": "metadata", "text": "{domain}"}, "nothing in the column 'domain'"),
        ({"use": "score", "column": "url"}, "holds 'en.wikipedia.org', where a transform needs a number"),
        ({"use": "score", "threshold": 1.0, "baseline": 1.0}, "baseline has no effect with a threshold"),
        ({"use": "conditional", "threshold": 1.0, "above": "a", "below": "a"}, "above and below are both 'a'"),
        ({"use": "correction", "column": "nothing"}, "nothing in the column 'nothing'"),
    ],
)
def test_what_a_transform_cannot_mean(named: object, said: str) -> None:
    with pytest.raises((RecipeError, TaskError)) as error:
        apply(named, draw(50))
    assert said in str(error.value)
