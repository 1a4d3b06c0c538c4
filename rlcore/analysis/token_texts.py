"""The text of each token of a completion, as a person reads it."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from rlcore.credit.split import text_ends
from rlcore.errors import ModelError
from rlcore.pretrained import first_existing
from rlcore.recipe.load import load
from rlcore.run.checkpoint import all_checkpoints
from rlcore.run.folder import RunFolder
from rlcore.tokenizer import load_tokenizer


def run_tokenizer(folder: RunFolder) -> PreTrainedTokenizerBase | None:
    """The tokenizer of a run: of its last checkpoint, or before there is one of its model; None where it cannot be loaded."""
    names: list[str | list[str]] = [
        str(path) for path in all_checkpoints(folder.checkpoints)[-1:]
    ]
    model = load(str(folder.recipe)).model
    names += [name for name in (model.tokenizer, model.path) if name]
    for name in names:
        try:
            return load_tokenizer(name if isinstance(name, str) else first_existing(name))
        except ModelError:
            continue
    return None


class TokenTexts:
    """Cuts the text of a completion into the pieces that its tokens wrote.

    Most tokens write the same text wherever they stand. Where the pieces do not add up to the
    text, as for a character of several tokens, the tokens are decoded one after the other, which
    takes about a hundred times as long.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._special = set(tokenizer.all_special_ids)
        self._alone: dict[int, str] = {}
        # Some decoders drop the space before the first token, so each is decoded behind another.
        self._before = tokenizer.encode("a", add_special_tokens=False)
        self._before_text = self._decode(self._before)

    def __call__(self, token_ids: Sequence[int]) -> list[str]:
        """Texts of the tokens, [L]; special tokens are shown by name."""
        ids = list(token_ids)
        text = self._decode(ids)
        pieces = [self._text_alone(token) for token in ids]
        joined = "".join(pieces)
        if joined == " " + text and pieces[0].startswith(" "):
            pieces[0] = pieces[0][1:]
        elif joined != text:
            ends = text_ends(ids, self._decode)
            pieces = [text[start:end] for start, end in zip([0, *ends], ends, strict=False)]
        return [
            str(self._tokenizer.convert_ids_to_tokens(token))
            if token in self._special
            else piece
            for token, piece in zip(ids, pieces, strict=True)
        ]

    def _text_alone(self, token: int) -> str:
        if token not in self._alone:
            text = self._decode([*self._before, token])
            self._alone[token] = text[len(self._before_text) :]
        return self._alone[token]

    def _decode(self, ids: list[int]) -> str:
        return self._tokenizer.decode(
            ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
