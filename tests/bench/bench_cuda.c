/* bench_cuda.c - the heavy kernels of bmvp_cuda.cu over the networks' shapes, on the GPU that is there.

   make build/bench_cuda      build/bench_cuda: the whole table; build/bench_cuda WORD: only rows whose name holds the
   word

   A row is one op's forward, or its gradient of x or of the weights alone, with everything it launches. Each of 20
   samples is the mean of 5 calls by the host's clock after 3 calls that are not counted; the median is printed. TFLOP/s
   counts the operations that the result needs, two for a multiply-add; GB/s counts each operand and result once, so it
   says how far a kernel bound by memory is from a plain copy. Gradients are added to old ones, as in training with
   accumulation. Values are random: a GPU's clock depends on them. */
#define BMVP_IMPLEMENTATION
#include "bmvp_tensor.h"
#include "tests/bench/gpu.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { SAMPLES = 20, CALLS = 5, X = 1, W = 2 }; /* what has a gradient */

typedef struct row {
    const char *name;
    bmvp_tensor *(*build)(bmvp_ctx *c, const struct row *r, int wants);
    int64_t n, side, in, out; /* samples; voxels along an axis, or tokens; channels */
    int kernel;               /* or heads */
} row;

static float *values; /* random, as many as the largest operand */
static int64_t n_values;

static void upload(bmvp_ctx *c, const bmvp_tensor *t, float *to) /* random values for all of t's, or its gradient's */
{
    int64_t i;
    for (i = 0; i < t->numel; i += n_values) {
        const int64_t n = t->numel - i < n_values ? t->numel - i : n_values;
        if (t->half) bmvpi_halves_write(c, to + i / 2, values, n);
        else bmvpi_values_write(c, to + i, values, n);
    }
}
static bmvp_tensor *operand(bmvp_ctx *c, int rank, const int64_t *dim, int wanted)
{
    bmvp_tensor *t = wanted ? bmvp_leaf(c, rank, dim, NULL) : bmvp_input(c, rank, dim, NULL);
    if (t) upload(c, t, t->x);
    return t;
}
/* The same as an op before leaves it: of bfloat16 in that precision */
static bmvp_tensor *activation(bmvp_ctx *c, int rank, const int64_t *dim, int wanted)
{
    return bmvp_scale(c, operand(c, rank, dim, wanted), 1, 0);
}
static bmvp_tensor *volume(bmvp_ctx *c, const row *r, int wants)
{
    const int64_t dim[5] = { r->n, r->side, r->side, r->side, r->in };
    return activation(c, 5, dim, wants & X);
}
static bmvp_tensor *conv(bmvp_ctx *c, const row *r, int wants)
{
    const int64_t dim[5] = { r->kernel, r->kernel, r->kernel, r->in, r->out };
    const bmvp_conv_shape shape = bmvp_conv_same(1, r->kernel / 2);
    return bmvp_conv3d(c, volume(c, r, wants), operand(c, 5, dim, wants & W), NULL, &shape);
}
static bmvp_tensor *transposed(bmvp_ctx *c, const row *r, int wants)
{
    const int64_t dim[5] = { r->in, r->kernel, r->kernel, r->kernel, r->out };
    return bmvp_conv_transpose3d(c, volume(c, r, wants), operand(c, 5, dim, wants & W), NULL);
}
static bmvp_tensor *depthwise(bmvp_ctx *c, const row *r, int wants)
{
    const int64_t dim[4] = { r->kernel, r->kernel, r->kernel, r->in };
    return bmvp_depthwise3d(c, volume(c, r, wants), operand(c, 4, dim, wants & W), NULL);
}
static bmvp_tensor *attention(bmvp_ctx *c, const row *r, int wants)
{
    const int64_t dim[3] = { r->n, r->side, 3 * r->in };
    return bmvp_attention(c, activation(c, 3, dim, wants & X), r->kernel, 0.125);
}
static bmvp_tensor *mlp(bmvp_ctx *c, const row *r, int wants)
{
    const int64_t x[2] = { r->n * r->side, r->in }, w1[2] = { r->in, r->out }, w2[2] = { r->out, r->in };
    return bmvp_mlp(c, activation(c, 2, x, wants & X), operand(c, 2, w1, wants & W), operand(c, 1, w1 + 1, 0),
                    operand(c, 2, w2, wants & W), operand(c, 1, w2 + 1, 0));
}

/* A pre-training step of UniFormer-small has 6 samples; UNET3D and UniUnet have the dense kernels. */
static const row rows[] = {
    { "depthwise 3^3, stage 1", depthwise, 6, 48, 64, 64, 3 },
    { "depthwise 5^3, stage 1", depthwise, 6, 48, 64, 64, 5 },
    { "depthwise 3^3, stage 2", depthwise, 6, 24, 128, 128, 3 },
    { "depthwise 5^3, stage 2", depthwise, 6, 24, 128, 128, 5 },
    { "depthwise 3^3, stage 3", depthwise, 6, 12, 320, 320, 3 },
    { "depthwise 3^3, stage 4", depthwise, 6, 6, 512, 512, 3 },
    { "conv 3^3 64 -> 64", conv, 2, 96, 64, 64, 3 },
    { "conv 3^3 32 -> 32", conv, 2, 96, 32, 32, 3 },
    { "conv 3^3 128 -> 64", conv, 2, 96, 128, 64, 3 },
    { "conv 3^3 128 -> 128", conv, 2, 48, 128, 128, 3 },
    { "conv 3^3 256 -> 256", conv, 6, 12, 256, 256, 3 },
    { "conv 1^3 64 -> 64", conv, 6, 48, 64, 64, 1 },
    { "conv transposed 2^3 64 -> 64", transposed, 6, 48, 64, 64, 2 },
    { "attention, stage 3", attention, 6, 1728, 320, 320, 5 },
    { "attention, stage 4", attention, 6, 216, 512, 512, 8 },
    { "mlp, stage 1", mlp, 6, 48 * 48 * 48, 64, 256, 0 },
    { "mlp, stage 2", mlp, 6, 24 * 24 * 24, 128, 512, 0 },
    { "mlp, stage 3", mlp, 6, 1728, 320, 1280, 0 },
    { "mlp, stage 4", mlp, 6, 216, 512, 2048, 0 },
};

/* Operations of forward, and bytes of its operands and result */
static double operations(const row *r, const bmvp_tensor *y)
{
    const double side = (double)r->side, voxels = side * side * side * (double)r->n,
                 taps = (double)(r->kernel * r->kernel * r->kernel);
    if (r->build == attention) return 4 * (double)r->n * side * side * (double)r->in;
    if (r->build == mlp) return 4 * (double)y->numel * (double)r->out;
    return 2 * voxels * taps * (double)r->out * (r->build == depthwise ? 1.0 : (double)r->in);
}
static double bytes(const bmvp_tensor *y)
{
    double n = (double)bmvpi_bytes_of(y);
    int i;
    for (i = 0; i < y->n_src; ++i) if (y->src[i]) n += (double)bmvpi_bytes_of(y->src[i]);
    return n;
}

static int ascending(const void *a, const void *b)
{
    const float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}
/* Median milliseconds of a call, by the host's clock around CALLS of them: the backend's stream does not wait for
   events of the default one. Launches run ahead of the GPU; those of the first call are in the time. */
static double measure(bmvp_ctx *c, bmvp_tensor *y, int backward)
{
    float ms[SAMPLES];
    int i, k;
    for (i = 0; i < 3; ++i) bmvpi_call(c, y, backward);
    for (i = 0; i < SAMPLES; ++i) {
        struct timespec from, to;
        if (cudaDeviceSynchronize() != cudaSuccess) return 0;
        (void)clock_gettime(CLOCK_MONOTONIC, &from);
        for (k = 0; k < CALLS; ++k) bmvpi_call(c, y, backward);
        if (cudaDeviceSynchronize() != cudaSuccess) return 0;
        (void)clock_gettime(CLOCK_MONOTONIC, &to);
        ms[i] = (float)(1e3 * (double)(to.tv_sec - from.tv_sec) + 1e-6 * (double)(to.tv_nsec - from.tv_nsec));
    }
    qsort(ms, SAMPLES, sizeof *ms, ascending);
    return (double)ms[SAMPLES / 2] / CALLS;
}

/* wants 0: forward. Returns 0 when the context has failed. */
static int run(const bmvp_backend *gpu, const row *r, int wants, bmvp_precision precision)
{
    static const char *const pass[] = { "forward", "gradient of x", "gradient of weights" };
    bmvp_config k = bmvp_config_default();
    bmvp_error err;
    bmvp_ctx *c;
    bmvp_tensor *y;
    memset(&err, 0, sizeof err);
    k.backend = gpu;
    k.precision = precision;
    c = bmvp_create(&k, &err);
    if (!c) return 0;
    y = r->build(c, r, wants);
    if (y && wants) {
        int old;
        float *g = bmvp_kernel_grad(c, y, &old);
        if (g) upload(c, y, g);
    }
    if (y) {
        const double ms = measure(c, y, wants != 0),
                     flop = operations(r, y) * (r->build == attention && wants ? 2.5 : 1.0);
        if (ms > 0 && !bmvp_failed(c))
            printf("| %s | %lld x %lld%s | %s | %s | %.3f | %.1f | %.0f |\n", r->name, (long long)r->n,
                   (long long)r->side, r->build == attention || r->build == mlp ? " tokens" : "^3", pass[wants],
                   bmvp_precision_text(precision), ms, flop / ms * 1e-9, bytes(y) / ms * 1e-6);
    }
    if (bmvp_failed(c)) fprintf(stderr, "bench_cuda: %s: %s\n", r->name, bmvp_error_of(c)->message);
    bmvp_destroy(c);
    return 1;
}

static void describe(void)
{
    const time_t now = time(NULL);
    char date[32] = "", text[512];
    gpu_text(text, sizeof text);
    (void)strftime(date, sizeof date, "%Y-%m-%d", gmtime(&now));
    printf("%s, %s\n\n", date, text);
    printf(
        "| kernel | samples and size | pass | precision | ms | TFLOP/s | GB/s |\n|---|---|---|---|---:|---:|---:|\n");
}

int main(int argc, char **argv)
{
    static const bmvp_precision precisions[] = { BMVP_FP32, BMVP_TF32, BMVP_BF16 };
    const bmvp_backend *gpu;
    bmvp_error err;
    size_t i, p;
    int64_t k;
    uint32_t state = 1;
    memset(&err, 0, sizeof err);
    gpu = bmvp_cuda_backend(0, &err);
    if (!gpu) {
        fprintf(stderr, "bench_cuda: %s\n", err.message);
        return 1;
    }
    n_values = 1 << 24;
    values = (float *)malloc((size_t)n_values * sizeof *values);
    if (!values) return 1;
    for (k = 0; k < n_values; ++k) values[k] = (float)(int32_t)(state = state * 1664525u + 1013904223u) / 2147483648.0f;
    describe();
    for (i = 0; i < sizeof rows / sizeof *rows; ++i) {
        if (argc > 1 && !strstr(rows[i].name, argv[1])) continue;
        for (p = 0; p < sizeof precisions / sizeof *precisions; ++p) {
            const int most = rows[i].build == attention ? X : W;
            int wants;
            for (wants = 0; wants <= most; ++wants) if (!run(gpu, &rows[i], wants, precisions[p])) return 1;
        }
    }
    free(values);
    bmvp_cuda_release(gpu);
    return 0;
}
