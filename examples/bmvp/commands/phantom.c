/* phantom.c - `bmvp phantom`: a data set of multi-modal brain phantoms, made from a seed

   What it makes: skull-stripped heads (--heads: whole ones) with folded cortex, white matter, ventricles, deep grey
   matter, brainstem, cerebellum and an arterial tree; in a share of them a tumour of three parts. Geometry is a set of
   implicit functions in millimetres (shapes.h), deformed per case (anatomy.h); each voxel gets fractions of tissues
   (anatomy.h), fractions become signal by the sequences' signal equations (physics.h), then come coil
   bias, Rician noise, int16 rounding and a file (scanner.h, and >>write here).
   --heads puts skull, scalp, face, eyes, neck and air around the brain (head.h) and gives every image a grid of its
   own, on which the head lies otherwise than the header says. The truth lies beside: the brain of each image, and the
   matrix to it from the first.

   Harder ones (variety.h), for experiments that ask what a method is good for. Each setting is 0 by default and then
   changes no byte:
     --overlap X      1: core and oedema differ little in t2 and flair (core from cortex, too), core and cortex not at
                      all in t1, clotted core and enhancing part little in t1c: only pairs of images tell them apart
     --decoys N       spots without label: scars (bright in t2 and flair) and old bleeds (bright in t1 and t1c)
     --anatomy X      1: ventricles 0.7 to 1.6 times as large and up to twice as large on one side, folds finer and
                      coarser by a quarter, a warp up to twice as strong, narrower heads
     --scanners N, --first-scanner K   cases of N machines with the numbers K, K + 1 ..: each has one protocol (ranges a
                      fifth wider), a field of 1.5 or 3 T, a coil, 0.7 to 2.5 times the noise, and voxels that average
                      up to 1.7 times their edge. A number is the same machine in every data set: a pool of scanners
                      1 to 6 and labelled cases of 7 and 8 differ as sites do
     --sets paper     the modalities of BrainMVP's five sets in their shares, the volunteers of IXI without tumour

   What it is worth: the tiny network from scratch, 64 voxels an edge, 90 cases (36 to train, 45 to test), 400 steps of
   batch 4, one seed, mean test Dice: 0.719 without these settings and 7 training cases; 0.698 with overlap 1, decoys 6,
   anatomy 1, 2 scanners; the same with all 36 cases 0.695, a difference of -0.003 (-0.016 to 0.013). None was trained
   until its validation stood still, so this says nothing yet of what labels are worth there.

   What it is not: an atlas. Shapes are plausible, not measured; motion within an image and distortion are absent. It is
   meant for experiments that anybody can repeat, not for claims about patients.

   Head coordinates ("template"): millimetres, x to the right, y to the front, z up, origin near the anterior
   commissure; the brain spans about x -70..70, y -105..70, z -65..78. "World" is the file's millimetre space with its
   origin in the middle of the field of view. Distances of shapes are positive inside.

   Determinism: every random number is Philox(seed, stream, case, item), so case i depends on seed, i and the options
   alone: neither on the number of cases nor on threads. Its anatomy does not depend on the modalities asked for. */
#include "commands.h"
#include "cli.h"
#include "bmvp_tensor.h"
#include "bmvp_nn.h"
#include "bmvp_nifti.h"
#include "data/files.h"
#include "phantom/head.h"
#include "phantom/scanner.h"
#include "phantom/variety.h"
#include <errno.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* >>write ---------------------------------------------------------------------------------------------------------- */

static void ph_affine(const ph_grid *g, double affine[16])
{
    int a;
    memset(affine, 0, 16 * sizeof *affine);
    affine[15] = 1.0;
    for (a = 0; a < 3; a++) {
        int row = g->world_axis[a];
        double step = g->reversed[a] ? -(double)g->step[row] : (double)g->step[row];
        affine[4 * row + a] = step;
        affine[4 * row + 3] = g->centre[row] - step * 0.5 * (double)(g->dim[row] - 1);
    }
}

/* What the threads share. */
typedef struct ph_job {
    const ph_options *options;
    pthread_mutex_t lock;    /* guards the rest */
    cli_progress progress;
    int64_t done;
    int failed;
    char message[640];
} ph_job;

static void ph_set_failed(ph_job *job, const char *text)
{
    pthread_mutex_lock(&job->lock);
    if (!job->failed) snprintf(job->message, sizeof job->message, "%s", text);
    job->failed = 1;
    pthread_mutex_unlock(&job->lock);
}

/* Name of a file of a case (NAME, and what follows it), or of its folder (file NULL); NULL when memory is short. */
static char *ph_path(const ph_options *o, int index, const char *file, const char *more)
{
    size_t n = strlen(o->out) + 64;
    char *path = (char *)malloc(n);
    if (path && file) snprintf(path, n, "%s/case_%04d/%s%s", o->out, index + 1, file, more);
    else if (path) snprintf(path, n, "%s/case_%04d", o->out, index + 1);
    return path;
}

static int ph_write(ph_job *job, int index, const char *name, const char *more, const bmvp_nii_image *image)
{
    bmvp_nii_write_options how;
    bmvp_error err;
    char *path = ph_path(job->options, index, name, more);
    int bad = 1;
    memset(&how, 0, sizeof how);
    how.level = 5;
    how.no_sync = 1;    /* dataset.json, which makes the set valid, is synced */
    if (!path) ph_set_failed(job, "out of memory");
    else if (bmvp_nii_write(path, image, &how, &err) != BMVP_OK) ph_set_failed(job, err.message);
    else bad = 0;
    free(path);
    return bad ? -1 : 0;
}

/* Of a view: its brain, and where the first image's points lie in it. */
static int ph_write_truth(const ph_volumes *v, const ph_case *c, ph_job *job, const bmvp_nii_image *brain)
{
    const char *name = ph_modality_names[v->modality[0]];
    char *path = ph_path(job->options, c->index, name, "_truth.tfm");
    double matrix[16];
    bmvp_error err;
    int bad = ph_write(job, c->index, name, "_brain_mask.nii.gz", brain);
    ph_true_matrix(c, v->view, matrix);
    if (!path) ph_set_failed(job, "out of memory");
    else if (!bad && v->modality[0] != c->first && bmvp_nii_matrix_write(path, matrix, &err) != BMVP_OK) {
        ph_set_failed(job, err.message);
        bad = -1;
    }
    if (!path) bad = -1;
    free(path);
    return bad;
}

/* out: label, images, brain. */
static int ph_write_volumes(const ph_volumes *v, const ph_case *c, ph_job *job, bmvp_nii_image *out)
{
    const int labelled = !v->view || v->modality[0] == c->first;
    int k, bad = labelled ? ph_write(job, c->index, "seg", ".nii.gz", &out[0]) : 0;
    for (k = 0; k < v->n_images && !bad; k++)
        bad = ph_write(job, c->index, ph_modality_names[v->modality[k]], ".nii.gz", &out[k + 1]);
    return bad || !v->view ? bad : ph_write_truth(v, c, job, &out[k + 1]);
}

/* Makes the images that rendering fills, label first: all of a case, or the one of a view (only: its modality) and its
   brain. */
static int ph_create_volumes(ph_volumes *v, const ph_case *c, int only, ph_job *job, bmvp_nii_image *out)
{
    bmvp_error err;
    double affine[16];
    int64_t dim[3], n = 1;
    int a, m, k, last;
    memset(v, 0, sizeof *v);
    if (only >= 0) v->view = &c->view[only];
    v->grid = v->view ? v->view->grid : c->grid;
    for (a = 0; a < 3; a++) n *= dim[a] = v->grid.dim[v->grid.world_axis[a]];
    ph_affine(&v->grid, affine);
    for (m = 0; m < PH_MODALITIES; m++) {
        if (!(c->have >> m & 1) || (only >= 0 && m != only)) continue;
        k = v->n_images++;
        v->modality[k] = m;
        ph_sequence_draw(&v->sequence[k], m, c->tissue, &c->scanner, (uint64_t)job->options->seed, (uint32_t)c->index);
    }
    last = v->n_images - !v->view;
    for (k = -1; k <= last; k++) {
        int type = k < 0 || k == v->n_images ? BMVP_NII_UINT8 : BMVP_NII_INT16;
        if (bmvp_nii_create(&out[k + 1], type, 3, dim, affine, NULL, &err) != BMVP_OK) {
            ph_set_failed(job, err.message);
            return -1;
        }
        if (k < 0) v->label = (uint8_t *)out[0].data;
        else if (k == v->n_images) v->brain = (uint8_t *)out[k + 1].data;
        else {
            v->image[k] = (int16_t *)out[k + 1].data;
            out[k + 1].scl_slope = (double)v->sequence[k].slope;
            out[k + 1].scl_inter = 0.0;
        }
    }
    v->share = (uint8_t *)calloc((size_t)n, 2);
    v->fresh = v->share ? v->share + n : NULL;
    if (!v->share) ph_set_failed(job, "out of memory");
    return v->share ? 0 : -1;
}

/* The images of a case on its grid, or (only: a modality) that of one view. */
static int ph_make_images(ph_job *job, const ph_case *c, int only)
{
    bmvp_nii_image out[PH_MODALITIES + 2];
    ph_volumes v;
    int k, bad;
    memset(out, 0, sizeof out);
    bad = ph_create_volumes(&v, c, only, job, out);
    if (!bad) {
        ph_render(&v, c, (uint64_t)job->options->seed);
        bad = ph_write_volumes(&v, c, job, out);
    }
    for (k = 0; k < PH_MODALITIES + 2; k++) bmvp_nii_image_free(&out[k]);
    free(v.share);
    return bad;
}

static void ph_make_case(ph_job *job, int index)
{
    const ph_options *o = job->options;
    ph_case *c = (ph_case *)calloc(1, sizeof *c);
    char *folder = ph_path(o, index, NULL, ""), text[640];
    int m, bad = 0;
    if (!c || !folder) ph_set_failed(job, "out of memory");
    else if (make_dir(folder) != 0) {
        snprintf(text, sizeof text, "%s: folder cannot be made: %s", folder, strerror(errno));
        ph_set_failed(job, text);
    } else {
        ph_draw_case(c, o, index);
        if (!o->heads) bad = ph_make_images(job, c, -1);
        for (m = 0; m < PH_MODALITIES && o->heads && !bad; m++)
            if (c->have >> m & 1u) bad = ph_make_images(job, c, m);
    }
    free(folder);
    free(c);
}

static void ph_task(void *arg, int64_t task, int worker)
{
    ph_job *job = (ph_job *)arg;
    int stop;
    (void)worker;
    pthread_mutex_lock(&job->lock);
    stop = job->failed;
    pthread_mutex_unlock(&job->lock);
    if (stop) return;
    ph_make_case(job, (int)task);
    pthread_mutex_lock(&job->lock);
    job->done++;
    if (!job->failed)
        cli_status(&job->progress, job->done == job->options->cases, "phantom: %ld of %ld cases, %.1f s",
                   (long)job->done, (long)job->options->cases, cli_elapsed(&job->progress));
    pthread_mutex_unlock(&job->lock);
}

/* >>list ----------------------------------------------------------------------------------------------------------- */

typedef struct ph_text {
    char *text;
    size_t used, room;
    int failed;
} ph_text;

#if defined(__GNUC__)
__attribute__((format(printf, 2, 3)))
#endif
static void ph_print(ph_text *t, const char *format, ...)
{
    va_list args;
    int n;
    if (t->room - t->used < 1024) {
        char *more = (char *)realloc(t->text, t->room + 65536);
        if (!more) {
            t->failed = 1;
            return;
        }
        t->text = more;
        t->room += 65536;
    }
    va_start(args, format);
    n = vsnprintf(t->text + t->used, t->room - t->used, format, args);
    va_end(args);
    t->used += n > 0 ? (size_t)n : 0;
}

/* dataset.json: everything in it follows from the options, so it can be compared before any volume is made. */
static void ph_dataset(ph_text *t, const ph_options *o)
{
    const char *comma = "";
    int i, m;
    ph_print(t, "{\n  \"name\": \"bmvp phantoms\",\n  \"modalities\": [");
    for (m = 0; m < PH_MODALITIES; m++) {
        if (!(o->modalities >> m & 1)) continue;
        ph_print(t, "%s\"%s\"", comma, ph_modality_names[m]);
        comma = ", ";
    }
    ph_print(t, "],\n  \"labels\": \"phantom\",\n");
    ph_print(t, "  \"classes\": [\"healthy\", \"low grade\", \"high grade\"],\n");
    ph_print(t, "  \"generator\": {\"command\": \"bmvp phantom\", \"version\": 1, ");
    ph_print(t, "\"seed\": %lld, ", (long long)o->seed);
    ph_print(t, "\"size\": %ld, \"fov\": %g, \"tumours\": %g, \"high_grade\": %g, ", (long)o->size, o->fov, o->tumours,
             o->high_grade);
    ph_print(t, "\"missing\": %g, \"thick\": %g, \"orientation\": \"%s\"", o->missing, o->thick,
             o->oriented ? "RAS" : "mixed");
    if (o->heads) ph_print(t, ", \"heads\": true, \"motion\": %g", o->motion);
    if (o->overlap > 0) ph_print(t, ", \"overlap\": %g", o->overlap);
    if (o->decoys) ph_print(t, ", \"decoys\": %ld", (long)o->decoys);
    if (o->anatomy > 0) ph_print(t, ", \"anatomy\": %g", o->anatomy);
    if (o->scanners)
        ph_print(t, ", \"scanners\": %ld, \"first_scanner\": %ld", (long)o->scanners, (long)o->first_scanner);
    if (o->as_sets) ph_print(t, ", \"sets\": \"paper\"");
    ph_print(t, "},\n");
    ph_print(t, "  \"cases\": [\n");
    for (i = 0; i < (int)o->cases; i++) {
        uint32_t have = ph_draw_have(o, i);
        ph_print(t, "    {\"id\": \"case_%04d\", \"images\": {", i + 1);
        for (m = 0, comma = ""; m < PH_MODALITIES; m++) {
            if (!(have >> m & 1)) continue;
            ph_print(t, "%s\"%s\": \"case_%04d/%s.nii.gz\"", comma, ph_modality_names[m], i + 1, ph_modality_names[m]);
            comma = ", ";
        }
        ph_print(t, "}, \"label\": \"case_%04d/seg.nii.gz\", \"class\": %d}%s\n", i + 1, ph_draw_grade(o, i),
                 i + 1 < (int)o->cases ? "," : "");
    }
    ph_print(t, "  ]\n}\n");
}

/* 0: nothing there or the same list; otherwise the exit code, with the reason printed. */
static int ph_check_folder(const ph_options *o, const char *path, const ph_text *list)
{
    bmvp_bytes old;
    bmvp_error err;
    bmvp_status st;
    int same;
    if (!file_exists(path)) return 0;
    bmvp_bytes_init(&old, NULL);
    st = bmvp_file_read(path, (size_t)1 << 28, &old, &err);
    same = !st && old.len == list->used && memcmp(old.data, list->text, old.len) == 0;
    bmvp_bytes_free(&old);
    if (st) return cli_fail(CLI_FAILED, "phantom", "%s", err.message);
    if (same) return 0;
    if (!o->force)
        return cli_fail(CLI_FAILED, "phantom",
                        "%s belongs to a data set made with other options; --force replaces it, or choose "
                        "another --out", path);
    if (remove(path) != 0)    /* while volumes change, no list may say that they are valid */
        return cli_fail(CLI_FAILED, "phantom", "%s: cannot be removed: %s", path, strerror(errno));
    return 0;
}

/* >>command -------------------------------------------------------------------------------------------------------- */

static int ph_make_all(const ph_options *o)
{
    bmvp_config config = bmvp_config_default();
    bmvp_error err;
    bmvp_ctx *ctx;
    ph_job job;
    config.threads = (int)o->threads;
    ctx = bmvp_create(&config, &err);
    if (!ctx) return cli_fail(CLI_FAILED, "phantom", "%s", err.message);
    memset(&job, 0, sizeof job);
    job.options = o;
    cli_elapsed(&job.progress);
    pthread_mutex_init(&job.lock, NULL);
    bmvp_parallel(ctx, o->cases, ph_task, &job);
    pthread_mutex_destroy(&job.lock);
    bmvp_destroy(ctx);
    return job.failed ? cli_fail(CLI_FAILED, "phantom", "%s", job.message) : 0;
}

static int ph_run(const ph_options *o)
{
    size_t n = strlen(o->out) + 32;
    char *path = (char *)malloc(n);
    bmvp_error err;
    ph_text list;
    int code;
    memset(&list, 0, sizeof list);
    ph_dataset(&list, o);
    if (!path || list.failed) code = cli_fail(CLI_FAILED, "phantom", "out of memory");
    else {
        snprintf(path, n, "%s/dataset.json", o->out);
        if (make_dir(o->out) != 0)
            code = cli_fail(CLI_FAILED, "phantom", "%s: folder cannot be made: %s", o->out, strerror(errno));
        else {
            code = ph_check_folder(o, path, &list);
            if (!code) code = ph_make_all(o);
            if (!code && bmvp_file_write(path, list.text, list.used, NULL, &err) != BMVP_OK)
                code = cli_fail(CLI_FAILED, "phantom", "%s", err.message);
        }
    }
    free(list.text);
    free(path);
    return code;
}

int command_phantom(int argc, char **argv)
{
    ph_options o;
    uint32_t usual = 1u << PH_FLAIR | 1u << PH_T1 | 1u << PH_T1C | 1u << PH_T2;
    cli_option opt[] = {
        cli_required("out", &o.out, "DIR", "folder to write: case_0001/t1.nii.gz, .., dataset.json"),
        cli_int("cases", &o.cases, 16, 1, 9999, "number of cases"),
        cli_int("size", &o.size, 64, 24, 240, "voxels along each axis of an isotropic case"),
        cli_int("seed", &o.seed, 1, 0, 9e15, "which data set; case i of a seed is always the same"),
        cli_list("modalities", &o.modalities, usual, PH_MODALITY_WORDS, "images per case"),
        cli_float("fov", &o.fov, 240, 200, 300, "field of view in mm; voxels are fov / size"),
        cli_float("tumours", &o.tumours, 0.6, 0, 1, "share of the cases with a tumour"),
        cli_float("high-grade", &o.high_grade, 0.5, 0, 1, "share of the tumours that are of high grade"),
        cli_float("missing", &o.missing, 0.2, 0, 1, "share of the cases that lack modalities; one stays"),
        cli_float("thick", &o.thick, 0.25, 0, 1, "share of the cases (--heads: of the images) with thick slices"),
        cli_choice("orientation", &o.oriented, 0, "mixed|RAS", "axis order of the files"),
        cli_flag("heads", &o.heads,
                 "whole heads with skull, face and neck; each image on its own grid, the head moved between them"),
        cli_float("overlap", &o.overlap, 0, 0, 1,
                  "0: parts of a lesion differ in any image, 1: only pairs of images tell them apart"),
        cli_int("decoys", &o.decoys, 0, 0, PH_MAX_DECOYS, "most spots per case that are bright and have no label"),
        cli_float("anatomy", &o.anatomy, 0, 0, 1, "how much wider folds, ventricles and shape vary"),
        cli_int("scanners", &o.scanners, 0, 0, 64,
                "scanners that the cases come from: protocol, coil, noise, sharpness; 0: a protocol for each case"),
        cli_int("first-scanner", &o.first_scanner, 1, 1, 9999, "number of the first of them; a number is a machine"),
        cli_choice("sets", &o.as_sets, 0, "one|paper",
                   "paper: each case has the modalities of one of BrainMVP's five sets (the healthy one's: no tumour)"),
        cli_float("motion", &o.motion, 5, 0, 40, "of --heads: most mm along and degrees about each axis"),
        cli_int("threads", &o.threads, 0, 0, 256, "cases made at once; 0: one per processor; files are the same"),
        cli_flag("force", &o.force, "replace the data set of a folder that was made with other options")
    };
    int set, code = cli_parse("phantom",
        "Make multi-modal brain phantoms: skull-stripped (--heads: whole) heads that differ from case to case,\n"
        "signals by the sequences' equations from tissue T1, T2, T2*, proton density and diffusion, coil bias, Rician\n"
        "noise; tumours with necrotic or non-enhancing core (label 1), oedema (2) and enhancing part (3). Class: 0\n"
        "healthy, 1 low grade, 2 high grade. --heads adds the truth: NAME_brain_mask.nii.gz and, from the first\n"
        "image, NAME_truth.tfm. A folder that holds the same data set is made again; one with another is refused.",
        opt, PH_COUNT(opt), argc, argv);
    if (code < 0 && !o.heads && cli_given(opt, PH_COUNT(opt), "motion"))
        code = cli_fail(CLI_USAGE, "phantom", "--motion: the head moves between the images of --heads only");
    if (code < 0 && !o.scanners && cli_given(opt, PH_COUNT(opt), "first-scanner"))
        code = cli_fail(CLI_USAGE, "phantom", "--first-scanner: it numbers those of --scanners");
    for (set = 0; set < PH_SETS && code < 0 && o.as_sets; set++)
        if (!(o.modalities & ph_set_have(set)))
            code = cli_fail(CLI_USAGE, "phantom", "--sets paper: --modalities leaves cases of a set without any image");
    return code >= 0 ? code : ph_run(&o);
}
