/* crops.c - the crops of pre-training's steps, see crops.h */
#include "crops.h"
#include <stdlib.h>
#include <string.h>

int crop_batch_pass(const crop_batch *b, const bmvp_ssl_config *cfg, int from)
{
    int to = from + 1;
    while (to < b->n && b->draw[to].slot / (uint32_t)cfg->batch == b->draw[from].slot / (uint32_t)cfg->batch) ++to;
    return to;
}

int crop_count(const prepared_set *p, method_wants wants)
{
    return wants == METHOD_CROP || wants == METHOD_MIDDLE ? 1 : wants == METHOD_ALL ? p->n_modalities : 2;
}

static bmvp_status read_all(const prepared_set *p, int64_t i, int skip, const int64_t start[3], const int64_t size[3],
                            float *x, bmvp_error *err)
{
    const int64_t n = size[0] * size[1] * size[2];
    bmvp_status st = BMVP_OK;
    int m;
    for (m = 0; m < p->n_modalities && !st; ++m, x += n) {
        if (m == skip) continue;
        if (p->cases[i].modalities >> m & 1u) st = prepared_crop(p, i, m, start, size, x, err);
        else memset(x, 0, (size_t)n * sizeof *x);
    }
    return st;
}

bmvp_status crop_read(const prepared_set *p, method_wants wants, int64_t i, int m, int64_t other,
                      const int64_t start[3], int64_t edge, float *x, bmvp_ssl_item *t, bmvp_error *err)
{
    const int64_t size[3] = { edge, edge, edge }, n = edge * edge * edge;
    float *const own = wants == METHOD_ALL ? x + m * n : x;
    bmvp_status st = prepared_crop(p, i, m, start, size, own, err);
    int64_t there[3];
    t->x = own;
    t->modality = m;
    t->other = crop_count(p, wants) == 1 || other < 0 ? NULL : wants == METHOD_ALL ? x : x + n;
    if (st || !t->other) return st;
    if (wants == METHOD_ALL) return read_all(p, i, m, start, size, x, err);
    if (wants == METHOD_MODALITY) return prepared_crop(p, i, (int)other, start, size, x + n, err);
    bmvp_template_place(start, p->cases[i].dim, p->cases[other].dim, there);
    return prepared_crop(p, other, m, there, size, x + n, err);
}

enum { CASE_STREAM = METHOD_STREAM - 1 }; /* of random numbers: which case is the other one */

/* Another case that has the draw's modality; itself where it is the only one. */
static int64_t other_case(const crop_loader *l, const bmvp_ssl_draw *d, int64_t step)
{
    bmvp_rng r = bmvp_rng_make((uint64_t)l->cfg.seed, CASE_STREAM, (uint32_t)step, d->slot);
    int64_t i, n = 0, at;
    for (i = 0; i < l->data->data.n; ++i) n += i != d->index && (l->data->cases[i].modalities >> d->modality & 1u);
    at = (int64_t)bmvp_rng_below(&r, (uint32_t)n);
    for (i = 0; i < l->data->data.n && n; ++i)
        if (i != d->index && (l->data->cases[i].modalities >> d->modality & 1u) && at-- == 0) return i;
    return d->index;
}

/* What draw d takes from its case, into t and its crops at x. */
static bmvp_status load_item(const crop_loader *l, const bmvp_ssl_draw *d, int64_t step, bmvp_ssl_item *t, float *x,
                             bmvp_error *err)
{
    const int64_t other = l->wants == METHOD_MODALITY ? d->other : l->wants == METHOD_CASE ? other_case(l, d, step) : 0;
    const int64_t *const dim = l->data->cases[d->index].dim, corner[3] = { 0, 0, 0 };
    const int64_t edge[3] = { l->cfg.crop, l->cfg.crop, l->cfg.crop };
    int64_t start[3];
    memset(t, 0, sizeof *t);
    t->slot = d->slot;
    t->weight = d->weight;
    memcpy(start, d->crop, sizeof start);
    if (l->wants == METHOD_MIDDLE) bmvp_template_place(corner, edge, dim, start);
    bmvp_template_place(start, dim, l->template_grid, t->template_start);
    return crop_read(l->data, l->wants, d->index, d->modality, other, start, l->cfg.crop, x, t, err);
}

static bmvp_status load_batch(void *user, int buffer, int64_t step, bmvp_error *err)
{
    crop_loader *l = (crop_loader *)user;
    crop_batch *b = &l->batch[buffer];
    const int64_t edge = l->cfg.crop, voxels = crop_count(l->data, l->wants) * edge * edge * edge;
    bmvp_status st = BMVP_OK;
    int i, from, to, first, count, at = 0;
    b->n = bmvp_ssl_sample_at(&l->cfg, l->data->cases, l->data->data.n, l->data->n_modalities, step,
                              read_position(&l->at, step, l->cfg.batch), l->memory.order, b->draw);
    for (from = 0; from < b->n; from = to) {
        to = crop_batch_pass(b, &l->cfg, from);
        count = bmvp_ssl_share(to - from, l->rank, l->size, &first);
        for (i = 0; i < count && !st; ++i, ++at)
            st = load_item(l, &b->draw[from + first + i], step, &b->item[at], b->voxels + at * voxels, err);
    }
    return st;
}

/* Of a step: draws of all ranks, and at most so many items of one. */
static size_t loader_items(const prepared_set *data, const bmvp_ssl_config *cfg, int size)
{
    return (size_t)((cfg->batch + size - 1) / size) * (size_t)(cfg->all_modalities ? data->n_modalities : 1);
}

/* Of one of the two buffers. */
static size_t loader_voxels(const prepared_set *data, const bmvp_ssl_config *cfg, int size, method_wants wants)
{
    const size_t edge = (size_t)cfg->crop;
    return (size_t)crop_count(data, wants) * loader_items(data, cfg, size) * edge * edge * edge;
}

double crop_loader_bytes(const prepared_set *data, const bmvp_ssl_config *cfg, int size, method_wants wants)
{
    return 2.0 * (double)loader_voxels(data, cfg, size, wants) * (double)sizeof(float);
}

bmvp_status crop_loader_start(crop_loader *l, const prepared_set *data, const bmvp_ssl_config *cfg, int rank, int size,
                              const int64_t template_grid[3], read_start at, method_wants wants, bmvp_error *err)
{
    const read_sizes sizes = { data->data.n, loader_items(data, cfg, 1), sizeof(bmvp_ssl_draw),
                               loader_items(data, cfg, size), sizeof(bmvp_ssl_item),
                               loader_voxels(data, cfg, size, wants) };
    bmvp_status st;
    int i;
    memset(l, 0, sizeof *l);
    l->data = data;
    l->cfg = *cfg;
    l->rank = rank;
    l->size = size;
    l->wants = wants;
    l->at = at;
    memcpy(l->template_grid, template_grid, sizeof l->template_grid);
    st = read_buffers_make(&l->memory, &sizes, err);
    for (i = 0; i < 2; ++i) {
        l->batch[i].draw = (bmvp_ssl_draw *)l->memory.draw[i];
        l->batch[i].item = (bmvp_ssl_item *)l->memory.item[i];
        l->batch[i].voxels = l->memory.voxels[i];
    }
    if (!st) st = read_ahead_start(&l->ahead, load_batch, l, at.step, err);
    if (st) crop_loader_stop(l);
    return st;
}

const crop_batch *crop_loader_get(crop_loader *l, int64_t step, bmvp_error *err)
{
    const int b = read_ahead_get(&l->ahead, step, err);
    return b < 0 ? NULL : &l->batch[b];
}

void crop_loader_stop(crop_loader *l)
{
    read_ahead_stop(&l->ahead);
    read_buffers_free(&l->memory);
    memset(l, 0, sizeof *l);
}
