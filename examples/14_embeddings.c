/* 14_embeddings.c - lesson 14: embeddings: who is nearest to whom, before and after pre-training

   What you learn: the last feature map, as one long vector of length 1, is the embedding of a volume, and the cosine of
   two of them says how alike the network finds them. The contrast of the method pulls the two views of a case
   together, one of which shows two modalities: so a case should find itself in another modality. Here a search over 8
   cases in 3 modalities, 24 volumes: how many have a volume of their own case as the nearest one? Before: 5, where
   chance gives 2. After 32 steps: all. Of cases that the network never saw about half: eight cases are largely
   learned by heart, and what generalises needs many (exercise 1).
   Run:  cc -O2 -I. examples/14_embeddings.c -o 14_embeddings -lm -lpthread && ./14_embeddings (8 s; compiling: 20 s)
   You see, numbers within 15 % or 5 (tests: the best level, AVX2, C's vectors; `make course-levels`: plain, 99 s); and
   14_embeddings.svg: cosines of all pairs, those of a case side by side:
   | by chance: own case 2.1 own modality 7.3
   | before: own case 5 of 24 own modality 8
   | before, new cases: own case 7 of 24 own modality 8
   | after: own case 24 of 24 own modality 0
   | after, new cases: own case 14 of 24 own modality #
   Exercises:
   1. Train on 64 cases, 8 in a step. After how many steps do new cases find themselves more often than before? Hint:
      the number of the case is s * CASES + i, modulo 64; pass over them 20 times.
   2. Take the mean over the places of the map, as `bmvp embed` does, in place of the whole map. What is lost? Hint:
      bmvp_global_pool.
   In the headers: bmvp_ssl.h >>losses (the contrast); bmvp_tensor.h >>op l2_normalize. */
#define BMVP_IMPLEMENTATION
#include "bmvp_tensor.h"
#include "bmvp_nn.h"
#include "bmvp_ssl.h"
#include "picture.h"
#include <stdlib.h>
#include <string.h>

enum {
    EDGE = 32,
    N = EDGE * EDGE * EDGE,
    MODALITIES = 3,
    CASES = 8,
    VOLUMES = CASES * MODALITIES,
    BALLS = 6,
    STEPS = 32,
    MOST = 1024 /* numbers of an embedding */
};
static float image[CASES][MODALITIES][N];

/* Three tissues: the ground, and balls of two kinds at random places; each modality shows them in its own greys. */
static void make_case(uint32_t number, float (*of)[N])
{
    static const float grey[MODALITIES][3] = { { 0.3f, 0.8f, 0.5f }, { 0.6f, 0.3f, 0.9f }, { 0.1f, 0.2f, 0.6f } };
    bmvp_rng r = bmvp_rng_make(5, 1, 0, number);
    float ball[BALLS][4];
    int i, b, m;
    for (b = 0; b < BALLS; ++b) {
        for (m = 0; m < 3; ++m) ball[b][m] = (float)EDGE * bmvp_rng_uniform(&r);
        ball[b][3] = 4 + 6 * bmvp_rng_uniform(&r);
    }
    for (i = 0; i < N; ++i) {
        int tissue = 0;
        for (b = 0; b < BALLS; ++b) {
            const float z = (float)(i / EDGE / EDGE) - ball[b][0], y = (float)(i / EDGE % EDGE) - ball[b][1];
            const float x = (float)(i % EDGE) - ball[b][2];
            if (x * x + y * y + z * z < ball[b][3] * ball[b][3]) tissue = 1 + b % 2;
        }
        for (m = 0; m < MODALITIES; ++m) of[m][i] = grey[m][tissue] + 0.05f * bmvp_rng_normal(&r);
    }
}

/* The last map of a volume as one vector of length 1: what the contrast compares. Returns how many numbers it has. */
static int64_t embed(bmvp_ssl *ssl, const float *volume, float *out)
{
    const int64_t dim[5] = { 1, EDGE, EDGE, EDGE, 1 };
    bmvp_ctx *c = bmvp_ssl_trainer(ssl)->c;
    const int was = bmvp_set_grad(c, 0); /* no tape: nothing is trained here */
    int64_t flat[2] = { 1, 0 };
    bmvp_features f;
    bmvp_step_begin(c);
    f = bmvp_net_encode(bmvp_ssl_net(ssl), bmvp_input(c, 5, dim, volume), 0);
    flat[1] = f.last ? f.last->numel : 0;
    if (flat[1] > MOST) (void)bmvp_fail(c, BMVP_E_SHAPE, "the embedding has more than %d numbers", MOST);
    (void)bmvp_read(c, bmvp_l2_normalize(c, bmvp_reshape(c, f.last, 2, flat), 1e-12), out);
    bmvp_set_grad(c, was);
    return bmvp_failed(c) ? 0 : flat[1];
}

/* The nearest of all others: how often of the same case, how often of the same modality. cosine: VOLUMES^2 */
static void search(const char *when, bmvp_ssl *ssl, uint32_t first, float *cosine)
{
    static float row[VOLUMES][MOST];
    int i, j, own_case = 0, own_modality = 0;
    int64_t n = 0, k;
    for (i = 0; i < CASES; ++i) make_case(first + (uint32_t)i, image[i]);
    for (i = 0; i < VOLUMES; ++i) n = embed(ssl, image[i / MODALITIES][i % MODALITIES], row[i]);
    for (i = 0; i < VOLUMES; ++i) {
        int nearest = i ? 0 : 1;
        for (j = 0; j < VOLUMES; ++j) {
            cosine[i * VOLUMES + j] = 0;
            for (k = 0; k < n; ++k) cosine[i * VOLUMES + j] += row[i][k] * row[j][k];
            if (j != i && cosine[i * VOLUMES + j] > cosine[i * VOLUMES + nearest]) nearest = j;
        }
        own_case += nearest / MODALITIES == i / MODALITIES;
        own_modality += nearest % MODALITIES == i % MODALITIES;
    }
    printf("%s: own case %d of %d own modality %d\n", when, own_case, VOLUMES, own_modality);
}

static void pretrain(bmvp_ssl *ssl)
{
    bmvp_ssl_item item[CASES];
    bmvp_ssl_losses l;
    int s, i;
    for (i = 0; i < CASES; ++i) make_case((uint32_t)i, image[i]);
    for (s = 0; s < STEPS; ++s) { /* of each case one modality, and another one that fills it */
        memset(item, 0, sizeof item);
        for (i = 0; i < CASES; ++i) {
            item[i].modality = (s + i) % MODALITIES;
            item[i].x = image[i][item[i].modality];
            item[i].other = image[i][(item[i].modality + 1 + s / 3 % 2) % MODALITIES];
            item[i].slot = (uint32_t)i;
        }
        if (bmvp_ssl_step(ssl, item, CASES, 3e-3, &l)) return;
        if (s % 16 == 15)
            printf("step %d: cross-modal %.3f distillation %.3f contrast %.3f\n", s + 1, l.cmr, l.md, l.cl);
    }
}

/* Cosines are near 1 as a whole: black is the smallest of a table, white 1. */
static int show(float (*cosine)[VOLUMES * VOLUMES])
{
    static const char *const title[3] = { "before", "after", "after, new cases" };
    picture p[3];
    int i, k;
    for (i = 0; i < 3; ++i) {
        p[i].title = title[i], p[i].width = p[i].height = VOLUMES, p[i].value = cosine[i];
        p[i].low = p[i].high = 1;
        for (k = 0; k < VOLUMES * VOLUMES; ++k) if (cosine[i][k] < p[i].low) p[i].low = cosine[i][k];
    }
    return picture_write("14_embeddings.svg", "Cosines of 24 volumes, the three of a case side by side; white: alike. "
                         "Blocks along the diagonal: cases that find themselves.", p, 3);
}

int main(void)
{
    static float cosine[3][VOLUMES * VOLUMES], again[VOLUMES * VOLUMES];
    static const char *const names[MODALITIES] = { "flair", "t1", "t2" };
    const int64_t grid[3] = { EDGE, EDGE, EDGE };
    bmvp_ctx *c = bmvp_create(NULL, NULL);
    bmvp_ssl_config cfg;
    bmvp_net_config net;
    bmvp_ssl *ssl;
    if (!c) return 1;
    (void)bmvp_ssl_preset("fast", &cfg);
    cfg.crop = EDGE, cfg.batch = CASES, cfg.contrast_from_epoch = 0;
    cfg.mask_ratio = 0.5, cfg.weight_cl = 1, cfg.temperature = 0.05; /* a short run: half of a view is to be seen */
    (void)bmvp_net_preset("uniformer_tiny", &net);
    ssl = bmvp_ssl_create(c, &net, &cfg, MODALITIES, names, grid);
    if (ssl) {
        printf("by chance: own case %.1f own modality %.1f\n", (double)VOLUMES * 2 / 23, (double)VOLUMES * 7 / 23);
        search("before", ssl, 0, cosine[0]);
        search("before, new cases", ssl, 1000, again);
        pretrain(ssl);
        search("after", ssl, 0, cosine[1]);
        search("after, new cases", ssl, 1000, cosine[2]);
        (void)show(cosine);
    }
    if (bmvp_failed(c)) printf("%s\n", bmvp_error_of(c)->message);
    bmvp_ssl_destroy(ssl);
    bmvp_destroy(c);
    return 0;
}
