#!/usr/bin/env bash
# Train models on a GPU in pieces of a few minutes, and time the engines on CUDA.
#
#   benchmarks/gpu/run.sh wheels FOLDER                            what a machine with torch still needs, as wheels
#   benchmarks/gpu/run.sh missing                                  which of it is not there
#   benchmarks/gpu/run.sh train RECIPE --state DIR --out DIR       one piece of a training, packed in parts of 15 MiB
#   benchmarks/gpu/run.sh pack DIR OUT --parts 5-8                 further parts of what a piece left
#   benchmarks/gpu/run.sh join DIR PARTS…                          a folder to go on in, from its parts
#   benchmarks/gpu/run.sh rates RECIPE                             whether the generator of series keeps up with the GPU
#   benchmarks/gpu/run.sh time --output FILE                       exact and stock engines, eager, compiled, as CUDA graphs
#
# Each of them has --help; docs/pretraining.md shows them in order. The machine may be without a network: wheels in
# $WHEELS (default: gpu-wheels) are installed into .gpu-packages. $PYTHON is the interpreter (default: python3).
set -euo pipefail
STARTED=$(date +%s)
cd "$(dirname "$0")/../.."
PYTHON=${PYTHON:-python3} WHEELS=${WHEELS:-gpu-wheels} packages=.gpu-packages
if [[ "${1:-}" != wheels ]]; then
    new=()
    for wheel in "$WHEELS"/*.whl; do # they may come in several loads, one after the other
        [[ ! -e $wheel || -e $packages/.installed/${wheel##*/} ]] || new+=("$wheel")
    done
    if ((${#new[@]})); then
        "$PYTHON" -m pip install -q --no-index --no-deps --upgrade --target "$packages" "${new[@]}"
        mkdir -p "$packages/.installed" && (cd "$packages/.installed" && touch "${new[@]##*/}")
    fi
fi
export STARTED OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" TOKENIZERS_PARALLELISM=false HF_HUB_OFFLINE=1
export PYTHONPATH="$PWD/src:$PWD/benchmarks:$PWD/$packages${PYTHONPATH:+:$PYTHONPATH}"
case "${1:-}" in
    train | pack | join) exec "$PYTHON" benchmarks/gpu/pieces.py "$@" ;;
    wheels | missing) exec "$PYTHON" benchmarks/gpu/wheels.py "$@" ;;
    rates) exec "$PYTHON" benchmarks/gpu/rates.py "${@:2}" ;;
    time) exec "$PYTHON" benchmarks/gpu/timing.py "${@:2}" ;;
    *) sed -n '2,/^set/{/^#/!d;s/^# \{0,1\}//;p}' "$0" && exit 2 ;;
esac
