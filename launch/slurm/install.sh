#!/usr/bin/env bash
# Slurm for the tests in tests/launch, on Debian or Ubuntu as root: two nodes then run inside this machine. Clusters have it.
set -euo pipefail
PATH=$PATH:/usr/sbin
missing=
for program in sbatch munged slurmd slurmctld; do command -v "$program" >/dev/null || missing=yes; done
[ -n "$missing" ] || exit 0
apt-get update -qq
DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends slurm-wlm munge
