#!/bin/sh
# methods.sh - `bmvp pretrain --method NAME` from the outside, for each method of examples/methods: the loss falls, a killed run goes on to
# the same bits with any number of threads, also with another batch, two ranks give nearly the same, its checkpoint starts a fine-tuning, and
# wrong use is refused. A new method is a line of `methods`, and what it alone refuses a case of `refuses`: 15 s of one core at most.
# Environment: BMVP, the program (default build/bmvp); METHODS, which of them (default: all).
cd "$(dirname "$0")/../.." || exit 1
# shellcheck source=tests/support/check.sh
. tests/support/check.sh
program=${BMVP:-build/bmvp}
case $program in /*) ;; *) program=$(pwd)/$program ;; esac
cd "$T" || exit 1
bmvp() { "$program" "$@"; }

# NAME SHARE CONSTANT CROP MORE: the mean loss of steps 51 to 60 is below SHARE of that of the first 10, and below what a network reaches whose
# answer is the same whatever it is shown. CONSTANT is that: grey, of a loss that is the mean square of all that is rebuilt of crops (grey:TERM: of
# that term of it), what one grey for all of them has; a number, 0.8 of it; or - where no number says it. Crops have edge CROP, 16 at least: the
# volumes, whole; MORE: options. mocov3: two ways of 2 T log 8 for eight crops, of eight cases: two of one case are no negatives of each other.
methods=$(cat <<'END'
genesis 0.5 grey 16 --lr 0.02
m3ae 0.2 grey 16
gvsl 0.8 grey:restore 16 --lr 0.003
mae3d 0.6 - 32
simmim 0.6 - 32
mocov3 0.75 1.664 32 --data eight --batch 8 --lr 0.002 --set temperature=0.2,weight_decay=0
swin_ssl 0.8 - 32 --network uniformer_tiny
dae 0.75 - 16 --network uniformer_tiny --batch 8 --lr 0.02
voco 0.5 - 32 --network uniformer_tiny --lr 0.003 --set edge=16,flip_rate=0,turn_rate=0,shift_rate=0
transvw 0.7 - 32 --batch 4 --lr 0.006 --set words=2,nearest=2,apart=12,code_edge=16,code_width=2,code_share=0.15,word_share=0
END
)

# refuses_tokens: of a method on a transformer's tokens
refuses_tokens()
{
    expect 2 "has no tokens to mask or replace|unetr unetr_tiny" learn never --network unet3d_tiny
    expect 2 "crop of 40 voxels|take crop 32 or 48" learn never --crop 40
}

# refuses: wrong use of $method beyond that of all methods
refuses()
{
    case $method in
    genesis) expect 2 "temperature" learn never --set temperature=1 ;;
    gvsl)
        expect 2 "aligns two cases, but there is one" learn never --data one.json
        expect 2 "gvsl needs --network unet3d_gvsl" learn never --network unet3d_tiny
        ;;
    m3ae)
        expect 2 "the data have one, t2: prepare cases with more" learn never --data one.json
        expect 2 "crop 16 must be a multiple of patch 6" learn never --set patch=6
        expect 2 "keeps no patch of a crop of 16: a smaller patch than 16" learn never --set patch=16
        ;;
    mae3d)
        refuses_tokens
        expect 2 "masks 0 of 8 tokens" learn never --set mask_ratio=0.1
        ;;
    mocov3)
        refuses_tokens
        expect 2 "batch of one crop has nothing to be told from|--batch 2" learn never --batch 1
        ;;
    simmim)
        refuses_tokens
        expect 2 "masks none of 8 tokens" learn never --set mask_ratio=0.1
        expect 2 "mask_block 24 must be a multiple of the token's 16 voxels" learn never --set mask_block=24
        ;;
    swin_ssl)
        expect 2 "swin_ssl compares crops of different cases: --batch 2 or more" learn never --batch 1
        expect 2 "two are read: --crop 32" learn never --crop 16
        expect 2 "there are no boxes of 0.05 to 0.01" learn never --set cut_most=0.01
        ;;
    dae)
        expect 2 "dae compares crops of different cases: --batch 2 or more" learn never --batch 1
        expect 2 "no multiple of every 3" learn never --set every=3
        expect 2 "which has no statistics: --crop 64" learn never --network swin_unetr_tiny --crop 32
        ;;
    transvw)
        expect 2 "words of 40 voxels do not fit into a region of 32: --crop 64, or --set edge=0" learn never --set edge=40
        expect 2 "words of 12 voxels are none for unet3d_mg_tiny: --set edge=16" learn never --set edge=12
        expect 2 "no room for 40 words of 16 voxels, 9 apart: --set words=" learn never --set words=40,apart=9
        expect 2 "code_edge 20 must be a multiple of 8" learn never --set code_edge=20
        ;;
    voco)
        expect 2 "crop 32 is not 3 bases: --crop 48" learn never --set bases=3
        expect 2 "bases of 16 voxels are none for swin_unetr_tiny: --crop 128, or --set edge=64" learn never --network swin_unetr_tiny
        ;;
    esac
}

# learn OUT OPTION...: the method on small crops; the options given win
# shellcheck disable=SC2086 # words wanted
learn() { "$program" pretrain --method "$method" --preset fast --data prepared --crop $crop --batch 2 --seed 3 --threads 1 $more --out "$@"; }
# resumed OUT OPTION...
resumed() { "$program" pretrain --resume --out "$@"; }
# loss FILE FROM TO [NAME]: mean loss of lines FROM to TO of a log
loss() { sed -n "$2,$3p" "$1" | sed 's/.*"'"${4:-loss}"'": *\([0-9.e+-]*\).*/\1/' | awk '{ s += $1 } END { printf "%.6f", s / NR }'; }
# grey FOLDER EDGE: variance of the voxels of all images there, each within EDGE^3 voxels, zeros around it: int16 behind 352 bytes
grey()
{
    for f in "$1"/*/[ft]*.nii; do tail -c +353 "$f" | od -An -v -td2 -w2; echo end; done |
        awk -v all=$(($2 * $2 * $2)) '$1 == "end" { ++n; next } { x = $1 / 32767; s += x; q += x * x }
             END { m = s / n / all; printf "%.6f", q / n / all - m * m }'
}

# The loss falls, and a page shows what came back
falls()
{
    expect 0 "usage: bmvp pretrain" bmvp pretrain --method $method --help
    expect 0 "method   $method|done: $method/checkpoint.safetensors" learn $method --steps 60
    check "a line a step" test "$(wc -l <$method/log.jsonl)" -eq 60
    case $method in transvw) first=11 ;; *) first=1 ;; esac # its auto-encoder has learned before
    begin=$(loss $method/log.jsonl $first $((first + 9))) end=$(loss $method/log.jsonl 51 60)
    check "$method: loss $begin at the beginning, $end at the end" awk "BEGIN { exit !($end < $share * $begin) }"
    case $method in mocov3) page="head_width" ;; voco) page="cosines with the crop" ;; transvw) page="a word, rebuilt" ;; *) page="came back" ;; esac # nothing does
    check "$method: no page" grep -q "$page" $method/report.html
    check "$method: report.html explains its figures" explained $method/report.html
    case $constant in
    -) return ;;
    grey*)
        most=$(grey prepared $crop) term=loss${constant#grey}
        end=$(loss $method/log.jsonl 51 60 "$(echo "$term" | tr : _)")
        ;;
    *) most=$(awk "BEGIN { print 0.8 * $constant }") ;;
    esac
    check "$method: loss $end, $most is what a constant has" awk "BEGIN { exit !($end < $most) }"
}

# transvw: the auto-encoder learns, and words are told better than by chance
tells_words()
{
    begin=$(loss $method/log.jsonl 1 3 loss_code) end=$(loss $method/log.jsonl 8 10 loss_code)
    check "$method: the auto-encoder's loss $begin at the beginning, $end at the end" awk "BEGIN { exit !($end < 0.8 * $begin) }"
    word=$(loss $method/log.jsonl 51 60 loss_word)
    check "$method: loss of words $word, log 2 by chance" awk "BEGIN { exit !($word < 0.8 * log(2)) }"
}

# Stopped, killed, gone on with, by 2 and 3 threads: the bits of one run by one thread
goes_on()
{
    expect 0 "stopped after step 2 of 6|--resume" learn broken.$method --steps 6 --stop-after 2 --threads 2
    "$program" pretrain --resume --out broken.$method --threads 3 >"$out" 2>&1 & # the program itself, which is killed
    pid=$!
    while [ "$(wc -l <broken.$method/log.jsonl)" -lt 4 ] && kill -0 $pid 2>/dev/null; do sleep 0.02; done
    kill -9 $pid 2>/dev/null
    wait $pid 2>/dev/null
    expect 0 "method   $method|done" resumed broken.$method --threads 3
    expect 0 "done" learn whole.$method --steps 6
    same broken.$method/checkpoint.safetensors whole.$method/checkpoint.safetensors
    expect 0 "changed  batch 3 (the run was at|done" resumed broken.$method --threads 1 --batch 3 --steps 8
    check "$method: two steps more" test "$(wc -l <broken.$method/log.jsonl)" -eq 8
}

# Two ranks, a case each, give what one gives but for rounding
ranks()
{
    pids=
    new_port
    for rank in 0 1; do
        RANK=$rank LOCAL_RANK=$rank WORLD_SIZE=2 MASTER_ADDR=127.0.0.1 MASTER_PORT=$port BMVP_TIMEOUT=60 \
            learn ranks.$method --steps 6 >"said.$rank" 2>&1 &
        pids="$pids $!"
    done
    for pid in $pids; do wait "$pid"; done
    check "$method: two ranks end" test "$(wc -l <ranks.$method/log.jsonl)" -eq 6
    # Adam makes a step of each gradient, however small: its rounding grows tenfold a step where rates are as large as here
    for of in "3 1e-4" "6 1e-2"; do
        one=$(loss whole.$method/log.jsonl "${of% *}" "${of% *}") two=$(loss ranks.$method/log.jsonl "${of% *}" "${of% *}")
        check "$method: step ${of% *}: loss $one of one rank, $two of two" \
            awk "BEGIN { d = $one - $two; exit !(d * d <= ($one * ${of#* }) ^ 2) }"
    done
}

# The methods of Swin-UNETR on it, a step of each: fine-tuning takes the encoder, of dae the decoder, too, and of voco not the slow copy. TAKEN
# tensors, ADAPTED to more modalities, others FRESH; one FRESH by NAME. They have no smaller crop, so each is a few seconds.
on_swin()
{
    while read -r method taken adapted fresh name more <&4; do
        case " ${METHODS:-$method} " in *" $method "*) ;; *) continue ;; esac
        expect 0 "network  swin_unetr_tiny|done" learn swin.$method --network swin_unetr_tiny --steps 1
        expect 0 "network  swin_unetr_tiny|not taken:|$taken tensors taken, $adapted adapted, $fresh fresh|adapted  swinViT.patch_embed.proj|fresh    $name|done" \
            bmvp finetune --data prepared --init swin.$method/checkpoint.safetensors --crop 64 --batch 1 --steps 1 --set copies=0 \
            --fill $fill --allow-absent --out on_swin.$method --threads 1
        case $method in voco) check "$method: its slow copy" grep -q "not taken: 'teacher'" "$out" ;; esac
    done 4<<END
swin_ssl 124 2 33 encoder2.layer.conv1
dae 157 1 5 encoder1.layer.conv1
voco 140 2 25 decoder5.transp_conv --batch 1 --set crops=1
END
}

expect 0 "4 of 4 cases" bmvp phantom --out phantoms --cases 4 --size 24 --tumours 1 --seed 7
expect 0 "4 cases (4 new" bmvp prepare --data phantoms --out prepared --spacing 0
expect 0 "8 of 8 cases" bmvp phantom --out phantoms.8 --cases 8 --size 24 --tumours 1 --seed 7
expect 0 "8 cases (8 new" bmvp prepare --data phantoms.8 --out eight --spacing 0
echo '{"cases":[{"id":"one","images":{"t2":"prepared/case_0001/t2.nii"}}]}' >one.json
expect 2 "--method nothing|there are brainmvp" bmvp pretrain --method nothing --data prepared --out never
for method in $(echo "$methods" | cut -d ' ' -f 1); do check "$method is not listed" grep -q -w "$method" "$out"; done
absent never

# shellcheck disable=SC2086 # names of methods are words
while read -r method share constant crop more <&3; do
    case " ${METHODS:-$method} " in *" $method "*) ;; *) continue ;; esac
    falls
    if [ "$method" = transvw ]; then tells_words; fi
    goes_on
    ranks
    expect 2 "already holds a run" learn $method --steps 8
    expect 2 "--network nothing" learn never --network nothing
    expect 2 "crop" learn never --crop 8
    refuses
    absent never
    fill=zero
    if [ "$method" = m3ae ]; then fill=template; fi # missing modalities from its learned image
    # its checkpoint starts a fine-tuning, and is not taken for a run of another method
    expect 0 "$method|tensors taken|done" bmvp finetune --data prepared --init $method/checkpoint.safetensors --crop $crop --batch 1 --steps 1 \
        --fill $fill --allow-absent --out tuned.$method --threads 1
    expect 2 "is not a run of BrainMVP" bmvp pretrain --method brainmvp --data prepared --out $method --resume
done 3<<END
$methods
END
crop=64 fill=zero
on_swin
finish
