/* methods.c - the table of methods, and draws from the library's generator */
#include "methods.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int brainmvp_preset(const char *name, void *config) { return bmvp_ssl_preset(name, (bmvp_ssl_config *)config); }
const method_row method_brainmvp = { "brainmvp",        "BrainMVP",      "Rui et al., CVPR 2025", "uniformer_small",
                                     "uniformer_small", bmvp_ssl_method, brainmvp_preset,         NULL,
                                     METHOD_MODALITY, NULL };

static const method_row *const rows[] = {
    &method_brainmvp,
    &method_genesis,
    &method_m3ae,
    &method_gvsl,
    &method_mae3d,
    &method_simmim,
    &method_mocov3,
    &method_swin_ssl,
    &method_dae,
    &method_voco,
    &method_transvw,
};
enum { ROWS = sizeof rows / sizeof *rows };

const method_row *method_at(int i) { return i >= 0 && i < ROWS ? rows[i] : NULL; }

const method_row *method_find(const char *name)
{
    int i;
    for (i = 0; method_at(i); ++i)
        if (strcmp(rows[i]->name, name) == 0) return rows[i];
    return NULL;
}

const char *method_names(void)
{
    static char names[32 * ROWS];
    size_t at = 0;
    int i;
    for (i = 0; i < ROWS; ++i)
        at += (size_t)snprintf(names + at, sizeof names - at, "%s%s", i ? " " : "", rows[i]->name);
    return names;
}

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

draws method_draws(const bmvp_pass *p, const method_item *item, bmvp_rng *r)
{
    *r = bmvp_pass_rng(p, METHOD_STREAM, item->slot);
    return item->given ? *item->given : draws_of(r);
}

int64_t method_box_at(const method_box *b, const int64_t d[3], int64_t i)
{
    const int64_t z = i / (b->size[1] * b->size[2]), y = i / b->size[2] % b->size[1], x = i % b->size[2];
    return ((b->start[0] + z) * d[1] + b->start[1] + y) * d[2] + b->start[2] + x;
}

/* >>parts of methods ----------------------------------------------------------------------------------------------- */

bmvp_status method_look(bmvp_trainer *t, int edge, const float *seen, int sigmoid, float *back)
{
    const int64_t dim[5] = { 1, edge, edge, edge, 1 };
    const int was = method_look_begin(t);
    bmvp_tensor *y;
    const bmvp_features f = bmvp_net_encode(t->net, bmvp_input(t->c, 5, dim, seen), 0);
    y = bmvp_net_reconstruct(t->net, &f);
    return method_look_end(t, was, NULL, sigmoid ? bmvp_sigmoid(t->c, y) : y, 0, NULL, back);
}

int method_look_begin(bmvp_trainer *t)
{
    const int was = bmvp_set_grad(t->c, 0);
    bmvp_step_begin(t->c);
    return was;
}

/* Channel `channel` of x (1, D, H, W, C) */
static void read_channel(bmvp_ctx *c, const bmvp_tensor *x, int channel, float *out)
{
    const int64_t n = x->dim[4];
    float *all = (float *)malloc((size_t)x->numel * sizeof *all);
    int64_t i;
    if (!all) bmvp_fail(c, BMVP_E_OOM, "no memory for a look at a crop");
    else if (bmvp_read(c, x, all) == BMVP_OK)
        for (i = 0; i < x->numel / n; ++i) out[i] = all[i * n + channel];
    free(all);
}

bmvp_status method_look_end(bmvp_trainer *t, int was, const bmvp_tensor *x, const bmvp_tensor *y, int channel,
                            float *seen, float *back)
{
    if (seen && x && y) read_channel(t->c, x, channel, seen);
    if (y) read_channel(t->c, y, channel, back);
    bmvp_step_begin(t->c);
    (void)bmvp_set_grad(t->c, was);
    return bmvp_error_of(t->c)->status;
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

double method_halved(const bmvp_trainer *t, int64_t total, double lr, int epochs)
{
    return epochs > 0 ? lr * pow(0.5, (double)(t->epoch > 0 ? t->epoch / epochs : 0)) : bmvp_trainer_cosine(t, total);
}

int method_crop_fits(bmvp_trainer *t, int crop)
{
    const int stride = (int)bmvp_net_stride(t->net);
    if (crop % stride == 0) return 1;
    bmvp_fail(t->c, BMVP_E_ARG, "crop %d must be a multiple of %d for %s", crop, stride, t->net_config.name);
    return 0;
}

int method_has_pairs(bmvp_trainer *t, const char *what, const char *off)
{
    const method_setup *u = (const method_setup *)t->setup;
    const int batch = ((const method_config *)t->config)->batch;
    if (batch * (u && bmvp_is_plan(t->c) ? u->ranks : 1) > 1) return 1;
    bmvp_fail(t->c, BMVP_E_ARG, "%s compares crops of different cases: --batch 2 or more, or --set %s", what, off);
    return 0;
}

void method_templates_make(bmvp_trainer *t, method_templates *l, double deviation, double lr_scale)
{
    const method_setup *u = (const method_setup *)t->setup;
    const int64_t dim[3] = { u->grid[2], u->grid[1], u->grid[0] }; /* in files X, Y, Z */
    bmvp_state_list *list = bmvp_net_state(t->net);
    char name[64];
    memcpy(l->grid, u->grid, sizeof l->grid);
    for (; l->n < u->n_modalities && !bmvp_failed(t->c); ++l->n) {
        bmvp_state *e;
        l->modality[l->n] = bmvp_modality_find(u->names[l->n]);
        snprintf(name, sizeof name, "rep_template.%s", u->names[l->n]);
        l->volume[l->n] = bmvp_state_add(t->c, list, name, BMVP_LAYOUT_VOLUME, 3, dim, 1, BMVP_INIT_NORMAL, 0);
        if (!l->volume[l->n]) return;
        e = &list->item[list->n - 1];
        e->part = l->n, e->parts = u->n_modalities, e->stacked = "rep_template";
        e->value = deviation, e->lr_scale = lr_scale;
    }
}

void method_templates_describe(const method_templates *l, bmvp_jw *w)
{
    int i;
    bmvp_jw_array(w, "modalities");
    for (i = 0; i < l->n; ++i) bmvp_jw_string(w, NULL, bmvp_modality_name(l->modality[i]));
    bmvp_jw_end(w);
    bmvp_jw_array(w, "grid");
    for (i = 0; i < 3; ++i) bmvp_jw_int(w, NULL, l->grid[i]);
    bmvp_jw_end(w);
}
