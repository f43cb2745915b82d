#!/bin/sh
# analyze.sh [FILE...] - `make analyze`: clang --analyze over the headers and the program (or these files of them), gcc -fanalyzer over
# bmvp_nifti.h. What is reported and no fault stands in analyze.txt: file, check, how many, and why. gcc not over the other headers: version 12
# does not come to an end with them in seven minutes. Clang looks at main files only, so each header is one. Ten minutes and more.
# Environment: DEFS.
cd "$(dirname "$0")/../.." || exit 1
# shellcheck source=tests/support/check.sh
. tests/support/check.sh
DEFS=${DEFS-}

# answered FILE: of the reports in the log none is more than what analyze.txt says of the file
answered()
{
    file=$1
    sed -n 's/^\([^ :]*\):[0-9]*:[0-9]*: warning: .*\[\([^]]*\)\]$/\1 \2/p' "$T/log" | sort | uniq -c |
        awk 'NR == FNR { if (!/^#/) known[$1 " " $2] = $3; next } $1 > known[$2 " " $3] { print; bad = 1 } END { exit bad }' \
            tests/form/analyze.txt - >"$T/more"
    if [ -s "$T/more" ]; then
        grep warning: "$T/log"
        fail "$file: reports that tests/form/analyze.txt has no answer to" "$T/more"
    elif grep -q ' error: ' "$T/log"; then fail "$file: not compiled" "$T/log"
    else pass
    fi
}

# header FILE: clang over it, without SIMD. It looks into no function of variable arguments, so copies of the headers have theirs renamed, in
# prototype and definition, and macros say what they return.
header()
{
    mkdir -p "$T/headers"
    for h in bmvp_*.h; do
        sed 's/^\(static bmvp_status bmvpi_nii_fail\|BMVP_API bmvp_status bmvp_error_set\|BMVP_API void \*bmvp_fail\)(/\1_(/' $h >"$T/headers/$h"
    done
    case $1 in bmvp_nn.h) before="-include bmvp_tensor.h" ;; bmvp_ssl.h) before="-include bmvp_tensor.h -include bmvp_nn.h" ;; *) before= ;; esac
    # shellcheck disable=SC2086 # flags are words
    (cd "$T/headers" && clang --analyze --analyzer-output text -std=c99 -D_FILE_OFFSET_BITS=64 $DEFS -DBMVP_NO_SIMD -DBMVP_IMPLEMENTATION \
        '-Dbmvp_error_set(e,s,...)=(bmvp_error_set_(e,s,__VA_ARGS__),(s))' '-Dbmvp_fail(c,s,...)=(bmvp_fail_(c,s,__VA_ARGS__),(void *)0)' \
        '-Dbmvpi_nii_fail(e,s,n,...)=(bmvpi_nii_fail_(e,s,n,__VA_ARGS__),(s))' -I. $before -x c "$1" -o "$T/out") 2>&1 |
        sed 's|^\./||' >"$T/log"
}

if [ $# -eq 0 ]; then
    set -- bmvp_*.h examples/bmvp.c examples/bmvp/*/*.c
    headers=1
fi
if command -v clang >/dev/null 2>&1; then
    for f in "$@"; do
        case $f in bmvp_*.h)
            header "$f"
            answered "$f"
            continue ;;
        esac
        # shellcheck disable=SC2086 # flags are words
        clang --analyze --analyzer-output text -std=c99 -D_FILE_OFFSET_BITS=64 -D_GNU_SOURCE -Wno-macro-redefined $DEFS -I. -Iexamples/bmvp \
            -include tests/form/analyze.h "$f" -o "$T/out" >"$T/log" 2>&1
        answered "$f"
    done
else skip "clang is not installed"
fi
if [ -z "${headers-}" ]; then :
elif gcc --version 2>/dev/null | grep -q 'Free Software'; then
    # shellcheck disable=SC2086 # flags are words
    echo '#include "bmvp_nifti.h"' | gcc -std=c99 -O1 -fanalyzer $DEFS -DBMVP_IMPLEMENTATION -DBMVP_NO_SIMD -I. -x c - -c -o "$T/out" >"$T/log" 2>&1
    answered "bmvp_nifti.h, gcc"
else skip "no gcc"
fi
finish
