"""Checks and measurements that need an accelerator: `rlcore bench device`, or `python -m rlcore.bench.device`.

One file a section. Every section runs at toy size on a CPU too (`--tiny`), up to the calls that a CPU cannot make.
"""
