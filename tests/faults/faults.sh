#!/bin/sh
# faults.sh - what happens to others: a process that is ended at any moment, an allocation that fails, a full disk, a folder that may not
# be written, a log that was cut. Whatever happens, the next start makes what an undisturbed one has made, or an error says why not.
#   faults.sh         a few of each (`make test`)
#   faults.sh long    many of each (`make faults`)
# Environment: BMVP, the program (default build/bmvp); CC, the compiler of the library whose allocations fail; SEED of the moments.
cd "$(dirname "$0")/../.." || exit 1
# shellcheck source=tests/support/check.sh
. tests/support/check.sh
long=${1-} home=$(pwd)
CC=${CC:-cc}
"$CC" -shared -fPIC -O1 tests/faults/oom.c -o "$T/oom.so" -ldl 2>"$T/oom.txt" || rm -f "$T/oom.so"
with_program
trap 'test -z "$pid" || kill -9 "$pid" 2>/dev/null; chmod -R u+rwx "$T"; rm -rf "$T"' EXIT
pid=
many() { if [ -n "$long" ]; then echo "$1"; else echo "$2"; fi; }

# a moment of up to MOST hundredths of a second, from a sequence that SEED begins
draw=${SEED:-1}
moment()
{
    draw=$(((draw * 1103515245 + 12345) % 2147483648))
    printf '%d.%02d' $((draw / 65536 % $1 / 100)) $((draw / 65536 % $1 % 100))
}

expect 0 "3 of 3 cases" bmvp phantom --out phantoms --cases 3 --size 24 --tumours 1 --missing 0 --thick 0 --modalities t1,t2 --seed 7
expect 0 "3 cases (3 new" bmvp prepare --data phantoms --out prepared --spacing 0
tiny="--network uniformer_tiny --crop 16 --batch 1 --seed 5 --threads 1"

# ---- ended at any moment ------------------------------------------------------------------------------------------------------------

pretrain="pretrain --data prepared --preset fast $tiny --steps 6 --save-every 1 --out"
# much validation beside little training: most moments fall into it
finetune="finetune --data prepared --fill zero --train all --val all $tiny --steps 4 --validate-every 1 --save-every 1 --out"
# shellcheck disable=SC2086 # words wanted
pretrain() { "$program" $pretrain "$@"; }
# shellcheck disable=SC2086 # words wanted
finetune() { "$program" $finetune "$@"; }

# killed COMMAND RUN TIMES SIGNAL...: is ended so often, with these signals in turn, and then comes to its end
killed()
{
    command=$1 run=$2 times=$3
    shift 3
    case $command in pretrain) words=$pretrain ;; *) words=$finetune ;; esac
    while [ "$times" -gt 0 ]; do
        times=$((times - 1))
        resume=
        if [ -e "$run/checkpoint.safetensors" ]; then resume=--resume; fi
        # shellcheck disable=SC2086 # words wanted
        "$program" $words "$run" $resume >killed.txt 2>&1 & # not the function: its process would be another shell
        pid=$!
        sleep "$(moment "$(many 400 60)")"
        kill "-$1" $pid 2>/dev/null
        wait $pid 2>/dev/null
        code=$?
        pid=
        case $1,$code in
        *,0 | KILL,137 | TERM,143 | INT,130) ;;
        *) fail "$command: status $code after SIG$1" killed.txt ;;
        esac
        if [ -e "$run/checkpoint.safetensors" ]; then expect 0 "step" bmvp info "$run/checkpoint.safetensors"; fi
        first=$1
        shift
        set -- "$@" "$first"
    done
    resume=
    if [ -e "$run/checkpoint.safetensors" ]; then resume=--resume; fi
    expect 0 "done: $run" $command "$run" $resume
    clean "$run"
}

expect 0 "done" pretrain whole
expect 0 "done" finetune tuned
for k in $(seq "$(many 12 1)"); do
    rm -rf part fine
    killed pretrain part "$(many 8 3)" KILL TERM KILL
    same part/checkpoint.safetensors whole/checkpoint.safetensors
    killed finetune fine "$(many 8 3)" TERM KILL TERM
    same fine/checkpoint.safetensors tuned/checkpoint.safetensors
    same fine/best.safetensors tuned/best.safetensors
    check "the validations of $k" test "$(sed -n 's/.*"val_dice": \([^,]*\).*/\1/p' fine/log.jsonl | sort -u)" = \
        "$(sed -n 's/.*"val_dice": \([^,]*\).*/\1/p' tuned/log.jsonl | sort -u)"
    for n in 1 2; do
        rm -rf again
        "$program" prepare --data phantoms --out again --spacing 0 >killed.txt 2>&1 &
        pid=$!
        sleep "$(moment 15)"
        kill -9 $pid 2>/dev/null
        wait $pid 2>/dev/null
        pid=
        expect 0 "3 cases" bmvp prepare --data phantoms --out again --spacing 0
        clean again
        for case in prepared/*/; do
            for file in "$case"*.nii; do same "$file" "again${file#prepared}"; done
        done
    done
done

# a log that ends in the middle of a line
expect 0 "stopped after step 3" pretrain cut2 --stop-after 3
head -c $(($(bytes cut2/log.jsonl) - 17)) cut2/log.jsonl >torn
cp torn cut2/log.jsonl
expect 0 "done" pretrain cut2 --resume
same cut2/checkpoint.safetensors whole/checkpoint.safetensors
check "a torn line is in the log" sh -c '! grep -qv "}$" cut2/log.jsonl'

# ---- allocations that fail ----------------------------------------------------------------------------------------------------------

# starved NAME STEP COMMAND...: every STEP-th allocation fails in turn: it ends as if nothing had been, or says that memory was short
starved()
{
    name=$1 step=$2
    shift 2
    rm -rf starved
    OOM_COUNT=$T/count LD_PRELOAD=$T/oom.so "$@" >full.txt 2>&1
    n=$(cat count) k=1
    find starved -type f ! -name '.lock' ! -name report.html -exec cksum {} + 2>/dev/null | sort >full
    while [ "$k" -le "$n" ]; do
        rm -rf starved
        OOM_AT=$k LD_PRELOAD=$T/oom.so "$@" >"$out" 2>&1
        code=$?
        find starved -type f ! -name '.lock' ! -name report.html -exec cksum {} + 2>/dev/null | sort >now
        if [ $code -eq 0 ] && ! cmp -s full now; then fail "$name: allocation $k of $n failed without a word" "$out"
        elif [ $code -gt 2 ]; then fail "$name: status $code when allocation $k of $n fails" "$out"
        elif [ $code -gt 0 ] && ! grep -q 'memory' "$out"; then fail "$name: allocation $k of $n: no word of memory" "$out"
        else pass
        fi
        k=$((k + step))
    done
    rm -rf starved
}
if [ ! -e "$T/oom.so" ] || ! LD_PRELOAD=$T/oom.so bmvp --help >/dev/null 2>&1; then
    skip "allocations that fail: no library can be put before the C library's (sanitizers)"
else
    starved prepare "$(many 1 9)" bmvp prepare --data phantoms --out starved --spacing 0 --threads 1
    for seed in 3 8; do
        expect 0 "1 of 1" bmvp phantom --out heads$seed --heads --cases 1 --size 24 --tumours 0 --missing 0 --thick 0 --modalities t1,t2 --seed $seed
    done
    of=heads8/case_0001/t1 # 1700 allocations of a second each, so not all of them
    starved registration "$(many 5 199)" bmvp prepare --data heads3 --out starved --register rigid --template $of.nii.gz \
        --template-brain ${of}_brain_mask.nii.gz --strip --qc --spacing 0 --threads 1
    mkdir starved
    starved predict "$(many 1 97)" bmvp predict --checkpoint tuned/best.safetensors --data phantoms --out starved --threads 1
    # one image, one window: most allocations are those before it
    starved embed "$(many 1 31)" bmvp embed --checkpoint whole/checkpoint.safetensors --data prepared/case_0001/t1.nii --crop 32 --spacing 0 --out starved --threads 1
    if [ -n "$long" ]; then starved info 1 bmvp info tuned/checkpoint.safetensors; fi
fi

# ---- no room, no right --------------------------------------------------------------------------------------------------------------

if [ -e /dev/full ]; then
    for words in "info whole/checkpoint.safetensors" "--help"; do
        # shellcheck disable=SC2086 # words wanted
        bmvp $words >/dev/full 2>"$out"
        judge $? 1 "cannot be written to standard output" "bmvp $words into a full device"
    done
fi
# a limit of the size of files is a full disk that needs no rights to make
# millimetres where voxels are meant, or metres: voxels of 200 mm
mkdir huge huge/a
cp prepared/case_0001/t1.nii huge/a/t1.nii
for at in 80 84 88 280 300 320; do # pixdim and the diagonal of the sform
    printf '\0\0\110\103' | dd of=huge/a/t1.nii bs=1 seek=$at conv=notrunc 2>/dev/null
done
expect 1 "left out: case 'a'|is pixdim in the unit of xyzt_units|0 cases" bmvp prepare --data huge --out huge_out
(ulimit -f 1 && bmvp prepare --data phantoms --out small --spacing 0) >"$out" 2>&1
judge $? 1 "small/" "prepare on a full disk"
clean small
absent small/dataset.json
cp -r whole stays
(ulimit -f 1 && pretrain stays --resume --steps 8 >/dev/null) 2>"$out"
judge $? 1 "bmvp pretrain: " "pretrain on a full disk"
same stays/checkpoint.safetensors whole/checkpoint.safetensors
clean stays
if [ "$(id -u)" -eq 0 ]; then skip "a folder that may not be written: root may write all"
else
    mkdir sealed
    chmod 500 sealed
    expect 1 "sealed" bmvp prepare --data phantoms --out sealed/here --spacing 0
    expect 1 "sealed" pretrain sealed/run
fi

# ---- what once went wrong has a test --------------------------------------------------------------------------------------------------

last=0
while IFS='|' read -r number file words what; do
    case $number in '#'*) continue ;; esac
    number=${number% } file=${file# } words=${words# }
    check "finding $number,${what}: no test of it in ${file% }" grep -qF -- "${words% }" "$home/${file% }"
    if [ "$number" -gt $((last + 1)) ]; then fail "finding $((last + 1)) is not in the list"; fi
    last=$number
done <"$home/tests/faults/findings.txt"
check "all 23 findings of the list" test "$last" -ge 23

finish
