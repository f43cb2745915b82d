/* every_op.h - a small network that meets every op of the list, and a step of it: for tests of the tape, of threads and
   of memory. */
#ifndef BMVP_TEST_EVERY_OP_H
#define BMVP_TEST_EVERY_OP_H

#include "bmvp_tensor.h"
#include "bmvp_nn.h"
#include "tests/support/check.h"
#include "tests/support/context.h"
#include "tests/support/fixture.h"

/* >>network: a small one that meets every op ---------------------------------------------------------------------- */

enum {
    DROP = 1,
    INTO = 2,
    SCOPES = 4,
    BLOCKS = 8,
    FUSED = 16,
    FLAGS = 32
}; /* BLOCKS: checkpointed, in place of scopes; FUSED: residuals */

typedef struct net_param {
    const char *name, *dims;
    float base, spread; /* base + spread [-1, 1) */
} net_param;
static const net_param net_params[] = {
    { "template", "9,11,10", 0.5f, 0.5f },
    { "embed.w", "2,2,2,1,8", 0, 0.6f },
    { "embed.b", "8", 0, 0.1f },
    { "ln.w", "8", 1, 0.1f },
    { "ln.b", "8", 0, 0.1f },
    { "dw3.w", "3,3,3,8", 0, 0.3f },
    { "dw3.b", "8", 0, 0.1f },
    { "bn.w", "8", 1, 0.1f },
    { "bn.b", "8", 0, 0.1f },
    { "pw1.w", "8,8", 0, 0.6f },
    { "pw1.b", "8", 0, 0.1f },
    { "dw5.w", "5,5,5,8", 0, 0.2f },
    { "gn.w", "8", 1, 0.1f },
    { "gn.b", "8", 0, 0.1f },
    { "conv.w", "3,3,3,8,8", 0, 0.1f },
    { "conv.b", "8", 0, 0.1f },
    { "fc1.w", "8,20", 0, 0.5f },
    { "fc1.b", "20", 0, 0.1f },
    { "fc2.w", "20,8", 0, 0.4f },
    { "fc2.b", "8", 0, 0.1f },
    { "qkv.w", "8,24", 0, 0.6f },
    { "qkv.b", "24", 0, 0.1f },
    { "bias", "127,2", 0, 0.5f },
    { "proj.w", "8,8", 0, 0.6f },
    { "up.w", "8,2,2,2,4", 0, 0.5f },
    { "side.w", "8,3", 0, 0.6f },
    { "out.w", "7,1", 0, 0.6f },
    { "out.b", "1", 0, 0.1f },
};
enum { NET_PARAMS = sizeof net_params / sizeof *net_params };

typedef struct net {
    bmvp_ctx *c;
    bmvp_tensor *p[NET_PARAMS], *mean, *var;
    bmvp_tensor *y, *loss;
    int flags;
} net;

static inline bmvp_tensor *net_get(const net *n, const char *name)
{
    int i;
    for (i = 0; i < NET_PARAMS; ++i)
        if (strcmp(net_params[i].name, name) == 0) return n->p[i];
    check_report(0, __FILE__, __LINE__, "the network has no parameter %s", name);
    return NULL;
}
#define P(name) net_get(n, name)

static inline void net_make(net *n, const bmvp_config *cfg, int flags)
{
    int64_t dim[BMVP_MAX_DIMS], eight = 8, j;
    float x[1728]; /* the largest parameter */
    int i, rank;
    memset(n, 0, sizeof *n);
    n->flags = flags;
    n->c = bmvp_create(cfg, NULL);
    for (i = 0; n->c && i < NET_PARAMS; ++i) {
        bmvp_rng r = bmvp_rng_make(3, (uint32_t)i, 0, 0);
        rank = fixture_numbers(net_params[i].dims, dim, BMVP_MAX_DIMS);
        n->p[i] = bmvp_param(n->c, net_params[i].name, rank, dim);
        if (!n->p[i]) return;
        for (j = 0; j < n->p[i]->numel; ++j)
            x[j] = net_params[i].base + net_params[i].spread * (2 * bmvp_rng_uniform(&r) - 1);
        bmvp_write(n->c, n->p[i], x);
    }
    if (!n->c) return;
    n->mean = bmvp_buffer(n->c, "bn.running_mean", 1, &eight);
    n->var = bmvp_buffer(n->c, "bn.running_var", 1, &eight);
    bmvp_fill(n->c, n->mean, 0);
    bmvp_fill(n->c, n->var, 1);
}

static inline bmvp_tensor *net_join(const net *n, bmvp_tensor *x, bmvp_tensor *h)
{
    return n->flags & INTO ? bmvp_add_into(n->c, x, h) : bmvp_add(n->c, x, h);
}
static inline bmvp_tensor *net_depthwise(const net *n, bmvp_tensor *x)
{
    if (n->flags & FUSED) return bmvp_depthwise3d_residual(n->c, x, P("dw3.w"), P("dw3.b"));
    return net_join(n, x, bmvp_depthwise3d(n->c, x, P("dw3.w"), P("dw3.b")));
}
static inline bmvp_tensor *net_mlp(const net *n, bmvp_tensor *x, bmvp_tensor *r)
{
    if (n->flags & FUSED) return bmvp_mlp_residual(n->c, r, P("fc1.w"), P("fc1.b"), P("fc2.w"), P("fc2.b"), x);
    return net_join(n, x, bmvp_mlp(n->c, r, P("fc1.w"), P("fc1.b"), P("fc2.w"), P("fc2.b")));
}
static inline bmvp_tensor *net_project(const net *n, bmvp_tensor *x, bmvp_tensor *h)
{
    if (n->flags & FUSED) return bmvp_linear_residual(n->c, h, P("proj.w"), NULL, x);
    return net_join(n, x, bmvp_linear(n->c, h, P("proj.w"), NULL));
}
static inline void net_drop(const net *n, bmvp_tensor *t)
{
    if (n->flags & DROP) bmvp_drop(n->c, t);
}
static inline int64_t net_scope(const net *n) { return n->flags & (SCOPES | BLOCKS) ? bmvp_scope_begin(n->c) : 0; }
static inline bmvp_tensor *net_scope_end(const net *n, int64_t mark, bmvp_tensor *x)
{
    if (n->flags & BLOCKS) return bmvp_checkpoint(n->c, mark, x);
    return n->flags & SCOPES ? bmvp_scope_end(n->c, mark, x) : x;
}

/* Two volumes, one of them masked and filled from the template -> (2, 8, 8, 8, 1) */
static inline bmvp_tensor *net_input(const net *n)
{
    const int64_t dim[3] = { 8, 8, 8 }, dim5[5] = { 1, 8, 8, 8, 1 }, start[3] = { 2, -3, 1 };
    float x[2][512], m[512];
    bmvp_tensor *view[2];
    int i, b;
    for (b = 0; b < 2; ++b)
        for (i = 0; i < 512; ++i) x[b][i] = (float)sin(0.7 * i + 0.3 * b * i);
    for (i = 0; i < 512; ++i) m[i] = (float)(i / 3 % 2);
    view[0] = bmvp_masked_fill(n->c, bmvp_input(n->c, 3, dim, x[0]), bmvp_minmax(n->c, P("template"), 1e-3),
                               bmvp_input(n->c, 3, dim, m), start);
    view[0] = bmvp_reshape(n->c, view[0], 5, dim5);
    view[1] = bmvp_input(n->c, 5, dim5, x[1]);
    return bmvp_concat(n->c, 2, view, 0);
}

/* Attention with biases: token t of 64 is at place t of a line, in one of 4 regions */
static inline bmvp_tensor *net_attention(const net *n, bmvp_tensor *qkv)
{
    int32_t place[64], region[2 * 64];
    int t;
    for (t = 0; t < 64; ++t) place[t] = t;
    for (t = 0; t < 2 * 64; ++t) region[t] = t < 64 ? 0 : t / 20;
    return bmvp_window_attention(n->c, qkv, 2, 0.5, P("bias"), place, region, 2);
}

static inline bmvp_tensor *net_encode(const net *n, bmvp_tensor *x)
{
    const bmvp_conv_shape halve = bmvp_conv_same(2, 0), same = bmvp_conv_same(1, 1);
    const int64_t tokens[3] = { 2, 64, 24 }, back[5] = { 2, 4, 4, 4, 8 };
    bmvp_ctx *c = n->c;
    bmvp_tensor *h, *r;
    int64_t scope = net_scope(n);
    x = bmvp_layernorm(c, bmvp_conv3d(c, x, P("embed.w"), P("embed.b"), &halve), P("ln.w"), P("ln.b"), 1e-5);
    x = net_scope_end(n, scope, net_depthwise(n, x));
    scope = net_scope(n);
    r = bmvp_batchnorm(c, x, P("bn.w"), P("bn.b"), n->mean, n->var, 1, 0.1, 1e-5);
    h = bmvp_linear(c, r, P("pw1.w"), P("pw1.b"));
    net_drop(n, r);
    x = net_scope_end(n, scope, net_join(n, x, bmvp_depthwise3d(c, h, P("dw5.w"), NULL)));
    scope = net_scope(n);
    h = bmvp_groupnorm(c, x, P("gn.w"), P("gn.b"), 4, 1e-5);
    r = bmvp_relu(c, h);
    net_drop(n, h);
    h = bmvp_conv3d(c, r, P("conv.w"), P("conv.b"), &same);
    net_drop(n, r);
    r = bmvp_groupnorm_relu(c, h, P("gn.w"), P("gn.b"), x, 2, 1e-5, 0.1);
    h = bmvp_conv3d(c, r, P("conv.w"), P("conv.b"), &same);
    net_drop(n, r);
    x = net_scope_end(n, scope, net_join(n, x, h));
    scope = net_scope(n);
    r = bmvp_layernorm(c, x, P("ln.w"), P("ln.b"), 1e-6);
    x = net_mlp(n, x, r);
    net_drop(n, r);
    x = net_scope_end(n, scope, x);
    scope = net_scope(n);
    r = bmvp_layernorm(c, x, P("ln.w"), P("ln.b"), 1e-6);
    h = bmvp_linear(c, r, P("qkv.w"), P("qkv.b"));
    net_drop(n, r);
    h = net_attention(n, bmvp_reshape(c, h, 3, tokens));
    return net_scope_end(n, scope, net_project(n, x, bmvp_reshape(c, h, 5, back)));
}

static inline bmvp_tensor *net_decode(const net *n, bmvp_tensor *x)
{
    bmvp_ctx *c = n->c;
    bmvp_tensor *part[2];
    part[0] = bmvp_conv_transpose3d(c, x, P("up.w"), NULL);
    part[1] = bmvp_upsample_nearest(c, bmvp_linear(c, x, P("side.w"), NULL), 2);
    return bmvp_linear(c, bmvp_gelu(c, bmvp_concat(c, 2, part, 4)), P("out.w"), P("out.b"));
}

/* What is left of the ops: a contrast over the two volumes, and a sum over odd pieces of the output. */
static inline bmvp_tensor *net_rest(const net *n, bmvp_tensor *map, bmvp_tensor *y)
{
    const int64_t flat[2] = { 2, 512 }, low[5] = { 0, 1, 0, 0, 2 }, high[5] = { 1, 0, 0, 3, 0 };
    const int64_t turn[5] = { 1, -1, 0, 5, 0 };
    const int axes[5] = { 0, 4, 1, 2, 3 };
    const int32_t target[2] = { 0, 1 };
    const int64_t square[2] = { 2, 2 };
    const float soft[4] = { 1, 0.25f, 0, 0.75f };
    bmvp_ctx *c = n->c;
    bmvp_tensor *f = bmvp_l2_normalize(c, bmvp_reshape(c, map, 2, flat), 1e-12), *logits, *s, *d;
    logits = bmvp_scale(c, bmvp_matmul(c, f, f, 0, 1), 5, 0.1);
    s = bmvp_softmax(c, logits);
    s = bmvp_add(c, bmvp_cross_entropy(c, logits, target), bmvp_mean(c, bmvp_mul(c, s, s)));
    s = bmvp_add(c, s, bmvp_bce_logits(c, logits, bmvp_input(c, 2, square, soft)));
    s = bmvp_add(c, s, bmvp_soft_dice(c, bmvp_sigmoid(c, logits), bmvp_input(c, 2, square, soft), 1, 1.0));
    s = bmvp_add(
        c, s,
        bmvp_mean(c, bmvp_global_pool(
                         c, bmvp_instancenorm(c, bmvp_upsample_trilinear(c, bmvp_slice(c, map, 4, 0, 1), 2, 1), 0.1))));
    d = bmvp_maxpool3d(c, map, 2);
    s = bmvp_add(c, s, bmvp_mean(c, bmvp_mul(c, d, d)));
    d = bmvp_slice(c, bmvp_permute(c, bmvp_space_to_depth(c, y, 2), axes), 2, 1, 2);
    d = bmvp_roll(c, bmvp_pad(c, d, low, high), turn);
    return bmvp_add(c, s, bmvp_scale(c, bmvp_sum(c, bmvp_mul(c, d, d)), 1e-3, 0));
}

/* Functions of each element, of what is above 0 where they need it: of the output by halves, upper and lower. */
static inline bmvp_tensor *net_functions(const net *n, bmvp_tensor *y)
{
    bmvp_ctx *c = n->c;
    bmvp_tensor *a = bmvp_slice(c, y, 1, 0, 4), *b = bmvp_slice(c, y, 1, 4, 4);
    bmvp_tensor *e = bmvp_exp(c, bmvp_clamp(c, a, -1, 1));
    bmvp_tensor *s = bmvp_div(c, bmvp_sub(c, a, b), bmvp_scale(c, bmvp_abs(c, b), 1, 0.5));
    s = bmvp_mul(c, s, bmvp_natural_log(c, bmvp_scale(c, e, 1, 0.25)));
    return bmvp_add(c, bmvp_mean(c, bmvp_mul(c, s, bmvp_sqrt(c, e))), bmvp_l1(c, a, b));
}

/* Rows of the map by number, some of them twice, some replaced. */
static inline bmvp_tensor *net_rows(const net *n, bmvp_tensor *map)
{
    const int32_t index[6] = { 100, 3, 17, 3, 127, 0 }, mask[6] = { 0, 1, 0, 0, 1, 0 };
    bmvp_tensor *r = bmvp_gather_rows(n->c, map, 6, index);
    r = bmvp_where_rows(n->c, r, P("gn.b"), mask);
    return bmvp_mean(n->c, bmvp_mul(n->c, r, r));
}

/* Cubes of the output, and the output where the map points to. */
static inline bmvp_tensor *net_places(const net *n, bmvp_tensor *map, bmvp_tensor *y)
{
    bmvp_ctx *c = n->c;
    bmvp_tensor *at = bmvp_scale(c, bmvp_sigmoid(c, bmvp_slice(c, map, 4, 2, 3)), 9.3, -0.8), *s;
    s = bmvp_grid_sample3d(c, bmvp_box_sum3d(c, y, 3), at);
    return bmvp_scale(c, bmvp_mean(c, bmvp_mul(c, s, s)), 0.01, 0);
}

static inline void net_forward(net *n)
{
    bmvp_tensor *x = net_input(n), *map = net_encode(n, x);
    n->y = bmvp_keep(net_decode(n, map));
    n->loss = bmvp_add(n->c, bmvp_mse(n->c, n->y, x), net_rest(n, map, n->y));
    n->loss = bmvp_add(n->c, n->loss, bmvp_scale(n->c, net_functions(n, n->y), 0.1, 0));
    n->loss = bmvp_add(n->c, n->loss, bmvp_add(n->c, net_rows(n, map), net_places(n, map, n->y)));
}

/* Loss, output, gradients of all parameters and running statistics, one after the other. */
typedef struct net_values {
    float *x;
    int64_t n;
} net_values;
static inline net_values net_read(const net *n, int gradients)
{
    net_values v;
    int64_t at = 0;
    int i;
    v.n = 1 + 1024 + 16;
    for (i = 0; gradients && i < NET_PARAMS; ++i) v.n += n->p[i]->numel;
    v.x = (float *)calloc((size_t)v.n, sizeof(float));
    v.x[at++] = bmvp_scalar(n->c, n->loss);
    bmvp_read(n->c, n->y, v.x + at);
    bmvp_read(n->c, n->mean, v.x + at + 1024);
    bmvp_read(n->c, n->var, v.x + at + 1032);
    at += 1024 + 16;
    for (i = 0; gradients && i < NET_PARAMS; at += n->p[i++]->numel) bmvp_read_grad(n->c, n->p[i], v.x + at);
    check_report(!bmvp_failed(n->c), __FILE__, __LINE__, "%s", bmvp_error_of(n->c)->message);
    return v;
}

/* A whole step in a context of its own. */
static inline net_values net_step(const bmvp_config *cfg, int flags)
{
    net n;
    net_values v;
    memset(&v, 0, sizeof v);
    net_make(&n, cfg, flags);
    if (!CHECK(n.c != NULL)) return v;
    net_forward(&n);
    bmvp_backward(n.c, n.loss);
    if (check_report(!bmvp_failed(n.c), __FILE__, __LINE__, "%s", bmvp_error_of(n.c)->message)) v = net_read(&n, 1);
    bmvp_destroy(n.c);
    return v;
}

#endif /* BMVP_TEST_EVERY_OP_H */
