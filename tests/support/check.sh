# check.sh - counting and comparing for the shell tests; each does `. tests/support/check.sh`, works below $T, and ends with finish

passed=0 failed=0 skipped=0
T=$(mktemp -d "${TMPDIR:-/tmp}/bmvp_test.XXXXXX") || exit 1
out=$T/out   # what the program said last
trap 'chmod -R u+rwx "$T"; rm -rf "$T"' EXIT
trap 'exit 130' INT TERM

# with_program [FILE]: $program is the program (else BMVP, else build/bmvp), bmvp runs it; from here on in $T
with_program()
{
    program=${1:-${BMVP:-build/bmvp}}
    case $program in /*) ;; *) program=$(pwd)/$program ;; esac
    cd "$T" || exit 1
}
bmvp() { "$program" "$@"; }

# new_port: $port becomes one at which nothing is, below those that systems give to clients, whose ends hold them for a minute and more
port=$((15000 + $$ * 37 % 15000))
new_port()
{
    while :; do
        port=$((15000 + (port - 14999) % 15000))
        grep -qs ":$(printf %04X $port) " /proc/net/tcp /proc/net/tcp6 || return 0
    done
}

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

# silent WHAT COMMAND...: the command succeeds and has nothing to say
silent()
{
    what=$1
    shift
    if "$@" >"$T/said" 2>&1 && [ ! -s "$T/said" ]; then pass; else fail "$what" "$T/said"; fi
}

# program_of HEADER: its example, the program below the line "a complete program": from its first #define to the brace that closes main.
program_of()
{
    awk 'tolower($0) ~ /^ *a complete program/ { on = 1; next }
         on && !depth && /^ *#define/ { match($0, /^ */); depth = RLENGTH }
         on && depth { line = substr($0, depth + 1); print line; if (line == "}") exit }' "$1"
}

# expect STATUS TEXT COMMAND...: ends with the status, and each |-separated part of the text is in what it says
expect()
{
    want=$1 texts=$2
    shift 2
    "$@" >"$out" 2>&1
    judge $? "$want" "$texts" "$*"
}

# judge STATUS WANTED TEXTS NAME: the same for output that is in $out already. Sanitizers also end with 1: they are looked for.
judge()
{
    if [ "$1" -ne "$2" ]; then
        fail "$4: status $1, not $2" "$out"
        return
    fi
    if grep -qE 'Sanitizer|runtime error:' "$out"; then
        fail "$4: sanitizer" "$out"
        return
    fi
    rest=$3
    while [ -n "$rest" ]; do
        text=${rest%%|*}
        if ! grep -qF -e "$text" "$out"; then
            fail "$4: no word of '$text'" "$out"
            return
        fi
        case $rest in *"|"*) rest=${rest#*|} ;; *) rest= ;; esac
    done
    pass
}

# lines FILE N PID: waits until the file has N lines (1: the process ended before)
lines()
{
    while [ ! -e "$1" ] || [ "$(wc -l <"$1")" -lt "$2" ]; do
        kill -0 "$3" 2>/dev/null || return 1
        sleep 0.02
    done
}

# explained PAGE: every figure of a report page has a title or stands in a section, and is explained by words that are there; every axis has a
# label; and the page is made for phones, printers and dark screens and takes nothing from elsewhere
explained()
{
    awk '
        /<p [^>]*id="[^"]*">[^<]/ { match($0, /id="[^"]*"/); words[substr($0, RSTART + 4, RLENGTH - 5)] = 1 }
        /<figure/ { if (match($0, /aria-describedby="[^"]*"/)) want[++n] = substr($0, RSTART + 18, RLENGTH - 19); else want[++n] = "none" }
        /<svg class="plot"/ { ++plots }
        /text-anchor="end">[^<]+<\/text><text x="0" y="14">[^<]/ { ++labelled }
        /name="viewport"/ { ++viewport }
        /@media print/ { ++print_style }
        /prefers-color-scheme:dark/ { ++dark }
        /(src|href)="?(https?:|\/\/)|@import|@font-face|<link/ { print "from elsewhere: " substr($0, 1, 80); bad = 1 }
        END {
            for (i = 1; i <= n; ++i) if (!(want[i] in words)) { print "figure " i ": no sentence " want[i]; bad = 1 }
            if (!n) { print "no figures"; bad = 1 }
            if (plots != labelled) { print plots " plots, " labelled + 0 " with labels of both axes"; bad = 1 }
            if (!viewport || !print_style || !dark) { print "no viewport, print or dark style"; bad = 1 }
            exit bad
        }' "$1"
}

clean() { check "something half written is left in $1" test -z "$(find "$1" -name '*.tmp*')"; }
same() { check "$1 and $2 differ" cmp "$1" "$2"; }
absent() { check "$1 is there" test ! -e "$1"; }
bytes() { wc -c <"$1" | tr -d ' '; }
# patch FILE OFFSET OCTAL: writes bytes over those of a file
# shellcheck disable=SC2059 # the octal text is a format on purpose
patch() { printf "$3" | dd of="$1" bs=1 seek="$2" conv=notrunc 2>/dev/null; }

finish()
{
    echo "$passed passed, $failed failed, $skipped skipped"
    [ "$failed" -eq 0 ]
}
