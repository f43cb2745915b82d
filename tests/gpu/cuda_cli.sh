#!/bin/sh
# cuda_cli.sh - the program on the GPU that tests/gpu/cuda_shim.h plays: training, prediction and embedding give what the CPU gives, and the
# host never touches device memory (it would die); --graph 0 gives the same bits. Environment: BMVP_SHIM, the program (default build/bmvp_shim).
cd "$(dirname "$0")/../.." || exit 1
# shellcheck source=tests/support/check.sh
. tests/support/check.sh
with_program "${BMVP_SHIM:-build/bmvp_shim}"
if [ ! -x "$program" ]; then
    skip "$program is not there: it needs a C++17 compiler"
    finish
fi

# losses FILE: of each step
losses() { sed -n 's/.*"loss": *\([-+.0-9e]*\).*/\1/p' "$1"; }
# alike A B: the losses of two logs, within 1e-4
alike()
{
    losses "$1" >a && losses "$2" >b
    check "the losses of $1 and $2" awk 'NR == FNR { a[FNR] = $1; n = FNR; next } { d = a[FNR] - $1; if (d < 0) d = -d; m += !(d <= 1e-4 * a[FNR]) }
        END { exit !(n > 0 && FNR == n && m == 0) }' a b
}

expect 0 "2 of 2 cases" bmvp phantom --out phantoms --cases 2 --size 32 --modalities t1,flair --missing 0 --seed 3
expect 0 "2 cases" bmvp prepare --data phantoms --out prepared --spacing 0
tiny="--data prepared --network uniformer_tiny --crop 16"
for device in cpu cuda; do
    # shellcheck disable=SC2086 # words wanted
    expect 0 "done" bmvp pretrain $tiny --batch 2 --steps 2 --preset release --out $device --device $device
    # shellcheck disable=SC2086 # words wanted
    expect 0 "done" bmvp finetune $tiny --batch 1 --steps 1 --train all --val all --allow-absent --init cpu/checkpoint.safetensors \
        --out tuned_$device --device $device
    expect 0 "2 cases, 0 left out" bmvp predict --checkpoint tuned_cpu/best.safetensors --data prepared --out predicted_$device --overlap 0 \
        --device $device
    expect 0 "" bmvp embed --checkpoint cpu/checkpoint.safetensors --data prepared/case_0001/t1.nii --out $device.safetensors --device $device
done
alike cpu/log.jsonl cuda/log.jsonl
alike tuned_cpu/log.jsonl tuned_cuda/log.jsonl
expect 0 "compute  cuda:0, fp32" bmvp pretrain --data prepared --out cuda --resume --steps 3 --device cuda:0
# shellcheck disable=SC2086 # words wanted
expect 0 "compute  cuda:0, fp32, no graph" bmvp pretrain $tiny --batch 2 --steps 2 --preset release --out calls --device cuda --graph 0
losses cuda/log.jsonl | head -n 2 >a
losses calls/log.jsonl >b
same a b
# between what is written of a run the log is a step behind the device; it ends complete, and says what the CPU's says
for device in cpu cuda; do
    # shellcheck disable=SC2086 # words wanted
    expect 0 "stopped after step 4 of 20" bmvp pretrain $tiny --batch 1 --steps 20 --stop-after 4 --set update_every=2 --out behind_$device --device $device
done
alike behind_cpu/log.jsonl behind_cuda/log.jsonl
sed -n 's/.*"step": *\([0-9]*\).*/\1/p' behind_cuda/log.jsonl >a
printf '1\n2\n3\n4\n' >b
same a b
# two ranks by NCCL (tests/gpu/cuda_nccl.h plays it) on the one GPU there is
new_port
for r in 1 0; do
    # shellcheck disable=SC2086 # words wanted
    RANK=$r LOCAL_RANK=$r WORLD_SIZE=2 MASTER_ADDR=127.0.0.1 MASTER_PORT=$port \
        "$program" pretrain $tiny --batch 2 --steps 2 --preset release --set gather_negatives=1 --out ranks --device cuda:0 >"said.$r" 2>&1 &
done
wait $!
code=$?
cp said.0 "$out"
judge "$code" 0 "compute  cuda:0|ranks    2 over NCCL|done" "two ranks"
wait
alike cpu/log.jsonl ranks/log.jsonl
expect 2 "--graph|0|1" bmvp pretrain --data prepared --out no --graph 2
expect 0 "--graph NAME" bmvp finetune --help
expect 2 "there is no GPU 1" bmvp embed --checkpoint cpu/checkpoint.safetensors --data prepared --out no.safetensors --device cuda:1
finish
