/* validation.c - a network that is being fine-tuned over whole cases, see validation.h */
#include "validation.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct whole { /* a prepared case in memory */
    bmvp_ft_case k;
    float *voxels;
    int64_t n;
} whole;

static bmvp_status load_whole(const finetune_data *d, int64_t i, whole *w, bmvp_error *err)
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
        st = prepared_crop(&d->all, i, m, origin, k->dim, v, err);
    }
    if (!st && d->segment) st = prepared_label(&d->all, i, origin, k->dim, w->voxels + d->all.n_modalities * w->n, err);
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
        if (truth && truth == s->labels->ignore) continue;
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
double validation_bytes(const finetune_data *d, const bmvp_ft_config *cfg)
{
    const int64_t *g = d->all.grid, roi = (int64_t)cfg->crop_z * cfg->crop_y * cfg->crop_x, in = d->all.n_modalities;
    const int64_t outputs = d->segment ? bmvp_labels_outputs(&d->all.data.labels) : d->classes;
    const int64_t row = cfg->crop_z * (g[1] > cfg->crop_y ? g[1] : cfg->crop_y) *
                        (g[2] > cfg->crop_x ? g[2] : cfg->crop_x);
    const int64_t windows = d->segment ? roi * (1 + in + outputs) + row * (outputs + 1) + g[1] * g[2] * outputs : 0;
    const int64_t pictures = d->segment ? 2 * (int64_t)sizeof(float) + 2 + VALIDATION_MAPS : 0;
    return (double)(g[0] * g[1] * g[2] * (pictures + (in + 1) * (int64_t)sizeof(float)) +
                    windows * (int64_t)sizeof(float));
}

bmvp_status validation_look(bmvp_ft *f, const finetune_data *d, int64_t i, unsigned char *out, double *dice,
                            bmvp_error *err)
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
    st = bmvp_ft_segment(f, &v.k, &w, count_planes, &s, err);
    for (r = 0; r < s.labels->n && !st && dice; ++r)
        dice[r] = s.true_[r] > 0 ? 2.0 * (double)s.both[r] / (double)(s.true_[r] + s.predicted[r]) : (double)NAN;
    free(v.voxels);
    return st;
}

static bmvp_status goes_on(bmvp_ft *f, int64_t done, int64_t of, bmvp_error *err)
{
    bmvp_ctx *c = bmvp_ft_trainer(f)->c;
    return bmvp_progress(c, "cases", done, of) ? bmvp_error_take(c, err) : BMVP_OK;
}

void validation_maps_free(validation_maps *m)
{
    int i;
    for (i = 0; i < VALIDATION_MAPS; ++i) free(m->map[i]);
    memset(m, 0, sizeof *m);
}

/* Room for the map of case j for validation; NULL: it is not kept. */
static bmvp_status make_room(validation_maps *m, const finetune_data *d, int64_t j, unsigned char **out,
                             bmvp_error *err)
{
    const int64_t *dim = d->all.cases[d->val[j]].dim;
    *out = NULL;
    if (j >= VALIDATION_MAPS) return BMVP_OK;
    *out = m->map[j] = (unsigned char *)malloc((size_t)(dim[0] * dim[1] * dim[2]));
    m->n = (int)j + 1;
    return *out ? BMVP_OK : bmvp_error_set(err, BMVP_E_OOM, "out of memory for the maps of a validation");
}

static bmvp_status validate_segment(bmvp_ft *f, const finetune_data *d, validation_score *out, validation_maps *m,
                                    bmvp_error *err)
{
    const int n = bmvp_ft_labels(f)->n;
    double dice[BMVP_MAX_REGIONS], all = 0;
    int64_t used[BMVP_MAX_REGIONS], j;
    bmvp_status st = BMVP_OK;
    int r, regions = 0;
    memset(used, 0, sizeof used);
    validation_maps_free(m);
    m->step = bmvp_ft_steps(f);
    for (j = 0; j < d->n_val && !st; ++j) {
        unsigned char *map = NULL;
        st = goes_on(f, j, d->n_val, err);
        if (!st) st = make_room(m, d, j, &map, err);
        if (!st) st = validation_look(f, d, d->val[j], map, dice, err);
        if (map) memcpy(m->dice[j], dice, sizeof dice);
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
    if (st) validation_maps_free(m);
    out->mean = regions ? all / regions : (double)NAN;
    out->accuracy = out->auc = (double)NAN;
    return st;
}

static bmvp_status validate_classify(bmvp_ft *f, const finetune_data *d, validation_score *out, bmvp_error *err)
{
    float *score = (float *)malloc((size_t)(d->n_val * d->classes) * sizeof *score + 1);
    int *truth = (int *)malloc((size_t)d->n_val * sizeof *truth + 1);
    bmvp_status st = score && truth ? BMVP_OK : bmvp_error_set(err, BMVP_E_OOM, "out of memory");
    bmvp_class_metrics m;
    int64_t j;
    for (j = 0; j < d->n_val && !st; ++j) {
        whole v;
        truth[j] = (int)d->all.data.item[d->val[j]].class_index;
        st = goes_on(f, j, d->n_val, err);
        if (!st) st = load_whole(d, d->val[j], &v, err);
        if (st) break;
        st = bmvp_ft_classify(f, &v.k, score + j * d->classes, err);
        free(v.voxels);
    }
    if (!st && bmvp_classification(score, truth, d->n_val, d->classes, NULL, &m))
        st = bmvp_error_set(err, BMVP_E_OOM, "out of memory");
    if (!st) {
        out->accuracy = m.accuracy;
        out->auc = m.auc;
        out->mean = m.auc == m.auc ? m.auc : m.accuracy;
    }
    free(score);
    free(truth);
    return st;
}

bmvp_status validation_run(bmvp_ft *f, const finetune_data *d, validation_score *out, validation_maps *m,
                           bmvp_error *err)
{
    memset(out, 0, sizeof *out);
    return d->segment ? validate_segment(f, d, out, m, err) : validate_classify(f, d, out, err);
}
