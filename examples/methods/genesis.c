/* genesis.c - Models Genesis (Zhou et al., MICCAI 2019; Medical Image Analysis 67, 2021): restore a deformed crop

   A crop is flipped, its texture shuffled in small windows, its grey values bent by a curve, and boxes of it painted
   over (in-painting) or all but boxes of it (out-painting). The network sees the result and is asked for the crop as
   it was after the flips: mean squared error of the sigmoid of its output.

   Paper and code: the code (MrGiovanni/ModelsGenesis) flips only two of the three axes, as it counts the channel axis
   for the first; `flip_axes` 2 is that, 3 all of them. Its "non-linear" map is a decreasing one in half of the cases.
   It trains by SGD with rate 1, which batch norm makes possible and a small batch does not forgive: preset `release`,
   here with the gradient clipped at 12; `paper` is the same, as the paper names no rate; `fast` takes AdamW. */
#include "methods.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define GENESIS_FIELDS(X) \
    X(int, flip_axes, 2, 3, "axes that may be flipped: 2 as the code (slowest two), 3") \
    X(double, flip_rate, 0, 1, "chance of each of up to three flips") \
    X(double, shuffle_rate, 0, 1, "chance of local shuffling") \
    X(int, windows, 1, 1000000, "windows that are shuffled") \
    X(double, bend_rate, 0, 1, "chance of the non-linear map of grey values") \
    X(double, paint_rate, 0, 1, "chance of painting") \
    X(double, inside_rate, 0, 1, "share of it that is in-painting") \
    X(int, halve_epochs, 0, 1000000, "the rate is halved after so many epochs; 0: warm-up and half a cosine")
struct genesis_config { BMVP_RUN_MEMBERS METHOD_FIELDS(BMVP_FIELD_MEMBER) GENESIS_FIELDS(BMVP_FIELD_MEMBER) };
#define FIELD(type, name, low, high, text) BMVP_FIELD(genesis_config, type, name, low, high, text)
static const bmvp_field fields[] = {
    METHOD_FIELDS(FIELD) GENESIS_FIELDS(FIELD) BMVP_RUN_FIELDS(FIELD) BMVP_FIELDS_END
};

/* >>corruption ----------------------------------------------------------------------------------------------------- */

static int64_t voxels_of(const int64_t d[3]) { return d[0] * d[1] * d[2]; }

void genesis_flip(float *v, const int64_t d[3], int axis)
{
    const int64_t n = voxels_of(d), step = axis == 0 ? d[1] * d[2] : axis == 1 ? d[2] : 1;
    int64_t i;
    for (i = 0; i < n; ++i) {
        const int64_t at = i / step % d[axis], to = i + (d[axis] - 1 - 2 * at) * step;
        const float keep = v[i];
        if (i >= to) continue;
        v[i] = v[to];
        v[to] = keep;
    }
}

/* Windows of from are permuted into x, which is a copy of it; later ones cover earlier ones. */
void genesis_shuffle(const draws *r, int windows, const int64_t d[3], const float *from, float *x, int32_t *order)
{
    int64_t i, n;
    method_box b;
    int a;
    while (windows-- > 0) {
        for (a = 0; a < 3; ++a) b.size[a] = r->whole(r->user, 1, d[a] / 10);
        for (a = 0; a < 3; ++a) b.start[a] = r->whole(r->user, 0, d[a] - b.size[a]);
        n = voxels_of(b.size);
        r->order(r->user, n, order);
        for (i = 0; i < n; ++i) x[method_box_at(&b, d, i)] = from[method_box_at(&b, d, order[i])];
    }
}

/* The Bezier curve from (0, 0) to (1, 1) with control points p = x1 y1 x2 y2, as a table; falling: the abscissae run
   the other way, so that the map falls. */
enum { CURVE = 100000 };
static void curve_make(const double p[4], int falling, double *at, double *to)
{
    int i;
    for (i = 0; i < CURVE; ++i) {
        const double t = (double)i / (CURVE - 1), s = 1 - t, a = 3 * t * s * s, b = 3 * t * t * s, c = t * t * t;
        at[i] = a * p[0] + b * p[2] + c;
        to[falling ? CURVE - 1 - i : i] = a * p[1] + b * p[3] + c;
    }
}

static double curve_value(const double *at, const double *to, double v)
{
    int low = 0, high = CURVE - 1;
    if (!(v > at[0])) return to[0];
    if (v >= at[high]) return to[high];
    while (high - low > 1) {
        const int mid = (low + high) / 2;
        if (at[mid] <= v) low = mid;
        else high = mid;
    }
    return to[low] + (to[high] - to[low]) * (v - at[low]) / (at[high] - at[low]);
}

/* 0: no memory. v and out may be the same. Of floats, or, for tests, of doubles. */
static int bend(const double p[4], int falling, int64_t n, const float *v, float *out, const double *w, double *exact)
{
    double *at = (double *)malloc(2 * CURVE * sizeof *at);
    int64_t i;
    if (!at) return 0;
    curve_make(p, falling, at, at + CURVE);
    for (i = 0; i < n && v; ++i) out[i] = (float)curve_value(at, at + CURVE, (double)v[i]);
    for (i = 0; i < n && w; ++i) exact[i] = curve_value(at, at + CURVE, w[i]);
    free(at);
    return 1;
}
int genesis_bend(const double p[4], int falling, int64_t n, const float *v, float *out)
{
    return bend(p, falling, n, v, out, NULL, NULL);
}
int genesis_curve(const double p[4], int falling, int64_t n, const double *v, double *out)
{
    return bend(p, falling, n, NULL, NULL, v, out);
}

/* Sides low..high of each axis, or what is left of it by them; three voxels stay free at each end. */
static void draw_box(const draws *r, const int64_t d[3], int low, int high, int under, int rest, method_box *b)
{
    int a;
    for (a = 0; a < 3; ++a) {
        b->size[a] = r->whole(r->user, low * d[a] / under, high * d[a] / under);
        if (rest) b->size[a] = d[a] - b->size[a];
    }
    for (a = 0; a < 3; ++a) b->start[a] = r->whole(r->user, 3, d[a] - b->size[a] - 3);
}

void genesis_paint_inside(const draws *r, int least, int most, const int64_t d[3], float *x, float *noise)
{
    int64_t i;
    int n;
    method_box b;
    for (n = 0; n < most && (n < least || r->uniform(r->user) < 0.95); ++n) {
        draw_box(r, d, 1, 2, 6, 0, &b);
        r->noise(r->user, voxels_of(b.size), noise);
        for (i = 0; i < voxels_of(b.size); ++i) x[method_box_at(&b, d, i)] = noise[i];
    }
}

/* from: as x is before. */
void genesis_paint_outside(const draws *r, int most, const int64_t d[3], const float *from, float *x)
{
    int64_t i;
    int n;
    method_box b;
    r->noise(r->user, voxels_of(d), x);
    for (n = 0; n < most && (n == 0 || r->uniform(r->user) < 0.95); ++n) {
        draw_box(r, d, 3, 4, 7, 1, &b);
        for (i = 0; i < voxels_of(b.size); ++i) x[method_box_at(&b, d, i)] = from[method_box_at(&b, d, i)];
    }
}

/* y: the crop, afterwards the target; x: what the network is given. scratch: as many floats. 0: no memory. */
int genesis_pair(const draws *r, const genesis_config *k, const int64_t d[3], float *y, float *x, float *scratch)
{
    const size_t bytes = (size_t)voxels_of(d) * sizeof *x;
    double p[4];
    int n, axis;
    for (n = 0; r->uniform(r->user) < k->flip_rate && n < 3; ++n) { /* the code's first axis is the channels' */
        axis = (int)r->whole(r->user, 0, 2);
        if (k->flip_axes == 3) genesis_flip(y, d, axis);
        else if (axis > 0) genesis_flip(y, d, axis - 1);
    }
    memcpy(x, y, bytes);
    if (r->uniform(r->user) < k->shuffle_rate) genesis_shuffle(r, k->windows, d, y, x, (int32_t *)scratch);
    if (r->uniform(r->user) < k->bend_rate) {
        for (n = 0; n < 4; ++n) p[n] = r->uniform(r->user);
        if (!genesis_bend(p, r->uniform(r->user) < 0.5, voxels_of(d), x, x)) return 0;
    }
    if (r->uniform(r->user) >= k->paint_rate) return 1;
    if (r->uniform(r->user) < k->inside_rate) {
        genesis_paint_inside(r, 0, 5, d, x, scratch);
        return 1;
    }
    memcpy(scratch, x, bytes);
    genesis_paint_outside(r, 5, d, scratch, x);
    return 1;
}

/* >>method --------------------------------------------------------------------------------------------------------- */

/* Both sides of n crops: given and wanted, one after the other. */
static void forward(bmvp_pass *p)
{
    const genesis_config *k = (const genesis_config *)p->config;
    const method_item *item = (const method_item *)p->items;
    const int64_t e = k->crop, d[3] = { e, e, e }, n = e * e * e, dim[5] = { p->n, e, e, e, 1 };
    float *given = (float *)calloc((size_t)(2 * p->n + 1) * (size_t)n, sizeof *given), *wanted;
    bmvp_features f;
    int i, ok = given != NULL;
    if (!ok) {
        bmvp_fail(p->c, BMVP_E_OOM, "genesis: no memory for %d crops", p->n);
        return;
    }
    wanted = given + p->n * n;
    for (i = 0; i < p->n && ok && !bmvp_is_plan(p->c); ++i) {
        bmvp_rng g;
        const draws r = method_draws(p, &item[i], &g);
        memcpy(wanted + i * n, item[i].x, (size_t)n * sizeof *wanted);
        ok = genesis_pair(&r, k, d, wanted + i * n, given + i * n, wanted + p->n * n);
    }
    if (!ok) bmvp_fail(p->c, BMVP_E_OOM, "genesis: no memory for a curve");
    f = bmvp_net_encode(p->net, bmvp_input(p->c, 5, dim, given), 1);
    bmvp_pass_loss(p, 0, BMVP_LOSS_MEAN, 1,
                   bmvp_mse(p->c, bmvp_sigmoid(p->c, bmvp_net_reconstruct(p->net, &f)),
                            bmvp_input(p->c, 5, dim, wanted)));
    free(given);
}

static double rate(const bmvp_trainer *t, int64_t total)
{
    const genesis_config *k = (const genesis_config *)t->config;
    return method_halved(t, total, k->lr, k->halve_epochs);
}

static const bmvp_method *method(void)
{
    static const char *const loss[] = { "restore", NULL };
    static bmvp_method m;
    m.name = "genesis", m.format = "bmvp genesis 1", m.loss = loss, m.fields = fields;
    m.config_size = sizeof(genesis_config), m.item_size = sizeof(method_item), m.forward = forward, m.rate = rate;
    return &m;
}

static int preset(const char *name, void *config)
{
    genesis_config *k = (genesis_config *)config;
    const method_preset_kind kind = method_preset(name, config, sizeof *k);
    const int fast = kind == METHOD_FAST;
    if (kind == METHOD_UNKNOWN) return 0;
    k->crop = fast ? 64 : 96, k->batch = fast ? 2 : 6, k->clip = 12;
    k->flip_axes = fast ? 3 : 2, k->flip_rate = 0.4;
    k->shuffle_rate = 0.5, k->windows = 10000, k->bend_rate = 0.9, k->paint_rate = 0.9, k->inside_rate = 0.2;
    if (fast) k->lr = 1e-2, k->warmup = 10;
    else k->optimizer = BMVP_SGD, k->lr = 1, k->beta1 = 0.9, k->weight_decay = 0, k->halve_epochs = 40;
    return 1;
}

static bmvp_status look(bmvp_trainer *t, const method_item *item, float *seen, float *back)
{
    const genesis_config *k = (const genesis_config *)t->config;
    const int64_t d[3] = { k->crop, k->crop, k->crop };
    bmvp_rng g = bmvp_rng_make((uint64_t)k->seed, METHOD_STREAM, 0, item->slot);
    const draws r = draws_of(&g);
    float *wanted = (float *)malloc(2 * (size_t)voxels_of(d) * sizeof *wanted);
    const int ok = wanted && memcpy(wanted, item->x, (size_t)voxels_of(d) * sizeof *wanted) &&
                   genesis_pair(&r, k, d, wanted, seen, wanted + voxels_of(d));
    free(wanted);
    if (!ok) bmvp_fail(t->c, BMVP_E_OOM, "genesis: no memory for a look at a crop");
    return method_look(t, k->crop, seen, 1, back);
}

const method_row method_genesis = { "genesis", "Models Genesis", "Zhou et al., Medical Image Analysis 67, 2021",
                                    "unet3d_mg", "unet3d_mg_tiny", method, preset, look, METHOD_CROP, NULL };
