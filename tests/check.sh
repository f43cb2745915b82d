# check.sh - counting for the shell tests; each does `. tests/check.sh`, works below $T, and ends with finish

passed=0 failed=0 skipped=0
T=$(mktemp -d "${TMPDIR:-/tmp}/bmvp_test.XXXXXX") || exit 1
trap 'chmod -R u+rwx "$T"; rm -rf "$T"' EXIT
trap 'exit 130' INT TERM

pass() { passed=$((passed + 1)); }
skip() { skipped=$((skipped + 1)); echo "skipped: $*"; }

# fail WHAT [FILE]: what went wrong and the end of what was said about it
fail()
{
    failed=$((failed + 1))
    echo "FAILED: $1"
    if [ -n "${2-}" ]; then tail -n 12 "$2" | cut -c 1-400 | sed 's/^/    /'; fi
}

# check WHAT COMMAND...: passes when the command says yes; what it prints is shown when it does not
check()
{
    what=$1
    shift
    if "$@" >"$T/said" 2>&1; then pass; else fail "$what" "$T/said"; fi
}

finish()
{
    echo "$passed passed, $failed failed, $skipped skipped"
    [ "$failed" -eq 0 ]
}
