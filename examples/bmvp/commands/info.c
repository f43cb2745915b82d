/* info.c - `bmvp info`: what is in a volume, a checkpoint or a data list; the content tells which */
#define _DEFAULT_SOURCE
#include "commands.h"
#include "cli.h"
#include "data_options.h"
#include "data/dataset.h"
#include "data/files.h"
#include "info_volume.h"
#include "bmvp_nifti.h"
#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* Everything is first written as JSON; the readable form prints that tree. */

static void describe_tensors(bmvp_jw *w, const bmvp_ckpt *f)
{
    int i, a;
    bmvp_jw_array(w, "tensors");
    for (i = 0; i < f->n_entries; ++i) {
        bmvp_jw_object(w, NULL);
        bmvp_jw_string(w, "group", f->entry[i].group);
        bmvp_jw_string(w, "name", f->entry[i].name);
        bmvp_jw_string(w, "dtype", bmvp_dtype_name(f->entry[i].dtype));
        bmvp_jw_array(w, "shape");
        for (a = 0; a < f->entry[i].rank; ++a) bmvp_jw_int(w, NULL, f->entry[i].dim[a]);
        bmvp_jw_end(w);
        bmvp_jw_end(w);
    }
    bmvp_jw_end(w);
}

/* How many numbers each part has: what stands before the first dot of the network's names, and each other group. */
static void describe_sizes(bmvp_jw *w, const bmvp_ckpt *f)
{
    char part[128], last[128] = "";
    int64_t sum = 0, n;
    int i, a;
    bmvp_jw_object(w, "numbers_by_part");
    for (i = 0; i <= f->n_entries; ++i) {
        const bmvp_ckpt_entry *e = i < f->n_entries ? &f->entry[i] : NULL;
        const int own = e && (!e->group[0] || strcmp(e->group, "state_dict") == 0);
        if (e) snprintf(part, sizeof part, "%s", own ? e->name : e->group);
        if (own) part[strcspn(part, ".")] = 0;
        if ((!e || strcmp(part, last) != 0) && last[0]) {
            bmvp_jw_int(w, last, sum);
            sum = 0;
        }
        if (!e) break;
        snprintf(last, sizeof last, "%s", part);
        for (a = 0, n = 1; a < e->rank; ++a) n *= e->dim[a];
        sum += n;
    }
    bmvp_jw_end(w);
}

static void describe_fine_tuned(bmvp_jw *w, const bmvp_ft_info *k)
{
    int i;
    bmvp_net_config_write(w, "network", &k->net);
    bmvp_jw_array(w, "modalities");
    for (i = 0; i < k->n_modalities; ++i) bmvp_jw_string(w, NULL, k->names[i]);
    bmvp_jw_end(w);
    if (k->labels.n) bmvp_labels_write(w, "labels", &k->labels);
    bmvp_jw_string(w, "missing_filled_by", k->cfg.fill == 0 && k->grid[0] > 0 ? "template" : "zero");
    bmvp_jw_array(w, "window");
    bmvp_jw_int(w, NULL, k->cfg.crop_x);
    bmvp_jw_int(w, NULL, k->cfg.crop_y);
    bmvp_jw_int(w, NULL, k->cfg.crop_z);
    bmvp_jw_end(w);
    bmvp_jw_int(w, "step", k->step);
    bmvp_jw_double(w, "best", k->best);
    bmvp_jw_string(w, "preset", k->cfg.preset);
}

static int depth_of(const bmvp_json *n)
{
    const bmvp_json *m;
    int d, most = 0;
    for (m = n->first; m; m = m->next)
        if ((d = depth_of(m)) > most) most = d;
    return most + 1;
}

/* A value of one JSON document into another */
static void copy_node(bmvp_jw *w, const char *key, const bmvp_json *n)
{
    const bmvp_json *m;
    switch (n->type) {
    case BMVP_JSON_OBJECT:
    case BMVP_JSON_ARRAY:
        if (n->type == BMVP_JSON_OBJECT) bmvp_jw_object(w, key);
        else bmvp_jw_array(w, key);
        for (m = n->first; m; m = m->next) copy_node(w, n->type == BMVP_JSON_OBJECT ? m->key : NULL, m);
        bmvp_jw_end(w);
        break;
    case BMVP_JSON_STRING: bmvp_jw_string(w, key, n->str); break;
    case BMVP_JSON_BOOL: bmvp_jw_bool(w, key, n->i != 0); break;
    case BMVP_JSON_NUMBER:
        if (n->is_int) bmvp_jw_int(w, key, n->i);
        else bmvp_jw_double(w, key, n->d);
        break;
    default: bmvp_jw_null(w, key);
    }
}

/* What is kept with the weights; objects as such, of a run its method and settings. */
static void describe_metadata(bmvp_jw *w, const bmvp_ckpt *f)
{
    int i;
    bmvp_jw_object(w, "metadata");
    for (i = 0; i < f->n_meta; ++i) {
        const bmvp_ckpt_meta *m = &f->meta[i];
        const int run = strcmp(m->name, "run") == 0;
        const bmvp_json *root, *v;
        bmvp_json_doc *doc = NULL;
        if (m->group[0]) continue;
        if (m->value[0] != '{' || bmvp_json_parse(m->value, strlen(m->value), m->name, NULL, &doc, NULL) ||
            depth_of(bmvp_json_root(doc)) > BMVP_JSON_MAX_DEPTH / 2) { /* of another program */
            bmvp_jw_string(w, m->name, m->value);
            bmvp_json_free(doc);
            continue;
        }
        root = bmvp_json_root(doc);
        if (!run) copy_node(w, m->name, root);
        if (run && (v = bmvp_json_get(root, "method")) != NULL) copy_node(w, "method", v);
        if (run && (v = bmvp_json_get(root, "config")) != NULL) copy_node(w, "settings", v);
        bmvp_json_free(doc);
    }
    bmvp_jw_end(w);
}

static void describe_checkpoint(bmvp_jw *w, const bmvp_ckpt *f)
{
    bmvp_ssl_info info;
    bmvp_ft_info fine;
    int64_t bytes = 0;
    int known, tuned, i;
    for (i = 0; i < f->n_entries; ++i) bytes += f->entry[i].bytes;
    bmvp_jw_string(w, "kind", "checkpoint");
    bmvp_jw_string(w, "path", f->path);
    bmvp_jw_string(w, "format", f->format == BMVP_CKPT_PT ? "PyTorch" : "safetensors");
    bmvp_jw_int(w, "bytes", bytes);
    tuned = bmvp_ft_inspect(f->path, &fine, NULL) == BMVP_OK;
    if (tuned) describe_fine_tuned(w, &fine);
    known = !tuned && bmvp_ssl_inspect(f->path, &info, NULL) == BMVP_OK;
    if (known) bmvp_net_config_write(w, "network", &info.net);
    if (known && info.net.task == BMVP_TASK_PRETRAIN) {
        bmvp_jw_array(w, "templates");
        for (i = 0; i < info.n_modalities; ++i) bmvp_jw_string(w, NULL, info.names[i]);
        bmvp_jw_end(w);
        bmvp_jw_int(w, "step", info.step);
        bmvp_jw_string(w, "preset", info.cfg.preset);
    }
    describe_metadata(w, f);
    describe_sizes(w, f);
    describe_tensors(w, f);
}

/* What the data set says of training and testing */
static void describe_parts(bmvp_jw *w, const dataset *d)
{
    int64_t count[4] = { 0, 0, 0, 0 }, folds = 0, i;
    int p;
    for (i = 0; i < d->n; ++i) {
        ++count[d->item[i].part];
        folds = d->item[i].fold >= folds ? d->item[i].fold + 1 : folds;
    }
    if (count[PART_NONE] < d->n) bmvp_jw_object(w, "parts");
    for (p = PART_TRAIN; p <= PART_TEST; ++p)
        if (count[p]) bmvp_jw_int(w, data_part_name[p], count[p]);
    if (count[PART_NONE] < d->n) bmvp_jw_end(w);
    if (folds) bmvp_jw_int(w, "folds", folds);
}

/* One line a case: the grid of its first image, what there is of it */
static void describe_cases(bmvp_jw *w, const dataset *d)
{
    bmvp_nii_image image;
    bmvp_error err;
    int64_t i;
    int m, a;
    bmvp_jw_array(w, "case_list");
    for (i = 0; i < d->n; ++i) {
        const data_case *k = &d->item[i];
        for (m = 0; m < BMVP_MODALITIES && !k->image[m];) ++m;
        bmvp_jw_object(w, NULL);
        bmvp_jw_string(w, "id", k->id);
        if (m < BMVP_MODALITIES && bmvp_nii_read_header(&image, k->image[m], NULL, &err) == BMVP_OK) {
            bmvp_jw_array(w, "dim");
            for (a = 0; a < image.ndim; ++a) bmvp_jw_int(w, NULL, image.dim[a]);
            bmvp_jw_end(w);
            bmvp_jw_array(w, "mm");
            for (a = 1; a <= 3; ++a) bmvp_jw_double(w, NULL, image.pixdim[a]);
            bmvp_jw_end(w);
            bmvp_nii_image_free(&image);
        } else if (m < BMVP_MODALITIES) bmvp_jw_string(w, "unreadable", err.message);
        bmvp_jw_array(w, "images");
        for (m = 0; m < BMVP_MODALITIES; ++m)
            if (k->image[m]) bmvp_jw_string(w, NULL, bmvp_modality_name(m));
        bmvp_jw_end(w);
        bmvp_jw_bool(w, "label", k->label != NULL);
        if (k->class_index >= 0) bmvp_jw_int(w, "class", k->class_index);
        if (k->patient) bmvp_jw_string(w, "patient", k->patient);
        if (k->part != PART_NONE) bmvp_jw_string(w, "part", data_part_name[k->part]);
        bmvp_jw_end(w);
    }
    bmvp_jw_end(w);
}

static void describe_dataset(bmvp_jw *w, const dataset *d)
{
    int64_t count[BMVP_MODALITIES] = { 0 }, labels = 0, classes = 0, complete = 0, i;
    int m;
    for (i = 0; i < d->n; ++i) {
        uint32_t have = 0;
        for (m = 0; m < BMVP_MODALITIES; ++m)
            if (d->item[i].image[m]) ++count[m], have |= 1u << m;
        complete += have == d->modalities;
        labels += d->item[i].label != NULL;
        classes += d->item[i].class_index >= 0;
    }
    bmvp_jw_string(w, "kind", "dataset");
    bmvp_jw_string(w, "path", d->path);
    bmvp_jw_string(w, "layout", d->layout);
    bmvp_jw_int(w, "cases", d->n);
    bmvp_jw_int(w, "complete_cases", complete);
    bmvp_jw_int(w, "labelled_cases", labels);
    bmvp_jw_int(w, "classified_cases", classes);
    bmvp_jw_object(w, "modalities");
    for (m = 0; m < BMVP_MODALITIES; ++m)
        if (count[m]) bmvp_jw_int(w, bmvp_modality_name(m), count[m]);
    bmvp_jw_end(w);
    describe_parts(w, d);
    describe_cases(w, d);
}

/* "key  value" lines; lists of plain values on one line; a tensor on one line */
static void print_node(const bmvp_json *n, int depth);

static void print_text(const char *text, int width)
{
    char *shown = text_copy(text);
    (void)text_clean(shown, '?');
    printf("%-*s", width, shown ? shown : "");
    free(shown);
}

static void print_value(const bmvp_json *n)
{
    const bmvp_json *m;
    if (n->type == BMVP_JSON_STRING) print_text(n->str, 0);
    else if (n->type == BMVP_JSON_BOOL) printf("%s", n->i ? "yes" : "no");
    else if (n->type == BMVP_JSON_NUMBER && n->is_int) printf("%lld", (long long)n->i);
    else if (n->type == BMVP_JSON_NUMBER) printf("%.6g", n->d);
    for (m = n->type == BMVP_JSON_ARRAY ? n->first : NULL; m; m = m->next) {
        print_value(m);
        if (m->next) printf(" ");
    }
}

static void print_tensor(const bmvp_json *t)
{
    const char *group = bmvp_json_string(bmvp_json_get(t, "group"), "");
    printf("  ");
    print_text(group, 0);
    if (group[0]) printf(".");
    print_text(bmvp_json_string(bmvp_json_get(t, "name"), ""), 0);
    printf("  (");
    print_value(bmvp_json_get(t, "shape"));
    printf(")  %s\n", bmvp_json_string(bmvp_json_get(t, "dtype"), ""));
}

/* a  160x192x160  1 1 1 mm  flair t1 label  class 2  patient p  part train */
static void print_case(const bmvp_json *k)
{
    const bmvp_json *m;
    printf("  ");
    print_text(bmvp_json_string(bmvp_json_get(k, "id"), ""), 0);
    printf(" ");
    for (m = k->first ? k->first->next : NULL; m; m = m->next) {
        const bmvp_json *v;
        if (strcmp(m->key, "dim") == 0) {
            for (v = m->first; v; v = v->next) printf("%s%lld", v == m->first ? " " : "x", (long long)v->i);
        } else if (strcmp(m->key, "mm") == 0) {
            printf("  ");
            print_value(m);
            printf(" mm ");
        } else if (strcmp(m->key, "label") == 0) printf("%s", m->i ? " label" : "");
        else {
            printf(strcmp(m->key, "images") == 0 ? " " : "  %s ", m->key);
            print_value(m);
        }
    }
    printf("\n");
}

static void print_node(const bmvp_json *n, int depth)
{
    const bmvp_json *m, *t;
    for (m = n->first; m; m = m->next) {
        printf("%*s", 2 * depth, "");
        print_text(m->key, 16);
        printf(" ");
        if (m->type == BMVP_JSON_OBJECT) {
            printf("\n");
            print_node(m, depth + 1);
        } else if (strcmp(m->key, "tensors") == 0 || strcmp(m->key, "case_list") == 0) {
            printf("%lld\n", (long long)m->i);
            for (t = m->first; t; t = t->next) (m->key[0] == 't' ? print_tensor : print_case)(t);
        } else {
            print_value(m);
            printf("\n");
        }
    }
}

/* The first bytes tell what to try: a checkpoint (zip, a pickle, or a safetensors header's length and brace; the length
   may look like a brace, but JSON text has no zero bytes), a list (JSON text), else a volume. */
static bmvp_status describe(bmvp_jw *w, const char *path, const dataset_options *o, bmvp_error *err)
{
    unsigned char head[16] = { 0 };
    struct stat s;
    dataset d;
    bmvp_nii_image image;
    bmvp_ckpt *f = NULL;
    bmvp_status st;
    FILE *file;
    size_t i = 0;
    if (stat(path, &s) != 0) return bmvp_error_set(err, BMVP_E_IO, "%s: %s", path, strerror(errno));
    if (S_ISREG(s.st_mode)) {
        file = fopen(path, "rb");
        if (!file) return bmvp_error_set(err, BMVP_E_IO, "%s: %s", path, strerror(errno));
        if (fread(head, 1, sizeof head, file) == 0) head[0] = 0;
        fclose(file);
        while (i < sizeof head && isspace(head[i])) ++i;
    }
    if (S_ISREG(s.st_mode) &&
        (memcmp(head, "PK\003\004", 4) == 0 || (head[0] == 0x80 && head[1] >= 2 && head[1] <= 5) ||
         (head[8] == '{' && head[6] == 0 && head[7] == 0))) {
        st = bmvp_ckpt_open(path, NULL, &f, err);
        if (!st) describe_checkpoint(w, f);
        bmvp_ckpt_close(f);
        return st;
    }
    if (S_ISDIR(s.st_mode) || (i < sizeof head && (head[i] == '{' || head[i] == '['))) {
        st = data_load(&d, path, o, "info", err);
        if (!st) describe_dataset(w, &d);
        if (!st) dataset_free(&d);
        return st;
    }
    if ((st = bmvp_nii_read_header(&image, path, NULL, err)) != BMVP_OK) return st;
    info_volume(w, path, &image);
    bmvp_nii_image_free(&image);
    return BMVP_OK;
}

int command_info(int argc, char **argv)
{
    const char *path;
    dataset_options files;
    int json;
    bmvp_json_doc *doc = NULL;
    bmvp_error err;
    bmvp_status st;
    bmvp_jw w;
    cli_option opt[] = {
        cli_positional("FILE", &path, 1,
                       "NIfTI volume, checkpoint (.safetensors, .pt), data list or directory of cases"),
        cli_flag("json", &json, "print JSON"),
        DATA_OPTIONS(files),
    };
    int code = cli_parse("info", "Say what is in a file.", opt, (int)(sizeof opt / sizeof *opt), argc, argv);
    if (code >= 0) return code;
    bmvp_jw_init(&w, 1, NULL);
    bmvp_jw_object(&w, NULL);
    st = describe(&w, path, &files, &err);
    bmvp_jw_end(&w);
    if (!st) st = bmvp_jw_finish(&w, &err);
    if (!st && json) fwrite(w.out.data, 1, w.out.len, stdout);
    else if (!st) {
        st = bmvp_json_parse(w.out.data, w.out.len, path, NULL, &doc, &err);
        if (!st) print_node(bmvp_json_root(doc), 0);
        bmvp_json_free(doc);
    }
    bmvp_jw_free(&w);
    return st ? cli_fail(CLI_FAILED, "info", "%s", err.message) : CLI_DONE;
}
