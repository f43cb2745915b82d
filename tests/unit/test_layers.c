/* test_layers.c - the public layers of bmvp_nn.h: values and gradients against PyTorch in double
   (tests/reference/layers_reference.py), their start against PyTorch's rules, names, drop path, and a network that
   a program adds. */
#include "bmvp_tensor.h"
#include "bmvp_nn.h"
#include "tests/support/check.h"
#include "tests/support/fixture.h"
#include "tests/support/formula.h"
#include <math.h>

typedef struct bench { /* one layer in a context of its own */
    bmvp_ctx *c;
    bmvp_state_list list;
    bmvp_module m;
} bench;

static void bench_begin(bench *b)
{
    memset(b, 0, sizeof *b);
    b->c = bmvp_create(NULL, NULL);
    bmvp_module_begin(&b->m, b->c, &b->list);
    b->m.training = 1;
}
static void bench_end(bench *b)
{
    check_report(!bmvp_failed(b->c), __FILE__, __LINE__, "%s", bmvp_error_of(b->c)->message);
    bmvp_state_list_free(b->c, &b->list);
    bmvp_destroy(b->c);
}

/* Numbers by formula in PyTorch's order of the shape that ours has; to ours. channels first: rank 5 only. */
static float *by_formula(const char *kind, const char *name, int rank, const int64_t *dim)
{
    char full[100];
    int64_t n = 1, i;
    float *v;
    int a;
    for (a = 0; a < rank; ++a) n *= dim[a];
    v = (float *)malloc((size_t)n * sizeof *v);
    snprintf(full, sizeof full, "%s.%s", kind, name);
    for (i = 0; v && i < n; ++i) {
        int64_t at[5] = { 0 }, left = i, place = i;
        for (a = rank - 1; a >= 0; left /= dim[a], --a) at[a] = left % dim[a];
        if (rank == 5) place = (((at[0] * dim[4] + at[4]) * dim[3] + at[3]) * dim[2] + at[2]) * dim[1] + at[1];
        v[i] = (float)(2 * formula_uniform(formula_stream(full, 0), place) - 1);
    }
    return v;
}

static void check_values(bmvp_ckpt *f, const char *name, const char *what, const float *got, int64_t n)
{
    fixture_tensor want = fixture_load(f, "%s.%s", name, what);
    if (check_report(want.x && want.numel == n, __FILE__, __LINE__, "%s.%s is missing", name, what))
        CHECK_CLOSE(name, got, want.x, n, 2e-5);
    free(want.x);
}

/* Gradients of parameters, and statistics after the pass, in PyTorch's order */
static void check_tensors(bench *b, bmvp_ckpt *f, const char *name)
{
    float *torch = (float *)malloc(4096 * sizeof *torch);
    char what[100];
    int i;
    for (i = 0; torch && i < b->list.n; ++i) {
        const bmvp_state *s = &b->list.item[i];
        const char *field = s->name + strlen(name) + 1;
        snprintf(what, sizeof what, s->trained ? "d.%s" : "after.%s", field);
        if (s->torch_rank == 0) torch[0] = (float)s->counter;
        else bmvp_state_to_torch(s, s->trained ? s->t->g : s->t->x, torch);
        check_values(f, name, what, torch, s->t->numel);
    }
    free(torch);
}

static bmvp_layer layer;
static bmvp_attention_block block;
static bmvp_patch_embed patch;
static bmvp_tensor *positions;

static void check_layer(bmvp_ckpt *f, const char *name, void (*make)(bmvp_module *m, const char *name),
                        bmvp_tensor *(*run)(bmvp_module *m, bmvp_tensor *x), int rank, const int64_t *dim)
{
    float *in = by_formula("input", name, rank, dim), *out;
    bmvp_tensor *x, *y;
    bench b;
    bench_begin(&b);
    make(&b.m, name);
    CHECK(formula_state(b.c, &b.list, 0));
    x = bmvp_leaf(b.c, rank, dim, in);
    y = bmvp_keep(run(&b.m, x));
    if (CHECK(y != NULL)) {
        out = by_formula("cotangent", name, y->rank, y->dim);
        bmvp_backward(b.c, bmvp_sum(b.c, bmvp_mul(b.c, y, bmvp_input(b.c, y->rank, y->dim, out))));
        check_values(f, name, "y", y->x, y->numel);
        check_values(f, name, "dx", x->g, x->numel);
        check_tensors(&b, f, name);
        free(out);
    }
    free(in);
    bench_end(&b);
}

static bmvp_tensor *run_layer(bmvp_module *m, bmvp_tensor *x) { return bmvp_run(m, &layer, x); }
static bmvp_tensor *run_block(bmvp_module *m, bmvp_tensor *x) { return bmvp_run_attention_block(m, &block, x); }
static bmvp_tensor *run_patch(bmvp_module *m, bmvp_tensor *x) { return bmvp_run_patch_embed(m, &patch, x); }
static bmvp_tensor *run_positions(bmvp_module *m, bmvp_tensor *x)
{
    return bmvp_add_tokens(m, x, positions);
}
static void make_linear(bmvp_module *m, const char *name) { layer = bmvp_make_linear(m, name, 6, 5, 1); }
static void make_linear_plain(bmvp_module *m, const char *name) { layer = bmvp_make_linear(m, name, 6, 5, 0); }
static void make_conv(bmvp_module *m, const char *name) { layer = bmvp_make_conv(m, name, 3, 4, 3, 2, 1, 1); }
static void make_conv_plain(bmvp_module *m, const char *name) { layer = bmvp_make_conv(m, name, 3, 4, 3, 1, 0, 0); }
static void make_pointwise(bmvp_module *m, const char *name) { layer = bmvp_make_conv(m, name, 3, 4, 1, 1, 0, 1); }
static void make_depthwise(bmvp_module *m, const char *name) { layer = bmvp_make_depthwise(m, name, 4, 3); }
static void make_convt(bmvp_module *m, const char *name) { layer = bmvp_make_conv_transpose(m, name, 3, 4, 2, 1); }
static void make_batchnorm(bmvp_module *m, const char *name) { layer = bmvp_make_batchnorm(m, name, 4); }
static void make_layernorm(bmvp_module *m, const char *name) { layer = bmvp_make_layernorm(m, name, 6); }
static void make_groupnorm(bmvp_module *m, const char *name) { layer = bmvp_make_groupnorm(m, name, 6, 2); }
static void make_instancenorm(bmvp_module *m, const char *name) { layer = bmvp_make_instancenorm(m, name, 4, 0); }
static void make_instancenorm_affine(bmvp_module *m, const char *name)
{
    layer = bmvp_make_instancenorm(m, name, 4, 1);
}
static void make_block(bmvp_module *m, const char *name) { block = bmvp_make_attention_block(m, name, 8, 2, 16, 1); }
static void make_patch(bmvp_module *m, const char *name) { patch = bmvp_make_patch_embed(m, name, 2, 6, 2, 1); }
static void make_positions(bmvp_module *m, const char *name)
{
    const int64_t grid[3] = { 4, 3, 2 };
    char full[60];
    snprintf(full, sizeof full, "%s.embedding", name);
    positions = bmvp_make_tokens(m, full, grid, 6);
}

static void test_against_pytorch(void)
{
    static const int64_t rows[2] = { 3, 6 }, tokens[3] = { 2, 5, 8 }, c3[5] = { 2, 6, 5, 4, 3 },
                         c4[5] = { 2, 4, 3, 2, 4 };
    static const int64_t c6[5] = { 2, 4, 3, 2, 6 }, small[5] = { 2, 4, 3, 2, 3 }, even[5] = { 2, 8, 6, 4, 2 };
    bmvp_ckpt *f = fixture_open("nets/layers.safetensors");
    if (!f) return;
    check_layer(f, "linear", make_linear, run_layer, 2, rows);
    check_layer(f, "linear_plain", make_linear_plain, run_layer, 2, rows);
    check_layer(f, "conv", make_conv, run_layer, 5, c3);
    check_layer(f, "conv_plain", make_conv_plain, run_layer, 5, c3);
    check_layer(f, "pointwise", make_pointwise, run_layer, 5, small);
    check_layer(f, "depthwise", make_depthwise, run_layer, 5, c4);
    check_layer(f, "convt", make_convt, run_layer, 5, small);
    check_layer(f, "batchnorm", make_batchnorm, run_layer, 5, c4);
    check_layer(f, "layernorm", make_layernorm, run_layer, 5, c6);
    check_layer(f, "groupnorm", make_groupnorm, run_layer, 5, c6);
    check_layer(f, "instancenorm", make_instancenorm, run_layer, 5, c4);
    check_layer(f, "instancenorm_affine", make_instancenorm_affine, run_layer, 5, c4);
    check_layer(f, "block", make_block, run_block, 3, tokens);
    check_layer(f, "patch", make_patch, run_patch, 5, even);
    check_layer(f, "positions", make_positions, run_positions, 5, c6);
    bmvp_ckpt_close(f);
}

/* Mean, standard deviation and largest value of what bmvp_state_init draws, against the rule's. */
static void check_draws(bench *b, const bmvp_tensor *t, double std, double most)
{
    double sum = 0, square = 0, large = 0, n = (double)t->numel;
    int64_t i;
    int k = 0;
    while (b->list.item[k].t != t) ++k;
    bmvp_state_init(b->c, &b->list.item[k], 3, (uint32_t)k);
    for (i = 0; i < t->numel; ++i) {
        const double v = (double)t->x[i];
        sum += v, square += v * v, large = fabs(v) > large ? fabs(v) : large;
    }
    check_report(fabs(sum / n) <= 5 * std / sqrt(n), __FILE__, __LINE__, "%s: mean %g", t->name, sum / n);
    check_report(fabs(sqrt(square / n) / std - 1) <= 5 / sqrt(n), __FILE__, __LINE__, "%s: std %g, not %g", t->name,
                 sqrt(square / n), std);
    check_report(large <= most && large >= 0.98 * most, __FILE__, __LINE__, "%s: largest %g of %g", t->name, large,
                 most);
}

static void test_start_as_pytorch(void)
{
    static const double kr = 1.7320508075688772; /* a uniform number in +-b has standard deviation b / sqrt(3) */
    const int64_t dim[2] = { 200, 100 };
    bmvp_layer l[5];
    bmvp_tensor *t;
    bench q;
    bench_begin(&q);
    l[0] = bmvp_make_linear(&q.m, "linear", 50, 400, 1);
    l[1] = bmvp_make_conv(&q.m, "conv", 16, 64, 3, 1, 1, 1);
    l[2] = bmvp_make_conv_transpose(&q.m, "convt", 64, 16, 2, 1);
    l[3] = bmvp_make_depthwise(&q.m, "depthwise", 400, 3);
    l[4] = bmvp_make_linear(&q.m, "second", 50, 400, 0);
    t = bmvp_make_tensor(&q.m, "token", 2, dim);
    check_draws(&q, l[0].w, 1 / sqrt(50.0) / kr, 1 / sqrt(50.0));
    check_draws(&q, l[0].b, 1 / sqrt(50.0) / kr, 1 / sqrt(50.0));
    check_draws(&q, l[1].w, 1 / sqrt(16 * 27.0) / kr, 1 / sqrt(16 * 27.0));
    check_draws(&q, l[2].w, 1 / sqrt(16 * 8.0) / kr, 1 / sqrt(16 * 8.0));
    check_draws(&q, l[3].w, 1 / sqrt(27.0) / kr, 1 / sqrt(27.0));
    bmvp_init_as(&q.m, l[4].w, BMVP_INIT_XAVIER_UNIFORM, 0);
    check_draws(&q, l[4].w, sqrt(6.0 / 450) / kr, sqrt(6.0 / 450));
    bmvp_init_as(&q.m, t, BMVP_INIT_TRUNC_NORMAL, 1);
    check_draws(&q, t, 0.8796256610342398, 2); /* the standard deviation of a normal number cut at 2 */
    bmvp_init_as(&q.m, t, BMVP_INIT_CONSTANT, 0.5);
    bmvp_state_init(q.c, &q.list.item[q.list.n - 1], 0, 0);
    CHECK(t && t->x[0] == 0.5f && t->x[19999] == 0.5f);
    bench_end(&q);
}

/* About `rate` of the samples are 0, the rest is scaled; a sample's draw does not depend on the batch it is in. */
static void test_drop_path(void)
{
    const int64_t dim[2] = { 1000, 3 }, one[2] = { 1, 3 };
    static float x[3000];
    bmvp_tensor *y;
    int i, gone = 0, same = 0;
    bench b;
    bench_begin(&b);
    for (i = 0; i < 3000; ++i) x[i] = 1;
    bmvp_module_draws(&b.m, 5, 7, 0);
    y = bmvp_drop_path(&b.m, bmvp_leaf(b.c, 2, dim, x), 0.25);
    for (i = 0; CHECK(y != NULL) && i < 1000; ++i) {
        gone += y->x[3 * i] == 0;
        if (!(y->x[3 * i] == 0 || fabsf(y->x[3 * i] - 1 / 0.75f) <= 1e-6f)) CHECK(!"neither 0 nor 1 / (1 - rate)");
    }
    CHECK(gone > 200 && gone < 300);
    for (i = 0; i < 40; ++i) {
        bmvp_module_draws(&b.m, 5, 7, (uint32_t)i);
        same += bmvp_drop_path(&b.m, bmvp_leaf(b.c, 2, one, x), 0.25)->x[0] == y->x[3 * i];
    }
    CHECK(same == 40);
    b.m.training = 0;
    CHECK(bmvp_drop_path(&b.m, y, 0.25) == y);
    bench_end(&b);
}

/* A block that drops nearly never is the block without drop path, computed another way; recomputed, its bits are the
   same. */
static void test_block_with_drop_path(void)
{
    static const int64_t dim[3] = { 2, 5, 8 };
    static float first[80], grad[2][80];
    float *in = by_formula("input", "block", 3, dim);
    int i;
    for (i = 0; i < 4; ++i) {
        bmvp_tensor *x, *y;
        int64_t mark;
        bench b;
        bench_begin(&b);
        make_block(&b.m, "block");
        CHECK(formula_state(b.c, &b.list, 0));
        block.drop_path = i == 0 ? 0 : i == 1 ? 1e-9 : 0.5;
        b.m.recompute = i == 3;
        bmvp_module_draws(&b.m, 4, 1, 0);
        x = bmvp_leaf(b.c, 3, dim, in);
        mark = bmvp_scope_begin(b.c);
        y = bmvp_block_end(&b.m, mark, bmvp_run_attention_block(&b.m, &block, x));
        if (CHECK(y != NULL)) {
            if (i == 0) memcpy(first, y->x, sizeof first);
            if (i == 1) CHECK_CLOSE("drop path that never drops", y->x, first, 80, 1e-5);
            bmvp_backward(b.c, bmvp_mean(b.c, bmvp_mul(b.c, y, y)));
            if (i > 1) memcpy(grad[i - 2], x->g, sizeof grad[0]);
        }
        bench_end(&b);
    }
    CHECK_SAME("recomputed", grad[1], grad[0], 80);
    free(in);
}

static void check_failure(bench *b, bmvp_status status, const char *part)
{
    CHECK(bmvp_error_of(b->c)->status == status);
    CHECK_HOLDS(bmvp_error_of(b->c)->message, part);
    bmvp_clear_error(b->c);
}

static void test_wrong_uses(void)
{
    const int64_t dim[2] = { 2, 3 };
    bmvp_layer none;
    bmvp_tensor *x;
    char name[300];
    bench b;
    bench_begin(&b);
    memset(&none, 0, sizeof none);
    x = bmvp_leaf(b.c, 2, dim, NULL);
    CHECK(!bmvp_run(&b.m, &none, x));
    check_failure(&b, BMVP_E_STATE, "was not made");
    bmvp_leave(&b.m);
    check_failure(&b, BMVP_E_STATE, "without bmvp_enter");
    memset(name, 'a', sizeof name - 1);
    name[sizeof name - 1] = 0;
    (void)bmvp_make_linear(&b.m, name, 3, 3, 1);
    check_failure(&b, BMVP_E_ARG, "too long");
    bmvp_enter(&b.m, "%s", name);
    check_failure(&b, BMVP_E_ARG, "too long");
    CHECK(!bmvp_drop_path(&b.m, x, 0.5));
    check_failure(&b, BMVP_E_STATE, "bmvp_module_draws");
    bmvp_init_as(&b.m, x, BMVP_INIT_NORMAL, 1);
    check_failure(&b, BMVP_E_ARG, "not made in this module");
    bench_end(&b);
}

/* Fields by name: what is wrong is named. */
static void test_config_text(void)
{
    static const char *const wrong[5] = { "dim=1,2,3", "width=", "width=x", "width=3,4", "width 3" };
    bmvp_net_config k = bmvp_net_config_default("unet3d");
    bmvp_error err;
    int i;
    CHECK(bmvp_net_config_set(&k, " width=16  groups=4 heads=3", &err) == BMVP_OK);
    CHECK(k.width == 16 && k.groups == 4 && bmvp_net_option_of(&k, "heads", 0) == 3 &&
          bmvp_net_option_of(&k, "other", 9) == 9);
    for (i = 0; i < 5; ++i) CHECK(bmvp_net_config_set(&k, wrong[i], &err) == BMVP_E_ARG);
    {
        bmvp_ctx *c = bmvp_create(NULL, NULL);
        CHECK(!bmvp_net_create(c, &k));
        CHECK_HOLDS(bmvp_error_of(c)->message, "no field 'heads'");
        bmvp_clear_error(c);
        snprintf(k.kind, sizeof k.kind, "nowhere");
        CHECK(!bmvp_net_create(c, &k));
        CHECK_HOLDS(bmvp_error_of(c)->message, "bmvp_config.networks");
        bmvp_destroy(c);
    }
}

int main(int argc, char **argv)
{
    check_begin(argc, argv);
    CHECK_RUN(test_against_pytorch);
    CHECK_RUN(test_start_as_pytorch);
    CHECK_RUN(test_drop_path);
    CHECK_RUN(test_block_with_drop_path);
    CHECK_RUN(test_wrong_uses);
    CHECK_RUN(test_config_text);
    return check_end();
}
