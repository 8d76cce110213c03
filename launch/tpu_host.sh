#!/usr/bin/env bash
# What launch/tpu.sh does on each host of a slice. Everything may be done twice.
#   launch/tpu_host.sh install BUCKET   mounts the bucket and installs the package
#   launch/tpu_host.sh start FLAGS      starts the run, unless it is running; it outlives the connection
#   launch/tpu_host.sh follow           shows its log until it ends, and ends with its exit status
#   launch/tpu_host.sh stop             asks it to save and end
set -euo pipefail

RUNS=${RUNS:-/mnt/runs} # gs://BUCKET/runs
DATA=${DATA:-/mnt/data} # gs://BUCKET/data, read-only: decoded images then go to the host's own disk

cd "$(dirname "$0")/.."
. launch/common.sh

# In the root of the clone: train.log, train.pid of what is running, train.status once it has ended.

install() {
  if ! command -v gcsfuse > /dev/null; then
    curl --fail --silent --show-error https://packages.cloud.google.com/apt/doc/apt-key.gpg |
      sudo tee /usr/share/keyrings/cloud.google.asc > /dev/null
    echo "deb [signed-by=/usr/share/keyrings/cloud.google.asc] https://packages.cloud.google.com/apt" \
      "gcsfuse-$(lsb_release --codename --short) main" | sudo tee /etc/apt/sources.list.d/gcsfuse.list > /dev/null
    sudo apt-get -o DPkg::Lock::Timeout=300 update --quiet
    sudo apt-get -o DPkg::Lock::Timeout=300 install --quiet --yes gcsfuse
  fi
  # Orbax renames the folder of a checkpoint once it is whole, which a bucket does object by object, up to a limit.
  mount_folder runs "$RUNS" --rename-dir-limit=100000
  mount_folder data "$DATA" -o ro
  PYTHON=$(recent_python) launch/setup.sh tpu
}

mount_folder() { # mount_folder FOLDER_OF_THE_BUCKET MOUNT_POINT OPTIONS
  if mountpoint --quiet "$2"; then return; fi
  sudo mkdir -p "$2"
  sudo chown "$(id -un)" "$2"
  gcsfuse --implicit-dirs --only-dir="$1" "${@:3}" "$BUCKET" "$2"
}

start() {
  if [ -f train.pid ] && kill -0 "$(cat train.pid)" 2> /dev/null; then
    echo 'a run is there already: it goes on' >&2
    return
  fi
  rm -f train.status
  # shellcheck disable=SC2016  # the inner shell's own
  nohup sh -c 'launch/train.sh "$@"; echo $? > train.status' sh "$@" > train.log 2>&1 < /dev/null &
  echo $! > train.pid
}

follow() {
  [ -f train.pid ] || fail 'no run was started on this host'
  tail --pid="$(cat train.pid)" --lines=+1 --follow train.log
  [ -f train.status ] || fail 'the run ended without an exit status: killed, or the host was started anew'
  exit "$(cat train.status)"
}

stop() {
  pkill -TERM --parent "$(cat train.pid)"
}

case ${1:-} in
  install)
    BUCKET=${2:-}
    require_variable BUCKET my-bucket
    install
    ;;
  start | follow | stop) "$@" ;;
  *) fail "launch/tpu_host.sh ${1:-}: expected install, start, follow or stop" ;;
esac
