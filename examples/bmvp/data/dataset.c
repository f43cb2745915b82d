/* dataset.c - data sets: their cases and what is not used of them, see dataset.h */
#define _DEFAULT_SOURCE
#include "dataset.h"
#include "files.h"
#include "labels.h"
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

const char *const data_part_name[4] = { "", "train", "val", "test" };

/* >>cases ---------------------------------------------------------------------------------------------------------- */

data_case *dataset_add(dataset *d, const char *id)
{
    data_case *k;
    int m;
    if (d->n == d->cap) {
        const int64_t cap = d->cap ? 2 * d->cap : 64;
        data_case *grown = (data_case *)realloc(d->item, (size_t)cap * sizeof *grown);
        if (!grown) return NULL;
        d->item = grown;
        d->cap = cap;
    }
    k = &d->item[d->n];
    memset(k, 0, sizeof *k);
    k->class_index = k->fold = -1;
    for (m = 0; m < BMVP_MODALITIES; ++m) k->channel[m] = -1;
    k->id = text_copy(id);
    if (!k->id) return NULL;
    ++d->n;
    return k;
}

static void case_free(data_case *k)
{
    int m;
    for (m = 0; m < BMVP_MODALITIES; ++m) free(k->image[m]);
    free(k->id);
    free(k->label);
    free(k->patient);
    free(k->labels);
}

void dataset_drop(dataset *d, int64_t i, const char *why)
{
    dataset_note(d, d->item[i].id, NULL, "%s", why);
    --d->n_unused;
    case_free(&d->item[i]);
    memmove(d->item + i, d->item + i + 1, (size_t)(d->n - i - 1) * sizeof *d->item);
    --d->n;
    ++d->n_dropped;
}

void dataset_free(dataset *d)
{
    int64_t i;
    for (i = 0; i < d->n; ++i) case_free(&d->item[i]);
    for (i = 0; i < d->n_notes; ++i) {
        free(d->note[i].id);
        free(d->note[i].file);
        free(d->note[i].why);
    }
    for (i = 0; i < d->n_class_names; ++i) free(d->class_name[i]);
    free(d->class_name);
    free(d->item);
    free(d->note);
    free(d->path);
    memset(d, 0, sizeof *d);
}

bmvp_status dataset_set_image(dataset *d, data_case *k, int m, const char *dir, const char *file, bmvp_error *err)
{
    if (k->image[m])
        return bmvp_error_set(err, BMVP_E_ARG, "%s: case '%s' has modality %s twice: %s and %s", d->path, k->id,
                              bmvp_modality_name(m), k->image[m], file);
    k->image[m] = path_join(dir, file);
    return k->image[m] ? BMVP_OK : bmvp_error_set(err, BMVP_E_OOM, "out of memory");
}

const char *data_patient(const data_case *k) { return k->patient ? k->patient : k->id; }

/* >>notes ---------------------------------------------------------------------------------------------------------- */

static data_note *new_note(dataset *d, const char *id, const char *file, const char *format, va_list args)
{
    data_note *grown, *note;
    char why[512];
    if (d->n_notes == d->cap_notes) {
        const int64_t cap = d->cap_notes ? 2 * d->cap_notes : 64;
        grown = (data_note *)realloc(d->note, (size_t)cap * sizeof *grown);
        if (!grown) return NULL; /* a note less: loading itself will say that memory is short */
        d->note = grown;
        d->cap_notes = cap;
    }
    vsnprintf(why, sizeof why, format, args);
    note = &d->note[d->n_notes++];
    note->id = id ? text_copy(id) : NULL;
    note->file = file ? text_copy(file) : NULL;
    note->why = text_copy(why);
    note->used = 0;
    (void)text_clean(note->id, '?');
    (void)text_clean(note->file, '?');
    (void)text_clean(note->why, '?');
    return note;
}

void dataset_note(dataset *d, const char *id, const char *file, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    d->n_unused += new_note(d, id, file, format, args) != NULL;
    va_end(args);
}

void dataset_doubt(dataset *d, const char *id, const char *file, const char *format, ...)
{
    va_list args;
    data_note *note;
    va_start(args, format);
    note = new_note(d, id, file, format, args);
    va_end(args);
    if (note) note->used = 1;
}

static void note_text(const data_note *n, char *text, size_t size)
{
    if (n->file) snprintf(text, size, "%s", n->file);
    else snprintf(text, size, "case '%s'", n->id ? n->id : "?");
}

static int same_reason(const data_note *a, const data_note *b)
{
    return a->used == b->used && (a->file == NULL) == (b->file == NULL) &&
           strcmp(a->why ? a->why : "", b->why ? b->why : "") == 0;
}

void dataset_say(const dataset *d, const char *command)
{
    enum { SHOWN = 3 };
    char *said = (char *)calloc((size_t)d->n_notes + 1, 1), text[1200];
    int64_t i, j, n;
    if (!said) return;
    for (i = 0; i < d->n_notes; ++i) {
        const char *how = d->note[i].used ? "" : "left out: ";
        if (said[i]) continue;
        for (j = i, n = 0; j < d->n_notes; ++j) {
            if (said[j] || !same_reason(&d->note[i], &d->note[j])) continue;
            said[j] = 1;
            if (n++ >= SHOWN) continue;
            note_text(&d->note[j], text, sizeof text);
            fprintf(stderr, "bmvp %s: %s%s: %s\n", command, how, text, d->note[j].why ? d->note[j].why : "");
        }
        if (n > SHOWN)
            fprintf(stderr, "bmvp %s: %s%lld more like these three: %s\n", command, how, (long long)(n - SHOWN),
                    d->note[i].why ? d->note[i].why : "");
    }
    if (d->doubt[0]) say(stderr, "bmvp %s: %s\n", command, d->doubt);
    free(said);
}

/* >>ids of folders ------------------------------------------------------------------------------------------------- */

static int by_text(const void *a, const void *b) { return strcmp(*(const char *const *)a, *(const char *const *)b); }

/* "HGG/Brats18_2013_10_1": its last part, with 1 folder before it "HGG_Brats18_2013_10_1", .. */
static char *short_id(const char *id, int folders)
{
    const char *from = path_base(id);
    char *text, *p;
    for (; folders > 0 && from > id; --folders)
        for (--from; from > id && from[-1] != '/'; --from) { }
    text = text_copy(from);
    for (p = text; p && *p; ++p)
        if (*p == '/') *p = '_';
    return text;
}

/* 1: with so many folders two cases have one name; -1: no memory. */
static int ids_clash(const dataset *d, int folders)
{
    char **id = (char **)calloc((size_t)d->n + 1, sizeof *id);
    int64_t i;
    int clash = id ? 0 : -1;
    for (i = 0; i < d->n && clash == 0; ++i)
        if (!(id[i] = short_id(d->item[i].id, folders))) clash = -1;
    if (clash == 0 && d->n) qsort((void *)id, (size_t)d->n, sizeof *id, by_text);
    for (i = 1; i < d->n && clash == 0; ++i) clash = strcmp(id[i - 1], id[i]) == 0;
    for (i = 0; i < d->n && id; ++i) free(id[i]);
    free((void *)id);
    return clash;
}

bmvp_status dataset_shorten_ids(dataset *d, bmvp_error *err)
{
    int64_t i;
    int folders = 0, clash;
    while ((clash = ids_clash(d, folders)) > 0 && folders < 32) ++folders;
    for (i = 0; i < d->n + d->n_notes && clash >= 0; ++i) {
        char **id = i < d->n ? &d->item[i].id : &d->note[i - d->n].id, *text = *id ? short_id(*id, folders) : NULL;
        if (*id && !text) clash = -1;
        if (!text) continue;
        free(*id);
        *id = text;
    }
    return clash >= 0 ? BMVP_OK : bmvp_error_set(err, BMVP_E_OOM, "out of memory");
}

/* >>loading -------------------------------------------------------------------------------------------------------- */

static int compare_ids(const void *a, const void *b)
{
    return strcmp((*(const data_case *const *)a)->id, (*(const data_case *const *)b)->id);
}

static bmvp_status nothing_left(const dataset *d, bmvp_error *err)
{
    char text[300];
    if (d->n_notes == 0)
        return bmvp_error_set(
            err, BMVP_E_ARG,
            "%s: no cases in it; a data list needs entries, a directory one folder of .nii or .nii.gz files "
            "for each case",
            d->path);
    note_text(&d->note[0], text, sizeof text);
    return bmvp_error_set(
        err, BMVP_E_ARG,
        "%s: no cases can be used; %s: %s%s. Say what files are with --as NAME=PATTERN, or edit the list that "
        "`bmvp list --data DIR --out list.json` drafts",
        d->path, text, d->note[0].why ? d->note[0].why : "", d->n_notes > 1 ? ", and others" : "");
}

static bmvp_status check_dataset(dataset *d, bmvp_error *err)
{
    const data_case **order = (const data_case **)malloc((size_t)(d->n + 1) * sizeof *order);
    bmvp_status st = BMVP_OK;
    int64_t i;
    int m;
    if (!order) return bmvp_error_set(err, BMVP_E_OOM, "out of memory");
    if (d->n == 0) st = nothing_left(d, err);
    d->modalities = 0;
    for (i = 0; i < d->n && !st; ++i) {
        uint32_t have = 0;
        order[i] = &d->item[i];
        for (m = 0; m < BMVP_MODALITIES; ++m) have |= (uint32_t)(d->item[i].image[m] != NULL) << m;
        d->modalities |= have;
        if (!have) st = bmvp_error_set(err, BMVP_E_ARG, "%s: case '%s' has no images", d->path, d->item[i].id);
        if (d->item[i].id[0] == 0 || strchr(d->item[i].id, '/') || d->item[i].id[0] == '.')
            st = bmvp_error_set(err, BMVP_E_ARG, "%s: case id '%s' cannot be a folder name", d->path, d->item[i].id);
    }
    if (!st) qsort((void *)order, (size_t)d->n, sizeof *order, compare_ids);
    for (i = 1; i < d->n && !st; ++i)
        if (strcmp(order[i - 1]->id, order[i]->id) == 0)
            st = bmvp_error_set(err, BMVP_E_ARG, "%s: two cases are called '%s'; give each its own \"id\"", d->path,
                                order[i]->id);
    free((void *)order);
    return st;
}

/* Names that lists, tables and terminals can hold: control characters become _, in those of patients and classes too; a
   case whose name is not UTF-8 is
   dropped, as the folder that `prepare` would make of it could not be found again. */
static void settle_names(dataset *d)
{
    int64_t i;
    for (i = 0; i < d->n_class_names; ++i) (void)text_clean(d->class_name[i], '_');
    for (i = d->n - 1; i >= 0; --i) {
        (void)text_clean(d->item[i].patient, '_');
        if (!is_utf8(d->item[i].id)) dataset_drop(d, i, "its name is not UTF-8, so no list can hold it: rename it");
        else if (text_clean(d->item[i].id, '_') > 0)
            dataset_note(d, d->item[i].id, "control characters of a name",
                         "the case is called '%s' without them", d->item[i].id);
    }
}

/* Where there are cases with labels of their own and the list has none, the first one's are the list's. */
static void find_labels(dataset *d)
{
    int64_t i;
    for (i = 0; i < d->n && !d->has_labels; ++i) {
        if (!d->item[i].labels) continue;
        d->labels = *d->item[i].labels;
        d->has_labels = 1;
    }
}

bmvp_status dataset_load_as(dataset *d, const char *list_or_dir, const dataset_options *o, bmvp_error *err)
{
    static const dataset_options none = { NULL, NULL, NULL, NULL, NULL };
    role_rules rules;
    bmvp_status st;
    struct stat s;
    memset(d, 0, sizeof *d);
    if (!o) o = &none;
    st = role_rules_read(&rules, o->as, err);
    if (st) return st;
    if (stat(list_or_dir, &s) != 0) return bmvp_error_set(err, BMVP_E_IO, "%s: %s", list_or_dir, strerror(errno));
    d->path = text_copy(list_or_dir);
    if (!d->path) return bmvp_error_set(err, BMVP_E_OOM, "out of memory");
    if (S_ISDIR(s.st_mode)) { /* a folder that has a list is what the list says */
        char *list = path_join(list_or_dir, "dataset.json");
        if (!list) return bmvp_error_set(err, BMVP_E_OOM, "out of memory");
        if (file_exists(list)) {
            free(d->path);
            d->path = list;
            st = list_load(d, o, &rules, err);
        } else {
            free(list);
            st = layout_load(d, &rules, err);
        }
    } else st = list_load(d, o, &rules, err);
    if (!st) settle_names(d);
    if (!st) st = check_dataset(d, err);
    if (!st) st = dataset_find_patients(d, err);
    if (!st && (o->classes || o->class_column)) st = classes_load(d, o, err);
    if (!st) find_labels(d);
    return st;
}

bmvp_status dataset_load(dataset *d, const char *list_or_dir, bmvp_error *err)
{
    const bmvp_status st = dataset_load_as(d, list_or_dir, NULL, err);
    if (st) dataset_free(d);
    return st;
}

/* >>saving --------------------------------------------------------------------------------------------------------- */

static const char *relative_to(const char *dir, const char *path)
{
    const size_t n = strlen(dir);
    return n > 0 && strncmp(dir, path, n) == 0 ? path + n : path;
}

static void save_case(bmvp_jw *w, const data_case *k, const char *dir)
{
    int m;
    bmvp_jw_object(w, NULL);
    bmvp_jw_string(w, "id", k->id);
    bmvp_jw_object(w, "images");
    for (m = 0; m < BMVP_MODALITIES; ++m)
        if (k->image[m] && k->channel[m] < 0) bmvp_jw_string(w, bmvp_modality_name(m), relative_to(dir, k->image[m]));
        else if (k->image[m]) {
            bmvp_jw_object(w, bmvp_modality_name(m));
            bmvp_jw_string(w, "file", relative_to(dir, k->image[m]));
            bmvp_jw_int(w, "channel", k->channel[m]);
            if (k->channels[m] > 0) bmvp_jw_int(w, "channels", k->channels[m]);
            bmvp_jw_end(w);
        }
    bmvp_jw_end(w);
    if (k->label) bmvp_jw_string(w, "label", relative_to(dir, k->label));
    if (k->class_index >= 0) bmvp_jw_int(w, "class", k->class_index);
    if (k->patient) bmvp_jw_string(w, "patient", k->patient);
    if (k->part != PART_NONE) bmvp_jw_string(w, "part", data_part_name[k->part]);
    if (k->fold >= 0) bmvp_jw_int(w, "fold", k->fold);
    if (k->labels) labels_save(w, k->labels);
    bmvp_jw_end(w);
}

static bmvp_status check_paths(const data_case *k, bmvp_error *err)
{
    int m;
    for (m = 0; m <= BMVP_MODALITIES; ++m) {
        const char *path = m < BMVP_MODALITIES ? k->image[m] : k->label;
        if (path && !is_utf8(path))
            return bmvp_error_set(err, BMVP_E_ARG,
                                  "case '%s': %s: a path that is not UTF-8 cannot stand in a list",
                                  k->id, path);
    }
    return BMVP_OK;
}

bmvp_status dataset_save(const dataset *d, const char *path, bmvp_error *err)
{
    char *dir = folder_of(path);
    bmvp_status st = BMVP_OK, written;
    bmvp_jw w;
    int64_t i;
    if (!dir) return bmvp_error_set(err, BMVP_E_OOM, "out of memory");
    bmvp_jw_init(&w, 1, NULL);
    bmvp_jw_object(&w, NULL);
    bmvp_jw_array(&w, "cases");
    for (i = 0; i < d->n && !st; ++i) {
        st = check_paths(&d->item[i], err);
        save_case(&w, &d->item[i], dir);
    }
    bmvp_jw_end(&w);
    if (d->has_labels) labels_save(&w, &d->labels);
    if (d->n_class_names) {
        bmvp_jw_array(&w, "class_names");
        for (i = 0; i < d->n_class_names; ++i) bmvp_jw_string(&w, NULL, d->class_name[i]);
        bmvp_jw_end(&w);
    }
    bmvp_jw_end(&w);
    written = bmvp_jw_finish(&w, st ? NULL : err);
    if (!st) st = written;
    if (!st) st = bmvp_file_write(path, w.out.data, w.out.len, NULL, err);
    bmvp_jw_free(&w);
    free(dir);
    return st;
}
