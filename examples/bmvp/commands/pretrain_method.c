/* pretrain_method.c - what `bmvp pretrain` does for the methods of examples/methods */
#define _DEFAULT_SOURCE
#include "pretrain.h"
#include "report/method_report.h"
#include <stdlib.h>
#include <string.h>

/* With --resume: what the checkpoint says of modalities and their grid; 0: they are nothing to the method. */
static bmvp_ssl_info *was(const pretraining *s) { return (bmvp_ssl_info *)s->own; }
static const method_config *config_of(const pretraining *s) { return (const method_config *)s->config; }

static bmvp_status inspect(pretraining *s, const char *path)
{
    bmvp_status st = bmvp_trainer_inspect(path, s->m, &s->net, s->was, &s->step, &s->samples, &s->err);
    return st ? st : bmvp_ssl_inspect(path, was(s), &s->err);
}

static bmvp_status fits(pretraining *s)
{
    return was(s)->n_modalities == 0
               ? BMVP_OK
               : resume_modalities(s->o.out, &s->data, was(s)->n_modalities, was(s)->names, &s->err);
}

/* A run that goes on keeps its grid, also where the largest volume is another now. */
static const int64_t *grid(const pretraining *s) { return was(s)->n_modalities ? was(s)->grid : s->data.grid; }

static method_setup setup_of(const pretraining *s)
{
    method_setup u;
    int64_t i;
    int m;
    memset(&u, 0, sizeof u);
    u.n_modalities = s->data.n_modalities;
    u.names = s->data.names;
    u.cases = s->data.data.n;
    u.ranks = s->ranks.launch.size;
    memcpy(u.grid, grid(s), sizeof u.grid);
    for (i = 0; i < u.cases; ++i)
        for (m = 0; m < u.n_modalities; ++m) u.count[m] += s->data.cases[i].modalities >> m & 1u;
    return u;
}

static bmvp_ssl_config sampling(const pretraining *s)
{
    bmvp_ssl_config k;
    (void)bmvp_ssl_preset("paper", &k);
    k.crop = config_of(s)->crop;
    k.batch = config_of(s)->batch;
    k.seed = config_of(s)->seed;
    return k;
}

static bmvp_status plan(pretraining *s, const bmvp_config *k, const void *share, bmvp_memory *m)
{
    const method_setup u = setup_of(s);
    return bmvp_trainer_plan(k, s->m, &s->net, share, &u, m, &s->err);
}

static bmvp_trainer *create(pretraining *s)
{
    const method_setup u = setup_of(s);
    return bmvp_trainer_create(s->c, s->m, &s->net, s->config, &u, 1);
}
static void destroy(pretraining *s) { bmvp_trainer_destroy(s->trainer); }

static bmvp_status pass(pretraining *s, const bmvp_ssl_item *item, const bmvp_ssl_draw *draw, int n)
{
    method_item *own = (method_item *)calloc((size_t)n + 1, sizeof *own);
    bmvp_status st = own ? BMVP_OK : BMVP_E_OOM;
    int i;
    for (i = 0; i < n && own; ++i) {
        own[i].x = item[i].x;
        own[i].modality = item[i].modality;
        own[i].slot = item[i].slot;
        own[i].index = draw[i].index;
        own[i].other = item[i].other;
        own[i].present = s->data.cases[draw[i].index].modalities;
        memcpy(own[i].place, item[i].template_start, sizeof own[i].place);
    }
    if (own) st = bmvp_trainer_accumulate(s->trainer, own, n, NULL);
    else bmvp_fail(s->c, st, "out of memory");
    free(own);
    return st;
}

static double report_bytes(const pretraining *s) { return method_report_bytes(s->row, config_of(s), &s->data); }

static bmvp_status report(pretraining *s)
{
    method_page p;
    p.row = s->row;
    p.trainer = s->trainer;
    p.data = &s->data;
    p.grid = grid(s);
    p.out = s->o.out;
    p.total = s->length.total;
    p.seconds = train_seconds(&s->loop);
    return method_report(&p, &s->err);
}

const pretrain_kind pretrain_method = { sizeof(bmvp_ssl_info), inspect, fits,   NULL, sampling, plan, create,
                                        destroy,               grid,    NULL,   pass, NULL,     NULL, report_bytes,
                                        report };
