"""The critic of an rl stage: values for credit, and what it learns of each step."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from rlcore.credit.gae import length_adaptive, reward_samples, with_values
from rlcore.credit.whiten import whitened
from rlcore.learner.critic import Critic, load_critic, target
from rlcore.learner.sharding import device_to_load_on
from rlcore.learner.updates import run_updates
from rlcore.recipe.build_learner import starting_point
from rlcore.run import checkpoint
from rlcore.run.disk import remove
from rlcore.run.rollout_batch import RolloutBatch
from rlcore.run.seeds import derive
from rlcore.types import Group, Sample, StepReport

if TYPE_CHECKING:
    from rlcore.learner.policy import Policy
    from rlcore.run.session import Run
    from rlcore.stages.rl import RlStage


class StageCritic:
    """What an rl stage with `credit.baseline: critic` asks of its critic, in each step: `credit`, then `learn`.

    Every rank calls both with its own groups, possibly none.
    """

    def __init__(self, run: Run, stage: RlStage, *, seed: int) -> None:
        section = stage.critic
        updates = section.minibatches * section.update_epochs
        self._run = run
        self._section = section
        self._seed = seed
        self._critic = Critic(
            _starting_model(run, section.path),
            accelerator=run.accelerator,
            value_clip=section.value_clip,
            micro_batch_tokens=stage.optim.micro_batch_tokens,
            layout=stage.optim.layout,
            total_updates=stage.steps * updates,
            **section.optim.settings(),
        )
        self._targets: list[list[Sample]] = []
        gae = self._gae
        self.credit = whitened(gae, run.gather) if section.whiten else gae

    @property
    def pretrains(self) -> bool:
        """Whether the policy waits for the critic in this step."""
        return self._section.pretrains(self._run.cursor.stage_step)

    def learn(self, batch: RolloutBatch) -> dict[str, float]:
        """The critic's updates of a step, on the groups that `credit` was last given. Returns metrics."""
        section = self._section
        report = run_updates(
            self._critic.learner,
            batch.keyed(self._targets),
            minibatches=section.minibatches,
            update_epochs=section.update_epochs,
            by="sequence",
            # the values that `credit` had: the targets hold them
            old_logprobs="engine",
            seed=derive(self._seed, "critic", self._run.cursor.stage_step),
            gather=self._run.gather,
        )
        sums = self._run.gather([_sums(sample for group in self._targets for sample in group)])
        return critic_metrics(report, sums) | (
            {"critic/pretraining": 1} if self.pretrains else {}
        )

    def state_dict(self) -> dict[str, Any]:
        return self._critic.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._critic.load_state_dict(state)

    def _gae(self, groups: Sequence[Group]) -> list[list[Sample]]:
        """Samples with advantages; keeps what the critic is to learn."""
        section = self._section
        samples = reward_samples(groups)
        flat = iter(self._critic.values([sample for group in samples for sample in group]))
        values = [[next(flat) for _ in group] for group in samples]
        value_lambda = 1.0 if self.pretrains else section.value_lambda
        credited, returns = with_values(
            groups,
            samples,
            values,
            gamma=section.gamma,
            policy_lambda=self._policy_lambda,
            value_lambda=section.gae_lambda if value_lambda is None else value_lambda,
        )
        self._targets = []
        for of_group in zip(samples, values, returns, strict=True):
            self._targets.append(
                [target(*of_sample) for of_sample in zip(*of_group, strict=True)]
            )
        return credited

    def _policy_lambda(self, length: int) -> float:
        alpha = self._section.length_adaptive
        return self._section.gae_lambda if alpha is None else length_adaptive(alpha, length)


def _starting_model(run: Run, path: str | None) -> Policy:
    """The critic's model: of a path, or a copy of the policy that goes through the disk, whole and with adapters merged.

    Resumed runs do the same for its shape; its weights then come from the checkpoint. Collective.
    """
    recipe = run.recipe
    folder = run.folder.path / "critic_start"
    is_main = run.accelerator.is_main_process
    if path is None:
        checkpoint.save_reference(folder, save_model=run.policy.save, main=is_main)
    run.accelerator.wait_for_everyone()
    model = load_critic(
        folder if path is None else starting_point(path),
        run.policy.tokenizer,
        folder=run.folder.path / f"critic_start_{run.accelerator.process_index}",
        dtype=recipe.model.dtype,
        device=device_to_load_on(run.accelerator),
        gradient_checkpointing=recipe.model.gradient_checkpointing,
        compile=recipe.model.compile,
        max_length=recipe.engine.max_length,
    )
    run.accelerator.wait_for_everyone()
    if is_main:
        for left in run.folder.path.glob("critic_start*"):
            remove(left, inside=run.folder.path)
    return model


def _sums(targets: Iterable[Sample]) -> list[float]:
    """[5] over trained tokens: their number, and the sums of V, R, R^2, R - V and (R - V)^2 without the number."""
    count = 0
    totals = [0.0] * 5
    for sample in targets:
        rows = zip(sample.mask, sample.old_logprobs, sample.advantages, strict=True)
        for trained, value, earned in rows:
            if trained:
                count += 1
                error = earned - value
                for i, term in enumerate((value, earned, earned**2, error, error**2)):
                    totals[i] += term
    return [count, *totals]


def critic_metrics(report: StepReport, sums: Sequence[Sequence[float]]) -> dict[str, float]:
    """Metrics of a critic's step. sums: of all ranks.

    critic/explained_variance: 1 - Var(R - V) / Var(R), with the values before the updates; absent where all returns are equal.
    """
    count, value, earned, squares, error, error_squares = map(sum, zip(*sums, strict=True))
    metrics = {"critic/loss": report.loss, "critic/grad_norm": report.grad_norm}
    metrics |= {"critic/lr": report.lr, "critic/updates": report.updates}
    if count:
        metrics |= {"critic/value/mean": value / count, "critic/return/mean": earned / count}
        variance = squares / count - (earned / count) ** 2
        unexplained = error_squares / count - (error / count) ** 2
        if variance > 1e-12 * (1 + squares / count):
            metrics["critic/explained_variance"] = 1 - unexplained / variance
    return {key: item for key, item in metrics.items() if item is not None}
