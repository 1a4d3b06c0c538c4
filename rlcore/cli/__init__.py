"""The `rlcore` command and its subcommands."""
