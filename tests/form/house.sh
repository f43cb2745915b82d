#!/bin/sh
# house.sh - the form of the sources: what a reader relies on when he searches, and what no compiler checks. The rules stand below, one a
# section; each is one check for every file it looks at.
#   house.sh          counts, and shows the first findings of each check that failed
#   house.sh FILE     every finding in that file
cd "$(dirname "$0")/../.." || exit 1
# shellcheck source=tests/support/check.sh
. tests/support/check.sh
only=${1-}
SHIPPED="bmvp_tensor.h bmvp_nn.h bmvp_ssl.h bmvp_nifti.h bmvp_cuda.cu"
WIDEST=120 LONGEST=60 PROGRAM_MOST=700 TEST_MOST=900

programs() { find examples -name '*.[ch]' | sort; }
tests() { find tests -name '*.[ch]' -o -name '*.cpp' | sort; }

# rule NAME FILE: judges what was found, a line each in $found
found=$T/found
rule()
{
    if [ -n "$only" ]; then
        if [ "$only" = "$2" ]; then sed "s/^/$1: /" "$found"; fi
        return
    fi
    n=$(wc -l <"$found" | tr -d ' ')
    if [ "$n" -gt 0 ]; then fail "$2: $1: $n (sh tests/form/house.sh $2)" "$found"
    else pass
    fi
}

# ---- contents: every tag of CONTENTS is in the body and the other way, in one order; a body's tag may go on after the words of CONTENTS

for f in $SHIPPED; do
    awk '
        function found(tag,    i, best) { # which entry of CONTENTS a tag of the body is
            for (i = 1; i <= n; ++i)
                if ((tag == want[i] || index(tag, want[i] " ") == 1) && (!best || length(want[i]) > length(want[best]))) best = i
            return best
        }
        / CONTENTS/ { on = 1; next }
        on && !/>>|[a-z]/ { on = 0 }
        on { for (s = $0; match(s, />>[A-Za-z0-9_]+( [A-Za-z0-9_]+)*/); s = substr(s, RSTART + RLENGTH)) {
                 want[++n] = substr(s, RSTART + 2, RLENGTH - 2)
                 if (substr(s, RSTART + RLENGTH) !~ /^ *$|^ +>>|^  |^, one for each|^ \*\//) print "CONTENTS: after " want[n] " stands what no search finds"
             }
             next }
        /^ *\/\* >>/ {
            if (before != "") print NR ": no blank line before the tag"
            match($0, />>[A-Za-z0-9_]+( [A-Za-z0-9_]+)*/)
            tag = substr($0, RSTART + 2, RLENGTH - 2)
            if (tag ~ /^op /) { ops = 1; before = $0; next }
            i = found(tag)
            if (!i) print NR ": " tag " is not in CONTENTS"
            else {
                if (i < last) print NR ": " tag " stands after " want[last] ", CONTENTS has it before"
                last = i > last ? i : last
                seen[i] = 1
            }
        }
        { before = $0 }
        END { for (i = 1; i <= n; ++i) if (!seen[i] && !(want[i] ~ /^op /)) print "CONTENTS names " want[i] ", the body has no such tag" }' "$f" >"$found"
    rule contents $f
done

# ---- ops: blocks in the order of BMVP_OPS, one for each, and nothing of an op defined before its block

sed -n '/#define BMVP_OPS(X)/,/[^\\]$/p' bmvp_tensor.h | sed -n 's/^ *X([A-Z0-9_]*, *\([a-z0-9_]*\).*/\1/p' >"$T/list"
if [ ! -s "$T/list" ]; then fail "bmvp_tensor.h: no BMVP_OPS"; fi
for f in bmvp_tensor.h bmvp_cuda.cu; do
    awk 'NR == FNR { at[$1] = NR; name[NR] = $1; n = NR; next }
         /^\/\* >>op / {
             line = $0
             sub(/^\/\* >>op /, "", line)
             sub(/[:-].*/, "", line)
             m = split(line, word, /[ ,]+/)
             for (i = 1; i <= m; ++i)
                 if (word[i] in at) {
                     if (at[word[i]] < last) print FNR ": " word[i] " stands after " name[last]
                     else last = at[word[i]]
                     seen[word[i]] = 1
                 }
         }
         END { for (i = 1; i <= n; ++i) if (!(name[i] in seen)) print name[i] " has no block" }' "$T/list" $f >"$found"
    rule ops $f
done
awk 'NR == FNR { op[$1] = 1; next }
     /^\/\* >>op / { split($3, w, ":"); begun[w[1]] = 1 }
     /^[A-Za-z].*[ *]bmvpi_[a-z0-9_]+\(.*[^;]$/ {
         match($0, /bmvpi_[a-z0-9_]+\(/)
         name = substr($0, RSTART + 6, RLENGTH - 7)
         for (o in op) if (!(o in begun) && (name == o || name ~ "^" o "_(plain|cpu|range|back|forward|backward|sample|rows)")) print FNR ": " name " stands before its op"
     }' "$T/list" bmvp_tensor.h >"$found"
rule before bmvp_tensor.h

# ---- doors: upper headers use no private name of a lower one but those of its section >>for ..., and ask for no device and no network

# names FILE: the private names that a file uses; defined FILE: those that it defines
names() { grep -oE '\bbmvpi_[a-z0-9_]+|\bBMVPI_[A-Z0-9_]+' "$1" | sort -u; }
doors() { sed -n '/^\/\* >>for /,/^\/\* >>[^f]/p' "$1" | grep -oE '\bbmvpi_[a-z0-9_]+|\bBMVPI_[A-Z0-9_]+' | sort -u; }
defined()
{
    awk '/^#define/ { print $2; next }
         /^(static|BMVP)/ { s = $0; sub(/[(=;[].*/, "", s); n = split(s, w, /[ *]+/); print w[n] == "" ? w[n - 1] : w[n]; next }
         /^(typedef|struct|enum|union|\})|^    BMVPI_[A-Z0-9_]+( =.*)?,/ { print }' "$1" | grep -oE '\b(bmvpi_[a-z0-9_]+|BMVPI_[A-Z0-9_]+)' | sort -u
}
defined bmvp_tensor.h >"$T/tensor"
{ doors bmvp_tensor.h; doors bmvp_nn.h; } | sort -u >"$T/doors"
defined bmvp_nn.h >"$T/nn"
for f in bmvp_nn.h bmvp_ssl.h; do
    case $f in bmvp_nn.h) cat "$T/tensor" ;; *) sort -u "$T/tensor" "$T/nn" ;; esac >"$T/lower"
    defined $f | comm -23 "$T/lower" - | comm -23 - "$T/doors" >"$T/closed"
    names $f | comm -12 - "$T/closed" | while read -r name; do
        echo "$name is private to a lower header, and used $(grep -c "\b$name\b" $f) times"
    done >"$found"
    rule doors $f
    grep -nE -e '->device\b *([^-a-z_ ]|$)|->device [^-]' $f >"$found"
    rule device $f
    grep -nE 'kind [!=]= BMVP_NET_|BMVP_NET_(UNIFORMER|UNET3D) \?|strcmp\([^)]*"(uniformer|unet3d)"' $f >"$found"
    rule kind $f
done

# ---- symbols: what of the program begins with bmvp_ is the library's

if command -v nm >/dev/null 2>&1 && [ -f build/bmvp ] && [ -f build/library.o ]; then
    {
        for o in build/library.o build/bmvp_cuda.o; do if [ -f $o ]; then nm --defined-only $o; fi; done | awk '{ sub(/\..*/, "", $NF); print $NF }'
        sed -n 's/^static inline .*\(bmvp_[a-z0-9_]*\)(.*/\1/p' bmvp_*.h # each object has its own
    } | sort -u >"$T/library"
    nm --defined-only build/bmvp | awk '{ sub(/\..*/, "", $NF); print $NF }' | grep -E '^bmvpi?_' | sort -u | comm -23 - "$T/library" >"$found"
    rule symbols build/bmvp
else
    skip "symbols: no nm, or no build/bmvp"
fi

# ---- width and length: lines, functions, macros, files

for f in $SHIPPED $(programs) $(tests); do
    LC_ALL=C awk -v most=$WIDEST 'length($0) > most { print FNR ": " length($0) " characters" }' "$f" >"$found"
    rule wide "$f"
    awk -v most=$LONGEST '
        function length_of(from, what) { if (FNR - from + 1 > most) print from ": " FNR - from + 1 " lines: " substr(what, 1, 70) }
        /\\$/ { if (!run) { run = FNR; macro = $0 } next }
        run { if (macro ~ /^ *# *define/) length_of(run, macro); run = 0; next }
        /^[A-Za-z_]/ { head = FNR; text = $0 }
        /^\{$/ || (/^[A-Za-z_].*\).*\{$/ && !/= *\{$/) { on = 1 }
        /^\}/ { if (on) length_of(head, text); on = 0 }
        /^    \{$/ { inner = FNR - 1; method = before }
        /^    \}$/ { if (inner) length_of(inner, method); inner = 0 }
        { before = $0 }' "$f" >"$found"
    rule long "$f"
    grep -nE '\b(TO[D]O|FIX[M]E|X[X]X)\b' "$f" >"$found"
    rule unfinished "$f"
done
size() { awk -v most="$1" 'END { if (NR > most) print NR " lines, " most " at most" }' "$2" >"$found"; rule size "$2"; }
for f in $(programs); do size $PROGRAM_MOST "$f"; done
for f in $(tests); do size $TEST_MOST "$f"; done

# ---- licence: a header that was dropped into another tree still carries it

words_of() { tr 'A-Z\n' 'a-z ' | tr -cd 'a-z ' | tr -s ' ' | sed 's/^ //; s/ $//'; } # letters alone: lines may break elsewhere
sed -n '/^Permission/,$p' LICENSE | words_of >"$T/licence"
for f in $SHIPPED; do
    {
        tail -n 40 "$f" | words_of | grep -qF -f "$T/licence" || echo "the licence's text is not at the end"
        head -n 30 "$f" | grep -qi 'no warranty' || echo "no word of 'no warranty' on the first page"
    } >"$found"
    rule licence "$f"
done

# ---- common: bmvp_nifti.h stands alone, too; what it shares with bmvp_tensor.h is the same text in both

common() { sed -n '/^\/\* ---- common: /,/^\/\* ---- end of the common part/p' "$1"; }
common bmvp_tensor.h >"$T/words"
{
    if [ ! -s "$T/words" ]; then echo "bmvp_tensor.h has no part that begins with /* ---- common: "; fi
    common bmvp_nifti.h | diff "$T/words" - | grep '^[<>]'
} >"$found"
rule common bmvp_nifti.h

# ---- distances: one transform for metrics and for masks

distances() { sed -n '/^\/\* ---- distances: /,/^\/\* ---- end of the distances/p' "$1"; }
distances bmvp_ssl.h >"$T/words"
{
    if [ ! -s "$T/words" ]; then echo "bmvp_ssl.h has no part that begins with /* ---- distances: "; fi
    distances bmvp_nifti.h | diff "$T/words" - | grep '^[<>]'
} >"$found"
rule distances bmvp_nifti.h

if [ -n "$only" ]; then exit 0; fi
finish
