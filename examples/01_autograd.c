/* 01_autograd.c - a tape, a gradient, and why a gradient check is not enough

   What you learn: tensors are made on a context, every op is recorded, backward walks the record, and central
   differences confirm it. The last part checks all ops of the library at once, from the one list that also makes their
   names.
   Run: build/01_autograd (a second). Every error should be far below 0.02. */
#define BMVP_IMPLEMENTATION
#include "bmvp_tensor.h"

static float loss_at(bmvp_ctx *c, const float *x, const float *w)
{
    const int64_t xd[2] = { 3, 4 }, wd[2] = { 4, 2 };
    bmvp_tensor *y;
    bmvp_step_begin(c);
    y = bmvp_gelu(c, bmvp_linear(c, bmvp_input(c, 2, xd, x), bmvp_input(c, 2, wd, w), NULL));
    return bmvp_scalar(c, bmvp_mean(c, bmvp_mul(c, y, y)));
}

int main(void)
{
    const int64_t xd[2] = { 3, 4 }, wd[2] = { 4, 2 };
    const float x[12] = { 1, 2, 3, 4, -1, 0, 1, 2, 3, -2, 1, 0 }, h = 1e-2f;
    float w[8] = { 0.1f, -0.2f, 0.3f, 0.4f, -0.5f, 0.6f, 0.7f, -0.8f }, g[8];
    bmvp_ctx *c = bmvp_create(NULL, NULL);
    bmvp_tensor *weight, *y;
    int i, op, variant;

    weight = bmvp_leaf(c, 2, wd, w);
    y = bmvp_gelu(c, bmvp_linear(c, bmvp_input(c, 2, xd, x), weight, NULL)); /* GELU(x w) */
    bmvp_backward(c, bmvp_mean(c, bmvp_mul(c, y, y)));
    if (bmvp_read_grad(c, weight, g)) {
        printf("%s\n", bmvp_error_of(c)->message);
        return 1;
    }
    printf("dloss/dw    backward  central difference\n");
    for (i = 0; i < 8; ++i) {
        const float keep = w[i];
        float up, down;
        w[i] = keep + h;
        up = loss_at(c, x, w);
        w[i] = keep - h;
        down = loss_at(c, x, w);
        w[i] = keep;
        printf("  w[%d]      %8.4f  %8.4f\n", i, (double)g[i], (double)((up - down) / (2 * h)));
    }
    bmvp_destroy(c);

    printf("\nworst error of each op's backward, random cotangents:\n");
    for (op = 0; op < BMVP_OP_COUNT; ++op)
        for (variant = 0;; ++variant) {
            const double e = bmvp_gradcheck(NULL, op, variant, 1);
            if (e < 0) break;
            printf("  %-18s %d  %.1e\n", bmvp_op_name(op), variant, e);
        }
    return 0;
}
