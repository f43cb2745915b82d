/* labels.c - what the values of label maps mean, see labels.h */
#include "labels.h"
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int is_number(const char *text) { return *text && strspn(text, "0123456789") == strlen(text); }

static int same_word(const char *a, const char *b)
{
    for (; *a && tolower((unsigned char)*a) == *b; ++a, ++b) { }
    return *a == 0 && *b == 0;
}

/* The values of one entry: a number or a list of numbers. Returns how many, -1: neither. */
static int entry_values(const bmvp_json *m, int *v)
{
    const bmvp_json *e = m->type == BMVP_JSON_ARRAY ? m->first : m;
    int n = 0;
    for (; e; e = m->type == BMVP_JSON_ARRAY ? e->next : NULL) {
        const int text = e->type == BMVP_JSON_STRING && is_number(e->str) && strlen(e->str) < 9;
        const int64_t i = text ? strtol(e->str, NULL, 10) : e->i;
        if ((!text && (e->type != BMVP_JSON_NUMBER || !e->is_int)) || n == BMVP_LABEL_VALUES) return -1;
        v[n++] = i < -9999999 ? -1 : i > 9999999 ? 9999999 : (int)i; /* bmvp_labels_add refuses what does not fit */
    }
    return n > 0 ? n : -1;
}

static bmvp_status add_ignored(int *ignore, const int *v, int n, const char *name, bmvp_error *err)
{
    if (n != 1 || v[0] < 1 || v[0] >= BMVP_LABEL_VALUES || *ignore)
        return bmvp_error_set(err, BMVP_E_FORMAT,
                              "%s: label \"ignore\" must be one value from 1 to %d, that of voxels nobody judged", name,
                              BMVP_LABEL_VALUES - 1);
    *ignore = v[0];
    return BMVP_OK;
}

static bmvp_status add_region(bmvp_labels *l, int *ignore, const bmvp_json *m, const char *name, bmvp_error *err)
{
    const int by_value = m->type == BMVP_JSON_STRING && is_number(m->key); /* decathlon: value -> name */
    const char *region = by_value ? m->str : m->key;
    int v[BMVP_LABEL_VALUES], n = 1;
    bmvp_error e;
    if (by_value) v[0] = strlen(m->key) > 3 ? -1 : (int)strtol(m->key, NULL, 10);
    else n = entry_values(m, v);
    if (n < 0)
        return bmvp_error_set(err, BMVP_E_FORMAT, "%s: label '%s' must be a whole number or a list of them", name,
                              m->key);
    if (same_word(region, "ignore")) return add_ignored(ignore, v, n, name, err);
    if (n == 1 && v[0] == 0) return BMVP_OK; /* the background */
    if (bmvp_labels_add(l, region, v, n, &e) == BMVP_OK) return BMVP_OK;
    return bmvp_error_set(err, BMVP_E_FORMAT, "%s: %s", name, e.message);
}

static int sets_overlap(const bmvp_labels *l)
{
    int v, r, n;
    for (v = 1; v < BMVP_LABEL_VALUES; ++v) {
        for (r = 0, n = 0; r < l->n; ++r) n += l->in[r][v];
        if (n > 1) return 1;
    }
    return 0;
}

bmvp_status labels_parse(const bmvp_json *labels, const char *kind, const char *name, bmvp_labels *out, bmvp_error *err)
{
    const bmvp_json *m;
    bmvp_status st = BMVP_OK;
    bmvp_error e;
    int ignore = 0; /* known when all regions are */
    if (labels->type == BMVP_JSON_STRING)
        return bmvp_labels_builtin(labels->str, out)
                   ? BMVP_OK
                   : bmvp_error_set(err, BMVP_E_FORMAT, "%s: labels '%s': there are %s", name, labels->str,
                                    bmvp_labels_names());
    if (labels->type != BMVP_JSON_OBJECT)
        return bmvp_error_set(err, BMVP_E_FORMAT, "%s: \"labels\" must be the name of a definition or an object", name);
    if (kind && strcmp(kind, "regions") != 0 && strcmp(kind, "classes") != 0)
        return bmvp_error_set(err, BMVP_E_FORMAT, "%s: labels_kind '%s' must be regions or classes", name, kind);
    memset(out, 0, sizeof *out);
    snprintf(out->name, sizeof out->name, "custom");
    out->exclusive = kind && strcmp(kind, "classes") == 0; /* then overlaps are an error */
    for (m = labels->first; m && !st; m = m->next) st = add_region(out, &ignore, m, name, err);
    if (!kind) out->exclusive = !sets_overlap(out);
    if (!st && bmvp_labels_finish(out, &e)) st = bmvp_error_set(err, BMVP_E_FORMAT, "%s: %s", name, e.message);
    if (!st && ignore && bmvp_labels_ignore(out, ignore, &e))
        st = bmvp_error_set(err, BMVP_E_FORMAT, "%s: value %d is both \"ignore\" and a class", name, ignore);
    return st;
}

void labels_save(bmvp_jw *w, const bmvp_labels *l)
{
    int r, v;
    if (strcmp(l->name, "custom") != 0) {
        bmvp_jw_string(w, "labels", l->name);
        return;
    }
    bmvp_jw_string(w, "labels_kind", l->exclusive ? "classes" : "regions");
    bmvp_jw_object(w, "labels");
    for (r = 0; r < l->n; ++r) {
        bmvp_jw_array(w, l->region[r]);
        for (v = 1; v < BMVP_LABEL_VALUES; ++v)
            if (l->in[r][v]) bmvp_jw_int(w, NULL, v);
        bmvp_jw_end(w);
    }
    if (l->ignore) bmvp_jw_int(w, "ignore", l->ignore);
    bmvp_jw_end(w);
}

/* The value of `to` that lies in the regions of the names that hold value v of `from`; 0: in none of them, -1: there is
   no such value. */
static int translated(const bmvp_labels *from, const bmvp_labels *to, int v)
{
    unsigned char want[BMVP_MAX_REGIONS];
    int r, k, u, any = 0;
    if (v == from->ignore) return to->ignore ? to->ignore : -1;
    memset(want, 0, sizeof want);
    for (r = 0; r < from->n; ++r) {
        if (!from->in[r][v]) continue;
        for (k = 0; k < to->n && strcmp(to->region[k], from->region[r]) != 0; ++k) { }
        if (k == to->n) return -1;
        want[k] = 1;
        any = 1;
    }
    if (!any) return 0;
    for (u = 1; u < BMVP_LABEL_VALUES; ++u) {
        for (k = 0; k < to->n && to->in[k][u] == want[k]; ++k) { }
        if (k == to->n) return u;
    }
    return -1;
}

bmvp_status labels_translate(const bmvp_labels *from, const bmvp_labels *to, float *values, int64_t n, const char *path,
                             bmvp_error *err)
{
    int map[BMVP_LABEL_VALUES], v;
    int64_t i;
    map[0] = 0;
    for (v = 1; v < BMVP_LABEL_VALUES; ++v) map[v] = from->known[v] ? translated(from, to, v) : -1;
    for (i = 0; i < n; ++i) {
        v = (int)values[i];
        if (v < 0 || v >= BMVP_LABEL_VALUES || (v && !from->known[v]) || values[i] != (float)v)
            return bmvp_error_set(err, BMVP_E_FORMAT, "%s: value %g is not in the case's own labels", path,
                                  (double)values[i]);
        if (map[v] < 0)
            return bmvp_error_set(err, BMVP_E_FORMAT,
                                  v == from->ignore
                                      ? "%s: value %d is \"ignore\" in the case's own labels; the list's have none"
                                      : "%s: value %d of the case's own labels lies in regions that no value of the "
                                        "list's labels has together; regions are matched by name",
                                  path, v);
        values[i] = (float)map[v];
    }
    return BMVP_OK;
}
