#!/bin/sh
# state.sh - what is on disk already: runs that go on with another batch, accumulation, length or data; folders that another process
# writes; prepared cases whose sources, settings or files are others.
# Environment: BMVP, the program (default build/bmvp).
cd "$(dirname "$0")/../.." || exit 1
# shellcheck source=tests/support/check.sh
. tests/support/check.sh
program=${BMVP:-build/bmvp}
case $program in /*) ;; *) program=$(pwd)/$program ;; esac
cd "$T" || exit 1
bmvp() { "$program" "$@"; }

# ---- helpers -----------------------------------------------------------------------------------------------------------------

tiny="--network uniformer_tiny --crop 16 --seed 5 --threads 1"
# shellcheck disable=SC2086 # words wanted
train() { "$program" pretrain --data prepared --preset fast $tiny --out "$@"; }
# shellcheck disable=SC2086 # words wanted
tune() { "$program" finetune --data prepared --fill zero --train all --val all $tiny --out "$@"; }
# goes_on COMMAND RUN OPTION...
goes_on() { command=$1; shift; "$program" "$command" --resume --threads 1 --out "$@"; }
# column RUN FIELD: its values in the log, on one line
column() { sed -n "s/.*\"$2\": \([-0-9.e+]*\).*/\1/p" "$1/log.jsonl" | tr '\n' ' ' | sed 's/ $//'; }
# logged RUN FIELD VALUES
logged() { check "$1: $2 is '$(column "$1" "$2")', not '$3'" test "$(column "$1" "$2")" = "$3"; }
# silent_about TEXT: the program has not said it
silent_about() { check "it says '$1'" sh -c '! grep -qF -e "$1" "$2"' silent "$1" "$out"; }
# lines FILE N PID: waits until the file has N lines (1: the process ended before)
lines()
{
    while [ ! -e "$1" ] || [ "$(wc -l <"$1")" -lt "$2" ]; do
        kill -0 "$3" 2>/dev/null || return 1
        sleep 0.02
    done
}

expect 0 "4 of 4 cases" bmvp phantom --out phantoms --cases 4 --size 32 --tumours 1 --missing 0 --thick 0 --modalities t1,t2 --seed 7
expect 0 "4 cases (4 new" bmvp prepare --data phantoms --out prepared --spacing 0

# ---- where a run stands and ends is counted in samples -----------------------------------------------------------------------------

# 4 epochs of 4 cases: 16 samples. 6 are taken by twos; 10 are left: 4 steps of 3, 10 of 1, 3 of 4 (12).
expect 0 "stopped after step 3 of 8" train six --batch 2 --epochs 4 --stop-after 3
for batch in 3 1 4; do
    rm -rf other
    cp -r six other
    case $batch in
    3) steps=7 epochs="0 0 1 1 2 3 3" samples="2 4 6 9 12 15 18" ;;
    1) steps=13 epochs="0 0 1 1 1 2 2 2 2 3 3 3 3" samples="2 4 6 7 8 9 10 11 12 13 14 15 16" ;;
    *) steps=6 epochs="0 0 1 1 2 3" samples="2 4 6 10 14 18" ;;
    esac
    expect 0 "step $steps/$steps|changed  batch $batch (the run was at 2)|done" goes_on pretrain other --batch $batch
    logged other epoch "$epochs"
    logged other samples "$samples"
done
# told by steps: so many samples as these steps would have taken, unless steps are told again
expect 0 "stopped after step 2 of 6" train told --batch 2 --steps 6 --stop-after 2
cp -r told again
cp -r told longer
expect 0 "step 4/4|done" goes_on pretrain told --batch 4
logged told samples "2 4 8 12"
expect 0 "changed  the run ends after 24 samples (when it was started, after 12)|step 7/7|done" goes_on pretrain again --batch 4 --steps 7
logged again samples "2 4 8 12 16 20 24"
expect 0 "changed  the run ends after 8 samples (when it was started, after 12)|changed  epochs 2 (|done" goes_on pretrain longer --epochs 2
logged longer samples "2 4 6 8"
# another accumulation: whole updates of 3 steps, from where the run stood
expect 0 "stopped after step 2 of 8" train sums --batch 2 --steps 8 --set update_every=2 --stop-after 1
expect 0 "changed  update_every 3 (the run was at 2)|step 8/8|done" goes_on pretrain sums --set update_every=3
check "updates after steps 2, 5 and 8" test "$(grep -n '"grad_norm": [0-9]' sums/log.jsonl | cut -d: -f1 | tr '\n' ' ')" = "2 5 8 "
# a length that is no whole number of updates ends with a whole one
expect 0 "step 6/6|done: whole/checkpoint.safetensors" train whole --batch 2 --steps 5 --set update_every=3
check "its checkpoint is there" test -s whole/checkpoint.safetensors
# the learning rate goes on from the share of the samples that were seen
expect 0 "stopped after step 4 of 8" train rate --batch 2 --steps 8 --stop-after 4 --set warmup=0,lr=0.01,lr_floor=0
cp -r rate half
expect 0 "done" goes_on pretrain rate
expect 0 "step 12/12|done" goes_on pretrain half --batch 1
check "the rate at half, three quarters" test "$(column rate lr | cut -d' ' -f5,7)" = "$(column half lr | cut -d' ' -f5,9)"

# ---- --resume alone goes on as the run was started -----------------------------------------------------------------------------------

expect 0 "done" train once --batch 2 --steps 6
expect 0 "stopped after step 2 of 6; go on with: bmvp pretrain --data prepared --out twice --resume" train twice --batch 2 --steps 6 --stop-after 2
(cd / && goes_on pretrain "$T/twice" >/dev/null 2>&1)
same once/checkpoint.safetensors twice/checkpoint.safetensors
expect 0 "done" tune tuned --batch 2 --steps 6 --validate-every 2 --set update_every=2 --modalities t2
expect 0 "stopped after step 2 of 6; go on with: bmvp finetune --data prepared --out taken --resume" tune taken --batch 2 --steps 6 --validate-every 2 --set update_every=2 --modalities t2 --stop-after 1
expect 0 "segmentation that goes on in taken|modalities t2|done" goes_on finetune taken
silent_about changed
for file in checkpoint.safetensors best.safetensors; do same tuned/$file taken/$file; done
check "it validated at the same steps" test "$(grep -c val_dice_WT taken/log.jsonl)" -eq "$(grep -c val_dice_WT tuned/log.jsonl)"
expect 0 "changed  --validate-every 1 (the run was started with 2)|init     six/checkpoint.safetensors is not read" goes_on finetune taken --validate-every 1 --init six/checkpoint.safetensors
expect 2 "taken was started with --train all, not with --train train" goes_on finetune taken --train train
expect 2 "taken was started with --val all, not with --val test" goes_on finetune taken --val test
expect 2 "taken was started with --class-weights none, not with --class-weights balanced" goes_on finetune taken --class-weights balanced
expect 2 "--data is required" bmvp pretrain --out new
expect 2 "--data is required" bmvp finetune --out new

finish
