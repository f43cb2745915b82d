/* 10_finetune.c - lesson 10: pre-train, fine-tune, and a modality that is missing

   What you learn: how a checkpoint of pre-training becomes the start of a segmentation network, what the two copies
   of a case are for, and how the template of a missing modality stands in for it at prediction. Cases are balls of
   random place in two "modalities" that show them differently; the label is the ball.
   Run:  cc -O2 -I. examples/10_finetune.c -o 10_finetune -lm -lpthread && ./10_finetune     (16 s; compiling: 20 s)
   You see, numbers within 20 % or 0.1 (tests: the best level; `make course-levels`: AVX2 12 s, C's vectors 22,
   plain); and 10_finetune.svg: the images, the truth, both predictions:
   | from the checkpoint: 123 tensors taken, 2 adapted, 8 fresh
   | step 60: loss 1.0
   | Dice with both modalities 0.816, with t2 filled by its template #
   Exercises:
   1. Fill by zeros in place of the template. Hint: bmvp_ft_set_fill, and the field fill of bmvp_ft_config.
   2. Train without pre-training. Is the loss as low later, and would it be with other cases? Hint: leave bmvp_ft_init
      away, name the grid of the templates; other numbers for make_case().
   In the headers: bmvp_ssl.h >>finetune, >>finetune loss, >>predict; the two copies: section 3.4 of the paper. */
#define BMVP_IMPLEMENTATION
#include "bmvp_tensor.h"
#include "bmvp_nn.h"
#include "bmvp_ssl.h"
#include "picture.h"
#include <stdio.h>
#include <string.h>

enum { E = 32, N = E * E * E };
static float t1[N], t2[N], label[N];
static unsigned char truth[N], guess[N];

static void make_case(uint32_t k)
{
    bmvp_rng r = bmvp_rng_make(7, 1, 0, k);
    const float c[3] = { 10 + 12 * bmvp_rng_uniform(&r), 10 + 12 * bmvp_rng_uniform(&r),
                         10 + 12 * bmvp_rng_uniform(&r) };
    const float radius = 5 + 4 * bmvp_rng_uniform(&r);
    int i;
    for (i = 0; i < N; ++i) {
        const float z = (float)(i / (E * E)) - c[0], y = (float)(i / E % E) - c[1], x = (float)(i % E) - c[2];
        const int in = x * x + y * y + z * z < radius * radius;
        label[i] = (float)in;
        t1[i] = (in ? 0.6f : 0.4f) + 0.1f * bmvp_rng_normal(&r);
        t2[i] = (in ? 0.3f : 0.5f) + 0.1f * bmvp_rng_normal(&r);
    }
}

static void pretrain(const char *path)
{
    const char *names[2] = { "t1", "t2" };
    const int64_t grid[3] = { E, E, E };
    bmvp_ctx *c = bmvp_create(NULL, NULL);
    bmvp_ssl_item item;
    bmvp_ssl_config cfg;
    bmvp_net_config net;
    bmvp_error err;
    bmvp_ssl *ssl;
    uint32_t k;
    memset(&item, 0, sizeof item);
    bmvp_ssl_preset("fast", &cfg);
    cfg.crop = E;
    bmvp_net_preset("uniformer_tiny", &net);
    ssl = bmvp_ssl_create(c, &net, &cfg, 2, names, grid);
    for (k = 0; k < 24 && !bmvp_failed(c); ++k) {
        make_case(k);
        item.x = k % 2 ? t2 : t1, item.other = k % 2 ? t1 : t2, item.modality = (int)(k % 2);
        bmvp_ssl_step(ssl, &item, 1, 2e-3, NULL);
    }
    if (bmvp_failed(c) || bmvp_ssl_save(ssl, path, NULL, &err))
        printf("%s\n", bmvp_failed(c) ? bmvp_error_of(c)->message : err.message);
    bmvp_ssl_destroy(ssl);
    bmvp_destroy(c);
}

/* Dice of a case; NULL in `image`: the modality is missing and its template is used. seen: its probabilities */
static double dice_of(bmvp_ctx *c, bmvp_ft *ft, const float *const image[2], float *seen)
{
    static float x[2 * N], p[N];
    const int64_t dim[5] = { 1, E, E, E, 2 }, origin[3] = { 0, 0, 0 };
    const int was = bmvp_set_grad(c, 0);
    int i;
    bmvp_ft_input(ft, image, origin, dim + 1, x);
    bmvp_step_begin(c);
    bmvp_read(c, bmvp_ft_predict(ft, bmvp_input(c, 5, dim, x)), p);
    bmvp_set_grad(c, was);
    for (i = 0; i < N; ++i) {
        guess[i] = bmvp_labels_decide(bmvp_ft_labels(ft), &p[i]), truth[i] = label[i] > 0;
        seen[i] = p[i];
    }
    return bmvp_dice(guess, truth, N, BMVP_EMPTY_BRATS);
}

/* The slice through the ball of each. */
static void show(float (*seen)[N])
{
    static const char *const title[5] = { "t1", "t2", "truth", "from both", "t2 missing" };
    const float *what[5];
    picture p[5];
    int i, z = 0, most = 0;
    for (i = 0; i < E; ++i) { /* with the most of it */
        int k, n = 0;
        for (k = 0; k < E * E; ++k) n += label[i * E * E + k] > 0;
        if (n > most) most = n, z = i;
    }
    what[0] = t1, what[1] = t2, what[2] = label, what[3] = seen[0], what[4] = seen[1];
    for (i = 0; i < 5; ++i) {
        p[i].title = title[i], p[i].width = p[i].height = E, p[i].value = what[i] + z * E * E;
        p[i].low = 0, p[i].high = 1;
    }
    (void)picture_write("10_finetune.svg", "A case that was not trained on, and where the network finds the ball: "
                        "white is sure, grey is not.", p, 5);
}

int main(void)
{
    static float seen[2][N];
    double dice[2];
    const char *names[2] = { "t1", "t2" }, *path = "10_finetune.safetensors";
    const float *both[2] = { t1, t2 }, *one[2] = { t1, NULL };
    bmvp_ctx *c = bmvp_create(NULL, NULL);
    bmvp_net_adoption what = { { 0, 0, 0 }, NULL };
    bmvp_ft_item item;
    bmvp_ft_losses loss;
    bmvp_ft_config cfg;
    bmvp_net_config net;
    bmvp_labels labels;
    bmvp_error err;
    bmvp_ft *ft;
    uint32_t k;
    memset(&item, 0, sizeof item);
    pretrain(path);
    bmvp_labels_builtin("isles", &labels); /* one region, value 1 */
    bmvp_net_preset("uniformer_tiny", &net);
    net.task = BMVP_TASK_SEGMENT;
    bmvp_ft_preset("fast", BMVP_TASK_SEGMENT, net.kind, &cfg);
    cfg.crop_x = cfg.crop_y = cfg.crop_z = E;
    cfg.warmup = 5;
    ft = bmvp_ft_create(c, &net, &cfg, &labels, 2, names, NULL);
    if (!ft || bmvp_ft_init(ft, path, 1, &what, &err)) {
        printf("%s\n", ft ? err.message : bmvp_error_of(c)->message);
        return 1;
    }
    printf("from the checkpoint: %d tensors taken, %d adapted, %d fresh\n", what.n[0], what.n[1], what.n[2]);
    item.image[0] = t1, item.image[1] = t2, item.labels = label;
    for (k = 0; k < 60 && !bmvp_failed(c); ++k) {
        make_case(k % 8); /* eight labelled cases */
        bmvp_ft_step(ft, &item, 1, 5e-3, &loss);
        if (k % 20 == 19) printf("step %d: loss %.3f\n", (int)k + 1, loss.total);
    }
    make_case(1000); /* one that was never seen */
    dice[0] = dice_of(c, ft, both, seen[0]), dice[1] = dice_of(c, ft, one, seen[1]);
    printf("Dice with both modalities %.3f, with t2 filled by its template %.3f\n", dice[0], dice[1]);
    show(seen);
    if (bmvp_failed(c)) printf("%s\n", bmvp_error_of(c)->message);
    bmvp_ft_destroy(ft);
    bmvp_destroy(c);
    remove(path);
    return 0;
}
