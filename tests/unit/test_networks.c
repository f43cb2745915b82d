/* test_networks.c - the networks of other papers against their own code: names, shapes and order of the state dict,
   outputs, features, gradients, statistics (support/golden_net.h). Small files of tests/fixtures/nets, and, where they
   are, those of BMVP_DATA/golden/nets. */
#include "tests/support/nets.h"
#include "tests/support/golden_net.h"
#include "tests/support/golden_ssl.h"
#include "tests/support/inside.h"

static bmvp_net *network(bmvp_ctx *c, const bmvp_net_config *k)
{
    bmvp_net *net = bmvp_net_create(c, k);
    check_context(c);
    return net;
}
static int has(const golden_net *g, const char *section, const char *name)
{
    return bmvp_json_get(bmvp_json_get(g->root, section), name) != NULL;
}
static void feature(golden_net *g, bmvp_ctx *c, const bmvp_tensor *t, golden_order order, const char *format, int i)
{
    char name[64];
    snprintf(name, sizeof name, format, i);
    if (has(g, "features", name)) golden_check(g, "features", name, c, t, order);
}

/* >>unetr --------------------------------------------------------------------------------------------------------- */

static bmvp_net_config unetr_config(const golden_net *g)
{
    static const char *const own[4] = { "feature_size", "hidden_size", "mlp_dim", "num_heads" };
    const bmvp_json *size = bmvp_json_get(g->args, "img_size");
    bmvp_net_config k = bmvp_net_config_default("unetr");
    char text[200];
    int i;
    k.task = BMVP_TASK_SEGMENT;
    k.in_channels = golden_argument(g, "in_channels", 1);
    k.outputs = golden_argument(g, "out_channels", 1);
    for (i = 0; i < 4; ++i) {
        snprintf(text, sizeof text, "%s=%d", own[i], golden_argument(g, own[i], 0));
        if (golden_argument(g, own[i], 0)) CHECK(bmvp_net_config_set(&k, text, NULL) == BMVP_OK);
    }
    for (i = 0; i < 3; ++i) {
        snprintf(text, sizeof text, "img_%c=%d", "xyz"[i],
                 (int)bmvp_json_int(size && size->type == BMVP_JSON_ARRAY ? bmvp_json_at(size, i) : size, 96));
        CHECK(bmvp_net_config_set(&k, text, NULL) == BMVP_OK);
    }
    if (strcmp(bmvp_json_string(bmvp_json_get(g->args, "proj_type"), "conv"), "perceptron") == 0)
        CHECK(bmvp_net_config_set(&k, "perceptron=1", NULL) == BMVP_OK);
    return k;
}

/* The transformer alone, or all of it */
static bmvp_tensor *unetr_run(golden_net *g, bmvp_net *net, bmvp_tensor *x)
{
    static const char *const output[4] = { "hidden3", "hidden6", "hidden9", "x" };
    bmvp_ctx *c = net->m.c;
    bmvp_tensor *hidden[14], *map[8], *y, *loss = NULL;
    bmvp_features f;
    int i;
    if (has(g, "outputs", "x")) {
        inside_unetr_tokens(net, x, hidden);
        for (i = 0; i < 4; ++i) loss = golden_loss(g, c, loss, output[i], hidden[3 + 3 * i], GOLDEN_LAST);
    } else {
        f = bmvp_net_encode(net, x, 1);
        inside_unetr_tokens(net, x, hidden);
        y = inside_unetr_decode(net, &f, map);
        for (i = 0; i < 4; ++i) feature(g, c, map[i], GOLDEN_FIRST, "encoder%d", 1 + i);
        for (i = 0; i < 4; ++i) feature(g, c, map[4 + i], GOLDEN_FIRST, "decoder%d", 5 - i);
        loss = golden_loss(g, c, loss, "logits", y, GOLDEN_FIRST);
    }
    feature(g, c, hidden[13], GOLDEN_LAST, "vit.patch_embedding", 0);
    for (i = 0; i < 12; ++i) feature(g, c, hidden[i], GOLDEN_LAST, "vit.blocks.%d", i);
    feature(g, c, hidden[12], GOLDEN_LAST, "vit.norm", 0);
    return loss;
}

/* 130 million weights by formula, or 180 billion multiply-adds */
static int too_slow(const char *path)
{
#ifdef __SANITIZE_ADDRESS__
    if (strstr(path, "_full_96") || (strstr(path, "_mg_") && !strstr(path, "_tiny")))
        return check_skip("large, under a sanitizer"), 1;
    if (strstr(path, "net_swin_") && !strstr(path, "_tiny"))
        return check_skip("under a sanitizer the small one alone"), 1;
#endif
    (void)path;
    return 0;
}

/* A file: its network, its state by formula, forward, and gradients where it has them. whole 0: the file has more
   parameters than the network. */
static void test_file(const char *path, int whole, bmvp_net_config (*config)(const golden_net *g),
                      bmvp_tensor *(*run)(golden_net *g, bmvp_net *net, bmvp_tensor *x))
{
    bmvp_ctx *c = device_context();
    bmvp_net_config k;
    bmvp_tensor *x, *loss;
    bmvp_net *net;
    golden_net g;
    if (!too_slow(path) && golden_open(&g, path)) {
        k = config(&g);
        net = network(c, &k);
        if (net) {
            golden_state_of(&g, c, bmvp_net_state(net), whole);
            x = golden_input(&g, c);
            golden_check(&g, "input", NULL, c, x, GOLDEN_FIRST);
            loss = run(&g, net, x);
            if (bmvp_json_get(g.root, "grad")) {
                golden_loss_is(&g, c, loss);
                bmvp_backward(c, loss);
                golden_gradients(&g, c, bmvp_net_state(net), x);
            }
            check_context(c);
            bmvp_net_destroy(net);
        }
        golden_close(&g);
    }
    bmvp_destroy(c);
}

static void test_unetr_file(const char *path) { test_file(path, 1, unetr_config, unetr_run); }

/* >>u-nets: of Models Genesis and of GVSL ------------------------------------------------------------------------- */

static bmvp_net_config unet_config(const golden_net *g, const char *kind)
{
    bmvp_net_config k = bmvp_net_config_default(kind);
    k.width = golden_argument(g, "width", 32);
    k.in_channels = golden_argument(g, "inputs", 1);
    return k;
}
static bmvp_net_config mg_config(const golden_net *g)
{
    bmvp_net_config k = unet_config(g, "unet3d_mg");
    k.task = BMVP_TASK_SEGMENT;
    k.outputs = golden_argument(g, "n_class", 1);
    return k;
}
/* In evaluation: its batch norm is the same there. */
static bmvp_tensor *mg_run(golden_net *g, bmvp_net *net, bmvp_tensor *x)
{
    bmvp_ctx *c = net->m.c;
    const bmvp_features f = bmvp_net_encode(net, x, 0);
    bmvp_tensor *map[3], *y = inside_mg_decode(net, &f, map);
    int i;
    for (i = 0; i < 4; ++i) /* what the authors' modules return first is pooled */
        feature(g, c, i < 3 ? bmvp_maxpool3d(c, f.map[i], 2) : f.map[i], GOLDEN_FIRST, "down_tr%d", 64 << i);
    for (i = 0; i < 3; ++i) feature(g, c, map[i], GOLDEN_FIRST, "up_tr%d", 256 >> i);
    return golden_loss(g, c, NULL, "probability", bmvp_sigmoid(c, y), GOLDEN_FIRST);
}
static void test_mg_file(const char *path) { test_file(path, 1, mg_config, mg_run); }

/* UNet_base: of pre-training */
static bmvp_net_config gvsl_config(const golden_net *g) { return unet_config(g, "unet3d_gvsl"); }
static bmvp_tensor *gvsl_run(golden_net *g, bmvp_net *net, bmvp_tensor *x)
{
    bmvp_ctx *c = net->m.c;
    const bmvp_features f = bmvp_net_encode(net, x, 1);
    bmvp_tensor *loss;
    int i;
    feature(g, c, f.skip[0], GOLDEN_FIRST, "inc", 0);
    for (i = 0; i < 4; ++i) feature(g, c, f.map[i], GOLDEN_FIRST, "down%d", 1 + i);
    feature(g, c, f.skip[5], GOLDEN_FIRST, "up4", 0);
    loss = golden_loss(g, c, NULL, "x5", f.last, GOLDEN_FIRST);
    return golden_loss(g, c, loss, "x", f.skip[5], GOLDEN_FIRST);
}
static void test_gvsl_file(const char *path) { test_file(path, 1, gvsl_config, gvsl_run); }

/* Their fine-tuning network, whose file lists the backbone a second time and the heads of pre-training, too */
static bmvp_net_config gvsl_segment_config(const golden_net *g)
{
    bmvp_net_config k = gvsl_config(g);
    k.task = BMVP_TASK_SEGMENT;
    k.outputs = golden_argument(g, "classes", 2);
    return k;
}
static bmvp_tensor *gvsl_segment_run(golden_net *g, bmvp_net *net, bmvp_tensor *x)
{
    const bmvp_features f = bmvp_net_encode(net, x, 1);
    bmvp_tensor *y = bmvp_net_segment(net, x, &f, 0).full;
    golden_check(g, "features", "unet.down4", net->m.c, f.last, GOLDEN_FIRST);
    golden_check(g, "features", "out_conv", net->m.c, y, GOLDEN_FIRST);
    return golden_loss(g, net->m.c, NULL, "probability", bmvp_softmax(net->m.c, y), GOLDEN_FIRST);
}
static void test_gvsl_segment_file(const char *path) { test_file(path, 0, gvsl_segment_config, gvsl_segment_run); }

/* That of M3AE: UNET3D of four channels with skips, its coarse logits as large as the input */
static bmvp_net_config m3ae_config(const golden_net *g)
{
    bmvp_net_config k = bmvp_net_config_default("unet3d");
    k.task = BMVP_TASK_SEGMENT;
    k.width = golden_argument(g, "init", 16);
    k.groups = 8, k.in_channels = 4, k.outputs = 3;
    if (golden_argument(g, "deep", 0)) CHECK(bmvp_net_config_set(&k, "deep=1", NULL) == BMVP_OK);
    return k;
}
static bmvp_tensor *m3ae_run(golden_net *g, bmvp_net *net, bmvp_tensor *x)
{
    const bmvp_features f = bmvp_net_encode(net, x, 1);
    const bmvp_logits l = bmvp_net_segment(net, x, &f, 0);
    bmvp_tensor *loss = golden_loss(g, net->m.c, NULL, "out4", l.quarter, GOLDEN_FIRST);
    loss = golden_loss(g, net->m.c, loss, "out3", l.half, GOLDEN_FIRST);
    return golden_loss(g, net->m.c, loss, "out", l.full, GOLDEN_FIRST);
}
static void test_m3ae_file(const char *path) { test_file(path, 1, m3ae_config, m3ae_run); }

/* >>swin_unetr ---------------------------------------------------------------------------------------------------- */

static bmvp_net_config swin_config(const golden_net *g)
{
    const char *version = bmvp_json_string(bmvp_json_get(g->root, "network"), "");
    bmvp_net_config k = bmvp_net_config_default("swin_unetr");
    char text[200];
    k.task = BMVP_TASK_SEGMENT;
    k.in_channels = golden_argument(g, "in_channels", 1);
    k.outputs = golden_argument(g, "out_channels", 1);
    snprintf(text, sizeof text, "feature_size=%d use_v2=%d new_merging=%d", golden_argument(g, "feature_size", 48),
             golden_argument(g, "use_v2", 0), strstr(version, "MONAI 1.5") != NULL);
    CHECK(bmvp_net_config_set(&k, text, NULL) == BMVP_OK);
    return k;
}

/* The transformer alone, or all of it */
static bmvp_tensor *swin_run(golden_net *g, bmvp_net *net, bmvp_tensor *x)
{
    static const int place[5] = { 1, 2, 3, 4, 10 };
    static const char *const inner[4] = { "swinViT.layers%d.0.blocks.0", "swinViT.layers%d.0.blocks.1",
                                          "swinViT.layers%d.0.downsample", "swinViT.layers%dc.0" };
    bmvp_ctx *c = net->m.c;
    bmvp_tensor *seen[17] = { NULL }, *map[11], *loss = NULL;
    bmvp_features f = inside_swin_maps(net, x, seen);
    char name[16];
    int i;
    if (!f.last) return NULL;
    feature(g, c, seen[16], GOLDEN_FIRST, "swinViT.patch_embed", 0);
    for (i = 0; i < 16; ++i)
        if (seen[i]) feature(g, c, seen[i], i % 4 == 3 ? GOLDEN_FIRST : GOLDEN_LAST, inner[i % 4], 1 + i / 4);
    for (i = 0; i < 5 && has(g, "outputs", "h0"); ++i) {
        snprintf(name, sizeof name, "h%d", i);
        loss = golden_loss(g, c, loss, name, f.map[i], GOLDEN_FIRST);
    }
    if (loss) return loss;
    inside_swin_decode(net, &f, map);
    for (i = 0; i < 5; ++i) feature(g, c, map[i], GOLDEN_FIRST, "encoder%d", place[i]);
    for (i = 0; i < 5; ++i) feature(g, c, map[5 + i], GOLDEN_FIRST, "decoder%d", 5 - i);
    return golden_loss(g, c, loss, "logits", map[10], GOLDEN_FIRST);
}

static void test_swin_file(const char *path)
{
    if (strstr(path, "_ssl_")) check_skip("the head is a method's");
    else if (strstr(path, "_f48_96_") && !check_all.only) check_skip("300 GMAC: it runs when it is named");
    else test_file(path, 1, swin_config, swin_run);
}

/* >>golden/ssl/networks.json -------------------------------------------------------------------------------------- */

/* A network of two channels and three outputs, weights and input by the recipe of golden/ssl. x: a leaf of
   (1, 2, X, Y, Z) in PyTorch */
static bmvp_net *ssl_network(const golden_ssl *g, bmvp_ctx *c, const char *kind, const char *fields)
{
    bmvp_net_config k = bmvp_net_config_default(kind);
    bmvp_net *net;
    k.task = BMVP_TASK_SEGMENT, k.in_channels = 2, k.outputs = 3;
    CHECK(bmvp_net_config_set(&k, fields, NULL) == BMVP_OK);
    net = network(c, &k);
    if (net) CHECK(formula_state(c, bmvp_net_state(net), g->seed));
    return net;
}
static bmvp_tensor *ssl_volume(const golden_ssl *g, bmvp_ctx *c, const char *name, const int64_t dim[5], double times,
                               double offset)
{
    const int64_t n = dim[0] * dim[1] * dim[2] * dim[3] * dim[4];
    float *torch = (float *)malloc((size_t)n * 2 * sizeof *torch);
    bmvp_tensor *x;
    if (!CHECK(torch != NULL)) return NULL;
    golden_ssl_uniform(g, name, times, offset, n, torch);
    golden_turn(dim, GOLDEN_FIRST, torch, torch + n, 0);
    x = bmvp_keep(bmvp_leaf(c, 5, dim, torch + n));
    free(torch);
    return x;
}
static void ssl_sees(const golden_ssl *g, const char *of, const bmvp_json *want, bmvp_ctx *c, const bmvp_tensor *t,
                     golden_order order)
{
    float *x = golden_read(c, t, 0, order);
    (void)g;
    if (CHECK(x && want)) golden_ssl_check(of, want, x, t->numel);
    free(x);
}

static void ssl_gradients(const golden_ssl *g, bmvp_ctx *c, const bmvp_state_list *l)
{
    const bmvp_json *grad = golden_ssl_out(g, "unetr", "grad");
    int64_t seen = 0;
    int i;
    for (i = 0; i < l->n; ++i) {
        const bmvp_state *s = &l->item[i];
        const bmvp_json *want = bmvp_json_get(grad, s->name);
        float *ours, *torch;
        if (!want) continue;
        ++seen;
        ours = device_copy(c, s->t, 1);
        torch = (float *)malloc((size_t)s->t->numel * sizeof *torch);
        if (CHECK(ours && torch)) {
            bmvp_state_to_torch(s, ours, torch);
            golden_ssl_check(s->name, want, torch, s->t->numel);
        }
        free(ours);
        free(torch);
    }
    CHECK(seen == bmvp_json_count(grad));
}

static void ssl_unetr(const golden_ssl *g, bmvp_ctx *c)
{
    static const int64_t dim[5] = { 1, 32, 32, 32, 2 }, out[5] = { 1, 32, 32, 32, 3 };
    const bmvp_json *between = golden_ssl_out(g, "unetr", "hidden_3_6_9");
    bmvp_net *net = ssl_network(g, c, "unetr", "img_size=32 feature_size=8 hidden_size=24 mlp_dim=48 num_heads=3");
    bmvp_tensor *x = ssl_volume(g, c, "x", dim, 1, 0), *cotangent = ssl_volume(g, c, "cot", out, 2, -1), *y;
    bmvp_tensor *hidden[14];
    bmvp_features f;
    int i;
    if (!net || !x || !cotangent) return;
    f = bmvp_net_encode(net, x, 1);
    inside_unetr_tokens(net, x, hidden);
    y = bmvp_net_segment(net, x, &f, 0).full;
    for (i = 0; i < 3; ++i) ssl_sees(g, "hidden", bmvp_json_at(between, i), c, hidden[3 + 3 * i], GOLDEN_LAST);
    ssl_sees(g, "vit", golden_ssl_out(g, "unetr", "vit"), c, hidden[12], GOLDEN_LAST);
    ssl_sees(g, "y", golden_ssl_out(g, "unetr", "y"), c, y, GOLDEN_FIRST);
    bmvp_backward(c, bmvp_sum(c, bmvp_mul(c, y, cotangent)));
    ssl_gradients(g, c, bmvp_net_state(net));
    bmvp_net_destroy(net);
}

static void ssl_swin(const golden_ssl *g, bmvp_ctx *c, const char *fields, const char *name)
{
    static const int64_t dim[5] = { 1, 32, 32, 64, 2 };
    bmvp_net *net = ssl_network(g, c, "swin_unetr", fields);
    bmvp_tensor *x = ssl_volume(g, c, "sx", dim, 1, 0);
    bmvp_features f;
    if (!net || !x) return;
    (void)bmvp_set_grad(c, 0);
    f = bmvp_net_encode(net, x, 0);
    ssl_sees(g, name, golden_ssl_out(g, "swinunetr_forward", name), c, bmvp_net_segment(net, x, &f, 0).full,
             GOLDEN_FIRST);
    (void)bmvp_set_grad(c, 1);
    bmvp_net_destroy(net);
}

static void test_golden_ssl(void)
{
    golden_ssl g;
    bmvp_ctx *c;
    if (too_slow("net_swin_ssl") || !golden_ssl_open(&g, "networks.json")) return;
    c = device_context();
    ssl_unetr(&g, c);
    ssl_swin(&g, c, "feature_size=12", "v1");
    ssl_swin(&g, c, "feature_size=12 use_v2=1", "v2");
    check_context(c);
    bmvp_destroy(c);
    bmvp_json_free(g.doc);
}

/* >>a stem of one channel, spread over three: a linear patch embedding of equal channels gives what it gave of one */
static void test_perceptron_spread(void)
{
    static const int64_t dim[5] = { 1, 32, 32, 32, 3 };
    bmvp_state_part part = { NULL, NULL, NULL, 0 };
    bmvp_net_config k = preset("unetr_tiny");
    bmvp_tensor *x, *one, *hidden[2][14];
    bmvp_ctx *c = device_context();
    bmvp_net_adoption what;
    bmvp_ckpt_writer *w = NULL;
    bmvp_ckpt *f = NULL;
    bmvp_net *net[2];
    char path[400];
    bmvp_error err;
    int i;
    CHECK(bmvp_net_config_set(&k, "perceptron=1", NULL) == BMVP_OK);
    k.task = BMVP_TASK_SEGMENT, k.outputs = 2;
    for (i = 0; i < 2; ++i) {
        k.in_channels = i ? 3 : 1;
        net[i] = network(c, &k);
        bmvp_net_init(net[i], (uint64_t)(1 + i));
    }
    temporary(path, sizeof path, "pt");
    part.c = c, part.list = bmvp_net_state(net[0]);
    CHECK(bmvp_ckpt_writer_begin(path, BMVP_CKPT_PT, NULL, &w, &err) == BMVP_OK &&
          bmvp_state_declare(w, "state_dict", &part, &err) == BMVP_OK && bmvp_state_data(w, &part, &err) == BMVP_OK &&
          bmvp_ckpt_writer_finish(w, &err) == BMVP_OK && bmvp_ckpt_open(path, NULL, &f, &err) == BMVP_OK);
    memset(&what, 0, sizeof what);
    check_report(bmvp_net_adopt(net[1], f, BMVP_ADOPT_SPREAD, &what, &err) == BMVP_OK, __FILE__, __LINE__, "%s",
                 err.message);
    CHECK(what.n[BMVP_ADOPT_ADAPTED] == 2);
    bmvp_ckpt_close(f);
    remove(path);
    (void)bmvp_set_grad(c, 0);
    x = bmvp_input(c, 5, dim, NULL);
    for (i = 0; i < 32 * 32 * 32 && x; ++i)
        x->x[3 * i] = x->x[3 * i + 1] = x->x[3 * i + 2] = (float)formula_uniform(formula_stream("x", 0), i);
    one = bmvp_slice(c, x, 4, 0, 1);
    inside_unetr_tokens(net[0], one, hidden[0]);
    inside_unetr_tokens(net[1], x, hidden[1]);
    one = bmvp_l1(c, hidden[0][13], hidden[1][13]);
    golden_ssl_near("tokens", "their mean distance", (double)bmvp_scalar(c, one), 0, 1e-6);
    check_context(c);
    for (i = 0; i < 2; ++i) bmvp_net_destroy(net[i]);
    bmvp_destroy(c);
}

static void fixture(const char *name, void (*fn)(const char *path))
{
    char path[512];
    if (!check_start("%s", name)) return;
    snprintf(path, sizeof path, "%s/nets/%s", TEST_FIXTURES, name);
    fn(path);
    check_finish();
}

int main(int argc, char **argv)
{
    check_begin(argc, argv);
    if (!device_open()) return check_end();
    fixture("net_unetr_tiny.json", test_unetr_file);
    fixture("net_unetr_tiny_perceptron.json", test_unetr_file);
    fixture("net_mg_tiny.json", test_mg_file);
    fixture("net_gvsl_tiny.json", test_gvsl_file);
    fixture("net_swin_unetr_tiny.json", test_swin_file);
    golden_each("unetr_", test_unetr_file);
    golden_each("mg_", test_mg_file);
    golden_each("gvsl_base_", test_gvsl_file);
    golden_each("gvsl_segment_", test_gvsl_segment_file);
    golden_each("m3ae_", test_m3ae_file);
    golden_each("swin_", test_swin_file);
    CHECK_RUN(test_perceptron_spread);
    CHECK_RUN(test_golden_ssl);
    device_close();
    return check_end();
}
