"""A search over keys of a recipe: what is varied, what is tried next, and the runs."""
