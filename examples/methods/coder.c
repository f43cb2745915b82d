/* coder.c - see coder.h */
#include "coder.h"
#include "views.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { DOWN = 8 }; /* convolutions on the way down */

static int64_t channels(int64_t width, int i)
{
    return i < DOWN ? width << (i / 2 + i % 2) : width << (3 - (i - DOWN) / 2);
}

void coder_make(coder *k, bmvp_ctx *c, bmvp_state_list *list, int64_t width)
{
    int64_t in = 1;
    char name[16];
    int i;
    bmvp_module_begin(&k->m, c, list);
    bmvp_enter(&k->m, "coder");
    for (i = 0; i < CODER_CONVS; in = channels(width, i++)) {
        snprintf(name, sizeof name, "conv%d", i);
        k->conv[i] = bmvp_make_conv(&k->m, name, in, channels(width, i), 3, 1, 1, 1);
        snprintf(name, sizeof name, "norm%d", i);
        k->norm[i] = bmvp_make_batchnorm(&k->m, name, channels(width, i));
    }
    k->last = bmvp_make_conv(&k->m, "last", in, 1, 1, 1, 0, 1);
    bmvp_leave(&k->m);
}

static bmvp_tensor *convolve(coder *k, int i, bmvp_tensor *x)
{
    return bmvp_relu(k->m.c, bmvp_run(&k->m, &k->norm[i], bmvp_run(&k->m, &k->conv[i], x)));
}

static bmvp_tensor *go_down(coder *k, bmvp_tensor *x, int training)
{
    int i;
    k->m.training = training;
    for (i = 0; i < DOWN; ++i) x = convolve(k, i, i > 0 && i % 2 == 0 ? bmvp_maxpool3d(k->m.c, x, 2) : x);
    return x;
}

/* n regions as (n, edge, edge, edge, 1), zeros in a plan; NULL: no memory */
static bmvp_tensor *resized(bmvp_ctx *c, int64_t n, const float *const *region, int64_t crop, int64_t edge)
{
    const int64_t d[3] = { crop, crop, crop }, to[3] = { edge, edge, edge }, corner[3] = { 0, 0, 0 };
    const int64_t dim[5] = { n, edge, edge, edge, 1 }, voxels = edge * edge * edge;
    float *x = (float *)calloc((size_t)(n * voxels) + 1, sizeof *x);
    bmvp_tensor *y;
    int64_t i;
    if (!x) return (bmvp_tensor *)bmvp_fail(c, BMVP_E_OOM, "coder: no memory for %lld regions", (long long)n);
    for (i = 0; i < n && !bmvp_is_plan(c); ++i) view_cut(d, region[i], corner, d, to, x + i * voxels);
    y = bmvp_input(c, 5, dim, x);
    free(x);
    return y;
}

bmvp_tensor *coder_loss(bmvp_pass *p, coder *k, int64_t crop, int64_t edge)
{
    const method_item *item = (const method_item *)p->items;
    const float **region = (const float **)calloc((size_t)p->n + 1, sizeof *region);
    bmvp_tensor *x = NULL, *y;
    int i;
    for (i = 0; i < p->n && region; ++i) region[i] = item[i].x;
    if (region) x = resized(p->c, p->n, region, crop, edge);
    else bmvp_fail(p->c, BMVP_E_OOM, "coder: no memory for %d regions", p->n);
    free((void *)region);
    y = go_down(k, x, 1);
    for (i = DOWN; i < CODER_CONVS; ++i) y = convolve(k, i, i % 2 == 0 ? bmvp_upsample_nearest(p->c, y, 2) : y);
    return bmvp_mse(p->c, bmvp_sigmoid(p->c, bmvp_run(&k->m, &k->last, y)), x);
}

void coder_codes(coder *k, int64_t n, const float *const *region, int64_t crop, int64_t edge, float *code,
                 int64_t apart)
{
    bmvp_ctx *c = k->m.c;
    const int was = bmvp_set_grad(c, 0);
    bmvp_tensor *y = bmvp_global_pool(c, go_down(k, resized(c, n, region, crop, edge), 0));
    const int64_t width = y ? y->dim[1] : 0;
    float *all = (float *)malloc((size_t)(n * width) * sizeof *all + 1);
    int64_t i;
    (void)bmvp_set_grad(c, was);
    if (!all) bmvp_fail(c, BMVP_E_OOM, "coder: no memory for %lld codes", (long long)n);
    else if (y && !bmvp_is_plan(c) && bmvp_read(c, y, all) == BMVP_OK)
        for (i = 0; i < n; ++i) memcpy(code + i * apart, all + i * width, (size_t)width * sizeof *all);
    free(all);
}
