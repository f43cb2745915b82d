/* test_ops.c - bmvp_tensor.h: every op against PyTorch (fixtures of tests/reference/ops_reference.py), against its
   plain loop on every instruction set and number of threads, and by finite differences. */
#include "bmvp_nifti.h"
#include "bmvp_tensor.h"
#include "bmvp_nn.h"
#include "tests/support/check.h"
#include "tests/support/context.h"
#include "tests/support/fixture.h"
#include "tests/support/formula.h"
#include "tests/support/golden_ssl.h"

/* >>op cases: one builder an op, from operands and attributes ----------------------------------------------------- */

enum { MAX_OPERANDS = 6 };

/* One case: of a fixture (attributes in its metadata) or written here (attributes as "key=value key=value"). */
typedef struct op_case {
    bmvp_ckpt *file;
    const char *name, *attributes;
} op_case;

static const char *attribute(const op_case *k, const char *key)
{
    const size_t n = strlen(key);
    const char *p = k->attributes;
    if (k->file) return fixture_text(k->file, "%s.%s", k->name, key);
    for (; p && *p; p = strchr(p, ' ') ? strchr(p, ' ') + 1 : NULL)
        if (strncmp(p, key, n) == 0 && p[n] == '=') return p + n + 1;
    return NULL;
}
static int64_t integer(const op_case *k, const char *key)
{
    int64_t v = 0;
    CHECK(fixture_numbers(attribute(k, key), &v, 1) == 1);
    return v;
}
static double number(const op_case *k, const char *key)
{
    const char *t = attribute(k, key);
    CHECK(t != NULL);
    return t ? strtod(t, NULL) : 0;
}

/* A list of at most `most` numbers; returns how many */
static int integers(const op_case *k, const char *key, int32_t *v, int most)
{
    int64_t wide[64] = { 0 };
    const int n = fixture_numbers(attribute(k, key), wide, most < 64 ? most : 64);
    int i;
    for (i = 0; i < n; ++i) v[i] = (int32_t)wide[i];
    return n;
}

#define BUILD(op) static bmvp_tensor *build_##op(bmvp_ctx *c, const op_case *k, bmvp_tensor **in)
#define OPERANDS_add "a b"
BUILD(add) { (void)k; return bmvp_add(c, in[0], in[1]); }
#define OPERANDS_mul "a b"
BUILD(mul) { (void)k; return bmvp_mul(c, in[0], in[1]); }
#define OPERANDS_sub "a b"
BUILD(sub) { (void)k; return bmvp_sub(c, in[0], in[1]); }
#define OPERANDS_div "a b"
BUILD(div) { (void)k; return bmvp_div(c, in[0], in[1]); }
#define OPERANDS_scale "x"
BUILD(scale) { return bmvp_scale(c, in[0], number(k, "factor"), number(k, "offset")); }
#define OPERANDS_relu "x"
BUILD(relu) { return attribute(k, "slope") ? bmvp_leaky_relu(c, in[0], number(k, "slope")) : bmvp_relu(c, in[0]); }
#define OPERANDS_sigmoid "x"
BUILD(sigmoid) { (void)k; return bmvp_sigmoid(c, in[0]); }
#define OPERANDS_gelu "x"
BUILD(gelu) { (void)k; return bmvp_gelu(c, in[0]); }
#define OPERANDS_abs "x"
BUILD(abs) { (void)k; return bmvp_abs(c, in[0]); }
#define OPERANDS_sqrt "x"
BUILD(sqrt) { (void)k; return bmvp_sqrt(c, in[0]); }
#define OPERANDS_exp "x"
BUILD(exp) { (void)k; return bmvp_exp(c, in[0]); }
#define OPERANDS_natural_log "x"
BUILD(natural_log) { (void)k; return bmvp_natural_log(c, in[0]); }
#define OPERANDS_clamp "x"
BUILD(clamp) { return bmvp_clamp(c, in[0], number(k, "low"), number(k, "high")); }
#define OPERANDS_softmax "x"
BUILD(softmax) { (void)k; return bmvp_softmax(c, in[0]); }
#define OPERANDS_l2_normalize "x"
BUILD(l2_normalize) { return bmvp_l2_normalize(c, in[0], number(k, "eps")); }
#define OPERANDS_reshape "x"
BUILD(reshape)
{
    int64_t dim[BMVP_MAX_DIMS];
    const int rank = fixture_numbers(attribute(k, "shape"), dim, BMVP_MAX_DIMS);
    return bmvp_reshape(c, in[0], rank, dim);
}
#define OPERANDS_permute "x"
BUILD(permute)
{
    int64_t v[BMVP_MAX_DIMS];
    int axes[BMVP_MAX_DIMS], i, n = fixture_numbers(attribute(k, "axes"), v, BMVP_MAX_DIMS);
    for (i = 0; i < n; ++i) axes[i] = (int)v[i];
    return bmvp_permute(c, in[0], axes);
}
#define OPERANDS_roll "x"
BUILD(roll)
{
    int64_t shift[BMVP_MAX_DIMS];
    fixture_numbers(attribute(k, "shift"), shift, BMVP_MAX_DIMS);
    return bmvp_roll(c, in[0], shift);
}
#define OPERANDS_slice "x"
BUILD(slice) { return bmvp_slice(c, in[0], (int)integer(k, "axis"), integer(k, "start"), integer(k, "length")); }
#define OPERANDS_pad "x"
BUILD(pad)
{
    int64_t low[BMVP_MAX_DIMS], high[BMVP_MAX_DIMS];
    fixture_numbers(attribute(k, "low"), low, BMVP_MAX_DIMS);
    fixture_numbers(attribute(k, "high"), high, BMVP_MAX_DIMS);
    return bmvp_pad(c, in[0], low, high);
}
#define OPERANDS_concat "a b d"
BUILD(concat) { return bmvp_concat(c, in[2] ? 3 : in[1] ? 2 : 1, in, (int)integer(k, "axis")); }
#define OPERANDS_upsample_nearest "x"
BUILD(upsample_nearest) { return bmvp_upsample_nearest(c, in[0], (int)integer(k, "factor")); }
#define OPERANDS_upsample_trilinear "x"
BUILD(upsample_trilinear)
{
    return bmvp_upsample_trilinear(c, in[0], (int)integer(k, "factor"), (int)integer(k, "corners"));
}
#define OPERANDS_maxpool3d "x"
BUILD(maxpool3d) { return bmvp_maxpool3d(c, in[0], (int)integer(k, "kernel")); }
#define OPERANDS_space_to_depth "x"
BUILD(space_to_depth) { return bmvp_space_to_depth(c, in[0], (int)integer(k, "block")); }
#define OPERANDS_box_sum3d "x"
BUILD(box_sum3d) { return bmvp_box_sum3d(c, in[0], (int)integer(k, "size")); }
#define OPERANDS_grid_sample3d "x position"
BUILD(grid_sample3d)
{
    const char *wide = attribute(k, "wide"); /* positions from [-1, 1): times this, and that much more */
    return bmvp_grid_sample3d(c, in[0], wide ? bmvp_scale(c, in[1], strtod(wide, NULL), strtod(wide, NULL)) : in[1]);
}
#define OPERANDS_gather_rows "x"
BUILD(gather_rows)
{
    int32_t index[64];
    const int n = integers(k, "index", index, 64);
    return bmvp_gather_rows(c, in[0], n, index);
}
#define OPERANDS_where_rows "x row"
BUILD(where_rows)
{
    int32_t mask[400];
    int i, n = attribute(k, "mask") ? integers(k, "mask", mask, 400) : 0;
    for (i = n; i < 400; ++i) mask[i] = i % 7 < 3; /* of large cases */
    return bmvp_where_rows(c, in[0], in[1], mask);
}
#define OPERANDS_sum "x"
BUILD(sum) { (void)k; return bmvp_sum(c, in[0]); }
#define OPERANDS_mean "x"
BUILD(mean) { (void)k; return bmvp_mean(c, in[0]); }
#define OPERANDS_global_pool "x"
BUILD(global_pool) { (void)k; return bmvp_global_pool(c, in[0]); }
#define OPERANDS_bce_logits "input target"
BUILD(bce_logits) { (void)k; return bmvp_bce_logits(c, in[0], in[1]); }
#define OPERANDS_soft_dice "p target"
BUILD(soft_dice) { return bmvp_soft_dice(c, in[0], in[1], (int)integer(k, "squared"), number(k, "smooth")); }
#define OPERANDS_mse "input target"
BUILD(mse) { (void)k; return bmvp_mse(c, in[0], in[1]); }
#define OPERANDS_l1 "input target"
BUILD(l1) { (void)k; return bmvp_l1(c, in[0], in[1]); }
#define OPERANDS_cross_entropy "logits"
BUILD(cross_entropy)
{
    int64_t v[64] = { 0 };
    int32_t target[64];
    float weight[64];
    const char *w = attribute(k, "weight");
    char *end;
    int i;
    fixture_numbers(attribute(k, "target"), v, 64);
    for (i = 0; i < 64; ++i) target[i] = (int32_t)v[i];
    for (i = 0; w && *w && i < 64; w = *end == ',' ? end + 1 : end) weight[i++] = strtof(w, &end);
    return bmvp_cross_entropy_weighted(c, in[0], target, w ? weight : NULL);
}
#define OPERANDS_matmul "a b"
BUILD(matmul) { return bmvp_matmul(c, in[0], in[1], (int)integer(k, "transpose_a"), (int)integer(k, "transpose_b")); }
#define OPERANDS_linear "x w b residual"
BUILD(linear)
{
    (void)k;
    return in[3] ? bmvp_linear_residual(c, in[0], in[1], in[2], in[3]) : bmvp_linear(c, in[0], in[1], in[2]);
}
#define OPERANDS_mlp "x w1 b1 w2 b2 residual"
BUILD(mlp)
{
    (void)k;
    return in[5] ? bmvp_mlp_residual(c, in[0], in[1], in[2], in[3], in[4], in[5])
                 : bmvp_mlp(c, in[0], in[1], in[2], in[3], in[4]);
}
#define OPERANDS_attention "qkv table"
/* Window attention, of a window of n^3: token t of a smaller one is taken for token t of it, and in window w of the
   grid is of region (t + w) w mod 3; regions 0: none. */
static bmvp_tensor *build_window_attention(bmvp_ctx *c, const op_case *k, bmvp_tensor **in)
{
    const int n = (int)integer(k, "window"), tokens = (int)in[0]->dim[1], windows = (int)integer(k, "regions");
    int32_t place[343], region[3 * 343];
    int t;
    for (t = 0; t < tokens; ++t) place[t] = (t / n / n * (2 * n - 1) + t / n % n) * (2 * n - 1) + t % n;
    for (t = 0; t < windows * tokens; ++t) region[t] = (t % tokens + t / tokens) * (t / tokens) % 3;
    return bmvp_window_attention(c, in[0], (int)integer(k, "heads"), number(k, "scale"), in[1], place,
                                 windows ? region : NULL, windows);
}
BUILD(attention)
{
    if (in[1]) return build_window_attention(c, k, in);
    return bmvp_attention(c, in[0], (int)integer(k, "heads"), number(k, "scale"));
}
#define OPERANDS_conv3d "x w b"
BUILD(conv3d)
{
    bmvp_conv_shape s;
    fixture_numbers(attribute(k, "stride"), s.stride, 3);
    fixture_numbers(attribute(k, "pad"), s.pad, 3);
    s.groups = integer(k, "groups");
    return bmvp_conv3d(c, in[0], in[1], in[2], &s);
}
#define OPERANDS_depthwise3d "x w b"
BUILD(depthwise3d)
{
    return (attribute(k, "residual") ? bmvp_depthwise3d_residual : bmvp_depthwise3d)(c, in[0], in[1], in[2]);
}
#define OPERANDS_conv_transpose3d "x w b"
BUILD(conv_transpose3d) { (void)k; return bmvp_conv_transpose3d(c, in[0], in[1], in[2]); }
#define OPERANDS_batchnorm "x gamma beta mean var"
BUILD(batchnorm)
{
    return bmvp_batchnorm(c, in[0], in[1], in[2], in[3], in[4], (int)integer(k, "training"), number(k, "momentum"),
                          number(k, "eps"));
}
#define OPERANDS_layernorm "x gamma beta"
BUILD(layernorm) { return bmvp_layernorm(c, in[0], in[1], in[2], number(k, "eps")); }
#define OPERANDS_groupnorm "x gamma beta"
BUILD(groupnorm) { return bmvp_groupnorm(c, in[0], in[1], in[2], (int)integer(k, "groups"), number(k, "eps")); }
#define OPERANDS_groupnorm_relu "x gamma beta residual"
BUILD(groupnorm_relu)
{
    return bmvp_groupnorm_relu(c, in[0], in[1], in[2], in[3], (int)integer(k, "groups"), number(k, "eps"),
                               number(k, "slope"));
}
#define OPERANDS_masked_fill "x filler mask"
BUILD(masked_fill)
{
    int64_t start[3] = { 0, 0, 0 };
    fixture_numbers(attribute(k, "start"), start, 3);
    return bmvp_masked_fill(c, in[0], in[1], in[2], start);
}
#define OPERANDS_minmax "x"
BUILD(minmax) { return bmvp_minmax(c, in[0], number(k, "eps")); }

/* From the list of ops itself: an op without a builder here does not compile. */
typedef struct op_row {
    const char *name, *operands;
    bmvp_tensor *(*build)(bmvp_ctx *c, const op_case *k, bmvp_tensor **in);
    int reads; /* by its backward */
} op_row;
#define BMVP_X(id, name, reads, type) { #name, OPERANDS_##name, build_##name, BMVP_READS_##reads },
static const op_row op_rows[] = { BMVP_OPS(BMVP_X) };
#undef BMVP_X

/* >>op run: values and gradients of one case ---------------------------------------------------------------------- */

typedef struct op_values {
    int n;                              /* operands */
    char name[MAX_OPERANDS][16];
    int with_grad[MAX_OPERANDS], running[MAX_OPERANDS];
    fixture_tensor in[MAX_OPERANDS], grad[MAX_OPERANDS], after[MAX_OPERANDS], y, gy; /* x NULL: absent */
    int spoiled;                        /* NaN before backward: bit i: operand i, BMVP_READS_OUT: y */
} op_values;

static void operand_names(op_values *v, const op_row *row)
{
    const char *p = row->operands;
    memset(v, 0, sizeof *v);
    while (sscanf(p, "%15s", v->name[v->n]) == 1) {
        p += strlen(v->name[v->n]);
        p += *p == ' ';
        v->running[v->n] = strcmp(row->name, "batchnorm") == 0 && v->n > 2;
        if (!*p || ++v->n == MAX_OPERANDS) break;
    }
    ++v->n;
}
static void values_free(op_values *v)
{
    int i;
    for (i = 0; i < v->n; ++i) {
        free(v->in[i].x);
        free(v->grad[i].x);
        free(v->after[i].x);
    }
    free(v->y.x);
    free(v->gy.x);
}
static fixture_tensor tensor_like(int rank, const int64_t *dim)
{
    fixture_tensor t;
    int i;
    memset(&t, 0, sizeof t);
    t.rank = rank;
    t.numel = 1;
    for (i = 0; i < rank; ++i) t.numel *= t.dim[i] = dim[i];
    t.x = (float *)calloc((size_t)t.numel, sizeof(float));
    return t;
}

/* The first operand becomes a leaf, further ones parameters: both ways of keeping a gradient are met. */
static bmvp_tensor *make_operand(bmvp_ctx *c, const op_values *v, int i)
{
    const fixture_tensor *t = &v->in[i];
    bmvp_tensor *p;
    if (!t->x) return NULL;
    if (i == 0 || !(v->with_grad[i] || v->running[i]))
        return v->with_grad[i] ? bmvp_leaf(c, t->rank, t->dim, t->x) : bmvp_input(c, t->rank, t->dim, t->x);
    p = v->running[i] ? bmvp_buffer(c, v->name[i], t->rank, t->dim) : bmvp_param(c, v->name[i], t->rank, t->dim);
    bmvp_write(c, p, t->x);
    return p;
}

static void spoil(bmvp_ctx *c, bmvp_tensor *t)
{
    float *x = t ? (float *)malloc((size_t)t->numel * sizeof *x) : NULL;
    int64_t i;
    for (i = 0; x && i < t->numel; ++i) x[i] = (float)NAN;
    if (x) bmvp_write(c, t, x);
    free(x);
}

/* Runs the case; times 2: twice from the same operands, so that gradients are added. Fills y, gradients and `after` of
   out, or, where gy has no values yet (a case without fixture), first makes a random cotangent in v. Returns 0 after a
   failure. */
static int run_case(const bmvp_config *cfg, const op_row *row, const op_case *k, op_values *v, int times,
                    op_values *out)
{
    bmvp_ctx *c = bmvp_create(cfg, NULL);
    bmvp_tensor *in[MAX_OPERANDS] = { NULL }, *y[2] = { NULL, NULL };
    int64_t j;
    int i;
    *out = *v;
    memset(out->in, 0, sizeof out->in);
    memset(&out->gy, 0, sizeof out->gy);
    for (i = 0; i < v->n; ++i) in[i] = make_operand(c, v, i);
    for (i = 0; i < times; ++i) y[i] = bmvp_keep(row->build(c, k, in));
    if (y[0] && !v->gy.x) {
        bmvp_rng r = bmvp_rng_make(5, 0, 0, 0);
        v->gy = tensor_like(y[0]->rank, y[0]->dim);
        for (j = 0; j < v->gy.numel; ++j) v->gy.x[j] = 2 * bmvp_rng_uniform(&r) - 1;
    }
    if (y[0] && v->y.x) CHECK(y[0]->numel == v->y.numel && y[0]->numel == v->gy.numel);
    if (y[0]) {
        out->y = tensor_like(y[0]->rank, y[0]->dim);
        bmvp_read(c, y[0], out->y.x);
    }
    for (i = 0; i < v->n; ++i) if (v->spoiled >> i & 1) spoil(c, in[i]);
    if (v->spoiled & BMVP_READS_OUT) spoil(c, y[0]);
    for (i = times - 1; i >= 0 && check_all.bad == 0; --i) bmvp_backward_from(c, y[i], v->gy.x);
    for (i = 0; i < v->n; ++i) {
        memset(&out->grad[i], 0, sizeof out->grad[i]);
        memset(&out->after[i], 0, sizeof out->after[i]);
        if (!in[i] || bmvp_failed(c)) continue;
        if (v->with_grad[i]) bmvp_read_grad(c, in[i], (out->grad[i] = tensor_like(in[i]->rank, in[i]->dim)).x);
        if (v->running[i]) bmvp_read(c, in[i], (out->after[i] = tensor_like(in[i]->rank, in[i]->dim)).x);
    }
    check_report(!bmvp_failed(c), __FILE__, __LINE__, "%s", bmvp_error_of(c)->message);
    i = !bmvp_failed(c) && check_all.bad == 0;
    bmvp_destroy(c);
    return i;
}

static void compare_same(const op_values *a, const op_values *b)
{
    char what[32];
    int i;
    CHECK_SAME("y", a->y.x, b->y.x, b->y.numel);
    for (i = 0; i < a->n; ++i) {
        snprintf(what, sizeof what, "g%s", a->name[i]);
        if (b->grad[i].x) CHECK_SAME(what, a->grad[i].x, b->grad[i].x, b->grad[i].numel);
        snprintf(what, sizeof what, "%s_after", a->name[i]);
        if (b->after[i].x) CHECK_SAME(what, a->after[i].x, b->after[i].x, b->after[i].numel);
    }
}

/* Operands rounded to bfloat16: the difference is 1.5e-2 of the values at most (root mean squares), and unbiased: no
   part of the values themselves is in it. */
static void check_rounded(const char *what, const fixture_tensor *got, const fixture_tensor *want)
{
    double square = 0, diff = 0, along = 0, size, bias;
    int64_t i;
    if (!want->x) return;
    for (i = 0; i < want->numel; ++i) {
        const double d = (double)got->x[i] - (double)want->x[i], w = want->x[i];
        square += w * w;
        diff += d * d;
        along += d * w;
    }
    size = sqrt(diff / square);
    bias = fabs(along / square);
    check_report(size <= 1.5e-2, __FILE__, __LINE__, "%s differs by %.2e of its values", what, size);
    check_report(bias <= 1e-3 + 4 * size / sqrt((double)want->numel), __FILE__, __LINE__,
                 "%s is off by a factor of 1 + %.2e", what, bias);
}
static void compare_rounded(const op_values *got, const op_values *want)
{
    int i;
    check_rounded("y", &got->y, &want->y);
    for (i = 0; i < want->n; ++i) check_rounded(want->name[i], &got->grad[i], &want->grad[i]);
}
static int is_rounded(int level, const op_row *row)
{
    static const char *const rounded[] = { "linear", "conv3d", "conv_transpose3d", "mlp", "attention" };
    size_t i;
    for (i = 0; level == LEVEL_BF16 && i < sizeof rounded / sizeof *rounded; ++i)
        if (strcmp(row->name, rounded[i]) == 0) return i < 3 ? 1 : 2; /* 2: several products one after the other */
    return 0;
}

/* factor: gradients are that many times those of `want` */
static void compare_close(const op_values *got, const op_values *want, double tol, float factor)
{
    char what[32];
    int64_t j;
    int i;
    CHECK_CLOSE("y", got->y.x, want->y.x, want->y.numel, tol);
    for (i = 0; i < want->n; ++i) {
        snprintf(what, sizeof what, "%dx g%s", (int)factor, want->name[i]);
        for (j = 0; got->grad[i].x && j < got->grad[i].numel; ++j) got->grad[i].x[j] /= factor;
        if (want->grad[i].x) CHECK_CLOSE(what, got->grad[i].x, want->grad[i].x, want->grad[i].numel, tol);
        snprintf(what, sizeof what, "%s_after", want->name[i]);
        if (want->after[i].x && factor == 1)
            CHECK_CLOSE(what, got->after[i].x, want->after[i].x, want->after[i].numel, tol);
    }
}

/* One case at one level: 2 and 3 threads give the bits of 1; then, if there are values to compare with, those;
   tol 0: rounded to bfloat16. */
static void try_case(bmvp_simd level, const op_row *row, const op_case *k, op_values *v, const op_values *want,
                     double tol)
{
    op_values first, other;
    bmvp_config cfg = config_of(level, 1);
    int threads;
    if (run_case(&cfg, row, k, v, 1, &first)) {
        for (threads = 2; threads <= 3; ++threads) {
            cfg = config_of(level, threads);
            if (run_case(&cfg, row, k, v, 1, &other)) compare_same(&other, &first);
            values_free(&other);
        }
        if (want && tol == 0) compare_rounded(&first, want);
        else if (want) compare_close(&first, want, tol, 1);
        cfg = config_of(level, 1);
        if (want && tol > 0 && check_all.bad == 0 && run_case(&cfg, row, k, v, 2, &other)) {
            compare_close(&other, want, tol, 2);
            values_free(&other);
        }
    }
    values_free(&first);
}

/* >>op tests ------------------------------------------------------------------------------------------------------ */

static void load_case(const op_case *k, const op_row *row, op_values *v)
{
    int i;
    operand_names(v, row);
    for (i = 0; i < v->n; ++i) {
        v->in[i] = fixture_load(k->file, "%s.%s", k->name, v->name[i]);
        v->grad[i] = fixture_load(k->file, "%s.g%s", k->name, v->name[i]);
        v->after[i] = fixture_load(k->file, "%s.%s_after", k->name, v->name[i]);
        v->with_grad[i] = v->grad[i].x != NULL;
    }
    v->y = fixture_load(k->file, "%s.y", k->name);
    v->gy = fixture_load(k->file, "%s.gy", k->name);
    CHECK(v->in[0].x && v->y.x && v->gy.x);
}

/* Every case of an op's fixture, a test each. */
static void test_fixture(const op_row *row)
{
    const int last = last_level();
    char path[64], name[64];
    const char *p;
    op_values v;
    op_case k;
    int level;
    check_start("op %s", row->name);
    snprintf(path, sizeof path, "ops/%s.safetensors", row->name);
    memset(&k, 0, sizeof k);
    k.file = fixture_open(path);
    k.name = name;
    p = k.file ? fixture_text(k.file, "cases") : NULL;
    if (!CHECK(p != NULL)) check_finish();
    while (p && sscanf(p, "%63[^,]", name) == 1) {
        p += strlen(name);
        if (*p == ',') ++p;
        for (level = BMVP_SIMD_PLAIN; level <= last; ++level) {
            if (!check_start("op %s.%s %s", row->name, name, level_text(level))) continue;
            load_case(&k, row, &v);
            try_case((bmvp_simd)level, row, &k, &v, &v, is_rounded(level, row) ? 0 : number(&k, "tol"));
            values_free(&v);
            check_finish();
        }
    }
    bmvp_ckpt_close(k.file);
}

/* Are all gradients the same bits? */
static int same_gradients(const op_values *a, const op_values *b)
{
    int i;
    for (i = 0; i < a->n; ++i)
        if (a->grad[i].x && memcmp(a->grad[i].x, b->grad[i].x, (size_t)a->grad[i].numel * sizeof(float)) != 0) return 0;
    return 1;
}
/* Backward of one case with each of its values in turn spoilt: those that the list says it reads change a gradient,
   others none. Returns those that did; *there: what the case has. */
static int case_reads(const bmvp_config *cfg, const op_row *row, const op_case *k, int *there)
{
    op_values v, whole, got;
    int bit, found = 0;
    load_case(k, row, &v);
    *there = BMVP_READS_OUT;
    if (run_case(cfg, row, k, &v, 1, &whole)) {
        for (bit = 0; bit <= BMVP_MAX_SRC; ++bit) {
            if (bit < BMVP_MAX_SRC && (bit >= v.n || !v.in[bit].x)) continue;
            *there |= v.spoiled = 1 << bit;
            if (run_case(cfg, row, k, &v, 1, &got) && !same_gradients(&whole, &got)) found |= 1 << bit;
            values_free(&got);
        }
    }
    values_free(&whole);
    values_free(&v);
    return found;
}
/* The list's column `reads` of one op: not less than its backward reads at any level and in any case, and not more than
   it reads in all. */
static void test_reads(const op_row *row)
{
    const bmvp_simd best = best_level();
    char path[64], name[64];
    const char *p;
    op_case k;
    int level, found = 0, there = 0, here;
    if (!check_start("backward of %s reads what the list says", row->name)) return;
    snprintf(path, sizeof path, "ops/%s.safetensors", row->name);
    memset(&k, 0, sizeof k);
    k.file = fixture_open(path);
    k.name = name;
    for (p = k.file ? fixture_text(k.file, "cases") : NULL; p && sscanf(p, "%63[^,]", name) == 1; p += *p == ',') {
        p += strlen(name);
        for (level = BMVP_SIMD_PLAIN; level <= (int)best; ++level) {
            const bmvp_config cfg = config_of((bmvp_simd)level, 1);
            found |= case_reads(&cfg, row, &k, &here);
            there |= here;
        }
    }
    check_report((found & ~row->reads) == 0, __FILE__, __LINE__, "it reads %#x, the list says %#x", (unsigned)found,
                 (unsigned)row->reads);
    if (best > BMVP_SIMD_PLAIN) CHECK(found == (row->reads & there)); /* plain loops may do with less */
    bmvp_ckpt_close(k.file);
    check_finish();
}

/* Larger shapes, where work is cut into pieces: every level against the plain loop. Tolerances: sums over the longest
   axis met. */
typedef struct big_case {
    const char *op, *dims, *attributes; /* dims: one list an operand, "-" for an absent one */
    double tol;
} big_case;
static const big_case big_cases[] = {
    { "add", "3,50,40,32 3,50,40,32", "", 1e-6 },
    { "add", "3,50,40,37 37", "", 1e-4 },
    { "add", "7,20,30,37 20,30,37", "", 1e-5 },
    { "maxpool3d", "2,17,20,31,24", "kernel=2", 1e-6 },
    { "mul", "3,50,40,37 37", "", 1e-4 },
    { "sub", "300,137 137", "", 1e-4 },
    { "div", "300,137 1", "", 1e-4 },
    { "scale", "300,401", "factor=0.5 offset=-2", 1e-6 },
    { "abs", "300,137", "", 1e-6 },
    { "exp", "300,137", "", 1e-6 },
    { "clamp", "300,137", "low=-0.5 high=0.25", 1e-6 },
    { "l1", "300,137 300,137", "", 5e-5 },
    { "relu", "300,401", "", 1e-6 },
    { "gelu", "300,401", "", 1e-5 },
    { "softmax", "401,67", "", 2e-5 },
    { "l2_normalize", "2,70001", "eps=1e-12", 5e-5 },
    { "permute", "2,40,30,50", "axes=0,3,1,2", 1e-6 },
    { "roll", "2,40,30,50", "shift=0,-3,14,49", 1e-6 },
    { "slice", "40,30,50", "axis=1 start=3 length=20", 1e-6 },
    { "pad", "40,30,50", "low=1,2,3 high=3,2,1", 1e-6 },
    { "concat", "3,20,20,33 3,20,20,16 3,20,20,7", "axis=3", 1e-6 },
    { "upsample_nearest", "2,10,9,8,33", "factor=2", 1e-5 },
    { "space_to_depth", "2,16,8,12,9", "block=4", 1e-6 },
    { "box_sum3d", "2,9,14,11,15", "size=9", 1e-4 },
    { "grid_sample3d", "2,9,8,7,5 2,9,17,11,3", "wide=4.1", 1e-4 },
    { "gather_rows", "40,1500", "index=4,0,39,4,4,17,2,39,4,30,31,4,1,1,2,3,5,8,13,21,34,0,0,7", 1e-5 },
    { "where_rows", "400,107 107", "", 1e-4 },
    { "sum", "401,303", "", 2e-4 },
    { "mean", "401,303", "", 2e-4 },
    { "mse", "401,303 401,303", "", 5e-5 },
    { "cross_entropy", "33,517", "", 5e-5 },
    { "matmul", "3,200,130 3,130,70", "transpose_a=0 transpose_b=0", 5e-5 },
    { "matmul", "5,130,90 5,70,130", "transpose_a=1 transpose_b=1", 5e-5 },
    { "linear", "3000,96 96,130 130", "", 1e-4 },
    { "linear", "2,7000 7000,3 3", "", 2e-4 },
    { "linear", "301,67 67,45 45", "", 1e-4 },
    { "linear", "3001,37 37,45 45", "", 2e-4 },
    { "linear", "301,67 67,45 - 301,45", "", 1e-4 },
    { "linear", "2,7000 7000,3 3 2,3", "", 2e-4 },
    { "linear", "1000,700 700,70 70 1000,70", "", 1e-4 },
    { "mlp", "700,48 48,192 192 192,48 48", "", 2e-4 },
    { "mlp", "130,272 272,80 80 80,33 33 130,33", "", 2e-4 },
    { "mlp", "701,48 48,600 600 600,45 - 701,45", "", 2e-4 },
    { "mlp", "130,272 272,80 80 80,33 33", "", 2e-4 },
    { "mlp", "30,256 256,304 304 304,264 264", "", 2e-4 },
    { "attention", "2,300,288", "heads=3 scale=0.176", 1e-4 },
    { "attention", "1,217,192", "heads=1 scale=0.125", 1e-4 },
    { "attention", "6,343,72 2197,2", "heads=2 scale=0.29 window=7 regions=3", 2e-4 },
    { "attention", "30,64,36 2197,3", "heads=3 scale=0.5 window=7 regions=2", 2e-4 },
    { "conv3d", "2,9,10,21,32 3,3,3,32,48 48", "stride=1,1,1 pad=1,1,1 groups=1", 2e-4 },
    { "conv3d", "2,12,10,22,33 2,2,2,33,40 40", "stride=2,2,2 pad=0,0,0 groups=1", 2e-4 },
    { "conv3d", "2,15,19,17,32 3,3,3,32,48 48", "stride=1,1,1 pad=1,1,1 groups=1", 2e-4 },
    { "conv3d", "1,1,70,60,16 3,3,3,16,16 16", "stride=1,1,1 pad=1,1,1 groups=1", 2e-4 },
    { "conv3d", "1,4,5,6,192 3,3,3,192,40 40", "stride=1,1,1 pad=1,1,1 groups=1", 2e-4 },
    { "conv3d", "1,24,26,28,1 2,2,2,1,64 64", "stride=2,2,2 pad=0,0,0 groups=1", 2e-4 },
    { "conv3d", "1,24,26,28,1 3,3,3,1,16 16", "stride=1,1,1 pad=1,1,1 groups=1", 2e-4 },
    { "conv3d", "1,11,9,14,24 3,3,3,8,36 36", "stride=2,1,2 pad=1,0,2 groups=3", 2e-4 },
    { "depthwise3d", "2,9,11,13,64 5,5,5,64 64", "", 2e-4 },
    { "depthwise3d", "1,20,21,22,37 3,3,3,37 37", "", 2e-4 },
    { "depthwise3d", "2,9,11,13,64 5,5,5,64 64", "residual=1", 2e-4 },
    { "depthwise3d", "1,20,21,22,37 3,3,3,37 37", "residual=1", 2e-4 },
    { "conv_transpose3d", "2,9,8,7,64 64,2,2,2,48 48", "", 2e-4 },
    { "batchnorm", "2,20,21,11,37 37 37 37 37", "training=1 momentum=0.1 eps=1e-5", 2e-4 },
    { "batchnorm", "2,20,21,11,37 37 37 37 37", "training=0 momentum=0.1 eps=1e-5", 2e-4 },
    { "layernorm", "3001,96 96 96", "eps=1e-6", 2e-4 },
    { "groupnorm", "2,13,12,11,48 48 48", "groups=8 eps=1e-5", 2e-4 },
    { "groupnorm_relu", "2,13,12,11,48 48 48 2,13,12,11,48", "groups=8 eps=1e-5 slope=0.01", 2e-4 },
    { "masked_fill", "30,40,50 60,30,70 30,40,50", "start=5,-5,30", 1e-6 },
    { "minmax", "60,70,33", "eps=1e-3", 1e-4 },
};

static void fill_big(const op_row *row, const char *dims, op_values *v)
{
    char one[64];
    int64_t dim[BMVP_MAX_DIMS], j;
    int i;
    operand_names(v, row);
    for (i = 0; i < v->n && sscanf(dims, "%63s", one) == 1; ++i) {
        bmvp_rng r = bmvp_rng_make(9, (uint32_t)i, 0, 0);
        const int rank = fixture_numbers(one, dim, BMVP_MAX_DIMS), mask = strcmp(v->name[i], "mask") == 0;
        dims += strlen(one);
        dims += *dims == ' ';
        if (one[0] == '-') continue;
        v->in[i] = tensor_like(rank, dim);
        v->with_grad[i] = !v->running[i] && !mask;
        for (j = 0; j < v->in[i].numel; ++j) {
            const float u = bmvp_rng_uniform(&r);
            v->in[i].x[j] = mask ? (float)(u > 0.3f) : v->running[i] ? 0.5f + u : 2 * u - 1;
        }
    }
}

static void round_to_bf16(fixture_tensor *t)
{
    int64_t i;
    uint32_t u;
    for (i = 0; t->x && i < t->numel; ++i) {
        memcpy(&u, &t->x[i], sizeof u);
        u &= 0xffff0000u;
        memcpy(&t->x[i], &u, sizeof u);
    }
}

/* Of operands that are bfloat16 numbers nothing is lost: every product and every tail must be there. */
static void test_exact_products(const big_case *b, const op_row *row, const op_case *k, op_values *v)
{
    const bmvp_config plain = config_of(BMVP_SIMD_PLAIN, 2);
    op_values want;
    int i;
    if (!check_start("exact %s (%s) bf16", b->op, b->dims)) return;
    for (i = 0; i < 2; ++i) round_to_bf16(&v->in[i]);
    round_to_bf16(&v->gy);
    if (run_case(&plain, row, k, v, 1, &want)) try_case((bmvp_simd)LEVEL_BF16, row, k, v, &want, b->tol);
    values_free(&want);
    check_finish();
}

static void test_big_case(const big_case *b)
{
    const int last = last_level();
    const bmvp_config plain = config_of(BMVP_SIMD_PLAIN, 2);
    op_values v, want;
    op_case k;
    size_t r;
    int level, have_plain = 0;
    memset(&k, 0, sizeof k);
    memset(&want, 0, sizeof want);
    k.attributes = b->attributes;
    for (r = 0; r < sizeof op_rows / sizeof *op_rows; ++r)
        if (strcmp(op_rows[r].name, b->op) == 0) break;
    if (r == sizeof op_rows / sizeof *op_rows) return;
    fill_big(&op_rows[r], b->dims, &v);
    for (level = BMVP_SIMD_PLAIN; level <= last; ++level) {
        if (!check_start("threads %s (%s) %s", b->op, b->dims, level_text(level))) continue;
        if (!have_plain) have_plain = run_case(&plain, &op_rows[r], &k, &v, 1, &want);
        if (have_plain) try_case((bmvp_simd)level, &op_rows[r], &k, &v, level > 0 ? &want : NULL,
                                is_rounded(level, &op_rows[r]) ? 0 : b->tol);
        check_finish();
    }
    values_free(&want);
    if (is_rounded(last, &op_rows[r]) == 1) test_exact_products(b, &op_rows[r], &k, &v);
    values_free(&v);
}

/* Backward against differences of forward. An unlucky draw can put two values of minmax closer together than the step
   of the difference, so the best of three draws counts: a wrong backward is wrong in all of them. */
static void test_gradcheck(int op)
{
    const bmvp_simd best = best_level();
    int level, variant = 0, seed;
    double worst = 0;
    for (variant = 0; variant < 100 && worst != -1; ++variant)
        for (level = BMVP_SIMD_PLAIN; level <= (int)best; ++level) {
            const bmvp_config cfg = config_of((bmvp_simd)level, 1 + variant % 2);
            worst = HUGE_VAL;
            if (!check_start("gradcheck %s.%d %s", bmvp_op_name(op), variant, bmvp_simd_text((bmvp_simd)level)))
                continue;
            for (seed = 1; seed <= 3 && worst != -1 && !(worst < 1e-2); ++seed) {
                const double e = bmvp_gradcheck(&cfg, op, variant, (uint64_t)seed);
                if (e < worst) worst = e;
            }
            if (worst == -1 && variant > 0) break;
            check_report(worst >= 0 && worst < 1e-2, __FILE__, __LINE__, "relative error %.2e (-1: no sample)", worst);
            check_finish();
        }
}

/* >>golden: PyTorch's numbers of BMVP_DATA/golden/ssl/ops.json ---------------------------------------------------- */

/* A leaf of the shape `dims` from the stream `name` */
static bmvp_tensor *golden_leaf(const golden_ssl *g, bmvp_ctx *c, const char *name, double times, double offset,
                                const char *dims)
{
    int64_t dim[BMVP_MAX_DIMS];
    const int rank = fixture_numbers(dims, dim, BMVP_MAX_DIMS);
    bmvp_tensor *t = bmvp_keep(bmvp_leaf(c, rank, dim, NULL));
    float x[4096];
    golden_ssl_uniform(g, name, times, offset, t->numel, x);
    bmvp_write(c, t, x);
    return t;
}
/* The values, then backward from the stream `cotangent` */
static void golden_run(const golden_ssl *g, const char *of, const char *cotangent, bmvp_ctx *c, bmvp_tensor *y)
{
    float x[4096];
    if (!CHECK(y != NULL)) return;
    golden_ssl_tensor(g, of, cotangent ? "y" : strcmp(of, "l1") == 0 ? "loss" : "y", c, bmvp_keep(y), 0);
    if (cotangent) golden_ssl_uniform(g, cotangent, 2, -1, y->numel, x);
    else x[0] = 1;
    bmvp_backward_from(c, y, x);
}
static void golden_numbers(const golden_ssl *g, bmvp_ctx *c)
{
    const int64_t turned[3] = { 1, 12, 2 }, two = 2;
    const int turn[2] = { 1, 0 };
    float x[12], z[12];
    bmvp_tensor *a = golden_leaf(g, c, "l1.a", 1, 0, "3,4"), *b = golden_leaf(g, c, "l1.b", 1, 0, "3,4"), *v;
    bmvp_read(c, a, x);
    bmvp_read(c, b, z);
    z[5] = x[5];
    bmvp_write(c, b, z);
    golden_run(g, "l1", NULL, c, bmvp_l1(c, a, b));
    golden_ssl_tensor(g, "l1", "grad_a", c, a, 1);
    golden_ssl_tensor(g, "l1", "grad_b", c, b, 1);
    a = golden_leaf(g, c, "cl.x", 4, -2, "12");
    bmvp_read(c, a, x);
    x[0] = 1;
    x[1] = -1;
    bmvp_write(c, a, x);
    golden_run(g, "clamp", "cl.c", c, bmvp_clamp(c, a, -1, 1));
    golden_ssl_tensor(g, "clamp", "grad_x", c, a, 1);
    a = golden_leaf(g, c, "no.x", 2, -1, "2,12");
    v = bmvp_permute(c, a, turn);
    v = bmvp_sub(c, v, bmvp_reshape(c, bmvp_global_pool(c, bmvp_reshape(c, v, 3, turned)), 1, &two));
    golden_run(g, "norm_minus_mean", NULL, c, bmvp_sqrt(c, bmvp_sum(c, bmvp_mul(c, v, v))));
    golden_ssl_tensor(g, "norm_minus_mean", "grad_x", c, a, 1);
    a = golden_leaf(g, c, "bn.x", 2, -1, "5,3");
    golden_run(g, "batchnorm_plain", "bn.c", c, bmvp_batchnorm(c, a, NULL, NULL, NULL, NULL, 1, 0, 1e-5));
    golden_ssl_tensor(g, "batchnorm_plain", "grad_x", c, a, 1);
}
static void golden_places(const golden_ssl *g, bmvp_ctx *c)
{
    const int32_t index[5] = { 4, 0, 4, 2, 4 };
    bmvp_tensor *a = golden_leaf(g, c, "ga.x", 1, 0, "5,3"), *p;
    golden_run(g, "gather_rows", "ga.c", c, bmvp_gather_rows(c, a, 5, index));
    golden_ssl_tensor(g, "gather_rows", "grad_x", c, a, 1);
    a = golden_leaf(g, c, "gs.x", 1, 0, "1,4,3,5,2");
    p = golden_leaf(g, c, "gs.p", 7, -1.5, "1,3,4,2,3");
    golden_run(g, "grid_sample3d", "gs.c", c, bmvp_grid_sample3d(c, a, p));
    golden_ssl_tensor(g, "grid_sample3d", "grad_x", c, a, 1);
    golden_ssl_tensor(g, "grid_sample3d", "grad_p", c, p, 1);
}
/* Attention with a bias and a mask of any kind, of single ops (windows have an op of their own, with places in place of
   the index and regions in place of the mask). */
static bmvp_tensor *golden_biased_attention(const golden_ssl *g, bmvp_ctx *c, bmvp_tensor *qkv, bmvp_tensor *table)
{
    const int64_t split[4] = { 4, 6, 2, 4 }, square[3] = { 2, 6, 6 }, pairs[5] = { 2, 2, 2, 6, 6 },
                  back[4] = { 4, 2, 6, 6 }, out[3] = { 4, 6, 8 };
    const int heads[4] = { 0, 2, 1, 3 }, turn[2] = { 1, 0 };
    const bmvp_json *index = golden_ssl_out(g, "attention_bias_mask", "index");
    bmvp_tensor *part[3], *score, *bias, *mask;
    float hidden[72], all[144];
    int32_t place[36];
    int i;
    for (i = 0; i < 3; ++i)
        part[i] = bmvp_permute(c, bmvp_reshape(c, bmvp_slice(c, qkv, 2, 8 * i, 8), 4, split), heads);
    for (i = 0; i < 36; ++i) place[i] = (int32_t)bmvp_json_int(bmvp_json_at(index, i), 0);
    golden_ssl_uniform(g, "at.mask", 1, 0, 72, hidden);
    for (i = 0; i < 144; ++i) all[i] = hidden[i / 72 * 36 + i % 36] < 0.3f ? -100.0f : 0.0f; /* window, head, i, j */
    mask = bmvp_input(c, 4, pairs + 1, all);
    bias = bmvp_reshape(c, bmvp_permute(c, bmvp_gather_rows(c, table, 36, place), turn), 3, square);
    score = bmvp_scale(c, bmvp_matmul(c, part[0], part[1], 0, 1), 0.5, 0);
    score = bmvp_add(c, bmvp_reshape(c, bmvp_add(c, score, bias), 5, pairs), mask);
    score = bmvp_softmax(c, bmvp_reshape(c, score, 4, back));
    return bmvp_reshape(c, bmvp_permute(c, bmvp_matmul(c, score, part[2], 0, 0), heads), 3, out);
}

static void golden_windows(const golden_ssl *g, bmvp_ctx *c)
{
    const int64_t shift[5] = { 0, -1, -2, 3, 0 };
    const int last[5] = { 0, 2, 3, 4, 1 }, first[5] = { 0, 4, 1, 2, 3 };
    const bmvp_json *tie = golden_ssl_out(g, "maxpool3d", "tie_first_second");
    bmvp_tensor *a = golden_leaf(g, c, "ro.x", 1, 0, "1,3,4,5,2"), *table;
    float x[720];
    golden_run(g, "roll", "ro.c", c, bmvp_roll(c, a, shift));
    golden_ssl_tensor(g, "roll", "grad_x", c, a, 1);
    a = golden_leaf(g, c, "mp.x", 1, 0, "2,3,5,4,6");
    bmvp_read(c, a, x);
    x[0] = x[24 + 6 + 1] = 2;
    bmvp_write(c, a, x);
    golden_run(g, "maxpool3d", "mp.c", c, bmvp_permute(c, bmvp_maxpool3d(c, bmvp_permute(c, a, last), 2), first));
    golden_ssl_tensor(g, "maxpool3d", "grad_x", c, a, 1);
    golden_ssl_near("maxpool3d", "the first of two", bmvp_grad_at(c, a, 0), bmvp_json_double(bmvp_json_at(tie, 0), -9),
                    1e-6);
    golden_ssl_near("maxpool3d", "the second", bmvp_grad_at(c, a, 31), bmvp_json_double(bmvp_json_at(tie, 1), -9),
                    1e-6);
    a = golden_leaf(g, c, "at.qkv", 2, -1, "4,6,24");
    table = golden_leaf(g, c, "at.table", 2, -1, "15,2");
    golden_run(g, "attention_bias_mask", "at.c", c, golden_biased_attention(g, c, a, table));
    golden_ssl_tensor(g, "attention_bias_mask", "grad_qkv", c, a, 1);
    golden_ssl_tensor(g, "attention_bias_mask", "grad_table", c, table, 1);
}

/* bmvp_nifti.h's, (5, 4, 7) to (3, 6, 4) */
static void golden_resize(const golden_ssl *g)
{
    static const int64_t from[3] = { 7, 4, 5 }, to[3] = { 4, 6, 3 };
    int aligned;
    for (aligned = 0; aligned < 2; ++aligned) {
        bmvp_nii_volume v;
        if (!CHECK(bmvp_nii_volume_create(&v, from, NULL, NULL, NULL) == BMVP_OK)) return;
        golden_ssl_uniform(g, "re.x", 1, 0, 140, v.data);
        if (CHECK(bmvp_nii_resize(&v, to, BMVP_NII_LINEAR, aligned, NULL) == BMVP_OK))
            golden_ssl_check("resize", golden_ssl_out(g, "resize", aligned ? "aligned" : "not_aligned"), v.data, 72);
        bmvp_nii_volume_free(&v);
    }
}
static void test_golden_ssl(void)
{
    golden_ssl g;
    bmvp_ctx *c;
    if (!golden_ssl_open(&g, "ops.json")) return;
    c = bmvp_create(NULL, NULL);
    golden_numbers(&g, c);
    golden_places(&g, c);
    golden_windows(&g, c);
    golden_resize(&g);
    check_report(!bmvp_failed(c), __FILE__, __LINE__, "%s", bmvp_error_of(c)->message);
    bmvp_destroy(c);
    bmvp_json_free(g.doc);
}

int main(int argc, char **argv)
{
    size_t i;
    check_begin(argc, argv);
    for (i = 0; i < sizeof op_rows / sizeof *op_rows; ++i) test_fixture(&op_rows[i]);
    for (i = 0; i < sizeof op_rows / sizeof *op_rows; ++i) test_reads(&op_rows[i]);
    for (i = 0; i < sizeof big_cases / sizeof *big_cases; ++i) test_big_case(&big_cases[i]);
    for (i = 0; i < BMVP_OP_COUNT; ++i) test_gradcheck((int)i);
    CHECK_RUN(test_golden_ssl);
    return check_end();
}
