#!/bin/sh
# demo.sh DIR - the whole way in a few minutes: phantoms -> prepare -> pre-training of the tiny network with all three tasks -> fine-tuning of a
# segmentation, from scratch and pre-trained -> prediction -> evaluation -> report.
# Prints each command before it runs it; the same commands with other folders work on data of your own.
# Fails when the reconstruction loss of the last steps is more than half of that of the first.
set -e
dir=${1:?usage: demo.sh DIR}
bmvp=${BMVP:-build/bmvp}
page=${PAGE_PROGRAM:-build/experiments_page}

if [ -e "$dir" ] && [ ! -f "$dir/.made_by_demo" ]; then
    echo "demo.sh: $dir is there and was not made by this script; name another folder" >&2
    exit 1
fi
if [ ! -x "$bmvp" ] || [ ! -x "$page" ]; then
    echo "demo.sh: no program $bmvp or $page; run make first" >&2
    exit 1
fi
rm -rf "$dir"
mkdir -p "$dir"
: >"$dir/.made_by_demo"

show()
{
    echo
    echo "\$ $*"
    "$@"
}

# reconstruction FIRST|LAST: mean of loss_cmr + loss_md over the first or last 20 steps of the log
reconstruction()
{
    case $1 in FIRST) head -n 20 "$dir/run/log.jsonl" ;; *) tail -n 20 "$dir/run/log.jsonl" ;; esac |
        awk '{ for (i = 1; i <= 2; ++i) {
                   name = i == 1 ? "\"loss_cmr\": " : "\"loss_md\": "
                   if (!match($0, name "[0-9.e+-]+")) continue
                   sum[i] += substr($0, RSTART + length(name), RLENGTH - length(name))
                   ++n[i]
               } }
             END { print (n[1] ? sum[1] / n[1] : 0) + (n[2] ? sum[2] / n[2] : 0) }'
}

started=$(date +%s)
# two sets: one to pre-train on, whose labels nobody looks at, and one with labels
show "$bmvp" phantom --out "$dir/phantoms" --cases 96 --size 64 --tumours 1 --seed 1
show "$bmvp" phantom --out "$dir/labelled" --cases 24 --size 64 --tumours 1 --missing 0 --seed 2
show "$bmvp" prepare --data "$dir/phantoms" --out "$dir/prepared" --spacing 0 --preset finetune
show "$bmvp" prepare --data "$dir/labelled" --out "$dir/prepared_labelled" --spacing 0 --preset finetune
show "$bmvp" pretrain --data "$dir/prepared" --out "$dir/run" --preset fast --network uniformer_tiny --crop 32 --batch 8 \
    --steps 2500 --lr 0.002

first=$(reconstruction FIRST)
last=$(reconstruction LAST)
echo
echo "reconstruction loss: $first in the first 20 steps, $last in the last 20"

# the same fine-tuning from scratch and pre-trained, with 20 % of the labels; then the test cases as they came from the scanner
show "$bmvp" split --data "$dir/prepared_labelled" --out "$dir/split.json"
for name in scratch pretrained; do
    case $name in
    scratch) start="--network uniformer_tiny --fill zero" ;;
    *) start="--init $dir/run/checkpoint.safetensors" ;;
    esac
    # shellcheck disable=SC2086 # words wanted
    show "$bmvp" finetune --data "$dir/prepared_labelled" --split "$dir/split.json" --fraction 20 --out "$dir/$name" $start --preset fast \
        --crop 32 --batch 4 --steps 80 --lr 0.003 --validate-every 20 --set copies=0
    show "$bmvp" predict --checkpoint "$dir/$name/best.safetensors" --data "$dir/labelled" --split "$dir/split.json" --part test \
        --out "$dir/$name/test"
    show "$bmvp" evaluate --data "$dir/labelled" --split "$dir/split.json" --part test --predictions "$dir/$name/test"
done
show "$page" runs "$dir/run/report.html" "$dir/labelled" "$dir/split.json" "from scratch=$dir/scratch=$dir/scratch/test" \
    "pre-trained=$dir/pretrained=$dir/pretrained/test"

echo
echo "took $(($(date +%s) - started)) s; open $dir/run/report.html: curves, templates, reconstructions, and the segmentation of the test cases"
awk -v first="$first" -v last="$last" 'BEGIN { exit !(first > 0 && last > 0 && last <= first / 2) }' || {
    echo "demo.sh: the loss did not fall to half" >&2
    exit 1
}
