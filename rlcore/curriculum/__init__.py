"""Which tasks come next: task samplers, filters of groups, prefilters of tasks, length budgets."""
