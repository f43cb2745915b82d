/* device.h - where and how a command computes: --device cpu or cuda[:N], --precision fp32, bf16 or tf32, --graph 0 or 1 */
#ifndef BMVP_DEVICE_H_INCLUDED
#define BMVP_DEVICE_H_INCLUDED

#include "bmvp_tensor.h"
#include "cli.h"

bmvp_cli_option bmvp_device_option(const char **text);
bmvp_cli_option bmvp_precision_option(int *precision); /* a bmvp_precision */
bmvp_cli_option bmvp_graph_option(int *graph);         /* bmvp_config.graph: commands that train */
/* NULL in *backend: the CPU. "cuda" without a number is GPU number local_rank: each rank of a host has its own. A build with CUDA that finds no GPU or driver says so and takes the CPU; BMVP_E_ARG: not a device, or a build
   without CUDA. Close after the last context. */
bmvp_status bmvp_device_open(const char *text, int local_rank, const bmvp_backend **backend, bmvp_error *err);
void bmvp_device_close(const bmvp_backend *backend);
/* The line `compute  ...` at the start of a run */
void bmvp_device_print(const bmvp_ctx *c);

#endif /* BMVP_DEVICE_H_INCLUDED */
