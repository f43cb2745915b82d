/* device.c - where a command computes */
#include "device.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

bmvp_cli_option bmvp_device_option(const char **text)
{
    return bmvp_cli_string("device", text, "cpu", "cpu|cuda[:N]", "where to compute: the CPU, or GPU number N (a program made with CUDA=1)");
}

bmvp_cli_option bmvp_precision_option(int *precision)
{
    return bmvp_cli_choice("precision", precision, 0, "fp32|bf16|tf32",
                           "products of matrices in bfloat16 (GPUs, processors with avx512_bf16) or TF32 (GPUs); all else stays float32");
}

bmvp_cli_option bmvp_graph_option(int *graph)
{
    return bmvp_cli_choice("graph", graph, 1, "0|1", "1: forward and backward of a step go to a GPU as one CUDA graph; 0: call by call; same result");
}

bmvp_status bmvp_device_open(const char *text, int local_rank, const bmvp_backend **backend, bmvp_error *err)
{
    char *end = NULL;
    long n = local_rank;
    *backend = NULL;
    if (strcmp(text, "cpu") == 0) return BMVP_OK;
    if (strncmp(text, "cuda:", 5) == 0) n = strtol(text + 5, &end, 10);
    if ((strcmp(text, "cuda") != 0 && !end) || (end && (end == text + 5 || *end)) || n < 0 || n > 1023)
        return bmvp_error_set(err, BMVP_E_ARG, "--device %s: must be cpu, cuda or cuda:N", text);
#ifdef BMVP_PROGRAM_CUDA
    *backend = bmvp_cuda_backend((int)n, err);
    if (*backend) return BMVP_OK;
    if (err->status != BMVP_E_UNSUPPORTED) return err->status;
    fprintf(stderr, "bmvp: --device %s: %s; computing on the CPU\n", text, err->message);
    return BMVP_OK;
#else
    return bmvp_error_set(err, BMVP_E_ARG, "--device %s: this program was built without CUDA; build it with: make CUDA=1", text);
#endif
}

void bmvp_device_close(const bmvp_backend *backend)
{
#ifdef BMVP_PROGRAM_CUDA
    bmvp_cuda_release(backend);
#else
    (void)backend;
#endif
}

#ifdef BMVP_PROGRAM_CUDA
typedef struct ticket { /* what rank 0 tells the others */
    unsigned char id[128];
    int there; /* every rank has a GPU, rank 0 has NCCL */
} ticket;

static bmvp_status tickets(const bmvp_backend *backend, const bmvp_comm *link, ticket *t, bmvp_error *err)
{
    const char own = backend != NULL;
    char *all = (char *)malloc((size_t)link->size);
    bmvp_status st = all ? link->all_gather(link, &own, 1, all, err) : bmvp_error_set(err, BMVP_E_OOM, "out of memory");
    int i;
    t->there = 1;
    for (i = 0; !st && i < link->size; ++i) t->there &= all[i];
    free(all);
    if (!st && link->rank == 0 && t->there) {
        st = bmvp_cuda_comm_id(t->id, err);
        t->there = st == BMVP_OK;
        if (st == BMVP_E_UNSUPPORTED) st = BMVP_OK;
    }
    return st ? st : link->broadcast(link, t, (int64_t)sizeof *t, 0, err);
}

bmvp_status bmvp_device_join(const bmvp_backend *backend, const bmvp_comm *link, double seconds, bmvp_comm *out, bmvp_error *err)
{
    bmvp_status st;
    ticket t;
    memset(out, 0, sizeof *out);
    memset(&t, 0, sizeof t);
    st = tickets(backend, link, &t, err);
    return st || !t.there ? st : bmvp_cuda_comm_join(backend, t.id, link->rank, link->size, seconds, out, err);
}

void bmvp_device_leave(bmvp_comm *m) { bmvp_cuda_comm_leave(m); }
#else
bmvp_status bmvp_device_join(const bmvp_backend *backend, const bmvp_comm *link, double seconds, bmvp_comm *out, bmvp_error *err)
{
    (void)backend;
    (void)link;
    (void)seconds;
    (void)err;
    memset(out, 0, sizeof *out);
    return BMVP_OK;
}
void bmvp_device_leave(bmvp_comm *m) { (void)m; }
#endif

void bmvp_device_print(const bmvp_ctx *c)
{
    if (bmvp_backend_of(c)->device)
        printf("compute  %s, %s%s\n", bmvp_backend_of(c)->name, bmvp_precision_text(bmvp_precision_of(c)), bmvp_captures(c) ? "" : ", no graph");
    else printf("compute  %d threads, %s, %s\n", bmvp_threads(c), bmvp_simd_text(bmvp_simd_level(c)),
                bmvp_precision_text(bmvp_precision_of(c)));
    fflush(stdout);
}
