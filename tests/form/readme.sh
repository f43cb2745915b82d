#!/bin/sh
# readme.sh - what the README promises: its C programs compile with its cc line and run, and the program has the options it names.
# A block is tested when a comment stands on the line before it: `<!-- test: NAME.c -->` saves a program, `<!-- test: sh -->` runs the
# commands below in the folder of the programs saved so far, with the headers beside them.
cd "$(dirname "$0")/../.." || exit 1
# shellcheck source=tests/support/check.sh
. tests/support/check.sh
cp bmvp_*.h "$T" || exit 1

# One file a tested block, 01.sh or the program's name, and their order in $T/blocks.
awk -v dir="$T" '
    /^<!-- test: .* -->$/ { name = $3; next }
    name != "" && /^```/ && !file {
        file = dir "/" (name == "sh" ? sprintf("%02d.sh", ++n) : name)
        print name == "sh" ? sprintf("%02d.sh", n) : name >(dir "/blocks")
        printf "" >file
        next
    }
    file && /^```/ { close(file); file = ""; name = ""; next }
    file { print >file; next }
    { name = "" }' README.md
if [ ! -s "$T/blocks" ]; then fail "README.md has no block marked for testing"; fi

# The cc line makes a.out (or what -o names); every program made is run.
for block in $(cat "$T/blocks" 2>/dev/null); do
    case $block in *.sh) ;; *) continue ;; esac
    rm -f "$T/a.out"
    if ! (cd "$T" && sh -e "$block") >"$T/said" 2>&1; then fail "README.md: $(head -n 1 "$T/$block")" "$T/said"
    elif [ -s "$T/said" ] && grep -q 'warning:' "$T/said"; then fail "README.md: warnings of $(head -n 1 "$T/$block")" "$T/said"
    else pass
    fi
    [ -x "$T/a.out" ] || continue
    if (cd "$T" && ./a.out) >"$T/said" 2>&1 && [ -s "$T/said" ]; then pass; else fail "README.md: the program of $block" "$T/said"; fi
done

# Commands and options of `build/bmvp` lines.
sed -n 's/^ *build\/bmvp  *//p' README.md >"$T/lines"
if [ ! -s "$T/lines" ]; then fail "README.md shows no command of the program"; fi
while read -r command rest; do
    build/bmvp "$command" --help >"$T/help" 2>&1 || fail "README.md: bmvp $command" "$T/help"
    for word in $rest; do
        case $word in
        --*) check "README.md: bmvp $command $word" grep -qE "^  ${word%%=*}( |\$)" "$T/help" ;;
        esac
    done
done <"$T/lines"
# Programs of version 0.1, from its README and the first pages of its headers, compile as they are: a line that has to change is in CHANGELOG.md.
for old in tests/program/old/*.c; do silent "$old" "${CC:-cc}" -I. -fsyntax-only "$old"; done
finish
