"""What an imitation stage changes in its demonstrations before it learns from them, afresh in each step."""
