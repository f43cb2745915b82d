#!/bin/sh
# make bench: every row beside its peer where that is installed, in turn, one table at the end. Nothing else should run
# meanwhile. Takes about a quarter of an hour with all peers, 3 minutes without.
#   THREADS=2         threads of both sides (default: all)
#   REPS=7            runs of a row, the median counts; rows that take seconds are run 5 times, by PyTorch 3 times
#   FULL=1            all kernels as well, and PyTorch's long rows 5 times
#   ONLY=step         this row of bench_step and no other, or one of prepare, files, heads, metrics
#   JSON=FILE         the table as lines of JSON too, with everything that was measured; the same: --json=FILE
#   PYTHON=python3    interpreter whose torch (and monai) is the peer
#   BMVP_DATA=DIR     where patients/msd_brats_001 lies: preparation and reading of files
set -u
for argument; do
    case $argument in
    --json=*) JSON=${argument#--json=} ;;
    *) echo "usage: run.sh [--json=FILE]" >&2; exit 2 ;;
    esac
done
case ${JSON:-} in '' | /*) ;; *) JSON=$PWD/$JSON ;; esac
cd "$(dirname "$0")/../.." || exit 1
PYTHON=${PYTHON:-python3}
CC=${CC:-cc}
THREADS=${THREADS:-$(getconf _NPROCESSORS_ONLN)}
REPS=${REPS:-7}
LONG=$((REPS < 5 ? REPS : 5))
if [ -n "${FULL:-}" ]; then PEER_LONG=$LONG; else PEER_LONG=$((REPS < 3 ? REPS : 3)); fi
CASE=${BMVP_DATA:-../shared}/patients/msd_brats_001
[ -d "$CASE" ] || CASE=${BMVP_DATA:-../shared}/data/patients/msd_brats_001
tmp=$(mktemp -d) || exit 1
trap 'rm -rf "$tmp"' EXIT
trap 'exit 1' INT TERM
: > "$tmp/ours"
: > "$tmp/peer"

# A memory that keeps what it once got: without it PyTorch's times are mostly page faults.
KEEP="MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=100000000000 MALLOC_TOP_PAD_=536870912"
# Intel's MKL, which PyTorch's wheels bring, asks this function before it takes its AVX-512 kernels; on other processors
# the linear layers are half as fast without.
preload=
if grep -q AuthenticAMD /proc/cpuinfo 2> /dev/null &&
   echo 'int mkl_serv_intel_cpu_true(void); int mkl_serv_intel_cpu_true(void) { return 1; }' |
   $CC -shared -fPIC -x c - -o "$tmp/mkl.so" 2> /dev/null; then
    preload=$tmp/mkl.so
fi

twin() {
    env $KEEP ${preload:+LD_PRELOAD="$preload"} "$PYTHON" -W ignore tests/bench/twin.py --threads "$THREADS" --json "$@" > "$tmp/twin" || {
        echo "the PyTorch twin failed: $*" >&2
        return
    }
    grep '^SKIP' "$tmp/twin" > "$tmp/skip" && peers=
    grep '^{' "$tmp/twin"
}
# row, runs of ours, runs of the peer
beside() {
    echo "$1 ..." >&2
    build/bench_step --threads "$THREADS" --json --only "$1" --reps "$2" > "$tmp/step" || exit 1
    head -1 "$tmp/step" >> "$tmp/machine"
    tail -n +2 "$tmp/step" >> "$tmp/ours"
    [ -n "$peers" ] && twin --only "$1" --reps "$3" >> "$tmp/peer"
}

peers=1
: > "$tmp/skip"
twin --machine > "$tmp/torch"
build/bench_step --threads "$THREADS" --json --machine > "$tmp/machine" || exit 1
section() { [ -z "${ONLY:-}" ] || [ "$ONLY" = "$1" ]; }
if ! section prepare && ! section files && ! section heads && ! section metrics; then
    beside "$ONLY" "$REPS" "$REPS"
elif [ -z "${ONLY:-}" ]; then
    beside step "$REPS" "$PEER_LONG"
    beside real "$LONG" "$PEER_LONG"
    beside inference "$REPS" "$REPS"
    for row in unet3d_forward unet3d_step uniunet_forward uniunet_step unetr_forward unetr_step swin_unetr_forward swin_unetr_step; do
        beside $row "$LONG" "$PEER_LONG"
    done
    beside depthwise5_64_48 "$((2 * REPS))" "$REPS"
    if [ -n "${FULL:-}" ]; then
        for row in $(build/bench_step --list | sed -n '/^depthwise5_64_48/d; s/_forward$//p' | grep -v '^uni\|^unet\|^swin'); do
            beside "$row" "$REPS" "$REPS"
        done
    fi
fi

# prepare ROW RUNS OPTIONS...: preparation on one core, seconds of a case, reading and writing included; the program is started anew each time
prepare() {
    row=$1 runs=$2 i=0
    shift 2
    while [ $i -le "$runs" ]; do
        rm -rf "$tmp/prepared"
        start=$(date +%s%N)
        build/bmvp prepare "$@" --out "$tmp/prepared" --threads 1 > "$tmp/log" 2>&1 || {
            cat "$tmp/log" >&2
            return
        }
        [ $i -gt 0 ] && echo $((($(date +%s%N) - start) / 1000))
        i=$((i + 1))
    done | sort -n | awk -v row="$row" '
        { v[NR] = $1 / 1000 }
        END { if (NR) { m = (v[int((NR + 1) / 2)] + v[int(NR / 2) + 1]) / 2
              printf("{\"row\":\"%s\",\"median_ms\":%.4f,\"best_ms\":%.4f,\"spread\":%.3f,\"runs\":%d}\n",
                     row, m, v[1], (v[NR] - v[1]) / m, NR) } }'
}
# build_nifti FLAGS...: $tmp/bench_nifti
build_nifti() { $CC -std=c99 -O2 -I. ${DEFS:-} tests/bench/bench_nifti.c -o "$tmp/bench_nifti" ${GZ:--ldeflate} "$@" -lm; }
reading() {
    flags= libs=
    if echo '#include <nifti2_io.h>' | $CC -I/usr/include/nifti -E - > /dev/null 2>&1; then # Debian: libnifti-dev
        flags="-DHAVE_NIFTICLIB -I/usr/include/nifti" libs="-lnifti2 -lznz -lz"
    fi
    if echo '#include <libdeflate.h>' | $CC -E - > /dev/null 2>&1; then
        flags="$flags -DHAVE_LIBDEFLATE" libs="$libs -ldeflate"
    fi
    build_nifti $flags $libs &&
        (cd "$tmp" && env $KEEP ./bench_nifti --json data/case/t1c.nii.gz) > "$tmp/nifti" || return
    grep -v '"layout"' "$tmp/nifti" >> "$tmp/ours"
    grep '"layout"' "$tmp/nifti" >> "$tmp/peer"
}
if [ -d "$CASE" ]; then
    mkdir "$tmp/data" && ln -s "$(cd "$CASE" && pwd)" "$tmp/data/case"
    if section prepare; then
        echo "prepare ..." >&2
        prepare prepare "$REPS" --data "$tmp/data" >> "$tmp/ours"
        [ -n "$peers" ] && twin --prepare "$CASE" --reps "$LONG" >> "$tmp/peer"
    fi
    if section files; then
        echo "files ..." >&2
        reading
    fi
elif section prepare || section files; then
    echo "rows prepare and read_* need patients/msd_brats_001 below BMVP_DATA" >&2
fi
# Registration, resampling, masks, distances: phantom heads of 1 mm voxels, moved; prepare_heads: a case of four of them, registered, brought
# to a template and stripped.
if section heads; then
    echo "heads ..." >&2
    for seed in 3 8; do
        build/bmvp phantom --out "$tmp/heads$seed" --heads --cases 1 --size 240 --fov 240 --tumours 0 --missing 0 --thick 0 --seed $seed > "$tmp/log" 2>&1 || {
            cat "$tmp/log" >&2
            exit 1
        }
    done
    head=$tmp/heads3/case_0001 other=$tmp/heads8/case_0001/t1
    build_nifti && "$tmp/bench_nifti" --json --register "$head/t1.nii.gz" "$head/t2.nii.gz" "$other.nii.gz" "${other}_brain_mask.nii.gz" >> "$tmp/ours" || exit 1
    prepare prepare_heads "$LONG" --data "$tmp/heads3" --register rigid --template "$other.nii.gz" --template-brain "${other}_brain_mask.nii.gz" --strip \
        >> "$tmp/ours"
    [ -n "$peers" ] && twin --register "$head/t1.nii.gz" "$head/t2.nii.gz" "$head/t1_brain_mask.nii.gz" --reps "$PEER_LONG" >> "$tmp/peer"
fi
if section metrics; then
    echo "metrics ..." >&2
    seg=
    [ -f "$CASE/seg.nii.gz" ] && seg=$CASE/seg.nii.gz
    build/bench_metrics --reps "$REPS" --json ${seg:+--seg "$seg"} >> "$tmp/ours" || exit 1
    [ -n "$peers" ] && twin --metrics ${seg:+"$seg"} --reps "$REPS" >> "$tmp/peer"
fi
cat "$tmp/skip"

awk -v json="${JSON:-/dev/null}" -v threads="$THREADS" -f tests/bench/json.awk -f tests/bench/table.awk \
    "$tmp/machine" "$tmp/torch" "$tmp/peer" "$tmp/ours"
