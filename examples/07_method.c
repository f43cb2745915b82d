/* 07_method.c - lesson 7: the method by hand: one training step of BrainMVP, and that the library says the same

   What you learn: a step is two masked views of each crop, one network, three losses; numbers in brackets are the
   equations of the paper (arXiv 2410.10604). One view is filled from another modality of the case, the other one from
   the template, a volume that belongs to a modality and is learned: where it is shown gradients flow into it.
   Run:  cc -O2 -I. examples/07_method.c -o 07_method -lm -lpthread && ./07_method          (5 s; compiling: 20 s)
   You see, numbers within 5 % or 0.005 (tests: the best level, AVX2, C's vectors;
   `make course-levels`: plain, 33 s); and 07_method.svg: crop, masks, views, what is rebuilt, the template:
   | by hand        cross-modal 0.2611  distillation 0.2612  contrast 1.0864
   | bmvp_ssl_step  cross-modal 0.2611  distillation 0.2612  contrast 1.0864
   | template of t1, root mean square: after step 1 0.001, after step 26 0.051; cross-modal 0.076
   Exercises:
   1. Set the temperature tau to 0.07. What becomes of the contrast, and when can it be larger than log 3? Hint:
      all cosines of a fresh network are near 1; tau stretches what is left, whichever view is nearest.
   2. Count the rebuilding error in masked voxels only, as masked auto-encoders do. Hint: bmvp_mul both sides of mse()
      by the mask, and divide by its mean.
   In the headers: bmvp_ssl.h >>mask, >>views, >>losses, >>forward. Twin: pytorch/07_method.py, which starts from the
   file that `./07_method START.pt` writes. */
#define BMVP_IMPLEMENTATION
#include "bmvp_tensor.h"
#include "bmvp_nn.h"
#include "bmvp_ssl.h"
#include "picture.h"
#include <math.h>
#include <string.h>

enum { EDGE = 32, VOXELS = EDGE * EDGE * EDGE, CASES = 3, STEPS = 25 };
static const int64_t cube[3] = { EDGE, EDGE, EDGE };

/* Phi (Algorithm 1): where the mask is 1 the filler shows instead of the crop. (1, D, H, W, 1) */
static bmvp_tensor *phi(bmvp_ctx *c, bmvp_tensor *crop, bmvp_tensor *filler, const float *mask)
{
    const int64_t start[3] = { 0, 0, 0 }, batch[5] = { 1, EDGE, EDGE, EDGE, 1 };
    return bmvp_reshape(c, bmvp_masked_fill(c, crop, filler, bmvp_input(c, 3, cube, mask), start), 5, batch);
}

/* (2), (3): || F(view) - X ||^2, mean over voxels and cases; the views are number first, first + 1 ... of the batch */
static bmvp_tensor *rebuilding(bmvp_ctx *c, bmvp_tensor *rebuilt, int first, bmvp_tensor *const *crop)
{
    bmvp_tensor *sum = NULL, *one;
    int i;
    for (i = 0; i < CASES; ++i, sum = sum ? bmvp_add(c, sum, one) : one)
        one = bmvp_mse(c, bmvp_reshape(c, bmvp_slice(c, rebuilt, 0, first + i, 1), 3, cube), crop[i]);
    return bmvp_scale(c, sum, 1 / (double)CASES, 0);
}

/* (4), (5): a view is to find the other view of its case among those of all: cross-entropy of cosines / tau, both
   ways */
static bmvp_tensor *contrast(bmvp_ctx *c, bmvp_tensor *map, double tau)
{
    const int64_t flat[2] = { CASES, map ? map->numel / (2 * CASES) : 0 };
    const int32_t own[CASES] = { 0, 1, 2 };
    bmvp_tensor *g = bmvp_l2_normalize(c, bmvp_reshape(c, bmvp_slice(c, map, 0, 0, CASES), 2, flat), 1e-12);
    bmvp_tensor *f = bmvp_l2_normalize(c, bmvp_reshape(c, bmvp_slice(c, map, 0, CASES, CASES), 2, flat), 1e-12);
    bmvp_tensor *there = bmvp_cross_entropy(c, bmvp_scale(c, bmvp_matmul(c, f, g, 0, 1), 1 / tau, 0), own);
    bmvp_tensor *back = bmvp_cross_entropy(c, bmvp_scale(c, bmvp_matmul(c, g, f, 0, 1), 1 / tau, 0), own);
    return bmvp_scale(c, bmvp_add(c, there, back), 0.5, 0);
}

/* One step up to its losses: cross-modal, distillation, contrast. */
static void by_hand(bmvp_ssl *ssl, const bmvp_ssl_item *item, double loss[3])
{
    bmvp_net *net = bmvp_ssl_net(ssl);
    bmvp_ctx *c = bmvp_ssl_trainer(ssl)->c;
    bmvp_tensor *crop[CASES], *view[2 * CASES], *rebuilt;
    bmvp_features f;
    int i;
    bmvp_step_begin(c);
    for (i = 0; i < CASES; ++i) { /* one batch: views filled from the template T_m, then those filled from modality n */
        crop[i] = bmvp_input(c, 3, cube, item[i].x);
        view[i] = phi(c, crop[i], bmvp_ssl_template(ssl, 0), item[i].mask_template);
        view[CASES + i] = phi(c, crop[i], bmvp_input(c, 3, cube, item[i].other), item[i].mask_modal);
    }
    f = bmvp_net_encode(net, bmvp_concat(c, 2 * CASES, view, 0), 1);
    rebuilt = bmvp_net_reconstruct(net, &f);
    loss[0] = (double)bmvp_scalar(c, rebuilding(c, rebuilt, CASES, crop));
    loss[1] = (double)bmvp_scalar(c, rebuilding(c, rebuilt, 0, crop));
    loss[2] = (double)bmvp_scalar(c, contrast(c, f.last, bmvp_ssl_config_of(ssl)->temperature));
}

/* A template begins at 0 and grows to what helps the network to rebuild crops of its modality: its root mean square. */
static double template_size(bmvp_ssl *ssl)
{
    static float t[VOXELS];
    double sum = 0;
    int k;
    bmvp_read(bmvp_ssl_trainer(ssl)->c, bmvp_ssl_template(ssl, 0), t);
    for (k = 0; k < VOXELS; ++k) sum += (double)t[k] * (double)t[k];
    return sqrt(sum / (double)VOXELS);
}

/* The start for the twin in PyTorch: network and templates under the names of the released code, and the masks. */
static bmvp_status hand_over(bmvp_ssl *ssl, float (*mask)[2][VOXELS], const char *path, bmvp_error *err)
{
    const int64_t dim[5] = { CASES, 2, EDGE, EDGE, EDGE };
    bmvp_state_part part = { NULL, NULL, NULL, 0 };
    bmvp_ckpt_writer *w;
    if (bmvp_ckpt_writer_begin(path, BMVP_CKPT_PT, NULL, &w, err)) return err->status;
    part.c = bmvp_ssl_trainer(ssl)->c, part.list = bmvp_ssl_state(ssl);
    (void)bmvp_state_declare(w, "state_dict", &part, err);
    (void)bmvp_ckpt_writer_add(w, "example", "mask", BMVP_DTYPE_F32, 5, dim, err);
    (void)bmvp_state_data(w, &part, err);
    (void)bmvp_ckpt_writer_data(w, mask, CASES * sizeof *mask, err);
    return bmvp_ckpt_writer_finish(w, err); /* the first failure */
}

static int show(bmvp_ssl *ssl, const bmvp_ssl_item *item)
{
    static float of[5][VOXELS];
    const bmvp_ssl_preview look = { of[0], of[1], of[2], of[3] };
    const char *const title[7] = { "crop of t1", "mask", "view: filled from t2", "view: filled from T",
                                   "rebuilt from the first", "rebuilt from the second", "template T of t1" };
    const float *what[7];
    picture p[7];
    int i;
    if (bmvp_ssl_look(ssl, item, &look)) return 1;
    bmvp_read(bmvp_ssl_trainer(ssl)->c, bmvp_ssl_template(ssl, 0), of[4]);
    what[0] = item->x, what[1] = item->mask_modal, what[2] = of[0], what[3] = of[1];
    what[4] = of[2], what[5] = of[3], what[6] = of[4];
    for (i = 0; i < 7; ++i) { /* the slice in the middle */
        p[i].title = title[i], p[i].value = what[i] + VOXELS / 2, p[i].width = p[i].height = EDGE;
        p[i].low = 0, p[i].high = 1;
    }
    return picture_write("07_method.svg", "The middle slice. Where the mask is white the crop is hidden: a view shows "
                         "t2 there, or the template; both are to become the crop again.", p, 7);
}

int main(int argc, char **argv)
{
    static float crop[CASES][2][VOXELS], mask[CASES][2][VOXELS];
    const char *const names[2] = { "t1", "t2" };
    bmvp_ctx *c = bmvp_create(NULL, NULL);
    bmvp_ssl_item item[CASES];
    bmvp_ssl_config cfg;
    bmvp_net_config net;
    bmvp_ssl_losses l;
    bmvp_error err;
    double loss[3];
    bmvp_ssl *ssl;
    int i, k;

    memset(item, 0, sizeof item);
    (void)bmvp_ssl_preset("paper", &cfg);
    cfg.crop = cfg.template_x = cfg.template_y = cfg.template_z = EDGE;
    cfg.contrast_from_epoch = 0;
    for (i = 0; i < CASES; ++i) { /* two modalities of the same blocks: what is bright in one is dark in the other */
        for (k = 0; k < VOXELS; ++k) crop[i][0][k] = (float)(k / (5 + i) % 8 + k / 1024 % 4) / 11;
        for (k = 0; k < VOXELS; ++k) crop[i][1][k] = 1 - crop[i][0][k];
        for (k = 0; k < 2; ++k) {
            bmvp_rng r = bmvp_rng_make(1, (uint32_t)k, 0, (uint32_t)i);
            bmvp_mask_boxes(mask[i][k], cube, cfg.mask_patch, cfg.mask_ratio, &r);
        }
        item[i].x = crop[i][0], item[i].other = crop[i][1];
        item[i].mask_template = mask[i][0], item[i].mask_modal = mask[i][1];
    }
    (void)bmvp_net_preset("uniformer_tiny", &net);
    ssl = bmvp_ssl_create(c, &net, &cfg, 2, names, cube);
    if (ssl && argc > 1 && hand_over(ssl, mask, argv[1], &err)) printf("%s\n", err.message);
    if (ssl) {
        by_hand(ssl, item, loss);
        printf("by hand        cross-modal %.7f  distillation %.7f  contrast %.7f\n", loss[0], loss[1], loss[2]);
        (void)bmvp_ssl_step(ssl, item, CASES, 1e-3, &l); /* and backward, and AdamW */
        printf("bmvp_ssl_step  cross-modal %.7f  distillation %.7f  contrast %.7f\n", l.cmr, l.md, l.cl);
        printf("template of t1, root mean square: after step 1 %.3f", template_size(ssl));
        for (i = 0; i < STEPS; ++i) (void)bmvp_ssl_step(ssl, item, CASES, 1e-2, &l);
        printf(", after step %d %.3f; cross-modal %.3f\n", STEPS + 1, template_size(ssl), l.cmr);
        (void)show(ssl, &item[0]);
    }
    if (bmvp_failed(c)) printf("%s\n", bmvp_error_of(c)->message);
    bmvp_ssl_destroy(ssl);
    bmvp_destroy(c);
    return 0;
}
