/* pretrain_brainmvp.c - what `bmvp pretrain` does for BrainMVP alone: templates, their pictures, pairs of modalities */
#define _DEFAULT_SOURCE
#include "pretrain.h"
#include "learnable.h"
#include "report/pretrain_report.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct brainmvp {
    bmvp_ssl *ssl;
    bmvp_ssl_info was; /* with --resume: what its checkpoint says */
} brainmvp;
static brainmvp *part(const pretraining *s) { return (brainmvp *)s->own; }
static const bmvp_ssl_config *config_of(const pretraining *s) { return (const bmvp_ssl_config *)s->config; }

/* >>a run that goes on --------------------------------------------------------------------------------------------- */

static bmvp_status inspect(pretraining *s, const char *path)
{
    bmvp_ssl_info *was = &part(s)->was;
    bmvp_status st = bmvp_ssl_inspect(path, was, &s->err);
    if (st) return st;
    if (was->net.task == BMVP_TASK_SEGMENT || was->net.task == BMVP_TASK_CLASSIFY)
        return bmvp_error_set(
            &s->err, BMVP_E_ARG,
            "%s is a fine-tuned checkpoint, not a pre-training run: `bmvp finetune --resume` goes on with it", path);
    if (was->n_modalities == 0)
        return bmvp_error_set(&s->err, BMVP_E_ARG, "%s is not a run of BrainMVP: it has no templates", path);
    memcpy(s->was, &was->cfg, sizeof was->cfg);
    s->net = was->net;
    s->step = was->step;
    s->samples = was->samples;
    return BMVP_OK;
}

static bmvp_status fits(pretraining *s)
{
    return resume_modalities(s->o.out, &s->data, part(s)->was.n_modalities, part(s)->was.names, &s->err);
}

/* A run that goes on keeps its templates, also where the largest volume is another now. */
static const int64_t *grid(const pretraining *s)
{
    return part(s)->was.n_modalities ? part(s)->was.grid : s->data.grid;
}

/* >>data ----------------------------------------------------------------------------------------------------------- */

static bmvp_status learnable(pretraining *s)
{
    return learnable_tasks(&s->data, config_of(s), s->ranks.launch.size, s->length.total, s->length.samples,
                           ranks_lead(&s->ranks), &s->err);
}

static bmvp_ssl_config sampling(const pretraining *s) { return *config_of(s); }

/* >>start ---------------------------------------------------------------------------------------------------------- */

static bmvp_status plan(pretraining *s, const bmvp_config *k, const void *share, bmvp_memory *m)
{
    return bmvp_ssl_plan(k, &s->net, (const bmvp_ssl_config *)share, s->data.n_modalities, s->data.names, grid(s), m,
                         &s->err);
}

static bmvp_trainer *create(pretraining *s)
{
    part(s)->ssl = bmvp_ssl_create(s->c, &s->net, config_of(s), s->data.n_modalities, s->data.names, grid(s));
    return part(s)->ssl ? bmvp_ssl_trainer(part(s)->ssl) : NULL;
}

static void destroy(pretraining *s) { bmvp_ssl_destroy(part(s)->ssl); }

/* Templates start as the mean of up to 32 training volumes each, centred in the grid. */
static bmvp_status mean_templates(pretraining *s)
{
    const prepared_set *p = &s->data;
    bmvp_status st = BMVP_OK;
    int m;
    for (m = 0; m < p->n_modalities && !st; ++m) {
        bmvp_tensor *t = bmvp_ssl_template(part(s)->ssl, m);
        float *sum = (float *)calloc((size_t)t->numel, sizeof *sum);
        int64_t i, z, y, x, used = 0;
        if (!sum) return bmvp_error_set(&s->err, BMVP_E_OOM, "out of memory");
        for (i = 0; i < p->data.n && used < 32 && !st; ++i) {
            static const int64_t origin[3] = { 0, 0, 0 };
            const int64_t *d = p->cases[i].dim, n = d[0] * d[1] * d[2];
            int64_t at[3];
            float *v;
            if (!(p->cases[i].modalities >> m & 1u)) continue;
            v = (float *)malloc((size_t)n * sizeof *v);
            st = v ? prepared_crop(p, i, m, origin, d, v, &s->err)
                   : bmvp_error_set(&s->err, BMVP_E_OOM, "out of memory");
            bmvp_template_place(origin, d, t->dim, at);
            for (z = 0; z < d[0] && !st; ++z)
                for (y = 0; y < d[1]; ++y)
                    for (x = 0; x < d[2]; ++x) {
                        const int64_t a = z + at[0], b = y + at[1], c = x + at[2];
                        if (a >= 0 && a < t->dim[0] && b >= 0 && b < t->dim[1] && c >= 0 && c < t->dim[2])
                            sum[(a * t->dim[1] + b) * t->dim[2] + c] += v[(z * d[1] + y) * d[2] + x];
                    }
            free(v);
            ++used;
        }
        for (i = 0; i < t->numel && used > 1; ++i) sum[i] /= (float)used;
        bmvp_write(s->c, t, sum);
        free(sum);
    }
    return st;
}

static bmvp_status snapshot(pretraining *s) { return pretrain_snapshot(s->c, part(s)->ssl, s->o.out, &s->err); }

static bmvp_status fresh(pretraining *s)
{
    bmvp_status st = config_of(s)->template_mean_start ? mean_templates(s) : BMVP_OK;
    return st ? st : snapshot(s);
}

/* >>steps ---------------------------------------------------------------------------------------------------------- */

static bmvp_status pass(pretraining *s, const bmvp_ssl_item *item, const bmvp_ssl_draw *draw, int n)
{
    (void)draw;
    return bmvp_trainer_accumulate(s->trainer, item, n, NULL);
}

/* Snapshots: about eight columns in the report, spread over the run. */
static int looks(const pretraining *s, int64_t done)
{
    const int64_t total = s->length.total;
    return done == total || done * 8 / total != (done - 1) * 8 / total;
}

static double report_bytes(const pretraining *s) { return pretrain_report_bytes(config_of(s)); }

static bmvp_status report(pretraining *s)
{
    return pretrain_report(part(s)->ssl, &s->data, s->o.out, s->length.total, train_seconds(&s->loop), &s->err);
}

const pretrain_kind pretrain_brainmvp = { sizeof(brainmvp), inspect, fits,  learnable, sampling, plan,     create,
                                          destroy,          grid,    fresh, pass,      looks,    snapshot, report_bytes,
                                          report };
