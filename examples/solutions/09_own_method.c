/* Solutions of lesson 9: the error in visible voxels counts, too, with a share that is a field of the config. */
#define BMVP_IMPLEMENTATION
#include "bmvp_tensor.h"
#include "bmvp_nn.h"
#include "bmvp_ssl.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
enum { EDGE = 32, VOXELS = EDGE * EDGE * EDGE, CASES = 2 };
/* 2. One line more: bmvp_field_set knows it, and checkpoints keep it. */
#define MIM_FIELDS(X) \
    X(double, hidden, 0.01, 0.99, "share of the patches that are hidden") \
    X(double, visible, 0, 1, "weight of the error in patches that are not")
#define MIM_FIELD(type, name, low, high, text) BMVP_FIELD(mim_config, type, name, low, high, text)
typedef struct mim_config { BMVP_RUN_MEMBERS MIM_FIELDS(BMVP_FIELD_MEMBER) } mim_config;
static const bmvp_field mim_fields[] = { MIM_FIELDS(MIM_FIELD) BMVP_RUN_FIELDS(MIM_FIELD) BMVP_FIELDS_END };
static const char *const mim_losses[] = { "hidden", "visible", NULL };

/* Mean square over the voxels where `where` is 1, `count` of `all` */
static bmvp_tensor *error_in(bmvp_ctx *c, bmvp_tensor *y, bmvp_tensor *x, bmvp_tensor *where, int64_t all,
                             int64_t count)
{
    bmvp_tensor *mean = bmvp_mse(c, bmvp_mul(c, y, where), bmvp_mul(c, x, where));
    return bmvp_scale(c, mean, (double)all / (double)(count + !count), 0);
}

/* 1. A second error and a second bmvp_pass_loss; the log has a column for each name. */
static void mim_forward(bmvp_pass *p)
{
    const float *const *item = (const float *const *)p->items;
    const mim_config *k = (const mim_config *)p->config;
    const int64_t dim[5] = { p->n, EDGE, EDGE, EDGE, 1 }, all = (int64_t)p->n * VOXELS;
    float *x = (float *)calloc((size_t)(4 * all), sizeof *x), *mask = x + all, *seen = mask + all, *rest = seen + all;
    bmvp_tensor *y, *truth;
    bmvp_features f;
    int64_t i, hidden = 0;
    if (!x) {
        (void)bmvp_fail(p->c, BMVP_E_OOM, "no memory for %d crops", p->n);
        return;
    }
    for (i = 0; i < p->n && !bmvp_is_plan(p->c); ++i) {
        bmvp_rng r = bmvp_pass_rng(p, 100, (uint32_t)(p->first + i));
        memcpy(x + i * VOXELS, item[i], VOXELS * sizeof *x);
        bmvp_mask_blocks(mask + i * VOXELS, dim + 1, 16, k->hidden, &r);
    }
    for (i = 0; i < all; hidden += mask[i++] > 0) rest[i] = mask[i] > 0 ? 0.0f : 1.0f, seen[i] = rest[i] * x[i];
    f = bmvp_net_encode(p->net, bmvp_input(p->c, 5, dim, seen), 1);
    y = bmvp_net_reconstruct(p->net, &f);
    truth = bmvp_input(p->c, 5, dim, x);
    bmvp_pass_loss(p, 0, BMVP_LOSS_MEAN, 1, error_in(p->c, y, truth, bmvp_input(p->c, 5, dim, mask), all, hidden));
    bmvp_pass_loss(p, 1, BMVP_LOSS_MEAN, k->visible,
                   error_in(p->c, y, truth, bmvp_input(p->c, 5, dim, rest), all, all - hidden));
    free(x);
}

/* Twenty steps; returns the last one's losses, and the first one's by way of `first`. */
static bmvp_losses run(bmvp_ctx *c, const mim_config *k, bmvp_losses *first)
{
    static float volume[CASES][VOXELS];
    const float *item[CASES];
    bmvp_losses l;
    bmvp_net_config net;
    bmvp_trainer *t;
    bmvp_method m;
    int i;
    memset(&m, 0, sizeof m), memset(&l, 0, sizeof l);
    m.name = "mim", m.format = "masked-image modelling 2", m.loss = mim_losses, m.fields = mim_fields;
    m.config_size = sizeof *k, m.item_size = sizeof *item, m.forward = mim_forward;
    for (i = 0; i < CASES * VOXELS; ++i) volume[i / VOXELS][i % VOXELS] = (float)(i / VOXELS + i / 8 % 2) * 0.2f;
    for (i = 0; i < CASES; ++i) item[i] = volume[i];
    (void)bmvp_net_preset("uniformer_tiny", &net);
    t = bmvp_trainer_create(c, &m, &net, k, NULL, 1);
    for (i = 0; i < 20 && t && !bmvp_trainer_step(t, item, CASES, 2e-3, &l); ++i)
        if (!i) *first = l;
    bmvp_trainer_destroy(t);
    return l;
}

int main(void)
{
    bmvp_ctx *c = bmvp_create(NULL, NULL);
    bmvp_losses first[2], last[2];
    bmvp_error err = { BMVP_OK, "" };
    double sum;
    mim_config k;
    int i, bad, refused;
    if (!c) return 1;
    memset(first, 0, sizeof first);
    bmvp_run_default(&k), k.hidden = 0.75, k.batch = CASES, k.lr = 2e-3, k.clip = 1;
    for (bad = i = 0; i < 2; ++i) { /* as in the lesson, and with a tenth */
        bad |= bmvp_field_set(mim_fields, &k, "visible", i ? "0.1" : "0", &err) != BMVP_OK;
        last[i] = run(c, &k, &first[i]);
        printf("visible counts %.1f: step 1 hidden %.4f visible %.4f total %.4f, step 20 hidden %.4f visible %.4f\n",
               k.visible, first[i].part[0], first[i].part[1], first[i].total, last[i].part[0], last[i].part[1]);
        sum = first[i].part[0] + (i ? 0.1 * first[i].part[1] : 0);
        bad |= !(fabs(first[i].total - sum) < 1e-5) || !(last[i].part[0] < first[i].part[0]);
    }
    refused = bmvp_field_set(mim_fields, &k, "visible", "2", &err) != BMVP_OK;
    printf("visible=2: %s\n", refused ? err.message : "taken");
    bad |= bmvp_failed(c) || !refused;
    if (bmvp_failed(c)) printf("%s\n", bmvp_error_of(c)->message);
    bmvp_destroy(c);
    return bad;
}
