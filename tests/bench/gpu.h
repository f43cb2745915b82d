/* gpu.h - for the benchmarks: the words about a GPU, and how much of its memory is taken. The GPU is the one that the
   calling thread uses, which is bmvp_cuda_backend's. Where tests/gpu/cuda_shim.h plays the GPU (BMVP_CUDA_SHIM) there
   is nothing to say and no memory to ask for. */
#ifndef BMVP_BENCH_GPU_H
#define BMVP_BENCH_GPU_H

#include <stdio.h>
#include <string.h>

#ifdef BMVP_CUDA_SHIM

static inline void gpu_text(char *out, size_t size) { snprintf(out, size, "no GPU: tests/gpu/cuda_shim.h on the CPU"); }
static inline double gpu_used_mb(void) { return 0; }

#else
#include <cuda_runtime_api.h>

/* One line: name, compute capability, what driver and runtime are for, and on Linux the driver's own version. */
static inline void gpu_text(char *out, size_t size)
{
    struct cudaDeviceProp p;
    FILE *f = fopen("/proc/driver/nvidia/version", "r");
    char line[256] = "";
    int device = 0, driver = 0, runtime = 0;
    memset(&p, 0, sizeof p);
    (void)cudaGetDevice(&device);
    (void)cudaGetDeviceProperties(&p, device);
    (void)cudaDriverGetVersion(&driver);
    (void)cudaRuntimeGetVersion(&runtime);
    if (f && !fgets(line, (int)sizeof line, f)) line[0] = 0;
    if (f) (void)fclose(f);
    line[strcspn(line, "\n\"\\")] = 0;
    snprintf(out, size, "%s (sm_%d%d, %d multiprocessors), driver for CUDA %d.%d, runtime %d.%d%s%s", p.name, p.major,
             p.minor, p.multiProcessorCount, driver / 1000, driver % 1000 / 10, runtime / 1000, runtime % 1000 / 10,
             line[0] ? "; " : "", line);
}

/* 1e6 bytes of the GPU's memory that are not free, by whomever they were taken; 0: unknown. */
static inline double gpu_used_mb(void)
{
    size_t left = 0, all = 0;
    return cudaMemGetInfo(&left, &all) == cudaSuccess ? (double)(all - left) * 1e-6 : 0;
}
#endif

#endif /* BMVP_BENCH_GPU_H */
