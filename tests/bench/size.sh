#!/bin/sh
# size.sh - what the implementation costs a program that includes it: processor seconds to compile, text of the object. One row a set of
# headers, with and without the vector code. Prints the table of examples/speed.md.
#   CC=gcc CFLAGS=-O2 sh tests/bench/size.sh
# shellcheck disable=SC2086 # flags and headers are words
cd "$(dirname "$0")/../.." || exit 1
CC=${CC:-cc} CFLAGS=${CFLAGS--O2}
T=$(mktemp -d) || exit 1
trap 'rm -rf "$T"' EXIT

# row HEADERS FLAGS
row()
{
    { echo "#define BMVP_IMPLEMENTATION"; for h in $1; do echo "#include \"$h\""; done; } >"$T/a.c"
    ( # its processor's seconds, so that other work on the machine counts little
        $CC -std=c99 $CFLAGS $2 -I. -c "$T/a.c" -o "$T/a.o" || exit 1
        times >"$T/times"
    ) || exit 1
    spent=$(sed -n '2{s/[ms]/ /g;p;}' "$T/times" | awk '{ printf "%.1f", 60 * ($1 + $3) + $2 + $4 }')
    lines=$(cat $1 | wc -l)
    # shellcheck disable=SC2046 # words wanted
    set -- "$1" "$2" $(size "$T/a.o" | tail -n 1)
    echo "| $(echo "$1" | sed 's/[^ ]*/`&`/g; s/ /, /g') | ${2:+\`$2\`} | $lines | $spent | $((($3 + 500) / 1000)) |"
}

echo "$("$CC" --version | head -n 1), $CFLAGS"
echo "| headers | flags | lines | compile, CPU s | text, KB |"
echo "|---|---|---|---|---|"
for flags in "" -DBMVP_NO_SIMD; do
    row "bmvp_tensor.h" "$flags"
    row "bmvp_tensor.h bmvp_nn.h" "$flags"
    row "bmvp_tensor.h bmvp_nn.h bmvp_ssl.h" "$flags"
done
row "bmvp_nifti.h" ""
row "bmvp_tensor.h bmvp_nn.h bmvp_ssl.h bmvp_nifti.h" ""
