#!/bin/sh
# cli.sh - the program from the outside: the way from phantoms to features, a run that is interrupted and goes on, and everything that can be
# wrong with what it is given. Every refusal must say what is wrong, end with the right status and leave nothing half written.
# Environment: BMVP, the program (default build/bmvp).
cd "$(dirname "$0")/../.." || exit 1
# shellcheck source=tests/support/check.sh
. tests/support/check.sh
fixtures=$PWD/tests/fixtures
with_program

# ---- helpers -----------------------------------------------------------------------------------------------------------------

step_of() { bmvp info "$1" --json 2>/dev/null | sed -n 's/^ *"step": \([0-9]*\),$/\1/p'; }
# train OUT OPTION...: a run of the tiny network on the prepared phantoms
tiny="--data prepared --preset fast --network uniformer_tiny --crop 16 --batch 2 --seed 5"
# shellcheck disable=SC2086 # words wanted
train() { "$program" pretrain $tiny --out "$@"; }
# start OPTION...: pretrain in the background, its number in $pid
start()
{
    "$program" pretrain "$@" >"$out" 2>&1 &
    pid=$!
}
# list FILE ENTRY...: our data list of these entries
list()
{
    file=$1
    shift
    entries=
    for entry in "$@"; do entries="$entries${entries:+, }$entry"; done
    printf '{"cases": [%s]}\n' "$entries" >"$file"
}
# entry ID MODALITY PATH [MODALITY PATH]
entry() { printf '{"id": "%s", "images": {"%s": "%s"%s}}' "$1" "$2" "$3" "${4:+, \"$4\": \"$5\"}"; }

# ---- the way that works --------------------------------------------------------------------------------------------------------

expect 0 "phantom|prepare|pretrain|embed|convert|info" bmvp --help
for command in phantom prepare pretrain embed convert info; do expect 0 "usage: bmvp $command" bmvp $command --help; done
expect 0 "4 of 4 cases" bmvp phantom --out phantoms --cases 4 --size 32 --missing 0 --tumours 1 --modalities t1,t2,flair --seed 3
expect 0 "4 cases (4 new, 0 were there), 0 left out" bmvp prepare --data phantoms --out prepared --spacing 0
expect 0 "4 cases (0 new, 4 were there), 0 left out" bmvp prepare --data phantoms --out prepared --spacing 0
expect 0 "2 of 2 cases" bmvp phantom --out harder --cases 2 --size 24 --overlap 0.5 --decoys 3 --anatomy 1 --scanners 2 --first-scanner 7 --sets paper --seed 3
check "harder phantoms say how" grep -q '"overlap": 0.5, "decoys": 3, "anatomy": 1, "scanners": 2, "first_scanner": 7, "sets": "paper"' harder/dataset.json
check "and others nothing of it" test "$(grep -c 'overlap\|scanner' phantoms/dataset.json)" -eq 0
cp -r phantoms moved && rm -r moved/case_0004
expect 1 "holds cases of another data set|/phantoms|case 'case_000|choose another --out" bmvp prepare --data moved/case_0002 --out prepared --spacing 0
check "sources.json: path, size, time, hash" grep -q '"hash": "' prepared/sources.json
cp -r phantoms changed && expect 0 "4 new" bmvp prepare --data changed --out changed_out --spacing 0
cp phantoms/case_0002/t1.nii.gz changed/case_0002/t2.nii.gz
expect 0 "case 'case_0002' is made again: its files have changed|4 cases (1 new, 3 were there)" bmvp prepare --data changed --out changed_out --spacing 0
mkdir foreign && echo '{"mine": 1}' >foreign/dataset.json
expect 1 "foreign/dataset.json|has not written this file" bmvp prepare --data phantoms --out foreign --spacing 0
check "a foreign list stays" grep -q mine foreign/dataset.json
expect 0 "done: run20/checkpoint.safetensors" train run20 --steps 20 --save-every 10 --threads 2
for file in checkpoint.safetensors log.jsonl report.html; do check "run20/$file" test -s run20/$file; done
check "20 lines in the log" test "$(wc -l <run20/log.jsonl)" -eq 20
for field in step epoch loss loss_cmr loss_md loss_cl lr samples_per_s seconds peak_memory_mb; do
    check "log.jsonl: $field in every line" test "$(grep -c "\"$field\":" run20/log.jsonl)" -eq 20
done
check "report.html explains its figures and is whole" explained run20/report.html
sed 's/<p class="say"[^>]*>[^<]*/<p class="say">/' run20/report.html >silent.html
if explained silent.html >/dev/null; then fail "figures without a sentence passed"; else pass; fi
check "report.html has pictures" grep -q 'data:image/png;base64,' run20/report.html
expect 0 "" bmvp embed --checkpoint run20/checkpoint.safetensors --data prepared --out all.safetensors
expect 0 "case_0002.t1|case_0004.flair" bmvp info all.safetensors
expect 0 "" bmvp embed --checkpoint run20/checkpoint.safetensors --data prepared/case_0002/t1.nii --out one.safetensors --maps
expect 0 ".x1|.x2|.x3|.x4" bmvp info one.safetensors
expect 0 "" bmvp embed --checkpoint run20/checkpoint.safetensors --data phantoms --out raw.safetensors --spacing 0
check "prepared in memory or before: as many embeddings" test "$(bmvp info all.safetensors | grep -c case_)" = "$(bmvp info raw.safetensors | grep -c case_)"
expect 0 "tensors" bmvp convert run20/checkpoint.safetensors run20.pt
expect 0 "PyTorch|rep_template" bmvp info run20.pt
expect 0 "tensors" bmvp convert run20.pt back.safetensors
same run20/checkpoint.safetensors back.safetensors
expect 0 "130 tensors, without 199 of the optimizer" bmvp convert --weights-only run20/checkpoint.safetensors weights.safetensors
check "weights and templates, which have no moments: less than half of the bytes" test $((2 * $(bytes weights.safetensors))) -lt "$(bytes back.safetensors)"
expect 0 "130 tensors, without 199 of the optimizer" bmvp convert --weights-only run20.pt weights.pt
expect 0 "130 tensors" bmvp convert weights.pt weights_back.safetensors
same weights.safetensors weights_back.safetensors
for file in run20 weights; do # features name their checkpoint: one name for both
    cp $file.pt named.pt
    expect 0 "" bmvp embed --checkpoint named.pt --data prepared --out $file.features.safetensors --threads 1
done
same run20.features.safetensors weights.features.safetensors
cp -r run20 weights_run && cp weights.safetensors weights_run/checkpoint.safetensors
expect 1 "weights_run/checkpoint.safetensors: it holds the weights and no moments" bmvp pretrain --out weights_run --resume --steps 30
expect 0 "" bmvp embed --checkpoint run20.pt --data prepared --out pt.safetensors --threads 1
expect 0 "NIfTI-1|int16|bmvp prepared" bmvp info prepared/case_0001/t1.nii
expect 0 '"kind": "volume"|"gzip": true' bmvp info phantoms/case_0001/t1.nii.gz --json
expect 0 '"kind": "dataset"|"cases": 4' bmvp info prepared --json
# figures as nibabel and NumPy give them
expect 0 "qform_to_sform_mm 75.67|axes             RAS|first_of_volumes 3" bmvp info "$fixtures/nifti/sform_wrong.nii"
expect 0 "axes             LPS|max              509|percentiles_1_50_99 0 0 464|zeros_percent    62.2529" bmvp info "$fixtures/monai/flair.nii.gz"
expect 0 "distinct_values  0 1 2 3" bmvp info "$fixtures/monai/seg.nii.gz"
expect 0 "nan              1|inf              2|min              -293.433|99 -250.245 -17.354 205.318" bmvp info "$fixtures/nifti/nan.nii"
expect 0 "extension_codes  6 4" bmvp info "$fixtures/nifti/extensions.nii"
head -c 900 "$fixtures/nifti/nan.nii" >cut.nii
expect 0 "float32|voxels           cut.nii: |only 900" bmvp info cut.nii
expect 0 "  case_0001  |mm  flair t1 t2 label  class 1" bmvp info prepared
expect 0 "numbers_by_part|  decoder          556017" bmvp info run20/checkpoint.safetensors
expect 0 "method           brainmvp|settings|mask_ratio       0.|trained|by               bmvp pretrain 0.|data             prepared|cases            4" \
    bmvp info run20/checkpoint.safetensors
expect 0 '"kind": "checkpoint"|"step": 20|"network"' bmvp info run20/checkpoint.safetensors --json
expect 0 "uniformer_tiny|memory" train planned --plan --steps 5
absent planned

# memory: what --plan says in all is what the process then takes; recomputing changes the memory and nothing else
in_all() { sed -n 's/^memory .* \([0-9.]*\) MB in all$/\1/p' "$1"; }
peak() { tail -n 1 "$1" | sed 's/.*"peak_memory_mb": \([0-9.]*\).*/\1/'; }
near() { awk "BEGIN { exit !($2 > 0.9 * $1 && $2 < 1.15 * $1) }"; } # near MEASURED PLANNED
if grep -q __asan_init "$program"; then
    skip "planned memory: sanitizers need their own"
else
    for how in kept recomputed; do
        also=
        [ $how = kept ] || also=--recompute
        # shellcheck disable=SC2086 # a word or none
        train $how --crop 32 --batch 4 --steps 2 --threads 2 $also --plan >plan_$how
        # shellcheck disable=SC2086
        expect 0 "MB in all|done" train $how --crop 32 --batch 4 --steps 2 --threads 2 $also
        check "$how: planned $(in_all plan_$how) MB, used $(peak $how/log.jsonl)" near "$(peak $how/log.jsonl)" "$(in_all plan_$how)"
        sed 's/, "lr":.*//' $how/log.jsonl >losses_$how
    done
    same losses_kept losses_recomputed
    check "recomputing needs less" awk "BEGIN { exit !($(in_all plan_recomputed) < 0.9 * $(in_all plan_kept)) }"
fi

# data lists: ours (above), decathlon style with names as data sets have them, a directory
mkdir -p decathlon directory
files=
for i in 1 2 3 4; do
    for m in t1:t1n t2:t2w flair:t2f; do cp phantoms/case_000$i/${m%:*}.nii.gz decathlon/case_000${i}_${m#*:}.nii.gz; done
    cp phantoms/case_000$i/seg.nii.gz decathlon/case_000${i}_seg.nii.gz
    cp -r phantoms/case_000$i directory/
    files="$files${files:+, }{\"image\": [\"case_000${i}_t1n.nii.gz\", \"case_000${i}_t2w.nii.gz\", \"case_000${i}_t2f.nii.gz\"], \"label\": \"case_000${i}_seg.nii.gz\"}"
done
echo "{\"training\": [$files]}" >decathlon/list.json
expect 0 "4 cases (4 new" bmvp prepare --data decathlon/list.json --out prepared_decathlon --spacing 0
expect 0 "4 cases (4 new" bmvp prepare --data directory --out prepared_directory --spacing 0
for way in decathlon directory; do
    for file in case_0001/t1.nii case_0003/t2.nii case_0004/flair.nii case_0002/seg.nii; do same prepared/$file prepared_$way/$file; done
done

# prepare again: only what is missing
touch -d "2001-01-01" prepared_directory/*/*.nii 2>/dev/null
rm prepared_directory/case_0003/t2.nii
expect 0 "4 cases (1 new, 3 were there)" bmvp prepare --data directory --out prepared_directory --spacing 0
check "the others were not touched" test "$(find prepared_directory -name '*.nii' ! -newer phantoms/dataset.json | wc -l)" -eq 12
expect 1 "other settings" bmvp prepare --data directory --out prepared_directory --spacing 2

# ---- the same bits: threads, and a run that was killed ---------------------------------------------------------------------------

for n in 1 3; do
    expect 0 "done" train threads$n --steps 20 --save-every 10 --threads $n
    same run20/checkpoint.safetensors threads$n/checkpoint.safetensors
done
# Killed somewhere behind step 10; the checkpoint is that of step 10. Should the machine be too quick, another try.
for try in 1 2 3 4 5; do
    rm -rf killed
    # shellcheck disable=SC2086 # words wanted
    start $tiny --out killed --steps 20 --save-every 10 --threads 2
    lines killed/log.jsonl 11 $pid
    kill -9 $pid 2>/dev/null
    wait $pid 2>/dev/null
    [ "$(step_of killed/checkpoint.safetensors)" = 10 ] && break
done
check "killed between step 10 and 20 (try $try)" test "$(step_of killed/checkpoint.safetensors)" = 10
printf '{"step": 13, "torn' >>killed/log.jsonl
expect 0 "done" bmvp pretrain --data prepared --out killed --resume --steps 20 --save-every 10 --threads 3
same run20/checkpoint.safetensors killed/checkpoint.safetensors
check "the log has each step once" test "$(wc -l <killed/log.jsonl)" -eq 20
check "the same losses in the log" test "$(sed 's/"lr".*//' run20/log.jsonl)" = "$(sed 's/"lr".*//' killed/log.jsonl)"
clean killed

# Ctrl-C
# shellcheck disable=SC2086 # words wanted
start $tiny --out stopped --steps 100000
lines stopped/log.jsonl 3 $pid
kill -INT $pid
wait $pid
judge $? 130 "--resume|--out stopped" "Ctrl-C"
check "checkpoint and log agree" test "$(step_of stopped/checkpoint.safetensors)" = "$(wc -l <stopped/log.jsonl | tr -d ' ')"
check "a report was written" test -s stopped/report.html
clean stopped
before=$(step_of stopped/checkpoint.safetensors)
expect 0 "stopped after step $((before + 2)) of 100000" bmvp pretrain --data prepared --out stopped --resume --steps 100000 --stop-after 2

# kill -9 at any moment: the checkpoint can be loaded, and the next session goes on and clears up
train random --steps 100000 --stop-after 1 >/dev/null 2>&1
for wait in 0.05 0.11 0.2 0.26 0.33 0.4; do
    start --data prepared --out random --resume --steps 100000 --save-every 1
    sleep $wait
    kill -9 $pid 2>/dev/null
    wait $pid 2>/dev/null
    expect 0 '"kind": "checkpoint"' bmvp info random/checkpoint.safetensors --json
done
expect 0 "stopped after step" bmvp pretrain --data prepared --out random --resume --steps 100000 --stop-after 1
clean random

# full disk during a checkpoint: files may not grow beyond 2 MB
cp -r run20 full
( ulimit -f 4096 2>/dev/null || exit 99
  bmvp pretrain --data prepared --out full --resume --steps 30 --save-every 5 ) >"$out" 2>&1
code=$?
if [ $code -eq 99 ]; then skip "no limit on file sizes here"; else
    judge $code 1 "full/checkpoint.safetensors" "checkpoint on a full disk"
    same run20/checkpoint.safetensors full/checkpoint.safetensors
    clean full
    ( ulimit -f 16; bmvp prepare --data phantoms --out full_prepared --spacing 0 ) >"$out" 2>&1
    judge $? 1 "case_0001|too large" "prepare on a full disk"
    check "no image half written" test -z "$(find full_prepared -name '*.nii*')"
    clean full_prepared
    ( ulimit -f 64; bmvp convert run20/checkpoint.safetensors full.pt ) >"$out" 2>&1
    judge $? 1 "full.pt" "convert on a full disk"
    absent full.pt
    ( ulimit -f 16; bmvp embed --checkpoint run20.pt --data prepared --out full.safetensors --maps ) >"$out" 2>&1
    judge $? 1 "full.safetensors" "embed on a full disk"
    absent full.safetensors
    clean .
fi

# ---- checkpoints that do not fit -------------------------------------------------------------------------------------------------

cp run20/checkpoint.safetensors keep.safetensors
expect 2 "run20 is a run of uniformer_tiny, not of unet3d_tiny" train run20 --resume --network unet3d_tiny --steps 30
expect 2 "--resume" train run20 --steps 20
expect 1 "nothing to resume" train nowhere --resume --steps 20
expect 0 "2 cases" bmvp phantom --out others --cases 2 --size 32 --missing 0 --modalities t1,adc --seed 9
expect 0 "2 cases" bmvp prepare --data others --out others_prepared --spacing 0
expect 1 "run20 was started with the modalities |, now others_prepared/dataset.json gives " bmvp pretrain --data others_prepared --out run20 --resume --steps 30
same run20/checkpoint.safetensors keep.safetensors
expect 1 "all.safetensors" bmvp embed --checkpoint all.safetensors --data prepared --out no.safetensors
head -c 4000000 keep.safetensors >short.safetensors
head -c 4000000 run20.pt >short.pt
cp keep.safetensors flipped.safetensors
patch flipped.safetensors 40 '\001'
for file in short.safetensors flipped.safetensors short.pt; do
    expect 1 "$file" bmvp embed --checkpoint $file --data prepared --out no.safetensors
    expect 1 "$file" bmvp convert $file no.pt
    expect 1 "$file" bmvp info $file
done
expect 1 "absent.pt: |No such file" bmvp convert absent.pt no.safetensors
expect 1 "phantoms/dataset.json" bmvp convert phantoms/dataset.json no.safetensors
expect 2 ".safetensors" bmvp convert run20.pt no.zip
absent no.safetensors
absent no.pt

# ---- images that are not as they should be -----------------------------------------------------------------------------------------

good=phantoms/case_0001/t1.nii.gz
mkdir bad
head -c $(($(bytes $good) / 2)) $good >bad/truncated_t1.nii.gz
cp $good bad/crc_t1.nii.gz
# the first byte of the checksum at the end, turned over
crc=$(tail -c 8 $good | od -An -tu1 -N1 | tr -d ' ')
patch bad/crc_t1.nii.gz $(($(bytes $good) - 8)) "\\$(printf %03o $((255 - crc)))"
cp $good bad/bits_t1.nii.gz
patch bad/bits_t1.nii.gz $(($(bytes $good) / 2)) '\125\252\125\252'
plain=prepared/case_0001/t1.nii
size=$(bytes $plain)
{ head -c 352 $plain; head -c $((size - 352)) /dev/zero; } >bad/zeros_t1.nii
{ head -c 352 $plain; head -c $((size - 352)) /dev/zero | tr '\000' '\007'; } >bad/sevens_t1.nii
{ head -c 352 $plain; tail -c +353 $plain; tail -c +353 $plain; } >bad/nan_t1.nii   # float32 takes twice the bytes
patch bad/nan_t1.nii 70 '\020\000\040\000'
patch bad/nan_t1.nii 2000 '\000\000\300\177'
{ head -c 352 $plain; tail -c +353 $plain; tail -c +353 $plain; } >bad/four_t1.nii   # dim[0] 4, dim[4] 2
patch bad/four_t1.nii 40 '\004\000'
patch bad/four_t1.nii 48 '\002\000'
head -c 100 $plain >bad/header_t1.nii
head -c $((size / 2)) $plain >bad/half_t1.nii
echo "no image at all" >bad/text_t1.nii
: >bad/empty_t1.nii
a=../phantoms/case_0002

# refused FILE TEXT: a list with two good cases and one whose t1 is this file: the case is named and left out, the rest is done
refused()
{
    rm -rf bad/out
    list bad/list.json "$(entry first t1 $a/t1.nii.gz t2 $a/t2.nii.gz)" "$(entry broken t1 "$1" t2 $a/t2.nii.gz)" \
        "$(entry last t1 $a/t1.nii.gz)"
    expect 0 "left out|broken|$(basename "$1")|2 cases (2 new|$2" bmvp prepare --data bad/list.json --out bad/out --spacing 0
    check "$1: the rest goes on, nothing of it is there" test -s bad/out/first/t2.nii -a -s bad/out/last/t1.nii -a ! -e bad/out/broken
    check "$1: it is not in the list" sh -c '! grep -q broken bad/out/dataset.json'
    clean bad/out
}
refused absent_t1.nii.gz "No such file"
refused four_t1.nii "2 volumes, not one number a voxel"
expect 1 "left out: case 'broken'|2 cases (0 new, 2 were there), 1 left out" bmvp prepare --data bad/list.json --out bad/out --spacing 0 --strict
list bad/list.json "$(entry broken t1 absent_t1.nii.gz)"
expect 1 "0 cases (0 new, 0 were there), 1 left out" bmvp prepare --data bad/list.json --out bad/none --spacing 0
if [ "$(id -u)" -eq 0 ]; then skip "a file that may not be read: root may read all"; else
    cp $good bad/secret_t1.nii.gz
    chmod 000 bad/secret_t1.nii.gz
    refused secret_t1.nii.gz "ermission"
fi
refused truncated_t1.nii.gz ""
refused crc_t1.nii.gz "CRC"
refused bits_t1.nii.gz ""
refused nan_t1.nii "NaN"
refused header_t1.nii ""
refused half_t1.nii ""
refused text_t1.nii ""
refused empty_t1.nii ""
refused ../phantoms/case_0001/seg.nii.gz "looks like a label map"
refused ../phantoms/case_0001/t1.nii.gz "different grids|case_0002/t2.nii.gz"

# Labelled voxels outside of the images' box, and values that resampling leaves no voxel of, are said.
map=phantoms/case_0001/seg.nii.gz
gzip -dc $map >bad/seg.nii
patch bad/seg.nii 352 '\002'
printf '{"cases": [{"id": "a", "images": {"t1": "%s"}, "label": "seg.nii"}]}' "../$good" >bad/list.json
expect 0 "case 'a': bad/seg.nii: 1 labelled voxels lie outside of the images' box and are cut|1 cases (1 new" \
    bmvp prepare --data bad/list.json --out bad/cut --spacing 0
{ head -c 352 bad/seg.nii; head -c $(($(bytes bad/seg.nii) - 352)) /dev/zero; } >bad/one.nii
patch bad/one.nii $((352 + (16 * 32 + 16) * 32 + 16)) '\003'
mv bad/one.nii bad/seg.nii
expect 0 "case 'a': bad/seg.nii: value 3 has no voxel left after resampling and cropping" \
    bmvp prepare --data bad/list.json --out bad/lost --spacing 40

# An image of one value is a missing modality; a case of nothing else is left out.
rm -rf bad/out
list bad/list.json "$(entry first t1 sevens_t1.nii t2 $a/t2.nii.gz)"
expect 0 "case 'first': bad/sevens_t1.nii has one value everywhere: t1 counts as missing" \
    bmvp prepare --data bad/list.json --out bad/out --spacing 0
rm -rf bad/out
list bad/list.json "$(entry alone t1 sevens_t1.nii)"
expect 0 "case 'alone': bad/sevens_t1.nii has one value everywhere, and there is no other image: it becomes 0|1 cases (1 new" \
    bmvp prepare --data bad/list.json --out bad/out --spacing 0
rm -rf bad/out
list bad/list.json "$(entry first t1 zeros_t1.nii t2 $a/t2.nii.gz)" "$(entry nothing t1 zeros_t1.nii)"
expect 0 "case 'first': bad/zeros_t1.nii has one value everywhere: t1 counts as missing|left out: case 'nothing': bad/zeros_t1.nii: no voxel is above 0|1 cases (1 new" \
    bmvp prepare --data bad/list.json --out bad/out --spacing 0
check "t2 alone is prepared and listed" sh -c 'test -s bad/out/first/t2.nii -a ! -e bad/out/first/t1.nii && ! grep -q t1.nii bad/out/dataset.json'
clean bad/out

# ---- lists that are not as they should be -------------------------------------------------------------------------------------------

# bad_list TEXT JSON
bad_list()
{
    echo "$2" >bad/list.json
    expect 1 "$1" bmvp prepare --data bad/list.json --out bad/no
    absent bad/no
}
bad_list "no cases" '{"cases": []}'
bad_list "no cases" '{"training": []}'
bad_list "cases|training" '{"patients": []}'
bad_list "bad/list.json" '{"cases": [{"id": "a", "images": {"t1": "x.nii"}}'
bad_list "bad/list.json" 'not a list'
bad_list "unknown modality 't9'|'a'|flair t1 t1c t2" '{"cases": [{"id": "a", "images": {"t9": "x.nii"}}]}'
bad_list "no images" '{"cases": [{"id": "a", "images": {}}]}'
bad_list "twice" '{"cases": [{"id": "a", "images": {"t1": "x.nii", "T1w": "y.nii"}}]}'
bad_list "'a'" '{"cases": [{"id": "a", "images": {"t1": "x.nii"}}, {"id": "a", "images": {"t1": "y.nii"}}]}'
bad_list "folder name" '{"cases": [{"id": "../a", "images": {"t1": "x.nii"}}]}'
bad_list "unknown modality|x_t9.nii.gz" '{"training": [{"image": ["x_t9.nii.gz"]}]}'
mkdir bad/hollow
expect 1 "bad/hollow: no cases" bmvp prepare --data bad/hollow --out bad/no
expect 1 "bad/nothing: No such file" bmvp prepare --data bad/nothing --out bad/no
expect 1 "bad/nothing: No such file" bmvp pretrain --data bad/nothing --out bad/no --steps 1
expect 1 "prepare" bmvp pretrain --data phantoms --out bad/no --network uniformer_tiny --crop 16 --steps 1
absent bad/no
cp -r prepared bad/grids
cp prepared/case_0003/t1.nii bad/grids/case_0001/t1.nii
expect 1 "different grids|case_0001/t1.nii|case_0001/flair.nii" bmvp pretrain --data bad/grids --out bad/no --network uniformer_tiny --crop 16 --steps 1
expect 1 "run20/log.jsonl" bmvp prepare --data prepared --out run20/log.jsonl
expect 1 "bad/text_t1.nii" bmvp info bad/text_t1.nii

# ---- options that are not possible: status 2, and what is possible --------------------------------------------------------------------

expect 2 "did you mean 'pretrain'" bmvp pretain
expect 2 "no command 'xyzzy'|usage" bmvp xyzzy
expect 2 "usage" bmvp
expect 2 "unknown option --sed|--seed" train no --sed 4
expect 2 "--data" bmvp prepare --out no
expect 2 "--preset|paper|release|fast" train no --preset quick
expect 2 "--network|uniformer_small|unet3d" train no --network resnet --steps 1
expect 2 "--batch 0|from 1 to 256" train no --batch 0
expect 2 "--lr fast|number from" train no --lr fast
expect 2 "--lr nan|number from" train no --lr nan
expect 2 "--threads -1|from 0" train no --threads -1
expect 2 "--simd|avx512" train no --simd mmx
expect 2 "--precision|fp32|bf16" train no --precision fp8
expect 1 "precision: tf32|GPUs" train no --precision tf32 --plan --steps 5
expect 1 "precision: bf16|use fp32" train no --precision bf16 --simd avx2 --plan --steps 5
for device in gpu cuda: cuda:x cuda:-1 CPU; do expect 2 "--device $device|cpu, cuda or cuda:N" train no --device $device --plan --steps 5; done
expect 0 "memory" train no --device cpu --plan --steps 5
train no --device cuda --plan --steps 5 >"$out" 2>&1
code=$?
if [ $code -eq 2 ]; then judge $code 2 "built without CUDA|make CUDA=1" "--device cuda"; else judge $code 0 "memory" "--device cuda"; fi
expect 2 "multiple" train no --crop 17 --steps 1
expect 2 "mask_ratio|0|1" train no --set mask_ratio=2 --steps 1
expect 2 "mask_ratio" train no --set mask_ratio=nan --steps 1
expect 2 "mask_rat|mask_ratio|temperature" train no --set mask_rat=0.5 --steps 1
expect 2 "name=value" train no --set mask_ratio --steps 1
expect 2 "--modalities|flair" bmvp phantom --out no --modalities t1,t9
expect 2 "--first-scanner" bmvp phantom --out no --first-scanner 3
expect 2 "--sets paper" bmvp phantom --out no --sets paper --modalities flair,t1c
expect 2 "--low" bmvp prepare --data phantoms --out no --low 60 --high 40
expect 2 "--spacing" bmvp prepare --data phantoms --out no --spacing -1
expect 2 "multiple" bmvp embed --checkpoint run20.pt --data prepared --out no.safetensors --crop 17
expect 2 "" bmvp convert run20.pt
expect 2 "" bmvp info run20.pt and more
absent no
absent no.safetensors
clean .
# what it says is written, or it fails; a reader that goes away has heard enough
if [ -w /dev/full ]; then
    bmvp info prepared >/dev/full 2>"$out"
    judge $? 1 "cannot be written to standard output" "info on a full disk"
    bmvp --help >/dev/full 2>"$out"
    judge $? 1 "cannot be written to standard output" "help on a full disk"
fi
# a name of many dots takes no time
dots=$(printf '%400000s' '' | tr ' ' .)
text="{\"__metadata__\": {\"bmvp\": \"{\\\"groups\\\": [\\\"g\\\"], \\\"kinds\\\": {}}\"}, \"$dots\": {\"dtype\": \"U8\", \"shape\": [0], \"data_offsets\": [0, 0]}}"
n=${#text}
printf "\\$(printf %o $((n % 256)))\\$(printf %o $((n / 256 % 256)))\\$(printf %o $((n / 65536)))\0\0\0\0\0" >dots.safetensors
printf '%s' "$text" >>dots.safetensors
expect 0 "checkpoint" timeout 3 "$program" info dots.safetensors
# a safetensors file whose header's length looks like the first brace of a list
for n in 123 91 31520; do
    printf "\\$(printf %o $((n % 256)))\\$(printf %o $((n / 256)))\0\0\0\0\0\0" >"$T/start.safetensors"
    printf '%-*s' $n '{"weight": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}' >>"$T/start.safetensors"
    printf '\0\0\0\0\0\0\0\0' >>"$T/start.safetensors"
    expect 0 "weight" bmvp info "$T/start.safetensors"
done

finish
