"""Raw text as tasks: what RL on pre-training data learns from.

read -> clean -> filters -> overlap -> segment -> prepare          once: documents on disk, with a
count of what was dropped targets, positions, spans                                          tasks
made from them when asked for"""
