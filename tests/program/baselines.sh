#!/bin/sh
# baselines.sh - `make baselines` as small as it gets: two methods and none, two seeds, two steps; one table with differences and costs, a
# method that cannot run is named, and what is there is kept.
# Environment: BMVP, PAGE_PROGRAM (default build/bmvp, build/experiments_page).
cd "$(dirname "$0")/../.." || exit 1
# shellcheck source=tests/support/check.sh
. tests/support/check.sh
BMVP=${BMVP:-$PWD/build/bmvp} PAGE_PROGRAM=${PAGE_PROGRAM:-$PWD/build/experiments_page}
export BMVP PAGE_PROGRAM
export OUT="$T/experiments" CASES_POOL=2 CASES=7 SHARE=100 SIZE=40 CROP=32 BATCH=1 PRETRAIN_STEPS=2 STEPS=2 SEEDS="1 2" JOBS=1
script=$PWD/examples/experiments/baselines.sh

expect 0 "brainmvp|genesis|uniformer_small" "$BMVP" pretrain --method list
expect 2 "EQUAL=hours: steps or seconds" env EQUAL=hours sh "$script"
METHODS="brainmvp genesis nothing"
export METHODS
expect 0 "left out: nothing|minus scratch|from scratch|brainmvp|genesis|uniformer_tiny, crop 32|unet3d_mg_tiny, crop 32|2 x 1|Left out: nothing: |Not shown: |baselines.html" sh "$script"
cp "$out" "$T/first"
check "a row from scratch for each network" test "$(grep -c '^from scratch' "$T/first")" -eq 2
check "differences with intervals" test "$(grep -cE '^(brainmvp|genesis) .*[+-][0-9.]+ \[[+-][0-9.]+, [+-][0-9.]+\]' "$T/first")" -eq 2
check "the page has the table" grep -q "minus scratch" "$OUT/baselines.html"
for kind in efficiency ablation missing; do expect 0 "minus" "$PAGE_PROGRAM" $kind "$OUT/baselines/results.tsv" "$T/figures.html"; done
check "figures of experiments are explained" explained "$T/figures.html"
check "seconds and memory" awk -F '\t' '/^genesis/ { ok = $3 == 2 && $4 == 1 && $5 > 0 && $6 > 1 } END { exit !ok }' "$OUT/baselines/costs.tsv"
# one that was stopped goes on, the rest stays
rm "$OUT/runs/baseline_genesis.2/done" "$OUT/pretrained/genesis.0/done"
touch "$T/mark"
expect 0 "baselines.html" sh "$script"
check "the rest stays" test -z "$(find "$OUT/pretrained/brainmvp.0" "$OUT/runs/baseline_brainmvp.1" -newer "$T/mark" -type f)"
sed -n '/^Test Dice/,$p' "$T/first" >"$T/a"
sed -n '/^Test Dice/,$p' "$out" >"$T/b"
same "$T/a" "$T/b"
finish
