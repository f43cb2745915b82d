/* nets.h - networks of tests: presets, heads for a task, fresh weights. */
#ifndef BMVP_TEST_NETS_H
#define BMVP_TEST_NETS_H

#include "bmvp_tensor.h"
#include "bmvp_nn.h"
#include "tests/support/check.h"
#include "tests/support/context.h"
#include "tests/support/device.h"
#include "tests/support/fixture.h"
#include "tests/support/formula.h"

static inline bmvp_net_config preset(const char *name)
{
    bmvp_net_config k;
    memset(&k, 0, sizeof k);
    CHECK(bmvp_net_preset(name, &k));
    return k;
}

static inline bmvp_net_config downstream_of(const char *name, bmvp_net_task task, int in_channels, int outputs)
{
    bmvp_net_config cfg = preset(name);
    cfg.task = task;
    cfg.in_channels = in_channels;
    cfg.outputs = outputs;
    cfg.deep_supervision = task == BMVP_TASK_SEGMENT && bmvp_net_kind_find(NULL, cfg.kind)->deep;
    return cfg;
}

static inline bmvp_net *fresh(bmvp_ctx *c, const bmvp_net_config *cfg, uint64_t seed)
{
    bmvp_net *net = bmvp_net_create(c, cfg);
    bmvp_net_init(net, seed);
    return net;
}

static inline int find_state(const bmvp_state_list *l, const char *name)
{
    int i;
    for (i = 0; i < l->n; ++i)
        if (strcmp(l->item[i].name, name) == 0) return i;
    return -1;
}

#endif /* BMVP_TEST_NETS_H */
