/* device.h - where and how a command computes: --device cpu or cuda[:N], --precision fp32, bf16 or tf32, --graph 0 or
   1 */
#ifndef DEVICE_H_INCLUDED
#define DEVICE_H_INCLUDED

#include "bmvp_tensor.h"
#include "cli.h"

cli_option device_option(const char **text);
cli_option precision_option(int *precision); /* a bmvp_precision */
cli_option graph_option(int *graph);         /* bmvp_config.graph: commands that train */
/* NULL in *backend: the CPU. "cuda" without a number is GPU number local_rank: each rank of a host has its own. A build
   with CUDA that finds no GPU or driver says so and takes the CPU; BMVP_E_ARG: not a device, or a build without CUDA.
   Close after the last context. */
bmvp_status device_open(const char *text, int local_rank, const bmvp_backend **backend, bmvp_error *err);
void device_close(const bmvp_backend *backend);
/* The line `compute  ...` at the start of a run */
void device_print(const bmvp_ctx *c);

#endif /* DEVICE_H_INCLUDED */
