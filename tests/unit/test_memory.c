/* test_memory.c - bmvp_tensor.h: dropping, adding into, scopes, checkpoints and plans change no value and give the peak
   they promise; every allocation fails once. */
#include "tests/support/every_op.h"

static inline bmvp_config config_counted(counter *n, int threads)
{
    bmvp_config k = config_of(BMVP_SIMD_AUTO, threads);
    k.allocator = counter_of(n, 0);
    return k;
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

/* Memory for a parameter's gradient is there once a backward wanted it. What an add hands to its operands is one
   buffer, until one of them is added to: the others must not see that. */
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
    CHECK(bmvp_read_grad(c, y, g[0]) == BMVP_OK && bmvp_read_grad(c, a, g[1]) == BMVP_OK &&
          bmvp_read_grad(c, b, g[2]) == BMVP_OK);
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

int main(int argc, char **argv)
{
    check_begin(argc, argv);
    CHECK_RUN(test_scopes);
    CHECK_RUN(test_keep_drop_and_gradients);
    CHECK_RUN(test_drop_chain);
    CHECK_RUN(test_gradients_made_and_shared);
    CHECK_RUN(test_checkpoint_after_backward);
    CHECK_RUN(test_drop_and_add_into_change_nothing);
    CHECK_RUN(test_residuals_equal_adds);
    CHECK_RUN(test_plan_gives_the_peak);
    CHECK_RUN(test_small_reserve);
    CHECK_RUN(test_allocation_failures);
    CHECK_RUN(test_allocation_failures_threads);
    return check_end();
}
