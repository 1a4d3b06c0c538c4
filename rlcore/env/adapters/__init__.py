"""Other libraries' environments, and agent programs, one file each.

An adapter is a function marked with `@adapter` (`rlcore.env.forms`): it takes the recipe's parameters and returns what
an episode is made of. It runs in the workers, so what it imports need not be installed anywhere else.
"""
