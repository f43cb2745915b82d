#!/bin/sh
# demo.sh DIR - phantoms, preparation, pre-training of the tiny network on all three tasks, report; under three minutes on two cores
set -eu
dir=${1:-demo}
bmvp=${BMVP:-build/bmvp}
show() { echo "\$ $*"; "$@"; echo; }

if [ -e "$dir" ] && [ ! -e "$dir/.bmvp-demo" ]; then
    echo "demo: $dir exists and is not an earlier demo; remove it or name another folder: sh examples/demo.sh DIR" >&2
    exit 1
fi
rm -rf "$dir"
mkdir -p "$dir"
touch "$dir/.bmvp-demo"

show "$bmvp" phantom --out "$dir/phantoms" --cases 16 --size 96 --seed 1
show "$bmvp" prepare --data "$dir/phantoms" --out "$dir/prepared" --spacing 2.5
show "$bmvp" pretrain --data "$dir/prepared" --out "$dir/run" --preset fast --network uniformer_tiny --crop 48 --batch 4 \
    --steps 300 --lr 0.002

awk -F'"loss_cmr": |, "loss_md": |, "loss_cl": ' '{ cmr[NR] = $2; md[NR] = $3 }
    END { n = NR < 20 ? int(NR / 2) : 10
          for (i = 1; i <= n; i++) { a += cmr[i] / n; b += cmr[NR - n + i] / n; c += md[i] / n; d += md[NR - n + i] / n }
          printf "reconstruction loss, mean of the first and the last %d steps: cross-modal %.4f -> %.4f, distillation %.4f -> %.4f\n", n, a, b, c, d
          if (!(b <= a / 2 && d <= c / 2)) { print "demo: the losses did not halve" > "/dev/stderr"; exit 1 } }' "$dir/run/log.jsonl"
echo "open $dir/run/report.html in a browser: curves, templates, reconstructions"
