#!/usr/bin/env bash
# Trains on whatever cloud SkyPilot finds cheapest, and goes on elsewhere when the machines are taken away.
#   BUCKET=gs://my-bucket launch/skypilot.sh --config=configs/cifar10.py --workdir=/bucket/runs/teacher \
#     --config.data.data_dir=/bucket/data --config.model.dtype=bfloat16
# The bucket is /bucket on the machines. More in launch/skypilot.yaml.
set -euo pipefail

BUCKET=${BUCKET:-}     # gs://my-bucket or s3://my-bucket
GPUS=${GPUS:-H100:1}   # kind and number, of a node
NODES=${NODES:-1}

cd "$(dirname "$0")/.."
. launch/common.sh
require_tool sky "pip install 'skypilot[gcp]'"
require_variable BUCKET gs://my-bucket
require_flags "$@"

run sky jobs launch --yes --gpus="$GPUS" --num-nodes="$NODES" --env=BUCKET="$BUCKET" \
  --env=FLAGS="$(printf '%q ' "$@")" launch/skypilot.yaml
