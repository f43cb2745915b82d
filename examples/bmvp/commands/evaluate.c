/* evaluate.c - `bmvp evaluate`: predictions against the truth, case by case, see evaluation.h */
#define _DEFAULT_SOURCE
#include "commands.h"
#include "cli.h"
#include "data_options.h"
#include "bmvp_nifti.h"
#include "data/files.h"
#include "data/labels.h"
#include "data/splits.h"
#include "report/evaluation.h"
#include <errno.h>
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { STREAM_CLASSES = 0x45564c31 };

/* >>two label maps ------------------------------------------------------------------------------------------------- */

static void count_overlap(const unsigned char *p, const unsigned char *t, int64_t n, int64_t *predicted, int64_t *truth,
                          int64_t *both)
{
    int64_t i, a = 0, b = 0, c = 0;
    for (i = 0; i < n; ++i) {
        a += p[i];
        b += t[i];
        c += p[i] & t[i];
    }
    *predicted = a, *truth = b, *both = c;
}

static int64_t count_judged(const bmvp_labels *l, const float *truth, int64_t n)
{
    int64_t i, ignored = 0;
    for (i = 0; i < n && l->ignore; ++i) ignored += truth[i] == (float)l->ignore;
    return n - ignored;
}

/* Where both masks hold something the rule does not matter: one computation serves both. */
static bmvp_status distances_of(const unsigned char *p, const unsigned char *t, const int64_t dim[3],
                                const double mm[3], region_figures *out)
{
    const int rules = out->truth > 0 && out->predicted > 0 ? 1 : EMPTY_RULES;
    bmvp_status st = BMVP_OK;
    int k;
    for (k = 0; k < rules && !st; ++k) {
        st = bmvp_hausdorff(p, t, dim, mm, 95, (bmvp_empty_rule)k, NULL, &out->figure[k][FIGURE_HD95]);
        if (!st) st = bmvp_hausdorff(p, t, dim, mm, 100, (bmvp_empty_rule)k, NULL, &out->figure[k][FIGURE_HD]);
    }
    for (; k < EMPTY_RULES && !st; ++k) {
        out->figure[k][FIGURE_HD95] = out->figure[0][FIGURE_HD95];
        out->figure[k][FIGURE_HD] = out->figure[0][FIGURE_HD];
    }
    return st;
}

/* All regions of two label maps on one grid, dim and mm in D, H, W order. distances 0: HD95 and HD are NaN. */
static bmvp_status compare_maps(const bmvp_labels *l, const float *prediction, const float *truth, const int64_t dim[3],
                                const double mm[3], int distances, region_figures out[BMVP_MAX_REGIONS],
                                bmvp_error *err)
{
    const int64_t n = dim[0] * dim[1] * dim[2], judged = count_judged(l, truth, n);
    unsigned char *p = (unsigned char *)malloc((size_t)n + 1), *t = (unsigned char *)malloc((size_t)n + 1);
    bmvp_status st = p && t ? BMVP_OK : BMVP_E_OOM;
    int64_t both;
    int r, k;
    for (r = 0; r < l->n && !st; ++r) {
        region_figures *o = &out[r];
        bmvp_labels_mask(l, r, prediction, n, p);
        bmvp_labels_mask(l, r, truth, n, t);
        bmvp_labels_judged(l, truth, n, p);
        count_overlap(p, t, n, &o->predicted, &o->truth, &both);
        for (k = 0; k < EMPTY_RULES; ++k) {
            const int64_t outside = judged - o->truth;
            o->figure[k][FIGURE_DICE] = bmvp_dice(p, t, n, (bmvp_empty_rule)k);
            o->figure[k][FIGURE_HD95] = o->figure[k][FIGURE_HD] = (double)NAN;
            o->figure[k][FIGURE_SENSITIVITY] = o->truth > 0 ? (double)both / (double)o->truth : (double)NAN;
            o->figure[k][FIGURE_SPECIFICITY] = outside > 0 ? (double)(outside - (o->predicted - both)) / (double)outside
                                                           : (double)NAN;
        }
        if (distances) st = distances_of(p, t, dim, mm, o);
    }
    free(p);
    free(t);
    return st ? bmvp_error_set(err, st, "%s", st == BMVP_E_OOM ? "out of memory" : "the voxel size allows no distances")
              : BMVP_OK;
}

/* >>one case of a segmentation ------------------------------------------------------------------------------------- */

typedef struct job {
    evaluation *e;
    bmvp_nii_pool *pool; /* one for each worker */
    pthread_mutex_t lock;
    cli_progress progress;
    int64_t n_seen;
} job;

/* DIR/id.nii.gz or DIR/id.nii; NULL with err: there is none, or both (BMVP_E_ARG), or no memory. free() it. */
static char *prediction_path(const evaluation *e, const char *id, bmvp_error *err)
{
    static const char *const ending[2] = { ".nii.gz", ".nii" };
    char *found[2] = { NULL, NULL };
    int k, n = 0;
    for (k = 0; k < 2; ++k) {
        const size_t size = strlen(e->predictions) + strlen(id) + 16;
        char *path = (char *)malloc(size);
        if (path) snprintf(path, size, "%s/%s%s", e->predictions, id, ending[k]);
        if (path && file_exists(path)) found[n++] = path;
        else free(path);
    }
    if (n == 0)
        bmvp_error_set(err, BMVP_E_IO, "case '%s': no prediction %s/%s.nii.gz (or .nii)", id, e->predictions, id);
    if (n < 2) return found[0];
    bmvp_error_set(err, BMVP_E_ARG, "case '%s': both %s and %s are there; remove the one that does not count", id,
                   found[0], found[1]);
    free(found[0]);
    free(found[1]);
    return NULL;
}

static bmvp_status read_map(bmvp_nii_volume *v, const data_case *k, const char *path, const bmvp_labels *l,
                            const bmvp_nii_options *io, bmvp_error *err)
{
    bmvp_nii_load how;
    bmvp_error e;
    bmvp_error inner;
    int64_t dim[3];
    memset(&how, 0, sizeof how);
    how.axcodes = "RAS"; /* a map stored along other axes of the same grid is the same map */
    if (bmvp_nii_read_volume(v, path, &how, io, &e) != BMVP_OK)
        return bmvp_error_set(err, BMVP_E_FORMAT, "case '%s': %s", k->id, e.message);
    if (v->by_qform)
        say(stderr,
                "\nbmvp evaluate: case '%s': %s: placed by its qform: its sform is singular or does not fit the voxel "
                "size, and says another place\n",
                k->id, path);
    dim[0] = v->dim[2], dim[1] = v->dim[1], dim[2] = v->dim[0];
    if (bmvp_labels_check(l, v->data, dim, path, &inner) == BMVP_OK) return BMVP_OK;
    return bmvp_error_set(err, inner.status, "case '%s': %s", k->id, inner.message);
}

static bmvp_status compare_files(const evaluation *e, const data_case *k, const char *path, const bmvp_nii_options *io,
                                 evaluated_case *out, bmvp_error *err)
{
    const bmvp_labels *l = &e->set.labels;
    bmvp_nii_volume p, t;
    bmvp_status st;
    bmvp_error inner;
    int a;
    memset(&p, 0, sizeof p);
    memset(&t, 0, sizeof t);
    st = read_map(&t, k, k->label, l, io, err);
    if (!st) st = read_map(&p, k, path, l, io, err);
    if (!st && !bmvp_nii_one_grid(&t, &p))
        st = bmvp_error_set(err, BMVP_E_SHAPE,
                            "case '%s': prediction %s (%lldx%lldx%lld) and label %s (%lldx%lldx%lld) are on different "
                            "grids; `bmvp predict` writes on the grid of its input",
                            k->id, path, (long long)p.dim[0], (long long)p.dim[1], (long long)p.dim[2], k->label,
                            (long long)t.dim[0], (long long)t.dim[1], (long long)t.dim[2]);
    if (!st) {
        const int64_t dim[3] = { t.dim[2], t.dim[1], t.dim[0] };
        double mm[3];
        bmvp_nii_voxel_size(mm, t.affine);
        for (a = 0; a < 3; ++a) out->mm[a] = mm[2 - a];
        st = compare_maps(l, p.data, t.data, dim, out->mm, e->distances, out->region, &inner);
        if (st) bmvp_error_set(err, st, "case '%s': %s: %s", k->id, k->label, inner.message);
    }
    bmvp_nii_volume_free(&p);
    bmvp_nii_volume_free(&t);
    return st;
}

static void evaluate_task(void *arg, int64_t i, int worker)
{
    job *j = (job *)arg;
    evaluation *e = j->e;
    const data_case *k = &e->set.item[e->index[i]];
    evaluated_case *out = &e->item[i];
    bmvp_nii_options io;
    bmvp_error err;
    char *path = NULL;
    memset(&io, 0, sizeof io);
    io.allocator = bmvp_nii_pool_allocator(&j->pool[worker]);
    err.status = BMVP_OK;
    if (!k->label) bmvp_error_set(&err, BMVP_E_ARG, "%s: case '%s' has no label to compare with", e->set.path, k->id);
    else path = prediction_path(e, k->id, &err);
    if (path) (void)compare_files(e, k, path, &io, out, &err);
    out->state = !err.status ? CASE_DONE : k->label && !path && err.status == BMVP_E_IO ? CASE_MISSING : CASE_FAILED;
    if (err.status) out->why = text_copy(err.message);
    free(path);
    pthread_mutex_lock(&j->lock);
    ++j->n_seen;
    if (err.status) say(stderr, "\nbmvp evaluate: left out: %s\n", err.message);
    cli_status(&j->progress, j->n_seen == e->n, "%lld of %lld cases", (long long)j->n_seen, (long long)e->n);
    pthread_mutex_unlock(&j->lock);
}

/* Row r of the figures of rule k over the cases: a region's, or (r = n) each case's mean over the regions that have a
   number. */
static void gather(const evaluation *e, int k, int r, int f, double *value)
{
    const int n_regions = e->set.labels.n;
    int64_t i;
    int q;
    for (i = 0; i < e->n; ++i) {
        const int from = r < n_regions ? r : 0, to = r < n_regions ? r + 1 : n_regions;
        double sum = 0;
        int n = 0;
        for (q = from; q < to && e->item[i].state == CASE_DONE; ++q) {
            const double v = e->item[i].region[q].figure[k][f];
            if (v == v) sum += v, ++n;
        }
        value[i] = n > 0 ? sum / n : (double)NAN;
    }
}

static bmvp_status summarise(evaluation *e, bmvp_error *err)
{
    double *value = (double *)malloc((size_t)e->n * sizeof *value + 1);
    bmvp_status st = value ? BMVP_OK : BMVP_E_OOM;
    int64_t i;
    int k, r, f;
    for (i = 0; i < e->n; ++i)
        for (r = 0; r < e->set.labels.n && e->item[i].state == CASE_DONE; ++r)
            e->present[r] += e->item[i].region[r].truth > 0;
    for (k = 0; k < EMPTY_RULES && !st; ++k)
        for (r = 0; r <= e->set.labels.n && !st; ++r)
            for (f = 0; f < FIGURES && !st; ++f) {
                gather(e, k, r, f, value);
                st = bmvp_bootstrap(value, e->n, (int)e->resamples, (uint64_t)e->seed, NULL, &e->summary[k][r][f]);
            }
    free(value);
    return st ? bmvp_error_set(err, st, "out of memory") : BMVP_OK;
}

static bmvp_status evaluate_segmentation(evaluation *e, int64_t threads, bmvp_error *err)
{
    bmvp_config config = bmvp_config_default();
    bmvp_status st = BMVP_OK;
    bmvp_ctx *c;
    int i;
    job j;
    memset(&j, 0, sizeof j);
    j.e = e;
    config.threads = (int)threads;
    c = bmvp_create(&config, err);
    j.pool = c ? (bmvp_nii_pool *)calloc((size_t)bmvp_threads(c), sizeof *j.pool) : NULL;
    if (!j.pool) st = bmvp_error_set(err, BMVP_E_OOM, "out of memory");
    else {
        pthread_mutex_init(&j.lock, NULL);
        (void)cli_elapsed(&j.progress);
        bmvp_parallel(c, e->n, evaluate_task, &j);
        pthread_mutex_destroy(&j.lock);
        for (i = 0; i < bmvp_threads(c); ++i) bmvp_nii_pool_free(&j.pool[i]);
    }
    free(j.pool);
    bmvp_destroy(c);
    return st ? st : summarise(e, err);
}

/* >>classification ------------------------------------------------------------------------------------------------- */

/* The probabilities of an entry, which must be as many as `classes` (0: of the first entry, sets it) and add up to
   1. */
static bmvp_status read_probabilities(const bmvp_json *entry, const char *path, const char *id, int *classes,
                                      float *out, bmvp_error *err)
{
    const bmvp_json *list = bmvp_json_get(entry, "probabilities"), *p;
    const int64_t n = list && list->type == BMVP_JSON_ARRAY ? bmvp_json_count(list) : 0;
    double sum = 0;
    int k = 0;
    if (n < 2 || n > BMVP_MAX_REGIONS + 1)
        return bmvp_error_set(err, BMVP_E_FORMAT, "%s: case '%s': \"probabilities\" must be a list of 2 to %d numbers",
                              path, id, BMVP_MAX_REGIONS + 1);
    if (*classes == 0) *classes = (int)n;
    if (n != *classes)
        return bmvp_error_set(err, BMVP_E_FORMAT, "%s: case '%s' has %lld probabilities, others have %d", path, id,
                              (long long)n, *classes);
    for (p = list->first; p; p = p->next) {
        const double v = p->type == BMVP_JSON_NUMBER ? p->d : -1;
        if (!(v >= 0 && v <= 1))
            return bmvp_error_set(err, BMVP_E_FORMAT, "%s: case '%s': a probability is no number from 0 to 1", path,
                                  id);
        out[k++] = (float)v;
        sum += v;
    }
    if (fabs(sum - 1) <= 1e-3) return BMVP_OK;
    return bmvp_error_set(err, BMVP_E_FORMAT, "%s: case '%s': the probabilities add up to %g", path, id, sum);
}

static bmvp_status take_entry(evaluation *e, int64_t i, const bmvp_json *cases, const char *path, float *out,
                              bmvp_error *err)
{
    const data_case *k = &e->set.item[e->index[i]];
    const bmvp_json *m, *entry = NULL;
    bmvp_status st;
    for (m = cases->first; m; m = m->next) {
        if (strcmp(bmvp_json_string(bmvp_json_get(m, "id"), ""), k->id) != 0) continue;
        if (entry) return bmvp_error_set(err, BMVP_E_FORMAT, "%s: case '%s' is there twice", path, k->id);
        entry = m;
    }
    if (!entry) return bmvp_error_set(err, BMVP_E_IO, "case '%s': no prediction in %s", k->id, path);
    st = read_probabilities(entry, path, k->id, &e->classes, out, err);
    if (st) return st;
    if (k->class_index < 0)
        return bmvp_error_set(err, BMVP_E_ARG, "%s: case '%s' has no \"class\" to compare with", e->set.path, k->id);
    if (k->class_index >= e->classes)
        return bmvp_error_set(err, BMVP_E_ARG, "%s: case '%s' is of class %lld, but %s has %d classes, numbered from 0",
                              e->set.path, k->id, (long long)k->class_index, path, e->classes);
    return BMVP_OK;
}

/* Fills item and score (of the cases done, one after the other). */
static bmvp_status read_classes(evaluation *e, bmvp_error *err)
{
    char *path = path_join(e->predictions, "predictions.json");
    bmvp_json_doc *doc = NULL;
    bmvp_status st = path ? bmvp_json_read(path, NULL, &doc, err) : bmvp_error_set(err, BMVP_E_OOM, "out of memory");
    const bmvp_json *cases = st ? NULL : bmvp_json_get(bmvp_json_root(doc), "cases");
    float *to = e->score;
    bmvp_error inner;
    int64_t i;
    int k;
    if (!st && (!cases || cases->type != BMVP_JSON_ARRAY))
        st = bmvp_error_set(err, BMVP_E_FORMAT,
                            "%s: no predictions of classes: it needs an array \"cases\" of {\"id\", \"probabilities\"}",
                            path);
    for (i = 0; i < e->n && !st; ++i) {
        evaluated_case *o = &e->item[i];
        const bmvp_status one = take_entry(e, i, cases, path, to, &inner);
        if (one) {
            o->state = one == BMVP_E_IO ? CASE_MISSING : CASE_FAILED;
            o->why = text_copy(inner.message);
            say(stderr, "bmvp evaluate: left out: %s\n", inner.message);
            continue;
        }
        o->probability = to;
        for (k = 1; k < e->classes; ++k)
            if (to[k] > to[o->guess]) o->guess = k;
        ++e->present[e->set.item[e->index[i]].class_index];
        to += e->classes;
    }
    bmvp_json_free(doc);
    free(path);
    return st;
}

static void as_figures(const bmvp_class_metrics *m, double out[FIGURES])
{
    out[0] = m->accuracy, out[1] = m->auc, out[2] = m->f1, out[3] = m->sensitivity, out[4] = m->specificity;
}

/* 95 % interval of the numbers among n values, a percentile interval as in bmvp_bootstrap. */
static bmvp_status interval_of(float *value, int64_t n, bmvp_interval *out)
{
    static const double q[2] = { 2.5, 97.5 };
    int64_t i, used = 0;
    float v[2];
    for (i = 0; i < n; ++i)
        if (value[i] == value[i]) value[used++] = value[i];
    out->low = out->high = (double)NAN;
    if (used == 0) return BMVP_OK;
    if (bmvp_nii_percentiles(v, q, 2, value, used, NULL, NULL) != BMVP_OK) return BMVP_E_OOM;
    out->low = (double)v[0];
    out->high = (double)v[1];
    return BMVP_OK;
}

/* These figures are not means of cases: every resample of the cases is evaluated anew. */
static bmvp_status classify_resampled(evaluation *e, const int *truth, int64_t n)
{
    const size_t c = (size_t)e->classes, m = (size_t)n, times = (size_t)e->resamples;
    float *score = (float *)malloc(m * c * sizeof *score), *value = (float *)malloc(times * FIGURES * sizeof *value);
    int *drawn = (int *)malloc(m * sizeof *drawn), f;
    bmvp_status st = score && value && drawn ? BMVP_OK : BMVP_E_OOM;
    bmvp_class_metrics figures;
    double out[FIGURES];
    int64_t b, i;
    for (b = 0; b < e->resamples && !st; ++b) {
        bmvp_rng r = bmvp_rng_make((uint64_t)e->seed, STREAM_CLASSES, (uint32_t)b, 0);
        for (i = 0; i < n; ++i) {
            const uint32_t from = bmvp_rng_below(&r, (uint32_t)n);
            drawn[i] = truth[from];
            memcpy(score + (size_t)i * c, e->score + from * c, c * sizeof *score);
        }
        st = bmvp_classification(score, drawn, n, e->classes, NULL, &figures);
        as_figures(&figures, out);
        for (f = 0; f < FIGURES; ++f) value[(size_t)f * times + (size_t)b] = (float)out[f];
    }
    for (f = 0; f < FIGURES && !st; ++f)
        st = interval_of(value + (size_t)f * times, e->resamples, &e->class_summary[f]);
    free(score);
    free(value);
    free(drawn);
    return st;
}

static bmvp_status evaluate_classification(evaluation *e, bmvp_error *err)
{
    int *truth = (int *)malloc((size_t)e->n * sizeof *truth + 1), f;
    bmvp_class_metrics figures;
    double out[FIGURES];
    bmvp_status st;
    int64_t i, n = 0;
    e->score = (float *)malloc((size_t)e->n * (BMVP_MAX_REGIONS + 1) * sizeof *e->score + 1);
    st = truth && e->score ? read_classes(e, err) : bmvp_error_set(err, BMVP_E_OOM, "out of memory");
    for (i = 0; i < e->n && !st; ++i)
        if (e->item[i].state == CASE_DONE) truth[n++] = (int)e->set.item[e->index[i]].class_index;
    if (!st && n > 0) {
        st = bmvp_classification(e->score, truth, n, e->classes, NULL, &figures);
        if (!st) {
            as_figures(&figures, out);
            st = classify_resampled(e, truth, n);
        }
        for (f = 0; f < FIGURES && !st; ++f) {
            e->class_summary[f].mean = out[f];
            e->class_summary[f].n_used = out[f] == out[f] ? n : 0;
        }
        if (st) bmvp_error_set(err, st, "out of memory");
    }
    free(truth);
    return st;
}

/* >>the command ---------------------------------------------------------------------------------------------------- */

static bmvp_status take_cases(evaluation *e, bmvp_error *err)
{
    bmvp_status st = BMVP_OK;
    data_split s;
    int64_t i;
    e->index = (int64_t *)malloc((size_t)e->set.n * sizeof *e->index + 1);
    e->item = (evaluated_case *)calloc((size_t)e->set.n + 1, sizeof *e->item);
    if (!e->index || !e->item) return bmvp_error_set(err, BMVP_E_OOM, "out of memory");
    if (e->split) {
        st = split_load(&s, &e->set, e->split, err);
        if (!st) st = split_select(&s, e->part, e->index, &e->n, err);
        split_free(&s);
    } else
        for (i = 0; i < e->set.n; ++i) e->index[e->n++] = i;
    if (!st && e->n == 0) st = bmvp_error_set(err, BMVP_E_ARG, "%s: part '%s' has no cases", e->split, e->part);
    return st;
}

static bmvp_status take_labels(evaluation *e, const char *name, bmvp_error *err)
{
    if (name && !bmvp_labels_builtin(name, &e->set.labels))
        return bmvp_error_set(err, BMVP_E_ARG, "--labels %s: there are %s", name, bmvp_labels_names());
    if (name || e->set.has_labels) return BMVP_OK;
    return bmvp_error_set(err, BMVP_E_ARG,
                          "%s: what do the label values mean? Add \"labels\" to the list, or name a definition: "
                          "--labels %s",
                          e->set.path, bmvp_labels_names());
}

/* What `bmvp predict` says of the labels: a region of the same name with other values would be measured wrongly without
   a word. */
static bmvp_status compare_labels(const evaluation *e, bmvp_error *err)
{
    char *path = path_join(e->predictions, "predictions.json");
    const bmvp_labels *ours = &e->set.labels;
    const bmvp_json *node;
    bmvp_json_doc *doc = NULL;
    bmvp_labels theirs;
    bmvp_status st = path ? BMVP_OK : bmvp_error_set(err, BMVP_E_OOM, "out of memory");
    int a, b;
    if (!st && file_exists(path)) st = bmvp_json_read(path, NULL, &doc, err);
    node = doc ? bmvp_json_get(bmvp_json_root(doc), "labels") : NULL;
    theirs.n = 0;
    if (!st && node) st = bmvp_labels_read(node, &theirs, err);
    for (a = 0; a < ours->n && !st; ++a)
        for (b = 0; b < theirs.n && !st; ++b)
            if (strcmp(ours->region[a], theirs.region[b]) == 0 &&
                memcmp(ours->in[a], theirs.in[b], sizeof ours->in[a]) != 0)
                st = bmvp_error_set(
                    err, BMVP_E_ARG,
                    "%s: '%s' has other values there (labels '%s') than in %s (labels '%s'): not the same structures",
                    path, ours->region[a], theirs.name, e->set.path, ours->name);
    bmvp_json_free(doc);
    free(path);
    return st;
}

static bmvp_status run(evaluation *e, const char *out, const char *labels, int64_t threads, int per_case,
                       bmvp_error *err)
{
    struct stat s;
    bmvp_status st = data_load(&e->set, e->data, &e->files, "evaluate", err);
    int64_t i;
    if (!st && (stat(e->predictions, &s) != 0 || !S_ISDIR(s.st_mode)))
        st = bmvp_error_set(err, BMVP_E_IO, "--predictions %s: there is no such folder", e->predictions);
    if (!st) st = evaluation_may_write(out, err);
    if (!st && !e->classify) st = take_labels(e, labels, err);
    if (!st && !e->classify) st = compare_labels(e, err);
    if (!st) st = take_cases(e, err);
    if (!st) st = e->classify ? evaluate_classification(e, err) : evaluate_segmentation(e, threads, err);
    for (i = 0; i < e->n && !st; ++i) ++e->n_state[e->item[i].state];
    if (!st && e->n_state[CASE_DONE] == 0)
        st = bmvp_error_set(err, BMVP_E_ARG, "none of the %lld cases could be evaluated", (long long)e->n);
    if (!st && make_dir(out) != 0) st = bmvp_error_set(err, BMVP_E_IO, "--out %s: %s", out, strerror(errno));
    if (!st) st = evaluation_write(e, out, err);
    if (!st) evaluation_print(e, per_case);
    return st;
}

static void evaluation_free(evaluation *e)
{
    int64_t i;
    for (i = 0; i < e->n && e->item; ++i) free(e->item[i].why);
    free(e->item);
    free(e->index);
    free(e->score);
    dataset_free(&e->set);
    free(e);
}

int command_evaluate(int argc, char **argv)
{
    evaluation *e = (evaluation *)calloc(1, sizeof *e);
    const char *out, *labels;
    int64_t threads;
    int rule, fast, per_case, code;
    bmvp_error err;
    if (!e) return cli_fail(CLI_FAILED, "evaluate", "out of memory");
    {
        cli_option opt[] = {
            cli_required("data", &e->data, "LIST|DIR", "cases with labels or classes: the truth"),
            DATA_OPTIONS(e->files),
            cli_required("predictions", &e->predictions, "DIR",
                         "ID.nii.gz or ID.nii of each case on the grid of its label; classes: predictions.json"),
            cli_string("out", &out, NULL, "DIR",
                       "folder for metrics.json and metrics.csv; none: that of the predictions"),
            cli_choice("task", &e->classify, 0, "segment|classify", "what was predicted"),
            cli_string("split", &e->split, NULL, "FILE", "from `bmvp split` or a run; none: all cases"),
            cli_string("part", &e->part, "test", "PART", "of the split: train, val, test, all, fold:K, not-fold:K"),
            cli_string("labels", &labels, NULL, "NAME",
                       "built-in definition instead of the list's: brats2021, brats2023 .."),
            cli_choice("empty", &rule, 0, "monai|brats",
                       "what figures are where a region is empty (metrics.json has both means)"),
            cli_flag("no-distances", &fast, "leave out HD95 and HD, which take most of the time"),
            cli_flag("per-case", &per_case, "print every case, not only the means"),
            cli_int("resamples", &e->resamples, 2000, 1, 1000000, "of the bootstrap that gives the 95 % intervals"),
            cli_int("seed", &e->seed, 0, 0, 2147483647, "of the bootstrap"),
            cli_int("threads", &threads, 0, 0, 1024, "0: one for each processor"),
        };
        const int n_opt = (int)(sizeof opt / sizeof *opt);
        code = cli_parse("evaluate",
                         "Compare predictions with the truth: Dice, HD95, HD, sensitivity and specificity of each "
                         "region, or accuracy, AUC and F1 of classes.",
                         opt, n_opt, argc, argv);
        if (code < 0 && !e->split && cli_given(opt, n_opt, "part"))
            code = cli_fail(CLI_USAGE, "evaluate", "--part %s: of which split? Name it with --split", e->part);
    }
    if (code < 0) {
        e->rule = (bmvp_empty_rule)rule;
        e->distances = !fast;
        code = CLI_DONE;
        if (run(e, out ? out : e->predictions, labels, threads, per_case, &err))
            code = cli_fail(CLI_FAILED, "evaluate", "%s", err.message);
        else if (e->n_state[CASE_MISSING] + e->n_state[CASE_FAILED] > 0)
            code = cli_fail(CLI_FAILED, "evaluate",
                            "not in the figures: %lld of %lld cases without prediction, %lld that failed",
                            (long long)e->n_state[CASE_MISSING], (long long)e->n, (long long)e->n_state[CASE_FAILED]);
    }
    evaluation_free(e);
    return code;
}
