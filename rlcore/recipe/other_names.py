"""Names that people write for keys which are called otherwise: those of version 1, and those of TRL."""

RENAMED = {
    "sampler": "engine",
    "gate": "filter",
    "refill": "resample",
    "skip": "prefilter",
    "rounds": "resample.max_gen_batches",
    "mix": "aggregate",
    "arm_weights": "category_weights",
    "answers": "num_samples",
    "preset": "use",
    "reward_deadline_s": "scoring.deadline_s",
    "reward_workers": "scoring.workers",
    "second_round": "follow_up",
    "kind": "use",
    "rex_d": "schedule: {use: rex, d: ...}",
    "decay_shape": "schedule: {use: wsd, decay_shape: ...}",
    "decay_share": "schedule: {use: wsd, decay_fraction: ...}",
    "min_lr_ratio": "schedule: {use: ..., min_lr_ratio: ...}",
}
"""Key of version 1 -> what takes its place."""

NAMES_IN_TRL = {
    "num_generations": "group_size",
    "num_iterations": "update_epochs",
    "steps_per_generation": "minibatches",
    "per_device_train_batch_size": "groups_per_step (tasks) or, for stages of pairs, batch_size",
    "gradient_accumulation_steps": "optim.micro_batch_tokens (each step is whole)",
    "max_completion_length": "sampling.max_tokens",
    "max_prompt_length": "engine.max_length with prompt.too_long",
    "max_steps": "steps",
    "learning_rate": "optim.lr",
    "lr_scheduler_type": "optim.schedule",
    "loss_type": "method, or objective alone",
    "beta": "objective.kl",
    "epsilon": "objective.clip_low and objective.clip_high",
    "epsilon_high": "objective.clip_high",
    "scale_rewards": "credit.baseline",
    "reward_funcs": "rewards",
    "reward_weights": "rewards (weight of each)",
    "vllm_importance_sampling_correction": "objective.correction",
    "use_vllm": "engine.use",
    "load_in_4bit": "model.quantize: nf4",
}
"""Argument of TRL's trainers -> the key, or what stands for it."""
