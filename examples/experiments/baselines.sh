#!/bin/sh
# baselines.sh - every pre-training method that the program has, and none, before the same fine-tuning: one table of Dice (HD95) with spread,
# paired differences to the same network from scratch, and what pre-training took. `make baselines` calls it; $OUT/baselines.html.
# Settings: those of common.sh (POOL, DATA, STEPS, SEEDS, JOBS ..), and
#   METHODS="mae3d .."       default: all that `bmvp pretrain --method list` names
#   EQUAL=steps|seconds      what all get alike: PRETRAIN_STEPS steps (300), or as many as fit into PRETRAIN_SECONDS (600) by a short trial
#   PRETRAININGS=once|each   one pre-training for all seeds of fine-tuning, or one for each
#   NETWORK                  one network for all; default: the tiny one of each method
#   CROP                     of pre-training and fine-tuning; default: that of the method's preset
#   BATCH                    of pre-training; default: that of the method's preset
#   SHARE                    per cent of the labelled cases in fine-tuning; default: the first of FRACTIONS
# A stopped run goes on where it was. Times mean something only where nothing else runs, and JOBS share the memory of the machine.
own_network=${NETWORK:-} own_crop=${CROP:-}
PRETRAIN_STEPS=${PRETRAIN_STEPS:-300}
. "$(dirname "$0")/common.sh"
EQUAL=${EQUAL:-steps} PRETRAIN_SECONDS=${PRETRAIN_SECONDS:-600} PRETRAININGS=${PRETRAININGS:-once} BATCH=${BATCH:-}
METHODS=${METHODS:-$("$bmvp" pretrain --method list | cut -f 1)}
SHARE=${SHARE:-${FRACTIONS%% *}}
DISTANCES=
here=$OUT/baselines
mkdir -p "$here"
case $EQUAL in steps | seconds) ;; *) echo "EQUAL=$EQUAL: steps or seconds" >&2; exit 2 ;; esac
case $PRETRAININGS in once) pretraining_seeds=0 ;; each) pretraining_seeds=$SEEDS ;; *) echo "PRETRAININGS=$PRETRAININGS: once or each" >&2; exit 2 ;; esac
make_data

# network METHOD: the tiny one of its preset fast, or of that one's kind
network()
{
    if [ -n "$own_network" ]; then echo "$own_network"; return; fi
    "$bmvp" pretrain --method list | awk -F '\t' -v m="$1" '$1 == m { if ($5 !~ /_tiny$/) sub(/_(small|base)$|$/, "_tiny", $5); print $5 }'
}
# begin METHOD: the options of its runs
begin() { echo "--method $1 --data $POOL --preset fast --threads 1 --network $(network "$1") ${own_crop:+--crop $own_crop} ${BATCH:+--batch $BATCH}"; }
# told METHOD WORD: what the program says of its run: network, crop, batch
told() { sed -n "s/^ *$2  *\([^ ]*\).*/\1/p" "$here/$1.plan" | head -n 1; }
# last LOG NAME: a number of the last line of a log
last() { tail -n 1 "$1" | sed -n "s/.*\"$2\": *\([0-9.e+-]*\).*/\1/p"; }
seed_of() { if [ "$PRETRAININGS" = each ]; then echo "$1"; else echo 0; fi; }

# Which methods run here, with which network and crop. Those that cannot are named with their reason.
ready=
for method in $METHODS; do
    # shellcheck disable=SC2046 # words wanted
    if "$bmvp" pretrain $(begin "$method") --out "$here/none" --plan >"$here/$method.plan" 2>"$here/$method.why"; then
        ready="$ready $method"
    else say "left out: $method: $(tail -n 1 "$here/$method.why")"
    fi
done

# steps METHOD: of its pre-training. In seconds: a trial of 24 steps, whose first 8 warm up.
steps()
{
    if [ "$EQUAL" = steps ]; then echo "$PRETRAIN_STEPS"; return; fi
    if [ ! -f "$here/$1.steps" ]; then
        rm -rf "$here/trial.$1"
        # shellcheck disable=SC2046 # words wanted
        quiet "$here/trial.$1.log" "$bmvp" pretrain $(begin "$1") --out "$here/trial.$1" --steps 24
        sed -n '8p;24p' "$here/trial.$1/log.jsonl" | sed 's/.*"seconds": *\([0-9.e+-]*\).*/\1/' |
            awk -v most="$PRETRAIN_SECONDS" 'NR == 1 { a = $1 } NR == 2 { n = int(most * 16 / ($1 - a > 0 ? $1 - a : 0.001)); print n < 1 ? 1 : n }' >"$here/$1.steps"
        rm -rf "$here/trial.$1"
    fi
    cat "$here/$1.steps"
}

# A line for in_parallel: the pre-training of METHOD with SEED, new or gone on with.
pretrain_method()
{
    run=$OUT/pretrained/$1.$2
    [ -f "$run/done" ] && return
    mkdir -p "$OUT/pretrained"
    if [ -f "$run/checkpoint.safetensors" ]; then how="--out $run --resume --threads 1"
    else
        rm -rf "$run"
        how="$(begin "$1") --out $run --steps $(steps "$1") --seed $2"
    fi
    echo "$bmvp pretrain $how --save-every 100 >$run.log 2>&1 && touch $run/done || { tail -n 5 $run.log; exit 1; }"
}

say "pre-training:$ready"
for seed in $pretraining_seeds; do
    for method in $ready; do pretrain_method "$method" "$seed"; done
done >"$here/jobs"
in_parallel <"$here/jobs"

say "fine-tuning at $SHARE per cent, seeds $SEEDS"
for seed in $SEEDS; do
    for method in $ready; do
        CROP=$(told "$method" crop) network=$(told "$method" network)
        finetune "baseline_$method" "$seed" "$SHARE" --init "$OUT/pretrained/$method.$(seed_of "$seed")/checkpoint.safetensors" --fill zero --set copies=0
        finetune "scratch_${network}_$CROP" "$seed" "$SHARE" --network "$network" --fill zero --set copies=0
    done
done | sort -u >"$here/jobs"
in_parallel <"$here/jobs"
for seed in $SEEDS; do
    for method in $ready; do
        test_run "baseline_$method" "$seed" test
        test_run "scratch_$(told "$method" network)_$(told "$method" crop)" "$seed" test
    done
done | sort -u >"$here/jobs"
in_parallel <"$here/jobs"

: >"$here/results.tsv"
printf 'how\t%s\t%s\t%s\t%s\n' "$EQUAL" "$PRETRAININGS" "$(basename "$POOL")" "$SHARE" >"$here/costs.tsv"
seen=
for method in $ready; do
    network=$(told "$method" network) crop=$(told "$method" crop)
    place="$network, crop $crop"
    case " $seen " in
    *" $network.$crop "*) ;;
    *) for seed in $SEEDS; do result "$here/results.tsv" "from scratch" "$place" "scratch_${network}_$crop" "$seed" test; done ;;
    esac
    seen="$seen $network.$crop"
    for seed in $SEEDS; do result "$here/results.tsv" "$method" "$place" "baseline_$method" "$seed" test; done
    log=$OUT/pretrained/$method.$(seed_of "${SEEDS%% *}")/log.jsonl
    printf '%s\t%s\t%s\t%s\t%s\t%s\n' "$method" "$place" "$(last "$log" step)" "$(told "$method" batch)" "$(last "$log" seconds)" \
        "$(last "$log" peak_memory_mb)" >>"$here/costs.tsv"
done
for method in $METHODS; do
    case " $ready " in
    *" $method "*) ;;
    *) printf '%s\t-\t%s\n' "$method" "$(tail -n 1 "$here/$method.why")" >>"$here/costs.tsv" ;;
    esac
done
"$page" baselines "$here/results.tsv" "$here/costs.tsv" "$OUT/baselines.html"
echo
echo "open $OUT/baselines.html"
