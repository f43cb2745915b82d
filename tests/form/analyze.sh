#!/bin/sh
# analyze.sh [FILE...] - `make analyze`: clang --analyze over the program (or these files of it), gcc -fanalyzer over bmvp_nifti.h. What is
# reported and no fault stands in analyze.txt: file, check, how many, and why. Not the other headers: gcc 12 does not come to an end with
# them in seven minutes, and clang looks at main files only. Some minutes.
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

if [ $# -eq 0 ]; then
    set -- examples/bmvp.c examples/bmvp/*/*.c
    headers=1
fi
if command -v clang >/dev/null 2>&1; then
    for f in "$@"; do
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
