#!/usr/bin/env bash
# A smoke test of MPS, the GPU of Apple silicon: each part of figureground that uses a device, at a tiny size.
#
#     bash benchmarks/mps.sh [DIR]     # from an environment that has figureground; DIR must not exist (./mps-smoke)
#
# It takes minutes, and needs no checkpoint, because it uses the bundled pocket model. It stops at the first command that
# fails. The authors have no such machine and haven't run it on MPS; DEVICE=cpu runs the same commands anywhere.
set -euo pipefail
out=${1:-mps-smoke}
device=${DEVICE:-mps}
[ ! -e "$out" ] || { echo "$out exists; give another directory." >&2; exit 2; }
mkdir -p "$out"
say() { printf '\n== %s\n' "$*"; }
fg() { say "figureground $*"; figureground "$@"; }

small=(--set 'classes=[bird, car]' --set 'backgrounds=[grass, snow]' --set 'per_cell={train: 4, validation: 1}')
small+=(--set "device=$device")
fg build d3s "${small[@]}" --out "$out/d3s"
fg check "$out/d3s"
fg build d3s --config pocket-text-only "${small[@]}" --out "$out/text-only"
fg verify "$out/d3s" --device "$device"
fg evaluate "$out/d3s" --classifier pocket --control "$out/text-only" --device "$device"
fg audit "$out/d3s" --device "$device"
say "a biased training set"
python -m figureground.pocket.birds "$out/birds" --train 60 --validation 16 --test 16
fg train erm --data "$out/birds" --out "$out/erm" --backbone pocket --seeds 1 --epochs 1 --device "$device"
fg build scgs --data "$out/birds" --limit 8 --set 'training={epochs: 1, backbone: pocket}' --set folds=2 \
    --set "device=$device" --out "$out/scgs"
say "the same recipe on the CPU: how far the pixels differ"
fg build d3s "${small[@]}" --set device=cpu --out "$out/cpu"
python - "$out" <<'PYTHON'
import io, sys
import numpy as np
import pyarrow.parquet as pq
from pathlib import Path
from PIL import Image

def images(folder):
    rows = [row for path in sorted(Path(folder, "data").glob("*.parquet")) for row in pq.read_table(path).to_pylist()]
    return {row["key"]: np.asarray(Image.open(io.BytesIO(row["image"]["bytes"])), float) for row in rows}

there, here = images(f"{sys.argv[1]}/d3s"), images(f"{sys.argv[1]}/cpu")
apart = [np.abs(there[key] - here[key]).mean() for key in here]
print(f"{len(apart)} images; mean difference {np.mean(apart):.3f}, largest mean {np.max(apart):.3f} of 255")
sys.exit(np.mean(apart) > 8)
PYTHON
say "all parts ran on $device"
