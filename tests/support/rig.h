/* rig.h - a pre-training run that is small enough for a test: two cases of 32^3, three modalities, a network of a few
   channels. */
#ifndef BMVP_TEST_RIG_H
#define BMVP_TEST_RIG_H

#include "tests/support/small.h"
#include "tests/support/device.h"

enum { MAX_MODALITIES = BMVP_MODALITIES, MAX_BATCH = 4 };

/* >>rig: a small run
 * --------------------------------------------------------------------------------------------------- */

enum { EDGE = 32, CUBE = EDGE * EDGE * EDGE };

/* A bias right before BatchNorm: its gradient is rounding noise. */
static const char *const zero_gradient = "encoder.uniformer.blocks4.0.mlp.fc2.bias";

typedef struct rig {
    bmvp_ctx *c;
    bmvp_ssl *s;
    bmvp_ssl_config cfg;
    bmvp_net_config net;
    float *x[MAX_BATCH], *other[MAX_BATCH], *mask[2 * MAX_BATCH];
    bmvp_ssl_item item[MAX_BATCH];
} rig;

static const char *const rig_names[3] = { "t1", "t2", "dwi" };
static const int64_t rig_grid[3] = { 36, 40, 44 };

static inline bmvp_net_config small_net(void)
{
    static const int dim[4] = { 8, 16, 24, 32 };
    bmvp_net_config k;
    memset(&k, 0, sizeof k);
    CHECK(bmvp_net_preset("uniformer_tiny", &k));
    memcpy(k.dim, dim, sizeof dim);
    k.depth[2] = 1;
    k.head_dim = 8;
    return k;
}

static inline void rig_config(rig *r, const char *preset_name)
{
    memset(r, 0, sizeof *r);
    r->cfg = preset(preset_name);
    r->cfg.crop = EDGE;
    r->cfg.batch = 2;
    r->cfg.contrast_from_epoch = 0;
    r->cfg.template_x = r->cfg.template_y = r->cfg.template_z = 0;
    r->cfg.template_only_epochs = 0;
    r->cfg.update_every = 1;
    r->cfg.clip = 0;
    r->net = small_net();
}

/* Items: case i has modality i % 3 as X_im and another one as X_in; masks are given. */
static inline int rig_begin(rig *r, const bmvp_config *ctx)
{
    static const int64_t dim[3] = { EDGE, EDGE, EDGE };
    int i;
    r->c = ctx ? bmvp_create(ctx, NULL) : device_context();
    r->s = r->c ? bmvp_ssl_create(r->c, &r->net, &r->cfg, 3, rig_names, rig_grid) : NULL;
    if (!check_report(r->s != NULL, __FILE__, __LINE__, "%s", r->c ? bmvp_error_of(r->c)->message : "no context"))
        return 0;
    for (i = 0; i < 3; ++i) { /* templates that differ */
        bmvp_tensor *t = bmvp_ssl_template(r->s, i);
        float *x = floats(t->numel);
        int64_t j;
        for (j = 0; j < t->numel; ++j)
            x[j] = (float)(0.3 + 0.2 * formula_uniform(formula_stream("template", (uint64_t)i), j));
        bmvp_write(r->c, t, x);
        free(x);
    }
    for (i = 0; i < MAX_BATCH; ++i) {
        r->x[i] = floats(CUBE);
        r->other[i] = floats(CUBE);
        r->mask[2 * i] = floats(CUBE);
        r->mask[2 * i + 1] = floats(CUBE);
        formula_volume(i, i % 3, dim, r->x[i]);
        formula_volume(i, 3, dim, r->other[i]);
        CHECK(formula_mask(2 * i, 0, EDGE, r->mask[2 * i]) && formula_mask(2 * i + 1, 0, EDGE, r->mask[2 * i + 1]));
        r->item[i].x = r->x[i];
        r->item[i].other = r->other[i];
        r->item[i].modality = i % 3;
        r->item[i].slot = (uint32_t)i;
        r->item[i].template_start[0] = i;
        r->item[i].template_start[1] = 2 * i;
        r->item[i].template_start[2] = 3;
        r->item[i].mask_template = r->mask[2 * i];
        r->item[i].mask_modal = r->mask[2 * i + 1];
    }
    return 1;
}

static inline void rig_end(rig *r)
{
    int i;
    for (i = 0; i < MAX_BATCH; ++i) {
        free(r->x[i]);
        free(r->other[i]);
        free(r->mask[2 * i]);
        free(r->mask[2 * i + 1]);
    }
    bmvp_ssl_destroy(r->s);
    bmvp_destroy(r->c);
}

/* Everything that a step can change: values, statistics, templates, moments, counters. */
static inline void check_equal_runs(bmvp_ssl *a, bmvp_ssl *b, const char *what)
{
    const bmvp_state_list *p = bmvp_ssl_state(a), *q = bmvp_ssl_state(b);
    bmvp_optim *mine = bmvp_ssl_trainer(a)->optim, *others = bmvp_ssl_trainer(b)->optim;
    const int moments = bmvp_ssl_config_of(a)->optimizer ? 1 : 2;
    int i, w, differ = 0;
    for (i = 0; i < p->n; ++i) {
        differ += p->item[i].counter != q->item[i].counter ||
                  *bmvp_optim_count(mine, i) != *bmvp_optim_count(others, i);
        if (p->item[i].torch_rank == 0) continue;
        differ += memcmp(p->item[i].t->x, q->item[i].t->x, (size_t)p->item[i].t->numel * sizeof(float)) != 0;
        for (w = 0; p->item[i].trained && w < moments; ++w)
            differ += memcmp(bmvp_optim_moment(mine, i, w)->x, bmvp_optim_moment(others, i, w)->x,
                             (size_t)p->item[i].t->numel * sizeof(float)) != 0;
        if (!check_report(differ == 0, __FILE__, __LINE__, "%s: %s differs", what, p->item[i].name)) return;
    }
    CHECK(p->n == q->n && bmvp_ssl_steps(a) == bmvp_ssl_steps(b));
}

/* Names of the parameters whose bits differ from a copy made before. */
static inline float *copy_state(const bmvp_state_list *l)
{
    int64_t n = 0;
    float *p;
    int i;
    for (i = 0; i < l->n; ++i) n += l->item[i].t->numel;
    p = floats(n);
    for (i = 0, n = 0; i < l->n; n += l->item[i].t->numel, ++i)
        if (l->item[i].torch_rank > 0) memcpy(p + n, l->item[i].t->x, (size_t)l->item[i].t->numel * sizeof *p);
    return p;
}

static inline int count_changed(const bmvp_state_list *l, const float *before)
{
    int64_t n = 0;
    int i, changed = 0;
    for (i = 0; i < l->n; n += l->item[i].t->numel, ++i)
        if (l->item[i].trained)
            changed += memcmp(before + n, l->item[i].t->x, (size_t)l->item[i].t->numel * sizeof *before) != 0;
    return changed;
}

#endif /* BMVP_TEST_RIG_H */
