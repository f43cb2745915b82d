/* test_optim.c - bmvp_nn.h: optimizers and schedules against PyTorch (tests/reference/optim_reference.py); with
   TEST_CUDA on a GPU. */
#include <float.h>
#include "tests/support/nets.h"
#include "tests/support/golden_ssl.h"

/* >>optimizers ---------------------------------------------------------------------------------------------------- */

enum { OPTIM_A = 70001, OPTIM_B = 5, OPTIM_STEPS = 6, OPTIM_THIN = 701 };

static void gradient_of(const char *stream, float *g, int64_t n)
{
    static const double size[4] = { 1, 1e-2, 1e-4, 1e-6 };
    int64_t i;
    for (i = 0; g && i < n; ++i) g[i] = (float)((2 * formula_uniform(formula_stream(stream, 0), i) - 1) * size[i % 4]);
}
static void give_gradient(bmvp_ctx *c, bmvp_tensor *p, const char *name, int step)
{
    float *g = (float *)malloc((size_t)p->numel * sizeof *g);
    char stream[32];
    snprintf(stream, sizeof stream, "optim.%s.grad%d", name, step);
    gradient_of(stream, g, p->numel);
    if (CHECK(g != NULL)) bmvp_backward(c, bmvp_sum(c, bmvp_mul(c, p, bmvp_input(c, p->rank, p->dim, g))));
    free(g);
}

static void check_optim_tensor(bmvp_ctx *c, bmvp_ckpt *f, const char *what, const bmvp_tensor *t, int64_t thin)
{
    float *x = device_copy(c, t, 0);
    fixture_tensor want = fixture_load(f, "%s", what);
    float have[OPTIM_A / OPTIM_THIN + 1];
    int64_t i, k = 0;
    for (i = 0; x && i < t->numel; i += thin) have[k++] = x[i];
    free(x);
    if (check_report(want.x && want.numel == k, __FILE__, __LINE__, "%s is missing", what))
        CHECK_CLOSE(what, have, want.x, k, 2e-6);
    free(want.x);
}

/* "a" and "b" and their start */
static void optim_list(bmvp_ctx *c, bmvp_state_list *l)
{
    const int64_t size[2] = { OPTIM_A, OPTIM_B };
    float x[OPTIM_A];
    int64_t j;
    int i;
    memset(l, 0, sizeof *l);
    for (i = 0; i < 2; ++i) {
        bmvp_tensor *t = bmvp_state_add(c, l, i ? "b" : "a", BMVP_LAYOUT_SAME, 1, &size[i], 1, BMVP_INIT_ZERO, 0);
        for (j = 0; j < size[i]; ++j)
            x[j] = (float)(2 * formula_uniform(formula_stream(i ? "optim.b" : "optim.a", 0), j) - 1);
        bmvp_write(c, t, x);
    }
}

/* groups 1: of "b" five times the rate and no decay */
static void test_optimizer(const char *name, const bmvp_optim_config *cfg, double limit, int groups)
{
    static const double rate[OPTIM_STEPS] = { 1e-3, 5e-3, 2e-3, 1e-3, 4e-3, 1e-4 };
    static const char *const moment[2][3] = { { "exp_avg", "exp_avg_sq", "max_exp_avg_sq" },
                                              { "momentum_buffer", NULL, NULL } };
    bmvp_ckpt *f = fixture_open("nets/optim.safetensors");
    bmvp_ctx *c = device_context();
    fixture_tensor norms;
    bmvp_state_list l;
    bmvp_optim *o;
    char what[64];
    int i, step, w;
    if (!f || !CHECK(c != NULL)) return;
    optim_list(c, &l);
    if (groups) l.item[1].lr_scale = 5, l.item[1].decay_scale = 0;
    o = bmvp_optim_create(c, &l, cfg);
    norms = fixture_load(f, "%s.norms", name);
    for (step = 0; step < OPTIM_STEPS && CHECK(o && norms.x && !bmvp_failed(c)); ++step) {
        double norm;
        bmvp_step_begin(c);
        bmvp_optim_zero_grad(o);
        give_gradient(c, l.item[0].t, "a", step);
        if (step != 2) give_gradient(c, l.item[1].t, "b", step);
        norm = bmvp_optim_grad_norm(o);
        CHECK_NEAR(norm / (double)norms.x[step], 1, 1e-6);
        bmvp_optim_step(o, rate[step], limit > 0 && norm > limit ? limit / norm : 1);
    }
    for (i = 0; i < 2 && o; ++i) {
        snprintf(what, sizeof what, "%s.%s", name, i ? "b" : "a");
        check_optim_tensor(c, f, what, l.item[i].t, i ? 1 : OPTIM_THIN);
        for (w = 0; w < 2 + cfg->amsgrad && moment[cfg->kind == BMVP_SGD][w]; ++w) {
            snprintf(what, sizeof what, "%s.%s.%s", name, i ? "b" : "a", moment[cfg->kind == BMVP_SGD][w]);
            check_optim_tensor(c, f, what, bmvp_optim_moment(o, i, w), i ? 1 : OPTIM_THIN);
        }
        CHECK(*bmvp_optim_count(o, i) == OPTIM_STEPS - i); /* b had no gradient once */
    }
    check_context(c);
    bmvp_optim_destroy(o);
    free(l.item); /* of the default allocator */
    bmvp_destroy(c);
    free(norms.x);
    bmvp_ckpt_close(f);
}

static void test_adamw(void)
{
    bmvp_optim_config k = bmvp_optim_config_default(BMVP_ADAMW);
    CHECK(k.beta1 == 0.9 && k.beta2 == 0.999 && k.eps == 1e-8 && k.weight_decay == 1e-5 && k.momentum == 0.9);
    k.weight_decay = 0.01;
    test_optimizer("adamw", &k, 0, 0);
    k.weight_decay = 0.05;
    test_optimizer("groups", &k, 0, 1);
}

static void test_amsgrad(void)
{
    bmvp_optim_config k = bmvp_optim_config_default(BMVP_ADAMW);
    CHECK(k.amsgrad == 0);
    k.weight_decay = 0.01;
    k.beta2 = 0.7; /* so that the largest is not the last */
    k.amsgrad = 1;
    test_optimizer("amsgrad", &k, 0, 0);
}

/* BMVP_DATA/golden/ssl/ops.json: four steps of two tensors; of "b" the rate and the decay are times these. */
static void golden_steps(const golden_ssl *g, const char *name, const bmvp_optim_config *k, double lr, double lr_b,
                         double decay_b)
{
    static const double size[4] = { 1, 0.1, 0.01, 2 };
    static const int64_t n[2] = { 6, 3 };
    const bmvp_json *all = bmvp_json_get(bmvp_json_root(g->doc), "cases"), *want;
    bmvp_ctx *c = device_context();
    bmvp_state_list l;
    bmvp_optim *o;
    float x[6], *y;
    char stream[32];
    int i, t;
    want = bmvp_json_get(bmvp_json_get(bmvp_json_get(all, "optimizers"), "out"), name);
    memset(&l, 0, sizeof l);
    for (i = 0; i < 2; ++i) {
        golden_ssl_uniform(g, i ? "op.b" : "op.a", 2, -1, n[i], x);
        bmvp_write(c, bmvp_state_add(c, &l, i ? "b" : "a", BMVP_LAYOUT_SAME, 1, &n[i], 1, BMVP_INIT_ZERO, 0), x);
    }
    l.item[1].lr_scale = lr_b;
    l.item[1].decay_scale = decay_b;
    o = bmvp_optim_create(c, &l, k);
    for (t = 0; t < 4; ++t) {
        bmvp_step_begin(c);
        bmvp_optim_zero_grad(o);
        for (i = 0; i < 2; ++i) {
            snprintf(stream, sizeof stream, "op.g%d%d", t, i);
            golden_ssl_uniform(g, stream, 2 * size[t], -size[t], n[i], x);
            bmvp_backward(c, bmvp_sum(c, bmvp_mul(c, l.item[i].t, bmvp_input(c, 1, &n[i], x))));
        }
        bmvp_optim_step(o, lr, 1);
    }
    for (i = 0; i < 2; ++i) {
        y = device_copy(c, l.item[i].t, 0);
        if (CHECK(y && bmvp_json_at(want, i))) golden_ssl_check(name, bmvp_json_at(want, i), y, n[i]);
        free(y);
    }
    check_context(c);
    bmvp_optim_destroy(o);
    bmvp_state_list_free(c, &l);
    bmvp_destroy(c);
}
static void test_golden_ssl(void)
{
    bmvp_optim_config k = bmvp_optim_config_default(BMVP_ADAMW);
    golden_ssl g;
    if (!golden_ssl_open(&g, "ops.json")) return;
    k.weight_decay = 0.01;
    k.amsgrad = 1;
    golden_steps(&g, "amsgrad", &k, 0.1, 1, 1);
    k.amsgrad = 0;
    k.weight_decay = 0.05;
    golden_steps(&g, "adamw_no_decay", &k, 0.1, 1, 0);
    k = bmvp_optim_config_default(BMVP_ADAM);
    k.weight_decay = 0;
    golden_steps(&g, "adam_groups", &k, 0.1, 5, 1);
    k = bmvp_optim_config_default(BMVP_SGD);
    k.weight_decay = 0;
    golden_steps(&g, "sgd", &k, 1, 1, 1);
    bmvp_json_free(g.doc);
}

/* The average of what moves, and what else a copy has */
static void test_average(void)
{
    bmvp_ckpt *f = fixture_open("nets/optim.safetensors");
    bmvp_ctx *c = device_context();
    bmvp_state_list to, from;
    float *x = (float *)malloc(OPTIM_A * sizeof *x), *y;
    char stream[32];
    int64_t j;
    int i, step;
    optim_list(c, &to);
    optim_list(c, &from);
    for (step = 0; x && step < OPTIM_STEPS; ++step) {
        for (i = 0; i < 2; ++i) {
            snprintf(stream, sizeof stream, "optim.%s.grad%d", i ? "b" : "a", step);
            gradient_of(stream, x, to.item[i].t->numel);
            bmvp_write(c, from.item[i].t, x);
        }
        bmvp_state_average(c, &to, &from, 0.9);
    }
    check_optim_tensor(c, f, "average.a", to.item[0].t, OPTIM_THIN);
    check_optim_tensor(c, f, "average.b", to.item[1].t, 1);
    to.item[1].trained = from.item[1].trained = 0; /* like a statistic: is copied, but not averaged */
    bmvp_fill(c, from.item[1].t, 7);
    bmvp_state_average(c, &to, &from, 0.5);
    y = device_copy(c, to.item[1].t, 0);
    CHECK(y && y[0] != 7);
    free(y);
    bmvp_fill(c, to.item[0].t, (float)NAN);
    bmvp_state_average(c, &to, &from, 0);
    for (i = 0; i < 2; ++i) {
        y = device_copy(c, to.item[i].t, 0);
        gradient_of("optim.a.grad5", x, OPTIM_A);
        for (j = 0; y && i && j < OPTIM_B; ++j) x[j] = 7;
        if (CHECK(y != NULL)) CHECK_SAME("copy", y, x, to.item[i].t->numel);
        free(y);
    }
    bmvp_state_average(c, &to, &from, 1.5);
    CHECK(bmvp_error_of(c)->status == BMVP_E_ARG);
    bmvp_clear_error(c);
    from.n = 1;
    bmvp_state_average(c, &to, &from, 0.5);
    CHECK(bmvp_error_of(c)->status == BMVP_E_SHAPE);
    bmvp_clear_error(c);
    check_context(c);
    free(x);
    free(to.item);
    free(from.item); /* of the default allocator */
    bmvp_destroy(c);
    bmvp_ckpt_close(f);
}

static void test_adamw_clipped(void)
{
    bmvp_optim_config k = bmvp_optim_config_default(BMVP_ADAMW);
    k.beta1 = 0.8;
    k.beta2 = 0.95;
    k.weight_decay = 0.1;
    test_optimizer("adamw_clip", &k, 0.5, 0);
}

static void test_adam(void)
{
    bmvp_optim_config k = bmvp_optim_config_default(BMVP_ADAM);
    k.weight_decay = 0.01;
    test_optimizer("adam", &k, 0, 0);
}

static void test_sgd(void)
{
    bmvp_optim_config k = bmvp_optim_config_default(BMVP_SGD);
    k.weight_decay = 0.01;
    test_optimizer("sgd", &k, 0, 0);
}

/* Three numbers and their optimizer; a step whose gradient is `gradient` everywhere. */
typedef struct three { bmvp_ctx *c; bmvp_state_list l; bmvp_optim *o; } three;
static void three_make(three *t)
{
    const int64_t n = 3;
    const float start[3] = { 1, -2, 0.5f };
    bmvp_optim_config k = bmvp_optim_config_default(BMVP_ADAMW);
    memset(t, 0, sizeof *t);
    t->c = device_context();
    bmvp_write(t->c, bmvp_state_add(t->c, &t->l, "t", BMVP_LAYOUT_SAME, 1, &n, 1, BMVP_INIT_ZERO, 0), start);
    t->o = bmvp_optim_create(t->c, &t->l, &k);
}
static void three_free(three *t)
{
    check_context(t->c);
    bmvp_optim_destroy(t->o);
    bmvp_state_list_free(t->c, &t->l);
    bmvp_destroy(t->c);
}
static void three_gradient(three *t, double gradient)
{
    bmvp_step_begin(t->c);
    bmvp_optim_zero_grad(t->o);
    bmvp_backward(t->c, bmvp_sum(t->c, bmvp_scale(t->c, t->l.item[0].t, gradient, 0)));
}
static double three_step(three *t, double gradient, double clip) /* its norm */
{
    const float *x[1];
    float norm = 0;
    three_gradient(t, gradient);
    x[0] = bmvp_optim_clipped_step(t->o, 0.1, clip);
    if (CHECK(x[0] != NULL)) CHECK(bmvp_collect(t->c, bmvp_post(t->c, x, 1), &norm, 1));
    return (double)norm;
}

/* Norm, clipping and step at once are what they are one after the other. */
static void test_clipped_step(void)
{
    three a, b;
    int step;
    three_make(&a);
    three_make(&b);
    for (step = 0; step < 4 && !bmvp_failed(b.c); ++step) {
        const double clip = step == 1 ? 0 : 0.7, gradient = step == 2 ? 0.01 : 1.5;
        double norm;
        float *x, *y;
        CHECK_NEAR(three_step(&a, gradient, clip), gradient * sqrt(3), 1e-6);
        three_gradient(&b, gradient);
        norm = bmvp_optim_grad_norm(b.o);
        bmvp_optim_step(b.o, 0.1, clip > 0 && norm > clip ? clip / norm : 1);
        x = device_copy(a.c, a.l.item[0].t, 0), y = device_copy(b.c, b.l.item[0].t, 0);
        if (CHECK(x && y)) CHECK(memcmp(x, y, 3 * sizeof *x) == 0);
        free(x);
        free(y);
    }
    CHECK(*bmvp_optim_count(a.o, 0) == 4 && *bmvp_optim_count(b.o, 0) == 4);
    three_free(&a);
    three_free(&b);
}

/* After a number that is not finite (a gradient, or one that is watched) nothing moves until it is said to, and what
   has not moved was no step. */
static void test_halted_steps(void)
{
    int watched;
    for (watched = 0; watched < 2; ++watched) {
        three a, b;
        const int64_t one = 1;
        const float nan = (float)NAN;
        float *x, *y;
        three_make(&a);
        three_make(&b);
        CHECK(three_step(&a, 1.5, 1) > 0 && three_step(&b, 1.5, 1) > 0);
        if (watched) bmvp_optim_watch(a.o, bmvp_input(a.c, 1, &one, &nan)->x);
        else CHECK(!(three_step(&a, (double)INFINITY, 1) <= FLT_MAX));
        CHECK(three_step(&a, 2, 1) > 0 && three_step(&a, 3, 1) > 0);
        x = device_copy(a.c, a.l.item[0].t, 0), y = device_copy(b.c, b.l.item[0].t, 0);
        if (CHECK(x && y)) CHECK(memcmp(x, y, 3 * sizeof *x) == 0);
        free(x);
        free(y);
        CHECK(*bmvp_optim_count(a.o, 0) == 4 - watched);
        bmvp_optim_resume(a.o);
        CHECK(*bmvp_optim_count(a.o, 0) == 1);
        CHECK(three_step(&a, 0.5, 1) > 0 && three_step(&b, 0.5, 1) > 0);
        x = device_copy(a.c, a.l.item[0].t, 0), y = device_copy(b.c, b.l.item[0].t, 0);
        if (CHECK(x && y)) CHECK(memcmp(x, y, 3 * sizeof *x) == 0);
        free(x);
        free(y);
        three_free(&a);
        three_free(&b);
    }
}

/* The last 64 tickets can be read, in any order; older ones and others are refused. */
static void test_tickets(void)
{
    const int64_t one = 1;
    bmvp_ctx *c = device_context();
    int64_t first = 0, t = 0;
    float got[2];
    int i;
    for (i = 0; i < BMVP_TICKETS + 1; ++i) {
        const float v = (float)i;
        const float *x[2] = { NULL, NULL };
        const bmvp_tensor *y = bmvp_input(c, 1, &one, &v);
        if (!CHECK(y != NULL)) break;
        x[1] = y->x;
        t = bmvp_post(c, x, 2);
        CHECK(t > 0);
        if (i == 0) first = t;
    }
    CHECK(bmvp_collect(c, t, got, 2) && got[0] == 0 && got[1] == (float)BMVP_TICKETS);
    CHECK(bmvp_collect(c, first + 1, got, 2) && got[1] == 1);
    CHECK(!bmvp_collect(c, first, got, 2) && bmvp_error_of(c)->status == BMVP_E_STATE && got[1] != got[1]);
    bmvp_clear_error(c);
    CHECK(!bmvp_collect(c, t + 1, got, 2) && bmvp_failed(c));
    bmvp_clear_error(c);
    CHECK(bmvp_post(c, NULL, BMVP_POST_MOST + 1) == 0 && bmvp_error_of(c)->status == BMVP_E_ARG);
    bmvp_destroy(c);
}

static void test_lr_scale(void)
{
    const int64_t one = 1;
    bmvp_optim_config k = bmvp_optim_config_default(BMVP_SGD);
    bmvp_ctx *c = bmvp_create(NULL, NULL);
    bmvp_state_list l;
    bmvp_optim *o;
    bmvp_tensor *t;
    memset(&l, 0, sizeof l);
    k.weight_decay = 0;
    t = bmvp_state_add(c, &l, "t", BMVP_LAYOUT_SAME, 1, &one, 1, BMVP_INIT_ZERO, 0);
    bmvp_fill(c, t, 1);
    l.item[0].lr_scale = 3;
    o = bmvp_optim_create(c, &l, &k);
    bmvp_backward(c, bmvp_sum(c, bmvp_scale(c, t, 2, 0)));
    bmvp_optim_step(o, 0.1, 0.5);
    CHECK_NEAR((double)t->x[0], 1 - 0.1 * 3 * 2 * 0.5, 1e-6);
    CHECK(l.item[0].decay_scale == 1);
    bmvp_state_decay_matrices(&l);
    CHECK(l.item[0].decay_scale == 0);
    bmvp_optim_destroy(o);
    free(l.item); /* of the default allocator */
    bmvp_destroy(c);
}

static void test_schedule(void)
{
    bmvp_ckpt *f = fixture_open("nets/optim.safetensors");
    fixture_tensor full, half, steps;
    bmvp_schedule k;
    int i;
    if (!f) return;
    memset(&k, 0, sizeof k);
    k.lr = 3e-4;
    k.total = 40;
    full = fixture_load(f, "cosine");
    half = fixture_load(f, "cosine_half");
    steps = fixture_load(f, "steps");
    for (i = 0; i < 40 && CHECK(full.x && half.x && steps.x); ++i) {
        k.every = 7;
        k.factor = 0.5;
        CHECK_NEAR(bmvp_schedule_lr(&k, i), (double)steps.x[i], 1e-10);
        k.every = 0;
        k.half_period = 0;
        CHECK_NEAR(bmvp_schedule_lr(&k, i), (double)full.x[i], 1e-10);
        k.half_period = 1;
        CHECK_NEAR(bmvp_schedule_lr(&k, i), (double)half.x[i], 1e-10);
    }
    CHECK_NEAR(bmvp_schedule_lr(&k, 20), 0, 1e-12); /* 0 at half time, back at the end */
    CHECK_NEAR(bmvp_schedule_lr(&k, 40), 3e-4, 1e-12);
    k.half_period = 0;
    k.warmup = 4;
    k.floor = 1e-5;
    for (i = 0; i < 4; ++i) CHECK_NEAR(bmvp_schedule_lr(&k, i), 3e-4 * (i + 1) / 5, 1e-12);
    CHECK_NEAR(bmvp_schedule_lr(&k, 4), 3e-4, 1e-12);
    CHECK_NEAR(bmvp_schedule_lr(&k, 22), 0.5 * (3e-4 + 1e-5), 1e-12);
    CHECK_NEAR(bmvp_schedule_lr(&k, 40), 1e-5, 1e-12);
    k.warm_from = 1; /* DAE: from 1e-6 on, and a cosine that does not wait for the warm-up */
    k.start = 1e-6;
    k.whole = 1;
    CHECK_NEAR(bmvp_schedule_lr(&k, 0), 1e-6, 1e-15);
    CHECK_NEAR(bmvp_schedule_lr(&k, 3), 1e-6 + 3 * (3e-4 - 1e-6) / 4, 1e-12);
    CHECK_NEAR(bmvp_schedule_lr(&k, 20), 0.5 * (3e-4 + 1e-5), 1e-12);
    CHECK_NEAR(bmvp_schedule_lr(&k, 10), 1e-5 + (3e-4 - 1e-5) * 0.5 * (1 + sqrt(0.5)), 1e-12);
    free(full.x);
    free(half.x);
    free(steps.x);
    bmvp_ckpt_close(f);
}

int main(int argc, char **argv)
{
    check_begin(argc, argv);
    if (!device_open()) return check_end();
    CHECK_RUN(test_adamw);
    CHECK_RUN(test_adamw_clipped);
    CHECK_RUN(test_amsgrad);
    CHECK_RUN(test_average);
    CHECK_RUN(test_golden_ssl);
    CHECK_RUN(test_adam);
    CHECK_RUN(test_sgd);
    CHECK_RUN(test_clipped_step);
    CHECK_RUN(test_halted_steps);
    CHECK_RUN(test_tickets);
    if (DEVICE_IS_GPU) { /* all that PyTorch's numbers are there for */
        device_close();
        return check_end();
    }
    CHECK_RUN(test_lr_scale);
    CHECK_RUN(test_schedule);
    return check_end();
}
