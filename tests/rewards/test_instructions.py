"""IFEval's 25 instructions, each followed and not followed, strict and loose; and the real prompts."""

from __future__ import annotations

import json
import os
import re
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rewards.instruction_rules import (
    RULES,
    bullet_count,
    count_sentences,
    has_title,
    placeholder_count,
)
from rewards.instructions import follows, instructions, loose_variants
from rlcore import RewardSpec, Task
from rlcore.scoring.scorer import Scorer

PROMPTS = (
    Path(os.environ.get("RLCORE_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))
    / "ifeval_prompts.part_a.jsonl"
)

AT_LEAST, LESS = "at least", "less than"
ENGLISH = "this is a letter to my friend about the weather in the mountains"
CASES = {
    "keywords:existence": (
        ({"keywords": ["apple", "Pear"]}, ["An APPLE and a pear.", "pineapple, pears"], ["An apple.", "pear", "appl pear"]),
        ({"keywords": ["c++ (new)"]}, ["I like C++ (new)."], ["I like C++."]),
    ),
    "keywords:frequency": (
        ({"keyword": "go", "frequency": 2, "relation": AT_LEAST}, ["go, GO", "gogo"], ["go", "stay"]),
        ({"keyword": "go", "frequency": 2, "relation": LESS}, ["go", "stay"], ["go Go", "go going gone"]),
    ),
    "keywords:forbidden_words": (
        ({"forbidden_words": ["cat", "Dog"]}, ["category dogma", "bird"], ["A cat.", "dog!", "hot-dog"]),
    ),
    "keywords:letter_frequency": (
        ({"letter": "e", "let_frequency": 3, "let_relation": AT_LEAST}, ["Even here"], ["Even", "odd"]),
        ({"letter": "E", "let_frequency": 3, "let_relation": LESS}, ["Even", "odd"], ["Even here"]),
        ({"letter": "!", "let_frequency": 1, "let_relation": AT_LEAST}, ["Hi!"], ["Hi."]),
    ),
    "language:response_language": (
        ({"language": "de"}, ["Das ist ein Brief an meinen Freund über das Wetter in den Bergen."], [ENGLISH, "123", "..."]),
        ({"language": "hi"}, ["यह मेरे मित्र के लिए एक पत्र है और मौसम अच्छा है।"], [ENGLISH]),
    ),
    "length_constraints:number_sentences": (
        ({"num_sentences": 2, "relation": AT_LEAST}, ["One. Two!", "Why? Because it is so. Yes."], ["One", "Dr. Who."]),
        ({"num_sentences": 2, "relation": LESS}, ["One, two and 3.5 of it.", "One"], ["One. Two."]),
    ),
    "length_constraints:number_words": (
        ({"num_words": 3, "relation": AT_LEAST}, ["one two three", "it's two"], ["one two", "one-two"]),
        ({"num_words": 3, "relation": LESS}, ["one two", "one, -- two!"], ["one two three"]),
    ),
    "length_constraints:number_paragraphs": (
        ({"num_paragraphs": 2}, ["One\n***\nTwo", "***\nOne *** Two\n***"], ["One\n\nTwo", "1\n***\n\n***\n2", "1***2***3"]),
    ),
    "length_constraints:nth_paragraph_first_word": (
        (
            {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "Well"},
            ["One.\n\nwell, two.", "One.\n\n\"WELL\" he said."],
            ["Well.\n\nTwo.", "One.\n\nWell.\n\nThree.", "One.\nWell.", "One.\n\nWellness", "One.\n\n\n\nWell"],
        ),
    ),
    "detectable_content:number_placeholders": (
        ({"num_placeholders": 2}, ["[name] of [city]", "[a][b][]"], ["[name]", "name, city", "[a\nb] [c]"]),
    ),
    "detectable_content:postscript": (
        ({"postscript_marker": "P.S."}, ["Bye.\nP.S. Write!", "bye p. s. x"], ["Bye.\nPS: write", "P.P. S"]),
        ({"postscript_marker": "P.P.S"}, ["Bye.\nP.P.S. Write!", "P. P. S"], ["P.S. Write"]),
        ({"postscript_marker": "Note:"}, ["Bye. note: x"], ["Bye. Note x"]),
    ),
    "detectable_format:number_bullet_lists": (
        ({"num_bullets": 2}, ["* one\n* two", "- one\n  * two", "Text\n- a\n- b\nmore"], ["* one", "* a\n* b\n* c", "1. a"]),
    ),
    "detectable_format:number_highlighted_sections": (
        ({"num_highlights": 2}, ["*one* and *two*", "**one** and *two*"], ["*one*", "one two", "* * and *one*", "*one\ntwo* *"]),
    ),
    "detectable_format:multiple_sections": (
        ({"section_spliter": "SECTION", "num_sections": 2}, ["SECTION 1\na\nSECTION 2\nb", "SECTION1 SECTION2 SECTION3"],
         ["SECTION 1\na", "section 1\nsection 2", "SECTION X\nSECTION Y"]),
    ),
    "detectable_format:constrained_response": (
        ({}, ["My answer is yes.", "Hm. My answer is maybe. Really."], ["My answer is yes", "Yes.", "my answer is no."]),
    ),
    "detectable_format:json_format": (
        ({}, ['{"a": [1, 2]}', '```json\n{"a": 1}\n```', "3"], ["{'a': 1}", "Here: {}", '{"a": 1} done', "[" * 99_999]),
    ),
    "detectable_format:title": (
        ({}, ["<<A day>>\nIt was.", "text <<x>> text"], ["<A day>", "<< >>", "<<A\nday>>", "A day"]),
    ),
    "combination:two_responses": (
        ({}, ["One\n******\nTwo", "******one******two******"], ["One", "a******a", "a******b******c", "a************b"]),
    ),
    "combination:repeat_prompt": (
        ({"prompt_to_repeat": "Say it twice. "}, ["say it twice. It.", "  Say it twice."], ["It. Say it twice.", "Say it"]),
    ),
    "startend:end_checker": (
        ({"end_phrase": "The End."}, ["So. the end.", 'So. "The End."\n'], ["The End. So.", "The End"]),
    ),
    "startend:quotation": (({}, ['"All of it."', ' "a" '], ['"', "'All of it.'", '"All" of it.', "“All of it.”"]),),
    "change_case:capital_word_frequency": (
        ({"capital_frequency": 2, "capital_relation": AT_LEAST}, ["HELLO you THERE", "I AM"], ["HELLO there", "Hello You", "42"]),
        ({"capital_frequency": 2, "capital_relation": LESS}, ["HELLO there", "WELL-KNOWN"], ["HELLO THERE"]),
    ),
    "change_case:english_capital": (
        ({}, [ENGLISH.upper() + ", 7!"], [ENGLISH, "DAS IST EIN BRIEF AN MEINEN FREUND ÜBER DAS WETTER", ENGLISH.title(), "123"]),
    ),
    "change_case:english_lowercase": (
        ({}, [ENGLISH], [ENGLISH.upper(), "das ist ein brief an meinen freund über das wetter", ENGLISH.capitalize()]),
    ),
    "punctuation:no_comma": (({}, ["One and two."], ["One, two.", ","]),),
}  # fmt: skip


def test_there_are_25_and_all_have_cases():
    assert len(RULES) == 25 and CASES.keys() == RULES.keys()


@pytest.mark.parametrize("name", CASES)
def test_each_instruction_strict_and_loose(name):
    for arguments, good, bad in CASES[name]:
        for text in good:
            assert follows(name, arguments, text), (arguments, text)
            assert score(text, name, arguments, mode="loose").value == 1.0, (
                "loose accepts what strict accepts"
            )
        for text in bad:
            assert not follows(name, arguments, text), (arguments, text)
            verdict = score(text, name, arguments)
            assert verdict.value == 0.0 and verdict.reason == f"not followed: {name}"
        for text in ("", "  \n"):
            assert (
                score(text, name, arguments).value
                == score(text, name, arguments, mode="loose").value
                == 0.0
            )


LOOSE = {  # answers that follow only in loose mode, and answers that do in neither
    "keywords:frequency": ("Sure, let us go:\ngo\nwe go", "go go go"),
    "keywords:forbidden_words": ("No cat here:\nbird", "bird\ncat\nbird"),
    "length_constraints:number_words": (
        "Here are two words:\none two",
        "Here they are:\none two three\nfour",
    ),
    "length_constraints:number_paragraphs": (
        "Sure!\n***\nOne\n***\nTwo",
        "Sure!\nOne\n***\nTwo\n***\nThree\nBye",
    ),
    "detectable_content:postscript": ("P.**S.** x", "PS x"),
    "detectable_format:number_bullet_lists": (
        "- Here you are\n- a\n- b",
        "- a\n- b\n- c\n- d\n- e",
    ),
    "detectable_format:json_format": (
        'Here is the JSON:\n```json\n{"a": 1}\n```',
        "Here:\nis\nno JSON",
    ),
    "combination:two_responses": ("a******\nOne\n******\nTwo", "One\n*****\nTwo"),
    "combination:repeat_prompt": (
        "Of course!\nSay it twice. It.",
        "Of course!\nWell.\nSay it twice.",
    ),
    "startend:end_checker": ("So.\nThe End.\nI hope you like it!", "So.\nThe End. Or?\nWell."),
    "startend:quotation": ('Here:\n"All of it."\nBye.', 'Here:\nAll of it.\n"Bye."\nBye.'),
    "change_case:english_lowercase": (
        f"Here you are:\n{ENGLISH}",
        f"here\nYou\nare:\n{ENGLISH}\nbye",
    ),
    "punctuation:no_comma": (
        "Sure, here it is:\nOne and two.\nYours, X",
        "One and\ntwo, three\nfour",
    ),
}
LOOSE_GIVEN = {"keywords:frequency": {"keyword": "go", "frequency": 3, "relation": LESS}}


@pytest.mark.parametrize("name", LOOSE)
def test_loose_mode_forgives_first_and_last_lines_and_asterisks(name):
    given = LOOSE_GIVEN.get(name) or next(
        (case[0] for case in CASES[name] if LESS in case[0].values()), CASES[name][0][0]
    )
    forgiven, wrong = LOOSE[name]
    assert score(forgiven, name, given).value == 0.0
    assert score(forgiven, name, given, mode="loose").value == 1.0
    assert score(wrong, name, given, mode="loose").value == 0.0


def test_the_eight_loose_texts():
    assert list(loose_variants("*a*\nb\nc")) == [
        "*a*\nb\nc",
        "a\nb\nc",
        "b\nc",
        "b\nc",
        "*a*\nb",
        "a\nb",
        "b",
        "b",
    ]


def score(text, *named, mode="strict", **more):
    names, given = list(named[::2]), list(named[1::2])
    return instructions(text, instruction_id_list=names, kwargs=given, mode=mode, **more)


TWO = (
    "punctuation:no_comma",
    {},
    "length_constraints:number_words",
    {"num_words": 3, "relation": AT_LEAST, "num_bullets": None},
)


@pytest.mark.parametrize(
    ("text", "values"),
    [("one two three", (1.0, 1.0)), ("one, two, three", (0.0, 0.5)), ("a, b", (0.0, 0.0))],
)
def test_several_instructions(text, values):
    assert (score(text, *TWO).value, score(text, *TWO, several="average").value) == values
    assert sum(score(text, *TWO).parts.values()) == 2 * values[1]


def test_the_same_instruction_twice_counts_twice():
    twice = (
        "keywords:existence",
        {"keywords": ["a"]},
        "keywords:existence",
        {"keywords": ["b"]},
    )
    verdict = score("a", *twice, several="average")
    assert verdict.value == 0.5 and verdict.parts == {
        "keywords:existence": 1.0,
        "keywords:existence/1": 0.0,
    }


def test_thinking_and_answer_tags_can_be_taken_away():
    text = "<think>well, well, well</think>\n<answer>one two three</answer>"
    assert score(text, *TWO).value == score(text, *TWO, strip_tags=True).value == 1.0
    tagged = "<think>one two three</think><answer>two words</answer>"
    assert score(tagged, *TWO).value == 1.0, "the names of the tags are words too"
    assert score(tagged, *TWO, strip_tags=True).value == 0.0
    for strip_tags in (False, True):
        verdict = score("<think>one two three</think>", *TWO, strip_tags=strip_tags)
        assert verdict.value == 0.0, "nothing was answered"


@pytest.mark.parametrize(
    ("named", "says"),
    [
        (("punctuation:no_colon", {}), "no rule for the instruction 'punctuation:no_colon'"),
        (
            ("keywords:frequency", {"keyword": "a", "frequency": None}),
            "lack frequency, relation",
        ),
        (("keywords:existence", None), "lack keywords"),
        ((), "0 instructions"),
        (
            ("length_constraints:number_words", {"num_words": 3, "relation": "exactly"}),
            "relation 'exactly'; IFEval knows 'at least' or 'less than'",
        ),
    ],
)
def test_what_cannot_be_checked_is_unscorable(named, says):
    verdict = score("text", *named)
    assert (verdict.value, verdict.status) == (None, "unscorable") and says in verdict.reason
    assert score("text", *TWO, *named).status == "unscorable" or not named


def test_numbers_that_a_table_made_floats():
    assert (
        score(
            "one two three",
            "length_constraints:number_words",
            {"num_words": 3.0, "relation": AT_LEAST},
        ).value
        == 1.0
    )


def test_a_wrong_option_says_so():
    with pytest.raises(ValueError, match="mode is strict or loose"):
        score("x", *TWO, mode="lose")


def test_without_langdetect_the_error_names_what_to_install(monkeypatch):
    from rewards import instruction_rules

    instruction_rules._detector.cache_clear()
    monkeypatch.setitem(sys.modules, "langdetect", None)
    with pytest.raises(ImportError, match=r"rlcore\[instructions\]"):
        score(ENGLISH, "language:response_language", {"language": "en"})
    assert score(ENGLISH, "punctuation:no_comma", {}).value == 1.0


def test_languages_are_told_the_same_each_time():
    short = "no sense at all"
    assert (
        len(
            {
                score(short, "language:response_language", {"language": "en"}).value
                for _ in range(20)
            }
        )
        == 1
    )


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("", 0),
        ("***", 1),
        ("No end", 1),
        ("One. Two! Three?", 3),
        ("Mr. Smith met Dr. J. R. Jones at 3.30 p.m. on Jan. 4.", 1),
        ('"Why?" he asked. "Because."', 3),
        ("Wait... what? Yes!!! (Really.)", 3),
        ("See www.example.org or v1.2.3 now.", 1),
        ("A title\n\nOne sentence\nover two lines.", 1),
        ("**Bold end.** Next.", 2),
        ("这是一句。这是第二句！", 2),
        ("यह एक है। यह दो है।", 2),
        ("It was I. You knew.", 2),
        ("we mix it! shall we wait? then we bake. iPods play.", 4),
        ("word\n\nword\n\nword", 1),
    ],
)
def test_sentences(text, count):
    assert count_sentences(text) == count


@pytest.mark.skipif(
    not PROMPTS.exists(), reason="the IFEval prompts are not here; set RLCORE_DATA"
)
def test_every_real_prompt_can_be_scored(rollout):
    rows = [json.loads(line) for line in PROMPTS.read_text(encoding="utf-8").splitlines()]
    keys = sorted({key for row in rows for given in row["kwargs"] for key in given})
    seen = {name for row in rows for name in row["instruction_id_list"]}
    assert len(rows) == 271 and seen == RULES.keys()
    answers = ["Yes.", "* a, b\n" * 4 + "P.S. <<x>>", "शुभ प्रभात", "\0"]
    items = []
    for row in rows:
        nulls = {
            **row,
            "kwargs": [dict.fromkeys(keys) | given for given in row["kwargs"]],
        }  # as a table of mixed rows gives them
        items += [
            (Task(id=str(row["key"]), prompt=row["prompt"], columns=columns), answers)
            for columns in (row, nulls)
        ]
    for params in (
        {"mode": "strict"},
        {"mode": "loose", "several": "average", "strip_tags": True},
    ):
        with Scorer(
            [RewardSpec("rewards.instructions:instructions", params=params)], workers=1
        ) as scorer:
            groups = scorer.score(
                [(task, [rollout(text) for text in texts]) for task, texts in items]
            )
        statuses = {verdict.status for verdicts in groups for verdict in verdicts}
        assert statuses == {"ok"}
        values = [[verdict.value for verdict in verdicts] for verdicts in groups]
        assert values[::2] == values[1::2], "nulls change nothing"
        assert 0.0 < sum(map(sum, values)) / sum(map(len, values)) < 1.0


IFEVAL_PATTERNS = {
    "detectable_content:number_placeholders": lambda text: len(re.findall(r"\[.*?\]", text)),
    "detectable_format:number_bullet_lists": lambda text: len(
        re.findall(r"^\s*\*[^\*].*$", text, flags=re.MULTILINE)
    )
    + len(re.findall(r"^\s*-.*$", text, flags=re.MULTILINE)),
    "detectable_format:title": lambda text: any(
        title.lstrip("<").rstrip(">").strip() for title in re.findall(r"<<[^\n]+>>", text)
    ),
}


@settings(max_examples=400, deadline=None, derandomize=True)
@given(st.text("[]<>*- \n\r\tab", max_size=30))
def test_patterns_count_as_those_of_ifeval(text):
    brackets, bullets, title = (pattern(text) for pattern in IFEVAL_PATTERNS.values())
    assert all(placeholder_count(text, n) == (brackets >= n) for n in range(4))
    assert bullet_count(text, bullets) and not bullet_count(text, bullets + 1)
    assert has_title(text) == title


LONG_TEXTS = {
    "brackets": "[" * 200_000,
    "pointed": "<" * 200_000,
    "stars": "*" * 200_000,
    "lines": "a" + "\n" * 200_000 + "b",
    "blank lines": "a" + " \n" * 100_000 + "b",
    "mixed": "a" + "[<*" * 60_000 + "b",
}


@pytest.mark.parametrize("name", LONG_TEXTS)
def test_no_text_keeps_a_pattern_busy(name):
    started = time.process_time()
    placeholder_count(LONG_TEXTS[name], 1)
    bullet_count(LONG_TEXTS[name], 1)
    has_title(LONG_TEXTS[name])
    RULES["detectable_format:number_highlighted_sections"](LONG_TEXTS[name], num_highlights=1)
    assert time.process_time() - started < 1.5


@pytest.mark.parametrize(
    ("rule", "arguments", "value"),
    [
        ("length_constraints:number_words", {"num_words": "3", "relation": "at least"}, 1.0),
        ("length_constraints:number_words", {"num_words": "4.0", "relation": "at least"}, 0.0),
        ("length_constraints:number_words", {"num_words": "many", "relation": "at least"}, None),
        ("length_constraints:number_words", {"num_words": 3.5, "relation": "at least"}, None),
        ("keywords:existence", {"keywords": ["two", "one"]}, 1.0),
        ("keywords:existence", {"keywords": "owt"}, None),
        ("keywords:existence", {"keywords": []}, None),
        ("keywords:forbidden_words", {"forbidden_words": "two"}, None),
        ("keywords:frequency", {"keyword": 3, "frequency": 1, "relation": "at least"}, None),
    ],
)
@pytest.mark.parametrize("spell", [lambda column: column, json.dumps])
def test_columns_as_lists_or_json(rule, arguments, value, spell):
    verdict = instructions("one two three", instruction_id_list=spell([rule]), kwargs=spell([arguments]))
    assert verdict.value == value and verdict.status == ("unscorable" if value is None else "ok")
