#!/bin/sh
# course.sh - the lessons of examples/ say what they promise: each runs, and what it prints is what its head shows. Lines of the head that
# begin with `|` stand in the output in this order, others may stand between. Words are the same; numbers are as near as the head says
# ("within 5 % or 0.01", since instruction sets round differently); # is any number.
. tests/support/check.sh
here=$PWD

# shown FILE: the lines of its head that the output has; within FILE: its two tolerances
shown() { sed '/\*\//q' "$1" | sed -n 's/^   | //p'; }
within() { sed '/\*\//q' "$1" | sed -n 's/.*within \([0-9.]*\) % or \([0-9.]*\).*/\1 \2/p; s/.*within \([0-9.]*\) %.*/\1 0/p' | head -n 1; }

# agrees SOURCE OUTPUT: what of the head is not in the output is printed
agrees()
{
    shown "$1" >"$T/shown"
    # shellcheck disable=SC2046 # two numbers
    set -- "$2" $(within "$1")
    awk -v percent="${2-}" -v least="${3-}" '
        function numeric(s) { sub(/[,;:)%]+$/, "", s); sub(/^\(/, "", s); return s ~ /^[-+]?[0-9]+(\.[0-9]+)?(e[-+]?[0-9]+)?$/ }
        function bare(s) { sub(/[,;:)%]+$/, "", s); sub(/^\(/, "", s); return s + 0 }
        function like(want, got,    n, m, a, b, i, d, most) {
            n = split(want, a, " ")
            m = split(got, b, " ")
            if (n != m) return 0
            for (i = 1; i <= n; ++i) {
                if (a[i] == b[i]) continue
                if (!numeric(b[i])) return 0
                if (a[i] ~ /^#/) continue
                if (!numeric(a[i])) return 0
                d = bare(a[i]) - bare(b[i])
                most = (bare(a[i]) < 0 ? -bare(a[i]) : bare(a[i])) * percent / 100
                if (most < least) most = least
                if (!(d <= most && -d <= most)) return 0
            }
            return 1
        }
        NR == FNR { want[++n] = $0; next }
        { said[++m] = $0 }
        END {
            if (!n || percent == "") { print "no lines, or no tolerance, in the head"; exit 1 }
            for (i = at = 1; i <= n; ++i) {
                for (k = at; k <= m && !like(want[i], said[k]); ++k) continue
                if (k > m) { print "not there: " want[i]; bad = 1 }
                else at = k + 1
            }
            exit bad
        }' "$T/shown" "$1"
}

# The comparison sees a number that is off, a word, an order; and takes what is near enough.
printf '/* you see, within 1 %% or 0.01:\n   | a 2.00 b\n   | c # ms\n */\n' >"$T/head.c"
printf 'x\na 2.01 b\nc 7 ms\n' >"$T/near" && check "what is near enough" agrees "$T/head.c" "$T/near"
for said in 'a 2.03 b\nc 7 ms' 'a 2.00 d\nc 7 ms' 'c 7 ms\na 2.00 b' 'a nan b\nc 7 ms' 'a 2.00 b\nc - ms'; do
    # shellcheck disable=SC2059 # a format on purpose
    printf "$said\n" >"$T/off"
    if agrees "$T/head.c" "$T/off" >/dev/null; then fail "'$said' passed"; else pass; fi
done

# cc_lines FILE: the lines that compile an example, of a lesson's head or a text. compiles STANDARD LINE: it does so, in silence; without
# optimisation and vector kernels, which take minutes for all of them, and whole as C99 alone, as C++11 up to the linker.
GZ=${GZ--ldeflate}
cc_lines() { sed -n 's/^\(   Run:  \)\{0,1\}\(cc -O2 -I\. examples\/[^&]*[^& ]\).*$/\2/p' "$1"; }
compiles()
{
    case $2 in *" -ldeflate "*) if [ "$GZ" != -ldeflate ]; then skip "$2: this build has no libdeflate"; return; fi ;; esac
    quick=$(echo "$2" | sed 's/^cc -O2/-O0 -DBMVP_NO_SIMD/')
    case $1 in c99) quick="${CC:-cc} -std=c99 -pedantic $quick" ;; *) quick="${CXX:-c++} -x c++ -std=c++11 -fsyntax-only $quick" ;; esac
    silent "$1: $2" sh -c "$(echo "$quick" | sed "s|-o |-o $T/|")"
}
for source in README.md examples/*.md examples/[0-9]*.c; do
    cc_lines "$source" >"$T/lines"
    while read -r line; do
        compiles c99 "$line"
        if command -v "${CXX:-c++}" >/dev/null 2>&1; then compiles c++11 "$line"; fi
    done <"$T/lines"
done
# warned SOURCE NAME: its own lines, the implementation is compiled by forms.sh, have no warning as C99 and as C++11
warned()
{
    sed 's/^#define BMVP_IMPLEMENTATION$//' "$1" >"$T/lesson.c"
    for compiler in "${CC:-cc} -x c -std=c99" "${CXX:-c++} -x c++ -std=c++11" "clang -x c -std=c99" "clang++ -x c++ -std=c++11"; do
        command -v "${compiler%% *}" >/dev/null 2>&1 || continue
        # shellcheck disable=SC2086 # a compiler and its flags
        silent "$2: $compiler" $compiler -Wall -Wextra -Wpedantic -Wshadow -Wconversion -I. -Ibuild/lessons -Iexamples -fsyntax-only "$T/lesson.c"
    done
}
check "README.md has a cc line" test -n "$(cc_lines README.md)"

for source in examples/[0-9]*.c; do
    name=$(basename "$source" .c)
    (cd "$T" && "$here/build/$name") >"$T/$name" 2>&1 || fail "$name" "$T/$name"
    check "$name prints what its head shows" agrees "$source" "$T/$name"
    check "$name is at most 200 lines" test "$(wc -l <"$source")" -le 200
    check "$name: its cc line" grep -q "^   Run:  cc -O2 -I. examples/$name.c -o $name .*-lm -lpthread && ./$name" "$source"
    check "$name: two exercises" test "$(sed '/\*\//q' "$source" | grep -c '^   [12]\. ')" = 2
    warned "$source" "$name"
done
# On every instruction set the same: level.c changes what a lesson's contexts ask for. The best of the processor ran above. Plain loops train too
# slowly for 07, 08, 09, 12 and 14, and 10 on all but the processor's own: these are run by COURSE_LEVELS=all alone (make course-levels: minutes,
# nothing else of this file below). What the processor lacks runs on the best that it has.
level_of() # LESSON: the lesson linked with level.c
{
    sed 's/^#define BMVP_IMPLEMENTATION$//' "examples/$1.c" >"$T/lesson.c"
    ${CC:-cc} -std=c99 -O2 -I. -Iexamples -Dbmvp_create=level_create -c "$T/lesson.c" -o "$T/lesson.o" || return
    # shellcheck disable=SC2086 # flags are words
    ${CC:-cc} -std=c99 -O2 -I. tests/support/level.c "$T/lesson.o" build/library.o -o "$T/lesson" $GZ -lm -lpthread
}
for source in examples/[0-9]*.c; do
    name=$(basename "$source" .c)
    silent "$name with level.c" level_of "$name"
    for level in plain vector avx2; do
        case ${COURSE_LEVELS-}$level$name in
        plain07* | plain08* | plain09* | plain12* | plain14* | plain10* | vector10* | avx210*) continue ;;
        esac
        (cd "$T" && TEST_LEVEL=$level TEST_THREADS=1 ./lesson) >"$T/$name.$level" 2>&1
        check "$name prints what its head shows, level $level" agrees "$source" "$T/$name.$level"
    done
done
if [ "${COURSE_LEVELS-}" = all ]; then finish; fi
for source in examples/solutions/*.c; do
    name=$(basename "$source" .c)
    (cd "$T" && "$here/build/solution_$name") >"$T/solution" 2>&1
    said=$?
    if [ $said = 0 ]; then pass; else fail "solutions/$name finds what it should" "$T/solution"; fi
    check "solutions/$name is at most 200 lines" test "$(wc -l <"$source")" -le 200
    warned "$source" "solutions/$name"
done
for source in examples/[0-9]*.c; do
    check "$(basename "$source"): solutions" test -f "examples/solutions/$(basename "$source")"
done
# conv3d.md: its fragments are a program that finds all ways alike, what it quotes is there still, its pictures are what the program makes
awk '/^```c$/ { on = 1; next } /^```/ { on = 0 } on' examples/conv3d.md >"$T/conv3d.c"
warned "$T/conv3d.c" "conv3d.md"
grep -v '^#define BMVP_IMPLEMENTATION$' "$T/conv3d.c" >"$T/text.c"
# shellcheck disable=SC2086 # flags are words
silent "conv3d.md's program" "${CC:-cc}" -std=c99 -O2 -I. "$T/text.c" build/library.o -o "$T/conv3d" $GZ -lm -lpthread
check "conv3d.md: all ways give the same, and the gradients fit" "$T/conv3d"
awk -v dir="$T" '
    /^<!-- from: .* -->$/ { name = $3; next }
    name != "" && /^```/ && !file { file = dir "/quote" ++n; print file, name >(dir "/quotes"); next }
    file && /^```/ { close(file); file = name = ""; next }
    file { print >file }' examples/conv3d.md
check "conv3d.md quotes" test "$(wc -l <"$T/quotes")" -ge 4
while read -r quote file; do
    check "conv3d.md: $(sed -n 1p "$quote") is in $file" awk 'NR == FNR { want[++n] = $0; next } { has[FNR] = $0 }
        END { for (i = 1; i + n - 1 <= FNR; ++i) { for (k = 1; k <= n && has[i + k - 1] == want[k]; ++k) continue; if (k > n) exit 0 } exit 1 }' "$quote" "$file"
done <"$T/quotes"
silent "conv3d_pictures.c" "${CC:-cc}" -std=c99 -O2 -Wall -Wextra -Wpedantic -Wshadow -Wconversion examples/conv3d_pictures.c -o "$T/pictures"
check "the pictures are made" "$T/pictures" examples/conv3d.md "$T"
for picture in window winograd ladder; do
    check "conv3d.md shows $picture" grep -q "(conv3d_$picture.svg)" examples/conv3d.md
    same "$T/conv3d_$picture.svg" "examples/conv3d_$picture.svg"
done
# the ways to the code: tags that are there, and their lines within a fifth; and in these sections the definition to begin at, within two lines
sed -n 's/^| .* | `\(bmvp_[a-z]*\.h\)` | `\([A-Za-z_0-9]*\)` | \([0-9]*\) | \(`>>.*`\) | \([0-9]*\) |$/\1 \2 \3 \5 \4/p' examples/README.md >"$T/ways"
check "examples/README.md has ways to the code" test "$(wc -l <"$T/ways")" = "$(grep -c '^| .*`>>' examples/README.md)"
check "and at least ten" test "$(wc -l <"$T/ways")" -ge 10
while read -r file name short lines tags; do
    check "examples/README.md: $file $tags has $lines lines, $name in it $short" awk -v want="$lines" -v tags="$tags" -v name="$name" -v short="$short" '
        BEGIN { gsub(/`/, "", tags); n = split(tags, tag, /, /) }
        /^ *\/\* >>/ { on = 0; s = $0; sub(/^ *\/\* /, "", s); for (i = 1; i <= n; ++i) if (index(s, tag[i]) == 1) { on = 1; seen[i] = 1 } }
        on { ++lines }
        on && !from && /^[A-Za-z#]/ && (index($0, name "(") || index($0, "#define " name " ")) { from = FNR; macro = /^#/; open = 0 }
        from && !to && !macro && !open && /;$/ { from = 0 }  # a declaration
        from && /^{$/ { open = 1 }
        from && !to && (macro ? !/\\$/ : open && /^}/) { to = FNR }
        END { for (i = 1; i <= n; ++i) if (!seen[i]) { print tag[i] " is not there"; exit 1 }
              if (!to) { print name " is not defined there"; exit 1 }
              print lines " lines, " name " " to - from + 1
              exit !(lines < 1.2 * want && lines > 0.8 * want && to - from < short + 2 && to - from > short - 4) }' "$file"
done <"$T/ways"
check "07 by hand agrees with bmvp_ssl_step to the last digit" test "$(sed -n 's/^[a-z_ ]*  cross/cross/p' "$T/07_method" | sort -u | wc -l)" = 1
check "09 goes on from a checkpoint with the same digits" awk '/^step/ { if ($4 != $8) bad = 1; ++n } END { exit bad || n != 20 }' "$T/09_own_method"
check "09 is at most 80 lines without its head" test "$(sed '1,/\*\//d' examples/09_own_method.c | wc -l)" -le 80
check "11 from too far ends far" awk '/^climbed from too far/ { far = $7 } END { exit !(far > 10) }' "$T/11_registration"
# the pictures of a lesson are PNG files that unpack to a byte a row and one a pixel
for svg in 05_attention 06_nifti 07_method 10_finetune 11_registration 14_embeddings; do
    sed -n "s/.*href='data:image\/png;base64,\([^']*\)'.*/\1/p" "$T/$svg.svg" | tail -n 1 | base64 -d >"$T/last.png"
    check "$svg.svg: its last picture" test "$( (printf '\037\213\010\0\0\0\0\0\0\0'; tail -c +44 "$T/last.png") | gzip -dc 2>/dev/null | wc -c)" = \
        "$(od -An -tu1 -j16 -N8 "$T/last.png" | awk '{ print (256 * $3 + $4 + 1) * (256 * $7 + $8) }')"
done
check "08 writes a .pt" test -s "$T/own_network.pt"
check "segment is at most 40 lines" test "$(wc -l <examples/segment.c)" -le 40
finish
