/* small.h - small volumes and settings for tests of bmvp_ssl.h, and masks counted. */
#ifndef BMVP_TEST_SMALL_H
#define BMVP_TEST_SMALL_H

#include "bmvp_tensor.h"
#include "bmvp_nn.h"
#include "bmvp_ssl.h"
#include "tests/support/check.h"
#include "tests/support/context.h"
#include "tests/support/formula.h"

static inline int is_nan(double v) { return v != v; }

static inline float *floats(int64_t n)
{
    float *p = (float *)calloc((size_t)n, sizeof *p);
    CHECK(p != NULL);
    return p;
}

static inline bmvp_ssl_config preset(const char *name)
{
    bmvp_ssl_config k;
    memset(&k, 0, sizeof k);
    CHECK(bmvp_ssl_preset(name, &k));
    CHECK(strcmp(k.preset, name) == 0);
    return k;
}

static inline int64_t count_ones(const float *m, int64_t n)
{
    int64_t i, ones = 0;
    for (i = 0; i < n; ++i) {
        if (m[i] != 0.0f && m[i] != 1.0f) return -1;
        ones += m[i] == 1.0f;
    }
    return ones;
}

/* Kept blocks; -1 when a block is neither kept nor masked as a whole. */
static inline int64_t kept_blocks(const float *m, const int64_t d[3], int64_t r)
{
    int64_t kept = 0, a, b, c, z, y, x;
    for (a = 0; a < d[0]; a += r)
        for (b = 0; b < d[1]; b += r)
            for (c = 0; c < d[2]; c += r) {
                const float first = m[(a * d[1] + b) * d[2] + c];
                for (z = a; z < a + r && z < d[0]; ++z)
                    for (y = b; y < b + r && y < d[1]; ++y)
                        for (x = c; x < c + r && x < d[2]; ++x)
                            if (m[(z * d[1] + y) * d[2] + x] != first) return -1;
                kept += first == 0.0f;
            }
    return kept;
}

#endif /* BMVP_TEST_SMALL_H */
