"""A model read from a folder or the hub, with every weight that its architecture has."""

from __future__ import annotations

import copy
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rlcore.errors import ModelError, first_line, not_loaded
from rlcore.gguf import is_gguf, model_from_gguf, source_of

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import GenerationConfig, PretrainedConfig, PreTrainedModel

_WIDENED = ("mxfp4",)
"""Kinds of quantised weights that transformers reads as bfloat16."""
_SHOWN = 3
"""Names of weights that an error lists."""


def first_existing(paths: Sequence[str]) -> str:
    """The first of several folders, GGUF files or hub names that can be had here. Raises `ModelError` if none can."""
    from huggingface_hub import hf_hub_download

    problems = []
    for path in paths:
        if Path(path).expanduser().exists():
            return str(Path(path).expanduser())
        try:
            if not is_gguf(path) and may_be_hub_name(path):
                hf_hub_download(path, "config.json")
                return path
            problems.append(f"{path!r} does not exist")
        except Exception as error:  # of the network, of the hub, of the name
            problems.append(f"{path!r} is no folder, and the hub gave {first_line(error)}")
    raise ModelError(f"none of the models in model.path can be had: {'; '.join(problems)}")


def load_config(path: str | Path) -> PretrainedConfig:
    """The config at a hub name or folder, or in a GGUF file. Raises `ModelError`."""
    from transformers import AutoConfig

    require_model(path)
    source = source_of(path) if is_gguf(path) else {"pretrained_model_name_or_path": path}
    try:
        with _quiet():
            return AutoConfig.from_pretrained(**source, trust_remote_code=False)
    except Exception as error:  # files of any content, and code that reads them
        what = "a model (is the file whole?)" if is_gguf(path) else "the config of a model"
        raise not_loaded(what, path, error) from error


def layer_configs(config: PretrainedConfig) -> list[PretrainedConfig]:
    """The text config of each layer: layers of some models, such as Gemma 4, have other heads than their neighbours."""
    if getattr(config, "is_heterogeneous", False):
        return list(config.per_layer_config)
    return [config] * config.num_hidden_layers


def kv_heads(layer: PretrainedConfig) -> int:
    """Key-value heads of a layer, by its config."""
    return getattr(layer, "num_key_value_heads", None) or layer.num_attention_heads


def head_size(layer: PretrainedConfig) -> int:
    """Numbers of one head of a layer, by its config."""
    return getattr(layer, "head_dim", None) or layer.hidden_size // layer.num_attention_heads


def load_generation_config(path: str | Path) -> GenerationConfig | None:
    """The generation config at a hub name or folder, None where there is none. Raises `ModelError`.

    One that cannot be read is an error here; transformers goes on without, and so without its end
    tokens.
    """
    from transformers import GenerationConfig

    if is_gguf(path):
        return None
    try:
        return GenerationConfig.from_pretrained(path)
    except Exception as error:
        if not (Path(path).expanduser() / "generation_config.json").exists():
            return None
        raise ModelError(
            f"cannot read generation_config.json of {str(path)!r}: {first_line(error).rstrip('.')}; "
            "correct the file or take it away"
        ) from error


def require_model(path: str | Path) -> None:
    """Raise `ModelError` unless the path is a folder with a config.json, a GGUF file, or may be a hub name."""
    here = Path(path).expanduser()
    if not str(path).strip():
        raise ModelError("the path of the model is empty: name a folder or a hub name")
    if here.is_dir():
        if not (here / "config.json").is_file():
            is_adapter = (here / "adapter_config.json").is_file()
            kind = "an adapter alone, without its model" if is_adapter else "no model"
            raise ModelError(f"the folder {str(path)!r} has no config.json: it holds {kind}")
    elif here.is_file():
        if not is_gguf(path):
            raise ModelError(
                f"{str(path)!r} is a file: name the folder of a model, or a .gguf file"
            )
    elif is_gguf(path) or not may_be_hub_name(str(path)):
        raise ModelError(f"there is no model at {str(path)!r}: the path does not exist")


def has_form_of_hub_name(path: str) -> bool:
    """Whether a text is written as the hub writes names of models: NAME or OWNER/NAME."""
    return re.fullmatch(r"(\w[\w.-]*/)?\w[\w.-]*", path) is not None


def may_be_hub_name(path: str) -> bool:
    """Whether a path that is not here may name a model on the hub: it has the form, and its OWNER is no folder here."""
    owner, separator, name = path.rpartition("/")
    in_folder = bool(separator) and Path(owner).is_dir()
    return not in_folder and has_form_of_hub_name(path)


def load_causal_lm(path: str | Path, dtype: str, *, attention: str) -> PreTrainedModel:
    """The language model at a hub name or folder, or in a GGUF file, in one data type, to be trained.

    attention: an implementation of transformers, "eager" or "sdpa".
    Raises `ModelError` as `load_model` does, and where the weights are quantised or of another model.
    """
    from rlcore.bfloat16 import speed_up_bfloat16

    if dtype == "bfloat16":
        speed_up_bfloat16()
    load_generation_config(path)
    if is_gguf(path):
        with _quiet():
            return model_from_gguf(path, dtype, attention=attention)
    _refuse_quantised(path, load_config(path))
    model, unread = _load(path, dtype, "CausalLM", attention)
    _look_at_unread(model, path, unread)
    return model


def load_model(
    path: str | Path,
    *,
    dtype: str = "auto",
    head: Literal["CausalLM", "SequenceClassification"] = "CausalLM",
) -> PreTrainedModel:
    """The model at a hub name or folder. dtype: "auto" is that of the files.

    No code of its author is run. Raises `ModelError` where the files cannot be read, hold more than
    tensors, lack a weight of the architecture (transformers would draw it at random), or have one
    of another shape.
    """
    return _load(path, dtype, head, None)[0]


def _load(
    path: str | Path, dtype: str, head: str, attention: str | None
) -> tuple[PreTrainedModel, list[str]]:
    """The model, and names of weights in its files that it does not have."""
    import transformers

    try:
        with _quiet():
            model, info = getattr(transformers, f"AutoModelFor{head}").from_pretrained(
                path,
                dtype=dtype,
                attn_implementation=attention,
                trust_remote_code=False,
                # of pickled files (.bin)
                weights_only=True,
                # told below, for all weights at once
                ignore_mismatched_sizes=True,
                output_loading_info=True,
            )
    except Exception as error:  # files of any content, and code that reads them
        raise not_loaded("a model", path, error) from error
    problem = _problem(info)
    if problem:
        raise ModelError(
            f"the files at {str(path)!r} do not hold the whole {type(model).__name__}: {problem}; "
            "copy the folder again, or name the model's own architecture in its config.json"
        )
    return model, sorted(info["unexpected_keys"])


def _refuse_quantised(path: str | Path, config: PretrainedConfig) -> None:
    """Raise `ModelError` for weights that are not numbers to be trained."""
    settings = config.to_dict().get("quantization_config")
    # Those of a GGUF file are widened when it is read.
    if settings is None or is_gguf(path):
        return
    method = dict(settings).get("quant_method", "of an unknown kind")
    if method not in _WIDENED:
        raise ModelError(
            f"the model at {str(path)!r} is quantised ({method}): neither gradient steps nor "
            "checkpoints can be made of such weights, so set model.path to the model in float32, "
            "bfloat16 or float16"
        )


def _look_at_unread(model: PreTrainedModel, path: str | Path, unread: Sequence[str]) -> None:
    """Weights in the files that nothing reads. Raises `ModelError` where the model is another one without them.

    That is so for those of a layer that the model has: scales of quantised weights, a bias that
    config.json leaves out. Whole parts (images, further heads) are only told.
    """
    modules = dict(model.named_modules())
    for name in unread:
        layer = modules.get(name.rpartition(".")[0])
        if layer is not None and list(layer.parameters(recurse=False)):
            raise ModelError(
                f"the files at {str(path)!r} hold {name}, which {type(model).__name__} with this "
                "config.json does not use, so it would compute something else: a quantised model "
                "has to be converted to float32, bfloat16 or float16, a bias named in config.json"
            )
    if unread:
        warnings.warn(
            f"the files at {str(path)!r} hold {len(unread)} weights that {type(model).__name__} does "
            f"not have, first {unread[0]}: they are not read, and checkpoints are without them",
            stacklevel=3,
        )


def _problem(info: dict) -> str:
    """What is wrong with the weights; "" if nothing is."""
    for name, stored, expected in sorted(info["mismatched_keys"]):
        shapes = f"{tuple(stored)} in the files and {tuple(expected)} in the model"
        return f"{name} has the shape {shapes}"
    missing = sorted(info["missing_keys"])
    if missing:
        names = ", ".join(missing[:_SHOWN])
        more = f" and {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else ""
        return f"they lack {names}{more}"
    return ""


@contextmanager
def _quiet() -> Iterator[None]:
    """transformers without progress bars and tables: what matters is raised as one sentence."""
    from transformers.utils import logging

    level = logging.get_verbosity()
    has_bar = logging.is_progress_bar_enabled()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if has_bar:
            logging.enable_progress_bar()


def is_converted(model: PreTrainedModel) -> bool:
    """Whether the model's parameters have other names or shapes than in its checkpoints.

    transformers fuses the experts of a mixture and renames the layers of some older architectures
    while it loads them.
    """
    from transformers.core_model_loading import revert_weight_conversion

    in_memory = {
        name: parameter.detach().to("meta") for name, parameter in model.named_parameters()
    }
    on_disk = revert_weight_conversion(model, dict(in_memory))
    shapes = [
        {name: tensor.shape for name, tensor in state.items()} for state in (in_memory, on_disk)
    ]
    return shapes[0] != shapes[1]


def as_in_memory(
    model: PreTrainedModel, weights: Iterable[tuple[str, Tensor]]
) -> Iterator[tuple[str, Tensor]]:
    """Weights under the names of a checkpoint -> under the names that `model` has them.

    For a converted model all of them are held at once, and once more while they are converted.
    Raises `ModelError` where some are missing or do not fit.
    """
    if not is_converted(model):
        yield from weights
        return
    loaded, info = _made_of(dict(weights), model)
    # Buffers are not trained, so they are not among the weights.
    info["missing_keys"] &= {name for name, _ in loaded.named_parameters()}
    problem = _problem(info)
    if problem:
        raise ModelError(f"weights for {type(model).__name__} are not complete: {problem}")
    yield from loaded.named_parameters()


def read_back(model: PreTrainedModel, weights: Mapping[str, Tensor]) -> str:
    """What would be wrong with `model` if these weights were its checkpoint; "" if nothing.

    Names and shapes count; the weights may be on the device "meta" and hold nothing.
    """
    _, info = _made_of(weights, model, device_map="meta")
    problem = _problem(info)
    unread = sorted(info["unexpected_keys"])
    if problem or not unread:
        return problem
    return f"nothing would read {unread[0]}"


def _made_of(
    weights: Mapping[str, Tensor], model: PreTrainedModel, **settings: Any
) -> tuple[PreTrainedModel, dict]:
    """A model like `model` that is read from weights under the names of a checkpoint, and how that went."""
    with _quiet():
        return type(model).from_pretrained(
            None,
            config=copy.deepcopy(model.config),
            state_dict=dict(weights),
            dtype=model.dtype,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            **settings,
        )
