/* Solutions of lesson 10, with its functions: zeros in place of the template; how much later without pre-training. */
#include <math.h>
#include <stdlib.h>
#define main lesson
#include "10_finetune.c"
#undef main

enum { MOST = 60 };
static int trained = 10; /* steps: enough to see that it works; the figures mean something from 40 on */

/* The first step, from 1, of eight whose mean loss is below `least`, a case each; 0: none */
static int first_below(const double *loss, double least)
{
    int k, i;
    for (k = 0; k + 8 <= trained; ++k) {
        double mean = 0;
        for (i = 0; i < 8; ++i) mean += loss[k + i] / 8;
        if (mean < least) return k + 1;
    }
    return 0;
}

/* Trains, from the checkpoint or from scratch (NULL); dice: with both, and without t2, filled by template and zeros */
static int tune(const char *path, double *loss, double dice[3])
{
    static float seen[3][N];
    const char *names[2] = { "t1", "t2" };
    const float *both[2] = { t1, t2 }, *one[2] = { t1, NULL };
    const int64_t grid[3] = { E, E, E };
    bmvp_ctx *c = bmvp_create(NULL, NULL);
    bmvp_error err = { BMVP_OK, "" };
    bmvp_ft_item item;
    bmvp_ft_losses l;
    bmvp_ft_config cfg;
    bmvp_net_config net;
    bmvp_labels labels;
    bmvp_ft *ft;
    int k, bad;
    memset(&item, 0, sizeof item);
    bmvp_labels_builtin("isles", &labels);
    bmvp_net_preset("uniformer_tiny", &net);
    net.task = BMVP_TASK_SEGMENT;
    bmvp_ft_preset("fast", BMVP_TASK_SEGMENT, net.kind, &cfg);
    cfg.crop_x = cfg.crop_y = cfg.crop_z = E;
    cfg.warmup = 5;
    ft = bmvp_ft_create(c, &net, &cfg, &labels, 2, names, path ? NULL : grid);
    if (!ft || (path && bmvp_ft_init(ft, path, 1, NULL, &err))) {
        printf("%s\n", ft ? err.message : bmvp_error_of(c)->message);
        bmvp_ft_destroy(ft), bmvp_destroy(c);
        return 1;
    }
    item.image[0] = t1, item.image[1] = t2, item.labels = label;
    for (k = 0; k < trained && !bmvp_failed(c); ++k) {
        make_case((uint32_t)(k % 8));
        bmvp_ft_step(ft, &item, 1, 5e-3, &l);
        loss[k] = l.total;
    }
    make_case(1000);
    dice[0] = dice_of(c, ft, both, seen[0]), dice[1] = dice_of(c, ft, one, seen[1]);
    bmvp_ft_set_fill(ft, 1); /* the config's field; training may have it, too */
    dice[2] = dice_of(c, ft, one, seen[2]);
    bad = bmvp_failed(c) || (path && memcmp(seen[1], seen[2], sizeof *seen) == 0); /* zeros are no template */
    if (bmvp_failed(c)) printf("%s\n", bmvp_error_of(c)->message);
    bmvp_ft_destroy(ft);
    bmvp_destroy(c);
    return bad;
}

/* first_below() of a loss that falls by 1 a step: the mean of eight from step k + 1 on is trained - k - 3.5. */
static int finds_second(void)
{
    double falling[MOST];
    int i;
    for (i = 0; i < trained; ++i) falling[i] = trained - i;
    return first_below(falling, trained - 4) == 2;
}

int main(int argc, char **argv)
{
    const char *path = "10_solution.safetensors";
    double loss[2][MOST], dice[2][3], least;
    int bad, step[2], i;
    if (argc > 1) trained = atoi(argv[1]);
    if (trained < 9 || trained > MOST) {
        printf("10_finetune [steps, 9 to %d]\n", MOST);
        return 1;
    }
    pretrain(path);
    bad = tune(path, loss[0], dice[0]) || tune(NULL, loss[1], dice[1]);
    remove(path);
    if (bad) return 1;
    printf("pre-trained: Dice with both %.3f, t2 filled by its template %.3f, by zeros %.3f\n", dice[0][0],
           dice[0][1], dice[0][2]);
    for (least = 0, i = trained - 8; i < trained; ++i) least += loss[1][i] / 8; /* what scratch comes to at its end */
    for (i = 0; i < 2; ++i) step[i] = first_below(loss[i], least * 1.001);
    printf("mean loss of eight cases below %.3f (0: never): pre-trained from step %d on, from scratch from %d on\n",
           least, step[0], step[1]);
    bad = !(dice[0][0] > 0.5) || !step[1] || !finds_second();
    return bad || !(fabs(loss[0][0] - loss[1][0]) > 1e-3); /* the checkpoint is another start */
}
