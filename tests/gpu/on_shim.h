/* on_shim.h - what the tests of bmvp_cuda.cu under cuda_shim.h share: the GPU it plays, contexts on it and on the CPU,
   and leaves of random numbers. After bmvp_tensor.h with its implementation. */
#ifndef ON_SHIM_H_INCLUDED
#define ON_SHIM_H_INCLUDED

#include "cuda_shim.h"
#include "tests/support/check.h"
#include <initializer_list>

typedef std::vector<float> floats;

static inline const bmvp_backend *gpu(int device = 0)
{
    bmvp_error err;
    const bmvp_backend *b;
    memset(&err, 0, sizeof err);
    b = bmvp_cuda_backend(device, &err);
    check_report(b != NULL, __FILE__, __LINE__, "%s", err.message);
    return b;
}
/* The same, with tensors of bfloat16 in BMVP_BF16 from `least` numbers on */
static inline const bmvp_backend *gpu_half(int64_t least)
{
    const bmvp_backend *b = gpu();
    ((bmvp_device *)(uintptr_t)b->device)->half_least = least;
    return b;
}
/* b NULL: the CPU's plain loops, which are the definition */
static inline bmvp_ctx *context(const bmvp_backend *b, bmvp_precision precision = BMVP_FP32)
{
    bmvp_config k = bmvp_config_default();
    k.threads = 1;
    k.simd = BMVP_SIMD_PLAIN;
    k.backend = b;
    k.precision = precision;
    return bmvp_create(&k, NULL);
}
static inline void check_context(bmvp_ctx *c)
{
    check_report(!bmvp_failed(c), __FILE__, __LINE__, "%s", bmvp_error_of(c)->message);
}

static inline floats random_floats(int64_t n, bmvp_rng *r)
{
    floats v((size_t)n);
    for (float &x : v) x = 2.0f * bmvp_rng_uniform(r) - 1.0f;
    return v;
}
static inline floats value_of(bmvp_ctx *c, const bmvp_tensor *t)
{
    floats v((size_t)t->numel);
    CHECK(bmvp_read(c, t, v.data()) == BMVP_OK);
    return v;
}

static bmvp_rng leaf_values; /* of the graph that is being built */
/* 1: leaves are numbers of bfloat16, and where the device has such tensors the ops are given those. */
static int half_leaves;
static inline bmvp_tensor *leaf(bmvp_ctx *c, std::initializer_list<int64_t> dim)
{
    floats v = random_floats(bmvpi_numel((int)dim.size(), dim.begin()), &leaf_values);
    if (!half_leaves) return bmvp_leaf(c, (int)dim.size(), dim.begin(), v.data());
    for (float &x : v) x = bmvpi_half_value(bmvpi_half_of(x));
    return bmvp_scale(c, bmvp_leaf(c, (int)dim.size(), dim.begin(), v.data()), 1, 0);
}

#endif /* ON_SHIM_H_INCLUDED */
