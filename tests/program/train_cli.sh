#!/bin/sh
# train_cli.sh - fine-tuning and prediction from the outside: runs from scratch and from a pre-training checkpoint, interrupted and resumed;
# label maps on the grid of the images; and everything that can be wrong with what finetune and predict are given.
# Environment: BMVP, the program (default build/bmvp).
cd "$(dirname "$0")/../.." || exit 1
# shellcheck source=tests/support/check.sh
. tests/support/check.sh
segment=$(pwd)/build/segment io=$(pwd)/tests/fixtures/io
with_program

# ---- helpers -----------------------------------------------------------------------------------------------------------------

step_of() { bmvp info "$1" --json 2>/dev/null | sed -n 's/^ *"step": "\{0,1\}\([0-9]*\)"\{0,1\},$/\1/p' | head -n 1; }
# tune OUT OPTION...: a run of the tiny network on the prepared phantoms
tiny="--data prepared --network uniformer_tiny --crop 16 --batch 2 --seed 5"
# shellcheck disable=SC2086 # words wanted
tune() { "$program" finetune $tiny --threads 1 --out "$@"; }
# scratch OUT OPTION...: without templates
scratch() { tune "$@" --fill zero; }
# start OPTION...: finetune in the background, its number in $pid
start()
{
    "$program" finetune "$@" >"$out" 2>&1 &
    pid=$!
}
# says FILE TEXT: the JSON without blanks holds this
says() { check "$1: no $2" sh -c 'tr -d "\n " <"$1" | grep -qF -e "$2"' says "$1" "$2"; }
# grid FILE: what tells where its voxels lie
grid() { bmvp info "$1" --json | tr -d '\n ' | sed 's/.*\("dim":[^]]*]\).*\("voxel_size":[^]]*]\).*\("qform_code.*"affine":[^]]*]\).*/\1 \2 \3/'; }
# on_grid A B: label map and image lie on the same grid
on_grid() { check "$1 and $2 lie differently" test "$(grid "$1")" = "$(grid "$2")"; }
# edit FROM TO SCRIPT: a list with other words
edit() { sed "$3" "$1" >"$2"; }

# ---- data and a pre-training checkpoint ------------------------------------------------------------------------------------------

expect 0 "6 of 6 cases" bmvp phantom --out phantoms --cases 6 --size 32 --tumours 1 --missing 0.5 --thick 0.5 --seed 7
expect 0 "6 cases (6 new" bmvp prepare --data phantoms --out prepared --spacing 0
short=$(grep -c '^ *"\(flair\|t1\|t1c\|t2\)":' prepared/dataset.json)
check "some case lacks a modality" test "$short" -lt 24
expect 0 "done" bmvp pretrain --data prepared --preset fast --network uniformer_tiny --crop 16 --batch 2 --out pre --steps 2 --threads 1
init=pre/checkpoint.safetensors

# ---- runs --------------------------------------------------------------------------------------------------------------------------

for command in finetune predict; do expect 0 "usage: bmvp $command" bmvp $command --help; done
expect 0 "from scratch|3 cases to train, 1 to validate, modalities flair t1 t1c t2|labels   phantom: WT (|done: zero/best.safetensors" scratch zero --steps 2
expect 0 "validation: Dice |stopped after step 3 of 8" scratch seen --steps 8 --validate-every 2 --stop-after 3
check "the page shows what the validation saw" grep -q "The network is that of step 2" seen/report.html
for file in best.safetensors checkpoint.safetensors split.json log.jsonl report.html; do check "zero/$file" test -s zero/$file; done
check "a line a step" test "$(wc -l <zero/log.jsonl)" -eq 2
for field in step epoch loss loss_dice loss_ce loss_consistency grad_norm lr val_dice val_dice_WT; do
    check "log.jsonl: $field at the end" sh -c "tail -n 1 zero/log.jsonl | grep -q '\"$field\":'"
done
check "report.html explains its figures and is whole" explained zero/report.html
expect 0 "from $init|tensors taken| adapted, | fresh|  adapted  |  fresh    " tune run --init $init --steps 8 --save-every 4
expect 0 "tensors taken, " tune fresh --init $init --stem fresh --steps 1
# one network as other programs write it: beside a teacher, in a dict within a dict, and without zip
for file in student_teacher nested nested_legacy; do
    expect 0 "kind             checkpoint|PyTorch|patch_embed1.proj.weight" bmvp info "$io/$file.pt"
    cp "$io/$file.pt" start.pt # the checkpoint keeps its name
    expect 0 " tensors taken, |done" bmvp finetune --data prepared --crop 16 --batch 2 --seed 5 --threads 1 --fill zero --steps 1 --out "of_$file" \
        --init start.pt
    same of_student_teacher/best.safetensors "of_$file/best.safetensors"
    if [ $file = student_teacher ]; then judge 0 0 "weights  taken from 'student' of |not taken: 'teacher'" $file; fi
done
expect 0 "memory|preset   release" tune planned --init $init --preset release --plan
absent planned

# the same bits: threads, and a run that was killed
# shellcheck disable=SC2086 # words wanted
expect 0 "done" bmvp finetune $tiny --threads 2 --out two --init $init --steps 8 --save-every 4
same run/checkpoint.safetensors two/checkpoint.safetensors
same run/best.safetensors two/best.safetensors
for try in 1 2 3 4 5; do
    rm -rf killed
    # shellcheck disable=SC2086 # words wanted
    start $tiny --threads 1 --out killed --init $init --steps 8 --save-every 4
    lines killed/log.jsonl 5 $pid
    kill -9 $pid 2>/dev/null
    wait $pid 2>/dev/null
    [ "$(step_of killed/checkpoint.safetensors)" = 4 ] && break
done
check "killed between step 4 and 8 (try $try)" test "$(step_of killed/checkpoint.safetensors)" = 4
expect 0 "done" bmvp finetune --data prepared --out killed --resume --steps 8 --save-every 4 --threads 2
same run/checkpoint.safetensors killed/checkpoint.safetensors
same run/best.safetensors killed/best.safetensors
check "the log has each step once" test "$(wc -l <killed/log.jsonl)" -eq 8
clean killed
expect 0 "stopped after step 3 of 8; go on with: bmvp finetune --out stopped --resume" tune stopped --init $init --steps 8 --stop-after 3
expect 0 "done" bmvp finetune --data prepared --out stopped --resume --steps 8 --threads 1
same run/checkpoint.safetensors stopped/checkpoint.safetensors

# Ctrl-C
# shellcheck disable=SC2086 # words wanted
start $tiny --threads 1 --out ctrl_c --init $init --steps 100000
lines ctrl_c/log.jsonl 3 $pid
kill -INT $pid
wait $pid
judge $? 130 "stopped after step|of 100000|--resume" "Ctrl-C"
check "checkpoint and log agree" test "$(step_of ctrl_c/checkpoint.safetensors)" = "$(wc -l <ctrl_c/log.jsonl | tr -d ' ')"
clean ctrl_c

# Ctrl-C while it validates, which takes half a second here: at once; the checkpoint says so, and the session that goes on validates first
# shellcheck disable=SC2086 # words wanted
start $tiny --threads 1 --out in_validation --fill zero --steps 3 --validate-every 1 --set overlap=0.94
lines in_validation/log.jsonl 1 $pid
sleep 0.1 # of step 2 and its validation
kill -INT $pid
wait $pid
judge $? 130 "stopped after step 2 of 3; go on with" "Ctrl-C in a validation"
check "step 2 is in the log, without a score" sh -c 'test "$(wc -l <in_validation/log.jsonl)" -eq 2 && ! sed -n 2p in_validation/log.jsonl | grep -q val_dice'
clean in_validation
expect 0 "step 2/3  validation: Dice |done" bmvp finetune --out in_validation --resume
check "step 3 has its own" sh -c 'sed -n 4p in_validation/log.jsonl | grep -q val_dice'

# ---- other networks and tasks ---------------------------------------------------------------------------------------------------------

expect 0 "network  unet3d_tiny, segmentation from scratch|done" bmvp finetune --data prepared --out unet --network unet3d_tiny --crop 16 --batch 2 --fill zero --steps 2 --threads 1
expect 0 "MB in all|done" bmvp finetune --data prepared --out unet_less --network unet3d_tiny --crop 16 --batch 2 --fill zero --steps 2 --threads 1 --recompute
for run in unet unet_less; do sed 's/, "lr".*//' $run/log.jsonl >losses_$run; done
same losses_unet losses_unet_less
check "recomputing takes less memory" awk "BEGIN { exit !($(bmvp finetune --data prepared --out none --network unet3d_tiny --crop 16 --batch 2 --fill zero --plan --recompute |
    sed -n 's/.* moments, \([0-9.]*\) MB for a step.*/\1/p') < 0.9 * $(bmvp finetune --data prepared --out none --network unet3d_tiny --crop 16 --batch 2 --fill zero --plan |
    sed -n 's/.* moments, \([0-9.]*\) MB for a step.*/\1/p')) }"
expect 0 "6 cases, 0 left out" bmvp predict --checkpoint unet/best.safetensors --data prepared --out unet_maps --threads 1
expect 0 "6 cases (6 new" bmvp prepare --data phantoms --out squeezed --spacing 0 --resize 32,32,16 --preset finetune
expect 0 "classification from $init|done" bmvp finetune --data squeezed --out classes --task classify --init $init --fill zero --steps 2 --train all --val all --threads 1 --batch 2 --set crop_x=32,crop_y=32,crop_z=16 --allow-absent
expect 0 "class |6 cases, 0 left out" bmvp predict --checkpoint classes/best.safetensors --data phantoms --out classified --threads 1
check "a class a case" test "$(grep -c '"class":' classified/predictions.json)" -eq 6
absent classified/case_0001.nii.gz
expect 0 "accuracy" bmvp evaluate --task classify --data phantoms --predictions classified
edit prepared/dataset.json prepared/kinds.json 's/"labels_kind": "regions"/"labels_kind": "classes"/; s/"labels": "phantom"/"labels_kind": "classes", "labels": {"core": 1, "edema": 2, "enhancing": 3}/'
expect 0 "core (|edema (|enhancing (|weights of the classes|done" bmvp finetune --data prepared/kinds.json --out kinds --network uniformer_tiny --crop 16 --batch 2 --fill zero --steps 2 --threads 1 --class-weights balanced --set ce_weight=1
expect 0 "1 cases, 0 left out" bmvp predict --checkpoint kinds/best.safetensors --data phantoms/case_0001 --out kinds_maps --probabilities --threads 1
for k in "" _background _core _edema _enhancing; do on_grid kinds_maps/case_0001$k.nii.gz phantoms/case_0001/seg.nii.gz; done

# ---- prediction -----------------------------------------------------------------------------------------------------------------------

# predict OUT OPTION...
predict() { "$program" predict --checkpoint run/best.safetensors --threads 1 --out "$@"; }
expect 0 "filled by template|6 cases, 0 left out" predict list --data phantoms/dataset.json
expect 0 "6 cases, 0 left out" predict directory --data phantoms
expect 0 "1 cases, 0 left out" predict one --data phantoms/case_0002
expect 0 "6 cases, 0 left out" predict of_prepared --data prepared
for i in 1 2 3 4 5 6; do
    same list/case_000$i.nii.gz directory/case_000$i.nii.gz
    on_grid list/case_000$i.nii.gz phantoms/case_000$i/seg.nii.gz
    on_grid of_prepared/case_000$i.nii.gz prepared/case_000$i/seg.nii
done
same list/case_0002.nii.gz one/case_0002.nii.gz
says list/predictions.json '"checkpoint":"run/best.safetensors"'
# A program of one's own makes the same map.
case=$(grep -l . phantoms/case_0003/t1.nii.gz phantoms/case_0003/t1c.nii.gz phantoms/case_0003/t2.nii.gz phantoms/case_0003/flair.nii.gz 2>/dev/null |
    sed 's|.*/\([a-z0-9]*\).nii.gz|\1=&|' | sort)
# shellcheck disable=SC2086 # words wanted
expect 0 "t1: |flair: " "$segment" run/best.safetensors own.nii.gz $case
same list/case_0003.nii.gz own.nii.gz
expect 1 "usage" "$segment" run/best.safetensors own.nii.gz t1
expect 1 "absent.nii.gz" "$segment" run/best.safetensors own.nii.gz t1=absent.nii.gz
says list/predictions.json '":"template"}'
expect 0 "WT|mean|6 of phantoms" bmvp evaluate --data phantoms --predictions list
expect 0 "6 of prepared" bmvp evaluate --data prepared --predictions of_prepared --no-distances
expect 0 "filled by zero|6 cases" predict by_zero --data phantoms --fill zero
says by_zero/predictions.json '":"zero"}'
expect 0 "case_0001: |without |t1c|t2" predict dropped --data phantoms/case_0001 --drop t1c,t2
says dropped/predictions.json '"t1c":"template"'
expect 0 "1 cases" predict probable --data phantoms/case_0001 --probabilities --mirror --weights gaussian --overlap 0.25 --batch 2
for k in "" _WT _TC _ET; do on_grid probable/case_0001$k.nii.gz phantoms/case_0001/seg.nii.gz; done
expect 0 "1 cases" predict plain --data phantoms/case_0001 --probabilities
check "mirroring and weights change the probabilities" sh -c '! cmp -s probable/case_0001_WT.nii.gz plain/case_0001_WT.nii.gz'
same plain/case_0001.nii.gz list/case_0001.nii.gz
# shellcheck disable=SC2086 # words wanted
for part in "test 2" "val 1" "train 3" "all 6"; do
    expect 0 "${part#* } cases, 0 left out" predict part --data phantoms --split run/split.json --part ${part% *}
done
expect 0 "6 cases" bmvp predict --checkpoint run/best.safetensors --threads 2 --out threads --data phantoms
for i in 1 2 3 4 5 6; do same list/case_000$i.nii.gz threads/case_000$i.nii.gz; done
clean list

# ---- the checkpoint -----------------------------------------------------------------------------------------------------------------

expect 0 "tensors" bmvp convert run/best.safetensors best.pt
expect 0 "tensors" bmvp convert best.pt back.safetensors
same run/best.safetensors back.safetensors
expect 0 "1 cases" bmvp predict --checkpoint best.pt --data phantoms/case_0002 --out from_pt --threads 1
same from_pt/case_0002.nii.gz list/case_0002.nii.gz
for file in run/best.safetensors best.pt; do
    bmvp info $file --json >info.json
    says info.json '"kind":"checkpoint"'
    says info.json '"name":"uniformer_tiny"'
    says info.json '"task":"segment"'
    says info.json '"modalities":["flair","t1","t1c","t2"]'
    says info.json '"labels":'
    says info.json '"trained":{"by":"bmvpfinetune0.2.0","from":"checkpoint.safetensors","data":"prepared","cases":3,"validated_on":1}'
    says info.json '"settings":{"preset":"paper","crop_x":16,'
done

clean .
finish
