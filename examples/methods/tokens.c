/* tokens.c - see tokens.h */
#include "tokens.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* >>network -------------------------------------------------------------------------------------------------------- */

token_grid tokens_of(const bmvp_trainer *t)
{
    token_grid g;
    g.edge = ((const method_config *)t->config)->crop;
    g.patch = bmvp_net_stride_of(t->c, &t->net_config);
    g.side = g.edge / g.patch;
    g.count = g.side * g.side * g.side;
    g.voxels = g.patch * g.patch * g.patch;
    g.channels = bmvp_net_channels_of(t->c, &t->net_config);
    return g;
}

void tokens_prepare(bmvp_trainer *t)
{
    const int crop = ((const method_config *)t->config)->crop;
    token_grid g;
    char size[32];
    bmvp_error err;
    if (!bmvp_net_needs_tokens(t->c, &t->net_config)) return;
    g = tokens_of(t);
    if (crop % g.patch || g.count < 2) {
        bmvp_fail(t->c, BMVP_E_ARG,
                  "%s: a crop of %d voxels is not two or more whole tokens of %d along each axis; take crop %d or %d",
                  t->method.name, crop, (int)g.patch, (int)(2 * g.patch > crop ? 2 * g.patch : g.side * g.patch),
                  (int)((g.side < 2 ? 3 : g.side + 1) * g.patch));
        return;
    }
    snprintf(size, sizeof size, "img_size=%d", crop);
    t->net_config.task = BMVP_TASK_ENCODE;
    if (bmvp_net_config_set(&t->net_config, size, &err)) bmvp_fail(t->c, err.status, "%s", err.message);
}

void tokens_freeze(bmvp_state_list *list, const bmvp_tensor *t)
{
    int i;
    for (i = 0; i < list->n; ++i)
        if (t && list->item[i].t == t) list->item[i].lr_scale = list->item[i].decay_scale = 0;
}

void tokens_freeze_embedding(bmvp_trainer *t)
{
    const token_grid g = tokens_of(t);
    bmvp_state_list *l = bmvp_net_state(t->net);
    int i;
    for (i = 0; i < l->n; ++i) {
        bmvp_state *s = &l->item[i];
        if (!bmvp_net_in_part(t->net, s->name, BMVP_PART_STEM)) continue;
        s->init = s->torch_rank > 1 ? BMVP_INIT_XAVIER_UNIFORM : BMVP_INIT_ZERO;
        s->fan = g.voxels + g.channels;
        tokens_freeze(l, s->t);
    }
}

void tokens_start_small(bmvp_module *m, const bmvp_layer *l)
{
    bmvp_init_as(m, l->w, BMVP_INIT_TRUNC_NORMAL, 0.02);
    bmvp_init_as(m, l->b, BMVP_INIT_ZERO, 0);
}

bmvp_attention_block tokens_make_block(bmvp_module *m, const char *name, int64_t n, int heads, int64_t hidden)
{
    bmvp_attention_block b = bmvp_make_attention_block(m, name, n, heads, hidden, 0);
    tokens_start_small(m, &b.qkv), tokens_start_small(m, &b.proj);
    tokens_start_small(m, &b.mlp.fc1), tokens_start_small(m, &b.mlp.fc2);
    return b;
}

/* >>patches -------------------------------------------------------------------------------------------------------- */

/* Run i (of p[0] p[1] runs of p[2] C numbers) of patch k: where it stands in a volume of d. */
static int64_t run_at(const int64_t d[4], const int64_t p[3], int64_t k, int64_t i)
{
    const int64_t ny = d[1] / p[1], nx = d[2] / p[2], z = k / (ny * nx) * p[0] + i / p[1],
                  y = k / nx % ny * p[1] + i % p[1], x = k % nx * p[2];
    return ((z * d[1] + y) * d[2] + x) * d[3];
}

void tokens_fetch(const int64_t d[4], const int64_t p[3], int64_t n, const int32_t *index, const float *volume,
                  float *row)
{
    const int64_t runs = p[0] * p[1], length = p[2] * d[3];
    int64_t i;
    for (i = 0; i < n * runs; ++i)
        memcpy(row + i * length, volume + run_at(d, p, index[i / runs], i % runs), (size_t)length * sizeof *row);
}

void tokens_place(const int64_t d[4], const int64_t p[3], int64_t n, const int32_t *index, const float *row,
                  float *volume)
{
    const int64_t runs = p[0] * p[1], length = p[2] * d[3];
    int64_t i;
    for (i = 0; i < n * runs; ++i)
        memcpy(volume + run_at(d, p, index[i / runs], i % runs), row + i * length, (size_t)length * sizeof *row);
}

void tokens_of_all(int64_t n, int64_t each, int64_t tokens, const int32_t *index, int32_t *all)
{
    int64_t i;
    for (i = 0; i < n * each; ++i) all[i] = (int32_t)(i / each * tokens) + index[i];
}

/* >>order ---------------------------------------------------------------------------------------------------------- */

typedef struct noisy { float u; int32_t at; } noisy;
static int by_noise(const void *a, const void *b)
{
    const noisy *x = (const noisy *)a, *y = (const noisy *)b;
    return x->u < y->u ? -1 : x->u > y->u ? 1 : x->at < y->at ? -1 : x->at > y->at;
}

int32_t *tokens_by_noise(const draws *r, int64_t tokens)
{
    float *noise = (float *)malloc((size_t)(tokens + 1) * sizeof *noise);
    noisy *k = (noisy *)malloc((size_t)(tokens + 1) * sizeof *k);
    int32_t *order = (int32_t *)malloc((size_t)(tokens + 1) * sizeof *order);
    const int ok = noise && k && order;
    int64_t i;
    if (ok) r->noise(r->user, tokens, noise);
    for (i = 0; i < tokens && ok; ++i) k[i].u = noise[i], k[i].at = (int32_t)i;
    if (ok) qsort(k, (size_t)tokens, sizeof *k, by_noise);
    for (i = 0; i < tokens && ok; ++i) order[i] = k[i].at;
    free(noise);
    free(k);
    if (ok) return order;
    free(order);
    return NULL;
}

/* >>positions ------------------------------------------------------------------------------------------------------ */

void tokens_sincos(const int64_t grid[3], int64_t dim, float *position)
{
    static const int axis[3] = { 1, 0, 2 };
    const int64_t f = dim / 6, n = grid[0] * grid[1] * grid[2];
    int64_t i, k;
    int a;
    for (i = 0; i < n; ++i) {
        const int64_t at[3] = { i / (grid[1] * grid[2]), i / grid[2] % grid[1], i % grid[2] };
        for (a = 0; a < 3; ++a)
            for (k = 0; k < f; ++k) {
                const double angle = (double)at[axis[a]] * pow(10000.0, -(double)k / (double)f);
                position[i * dim + 2 * a * f + k] = (float)sin(angle);
                position[i * dim + (2 * a + 1) * f + k] = (float)cos(angle);
            }
    }
}

static void write_positions(bmvp_trainer *t, const token_grid *g, bmvp_tensor *to)
{
    const int64_t grid[3] = { g->side, g->side, g->side };
    float *v = to ? (float *)malloc((size_t)to->numel * sizeof *v) : NULL;
    if (v) tokens_sincos(grid, to->numel / g->count, v), bmvp_write(t->c, to, v);
    else if (to) bmvp_fail(t->c, BMVP_E_OOM, "%s: no memory for positions", t->method.name);
    free(v);
}

void tokens_fix_positions(bmvp_trainer *t, bmvp_tensor *more)
{
    const token_grid g = tokens_of(t);
    write_positions(t, &g, bmvp_net_positions(t->net));
    write_positions(t, &g, more);
}

/* >>rate ----------------------------------------------------------------------------------------------------------- */

double tokens_epoch(const bmvp_trainer *t, int64_t total)
{
    const method_config *k = (const method_config *)t->config;
    return (double)(t->samples / k->batch) / (double)(total > 0 ? total : 1) * k->epochs;
}

double tokens_rate(double lr, double floor, double warmup, double epochs, double e, int whole)
{
    const double left = epochs > warmup ? epochs - warmup : 1;
    if (whole) e = trunc(e);
    if (e < warmup && !(whole && e < 1)) return lr * e / (whole ? warmup - 1 : warmup);
    return whole && e < 1 ? 0 : floor + (lr - floor) * (1 + cos(3.14159265358979323846 * (e - warmup) / left)) / 2;
}

double tokens_run_rate(const bmvp_trainer *t, int64_t total, int warmup_epochs, int whole)
{
    const method_config *k = (const method_config *)t->config;
    if (warmup_epochs == 0) return bmvp_trainer_cosine(t, total);
    return tokens_rate(k->lr, k->lr_floor, warmup_epochs, k->epochs, tokens_epoch(t, total), whole);
}

/* >>crops ---------------------------------------------------------------------------------------------------------- */

void tokens_crops(const bmvp_pass *p, int64_t hidden, const int32_t *masked, float *x, float *wanted)
{
    const token_grid g = tokens_of(p->trainer);
    const method_item *item = (const method_item *)p->items;
    const int64_t n = g.edge * g.edge * g.edge, d[4] = { g.edge, g.edge, g.edge, 1 },
                  patch[3] = { g.patch, g.patch, g.patch };
    int i;
    for (i = 0; i < p->n && !bmvp_is_plan(p->c); ++i) {
        memcpy(x + i * n, item[i].x, (size_t)n * sizeof *x);
        tokens_fetch(d, patch, hidden, masked + i * hidden, item[i].x, wanted + i * hidden * g.voxels);
    }
}

double tokens_deviation(int64_t n, const float *v, double *mean)
{
    double square = 0;
    int64_t i;
    for (*mean = 0, i = 0; i < n; ++i) *mean += (double)v[i] / (double)n;
    for (i = 0; i < n; ++i) square += ((double)v[i] - *mean) * ((double)v[i] - *mean);
    return sqrt(square / (double)(n - 1) + 1e-6);
}

/* Rows that are less their patch's mean, by its deviation, as voxels again. */
static void undo_normalised(int64_t n, int64_t voxels, const float *patch, float *row)
{
    double mean, by;
    int64_t i;
    for (; n > 0; --n, patch += voxels, row += voxels)
        for (by = tokens_deviation(voxels, patch, &mean), i = 0; i < voxels; ++i)
            row[i] = (float)((double)row[i] * by + mean);
}

void tokens_look(bmvp_trainer *t, const float *crop, int64_t hidden, const int32_t *index, int normalised,
                 tokens_rebuild_fn rebuild, float *seen, float *back)
{
    const token_grid g = tokens_of(t);
    const int64_t n = hidden * g.voxels, d[4] = { g.edge, g.edge, g.edge, 1 }, patch[3] = { g.patch, g.patch, g.patch };
    float *row = (float *)calloc((size_t)(3 * n), sizeof *row); /* zeros, the crop's, the network's */
    const int was = method_look_begin(t);
    bmvp_tensor *y;
    if (!row) bmvp_fail(t->c, BMVP_E_OOM, "%s: no memory for a look at a crop", t->method.name);
    y = bmvp_failed(t->c) ? NULL : rebuild(t, 1, crop, index, index + hidden);
    if (y && bmvp_read(t->c, y, row + 2 * n) == BMVP_OK) {
        tokens_fetch(d, patch, hidden, index, crop, row + n);
        if (normalised) undo_normalised(hidden, g.voxels, row + n, row + 2 * n);
        memcpy(seen, crop, (size_t)(g.edge * g.edge * g.edge) * sizeof *seen);
        memcpy(back, crop, (size_t)(g.edge * g.edge * g.edge) * sizeof *back);
        tokens_place(d, patch, hidden, index, row, seen);
        tokens_place(d, patch, hidden, index, row + 2 * n, back);
    }
    bmvp_step_begin(t->c);
    (void)bmvp_set_grad(t->c, was);
    free(row);
}
