"""The learner: samples in, optimiser updates, a `StepReport` out. Import from its modules: `policy`, `update`, `updates`, `pack`."""
