#!/usr/bin/env bash
# Trains on Kubernetes, a pod for each node, all in one run: fills in launch/kubernetes.yaml and applies it.
#   IMAGE=registry/moonshine CLAIM=my-claim PODS=2 GPUS=8 \
#     launch/kubernetes.sh --config=configs/cifar10.py --workdir=/shared/runs/teacher \
#       --config.data.data_dir=/shared/data --config.model.dtype=bfloat16
set -euo pipefail

JOB=${JOB:-moonshine} # name of the Job and of its Service
IMAGE=${IMAGE:-}      # of launch/Dockerfile
CLAIM=${CLAIM:-}      # PersistentVolumeClaim, ReadWriteMany where there are several pods; mounted as /shared
PODS=${PODS:-1}       # processes of the run, a node each
GPUS=${GPUS:-1}       # of a pod

cd "$(dirname "$0")/.."
. launch/common.sh
require_tool kubectl https://kubernetes.io/docs/tasks/tools
require_variable IMAGE registry/moonshine
require_variable CLAIM my-claim
require_flags "$@"

# Each flag as a JSON string, which YAML takes as it is; Kubernetes would expand $(NAME) in them.
manifest=$(JOB=$JOB IMAGE=$IMAGE CLAIM=$CLAIM PODS=$PODS GPUS=$GPUS python3 -c '
import json, os, string, sys
flags = [json.dumps(flag.replace("$", "$$")) for flag in sys.argv[1:]]
template = string.Template(open("launch/kubernetes.yaml").read())
print(template.safe_substitute(os.environ, FLAGS="\n            - ".join(flags)))' "$@")

if [ -n "${DRY_RUN:-}" ]; then echo "$manifest"; fi
run kubectl apply --filename=- <<< "$manifest"
echo "follow: kubectl logs --follow --prefix --selector=job-name=$JOB; end: kubectl delete job,service $JOB" >&2
