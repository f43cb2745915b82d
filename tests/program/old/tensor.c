#define BMVP_IMPLEMENTATION
#include "bmvp_tensor.h"
#include <stdio.h>
int main(void)
{
    int64_t xd[2] = { 4, 3 }, wd[2] = { 3, 2 };
    float x[12] = { 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12 };
    bmvp_ctx *c = bmvp_create(NULL, NULL);
    bmvp_tensor *w = bmvp_param(c, "w", 2, wd);
    bmvp_fill(c, w, 0.1f);
    bmvp_tensor *y = bmvp_linear(c, bmvp_input(c, 2, xd, x), w, NULL);
    bmvp_tensor *loss = bmvp_mean(c, bmvp_mul(c, y, y));
    bmvp_backward(c, loss);
    if (bmvp_failed(c)) printf("%s\n", bmvp_error_of(c)->message);
    else printf("loss %g, dloss/dw[0] %g\n", (double)bmvp_scalar(c, loss), (double)bmvp_grad_at(c, w, 0));
    bmvp_destroy(c);
    return 0;
}
