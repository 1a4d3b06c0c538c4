"""Tokenizers by name, and the built-in byte-level tokenizer: it needs no download and loses no text.

Whatever reads a tokenizer reads it through `load_tokenizer`, so that all read a text as the same tokens.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast
from transformers.utils import cached_file

from rlcore.errors import ModelError, not_loaded
from rlcore.gguf import is_gguf, tokenizer_from_gguf

SPECIAL = ("<|pad|>", "<|bos|>", "<|eos|>", "<|system|>", "<|user|>", "<|assistant|>")
"""Ids 256, 257, ...; the last three open a chat message, `<|eos|>` closes the assistant's."""

_FEWEST_WORDS = 2
GENERIC = ("TokenizersBackend", "PreTrainedTokenizerFast")
"""Classes that hold nothing but tokenizer.json, as files name them."""

CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ '<|eos|>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def load_tokenizer(name: str | Path) -> PreTrainedTokenizerBase:
    """The tokenizer at a hub name or folder, in a GGUF file, or the built-in one for "bytes".

    Raises `ModelError`.
    """
    name = str(name)
    if name == "bytes":
        return byte_tokenizer()
    if is_gguf(name):
        return tokenizer_from_gguf(name)
    try:
        if _is_generic(name):
            tokenizer = PreTrainedTokenizerFast.from_pretrained(name)
        else:
            # Only where it is needed: it imports every architecture, which takes seconds.
            from transformers import AutoTokenizer

            tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
        words = tokenizer.get_vocab().keys() - tokenizer.get_added_vocab().keys()
    except Exception as error:  # files of any content, and code that reads them
        raise not_loaded("a tokenizer", name, error) from None
    # transformers makes an empty one of some classes where their files are missing
    if len(words) < _FEWEST_WORDS:
        raise ModelError(
            f"the tokenizer of {name!r} has no vocabulary: tokenizer.json, or the files it is made "
            "of, are missing; copy them from the model, or name another tokenizer in model.tokenizer"
        )
    return tokenizer


def text_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Tokens of a text alone, without special tokens around it: those of `tokenizer(text)`, which takes seven times as long."""
    kind = type(tokenizer)
    plain = (
        getattr(kind, "_encode_plus", None) is PreTrainedTokenizerFast._encode_plus
        and kind.__call__ is PreTrainedTokenizerFast.__call__
        and not tokenizer.split_special_tokens
    )
    if plain:
        fast = tokenizer.backend_tokenizer
        # A trainer of another library may have left a length or a padding in it, which a call resets.
        if fast.truncation is None and fast.padding is None:
            return fast.encode(text, add_special_tokens=False).ids
    return tokenizer(text, add_special_tokens=False).input_ids


def add_tokens(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> None:
    """Make each text one token. New ones follow the others in the order of the texts; one that is there keeps its id."""
    tokenizer.add_tokens([AddedToken(text, special=True, normalized=False) for text in texts])


def different_tokens(one: PreTrainedTokenizerBase, other: PreTrainedTokenizerBase) -> str:
    """How the token ids of two tokenizers differ, in words; empty where they are the same."""
    ours, theirs = one.get_vocab(), other.get_vocab()
    words = sorted(
        word for word in ours.keys() | theirs.keys() if ours.get(word) != theirs.get(word)
    )
    if not words:
        return ""
    word = words[0]
    count = f", and so are {len(words) - 1} more" if len(words) > 1 else ""
    return (
        f"{word!r} is token {ours.get(word)} of one and {theirs.get(word)} of the other{count}"
    )


def _is_generic(name: str) -> bool:
    """Whether its files say that tokenizer.json is all there is to a tokenizer.

    For some model types (qwen2) AutoTokenizer does not believe it, and puts that type's own
    normalizer and special tokens in: a resumed run would read its prompts in another way.
    """
    try:
        settings_file = cached_file(name, "tokenizer_config.json")
        settings = json.loads(Path(settings_file).read_text(encoding="utf-8"))
        generic = settings.get("tokenizer_class") in GENERIC
        return generic and cached_file(name, "tokenizer.json") is not None
    except (OSError, ValueError, AttributeError):  # absent, or not what it should be
        return False


def byte_tokenizer(max_length: int = 1_000_000) -> PreTrainedTokenizerFast:
    """A tokenizer whose ids 0..255 are the UTF-8 bytes of the text, followed by `SPECIAL`.

    `save_pretrained` writes a folder that `AutoTokenizer` and vLLM load.
    """
    vocabulary = {letter: byte for byte, letter in enumerate(_byte_letters())}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(
        add_prefix_space=False,
        use_regex=False,
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(SPECIAL))
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=SPECIAL[0],
        bos_token=SPECIAL[1],
        eos_token=SPECIAL[2],
        additional_special_tokens=list(SPECIAL[3:]),
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
        model_max_length=max_length,
        padding_side="left",
    )


def _byte_letters() -> list[str]:
    """The printable letter of each byte in GPT-2's byte-level scheme.

    Printable bytes stand for themselves, the others take code points from 256 on in order.
    """
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    letters = []
    next_code = 256
    for byte in range(256):
        if byte in printable:
            letters.append(chr(byte))
        else:
            letters.append(chr(next_code))
            next_code += 1
    return letters
