#!/bin/sh
# ablation.sh - the paper's ablation: pre-training with cross-modal reconstruction alone, + modality-wise distillation, + modality-aware
# contrast; the same fine-tuning after each, at the smallest share of the labels. Writes $OUT/ablation.tsv and its part of the page.
. "$(dirname "$0")/common.sh"
make_data
share=${FRACTIONS%% *}
{
    pretrain reconstruction weight_md=0,weight_cl=0
    pretrain distillation weight_cl=0
    pretrain_full
} | in_parallel

say "ablation: fine-tuning at $share per cent, seeds $SEEDS"
for seed in $SEEDS; do
    finetune "scratch_$share" "$seed" "$share" --network "$NETWORK" --fill zero --set copies=0
    for arm in reconstruction distillation; do
        finetune "${arm}_$share" "$seed" "$share" --init "$(checkpoint "$arm")" --fill zero --set copies=0
    done
    finetune "pretrained_$share" "$seed" "$share" --init "$(checkpoint full)" --set copies=0
done | in_parallel
for seed in $SEEDS; do
    for arm in scratch reconstruction distillation pretrained; do test_run "${arm}_$share" "$seed" test; done
done | in_parallel

: >"$OUT/ablation.tsv"
for arm in scratch reconstruction distillation pretrained; do
    case $arm in
    scratch) name="no pre-training" ;; reconstruction) name=reconstruction ;;
    distillation) name="+ distillation" ;; *) name="+ contrast" ;;
    esac
    for seed in $SEEDS; do result "$OUT/ablation.tsv" "$name" "$share" "${arm}_$share" "$seed" test; done
done
"$page" ablation "$OUT/ablation.tsv" "$OUT/experiments.html"
