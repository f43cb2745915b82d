/* 03_gradient_checks.c - lesson 3: what a gradient check sees, and what it cannot see

   What you learn: backward is checked against central differences of sum(y * cotangent). With a cotangent of ones
   some wrong backwards are right by chance: softmax adds up to 1 whatever x is, so any backward that gives zeros
   passes. Random cotangents see it. And no gradient check sees a wrong forward whose backward belongs to it: that
   takes a number from elsewhere (here PyTorch's), which is why all ops of the library are compared with files that
   PyTorch wrote. The faults are planted: a backend is a table of kernels, and a copy of it may have others.
   WRONG_BACKWARD and WRONG_FORWARD are the flags; `./03_gradient_checks sound` leaves them away.
   Run:  cc -O2 -I. examples/03_gradient_checks.c -o 03_gradient_checks -lm -lpthread && ./03_gradient_checks
                                                                                             (5 s; compiling: 10 s)
   You see, numbers within 5 % or 0.001:
   | op softmax as it is: ones ok, random ok, PyTorch ok
   | op softmax wrong backward: ones ok, random WRONG, PyTorch ok
   | op gelu as it is: ones ok, random ok, PyTorch ok
   | op gelu wrong forward: ones ok, random ok, PyTorch WRONG
   | gelu(1) is 0.84134, the planted one says 0.84580
   | of 50 ops of the library above 0.02, by random cotangents: maxpool3d 0.088
   Exercises:
   1. Plant a softmax whose backward is twice what it should be. Which of the three checks sees it? Hint: zero is zero
      twice, too.
   2. With h from 1e-6 to 1 print the error of the check: why is it smallest between? Hint: float32 has 7 digits, and
      the third derivative grows with h squared.
   In the headers: bmvp_tensor.h >>gradcheck, >>op softmax, >>op gelu; >>table for backends. */
#define BMVP_IMPLEMENTATION
#include "bmvp_tensor.h"
#include <math.h>
#include <stdio.h>
#include <string.h>

enum { ROWS = 3, N = 5, ALL = ROWS * N };
enum { WRONG_BACKWARD = 1, WRONG_FORWARD = 2 };

/* Right is y (g - sum g y). This one takes the mean of g: for a cotangent of ones both are 0. */
static void softmax_backward_wrong(bmvp_ctx *c, bmvp_tensor *y)
{
    int accumulate, row, i;
    float *dx = bmvp_kernel_grad(c, y->src[0], &accumulate);
    const int n = (int)y->dim[y->rank - 1];
    for (row = 0; dx && row < (int)y->numel / n; ++row) {
        float mean = 0;
        for (i = 0; i < n; ++i) mean += y->g[row * n + i] / (float)n;
        for (i = 0; i < n; ++i) {
            const float d = y->x[row * n + i] * (y->g[row * n + i] - mean);
            dx[row * n + i] = accumulate ? dx[row * n + i] + d : d;
        }
    }
}

/* x sigmoid(1.702 x): an old approximation of x Phi(x), and its own derivative, which is right */
static void gelu_forward_wrong(bmvp_ctx *c, bmvp_tensor *y)
{
    int64_t i;
    (void)c;
    for (i = 0; i < y->numel; ++i) y->x[i] = y->src[0]->x[i] / (1 + expf(-1.702f * y->src[0]->x[i]));
}
static void gelu_backward_wrong(bmvp_ctx *c, bmvp_tensor *y)
{
    int accumulate;
    float *dx = bmvp_kernel_grad(c, y->src[0], &accumulate);
    int64_t i;
    for (i = 0; dx && i < y->numel; ++i) {
        const float x = y->src[0]->x[i], s = 1 / (1 + expf(-1.702f * x)), d = s + 1.702f * x * s * (1 - s);
        dx[i] = accumulate ? dx[i] + y->g[i] * d : y->g[i] * d;
    }
}

/* The CPU's kernels, with a fault. */
static bmvp_backend planted(int faults)
{
    bmvp_backend b = *bmvp_cpu_backend();
    if (faults & WRONG_BACKWARD) b.op[BMVP_OP_SOFTMAX].backward = softmax_backward_wrong;
    if (faults & WRONG_FORWARD) b.op[BMVP_OP_GELU].forward = gelu_forward_wrong;
    if (faults & WRONG_FORWARD) b.op[BMVP_OP_GELU].backward = gelu_backward_wrong;
    return b;
}

static bmvp_tensor *run_op(bmvp_ctx *c, int op, bmvp_tensor *x)
{
    return op == BMVP_OP_SOFTMAX ? bmvp_softmax(c, x) : bmvp_gelu(c, x);
}

/* sum(y * cotangent) at x, added up in double */
static double loss_at(bmvp_ctx *c, int op, const float *x, const float *cotangent)
{
    const int64_t dim[2] = { ROWS, N };
    float y[ALL] = { 0 };
    double sum = 0;
    int i;
    bmvp_step_begin(c);
    bmvp_read(c, run_op(c, op, bmvp_input(c, 2, dim, x)), y);
    for (i = 0; i < ALL; ++i) sum += (double)y[i] * (double)cotangent[i];
    return sum;
}

/* Largest difference of backward and central differences with steps of h. `random` 0: a cotangent of ones */
static double check(bmvp_ctx *c, int op, float h, int random)
{
    const int64_t dim[2] = { ROWS, N };
    bmvp_rng r = bmvp_rng_make(3, 0, 0, 0);
    float x[ALL], g[ALL], cotangent[ALL];
    double worst = 0;
    bmvp_tensor *leaf;
    int i;
    for (i = 0; i < ALL; ++i) x[i] = bmvp_rng_normal(&r), cotangent[i] = random ? bmvp_rng_normal(&r) : 1;
    bmvp_step_begin(c);
    leaf = bmvp_leaf(c, 2, dim, x);
    bmvp_backward_from(c, run_op(c, op, leaf), cotangent);
    if (bmvp_read_grad(c, leaf, g)) return HUGE_VAL;
    for (i = 0; i < ALL; ++i) {
        const float keep = x[i], up = keep + h, down = keep - h;
        double error;
        x[i] = up, error = loss_at(c, op, x, cotangent);
        x[i] = down, error -= loss_at(c, op, x, cotangent);
        x[i] = keep, error = fabs(error / ((double)up - (double)down) - (double)g[i]);
        if (error > worst || isnan(error)) worst = error; /* a NaN stays: nothing is larger than it */
    }
    return worst;
}

/* Against numbers of PyTorch 2.6: softmax and gelu of 0 1 2 3 4 */
static double against_pytorch(bmvp_ctx *c, int op, float *at_one)
{
    static const double softmax[N] = { 0.0116562, 0.0316849, 0.0861285, 0.2341217, 0.6364086 };
    static const double gelu[N] = { 0, 0.8413447, 1.9544997, 2.9959502, 3.9998734 };
    const int64_t dim[2] = { 1, N };
    const float x[N] = { 0, 1, 2, 3, 4 };
    const double *want = op == BMVP_OP_SOFTMAX ? softmax : gelu;
    float y[N] = { 0 };
    double worst = 0;
    int i;
    bmvp_step_begin(c);
    bmvp_read(c, run_op(c, op, bmvp_input(c, 2, dim, x)), y);
    for (i = 0; i < N; ++i) {
        const double error = fabs((double)y[i] - want[i]);
        if (error > worst || isnan(error)) worst = error;
    }
    *at_one = y[1];
    return worst;
}

/* One row of the table. */
static float report(int op, int fault, const char *what)
{
    const bmvp_backend b = planted(fault);
    bmvp_config cfg = bmvp_config_default();
    float at_one = 0;
    bmvp_ctx *c;
    cfg.backend = &b;
    c = bmvp_create(&cfg, NULL);
    if (!c) return at_one;
    printf("op %s %s: ones %s, ", bmvp_op_name(op), what, check(c, op, 1e-2f, 0) <= 1e-3 ? "ok" : "WRONG");
    printf("random %s, ", check(c, op, 1e-2f, 1) <= 1e-3 ? "ok" : "WRONG");
    printf("PyTorch %s\n", against_pytorch(c, op, &at_one) <= 1e-6 ? "ok" : "WRONG");
    bmvp_destroy(c);
    return at_one;
}

int main(int argc, char **argv)
{
    const int sound = argc > 1 && strcmp(argv[1], "sound") == 0;
    float right, wrong;
    int op, variant;
    report(BMVP_OP_SOFTMAX, 0, "as it is");
    report(BMVP_OP_SOFTMAX, sound ? 0 : WRONG_BACKWARD, "wrong backward");
    right = report(BMVP_OP_GELU, 0, "as it is");
    wrong = report(BMVP_OP_GELU, sound ? 0 : WRONG_FORWARD, "wrong forward");
    printf("gelu(1) is %.5f, the planted one says %.5f\n", (double)right, (double)wrong);
    printf("of %d ops of the library above 0.02, by random cotangents:", (int)BMVP_OP_COUNT);
    for (op = 0; op < BMVP_OP_COUNT; ++op) { /* every op is in one list, and the list knows its own small examples */
        double worst = 0;
        for (variant = 0;; ++variant) {
            const double e = bmvp_gradcheck(NULL, op, variant, 1);
            if (e < 0) break;
            if (e > worst || isnan(e)) worst = e;
        }
        if (!(worst < 0.02)) printf(" %s %.3f", bmvp_op_name(op), worst);
    }
    printf("\n"); /* maxpool3d has a kink: a step of h makes another voxel the largest of a block */
    return 0;
}
