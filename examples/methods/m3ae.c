/* m3ae.c - M3AE (Liu et al., AAAI 2023): restore most of all modalities from a few patches of some of them

   The modalities of a case are the channels of one input. Up to three of them are dropped whole; of the others an
   eighth of all patches is kept, anywhere; the rest is filled from an image that is learned beside the network, the
   same for all cases, at the place of the crop ("limage"). The network, with its skips, is asked for every voxel of
   every modality: mean squared error, and gamma times the norm of that image about its means.

   Paper and code: the code (ccarliu/m3ae) takes the norm, not its square: 30 beside an error below 1 at the start,
   with a gradient of length gamma. It counts 512 patches a modality whatever the crop; here they are the crop's. Its
   rates move once an epoch, here each step; the image has its own. Cases may lack modalities here: those count as
   dropped and leave the loss. The image is kept as BrainMVP's templates are, so fine-tuning fills from it alike. */
#include "methods.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define M3AE_FIELDS(X) \
    X(int, patch, 1, 256, "edge of a patch in voxels, divides the crop") \
    X(double, mask_ratio, 0, 0.999, "share of all patches that is masked") \
    X(int, drop, 0, BMVP_MODALITIES, "modalities that are dropped whole, at most; one is left always") \
    X(double, gamma, 0, 1e6, "weight of the norm of the learned image") \
    X(double, limage_lr, 0, 10, "learning rate of the learned image, on the network's schedule") \
    X(double, limage_std, 1e-6, 1e6, "its standard deviation at the start")
struct m3ae_config { BMVP_RUN_MEMBERS METHOD_FIELDS(BMVP_FIELD_MEMBER) M3AE_FIELDS(BMVP_FIELD_MEMBER) };
#define FIELD(type, name, low, high, text) BMVP_FIELD(m3ae_config, type, name, low, high, text)
static const bmvp_field fields[] = {
    METHOD_FIELDS(FIELD) M3AE_FIELDS(FIELD) BMVP_RUN_FIELDS(FIELD) BMVP_FIELDS_END
};

/* >>corruption ----------------------------------------------------------------------------------------------------- */

/* Which of n modalities' patches, `each` of them a modality, stay: kept[m each + i] 1, else 0. left: as many numbers.
   A modality is drawn again if it was dropped before, or is not there. */
void m3ae_keep(const draws *r, const m3ae_config *k, int n, unsigned present, int64_t each, int32_t *left, float *kept)
{
    int64_t i, at, rest = 0, keep;
    int there = 0, drop, m;
    for (m = 0; m < n; ++m) there += (int)(present >> m & 1u);
    keep = (int64_t)((1 - k->mask_ratio) * (double)(there * each));
    drop = (int)r->whole(r->user, 0, k->drop < there ? k->drop : there - 1);
    while (drop > 0) {
        m = (int)r->whole(r->user, 0, n - 1);
        if (!(present >> m & 1u)) continue;
        present &= ~(1u << m);
        --drop;
    }
    for (i = 0; i < n * each; ++i) {
        kept[i] = 0;
        if (present >> (i / each) & 1u) left[rest++] = (int32_t)i;
    }
    for (i = 0; rest > 0 && i < (keep > 1 ? keep : 1); ++i) {
        at = r->whole(r->user, 0, rest - 1);
        kept[left[at]] = 1;
        memmove(left + at, left + at + 1, (size_t)(--rest - at) * sizeof *left);
    }
}

/* Patches to voxels of a cube of `edge`: hidden 1 where the patch is not kept. */
void m3ae_hide(const float *kept, int64_t edge, int64_t patch, float *hidden)
{
    const int64_t p = edge / patch;
    int64_t i;
    for (i = 0; i < edge * edge * edge; ++i)
        hidden[i] = 1 - kept[(i / (edge * edge) / patch * p + i / edge % edge / patch) * p + i % edge / patch];
}

/* (1, D, H, W, n) of n volumes x, one after the other, hidden voxels from limage at `place`. */
bmvp_tensor *m3ae_fill(bmvp_ctx *c, const int64_t d[3], int n, const float *x, const float *hidden,
                       bmvp_tensor *const *limage, const int64_t place[3])
{
    const int64_t each = d[0] * d[1] * d[2], dim[5] = { 1, d[0], d[1], d[2], 1 };
    bmvp_tensor *part[BMVP_MODALITIES];
    int m;
    for (m = 0; m < n; ++m)
        part[m] = bmvp_reshape(c, bmvp_masked_fill(c, bmvp_input(c, 3, d, x ? x + m * each : NULL), limage[m],
                                                   bmvp_input(c, 3, d, hidden + m * each), place),
                               5, dim);
    return bmvp_concat(c, n, part, 4);
}

/* The norm of all n volumes together, each about its mean. */
bmvp_tensor *m3ae_norm(bmvp_ctx *c, int n, bmvp_tensor *const *limage)
{
    bmvp_tensor *sum = NULL, *d, *square;
    int m;
    for (m = 0; m < n; ++m) {
        d = bmvp_sub(c, limage[m], bmvp_mean(c, limage[m]));
        square = bmvp_sum(c, bmvp_mul(c, d, d));
        sum = sum ? bmvp_add(c, sum, square) : square;
    }
    return bmvp_sqrt(c, sum);
}

/* >>method --------------------------------------------------------------------------------------------------------- */

/* What the network sees of an item. */
static bmvp_tensor *view(bmvp_ctx *c, const method_templates *s, const m3ae_config *k, const method_item *item,
                         const draws *r)
{
    const int64_t e = k->crop, d[3] = { e, e, e }, p = e / k->patch, each = p * p * p, voxels = e * e * e;
    float *kept = (float *)malloc((size_t)(s->n * (2 * each + voxels)) * sizeof *kept);
    float *hidden = kept + 2 * s->n * each;
    bmvp_tensor *x;
    int m;
    if (!kept) return (bmvp_tensor *)bmvp_fail(c, BMVP_E_OOM, "m3ae: no memory for masks");
    if (!bmvp_is_plan(c)) m3ae_keep(r, k, s->n, item->present, each, (int32_t *)(void *)(kept + s->n * each), kept);
    for (m = 0; m < s->n && !bmvp_is_plan(c); ++m) m3ae_hide(kept + m * each, e, k->patch, hidden + m * voxels);
    x = m3ae_fill(c, d, s->n, item->other, hidden, s->volume, item->place);
    free(kept);
    return x;
}

static bmvp_tensor *views(bmvp_pass *p)
{
    const method_item *item = (const method_item *)p->items;
    bmvp_tensor *x[2] = { NULL, NULL };
    int i;
    for (i = 0; i < p->n && !bmvp_failed(p->c); ++i) {
        bmvp_rng g;
        const draws r = method_draws(p, &item[i], &g);
        x[1] = view(p->c, (const method_templates *)p->state, (const m3ae_config *)p->config, &item[i], &r);
        x[0] = i ? bmvp_concat(p->c, 2, x, 0) : x[1];
    }
    return x[0];
}

/* Mean over items of the mean square over all voxels of the modalities that are there. */
static bmvp_tensor *rebuilt(bmvp_pass *p, bmvp_tensor *y)
{
    const int n = ((const method_templates *)p->state)->n;
    const method_item *item = (const method_item *)p->items;
    const int64_t e = ((const m3ae_config *)p->config)->crop, each = e * e * e * n, dim[5] = { p->n, e, e, e, n };
    float *want = (float *)calloc((size_t)(2 * p->n * each), sizeof *want), *weight = want + p->n * each;
    bmvp_tensor *w;
    int64_t v;
    int i, m, there;
    if (!want) return (bmvp_tensor *)bmvp_fail(p->c, BMVP_E_OOM, "m3ae: no memory for %d crops", p->n);
    for (i = 0; i < p->n && !bmvp_is_plan(p->c); ++i) {
        for (m = there = 0; m < n; ++m) there += (int)(item[i].present >> m & 1u);
        for (v = 0; v < each; ++v) {
            m = (int)(v % n);
            want[i * each + v] = item[i].other[m * (each / n) + v / n];
            weight[i * each + v] = item[i].present >> m & 1u ? (float)sqrt((double)n / there) : 0;
        }
    }
    w = bmvp_input(p->c, 5, dim, weight);
    y = bmvp_mse(p->c, bmvp_mul(p->c, y, w), bmvp_mul(p->c, bmvp_input(p->c, 5, dim, want), w));
    free(want);
    return y;
}

static void forward(bmvp_pass *p)
{
    const method_templates *s = (const method_templates *)p->state;
    const m3ae_config *k = (const m3ae_config *)p->config;
    bmvp_tensor *x = views(p);
    const bmvp_features f = bmvp_net_encode(p->net, x, 1);
    bmvp_pass_loss(p, 0, BMVP_LOSS_MEAN, 1, rebuilt(p, bmvp_net_segment(p->net, x, &f, 0).full));
    if (k->gamma > 0) bmvp_pass_loss(p, 1, BMVP_LOSS_MEAN, k->gamma, m3ae_norm(p->c, s->n, s->volume));
}

static void boxes(bmvp_pass *p) /* the norm gives every voxel of the image a gradient */
{
    const method_templates *s = (const method_templates *)p->state;
    const m3ae_config *k = (const m3ae_config *)p->config;
    const int64_t size[3] = { k->crop, k->crop, k->crop };
    int i, m;
    for (i = 0; i < p->n; ++i)
        for (m = 0; m < s->n; ++m)
            bmvp_pass_box(p, s->volume[m], k->gamma > 0 ? NULL : ((const method_item *)p->items)[i].place, size);
}

/* The network has a channel for each modality, and its decoder of segmentation, which has the skips. */
static void prepare(bmvp_trainer *t)
{
    const method_setup *u = (const method_setup *)t->setup;
    const m3ae_config *k = (const m3ae_config *)t->config;
    const bmvp_net_kind *kind = bmvp_net_kind_find(t->c, t->net_config.kind);
    t->net_config.task = BMVP_TASK_SEGMENT;
    t->net_config.in_channels = t->net_config.outputs = u->n_modalities;
    t->net_config.deep_supervision = 0;
    if (u->n_modalities < 2)
        bmvp_fail(t->c, BMVP_E_ARG,
                  "m3ae restores modalities from others, but the data have one, %s: prepare cases with more, or take "
                  "another --method", u->names[0]);
    else if (!kind || !kind->segment)
        bmvp_fail(t->c, BMVP_E_ARG, "m3ae: %s has no decoder with skips", t->net_config.name);
    else if (k->crop % k->patch)
        bmvp_fail(t->c, BMVP_E_ARG, "m3ae: crop %d must be a multiple of patch %d", k->crop, k->patch);
    else if ((1 - k->mask_ratio) * u->n_modalities * pow(k->crop / k->patch, 3) < 1)
        bmvp_fail(t->c, BMVP_E_ARG, "m3ae: mask_ratio %g keeps no patch of a crop of %d: a smaller patch than %d",
                  k->mask_ratio, k->crop, k->patch);
}

static void create(bmvp_trainer *t)
{
    const m3ae_config *k = (const m3ae_config *)t->config;
    const bmvp_state_list *l = bmvp_net_state(t->net);
    int i;
    for (i = 0; i < l->n && strcmp(t->net_config.kind, "unet3d") == 0; ++i) /* as torch starts convolutions */
        if (l->item[i].fan > 0) bmvp_init_as(&t->net->m, l->item[i].t, BMVP_INIT_UNIFORM_IN, 0);
    if (method_crop_fits(t, k->crop))
        method_templates_make(t, (method_templates *)t->state, k->limage_std, k->lr > 0 ? k->limage_lr / k->lr : 0);
}

static void describe(const bmvp_trainer *t, bmvp_jw *w)
{
    method_templates_describe((const method_templates *)t->state, w);
}

static const bmvp_method *method(void)
{
    static const char *const loss[] = { "restore", "limage", NULL };
    static bmvp_method m;
    m.name = "m3ae", m.format = "bmvp m3ae 1", m.loss = loss, m.fields = fields;
    m.config_size = sizeof(m3ae_config), m.state_size = sizeof(method_templates), m.item_size = sizeof(method_item);
    m.prepare = prepare, m.create = create, m.forward = forward, m.boxes = boxes;
    m.describe = describe;
    return &m;
}

static int preset(const char *name, void *config)
{
    m3ae_config *k = (m3ae_config *)config;
    const method_preset_kind kind = method_preset(name, config, sizeof *k);
    const int fast = kind == METHOD_FAST;
    if (kind == METHOD_UNKNOWN) return 0;
    k->crop = fast ? 64 : 128, k->batch = 2, k->epochs = fast ? 100 : 600;
    k->optimizer = BMVP_ADAM, k->lr = fast ? 2e-3 : 3e-4, k->weight_decay = 0;
    k->patch = fast ? 8 : 16, k->mask_ratio = 0.875, k->drop = 3;
    k->gamma = 0.005, k->limage_lr = fast ? 0.05 : 0.005, k->limage_std = fast ? 0.1 : 1;
    return 1;
}

static bmvp_status look(bmvp_trainer *t, const method_item *item, float *seen, float *back)
{
    const m3ae_config *k = (const m3ae_config *)t->config;
    bmvp_rng g = bmvp_rng_make((uint64_t)k->seed, METHOD_STREAM, 0, item->slot);
    const draws r = draws_of(&g);
    const int was = method_look_begin(t);
    bmvp_tensor *x = view(t->c, (const method_templates *)t->state, k, item, &r);
    const bmvp_features f = bmvp_net_encode(t->net, x, 0);
    return method_look_end(t, was, x, bmvp_net_segment(t->net, x, &f, 0).full, item->modality, seen, back);
}

const method_row method_m3ae = { "m3ae", "M3AE", "Liu et al., AAAI 2023", "unet3d_m3ae", "unet3d_tiny",
                                 method, preset, look, METHOD_ALL, NULL };
