"""Everything rlcore raises on purpose. Each message is one sentence: what is wrong, where, and what to do.

    RlcoreError
    |-- RecipeError      the recipe, or a value given on the command line, cannot be used      (also a ValueError)
    |-- TaskError        task data: missing column, empty set, prompt longer than the model    (also a ValueError)
    |-- RewardError      a reward cannot be loaded, or never gives a score
    |-- EnvError         an environment or a tool cannot be loaded, or never ends an episode
    |-- ModelError       a model or tokenizer cannot be loaded, or does not fit the recipe
    |-- EngineError     an engine is absent, dead or late
    |   `-- PublishError    the engine does not serve the weights the learner published
    |-- LearnerError     the optimiser step has no meaning: nothing to learn from, or a loss that is not finite
    `-- RunError         the run folder or a checkpoint cannot be read or written

A failed answer is not an error: it is a `Verdict` with a status. The command line prints an RlcoreError's sentence and
exits with 2; anything else is a bug of ours and keeps its traceback.
"""

import pickle

MAX_SENTENCE = 1500
"""Characters of a message: what a recipe or a file holds may be of any length."""


class RlcoreError(Exception):
    """Base of all errors raised on purpose."""

    def __init__(self, message: str) -> None:
        if len(message) > MAX_SENTENCE:
            message = f"{message[:1000]} ... {message[-400:]}"
        super().__init__(message)


class RecipeError(RlcoreError, ValueError):
    """The recipe, or an override of it, cannot be used."""


class TaskError(RlcoreError, ValueError):
    """Task data cannot be used."""


class RewardError(RlcoreError):
    """A reward cannot be loaded or never scores."""


class EnvError(RlcoreError):
    """An environment cannot be loaded or never ends an episode."""


class ModelError(RlcoreError):
    """A model or tokenizer cannot be loaded or does not fit."""


class EngineError(RlcoreError):
    """An engine is absent, dead or late."""


class PublishError(EngineError):
    """The engine does not serve the weights that were published."""


class LearnerError(RlcoreError):
    """An optimiser step has no meaning."""


class RunError(RlcoreError):
    """A run folder or checkpoint cannot be read or written."""


def not_loaded(what: str, path: object, error: Exception) -> ModelError:
    """The sentence for files of a model that a library does not read."""
    where = f"cannot load {what} from {str(path)!r}"
    if isinstance(error, pickle.UnpicklingError):
        return ModelError(
            f"{where}: a pickled file (.bin) there is damaged or holds more than tensors, which might run "
            "code; use a copy with .safetensors files"
        )
    if "custom code" in str(error):
        return ModelError(
            f"{where}: it needs Python code of its author, which rlcore does not run; use a model whose "
            "architecture and tokenizer transformers has"
        )
    return ModelError(f"{where}: {first_line(error)}")


def brief(value: object) -> str:
    """A value in at most about 60 characters of ASCII, for a message."""
    if isinstance(value, int) and value.bit_length() > 200:
        return f"about 2**{value.bit_length() - 1}"
    try:
        text = ascii(value)
    except (RecursionError, ValueError):
        return f"a {type(value).__name__}"
    return text if len(text) <= 60 else text[:57] + "..."


def first_line(error: BaseException) -> str:
    """What a library's exception says, as part of a sentence of ours: its first line, or its type where it says nothing.

    A first line that only announces the second, with a colon, comes with it.
    """
    lines = [line.strip() for line in str(error).strip().split("\n")]
    line = " ".join(lines[:2]) if lines[0].endswith(":") else lines[0]
    return (line or type(error).__name__)[:200]
