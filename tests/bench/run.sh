#!/bin/sh
# make bench: every row beside its peer where that is installed, one table at the end. Nothing else should run
# meanwhile.
#   THREADS=2         threads of both sides (default: all)
#   REPS=7            runs of a row, the median counts
#   FULL=1            also the rows that take minutes: the real step, UNET3D
#   ONLY=step         one row of bench_step
#   PYTHON=python3    interpreter whose torch (and monai) is the peer
#   BMVP_DATA=DIR     where patients/msd_brats_001 lies: preparation and reading of files
set -u
cd "$(dirname "$0")/../.." || exit 1
PYTHON=${PYTHON:-python3}
CC=${CC:-cc}
THREADS=${THREADS:-$(getconf _NPROCESSORS_ONLN)}
REPS=${REPS:-7}
CASE=${BMVP_DATA:-../shared}/patients/msd_brats_001
[ -d "$CASE" ] || CASE=${BMVP_DATA:-../shared}/data/patients/msd_brats_001
STEP="build/bench_step --threads $THREADS --reps $REPS${FULL:+ --full}${ONLY:+ --only $ONLY}"
TWIN="$PYTHON tests/bench/twin.py --threads $THREADS --reps $REPS${FULL:+ --full}${ONLY:+ --only $ONLY}"
tmp=$(mktemp -d) || exit 1
trap 'rm -rf "$tmp"' EXIT
trap 'exit 1' INT TERM

ours() { printf '{"row":"%s","median_ms":%s}\n' "$1" "$2" >> "$tmp/ours"; }
peer() { printf '{"row":"%s","median_ms":%s,"layout":"%s"}\n' "$1" "$2" "$3" >> "$tmp/peer"; }
middle() { sort -n | awk '{ v[NR] = $1 } END { print (v[int((NR + 1) / 2)] + v[int(NR / 2) + 1]) / 2 }'; }
: > "$tmp/ours"
: > "$tmp/peer"

# A memory that keeps what it once got: without it PyTorch's times are mostly page faults.
twin() {
    env MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=100000000000 MALLOC_TOP_PAD_=536870912 "$@" > "$tmp/twin" || {
        echo "the PyTorch twin failed: $*" >&2
        return
    }
    grep '^SKIP' "$tmp/twin"
    grep '^{' "$tmp/twin" >> "$tmp/peer"
}

echo "bench_step ..." >&2
$STEP --json > "$tmp/step" || exit 1
head -1 "$tmp/step" | tr -d '{}"' | tr ',' '\n' | sed 's/:/: /; s/^/  /'
tail -n +2 "$tmp/step" >> "$tmp/ours"
echo "twin.py ..." >&2
twin $TWIN --json

if [ -z "${ONLY:-}" ]; then
    echo "metrics ..." >&2
    seg=
    [ -f "$CASE/seg.nii.gz" ] && seg=$CASE/seg.nii.gz
    build/bench_metrics --reps "$REPS" --json ${seg:+--seg "$seg"} >> "$tmp/ours" || exit 1
    twin "$PYTHON" tests/bench/twin.py --metrics ${seg:+"$seg"} --reps "$REPS" --json
fi

# Preparation on one core: seconds of a case, reading and writing included; the program is started anew each time.
if [ -d "$CASE" ] && [ -z "${ONLY:-}" ]; then
    echo "prepare, files ..." >&2
    mkdir "$tmp/data" && ln -s "$(cd "$CASE" && pwd)" "$tmp/data/case"
    i=0
    while [ $i -le "$REPS" ]; do
        rm -rf "$tmp/prepared"
        start=$(date +%s%N)
        build/bmvp prepare --data "$tmp/data" --out "$tmp/prepared" --threads 1 > "$tmp/log" 2>&1 || {
            cat "$tmp/log"
            break
        }
        [ $i -gt 0 ] && echo $((($(date +%s%N) - start) / 1000)) >> "$tmp/prepare_us"
        i=$((i + 1))
    done
    [ -s "$tmp/prepare_us" ] && ours prepare "$(middle < "$tmp/prepare_us" | awk '{ print $1 / 1000 }')"
    twin "$PYTHON" tests/bench/twin.py --prepare "$CASE" --reps "$REPS" --json
    flags= libs=
    if echo '#include <nifti2_io.h>' | $CC -I/usr/include/nifti -E - > /dev/null 2>&1; then
        flags="-DHAVE_NIFTICLIB -I/usr/include/nifti" libs="-lnifti2 -lznz -lz"
    fi
    if $CC -std=c99 -O2 -I. ${DEFS:-} $flags tests/bench/bench_nifti.c -o "$tmp/bench_nifti" $libs \
           ${GZ:--ldeflate} -lm; then
        (cd "$tmp" && ./bench_nifti data/case/t1c.nii.gz) > "$tmp/nifti"
        read_ms=$(sed -n 's/^read .*gz: \([0-9.]*\) ms.*/\1/p' "$tmp/nifti")
        peer_ms=$(sed -n 's/^read .*nifti_clib \([0-9.]*\) ms.*/\1/p' "$tmp/nifti")
        crop_ms=$(sed -n 's/^read a .* box .*: \([0-9.]*\) ms.*/\1/p' "$tmp/nifti")
        [ -n "$read_ms" ] && ours read_nii_gz "$read_ms"
        [ -n "$peer_ms" ] && peer read_nii_gz "$peer_ms" nifti_clib
        [ -n "$crop_ms" ] && ours read_crop "$crop_ms"
    fi
fi

# One table: row, ours, share of the multiply-add ceiling, peak memory, peer, how many times as fast, goal.
awk -v step="build/bench_step --threads $THREADS --only" '
function field(key,   p) {
    p = index($0, "\"" key "\":")
    if (!p) p = index($0, "\"" key "\": ")
    if (!p) return ""
    p = substr($0, p + length(key) + 3)
    sub(/^ *"?/, "", p)
    sub(/["}].*/, "", p)
    sub(/,.*/, "", p)
    return p
}
function time(ms) { return ms == "" ? "-" : ms + 0 >= 1000 ? sprintf("%.2f s", ms / 1000) : sprintf("%.2f ms", ms) }
BEGIN {
    goal["step"] = 4000; goal["inference"] = 600; goal["prepare"] = 350; goal["read_crop"] = 5
    goal["hd95_tumour"] = goal["hd95_brain"] = goal["hd95_far"] = goal["hd95_real"] = 100
    reproduce["prepare"] = "build/bmvp prepare --threads 1"
    reproduce["read_nii_gz"] = reproduce["read_crop"] = "tests/bench/bench_nifti.c"
    printf("\n%-32s %11s %7s %8s %11s %9s %7s %10s  %s\n", "row", "ours", "ceiling", "peak MB", "peer", "peer MB",
           "ratio", "goal", "again with; the peer")
}
FILENAME == ARGV[1] {
    r = field("row"); peer[r] = field("median_ms"); how[r] = field("layout"); mem[r] = field("peak_mb") + 0
    next
}
{
    r = field("row"); ms = field("median_ms") + 0; share = field("ceiling_share") + 0; peak = field("peak_mb") + 0
    aim = r in goal ? "<= " time(goal[r]) : r == "read_nii_gz" ? ">= 1.8 x" : "-"
    missed = (r in goal && ms > goal[r]) || (r == "read_nii_gz" && r in how && peer[r] < 1.8 * ms)
    printf("%-32s %11s %7s %8s %11s %9s %7s %10s%s %s%s\n", r, time(ms),
           share > 0 ? sprintf("%.0f%%", share * 100) : "-",
           peak > 0 ? sprintf("%.0f", peak) : "-", time(peer[r]), mem[r] > 0 ? sprintf("%.0f", mem[r]) : "-",
           peer[r] != "" ? sprintf("%.2f x", peer[r] / ms) : "-", aim, missed ? "!" : " ",
           r ~ /^(hd95|dice)_/ ? "build/bench_metrics" : r in reproduce ? reproduce[r] : step " " r, how[r] != "" ? "; " how[r] : "")
}
END { print "\nratio: how many times as fast as the peer; !: goal missed; ceiling: share of the rate printed above" }
' "$tmp/peer" "$tmp/ours"
