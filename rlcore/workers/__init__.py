"""Processes that run a user's code: rewards (`rlcore.scoring`) and environments (`rlcore.env`)."""
