/* prepare.c - `bmvp prepare`: method section 3, from images as they are to int16 .nii files in [0, 1] that any viewer
   opens */
#define _DEFAULT_SOURCE
#include "commands.h"
#include "cli.h"
#include "data_options.h"
#include "data/alignment.h"
#include "data/atlas.h"
#include "data/files.h"
#include "data/ledger.h"
#include "data/preparation.h"
#include "data/prepared.h"
#include "report/qc_report.h"
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef struct job {
    dataset in, out;
    bmvp_preparation how;
    atlas head; /* of --template */
    int keep_doubtful, qc, strict; /* strict: a case that is left out is a failure */
    const bmvp_labels *labels; /* what values label maps may hold; NULL: not checked */
    const char *dir, *data;
    ledger was, now;     /* which files the cases of the folder were made from, and are to be made from */
    char *done;          /* for each case: 1 written or already there */
    int64_t n_done, n_failed, n_kept, n_lost; /* lost: failed, through no fault of the case */
    bmvp_nii_pool *pool; /* one for each worker */
    pthread_mutex_t lock;
    cli_progress progress;
} job;

/* Path of one output file, made in the case's folder. */
static char *output_path(const job *j, const char *id, const char *name)
{
    char *dir = path_join(j->dir, id), *path = NULL, file[64];
    snprintf(file, sizeof file, "%s.nii", name);
    if (dir) path = path_join(dir, file);
    free(dir);
    return path;
}

static int already_there(const job *j, const data_case *k)
{
    int m, all = 1;
    char *path;
    for (m = 0; m < BMVP_MODALITIES && all; ++m) {
        if (!k->image[m]) continue;
        path = output_path(j, k->id, bmvp_modality_name(m));
        all = path && prepared_is_whole(path);
        free(path);
    }
    if (!k->label || !all) return all;
    path = output_path(j, k->id, "seg");
    all = path && prepared_is_whole(path);
    free(path);
    return all;
}

/* Finishes, writes and frees one image or label: the next one gets its memory while that is still in the cache. */
static bmvp_status write_one(const job *j, const data_case *k, const char *name, bmvp_nii_volume *v, int is_label,
                             const bmvp_nii_options *io, bmvp_error *err)
{
    char *path;
    bmvp_nii_image image;
    bmvp_error e;
    bmvp_status st;
    bmvp_status done;
    if (!v->data) return BMVP_OK;
    done = prepare_finish(v, is_label, k, &j->how, err);
    if (done) return done;
    path = output_path(j, k->id, name);
    if (!path) return bmvp_error_set(err, BMVP_E_OOM, "out of memory");
    st = bmvp_nii_from_volume(&image, v, BMVP_NII_INT16, is_label ? 1 : 1.0 / 32767, 0, NULL, io, &e);
    bmvp_nii_volume_free(v);
    if (st == BMVP_OK) {
        bmvp_prepared_mark(image.descrip, &j->how);
        st = bmvp_nii_write(path, &image, NULL, &e);
        bmvp_nii_image_free(&image);
    }
    free(path);
    return st ? bmvp_error_set(err, st, "case '%s': %s", k->id, e.message) : BMVP_OK;
}

/* An image without content is a missing modality from here on. */
static void forget_blank(job *j, data_case *k, uint32_t blank)
{
    int m;
    for (m = 0; m < BMVP_MODALITIES; ++m) {
        if (!(blank >> m & 1u)) continue;
        pthread_mutex_lock(&j->lock);
        say(stderr, "\nbmvp prepare: case '%s': %s has one value everywhere: %s counts as missing\n", k->id,
                k->image[m], bmvp_modality_name(m));
        pthread_mutex_unlock(&j->lock);
        free(k->image[m]);
        k->image[m] = NULL;
    }
}

/* What of the label is not in the prepared one. */
static void say_label(job *j, const data_case *k, const bmvp_prepared_images *p)
{
    if (!p->label_cut && !p->label_lost) return;
    pthread_mutex_lock(&j->lock);
    if (p->label_cut)
        say(stderr,
                "\nbmvp prepare: case '%s': %s: %lld labelled voxels lie outside of the images' box and are cut\n",
                k->id, k->label, (long long)p->label_cut);
    if (p->label_lost)
        say(stderr, "\nbmvp prepare: case '%s': %s: value %d has no voxel left after resampling and cropping\n",
                k->id, k->label, p->label_lost);
    pthread_mutex_unlock(&j->lock);
}

static bmvp_status say_alignment(job *j, const data_case *k, const char *dir, const bmvp_prepared_images *p,
                                 bmvp_error *err)
{
    pthread_mutex_lock(&j->lock);
    alignment_say(k->id, p, &j->how);
    pthread_mutex_unlock(&j->lock);
    return alignment_write(dir, p, &j->how, err);
}

/* brain_mask.nii.gz of a case that was stripped, on the grid of its images. */
static bmvp_status write_mask(const job *j, const data_case *k, const char *dir, bmvp_nii_volume *brain,
                              bmvp_error *err)
{
    char *path;
    bmvp_error e;
    bmvp_status st;
    if (!brain->data) return BMVP_OK;
    st = prepare_finish(brain, 1, k, &j->how, err);
    path = st ? NULL : path_join(dir, "brain_mask.nii.gz");
    if (!st && !path) st = bmvp_error_set(err, BMVP_E_OOM, "out of memory");
    if (!st && bmvp_nii_write_volume(path, brain, BMVP_NII_UINT8, 1, 0, NULL, NULL, &e))
        st = bmvp_error_set(err, e.status, "case '%s': %s", k->id, e.message);
    bmvp_nii_volume_free(brain);
    free(path);
    return st;
}

/* *lost 1: it is no fault of the case, but of memory or of the disk that is written to. */
static bmvp_status prepare_and_write(job *j, data_case *k, const bmvp_nii_options *io, int *lost, bmvp_error *err)
{
    char *dir = path_join(j->dir, k->id);
    bmvp_prepared_images p;
    bmvp_status st = prepare_gather(&p, k, &j->how, j->labels, &j->head.is, j->keep_doubtful, io, err);
    const int gathered = st == BMVP_OK;
    int m;
    forget_blank(j, k, p.blank);
    if (!st) say_label(j, k, &p);
    if (!st && (!dir || make_dir(dir) != 0))
        st = bmvp_error_set(err, BMVP_E_IO, "case '%s': folder %s: %s", k->id, dir ? dir : "?", strerror(errno));
    if (!st && (j->how.align || j->how.atlas[0])) st = say_alignment(j, k, dir, &p, err);
    if (!st) st = write_mask(j, k, dir, &p.brain, err);
    free(dir);
    for (m = 0; m < BMVP_MODALITIES && !st; ++m) st = write_one(j, k, bmvp_modality_name(m), &p.image[m], 0, io, err);
    if (!st) st = write_one(j, k, "seg", &p.label, 1, io, err);
    bmvp_prepared_images_free(&p);
    *lost = st == BMVP_E_OOM || (gathered && st == BMVP_E_IO);
    return st;
}

static void prepare_task(void *arg, int64_t i, int worker)
{
    job *j = (job *)arg;
    data_case *k = &j->in.item[i];
    const int kept = already_there(j, k);
    int lost = 0;
    bmvp_status st = BMVP_OK;
    bmvp_nii_options io;
    bmvp_error err;
    double seconds, left;
    memset(&io, 0, sizeof io);
    io.allocator = bmvp_nii_pool_allocator(&j->pool[worker]);
    if (!kept) st = prepare_and_write(j, k, &io, &lost, &err);
    pthread_mutex_lock(&j->lock);
    j->done[i] = st == BMVP_OK;
    j->n_kept += kept;
    ++j->n_done;
    if (st) {
        ++j->n_failed;
        j->n_lost += lost;
        say(stderr, "\nbmvp prepare: left out: %s\n", err.message);
    }
    seconds = cli_elapsed(&j->progress);
    left = j->n_done > j->n_kept ? seconds / (double)(j->n_done - j->n_kept) * (double)(j->in.n - j->n_done) : 0;
    cli_status(&j->progress, j->n_done == j->in.n, "%lld of %lld cases  %lld left out  %.0f s, %.0f s left",
               (long long)j->n_done, (long long)j->in.n, (long long)j->n_failed, seconds, left);
    pthread_mutex_unlock(&j->lock);
}

/* OUT/prepare.json holds the settings: files made with others are not mixed in. */
static bmvp_status check_settings(const job *j, bmvp_error *err)
{
    char *path = path_join(j->dir, "prepare.json");
    const int there = path && file_exists(path);
    bmvp_status st;
    bmvp_bytes text;
    bmvp_jw w;
    bmvp_jw_init(&w, 1, NULL);
    bmvp_bytes_init(&text, NULL);
    bmvp_preparation_write(&w, NULL, &j->how);
    st = path ? bmvp_jw_finish(&w, err) : bmvp_error_set(err, BMVP_E_OOM, "out of memory");
    if (!st && there) st = bmvp_file_read(path, (size_t)1 << 20, &text, err);
    if (!st && there && strcmp(text.data ? text.data : "", w.out.data) != 0)
        st = bmvp_error_set(err, BMVP_E_ARG,
                            "%s: the files there were prepared with other settings; choose another --out or remove it",
                            path);
    else if (!st && !there) st = bmvp_file_write(path, w.out.data, w.out.len, NULL, err);
    bmvp_bytes_free(&text);
    free(path);
    bmvp_jw_free(&w);
    return st;
}

/* >>the folder ----------------------------------------------------------------------------------------------------- */

static void read_sources_task(void *arg, int64_t i, int worker)
{
    job *j = (job *)arg;
    (void)worker;
    ledger_read_case(&j->now, &j->in, i);
}

/* A dataset.json or sources.json that prepare did not write is not overwritten. */
static bmvp_status check_foreign(const job *j, bmvp_error *err)
{
    static const char *const ours[2] = { "dataset.json", "sources.json" };
    char *settings = path_join(j->dir, "prepare.json");
    bmvp_status st = settings ? BMVP_OK : bmvp_error_set(err, BMVP_E_OOM, "out of memory");
    int i;
    for (i = 0; i < 2 && !st && !file_exists(settings); ++i) {
        char *path = path_join(j->dir, ours[i]);
        if (!path) st = bmvp_error_set(err, BMVP_E_OOM, "out of memory");
        else if (file_exists(path))
            st = bmvp_error_set(
                err, BMVP_E_ARG,
                "%s: `bmvp prepare` has not written this file, and would overwrite it; choose another --out", path);
        free(path);
    }
    free(settings);
    return st;
}

/* The folder's cases come from other data: fine where these are the same files in another place, and all of them. */
static bmvp_status check_data(const job *j, bmvp_error *err)
{
    int64_t i;
    if (!j->was.data || strcmp(j->was.data, j->now.data) == 0) return BMVP_OK;
    for (i = 0; i < j->was.n; ++i) {
        const ledger_entry *now = ledger_find(&j->now, j->was.item[i].id);
        if (now && ledger_same(&j->was.item[i], now)) continue;
        return bmvp_error_set(err, BMVP_E_ARG,
                              "--out %s holds cases of another data set, %s (case '%s'); choose another --out for %s",
                              j->dir, j->was.data, j->was.item[i].id, j->now.data);
    }
    return BMVP_OK;
}

/* What a case's images are read from are its prepared files themselves: --out is the folder of the data. */
static int is_its_own(const job *j, const data_case *k)
{
    char *dir = path_join(j->dir, k->id);
    int m, own = dir != NULL;
    for (m = 0; m < BMVP_MODALITIES && own; ++m)
        own = !k->image[m] || (strncmp(k->image[m], dir, strlen(dir)) == 0 && already_there(j, k));
    free(dir);
    return own;
}

/* Prepared files of cases whose sources are others now go, so that they are made again. */
static void remove_stale(job *j)
{
    int64_t i;
    int m;
    for (i = 0; i < j->in.n; ++i) {
        const data_case *k = &j->in.item[i];
        ledger_entry *was = ledger_find(&j->was, k->id), own;
        const char *why;
        if (!was || ledger_same(was, &j->now.item[i])) continue;
        if (is_its_own(j, k)) { /* what it was made from stays known */
            own = *was;
            *was = j->now.item[i];
            j->now.item[i] = own;
            continue;
        }
        why = ledger_same_files(was, &j->now.item[i]) ? "the list says something else of its volumes or label values"
                                                      : "its files have changed";
        say(stderr, "bmvp prepare: case '%s' is made again: %s\n", k->id, why);
        for (m = 0; m <= BMVP_MODALITIES; ++m) {
            char *path = output_path(j, k->id, m < BMVP_MODALITIES ? bmvp_modality_name(m) : "seg");
            if (path) (void)unlink(path);
            free(path);
        }
    }
    for (i = 0; i < j->was.n; ++i)
        if (!ledger_find(&j->now, j->was.item[i].id))
            fprintf(stderr,
                    "bmvp prepare: case '%s' was prepared before and is not in the data any more: it leaves the list\n",
                    j->was.item[i].id);
}

/* What a killed process left half written */
static void clear_unfinished(const job *j)
{
    static const char *const lists[] = { "dataset.json", "prepare.json", "sources.json", NULL };
    static const char *const images[] = { "flair.nii", "t1.nii",  "t1c.nii", "t2.nii",  "mra.nii",
                                          "pd.nii",    "dwi.nii", "adc.nii", "seg.nii", "transforms.json",
                                          NULL };
    int64_t i;
    folder_clear(j->dir, lists);
    for (i = 0; i < j->in.n; ++i) {
        char *dir = path_join(j->dir, j->in.item[i].id);
        if (dir) folder_clear(dir, images);
        free(dir);
    }
}

/* Before anything is written: the folder is ours, nobody else writes there, and what is in it is of these data and
   settings. */
static bmvp_status open_folder(job *j, bmvp_ctx *c, bmvp_error *err)
{
    bmvp_status st = folder_take(j->dir, err);
    if (!st) st = check_foreign(j, err);
    if (!st) st = ledger_load(&j->was, j->dir, "sources.json", err);
    if (!st) st = ledger_begin(&j->now, &j->in, j->data, err);
    if (!st) bmvp_parallel(c, j->in.n, read_sources_task, j);
    if (!st) st = check_data(j, err);
    if (!st) st = check_settings(j, err);
    if (!st) clear_unfinished(j);
    if (!st) remove_stale(j);
    return st ? st : ledger_save(&j->now, j->dir, "sources.json", err);
}

/* The list of what is there, with the paths of the prepared files. */
static bmvp_status list_done(job *j, bmvp_error *err)
{
    char *path;
    bmvp_status st;
    int64_t i;
    int m;
    for (i = 0; i < j->in.n; ++i) {
        const data_case *from = &j->in.item[i];
        data_case *to;
        int lost = 0;
        if (!j->done[i]) continue;
        to = dataset_add(&j->out, from->id);
        if (!to) return bmvp_error_set(err, BMVP_E_OOM, "out of memory");
        for (m = 0; m < BMVP_MODALITIES; ++m)
            if (from->image[m]) to->image[m] = output_path(j, from->id, bmvp_modality_name(m)), lost |= !to->image[m];
        if (from->label) to->label = output_path(j, from->id, "seg"), lost |= !to->label;
        to->class_index = from->class_index;
        to->part = from->part;
        to->fold = from->fold;
        if (from->patient) to->patient = text_copy(from->patient), lost |= !to->patient;
        if (lost) return bmvp_error_set(err, BMVP_E_OOM, "out of memory: dataset.json is not written");
    }
    j->out.labels = j->in.labels;
    j->out.has_labels = j->in.has_labels;
    j->out.class_name = j->in.class_name;
    j->out.n_class_names = j->in.n_class_names;
    j->in.class_name = NULL;
    j->in.n_class_names = 0;
    path = path_join(j->dir, "dataset.json");
    st = path ? dataset_save(&j->out, path, err) : bmvp_error_set(err, BMVP_E_OOM, "out of memory");
    free(path);
    return st;
}

static int run(job *j, int64_t threads)
{
    bmvp_config k = bmvp_config_default();
    bmvp_error err;
    bmvp_ctx *c;
    int i;
    bmvp_status st;
    k.threads = (int)threads;
    c = bmvp_create(&k, &err);
    st = c ? open_folder(j, c, &err) : BMVP_E_OOM;
    j->done = (char *)calloc((size_t)j->in.n, 1);
    j->pool = c ? (bmvp_nii_pool *)calloc((size_t)bmvp_threads(c), sizeof *j->pool) : NULL;
    if (!st && (!c || !j->done || !j->pool)) st = bmvp_error_set(&err, BMVP_E_OOM, "out of memory");
    if (!st) {
        pthread_mutex_init(&j->lock, NULL);
        (void)cli_elapsed(&j->progress);
        bmvp_parallel(c, j->in.n, prepare_task, j);
        pthread_mutex_destroy(&j->lock);
        st = list_done(j, &err);
        if (!st && j->qc && j->out.n > 0) st = qc_report(j->dir, &j->out, &j->in, &err);
    }
    for (i = 0; j->pool && i < bmvp_threads(c); ++i) bmvp_nii_pool_free(&j->pool[i]);
    free(j->pool);
    bmvp_destroy(c);
    ledger_free(&j->was);
    ledger_free(&j->now);
    if (st) return cli_fail(CLI_FAILED, "prepare", "%s", err.message);
    printf("%s/dataset.json: %lld cases (%lld new, %lld were there), %lld left out", j->dir, (long long)j->out.n,
           (long long)(j->out.n - j->n_kept), (long long)j->n_kept, (long long)(j->n_failed + j->in.n_dropped));
    if (j->in.n_unused > 0) printf("; %lld files or keys not used", (long long)j->in.n_unused);
    printf("\n");
    if (j->n_lost > 0)
        return cli_fail(CLI_FAILED, "prepare",
                        "%lld cases are missing for want of memory or of room to write; the same command makes them "
                        "and keeps the others",
                        (long long)j->n_lost);
    return j->out.n == 0 || (j->strict && j->n_failed + j->in.n_dropped) ? CLI_FAILED : CLI_DONE;
}

/* Values that do not go together. -1: all is well. */
static int check_values(job *j, const char *size, int dry)
{
    if (size && !cli_parse_size(size, j->how.resize))
        return cli_fail(CLI_USAGE, "prepare", "--resize %s: must be three whole numbers from 1 to 4096, as 128,128,64",
                        size);
    if (j->how.percentile_low >= j->how.percentile_high)
        return cli_fail(CLI_USAGE, "prepare", "--low %g must be below --high %g", j->how.percentile_low,
                        j->how.percentile_high);
    if (!j->dir && !dry)
        return cli_fail(CLI_USAGE, "prepare",
                        "--out is required (folder for the prepared cases and their dataset.json)");
    return -1;
}

/* The template, if there is one, then all cases; frees the data sets. */
static int with_template(job *j, const atlas_options *told, int64_t threads)
{
    bmvp_error err;
    int code;
    j->labels = j->in.has_labels ? &j->in.labels : NULL;
    if (told->file && atlas_load(&j->head, told->file, told->brain, &err)) {
        code = cli_fail(CLI_FAILED, "prepare", "%s", err.message);
    } else {
        snprintf(j->how.atlas, sizeof j->how.atlas, "%s", j->head.is.name);
        code = run(j, threads);
    }
    atlas_free(&j->head);
    free(j->done);
    dataset_free(&j->in);
    dataset_free(&j->out);
    return code;
}

static const char *const summary =
    "Reorient, resample, crop and scale cases for training. Run again, it does what is missing.";

int command_prepare(int argc, char **argv)
{
    const char *data, *dir, *size;
    dataset_options files;
    atlas_options told;
    int64_t threads;
    int preset, dry, align, reference, search, code;
    bmvp_error err;
    char references[72];
    job j;
    memset(&j, 0, sizeof j);
    role_modality_words(references + snprintf(references, sizeof references, "auto|"), sizeof references - 5, '|');
    {
        cli_option opt[] = {
            cli_required("data", &data, "LIST|DIR",
                         "a data set in any layout that is known, or a data list (ours, MONAI's, nnU-Net's)"),
            cli_string("out", &dir, NULL, "DIR", "folder for the prepared cases and their dataset.json (required)"),
            cli_flag("dry-run", &dry, "only print which files are what in which case; reads no volume"),
            DATA_OPTIONS(files),
            cli_choice("preset", &preset, 0, "paper|release|fast|finetune",
                       "percentiles 1-99 and foreground box; release: 5-95 and centred box; finetune: 5-95 and "
                       "foreground box"),
            cli_float("spacing", &j.how.spacing, 1, 0, 100, "voxel size in mm; 0 keeps that of each file"),
            cli_float("low", &j.how.percentile_low, 1, 0, 100, "percentile that becomes 0"),
            cli_float("high", &j.how.percentile_high, 99, 0, 100, "percentile that becomes 1"),
            cli_string("resize", &size, NULL, "X,Y,Z", "then resize to so many voxels (classification: 128,128,64)"),
            REGISTER_OPTIONS("none|header|rigid", &align, &j.keep_doubtful),
            REFERENCE_OPTIONS(&reference, references, &search),
            ATLAS_OPTIONS(told),
            STRIP_OPTIONS(told, j.how),
            cli_flag("strict", &j.strict, "end with status 1 when a case is left out, not only when all are"),
            cli_flag("qc", &j.qc,
                     "OUT/qc.html: the cases, doubtful ones first, with edges of the reference and outlines of masks"),
            cli_int("threads", &threads, 0, 0, 1024, "0: one for each processor"),
        };
        const int n = (int)(sizeof opt / sizeof *opt);
        code = cli_parse("prepare", summary, opt, n, argc, argv);
        if (code < 0) code = register_set(&j.how, align, reference, search);
        if (code < 0) code = atlas_options_set(&j.how, &told, opt, n);
        if (code >= 0) return code;
        j.how.centre_crop = preset == 1;
        if (preset % 2 == 1 && !cli_given(opt, n, "low")) j.how.percentile_low = 5; /* release and finetune */
        if (preset % 2 == 1 && !cli_given(opt, n, "high")) j.how.percentile_high = 95;
    }
    j.dir = dir, j.data = data;
    code = check_values(&j, size, dry);
    if (code >= 0) return code;
    if (data_load(&j.in, data, &files, "prepare", &err)) return cli_fail(CLI_FAILED, "prepare", "%s", err.message);
    if (dry) {
        data_print_table(&j.in);
        code = j.strict && j.in.n_dropped ? CLI_FAILED : CLI_DONE;
        dataset_free(&j.in);
        return code;
    }
    return with_template(&j, &told, threads);
}
