#!/bin/sh
# forms.sh - the headers in all the forms in which programs use them: each alone, as C99 and C++11, gcc and clang, with and without the
# implementation, SIMD and threads; twice, in two translation units, in the wrong order; their example programs; and what an object made
# of them holds.
# shellcheck disable=SC2046,SC2086 # flags and lists of headers are words
# Environment: CC, CXX, GZ (linker flags of the gzip codec), DEFS (macros that choose the codec).
cd "$(dirname "$0")/../.." || exit 1
# shellcheck source=tests/support/check.sh
. tests/support/check.sh
CC=${CC:-cc} CXX=${CXX:-c++} GZ=${GZ--ldeflate} DEFS=${DEFS-}
WARN="-Wall -Wextra -Wpedantic -Wshadow -Wconversion"
ALL="bmvp_tensor.h bmvp_nn.h bmvp_ssl.h bmvp_nifti.h"
here=$(pwd)

# What a header says it needs, itself last.
needs()
{
    case $1 in
    bmvp_nn.h) echo bmvp_tensor.h bmvp_nn.h ;;
    bmvp_ssl.h) echo bmvp_tensor.h bmvp_nn.h bmvp_ssl.h ;;
    *) echo "$1" ;;
    esac
}

# source FILE HEADER...: includes, the implementation macro first when IMPL is set
source_of()
{
    file=$1
    shift
    { if [ -n "$IMPL" ]; then echo "#define BMVP_IMPLEMENTATION"; fi; for h in "$@"; do echo "#include \"$h\""; done; } >"$file"
}

has_header() { echo "#include <$1>" | $CC -E -x c - >/dev/null 2>&1; }

# ---- what the implementation does not go with: said, or plain loops ---------------------------------------------------------------

IMPL=1
source_of "$T/a.c" $ALL
case $($CC -dumpmachine) in
x86_64*-gnu*) # x87 computes float in more bits, which vectors cannot
    if gcc --version 2>/dev/null | grep -q 'Free Software'; then
        silent "gcc -std=c99 -mfpmath=387" gcc -std=c99 $WARN $DEFS -mfpmath=387 -I. -fsyntax-only "$T/a.c"
    fi ;;
esac
for h in bmvp_nn.h bmvp_nifti.h; do
    source_of "$T/a.c" $(needs $h)
    if $CC -std=c99 $DEFS -ffast-math -I. -fsyntax-only "$T/a.c" >"$T/told" 2>&1; then fail "$h with -ffast-math compiled"
    else check "$h with -ffast-math" grep -q "compile $h without it" "$T/told"
    fi
done

# ---- each header alone, all together, all twice -----------------------------------------------------------------------------
# Twice holds once: whatever each compiler says of a line it says there, with every macro that leaves something out. That a header has what
# it needs when it stands alone is the same question to every compiler: declarations are asked of all, implementations of one of each language.

# compiled COMPILER NAME OPTION HEADER...: without a word of warning
compiled()
{
    compiler=$1 name=$2 less=$3
    shift 3
    case $compiler in *++) std=c++11 lang=c++ ;; *) std=c99 lang=c ;; esac
    source_of "$T/a.c" "$@"
    silent "$compiler -std=$std, $name${IMPL:+ with implementation} $less" \
        $compiler -std=$std -x $lang $WARN $DEFS $less -I. -fsyntax-only "$T/a.c"
}

for compiler in gcc clang g++ clang++; do
    if ! command -v $compiler >/dev/null 2>&1; then
        skip "$compiler is not installed"
        continue
    fi
    for IMPL in "" 1; do
        case $IMPL,$compiler in
        ,* | *,gcc | *,clang++) for h in $ALL; do compiled $compiler "$h" "" $(needs "$h"); done ;;
        esac
        for less in "" -DBMVP_NO_SIMD -DBMVP_NO_THREADS "-DBMVP_NO_SIMD -DBMVP_NO_THREADS"; do
            compiled $compiler twice "$less" $ALL $ALL
            if [ -n "$IMPL$less" ]; then compiled $compiler bmvp_tensor.h "$less" bmvp_tensor.h; fi
        done
    done
done

# ---- the gzip codecs, and none ---------------------------------------------------------------------------------------------

IMPL=1
source_of "$T/a.c" bmvp_nifti.h
for codec in "libdeflate.h:" "zlib.h:-DBMVP_NIFTI_ZLIB" ":-DBMVP_NIFTI_NO_GZIP"; do
    if [ -n "${codec%%:*}" ] && ! has_header "${codec%%:*}"; then
        skip "bmvp_nifti.h ${codec#*:}: no ${codec%%:*}"
        continue
    fi
    silent "bmvp_nifti.h ${codec#*:}" $CC -std=c99 $WARN ${codec#*:} -I. -fsyntax-only "$T/a.c"
done

# ---- the words that two headers share ---------------------------------------------------------------------------------------

for h in tensor nifti; do sed -n '/^\/\* ---- common:/,/^\/\* ---- end of the common part/p' bmvp_$h.h >"$T/common_$h"; done
if [ ! -s "$T/common_tensor" ]; then fail "bmvp_tensor.h has no common part"
elif diff "$T/common_tensor" "$T/common_nifti" >"$T/said" 2>&1; then pass
else fail "the common part differs between bmvp_tensor.h and bmvp_nifti.h" "$T/said"
fi
for h in nn nifti; do sed -n '/^\/\* ---- system:/,/^\/\* ---- end of the system part/p' bmvp_$h.h >"$T/system_$h"; done
if [ ! -s "$T/system_nn" ]; then fail "bmvp_nn.h has no system part"
elif diff "$T/system_nn" "$T/system_nifti" >"$T/said" 2>&1; then pass
else fail "the system part differs between bmvp_nn.h and bmvp_nifti.h" "$T/said"
fi
for h in $ALL bmvp_cuda.cu; do
    if sed 1q "$h" | grep -q 'MIT, no warranty' && tail -n 3 "$h" | grep -q 'OTHER DEALINGS IN THE SOFTWARE'; then pass
    else fail "$h: no warranty in its first line, or no licence at its end"
    fi
done

# ---- wrong order, other versions --------------------------------------------------------------------------------------------

# refused TEXT LINE...: a file of these lines does not compile, and the compiler's output has the text
refused()
{
    text=$1
    shift
    printf '%s\n' "$@" >"$T/a.c"
    if $CC -std=c99 -I. -fsyntax-only "$T/a.c" >"$T/said" 2>&1; then fail "compiled: $*"
    elif grep -qF "$text" "$T/said"; then pass
    else fail "no word of '$text' for: $*" "$T/said"
    fi
}
refused "bmvp_nn.h needs bmvp_tensor.h" '#include "bmvp_nn.h"'
refused "bmvp_ssl.h needs bmvp_tensor.h and bmvp_nn.h" '#include "bmvp_ssl.h"'
refused "bmvp_ssl.h needs bmvp_tensor.h and bmvp_nn.h" '#include "bmvp_tensor.h"' '#include "bmvp_ssl.h"'
refused "different versions" '#include "bmvp_tensor.h"' '#undef BMVP_COMMON' '#define BMVP_COMMON 0' '#include "bmvp_nifti.h"'
refused "different versions" '#include "bmvp_tensor.h"' '#undef BMVP_TENSOR_VERSION' '#define BMVP_TENSOR_VERSION 1' '#include "bmvp_nn.h"'

# ---- two translation units, C and C++ ---------------------------------------------------------------------------------------

IMPL=1
source_of "$T/one.c" $ALL
cp "$T/one.c" "$T/one.cpp"
IMPL=
source_of "$T/two.c" $ALL
cat >>"$T/two.c" <<'END'
#include <stdio.h>
int main(void)
{
    bmvp_nii_image image;
    bmvp_error bad;
    bmvp_net_config net;
    bmvp_ssl_config ssl;
    bmvp_ctx *c = bmvp_create(NULL, NULL);
    int ok = c && bmvp_net_preset("uniformer_tiny", &net) && bmvp_ssl_preset("fast", &ssl);
    ok = ok && bmvp_nii_read_header(&image, "/nowhere/at.all", NULL, &bad) != BMVP_OK && bad.message[0];
    bmvp_destroy(c);
    puts(ok ? "linked" : "wrong");
    return !ok;
}
END
cp "$T/two.c" "$T/two.cpp"
check "one unit as C" $CC -std=c99 -O1 $DEFS -I. -fno-pic -c "$T/one.c" -o "$T/one_c.o"
check "one unit as C++" $CXX -std=c++11 $DEFS -I. -fno-pic -c "$T/one.cpp" -o "$T/one_cpp.o"
check "the other as C" $CC -std=c99 $DEFS -I. -fno-pic -c "$T/two.c" -o "$T/two_c.o"
check "the other as C++" $CXX -std=c++11 $DEFS -I. -fno-pic -c "$T/two.cpp" -o "$T/two_cpp.o"
for one in c cpp; do
    for two in c cpp; do
        linker=$CXX
        if [ $one$two = cc ]; then linker=$CC; fi
        if $linker -no-pie "$T/one_$one.o" "$T/two_$two.o" -o "$T/both" $GZ -lm -lpthread >"$T/said" 2>&1 && "$T/both" >"$T/said" 2>&1
        then pass
        else fail "implementation in $one, main in $two" "$T/said"
        fi
    done
done

# ---- one registration by every instruction set and level of optimisation: the same bits, where products and sums are rounded one by one ----

cat >"$T/aligned.c" <<'END'
#define BMVP_NIFTI_IMPLEMENTATION
#include "bmvp_nifti.h"
static double inside(const double p[3], double x, double y, double z, double a, double b, double c)
{
    const double u = (p[0] - x) / a, v = (p[1] - y) / b, w = (p[2] - z) / c, far = (1 - u * u - v * v - w * w) * 8;
    return far < 0 ? 0 : far > 1 ? 1 : far;
}
/* a head of five parts in the contrast, of 24 x 28 x 26 voxels, where `back` takes its voxels */
static bmvp_status head(bmvp_nii_volume *v, int contrast, const double back[16])
{
    const int64_t dim[3] = { 24, 28, 26 };
    const double affine[16] = { 7.5, 0, 0, -86, 0, 7.5, 0, -101, 0, 0, 7.5, -94, 0, 0, 0, 1 };
    static const double value[2][5] = { { 90, 15, 60, 95, 20 }, { 60, 10, 85, 55, 160 } };
    const double *c = value[contrast];
    bmvp_status st = bmvp_nii_volume_create(v, dim, affine, NULL, NULL);
    int64_t i;
    for (i = 0; !st && i < 24 * 28 * 26; ++i) {
        const double q[3] = { 7.5 * (double)(i % 24) - 86, 7.5 * (double)(i / 24 % 28) - 101, 7.5 * (double)(i / 672) - 94 };
        double p[3], s;
        int k;
        for (k = 0; k < 3; ++k) p[k] = back[4 * k] * q[0] + back[4 * k + 1] * q[1] + back[4 * k + 2] * q[2] + back[4 * k + 3];
        s = inside(p, 0, 0, 0, 76, 94, 88) * c[0];
        s += inside(p, 0, 0, 2, 70, 88, 82) * (c[1] - s);
        s += inside(p, 0, 0, 3, 65, 82, 74) * (c[2] - s);
        s += inside(p, 8, -20, 20, 30, 45, 30) * (c[3] - s);
        s += inside(p, -22, 30, -10, 22, 26, 30) * (c[4] - s);
        v->data[i] = (float)s;
    }
    return st;
}
int main(void)
{
    const double one[16] = { 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1 };
    const double moved[16] = { 1.02, 0.1, -0.05, 4, -0.1, 0.97, 0.06, -6, 0.05, -0.06, 1.03, 3, 0, 0, 0, 1 };
    bmvp_nii_register_how how;
    bmvp_nii_registration r;
    bmvp_nii_volume f, m;
    int k;
    memset(&how, 0, sizeof how);
    how.dof = BMVP_NII_AFFINE;
    how.level[0] = 12;
    how.level[1] = 8;
    if (head(&f, 0, one) || head(&m, 1, moved) || bmvp_nii_register(&r, &f, &m, &how, NULL)) return 1;
    for (k = 0; k < 12; ++k) printf("%a\n", r.matrix[k]);
    bmvp_nii_volume_free(&f);
    bmvp_nii_volume_free(&m);
    return 0;
}
END
# aligned NAME COMPILER..; what runs it is in $by
aligned()
{
    name=$1
    shift
    if ! "$@" -DBMVP_NIFTI_NO_GZIP -I. "$T/aligned.c" -o "$T/aligned" -lm >"$T/said" 2>&1 || ! $by "$T/aligned" >"$T/aligned.$name" 2>"$T/said"
    then fail "registration, $name" "$T/said"
    else
        [ -f "$T/aligned.first" ] || cp "$T/aligned.$name" "$T/aligned.first"
        paste "$T/aligned.first" "$T/aligned.$name" | awk '$1 != $2 { ++other }
            END { printf "%d of 12 numbers differ\n", other; exit !(NR == 12 && !other) }' >"$T/said" && pass || fail "registration, $name" "$T/said"
    fi
}
by=
aligned O1 $CC -std=c99 -O1
aligned O3 $CC -std=c99 -O3
if grep -q ' avx2 ' /proc/cpuinfo 2>/dev/null; then aligned avx2 $CC -std=c99 -O3 -mavx2 -mfma -ffp-contract=off
else skip "registration with AVX2: this processor has none"
fi
if command -v qemu-aarch64 >/dev/null && command -v aarch64-linux-gnu-gcc >/dev/null; then
    by=qemu-aarch64
    aligned arm64 aarch64-linux-gnu-gcc -std=c99 -O2 -ffp-contract=off -static
else skip "registration on arm64: apt-get install qemu-user gcc-aarch64-linux-gnu libc6-dev-arm64-cross"
fi

# ---- without the machine room: plain loops alone give what they give beside the vector kernels, in half the text --------------------

cat >"$T/plain.c" <<'END'
#include "bmvp_tensor.h"
#include "bmvp_nn.h"
#include <stdio.h>
#include <stdlib.h>
/* gradient checks of all ops, then a step of the smallest network at the level `plain` */
int main(void)
{
    const int64_t dim[5] = { 1, 32, 32, 32, 1 };
    bmvp_config k = bmvp_config_default();
    bmvp_rng r = bmvp_rng_make(3, 1, 0, 0);
    float *v = (float *)malloc(32768 * sizeof *v);
    bmvp_net_config cfg;
    bmvp_features f;
    bmvp_tensor *y;
    bmvp_net *net;
    bmvp_ctx *c;
    double e = 0, best = 0, worst = 0;
    int op, variant, seed, i;
    k.simd = BMVP_SIMD_PLAIN;
    for (op = 0; op < BMVP_OP_COUNT; ++op)
        for (variant = 0; (e = bmvp_gradcheck(&k, op, variant, 1)) != -1; ++variant) {
            for (best = e, seed = 2; seed < 4; ++seed) best = (e = bmvp_gradcheck(&k, op, variant, (uint64_t)seed)) < best ? e : best;
            if (!(best <= worst)) worst = best;
        }
    c = bmvp_create(&k, NULL);
    if (!v || !c || !bmvp_net_preset("uniformer_tiny", &cfg)) return 1;
    net = bmvp_net_create(c, &cfg);
    bmvp_net_init(net, 5);
    for (i = 0; i < 32768; ++i) v[i] = bmvp_rng_uniform(&r);
    f = bmvp_net_encode(net, bmvp_input(c, 5, dim, v), 1);
    y = bmvp_net_reconstruct(net, &f);
    y = bmvp_mean(c, bmvp_mul(c, y, y));
    bmvp_backward(c, y);
    printf("%s, gradient checks %s, loss %.5g", bmvp_simd_text(bmvp_simd_level(c)), worst < 1e-2 ? "pass" : "fail", (double)bmvp_scalar(c, y));
    for (i = 0; i < bmvp_net_state(net)->n; i += 7)
        if (bmvp_net_state(net)->item[i].trained) printf(" %.4g", (double)bmvp_grad_at(c, bmvp_net_state(net)->item[i].t, 0));
    printf(" %s\n", bmvp_error_of(c)->message);
    return bmvp_failed(c);
}
END
check "without SIMD: compiled" $CC -std=c99 -O1 $DEFS -DBMVP_NO_SIMD -I. -fno-pic -c "$T/one.c" -o "$T/plain_c.o"
for object in one_c plain_c; do
    check "plain loops with $object" $CC -std=c99 -I. -no-pie "$T/plain.c" "$T/$object.o" -o "$T/plain" $GZ -lm -lpthread
    "$T/plain" >"$T/$object.said" 2>&1
done
if grep -q '^plain, gradient checks pass, loss' "$T/one_c.said" && cmp -s "$T/one_c.said" "$T/plain_c.said"; then pass
else
    cat "$T/one_c.said" "$T/plain_c.said" >"$T/said"
    fail "without SIMD the plain loops say something else" "$T/said"
fi
if command -v size >/dev/null 2>&1; then
    for less in "" -DBMVP_NO_SIMD; do
        echo '#include "bmvp_tensor.h"' | $CC -std=c99 -O1 -DBMVP_IMPLEMENTATION $less -I. -x c -c - -o "$T/text$less.o"
        size "$T/text$less.o" | awk 'END { print $1 }'
    done >"$T/text"
    awk 'NR == 1 { all = $1 } END { printf "text of bmvp_tensor.h: %d bytes, without SIMD %d\n", all, $1; exit !($1 > 0 && $1 < 0.6 * all) }' \
        "$T/text" >"$T/said" && pass || fail "without SIMD the text is not half as large" "$T/said"
    cat "$T/said"
else
    skip "no size to measure text with"
fi

# ---- what the object holds: no data that can change, nothing that prints or ends the program ----------------------------------

# none WHAT PATTERN NM-OPTION...
none()
{
    what=$1 pattern=$2
    shift 2
    nm "$@" "$T/one_c.o" >"$T/symbols" 2>&1
    if [ -s "$T/symbols" ] && ! grep -E "$pattern" "$T/symbols" >"$T/said"; then pass; else fail "$what" "$T/said"; fi
}
if command -v nm >/dev/null 2>&1 && [ -f "$T/one_c.o" ]; then
    none "data that can change" ' [bBdDcCgGsS] '
    none "a call that prints or ends the program" \
        ' (_?exit|_Exit|quick_exit|abort|__assert_fail|v?f?printf|__v?f?printf_chk|puts|fputs|putchar|fputc|perror|stdout|stderr|raise)$' -u
    none "a public name without the prefix bmvp" ' [TRVW] ([^b]|b[^m]|bm[^v]|bmv[^p])' -g --defined-only
else
    skip "no nm or no object to look into"
fi

# ---- the example program of each header: compiled with one line, run -----------------------------------------------------------

# example HEADER PATTERN ARGUMENT...: it runs and prints a line like that
example()
{
    header=$1 text=$2
    shift 2
    program_of "$header" >"$T/program.c"
    if [ ! -s "$T/program.c" ]; then fail "$header has no example program"
    elif ! (cd "$T" && $CC $DEFS -I"$here" program.c -o program $GZ -lm -lpthread) >"$T/said" 2>&1; then fail "$header: its program" "$T/said"
    elif [ -s "$T/said" ]; then fail "$header: its program compiles with warnings" "$T/said"
    elif ! { "$T/program" "$@" && echo; } >"$T/said" 2>&1 || ! grep -q "$text" "$T/said"; then fail "$header: its program ran, but did not print '$text'" "$T/said"
    else pass
    fi
}
example bmvp_tensor.h '^loss 4.815, dloss/dw\[0\] 14.1$'
example bmvp_nn.h '^last map: 2^3 voxels, 128 channels'
example bmvp_ssl.h '^[0-9.]*$'
example bmvp_nifti.h '' tests/fixtures/nifti/offset2880.nii.gz "$T/made.nii"
if [ -s "$T/made.nii" ]; then pass; else fail "bmvp_nifti.h: its program wrote no file"; fi

finish
