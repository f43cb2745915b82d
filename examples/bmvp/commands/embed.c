/* embed.c - `bmvp embed`: what the encoder makes of volumes. The embedding of a volume is the mean of the last feature
   map over sliding windows of the crop's size that overlap by half. */
#define _DEFAULT_SOURCE
#include "commands.h"
#include "cli.h"
#include "data_options.h"
#include "device.h"
#include "run.h"
#include "data/files.h"
#include "data/preparation.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

typedef struct result { /* one tensor of the output file */
    char name[320];
    int rank;
    int64_t dim[BMVP_MAX_DIMS];
    float *data;
} result;

typedef struct job {
    dataset_options files;
    const bmvp_backend *device; /* NULL: the CPU */
    bmvp_ctx *c;
    bmvp_net *net;
    bmvp_ssl_info info;
    int64_t crop;
    double spacing; /* mm, of volumes that are not prepared yet */
    int maps, usage; /* usage: the error is one of the options */
    result *item;
    int n, cap;
    bmvp_error err;
} job;

static float *add_result(job *j, const char *name, int rank, const int64_t *dim)
{
    int64_t numel = 1;
    int a;
    if (j->n == j->cap) {
        const int cap = j->cap ? 2 * j->cap : 64;
        result *grown = (result *)realloc(j->item, (size_t)cap * sizeof *grown);
        if (!grown) return NULL;
        j->item = grown;
        j->cap = cap;
    }
    snprintf(j->item[j->n].name, sizeof j->item[j->n].name, "%s", name);
    j->item[j->n].rank = rank;
    for (a = 0; a < rank; ++a) numel *= j->item[j->n].dim[a] = dim[a];
    j->item[j->n].data = (float *)calloc((size_t)numel, sizeof(float));
    return j->item[j->n].data ? j->item[j->n++].data : NULL;
}

static bmvp_status out_of_memory(job *j) { return bmvp_error_set(&j->err, BMVP_E_OOM, "out of memory"); }

/* >>windows -------------------------------------------------------------------------------------------------------- */

/* Start of window i on an axis; returns 0 past the last. Shorter axes have one window, centred. */
static int window(int64_t n, int64_t crop, int64_t i, int64_t *start)
{
    const int64_t step = crop / 2 > 0 ? crop / 2 : 1, last = n - crop;
    if (last <= 0) {
        *start = -(-last / 2);
        return i == 0;
    }
    *start = i * step < last ? i * step : last;
    return i == 0 || (i - 1) * step < last;
}

static bmvp_tensor *window_input(job *j, const bmvp_nii_volume *v, const int64_t at[3])
{
    const int64_t e = j->crop, dim[5] = { 1, e, e, e, 1 };
    float *x = (float *)calloc((size_t)(e * e * e), sizeof *x);
    bmvp_tensor *t = NULL;
    int64_t z, y, k;
    if (!x) return NULL;
    for (z = 0; z < e; ++z)
        for (y = 0; y < e; ++y)
            for (k = 0; k < e; ++k) {
                const int64_t a = at[0] + z, b = at[1] + y, c = at[2] + k;
                if (a >= 0 && a < v->dim[2] && b >= 0 && b < v->dim[1] && c >= 0 && c < v->dim[0])
                    x[(z * e + y) * e + k] = v->data[(a * v->dim[1] + b) * v->dim[0] + c];
            }
    t = bmvp_input(j->c, 5, dim, x);
    free(x);
    return t;
}

static void add_mean(const bmvp_tensor *last, const float *map, double *sum)
{
    const int64_t c = last->dim[4];
    int64_t i, k;
    for (i = 0; i < last->numel / c; ++i)
        for (k = 0; k < c; ++k) sum[k] += (double)map[i * c + k] / (double)(last->numel / c);
}

static bmvp_status save_maps(job *j, const char *name, const bmvp_features *f)
{
    char full[320];
    int i;
    for (i = 0; i < 4; ++i) {
        float *to;
        snprintf(full, sizeof full, "%s.x%d", name, i + 1);
        to = add_result(j, full, 4, f->map[i]->dim + 1);
        if (!to) return out_of_memory(j);
        if (bmvp_read(j->c, f->map[i], to))
            return bmvp_error_set(&j->err, BMVP_E_STATE, "%s", bmvp_error_of(j->c)->message);
    }
    return BMVP_OK;
}

/* One window: adds to the sum; keep_maps writes the stage maps. */
static bmvp_status run_window(job *j, const bmvp_nii_volume *v, const int64_t at[3], double *sum, const char *maps_name)
{
    bmvp_features f;
    bmvp_status st = BMVP_OK;
    float *map;
    bmvp_step_begin(j->c);
    f = bmvp_net_encode(j->net, window_input(j, v, at), 0);
    if (bmvp_failed(j->c) || !f.last) return bmvp_error_set(&j->err, BMVP_E_STATE, "%s", bmvp_error_of(j->c)->message);
    if (maps_name) return save_maps(j, maps_name, &f);
    map = (float *)malloc((size_t)f.last->numel * sizeof *map);
    if (!map) return out_of_memory(j);
    st = bmvp_read(j->c, f.last, map);
    if (!st) add_mean(f.last, map, sum);
    free(map);
    return st;
}

static bmvp_status embed_volume(job *j, const bmvp_nii_volume *v, const char *name)
{
    const bmvp_net_config *k = bmvp_net_config_of(j->net);
    const int64_t channels = bmvp_net_channels_of(j->c, k), n[3] = { v->dim[2], v->dim[1], v->dim[0] };
    double *sum = (double *)calloc((size_t)channels, sizeof *sum);
    float *out = add_result(j, name, 1, &channels);
    bmvp_status st = sum && out ? BMVP_OK : out_of_memory(j);
    int64_t a, b, c, at[3], count = 0;
    for (a = 0; !st && window(n[0], j->crop, a, &at[0]); ++a)
        for (b = 0; !st && window(n[1], j->crop, b, &at[1]); ++b)
            for (c = 0; !st && window(n[2], j->crop, c, &at[2]); ++c, ++count) st = run_window(j, v, at, sum, NULL);
    for (a = 0; !st && a < channels; ++a) out[a] = (float)(sum[a] / (double)count);
    for (a = 0; a < 3; ++a) at[a] = (n[a] - j->crop) / 2;
    if (!st && j->maps) st = run_window(j, v, at, NULL, name);
    free(sum);
    if (!st) say(stdout, "%s: %lld windows\n", name, (long long)count);
    return st;
}

/* >>input ---------------------------------------------------------------------------------------------------------- */

/* What prepare wrote is taken as it is; anything else is prepared first, with the checkpoint's percentiles. */
static bmvp_status embed_case(job *j, const data_case *k)
{
    bmvp_preparation how;
    bmvp_prepared_images p;
    bmvp_status st;
    char name[256];
    int m;
    how = bmvp_preparation_default();
    how.spacing = j->spacing;
    how.percentile_low = j->info.cfg.percentile_low;
    how.percentile_high = j->info.cfg.percentile_high;
    st = prepare_or_read(&p, k, &how, &j->err);
    if (st) return st;
    for (m = 0; m < BMVP_MODALITIES && !st; ++m) {
        if (!k->image[m]) continue;
        if (!p.image[m].data) {
            say(stderr, "bmvp embed: case '%s': %s has one value everywhere: left out\n", k->id, k->image[m]);
            continue;
        }
        snprintf(name, sizeof name, "%s.%s", k->id, bmvp_modality_name(m));
        st = embed_volume(j, &p.image[m], name);
    }
    bmvp_prepared_images_free(&p);
    return st;
}

/* A single volume is a case of its own; its modality does not matter to the encoder. */
static bmvp_status embed_file(job *j, const char *path)
{
    const char *base = strrchr(path, '/') ? strrchr(path, '/') + 1 : path;
    char id[192];
    data_case k;
    bmvp_status st;
    memset(&k, 0, sizeof k);
    snprintf(id, sizeof id, "%.*s", (int)strcspn(base, "."), base);
    k.id = id;
    k.image[1] = text_copy(path);
    if (!k.image[1]) return out_of_memory(j);
    st = embed_case(j, &k);
    free(k.image[1]);
    return st;
}

static bmvp_status embed_all(job *j, const char *data)
{
    const size_t n = strlen(data);
    dataset d;
    bmvp_status st;
    struct stat s;
    int64_t i;
    if (stat(data, &s) != 0) return bmvp_error_set(&j->err, BMVP_E_IO, "%s: %s", data, strerror(errno));
    if (!S_ISDIR(s.st_mode) && !(n > 5 && strcmp(data + n - 5, ".json") == 0)) return embed_file(j, data);
    st = data_load(&d, data, &j->files, "embed", &j->err);
    if (st) return st;
    for (i = 0; i < d.n && !st; ++i) st = embed_case(j, &d.item[i]);
    dataset_free(&d);
    return st;
}

/* >>output --------------------------------------------------------------------------------------------------------- */

/* Embeddings may be written over, a network not. */
static bmvp_status may_write(job *j, const char *path)
{
    bmvp_status st = file_may_replace(path, NULL, &j->err);
    bmvp_ckpt *f = NULL;
    if (!st && file_exists(path) && bmvp_ckpt_open(path, NULL, &f, NULL) == BMVP_OK &&
        !bmvp_ckpt_find_meta(f, "", "crop"))
        st = bmvp_error_set(&j->err, BMVP_E_ARG,
                            "%s: is there already, and `bmvp embed` has not written it; choose another name", path);
    bmvp_ckpt_close(f);
    return st;
}

static bmvp_status write_results(job *j, const char *path, const char *checkpoint)
{
    bmvp_ckpt_writer *w = NULL;
    bmvp_status st = bmvp_ckpt_writer_begin(path, BMVP_CKPT_SAFETENSORS, NULL, &w, &j->err);
    int i, a;
    if (st) return st;
    for (i = 0; i < j->n && !st; ++i)
        st = bmvp_ckpt_writer_add(w, "", j->item[i].name, BMVP_DTYPE_F32, j->item[i].rank, j->item[i].dim, &j->err);
    if (!st) st = bmvp_ckpt_writer_meta(w, "", "checkpoint", BMVP_META_STRING, checkpoint, &j->err);
    if (!st) st = bmvp_ckpt_writer_meta_int(w, "", "crop", j->crop, &j->err);
    for (i = 0; i < j->n && !st; ++i) {
        int64_t bytes = (int64_t)sizeof(float);
        for (a = 0; a < j->item[i].rank; ++a) bytes *= j->item[i].dim[a];
        st = bmvp_ckpt_writer_data(w, j->item[i].data, bytes, &j->err);
    }
    if (!st) return bmvp_ckpt_writer_finish(w, &j->err);
    bmvp_ckpt_writer_abort(w);
    return st;
}

static bmvp_status load_network(job *j, const char *path, const char *device, int precision, int64_t threads)
{
    bmvp_config k = bmvp_config_default();
    bmvp_state_part part;
    bmvp_ckpt *f = NULL;
    const char *group;
    bmvp_status st = device_open(device, 0, &j->device, &j->err);
    j->usage = st == BMVP_E_ARG;
    if (!st) st = bmvp_ssl_inspect(path, &j->info, &j->err);
    if (!st && j->info.net.task != BMVP_TASK_PRETRAIN && j->info.net.task != BMVP_TASK_ENCODE)
        st = bmvp_error_set(
            &j->err, BMVP_E_ARG,
            "%s is a fine-tuned checkpoint: `bmvp predict` is for it; embed takes a pre-training checkpoint", path);
    if (st) return st;
    k.threads = (int)threads;
    k.backend = j->device;
    k.precision = (bmvp_precision)precision;
    j->c = bmvp_create(&k, &j->err);
    if (!j->c) return j->err.status;
    (void)bmvp_set_grad(j->c, 0);
    j->net = bmvp_net_create(j->c, &j->info.net);
    if (!j->net)
        return bmvp_error_set(&j->err, bmvp_error_of(j->c)->status, "%s: %s", path, bmvp_error_of(j->c)->message);
    st = bmvp_ckpt_open(path, NULL, &f, &j->err);
    if (!st) st = bmvp_state_group(f, &group, &j->err);
    if (!st) run_say_group(f, group);
    memset(&part, 0, sizeof part);
    part.c = j->c;
    part.list = bmvp_net_state(j->net);
    if (!st) st = bmvp_state_load(f, group, &part, &j->err);
    bmvp_ckpt_close(f);
    return st;
}

static bmvp_status run(job *j, const char *checkpoint, const char *data, const char *out, const char *device,
                       int precision, int64_t threads)
{
    bmvp_status st = may_write(j, out);
    if (!st) st = load_network(j, checkpoint, device, precision, threads);
    if (!st && j->crop == 0) j->crop = j->info.cfg.crop;
    if (!st) j->usage = j->crop % bmvp_net_stride(j->net) != 0;
    if (!st && j->usage)
        st = bmvp_error_set(&j->err, BMVP_E_ARG, "--crop %lld: must be a multiple of %lld for this network",
                            (long long)j->crop, (long long)bmvp_net_stride(j->net));
    if (!st) st = embed_all(j, data);
    return st ? st : write_results(j, out, checkpoint);
}

int command_embed(int argc, char **argv)
{
    const char *checkpoint, *data, *out, *device;
    int64_t threads;
    bmvp_status st;
    job j;
    int code, i, precision;
    memset(&j, 0, sizeof j);
    {
        cli_option opt[] = {
            cli_required("checkpoint", &checkpoint, "FILE", "pre-training checkpoint: ours or the released code's .pt"),
            cli_required("data", &data, "VOLUME|LIST|DIR",
                         "one NIfTI volume, or cases; what is not prepared yet is prepared in memory"),
            DATA_OPTIONS(j.files),
            cli_required("out", &out, "FILE", "safetensors file: one vector `id.modality` for each volume"),
            cli_flag("maps", &j.maps,
                     "also the four feature maps of the middle crop, `id.modality.x1` .. x4, as (D, H, W, C)"),
            cli_int("crop", &j.crop, 0, 0, 1024, "edge of the window; 0: that of the checkpoint"),
            cli_float("spacing", &j.spacing, 1, 0, 100,
                      "voxel size in mm for what is not prepared yet, as for `prepare`; 0 keeps it"),
            cli_int("threads", &threads, 0, 0, 1024, "0: one for each processor"),
            device_option(&device),
            precision_option(&precision),
        };
        code = cli_parse("embed", "Embeddings and feature maps of volumes.", opt, (int)(sizeof opt / sizeof *opt), argc,
                         argv);
        if (code >= 0) return code;
    }
    st = run(&j, checkpoint, data, out, device, precision, threads);
    if (st) code = cli_fail(j.usage ? CLI_USAGE : CLI_FAILED, "embed", "%s", j.err.message);
    else code = CLI_DONE;
    bmvp_net_destroy(j.net);
    bmvp_destroy(j.c);
    device_close(j.device);
    for (i = 0; i < j.n; ++i) free(j.item[i].data);
    free(j.item);
    return code;
}
