/* splits.c - which cases are for training, validation and test, see splits.h */
#define _DEFAULT_SOURCE
#include "splits.h"
#include "folds.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const part_name[SPLIT_PARTS] = { "train", "val", "test" };
static const int fraction_percent[SPLIT_FRACTIONS] = { 20, 40, 60, 80, 100 };
enum { STREAM_SPLIT = 0x53504c31, STREAM_FOLDS };

/* >>patients ------------------------------------------------------------------------------------------------------- */

typedef struct patient { /* where it stands: in the middle of its share of the list, if its group had the list for
                            itself */
    const char *name;
    int64_t class_index;
    double place;
} patient;

static int by_name(const void *a, const void *b)
{
    const patient *p = (const patient *)a, *q = (const patient *)b;
    const int order = strcmp(p->name, q->name);
    return order ? order
                 : (p->class_index < q->class_index) -
                       (p->class_index > q->class_index); /* the patient's highest class comes first */
}

static int by_place(const void *a, const void *b)
{
    const patient *p = (const patient *)a, *q = (const patient *)b;
    if (p->place < q->place || p->place > q->place) return p->place < q->place ? -1 : 1;
    return (p->class_index > q->class_index) - (p->class_index < q->class_index);
}

/* Spreads the classes evenly over the list, each in the order it has: every stretch of the list then holds the classes
   in proportion. */
static void interleave(patient *list, int64_t n)
{
    int64_t i, k;
    for (i = 0; i < n; ++i) {
        int64_t before = 0, all = 0;
        for (k = 0; k < n; ++k)
            if (list[k].class_index == list[i].class_index) {
                before += k < i;
                ++all;
            }
        list[i].place = ((double)before + 0.5) / (double)all;
    }
    qsort(list, (size_t)n, sizeof *list, by_place);
}

/* The patients, each once, shuffled; with by_class interleaved. free() the list. */
static patient *shuffled_patients(const dataset *d, uint64_t seed, uint32_t stream, int by_class, int64_t *n)
{
    patient *list = (patient *)calloc((size_t)d->n + 1, sizeof *list);
    bmvp_rng r = bmvp_rng_make(seed, stream, 0, 0);
    int64_t i, k = 0;
    if (!list) return NULL;
    for (i = 0; i < d->n; ++i) {
        list[i].name = data_patient(&d->item[i]);
        list[i].class_index = d->item[i].class_index;
    }
    qsort(list, (size_t)d->n, sizeof *list, by_name);
    for (i = 0; i < d->n; ++i)
        if (k == 0 || strcmp(list[k - 1].name, list[i].name) != 0) list[k++] = list[i];
    for (i = k - 1; i > 0; --i) {
        const int64_t j = bmvp_rng_below(&r, (uint32_t)(i + 1));
        const patient t = list[i];
        list[i] = list[j];
        list[j] = t;
    }
    if (by_class) interleave(list, k);
    *n = k;
    return list;
}

/* Gives `value` to the cases of patients from .. to - 1 of the list. */
static void mark(const dataset *d, const patient *list, int64_t from, int64_t to, signed char *of_case, int value)
{
    int64_t i, k;
    for (i = 0; i < d->n; ++i)
        for (k = from; k < to; ++k)
            if (strcmp(data_patient(&d->item[i]), list[k].name) == 0) of_case[i] = (signed char)value;
}

static bmvp_status make_empty(data_split *s, const dataset *d, bmvp_error *err)
{
    memset(s, 0, sizeof *s);
    s->n = d->n;
    s->part = (signed char *)malloc((size_t)d->n + 1);
    s->fraction = (signed char *)malloc((size_t)d->n + 1);
    s->fold = (signed char *)malloc((size_t)d->n + 1);
    if (!s->part || !s->fraction || !s->fold) {
        split_free(s);
        return bmvp_error_set(err, BMVP_E_OOM, "out of memory");
    }
    memset(s->part, -1, (size_t)d->n);
    memset(s->fraction, -1, (size_t)d->n);
    memset(s->fold, -1, (size_t)d->n);
    return BMVP_OK;
}

void split_free(data_split *s)
{
    free(s->part);
    free(s->fraction);
    free(s->fold);
    memset(s, 0, sizeof *s);
}

/* Patients of each part: the nearest whole numbers, at least one where a share is wanted, taken from the largest
   part. */
static void count_parts(const double ratio[SPLIT_PARTS], int64_t patients, int64_t count[SPLIT_PARTS])
{
    const double sum = ratio[0] + ratio[1] + ratio[2];
    int64_t left = patients;
    int p, most = 0;
    for (p = 0; p < SPLIT_PARTS; ++p) {
        count[p] = (int64_t)floor(ratio[p] / sum * (double)patients + 0.5);
        if (count[p] == 0 && ratio[p] > 0) count[p] = 1;
        left -= count[p];
        if (ratio[p] > ratio[most]) most = p;
    }
    count[most] += left;
    for (p = 0; p < SPLIT_PARTS && count[most] < 1; ++p)
        while (p != most && count[p] > 1 && count[most] < 1) --count[p], ++count[most];
}

static bmvp_status make(data_split *s, const dataset *d, const double ratio[SPLIT_PARTS], uint64_t seed, int by_class,
                        bmvp_error *err)
{
    const int wanted = (ratio[0] > 0) + (ratio[1] > 0) + (ratio[2] > 0);
    int64_t patients = 0, count[SPLIT_PARTS], from = 0;
    bmvp_status st = make_empty(s, d, err);
    patient *list = st ? NULL : shuffled_patients(d, seed, STREAM_SPLIT, by_class, &patients);
    int p, f;
    if (!st && !list) st = bmvp_error_set(err, BMVP_E_OOM, "out of memory");
    if (!st && patients < wanted)
        st = bmvp_error_set(err, BMVP_E_ARG, "%s: %lld patients cannot be split into %d parts", d->path,
                            (long long)patients, wanted);
    if (!st) {
        s->seed = seed;
        s->by_class = by_class;
        count_parts(ratio, patients, count);
        for (p = 0; p < SPLIT_PARTS; from += count[p++]) mark(d, list, from, from + count[p], s->part, p);
        for (f = SPLIT_FRACTIONS - 1; f >= 0;
             --f) /* training patients come first; smaller fractions overwrite larger ones */
            mark(d, list, 0, (count[0] * fraction_percent[f] + 99) / 100, s->fraction, f);
    }
    if (st) split_free(s);
    free(list);
    return st;
}

bmvp_status split_make(data_split *s, const dataset *d, const double ratio[SPLIT_PARTS], uint64_t seed, bmvp_error *err)
{
    return make(s, d, ratio, seed, 0, err);
}

bmvp_status split_make_by_class(data_split *s, const dataset *d, const double ratio[SPLIT_PARTS], uint64_t seed,
                                bmvp_error *err)
{
    int64_t i;
    memset(s, 0, sizeof *s);
    for (i = 0; i < d->n; ++i)
        if (d->item[i].class_index < 0)
            return bmvp_error_set(err, BMVP_E_ARG,
                                  "%s: case '%s' has no \"class\": the classes cannot be kept in proportion", d->path,
                                  d->item[i].id);
    return make(s, d, ratio, seed, 1, err);
}

bmvp_status split_add_folds(data_split *s, const dataset *d, int folds, bmvp_error *err)
{
    int64_t patients = 0;
    patient *list = shuffled_patients(d, s->seed, STREAM_FOLDS, s->by_class, &patients);
    bmvp_status st = BMVP_OK;
    int k;
    if (!list) return bmvp_error_set(err, BMVP_E_OOM, "out of memory");
    if (patients < folds)
        st = bmvp_error_set(err, BMVP_E_ARG, "%s: %lld patients are fewer than %d folds", d->path, (long long)patients,
                            folds);
    for (k = 0; k < folds && !st; ++k) mark(d, list, patients * k / folds, patients * (k + 1) / folds, s->fold, k);
    if (!st) s->folds = folds;
    free(list);
    return st;
}

/* >>what a data set brings ----------------------------------------------------------------------------------------- */

/* The lowest fold that a case of part `of` (-1: any) has; -1: none has one. */
static int64_t first_fold(const data_split *s, int of)
{
    int64_t i, first = -1;
    for (i = 0; i < s->n; ++i)
        if (s->fold[i] >= 0 && (of < 0 || s->part[i] == of) && (first < 0 || s->fold[i] < first)) first = s->fold[i];
    return first;
}

static int64_t count_part(const data_split *s, int part)
{
    int64_t i, n = 0;
    for (i = 0; i < s->n; ++i) n += s->part[i] == part;
    return n;
}

/* A patient's cases must lie in one part and one fold; fractions are of "train". */
static bmvp_status check_split(const data_split *s, const dataset *d, const char *path, bmvp_error *err)
{
    int64_t i, k;
    for (i = 0; i < d->n; ++i) {
        const char *who = data_patient(&d->item[i]);
        if (s->fraction[i] >= 0 && s->part[i] != 0)
            return bmvp_error_set(err, BMVP_E_FORMAT, "%s: fractions: case '%s' is not in \"train\"", path,
                                  d->item[i].id);
        for (k = 0; k < i && d->item[i].patient; ++k)
            if (strcmp(data_patient(&d->item[k]), who) == 0 && (s->part[k] != s->part[i] || s->fold[k] != s->fold[i]))
                return bmvp_error_set(err, BMVP_E_FORMAT,
                                      "%s: cases '%s' and '%s' of patient '%s' are in different parts", path,
                                      d->item[k].id, d->item[i].id, who);
    }
    return BMVP_OK;
}

/* Parts and folds as the cases have them. 1: that is something to go by. */
static int read_brought(data_split *s, const dataset *d)
{
    int64_t i;
    for (i = 0; i < d->n; ++i) {
        const data_case *k = &d->item[i];
        s->part[i] = (signed char)((int)k->part - 1);
        if (k->fold < 0 || k->fold >= SPLIT_MAX_FOLDS) continue;
        s->fold[i] = (signed char)k->fold;
        if (k->part == PART_NONE) s->part[i] = 0;
        s->folds = k->fold >= s->folds ? (int)k->fold + 1 : s->folds;
    }
    return count_part(s, 0) > 0 && (s->folds > 0 || count_part(s, 1) + count_part(s, 2) > 0);
}

/* A part for validation of which no case has a label or class cannot validate. */
static void drop_blind_validation(data_split *s, const dataset *d)
{
    int64_t i;
    for (i = 0; i < d->n; ++i)
        if (s->part[i] == 1 && (d->item[i].label || d->item[i].class_index >= 0)) return;
    for (i = 0; i < d->n; ++i)
        if (s->part[i] == 1) s->part[i] = -1;
}

/* The patients, those of the training part first: *n of them. free() the list. */
static patient *training_patients(const data_split *s, const dataset *d, uint64_t seed, int64_t *n, bmvp_error *err)
{
    int64_t all = 0, i, k;
    patient *list = shuffled_patients(d, seed, STREAM_SPLIT, 0, &all);
    *n = 0;
    if (!list) bmvp_error_set(err, BMVP_E_OOM, "out of memory");
    for (k = 0; k < all && list; ++k) {
        const patient p = list[k];
        for (i = 0; i < d->n && (s->part[i] != 0 || strcmp(data_patient(&d->item[i]), p.name) != 0); ++i) { }
        if (i < d->n) list[k] = list[*n], list[(*n)++] = p;
    }
    return list;
}

/* Some patients of the training part become those for validation. */
static bmvp_status draw_validation(data_split *s, const dataset *d, double share, uint64_t seed, bmvp_error *err)
{
    int64_t patients, wanted = 0;
    patient *list = training_patients(s, d, seed, &patients, err);
    if (!list) return BMVP_E_OOM;
    if (share > 0 && patients > 1) {
        wanted = (int64_t)floor(share * (double)patients + 0.5);
        wanted = wanted < 1 ? 1 : wanted > patients - 1 ? patients - 1 : wanted;
    }
    mark(d, list, 0, wanted, s->part, 1);
    free(list);
    return BMVP_OK;
}

static bmvp_status draw_fractions(data_split *s, const dataset *d, uint64_t seed, bmvp_error *err)
{
    int64_t patients;
    patient *list = training_patients(s, d, seed, &patients, err);
    int f;
    if (!list) return BMVP_E_OOM;
    for (f = SPLIT_FRACTIONS - 1; f >= 0; --f)
        mark(d, list, 0, (patients * fraction_percent[f] + 99) / 100, s->fraction, f);
    free(list);
    return BMVP_OK;
}

/* Training and validation where the data set has folds, or a part for training, but none for validation. */
static bmvp_status bring_validation(data_split *s, const dataset *d, const double ratio[SPLIT_PARTS], uint64_t seed,
                                    bmvp_error *err)
{
    const int64_t fold = first_fold(s, 0), blind = count_part(s, 1);
    int64_t i, rest = 0;
    for (i = 0; i < d->n; ++i) rest += s->part[i] == 0 && s->fold[i] != fold;
    drop_blind_validation(s, d);
    if (count_part(s, 1) > 0) return BMVP_OK;
    if (blind)
        snprintf(s->how + strlen(s->how), sizeof s->how - strlen(s->how),
                 "; its %lld cases for validation have neither label nor class and are not used", (long long)blind);
    if (fold >= 0 && rest > 0) {
        for (i = 0; i < d->n; ++i)
            if (s->part[i] == 0 && s->fold[i] == fold) s->part[i] = 1;
        snprintf(s->how + strlen(s->how), sizeof s->how - strlen(s->how), "; validation: fold %lld", (long long)fold);
        return BMVP_OK;
    }
    snprintf(s->how + strlen(s->how), sizeof s->how - strlen(s->how), "; validation: drawn from train, seed %llu",
             (unsigned long long)seed);
    return draw_validation(s, d, ratio[1] / (ratio[0] + ratio[1]), seed, err);
}

bmvp_status split_take(data_split *s, const dataset *d, const double ratio[SPLIT_PARTS], uint64_t seed, bmvp_error *err)
{
    bmvp_status st = make_empty(s, d, err);
    bmvp_error apart;
    int p;
    if (!st && !read_brought(s, d)) {
        split_free(s);
        return split_make(s, d, ratio, seed, err);
    }
    if (!st) {
        s->seed = seed;
        for (p = 0; p < SPLIT_PARTS; ++p)
            if (count_part(s, p) > 0)
                snprintf(s->how + strlen(s->how), sizeof s->how - strlen(s->how), "%s%s", s->how[0] ? ", " : "",
                         part_name[p]);
        if (s->folds) snprintf(s->how + strlen(s->how), sizeof s->how - strlen(s->how), ", %d folds", s->folds);
        if (check_split(s, d, d->path, &apart))
            st = bmvp_error_set(err, apart.status, "%s, by the data set itself; `bmvp split --seed N` draws others",
                                apart.message);
    }
    if (!st) st = bring_validation(s, d, ratio, seed, err);
    if (!st) st = draw_fractions(s, d, seed, err);
    if (st) split_free(s);
    return st;
}

/* >>files ---------------------------------------------------------------------------------------------------------- */

/* The ids of cases whose value lies in [0, most] (nested) or is `exactly`. */
static void write_ids(bmvp_jw *w, const char *key, const dataset *d, const signed char *value, int least, int most)
{
    int64_t i;
    bmvp_jw_array(w, key);
    for (i = 0; i < d->n; ++i)
        if (value[i] >= least && value[i] <= most) bmvp_jw_string(w, NULL, d->item[i].id);
    bmvp_jw_end(w);
}

bmvp_status split_save(const data_split *s, const dataset *d, const char *path, bmvp_error *err)
{
    bmvp_status st;
    char key[16];
    bmvp_jw w;
    int k;
    bmvp_jw_init(&w, 1, NULL);
    bmvp_jw_object(&w, NULL);
    bmvp_jw_int(&w, "seed", (int64_t)s->seed);
    if (s->by_class) bmvp_jw_bool(&w, "by_class", 1);
    for (k = 0; k < SPLIT_PARTS; ++k) write_ids(&w, part_name[k], d, s->part, k, k);
    bmvp_jw_object(&w, "fractions");
    for (k = 0; k < SPLIT_FRACTIONS; ++k) {
        snprintf(key, sizeof key, "%d", fraction_percent[k]);
        write_ids(&w, key, d, s->fraction, 0, k);
    }
    bmvp_jw_end(&w);
    if (s->folds) {
        bmvp_jw_array(&w, "folds");
        for (k = 0; k < s->folds; ++k) write_ids(&w, NULL, d, s->fold, k, k);
        bmvp_jw_end(&w);
    }
    bmvp_jw_end(&w);
    st = bmvp_jw_finish(&w, err);
    if (!st) st = bmvp_file_write(path, w.out.data, w.out.len, NULL, err);
    bmvp_jw_free(&w);
    return st;
}

/* Sets value of every id of the list; once: an id that already has one is an error. */
static bmvp_status read_ids(const bmvp_json *ids, const dataset *d, const char *path, const char *what,
                            signed char *of_case, int value, int once, bmvp_error *err)
{
    const bmvp_json *e;
    int64_t i;
    for (e = ids && ids->type == BMVP_JSON_ARRAY ? ids->first : NULL; e; e = e->next) {
        const char *id = bmvp_json_string(e, "");
        for (i = 0; i < d->n && strcmp(d->item[i].id, id) != 0; ++i) { }
        if (i == d->n)
            return bmvp_error_set(err, BMVP_E_FORMAT, "%s: %s: %s has no case '%s'", path, what, d->path, id);
        if (once && of_case[i] >= 0)
            return bmvp_error_set(err, BMVP_E_FORMAT, "%s: case '%s' is in two parts", path, id);
        of_case[i] = (signed char)value;
    }
    return BMVP_OK;
}

/* Nested: what a fraction holds was in the next larger one, the largest holds all of "train". */
static bmvp_status check_nested(const data_split *s, const dataset *d, const signed char *larger, int k,
                                const char *path, bmvp_error *err)
{
    int64_t i;
    for (i = 0; i < d->n; ++i) {
        if (k + 1 < SPLIT_FRACTIONS && s->fraction[i] == k && larger[i] != k + 1)
            return bmvp_error_set(err, BMVP_E_FORMAT, "%s: fractions: case '%s' is in '%d' and not in '%d'", path,
                                  d->item[i].id, fraction_percent[k], fraction_percent[k + 1]);
        if (k + 1 == SPLIT_FRACTIONS && s->part[i] == 0 && s->fraction[i] != k)
            return bmvp_error_set(err, BMVP_E_FORMAT, "%s: fractions: case '%s' of \"train\" is not in '100'", path,
                                  d->item[i].id);
    }
    return BMVP_OK;
}

static bmvp_status read_fractions(data_split *s, const dataset *d, const bmvp_json *node, const char *path,
                                  bmvp_error *err)
{
    signed char *larger = (signed char *)malloc((size_t)d->n + 1);
    bmvp_status st = larger ? BMVP_OK : bmvp_error_set(err, BMVP_E_OOM, "out of memory");
    const bmvp_json *m;
    char key[16];
    int k;
    for (m = node->first; m && !st; m = m->next) {
        for (k = 0; k < SPLIT_FRACTIONS && strtol(m->key, NULL, 10) != fraction_percent[k]; ++k) { }
        if (k == SPLIT_FRACTIONS)
            st = bmvp_error_set(err, BMVP_E_FORMAT, "%s: fractions: '%s' is none of 20, 40, 60, 80, 100", path, m->key);
    }
    for (k = SPLIT_FRACTIONS - 1; k >= 0 && !st; --k) {
        snprintf(key, sizeof key, "%d", fraction_percent[k]);
        memcpy(larger, s->fraction, (size_t)d->n);
        if (bmvp_json_get(node, key))
            st = read_ids(bmvp_json_get(node, key), d, path, "fractions", s->fraction, k, 0, err);
        else
            st = bmvp_error_set(err, BMVP_E_FORMAT,
                                "%s: fractions: there is no '%s'; without \"fractions\" all are drawn", path, key);
        if (!st) st = check_nested(s, d, larger, k, path, err);
    }
    free(larger);
    return st;
}

static bmvp_status read_split(data_split *s, const dataset *d, const bmvp_json *root, const char *path, bmvp_error *err)
{
    const bmvp_json *fold = bmvp_json_get(root, "folds"), *fractions = bmvp_json_get(root, "fractions");
    bmvp_status st = BMVP_OK;
    int k;
    if (!bmvp_json_get(root, "train"))
        return bmvp_error_set(err, BMVP_E_FORMAT, "%s: not a split: it has no \"train\"", path);
    s->seed = (uint64_t)bmvp_json_int(bmvp_json_get(root, "seed"), 0);
    s->by_class = bmvp_json_bool(bmvp_json_get(root, "by_class"), 0);
    for (k = 0; k < SPLIT_PARTS && !st; ++k)
        st = read_ids(bmvp_json_get(root, part_name[k]), d, path, part_name[k], s->part, k, 1, err);
    if (!st && fractions) st = read_fractions(s, d, fractions, path, err);
    for (fold = fold ? fold->first : NULL; fold && !st; fold = fold->next) {
        if (s->folds == SPLIT_MAX_FOLDS)
            return bmvp_error_set(err, BMVP_E_FORMAT, "%s: more than %d folds", path, SPLIT_MAX_FOLDS);
        st = read_ids(fold, d, path, "folds", s->fold, s->folds++, 1, err);
    }
    if (!st) st = check_split(s, d, path, err);
    return st || fractions ? st : draw_fractions(s, d, s->seed, err);
}

/* nnU-Net's: folds, of which the first validates. */
static bmvp_status read_entries(data_split *s, const dataset *d, const bmvp_json *root, const char *path,
                                bmvp_error *err)
{
    int64_t *fold = (int64_t *)malloc(((size_t)d->n + 1) * sizeof *fold), i;
    data_part *part = (data_part *)calloc((size_t)d->n + 1, sizeof *part);
    const char *unknown = NULL;
    bmvp_status st = fold && part ? folds_read(d, root, path, part, fold, &unknown, err)
                                  : bmvp_error_set(err, BMVP_E_OOM, "out of memory");
    if (!st && unknown) st = bmvp_error_set(err, BMVP_E_FORMAT, "%s: %s has no case '%s'", path, d->path, unknown);
    for (i = 0; i < d->n && !st; ++i) {
        s->part[i] = (signed char)((int)part[i] - 1);
        if (fold[i] < 0) continue;
        if (fold[i] >= SPLIT_MAX_FOLDS)
            st = bmvp_error_set(err, BMVP_E_FORMAT, "%s: more than %d folds", path, SPLIT_MAX_FOLDS);
        s->fold[i] = (signed char)fold[i];
        s->folds = fold[i] >= s->folds ? (int)fold[i] + 1 : s->folds;
        s->part[i] = fold[i] == 0;
    }
    free(fold);
    free(part);
    if (!st) st = draw_fractions(s, d, 0, err);
    return st ? st : check_split(s, d, path, err);
}

bmvp_status split_load(data_split *s, const dataset *d, const char *path, bmvp_error *err)
{
    bmvp_json_doc *doc = NULL;
    bmvp_status st = folds_check_pickle(path, err);
    if (!st) st = bmvp_json_read(path, NULL, &doc, err);
    if (st) {
        memset(s, 0, sizeof *s);
        return st;
    }
    st = make_empty(s, d, err);
    if (!st && bmvp_json_root(doc)->type == BMVP_JSON_ARRAY) st = read_entries(s, d, bmvp_json_root(doc), path, err);
    else if (!st) st = read_split(s, d, bmvp_json_root(doc), path, err);
    if (st) split_free(s);
    bmvp_json_free(doc);
    return st;
}

/* >>parts ---------------------------------------------------------------------------------------------------------- */

/* Is case i in the part? -1: there is no such part. */
static int is_in(const data_split *s, int64_t i, const char *part)
{
    const char *colon = strchr(part, ':');
    const int number = colon && colon[1] && strspn(colon + 1, "0123456789") == strlen(colon + 1)
                           ? (int)strtol(colon + 1, NULL, 10)
                           : -1;
    int k;
    if (strcmp(part, "all") == 0) return 1;
    for (k = 0; k < SPLIT_PARTS; ++k)
        if (strcmp(part, part_name[k]) == 0) return s->part[i] == k;
    if (strncmp(part, "train:", 6) == 0)
        for (k = 0; k < SPLIT_FRACTIONS; ++k)
            if (number == fraction_percent[k]) return s->fraction[i] >= 0 && s->fraction[i] <= k;
    if (number >= 0 && number < s->folds && strncmp(part, "fold:", 5) == 0) return s->fold[i] == number;
    if (number >= 0 && number < s->folds && strncmp(part, "not-fold:", 9) == 0)
        return s->fold[i] >= 0 && s->fold[i] != number;
    return -1;
}

bmvp_status split_select(const data_split *s, const char *part, int64_t *index, int64_t *n, bmvp_error *err)
{
    int64_t i;
    *n = 0;
    for (i = 0; i < s->n; ++i) {
        const int in = is_in(s, i, part);
        if (in < 0)
            return bmvp_error_set(err, BMVP_E_ARG,
                                  "there is no part '%s' of the cases; there are train, val, test, all, train:20 "
                                  "(40, 60, 80, 100)%s",
                                  part,
                                  s->folds ? ", fold:K and not-fold:K" : "; folds come from `bmvp split --folds`");
        if (in) index[(*n)++] = i;
    }
    return BMVP_OK;
}
