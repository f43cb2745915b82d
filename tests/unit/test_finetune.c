/* test_finetune.c - the fine-tuning trainer: presets, sampler, copies, losses, accumulation, bits, files */
#include "bmvp_tensor.h"
#include "bmvp_nn.h"
#include "bmvp_ssl.h"
#include "tests/support/check.h"
#include "tests/support/fixture.h"
#include "tests/support/formula.h"
#include <stdlib.h>

enum { E = 16, N = E * E * E, MODALITIES = 3 };
static const char *const names[MODALITIES] = { "flair", "t1", "t1c" };
static const int64_t grid[3] = { 20, 18, 22 };

typedef struct data {
    float image[2][MODALITIES][N], labels[2][N];
    bmvp_ft_item item[2];
} data;

static data *make_data(void)
{
    data *d = (data *)calloc(1, sizeof *d);
    bmvp_rng r = bmvp_rng_make(3, 0, 0, 0);
    int b, m, i;
    for (b = 0; d && b < 2; ++b) {
        for (m = 0; m < MODALITIES; ++m)
            for (i = 0; i < N; ++i) d->image[b][m][i] = bmvp_rng_uniform(&r);
        for (i = 0; i < N; ++i)
            d->labels[b][i] = (float)(d->image[b][0][i] > 0.8f ? 1 + (int)bmvp_rng_below(&r, 3) : 0);
        for (m = 0; m < MODALITIES; ++m) d->item[b].image[m] = d->image[b][m];
        d->item[b].labels = d->labels[b];
        d->item[b].class_index = b;
        d->item[b].slot = (uint32_t)b;
    }
    return d;
}

typedef struct setup {
    bmvp_ctx *c;
    bmvp_ft *f;
    bmvp_ft_config cfg;
    bmvp_labels labels;
} setup;

static bmvp_net_config network(const char *name, bmvp_net_task task)
{
    bmvp_net_config net;
    CHECK(bmvp_net_preset(name, &net));
    net.task = task;
    net.outputs = 2;
    return net;
}

/* A trainer on crops of 16^3 with random templates; change: "name=value" pairs of the configuration. */
static setup start(const char *net_name, bmvp_net_task task, const char *const *change, int threads)
{
    bmvp_config k = bmvp_config_default();
    const bmvp_net_config net = network(net_name, task);
    bmvp_rng r = bmvp_rng_make(4, 0, 0, 0);
    bmvp_error err;
    setup s;
    int64_t i;
    int m;
    memset(&s, 0, sizeof s);
    k.threads = threads;
    s.c = bmvp_create(&k, NULL);
    CHECK(bmvp_ft_preset("paper", task, net.kind, &s.cfg) && bmvp_labels_builtin("phantom", &s.labels));
    s.cfg.crop_x = s.cfg.crop_y = s.cfg.crop_z = E;
    s.cfg.batch = 2;
    s.cfg.update_every = 1;
    for (; change && change[0]; change += 2)
        check_report(bmvp_ft_set(&s.cfg, change[0], change[1], &err) == BMVP_OK, __FILE__, __LINE__, "%s", err.message);
    s.f = bmvp_ft_create(s.c, &net, &s.cfg, task == BMVP_TASK_SEGMENT ? &s.labels : NULL, MODALITIES, names, grid);
    check_report(s.f != NULL, __FILE__, __LINE__, "%s", bmvp_error_of(s.c)->message);
    for (m = 0; s.f && m < MODALITIES; ++m)
        for (i = 0; i < bmvp_ft_template(s.f, m)->numel; ++i) bmvp_ft_template(s.f, m)->x[i] = bmvp_rng_uniform(&r);
    return s;
}
static void stop(setup *s)
{
    check_report(!bmvp_failed(s->c), __FILE__, __LINE__, "%s", bmvp_error_of(s->c)->message);
    bmvp_ft_destroy(s->f);
    bmvp_destroy(s->c);
}

static void test_presets(void)
{
    bmvp_ft_config k;
    bmvp_error err;
    CHECK(bmvp_ft_preset("paper", BMVP_TASK_SEGMENT, "uniformer", &k) && k.copies && k.dice_weight == 1 &&
          k.consistency_weight == 0.1);
    CHECK(k.weight_decay == 1e-4 && k.batch == 3 && k.epochs == 500 && k.deep_supervision);
    CHECK(bmvp_ft_preset("paper", BMVP_TASK_CLASSIFY, "unet3d", &k) && k.batch * k.update_every == 64 &&
          k.crop_z == 64 && k.epochs == 200);
    CHECK(bmvp_ft_preset("release", BMVP_TASK_SEGMENT, "uniformer", &k) && k.dice_weight == 0.7 && k.ce_weight == 0.3 &&
          k.consistency_on);
    CHECK(!bmvp_ft_preset("other", BMVP_TASK_SEGMENT, "uniformer", &k));
    CHECK(bmvp_ft_set(&k, "flip", "2", &err) == BMVP_E_ARG);
    CHECK_HOLDS(err.message, "from 0 to 1");
    CHECK(bmvp_ft_set(&k, "flop", "1", &err) == BMVP_E_ARG);
    CHECK_HOLDS(err.message, "flip");
}

/* Every case once an epoch; crops inside, or centred on an axis that is too short. */
static void test_sampler(void)
{
    bmvp_ssl_case cases[5];
    bmvp_ft_config k;
    bmvp_ft_draw d[2];
    int64_t order[5], step;
    int seen[5] = { 0 }, i;
    memset(cases, 0, sizeof cases);
    for (i = 0; i < 5; ++i) cases[i].dim[0] = 10, cases[i].dim[1] = 30, cases[i].dim[2] = 16;
    CHECK(bmvp_ft_preset("fast", BMVP_TASK_SEGMENT, "uniformer", &k));
    k.crop_x = k.crop_y = k.crop_z = 16;
    k.batch = 2;
    for (step = 0; step < 5; ++step) { /* two epochs */
        bmvp_ft_sample(&k, cases, 5, step, order, d);
        for (i = 0; i < 2; ++i) {
            ++seen[d[i].index];
            CHECK(d[i].crop[0] == -3 && d[i].crop[1] >= 0 && d[i].crop[1] <= 14 && d[i].crop[2] == 0 &&
                  d[i].pick >= 0 && d[i].pick < 1);
        }
    }
    for (i = 0; i < 5; ++i) CHECK(seen[i] == 2);
}

/* The drawn replacements: the loss of a step equals that with some explicit proper, non-empty subset in each copy. */
static void test_replaced(void)
{
    static const char *const plain[] = {
        "flip", "0", "intensity_shift", "0", "intensity_scale", "0", "batch", "1", NULL
    };
    setup s = start("uniformer_tiny", BMVP_TASK_SEGMENT, plain, 1);
    data *d = make_data();
    bmvp_ft_losses drawn, given;
    uint32_t set[2];
    int found = 0;
    CHECK(bmvp_ft_accumulate(s.f, d->item, 1, &drawn) == BMVP_OK);
    for (set[0] = 1; set[0] < 7; ++set[0]) /* 1 .. 6: not none, not all */
        for (set[1] = 1; set[1] < 7; ++set[1]) {
            bmvp_ft_item item = d->item[0];
            item.replace = set;
            CHECK(bmvp_ft_accumulate(s.f, &item, 1, &given) == BMVP_OK);
            found += given.total == drawn.total;
        }
    CHECK(found == 1 || found == 2); /* the two copies may be exchanged */
    free(d);
    stop(&s);
}

/* Missing modalities: the template at its place, zero outside of it, or zeros. */
static void test_input(void)
{
    setup s = start("uniformer_tiny", BMVP_TASK_SEGMENT, NULL, 1);
    data *d = make_data();
    const int64_t at[3] = { -2, 5, 10 }, dim[3] = { E, E, E };
    const float *image[MODALITIES] = { d->image[0][0], NULL, d->image[0][2] };
    const bmvp_tensor *t = bmvp_ft_template(s.f, 1);
    float *x = (float *)malloc(MODALITIES * N * sizeof *x);
    int64_t z, y, k;
    int fill;
    for (fill = 0; fill < 2; ++fill) {
        bmvp_ft_set_fill(s.f, fill);
        bmvp_ft_input(s.f, image, at, dim, x);
        for (z = 0; z < E; ++z)
            for (y = 0; y < E; ++y)
                for (k = 0; k < E; ++k) {
                    const int64_t i = (z * E + y) * E + k, a = z - 2, b = y + 5, c = k + 10;
                    const int in = a >= 0 && a < grid[0] && b < grid[1] && c < grid[2];
                    const float want = fill || !in ? 0 : t->x[(a * grid[1] + b) * grid[2] + c];
                    CHECK(x[3 * i] == image[0][i] && x[3 * i + 1] == want && x[3 * i + 2] == image[2][i]);
                }
    }
    free(x);
    free(d);
    stop(&s);
}

/* Two cases in one step, or one after the other with gradients added up: the same parameters where no statistics join
   the cases. */
static void test_accumulation(void)
{
    static const char *const one[] = {
        "batch", "1", "update_every", "2", "flip", "0", "consistency_weight", "0", NULL
    };
    static const char *const two[] = { "flip", "0", "consistency_weight", "0", NULL };
    setup a = start("unet3d_tiny", BMVP_TASK_SEGMENT, two, 1), b = start("unet3d_tiny", BMVP_TASK_SEGMENT, one, 1);
    data *d = make_data();
    const bmvp_state_list *la = bmvp_net_state(bmvp_ft_net(a.f)), *lb = bmvp_net_state(bmvp_ft_net(b.f));
    static const uint32_t replace[2] = { 1, 2 };
    int i;
    for (i = 0; i < 2; ++i) d->item[i].replace = replace;
    CHECK(bmvp_ft_accumulate(a.f, d->item, 2, NULL) == BMVP_OK);
    CHECK(bmvp_ft_accumulate(b.f, d->item, 1, NULL) == BMVP_OK &&
          bmvp_ft_accumulate(b.f, d->item + 1, 1, NULL) == BMVP_OK);
    for (i = 0; i < la->n; ++i)
        if (bmvp_has_grad(la->item[i].t) && strstr(la->item[i].name, "up1conv"))
            CHECK_CLOSE(la->item[i].name, lb->item[i].t->g, la->item[i].t->g, la->item[i].t->numel, 1e-4);
    free(d);
    stop(&a);
    stop(&b);
}

static float *parameters(setup *s, int64_t *n)
{
    const bmvp_state_list *l = bmvp_net_state(bmvp_ft_net(s->f));
    float *p, *at;
    int i;
    for (i = 0, *n = 0; i < l->n; ++i) *n += l->item[i].t->numel;
    at = p = (float *)calloc((size_t)*n, sizeof *p);
    for (i = 0; i < l->n; at += l->item[i++].t->numel)
        if (l->item[i].torch_rank > 0) memcpy(at, l->item[i].t->x, (size_t)l->item[i].t->numel * sizeof *p);
    return p;
}

/* The same bits with 1, 2 and 3 threads; and when the run is saved, thrown away and loaded in the middle. */
static void test_bits(void)
{
    const char *path = "build/test_finetune.safetensors";
    const char *extra[5] = { "preparation", "{\"spacing\": 1}", "best", "0.75", NULL };
    float *want = NULL, *have;
    data *d = make_data();
    bmvp_ft_info info;
    bmvp_error err;
    int64_t n;
    int threads, step;
    for (threads = 1; threads <= 4; ++threads) { /* 4: two steps, save, load, two steps */
        setup s = start("uniformer_tiny", BMVP_TASK_SEGMENT, NULL, threads < 4 ? threads : 2);
        for (step = 0; step < 4; ++step) {
            CHECK(bmvp_ft_step(s.f, d->item, 2, 1e-3, NULL) == BMVP_OK);
            if (threads < 4 || step != 1) continue;
            check_report(bmvp_ft_save(s.f, path, 1, extra, &err) == BMVP_OK, __FILE__, __LINE__, "%s", err.message);
            stop(&s);
            s = start("uniformer_tiny", BMVP_TASK_SEGMENT, NULL, 1);
            check_report(bmvp_ft_load(s.f, path, 1, &err) == BMVP_OK, __FILE__, __LINE__, "%s", err.message);
            CHECK(bmvp_ft_steps(s.f) == 2);
            CHECK(bmvp_ft_inspect(path, &info, &err) == BMVP_OK && info.best == 0.75 &&
                  info.n_modalities == MODALITIES && info.step == 2);
            CHECK(strcmp(info.preparation, extra[1]) == 0 && strcmp(info.labels.name, "phantom") == 0 &&
                  info.grid[2] == grid[2]);
        }
        have = parameters(&s, &n);
        if (!want) want = have;
        else {
            CHECK_SAME("parameters", have, want, n);
            free(have);
        }
        stop(&s);
    }
    remove(path);
    free(want);
    free(d);
}

static void test_classification(void)
{
    static const char *const k[] = { "copies", "0", "lr", "0.01", "flip", "0", NULL };
    setup s = start("unet3d_tiny", BMVP_TASK_CLASSIFY, k, 2);
    data *d = make_data();
    bmvp_ft_losses first, last;
    int step;
    CHECK(bmvp_ft_step(s.f, d->item, 2, 3e-3, &first) == BMVP_OK);
    for (step = 0; step < 15; ++step) CHECK(bmvp_ft_step(s.f, d->item, 2, 3e-3, &last) == BMVP_OK);
    CHECK(last.total < 0.5 * first.total && first.dice != first.dice);
    d->item[0].class_index = 2;
    CHECK(bmvp_ft_step(s.f, d->item, 2, 3e-3, &last) == BMVP_E_ARG);
    CHECK_HOLDS(bmvp_error_of(s.c)->message, "class 2");
    bmvp_clear_error(s.c);
    free(d);
    stop(&s);
}

/* One modality only: both copies are masked, the consistency is there, and it trains. */
static void test_single_modality(void)
{
    setup s = start("uniformer_tiny", BMVP_TASK_SEGMENT, NULL, 2);
    data *d = make_data();
    bmvp_ft_losses loss;
    int b;
    for (b = 0; b < 2; ++b) d->item[b].image[1] = d->item[b].image[2] = NULL;
    CHECK(bmvp_ft_step(s.f, d->item, 2, 1e-3, &loss) == BMVP_OK);
    CHECK(loss.total > 0 && loss.consistency > 0 && loss.grad_norm > 0);
    d->item[1].image[0] = NULL;
    CHECK(bmvp_ft_step(s.f, d->item, 2, 1e-3, &loss) == BMVP_E_ARG);
    CHECK_HOLDS(bmvp_error_of(s.c)->message, "no image");
    bmvp_clear_error(s.c);
    free(d);
    stop(&s);
}

/* From a pre-training file: templates by name, the missing one is named; a pre-training file is no fine-tuned one. */
static void test_init(void)
{
    const char *path = "build/test_finetune_pre.safetensors", *two[2] = { "flair", "t1" };
    bmvp_ctx *c = bmvp_create(NULL, NULL);
    bmvp_ssl_config k;
    bmvp_net_config net;
    bmvp_net_adoption what;
    bmvp_ssl *pre;
    bmvp_ft_info info;
    bmvp_error err;
    setup s = start("uniformer_tiny", BMVP_TASK_SEGMENT, NULL, 1);
    CHECK(bmvp_ssl_preset("fast", &k) && bmvp_net_preset("uniformer_tiny", &net));
    k.crop = E;
    pre = bmvp_ssl_create(c, &net, &k, 2, two, grid);
    CHECK(pre && bmvp_ssl_save(pre, path, NULL, &err) == BMVP_OK);
    memset(&what, 0, sizeof what);
    CHECK(bmvp_ft_init(s.f, path, 1, &what, &err) == BMVP_E_FORMAT);
    CHECK_HOLDS(err.message, "no template of modality t1c");
    CHECK(bmvp_ft_inspect(path, &info, &err) == BMVP_E_FORMAT);
    CHECK_HOLDS(err.message, "pre-training run");
    bmvp_ft_set_fill(s.f, 1);
    CHECK(bmvp_ft_init(s.f, path, 1, &what, &err) == BMVP_OK && what.n[BMVP_ADOPT_ADAPTED] == 2 &&
          what.n[BMVP_ADOPT_TAKEN] > 100);
    bmvp_ssl_template(pre, 0)->x[7] = (float)HUGE_VAL; /* of a run that diverged */
    CHECK(bmvp_ssl_save(pre, path, NULL, &err) == BMVP_OK);
    bmvp_ft_set_fill(s.f, 0);
    CHECK(bmvp_ft_init(s.f, path, 1, &what, &err) == BMVP_E_FORMAT);
    CHECK_HOLDS(err.message, "tensor 'rep_template', the template of flair, holds inf");
    bmvp_ssl_destroy(pre);
    bmvp_destroy(c);
    stop(&s);
    remove(path);
}

static void test_plan(void)
{
    setup s = start("uniformer_tiny", BMVP_TASK_SEGMENT, NULL, 1);
    const bmvp_net_config net = network("uniformer_tiny", BMVP_TASK_SEGMENT);
    data *d = make_data();
    bmvp_config k = bmvp_config_default();
    bmvp_memory m;
    bmvp_error err;
    k.threads = 1; /* as s: threads have workspaces of their own */
    CHECK(bmvp_ft_plan(&k, &net, &s.cfg, &s.labels, MODALITIES, names, grid, 1, &m, &err) == BMVP_OK);
    CHECK(bmvp_reserve(s.c, m.step_peak) == BMVP_OK && bmvp_ft_step(s.f, d->item, 2, 1e-3, NULL) == BMVP_OK);
    CHECK(bmvp_memory_of(s.c).persistent == m.persistent);
    CHECK(bmvp_memory_of(s.c).step_peak <= m.step_peak &&
          (double)bmvp_memory_of(s.c).step_peak >= 0.98 * (double)m.step_peak);
    free(d);
    stop(&s);
}

/* >>ignored labels: against PyTorch (tests/reference/ignore_reference.py) ---------------------------------------- */

enum { SMALL = 8 * 8 * 8, IGNORED = 4 };

static void one_conv_make(bmvp_net *net)
{
    *(bmvp_layer *)net->layers = bmvp_make_conv(&net->m, "out", net->cfg.in_channels, net->cfg.outputs, 1, 1, 0, 1);
}
static bmvp_features one_conv_encode(bmvp_net *net, bmvp_tensor *x)
{
    bmvp_features f;
    (void)net;
    memset(&f, 0, sizeof f);
    f.last = x;
    return f;
}
static bmvp_logits one_conv_segment(bmvp_net *net, bmvp_tensor *x, const bmvp_features *f, int deep)
{
    bmvp_logits l = { NULL, NULL, NULL };
    (void)x, (void)deep;
    l.full = bmvp_run(&net->m, (const bmvp_layer *)net->layers, f->last);
    return l;
}
static int64_t one_conv_stride(const bmvp_net_config *k)
{
    (void)k;
    return 1;
}

/* 1, 2 and 3, IGNORED besides: three regions within one another, or three classes. */
static bmvp_labels ignoring(int exclusive)
{
    static const int v[3] = { 1, 2, 3 };
    bmvp_labels l;
    bmvp_error err;
    memset(&l, 0, sizeof l);
    l.exclusive = exclusive;
    CHECK(bmvp_labels_add(&l, "a", v, exclusive ? 1 : 3, &err) == BMVP_OK);
    CHECK(bmvp_labels_add(&l, "b", v + 1, exclusive ? 1 : 2, &err) == BMVP_OK);
    CHECK(bmvp_labels_add(&l, "c", v + 2, 1, &err) == BMVP_OK);
    CHECK(bmvp_labels_ignore(&l, IGNORED, &err) == BMVP_OK && bmvp_labels_finish(&l, &err) == BMVP_OK);
    return l;
}

typedef struct ignore_case { const char *name; int exclusive, weighed, batch, squared; double smooth; } ignore_case;

static void compare_ignored(const ignore_case *k, bmvp_ft *f, const bmvp_ft_item *items, bmvp_ckpt *file)
{
    const bmvp_state_list *l = bmvp_net_state(bmvp_ft_net(f));
    fixture_tensor want = fixture_load(file, "%s.loss", k->name), w = fixture_load(file, "%s.weight", k->name),
                   b = fixture_load(file, "%s.bias", k->name);
    bmvp_ft_losses got;
    CHECK(bmvp_ft_accumulate(f, items, 2, &got) == BMVP_OK);
    if (CHECK(want.x && w.x && b.x && l->n == 2)) {
        CHECK_NEAR(got.total, (double)want.x[0], 1e-6);
        CHECK_NEAR(got.dice, (double)want.x[1], 1e-6);
        CHECK_NEAR(got.ce, (double)want.x[2], 1e-6);
        CHECK_CLOSE("weight", l->item[0].t->g, w.x, w.numel, 2e-6);
        CHECK_CLOSE("bias", l->item[1].t->g, b.x, b.numel, 2e-6);
    }
    free(want.x);
    free(w.x);
    free(b.x);
}

static void run_ignored(const ignore_case *k, const bmvp_ft_item *items, bmvp_ckpt *file)
{
    static const float weight[4] = { 0.3f, 1.0f, 1.5f, 2.5f };
    static const char *const two[2] = { "flair", "t1" };
    const bmvp_net_kind *rows[2] = { NULL, NULL };
    bmvp_config c = bmvp_config_default();
    bmvp_net_config net = bmvp_net_config_default("one_conv");
    const bmvp_labels labels = ignoring(k->exclusive);
    bmvp_ft_config cfg;
    bmvp_net_kind row;
    bmvp_ctx *ctx;
    bmvp_ft *f;
    memset(&row, 0, sizeof row);
    row.name = "one_conv", row.size = sizeof(bmvp_layer), row.stride = one_conv_stride;
    row.make = one_conv_make, row.encode = one_conv_encode, row.segment = one_conv_segment;
    rows[0] = &row;
    c.networks = rows;
    c.threads = 1;
    net.task = BMVP_TASK_SEGMENT;
    ctx = bmvp_create(&c, NULL);
    CHECK(bmvp_ft_preset("release", BMVP_TASK_SEGMENT, "unet3d", &cfg));
    cfg.crop_x = cfg.crop_y = cfg.crop_z = 8;
    cfg.batch = 2, cfg.update_every = 1, cfg.copies = 0, cfg.fill = 1;
    cfg.flip = cfg.intensity_shift = cfg.intensity_scale = 0;
    cfg.dice_batch = k->batch, cfg.dice_squared = k->squared, cfg.dice_smooth = k->smooth;
    f = bmvp_ft_create(ctx, &net, &cfg, &labels, 2, two, NULL);
    if (check_report(f != NULL, __FILE__, __LINE__, "%s", bmvp_error_of(ctx)->message) &&
        CHECK(formula_state(ctx, bmvp_net_state(bmvp_ft_net(f)), 0))) {
        if (k->weighed) bmvp_ft_class_weights(f, weight);
        compare_ignored(k, f, items, file);
    }
    bmvp_ft_destroy(f);
    bmvp_destroy(ctx);
}

static void test_ignored(void)
{
    static const ignore_case k[] = { { "regions", 0, 0, 0, 0, 1e-5 },
                                     { "regions_batch", 0, 0, 1, 1, 1.0 },
                                     { "classes", 1, 0, 0, 1, 1.0 },
                                     { "classes_batch", 1, 0, 1, 0, 1e-5 },
                                     { "weighed", 1, 1, 0, 0, 1.0 } };
    float *v = (float *)malloc(6 * SMALL * sizeof *v);
    bmvp_ckpt *file = fixture_open("nets/ignore.safetensors");
    bmvp_ft_item item[2];
    char name[16];
    int b, m, i;
    memset(item, 0, sizeof item);
    for (b = 0; b < 2; ++b)
        for (m = 0; m < 3; ++m) {
            float *x = v + (3 * b + m) * SMALL;
            snprintf(name, sizeof name, m < 2 ? "image%d%d" : "labels%d", b, m);
            for (i = 0; i < SMALL; ++i) {
                const double u = formula_uniform(formula_stream(name, 0), i);
                x[i] = (float)(m < 2 ? u : fmin(floor(u * (b ? 16 : 5)), IGNORED));
            }
            if (m < 2) item[b].image[m] = x;
            else item[b].labels = x;
            item[b].slot = (uint32_t)b;
        }
    for (i = 0; file && i < (int)(sizeof k / sizeof *k); ++i) run_ignored(&k[i], item, file);
    bmvp_ckpt_close(file);
    free(v);
}

/* Nothing judged: no loss, no gradient, at every scale; one voxel judged: a loss again. */
static void test_all_ignored(void)
{
    static const char *const change[] = { "consistency_weight", "0", "ce_weight", "1", NULL };
    const bmvp_net_config net = network("uniformer_tiny", BMVP_TASK_SEGMENT);
    setup s = start("uniformer_tiny", BMVP_TASK_SEGMENT, change, 1);
    const bmvp_labels labels = ignoring(1);
    data *d = make_data();
    bmvp_ft_losses loss;
    bmvp_ft *f = bmvp_ft_create(s.c, &net, &s.cfg, &labels, MODALITIES, names, grid);
    int b, i;
    for (b = 0; b < 2; ++b)
        for (i = 0; i < N; ++i) d->labels[b][i] = IGNORED;
    CHECK(f && bmvp_ft_step(f, d->item, 2, 0, &loss) == BMVP_OK);
    CHECK_NEAR(loss.total, 0, 1e-6);
    CHECK(loss.ce == 0 && loss.grad_norm == 0);
    d->labels[1][77] = 2;
    CHECK(f && bmvp_ft_step(f, d->item, 2, 0, &loss) == BMVP_OK && loss.ce > 0.1 && loss.grad_norm > 0);
    bmvp_ft_destroy(f);
    free(d);
    stop(&s);
}

/* An allocator that gives 64 MB at most. */
static void *small_alloc(size_t n, void *user) { return (void)user, n > (size_t)64 << 20 ? NULL : malloc(n); }
static void small_free(void *p, void *user) { (void)user, free(p); }

/* The file again, with one text of its description in place of another. */
static void retell(const char *from, const char *to, const char *text, const char *other)
{
    bmvp_ckpt_writer *w = NULL;
    bmvp_ckpt *f = NULL;
    int i;
    if (!CHECK(bmvp_ckpt_open(from, NULL, &f, NULL) == BMVP_OK)) return;
    CHECK(bmvp_ckpt_writer_begin(to, BMVP_CKPT_SAFETENSORS, NULL, &w, NULL) == BMVP_OK);
    for (i = 0; i < f->n_entries; ++i)
        bmvp_ckpt_writer_add(w, f->entry[i].group, f->entry[i].name, f->entry[i].dtype, f->entry[i].rank,
                             f->entry[i].dim, NULL);
    for (i = 0; i < f->n_meta; ++i) {
        const char *value = f->meta[i].value, *at = strstr(value, text);
        char *told = (char *)malloc(strlen(value) + strlen(other) + 1);
        if (at) sprintf(told, "%.*s%s%s", (int)(at - value), value, other, at + strlen(text));
        CHECK(strcmp(f->meta[i].name, "run") != 0 || at);
        bmvp_ckpt_writer_meta(w, f->meta[i].group, f->meta[i].name, f->meta[i].kind, at ? told : value, NULL);
        free(told);
    }
    for (i = 0; i < f->n_entries; ++i) {
        char *values = (char *)malloc((size_t)f->entry[i].bytes);
        CHECK(bmvp_ckpt_load(f, i, values, f->entry[i].bytes, NULL) == BMVP_OK);
        bmvp_ckpt_writer_data(w, values, f->entry[i].bytes, NULL);
        free(values);
    }
    CHECK(bmvp_ckpt_writer_finish(w, NULL) == BMVP_OK);
    bmvp_ckpt_close(f);
}

/* A description that asks for more than the file holds is refused before anything of that size is made. */
static void test_description(void)
{
    static const char *const told[][2] = { { "\"grid\": [20, 18, 22]", "\"grid\": [2000, 1800, 2200]" },
                                           { "[16, 32, 64, 128]", "[16, 32, 64, 4096]" } };
    static const char *const file[2] = { "build/finetune_holds.safetensors", "build/finetune_told.safetensors" };
    setup s = start("uniformer_tiny", BMVP_TASK_SEGMENT, NULL, 1);
    bmvp_config k = bmvp_config_default();
    bmvp_ft_info info;
    bmvp_error err;
    bmvp_ctx *c;
    bmvp_ft *f;
    size_t i;
    k.allocator.alloc = small_alloc;
    k.allocator.free = small_free;
    k.threads = 1;
    CHECK(bmvp_ft_save(s.f, file[0], 0, NULL, &err) == BMVP_OK);
    for (i = 0; i < 2; ++i) {
        retell(file[0], file[1], told[i][0], told[i][1]);
        c = bmvp_create(&k, NULL);
        f = bmvp_ft_open(c, file[1], &info, &err);
        CHECK(f == NULL);
        if (!f) CHECK(err.status == BMVP_E_SHAPE || err.status == BMVP_E_FORMAT);
        if (!f) CHECK_HOLDS(err.message, "has shape");
        bmvp_ft_destroy(f);
        bmvp_destroy(c);
    }
    for (i = 0; i < 2; ++i) remove(file[i]);
    stop(&s);
}

int main(int argc, char **argv)
{
    check_begin(argc, argv);
    CHECK_RUN(test_presets);
    CHECK_RUN(test_sampler);
    CHECK_RUN(test_replaced);
    CHECK_RUN(test_input);
    CHECK_RUN(test_accumulation);
    CHECK_RUN(test_bits);
    CHECK_RUN(test_classification);
    CHECK_RUN(test_single_modality);
    CHECK_RUN(test_init);
    CHECK_RUN(test_description);
    CHECK_RUN(test_plan);
    CHECK_RUN(test_ignored);
    CHECK_RUN(test_all_ignored);
    return check_end();
}
