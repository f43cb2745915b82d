#!/bin/sh
# run.sh TEST... - runs the test programs and the shell tests, one after the other, and adds up what they say. `make test` calls it.
# The last line is `N passed, N failed, N skipped`; the exit status is 1 when a test failed or a program died without saying how it went.
cd "$(dirname "$0")/.." || exit 1
said=$(mktemp "${TMPDIR:-/tmp}/bmvp_said.XXXXXX") || exit 1
trap 'rm -f "$said"' EXIT
trap 'exit 130' INT TERM
passed=0 failed=0 skipped=0

# run NAME COMMAND...
run()
{
    name=$1
    shift
    echo "== $name"
    start=$(date +%s)
    { "$@" 2>&1; echo "exit $?"; } | tee "$said" | sed '$d'
    code=$(sed -n '$s/^.*exit //p' "$said")
    line=$(grep -E '^[0-9]+ passed, [0-9]+ failed(, [0-9]+ skipped)?$' "$said" | tail -n 1)
    # shellcheck disable=SC2086 # words wanted
    set -- $(echo "$line" | tr -c '0-9' ' ')
    if [ $# -lt 2 ]; then
        echo "FAILED: $name ended with status $code and no count of its tests"
        set -- 0 1
    elif [ "$code" != 0 ] && [ "$2" -eq 0 ]; then
        echo "FAILED: $name counted no failure, but ended with status $code"
        set -- "$1" 1 "${3:-0}"
    fi
    passed=$((passed + $1)) failed=$((failed + $2)) skipped=$((skipped + ${3:-0}))
    echo "== $name: $(($(date +%s) - start)) s"
}

for t in "$@"; do run "$(basename "$t")" "$t"; done
for t in forms readme cli finetune_cli train_cli cuda_cli; do run "$t.sh" sh "tests/$t.sh"; done
echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" -eq 0 ]
