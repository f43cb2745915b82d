#!/bin/sh
# demo.sh DIR - the whole way in a few minutes: phantoms -> prepare -> pre-training of the tiny network with all three tasks -> report.
# Prints each command before it runs it; the same commands with other folders work on data of your own.
# Fails when the reconstruction loss of the last steps is more than half of that of the first.
set -e
dir=${1:?usage: demo.sh DIR}
bmvp=${BMVP:-build/bmvp}

if [ -e "$dir" ] && [ ! -f "$dir/.made_by_demo" ]; then
    echo "demo.sh: $dir is there and was not made by this script; name another folder" >&2
    exit 1
fi
if [ ! -x "$bmvp" ]; then
    echo "demo.sh: no program $bmvp; run make first" >&2
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
show "$bmvp" phantom --out "$dir/phantoms" --cases 16 --size 96
show "$bmvp" prepare --data "$dir/phantoms" --out "$dir/prepared" --spacing 2.5
show "$bmvp" pretrain --data "$dir/prepared" --out "$dir/run" --preset fast --network uniformer_tiny --crop 48 --batch 4 \
    --steps 300 --lr 0.002

first=$(reconstruction FIRST)
last=$(reconstruction LAST)
echo
echo "reconstruction loss: $first in the first 20 steps, $last in the last 20"
echo "took $(($(date +%s) - started)) s; open $dir/run/report.html: curves, templates, inputs, masked views and reconstructions"
awk -v first="$first" -v last="$last" 'BEGIN { exit !(first > 0 && last > 0 && last <= first / 2) }' || {
    echo "demo.sh: the loss did not fall to half" >&2
    exit 1
}
