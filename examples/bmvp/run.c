/* run.c - prepared cases and the thread that reads their crops ahead, see run.h */
#define _DEFAULT_SOURCE
#include "run.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- prepared cases --------------------------------------------------------------------------------------------------- */

static bmvp_status nii_failed(bmvp_error *err, const bmvp_nii_error *e)
{
    return bmvp_error_set(err, BMVP_E_IO, "%s", e->message);
}

/* Grid of one case; every modality must have it. */
static bmvp_status load_grid(bmvp_prepared *p, int64_t i, bmvp_error *err)
{
    const bmvp_case *k = &p->data.item[i];
    const char *first = NULL;
    bmvp_status st = BMVP_OK;
    bmvp_nii_error e;
    bmvp_nii_file f;
    int m, a;
    for (m = 0; m < p->n_modalities && !st; ++m) {
        const char *path = k->image[p->known[m]];
        if (!path) continue;
        p->cases[i].modalities |= 1u << m;
        if (bmvp_nii_open(&f, path, NULL, &e) != BMVP_NII_OK) {
            st = bmvp_error_set(err, BMVP_E_IO, "%s (case '%s'; pretrain reads what `bmvp prepare` writes)", e.message, k->id);
            break;
        }
        for (a = 0; a < 3; ++a) {
            const int64_t n = f.image.dim[2 - a];
            if (!first) p->cases[i].dim[a] = n;
            else if (p->cases[i].dim[a] != n && !st)
                st = bmvp_error_set(err, BMVP_E_SHAPE, "case '%s': %s and %s are on different grids (%lld and %lld voxels along %c)", k->id,
                                    first, path, (long long)p->cases[i].dim[a], (long long)n, "zyx"[a]);
        }
        first = path;
        bmvp_nii_close(&f);
    }
    for (a = 0; a < 3 && !st; ++a)
        if (p->cases[i].dim[a] > p->grid[a]) p->grid[a] = p->cases[i].dim[a];
    return st;
}

bmvp_status bmvp_prepared_load(bmvp_prepared *p, const char *list_or_dir, bmvp_error *err)
{
    bmvp_status st;
    int64_t i;
    int m;
    memset(p, 0, sizeof *p);
    st = bmvp_dataset_load(&p->data, list_or_dir, err);
    if (st) return st;
    for (m = 0; m < BMVP_MODALITIES; ++m)
        if (p->data.modalities >> m & 1u) {
            p->known[p->n_modalities] = m;
            p->names[p->n_modalities++] = bmvp_modality_name(m);
        }
    p->cases = (bmvp_ssl_case *)calloc((size_t)p->data.n, sizeof *p->cases);
    if (!p->cases) st = bmvp_error_set(err, BMVP_E_OOM, "out of memory");
    for (i = 0; i < p->data.n && !st; ++i) st = load_grid(p, i, err);
    if (st) bmvp_prepared_free(p);
    return st;
}

void bmvp_prepared_free(bmvp_prepared *p)
{
    free(p->cases);
    bmvp_dataset_free(&p->data);
    memset(p, 0, sizeof *p);
}

bmvp_status bmvp_prepared_crop(const bmvp_prepared *p, int64_t i, int m, const int64_t start[3], int64_t crop, float *dst, bmvp_error *err)
{
    bmvp_nii_error e;
    bmvp_nii_file f;
    bmvp_nii_box box;
    bmvp_nii_status st;
    int a;
    for (a = 0; a < 3; ++a) {
        box.start[a] = start[2 - a];
        box.end[a] = start[2 - a] + crop;
    }
    if (bmvp_nii_open(&f, p->data.item[i].image[p->known[m]], NULL, &e) != BMVP_NII_OK) return nii_failed(err, &e);
    st = bmvp_nii_read_box(dst, &f, &box, 0, &e);
    bmvp_nii_close(&f);
    return st == BMVP_NII_OK ? BMVP_OK : nii_failed(err, &e);
}

/* ---- crops read ahead --------------------------------------------------------------------------------------------------- */

static void load_batch(bmvp_loader *l, bmvp_batch *b, int64_t step)
{
    const int64_t crop = l->cfg.crop, n = crop * crop * crop;
    const bmvp_prepared *p = l->data;
    int i;
    b->step = step;
    b->status = BMVP_OK;
    b->n = bmvp_ssl_sample(&l->cfg, p->cases, p->data.n, p->n_modalities, step, l->order, b->draw);
    for (i = 0; i < b->n && !b->status; ++i) {
        const bmvp_ssl_draw *d = &b->draw[i];
        bmvp_ssl_item *t = &b->item[i];
        float *x = b->voxels + 2 * i * n;
        memset(t, 0, sizeof *t);
        t->x = x;
        t->modality = d->modality;
        t->slot = d->slot;
        t->weight = d->weight;
        bmvp_template_place(d->crop, p->cases[d->index].dim, l->template_grid, t->template_start);
        b->status = bmvp_prepared_crop(p, d->index, d->modality, d->crop, crop, x, &b->err);
        if (d->other < 0 || b->status) continue;
        t->other = x + n;
        b->status = bmvp_prepared_crop(p, d->index, d->other, d->crop, crop, x + n, &b->err);
    }
}

static void *loader_main(void *arg)
{
    bmvp_loader *l = (bmvp_loader *)arg;
    pthread_mutex_lock(&l->lock);
    while (!l->quit) {
        bmvp_batch *b = &l->batch[l->next % 2];
        if (b->ready) {
            pthread_cond_wait(&l->changed, &l->lock);
            continue;
        }
        pthread_mutex_unlock(&l->lock);
        load_batch(l, b, l->next);
        pthread_mutex_lock(&l->lock);
        b->ready = 1;
        ++l->next;
        pthread_cond_broadcast(&l->changed);
    }
    pthread_mutex_unlock(&l->lock);
    return NULL;
}

bmvp_status bmvp_loader_start(bmvp_loader *l, const bmvp_prepared *data, const bmvp_ssl_config *cfg, const int64_t template_grid[3],
                              int64_t first, bmvp_error *err)
{
    const size_t items = (size_t)cfg->batch * (size_t)(cfg->all_modalities ? data->n_modalities : 1);
    const size_t voxels = 2 * items * (size_t)cfg->crop * (size_t)cfg->crop * (size_t)cfg->crop;
    int i, ok = 1;
    memset(l, 0, sizeof *l);
    l->data = data;
    l->cfg = *cfg;
    l->next = first;
    memcpy(l->template_grid, template_grid, sizeof l->template_grid);
    l->order = (int64_t *)malloc((size_t)data->data.n * sizeof *l->order);
    for (i = 0; i < 2; ++i) {
        l->batch[i].draw = (bmvp_ssl_draw *)calloc(items, sizeof *l->batch[i].draw);
        l->batch[i].item = (bmvp_ssl_item *)calloc(items, sizeof *l->batch[i].item);
        l->batch[i].voxels = (float *)malloc(voxels * sizeof(float));
        ok = ok && l->batch[i].draw && l->batch[i].item && l->batch[i].voxels;
    }
    pthread_mutex_init(&l->lock, NULL);
    pthread_cond_init(&l->changed, NULL);
    if (!ok || !l->order || pthread_create(&l->thread, NULL, loader_main, l) != 0) {
        bmvp_loader_stop(l);
        return bmvp_error_set(err, BMVP_E_OOM, "no memory or thread for reading crops ahead (%.1f MB)", (double)voxels * 8e-6);
    }
    l->running = 1;
    return BMVP_OK;
}

const bmvp_batch *bmvp_loader_get(bmvp_loader *l, int64_t step, bmvp_error *err)
{
    bmvp_batch *b = &l->batch[step % 2], *before = &l->batch[(step + 1) % 2];
    pthread_mutex_lock(&l->lock);
    if (before->ready && before->step == step - 1) before->ready = 0; /* the caller is done with it */
    pthread_cond_broadcast(&l->changed);
    while (!b->ready) pthread_cond_wait(&l->changed, &l->lock);
    pthread_mutex_unlock(&l->lock);
    if (b->status == BMVP_OK && b->step == step) return b;
    if (b->status) bmvp_error_set(err, b->status, "%s", b->err.message);
    else bmvp_error_set(err, BMVP_E_INTERNAL, "crops of step %lld were read, not of %lld", (long long)b->step, (long long)step);
    return NULL;
}

void bmvp_loader_stop(bmvp_loader *l)
{
    int i;
    if (l->running) {
        pthread_mutex_lock(&l->lock);
        l->quit = 1;
        for (i = 0; i < 2; ++i) l->batch[i].ready = 0;
        pthread_cond_broadcast(&l->changed);
        pthread_mutex_unlock(&l->lock);
        pthread_join(l->thread, NULL);
    }
    if (l->order || l->batch[0].draw) {
        pthread_mutex_destroy(&l->lock);
        pthread_cond_destroy(&l->changed);
    }
    free(l->order);
    for (i = 0; i < 2; ++i) {
        free(l->batch[i].draw);
        free(l->batch[i].item);
        free(l->batch[i].voxels);
    }
    memset(l, 0, sizeof *l);
}
