#!/bin/sh
# install.sh - `make install` and what others build with it: pkg-config, find_package and add_subdirectory, in C and C++17, static and shared;
# the manual page and the completions are those of the program. From a copy of the sources, without SIMD and optimisation: it is quick.
# Environment: CC, CXX, GZ.
cd "$(dirname "$0")/../.." || exit 1
# shellcheck source=tests/support/check.sh
. tests/support/check.sh
home=$PWD CC=${CC:-cc} CXX=${CXX:-c++}
mkdir -p "$T/source" "$T/user"
cp -R Makefile bmvp_*.h bmvp_cuda.cu examples "$T/source"
usr=$T/stage/opt/bmvp
expect 0 "" env -u MAKEFLAGS -u MAKELEVEL make -C "$T/source" -j2 CC="$CC" CFLAGS=-O0 DEFS="-DBMVP_NO_SIMD ${DEFS-}" GZ="${GZ--ldeflate}" PREFIX=/opt/bmvp DESTDIR="$T/stage" install
for file in include/bmvp_tensor.h include/bmvp_nn.h include/bmvp_ssl.h include/bmvp_nifti.h include/bmvp_cuda.cu bin/bmvp lib/libbmvp.a \
    lib/libbmvp.so lib/pkgconfig/bmvp.pc lib/cmake/bmvp/bmvpConfig.cmake lib/cmake/bmvp/bmvpConfigVersion.cmake share/man/man1/bmvp.1 \
    share/bash-completion/completions/bmvp share/zsh/site-functions/_bmvp; do
    check "installed: $file" test -s "$usr/$file"
done
check "no place is left to fill" sh -c "! grep -rqE '@[A-Z]+@' '$usr/lib/pkgconfig' '$usr/lib/cmake'"
check "the shared library shows what is public alone" sh -c "nm -D --defined-only '$usr/lib/libbmvp.so' | grep -q ' T bmvp_create' &&
    ! nm -D --defined-only '$usr/lib/libbmvp.so' | grep -vE ' T bmvp_[a-z]'"

# A program of ten lines, in C and C++
cat >"$T/user/main.c" <<'END'
#include <bmvp_tensor.h>
#include <bmvp_nn.h>
#include <bmvp_ssl.h>
#include <bmvp_nifti.h>
#include <stdio.h>
int main(void)
{
    const float two[2] = { 20, 22 };
    const int64_t dim[1] = { 2 };
    bmvp_error err;
    bmvp_nii_image image;
    bmvp_ctx *c = bmvp_create(NULL, &err);
    const bmvp_tensor *t = bmvp_input(c, 1, dim, two);
    const bmvp_status s = bmvp_nii_read(&image, "nothing.nii", NULL, &err);
    printf("%g, %s\n", t ? (double)(t->x[0] + t->x[1]) : 0.0, bmvp_status_text(s));
    bmvp_destroy(c);
    return 0;
}
END
cp "$T/user/main.c" "$T/user/main.cpp"
works="42, file could not be read or written"

if command -v pkg-config >/dev/null; then
    flags() { PKG_CONFIG_PATH=$usr/lib/pkgconfig pkg-config --define-variable=prefix="$usr" "$@" bmvp; }
    check "pkg-config: the version" test "$(flags --modversion)" = "$(sed -n '1s/.* v\([0-9.]*\) .*/\1/p' bmvp_tensor.h)"
    # shellcheck disable=SC2046 # words wanted
    for with in "$CC -std=c99 main.c" "$CXX -std=c++17 main.cpp"; do
        expect 0 "" sh -c "cd '$T/user' && $with -Wall -Wextra -Wpedantic -Werror $(flags --cflags) $(flags --libs) -Wl,-rpath,'$usr/lib' -o shared"
        expect 0 "$works" "$T/user/shared"
        check "$with: the shared library by its version" sh -c "readelf -d '$T/user/shared' | grep -q 'NEEDED.*libbmvp.so.[0-9]*\.[0-9]*\]'"
        # -static of pkg-config, the system's libraries shared
        expect 0 "" sh -c "cd '$T/user' && $with $(flags --cflags) '$usr/lib/libbmvp.a' $(flags --libs-only-l --static | sed 's/-lbmvp//') -o static"
        expect 0 "$works" "$T/user/static"
    done
else skip "pkg-config: apt-get install pkg-config"
fi

if command -v cmake >/dev/null; then
    cat >"$T/user/CMakeLists.txt" <<'END'
cmake_minimum_required(VERSION 3.13)
project(user C CXX)
if(INSIDE)
  add_subdirectory("${INSIDE}/examples/package" bmvp)
  target_compile_definitions(bmvp PRIVATE BMVP_NO_SIMD)
else()
  find_package(bmvp 0.2 REQUIRED)
endif()
set(CMAKE_CXX_STANDARD 17)
add_executable(in_c main.c)
add_executable(in_cpp main.cpp)
target_link_libraries(in_c bmvp::bmvp)
target_link_libraries(in_cpp bmvp::bmvp)
if(NOT BUILD_SHARED_LIBS)
  file(WRITE ${CMAKE_BINARY_DIR}/own.c "#define BMVP_IMPLEMENTATION\n#include <bmvp_nifti.h>\n#include <bmvp_tensor.h>\nint main(void) { return 0; }\n")
  add_executable(own ${CMAKE_BINARY_DIR}/own.c)
  target_compile_definitions(own PRIVATE BMVP_NO_SIMD)
  target_link_libraries(own bmvp::headers)
endif()
END
    gzip=deflate
    case "${DEFS-}" in *NO_GZIP*) gzip=none ;; *ZLIB*) gzip=zlib ;; esac
    for how in "-DCMAKE_PREFIX_PATH=$usr" "-DINSIDE=$T/source -DBMVP_GZIP=$gzip"; do
        for shared in OFF ON; do
            build=$T/build.$shared.${how%%=*}
            # shellcheck disable=SC2086 # words wanted
            expect 0 "" cmake -S "$T/user" -B "$build" $how -DBUILD_SHARED_LIBS=$shared -DCMAKE_C_COMPILER="$CC" -DCMAKE_CXX_COMPILER="$CXX"
            expect 0 "" cmake --build "$build"
            for program in in_c in_cpp; do
                expect 0 "$works" "$build/$program"
                n=$(readelf -d "$build/$program" | grep -c 'NEEDED.*libbmvp.so')
                check "$how, shared $shared: $program is linked with it $n times" test "$n" -eq "$([ $shared = ON ] && echo 1 || echo 0)"
            done
            if [ $shared = OFF ]; then expect 0 "" "$build/own"; fi
        done
    done
    sed -i 's/bmvp 0.2/bmvp 0.1/' "$T/user/CMakeLists.txt"
    expect 1 "considered but not accepted" cmake -S "$T/user" -B "$T/build.old" -DCMAKE_PREFIX_PATH="$usr"
else skip "find_package: apt-get install cmake"
fi

# What is said of the program is what it says
page=$T/bmvp.1
tr -d '\\' <"$usr/share/man/man1/bmvp.1" >"$page" # without roff's marks
"$usr/bin/bmvp" --help >"$T/help"
for command in $(sed -n 's/^  \([a-z][a-z]*\) .*/\1/p' "$T/help"); do
    check "bmvp.1: $command" grep -qx ".SS $command" "$page"
    "$usr/bin/bmvp" "$command" --help | sed -n 's/^  --\([a-z-]*\).*/\1/p' >"$T/options"
    while read -r name; do
        check "bmvp.1: $command --$name" grep -qE "^\.B --$name( |\$)" "$page"
    done <"$T/options"
done
if command -v mandoc >/dev/null; then check "mandoc: bmvp.1" mandoc -Tlint -W error "$usr/share/man/man1/bmvp.1"; fi
if command -v bash >/dev/null; then
    completed() { bash -c '. "$0"; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _bmvp; echo "${COMPREPLY[*]}"' "$usr/share/bash-completion/completions/bmvp" "$@"; }
    check "bash: commands" test "$(completed bmvp pr)" = "prepare pretrain predict"
    check "bash: options" test "$(completed bmvp prepare --register)" = "--register"
    check "bash: names of an option" test "$(completed bmvp prepare --register h)" = "header"
    check "bash: files are bash's" test -z "$(completed bmvp prepare --data /)"
fi
if command -v zsh >/dev/null; then check "zsh: the completion can be read" zsh -n "$usr/share/zsh/site-functions/_bmvp"; fi
cd "$home" || exit 1
finish
