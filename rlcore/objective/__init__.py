"""What is optimised: an `Objective` is a sum of `Term`s, each made of five `parts`.

`presets` names the published objectives, `methods` the publications with their baseline and other
defaults. `kl` and `correction` hold what any objective can take besides.

This package needs no torch to import: recipes are checked on machines without it.
"""

from rlcore.objective.presets import PRESETS, objective
from rlcore.objective.term import Objective, Term
from rlcore.objective.tokens import Counts, Tokens

__all__ = ["PRESETS", "Counts", "Objective", "Term", "Tokens", "objective"]
