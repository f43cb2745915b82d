/* test_nets.c - bmvp_nn.h: tiny networks layer by layer against PyTorch in double
   (tests/reference/networks_reference.py), their memory, the two forms of the decoder, recomputation. With TEST_CUDA
   what PyTorch's numbers are there for, on a GPU. */
#include "tests/support/inside.h"
#include "tests/support/nets.h"

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
    if (check_report(x != NULL, __FILE__, __LINE__, "%s: no value", full))
        check_thinned(k->file, full, x, t->numel, 2e-5);
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
    const int ok = net_case_open(k, unet ? "nets/unet3d_tiny.safetensors" : "nets/uniformer_tiny.safetensors", unet,
                                 plain_decoder, BMVP_TASK_PRETRAIN);
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
    if (formula_ends_with(name, "blocks4.0.mlp.fc2.bias")) return "a constant per channel right before BatchNorm";
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
    bmvp_tensor *seen[64];
    char name[32];
    net_case k;
    int s, i, n = 0;
    if (net_case_begin(&k, 0, 1)) {
        CHECK(inside_uniformer_layers(k.net, k.x, seen) <= 64);
        for (s = 0; s < 4; ++s) {
            snprintf(name, sizeof name, "patch_embed%d", s + 1);
            check_activation(&k, "act", name, seen[n++]);
            for (i = 0; i < k.net->cfg.depth[s]; ++i) {
                snprintf(name, sizeof name, "blocks%d.%d", s + 1, i);
                check_activation(&k, "act", name, seen[n++]);
            }
        }
        check_activation(&k, "act", "norm", seen[n++]);
        for (i = 0; i < 4; ++i) {
            snprintf(name, sizeof name, "decoder%d", 5 - i);
            check_activation(&k, "act", name, seen[n++]);
        }
    }
    net_case_end(&k);
}

static void test_unet3d_tiny_layers(void)
{
    static const char *const name[16] = { "conv1a", "conv1b",   "ds1",      "conv2a",  "conv2b", "ds2",
                                          "conv3a", "conv3b",   "ds3",      "conv4a",  "conv4b", "conv4c",
                                          "conv4d", "up4convb", "up3convb", "up2convb" };
    bmvp_tensor *seen[16];
    net_case k;
    int i;
    if (net_case_begin(&k, 1, 0)) {
        CHECK(inside_unet3d_layers(k.net, k.x, seen) == 16);
        for (i = 0; i < 16; ++i) check_activation(&k, "act", name[i], seen[i]);
    }
    net_case_end(&k);
}

static void test_segmentation_layers(void)
{
    static const char *const up[3] = { "up4convb", "up3convb", "up2convb" };
    bmvp_tensor *seen[4];
    bmvp_features f;
    char name[32];
    net_case k;
    int i;
    if (net_case_open(&k, "nets/uniunet_tiny.safetensors", 0, 0, BMVP_TASK_SEGMENT)) {
        f = bmvp_net_encode(k.net, k.x, 1);
        inside_uniunet_decode(k.net, k.x, &f, seen);
        for (i = 0; i < 4; ++i) {
            snprintf(name, sizeof name, "decoder%d", 5 - i);
            check_activation(&k, "act", name, seen[i]);
        }
    }
    net_case_end(&k);
    if (net_case_open(&k, "nets/unet3d_segment_tiny.safetensors", 1, 0, BMVP_TASK_SEGMENT)) {
        f = bmvp_net_encode(k.net, k.x, 1);
        inside_unet3d_decode(k.net, &f, seen);
        for (i = 0; i < 3; ++i) check_activation(&k, "act", up[i], seen[i]);
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
    printf("%s, 96^3 x 4, %s: %.2f GB of activations, %.2f GB of parameters\n", network,
           training ? "training" : "inference", (double)bmvp_memory_of(c).step_peak / 1e9,
           (double)bmvp_memory_of(c).persistent / 1e9);
    check_report((double)bmvp_memory_of(c).step_peak <= most_gb * 1e9, __FILE__, __LINE__,
                 "%s: %.2f GB, should be at most %.2f", network, (double)bmvp_memory_of(c).step_peak / 1e9, most_gb);
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
            const float batches = (float)l->item[i].counter;
            step_push(&v, &batches, 1);
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
        cfg[3 + i] = downstream_of(i & 1 ? "unet3d_tiny" : "uniformer_tiny",
                                   i & 2 ? BMVP_TASK_CLASSIFY : BMVP_TASK_SEGMENT, 3, 4);
    cfg[7] = cfg[0];
    cfg[7].dim[3] = 256; /* wide enough for an MLP that saves its hidden layer */
    for (i = 0; i < 8; ++i) {
        step_values v[2], planned[2];
        for (r = 0; r < 2; ++r) {
            const bmvp_memory *p = &planned[r].memory, *m = &v[r].memory;
            planned[r] = tiny_step(&cfg[i], r, 1, 0);
            v[r] = tiny_step(&cfg[i], r, 0, p->step_peak);
            check_report(p->persistent == m->persistent && p->step_peak == m->step_peak, __FILE__, __LINE__,
                         "network %d, recompute %d: planned %lld + %lld, used %lld + %lld", i, r,
                         (long long)p->persistent, (long long)p->step_peak, (long long)m->persistent,
                         (long long)m->step_peak);
        }
        check_report(v[0].n == v[1].n && memcmp(v[0].x, v[1].x, (size_t)v[0].n * sizeof(float)) == 0, __FILE__,
                     __LINE__, "network %d, task %d: recomputing changes bits", i, (int)cfg[i].task);
        check_report(planned[1].memory.step_peak < planned[0].memory.step_peak, __FILE__, __LINE__,
                     "network %d: %lld bytes, recomputing %lld", i, (long long)planned[0].memory.step_peak,
                     (long long)planned[1].memory.step_peak);
        for (r = 0; r < 2; ++r) free(v[r].x);
    }
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
    if (DEVICE_IS_GPU) { /* all that PyTorch's numbers are there for */
        device_close();
        return check_end();
    }
    CHECK_RUN(test_memory);
    CHECK_RUN(test_decoders_are_equal);
    CHECK_RUN(test_recompute);
    return check_end();
}
