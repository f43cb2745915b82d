#!/bin/sh
# state.sh - what is on disk already: runs that go on with another batch, accumulation, length or data; folders that another process
# writes; prepared cases whose sources, settings or files are others.
# Environment: BMVP, the program (default build/bmvp).
cd "$(dirname "$0")/../.." || exit 1
# shellcheck source=tests/support/check.sh
. tests/support/check.sh
with_program

# ---- helpers -----------------------------------------------------------------------------------------------------------------

tiny="--network uniformer_tiny --crop 16 --seed 5 --threads 1"
# shellcheck disable=SC2086 # words wanted
train() { "$program" pretrain --data prepared --preset fast $tiny --out "$@"; }
# shellcheck disable=SC2086 # words wanted
tune() { "$program" finetune --data prepared --fill zero --train all --val all $tiny --out "$@"; }
# goes_on COMMAND RUN OPTION...
goes_on() { command=$1; shift; "$program" "$command" --resume --threads 1 --out "$@"; }
# column RUN FIELD: its values in the log, on one line
column() { sed -n "s/.*\"$2\": \([-0-9.e+]*\).*/\1/p" "$1/log.jsonl" | tr '\n' ' ' | sed 's/ $//'; }
# logged RUN FIELD VALUES
logged() { check "$1: $2 is '$(column "$1" "$2")', not '$3'" test "$(column "$1" "$2")" = "$3"; }
# silent_about TEXT: the program has not said it
silent_about() { check "it says '$1'" sh -c '! grep -qF -e "$1" "$2"' silent "$1" "$out"; }
# another FROM TO LEVEL: the image with another voxel in its middle
another()
{
    gzip -dc "$1" >flat.nii
    patch flat.nii $((352 + ((16 * 32 + 16) * 32 + 16) * (($(bytes flat.nii) - 352) / 32768))) '\001'
    gzip -n "-$3" -c flat.nii >"$2"
}

expect 0 "4 of 4 cases" bmvp phantom --out phantoms --cases 4 --size 32 --tumours 1 --missing 0 --thick 0 --orientation RAS --modalities t1,t2 --seed 7
expect 0 "4 cases (4 new" bmvp prepare --data phantoms --out prepared --spacing 0

# ---- where a run stands and ends is counted in samples -----------------------------------------------------------------------------

# 4 epochs of 4 cases: 16 samples. 6 are taken by twos; 10 are left: 4 steps of 3, 10 of 1, 3 of 4 (12).
expect 0 "stopped after step 3 of 8" train six --batch 2 --epochs 4 --stop-after 3
for batch in 3 1 4; do
    rm -rf other
    cp -r six other
    case $batch in
    3) steps=7 epochs="0 0 1 1 2 3 3" samples="2 4 6 9 12 15 18" ;;
    1) steps=13 epochs="0 0 1 1 1 2 2 2 2 3 3 3 3" samples="2 4 6 7 8 9 10 11 12 13 14 15 16" ;;
    *) steps=6 epochs="0 0 1 1 2 3" samples="2 4 6 10 14 18" ;;
    esac
    expect 0 "step $steps/$steps|changed  batch $batch (the run was at 2)|done" goes_on pretrain other --batch $batch
    logged other epoch "$epochs"
    logged other samples "$samples"
done
# told by steps: so many samples as these steps would have taken, unless steps are told again
expect 0 "stopped after step 2 of 6" train told --batch 2 --steps 6 --stop-after 2
cp -r told again
cp -r told longer
expect 0 "step 4/4|done" goes_on pretrain told --batch 4
logged told samples "2 4 8 12"
expect 0 "changed  the run ends after 24 samples (when it was started, after 12)|step 7/7|done" goes_on pretrain again --batch 4 --steps 7
logged again samples "2 4 8 12 16 20 24"
expect 0 "changed  the run ends after 8 samples (when it was started, after 12)|changed  epochs 2 (|done" goes_on pretrain longer --epochs 2
logged longer samples "2 4 6 8"
# another accumulation: whole updates of 3 steps, from where the run stood
expect 0 "stopped after step 2 of 8" train sums --batch 2 --steps 8 --set update_every=2 --stop-after 1
expect 0 "changed  update_every 3 (the run was at 2)|step 8/8|done" goes_on pretrain sums --set update_every=3
check "updates after steps 2, 5 and 8" test "$(grep -n '"grad_norm": [0-9]' sums/log.jsonl | cut -d: -f1 | tr '\n' ' ')" = "2 5 8 "
# a length that is no whole number of updates ends with a whole one
expect 0 "step 6/6|done: whole/checkpoint.safetensors" train whole --batch 2 --steps 5 --set update_every=3
check "its checkpoint is there" test -s whole/checkpoint.safetensors
# the learning rate goes on from the share of the samples that were seen
expect 0 "stopped after step 4 of 8" train rate --batch 2 --steps 8 --stop-after 4 --set warmup=0,lr=0.01,lr_floor=0
cp -r rate half
expect 0 "done" goes_on pretrain rate
expect 0 "step 12/12|done" goes_on pretrain half --batch 1
check "the rate at half, three quarters" test "$(column rate lr | cut -d' ' -f5,7)" = "$(column half lr | cut -d' ' -f5,9)"

# ---- --resume alone goes on as the run was started -----------------------------------------------------------------------------------

expect 0 "done" train once --batch 2 --steps 6
expect 0 "stopped after step 2 of 6; go on with: bmvp pretrain --out twice --resume" train twice --batch 2 --steps 6 --stop-after 2
(cd / && goes_on pretrain "$T/twice" >/dev/null 2>&1)
same once/checkpoint.safetensors twice/checkpoint.safetensors
expect 0 "done" tune tuned --batch 2 --steps 6 --validate-every 2 --set update_every=2 --modalities t2
expect 0 "stopped after step 2 of 6; go on with: bmvp finetune --out taken --resume" tune taken --batch 2 --steps 6 --validate-every 2 --set update_every=2 --modalities t2 --stop-after 1
expect 0 "segmentation that goes on in taken|modalities t2|done" goes_on finetune taken
silent_about changed
for file in checkpoint.safetensors best.safetensors; do same tuned/$file taken/$file; done
check "it validated at the same steps" test "$(grep -c val_dice_WT taken/log.jsonl)" -eq "$(grep -c val_dice_WT tuned/log.jsonl)"
expect 0 "changed  --validate-every 1 (the run was started with 2)|init     six/checkpoint.safetensors is not read" goes_on finetune taken --validate-every 1 --init six/checkpoint.safetensors
expect 2 "taken was started with --train all, not with --train train" goes_on finetune taken --train train
expect 2 "taken was started with --val all, not with --val test" goes_on finetune taken --val test
expect 2 "taken was started with --class-weights none, not with --class-weights balanced" goes_on finetune taken --class-weights balanced
expect 2 "--data is required" bmvp pretrain --out new
expect 2 "--data is required" bmvp finetune --out new

# ---- other data ---------------------------------------------------------------------------------------------------------------------

# keep RUN: a run on the four cases; then what is other is said, and only once
expect 0 "stopped after step 2 of 8" train data --batch 2 --steps 8 --stop-after 2
cp -r phantoms more
cp -r phantoms/case_0001 more/case_0009
rm -r more/case_0002 more/case_0004 more/dataset.json
another phantoms/case_0003/t1.nii.gz more/case_0003/t1.nii.gz 9
rm more/case_0001/t2.nii.gz
expect 0 "3 cases (3 new" bmvp prepare --data more --out other_data --spacing 0
expect 0 "1 new since the run was started: case_0009|2 gone since the run was started: case_0002 case_0004|case_0001 is other than before: t2 is gone|case_0003 is other than before: t1 has other content" \
    goes_on pretrain data --data other_data --stop-after 1
expect 0 "stopped after step 4 of 8" goes_on pretrain data --data other_data --stop-after 1
silent_about "cases    "
expect 0 "stopped after step 5 of 8" goes_on pretrain data --stop-after 1
silent_about "cases    "
check "--resume alone reads the data of the session before" grep -q '"data": ".*other_data"' data/cases.json
# the same files in another place are the same
cp -r other_data moved_data
touch moved_data/*/*.nii
expect 0 "stopped after step 6 of 8" goes_on pretrain data --data moved_data --stop-after 1
silent_about "cases    "
# a run of an earlier version has ids only
printf '{"cases": ["case_0001", "case_0003", "case_0005", "case_0009"]}\n' >data/cases.json
expect 2 "data does not say which data it was started with: --data" goes_on pretrain data --stop-after 1
expect 0 "1 gone since the run was started: case_0005" goes_on pretrain data --data moved_data --stop-after 1
# prepared otherwise: refused, with the settings; nothing is written
expect 0 "4 cases (4 new" bmvp prepare --data phantoms --out harder --spacing 0 --low 2 --high 98
cp six/checkpoint.safetensors before.safetensors
expect 1 "six was started with cases that were prepared with other settings|percentile_low 2 (was 1), percentile_high 98 (was 99)" goes_on pretrain six --data harder
expect 1 "taken was started with cases that were prepared with other settings|percentile_low 2 (was 1)" goes_on finetune taken --data harder --steps 9
cp -r prepared no_settings
rm no_settings/prepare.json
expect 1 "does not say how its cases were prepared" goes_on pretrain six --data no_settings
same six/checkpoint.safetensors before.safetensors
# templates keep their grid when the largest case goes
expect 0 "1 of 1 cases" bmvp phantom --out large --cases 1 --size 40 --missing 0 --thick 0 --orientation RAS --modalities t1,t2 --seed 8
mkdir mixed && cp -r phantoms/case_0001 phantoms/case_0002 mixed
cp -r large/case_0001 mixed/large
expect 0 "3 cases (3 new" bmvp prepare --data mixed --out mixed_data --spacing 0
# shellcheck disable=SC2086 # words wanted
expect 0 "stopped after step 1 of 4" bmvp pretrain --data mixed_data --preset fast $tiny --batch 2 --steps 4 --stop-after 1 --out grown
rm -r mixed/large
expect 0 "leaves the list|2 cases" bmvp prepare --data mixed --out mixed_data --spacing 0
expect 0 "1 gone since the run was started: large|done" goes_on pretrain grown
# a split that is given again must be that of the run
expect 0 "test" bmvp split --data prepared --out split.json --ratio 2:1:1 --seed 1
expect 0 "test" bmvp split --data prepared --out split2.json --ratio 1:1:2 --seed 9
# shellcheck disable=SC2086 # words wanted
expect 0 "stopped after step 1" bmvp finetune --data prepared --fill zero --split split.json $tiny --batch 1 --steps 3 --stop-after 1 --allow-absent --out parts
expect 1 "parts was started with another split than split2.json (case '" goes_on finetune parts --split split2.json
printf '\200\004]\224.' >folds.pkl
expect 1 "folds.pkl: a pickle, which is not read; make JSON of it" goes_on finetune parts --split folds.pkl
# a case that no part of the run's split holds is said not to be used
cp -r phantoms plus && rm plus/dataset.json && cp -r phantoms/case_0001 plus/case_0009
another phantoms/case_0001/t1.nii.gz plus/case_0009/t1.nii.gz 9
expect 0 "5 cases (5 new" bmvp prepare --data plus --out plus_data --spacing 0
expect 0 "1 new since the run was started: case_0009|split    1 cases are in no part of it and not used: case_0009" \
    goes_on finetune parts --data plus_data --labels phantom --stop-after 1
expect 0 "done" goes_on finetune parts --split split.json

# classes of a list
classed()
{
    printf 'id,dx\ncase_0001,0\ncase_0002,%s\ncase_0003,0\ncase_0004,1\n' "$1" >classes.csv
    expect 0 "4 cases" bmvp prepare --data phantoms --classes classes.csv --class-column dx --out classed --spacing 0
}
classed 0
# shellcheck disable=SC2086 # words wanted
expect 0 "validate 4 of 4 cases are trained on|stopped" bmvp finetune --data classed --task classify $tiny --fill zero \
    --train all --val all --batch 2 --steps 3 --stop-after 1 --set update_every=1 --out diagnosed
classed 1
expect 0 "case_0002 is other than before: class 1 (was 0)|stopped" goes_on finetune diagnosed --stop-after 1
expect 0 "done" goes_on finetune diagnosed
silent_about "other than before"

# ---- one writer ---------------------------------------------------------------------------------------------------------------------

# shellcheck disable=SC2086 # words wanted
"$program" pretrain --data prepared --preset fast $tiny --batch 1 --steps 100000 --out busy >busy.txt 2>&1 &
pid=$!
lines busy/log.jsonl 1 $pid
expect 1 "--out busy: another process (process $pid) writes there" train busy --batch 1 --steps 2
rm -f busy/checkpoint.safetensors
expect 1 "another process (process $pid) writes there" tune busy --batch 2 --steps 1
expect 1 "another process (process $pid) writes there" bmvp prepare --data phantoms --out busy --spacing 0
kill -9 $pid
wait $pid 2>/dev/null
expect 0 "done" train busy --batch 1 --steps 2
# what stands in the file of a lock, or that it is there, locks nothing
for text in "" "4711" "4711 another-host" "{ not a lock"; do
    rm -rf fresh
    mkdir fresh
    printf '%s' "$text" >fresh/.lock
    expect 0 "done" train fresh --batch 1 --steps 1
done
mkdir -p odd/.lock
expect 1 "--out odd: odd/.lock: " train odd --batch 1 --steps 1

# what a killed process left goes with the next start; files that only look like it stay, and those of a process that lives
cp -r six unfinished
gone=999999999
for file in notes.tmp.txt data.tmp.backup.json checkpoint.safetensors.tmp.old log.jsonl.tmp.$$; do echo mine >unfinished/$file; done
echo half >unfinished/checkpoint.safetensors.tmp.$gone
expect 0 "stopped" goes_on pretrain unfinished --stop-after 1
for file in notes.tmp.txt data.tmp.backup.json checkpoint.safetensors.tmp.old log.jsonl.tmp.$$; do
    check "$file is gone" test -s unfinished/$file
done
absent unfinished/checkpoint.safetensors.tmp.$gone
rm -r unfinished
echo half >prepared/case_0001/t1.nii.tmp$gone.0
echo half >prepared/dataset.json.tmp.$gone
echo mine >prepared/case_0001/t1.nii.tmp.mine
expect 0 "4 were there" bmvp prepare --data phantoms --out prepared --spacing 0
absent prepared/case_0001/t1.nii.tmp$gone.0
absent prepared/dataset.json.tmp.$gone
check "a file of mine is gone" test -s prepared/case_0001/t1.nii.tmp.mine
rm prepared/case_0001/t1.nii.tmp.mine

# ---- sources of prepared cases -------------------------------------------------------------------------------------------------------

cp -r phantoms source
rm source/dataset.json
expect 0 "4 cases (4 new, 0 were there)" bmvp prepare --data source --out made --spacing 0
# image FILE: its voxels
image() { tail -c +353 "$1"; }
touch source/case_0001/*.gz                                             # another time
another phantoms/case_0002/t1.nii.gz source/case_0002/t1.nii.gz 1        # another size
cp source/case_0003/t2.nii.gz keep.gz
another keep.gz source/case_0003/t2.nii.gz 9                            # another content ..
touch -r keep.gz source/case_0003/t2.nii.gz                             # .. of the same time
expect 0 "case 'case_0002' is made again|case 'case_0003' is made again|4 cases (2 new, 2 were there)" bmvp prepare --data source --out made --spacing 0
silent_about "case 'case_0001'"
silent_about "case 'case_0004'"
mkdir alone && cp -r source/case_0002 alone
expect 0 "1 cases (1 new" bmvp prepare --data alone --out alone_made --spacing 0
image alone_made/case_0002/t1.nii >a
image made/case_0002/t1.nii >b
same a b
head -c 1000 made/case_0001/t1.nii >cut && cp cut made/case_0001/t1.nii # cut by somebody: made again
expect 0 "4 cases (1 new, 3 were there)" bmvp prepare --data source --out made --spacing 0
check "it is whole again" test "$(bytes made/case_0001/t1.nii)" -gt 1000
# the same files, of which the list says something else: values of a case's label, a volume of its file
says() { printf '{"labels": {"core": [1], "edema": [2]%s}, "cases": [%s, {"id": "b", "images": {"t1": "phantoms/case_0002/t1.nii.gz"}, %s}]}\n' "$2" \
    '{"id": "a", "images": {"t1": "phantoms/case_0001/t1.nii.gz"}}' "\"label\": \"phantoms/case_0002/seg.nii.gz\", \"labels\": {$1}" >says.json; }
says '"core": [1], "edema": [2], "enhancing": [3]' ', "enhancing": [3]'
expect 0 "2 cases (2 new" bmvp prepare --data says.json --out told --spacing 0
expect 0 "(0 new, 2 were there)" bmvp prepare --data says.json --out told --spacing 0
image told/b/seg.nii | od -An -v -td2 -w2 | sort | uniq -c >a
says '"core": [2], "edema": [1], "enhancing": [3]' ', "enhancing": [3]'
expect 0 "case 'b' is made again: the list says something else|2 cases (1 new, 1 were there)" bmvp prepare --data says.json --out told --spacing 0
image told/b/seg.nii | od -An -v -td2 -w2 | sort | uniq -c | sed 's/ 1$/ x/;s/ 2$/ 1/;s/ x$/ 2/' | sort -k 2n >b
same a b
says '"core": [2], "edema": [1], "enhancing": [3]' ', "enhancing": [4]'
expect 0 "case 'b' is made again: the list says something else" bmvp prepare --data says.json --out told --spacing 0
rm source/case_0004/t2.nii.gz
expect 0 "case 'case_0004' is made again|(1 new, 3 were there)" bmvp prepare --data source --out made --spacing 0
check "a modality that is gone is not in the list" test "$(grep -c '"t2":' made/dataset.json)" -eq 3
absent made/case_0004/t2.nii
# other settings are refused and nothing changes
find made -type f -exec cksum {} + | sort >before
for o in "--spacing 2" "--spacing 0 --low 3" "--spacing 0 --preset release" "--spacing 0 --resize 16,16,16"; do
    # shellcheck disable=SC2086 # words wanted
    expect 1 "made/prepare.json: the files there were prepared with other settings" bmvp prepare --data source --out made $o
done
# another data set with an id of this one, too
mkdir strange && cp -r phantoms/case_0003 strange/case_0001
expect 1 "--out made holds cases of another data set|case_000" bmvp prepare --data strange --out made --spacing 0
find made -type f -exec cksum {} + | sort >after
same before after
# files that are not ours stay as they are
for file in dataset.json prepare.json sources.json; do
    rm -rf own
    mkdir own
    printf '{"mine": true}\n' >own/$file
    cp own/$file own.json
    case $file in
    dataset.json) said="own/dataset.json: \`bmvp prepare\` has not written this file" ;;
    prepare.json) said="own/prepare.json: the files there were prepared with other settings" ;;
    *) said="own/sources.json: \`bmvp prepare\` has not written this file" ;;
    esac
    expect 1 "$said" bmvp prepare --data phantoms --out own --spacing 0
    same own/$file own.json
done
for file in log.jsonl report.html cases.json best.safetensors split.json; do
    rm -rf own
    mkdir own
    printf '{"mine": true}\n' >own/$file
    cp own/$file own.json
    expect 1 "own/$file: no run has written this file" train own --batch 1 --steps 1
    expect 1 "own/$file: no run has written this file" tune own --batch 1 --steps 1
    same own/$file own.json
    absent own/checkpoint.safetensors
done

# ---- predictions, figures, embeddings -----------------------------------------------------------------------------------------------------

# maps DATA OUT OPTION...
maps() { from=$1 to=$2; shift 2; "$program" predict --checkpoint tuned/best.safetensors --threads 1 --data "$from" --out "$to" "$@"; }
mkdir own_maps
cp phantoms/case_0003/seg.nii.gz own_maps/case_0003.nii.gz
expect 1 "own_maps/case_0003.nii.gz: is there already, and \`bmvp predict\` has not written it" maps phantoms own_maps
same phantoms/case_0003/seg.nii.gz own_maps/case_0003.nii.gz
absent own_maps/case_0001.nii.gz
# of a case that fails no map of an earlier run is left, nor probabilities that nobody asked for
expect 0 "4 cases, 0 left out" maps phantoms predicted --probabilities
check "probabilities are there" test -s predicted/case_0001_WT.nii.gz
cp -r phantoms spoilt
echo "no image" >spoilt/case_0002/t2.nii.gz
expect 1 "left out: case 'case_0002'|3 cases, 1 left out" maps spoilt predicted
absent predicted/case_0002.nii.gz
absent predicted/case_0001_WT.nii.gz
expect 0 "predicted holds 3 predictions of an earlier run ('case_0001' ..)" maps alone predicted
for file in metrics.json metrics.csv; do
    rm -f predicted/metrics.*
    echo '{"mine": 1}' >predicted/$file
    expect 1 "predicted/$file: is there already, and bmvp has not written it" bmvp evaluate --data phantoms --predictions predicted
done
cp six/checkpoint.safetensors network.safetensors
expect 1 "network.safetensors: is there already, and \`bmvp embed\` has not written it" bmvp embed --checkpoint six/checkpoint.safetensors \
    --data prepared --out network.safetensors --threads 1
same six/checkpoint.safetensors network.safetensors

# ---- what cannot be learned is said before the first step ------------------------------------------------------------------------------

expect 0 "modality contrast (cl) is not possible: it compares the cases of a step, and batch is 1" train one --batch 1 --steps 1
expect 0 "modality contrast (cl) is not possible: the run ends before contrast_from_epoch" train late --batch 2 --steps 2 --set contrast_from_epoch=5
expect 0 "(cmr) is not possible: the run ends before template_only_epochs" train late2 --batch 2 --steps 2 --set template_only_epochs=9
expect 0 "rate     the warm-up of 10 steps is not over when the run ends after 2" train warm --batch 2 --steps 2 --set warmup=10
expect 0 "rate     lr is 0: nothing moves" train still --batch 2 --steps 1 --lr 0 --set lr_floor=0
mkdir single && for k in 1 2 3 4; do mkdir single/c$k && cp phantoms/case_000$k/t1.nii.gz single/c$k; done
expect 0 "4 cases" bmvp prepare --data single --out singles --spacing 0
# shellcheck disable=SC2086 # words wanted
expect 2 "nothing can be learned from singles/dataset.json" bmvp pretrain --data singles $tiny --batch 2 --steps 1 --out none --set weight_md=0
absent none
cp phantoms/case_0002/t2.nii.gz single/c2
expect 0 "case 'c2' is made again" bmvp prepare --data single --out singles --spacing 0
# shellcheck disable=SC2086 # words wanted
expect 0 "modality contrast (cl) is not possible: it compares cases, and only one has two modalities" bmvp pretrain --data singles --preset fast $tiny --batch 2 --steps 1 --out few
cp phantoms/case_0003/t2.nii.gz single/c3
expect 0 "case 'c3' is made again" bmvp prepare --data single --out singles --spacing 0
# two of four cases are pairs: of the six batches of two, one has both
# shellcheck disable=SC2086 # words wanted
expect 0 "modality contrast (cl) has no negatives in 83 % of the batches: fewer than two of their 2 cases have two modalities" \
    bmvp pretrain --data singles --preset fast $tiny --batch 2 --steps 6 --out lonely
check "each step with one pair says so" sh -c 'test "$(grep -c "\"loss_cl\": 0,.*\"no_negatives\": true" lonely/log.jsonl)" -ge 2 &&
    test "$(grep -c "\"no_negatives\"" lonely/log.jsonl)" -eq "$(grep -c "\"loss_cl\": 0," lonely/log.jsonl)"'
expect 0 "validate 4 of 4 cases are trained on, too" tune seen --batch 2 --steps 1
expect 0 "0 to validate" bmvp split --data prepared --out none.json --ratio 3:0:1
# shellcheck disable=SC2086 # words wanted
expect 0 "validate no case to validate" bmvp finetune --data prepared --fill zero --allow-absent --split none.json $tiny --batch 2 --steps 1 --out unseen
printf '{"train": ["case_0001", "case_0002"], "val": ["case_0003"], "test": []}' >three.json
# shellcheck disable=SC2086 # words wanted
expect 0 "step 1/1  validation: Dice |split    1 cases are in no part of it and not used: case_0004" bmvp finetune --data prepared --fill zero --split three.json $tiny \
    --batch 2 --steps 1 --out three
# a split without fractions gets them
# shellcheck disable=SC2086 # words wanted
expect 0 "1 cases to train" bmvp finetune --data prepared --fill zero --allow-absent --split three.json --fraction 20 $tiny --batch 1 --steps 1 --out drawn
check "fractions are kept" sh -c 'tr -d "\n " <drawn/split.json | grep -q "\"20\":\[\"case_000[12]\"\],\"40\":\[\"case_000[12]\"\],\"60\":\[\"case_000[12]\",\"case_000[12]\"\]"'
# templates that no case can need are not asked for; the run says that there are none
# shellcheck disable=SC2086 # words wanted
expect 0 "4 cases" bmvp prepare --data phantoms --out wide --spacing 6
# shellcheck disable=SC2086 # words wanted
expect 1 "its templates do not fit|--spacing 0|--set copies=0" bmvp finetune --data wide --init six/checkpoint.safetensors --preset fast --set copies=1 --allow-absent --crop 16 --batch 1 --steps 1 --out wide_run
# shellcheck disable=SC2086 # words wanted
expect 0 "fill     by zeros (--fill zero), which no case here needs: |done" bmvp finetune --data wide --init six/checkpoint.safetensors --preset fast --set copies=0 --allow-absent --crop 16 --batch 1 --steps 1 --out wide_run
gzip -dc phantoms/case_0003/seg.nii.gz >map.nii
mkdir healthy && cp -r phantoms/case_0001 phantoms/case_0002 phantoms/case_0003 healthy
{ head -c 352 map.nii; head -c $(($(bytes map.nii) - 352)) /dev/zero; } | gzip -n >healthy/case_0003/seg.nii.gz
expect 0 "3 cases" bmvp prepare --data healthy --out healthy_data --spacing 0
# shellcheck disable=SC2086 # words wanted
expect 0 "validate no voxel of any region in the cases to validate" bmvp finetune --data healthy_data --labels phantom --fill zero \
    --split three.json $tiny --batch 2 --steps 1 --out blind
check "its best weights are there" test -s blind/best.safetensors

clean .
finish
