/* 09_own_method.c - lesson 9: a method of one's own, masked-image modelling: fields, and a function that builds losses

   What you learn: schedule, clipping, checkpoints, log, plan and ranks are the trainer's; a method knows none of it.
   Three of four 16^3 patches are hidden, the loss falls. The right column is a run that was left after step 10 and
   taken up from its checkpoint: the same numbers to the last digit.
   Run:  cc -O2 -I. examples/09_own_method.c -o 09_own_method -lm -lpthread && ./09_own_method (5 s; compiling: 20 s)
   You see, numbers within 5 % or 0.01 (tests: the best level, AVX2, C's vectors; `make course-levels`: plain, 33 s):
   | step  1  loss 0.2207  with a break 0.2207
   | step 20  loss 0.032  with a break 0.032
   Exercises:
   1. Let the error count in visible voxels, too, a tenth as much. Hint: a second bmvp_mse and a second bmvp_pass_loss;
      give it a name in mim_losses, and the log has a column more.
   2. Make the tenth a field of the config. Hint: one line of MIM_FIELDS; bmvp_field_set() knows it then.
   In the headers: bmvp_ssl.h >>trainer (bmvp_method, bmvp_pass), >>fields. */
#define BMVP_IMPLEMENTATION
#include "bmvp_tensor.h"
#include "bmvp_nn.h"
#include "bmvp_ssl.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
enum { EDGE = 32, VOXELS = EDGE * EDGE * EDGE, CASES = 4, STEPS = 20 };
#define MIM_FIELDS(X) X(double, hidden, 0.01, 0.99, "share of the patches that are hidden")
#define MIM_FIELD(type, name, low, high, text) BMVP_FIELD(mim_config, type, name, low, high, text)
typedef struct mim_config { BMVP_RUN_MEMBERS MIM_FIELDS(BMVP_FIELD_MEMBER) } mim_config;
static const bmvp_field mim_fields[] = { MIM_FIELDS(MIM_FIELD) BMVP_RUN_FIELDS(MIM_FIELD) BMVP_FIELDS_END };
static const char *const mim_losses[] = { "hidden", NULL };

/* The mean square between crops and what the network rebuilds of them, over the hidden voxels. Items are crops. */
static void mim_forward(bmvp_pass *p)
{
    const float *const *item = (const float *const *)p->items;
    const int64_t dim[5] = { p->n, EDGE, EDGE, EDGE, 1 }, all = (int64_t)p->n * VOXELS;
    float *x = (float *)calloc((size_t)(3 * all), sizeof *x), *mask = x + all, *seen = mask + all;
    bmvp_tensor *hide, *loss;
    bmvp_features f;
    int64_t i, hidden = 0;
    for (i = 0; i < p->n && !bmvp_is_plan(p->c); ++i) { /* a plan has no values */
        bmvp_rng r = bmvp_pass_rng(p, 100, (uint32_t)(p->first + i));
        memcpy(x + i * VOXELS, item[i], VOXELS * sizeof *x);
        bmvp_mask_blocks(mask + i * VOXELS, dim + 1, 16, ((const mim_config *)p->config)->hidden, &r);
    }
    for (i = 0; i < all; hidden += mask[i++] > 0) seen[i] = mask[i] > 0 ? 0 : x[i];
    hide = bmvp_input(p->c, 5, dim, mask);
    f = bmvp_net_encode(p->net, bmvp_input(p->c, 5, dim, seen), 1);
    loss = bmvp_mul(p->c, bmvp_net_reconstruct(p->net, &f), hide);
    loss = bmvp_mse(p->c, loss, bmvp_mul(p->c, bmvp_input(p->c, 5, dim, x), hide));
    bmvp_pass_loss(p, 0, BMVP_LOSS_MEAN, 1, bmvp_scale(p->c, loss, (double)all / (double)(hidden + !hidden), 0));
    free(x);
}

/* Steps up to `to`, fresh or from a file; then saved, if there is a name. Losses go to out[step]. */
static void mim_run(bmvp_ctx *c, const bmvp_method *m, const void *config, const char *from, const char *save,
                    int64_t to, bmvp_losses *out)
{
    static float volume[CASES][VOXELS];
    const float *item[CASES];
    bmvp_net_config net;
    bmvp_trainer *t;
    int i, n;
    for (i = 0; i < CASES * VOXELS; ++i) volume[i / VOXELS][i % VOXELS] = (float)(i / VOXELS + i / 8 % 2) * 0.2f;
    for (i = 0; i < CASES; ++i) item[i] = volume[i];
    (void)bmvp_net_preset("uniformer_tiny", &net);
    t = bmvp_trainer_create(c, m, &net, config, NULL, 1);
    if (t && from && bmvp_trainer_load(t, from, 1, NULL)) bmvp_fail(c, BMVP_E_IO, "%s was not read", from);
    while (!bmvp_failed(c) && t->steps < to) {
        n = bmvp_trainer_mine(t, CASES, &i); /* all of them, unless there are other ranks */
        (void)bmvp_trainer_step(t, item + i, n, bmvp_trainer_lr(t, STEPS), &out[t->steps]);
    }
    if (t && save && bmvp_trainer_save(t, save, 1, NULL, NULL)) bmvp_fail(c, BMVP_E_IO, "%s was not written", save);
    bmvp_trainer_destroy(t);
}

int main(void)
{
    static bmvp_losses once[STEPS], again[STEPS];
    const char *const file = "09_own_method.safetensors";
    bmvp_ctx *c = bmvp_create(NULL, NULL);
    static bmvp_method m; /* zeros: what is not set is done as always */
    mim_config k;
    int i;
    m.name = "mim", m.format = "masked-image modelling 1", m.loss = mim_losses, m.fields = mim_fields;
    m.config_size = sizeof k, m.item_size = sizeof(float *), m.forward = mim_forward;
    bmvp_run_default(&k), k.hidden = 0.75, k.batch = CASES, k.lr = 2e-3, k.warmup = 2, k.clip = 1;
    mim_run(c, &m, &k, NULL, NULL, STEPS, once);
    mim_run(c, &m, &k, NULL, file, STEPS / 2, again);
    mim_run(c, &m, &k, file, NULL, STEPS, again);
    for (i = 0; i < STEPS; ++i)
        printf("step %2d  loss %.7f  with a break %.7f\n", i + 1, once[i].total, again[i].total);
    if (bmvp_failed(c)) printf("%s\n", bmvp_error_of(c)->message);
    bmvp_destroy(c);
    return remove(file) != 0;
}
