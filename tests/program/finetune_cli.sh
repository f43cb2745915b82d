#!/bin/sh
# finetune_cli.sh - the second half of the program from the outside: label definitions in data lists, split, evaluate, and everything that
# can be wrong with what they are given. Environment: BMVP, the program (default build/bmvp).
cd "$(dirname "$0")/../.." || exit 1
# shellcheck source=tests/support/check.sh
. tests/support/check.sh
with_program

# ---- helpers -----------------------------------------------------------------------------------------------------------------

# ids FILE KEY: the ids of a list in a split, sorted, on one line
ids() { sed -n "/^ *\"$2\": \[$/,/^ *\]/s/^ *\"\(.*\)\",\{0,1\}$/\1/p" "$1" | sort | tr '\n' ' ' | sed 's/ $//'; }
count() { ids "$1" "$2" | wc -w | tr -d ' '; }
# within A B: every word of A is one of B
within() { for w in $1; do case " $2 " in *" $w "*) ;; *) return 1 ;; esac; done; }
# apart A B: no word of A is one of B
apart() { for w in $1; do case " $2 " in *" $w "*) return 1 ;; *) ;; esac; done; }
# value FILE KEY...: the number that JSON has below these keys, one after the other
value()
{
    file=$1 script='' closing=''
    shift
    for key in "$@"; do script="$script/\"$key\":/,\$ {" closing="$closing}"; done
    sed -n "$script s/^ *\"$key\": \([-0-9.a-z]*\),\{0,1\}\$/\1/p; $closing" "$file" | head -n 1
}
# is FILE NUMBER KEY...: the number below these keys
is()
{
    file=$1 number=$2
    shift 2
    got=$(value "$file" "$@")
    check "$file: $* is '$got', not $number" test "$got" = "$number"
}

# ---- data: phantoms on one grid, 32 x 32 x 32 voxels of 7.5 mm --------------------------------------------------------------------

expect 0 "10 of 10 cases" bmvp phantom --out phantoms --cases 10 --size 32 --missing 0 --thick 0 --orientation RAS --tumours 1 --modalities t1,flair --seed 3
check "phantoms say what their labels mean" grep -q '"labels": "phantom"' phantoms/dataset.json
gzip -dc phantoms/case_0001/seg.nii.gz >map.nii
check "the layout that the maps below need" test "$(bytes map.nii)" -eq $((352 + 32 * 32 * 32))
# empty_map FILE; mark FILE VALUE X Y Z: one voxel
empty_map() { { head -c 352 map.nii; head -c 32768 /dev/zero; } >"$1"; }
mark() { patch "$1" $((352 + ($5 * 32 + $4) * 32 + $3)) "\\$(printf %03o "$2")"; }
# row FILE VALUE FROM TO: voxels along x in the middle of the volume
row()
{
    x=$3
    while [ "$x" -le "$4" ]; do
        mark "$1" "$2" "$x" 16 16
        x=$((x + 1))
    done
}

# ---- label definitions ------------------------------------------------------------------------------------------------------------

expect 0 "10 cases (10 new" bmvp prepare --data phantoms --out prepared --spacing 0
check "prepare hands the definition on" grep -q '"labels": "phantom"' prepared/dataset.json
image=phantoms/case_0001/t1.nii.gz
# labelled FILE LABELS [MORE]: a list with one case
labelled() { printf '{"labels": %s, "cases": [{"id": "a", "images": {"t1": "%s"}, "label": "phantoms/case_0001/seg.nii.gz"%s}]}\n' "$2" "$image" "${3-}" >"$1"; }
labelled own.json '{"ET": [3], "any": [1, 2, 3], "background": 0}' ', "patient": "Jane \"J\" Doe", "class": 2'
expect 0 "1 cases (1 new" bmvp prepare --data own.json --out own --spacing 0
check "own regions and the patient are handed on" sh -c 'tr -d "\n " <own/dataset.json | grep -qF "\"class\":2,\"patient\":\"Jane\\\"J\\\"Doe\"}],\"labels_kind\":\"regions\",\"labels\":{\"any\":[1,2,3],\"ET\":[3]}}"'
expect 0 "1 cases (1 new" bmvp prepare --data own/dataset.json --out own_again --spacing 0
same own/dataset.json own_again/dataset.json
labelled theirs.json '{"0": "background", "1": "core", "2": "edema", "3": "enhancing"}'
expect 0 "1 cases (1 new" bmvp prepare --data theirs.json --out theirs --spacing 0
check "disjoint values are classes" sh -c 'tr -d "\n " <theirs/dataset.json | grep -qF "\"labels_kind\":\"classes\",\"labels\":{\"core\":[1],\"edema\":[2],\"enhancing\":[3]}"'

labelled bad.json '{"core": 1, "enhancing": 3}'
expect 1 "left out: case 'a'|case_0001/seg.nii.gz: value 2 at voxel (|'custom'" bmvp prepare --data bad.json --out no_such --spacing 0
check "nothing of that case is there" test ! -e no_such/a
# bad_labels TEXTS LABELS [MORE]
bad_labels()
{
    labelled bad.json "$2" "${3-}"
    expect 1 "bad.json|$1" bmvp prepare --data bad.json --out no
    absent no
}
bad_labels "labels 'brats': there are brats2021" '"brats"'
bad_labels "name of a definition or an object" '[1, 2]'
bad_labels "no regions" '{"background": 0}'
bad_labels "no regions" '{}'
bad_labels "value 256 of 'a'" '{"a": 256}'
bad_labels "of 'a' is outside" '{"a": 4294967297}'
bad_labels "of 'a' is outside" '{"99999999999": "a"}'
bad_labels "value 0 of 'a'" '{"a": [0, 1]}'
bad_labels "'a' must be a whole number or a list" '{"a": 1.5}'
bad_labels "'a' must be a whole number or a list" '{"a": "b"}'
bad_labels "'a' must be a whole number or a list" '{"a": []}'
bad_labels "'a' is there twice" '{"1": "a", "2": "a"}'
bad_labels "'a' and 'b' are the same values" '{"a": [1, 2], "b": [2, 1]}'
bad_labels "1 to 95" "{\"$(printf %096d 0)\": 1}"
bad_labels "\"ignore\" must be one value from 1 to 255" '{"a": 1, "ignore": [3, 4]}'
bad_labels "\"ignore\" must be one value from 1 to 255" '{"a": 1, "ignore": 0}'
bad_labels "\"ignore\" must be one value from 1 to 255" '{"0": "ignore", "1": "a"}'
bad_labels "\"ignore\" must be one value from 1 to 255" '{"1": "a", "2": "ignore", "3": "Ignore"}'
bad_labels '"patient" must be a string' '"phantom"' ', "patient": [7]'
bad_labels "class must be a whole number from 0" '"phantom"' ', "class": -2'
bad_labels "class must be a whole number from 0" '"phantom"' ', "class": "high"'
printf '{"labels_kind": "classes", "labels": {"a": [1, 2], "b": [2, 3]}, "cases": [{"id": "a", "images": {"t1": "%s"}}]}\n' "$image" >bad.json
expect 1 "bad.json|value 2 is in both classes 'a' and 'b'" bmvp prepare --data bad.json --out no
printf '{"labels_kind": "kinds", "labels": {"a": 1}, "cases": [{"id": "a", "images": {"t1": "%s"}}]}\n' "$image" >bad.json
expect 1 "bad.json|labels_kind 'kinds'" bmvp prepare --data bad.json --out no
printf '{"cases": [{"id": "a", "images": {"t1": "%s"}, "label": ["x.nii"]}]}\n' "$image" >bad.json
expect 1 "bad.json|'a'|\"label\" must be a path" bmvp prepare --data bad.json --out no

# ---- split ------------------------------------------------------------------------------------------------------------------------

for command in split evaluate; do expect 0 "usage: bmvp $command" bmvp $command --help; done
expect 0 "6 cases to train, 1 to validate, 3 to test; 5 folds" bmvp split --data phantoms --out split.json --folds 5 --seed 4
check "6:1:3" test "$(count split.json train) $(count split.json val) $(count split.json test)" = "6 1 3"
check "train and val apart" apart "$(ids split.json train)" "$(ids split.json val)"
check "train and test apart" apart "$(ids split.json train)" "$(ids split.json test)"
check "val and test apart" apart "$(ids split.json val)" "$(ids split.json test)"
check "fractions of 6" test "$(for f in 20 40 60 80 100; do count split.json $f; done | tr '\n' ' ')" = "2 3 4 5 6 "
check "20 in 40" within "$(ids split.json 20)" "$(ids split.json 40)"
check "40 in 60" within "$(ids split.json 40)" "$(ids split.json 60)"
check "60 in 80" within "$(ids split.json 60)" "$(ids split.json 80)"
check "80 in 100" within "$(ids split.json 80)" "$(ids split.json 100)"
check "100 is train" test "$(ids split.json 100)" = "$(ids split.json train)"
folds=$(sed -n '/"folds"/,$s/^ *"\(case.*\)",\{0,1\}$/\1/p' split.json)
check "every case is in one fold" test "$(echo "$folds" | sort -u | wc -l) $(echo "$folds" | wc -l)" = "10 10"
cp split.json first.json
expect 0 "" bmvp split --data phantoms --out split.json --folds 5 --seed 4
same first.json split.json
expect 0 "" bmvp split --data phantoms --out other.json --seed 5
check "another seed, another split" test "$(ids other.json train)" != "$(ids split.json train)"
expect 0 "8 cases to train, 0 to validate, 2 to test" bmvp split --data phantoms --out other.json --ratio 8:0:2

# cases FILE ENTRY...: entries are ID:PATIENT[:CLASS]
cases()
{
    file=$1
    shift
    list=
    for entry in "$@"; do
        class_index=${entry#*:*:}
        [ "$class_index" = "$entry" ] && class_index=
        patient=${entry#*:}
        list="$list${list:+, }{\"id\": \"${entry%%:*}\", \"patient\": \"${patient%%:*}\"${class_index:+, \"class\": $class_index}, \"images\": {\"t1\": \"$image\"}}"
    done
    printf '{"cases": [%s]}\n' "$list" >"$file"
}
cases forth.json a1:a a2:a b1:b c1:c c2:c c3:c d1:d e1:e f1:f f2:f
cases back.json f2:f f1:f e1:e d1:d c3:c c2:c c1:c b1:b a2:a a1:a
for seed in 1 2 3; do
    expect 0 "" bmvp split --data forth.json --out forth_split.json --seed $seed --folds 3
    expect 0 "" bmvp split --data back.json --out back_split.json --seed $seed --folds 3
    for part in train val test 20 60; do
        check "$part does not depend on the order (seed $seed)" test "$(ids forth_split.json $part)" = "$(ids back_split.json $part)"
        for pair in "a1 a2" "c1 c2" "c2 c3" "f1 f2"; do
            check "$part: $pair together (seed $seed)" test "$(ids forth_split.json $part | tr ' ' '\n' | grep -c -e "^${pair% *}$" -e "^${pair#* }$")" != 1
        done
    done
done
cases classes.json a:a:0 b:b:0 c:c:0 d:d:0 e:e:0 f:f:0 g:g:0 h:h:0 i:i:1 j:j:1 k:k:1 l:l:1
for seed in 1 2 3 4; do
    expect 0 "6 cases to train, 3 to validate, 3 to test" bmvp split --data classes.json --out classes_split.json --ratio 2:1:1 --seed $seed --stratify
    for part in train:2 val:1 test:1; do
        check "${part%:*} has its share of the classes (seed $seed)" test "$(ids classes_split.json ${part%:*} | tr ' ' '\n' | grep -c '^[i-l]$')" -eq ${part#*:}
    done
done

expect 1 "10 patients are fewer than 11 folds" bmvp split --data phantoms --out no.json --folds 11
cases few.json a:a b:b
expect 1 "few.json: 2 patients cannot be split into 3 parts" bmvp split --data few.json --out no.json
expect 0 "1 cases to train, 0 to validate, 1 to test" bmvp split --data few.json --out other.json --ratio 1:0:1
expect 1 "forth.json: case 'a1' has no \"class\"" bmvp split --data forth.json --out no.json --stratify
expect 1 "nothing: No such file" bmvp split --data nothing --out no.json
expect 1 "nowhere/no.json" bmvp split --data phantoms --out nowhere/no.json
for ratio in 6:1 6:1:3:1 0:1:3 a:b:c 6:-1:3 6:1:nan; do expect 2 "--ratio $ratio" bmvp split --data phantoms --out no.json --ratio $ratio; done
expect 2 "--folds 1" bmvp split --data phantoms --out no.json --folds 1
absent no.json

# ---- parts and folds that a data set brings -----------------------------------------------------------------------------------------

# brought FILE ENTRY...: a list; entries are ID[:KEYS], KEYS as they stand in JSON
brought()
{
    file=$1
    shift
    list=
    for entry in "$@"; do
        keys=${entry#*:}
        [ "$keys" = "$entry" ] && keys=
        list="$list${list:+, }{\"id\": \"${entry%%:*}\", \"images\": {\"t1\": \"$image\"}, \"label\": \"phantoms/case_0001/seg.nii.gz\"${keys:+, $keys}}"
    done
    printf '{"cases": [%s], "labels": "phantom"}\n' "$list" >"$file"
}
# parts "TRAIN" "VAL" "TEST": what b.json has
parts() { check "parts $(ids b.json train) / $(ids b.json val) / $(ids b.json test), not $*" test "$(ids b.json train)/$(ids b.json val)/$(ids b.json test)" = "$1/$2/$3"; }
brought parts.json a:'"part": "TRAIN"' b:'"part": "test"' c:'"part": "Val"' d:'"split": "training"' e:'"part": null' f:'"split": "dev"'
expect 0 "2 cases to train, 2 to validate, 1 to test; 1 not used|as the data set has it: train, val, test (--seed N draws" bmvp split --data parts.json --out b.json
parts "a d" "c f" "b"
check "fractions of what is trained on" test "$(ids b.json 20) $(ids b.json 100)" = "$(ids b.json 20) a d"
expect 0 "6 cases (6 new" bmvp prepare --data parts.json --out kept --spacing 0
expect 0 "split    as the data set has it: train, val, test" bmvp finetune --data kept --out no --network unet3d_tiny --crop 16 --fill zero --plan --set copies=0 --allow-absent
expect 0 "4 cases to train, 1 to validate, 1 to test" bmvp split --data parts.json --out b.json --seed 0 --ratio 4:1:1
check "drawn anew" sh -c '! grep -q "not used" "$0"' "$out"
expect 0 '"val": 2|"test": 1' bmvp info --json parts.json

brought parts.json a:'"fold": 1' b:'"fold": "2"' c:'"fold": 1' d:'"fold": 3.0' e:'"fold": 2' f:'"part": "test"'
expect 0 "3 cases to train, 2 to validate, 1 to test; 4 folds|train, test, 4 folds; validation: fold 1" bmvp split --data parts.json --out b.json
parts "b d e" "a c" "f"
expect 0 "folds: drawn" bmvp split --data parts.json --out b.json --folds 2
brought parts.json a:'"part": "train"' b:'"part": "train"' c:'"part": "train"' d:'"part": "test"'
expect 0 "train, test; validation: drawn from train, seed 0" bmvp split --data parts.json --out b.json
check "one of three" test "$(count b.json train) $(count b.json val) $(ids b.json test)" = "2 1 d"
sed 's/"label": "phantoms[^"]*", "part": "test"/"part": "val"/' parts.json >blind.json
expect 0 "its 1 cases for validation have neither label nor class and are not used; validation: drawn" bmvp split --data blind.json --out b.json
brought parts.json BraTS-GLI-00001-000:'"part": "train"' BraTS-GLI-00001-001:'"part": "test"' c:'"part": "train"'
expect 1 "cases 'BraTS-GLI-00001-000' and 'BraTS-GLI-00001-001' of patient 'BraTS-GLI-00001' are in different parts, by the data set" bmvp split --data parts.json --out b.json
expect 0 "2 cases to train" bmvp split --data parts.json --out b.json --ratio 1:1:0
brought parts.json a:'"fold": "x"'
expect 1 "case 'a': \"fold\" must be a whole number from 0" bmvp split --data parts.json --out no

# nnU-Net: splits_final.json beside dataset.json, or named
mkdir -p nn/imagesTr nn/labelsTr
for i in a b c d e f; do cp map.nii nn/imagesTr/${i}_0000.nii && cp map.nii nn/labelsTr/$i.nii; done
echo '{"channel_names": {"0": "T1"}, "labels": {"background": 0, "x": [1, 2, 3]}, "file_ending": ".nii"}' >nn/dataset.json
echo '[{"train": ["a", "b", "e", "f"], "val": ["c", "d"]}, {"train": ["c", "d", "e", "f"], "val": ["a", "b"]}, {"train": ["c", "d", "a", "b"], "val": ["e", "f"]}]' >nn/splits_final.json
expect 0 "train, 3 folds; validation: fold 0" bmvp split --data nn --out b.json
parts "a b e f" "c d" ""
mv nn/splits_final.json named.json
expect 0 "3 cases to train, 1 to validate, 2 to test" bmvp split --data nn --out b.json --ratio 3:1:2
expect 0 "4 cases to train, 2 to validate" bmvp finetune --data nn --split named.json --train not-fold:1 --val fold:1 --out no --network unet3d_tiny --crop 16 --fill zero --plan
echo '[{"train": ["a", "b"], "val": ["c", "g"]}]' >nn/splits_final.json
expect 0 "splits_final.json: the data have no case 'g' of it|3 not used|as the data set has it: train, val" bmvp split --data nn --out b.json
parts "a b" "c" ""
echo '[{"train": ["a", "b"], "val": ["c"]}, {"train": ["a"], "val": ["c", "b"]}]' >nn/splits_final.json
expect 0 "left out: nn/splits_final.json: |case 'c' is in \"val\" of entries 0 and 1|4 cases to train, 1 to validate, 1 to test" bmvp split --data nn --out b.json --ratio 4:1:1
expect 1 "entries 0 and 1: such entries are no folds" bmvp finetune --data nn --split nn/splits_final.json --out no --plan --fill zero
echo '[{"train": ["a", "b"], "val": ["c"]}, {"train": ["a"], "val": ["b"]}]' >nn/splits_final.json
expect 1 "entry 0: \"train\" is not what the \"val\" of all others hold (case " bmvp finetune --data nn --split nn/splits_final.json --out no --plan --fill zero
expect 1 "case 'a' is in \"train\" and \"val\"" sh -c 'echo "[{\"train\": [\"a\"], \"val\": [\"a\"]}]" >bad.json; "$0" finetune --data nn --split bad.json --out no --plan --fill zero' "$program"
# folders for training and validation; what files are may be said here, too
mkdir -p folders/Training/p1 folders/Training/p2 folders/Validation/p3
for f in Training/p1 Training/p2 Validation/p3; do cp map.nii folders/$f/scan.nii && cp map.nii folders/$f/gold.nii; done
expect 0 "2 cases to train, 1 to validate, 0 to test|as the data set has it: train, val" bmvp split --data folders --out b.json --as "t1=scan*,label=gold*"
parts "p1 p2" "p3" ""
expect 0 "layout           case folders|labelled_cases   3" bmvp info folders --as "t1=scan*,label=gold*"
sed 's|"phantoms/|"|g; s|'"$image"'|case_0001/t1.nii.gz|g' parts.json | sed 's/"fold": "x"/"fold": 0/' >rooted.json
expect 0 "cases            1" bmvp info rooted.json --root phantoms
expect 0 "1 cases to train" bmvp split --data rooted.json --root phantoms --out b.json --ratio 1:0:0

# ---- evaluate -----------------------------------------------------------------------------------------------------------------------

mkdir perfect
for i in 1 2 3 4 5 6 7 8 9; do cp phantoms/case_000$i/seg.nii.gz perfect/case_000$i.nii.gz; done
gzip -dc phantoms/case_0010/seg.nii.gz >perfect/case_0010.nii
expect 0 "10 of phantoms/dataset.json|regions: WT TC ET|MONAI: Dice is NaN|mean" bmvp evaluate --data phantoms --predictions perfect
is perfect/metrics.json 1 monai WT dice mean
is perfect/metrics.json 10 monai WT dice n
is perfect/metrics.json 0 monai TC hd95 mean
is perfect/metrics.json 1 brats ET dice mean
check "31 lines of numbers" test "$(wc -l <perfect/metrics.csv)" -eq 31
check "no line without the rule" test "$(grep -c ',monai$' perfect/metrics.csv)" -eq 30
expect 0 "part test of split.json|case_" bmvp evaluate --data phantoms --predictions perfect --out of_test --split split.json --per-case
check "the cases of the part" test "$(sed -n 's/^ *"id": "\(.*\)",$/\1/p' of_test/metrics.json | sort | tr '\n' ' ')" = "$(ids split.json test) "
for part in "train 6" "train:40 3" "val 1" "all 10" "fold:1 2" "not-fold:1 8"; do
    expect 0 "${part#* } of phantoms" bmvp evaluate --data phantoms --predictions perfect --out of_part --split split.json --part "${part% *}" --no-distances
done

# Known numbers. Truth 8..11, prediction 10..13 along x, value 1 (WT and TC): 2 voxels in common; distances 0 0 1 2 voxels either way, of
# which 95 % is 1.85. The second case has no truth but a prediction, the third nothing at all.
mkdir hand
for f in t1 p1 t2 p2 t3 p3; do empty_map hand_$f.nii; done
row hand_t1.nii 1 8 11
row hand_p1.nii 1 10 13
row hand_p2.nii 2 5 5
list=
for i in 1 2 3; do
    mv hand_p$i.nii hand/c$i.nii
    list="$list${list:+, }{\"id\": \"c$i\", \"images\": {\"t1\": \"$image\"}, \"label\": \"hand_t$i.nii\"}"
done
printf '{"labels": "phantom", "cases": [%s]}\n' "$list" >hand.json
for threads in 1 3; do
    expect 0 "ET: never in the truth of these 3 cases|0.5000 [0.5000, 0.5000] 1|13.8" bmvp evaluate --data hand.json --predictions hand --out hand_$threads --threads $threads
done
same hand_1/metrics.json hand_3/metrics.json
same hand_1/metrics.csv hand_3/metrics.csv
is hand_1/metrics.json 0.5 monai WT dice mean
is hand_1/metrics.json 1 monai WT dice n
is hand_1/metrics.json 0 monai ET dice n
is hand_1/metrics.json null monai ET dice mean
is hand_1/metrics.json 0.5 monai WT sensitivity mean
is hand_1/metrics.json 3 monai WT specificity n
is hand_1/metrics.json 0 present ET
is hand_1/metrics.json 0.5 brats WT dice mean       # (0.5 + 0 + 1) / 3
is hand_1/metrics.json 3 brats WT dice n
check "the line of the first case" grep -qx 'c1,WT,0.5,13.87[0-9]*,15,0.5,0.999938[0-9]*,4,4,monai' hand_1/metrics.csv
check "nan and inf" grep -qx 'c2,WT,nan,nan,inf,nan,0.99996[0-9]*,0,1,monai' hand_1/metrics.csv
expect 0 "BraTS: Dice is 1" bmvp evaluate --data hand.json --predictions hand --out hand_brats --empty brats
check "the other rule" grep -qx 'c2,WT,0,374,374,nan,0.99996[0-9]*,0,1,brats' hand_brats/metrics.csv
check "nothing and nothing" grep -qx 'c3,ET,1,0,0,nan,1,0,0,brats' hand_brats/metrics.csv
expect 0 "classes: CSF GM WM" bmvp evaluate --data hand.json --predictions hand --out other --labels mrbrains --no-distances
check "without distances" grep -qx 'c1,GM,0.5,nan,nan,0.5,0.999938[0-9]*,4,4,monai' other/metrics.csv
# voxels nobody judged (nnU-Net's ignore) count nowhere: here those where the prediction goes beyond the truth
cp hand_t1.nii judged_t.nii
row judged_t.nii 5 12 13
labelled judged.json '{"0": "background", "1": "lesion", "5": "Ignore"}'
sed 's|phantoms/case_0001/seg.nii.gz|judged_t.nii|; s|"id": "a"|"id": "c1"|' judged.json >judged_1.json
expect 0 "ignore: voxels of value 5 are no class: losses and figures do not see them" bmvp evaluate --data judged_1.json --predictions hand --out judged
check "without what is ignored" grep -qx 'c1,lesion,0.66666[0-9]*,13.87[0-9]*,15,0.5,1,4,2,monai' judged/metrics.csv
# the same along z, where voxels are 15 mm here (pixdim and sform)
for file in hand_t4.nii thick.nii; do
    empty_map $file
    patch $file 88 '\000\000\160\101'
    patch $file 320 '\000\000\160\101'
done
for z in 8 9 10 11; do
    mark hand_t4.nii 1 16 16 $z
    mark thick.nii 1 16 16 $((z + 2))
done
mkdir thick
mv thick.nii thick/c4.nii
printf '{"labels": "phantom", "cases": [{"id": "c4", "images": {"t1": "%s"}, "label": "hand_t4.nii"}]}\n' "$image" >thick.json
expect 0 "0.5000" bmvp evaluate --data thick.json --predictions thick
check "along z" grep -qx 'c4,WT,0.5,27.7[0-9]*,30,0.5,0.999938[0-9]*,4,4,monai' thick/metrics.csv
check "voxels of x, y, z" sh -c 'tr -d "\n " <thick/metrics.json | grep -qF "\"voxel_mm\":[7.5,7.5,15]"'
clean .

# Voxels of 2 x 7.5 x 7.5 mm: the same row is 3.7 mm away and not 13.875. The second prediction is stored from right to left.
# narrow FILE STEP ORIGIN: x of the sform (and pixdim), each as octal bytes; no qform
narrow()
{
    patch "$1" 80 '\000\000\000\100'
    patch "$1" 252 '\000\000\001\000'
    patch "$1" 280 "$2"
    patch "$1" 284 '\000\000\000\000\000\000\000\000'
    patch "$1" 292 "$3"
}
mkdir narrow
for f in narrow_t narrow/n1 narrow/n2; do empty_map $f.nii; done
row narrow_t.nii 1 8 11
row narrow/n1.nii 1 10 13
row narrow/n2.nii 1 18 21
narrow narrow_t.nii '\000\000\000\100' '\000\000\000\000'    # 2, 0
narrow narrow/n1.nii '\000\000\000\100' '\000\000\000\000'
narrow narrow/n2.nii '\000\000\000\300' '\000\000\170\102'   # -2, 62
list=
for i in 1 2; do list="$list${list:+, }{\"id\": \"n$i\", \"images\": {\"t1\": \"narrow_t.nii\"}, \"label\": \"narrow_t.nii\"}"; done
printf '{"labels": "ms", "cases": [%s]}\n' "$list" >narrow.json
expect 0 "2 of narrow.json" bmvp evaluate --data narrow.json --predictions narrow --out narrow_out
for i in 1 2; do
    check "the line of n$i" grep -qxE "n$i,lesion,0.5,3.(7|70000[0-9]*|69999[0-9]*),4,0.5,0.999938[0-9]*,4,4,monai" narrow_out/metrics.csv
done

# what is missing or wrong is named, the rest goes on, the status says so
spoil() { rm -rf spoilt; cp -r hand spoilt; }
# spoilt TEXTS: two of three cases remain
spoilt()
{
    rm -rf spoilt_out
    expect 1 "left out|2 of hand.json|$1" bmvp evaluate --data hand.json --predictions spoilt --out spoilt_out
    is spoilt_out/metrics.json 2 cases_done
    check "two cases in the table" test "$(wc -l <spoilt_out/metrics.csv)" -eq 7
}
spoil
rm spoilt/c2.nii
spoilt "c2: no prediction|spoilt/c2.nii.gz|1 of 3 cases without prediction, 0 that failed"
check "missing in the JSON" sh -c 'tr -d "\n " <spoilt_out/metrics.json | grep -qF "\"missing\":[\"c2\"],\"failed\":[]"'
spoil
mark spoilt/c3.nii 9 1 2 3
spoilt "'c3'|spoilt/c3.nii: value 9 at voxel (1, 2, 3)|c3: failed|1 that failed"
spoil
head -c 20000 hand/c1.nii >spoilt/c1.nii
spoilt "spoilt/c1.nii"
spoil
cp prepared/case_0002/seg.nii spoilt/c1.nii
spoilt "prediction spoilt/c1.nii (|label |hand_t1.nii (32x32x32) are on different grids"
spoil
cp hand/c1.nii spoilt/c1.nii.gz
spoilt "both spoilt/c1.nii.gz and spoilt/c1.nii"
cp hand_t2.nii keep_t2.nii
mark hand_t2.nii 7 0 0 0
spoil
spoilt "'c2'|hand_t2.nii: value 7 at voxel (0, 0, 0)"
mv keep_t2.nii hand_t2.nii
mkdir none
expect 1 "none of the 3 cases could be evaluated" bmvp evaluate --data hand.json --predictions none --out no
expect 1 "--predictions nothing" bmvp evaluate --data hand.json --predictions nothing --out no
expect 1 "nothing: No such file" bmvp evaluate --data nothing --predictions hand --out no
expect 1 "--labels tumours: there are brats2021" bmvp evaluate --data hand.json --predictions hand --out no --labels tumours
sed 's/"labels": "phantom", //' hand.json >plain.json
expect 1 "plain.json: what do the label values mean?|--labels" bmvp evaluate --data plain.json --predictions hand --out no
sed 's/, "label": "hand_t1.nii"//' hand.json >plain.json
expect 1 "plain.json: case 'c1' has no label" bmvp evaluate --data plain.json --predictions hand --out one_less
absent no
expect 1 "map.nii" bmvp evaluate --data hand.json --predictions hand --out map.nii
expect 2 "--part val: of which split?" bmvp evaluate --data hand.json --predictions hand --part val
expect 2 "--empty|monai|brats" bmvp evaluate --data hand.json --predictions hand --empty none

# splits that do not fit, as evaluate reads them
# bad_split TEXTS JSON
bad_split()
{
    echo "$2" >bad_split.json
    expect 1 "$1" bmvp evaluate --data hand.json --predictions hand --out no --split bad_split.json
}
bad_split "bad_split.json: test: hand.json has no case 'c4'" '{"train": ["c1"], "test": ["c4"]}'
bad_split "bad_split.json: case 'c1' is in two parts" '{"train": ["c1"], "test": ["c1"]}'
bad_split "bad_split.json: case 'c1' is in two parts" '{"train": ["c2"], "folds": [["c1"], ["c1", "c2"]]}'
bad_split "bad_split.json: fractions: case 'c2' is not in \"train\"" '{"train": ["c1"], "test": ["c2"], "fractions": {"100": ["c1", "c2"], "80": ["c2"], "60": [], "40": [], "20": []}}'
bad_split "fractions: there is no '80'; without" '{"train": ["c1"], "test": ["c2"], "fractions": {"100": ["c1"]}}'
bad_split "fractions: '50' is none of 20, 40, 60, 80, 100" '{"train": ["c1"], "test": ["c2"], "fractions": {"50": ["c1"]}}'
bad_split "fractions: case 'c1' of \"train\" is not in '100'" '{"train": ["c1"], "test": ["c2"], "fractions": {"100": []}}'
bad_split "fractions: case 'c3' is in '60' and not in '80'" \
    '{"train": ["c1", "c3"], "test": ["c2"], "fractions": {"100": ["c1", "c3"], "80": ["c1"], "60": ["c1", "c3"]}}'
bad_split "bad_split.json: not a split" '{"cases": []}'
bad_split "bad_split.json" '{"train": '
bad_split "part 'test' has no cases" '{"train": ["c1"]}'
echo '{"train": ["a1", "b1"], "test": ["a2"]}' >bad_split.json
expect 1 "cases 'a1' and 'a2' of patient 'a' are in different parts" bmvp evaluate --data forth.json --predictions hand --out no --labels ms --split bad_split.json
echo '{"train": ["c1"], "test": ["c2"]}' >bad_split.json
expect 1 "no part 'tset'|train, val, test" bmvp evaluate --data hand.json --predictions hand --out no --split bad_split.json --part tset
expect 1 "no part 'fold:0'|bmvp split --folds" bmvp evaluate --data hand.json --predictions hand --out no --split bad_split.json --part fold:0
expect 1 "no part 'fold:5'|fold:K" bmvp evaluate --data phantoms --predictions perfect --out no --split split.json --part fold:5
absent no

# classes
mkdir scores
cases classes.json a:a:0 b:b:1 c:c:1 d:d:0 e:e:1
# score ID P: of class 1, in hundredths
score() { printf '{"id": "%s", "probabilities": [0.%02d, 0.%02d]}' "$1" $((100 - $2)) "$2"; }
printf '{"cases": [%s, %s, %s, %s, %s, %s]}\n' "$(score b 80)" "$(score a 30)" "$(score c 40)" "$(score d 60)" "$(score e 90)" "$(score x 50)" >scores/predictions.json
expect 0 "5 of classes.json|accuracy     0.6000|auc          0.8333|f1           0.6667|sensitivity  0.6667|specificity  0.5000|0.4000" \
    bmvp evaluate --task classify --data classes.json --predictions scores --per-case
is scores/metrics.json 0.6 summary accuracy mean
check "confusion" sh -c 'tr -d "\n " <scores/metrics.json | grep -qF "\"confusion\":[[1,1],[1,2]]"'
check "a line for each case" grep -qx 'd,0,1,0.4[0-9]*,0.6[0-9]*' scores/metrics.csv
# bad_score TEXTS JSON: the entry of case b
bad_score()
{
    mkdir -p bad_scores
    printf '{"cases": [%s, %s, %s, %s%s]}\n' "$(score a 30)" "$(score c 40)" "$(score d 60)" "$(score e 90)" "${2:+, $2}" >bad_scores/predictions.json
    expect 1 "4 of classes.json|'b'|$1" bmvp evaluate --task classify --data classes.json --predictions bad_scores
}
bad_score "b: no prediction|1 of 5 cases without prediction" ''
bad_score "is there twice" "$(score b 80), $(score b 70)"
bad_score "has 3 probabilities, others have 2" '{"id": "b", "probabilities": [0.2, 0.3, 0.5]}'
bad_score "list of 2 to 17" '{"id": "b", "probabilities": 0.5}'
bad_score "no number from 0 to 1" '{"id": "b", "probabilities": [1.5, -0.5]}'
bad_score "add up to 1.1" '{"id": "b", "probabilities": [0.5, 0.6]}'
cases three.json a:a:0 b:b:2 c:c:1
expect 1 "case 'b' is of class 2, but|2 classes" bmvp evaluate --task classify --data three.json --predictions scores --out no_three
cases two.json a:a:0 d:d:0
expect 0 "class 1: never in the truth of these 2 cases" bmvp evaluate --task classify --data two.json --predictions scores --out two
is two/metrics.json null summary auc mean
cases no_class.json a:a:0 b:b
expect 1 "no_class.json: case 'b' has no \"class\"" bmvp evaluate --task classify --data no_class.json --predictions scores --out no_class
expect 1 "hand/predictions.json" bmvp evaluate --task classify --data classes.json --predictions hand
echo '[]' >bad_scores/predictions.json
expect 1 "bad_scores/predictions.json: no predictions of classes" bmvp evaluate --task classify --data classes.json --predictions bad_scores --out no

# full disk
( ulimit -f 1 2>/dev/null || exit 99
  bmvp evaluate --data phantoms --predictions perfect --out full ) >"$out" 2>&1
code=$?
if [ $code -eq 99 ]; then skip "no limit on file sizes here"; else
    judge $code 1 "full/metrics.json" "evaluate on a full disk"
    absent full/metrics.json
fi
clean .
finish
