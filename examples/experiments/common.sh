# common.sh - what the experiments share; read by the other scripts with `.`
#
# Settings (environment), with the values of the small setting:
#   OUT=experiments          folder of everything
#   POOL, DATA               prepared lists: cases to pre-train on (labels unused) and labelled ones; none: phantoms are made
#   CASES_POOL=100 CASES=50  phantoms to pre-train on; labelled phantoms, SIZE=64 voxels along each axis
#   NETWORK=uniformer_tiny CROP=32
#   PRETRAIN_STEPS=2500      of batch 8
#   STEPS=100                of fine-tuning, batch 4
#   SEEDS="1 2 3"  FRACTIONS="20 40 60 80 100"
#   JOBS                     processes at once, each with one thread; default: the number of processors
# Everything that is there already is kept: a stopped experiment goes on where it was.
set -e
bmvp=${BMVP:-build/bmvp}
page=${PAGE_PROGRAM:-build/experiments_page}
OUT=${OUT:-experiments}
CASES_POOL=${CASES_POOL:-100} CASES=${CASES:-50} SIZE=${SIZE:-64}
NETWORK=${NETWORK:-uniformer_tiny} CROP=${CROP:-32}
PRETRAIN_STEPS=${PRETRAIN_STEPS:-2500} STEPS=${STEPS:-100}
SEEDS=${SEEDS:-1 2 3} FRACTIONS=${FRACTIONS:-20 40 60 80 100}
JOBS=${JOBS:-$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 1)}
POOL=${POOL:-$OUT/prepared_pool} DATA=${DATA:-$OUT/prepared}
split=$OUT/split.json
mkdir -p "$OUT"

say() { echo "$(date +%H:%M:%S) $*"; }

# quiet LOG COMMAND...: output to LOG; shown when the command fails
quiet()
{
    log=$1
    shift
    "$@" >"$log" 2>&1 || {
        tail -n 5 "$log" >&2
        echo "failed: $*" >&2
        return 1
    }
}

# Runs the commands of standard input, JOBS at a time; fails if one of them did.
in_parallel() { xargs -P "$JOBS" -I COMMAND sh -c COMMAND; }

# Phantoms with tumours: a pool without use of labels, and labelled cases with their split (about 6:1:3).
make_data()
{
    if [ ! -f "$POOL/dataset.json" ] && [ ! -f "$POOL" ]; then
        say "phantoms to pre-train on: $CASES_POOL"
        quiet "$OUT/phantom_pool.log" "$bmvp" phantom --out "$OUT/phantoms_pool" --cases "$CASES_POOL" --size "$SIZE" --tumours 1 --high-grade 0.6 \
            --missing 0 --thick 0 --seed 1001
        quiet "$OUT/prepare_pool.log" "$bmvp" prepare --data "$OUT/phantoms_pool" --out "$POOL" --spacing 0 --preset finetune
    fi
    if [ ! -f "$DATA/dataset.json" ] && [ ! -f "$DATA" ]; then
        say "labelled phantoms: $CASES"
        quiet "$OUT/phantom.log" "$bmvp" phantom --out "$OUT/phantoms" --cases "$CASES" --size "$SIZE" --tumours 1 --high-grade 0.6 --missing 0 \
            --thick 0 --seed 2002
        quiet "$OUT/prepare.log" "$bmvp" prepare --data "$OUT/phantoms" --out "$DATA" --spacing 0 --preset finetune
    fi
    [ -f "$split" ] || "$bmvp" split --data "$DATA" --out "$split" --ratio 6:1:3 --seed 0
}

# pretrain NAME SETTINGS: a line for in_parallel. SETTINGS: a=1,b=2 for --set
pretrain()
{
    [ -f "$OUT/pretrained/$1/done" ] && return
    rm -rf "$OUT/pretrained/$1"
    mkdir -p "$OUT/pretrained"
    echo "$bmvp pretrain --data $POOL --out $OUT/pretrained/$1 --preset fast --network $NETWORK --crop $CROP --batch 8 \
--steps $PRETRAIN_STEPS --lr 0.002 --threads 1 ${2:+--set $2} >$OUT/pretrained/$1.log 2>&1 && touch $OUT/pretrained/$1/done || \
{ tail -n 5 $OUT/pretrained/$1.log; exit 1; }"
}

checkpoint() { echo "$OUT/pretrained/$1/checkpoint.safetensors"; }

# finetune NAME SEED PER_CENT OPTIONS...: a line for in_parallel; the run is $OUT/runs/NAME.SEED
finetune()
{
    run=$OUT/runs/$1.$2
    seed=$2 per_cent=$3
    shift 3
    [ -f "$run/done" ] && return
    rm -rf "$run"
    mkdir -p "$OUT/runs"
    echo "$bmvp finetune --data $DATA --split $split --fraction $per_cent --out $run --seed $seed --preset fast --crop $CROP --batch 4 \
--steps $STEPS --validate-every $(((STEPS + 3) / 4)) --lr 0.003 --threads 1 $* >$run.log 2>&1 && touch $run/done || { tail -n 5 $run.log; exit 1; }"
}

# test_run NAME SEED TEST OPTIONS...: predicts and evaluates the test cases with the best checkpoint; $OUT/runs/NAME.SEED/TEST/metrics.json
test_run()
{
    run=$OUT/runs/$1.$2 test=$OUT/runs/$1.$2/$3
    shift 3
    [ -f "$test/metrics.json" ] && return
    echo "$bmvp predict --checkpoint $run/best.safetensors --data $DATA --split $split --part test --out $test --threads 1 $* >$test.log 2>&1 && \
$bmvp evaluate --data $DATA --split $split --part test --predictions $test ${DISTANCES---no-distances} --threads 1 >>$test.log 2>&1 || \
{ tail -n 5 $test.log; exit 1; }"
}

# result FILE ARM PLACE NAME SEED TEST: a line of results
result() { printf '%s\t%s\t%s\t%s\n' "$2" "$3" "$5" "$OUT/runs/$4.$5/$6/metrics.json" >>"$1"; }

# The tasks of the method, one after the other. The full one serves the other experiments.
pretrain_full() { pretrain full ""; }
