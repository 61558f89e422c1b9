#!/usr/bin/env bash
# One training run on SLURM, one task a host or one task a GPU. It requeues itself when it is preempted, when its time
# runs out, and when a host dies, and continues from its newest checkpoint.
#
#   sbatch --nodes=2 --ntasks-per-node=4 --gpus-per-node=4 launch/slurm.sh --config=configs/vric.py
#
# Everything behind the script's name goes to mfg_jax.main. Options given to sbatch take precedence over those below.
# One task a host uses all of its GPUs; several tasks a host take one each (docs/cluster.md).
#SBATCH --job-name=mfg
#SBATCH --time=24:00:00
#SBATCH --output=slurm-%j.log
#SBATCH --open-mode=append
#SBATCH --requeue
# SIGTERM to the tasks two minutes before the time runs out: the run saves its step and exits with 75.
#SBATCH --signal=TERM@120
set -uo pipefail

# Python of the environment mfg_jax is installed in, the same path on all hosts.
PYTHON=${PYTHON:-.venv/bin/python}
# How often to start anew before a person should look: a run that fails at once must not do so for ever.
MAX_RESTARTS=${MAX_RESTARTS:-20}

# SLURM signals the tasks of a job when it signals this shell, which outlives them to see how they ended. It passes
# nothing on: a second SIGTERM would end the tasks at once.
trap : TERM
# A task that ends with an error ends the others (SLURM waits for them otherwise).
srun --kill-on-bad-exit=1 "$PYTHON" -m mfg_jax.main --distributed=on "$@" &
step=$!
wait "$step"; status=$?
while kill -0 "$step" 2>/dev/null; do  # it was a signal that ended the wait
  wait "$step"; status=$?
done

# 75: stopped in order, 69: another task was lost, 137 and 143: killed. Anything else is an error to look at, or success.
case $status in
  69 | 75 | 137 | 143)
    # A job that somebody cancels is no longer RUNNING, and stays cancelled.
    if [ "$(squeue --noheader --jobs="$SLURM_JOB_ID" --format=%T)" = RUNNING ] &&
      [ "${SLURM_RESTART_COUNT:-0}" -lt "$MAX_RESTARTS" ]; then
      echo "launch/slurm.sh: exit status $status; requeued to continue from the newest checkpoint."
      # Requeueing ends this script.
      scontrol requeue "$SLURM_JOB_ID"
      sleep 60
    fi
    echo "launch/slurm.sh: exit status $status after ${SLURM_RESTART_COUNT:-0} restarts." >&2
    ;;
esac
exit "$status"
