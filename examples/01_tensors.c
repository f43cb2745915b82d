/* 01_tensors.c - lesson 1: tensors, shapes, and errors that carry on

   What you learn: a tensor is numbers, a shape and nothing else; where a voxel lies in memory; what shares memory;
   which shapes go together; that the first error is kept, so that a network needs one check at its end; and who frees
   what.
   Run:  cc -O2 -I. examples/01_tensors.c -o 01_tensors -lm -lpthread && ./01_tensors        (no time; compiling: 10 s)
   You see, numbers within 0.1 %:
   | a volume has the shape (1,2,3,4,2): 48 numbers
   | voxel z 1, y 2, x 3, channel 1 is number 47 = 0.47
   | reshaped to (24,2): row 23 is 0.46 0.47, the memory is the same
   | channel means (2): 0.23 0.24
   | minus the means (1,2,3,4,2): the first voxel is -0.23 -0.23
   | linear gave nothing, scale of that nothing, relu of that nothing, the mean nothing
   | the one error: linear: x (24,2), w (3,5), b none; they must be (..., I), (I, O), (O)
   | after bmvp_clear_error: linear (24,5), no error
   | step memory after 100 additions: a few KiB more; after bmvp_step_begin: 0 bytes
   | the parameter is still there: 2 x 5 numbers, w[0] = 0.5
   Exercises:
   1. Write at(z, y, x, channel), the place of a voxel in memory, for any shape (1, D, H, W, C). Hint: the last axis
      is contiguous; each axis steps over the product of those behind it.
   2. From a volume (1, D, H, W, 1) and its mirror image along x make one of two channels. Hint: a mirror is no op,
      but rows in any order are: bmvp_gather_rows, then bmvp_concat along axis 4.
   In the headers: bmvp_tensor.h >>tensor (the struct), >>memory, >>status; how a builder is written: >>op blocks. */
#define BMVP_IMPLEMENTATION
#include "bmvp_tensor.h"
#include <stdio.h>
#include <string.h>

/* A tensor knows its rank and its axes: "(1,2,3)". */
static const char *shape(const bmvp_tensor *t)
{
    static char text[2][64];
    static int turn;
    char *p = text[turn = !turn];
    int i;
    if (!t) return "nothing";
    for (i = 0; i < t->rank; ++i) p += sprintf(p, "%s%d", i ? "," : "(", (int)t->dim[i]);
    sprintf(p, ")");
    return text[turn];
}

int main(void)
{
    const int64_t volume[5] = { 1, 2, 3, 4, 2 }; /* samples, z, y, x, channels: the last axis is contiguous */
    const int64_t rows[2] = { 24, 2 }, weights[2] = { 2, 5 }, wrong[2] = { 3, 5 };
    bmvp_ctx *c = bmvp_create(NULL, NULL); /* everything hangs on a context: memory, threads, errors, the tape */
    bmvp_tensor *x, *flat, *mean, *centred, *w, *bad, *y;
    float data[48], out[48], m[2];
    int64_t before;
    int i;

    if (!c) return 1;
    for (i = 0; i < 48; ++i) data[i] = (float)i / 100;
    x = bmvp_input(c, 5, volume, data); /* copied; it lives until the step ends */
    i = ((1 * 3 + 2) * 4 + 3) * 2 + 1;
    printf("a volume has the shape %s: %d numbers\n", shape(x), (int)x->numel);
    bmvp_read(c, x, out);
    printf("voxel z 1, y 2, x 3, channel 1 is number %d = %.2f\n", i, (double)out[i]);

    /* A reshape is another view of the same numbers, and no copy. */
    flat = bmvp_reshape(c, x, 2, rows);
    bmvp_read(c, flat, out);
    printf("reshaped to %s: row 23 is %.2f %.2f, the memory is %s\n", shape(flat), (double)out[46], (double)out[47],
           flat->x == x->x ? "the same" : "another");

    /* What is added may be a channel vector, a volume without samples, or one number; nothing else is repeated. */
    mean = bmvp_global_pool(c, x);                            /* (1, 2) */
    mean = bmvp_reshape(c, mean, 1, &volume[4]);              /* (2) */
    centred = bmvp_sub(c, x, mean);
    bmvp_read(c, mean, m);
    bmvp_read(c, centred, out);
    printf("channel means %s: %.2f %.2f\n", shape(mean), (double)m[0], (double)m[1]);
    printf("minus the means %s: the first voxel is %.2f %.2f\n", shape(centred), (double)out[0], (double)out[1]);

    /* Three columns do not go with two channels. Nothing is printed, nothing exits: the context remembers the first
       error, builders return NULL and accept NULL, and the check stands once, behind everything. */
    w = bmvp_param(c, "w", 2, weights);
    bmvp_fill(c, w, 0.5f);
    bad = bmvp_param(c, "bad", 2, wrong);
    printf("linear gave %s, ", shape(y = bmvp_linear(c, flat, bad, NULL)));
    printf("scale of that %s, ", shape(y = bmvp_scale(c, y, 2, 0)));
    printf("relu of that %s, ", shape(y = bmvp_relu(c, y)));
    printf("the mean %s\n", shape(bmvp_mean(c, y)));
    if (bmvp_failed(c)) printf("the one error: %s\n", bmvp_error_of(c)->message);

    bmvp_clear_error(c); /* the context is as good as new */
    y = bmvp_linear(c, flat, w, NULL);
    printf("after bmvp_clear_error: linear %s, %s\n", shape(y), bmvp_failed(c) ? "an error" : "no error");

    /* Two lifetimes: parameters live as long as the context, all else until the next bmvp_step_begin. */
    before = bmvp_memory_of(c).step;
    for (i = 0; i < 100; ++i) y = bmvp_add(c, y, y);
    printf("step memory after 100 additions: %s; ", bmvp_memory_of(c).step - before > 100 * 24 * 5 * 4 - 1
                                                        ? "a few KiB more" : "no more");
    bmvp_step_begin(c); /* x, flat, y and all others are gone now */
    printf("after bmvp_step_begin: %d bytes\n", (int)bmvp_memory_of(c).step);
    printf("the parameter is still there: %d x %d numbers, w[0] = %.1f\n", (int)w->dim[0], (int)w->dim[1],
           (double)bmvp_scalar(c, w));
    bmvp_destroy(c);
    return 0;
}
