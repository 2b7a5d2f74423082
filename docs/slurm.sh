#!/usr/bin/env bash
# A run on several machines under SLURM: sbatch docs/slurm.sh [options of train.py]
#
# Written for 4 machines of 8 GPUs; has not run on a cluster. See docs/multi_node.md.
#SBATCH --job-name=relicv2
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --mem=0
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=TERM@120
set -euo pipefail

: "${DATA:=/data/shards}"                # on every machine; a local copy is fine
: "${OUT:=/runs/rn50}"                   # a folder that all machines share
: "${PRESET:=imagenet-rn50}"
: "${CHECKOUT:=$SLURM_SUBMIT_DIR}"       # with its .venv, shared as well
: "${GPUS_PER_NODE:=8}"

# one torchrun on each machine; the first hosts the rendezvous
hosts=$(scontrol show hostnames "$SLURM_JOB_NODELIST")
first=${hosts%%$'\n'*}
port=$((20000 + SLURM_JOB_ID % 20000))

# Machines with several networks: name the one that they reach each other by.
# export GLOO_SOCKET_IFNAME=eth0 NCCL_SOCKET_IFNAME=eth0

# How long torchrun gives its workers to save after SIGTERM (torch 2.12 and newer; before: 30 s).
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=100

cd "$CHECKOUT"
# --kill-on-bad-exit: a torchrun that ends has no restarts left, and the others wait for it in vain.
srun --ntasks-per-node=1 --kill-on-bad-exit=1 .venv/bin/python -m torch.distributed.run \
    --nnodes "$SLURM_NNODES" \
    --nproc-per-node "$GPUS_PER_NODE" \
    --max-restarts 3 \
    --rdzv-id "$SLURM_JOB_ID" \
    --rdzv-backend c10d \
    --rdzv-endpoint "$first:$port" \
    train.py --data "$DATA" --out "$OUT" --preset "$PRESET" "$@"
