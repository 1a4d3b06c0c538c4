"""One run: its driver, folder, checkpoints, batches, metrics and tracking."""
