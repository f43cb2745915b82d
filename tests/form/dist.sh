#!/bin/sh
# dist.sh - `make dist`: build/bmvp-VERSION.tar.gz of the commit that is checked out, and its SHA-256. It is unpacked in two folders: both
# make the same program, byte by byte, and the first makes phantoms, prepares them and passes the tests of files. With SIGN it is signed then.
# Environment: CC, CFLAGS, GZ, DEFS, VERSION, SIGN (a key, see sign.sh).
cd "$(dirname "$0")/../.." || exit 1
# shellcheck source=tests/support/check.sh
. tests/support/check.sh
name=bmvp-${VERSION:?make dist sets it}
home=$PWD
archive=$home/build/$name.tar.gz
if ! git rev-parse -q --verify HEAD >"$T/commit" 2>/dev/null; then
    echo "make dist needs the repository: the archive is made of a commit"
    exit 1
fi
if [ -n "$(git status --porcelain)" ]; then echo "note: what is not committed is not in the archive"; fi
SOURCE_DATE_EPOCH=$(git log -1 --format=%ct)
export SOURCE_DATE_EPOCH
mkdir -p build
rm -f "$archive".* # hash and signature of an older one
for i in 1 2; do git archive --format=tar --prefix="$name/" HEAD | gzip -n -9 >"$T/$i.tar.gz"; done
check "the archive is the same twice" cmp "$T/1.tar.gz" "$T/2.tar.gz"
cp "$T/1.tar.gz" "$archive"
for at in a another/folder; do
    mkdir -p "$T/$at"
    tar -xzf "$archive" -C "$T/$at"
    expect 0 "" env -u MAKEFLAGS -u MAKELEVEL make -C "$T/$at/$name" -j2 build/bmvp
done
check "two builds in two folders are the same" cmp "$T/a/$name/build/bmvp" "$T/another/folder/$name/build/bmvp"
cd "$T/a/$name" || exit 1
expect 0 "" env -u MAKEFLAGS -u MAKELEVEL make build/test_nifti build/test_json
for t in nifti json; do expect 0 " 0 failed" build/test_$t; done
expect 0 "" build/bmvp phantom --out "$T/phantoms" --cases 2 --size 24
expect 0 "" build/bmvp prepare --data "$T/phantoms" --out "$T/prepared"
cd "$(dirname "$archive")" && sha256sum "$name.tar.gz" | tee "$name.tar.gz.sha256"
cd "$home" || exit 1
if [ -n "${SIGN-}" ] && [ "$failed" -eq 0 ]; then check "signed with $SIGN" sh tests/form/sign.sh "$archive" "$SIGN"; fi
finish
