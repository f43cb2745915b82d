/* kernels.h - the rows of bench_step.c that are one op, forward and backward, in the shapes of UniFormer-small on a
   crop of 96^3. */
#ifndef KERNELS_H_INCLUDED
#define KERNELS_H_INCLUDED

#include "tests/bench/rows.h"

typedef enum kind { DEPTHWISE, LINEAR, ATTENTION, MLP, CONV } kind;
/* DEPTHWISE, CONV: a = voxels along an edge, b = channels, d = kernel; LINEAR: a rows, b -> d; ATTENTION: a tokens,
   b heads of d channels; MLP: a rows, b -> d -> b */
typedef struct kernel {
    const char *name;
    kind what;
    int64_t a, b, d;
} kernel;

static const kernel kernels[] = {
    { "depthwise5_64_48", DEPTHWISE, 48, 64, 5 },
    { "depthwise3_64_48", DEPTHWISE, 48, 64, 3 },
    { "depthwise5_128_24", DEPTHWISE, 24, 128, 5 },
    { "depthwise3_320_12", DEPTHWISE, 12, 320, 3 },
    { "linear_110592_64_256", LINEAR, 110592, 64, 256 },
    { "linear_110592_256_64", LINEAR, 110592, 256, 64 },
    { "linear_110592_64_64", LINEAR, 110592, 64, 64 },
    { "linear_13824_128_512", LINEAR, 13824, 128, 512 },
    { "linear_13824_512_128", LINEAR, 13824, 512, 128 },
    { "linear_1728_320_1280", LINEAR, 1728, 320, 1280 },
    { "linear_1728_1280_320", LINEAR, 1728, 1280, 320 },
    { "linear_1728_320_960", LINEAR, 1728, 320, 960 },
    { "linear_216_512_2048", LINEAR, 216, 512, 2048 },
    { "attention_5_1728_64", ATTENTION, 1728, 5, 64 },
    { "mlp_110592_64_256", MLP, 110592, 64, 256 },
    { "mlp_13824_128_512", MLP, 13824, 128, 512 },
    { "mlp_1728_320_1280", MLP, 1728, 320, 1280 },
    { "conv3_64_48", CONV, 48, 64, 3 },
};

static bmvp_tensor *weight(bmvp_ctx *c, int rank, int64_t d0, int64_t d1, int64_t d2, int64_t d3, int64_t d4)
{
    int64_t dim[5], i;
    bmvp_tensor *t;
    dim[0] = d0;
    dim[1] = d1;
    dim[2] = d2;
    dim[3] = d3;
    dim[4] = d4;
    t = bmvp_param(c, "bench", rank, dim);
    for (i = 0; t && i < t->numel; ++i) t->x[i] = (float)(i * 2654435761u % 1000) * 1e-3f - 0.5f;
    return t;
}

static void kernel_operands(bmvp_ctx *c, const kernel *k, bmvp_tensor **p)
{
    const int64_t a = k->a, b = k->b, d = k->d;
    switch (k->what) {
    case DEPTHWISE:
        p[0] = weight(c, 5, 1, a, a, a, b);
        p[1] = weight(c, 4, d, d, d, b, 1);
        p[2] = weight(c, 1, b, 1, 1, 1, 1);
        break;
    case LINEAR:
        p[0] = weight(c, 2, a, b, 1, 1, 1);
        p[1] = weight(c, 2, b, d, 1, 1, 1);
        p[2] = weight(c, 1, d, 1, 1, 1, 1);
        break;
    case ATTENTION:
        p[0] = weight(c, 3, 1, a, 3 * b * d, 1, 1);
        break;
    case MLP:
        p[0] = weight(c, 2, a, b, 1, 1, 1);
        p[1] = weight(c, 2, b, d, 1, 1, 1);
        p[2] = weight(c, 1, d, 1, 1, 1, 1);
        p[3] = weight(c, 2, d, b, 1, 1, 1);
        p[4] = weight(c, 1, b, 1, 1, 1, 1);
        break;
    case CONV:
        p[0] = weight(c, 5, 1, a, a, a, b);
        p[1] = weight(c, 5, d, d, d, b, b);
        p[2] = weight(c, 1, b, 1, 1, 1, 1);
        break;
    }
}

static bmvp_tensor *kernel_call(bmvp_ctx *c, const kernel *k, bmvp_tensor **p)
{
    bmvp_conv_shape same;
    switch (k->what) {
    case DEPTHWISE: return bmvp_depthwise3d(c, p[0], p[1], p[2]);
    case LINEAR: return bmvp_linear(c, p[0], p[1], p[2]);
    case ATTENTION: return bmvp_attention(c, p[0], (int)k->b, 0.125);
    case MLP: return bmvp_mlp(c, p[0], p[1], p[2], p[3], p[4]);
    case CONV:
        same = bmvp_conv_same(1, k->d / 2);
        return bmvp_conv3d(c, p[0], p[1], p[2], &same);
    }
    return NULL;
}

static double kernel_gflop(const kernel *k)
{
    const double a = (double)k->a, b = (double)k->b, d = (double)k->d;
    switch (k->what) {
    case DEPTHWISE: return 2e-9 * a * a * a * b * d * d * d;
    case LINEAR: return 2e-9 * a * b * d;
    case ATTENTION: return 4e-9 * a * a * b * d;
    case MLP: return 4e-9 * a * b * d;
    case CONV: return 2e-9 * a * a * a * b * b * d * d * d;
    }
    return 0;
}

/* One run. The copy of the cotangent that starts a backward from the middle is no part of the kernel: its time is
   measured beside it and taken off. */
static void kernel_run(bmvp_ctx *c, const kernel *k, bmvp_tensor **p, float *cotangent, float *copy, double *seconds)
{
    bmvp_tensor *y;
    volatile float *seen = copy; /* or the compiler leaves the copy out, and its time stays in that of backward */
    double t0, t1, t2, t3;
    int i;
    for (i = 0; i < 5; ++i)
        if (p[i]) bmvp_zero_grad(p[i]);
    bmvp_step_begin(c);
    t0 = now();
    y = kernel_call(c, k, p);
    t1 = now();
    if (!y) return;
    memcpy(copy, cotangent, (size_t)y->numel * sizeof *copy);
    (void)*seen;
    t2 = now();
    bmvp_backward_from(c, y, cotangent);
    t3 = now();
    seconds[0] = t1 - t0;
    seconds[1] = t3 - t2 - (t2 - t1);
}

static void bench_kernel(bench *b, const kernel *k)
{
    bmvp_tensor *p[5] = { NULL, NULL, NULL, NULL, NULL };
    const int64_t last = k->what == LINEAR ? k->d : k->what == ATTENTION ? k->b * k->d : k->b;
    const int64_t rows = k->what == DEPTHWISE || k->what == CONV ? k->a * k->a * k->a : k->a;
    char name[2][64];
    float *cotangent, *copy;
    bmvp_ctx *c;
    result r[2];
    int i, j, reps = b->opt.reps;
    snprintf(name[0], sizeof name[0], "%s_forward", k->name);
    snprintf(name[1], sizeof name[1], "%s_backward", k->name);
    if (!wanted(b, name[0]) && !wanted(b, name[1])) return;
    memset(r, 0, sizeof r);
    c = context(&b->opt, b->opt.threads, 0);
    cotangent = (float *)malloc((size_t)(rows * last) * sizeof *cotangent);
    copy = (float *)calloc((size_t)(rows * last), sizeof *copy);
    if (c && cotangent && copy) {
        double seconds[2] = { 0, 0 };
        int64_t n;
        for (n = 0; n < rows * last; ++n) cotangent[n] = (float)(n % 89) * 0.01f - 0.4f;
        kernel_operands(c, k, p);
        for (i = -2; i < reps && !bmvp_failed(c); ++i) {
            kernel_run(c, k, p, cotangent, copy, seconds);
            for (j = 0; i >= 0 && j < 2; ++j) r[j].second[r[j].n++] = seconds[j];
        }
    }
    if (!broken(b, k->name, c) && r[0].n > 0)
        for (j = 0; j < 2; ++j) {
            r[j].gflop = (j + 1) * kernel_gflop(k);
            r[j].batch = 1;
            if (wanted(b, name[j])) report(b, name[j], &r[j]);
        }
    bmvp_destroy(c);
    free(cotangent);
    free(copy);
}

#endif /* KERNELS_H_INCLUDED */
