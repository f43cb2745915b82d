#!/bin/sh
# label_efficiency.sh - from scratch, pre-trained, and pre-trained with templates standing in for modalities during fine-tuning, at 20 to 100 %
# of the labelled cases, several seeds. The three get the same steps. Writes $OUT/efficiency.tsv and its part of $OUT/experiments.html.
. "$(dirname "$0")/common.sh"
make_data
pretrain_full | in_parallel

say "label efficiency: fine-tuning at $FRACTIONS per cent, seeds $SEEDS"
for per_cent in $FRACTIONS; do
    for seed in $SEEDS; do
        finetune "scratch_$per_cent" "$seed" "$per_cent" --network "$NETWORK" --fill zero --set copies=0
        finetune "pretrained_$per_cent" "$seed" "$per_cent" --init "$(checkpoint full)" --set copies=0
        finetune "templates_$per_cent" "$seed" "$per_cent" --init "$(checkpoint full)" --set copies=1
    done
done | in_parallel
for per_cent in $FRACTIONS; do
    for seed in $SEEDS; do
        for arm in scratch pretrained templates; do test_run "${arm}_$per_cent" "$seed" test; done
    done
done | in_parallel

: >"$OUT/efficiency.tsv"
for arm in scratch pretrained templates; do
    case $arm in scratch) name="from scratch" ;; pretrained) name=pre-trained ;; *) name="pre-trained, templates" ;; esac
    for per_cent in $FRACTIONS; do
        for seed in $SEEDS; do result "$OUT/efficiency.tsv" "$name" "$per_cent" "${arm}_$per_cent" "$seed" test; done
    done
done
"$page" efficiency "$OUT/efficiency.tsv" "$OUT/experiments.html"
