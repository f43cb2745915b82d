/* patients.c - which cases are of one patient: a split must not tear them apart

   First what the list or the layout says. Then the naming of the data sets (role_patient), which is sure. Then names
   that end in what may be a visit (role_patient_maybe): a set whose names have such ends behind two patients or more is
   read so, and it is said; where all of them stand behind one name (S1-T0, S1-T1: one patient's visits, or patients T0
   and T1 of a site?) each case stays a patient, and that is said. Last, cases that share an image are one patient's. */
#include "dataset.h"
#include "files.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* >>names that end in a visit -------------------------------------------------------------------------------------- */

enum { FEW = 8 }; /* more cases than that behind one name are a site's or a group's patients, not visits */

typedef struct visit { /* a case whose name ends in what may be a visit: the first n characters are the patient */
    const char *id;
    size_t n;
    int sign; /* see role_patient_maybe */
    int64_t of;
} visit;

static int by_stem(const void *a, const void *b)
{
    const visit *p = (const visit *)a, *q = (const visit *)b;
    const int order = strncmp(p->id, q->id, p->n < q->n ? p->n : q->n);
    return order ? order : p->n != q->n ? (p->n > q->n) - (p->n < q->n) : (p->of > q->of) - (p->of < q->of);
}

static int64_t group_end(const visit *v, int64_t n, int64_t i)
{
    int64_t j = i;
    while (j < n && v[j].n == v[i].n && strncmp(v[j].id, v[i].id, v[i].n) == 0) ++j;
    return j;
}

/* Is the stem another case's whole name, or a patient that is known? */
static int is_known(const dataset *d, const visit *v)
{
    int64_t i;
    for (i = 0; i < d->n; ++i) {
        const char *who = data_patient(&d->item[i]);
        if (strncmp(who, v->id, v->n) == 0 && who[v->n] == 0) return 1;
    }
    return 0;
}

static bmvp_status set_patient(data_case *k, size_t n, bmvp_error *err)
{
    k->patient = text_copy(k->id);
    if (!k->patient) return bmvp_error_set(err, BMVP_E_OOM, "out of memory");
    k->patient[n] = 0;
    return BMVP_OK;
}

/* How the names are: so many stems, and the most cases that one has whose only sign is a number. */
typedef struct naming {
    int64_t stems, most;
} naming;

static naming naming_of(const visit *v, int64_t n)
{
    naming w = { 0, 0 };
    int64_t i, end;
    for (i = 0; i < n; i = end, ++w.stems) {
        end = group_end(v, n, i);
        if (v[i].sign == 1 && end - i > w.most) w.most = end - i;
    }
    return w;
}

/* Are the cases i .. end of one stem visits? A day is no patient; a number is a visit's only where it counts few. */
static int are_visits(const dataset *d, const visit *v, int64_t i, int64_t end, naming w)
{
    if (v[i].sign == 4 || is_known(d, &v[i])) return 1;
    if (v[i].sign == 1) return w.stems > 1 && w.most > 1 && w.most <= FEW;
    return w.stems > 1 && (v[i].sign == 3 || end - i <= FEW);
}

/* Cases i .. end of one stem become its patient's, or not, and the first such group is said. */
static bmvp_status settle_group(dataset *d, const visit *v, int64_t i, int64_t end, naming w, bmvp_error *err)
{
    const int yes = are_visits(d, v, i, end, w), several = end - i > 1;
    const int shown = v[i].n < 120 ? (int)v[i].n : 120;
    bmvp_status st = BMVP_OK;
    int64_t k;
    if (!d->doubt[0] && yes && (several || is_known(d, &v[i])))
        snprintf(d->doubt, sizeof d->doubt,
                 "patients are told by names, so '%.120s'%s%.120s%s of patient '%.*s'; \"patient\" in a list says "
                 "otherwise",
                 v[i].id, several ? " and '" : "", several ? v[i + 1].id : "", several ? "' are visits" : " is a visit",
                 shown, v[i].id);
    if (!d->doubt[0] && !yes && several && v[i].sign > 1)
        snprintf(d->doubt, sizeof d->doubt,
                 "'%.120s' and '%.120s' are taken as two patients; if they are visits of one, '%.*s', \"patient\" in a "
                 "list says so",
                 v[i].id, v[i + 1].id, shown, v[i].id);
    for (k = i; k < end && !st && yes; ++k) st = set_patient(&d->item[v[k].of], v[k].n, err);
    return st;
}

static bmvp_status guess_patients(dataset *d, bmvp_error *err)
{
    visit *v = (visit *)malloc(((size_t)d->n + 1) * sizeof *v);
    bmvp_status st = v ? BMVP_OK : bmvp_error_set(err, BMVP_E_OOM, "out of memory");
    int64_t i, n = 0;
    naming w;
    for (i = 0; i < d->n && !st; ++i) {
        if (d->item[i].patient) continue;
        v[n].id = d->item[i].id;
        v[n].n = role_patient_maybe(v[n].id, &v[n].sign);
        v[n].of = i;
        n += v[n].n > 0;
    }
    if (n > 0) qsort(v, (size_t)n, sizeof *v, by_stem);
    w = naming_of(v, n);
    for (i = 0; i < n && !st; i = group_end(v, n, i)) st = settle_group(d, v, i, group_end(v, n, i), w, err);
    free(v);
    return st;
}

/* >>images that cases share ---------------------------------------------------------------------------------------- */

typedef struct image_use {
    const char *file;
    int64_t channel, of;
} image_use;

static int by_file(const void *a, const void *b)
{
    const image_use *p = (const image_use *)a, *q = (const image_use *)b;
    const int order = strcmp(p->file, q->file);
    if (order) return order;
    if (p->channel != q->channel) return p->channel < q->channel ? -1 : 1;
    return (p->of > q->of) - (p->of < q->of);
}

/* The images of all cases, those of one file one behind the other, in the order of the cases. free() it. */
static image_use *all_images(const dataset *d, int64_t *n)
{
    image_use *use = (image_use *)malloc(((size_t)d->n * BMVP_MODALITIES + 1) * sizeof *use);
    int64_t i;
    int m;
    *n = 0;
    for (i = 0; i < d->n && use; ++i)
        for (m = 0; m < BMVP_MODALITIES; ++m)
            if (d->item[i].image[m]) {
                use[*n].file = d->item[i].image[m];
                use[*n].channel = d->item[i].channel[m];
                use[(*n)++].of = i;
            }
    if (use) qsort(use, (size_t)*n, sizeof *use, by_file);
    return use;
}

/* Entries of a list that share an image and say no id are one patient's: else that would stand in two parts of a split.
   given: cases that name their patient keep it. */
static bmvp_status join_twins(dataset *d, const char *given, bmvp_error *err)
{
    int64_t n, i;
    image_use *use = all_images(d, &n);
    int ok = use != NULL;
    for (i = 1; i < n && ok; ++i) {
        data_case *k = &d->item[use[i].of];
        const data_case *other = &d->item[use[i - 1].of];
        if (given[use[i].of] || !k->id_is_made || use[i].channel != use[i - 1].channel ||
            strcmp(use[i].file, use[i - 1].file) != 0 || strcmp(data_patient(k), data_patient(other)) == 0)
            continue;
        free(k->patient);
        k->patient = text_copy(data_patient(other));
        ok = k->patient != NULL;
    }
    free(use);
    return ok ? BMVP_OK : bmvp_error_set(err, BMVP_E_OOM, "out of memory");
}

bmvp_status dataset_find_patients(dataset *d, bmvp_error *err)
{
    char *given = (char *)calloc((size_t)d->n + 1, 1);
    bmvp_status st = given ? BMVP_OK : bmvp_error_set(err, BMVP_E_OOM, "out of memory");
    int64_t i;
    for (i = 0; i < d->n && !st; ++i) {
        data_case *k = &d->item[i];
        const size_t sure = k->patient ? 0 : role_patient(k->id);
        given[i] = k->patient != NULL;
        if (sure > 0) st = set_patient(k, sure, err);
    }
    if (!st) st = guess_patients(d, err);
    if (!st) st = join_twins(d, given, err);
    free(given);
    return st;
}
