/* pretrain_method.c - what `bmvp pretrain` does for the methods of examples/methods, one crop of a case at a time */
#define _DEFAULT_SOURCE
#include "pretrain.h"
#include "report/method_report.h"
#include <stdlib.h>
#include <string.h>

static const method_config *config_of(const pretraining *s) { return (const method_config *)s->config; }

static bmvp_status inspect(pretraining *s, const char *path)
{
    (void)s->row->preset("paper", s->was);
    return bmvp_trainer_inspect(path, s->m, &s->net, s->was, &s->step, &s->samples, &s->err);
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
    return bmvp_trainer_plan(k, s->m, &s->net, share, NULL, m, &s->err);
}

static bmvp_trainer *create(pretraining *s) { return bmvp_trainer_create(s->c, s->m, &s->net, s->config, NULL, 1); }
static void destroy(pretraining *s) { bmvp_trainer_destroy(s->trainer); }
static const int64_t *grid(const pretraining *s) { return s->data.grid; }

static bmvp_status pass(pretraining *s, const bmvp_ssl_item *item, int n)
{
    method_item *own = (method_item *)calloc((size_t)n + 1, sizeof *own);
    bmvp_status st = own ? BMVP_OK : BMVP_E_OOM;
    int i;
    for (i = 0; i < n && own; ++i) {
        own[i].x = item[i].x;
        own[i].modality = item[i].modality;
        own[i].slot = item[i].slot;
    }
    if (own) st = bmvp_trainer_accumulate(s->trainer, own, n, NULL);
    else bmvp_fail(s->c, st, "out of memory");
    free(own);
    return st;
}

static double report_bytes(const pretraining *s) { return method_report_bytes(config_of(s)); }

static bmvp_status report(pretraining *s)
{
    method_page p;
    p.row = s->row;
    p.trainer = s->trainer;
    p.data = &s->data;
    p.out = s->o.out;
    p.total = s->length.total;
    p.seconds = train_seconds(&s->loop);
    return method_report(&p, &s->err);
}

const pretrain_kind pretrain_method = { 0,       0,    inspect, NULL, NULL, sampling, plan,         create,
                                        destroy, grid, NULL,    pass, NULL, NULL,     report_bytes, report };
