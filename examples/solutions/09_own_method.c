/* Solutions of lesson 9, with its runs: the error in visible voxels counts, too, with a share that is a field. */
#define main lesson
#include "09_own_method.c"
#undef main
#include <math.h>

/* 2. One line more: bmvp_field_set knows it, and checkpoints keep it. */
#define BOTH_FIELDS(X) MIM_FIELDS(X) X(double, visible, 0, 1, "weight of the error in patches that are not")
#define BOTH_FIELD(type, name, low, high, text) BMVP_FIELD(both_config, type, name, low, high, text)
typedef struct both_config { BMVP_RUN_MEMBERS BOTH_FIELDS(BMVP_FIELD_MEMBER) } both_config;
static const bmvp_field both_fields[] = { BOTH_FIELDS(BOTH_FIELD) BMVP_RUN_FIELDS(BOTH_FIELD) BMVP_FIELDS_END };
static const char *const both_losses[] = { "hidden", "visible", "all", NULL };

/* Mean square over the voxels where `where` is 1, n of them */
static bmvp_tensor *error_in(bmvp_ctx *c, bmvp_tensor *y, bmvp_tensor *x, bmvp_tensor *where, int64_t n)
{
    bmvp_tensor *mean = bmvp_mse(c, bmvp_mul(c, y, where), bmvp_mul(c, x, where));
    return bmvp_scale(c, mean, (double)(x ? x->numel : 0) / (double)(n + !n), 0);
}

/* 1. The lesson's mim_forward with a second error and a second bmvp_pass_loss; the log has a column for each name. */
static void both_forward(bmvp_pass *p)
{
    const float *const *item = (const float *const *)p->items;
    const both_config *k = (const both_config *)p->config;
    const int64_t dim[5] = { p->n, EDGE, EDGE, EDGE, 1 }, all = (int64_t)p->n * VOXELS;
    float *x = (float *)calloc((size_t)(4 * all), sizeof *x), *mask = x + all, *seen = mask + all, *rest = seen + all;
    bmvp_tensor *y, *truth, *error[2];
    bmvp_features f;
    int64_t i, hidden = 0;
    for (i = 0; i < p->n && !bmvp_is_plan(p->c); ++i) {
        bmvp_rng r = bmvp_pass_rng(p, 100, (uint32_t)(p->first + i));
        memcpy(x + i * VOXELS, item[i], VOXELS * sizeof *x);
        bmvp_mask_blocks(mask + i * VOXELS, dim + 1, 16, k->hidden, &r);
    }
    for (i = 0; i < all; hidden += mask[i++] > 0) rest[i] = mask[i] > 0 ? 0.0f : 1.0f, seen[i] = rest[i] * x[i];
    f = bmvp_net_encode(p->net, bmvp_input(p->c, 5, dim, seen), 1);
    y = bmvp_net_reconstruct(p->net, &f), truth = bmvp_input(p->c, 5, dim, x);
    error[0] = error_in(p->c, y, truth, bmvp_input(p->c, 5, dim, mask), hidden);
    error[1] = error_in(p->c, y, truth, bmvp_input(p->c, 5, dim, rest), all - hidden);
    bmvp_pass_loss(p, 0, BMVP_LOSS_MEAN, 1, error[0]);
    bmvp_pass_loss(p, 1, BMVP_LOSS_MEAN, k->visible, error[1]);
    bmvp_pass_loss(p, 2, BMVP_LOSS_MEAN, 0, bmvp_mse(p->c, y, truth)); /* in the log alone: the check of both */
    free(x);
}

/* The lesson's loss of step 1 with the same settings */
static double of_lesson(bmvp_ctx *c, const bmvp_method *as)
{
    static bmvp_losses once[STEPS];
    bmvp_method m = *as;
    mim_config k;
    m.loss = mim_losses, m.fields = mim_fields, m.config_size = sizeof k, m.forward = mim_forward;
    bmvp_run_default(&k), k.hidden = 0.75, k.batch = CASES, k.lr = 2e-3, k.warmup = 2, k.clip = 1;
    mim_run(c, &m, &k, NULL, NULL, 1, once);
    return once[0].total;
}

int main(void)
{
    static bmvp_losses of[2][STEPS];
    bmvp_ctx *c = bmvp_create(NULL, NULL);
    bmvp_method m;
    bmvp_error err = { BMVP_OK, "" };
    int i, bad, refused;
    both_config k;
    if (!c) return 1;
    memset(&m, 0, sizeof m);
    m.name = "both", m.format = "masked-image modelling 2", m.loss = both_losses, m.fields = both_fields;
    m.config_size = sizeof k, m.item_size = sizeof(float *), m.forward = both_forward;
    bmvp_run_default(&k), k.hidden = 0.75, k.batch = CASES, k.lr = 2e-3, k.warmup = 2, k.clip = 1;
    for (bad = i = 0; i < 2; ++i) { /* as in the lesson, and with a tenth */
        const bmvp_losses *first = &of[i][0], *last = &of[i][STEPS - 1];
        bad |= bmvp_field_set(both_fields, &k, "visible", i ? "0.1" : "0", &err) != BMVP_OK;
        mim_run(c, &m, &k, NULL, NULL, STEPS, of[i]);
        printf("visible counts %.1f: step 1 hidden %.4f visible %.4f total %.4f, step %d hidden %.4f visible %.4f\n",
               k.visible, first->part[0], first->part[1], first->total, STEPS, last->part[0], last->part[1]);
        bad |= !(fabs(first->total - first->part[0] - k.visible * first->part[1]) < 1e-5) ||
               !(last->part[0] < first->part[0]);
        bad |= !(fabs(0.75 * first->part[0] + 0.25 * first->part[1] - first->part[2]) < 1e-5); /* both are all */
    }
    bad |= !(fabs(of[0][0].total - of_lesson(c, &m)) < 1e-5); /* without the share */
    bad |= !(of[1][STEPS - 1].part[1] < of[0][STEPS - 1].part[1]); /* what counts is learned */
    refused = bmvp_field_set(both_fields, &k, "visible", "2", &err) != BMVP_OK;
    printf("visible=2: %s\n", refused ? err.message : "taken");
    bad |= bmvp_failed(c) || !refused;
    if (bmvp_failed(c)) printf("%s\n", bmvp_error_of(c)->message);
    bmvp_destroy(c);
    return bad;
}
