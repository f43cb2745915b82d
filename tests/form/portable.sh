#!/bin/sh
# portable.sh - the same headers on processors that this machine is not: x86-64 without AVX, without AVX2, without AVX-512, and arm64 with
# NEON, in QEMU's user-mode emulation; built without threads; and where pointers, byte order or the C library are others: x86 of 32 bits, armhf,
# s390x, musl, TCC, WebAssembly; what clang says for macOS, FreeBSD and MSVC. `make portable` calls it, with the tests of bmvp_tensor.h made as usual.
# Emulation is 20 to 50 times slower than the processor, so parts of the tests are run, chosen to meet every kernel, the x86-64 processors
# beside the rest: some minutes on two cores.
# What is not installed is skipped, with the line that installs it.
# shellcheck disable=SC2086 # flags are words
# Environment: CC, CFLAGS, GZ (linker flags of the gzip codec).
cd "$(dirname "$0")/../.." || exit 1
# shellcheck source=tests/support/check.sh
. tests/support/check.sh
CC=${CC:-cc} CFLAGS=${CFLAGS--O2} GZ=${GZ--ldeflate}
FLAGS="-std=c99 $CFLAGS -Wall -Wextra -Wpedantic -Wshadow -Wconversion -DBMVP_NIFTI_NO_GZIP -I."
APT="apt-get install qemu-user gcc-aarch64-linux-gnu libc6-dev-arm64-cross"
ARM_ROOT=${ARM_ROOT:-/usr/aarch64-linux-gnu}
BIG="mlp matmul attention batchnorm" # larger shapes, where work is cut into pieces: where kernels are that this processor does not run
export BMVP_DATA=none
STEPS=3 # of pre-training: of one size each, 20 seconds where AVX2 is emulated
LINK="-lm -lpthread" EXE= # of build_all
ROOT=$T # the lane beside has a T of its own

has() { command -v "$1" >/dev/null 2>&1; }

# run_tests MACHINE TEST WORD COMMAND...: adds what a test program counted; one that counts nothing, or runs no test, has failed
run_tests()
{
    name="$1: $2 ${3:-(all)}"
    shift 3
    if "$@" >"$T/said" 2>&1; then code=0; else code=$?; fi
    line=$(grep -E '^[0-9]+ passed, [0-9]+ failed(, [0-9]+ skipped)?$' "$T/said" | tail -n 1)
    echo "$name: ${line:-ended with status $code and no count}"
    # shellcheck disable=SC2046 # words wanted
    set -- $(echo "$line" | tr -c '0-9' ' ')
    passed=$((passed + ${1:-0})) skipped=$((skipped + ${3:-0}))
    if [ "$code" -ne 0 ] || [ "${1:-0}" -eq 0 ]; then
        fail "$name" "$T/said"
        failed=$((failed - 1 + (${2:-0} > 0 ? ${2:-0} : 1)))
    fi
}

# tensor_tests MACHINE PARTS FOLDER LEVEL COMMAND...: the tests of bmvp_tensor.h in the folder; parts are `ops` (against PyTorch's values),
# `most`: the finite differences of each op's first sample at the level, too, and the tape; or `all`: those of all samples, memory, and $BIG.
# That a processor is emulated says whether it has the instructions: what it computes with them the tests have said on this one.
tensor_tests()
{
    on=$1 parts=$2 at=$3 best=$4
    shift 4
    run_tests "$on" test_ops "op " "$@" "$at/test_ops" "op "
    if [ "$parts" = ops ]; then return; fi
    run_tests "$on" test_tape "" "$@" "$at/test_tape"
    if [ "$parts" = most ]; then
        run_tests "$on" test_ops ".0 $best" "$@" "$at/test_ops" ".0 $best"
        return
    fi
    run_tests "$on" test_ops gradcheck "$@" "$at/test_ops" gradcheck
    for part in _and_ peak; do run_tests "$on" test_memory $part "$@" "$at/test_memory" $part; done # not each allocation that fails
    for part in $BIG; do run_tests "$on" test_ops "threads $part" "$@" "$at/test_ops" "threads $part"; done
}

# level MACHINE WANTED COMMAND...: the instruction set that the library chooses, and that it chooses no better one when asked to
level()
{
    on=$1 want=$2
    shift 2
    said=$("$@" 2>"$T/said")
    echo "$on: the library chooses $said"
    if [ "$said" = "$want, asked for avx512: $want" ]; then pass; else fail "$on: chose '$said', not $want" "$T/said"; fi
}

# losses MACHINE COMMAND...: the first steps of pre-training, the example program of bmvp_ssl.h cut short, give the losses they give here
losses()
{
    on=$1
    shift
    "$@" >"$T/losses" 2>"$T/said"
    if paste "$ROOT/losses.here" "$T/losses" | awk '
        NF != 2 { bad = 1; next }
        { d = $1 - $2; if (d < 0) d = -d; if (!(d <= 1e-4 * $1)) bad = 1; if (d > most) most = d; last = $2; ++n }
        END { printf "%d losses, the last %s, at most %g from those of this processor\n", n, last, most; exit bad || n != '"$STEPS"' }' >"$T/line"
    then pass
    else fail "$on: other losses than on this processor" "$T/losses"
    fi
    echo "$on: $(cat "$T/line")"
}

# copies MACHINE COMMAND...: checkpoints that it reads and writes, from one format to the other, are byte by byte those written here
copies()
{
    on=$1
    shift
    for from in tests/fixtures/io/plain.safetensors tests/fixtures/io/release.pt tests/fixtures/nets/uniformer_tiny.safetensors; do
        for to in safetensors pt; do
            if "$ROOT/copy_here" $from "$T/here.$to" $to >"$T/said" 2>&1 && "$@" $from "$T/there.$to" $to >"$T/said" 2>&1 &&
                cmp "$T/here.$to" "$T/there.$to" >"$T/said" 2>&1; then pass
            else fail "$on: $from as $to is not what it is here" "$T/said"
            fi
        done
    done
}

# ---- programs of our own: the level, single instructions, some steps of pre-training ------------------------------------------

cat >"$T/level.c" <<'END'
#include "bmvp_tensor.h"
#include <stdio.h>
int main(void)
{
    bmvp_config k = bmvp_config_default();
    bmvp_ctx *best = bmvp_create(&k, NULL), *asked;
    k.simd = BMVP_SIMD_AVX512;
    asked = bmvp_create(&k, NULL);
    if (!best || !asked) return 1;
    printf("%s, asked for avx512: %s\n", bmvp_simd_text(bmvp_simd_level(best)), bmvp_simd_text(bmvp_simd_level(asked)));
    bmvp_destroy(asked);
    bmvp_destroy(best);
    return 0;
}
END
cat >"$T/instruction.c" <<'END'
int main(int argc, char **argv)
{
    switch (argc > 1 ? argv[1][0] : 0) {
    case '1': __asm__ volatile("vaddps %%ymm0, %%ymm0, %%ymm0" ::: "xmm0"); return 0;  /* AVX */
    case '2': __asm__ volatile("vpaddd %%ymm0, %%ymm0, %%ymm0" ::: "xmm0"); return 0;  /* AVX2 */
    case '3': __asm__ volatile("vaddps %%zmm0, %%zmm0, %%zmm0" ::: "xmm0"); return 0;  /* AVX-512 */
    default: return 1;
    }
}
END
# copy IN OUT FORMAT: every tensor and all metadata of a checkpoint, read and written as elements of this machine
cat >"$T/copy.c" <<'END'
#include "bmvp_tensor.h"
#include "bmvp_nn.h"
#include <stdio.h>
#include <stdlib.h>
int main(int argc, char **argv)
{
    bmvp_ckpt *in = NULL;
    bmvp_ckpt_writer *out = NULL;
    bmvp_error e;
    int i;
    if (argc != 4 || bmvp_ckpt_open(argv[1], NULL, &in, &e)) return fprintf(stderr, "%s\n", e.message), 1;
    if (bmvp_ckpt_writer_begin(argv[2], *argv[3] == 'p' ? BMVP_CKPT_PT : BMVP_CKPT_SAFETENSORS, NULL, &out, &e)) return 1;
    for (i = 0; i < in->n_entries; ++i)
        bmvp_ckpt_writer_add(out, in->entry[i].group, in->entry[i].name, in->entry[i].dtype, in->entry[i].rank, in->entry[i].dim, NULL);
    for (i = 0; i < in->n_meta; ++i)
        bmvp_ckpt_writer_meta(out, in->meta[i].group, in->meta[i].name, in->meta[i].kind, in->meta[i].value, NULL);
    for (i = 0; i < in->n_entries; ++i) {
        const int64_t bytes = in->entry[i].bytes, part = bytes > 3 ? 3 : 0; /* a piece may end within an element */
        char *p = (char *)malloc((size_t)bytes + 1);
        if (!p || bmvp_ckpt_load(in, i, p, bytes, &e)) return fprintf(stderr, "%s\n", e.message), 1;
        bmvp_ckpt_writer_data(out, p, part, NULL);
        bmvp_ckpt_writer_data(out, p + part, bytes - part, NULL);
        free(p);
    }
    bmvp_ckpt_close(in);
    if (bmvp_ckpt_writer_finish(out, &e)) return fprintf(stderr, "%s\n", e.message), 1;
    return 0;
}
END
# They are linked with the implementation that the tests have.
program_of bmvp_ssl.h | sed -e "s/i < 10 &&/i < $STEPS \&\&/" -e '/define BMVP_IMPLEMENTATION/d' >"$T/losses.c"
silent "the level's program" $CC $FLAGS "$T/level.c" build/library.o -o "$T/level" $GZ -lm -lpthread
silent "the copying program" $CC $FLAGS "$T/copy.c" build/library.o -o "$T/copy_here" $GZ -lm -lpthread
check "the example program of bmvp_ssl.h" $CC $FLAGS "$T/losses.c" build/library.o -o "$T/losses_here" $GZ -lm -lpthread
"$T/losses_here" >"$T/losses.here"
echo "this processor, $(uname -m): the library chooses $("$T/level")"

# ---- arm64, and this processor without threads: a lane of its own ------------------------------------------------------------------

arm() { qemu-aarch64 -L "$ARM_ROOT" "$@"; }
arm_program() { echo 'int main(void) { return 0; }' >"$T/a.c" && "$@" "$T/a.c" -o "$T/arm_empty" >/dev/null 2>&1; }

# build_all FOLDER COMPILER...: the programs of $wanted and the three above in the folder, with $LINK, named ..$EXE; what the compiler says of
# each is kept beside it
build_all()
{
    mkdir -p "$1"
    into=$1
    shift
    "$@" $FLAGS -c tests/support/inside.c -o "$into/inside.o" >"$into/inside.o.said" 2>&1
    for t in $wanted; do
        case $t in nifti | grids) inside= ;; *) inside=$into/inside.o ;; esac # those hold an implementation
        "$@" $FLAGS tests/unit/test_$t.c $inside -o "$into/test_$t$EXE" $LINK >"$into/test_$t$EXE.said" 2>&1
    done
    "$@" $FLAGS "$ROOT/level.c" "$into/inside.o" -o "$into/level$EXE" $LINK >"$into/level$EXE.said" 2>&1
    "$@" $FLAGS "$ROOT/copy.c" "$into/inside.o" -o "$into/copy$EXE" $LINK >"$into/copy$EXE.said" 2>&1
    "$@" $FLAGS -Wno-conversion "$ROOT/losses.c" "$into/inside.o" -o "$into/losses$EXE" $LINK >"$into/losses$EXE.said" 2>&1
}
# built MACHINE FOLDER: all of them are there, without a word of warning
built()
{
    for said in "$2"/*.said; do
        if [ -s "${said%.said}" ] && [ ! -s "$said" ]; then pass; else fail "$1: compiling ${said%.said}" "$said"; fi
    done
}

arm_gcc()
{
    on="arm64 (NEON)"
    wanted="ops tape memory nets optim state masks step json checkpoint hostile nifti grids"
    build_all "$T/arm" aarch64-linux-gnu-gcc
    built arm64 "$T/arm"
    level "$on" vector arm "$T/arm/level"
    losses "$on" arm "$T/arm/losses"
    tensor_tests "$on" all "$T/arm" vector arm
    for part in "nets tiny" "optim adam" "optim sgd" "state test_seeds" "masks mask" "masks sampler" "step masks" "step losses" "step views" \
        "step template_gradient" json checkpoint hostile nifti grids; do
        case $part in *" "*) word=${part#* } ;; *) word= ;; esac
        run_tests "$on" "test_${part%% *}" "$word" arm "$T/arm/test_${part%% *}" "$word"
    done
}
arm_clang()
{
    on="arm64 (NEON), clang"
    wanted=ops
    build_all "$T/arm_clang" clang --target=aarch64-linux-gnu
    built "$on" "$T/arm_clang"
    level "$on" vector arm "$T/arm_clang/level"
    losses "$on" arm "$T/arm_clang/losses"
    tensor_tests "$on" ops "$T/arm_clang" vector arm
}

# Plain loops: how work is cut into pieces is the same above all kernels, and they are compiled in a fifth of the time.
without_threads()
{
    less="-DBMVP_NO_THREADS -DBMVP_NO_SIMD"
    {
        $CC $FLAGS $less -c tests/support/inside.c -o "$T/inside.o"
        for t in ops tape memory; do $CC $FLAGS $less tests/unit/test_$t.c "$T/inside.o" -o "$T/test_$t" -lm; done
    } >"$T/no_threads.said" 2>&1
    if [ ! -s "$T/no_threads.said" ]; then pass; else fail "BMVP_NO_THREADS: compiling the tests" "$T/no_threads.said"; fi
    if has nm; then check "BMVP_NO_THREADS: pthread all the same" sh -c "! nm -u '$T/test_tape' | grep pthread"; fi
    for t in ops tape memory; do run_tests "BMVP_NO_THREADS" test_$t "" "$T/test_$t"; done
}

# other MACHINE COMPILER COMMAND...: the tests of $wanted on a machine of another kind, where its compiler is there: what byte order, the size
# of a pointer and the C library can change. It runs where the command does. Plain loops: they have no vectors of their own there.
other()
{
    on=$1 cc=$2
    shift 2
    if ! has "$cc" || { [ $# -gt 0 ] && ! has "$1"; }; then
        skip "$on: no $cc${1:+ or $1}. Fix: apt-get install musl-tools gcc-i686-linux-gnu gcc-arm-linux-gnueabihf gcc-s390x-linux-gnu qemu-user"
        return
    fi
    build_all "$T/$cc" "$cc"
    built "$on" "$T/$cc"
    losses "$on" "$@" "$T/$cc/losses"
    copies "$on" "$@" "$T/$cc/copy"
    for t in $wanted; do
        case $t in ops) word="op " ;; *) word= ;; esac
        run_tests "$on" test_$t "$word" "$@" "$T/$cc/test_$t" "$word"
    done
}
others()
{
    FLAGS="$FLAGS -O1 -D_FILE_OFFSET_BITS=64 -DBMVP_NO_SIMD -static"
    wanted="ops json checkpoint nifti"
    other "musl" musl-gcc
    other "x86, 32 bits" i686-linux-gnu-gcc
    other "armhf" arm-linux-gnueabihf-gcc qemu-arm
    wanted="json checkpoint hostile nifti"
    other "s390x (big-endian)" s390x-linux-gnu-gcc qemu-s390x
}

# web PROGRAM WORDS...: a program of Emscripten's in node; only old versions of node need the switch
web() { node $NODE_FLAGS "$@"; }
wasm()
{
    on="WebAssembly (emcc, node)"
    if ! has emcc || ! has node; then skip "$on: no emcc or node. Fix: apt-get install emscripten nodejs"; return; fi
    NODE_FLAGS=
    if node --no-experimental-fetch -e 0 >/dev/null 2>&1; then NODE_FLAGS=--no-experimental-fetch; fi
    FLAGS="-std=c99 -O1 -Wall -Wextra -Wpedantic -Wshadow -Wconversion -DBMVP_NIFTI_NO_GZIP -DBMVP_NO_THREADS -DBMVP_NO_SIMD -I."
    LINK="-lm -sALLOW_MEMORY_GROWTH=1 -sNODERAWFS=1 -sEXIT_RUNTIME=1 -sTOTAL_STACK=4MB" EXE=.js
    wanted="json checkpoint nifti"
    build_all "$T/wasm" emcc
    built "$on" "$T/wasm"
    losses "$on" web "$T/wasm/losses.js"
    copies "$on" web "$T/wasm/copy.js"
    for t in $wanted; do run_tests "$on" test_$t "" web "$T/wasm/test_$t.js"; done
    LINK="-lm -lpthread" EXE=
}

# It knows no vectors of C and no atomics. (test_ops: its 0.9.27 loses the first of variable arguments where a struct is returned.)
tcc_row()
{
    if ! has tcc; then skip "TCC: none. Fix: apt-get install tcc"; return; fi
    FLAGS="-std=c99 -DBMVP_NIFTI_NO_GZIP -DBMVP_NO_THREADS -D_FILE_OFFSET_BITS=64 -I."
    wanted="json checkpoint nifti"
    other "TCC" tcc
}

# What clang's front end says for systems that are not there to be run: the program for macOS and FreeBSD with musl's headers in place of theirs,
# the headers for MSVC with those of mingw-w64 (whose declarations say noreturn where only GNU's compilers take it).
front_ends()
{
    MUSL=${MUSL:-/usr/include/$(uname -m)-linux-musl} MINGW_H=${MINGW_H:-/usr/share/mingw-w64/include}
    if ! has clang; then skip "macOS, FreeBSD, MSVC: no clang. Fix: apt-get install clang"; return; fi
    strict="-fsyntax-only -std=c99 -Wall -Wextra -DBMVP_NIFTI_NO_GZIP -I. -Iexamples/bmvp"
    for target in arm64-apple-macos11 x86_64-unknown-freebsd13; do
        if [ ! -f "$MUSL/stdio.h" ]; then skip "$target: no $MUSL. Fix: apt-get install musl-tools"; continue; fi
        silent "$target: the program" clang --target=$target $strict -D_FILE_OFFSET_BITS=64 -nostdlibinc -isystem "$MUSL" \
            examples/bmvp.c examples/bmvp/*/*.c examples/bmvp/library.c
    done
    if [ ! -f "$MINGW_H/_mingw.h" ]; then skip "MSVC: no $MINGW_H. Fix: apt-get install mingw-w64"; return; fi
    for word in NORETURN DEPRECATED; do printf '#undef __MINGW_ATTRIB_%s\n#define __MINGW_ATTRIB_%s\n' $word $word; done >"$T/msvc.h"
    silent "MSVC: the headers" clang --target=x86_64-pc-windows-msvc $strict -include _mingw.h -include "$T/msvc.h" -isystem "$MINGW_H" \
        -x c examples/bmvp/library.c
}

lane()
{
    T=$ROOT/lane passed=0 failed=0 skipped=0
    mkdir "$T"
    if ! has qemu-aarch64; then skip "arm64: no qemu-aarch64. Fix: $APT"
    elif ! has aarch64-linux-gnu-gcc || ! arm_program aarch64-linux-gnu-gcc; then skip "arm64: no cross compiler with a C library. Fix: $APT"
    else
        arm_gcc
        if has clang && arm_program clang --target=aarch64-linux-gnu; then arm_clang; else skip "arm64, clang: none. Fix: apt-get install clang"; fi
    fi
    without_threads
    front_ends
    wasm
    tcc_row
    others
    echo "$passed $failed $skipped" >"$ROOT/counts"
}
lane >"$T/lane_said" 2>&1 &

# ---- x86-64: the ordinary program on other processors --------------------------------------------------------------------------

# x86 CPU LEVEL WITH WITHOUT PARTS WORDS: the processor runs instruction WITH of $T/instruction and refuses WITHOUT
x86()
{
    on="x86-64 $1 ($6)"
    if [ -n "$3" ] && ! qemu-x86_64 -cpu "$1" "$T/instruction" "$3" >/dev/null 2>&1; then
        skip "$on: this QEMU does not emulate it, 7.2 does: $(qemu-x86_64 --version | head -n 1)"
        return
    fi
    if qemu-x86_64 -cpu "$1" "$T/instruction" "$4" >/dev/null 2>&1; then
        fail "$on: runs an instruction that this processor does not have: a test on it says nothing"
        return
    fi
    pass
    level "$on" "$2" qemu-x86_64 -cpu "$1" "$T/level"
    if [ "$5" = most ]; then losses "$on" qemu-x86_64 -cpu "$1" "$T/losses_here"; fi
    tensor_tests "$on" "$5" build "$2" qemu-x86_64 -cpu "$1"
}
if [ "$(uname -m)" != x86_64 ]; then skip "other x86-64 processors: this is none"
elif ! has qemu-x86_64; then skip "other x86-64 processors: no qemu-x86_64. Fix: $APT"
else
    silent "single instructions" $CC -O1 "$T/instruction.c" -o "$T/instruction"
    x86 qemu64,-sse3 vector "" 1 most "SSE2"
    x86 Nehalem vector "" 1 ops "SSE4.2, no AVX"
    x86 SandyBridge vector 1 2 ops "AVX, no AVX2"
    x86 Haswell avx2 2 3 most "AVX2, no AVX-512"
fi

# ---- all together ------------------------------------------------------------------------------------------------------------------

wait
cat "$T/lane_said"
if read -r p f s <"$T/counts"; then passed=$((passed + p)) failed=$((failed + f)) skipped=$((skipped + s))
else fail "arm64 and no threads: did not come to their end"
fi

finish
