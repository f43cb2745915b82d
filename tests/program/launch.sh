#!/bin/sh
# launch.sh - ranks as launchers start them: by hand with the variables of torchrun and srun, by mpirun over TCP and over MPI, and on two hosts,
# played by network namespaces, between which the cable is pulled. What the ranks do is in test_ranks.c.
# Environment: CC; TEST_RANKS, the program (default build/test_ranks).
cd "$(dirname "$0")/../.." || exit 1
# shellcheck source=tests/support/check.sh
. tests/support/check.sh
program=${TEST_RANKS:-build/test_ranks}
new_port
cd "$(dirname "$program")" || exit 1
program=$(pwd)/$(basename "$program")
cd - >/dev/null || exit 1

# in_parallel STATUS TEXTS COMMAND1 COMMAND2: both commands (words) at once, rank 0 in front; the texts are in what each says
in_parallel()
{
    # shellcheck disable=SC2086 # words wanted
    env $3 >"$T/zero" 2>&1 &
    # shellcheck disable=SC2086
    env $4 >"$T/one" 2>&1
    code=$?
    cp "$T/one" "$out"
    judge $code "$1" "$2" "rank 1: $4"
    wait $!
    code=$?
    cp "$T/zero" "$out"
    judge $code "$1" "$2" "rank 0: $3"
}

# ---- one host --------------------------------------------------------------------------------------------------------------------

expect 0 "rank 0 of 1 over TCP: right" env "$program" as-rank
torch="WORLD_SIZE=2 MASTER_ADDR=localhost MASTER_PORT=$port TORCHELASTIC_RUN_ID=none"
in_parallel 0 " of 2 over TCP: right|all_gather of 40 bytes where rank 0 calls all_reduce" \
    "$torch RANK=0 LOCAL_RANK=0 $program as-rank" "$torch RANK=1 LOCAL_RANK=1 $program as-rank"
slurm="SLURM_NTASKS=2 SLURM_JOB_NODELIST=127.0.0.[1-2] SLURM_JOB_ID=$$"
in_parallel 0 " of 2 over TCP: right" \
    "$slurm SLURM_PROCID=0 SLURM_LOCALID=0 $program as-rank" "$slurm SLURM_PROCID=1 SLURM_LOCALID=1 $program as-rank"
expect 1 "RANK=2 with WORLD_SIZE=2" env RANK=2 WORLD_SIZE=2 "$program" as-rank
# shellcheck disable=SC2086 # words wanted
expect 1 "rank 1 of 2 did not come within 1 s" env $torch RANK=0 BMVP_TIMEOUT=1 "$program" as-rank
# shellcheck disable=SC2086
expect 1 "rank 1 did not reach rank 0 at localhost port $port within 1 s" env $torch RANK=1 BMVP_TIMEOUT=1 "$program" as-rank

if ! command -v torchrun >/dev/null 2>&1; then
    skip "torchrun is not installed"
else
    expect 0 "rank 0 of 2 over TCP: right|rank 1 of 2 over TCP: right" torchrun --standalone --no-python --nproc-per-node=2 "$program" as-rank
fi

# ---- mpirun ----------------------------------------------------------------------------------------------------------------------

# ranks N PROGRAM: started by mpirun; as root it wants to be told that this is meant
ranks() { OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 mpirun --oversubscribe -np "$1" "$2" as-rank; }
if ! command -v mpirun >/dev/null 2>&1; then
    skip "mpirun is not installed"
else
    expect 0 "rank 0 of 3 over TCP: right|rank 1 of 3 over TCP: right|rank 2 of 3 over TCP: right" ranks 3 "$program"
    if ! command -v mpicc >/dev/null 2>&1; then
        skip "mpicc is not installed"
    else
        printf '#define BMVP_IMPLEMENTATION\n#include "bmvp_tensor.h"\n' >"$T/library.c"
        sources=
        for f in launch sockets rendezvous star tcp mpi queue join; do sources="$sources examples/bmvp/ranks/$f.c"; done
        # shellcheck disable=SC2086 # words wanted
        silent "make with MPI" mpicc -std=c99 -O1 -Wall -Wextra -Wpedantic -Wshadow -Wconversion -DPROGRAM_MPI -I. tests/program/test_ranks.c $sources \
            "$T/library.c" -o "$T/with_mpi" -lm -lpthread
        for n in 1 2 3; do
            want=
            for r in $(seq 0 $((n - 1))); do want="${want:+$want|}rank $r of $n over MPI: right"; done
            expect 0 "$want" ranks $n "$T/with_mpi"
        done
    fi
fi

# ---- two hosts -------------------------------------------------------------------------------------------------------------------

a=bmvp$$a b=bmvp$$b
# hosts: two namespaces joined by a cable
hosts()
{
    ip netns add "$a" && ip netns add "$b" && ip link add "$a" netns "$a" type veth peer name "$b" netns "$b" || return 1
    for n in "$a 1" "$b 2"; do
        # shellcheck disable=SC2086 # words wanted
        set -- $n
        ip -n "$1" link set lo up && ip -n "$1" link set "$1" up && ip -n "$1" addr add "192.0.2.$2/24" dev "$1" || return 1
        ip -n "$1" addr add "fd00:192::$2/64" dev "$1" nodad 2>/dev/null
    done
}
no_hosts() { for n in "$a" "$b"; do ip netns del "$n" 2>/dev/null; done; }
trap 'no_hosts; chmod -R u+rwx "$T"; rm -rf "$T"' EXIT

# on HOST RANK ADDRESS ACTION: words that start a rank there
on() { echo "WORLD_SIZE=2 MASTER_PORT=29500 MASTER_ADDR=$3 RANK=$2 ip netns exec $1 $program $4"; }

if [ "$(id -u)" != 0 ] || ! command -v ip >/dev/null 2>&1 || ! hosts >/dev/null 2>&1; then
    skip "two hosts: needs root and network namespaces"
else
    in_parallel 0 " of 2 over TCP: right" "$(on "$a" 0 192.0.2.1 as-rank)" "$(on "$b" 1 192.0.2.1 as-rank)"
    if ip -n "$a" addr | grep -q fd00:192::1; then
        in_parallel 0 " of 2 over TCP: right" "$(on "$a" 0 fd00:192::1 as-rank)" "$(on "$b" 1 fd00:192::1 as-rank)"
    fi
    # listens where it was told to, and nowhere else
    # shellcheck disable=SC2046 # words wanted
    env BMVP_TIMEOUT=1 $(on "$a" 0 192.0.2.1 as-rank) >"$T/zero" 2>&1 &
    sleep 0.4
    check "rank 0 listens at its address only" test "$(ip netns exec "$a" ss -Hltn 2>/dev/null | awk '{ print $4 }')" = 192.0.2.1:29500
    wait $!
    (
        sleep 1.5
        ip -n "$b" link set "$b" down
    ) &
    in_parallel 0 " of 2 over TCP: right|has given no sign of life for 8 s" \
        "$(on "$a" 0 192.0.2.1 until-failure)" "$(on "$b" 1 192.0.2.1 until-failure)"
fi

finish
