/* Solutions of lesson 2: relu in the walk by hand; what is alive at each node of the walk. */
#define BMVP_IMPLEMENTATION
#include "bmvp_tensor.h"
#include <math.h>
#include <stdio.h>

enum { NODES = 6, NONE = 0, OPERANDS = 1, RESULT = 2 };

/* What backward of an op reads: the column of BMVP_OPS */
static int reads(int op)
{
    switch (op) {
    case BMVP_OP_LINEAR:
    case BMVP_OP_MUL: return OPERANDS;
    case BMVP_OP_RELU: return RESULT;
    default: return NONE;
    }
}
static int is_operand(const bmvp_tensor *t, const bmvp_tensor *of) { return of->src[0] == t || of->src[1] == t; }

/* 2. While node i is passed: a value is needed if i, or a node that is still to come, reads it; a gradient is there
   from the first reader that was passed until its own node has been, and that of a leaf stays. */
static void alive(bmvp_tensor *const *tape, int i, int64_t bytes[2])
{
    int k, j;
    bytes[0] = bytes[1] = 0;
    for (k = 0; k < NODES; ++k) {
        int value = 0, gradient = k == i;
        for (j = 0; j < NODES; ++j) {
            if (tape[j]->op < 0) continue;
            if (j <= i && reads(tape[j]->op) == OPERANDS && is_operand(tape[k], tape[j])) value = 1;
            if (j <= i && reads(tape[j]->op) == RESULT && j == k) value = 1;
            if (j >= i && is_operand(tape[k], tape[j]) && tape[k]->wants_grad && (k <= i || tape[k]->op < 0))
                gradient = 1;
        }
        bytes[0] += value ? tape[k]->numel * (int64_t)sizeof(float) : 0;
        bytes[1] += gradient ? tape[k]->numel * (int64_t)sizeof(float) : 0;
    }
}

/* 1. y = relu(x w); dloss/dw of mean(y^2). Where y is 0 nothing passes. */
static void by_hand(const float *x, const float *y, double *dw)
{
    int row, in, out;
    for (in = 0; in < 8; ++in) dw[in] = 0;
    for (row = 0; row < 3; ++row)
        for (out = 0; out < 2; ++out) {
            const double g = y[row * 2 + out] > 0 ? 2 * (double)y[row * 2 + out] / 6 : 0;
            for (in = 0; in < 4; ++in) dw[in * 2 + out] += (double)x[row * 4 + in] * g;
        }
}

int main(void)
{
    static const int64_t want[NODES][2] = { { 0, 0 }, { 0, 0 }, { 80, 56 }, { 104, 48 }, { 104, 48 }, { 104, 28 } };
    const int64_t xd[2] = { 3, 4 }, wd[2] = { 4, 2 };
    const float x[12] = { 1, 2, 3, 4, -1, 0, 1, 2, 3, -2, 1, 0 };
    const float w[8] = { 0.1f, -0.2f, 0.3f, 0.4f, -0.5f, 0.6f, 0.7f, -0.8f };
    bmvp_ctx *c = bmvp_create(NULL, NULL);
    bmvp_tensor *tape[NODES];
    double hand[8], worst = 0;
    float y[6], g[8];
    int i, zeros = 0, bad = 0;
    if (!c) return 1;
    tape[0] = bmvp_input(c, 2, xd, x);
    tape[1] = bmvp_leaf(c, 2, wd, w);
    tape[2] = bmvp_linear(c, tape[0], tape[1], NULL);
    tape[3] = bmvp_relu(c, tape[2]);
    tape[4] = bmvp_mul(c, tape[3], tape[3]);
    tape[5] = bmvp_mean(c, tape[4]);
    if (bmvp_failed(c)) return 1;
    for (i = NODES - 1; tape[i]->op >= 0; --i) {
        int64_t bytes[2];
        alive(tape, i, bytes);
        printf("%d %-6s values %d bytes, gradients %d bytes\n", i, bmvp_op_name(tape[i]->op), (int)bytes[0],
               (int)bytes[1]);
        bad |= bytes[0] != want[i][0] || bytes[1] != want[i][1];
    }
    bmvp_read(c, tape[3], y);
    for (i = 0; i < 6; ++i) zeros += y[i] <= 0;
    by_hand(x, y, hand);
    bmvp_backward(c, tape[5]);
    bad |= bmvp_read_grad(c, tape[1], g) != BMVP_OK;
    for (i = 0; i < 8; ++i) {
        const double d = fabs(hand[i] - (double)g[i]);
        if (d > worst || isnan(d)) worst = d; /* a NaN stays: nothing is larger than it */
    }
    printf("relu: %d of 6 are 0; dloss/dw by hand and by bmvp_backward, largest difference %.6f\n", zeros, worst);
    bmvp_destroy(c);
    return bad || !zeros || !(worst < 1e-5);
}
