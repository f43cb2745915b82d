/* Solutions of lesson 7, with its functions: the contrast by its temperature; rebuilding counted in masked voxels. */
#define main lesson
#include "07_method.c"
#undef main

/* 2. || mask (F(view) - X) ||^2 / share of the mask: a mean over masked voxels alone */
static bmvp_tensor *masked_rebuilding(bmvp_ctx *c, bmvp_tensor *rebuilt, int number, bmvp_tensor *crop,
                                      const float *mask)
{
    bmvp_tensor *hide = bmvp_input(c, 3, cube, mask);
    bmvp_tensor *one = bmvp_reshape(c, bmvp_slice(c, rebuilt, 0, number, 1), 3, cube);
    double share = 0;
    int k;
    for (k = 0; k < VOXELS; ++k) share += (double)mask[k] / (double)VOXELS;
    return bmvp_scale(c, bmvp_mse(c, bmvp_mul(c, one, hide), bmvp_mul(c, crop, hide)), 1 / share, 0);
}

/* The same by a loop, in double */
static double by_loop(bmvp_ctx *c, bmvp_tensor *rebuilt, int number, const float *crop, const float *mask)
{
    static float all[2 * CASES * VOXELS];
    double sum = 0, n = 0;
    int k;
    if (bmvp_read(c, rebuilt, all)) return HUGE_VAL;
    for (k = 0; k < VOXELS; ++k) {
        const double d = (double)all[number * VOXELS + k] - (double)crop[k];
        sum += mask[k] > 0 ? d * d : 0, n += mask[k] > 0;
    }
    return sum / n;
}

static bmvp_tensor *views(bmvp_ctx *c, bmvp_ssl *ssl, const bmvp_ssl_item *item, bmvp_tensor **crop)
{
    bmvp_tensor *view[2 * CASES];
    int i;
    for (i = 0; i < CASES; ++i) {
        crop[i] = bmvp_input(c, 3, cube, item[i].x);
        view[i] = phi(c, crop[i], bmvp_ssl_template(ssl, 0), item[i].mask_template);
        view[CASES + i] = phi(c, crop[i], bmvp_input(c, 3, cube, item[i].other), item[i].mask_modal);
    }
    return bmvp_concat(c, 2 * CASES, view, 0);
}

int main(void)
{
    static float crop[CASES][2][VOXELS], mask[CASES][VOXELS];
    const char *const names[2] = { "t1", "t2" };
    const double tau[3] = { 1, 0.07, 0.007 };
    bmvp_ctx *c = bmvp_create(NULL, NULL);
    double cl[3], by_op, loop, everywhere;
    bmvp_tensor *of[CASES], *rebuilt;
    bmvp_ssl_item item[CASES];
    bmvp_ssl_config cfg;
    bmvp_net_config net;
    bmvp_features f;
    bmvp_ssl *ssl;
    int i, k, bad;

    memset(item, 0, sizeof item);
    (void)bmvp_ssl_preset("paper", &cfg);
    cfg.crop = cfg.template_x = cfg.template_y = cfg.template_z = EDGE;
    for (i = 0; i < CASES; ++i) {
        bmvp_rng r = bmvp_rng_make(1, 1, 0, (uint32_t)i);
        for (k = 0; k < VOXELS; ++k) crop[i][0][k] = (float)(k / (5 + i) % 8 + k / 1024 % 4) / 11;
        for (k = 0; k < VOXELS; ++k) crop[i][1][k] = 1 - crop[i][0][k];
        bmvp_mask_boxes(mask[i], cube, cfg.mask_patch, cfg.mask_ratio, &r);
        item[i].x = crop[i][0], item[i].other = crop[i][1];
        item[i].mask_template = item[i].mask_modal = mask[i];
    }
    (void)bmvp_net_preset("uniformer_tiny", &net);
    ssl = bmvp_ssl_create(c, &net, &cfg, 2, names, cube);
    if (!ssl) return 1;
    bmvp_step_begin(c);
    f = bmvp_net_encode(bmvp_ssl_net(ssl), views(c, ssl, item, of), 1);

    /* 1. log 3 is what equal cosines give, whatever tau: the right view is one of three. Small differences divided by
       a small tau are large: here the right view is the nearest, and the contrast falls; where a wrong one is nearer
       it costs more than not knowing, and the contrast is above log 3. */
    for (i = 0; i < 3; ++i) {
        cl[i] = (double)bmvp_scalar(c, contrast(c, f.last, tau[i]));
        printf("tau %.3f: contrast %.4f, log 3 is %.4f\n", tau[i], cl[i], log(3.0));
    }
    rebuilt = bmvp_net_reconstruct(bmvp_ssl_net(ssl), &f);
    by_op = (double)bmvp_scalar(c, masked_rebuilding(c, rebuilt, CASES, of[0], mask[0]));
    loop = by_loop(c, rebuilt, CASES, crop[0][0], mask[0]);
    rebuilt = bmvp_reshape(c, bmvp_slice(c, rebuilt, 0, CASES, 1), 3, cube);
    everywhere = (double)bmvp_scalar(c, bmvp_mse(c, rebuilt, of[0]));
    printf("rebuilding, masked voxels: by ops %.5f, by a loop %.5f; all voxels %.5f\n", by_op, loop, everywhere);
    bad = bmvp_failed(c) || !(fabs(cl[0] - log(3.0)) < 0.05) || !(fabs(cl[1] - cl[0]) > 0.01) ||
          !(fabs(by_op - loop) < 1e-4 * loop) || !(loop > 0) || !(fabs(by_op - everywhere) > 1e-6);
    bmvp_ssl_destroy(ssl);
    bmvp_destroy(c);
    return bad;
}
