#!/bin/sh
# run.sh TEST... - runs the test programs one after the other and, meanwhile, the shell tests, and adds up what they say; who is through
# with the shell tests helps with the programs, from their end on. `make test` calls it.
# What failed is said again at the end, for those who see no more than that.
# The last line is `N passed, N failed, N skipped`; the exit status is 1 when a test failed or a program died without saying how it went.
# Environment: LEAVE_OUT, shell tests that are not run (folder/name, in a list); they are named at the end.
cd "$(dirname "$0")/.." || exit 1
T=$(mktemp -d "${TMPDIR:-/tmp}/bmvp_run.XXXXXX") || exit 1
shells=
trap 'rm -rf "$T"' EXIT
trap 'test -z "$shells" || kill "$shells"; exit 130' INT TERM

# run NAME COMMAND...: what it says, and its counts in $T/counts.$worker
run()
{
    name=$1
    shift
    echo "== $name"
    start=$(date +%s)
    { "$@" 2>&1; echo "exit $?"; } | tee "$T/said.$worker" | sed '$d'
    code=$(sed -n '$s/^.*exit //p' "$T/said.$worker")
    line=$(grep -E '^[0-9]+ passed, [0-9]+ failed(, [0-9]+ skipped)?$' "$T/said.$worker" | tail -n 1)
    # shellcheck disable=SC2046 # words wanted
    set -- $(echo "$line" | tr -c '0-9' ' ')
    if [ $# -lt 2 ]; then
        echo "FAILED: $name ended with status $code and no count of its tests"
        set -- 0 1
    elif [ "$code" != 0 ] && [ "$2" -eq 0 ]; then
        echo "FAILED: $name counted no failure, but ended with status $code"
        set -- "$1" 1 "${3:-0}"
    fi
    echo "$1 $2 ${3:-0}" >>"$T/counts.$worker"
    if [ "$2" -gt 0 ]; then
        { echo "== $name"; grep -E -A 12 '^FAILED: |^[^ ]+:[0-9]+: ' "$T/said.$worker" || tail -n 12 "$T/said.$worker"; } | head -n 60 >>"$T/failed"
    fi
    echo "== $name: $(($(date +%s) - start)) s"
}

run_shells()
{
    worker=shells
    for t in form/house form/forms form/readme form/sign program/cli program/layouts program/launch program/ranks_cli program/finetune_cli \
        program/train_cli fuzz/replay faults/faults program/weights program/raw program/state program/methods program/baselines program/course program/install gpu/cuda_cli; do
        case " ${LEAVE_OUT-} " in
        *" $t "*) ;;
        *) run "$t.sh" sh "tests/$t.sh" ;;
        esac
    done
    # shellcheck disable=SC2046 # words wanted
    run_programs $(for t in "$@"; do echo "$t"; done | sed '1!G;h;$!d')
    echo finished >"$T/shells_done"
}

# run_programs TEST...: those that nobody else has begun
run_programs()
{
    for t in "$@"; do
        if mkdir "$T/begun.$(basename "$t")" 2>/dev/null; then run "$(basename "$t")" "$t"; fi
    done
}

run_shells "$@" >"$T/shells" 2>&1 &
shells=$!
worker=programs
run_programs "$@"
wait "$shells"
cat "$T/shells"
if [ ! -f "$T/shells_done" ]; then
    echo "FAILED: the shell tests did not come to their end"
    echo "0 1 0" >>"$T/counts.programs"
fi
if [ -s "$T/failed" ]; then
    echo "FAILED, once more:"
    cat "$T/failed"
fi
if [ -n "${LEAVE_OUT-}" ]; then echo "left out: $LEAVE_OUT"; fi
awk '{ for (i = 1; i <= 3; ++i) n[i] += $i }
     END { printf "%d passed, %d failed, %d skipped\n", n[1], n[2], n[3]; exit n[2] > 0 }' "$T"/counts.*
