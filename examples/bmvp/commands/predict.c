/* predict.c - `bmvp predict`: a fine-tuned network on new cases; label maps come back on the grid of the images as they were

   A case is prepared in memory as the training data were (RAS, spacing, foreground box, percentiles); windows slide over it; each finished
   plane of probabilities is interpolated to the voxels of the original grid (>>grid) and decided there. The prepared grid has the axes of
   the original one in another order, turned around, scaled and shifted: one original axis is the prepared z, so the planes of
   probabilities that are kept are two. */
#define _DEFAULT_SOURCE
#include "commands.h"
#include "cli.h"
#include "data_options.h"
#include "device.h"
#include "run.h"
#include "data/files.h"
#include "data/infer.h"
#include "data/preparation.h"
#include "data/splits.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct job {
    const char *out, *checkpoint;
    uint32_t drop;           /* known modalities to leave out */
    int probabilities;
    bmvp_window window;
    prepare_options prepare;
    bmvp_ctx *c;
    bmvp_ft *f;
    bmvp_ft_info info;
    bmvp_jw json;            /* predictions.json */
    cli_progress progress;
    int64_t done, failed;
} job;

/* >>grid: prepared probabilities on the original grid -------------------------------------------------------------- */

typedef struct axis_map { /* where the voxels of one original axis lie along one prepared axis */
    int64_t *low;         /* the prepared voxel below; -1: outside of the prepared box */
    float *share;         /* of the voxel above it */
    int64_t n, stride;    /* voxels, and their distance in the original array */
} axis_map;

typedef struct sink {
    const bmvp_labels *labels;
    int outputs;
    int64_t dim[3];       /* of the prepared case: D, H, W */
    axis_map axis[3];     /* by prepared axis z, y, x */
    float *plane[2];      /* of prepared z: the last two, z in plane[z % 2] */
    unsigned char *label; /* original order */
    int16_t *probability; /* original order, one volume an output, or NULL */
    int64_t voxels;
} sink;

static void free_sink(sink *s)
{
    int a;
    for (a = 0; a < 3; ++a) {
        free(s->axis[a].low);
        free(s->axis[a].share);
    }
    free(s->plane[0]);
    free(s->plane[1]);
    free(s->label);
    free(s->probability);
}

/* inverse(prepared affine) x original affine: original voxel -> prepared voxel */
static bmvp_status relate(const double prepared[16], const double original[16], double t[16], bmvp_error *err)
{
    double inverse[16];
    int r, c, k;
    bmvp_status s = bmvp_nii_affine_inverse(inverse, prepared, err);
    if (s) return s;
    for (r = 0; r < 4; ++r)
        for (c = 0; c < 4; ++c)
            for (t[4 * r + c] = 0, k = 0; k < 4; ++k) t[4 * r + c] += inverse[4 * r + k] * original[4 * k + c];
    return BMVP_OK;
}

/* Fills one axis: prepared place = scale x original index + shift. Half a voxel beyond the box still belongs to it. */
static int fill_axis(axis_map *m, int64_t n, int64_t stride, double scale, double shift, int64_t dim)
{
    int64_t i;
    m->n = n;
    m->stride = stride;
    m->low = (int64_t *)malloc((size_t)n * sizeof *m->low);
    m->share = (float *)malloc((size_t)n * sizeof *m->share);
    if (!m->low || !m->share) return 0;
    for (i = 0; i < n; ++i) {
        double p = scale * (double)i + shift;
        if (p < -0.5001 || p > (double)dim - 0.4999) {
            m->low[i] = -1;
            m->share[i] = 0;
            continue;
        }
        p = p < 0 ? 0 : p > (double)(dim - 1) ? (double)(dim - 1) : p;
        m->low[i] = (int64_t)p < dim - 1 ? (int64_t)p : dim > 1 ? dim - 2 : 0;
        m->share[i] = (float)(p - (double)m->low[i]);
    }
    return 1;
}

/* The original axis that runs along each prepared one: the largest entry of its row. */
static bmvp_status map_axes(sink *s, const bmvp_nii_image *head, const double prepared[16], bmvp_error *err)
{
    double original[16], t[16];
    bmvp_status st;
    int r, c, used = 0;
    (void)bmvp_nii_rectify_affine(original, head);
    st = relate(prepared, original, t, err);
    for (r = 0; r < 3 && !st; ++r) {
        int best = 0, k;
        int64_t stride = 1;
        for (c = 1; c < 3; ++c)
            if (fabs(t[4 * r + c]) > fabs(t[4 * r + best])) best = c;
        for (k = 0; k < best; ++k) stride *= head->dim[k];
        used |= 1 << best;
        if (!fill_axis(&s->axis[2 - r], head->dim[best], stride, t[4 * r + best], t[4 * r + 3], s->dim[2 - r]))
            st = bmvp_error_set(err, BMVP_E_OOM, "out of memory");
    }
    if (!st && used != 7) st = bmvp_error_set(err, BMVP_E_FORMAT, "its axes cannot be told apart after preparation");
    return st;
}

static bmvp_status make_sink(sink *s, const bmvp_labels *l, const bmvp_nii_image *head, const bmvp_nii_volume *prepared, int probabilities,
                             bmvp_error *err)
{
    int a;
    memset(s, 0, sizeof *s);
    s->labels = l;
    s->outputs = bmvp_labels_outputs(l);
    for (a = 0; a < 3; ++a) s->dim[a] = prepared->dim[2 - a];
    s->voxels = head->dim[0] * head->dim[1] * head->dim[2];
    s->plane[0] = (float *)malloc((size_t)(s->dim[1] * s->dim[2] * s->outputs) * sizeof(float));
    s->plane[1] = (float *)malloc((size_t)(s->dim[1] * s->dim[2] * s->outputs) * sizeof(float));
    s->label = (unsigned char *)calloc((size_t)s->voxels, 1);
    if (probabilities) s->probability = (int16_t *)calloc((size_t)(s->voxels * s->outputs), sizeof *s->probability);
    if (!s->plane[0] || !s->plane[1] || !s->label || (probabilities && !s->probability))
        return bmvp_error_set(err, BMVP_E_OOM, "out of memory for a label map");
    return map_axes(s, head, prepared->affine, err);
}

/* Linear between the two planes, four voxels of each. */
static void interpolate(const sink *s, const float *below, const float *above, float wz, int64_t y, int64_t x, float *p)
{
    const axis_map *my = &s->axis[1], *mx = &s->axis[2];
    const int64_t y1 = my->low[y] + (s->dim[1] > 1), x1 = mx->low[x] + (s->dim[2] > 1), k = s->outputs;
    const int64_t at[4] = { (my->low[y] * s->dim[2] + mx->low[x]) * k, (my->low[y] * s->dim[2] + x1) * k,
                            (y1 * s->dim[2] + mx->low[x]) * k, (y1 * s->dim[2] + x1) * k };
    const float wy = my->share[y], wx = mx->share[x];
    const float w[4] = { (1 - wy) * (1 - wx), (1 - wy) * wx, wy * (1 - wx), wy * wx };
    int i, j;
    for (i = 0; i < k; ++i) {
        float a = 0, b = 0;
        for (j = 0; j < 4; ++j) {
            a += w[j] * below[at[j] + i];
            b += w[j] * above[at[j] + i];
        }
        p[i] = (1 - wz) * a + wz * b;
    }
}

/* All original voxels at index `i` of the axis along prepared z. */
static void write_slice(const sink *s, int64_t i, const float *below, const float *above)
{
    float p[BMVP_MAX_REGIONS + 1];
    int64_t y, x;
    int k;
    for (y = 0; y < s->axis[1].n; ++y) {
        if (s->axis[1].low[y] < 0) continue;
        for (x = 0; x < s->axis[2].n; ++x) {
            const int64_t at = i * s->axis[0].stride + y * s->axis[1].stride + x * s->axis[2].stride;
            if (s->axis[2].low[x] < 0) continue;
            interpolate(s, below, above, s->axis[0].share[i], y, x, p);
            s->label[at] = bmvp_labels_decide(s->labels, p);
            for (k = 0; k < s->outputs && s->probability; ++k)
                s->probability[k * s->voxels + at] = (int16_t)lrintf(p[k] * 32767.0f);
        }
    }
}

/* Prepared planes as they come: every original slice between the last two is written. */
static bmvp_status take_planes(void *user, int64_t z0, int64_t n, const float *values)
{
    sink *s = (sink *)user;
    const int64_t area = s->dim[1] * s->dim[2] * s->outputs;
    int64_t z, i;
    for (z = z0; z < z0 + n; ++z, values += area) {
        memcpy(s->plane[z % 2], values, (size_t)area * sizeof *values);
        if (z == 0 && s->dim[0] > 1) continue;
        for (i = 0; i < s->axis[0].n; ++i)
            if (s->axis[0].low[i] == (z > 0 ? z - 1 : 0)) write_slice(s, i, s->plane[z > 0 ? (z - 1) % 2 : 0], s->plane[z % 2]);
    }
    return BMVP_OK;
}

/* >>files ---------------------------------------------------------------------------------------------------------- */

/* The header of the input with other data: affine, codes and units stay, bit for bit. */
static bmvp_status write_map(const char *path, const bmvp_nii_image *head, int type, double slope, void *data, int64_t bytes, bmvp_error *err)
{
    bmvp_nii_image image = *head;
    int a;
    image.datatype = type;
    image.ndim = 3;
    for (a = 3; a < BMVP_NII_MAX_DIMS; ++a) image.dim[a] = 1;
    image.n_voxels = image.dim[0] * image.dim[1] * image.dim[2];
    image.data_bytes = bytes;
    image.data = data;
    image.scl_slope = slope;
    image.scl_inter = image.cal_min = image.cal_max = 0;
    image.is_pair = image.intent_code = image.n_extensions = 0;
    image.extensions = NULL;
    image.intent_name[0] = image.aux_file[0] = 0;
    snprintf(image.descrip, sizeof image.descrip, "bmvp predict");
    return bmvp_nii_write(path, &image, NULL, err);
}

static bmvp_status write_results(const job *j, const char *id, const bmvp_nii_image *head, sink *s, bmvp_error *err)
{
    const bmvp_labels *l = &j->info.labels;
    char name[400], *path;
    bmvp_status st;
    int k;
    snprintf(name, sizeof name, "%s.nii.gz", id);
    path = path_join(j->out, name);
    st = path ? write_map(path, head, BMVP_NII_UINT8, 1, s->label, s->voxels, err) : bmvp_error_set(err, BMVP_E_OOM, "out of memory");
    free(path);
    for (k = 0; k < s->outputs && s->probability && !st; ++k) {
        const int region = k - l->exclusive; /* output 0 of classes is the background */
        snprintf(name, sizeof name, "%s_%s.nii.gz", id, region < 0 ? "background" : l->region[region]);
        path = path_join(j->out, name);
        st = path ? write_map(path, head, BMVP_NII_INT16, 1.0 / 32767, s->probability + k * s->voxels, 2 * s->voxels, err)
                  : bmvp_error_set(err, BMVP_E_OOM, "out of memory");
        free(path);
    }
    return st;
}

/* >>cases ---------------------------------------------------------------------------------------------------------- */

/* What the network needs of the case; missing: words for what is said about it. */
static int gather(const job *j, const prepared_case *p, infer_input *k, const bmvp_nii_volume **any, char *missing, size_t size)
{
    size_t used = 0;
    int m, n = 0;
    memset(k, 0, sizeof *k);
    *any = NULL;
    missing[0] = 0;
    for (m = 0; m < j->info.n_modalities; ++m) {
        const bmvp_nii_volume *v = &p->image[bmvp_modality_find(j->info.names[m])];
        if (v->data) {
            k->image[m] = v->data;
            *any = v;
            ++n;
        } else if (used < size) {
            used += (size_t)snprintf(missing + used, size - used, "%s%s", used ? " " : "", j->info.names[m]);
        }
    }
    for (m = 0; m < 3 && *any; ++m) k->dim[m] = (*any)->dim[2 - m];
    return n;
}

static const char *filled_by(const job *j)
{
    return bmvp_ft_config_of(j->f)->fill == 0 && bmvp_ft_template(j->f, 0) ? "template" : "zero";
}

static void note_case(job *j, const char *id, const infer_input *k)
{
    int m;
    bmvp_jw_object(&j->json, NULL);
    bmvp_jw_string(&j->json, "id", id);
    bmvp_jw_array(&j->json, "modalities");
    for (m = 0; m < j->info.n_modalities; ++m)
        if (k->image[m]) bmvp_jw_string(&j->json, NULL, j->info.names[m]);
    bmvp_jw_end(&j->json);
    bmvp_jw_object(&j->json, "filled");
    for (m = 0; m < j->info.n_modalities; ++m)
        if (!k->image[m]) bmvp_jw_string(&j->json, j->info.names[m], filled_by(j));
    bmvp_jw_end(&j->json);
}

static bmvp_status segment(job *j, const data_case *item, const infer_input *k, const bmvp_nii_volume *any, bmvp_error *err)
{
    bmvp_nii_image head;
    bmvp_status st;
    sink s;
    int m;
    for (m = 0; m + 1 < BMVP_MODALITIES && !item->image[m]; ++m) { }
    if ((st = bmvp_nii_read_header(&head, item->image[m], NULL, err)) != BMVP_OK) return st;
    st = make_sink(&s, &j->info.labels, &head, any, j->probabilities, err);
    if (!st) st = infer_segment(j->c, j->f, k, &j->window, take_planes, &s, err);
    if (!st) st = write_results(j, item->id, &head, &s, err);
    free_sink(&s);
    bmvp_nii_image_free(&head);
    return st;
}

static int most_likely(const float *p, int n)
{
    int i, best = 0;
    for (i = 1; i < n; ++i)
        if (p[i] > p[best]) best = i;
    return best;
}

static bmvp_status predict_case(job *j, const data_case *item, bmvp_error *err)
{
    const double began = cli_elapsed(&j->progress);
    float p[BMVP_MAX_REGIONS + 1] = { 0 };
    const int classify = j->info.net.task == BMVP_TASK_CLASSIFY;
    const bmvp_nii_volume *any;
    prepared_case prepared;
    infer_input k;
    char missing[128], name[400], said[200] = "";
    bmvp_status st = prepare_or_read(&prepared, item, &j->prepare, err);
    int i;
    if (st) return st;
    if (gather(j, &prepared, &k, &any, missing, sizeof missing) == 0)
        st = bmvp_error_set(err, BMVP_E_ARG, "case '%s' has none of the modalities that the network was trained with", item->id);
    else if (missing[0] && j->info.cfg.fill == 0 && !bmvp_ft_template(j->f, 0))
        st = bmvp_error_set(err, BMVP_E_ARG, "case '%s' lacks %s, and the checkpoint holds no templates: --fill zero", item->id, missing);
    else if (classify) st = infer_classify(j->c, j->f, &k, p, err);
    else st = segment(j, item, &k, any, err);
    if (!st) {
        note_case(j, item->id, &k);
        bmvp_jw_float(&j->json, "seconds", (float)(cli_elapsed(&j->progress) - began));
        snprintf(name, sizeof name, "%s.nii.gz", item->id);
        if (!classify) bmvp_jw_string(&j->json, "label", name);
        if (classify) bmvp_jw_array(&j->json, "probabilities");
        for (i = 0; i < j->info.net.outputs && classify; ++i) bmvp_jw_float(&j->json, NULL, p[i]);
        if (classify) bmvp_jw_end(&j->json);
        if (classify) bmvp_jw_int(&j->json, "class", most_likely(p, j->info.net.outputs));
        bmvp_jw_end(&j->json);
        if (missing[0]) snprintf(said, sizeof said, "  without %s: filled by %s", missing, filled_by(j));
        i = most_likely(p, j->info.net.outputs);
        if (classify) printf("%s: class %d (%.3f)%s\n", item->id, i, (double)p[i], said);
        else printf("%s: %.1f s%s\n", item->id, cli_elapsed(&j->progress) - began, said);
        fflush(stdout);
    }
    prepared_case_free(&prepared);
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
    if (!st) st = run_open(j->out, err); /* only now: what does not fit leaves no folder */
    for (i = 0; i < n && !st; ++i) {
        forget(j, &d->item[index[i]]);
        if (predict_case(j, &d->item[index[i]], &e) == BMVP_OK) {
            ++j->done;
            continue;
        }
        ++j->failed;
        fprintf(stderr, "bmvp predict: left out: %s\n", e.message);
        if (bmvp_failed(j->c)) bmvp_clear_error(j->c);
    }
    free(index);
    return st;
}

/* >>the command ---------------------------------------------------------------------------------------------------- */

static bmvp_status open_checkpoint(job *j, int fill, bmvp_error *err)
{
    j->f = bmvp_ft_open(j->c, j->checkpoint, &j->info, err);
    if (!j->f) return err->status;
    if (fill) bmvp_ft_set_fill(j->f, fill - 1);
    j->info.cfg.fill = bmvp_ft_config_of(j->f)->fill;
    if (!j->info.preparation[0])
        return bmvp_error_set(err, BMVP_E_FORMAT, "%s: it does not say how its cases were prepared; fine-tune on what `bmvp prepare` writes",
                              j->checkpoint);
    j->prepare.low = 1;
    j->prepare.high = 99;
    j->window.roi[0] = j->info.cfg.crop_z, j->window.roi[1] = j->info.cfg.crop_y, j->window.roi[2] = j->info.cfg.crop_x;
    return prepare_read(j->info.preparation, j->checkpoint, &j->prepare, err);
}

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

static int run(job *j, const char *data, const char *split, const char *part, int fill, const bmvp_config *k)
{
    dataset d;
    bmvp_error err;
    bmvp_status st = data_load(&d, data, NULL, "predict", &err);
    if (st) return cli_fail(CLI_FAILED, "predict", "%s", err.message);
    bmvp_jw_init(&j->json, 1, NULL);
    j->c = bmvp_create(k, &err);
    if (!j->c) st = BMVP_E_OOM;
    if (!st) st = open_checkpoint(j, fill, &err);
    bmvp_jw_object(&j->json, NULL);
    bmvp_jw_string(&j->json, "checkpoint", j->checkpoint);
    if (!st && j->info.labels.n) bmvp_labels_write(&j->json, "labels", &j->info.labels);
    bmvp_jw_array(&j->json, "cases");
    (void)cli_elapsed(&j->progress);
    if (!st) st = predict_all(j, &d, split, part, &err);
    if (!st) st = write_list(j, &err);
    bmvp_jw_free(&j->json);
    bmvp_ft_destroy(j->f);
    bmvp_destroy(j->c);
    dataset_free(&d);
    if (st) return cli_fail(CLI_FAILED, "predict", "%s", err.message);
    printf("%s: %lld cases, %lld left out; %.0f MB\n", j->out, (long long)j->done, (long long)j->failed, run_peak_memory_mb());
    return j->failed ? CLI_FAILED : CLI_DONE;
}

static int is_volume(const char *path)
{
    const char *const gz = strstr(path, ".nii");
    return gz && (strcmp(gz, ".nii") == 0 || strcmp(gz, ".nii.gz") == 0) && file_exists(path);
}

int command_predict(int argc, char **argv)
{
    const char *data, *split, *part, *device;
    int64_t batch, threads;
    int weights, mirror, fill, simd, precision, code;
    char modalities[64];
    double overlap;
    bmvp_config k = bmvp_config_default();
    bmvp_error err;
    job j;
    cli_option opt[] = {
        cli_required("checkpoint", &j.checkpoint, "FILE", "best.safetensors of a fine-tuning run"),
        cli_required("data", &data, "CASE|DIR|LIST", "a folder of images, a folder of such folders, or a list; as they are, or prepared"),
        cli_required("out", &j.out, "DIR", "folder for ID.nii.gz of each case (or classes) and predictions.json"),
        cli_string("split", &split, NULL, "FILE", "from `bmvp split` or a run; none: all cases"),
        cli_string("part", &part, "test", "PART", "of the split: train, val, test, all, fold:K, not-fold:K"),
        cli_float("overlap", &overlap, 0.5, 0, 0.95, "of neighbouring windows"),
        cli_choice("weights", &weights, 0, "constant|gaussian", "how overlapping windows are averaged"),
        cli_int("batch", &batch, 1, 1, 256, "windows at once"),
        cli_flag("mirror", &mirror, "average over all eight flips"),
        cli_flag("probabilities", &j.probabilities, "also write the probability of each region"),
        cli_list("drop", &j.drop, 0, role_modality_words(modalities, sizeof modalities, '|'), "modalities to leave out, as if the cases lacked them"),
        cli_choice("fill", &fill, 0, "checkpoint|template|zero", "what stands for a missing modality"),
        cli_int("threads", &threads, 0, 0, 1024, "0: one for each processor; the result does not depend on it"),
        cli_choice("simd", &simd, 0, "auto|plain|vector|avx2|avx512", "instruction set"),
        device_option(&device),
        precision_option(&precision),
    };
    memset(&j, 0, sizeof j);
    code = cli_parse("predict", "Segment or classify cases with a fine-tuned network; label maps lie on the grid of the images.", opt,
                     (int)(sizeof opt / sizeof *opt), argc, argv);
    if (code >= 0) return code;
    if (!split && cli_given(opt, (int)(sizeof opt / sizeof *opt), "part"))
        return cli_fail(CLI_USAGE, "predict", "--part %s: of which split? Name its file: --split FILE", part);
    if (is_volume(data))
        return cli_fail(CLI_USAGE, "predict", "--data %s: an image alone does not tell its modality; name the folder of its case, or a list", data);
    j.window.overlap = overlap;
    j.window.gaussian = weights;
    j.window.batch = (int)batch;
    j.window.mirror = mirror ? 7 : 0;
    k.threads = (int)threads;
    k.simd = (bmvp_simd)(simd - 1);
    k.precision = (bmvp_precision)precision;
    if (device_open(device, 0, &k.backend, &err))
        return cli_fail(err.status == BMVP_E_ARG ? CLI_USAGE : CLI_FAILED, "predict", "%s", err.message);
    code = run(&j, data, split, part, fill, &k);
    device_close(k.backend);
    return code;
}
