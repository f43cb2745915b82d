#!/bin/sh
# run.sh SECONDS HARNESS... - looks for inputs that break a reader, so long for each (`make fuzz SECONDS=60`). It begins with the fixtures and
# goes on from build/corpus, which stays. What is found lies in build/found: it goes to tests/fuzz/found, and replay.sh keeps it.
# The harnesses look at processor time themselves (fuzz.h); -timeout, which is of the wall clock and so of the machine's load, too, ends what hangs.
cd "$(dirname "$0")/../.." || exit 1
seconds=$1
shift
export ASAN_OPTIONS=allocator_may_return_null=1 UBSAN_OPTIONS=print_stacktrace=1
mkdir -p build/found
failed=0
for name in "$@"; do
    corpus=build/corpus/$name modes=
    mkdir -p "$corpus"
    case $name in
    checkpoint) files=$(find tests/fixtures/io tests/fuzz/found/checkpoint -type f) modes='0 1 2' ;;
    json) files=$(find tests/fixtures/nets tests/fuzz/found/json -name '*.json') ;;
    nifti) files=$(find tests/fixtures/nifti tests/fuzz/found/nifti -name '*.nii*') modes='0 1 2 3' ;;
    meet | texts) files=$(find tests/fuzz/seeds/$name -type f) modes='0 1 2 3' ;;
    trainers) files="/dev/null $(find tests/fuzz/found/trainers -type f) $(find tests/fuzz/found/checkpoint -name '*.safetensors')" modes='0 1 2' ;;
    *) files=$(find tests/fuzz/found/lists tests/fuzz/found/json -type f) ;;
    esac
    for file in $files; do
        for mode in ${modes:-none}; do
            # shellcheck disable=SC2059 # the octal text is a format on purpose
            { if [ "$mode" != none ]; then printf "\\00$mode"; fi; cat "$file"; } >"$corpus/seed_$mode$(basename "$file")"
        done
    done
    echo "== $name"
    if ! nice build/fuzz_$name "$corpus" -max_total_time="$seconds" -max_len=65536 -timeout=120 -rss_limit_mb=2000 -malloc_limit_mb=1000 \
        -dict="tests/fuzz/$name.dict" -artifact_prefix="build/found/$name-" -print_final_stats=1 >"build/found/$name.log" 2>&1; then
        failed=$((failed + 1))
        echo "FAILED: $name"
        tail -n 25 "build/found/$name.log"
    fi
    grep -E 'stat::number_of_executed_units|stat::peak_rss' "build/found/$name.log"
    grep -oE 'cov: [0-9]+' "build/found/$name.log" | tail -n 1
done
exit $failed
