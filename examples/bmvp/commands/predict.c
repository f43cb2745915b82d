/* predict.c - `bmvp predict`: a fine-tuned network on new cases; label maps come back on the grid of the images as they
   were

   The library does the work (bmvp_ssl.h >>predict): here are the cases of a list, the files they become, and what is
   said of them. */
#define _DEFAULT_SOURCE
#include "commands.h"
#include "cli.h"
#include "data_options.h"
#include "device.h"
#include "run.h"
#include "weights.h"
#include "data/atlas.h"
#include "data/files.h"
#include "data/preparation.h"
#include "data/splits.h"
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef struct job {
    const char *out, *checkpoint;
    dataset_options files;
    uint32_t drop; /* known modalities to leave out */
    bmvp_predict_options how;
    atlas_options told;
    atlas head;
    bmvp_ctx *c;
    bmvp_predictor *predictor;
    weights_said *said; /* of weights of another program; NULL: the checkpoint says itself what it is */
    const cli_option *opt;
    int n_opt;
    bmvp_jw json; /* predictions.json */
    cli_progress progress;
    int64_t done, failed;
} job;

static const char mark[] = "bmvp predict"; /* descrip of bmvp_predict's maps: only such files are written over */

/* OUT/ID.nii.gz, or OUT/ID_REGION.nii.gz; malloc */
static char *map_path(const job *j, const char *id, const char *region)
{
    char name[400];
    snprintf(name, sizeof name, "%s%s%s.nii.gz", id, region ? "_" : "", region ? region : "");
    return path_join(j->out, name);
}

static bmvp_status write_map(const job *j, const char *id, const char *region, const bmvp_nii_image *map,
                             bmvp_error *err)
{
    char *path = map_path(j, id, region);
    bmvp_status st = path ? BMVP_OK : bmvp_error_set(err, BMVP_E_OOM, "out of memory");
    if (path) st = bmvp_nii_write(path, map, NULL, err);
    free(path);
    return st;
}

/* Name of output k of n: a region, or of classes the background first */
static const char *output_name(const job *j, int k)
{
    const bmvp_labels *l = &bmvp_predictor_info(j->predictor)->labels;
    return k < l->exclusive ? "background" : l->region[k - l->exclusive];
}

static bmvp_status write_maps(const job *j, const char *id, const bmvp_prediction *p, bmvp_error *err)
{
    bmvp_status st = write_map(j, id, NULL, &p->label, err);
    int k;
    for (k = 0; k < p->n && p->probability && !st; ++k)
        st = write_map(j, id, output_name(j, k), &p->probability[k], err);
    return st;
}

/* >>the folder ----------------------------------------------------------------------------------------------------- */

/* Is the file one that `bmvp predict` has written? listed: predictions.json says so (of versions without the mark). */
static int is_ours(const char *path, int listed)
{
    bmvp_nii_image header;
    int ours;
    if (listed) return 1;
    if (bmvp_nii_read_header(&header, path, NULL, NULL)) return 0;
    ours = strcmp(header.descrip, mark) == 0;
    bmvp_nii_image_free(&header);
    return ours;
}

typedef enum folder_pass { LOOK, CLEAR } folder_pass;

/* A map of an earlier run goes before the case is predicted again, so that it is not taken for this run's where that
   fails; a file of somebody else's that would be written over is an error. */
static bmvp_status clear_map(const job *j, const char *id, const char *region, int listed, folder_pass pass,
                             bmvp_error *err)
{
    char *path = map_path(j, id, region);
    bmvp_status st = path ? BMVP_OK : bmvp_error_set(err, BMVP_E_OOM, "out of memory");
    const int there = !st && file_exists(path), ours = there && is_ours(path, listed);
    if (ours && pass == CLEAR) (void)unlink(path);
    if (there && !ours && (!region || j->how.probabilities))
        st = bmvp_error_set(err, BMVP_E_ARG,
                            "%s: is there already, and `bmvp predict` has not written it; choose another --out", path);
    free(path);
    return st;
}

/* Is the case among those of an earlier predictions.json? */
static int is_listed(const bmvp_json *cases, const char *id)
{
    const bmvp_json *k = cases ? cases->first : NULL;
    while (k && strcmp(bmvp_json_string(bmvp_json_get(k, "id"), ""), id) != 0) k = k->next;
    return k != NULL;
}

/* Maps of an earlier run whose cases are not predicted now stay, and it is said. */
static void say_others(const job *j, const dataset *d, const int64_t *index, int64_t n, const bmvp_json *cases)
{
    const bmvp_json *k = cases ? cases->first : NULL;
    const char *first = NULL;
    int64_t others = 0, i;
    for (; k; k = k->next) {
        const char *id = bmvp_json_string(bmvp_json_get(k, "id"), "");
        for (i = 0; i < n && strcmp(d->item[index[i]].id, id) != 0; ++i) { }
        if (i < n) continue;
        if (others++ == 0) first = id;
    }
    if (others > 0)
        say(stderr,
            "bmvp predict: %s holds %lld predictions of an earlier run ('%s' ..), of cases that this one has not: they "
            "stay, and leave predictions.json\n",
            j->out, (long long)others, first);
}

static bmvp_status clear_maps(const job *j, const dataset *d, const int64_t *index, int64_t n, const bmvp_json *cases,
                              folder_pass pass, bmvp_error *err)
{
    const bmvp_ft_info *info = bmvp_predictor_info(j->predictor);
    const int outputs = info->labels.n ? info->labels.n + info->labels.exclusive : 0;
    bmvp_status st = BMVP_OK;
    int64_t i;
    int k;
    for (i = 0; i < n && !st && outputs; ++i) {
        const char *id = d->item[index[i]].id;
        const int listed = is_listed(cases, id);
        st = clear_map(j, id, NULL, listed, pass, err);
        for (k = 0; k < outputs && !st; ++k) st = clear_map(j, id, output_name(j, k), listed, pass, err);
    }
    return st;
}

/* Takes the folder. All of it is looked at before the first file goes. */
static bmvp_status open_out(const job *j, const dataset *d, const int64_t *index, int64_t n, bmvp_error *err)
{
    char *path = path_join(j->out, "predictions.json");
    bmvp_status st = path ? BMVP_OK : bmvp_error_set(err, BMVP_E_OOM, "out of memory");
    bmvp_json_doc *doc = NULL;
    const bmvp_json *cases;
    if (!st) st = run_open(j->out, 1, err);
    if (!st) st = file_may_replace(path, "checkpoint", err);
    if (!st && file_exists(path)) st = bmvp_json_read(path, NULL, &doc, err);
    cases = doc ? bmvp_json_get(bmvp_json_root(doc), "cases") : NULL;
    if (!st) st = clear_maps(j, d, index, n, cases, LOOK, err);
    if (!st) say_others(j, d, index, n, cases);
    if (!st) st = clear_maps(j, d, index, n, cases, CLEAR, err);
    if (!st) (void)unlink(path);
    bmvp_json_free(doc);
    free(path);
    return st;
}

/* >>a case --------------------------------------------------------------------------------------------------------- */

/* The modalities of a set, each with a blank before it. */
static const char *words(const job *j, uint32_t set, char text[160])
{
    const bmvp_ft_info *info = bmvp_predictor_info(j->predictor);
    int m;
    text[0] = 0;
    for (m = 0; m < info->n_modalities; ++m)
        if (set >> m & 1u) snprintf(text + strlen(text), 160 - strlen(text), " %s", info->names[m]);
    return text;
}

static const char *filled_by(const bmvp_prediction *p) { return p->fill == BMVP_FILL_ZERO ? "zero" : "template"; }

static void alignment_print(const bmvp_prediction *p)
{
    const char *by = p->aligned == BMVP_ALIGN_RIGID ? "registered" : "brought by headers alone";
    printf("  %s to %s", by, bmvp_modality_name(p->reference));
    if (p->loop > 0) printf(", loop %.2f mm", p->loop);
    if (p->loop > 1)
        fprintf(stderr,
                "bmvp predict: a loop error of %.1f mm: look whether the images of that case lie on each other\n",
                p->loop);
}

/* What is said of a case, on a line and in predictions.json. */
static void note_case(job *j, const char *id, const bmvp_prediction *p, double seconds)
{
    const bmvp_ft_info *info = bmvp_predictor_info(j->predictor);
    char name[400], text[160];
    int m;
    bmvp_jw_object(&j->json, NULL);
    bmvp_jw_string(&j->json, "id", id);
    bmvp_jw_array(&j->json, "modalities");
    for (m = 0; m < info->n_modalities; ++m)
        if (p->given >> m & 1u) bmvp_jw_string(&j->json, NULL, info->names[m]);
    bmvp_jw_end(&j->json);
    bmvp_jw_object(&j->json, "filled");
    for (m = 0; m < info->n_modalities; ++m)
        if (p->filled >> m & 1u) bmvp_jw_string(&j->json, info->names[m], filled_by(p));
    bmvp_jw_end(&j->json);
    bmvp_jw_float(&j->json, "seconds", (float)seconds);
    snprintf(name, sizeof name, "%s.nii.gz", id);
    if (!p->score) bmvp_jw_string(&j->json, "label", name);
    if (p->score) {
        bmvp_jw_array(&j->json, "probabilities");
        for (m = 0; m < p->n; ++m) bmvp_jw_float(&j->json, NULL, p->score[m]);
        bmvp_jw_end(&j->json);
        bmvp_jw_int(&j->json, "class", p->likeliest);
    }
    bmvp_jw_end(&j->json);
    if (p->score) printf("%s: class %d (%.3f)", id, p->likeliest, (double)p->score[p->likeliest]);
    else printf("%s: %.1f s", id, seconds);
    if (p->by_qform) printf("  by qform, the sform does not fit:%s;", words(j, p->by_qform, text));
    if (p->apart)
        printf("  by sform, the qform says a place %.1f mm away:%s;", p->forms_apart, words(j, p->apart, text));
    if (p->few) printf("  fewer than nine different values, a mask?:%s;", words(j, p->few, text));
    if (p->blank) printf("  blank:%s;", words(j, p->blank, text));
    if (p->filled) printf("  without%s: filled by %s", words(j, p->filled, text), filled_by(p));
    if (p->aligned) alignment_print(p);
    if (p->stripped) printf("  without head already");
    if (p->brain.litres > 0) printf("  brain of %.2f litres", p->brain.litres);
    printf("\n");
    fflush(stdout);
    atlas_warn(id, &p->brain);
}

static bmvp_status predict_case(job *j, const data_case *item, bmvp_error *err)
{
    const double began = cli_elapsed(&j->progress);
    bmvp_image image[BMVP_MODALITIES];
    bmvp_prediction p;
    bmvp_error e;
    bmvp_status st = bmvp_predict(j->predictor, image, case_images(item, image), &j->how, &p, &e);
    if (st) bmvp_error_set(err, st, "case '%s': %s", item->id, e.message);
    if (!st && !p.score) st = write_maps(j, item->id, &p, err);
    if (!st) note_case(j, item->id, &p, cli_elapsed(&j->progress) - began);
    bmvp_prediction_free(&p);
    return st;
}

/* Modalities of --drop are as if the case had none; its label is of no concern. */
static void forget(const job *j, data_case *item)
{
    int m;
    for (m = 0; m < BMVP_MODALITIES; ++m)
        if (j->drop >> m & 1u) {
            free(item->image[m]);
            item->image[m] = NULL;
        }
    free(item->label);
    item->label = NULL;
}

static bmvp_status predict_all(job *j, dataset *d, const char *split, const char *part, bmvp_error *err)
{
    int64_t *index = (int64_t *)malloc((size_t)d->n * sizeof *index + 1), n = 0, i;
    data_split s;
    bmvp_error e;
    bmvp_status st = index ? BMVP_OK : bmvp_error_set(err, BMVP_E_OOM, "out of memory");
    for (i = 0; i < d->n && !st && !split; ++i) index[n++] = i;
    if (!st && split) {
        st = split_load(&s, d, split, err);
        if (!st) st = split_select(&s, part, index, &n, err);
        split_free(&s);
    }
    if (!st && n == 0) st = bmvp_error_set(err, BMVP_E_ARG, "%s: part '%s' has no cases", split, part);
    if (!st) st = open_out(j, d, index, n, err); /* only now: what does not fit leaves no folder */
    for (i = 0; i < n && !st; ++i) {
        forget(j, &d->item[index[i]]);
        if (predict_case(j, &d->item[index[i]], &e) == BMVP_OK) {
            ++j->done;
            continue;
        }
        ++j->failed;
        say(stderr, "bmvp predict: left out: %s\n", e.message);
        if (bmvp_failed(j->c)) bmvp_clear_error(j->c);
    }
    free(index);
    return st;
}

/* >>the command ---------------------------------------------------------------------------------------------------- */

static bmvp_status write_list(job *j, bmvp_error *err)
{
    char *path = path_join(j->out, "predictions.json");
    bmvp_status st = path ? BMVP_OK : bmvp_error_set(err, BMVP_E_OOM, "out of memory");
    bmvp_jw_end(&j->json);
    bmvp_jw_end(&j->json);
    if (!st) st = bmvp_jw_finish(&j->json, err);
    if (!st) st = bmvp_file_write(path, j->json.out.data, j->json.out.len, NULL, err);
    free(path);
    return st;
}

/* The template that the cases of the checkpoint were prepared by. */
static bmvp_status open_atlas(job *j, bmvp_error *err)
{
    const bmvp_preparation *how = bmvp_predictor_preparation(j->predictor);
    bmvp_status st;
    if (!how->atlas[0] && (j->told.file || j->told.brain))
        return bmvp_error_set(err, BMVP_E_ARG, "--template: %s is of cases that were prepared without one",
                              j->checkpoint);
    if (!how->atlas[0]) return BMVP_OK;
    st = atlas_load(&j->head, j->told.file ? j->told.file : "auto", j->told.brain, err);
    j->how.atlas = &j->head.is;
    return st;
}

static bmvp_status open_checkpoint(job *j, bmvp_error *err)
{
    j->predictor = j->said ? bmvp_predictor_open_weights(j->c, j->checkpoint, &j->said->w, err)
                           : bmvp_predictor_open(j->c, j->checkpoint, err);
    if (!j->predictor) return err->status;
    if (j->said) weights_print(j->checkpoint, j->c, bmvp_predictor_info(j->predictor), j->said, j->opt, j->n_opt);
    return open_atlas(j, err);
}

static int run(job *j, const char *data, const char *split, const char *part, const bmvp_config *k)
{
    dataset d;
    bmvp_error err;
    int code = CLI_FAILED;
    bmvp_status st = data_load(&d, data, &j->files, "predict", &err);
    if (st) return cli_fail(CLI_FAILED, "predict", "%s", err.message);
    bmvp_jw_init(&j->json, 1, NULL);
    j->c = bmvp_create(k, &err);
    if (!j->c) st = BMVP_E_OOM;
    if (!st) st = open_checkpoint(j, &err);
    if (st == BMVP_E_ARG && j->said) code = CLI_USAGE;
    bmvp_jw_object(&j->json, NULL);
    bmvp_jw_string(&j->json, "checkpoint", j->checkpoint);
    if (!st && j->said)
        weights_write(&j->json, bmvp_predictor_info(j->predictor), bmvp_predictor_preparation(j->predictor));
    if (!st && bmvp_predictor_info(j->predictor)->labels.n)
        bmvp_labels_write(&j->json, "labels", &bmvp_predictor_info(j->predictor)->labels);
    bmvp_jw_array(&j->json, "cases");
    (void)cli_elapsed(&j->progress);
    if (!st) st = predict_all(j, &d, split, part, &err);
    if (!st) st = write_list(j, &err);
    bmvp_jw_free(&j->json);
    bmvp_predictor_close(j->predictor);
    atlas_free(&j->head);
    bmvp_destroy(j->c);
    dataset_free(&d);
    if (st) return cli_fail(code, "predict", "%s", err.message);
    printf("%s: %lld cases, %lld left out; %.0f MB\n", j->out, (long long)j->done, (long long)j->failed,
           run_peak_memory_mb());
    return j->failed ? CLI_FAILED : CLI_DONE;
}

static int is_volume(const char *path)
{
    const char *const gz = strstr(path, ".nii");
    return gz && (strcmp(gz, ".nii") == 0 || strcmp(gz, ".nii.gz") == 0) && file_exists(path);
}

/* Options that do not go together, and what is said of another program's weights. -1: all is well. */
static int check_options(job *j, const weights_options *told, weights_said *said, const char *data, const char *split,
                         const char *part)
{
    const char *const stray = weights_given(j->opt, j->n_opt);
    bmvp_error err;
    if (!split && cli_given(j->opt, j->n_opt, "part"))
        return cli_fail(CLI_USAGE, "predict", "--part %s: of which split? Name its file: --split FILE", part);
    if (is_volume(data))
        return cli_fail(CLI_USAGE, "predict",
                        "--data %s: an image alone does not tell its modality; name the folder of its case, or a list",
                        data);
    if (!told->network && stray)
        return cli_fail(CLI_USAGE, "predict",
                        "--%s: is said of weights that another program has trained; name their network: --network",
                        stray);
    if (weights_parse(told, said, &err)) return cli_fail(CLI_USAGE, "predict", "%s", err.message);
    if (told->network) j->said = said;
    else {
        int a;
        for (a = 0; a < 3; ++a) j->how.window.roi[a] = said->w.window[2 - a];
    }
    return -1;
}

int command_predict(int argc, char **argv)
{
    const char *data, *split, *part, *device;
    int64_t batch, threads;
    int mirror, fill, grid, simd, precision, code;
    char modalities[64], grids[72];
    bmvp_config k = bmvp_config_default();
    weights_options told;
    weights_said said;
    bmvp_error err;
    job j;
    cli_option opt[] = {
        cli_required("checkpoint", &j.checkpoint, "FILE",
                     "best.safetensors of a fine-tuning run, or (--network) a state dict of another program"),
        cli_required("data", &data, "CASE|DIR|LIST",
                     "a folder of images, a folder of such folders, or a list; as they are, or prepared"),
        DATA_OPTIONS(j.files),
        cli_required("out", &j.out, "DIR", "folder for ID.nii.gz of each case (or classes) and predictions.json"),
        cli_string("split", &split, NULL, "FILE", "from `bmvp split` or a run; none: all cases"),
        cli_string("part", &part, "test", "PART", "of the split: train, val, test, all, fold:K, not-fold:K"),
        cli_float("overlap", &j.how.window.overlap, 0.5, 0, 0.95, "of neighbouring windows"),
        cli_choice("weights", &j.how.window.gaussian, 0, "constant|gaussian", "how overlapping windows are averaged"),
        cli_int("batch", &batch, 1, 1, 256, "windows at once"),
        cli_flag("mirror", &mirror, "average over all eight flips"),
        cli_flag("probabilities", &j.how.probabilities, "also write the probability of each region"),
        cli_list("drop", &j.drop, 0, role_modality_words(modalities, sizeof modalities, '|'),
                 "modalities to leave out, as if the cases lacked them"),
        cli_choice("fill", &fill, 0, "checkpoint|template|zero", "what stands for a missing modality"),
        cli_choice("grid", &grid, 0, grids, "whose image's grid the maps have"),
        REGISTER_OPTIONS("checkpoint|none|header|rigid", &j.how.align, &j.how.keep_doubtful),
        ATLAS_OPTIONS(j.told),
        cli_choice("other-grids", &j.how.other_grids, 0, "refuse|resample",
                   "images of a case on other grids than its first, without --register"),
        cli_int("threads", &threads, 0, 0, 1024, "0: one for each processor; the result does not depend on it"),
        cli_choice("simd", &simd, 0, "auto|plain|vector|avx2|avx512", "instruction set"),
        device_option(&device),
        precision_option(&precision),
        WEIGHTS_OPTIONS(told),
    };
    memset(&j, 0, sizeof j);
    j.how = bmvp_predict_options_default();
    j.opt = opt, j.n_opt = (int)(sizeof opt / sizeof *opt);
    snprintf(grids, sizeof grids, "first|%s", modalities);
    code = cli_parse("predict",
                     "Segment or classify cases with a fine-tuned network; label maps lie on the grid of the images.",
                     opt, j.n_opt, argc, argv);
    if (code < 0) code = check_options(&j, &told, &said, data, split, part);
    if (code >= 0) return code;
    j.how.window.batch = (int)batch, j.how.window.mirror = mirror ? 7 : 0;
    j.how.fill = (bmvp_predict_fill)fill;
    j.how.grid = grid ? bmvp_modality_name(grid - 1) : NULL;
    k.threads = (int)threads;
    k.simd = (bmvp_simd)(simd - 1);
    k.precision = (bmvp_precision)precision;
    if (device_open(device, 0, &k.backend, &err))
        return cli_fail(err.status == BMVP_E_ARG ? CLI_USAGE : CLI_FAILED, "predict", "%s", err.message);
    code = run(&j, data, split, part, &k);
    device_close(k.backend);
    return code;
}
