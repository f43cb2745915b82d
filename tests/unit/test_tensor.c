/* test_tensor.c - bmvp_tensor.h: every op against PyTorch (fixtures of tests/reference/ops_reference.py), against its
   plain loop and against finite differences, at every instruction set of the machine and with 1, 2 and 3 threads; then
   the context: errors, memory, plans, dropped values, random numbers, allocation failures. */
#include "bmvp_tensor.h"
#include "bmvp_nn.h"
#include "tests/support/check.h"
#include "tests/support/fixture.h"

/* >>configs ------------------------------------------------------------------------------------------------------- */

enum { LEVEL_BF16 = BMVP_SIMD_AVX512 + 1 }; /* AVX-512 with bfloat16 products */

static bmvp_config config_of(bmvp_simd level, int threads)
{
    bmvp_config k = bmvp_config_default();
    k.simd = (int)level == LEVEL_BF16 ? BMVP_SIMD_AVX512 : level;
    k.precision = (int)level == LEVEL_BF16 ? BMVP_BF16 : BMVP_FP32;
    k.threads = threads;
    return k;
}
static const char *level_text(int level) { return level == LEVEL_BF16 ? "bf16" : bmvp_simd_text((bmvp_simd)level); }

static bmvp_simd best_level(void)
{
    bmvp_ctx *c = bmvp_create(NULL, NULL);
    const bmvp_simd level = c ? bmvp_simd_level(c) : BMVP_SIMD_PLAIN;
    bmvp_destroy(c);
    return level;
}

/* LEVEL_BF16 where the processor has it */
static int last_level(void)
{
    const bmvp_config k = config_of((bmvp_simd)LEVEL_BF16, 1);
    bmvp_ctx *c = bmvp_create(&k, NULL);
    const int has = c != NULL;
    bmvp_destroy(c);
    return has ? LEVEL_BF16 : (int)best_level();
}

/* An allocator that counts, and fails at call number fail_at (from 1; 0: never). */
typedef struct counter {
    int64_t calls, fail_at, live;
    int failed;
} counter;
static void *counter_alloc(size_t size, void *user)
{
    counter *n = (counter *)user;
    void *p;
    if (++n->calls == n->fail_at) {
        n->failed = 1;
        return NULL;
    }
    p = malloc(size);
    if (p) memset(p, 0xA5, size < 4096 ? size : 4096); /* nobody may count on zeros */
    n->live += p != NULL;
    return p;
}
static void counter_free(void *p, void *user)
{
    counter *n = (counter *)user;
    --n->live;
    free(p);
}
static bmvp_config config_counted(counter *n, int threads)
{
    bmvp_config k = config_of(BMVP_SIMD_AUTO, threads);
    memset(n, 0, sizeof *n);
    k.allocator.alloc = counter_alloc;
    k.allocator.free = counter_free;
    k.allocator.user = n;
    return k;
}

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

#define BUILD(op) static bmvp_tensor *build_##op(bmvp_ctx *c, const op_case *k, bmvp_tensor **in)
#define OPERANDS_add "a b"
BUILD(add) { (void)k; return bmvp_add(c, in[0], in[1]); }
#define OPERANDS_mul "a b"
BUILD(mul) { (void)k; return bmvp_mul(c, in[0], in[1]); }
#define OPERANDS_scale "x"
BUILD(scale) { return bmvp_scale(c, in[0], number(k, "factor"), number(k, "offset")); }
#define OPERANDS_relu "x"
BUILD(relu) { return attribute(k, "slope") ? bmvp_leaky_relu(c, in[0], number(k, "slope")) : bmvp_relu(c, in[0]); }
#define OPERANDS_sigmoid "x"
BUILD(sigmoid) { (void)k; return bmvp_sigmoid(c, in[0]); }
#define OPERANDS_gelu "x"
BUILD(gelu) { (void)k; return bmvp_gelu(c, in[0]); }
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
BUILD(upsample_trilinear) { return bmvp_upsample_trilinear(c, in[0], (int)integer(k, "factor"), (int)integer(k, "corners")); }
#define OPERANDS_space_to_depth "x"
BUILD(space_to_depth) { return bmvp_space_to_depth(c, in[0], (int)integer(k, "block")); }
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
    return in[5] ? bmvp_mlp_residual(c, in[0], in[1], in[2], in[3], in[4], in[5]) : bmvp_mlp(c, in[0], in[1], in[2], in[3], in[4]);
}
#define OPERANDS_attention "qkv"
BUILD(attention) { return bmvp_attention(c, in[0], (int)integer(k, "heads"), number(k, "scale")); }
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
BUILD(depthwise3d) { return (attribute(k, "residual") ? bmvp_depthwise3d_residual : bmvp_depthwise3d)(c, in[0], in[1], in[2]); }
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

/* Operands rounded to bfloat16: the difference is 1.5e-2 of the values at most (root mean squares), and unbiased: no part of the values
   themselves is in it. */
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
    check_report(bias <= 1e-3 + 4 * size / sqrt((double)want->numel), __FILE__, __LINE__, "%s is off by a factor of 1 + %.2e", what, bias);
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
/* Backward of one case with each of its values in turn spoilt: those that the list says it reads change a gradient, others none. Returns those
   that did; *there: what the case has. */
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
/* The list's column `reads` of one op: not less than its backward reads at any level and in any case, and not more than it reads in all. */
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
    check_report((found & ~row->reads) == 0, __FILE__, __LINE__, "it reads %#x, the list says %#x", (unsigned)found, (unsigned)row->reads);
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
    { "mul", "3,50,40,37 37", "", 1e-4 },
    { "scale", "300,401", "factor=0.5 offset=-2", 1e-6 },
    { "relu", "300,401", "", 1e-6 },
    { "gelu", "300,401", "", 1e-5 },
    { "softmax", "401,67", "", 2e-5 },
    { "l2_normalize", "2,70001", "eps=1e-12", 5e-5 },
    { "permute", "2,40,30,50", "axes=0,3,1,2", 1e-6 },
    { "slice", "40,30,50", "axis=1 start=3 length=20", 1e-6 },
    { "pad", "40,30,50", "low=1,2,3 high=3,2,1", 1e-6 },
    { "concat", "3,20,20,33 3,20,20,16 3,20,20,7", "axis=3", 1e-6 },
    { "upsample_nearest", "2,10,9,8,33", "factor=2", 1e-5 },
    { "space_to_depth", "2,16,8,12,9", "block=4", 1e-6 },
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

/* >>network: a small one that meets every op ---------------------------------------------------------------------- */

enum { DROP = 1, INTO = 2, SCOPES = 4, BLOCKS = 8, FUSED = 16, FLAGS = 32 }; /* BLOCKS: checkpointed, in place of scopes; FUSED: residuals */

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

static bmvp_tensor *net_get(const net *n, const char *name)
{
    int i;
    for (i = 0; i < NET_PARAMS; ++i)
        if (strcmp(net_params[i].name, name) == 0) return n->p[i];
    check_report(0, __FILE__, __LINE__, "the network has no parameter %s", name);
    return NULL;
}
#define P(name) net_get(n, name)

static void net_make(net *n, const bmvp_config *cfg, int flags)
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

static bmvp_tensor *net_join(const net *n, bmvp_tensor *x, bmvp_tensor *h)
{
    return n->flags & INTO ? bmvp_add_into(n->c, x, h) : bmvp_add(n->c, x, h);
}
static bmvp_tensor *net_depthwise(const net *n, bmvp_tensor *x)
{
    if (n->flags & FUSED) return bmvp_depthwise3d_residual(n->c, x, P("dw3.w"), P("dw3.b"));
    return net_join(n, x, bmvp_depthwise3d(n->c, x, P("dw3.w"), P("dw3.b")));
}
static bmvp_tensor *net_mlp(const net *n, bmvp_tensor *x, bmvp_tensor *r)
{
    if (n->flags & FUSED) return bmvp_mlp_residual(n->c, r, P("fc1.w"), P("fc1.b"), P("fc2.w"), P("fc2.b"), x);
    return net_join(n, x, bmvp_mlp(n->c, r, P("fc1.w"), P("fc1.b"), P("fc2.w"), P("fc2.b")));
}
static bmvp_tensor *net_project(const net *n, bmvp_tensor *x, bmvp_tensor *h)
{
    if (n->flags & FUSED) return bmvp_linear_residual(n->c, h, P("proj.w"), NULL, x);
    return net_join(n, x, bmvp_linear(n->c, h, P("proj.w"), NULL));
}
static void net_drop(const net *n, bmvp_tensor *t)
{
    if (n->flags & DROP) bmvp_drop(n->c, t);
}
static int64_t net_scope(const net *n) { return n->flags & (SCOPES | BLOCKS) ? bmvp_scope_begin(n->c) : 0; }
static bmvp_tensor *net_scope_end(const net *n, int64_t mark, bmvp_tensor *x)
{
    if (n->flags & BLOCKS) return bmvp_checkpoint(n->c, mark, x);
    return n->flags & SCOPES ? bmvp_scope_end(n->c, mark, x) : x;
}

/* Two volumes, one of them masked and filled from the template -> (2, 8, 8, 8, 1) */
static bmvp_tensor *net_input(const net *n)
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

static bmvp_tensor *net_encode(const net *n, bmvp_tensor *x)
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
    h = bmvp_attention(c, bmvp_reshape(c, h, 3, tokens), 2, 0.5);
    return net_scope_end(n, scope, net_project(n, x, bmvp_reshape(c, h, 5, back)));
}

static bmvp_tensor *net_decode(const net *n, bmvp_tensor *x)
{
    bmvp_ctx *c = n->c;
    bmvp_tensor *part[2];
    part[0] = bmvp_conv_transpose3d(c, x, P("up.w"), NULL);
    part[1] = bmvp_upsample_nearest(c, bmvp_linear(c, x, P("side.w"), NULL), 2);
    return bmvp_linear(c, bmvp_gelu(c, bmvp_concat(c, 2, part, 4)), P("out.w"), P("out.b"));
}

/* What is left of the ops: a contrast over the two volumes, and a sum over odd pieces of the output. */
static bmvp_tensor *net_rest(const net *n, bmvp_tensor *map, bmvp_tensor *y)
{
    const int64_t flat[2] = { 2, 512 }, low[5] = { 0, 1, 0, 0, 2 }, high[5] = { 1, 0, 0, 3, 0 };
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
    s = bmvp_add(c, s, bmvp_mean(c, bmvp_global_pool(c, bmvp_instancenorm(c, bmvp_upsample_trilinear(c, bmvp_slice(c, map, 4, 0, 1), 2, 1), 0.1))));
    d = bmvp_slice(c, bmvp_permute(c, bmvp_space_to_depth(c, y, 2), axes), 2, 1, 2);
    d = bmvp_pad(c, d, low, high);
    return bmvp_add(c, s, bmvp_scale(c, bmvp_sum(c, bmvp_mul(c, d, d)), 1e-3, 0));
}

static void net_forward(net *n)
{
    bmvp_tensor *x = net_input(n), *map = net_encode(n, x);
    n->y = bmvp_keep(net_decode(n, map));
    n->loss = bmvp_add(n->c, bmvp_mse(n->c, n->y, x), net_rest(n, map, n->y));
}

/* Loss, output, gradients of all parameters and running statistics, one after the other. */
typedef struct net_values {
    float *x;
    int64_t n;
} net_values;
static net_values net_read(const net *n, int gradients)
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
static net_values net_step(const bmvp_config *cfg, int flags)
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

static void mark_ops(const bmvp_tensor *t, int *seen)
{
    int i;
    if (!t || t->op < 0) return;
    seen[t->op] = 1;
    for (i = 0; i < t->n_src; ++i) mark_ops(t->src[i], seen);
}

static void test_net_meets_every_op(void)
{
    int seen[BMVP_OP_COUNT] = { 0 }, op;
    const bmvp_config cfg = config_of(BMVP_SIMD_AUTO, 1);
    net n;
    net_make(&n, &cfg, INTO);
    net_forward(&n);
    mark_ops(n.loss, seen);
    for (op = 0; op < BMVP_OP_COUNT; ++op)
        check_report(seen[op], __FILE__, __LINE__, "%s is not in the network", bmvp_op_name(op));
    bmvp_destroy(n.c);
}

/* >>hook tests ---------------------------------------------------------------------------------------------------- */

/* Somebody else's parallel-for: backwards, workers in turn. */
static void backwards(void *user, int64_t n_tasks, bmvp_task_fn fn, void *arg)
{
    int64_t i;
    ++*(int *)user;
    for (i = n_tasks; i > 0; --i) fn(arg, i - 1, (int)(i % 3));
}

static void test_net_threads(void)
{
    const bmvp_simd best = best_level();
    int level, threads, calls;
    for (level = BMVP_SIMD_PLAIN; level <= (int)best; ++level) {
        bmvp_config cfg = config_of((bmvp_simd)level, 1);
        net_values one = net_step(&cfg, INTO | DROP), other;
        for (threads = 2; threads <= 4; ++threads) { /* 4: threads 3, and a hook */
            cfg = config_of((bmvp_simd)level, threads < 4 ? threads : 3);
            cfg.parallel = threads < 4 ? NULL : backwards;
            cfg.parallel_user = &calls;
            calls = 0;
            other = net_step(&cfg, INTO | DROP);
            CHECK_SAME(threads < 4 ? "step" : "step with a hook", other.x, one.x, one.n);
            CHECK((calls > 0) == (threads == 4));
            free(other.x);
        }
        free(one.x);
    }
}

static void test_net_levels(void)
{
    const bmvp_simd best = best_level();
    bmvp_config cfg = config_of(BMVP_SIMD_PLAIN, 1);
    net_values plain = net_step(&cfg, 0), v;
    int level;
    for (level = BMVP_SIMD_VECTOR; level <= (int)best; ++level) {
        cfg = config_of((bmvp_simd)level, 1);
        v = net_step(&cfg, 0);
        CHECK_CLOSE(bmvp_simd_text((bmvp_simd)level), v.x, plain.x, plain.n, 1e-4);
        free(v.x);
    }
    if (last_level() == LEVEL_BF16) {
        cfg = config_of((bmvp_simd)LEVEL_BF16, 1);
        v = net_step(&cfg, 0);
        CHECK_NEAR(v.x[0], plain.x[0], 5e-3 * fabs((double)plain.x[0]));
        free(v.x);
    }
    free(plain.x);
}

static void test_precision(void)
{
    bmvp_config cfg = config_of((bmvp_simd)LEVEL_BF16, 1);
    bmvp_error err;
    bmvp_ctx *c = bmvp_create(&cfg, &err);
    CHECK((c != NULL) == (last_level() == LEVEL_BF16));
    if (c) CHECK(bmvp_precision_of(c) == BMVP_BF16);
    bmvp_destroy(c);
    cfg.simd = BMVP_SIMD_PLAIN; /* the plain loops are float32 */
    c = bmvp_create(&cfg, &err);
    CHECK(c == NULL && err.status == BMVP_E_UNSUPPORTED);
    CHECK_HOLDS(err.message, "use fp32");
    bmvp_destroy(c);
}

static void sum_squares(void *arg, int64_t task, int worker)
{
    int64_t *out = (int64_t *)arg;
    out[task] += task * task;
    out[1000 + task] = worker;
}

static void test_threads_pool(void)
{
    static int64_t out[2000];
    int threads, round;
    int64_t i;
    for (threads = 1; threads <= 4; ++threads) {
        const bmvp_config cfg = config_of(BMVP_SIMD_AUTO, threads);
        bmvp_ctx *c = bmvp_create(&cfg, NULL);
#ifdef BMVP_NO_THREADS
        CHECK(bmvp_threads(c) == 1);
#else
        CHECK(bmvp_threads(c) == threads);
#endif
        memset(out, 0, sizeof out);
        for (round = 0; round < 200; ++round) bmvp_parallel(c, round < 100 ? 1000 : round % 5, sum_squares, out);
        for (i = 0; i < 1000; ++i) {
            CHECK(out[i] == i * i * (100 + (i < 5 ? 20 * (4 - i) : 0)));
            CHECK(out[1000 + i] >= 0 && out[1000 + i] < threads);
        }
        bmvp_destroy(c);
    }
}

static void take_line(void *user, const char *line) { snprintf((char *)user, 64, "%s", line); }

static void test_log_hook(void)
{
    char line[64] = "";
    bmvp_config cfg = bmvp_config_default();
    bmvp_ctx *c;
    cfg.log = take_line;
    cfg.log_user = line;
    c = bmvp_create(&cfg, NULL);
    bmvp_log(c, "%d modalities", 4);
    CHECK(strcmp(line, "4 modalities") == 0);
    bmvp_destroy(c);
}

/* >>memory tests -------------------------------------------------------------------------------------------------- */

static void test_drop_and_add_into_change_nothing(void)
{
    const bmvp_config cfg = config_of(BMVP_SIMD_AUTO, 2);
    net_values plain = net_step(&cfg, 0), fused = net_step(&cfg, FUSED), v;
    int flags;
    for (flags = 1; flags < FLAGS; ++flags) {
        v = net_step(&cfg, flags);
        CHECK_SAME(flags & DROP ? "with drop" : "without drop", v.x, flags & FUSED ? fused.x : plain.x, plain.n);
        free(v.x);
    }
    free(plain.x);
    free(fused.x);
}

static void test_residuals_equal_adds(void)
{
    int level;
    for (level = BMVP_SIMD_PLAIN; level <= (int)best_level(); ++level) {
        const bmvp_config cfg = config_of((bmvp_simd)level, 2);
        net_values plain = net_step(&cfg, 0), fused = net_step(&cfg, FUSED);
        CHECK_CLOSE(bmvp_simd_text((bmvp_simd)level), fused.x, plain.x, plain.n, 1e-5);
        free(plain.x);
        free(fused.x);
    }
}

/* step_peak of the second of two steps with the block of the plan, and how often memory was asked for in it */
static int64_t real_peak(int64_t reserve, int flags, int grad, int64_t *asked)
{
    counter count;
    const bmvp_config cfg = config_counted(&count, 1);
    bmvp_memory m;
    int step;
    net n;
    net_make(&n, &cfg, flags);
    CHECK(bmvp_reserve(n.c, reserve) == BMVP_OK);
    bmvp_set_grad(n.c, grad);
    for (step = 0; step < 2; ++step) {
        *asked = count.calls;
        bmvp_step_begin(n.c);
        net_forward(&n);
        if (grad) bmvp_backward(n.c, n.loss);
    }
    *asked = count.calls - *asked;
    CHECK(!bmvp_failed(n.c));
    m = bmvp_memory_of(n.c);
    bmvp_destroy(n.c);
    CHECK(count.live == 0);
    return m.step_peak;
}

static bmvp_memory planned(int flags, int grad)
{
    bmvp_config cfg = config_of(BMVP_SIMD_AUTO, 1);
    bmvp_memory m;
    net n;
    cfg.plan = 1;
    net_make(&n, &cfg, flags);
    bmvp_set_grad(n.c, grad);
    CHECK(bmvp_is_plan(n.c));
    net_forward(&n);
    if (grad) bmvp_backward(n.c, n.loss);
    check_report(!bmvp_failed(n.c), __FILE__, __LINE__, "%s", bmvp_error_of(n.c)->message);
    m = bmvp_memory_of(n.c);
    bmvp_destroy(n.c);
    return m;
}

static void test_plan_gives_the_peak(void)
{
    int64_t peak[FLAGS][2], asked, numel = 16;
    int flags, grad, i;
    for (flags = 0; flags < FLAGS; ++flags)
        for (grad = 0; grad < 2; ++grad) {
            const bmvp_memory m = planned(flags, grad);
            peak[flags][grad] = real_peak(m.step_peak, flags, grad, &asked);
            check_report(peak[flags][grad] == m.step_peak, __FILE__, __LINE__,
                         "flags %d, gradients %d: planned %lld, used %lld", flags, grad, (long long)m.step_peak,
                         (long long)peak[flags][grad]);
            CHECK(asked == 0); /* a step in a reserved block asks for nothing */
        }
    CHECK(peak[DROP][1] < peak[0][1] && peak[INTO][1] < peak[0][1] && peak[DROP | INTO][1] < peak[INTO][1]);
    CHECK(peak[SCOPES | INTO][0] < peak[INTO][0] && peak[0][0] < peak[0][1]);
    CHECK(peak[BLOCKS | INTO][0] == peak[SCOPES | INTO][0]);
    for (flags = 0; flags < 4; ++flags) CHECK(peak[BLOCKS | flags][1] < peak[flags][1]);
    for (i = 0; i < NET_PARAMS; ++i) {
        int64_t dim[BMVP_MAX_DIMS], k = 1;
        int rank = fixture_numbers(net_params[i].dims, dim, BMVP_MAX_DIMS);
        while (rank > 0) k *= dim[--rank];
        numel += 2 * k;
    }
    CHECK(planned(0, 1).persistent == numel * (int64_t)sizeof(float));
}

/* A block that is too small, or none, only costs time. */
static void test_small_reserve(void)
{
    const bmvp_config cfg = config_of(BMVP_SIMD_AUTO, 1);
    net_values want = net_step(&cfg, 0), v;
    int step;
    net n;
    net_make(&n, &cfg, 0);
    CHECK(bmvp_reserve(n.c, 1000) == BMVP_OK);
    for (step = 0; step < 3; ++step) {
        int i;
        bmvp_step_begin(n.c);
        for (i = 0; i < NET_PARAMS; ++i) bmvp_zero_grad(n.p[i]);
        bmvp_fill(n.c, n.mean, 0);
        bmvp_fill(n.c, n.var, 1);
        net_forward(&n);
        bmvp_backward(n.c, n.loss);
        v = net_read(&n, 1);
        CHECK_SAME("step", v.x, want.x, want.n);
        free(v.x);
    }
    CHECK(bmvp_reserve(n.c, 1 << 20) == BMVP_E_STATE);
    CHECK_HOLDS(bmvp_error_of(n.c)->message, "bmvp_step_begin");
    bmvp_destroy(n.c);
    free(want.x);
}

static void test_scopes(void)
{
    const bmvp_config cfg = config_of(BMVP_SIMD_AUTO, 1);
    int64_t dim = 1000, mark;
    float v = 0, x[1000];
    bmvp_ctx *c = bmvp_create(&cfg, NULL);
    bmvp_tensor *a, *kept, *last;
    int64_t before;
    int i;
    for (i = 0; i < 1000; ++i) x[i] = 1;
    CHECK(bmvp_set_grad(c, 0) == 1 && bmvp_set_grad(c, 0) == 0);
    a = bmvp_input(c, 1, &dim, x);
    before = bmvp_memory_of(c).step;
    mark = bmvp_scope_begin(c);
    last = bmvp_scale(c, a, 2, 0);
    kept = bmvp_keep(bmvp_scale(c, last, 2, 0));
    last = bmvp_scope_end(c, mark, bmvp_scale(c, kept, 2, 1));
    CHECK(bmvp_memory_of(c).step == before + 2 * 4032);
    CHECK(bmvp_scalar(c, last) == 9 && bmvp_scalar(c, kept) == 4 && bmvp_scalar(c, a) == 1);
    bmvp_step_begin(c);
    CHECK(bmvp_memory_of(c).step == 0);
    bmvp_set_grad(c, 1); /* with a tape nothing may go */
    a = bmvp_leaf(c, 1, &dim, x);
    mark = bmvp_scope_begin(c);
    last = bmvp_mul(c, bmvp_scale(c, a, 3, 0), a);
    last = bmvp_scope_end(c, mark, bmvp_sum(c, last));
    bmvp_backward(c, last);
    CHECK(bmvp_scalar(c, last) == 3000);
    v = bmvp_grad_at(c, a, 999);
    CHECK(v == 6);
    CHECK(!bmvp_failed(c));
    bmvp_destroy(c);
}

static void test_keep_drop_and_gradients(void)
{
    const int64_t dim = 3;
    const float x[3] = { 1, 2, 3 }, cotangent[3] = { 1, -1, 0.5f };
    float out[3];
    bmvp_ctx *c = bmvp_create(NULL, NULL);
    bmvp_tensor *w = bmvp_param(c, "w", 1, &dim), *a, *b, *kept;
    bmvp_write(c, w, x);
    CHECK(!bmvp_has_grad(w) && bmvp_grad_at(c, w, 0) != bmvp_grad_at(c, w, 0));
    a = bmvp_leaf(c, 1, &dim, x);
    kept = bmvp_keep(bmvp_mul(c, a, w));
    b = bmvp_scale(c, kept, 2, 0);
    bmvp_backward_from(c, bmvp_scale(c, b, 10, 0), cotangent);
    CHECK(bmvp_read(c, kept, out) == BMVP_OK && out[2] == 9);
    CHECK(bmvp_read_grad(c, kept, out) == BMVP_OK && out[0] == 20 && out[1] == -20 && out[2] == 10);
    CHECK(bmvp_read_grad(c, w, out) == BMVP_OK && out[1] == -40 && out[2] == 30);
    CHECK(bmvp_read_grad(c, a, out) == BMVP_OK && out[2] == 30);
    CHECK(bmvp_read(c, b, out) == BMVP_E_STATE); /* used up */
    CHECK_HOLDS(bmvp_error_of(c)->message, "scale");
    CHECK_HOLDS(bmvp_error_of(c)->message, "bmvp_keep");
    bmvp_clear_error(c);
    bmvp_step_begin(c); /* parameters add up over steps until told otherwise */
    bmvp_backward(c, bmvp_sum(c, bmvp_scale(c, w, 1, 0)));
    CHECK(bmvp_grad_at(c, w, 1) == -39 && bmvp_has_grad(w));
    bmvp_zero_grad(w);
    CHECK(!bmvp_has_grad(w) && bmvp_read_grad(c, w, out) == BMVP_E_STATE);
    bmvp_clear_error(c);
    bmvp_step_begin(c);
    bmvp_backward(c, bmvp_sum(c, bmvp_mul(c, w, w)));
    CHECK(bmvp_grad_at(c, w, 1) == 4);
    a = bmvp_scale(c, w, 2, 0);
    bmvp_drop(c, a);
    CHECK(bmvp_read(c, a, out) == BMVP_E_STATE);
    bmvp_clear_error(c);
    CHECK(bmvp_sum(c, a) == NULL &&
          bmvp_error_of(c)->status == BMVP_E_STATE); /* dropped values have no later readers */
    bmvp_destroy(c);
}

/* Memory for a parameter's gradient is there once a backward wanted it. What an add hands to its operands is one buffer, until one of
   them is added to: the others must not see that. */
static void test_gradients_made_and_shared(void)
{
    const int64_t dim = 4;
    const float x[4] = { 1, 2, 3, 4 };
    float g[3][4];
    bmvp_ctx *c = bmvp_create(NULL, NULL);
    bmvp_tensor *w = bmvp_param(c, "w", 1, &dim), *a, *b, *early, *y, *late;
    int i;
    bmvp_write(c, w, x);
    CHECK(w->g == NULL && bmvp_memory_of(c).persistent == 16);
    a = bmvp_keep(bmvp_scale(c, w, 2, 0));
    b = bmvp_keep(bmvp_scale(c, w, -1, 0));
    early = bmvp_scale(c, a, 5, 0);
    y = bmvp_keep(bmvp_add(c, a, b));
    late = bmvp_add(c, bmvp_sum(c, early), bmvp_sum(c, bmvp_add(c, y, y)));
    bmvp_backward(c, late);
    CHECK(bmvp_read_grad(c, y, g[0]) == BMVP_OK && bmvp_read_grad(c, a, g[1]) == BMVP_OK && bmvp_read_grad(c, b, g[2]) == BMVP_OK);
    for (i = 0; i < 4; ++i) CHECK(g[0][i] == 2 && g[1][i] == 7 && g[2][i] == 2 && bmvp_grad_at(c, w, i) == 12);
    CHECK(bmvp_memory_of(c).persistent == 32);
    bmvp_destroy(c);
}

/* A block whose input an earlier backward has used up cannot be computed again: an error, not a crash. */
static void test_checkpoint_after_backward(void)
{
    const int64_t dim = 4;
    bmvp_ctx *c = bmvp_create(NULL, NULL);
    bmvp_tensor *in = bmvp_scale(c, bmvp_leaf(c, 1, &dim, NULL), 2, 0.5), *y;
    const int64_t mark = bmvp_scope_begin(c);
    y = bmvp_gelu(c, bmvp_gelu(c, in));
    y = bmvp_sum(c, bmvp_checkpoint(c, mark, bmvp_mul(c, y, y)));
    bmvp_backward(c, bmvp_sum(c, in));
    CHECK(!bmvp_failed(c));
    bmvp_backward(c, y);
    CHECK(bmvp_error_of(c)->status == BMVP_E_STATE);
    CHECK_HOLDS(bmvp_error_of(c)->message, "earlier backward");
    bmvp_destroy(c);
}

/* Dropped values that need dropped values that need dropped values, and a kept one between. */
static void test_drop_chain(void)
{
    const int64_t dim = 50;
    float x[50], g[2][50];
    bmvp_ctx *c = bmvp_create(NULL, NULL);
    int i, pass;
    for (i = 0; i < 50; ++i) x[i] = (float)cos(i);
    for (pass = 0; pass < 2; ++pass) {
        bmvp_tensor *a = bmvp_leaf(c, 1, &dim, x), *t[5], *y;
        t[0] = bmvp_gelu(c, a);
        t[1] = bmvp_scale(c, t[0], 3, 0.1);
        t[2] = bmvp_relu(c, t[1]);
        t[3] = bmvp_softmax(c, t[2]);
        t[4] = bmvp_mul(c, t[3], t[1]);
        if (pass == 1) bmvp_keep(t[2]);
        y = bmvp_sum(c, bmvp_mul(c, t[4], t[4]));
        for (i = 0; pass == 1 && i < 5; ++i) bmvp_drop(c, t[i]);
        bmvp_backward(c, y);
        CHECK(bmvp_read_grad(c, a, g[pass]) == BMVP_OK);
        bmvp_step_begin(c);
    }
    CHECK_SAME("gradient", g[1], g[0], 50);
    bmvp_destroy(c);
}

/* >>error tests --------------------------------------------------------------------------------------------------- */

/* y failed, the message names the op and holds `part`; the context is made usable again. */
static void expect_failure(bmvp_ctx *c, const bmvp_tensor *y, bmvp_status s, const char *op, const char *part, int line)
{
    const bmvp_error *e = bmvp_error_of(c);
    check_report(y == NULL && e->status == s, __FILE__, line, "%s: status %d (%s)", op, (int)e->status, e->message);
    check_holds(__FILE__, line, e->message, op);
    check_holds(__FILE__, line, e->message, part);
    bmvp_clear_error(c);
}
#define FAILS(call, op, part) expect_failure(c, call, BMVP_E_SHAPE, op, part, __LINE__)
#define FAILS_AS(call, status, op, part) expect_failure(c, call, status, op, part, __LINE__)

static bmvp_tensor *zeros(bmvp_ctx *c, const char *dims)
{
    int64_t dim[BMVP_MAX_DIMS];
    return bmvp_leaf(c, fixture_numbers(dims, dim, BMVP_MAX_DIMS), dim, NULL);
}
#define Z(dims) zeros(c, dims)

static void test_shape_errors(void)
{
    bmvp_ctx *c = bmvp_create(NULL, NULL);
    bmvp_conv_shape halve = bmvp_conv_same(2, 0), groups = bmvp_conv_same(1, 1);
    const int64_t shape[2] = { 3, 5 }, start[3] = { 0, 0, 0 }, none[3] = { 0, 0, 0 }, minus[3] = { 0, -1, 0 };
    const int twice[3] = { 0, 1, 1 };
    const int32_t high[2] = { 0, 4 };
    bmvp_tensor *two[2];
    groups.groups = 3;
    two[0] = Z("2,3,4");
    two[1] = Z("2,3,5");
    FAILS(bmvp_add(c, two[0], two[1]), "add", "(2,3,5)");
    FAILS(bmvp_mul(c, two[0], Z("3")), "mul", "(2,3,4)");
    FAILS(bmvp_add_into(c, two[0], bmvp_scale(c, two[1], 1, 0)), "add_into", "(2,3,5)");
    FAILS_AS(bmvp_add_into(c, two[0], Z("2,3,4")), BMVP_E_STATE, "add_into", "leaf");
    FAILS_AS(bmvp_add_into(c, two[0], bmvp_relu(c, two[0])), BMVP_E_STATE, "add_into", "relu");
    FAILS(bmvp_mse(c, two[0], two[1]), "mse", "(2,3,4)");
    FAILS(bmvp_reshape(c, two[0], 2, shape), "reshape", "(2,3,4)");
    FAILS_AS(bmvp_permute(c, two[0], twice), BMVP_E_ARG, "permute", "(2,3,4)");
    FAILS(bmvp_slice(c, two[0], 1, 2, 2), "slice", "(2,3,4)");
    FAILS(bmvp_slice(c, two[0], 3, 0, 1), "slice", "(2,3,4)");
    FAILS(bmvp_slice(c, two[0], 0, -1, 1), "slice", "(2,3,4)");
    FAILS(bmvp_slice(c, two[0], 0, 1, INT64_MAX), "slice", "(2,3,4)");
    FAILS_AS(bmvp_pad(c, two[0], minus, none), BMVP_E_ARG, "pad", "(2,3,4)");
    FAILS(bmvp_concat(c, 2, two, 1), "concat", "(2,3,5)");
    FAILS(bmvp_upsample_nearest(c, two[0], 2), "upsample_nearest", "(2,3,4)");
    FAILS(bmvp_space_to_depth(c, Z("1,4,3,4,2"), 2), "space_to_depth", "(1,4,3,4,2)");
    FAILS(bmvp_cross_entropy(c, two[0], high), "cross_entropy", "(2,3,4)");
    FAILS_AS(bmvp_cross_entropy(c, Z("2,4"), high), BMVP_E_ARG, "cross_entropy", "4");
    FAILS(bmvp_matmul(c, two[0], two[1], 0, 0), "matmul", "(2,3,5)");
    FAILS(bmvp_matmul(c, two[0], Z("3,4,5"), 0, 0), "matmul", "(3,4,5)");
    FAILS(bmvp_linear(c, two[0], Z("3,7"), NULL), "linear", "(3,7)");
    FAILS(bmvp_linear(c, two[0], Z("4,7"), Z("4")), "linear", "(4)");
    FAILS(bmvp_mlp(c, two[0], Z("4,7"), NULL, Z("6,4"), NULL), "mlp", "(6,4)");
    FAILS(bmvp_linear_residual(c, two[0], Z("4,7"), NULL, Z("3,4")), "linear", "the residual is (3,4)");
    FAILS(bmvp_mlp_residual(c, two[0], Z("4,7"), NULL, Z("7,4"), NULL, Z("2")), "mlp", "the residual is (2)");
    FAILS(bmvp_attention(c, Z("1,5,18"), 4, 1), "attention", "(1,5,18)");
    FAILS(bmvp_conv3d(c, Z("1,4,4,4,3"), Z("2,2,2,2,8"), NULL, &halve), "conv3d", "(2,2,2,2,8)");
    FAILS(bmvp_conv3d(c, Z("1,1,4,4,2"), Z("2,2,2,2,8"), NULL, &halve), "conv3d", "(1,1,4,4,2)");
    FAILS(bmvp_conv3d(c, Z("1,4,4,4,4"), Z("3,3,3,2,6"), NULL, &groups), "conv3d", "(1,4,4,4,4)");
    FAILS(bmvp_conv3d(c, Z("1,4,4,4,2"), Z("2,2,2,2,8"), Z("7"), &halve), "conv3d", "(7)");
    FAILS(bmvp_depthwise3d(c, Z("1,4,4,4,4"), Z("3,3,3,5"), NULL), "depthwise3d", "(3,3,3,5)");
    FAILS(bmvp_depthwise3d(c, Z("1,4,4,4,4"), Z("2,2,2,4"), NULL), "depthwise3d", "(2,2,2,4)");
    FAILS(bmvp_conv_transpose3d(c, Z("1,2,2,2,4"), Z("3,2,2,2,4"), NULL), "conv_transpose3d", "(3,2,2,2,4)");
    FAILS(bmvp_batchnorm(c, two[0], Z("3"), Z("4"), Z("4"), Z("4"), 1, 0.1, 1e-5), "batchnorm", "(2,3,4)");
    FAILS(bmvp_layernorm(c, two[0], Z("4"), Z("3"), 1e-5), "layernorm", "(2,3,4)");
    FAILS(bmvp_groupnorm(c, two[0], Z("4"), Z("4"), 3, 1e-5), "groupnorm", "(2,3,4)");
    FAILS(bmvp_masked_fill(c, two[0], two[0], two[1], start), "masked_fill", "(2,3,5)");
    bmvp_destroy(c);
}

static void test_sticky_error(void)
{
    bmvp_ctx *c = bmvp_create(NULL, NULL);
    bmvp_tensor *a = Z("2,3"), *bad = bmvp_linear(c, a, Z("4,5"), NULL);
    char first[512];
    snprintf(first, sizeof first, "%s", bmvp_error_of(c)->message);
    CHECK(bad == NULL && bmvp_failed(c));
    CHECK(bmvp_gelu(c, bmvp_add(c, bad, a)) == NULL && bmvp_reshape(c, NULL, 1, a->dim) == NULL);
    CHECK(bmvp_matmul(c, a, a, 0, 0) == NULL);
    CHECK(strcmp(first, bmvp_error_of(c)->message) == 0); /* the first one stays */
    CHECK(bmvp_scalar(c, a) != bmvp_scalar(c, a));        /* NaN */
    bmvp_backward(c, bad);
    bmvp_clear_error(c);
    CHECK(!bmvp_failed(c) && bmvp_error_of(c)->status == BMVP_OK);
    bmvp_step_begin(c);
    CHECK(bmvp_sum(c, Z("2,3")) != NULL);
    CHECK(strcmp(bmvp_status_text(BMVP_E_OOM), "out of memory") == 0);
    CHECK_HOLDS(bmvp_status_text(BMVP_STATUS_COUNT), "unknown");
    bmvp_destroy(c);
    bmvp_destroy(NULL);
}

static void test_state_errors(void)
{
    bmvp_ctx *c = bmvp_create(NULL, NULL);
    const int64_t huge[3] = { INT64_C(1) << 31, INT64_C(1) << 31, 4 }, zero = 0, minus = -3, one = 1;
    bmvp_tensor *a;
    CHECK(!bmvp_input(c, 3, huge, NULL) && bmvp_error_of(c)->status == BMVP_E_SHAPE);
    bmvp_clear_error(c);
    CHECK(!bmvp_param(c, "p", 1, &zero) && bmvp_error_of(c)->status == BMVP_E_SHAPE);
    CHECK_HOLDS(bmvp_error_of(c)->message, "p");
    bmvp_clear_error(c);
    CHECK(!bmvp_leaf(c, 1, &minus, NULL) && bmvp_error_of(c)->status == BMVP_E_SHAPE);
    bmvp_clear_error(c);
    CHECK(!bmvp_input(c, 9, huge, NULL) && bmvp_failed(c));
    bmvp_clear_error(c);
    a = Z("2,3");
    bmvp_backward(c, bmvp_gelu(c, a));
    CHECK(bmvp_error_of(c)->status == BMVP_E_SHAPE);
    CHECK_HOLDS(bmvp_error_of(c)->message, "(2,3)");
    bmvp_clear_error(c);
    bmvp_backward(c, bmvp_sum(c, bmvp_input(c, 1, &one, NULL)));
    CHECK(bmvp_error_of(c)->status == BMVP_E_STATE); /* nobody wants a gradient */
    bmvp_clear_error(c);
    bmvp_set_grad(c, 0);
    bmvp_backward(c, bmvp_sum(c, a));
    CHECK(bmvp_error_of(c)->status == BMVP_E_STATE);
    bmvp_destroy(c);
}

/* Walking a graph a second time is a mistake that must be told, not a crash. */
static void test_second_backward(void)
{
    bmvp_ctx *c = bmvp_create(NULL, NULL);
    bmvp_tensor *a = Z("2,3"), *y = bmvp_sum(c, bmvp_gelu(c, bmvp_scale(c, a, 2, 1)));
    bmvp_backward(c, y);
    CHECK(!bmvp_failed(c));
    bmvp_backward(c, y);
    CHECK(bmvp_error_of(c)->status == BMVP_E_STATE);
    bmvp_destroy(c);
}

/* Two graphs in one step, built before either is walked; kept tensors of the first do not disturb the second. */
static void test_two_graphs(void)
{
    bmvp_ctx *c = bmvp_create(NULL, NULL);
    const int64_t dim = 2;
    const float x[2] = { 3, 4 };
    float g[2];
    bmvp_tensor *a = bmvp_leaf(c, 1, &dim, x), *first = bmvp_keep(bmvp_mul(c, a, a)), *sum = bmvp_sum(c, first), *soft,
                *second;
    soft = bmvp_softmax(c, a);
    second = bmvp_sum(c, bmvp_mul(c, soft, a));
    bmvp_backward(c, second);
    bmvp_backward(c, sum);
    CHECK(bmvp_read_grad(c, first, g) == BMVP_OK && g[0] == 1 && g[1] == 1);
    CHECK(bmvp_read_grad(c, a, g) == BMVP_OK);
    CHECK_NEAR((double)g[0], 6 + 0.2689414 * (1 + 3 - 3.7310586), 1e-5);
    CHECK_NEAR((double)g[1], 8 + 0.7310586 * (1 + 4 - 3.7310586), 1e-5);
    bmvp_backward(c, bmvp_sum(c, bmvp_scale(c, a, 2, 0)));
    CHECK(bmvp_read_grad(c, a, g) == BMVP_OK);
    CHECK_NEAR((double)g[0], 8 + 0.2689414 * (1 + 3 - 3.7310586), 1e-5);
    bmvp_backward(c, bmvp_sum(c, bmvp_scale(c, first, 2, 0))); /* its graph is used up */
    CHECK(bmvp_error_of(c)->status == BMVP_E_STATE);
    bmvp_destroy(c);
}

/* >>allocation failures ------------------------------------------------------------------------------------------- */

/* A step of the network and all samples of all ops; returns the loss, NaN after a failure. */
static float everything(const bmvp_config *cfg, bmvp_error *err, int again, counter *count)
{
    float cotangent[4096], loss;
    bmvp_tensor *y;
    int op, variant, i;
    net n;
    net_make(&n, cfg, DROP | INTO | SCOPES);
    if (!n.c) return (float)NAN;
    for (i = 0; i < 4096; ++i) cotangent[i] = (float)(i % 7) - 3;
    net_forward(&n);
    bmvp_backward(n.c, n.loss);
    loss = bmvp_scalar(n.c, n.loss);
    for (op = 0; op < BMVP_OP_COUNT; ++op) {
        bmvp_step_begin(n.c);
        for (variant = 0; (y = bmvp_op_sample(n.c, op, variant)) != NULL && y->numel <= 4096; ++variant)
            bmvp_backward_from(n.c, y, cotangent);
    }
    *err = *bmvp_error_of(n.c);
    if (bmvp_failed(n.c)) loss = (float)NAN;
    if (bmvp_failed(n.c) && again) { /* the context must be usable afterwards, if its parameters were all made */
        count->fail_at = 0;
        bmvp_clear_error(n.c);
        bmvp_step_begin(n.c);
        for (i = 0; i < NET_PARAMS && n.p[i]; ++i) bmvp_zero_grad(n.p[i]);
        if (i == NET_PARAMS && n.var) {
            net_forward(&n);
            bmvp_backward(n.c, n.loss);
            loss = bmvp_scalar(n.c, n.loss);
            check_report(!bmvp_failed(n.c), __FILE__, __LINE__, "after a failure: %s", bmvp_error_of(n.c)->message);
        }
    }
    bmvp_destroy(n.c);
    return loss;
}

static void test_allocation_failures(void)
{
    counter count;
    bmvp_config cfg = config_counted(&count, 1);
    bmvp_error err;
    const float want = everything(&cfg, &err, 0, &count);
    const int64_t calls = count.calls;
    int64_t k;
    float loss;
    CHECK(err.status == BMVP_OK && want == want && calls > 20);
    CHECK(count.live == 0);
    for (k = 1; k <= calls && check_all.bad == 0; ++k) {
        cfg = config_counted(&count, 1);
        count.fail_at = k;
        if (k == 1) { /* no context: bmvp_create itself says so */
            CHECK(bmvp_create(&cfg, &err) == NULL && err.status == BMVP_E_OOM && err.message[0]);
            continue;
        }
        loss = everything(&cfg, &err, 1, &count);
        check_report(err.status == BMVP_E_OOM, __FILE__, __LINE__, "allocation %lld failed, status %d: %s",
                     (long long)k, (int)err.status, err.message);
        check_report(!(loss == loss) || loss == want, __FILE__, __LINE__,
                     "after failure %lld the loss is %.9g, not %.9g", (long long)k, (double)loss, (double)want);
        check_report(count.live == 0, __FILE__, __LINE__, "failure %lld leaks %lld blocks", (long long)k,
                     (long long)count.live);
    }
}

/* With threads a failure to make the pool is not an error: the work is done by the threads there are. */
static void test_allocation_failures_threads(void)
{
    counter count;
    bmvp_config cfg = config_counted(&count, 3);
    bmvp_error err;
    const float want = everything(&cfg, &err, 0, &count);
    const int64_t calls = count.calls;
    int64_t k;
    CHECK(err.status == BMVP_OK && count.live == 0);
    for (k = 2; k <= calls && check_all.bad == 0; ++k) {
        float loss;
        cfg = config_counted(&count, 3);
        count.fail_at = k;
        loss = everything(&cfg, &err, 0, &count);
        CHECK(err.status == BMVP_E_OOM || (err.status == BMVP_OK && loss == want));
        CHECK(count.live == 0);
    }
}

/* >>random numbers ------------------------------------------------------------------------------------------------ */

/* Known answers of the Random123 distribution (Salmon et al., SC 2011), philox4x32-10. */
static void test_philox(void)
{
    static const struct { uint32_t counter[4], key[2], out[4]; } known[3] = {
        { { 0, 0, 0, 0 }, { 0, 0 }, { 0x6627e8d5u, 0xe169c58du, 0xbc57ac4cu, 0x9b00dbd8u } },
        { { 0xffffffffu, 0xffffffffu, 0xffffffffu, 0xffffffffu }, { 0xffffffffu, 0xffffffffu },
          { 0x408f276du, 0x41c83b0eu, 0xa20bc7c6u, 0x6d5451fdu } },
        { { 0x243f6a88u, 0x85a308d3u, 0x13198a2eu, 0x03707344u }, { 0xa4093822u, 0x299f31d0u },
          { 0xd16cfe09u, 0x94fdccebu, 0x5001e420u, 0x24126ea1u } },
    };
    uint32_t out[4];
    int i;
    for (i = 0; i < 3; ++i) {
        bmvp_philox4x32(known[i].key, known[i].counter, out);
        CHECK(memcmp(out, known[i].out, sizeof out) == 0);
    }
}

static void test_random_streams(void)
{
    enum { N = 20000 };
    static uint32_t first[N];
    bmvp_rng r = bmvp_rng_make(0x123456789abcdefu, 1, 2, 3), s;
    double mean = 0, square = 0;
    int i, stream, equal, counts[7] = { 0 };
    for (i = 0; i < N; ++i) first[i] = bmvp_rng_u32(&r);
    r = bmvp_rng_make(0x123456789abcdefu, 1, 2, 3); /* the same name, the same numbers, whatever is drawn between */
    s = bmvp_rng_make(0x123456789abcdefu, 2, 2, 3);
    for (i = 0; i < N; ++i) {
        CHECK(bmvp_rng_u32(&r) == first[i]);
        if (i % 3 == 0) (void)bmvp_rng_u32(&s);
    }
    for (stream = 0; stream < 5; ++stream) { /* each part of the name gives other numbers */
        s = bmvp_rng_make(stream == 0 ? 0x123456789abcdeeu : stream == 1 ? 0x023456789abcdefu : 0x123456789abcdefu,
                          stream == 2 ? 5 : 1, stream == 3 ? 5 : 2, stream == 4 ? 5 : 3);
        for (equal = i = 0; i < N; ++i) equal += bmvp_rng_u32(&s) == first[i];
        CHECK(equal < 3);
    }
    for (i = 0; i < N; ++i) {
        const float u = bmvp_rng_uniform(&r);
        CHECK(u >= 0 && u < 1);
        mean += (double)u / (double)N;
        square += (double)u * (double)u / (double)N;
    }
    CHECK_NEAR(mean, 0.5, 0.01);
    CHECK_NEAR(square, 1.0 / 3, 0.01);
    for (mean = square = i = 0; i < N; ++i) {
        const double v = (double)bmvp_rng_normal(&r);
        mean += v / (double)N;
        square += v * v / (double)N;
    }
    CHECK_NEAR(mean, 0, 0.03);
    CHECK_NEAR(square, 1, 0.05);
    for (i = 0; i < N; ++i) ++counts[bmvp_rng_below(&r, 7)];
    for (i = 0; i < 7; ++i) CHECK_NEAR(counts[i], (double)N / 7, 250);
    CHECK(bmvp_rng_below(&r, 0) == 0 && bmvp_rng_below(&r, 1) == 0);
}

/* >>the checker itself -------------------------------------------------------------------------------------------- */

static int fails_quietly(const float *got, const float *want, int64_t n, double tol, int exact)
{
    int bad;
    check_all.quiet = 1;
    if (exact) CHECK_SAME("x", got, want, n);
    else CHECK_CLOSE("x", got, want, n, tol);
    check_all.quiet = 0;
    bad = check_all.bad;
    check_all.bad = 0;
    return bad == 1;
}

static void test_checker(void)
{
    const float want[4] = { 1, -1, 1, -1 }, nan4[4] = { 1, -1, (float)NAN, -1 },
                inf4[4] = { 1, -1, (float)INFINITY, -1 };
    float got[4] = { 1, -1, 1, -1 }, zero[4] = { 0, 0, 0, 0 }, tiny[4] = { 0, 0, 1e-30f, 0 },
          minus_zero[4] = { -0.0f, 0, 0, 0 };
    int bad;
    CHECK(!fails_quietly(got, want, 4, 0, 0) && !fails_quietly(got, want, 4, 0, 1));
    CHECK(fails_quietly(nan4, want, 4, 1e9, 0) && fails_quietly(inf4, want, 4, 1e9, 0));
    CHECK(fails_quietly(got, nan4, 4, 1e9, 0) && fails_quietly(nan4, nan4, 4, 1e9, 0));
    CHECK(fails_quietly(got, want, 0, 1, 0) && fails_quietly(NULL, want, 4, 1, 0) && fails_quietly(got, NULL, 4, 1, 1));
    CHECK(!fails_quietly(zero, zero, 4, 1e-6, 0) && fails_quietly(tiny, zero, 4, 1e-6, 0));
    CHECK(fails_quietly(minus_zero, zero, 4, 0, 1) && !fails_quietly(minus_zero, zero, 4, 0, 0));
    got[3] = -1.001f; /* allowed: tol * (1 + 1) */
    CHECK(fails_quietly(got, want, 4, 0.0004, 0) && !fails_quietly(got, want, 4, 0.0006, 0));
    check_all.quiet = 1;
    CHECK_NEAR((double)NAN, 0, 1e9);
    CHECK_HOLDS("abc", "abd");
    CHECK_HOLDS(NULL, "a");
    check_all.quiet = 0;
    bad = check_all.bad;
    check_all.bad = 0;
    CHECK(bad == 3);
}

int main(int argc, char **argv)
{
    size_t i;
    check_begin(argc, argv);
    CHECK_RUN(test_checker);
    CHECK_RUN(test_philox);
    CHECK_RUN(test_random_streams);
    CHECK_RUN(test_threads_pool);
    CHECK_RUN(test_log_hook);
    CHECK_RUN(test_sticky_error);
    CHECK_RUN(test_shape_errors);
    CHECK_RUN(test_state_errors);
    CHECK_RUN(test_scopes);
    CHECK_RUN(test_keep_drop_and_gradients);
    CHECK_RUN(test_drop_chain);
    CHECK_RUN(test_gradients_made_and_shared);
    CHECK_RUN(test_checkpoint_after_backward);
    for (i = 0; i < sizeof op_rows / sizeof *op_rows; ++i) test_fixture(&op_rows[i]);
    for (i = 0; i < sizeof op_rows / sizeof *op_rows; ++i) test_reads(&op_rows[i]);
    for (i = 0; i < sizeof big_cases / sizeof *big_cases; ++i) test_big_case(&big_cases[i]);
    for (i = 0; i < BMVP_OP_COUNT; ++i) test_gradcheck((int)i);
    CHECK_RUN(test_net_meets_every_op);
    CHECK_RUN(test_net_threads);
    CHECK_RUN(test_net_levels);
    CHECK_RUN(test_precision);
    CHECK_RUN(test_drop_and_add_into_change_nothing);
    CHECK_RUN(test_residuals_equal_adds);
    CHECK_RUN(test_plan_gives_the_peak);
    CHECK_RUN(test_small_reserve);
    CHECK_RUN(test_allocation_failures);
    CHECK_RUN(test_allocation_failures_threads);
    CHECK_RUN(test_second_backward);
    CHECK_RUN(test_two_graphs);
    return check_end();
}
