/* test_cuda.cpp - bmvp_cuda.cu under tests/gpu/cuda_shim.h against the CPU: every op of the list on its samples and on
   awkward shapes, forward and backward, with new and with accumulated gradients and several orders of the scheduler;
   errors; and that the shim finds what it promises to find. */
#define BMVP_IMPLEMENTATION
#define BMVP_NO_SIMD /* the plain loops are the definition */
#include "bmvp_tensor.h"
#include "on_shim.h"
#include <string>
#include <sys/wait.h>

/* ---- ops --------------------------------------------------------------------------------------------------------- */

typedef std::function<bmvp_tensor *(bmvp_ctx *)> builder;
struct named { std::string name; floats v; };

/* The leaves of an op's sample have no values yet: random ones, and the tape once more. What an add_into took the
   place of lies there again meanwhile. */
static void place_values(bmvp_ctx *c, int there)
{
    for (int64_t i = 0; i < c->n_step; ++i) {
        bmvp_tensor *t = c->step[i];
        if (t->lies_in == BMVPI_TAKEN) t->src[1]->x = there ? t->x : NULL;
    }
}
static void run_sample(bmvp_ctx *c)
{
    place_values(c, 1);
    for (int64_t i = 0; i < c->n_step; ++i) {
        bmvp_tensor *t = c->step[i];
        if (t->op < 0 && t->wants_grad) bmvp_write(c, t, random_floats(t->numel, &leaf_values).data());
        if (t->op >= 0 && t->lies_in != BMVPI_SHARED) bmvpi_call(c, t, 0);
    }
    place_values(c, 0);
}

/* NaN before backward, where there is such a value: bit i of `what`: operand i of y; BMVP_READS_OUT: y itself */
static void spoil(bmvp_ctx *c, bmvp_tensor *y, int what)
{
    for (int bit = 0; bit <= BMVP_MAX_SRC; ++bit) {
        bmvp_tensor *t = bit == BMVP_MAX_SRC ? y : bit < y->n_src ? y->src[bit] : NULL;
        if (what >> bit & 1 && t) bmvp_write(c, t, floats((size_t)t->numel, NAN).data());
    }
}

/* Builds the graph on random leaves, runs its backward from a random cotangent. add: the leaves have gradients
   already. What comes out: the value, every leaf's gradient, every buffer. */
static std::vector<named> run_graph(const bmvp_backend *b, const builder &build, int sample, uint64_t seed, int add,
                                    bmvp_precision precision = BMVP_FP32, int spoilt = 0)
{
    bmvp_ctx *c = context(b, precision);
    bmvp_rng r = bmvp_rng_make(seed, 1, 0, 0);
    std::vector<named> out;
    bmvp_tensor *y;
    c->min_chunk = 1; /* tensors of their own pages: the shim sees where they end */
    leaf_values = bmvp_rng_make(seed, 2, 0, 0);
    y = build(c);
    if (y && sample) run_sample(c);
    for (int64_t i = 0; y && add && i < c->n_step; ++i) {
        bmvp_tensor *t = c->step[i];
        int old;
        if (t->op < 0 && t->wants_grad)
            bmvpi_values_write(c, bmvp_kernel_grad(c, t, &old), random_floats(t->numel, &r).data(), t->numel);
    }
    if (y) out.push_back(named{ "y", value_of(c, y) });
    if (y) spoil(c, y, spoilt);
    if (y && y->wants_grad) bmvp_backward_from(c, y, random_floats(y->numel, &r).data());
    for (int64_t i = 0; y && i < c->n_step; ++i) {
        const bmvp_tensor *t = c->step[i];
        floats g((size_t)t->numel);
        if (t->op >= 0 || !bmvp_has_grad(t)) continue;
        CHECK(bmvp_read_grad(c, t, g.data()) == BMVP_OK);
        out.push_back(named{ "gradient of leaf " + std::to_string(i), g });
    }
    for (int64_t i = 0; i < c->n_lasting; ++i)
        out.push_back(named{ "buffer " + std::to_string(i), value_of(c, c->lasting[i]) });
    check_context(c);
    bmvp_destroy(c);
    return out;
}

static void compare(const std::vector<named> &got, const std::vector<named> &want, double tol)
{
    CHECK(got.size() == want.size() && !want.empty());
    for (size_t i = 0; i < got.size() && i < want.size(); ++i) {
        CHECK(got[i].v.size() == want[i].v.size());
        CHECK_CLOSE(want[i].name.c_str(), got[i].v.data(), want[i].v.data(), (int64_t)want[i].v.size(), tol);
    }
}

/* The scheduler's orders that a graph is run in: SHIM_ORDERS of the environment (1: sanitizers look at memory, not at
   order), or 3 */
static uint64_t shim_orders(void)
{
    const char *n = getenv("SHIM_ORDERS");
    return n ? strtoull(n, NULL, 10) : 3;
}

/* tol: of rms + |value|. Two orders of the scheduler must agree to the bit. */
static void test_graph(const builder &build, int sample, double tol, bmvp_precision precision = BMVP_FP32)
{
    const bmvp_backend *b = gpu();
    for (int add = precision == BMVP_FP32 ? 0 : 1; add < 2; ++add) { /* emulated products are slow */
        const std::vector<named> want = run_graph(NULL, build, sample, 7 + (uint64_t)add, add);
        std::vector<named> first;
        for (uint64_t seed = 1; seed <= shim_orders(); ++seed) {
            shim_seed(seed);
            const std::vector<named> got = run_graph(b, build, sample, 7 + (uint64_t)add, add, precision);
            if (seed == 1) compare(got, want, tol), first = got;
            for (size_t i = 0; seed > 1 && i < got.size(); ++i)
                CHECK_SAME(("again, " + got[i].name).c_str(), got[i].v.data(), first[i].v.data(),
                           (int64_t)got[i].v.size());
        }
    }
    bmvp_cuda_release(b);
}

/* What the list says that backward does not read may be anything. */
static void test_reads(int op, const builder &build)
{
#define BMVP_X(id, name, reads, type) BMVP_READS_##reads,
    static const int reads[] = { BMVP_OPS(BMVP_X) };
#undef BMVP_X
    const bmvp_backend *b = gpu();
    const std::vector<named> want = run_graph(b, build, 1, 5, 0);
    for (int bit = 0; bit <= BMVP_MAX_SRC; ++bit) {
        if (reads[op] >> bit & 1) continue;
        const std::vector<named> got = run_graph(b, build, 1, 5, 0, BMVP_FP32, 1 << bit);
        for (size_t i = 0; i < want.size(); ++i)
            if (want[i].name.find("buffer") != 0) /* a spoilt one is */
                CHECK_SAME(("spoilt, " + want[i].name).c_str(), got[i].v.data(), want[i].v.data(),
                           (int64_t)want[i].v.size());
    }
    bmvp_cuda_release(b);
}

static void test_samples(int op)
{
    for (int variant = 0; variant < 100; ++variant) {
        bmvp_ctx *c = context(NULL);
        const int exists = bmvp_op_sample(c, op, variant) != NULL;
        bmvp_destroy(c);
        if (!exists) return;
        if (!check_start("%s.%d", bmvp_op_name(op), variant)) continue;
        const builder build = [=](bmvp_ctx *k) { return bmvp_op_sample(k, op, variant); };
        test_graph(build, 1, 1e-5);
        test_reads(op, build);
        check_finish();
    }
}

static bmvp_tensor *buffer(bmvp_ctx *c, int64_t n, float value)
{
    bmvp_tensor *t = bmvp_buffer(c, "b", 1, &n);
    bmvp_fill(c, t, value);
    return t;
}
static bmvp_tensor *numbers(bmvp_ctx *c, std::initializer_list<int64_t> dim) /* in [0, 1], fixed */
{
    return bmvpi_sample_target(c, (int)dim.size(), dim.begin());
}
static bmvp_tensor *conv(bmvp_ctx *c, bmvp_tensor *x, bmvp_tensor *w, bmvp_tensor *b, int stride, int pad, int groups)
{
    bmvp_conv_shape s = bmvp_conv_same(stride, pad);
    s.groups = groups;
    return bmvp_conv3d(c, x, w, b, &s);
}
static bmvp_tensor *depthwise(bmvp_ctx *c, std::initializer_list<int64_t> x, int64_t k)
{
    const int64_t ch = *(x.begin() + 4);
    return bmvp_depthwise3d(c, leaf(c, x), leaf(c, { k, k, k, ch }), leaf(c, { ch }));
}
static bmvp_tensor *mlp(bmvp_ctx *c, int64_t m, int64_t i, int64_t h, int64_t o)
{
    return bmvp_mlp(c, leaf(c, { m, i }), leaf(c, { i, h }), leaf(c, { h }), leaf(c, { h, o }), leaf(c, { o }));
}
/* The residual is another tensor than the leaves, so that it is of bfloat16 where results are; `exact`: a leaf itself,
   which never is */
static bmvp_tensor *residual(bmvp_ctx *c, std::initializer_list<int64_t> dim, int exact)
{
    return exact ? bmvp_leaf(c, (int)dim.size(), dim.begin(),
                             random_floats(bmvpi_numel((int)dim.size(), dim.begin()), &leaf_values).data())
                 : bmvp_relu(c, leaf(c, dim));
}
static bmvp_tensor *depthwise_residual(bmvp_ctx *c, std::initializer_list<int64_t> x, int64_t k)
{
    const int64_t ch = *(x.begin() + 4);
    return bmvp_depthwise3d_residual(c, bmvp_relu(c, leaf(c, x)), leaf(c, { k, k, k, ch }), leaf(c, { ch }));
}
static bmvp_tensor *linear_residual(bmvp_ctx *c, int64_t m, int64_t i, int64_t o, int bias, int exact)
{
    bmvp_tensor *x = leaf(c, { m, i }), *w = leaf(c, { i, o }), *b = bias ? leaf(c, { o }) : NULL;
    return bmvp_linear_residual(c, x, w, b, residual(c, { m, o }, exact));
}
static bmvp_tensor *mlp_fixed(bmvp_ctx *c) /* only the gradient of x is wanted */
{
    bmvp_tensor *w1 = numbers(c, { 64, 128 }), *w2 = numbers(c, { 128, 64 });
    return bmvp_mlp(c, leaf(c, { 90, 64 }), w1, NULL, w2, NULL);
}
static bmvp_tensor *mlp_residual(bmvp_ctx *c, int64_t m, int64_t i, int64_t h, int64_t o, int bias, int exact)
{
    bmvp_tensor *x = leaf(c, { m, i }), *w1 = leaf(c, { i, h }), *b1 = bias ? leaf(c, { h }) : NULL;
    bmvp_tensor *w2 = leaf(c, { h, o }), *b2 = bias ? leaf(c, { o }) : NULL;
    return bmvp_mlp_residual(c, x, w1, b1, w2, b2, residual(c, { m, o }, exact));
}
static bmvp_tensor *linear_onto_operand(bmvp_ctx *c) /* whose gradient is handed on and then added to */
{
    bmvp_tensor *x = bmvp_relu(c, leaf(c, { 37, 24 }));
    return bmvp_linear_residual(c, x, leaf(c, { 24, 24 }), NULL, x);
}
static bmvp_tensor *mlp_onto_operand(bmvp_ctx *c)
{
    bmvp_tensor *x = bmvp_relu(c, leaf(c, { 37, 24 }));
    return bmvp_mlp_residual(c, x, leaf(c, { 24, 40 }), NULL, leaf(c, { 40, 24 }), leaf(c, { 24 }), x);
}
/* A residual of bfloat16 below the size of tensors that are: a slice keeps its type */
static bmvp_tensor *residual_of_slice(bmvp_ctx *c)
{
    bmvp_tensor *large = bmvp_relu(c, leaf(c, { 9, 5 }));
    return bmvp_linear_residual(c, leaf(c, { 2, 3 }), leaf(c, { 3, 5 }), leaf(c, { 5 }), bmvp_slice(c, large, 0, 1, 2));
}
static bmvp_tensor *large_cross_entropy(bmvp_ctx *c)
{
    int32_t target[3000];
    const float weight[5] = { 0.1f, 1, 2, 3, 0.5f };
    for (int i = 0; i < 3000; ++i) target[i] = i * 7 % 5;
    return bmvp_cross_entropy_weighted(c, leaf(c, { 3000, 5 }), target, weight);
}
/* Rows that are right by 11 of 300. Few enough to be float32: bfloat16 cannot tell 311 from 310. */
static bmvp_tensor *sure_cross_entropy(bmvp_ctx *c)
{
    static const int64_t dim[2] = { 5, 5 };
    int32_t target[5];
    float high[25];
    for (int i = 0; i < 5; ++i) target[i] = i * 7 % 5;
    for (int i = 0; i < 25; ++i) high[i] = target[i / 5] == i % 5 ? 311.0f : 300.0f;
    return bmvp_cross_entropy(c, bmvp_add(c, leaf(c, { 5, 5 }), bmvp_input(c, 2, dim, high)), target);
}
/* .. and that are wrong by 1e8, beside a class that is none */
static bmvp_tensor *far_cross_entropy(bmvp_ctx *c)
{
    static const int64_t dim[2] = { 2, 3 };
    static const float high[6] = { 0, 1, -1e8f, 2, -1e8f, -INFINITY };
    static const int32_t target[2] = { 2, 1 };
    return bmvp_cross_entropy(c, bmvp_add(c, leaf(c, { 2, 3 }), bmvp_input(c, 2, dim, high)), target);
}
static bmvp_tensor *tied_minmax(bmvp_ctx *c) /* most elements are the minimum */
{
    return bmvp_minmax(c, bmvp_relu(c, leaf(c, { 17, 19, 23 })), 1e-3);
}
/* A dropped norm is made again from its statistics, and an add takes its operand's place. */
static bmvp_tensor *recomputed(bmvp_ctx *c)
{
    bmvp_tensor *x = leaf(c, { 2, 3, 3, 4, 6 });
    bmvp_tensor *gamma = leaf(c, { 6 }), *beta = leaf(c, { 6 }), *mean = buffer(c, 6, 0.1f), *var = buffer(c, 6, 0.5f);
    bmvp_tensor *n = bmvp_batchnorm(c, x, gamma, beta, mean, var, 1, 0.1, 1e-5);
    bmvp_tensor *y = bmvp_linear(c, n, leaf(c, { 6, 6 }), leaf(c, { 6 }));
    bmvp_drop(c, n);
    return bmvp_add_into(c, x, y);
}
static bmvp_tensor *many(bmvp_ctx *c) { return leaf(c, { 2, 9, 10, 11, 12 }); }
static bmvp_tensor *twelve(bmvp_ctx *c) { return leaf(c, { 12 }); }
static bmvp_tensor *many_batchnorm(bmvp_ctx *c)
{
    bmvp_tensor *x = leaf(c, { 2, 9, 10, 11, 40 }), *gamma = leaf(c, { 40 }), *beta = leaf(c, { 40 });
    return bmvp_batchnorm(c, x, gamma, beta, buffer(c, 40, 0.1f), buffer(c, 40, 0.5f), 1, 0.1, 1e-5);
}
static bmvp_tensor *many_dice(bmvp_ctx *c)
{
    bmvp_tensor *p = bmvp_sigmoid(c, leaf(c, { 2, 12, 13, 11, 3 }));
    return bmvp_soft_dice(c, p, numbers(c, { 2, 12, 13, 11, 3 }), 1, 1e-5);
}
static bmvp_tensor *permuted(bmvp_ctx *c)
{
    static const int axes[5] = { 0, 4, 1, 2, 3 };
    return bmvp_permute(c, leaf(c, { 2, 5, 7, 6, 9 }), axes);
}
static bmvp_tensor *masked_itself(bmvp_ctx *c)
{
    static const int64_t start[3] = { 0, 1, -1 };
    bmvp_tensor *x = leaf(c, { 4, 5, 6 });
    return bmvp_masked_fill(c, x, x, numbers(c, { 4, 5, 6 }), start);
}

/* Shapes with tails in every tile, several blocks, wide and narrow rows. */
static const struct awkward {
    const char *name;
    bmvp_tensor *(*build)(bmvp_ctx *);
    double tol = 0; /* 0: 1e-5 */
} awkward[] = {
    { "add many", [](bmvp_ctx *c) { return bmvp_add(c, leaf(c, { 3, 70, 1000 }), leaf(c, { 1000 })); } },
    { "add number", [](bmvp_ctx *c) { return bmvp_add(c, leaf(c, { 5000 }), leaf(c, { 1 })); } },
    { "mul channels", [](bmvp_ctx *c) { return bmvp_mul(c, leaf(c, { 700, 33 }), leaf(c, { 33 })); } },
    { "mul number", [](bmvp_ctx *c) { return bmvp_mul(c, leaf(c, { 700, 33 }), leaf(c, { 1 })); } },
    { "softmax wide", [](bmvp_ctx *c) { return bmvp_softmax(c, leaf(c, { 3, 1300 })); } },
    { "softmax narrow", [](bmvp_ctx *c) { return bmvp_softmax(c, leaf(c, { 2, 401, 3 })); } },
    { "l2_normalize wide", [](bmvp_ctx *c) { return bmvp_l2_normalize(c, leaf(c, { 3, 5000 }), 1e-12); } },
    { "layernorm wide",
      [](bmvp_ctx *c) { return bmvp_layernorm(c, leaf(c, { 5, 700 }), leaf(c, { 700 }), leaf(c, { 700 }), 1e-5); } },
    { "layernorm many",
      [](bmvp_ctx *c) { return bmvp_layernorm(c, leaf(c, { 3000, 20 }), leaf(c, { 20 }), leaf(c, { 20 }), 1e-5); } },
    { "batchnorm many", many_batchnorm },
    { "groupnorm many", [](bmvp_ctx *c) { return bmvp_groupnorm(c, many(c), twelve(c), twelve(c), 4, 1e-5); } },
    { "groupnorm_relu many",
      [](bmvp_ctx *c) { return bmvp_groupnorm_relu(c, many(c), twelve(c), twelve(c), many(c), 4, 1e-5, 0.1); } },
    { "instancenorm", [](bmvp_ctx *c) { return bmvp_instancenorm(c, leaf(c, { 3, 6, 10, 11, 33 }), 1e-5); } },
    { "norm recomputed", recomputed },
    { "permute", permuted },
    { "upsample_nearest", [](bmvp_ctx *c) { return bmvp_upsample_nearest(c, leaf(c, { 2, 3, 5, 4, 7 }), 2); } },
    { "upsample_trilinear", [](bmvp_ctx *c) { return bmvp_upsample_trilinear(c, leaf(c, { 1, 3, 5, 4, 7 }), 4, 0); } },
    { "upsample_trilinear corners",
      [](bmvp_ctx *c) { return bmvp_upsample_trilinear(c, leaf(c, { 1, 5, 1, 4, 3 }), 3, 1); } },
    { "sum many", [](bmvp_ctx *c) { return bmvp_sum(c, leaf(c, { 300001 })); } },
    { "mean many", [](bmvp_ctx *c) { return bmvp_mean(c, bmvp_gelu(c, leaf(c, { 30001 }))); } },
    { "mse many", [](bmvp_ctx *c) { return bmvp_mse(c, leaf(c, { 30001 }), leaf(c, { 30001 })); } },
    { "bce many", [](bmvp_ctx *c) { return bmvp_bce_logits(c, leaf(c, { 30001 }), numbers(c, { 30001 })); } },
    { "global_pool many", [](bmvp_ctx *c) { return bmvp_global_pool(c, leaf(c, { 2, 9, 10, 11, 35 })); } },
    { "soft_dice many", many_dice },
    { "cross_entropy many", large_cross_entropy },
    { "cross_entropy sure", sure_cross_entropy },
    { "cross_entropy far", far_cross_entropy },
    { "minmax ties", tied_minmax },
    { "masked_fill itself", masked_itself },
    { "matmul tall", [](bmvp_ctx *c) { return bmvp_matmul(c, leaf(c, { 3, 40, 65 }), leaf(c, { 3, 65, 33 }), 0, 0); } },
    { "linear",
      [](bmvp_ctx *c) { return bmvp_linear(c, leaf(c, { 130, 70 }), leaf(c, { 70, 33 }), leaf(c, { 33 })); } },
    { "mlp", [](bmvp_ctx *c) { return mlp(c, 130, 24, 96, 24); } },
    { "mlp of 64", [](bmvp_ctx *c) { return mlp(c, 201, 64, 256, 64); } },
    { "mlp of 64 in parts", [](bmvp_ctx *c) { return mlp(c, 1100, 64, 64, 64); } }, /* of 512, 512 and 76 rows */
    { "mlp of 64 of fixed weights", mlp_fixed },
    { "mlp of 128", [](bmvp_ctx *c) { return mlp(c, 77, 128, 512, 128); } },
    { "mlp of 128 in parts", [](bmvp_ctx *c) { return mlp(c, 530, 128, 64, 128); } },
    { "mlp of 128 with few rows", [](bmvp_ctx *c) { return mlp(c, 3, 128, 192, 128); } },
    /* the CPU adds 40000 numbers in float */
    { "mlp in tiles onto", [](bmvp_ctx *c) { return mlp_residual(c, 430, 2, 40000, 2, 1, 0); }, 5e-5 },
    { "conv3d 3^3",
      [](bmvp_ctx *c) {
          return conv(c, leaf(c, { 1, 5, 6, 7, 20 }), leaf(c, { 3, 3, 3, 20, 70 }), leaf(c, { 70 }), 1, 1, 1);
      } },
    { "conv3d 3^3 in large tiles",
      [](bmvp_ctx *c) {
          return conv(c, leaf(c, { 2, 6, 7, 9, 36 }), leaf(c, { 3, 3, 3, 36, 40 }), leaf(c, { 40 }), 1, 1, 1);
      } },
    { "conv3d 3^3 of one plane",
      [](bmvp_ctx *c) { return conv(c, leaf(c, { 3, 1, 13, 1, 8 }), leaf(c, { 3, 3, 3, 8, 4 }), NULL, 1, 1, 1); } },
    { "conv3d 5^3 stride 2",
      [](bmvp_ctx *c) {
          return conv(c, leaf(c, { 1, 9, 8, 7, 4 }), leaf(c, { 5, 5, 5, 4, 8 }), leaf(c, { 8 }), 2, 2, 1);
      } },
    { "conv3d 3 x 2 x 3 in parts",
      [](bmvp_ctx *c) {
          return conv(c, leaf(c, { 1, 22, 33, 40, 1 }), leaf(c, { 3, 2, 3, 1, 3 }), leaf(c, { 3 }), 1, 0, 1);
      } },
    { "conv3d groups of 4",
      [](bmvp_ctx *c) { return conv(c, leaf(c, { 1, 5, 6, 7, 12 }), leaf(c, { 3, 3, 3, 4, 12 }), NULL, 1, 1, 3); } },
    { "conv3d 3^3 of one channel",
      [](bmvp_ctx *c) { return conv(c, leaf(c, { 2, 11, 13, 12, 1 }), leaf(c, { 3, 3, 3, 1, 8 }), NULL, 1, 1, 1); } },
    { "conv3d stride",
      [](bmvp_ctx *c) {
          return conv(c, leaf(c, { 1, 7, 6, 9, 10 }), leaf(c, { 3, 3, 3, 10, 12 }), leaf(c, { 12 }), 2, 1, 1);
      } },
    { "conv3d groups",
      [](bmvp_ctx *c) {
          return conv(c, leaf(c, { 1, 5, 6, 7, 12 }), leaf(c, { 3, 3, 3, 4, 9 }), leaf(c, { 9 }), 1, 1, 3);
      } },
    { "conv3d blocks",
      [](bmvp_ctx *c) {
          return conv(c, leaf(c, { 2, 4, 6, 8, 5 }), leaf(c, { 2, 2, 2, 5, 9 }), leaf(c, { 9 }), 2, 0, 1);
      } },
    { "conv3d blocks and rest",
      [](bmvp_ctx *c) { return conv(c, leaf(c, { 1, 5, 6, 7, 3 }), leaf(c, { 2, 2, 2, 3, 4 }), NULL, 2, 0, 1); } },
    { "conv3d 1^3",
      [](bmvp_ctx *c) {
          return conv(c, leaf(c, { 2, 3, 4, 5, 33 }), leaf(c, { 1, 1, 1, 33, 17 }), leaf(c, { 17 }), 1, 0, 1);
      } },
    { "conv_transpose3d",
      [](bmvp_ctx *c) {
          return bmvp_conv_transpose3d(c, leaf(c, { 2, 3, 4, 5, 17 }), leaf(c, { 17, 2, 2, 2, 9 }), leaf(c, { 9 }));
      } },
    { "depthwise 3^3", [](bmvp_ctx *c) { return depthwise(c, { 2, 5, 6, 19, 40 }, 3); } },
    { "depthwise 5^3", [](bmvp_ctx *c) { return depthwise(c, { 2, 6, 7, 11, 33 }, 5); } },
    { "depthwise 7^3", [](bmvp_ctx *c) { return depthwise(c, { 1, 4, 5, 9, 3 }, 7); } },
    { "depthwise 3^3 of one channel", [](bmvp_ctx *c) { return depthwise(c, { 1, 17, 9, 33, 1 }, 3); } },
    { "depthwise 5^3 in slabs", [](bmvp_ctx *c) { return depthwise(c, { 1, 23, 5, 26, 36 }, 5); } },
    { "depthwise 5^3 of one plane", [](bmvp_ctx *c) { return depthwise(c, { 3, 1, 13, 2, 64 }, 5); } },
    { "depthwise 5^3 of one column", [](bmvp_ctx *c) { return depthwise(c, { 2, 9, 1, 1, 6 }, 5); } },
    { "depthwise many lines", [](bmvp_ctx *c) { return depthwise(c, { 1, 30, 30, 3, 2 }, 3); } },
    { "depthwise 3^3 plus x", [](bmvp_ctx *c) { return depthwise_residual(c, { 2, 5, 6, 19, 40 }, 3); } },
    { "depthwise 5^3 plus x", [](bmvp_ctx *c) { return depthwise_residual(c, { 2, 6, 7, 11, 33 }, 5); } },
    { "depthwise 7^3 plus x", [](bmvp_ctx *c) { return depthwise_residual(c, { 1, 4, 5, 9, 3 }, 7); } },
    { "linear onto", [](bmvp_ctx *c) { return linear_residual(c, 130, 70, 33, 1, 0); } },
    { "linear onto, no bias", [](bmvp_ctx *c) { return linear_residual(c, 65, 32, 48, 0, 0); } },
    { "linear onto float32", [](bmvp_ctx *c) { return linear_residual(c, 77, 24, 40, 1, 1); } },
    { "linear onto a slice", residual_of_slice },
    { "linear onto its operand", linear_onto_operand },
    { "mlp onto its operand", mlp_onto_operand },
    { "mlp onto", [](bmvp_ctx *c) { return mlp_residual(c, 130, 24, 96, 40, 1, 0); } },
    { "mlp onto float32", [](bmvp_ctx *c) { return mlp_residual(c, 77, 24, 40, 24, 0, 1); } },
    { "mlp of 64 onto", [](bmvp_ctx *c) { return mlp_residual(c, 201, 64, 128, 64, 1, 0); } },
    { "mlp of 64 onto float32", [](bmvp_ctx *c) { return mlp_residual(c, 63, 64, 64, 64, 0, 1); } },
    { "mlp of 128 onto", [](bmvp_ctx *c) { return mlp_residual(c, 77, 128, 192, 128, 0, 0); } },
    { "attention 16", [](bmvp_ctx *c) { return bmvp_attention(c, leaf(c, { 2, 70, 3 * 2 * 16 }), 2, 0.25); } },
    { "attention 20", [](bmvp_ctx *c) { return bmvp_attention(c, leaf(c, { 1, 65, 3 * 3 * 20 }), 3, 0.2); } },
    { "attention 64", [](bmvp_ctx *c) { return bmvp_attention(c, leaf(c, { 1, 131, 3 * 64 }), 1, 0.125); } },
    { "attention 64 of heads",
      [](bmvp_ctx *c) { return bmvp_attention(c, leaf(c, { 2, 64, 3 * 2 * 64 }), 2, 0.125); } },
    { "attention 64 of one token", [](bmvp_ctx *c) { return bmvp_attention(c, leaf(c, { 3, 1, 3 * 64 }), 1, 0.125); } },
    { "attention 100", [](bmvp_ctx *c) { return bmvp_attention(c, leaf(c, { 1, 37, 3 * 2 * 100 }), 2, 0.1); } },
    /* scores of tens: what the last bit of one changes in exp */
    { "attention sharp", [](bmvp_ctx *c) { return bmvp_attention(c, leaf(c, { 1, 130, 3 * 16 }), 1, 8.0); }, 1e-4 },
};

static void test_awkward_shapes(void)
{
    for (const auto &a : awkward) {
        if (!check_start("%s", a.name)) continue;
        test_graph(a.build, 0, a.tol > 0 ? a.tol : 1e-5);
        check_finish();
    }
}

/* The ops whose products have rounded operands */
static void test_tensor_cores(void)
{
    for (const auto &a : awkward)
        for (bmvp_precision precision : { BMVP_BF16, BMVP_TF32 }) {
            int rounded = 0;
            for (const char *op : { "conv", "attention 64", "linear", "mlp" })
                rounded |= strncmp(a.name, op, strlen(op)) == 0;
            if (!rounded || !check_start("%s in %s", a.name, bmvp_precision_text(precision))) continue;
            /* bf16: of large results and gradients the storage, too. Of two shapes the largest error of tens of
               thousands of gradients is more, the same in cuBLASLt's products: 80000 numbers that are rounded four
               times, and sums of 3 rows, in which nothing averages out. */
            const int more =
                strcmp(a.name, "mlp in tiles onto") == 0 || strcmp(a.name, "mlp of 128 with few rows") == 0;
            test_graph(a.build, 0, precision == BMVP_TF32 ? (more ? 4e-3 : 3e-3) : more ? 2.5e-2 : 2e-2, precision);
            check_finish();
        }
}

/* Every case with tensors of bfloat16, of all sizes from 30 numbers on: operands, weights, results and their
   gradients. Three orders of the scheduler agree to the bit. */
static double rms_of(const floats &v)
{
    double s = 0;
    for (float x : v) s += (double)x * (double)x;
    return sqrt(s / (double)v.size());
}
static void compare_rms(const std::vector<named> &got, const std::vector<named> &want, double tol)
{
    CHECK(got.size() == want.size() && !want.empty());
    for (size_t i = 0; i < got.size() && i < want.size(); ++i) {
        floats d = got[i].v;
        for (size_t k = 0; k < d.size(); ++k) d[k] -= want[i].v[k];
        const double error = rms_of(d) / (rms_of(want[i].v) + 1e-6);
        check_report(error <= tol, __FILE__, __LINE__, "%s: rms error %.3g, allowed %.3g", want[i].name.c_str(), error,
                     tol);
    }
}
static void test_half_graph(const builder &build)
{
    const bmvp_backend *b = gpu_half(30);
    half_leaves = 1;
    for (int add = 0; add < 2; ++add) {
        const std::vector<named> want = run_graph(NULL, build, 0, 7 + (uint64_t)add, add);
        std::vector<named> first;
        for (uint64_t seed = 1; seed <= (add ? 2 : 1); ++seed) {
            shim_seed(seed);
            const std::vector<named> got = run_graph(b, build, 0, 7 + (uint64_t)add, add, BMVP_BF16);
            if (seed == 1) compare_rms(got, want, 1e-2), compare(got, want, 5e-2), first = got;
            for (size_t i = 0; seed > 1 && i < got.size(); ++i)
                CHECK_SAME(("again, " + got[i].name).c_str(), got[i].v.data(), first[i].v.data(),
                           (int64_t)got[i].v.size());
        }
    }
    half_leaves = 0;
    bmvp_cuda_release(b);
}
static void test_half_tensors(void)
{
    for (const auto &a : awkward) {
        if (!check_start("%s of bfloat16", a.name)) continue;
        test_half_graph(a.build);
        check_finish();
    }
}

/* Values and gradients of bfloat16 are read, written and filled as float32, an odd number of them, too. */
static void test_half_access(void)
{
    const bmvp_backend *b = gpu_half(2);
    bmvp_ctx *c = context(b, BMVP_BF16);
    const int64_t n = 5001, wide[2] = { 3, 1667 };
    bmvp_rng r = bmvp_rng_make(3, 0, 0, 0);
    const floats x = random_floats(n, &r), g = random_floats(n, &r);
    bmvp_tensor *leaf_x = bmvp_leaf(c, 1, &n, x.data()), *y = bmvp_keep(bmvp_scale(c, leaf_x, 1, 0)),
                *z = bmvp_reshape(c, y, 2, wide);
    floats v((size_t)n);
    int wrong = 0;
    CHECK(!leaf_x->half && y->half && z->half && z->x == y->x && !bmvp_mean(c, y)->half &&
          !bmvp_l2_normalize(c, z, 1e-12)->half);
    CHECK(bmvp_read(c, z, v.data()) == BMVP_OK);
    for (size_t i = 0; i < v.size(); ++i)
        wrong += !(fabsf(v[i] - x[i]) <= fabsf(x[i]) / 256) || v[i] != bmvpi_half_value(bmvpi_half_of(x[i]));
    CHECK_NEAR(bmvp_scalar(c, y), v[0], 0);
    bmvp_keep(z);
    bmvp_backward_from(c, z, g.data());
    CHECK(y->g == z->g); /* shared */
    CHECK(bmvp_read_grad(c, y, v.data()) == BMVP_OK);
    for (size_t i = 0; i < v.size(); ++i) wrong += v[i] != bmvpi_half_value(bmvpi_half_of(g[i]));
    for (int64_t i : { (int64_t)0, (int64_t)1, (int64_t)777, n - 1 })
        CHECK_NEAR(bmvp_grad_at(c, y, i), v[(size_t)i], 0);
    CHECK(bmvp_read_grad(c, leaf_x, v.data()) == BMVP_OK); /* float32 again */
    for (size_t i = 0; i < v.size(); ++i) wrong += v[i] != bmvpi_half_value(bmvpi_half_of(g[i]));
    bmvp_write(c, y, g.data());
    v = value_of(c, y);
    for (size_t i = 0; i < v.size(); ++i) wrong += v[i] != bmvpi_half_value(bmvpi_half_of(g[i]));
    bmvp_fill(c, y, -0.7f);
    for (float got : value_of(c, y)) wrong += got != bmvpi_half_value(bmvpi_half_of(-0.7f));
    CHECK(wrong == 0);
    CHECK(bmvpi_half_of(1.00390625f) == 0x3f80 && bmvpi_half_of(1.01171875f) == 0x3f82); /* ties to even */
    CHECK(isnan(bmvpi_half_value(bmvpi_half_of((float)NAN))) && isinf(bmvpi_half_value(bmvpi_half_of(HUGE_VALF))));
    check_context(c);
    bmvp_destroy(c);
    bmvp_cuda_release(b);
}

/* Several readers add into one gradient of bfloat16, which some of them were handed as it was; leaves take it as
   float32. */
static bmvp_tensor *half_readers(bmvp_ctx *c)
{
    bmvp_tensor *x = leaf(c, { 3, 5, 7, 2, 9 }), *part[2], *sum = bmvp_add(c, bmvp_gelu(c, x), x);
    sum = bmvp_add(c, sum, bmvp_relu(c, x));
    part[0] = bmvp_slice(c, sum, 1, 1, 3);
    part[1] = bmvp_slice(c, x, 1, 0, 4);
    return bmvp_add(c, bmvp_concat(c, 2, part, 1), bmvp_leaf(c, 5, bmvp_concat(c, 2, part, 1)->dim, NULL));
}
/* A checkpointed block of dropped norms and sums in place; an add into a tensor of another type */
static bmvp_tensor *half_checkpoint(bmvp_ctx *c)
{
    bmvp_tensor *x = leaf(c, { 1, 3, 4, 5, 8 }), *gamma = leaf(c, { 8 }), *w = leaf(c, { 8, 8 }), *y = x;
    for (int i = 0; i < 2; ++i) {
        const int64_t mark = bmvp_scope_begin(c);
        bmvp_tensor *n = bmvp_layernorm(c, y, gamma, gamma, 1e-5), *h = bmvp_linear(c, n, w, gamma);
        bmvp_drop(c, n);
        y = bmvp_checkpoint(c, mark, bmvp_add_into(c, y, bmvp_gelu(c, h)));
    }
    return y;
}
static void test_half_gradients(void)
{
    test_half_graph(half_readers);
    test_half_graph(half_checkpoint);
}

/* All numbers positive: cut off instead of rounded, sums would come out too small by 2^-9 (TF32: 2^-12). */
static bmvp_tensor *positive_conv(bmvp_ctx *c)
{
    return conv(c, bmvp_sigmoid(c, leaf(c, { 1, 6, 7, 8, 16 })), bmvp_sigmoid(c, leaf(c, { 3, 3, 3, 16, 8 })), NULL, 1,
                1, 1);
}
static bmvp_tensor *positive_attention(bmvp_ctx *c)
{
    return bmvp_attention(c, bmvp_sigmoid(c, leaf(c, { 1, 130, 3 * 64 })), 1, 0.125);
}
static bmvp_tensor *positive_mlp(bmvp_ctx *c)
{
    return bmvp_mlp(c, bmvp_sigmoid(c, leaf(c, { 100, 64 })), bmvp_sigmoid(c, leaf(c, { 64, 128 })), NULL,
                    bmvp_sigmoid(c, leaf(c, { 128, 64 })), NULL);
}
static double mean_of(const floats &v)
{
    double s = 0;
    for (float x : v) s += (double)x;
    return s / (double)v.size();
}
static void test_rounding_is_unbiased(void)
{
    const bmvp_backend *b = gpu(), *half = gpu_half(2);
    for (auto build : { positive_conv, positive_attention, positive_mlp }) {
        const double want = mean_of(run_graph(NULL, build, 0, 1, 0)[0].v);
        CHECK_NEAR(mean_of(run_graph(b, build, 0, 1, 0, BMVP_BF16)[0].v) / want, 1, 2e-4);
        CHECK_NEAR(mean_of(run_graph(half, build, 0, 1, 0, BMVP_BF16)[0].v) / want, 1, 2e-4);
        CHECK_NEAR(mean_of(run_graph(b, build, 0, 1, 0, BMVP_TF32)[0].v) / want, 1, 2e-5);
    }
    bmvp_cuda_release(half);
    bmvp_cuda_release(b);
}

/* cuBLASLt is asked once for a shape; its bias and residual are those of the passes around a product where it has no
   algorithm, to the bit. */
static bmvp_tensor *product_linear(bmvp_ctx *c)
{
    return bmvp_linear(c, leaf(c, { 37, 21 }), leaf(c, { 21, 19 }), leaf(c, { 19 }));
}
static bmvp_tensor *product_mlp(bmvp_ctx *c) { return mlp(c, 33, 7, 28, 5); }
static bmvp_tensor *product_conv(bmvp_ctx *c)
{
    return conv(c, leaf(c, { 1, 4, 6, 2, 3 }), leaf(c, { 2, 2, 2, 3, 5 }), leaf(c, { 5 }), 2, 0, 1);
}
static bmvp_tensor *product_bare(bmvp_ctx *c) { return bmvp_linear(c, leaf(c, { 37, 21 }), leaf(c, { 21, 19 }), NULL); }
static bmvp_tensor *product_chain(bmvp_ctx *c) /* one shape, two biases */
{
    bmvp_tensor *x = bmvp_linear(c, leaf(c, { 37, 21 }), leaf(c, { 21, 21 }), leaf(c, { 21 }));
    return bmvp_linear(c, x, leaf(c, { 21, 21 }), leaf(c, { 21 }));
}
static bmvp_tensor *product_linear_onto(bmvp_ctx *c) { return linear_residual(c, 37, 21, 19, 1, 0); }
static bmvp_tensor *product_mlp_onto(bmvp_ctx *c) { return mlp_residual(c, 33, 7, 28, 5, 1, 0); }
static void test_products(void)
{
    for (auto build : { product_linear, product_mlp, product_conv, product_bare, product_chain, product_linear_onto,
                        product_mlp_onto }) {
        const bmvp_backend *b[2] = { gpu(), gpu() };
        std::vector<named> got[3];
        int64_t asked[3];
        for (int i = 0; i < 3; ++i) { /* anew, again, without */
            asked[i] = -shim.heuristics;
            shim.no_algorithm = i == 2;
            got[i] = run_graph(b[i == 2], build, 0, 3, 1);
            asked[i] += shim.heuristics;
        }
        shim.no_algorithm = 0;
        CHECK(asked[0] >= 3 && asked[1] == 0 && asked[2] == asked[0]);
        for (int i = 1; i < 3; ++i)
            for (size_t k = 0; k < got[0].size(); ++k)
                CHECK_SAME(got[0][k].name.c_str(), got[i][k].v.data(), got[0][k].v.data(), (int64_t)got[0][k].v.size());
        for (int i = 0; i < 2; ++i) bmvp_cuda_release(b[i]);
    }
    CHECK(shim.memory.empty());
}

/* Where in the arena a matrix lies does not choose its algorithm: results of 192 bytes, which lie at multiples of 64,
   128 and 256 bytes in turn, are one shape. */
static void test_products_anywhere(void)
{
    const bmvp_backend *b = gpu();
    bmvp_ctx *c = context(b);
    bmvp_tensor *x = leaf(c, { 3, 16 }), *w = leaf(c, { 16, 16 });
    int64_t asked = 0;
    int places = 0;
    for (int i = 0; i < 8; ++i) {
        const int64_t before = shim.heuristics;
        const bmvp_tensor *y = bmvp_linear(c, x, w, NULL);
        places |= (uintptr_t)y->x % 128 ? 1 : (uintptr_t)y->x % 256 ? 2 : 4;
        asked += shim.heuristics - before;
    }
    CHECK(asked == 1 && places == 7);
    check_context(c);
    bmvp_destroy(c);
    bmvp_cuda_release(b);
}

/* Two GPUs in one thread, in turn, while something else makes another one the thread's: all goes where it belongs. */
static bmvp_tensor *small_network(bmvp_ctx *c)
{
    bmvp_tensor *x = leaf(c, { 1, 9, 64 }), *w = leaf(c, { 64, 3 * 64 });
    return bmvp_mean(c, bmvp_attention(c, bmvp_linear(c, x, w, NULL), 1, 0.125));
}
static void test_two_devices(void)
{
    const bmvp_backend *b[2];
    bmvp_ctx *c[3];
    float loss[3];
    shim.devices = 2;
    for (int i = 0; i < 2; ++i) b[i] = gpu(i);
    for (int i = 0; i < 3; ++i) c[i] = context(i < 2 ? b[i] : NULL);
    for (int step = 0; step < 4; ++step) {
        bmvp_tensor *y[3];
        for (int i = 0; i < 3; ++i) {
            leaf_values = bmvp_rng_make(3, 0, (uint32_t)step, 0);
            bmvp_step_begin(c[i]);
            if (i == 0) bmvp_capture_begin(c[i]); /* the shim records one stream at a time */
            shim.device = step % 2;
            y[i] = small_network(c[i]);
            shim.device = 1 - step % 2;
        }
        for (int i = 0; i < 3; ++i) bmvp_backward(c[i], y[i]);
        bmvp_capture_end(c[0]);
        for (int i = 0; i < 3; ++i) loss[i] = bmvp_scalar(c[i], y[i]);
        CHECK_NEAR(loss[0] / loss[2], 1, 1e-5);
        CHECK(loss[0] == loss[1]);
    }
    for (int i = 0; i < 2; ++i) {
        const int64_t d[1] = { 1000 };
        const bmvp_tensor *p = bmvp_param(c[i], "p", 1, d);
        auto m = shim.memory.upper_bound((char *)p->x);
        CHECK(m != shim.memory.begin() && (--m)->second.device == i);
    }
    for (int i = 0; i < 3; ++i) {
        check_context(c[i]);
        bmvp_destroy(c[i]);
    }
    for (int i = 0; i < 2; ++i) bmvp_cuda_release(b[i]);
    shim.device = 0;
    shim.devices = 1;
    CHECK(shim.memory.empty());
}

/* Without recording, a log-sum-exp is not kept and nothing is left for backward. */
static void test_without_tape(void)
{
    const bmvp_backend *b = gpu();
    floats v[2];
    for (int i = 0; i < 2; ++i) {
        bmvp_ctx *c = context(i ? b : NULL);
        bmvp_rng r = bmvp_rng_make(5, 0, 0, 0);
        const int64_t dim[3] = { 1, 20, 3 * 8 };
        bmvp_tensor *y;
        (void)bmvp_set_grad(c, 0);
        y = bmvp_attention(c, bmvp_input(c, 3, dim, random_floats(20 * 24, &r).data()), 2, 0.5);
        v[i] = value_of(c, y);
        check_context(c);
        bmvp_destroy(c);
    }
    CHECK_CLOSE("y", v[1].data(), v[0].data(), (int64_t)v[0].size(), 1e-5);
    bmvp_cuda_release(b);
}

/* ---- errors ------------------------------------------------------------------------------------------------------ */

static void test_no_device(void)
{
    bmvp_error err;
    memset(&err, 0, sizeof err);
    shim.devices = 0;
    CHECK(bmvp_cuda_backend(0, &err) == NULL && err.status == BMVP_E_UNSUPPORTED);
    CHECK_HOLDS(err.message, "no CUDA-capable device");
    shim.devices = 1;
    CHECK(bmvp_cuda_backend(1, &err) == NULL && err.status == BMVP_E_ARG);
    CHECK_HOLDS(err.message, "no GPU 1");
}

static void test_memory_failures(void)
{
    const bmvp_backend *b = gpu();
    const int64_t d[2] = { 40, 50 }, w[2] = { 50, 60 };
    int failed = 0, done = 0;
    for (int64_t k = 0; k < 40 && !done; ++k) {
        bmvp_ctx *c = context(b);
        bmvp_tensor *p;
        c->min_chunk = 1;
        shim.allocations_left = k;
        p = bmvp_param(c, "w", 2, w);
        bmvp_fill(c, p, 0.1f);
        bmvp_backward(c, bmvp_mean(c, bmvp_linear(c, bmvp_leaf(c, 2, d, NULL), p, NULL)));
        done = !bmvp_failed(c);
        failed += !done;
        if (!done) CHECK(bmvp_error_of(c)->status == BMVP_E_OOM);
        if (!done) CHECK_HOLDS(bmvp_error_of(c)->message, "memory");
        shim.allocations_left = -1;
        bmvp_destroy(c);
    }
    CHECK(done && failed > 3);
    bmvp_cuda_release(b); /* with the workspace of products, which outlives contexts */
    CHECK(shim.memory.empty());
    bmvp_error err;
    shim.allocations_left = 0;
    CHECK(bmvp_cuda_backend(0, &err) == NULL && err.status == BMVP_E_OOM);
    shim.allocations_left = -1;
}

static void test_late_error(void)
{
    const bmvp_backend *b = gpu();
    bmvp_ctx *c = context(b);
    const int64_t d[1] = { 4 };
    bmvp_tensor *y = bmvp_scale(c, bmvp_leaf(c, 1, d, NULL), 2, 1);
    shim.late_error = cudaErrorIllegalAddress;
    CHECK(bmvp_scalar(c, y) != bmvp_scalar(c, y)); /* NaN */
    CHECK_HOLDS(bmvp_error_of(c)->message, "illegal memory access");
    CHECK(bmvp_sync(c) == BMVP_E_INTERNAL);
    bmvp_destroy(c);
    bmvp_cuda_release(b);
}

/* Uploads do not wait, their source may change at once, and what they stage is not overwritten before it has been
   copied. */
static void test_uploads(void)
{
    const bmvp_backend *b = gpu();
    bmvp_ctx *c = context(b);
    const int64_t large = 300000, n = 30000; /* floats: more than both halves of the staging memory; half of one */
    floats host((size_t)large);
    bmvp_tensor *t[13];
    int wrong = 0;
    for (int k = 0; k < 13; ++k) t[k] = bmvp_leaf(c, 1, k == 12 ? &large : &n, NULL);
    for (int round = 0; round < 2; ++round) { /* in the second the staging memory grows no more */
        for (int k = 0; k < 13; ++k) {
            for (int64_t i = 0; i < t[k]->numel; ++i) host[(size_t)i] = (float)(i + k + round);
            bmvp_write(c, t[k], host.data());
            CHECK(!shim.stream.empty());
        }
        for (int k = 0; k < 13; ++k) {
            bmvp_read(c, t[k], host.data());
            for (int64_t i = 0; i < t[k]->numel; ++i) wrong += !(host[(size_t)i] == (float)(i + k + round));
        }
    }
    CHECK(wrong == 0);
    check_context(c);
    bmvp_destroy(c);
    bmvp_cuda_release(b);
    CHECK(shim.pinned.empty() && shim.memory.empty());
}

static void test_unsupported(void)
{
    const bmvp_backend *b = gpu();
    bmvp_ctx *c = context(b);
    CHECK(bmvp_attention(c, leaf(c, { 1, 4, 3 * 130 }), 1, 1) == NULL);
    CHECK(bmvp_error_of(c)->status == BMVP_E_UNSUPPORTED);
    CHECK_HOLDS(bmvp_error_of(c)->message, "at most 128");
    bmvp_destroy(c);
    bmvp_cuda_release(b);
}

/* ---- the shim itself --------------------------------------------------------------------------------------------- */

static void reverse_kernel(const float *x, float *y, int barrier)
{
    __shared__ float s[128];
    s[threadIdx.x] = x[threadIdx.x];
    if (barrier) __syncthreads();
    y[threadIdx.x] = s[127 - threadIdx.x];
}
static void half_barrier_kernel(int) { if (threadIdx.x < 64) __syncthreads(); }
static void write_kernel(float *y, int at) { if (threadIdx.x == 0) y[at] = 1; }

static void vector_kernel(const float *x) { BMVPI_ALIGNED(x, 16); }

/* Does f die by a signal? */
template <class F> static int dies(F f)
{
    int status = 0;
    const pid_t child = fork();
    if (child == 0) {
        if (!freopen("/dev/null", "w", stderr)) _exit(0);
        signal(SIGSEGV, SIG_DFL); /* without a sanitizer's report */
        f();
        _exit(0);
    }
    (void)waitpid(child, &status, 0);
    return WIFSIGNALED(status) || WEXITSTATUS(status) != 0;
}

static void test_shim_finds_faults(void)
{
    float host[128], back[128], *x, *y;
    int wrong[2] = { 0, 0 };
    for (int i = 0; i < 128; ++i) host[i] = (float)i;
    cudaMalloc((void **)&x, sizeof host);
    cudaMalloc((void **)&y, sizeof host);
    cudaMemcpyAsync(x, host, sizeof host, cudaMemcpyHostToDevice, NULL);
    for (int barrier = 0; barrier < 2; ++barrier)
        for (uint64_t seed = 0; seed < 10; ++seed) {
            shim_seed(seed);
            BMVPI_LAUNCH(reverse_kernel, dim3(1), dim3(128), 0, 0, x, y, barrier);
            cudaMemcpyAsync(back, y, sizeof back, cudaMemcpyDeviceToHost, NULL);
            for (int i = 0; i < 128; ++i) wrong[barrier] += !(back[i] == host[127 - i]);
        }
    CHECK(wrong[0] > 0 && wrong[1] == 0);
    CHECK(dies([=] { BMVPI_LAUNCH(half_barrier_kernel, dim3(1), dim3(128), 0, 0, 0); cudaStreamSynchronize(NULL); }));
    CHECK(dies([=] { /* one beyond the end */
        BMVPI_LAUNCH(write_kernel, dim3(1), dim3(32), 0, 0, y, 128);
        cudaStreamSynchronize(NULL);
    }));
    CHECK(dies([=] { BMVPI_LAUNCH(vector_kernel, dim3(1), dim3(32), 0, 0, y + 2); cudaStreamSynchronize(NULL); }));
    CHECK(!dies([=] { BMVPI_LAUNCH(vector_kernel, dim3(1), dim3(32), 0, 0, y + 4); cudaStreamSynchronize(NULL); }));
    CHECK(dies([=] { fprintf(stderr, "%g", (double)y[0]); })); /* the host touches device memory */
    CHECK(!dies([=] { BMVPI_LAUNCH(write_kernel, dim3(1), dim3(32), 0, 0, y, 127); cudaStreamSynchronize(NULL); }));
    CHECK(cudaMemcpyAsync(host, back, sizeof back, cudaMemcpyHostToDevice, NULL) == cudaErrorInvalidValue);
    CHECK(cudaGetLastError() == cudaSuccess);
    BMVPI_LAUNCH(write_kernel, dim3(1), dim3(32), 64 * 1024, 0, y, 0);
    CHECK(cudaGetLastError() == cudaErrorInvalidConfiguration);
    cudaFree(x);
    cudaFree(y);
}

int main(int argc, char **argv)
{
    check_begin(argc, argv);
    for (int op = 0; op < BMVP_OP_COUNT; ++op) test_samples(op);
    test_awkward_shapes();
    test_tensor_cores();
    test_half_tensors();
    CHECK_RUN(test_half_access);
    CHECK_RUN(test_half_gradients);
    CHECK_RUN(test_rounding_is_unbiased);
    CHECK_RUN(test_products);
    CHECK_RUN(test_products_anywhere);
    CHECK_RUN(test_two_devices);
    CHECK_RUN(test_without_tape);
    CHECK_RUN(test_no_device);
    CHECK_RUN(test_memory_failures);
    CHECK_RUN(test_late_error);
    CHECK_RUN(test_uploads);
    CHECK_RUN(test_unsupported);
    CHECK_RUN(test_shim_finds_faults);
    return check_end();
}
