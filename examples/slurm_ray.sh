#!/bin/bash
# An experiment on a Slurm cluster, a Ray node for each Slurm node: sbatch examples/slurm_ray.sh EXPERIMENT.toml FOLDER
#
# FOLDER is on a disk that all nodes share. Out of time, submit it again as it is: it goes on from there. Ray 2.49 or
# later. What nodes need, and what each key of [engine] means: docs/scale.md.
#SBATCH --job-name=gated-lpi
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --gpus-per-node=1
#SBATCH --mem=200G
#SBATCH --time=24:00:00
#SBATCH --signal=B:TERM@120
set -euo pipefail

experiment=${1:?give an experiment file}
out=${2:?give a folder that all nodes share}
port=${RAY_PORT:-6379}

export RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT=${RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT:-300}
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)

# The command after -- runs on the first node alone; without RAY_ADDRESS it would start a Ray of its own there.
srun ray symmetric-run --address "$head:$port" --min-nodes "$SLURM_NNODES" \
    --num-cpus "$SLURM_CPUS_PER_TASK" --num-gpus "${SLURM_GPUS_ON_NODE:-0}" \
    -- env RAY_ADDRESS=auto gated-lpi run "$experiment" --out "$out" --engine ray
