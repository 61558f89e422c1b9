"""Which steps are reported, saved and evaluated."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from mfg_jax.run_plan import RunPlan

_every = st.integers(1, 12)


@given(st.integers(1, 9), st.integers(1, 60), _every, _every, st.integers(1, 4))
def test_what_has_to_come_before_something_does(per_epoch, total, log_every, save_every, evaluate_epochs):
    plan = RunPlan(per_epoch, total, log_every, save_every, per_epoch * evaluate_epochs)
    for step in range(1, total + 1):
        assert plan.saves(step) or not plan.evaluates(step)
        assert plan.reports(step) or not (plan.saves(step) or plan.ends_epoch(step))
        assert plan.ends_epoch(step) or not plan.evaluates(step)
    assert plan.evaluates(total)
    # No line of metrics is of steps of two epochs.
    reported = [0, *(step for step in range(1, total + 1) if plan.reports(step))]
    assert all(step // per_epoch == (last - 1) // per_epoch for step, last in itertools.pairwise(reported))
    assert max(last - step for step, last in itertools.pairwise(reported)) <= log_every
