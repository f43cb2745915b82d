/* methods.c - the table of methods, and draws from the library's generator */
#include "methods.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int brainmvp_preset(const char *name, void *config) { return bmvp_ssl_preset(name, (bmvp_ssl_config *)config); }
const method_row method_brainmvp = { "brainmvp",        "BrainMVP",      "Rui et al., CVPR 2025", "uniformer_small",
                                     "uniformer_small", bmvp_ssl_method, brainmvp_preset,         NULL,
                                     METHOD_MODALITY };

static const method_row *const rows[] = {
    &method_brainmvp,
    &method_genesis,
    &method_mae3d,
    &method_simmim,
    &method_mocov3,
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

draws draws_of(bmvp_rng *r)
{
    draws d;
    d.uniform = rng_uniform;
    d.whole = rng_whole;
    d.order = rng_order;
    d.noise = rng_noise;
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

int method_crop_fits(bmvp_trainer *t, int crop)
{
    const int stride = (int)bmvp_net_stride(t->net);
    if (crop % stride == 0) return 1;
    bmvp_fail(t->c, BMVP_E_ARG, "crop %d must be a multiple of %d for %s", crop, stride, t->net_config.name);
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
