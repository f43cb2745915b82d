/* finetune_data.c - cases and crops of fine-tuning, see finetune_data.h */
#define _DEFAULT_SOURCE
#include "finetune_data.h"
#include "labels.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* >>cases ---------------------------------------------------------------------------------------------------------- */

/* Keeps the named modalities of the list. A case that has none of them is an error. */
static bmvp_status restrict_modalities(prepared_set *p, const char *names, bmvp_error *err)
{
    uint32_t keep = 0;
    char word[32];
    int64_t i;
    int m, n = 0;
    for (; names && *names; names += strcspn(names, ",") + (names[strcspn(names, ",")] == ',')) {
        const size_t len = strcspn(names, ",");
        snprintf(word, sizeof word, "%.*s", (int)(len < sizeof word ? len : sizeof word - 1), names);
        m = bmvp_modality_find(word);
        if (m < 0 || !(p->data.modalities >> m & 1u))
            return bmvp_error_set(err, BMVP_E_ARG, "--modalities: %s '%s'",
                                  m < 0 ? "there is no modality" : "no case of the list has", word);
        keep |= 1u << m;
    }
    if (!keep) return BMVP_OK;
    for (i = 0; i < p->data.n; ++i) p->cases[i].modalities = 0;
    for (m = 0; m < p->n_modalities; ++m) {
        if (!(keep >> p->known[m] & 1u)) continue;
        p->known[n] = p->known[m];
        p->names[n] = p->names[m];
        for (i = 0; i < p->data.n; ++i)
            if (p->data.item[i].image[p->known[n]]) p->cases[i].modalities |= 1u << n;
        ++n;
    }
    p->n_modalities = n;
    for (i = 0; i < p->data.n; ++i)
        if (!p->cases[i].modalities)
            return bmvp_error_set(err, BMVP_E_ARG, "case '%s' has none of the modalities of --modalities",
                                  p->data.item[i].id);
    return BMVP_OK;
}

static bmvp_status select_part(const finetune_data *d, const char *part, int64_t **index, int64_t *n, bmvp_error *err)
{
    *index = (int64_t *)malloc((size_t)d->all.data.n * sizeof **index + 1);
    if (!*index) return bmvp_error_set(err, BMVP_E_OOM, "out of memory");
    return split_select(&d->split, part, *index, n, err);
}

static bmvp_status take_split(finetune_data *d, const finetune_source *o, bmvp_error *err)
{
    static const double usual[3] = { 6, 1, 3 }, whole[3] = { 1, 0, 0 };
    const double *ratio = strcmp(o->train, "all") == 0 && strcmp(o->val, "all") == 0
                              ? whole
                              : usual; /* one patient is enough then */
    bmvp_status st = o->split ? split_load(&d->split, &d->all.data, o->split, err)
                   : ratio == whole ? split_make(&d->split, &d->all.data, ratio, o->seed, err)
                                    : split_take(&d->split, &d->all.data, ratio, o->seed, err);
    int64_t i;
    if (!st) st = select_part(d, o->train, &d->train, &d->n_train, err);
    if (!st) st = select_part(d, o->val, &d->val, &d->n_val, err);
    if (!st && d->n_train == 0)
        st = bmvp_error_set(err, BMVP_E_ARG, "%s: part '%s' has no cases to train on", d->all.data.path, o->train);
    d->cases = st ? NULL : (bmvp_ssl_case *)malloc((size_t)d->n_train * sizeof *d->cases);
    if (!st && !d->cases) st = bmvp_error_set(err, BMVP_E_OOM, "out of memory");
    for (i = 0; i < d->n_train && !st; ++i) d->cases[i] = d->all.cases[d->train[i]];
    return st;
}

typedef struct scan { /* one pass over all labels, cases in parallel */
    finetune_data *d;
    int64_t (*count)[BMVP_MAX_REGIONS + 1], *ignored;
    bmvp_status *status;
    bmvp_error *err;
} scan;

static void count_voxels(const bmvp_labels *l, const float *v, int64_t n, int64_t *count, int64_t *ignored)
{
    int64_t i;
    int r;
    for (i = 0; i < n; ++i) {
        int none = 1;
        if (l->ignore && v[i] == (float)l->ignore) {
            ++*ignored;
            continue;
        }
        for (r = 0; r < l->n && v[i] != 0.0f; ++r)
            if (l->in[r][(int)v[i]]) {
                ++count[r + l->exclusive];
                none = 0;
            }
        if (l->exclusive) count[0] += none;
    }
    if (!l->exclusive) count[l->n] += n - *ignored;
}

/* A regular selection of the voxels that belong to some region. */
static bmvp_status find_places(const bmvp_labels *l, const float *v, int64_t n, label_places *out)
{
    enum { MOST = 4096 };
    int64_t i, found = 0, every, k = 0;
    int r;
    for (i = 0; i < n; ++i)
        for (r = 0; r < l->n; ++r)
            if (l->in[r][(int)v[i]]) {
                ++found;
                break;
            }
    every = found / MOST + 1;
    out->voxel = (int32_t *)malloc((size_t)(found / every + 1) * sizeof *out->voxel);
    if (!out->voxel) return BMVP_E_OOM;
    for (i = 0; i < n; ++i)
        for (r = 0; r < l->n; ++r)
            if (l->in[r][(int)v[i]]) {
                if (k++ % every == 0) out->voxel[out->n++] = (int32_t)i;
                break;
            }
    return BMVP_OK;
}

static void scan_one(void *arg, int64_t j, int worker)
{
    static const int64_t origin[3] = { 0, 0, 0 };
    scan *s = (scan *)arg;
    finetune_data *d = s->d;
    const int64_t i = j < d->n_train ? d->train[j] : d->val[j - d->n_train], *dim = d->all.cases[i].dim,
                  n = dim[0] * dim[1] * dim[2];
    const bmvp_labels *l = &d->all.data.labels;
    float *v = (float *)malloc((size_t)n * sizeof *v);
    (void)worker;
    s->status[j] = v && n < INT32_MAX ? prepared_label(&d->all, i, origin, dim, v, &s->err[j]) : BMVP_E_OOM;
    if (!v) bmvp_error_set(&s->err[j], BMVP_E_OOM, "out of memory for the label of case '%s'", d->all.data.item[i].id);
    if (!s->status[j]) s->status[j] = bmvp_labels_check(l, v, dim, d->all.data.item[i].label, &s->err[j]);
    if (!s->status[j]) count_voxels(l, v, n, s->count[j], &s->ignored[j]);
    if (!s->status[j] && j < d->n_train) {
        s->status[j] = find_places(l, v, n, &d->places[j]);
        if (s->status[j]) bmvp_error_set(&s->err[j], BMVP_E_OOM, "out of memory");
    }
    free(v);
}

static bmvp_status scan_labels(finetune_data *d, bmvp_ctx *c, bmvp_error *err)
{
    const int64_t n = d->n_train + d->n_val;
    bmvp_status st = BMVP_OK;
    int64_t j;
    int r;
    scan s;
    s.d = d;
    s.count = (int64_t (*)[BMVP_MAX_REGIONS + 1])calloc((size_t)n, sizeof *s.count);
    s.ignored = (int64_t *)calloc((size_t)n, sizeof *s.ignored);
    s.status = (bmvp_status *)calloc((size_t)n, sizeof *s.status);
    s.err = (bmvp_error *)calloc((size_t)n, sizeof *s.err);
    d->places = (label_places *)calloc((size_t)d->n_train, sizeof *d->places);
    if (!s.count || !s.ignored || !s.status || !s.err || !d->places)
        st = bmvp_error_set(err, BMVP_E_OOM, "out of memory");
    else bmvp_parallel(c, n, scan_one, &s);
    for (j = 0; j < n && !st; ++j) {
        int64_t *sum = j < d->n_train ? d->voxels : d->val_voxels;
        if (s.status[j]) st = bmvp_error_set(err, s.status[j], "%s", s.err[j].message);
        for (r = 0; r <= BMVP_MAX_REGIONS; ++r) sum[r] += s.count[j][r];
        if (j < d->n_train) d->ignored += s.ignored[j];
    }
    free(s.count);
    free(s.ignored);
    free(s.status);
    free(s.err);
    return st;
}

static bmvp_status check_regions(const finetune_data *d, const finetune_source *o, bmvp_error *err)
{
    const bmvp_labels *l = &d->all.data.labels;
    int r;
    for (r = 0; r < l->n && !o->allow_absent; ++r)
        if (d->voxels[r + l->exclusive] == 0)
            return bmvp_error_set(
                err, BMVP_E_ARG,
                "%s: no voxel of '%s' in the %lld training cases: nothing to learn it from. Is the definition of "
                "the labels right? --allow-absent goes on",
                d->all.data.path, l->region[r], (long long)d->n_train);
    return BMVP_OK;
}

/* Every case of the two parts needs a class; every class must occur in training. */
static bmvp_status check_classes(finetune_data *d, const finetune_source *o, bmvp_error *err)
{
    int64_t j, most = -1;
    int k;
    for (j = 0; j < d->n_train + d->n_val; ++j) {
        const data_case *item = &d->all.data.item[j < d->n_train ? d->train[j] : d->val[j - d->n_train]];
        if (item->class_index < 0)
            return bmvp_error_set(err, BMVP_E_ARG, "%s: case '%s' has no \"class\"", d->all.data.path, item->id);
        most = item->class_index > most ? item->class_index : most;
        if (item->class_index <= BMVP_MAX_REGIONS) ++(j < d->n_train ? d->voxels : d->val_voxels)[item->class_index];
    }
    d->classes = (int)(o->classes > 0 ? o->classes : most + 1);
    if (d->classes < 2 || d->classes > BMVP_MAX_REGIONS + 1 || most >= d->classes)
        return bmvp_error_set(
            err, BMVP_E_ARG,
            "%s: classes are numbered from 0 and there must be 2 to %d of them; the largest here is %lld%s",
            d->all.data.path, BMVP_MAX_REGIONS + 1, (long long)most,
            o->classes > 0 ? ", which --classes excludes" : "");
    for (k = 0; k < d->classes && !o->allow_absent; ++k)
        if (d->voxels[k] == 0)
            return bmvp_error_set(err, BMVP_E_ARG, "%s: no training case of class %d; --allow-absent goes on without",
                                  d->all.data.path, k);
    return BMVP_OK;
}

bmvp_status finetune_data_load(finetune_data *d, bmvp_ctx *c, const finetune_source *o, bmvp_error *err)
{
    bmvp_status st;
    memset(d, 0, sizeof *d);
    d->segment = o->segment;
    st = prepared_load(&d->all, o->data, err);
    if (st) return st;
    st = restrict_modalities(&d->all, o->modalities, err);
    if (!st && o->labels && !bmvp_labels_builtin(o->labels, &d->all.data.labels))
        st = bmvp_error_set(err, BMVP_E_ARG, "--labels %s: there are %s", o->labels, bmvp_labels_names());
    if (!st && o->labels) d->all.data.has_labels = 1;
    if (!st && o->segment && !d->all.data.has_labels)
        st = bmvp_error_set(
            err, BMVP_E_ARG,
            "%s: what do the label values mean? Add \"labels\" to the list, or name a definition: --labels %s",
            d->all.data.path, bmvp_labels_names());
    if (!st) st = take_split(d, o, err);
    if (!st && o->segment) st = scan_labels(d, c, err);
    if (!st) st = o->segment ? check_regions(d, o, err) : check_classes(d, o, err);
    if (st) finetune_data_free(d);
    return st;
}

void finetune_data_free(finetune_data *d)
{
    int64_t i;
    for (i = 0; d->places && i < d->n_train; ++i) free(d->places[i].voxel);
    free(d->places);
    free(d->cases);
    free(d->train);
    free(d->val);
    split_free(&d->split);
    prepared_free(&d->all);
    memset(d, 0, sizeof *d);
}

/* >>crops, read ahead ---------------------------------------------------------------------------------------------- */

/* Moves the crop so that a labelled voxel lies in its middle, as far as the volume allows. */
static void centre_on_label(const label_places *p, const int64_t dim[3], const int64_t size[3], double pick,
                            int64_t start[3])
{
    int64_t v, at[3];
    int a;
    if (p->n == 0) return;
    v = p->voxel[(int64_t)(pick * (double)p->n)];
    at[0] = v / (dim[1] * dim[2]), at[1] = v / dim[2] % dim[1], at[2] = v % dim[2];
    for (a = 0; a < 3; ++a) {
        if (dim[a] <= size[a]) continue; /* the sampler has centred it */
        start[a] = at[a] - size[a] / 2;
        start[a] = start[a] < 0 ? 0 : start[a] > dim[a] - size[a] ? dim[a] - size[a] : start[a];
    }
}

static bmvp_status load_item(const finetune_loader *l, bmvp_ft_draw *w, float *x, bmvp_ft_item *t, bmvp_error *err)
{
    const finetune_data *d = l->data;
    const int64_t size[3] = { l->cfg.crop_z, l->cfg.crop_y, l->cfg.crop_x }, n = size[0] * size[1] * size[2],
                  i = d->train[w->index];
    bmvp_status st = BMVP_OK;
    int m;
    memset(t, 0, sizeof *t);
    t->slot = w->slot;
    if (d->segment && w->on_label)
        centre_on_label(&d->places[w->index], d->cases[w->index].dim, size, w->pick, w->crop);
    bmvp_template_place(w->crop, d->cases[w->index].dim, l->template_grid, t->template_start);
    for (m = 0; m < d->all.n_modalities && !st; ++m, x += n) {
        if (!(d->cases[w->index].modalities >> m & 1u)) continue;
        t->image[m] = x;
        st = prepared_crop(&d->all, i, m, w->crop, size, x, err);
    }
    t->class_index = (int)d->all.data.item[i].class_index;
    if (!d->segment || st) return st;
    t->labels = x;
    return prepared_label(&d->all, i, w->crop, size, x, err);
}

static bmvp_status load_batch(void *user, int buffer, int64_t step, bmvp_error *err)
{
    finetune_loader *l = (finetune_loader *)user;
    finetune_batch *b = &l->batch[buffer];
    const int64_t each = (int64_t)l->cfg.crop_x * l->cfg.crop_y * l->cfg.crop_z * (l->data->all.n_modalities + 1);
    bmvp_status st = BMVP_OK;
    int i, first;
    bmvp_ft_sample_at(&l->cfg, l->data->cases, l->data->n_train, step, read_position(&l->at, step, l->cfg.batch),
                      l->memory.order, b->draw);
    b->n = bmvp_trainer_share(l->cfg.batch, l->rank, l->size, &first);
    for (i = 0; i < b->n && !st; ++i) st = load_item(l, &b->draw[first + i], b->voxels + i * each, &b->item[i], err);
    return st;
}

/* Of one of the two buffers. */
static size_t loader_voxels(const finetune_data *data, const bmvp_ft_config *cfg)
{
    const size_t crop = (size_t)cfg->crop_x * (size_t)cfg->crop_y * (size_t)cfg->crop_z;
    return (size_t)cfg->batch * crop * (size_t)(data->all.n_modalities + 1);
}

double finetune_loader_bytes(const finetune_data *data, const bmvp_ft_config *cfg)
{
    return 2.0 * (double)loader_voxels(data, cfg) * (double)sizeof(float);
}

bmvp_status finetune_loader_start(finetune_loader *l, const finetune_data *data, const bmvp_ft_config *cfg, int rank,
                                  int size, const int64_t template_grid[3], read_start at, bmvp_error *err)
{
    const size_t items = (size_t)cfg->batch;
    const read_sizes sizes = { data->n_train, items, sizeof(bmvp_ft_draw), items, sizeof(bmvp_ft_item),
                               loader_voxels(data, cfg) };
    bmvp_status st;
    int i;
    memset(l, 0, sizeof *l);
    l->data = data;
    l->cfg = *cfg;
    l->rank = rank;
    l->size = size;
    l->at = at;
    memcpy(l->template_grid, template_grid, sizeof l->template_grid);
    st = read_buffers_make(&l->memory, &sizes, err);
    for (i = 0; i < 2; ++i) {
        l->batch[i].draw = (bmvp_ft_draw *)l->memory.draw[i];
        l->batch[i].item = (bmvp_ft_item *)l->memory.item[i];
        l->batch[i].voxels = l->memory.voxels[i];
    }
    if (!st) st = read_ahead_start(&l->ahead, load_batch, l, at.step, err);
    if (st) finetune_loader_stop(l);
    return st;
}

const finetune_batch *finetune_loader_get(finetune_loader *l, int64_t step, bmvp_error *err)
{
    const int b = read_ahead_get(&l->ahead, step, err);
    return b < 0 ? NULL : &l->batch[b];
}

void finetune_loader_stop(finetune_loader *l)
{
    read_ahead_stop(&l->ahead);
    read_buffers_free(&l->memory);
    memset(l, 0, sizeof *l);
}
