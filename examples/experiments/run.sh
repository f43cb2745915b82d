#!/bin/sh
# run.sh - all experiments, one after the other; `make experiments` calls it. Settings: see common.sh. Results: $OUT/experiments.html
dir=$(dirname "$0")
. "$dir/common.sh"
started=$(date +%s)
make_data
{ # the three pre-trainings at once
    pretrain_full
    pretrain distillation weight_cl=0
    pretrain reconstruction weight_md=0,weight_cl=0
} | in_parallel
say "pre-training done"
sh "$dir/label_efficiency.sh"
sh "$dir/ablation.sh"
sh "$dir/missing_modalities.sh"
echo
echo "took $((($(date +%s) - started) / 60)) minutes; open $OUT/experiments.html"
