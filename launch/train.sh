#!/usr/bin/env bash
# Trains on this machine, on all its GPUs or TPU chips: installs if needed, runs, and starts again a run that stopped.
#   launch/train.sh --config=configs/cifar10.py --workdir=runs/teacher --config.model.dtype=bfloat16
# The flags are those of `python -m moonshine_jax.main`. A run that exits with "resume me" is started again at once; one
# that fails, MAX_FAILURES times; a mistake in the flags, never. SIGTERM and SIGINT are passed on, and the run's status
# then is this script's.
set -euo pipefail

EXTRAS=${EXTRAS-auto}              # what launch/setup.sh installs beside the package; auto: cuda or tpu, as found here
MAX_FAILURES=${MAX_FAILURES:-3}    # runs in a row that may fail
RETRY_SECONDS=${RETRY_SECONDS:-10} # before a failed run is started again

cd "$(dirname "$0")/.."
. launch/common.sh
[[ $MAX_FAILURES =~ ^[1-9][0-9]{0,8}$ ]] || fail "MAX_FAILURES=$MAX_FAILURES: expected an integer of at least 1"
[[ $RETRY_SECONDS =~ ^[0-9]{1,9}$ ]] || fail "RETRY_SECONDS=$RETRY_SECONDS: expected an integer of at least 0"

if [ "$EXTRAS" = auto ]; then
  EXTRAS=
  if command -v nvidia-smi > /dev/null; then EXTRAS=cuda; fi
  if [ -e /dev/accel0 ] || [ -e /dev/vfio/0 ]; then EXTRAS=tpu; fi
fi
# pip records the package last, so that an installation that was cut short is made again.
.venv/bin/python -m pip show --quiet moonshine-jax 2> /dev/null || run launch/setup.sh "$EXTRAS"

command=(.venv/bin/python -m moonshine_jax.main "$@")
if [ -n "${DRY_RUN:-}" ]; then
  run "${command[@]}"
  exit
fi

asked_to_stop=
interrupted=
child=
# shellcheck disable=SC2329  # the trap calls it
forward() {
  asked_to_stop=yes
  interrupted=yes
  if [ -n "$child" ]; then kill -TERM "$child" 2> /dev/null || true; fi
}
trap forward TERM INT HUP

# A process group of its own keeps a Ctrl-C from the run, which would take it and what is passed on for two signals.
set -m
failures=0
while [ -z "$asked_to_stop" ]; do
  "${command[@]}" &
  child=$!
  until
    interrupted=
    status=0
    wait "$child" || status=$?  # of the run, unless a signal ended the wait
    [ -z "$interrupted" ]
  do :; done
  child=
  case $status in
    "$DONE" | "$MISTAKE") exit "$status" ;;
    "$RESUME_ME") failures=0 ;;
    *)
      failures=$((failures + 1))
      echo "the run failed with status $status ($failures of $MAX_FAILURES times in a row)" >&2
      if [ -n "$asked_to_stop" ] || [ "$failures" -ge "$MAX_FAILURES" ]; then exit "$status"; fi
      sleep "$RETRY_SECONDS"
      ;;
  esac
done
exit "${status:-$RESUME_ME}"
