/* test_methods_swin.c - the pre-training methods of Swin-UNETR against their authors' own code (BMVP_DATA/golden/ssl
   and golden/nets; skipped where the files are absent). Seed, shapes and draws are the file's. */
#include "tests/support/inside.h"
#include "tests/support/nets.h"
#include "tests/support/golden_net.h"
#include "tests/support/golden_ssl.h"
#include "tests/support/golden_draws.h"
#include "tests/support/kinks.h"
#include "examples/methods/bases.h"
#include "examples/methods/views.h"

/* >>runs: a trainer of a method, values by formula ---------------------------------------------------------------- */

typedef const char *(*renaming)(const char *ours, char *buf, size_t size); /* the name in the authors' code */
static const char *same_name(const char *ours, char *buf, size_t size)
{
    (void)buf;
    (void)size;
    return ours;
}

/* settings: "name=value" pairs for the method, NULL at the end */
static bmvp_trainer *trainer_of(bmvp_ctx *c, const char *method, const char *network, const char *const *settings)
{
    const method_row *row = method_find(method);
    static double config[128];
    bmvp_net_config net = preset("swin_unetr_tiny");
    char name[40];
    bmvp_error err;
    if (!CHECK(row && row->method()->config_size <= sizeof config && row->preset("release", config))) return NULL;
    CHECK(bmvp_net_config_set(&net, network, NULL) == BMVP_OK);
    for (; settings && *settings; ++settings) {
        snprintf(name, sizeof name, "%.*s", (int)strcspn(*settings, "="), *settings);
        check_report(bmvp_field_set(row->method()->fields, config, name, strchr(*settings, '=') + 1, &err) == BMVP_OK,
                     __FILE__, __LINE__, "%s", err.message);
    }
    return bmvp_trainer_create(c, row->method(), &net, config, NULL, 1);
}

/* Values by formula under the authors' names */
static void fill_state(const golden_ssl *g, bmvp_ctx *c, bmvp_state_list *l, renaming rename)
{
    int i;
    for (i = 0; i < l->n; ++i) {
        bmvp_state s = l->item[i];
        char buf[BMVP_NAME_MAX];
        float *x;
        if (s.torch_rank == 0 || strstr(s.name, "relative_position_index")) continue;
        x = (float *)malloc((size_t)s.t->numel * 2 * sizeof *x);
        s.name = rename(s.name, buf, sizeof buf);
        if (CHECK(x != NULL)) {
            formula_values(&s, g->seed, x);
            bmvp_state_from_torch(&s, x, x + s.t->numel);
            bmvp_write(c, s.t, x + s.t->numel);
        }
        free(x);
    }
}

/* An entry whose gradient vanishes: eight times what float32 left in the original, at least 1e-5 */
static void vanishes(const char *what, const bmvp_json *v, const float *x, int64_t n)
{
    const double most = 8 * bmvp_json_double(bmvp_json_get(v, "largest32"), 0);
    int64_t i;
    for (i = 0; i < n; ++i) golden_ssl_near(what, "a gradient of zero", (double)x[i], 0, most > 1e-5 ? most : 1e-5);
}

/* Gradients of the list against a case's; whole 1: what the case lacks has none. k: NULL or kinks of this list. */
static void gradients_are(const bmvp_json *grad, bmvp_ctx *c, const bmvp_state_list *l, renaming rename, int whole,
                          const kinks *k)
{
    int64_t seen = 0;
    int i;
    for (i = 0; i < l->n; ++i) {
        const bmvp_state *s = &l->item[i];
        char buf[BMVP_NAME_MAX];
        const char *const name = rename(s->name, buf, sizeof buf);
        const bmvp_json *const v = bmvp_json_get(grad, name);
        float *ours, *torch, *room = NULL;
        if (!v && whole)
            check_report(!s->trained || !bmvp_has_grad(s->t), __FILE__, __LINE__, "%s should have no gradient", name);
        if (!v) continue;
        ++seen;
        ours = device_copy(c, s->t, 1);
        torch = (float *)malloc(2 * (size_t)s->t->numel * sizeof *torch);
        if (check_report(ours && torch, __FILE__, __LINE__, "%s has no gradient", name)) {
            bmvp_state_to_torch(s, ours, torch);
            if (k && CHECK(k->other && k->other[i])) {
                bmvp_state_to_torch(s, k->other[i], room = torch + s->t->numel);
                kinks_room(torch, room, s->t->numel);
            }
            if (bmvp_json_get(v, "zero")) vanishes(name, v, torch, s->t->numel);
            else golden_ssl_room(name, v, torch, s->t->numel, 2e-5, room);
        }
        free(ours);
        free(torch);
    }
    check_report(seen == bmvp_json_count(grad), __FILE__, __LINE__, "%d of %d gradients found", (int)seen,
                 (int)bmvp_json_count(grad));
}

static const bmvp_json *out_of(const golden_ssl *g, const char *of)
{
    return bmvp_json_get(bmvp_json_get(bmvp_json_get(bmvp_json_root(g->doc), "cases"), of), "out");
}

/* A tensor (ours) against an entry in PyTorch's order */
static void map_is(const char *what, const bmvp_json *v, bmvp_ctx *c, const bmvp_tensor *t, golden_order order)
{
    float *x = golden_read(c, t, 0, order);
    if (check_report(x && v, __FILE__, __LINE__, "%s: no values", what)) golden_ssl_check(what, v, x, t->numel);
    free(x);
}
static void number_is(const char *what, const bmvp_json *v, bmvp_ctx *c, const bmvp_tensor *t)
{
    if (CHECK(t && v)) map_is(what, v, c, t, GOLDEN_AS_IT_IS);
}

/* dim: N, C, X, Y, Z of the stream's tensor (channels 1); a tensor in our order that wants a gradient if leaf is 1 */
static bmvp_tensor *volumes_of(const golden_ssl *g, bmvp_ctx *c, const char *name, const int64_t dim[5], int leaf)
{
    const int64_t d[5] = { dim[0], dim[4], dim[3], dim[2], dim[1] };
    const int64_t n = dim[0] * dim[1] * dim[2] * dim[3] * dim[4];
    float *x = (float *)malloc((size_t)n * 2 * sizeof *x);
    bmvp_tensor *t = NULL;
    if (!CHECK(x != NULL)) return NULL;
    golden_ssl_uniform(g, name, 1, 0, n, x);
    golden_turn(d, GOLDEN_FIRST, x, x + n, 0);
    t = leaf ? bmvp_keep(bmvp_leaf(c, 5, d, x + n)) : bmvp_input(c, 5, d, x + n);
    free(x);
    return t;
}
static bmvp_tensor *rows_of(const golden_ssl *g, bmvp_ctx *c, const char *name, double times, double offset,
                            int64_t rows, int64_t columns)
{
    const int64_t dim[2] = { rows, columns };
    float *x = (float *)malloc((size_t)(rows * columns) * sizeof *x);
    bmvp_tensor *t;
    if (!CHECK(x != NULL)) return NULL;
    golden_ssl_uniform(g, name, times, offset, rows * columns, x);
    t = bmvp_keep(bmvp_leaf(c, 2, dim, x));
    free(x);
    return t;
}

/* >>swin_ssl ------------------------------------------------------------------------------------------------------- */

/* The file has shares of the view where draws are in [0, 1). */
static double cut_share(void *user) { return golden_draws_uniform(user) / 0.3; }
/* Of one volume there is no other to draw. */
static int64_t cut_whole(void *user, int64_t low, int64_t high)
{
    return high == 0 ? 0 : golden_draws_whole(user, low, high);
}

static void swin_turns(const golden_ssl *g)
{
    const int64_t d[3] = { 2, 3, 3 };
    const bmvp_json *v;
    float x[18], y[18];
    char name[2] = "0";
    int i, k;
    for (i = 0; i < 18; ++i) x[i] = (float)i;
    for (k = 0; k < 4; ++k) {
        name[0] = (char)('0' + k);
        v = golden_ssl_out(g, "rotation", name);
        swin_ssl_turn(k, d, 1, 2, x, y);
        for (i = 0, v = v ? v->first : NULL; i < 18; ++i, v = v ? v->next : NULL)
            CHECK(y[i] == (float)bmvp_json_int(v, -1));
    }
}

static void swin_cuts(const golden_ssl *g, const char *of, const char *stream, const char *noise)
{
    const bmvp_json *y = golden_ssl_out(g, of, "y"), *shape = bmvp_json_get(y, "shape");
    const int rank = (int)bmvp_json_count(shape);
    double config[128];
    int64_t d[3], n = rank == 5 ? bmvp_json_int(bmvp_json_at(shape, 0), 0) : 1, voxels, i;
    golden_draws l;
    draws r = golden_draws_of(&l, g, golden_ssl_in(g, of, "draws"), "none", noise);
    float *x;
    CHECK(method_find("swin_ssl")->preset("release", config));
    for (i = 0; i < 3; ++i) d[i] = bmvp_json_int(bmvp_json_at(shape, rank - 3 + (int)i), 0);
    voxels = d[0] * d[1] * d[2];
    r.uniform = cut_share;
    if (n == 1) r.whole = cut_whole;
    x = (float *)malloc((size_t)((n + 1) * voxels) * sizeof *x);
    if (CHECK(x && rank >= 3)) {
        golden_ssl_uniform(g, stream, 1, 0, n * voxels, x);
        for (i = 0; i < n; ++i)
            swin_ssl_spoil(&r, (const swin_ssl_config *)(void *)config, d, n, i, x, x + n * voxels);
        golden_ssl_within(of, y, x, n * voxels, 1e-5);
        CHECK(!l.wrong && !l.value);
    }
    free(x);
}

static void swin_losses(const golden_ssl *g, bmvp_ctx *c)
{
    static const int32_t turn[6] = { 0, 3, 2, 1, 1, 0 };
    static const int64_t dim[5] = { 6, 1, 2, 3, 4 };
    bmvp_tensor *z[2], *rot, *rec, *nce, *ce, *l1, *total;
    z[0] = rows_of(g, c, "zi", 2, -1, 3, 8), z[1] = rows_of(g, c, "zj", 2, -1, 3, 8);
    rot = rows_of(g, c, "rot", 4, -2, 6, 4), rec = volumes_of(g, c, "rec", dim, 1);
    nce = method_info_nce(c, bmvp_concat(c, 2, z, 0), 0.5);
    ce = bmvp_cross_entropy(c, rot, turn);
    l1 = bmvp_l1(c, rec, volumes_of(g, c, "im", dim, 0));
    total = bmvp_add(c, bmvp_add(c, nce, ce), l1);
    bmvp_backward(c, total);
    golden_ssl_tensor(g, "losses", "contrast", c, nce, 0);
    golden_ssl_tensor(g, "losses", "rot", c, ce, 0);
    golden_ssl_tensor(g, "losses", "recon", c, l1, 0);
    golden_ssl_tensor(g, "losses", "total", c, total, 0);
    golden_ssl_tensor(g, "losses", "grad_zi", c, z[0], 1);
    golden_ssl_tensor(g, "losses", "grad_zj", c, z[1], 1);
    golden_ssl_tensor(g, "losses", "grad_rot", c, rot, 1);
    if (CHECK(rec != NULL)) {
        float *x = golden_read(c, rec, 1, GOLDEN_FIRST);
        golden_ssl_check("grad_rec", golden_ssl_out(g, "losses", "grad_rec"), x, rec->numel);
        free(x);
    }
}

/* The loss of both views as one batch: nothing but the contrast mixes samples. checked 0: nothing is compared. */
static bmvp_tensor *swin_loss(const golden_ssl *g, bmvp_trainer *t, int checked)
{
    static const int64_t dim[5] = { 2, 1, 64, 32, 32 };
    static const int32_t turn[4] = { 0, 1, 3, 2 };
    const bmvp_json *out = out_of(g, "step"), *parts = bmvp_json_get(out, "parts_rot_contrast_recon");
    bmvp_ctx *c = t->c;
    bmvp_tensor *view[2], *wanted[2], *loss[3], *total;
    bmvp_features f;
    swin_ssl_answers a;
    char name[16];
    int i;
    view[0] = volumes_of(g, c, "v1", dim, 0), view[1] = volumes_of(g, c, "v2", dim, 0);
    wanted[0] = volumes_of(g, c, "t1", dim, 0), wanted[1] = volumes_of(g, c, "t2", dim, 0);
    if (checked) f = bmvp_net_encode(t->net, view[0], 1);
    for (i = 0; checked && i < 5; ++i) {
        snprintf(name, sizeof name, "hidden %d", i);
        map_is(name, bmvp_json_at(bmvp_json_get(out, "hidden"), i), c, f.map[i], GOLDEN_FIRST);
    }
    a = swin_ssl_run(t->net, (swin_ssl_heads *)t->state, bmvp_concat(c, 2, view, 0), 1);
    loss[0] = bmvp_cross_entropy(c, a.turn, turn);
    loss[1] = method_info_nce(c, a.vector, 0.5);
    loss[2] = bmvp_l1(c, a.rebuilt, bmvp_concat(c, 2, wanted, 0));
    total = bmvp_add(c, bmvp_add(c, loss[0], loss[1]), loss[2]);
    if (!checked) return total;
    map_is("rot1", bmvp_json_get(out, "rot1"), c, bmvp_slice(c, a.turn, 0, 0, 2), GOLDEN_AS_IT_IS);
    map_is("contrast1", bmvp_json_get(out, "contrast1"), c, bmvp_slice(c, a.vector, 0, 0, 2), GOLDEN_AS_IT_IS);
    map_is("rec1", bmvp_json_get(out, "rec1"), c, bmvp_slice(c, a.rebuilt, 0, 0, 2), GOLDEN_FIRST);
    for (i = 0; i < 3; ++i) number_is("a loss", bmvp_json_at(parts, i), c, loss[i]);
    number_is("loss", bmvp_json_get(out, "loss"), c, total);
    return total;
}

/* What the files' rule takes for the same, 2e-5 of the root mean square, may be on either side of a leaky ReLU. */
static void swin_step(const golden_ssl *g, bmvp_ctx *c)
{
    static const char *const crop64[] = { "crop=64", NULL };
    bmvp_trainer *t = trainer_of(c, "swin_ssl", "feature_size=12", crop64);
    const bmvp_json *grad = bmvp_json_get(out_of(g, "step"), "grad");
    kinks k;
    if (!CHECK(t != NULL)) return;
    fill_state(g, c, bmvp_net_state(t->net), same_name);
    kinks_begin(&k, c, 2e-5);
    bmvp_backward(c, swin_loss(g, t, 0));
    kinks_end(&k, bmvp_net_state(t->net));
    bmvp_step_begin(c);
    bmvp_backward(c, swin_loss(g, t, 1));
    gradients_are(grad, c, bmvp_net_state(t->net), same_name, golden_ssl_has(g, "losses"), &k);
    kinks_free(&k, bmvp_net_state(t->net));
    check_context(c);
    bmvp_trainer_destroy(t);
}

static const char *block_name(const char *ours, char *buf, size_t size)
{
    static const char block[] = "swinViT.layers1.0.blocks.1.", merging[] = "swinViT.layers1.0.downsample.";
    if (strncmp(ours, block, sizeof block - 1) == 0) return ours + sizeof block - 1;
    if (strncmp(ours, merging, sizeof merging - 1) != 0) return "none";
    snprintf(buf, size, "merging.%s", ours + sizeof merging - 1);
    return buf;
}

/* A block of windows of 3^3, shifted, and the merging in both of MONAI 1.4's orders; odd sides, which a network here
   never has, are padded. */
static void swin_block(const golden_ssl *g, bmvp_ctx *c)
{
    static const int64_t dim[5] = { 1, 6, 4, 5, 12 }, low[5] = { 0 }, high[5] = { 0, 0, 0, 1, 0 };
    const bmvp_json *out = out_of(g, "swin_block");
    const int64_t n = dim[1] * dim[2] * dim[3] * dim[4];
    bmvp_net_config k = preset("swin_unetr_tiny");
    bmvp_net *net;
    float *x = (float *)malloc((size_t)n * 4 * sizeof *x), *gx;
    bmvp_tensor *in, *y;
    CHECK(bmvp_net_config_set(&k, "window_size=3", NULL) == BMVP_OK);
    k.task = BMVP_TASK_ENCODE;
    net = bmvp_net_create(c, &k);
    if (!CHECK(net && x)) return;
    fill_state(g, c, bmvp_net_state(net), block_name);
    golden_ssl_uniform(g, "tokens", 2, -1, n, x);
    golden_ssl_uniform(g, "cot", 2, -1, n, x + n);
    golden_turn(dim, GOLDEN_LAST, x, x + 2 * n, 0);
    golden_turn(dim, GOLDEN_LAST, x + n, x + 3 * n, 0);
    in = bmvp_keep(bmvp_leaf(c, 5, dim, x + 2 * n));
    y = inside_swin_block(net, 0, 1, in);
    map_is("block", bmvp_json_get(out, "y"), c, y, GOLDEN_LAST);
    map_is("merging", bmvp_json_get(out, "merging"), c, inside_swin_merge(net, 0, 0, bmvp_pad(c, in, low, high)),
           GOLDEN_LAST);
    map_is("mergingv2", bmvp_json_get(out, "mergingv2"), c, inside_swin_merge(net, 0, 2, bmvp_pad(c, in, low, high)),
           GOLDEN_LAST);
    bmvp_backward(c, bmvp_sum(c, bmvp_mul(c, y, bmvp_input(c, 5, dim, x + 3 * n))));
    gradients_are(bmvp_json_get(out, "grad"), c, bmvp_net_state(net), block_name, 0, NULL);
    gx = golden_read(c, in, 1, GOLDEN_LAST);
    if (CHECK(gx != NULL)) golden_ssl_check("grad_x", bmvp_json_get(out, "grad_x"), gx, n);
    free(gx);
    free(x);
    check_context(c);
    bmvp_net_destroy(net);
}

/* Pairs of tokens whose regions differ, by their places in (windows, tokens, tokens). Windows of unequal sides have an
   index of their own there, which no network here makes: its window is w^3, and cut to the map. */
static void swin_masks(const golden_ssl *g)
{
    static const int64_t whole[2][3] = { { 4, 3, 4 }, { 14, 7, 7 } }, window[2][3] = { { 2, 3, 2 }, { 7, 7, 7 } },
                         shift[2][3] = { { 1, 0, 1 }, { 3, 0, 0 } }, tokens[2] = { 12, 343 }, windows[2] = { 4, 2 };
    const bmvp_json *v = golden_ssl_out(g, "window_pieces", "mask_nonzero");
    static int32_t region[2 * 343];
    int64_t i, n, count = 0;
    int k;
    for (k = 0; k < 2; ++k) {
        n = tokens[k];
        inside_swin_regions(whole[k], window[k], shift[k], region);
        for (v = k == 0 && v ? v->first : NULL, count = i = 0; i < windows[k] * n * n; ++i) {
            if (region[i / n] == region[i / (n * n) * n + i % n]) continue;
            if (k == 0) CHECK(v && bmvp_json_int(v, -1) == i);
            v = v ? v->next : NULL;
            ++count;
        }
        if (k == 0) CHECK(!v && count > 0);
    }
    CHECK(count == bmvp_json_int(golden_ssl_out(g, "window_pieces", "mask2_nonzero_count"), -1));
}

static void test_swin_ssl(void)
{
    golden_ssl g;
    bmvp_ctx *c;
    if (!golden_ssl_open(&g, "swin_ssl.json")) return;
    c = device_context();
    swin_turns(&g);
    swin_masks(&g);
    swin_cuts(&g, "cutout", "image", "drop.normal");
    swin_cuts(&g, "cutout_and_swap", "images", "aug.normal");
    swin_losses(&g, c);
    swin_block(&g, c);
    if (WHOLE_STEPS) swin_step(&g, c);
    bmvp_json_free(g.doc);
    bmvp_destroy(c);
}

/* The head over the network, as the files of golden/nets have networks */
static void test_swin_ssl_file(const char *path)
{
    static const char *const crop64[] = { "crop=64", NULL };
    bmvp_ctx *c = device_context();
    bmvp_trainer *t;
    bmvp_tensor *x, *loss;
    swin_ssl_answers a;
    golden_net g;
    char text[64];
    int i;
    if (WHOLE_STEPS && golden_open(&g, path)) {
        snprintf(text, sizeof text, "feature_size=%d", golden_argument(&g, "feature", 12));
        t = trainer_of(c, "swin_ssl", text, crop64);
        if (CHECK(t != NULL)) {
            golden_state(&g, c, bmvp_net_state(t->net));
            x = golden_input(&g, c);
            a = swin_ssl_run(t->net, (swin_ssl_heads *)t->state, x, 1);
            for (i = 0; i < 5; ++i) {
                snprintf(text, sizeof text, "conv.%d", 4 * i + 3);
                golden_check(&g, "features", text, c, a.step[i], GOLDEN_FIRST);
            }
            loss = golden_loss(&g, c, NULL, "rotation", a.turn, GOLDEN_AS_IT_IS);
            loss = golden_loss(&g, c, loss, "contrast", a.vector, GOLDEN_AS_IT_IS);
            loss = golden_loss(&g, c, loss, "reconstruction", a.rebuilt, GOLDEN_FIRST);
            golden_loss_is(&g, c, loss);
            bmvp_backward(c, loss);
            golden_gradients(&g, c, bmvp_net_state(t->net), x);
        }
        check_context(c);
        bmvp_trainer_destroy(t);
        golden_close(&g);
    }
    bmvp_destroy(c);
}

/* >>dae ------------------------------------------------------------------------------------------------------------ */

/* Draws from arrays: normal numbers one after the other, an order that begins with a list */
typedef struct listed { const float *normal; const bmvp_json *order; } listed;
static void listed_normal(void *user, int64_t n, float *out)
{
    listed *l = (listed *)user;
    memcpy(out, l->normal, (size_t)n * sizeof *out);
    l->normal += n;
}
static void listed_order(void *user, int64_t n, int32_t *out)
{
    const bmvp_json *v = ((const listed *)user)->order;
    int64_t i, k = 0, j;
    for (v = v ? v->first : NULL; v && k < n; v = v->next) out[k++] = (int32_t)bmvp_json_int(v, 0);
    for (i = 0; i < n && k < n; ++i) {
        for (j = 0; j < k && out[j] != i; ++j) {}
        if (j == k) out[k++] = (int32_t)i;
    }
}
static draws draws_of_list(listed *l)
{
    draws r;
    memset(&r, 0, sizeof r);
    r.normal = listed_normal, r.order = listed_order, r.user = l;
    return r;
}

static void dae_noise(const golden_ssl *g)
{
    enum { SIDE = 16, ONE = SIDE * SIDE * SIDE };
    static const int64_t d[3] = { SIDE, SIDE, SIDE };
    static float image[2 * ONE], noise[2 * ONE], out[2 * ONE], low[2 * ONE / 64];
    double config[128];
    golden_draws l;
    listed from;
    uint64_t a = formula_stream("noise.a", g->seed), b = formula_stream("noise.b", g->seed);
    draws r = draws_of_list(&from);
    int64_t i;
    int every, k;
    (void)golden_draws_of(&l, g, NULL, "none", "none");
    CHECK(method_find("dae")->preset("release", config));
    golden_ssl_uniform(g, "image", 1, 0, 2 * ONE, image);
    for (i = 0; i < 2 * ONE; ++i) noise[i] = golden_normal(a, b, i);
    for (every = 1; every <= 4; every += 3) {
        char text[12];
        snprintf(text, sizeof text, "%d", every);
        CHECK(bmvp_field_set(method_find("dae")->method()->fields, config, "every", text, NULL) == BMVP_OK);
        for (from.normal = noise, k = 0; k < 2; ++k)
            dae_disrupt(&r, (const dae_config *)(void *)config, d, image + k * ONE, out + k * ONE);
        golden_ssl_within("disrupted", golden_ssl_out(g, "disrupt", every > 1 ? "resampled" : "noisy"), out, 2 * ONE,
                          1e-6);
    }
    for (i = 0; i < 2 * ONE / 64; ++i) low[i] = out[((i / 16 * 4) * SIDE + i / 4 % 4 * 4) * SIDE + i % 4 * 4];
    golden_ssl_within("few voxels", golden_ssl_out(g, "disrupt", "low"), low, 2 * ONE / 64, 1e-6);
}

static void dae_contrast(const golden_ssl *g, bmvp_ctx *c)
{
    static const char *const name[2] = { "t1_t2_flair_t1", "ct_ct_t2_t2" };
    static const int32_t modality[2][4] = { { 0, 1, 2, 0 }, { 0, 0, 1, 1 } };
    int i, k;
    for (k = 0; k < 2; ++k) {
        const bmvp_json *out = golden_ssl_out(g, "cfm", name[k]);
        bmvp_tensor *rows = rows_of(g, c, "features", 1, -0.5, 4, 12), *logits = dae_logits(c, rows, 0.5), *loss;
        int32_t target[4];
        float x[48];
        dae_targets(4, modality[k], target);
        for (i = 0; i < 4; ++i) CHECK(target[i] == bmvp_json_int(bmvp_json_at(bmvp_json_get(out, "target"), i), -1));
        loss = bmvp_cross_entropy(c, logits, target);
        map_is("logits", bmvp_json_get(out, "logits"), c, logits, GOLDEN_AS_IT_IS);
        number_is("contrast", bmvp_json_get(out, "loss"), c, loss);
        bmvp_backward(c, loss);
        if (CHECK(rows && bmvp_read_grad(c, rows, x) == BMVP_OK))
            golden_ssl_check("grad_features", bmvp_json_get(out, "grad_features"), x, 48);
    }
}

static void dae_turned(const golden_ssl *g, bmvp_ctx *c)
{
    static const int64_t d[5] = { 1, 2, 2, 3, 2 };
    const bmvp_json *v = out_of(g, "reinterpretation");
    const dae_hidden hidden = { NULL, 0, 1 };
    float x[24], ours[24], *y;
    bmvp_net net;
    int i;
    for (i = 0; i < 24; ++i) x[i] = (float)i;
    golden_turn(d, GOLDEN_FIRST, x, ours, 0);
    memset(&net, 0, sizeof net);
    net.m.c = c;
    y = golden_read(c, dae_hide(&net, bmvp_input(c, 5, d, ours), (void *)(uintptr_t)&hidden), 0, GOLDEN_FIRST);
    for (i = 0, v = v ? v->first : NULL; CHECK(y && v) && i < 24; ++i, v = v->next)
        if (!CHECK(y[i] == (float)bmvp_json_int(v, -1)) || !v->next) break;
    CHECK(i == 23);
    free(y);
}

/* encoder.layers1.0.0, mlp.fc1 */
static const char *dae_name(const char *ours, char *buf, size_t size)
{
    static const char vit[] = "swinViT.", linear[] = ".mlp.linear";
    const char *stage = strstr(ours, ".0."), *rest, *mlp;
    if (strncmp(ours, vit, sizeof vit - 1) != 0) return ours;
    rest = ours + sizeof vit - 1;
    if (strncmp(rest, "layers", 6) != 0 || !stage) {
        snprintf(buf, size, "encoder.%s", rest);
        return buf;
    }
    mlp = strstr(ours, linear);
    if (mlp) snprintf(buf, size, "encoder.%.*s.0%.*s.mlp.fc%s", (int)(stage - rest), rest, (int)(mlp - stage), stage,
                      mlp + sizeof linear - 1);
    else snprintf(buf, size, "encoder.%.*s.0%s", (int)(stage - rest), rest, stage);
    return buf;
}

static void dae_step(const golden_ssl *g, bmvp_ctx *c, const char *of, int turned)
{
    static const int64_t dim[5] = { 2, 1, 64, 32, 32 };
    static const char *const crop64[] = { "crop=64", NULL };
    static const int32_t modality[2] = { 0, 1 };
    const bmvp_json *out = out_of(g, of);
    bmvp_trainer *t = trainer_of(c, "dae", "feature_size=12", crop64);
    listed from = { NULL, golden_ssl_in(g, of, "dropped") };
    draws r = draws_of_list(&from);
    dae_hidden hidden = { &r, 0.6, turned };
    bmvp_tensor *l1, *cfm, *total, *rec;
    int32_t target[2];
    bmvp_features f;
    char name[16];
    int64_t row[2];
    int i;
    if (!CHECK(t != NULL)) return;
    fill_state(g, c, bmvp_net_state(t->net), dae_name);
    bmvp_net_on_tokens(t->net, dae_hide, &hidden);
    f = bmvp_net_encode(t->net, volumes_of(g, c, "x", dim, 0), 1);
    bmvp_net_on_tokens(t->net, NULL, NULL);
    for (i = 0; i < 5; ++i) {
        snprintf(name, sizeof name, "hidden %d", i);
        map_is(name, bmvp_json_at(bmvp_json_get(out, "hidden"), i), c, f.map[i], GOLDEN_FIRST);
    }
    rec = bmvp_net_reconstruct(t->net, &f);
    map_is("rec", bmvp_json_get(out, "rec"), c, rec, GOLDEN_FIRST);
    l1 = bmvp_l1(c, rec, volumes_of(g, c, "org", dim, 0));
    row[0] = 2, row[1] = f.last ? f.last->numel / 2 : 1;
    dae_targets(2, modality, target);
    cfm = bmvp_cross_entropy(c, dae_logits(c, bmvp_reshape(c, f.last, 2, row), 0.5), target);
    total = bmvp_add(c, l1, bmvp_scale(c, cfm, 0.03, 0));
    number_is("l1", bmvp_json_get(out, "l1"), c, l1);
    number_is("contrast", bmvp_json_get(out, "cfm"), c, cfm);
    number_is("loss", bmvp_json_get(out, "loss"), c, total);
    bmvp_backward(c, total);
    gradients_are(bmvp_json_get(out, "grad"), c, bmvp_net_state(t->net), dae_name,
                  turned && golden_ssl_has(g, "disrupt"), NULL);
    check_context(c);
    bmvp_trainer_destroy(t);
}

static void test_dae(void)
{
    golden_ssl g;
    bmvp_ctx *c;
    if (!golden_ssl_open(&g, "dae.json")) return;
    c = device_context();
    dae_noise(&g);
    dae_contrast(&g, c);
    dae_turned(&g, c);
    if (WHOLE_STEPS) dae_step(&g, c, "step_release", 1);
    if (WHOLE_STEPS) dae_step(&g, c, "step_fixed", 0);
    bmvp_json_free(g.doc);
    bmvp_destroy(c);
}

/* >>voco ----------------------------------------------------------------------------------------------------------- */

/* A crop of edge 96 in a plane of 384 x 384, which is the third axis deep */
static void plane_label(const bmvp_json *center, float *label)
{
    static const int64_t size[3] = { 96, 96, 1 }, grid[3] = { 4, 4, 1 };
    int64_t start[3] = { 0, 0, 0 };
    int a;
    for (a = 0; a < 2; ++a) start[a] = bmvp_json_int(bmvp_json_at(center, a), 0) - 48;
    bases_labels(start, size, grid, label);
}

static void voco_overlaps(const golden_ssl *g)
{
    static const int64_t size[3] = { 64, 64, 32 }, grid[3] = { 2, 2, 2 };
    const bmvp_json *k, *v;
    int64_t start[3];
    float label[16];
    int i, n = 0;
    for (k = out_of(g, "labels"), k = k ? k->first : NULL; k; k = k->next, ++n) {
        plane_label(bmvp_json_get(k, "center"), label);
        for (v = bmvp_json_get(k, "label"), i = 0, v = v ? v->first : NULL; i < 16; ++i, v = v ? v->next : NULL)
            CHECK_NEAR((double)label[i], bmvp_json_double(v, (double)NAN), 1e-7);
    }
    for (k = out_of(g, "labels_3d"), k = k ? k->first : NULL; k; k = k->next, ++n) {
        for (i = 0; i < 3; ++i) start[i] = bmvp_json_int(bmvp_json_at(bmvp_json_get(k, "offset"), i), 0);
        bases_labels(start, size, grid, label);
        for (v = bmvp_json_get(k, "label"), i = 0, v = v ? v->first : NULL; i < 8; ++i, v = v ? v->next : NULL)
            CHECK_NEAR((double)label[i], bmvp_json_double(v, (double)NAN), 1e-7);
    }
    CHECK(n > 2);
}

/* The file's labels are those of two crops in a plane of 4 x 4 bases, whose centres it says. */
static int voco_terms_labels(const golden_ssl *g, float label[32])
{
    static const int64_t size[3] = { 96, 96, 1 }, grid[3] = { 4, 4, 1 };
    const bmvp_json *of = bmvp_json_get(bmvp_json_get(bmvp_json_root(g->doc), "cases"), "losses");
    const char *const said = strstr(bmvp_json_string(bmvp_json_get(of, "in"), ""), "centres ");
    int64_t start[3] = { 0, 0, 0 };
    int at[4], i;
    if (!CHECK(said && sscanf(said, "centres (%d,%d), (%d,%d)", at, at + 1, at + 2, at + 3) == 4)) return 0;
    for (i = 0; i < 2; ++i) {
        start[0] = at[2 * i] - 48, start[1] = at[2 * i + 1] - 48;
        bases_labels(start, size, grid, label + 16 * i);
    }
    golden_ssl_within("label", golden_ssl_out(g, "losses", "label"), label, 32, 1e-6);
    return 1;
}

/* Overlap and the others' logarithms, as Large-Scale-Medical has them */
static void voco_logarithms(const golden_ssl *g, bmvp_ctx *c, const float *label)
{
    bmvp_tensor *crop[2], *base[2], *loss[3];
    crop[0] = rows_of(g, c, "x_student", 1.5, -0.5, 2, 12), crop[1] = rows_of(g, c, "x_teacher", 1.5, -0.5, 2, 12);
    base[0] = rows_of(g, c, "bases_student", 1.5, -0.5, 16, 12);
    base[1] = rows_of(g, c, "bases_teacher", 1.5, -0.5, 16, 12);
    (void)voco_losses(c, VOCO_LOGS, crop, base, label, loss);
    loss[0] = bmvp_add(c, loss[0], loss[1]);
    bmvp_backward(c, loss[0]);
    number_is("lsm_ce_loss", bmvp_json_get(out_of(g, "losses"), "lsm_ce_loss"), c, loss[0]);
    if (!bmvp_json_get(out_of(g, "losses"), "lsm_ce_grad_x")) return; /* the authors' file has the value alone */
    golden_ssl_tensor(g, "losses", "lsm_ce_grad_x", c, crop[0], 1);
    golden_ssl_tensor(g, "losses", "lsm_ce_grad_bases", c, base[0], 1);
}

static void voco_terms(const golden_ssl *g, bmvp_ctx *c)
{
    static const char *const term[3] = { "pos", "neg", "reg" };
    const bmvp_json *alone = bmvp_json_get(out_of(g, "losses"), "nnssl_loss");
    bmvp_tensor *crop[2], *base[2], *loss[3], *cosine;
    float label[32];
    char name[40];
    int i;
    if (!voco_terms_labels(g, label)) return;
    for (i = 0; i < 4; ++i) {
        crop[0] = rows_of(g, c, "x_student", 1.5, -0.5, 2, 12), crop[1] = rows_of(g, c, "x_teacher", 1.5, -0.5, 2, 12);
        base[0] = rows_of(g, c, "bases_student", 1.5, -0.5, 16, 12);
        base[1] = i < 3 ? rows_of(g, c, "bases_teacher", 1.5, -0.5, 16, 12) : NULL;
        cosine = voco_losses(c, VOCO_SQUARES, crop, base, label, loss);
        if (i == 0) golden_ssl_tensor(g, "losses", "logits", c, cosine, 0);
        if (i == 3) loss[2] = bmvp_add(c, bmvp_add(c, loss[0], loss[1]), loss[2]);
        bmvp_backward(c, loss[i < 3 ? i : 2]);
        if (i == 3) {
            number_is("nnssl_loss", alone, c, loss[2]);
            golden_ssl_tensor(g, "losses", "nnssl_grad_targets", c, crop[0], 1);
            golden_ssl_tensor(g, "losses", "nnssl_grad_bases", c, base[0], 1);
            break;
        }
        golden_ssl_tensor(g, "losses", term[i], c, loss[i], 0);
        snprintf(name, sizeof name, "grad_%s_x", term[i]);
        if (i < 2) golden_ssl_tensor(g, "losses", name, c, crop[0], 1);
        snprintf(name, sizeof name, "grad_%s_bases", term[i]);
        golden_ssl_tensor(g, "losses", name, c, base[0], 1);
    }
    base[1] = NULL; /* the paper's has no file: a fixture of ours */
    (void)voco_losses(c, VOCO_ALIKE, crop, base, label, loss);
    if (bmvp_json_get(out_of(g, "losses"), "alike")) golden_ssl_tensor(g, "losses", "alike", c, loss[0], 0);
    CHECK(loss[1] == NULL);
    voco_logarithms(g, c, label);
}

/* A box of a volume, and that resized, its corners in one place */
static void voco_resize(const golden_ssl *g)
{
    static const int64_t d[3] = { 12, 12, 9 }, size[3] = { 6, 6, 9 }, to[3] = { 4, 4, 6 };
    const bmvp_json *list = golden_ssl_out(g, "crop_resize", "crop_start");
    float x[12 * 12 * 9], y[6 * 6 * 9];
    int64_t at[3];
    int i;
    for (i = 0; i < 3; ++i) at[i] = bmvp_json_int(bmvp_json_at(list, i), 0);
    golden_ssl_uniform(g, "vol", 1, 0, 12 * 12 * 9, x);
    view_cut(d, x, at, size, size, y);
    golden_ssl_within("crop", golden_ssl_out(g, "crop_resize", "crop"), y, 6 * 6 * 9, 1e-6);
    view_cut(d, x, at, size, to, y);
    golden_ssl_within("resized", golden_ssl_out(g, "crop_resize", "resized"), y, 4 * 4 * 6, 1e-6);
}

typedef struct voco_toy { /* a linear layer and the head, of the student or the teacher */
    bmvp_state_list list;
    bmvp_module m;
    bmvp_layer feature, head[3];
} voco_toy;

static void voco_toy_make(voco_toy *t, const golden_ssl *g, bmvp_ctx *c, const char *name)
{
    memset(t, 0, sizeof *t);
    bmvp_module_begin(&t->m, c, &t->list);
    bmvp_enter(&t->m, "%s", name);
    t->feature = bmvp_make_linear(&t->m, "feat", 12, 10, 1);
    voco_make_head(&t->m, t->head, 10, 14, 9);
    fill_state(g, c, &t->list, same_name);
}
static bmvp_tensor *voco_toy_run(voco_toy *t, bmvp_tensor *x)
{
    return voco_project(&t->m, t->head, bmvp_run(&t->m, &t->feature, x));
}
static const char *teacher_name(const char *ours, char *buf, size_t size)
{
    (void)buf;
    (void)size;
    return ours + strlen("teacher.");
}

/* Steps of SGD at 0.1; the teacher moves before it is asked. */
static void voco_steps(const golden_ssl *g, bmvp_ctx *c)
{
    static const char *const term[3] = { "pos", "neg", "reg" };
    const bmvp_json *step = bmvp_json_get(out_of(g, "step"), "steps"), *v;
    const bmvp_json *centers = golden_ssl_in(g, "step", "centres");
    bmvp_optim_config k = bmvp_optim_config_default(BMVP_SGD);
    bmvp_tensor *x[2], *vector[2], *crop[2], *base[2], *loss[3], *sum[3];
    voco_toy student, teacher;
    bmvp_optim *optim;
    float label[32];
    int i, j, was;
    voco_toy_make(&student, g, c, "student");
    voco_toy_make(&teacher, g, c, "teacher");
    k.momentum = k.weight_decay = 0;
    optim = bmvp_optim_create(c, &student.list, &k);
    for (step = step ? step->first : NULL; step && CHECK(optim != NULL); step = step->next) {
        bmvp_step_begin(c);
        x[0] = rows_of(g, c, "img", 1, 0, 4, 12), x[1] = rows_of(g, c, "crops", 1, 0, 32, 12);
        vector[0] = voco_toy_run(&student, bmvp_concat(c, 2, x, 0));
        bmvp_state_average(c, &teacher.list, &student.list, 0.9);
        was = bmvp_set_grad(c, 0);
        vector[1] = voco_toy_run(&teacher, bmvp_concat(c, 2, x, 0));
        (void)bmvp_set_grad(c, was);
        for (i = 0; i < 2; ++i) {
            for (j = 0; j < 2; ++j) {
                crop[j] = bmvp_slice(c, vector[j], 0, 2 * i, 2), base[j] = bmvp_slice(c, vector[j], 0, 4 + 16 * i, 16);
                plane_label(bmvp_json_at(centers, 2 * i + j), label + 16 * j);
            }
            (void)voco_losses(c, VOCO_SQUARES, crop, base, label, loss);
            for (j = 0; j < 3; ++j) sum[j] = i ? bmvp_scale(c, bmvp_add(c, sum[j], loss[j]), 0.5, 0) : loss[j];
        }
        for (j = 0; j < 3; ++j) number_is(term[j], bmvp_json_get(step, term[j]), c, sum[j]);
        bmvp_backward(c, bmvp_add(c, bmvp_add(c, sum[0], sum[1]), sum[2]));
        v = bmvp_json_get(step, "grad");
        if (bmvp_json_count(v)) gradients_are(v, c, &student.list, same_name, 1, NULL);
        v = bmvp_json_get(step, "teacher");
        for (i = 0; i < teacher.list.n && bmvp_json_count(v); ++i) {
            const bmvp_state *s = &teacher.list.item[i];
            float ours[300], torch[300];
            if (!CHECK(s->t->numel <= 300 && bmvp_read(c, s->t, ours) == BMVP_OK)) continue;
            bmvp_state_to_torch(s, ours, torch);
            golden_ssl_check(s->name, bmvp_json_get(v, teacher_name(s->name, NULL, 0)), torch, s->t->numel);
        }
        bmvp_optim_step(optim, 0.1, 1);
        bmvp_optim_zero_grad(optim);
    }
    bmvp_optim_destroy(optim);
    bmvp_state_list_free(c, &student.list);
    bmvp_state_list_free(c, &teacher.list);
}

/* The averages of the maps */
static void voco_encoder(const golden_ssl *g, bmvp_ctx *c)
{
    static const int64_t dim[5] = { 1, 1, 64, 64, 64 };
    static const char *const small[] = { "hidden=8", "vector=8", NULL };
    const bmvp_json *out = out_of(g, "encoder");
    bmvp_trainer *t = trainer_of(c, "voco", "feature_size=12", small);
    bmvp_tensor *y, *cot;
    if (!CHECK(t != NULL)) return;
    bmvp_step_begin(c);
    fill_state(g, c, bmvp_net_state(t->net), same_name);
    y = voco_features(t->net, volumes_of(g, c, "crop64", dim, 0), 1);
    cot = rows_of(g, c, "cot", 2, -1, 1, 288);
    map_is("pooled", bmvp_json_get(out, "pooled"), c, y, GOLDEN_AS_IT_IS);
    bmvp_backward(c, bmvp_sum(c, bmvp_mul(c, y, cot)));
    gradients_are(bmvp_json_get(out, "grad"), c, bmvp_net_state(t->net), same_name, 1, NULL);
    bmvp_trainer_destroy(t);
}

static void test_voco(const golden_ssl *g)
{
    bmvp_ctx *c = device_context();
    voco_overlaps(g);
    voco_terms(g, c);
    voco_resize(g);
    voco_steps(g, c);
    if (WHOLE_STEPS && golden_ssl_has(g, "encoder")) voco_encoder(g, c);
    check_context(c);
    bmvp_destroy(c);
}

/* The fixture, then the authors' file */
static void test_voco_files(void)
{
    golden_ssl g;
    if (check_start("voco.json of the fixtures") && golden_ssl_open_at(&g, TEST_FIXTURES "/methods/voco.json")) {
        test_voco(&g);
        bmvp_json_free(g.doc);
        check_finish();
    }
    if (check_start("voco.json") && golden_ssl_open(&g, "voco.json")) {
        test_voco(&g);
        bmvp_json_free(g.doc);
        check_finish();
    }
}

/* The small files: a step of each, from MONAI's network */
static void test_fixture_steps(void)
{
    static const char *const file[2] = { "swin_ssl", "dae" };
    bmvp_ctx *c = device_context();
    char path[512];
    golden_ssl g;
    int i;
    for (i = 0; i < 2 && WHOLE_STEPS; ++i) {
        snprintf(path, sizeof path, "%s/methods/%s.json", TEST_FIXTURES, file[i]);
        if (!golden_ssl_open_at(&g, path)) continue;
        if (i == 0) swin_step(&g, c);
        else {
            dae_step(&g, c, "step_release", 1);
            dae_step(&g, c, "step_fixed", 0);
        }
        bmvp_json_free(g.doc);
    }
    bmvp_destroy(c);
}

/* >>main ----------------------------------------------------------------------------------------------------------- */

static void method_file(const char *name, void (*fn)(void))
{
    if (!check_start("%s", name)) return;
    fn();
    check_finish();
}

int main(int argc, char **argv)
{
    check_begin(argc, argv);
    CHECK_RUN(test_fixture_steps);
    method_file("swin_ssl", test_swin_ssl);
    golden_each("swin_ssl_", test_swin_ssl_file);
    method_file("dae", test_dae);
    test_voco_files();
    return check_end();
}
