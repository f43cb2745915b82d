/* methods.c - the table of methods, and draws from the library's generator */
#include "methods.h"
#include <stdlib.h>
#include <string.h>

static int brainmvp_preset(const char *name, void *config) { return bmvp_ssl_preset(name, (bmvp_ssl_config *)config); }
const method_row method_brainmvp = { "brainmvp",        "BrainMVP",      "Rui et al., CVPR 2025", "uniformer_small",
                                     "uniformer_small", bmvp_ssl_method, brainmvp_preset,         NULL };

static const method_row *const rows[] = { &method_brainmvp, &method_genesis, &method_swin_ssl, &method_dae, &method_voco };

const method_row *method_at(int i) { return i >= 0 && i < (int)(sizeof rows / sizeof *rows) ? rows[i] : NULL; }

const method_row *method_find(const char *name)
{
    int i;
    for (i = 0; method_at(i); ++i)
        if (strcmp(rows[i]->name, name) == 0) return rows[i];
    return NULL;
}

const char *method_names(void) { return "brainmvp genesis swin_ssl dae voco"; }

/* >>draws ---------------------------------------------------------------------------------------------------------- */

static double rng_uniform(void *user) { return bmvp_rng_uniform((bmvp_rng *)user); }

static int64_t rng_whole(void *user, int64_t low, int64_t high)
{
    return low + (int64_t)bmvp_rng_below((bmvp_rng *)user, (uint32_t)(high - low + 1));
}

static void rng_order(void *user, int64_t n, int32_t *out)
{
    int64_t i, j;
    for (i = 0; i < n; ++i) { /* Fisher and Yates, from inside out */
        j = rng_whole(user, 0, i);
        out[i] = out[j];
        out[j] = (int32_t)i;
    }
}

static void rng_noise(void *user, int64_t n, float *out)
{
    int64_t i;
    for (i = 0; i < n; ++i) out[i] = (float)bmvp_rng_uniform((bmvp_rng *)user);
}

static void rng_normal(void *user, int64_t n, float *out)
{
    int64_t i;
    for (i = 0; i < n; ++i) out[i] = bmvp_rng_normal((bmvp_rng *)user);
}

draws draws_of(bmvp_rng *r)
{
    draws d;
    d.uniform = rng_uniform;
    d.whole = rng_whole;
    d.order = rng_order;
    d.noise = rng_noise;
    d.normal = rng_normal;
    d.user = r;
    return d;
}

/* >>parts of methods ----------------------------------------------------------------------------------------------- */

bmvp_status method_look_by(bmvp_trainer *t, int edge, const float *seen,
                           bmvp_tensor *(*rebuild)(bmvp_trainer *t, bmvp_tensor *x), float *back)
{
    const int64_t dim[5] = { 1, edge, edge, edge, 1 };
    const int was = bmvp_set_grad(t->c, 0);
    bmvp_tensor *y;
    bmvp_step_begin(t->c);
    y = rebuild(t, bmvp_input(t->c, 5, dim, seen));
    if (y) (void)bmvp_read(t->c, y, back);
    bmvp_step_begin(t->c);
    (void)bmvp_set_grad(t->c, was);
    return bmvp_error_of(t->c)->status;
}

static bmvp_tensor *rebuild_plain(bmvp_trainer *t, bmvp_tensor *x)
{
    const bmvp_features f = bmvp_net_encode(t->net, x, 0);
    return bmvp_net_reconstruct(t->net, &f);
}
static bmvp_tensor *rebuild_sigmoid(bmvp_trainer *t, bmvp_tensor *x)
{
    return bmvp_sigmoid(t->c, rebuild_plain(t, x));
}

bmvp_status method_look(bmvp_trainer *t, int edge, const float *seen, int sigmoid, float *back)
{
    return method_look_by(t, edge, seen, sigmoid ? rebuild_sigmoid : rebuild_plain, back);
}

float *method_crops_of_all(bmvp_pass *p, int edge)
{
    const method_item *item = (const method_item *)p->items;
    const int64_t voxels = (int64_t)edge * edge * edge, dim[2] = { p->n, voxels + 1 };
    float *crops = (float *)calloc((size_t)(p->n_all * dim[1]), sizeof *crops);
    int i;
    if (!crops) return (float *)bmvp_fail(p->c, BMVP_E_OOM, "no memory for %d crops", (int)p->n_all);
    for (i = 0; i < p->n && !bmvp_is_plan(p->c); ++i) {
        memcpy(crops + i * dim[1], item[i].x, (size_t)voxels * sizeof *crops);
        crops[i * dim[1] + voxels] = (float)item[i].slot;
    }
    if (p->n_all > p->n)
        (void)bmvp_read(p->c, bmvp_pass_rows(p, bmvp_input(p->c, 2, dim, crops), dim[1], NULL), crops);
    if (!bmvp_failed(p->c)) return crops;
    free(crops);
    return NULL;
}
uint32_t method_slot(const float *crops, int64_t edge, int64_t i)
{
    const int64_t voxels = edge * edge * edge;
    return (uint32_t)crops[i * (voxels + 1) + voxels];
}

int32_t *method_modalities_of_all(bmvp_pass *p)
{
    const method_item *item = (const method_item *)p->items;
    const int64_t n = p->n_all, dim[2] = { p->n, 1 };
    float *x = (float *)calloc((size_t)n + 1, sizeof *x);
    int32_t *modality = (int32_t *)calloc(2 * (size_t)n + 1, sizeof *modality);
    int64_t i;
    for (i = 0; i < p->n && x; ++i) x[i] = (float)item[i].modality;
    if (x && n > p->n) (void)bmvp_read(p->c, bmvp_pass_rows(p, bmvp_input(p->c, 2, dim, x), 1, NULL), x);
    for (i = 0; i < n && x && modality; ++i) modality[i] = (int32_t)x[i];
    if (!x || !modality) bmvp_fail(p->c, BMVP_E_OOM, "no memory for %d modalities", (int)n);
    free(x);
    return modality;
}

bmvp_tensor *method_info_nce(bmvp_ctx *c, bmvp_tensor *z, double temperature)
{
    const int64_t n = z ? z->dim[0] : 0, dim[2] = { n, n };
    float *itself = (float *)calloc((size_t)(n * n) + 1, sizeof *itself);
    int32_t *pair = (int32_t *)calloc((size_t)n + 1, sizeof *pair);
    bmvp_tensor *s = NULL;
    int64_t i;
    for (i = 0; i < n && itself && pair; ++i) itself[i * n + i] = -1e9f, pair[i] = (int32_t)((i + n / 2) % n);
    if (z && itself && pair) {
        z = bmvp_l2_normalize(c, z, 1e-12);
        s = bmvp_scale(c, bmvp_matmul(c, z, z, 0, 1), 1 / temperature, 0);
        s = bmvp_cross_entropy(c, bmvp_add(c, s, bmvp_input(c, 2, dim, itself)), pair);
    } else if (z) bmvp_fail(c, BMVP_E_OOM, "no memory for the contrast of %d rows", (int)n);
    free(itself);
    free(pair);
    return s;
}

method_preset_kind method_preset(const char *name, void *config, size_t size)
{
    static const char *const names[] = { "release", "paper", "fast" };
    int i;
    for (i = 0; i < 3 && strcmp(name, names[i]) != 0; ++i) {}
    if (i == 3) return METHOD_UNKNOWN;
    memset(config, 0, size);
    bmvp_run_default(config);
    strcpy(((method_config *)config)->preset, name);
    return (method_preset_kind)(METHOD_RELEASE + i);
}
