/* dae.c - disrupted autoencoders (Valanarasu et al., MIDL 2024): rebuild a crop from noise, few voxels and few tokens

   Noise is added to a crop, of which every 4th voxel of each axis is kept and spread over its neighbours; of what the
   patch embedding makes of it a share of the channels is hidden. Swin-UNETR with its skips rebuilds the crop (L1). A
   second loss asks the last map of which modality the crop is: its products with those of all crops of the step are
   logits (cross-modal contrast).

   Paper and code: the code (Project-MONAI/research-contributions, DAE) reads its tokens with turned axes, so that the
   hidden "channels" are planes of the image: `turned` 1 is that, 0 (preset `paper`, `fast`) what its names say; what
   the paper describes, hiding local patches, is neither. The products are of features without norm, multiplied by
   exp(0.5), which a small run does not stand (`unit` 1, preset `fast`, scales them), and a crop's class is the number
   of its modality among those of the step, taken as the number of a crop.
   The code's task `mae` (tokens of whole blocks masked, 0.6 of them, L1 there) is not here: no numbers of it are known,
   nor whether its mask lies on the tokens before they are turned or after; simmim is that task with UNETR's encoder.
   Its others are this one with noise 0, every 1 or hide 0. */
#include "methods.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define DAE_FIELDS(X) \
    X(double, noise, 0, 100, "variance of the noise; 0: none") \
    X(int, scale_noise, 0, 1, "1: it is a share of the variance of the crop's voxels that are not 0") \
    X(int, every, 1, 64, "of each axis every such voxel is kept; 1: all") \
    X(double, hide, 0, 0.99, "share of the channels of the tokens that is hidden, drawn for each step") \
    X(int, turned, 0, 1, "1: tokens with the code's turned axes before they are hidden") \
    X(double, weight_contrast, 0, 1e6, "weight of the contrast of modalities; 0: off") \
    X(int, unit, 0, 1, "1: of features scaled to length 1, 0: of features as they are (code)") \
    X(double, temperature, 0, 100, "products are multiplied by exp of it") \
    X(double, warmup_epochs, 0, 1e9, "linear warm-up over so many of the epochs") \
    X(double, lr_start, 0, 10, "learning rate at its beginning")
struct dae_config { BMVP_RUN_MEMBERS METHOD_FIELDS(BMVP_FIELD_MEMBER) DAE_FIELDS(BMVP_FIELD_MEMBER) };
#define FIELD(type, name, low, high, text) BMVP_FIELD(dae_config, type, name, low, high, text)
static const bmvp_field fields[] = {
    METHOD_FIELDS(FIELD) DAE_FIELDS(FIELD) BMVP_RUN_FIELDS(FIELD) BMVP_FIELDS_END
};

/* >>corruption ----------------------------------------------------------------------------------------------------- */

/* Variance of the voxels that are not 0 */
static double variance_of(const float *x, int64_t n)
{
    double sum = 0, square = 0, count = 0;
    int64_t i;
    for (i = 0; i < n; ++i)
        if (x[i] != 0) sum += (double)x[i], square += (double)x[i] * (double)x[i], ++count;
    return count > 0 ? square / count - sum / count * (sum / count) : 0;
}

/* x + noise, then every k->every-th voxel of each axis in the place of those up to the next. out: not x. */
void dae_disrupt(const draws *r, const dae_config *k, const int64_t d[3], const float *x, float *out)
{
    const int64_t n = d[0] * d[1] * d[2], e = k->every;
    const double part = k->scale_noise ? k->noise * variance_of(x, n) : k->noise, deviation = sqrt(part > 0 ? part : 0);
    int64_t i, z, y, v;
    if (deviation > 0) r->normal(r->user, n, out);
    for (i = 0; i < n; ++i) out[i] = (float)((double)x[i] + (deviation > 0 ? deviation * (double)out[i] : 0));
    for (z = i = 0; z < d[0]; ++z) /* what is read has been left as it was */
        for (y = 0; y < d[1]; ++y)
            for (v = 0; v < d[2]; ++v, ++i) out[i] = out[((z - z % e) * d[1] + y - y % e) * d[2] + v - v % e];
}

/* Element i of the row-major (tokens, channels), tokens counted with x slowest, becomes element i of (channels, x, y,
   z): the image's first axis becomes the channels', and the channels end up in space. */
static bmvp_tensor *turn(bmvp_ctx *c, bmvp_tensor *t)
{
    static const int torch[5] = { 0, 3, 2, 1, 4 }, ours[5] = { 0, 4, 3, 2, 1 };
    int64_t dim[5];
    if (!t) return NULL;
    dim[0] = t->dim[0], dim[1] = t->dim[4], dim[2] = t->dim[3], dim[3] = t->dim[2], dim[4] = t->dim[1];
    return bmvp_permute(c, bmvp_reshape(c, bmvp_permute(c, t, torch), 5, dim), ours);
}

/* bmvp_net_on_tokens, user a dae_hidden */
bmvp_tensor *dae_hide(bmvp_net *net, bmvp_tensor *t, void *user)
{
    const dae_hidden *h = (const dae_hidden *)user;
    const int64_t n = t->dim[4], hidden = (int64_t)(h->share * (double)n);
    float *keep = (float *)malloc((size_t)n * sizeof *keep);
    int32_t *order = (int32_t *)malloc((size_t)n * sizeof *order);
    int64_t i;
    if (h->turned) t = turn(net->m.c, t);
    if (keep && order && hidden > 0) {
        h->r->order(h->r->user, n, order);
        for (i = 0; i < n; ++i) keep[order[i]] = i >= hidden;
        t = bmvp_mul(net->m.c, t, bmvp_input(net->m.c, 1, &n, keep));
    } else if (hidden > 0) bmvp_fail(net->m.c, BMVP_E_OOM, "dae: no memory for %d channels", (int)n);
    free(keep);
    free(order);
    return t;
}

/* >>contrast ------------------------------------------------------------------------------------------------------- */

/* Products of all rows with all, as logits */
bmvp_tensor *dae_logits(bmvp_ctx *c, bmvp_tensor *rows, double temperature)
{
    return bmvp_scale(c, bmvp_matmul(c, rows, rows, 0, 1), exp(temperature), 0);
}

/* The place of each modality among those that are there, in the order of their numbers */
void dae_targets(int64_t n, const int32_t *modality, int32_t *target)
{
    int64_t i, j, k;
    for (i = 0; i < n; ++i)
        for (target[i] = 0, j = 0; j < n; ++j) { /* each modality before it, once */
            for (k = 0; k < j && modality[k] != modality[j]; ++k) {}
            target[i] += k == j && modality[j] < modality[i];
        }
}

/* Cross-entropy over rows and columns is one, as the products are symmetric. */
static void contrast(bmvp_pass *p, const bmvp_features *f)
{
    const dae_config *k = (const dae_config *)p->config;
    const int64_t row = f->last ? f->last->numel / f->last->dim[0] : 1, dim[2] = { p->n, row };
    bmvp_tensor *own = bmvp_reshape(p->c, f->last, 2, dim);
    bmvp_tensor *rows = bmvp_pass_rows(p, k->unit ? bmvp_l2_normalize(p->c, own, 1e-12) : own, row, NULL);
    int32_t *modality = method_modalities_of_all(p), *target = modality ? modality + p->n_all : NULL;
    if (target) dae_targets(p->n_all, modality, target);
    if (target && rows)
        bmvp_pass_loss(p, 1, BMVP_LOSS_ALL, k->weight_contrast,
                       bmvp_cross_entropy(p->c, dae_logits(p->c, rows, k->temperature), target));
    free(modality);
}

/* >>method --------------------------------------------------------------------------------------------------------- */

static void forward(bmvp_pass *p)
{
    const dae_config *k = (const dae_config *)p->config;
    const method_item *item = (const method_item *)p->items;
    const int64_t e = k->crop, d[3] = { e, e, e }, n = e * e * e, dim[5] = { p->n, e, e, e, 1 };
    bmvp_rng g = bmvp_pass_rng(p, METHOD_STREAM + 1, 0); /* channels are hidden for the whole step */
    draws r = draws_of(&g);
    dae_hidden hidden = { &r, k->hide, k->turned };
    float *given, *wanted;
    bmvp_features f;
    int i;
    if (!bmvp_pass_needs(p, p->n, "crop", "a larger batch")) return;
    given = (float *)calloc((size_t)(2 * p->n * n), sizeof *given), wanted = given ? given + p->n * n : NULL;
    if (!given) {
        bmvp_fail(p->c, BMVP_E_OOM, "dae: no memory for %d crops", p->n);
        return;
    }
    for (i = 0; i < p->n && !bmvp_is_plan(p->c); ++i) {
        bmvp_rng own;
        const draws from = method_draws(p, &item[i], &own);
        memcpy(wanted + i * n, item[i].x, (size_t)n * sizeof *wanted);
        dae_disrupt(&from, k, d, item[i].x, given + i * n);
    }
    bmvp_net_on_tokens(p->net, dae_hide, &hidden);
    f = bmvp_net_encode(p->net, bmvp_input(p->c, 5, dim, given), 1);
    bmvp_net_on_tokens(p->net, NULL, NULL);
    if (k->weight_contrast > 0) contrast(p, &f);
    bmvp_pass_loss(p, 0, BMVP_LOSS_MEAN, 1, bmvp_l1(p->c, bmvp_net_reconstruct(p->net, &f),
                                                    bmvp_input(p->c, 5, dim, wanted)));
    free(given);
}

/* A step runs at the rate of the one before: the code moves the schedule after the step. */
static double rate(const bmvp_trainer *t, int64_t total)
{
    const dae_config *k = (const dae_config *)t->config;
    const int64_t step = t->samples / k->batch;
    bmvp_schedule s;
    memset(&s, 0, sizeof s);
    s.lr = k->lr, s.floor = k->lr_floor, s.start = k->lr_start, s.total = total, s.warm_from = s.whole = 1;
    s.warmup = k->warmup + (int64_t)(k->warmup_epochs / k->epochs * (double)total);
    return bmvp_schedule_lr(&s, step > 0 ? step - 1 : 0);
}

static void prepare(bmvp_trainer *t)
{
    const dae_config *k = (const dae_config *)t->config;
    if (strcmp(t->net_config.kind, "swin_unetr") == 0) (void)bmvp_net_config_set(&t->net_config, "dae=1", NULL);
    if (k->weight_contrast > 0 && !method_has_pairs(t, "dae", "weight_contrast=0")) return;
    if (k->crop % k->every)
        bmvp_fail(t->c, BMVP_E_ARG, "dae: a crop of %d is no multiple of every %d", k->crop, k->every);
}

static void create(bmvp_trainer *t)
{
    const int crop = ((const dae_config *)t->config)->crop;
    bmvp_state_decay_matrices(bmvp_net_state(t->net));
    if (method_crop_fits(t, crop) && crop <= 32 && strcmp(t->net_config.kind, "swin_unetr") == 0)
        bmvp_fail(t->c, BMVP_E_ARG, "dae: of a crop of %d the last map is a voxel, which has no statistics: --crop 64",
                  crop);
}

static const bmvp_method *method(void)
{
    static const char *const loss[] = { "rebuild", "contrast", NULL };
    static bmvp_method m;
    m.name = "dae", m.format = "bmvp dae 1", m.loss = loss, m.fields = fields, m.rate = rate;
    m.config_size = sizeof(dae_config), m.item_size = sizeof(method_item);
    m.prepare = prepare, m.create = create, m.forward = forward;
    return &m;
}

static int preset(const char *name, void *config)
{
    dae_config *k = (dae_config *)config;
    const method_preset_kind kind = method_preset(name, config, sizeof *k);
    const int fast = kind == METHOD_FAST;
    if (kind == METHOD_UNKNOWN) return 0;
    k->crop = fast ? 64 : 96, k->batch = 2, k->clip = 1, k->weight_decay = 0.05, k->epochs = 1000;
    k->lr = fast ? 1e-3 : 1e-4, k->lr_floor = k->lr / 10, k->lr_start = k->lr / 100, k->warmup_epochs = fast ? 0 : 4;
    k->noise = 0.1, k->every = 4, k->hide = 0.6, k->turned = kind == METHOD_RELEASE;
    k->weight_contrast = 0.03, k->temperature = 0.5, k->unit = fast;
    return 1;
}

static bmvp_status look(bmvp_trainer *t, const method_item *item, float *seen, float *back)
{
    const dae_config *k = (const dae_config *)t->config;
    const int64_t d[3] = { k->crop, k->crop, k->crop };
    bmvp_rng g = bmvp_rng_make((uint64_t)k->seed, METHOD_STREAM, 0, item->slot);
    draws r = draws_of(&g);
    dae_hidden hidden = { &r, k->hide, k->turned };
    bmvp_status st;
    dae_disrupt(&r, k, d, item->x, seen);
    bmvp_net_on_tokens(t->net, dae_hide, &hidden);
    st = method_look(t, k->crop, seen, 0, back);
    bmvp_net_on_tokens(t->net, NULL, NULL);
    return st;
}

const method_row method_dae = { "dae", "disrupted autoencoders", "Valanarasu et al., MIDL 2024",
                                "swin_unetr", "swin_unetr_tiny", method, preset, look, METHOD_CROP, NULL };
