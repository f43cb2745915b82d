#!/bin/sh
# raw.sh - images of a case on grids of their own: `prepare --register` brings them to one and writes what it found, `predict` brings the label
# map back to the raw grid. Heads of one seed in two voxel sizes are the modalities; one of them gets a header that is far off. 10 s at most.
# Environment: BMVP, the program (default build/bmvp).
cd "$(dirname "$0")/../.." || exit 1
# shellcheck source=tests/support/check.sh
. tests/support/check.sh
with_program

number() { od -An -tf4 -j"$2" -N4 "$1" | tr -d ' '; } # NIFTI BYTE: a number of its header
for size in 40 48; do
    expect 0 "" bmvp phantom --out p$size --size $size --seed 3 --cases 1 --tumours 1 --missing 0 --thick 0 --orientation RAS --threads 1
done
mkdir -p raw/a moved/a
cp p40/case_0001/t1.nii.gz p40/case_0001/seg.nii.gz raw/a
cp p48/case_0001/t2.nii.gz raw/a
cp raw/a/t1.nii.gz raw/a/seg.nii.gz moved/a
gzip -dc raw/a/t2.nii.gz >moved/a/t2.nii
was=$(number moved/a/t2.nii 292)
for at in 292 268; do printf '\000\000\240\301' | dd of=moved/a/t2.nii bs=1 seek=$at conv=notrunc 2>/dev/null; done # sform's and qform's x: -20
shift=$(awk "BEGIN { print -20 - ($was) }")

# refused without an option, which is named
expect 1 "different grids|--register rigid, or header" bmvp prepare --data raw --out no --threads 1
expect 2 "--register header or rigid" bmvp prepare --data raw --out no --reference t1

# headers alone
expect 0 "a: on the grid of t2 by the headers alone, without looking at the images; t1|1 cases (1 new" \
    bmvp prepare --data raw --out header --register header --spacing 6 --threads 1
check "settings are kept" grep -q '"register": "header"' header/prepare.json
check "the header says no motion" sh -c "tr -d ' \n' <header/a/transforms.json | grep -q '\"t1\":{\"matrix\":\[1,0,0,0,0,1,0,0,0,0,1,0,0,0,0,1\]'"
# registration finds what the header hides
expect 0 "a: on the grid of t1; t2 turned|loop 0.|1 cases (1 new" bmvp prepare --data moved --out rigid --register rigid --reference t1 --spacing 6 --threads 1
found=$(sed -n 's/^Parameters: *\([^ ]* *\)\{9\}\([^ ]*\) .*/\2/p' rigid/a/t2.tfm)
check "moved by $shift mm, found $found (LPS)" awk "BEGIN { d = $shift + ($found); exit !(d < 1.5 && d > -1.5 && ($shift > 20 || $shift < -20)) }"
expect 1 "different grids" bmvp prepare --data moved --out never --threads 1

# and back: probabilities are above 0 where the head is, on the raw grid, wherever its header puts that
expect 0 "" bmvp finetune --data rigid --out run --network unet3d_tiny --crop 16 --steps 1 --batch 1 --fill zero --train all --val all --allow-absent --labels phantom \
    --threads 1
for set in raw moved; do
    expect 0 "registered to t1, loop 0.|1 cases, 0 left" \
        bmvp predict --checkpoint run/best.safetensors --data $set --grid t2 --probabilities --out to_$set --threads 1
    gzip -dc to_$set/a_WT.nii.gz | tail -c +353 | tr '\001-\377' '\001' >$set.mask
done
head=$(tr -d '\000' <raw.mask | wc -c)
other=$(cmp -l raw.mask moved.mask | wc -l)
check "head of $head bytes, $other differ" awk "BEGIN { exit !($head > 30000 && 20 * $other < $head) }"
expect 1 "different grids" bmvp predict --checkpoint run/best.safetensors --data moved --register none --out never --threads 1

# ---- what cannot be aligned is left out by name, beside a case that can, whose files stay as they were -----------------------------------

for kind in good thin singular nan series; do
    mkdir -p "bad/$kind"
    cp raw/a/t1.nii.gz "bad/$kind"
    gzip -dc raw/a/t2.nii.gz >"bad/$kind/t2.nii"
done
patch bad/thin/t2.nii 46 '\001\000'                          # dim[3]; vox_offset, of a slice in the middle
patch bad/thin/t2.nii 108 '\000\260\330\107'
patch bad/singular/t2.nii 252 '\000\000'                     # no qform, and a row of the sform is 0
head -c 16 /dev/zero | dd of=bad/singular/t2.nii bs=1 seek=296 conv=notrunc 2>/dev/null
patch bad/nan/t2.nii 42 '\030\000'                           # 24 float32 in place of 48 int16 a row, ...
patch bad/nan/t2.nii 70 '\020\000\040\000'
patch bad/nan/t2.nii 60352 '\000\000\300\177'                # ... one of them NaN
patch bad/series/t2.nii 40 '\004\000'                        # 48 x 48 x 24 x 2
patch bad/series/t2.nii 46 '\030\000\002\000'
mkdir before && cp -r bad/good before
expect 0 "good: on the grid of|1 cases (1 new" bmvp prepare --data before --out among --register rigid --reference t1 --spacing 6 --threads 1
rm -rf among_was && cp -r among among_was
mv before/good was_good && for kind in thin singular nan series; do cp -r "bad/$kind" before; done && mv was_good before/good
expect 0 "thin/t2.nii: dim is 48 x 48 x 1|singular/t2.nii: sform|singular: axes|nan/t2.nii: 1 voxels are NaN|series/t2.nii: dim is 48 x 48 x 24 x 2|1 were there), 4 left out" \
    bmvp prepare --data before --out among --register rigid --reference t1 --spacing 6 --threads 1
for file in t1.nii t2.nii t2.tfm transforms.json; do same among_was/good/$file among/good/$file; done
check "of the others nothing is there" test "$(ls among | tr '\n' ' ')" = "dataset.json good prepare.json sources.json "
expect 1 "thin/t2.nii: dim is 48|singular|NaN|series/t2.nii|1 cases, 4 left out" bmvp predict --checkpoint run/best.safetensors --data before --out bad_maps --threads 1
check "one map" test "$(ls bad_maps | tr '\n' ' ')" = "good.nii.gz predictions.json "
# by headers alone a place far away would give an image of zeros
mkdir -p far/a && cp moved/a/t1.nii.gz far/a && cp moved/a/t2.nii far/a
for at in 292 268; do patch far/a/t2.nii $at '\000\000\172\104'; done
expect 1 "a/t2.nii: by the headers nothing of the head in" bmvp prepare --data far --out apart --register header --reference t1 --threads 1
expect 1 "0 cases (0 new" bmvp prepare --data far --out apart --register header --reference t1 --keep-doubtful --threads 1

# ---- whole heads: phantoms that know the truth -------------------------------------------------------------------------------------------

expect 2 "--motion" bmvp phantom --out no --motion 3
expect 0 "" bmvp phantom --out heads --heads --cases 1 --size 60 --seed 3 --modalities t1,t2 --tumours 1 --missing 0 --thick 0.5 --threads 1
expect 0 "" bmvp phantom --out other --heads --cases 1 --size 60 --seed 8 --modalities t1 --tumours 0 --missing 0 --thick 0 --threads 1
expect 0 "" bmvp phantom --out again --heads --cases 1 --size 60 --seed 3 --modalities t2,t1 --tumours 1 --missing 0 --thick 0.5 --threads 1
same heads/case_0001/t2.nii.gz again/case_0001/t2.nii.gz
check "the list says heads" grep -q '"heads": true, "motion": 5' heads/dataset.json
check "a brain of each image, the truth of those that are not the first" sh -c "ls heads/case_0001 | tr '\n' ' ' | grep -qx 'seg.nii.gz t1.nii.gz t1_brain_mask.nii.gz t2.nii.gz t2_brain_mask.nii.gz t2_truth.tfm '"

# apart A B: the mean distance of two .tfm over the corners of a cube of 100 mm about the middle
apart()
{
    sed -n 's/^Parameters: *//p' "$1" "$2" | awk '{ for (i = 1; i <= 12; ++i) m[NR, i] = $i }
        END { for (k = 0; k < 8; ++k) { x[0] = k % 2 * 100 - 50; x[1] = int(k / 2) % 2 * 100 - 50; x[2] = int(k / 4) * 100 - 50; s = 0
                  for (a = 0; a < 3; ++a) { d = m[1, 10 + a] - m[2, 10 + a]
                      for (b = 0; b < 3; ++b) d += (m[1, 3 * a + b + 1] - m[2, 3 * a + b + 1]) * x[b]
                      s += d * d }
                  sum += sqrt(s) / 8 }
              print sum }'
}
# on_grid MAP IMAGE: dim, pixdim, codes, qform and sform of the header are the image's, bit for bit
grid() { gzip -dc "$1" | head -c 352 | od -An -v -tx1 -w4 | sed -n '11,14p;20,27p;64,82p'; }
on_grid() { check "$1 on the grid of $2" test "$(grid "$1")" = "$(grid "$2")"; }
# lies_on MAP MASK DICE: what is above 0 in the map, bytes both, is the mask to such a Dice, and their centres are within a voxel
lies_on()
{
    gzip -dc "$2" | od -An -v -tu1 -w1 -j352 >"$T/want"
    if gzip -dc "$1" | od -An -v -tu1 -w1 -j352 | paste - "$T/want" | awk -v dim="$(gzip -dc "$1" | od -An -td2 -j42 -N4)" -v least="$3" '
        BEGIN { split(dim, d, " ") }
        { for (k = 1; k <= 2; ++k) if ($k) { ++n[k]; x[k] += i % d[1]; y[k] += int(i / d[1]) % d[2]; z[k] += int(i / (d[1] * d[2])) }
          both += $1 && $2; ++i }
        function off(s) { return s[1] / n[1] - s[2] / n[2] }
        END { if (!n[1] || !n[2]) { print "nothing is there"; exit 1 }
              printf "Dice %.4f, centre off by %.2f %.2f %.2f voxels\n", 2 * both / (n[1] + n[2]), off(x), off(y), off(z)
              exit !(2 * both >= least * (n[1] + n[2]) && off(x) ^ 2 < 1 && off(y) ^ 2 < 1 && off(z) ^ 2 < 1) }' >"$T/lies" 2>&1; then pass
    else fail "$1 lies on $2" "$T/lies"
    fi
}
template="--template other/case_0001/t1.nii.gz --template-brain other/case_0001/t1_brain_mask.nii.gz"
printf '{"labels": {"brain": 1}, "cases": [{"id": "a", "images": {"t1": "case_0001/t1.nii.gz", "t2": "case_0001/t2.nii.gz"}, "label": "case_0001/t1_brain_mask.nii.gz"}]}\n' >heads/brain.json
# shellcheck disable=SC2086 # words wanted
expect 0 "a: on the grid of t1; t2 turned|a: brain of 1.|1 cases (1 new" bmvp prepare --data heads/brain.json --out kept --register rigid --reference t1 $template \
    --to reference --strip --strip-margin 0 --spacing 0 --qc --threads 1
off=$(apart heads/case_0001/t2_truth.tfm kept/a/t2.tfm)
check "registered within 1.5 mm: $off" awk "BEGIN { exit !($off < 1.5) }"
check "the settings are kept" grep -q '"atlas": "t1.nii.gz ' kept/prepare.json
check "the figures of the mask are kept" grep -q '"doubtful": ""' kept/a/transforms.json
check "qc.html explains its figures and is whole" explained kept/qc.html
check "the page has case and pictures" sh -c "grep -q 'edges of the reference' kept/qc.html && grep -q 'data:image/png' kept/qc.html"
# its pictures show what the mask has cut: in the first one, between the rim and the outline, there is scalp
sed -n 's/.*src="data:image\/png;base64,\([^"]*\)".*/\1/p' kept/qc.html | head -n 1 | base64 -d >first.png
(printf '\037\213\010\0\0\0\0\0\0\0'; tail -c +44 first.png) | gzip -dc 2>/dev/null |  # IDAT is the first chunk after IHDR
    od -An -v -tu1 -w$((3 * $(od -An -tu1 -j18 -N2 first.png | awk '{ print 256 * $1 + $2 }') + 1)) | awk '
        { outline = 0; light = 0; split("", was)
          for (i = 2; i <= NF; ++i) { v = $1 == 1 ? ($i + was[(i - 2) % 3]) % 256 : $i; was[(i - 2) % 3] = v
              if ((i - 2) % 3 < 2) continue
              if (was[0] > was[2] + 60) outline = 1
              if (!outline && was[0] == was[2] && v > 60) ++light }
          if (outline && light) ++rows }
        END { print rows + 0 }' >rows
check "$(cat rows) rows with scalp before the outline of the mask" test "$(cat rows)" -gt 20
mkdir predicted && cp kept/a/brain_mask.nii.gz predicted/a.nii.gz
expect 0 "1 of" bmvp evaluate --data kept --predictions predicted --no-distances --out scored
dice=$(tr -d ' \n' <scored/metrics.json | sed -n 's/.*"dice":{"mean":\([0-9.]*\).*/\1/p')
check "brain: Dice $dice" awk "BEGIN { exit !($dice >= 0.97) }"
# a header that lies by a third of a turn (its rows have changed places): the search about it does not find the head, that of all turns does
mkdir -p turned/a && cp heads/case_0001/t1.nii.gz turned/a && gzip -dc heads/case_0001/t2.nii.gz >turned/a/t2.nii
patch turned/a/t2.nii 252 '\000\000'
gzip -dc heads/case_0001/t2.nii.gz | tail -c +281 | head -c 48 >rows_were
(tail -c +33 rows_were; head -c 32 rows_were) | dd of=turned/a/t2.nii bs=1 seek=280 conv=notrunc 2>/dev/null
sed -n 's/^Parameters: *//p' kept/a/t2.tfm | awk '{ print "Parameters:", -$7, -$8, -$9, $1, $2, $3, -$4, -$5, -$6, -$12, $10, -$11 }' >turned.tfm
for search in small all; do
    expect 0 "a: on the grid of t1" bmvp prepare --data turned --out turned_$search --register rigid --reference t1 --search $search --spacing 6 --keep-doubtful --threads 1
done
off=$(apart turned.tfm turned_all/a/t2.tfm) lost=$(apart turned.tfm turned_small/a/t2.tfm)
check "all turns: $off mm, about the header: $lost mm" awk "BEGIN { exit !($off < 1.5 && $lost > 20) }"
check "the search is kept" grep -q '"search": "all"' turned_all/prepare.json
# shellcheck disable=SC2086
expect 0 "t1 brought to the template|1 cases (1 new" bmvp prepare --data heads --out moved_there --register rigid --reference t1 $template --strip --spacing 6 --threads 1
expect 0 "" bmvp finetune --data moved_there --out head_run --network unet3d_tiny --crop 16 --steps 1 --batch 1 --fill zero --train all --val all --allow-absent --threads 1
expect 1 "--template" bmvp predict --checkpoint head_run/best.safetensors --data heads --template heads/case_0001/t1.nii.gz --out no --threads 1
# shellcheck disable=SC2086
expect 0 "brain of|1 cases, 0 left" bmvp predict --checkpoint head_run/best.safetensors --data heads $template --grid t2 --out head_maps --threads 1
on_grid head_maps/case_0001.nii.gz heads/case_0001/t2.nii.gz
lies_on head_maps/case_0001.nii.gz heads/case_0001/t2_brain_mask.nii.gz 0.93
# shellcheck disable=SC2086
expect 0 "1 cases, 0 left" bmvp predict --checkpoint head_run/best.safetensors --data heads $template --out head_first --threads 1
on_grid head_first/case_0001.nii.gz heads/case_0001/t1.nii.gz
lies_on head_first/case_0001.nii.gz heads/case_0001/t1_brain_mask.nii.gz 0.93

# what is refused
expect 2 "--strip is done by a template" bmvp prepare --data heads --out no --strip
expect 2 "--template-brain" bmvp prepare --data heads --out no --strip --template other/case_0001/t1.nii.gz
expect 2 "--to reference does nothing" bmvp prepare --data heads --out no --to reference --template other/case_0001/t1.nii.gz
expect 1 "none.nii" bmvp prepare --data heads --out no --template none.nii
expect 1 "thin/t2.nii: dim is 48 x 48 x 1" bmvp prepare --data heads --out no_folder --template bad/thin/t2.nii
mkdir -p lone/nan lone/thin && mv bad/nan/t2.nii lone/nan && mv bad/thin/t2.nii lone/thin
# shellcheck disable=SC2086
expect 1 "nan/t2.nii: 1 voxels are NaN|thin/t2.nii: dim is 48|2 left out" bmvp prepare --data lone --out alone $template --strip --to reference --threads 1
check "no template, no folder" test ! -e no_folder
if [ -e /usr/share/mricron/templates/ch2.nii.gz ]; then skip "the line that names mricron-data: it is there"
else expect 1 "apt-get install mricron-data" bmvp prepare --data heads --out no --template auto --strip
fi
finish
