/* 02_tape.c - lesson 2: the tape: printed node by node, then walked backwards by hand

   What you learn: every call of an op leaves a node that knows its operands; the nodes in the order of the calls are
   the tape. Backward goes through it from its end, and each op turns the gradient of its result into gradients of its
   operands. Where a value is used twice the gradients add up: here that is y y.
   Run:  cc -O2 -I. examples/02_tape.c -o 02_tape -lm -lpthread && ./02_tape                 (no time; compiling: 10 s)
   You see, numbers within 0.1 %:
   | the tape of loss = mean(gelu(x w)^2)
   | 0 leaf (3,4) first value 1.0000
   | 1 leaf (4,2) first value 0.1000 wants a gradient
   | 2 linear (3,2) first value 2.0000 wants a gradient reads 0 1
   | 3 gelu (3,2) first value 1.9545 wants a gradient reads 2
   | 4 mul (3,2) first value 3.8201 wants a gradient reads 3 3
   | 5 mean (1) first value 0.7221 wants a gradient reads 4
   | and backwards, by hand
   | 5 mean gradient 1.0000 to 4
   | 4 mul gradient 0.1667 to 3 and 3
   | 3 gelu gradient 0.6515 to 2
   | 2 linear gradient 0.7070 to 1
   | dloss/dw by hand and by bmvp_backward
   | w[0] 0.4960 0.4960
   | w[7] 0.0067 0.0067
   Exercises:
   1. Add relu: y = relu(x w) in place of gelu. Hint: one case more in step_back(); where y is 0 nothing passes.
   2. Print how many bytes of values and gradients are alive at each node of the walk. Hint: a value is needed until
      its last reader has been passed: see the column `reads` of BMVP_OPS.
   In the headers: bmvp_tensor.h >>node (what a node keeps), >>backward (the walk; its ten lines are
   bmvpi_backward_walk). */
#define BMVP_IMPLEMENTATION
#include "bmvp_tensor.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

enum { NODES = 6 };
typedef struct entry { /* of our own list: a node, and copies of its numbers */
    bmvp_tensor *t;
    float value[12];
    double grad[12];
} entry;

static int number_of(const entry *tape, const bmvp_tensor *t)
{
    int i;
    for (i = 0; i < NODES && tape[i].t != t; ++i) continue;
    return i;
}

static void print_node(const entry *tape, int i)
{
    const bmvp_tensor *t = tape[i].t;
    int k;
    printf("%d %-6s (", i, bmvp_op_name(t->op));
    for (k = 0; k < t->rank; ++k) printf("%s%d", k ? "," : "", (int)t->dim[k]);
    printf(") first value %.4f%s", (double)tape[i].value[0], t->wants_grad ? " wants a gradient" : "");
    for (k = 0; k < t->n_src; ++k)
        if (t->src[k]) printf("%s %d", k ? "" : " reads", number_of(tape, t->src[k]));
    printf("\n");
}

/* d gelu / dx of gelu(x) = x Phi(x): Phi + x phi */
static double gelu_slope(double x)
{
    return 0.5 * (1 + erf(x / sqrt(2.0))) + x * exp(-x * x / 2) / sqrt(2 * 3.14159265358979323846);
}

/* One node: its gradient becomes gradients of its operands. They are added, since an operand may have other readers. */
static void step_back(entry *tape, int i)
{
    const bmvp_tensor *t = tape[i].t;
    const double *g = tape[i].grad;
    entry *a = &tape[number_of(tape, t->src[0])], *b = t->src[1] ? &tape[number_of(tape, t->src[1])] : a;
    int k, row, in, out;
    switch (t->op) {
    case BMVP_OP_MEAN: /* y = sum x / n */
        for (k = 0; k < a->t->numel; ++k) a->grad[k] += g[0] / (double)a->t->numel;
        break;
    case BMVP_OP_MUL: /* y = a b; where a is b both lines add to the same gradient */
        for (k = 0; k < t->numel; ++k) a->grad[k] += g[k] * (double)b->value[k];
        for (k = 0; k < t->numel; ++k) b->grad[k] += g[k] * (double)a->value[k];
        break;
    case BMVP_OP_GELU:
        for (k = 0; k < t->numel; ++k) a->grad[k] += g[k] * gelu_slope((double)a->value[k]);
        break;
    case BMVP_OP_LINEAR: /* y (3,2) = x (3,4) w (4,2); nobody wants the gradient of x */
        for (row = 0; row < 3; ++row)
            for (in = 0; in < 4; ++in)
                for (out = 0; out < 2; ++out)
                    b->grad[in * 2 + out] += (double)a->value[row * 4 + in] * g[row * 2 + out];
        break;
    default: break;
    }
    printf("%d %-6s gradient %.4f to %d", i, bmvp_op_name(t->op), g[0],
           number_of(tape, t->src[t->op == BMVP_OP_LINEAR]));
    if (t->op == BMVP_OP_MUL) printf(" and %d", number_of(tape, t->src[1]));
    printf("\n");
}

int main(void)
{
    const int64_t xd[2] = { 3, 4 }, wd[2] = { 4, 2 };
    const float x[12] = { 1, 2, 3, 4, -1, 0, 1, 2, 3, -2, 1, 0 };
    const float w[8] = { 0.1f, -0.2f, 0.3f, 0.4f, -0.5f, 0.6f, 0.7f, -0.8f };
    static entry tape[NODES];
    bmvp_ctx *c = bmvp_create(NULL, NULL);
    float g[8];
    int i;

    if (!c) return 1;
    tape[0].t = bmvp_input(c, 2, xd, x); /* the tape: nodes in the order in which they are made */
    tape[1].t = bmvp_leaf(c, 2, wd, w);
    tape[2].t = bmvp_linear(c, tape[0].t, tape[1].t, NULL);
    tape[3].t = bmvp_gelu(c, tape[2].t);
    tape[4].t = bmvp_mul(c, tape[3].t, tape[3].t);
    tape[5].t = bmvp_mean(c, tape[4].t);
    if (bmvp_failed(c)) {
        printf("%s\n", bmvp_error_of(c)->message);
        return 1;
    }
    printf("the tape of loss = mean(gelu(x w)^2)\n");
    for (i = 0; i < NODES; ++i) {
        bmvp_read(c, tape[i].t, tape[i].value); /* values are there at once: nothing waits for a graph to be complete */
        print_node(tape, i);
    }

    printf("and backwards, by hand\n");
    tape[NODES - 1].grad[0] = 1; /* dloss / dloss */
    for (i = NODES - 1; i >= 0; --i)
        if (tape[i].t->op >= 0) step_back(tape, i);

    bmvp_backward(c, tape[5].t); /* the library's walk: the same, and it frees what it has passed */
    printf("dloss/dw by hand and by bmvp_backward\n");
    if (!bmvp_read_grad(c, tape[1].t, g))
        for (i = 0; i < 8; ++i) printf("w[%d] %.4f %.4f\n", i, tape[1].grad[i], (double)g[i]);
    bmvp_destroy(c);
    return 0;
}
