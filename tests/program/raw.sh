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
mkdir predicted && cp kept/a/brain_mask.nii.gz predicted/a.nii.gz
expect 0 "1 of" bmvp evaluate --data kept --predictions predicted --no-distances --out scored
dice=$(tr -d ' \n' <scored/metrics.json | sed -n 's/.*"dice":{"mean":\([0-9.]*\).*/\1/p')
check "brain: Dice $dice" awk "BEGIN { exit !($dice >= 0.97) }"
# shellcheck disable=SC2086
expect 0 "t1 brought to the template|1 cases (1 new" bmvp prepare --data heads --out moved_there --register rigid --reference t1 $template --strip --spacing 6 --threads 1
expect 0 "" bmvp finetune --data moved_there --out head_run --network unet3d_tiny --crop 16 --steps 1 --batch 1 --fill zero --train all --val all --allow-absent --threads 1
expect 1 "--template" bmvp predict --checkpoint head_run/best.safetensors --data heads --template heads/case_0001/t1.nii.gz --out no --threads 1
# shellcheck disable=SC2086
expect 0 "brain of|1 cases, 0 left" bmvp predict --checkpoint head_run/best.safetensors --data heads $template --grid t2 --out head_maps --threads 1
check "on the grid of the raw image" test "$(gzip -dc head_maps/case_0001.nii.gz | od -An -td2 -j40 -N8)" = "$(gzip -dc heads/case_0001/t2.nii.gz | od -An -td2 -j40 -N8)"

# what is refused
expect 2 "--strip is done by a template" bmvp prepare --data heads --out no --strip
expect 2 "--template-brain" bmvp prepare --data heads --out no --strip --template other/case_0001/t1.nii.gz
expect 2 "--to reference does nothing" bmvp prepare --data heads --out no --to reference --template other/case_0001/t1.nii.gz
expect 1 "none.nii" bmvp prepare --data heads --out no --template none.nii
if [ -e /usr/share/mricron/templates/ch2.nii.gz ]; then skip "the line that names mricron-data: it is there"
else expect 1 "apt-get install mricron-data" bmvp prepare --data heads --out no --template auto --strip
fi
finish
