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

# paired differences: arm up has 0.1 more in every case, arm mixed in half of them more and in half less; validation that rises, or not
one() # ARM RUN DICE-OF-EACH-CASE
{
    mkdir -p "$T/paired/$1.$2/test"
    for step in 1 2 3 4; do
        case $1 in up) echo "{\"step\": $step, \"val_dice\": 0.$((4 + step))}" ;; *) echo "{\"step\": $step, \"val_dice\": 0.6}" ;; esac
    done >"$T/paired/$1.$2/log.jsonl"
    echo "$3" | awk '{ printf "{\"summary\": {\"monai\": {\"regions\": {\"WT\": {\"dice\": {\"mean\": 0.5}}}, \"mean\": {\"dice\": {\"mean\": 0.5}}}}, \"cases\": ["
        for (i = 1; i <= NF; ++i) printf "%s{\"id\": \"c%d\", \"regions\": {\"WT\": {\"dice\": %s, \"hd95\": %s}}}", (i > 1 ? ", " : ""), i, $i, (i == 1 ? "null" : 10 * $i)
        print "]}" }' >"$T/paired/$1.$2/test/metrics.json"
    printf '%s\t20\t%s\t%s\n' "$1" "$2" "$T/paired/$1.$2/test/metrics.json" >>"$T/paired/results.tsv"
}
mkdir -p "$T/paired"
for r in 0.1 0.2; do
    one base "$r" "0.5 0.6 0.7 0.4"
    one up "$r" "0.6 0.7 0.8 0.5"
    one mixed "$r" "0.6 0.5 0.8 0.3"
done
printf 'steps\t400\n' >"$T/paired/settings.tsv"
expect 0 "at 20 per cent: up minus base, Dice: +0.100 [+0.100, +0.100], 2 runs, 4 cases: better|up minus base, HD95 in mm: +1.0 [+1.0, +1.0], 2 runs, 3 cases: worse|mixed minus base, Dice: +0.000 [-0.100, +0.100], 2 runs, 4 cases: no difference seen|of base at 20: Dice 0.600 in the last quarter of the steps, 0.600 before it (2 runs): on a plateau|of up at 20: Dice 0.800 in the last quarter of the steps, 0.700 before it (2 runs): still rising" "$PAGE_PROGRAM" efficiency "$T/paired/results.tsv" "$T/paired.html"
cp "$out" "$T/paired/first"
"$PAGE_PROGRAM" efficiency "$T/paired/results.tsv" "$T/paired.html" >"$T/paired/second"
same "$T/paired/first" "$T/paired/second"
check "the page has settings" grep -q "Settings and machine" "$T/paired.html"
# one that was stopped goes on, the rest stays
rm "$OUT/runs/baseline_genesis.2/done" "$OUT/pretrained/genesis.0/done"
touch "$T/mark"
expect 0 "baselines.html" sh "$script"
check "the rest stays" test -z "$(find "$OUT/pretrained/brainmvp.0" "$OUT/runs/baseline_brainmvp.1" -newer "$T/mark" -type f)"
sed -n '/^Test Dice/,$p' "$T/first" >"$T/a"
sed -n '/^Test Dice/,$p' "$out" >"$T/b"
same "$T/a" "$T/b"
finish
