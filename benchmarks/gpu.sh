#!/usr/bin/env bash
# Checks and measures builds on one NVIDIA GPU, on a bare machine with Python, torch and transformers.
#
#   benchmarks/gpu.sh [STEP …]        all steps if none is given, in this order:
#     pocket        builds in float32, float16 and bfloat16, each twice: bytes, pixels, right labels by the oracle
#     resume        a build that is killed and resumed
#     batch-size    the batch size that a build finds
#     two-workers   two processes on one device
#     ladder-sd15   generate.py --ladder --random-weights sd15, at the settings of D3S's authors
#     ladder-sdxl   the same for sdxl
#
# Each step writes JSON as soon as it ends. No step is started after the deadline, and a running step is stopped then;
# measurements of its ladder are kept. Environment variables:
#   OUT       folder of the JSON (out/gpu)
#   DEADLINE  seconds from the start of this script (480)
#   DEVICE    auto, cuda, cuda:1; cpu tries the steps without a GPU
#   WHEELS    folder of wheels to use (out/wheels); their names and total are printed
#   ORACLE    folder of the trained oracle (out/fidelity); if the oracle is missing, it is trained, which takes minutes
#   PYTHON    the interpreter (python3)
#   QUICK=1   tiny sizes, to try the script
#
# Wheels needed besides torch, transformers and their dependencies. pydantic is downloaded with its core, whose version
# must match. They were 15.8 MiB for Python 3.11 on x86-64 Linux; with this repository, less than 64 MiB:
#   pip download --no-deps --only-binary :all: -d out/wheels diffusers webdataset braceexpand importlib-metadata zipp \
#     jinja2 markupsafe pillow
#   pip download --only-binary :all: -d out/wheels pydantic
# pyarrow and datasets aren't needed, because all builds write tars only.
#
# This script has been run on a CPU at a tiny size, but not yet on a GPU.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
began=$SECONDS
OUT=${OUT:-out/gpu} DEADLINE=${DEADLINE:-480} DEVICE=${DEVICE:-auto} PYTHON=${PYTHON:-python3}
WHEELS=${WHEELS:-out/wheels} ORACLE=${ORACLE:-out/fidelity} QUICK=${QUICK:-}
known="pocket resume batch-size two-workers ladder-sd15 ladder-sdxl"
steps=("$@")
[ ${#steps[@]} -gt 0 ] || read -ra steps <<< "$known"
for step in "${steps[@]}"; do
    case " $known " in *" $step "*) ;; *) echo "gpu.sh: there is no step '$step'; known are: $known" >&2; exit 2 ;; esac
done
mkdir -p "$OUT"

path=$PWD/builders
if compgen -G "$WHEELS/*.whl" > /dev/null; then
    unpacked=$WHEELS/unpacked
    for wheel in "$WHEELS"/*.whl; do
        stat -c '%s %n' "$wheel"
        [ -e "$unpacked/$(basename "$wheel").done" ] && continue
        "$PYTHON" -m zipfile -e "$wheel" "$unpacked" && touch "$unpacked/$(basename "$wheel").done"
    done | awk '{ total += $1; sub(".*/", "", $2); print $2 } END { printf "%.1f MiB of wheels\n", total / 1048576 }'
    # Wheels come after installed packages, so that the machine's own libraries take precedence.
    installed=$("$PYTHON" -c 'import site; print(":".join(site.getsitepackages()))')
    path=$path:$installed:$(cd "$unpacked" && pwd)
fi
export PYTHONPATH=$path${PYTHONPATH:+:$PYTHONPATH} CUBLAS_WORKSPACE_CONFIG=:4096:8 HF_HUB_OFFLINE=1 TQDM_DISABLE=1

left() { echo $((DEADLINE - (SECONDS - began))); }

run() { # STEP COMMAND …
    local step=$1 rc=0
    shift
    if [ "$(left)" -le 5 ]; then
        echo "{\"step\": \"$step\", \"skipped\": \"deadline\"}" > "$OUT/$step.status.json"
        echo "$step: skipped, as the deadline has come"
        return
    fi
    echo "== $step, $(left) s left"
    local from=$SECONDS
    timeout --kill-after=10 "$(left)" "$PYTHON" "$@" --out "$OUT/$step.json" --work "$OUT/work" || rc=$?
    echo "{\"step\": \"$step\", \"exit_code\": $rc, \"seconds\": $((SECONDS - from))}" > "$OUT/$step.status.json"
    [ $rc -eq 0 ] || { echo "$step: exit code $rc"; failed=1; }
}

failed=0
few=(--images 16 --batch-size 8 --rounds 2 --num-inference-steps 50 --strength 0.9 --guidance 5)
tiny=()
[ -z "$QUICK" ] || { tiny=(--quick); few=(); }
for step in "${steps[@]}"; do
    case $step in
        pocket) run "$step" benchmarks/gpu.py pocket --device "$DEVICE" --oracle-cache "$ORACLE" "${tiny[@]}" ;;
        ladder-*)
            weights=${step#ladder-}
            [ -z "$QUICK" ] || weights=mini
            run "$step" benchmarks/generate.py --ladder --random-weights "$weights" --device "$DEVICE" \
                "${few[@]}" "${tiny[@]}"
            ;;
        *) run "$step" benchmarks/gpu.py "$step" --device "$DEVICE" "${tiny[@]}" ;;
    esac
done
exit $failed
