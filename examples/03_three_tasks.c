/* 03_three_tasks.c - the method on one page: masking, template, and the three losses of BrainMVP

   What you learn: what one training step is made of. Two "modalities" of a synthetic head share their anatomy and differ in contrast; the
   network sees one with 7/8 of its voxels replaced, once by the other modality, once by the learned template.
   Run: build/03_three_tasks (about ten seconds). Both reconstruction losses should fall below half of where they start. */
#define BMVP_IMPLEMENTATION
#include "bmvp_tensor.h"
#include "bmvp_nn.h"
#include "bmvp_ssl.h"

enum { EDGE = 32, VOXELS = EDGE * EDGE * EDGE, CASES = 4, STEPS = 60 };

/* An ellipsoid with a bright shell and two dark ventricles; modality 1 inverts the contrast inside the head. */
static void make_head(float *v, int modality, uint32_t sample)
{
    bmvp_rng r = bmvp_rng_make(7, 0, 0, sample);
    const float wide = 0.75f + 0.2f * bmvp_rng_uniform(&r), shift = 0.1f * bmvp_rng_uniform(&r);
    int z, y, x;
    for (z = 0; z < EDGE; ++z)
        for (y = 0; y < EDGE; ++y)
            for (x = 0; x < EDGE; ++x) {
                const float a = ((float)x / 15.5f - 1) / wide, b = (float)y / 15.5f - 1, c = (float)z / 15.5f - 1;
                const float d = a * a + b * b + c * c, side = (a < 0 ? -a : a) - 0.25f - shift;
                float value = d > 0.8f ? 0.0f : d > 0.55f ? 0.9f : side * side + 4 * c * c + b * b < 0.05f ? 0.2f : 0.6f;
                if (modality == 1 && value > 0) value = 1.1f - value;
                v[(z * EDGE + y) * EDGE + x] = value;
            }
}

int main(void)
{
    static float volume[CASES][2][VOXELS];
    const char *const names[2] = { "t1", "t2" };
    const int64_t grid[3] = { EDGE, EDGE, EDGE };
    bmvp_ctx *c = bmvp_create(NULL, NULL);
    bmvp_ssl_config cfg;
    bmvp_net_config net;
    bmvp_ssl_losses loss;
    bmvp_ssl_item item[CASES];
    bmvp_ssl *ssl;
    int i, step;

    for (i = 0; i < CASES; ++i) {
        make_head(volume[i][0], 0, (uint32_t)i);
        make_head(volume[i][1], 1, (uint32_t)i);
    }
    (void)bmvp_ssl_preset("fast", &cfg); /* every field can be changed: see bmvp_ssl_config */
    cfg.crop = EDGE;
    cfg.batch = CASES;
    (void)bmvp_net_preset("uniformer_tiny", &net);
    ssl = bmvp_ssl_create(c, &net, &cfg, 2, names, grid);
    for (step = 0; step < STEPS && !bmvp_failed(c); ++step) {
        memset(item, 0, sizeof item);
        for (i = 0; i < CASES; ++i) {
            item[i].modality = (step + i) % 2;                 /* m: rebuilt */
            item[i].x = volume[i][item[i].modality];
            item[i].other = volume[i][1 - item[i].modality];   /* n: the filler of the cross-modal view */
            item[i].slot = (uint32_t)i;                        /* names the random numbers of its masks */
        }
        (void)bmvp_ssl_step(ssl, item, CASES, 2e-3, &loss);
        if (step % 10 == 0 || step == STEPS - 1)
            printf("step %2d  cross-modal %.4f  distillation %.4f  contrast %.4f\n", step, loss.cmr, loss.md, loss.cl);
    }
    if (bmvp_failed(c)) printf("%s\n", bmvp_error_of(c)->message);
    bmvp_ssl_destroy(ssl);
    bmvp_destroy(c);
    return 0;
}
