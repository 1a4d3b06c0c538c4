"""Ready environments: each file holds the tasks, the environment and the scripted policies of one.

    number_guessing   find a number by "lower" and "higher"
    calculator        sums that are too long to do without the calculator
    facts             questions that take one or more searches; blanks to fill in by search
    grid_world        walk to a goal that is only partly in sight
    masked_text       fill in entities masked in real text, with a search over the corpus

All are made on the spot from a seed. `policies` of each file are bounds for what a model reaches.
"""
