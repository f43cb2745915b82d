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

/* What draw d takes from its case, into t and its two crops at x. */
static bmvp_status load_item(const crop_loader *l, const bmvp_ssl_draw *d, bmvp_ssl_item *t, float *x, bmvp_error *err)
{
    const int64_t crop = l->cfg.crop, size[3] = { crop, crop, crop };
    const prepared_set *p = l->data;
    bmvp_status st;
    memset(t, 0, sizeof *t);
    t->x = x;
    t->modality = d->modality;
    t->slot = d->slot;
    t->weight = d->weight;
    bmvp_template_place(d->crop, p->cases[d->index].dim, l->template_grid, t->template_start);
    st = prepared_crop(p, d->index, d->modality, d->crop, size, x, err);
    if (d->other < 0 || !l->pairs || st) return st;
    x += crop * crop * crop;
    t->other = x;
    return prepared_crop(p, d->index, d->other, d->crop, size, x, err);
}

static bmvp_status load_batch(void *user, int buffer, int64_t step, bmvp_error *err)
{
    crop_loader *l = (crop_loader *)user;
    crop_batch *b = &l->batch[buffer];
    const int64_t voxels = 2 * (int64_t)l->cfg.crop * l->cfg.crop * l->cfg.crop;
    bmvp_status st = BMVP_OK;
    int i, from, to, first, count, at = 0;
    b->n = bmvp_ssl_sample_at(&l->cfg, l->data->cases, l->data->data.n, l->data->n_modalities, step,
                              read_position(&l->at, step, l->cfg.batch), l->memory.order, b->draw);
    for (from = 0; from < b->n; from = to) {
        to = crop_batch_pass(b, &l->cfg, from);
        count = bmvp_ssl_share(to - from, l->rank, l->size, &first);
        for (i = 0; i < count && !st; ++i, ++at)
            st = load_item(l, &b->draw[from + first + i], &b->item[at], b->voxels + at * voxels, err);
    }
    return st;
}

/* Of a step: draws of all ranks, and at most so many items of one. */
static size_t loader_items(const prepared_set *data, const bmvp_ssl_config *cfg, int size)
{
    return (size_t)((cfg->batch + size - 1) / size) * (size_t)(cfg->all_modalities ? data->n_modalities : 1);
}

/* Of one of the two buffers. */
static size_t loader_voxels(const prepared_set *data, const bmvp_ssl_config *cfg, int size)
{
    return 2 * loader_items(data, cfg, size) * (size_t)cfg->crop * (size_t)cfg->crop * (size_t)cfg->crop;
}

double crop_loader_bytes(const prepared_set *data, const bmvp_ssl_config *cfg, int size)
{
    return 2.0 * (double)loader_voxels(data, cfg, size) * (double)sizeof(float);
}

bmvp_status crop_loader_start(crop_loader *l, const prepared_set *data, const bmvp_ssl_config *cfg, int rank, int size,
                              const int64_t template_grid[3], read_start at, int pairs, bmvp_error *err)
{
    const read_sizes sizes = { data->data.n, loader_items(data, cfg, 1), sizeof(bmvp_ssl_draw),
                               loader_items(data, cfg, size), sizeof(bmvp_ssl_item), loader_voxels(data, cfg, size) };
    bmvp_status st;
    int i;
    memset(l, 0, sizeof *l);
    l->data = data;
    l->cfg = *cfg;
    l->rank = rank;
    l->size = size;
    l->pairs = pairs;
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
