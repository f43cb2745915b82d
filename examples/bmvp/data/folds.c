/* folds.c - nnU-Net's splits_final.json, see folds.h */
#include "folds.h"
#include "files.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct reading { /* of one file */
    const dataset *d;
    const char *path;
    data_part *part;
    int64_t *fold;
    const char **unknown;
} reading;

static int64_t case_of(const dataset *d, const char *id)
{
    int64_t i;
    for (i = 0; i < d->n && strcmp(d->item[i].id, id) != 0; ++i) { }
    return i < d->n ? i : -1;
}

static const bmvp_json *ids_of(const bmvp_json *entry, const char *key)
{
    const bmvp_json *ids = bmvp_json_get(entry, key);
    return ids && ids->type == BMVP_JSON_ARRAY ? ids->first : NULL;
}

/* The cases of an entry's val list are fold k. */
static bmvp_status mark_fold(const reading *r, const bmvp_json *entry, int64_t k, bmvp_error *err)
{
    const bmvp_json *e;
    for (e = ids_of(entry, "val"); e; e = e->next) {
        const int64_t i = case_of(r->d, bmvp_json_string(e, ""));
        if (i < 0) *r->unknown = bmvp_json_string(e, "");
        else if (r->fold[i] >= 0 && r->fold[i] != k)
            return bmvp_error_set(err, BMVP_E_FORMAT,
                                  "%s: case '%s' is in \"val\" of entries %lld and %lld: such entries are no folds; "
                                  "keep one of them",
                                  r->path, r->d->item[i].id, (long long)r->fold[i], (long long)k);
        else r->fold[i] = k;
    }
    return BMVP_OK;
}

/* An entry's train list must be the cases of all other folds. */
static bmvp_status check_fold(const reading *r, const bmvp_json *entry, int64_t k, bmvp_error *err)
{
    char *in = (char *)calloc((size_t)r->d->n + 1, 1);
    const bmvp_json *e;
    int64_t i;
    if (!in) return bmvp_error_set(err, BMVP_E_OOM, "out of memory");
    for (e = ids_of(entry, "train"); e; e = e->next) {
        i = case_of(r->d, bmvp_json_string(e, ""));
        if (i < 0) *r->unknown = bmvp_json_string(e, "");
        else in[i] = 1;
    }
    for (i = 0; i < r->d->n && in[i] == (r->fold[i] >= 0 && r->fold[i] != k); ++i) { }
    free(in);
    if (i == r->d->n) return BMVP_OK;
    return bmvp_error_set(err, BMVP_E_FORMAT,
                          "%s: entry %lld: \"train\" is not what the \"val\" of all others hold (case '%s'): such "
                          "entries are no folds; keep one of them",
                          r->path, (long long)k, r->d->item[i].id);
}

static bmvp_status mark_parts(const reading *r, const bmvp_json *entry, bmvp_error *err)
{
    static const struct { const char *key; data_part part; } list[2] = { { "train", PART_TRAIN }, { "val", PART_VAL } };
    const bmvp_json *e;
    int k;
    for (k = 0; k < 2; ++k)
        for (e = ids_of(entry, list[k].key); e; e = e->next) {
            const int64_t i = case_of(r->d, bmvp_json_string(e, ""));
            if (i < 0) *r->unknown = bmvp_json_string(e, "");
            else if (k == 1 && r->part[i] == PART_TRAIN && r->fold[i] == -2)
                return bmvp_error_set(err, BMVP_E_FORMAT, "%s: case '%s' is in \"train\" and \"val\"", r->path,
                                      r->d->item[i].id);
            else r->part[i] = list[k].part, r->fold[i] = -2; /* seen */
        }
    return BMVP_OK;
}

bmvp_status folds_read(const dataset *d, const bmvp_json *entries, const char *path, data_part *part, int64_t *fold,
                       const char **unknown, bmvp_error *err)
{
    const bmvp_json *e = entries && entries->type == BMVP_JSON_ARRAY ? entries->first : NULL;
    const reading r = { d, path, part, fold, unknown };
    bmvp_status st = BMVP_OK;
    int64_t k, i;
    *unknown = NULL;
    for (k = 0; e; e = e->next, ++k)
        if (!ids_of(e, "train") || !ids_of(e, "val"))
            return bmvp_error_set(err, BMVP_E_FORMAT, "%s: entry %lld has no lists \"train\" and \"val\"", path,
                                  (long long)k);
    if (k == 0) return bmvp_error_set(err, BMVP_E_FORMAT, "%s: not a split: it has no entries", path);
    for (i = 0; i < d->n; ++i) fold[i] = -1;
    e = entries->first;
    if (k == 1) {
        st = mark_parts(&r, e, err);
        for (i = 0; i < d->n; ++i) fold[i] = -1;
        return st;
    }
    for (k = 0; e && !st; e = e->next) st = mark_fold(&r, e, k++, err);
    for (k = 0, e = entries->first; e && !st; e = e->next) st = check_fold(&r, e, k++, err);
    return st;
}

static const char pickle_text[] =
    "a pickle, which is not read; make JSON of it once: python3 -c \"import json, pickle; s = "
    "pickle.load(open('splits_final.pkl', 'rb')); json.dump([{k: list(map(str, e[k])) for k in e} for e in s], "
    "open('splits_final.json', 'w'))\"";

static int is_pickle(const char *path)
{
    const size_t n = strlen(path);
    FILE *f = fopen(path, "rb");
    const int first = f ? getc(f) : EOF; /* 0x80: PROTO, with which pickles begin since Python 2.3 */
    if (f) fclose(f);
    return first == 0x80 || (n > 4 && strcmp(path + n - 4, ".pkl") == 0);
}

bmvp_status folds_check_pickle(const char *path, bmvp_error *err)
{
    return is_pickle(path) ? bmvp_error_set(err, BMVP_E_UNSUPPORTED, "%.240s: %s", path, pickle_text) : BMVP_OK;
}

bmvp_status folds_of_folder(dataset *d, const char *dir, bmvp_error *err)
{
    char *path = path_join(dir, "splits_final.json"), *pickle = path_join(dir, "splits_final.pkl");
    int64_t *fold = (int64_t *)malloc(((size_t)d->n + 1) * sizeof *fold), i;
    data_part *part = (data_part *)calloc((size_t)d->n + 1, sizeof *part);
    bmvp_json_doc *doc = NULL;
    const char *unknown = NULL;
    bmvp_error e;
    bmvp_status st = path && fold && part ? BMVP_OK : bmvp_error_set(err, BMVP_E_OOM, "out of memory");
    if (!st && file_exists(path)) {
        bmvp_status bad = bmvp_json_read(path, NULL, &doc, &e);
        for (i = 0; i < d->n; ++i) part[i] = d->item[i].part == PART_TEST ? PART_TEST : PART_NONE;
        if (!bad) bad = folds_read(d, bmvp_json_root(doc), path, part, fold, &unknown, &e);
        for (i = 0; i < d->n && !bad; ++i) {
            d->item[i].part = fold[i] >= 0 ? PART_TRAIN : part[i];
            d->item[i].fold = fold[i];
        }
        if (bad) dataset_note(d, NULL, path, "%s", e.message);
        else if (unknown) dataset_note(d, NULL, path, "the data have no case '%s' of it", unknown);
    } else if (!st && pickle && file_exists(pickle)) dataset_note(d, NULL, pickle, "%s", pickle_text);
    bmvp_json_free(doc);
    free(fold);
    free(part);
    free(path);
    free(pickle);
    return st;
}
