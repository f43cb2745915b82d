/* mae3d.c - masked auto-encoder of a transformer's tokens (He et al., CVPR 2022; in 3-D: Chen et al., WACV 2023)

   A crop is cut into patches, a token each. Three of four are masked at random; the encoder sees the others alone. A
   small decoder gets what it made of them, and for each masked token one learned token with its position, and is asked
   for the voxels of the masked patches.

   Paper and code: preset `release` is ZEKAICHEN/MIM-Med3D, `paper` the original's recipe carried over to 3-D. The code
   masks the tokens of the smallest noise, the original keeps them, and 54 of 216 are seen in both. The code takes L1 of
   raw voxels, learned positions, no LayerNorm behind the encoder (UNETR then applies it as it started), decay of all
   parameters, and in its first epoch the rate 0; the original takes the squared error of each patch normalised, sines
   and cosines (in 3-D their width is a multiple of 6: the decoder has 528, not 512), the LayerNorm, no decay of
   vectors. Epochs are shares of the run: 300 of 3000 are its first tenth, however long it is. */
#include "tokens.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_BLOCKS = 24 };
#define MAE3D_FIELDS(X) \
    X(double, mask_ratio, 0.01, 0.99, "share of the tokens that are masked") \
    X(int, keep_smallest, 0, 1, "the smallest noise is 0: masked, as in the code; 1: seen, as in the original") \
    X(int, norm_pix, 0, 1, "1: a patch is wanted less its mean, by its deviation") \
    X(int, squared, 0, 1, "0: absolute error, 1: squared error") \
    X(int, sincos, 0, 1, "positions are 0: learned, 1: fixed sines and cosines") \
    X(int, final_norm, 0, 1, "1: the LayerNorm behind the encoder's blocks is applied") \
    X(int, decoder_width, 1, 8192, "channels of the decoder's tokens; a multiple of 6 with sincos") \
    X(int, decoder_depth, 1, MOST_BLOCKS, "its blocks") \
    X(int, decoder_heads, 1, 1024, "its attention heads; they divide the width") \
    X(int, decoder_mlp, 1, 65536, "hidden channels of its MLPs") \
    X(int, decay_vectors, 0, 1, "0: weight decay spares biases, norms and the mask token") \
    X(int, warmup_epochs, 0, 1000000, "of `epochs`: linear warm-up, then half a cosine; 0: warmup counts, in steps") \
    X(int, by_epoch, 0, 1, "1: that rate changes from epoch to epoch, and is 0 in the first, as in the code")
struct mae3d_config { BMVP_RUN_MEMBERS METHOD_FIELDS(BMVP_FIELD_MEMBER) MAE3D_FIELDS(BMVP_FIELD_MEMBER) };
#define FIELD(type, name, low, high, text) BMVP_FIELD(mae3d_config, type, name, low, high, text)
static const bmvp_field fields[] = { METHOD_FIELDS(FIELD) MAE3D_FIELDS(FIELD) BMVP_RUN_FIELDS(FIELD) BMVP_FIELDS_END };

/* >>corruption ----------------------------------------------------------------------------------------------------- */

int64_t mae3d_masked(const mae3d_config *k, int64_t tokens)
{
    return k->keep_smallest ? tokens - (int64_t)((double)tokens * (1 - k->mask_ratio))
                            : (int64_t)((double)tokens * k->mask_ratio);
}

int mae3d_choose(const draws *r, const mae3d_config *k, int64_t tokens, int32_t *masked, int32_t *seen)
{
    const size_t m = (size_t)mae3d_masked(k, tokens), s = (size_t)tokens - m;
    int32_t *order = tokens_by_noise(r, tokens);
    if (order) memcpy(masked, order + (k->keep_smallest ? s : 0), m * sizeof *masked);
    if (order) memcpy(seen, order + (k->keep_smallest ? 0 : m), s * sizeof *seen);
    free(order);
    return order != NULL;
}

/* >>heads ---------------------------------------------------------------------------------------------------------- */

typedef struct mae3d_state {
    bmvp_layer narrow, norm, voxels;         /* encoder to decoder, behind its blocks, to a patch */
    bmvp_attention_block block[MOST_BLOCKS];
    bmvp_tensor *mask, *position;
} mae3d_state;

static void create(bmvp_trainer *t)
{
    const mae3d_config *k = (const mae3d_config *)t->config;
    const token_grid g = tokens_of(t);
    const int64_t width = k->decoder_width, grid[3] = { g.side, g.side, g.side };
    mae3d_state *s = (mae3d_state *)t->state;
    bmvp_module *m = &t->net->m;
    char name[32];
    int i;
    s->mask = bmvp_make_tensor(m, "mask_token", 1, &width);
    s->narrow = bmvp_make_linear(m, "enc_to_dec", g.channels, width, 1);
    for (i = 0; i < k->decoder_depth; ++i) {
        snprintf(name, sizeof name, "decoder_blocks.%d", i);
        s->block[i] = tokens_make_block(m, name, width, k->decoder_heads, k->decoder_mlp);
    }
    s->norm = bmvp_make_layernorm(m, "decoder_norm", width);
    s->position = bmvp_make_tokens(m, "decoder_pos_emb", grid, width);
    s->voxels = bmvp_make_linear(m, "to_pixels", width, g.voxels, 1);
    tokens_start_small(m, &s->narrow), tokens_start_small(m, &s->voxels);
    bmvp_init_as(m, s->mask, BMVP_INIT_NORMAL, 1);
    bmvp_init_as(m, s->position, BMVP_INIT_NORMAL, 1);
    if (!k->decay_vectors) bmvp_state_decay_matrices(bmvp_net_state(t->net));
    if (k->sincos) tokens_freeze(bmvp_net_state(t->net), bmvp_net_positions(t->net));
    if (k->sincos) tokens_freeze(bmvp_net_state(t->net), s->position);
}

static void start(bmvp_trainer *t)
{
    if (((const mae3d_config *)t->config)->sincos) tokens_fix_positions(t, ((mae3d_state *)t->state)->position);
}

/* Tokens of n crops x, of each the `masked` and the `seen` (rows of one crop, one crop behind the other): what comes
   back of the masked ones, (n masked, voxels of a patch). */
static bmvp_tensor *rebuild(bmvp_trainer *t, int64_t n, const float *x, const int32_t *masked, const int32_t *seen)
{
    const mae3d_config *k = (const mae3d_config *)t->config;
    const mae3d_state *s = (const mae3d_state *)t->state;
    const token_grid g = tokens_of(t);
    const int64_t hidden = mae3d_masked(k, g.count), rest = g.count - hidden;
    int64_t d[5] = { n, g.edge, g.edge, g.edge, 1 };
    bmvp_module *m = &t->net->m;
    bmvp_tensor *part[2], *y, *pos = bmvp_net_positions(t->net);
    int32_t *all = (int32_t *)malloc((size_t)(n * rest + 1) * sizeof *all);
    int i;
    if (!all) return (bmvp_tensor *)bmvp_fail(t->c, BMVP_E_OOM, "mae3d: no memory for the tokens of %d crops", (int)n);
    if (!bmvp_is_plan(t->c)) tokens_of_all(n, rest, g.count, seen, all);
    y = bmvp_add_tokens(m, bmvp_net_embed(t->net, bmvp_input(t->c, 5, d, x), 1), pos);
    d[1] = rest, d[2] = g.channels;
    y = bmvp_net_blocks(t->net, bmvp_reshape(t->c, bmvp_gather_rows(t->c, y, n * rest, all), 3, d), k->final_norm);
    free(all);
    d[2] = k->decoder_width;
    part[1] = bmvp_reshape(t->c, bmvp_gather_rows(t->c, s->position, n * rest, seen), 3, d);
    part[1] = bmvp_add(t->c, bmvp_run(m, &s->narrow, y), part[1]);
    d[1] = hidden;
    part[0] = bmvp_add(t->c, bmvp_gather_rows(t->c, s->position, n * hidden, masked), s->mask);
    part[0] = bmvp_reshape(t->c, part[0], 3, d);
    y = bmvp_concat(t->c, 2, part, 1);
    for (i = 0; i < k->decoder_depth; ++i) y = bmvp_run_attention_block(m, &s->block[i], y);
    y = bmvp_run(m, &s->voxels, bmvp_run(m, &s->norm, bmvp_slice(t->c, y, 1, 0, hidden)));
    d[0] = n * hidden, d[1] = g.voxels;
    return bmvp_reshape(t->c, y, 2, d);
}

/* >>loss ----------------------------------------------------------------------------------------------------------- */

void mae3d_normalise(int64_t n, int64_t voxels, float *row)
{
    double mean, by;
    int64_t i;
    for (; n > 0; --n, row += voxels) {
        by = tokens_deviation(voxels, row, &mean);
        for (i = 0; i < voxels; ++i) row[i] = (float)(((double)row[i] - mean) / by);
    }
}

bmvp_tensor *mae3d_loss(bmvp_ctx *c, const mae3d_config *k, bmvp_tensor *back, bmvp_tensor *wanted)
{
    return k->squared ? bmvp_mse(c, back, wanted) : bmvp_l1(c, back, wanted);
}

bmvp_tensor *mae3d_losses(bmvp_pass *p, const int32_t *masked, const int32_t *seen)
{
    const mae3d_config *k = (const mae3d_config *)p->config;
    const token_grid g = tokens_of(p->trainer);
    const int64_t n = p->n, hidden = mae3d_masked(k, g.count), dim[2] = { n * hidden, g.voxels };
    float *x = (float *)calloc((size_t)(n * (g.count + hidden) * g.voxels), sizeof *x);
    float *const wanted = x + n * g.count * g.voxels;
    bmvp_tensor *back;
    if (!x) return (bmvp_tensor *)bmvp_fail(p->c, BMVP_E_OOM, "mae3d: no memory for %d crops", (int)n);
    tokens_crops(p, hidden, masked, x, wanted);
    if (k->norm_pix) mae3d_normalise(n * hidden, g.voxels, wanted);
    back = rebuild(p->trainer, n, x, masked, seen);
    bmvp_pass_loss(p, 0, BMVP_LOSS_MEAN, 1, mae3d_loss(p->c, k, back, bmvp_input(p->c, 2, dim, wanted)));
    free(x);
    return back;
}

/* >>method --------------------------------------------------------------------------------------------------------- */

static void prepare(bmvp_trainer *t)
{
    const mae3d_config *k = (const mae3d_config *)t->config;
    token_grid g;
    tokens_prepare(t);
    if (bmvp_failed(t->c)) return;
    g = tokens_of(t);
    if (mae3d_masked(k, g.count) < 1 || mae3d_masked(k, g.count) >= g.count)
        bmvp_fail(t->c, BMVP_E_ARG, "mae3d: mask_ratio %g masks %d of %d tokens; some must be masked and some seen",
                  k->mask_ratio, (int)mae3d_masked(k, g.count), (int)g.count);
    else if (k->decoder_width % k->decoder_heads || (k->sincos && (k->decoder_width % 6 || g.channels % 6)))
        bmvp_fail(t->c, BMVP_E_ARG, "mae3d: %d decoder_heads must divide decoder_width %d%s", k->decoder_heads,
                  k->decoder_width, k->sincos ? "; sincos: it and the network's width must be multiples of 6" : "");
}

static void forward(bmvp_pass *p)
{
    const mae3d_config *k = (const mae3d_config *)p->config;
    const method_item *item = (const method_item *)p->items;
    const int64_t tokens = tokens_of(p->trainer).count, hidden = mae3d_masked(k, tokens);
    int32_t *masked = (int32_t *)calloc((size_t)(p->n * tokens) + 1, sizeof *masked);
    int32_t *const seen = masked + p->n * hidden;
    int i, ok = masked != NULL;
    for (i = 0; i < p->n && ok && !bmvp_is_plan(p->c); ++i) {
        bmvp_rng noise;
        const draws r = method_draws(p, &item[i], &noise);
        ok = mae3d_choose(&r, k, tokens, masked + i * hidden, seen + i * (tokens - hidden));
    }
    if (ok) (void)mae3d_losses(p, masked, seen);
    else bmvp_fail(p->c, BMVP_E_OOM, "mae3d: no memory for the tokens of %d crops", p->n);
    free(masked);
}

static double rate(const bmvp_trainer *t, int64_t total)
{
    const mae3d_config *k = (const mae3d_config *)t->config;
    return tokens_run_rate(t, total, k->warmup_epochs, k->by_epoch);
}

static const bmvp_method *method(void)
{
    static const char *const loss[] = { "masked", NULL };
    static bmvp_method m;
    m.name = "mae3d", m.format = "bmvp mae3d 1", m.loss = loss, m.fields = fields;
    m.config_size = sizeof(mae3d_config), m.state_size = sizeof(mae3d_state), m.item_size = sizeof(method_item);
    m.prepare = prepare, m.create = create, m.start = start, m.forward = forward, m.rate = rate;
    return &m;
}

static int preset(const char *name, void *config)
{
    mae3d_config *k = (mae3d_config *)config;
    const method_preset_kind kind = method_preset(name, config, sizeof *k);
    const int fast = kind == METHOD_FAST, paper = kind == METHOD_PAPER;
    if (kind == METHOD_UNKNOWN) return 0;
    k->crop = fast ? 64 : 96, k->batch = fast ? 4 : 16, k->mask_ratio = 0.75, k->weight_decay = 0.05;
    k->decoder_width = fast ? 48 : 512, k->decoder_depth = fast ? 2 : 8, k->decoder_heads = fast ? 3 : 8;
    k->decoder_mlp = fast ? 192 : 2048, k->decay_vectors = !paper;
    k->epochs = fast ? 100 : 3000, k->warmup_epochs = fast ? 0 : 300, k->by_epoch = !fast && !paper;
    k->lr = fast ? 2e-3 : 3e-4, k->lr_floor = fast ? 0 : 1e-4, k->warmup = fast ? 10 : 0;
    if (!paper) return 1;
    k->keep_smallest = k->norm_pix = k->squared = k->sincos = k->final_norm = 1;
    k->decoder_width = 528, k->decoder_heads = 16, k->decoder_mlp = 2112;
    k->epochs = 800, k->warmup_epochs = 40, k->lr = 1.5e-4 * k->batch / 256, k->lr_floor = 0, k->beta2 = 0.95;
    return 1;
}

static bmvp_status look(bmvp_trainer *t, const method_item *item, float *seen, float *back)
{
    const mae3d_config *k = (const mae3d_config *)t->config;
    const int64_t tokens = tokens_of(t).count, hidden = mae3d_masked(k, tokens);
    bmvp_rng noise = bmvp_rng_make((uint64_t)k->seed, METHOD_STREAM, 0, item->slot);
    const draws r = draws_of(&noise);
    int32_t *index = (int32_t *)malloc((size_t)tokens * sizeof *index);
    if (!index || !mae3d_choose(&r, k, tokens, index, index + hidden))
        bmvp_fail(t->c, BMVP_E_OOM, "mae3d: no memory for a look at a crop");
    tokens_look(t, item->x, hidden, index, k->norm_pix, rebuild, seen, back);
    free(index);
    return bmvp_error_of(t->c)->status;
}

const method_row method_mae3d = { "mae3d", "MAE3D", "He et al., CVPR 2022; Chen et al., WACV 2023",
                                  "unetr", "unetr_tiny", method, preset, look, METHOD_CROP, NULL };
