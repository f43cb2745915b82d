/* lists.c - data lists in JSON: ours, MONAI's and the decathlon's, nnU-Net's dataset.json; see dataset.h */
#include "dataset.h"
#include "files.h"
#include "folds.h"
#include "labels.h"
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct list { /* what loading a list needs at hand */
    dataset *d;
    const char *dir;            /* where paths begin */
    const bmvp_json *channels;  /* "modality" or "channel_names" */
    const role_rules *rules;
    int n_channels;
} list;

/* >>keys ----------------------------------------------------------------------------------------------------------- */

static int one_of(const char *key, const char *const *known)
{
    for (; *known; ++known)
        if (strcmp(key, *known) == 0) return 1;
    return 0;
}

/* Keys of the list that say something which is not used here, but known to do no harm. */
static const char *const descriptive[] = { "name",
                                           "description",
                                           "reference",
                                           "licence",
                                           "license",
                                           "release",
                                           "tensorImageSize",
                                           "numTraining",
                                           "numTest",
                                           "file_ending",
                                           "regions_class_order",
                                           "overwrite_image_reader_writer",
                                           "left_out",
                                           "converted_by",
                                           "citation",
                                           "author",
                                           "version",
                                           "generator",
                                           "modalities",
                                           NULL };
static const char *const used[] = { "cases",         "training", "validation",  "test",        "testing", "modality",
                                    "channel_names", "labels",   "labels_kind", "class_names", "classes",
                                    "dataset",       "train",    "val",         "valid",       "dev",     NULL };
static const char *const used_of_case[] = { "id",   "images", "image",  "label",       "class", "patient",
                                            "part", "split",  "fold",   "labels",      "labels_kind",
                                            NULL };

static void note_keys(const list *l, const bmvp_json *root)
{
    const bmvp_json *m;
    for (m = root->first; m; m = m->next)
        if (m->key && !one_of(m->key, used) && !one_of(m->key, descriptive))
            dataset_note(l->d, NULL, m->key, "a key of the list that is not used");
}

/* MONAI's entries may have a key for each image, in place of "image" */
static int has_modality_keys(const bmvp_json *node)
{
    const bmvp_json *m;
    if (node->type != BMVP_JSON_OBJECT || bmvp_json_get(node, "image") || bmvp_json_get(node, "images")) return 0;
    for (m = node->first; m && bmvp_modality_find(m->key) < 0; m = m->next) { }
    return m != NULL;
}

static const char *const label_keys[] = { "label", "seg", "segmentation", NULL };

/* "label", or the first of its other names that the case has; NULL: none. */
static const bmvp_json *label_of(const bmvp_json *node)
{
    const bmvp_json *label = NULL;
    int i;
    for (i = 0; label_keys[i] && !label; ++i) label = bmvp_json_get(node, label_keys[i]);
    return label;
}

static void note_case_keys(const list *l, const bmvp_json *node, const char *id)
{
    const int named = has_modality_keys(node);
    const bmvp_json *m, *label = label_of(node);
    for (m = node->first; m; m = m->next)
        if (m->key && m != label && !one_of(m->key, used_of_case) && !(named && bmvp_modality_find(m->key) >= 0))
            dataset_note(l->d, id, m->key, "a key of the cases that is not used");
}

/* >>one case ------------------------------------------------------------------------------------------------------- */

static int same_word(const char *a, const char *b)
{
    for (; *a && tolower((unsigned char)*a) == *b; ++a, ++b) { }
    return *a == 0 && *b == 0;
}

/* The class or fold that a number or a text that is one says; -1: it says none. */
static int64_t class_of(const bmvp_json *v)
{
    const char *text = bmvp_json_string(v, NULL);
    if (v && v->type == BMVP_JSON_NUMBER && v->is_int && v->i >= 0) return v->i;
    if (text && *text && strlen(text) < 10 && text[strspn(text, "0123456789")] == 0) return strtoll(text, NULL, 10);
    return -1;
}

/* What a name or an id says, also as a number; NULL: nothing. */
static const char *text_of(const bmvp_json *v, char text[24])
{
    if (!v || v->type != BMVP_JSON_NUMBER || !v->is_int) return bmvp_json_string(v, NULL);
    snprintf(text, 24, "%lld", (long long)v->i);
    return text;
}

/* class_of, or the class of that name in "class_names". */
static int64_t named_class(const dataset *d, const bmvp_json *v)
{
    const char *text = bmvp_json_string(v, NULL);
    int64_t i = text ? d->n_class_names : 0;
    while (i-- > 0)
        if (strcmp(d->class_name[i], text) == 0) return i;
    return class_of(v);
}

static bmvp_status set_part(data_case *k, const bmvp_json *node, const char *name, bmvp_error *err)
{
    static const struct { const char *word; data_part part;
    } word[] = {
        { "train", PART_TRAIN },   { "training", PART_TRAIN }, { "tr", PART_TRAIN },  { "val", PART_VAL },
        { "validation", PART_VAL }, { "valid", PART_VAL },      { "dev", PART_VAL },   { "test", PART_TEST },
        { "testing", PART_TEST },  { "ts", PART_TEST },
    };
    const bmvp_json *part = bmvp_json_get(node, "part"), *split = bmvp_json_get(node, "split");
    const bmvp_json *fold = bmvp_json_get(node, "fold");
    size_t i;
    if (!part || part->type == BMVP_JSON_NULL) part = split;
    if (part && split && split->type != BMVP_JSON_NULL &&
        strcmp(bmvp_json_string(part, ""), bmvp_json_string(split, "")) != 0)
        return bmvp_error_set(err, BMVP_E_FORMAT, "%s: case '%s': \"part\" and \"split\" say different things", name,
                              k->id);
    if (fold && fold->type != BMVP_JSON_NULL) {
        k->fold = class_of(fold);
        if (k->fold < 0)
            return bmvp_error_set(err, BMVP_E_FORMAT, "%s: case '%s': \"fold\" must be a whole number from 0", name,
                                  k->id);
    }
    if (!part || part->type == BMVP_JSON_NULL) return BMVP_OK;
    for (i = 0; i < sizeof word / sizeof *word; ++i)
        if (same_word(bmvp_json_string(part, ""), word[i].word)) {
            k->part = word[i].part;
            return BMVP_OK;
        }
    return bmvp_error_set(err, BMVP_E_FORMAT, "%s: case '%s': \"part\" must be train, val or test", name, k->id);
}

/* "label" is a path, or in lists for classification the class; "class" says so clearly. "patient" names who it is. */
static bmvp_status set_truth(const list *l, data_case *k, const bmvp_json *node, bmvp_error *err)
{
    const bmvp_json *label = label_of(node), *class_index = bmvp_json_get(node, "class"),
                    *patient = bmvp_json_get(node, "patient");
    const bmvp_json *labels = bmvp_json_get(node, "labels");
    const char *name = l->d->path, *who;
    char number[24];
    if (!class_index && label && named_class(l->d, label) >= 0) class_index = label, label = NULL;
    if (label && label->type == BMVP_JSON_STRING && label->str[0] && !role_is_volume(label->str) &&
        !strchr(label->str, '.') && !strchr(label->str, '/'))
        return bmvp_error_set(err, BMVP_E_FORMAT,
                              "%s: case '%s': \"label\" '%s' is neither a file nor a class: that is a whole number "
                              "from 0, or one of \"class_names\"",
                              name, k->id, label->str);
    if (label && label->type == BMVP_JSON_STRING && label->str[0]) k->label = path_join(l->dir, label->str);
    else if (label && label->type != BMVP_JSON_NULL && label->type != BMVP_JSON_STRING)
        return bmvp_error_set(err, BMVP_E_FORMAT, "%s: case '%s': \"label\" must be a path, or a number (the class)",
                              name, k->id);
    k->class_index = named_class(l->d, class_index);
    if (class_index && class_index->type != BMVP_JSON_NULL && k->class_index < 0)
        return bmvp_error_set(err, BMVP_E_FORMAT, "%s: case '%s': the class must be a whole number from 0, or one of "
                              "\"class_names\"",
                              name, k->id);
    who = text_of(patient, number);
    if (patient && patient->type != BMVP_JSON_NULL && !who)
        return bmvp_error_set(err, BMVP_E_FORMAT, "%s: case '%s': \"patient\" must be a string", name, k->id);
    if (who && who[0]) k->patient = text_copy(who);
    if ((k->label == NULL && label && label->type == BMVP_JSON_STRING && label->str[0]) ||
        (who && who[0] && !k->patient))
        return bmvp_error_set(err, BMVP_E_OOM, "out of memory");
    if (labels) {
        k->labels = (bmvp_labels *)malloc(sizeof *k->labels);
        if (!k->labels) return bmvp_error_set(err, BMVP_E_OOM, "out of memory");
        if (labels_parse(labels, bmvp_json_string(bmvp_json_get(node, "labels_kind"), NULL), name, k->labels, err))
            return BMVP_E_FORMAT;
    }
    note_case_keys(l, node, k->id);
    return set_part(k, node, name, err);
}

/* Does the list say another modality of a file than its name? What the list says is taken, if it is ours; else the name
   is. A contrast agent that a name does not mention is no other modality. */
static void note_other_name(const list *l, const data_case *k, const char *file, int listed, int taken)
{
    const role r = role_of(file, NULL, NULL);
    const int t1 = bmvp_modality_find("t1"), t1c = bmvp_modality_find("t1c");
    if (r.kind != ROLE_IMAGE || listed < 0 || r.modality == listed || (r.modality == t1 && listed == t1c)) return;
    dataset_doubt(l->d, k->id, file, "the list says that it is %s, its name %s: taken as %s",
                  bmvp_modality_name(listed), bmvp_modality_name(r.modality), bmvp_modality_name(taken));
}

/* What {"file", "channel", "channels"} says of one image. */
static bmvp_status our_channel(const list *l, data_case *k, const bmvp_json *m, int modality, bmvp_error *err)
{
    static const char *const keys[] = { "file", "channel", "channels", NULL };
    const bmvp_json *channel = bmvp_json_get(m, "channel"), *f;
    k->channels[modality] = bmvp_json_int(bmvp_json_get(m, "channels"), 0);
    if (channel && channel->type != BMVP_JSON_NULL) {
        k->channel[modality] = class_of(channel);
        if (k->channel[modality] < 0)
            return bmvp_error_set(err, BMVP_E_FORMAT, "%s: case '%s': image '%s': \"channel\" must be a whole number "
                                  "from 0",
                                  l->d->path, k->id, m->key);
    }
    for (f = m->first; f; f = f->next)
        if (f->key && !one_of(f->key, keys))
            dataset_note(l->d, k->id, f->key, "a key of image '%.40s' that is not used", m->key);
    return BMVP_OK;
}

/* One image of our list: a path, or {"file", "channel"}; null: the case lacks it. */
static bmvp_status our_image(const list *l, data_case *k, const bmvp_json *m, bmvp_error *err)
{
    const char *file = bmvp_json_string(m->type == BMVP_JSON_OBJECT ? bmvp_json_get(m, "file") : m, NULL);
    const int modality = bmvp_modality_find(m->key);
    bmvp_status st;
    if (m->type == BMVP_JSON_NULL || (file && !file[0])) return BMVP_OK;
    if (!file)
        return bmvp_error_set(err, BMVP_E_FORMAT, "%s: case '%s': image '%s' must be a path", l->d->path, k->id,
                              m->key);
    if (modality < 0) {
        dataset_note(l->d, k->id, file,
                     "unknown modality '%.40s'; known are flair t1 t1c t2 mra pd dwi adc and the data sets' names for "
                     "them (t1ce, t2w, t2f ...)",
                     m->key);
        return BMVP_OK;
    }
    st = dataset_set_image(l->d, k, modality, l->dir, file, err);
    if (!st && m->type == BMVP_JSON_OBJECT) st = our_channel(l, k, m, modality, err);
    if (!st && k->channel[modality] < 0) note_other_name(l, k, file, modality, modality);
    return st;
}

static bmvp_status our_case(const list *l, const bmvp_json *node, bmvp_error *err)
{
    char number[24];
    const char *id = text_of(bmvp_json_get(node, "id"), number);
    const bmvp_json *images = bmvp_json_get(node, "images"), *m;
    bmvp_status st = BMVP_OK;
    data_case *k;
    int i;
    if (!id || !images || images->type != BMVP_JSON_OBJECT)
        return bmvp_error_set(err, BMVP_E_FORMAT, "%s: case %lld needs a string \"id\" and an object \"images\"",
                              l->d->path, (long long)l->d->n);
    k = dataset_add(l->d, id);
    if (!k) return bmvp_error_set(err, BMVP_E_OOM, "out of memory");
    for (m = images->first; m && !st; m = m->next) st = our_image(l, k, m, err);
    for (i = 0; i < BMVP_MODALITIES && !k->image[i]; ++i) { }
    if (!st && i == BMVP_MODALITIES)
        st = bmvp_error_set(err, BMVP_E_ARG, "%s: case '%s' has no images", l->d->path, id);
    return st ? st : set_truth(l, k, node, err);
}

/* A case that cannot be read costs itself: it is left out, and why; of the data set's n before it all stay. */
static bmvp_status or_leave_out(const list *l, bmvp_status st, int64_t n, const bmvp_error *e, bmvp_error *err)
{
    const char *why = e->message;
    const size_t path = strlen(l->d->path);
    if (st == BMVP_E_OOM) return bmvp_error_set(err, st, "%s", why);
    if (!st) return BMVP_OK;
    if (strncmp(why, l->d->path, path) == 0 && why[path] == ':') why += path + 2; /* the note says where */
    if (l->d->n > n) dataset_drop(l->d, n, why);
    else {
        dataset_note(l->d, NULL, l->d->path, "%s", why);
        --l->d->n_unused;
        ++l->d->n_dropped;
    }
    return BMVP_OK;
}

/* >>decathlon ------------------------------------------------------------------------------------------------------ */

/* The folder of a file, its last part; "case" when it has none. */
static void folder_name(const char *file, char *out, size_t size)
{
    const char *base = path_base(file), *from;
    if (base == file) {
        snprintf(out, size, "case");
        return;
    }
    for (from = base - 1; from > file && from[-1] != '/'; --from) { }
    snprintf(out, size, "%.*s", (int)(base - 1 - from), from);
}

/* What a case without an id is called: its files' own start, else their folder. */
static void case_id(const char *file, char *id, size_t size)
{
    const role r = role_of(file, NULL, NULL);
    const char *base = path_base(file);
    if (r.id > 0 && r.id < size) snprintf(id, size, "%.*s", (int)r.id, base);
    else if (r.kind == ROLE_OTHER && role_stem(base) > 0) snprintf(id, size, "%.*s", (int)role_stem(base), base);
    else folder_name(file, id, size);
}

static int64_t find_id(const dataset *d, const char *id)
{
    int64_t i;
    for (i = d->n - 1; i >= 0 && strcmp(d->item[i].id, id) != 0; --i) { }
    return i;
}

/* One file of several channels, as the list's "modality" says. */
static bmvp_status split_channels(const list *l, data_case *k, const char *file, bmvp_error *err)
{
    const bmvp_json *m;
    bmvp_status st = BMVP_OK;
    int c = 0, modality;
    for (m = l->channels->first; m && !st; m = m->next, ++c) {
        modality = role_modality(bmvp_json_string(m, ""));
        if (modality < 0) {
            dataset_note(l->d, k->id, file, "its channel %d, '%s', is no modality that is known", c,
                         bmvp_json_string(m, ""));
            continue;
        }
        st = dataset_set_image(l->d, k, modality, l->dir, file, err);
        k->channel[modality] = c;
        k->channels[modality] = l->n_channels;
    }
    return st;
}

/* File number i of the entry's image list: by the channel's name, else by the file's. */
static bmvp_status their_image(const list *l, data_case *k, const char *file, int i, bmvp_error *err)
{
    char key[16];
    role r = role_of(file, NULL, l->rules);
    int modality = r.kind == ROLE_IMAGE ? r.modality : -1, listed;
    snprintf(key, sizeof key, "%d", i);
    listed = role_modality(bmvp_json_string(bmvp_json_get(l->channels, key), ""));
    if (modality < 0 && r.variant >= 0) modality = listed;
    if (modality >= 0 && r.variant >= 0) note_other_name(l, k, file, listed, modality);
    if (modality >= 0) return dataset_set_image(l->d, k, modality, l->dir, file, err);
    dataset_note(l->d, k->id, file, "%s%s", r.why[0] && strncmp(r.why, "unknown", 7) == 0 ? "" : "unknown modality: ",
                 r.kind == ROLE_OTHER && r.why[0] ? r.why : "its name says a label or mask");
    return BMVP_OK;
}

/* What an entry says of its images: a path, an array of them, or the entry itself, with a key for each. */
static const bmvp_json *images_of(const bmvp_json *node)
{
    if (node->type != BMVP_JSON_OBJECT || has_modality_keys(node)) return node;
    return bmvp_json_get(node, "image");
}

static const bmvp_json *first_image(const bmvp_json *image)
{
    const bmvp_json *f = image && image->type != BMVP_JSON_STRING ? image->first : image;
    while (f && image->type == BMVP_JSON_OBJECT && (bmvp_modality_find(f->key) < 0 || f->type == BMVP_JSON_NULL))
        f = f->next;
    while (f && image->type == BMVP_JSON_ARRAY && f->type == BMVP_JSON_NULL) f = f->next;
    return f;
}

static bmvp_status their_images(const list *l, data_case *k, const bmvp_json *image, bmvp_error *err)
{
    const bmvp_json *f;
    bmvp_status st = BMVP_OK;
    int i = 0;
    if (image->type == BMVP_JSON_STRING && l->n_channels > 1) return split_channels(l, k, image->str, err);
    if (image->type == BMVP_JSON_STRING) return their_image(l, k, image->str, 0, err);
    for (f = image->first; f && !st; f = f->next)
        if (image->type == BMVP_JSON_ARRAY && !bmvp_json_string(f, "")[0]) ++i; /* null: the case lacks this one */
        else if (image->type == BMVP_JSON_ARRAY) st = their_image(l, k, f->str, i++, err);
        else if (bmvp_modality_find(f->key) >= 0) st = our_image(l, k, f, err);
    return st;
}

static bmvp_status their_case(const list *l, const bmvp_json *node, const char *array, data_part part, bmvp_error *err)
{
    const bmvp_json *image = images_of(node);
    const char *file = bmvp_json_string(first_image(image), NULL);
    char id[512], folder[256], number[24];
    const char *given;
    bmvp_status st;
    data_case *k;
    int m;
    if (!file)
        return bmvp_error_set(err, BMVP_E_FORMAT,
                              "%s: %s entry %lld needs \"image\": a path or a list of paths, or a key for each "
                              "modality",
                              l->d->path, array, (long long)l->d->n);
    case_id(file, id, sizeof id);
    if (find_id(l->d, id) >= 0) {
        folder_name(file, folder, sizeof folder);
        snprintf(id + strlen(id), sizeof id - strlen(id), "_%s", folder);
    }
    given = node->type == BMVP_JSON_OBJECT ? text_of(bmvp_json_get(node, "id"), number) : NULL;
    k = dataset_add(l->d, given && given[0] ? given : id);
    if (!k) return bmvp_error_set(err, BMVP_E_OOM, "out of memory");
    k->part = part;
    k->id_is_made = strcmp(k->id, id) == 0;
    st = their_images(l, k, image, err);
    if (!st && node->type == BMVP_JSON_OBJECT) st = set_truth(l, k, node, err);
    for (m = 0; m < BMVP_MODALITIES && !k->image[m]; ++m) { }
    if (!st && m == BMVP_MODALITIES) dataset_drop(l->d, l->d->n - 1, "none of its files has a modality that is known");
    return st;
}

/* nnU-Net 2: {"dataset": {"CASE": {"images": [..], "label": ".."}}} says itself where files are. */
static bmvp_status listed_case(const list *l, const bmvp_json *node, bmvp_error *err)
{
    const bmvp_json *f = bmvp_json_get(node, "images");
    const char *label = bmvp_json_string(bmvp_json_get(node, "label"), NULL);
    data_case *k = dataset_add(l->d, node->key);
    bmvp_status st = k ? BMVP_OK : bmvp_error_set(err, BMVP_E_OOM, "out of memory");
    int i = 0, m;
    for (f = f ? f->first : NULL; f && !st; f = f->next) st = their_image(l, k, bmvp_json_string(f, ""), i++, err);
    if (!st && label && !(k->label = path_join(l->dir, label))) st = bmvp_error_set(err, BMVP_E_OOM, "out of memory");
    for (m = 0; k && m < BMVP_MODALITIES && !k->image[m]; ++m) { }
    if (!st && m == BMVP_MODALITIES) dataset_drop(l->d, l->d->n - 1, "none of its files has a modality that is known");
    return st;
}

/* The arrays of a MONAI list. Where there is but one of them, it is the data set and no part of it. */
static bmvp_status their_lists(const list *l, const bmvp_json *root, bmvp_error *err)
{
    static const struct { const char *key; data_part part; } array[] = {
        { "training", PART_TRAIN }, { "train", PART_TRAIN }, { "validation", PART_VAL }, { "valid", PART_VAL },
        { "val", PART_VAL },        { "dev", PART_VAL },     { "test", PART_TEST },      { "testing", PART_TEST },
    };
    bmvp_status st = BMVP_OK;
    bmvp_error e;
    size_t a, filled = 0;
    for (a = 0; a < sizeof array / sizeof *array; ++a) {
        const bmvp_json *list_of = bmvp_json_get(root, array[a].key);
        filled += list_of && list_of->type == BMVP_JSON_ARRAY && list_of->first;
    }
    for (a = 0; a < sizeof array / sizeof *array && !st; ++a) {
        const bmvp_json *entry = bmvp_json_get(root, array[a].key);
        if (!entry) continue;
        if (entry->type != BMVP_JSON_ARRAY)
            return bmvp_error_set(err, BMVP_E_FORMAT, "%s: \"%s\" must be an array", l->d->path, array[a].key);
        for (entry = entry->first; entry && !st; entry = entry->next) {
            const int64_t n = l->d->n;
            st = their_case(l, entry, array[a].key, filled > 1 ? array[a].part : PART_NONE, &e);
            st = or_leave_out(l, st, n, &e, err);
        }
    }
    return st;
}

/* Cases of "test" whose files are not there: the decathlon's lists name them whether they were downloaded or not. */
static void drop_absent_tests(dataset *d)
{
    int64_t i;
    int m;
    for (i = d->n - 1; i >= 0; --i) {
        data_case *k = &d->item[i];
        for (m = 0; m < BMVP_MODALITIES && (!k->image[m] || file_exists(k->image[m])); ++m) { }
        if (k->part == PART_TEST && m < BMVP_MODALITIES) dataset_drop(d, i, "of \"test\", and its files are not there");
    }
}

/* >>a list --------------------------------------------------------------------------------------------------------- */

static bmvp_status class_names(dataset *d, const bmvp_json *names, bmvp_error *err)
{
    const bmvp_json *m;
    const int n = names ? (int)bmvp_json_count(names) : 0;
    if (n == 0) return BMVP_OK;
    d->class_name = (char **)calloc((size_t)n, sizeof *d->class_name);
    if (!d->class_name) return bmvp_error_set(err, BMVP_E_OOM, "out of memory");
    for (m = names->first; m && d->n_class_names < n; m = m->next) {
        d->class_name[d->n_class_names] = text_copy(bmvp_json_string(m, ""));
        if (!d->class_name[d->n_class_names]) return bmvp_error_set(err, BMVP_E_OOM, "out of memory");
        ++d->n_class_names;
    }
    return BMVP_OK;
}

static int is_array(const bmvp_json *root, const char *key)
{
    const bmvp_json *m = bmvp_json_get(root, key);
    return m && m->type == BMVP_JSON_ARRAY;
}

static bmvp_status load_cases(list *l, const bmvp_json *root, bmvp_error *err)
{
    const bmvp_json *k, *channels = bmvp_json_get(root, "channel_names");
    const int whole = root->type == BMVP_JSON_ARRAY; /* the entries and nothing else */
    const int theirs = is_array(root, "training") || is_array(root, "validation") || is_array(root, "test") ||
                       is_array(root, "testing") || is_array(root, "train") || is_array(root, "val") ||
                       is_array(root, "valid") || is_array(root, "dev");
    bmvp_status st = BMVP_OK;
    bmvp_error e;
    l->channels = channels ? channels : bmvp_json_get(root, "modality");
    l->n_channels = l->channels && l->channels->type == BMVP_JSON_OBJECT ? (int)bmvp_json_count(l->channels) : 0;
    l->d->layout = "list";
    if (is_array(root, "cases") && theirs)
        st = bmvp_error_set(err, BMVP_E_FORMAT,
                            "%s: has \"cases\" (ours) and arrays as \"training\" or \"test\" (the decathlon's): put "
                            "all into \"cases\", each with its \"part\"",
                            l->d->path);
    else if (whole || is_array(root, "cases")) {
        for (k = whole ? root->first : bmvp_json_get(root, "cases")->first; k && !st; k = k->next) {
            const int64_t n = l->d->n;
            st = !whole || bmvp_json_get(k, "images") ? our_case(l, k, &e) : their_case(l, k, "list", PART_NONE, &e);
            st = or_leave_out(l, st, n, &e, err);
        }
    } else if (theirs) {
        st = their_lists(l, root, err);
        if (!st) drop_absent_tests(l->d);
    } else if (bmvp_json_get(root, "dataset") && bmvp_json_get(root, "dataset")->type == BMVP_JSON_OBJECT) {
        for (k = bmvp_json_get(root, "dataset")->first; k && !st; k = k->next) st = listed_case(l, k, err);
    } else if (l->n_channels > 0) st = layout_nnunet(l->d, l->dir, root, l->rules, err);
    else
        st = bmvp_error_set(err, BMVP_E_FORMAT,
                            "%s: not a data list: it needs an array \"cases\" (ours) or \"training\" (decathlon), or "
                            "\"channel_names\" (nnU-Net)",
                            l->d->path);
    return st;
}

/* nnU-Net's splits_final.json beside the list */
static bmvp_status folds_beside(dataset *d, bmvp_error *err)
{
    char *dir = folder_of(d->path);
    const bmvp_status st = dir ? folds_of_folder(d, dir, err) : bmvp_error_set(err, BMVP_E_OOM, "out of memory");
    free(dir);
    return st;
}

bmvp_status list_load(dataset *d, const dataset_options *o, const role_rules *rules, bmvp_error *err)
{
    char *dir = o->root ? path_join(o->root, "") : folder_of(d->path);
    bmvp_json_doc *doc = NULL;
    bmvp_status st = dir ? bmvp_json_read(d->path, NULL, &doc, err) : bmvp_error_set(err, BMVP_E_OOM, "out of memory");
    const bmvp_json *root = st ? NULL : bmvp_json_root(doc), *labels = bmvp_json_get(root, "labels");
    list l;
    memset(&l, 0, sizeof l);
    l.d = d;
    l.dir = dir;
    l.rules = rules;
    if (!st)
        st = class_names(d, bmvp_json_get(root, bmvp_json_get(root, "class_names") ? "class_names" : "classes"), err);
    if (!st) st = load_cases(&l, root, err);
    if (!st) note_keys(&l, root);
    if (!st) st = folds_beside(d, err);
    if (!st && labels) {
        d->has_labels = 1;
        st = labels_parse(labels, bmvp_json_string(bmvp_json_get(root, "labels_kind"), NULL), d->path, &d->labels,
                          err);
    }
    if (!st && d->labels.ignore)
        dataset_note(d, NULL, "ignore", "voxels of value %d are no class: losses and figures do not see them",
                     d->labels.ignore);
    bmvp_json_free(doc);
    free(dir);
    return st;
}
