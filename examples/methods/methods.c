/* methods.c - the table of methods, and draws from the library's generator */
#include "methods.h"
#include <string.h>

static int brainmvp_preset(const char *name, void *config) { return bmvp_ssl_preset(name, (bmvp_ssl_config *)config); }
const method_row method_brainmvp = { "brainmvp",        "BrainMVP",      "Rui et al., CVPR 2025", "uniformer_small",
                                     "uniformer_small", bmvp_ssl_method, brainmvp_preset,         NULL };

static const method_row *const rows[] = { &method_brainmvp, &method_genesis, &method_mae3d };

const method_row *method_at(int i) { return i >= 0 && i < (int)(sizeof rows / sizeof *rows) ? rows[i] : NULL; }

const method_row *method_find(const char *name)
{
    int i;
    for (i = 0; method_at(i); ++i)
        if (strcmp(rows[i]->name, name) == 0) return rows[i];
    return NULL;
}

const char *method_names(void) { return "brainmvp genesis mae3d"; }

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

/* >>parts of methods ----------------------------------------------------------------------------------------------- */

bmvp_status method_look(bmvp_trainer *t, int edge, const float *seen, int sigmoid, float *back)
{
    const int64_t dim[5] = { 1, edge, edge, edge, 1 };
    const int was = bmvp_set_grad(t->c, 0);
    bmvp_features f;
    bmvp_tensor *y;
    bmvp_step_begin(t->c);
    f = bmvp_net_encode(t->net, bmvp_input(t->c, 5, dim, seen), 0);
    y = bmvp_net_reconstruct(t->net, &f);
    if (sigmoid) y = bmvp_sigmoid(t->c, y);
    if (y) (void)bmvp_read(t->c, y, back);
    bmvp_step_begin(t->c);
    (void)bmvp_set_grad(t->c, was);
    return bmvp_error_of(t->c)->status;
}
