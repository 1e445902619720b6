#!/usr/bin/env bash
# On a CUDA machine without a network: installs the wheels that benchmarks.gpu.pack made aside, and runs the benchmark.
# usage: benchmarks/gpu/run.sh WHEELS OUT
set -euo pipefail
site=$(mktemp -d)
python3 -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --upgrade --target "$site" "$1"/*.whl
export PYTHONPATH="$site:$PWD" HF_HUB_OFFLINE=1 VADER_CACHE_HOME="$site/cache" PYTHONUNBUFFERED=1
exec python3 -m benchmarks.gpu --out "$2"
