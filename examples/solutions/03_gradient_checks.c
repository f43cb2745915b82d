/* Solutions of lesson 3, with its checks: a softmax whose backward is twice what it should be; the error by the step
   h. */
#define main lesson
#include "03_gradient_checks.c"
#undef main

enum { STEPS = 7 };

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

int main(void)
{
    bmvp_backend twice = *bmvp_cpu_backend();
    bmvp_config cfg = bmvp_config_default();
    bmvp_ctx *sound = bmvp_create(NULL, NULL), *faulty;
    double error[STEPS], ones, random, forward;
    float at_one;
    int i, best = 0, bad;
    twice.op[BMVP_OP_SOFTMAX].backward = softmax_backward_twice;
    cfg.backend = &twice;
    faulty = bmvp_create(&cfg, NULL);
    if (!sound || !faulty) return 1;

    /* Ones: the gradient is 0, and so is twice that. PyTorch's numbers are of forward, which is right. */
    ones = check(faulty, BMVP_OP_SOFTMAX, 1e-2f, 0), random = check(faulty, BMVP_OP_SOFTMAX, 1e-2f, 1);
    forward = against_pytorch(faulty, BMVP_OP_SOFTMAX, &at_one);
    printf("twice: ones %s, random %s, forward %s\n", ones <= 1e-3 ? "ok" : "WRONG", random <= 1e-3 ? "ok" : "WRONG",
           forward <= 1e-6 ? "ok" : "WRONG");
    bad = !(ones <= 1e-3) || random <= 1e-3 || !(forward <= 1e-6);

    /* 2. Small steps: a few roundings of 1e-7, divided by h. Large ones: h^2 times the third derivative. */
    for (i = 0; i < STEPS; ++i) {
        error[i] = check(sound, BMVP_OP_SOFTMAX, (float)pow(10, i - 6), 1);
        printf("h 1e%d: error %.6f\n", i - 6, error[i]);
        if (error[i] < error[best]) best = i;
    }
    bad |= best == 0 || best == STEPS - 1 || !(error[best] < 1e-3) || !(error[0] > 10 * error[best]) ||
           !(error[STEPS - 1] > 10 * error[best]);
    bmvp_destroy(sound), bmvp_destroy(faulty);
    return bad;
}
