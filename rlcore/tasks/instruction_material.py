"""What the prompts of `instructions` are made of: topics, words and numbers of the two splits."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Material:
    """What the prompts of one split are made of. The splits share no topic, phrase, word or number."""

    topics: Sequence[str]
    words: Sequence[str]
    """For "use these words", and the like."""
    frequent: Sequence[str]
    """Words that most texts have: for "do not use"."""
    letters: Sequence[str]
    """Letters that most texts have a few times."""
    openers: Sequence[str]
    """Words that a sentence may begin with."""
    endings: Sequence[str]
    word_ranges: Sequence[tuple[int, int]]
    counts: Sequence[int]


_TRAIN = Material(
    topics=(
        "the sea,a small dog,winter in the mountains,learning to cook,a train journey,city parks,the moon,an old library,"
        "riding a bicycle,coffee,a rainy day,music lessons,football,growing tomatoes,the desert,bridges,birthdays,"
        "the internet,paper,a lighthouse,cats,volcanoes,chess,bread,rivers,friendship,a camping trip,glass,horses,"
        "clouds,night trains,a school play,wooden toys,the first day of spring,maps,old photographs,tea,sailing,"
        "a broken clock,neighbours"
    ).split(","),
    words=(
        "bright,old,stone,river,happy,quiet,morning,simple,window,people,water,small,always,green,letter,summer,"
        "warm,friend,road,market,paper,light,evening,house,story,colour"
    ).split(","),
    frequent=("and", "with", "it", "as"),
    letters=("w", "y", "b"),
    openers=("Every", "Many", "Some", "Once", "There"),
    endings=("That is all.", "Hope this helps!", "Have a nice day.", "Any other questions?"),
    word_ranges=((18, 40), (20, 45), (24, 50)),
    counts=(2, 4),
)
_HELD_OUT = Material(
    topics=(
        "bees,a market square,painting a fence,robots,honey,the theatre,snow,whales,a garden pond,a village school,"
        "the city at night,an empty beach,baking a cake,a lost key,kites,owls,a long walk,a museum,ferries,apples"
    ).split(","),
    words="silver,garden,slowly,winter,door,music,hand,field,early,blue,voice,table".split(","),
    frequent=("is", "for"),
    letters=("g", "p"),
    openers=("When", "Few", "Our"),
    endings=("Now you know.", "See you tomorrow."),
    word_ranges=((19, 42), (22, 48)),
    counts=(3,),
)
MATERIAL = {"train": _TRAIN, "heldout": _HELD_OUT}


def topic_word(topic: str) -> str:
    """The topic's last word without the ending of a plural: "ferr" is in ferry and in ferries.

    Words of up to four letters stay as they are: "bee" is in "been" too.
    """
    word = topic.split()[-1]
    return re.sub("(ies|(?<=o)es|(?<!s)s)$", "", word) if len(word) > 4 else word
