#!/usr/bin/env bash
# One training run on all hosts of a Cloud TPU, which JAX recognises by itself.
#
#   TPU=my-pod ZONE=us-central2-b launch/tpu.sh install
#   TPU=my-pod ZONE=us-central2-b launch/tpu.sh train --config=configs/vric.py --workdir=/mnt/shared/runs/vric
#
# install copies this folder to every host, as ~/mfg-jax, and makes the environment there. train runs mfg_jax.main with
# everything behind it. The work directory has to be one that all hosts share, such as a mounted Filestore.
set -euo pipefail
: "${TPU:?set TPU to the name of the TPU}" "${ZONE:?set ZONE to its zone}"
MAX_RESTARTS=${MAX_RESTARTS:-20}

on_all_hosts() {
  gcloud compute tpus tpu-vm ssh "$TPU" --zone="$ZONE" --worker=all --command="$1"
}

case ${1:-} in
  install)
    git archive --prefix=mfg-jax/ --output=/tmp/mfg-jax.tar HEAD
    gcloud compute tpus tpu-vm scp /tmp/mfg-jax.tar "$TPU:" --zone="$ZONE" --worker=all
    on_all_hosts 'tar xf mfg-jax.tar && cd mfg-jax && python3 -m venv .venv && .venv/bin/pip install -q ".[tpu]"'
    ;;
  train)
    shift
    command="cd mfg-jax && .venv/bin/python -m mfg_jax.main --distributed=on$(printf ' %q' "$@")"
    for ((restart = 0; ; restart++)); do
      status=0
      on_all_hosts "$command" || status=$?
      # 75: stopped in order (maintenance sends SIGTERM), 69: another process was lost. The same command goes on.
      if [[ $status != 69 && $status != 75 ]] || ((restart == MAX_RESTARTS)); then
        exit "$status"
      fi
      echo "launch/tpu.sh: exit status $status; starting again from the newest checkpoint." >&2
      sleep 10
    done
    ;;
  *)
    sed -n '2,10s/^# \{0,1\}//p' "$0"
    exit 2
    ;;
esac
