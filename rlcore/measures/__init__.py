"""Numbers that papers report of evaluations: one file a measure, plain functions over counts and scores."""
