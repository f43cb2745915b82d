/* device.c - where a command computes */
#include "device.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

cli_option device_option(const char **text)
{
    return cli_string("device", text, "cpu", "cpu|cuda[:N]",
                      "where to compute: the CPU, or GPU number N (a program made with CUDA=1)");
}

cli_option precision_option(int *precision)
{
    return cli_choice("precision", precision, 0, "fp32|bf16|tf32",
                      "products of matrices in bfloat16 (GPUs, which then store activations in it, too, and processors "
                      "with avx512_bf16) or "
                      "TF32 (GPUs); all else stays float32");
}

cli_option graph_option(int *graph)
{
    return cli_choice("graph", graph, 1, "0|1",
                      "1: forward and backward of a step go to a GPU as one CUDA graph; 0: call by call; same result");
}

bmvp_status device_open(const char *text, int local_rank, const bmvp_backend **backend, bmvp_error *err)
{
    char *end = NULL;
    long n = local_rank;
    *backend = NULL;
    if (strcmp(text, "cpu") == 0) return BMVP_OK;
    if (strncmp(text, "cuda:", 5) == 0) n = strtol(text + 5, &end, 10);
    if ((strcmp(text, "cuda") != 0 && !end) || (end && (end == text + 5 || *end)) || n < 0 || n > 1023)
        return bmvp_error_set(err, BMVP_E_ARG, "--device %s: must be cpu, cuda or cuda:N", text);
#ifdef PROGRAM_CUDA
    *backend = bmvp_cuda_backend((int)n, err);
    if (*backend) return BMVP_OK;
    if (err->status != BMVP_E_UNSUPPORTED) return err->status;
    fprintf(stderr, "bmvp: --device %s: %s; computing on the CPU\n", text, err->message);
    return BMVP_OK;
#else
    return bmvp_error_set(err, BMVP_E_ARG,
                          "--device %s: this program was built without CUDA; build it with: make CUDA=1", text);
#endif
}

void device_close(const bmvp_backend *backend)
{
#ifdef PROGRAM_CUDA
    bmvp_cuda_release(backend);
#else
    (void)backend;
#endif
}

void device_print(const bmvp_ctx *c)
{
    if (!bmvp_on_host(c))
        printf("compute  %s, %s%s\n", bmvp_backend_of(c)->name, bmvp_precision_text(bmvp_precision_of(c)),
               bmvp_captures(c) ? "" : ", no graph");
    else printf("compute  %d threads, %s, %s\n", bmvp_threads(c), bmvp_simd_text(bmvp_simd_level(c)),
                bmvp_precision_text(bmvp_precision_of(c)));
    fflush(stdout);
}
