#!/bin/sh
# sign.sh FILE KEY - a signature of the file beside it, which `make dist SIGN=KEY` calls. KEY is a private key of ssh's (a file: FILE.sig, by
# ssh-keygen in the namespace "file") or the name of one of gpg's (FILE.asc). What was written is verified. SECURITY.md says how others do so.
# sign.sh alone: a throw-away key signs a file; one that was changed, and a key that cannot sign, are refused.
cd "$(dirname "$0")/../.." || exit 1

sign()
{
    rm -f "$1.sig" "$1.asc" # ssh-keygen asks before it writes over one
    if [ -f "$2" ]; then
        ssh-keygen -q -Y sign -f "$2" -n file "$1" && ssh-keygen -q -Y check-novalidate -n file -s "$1.sig" <"$1"
    else gpg --batch --yes --armor --local-user "$2" --output "$1.asc" --detach-sign "$1" && gpg --batch --verify "$1.asc" "$1"
    fi
}
if [ $# -eq 2 ]; then
    sign "$1" "$2" && echo "signed: $(ls "$1.sig" "$1.asc" 2>/dev/null)" && exit 0
    echo "sign.sh: $1 could not be signed with $2, which is no file with a private key of ssh's and no name of a key of gpg's"
    exit 1
fi

# shellcheck source=tests/support/check.sh
. tests/support/check.sh
echo "an archive" >"$T/archive"
sed 's/an/another/' "$T/archive" >"$T/changed"
if command -v ssh-keygen >/dev/null 2>&1; then
    check "ssh: a key" ssh-keygen -q -t ed25519 -N "" -C "" -f "$T/key"
    check "ssh: signed" sh tests/form/sign.sh "$T/archive" "$T/key"
    echo "releases $(cat "$T/key.pub")" >"$T/allowed"
    verified() { ssh-keygen -q -Y verify -f "$T/allowed" -I releases -n file -s "$T/archive.sig" <"$1"; }
    check "ssh: verified as SECURITY.md says" verified "$T/archive"
    if verified "$T/changed" >"$T/said" 2>&1; then fail "ssh: a changed archive is verified" "$T/said"; else pass; fi
    if sh tests/form/sign.sh "$T/archive" "$T/allowed" >"$T/said" 2>&1; then fail "ssh: a file without a key signs" "$T/said"; else pass; fi
else skip "ssh: no ssh-keygen"
fi
if command -v gpg >/dev/null 2>&1; then
    GNUPGHOME=$T/gnupg
    export GNUPGHOME
    mkdir -m 700 "$GNUPGHOME"
    check "gpg: a key" gpg --batch --quiet --passphrase "" --quick-generate-key releases ed25519 sign never
    check "gpg: signed" sh tests/form/sign.sh "$T/archive" releases
    check "gpg: verified as SECURITY.md says" gpg --verify "$T/archive.asc" "$T/archive"
    if gpg --verify "$T/archive.asc" "$T/changed" >"$T/said" 2>&1; then fail "gpg: a changed archive is verified" "$T/said"; else pass; fi
    if sh tests/form/sign.sh "$T/archive" nobody >"$T/said" 2>&1; then fail "gpg: a key that is not there signs" "$T/said"; else pass; fi
    gpgconf --kill all
else skip "gpg: none"
fi
finish
