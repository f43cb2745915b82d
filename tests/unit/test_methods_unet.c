/* test_methods_unet.c - the pre-training methods on U-Nets of examples/methods (Models Genesis, M3AE, GVSL, TransVW)
   against their authors' own code (BMVP_DATA/golden/ssl; skipped where the files are absent) and against twins in
   PyTorch (tests/fixtures/methods): corruptions with given draws, losses, gradients, a step. Seed, shapes and draws are
   the file's; axes a, b, c of the files are D, H, W here. */
#include "tests/support/inside.h"
#include "tests/support/nets.h"
#include "tests/support/golden_ssl.h"
#include "tests/support/golden_draws.h"
#include "tests/support/kinks.h"
#include "examples/methods/coder.h"

/* >>tools --------------------------------------------------------------------------------------------------------- */

static const bmvp_json *case_of(const golden_ssl *g, const char *of)
{
    return bmvp_json_get(bmvp_json_get(bmvp_json_root(g->doc), "cases"), of);
}

/* n numbers of a list; what is missing is 0 */
static void numbers(const bmvp_json *list, int64_t *out, int n)
{
    int i;
    for (i = 0; i < n; ++i) out[i] = bmvp_json_int(bmvp_json_at(list, i), 0);
}

static float *uniform(const golden_ssl *g, const char *name, double times, double offset, int64_t n)
{
    float *x = (float *)malloc((size_t)n * sizeof *x);
    if (CHECK(x != NULL)) golden_ssl_uniform(g, name, times, offset, n, x);
    return x;
}

/* t (N, ..., C), values or gradient, against an entry (N, C, ...). */
static void compare(const char *what, const bmvp_json *v, bmvp_ctx *c, const bmvp_tensor *t, int gradient)
{
    const int64_t n = t ? t->numel : 0, channels = t ? t->dim[t->rank - 1] : 1, each = t ? n / t->dim[0] : 1;
    float *x = (float *)malloc(2 * (size_t)n * sizeof *x + 1), *y = x + n;
    int64_t i;
    if (CHECK(x && t) && CHECK((gradient ? bmvp_read_grad(c, t, x) : bmvp_read(c, t, x)) == BMVP_OK)) {
        for (i = 0; i < n; ++i) {
            const int64_t in = i % each, to = in % channels * (each / channels) + in / channels;
            y[i / each * each + to] = x[i];
        }
        golden_ssl_check(what, v, y, n);
    }
    free(x);
}

static void number(const char *what, const bmvp_json *v, double x)
{
    const float f = (float)x;
    if (check_report(v != NULL, __FILE__, __LINE__, "no %s in the file", what)) golden_ssl_check(what, v, &f, 1);
}

/* The same entry for files whose first axis is ours: kernels there are (a, b, c), not (x, y, z). */
static bmvp_state turned(const bmvp_state *s)
{
    bmvp_state k = *s;
    if (k.torch_rank == 5) k.stride[2] = s->stride[4], k.stride[4] = s->stride[2];
    return k;
}

/* Parameters by the formula of the name that the authors have: prefix + name, for those before `heads` (NULL: all). */
static void fill(bmvp_ctx *c, bmvp_state_list *l, uint64_t seed, const char *prefix, const char *heads)
{
    const int own = heads ? find_state(l, heads) : l->n;
    int i;
    for (i = 0; i < l->n && !bmvp_failed(c); ++i) {
        bmvp_state s = turned(&l->item[i]);
        const size_t bytes = (size_t)s.t->numel * sizeof(float);
        float *x = (float *)malloc(2 * bytes + 1);
        char name[BMVP_NAME_MAX + 8];
        if (s.torch_rank > 0 && !s.stacked && CHECK(x != NULL)) {
            snprintf(name, sizeof name, "%s%s", i < own ? prefix : "", s.name);
            s.name = name;
            formula_values(&s, seed, x);
            bmvp_state_from_torch(&s, x, x + s.t->numel);
            bmvp_write(c, s.t, x + s.t->numel);
        }
        free(x);
    }
    check_context(c);
}

static bmvp_state *entry(bmvp_state_list *l, const char *name, const char *prefix)
{
    int i = find_state(l, name);
    if (i < 0 && strncmp(name, prefix, strlen(prefix)) == 0) i = find_state(l, name + strlen(prefix));
    return i < 0 ? NULL : &l->item[i];
}

/* Values or gradients of parameters, by the authors' names; k NULL or kinks before which gradients lie. Returns how
   many were compared. */
static int parameters(const bmvp_json *all, bmvp_ctx *c, bmvp_state_list *l, const char *prefix, int gradient,
                      const kinks *k)
{
    const bmvp_json *v;
    int n = 0;
    for (v = all ? all->first : NULL; v; v = v->next) {
        bmvp_state *e = entry(l, v->key, prefix), s;
        const int64_t size = e ? e->t->numel : 0;
        float *x = e ? (float *)malloc(3 * (size_t)size * sizeof *x) : NULL, *room = NULL;
        if (strcmp(v->key, "limage") == 0) continue;
        if (check_report(x != NULL, __FILE__, __LINE__, "no parameter %s", v->key) &&
            CHECK((gradient ? bmvp_read_grad(c, e->t, x) : bmvp_read(c, e->t, x)) == BMVP_OK)) {
            s = turned(e);
            bmvp_state_to_torch(&s, x, x + size);
            if (k && k->other && CHECK(k->other[e - l->item] != NULL)) {
                bmvp_state_to_torch(&s, k->other[e - l->item], room = x + 2 * size);
                kinks_room(x + size, room, size);
            }
            golden_ssl_room(v->key, v, x + size, size, 2e-5, room);
            ++n;
        }
        free(x);
    }
    return n;
}

static bmvp_ctx *context(void)
{
    const bmvp_config k = config_of(best_level(), 1);
    return bmvp_create(&k, NULL);
}

static bmvp_trainer *trainer(bmvp_ctx *c, const char *method, const char *network, int width, const char *set,
                             const method_setup *u)
{
    const method_row *row = method_find(method);
    double config[64] = { 0 };
    bmvp_net_config net = preset(network);
    bmvp_error err;
    char name[64], value[64];
    int used;
    CHECK(row && row->method()->config_size <= sizeof config && row->preset("release", config));
    if (width > 0) net.width = width;
    for (; row && sscanf(set, " %63[^=]=%63s%n", name, value, &used) == 2; set += used)
        check_report(bmvp_field_set(row->method()->fields, config, name, value, &err) == BMVP_OK, __FILE__, __LINE__,
                     "%s", err.message);
    return row ? bmvp_trainer_create(c, row->method(), &net, config, u, 1) : NULL;
}

/* The fixture, then the authors' file. */
static void each(const char *file, void (*fn)(const golden_ssl *g))
{
    char path[512];
    golden_ssl g;
    if (check_start("%s of the fixtures", file)) {
        snprintf(path, sizeof path, "%s/methods/%s", TEST_FIXTURES, file);
        if (golden_ssl_open_at(&g, path)) fn(&g), bmvp_json_free(g.doc);
        check_finish();
    }
    if (check_start("%s", file) && golden_ssl_open(&g, file)) {
        fn(&g);
        bmvp_json_free(g.doc);
        check_finish();
    }
}

/* >>genesis ------------------------------------------------------------------------------------------------------- */

/* Curves in double within 1e-8, at the two extreme sets of control points 5e-6. */
static void genesis_curves(const golden_ssl *g)
{
    const bmvp_json *x = golden_ssl_in(g, "bezier", "x"), *k, *y, *v;
    int64_t n = bmvp_json_count(x), i;
    double p[4], *at = (double *)malloc(2 * (size_t)n * sizeof *at + 1);
    k = bmvp_json_get(case_of(g, "bezier"), "out");
    for (i = 0, v = x ? x->first : NULL; at && v; v = v->next) at[i++] = bmvp_json_double(v, 0);
    CHECK(n > 1 && k && k->first);
    for (k = k ? k->first : NULL; at && k; k = k->next) {
        double most = 1e-8;
        for (i = 0; i < 4; ++i)
            p[i] = bmvp_json_double(bmvp_json_at(bmvp_json_get(k, "x1y1x2y2"), (int)i), (double)NAN);
        if ((p[0] == 1 && p[2] == 0) || (p[0] == 0 && p[2] == 1)) most = 5e-6;
        CHECK(genesis_curve(p, (int)bmvp_json_int(bmvp_json_get(k, "reversed"), -1), n, at, at + n));
        y = bmvp_json_get(k, "y");
        for (i = 0; i < n; ++i)
            golden_ssl_near("a curve", "a value", at[n + i], bmvp_json_double(bmvp_json_at(y, (int)i), (double)NAN),
                            most);
    }
    free(at);
}

/* The loss alone, then through the network, with batch statistics. */
static void genesis_step(const golden_ssl *g)
{
    const bmvp_json *in = bmvp_json_get(case_of(g, "network"), "in"),
                    *out = bmvp_json_get(case_of(g, "network"), "out");
    const int64_t width = bmvp_json_int(bmvp_json_get(in, "width"), 32), dim[5] = { 2, 16, 16, 16, 1 }, n = 2 * 4096;
    bmvp_net_config k = preset("unet3d_mg");
    bmvp_ctx *c = context();
    float *x = uniform(g, "x", 1, 0, n), *y = uniform(g, "y", 1, 0, n);
    bmvp_features f;
    bmvp_tensor *z, *loss;
    bmvp_net *net;
    k.width = (int)width;
    net = bmvp_net_create(c, &k);
    if (net && x && y) {
        fill(c, bmvp_net_state(net), g->seed, "", NULL);
        f = bmvp_net_encode(net, bmvp_input(c, 5, dim, x), 1);
        z = bmvp_sigmoid(c, bmvp_net_reconstruct(net, &f));
        loss = bmvp_mse(c, z, bmvp_input(c, 5, dim, y));
        number("loss", bmvp_json_get(out, "loss"), (double)bmvp_scalar(c, loss));
        compare("prediction", bmvp_json_get(out, "prediction"), c, z, 0);
        bmvp_backward(c, loss);
        CHECK(parameters(bmvp_json_get(out, "grad"), c, bmvp_net_state(net), "", 1, NULL) > 3);
        (void)parameters(bmvp_json_get(out, "statistics"), c, bmvp_net_state(net), "", 0, NULL);
    }
    check_context(c);
    bmvp_net_destroy(net);
    bmvp_destroy(c);
    free(x), free(y);
}

static void genesis_loss(const golden_ssl *g)
{
    const int64_t dim[5] = { 2, 3, 4, 5, 1 };
    bmvp_ctx *c = context();
    float *x = uniform(g, "logits", 6, -3, 120), *y = uniform(g, "target", 1, 0, 120);
    bmvp_tensor *z = bmvp_leaf(c, 5, dim, x);
    bmvp_tensor *loss = bmvp_mse(c, bmvp_sigmoid(c, bmvp_keep(z)), bmvp_input(c, 5, dim, y));
    number("loss", golden_ssl_out(g, "loss", "loss"), (double)bmvp_scalar(c, loss));
    bmvp_backward(c, loss);
    compare("grad_logits", golden_ssl_out(g, "loss", "grad_logits"), c, z, 1);
    bmvp_destroy(c);
    free(x), free(y);
}

static void test_genesis(const golden_ssl *g)
{
    genesis_curves(g);
    if (golden_ssl_has(g, "loss")) genesis_loss(g);
    genesis_step(g);
}

/* >>m3ae ---------------------------------------------------------------------------------------------------------- */

static m3ae_config *m3ae_settings(double *room)
{
    CHECK(method_find("m3ae")->preset("release", room));
    return (m3ae_config *)(void *)room;
}

/* Draws listed in two parts: how many and which modalities, then which of the tokens left */
typedef struct two_lists { const bmvp_json *at, *then; int wrong; } two_lists;
static int64_t next_of(void *user, int64_t low, int64_t high)
{
    two_lists *l = (two_lists *)user;
    int64_t v;
    if (!l->at) l->at = l->then, l->then = NULL;
    v = bmvp_json_int(l->at, -1);
    if (l->at) l->at = l->at->next;
    l->wrong += v < low || v > high;
    return v < low || v > high ? low : v;
}

static void kept_are(const bmvp_json *list, const float *kept, int n)
{
    const bmvp_json *v;
    int i, sum = 0;
    for (i = 0; i < n; ++i) sum += kept[i] > 0;
    CHECK(sum == bmvp_json_count(list));
    for (v = list ? list->first : NULL; v; v = v->next) CHECK(kept[bmvp_json_int(v, 0)] > 0);
}

static void m3ae_tokens(const golden_ssl *g)
{
    const bmvp_json *v = bmvp_json_get(case_of(g, "tokens_96"), "out"),
                    *in = bmvp_json_get(case_of(g, "mask_32"), "in");
    double room[64];
    const m3ae_config *k = m3ae_settings(room);
    static float kept[864], hidden[32 * 32 * 32];
    static int32_t left[864];
    golden_draws l;
    two_lists two;
    int64_t i, ones = 0, m;
    draws r = golden_draws_of(&l, g, NULL, "none", "none");
    r.whole = next_of, r.user = &two;
    for (v = v ? v->first : NULL; v; v = v->next) {
        two.at = bmvp_json_get(v, "draws_before_choice")->first, two.then = bmvp_json_get(v, "choices")->first;
        two.wrong = 0;
        m3ae_keep(&r, k, 4, 15u, 216, left, kept);
        CHECK(!two.wrong && !two.at && !two.then);
        kept_are(bmvp_json_get(v, "kept"), kept, 864);
    }
    r = golden_draws_of(&l, g, bmvp_json_get(in, "draws"), "none", "none");
    m3ae_keep(&r, k, 4, 15u, 8, left, kept);
    CHECK(!l.wrong && !l.value);
    kept_are(golden_ssl_out(g, "mask_32", "kept_tokens"), kept, 32);
    for (m = 0; m < 4; ++m) {
        m3ae_hide(kept + 8 * m, 32, 16, hidden);
        for (i = 0; i < 32 * 32 * 32; ++i) ones += !(hidden[i] > 0);
    }
    CHECK(ones == bmvp_json_int(golden_ssl_out(g, "mask_32", "ones"), 0));
}

static void m3ae_losses(const golden_ssl *g)
{
    const int64_t d[3] = { 3, 2, 2 }, grid[3] = { 5, 4, 3 }, place[3] = { 1, 2, 0 }, dim[5] = { 1, 3, 2, 2, 4 };
    float *x = uniform(g, "x", 1, 0, 48), *big = uniform(g, "limage", 2, -1, 240), *mask = uniform(g, "mask", 1, 0, 48),
          *seg = uniform(g, "seg", 1, 0, 48), *cot = uniform(g, "cot", 2, -1, 48), all[240], last[3 * 48];
    bmvp_ctx *c = context();
    bmvp_tensor *limage[4], *y, *s, *mse, *reg, *loss;
    int i;
    for (i = 0; i < 4; ++i) limage[i] = bmvp_keep(bmvp_leaf(c, 3, grid, big + 60 * i));
    for (i = 0; i < 48; ++i) {
        const int to = i % 12 * 4 + i / 12;
        mask[i] = mask[i] < 0.5f ? 0 : 1;
        last[to] = x[i], last[48 + to] = seg[i], last[96 + to] = cot[i];
    }
    y = m3ae_fill(c, d, 4, x, mask, limage, place);
    s = bmvp_keep(bmvp_leaf(c, 5, dim, last + 48));
    mse = bmvp_mse(c, s, bmvp_input(c, 5, dim, last));
    reg = m3ae_norm(c, 4, limage);
    loss = bmvp_sum(c, bmvp_mul(c, y, bmvp_input(c, 5, dim, last + 96)));
    compare("filled", golden_ssl_out(g, "fill_and_losses", "filled"), c, y, 0);
    number("mse", golden_ssl_out(g, "fill_and_losses", "mse"), (double)bmvp_scalar(c, mse));
    number("reg", golden_ssl_out(g, "fill_and_losses", "reg"), (double)bmvp_scalar(c, reg));
    loss = bmvp_add(c, bmvp_add(c, mse, bmvp_scale(c, reg, 0.005, 0)), bmvp_scale(c, loss, 0.01, 0));
    number("loss", golden_ssl_out(g, "fill_and_losses", "loss"), (double)bmvp_scalar(c, loss));
    bmvp_backward(c, loss);
    compare("grad_seg", golden_ssl_out(g, "fill_and_losses", "grad_seg"), c, s, 1);
    for (i = 0; i < 4; ++i) CHECK(bmvp_read_grad(c, limage[i], all + 60 * i) == BMVP_OK);
    golden_ssl_check("grad_limage", golden_ssl_out(g, "fill_and_losses", "grad_limage"), all, 240);
    bmvp_destroy(c);
    free(x), free(big), free(mask), free(seg), free(cot);
}

/* All volumes of the learned image, values or gradients, as the file's one tensor */
static void limage(const bmvp_json *v, const bmvp_trainer *t, int gradient, const kinks *k)
{
    const method_templates *s = (const method_templates *)t->state;
    const int64_t n = s->volume[0]->numel;
    float *x = (float *)malloc(2 * (size_t)(n * s->n) * sizeof *x), *room = x + n * s->n;
    const int first = find_state(bmvp_net_state(t->net), "rep_template.flair");
    int m;
    for (m = 0; x && m < s->n; ++m) {
        CHECK((gradient ? bmvp_read_grad : bmvp_read)(t->c, s->volume[m], x + m * n) == BMVP_OK);
        if (k && CHECK(first >= 0 && k->other[first + m]))
            memcpy(room + m * n, k->other[first + m], (size_t)n * sizeof *x);
    }
    if (k && x) kinks_room(x, room, n * s->n);
    if (CHECK(x != NULL) && v) golden_ssl_room("limage", v, x, n * s->n, 2e-5, k ? room : NULL);
    free(x);
}

/* A step of two items with the draws of the list against what the file says of it; where it has gradients, after the
   same with kinks turned. */
static void m3ae_step(const golden_ssl *g, bmvp_trainer *t, method_item *item, const bmvp_json *list,
                      const bmvp_json *now)
{
    const bmvp_json *grad = bmvp_json_get(now, "grad"), *after = bmvp_json_get(now, "after");
    bmvp_state_list *l = bmvp_net_state(t->net);
    bmvp_losses loss;
    kinks k;
    int pass;
    memset(&k, 0, sizeof k);
    for (pass = grad ? 0 : 1; pass < 2; ++pass) {
        golden_draws d;
        const draws r = golden_draws_of(&d, g, list, "none", "none");
        item[0].given = item[1].given = &r;
        if (pass == 0) kinks_begin(&k, t->c, 2e-6);
        CHECK(bmvp_trainer_accumulate(t, item, 2, &loss) == BMVP_OK && !d.wrong && !d.value);
        if (pass == 0) kinks_end(&k, l);
    }
    number("mse", bmvp_json_get(now, "mse"), loss.part[0]);
    number("reg", bmvp_json_get(now, "reg"), loss.part[1]);
    number("loss", bmvp_json_get(now, "loss"), loss.total);
    if (grad) {
        CHECK(parameters(grad, t->c, l, "unet.", 1, &k) > 2);
        limage(bmvp_json_get(grad, "limage"), t, 1, &k);
    }
    CHECK(bmvp_trainer_update(t, 3e-4, NULL) == BMVP_OK);
    (void)parameters(after, t->c, l, "unet.", 0, NULL);
    limage(bmvp_json_get(after, "limage"), t, 0, NULL);
    kinks_free(&k, l);
}

/* What the network makes of both items: its last map, and all modalities as it restores them */
static void m3ae_answers(const golden_ssl *g, bmvp_trainer *t, const method_item *item, const bmvp_json *list,
                         const bmvp_json *now)
{
    const method_templates *s = (const method_templates *)t->state;
    const int64_t e = ((const method_config *)t->config)->crop, d[3] = { e, e, e }, n = e * e * e,
                  patch = bmvp_json_int(bmvp_json_get(bmvp_json_get(case_of(g, "step"), "in"), "patch"), 16),
                  each = n / (patch * patch * patch);
    const int on = bmvp_set_grad(t->c, 0);
    float *kept = (float *)malloc((size_t)(s->n * (2 * each + n)) * sizeof *kept), *hidden = kept + 2 * s->n * each;
    bmvp_tensor *x[2] = { NULL, NULL };
    golden_draws l;
    const draws r = golden_draws_of(&l, g, list, "none", "none");
    bmvp_features f;
    int i, m;
    for (i = 0; kept && i < 2; ++i) {
        m3ae_keep(&r, (const m3ae_config *)t->config, s->n, item[i].present, each,
                  (int32_t *)(void *)(kept + s->n * each), kept);
        for (m = 0; m < s->n; ++m) m3ae_hide(kept + m * each, e, patch, hidden + m * n);
        x[i] = m3ae_fill(t->c, d, s->n, item[i].other, hidden, s->volume, item[i].place);
    }
    x[0] = bmvp_concat(t->c, 2, x, 0);
    f = bmvp_net_encode(t->net, x[0], 1);
    compare("content", bmvp_json_get(now, "content"), t->c, f.last, 0);
    compare("seg", bmvp_json_get(now, "seg"), t->c, bmvp_net_segment(t->net, x[0], &f, 0).full, 0);
    (void)bmvp_set_grad(t->c, on);
    free(kept);
}

static void m3ae_steps(const golden_ssl *g)
{
    static const char *const names[8] = { "flair", "t1", "t1c", "t2", "mra", "pd", "dwi", "adc" };
    const bmvp_json *in = bmvp_json_get(case_of(g, "step"), "in"),
                    *list = bmvp_json_get(in, "draws_of_both_samples_per_step"),
                    *now = bmvp_json_get(bmvp_json_get(case_of(g, "step"), "out"), "steps");
    const int n = (int)bmvp_json_int(bmvp_json_get(in, "modalities"), 4);
    const int64_t e = bmvp_json_int(bmvp_json_get(in, "crop"), 32), each = n * e * e * e;
    int64_t grid[3] = { 40, 44, 48 };
    method_item item[2];
    method_setup u;
    bmvp_trainer *t;
    bmvp_ctx *c = context();
    char set[200];
    float *x = uniform(g, "image", 1, 0, 2 * each), *big;
    int i, m;
    memset(&u, 0, sizeof u), memset(item, 0, sizeof item);
    if (bmvp_json_get(in, "grid")) numbers(bmvp_json_get(in, "grid"), grid, 3);
    u.n_modalities = n, u.names = names, u.cases = 2;
    memcpy(u.grid, grid, sizeof grid);
    snprintf(set, sizeof set, "crop=%d patch=%d batch=2", (int)e, (int)bmvp_json_int(bmvp_json_get(in, "patch"), 16));
    t = trainer(c, "m3ae", "unet3d_m3ae", (int)bmvp_json_int(bmvp_json_get(in, "width"), 16), set, &u);
    check_context(c);
    if (t && x) {
        const method_templates *s = (const method_templates *)t->state;
        big = uniform(g, "limage", 2, -1, n * grid[0] * grid[1] * grid[2]);
        fill(c, bmvp_net_state(t->net), g->seed, "unet.", NULL);
        for (m = 0; big && m < n; ++m) bmvp_write(c, s->volume[m], big + m * s->volume[0]->numel);
        free(big);
        for (now = now ? now->first : NULL, list = list ? list->first : NULL; now; now = now->next) {
            for (i = 0; i < 2; ++i) {
                item[i].x = item[i].other = x + i * each, item[i].present = (1u << n) - 1;
                numbers(bmvp_json_at(bmvp_json_get(in, "crop_starts_per_sample"), i), item[i].place, 3);
            }
            if (bmvp_json_get(now, "seg")) m3ae_answers(g, t, item, list, now);
            m3ae_step(g, t, item, list, now);
            list = list ? list->next : NULL;
        }
    }
    check_context(c);
    bmvp_trainer_destroy(t);
    bmvp_destroy(c);
    free(x);
}

static void test_m3ae(const golden_ssl *g)
{
    if (golden_ssl_has(g, "tokens_96")) m3ae_tokens(g), m3ae_losses(g);
    m3ae_steps(g);
}

/* >>gvsl ---------------------------------------------------------------------------------------------------------- */

/* A leaf (1, D, H, W, C) of uniform numbers that the file has as (1, C, D, H, W) */
static bmvp_tensor *leaf(const golden_ssl *g, bmvp_ctx *c, const char *name, double times, double offset,
                         const int64_t d[3], int channels)
{
    const int64_t dim[5] = { 1, d[0], d[1], d[2], channels }, n = d[0] * d[1] * d[2];
    float *x = uniform(g, name, times, offset, n * channels), *y = (float *)malloc((size_t)(n * channels) * sizeof *y);
    bmvp_tensor *t = NULL;
    int64_t i;
    for (i = 0; x && y && i < n * channels; ++i) y[i % n * channels + i / n] = x[i];
    if (CHECK(x && y)) t = bmvp_keep(bmvp_leaf(c, 5, dim, y));
    free(x), free(y);
    return t;
}

/* The sum of t times uniform numbers from -1 to 1 */
static bmvp_tensor *weighed(const golden_ssl *g, bmvp_ctx *c, const char *name, bmvp_tensor *t)
{
    return t ? bmvp_sum(c, bmvp_mul(c, t, leaf(g, c, name, 2, -1, t->dim + 1, (int)t->dim[4]))) : NULL;
}

static const bmvp_json *out_of(const golden_ssl *g, const char *of, const char *name)
{
    return golden_ssl_out(g, of, name);
}

static void gvsl_losses(const golden_ssl *g)
{
    const int64_t d[3] = { 13, 11, 10 }, e[3] = { 5, 6, 7 }, f[3] = { 3, 4, 5 };
    bmvp_ctx *c = context();
    bmvp_tensor *a = leaf(g, c, "I", 1, 0, d, 1), *b = leaf(g, c, "J", 1, 0, d, 1);
    bmvp_tensor *flow = leaf(g, c, "flow", 4, -2, e, 3), *product[3];
    bmvp_tensor *ncc = motion_correlation(c, a, b), *smooth = motion_smoothness(c, flow);
    number("ncc", out_of(g, "losses", "ncc"), (double)bmvp_scalar(c, ncc));
    number("smooth", out_of(g, "losses", "smooth"), (double)bmvp_scalar(c, smooth));
    motion_products(c, a, b, product);
    compare("I_var", out_of(g, "losses", "I_var"), c, product[0], 0);
    compare("cross", out_of(g, "losses", "cross"), c, product[1], 0);
    bmvp_backward(c, ncc);
    compare("grad_I", out_of(g, "losses", "grad_I"), c, a, 1);
    compare("grad_J", out_of(g, "losses", "grad_J"), c, b, 1);
    bmvp_backward(c, smooth);
    compare("grad_flow", out_of(g, "losses", "grad_flow"), c, flow, 1);
    flow = leaf(g, c, "a", 1, 0, f, 1);
    ncc = bmvp_mse(c, flow, leaf(g, c, "b", 1, 0, f, 1));
    number("mse", out_of(g, "losses", "mse"), (double)bmvp_scalar(c, ncc));
    bmvp_backward(c, ncc);
    compare("grad_a", out_of(g, "losses", "grad_a"), c, flow, 1);
    a = bmvp_scale(c, a, 0, 0); /* correlates with nothing */
    number("ncc of a constant", out_of(g, "losses", "ncc_of_constant"),
           (double)bmvp_scalar(c, motion_correlation(c, a, b)));
    check_context(c);
    bmvp_destroy(c);
}

static void gvsl_warps(const golden_ssl *g)
{
    static const float one[12] = { 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0 };
    const int64_t d[3] = { 6, 5, 7 }, rows[2] = { 3, 4 };
    bmvp_ctx *c = context();
    bmvp_tensor *x = leaf(g, c, "src", 1, 0, d, 2), *flow = leaf(g, c, "warp_flow", 5, -2.5, d, 3), *y;
    const bmvp_json *mat = bmvp_json_get(out_of(g, "warp", "mat"), "value");
    bmvp_tensor *m;
    float v[12];
    int i;
    for (i = 0; i < 12; ++i) v[i] = (float)bmvp_json_double(bmvp_json_at(mat, i), (double)NAN);
    y = motion_warp(c, x, flow);
    compare("warped", out_of(g, "warp", "warped"), c, y, 0);
    bmvp_backward(c, weighed(g, c, "cot", y));
    compare("grad_src", out_of(g, "warp", "grad_src"), c, x, 1);
    compare("grad_flow", out_of(g, "warp", "grad_flow"), c, flow, 1);
    bmvp_zero_grad(x);
    y = motion_warp(c, x, bmvp_scale(c, leaf(g, c, "warp_flow", 5, -2.5, d, 3), 0, 0));
    compare("warped by nothing", out_of(g, "warp", "warped_by_zero_flow"), c, y, 0);
    x = leaf(g, c, "src", 1, 0, d, 2);
    m = bmvp_keep(bmvp_leaf(c, 2, rows, v));
    y = motion_affine(c, x, m);
    compare("affine", out_of(g, "warp", "affine"), c, y, 0);
    bmvp_backward(c, weighed(g, c, "cot", y));
    compare("grad_affine_src", out_of(g, "warp", "grad_affine_src"), c, x, 1);
    if (CHECK(bmvp_read_grad(c, m, v) == BMVP_OK)) golden_ssl_check("grad_mat", out_of(g, "warp", "grad_mat"), v, 12);
    y = bmvp_l1(c, motion_affine(c, x, bmvp_input(c, 2, rows, one)), x);
    golden_ssl_near("moved by the identity", "its mean distance", (double)bmvp_scalar(c, y), 0, 1e-6);
    check_context(c);
    bmvp_destroy(c);
}

/* n numbers from place `at` of a list, or of an entry's values, as (1, n) */
static bmvp_tensor *row(bmvp_ctx *c, const bmvp_json *list, int at, int n)
{
    const int64_t dim[2] = { 1, n };
    float v[8];
    int i;
    for (i = 0; i < n; ++i) v[i] = (float)bmvp_json_double(bmvp_json_at(list, at + i), (double)NAN);
    return bmvp_input(c, 2, dim, v);
}

static void matrix_is(const bmvp_json *v, bmvp_ctx *c, const bmvp_tensor *m)
{
    float x[12];
    if (CHECK(m && bmvp_read(c, m, x) == BMVP_OK)) golden_ssl_check("a matrix", v, x, 12);
}

static void gvsl_matrices(const golden_ssl *g)
{
    static const char *const name[4] = { "rot", "scale", "trans", "shear" };
    bmvp_ctx *c = context();
    bmvp_tensor *part[4];
    int i;
    for (i = 0; i < 4; ++i)
        part[i] = row(c, bmvp_json_get(out_of(g, "affine_matrix", name[i]), "value"), 0, i < 3 ? 3 : 6);
    matrix_is(out_of(g, "affine_matrix", "mat"), c, motion_matrix(c, part[0], part[1], part[2], part[3]));
    bmvp_destroy(c);
}

static void gvsl_motion(const golden_ssl *g)
{
    const bmvp_json *list = golden_ssl_in(g, "spatial", "draws_angles3_scales3_shears6_translations3_alpha_sigma");
    const int64_t d[3] = { 20, 18, 16 }, one[2] = { 1, 3 };
    bmvp_ctx *c = context();
    float *noise = uniform(g, "spatial.offsets", 1, 0, 3 * 20 * 18 * 16);
    bmvp_tensor *x = leaf(g, c, "vol", 1, 0, d, 1), *flow, *m;
    float shift[3];
    int i;
    for (i = 0; i < 3; ++i) shift[i] = (float)(bmvp_json_double(bmvp_json_at(list, 12 + i), 0) * (double)d[i]);
    m = bmvp_input(c, 2, one, shift);
    m = motion_matrix(c, row(c, list, 0, 3), row(c, list, 3, 3), m, row(c, list, 6, 6));
    matrix_is(out_of(g, "spatial", "mat"), c, m);
    flow = motion_field(c, d, noise, bmvp_json_double(bmvp_json_at(list, 15), 0),
                        bmvp_json_double(bmvp_json_at(list, 16), 0));
    compare("flow", out_of(g, "spatial", "flow"), c, flow, 0);
    x = motion_affine(c, x, m);
    compare("affine_only", out_of(g, "spatial", "affine_only"), c, x, 0);
    compare("y", out_of(g, "spatial", "y"), c, motion_warp(c, x, flow), 0);
    check_context(c);
    bmvp_destroy(c);
    free(noise);
}

/* parts: 1 windows, 2 curve, 4 boxes */
static void gvsl_appearance(const golden_ssl *g, const char *name, const char *formula, int parts)
{
    const bmvp_json *list = golden_ssl_in(g, name, "draws"), *v = bmvp_json_at(list, 1);
    const int64_t d[3] = { 44, 40, 60 }, n = d[0] * d[1] * d[2];
    float *from = uniform(g, "image", 1, 0, n), *x = uniform(g, "image", 1, 0, n);
    float *scratch = (float *)malloc((size_t)n * sizeof *scratch);
    char shuffle[64], noise[64], windows[16];
    double room[64], p[4];
    golden_draws l;
    draws r;
    int i;
    snprintf(shuffle, sizeof shuffle, "%s.shuffle", formula), snprintf(noise, sizeof noise, "%s.noise", formula);
    snprintf(windows, sizeof windows, "%d", (int)bmvp_json_count(bmvp_json_at(v, 1)));
    r = golden_draws_of(&l, g, list, shuffle, noise);
    CHECK(method_find("gvsl")->preset("release", room));
    if (parts == 7)
        CHECK(bmvp_field_set(method_find("gvsl")->method()->fields, room, "windows", windows, NULL) == BMVP_OK &&
              gvsl_spoil(&r, (const gvsl_config *)(void *)room, d, from, x, scratch));
    else if (parts == 4) gvsl_paint(&r, 30, d, x, scratch);
    else if (CHECK(r.uniform(r.user) < 0.9) && parts == 1)
        CHECK(gvsl_shuffle(&r, atoi(windows), d, from, x, (int32_t *)(void *)scratch));
    else {
        for (i = 0; i < 4; ++i) p[i] = r.uniform(r.user);
        CHECK(genesis_bend(p, 0, n, x, x));
    }
    CHECK(!l.wrong && !l.value);
    golden_ssl_within(name, out_of(g, name, "y"), x, n, 1e-6);
    free(from), free(x), free(scratch);
}

static void gvsl_step(const golden_ssl *g, const char *variant, int learns)
{
    const bmvp_json *in = bmvp_json_get(case_of(g, "step"), "in"), *out = golden_ssl_out(g, "step", variant), *v;
    const int64_t d[3] = { 16, 16, 16 };
    bmvp_tensor *part[2], *a, *restored, *loss;
    gvsl_moved moved;
    bmvp_ctx *c = context();
    bmvp_trainer *t;
    method_setup u;
    memset(&u, 0, sizeof u);
    u.cases = 2;
    t = trainer(c, "gvsl", "unet3d_gvsl", (int)bmvp_json_int(bmvp_json_get(in, "width"), 32),
                learns ? "affine_gradient=1" : "affine_gradient=0", &u);
    check_context(c);
    if (!t) return;
    fill(c, bmvp_net_state(t->net), g->seed, "unet.", "f_conv.double_conv.0.weight");
    a = leaf(g, c, "A", 1, 0, d, 1), part[0] = leaf(g, c, "A_aug", 1, 0, d, 1), part[1] = leaf(g, c, "B", 1, 0, d, 1);
    restored = gvsl_run(t, bmvp_concat(c, 2, part, 0), a, &moved);
    loss = bmvp_mse(c, restored, a);
    if (bmvp_json_get(out, "ncc")) {
        number("ncc", bmvp_json_get(out, "ncc"), (double)bmvp_scalar(c, moved.align));
        number("mse", bmvp_json_get(out, "mse"), (double)bmvp_scalar(c, loss));
        number("smooth", bmvp_json_get(out, "smooth"), (double)bmvp_scalar(c, moved.smooth));
        matrix_is(bmvp_json_get(out, "mat"), c, moved.mat);
        compare("flow", bmvp_json_get(out, "flow"), c, moved.flow, 0);
    }
    if (bmvp_json_get(out, "warped")) compare("warped", bmvp_json_get(out, "warped"), c, moved.warped, 0);
    if (bmvp_json_get(out, "restored")) compare("restored", bmvp_json_get(out, "restored"), c, restored, 0);
    loss = bmvp_add(c, bmvp_add(c, moved.align, moved.smooth), loss);
    number("loss", bmvp_json_get(out, "loss"), (double)bmvp_scalar(c, loss));
    bmvp_backward(c, loss);
    CHECK(parameters(bmvp_json_get(out, "grad"), c, bmvp_net_state(t->net), "unet.", 1, NULL) > 5);
    v = bmvp_json_get(out, "without_gradient");
    for (v = v ? v->first : NULL; v; v = v->next) {
        const bmvp_state *e = entry(bmvp_net_state(t->net), bmvp_json_string(v, "?"), "unet.");
        CHECK(e && !bmvp_has_grad(e->t));
    }
    check_context(c);
    bmvp_trainer_destroy(t);
    bmvp_destroy(c);
}

static void test_gvsl(const golden_ssl *g)
{
    if (golden_ssl_has(g, "losses")) {
        gvsl_losses(g);
        gvsl_warps(g);
        gvsl_matrices(g);
        gvsl_motion(g);
        gvsl_appearance(g, "appearance_local", "local", 1);
        gvsl_appearance(g, "appearance_nonlinear", "nonlinear", 2);
        gvsl_appearance(g, "appearance_in_paint", "in_paint", 4);
        gvsl_appearance(g, "appearance_all", "all", 7);
    }
    gvsl_step(g, "release", 0);
    gvsl_step(g, "with_affine_gradient", 1);
}

/* >>transvw ------------------------------------------------------------------------------------------------------- */

/* The two losses alone: gradients to logits and to what is rebuilt */
static void transvw_losses(const golden_ssl *g)
{
    static const int32_t target[3] = { 2, 0, 5 };
    const int64_t dim[2] = { 3, 7 }, d[5] = { 3, 2, 3, 4, 1 };
    bmvp_ctx *c = context();
    float *x = uniform(g, "logits", 6, -3, 21), *y = uniform(g, "rec", 1, 0, 72), *z = uniform(g, "target", 1, 0, 72);
    bmvp_tensor *logits = bmvp_leaf(c, 2, dim, x), *rebuilt = bmvp_leaf(c, 5, d, y), *ce, *mse, *loss;
    ce = bmvp_scale(c, bmvp_cross_entropy(c, logits, target), 0.01, 0);
    mse = bmvp_mse(c, rebuilt, bmvp_input(c, 5, d, z));
    loss = bmvp_add(c, mse, ce);
    number("cce_weighed", golden_ssl_out(g, "loss", "cce_weighed"), (double)bmvp_scalar(c, ce));
    number("mse", golden_ssl_out(g, "loss", "mse"), (double)bmvp_scalar(c, mse));
    number("loss", golden_ssl_out(g, "loss", "loss"), (double)bmvp_scalar(c, loss));
    bmvp_backward(c, loss);
    compare("grad_logits", golden_ssl_out(g, "loss", "grad_logits"), c, logits, 1);
    compare("grad_rec", golden_ssl_out(g, "loss", "grad_rec"), c, rebuilt, 1);
    check_context(c);
    bmvp_destroy(c);
    free(x), free(y), free(z);
}

/* Both losses through network and head */
static void transvw_step(const golden_ssl *g)
{
    const bmvp_json *in = bmvp_json_get(case_of(g, "network"), "in"),
                    *out = bmvp_json_get(case_of(g, "network"), "out");
    const int64_t dim[5] = { 2, 16, 16, 16, 1 }, n = 2 * 4096;
    static const int32_t target[2] = { 3, 1 };
    bmvp_net_config k = preset("unet3d_mg");
    bmvp_ctx *c = context();
    float *x = uniform(g, "x", 1, 0, n), *y = uniform(g, "y", 1, 0, n);
    bmvp_tensor *z, *loss, *ce;
    bmvp_layer head[3];
    bmvp_features f;
    bmvp_net *net;
    k.width = (int)bmvp_json_int(bmvp_json_get(in, "width"), 32);
    net = bmvp_net_create(c, &k);
    if (net && x && y) {
        transvw_make_head(&net->m, head, 16 * k.width, 5);
        fill(c, bmvp_net_state(net), g->seed, "", NULL);
        f = bmvp_net_encode(net, bmvp_input(c, 5, dim, x), 1);
        z = bmvp_sigmoid(c, bmvp_net_reconstruct(net, &f));
        ce = transvw_tell(&net->m, head, f.last);
        compare("classes", bmvp_json_get(out, "classes"), c, bmvp_softmax(c, ce), 0);
        ce = bmvp_scale(c, bmvp_cross_entropy(c, ce, target), 0.01, 0);
        loss = bmvp_add(c, bmvp_mse(c, z, bmvp_input(c, 5, dim, y)), ce);
        number("cce_weighed", bmvp_json_get(out, "cce_weighed"), (double)bmvp_scalar(c, ce));
        number("loss", bmvp_json_get(out, "loss"), (double)bmvp_scalar(c, loss));
        compare("prediction", bmvp_json_get(out, "prediction"), c, z, 0);
        bmvp_backward(c, loss);
        CHECK(parameters(bmvp_json_get(out, "grad"), c, bmvp_net_state(net), "", 1, NULL) > 3);
    }
    check_context(c);
    bmvp_net_destroy(net);
    bmvp_destroy(c);
    free(x), free(y);
}

/* The auto-encoder: what it makes of two regions, its gradients, then codes by the statistics that it has by now */
static void transvw_coder(const golden_ssl *g)
{
    const bmvp_json *out = bmvp_json_get(case_of(g, "coder"), "out");
    const int64_t width = bmvp_json_int(golden_ssl_in(g, "coder", "width"), 0), n = 4096;
    bmvp_state_list list = { NULL, 0, 0 };
    bmvp_ctx *c = context();
    float *x = uniform(g, "regions", 1, 0, 2 * n), code[64] = { 0 };
    const float *region[2] = { x, x + n };
    method_item item[2];
    bmvp_tensor *loss;
    bmvp_pass p;
    coder k;
    memset(&p, 0, sizeof p), memset(item, 0, sizeof item);
    item[0].x = region[0], item[1].x = region[1];
    p.c = c, p.items = item, p.n = 2;
    coder_make(&k, c, &list, width);
    fill(c, &list, g->seed, "", NULL);
    loss = coder_loss(&p, &k, 16, 16);
    number("loss", bmvp_json_get(out, "loss"), (double)bmvp_scalar(c, loss));
    bmvp_backward(c, loss);
    CHECK(parameters(bmvp_json_get(out, "grad"), c, &list, "", 1, NULL) > 3);
    if (CHECK(width > 0 && width <= 2)) coder_codes(&k, 2, region, 16, 16, code, 16 * width);
    golden_ssl_check("code", bmvp_json_get(out, "code"), code, 32 * width);
    check_context(c);
    bmvp_state_list_free(c, &list);
    bmvp_destroy(c);
    free(x);
}

static void test_transvw(const golden_ssl *g)
{
    transvw_losses(g);
    if (WHOLE_STEPS || golden_ssl_has(g, "coder")) transvw_step(g);
    if (golden_ssl_has(g, "coder")) transvw_coder(g);
}

int main(int argc, char **argv)
{
    check_begin(argc, argv);
    each("models_genesis.json", test_genesis);
    each("m3ae.json", test_m3ae);
    each("gvsl.json", test_gvsl);
    each("transvw.json", test_transvw);
    return check_end();
}
