#!/bin/sh
# course.sh - the lessons say what they promise: their numbers are looked at
. tests/support/check.sh
here=$PWD

# The method by hand gives the library's losses to the last digit
build/03_method >"$T/method"
check "03 prints two rows of losses" test "$(grep -c 'cross-modal 0\.[0-9]\{7\}  distillation 0\.[0-9]\{7\}  contrast [0-9]\.[0-9]\{7\}$' "$T/method")" = 2
check "03 by hand agrees with bmvp_ssl_step to the last digit" test "$(sed 's/^[a-z_ ]*  cross/cross/' "$T/method" | sort -u | wc -l)" = 1

# A method of one's own learns, and goes on from a checkpoint with the same numbers
(cd "$T" && "$here/build/07_own_method") >"$T/own"
check "07 takes 20 steps" test "$(grep -c '^step ' "$T/own")" = 20
check "07 goes on from a checkpoint with the same digits" awk '/^step/ { if ($4 != $8) bad = 1 } END { exit bad }' "$T/own"
check "07 learns: the last loss is below a third of the first" awk '/^step  1/ { a = $4 } /^step 20/ { b = $4 } END { exit !(a > 0 && b > 0 && b < a / 3) }' "$T/own"
check "07 is at most 80 lines" test "$(wc -l <examples/07_own_method.c)" -le 80

# A network of one's own learns, and is what it was when it is read back
build/06_own_network "$T" >"$T/network"
check "06 learns: the last Dice loss is below 0.2" awk '/^step 59/ { ok = $5 < 0.2 } END { exit !ok }' "$T/network"
check "06 reads back what it saved" grep -q '^read back: the same logits$' "$T/network"
check "06 writes a .pt" test -s "$T/own_network.pt"
check "05 is at most 40 lines" test "$(wc -l <examples/05_segment.c)" -le 40
check "06 is at most 200 lines" test "$(wc -l <examples/06_own_network.c)" -le 200
finish
