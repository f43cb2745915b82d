/* ledger.c - which files prepared cases were made from, see ledger.h */
#define _XOPEN_SOURCE 700 /* realpath */
#include "ledger.h"
#include "files.h"
#include "labels.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *file_key(int f) { return f < BMVP_MODALITIES ? bmvp_modality_name(f) : "label"; }

static int allocate(ledger *l, int64_t n)
{
    l->item = (ledger_entry *)calloc((size_t)n + 1, sizeof *l->item);
    return l->item != NULL;
}

/* "class" of an entry */
static int64_t read_class(const bmvp_json *entry)
{
    const bmvp_json *v = bmvp_json_get(entry, "class");
    return v ? bmvp_json_int(v, LEDGER_NO_CLASS) : LEDGER_CLASS_UNKNOWN;
}

bmvp_status ledger_load(ledger *l, const char *dir, const char *name, bmvp_error *err)
{
    char *path = path_join(dir, name);
    bmvp_json_doc *doc = NULL;
    bmvp_status st = path ? BMVP_OK : bmvp_error_set(err, BMVP_E_OOM, "out of memory");
    const bmvp_json *cases, *c;
    int f;
    memset(l, 0, sizeof *l);
    if (!st && file_exists(path)) st = bmvp_json_read(path, NULL, &doc, err);
    if (!st && doc) {
        cases = bmvp_json_get(bmvp_json_root(doc), "cases");
        l->data = text_copy(bmvp_json_string(bmvp_json_get(bmvp_json_root(doc), "data"), ""));
        if (!l->data || !allocate(l, bmvp_json_count(cases))) st = bmvp_error_set(err, BMVP_E_OOM, "out of memory");
        for (c = cases ? cases->first : NULL; c && !st; c = c->next) {
            ledger_entry *e = &l->item[l->n++];
            e->id = text_copy(c->key ? c->key : bmvp_json_string(c, ""));
            if (!e->id) st = bmvp_error_set(err, BMVP_E_OOM, "out of memory");
            e->class_index = read_class(c);
            e->said = strtoull(bmvp_json_string(bmvp_json_get(c, "said"), "0"), NULL, 16);
            for (f = 0; f < LEDGER_FILES; ++f) (void)source_parse(bmvp_json_get(c, file_key(f)), &e->file[f]);
        }
    }
    bmvp_json_free(doc);
    free(path);
    if (st) ledger_free(l);
    return st;
}

bmvp_status ledger_save(const ledger *l, const char *dir, const char *name, bmvp_error *err)
{
    char *path = path_join(dir, name), version[32], hex[24];
    bmvp_status st;
    bmvp_jw w;
    int64_t i;
    int f;
    snprintf(version, sizeof version, "%d.%d.%d", BMVP_TENSOR_VERSION / 10000, BMVP_TENSOR_VERSION / 100 % 100,
             BMVP_TENSOR_VERSION % 100);
    bmvp_jw_init(&w, 1, NULL);
    bmvp_jw_object(&w, NULL);
    bmvp_jw_string(&w, "program", version);
    bmvp_jw_string(&w, "data", l->data);
    bmvp_jw_object(&w, "cases");
    for (i = 0; i < l->n; ++i) {
        bmvp_jw_object(&w, l->item[i].id);
        for (f = 0; f < LEDGER_FILES; ++f)
            if (l->item[i].file[f].path) source_write(&w, file_key(f), &l->item[i].file[f]);
        if (l->item[i].class_index >= 0) bmvp_jw_int(&w, "class", l->item[i].class_index);
        else if (l->item[i].class_index == LEDGER_NO_CLASS) bmvp_jw_null(&w, "class");
        snprintf(hex, sizeof hex, "%016llx", (unsigned long long)l->item[i].said);
        if (l->item[i].said) bmvp_jw_string(&w, "said", hex);
        bmvp_jw_end(&w);
    }
    bmvp_jw_end(&w);
    bmvp_jw_end(&w);
    st = bmvp_jw_finish(&w, err);
    for (i = 0; i < l->n && path && !l->item[i].starved; ++i) { }
    if (!st && (!path || i < l->n)) st = bmvp_error_set(err, BMVP_E_OOM, "out of memory for the list of sources");
    if (!st) st = bmvp_file_write(path, w.out.data, w.out.len, NULL, err);
    bmvp_jw_free(&w);
    free(path);
    return st;
}

void ledger_free(ledger *l)
{
    int64_t i;
    int f;
    for (i = 0; i < l->n; ++i) {
        free(l->item[i].id);
        for (f = 0; f < LEDGER_FILES; ++f) source_free(&l->item[i].file[f]);
    }
    free(l->item);
    free(l->data);
    memset(l, 0, sizeof *l);
}

ledger_entry *ledger_find(const ledger *l, const char *id)
{
    int64_t i;
    for (i = 0; i < l->n && strcmp(l->item[i].id, id) != 0; ++i) { }
    return i < l->n ? &l->item[i] : NULL;
}

/* l as a list would write it; NULL: there is no definition. 0: out of memory */
static int hash_labels(uint64_t *hash, const bmvp_labels *l)
{
    bmvp_jw w;
    int ok;
    bmvp_jw_init(&w, 0, NULL);
    bmvp_jw_object(&w, NULL);
    if (l) labels_save(&w, l);
    bmvp_jw_end(&w);
    ok = bmvp_jw_finish(&w, NULL) == BMVP_OK;
    if (ok) *hash = source_hash(*hash, w.out.data, w.out.len);
    bmvp_jw_free(&w);
    return ok;
}

/* 0: out of memory */
static int hash_said(uint64_t *said, const dataset *d, const data_case *k)
{
    int m;
    *said = SOURCE_HASH;
    for (m = 0; m < BMVP_MODALITIES; ++m)
        if (k->image[m]) *said = source_hash(*said, &k->channel[m], sizeof k->channel[m]);
    return !k->label || (hash_labels(said, d->has_labels ? &d->labels : NULL) && hash_labels(said, k->labels));
}

bmvp_status ledger_begin(ledger *l, const dataset *d, const char *data, bmvp_error *err)
{
    memset(l, 0, sizeof *l);
    l->data = realpath(data, NULL);
    if (!l->data && errno != ENOMEM) l->data = text_copy(data);
    if (!l->data || !allocate(l, d->n)) return bmvp_error_set(err, BMVP_E_OOM, "out of memory");
    for (l->n = 0; l->n < d->n; ++l->n) {
        l->item[l->n].id = text_copy(d->item[l->n].id);
        l->item[l->n].class_index = d->item[l->n].class_index;
        if (!l->item[l->n].id || !hash_said(&l->item[l->n].said, d, &d->item[l->n]))
            return bmvp_error_set(err, BMVP_E_OOM, "out of memory");
    }
    return BMVP_OK;
}

void ledger_read_case(ledger *l, const dataset *d, int64_t i)
{
    const data_case *k = &d->item[i];
    bmvp_error err; /* a file that cannot be read has no entry: preparing it says why */
    int f;
    for (f = 0; f < LEDGER_FILES; ++f) {
        const char *path = f < BMVP_MODALITIES ? k->image[f] : k->label;
        if (path && source_read(&l->item[i].file[f], path, &err) == BMVP_E_OOM) l->item[i].starved = 1;
    }
}

/* NULL: file f is the same. */
static const char *difference_of(const ledger_entry *a, const ledger_entry *b, int f)
{
    if (!a->file[f].path) return b->file[f].path ? "is new" : NULL;
    if (!b->file[f].path) return "is gone";
    return source_equal(&a->file[f], &b->file[f]) ? NULL : "has other content";
}

int ledger_same_files(const ledger_entry *a, const ledger_entry *b)
{
    int f;
    for (f = 0; f < LEDGER_FILES; ++f)
        if (difference_of(a, b, f)) return 0;
    return 1;
}

static int said_the_same(const ledger_entry *a, const ledger_entry *b)
{
    return !a->said || !b->said || a->said == b->said;
}

int ledger_same(const ledger_entry *a, const ledger_entry *b) { return ledger_same_files(a, b) && said_the_same(a, b); }

static const char *class_text(int64_t k, char text[24])
{
    if (k < 0) return "none";
    snprintf(text, 24, "%lld", (long long)k);
    return text;
}

/* "class 1 (was 0)", "class none (was 1)" */
static void class_difference(int64_t was, int64_t now, const char *between, char *text, size_t size)
{
    char before[24], after[24];
    if (was == now || was == LEDGER_CLASS_UNKNOWN || now == LEDGER_CLASS_UNKNOWN) return;
    snprintf(text, size, "%sclass %s (was %s)", between, class_text(now, after), class_text(was, before));
}

void ledger_difference(const ledger_entry *a, const ledger_entry *b, char *text, size_t size)
{
    size_t at = 0;
    int f, known = 0;
    text[0] = 0;
    for (f = 0; f < LEDGER_FILES; ++f) known += a->file[f].path != NULL;
    for (f = 0; f < LEDGER_FILES && known; ++f) {
        const char *what = difference_of(a, b, f);
        if (!what || at >= size) continue;
        at += (size_t)snprintf(text + at, size - at, "%s%s %s", at ? ", " : "", file_key(f), what);
    }
    if (known && at < size && !said_the_same(a, b))
        at += (size_t)snprintf(text + at, size - at, "%svolumes or label values mean something else", at ? ", " : "");
    if (at < size) class_difference(a->class_index, b->class_index, at ? ", " : "", text + at, size - at);
}
