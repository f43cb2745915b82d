/* 13_gpu.c - lesson 13: the GPU: the same program, one line more

   What you learn: a context computes where its backend says. bmvp_config.backend is the whole difference: networks,
   losses, the optimizer and files do not know it. Here a small UniFormer learns to rebuild blocks on the CPU, then
   by the same function on the GPU; both print their losses, which agree but for rounding: a GPU adds in another
   order. Without a GPU, or compiled without one, the program says so and the second run is on the CPU: the same bits.
   Run:  cc -O2 -I. examples/13_gpu.c -o 13_gpu -lm -lpthread && ./13_gpu                   (1 s; compiling: 20 s)
         with a GPU: make CUDA=1 build/bmvp_cuda.o &&
                     cc -O2 -DWITH_GPU -I. examples/13_gpu.c build/bmvp_cuda.o -o 13_gpu
                     -L/usr/local/cuda/lib64 -lcudart -lcublas -lcublasLt -lstdc++ -lm -lpthread && ./13_gpu
                     (and -lnccl where make found NCCL)
   You see, numbers within 1 % or 0.001, times (#) as your machine is:
   | on the CPU: losses 0.3114 0.3076 0.3027 0.2979, # ms of this processor a step
   | largest difference 0.000000
   Exercises:
   1. Where does the time of a small step go on a GPU? Run with crops of 16, 32, 64. Hint: EDGE; a kernel takes some
      microseconds to start, however little it has to do.
   2. Take bfloat16 for products. Hint: bmvp_config.precision = BMVP_BF16 where there is a GPU; how far are the losses?
   In the headers: bmvp_tensor.h >>table (bmvp_device, what a backend is), >>device of the CPU; bmvp_cuda.cu. */
#define BMVP_IMPLEMENTATION
#include "bmvp_tensor.h"
#include "bmvp_nn.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { EDGE = 16, CASES = 2, STEPS = 4 };

/* Trains on crops of edge^3 and prints; losses, and seconds of this processor a step after the first; 1: a failure */
static int train(const bmvp_config *k, int edge, double loss[STEPS], double *seconds)
{
    const int64_t dim[5] = { CASES, edge, edge, edge, 1 };
    const int n = edge * edge * edge;
    float *blocks = (float *)malloc((size_t)(CASES * n) * sizeof *blocks);
    bmvp_optim_config adam = bmvp_optim_config_default(BMVP_ADAMW);
    bmvp_net_config net_config;
    bmvp_features f;
    bmvp_tensor *x, *l;
    bmvp_optim *optim;
    bmvp_net *net;
    bmvp_ctx *c = bmvp_create(k, NULL);
    clock_t t = 0;
    int i;
    if (!c || !blocks) {
        free(blocks), bmvp_destroy(c);
        return 1;
    }
    for (i = 0; i < CASES * n; ++i) blocks[i] = (float)(i / (4 + i / n) % 3 + i / 64 % 4 + i / 1024 % 2) / 6;
    (void)bmvp_net_preset("uniformer_tiny", &net_config);
    net = bmvp_net_create(c, &net_config);
    if (net) bmvp_net_init(net, 1);
    optim = net ? bmvp_optim_create(c, bmvp_net_state(net), &adam) : NULL;
    for (i = 0; i < STEPS && optim && !bmvp_failed(c); ++i) {
        if (i == 1) t = clock(); /* the first step makes what the others use again */
        bmvp_step_begin(c);
        bmvp_optim_zero_grad(optim);
        x = bmvp_input(c, 5, dim, blocks);
        f = bmvp_net_encode(net, x, 1);
        l = bmvp_mse(c, bmvp_net_reconstruct(net, &f), x);
        bmvp_backward(c, l);
        bmvp_optim_step(optim, 3e-3, 1);
        loss[i] = (double)bmvp_scalar(c, l); /* this waits; the calls above only hand over work */
    }
    printf("on the %s: losses", bmvp_on_host(c) ? "CPU" : bmvp_backend_of(c)->name);
    for (i = 0; i < STEPS; ++i) printf(" %.4f", loss[i]);
    *seconds = (double)(clock() - t) / CLOCKS_PER_SEC / (STEPS - 1);
    printf(", %.1f ms of this processor a step\n", 1e3 * *seconds);
    if (bmvp_failed(c)) printf("%s\n", bmvp_error_of(c)->message);
    i = bmvp_failed(c);
    bmvp_optim_destroy(optim);
    bmvp_net_destroy(net);
    bmvp_destroy(c);
    free(blocks);
    return i;
}

int main(void)
{
    double cpu[STEPS], gpu[STEPS], seconds, worst = 0;
    const bmvp_backend *device = NULL;
    bmvp_config k = bmvp_config_default();
    int i, bad;
#ifdef WITH_GPU /* the function is in bmvp_cuda.cu: a program that calls it is linked with that */
    bmvp_error err;
    device = bmvp_cuda_backend(0, &err);
    if (!device) printf("no GPU: %s; the CPU takes its place\n", err.message);
#else
    printf("no GPU: compiled without WITH_GPU; the CPU takes its place\n");
#endif
    bad = train(&k, EDGE, cpu, &seconds);
    k.backend = device; /* the one line; NULL: the CPU */
    bad = bad || train(&k, EDGE, gpu, &seconds);
    for (i = 0; i < STEPS && !bad; ++i) {
        const double d = fabs(cpu[i] - gpu[i]);
        if (d > worst || isnan(d)) worst = d; /* a NaN stays: nothing is larger than it */
    }
    if (!bad) printf("largest difference %.6f\n", worst);
#ifdef WITH_GPU
    bmvp_cuda_release(device);
#endif
    return bad;
}
