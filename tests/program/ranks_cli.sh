#!/bin/sh
# ranks_cli.sh - pretrain and finetune on several ranks from the outside, as torchrun starts them: the figures of one rank, a resumed run with another number of
# ranks, ranks that are killed, interrupted, or given something else than the others.
# Environment: BMVP, the program (default build/bmvp).
cd "$(dirname "$0")/../.." || exit 1
# shellcheck source=tests/support/check.sh
. tests/support/check.sh
with_program

# ---- helpers -----------------------------------------------------------------------------------------------------------------

tiny="--data prepared --network uniformer_tiny --preset fast --crop 16 --batch 3 --seed 5 --threads 1"
# shellcheck disable=SC2086 # words wanted
alone() { "$program" pretrain $tiny "$@"; }
# rank R SIZE OPTION...: starts it; said.R is what it says, pid.R its number
command=pretrain
rank()
{
    r=$1 size=$2
    shift 2
    # shellcheck disable=SC2086 # words wanted
    RANK=$r LOCAL_RANK=$r WORLD_SIZE=$size MASTER_ADDR=127.0.0.1 MASTER_PORT=$port BMVP_TIMEOUT=60 \
        "$program" $command $tiny "$@" >"said.$r" 2>&1 &
    echo $! >"pid.$r"
}
# ranks SIZE OPTION...: starts them
ranks()
{
    of=$1
    shift
    new_port
    for n in $(seq 0 $((of - 1))); do rank "$n" "$of" "$@"; done
}
# ended R STATUS TEXTS: rank R ends so
ended()
{
    wait "$(cat "pid.$1")"
    code=$?
    cp "said.$1" "$out"
    judge "$code" "$2" "$3" "rank $1"
}
# last RUN FIELD: of the log's last line
last() { tail -n 1 "$1/log.jsonl" | sed -n "s/.*\"$2\": \([-0-9.e+]*\).*/\1/p"; }
# column RUN FIELD: of all lines
column() { sed -n "s/.*\"$2\": \([-0-9.e+]*\).*/\1/p" "$1/log.jsonl" | tr '\n' ' '; }
# as_one RUN RUN: the same samples and epochs, step by step
as_one()
{
    for field in samples epoch; do check "$field of $1 and $2" test "$(column "$1" $field)" = "$(column "$2" $field)"; done
}
# near RUN RUN FIELD: the same but for rounding
near()
{
    check "$3 of $1 and $2" awk -v a="$(last "$1" "$3")" -v b="$(last "$2" "$3")" 'BEGIN { d = a - b; if (d < 0) d = -d; exit !(a != "" && d <= 2e-4 * b) }'
}
# steps RUN N: waits until the log has N lines
steps()
{
    for i in $(seq 1 600); do
        [ -e "$1/log.jsonl" ] && [ "$(wc -l <"$1/log.jsonl")" -ge "$2" ] && return 0
        sleep 0.05
    done
    return 1
}

# ---- the figures of one rank ---------------------------------------------------------------------------------------------------

expect 0 "6 of 6 cases" "$program" phantom --out phantoms --cases 6 --size 32 --seed 7
expect 0 "6 cases (6 new" "$program" prepare --data phantoms --out prepared --spacing 0
expect 0 "done: one/checkpoint.safetensors" alone --out one --steps 10
for k in 2 3; do
    ranks "$k" --out "run$k" --steps 10
    ended 0 0 "ranks    $k over TCP|MB in all|step 10/10|done: run$k/checkpoint.safetensors"
    for r in $(seq 1 $((k - 1))); do ended "$r" 0 ""; check "rank $r says something" test ! -s "said.$r"; done
    for field in loss loss_cmr loss_md loss_cl grad_norm; do near "run$k" one $field; done
    check "throughput of $k ranks" grep -q "\"rank_samples_per_s\": *\[\([0-9.e+]*, *\)\{$((k - 1))\}[0-9.e+]*\]" "run$k/log.jsonl"
    clean "run$k"
done
expect 0 "done" alone --out six1 --steps 6 --batch 6
for k in 2 6; do
    ranks "$k" --out "six$k" --steps 6 --batch 6
    for r in $(seq 0 $((k - 1))); do ended "$r" 0 ""; done
    for field in loss grad_norm; do near "six$k" six1 $field; done
done
ranks 2 --out again --steps 10
ended 0 0 "done"
ended 1 0 ""
same run2/checkpoint.safetensors again/checkpoint.safetensors

# ---- by mpirun, over TCP and, in a program made with it, over MPI -------------------------------------------------------------------

# by_mpirun PROGRAM N OPTION...: as root mpirun wants to be told that this is meant. Open MPI's own libraries leak: nothing of the kind is looked for.
# shellcheck disable=SC2086 # words wanted
by_mpirun()
{
    started=$1 of=$2
    shift 2
    ASAN_OPTIONS=detect_leaks=0 OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 mpirun --oversubscribe -np "$of" "$started" pretrain $tiny "$@"
}
if ! command -v mpirun >/dev/null 2>&1; then
    skip "mpirun is not installed"
else
    expect 0 "ranks    2 over TCP|done" by_mpirun "$program" 2 --out mpi2 --steps 10
    same run2/checkpoint.safetensors mpi2/checkpoint.safetensors
fi
if [ ! -x "${program}_mpi" ]; then
    skip "${program}_mpi is not there: it needs mpicc"
else
    for k in 2 3; do
        expect 0 "ranks    $k over MPI|done" by_mpirun "${program}_mpi" "$k" --out "over$k" --steps 10
        for field in loss loss_cmr loss_md loss_cl grad_norm; do near "over$k" one $field; done
        same "run$k/checkpoint.safetensors" "over$k/checkpoint.safetensors"
    done
fi

# ---- resumed with another number of ranks, after an interrupt of one -------------------------------------------------------------

ranks 2 --out part --steps 10 --stop-after 4
ended 0 0 "stopped after step 4 of 10"
ended 1 0 ""
ranks 3 --out part --steps 10 --resume
ended 0 0 "step 10/10|done"
ended 1 0 ""
ended 2 0 ""
for field in loss grad_norm; do near part one $field; done
as_one part one
ranks 2 --out long --steps 100000
check "no steps" steps long 3
kill -TERM "$(cat pid.1)"
ended 1 143 ""
ended 0 0 "stopped after step|--resume"
check "a checkpoint" test -s long/checkpoint.safetensors

# ---- ranks that fail ---------------------------------------------------------------------------------------------------------------

ranks 3 --out killed --steps 100000 --save-every 2
check "no steps" steps killed 5
kill -KILL "$(cat pid.2)"
before=$(date +%s)
ended 0 1 "rank 0: |rank 2"
ended 1 1 "rank 1: |rank 2"
check "it took more than 10 s" test $(($(date +%s) - before)) -le 10
wait "$(cat pid.2)"
done=$("$program" info killed/checkpoint.safetensors --json | sed -n 's/^ *"step": "\{0,1\}\([0-9]*\)"\{0,1\},$/\1/p' | head -n 1)
expect 0 "done" alone --out killed --resume --steps "$((done + 2))"
clean killed
check "the log goes to the last step" test "$(last killed step)" = "$((done + 2))"

ranks 2 --out none --batch 1
ended 0 1 "batch 1 is the number of cases of a step over all ranks, of which there are 2"
ended 1 1 "batch 1"
new_port
rank 0 2 --out other --steps 4
rank 1 2 --out other --steps 4 --lr 1e-5
ended 0 2 "the configuration of rank 1 is not that of rank 0"
ended 1 2 "the configuration of rank 1 is not that of rank 0"
absent other
new_port
rank 0 2 --out other --steps 4
rank 1 2 --out other --steps 4 --data nowhere
ended 1 1 "rank 1: |nowhere"
ended 0 1 "rank 0: |rank 1|nowhere"
expect 2 "MASTER_ADDR" env RANK=0 WORLD_SIZE=2 "$program" pretrain --data prepared --out other
expect 2 "WORLD_SIZE" env RANK=0 "$program" pretrain --data prepared --out other
expect 0 "MB in all" env RANK=0 WORLD_SIZE=3 MASTER_ADDR=127.0.0.1 MASTER_PORT=$port "$program" pretrain --data prepared --out other --plan
absent other

# ---- fine-tuning: the figures of one rank, the same validation, resumed with another number ---------------------------------------

start="--init one/checkpoint.safetensors --steps 6 --validate-every 3 --val train"
command=finetune
# shellcheck disable=SC2086 # words wanted
expect 0 "done: tune1/best.safetensors" "$program" finetune $tiny $start --out tune1
for k in 2 3; do
    # shellcheck disable=SC2086 # words wanted
    ranks "$k" $start --out "tune$k"
    ended 0 0 "ranks    $k over TCP|tensors taken|step 6/6|best validation Dice|done: tune$k/best.safetensors"
    for r in $(seq 1 $((k - 1))); do ended "$r" 0 ""; check "rank $r says something" test ! -s "said.$r"; done
    for field in loss loss_dice loss_ce grad_norm val_dice; do near "tune$k" tune1 $field; done
    clean "tune$k"
done
# shellcheck disable=SC2086 # words wanted
ranks 2 $start --out tuned --stop-after 3
ended 0 0 "stopped after step 3 of 6"
ended 1 0 ""
# shellcheck disable=SC2086 # words wanted
ranks 3 $start --out tuned --resume
ended 0 0 "step 6/6|done"
ended 1 0 ""
ended 2 0 ""
for field in loss grad_norm val_dice; do near tuned tune1 $field; done
as_one tuned tune1
# shellcheck disable=SC2086 # words wanted
ranks 2 $start --out none --batch 1
ended 0 1 "batch 1 is the number of cases of a step over all ranks, of which there are 2"
ended 1 1 "batch 1"
finish
