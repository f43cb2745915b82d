#!/bin/sh
# strip.sh - a brain stripper trained by bmvp itself on synthetic heads, beside `prepare --strip` by a template, on raw heads that neither has
# seen: phantoms of whole heads in every contrast that `bmvp phantom` has, by scanners that all differ -> one case for each image, its brain the
# label -> the tiny network at SPACING mm -> `bmvp predict` on raw files -> Dice against the publishers' masks, carried to the raw grids.
# Settings: OUT, CASES, STEPS, JOBS of common.sh (CASES=24 heads of eight images, STEPS=4000 of batch 2), and
#   HEADS=DIR        raw heads: studyN_NAME.nii.gz, brainmask_common_space.nii.gz, studyN_FLAIR_to_common_space.txt, studyN_NAME_to_FLAIR.txt
#                    (open_ms); default: data/raw/openms_raw_01 below BMVP_DATA (../shared)
#   SPACING=3 CROP=64        mm, and voxels: about what a head fills
#   TEMPLATE=auto TEMPLATE_BRAIN=    of the other arm
# A stopped run goes on where it was. The settings as they are take about two hours on two cores.
CASES=${CASES:-24} STEPS=${STEPS:-4000} CROP=${CROP:-64}
. "$(dirname "$0")/common.sh"
HEADS=${HEADS:-${BMVP_DATA:-../shared}/data/raw/openms_raw_01}
SPACING=${SPACING:-3} TEMPLATE=${TEMPLATE:-auto} TEMPLATE_BRAIN=${TEMPLATE_BRAIN:-}
here=$OUT/strip
mkdir -p "$here/raw"
[ -f "$HEADS/brainmask_common_space.nii.gz" ] || { echo "strip.sh: no raw heads in $HEADS; name their folder by HEADS" >&2; exit 1; }

# list FILE LINES: a data list whose cases are images by themselves. All have one name: the network shall not know the contrast.
list()
{
    printf '{"labels": {"brain": 1}, "cases": [\n' >"$1"
    sed '$!s/$/,/' "$2" >>"$1"
    printf ']}\n' >>"$1"
}
# entry ID IMAGE MASK
entry() { printf '{"id": "%s", "images": {"t1": "%s"}, "label": "%s"}\n' "$1" "$2" "$3"; }

if [ ! -f "$here/prepared/dataset.json" ]; then
    say "heads: $CASES of eight images"
    quiet "$here/phantom.log" "$bmvp" phantom --heads --out "$here/heads" --cases "$CASES" --size $((240 / SPACING)) --scanners 64 --anatomy 1 \
        --tumours 0.3 --missing 0 --thick 0.3 --modalities flair,t1,t1c,t2,mra,pd,dwi,adc --seed 3003 --threads "$JOBS"
    for mask in "$here"/heads/*/*_brain_mask.nii.gz; do
        image=${mask%_brain_mask.nii.gz}
        folder=$(basename "$(dirname "$mask")")
        entry "${folder}_${image##*/}" "$folder/${image##*/}.nii.gz" "$folder/${mask##*/}"
    done >"$here/lines"
    list "$here/heads/brain.json" "$here/lines"
    quiet "$here/prepare.log" "$bmvp" prepare --data "$here/heads/brain.json" --out "$here/prepared" --spacing "$SPACING" --preset finetune \
        --threads "$JOBS"
fi

# the raw heads, each image a case, with the publishers' mask on its own grid
for image in "$HEADS"/study*_*.nii.gz; do
    id=$(basename "$image" .nii.gz)
    study=${id%%_*}
    set -- "$HEADS/${study}_FLAIR_to_common_space.txt"
    case $id in *_FLAIR) ;; *) set -- "$@" "$HEADS/${id}_to_FLAIR.txt" ;; esac
    cp "$image" "$here/raw/$id.nii.gz"
    "$page" carry "$HEADS/brainmask_common_space.nii.gz" "$image" "$here/raw/${id}_mask.nii.gz" "$@"
    entry "$id" "$id.nii.gz" "${id}_mask.nii.gz"
done >"$here/lines"
list "$here/raw/brain.json" "$here/lines"

say "training: $STEPS steps"
run=$here/run
if [ ! -f "$run/done" ]; then
    if [ -f "$run/checkpoint.safetensors" ]; then set -- --out "$run" --resume
    else
        rm -rf "$run"
        set -- --data "$here/prepared" --out "$run" --preset fast --network "$NETWORK" --crop "$CROP" --batch 2 --steps "$STEPS" --lr 0.003 \
            --validate-every $(((STEPS + 3) / 4)) --set copies=0
    fi
    quiet "$here/run.log" "$bmvp" finetune "$@" --threads "$JOBS"
    touch "$run/done"
fi
say "the raw heads, by the network and by the template"
rm -rf "$here/network" "$here/template"
quiet "$here/predict.log" "$bmvp" predict --checkpoint "$run/best.safetensors" --data "$here/raw/brain.json" --out "$here/network" --threads "$JOBS"
quiet "$here/network.log" "$bmvp" evaluate --data "$here/raw/brain.json" --predictions "$here/network" --threads "$JOBS"
# by the template masks come on prepared grids, of the raw voxels
quiet "$here/strip.log" "$bmvp" prepare --data "$here/raw/brain.json" --out "$here/stripped" --spacing 0 --template "$TEMPLATE" \
    ${TEMPLATE_BRAIN:+--template-brain "$TEMPLATE_BRAIN"} --to reference --strip --keep-doubtful --threads "$JOBS"
mkdir "$here/template"
for mask in "$here"/stripped/*/brain_mask.nii.gz; do cp "$mask" "$here/template/$(basename "$(dirname "$mask")").nii.gz"; done
quiet "$here/template.log" "$bmvp" evaluate --data "$here/stripped" --predictions "$here/template" --threads "$JOBS"
for arm in network template; do
    tr -d ' \n' <"$here/$arm/metrics.json" | sed 's/{"id":/\n&/g' | sed -n 's/{"id":"\([^"]*\)".*"dice":\([0-9.]*\),.*/\1 \2/p' |
        while read -r id dice; do echo "$arm $id $dice"; done
done | sort -u >"$here/dice.txt"
awk '{ d[$1, $2] = $3; ids[$2] = 1 }
    END { printf "%-16s %8s %8s\n", "Dice", "network", "template"
        for (id in ids) { printf "%-16s %8.4f %8.4f\n", id, d["network", id], d["template", id] | "sort"
            a += d["network", id]; b += d["template", id]; ++n }
        close("sort"); printf "%-16s %8.4f %8.4f\n", "mean", a / n, b / n }' "$here/dice.txt"
