#define BMVP_IMPLEMENTATION
#include "bmvp_tensor.h"
#include <stdio.h>

int main(void)
{
    const int64_t in[2] = { 64, 3 }, weights[2] = { 3, 1 };
    bmvp_config cfg = bmvp_config_default();
#ifdef GPU
    cfg.backend = bmvp_cuda_backend(0, NULL);
#endif
    bmvp_ctx *c = bmvp_create(&cfg, NULL);
    bmvp_tensor *w = bmvp_param(c, "w", 2, weights);
    bmvp_fill(c, w, 0.5f);
    bmvp_tensor *x = bmvp_leaf(c, 2, in, NULL);
    bmvp_fill(c, x, 2);
    bmvp_tensor *loss = bmvp_mean(c, bmvp_linear(c, x, w, NULL));
    bmvp_backward(c, bmvp_keep(loss));
    printf("%s: loss %g, gradient %g\n", bmvp_backend_of(c)->name, bmvp_scalar(c, loss), bmvp_grad_at(c, w, 0));
    bmvp_destroy(c);
    return 0;
}
