/* test_nn.c - bmvp_nn.h: tiny networks layer by layer against PyTorch in double
   (tests/reference/networks_reference.py), the two forms of the decoder, the optimizers and schedules
   (optim_reference.py), initialisation, names, layouts and checkpoints. With TEST_CUDA what PyTorch's numbers are there for, on a GPU. */
#define BMVP_IMPLEMENTATION
#include "bmvp_tensor.h"
#include "bmvp_nn.h"
#include "tests/support/check.h"
#include "tests/support/device.h"
#include "tests/support/fixture.h"
#include "tests/support/formula.h"
#include <unistd.h>

static const char *data_folder(void)
{
    const char *data = getenv("BMVP_DATA");
    return data && *data ? data : "../shared";
}

/* The file's name is the test's own, so that several can run at once. */
static const char *temporary(char *buf, size_t size, const char *suffix)
{
    snprintf(buf, size, "%s/test_nn.%ld.%s", getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp", (long)getpid(), suffix);
    return buf;
}

static bmvp_net_config preset(const char *name)
{
    bmvp_net_config k;
    memset(&k, 0, sizeof k);
    CHECK(bmvp_net_preset(name, &k));
    return k;
}

static bmvp_net_config downstream_of(const char *name, bmvp_net_task task, int in_channels, int outputs)
{
    bmvp_net_config cfg = preset(name);
    cfg.task = task;
    cfg.in_channels = in_channels;
    cfg.outputs = outputs;
    cfg.deep_supervision = task == BMVP_TASK_SEGMENT && bmvp_net_kind_find(NULL, cfg.kind)->deep;
    return cfg;
}

static bmvp_net *fresh(bmvp_ctx *c, const bmvp_net_config *cfg, uint64_t seed)
{
    bmvp_net *net = bmvp_net_create(c, cfg);
    bmvp_net_init(net, seed);
    return net;
}

static int find_state(const bmvp_state_list *l, const char *name)
{
    int i;
    for (i = 0; i < l->n; ++i)
        if (strcmp(l->item[i].name, name) == 0) return i;
    return -1;
}

static void check_context(bmvp_ctx *c)
{
    check_report(!bmvp_failed(c), __FILE__, __LINE__, "%s", bmvp_error_of(c)->message);
}

/* >>fixtures ------------------------------------------------------------------------------------------------------ */

/* Every step-th value of x, and the norm of the whole. */
static void check_thinned(bmvp_ckpt *f, const char *name, const float *x, int64_t n, double tol)
{
    const char *step_text = fixture_text(f, "%s.step", name), *l2 = fixture_text(f, "%s.l2", name);
    fixture_tensor want = fixture_load(f, "%s", name);
    const int64_t step = step_text ? strtoll(step_text, NULL, 10) : 1;
    double square = 0;
    float *thin = (float *)calloc((size_t)(n / step + 1), sizeof *thin);
    int64_t i, k = 0;
    if (check_report(want.x && l2 && thin && x, __FILE__, __LINE__, "%s is missing", name)) {
        for (i = 0; i < n; ++i) square += (double)x[i] * (double)x[i];
        for (i = 0; i < n; i += step) thin[k++] = x[i];
        if (check_report(k == want.numel, __FILE__, __LINE__, "%s has %lld elements", name, (long long)n)) {
            check_close(__FILE__, __LINE__, name, thin, want.x, k, tol);
            check_report(fabs(sqrt(square) / strtod(l2, NULL) - 1) <= tol, __FILE__, __LINE__,
                         "%s: norm %.9g, should be %s", name, sqrt(square), l2);
        }
    }
    free(thin);
    free(want.x);
}

typedef struct net_case {
    bmvp_ckpt *file;
    bmvp_ctx *c;
    bmvp_net *net;
    bmvp_tensor *x;
    int unet;
    const char *output[5];
} net_case;

static void check_activation(const net_case *k, const char *kind, const char *name, const bmvp_tensor *t)
{
    char full[200];
    float *x = device_copy(k->c, t, 0);
    snprintf(full, sizeof full, "%s.%s", kind, name);
    if (check_report(x != NULL, __FILE__, __LINE__, "%s: no value", full)) check_thinned(k->file, full, x, t->numel, 2e-5);
    free(x);
}

static void net_case_end(net_case *k)
{
    bmvp_net_destroy(k->net);
    if (k->c) check_context(k->c);
    bmvp_destroy(k->c);
    bmvp_ckpt_close(k->file);
}

/* Network and input of a fixture. task and sizes are in its metadata where they differ from pre-training. */
static int net_case_open(net_case *k, const char *path, int unet, int plain_decoder, bmvp_net_task task)
{
    bmvp_net_config cfg = preset(unet ? "unet3d_tiny" : "uniformer_tiny");
    int64_t v[4], size[3], dim[5], b, voxels, i;
    float *x, *plane;
    int m;
    memset(k, 0, sizeof *k);
    k->unet = unet;
    k->file = fixture_open(path);
    if (!k->file) return 0;
    if (unet) cfg.width = (int)strtol(fixture_text(k->file, "width"), NULL, 10);
    for (m = 0; m < fixture_numbers(fixture_text(k->file, "dims"), v, 4); ++m) cfg.dim[m] = (int)v[m];
    for (m = 0; m < fixture_numbers(fixture_text(k->file, "depths"), v, 4); ++m) cfg.depth[m] = (int)v[m];
    if (!unet) cfg.head_dim = (int)strtol(fixture_text(k->file, "head"), NULL, 10);
    if (fixture_numbers(fixture_text(k->file, "chans"), v, 1)) cfg.in_channels = (int)v[0];
    if (fixture_numbers(fixture_text(k->file, "outputs"), v, 1)) cfg.outputs = (int)v[0];
    cfg.task = task;
    cfg.deep_supervision = task == BMVP_TASK_SEGMENT && !unet;
    cfg.plain_decoder = plain_decoder;
    CHECK(fixture_numbers(fixture_text(k->file, "size"), size, 3) == 3); /* X, Y, Z */
    dim[0] = strtoll(fixture_text(k->file, "batch"), NULL, 10);
    dim[1] = size[2], dim[2] = size[1], dim[3] = size[0], dim[4] = cfg.in_channels;
    voxels = dim[1] * dim[2] * dim[3];
    k->c = device_context();
    k->net = k->c ? bmvp_net_create(k->c, &cfg) : NULL;
    x = (float *)malloc((size_t)(dim[0] * voxels * dim[4]) * sizeof *x);
    plane = (float *)malloc((size_t)voxels * sizeof *plane);
    if (!CHECK(k->net && x && plane && formula_state(k->c, bmvp_net_state(k->net), 0))) return 0;
    for (b = 0; b < dim[0]; ++b)
        for (m = 0; m < dim[4]; ++m) {
            formula_volume((int)b, (int)b + m, dim + 1, plane);
            for (i = 0; i < voxels; ++i) x[(b * voxels + i) * dim[4] + m] = plane[i];
        }
    k->x = bmvp_input(k->c, 5, dim, x);
    free(plane);
    free(x);
    return 1;
}

static int net_case_begin(net_case *k, int unet, int plain_decoder)
{
    static const char *const outputs[2][5] = { { "x1", "x2", "x3", "x4", "rec" }, { "c1", "c2", "c3", "c4", "rec" } };
    const int ok = net_case_open(k, unet ? "nets/unet3d_tiny.safetensors" : "nets/uniformer_tiny.safetensors", unet, plain_decoder,
                                 BMVP_TASK_PRETRAIN);
    memcpy(k->output, outputs[unet], sizeof k->output);
    return ok;
}

/* A tensor times random numbers in [-1, 1) / sqrt(size), summed. */
static bmvp_tensor *weighed(bmvp_ctx *c, bmvp_tensor *t, const char *name)
{
    char stream[64];
    float *w;
    bmvp_tensor *sum = NULL;
    int64_t i;
    if (!t) return NULL;
    w = (float *)malloc((size_t)t->numel * sizeof *w);
    snprintf(stream, sizeof stream, "cotangent.%s", name);
    for (i = 0; w && i < t->numel; ++i)
        w[i] = (float)((2 * formula_uniform(formula_stream(stream, 0), i) - 1) / sqrt((double)t->numel));
    if (CHECK(w != NULL)) sum = bmvp_sum(c, bmvp_mul(c, t, bmvp_input(c, t->rank, t->dim, w)));
    free(w);
    return sum;
}

/* Biases whose gradient is zero in exact arithmetic, so that what is stored is rounding noise. */
static const char *zero_gradient(const char *name)
{
    if (formula_ends_with(name, "blocks4.0.mlp.fc2.bias"))
        return "a constant per channel right before BatchNorm";
    if (strcmp(name, "conv1b.conv1.bias") == 0 || strcmp(name, "up2convb.conv1.bias") == 0)
        return "a constant right before GroupNorm, whose groups have one channel at this width";
    return NULL;
}

static void check_gradients(net_case *k)
{
    const bmvp_state_list *l = bmvp_net_state(k->net);
    char name[200];
    float *buf, *ours;
    int i;
    for (i = 0; i < l->n; ++i) {
        const bmvp_state *s = &l->item[i];
        if (s->torch_rank == 0) check_report(s->counter == 1, __FILE__, __LINE__, "%s is %d", s->name, (int)s->counter);
        if (s->torch_rank == 0 || (!s->trained && !strstr(s->name, "running_"))) continue;
        snprintf(name, sizeof name, "%s.%s", s->trained ? "grad" : "after", s->name);
        if (zero_gradient(s->name)) continue;
        buf = (float *)malloc((size_t)s->t->numel * sizeof *buf);
        ours = device_copy(k->c, s->t, s->trained);
        if (check_report(buf && ours, __FILE__, __LINE__, "%s has no gradient", s->name)) {
            bmvp_state_to_torch(s, ours, buf);
            check_thinned(k->file, name, buf, s->t->numel, 2e-4);
        }
        free(ours);
        free(buf);
    }
}

/* Through the public functions: outputs, the loss, every gradient, running statistics; then evaluation, which drops
 * what it can. */
static void test_network(int unet, int plain_decoder)
{
    net_case k;
    bmvp_features f;
    bmvp_tensor *rec, *loss = NULL, *part;
    int i;
    if (net_case_begin(&k, unet, plain_decoder)) {
        bmvp_keep(k.x);
        f = bmvp_net_encode(k.net, k.x, 1);
        rec = bmvp_net_reconstruct(k.net, &f);
        CHECK(f.last == f.map[3]);
        for (i = 0; i < 5; ++i) {
            check_activation(&k, "out", k.output[i], i < 4 ? f.map[i] : rec);
            part = weighed(k.c, i < 4 ? f.map[i] : rec, k.output[i]);
            loss = loss ? bmvp_add(k.c, loss, part) : part;
        }
        CHECK_NEAR((double)bmvp_scalar(k.c, loss), strtod(fixture_text(k.file, "loss"), NULL), 2e-5);
        bmvp_backward(k.c, loss);
        check_gradients(&k);
        (void)bmvp_set_grad(k.c, 0);
        f = bmvp_net_encode(k.net, k.x, 0);
        rec = bmvp_net_reconstruct(k.net, &f);
        for (i = 0; i < 5; ++i) check_activation(&k, "eval", k.output[i], i < 4 ? f.map[i] : rec);
    }
    net_case_end(&k);
}

/* The downstream networks: logits of every scale, or of the classes. Returns how many there are. */
static int downstream(net_case *k, int training, bmvp_tensor *y[3])
{
    bmvp_features f = bmvp_net_encode(k->net, k->x, training);
    bmvp_logits l;
    memset(y, 0, 3 * sizeof *y);
    if (bmvp_net_config_of(k->net)->task == BMVP_TASK_CLASSIFY) {
        y[0] = bmvp_net_classify(k->net, &f);
        return 1;
    }
    l = bmvp_net_segment(k->net, k->x, &f, 1);
    y[0] = l.full, y[1] = l.quarter, y[2] = l.half;
    CHECK(k->unet == (l.quarter == NULL) && k->unet == (l.half == NULL));
    return k->unet ? 1 : 3;
}

static void test_downstream(const char *path, int unet, bmvp_net_task task)
{
    static const char *const name[2][3] = { { "full", "quarter", "half" }, { "logits", NULL, NULL } };
    bmvp_tensor *y[3], *loss = NULL, *part;
    net_case k;
    int i, n;
    if (!check_start("%s", path)) return;
    if (net_case_open(&k, path, unet, 0, task)) {
        bmvp_keep(k.x);
        n = downstream(&k, 1, y);
        for (i = 0; i < n; ++i) {
            check_activation(&k, "out", name[task == BMVP_TASK_CLASSIFY][i], y[i]);
            part = weighed(k.c, y[i], name[task == BMVP_TASK_CLASSIFY][i]);
            loss = loss ? bmvp_add(k.c, loss, part) : part;
        }
        CHECK_NEAR((double)bmvp_scalar(k.c, loss), strtod(fixture_text(k.file, "loss"), NULL), 2e-5);
        bmvp_backward(k.c, loss);
        check_gradients(&k);
        (void)bmvp_set_grad(k.c, 0);
        n = downstream(&k, 0, y);
        for (i = 0; i < n; ++i) check_activation(&k, "eval", name[task == BMVP_TASK_CLASSIFY][i], y[i]);
    }
    net_case_end(&k);
    check_finish();
}

static void test_uniformer_tiny_composed_decoder(void) { test_network(0, 0); }
static void test_uniformer_tiny_plain_decoder(void) { test_network(0, 1); }
static void test_unet3d_tiny(void) { test_network(1, 0); }

/* Layer by layer: says which one is wrong first. */
static void test_uniformer_tiny_layers(void)
{
    bmvpi_uniformer *u;
    bmvp_module *m;
    bmvp_tensor *x;
    char name[32];
    net_case k;
    int s, i;
    if (net_case_begin(&k, 0, 1)) {
        u = (bmvpi_uniformer *)k.net->layers;
        m = &k.net->m;
        m->training = 1;
        x = k.x;
        for (s = 0; s < 4; ++s) {
            x = bmvp_run_patch_embed(m, &u->embed[s], x);
            snprintf(name, sizeof name, "patch_embed%d", s + 1);
            check_activation(&k, "act", name, x);
            for (i = 0; i < k.net->cfg.depth[s]; ++i) {
                x = s < 2 ? bmvpi_cblock_run(m, &u->cblock[s][i], x) : bmvpi_sablock_run(m, &u->sablock[s - 2][i], x);
                snprintf(name, sizeof name, "blocks%d.%d", s + 1, i);
                check_activation(&k, "act", name, x);
            }
        }
        x = bmvp_run(m, &u->norm, x);
        check_activation(&k, "act", "norm", x);
        for (i = 0; i < 4; ++i) {
            x = bmvp_run(m, &u->up[i], x);
            snprintf(name, sizeof name, "decoder%d", 5 - i);
            check_activation(&k, "act", name, x);
        }
    }
    net_case_end(&k);
}

static void test_unet3d_tiny_layers(void)
{
    static const char *const block[12] = { "conv1b", "conv2a", "conv2b", "conv3a",   "conv3b",   "conv4a",
                                           "conv4b", "conv4c", "conv4d", "up4convb", "up3convb", "up2convb" };
    static const char *const down[3] = { "ds1", "ds2", "ds3" };
    const bmvp_conv_shape same = bmvp_conv_same(1, 1), halve = bmvp_conv_same(2, 1);
    bmvpi_unet3d *u;
    bmvp_tensor *x;
    net_case k;
    int i, d;
    if (net_case_begin(&k, 1, 0)) {
        u = (bmvpi_unet3d *)k.net->layers;
        x = bmvp_conv3d(k.c, k.x, u->conv1a.w, u->conv1a.b, &same);
        check_activation(&k, "act", "conv1a", x);
        for (i = 0; i < 12; ++i) {
            if (i == 1 || i == 3 || i == 5) {
                d = i / 2;
                x = bmvp_conv3d(k.c, x, u->ds[d].w, u->ds[d].b, &halve);
                check_activation(&k, "act", down[d], x);
            }
            if (i >= 9) x = bmvp_upsample_nearest(k.c, bmvp_linear(k.c, x, u->up[i - 9].w, u->up[i - 9].b), 2);
            x = bmvpi_resblock_run(&k.net->m, &u->block[i], x);
            check_activation(&k, "act", block[i], x);
        }
    }
    net_case_end(&k);
}

static void test_segmentation_layers(void)
{
    static const char *const up[3] = { "up4convb", "up3convb", "up2convb" };
    const bmvpi_unet3d *u;
    bmvp_features f;
    bmvp_tensor *y;
    char name[32];
    net_case k;
    int i;
    if (net_case_open(&k, "nets/uniunet_tiny.safetensors", 0, 0, BMVP_TASK_SEGMENT)) {
        f = bmvp_net_encode(k.net, k.x, 1);
        for (i = 0, y = f.last; i < 4; ++i) {
            y = bmvpi_up_block(k.net, i, y, i < 3 ? f.map[2 - i] : bmvpi_input_skip(k.net, k.x));
            snprintf(name, sizeof name, "decoder%d", 5 - i);
            check_activation(&k, "act", name, y);
        }
    }
    net_case_end(&k);
    if (net_case_open(&k, "nets/unet3d_segment_tiny.safetensors", 1, 0, BMVP_TASK_SEGMENT)) {
        u = (const bmvpi_unet3d *)k.net->layers;
        f = bmvp_net_encode(k.net, k.x, 1);
        for (i = 0, y = f.last; i < 3; ++i) {
            y = bmvp_upsample_nearest(k.c, bmvp_run(&k.net->m, &u->up[i], y), 2);
            y = bmvpi_resblock_run(&k.net->m, &u->block[9 + i], bmvp_add(k.c, y, f.skip[2 - i]));
            check_activation(&k, "act", up[i], y);
        }
    }
    net_case_end(&k);
}

/* Heads that are there but not asked for: no logits, no gradient, the optimizer leaves them alone. */
static void test_deep_supervision_is_optional(void)
{
    bmvp_state_list *l;
    bmvp_features f;
    bmvp_logits out;
    net_case k;
    int i;
    if (net_case_open(&k, "nets/uniunet_tiny.safetensors", 0, 0, BMVP_TASK_SEGMENT)) {
        l = bmvp_net_state(k.net);
        f = bmvp_net_encode(k.net, k.x, 1);
        out = bmvp_net_segment(k.net, k.x, &f, 0);
        CHECK(out.full && !out.quarter && !out.half);
        check_activation(&k, "out", "full", out.full);
        bmvp_backward(k.c, weighed(k.c, out.full, "full"));
        for (i = 0; i < l->n; ++i)
            if (l->item[i].trained) CHECK(bmvp_has_grad(l->item[i].t) == (strncmp(l->item[i].name, "ms_out.", 7) != 0));
    }
    net_case_end(&k);
}

/* Step memory of a full-size network on one 96^3 window, from a dry run. */
static void check_plan(const char *network, int training, double most_gb)
{
    static const int64_t dim[5] = { 1, 96, 96, 96, 4 };
    bmvp_config config = bmvp_config_default();
    const bmvp_net_config cfg = downstream_of(network, BMVP_TASK_SEGMENT, 4, 3);
    bmvp_ctx *c;
    bmvp_net *net;
    bmvp_tensor *x;
    bmvp_features f;
    bmvp_logits out;
    config.plan = 1;
    c = bmvp_create(&config, NULL);
    net = bmvp_net_create(c, &cfg);
    (void)bmvp_set_grad(c, training);
    x = bmvp_input(c, 5, dim, NULL);
    f = bmvp_net_encode(net, x, training);
    out = bmvp_net_segment(net, x, &f, training);
    if (training) bmvp_backward(c, bmvp_sum(c, out.full));
    check_context(c);
    printf("%s, 96^3 x 4, %s: %.2f GB of activations, %.2f GB of parameters\n", network, training ? "training" : "inference",
           (double)bmvp_memory_of(c).step_peak / 1e9, (double)bmvp_memory_of(c).persistent / 1e9);
    check_report((double)bmvp_memory_of(c).step_peak <= most_gb * 1e9, __FILE__, __LINE__, "%s: %.2f GB, should be at most %.2f", network,
                 (double)bmvp_memory_of(c).step_peak / 1e9, most_gb);
    bmvp_net_destroy(net);
    bmvp_destroy(c);
}

static void test_memory(void)
{
    check_plan("uniformer_small", 0, 1.25);
    check_plan("uniformer_small", 1, 3.85);
    check_plan("unet3d", 0, 1.0);
    check_plan("unet3d", 1, 1.6);
}

/* >>decoder ------------------------------------------------------------------------------------------------------- */

/* Two networks with equal weights, one decoder each; a leaf stands for the features. */
static void test_decoders_are_equal(void)
{
    enum { FEATURES = 3 * 6 * 128, VOXELS = 3 * 6 * 4096 };
    static const int64_t dim[5] = { 3, 1, 2, 3, 128 };
    static float data[FEATURES], cotangent[VOXELS], x_grad[2][FEATURES], out[2][VOXELS];
    bmvp_ctx *c = bmvp_create(NULL, NULL);
    bmvp_net_config cfg = preset("uniformer_tiny");
    bmvp_features f;
    bmvp_net *net[2];
    bmvp_state_list *l[2];
    int i, n = 0, j;
    memset(&f, 0, sizeof f);
    for (j = 0; j < FEATURES; ++j) data[j] = (float)(2 * formula_uniform(formula_stream("features", 0), j) - 1);
    for (j = 0; j < VOXELS; ++j) cotangent[j] = (float)(2 * formula_uniform(formula_stream("cotangent", 0), j) - 1);
    for (i = 0; i < 2; ++i) {
        bmvp_tensor *y;
        cfg.plain_decoder = i;
        net[i] = fresh(c, &cfg, 7);
        f.last = bmvp_keep(bmvp_leaf(c, 5, dim, data));
        y = bmvp_net_reconstruct(net[i], &f);
        if (!CHECK(y && y->rank == 5 && y->dim[1] == 16 && y->dim[2] == 32 && y->dim[3] == 48 && y->dim[4] == 1)) break;
        CHECK(bmvp_read(c, y, out[i]) == BMVP_OK);
        bmvp_backward_from(c, y, cotangent);
        CHECK(bmvp_read_grad(c, f.last, x_grad[i]) == BMVP_OK);
        l[i] = bmvp_net_state(net[i]);
        bmvp_step_begin(c);
    }
    check_context(c);
    if (i == 2) {
        CHECK_CLOSE("reconstruction", out[0], out[1], VOXELS, 1e-5);
        CHECK_CLOSE("gradient of the features", x_grad[0], x_grad[1], FEATURES, 1e-5);
        for (j = 0; j < l[1]->n; ++j) {
            CHECK(bmvp_has_grad(l[0]->item[j].t) == bmvp_has_grad(l[1]->item[j].t));
            if (!bmvp_has_grad(l[1]->item[j].t)) continue;
            CHECK_CLOSE(l[1]->item[j].name, l[0]->item[j].t->g, l[1]->item[j].t->g, l[1]->item[j].t->numel, 1e-5);
            ++n;
        }
        CHECK(n == 6); /* four transposed convolutions, the output's weight and bias */
    }
    for (n = 0; n < i; ++n) bmvp_net_destroy(net[n]);
    bmvp_destroy(c);
}

/* >>recompute ----------------------------------------------------------------------------------------------------- */

/* All a step of a tiny network leaves behind: loss, gradients, running statistics; and its memory. */
typedef struct step_values {
    float *x;
    int64_t n;
    bmvp_memory memory;
} step_values;

static void step_push(step_values *v, const float *x, int64_t n)
{
    float *grown = (float *)realloc(v->x, (size_t)(v->n + n) * sizeof *grown);
    if (!CHECK(grown != NULL)) exit(1);
    memcpy(grown + v->n, x, (size_t)n * sizeof *x);
    v->x = grown;
    v->n += n;
}

static bmvp_tensor *step_loss(bmvp_ctx *c, bmvp_net *net, bmvp_tensor *x)
{
    const bmvp_features f = bmvp_net_encode(net, x, 1);
    const bmvp_net_config *k = bmvp_net_config_of(net);
    bmvp_tensor *y[6];
    int i, n = 0;
    memset(y, 0, sizeof y);
    y[n++] = f.last; /* has a second reader, as in the contrast */
    if (k->task == BMVP_TASK_PRETRAIN) y[n++] = bmvp_net_reconstruct(net, &f);
    if (k->task == BMVP_TASK_CLASSIFY) y[n++] = bmvp_net_classify(net, &f);
    if (k->task == BMVP_TASK_SEGMENT) {
        const bmvp_logits l = bmvp_net_segment(net, x, &f, 1);
        y[n++] = l.full;
        if (l.half) y[n++] = l.half;
        if (l.quarter) y[n++] = l.quarter;
    }
    for (i = 0; i < n; ++i) y[i] = bmvp_mean(c, bmvp_mul(c, y[i], y[i]));
    for (i = 1; i < n; ++i) y[0] = bmvp_add(c, y[0], y[i]);
    return y[0];
}

static step_values tiny_step(const bmvp_net_config *cfg, int recompute, int plan, int64_t reserve)
{
    const int64_t dim[5] = { 2, 16, 32, 16, cfg->in_channels };
    bmvp_config k = bmvp_config_default();
    step_values v;
    bmvp_state_list *l;
    bmvp_tensor *x, *loss;
    bmvp_net *net;
    bmvp_ctx *c;
    int64_t i;
    memset(&v, 0, sizeof v);
    k.threads = 2;
    k.plan = plan;
    c = bmvp_create(&k, NULL);
    CHECK(bmvp_reserve(c, reserve) == BMVP_OK);
    net = fresh(c, cfg, 3);
    bmvp_net_set_recompute(net, recompute);
    x = bmvp_input(c, 5, dim, NULL);
    for (i = 0; !plan && i < x->numel; ++i) x->x[i] = (float)formula_uniform(formula_stream("x", 0), i);
    loss = step_loss(c, net, x);
    bmvp_backward(c, loss);
    check_context(c);
    v.memory = bmvp_memory_of(c);
    if (!plan) {
        step_push(&v, loss->x, 1);
        for (l = bmvp_net_state(net), i = 0; i < l->n; ++i) {
            const bmvp_tensor *t = l->item[i].t;
            const float counter = (float)l->item[i].counter;
            step_push(&v, &counter, 1);
            if (t && l->item[i].trained && bmvp_has_grad(t)) step_push(&v, t->g, t->numel);
            else if (t) step_push(&v, t->x, t->numel);
        }
    }
    bmvp_net_destroy(net);
    bmvp_destroy(c);
    return v;
}

/* Recomputing changes no bit, needs less memory, and both plans give the peak. */
static void test_recompute(void)
{
    bmvp_net_config cfg[8];
    int i, r;
    cfg[0] = cfg[1] = preset("uniformer_tiny");
    cfg[1].plain_decoder = 1;
    cfg[2] = preset("unet3d_tiny");
    for (i = 0; i < 4; ++i)
        cfg[3 + i] = downstream_of(i & 1 ? "unet3d_tiny" : "uniformer_tiny", i & 2 ? BMVP_TASK_CLASSIFY : BMVP_TASK_SEGMENT, 3, 4);
    cfg[7] = cfg[0];
    cfg[7].dim[3] = 256; /* wide enough for an MLP that saves its hidden layer */
    for (i = 0; i < 8; ++i) {
        step_values v[2], planned[2];
        for (r = 0; r < 2; ++r) {
            const bmvp_memory *p = &planned[r].memory, *m = &v[r].memory;
            planned[r] = tiny_step(&cfg[i], r, 1, 0);
            v[r] = tiny_step(&cfg[i], r, 0, p->step_peak);
            check_report(p->persistent == m->persistent && p->step_peak == m->step_peak, __FILE__, __LINE__,
                         "network %d, recompute %d: planned %lld + %lld, used %lld + %lld", i, r, (long long)p->persistent,
                         (long long)p->step_peak, (long long)m->persistent, (long long)m->step_peak);
        }
        check_report(v[0].n == v[1].n && memcmp(v[0].x, v[1].x, (size_t)v[0].n * sizeof(float)) == 0, __FILE__, __LINE__,
                     "network %d, task %d: recomputing changes bits", i, (int)cfg[i].task);
        check_report(planned[1].memory.step_peak < planned[0].memory.step_peak, __FILE__, __LINE__, "network %d: %lld bytes, recomputing %lld", i,
                     (long long)planned[0].memory.step_peak, (long long)planned[1].memory.step_peak);
        for (r = 0; r < 2; ++r) free(v[r].x);
    }
}

/* >>optimizers ---------------------------------------------------------------------------------------------------- */

enum { OPTIM_A = 70001, OPTIM_B = 5, OPTIM_STEPS = 6, OPTIM_THIN = 701 };

static void give_gradient(bmvp_ctx *c, bmvp_tensor *p, const char *name, int step)
{
    static const double size[4] = { 1, 1e-2, 1e-4, 1e-6 };
    float *g = (float *)malloc((size_t)p->numel * sizeof *g);
    char stream[32];
    int64_t i;
    snprintf(stream, sizeof stream, "optim.%s.grad%d", name, step);
    for (i = 0; g && i < p->numel; ++i)
        g[i] = (float)((2 * formula_uniform(formula_stream(stream, 0), i) - 1) * size[i % 4]);
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

static void test_optimizer(const char *name, const bmvp_optim_config *cfg, double limit)
{
    static const double rate[OPTIM_STEPS] = { 1e-3, 5e-3, 2e-3, 1e-3, 4e-3, 1e-4 };
    static const char *const moment[2][2] = { { "exp_avg", "exp_avg_sq" }, { "momentum_buffer", NULL } };
    const int64_t size[2] = { OPTIM_A, OPTIM_B };
    bmvp_ckpt *f = fixture_open("nets/optim.safetensors");
    bmvp_ctx *c = device_context();
    fixture_tensor norms;
    bmvp_state_list l;
    bmvp_optim *o;
    char what[64];
    int i, step, w;
    if (!f || !CHECK(c != NULL)) return;
    memset(&l, 0, sizeof l);
    for (i = 0; i < 2; ++i) {
        bmvp_tensor *t = bmvp_state_add(c, &l, i ? "b" : "a", BMVP_LAYOUT_SAME, 1, &size[i], 1, BMVP_INIT_ZERO, 0);
        float x[OPTIM_A];
        int64_t j;
        for (j = 0; j < size[i]; ++j) x[j] = (float)(2 * formula_uniform(formula_stream(i ? "optim.b" : "optim.a", 0), j) - 1);
        bmvp_write(c, t, x);
    }
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
        for (w = 0; w < 2 && moment[cfg->kind == BMVP_SGD][w]; ++w) {
            snprintf(what, sizeof what, "%s.%s.%s", name, i ? "b" : "a", moment[cfg->kind == BMVP_SGD][w]);
            check_optim_tensor(c, f, what, bmvp_optim_moment(o, i, w), i ? 1 : OPTIM_THIN);
        }
        CHECK(*bmvp_optim_count(o, i) == OPTIM_STEPS - i); /* b had no gradient once */
    }
    check_context(c);
    bmvp_optim_destroy(o);
    bmvpi_free(c, l.item);
    bmvp_destroy(c);
    free(norms.x);
    bmvp_ckpt_close(f);
}

static void test_adamw(void)
{
    bmvp_optim_config k = bmvp_optim_config_default(BMVP_ADAMW);
    CHECK(k.beta1 == 0.9 && k.beta2 == 0.999 && k.eps == 1e-8 && k.weight_decay == 1e-5 && k.momentum == 0.9);
    k.weight_decay = 0.01;
    test_optimizer("adamw", &k, 0);
}

static void test_adamw_clipped(void)
{
    bmvp_optim_config k = bmvp_optim_config_default(BMVP_ADAMW);
    k.beta1 = 0.8;
    k.beta2 = 0.95;
    k.weight_decay = 0.1;
    test_optimizer("adamw_clip", &k, 0.5);
}

static void test_adam(void)
{
    bmvp_optim_config k = bmvp_optim_config_default(BMVP_ADAM);
    k.weight_decay = 0.01;
    test_optimizer("adam", &k, 0);
}

static void test_sgd(void)
{
    bmvp_optim_config k = bmvp_optim_config_default(BMVP_SGD);
    k.weight_decay = 0.01;
    test_optimizer("sgd", &k, 0);
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
    bmvp_optim_destroy(o);
    bmvpi_free(c, l.item);
    bmvp_destroy(c);
}

static void test_schedule(void)
{
    bmvp_ckpt *f = fixture_open("nets/optim.safetensors");
    fixture_tensor full, half;
    bmvp_schedule k = { 3e-4, 0, 40, 0, 0 };
    int i;
    if (!f) return;
    full = fixture_load(f, "cosine");
    half = fixture_load(f, "cosine_half");
    for (i = 0; i < 40 && CHECK(full.x && half.x); ++i) {
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
    free(full.x);
    free(half.x);
    bmvp_ckpt_close(f);
}

/* >>init ---------------------------------------------------------------------------------------------------------- */

/* Variance that the release's initialisation gives, from the released shape alone; *limit: largest value, 0: none
   (normal), -1: the value is the constant *variance. */
static void init_of(const bmvp_state_list *l, int i, double *variance, double *limit)
{
    const bmvp_state *s = &l->item[i];
    const int64_t *d = s->torch_dim;
    const bmvp_state *w = &l->item[i > 0 ? i - 1 : 0]; /* a bias follows its weight */
    *limit = -1;
    *variance = formula_ends_with(s->name, ".weight") || formula_ends_with(s->name, "running_var");
    if (s->torch_rank == 5 && strstr(s->name, "transp_conv")) *limit = 1 / sqrt((double)(d[1] * 8));
    else if (strstr(s->name, "ms_out.")) *limit = 1 / sqrt((double)w[s->torch_rank == 5].torch_dim[1]);
    else if (s->torch_rank == 5) *variance = 2.0 / (double)(d[0] * d[2] * d[3] * d[4]), *limit = 0;
    else if (s->torch_rank == 2) *limit = 1 / sqrt((double)d[1]);
    else if (formula_ends_with(s->name, ".bias") && w->torch_rank == 2) *limit = 1 / sqrt((double)w->torch_dim[1]);
    if (*limit > 0) *variance = *limit * *limit / 3;
}

static void check_init_of(const bmvp_state_list *l, int i)
{
    const bmvp_state *s = &l->item[i];
    const double n = (double)s->t->numel;
    double variance, limit, sum = 0, square = 0, most = 0, kurtosis;
    int64_t k;
    init_of(l, i, &variance, &limit);
    for (k = 0; k < s->t->numel; ++k) {
        const double v = (double)s->t->x[k];
        sum += v;
        square += v * v;
        most = fabs(v) > most ? fabs(v) : most;
        if (limit < 0 && v != variance) break;
    }
    if (!check_report(k == s->t->numel, __FILE__, __LINE__, "%s[%lld] is %g, should be %g", s->name, (long long)k,
                      (double)s->t->x[k], variance))
        return;
    if (limit < 0) return;
    kurtosis = limit > 0 ? 1.8 : 3; /* of the two distributions */
    check_report(fabs(sum / n) <= 5 * sqrt(variance / n), __FILE__, __LINE__, "%s: mean %g of %g values, variance %g",
                 s->name, sum / n, n, variance);
    check_report(fabs(square / n / variance - 1) <= 5 * sqrt((kurtosis - 1) / n), __FILE__, __LINE__,
                 "%s: variance %g, should be %g", s->name, square / n, variance);
    if (limit > 0)
        check_report(most <= limit * (1 + 1e-6) && (n < 300 || most > 0.9 * limit), __FILE__, __LINE__,
                     "%s: largest %g, should be %g", s->name, most, limit);
    else check_report(n < 1000 || most > 2.5 * sqrt(variance), __FILE__, __LINE__, "%s: no tails", s->name);
}

static void test_initialisation(void)
{
    const bmvp_net_config net_of[6] = { preset("uniformer_small"), preset("uniformer_tiny"), preset("unet3d_tiny"),
                                        downstream_of("uniformer_tiny", BMVP_TASK_SEGMENT, 3, 5),
                                        downstream_of("unet3d_tiny", BMVP_TASK_SEGMENT, 3, 5),
                                        downstream_of("uniformer_tiny", BMVP_TASK_CLASSIFY, 3, 5) };
    int n, i;
    for (n = 0; n < 6; ++n) {
        bmvp_ctx *c = bmvp_create(NULL, NULL);
        bmvp_net_config cfg = net_of[n];
        bmvp_net *net = bmvp_net_create(c, &cfg);
        const bmvp_state_list *l;
        bmvp_net_init(net, 5);
        check_context(c);
        if (CHECK(net != NULL)) {
            l = bmvp_net_state(net);
            for (i = 0; i < l->n; ++i)
                if (l->item[i].torch_rank > 0) check_init_of(l, i);
        }
        bmvp_net_destroy(net);
        bmvp_destroy(c);
    }
}

static void test_seeds(void)
{
    const uint64_t seed[3] = { 1, 1, 2 };
    bmvp_ctx *c = bmvp_create(NULL, NULL);
    bmvp_net_config cfg = preset("uniformer_tiny");
    bmvp_tensor *a, *b;
    bmvp_net *net[3];
    int i, random = 0;
    for (i = 0; i < 3; ++i) {
        net[i] = bmvp_net_create(c, &cfg);
        bmvp_net_init(net[i], seed[i]);
    }
    check_context(c);
    for (i = 0; i < bmvp_net_state(net[0])->n && !bmvp_failed(c); ++i) {
        const size_t bytes = (size_t)bmvp_net_state(net[0])->item[i].t->numel * sizeof(float);
        CHECK(memcmp(bmvp_net_state(net[0])->item[i].t->x, bmvp_net_state(net[1])->item[i].t->x, bytes) == 0);
        random += memcmp(bmvp_net_state(net[0])->item[i].t->x, bmvp_net_state(net[2])->item[i].t->x, bytes) != 0;
    }
    CHECK(random > 40);
    a = bmvp_net_state(net[0])
            ->item[find_state(bmvp_net_state(net[0]), "encoder.uniformer.blocks3.0.mlp.fc1.weight")]
            .t;
    b = bmvp_net_state(net[0])
            ->item[find_state(bmvp_net_state(net[0]), "encoder.uniformer.blocks3.1.mlp.fc1.weight")]
            .t;
    CHECK(memcmp(a->x, b->x, 64) != 0); /* equal shapes do not start equal */
    for (i = 0; i < 3; ++i) bmvp_net_destroy(net[i]);
    bmvp_destroy(c);
}

/* >>names --------------------------------------------------------------------------------------------------------- */

/* Lists of the released state dicts: name, tab, shape as Python prints it. */
static void test_names(const char *file, bmvp_net_config cfg, int entries)
{
    char path[600], line[400], shape[120];
    bmvp_ctx *c;
    const bmvp_state_list *l;
    bmvp_net *net;
    FILE *f;
    int n = 0, i = 0, a;
    if (!check_start("names of %s", file)) return;
    snprintf(path, sizeof path, "%s/checkpoints/%s", data_folder(), file);
    f = fopen(path, "r");
    if (!f) {
        check_skip("no such file below BMVP_DATA/checkpoints");
        return;
    }
    c = bmvp_create(NULL, NULL);
    net = bmvp_net_create(c, &cfg);
    l = CHECK(net != NULL) ? bmvp_net_state(net) : NULL;
    while (l && fgets(line, (int)sizeof line, f)) {
        char *tab = strchr(line, '\t');
        size_t k = 0;
        if (line[0] == '#' || !tab) continue;
        ++n;
        *tab = 0;
        if (strcmp(line, "rep_template") == 0) continue; /* belongs to the method, not to the network */
        if (!CHECK(i < l->n)) break;
        k += (size_t)snprintf(shape + k, sizeof shape - k, "(");
        for (a = 0; a < l->item[i].torch_rank; ++a)
            k += (size_t)snprintf(shape + k, sizeof shape - k, a ? ", %d" : "%d", (int)l->item[i].torch_dim[a]);
        snprintf(shape + k, sizeof shape - k, l->item[i].torch_rank == 1 ? ",)" : ")");
        check_report(strcmp(line, l->item[i].name) == 0, __FILE__, __LINE__, "entry %d is %s, should be %s", i,
                     l->item[i].name, line);
        check_report(strncmp(tab + 1, shape, strlen(shape)) == 0, __FILE__, __LINE__, "%s is %s, should be %s", line,
                     shape, tab + 1);
        if (strstr(tab + 1, "\tparam") ||
            strstr(tab + 1, "\tbuffer")) { /* carried parameters are not trained, buffers never */
            const int buffer = strstr(tab + 1, "\tbuffer") != NULL,
                      dead = cfg.task == BMVP_TASK_PRETRAIN && (strstr(line, "conv_block") || strstr(line, "proj1."));
            check_report(l->item[i].trained == (!buffer && !dead), __FILE__, __LINE__, "%s: trained is %d", line,
                         l->item[i].trained);
        }
        ++i;
    }
    CHECK(l && i == l->n && n == entries);
    fclose(f);
    bmvp_net_destroy(net);
    bmvp_destroy(c);
    check_finish();
}

static void test_presets(void)
{
    char names[200], *word, *next;
    bmvp_net_config k;
    snprintf(names, sizeof names, "%s", bmvp_net_preset_names());
    for (word = names; word && *word; word = next) {
        bmvp_ctx *c = bmvp_create(NULL, NULL);
        bmvp_net *net;
        int64_t n = 0;
        int i;
        next = strchr(word, ' ');
        if (next) *next++ = 0;
        k = preset(word);
        CHECK(strcmp(k.name, word) == 0);
        net = bmvp_net_create(c, &k);
        check_context(c);
        for (i = 0; net && i < bmvp_net_state(net)->n; ++i)
            if (bmvp_net_state(net)->item[i].trained) n += bmvp_net_state(net)->item[i].t->numel;
        if (strcmp(word, "uniformer_small") == 0)
            CHECK(n == 22038464 + 1736769); /* encoder, decoder as the release counts them */
        CHECK(net && bmvp_net_stride(net) == (strcmp(k.kind, "unet3d") == 0 ? 8 : 16));
        bmvp_net_destroy(net);
        bmvp_destroy(c);
    }
    CHECK(!bmvp_net_preset("resnet", &k) && !bmvp_net_preset("", &k));
}

/* >>layouts ------------------------------------------------------------------------------------------------------- */

typedef struct layout_case {
    const char *name;
    bmvp_layout layout;
    int rank;
    int64_t dim[5];
    int our_rank, axis[5]; /* our axis a is released axis axis[a] */
} layout_case;

static void test_layouts(void)
{
    static const layout_case cases[] = {
        { "same", BMVP_LAYOUT_SAME, 1, { 7, 1, 1, 1, 1 }, 1, { 0, 0, 0, 0, 0 } },
        { "linear", BMVP_LAYOUT_LINEAR, 2, { 5, 3, 1, 1, 1 }, 2, { 1, 0, 0, 0, 0 } },
        { "pointwise", BMVP_LAYOUT_POINTWISE, 5, { 5, 3, 1, 1, 1 }, 2, { 1, 0, 0, 0, 0 } },
        { "conv_zxy", BMVP_LAYOUT_CONV_ZXY, 5, { 5, 2, 3, 3, 3 }, 5, { 2, 4, 3, 1, 0 } },
        { "conv_xyz", BMVP_LAYOUT_CONV_XYZ, 5, { 5, 2, 3, 3, 3 }, 5, { 4, 3, 2, 1, 0 } },
        { "depthwise", BMVP_LAYOUT_DEPTHWISE_ZXY, 5, { 5, 1, 3, 3, 3 }, 4, { 2, 4, 3, 0, 0 } },
        { "convt_xyz", BMVP_LAYOUT_CONVT_XYZ, 5, { 5, 3, 2, 2, 2 }, 5, { 0, 4, 3, 2, 1 } },
        { "volume", BMVP_LAYOUT_VOLUME, 3, { 4, 5, 6, 1, 1 }, 3, { 2, 1, 0, 0, 0 } },
    };
    bmvp_ctx *c = bmvp_create(NULL, NULL);
    float torch[300], ours[300], back[300];
    bmvp_state_list l;
    size_t k;
    memset(&l, 0, sizeof l);
    for (k = 0; k < sizeof cases / sizeof *cases; ++k) {
        const layout_case *q = &cases[k];
        const bmvp_tensor *t = bmvp_state_add(c, &l, q->name, q->layout, q->rank, q->dim, 1, BMVP_INIT_ZERO, 0);
        int64_t i, r;
        int a;
        if (!CHECK(t && t->rank == q->our_rank && t->numel <= 300)) continue;
        for (i = 0; i < t->numel; ++i) torch[i] = (float)i;
        bmvp_state_from_torch(&l.item[k], torch, ours);
        bmvp_state_to_torch(&l.item[k], ours, back);
        CHECK_SAME(q->name, back, torch, t->numel);
        for (a = 0; a < t->rank; ++a) CHECK(t->dim[a] == q->dim[q->axis[a]]);
        for (i = 0; i < t->numel; ++i) { /* our position i -> released position */
            int64_t at[5] = { 0, 0, 0, 0, 0 }, left = i, place = 0;
            for (a = t->rank - 1; a >= 0; left /= t->dim[a], --a) at[q->axis[a]] = left % t->dim[a];
            for (r = 0; r < q->rank; ++r) place = place * q->dim[r] + at[r];
            if (!check_report(ours[i] == (float)place, __FILE__, __LINE__,
                              "%s[%d] is released element %g, should be %d", q->name, (int)i, (double)ours[i],
                              (int)place))
                break;
        }
    }
    check_context(c);
    bmvpi_free(c, l.item);
    bmvp_destroy(c);
}

/* >>checkpoints --------------------------------------------------------------------------------------------------- */

static bmvp_state_part values_of(bmvp_ctx *c, bmvp_net *net)
{
    bmvp_state_part p;
    memset(&p, 0, sizeof p);
    p.c = c;
    p.list = bmvp_net_state(net);
    return p;
}

static bmvp_status save_net(bmvp_ctx *c, bmvp_net *net, const char *path, bmvp_ckpt_format format, const char *group)
{
    bmvp_state_part p = values_of(c, net);
    bmvp_ckpt_writer *w = NULL;
    bmvp_status st = bmvp_ckpt_writer_begin(path, format, NULL, &w, NULL);
    if (!st) st = bmvp_state_declare(w, group, &p, NULL);
    if (!st) st = bmvp_state_data(w, &p, NULL);
    return st ? st : bmvp_ckpt_writer_finish(w, NULL);
}

static bmvp_status load_net(bmvp_ctx *c, bmvp_net *net, const char *path, bmvp_net_config *inferred, bmvp_error *err)
{
    bmvp_state_part p = values_of(c, net);
    const char *group = NULL;
    bmvp_ckpt *f = NULL;
    bmvp_status st = bmvp_ckpt_open(path, NULL, &f, err);
    if (!st) st = bmvp_state_group(f, &group, err);
    if (!st && inferred) CHECK(bmvp_net_infer(f, group, inferred, err) == BMVP_OK);
    if (!st) st = bmvp_state_load(f, group, &p, err);
    bmvp_ckpt_close(f);
    return st;
}

static void check_equal_nets(bmvp_net *a, bmvp_net *b)
{
    const bmvp_state_list *p = bmvp_net_state(a), *q = bmvp_net_state(b);
    int i;
    CHECK(p->n == q->n);
    for (i = 0; i < p->n; ++i) {
        if (p->item[i].torch_rank == 0) CHECK(p->item[i].counter == q->item[i].counter);
        else CHECK_SAME(p->item[i].name, p->item[i].t->x, q->item[i].t->x, p->item[i].t->numel);
    }
}

static void check_equal_configs(const bmvp_net_config *a, const bmvp_net_config *b)
{
    CHECK(strcmp(a->kind, b->kind) == 0 && a->in_channels == b->in_channels);
    if (strcmp(a->kind, "unet3d") == 0) {
        CHECK(a->width == b->width && a->groups == b->groups);
        return;
    }
    CHECK(memcmp(a->dim, b->dim, sizeof a->dim) == 0 && memcmp(a->depth, b->depth, sizeof a->depth) == 0);
    CHECK(a->head_dim == b->head_dim && a->mlp_ratio == b->mlp_ratio);
}

/* Copies every tensor under other names, as a program that converts would. */
static void copy_checkpoint(const char *from, const char *to, bmvp_ckpt_format format, const char *prefix)
{
    bmvp_ckpt_writer *w = NULL;
    bmvp_ckpt *f = NULL;
    bmvp_error err;
    char name[256];
    int i;
    if (!check_report(bmvp_ckpt_open(from, NULL, &f, &err) == BMVP_OK, __FILE__, __LINE__, "%s", err.message)) return;
    CHECK(bmvp_ckpt_writer_begin(to, format, NULL, &w, &err) == BMVP_OK);
    for (i = 0; i < f->n_entries; ++i) {
        snprintf(name, sizeof name, "%s%s", prefix, f->entry[i].name);
        CHECK(bmvp_ckpt_writer_add(w, f->entry[i].group, name, f->entry[i].dtype, f->entry[i].rank, f->entry[i].dim,
                                   &err) == BMVP_OK);
    }
    for (i = 0; i < f->n_entries; ++i) {
        void *data = malloc((size_t)f->entry[i].bytes + 1);
        CHECK(data && bmvp_ckpt_load(f, i, data, f->entry[i].bytes, &err) == BMVP_OK);
        CHECK(bmvp_ckpt_writer_data(w, data, f->entry[i].bytes, &err) == BMVP_OK);
        free(data);
    }
    check_report(bmvp_ckpt_writer_finish(w, &err) == BMVP_OK, __FILE__, __LINE__, "%s", err.message);
    bmvp_ckpt_close(f);
}

static void round_trip(bmvp_net_config cfg)
{
    bmvp_ctx *c = bmvp_create(NULL, NULL);
    bmvp_net_config inferred;
    bmvp_net *a = fresh(c, &cfg, 11), *b = fresh(c, &cfg, 12);
    bmvp_error err;
    char st[400], pt[400], plain[400];
    int i;
    temporary(st, sizeof st, "safetensors");
    temporary(pt, sizeof pt, "pt");
    temporary(plain, sizeof plain, "plain.pt");
    if (CHECK(a && b)) {
        for (i = 0; i < bmvp_net_state(a)->n; ++i)
            if (bmvp_net_state(a)->item[i].torch_rank == 0) bmvp_net_state(a)->item[i].counter = 100 + i;
        CHECK(save_net(c, a, st, BMVP_CKPT_SAFETENSORS, "state_dict") == BMVP_OK);
        check_report(load_net(c, b, st, &inferred, &err) == BMVP_OK, __FILE__, __LINE__, "%s", err.message);
        check_equal_nets(b, a);
        check_equal_configs(&inferred, &cfg);
        copy_checkpoint(st, pt, BMVP_CKPT_PT, "module.");
        bmvp_net_init(b, 13);
        check_report(load_net(c, b, pt, &inferred, &err) == BMVP_OK, __FILE__, __LINE__, "%s", err.message);
        check_equal_nets(b, a);
        check_equal_configs(&inferred, &cfg);
        CHECK(save_net(c, a, plain, BMVP_CKPT_PT, "") == BMVP_OK); /* torch.save(model.state_dict()) */
        bmvp_net_init(b, 14);
        check_report(load_net(c, b, plain, NULL, &err) == BMVP_OK, __FILE__, __LINE__, "%s", err.message);
        check_equal_nets(b, a);
    }
    check_context(c);
    bmvp_net_destroy(a);
    bmvp_net_destroy(b);
    bmvp_destroy(c);
    remove(st);
    remove(pt);
    remove(plain);
}

static void test_round_trip_uniformer(void) { round_trip(preset("uniformer_tiny")); }
static void test_round_trip_unet3d(void) { round_trip(preset("unet3d_tiny")); }
static void test_round_trip_downstream(void)
{
    round_trip(downstream_of("uniformer_tiny", BMVP_TASK_SEGMENT, 4, 3));
    round_trip(downstream_of("uniformer_tiny", BMVP_TASK_CLASSIFY, 2, 5));
    round_trip(downstream_of("unet3d_tiny", BMVP_TASK_SEGMENT, 4, 3));
    round_trip(downstream_of("unet3d_tiny", BMVP_TASK_CLASSIFY, 1, 2));
}

/* Writes a pre-trained network as the release does (.pt, names with module.) and adopts it. how: room for the entries of `to`. */
static bmvp_status adopt_from(bmvp_ctx *c, bmvp_net *from, bmvp_net *to, int spread, bmvp_net_adoption *what, bmvp_error *err)
{
    char st[400], pt[400];
    bmvp_ckpt *f = NULL;
    bmvp_status status;
    temporary(st, sizeof st, "safetensors");
    temporary(pt, sizeof pt, "pt");
    CHECK(save_net(c, from, st, BMVP_CKPT_SAFETENSORS, "state_dict") == BMVP_OK);
    copy_checkpoint(st, pt, BMVP_CKPT_PT, "module.");
    status = bmvp_ckpt_open(pt, NULL, &f, err);
    if (!status) status = bmvp_net_adopt(to, f, spread, what, err);
    bmvp_ckpt_close(f);
    remove(st);
    remove(pt);
    return status;
}

/* 345 of UniUnet's 355 entries, as the release's own loader reports. */
static void test_adoption_released(void)
{
    const bmvp_net_config pre = preset("uniformer_small"), seg = downstream_of("uniformer_small", BMVP_TASK_SEGMENT, 4, 3);
    bmvp_ctx *c = bmvp_create(NULL, NULL);
    bmvp_net *a = fresh(c, &pre, 1), *b = fresh(c, &seg, 2);
    bmvp_net_adoption what;
    bmvp_error err;
    int spread;
    for (spread = 0; spread < 2 && CHECK(a && b); ++spread) {
        memset(&what, 0, sizeof what);
        check_report(adopt_from(c, a, b, spread, &what, &err) == BMVP_OK, __FILE__, __LINE__, "%s", err.message);
        CHECK(what.n[BMVP_ADOPT_TAKEN] == 345 && what.n[BMVP_ADOPT_ADAPTED] == (spread ? 2 : 0) && what.n[BMVP_ADOPT_FRESH] == (spread ? 8 : 10));
    }
    bmvp_net_destroy(a);
    bmvp_net_destroy(b);
    bmvp_destroy(c);
}

static void check_adopted(const bmvp_state_list *a, const bmvp_state_list *b, const unsigned char *how, const float *before)
{
    int i, k;
    for (i = 0; i < b->n; ++i) {
        const bmvp_state *t = &b->item[i];
        char name[200];
        snprintf(name, sizeof name, "%s", t->name);
        if (find_state(a, name) < 0 && strncmp(name, "encoder.", 8) == 0) snprintf(name, sizeof name, "encoder.uniformer.%s", t->name + 8);
        k = find_state(a, name);
        if (t->torch_rank == 0) continue;
        if (how[i] == BMVP_ADOPT_TAKEN && CHECK(k >= 0)) CHECK_SAME(t->name, t->t->x, a->item[k].t->x, t->t->numel);
        if (how[i] == BMVP_ADOPT_FRESH) CHECK_SAME(t->name, t->t->x, before, t->t->numel);
        before += t->t->numel;
    }
}

/* Taken entries are the file's, fresh ones as they were; the sum over equal inputs of the spread stem is the old one. */
static void adopt_values(bmvp_net_config pre, bmvp_net_config to)
{
    bmvp_ctx *c = bmvp_create(NULL, NULL);
    bmvp_net *a = fresh(c, &pre, 1), *b = fresh(c, &to, 2);
    const bmvp_state_list *l = b ? bmvp_net_state(b) : NULL;
    bmvp_net_adoption what;
    bmvp_error err;
    int64_t n = 0, j;
    float *before, *at;
    int i;
    if (!CHECK(a && b)) return;
    memset(&what, 0, sizeof what);
    for (i = 0; i < l->n; ++i) n += l->item[i].t->numel;
    at = before = (float *)malloc((size_t)n * sizeof *before);
    what.how = (unsigned char *)calloc((size_t)(l->n > 0 ? l->n : 1), 1);
    for (i = 0; i < l->n; ++i) {
        if (l->item[i].torch_rank == 0) continue;
        memcpy(at, l->item[i].t->x, (size_t)l->item[i].t->numel * sizeof *at);
        at += l->item[i].t->numel;
    }
    check_report(adopt_from(c, a, b, 1, &what, &err) == BMVP_OK, __FILE__, __LINE__, "%s", err.message);
    check_adopted(bmvp_net_state(a), l, what.how, before);
    for (i = 0; i < l->n; ++i)
        if (what.how[i] == BMVP_ADOPT_ADAPTED && l->item[i].torch_rank == 5) {
            const bmvp_tensor *w = l->item[i].t, *one = bmvp_net_state(a)->item[0].t; /* (k, k, k, I, O): the stem comes first */
            for (j = 0; j < one->numel; ++j) {
                const int64_t o = j % w->dim[4], tap = j / w->dim[4];
                double sum = 0;
                int64_t ch;
                for (ch = 0; ch < w->dim[3]; ++ch) sum += (double)w->x[(tap * w->dim[3] + ch) * w->dim[4] + o];
                CHECK_NEAR(sum, (double)one->x[j], 1e-6);
            }
        }
    CHECK(what.n[0] + what.n[1] + what.n[2] == l->n && what.n[1] == (pre.in_channels == 1 && to.in_channels > 1 ? 2 : 0));
    free(before);
    free(what.how);
    bmvp_net_destroy(a);
    bmvp_net_destroy(b);
    bmvp_destroy(c);
}

static void test_adoption_values(void)
{
    adopt_values(preset("uniformer_tiny"), downstream_of("uniformer_tiny", BMVP_TASK_SEGMENT, 3, 2));
    adopt_values(preset("uniformer_tiny"), downstream_of("uniformer_tiny", BMVP_TASK_CLASSIFY, 2, 3));
    adopt_values(preset("unet3d_tiny"), downstream_of("unet3d_tiny", BMVP_TASK_SEGMENT, 4, 1));
    adopt_values(preset("unet3d_tiny"), downstream_of("unet3d_tiny", BMVP_TASK_CLASSIFY, 1, 2));
    adopt_values(downstream_of("uniformer_tiny", BMVP_TASK_SEGMENT, 3, 2), downstream_of("uniformer_tiny", BMVP_TASK_SEGMENT, 3, 5));
}

/* A spread stem that sees C times the same volume computes what the one-channel stem does. */
static void test_spread_stem(void)
{
    static const int64_t dim[5] = { 1, 32, 32, 32, 1 }, many[5] = { 1, 32, 32, 32, 3 };
    const char *const name[2] = { "uniformer_tiny", "unet3d_tiny" };
    float *x = (float *)malloc(32768 * sizeof *x), *copies = (float *)malloc(3 * 32768 * sizeof *copies);
    int i, j;
    formula_volume(0, 0, dim + 1, x);
    for (j = 0; j < 3 * 32768; ++j) copies[j] = x[j / 3];
    for (i = 0; i < 2; ++i) {
        const bmvp_net_config from_cfg = preset(name[i]), to_cfg = downstream_of(name[i], BMVP_TASK_SEGMENT, 3, 2);
        bmvp_ctx *c = bmvp_create(NULL, NULL);
        bmvp_net *from = fresh(c, &from_cfg, 3), *to = fresh(c, &to_cfg, 4);
        bmvp_features a, b;
        bmvp_error err;
        check_report(adopt_from(c, from, to, 1, NULL, &err) == BMVP_OK, __FILE__, __LINE__, "%s", err.message);
        a = bmvp_net_encode(from, bmvp_input(c, 5, dim, x), 0);
        b = bmvp_net_encode(to, bmvp_input(c, 5, many, copies), 0);
        check_context(c);
        for (j = 0; j < 4 && a.last && b.last; ++j) CHECK_CLOSE(name[i], b.map[j]->x, a.map[j]->x, a.map[j]->numel, 3e-5);
        bmvp_net_destroy(from);
        bmvp_net_destroy(to);
        bmvp_destroy(c);
    }
    free(x);
    free(copies);
}

static void check_not_adopted(bmvp_net_config from_cfg, bmvp_net_config to_cfg, bmvp_status status, const char *part)
{
    bmvp_ctx *c = bmvp_create(NULL, NULL);
    bmvp_net *from = fresh(c, &from_cfg, 3), *to = fresh(c, &to_cfg, 4), *before = fresh(c, &to_cfg, 4);
    bmvp_net_adoption what;
    bmvp_error err;
    memset(&what, 0, sizeof what);
    if (CHECK(from && to && before)) {
        CHECK(adopt_from(c, from, to, 1, &what, &err) == status);
        CHECK_HOLDS(err.message, part);
        CHECK(what.n[0] + what.n[1] + what.n[2] == 0);
        check_equal_nets(to, before);
    }
    check_context(c); /* a bad file is not the context's failure */
    bmvp_net_destroy(from);
    bmvp_net_destroy(to);
    bmvp_net_destroy(before);
    bmvp_destroy(c);
}

/* Refused, and nothing has changed: another kind, a width, more or fewer blocks, other inputs than one. */
static void test_adoption_refused(void)
{
    const bmvp_net_config segment = downstream_of("uniformer_tiny", BMVP_TASK_SEGMENT, 3, 2), unet = preset("unet3d_tiny");
    bmvp_net_config from = preset("uniformer_tiny"), wide = downstream_of("unet3d_tiny", BMVP_TASK_CLASSIFY, 1, 2);
    check_not_adopted(from, unet, BMVP_E_FORMAT, "holds a UniFormer, the network is a UNET3D");
    check_not_adopted(unet, segment, BMVP_E_FORMAT, "holds a UNET3D, the network is a UniFormer");
    wide.width = 16;
    check_not_adopted(unet, wide, BMVP_E_SHAPE, "'conv1a.weight' has shape (8, 1, 3, 3, 3), but the network wants (16, 1, 3, 3, 3)");
    from.dim[1] = 48;
    check_not_adopted(from, segment, BMVP_E_SHAPE, "'encoder.uniformer.patch_embed2.proj.weight' has shape (48, 16, 2, 2, 2)");
    from = preset("uniformer_tiny");
    from.depth[2] = 3;
    check_not_adopted(from, segment, BMVP_E_SHAPE, "'encoder.uniformer.blocks3.2.pos_embed.weight' has no place");
    from.depth[2] = 1;
    check_not_adopted(from, segment, BMVP_E_FORMAT, "'encoder.blocks3.1.pos_embed.weight' is missing");
    check_not_adopted(downstream_of("uniformer_tiny", BMVP_TASK_SEGMENT, 2, 2), segment, BMVP_E_SHAPE,
                      "only a stem of one channel can be spread");
}

/* A network wider in the third stage: patch_embed3 is the first tensor that differs. */
static void test_wrong_checkpoint(void)
{
    bmvp_ctx *c = bmvp_create(NULL, NULL);
    bmvp_net_config cfg = preset("uniformer_tiny"), wide = cfg, deep = cfg, unet = preset("unet3d_tiny");
    bmvp_net *from, *other, *same;
    bmvp_error err;
    char path[400];
    temporary(path, sizeof path, "safetensors");
    wide.dim[2] = 96;
    deep.depth[1] = 2;
    from = fresh(c, &cfg, 3);
    CHECK(save_net(c, from, path, BMVP_CKPT_SAFETENSORS, "state_dict") == BMVP_OK);
    other = fresh(c, &wide, 4);
    same = fresh(c, &wide, 4);
    CHECK(load_net(c, other, path, NULL, &err) != BMVP_OK);
    CHECK_HOLDS(err.message, "'encoder.uniformer.patch_embed3.proj.weight'");
    CHECK_HOLDS(err.message, "(64, 32, 2, 2, 2)");
    CHECK_HOLDS(err.message, "(96, 32, 2, 2, 2)");
    CHECK_HOLDS(err.message, path);
    check_equal_nets(other, same); /* nothing has changed */
    bmvp_net_destroy(other);
    bmvp_net_destroy(same);
    other = fresh(c, &deep, 4);
    CHECK(load_net(c, other, path, NULL, &err) != BMVP_OK);
    CHECK_HOLDS(err.message, "'encoder.uniformer.blocks2.1.pos_embed.weight' is missing");
    bmvp_net_destroy(other);
    other = fresh(c, &unet, 4);
    CHECK(load_net(c, other, path, NULL, &err) != BMVP_OK);
    CHECK_HOLDS(err.message, "'conv1a.weight' is missing");
    bmvp_net_destroy(other);
    bmvp_net_destroy(from);
    check_context(c); /* a bad file is not the context's failure */
    bmvp_destroy(c);
    remove(path);
}

static void test_config_as_json(void)
{
    static const char *const text[2] = { "in_channels=2 dim=8,16,48,96 depth=1,2,3,4 head_dim=24 mlp_ratio=3 outputs=5 deep_supervision=1",
                                         "in_channels=3 width=24 groups=4 outputs=3 levels=-5 base=7" };
    bmvp_net_config from[2], back;
    bmvp_json_doc *doc = NULL;
    bmvp_error err;
    bmvp_jw w;
    int i;
    for (i = 0; i < 2; ++i) {
        from[i] = bmvp_net_config_default(i ? "elsewhere" : "uniformer");
        from[i].task = i ? BMVP_TASK_CLASSIFY : BMVP_TASK_SEGMENT;
        CHECK(bmvp_net_config_set(&from[i], text[i], &err) == BMVP_OK);
        bmvp_jw_init(&w, 0, NULL);
        bmvp_jw_object(&w, NULL);
        bmvp_net_config_write(&w, "network", &from[i]);
        bmvp_jw_end(&w);
        CHECK(bmvp_jw_finish(&w, &err) == BMVP_OK);
        if (CHECK(bmvp_json_parse(w.out.data, w.out.len, "config", NULL, &doc, &err) == BMVP_OK)) {
            CHECK(bmvp_net_config_read(bmvp_json_get(bmvp_json_root(doc), "network"), &back, &err) == BMVP_OK);
            CHECK(strcmp(back.name, from[i].name) == 0);
            check_equal_configs(&back, &from[i]);
            CHECK(bmvp_net_option_of(&back, "levels", 1) == (i ? -5 : 1) && bmvp_net_option_of(&back, "base", 2) == (i ? 7 : 2));
            CHECK(back.task == from[i].task && back.outputs == from[i].outputs && back.deep_supervision == from[i].deep_supervision);
            CHECK(bmvp_net_config_read(bmvp_json_get(bmvp_json_root(doc), "net"), &back, &err) == BMVP_E_FORMAT);
        }
        bmvp_json_free(doc);
        bmvp_jw_free(&w);
    }
}

/* Written before there were tasks; of a task that there is not. */
static void test_config_without_task(void)
{
    static const char *const text[2] = { "{\"kind\": \"unet3d\"}", "{\"kind\": \"unet3d\", \"task\": \"dream\"}" };
    bmvp_net_config k;
    bmvp_json_doc *doc = NULL;
    bmvp_error err;
    int i;
    for (i = 0; i < 2; ++i) {
        if (!CHECK(bmvp_json_parse(text[i], strlen(text[i]), "config", NULL, &doc, &err) == BMVP_OK)) continue;
        CHECK(bmvp_net_config_read(bmvp_json_root(doc), &k, &err) == (i ? BMVP_E_FORMAT : BMVP_OK));
        if (i) CHECK_HOLDS(err.message, "task 'dream'");
        else CHECK(k.task == BMVP_TASK_PRETRAIN && k.deep_supervision == 0);
        bmvp_json_free(doc);
    }
}

/* >>errors -------------------------------------------------------------------------------------------------------- */

static void check_refused(const bmvp_net_config *cfg, const char *part)
{
    bmvp_ctx *c = bmvp_create(NULL, NULL);
    CHECK(bmvp_net_create(c, cfg) == NULL && bmvp_error_of(c)->status == BMVP_E_ARG);
    CHECK_HOLDS(bmvp_error_of(c)->message, part);
    bmvp_destroy(c);
}

static void test_bad_configs(void)
{
    bmvp_net_config k = preset("uniformer_tiny");
    k.head_dim = 24;
    check_refused(&k, "head size 24");
    k = preset("uniformer_tiny");
    k.depth[2] = 0;
    check_refused(&k, "depths 1/1/0/1");
    k.depth[2] = 65;
    check_refused(&k, "1 to 64");
    k = preset("uniformer_tiny");
    k.dim[1] = -8;
    check_refused(&k, "dims 16/-8/64/128");
    k = preset("unet3d_tiny");
    k.groups = 3;
    check_refused(&k, "multiple of 3 groups");
    k = preset("unet3d_tiny");
    k.groups = 0;
    check_refused(&k, "0 groups");
    k = downstream_of("uniformer_tiny", BMVP_TASK_SEGMENT, 4, 0);
    check_refused(&k, "1 to 4096 outputs, not 0");
    k = downstream_of("unet3d_tiny", BMVP_TASK_CLASSIFY, 4, 5000);
    check_refused(&k, "not 5000");
}

/* Each network has the decoder of its task. */
static void test_wrong_task(void)
{
    static const int64_t dim[5] = { 1, 16, 16, 16, 1 };
    const bmvp_net_config k[2] = { preset("uniformer_tiny"), downstream_of("uniformer_tiny", BMVP_TASK_SEGMENT, 1, 2) };
    bmvp_ctx *c = bmvp_create(NULL, NULL);
    bmvp_net *net[2];
    bmvp_features f;
    bmvp_tensor *x;
    net[0] = fresh(c, &k[0], 1);
    net[1] = fresh(c, &k[1], 1);
    x = bmvp_input(c, 5, dim, NULL);
    bmvp_fill(c, x, 0.5f);
    f = bmvp_net_encode(net[0], x, 0);
    CHECK(bmvp_net_segment(net[0], x, &f, 0).full == NULL && bmvp_error_of(c)->status == BMVP_E_STATE);
    CHECK_HOLDS(bmvp_error_of(c)->message, "not a segmentation network");
    bmvp_clear_error(c);
    CHECK(bmvp_net_classify(net[0], &f) == NULL && bmvp_error_of(c)->status == BMVP_E_STATE);
    bmvp_clear_error(c);
    f = bmvp_net_encode(net[1], x, 0);
    CHECK(bmvp_net_reconstruct(net[1], &f) == NULL && bmvp_error_of(c)->status == BMVP_E_STATE);
    bmvp_net_destroy(net[0]);
    bmvp_net_destroy(net[1]);
    bmvp_destroy(c);
}

static void test_bad_inputs(void)
{
    static const int64_t odd[5] = { 1, 32, 24, 32, 1 }, channels[5] = { 1, 32, 32, 32, 2 };
    bmvp_ctx *c = bmvp_create(NULL, NULL);
    bmvp_net_config k = preset("uniformer_tiny");
    bmvp_net *net = bmvp_net_create(c, &k);
    bmvp_features f = bmvp_net_encode(net, bmvp_input(c, 5, odd, NULL), 1);
    CHECK(f.last == NULL && bmvp_net_reconstruct(net, &f) == NULL);
    CHECK(bmvp_error_of(c)->status == BMVP_E_SHAPE);
    CHECK_HOLDS(bmvp_error_of(c)->message, "multiples of 16");
    CHECK_HOLDS(bmvp_error_of(c)->message, "24");
    bmvp_clear_error(c);
    bmvp_step_begin(c);
    f = bmvp_net_encode(net, bmvp_input(c, 5, channels, NULL), 1);
    CHECK(f.last == NULL && bmvp_error_of(c)->status == BMVP_E_SHAPE);
    bmvp_net_destroy(net);
    bmvp_destroy(c);
}

int main(int argc, char **argv)
{
    check_begin(argc, argv);
    if (!device_open()) return check_end();
    CHECK_RUN(test_uniformer_tiny_layers);
    CHECK_RUN(test_uniformer_tiny_composed_decoder);
    CHECK_RUN(test_uniformer_tiny_plain_decoder);
    CHECK_RUN(test_unet3d_tiny_layers);
    CHECK_RUN(test_unet3d_tiny);
    test_downstream("nets/uniunet_tiny.safetensors", 0, BMVP_TASK_SEGMENT);
    test_downstream("nets/unet3d_segment_tiny.safetensors", 1, BMVP_TASK_SEGMENT);
    test_downstream("nets/classify_uniformer_tiny.safetensors", 0, BMVP_TASK_CLASSIFY);
    test_downstream("nets/classify_unet3d_tiny.safetensors", 1, BMVP_TASK_CLASSIFY);
    CHECK_RUN(test_segmentation_layers);
    CHECK_RUN(test_deep_supervision_is_optional);
    CHECK_RUN(test_adamw);
    CHECK_RUN(test_adamw_clipped);
    CHECK_RUN(test_adam);
    CHECK_RUN(test_sgd);
    if (DEVICE_IS_GPU) { /* all that PyTorch's numbers are there for */
        device_close();
        return check_end();
    }
    CHECK_RUN(test_memory);
    CHECK_RUN(test_decoders_are_equal);
    CHECK_RUN(test_recompute);
    CHECK_RUN(test_lr_scale);
    CHECK_RUN(test_schedule);
    CHECK_RUN(test_initialisation);
    CHECK_RUN(test_seeds);
    test_names("state_dict_pretrain.txt", preset("uniformer_small"), 352);
    test_names("state_dict_pretrain_unet3d.txt", preset("unet3d"), 113);
    test_names("state_dict_unified.txt", downstream_of("uniformer_small", BMVP_TASK_SEGMENT, 4, 3), 355);
    CHECK_RUN(test_presets);
    CHECK_RUN(test_layouts);
    CHECK_RUN(test_round_trip_uniformer);
    CHECK_RUN(test_round_trip_unet3d);
    CHECK_RUN(test_round_trip_downstream);
    CHECK_RUN(test_adoption_released);
    CHECK_RUN(test_adoption_values);
    CHECK_RUN(test_spread_stem);
    CHECK_RUN(test_adoption_refused);
    CHECK_RUN(test_wrong_checkpoint);
    CHECK_RUN(test_config_as_json);
    CHECK_RUN(test_config_without_task);
    CHECK_RUN(test_bad_configs);
    CHECK_RUN(test_wrong_task);
    CHECK_RUN(test_bad_inputs);
    return check_end();
}
