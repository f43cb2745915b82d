#!/bin/sh
# missing_modalities.sh - Dice with each subset of the modalities, templates against zeros. Three networks, all pre-trained and fine-tuned on
# all labels with two copies of each case in which modalities are replaced: by templates, by zeros; and one that never saw a replacement and gets
# zeros. Writes $OUT/missing.tsv and its part of the page.
. "$(dirname "$0")/common.sh"
make_data
pretrain_full | in_parallel
share=${FRACTIONS##* }
modalities="flair t1 t1c t2"

say "missing modalities: fine-tuning, seeds $SEEDS"
for seed in $SEEDS; do
    finetune "templates_$share" "$seed" "$share" --init "$(checkpoint full)" --set copies=1
    finetune "zeros_$share" "$seed" "$share" --init "$(checkpoint full)" --fill zero --set copies=1
    finetune "pretrained_$share" "$seed" "$share" --init "$(checkpoint full)" --set copies=0
done | in_parallel

# subsets: every non-empty set as "present:dropped", names joined by + and ,
subsets()
{
    i=1
    while [ $i -lt 16 ]; do
        present='' dropped='' bit=1
        for m in $modalities; do
            if [ $((i / bit % 2)) -eq 1 ]; then present=$present+$m; else dropped=$dropped,$m; fi
            bit=$((bit * 2))
        done
        echo "${present#+}:${dropped#,}"
        i=$((i + 1))
    done
}

say "missing modalities: 15 subsets, three ways"
for set in $(subsets); do
    present=${set%%:*} dropped=${set#*:}
    for seed in $SEEDS; do
        for arm in templates zeros pretrained; do
            case $arm in templates) fill=template ;; *) fill=zero ;; esac
            test_run "${arm}_$share" "$seed" "only_$present" --fill $fill ${dropped:+--drop "$dropped"}
        done
    done
done | in_parallel

: >"$OUT/missing.tsv"
for arm in pretrained zeros templates; do
    case $arm in templates) name="trained and filled with templates" ;; zeros) name="trained and filled with zeros" ;; *) name="filled with zeros only" ;; esac
    for set in $(subsets); do
        present=${set%%:*}
        for seed in $SEEDS; do result "$OUT/missing.tsv" "$name" "$present" "${arm}_$share" "$seed" "only_$present"; done
    done
done
"$page" missing "$OUT/missing.tsv" "$OUT/experiments.html"
