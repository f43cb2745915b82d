/* level.c - a program's contexts on another instruction set and number of threads than they ask for, without a change
   in the program: compiled with -Dbmvp_create=level_create. TEST_LEVEL: plain, vector, avx2, avx512; TEST_THREADS. */
#include "bmvp_tensor.h"
#include <stdlib.h>
#include <string.h>

bmvp_ctx *level_create(const bmvp_config *cfg, bmvp_error *err);

bmvp_ctx *level_create(const bmvp_config *cfg, bmvp_error *err)
{
    const char *level = getenv("TEST_LEVEL"), *threads = getenv("TEST_THREADS");
    bmvp_config k = cfg ? *cfg : bmvp_config_default();
    int i;
    for (i = BMVP_SIMD_PLAIN; level && i <= BMVP_SIMD_AVX512; ++i)
        if (strcmp(level, bmvp_simd_text((bmvp_simd)i)) == 0) k.simd = (bmvp_simd)i;
    if (threads) k.threads = atoi(threads);
    return bmvp_create(&k, err);
}
