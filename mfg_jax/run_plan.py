"""Which steps of a run are reported, saved and evaluated."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class RunPlan:
    """A run's length, and how often what is done; all in optimizer steps, which are numbered from 1.

    Attributes:
        steps_per_epoch: steps of an epoch.
        total_steps: of the whole run; the last epoch may be cut short.
        log_every: steps between two lines of metrics.
        save_every: steps between two checkpoints.
        evaluate_every: steps between two evaluations.
    """

    steps_per_epoch: int
    total_steps: int
    log_every: int
    save_every: int
    evaluate_every: int

    def evaluates(self, step: int) -> bool:
        """Whether the state after this step is evaluated."""
        return step == self.total_steps or step % self.evaluate_every == 0

    def saves(self, step: int) -> bool:
        """Whether the state after this step is saved; what is evaluated always is, before."""
        return self.evaluates(step) or step % self.save_every == 0

    def ends_epoch(self, step: int) -> bool:
        """Whether this is the last step of an epoch, or of the run."""
        return step == self.total_steps or step % self.steps_per_epoch == 0

    def reports(self, step: int) -> bool:
        """Whether a line of metrics tells of the steps up to this one: an epoch's lines are of its steps alone."""
        return self.saves(step) or self.ends_epoch(step) or step % self.log_every == 0
