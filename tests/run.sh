#!/bin/sh
# run.sh TEST... - runs the test programs and the shell tests, adds up their closing lines, prints the sum as the last line
here=$(dirname "$0")
passed=0 failed=0 skipped=0
log=$(mktemp) || exit 1
trap 'rm -f "$log"' EXIT

one() { # name, command ...
    name=$1
    shift
    echo "== $name"
    "$@" >"$log" 2>&1
    code=$?
    line=$(grep -E '^[0-9]+ passed, [0-9]+ failed' "$log" | tail -n 1)
    if [ -z "$line" ]; then
        tail -n 20 "$log"
        echo "$name ended with status $code and without a result line"
        failed=$((failed + 1))
        return
    fi
    [ $code -eq 0 ] && tail -n 3 "$log" || cat "$log"
    set -- $(echo "$line" | tr -cd '0-9 ')
    passed=$((passed + $1)) failed=$((failed + $2)) skipped=$((skipped + ${3:-0}))
    [ $code -eq 0 ] || [ "$2" -gt 0 ] || failed=$((failed + 1))
}

for test in "$@"; do one "$test" "$test"; done
for script in cli forms readme; do
    [ -f "$here/$script.sh" ] && one "tests/$script.sh" sh "$here/$script.sh"
done
echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" -eq 0 ]
