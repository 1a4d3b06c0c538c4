"""The keys of who answers: the model, the engine that serves it, and how a task becomes a prompt."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from rlcore.recipe.section import Amount, Count, PartSection, Seconds, Section


def may_be_model(path: str) -> bool:
    """Whether a file or folder of this name is here, or it has the form of a hub name, owner/name.

    `runs/name` has that form too, and may be of a run that comes first: that it is missing is said by the check of the
    recipe (`require_starting_point`), so that a recipe loads wherever it is read.
    """
    from rlcore.pretrained import has_form_of_hub_name

    here = path != "" and Path(path).expanduser().exists()
    return here or ("/" in path and has_form_of_hub_name(path))


class ModelSection(Section):
    path: str | list[str] | None = Field(
        None,
        description="model to start from: hub name, folder, .gguf file, or run folder (its last checkpoint); "
        "of a list the first that exists",
    )
    config: dict[str, Any] | None = Field(
        None, description="transformers config of a model made from scratch; needs model_type"
    )
    tokenizer: str | None = Field(
        None, description="hub name, folder, or 'bytes' (built in); default: the model's own"
    )
    control_tokens: list[str] = Field(
        default_factory=list,
        description="texts that become one token each, which prompts may hold and no engine samples: [<|good|>, <|bad|>]",
    )
    dtype: Literal["float32", "bfloat16"] = Field(
        "float32",
        description="precision of arithmetic and served weights; with bfloat16 float32 master weights are trained",
    )
    peft: dict[str, Any] | None = Field(
        None,
        description="train an adapter on the frozen model: {type: lora, r: 16, ...}, with any setting of peft's config",
    )
    quantize: Literal["nf4", "fp4"] | None = Field(
        None,
        description="store the frozen model below the adapter in 4 bits (QLoRA); needs bitsandbytes",
    )
    gradient_checkpointing: bool = Field(
        False, description="less memory for one more forward pass; changes no gradient"
    )
    compile: bool = Field(
        False, description="torch.compile the layers: a minute at the start, and on CPU no gain"
    )

    @model_validator(mode="after")
    def _one_source(self) -> ModelSection:
        if (self.path is None) == (self.config is None):
            raise ValueError(
                "give exactly one of path (a model to load) and config (a model from scratch); set an inherited one to null"
            )
        if self.config is not None and "model_type" not in self.config:
            raise ValueError("config needs model_type, for example qwen2")
        if self.config is not None and self.tokenizer is None:
            raise ValueError("a model from scratch needs a tokenizer; 'bytes' is built in")
        for text in self.control_tokens:
            if not text.strip() or self.control_tokens.count(text) > 1:
                raise ValueError(
                    f"control_tokens has {text!r}, which is blank or stands there twice"
                )
        if self.peft is not None and "type" not in self.peft:
            raise ValueError(
                "peft needs a type, for example {type: lora, r: 16, target_modules: all-linear}"
            )
        if self.quantize is not None and self.peft is None:
            raise ValueError(
                "quantize stores a frozen model in 4 bits, which gradient steps cannot change: add peft, "
                "for example {type: lora, r: 16, target_modules: all-linear}, or leave it out"
            )
        return self


NO_SLEEP = "what sleeps is one pool of memory in the process, the run's own engine's: leave out engine.sleep"
"""Of engines beside that of the run."""


class EngineSection(PartSection):
    """What the run itself reads of an engine; other keys are parameters of the engine's class."""

    renamed: ClassVar[Mapping[str, str]] = {"kind": "use"}

    use: str = Field(
        "vllm_local",
        description="what generates completions: vllm_local (vLLM in this process), "
        "vllm_server (servers that all processes share; docs/servers.md), "
        "hf (transformers), or file.py:Class",
    )
    max_length: Count = Field(2048, description="longest prompt + completion, in tokens")
    max_sequences: Count = Field(256, description="completions generated at the same time")
    deadline_s: Seconds = Field(
        600.0, description="longest wait for the completions of one step; stragglers are cut"
    )
    sync: Literal["merged", "adapter"] = Field(
        "merged",
        description="what vLLM is given after a step under model.peft: "
        "merged weights, or the LoRA adapter alone",
    )
    sync_tolerance: Amount | None = Field(
        None,
        description="largest mean gap of log-probabilities between engine and learner after a publish, in nats a "
        "token; default: 3 times what the learner's own arithmetic rounds, at least 1e-3",
    )

    @property
    def sleeps(self) -> bool:
        """Whether the engine gives its memory back while the learner works: `vllm_local`, or one of your own with that parameter."""
        return bool(self.parameters.get("sleep"))

    @property
    def differences(self) -> list[Mapping[str, Any]]:
        """Of `hf`: models whose differences are added to the policy's log-probabilities when it writes."""
        listed = self.parameters.get("differences", []) if self.use == "hf" else []
        return [one for one in listed if isinstance(one, Mapping)] if listed else []


class PromptSection(Section):
    format: Literal["plain", "chat"] = Field(
        "plain", description="prompt text as it is, or through the tokenizer's chat template"
    )
    system: str | None = Field(None, description="system message put before each chat prompt")
    too_long: Literal["error", "drop"] = Field(
        "error",
        description="rows whose prompt, with its demonstration, the model cannot read: "
        "an error before the run begins, or left out and counted",
    )
    hide: str | None = Field(
        None,
        description="regular expression (dot matches line breaks): what matches in a completion's text is taken out before "
        "rewards, evaluations and environments see it; its tokens stay in training",
    )
    template_arguments: dict[str, Any] = Field(
        default_factory=dict,
        description="variables of the chat template, for example {enable_thinking: false}",
    )

    @field_validator("hide")
    @classmethod
    def _can_be_read(cls, value: str | None) -> str | None:
        if value is None:
            return None
        try:
            matches_nothing = re.compile(value, re.DOTALL).fullmatch("")
        except re.error as error:
            raise ValueError(f"{value!r} is no regular expression: {error}") from None
        if matches_nothing:
            raise ValueError(f"{value!r} matches an empty text: name what is to be hidden")
        return value
