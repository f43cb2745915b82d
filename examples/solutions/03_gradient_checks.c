/* Solutions of lesson 3: a softmax whose backward is twice what it should be; the error of the check by its step h. */
#define BMVP_IMPLEMENTATION
#include "bmvp_tensor.h"
#include <math.h>
#include <stdio.h>

enum { ROWS = 3, N = 5, ALL = ROWS * N, STEPS = 7 };
static const int64_t dim[2] = { ROWS, N };

/* 1. Twice y (g - sum g y) */
static void softmax_backward_twice(bmvp_ctx *c, bmvp_tensor *y)
{
    int accumulate, row, i;
    float *dx = bmvp_kernel_grad(c, y->src[0], &accumulate);
    for (row = 0; dx && row < ROWS; ++row) {
        const float *p = y->x + row * N, *g = y->g + row * N;
        float sum = 0;
        for (i = 0; i < N; ++i) sum += g[i] * p[i];
        for (i = 0; i < N; ++i) dx[row * N + i] = (accumulate ? dx[row * N + i] : 0) + 2 * p[i] * (g[i] - sum);
    }
}

static double loss_at(bmvp_ctx *c, const float *x, const float *cotangent)
{
    float y[ALL] = { 0 };
    double sum = 0;
    int i;
    bmvp_step_begin(c);
    bmvp_read(c, bmvp_softmax(c, bmvp_input(c, 2, dim, x)), y);
    for (i = 0; i < ALL; ++i) sum += (double)y[i] * (double)cotangent[i];
    return sum;
}

/* Largest difference of backward and central differences with steps of h */
static double check(bmvp_ctx *c, float h, int random)
{
    bmvp_rng r = bmvp_rng_make(3, 0, 0, 0);
    float x[ALL], g[ALL], cotangent[ALL];
    double worst = 0;
    bmvp_tensor *leaf;
    int i;
    for (i = 0; i < ALL; ++i) x[i] = bmvp_rng_normal(&r), cotangent[i] = random ? bmvp_rng_normal(&r) : 1;
    bmvp_step_begin(c);
    leaf = bmvp_leaf(c, 2, dim, x);
    bmvp_backward_from(c, bmvp_softmax(c, leaf), cotangent);
    if (bmvp_read_grad(c, leaf, g)) return HUGE_VAL;
    for (i = 0; i < ALL; ++i) {
        const float keep = x[i], up = keep + h, down = keep - h;
        double error;
        x[i] = up, error = loss_at(c, x, cotangent);
        x[i] = down, error -= loss_at(c, x, cotangent);
        x[i] = keep, error = fabs(error / ((double)up - (double)down) - (double)g[i]);
        if (!(error <= worst)) worst = error;
    }
    return worst;
}

int main(void)
{
    bmvp_backend twice = *bmvp_cpu_backend();
    bmvp_config cfg = bmvp_config_default();
    bmvp_ctx *sound = bmvp_create(NULL, NULL), *planted;
    double error[STEPS], ones, random;
    float y = 0, x = 1;
    const int64_t one[2] = { 1, 1 };
    int i, best = 0, bad;
    twice.op[BMVP_OP_SOFTMAX].backward = softmax_backward_twice;
    cfg.backend = &twice;
    planted = bmvp_create(&cfg, NULL);
    if (!sound || !planted) return 1;

    /* Ones: the gradient is 0, and so is twice that. PyTorch's numbers are of forward, which is right. */
    ones = check(planted, 1e-2f, 0), random = check(planted, 1e-2f, 1);
    bmvp_step_begin(planted);
    bmvp_read(planted, bmvp_softmax(planted, bmvp_input(planted, 2, one, &x)), &y);
    printf("twice: ones %s, random %s, forward %s\n", ones <= 1e-3 ? "ok" : "WRONG", random <= 1e-3 ? "ok" : "WRONG",
           fabs((double)y - 1) <= 1e-6 ? "ok" : "WRONG");
    bad = !(ones <= 1e-3) || random <= 1e-3 || !(fabs((double)y - 1) <= 1e-6);

    /* 2. Small steps: a few roundings of 1e-7, divided by h. Large ones: h^2 times the third derivative. */
    for (i = 0; i < STEPS; ++i) {
        error[i] = check(sound, (float)pow(10, i - 6), 1);
        printf("h 1e%d: error %.6f\n", i - 6, error[i]);
        if (error[i] < error[best]) best = i;
    }
    bad |= best == 0 || best == STEPS - 1 || !(error[best] < 1e-3) || !(error[0] > 10 * error[best]) ||
           !(error[STEPS - 1] > 10 * error[best]);
    bmvp_destroy(sound), bmvp_destroy(planted);
    return bad;
}
