from __future__ import annotations

import unicodedata

import pytest

from rewards.code import code_tests
from rewards.countdown import countdown
from rewards.instructions import instructions
from rewards.math import math_answer
from rewards.text import exact, match, recall, repetition, script, spans, tags


@pytest.mark.parametrize(
    ("completion", "answer", "settings", "value", "status"),
    [
        (" 26\n", "26", {}, 1.0, "ok"),
        ("26", 26, {}, 1.0, "ok"),
        ("26.0", "26", {}, 0.0, "ok"),
        ("7+15=22;22+4=26", "26", {"after": "="}, 1.0, "ok"),
        ("22+4=26;26-4=22", "26", {"after": "="}, 0.0, "ok"),
        ("26", "26", {"after": "="}, 0.0, "wrong-format"),
        ("26", "26", {"finished": False}, 0.0, "ok"),
        ("None", None, {}, None, "ok"),
        ("26", None, {}, None, "ok"),
        ("", "", {}, None, "ok"),
        ("<think>a</think>", " ", {}, None, "ok"),
        ("26", ["25", 26], {}, 1.0, "ok"),
        ("['25', '26']", ["25", "26"], {}, 0.0, "ok"),
        ("nan", float("nan"), {}, None, "ok"),
        ("<think>it is 26", "26", {"after": " "}, 0.0, "wrong-format"),
    ],
)
def test_exact(completion, answer, settings, value, status):
    result = exact(completion, answer, prompt="p", **settings)
    assert (getattr(result, "value", result), getattr(result, "status", "ok")) == (
        value,
        status,
    )


@pytest.mark.parametrize(
    ("completion", "answer", "settings", "value"),
    [
        ("the  Eiffel-tower!", "Eiffel Tower", {}, 1.0),
        ("An apple.", ["pear", "Apple"], {}, 1.0),
        ("\u00c9mile Zola", "\u00e9mile zola", {}, 1.0),
        ("Paris, France", "Paris", {}, 0.0),
        ("Paris, France", "Paris", {"contains": True}, 1.0),
        ("Parisian", "Paris", {"contains": True}, 0.0),
        ("", "Paris", {}, 0.0),
        ("the", "Paris", {"contains": True}, 0.0),
        ("Paris", "Paris", {"finished": False}, 0.0),
        ("Rome? <answer>Paris</answer>", "Paris", {"within": "answer"}, 1.0),
        ("<answer>Paris</answer>", "Paris", {"within": "answer", "finished": False}, 1.0),
        ("Paris", "Paris", {"within": "answer"}, 0.0),
        ("Paris", None, {}, None),
        ("Paris", "...", {}, None),
    ],
)
def test_match(completion, answer, settings, value):
    result = match(completion, answer, **settings)
    assert getattr(result, "value", result) == value


@pytest.mark.parametrize(
    ("completion", "value"),
    [
        ("<think>a\nb</think>\n<answer>4</answer>\n", 1.0),
        ("<think>a</think><answer>4</answer> and more", 0.0),
        ("well <think>a</think><answer>4</answer>", 0.0),
        ("<answer>4</answer><think>a</think>", 0.0),
        ("<think>a</think><answer>4</answer><answer>5</answer>", 0.0),
        ("<think>a<think>b</think></think><answer>4</answer>", 0.0),
        ("<think></think><answer>4</answer>", 0.0),
        ("<think>a</think><answer>4", 0.0),
        ("<think>" * 50_000, 0.0),
        ("", 0.0),
    ],
)
def test_tags(completion, value):
    assert tags(completion) == value


def test_tags_with_other_names():
    assert tags("<plan>x</plan><code>y</code>", names=["plan", "code"]) == 1.0
    assert tags("<think>a</think><answer>4</answer>", finished=False) == 0.0


@pytest.mark.parametrize(
    ("completion", "think", "final"),
    [
        ("so <think>a</think> then <answer>4</answer>.", 1, 1),
        ("<think>a</think><answer>4", 1, 0),
        ("<think>a<answer>4</answer>", 0, 1),
        ("<think>a</think><think>b</think><answer>4</answer>", 0, 1),
        ("<think>a</think><answer>4</answer><answer>5</answer>", 1, 0),
        ("<think> </think><answer>4</answer>", 0, 1),
        ("</think>a<think><answer>4</answer>", 0, 1),
        ("<think>a<answer>4</answer></think>", 0, 1),
        ("<think>a<answer>b</think>4</answer>", 0, 0),
        ("4", 0, 0),
    ],
)
def test_spans_lose_exactly_the_malformed_one(completion, think, final):
    verdict = spans(completion)
    assert (
        verdict.parts == {"think": think, "answer": final}
        and verdict.value == (think + final) / 2
    )


def test_repetition():
    assert (
        repetition("each word here is said once") == 0.0
        and repetition("two words") == 0.0
        and repetition("") == 0.0
    )
    assert repetition("loop " * 1002) == pytest.approx(1 / 1000 - 1)
    assert repetition("a b c a b c") == pytest.approx(3 / 4 - 1)  # abc bca cab abc
    assert (
        repetition("A b, c. a B c")
        == repetition("a b c a b c")
        != repetition("a b c a b c", n=1)
    )
    assert repetition("\u597d\u7684\u597d\u7684", n=2) == pytest.approx(2 / 3 - 1)
    with pytest.raises(ValueError, match="n is 0"):
        repetition("a", n=0)


def test_script():
    assert script("caf\u00e9, na\u00efve 42!") == 1.0
    assert script("\u0434\u0430 yes", names=["cyrillic"]) == pytest.approx(2 / 5)
    assert (
        script("\u56db\u3064", names=["cjk", "hiragana"]) == 1.0
        and script("\u56db\u3064", names=["cjk"]) == 0.5
    )
    assert script("\u7b54\u6848\u662f $x + y$, `code`, \\frac12, \\(z\\)", names=["cjk"]) == 1.0
    assert script("42 + 1") is None


def test_thoughts_are_no_part_of_the_answer():
    assert exact("<think>so 12</think>26", "26") == 1.0
    assert exact("<think>26</think>12", "26") == 0.0
    assert exact("1=2</think>7+15=22", "22", after="=") == 1.0
    assert match("<think>Cats.</think>The elephant", "elephant") == 1.0
    assert match("<think>an elephant</think>Cats.", "elephant", contains=True) == 0.0


ORNAMENTS = [
    "\u201c{}\u201d",
    "{}\u2026",
    "\xab{}\xbb",
    "\xbf{}?",
    "{}\u3002",
    "({}),",
    "**{}**",
    "`{}`",
    "the {}!",
]
NAMES = [
    "Paris",
    "caf\xe9",
    "stra\xdfe",
    "\u5317\u4eac",
    "isn't",
    "U.S.A.",
    "2,500",
    "-5",
    "C++",
    "50%",
    "A",
    "The",
]
WIDE = {ord(" ") + n: 0xFF00 + n for n in range(1, 95)}


@pytest.mark.parametrize("name", NAMES)
def test_match_reads_letters_not_their_spelling(name):
    for ornament in ORNAMENTS[:-1] if name in ("A", "The") else ORNAMENTS:
        assert match(ornament.format(name), name) == 1.0
    for form in ("NFC", "NFD", "NFKC", "NFKD"):
        assert match(unicodedata.normalize(form, name), name) == 1.0
    assert match(name.translate(WIDE), name) == match(name.upper(), name) == 1.0
    assert match(name.replace("'", "\u2019").replace("-", "\u2212"), name) == 1.0
    assert not any(match(name, other) for other in NAMES if other != name)


@pytest.mark.parametrize(
    ("one", "other"),
    [("-5", "5"), ("C++", "C"), ("C#", "C"), ("x > 5", "x < 5"), ("50%", "50"), ("1.5", "15"),
     (".5", "5"), ("1/2", "12"), ("3:30", "330"), ("1.5", "1 5"), ("A", "The")],
)  # fmt: skip
def test_match_keeps_signs_apart(one, other):
    assert match(one, other) == match(other, one) == 0.0 and match(one, one) == 1.0


def test_match_as_squad_deletes_within_words():
    same = [("USA", "U.S.A."), ("isnt", "isn\u2019t"), ("2500", "2,500"), ("x>5", "x > 5")]
    assert all(match(left, right) == match(right, left) == 1.0 for left, right in same)


def test_thoughts_without_an_end_are_no_answer():
    assert match("<think>Paris", "Paris", contains=True) == 0.0
    assert (
        math_answer("<think>I guess \\boxed{5} but let me check", "5").status == "wrong-format"
    )
    answered = countdown("<think><answer>(8-5)*3</answer>", numbers=[3, 5, 8], target=9)
    assert answered.status == "wrong-format"
    assert instructions("<think>so", instruction_id_list=["punctuation:no_comma"]).value == 0.0
    assert (
        code_tests("<think>```python\nf = abs\n```", test_list=["assert f(1) == 1"]).value
        == 0.0
    )


def test_an_unknown_writing_system_is_refused():
    with pytest.raises(ValueError, match="no writing system 'klingon'"):
        script("abc", names=["latin", "klingon"])


def test_recall_is_raised_by_listing_everything_and_the_penalised_form_is_not():
    answer = "John Aubrey; 1626"
    exact, everything = "john aubrey, 1626", "John Aubrey 1626 1700 Bonn Rome Paris Siena Pisa"
    assert recall(exact, answer) == recall(everything, answer) == 1.0
    assert recall(exact, answer, penalised=True) == 1.0
    assert recall(everything, answer, penalised=True) == pytest.approx(3 / 9)
    assert recall("1626 1626 1626", answer) == pytest.approx(1 / 3)  # said often is said once
    assert recall("1626", answer, penalised=True) == pytest.approx(1 / 3)
    assert recall("Bonn", ["Rome", "Bonn"]) == 1.0 and recall("", answer) == 0.0
    assert recall(exact, answer, finished=False) == 0.0
    assert recall("x", None) is recall("x", "") is None
    assert recall("<think>1626</think> Bonn", answer) == 0.0
