"""Tools that come with rlcore, for `env.tools` in a recipe. `search` is in `rlcore.environments`."""
