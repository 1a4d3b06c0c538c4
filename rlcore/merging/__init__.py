"""Merging models: the weights of several, tensor by tensor, as those of one."""
