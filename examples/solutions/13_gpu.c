/* Solutions of lesson 13: what a step of small, middle and large crops costs; products in bfloat16. On the CPU without
   a GPU, which it says. Compiled for a GPU as the lesson is, with -DWITH_GPU. */
#define BMVP_IMPLEMENTATION
#include "bmvp_tensor.h"
#include "bmvp_nn.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { STEPS = 3 };

/* Seconds of this processor a step, waiting for a GPU included, and the last loss; 1 after a failure */
static int train(const bmvp_config *k, int edge, double *seconds, double *loss)
{
    const int64_t dim[5] = { 1, edge, edge, edge, 1 };
    bmvp_optim_config adam = bmvp_optim_config_default(BMVP_ADAMW);
    float *blocks = (float *)malloc((size_t)(edge * edge * edge) * sizeof *blocks);
    bmvp_ctx *c = bmvp_create(k, NULL);
    bmvp_net_config net_config;
    bmvp_optim *optim;
    bmvp_net *net;
    clock_t begin = 0;
    int i, bad;
    if (!c || !blocks) {
        free(blocks), bmvp_destroy(c);
        return 1;
    }
    for (i = 0; i < edge * edge * edge; ++i) blocks[i] = (float)(i / 4 % 3 + i / 64 % 4 + i / 1024 % 2) / 6;
    (void)bmvp_net_preset("uniformer_tiny", &net_config);
    net = bmvp_net_create(c, &net_config);
    if (net) bmvp_net_init(net, 1);
    optim = net ? bmvp_optim_create(c, bmvp_net_state(net), &adam) : NULL;
    for (i = 0; i < STEPS && optim && !bmvp_failed(c); ++i) {
        bmvp_tensor *x, *l;
        bmvp_features f;
        if (i == 1) begin = clock(); /* the first one makes what the others use again */
        bmvp_step_begin(c);
        bmvp_optim_zero_grad(optim);
        x = bmvp_input(c, 5, dim, blocks);
        f = bmvp_net_encode(net, x, 1);
        l = bmvp_mse(c, bmvp_net_reconstruct(net, &f), x);
        bmvp_backward(c, l);
        bmvp_optim_step(optim, 3e-3, 1);
        *loss = (double)bmvp_scalar(c, l); /* waits for the GPU */
    }
    *seconds = (double)(clock() - begin) / CLOCKS_PER_SEC / (STEPS - 1);
    if (bmvp_failed(c)) printf("%s\n", bmvp_error_of(c)->message);
    bad = bmvp_failed(c);
    bmvp_optim_destroy(optim), bmvp_net_destroy(net), bmvp_destroy(c);
    free(blocks);
    return bad;
}

int main(void)
{
    const int edge[3] = { 16, 32, 64 };
    bmvp_config k = bmvp_config_default();
    const bmvp_backend *device = NULL;
    double seconds[3] = { 0 }, loss = 0, half = 0, time_of_half;
    bmvp_error err;
    bmvp_ctx *c;
    int i, bad = 0;
#ifdef WITH_GPU
    device = bmvp_cuda_backend(0, &err);
    if (!device) printf("no GPU: %s; on the CPU\n", err.message);
#else
    printf("no GPU: compiled without WITH_GPU; on the CPU\n");
#endif
    k.backend = device;
    if (!device) k.threads = 1;

    /* 1. Eight times the voxels from line to line. Where a step costs less than eight times as much, starting kernels
       (a GPU) and what does not depend on the crop, such as the optimizer, take the rest. */
    for (i = 0; i < 3 && !bad; ++i) {
        bad = train(&k, edge[i], &seconds[i], &loss);
        printf("%d^3: %.1f ms a step, %.3f us a voxel, loss %.4f\n", edge[i], 1e3 * seconds[i],
               1e6 * seconds[i] / edge[i] / edge[i] / edge[i], loss);
    }

    /* 2. Products of numbers with 8 bits of mantissa; not every processor has them. */
    k.precision = BMVP_BF16;
    c = bmvp_create(&k, &err);
    bmvp_destroy(c);
    if (!c) printf("no bfloat16: %s\n", err.message);
    else if (!bad) {
        bad = train(&k, edge[2], &time_of_half, &half);
        printf("bfloat16: loss %.4f, apart by %.1e\n", half, fabs(half - loss));
        bad |= !(fabs(half - loss) < 0.02 * loss);
    }
#ifdef WITH_GPU
    bmvp_cuda_release(device);
#endif
    return bad || !(loss > 0) || !(device || seconds[2] > seconds[0]);
}
