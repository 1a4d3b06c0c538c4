"""Steps cover an answer's tokens exactly, and end where their text ends."""

from __future__ import annotations

import random

import pytest
from tokenizers import Tokenizer

from rlcore.credit.split import SPLITTERS, by_text, split_steps, text_ends
from rlcore.errors import RecipeError
from rlcore.plugin import build
from rlcore.tokenizer import byte_tokenizer
from rlcore.types import Span
from tests.subwords import subword_tokenizer

TOKENIZER = byte_tokenizer()
EOS = TOKENIZER.eos_token_id


def decode(ids: list[int]) -> str:
    return TOKENIZER.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)


def encode(text: str) -> list[int]:
    return [*TOKENIZER(text, add_special_tokens=False).input_ids, EOS]


def steps(text: str, named: object) -> list[str]:
    """Texts of the steps of a text in bytes, with its end token."""
    ids = encode(text)
    spans = split_steps(ids, decode, build(named, SPLITTERS, what="split"))
    assert [position for span in spans for position in range(*span)] == list(range(len(ids)))
    return [decode(ids[span.start : span.end]) for span in spans]


@pytest.mark.parametrize(
    ("named", "text", "wanted"),
    [
        ("newline", "a=1\nb=2\n\nc=3\n", ["a=1\n", "b=2\n\n", "c=3\n"]),
        ("newline", "no end", ["no end"]),
        ("newline", "\nfirst\nlast", ["\n", "first\n", "last"]),
        (
            "sentence",
            "It is 3.5 m. So? Yes!\nDone.",
            ["It is 3.5 m.", " So?", " Yes!\n", "Done."],
        ),
        ("sentence", "第一步。第二步！完", ["第一步。", "第二步！", "完"]),
        ({"use": "delimiter", "at": ";"}, "1+2=3;3+4=7", ["1+2=3;", "3+4=7"]),
        ({"use": "delimiter", "at": "→"}, "é→🙂→ü", ["é→", "🙂→", "ü"]),
        (
            {"use": "regex", "at": r"Step \d+:"},
            "Step 1: a Step 2: b",
            ["Step 1: a", " Step 2: b"],
        ),
        (
            {"use": "regex", "at": r"Step \d+:"},
            "Plan.\nStep 1: a\nStep 2: b",
            ["Plan.\n", "Step 1: a\n", "Step 2: b"],
        ),
        ({"use": "regex", "at": r"\n\n|; "}, "a\n\nb; c", ["a\n\n", "b;", " c"]),
        ({"use": "delimiter", "at": "; "}, "x; y; z", ["x;", " y;", " z"]),
        (
            "newline",
            "- item\n  - nested\n\n    more",
            ["- item\n", "  - nested\n\n", "    more"],
        ),
        ("newline", "a  \n \n b", ["a  \n \n", " b"]),
        (
            "sentence",
            "1. Take it. Go.\n2. Stop! 3 are left.",
            ["1. Take it.", " Go.\n", "2. Stop!", " 3 are left."],
        ),
        (
            "sentence",
            "So $a. b$ holds. \\[ x = 1.\ny = 2. z \\]\nIt cost $5. He paid $3.",
            ["So $a. b$ holds.", " \\[ x = 1.\ny = 2. z \\]\n", "It cost $5.", " He paid $3."],
        ),
        ({"use": "tokens", "n": 3}, "abcdefg", ["abc", "def", "g"]),
    ],
)
def test_steps_end_where_their_text_ends(named: object, text: str, wanted: list[str]) -> None:
    assert steps(text, named) == wanted


@pytest.fixture(scope="module")
def subwords() -> Tokenizer:
    return subword_tokenizer([" ".join(SENTENCES), "\n".join(SENTENCES)])


SENTENCES = [
    "It is 4.",
    "We stop!",
    "Wait, no?",
    'He said "never."',
    "(So be it.)",
    "Then $x = 3.5$.",
    "The 2 apples cost $1.50.",
    "Naïve, isn't it?!",
    "Let f(x) = 2x + 1...",
]


@pytest.mark.parametrize("seed", range(30))
@pytest.mark.parametrize(("named", "gap"), [("sentence", " "), ("newline", "\n")])
def test_steps_of_subword_tokens_are_the_sentences_and_lines(
    subwords: Tokenizer, seed: int, named: str, gap: str
) -> None:
    random_ = random.Random(seed)
    written = random_.choices(SENTENCES, k=6)
    ids = subwords.encode(gap.join(written)).ids
    spans = split_steps(ids, subwords.decode, build(named, SPLITTERS, what="split"))
    assert [subwords.decode(ids[a:b]).strip() for a, b in spans] == written


def test_an_empty_answer_has_no_steps_and_a_lone_end_token_is_one() -> None:
    splitter = build("newline", SPLITTERS, what="split")
    assert split_steps([], decode, splitter) == []
    assert split_steps([EOS], decode, splitter) == [Span(0, 1)]


PIECES = ["1", "+2", ";", ";3", "=4;5;", "\n", "a\nb", "\n\n", "<e>"]


def pieces(ids: list[int]) -> str:
    return "".join(PIECES[id] for id in ids if PIECES[id] != "<e>")


def test_a_token_over_two_steps_belongs_to_the_one_it_begins_in() -> None:
    ids = [0, 1, 3, 4, 0, 8]  # 1 +2 ;3 =4;5; 1 <e>
    spans = split_steps(
        ids, pieces, build({"use": "delimiter", "at": ";"}, SPLITTERS, what="split")
    )
    assert [pieces(ids[a:b]) for a, b in spans] == ["1+2;3", "=4;5;", "1"]
    assert spans[-1] == Span(4, 6)


@pytest.mark.parametrize("seed", range(20))
def test_ends_of_tokens_agree_with_decoding_every_prefix(seed: int) -> None:
    rng = random.Random(seed)
    text = "".join(
        rng.choice(["a", "\n", ";", "é", "→", "🙂", " ", "\u0301"]) for _ in range(30)
    )
    ids = encode(text)
    wanted = [len(decode(ids[: k + 1]).rstrip("\ufffd")) for k in range(len(ids))]
    assert text_ends(ids, decode) == wanted
    for cut in range(len(text)):  # no step may end inside a character
        for span in by_text(lambda _, cut=cut: [cut])(ids, decode):
            assert "\ufffd" not in decode(ids[span.start : span.end])


def test_bytes_that_are_no_text_are_covered_too() -> None:
    ids = [0xE2, 0x28, 0x0A, 0xFF, 0x0A, 0x41, EOS]
    spans = split_steps(ids, decode, build("newline", SPLITTERS, what="split"))
    assert [position for span in spans for position in range(*span)] == list(
        range(len(ids))
    ) and len(spans) == 3


@pytest.mark.parametrize(
    "bad", [[(0, 2)], [(0, 2), (3, 5)], [(0, 0), (0, 5)], [(0, 3), (2, 5)], []]
)
def test_spans_that_do_not_cover_the_answer_are_refused(bad: list[tuple[int, int]]) -> None:
    with pytest.raises(RecipeError, match="follow each other from 0 to 5"):
        split_steps([1, 2, 3, 4, 5], pieces, lambda ids, decode: bad)


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ("newlin", "did you mean 'newline'"),
        ({"use": "delimiter"}, "needs a value for at"),
        ({"use": "delimiter", "at": ""}, "needs a text that ends a step"),
        ({"use": "regex", "at": "("}, "is not a regular expression"),
        ({"use": "tokens", "n": 0}, "at least 1"),
    ],
)
def test_bad_splitters_are_met_with_a_sentence(named: object, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        build(named, SPLITTERS, what="split")
