/* pass.h - one training pass of the tiny network by a rank with some of the samples: for the tests of several ranks */
#ifndef BMVP_PASS_H
#define BMVP_PASS_H

#include "bmvp_tensor.h"
#include "bmvp_nn.h"
#include <stdlib.h>
#include <string.h>

enum { PASS_EDGE = 32, PASS_VOXELS = PASS_EDGE * PASS_EDGE * PASS_EDGE };
enum { PASS_EARLY = 1, PASS_RECOMPUTE = 2 }; /* gradients leave during backward; blocks are computed again */

typedef struct pass {
    const bmvp_backend *backend; /* NULL: the CPU */
    const bmvp_comm *comm;       /* NULL: one rank with all samples */
    int first, samples, flags;
    float *out; /* gradients, then running statistics, of the whole list */
    int64_t n;
    int sent, buckets;
    bmvp_error err;
} pass;

static float pass_value(int sample, int64_t i) { return (float)((sample * 7919 + i * 104729) % 1000) * 1e-3f - 0.2f; }

/* The sum over this rank's samples of a loss of theirs alone, so that the ranks' gradients add up to those of the whole
   batch. */
static bmvp_tensor *pass_loss(bmvp_ctx *c, bmvp_net *net, const pass *p)
{
    const int64_t dim[5] = { p->samples, PASS_EDGE, PASS_EDGE, PASS_EDGE, 1 };
    float *x = (float *)malloc((size_t)(p->samples * PASS_VOXELS) * sizeof *x);
    bmvp_features f;
    bmvp_tensor *in, *y;
    int64_t i;
    for (i = 0; i < p->samples * PASS_VOXELS; ++i)
        x[i] = pass_value(p->first + (int)(i / PASS_VOXELS), i % PASS_VOXELS);
    in = bmvp_leaf(c, 5, dim, x);
    free(x);
    f = bmvp_net_encode(net, in, 1);
    y = bmvp_net_reconstruct(net, &f);
    y = bmvp_add(c, bmvp_mse(c, y, in), bmvp_mean(c, bmvp_mul(c, f.map[3], f.map[3])));
    return bmvp_scale(c, y, (double)p->samples, 0);
}

static void pass_read(bmvp_ctx *c, const bmvp_state_list *l, pass *p)
{
    int i;
    for (i = 0; i < l->n; ++i) if (l->item[i].torch_rank > 0) p->n += l->item[i].t->numel;
    p->out = (float *)calloc((size_t)p->n, sizeof *p->out);
    for (p->n = 0, i = 0; i < l->n; ++i) {
        bmvp_tensor *t = l->item[i].t;
        if (l->item[i].torch_rank == 0) continue;
        if (!l->item[i].trained) bmvp_read(c, t, p->out + p->n);
        else if (bmvp_has_grad(t)) bmvp_read_grad(c, t, p->out + p->n);
        p->n += t->numel;
    }
}

static void pass_run(pass *p)
{
    bmvp_config k = bmvp_config_default();
    bmvp_net_config cfg;
    bmvp_ctx *c;
    bmvp_net *net;
    bmvp_reducer *reducer;
    k.threads = 1;
    k.backend = p->backend;
    c = bmvp_create(&k, &p->err);
    bmvp_net_preset("uniformer_tiny", &cfg);
    net = bmvp_net_create(c, &cfg);
    bmvp_net_init(net, 1 + (uint64_t)(p->comm ? p->comm->rank : 0)); /* differ, until rank 0's go to all */
    bmvp_net_set_recompute(net, p->flags & PASS_RECOMPUTE);
    if (p->comm) bmvp_set_comm(c, p->comm);
    bmvp_state_broadcast(c, bmvp_net_state(net), NULL);
    reducer = bmvp_reducer_create(c, bmvp_net_state(net));
    if (reducer && p->flags & PASS_EARLY) bmvp_reducer_start(reducer);
    bmvp_backward(c, pass_loss(c, net, p));
    if (reducer) {
        bmvp_reducer_finish(reducer);
        p->buckets = bmvp_reducer_buckets(reducer, &p->sent);
    }
    p->err = *bmvp_error_of(c);
    if (!bmvp_failed(c)) pass_read(c, bmvp_net_state(net), p);
    bmvp_reducer_destroy(reducer);
    bmvp_net_destroy(net);
    bmvp_destroy(c);
}

#endif /* BMVP_PASS_H */
