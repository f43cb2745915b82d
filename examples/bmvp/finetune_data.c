/* finetune_data.c - cases, crops and validation of fine-tuning, see finetune.h */
#define _DEFAULT_SOURCE
#include "finetune.h"
#include "infer.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- cases ---------------------------------------------------------------------------------------------------------------- */

/* Keeps the named modalities of the list. A case that has none of them is an error. */
static bmvp_status restrict_modalities(bmvp_prepared *p, const char *names, bmvp_error *err)
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
            return bmvp_error_set(err, BMVP_E_ARG, "--modalities: %s '%s'", m < 0 ? "there is no modality" : "no case of the list has", word);
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
            return bmvp_error_set(err, BMVP_E_ARG, "case '%s' has none of the modalities of --modalities", p->data.item[i].id);
    return BMVP_OK;
}

static bmvp_status select_part(const bmvp_ft_data *d, const char *part, int64_t **index, int64_t *n, bmvp_error *err)
{
    *index = (int64_t *)malloc((size_t)d->all.data.n * sizeof **index + 1);
    if (!*index) return bmvp_error_set(err, BMVP_E_OOM, "out of memory");
    return bmvp_split_select(&d->split, part, *index, n, err);
}

static bmvp_status take_split(bmvp_ft_data *d, const bmvp_ft_source *o, bmvp_error *err)
{
    static const double usual[3] = { 6, 1, 3 }, whole[3] = { 1, 0, 0 };
    const double *ratio = strcmp(o->train, "all") == 0 && strcmp(o->val, "all") == 0 ? whole : usual; /* one patient is enough then */
    bmvp_status st = o->split ? bmvp_split_load(&d->split, &d->all.data, o->split, err)
                              : bmvp_split_make(&d->split, &d->all.data, ratio, o->seed, err);
    int64_t i;
    if (!st) st = select_part(d, o->train, &d->train, &d->n_train, err);
    if (!st) st = select_part(d, o->val, &d->val, &d->n_val, err);
    if (!st && d->n_train == 0) st = bmvp_error_set(err, BMVP_E_ARG, "%s: part '%s' has no cases to train on", d->all.data.path, o->train);
    d->cases = st ? NULL : (bmvp_ssl_case *)malloc((size_t)d->n_train * sizeof *d->cases);
    if (!st && !d->cases) st = bmvp_error_set(err, BMVP_E_OOM, "out of memory");
    for (i = 0; i < d->n_train && !st; ++i) d->cases[i] = d->all.cases[d->train[i]];
    return st;
}

typedef struct scan { /* one pass over all labels, cases in parallel */
    bmvp_ft_data *d;
    int64_t (*count)[BMVP_MAX_REGIONS + 1];
    bmvp_status *status;
    bmvp_error *err;
} scan;

static void count_voxels(const bmvp_labels *l, const float *v, int64_t n, int64_t *count)
{
    int64_t i;
    int r;
    for (i = 0; i < n; ++i) {
        int none = 1;
        for (r = 0; r < l->n && v[i] != 0.0f; ++r)
            if (l->in[r][(int)v[i]]) {
                ++count[r + l->exclusive];
                none = 0;
            }
        if (l->exclusive) count[0] += none;
    }
    if (!l->exclusive) count[l->n] += n;
}

/* A regular selection of the voxels that belong to some region. */
static bmvp_status find_places(const bmvp_labels *l, const float *v, int64_t n, bmvp_ft_places *out)
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
    bmvp_ft_data *d = s->d;
    const int64_t i = j < d->n_train ? d->train[j] : d->val[j - d->n_train], *dim = d->all.cases[i].dim, n = dim[0] * dim[1] * dim[2];
    const bmvp_labels *l = &d->all.data.labels;
    float *v = (float *)malloc((size_t)n * sizeof *v);
    (void)worker;
    s->status[j] = v && n < INT32_MAX ? bmvp_prepared_label(&d->all, i, origin, dim, v, &s->err[j]) : BMVP_E_OOM;
    if (!v) bmvp_error_set(&s->err[j], BMVP_E_OOM, "out of memory for the label of case '%s'", d->all.data.item[i].id);
    if (!s->status[j]) s->status[j] = bmvp_labels_check(l, v, dim, d->all.data.item[i].label, &s->err[j]);
    if (!s->status[j] && j < d->n_train) {
        count_voxels(l, v, n, s->count[j]);
        s->status[j] = find_places(l, v, n, &d->places[j]);
        if (s->status[j]) bmvp_error_set(&s->err[j], BMVP_E_OOM, "out of memory");
    }
    free(v);
}

static bmvp_status scan_labels(bmvp_ft_data *d, bmvp_ctx *c, bmvp_error *err)
{
    const int64_t n = d->n_train + d->n_val;
    bmvp_status st = BMVP_OK;
    int64_t j;
    int r;
    scan s;
    s.d = d;
    s.count = (int64_t (*)[BMVP_MAX_REGIONS + 1])calloc((size_t)n, sizeof *s.count);
    s.status = (bmvp_status *)calloc((size_t)n, sizeof *s.status);
    s.err = (bmvp_error *)calloc((size_t)n, sizeof *s.err);
    d->places = (bmvp_ft_places *)calloc((size_t)d->n_train, sizeof *d->places);
    if (!s.count || !s.status || !s.err || !d->places) st = bmvp_error_set(err, BMVP_E_OOM, "out of memory");
    else bmvp_parallel(c, n, scan_one, &s);
    for (j = 0; j < n && !st; ++j) {
        if (s.status[j]) st = bmvp_error_set(err, s.status[j], "%s", s.err[j].message);
        for (r = 0; r <= BMVP_MAX_REGIONS; ++r) d->voxels[r] += s.count[j][r];
    }
    free(s.count);
    free(s.status);
    free(s.err);
    return st;
}

static bmvp_status check_regions(const bmvp_ft_data *d, const bmvp_ft_source *o, bmvp_error *err)
{
    const bmvp_labels *l = &d->all.data.labels;
    int r;
    for (r = 0; r < l->n && !o->allow_absent; ++r)
        if (d->voxels[r + l->exclusive] == 0)
            return bmvp_error_set(err, BMVP_E_ARG, "%s: no voxel of '%s' in the %lld training cases: nothing to learn it from. Is the definition of "
                                  "the labels right? --allow-absent goes on", d->all.data.path, l->region[r], (long long)d->n_train);
    return BMVP_OK;
}

/* Every case of the two parts needs a class; every class must occur in training. */
static bmvp_status check_classes(bmvp_ft_data *d, const bmvp_ft_source *o, bmvp_error *err)
{
    int64_t j, most = -1;
    int k;
    for (j = 0; j < d->n_train + d->n_val; ++j) {
        const bmvp_case *item = &d->all.data.item[j < d->n_train ? d->train[j] : d->val[j - d->n_train]];
        if (item->klass < 0) return bmvp_error_set(err, BMVP_E_ARG, "%s: case '%s' has no \"class\"", d->all.data.path, item->id);
        most = item->klass > most ? item->klass : most;
        if (j < d->n_train && item->klass <= BMVP_MAX_REGIONS) ++d->voxels[item->klass];
    }
    d->classes = (int)(o->classes > 0 ? o->classes : most + 1);
    if (d->classes < 2 || d->classes > BMVP_MAX_REGIONS + 1 || most >= d->classes)
        return bmvp_error_set(err, BMVP_E_ARG, "%s: classes are numbered from 0 and there must be 2 to %d of them; the largest here is %lld%s",
                              d->all.data.path, BMVP_MAX_REGIONS + 1, (long long)most, o->classes > 0 ? ", which --classes excludes" : "");
    for (k = 0; k < d->classes && !o->allow_absent; ++k)
        if (d->voxels[k] == 0)
            return bmvp_error_set(err, BMVP_E_ARG, "%s: no training case of class %d; --allow-absent goes on without", d->all.data.path, k);
    return BMVP_OK;
}

bmvp_status bmvp_ft_data_load(bmvp_ft_data *d, bmvp_ctx *c, const bmvp_ft_source *o, bmvp_error *err)
{
    bmvp_status st;
    memset(d, 0, sizeof *d);
    d->segment = o->segment;
    st = bmvp_prepared_load(&d->all, o->data, err);
    if (st) return st;
    st = restrict_modalities(&d->all, o->modalities, err);
    if (!st && o->labels && !bmvp_labels_builtin(o->labels, &d->all.data.labels))
        st = bmvp_error_set(err, BMVP_E_ARG, "--labels %s: there are %s", o->labels, bmvp_labels_names());
    if (!st && o->labels) d->all.data.has_labels = 1;
    if (!st && o->segment && !d->all.data.has_labels)
        st = bmvp_error_set(err, BMVP_E_ARG, "%s: what do the label values mean? Add \"labels\" to the list, or name a definition: --labels %s",
                            d->all.data.path, bmvp_labels_names());
    if (!st) st = take_split(d, o, err);
    if (!st && o->segment) st = scan_labels(d, c, err);
    if (!st) st = o->segment ? check_regions(d, o, err) : check_classes(d, o, err);
    if (st) bmvp_ft_data_free(d);
    return st;
}

void bmvp_ft_data_free(bmvp_ft_data *d)
{
    int64_t i;
    for (i = 0; d->places && i < d->n_train; ++i) free(d->places[i].voxel);
    free(d->places);
    free(d->cases);
    free(d->train);
    free(d->val);
    bmvp_split_free(&d->split);
    bmvp_prepared_free(&d->all);
    memset(d, 0, sizeof *d);
}

/* ---- crops, read ahead ------------------------------------------------------------------------------------------------------ */

/* Moves the crop so that a labelled voxel lies in its middle, as far as the volume allows. */
static void centre_on_label(const bmvp_ft_places *p, const int64_t dim[3], const int64_t size[3], double pick, int64_t start[3])
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

static bmvp_status load_item(const bmvp_ft_loader *l, bmvp_ft_draw *w, float *x, bmvp_ft_item *t, bmvp_error *err)
{
    const bmvp_ft_data *d = l->data;
    const int64_t size[3] = { l->cfg.crop_z, l->cfg.crop_y, l->cfg.crop_x }, n = size[0] * size[1] * size[2], i = d->train[w->index];
    bmvp_status st = BMVP_OK;
    int m;
    memset(t, 0, sizeof *t);
    t->slot = w->slot;
    if (d->segment && w->on_label) centre_on_label(&d->places[w->index], d->cases[w->index].dim, size, w->pick, w->crop);
    bmvp_template_place(w->crop, d->cases[w->index].dim, l->template_grid, t->template_start);
    for (m = 0; m < d->all.n_modalities && !st; ++m, x += n) {
        if (!(d->cases[w->index].modalities >> m & 1u)) continue;
        t->image[m] = x;
        st = bmvp_prepared_crop(&d->all, i, m, w->crop, size, x, err);
    }
    t->class_index = (int)d->all.data.item[i].klass;
    if (!d->segment || st) return st;
    t->labels = x;
    return bmvp_prepared_label(&d->all, i, w->crop, size, x, err);
}

static bmvp_status load_batch(void *user, int buffer, int64_t step, bmvp_error *err)
{
    bmvp_ft_loader *l = (bmvp_ft_loader *)user;
    bmvp_ft_batch *b = &l->batch[buffer];
    const int64_t each = (int64_t)l->cfg.crop_x * l->cfg.crop_y * l->cfg.crop_z * (l->data->all.n_modalities + 1);
    bmvp_status st = BMVP_OK;
    int i;
    bmvp_ft_sample(&l->cfg, l->data->cases, l->data->n_train, step, l->order, b->draw);
    for (i = 0; i < l->cfg.batch && !st; ++i) st = load_item(l, &b->draw[i], b->voxels + i * each, &b->item[i], err);
    return st;
}

/* Of one of the two buffers. */
static size_t loader_voxels(const bmvp_ft_data *data, const bmvp_ft_config *cfg)
{
    const size_t crop = (size_t)cfg->crop_x * (size_t)cfg->crop_y * (size_t)cfg->crop_z;
    return (size_t)cfg->batch * crop * (size_t)(data->all.n_modalities + 1);
}

double bmvp_ft_loader_bytes(const bmvp_ft_data *data, const bmvp_ft_config *cfg)
{
    return 2.0 * (double)loader_voxels(data, cfg) * (double)sizeof(float);
}

bmvp_status bmvp_ft_loader_start(bmvp_ft_loader *l, const bmvp_ft_data *data, const bmvp_ft_config *cfg, const int64_t template_grid[3],
                                 int64_t first, bmvp_error *err)
{
    const size_t items = (size_t)cfg->batch;
    const size_t voxels = loader_voxels(data, cfg);
    bmvp_status st = BMVP_OK;
    int i, ok = 1;
    memset(l, 0, sizeof *l);
    l->data = data;
    l->cfg = *cfg;
    memcpy(l->template_grid, template_grid, sizeof l->template_grid);
    l->order = (int64_t *)malloc((size_t)data->n_train * sizeof *l->order);
    for (i = 0; i < 2; ++i) {
        l->batch[i].draw = (bmvp_ft_draw *)calloc(items, sizeof *l->batch[i].draw);
        l->batch[i].item = (bmvp_ft_item *)calloc(items, sizeof *l->batch[i].item);
        l->batch[i].voxels = (float *)malloc(voxels * sizeof(float));
        ok = ok && l->batch[i].draw && l->batch[i].item && l->batch[i].voxels;
    }
    if (!ok || !l->order) st = bmvp_error_set(err, BMVP_E_OOM, "no memory for reading crops ahead (%.1f MB)", (double)voxels * 8e-6);
    if (!st) st = bmvp_ahead_start(&l->ahead, load_batch, l, first, err);
    if (st) bmvp_ft_loader_stop(l);
    return st;
}

const bmvp_ft_batch *bmvp_ft_loader_get(bmvp_ft_loader *l, int64_t step, bmvp_error *err)
{
    const int b = bmvp_ahead_get(&l->ahead, step, err);
    return b < 0 ? NULL : &l->batch[b];
}

void bmvp_ft_loader_stop(bmvp_ft_loader *l)
{
    int i;
    bmvp_ahead_stop(&l->ahead);
    free(l->order);
    for (i = 0; i < 2; ++i) {
        free(l->batch[i].draw);
        free(l->batch[i].item);
        free(l->batch[i].voxels);
    }
    memset(l, 0, sizeof *l);
}

/* ---- validation ---------------------------------------------------------------------------------------------------------------- */

typedef struct whole { /* a prepared case in memory */
    bmvp_infer_case k;
    float *voxels;
    int64_t n;
} whole;

static bmvp_status load_whole(const bmvp_ft_data *d, int64_t i, whole *w, bmvp_error *err)
{
    static const int64_t origin[3] = { 0, 0, 0 };
    const bmvp_ssl_case *k = &d->all.cases[i];
    bmvp_status st = BMVP_OK;
    int m;
    memset(w, 0, sizeof *w);
    memcpy(w->k.dim, k->dim, sizeof w->k.dim);
    w->n = k->dim[0] * k->dim[1] * k->dim[2];
    w->voxels = (float *)malloc((size_t)w->n * (size_t)(d->all.n_modalities + 1) * sizeof(float));
    if (!w->voxels) return bmvp_error_set(err, BMVP_E_OOM, "out of memory for case '%s'", d->all.data.item[i].id);
    for (m = 0; m < d->all.n_modalities && !st; ++m) {
        float *v = w->voxels + m * w->n;
        if (!(k->modalities >> m & 1u)) continue;
        w->k.image[m] = v;
        st = bmvp_prepared_crop(&d->all, i, m, origin, k->dim, v, err);
    }
    if (!st && d->segment) st = bmvp_prepared_label(&d->all, i, origin, k->dim, w->voxels + d->all.n_modalities * w->n, err);
    if (st) free(w->voxels);
    return st;
}

static bmvp_window window_of(const bmvp_ft_config *k)
{
    bmvp_window w;
    memset(&w, 0, sizeof w);
    w.roi[0] = k->crop_z, w.roi[1] = k->crop_y, w.roi[2] = k->crop_x;
    w.overlap = k->overlap;
    w.batch = 1;
    return w;
}

typedef struct counting { /* planes of probabilities become counts of voxels, and labels if wanted */
    const bmvp_labels *labels;
    const float *truth;
    unsigned char *out;
    int64_t area, both[BMVP_MAX_REGIONS], predicted[BMVP_MAX_REGIONS], true_[BMVP_MAX_REGIONS];
} counting;

static bmvp_status count_planes(void *user, int64_t z0, int64_t n, const float *values)
{
    counting *s = (counting *)user;
    const int outputs = bmvp_labels_outputs(s->labels);
    int64_t i;
    int r;
    for (i = 0; i < n * s->area; ++i) {
        const int label = bmvp_labels_decide(s->labels, values + i * outputs), truth = (int)s->truth[z0 * s->area + i];
        if (s->out) s->out[z0 * s->area + i] = (unsigned char)label;
        for (r = 0; r < s->labels->n && (label | truth); ++r) {
            const int p = s->labels->in[r][label], t = s->labels->in[r][truth];
            s->both[r] += p & t;
            s->predicted[r] += p;
            s->true_[r] += t;
        }
    }
    return BMVP_OK;
}

/* A case as load_whole has it, what the report's pictures add, and the sums of one row of windows. */
double bmvp_ft_validation_bytes(const bmvp_ft_data *d, const bmvp_ft_config *cfg)
{
    const int64_t *g = d->all.grid, roi = (int64_t)cfg->crop_z * cfg->crop_y * cfg->crop_x, in = d->all.n_modalities;
    const int64_t outputs = d->segment ? bmvp_labels_outputs(&d->all.data.labels) : d->classes;
    const int64_t row = cfg->crop_z * (g[1] > cfg->crop_y ? g[1] : cfg->crop_y) * (g[2] > cfg->crop_x ? g[2] : cfg->crop_x);
    const int64_t windows = d->segment ? roi * (1 + in + outputs) + row * (outputs + 1) + g[1] * g[2] * outputs : 0;
    const int64_t pictures = d->segment ? 2 * (int64_t)sizeof(float) + 2 : 0;
    return (double)(g[0] * g[1] * g[2] * (pictures + (in + 1) * (int64_t)sizeof(float)) + windows * (int64_t)sizeof(float));
}

bmvp_status bmvp_ft_look(bmvp_ctx *c, bmvp_ft *f, const bmvp_ft_data *d, int64_t i, unsigned char *out, double *dice, bmvp_error *err)
{
    const bmvp_window w = window_of(bmvp_ft_config_of(f));
    bmvp_status st;
    counting s;
    whole v;
    int r;
    st = load_whole(d, i, &v, err);
    if (st) return st;
    memset(&s, 0, sizeof s);
    s.labels = bmvp_ft_labels(f);
    s.truth = v.voxels + d->all.n_modalities * v.n;
    s.area = v.k.dim[1] * v.k.dim[2];
    s.out = out;
    st = bmvp_infer_segment(c, f, &v.k, &w, count_planes, &s, err);
    for (r = 0; r < s.labels->n && !st && dice; ++r)
        dice[r] = s.true_[r] > 0 ? 2.0 * (double)s.both[r] / (double)(s.true_[r] + s.predicted[r]) : (double)NAN;
    free(v.voxels);
    return st;
}

static bmvp_status validate_segment(bmvp_ctx *c, bmvp_ft *f, const bmvp_ft_data *d, bmvp_ft_score *out, bmvp_error *err)
{
    const int n = bmvp_ft_labels(f)->n;
    double dice[BMVP_MAX_REGIONS], all = 0;
    int64_t used[BMVP_MAX_REGIONS], j;
    bmvp_status st = BMVP_OK;
    int r, regions = 0;
    memset(used, 0, sizeof used);
    for (j = 0; j < d->n_val && !st; ++j) {
        st = bmvp_ft_look(c, f, d, d->val[j], NULL, dice, err);
        for (r = 0; r < n && !st; ++r)
            if (dice[r] == dice[r]) {
                out->region[r] += dice[r];
                ++used[r];
            }
    }
    for (r = 0; r < n; ++r) {
        out->region[r] = used[r] ? out->region[r] / (double)used[r] : (double)NAN;
        if (used[r]) all += out->region[r], ++regions;
    }
    out->mean = regions ? all / regions : (double)NAN;
    out->accuracy = out->auc = (double)NAN;
    return st;
}

static bmvp_status validate_classify(bmvp_ctx *c, bmvp_ft *f, const bmvp_ft_data *d, bmvp_ft_score *out, bmvp_error *err)
{
    float *score = (float *)malloc((size_t)(d->n_val * d->classes) * sizeof *score + 1);
    int *truth = (int *)malloc((size_t)d->n_val * sizeof *truth + 1);
    bmvp_status st = score && truth ? BMVP_OK : bmvp_error_set(err, BMVP_E_OOM, "out of memory");
    bmvp_class_metrics m;
    int64_t j;
    for (j = 0; j < d->n_val && !st; ++j) {
        whole v;
        truth[j] = (int)d->all.data.item[d->val[j]].klass;
        st = load_whole(d, d->val[j], &v, err);
        if (st) break;
        st = bmvp_infer_classify(c, f, &v.k, score + j * d->classes, err);
        free(v.voxels);
    }
    if (!st && bmvp_classification(score, truth, d->n_val, d->classes, NULL, &m)) st = bmvp_error_set(err, BMVP_E_OOM, "out of memory");
    if (!st) {
        out->accuracy = m.accuracy;
        out->auc = m.auc;
        out->mean = m.auc == m.auc ? m.auc : m.accuracy;
    }
    free(score);
    free(truth);
    return st;
}

bmvp_status bmvp_ft_validate(bmvp_ctx *c, bmvp_ft *f, const bmvp_ft_data *d, bmvp_ft_score *out, bmvp_error *err)
{
    memset(out, 0, sizeof *out);
    return d->segment ? validate_segment(c, f, d, out, err) : validate_classify(c, f, d, out, err);
}
