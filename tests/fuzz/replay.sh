#!/bin/sh
# replay.sh - the harnesses of tests/fuzz on the fixtures and on what was found before. Environment: REPLAY (default build/replay).
cd "$(dirname "$0")/../.." || exit 1
# shellcheck source=tests/support/check.sh
. tests/support/check.sh
REPLAY=${REPLAY:-build/replay}
# again HARNESS FILE...
again() { expect 0 "1 passed, 0 failed" "$REPLAY" "$@"; }
again checkpoint tests/fixtures/io/* tests/fuzz/found/checkpoint/*
again json tests/fixtures/nets/*.json tests/fuzz/found/json/* tests/fuzz/found/lists/*
again nifti tests/fixtures/nifti/*.nii* tests/fuzz/found/nifti/*
again meet /dev/null tests/fuzz/seeds/meet/*
again texts /dev/null tests/fuzz/seeds/texts/*
again trainers /dev/null tests/fixtures/nets/uniformer_tiny.safetensors tests/fuzz/found/checkpoint/*.safetensors tests/fuzz/found/trainers/*
again lists tests/fuzz/found/lists/* tests/fuzz/found/json/*
finish
