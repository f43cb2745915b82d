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
finish
