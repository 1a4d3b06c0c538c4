"""Tools that read finished runs: credit view, curriculum replay, studies."""
