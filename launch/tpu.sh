#!/usr/bin/env bash
# Trains on a Cloud TPU slice of one or more hosts, asked for as a queued resource:
#   ZONE=us-east5-a ACCELERATOR_TYPE=v6e-16 RUNTIME_VERSION=v2-alpha-tpuv6e BUCKET=my-bucket \
#     launch/tpu.sh train --config=configs/cifar10.py --workdir=/mnt/runs/teacher --config.model.dtype=bfloat16 \
#       --config.data.data_dir=/mnt/data --config.data.name=cifar:cifar-10-python.tar.gz
# makes the slice, installs on every host, runs on every host, follows the log and deletes the slice; a slice that is
# taken away is made again, and the run goes on. Each of these is a command too:
#   launch/tpu.sh create | install | start FLAGS | follow | stop | delete
# The hosts see gs://BUCKET/runs as /mnt/runs, and gs://BUCKET/data, which nothing is written to, as /mnt/data.
set -euo pipefail

TPU=${TPU:-moonshine}                  # name of the slice and of its queued resource
ZONE=${ZONE:-}                         # us-east5-a
ACCELERATOR_TYPE=${ACCELERATOR_TYPE:-} # v6e-16: 16 chips, on 4 hosts
RUNTIME_VERSION=${RUNTIME_VERSION:-}   # the software of the hosts that goes with the type: v2-alpha-tpuv6e
BUCKET=${BUCKET:-}                     # my-bucket, in the region of the zone
SPOT=${SPOT:-1}                        # 1 for a spot slice, cheaper, that may be taken away; 0 for one on demand
POLL_SECONDS=${POLL_SECONDS:-60}       # between questions for the slice's state

cd "$(dirname "$0")/.."
. launch/common.sh

queued() { # queued create|describe|delete FLAGS
  run gcloud compute tpus queued-resources "$1" "$TPU" --zone="$ZONE" "${@:2}"
}

on_hosts() { # on_hosts all|0 COMMAND OF tpu_host.sh
  run gcloud compute tpus tpu-vm ssh "$TPU" --zone="$ZONE" --worker="$1" \
    --command="moonshine/launch/tpu_host.sh $(printf '%q ' "${@:2}")"
}

# ACTIVE where the slice is there; nothing where no such resource is.
state() {
  if [ -n "${DRY_RUN:-}" ]; then echo ACTIVE; else queued describe --format='value(state.state)' 2> /dev/null || true; fi
}

request() {
  local spot=()
  if [ "$SPOT" = 1 ]; then spot=(--spot); fi
  # The bash of macOS takes an empty array for a variable that is not set.
  queued create --node-id="$TPU" --accelerator-type="$ACCELERATOR_TYPE" --runtime-version="$RUNTIME_VERSION" \
    ${spot[@]+"${spot[@]}"}
}

# Asks for the slice, unless it is there, and waits for it.
create() {
  require_variable ACCELERATOR_TYPE v6e-16
  require_variable RUNTIME_VERSION v2-alpha-tpuv6e
  if [ -n "${DRY_RUN:-}" ] || [ -z "$(state)" ]; then request; fi
  local now
  while now=$(state) && [ "$now" != ACTIVE ]; do
    case $now in
      FAILED) fail "queued resource $TPU has failed: see gcloud compute tpus queued-resources describe $TPU" ;;
      SUSPENDED) # taken away
        delete
        request
        ;;
    esac
    echo "queued resource $TPU: ${now:-not there yet}" >&2
    sleep "$POLL_SECONDS"
  done
}

# What git knows of this clone, as it is on disk, goes to every host. (Joined, since `train` looks at the status.)
install() {
  require_variable BUCKET my-bucket
  local archive=${TMPDIR:-/tmp}/moonshine.$$.tar.gz
  run sh -c "git ls-files -z | tar --null --files-from=- -czf $archive" &&
    run gcloud compute tpus tpu-vm scp "$archive" "$TPU:moonshine.tar.gz" --zone="$ZONE" --worker=all &&
    run rm "$archive" &&
    run gcloud compute tpus tpu-vm ssh "$TPU" --zone="$ZONE" --worker=all \
      --command='mkdir -p moonshine && tar -xzf moonshine.tar.gz -C moonshine' &&
    on_hosts all install "$BUCKET"
}

start() {
  on_hosts all start --distributed "$@"
}

# The log of the first host; the exit status is the run's there, or 255 where the connection was lost.
follow() {
  on_hosts 0 follow
}

stop() {
  on_hosts all stop
}

delete() {
  queued delete --force --quiet
}

# Does a step again as often as the connection is lost, while the slice is there.
reconnect() {
  local status
  while true; do
    status=0
    "$@" || status=$?
    if [ "$status" != 255 ] || [ "$(state)" != ACTIVE ]; then
      return "$status"
    fi
    echo "no connection to $TPU: $1 again" >&2
    sleep "$POLL_SECONDS"
  done
}

train() {
  local status
  while true; do
    create
    status=0
    { reconnect install && reconnect start "$@" && reconnect follow; } || status=$?
    if [ "$status" = "$DONE" ]; then
      delete
      return
    fi
    if [ "$(state)" = ACTIVE ]; then
      echo "error: ended with status $status; the slice is still there, and costs: launch/tpu.sh delete" >&2
      return "$status"
    fi
    echo "slice $TPU was taken away: asking for another" >&2
    delete || true # it may be gone already
  done
}

case ${1:-} in
  train | start) require_flags "${@:2}" ;;
esac
case ${1:-} in
  create | install | start | follow | stop | delete | train)
    require_tool gcloud https://cloud.google.com/sdk/docs/install
    require_variable ZONE us-east5-a
    "$@"
    ;;
  *) fail "launch/tpu.sh ${1:-}: expected train, create, install, start, follow, stop or delete" ;;
esac
