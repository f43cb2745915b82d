/* simmim.c - SimMIM (Xie et al., CVPR 2022; in 3-D: Chen et al., WACV 2023): rebuild masked patches by one linear layer

   A crop is cut into patches, a token each. Masked tokens are replaced by one learned token behind the embedding, keep
   their positions, and all of them pass the encoder. A linear head is asked for the voxels of the masked ones: L1.

   Paper and code: preset `release` is ZEKAICHEN/MIM-Med3D as it runs on BraTS: the tokens of the largest noise, three
   of four, are masked, no LayerNorm behind the encoder (UNETR then applies it as it started), a constant rate, decay of
   all parameters. `paper` is microsoft/SimMIM carried over to 3-D: blocks of 32 voxels, of which 6 of 10 are masked
   by a permutation, the LayerNorm, the loss divided by the masked voxels + 1e-5, no decay of vectors, a rate that falls
   to a tenth at 700 of 800 epochs (shares of the run). Its class token, shared biases and drop path are not UNETR's and
   left out. */
#include "tokens.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define SIMMIM_FIELDS(X) \
    X(double, mask_ratio, 0.01, 0.99, "share of the tokens, or of the blocks, that are masked") \
    X(int, mask_block, 0, 1024, "0: tokens are masked by noise; else edge in voxels of the blocks that are masked") \
    X(int, final_norm, 0, 1, "1: the LayerNorm behind the encoder's blocks is applied") \
    X(int, soft, 0, 1, "1: the loss is divided by the masked voxels + 1e-5, 0: by their number") \
    X(int, decay_vectors, 0, 1, "0: weight decay spares biases, norms and the mask token") \
    X(int, warmup_epochs, 0, 1000000, "of `epochs`: linear warm-up; 0: warmup counts, in steps") \
    X(double, warmup_from, 0, 10, "rate at the beginning of it") \
    X(int, tenth_epoch, 0, 1000000, "the rate is constant and falls to a tenth there; 0: half a cosine to lr_floor")
struct simmim_config { BMVP_RUN_MEMBERS METHOD_FIELDS(BMVP_FIELD_MEMBER) SIMMIM_FIELDS(BMVP_FIELD_MEMBER) };
#define FIELD(type, name, low, high, text) BMVP_FIELD(simmim_config, type, name, low, high, text)
static const bmvp_field fields[] = {
    METHOD_FIELDS(FIELD) SIMMIM_FIELDS(FIELD) BMVP_RUN_FIELDS(FIELD) BMVP_FIELDS_END
};

/* >>corruption ----------------------------------------------------------------------------------------------------- */

/* 1 in the tokens of masked blocks: the first of a permutation, as many as make the ratio at least. 0: no memory. */
int simmim_blocks(const draws *r, double ratio, const int64_t grid[3], const int64_t block[3], int32_t *mask)
{
    const int64_t side[3] = { grid[0] / block[0], grid[1] / block[1], grid[2] / block[2] },
                  n = side[0] * side[1] * side[2], hidden = (int64_t)ceil((double)n * ratio);
    int32_t *order = (int32_t *)malloc(2 * (size_t)n * sizeof *order), *hides = order + n;
    int64_t i;
    if (!order) return 0;
    r->order(r->user, n, order);
    for (i = 0; i < n; ++i) hides[order[i]] = i < hidden;
    for (i = 0; i < grid[0] * grid[1] * grid[2]; ++i) {
        const int64_t z = i / (grid[1] * grid[2]) / block[0], y = i / grid[2] % grid[1] / block[1],
                      x = i % grid[2] / block[2];
        mask[i] = hides[(z * side[1] + y) * side[2] + x];
    }
    free(order);
    return 1;
}

/* The tokens of the largest noise, from the largest on, in front of the others. 0: no memory. */
int simmim_largest(const draws *r, int64_t tokens, int32_t *index)
{
    int32_t *order = tokens_by_noise(r, tokens);
    int64_t i;
    for (i = 0; i < tokens && order; ++i) index[i] = order[tokens - 1 - i];
    free(order);
    return order != NULL;
}

static int64_t hidden_of(const simmim_config *k, const token_grid *g)
{
    const int64_t b = k->mask_block > 0 ? k->mask_block / g->patch : 1, n = g->count / (b * b * b);
    return k->mask_block > 0 ? (int64_t)ceil((double)n * k->mask_ratio) * b * b * b
                             : (int64_t)((double)n * k->mask_ratio);
}

/* Masked tokens, then the others */
static int choose(const draws *r, const simmim_config *k, const token_grid *g, int32_t *index)
{
    const int64_t b = k->mask_block / g->patch, grid[3] = { g->side, g->side, g->side }, block[3] = { b, b, b };
    int32_t *mask;
    int64_t i, n = 0;
    int ok, hide;
    if (k->mask_block == 0) return simmim_largest(r, g->count, index);
    mask = (int32_t *)malloc((size_t)g->count * sizeof *mask);
    ok = mask && simmim_blocks(r, k->mask_ratio, grid, block, mask);
    for (hide = 1; ok && hide >= 0; --hide)
        for (i = 0; i < g->count; ++i)
            if (mask[i] == hide) index[n++] = (int32_t)i;
    free(mask);
    return ok;
}

/* >>heads ---------------------------------------------------------------------------------------------------------- */

typedef struct simmim_state { bmvp_layer voxels; bmvp_tensor *mask; } simmim_state;

static void create(bmvp_trainer *t)
{
    const token_grid g = tokens_of(t);
    simmim_state *s = (simmim_state *)t->state;
    s->mask = bmvp_make_tensor(&t->net->m, "mask_token", 1, &g.channels);
    s->voxels = bmvp_make_linear(&t->net->m, "to_pixels", g.channels, g.voxels, 1);
    tokens_start_small(&t->net->m, &s->voxels);
    bmvp_init_as(&t->net->m, s->mask, BMVP_INIT_NORMAL, 1);
    if (!((const simmim_config *)t->config)->decay_vectors) bmvp_state_decay_matrices(bmvp_net_state(t->net));
}

static bmvp_tensor *rebuild(bmvp_trainer *t, int64_t n, const float *x, const int32_t *masked, const int32_t *seen)
{
    const simmim_config *k = (const simmim_config *)t->config;
    const simmim_state *s = (const simmim_state *)t->state;
    const token_grid g = tokens_of(t);
    const int64_t hidden = hidden_of(k, &g), d[5] = { n, g.edge, g.edge, g.edge, 1 };
    int32_t *all = (int32_t *)calloc((size_t)(n * (hidden + g.count)), sizeof *all), *mask = all + n * hidden;
    bmvp_tensor *y;
    int64_t i;
    (void)seen;
    if (!all) return (bmvp_tensor *)bmvp_fail(t->c, BMVP_E_OOM, "simmim: no memory for the tokens of %d crops", (int)n);
    if (!bmvp_is_plan(t->c)) tokens_of_all(n, hidden, g.count, masked, all);
    for (i = 0; i < n * hidden; ++i) mask[all[i]] = 1;
    y = bmvp_where_rows(t->c, bmvp_net_embed(t->net, bmvp_input(t->c, 5, d, x), 1), s->mask, mask);
    y = bmvp_add_tokens(&t->net->m, y, bmvp_net_positions(t->net));
    y = bmvp_gather_rows(t->c, bmvp_net_blocks(t->net, y, k->final_norm), n * hidden, all);
    free(all);
    return bmvp_run(&t->net->m, &s->voxels, y);
}

/* >>loss ----------------------------------------------------------------------------------------------------------- */

/* voxels: how many are masked */
bmvp_tensor *simmim_loss(bmvp_ctx *c, bmvp_tensor *back, bmvp_tensor *wanted, double voxels, int soft)
{
    bmvp_tensor *l = bmvp_l1(c, back, wanted);
    return soft ? bmvp_scale(c, l, voxels / (voxels + 1e-5), 0) : l;
}

bmvp_tensor *simmim_losses(bmvp_pass *p, const int32_t *masked)
{
    const simmim_config *k = (const simmim_config *)p->config;
    const token_grid g = tokens_of(p->trainer);
    const int64_t n = p->n, hidden = hidden_of(k, &g), dim[2] = { n * hidden, g.voxels };
    float *x = (float *)calloc((size_t)(n * (g.count + hidden) * g.voxels), sizeof *x);
    float *const wanted = x + n * g.count * g.voxels;
    bmvp_tensor *back;
    if (!x) return (bmvp_tensor *)bmvp_fail(p->c, BMVP_E_OOM, "simmim: no memory for %d crops", (int)n);
    tokens_crops(p, hidden, masked, x, wanted);
    back = rebuild(p->trainer, n, x, masked, NULL);
    bmvp_pass_loss(p, 0, BMVP_LOSS_MEAN, 1,
                   simmim_loss(p->c, back, bmvp_input(p->c, 2, dim, wanted), (double)(n * hidden * g.voxels), k->soft));
    free(x);
    return back;
}

/* >>method --------------------------------------------------------------------------------------------------------- */

static void prepare(bmvp_trainer *t)
{
    const simmim_config *k = (const simmim_config *)t->config;
    token_grid g;
    tokens_prepare(t);
    if (bmvp_failed(t->c)) return;
    g = tokens_of(t);
    if (k->mask_block % g.patch || (k->mask_block > 0 && g.edge % k->mask_block))
        bmvp_fail(t->c, BMVP_E_ARG, "simmim: mask_block %d must be a multiple of the token's %d voxels and divide the "
                  "crop's %d", k->mask_block, (int)g.patch, (int)g.edge);
    else if (hidden_of(k, &g) < 1)
        bmvp_fail(t->c, BMVP_E_ARG,
                  "simmim: mask_ratio %g masks none of %d tokens; take a larger one, or a larger crop", k->mask_ratio,
                  (int)g.count);
}

static void forward(bmvp_pass *p)
{
    const simmim_config *k = (const simmim_config *)p->config;
    const method_item *item = (const method_item *)p->items;
    const token_grid g = tokens_of(p->trainer);
    const int64_t hidden = hidden_of(k, &g);
    int32_t *masked = (int32_t *)calloc((size_t)((p->n + 1) * g.count), sizeof *masked);
    int i, ok = masked != NULL;
    for (i = 0; i < p->n && ok && !bmvp_is_plan(p->c); ++i) { /* the others are written over by the next crop's */
        bmvp_rng noise;
        const draws r = method_draws(p, &item[i], &noise);
        ok = choose(&r, k, &g, masked + i * hidden);
    }
    if (ok) (void)simmim_losses(p, masked);
    else bmvp_fail(p->c, BMVP_E_OOM, "simmim: no memory for the tokens of %d crops", p->n);
    free(masked);
}

static double rate(const bmvp_trainer *t, int64_t total)
{
    const simmim_config *k = (const simmim_config *)t->config;
    const double e = tokens_epoch(t, total);
    if (e < k->warmup_epochs) return k->warmup_from + (k->lr - k->warmup_from) * e / k->warmup_epochs;
    if (k->tenth_epoch > 0) return e < k->tenth_epoch ? k->lr : k->lr / 10;
    return tokens_run_rate(t, total, k->warmup_epochs, 0);
}

static const bmvp_method *method(void)
{
    static const char *const loss[] = { "masked", NULL };
    static bmvp_method m;
    m.name = "simmim", m.format = "bmvp simmim 1", m.loss = loss, m.fields = fields;
    m.config_size = sizeof(simmim_config), m.state_size = sizeof(simmim_state), m.item_size = sizeof(method_item);
    m.prepare = prepare, m.create = create, m.forward = forward, m.rate = rate;
    return &m;
}

static int preset(const char *name, void *config)
{
    simmim_config *k = (simmim_config *)config;
    const method_preset_kind kind = method_preset(name, config, sizeof *k);
    const int fast = kind == METHOD_FAST, paper = kind == METHOD_PAPER;
    if (kind == METHOD_UNKNOWN) return 0;
    k->crop = fast ? 64 : 96, k->batch = fast ? 4 : 16, k->mask_ratio = 0.75, k->decay_vectors = 1;
    k->lr_floor = fast ? 0 : k->lr; /* constant */
    if (fast) k->lr = 2e-3, k->warmup = 10;
    if (!paper) return 1;
    k->mask_ratio = 0.6, k->mask_block = 32, k->final_norm = k->soft = 1, k->decay_vectors = 0;
    k->epochs = 800, k->warmup_epochs = 10, k->tenth_epoch = 700, k->clip = 5, k->weight_decay = 0.05;
    k->lr = 1e-4 * k->batch / 512, k->warmup_from = 5e-7 * k->batch / 512;
    return 1;
}

static bmvp_status look(bmvp_trainer *t, const method_item *item, float *seen, float *back)
{
    const simmim_config *k = (const simmim_config *)t->config;
    const token_grid g = tokens_of(t);
    bmvp_rng noise = bmvp_rng_make((uint64_t)k->seed, METHOD_STREAM, 0, item->slot);
    const draws r = draws_of(&noise);
    int32_t *index = (int32_t *)malloc((size_t)g.count * sizeof *index);
    if (!index || !choose(&r, k, &g, index)) bmvp_fail(t->c, BMVP_E_OOM, "simmim: no memory for a look at a crop");
    tokens_look(t, item->x, hidden_of(k, &g), index, 0, rebuild, seen, back);
    free(index);
    return bmvp_error_of(t->c)->status;
}

const method_row method_simmim = { "simmim", "SimMIM", "Xie et al., CVPR 2022; Chen et al., WACV 2023",
                                   "unetr", "unetr_tiny", method, preset, look, METHOD_CROP, NULL };
