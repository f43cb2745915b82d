#!/bin/sh
# readme.sh - what the README and its pages promise: every command that they show is run as it stands, their C programs compile and run, links
# and files are there, and their tables of keys and words are those of the program.
# A comment stands on the line before each block of commands: `<!-- test: sh -->` runs it, `<!-- test: NAME -->` saves the block below as that
# file, `<!-- not run: why -->`. All blocks run in one folder, page after page, on small phantoms; what the commands there call `build/bmvp` and
# `cc` makes training short and compiling quick, and is the same otherwise.
# Environment: CC, GZ, BMVP (default build/bmvp).
cd "$(dirname "$0")/../.." || exit 1
# shellcheck source=tests/support/check.sh
. tests/support/check.sh
home=$PWD pages="README.md examples/data.md examples/training.md examples/prediction.md examples/gpus.md examples/speed.md tests/README.md"
program=${BMVP:-$home/build/bmvp}
compiler=${CC:-cc} # the one below may be called so, too
case $compiler in /*) ;; *) compiler=$(command -v "${compiler%% *}")${compiler#"${compiler%% *}"} ;; esac

# ---- the folder that the commands are run in --------------------------------------------------------------------------------------------

work=$T/work
mkdir -p "$work/build" "$T/bin"
ln -s "$home"/bmvp_*.h "$home/examples" "$work"
cat >"$work/build/bmvp" <<END
#!/bin/sh
# options that come last count: the command as it stands, made small
case " \$* " in
*" --resume "* | *" --plan "* | *" --method list "*) exec $program "\$@" ;;
*" --method "*) short="--batch 2 --steps 2" ;;
*" --init "*) short="--preset fast --crop 16 --batch 2 --steps 2" ;;
*) short="--preset fast --network uniformer_tiny --crop 16 --batch 2 --steps 2" ;;
esac
case \$1 in
prepare) short="--spacing 0" ;;
pretrain) ;;
finetune) case " \$* " in *" --task classify "*) short="--preset fast --batch 2 --steps 2 --set crop_x=32,crop_y=32,crop_z=16" ;; esac
    short="\$short --allow-absent" ;;
*) short= ;;
esac
exec $program "\$@" \$short
END
cat >"$T/bin/cc" <<END
#!/bin/sh
exec $compiler "\$@" -O0 -DBMVP_NO_SIMD
END
chmod +x "$work/build/bmvp" "$T/bin/cc"
PATH=$T/bin:$PATH
export PATH OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 BMVP_TIMEOUT=60
unset DESTDIR PREFIX

phantom() { expect 0 "" "$program" phantom --tumours 1 --thick 0 --out "$@"; }
phantom "$work/scans" --cases 4 --size 32 --missing 0.3
phantom "$work/labelled" --cases 10 --size 32 --missing 0 --seed 2
phantom "$work/raw" --heads --cases 1 --size 48 --missing 0 --seed 3 --modalities t1,t2
classes=$(tr -d ' \n' <"$work/labelled/dataset.json" | sed 's/{"id"/\n&/g' | sed -n 's/^{"id":"\([^"]*\)".*"class":\([0-9]*\).*/\1,\2/p')
printf 'participant_id,DX\n%s\n' "$classes" >"$work/classes.csv"
rm -f "$work"/*/dataset.json # folders as a provider has them
mkdir "$work/new"
cp -R "$work/labelled/case_0001" "$work/new/a"
cp -R "$work/labelled/case_0002" "$work/new/b"

# ---- the blocks -----------------------------------------------------------------------------------------------------------------------------

# split PAGE: its tested blocks become files, NN.sh or the name said, in $T/blocks in their order; a line of what is wrong with the marks
split()
{
    awk -v work="$work" -v dir="$T" -v page="$1" '
        /^<!-- test: [^ ]* -->$/ { name = $3; next }
        /^<!-- not run: ..* -->$/ { name = "-"; next }
        !open && /^```/ {
            open = 1
            if ($0 == "```sh" && name == "") print FNR ": commands without a mark"
            if (name == "sh") file = dir "/" sprintf("%02d.sh", ++n)
            else file = name == "" || name == "-" ? "" : work "/" name
            if (file != "") { print file >(dir "/blocks"); printf "" >file }
            next
        }
        open && /^```/ { if (file != "") close(file); open = 0; file = name = ""; next }
        open { if (file != "") print >file; next }
        { if (name != "") print FNR ": a mark without a block"; name = "" }
        END { if (open) print "a block does not end" }' "$1"
}
mkdir "$work/mine" "$work/mine/a" "$work/mine/b"
for page in $pages; do
    : >"$T/blocks"
    silent "$page: blocks" split "$page"
    while read -r block; do
        case $block in *.sh) ;; *) continue ;; esac
        if grep -q -- '-ldeflate' "$block" && [ "${GZ--ldeflate}" != -ldeflate ]; then skip "$page: this build has no libdeflate"; continue; fi
        if grep -q '^mpirun ' "$block" && ! command -v mpirun >/dev/null; then skip "$page: apt-get install openmpi-bin"; continue; fi
        rm -f "$work/a.out"
        if (cd "$work" && sh -e "$block") >"$T/said" 2>&1 && ! grep -q 'warning:' "$T/said"; then pass; else fail "$page: $(cat "$block")" "$T/said"; fi
        [ -x "$work/a.out" ] || continue
        if (cd "$work" && ./a.out) >"$T/said" 2>&1 && [ -s "$T/said" ]; then pass; else fail "$page: the program of $(cat "$block")" "$T/said"; fi
    done <"$T/blocks"
done

# The README's list, its files laid out as it says: one of them has two volumes, which is what its "channels" asks for.
cp "$work/labelled/case_0001/t1.nii.gz" "$work/labelled/case_0001/flair.nii.gz" "$work/labelled/case_0001/seg.nii.gz" "$work/mine/a"
gzip -dc "$work/labelled/case_0002/t1.nii.gz" >"$work/mine/one.nii"
{ cat "$work/mine/one.nii"; tail -c +353 "$work/mine/one.nii"; } >"$work/mine/b/all.nii"
patch "$work/mine/b/all.nii" 40 '\004'
patch "$work/mine/b/all.nii" 48 '\002'
gzip "$work/mine/b/all.nii"
expect 0 "2 cases (2 new" "$program" prepare --data "$work/mine/list.json" --out "$work/mine/prepared" --spacing 0
check "the list says parts, classes, patients" sh -c 'grep -q "\"patient\": \"P2\"" "$0" && grep -q "\"part\": \"test\"" "$0"' "$work/mine/prepared/dataset.json"

# Commands that are not run have options that the program has, too.
# shellcheck disable=SC2086 # words wanted
cat $pages examples/parallel.md | sed -e ':a' -e '/\\$/N; s/\\\n//; ta' | sed -n 's/^.*build\/bmvp  *\([a-z]* .*--.*\)/\1/p' >"$T/lines"
if [ ! -s "$T/lines" ]; then fail "no page shows a command of the program"; fi
while read -r command rest; do
    "$program" "$command" --help >"$T/help" 2>&1 || fail "bmvp $command" "$T/help"
    for word in $rest; do
        word=${word%%[!a-z-]*}
        case $word in --[a-z]*) check "bmvp $command $word" grep -qE "^  $word( |\$)" "$T/help" ;; esac
    done
done <"$T/lines"

# ---- links and names of files ------------------------------------------------------------------------------------------------------------------

# anchors PAGE: what its headings are called in links
anchors() { awk '/^```/ { code = !code } !code && /^#+ / { s = tolower($0); sub(/^#+ /, "", s); gsub(/[^a-z0-9 _-]/, "", s); gsub(/ /, "-", s); print s }' "$1"; }
documents="$pages examples/README.md examples/conv3d.md examples/parallel.md examples/bmvp/README.md CONTRIBUTING.md SECURITY.md"
for page in $documents; do
    folder=$(dirname "$page")
    awk '/^```/ { code = !code } !code' "$page" | grep -oE '\]\([^)]+\)' | sed 's/^](//; s/)$//' >"$T/links"
    while read -r link; do
        case $link in http*) continue ;; esac
        file=$folder/${link%%#*}
        if [ -z "${link%%#*}" ]; then file=$page; fi
        check "$page: $link is there" test -e "$file"
        case $link in *"#"*) check "$page: $link has a heading" sh -c 'grep -qxF -e "$1"' '' "${link#*#}" <<END
$(anchors "$file")
END
        esac
    done <"$T/links"
    grep -oE '`(examples|tests)/[A-Za-z0-9_./-]*`' "$page" | tr -d '`' | sort -u >"$T/files"
    while read -r file; do check "$page: $file is there" test -e "$file"; done <"$T/files"
    grep -oE 'make [a-z][a-z-]*' "$page" | sort -u | while read -r _ target; do
        grep -oE '`[^`]*`' "$page" | grep -qE "make( [A-Z0-9]+=[^ ]*)* $target" || continue
        grep -qE "^([a-z -]* )?$target( [a-z -]*)?:" Makefile || echo "$target"
    done >"$T/targets"
    check "$page: targets of make: $(tr '\n' ' ' <"$T/targets")" test ! -s "$T/targets"
done
for page in $pages; do
    awk '/^```/ { code = !code } !code && !/^\||^    |^<!--/ && length($0) > 102 { print FNR ": " length($0) }' "$page" >"$T/wide"
    silent "$page: lines" cat "$T/wide"
done

# ---- tables ------------------------------------------------------------------------------------------------------------------------------------

# Words of names: a row of the pages' tables for each row of the program's. sorted: words of a line in order.
sorted() { while read -r words; do echo "$words" | tr ' ' '\n' | sort | tr '\n' ' '; echo; done; }
{
    # The rows of roles.c, those of contrast, labels and masks among them; each is "MEANING VALUE words".
    awk '/^} table\[\] = \{$/ { on = 1; next } on && /^\};$/ { exit } on' examples/bmvp/data/roles.c | tr '\n' ' ' | sed 's/},/\n/g' |
        sed -n 's/^ *{ *\([A-Z]*\), *\([A-Z0-9]*\), *"\(.*\)" *$/\1 \2 \3/p' | tr -d '"'
    # the names of modalities that bmvp_modality_find knows
    sed -n '/^BMVP_API int bmvp_modality_find/,/^}/p' bmvp_ssl.h | grep -oE '\{ "[a-z0-9]*", [0-9] \}' | tr -d '{}",' |
        while read -r word m; do echo "IMAGE $(echo "FLAIR T1 T1C T2 MRA PD DWI ADC" | cut -d ' ' -f $((m + 1))) $word"; done
} | awk '{ k = $1 " " $2; if (!(k in all)) order[++n] = k; $1 = $2 = ""; all[k] = all[k] " " $0 } END { for (i = 1; i <= n; ++i) print order[i] " | " all[order[i]] }' >"$T/rows"
check "roles.c has its table" test "$(wc -l <"$T/rows")" -ge 20
sed -n '/^## \(Names that\|Other words\)/,/^## /p; /^### Names that/,/^###* When/p' README.md examples/data.md | grep '^|' >"$T/tables"
# row WORDS CELL PLACE: a table has the row whose cell PLACE (1 or 2) is CELL, beside exactly these words
in_tables() { awk -F ' *\\| *' -v place="$1" '{ print $place }' "$T/tables" | sorted; }
{ in_tables 2; in_tables 3; } >"$T/cells"
while IFS='|' read -r kind words; do
    # shellcheck disable=SC2086 # words wanted
    check "words of $kind, whole and no others: $words" grep -qxF -e "$(echo $words | sorted)" "$T/cells"
    case $kind in "IMAGE "*)
        name=$(echo "${kind#IMAGE }" | tr 'A-Z ' 'a-z\n' | head -n 1)
        check "the row of $name" sh -c 'grep -F -e "| \`$1\` |" "$2" | grep -qE "[| ]${3}[| ]"' '' "$name" "$T/tables" "$(echo "$words" | awk '{ gsub(/\+/, "\\+", $1); print $1 }')"
    esac
done <"$T/rows"
check "as many rows as the program has" test "$(grep -cvE '^\|(---| (taken as|words) )' "$T/tables")" -eq "$(wc -l <"$T/rows")"

# Keys of a list: those of lists.c, by where they stand
keys_of() { sed -n "/^static const char \*const $1\[\]/,/;\$/p" examples/bmvp/data/lists.c | grep -oE '"[A-Za-z_]+"' | tr -d '"' | sort -u; }
table_of() { sed -n '/^### A list of your own/,/^### Names/p' README.md | awk -F ' *\\| *' -v of="$1" 'NF > 4 && $3 ~ of { print $2 }' | grep -oE '`[a-z_]+`' | tr -d '`' | sort -u; }
keys_of used >"$T/want"
table_of 'the list' >"$T/has"
same "$T/want" "$T/has"
{ keys_of used_of_case; keys_of label_keys; } | sort -u >"$T/want"
table_of 'a case' >"$T/has"
same "$T/want" "$T/has"
sed -n '/^static bmvp_status our_channel/,/;$/p' examples/bmvp/data/lists.c | grep -oE '"[a-z]+"' | tr -d '"' | sort -u >"$T/want"
table_of 'an image' >"$T/has"
same "$T/want" "$T/has"
keys_of descriptive >"$T/want"
sed -n '/^An entry that cannot be read/,/^### /p' README.md | tr '\n' ' ' | grep -oE '`[A-Za-z_]+`' | tr -d '`' | sort -u >"$T/has"
same "$T/want" "$T/has"
"$program" pretrain --method list | cut -f 1 | grep -v '^brainmvp$' | sort >"$T/want"
sed -n 's/^| `\([a-z0-9_]*\)` | .*/\1/p' examples/training.md | sort >"$T/has"
same "$T/want" "$T/has"

# Programs of version 0.1, from its README and the first pages of its headers, compile as they are: a line that has to change is in CHANGELOG.md.
for old in tests/program/old/*.c; do silent "$old" "${CC:-cc}" -I. -fsyntax-only "$old"; done
finish
