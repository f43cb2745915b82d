/* swin_ssl.c - Swin-UNETR's self-supervision (Tang et al., CVPR 2022): rebuild, tell the turn, know the pair

   Each crop of a step is shown twice. A view is the crop turned by 0 to 3 quarters with boxes of it filled: some with
   noise, some with what another crop of the step has there. Three heads stand on the encoder's last map: the turned
   crop without boxes (L1), the number of quarters (cross-entropy), and a vector whose nearest among those of all views
   should be the one of the same crop's other view (InfoNCE).

   Paper and code: the code (Project-MONAI/research-contributions, SwinUNETR/Pretrain) pools nothing: it reads the turn
   from token 0 of the last map, a corner, and the vector from token 1, its neighbour, and it turns in the sagittal
   plane (`axial` 1: in the axial one). Rate and decay are 4e-4 and 1e-5 in the paper, 6e-6 and 0.1 in the published
   command. Of several ranks all crops take part, where the code's GPUs keep theirs apart. */
#include "methods.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SWIN_SSL_FIELDS(X) \
    X(int, axial, 0, 1, "views turn in the plane of y and z (0, as the code) or of x and y (1)") \
    X(double, cut_share, 0, 1, "boxes fill up to this share of a view, overlaps counted twice") \
    X(double, cut_least, 0, 1, "shortest side of a box / edge of the crop") \
    X(double, cut_most, 0, 1, "longest side of a box / edge of the crop, not reached") \
    X(int, vector, 2, 4096, "length of the vectors that are compared") \
    X(double, temperature, 1e-3, 1e3, "of the contrast") \
    X(double, weight_rebuild, 0, 1e6, "weight of the rebuilt crop; 0: off") \
    X(double, weight_turn, 0, 1e6, "weight of the turn; 0: off") \
    X(double, weight_contrast, 0, 1e6, "weight of the contrast; 0: off")
struct swin_ssl_config { BMVP_RUN_MEMBERS METHOD_FIELDS(BMVP_FIELD_MEMBER) SWIN_SSL_FIELDS(BMVP_FIELD_MEMBER) };
#define FIELD(type, name, low, high, text) BMVP_FIELD(swin_ssl_config, type, name, low, high, text)
static const bmvp_field fields[] = {
    METHOD_FIELDS(FIELD) SWIN_SSL_FIELDS(FIELD) BMVP_RUN_FIELDS(FIELD) BMVP_FIELDS_END
};

/* >>corruption ----------------------------------------------------------------------------------------------------- */

/* by quarters from axis i to axis j, which are equally long: after one, place (i, j) has what was at (j, n - 1 - i) */
void swin_ssl_turn(int quarters, const int64_t d[3], int i, int j, const float *from, float *to)
{
    const int64_t step[3] = { d[1] * d[2], d[2], 1 }, n = d[i], m = n - 1;
    int64_t k;
    for (k = 0; k < d[0] * d[1] * d[2]; ++k) {
        const int64_t p = k / step[i] % n, q = k / step[j] % n;
        const int64_t u[4] = { p, q, m - p, m - q }, v[4] = { q, m - p, m - q, p };
        to[k] = from[k + (u[quarters] - p) * step[i] + (v[quarters] - q) * step[j]];
    }
}

static int64_t side(double share, int64_t edge) { return (int64_t)(share * (double)edge); }

/* Between 0 for the least and 1 for the largest; of one voxel 0 */
static void scaled_noise(const draws *r, int64_t n, float *noise)
{
    float low, high;
    int64_t i;
    r->normal(r->user, n, noise);
    for (low = high = noise[0], i = 1; i < n; ++i) {
        low = noise[i] < low ? noise[i] : low;
        high = noise[i] > high ? noise[i] : high;
    }
    for (i = 0; i < n; ++i) noise[i] = high > low ? (noise[i] - low) / (high - low) : 0;
}

/* Boxes of x are filled with the voxels of other, or of NULL with noise. scratch: as large as x. */
static void cut(const draws *r, const swin_ssl_config *k, const int64_t d[3], const float *other, float *x,
                float *scratch)
{
    const double budget = k->cut_share * r->uniform(r->user) * (double)(d[0] * d[1] * d[2]);
    int64_t filled = 0, n, i;
    method_box b;
    int a;
    for (; (double)filled < budget; filled += n) {
        for (a = 0; a < 3; ++a) b.start[a] = r->whole(r->user, 0, d[a] - side(k->cut_least, d[a]) - 1);
        for (n = 1, a = 0; a < 3; n *= b.size[a++]) {
            b.size[a] = r->whole(r->user, side(k->cut_least, d[a]), side(k->cut_most, d[a]) - 1);
            b.size[a] = b.size[a] < 1 ? 1 : b.size[a] < d[a] - b.start[a] ? b.size[a] : d[a] - b.start[a];
        }
        if (!other) scaled_noise(r, n, scratch);
        for (i = 0; i < n; ++i) x[method_box_at(&b, d, i)] = other ? other[method_box_at(&b, d, i)] : scratch[i];
    }
}

/* Volume i of n at x: noise, then boxes of another one as it is by now. */
void swin_ssl_spoil(const draws *r, const swin_ssl_config *k, const int64_t d[3], int64_t n, int64_t i, float *x,
                    float *scratch)
{
    const int64_t voxels = d[0] * d[1] * d[2];
    int64_t other;
    cut(r, k, d, NULL, x + i * voxels, scratch);
    other = r->whole(r->user, 0, n - 1);
    if (other != i) cut(r, k, d, x + other * voxels, x + i * voxels, scratch);
}

/* >>heads ---------------------------------------------------------------------------------------------------------- */

/* The last map at 1 / stride is rebuilt by convolutions that halve the channels, each doubling the grid. */
static void create(bmvp_trainer *t)
{
    const swin_ssl_config *k = (const swin_ssl_config *)t->config;
    swin_ssl_heads *h = (swin_ssl_heads *)t->state;
    int64_t n = bmvp_net_channels_of(t->c, &t->net_config), left = bmvp_net_stride(t->net), out;
    char name[24];
    bmvp_module_begin(&h->m, t->c, bmvp_net_state(t->net));
    h->turn = bmvp_make_linear(&h->m, "rotation_head", n, 4, 1);
    h->vector = bmvp_make_linear(&h->m, "contrastive_head", n, k->vector, 1);
    for (; left > 1; left /= 2, n = out) {
        out = left > 2 ? n / 2 : n;
        snprintf(name, sizeof name, "conv.%d", 4 * h->levels);
        h->conv[h->levels++] = bmvp_make_conv(&h->m, name, n, out, 3, 1, 1, 1);
    }
    snprintf(name, sizeof name, "conv.%d", 4 * h->levels);
    h->last = bmvp_make_conv(&h->m, name, n, 1, 1, 1, 0, 1);
}

swin_ssl_answers swin_ssl_run(bmvp_net *net, swin_ssl_heads *h, bmvp_tensor *x, int training)
{
    const bmvp_features f = bmvp_net_encode(net, x, training);
    bmvp_ctx *c = net->m.c;
    swin_ssl_answers a;
    bmvp_tensor *y = f.last, *tokens;
    int64_t dim[3], next, i;
    if (!y) return memset(&a, 0, sizeof a), a;
    dim[0] = y->dim[0], dim[1] = y->dim[1] * y->dim[2] * y->dim[3], dim[2] = y->dim[4];
    next = y->dim[1] > 1 ? y->dim[2] * y->dim[3] : y->dim[2] > 1 ? y->dim[3] : 1; /* tokens count with x slowest */
    tokens = bmvp_reshape(c, y, 3, dim);
    dim[1] = dim[2];
    a.turn = bmvp_run(&h->m, &h->turn, bmvp_reshape(c, bmvp_slice(c, tokens, 1, 0, 1), 2, dim));
    a.vector = bmvp_run(&h->m, &h->vector, bmvp_reshape(c, bmvp_slice(c, tokens, 1, next, 1), 2, dim));
    for (i = 0; i < h->levels; ++i) {
        y = bmvp_leaky_relu(c, bmvp_instancenorm(c, bmvp_run(&h->m, &h->conv[i], y), 1e-5), 0.01);
        a.step[i] = y = bmvp_upsample_trilinear(c, y, 2, 0);
    }
    a.rebuilt = bmvp_run(&h->m, &h->last, y);
    return a;
}

/* >>losses --------------------------------------------------------------------------------------------------------- */

/* given and wanted: the first views of this rank's crops, then the second ones */
static void losses(bmvp_pass *p, bmvp_tensor *given, bmvp_tensor *wanted, const int32_t *turns)
{
    const swin_ssl_config *k = (const swin_ssl_config *)p->config;
    const swin_ssl_answers a = swin_ssl_run(p->net, (swin_ssl_heads *)p->state, given, 1);
    bmvp_tensor *z[2];
    int view;
    for (view = 0; view < 2 && k->weight_contrast > 0; ++view)
        z[view] = bmvp_pass_rows(p, bmvp_slice(p->c, a.vector, 0, view * p->n, p->n), k->vector, NULL);
    bmvp_pass_loss(p, 0, BMVP_LOSS_MEAN, k->weight_rebuild, bmvp_l1(p->c, a.rebuilt, wanted));
    bmvp_pass_loss(p, 1, BMVP_LOSS_MEAN, k->weight_turn, bmvp_cross_entropy(p->c, a.turn, turns));
    if (k->weight_contrast > 0)
        bmvp_pass_loss(p, 2, BMVP_LOSS_ALL, k->weight_contrast,
                       method_info_nce(p->c, bmvp_concat(p->c, 2, z, 0), k->temperature));
}

/* A view of the crops of all ranks at x; this rank's are kept: the quarters, the turned crop, and that with boxes. */
static void make_view(bmvp_pass *p, int view, const float *crops, float *x, int32_t *turns, float *wanted, float *given)
{
    const swin_ssl_config *k = (const swin_ssl_config *)p->config;
    const int64_t e = k->crop, d[3] = { e, e, e }, n = e * e * e, own = p->n * n;
    const uint32_t stream = METHOD_STREAM + 2 * (uint32_t)view;
    int64_t i;
    for (i = 0; i < p->n_all; ++i) {
        bmvp_rng g = bmvp_pass_rng(p, stream, method_slot(crops, e, i));
        const int32_t quarters = (int32_t)bmvp_rng_below(&g, 4);
        swin_ssl_turn(quarters, d, k->axial ? 2 : 1, k->axial, crops + i * (n + 1), x + i * n);
        if (i >= p->first && i < p->first + p->n) turns[i - p->first] = quarters;
    }
    memcpy(wanted, x + p->first * n, (size_t)own * sizeof *x);
    for (i = 0; i < p->n_all; ++i) {
        bmvp_rng g = bmvp_pass_rng(p, stream + 1, method_slot(crops, e, i));
        const draws r = draws_of(&g);
        swin_ssl_spoil(&r, k, d, p->n_all, i, x, x + p->n_all * n);
    }
    memcpy(given, x + p->first * n, (size_t)own * sizeof *x);
}

static void forward(bmvp_pass *p)
{
    const int64_t e = ((const swin_ssl_config *)p->config)->crop, n = e * e * e, own = p->n * n;
    const int64_t dim[5] = { 2 * p->n, e, e, e, 1 };
    float *crops = bmvp_pass_needs(p, p->n, "crop", "a larger batch") ? method_crops_of_all(p, (int)e) : NULL;
    float *x = crops ? (float *)calloc((size_t)((p->n_all + 1) * n + 4 * own), sizeof *x) : NULL;
    int32_t turns[2 * 256] = { 0 }; /* a batch has 256 at most */
    int view;
    if (x) {
        float *const wanted = x + (p->n_all + 1) * n, *const given = wanted + 2 * own;
        for (view = 0; view < 2 && !bmvp_is_plan(p->c); ++view)
            make_view(p, view, crops, x, turns + view * p->n, wanted + view * own, given + view * own);
        losses(p, bmvp_input(p->c, 5, dim, given), bmvp_input(p->c, 5, dim, wanted), turns);
    } else if (crops) bmvp_fail(p->c, BMVP_E_OOM, "swin_ssl: no memory for the views of %d crops", (int)p->n_all);
    free(crops);
    free(x);
}

/* >>method --------------------------------------------------------------------------------------------------------- */

static void prepare(bmvp_trainer *t)
{
    const swin_ssl_config *k = (const swin_ssl_config *)t->config;
    const int64_t stride = bmvp_net_stride_of(t->c, &t->net_config);
    t->net_config.task = BMVP_TASK_ENCODE;
    if (k->weight_contrast > 0 && !method_has_pairs(t, "swin_ssl", "weight_contrast=0")) return;
    if (stride < 2 || stride > 256 || stride & (stride - 1) || bmvp_net_channels_of(t->c, &t->net_config) < stride)
        bmvp_fail(t->c, BMVP_E_ARG, "swin_ssl: the last map of %s cannot be rebuilt step by step: take --network %s",
                  t->net_config.name, method_swin_ssl.network);
    else if (k->crop % stride || k->crop == stride)
        bmvp_fail(t->c, BMVP_E_ARG, "swin_ssl: a crop of %d is one token of %s, or none, where two are read: --crop %d "
                  "or another multiple of %d", k->crop, t->net_config.name, (int)(2 * stride), (int)stride);
    else if (side(k->cut_most, k->crop) <= side(k->cut_least, k->crop))
        bmvp_fail(t->c, BMVP_E_ARG, "swin_ssl: there are no boxes of %g to %g of a crop of %d: a larger --crop or "
                  "cut_most", k->cut_least, k->cut_most, k->crop);
}

static const bmvp_method *method(void)
{
    static const char *const loss[] = { "rebuild", "turn", "contrast", NULL };
    static bmvp_method m;
    m.name = "swin_ssl", m.format = "bmvp swin_ssl 1", m.loss = loss, m.fields = fields;
    m.config_size = sizeof(swin_ssl_config), m.state_size = sizeof(swin_ssl_heads), m.item_size = sizeof(method_item);
    m.prepare = prepare, m.create = create, m.forward = forward;
    return &m;
}

static int preset(const char *name, void *config)
{
    swin_ssl_config *k = (swin_ssl_config *)config;
    const method_preset_kind kind = method_preset(name, config, sizeof *k);
    const int fast = kind == METHOD_FAST, paper = kind == METHOD_PAPER;
    if (kind == METHOD_UNKNOWN) return 0;
    k->crop = fast ? 64 : 96, k->batch = paper ? 4 : 2, k->warmup = fast ? 10 : 500;
    k->lr = fast ? 1e-3 : paper ? 4e-4 : 6e-6, k->weight_decay = fast || paper ? 1e-5 : 0.1;
    k->cut_share = 0.3, k->cut_least = 0.05, k->cut_most = 0.25, k->vector = fast ? 64 : 512, k->temperature = 0.5;
    k->weight_rebuild = k->weight_turn = k->weight_contrast = 1;
    return 1;
}

/* Only noise is cut into it: there is no other crop. */
static bmvp_status look(bmvp_trainer *t, const method_item *item, float *seen, float *back)
{
    const swin_ssl_config *k = (const swin_ssl_config *)t->config;
    const int64_t e = k->crop, d[3] = { e, e, e }, dim[5] = { 1, e, e, e, 1 };
    const int was = method_look_begin(t);
    bmvp_rng g = bmvp_rng_make((uint64_t)k->seed, METHOD_STREAM, 0, item->slot);
    const draws r = draws_of(&g);
    memcpy(seen, item->x, (size_t)(e * e * e) * sizeof *seen);
    swin_ssl_spoil(&r, k, d, 1, 0, seen, back);
    return method_look_end(t, was, NULL, swin_ssl_run(t->net, (swin_ssl_heads *)t->state,
                                                      bmvp_input(t->c, 5, dim, seen), 0).rebuilt, 0, NULL, back);
}

const method_row method_swin_ssl = { "swin_ssl", "Swin-UNETR's self-supervision", "Tang et al., CVPR 2022",
                                     "swin_unetr", "swin_unetr_tiny", method, preset, look, METHOD_CROP, NULL };
