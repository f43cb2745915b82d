/* Solutions of lesson 13, with its training: what a step of small, middle and large crops costs; products in
   bfloat16. On the CPU without a GPU, which it says. Compiled for a GPU as the lesson is, with -DWITH_GPU. */
#define main lesson
#include "13_gpu.c"
#undef main

int main(void)
{
    const int edge[3] = { 16, 32, 64 };
    bmvp_config k = bmvp_config_default();
    const bmvp_backend *device = NULL;
    double seconds[3] = { 0 }, loss[STEPS] = { 0 }, half[STEPS], time_of_half;
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
        bad = train(&k, edge[i], loss, &seconds[i]);
        printf("%d^3: %.3f us a voxel\n", edge[i], 1e6 * seconds[i] / (CASES * edge[i] * edge[i] * edge[i]));
    }

    /* 2. Products of numbers with 8 bits of mantissa; not every processor has them. */
    k.precision = BMVP_BF16;
    c = bmvp_create(&k, &err);
    bmvp_destroy(c);
    if (!c) printf("no bfloat16: %s\n", err.message);
    else if (!bad) {
        bad = train(&k, edge[2], half, &time_of_half);
        printf("bfloat16: losses apart by %.1e after %d steps\n", fabs(half[STEPS - 1] - loss[STEPS - 1]), STEPS);
        bad |= !(fabs(half[STEPS - 1] - loss[STEPS - 1]) < 0.02 * loss[STEPS - 1]);
        bad |= half[STEPS - 1] == loss[STEPS - 1]; /* the same bits: of float32 */
    }
#ifdef WITH_GPU
    bmvp_cuda_release(device);
#endif
    return bad || !(loss[STEPS - 1] > 0) || !(device || seconds[2] > 4 * seconds[0]);
}
