#!/bin/sh
# methods.sh - `bmvp pretrain --method NAME` from the outside, for each method of examples/methods: the loss falls, a killed run goes on to
# the same bits, any number of threads gives the same bits, two ranks give nearly the same, its checkpoint starts a fine-tuning, and wrong
# use is refused.
# Environment: BMVP, the program (default build/bmvp); METHODS, which of them.
cd "$(dirname "$0")/../.." || exit 1
# shellcheck source=tests/support/check.sh
. tests/support/check.sh
program=${BMVP:-build/bmvp}
case $program in /*) ;; *) program=$(pwd)/$program ;; esac
cd "$T" || exit 1
bmvp() { "$program" "$@"; }
port=$((20000 + $$ % 20000))
small="--preset fast --data prepared --crop 32 --batch 2 --seed 3"

# learn OUT OPTION...: the method on small crops
# shellcheck disable=SC2086 # words wanted
learn() { "$program" pretrain --method "$method" $small --threads 1 --out "$@"; }
# loss FILE FROM TO: mean loss of lines FROM to TO of a log
loss() { sed -n "$2,$3p" "$1" | sed 's/.*"loss": *\([0-9.e+-]*\).*/\1/' | awk '{ s += $1 } END { printf "%.6f", s / NR }'; }

expect 0 "4 of 4 cases" bmvp phantom --out phantoms --cases 4 --size 40 --tumours 1 --seed 7
expect 0 "4 cases (4 new" bmvp prepare --data phantoms --out prepared --spacing 0
expect 2 "--method nothing|there are brainmvp genesis mae3d" bmvp pretrain --method nothing --data prepared --out never
absent never

for method in ${METHODS:-genesis mae3d}; do
    expect 0 "usage: bmvp pretrain" bmvp pretrain --method $method --help
    expect 0 "method   $method|done: $method/checkpoint.safetensors" learn $method --steps 60
    check "a line a step" test "$(wc -l <$method/log.jsonl)" -eq 60
    begin=$(loss $method/log.jsonl 1 10) end=$(loss $method/log.jsonl 51 60)
    check "$method: loss $begin at the beginning, $end at the end" awk "BEGIN { exit !($end < 0.75 * $begin) }"
    check "$method: no page" grep -q "came back" $method/report.html
    pids= port=$((port + 1))
    # killed and gone on with
    expect 0 "stopped after step 4 of 8|--resume" learn broken.$method --steps 8 --stop-after 4
    "$program" pretrain --out broken.$method --resume --threads 1 >"$out" 2>&1 &
    pid=$!
    while [ "$(wc -l <broken.$method/log.jsonl)" -lt 6 ] && kill -0 $pid 2>/dev/null; do sleep 0.02; done
    kill -9 $pid 2>/dev/null
    wait $pid 2>/dev/null
    expect 0 "method   $method|done" bmvp pretrain --out broken.$method --resume --threads 1
    expect 0 "done" learn whole.$method --steps 8
    same broken.$method/checkpoint.safetensors whole.$method/checkpoint.safetensors
    for threads in 2 3; do
        # shellcheck disable=SC2086 # words wanted
        expect 0 "done" bmvp pretrain --method $method $small --steps 8 --threads $threads --out threads.$method.$threads
        same threads.$method.$threads/checkpoint.safetensors whole.$method/checkpoint.safetensors
    done
    # two ranks, a case each
    for rank in 0 1; do
        # shellcheck disable=SC2086 # words wanted
        RANK=$rank LOCAL_RANK=$rank WORLD_SIZE=2 MASTER_ADDR=127.0.0.1 MASTER_PORT=$port BMVP_TIMEOUT=60 "$program" pretrain \
            --method $method $small --steps 8 --threads 1 --out ranks.$method >"said.$rank" 2>&1 &
        pids="$pids $!"
    done
    for pid in $pids; do wait "$pid"; done
    check "$method: two ranks end" test "$(wc -l <ranks.$method/log.jsonl)" -eq 8
    one=$(loss whole.$method/log.jsonl 8 8) two=$(loss ranks.$method/log.jsonl 8 8)
    check "$method: loss $one of one rank, $two of two" awk "BEGIN { d = $one - $two; exit !(d * d < 1e-6 * $one * $one) }"
    # wrong use
    expect 2 "already holds a run" learn $method --steps 8
    expect 2 "--network nothing" learn never --network nothing
    expect 2 "crop" learn never --crop 8
    expect 2 "temperature" learn never --set temperature=1
    case $method in
        mae3d) # on tokens
            expect 2 "has no tokens to mask or replace|unetr unetr_tiny" learn never --network unet3d_tiny
            expect 2 "crop of 40 voxels|take crop 32 or 48" learn never --crop 40
            expect 2 "masks 0 of 8 tokens" learn never --set mask_ratio=0.1
            ;;
    esac
    absent never
    # its checkpoint starts a fine-tuning, and is not taken for a run of another method
    expect 0 "$method|done" bmvp finetune --data prepared --init $method/checkpoint.safetensors --crop 32 --batch 1 --steps 1 --fill zero --allow-absent \
        --out tuned.$method --threads 1
    expect 2 "is not a run of BrainMVP" bmvp pretrain --method brainmvp --data prepared --out $method --resume
done
finish
