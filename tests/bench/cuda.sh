#!/bin/sh
# make bench-cuda, its second part: steps and inference on the GPU beside PyTorch, one table at the end. Nothing else may use the GPU meanwhile.
#   REPS=7            runs of a row, the median counts
#   ONLY=real         this row of bench_step and no other
#   PRECISION=bf16    of our side; PyTorch runs under bfloat16 autocast
#   JSON=FILE         everything that was measured, as lines of JSON
#   PYTHON=python3    interpreter whose torch is the peer
set -u
case ${JSON:-} in '' | /*) ;; *) JSON=$PWD/$JSON ;; esac
cd "$(dirname "$0")/../.." || exit 1
tmp=$(mktemp -d) || exit 1
trap 'rm -rf "$tmp"' EXIT
trap 'exit 1' INT TERM
bench=${BENCH_STEP:-build/bench_step_cuda}
$bench --device cuda --json --precision "${PRECISION:-bf16}" --reps "${REPS:-7}" ${ONLY:+--only "$ONLY"} >"$tmp/ours" || exit 1
"${PYTHON:-python3}" -W ignore tests/bench/twin_gpu.py --json --reps "${REPS:-7}" ${ONLY:+--only "$ONLY"} >"$tmp/peer" ||
    echo "the PyTorch twin failed" >&2
grep '^SKIP' "$tmp/peer"
[ -z "${JSON:-}" ] || { cat "$tmp/ours" && grep '^{' "$tmp/peer"; } >"$JSON"
awk -f tests/bench/json.awk -f tests/bench/cuda.awk "$tmp/peer" "$tmp/ours"
