"""Every causal language model of transformers, tiny and from its config, through the whole loop.

`python -m tests.families` writes `docs/models.md`; `python -m tests.families llama qwen3_moe` shows
a few families and writes nothing.
"""
