/* dataset.c - data lists, see dataset.h */
#define _DEFAULT_SOURCE
#include "dataset.h"
#include "files.h"
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* The folder of a path, "" when it has none. */
static char *folder_of(const char *path)
{
    const char *slash = strrchr(path, '/');
    char *p = text_copy(path);
    if (p) p[slash ? slash - path + 1 : 0] = 0;
    return p;
}

data_case *dataset_add(dataset *d, const char *id)
{
    data_case *k;
    if (d->n == d->cap) {
        const int64_t cap = d->cap ? 2 * d->cap : 64;
        data_case *grown = (data_case *)realloc(d->item, (size_t)cap * sizeof *grown);
        if (!grown) return NULL;
        d->item = grown;
        d->cap = cap;
    }
    k = &d->item[d->n];
    memset(k, 0, sizeof *k);
    k->klass = -1;
    k->id = text_copy(id);
    if (!k->id) return NULL;
    ++d->n;
    return k;
}

void dataset_free(dataset *d)
{
    int64_t i;
    int m;
    for (i = 0; i < d->n; ++i) {
        for (m = 0; m < BMVP_MODALITIES; ++m) free(d->item[i].image[m]);
        free(d->item[i].id);
        free(d->item[i].label);
        free(d->item[i].patient);
    }
    free(d->item);
    free(d->path);
    memset(d, 0, sizeof *d);
}

/* >>names of files ------------------------------------------------------------------------------------------------- */

static int ends_with(const char *text, const char *end)
{
    const size_t n = strlen(text), k = strlen(end);
    return n >= k && strcmp(text + n - k, end) == 0;
}

static int is_nifti_name(const char *name) { return ends_with(name, ".nii") || ends_with(name, ".nii.gz"); }

/* "dir/BraTS_001_t1ce.nii.gz" -> "t1ce": what stands after the last of _ - . before the extension, or the whole stem. A trailing
   word that is a label ("seg", "label", "mask", "seg_auto") gives that. */
static void name_suffix(const char *path, char *out, size_t size)
{
    const char *base = strrchr(path, '/') ? strrchr(path, '/') + 1 : path;
    size_t n = strlen(base), from;
    if (ends_with(base, ".nii.gz")) n -= 7;
    else if (ends_with(base, ".nii")) n -= 4;
    for (from = n; from > 0 && !strchr("_-.", base[from - 1]); --from) { }
    if (n - from >= size) from = n - size + 1;
    memcpy(out, base + from, n - from);
    out[n - from] = 0;
    if (from > 0 && (strncmp(base, "seg", 3) == 0 || strncmp(base, "label", 5) == 0 || strncmp(base, "mask", 4) == 0))
        snprintf(out, size, "seg");
}

static int is_label_suffix(const char *suffix)
{
    return strncmp(suffix, "seg", 3) == 0 || strncmp(suffix, "label", 5) == 0 || strncmp(suffix, "mask", 4) == 0;
}

/* >>one image of a case -------------------------------------------------------------------------------------------- */

static bmvp_status set_image(dataset *d, data_case *k, const char *modality, const char *dir, const char *file, bmvp_error *err)
{
    const int m = bmvp_modality_find(modality);
    if (m < 0)
        return bmvp_error_set(err, BMVP_E_ARG, "%s: case '%s': unknown modality '%s' (file %s); known are flair t1 t1c t2 mra pd dwi adc and "
                              "the data sets' names for them (t1ce, t2w, t2f ...)", d->path, k->id, modality, file);
    if (k->image[m])
        return bmvp_error_set(err, BMVP_E_ARG, "%s: case '%s' has modality %s twice: %s and %s", d->path, k->id, bmvp_modality_name(m),
                              k->image[m], file);
    k->image[m] = path_join(dir, file);
    d->modalities |= 1u << m;
    return k->image[m] ? BMVP_OK : bmvp_error_set(err, BMVP_E_OOM, "out of memory");
}

/* >>lists ---------------------------------------------------------------------------------------------------------- */

/* "label" is a path, or in lists for classification the class; "class" says so clearly. "patient" names who it is. */
static bmvp_status set_truth(dataset *d, data_case *k, const bmvp_json *node, const char *dir, bmvp_error *err)
{
    const bmvp_json *label = bmvp_json_get(node, "label"), *klass = bmvp_json_get(node, "class"), *patient = bmvp_json_get(node, "patient");
    if (label && label->type == BMVP_JSON_STRING) k->label = path_join(dir, label->str);
    else if (!klass && label && label->type == BMVP_JSON_NUMBER) klass = label;
    else if (label && label->type != BMVP_JSON_NULL && label->type != BMVP_JSON_NUMBER)
        return bmvp_error_set(err, BMVP_E_FORMAT, "%s: case '%s': \"label\" must be a path, or a number (the class)", d->path, k->id);
    if (klass && klass->type != BMVP_JSON_NULL && (!klass->is_int || klass->i < 0))
        return bmvp_error_set(err, BMVP_E_FORMAT, "%s: case '%s': the class must be a whole number from 0", d->path, k->id);
    if (patient && patient->type != BMVP_JSON_STRING)
        return bmvp_error_set(err, BMVP_E_FORMAT, "%s: case '%s': \"patient\" must be a string", d->path, k->id);
    k->klass = bmvp_json_int(klass, -1);
    if (patient) k->patient = text_copy(patient->str);
    if ((k->label == NULL && label && label->type == BMVP_JSON_STRING) || (patient && !k->patient))
        return bmvp_error_set(err, BMVP_E_OOM, "out of memory");
    return BMVP_OK;
}

static bmvp_status load_our_case(dataset *d, const bmvp_json *node, const char *dir, bmvp_error *err)
{
    const char *id = bmvp_json_string(bmvp_json_get(node, "id"), NULL);
    const bmvp_json *images = bmvp_json_get(node, "images"), *m;
    bmvp_status st = BMVP_OK;
    data_case *k;
    if (!id || !images || images->type != BMVP_JSON_OBJECT)
        return bmvp_error_set(err, BMVP_E_FORMAT, "%s: case %lld needs a string \"id\" and an object \"images\"", d->path, (long long)d->n);
    k = dataset_add(d, id);
    if (!k) return bmvp_error_set(err, BMVP_E_OOM, "out of memory");
    for (m = images->first; m && !st; m = m->next) {
        if (m->type != BMVP_JSON_STRING)
            return bmvp_error_set(err, BMVP_E_FORMAT, "%s: case '%s': image '%s' must be a path", d->path, id, m->key);
        st = set_image(d, k, m->key, dir, m->str, err);
    }
    return st ? st : set_truth(d, k, node, dir, err);
}

/* The longest common start of the file names, without separators at its end: the id of a case that has none. */
static void common_id(const bmvp_json *files, char *id, size_t size)
{
    const char *first = files->type == BMVP_JSON_STRING ? files->str : bmvp_json_string(files->first, "");
    const char *base = strrchr(first, '/') ? strrchr(first, '/') + 1 : first, *dir;
    const bmvp_json *f;
    size_t n = strlen(base);
    for (f = files->type == BMVP_JSON_ARRAY ? files->first : NULL; f; f = f->next) {
        const char *other = bmvp_json_string(f, "");
        const char *b = strrchr(other, '/') ? strrchr(other, '/') + 1 : other;
        size_t i = 0;
        while (i < n && b[i] == base[i]) ++i;
        n = i;
    }
    if (!files->first || !files->first->next) n -= ends_with(base, ".nii.gz") ? 7u : ends_with(base, ".nii") ? 4u : 0u;
    else { /* "a_t" of a_t1 and a_t2 is "a" */
        size_t i = n;
        while (i > 0 && !strchr("_-.", base[i - 1])) --i;
        n = i > 0 ? i : n;
    }
    while (n > 0 && strchr("_-.", base[n - 1])) --n;
    if (n > 0) {
        snprintf(id, size, "%.*s", (int)(n < size ? n : size - 1), base);
        return;
    }
    for (dir = base - 1; dir > first && dir[-1] != '/'; --dir) { } /* files named t1.nii.gz: the folder is the case */
    snprintf(id, size, "%.*s", base > first ? (int)(base - 1 - dir) : 4, base > first ? dir : "case");
}

static bmvp_status load_decathlon_case(dataset *d, const bmvp_json *node, const bmvp_json *channels, const char *dir, bmvp_error *err)
{
    const bmvp_json *image = bmvp_json_get(node, "image"), *f;
    const char *name;
    char id[256], suffix[64], index[16];
    bmvp_status st = BMVP_OK;
    data_case *k;
    int i = 0;
    if (!image || (image->type != BMVP_JSON_ARRAY && image->type != BMVP_JSON_STRING) || (image->type == BMVP_JSON_ARRAY && !image->first))
        return bmvp_error_set(err, BMVP_E_FORMAT, "%s: training entry %lld needs \"image\": a path or a list of paths", d->path, (long long)d->n);
    common_id(image, id, sizeof id);
    k = dataset_add(d, bmvp_json_string(bmvp_json_get(node, "id"), id));
    if (!k) return bmvp_error_set(err, BMVP_E_OOM, "out of memory");
    for (f = image->type == BMVP_JSON_ARRAY ? image->first : image; f && !st; f = image->type == BMVP_JSON_ARRAY ? f->next : NULL, ++i) {
        const char *file = bmvp_json_string(f, "");
        name_suffix(file, suffix, sizeof suffix);
        snprintf(index, sizeof index, "%d", i);
        name = bmvp_json_string(bmvp_json_get(channels, index), suffix);
        st = set_image(d, k, bmvp_modality_find(suffix) >= 0 ? suffix : name, dir, file, err);
    }
    return st ? st : set_truth(d, k, node, dir, err);
}

/* >>what label values mean ----------------------------------------------------------------------------------------- */

static int is_number(const char *text) { return *text && strspn(text, "0123456789") == strlen(text); }

/* The values of one entry: a number or a list of numbers. Returns how many, -1: neither. */
static int entry_values(const bmvp_json *m, int *v)
{
    const bmvp_json *e = m->type == BMVP_JSON_ARRAY ? m->first : m;
    int n = 0;
    for (; e; e = m->type == BMVP_JSON_ARRAY ? e->next : NULL) {
        if (e->type != BMVP_JSON_NUMBER || !e->is_int || n == BMVP_LABEL_VALUES) return -1;
        v[n++] = e->i < 0 || e->i > BMVP_LABEL_VALUES ? -1 : (int)e->i; /* what does not fit is refused by bmvp_labels_add */
    }
    return n > 0 ? n : -1;
}

static bmvp_status add_region(dataset *d, const bmvp_json *m, bmvp_error *err)
{
    const int by_value = m->type == BMVP_JSON_STRING && is_number(m->key); /* decathlon: value -> name */
    int v[BMVP_LABEL_VALUES], n = 1;
    bmvp_error e;
    if (by_value) v[0] = strlen(m->key) > 3 ? -1 : (int)strtol(m->key, NULL, 10);
    else n = entry_values(m, v);
    if (n < 0) return bmvp_error_set(err, BMVP_E_FORMAT, "%s: label '%s' must be a whole number or a list of them", d->path, m->key);
    if (n == 1 && v[0] == 0) return BMVP_OK; /* the background */
    if (bmvp_labels_add(&d->labels, by_value ? m->str : m->key, v, n, &e) == BMVP_OK) return BMVP_OK;
    return bmvp_error_set(err, BMVP_E_FORMAT, "%s: %s", d->path, e.message);
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

static bmvp_status load_labels(dataset *d, const bmvp_json *root, bmvp_error *err)
{
    const bmvp_json *labels = bmvp_json_get(root, "labels"), *m;
    const char *kind = bmvp_json_string(bmvp_json_get(root, "labels_kind"), NULL);
    bmvp_status st = BMVP_OK;
    bmvp_error e;
    if (!labels) return BMVP_OK;
    d->has_labels = 1;
    if (labels->type == BMVP_JSON_STRING)
        return bmvp_labels_builtin(labels->str, &d->labels) ? BMVP_OK
            : bmvp_error_set(err, BMVP_E_FORMAT, "%s: labels '%s': there are %s", d->path, labels->str, bmvp_labels_names());
    if (labels->type != BMVP_JSON_OBJECT)
        return bmvp_error_set(err, BMVP_E_FORMAT, "%s: \"labels\" must be the name of a definition or an object", d->path);
    if (kind && strcmp(kind, "regions") != 0 && strcmp(kind, "classes") != 0)
        return bmvp_error_set(err, BMVP_E_FORMAT, "%s: labels_kind '%s' must be regions or classes", d->path, kind);
    memset(&d->labels, 0, sizeof d->labels);
    snprintf(d->labels.name, sizeof d->labels.name, "custom");
    d->labels.exclusive = kind && strcmp(kind, "classes") == 0; /* then overlaps are an error */
    for (m = labels->first; m && !st; m = m->next) st = add_region(d, m, err);
    if (!kind) d->labels.exclusive = !sets_overlap(&d->labels);
    if (!st && bmvp_labels_finish(&d->labels, &e)) st = bmvp_error_set(err, BMVP_E_FORMAT, "%s: %s", d->path, e.message);
    return st;
}

static void save_labels(bmvp_jw *w, const bmvp_labels *l)
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
    bmvp_jw_end(w);
}

static bmvp_status load_list(dataset *d, bmvp_error *err)
{
    char *dir = folder_of(d->path);
    bmvp_json_doc *doc = NULL;
    bmvp_status st = bmvp_json_read(d->path, NULL, &doc, err);
    const bmvp_json *root = st ? NULL : bmvp_json_root(doc), *ours = bmvp_json_get(root, "cases"), *k;
    const bmvp_json *theirs = bmvp_json_get(root, "training"), *channels = bmvp_json_get(root, "modality");
    if (!st && (!ours || ours->type != BMVP_JSON_ARRAY) && (!theirs || theirs->type != BMVP_JSON_ARRAY))
        st = bmvp_error_set(err, BMVP_E_FORMAT, "%s: not a data list: it needs an array \"cases\" (ours) or \"training\" (decathlon)", d->path);
    if (!channels) channels = bmvp_json_get(root, "channel_names");
    for (k = ours ? ours->first : NULL; k && !st && dir; k = k->next) st = load_our_case(d, k, dir, err);
    for (k = !ours && theirs ? theirs->first : NULL; k && !st && dir; k = k->next) st = load_decathlon_case(d, k, channels, dir, err);
    if (!st) st = load_labels(d, root, err);
    bmvp_json_free(doc);
    if (!dir && !st) st = bmvp_error_set(err, BMVP_E_OOM, "out of memory");
    free(dir);
    return st;
}

/* >>directories ---------------------------------------------------------------------------------------------------- */

static int by_name(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

/* Sorted names in a folder without hidden ones; free each and the list. NULL with errno when it cannot be read. */
static char **folder_names(const char *path, size_t *n)
{
    DIR *dir = opendir(path);
    char **list = NULL, **grown;
    struct dirent *e;
    size_t cap = 0;
    *n = 0;
    if (!dir) return NULL;
    list = (char **)malloc(sizeof *list);
    while (list && (e = readdir(dir)) != NULL) {
        if (e->d_name[0] == '.') continue;
        if (*n >= cap) {
            cap = cap ? 2 * cap : 64;
            grown = (char **)realloc(list, cap * sizeof *list);
            if (!grown) break;
            list = grown;
        }
        list[*n] = text_copy(e->d_name);
        if (!list[*n]) break;
        ++*n;
    }
    closedir(dir);
    if (list) qsort(list, *n, sizeof *list, by_name);
    return list;
}

static void free_names(char **list, size_t n)
{
    while (n > 0) free(list[--n]);
    free(list);
}

/* A folder with NIfTI files is a case; one without is passed over. */
static bmvp_status load_case_folder(dataset *d, const char *dir, const char *id, bmvp_error *err)
{
    size_t n, i;
    char **file = folder_names(dir, &n), suffix[64];
    bmvp_status st = BMVP_OK;
    data_case *k = NULL;
    for (i = 0; file && i < n && !st; ++i) {
        if (!is_nifti_name(file[i])) continue;
        if (!k && !(k = dataset_add(d, id))) st = bmvp_error_set(err, BMVP_E_OOM, "out of memory");
        name_suffix(file[i], suffix, sizeof suffix);
        if (!k) continue;
        if (!is_label_suffix(suffix)) st = set_image(d, k, suffix, dir, file[i], err);
        else if (!k->label) k->label = path_join(dir, file[i]);
    }
    free_names(file, n);
    return st;
}

static bmvp_status load_directory(dataset *d, bmvp_error *err)
{
    size_t n, i;
    char **name = folder_names(d->path, &n);
    bmvp_status st = BMVP_OK;
    struct stat s;
    if (!name) return bmvp_error_set(err, BMVP_E_IO, "%s: cannot read the folder: %s", d->path, strerror(errno));
    for (i = 0; i < n && !st; ++i) {
        char *dir = path_join(d->path, name[i]);
        if (dir && stat(dir, &s) == 0 && S_ISDIR(s.st_mode)) st = load_case_folder(d, dir, name[i], err);
        free(dir);
    }
    free_names(name, n);
    if (!st && d->n == 0) { /* no folders of cases: perhaps the folder of one case */
        char *path = text_copy(d->path), *base;
        size_t len = path ? strlen(path) : 0;
        if (!path) return bmvp_error_set(err, BMVP_E_OOM, "out of memory");
        while (len > 1 && path[len - 1] == '/') path[--len] = 0;
        base = strrchr(path, '/') ? strrchr(path, '/') + 1 : path;
        st = load_case_folder(d, d->path, *base && *base != '.' ? base : "case", err);
        free(path);
    }
    return st;
}

/* >>all ------------------------------------------------------------------------------------------------------------ */

static int compare_ids(const void *a, const void *b) { return strcmp((*(const data_case *const *)a)->id, (*(const data_case *const *)b)->id); }

static bmvp_status check_dataset(const dataset *d, bmvp_error *err)
{
    const data_case **order = (const data_case **)malloc((size_t)(d->n + 1) * sizeof *order);
    bmvp_status st = BMVP_OK;
    int64_t i;
    int m;
    if (!order) return bmvp_error_set(err, BMVP_E_OOM, "out of memory");
    if (d->n == 0)
        st = bmvp_error_set(err, BMVP_E_ARG, "%s: no cases in it; a data list needs entries, a directory one folder of .nii or .nii.gz files "
                            "for each case", d->path);
    for (i = 0; i < d->n && !st; ++i) {
        order[i] = &d->item[i];
        for (m = 0; m < BMVP_MODALITIES && !d->item[i].image[m]; ++m) { }
        if (m == BMVP_MODALITIES) st = bmvp_error_set(err, BMVP_E_ARG, "%s: case '%s' has no images", d->path, d->item[i].id);
        if (d->item[i].id[0] == 0 || strchr(d->item[i].id, '/') || d->item[i].id[0] == '.')
            st = bmvp_error_set(err, BMVP_E_ARG, "%s: case id '%s' cannot be a folder name", d->path, d->item[i].id);
    }
    if (!st) qsort((void *)order, (size_t)d->n, sizeof *order, compare_ids);
    for (i = 1; i < d->n && !st; ++i)
        if (strcmp(order[i - 1]->id, order[i]->id) == 0)
            st = bmvp_error_set(err, BMVP_E_ARG, "%s: two cases are called '%s'; give each its own \"id\"", d->path, order[i]->id);
    free((void *)order);
    return st;
}

bmvp_status dataset_load(dataset *d, const char *list_or_dir, bmvp_error *err)
{
    bmvp_status st;
    struct stat s;
    memset(d, 0, sizeof *d);
    if (stat(list_or_dir, &s) != 0) return bmvp_error_set(err, BMVP_E_IO, "%s: %s", list_or_dir, strerror(errno));
    d->path = text_copy(list_or_dir);
    if (!d->path) return bmvp_error_set(err, BMVP_E_OOM, "out of memory");
    if (S_ISDIR(s.st_mode)) { /* a folder that has a list is what the list says */
        char *list = path_join(list_or_dir, "dataset.json");
        if (list && file_exists(list)) {
            free(d->path);
            d->path = list;
            st = load_list(d, err);
        } else {
            free(list);
            st = load_directory(d, err);
        }
    } else st = load_list(d, err);
    if (!st) st = check_dataset(d, err);
    if (st) dataset_free(d);
    return st;
}

static const char *relative_to(const char *dir, const char *path)
{
    const size_t n = strlen(dir);
    return n > 0 && strncmp(dir, path, n) == 0 ? path + n : path;
}

bmvp_status dataset_save(const dataset *d, const char *path, bmvp_error *err)
{
    char *dir = folder_of(path);
    bmvp_status st;
    bmvp_jw w;
    int64_t i;
    int m;
    if (!dir) return bmvp_error_set(err, BMVP_E_OOM, "out of memory");
    bmvp_jw_init(&w, 1, NULL);
    bmvp_jw_object(&w, NULL);
    bmvp_jw_array(&w, "cases");
    for (i = 0; i < d->n; ++i) {
        const data_case *k = &d->item[i];
        bmvp_jw_object(&w, NULL);
        bmvp_jw_string(&w, "id", k->id);
        bmvp_jw_object(&w, "images");
        for (m = 0; m < BMVP_MODALITIES; ++m)
            if (k->image[m]) bmvp_jw_string(&w, bmvp_modality_name(m), relative_to(dir, k->image[m]));
        bmvp_jw_end(&w);
        if (k->label) bmvp_jw_string(&w, "label", relative_to(dir, k->label));
        if (k->klass >= 0) bmvp_jw_int(&w, "class", k->klass);
        if (k->patient) bmvp_jw_string(&w, "patient", k->patient);
        bmvp_jw_end(&w);
    }
    bmvp_jw_end(&w);
    if (d->has_labels) save_labels(&w, &d->labels);
    bmvp_jw_end(&w);
    st = bmvp_jw_finish(&w, err);
    if (!st) st = bmvp_file_write(path, w.out.data, w.out.len, NULL, err);
    bmvp_jw_free(&w);
    free(dir);
    return st;
}
