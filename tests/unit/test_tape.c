/* test_tape.c - bmvp_tensor.h: a network of all ops gives the same with any number of threads and on every instruction
   set; hooks, errors, graphs, random numbers; and tests of the tests' own comparisons. */
#include "tests/support/every_op.h"

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

static void take_line(void *user, const char *line) { snprintf((char *)user, 200, "%s", line); }

static void test_log_hook(void)
{
    const int64_t dim[1] = { 300000 };
    char line[200] = "";
    bmvp_config cfg = bmvp_config_default();
    bmvp_ctx *c;
    int i;
    cfg.log = take_line;
    cfg.log_user = line;
    c = bmvp_create(&cfg, NULL);
    bmvp_log(c, "%d modalities", 4);
    CHECK(strcmp(line, "4 modalities") == 0);
    for (i = 0; i < 2; ++i) (void)bmvp_input(c, 1, dim, NULL);
    bmvp_step_begin(c); /* two pieces become one, and are one from then on */
    CHECK_HOLDS(line, "the step took 2 pieces");
    line[0] = 0;
    for (i = 0; i < 2; ++i) (void)bmvp_input(c, 1, dim, NULL);
    bmvp_step_begin(c);
    CHECK(line[0] == 0);
    bmvp_destroy(c);
    cfg.simd = (bmvp_simd)(BMVP_SIMD_AVX512 + 1);
    c = bmvp_create(&cfg, NULL);
    CHECK_HOLDS(line, "simd: this processor has no");
    bmvp_destroy(c);
}

typedef struct journey { int calls, stop_at; int64_t done, of; char what[32]; } journey;
static int take_progress(void *user, const char *what, int64_t done, int64_t of)
{
    journey *j = (journey *)user;
    snprintf(j->what, sizeof j->what, "%s", what);
    j->done = done;
    j->of = of;
    return ++j->calls == j->stop_at;
}

/* Is told each time, stops the context for good, and is silent in a plan. */
static void test_progress(void)
{
    bmvp_config cfg = bmvp_config_default();
    bmvp_error err;
    bmvp_ctx *c;
    journey j;
    memset(&j, 0, sizeof j);
    j.stop_at = 3;
    cfg.progress = take_progress;
    cfg.progress_user = &j;
    c = bmvp_create(&cfg, NULL);
    CHECK(bmvp_progress(c, "windows", 0, 8) == BMVP_OK && bmvp_progress(c, "windows", 1, 8) == BMVP_OK);
    CHECK(bmvp_error_take(c, &err) == BMVP_OK && err.status == BMVP_OK);
    CHECK(bmvp_progress(c, "windows", 2, 8) == BMVP_E_CANCELLED);
    CHECK(bmvp_progress(c, "windows", 3, 8) == BMVP_E_CANCELLED);
    CHECK(j.calls == 3 && j.done == 2 && j.of == 8 && strcmp(j.what, "windows") == 0);
    CHECK(bmvp_error_take(c, &err) == BMVP_E_CANCELLED && err.status == BMVP_E_CANCELLED);
    CHECK(bmvp_error_take(c, NULL) == BMVP_E_CANCELLED);
    CHECK_HOLDS(err.message, "windows: stopped at 2 of 8");
    bmvp_destroy(c);
    cfg.plan = 1;
    c = bmvp_create(&cfg, NULL);
    CHECK(bmvp_progress(c, "windows", 0, 8) == BMVP_OK && j.calls == 3);
    bmvp_destroy(c);
}

/* A backend says where its memory is. */
static void test_backend_without_device(void)
{
    bmvp_backend b = *bmvp_cpu_backend();
    bmvp_config cfg = bmvp_config_default();
    bmvp_error err;
    b.name = "mine";
    b.device = NULL;
    cfg.backend = &b;
    CHECK(bmvp_create(&cfg, &err) == NULL && err.status == BMVP_E_ARG);
    CHECK_HOLDS(err.message, "backend mine");
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
    FAILS(bmvp_sub(c, two[0], two[1]), "sub", "(2,3,5)");
    FAILS(bmvp_div(c, two[0], Z("3")), "div", "(2,3,4)");
    FAILS(bmvp_add_into(c, two[0], bmvp_scale(c, two[1], 1, 0)), "add_into", "(2,3,5)");
    FAILS_AS(bmvp_add_into(c, two[0], Z("2,3,4")), BMVP_E_STATE, "add_into", "leaf");
    FAILS_AS(bmvp_add_into(c, two[0], bmvp_relu(c, two[0])), BMVP_E_STATE, "add_into", "relu");
    FAILS(bmvp_mse(c, two[0], two[1]), "mse", "(2,3,4)");
    FAILS(bmvp_l1(c, two[0], two[1]), "l1", "(2,3,4)");
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

static void test_shape_errors_of_places(void)
{
    bmvp_ctx *c = bmvp_create(NULL, NULL);
    const int32_t high[2] = { 0, 4 };
    bmvp_tensor *a = Z("2,3,4");
    FAILS_AS(bmvp_clamp(c, a, 1, -1), BMVP_E_ARG, "clamp", "low 1");
    FAILS(bmvp_box_sum3d(c, Z("1,4,3,4,2"), 4), "box_sum3d", "(4) odd");
    FAILS(bmvp_grid_sample3d(c, Z("1,4,3,4,2"), Z("2,4,3,4,3")), "grid_sample3d", "(2,4,3,4,3)");
    FAILS(bmvp_gather_rows(c, a, 0, high), "gather_rows", "(2,3,4)");
    FAILS_AS(bmvp_gather_rows(c, Z("2,2"), 2, high), BMVP_E_ARG, "gather_rows", "index[1] = 4");
    FAILS(bmvp_where_rows(c, a, Z("3"), high), "where_rows", "(3)");
    FAILS(bmvp_batchnorm(c, a, Z("4"), NULL, NULL, NULL, 1, 0.1, 1e-5), "batchnorm", "beta none");
    FAILS(bmvp_batchnorm(c, a, NULL, NULL, NULL, NULL, 0, 0.1, 1e-5), "batchnorm", "it needs running statistics");
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

/* Gradients are told complete at the same op whether or not a pass without recording has read the parameters before:
   between that op and the next, ranks may speak of something else. */
typedef struct told { const bmvp_tensor *w; int w_at, n; } told;
static void told_of(void *user)
{
    told *t = (told *)user;
    ++t->n;
    if (t->w_at == 0 && !bmvp_grad_due(t->w)) t->w_at = t->n;
}
static void test_gradients_told(void)
{
    const int64_t dim[2] = { 2, 3 };
    int at[2], before;
    for (before = 0; before < 2; ++before) {
        bmvp_ctx *c = bmvp_create(NULL, NULL);
        told t = { NULL, 0, 0 };
        bmvp_tensor *first = bmvp_param(c, "first", 2, dim), *w = bmvp_param(c, "w", 2, dim);
        bmvp_fill(c, first, 0.5f), bmvp_fill(c, w, 2);
        t.w = w;
        if (before) {
            bmvp_set_grad(c, 0);
            (void)bmvp_mul(c, first, w);
            bmvp_set_grad(c, 1);
        }
        bmvp_on_gradient(c, told_of, &t);
        bmvp_backward(c, bmvp_sum(c, bmvp_mul(c, bmvp_gelu(c, first), w)));
        CHECK(!bmvp_failed(c) && t.n == 2 && bmvp_has_grad(first) && bmvp_has_grad(w));
        at[before] = t.w_at;
        bmvp_destroy(c);
    }
    CHECK(at[0] == 1 && at[1] == 1);
}

/* A target so far from the largest that its own share is nothing, or -inf as masked classes are: what is left of the
   gradient is exact, as PyTorch's is. */
static void test_cross_entropy_far(void)
{
    static const float x[4][3] = { { 0, -INFINITY, 1 }, { 0.5f, 1, -INFINITY }, { 0, 1, -1e8f }, { -1e4f, -1e4f, 0 } };
    static const int32_t target[4] = { 1, 1, 2, 0 };
    static const double want[4][3] = { { 0.26894142, -1, 0.73105858 }, { 0.37754067, -0.37754067, 0 },
                                       { 0.26894142, 0.73105858, -1 }, { -1, 0, 1 } };
    static const int64_t dim[2] = { 1, 3 };
    bmvp_ctx *c = bmvp_create(NULL, NULL);
    float dx[3];
    int r, i;
    for (r = 0; r < 4; ++r) {
        bmvp_tensor *logits = bmvp_keep(bmvp_leaf(c, 2, dim, x[r])), *loss;
        loss = bmvp_cross_entropy(c, logits, target + r);
        CHECK(r > 0 || isinf(bmvp_scalar(c, loss)));
        bmvp_backward(c, loss);
        if (!CHECK(bmvp_read_grad(c, logits, dx) == BMVP_OK)) break;
        for (i = 0; i < 3; ++i) CHECK_NEAR((double)dx[i], want[r][i], 1e-6);
    }
    bmvp_destroy(c);
}

int main(int argc, char **argv)
{
    check_begin(argc, argv);
    CHECK_RUN(test_checker);
    CHECK_RUN(test_philox);
    CHECK_RUN(test_random_streams);
    CHECK_RUN(test_threads_pool);
    CHECK_RUN(test_log_hook);
    CHECK_RUN(test_progress);
    CHECK_RUN(test_backend_without_device);
    CHECK_RUN(test_sticky_error);
    CHECK_RUN(test_shape_errors);
    CHECK_RUN(test_shape_errors_of_places);
    CHECK_RUN(test_state_errors);
    CHECK_RUN(test_net_meets_every_op);
    CHECK_RUN(test_net_threads);
    CHECK_RUN(test_net_levels);
    CHECK_RUN(test_precision);
    CHECK_RUN(test_second_backward);
    CHECK_RUN(test_two_graphs);
    CHECK_RUN(test_gradients_told);
    CHECK_RUN(test_cross_entropy_far);
    return check_end();
}
