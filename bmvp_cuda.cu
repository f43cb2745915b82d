/* bmvp_cuda.cu - v0.2.0 - the op table of bmvp_tensor.h on NVIDIA GPUs - MIT, no warranty (see its end)

   Do this:
       nvcc -c bmvp_cuda.cu                          and link the object with -lcudart -lcublas -lcublasLt -lstdc++
                                                     several GPUs: nvcc -DBMVP_NCCL, and -lnccl, too
                                                     (bmvp_cuda_comm_join)
       bmvp_config k = bmvp_config_default();
       k.backend = bmvp_cuda_backend(0, &err);       NULL and a message when there is no such device
       bmvp_ctx *c = bmvp_create(&k, &err);          everything else as on the CPU; bmvp_cuda_release after the last
       bmvp_destroy

   What it is: one stream, device memory behind the context's arena, a kernel for every op of the list in forward and
   backward, the optimizer and the gradient's norm over all tensors in one launch each. A training step is recorded as a
   CUDA graph, and is not waited for. bmvp_config.precision BMVP_FP32 is the mode that is compared with the CPU;
   BMVP_TF32 and BMVP_BF16 round the operands of products for the tensor cores, whose sums are float32. In BMVP_BF16 the
   results of ops and their gradients are bfloat16 in memory, from 4096 numbers on (bmvp_device.half_least); parameters,
   their gradients, buffers, inputs, statistics and losses are float32, and so is all arithmetic outside of products.
   What it is not: no GPU has run it. Nothing is copied to the host behind the program's back: an op
   without a kernel is a compile error, a shape it cannot take is BMVP_E_UNSUPPORTED.

   CONTENTS (search for the tag)
       >>backend   >>views     >>kernel map            >>capture   >>nccl      >>memory
       >>kernel reduce         >>kernel columns        >>kernel rows           >>kernel strided copy       >>gemm
       >>op NAME   one for each op, in the order of BMVP_OPS; before the ops that use them
       >>kernel parts          >>kernel attention      >>kernel flash          >>kernel tile   >>norms
       >>optimizer >>table

   CONVENTIONS
       Order      all work goes to the backend's one stream, in the order of the calls, from one thread at a time;
                  exchanges with other ranks go to a second one, and events keep the order. Calls make the backend's GPU
                  the thread's (cudaSetDevice) and leave it so.
       Bits       no float atomics: what is scattered is counted in whole numbers (grid_sample3d); work is cut by shape,
                  partial sums are added in fixed order: two runs on one kind of GPU are equal. Sums over ranks are in
                  NCCL's order: equal with the same GPUs and NCCL.
       Errors     of launches and calls go to the context at once; those of running kernels at the next call that waits
       (a read). Comments   every kernel says: what it computes; which thread does what; launch and limits; where its
       bits come from; traffic. Testing    with BMVP_CUDA_SHIM defined this file is C++ for tests/gpu/cuda_shim.h, which
       runs the kernels on the CPU. */
#include "bmvp_tensor.h"

#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#ifdef BMVP_CUDA_SHIM
#include "cuda_shim.h"
#ifdef BMVP_NCCL
#include "cuda_nccl.h"
#endif
#else
#include <cublasLt.h>
#include <cublas_v2.h>
#include <cuda_runtime.h>
#ifdef BMVP_NCCL
#include <nccl.h>
#endif
#define BMVPI_LAUNCH(kernel, grid, block, shared, stream, ...) (kernel)<<<grid, block, shared, stream>>>(__VA_ARGS__)
#define BMVPI_DYNAMIC(type, name) \
    extern __shared__ __align__(16) unsigned char bmvpi_dynamic[]; \
    type *name = reinterpret_cast<type *>(bmvpi_dynamic)
#define BMVPI_UNROLLED _Pragma("unroll")
#define BMVPI_ROLLED _Pragma("unroll 1")
#define BMVPI_UNROLLED_BY_4 _Pragma("unroll 4")
#define BMVPI_ALIGNED(address, bytes) ((void)0) /* the device says so itself */
#define BMVPI_MANY_TILES 256 /* two for each multiprocessor of an H100 */
#define BMVPI_PRODUCT_SPACE (32 << 20) /* bytes of workspace for cuBLASLt: what an H100's split sums take */
#define BMVPI_STAGE_MOST (1 << 26) /* bytes: all that a real step uploads */
#endif

#if defined(BMVP_NCCL) && NCCL_VERSION_CODE < 21400
#error "bmvp_cuda.cu needs NCCL 2.14 or newer (communicators that do not block); build without: make NCCL=0"
#endif

namespace bmvpi_cuda {

/* >>backend ------------------------------------------------------------------------------------------------------- */

struct product; /* how cuBLASLt makes products of one shape, see >>gemm */
enum { PRODUCT_LISTS = 256 };
/* Dynamic shared memory that a kernel may be launched with */
struct shared_most {
    const void *kernel;
    size_t bytes;
    shared_most *next;
};
/* Pinned memory that uploads go through, so that they need not wait: two halves in turn. `half_free` is when the half's
   copies are done. A recorded step's go to the halves' mirrors on the device first, in one piece and on a stream of
   their own, while the step before is computed. */
struct staging {
    char *half[2], *mirror[2];
    cudaEvent_t half_free[2], mirrored;
    cudaStream_t stream;
    int64_t size, used; /* of a half; of the one in use */
    int64_t sent;       /* of the one in use: what is in its mirror, or went without */
    int64_t asked;      /* since the last step began */
    int64_t wanted;     /* by the step before */
    int now;
};

/* A step held back as a CUDA graph, which is made once and given each step's arguments. Passes of several kinds take
   turns (with an update or without, of more cases or fewer, with other modalities): a graph is kept for each of the
   kinds that were met last. A kind is the sequence of nodes: of kernels, products and copies, whatever their arguments.
   */
enum { GRAPHS = 16 };
struct recording {
    struct { cudaGraphExec_t graph; uint64_t kind; int64_t last; } kept[GRAPHS]; /* last: the step that used it */
    int64_t steps;
    uint64_t kind;     /* of what is recorded, so far */
    bmvp_ctx *by; /* whose step the stream records now, or NULL */
    /* memory came or went: the next step is not recorded, since it may do so, too, and that is not allowed then */
    int changed;
    int told; /* that a step was cut: said once */
};

/* Numbers on their way to the host: ticket t has place t % BMVP_TICKETS. */
struct mailbox {
    float *place; /* pinned, written by the device */
    cudaEvent_t sent[BMVP_TICKETS];
    /* the last ticket; the last whose event is in the stream: a recorded one's waits for the graph */
    int64_t made, launched;
};

struct state {
    bmvp_backend backend; /* what bmvp_cuda_backend returns points here */
    bmvp_device device;
    int number;           /* of the GPU */
    char name[16];
    cudaStream_t stream;
    cublasHandle_t blas;
    cublasLtHandle_t lt;
    product *products[PRODUCT_LISTS]; /* by a hash of the shape */
    void *product_space;              /* of BMVPI_PRODUCT_SPACE bytes, for cuBLAS and cuBLASLt */
    shared_most *shared;
    staging stage;
    recording capture;
    mailbox mail;
    struct nccl *ranks;   /* the communicator that was joined, or NULL */
    void *scratch;        /* lists and partial sums of the optimizer */
    int64_t scratch_bytes;
};

static state *of(const bmvp_ctx *c) { return (state *)bmvp_backend_of(c)->device->user; }

static int check(bmvp_ctx *c, cudaError_t e, const char *what)
{
    if (e == cudaSuccess) return 1;
    bmvp_fail(c, e == cudaErrorMemoryAllocation ? BMVP_E_OOM : BMVP_E_INTERNAL, "cuda: %s: %s", what,
              cudaGetErrorString(e));
    return 0;
}

/* The backend's GPU becomes the thread's: another backend or library may have made another one that meanwhile, and what
   goes to the wrong GPU fails or takes its memory. Tens of nanoseconds where nothing changes. */
static int use(bmvp_ctx *c) { return check(c, cudaSetDevice(of(c)->number), "the backend's GPU"); }

/* What comes next in a recorded step: the address of a kernel, or a number that is as good */
static void capture_node(state *s, uint64_t node)
{
    if (s->capture.by) s->capture.kind = (s->capture.kind ^ node) * 1099511628211u;
}

/* Launches on the backend's stream; a failure is recorded with the kernel's name. Failures of kernels that run already
   show here, too. */
#define BMVPI_RUN(c, kernel, grid, block, shared, ...) \
    do { \
        (void)bmvpi_cuda::use(c); \
        bmvpi_cuda::capture_node(bmvpi_cuda::of(c), (uint64_t)(uintptr_t)&kernel); \
        BMVPI_LAUNCH(kernel, grid, block, shared, bmvpi_cuda::of(c)->stream, __VA_ARGS__); \
        bmvpi_cuda::check(c, cudaGetLastError(), "launch of " #kernel ", or a kernel before it"); \
    } while (0)

enum { THREADS = 256 };

static int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
static int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
static int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }

/* The least power of two that is at least n, at most `most` */
static int power_of_two(int64_t n, int most)
{
    int p = 1;
    while (p < n && p < most) p *= 2;
    return p;
}

/* >>views --------------------------------------------------------------------------------------------------------- */

/* A tensor lies in memory as float32 or bfloat16 (bmvp_tensor.half) and is computed with in float32: a view is what a
   kernel reads, a sink what it writes. The type is the same for a whole launch, so the branch on it costs nothing
   beside the memory. Nothing else here looks at bmvp_tensor's x and g: whoever needs one of the types asks for it
   (floats_of, halves_of). */
static __device__ __forceinline__ float value(float x) { return x; }
static __device__ __forceinline__ float value(uint16_t half) { return __uint_as_float((uint32_t)half << 16); }

#ifndef BMVP_CUDA_SHIM
/* Two bfloat16, the first in the lower half; to nearest even */
static __device__ __forceinline__ uint32_t round_bf16(float first, float second)
{
    uint32_t u;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(u) : "f"(second), "f"(first));
    return u;
}
#endif

struct view {
    const void *p;
    int half;
    __device__ __forceinline__ float operator[](int64_t i) const
    {
        return half ? value(((const uint16_t *)p)[i]) : ((const float *)p)[i];
    }
    __host__ __device__ __forceinline__ view operator+(int64_t n) const
    {
        return view{ (const char *)p + n * (half ? 2 : 4), half };
    }
    __host__ __device__ __forceinline__ explicit operator bool() const { return p != NULL; }
};
struct sink {
    void *p;
    int half;
    __device__ __forceinline__ float operator[](int64_t i) const { return view{ p, half }[i]; }
    __host__ __device__ __forceinline__ operator view() const { return view{ p, half }; }
    __host__ __device__ __forceinline__ sink operator+(int64_t n) const
    {
        return sink{ (char *)p + n * (half ? 2 : 4), half };
    }
    __host__ __device__ __forceinline__ explicit operator bool() const { return p != NULL; }
};

/* y[i] = v, or y[i] += v */
static __device__ __forceinline__ void put(float *y, int64_t i, float v, int add) { y[i] = add ? y[i] + v : v; }
static __device__ __forceinline__ void put(uint16_t *y, int64_t i, float v, int add)
{
    y[i] = (uint16_t)round_bf16(add ? value(y[i]) + v : v, 0.0f);
}
static __device__ __forceinline__ void put(const sink &y, int64_t i, float v, int add)
{
    if (y.half) put((uint16_t *)y.p, i, v, add);
    else put((float *)y.p, i, v, add);
}

/* The same for the two neighbours i and i + 1, i even */
static __device__ __forceinline__ void put_pair(const sink &y, int64_t i, float first, float second, int add)
{
    if (add) first += y[i], second += y[i + 1];
    if (y.half) ((uint32_t *)y.p)[i / 2] = round_bf16(first, second);
    else put((float *)y.p, i, first, 0), put((float *)y.p, i + 1, second, 0);
}

/* N neighbours, read and written at once; of 4 the first is a multiple of 4 from an address that is a multiple of 16
   bytes (tensors and workspaces start at such) */
template <class S, int N> struct alignas(sizeof(S) * N) piece { S v[N]; };
template <class S, int N> static __device__ __forceinline__ piece<S, N> *pieces(const void *p)
{
    BMVPI_ALIGNED(p, sizeof(S) * N);
    return (piece<S, N> *)p;
}
template <int N> static __device__ __forceinline__ void load(const view &x, int64_t i, float *v)
{
    if (N == 1) v[0] = x[i];
    else if (x.half) {
        const piece<uint16_t, N> h = pieces<uint16_t, N>(x.p)[i / N];
        BMVPI_UNROLLED
        for (int e = 0; e < N; ++e) v[e] = value(h.v[e]);
    } else {
        const piece<float, N> f = pieces<float, N>(x.p)[i / N];
        BMVPI_UNROLLED
        for (int e = 0; e < N; ++e) v[e] = f.v[e];
    }
}
/* y[i + e] = v[e], or += */
template <int N> static __device__ __forceinline__ void store(const sink &y, int64_t i, const float *v, int add)
{
    float sum[N];
    if (N == 1) {
        put(y, i, v[0], add);
        return;
    }
    if (add) load<N>(y, i, sum);
    BMVPI_UNROLLED
    for (int e = 0; e < N; ++e) sum[e] = add ? sum[e] + v[e] : v[e];
    if (y.half) {
        piece<uint32_t, N / 2 + N % 2> h;
        BMVPI_UNROLLED
        for (int e = 0; e < N / 2; ++e) h.v[e] = round_bf16(sum[2 * e], sum[2 * e + 1]);
        pieces<uint32_t, N / 2 + N % 2>(y.p)[i / N] = h;
    } else {
        piece<float, N> f;
        BMVPI_UNROLLED
        for (int e = 0; e < N; ++e) f.v[e] = sum[e];
        pieces<float, N>(y.p)[i / N] = f;
    }
}

static view values(const bmvp_tensor *t) { return t ? view{ t->x, t->half } : view{ NULL, 0 }; }
static view gradient(const bmvp_tensor *t) { return view{ t->g, t->half }; }
static sink result(const bmvp_tensor *t) { return sink{ t->x, t->half }; }
static sink floats(float *x) { return sink{ x, 0 }; }
/* bmvp_kernel_grad */
static sink grad(bmvp_ctx *c, bmvp_tensor *t, int *add)
{
    float *g = bmvp_kernel_grad(c, t, add);
    return sink{ g, g ? t->half : 0 };
}
/* Values of a buffer: those are never bfloat16 */
static float *buffer_of(const bmvp_tensor *t) { return t->x; }

/* >>kernel map ---------------------------------------------------------------------------------------------------- */

/* What every pointwise operation is: f.run<N>(i) does elements i to i + N - 1, for all of [0, n).
   Who:    thread t of the grid takes four neighbours at a time, t, t + grid, ...; the first threads what is left over.
   Launch: 256 threads, at most 8192 blocks; any n >= 1.
   Bits:   each element is computed by one thread.
   Traffic: what f says; accesses are coalesced, 8 or 16 bytes a thread. */
template <class F> __global__ void map_kernel(F f, int64_t n)
{
    const int64_t first = blockIdx.x * (int64_t)blockDim.x + threadIdx.x;
    for (int64_t i = first; i < n / 4; i += (int64_t)gridDim.x * blockDim.x) f.template run<4>(4 * i);
    if (first < n % 4) f.template run<1>(n - 1 - first);
}
template <class F> static void map(bmvp_ctx *c, const F &f, int64_t n)
{
    if (n > 0)
        BMVPI_RUN(c, map_kernel<F>, dim3((unsigned)smaller(ceil_div(n, 4 * THREADS), 8192)), dim3(THREADS), 0, f, n);
}
/* f(i) for i in [0, n): the same where elements are not what lies side by side. A thread takes one at a time. */
template <class F> __global__ void each_kernel(F f, int64_t n)
{
    for (int64_t i = blockIdx.x * (int64_t)blockDim.x + threadIdx.x; i < n; i += (int64_t)gridDim.x * blockDim.x) f(i);
}
template <class F> static void each(bmvp_ctx *c, const F &f, int64_t n)
{
    if (n > 0)
        BMVPI_RUN(c, each_kernel<F>, dim3((unsigned)smaller(ceil_div(n, THREADS), 8192)), dim3(THREADS), 0, f, n);
}

/* y = value */
struct fill_map {
    sink y;
    float value;
    template <int N> __device__ void run(int64_t i) const
    {
        float v[N];
        for (int e = 0; e < N; ++e) v[e] = value;
        store<N>(y, i, v, 0);
    }
};
/* y (+)= x */
struct copy_map {
    view x;
    sink y;
    int add;
    template <int N> __device__ void run(int64_t i) const
    {
        float v[N];
        load<N>(x, i, v);
        store<N>(y, i, v, add);
    }
};
static void fill(bmvp_ctx *c, const sink &y, float v, int64_t n) { map(c, fill_map{ y, v }, n); }
/* y (+)= x, of any types */
static void copy(bmvp_ctx *c, const view &x, const sink &y, int64_t n, int add) { map(c, copy_map{ x, y, add }, n); }

/* >>capture ------------------------------------------------------------------------------------------------------- */

static int capture_check(bmvp_ctx *c, cudaError_t e)
{
    if (e == cudaSuccess) return 1;
    bmvp_fail(c, e == cudaErrorMemoryAllocation ? BMVP_E_OOM : BMVP_E_INTERNAL,
              "cuda: recording of a step: %s; bmvp_config.graph 0 (--graph 0) goes without", cudaGetErrorString(e));
    return 0;
}
/* The kept graph of `recorded`'s kind becomes it, by new arguments; where there is none, or it does not take them, it
   is made anew, in the place of the one that was not used for longest. NULL and a failure. */
static cudaGraphExec_t capture_take(bmvp_ctx *c, cudaGraph_t recorded)
{
    recording *k = &of(c)->capture;
    cudaGraphExecUpdateResultInfo info;
    int i, found = 0;
    for (i = 1; i < GRAPHS; ++i) if (k->kept[i].last < k->kept[found].last) found = i;
    for (i = 0; i < GRAPHS; ++i) if (k->kept[i].graph && k->kept[i].kind == k->kind) found = i;
    i = found;
    k->kept[i].last = ++k->steps;
    if (k->kept[i].graph && k->kept[i].kind == k->kind &&
        cudaGraphExecUpdate(k->kept[i].graph, recorded, &info) == cudaSuccess)
        return k->kept[i].graph;
    (void)cudaGetLastError(); /* else it would be found after the next launch */
    if (k->kept[i].graph) {
        /* it may still run */
        if (!check(c, cudaStreamSynchronize(of(c)->stream), "a kernel or copy before this point failed")) return NULL;
        (void)cudaGraphExecDestroy(k->kept[i].graph);
        k->kept[i].graph = NULL;
    }
    k->kept[i].kind = k->kind;
    return capture_check(c, cudaGraphInstantiate(&k->kept[i].graph, recorded, 0)) ? k->kept[i].graph : NULL;
}
static void capture_free(recording *k)
{
    for (int i = 0; i < GRAPHS; ++i)
        if (k->kept[i].graph) (void)cudaGraphExecDestroy(k->kept[i].graph);
}
/* Events behind the tickets that the stream has been given meanwhile */
static void mail_launched(bmvp_ctx *c)
{
    state *s = of(c);
    while (s->mail.launched < s->mail.made)
        check(c, cudaEventRecord(s->mail.sent[++s->mail.launched % BMVP_TICKETS], s->stream), "event");
}
/* What the recorded step reads of its half's mirror gets there; the backend's stream waits for it. */
static int stage_mirror(bmvp_ctx *c)
{
    staging *g = &of(c)->stage;
    const int64_t from = g->sent;
    if (g->used == from) return 1;
    g->sent = g->used;
    return check(c,
                 cudaMemcpyAsync(g->mirror[g->now] + from, g->half[g->now] + from, (size_t)(g->used - from),
                                 cudaMemcpyHostToDevice, g->stream),
                 "upload") &&
           check(c, cudaEventRecord(g->mirrored, g->stream), "event") &&
           check(c, cudaStreamWaitEvent(of(c)->stream, g->mirrored, 0), "event");
}
/* Launches what was recorded. Whatever may not be recorded (waits, device memory that comes or goes) calls this first,
   so that the rest of the step goes to the stream call by call. That may be another context of the backend than the one
   whose step it is: that one is told of failures, and its own do not lose the step. */
static void capture_end(bmvp_ctx *other)
{
    state *s = of(other);
    bmvp_ctx *c = s->capture.by;
    cudaGraph_t recorded = NULL;
    cudaGraphExec_t graph = NULL;
    if (!c) return;
    s->capture.by = NULL;
    (void)use(c);
    if (!capture_check(c, cudaStreamEndCapture(s->stream, &recorded))) (void)cudaGetLastError();
    if (!bmvp_failed(c)) graph = capture_take(c, recorded);
    if (graph && stage_mirror(c)) check(c, cudaGraphLaunch(graph, s->stream), "launch of a step");
    if (recorded) (void)cudaGraphDestroy(recorded);
    mail_launched(c);
}
/* The same before the step's end, which costs what the graph would have saved. */
static void capture_cut(bmvp_ctx *c, const char *why)
{
    recording *k = &of(c)->capture;
    if (k->by && !k->told)
        bmvp_log(k->by, "cuda: a recorded step is cut where %s; its rest goes to the GPU call by call", why);
    if (k->by) k->told = 1;
    capture_end(c);
}

/* >>nccl: several GPUs, a process each ----------------------------------------------------------------------------- */

#ifdef BMVP_NCCL

/* All exchanges go to one stream of their own, so that they have one order on every rank, whichever of them are waited
   for. Calls of NCCL do not block, and what waits on the host looks at the communicator meanwhile: a rank that is gone
   ends in a message, not in a program that hangs. */
struct nccl {
    state *s;
    ncclComm_t comm;         /* NULL once it was given up */
    cudaStream_t stream;
    cudaEvent_t ready, done; /* the backend's stream has come to an exchange; the last exchange is done */
    cudaEvent_t here;        /* where the host waits for the backend's stream */
    float *flag;             /* what a barrier adds up */
    double deadline;         /* seconds */
    int rank, size;
    int stop;                /* by abort, from any thread: 1 while why is written, then 2 */
    char why[128];
    bmvp_error failure;      /* the first; every later call has it, too */
};

static double seconds(void)
{
    struct timespec t;
    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* The communicator is given up, which also ends the exchanges that wait on the device. */
static bmvp_status nccl_fail(nccl *n, bmvp_error *err, bmvp_status status, const char *what, const char *why)
{
    if (!n->failure.status)
        bmvp_error_set(&n->failure, status, "nccl: rank %d of %d: %s: %s", n->rank, n->size, what, why);
    if (n->comm) (void)ncclCommAbort(n->comm);
    n->comm = NULL;
    return bmvp_error_set(err, n->failure.status, "%s", n->failure.message);
}

/* Is the communicator sound after `since` (a time) of waiting? */
static bmvp_status nccl_look(nccl *n, double since, const char *what, ncclResult_t *result, bmvp_error *err)
{
    char why[256];
    ncclResult_t r;
    if (n->failure.status) return nccl_fail(n, err, n->failure.status, what, "");
    if (__atomic_load_n(&n->stop, __ATOMIC_ACQUIRE) == 2) {
        snprintf(why, sizeof why, "rank %d stopped: %s", n->rank, n->why);
        return nccl_fail(n, err, BMVP_E_IO, what, why);
    }
    r = ncclCommGetAsyncError(n->comm, result);
    if (r == ncclSuccess) r = *result;
    if (r != ncclSuccess && r != ncclInProgress) {
        snprintf(why, sizeof why, "%s (%s)", ncclGetErrorString(r), ncclGetLastError(n->comm));
        return nccl_fail(n, err, BMVP_E_IO, what, why);
    }
    if (seconds() - since <= n->deadline) return BMVP_OK;
    snprintf(why, sizeof why,
             "no answer from the other ranks for %g s; one of them has ended or hangs, its log says why", n->deadline);
    return nccl_fail(n, err, BMVP_E_IO, what, why);
}

/* r, which a call returned, comes to its end: no other call may be made before. */
static bmvp_status nccl_settle(nccl *n, ncclResult_t r, const char *what, bmvp_error *err)
{
    const double since = seconds();
    bmvp_status st = BMVP_OK;
    if (r != ncclSuccess && r != ncclInProgress) return nccl_fail(n, err, BMVP_E_IO, what, ncclGetErrorString(r));
    while (!st && r == ncclInProgress) st = nccl_look(n, since, what, &r, err);
    return st;
}

static bmvp_status nccl_cuda(nccl *n, cudaError_t e, const char *what, bmvp_error *err)
{
    return e == cudaSuccess ? BMVP_OK : nccl_fail(n, err, BMVP_E_INTERNAL, what, cudaGetErrorString(e));
}

/* The host waits for an event, not longer than the deadline. */
static bmvp_status nccl_wait(nccl *n, cudaEvent_t event, const char *what, bmvp_error *err)
{
    const double since = seconds();
    ncclResult_t r;
    int i;
    for (i = 0;; ++i) {
        const cudaError_t e = cudaEventQuery(event);
        bmvp_status st;
        if (e != cudaErrorNotReady) return nccl_cuda(n, e, what, err);
        (void)cudaGetLastError(); /* else it would be found after the next launch */
        st = i % 64 ? BMVP_OK : nccl_look(n, since, what, &r, err);
        if (st) return st;
    }
}

/* Hands calls(n) to NCCL, after all that the backend's stream has been given; with `join` what it is given from now on
   comes after them. */
template <class F>
static bmvp_status nccl_exchange(const bmvp_comm *m, const char *what, int join, bmvp_error *err, const F &calls)
{
    nccl *n = (nccl *)m->user;
    ncclResult_t r = ncclSuccess, end;
    bmvp_status st = nccl_look(n, seconds(), what, &r, err);
    if (!st) st = nccl_cuda(n, cudaSetDevice(n->s->number), what, err);
    if (!st) st = nccl_cuda(n, cudaEventRecord(n->ready, n->s->stream), what, err);
    if (!st) st = nccl_cuda(n, cudaStreamWaitEvent(n->stream, n->ready, 0), what, err);
    if (st) return st;
    r = ncclGroupStart();
    if (r == ncclSuccess) {
        r = calls(n);
        end = ncclGroupEnd();
        if (r == ncclSuccess || r == ncclInProgress) r = end;
    }
    st = nccl_settle(n, r, what, err);
    if (!st) st = nccl_cuda(n, cudaEventRecord(n->done, n->stream), what, err);
    if (!st && join) st = nccl_cuda(n, cudaStreamWaitEvent(n->s->stream, n->done, 0), what, err);
    return st;
}

static ncclResult_t nccl_sum(nccl *n, const bmvp_part *part, int parts)
{
    ncclResult_t r = ncclSuccess;
    int i;
    for (i = 0; i < parts && (r == ncclSuccess || r == ncclInProgress); ++i)
        r = ncclAllReduce(part[i].x, part[i].x, (size_t)part[i].n, ncclFloat, ncclSum, n->comm, n->stream);
    return r;
}
static bmvp_status nccl_all_reduce(const bmvp_comm *m, const bmvp_part *part, int parts, bmvp_error *err)
{
    return nccl_exchange(m, "all_reduce", 1, err, [=](nccl *n) { return nccl_sum(n, part, parts); });
}
static bmvp_status nccl_start(const bmvp_comm *m, const bmvp_part *part, int parts, bmvp_error *err)
{
    return nccl_exchange(m, "start", 0, err, [=](nccl *n) { return nccl_sum(n, part, parts); });
}
static bmvp_status nccl_wait_started(const bmvp_comm *m, bmvp_error *err)
{
    nccl *n = (nccl *)m->user;
    ncclResult_t r;
    const bmvp_status st = nccl_look(n, seconds(), "wait", &r, err);
    return st ? st : nccl_cuda(n, cudaStreamWaitEvent(n->s->stream, n->done, 0), "wait", err);
}
static bmvp_status nccl_all_gather(const bmvp_comm *m, const void *own, int64_t bytes, void *all, bmvp_error *err)
{
    return nccl_exchange(m, "all_gather", 1, err,
                         [=](nccl *n) { return ncclAllGather(own, all, (size_t)bytes, ncclChar, n->comm, n->stream); });
}
static bmvp_status nccl_reduce_scatter(const bmvp_comm *m, const float *all, int64_t count, float *own, bmvp_error *err)
{
    return nccl_exchange(m, "reduce_scatter", 1, err, [=](nccl *n) {
        return ncclReduceScatter(all, own, (size_t)count, ncclFloat, ncclSum, n->comm, n->stream);
    });
}
static bmvp_status nccl_broadcast(const bmvp_comm *m, void *data, int64_t bytes, int root, bmvp_error *err)
{
    return nccl_exchange(m, "broadcast", 1, err, [=](nccl *n) {
        return ncclBroadcast(data, data, (size_t)bytes, ncclChar, root, n->comm, n->stream);
    });
}
static bmvp_status nccl_barrier(const bmvp_comm *m, bmvp_error *err)
{
    nccl *n = (nccl *)m->user;
    const bmvp_part part = { n->flag, 1 };
    const bmvp_status st = nccl_exchange(m, "barrier", 1, err, [=](nccl *k) { return nccl_sum(k, &part, 1); });
    return st ? st : nccl_wait(n, n->done, "barrier", err);
}
static void nccl_abort(const bmvp_comm *m, const char *why)
{
    nccl *n = (nccl *)m->user;
    if (__atomic_exchange_n(&n->stop, 1, __ATOMIC_ACQ_REL) == 0) {
        snprintf(n->why, sizeof n->why, "%s", why);
        __atomic_store_n(&n->stop, 2, __ATOMIC_RELEASE);
    }
}

/* Before the host waits for the backend's stream, or for an event of it, which may wait for an exchange. 1: that is
   done. */
static int ranks_done(bmvp_ctx *c, cudaEvent_t event)
{
    nccl *n = of(c)->ranks;
    bmvp_error err;
    bmvp_status st = BMVP_OK;
    if (!n) return 1;
    if (!event) st = nccl_cuda(n, cudaEventRecord(event = n->here, n->s->stream), "wait", &err);
    if (!st) st = nccl_wait(n, event, "wait", &err);
    if (st) bmvp_fail(c, st, "%s", err.message);
    return !st;
}
/* The same before the host waits for all streams */
static int ranks_idle(bmvp_ctx *c)
{
    return ranks_done(c, NULL) && (!of(c)->ranks || ranks_done(c, of(c)->ranks->done));
}

static void nccl_free(nccl *n)
{
    if (n->s) (void)cudaSetDevice(n->s->number);
    if (n->comm) (void)ncclCommAbort(n->comm);
    if (n->flag) (void)cudaFree(n->flag);
    if (n->ready) (void)cudaEventDestroy(n->ready);
    if (n->done) (void)cudaEventDestroy(n->done);
    if (n->here) (void)cudaEventDestroy(n->here);
    if (n->stream) (void)cudaStreamDestroy(n->stream);
    if (n->s && n->s->ranks == n) n->s->ranks = NULL;
    free(n);
}

static bmvp_status nccl_open(nccl *n, const unsigned char id[128], bmvp_error *err)
{
    ncclUniqueId same;
    ncclConfig_t k = NCCL_CONFIG_INITIALIZER;
    cudaError_t e = cudaSetDevice(n->s->number);
    if (e == cudaSuccess) e = cudaStreamCreateWithFlags(&n->stream, cudaStreamNonBlocking);
    if (e == cudaSuccess) e = cudaEventCreateWithFlags(&n->ready, cudaEventDisableTiming);
    if (e == cudaSuccess) e = cudaEventCreateWithFlags(&n->done, cudaEventDisableTiming);
    if (e == cudaSuccess) e = cudaEventCreateWithFlags(&n->here, cudaEventDisableTiming);
    if (e == cudaSuccess) e = cudaEventRecord(n->done, n->stream);
    if (e == cudaSuccess) e = cudaMalloc((void **)&n->flag, sizeof *n->flag);
    if (e != cudaSuccess) return nccl_cuda(n, e, "join", err);
    memcpy(&same, id, sizeof same);
    k.blocking = 0;
    return nccl_settle(n, ncclCommInitRankConfig(&n->comm, n->size, same, n->rank, &k),
                       "join (is every rank started, each with a GPU of its own, "
                       "with one id and size?)",
                       err);
}

static void nccl_describe(nccl *n, bmvp_comm *m)
{
    memset(m, 0, sizeof *m);
    m->user = n;
    m->rank = n->rank;
    m->size = n->size;
    m->all_reduce = nccl_all_reduce;
    m->all_gather = nccl_all_gather;
    m->reduce_scatter = nccl_reduce_scatter;
    m->broadcast = nccl_broadcast;
    m->barrier = nccl_barrier;
    m->abort = nccl_abort;
    m->start = nccl_start;
    m->wait = nccl_wait_started;
    m->on_device = 1;
}

/* The backend goes before the communicator was left: it is given up, and what is still called of it fails. */
static void ranks_forget(state *s)
{
    bmvp_error err;
    nccl *n = s->ranks;
    if (!n) return;
    (void)nccl_fail(n, &err, BMVP_E_STATE, "release", "the backend was released before bmvp_cuda_comm_leave");
    n->s = NULL;
    s->ranks = NULL;
}

#else
static int ranks_done(bmvp_ctx *, cudaEvent_t) { return 1; }
static int ranks_idle(bmvp_ctx *) { return 1; }
static void ranks_forget(state *) {}
#endif

/* >>memory -------------------------------------------------------------------------------------------------------- */

static void *memory_alloc(bmvp_ctx *c, int64_t bytes)
{
    void *p = NULL;
    cudaError_t e;
    capture_cut(c, "device memory is made");
    (void)use(c);
    of(c)->capture.changed = 1;
    e = bytes < 0 ? cudaErrorMemoryAllocation : cudaMalloc(&p, (size_t)larger(bytes, 1));
    if (e == cudaSuccess) return p;
    (void)cudaGetLastError(); /* else it would be found after the next launch */
    bmvp_fail(c, e == cudaErrorMemoryAllocation ? BMVP_E_OOM : BMVP_E_INTERNAL,
              "cuda: %.1f MB more of device memory: %s", (double)bytes / 1e6, cudaGetErrorString(e));
    return NULL;
}
static void memory_free(bmvp_ctx *c, void *p)
{
    capture_cut(c, "device memory is freed");
    (void)use(c);
    of(c)->capture.changed = 1;
    (void)ranks_idle(c);
    (void)cudaFree(p); /* waits for the kernels that use it */
}
static void memory_sync(bmvp_ctx *c)
{
    capture_cut(c, "the host waits for it");
    if (use(c) && ranks_done(c, NULL))
        check(c, cudaStreamSynchronize(of(c)->stream), "a kernel or copy before this point failed");
}
/* Bytes of the device to the host: waits. 1: they are there. */
static int fetch(bmvp_ctx *c, void *host, const void *from, int64_t bytes)
{
    capture_cut(c, "a result is read");
    if (!use(c) || !ranks_done(c, NULL)) return 0; /* before the copy, which waits, too */
    if (check(c, cudaMemcpyAsync(host, from, (size_t)bytes, cudaMemcpyDeviceToHost, of(c)->stream), "download"))
        memory_sync(c);
    return !bmvp_failed(c);
}

/* Bytes of a half: the least; what calls outside of recorded steps make of it, and a piece that is copied at once; what
   a recorded step can make of it, which needs all of its uploads in one half */
enum { STAGE_LEAST = BMVPI_STAGE_MOST >> 6, STAGE_MOST = BMVPI_STAGE_MOST, STAGE_LIMIT = 16 * STAGE_MOST };

/* The other half, once the copies out of it are done. */
static int stage_turn(bmvp_ctx *c)
{
    state *s = of(c);
    if (s->stage.size == 0) return 1;
    if (!check(c, cudaEventRecord(s->stage.half_free[s->stage.now], s->stream), "event")) return 0;
    s->stage.now ^= 1;
    s->stage.used = s->stage.sent = 0;
    return ranks_done(c, s->stage.half_free[s->stage.now]) &&
           check(c, cudaEventSynchronize(s->stage.half_free[s->stage.now]),
                 "a kernel or copy before this point failed");
}
static void stage_free(staging *g)
{
    int i;
    for (i = 0; i < 2; ++i) {
        if (g->half[i]) (void)cudaFreeHost(g->half[i]);
        if (g->mirror[i]) (void)cudaFree(g->mirror[i]);
        if (g->half_free[i]) (void)cudaEventDestroy(g->half_free[i]);
    }
    if (g->mirrored) (void)cudaEventDestroy(g->mirrored);
    if (g->stream) (void)cudaStreamDestroy(g->stream);
    memset(g, 0, sizeof *g);
}
/* Halves of twice the size, at least `bytes`: so a run soon has room for the uploads of a step in one half. Waits. */
static int stage_grow(bmvp_ctx *c, int64_t bytes)
{
    staging *g = &of(c)->stage;
    int64_t size = larger(2 * g->size, STAGE_LEAST);
    int i;
    while (size < bytes) size *= 2;
    memory_sync(c);
    of(c)->capture.changed = 1;
    stage_free(g);
    for (i = 0; i < 2 && !bmvp_failed(c); ++i)
        if (check(c, cudaMallocHost((void **)&g->half[i], (size_t)size), "pinned memory for uploads") &&
            check(c, cudaEventCreateWithFlags(&g->half_free[i], cudaEventDisableTiming), "event") && bmvp_captures(c))
            g->mirror[i] = (char *)memory_alloc(c, size);
    if (!bmvp_failed(c) && bmvp_captures(c) &&
        check(c, cudaStreamCreateWithFlags(&g->stream, cudaStreamNonBlocking), "stream"))
        check(c, cudaEventCreateWithFlags(&g->mirrored, cudaEventDisableTiming), "event");
    if (bmvp_failed(c)) stage_free(g);
    else g->size = size;
    return !bmvp_failed(c);
}
/* Room for at most STAGE_MOST bytes; NULL and a failure. */
static char *stage_room(bmvp_ctx *c, int64_t bytes)
{
    staging *g = &of(c)->stage;
    const int64_t place = ceil_div(bytes, 64) * 64;
    g->asked += place;
    if (g->used + place > g->size) {
        capture_cut(c, "its uploads do not fit into the pinned memory, which grows to 16 times 64 MB");
        if (!(g->size < STAGE_MOST ? stage_grow(c, place) : stage_turn(c))) return NULL;
    }
    g->used += place;
    return g->half[g->now] + g->used - place;
}
/* A piece of the half in use to the device; in a recorded step from its mirror, which will be there. */
static void stage_copy(bmvp_ctx *c, char *to, const char *room, int64_t bytes)
{
    staging *g = &of(c)->stage;
    if (of(c)->capture.by && g->mirror[g->now]) {
        capture_node(of(c), 1);
        check(c,
              cudaMemcpyAsync(to, g->mirror[g->now] + (room - g->half[g->now]), (size_t)bytes, cudaMemcpyDeviceToDevice,
                              of(c)->stream),
              "upload");
        return;
    }
    check(c, cudaMemcpyAsync(to, room, (size_t)bytes, cudaMemcpyHostToDevice, of(c)->stream), "upload");
    g->sent = g->used;
}
/* Copies the host's bytes to the device in the stream's order; the host may change them at once. */
static int send(bmvp_ctx *c, void *to, const void *host, int64_t bytes)
{
    int64_t at, piece;
    (void)use(c);
    for (at = 0; at < bytes && !bmvp_failed(c); at += piece) {
        char *room = stage_room(c, piece = smaller(bytes - at, STAGE_MOST));
        if (!room) return 0;
        memcpy(room, (const char *)host + at, (size_t)piece);
        stage_copy(c, (char *)to + at, room, piece);
    }
    return !bmvp_failed(c);
}
static void memory_write(bmvp_ctx *c, float *to, const float *host, int64_t n)
{
    (void)send(c, to, host, n * (int64_t)sizeof *to);
}
static void memory_read(bmvp_ctx *c, float *host, const float *from, int64_t n)
{
    const int there = fetch(c, host, from, n * (int64_t)sizeof *host);
    int64_t i;
    for (i = 0; !there && i < n; ++i) host[i] = (float)NAN;
}
/* Records the stream from here on, with a half of the staging memory to itself: pinned memory is read when the graph
   runs. */
static void capture_begin(bmvp_ctx *c)
{
    state *s = of(c);
    const int64_t wanted = smaller(s->stage.wanted, STAGE_LIMIT);
    int changed;
    if (s->capture.by || bmvp_failed(c) || !use(c)) return;
    s->stage.asked = 0;
    if (wanted > s->stage.size && !stage_grow(c, wanted)) return;
    changed = s->capture.changed;
    s->capture.changed = 0;
    if (changed) bmvp_log(c, "cuda: memory came or went in the step before, so this one is not recorded");
    if (changed || !stage_turn(c)) return;
    /* relaxed: a kernel whose first launch is recorded is loaded then, which the other modes may refuse */
    if (capture_check(c, cudaStreamBeginCapture(s->stream, cudaStreamCaptureModeRelaxed))) s->capture.by = c;
    s->capture.kind = 0;
}
/* What the step has uploaded is what the next one will. */
static void capture_finish(bmvp_ctx *c)
{
    capture_end(c);
    of(c)->stage.wanted = of(c)->stage.asked;
}

/* place[i] = x[i][0], or 0: the host reads them once the event behind it has come. For each of them. */
struct post_map {
    const float *x[BMVP_POST_MOST];
    float *place;
    __device__ void operator()(int64_t i) const
    {
        BMVPI_UNROLLED /* parameters indexed by a variable would be copied to local memory */
        for (int k = 0; k < BMVP_POST_MOST; ++k) if (k == i) place[k] = x[k] ? *x[k] : 0.0f;
    }
};
static void mail_free(mailbox *m)
{
    if (m->place) (void)cudaFreeHost(m->place);
    for (int i = 0; i < BMVP_TICKETS; ++i)
        if (m->sent[i]) (void)cudaEventDestroy(m->sent[i]);
    memset(m, 0, sizeof *m);
}
static int mail_make(bmvp_ctx *c)
{
    mailbox *m = &of(c)->mail;
    capture_cut(c, "memory for results is made");
    of(c)->capture.changed = 1;
    if (check(c, cudaMallocHost((void **)&m->place, BMVP_TICKETS * BMVP_POST_MOST * sizeof *m->place),
              "pinned memory for results"))
        for (int i = 0; i < BMVP_TICKETS && !bmvp_failed(c); ++i)
            check(c, cudaEventCreateWithFlags(&m->sent[i], cudaEventDisableTiming), "event");
    if (bmvp_failed(c)) mail_free(m);
    return !bmvp_failed(c);
}
static int64_t mail_post(bmvp_ctx *c, const float *const *x, int n)
{
    mailbox *m = &of(c)->mail;
    post_map f;
    if (bmvp_failed(c) || !use(c) || (!m->place && !mail_make(c))) return 0;
    for (int i = 0; i < n; ++i) f.x[i] = x[i];
    f.place = m->place + (++m->made % BMVP_TICKETS) * BMVP_POST_MOST;
    each(c, f, n);
    if (!of(c)->capture.by) mail_launched(c);
    return m->made;
}
static int mail_collect(bmvp_ctx *c, int64_t ticket, float *x, int n)
{
    mailbox *m = &of(c)->mail;
    const cudaEvent_t sent = m->sent[ticket % BMVP_TICKETS];
    int i;
    capture_cut(c, "results are waited for"); /* waits are not allowed while it goes on */
    (void)use(c);
    for (i = 0; i < n; ++i) x[i] = (float)NAN;
    if (ticket < 1 || ticket > m->made || ticket <= m->made - BMVP_TICKETS)
        bmvp_fail(c, BMVP_E_STATE, "cuda: the last %d results can be read, %lld is none of them", (int)BMVP_TICKETS,
                  (long long)ticket);
    if (bmvp_failed(c) || !ranks_done(c, sent)) return 0;
    if (!check(c, cudaEventSynchronize(sent), "a kernel or copy before this point failed")) return 0;
    memcpy(x, m->place + ticket % BMVP_TICKETS * BMVP_POST_MOST, (size_t)n * sizeof *x);
    return 1;
}
static void memory_fill(bmvp_ctx *c, float *to, float v, int64_t n)
{
    /* four at a time from the first that may be stored so: `to` may lie within a tensor's memory */
    const int64_t head = smaller(n, (int64_t)((16 - (uintptr_t)to % 16) % 16 / sizeof(float)));
    fill(c, floats(to), v, head);
    fill(c, floats(to + head), v, n - head);
}
static void memory_add(bmvp_ctx *c, float *to, int half, const float *from, int from_half, int64_t n, int accumulate)
{
    copy(c, view{ from, from_half }, sink{ to, half }, n, accumulate);
}

/* Gradient of t where a kernel only adds into parts of it: starts at zero. */
static sink grad_add(bmvp_ctx *c, bmvp_tensor *t)
{
    int add;
    sink g = grad(c, t, &add);
    if (g && !add) fill(c, g, 0, t->numel);
    return g;
}

typedef int64_t (*workspace_fn)(const bmvp_ctx *, const bmvp_tensor *, int);
#define BMVPI_NO_WORKSPACE(name) static const workspace_fn name##_workspace = NULL;

static int64_t last_dim(const bmvp_tensor *t) { return t->rank > 0 ? t->dim[t->rank - 1] : 1; }

/* >>kernel reduce ------------------------------------------------------------------------------------------------- */

struct pair { double a, b; }; /* two sums at once, or a minimum and a maximum */

struct join_sum {
    static __device__ pair none() { return pair{ 0, 0 }; }
    static __device__ pair join(pair p, pair q) { return pair{ p.a + q.a, p.b + q.b }; }
};
struct join_range {
    static __device__ pair none() { return pair{ INFINITY, -INFINITY }; }
    static __device__ pair join(pair p, pair q) { return pair{ q.a < p.a ? q.a : p.a, q.b > p.b ? q.b : p.b }; }
};

/* Joins the pairs of a block's 256 threads, as a tree; thread 0 has the result. */
template <class F> static __device__ pair block_join(pair p)
{
    __shared__ pair s[THREADS];
    s[threadIdx.x] = p;
    __syncthreads();
    for (unsigned half = THREADS / 2; half > 0; half /= 2) {
        if (threadIdx.x < half) s[threadIdx.x] = F::join(s[threadIdx.x], s[threadIdx.x + half]);
        __syncthreads();
    }
    return s[0];
}

/* part[block] = join of f.value<N>(i), of N neighbours from i on, over the block's share of [0, n).
   Who:    thread t of the grid takes four neighbours at a time, t, t + grid, ..., the first ones what is left over;
           then a tree over the block.
   Launch: 256 threads, 1 to 512 blocks (by n alone), 4 KB of shared memory.
   Bits:   the cut depends on n only; double sums in fixed order.
   Traffic: what f reads, 8 or 16 bytes a thread. */
template <class F> __global__ void reduce_kernel(F f, int64_t n, pair *part)
{
    const int64_t first = blockIdx.x * (int64_t)THREADS + threadIdx.x;
    pair p = F::none();
    for (int64_t i = first; i < n / 4; i += (int64_t)gridDim.x * THREADS) p = F::join(p, f.template value<4>(4 * i));
    if (first < n % 4) p = F::join(p, f.template value<1>(n - 1 - first));
    p = block_join<F>(p);
    if (threadIdx.x == 0) part[blockIdx.x] = p;
}

/* f.finish(join of the parts): the scalar that a loss or statistic is.
   Who:    thread t joins parts t and t + 256, then a tree; thread 0 finishes.
   Launch: one block of 256 threads.
   Bits:   fixed order.
   Traffic: 16 bytes a part. */
template <class F> __global__ void reduce_finish_kernel(F f, int parts, const pair *part)
{
    pair p = F::none();
    for (int i = (int)threadIdx.x; i < parts; i += THREADS) p = F::join(p, part[i]);
    p = block_join<F>(p);
    if (threadIdx.x == 0) f.finish(p);
}

enum { MAX_PARTS = 512, REDUCE_FLOATS = MAX_PARTS * 4 }; /* the workspace of a reduction */
template <class F> static void reduce(bmvp_ctx *c, const F &f, int64_t n, float *workspace)
{
    const int parts = (int)smaller(ceil_div(n, 4 * THREADS), MAX_PARTS);
    pair *part = (pair *)(void *)workspace;
    BMVPI_RUN(c, reduce_kernel<F>, dim3((unsigned)parts), dim3(THREADS), 0, f, n, part);
    BMVPI_RUN(c, reduce_finish_kernel<F>, dim3(1), dim3(THREADS), 0, f, parts, (const pair *)part);
}
static int64_t reduce_workspace(int backward) { return backward ? 0 : (int64_t)REDUCE_FLOATS; }

/* >>kernel columns ------------------------------------------------------------------------------------------------ */

/* (samples, rows, C), C contiguous: what channels-last statistics and biases are made of. A block takes a chunk of one
   sample's rows and up to 32 channels. */
struct columns {
    int64_t samples, rows, c, chunk, chunks;
    int wide; /* channels of a block: a power of two, threads along x */
};
static columns columns_of(int64_t samples, int64_t rows, int64_t c)
{
    columns k;
    k.samples = samples;
    k.rows = rows;
    k.c = c;
    k.wide = power_of_two(c, 32);
    k.chunk = larger(4 * THREADS / k.wide, ceil_div(rows * samples * ceil_div(c, k.wide), 1024));
    k.chunks = ceil_div(rows, k.chunk);
    return k;
}
/* The same cut with four neighbouring channels as one, where all are in fours */
static columns columns_in_fours(const columns &k)
{
    return columns_of(k.samples, k.rows, k.c % 4 == 0 ? k.c / 4 : k.c);
}
static dim3 columns_grid(const columns &k)
{
    return dim3((unsigned)(k.samples * k.chunks), (unsigned)ceil_div(k.c, k.wide));
}
static dim3 columns_block(const columns &k) { return dim3((unsigned)k.wide, (unsigned)(THREADS / k.wide)); }

/* f.run<N>(i, sample, channel) does N neighbouring channels from element i of (samples, rows, C) on: a map that needs
   to know its channel.
   Who:    thread (x, y) takes N channels, number x of the block's, and rows y, y + threads along y, ... of the chunk. k
           counts such groups.
   Launch: samples x chunks blocks along x, groups / 32 along y (up to 2 million groups), 256 threads. N is 4 where it
           divides C.
   Bits:   each element is computed by one thread.
   Traffic: what f says; a warp reads runs of up to 32 groups. */
template <class F, int N> __global__ void columns_map_kernel(F f, columns k)
{
    const int64_t sample = blockIdx.x / k.chunks, first = blockIdx.x % k.chunks * k.chunk;
    const int64_t last = first + k.chunk < k.rows ? first + k.chunk : k.rows;
    const int64_t group = blockIdx.y * (int64_t)blockDim.x + threadIdx.x;
    if (group >= k.c) return;
    for (int64_t r = first + threadIdx.y; r < last; r += blockDim.y)
        f.template run<N>(((sample * k.rows + r) * k.c + group) * N, sample, group * N);
}
template <class F> static void columns_map(bmvp_ctx *c, const F &f, const columns &k)
{
    const columns m = columns_in_fours(k);
    if (k.c % 4 == 0) BMVPI_RUN(c, (columns_map_kernel<F, 4>), columns_grid(m), columns_block(m), 0, f, m);
    else BMVPI_RUN(c, (columns_map_kernel<F, 1>), columns_grid(m), columns_block(m), 0, f, m);
}

/* Adds the pairs of a block's threads along y, as a tree; those with y = 0 have the result. */
static __device__ pair columns_join(pair p)
{
    __shared__ pair s[THREADS];
    const unsigned at = threadIdx.y * blockDim.x + threadIdx.x;
    s[at] = p;
    __syncthreads();
    for (unsigned half = blockDim.y / 2; half > 0; half /= 2) {
        if (threadIdx.y < half) s[at] = join_sum::join(s[at], s[at + half * blockDim.x]);
        __syncthreads();
    }
    return s[at];
}

/* part[sample, chunk, channel] = sums over the chunk's rows of what f.value<N>(i, sample, channel, p) adds to p[0 .. N
   - 1], of N neighbouring channels from element i on.
   Who:    as above; then the threads of a channel add up as a tree.
   Launch: as above, 4 KB of shared memory.
   Bits:   the cut depends on the shape only; double sums in fixed order.
   Traffic: what f reads, 8 or 16 bytes a thread, and 16 bytes written a chunk and channel. */
template <class F, int N> __global__ void columns_kernel(F f, columns k, pair *part)
{
    const int64_t sample = blockIdx.x / k.chunks, first = blockIdx.x % k.chunks * k.chunk;
    const int64_t last = first + k.chunk < k.rows ? first + k.chunk : k.rows;
    const int64_t group = blockIdx.y * (int64_t)blockDim.x + threadIdx.x;
    pair p[N];
    BMVPI_UNROLLED
    for (int e = 0; e < N; ++e) p[e] = join_sum::none();
    int64_t r = first + threadIdx.y;
    /* nothing between four rows that their loads would wait for */
    for (; group < k.c && r + 3 * (int64_t)blockDim.y < last; r += 4 * blockDim.y) {
        BMVPI_UNROLLED
        for (int t = 0; t < 4; ++t)
            f.template value<N>(((sample * k.rows + r + t * (int64_t)blockDim.y) * k.c + group) * N, sample, group * N,
                                p);
    }
    for (; group < k.c && r < last; r += blockDim.y)
        f.template value<N>(((sample * k.rows + r) * k.c + group) * N, sample, group * N, p);
    BMVPI_UNROLLED
    for (int e = 0; e < N; ++e) {
        p[e] = columns_join(p[e]);
        if (threadIdx.y == 0 && group < k.c) part[(blockIdx.x * k.c + group) * N + e] = p[e];
    }
}

/* f.finish(sample, channel, sum of the chunks' parts): the second half of the above.
   Who:    thread (x, y) adds chunks y, y + threads along y, ... of channel x of the block's; then a tree over y, whose
           first finishes.
   Launch: samples blocks along x, C / 32 along y, 256 threads, 4 KB of shared memory.
   Bits:   fixed order.
   Traffic: 16 bytes a chunk and channel. */
template <class F> __global__ void columns_finish_kernel(F f, columns k, const pair *part)
{
    const int64_t sample = blockIdx.x, ch = blockIdx.y * (int64_t)blockDim.x + threadIdx.x;
    pair p = join_sum::none();
    for (int64_t chunk = threadIdx.y; ch < k.c && chunk < k.chunks; chunk += blockDim.y)
        p = join_sum::join(p, part[(sample * k.chunks + chunk) * k.c + ch]);
    p = columns_join(p);
    if (threadIdx.y == 0 && ch < k.c) f.finish(sample, ch, p);
}
template <class F> static void columns_sum(bmvp_ctx *c, const F &f, const columns &k, float *workspace)
{
    const columns m = columns_in_fours(k);
    pair *part = (pair *)(void *)workspace;
    columns single = k;
    single.chunks = m.chunks;
    if (k.c % 4 == 0) BMVPI_RUN(c, (columns_kernel<F, 4>), columns_grid(m), columns_block(m), 0, f, m, part);
    else BMVPI_RUN(c, (columns_kernel<F, 1>), columns_grid(m), columns_block(m), 0, f, m, part);
    BMVPI_RUN(c, columns_finish_kernel<F>, dim3((unsigned)k.samples, columns_grid(k).y), columns_block(k), 0, f, single,
              (const pair *)part);
}
static int64_t columns_workspace(const columns &k) { return 4 * k.samples * columns_in_fours(k).chunks * k.c; }

/* What element i of an operand b that was spread gets of the sum over its places: that itself, minus that (sub), or
   minus that by b^2 (div: `over` is b) */
struct shares {
    int minus;
    view over;
    __device__ float of(double sum, int64_t i) const
    {
        const double b = over ? (double)over[i] : 1.0;
        return (float)(minus ? -sum / (b * b) : sum);
    }
};
/* Gradient of a bias or of a added row: gb[c] (+)= its share of the sum of g, or of g times `by`, over
   rows. */
struct column_grad {
    view g, by;
    shares share;
    sink gb;
    int add;
    template <int N> __device__ void value(int64_t i, int64_t, int64_t, pair *p) const
    {
        float v[N], u[N];
        load<N>(g, i, v);
        if (by) load<N>(by, i, u);
        BMVPI_UNROLLED
        for (int e = 0; e < N; ++e) p[e].a += by ? (double)v[e] * (double)u[e] : (double)v[e];
    }
    __device__ void finish(int64_t, int64_t ch, pair p) const { put(gb, ch, share.of(p.a, ch), add); }
};
static void bias_grad(bmvp_ctx *c, const view &g, int64_t rows, int64_t n, const sink &gb, int add, float *workspace)
{
    const view none = { NULL, 0 };
    columns_sum(c, column_grad{ g, none, shares{ 0, none }, gb, add }, columns_of(1, rows, n), workspace);
}
static int64_t bias_workspace(int64_t rows, int64_t n) { return columns_workspace(columns_of(1, rows, n)); }

/* y += bias */
struct bias_map {
    sink y;
    view bias;
    template <int N> __device__ void run(int64_t i, int64_t, int64_t ch) const
    {
        float v[N];
        load<N>(bias, ch, v);
        store<N>(y, i, v, 1);
    }
};
static void add_bias(bmvp_ctx *c, const sink &y, int64_t rows, int64_t n, const view &bias)
{
    if (bias) columns_map(c, bias_map{ y, bias }, columns_of(1, rows, n));
}

/* >>kernel rows --------------------------------------------------------------------------------------------------- */

/* Work along rows of n contiguous elements: a team of threads takes a row, 1 to 32 lanes of a warp or a block of
   256. */
static int row_team(int64_t n) { return n > 512 ? (int)THREADS : power_of_two(n, 32); }
static dim3 row_grid(int64_t rows, int team) { return dim3((unsigned)ceil_div(rows, THREADS / team)); }

/* The sum over the team, in every thread of it. All threads of the block must call it. */
static __device__ double team_sum(double v, int team)
{
    __shared__ double s[THREADS / 32];
    for (int o = (team < 32 ? team : 32) / 2; o > 0; o /= 2) v += __shfl_xor_sync(0xffffffffu, v, o);
    if (team <= 32) return v;
    __syncthreads(); /* what the last call left has been read */
    if (threadIdx.x % 32 == 0) s[threadIdx.x / 32] = v;
    __syncthreads();
    v = 0;
    for (int i = 0; i < THREADS / 32; ++i) v += s[i];
    return v;
}
static __device__ float team_max(float v, int team)
{
    __shared__ float s[THREADS / 32];
    for (int o = (team < 32 ? team : 32) / 2; o > 0; o /= 2) v = fmaxf(v, __shfl_xor_sync(0xffffffffu, v, o));
    if (team <= 32) return v;
    __syncthreads();
    if (threadIdx.x % 32 == 0) s[threadIdx.x / 32] = v;
    __syncthreads();
    for (int i = 0; i < THREADS / 32; ++i) v = fmaxf(v, s[i]);
    return v;
}

/* f.row(row, n, lane, team, live) for every row; threads beyond the last row take part with live 0, because f sums over
   teams.
   Who:    thread t is lane t % team of row t / team.
   Launch: 256 threads, one block for 256 / team rows; up to 2^31 blocks.
   Bits:   each row by one team, sums as a tree.
   Traffic: what f says; lanes read neighbouring elements. */
template <class F> __global__ void rows_kernel(F f, int64_t rows, int64_t n, int team)
{
    const int64_t row = (blockIdx.x * (int64_t)THREADS + threadIdx.x) / team;
    f.row(row < rows ? row : 0, n, (int)(threadIdx.x % (unsigned)team), team, row < rows);
}
/* a lane's neighbours */
template <class F> static void rows_map(bmvp_ctx *c, const F &f, int64_t rows, int64_t n, int piece = 1)
{
    const int team = row_team(n / piece);
    BMVPI_RUN(c, rows_kernel<F>, row_grid(rows, team), dim3(THREADS), 0, f, rows, n, team);
}

/* >>kernel strided copy ------------------------------------------------------------------------------------------- */

struct strided {
    int rank;
    uint32_t dim[BMVP_MAX_DIMS];
    int64_t xs[BMVP_MAX_DIMS], ys[BMVP_MAX_DIMS];
    view x;
    sink y;
    int add;
};

/* y[sum i_k ys_k] (+)= x[sum i_k xs_k] over a box: what all shape operations are. For each of the box, the last axis
   fastest; where four neighbours are neighbours on both sides (N = 4) they are counted, and their strides, as one. 8
   bytes an element (4 in bfloat16), 12 when adding; coalesced on both sides when the last axes agree, else on one. Up
   to 2^32 - 1 elements. */
template <int N> struct strided_map {
    strided s;
    __device__ void operator()(int64_t i) const
    {
        uint32_t rest = (uint32_t)i;
        int64_t from = 0, to = 0;
        for (int k = s.rank - 1; k >= 0; --k) {
            const uint32_t at = rest % s.dim[k];
            rest /= s.dim[k];
            from += at * s.xs[k];
            to += at * s.ys[k];
        }
        float v[N];
        load<N>(s.x, from * N, v);
        store<N>(s.y, to * N, v, s.add);
    }
};

/* Makes four neighbours one, if all of the box lies that way. */
static int strided_fold(strided *s)
{
    const int last = s->rank - 1;
    int fits = last >= 0 && s->dim[last] % 4 == 0 && s->xs[last] == 1 && s->ys[last] == 1;
    fits = fits && (uintptr_t)s->x.p % (s->x.half ? 8 : 16) == 0 && (uintptr_t)s->y.p % (s->y.half ? 8 : 16) == 0;
    for (int i = 0; i < last; ++i) fits = fits && s->xs[i] % 4 == 0 && s->ys[i] % 4 == 0;
    for (int i = 0; fits && i < last; ++i) s->xs[i] /= 4, s->ys[i] /= 4;
    if (fits) s->dim[last] /= 4;
    return fits;
}

static void strided_copy(bmvp_ctx *c, int rank, const int64_t *dim, const view &x, const int64_t *xs, const sink &y,
                         const int64_t *ys, int add)
{
    strided s;
    int64_t n = 1;
    int i, k = BMVP_MAX_DIMS;
    for (i = rank - 1; i >= 0; --i) { /* axes that lie one in the other in both are joined; filled from the back */
        if (dim[i] == 1) continue;
        n *= dim[i];
        if (k < BMVP_MAX_DIMS && xs[i] == s.xs[k] * s.dim[k] && ys[i] == s.ys[k] * s.dim[k]) {
            s.dim[k] *= (uint32_t)dim[i];
            continue;
        }
        --k;
        s.dim[k] = (uint32_t)dim[i];
        s.xs[k] = xs[i];
        s.ys[k] = ys[i];
    }
    if (n > (int64_t)0xffffffff) {
        bmvp_fail(c, BMVP_E_UNSUPPORTED, "cuda: a shape operation on %.1f GB; the backend takes up to 17",
                  (double)n * 4e-9);
        return;
    }
    s.rank = BMVP_MAX_DIMS - k;
    for (i = 0; i < s.rank; ++i) {
        s.dim[i] = s.dim[k + i];
        s.xs[i] = s.xs[k + i];
        s.ys[i] = s.ys[k + i];
    }
    s.x = x;
    s.y = y;
    s.add = add;
    if (strided_fold(&s)) each(c, strided_map<4>{ s }, n / 4);
    else each(c, strided_map<1>{ s }, n);
}

/* Row-major strides of a shape */
static void strides_of(int rank, const int64_t *dim, int64_t *stride)
{
    int64_t s = 1;
    for (int i = rank - 1; i >= 0; --i) {
        stride[i] = s;
        s *= dim[i];
    }
}

/* >>gemm ---------------------------------------------------------------------------------------------------------- */

/* C (m, n) = op(A) (m, k) op(B) (k, n) + beta onto + bias, all row-major; ta: A is stored (k, m), tb: B (n, k); bias: n
   numbers or none; onto: a matrix apart from C, of either type; none: C itself.
   batch matrices sa, sb, sc numbers apart. Row-major C is the column-major transpose: C' = op(B)' op(A)'. A and B have
   one type; C may be bfloat16 if they are; the bias has C's type (operand_of makes them so). */
struct gemm {
    int64_t m, n, k;
    view a, b;
    sink c;
    int ta, tb;
    float beta;
    int64_t batch, sa, sb, sc;
    int exact; /* 1: float32 whatever the context's precision */
    view bias, onto; /* with batch 1 */
};
static gemm gemm_of(int64_t m, int64_t n, int64_t k, const view &a, int ta, const view &b, int tb, const sink &to,
                    int add)
{
    return gemm{ m, n, k, a, b, to, ta, tb, add ? 1.0f : 0.0f, 1, 0, 0, 0, 0, { NULL, 0 }, { NULL, 0 } };
}
static cudaDataType_t type_of(int half) { return half ? CUDA_R_16BF : CUDA_R_32F; }
static cublasComputeType_t gemm_compute(const bmvp_ctx *c, const gemm &g)
{
    /* what has been rounded is multiplied as it is */
    const bmvp_precision p = g.exact || g.a.half ? BMVP_FP32 : bmvp_precision_of(c);
    return p == BMVP_BF16   ? CUBLAS_COMPUTE_32F_FAST_16BF
           : p == BMVP_TF32 ? CUBLAS_COMPUTE_32F_FAST_TF32
                            : CUBLAS_COMPUTE_32F;
}
static int gemm_check(bmvp_ctx *c, cublasStatus_t st)
{
    if (st == CUBLAS_STATUS_SUCCESS) return 1;
    bmvp_fail(c, BMVP_E_INTERNAL, "cuda: matrix product: %s", cublasGetStatusString(st));
    return 0;
}
/* The same product, added in place to a copy of what it goes onto: where no call takes that as it lies */
static gemm gemm_in_place(bmvp_ctx *c, gemm g)
{
    if (!g.onto) return g;
    copy(c, g.onto, g.c, g.m * g.n, 0);
    g.onto = view{ NULL, 0 };
    return g;
}
static void gemm_batched(bmvp_ctx *c, const gemm &g)
{
    const float one = 1.0f;
    gemm_check(c, cublasGemmStridedBatchedEx(
                      of(c)->blas, g.tb ? CUBLAS_OP_T : CUBLAS_OP_N, g.ta ? CUBLAS_OP_T : CUBLAS_OP_N, (int)g.n,
                      (int)g.m, (int)g.k, &one, g.b.p, type_of(g.b.half), (int)(g.tb ? g.k : g.n), g.sb, g.a.p,
                      type_of(g.a.half), (int)(g.ta ? g.m : g.k), g.sa, &g.beta, g.c.p, type_of(g.c.half), (int)g.n,
                      g.sc, (int)g.batch, gemm_compute(c, g), CUBLAS_GEMM_DEFAULT));
    if (g.bias) columns_map(c, bias_map{ g.c, g.bias }, columns_of(1, g.m, g.n));
}

/* cuBLASLt chooses an algorithm for a shape once, by its heuristic: timing candidates would choose another in another
   run, and with it other bits. Of ways to join split sums only those in float32 through the workspace are allowed,
   whose order is fixed. The bias is added with the product. GELU is not: cuBLASLt's is the tanh formula, the method's
   is exact (see mlp_gelu_map, which has the bias, too). Nor are sums of gradients for a bias: they are double here, and
   may add to what is there. */
struct product_shape {
    int64_t m, n, k;
    int32_t ta, tb, bias, compute;
    uint32_t align_a, align_b, align_c; /* bytes that the addresses (of C: with onto's) are multiples of, at most 16 */
    int32_t half;                       /* 1: A and B are bfloat16, 3: C, too */
};
struct product {
    product_shape shape;
    cublasLtMatmulDesc_t op;
    cublasLtMatrixLayout_t a, b, c; /* as cuBLASLt counts: a is our b */
    cublasLtMatmulAlgo_t algorithm;
    int exists;                     /* 0: cuBLASLt has none for it */
    product *next;
};
/* What a recorded product is as a node */
static uint64_t product_node(const gemm &g)
{
    const uint64_t part[] = { (uint64_t)g.m, (uint64_t)g.n, (uint64_t)g.k, (uint64_t)(g.ta | g.tb << 1 | g.a.half << 2),
                              (uint64_t)(g.c.half | (g.bias.p != NULL) << 1), (uint64_t)g.batch };
    uint64_t hash = 14695981039346656037u;
    for (uint64_t p : part) hash = (hash ^ p) * 1099511628211u;
    return hash;
}
/* cuBLASLt's kernels ask for no more than 16 bytes. Finer classes would let the algorithm, and with it the bits, depend
   on where in the arena a matrix lies. */
static uint32_t alignment_of(const void *p)
{
    const uintptr_t at = (uintptr_t)p | 16;
    return (uint32_t)(at & (~at + 1));
}
static uint32_t alignment_of_both(const void *p, const void *q)
{
    return alignment_of((const void *)((uintptr_t)p | (uintptr_t)q));
}
static product_shape product_shape_of(const bmvp_ctx *c, const gemm &g)
{
    return product_shape{ g.m,
                          g.n,
                          g.k,
                          g.ta,
                          g.tb,
                          g.bias.p != NULL,
                          (int32_t)gemm_compute(c, g),
                          alignment_of(g.a.p),
                          alignment_of(g.b.p),
                          alignment_of_both(g.c.p, g.onto.p),
                          g.a.half | g.c.half << 1 };
}
static void product_free(product *p)
{
    if (p->op) (void)cublasLtMatmulDescDestroy(p->op);
    if (p->a) (void)cublasLtMatrixLayoutDestroy(p->a);
    if (p->b) (void)cublasLtMatrixLayoutDestroy(p->b);
    if (p->c) (void)cublasLtMatrixLayoutDestroy(p->c);
    free(p);
}
template <class T>
static int product_prefers(cublasLtMatmulPreference_t w, cublasLtMatmulPreferenceAttributes_t which, T v)
{
    return cublasLtMatmulPreferenceSetAttribute(w, which, &v, sizeof v) == CUBLAS_STATUS_SUCCESS;
}
/* What the heuristic takes first. */
static void product_choose(state *s, product *p)
{
    const product_shape &k = p->shape;
    cublasLtMatmulPreference_t w = NULL;
    cublasLtMatmulHeuristicResult_t first;
    int found = 0;
    memset(&first, 0, sizeof first);
    if (cublasLtMatmulPreferenceCreate(&w) != CUBLAS_STATUS_SUCCESS) return;
    if (product_prefers(w, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, (uint64_t)BMVPI_PRODUCT_SPACE) &&
        product_prefers(w, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
                        (uint32_t)CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE) &&
        product_prefers(w, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, k.align_b) &&
        product_prefers(w, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, k.align_a) &&
        product_prefers(w, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, k.align_c) &&
        product_prefers(w, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, k.align_c) &&
        cublasLtMatmulAlgoGetHeuristic(s->lt, p->op, p->a, p->b, p->c, p->c, w, 1, &first, &found) ==
            CUBLAS_STATUS_SUCCESS)
        p->exists = found > 0 && first.state == CUBLAS_STATUS_SUCCESS;
    p->algorithm = first.algo;
    (void)cublasLtMatmulPreferenceDestroy(w);
}
static cublasStatus_t product_set(product *p, cublasLtMatmulDescAttributes_t which, const void *v, size_t bytes)
{
    return cublasLtMatmulDescSetAttribute(p->op, which, v, bytes);
}
/* Of a row-major matrix, or of one that is stored as its transpose */
static cublasStatus_t layout_make(cublasLtMatrixLayout_t *to, int64_t rows, int64_t columns, int transposed, int half)
{
    const int64_t across = transposed ? rows : columns, down = transposed ? columns : rows;
    return cublasLtMatrixLayoutCreate(to, type_of(half), (uint64_t)across, (uint64_t)down, across);
}
static product *product_make(bmvp_ctx *c, const gemm &g, const product_shape &k)
{
    const cublasOperation_t ta = g.tb ? CUBLAS_OP_T : CUBLAS_OP_N, tb = g.ta ? CUBLAS_OP_T : CUBLAS_OP_N;
    const cublasLtEpilogue_t with_bias = CUBLASLT_EPILOGUE_BIAS;
    product *p = (product *)calloc(1, sizeof *p);
    cublasStatus_t st;
    if (!p) return (product *)bmvp_fail(c, BMVP_E_OOM, "out of memory for the shape of a matrix product");
    p->shape = k;
    st = cublasLtMatmulDescCreate(&p->op, (cublasComputeType_t)k.compute, CUDA_R_32F);
    if (!st) st = product_set(p, CUBLASLT_MATMUL_DESC_TRANSA, &ta, sizeof ta);
    if (!st) st = product_set(p, CUBLASLT_MATMUL_DESC_TRANSB, &tb, sizeof tb);
    if (!st && k.bias) st = product_set(p, CUBLASLT_MATMUL_DESC_EPILOGUE, &with_bias, sizeof with_bias);
    if (!st && k.bias) st = product_set(p, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &g.bias.p, sizeof g.bias.p);
    if (!st) st = layout_make(&p->a, k.k, k.n, k.tb, k.half & 1);
    if (!st) st = layout_make(&p->b, k.m, k.k, k.ta, k.half & 1);
    if (!st) st = layout_make(&p->c, k.m, k.n, 0, k.half >> 1);
    if (gemm_check(c, st)) {
        product_choose(of(c), p);
        return p;
    }
    product_free(p);
    return NULL;
}
/* The product of g's shape, made when it is new. NULL and a failure. */
static product *product_of(bmvp_ctx *c, const gemm &g)
{
    const product_shape k = product_shape_of(c, g);
    const unsigned char *byte = (const unsigned char *)&k;
    uint32_t hash = 2166136261u;
    product *p, **list;
    size_t i;
    for (i = 0; i < sizeof k; ++i) hash = (hash ^ byte[i]) * 16777619u;
    list = &of(c)->products[hash % PRODUCT_LISTS];
    for (p = *list; p; p = p->next)
        if (memcmp(&p->shape, &k, sizeof k) == 0) return p;
    p = product_make(c, g, k);
    if (!p) return NULL;
    p->next = *list;
    return *list = p;
}
static int gemm_fits(bmvp_ctx *c, const gemm &g)
{
    if (g.a.half != g.b.half || g.c.half > g.a.half || (g.bias && g.bias.half != g.c.half))
        bmvp_fail(c, BMVP_E_UNSUPPORTED, "cuda: a matrix product of mixed types");
    else if (larger(g.m, larger(g.n, g.k)) > INT32_MAX || g.batch > INT32_MAX)
        bmvp_fail(c, BMVP_E_UNSUPPORTED, "cuda: a matrix product of %lld x %lld x %lld is too large", (long long)g.m,
                  (long long)g.n, (long long)g.k);
    else return 1;
    return 0;
}
static void gemm_run(bmvp_ctx *c, const gemm &asked)
{
    const float one = 1.0f;
    const gemm g = asked.onto.half == asked.c.half ? asked : gemm_in_place(c, asked);
    state *s = of(c);
    product *p;
    if (!gemm_fits(c, g) || !use(c)) return;
    capture_node(s, product_node(g));
    /* kernels read biases 16 bytes at a time */
    p = g.batch == 1 && alignment_of(g.bias.p) >= 16 ? product_of(c, g) : NULL;
    if (bmvp_failed(c)) return;
    if (!p || !p->exists) {
        gemm_batched(c, gemm_in_place(c, g));
        return;
    }
    if (g.bias && !gemm_check(c, product_set(p, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &g.bias.p, sizeof g.bias.p))) return;
    gemm_check(c, cublasLtMatmul(s->lt, p->op, &one, g.b.p, p->a, g.a.p, p->b, &g.beta, g.onto ? g.onto.p : g.c.p, p->c,
                                 g.c.p, p->c, &p->algorithm, s->product_space, BMVPI_PRODUCT_SPACE, s->stream));
}
/* y (m, n) = onto + a (m, k) b (k, n) + bias; onto and bias may be none */
static void gemm_bias(bmvp_ctx *c, int64_t m, int64_t n, int64_t k, const view &a, const view &b, const view &bias,
                      const sink &y, const view &onto = view{ NULL, 0 })
{
    gemm g = gemm_of(m, n, k, a, 0, b, 0, y, onto.p != NULL);
    g.bias = bias;
    g.onto = onto;
    gemm_run(c, g);
}

/* An op one of whose tensors is bfloat16 multiplies in bfloat16: operands that are not are rounded first, into `room`
   in the workspace, which then points behind. */
static int is_half(const bmvp_tensor *y)
{
    int half = y->half;
    for (int i = 0; i < y->n_src; ++i) half |= y->src[i] && y->src[i]->half;
    return half;
}
static int64_t floats_for(int64_t n, int half) { return half ? ceil_div(n, 32) * 16 : ceil_div(n, 16) * 16; }
/* n numbers as bfloat16, or (half 0) as float32 */
static view convert(bmvp_ctx *c, const view &x, int64_t n, int half, float **room)
{
    const sink to = { *room, half };
    if (!x || x.half == half) return x;
    copy(c, x, to, n, 0);
    *room += floats_for(n, half);
    return to;
}
static view operand_of(bmvp_ctx *c, const bmvp_tensor *y, const bmvp_tensor *t, float **room)
{
    return t ? convert(c, values(t), t->numel, is_half(y), room) : values(t);
}
static view operand_gradient(bmvp_ctx *c, const bmvp_tensor *y, float **room)
{
    return convert(c, gradient(y), y->numel, is_half(y), room);
}
/* The bias of a product that makes y */
static view operand_bias(bmvp_ctx *c, const bmvp_tensor *y, const bmvp_tensor *t, float **room)
{
    return t ? convert(c, values(t), t->numel, y->half, room) : values(t);
}
/* Floats of workspace that the operand t, a bias or y's own gradient takes at most */
static int64_t operand_room(const bmvp_tensor *y, const bmvp_tensor *t)
{
    return t && is_half(y) && !t->half ? floats_for(t->numel, 1) : 0;
}

/* >>op add: y = a + b; b of a's shape, along a's last axes, one number --------------------------------------------- */

/* y (+)= a + b, a b, a - b or a / b; 12 bytes an element (8 with a row or a number), half of it in bfloat16.
   y may be a or b. */
enum { SUM, PRODUCT, DIFFERENCE, QUOTIENT };
struct binary_map {
    view a, b;
    sink y;
    int number, kind, add;
    __device__ float of(float u, float v) const
    {
        return kind == PRODUCT ? u * v : kind == SUM ? u + v : kind == DIFFERENCE ? u - v : u / v;
    }
    template <int N> __device__ void join(int64_t i, int64_t from) const
    {
        float u[N], v[N];
        load<N>(a, i, u);
        if (number) for (int e = 0; e < N; ++e) v[e] = b[0];
        else load<N>(b, from, v);
        BMVPI_UNROLLED
        for (int e = 0; e < N; ++e) u[e] = of(u[e], v[e]);
        store<N>(y, i, u, add);
    }
    template <int N> __device__ void run(int64_t i) const { join<N>(i, i); }
    template <int N> __device__ void run(int64_t i, int64_t, int64_t ch) const { join<N>(i, ch); }
};
/* y as rows of the operand that is repeated */
static columns binary_columns(const bmvp_tensor *y)
{
    return columns_of(1, y->numel / y->src[1]->numel, y->src[1]->numel);
}
static void binary(bmvp_ctx *c, const bmvp_tensor *y, const view &a, const view &b, const sink &to, int kind, int add)
{
    const binary_map f = { a, b, to, y->args.binary.spread == BMVP_SPREAD_NUMBER, kind, add };
    if (y->args.binary.spread == BMVP_SPREAD_CHANNELS) columns_map(c, f, binary_columns(y));
    else map(c, f, y->numel);
}
/* gb[0] (+)= its share of the sum of g, or of g times `by` */
struct number_grad : join_sum {
    view g, by;
    shares share;
    sink gb;
    int add;
    template <int N> __device__ pair value(int64_t i) const
    {
        float v[N], u[N];
        double sum = 0;
        load<N>(g, i, v);
        if (by) load<N>(by, i, u);
        BMVPI_UNROLLED
        for (int e = 0; e < N; ++e) sum += by ? (double)v[e] * (double)u[e] : (double)v[e];
        return pair{ sum, 0 };
    }
    __device__ void finish(pair p) const { put(gb, 0, share.of(p.a, 0), add); }
};
static void broadcast_grad(bmvp_ctx *c, const bmvp_tensor *y, const view &by, const sink &gb, int add)
{
    const int div = y->op == BMVP_OP_DIV;
    const shares share = { div || y->op == BMVP_OP_SUB, values(div ? y->src[1] : NULL) };
    if (y->args.binary.spread == BMVP_SPREAD_NUMBER) {
        number_grad f;
        f.g = gradient(y), f.by = by, f.share = share, f.gb = gb, f.add = add;
        reduce(c, f, y->numel, bmvp_kernel_workspace(c));
    } else {
        const column_grad f = { gradient(y), by, share, gb, add };
        columns_sum(c, f, binary_columns(y), bmvp_kernel_workspace(c));
    }
}
static int64_t broadcast_workspace(const bmvp_tensor *y, int backward)
{
    if (!backward || y->args.binary.spread == BMVP_SPREAD_SAME) return 0;
    return y->args.binary.spread == BMVP_SPREAD_NUMBER ? (int64_t)REDUCE_FLOATS
                                                       : columns_workspace(binary_columns(y));
}

static void add_forward(bmvp_ctx *c, bmvp_tensor *y)
{
    binary(c, y, values(y->src[0]), values(y->src[1]), result(y), SUM, 0);
}
static void add_backward(bmvp_ctx *c, bmvp_tensor *y)
{
    int add;
    sink gb;
    if (y->args.binary.spread == BMVP_SPREAD_SAME) {
        bmvp_kernel_grad_pass(c, y, y->src[0]);
        bmvp_kernel_grad_pass(c, y, y->src[1]);
        return;
    }
    gb = grad(c, y->src[1], &add);
    if (gb) broadcast_grad(c, y, view{ NULL, 0 }, gb, add);
    bmvp_kernel_grad_pass(c, y, y->src[0]);
}
static int64_t add_workspace(const bmvp_ctx *, const bmvp_tensor *y, int backward)
{
    return broadcast_workspace(y, backward);
}

/* >>op mul: y = a b, as add ---------------------------------------------------------------------------------------- */

static void mul_forward(bmvp_ctx *c, bmvp_tensor *y)
{
    binary(c, y, values(y->src[0]), values(y->src[1]), result(y), PRODUCT, 0);
}
static void mul_backward(bmvp_ctx *c, bmvp_tensor *y)
{
    int add_a, add_b;
    sink ga = grad(c, y->src[0], &add_a), gb = grad(c, y->src[1], &add_b); /* one buffer for a times a */
    if (ga) binary(c, y, gradient(y), values(y->src[1]), ga, PRODUCT, add_a);
    if (gb && y->args.binary.spread == BMVP_SPREAD_SAME)
        binary(c, y, gradient(y), values(y->src[0]), gb, PRODUCT, add_b);
    else if (gb) broadcast_grad(c, y, values(y->src[0]), gb, add_b);
}
static int64_t mul_workspace(const bmvp_ctx *, const bmvp_tensor *y, int backward)
{
    return broadcast_workspace(y, backward);
}

/* >>op sub: y = a - b, as add -------------------------------------------------------------------------------------- */

/* b (+)= -g; 8 bytes an element */
struct minus_map {
    view g;
    sink gb;
    int add;
    template <int N> __device__ void run(int64_t i) const
    {
        float v[N];
        load<N>(g, i, v);
        BMVPI_UNROLLED
        for (int e = 0; e < N; ++e) v[e] = -v[e];
        store<N>(gb, i, v, add);
    }
};
static void sub_forward(bmvp_ctx *c, bmvp_tensor *y)
{
    binary(c, y, values(y->src[0]), values(y->src[1]), result(y), DIFFERENCE, 0);
}
static void sub_backward(bmvp_ctx *c, bmvp_tensor *y)
{
    int add;
    sink gb = grad(c, y->src[1], &add);
    if (gb && y->args.binary.spread == BMVP_SPREAD_SAME) map(c, minus_map{ gradient(y), gb, add }, y->numel);
    else if (gb) broadcast_grad(c, y, view{ NULL, 0 }, gb, add);
    bmvp_kernel_grad_pass(c, y, y->src[0]);
}
static int64_t sub_workspace(const bmvp_ctx *, const bmvp_tensor *y, int backward)
{
    return broadcast_workspace(y, backward);
}

/* >>op div: y = a / b, as add -------------------------------------------------------------------------------------- */

/* db (+)= -g a / b^2; 16 bytes an element */
struct quotient_back_map {
    view a, b, g;
    sink db;
    int add;
    template <int N> __device__ void run(int64_t i) const
    {
        float u[N], v[N], d[N];
        load<N>(a, i, u);
        load<N>(b, i, v);
        load<N>(g, i, d);
        BMVPI_UNROLLED
        for (int e = 0; e < N; ++e) d[e] = -d[e] * u[e] / (v[e] * v[e]);
        store<N>(db, i, d, add);
    }
};
static void div_forward(bmvp_ctx *c, bmvp_tensor *y)
{
    binary(c, y, values(y->src[0]), values(y->src[1]), result(y), QUOTIENT, 0);
}
static void div_backward(bmvp_ctx *c, bmvp_tensor *y)
{
    int add_a, add_b;
    const view a = values(y->src[0]), b = values(y->src[1]);
    sink ga = grad(c, y->src[0], &add_a), gb = grad(c, y->src[1], &add_b); /* one buffer for a by a */
    if (ga) binary(c, y, gradient(y), b, ga, QUOTIENT, add_a);
    if (gb && y->args.binary.spread == BMVP_SPREAD_SAME)
        map(c, quotient_back_map{ a, b, gradient(y), gb, add_b }, y->numel);
    else if (gb) broadcast_grad(c, y, a, gb, add_b);
}
static int64_t div_workspace(const bmvp_ctx *, const bmvp_tensor *y, int backward)
{
    return broadcast_workspace(y, backward);
}

/* >>op scale ------------------------------------------------------------------------------------------------------- */

/* y (+)= factor x + offset; 8 bytes an element */
struct scale_map {
    view x;
    sink y;
    float factor, offset;
    int add;
    template <int N> __device__ void run(int64_t i) const
    {
        float v[N];
        load<N>(x, i, v);
        BMVPI_UNROLLED
        for (int e = 0; e < N; ++e) v[e] = v[e] * factor + offset;
        store<N>(y, i, v, add);
    }
};
static void scale_forward(bmvp_ctx *c, bmvp_tensor *y)
{
    map(c, scale_map{ values(y->src[0]), result(y), (float)y->args.scale.factor, (float)y->args.scale.offset, 0 },
        y->numel);
}
static void scale_backward(bmvp_ctx *c, bmvp_tensor *y)
{
    int add;
    sink gx = grad(c, y->src[0], &add);
    if (gx) map(c, scale_map{ gradient(y), gx, (float)y->args.scale.factor, 0, add }, y->numel);
}
BMVPI_NO_WORKSPACE(scale)

/* >>op relu -------------------------------------------------------------------------------------------------------- */

/* y = x < 0 ? slope x : x; NaN stays. dx (+)= y > 0 ? g : slope g. 8 and 12 bytes an element */
struct relu_map {
    view x;
    sink y;
    float slope;
    template <int N> __device__ void run(int64_t i) const
    {
        float v[N];
        load<N>(x, i, v);
        BMVPI_UNROLLED
        for (int e = 0; e < N; ++e) v[e] = v[e] < 0.0f ? slope * v[e] : v[e];
        store<N>(y, i, v, 0);
    }
};
struct relu_back_map {
    view y, g;
    sink dx;
    float slope;
    int add;
    template <int N> __device__ void run(int64_t i) const
    {
        float d[N], v[N];
        load<N>(g, i, d);
        load<N>(y, i, v);
        BMVPI_UNROLLED
        for (int e = 0; e < N; ++e) d[e] = v[e] > 0.0f ? d[e] : slope * d[e];
        store<N>(dx, i, d, add);
    }
};
static void relu_forward(bmvp_ctx *c, bmvp_tensor *y)
{
    const float slope = (float)y->args.relu.slope;
    map(c, relu_map{ values(y->src[0]), result(y), slope }, y->numel);
}
static void relu_backward(bmvp_ctx *c, bmvp_tensor *y)
{
    int add;
    sink gx = grad(c, y->src[0], &add);
    if (gx) map(c, relu_back_map{ result(y), gradient(y), gx, (float)y->args.relu.slope, add }, y->numel);
}
BMVPI_NO_WORKSPACE(relu)

/* >>op sigmoid ----------------------------------------------------------------------------------------------------- */

/* y = 1 / (1 + exp(-x)); dx (+)= g y (1 - y) */
struct sigmoid_map {
    view x;
    sink y;
    template <int N> __device__ void run(int64_t i) const
    {
        float v[N];
        load<N>(x, i, v);
        BMVPI_UNROLLED
        for (int e = 0; e < N; ++e) v[e] = 1.0f / (1.0f + expf(-v[e]));
        store<N>(y, i, v, 0);
    }
};
struct sigmoid_back_map {
    view y, g;
    sink dx;
    int add;
    template <int N> __device__ void run(int64_t i) const
    {
        float d[N], v[N];
        load<N>(g, i, d);
        load<N>(y, i, v);
        BMVPI_UNROLLED
        for (int e = 0; e < N; ++e) d[e] = d[e] * v[e] * (1.0f - v[e]);
        store<N>(dx, i, d, add);
    }
};
static void sigmoid_forward(bmvp_ctx *c, bmvp_tensor *y)
{
    map(c, sigmoid_map{ values(y->src[0]), result(y) }, y->numel);
}
static void sigmoid_backward(bmvp_ctx *c, bmvp_tensor *y)
{
    int add;
    sink gx = grad(c, y->src[0], &add);
    if (gx) map(c, sigmoid_back_map{ result(y), gradient(y), gx, add }, y->numel);
}
BMVPI_NO_WORKSPACE(sigmoid)

/* >>op gelu -------------------------------------------------------------------------------------------------------- */

/* x Phi(x), and its derivative Phi(x) + x phi(x) */
static __device__ __forceinline__ float gelu_of(float x) { return 0.5f * x * (1.0f + erff(x * 0.70710678f)); }
static __device__ __forceinline__ float gelu_slope(float x)
{
    return 0.5f * (1.0f + erff(x * 0.70710678f)) + x * 0.39894228f * expf(-0.5f * x * x);
}
struct gelu_map {
    view x;
    sink y;
    template <int N> __device__ void run(int64_t i) const
    {
        float v[N];
        load<N>(x, i, v);
        BMVPI_UNROLLED
        for (int e = 0; e < N; ++e) v[e] = gelu_of(v[e]);
        store<N>(y, i, v, 0);
    }
};
struct gelu_back_map {
    view x, g;
    sink dx;
    int add;
    template <int N> __device__ void run(int64_t i) const
    {
        float d[N], v[N];
        load<N>(g, i, d);
        load<N>(x, i, v);
        BMVPI_UNROLLED
        for (int e = 0; e < N; ++e) d[e] = d[e] * gelu_slope(v[e]);
        store<N>(dx, i, d, add);
    }
};
static void gelu_forward(bmvp_ctx *c, bmvp_tensor *y) { map(c, gelu_map{ values(y->src[0]), result(y) }, y->numel); }
static void gelu_backward(bmvp_ctx *c, bmvp_tensor *y)
{
    int add;
    sink gx = grad(c, y->src[0], &add);
    if (gx) map(c, gelu_back_map{ values(y->src[0]), gradient(y), gx, add }, y->numel);
}
BMVPI_NO_WORKSPACE(gelu)

/* >>op abs: and what functions of each element have in common ------------------------------------------------------ */

/* y = f.of(x); 8 bytes an element */
template <class F> struct function_map {
    view x;
    sink y;
    F f;
    template <int N> __device__ void run(int64_t i) const
    {
        float v[N];
        load<N>(x, i, v);
        BMVPI_UNROLLED
        for (int e = 0; e < N; ++e) v[e] = f.of(v[e]);
        store<N>(y, i, v, 0);
    }
};
/* dx (+)= g f.slope(from), from x or y; 12 bytes an element */
template <class F> struct function_back_map {
    view from, g;
    sink dx;
    int add;
    F f;
    template <int N> __device__ void run(int64_t i) const
    {
        float d[N], v[N];
        load<N>(g, i, d);
        load<N>(from, i, v);
        BMVPI_UNROLLED
        for (int e = 0; e < N; ++e) d[e] *= f.slope(v[e]);
        store<N>(dx, i, d, add);
    }
};
template <class F> static void function_forward(bmvp_ctx *c, bmvp_tensor *y, const F &f)
{
    map(c, function_map<F>{ values(y->src[0]), result(y), f }, y->numel);
}
template <class F> static void function_backward(bmvp_ctx *c, bmvp_tensor *y, const view &from, const F &f)
{
    int add;
    sink gx = grad(c, y->src[0], &add);
    if (gx) map(c, function_back_map<F>{ from, gradient(y), gx, add, f }, y->numel);
}

struct abs_function {
    __device__ float of(float x) const { return fabsf(x); }
    __device__ float slope(float x) const { return (float)((x > 0.0f) - (x < 0.0f)); }
};
static void abs_forward(bmvp_ctx *c, bmvp_tensor *y) { function_forward(c, y, abs_function{}); }
static void abs_backward(bmvp_ctx *c, bmvp_tensor *y)
{
    function_backward(c, y, values(y->src[0]), abs_function{});
}
BMVPI_NO_WORKSPACE(abs)

/* >>op sqrt -------------------------------------------------------------------------------------------------------- */

struct sqrt_function {
    __device__ float of(float x) const { return sqrtf(x); }
    __device__ float slope(float y) const { return 0.5f / y; }
};
static void sqrt_forward(bmvp_ctx *c, bmvp_tensor *y) { function_forward(c, y, sqrt_function{}); }
static void sqrt_backward(bmvp_ctx *c, bmvp_tensor *y)
{
    function_backward(c, y, result(y), sqrt_function{});
}
BMVPI_NO_WORKSPACE(sqrt)

/* >>op exp --------------------------------------------------------------------------------------------------------- */

struct exp_function {
    __device__ float of(float x) const { return expf(x); }
    __device__ float slope(float y) const { return y; }
};
static void exp_forward(bmvp_ctx *c, bmvp_tensor *y) { function_forward(c, y, exp_function{}); }
static void exp_backward(bmvp_ctx *c, bmvp_tensor *y)
{
    function_backward(c, y, result(y), exp_function{});
}
BMVPI_NO_WORKSPACE(exp)

/* >>op natural_log ------------------------------------------------------------------------------------------------- */

struct natural_log_function {
    __device__ float of(float x) const { return logf(x); }
    __device__ float slope(float x) const { return 1.0f / x; }
};
static void natural_log_forward(bmvp_ctx *c, bmvp_tensor *y) { function_forward(c, y, natural_log_function{}); }
static void natural_log_backward(bmvp_ctx *c, bmvp_tensor *y)
{
    function_backward(c, y, values(y->src[0]), natural_log_function{});
}
BMVPI_NO_WORKSPACE(natural_log)

/* >>op clamp ------------------------------------------------------------------------------------------------------- */

struct clamp_function {
    float low, high;
    __device__ float of(float x) const { return x < low ? low : x > high ? high : x; }
    __device__ float slope(float x) const { return x >= low && x <= high ? 1.0f : 0.0f; }
};
static clamp_function clamp_of(const bmvp_tensor *y)
{
    return clamp_function{ (float)y->args.clamp.low, (float)y->args.clamp.high };
}
static void clamp_forward(bmvp_ctx *c, bmvp_tensor *y) { function_forward(c, y, clamp_of(y)); }
static void clamp_backward(bmvp_ctx *c, bmvp_tensor *y) { function_backward(c, y, values(y->src[0]), clamp_of(y)); }
BMVPI_NO_WORKSPACE(clamp)

/* >>op softmax: along the last axis -------------------------------------------------------------------------------- */

/* y = exp(x - max) / sum; 12 bytes an element, x a second and third time from cache */
struct softmax_rows {
    view x;
    sink y;
    __device__ void row(int64_t row, int64_t n, int lane, int team, int live) const
    {
        const view in = x + row * n;
        float top = -INFINITY;
        double sum = 0;
        for (int64_t i = lane; live && i < n; i += team) top = fmaxf(top, in[i]);
        top = team_max(top, team);
        for (int64_t i = lane; live && i < n; i += team) sum += (double)expf(in[i] - top);
        const float over = (float)(1.0 / team_sum(sum, team));
        for (int64_t i = lane; live && i < n; i += team) put(y, row * n + i, expf(in[i] - top) * over, 0);
    }
};
/* dx (+)= y (g - sum(g y)) */
struct softmax_back_rows {
    view y, g;
    sink dx;
    int add;
    __device__ void row(int64_t row, int64_t n, int lane, int team, int live) const
    {
        const view p = y + row * n, q = g + row * n;
        double dot = 0;
        for (int64_t i = lane; live && i < n; i += team) dot += (double)p[i] * (double)q[i];
        const float d = (float)team_sum(dot, team);
        for (int64_t i = lane; live && i < n; i += team) put(dx, row * n + i, p[i] * (q[i] - d), add);
    }
};
static void softmax_forward(bmvp_ctx *c, bmvp_tensor *y)
{
    rows_map(c, softmax_rows{ values(y->src[0]), result(y) }, y->numel / last_dim(y), last_dim(y));
}
static void softmax_backward(bmvp_ctx *c, bmvp_tensor *y)
{
    int add;
    sink gx = grad(c, y->src[0], &add);
    if (gx) rows_map(c, softmax_back_rows{ result(y), gradient(y), gx, add }, y->numel / last_dim(y), last_dim(y));
}
BMVPI_NO_WORKSPACE(softmax)

/* >>op l2_normalize: along the last axis --------------------------------------------------------------------------- */

/* y = x / max(|x|, eps); saved: that factor, negative where eps was used */
struct l2_rows {
    view x;
    sink y;
    float *saved;
    double eps;
    __device__ void row(int64_t row, int64_t n, int lane, int team, int live) const
    {
        const view in = x + row * n;
        double square = 0;
        for (int64_t i = lane; live && i < n; i += team) square += (double)in[i] * (double)in[i];
        const double norm = sqrt(team_sum(square, team));
        const float s = (float)(1.0 / (norm < eps ? eps : norm));
        if (live && lane == 0) saved[row] = norm < eps ? -s : s;
        for (int64_t i = lane; live && i < n; i += team) put(y, row * n + i, in[i] * s, 0);
    }
};
/* dx (+)= (g - y sum(g y)) / |x|, or g / eps */
struct l2_back_rows {
    view y, g;
    const float *saved;
    sink dx;
    int add;
    __device__ void row(int64_t row, int64_t n, int lane, int team, int live) const
    {
        const view p = y + row * n, q = g + row * n;
        const float s = fabsf(saved[row]);
        double dot = 0;
        for (int64_t i = lane; live && i < n; i += team) dot += (double)p[i] * (double)q[i];
        const float sum = (float)team_sum(dot, team), d = saved[row] < 0.0f ? 0.0f : sum;
        for (int64_t i = lane; live && i < n; i += team) put(dx, row * n + i, (q[i] - p[i] * d) * s, add);
    }
};
static void l2_normalize_forward(bmvp_ctx *c, bmvp_tensor *y)
{
    rows_map(c, l2_rows{ values(y->src[0]), result(y), y->saved, (double)(float)y->args.l2_normalize.eps },
             y->numel / last_dim(y), last_dim(y));
}
static void l2_normalize_backward(bmvp_ctx *c, bmvp_tensor *y)
{
    int add;
    sink gx = grad(c, y->src[0], &add);
    if (gx) rows_map(c, l2_back_rows{ result(y), gradient(y), y->saved, gx, add }, y->numel / last_dim(y), last_dim(y));
}
BMVPI_NO_WORKSPACE(l2_normalize)

/* >>op reshape ----------------------------------------------------------------------------------------------------- */

static void reshape_forward(bmvp_ctx *c, bmvp_tensor *y) { copy(c, values(y->src[0]), result(y), y->numel, 0); }
static void reshape_backward(bmvp_ctx *c, bmvp_tensor *y) { bmvp_kernel_grad_pass(c, y, y->src[0]); }
BMVPI_NO_WORKSPACE(reshape)

/* >>op permute ----------------------------------------------------------------------------------------------------- */

static void permute_axes(const bmvp_tensor *y, int64_t *from, int64_t *to)
{
    int64_t xs[BMVP_MAX_DIMS];
    strides_of(y->rank, y->src[0]->dim, xs);
    strides_of(y->rank, y->dim, to);
    for (int i = 0; i < y->rank; ++i) from[i] = xs[y->args.permute.axes[i]];
}
static void permute_forward(bmvp_ctx *c, bmvp_tensor *y)
{
    int64_t from[BMVP_MAX_DIMS], to[BMVP_MAX_DIMS];
    permute_axes(y, from, to);
    strided_copy(c, y->rank, y->dim, values(y->src[0]), from, result(y), to, 0);
}
static void permute_backward(bmvp_ctx *c, bmvp_tensor *y)
{
    int64_t from[BMVP_MAX_DIMS], to[BMVP_MAX_DIMS];
    int add;
    sink gx = grad(c, y->src[0], &add);
    permute_axes(y, from, to);
    if (gx) strided_copy(c, y->rank, y->dim, gradient(y), to, gx, from, add);
}
BMVPI_NO_WORKSPACE(permute)

/* >>op roll -------------------------------------------------------------------------------------------------------- */

/* Number `piece` of the 2^rank boxes (bit i: the end of axis i), and where it starts in x and in y; 0: it is empty. */
static int roll_box(const bmvp_tensor *y, int piece, int64_t *dim, int64_t *in_x, int64_t *in_y)
{
    int64_t stride[BMVP_MAX_DIMS];
    strides_of(y->rank, y->dim, stride);
    *in_x = *in_y = 0;
    for (int i = 0; i < y->rank; ++i) {
        const int64_t by = y->args.roll.by[i], end = piece >> i & 1;
        dim[i] = end ? by : y->dim[i] - by;
        *in_x += end ? (y->dim[i] - by) * stride[i] : 0;
        *in_y += end ? 0 : by * stride[i];
        if (dim[i] == 0) return 0;
    }
    return 1;
}
static void roll_forward(bmvp_ctx *c, bmvp_tensor *y)
{
    int64_t dim[BMVP_MAX_DIMS], stride[BMVP_MAX_DIMS], from, to;
    strides_of(y->rank, y->dim, stride);
    for (int piece = 0; piece < 1 << y->rank; ++piece)
        if (roll_box(y, piece, dim, &from, &to))
            strided_copy(c, y->rank, dim, values(y->src[0]) + from, stride, result(y) + to, stride, 0);
}
static void roll_backward(bmvp_ctx *c, bmvp_tensor *y)
{
    int64_t dim[BMVP_MAX_DIMS], stride[BMVP_MAX_DIMS], to, from;
    int add;
    sink gx = grad(c, y->src[0], &add);
    strides_of(y->rank, y->dim, stride);
    for (int piece = 0; gx && piece < 1 << y->rank; ++piece)
        if (roll_box(y, piece, dim, &to, &from))
            strided_copy(c, y->rank, dim, gradient(y) + from, stride, gx + to, stride, add);
}
BMVPI_NO_WORKSPACE(roll)

/* >>op slice ------------------------------------------------------------------------------------------------------- */

/* Elements before place `start` of one axis */
static int64_t axis_shift(const bmvp_tensor *t, int64_t axis, int64_t start)
{
    int64_t s[BMVP_MAX_DIMS];
    strides_of(t->rank, t->dim, s);
    return s[axis] * start;
}
/* Copies the box between its own array and its place in `big`, shift elements in. */
static void box_copy(bmvp_ctx *c, const bmvp_tensor *big, const bmvp_tensor *box, const view &from, const sink &to,
                     int64_t shift, int in, int add)
{
    int64_t bs[BMVP_MAX_DIMS], ss[BMVP_MAX_DIMS];
    strides_of(big->rank, big->dim, bs);
    strides_of(box->rank, box->dim, ss);
    if (in) strided_copy(c, box->rank, box->dim, from, ss, to + shift, bs, add);
    else strided_copy(c, box->rank, box->dim, from + shift, bs, to, ss, add);
}
static void slice_forward(bmvp_ctx *c, bmvp_tensor *y)
{
    box_copy(c, y->src[0], y, values(y->src[0]), result(y),
             axis_shift(y->src[0], y->args.slice.axis, y->args.slice.start), 0, 0);
}
static void slice_backward(bmvp_ctx *c, bmvp_tensor *y)
{
    sink gx = grad_add(c, y->src[0]);
    if (gx)
        box_copy(c, y->src[0], y, gradient(y), gx, axis_shift(y->src[0], y->args.slice.axis, y->args.slice.start), 1,
                 1);
}
BMVPI_NO_WORKSPACE(slice)

/* >>op pad --------------------------------------------------------------------------------------------------------- */

static int64_t pad_shift(const bmvp_tensor *y)
{
    int64_t s = 0;
    for (int i = 0; i < y->rank; ++i) s += axis_shift(y, i, y->args.pad.low[i]);
    return s;
}
static void pad_forward(bmvp_ctx *c, bmvp_tensor *y)
{
    fill(c, result(y), 0, y->numel);
    box_copy(c, y, y->src[0], values(y->src[0]), result(y), pad_shift(y), 1, 0);
}
static void pad_backward(bmvp_ctx *c, bmvp_tensor *y)
{
    int add;
    sink gx = grad(c, y->src[0], &add);
    if (gx) box_copy(c, y, y->src[0], gradient(y), gx, pad_shift(y), 0, add);
}
BMVPI_NO_WORKSPACE(pad)

/* >>op concat ------------------------------------------------------------------------------------------------------ */

static void concat_forward(bmvp_ctx *c, bmvp_tensor *y)
{
    int64_t start = 0;
    for (int i = 0; i < y->n_src; start += y->src[i++]->dim[y->args.concat.axis])
        box_copy(c, y, y->src[i], values(y->src[i]), result(y), axis_shift(y, y->args.concat.axis, start), 1, 0);
}
static void concat_backward(bmvp_ctx *c, bmvp_tensor *y)
{
    int64_t start = 0;
    for (int i = 0, add; i < y->n_src; start += y->src[i++]->dim[y->args.concat.axis]) {
        sink g = grad(c, y->src[i], &add);
        if (g) box_copy(c, y, y->src[i], gradient(y), g, axis_shift(y, y->args.concat.axis, start), 0, add);
    }
}
BMVPI_NO_WORKSPACE(concat)

/* >>op upsample_nearest -------------------------------------------------------------------------------------------- */

static void upsample_nearest_forward(bmvp_ctx *c, bmvp_tensor *y)
{
    const bmvp_tensor *x = y->src[0];
    int64_t xs[5], dim[8], from[8], to[8];
    int k = 0;
    strides_of(5, x->dim, xs);
    for (int i = 0; i < 5; ++i) { /* axes of y, with every upsampled one split into (place, copy) */
        dim[k] = x->dim[i], from[k++] = xs[i];
        if (i >= 1 && i <= 3) dim[k] = y->args.upsample_nearest.factor, from[k++] = 0;
    }
    strides_of(8, dim, to);
    strided_copy(c, 8, dim, values(x), from, result(y), to, 0);
}
/* dx (+)= sum of the f^3 copies, in order; map over x. 4 f^3 + 4 bytes an element */
struct upsample_nearest_back_map {
    view g;
    sink dx;
    int64_t d, h, w, c, f; /* of x */
    int add;
    __device__ void operator()(int64_t i) const
    {
        const int64_t ch = i % c, x = i / c % w, y = i / c / w % h, z = i / c / w / h; /* z counts over samples too */
        float s = 0;
        for (int64_t a = 0; a < f; ++a)
            for (int64_t b = 0; b < f; ++b)
                for (int64_t e = 0; e < f; ++e)
                    s += g[(((z * f + a) * h * f + y * f + b) * w * f + x * f + e) * c + ch];
        put(dx, i, s, add);
    }
};
static void upsample_nearest_backward(bmvp_ctx *c, bmvp_tensor *y)
{
    const bmvp_tensor *x = y->src[0];
    int add;
    sink gx = grad(c, y->src[0], &add);
    if (gx)
        each(c,
             upsample_nearest_back_map{ gradient(y), gx, x->dim[1], x->dim[2], x->dim[3], x->dim[4],
                                        y->args.upsample_nearest.factor, add },
             x->numel);
}
BMVPI_NO_WORKSPACE(upsample_nearest)

/* >>op upsample_trilinear ------------------------------------------------------------------------------------------ */

/* One axis of the chain: (outer, n, inner) <-> (outer, n f, inner). Place j of the longer lies between i and i + 1 (or
   at the last i). */
struct stretch {
    view from;
    sink to;
    int64_t n, f, inner;
    int corners, add;
    __device__ double place(int64_t j, int64_t *i) const
    {
        const int64_t m = n * f;
        double at = corners ? (m > 1 ? (double)j * (double)(n - 1) / (double)(m - 1) : 0.0)
                            : ((double)j + 0.5) / (double)f - 0.5;
        if (at < 0) at = 0;
        *i = (int64_t)at < n - 1 ? (int64_t)at : n - 1;
        return at - (double)*i;
    }
};
/* y[j] = (1 - w) x[i] + w x[i + 1]; map over y. 12 bytes an element */
struct stretch_map {
    stretch k;
    __device__ void operator()(int64_t e) const
    {
        const int64_t m = k.n * k.f, row = e / k.inner, v = e % k.inner;
        int64_t i;
        const float w = (float)k.place(row % m, &i);
        const view a = k.from + (row / m * k.n + i) * k.inner + v;
        put(k.to, e, (1.0f - w) * a[0] + w * a[i + 1 < k.n ? k.inner : 0], 0);
    }
};
/* The transpose: x[i] (+)= what the places around it took of it, in order; map over x */
struct stretch_back_map {
    stretch k;
    __device__ void operator()(int64_t e) const
    {
        const int64_t m = k.n * k.f, row = e / k.inner, v = e % k.inner, i = row % k.n;
        const int64_t first = (i - 2) * k.f > 0 ? (i - 2) * k.f : 0, last = (i + 3) * k.f < m ? (i + 3) * k.f : m;
        float s = 0;
        for (int64_t j = first, at; j < last; ++j) {
            const double w = k.place(j, &at);
            double share = at == i ? 1.0 - w : at + 1 == i ? w : 0.0;
            if (at == i && i == k.n - 1) share = 1.0; /* both neighbours are the last */
            s += (float)share * k.from[(row / k.n * m + j) * k.inner + v];
        }
        put(k.to, e, s, k.add);
    }
};
/* Axis 1, 2 or 3 of the chain: axes before it are long already, those after it are not. */
static void stretch_run(bmvp_ctx *c, const bmvp_tensor *y, int axis, const view &from, const sink &to, int back,
                        int add)
{
    const bmvp_tensor *x = y->src[0];
    int64_t outer = x->dim[0], inner = x->dim[4];
    for (int i = 1; i < axis; ++i) outer *= y->dim[i];
    for (int i = axis + 1; i < 4; ++i) inner *= x->dim[i];
    const stretch k = {
        from, to, x->dim[axis], y->args.upsample_trilinear.factor, inner, y->args.upsample_trilinear.align_corners, add
    };
    if (back) each(c, stretch_back_map{ k }, outer * k.n * inner);
    else each(c, stretch_map{ k }, outer * k.n * k.f * inner);
}
static void upsample_trilinear_forward(bmvp_ctx *c, bmvp_tensor *y)
{
    const sink d = floats(bmvp_kernel_workspace(c)), h = d + y->src[0]->numel * y->args.upsample_trilinear.factor;
    stretch_run(c, y, 1, values(y->src[0]), d, 0, 0);
    stretch_run(c, y, 2, d, h, 0, 0);
    stretch_run(c, y, 3, h, result(y), 0, 0);
}
static void upsample_trilinear_backward(bmvp_ctx *c, bmvp_tensor *y)
{
    int add;
    const sink d = floats(bmvp_kernel_workspace(c)), h = d + y->src[0]->numel * y->args.upsample_trilinear.factor,
               gx = grad(c, y->src[0], &add);
    if (!gx) return;
    stretch_run(c, y, 3, gradient(y), h, 1, 0);
    stretch_run(c, y, 2, h, d, 1, 0);
    stretch_run(c, y, 1, d, gx, 1, add);
}
static int64_t upsample_trilinear_workspace(const bmvp_ctx *, const bmvp_tensor *y, int)
{
    return y->src[0]->numel * y->args.upsample_trilinear.factor * (1 + y->args.upsample_trilinear.factor);
}

/* >>op maxpool3d --------------------------------------------------------------------------------------------------- */

/* y = the largest of a block of k^3: a map over y. 4 k^3 + 4 bytes an element, neighbours read neighbours. */
struct maxpool_block {
    view x;
    int64_t d, h, w, c, k; /* d, h, w: of x */
    /* Place in x of the first largest in the block that begins at `first` */
    __device__ int64_t largest(int64_t first) const
    {
        int64_t best = first;
        float most = x[first];
        for (int64_t t = 1; t < k * k * k; ++t) {
            const int64_t j = first + ((t / (k * k) * h + t / k % k) * w + t % k) * c;
            const float v = x[j];
            if (!(most >= v || most != most)) best = j, most = v;
        }
        return best;
    }
};
struct maxpool_map {
    maxpool_block b;
    sink y;
    __device__ void operator()(int64_t i) const
    {
        const int64_t ow = b.w / b.k, oh = b.h / b.k, od = b.d / b.k, ch = i % b.c, x = i / b.c % ow,
                      h = i / b.c / ow % oh, z = i / b.c / ow / oh % od, n = i / b.c / ow / oh / od;
        const int64_t first = (((n * b.d + z * b.k) * b.h + h * b.k) * b.w + x * b.k) * b.c + ch;
        put(y, i, b.x[b.largest(first)], 0);
    }
};
/* dx (+)= g where x is its block's first largest: a map over x, each looking through its block. */
struct maxpool_back_map {
    maxpool_block b;
    view g;
    sink dx;
    int add;
    __device__ void operator()(int64_t i) const
    {
        const int64_t ow = b.w / b.k, oh = b.h / b.k, od = b.d / b.k, ch = i % b.c, x = i / b.c % b.w / b.k,
                      h = i / b.c / b.w % b.h / b.k, z = i / b.c / b.w / b.h % b.d / b.k, n = i / b.c / b.w / b.h / b.d;
        const int64_t first = (((n * b.d + z * b.k) * b.h + h * b.k) * b.w + x * b.k) * b.c + ch;
        float v = 0;
        if (x < ow && h < oh && z < od && b.largest(first) == i) v = g[(((n * od + z) * oh + h) * ow + x) * b.c + ch];
        put(dx, i, v, add);
    }
};
static maxpool_block maxpool_of(const bmvp_tensor *y)
{
    const bmvp_tensor *x = y->src[0];
    return maxpool_block{ values(x), x->dim[1], x->dim[2], x->dim[3], x->dim[4], y->args.maxpool3d.kernel };
}
static void maxpool3d_forward(bmvp_ctx *c, bmvp_tensor *y)
{
    each(c, maxpool_map{ maxpool_of(y), result(y) }, y->numel);
}
static void maxpool3d_backward(bmvp_ctx *c, bmvp_tensor *y)
{
    int add;
    sink gx = grad(c, y->src[0], &add);
    if (gx) each(c, maxpool_back_map{ maxpool_of(y), gradient(y), gx, add }, y->src[0]->numel);
}
BMVPI_NO_WORKSPACE(maxpool3d)

/* >>op space_to_depth ---------------------------------------------------------------------------------------------- */

/* A volume (N, D, H, W, C) cut into blocks of k voxels, as the axes (N, D/k, H/k, W/k, z, y, x, C): from, its strides
   along them; to, those of the array (places, block voxels, C). Voxels beyond the last whole block are left out. */
static void block_axes(const int64_t volume[5], const int64_t blocks[3], const int64_t k[3], int64_t dim[8],
                       int64_t from[8], int64_t to[8])
{
    int64_t s[5];
    strides_of(5, volume, s);
    dim[0] = volume[0], from[0] = s[0], dim[7] = volume[4], from[7] = 1;
    for (int i = 0; i < 3; ++i) {
        dim[i + 1] = blocks[i], from[i + 1] = s[i + 1] * k[i];
        dim[i + 4] = k[i], from[i + 4] = s[i + 1];
    }
    strides_of(8, dim, to);
}
static void space_to_depth_copy(bmvp_ctx *c, const bmvp_tensor *y, const view &from, const sink &to, int back, int add)
{
    const int64_t b = y->args.space_to_depth.block, k[3] = { b, b, b };
    int64_t dim[8], xs[8], ys[8];
    block_axes(y->src[0]->dim, y->dim + 1, k, dim, xs, ys);
    strided_copy(c, 8, dim, from, back ? ys : xs, to, back ? xs : ys, add);
}
static void space_to_depth_forward(bmvp_ctx *c, bmvp_tensor *y)
{
    space_to_depth_copy(c, y, values(y->src[0]), result(y), 0, 0);
}
static void space_to_depth_backward(bmvp_ctx *c, bmvp_tensor *y)
{
    int add;
    sink gx = grad(c, y->src[0], &add);
    if (gx) space_to_depth_copy(c, y, gradient(y), gx, 1, add);
}
BMVPI_NO_WORKSPACE(space_to_depth)

/* >>op box_sum3d --------------------------------------------------------------------------------------------------- */

/* One axis of the three: y (+)= sum of x over the places up to `radius` away, in order; each of (outer, n, inner).
   4 (2 radius + 2) bytes an element, most of it from L2 */
struct box_map {
    view x;
    sink y;
    int64_t n, inner, radius;
    int add;
    __device__ void operator()(int64_t i) const
    {
        const int64_t at = i / inner % n, lo = at < radius ? -at : -radius;
        const int64_t hi = at + radius < n ? radius : n - 1 - at;
        float s = 0;
        for (int64_t r = lo; r <= hi; ++r) s += x[i + r * inner];
        put(y, i, s, add);
    }
};
static void box_sum(bmvp_ctx *c, const bmvp_tensor *y, const view &from, const sink &to, int add)
{
    const sink w = floats(bmvp_kernel_workspace(c)), v = w + y->numel;
    const int64_t r = y->args.box_sum3d.size / 2, *d = y->dim;
    each(c, box_map{ from, w, d[1], d[2] * d[3] * d[4], r, 0 }, y->numel);
    each(c, box_map{ w, v, d[2], d[3] * d[4], r, 0 }, y->numel);
    each(c, box_map{ v, to, d[3], d[4], r, add }, y->numel);
}
static void box_sum3d_forward(bmvp_ctx *c, bmvp_tensor *y) { box_sum(c, y, values(y->src[0]), result(y), 0); }
static void box_sum3d_backward(bmvp_ctx *c, bmvp_tensor *y)
{
    int add;
    sink gx = grad(c, y->src[0], &add);
    if (gx) box_sum(c, y, gradient(y), gx, add);
}
static int64_t box_sum3d_workspace(const bmvp_ctx *, const bmvp_tensor *y, int) { return 2 * y->numel; }

/* >>op grid_sample3d ----------------------------------------------------------------------------------------------- */

/* Positions between the voxels of x; see the CPU's. */
struct sampling {
    view x, at, g;
    int64_t dim[3], c, places; /* places of one sample */
    int64_t low[3];
    float far[3];
    __device__ int64_t voxels() const { return dim[0] * dim[1] * dim[2]; }
    /* The cell of position p: `low`, its lower corner, and `far`, how far it lies from that. 0: none is inside. */
    __device__ int cell(int64_t p)
    {
        for (int i = 0; i < 3; ++i) {
            const float v = at[3 * p + i], whole = floorf(v);
            if (!(v > -1.0f && v < (float)dim[i])) return 0;
            low[i] = (int64_t)whole;
            far[i] = v - whole;
        }
        return 1;
    }
    /* Corner k of 8: its voxel, or -1 outside; its share along each axis */
    __device__ int64_t corner(int k, float *share) const
    {
        int64_t voxel = 0;
        int inside = 1;
        for (int i = 0; i < 3; ++i) {
            const int upper = k >> (2 - i) & 1;
            const int64_t v = low[i] + upper;
            inside = inside && v >= 0 && v < dim[i];
            share[i] = upper ? far[i] : 1.0f - far[i];
            voxel = voxel * dim[i] + v;
        }
        return inside ? voxel : -1;
    }
    __device__ int is_nan(int64_t p) const
    {
        const float a = at[3 * p], b = at[3 * p + 1], d = at[3 * p + 2];
        return a != a || b != b || d != d;
    }
};
static sampling sampling_of(const bmvp_tensor *y)
{
    const bmvp_tensor *x = y->src[0];
    sampling s = {};
    s.x = values(x), s.at = values(y->src[1]), s.g = gradient(y);
    for (int i = 0; i < 3; ++i) s.dim[i] = x->dim[i + 1];
    s.c = y->dim[4], s.places = y->dim[1] * y->dim[2] * y->dim[3];
    return s;
}
/* y at each place and channel; 36 bytes */
struct sampling_map {
    sampling given;
    sink y;
    __device__ void operator()(int64_t i) const
    {
        sampling s = given;
        const int64_t p = i / s.c, sample = p / s.places;
        float v = s.is_nan(p) ? NAN : 0.0f, share[3];
        const int inside = s.cell(p);
        for (int k = 0; inside && k < 8; ++k) {
            const int64_t voxel = s.corner(k, share);
            if (voxel >= 0) v += share[0] * share[1] * share[2] * s.x[(sample * s.voxels() + voxel) * s.c + i % s.c];
        }
        put(y, i, v, 0);
    }
};
/* dposition of each place; 36 C + 24 bytes */
struct sampling_slope_map {
    sampling given;
    sink gat;
    int add;
    __device__ void operator()(int64_t p) const
    {
        sampling s = given;
        const int64_t sample = p / s.places;
        const int inside = s.cell(p);
        float d[3] = { 0, 0, 0 }, share[3];
        for (int k = 0; inside && k < 8; ++k) {
            const int64_t voxel = s.corner(k, share);
            if (voxel < 0) continue;
            float dot = 0;
            for (int64_t i = 0; i < s.c; ++i) dot += s.g[p * s.c + i] * s.x[(sample * s.voxels() + voxel) * s.c + i];
            d[0] += (k & 4 ? dot : -dot) * share[1] * share[2];
            d[1] += (k & 2 ? dot : -dot) * share[0] * share[2];
            d[2] += (k & 1 ? dot : -dot) * share[0] * share[1];
        }
        for (int i = 0; i < 3; ++i) put(gat, 3 * p + i, s.is_nan(p) ? NAN : d[i], add);
    }
};
/* *unit = what the scatter counts in: a power of two so small that the largest |g| keeps 62 bits less those that all
   places of a sample could add (a voxel gets from each at most |g|). NaN if a g is not finite. */
struct sampling_unit_reduce : join_range {
    view g;
    double *unit;
    int64_t places;
    template <int N> __device__ pair value(int64_t i) const
    {
        pair p = none();
        for (int e = 0; e < N; ++e) {
            const double v = fabs((double)g[i + e]);
            p = join(p, pair{ v, v <= 3.4e38 ? v : INFINITY });
        }
        return p;
    }
    __device__ void finish(pair p) const
    {
        int exponent, bits = 0;
        while (((int64_t)1 << bits) < places) ++bits;
        (void)frexp(p.b, &exponent);
        *unit = p.b == INFINITY ? NAN : p.b > 0 ? ldexp(1.0, exponent + bits - 62) : 1.0;
    }
};
/* sum[voxel, c] += g times the corner's share, as whole numbers of units: these add up to the same in any order, which
   floats do not. Each place and channel; 8 atomics */
struct sampling_scatter_map {
    sampling given;
    const double *unit;
    unsigned long long *sum;
    __device__ void operator()(int64_t i) const
    {
        sampling s = given;
        const int64_t p = i / s.c, sample = p / s.places;
        float share[3];
        if (*unit != *unit || !s.cell(p)) return;
        for (int k = 0; k < 8; ++k) {
            const int64_t voxel = s.corner(k, share);
            const double v = (double)(share[0] * share[1] * share[2] * s.g[i]) / *unit;
            if (voxel >= 0)
                atomicAdd(sum + (sample * s.voxels() + voxel) * s.c + i % s.c, (unsigned long long)(long long)rint(v));
        }
    }
};
/* dx (+)= sum times unit */
struct sampling_back_map {
    const unsigned long long *sum;
    const double *unit;
    sink gx;
    int add;
    __device__ void operator()(int64_t i) const { put(gx, i, (float)((double)(long long)sum[i] * *unit), add); }
};
static void grid_sample3d_forward(bmvp_ctx *c, bmvp_tensor *y)
{
    each(c, sampling_map{ sampling_of(y), result(y) }, y->numel);
}
static void grid_sample3d_backward(bmvp_ctx *c, bmvp_tensor *y)
{
    const sampling s = sampling_of(y);
    const int64_t n = y->src[0]->numel;
    float *w = bmvp_kernel_workspace(c);
    unsigned long long *sum = (unsigned long long *)(void *)w;
    double *unit = (double *)(void *)(w + 2 * n);
    int add_x, add_at;
    sink gat = grad(c, y->src[1], &add_at), gx = grad(c, y->src[0], &add_x);
    sampling_unit_reduce f;
    if (gat) each(c, sampling_slope_map{ s, gat, add_at }, y->numel / s.c);
    if (!gx) return;
    f.g = s.g, f.unit = unit, f.places = s.places;
    reduce(c, f, y->numel, w + 2 * n + 2);
    fill(c, floats(w), 0, 2 * n);
    each(c, sampling_scatter_map{ s, unit, sum }, y->numel);
    each(c, sampling_back_map{ sum, unit, gx, add_x }, n);
}
static int64_t grid_sample3d_workspace(const bmvp_ctx *, const bmvp_tensor *y, int backward)
{
    return backward && y->src[0]->wants_grad ? 2 * y->src[0]->numel + 2 + REDUCE_FLOATS : 0;
}

/* >>op gather_rows ------------------------------------------------------------------------------------------------- */

/* y[i] = x[index[i]], and, with index NULL, dx[r] (+)= sum of g at the places of row r, in order; over (rows, C), N
   channels at a time. 8 bytes an element */
struct gather_map {
    view from;
    sink to;
    const int32_t *index, *start, *place;
    int64_t c;
    int add;
    template <int N> __device__ void run(int64_t i, int64_t, int64_t ch) const
    {
        const int64_t r = (i - ch) / c;
        float v[N], u[N];
        if (index) load<N>(from, index[r] * c + ch, v);
        else {
            for (int e = 0; e < N; ++e) v[e] = 0;
            for (int32_t k = start[r]; k < start[r + 1]; ++k) {
                load<N>(from, place[k] * c + ch, u);
                BMVPI_UNROLLED
                for (int e = 0; e < N; ++e) v[e] += u[e];
            }
        }
        store<N>(to, i, v, add);
    }
};
static void gather_rows_forward(bmvp_ctx *c, bmvp_tensor *y)
{
    const int32_t *index = (const int32_t *)(const void *)y->saved;
    columns_map(c, gather_map{ values(y->src[0]), result(y), index, NULL, NULL, y->dim[1], 0 },
                columns_of(1, y->dim[0], y->dim[1]));
}
static void gather_rows_backward(bmvp_ctx *c, bmvp_tensor *y)
{
    const int64_t rows = y->src[0]->numel / y->dim[1];
    const int32_t *start = (const int32_t *)(const void *)y->saved + y->dim[0];
    int add;
    sink gx = grad(c, y->src[0], &add);
    if (gx)
        columns_map(c, gather_map{ gradient(y), gx, NULL, start, start + rows + 1, y->dim[1], add },
                    columns_of(1, rows, y->dim[1]));
}
BMVPI_NO_WORKSPACE(gather_rows)

/* >>op where_rows -------------------------------------------------------------------------------------------------- */

/* to (+)= mask ? row : x, or, without a row, mask ? 0 : g; 8 bytes an element */
struct where_map {
    view x, row;
    sink to;
    const int32_t *mask;
    int64_t c;
    int add;
    template <int N> __device__ void run(int64_t i, int64_t, int64_t ch) const
    {
        const int masked = mask[(i - ch) / c];
        float v[N];
        for (int e = 0; e < N; ++e) v[e] = 0;
        if (!masked) load<N>(x, i, v);
        else if (row) load<N>(row, ch, v);
        store<N>(to, i, v, add);
    }
};
/* drow (+)= sum of g over the rows of the mask */
struct where_columns {
    view g;
    const int32_t *mask;
    sink drow;
    int64_t c;
    int add;
    template <int N> __device__ void value(int64_t i, int64_t, int64_t ch, pair *p) const
    {
        float v[N];
        if (!mask[(i - ch) / c]) return;
        load<N>(g, i, v);
        BMVPI_UNROLLED
        for (int e = 0; e < N; ++e) p[e].a += (double)v[e];
    }
    __device__ void finish(int64_t, int64_t ch, pair p) const { put(drow, ch, (float)p.a, add); }
};
static columns where_shape(const bmvp_tensor *y) { return columns_of(1, y->numel / last_dim(y), last_dim(y)); }
static const int32_t *where_mask(const bmvp_tensor *y) { return (const int32_t *)(const void *)y->saved; }
static void where_rows_forward(bmvp_ctx *c, bmvp_tensor *y)
{
    columns_map(c, where_map{ values(y->src[0]), values(y->src[1]), result(y), where_mask(y), last_dim(y), 0 },
                where_shape(y));
}
static void where_rows_backward(bmvp_ctx *c, bmvp_tensor *y)
{
    int add_x, add_row;
    sink gx = grad(c, y->src[0], &add_x), grow = grad(c, y->src[1], &add_row);
    if (gx)
        columns_map(c, where_map{ gradient(y), values(NULL), gx, where_mask(y), last_dim(y), add_x }, where_shape(y));
    if (grow)
        columns_sum(c, where_columns{ gradient(y), where_mask(y), grow, last_dim(y), add_row }, where_shape(y),
                    bmvp_kernel_workspace(c));
}
static int64_t where_rows_workspace(const bmvp_ctx *, const bmvp_tensor *y, int backward)
{
    return backward ? columns_workspace(where_shape(y)) : 0;
}

/* >>op sum: and what mean has in common with it -------------------------------------------------------------------- */

/* y = factor times the sum of x; 4 bytes an element */
struct sum_reduce : join_sum {
    view x;
    sink y;
    double over;
    template <int N> __device__ pair value(int64_t i) const
    {
        float v[N];
        double sum = 0;
        load<N>(x, i, v);
        BMVPI_UNROLLED
        for (int e = 0; e < N; ++e) sum += (double)v[e];
        return pair{ sum, 0 };
    }
    __device__ void finish(pair p) const { put(y, 0, (float)(p.a / over), 0); }
};
/* dx (+)= g[0] / over, everywhere */
struct spread_map {
    view g;
    sink dx;
    double over;
    int add;
    template <int N> __device__ void run(int64_t i) const
    {
        float v[N];
        for (int e = 0; e < N; ++e) v[e] = (float)((double)g[0] / over);
        store<N>(dx, i, v, add);
    }
};
static void sum_over(bmvp_ctx *c, bmvp_tensor *y, double over)
{
    sum_reduce f;
    f.x = values(y->src[0]), f.y = result(y), f.over = over;
    reduce(c, f, y->src[0]->numel, bmvp_kernel_workspace(c));
}
static void spread_over(bmvp_ctx *c, bmvp_tensor *y, double over)
{
    int add;
    sink gx = grad(c, y->src[0], &add);
    if (gx) map(c, spread_map{ gradient(y), gx, over, add }, y->src[0]->numel);
}
static void sum_forward(bmvp_ctx *c, bmvp_tensor *y) { sum_over(c, y, 1.0); }
static void sum_backward(bmvp_ctx *c, bmvp_tensor *y) { spread_over(c, y, 1.0); }
static int64_t sum_workspace(const bmvp_ctx *, const bmvp_tensor *, int backward) { return reduce_workspace(backward); }

/* >>op mean -------------------------------------------------------------------------------------------------------- */

static void mean_forward(bmvp_ctx *c, bmvp_tensor *y) { sum_over(c, y, (double)y->src[0]->numel); }
static void mean_backward(bmvp_ctx *c, bmvp_tensor *y) { spread_over(c, y, (double)y->src[0]->numel); }
static int64_t mean_workspace(const bmvp_ctx *, const bmvp_tensor *, int backward)
{
    return reduce_workspace(backward);
}

/* >>op global_pool ------------------------------------------------------------------------------------------------- */

/* y[sample, c] = mean over rows; dx (+)= g[sample, c] / rows */
struct pool_columns {
    view x;
    sink y;
    columns k;
    template <int N> __device__ void value(int64_t i, int64_t, int64_t, pair *p) const
    {
        float v[N];
        load<N>(x, i, v);
        BMVPI_UNROLLED
        for (int e = 0; e < N; ++e) p[e].a += (double)v[e];
    }
    __device__ void finish(int64_t sample, int64_t ch, pair p) const
    {
        put(y, sample * k.c + ch, (float)(p.a / (double)k.rows), 0);
    }
};
struct pool_back_map {
    view g;
    sink dx;
    columns k;
    int add;
    template <int N> __device__ void run(int64_t i, int64_t sample, int64_t ch) const
    {
        float v[N];
        for (int e = 0; e < N; ++e) v[e] = g[sample * k.c + ch + e] / (float)k.rows;
        store<N>(dx, i, v, add);
    }
};
static columns pool_shape(const bmvp_tensor *y)
{
    return columns_of(y->dim[0], y->src[0]->numel / y->numel, y->dim[1]);
}
static void global_pool_forward(bmvp_ctx *c, bmvp_tensor *y)
{
    const columns k = pool_shape(y);
    columns_sum(c, pool_columns{ values(y->src[0]), result(y), k }, k, bmvp_kernel_workspace(c));
}
static void global_pool_backward(bmvp_ctx *c, bmvp_tensor *y)
{
    const columns k = pool_shape(y);
    int add;
    sink gx = grad(c, y->src[0], &add);
    if (gx) columns_map(c, pool_back_map{ gradient(y), gx, k, add }, k);
}
static int64_t global_pool_workspace(const bmvp_ctx *, const bmvp_tensor *y, int backward)
{
    return backward ? 0 : columns_workspace(pool_shape(y));
}

/* >>op mse --------------------------------------------------------------------------------------------------------- */

/* y = mean of (a - b)^2; da (+)= 2 g (a - b) / n */
struct mse_reduce : join_sum {
    view a, b;
    sink y;
    double n;
    template <int N> __device__ pair value(int64_t i) const
    {
        float u[N], v[N];
        double sum = 0;
        load<N>(a, i, u);
        load<N>(b, i, v);
        BMVPI_UNROLLED
        for (int e = 0; e < N; ++e) sum += (double)(u[e] - v[e]) * (double)(u[e] - v[e]);
        return pair{ sum, 0 };
    }
    __device__ void finish(pair p) const { put(y, 0, (float)(p.a / n), 0); }
};
struct mse_back_map {
    view a, b, g;
    sink da;
    double n;
    int add;
    template <int N> __device__ void run(int64_t i) const
    {
        float u[N], v[N];
        load<N>(a, i, u);
        load<N>(b, i, v);
        BMVPI_UNROLLED
        for (int e = 0; e < N; ++e) u[e] = (float)(2.0 * (double)g[0] / n) * (u[e] - v[e]);
        store<N>(da, i, u, add);
    }
};
static void mse_forward(bmvp_ctx *c, bmvp_tensor *y)
{
    mse_reduce f;
    f.a = values(y->src[0]), f.b = values(y->src[1]), f.y = result(y), f.n = (double)y->src[0]->numel;
    reduce(c, f, y->src[0]->numel, bmvp_kernel_workspace(c));
}
static void mse_backward(bmvp_ctx *c, bmvp_tensor *y)
{
    const int64_t n = y->src[0]->numel;
    for (int i = 0, add; i < 2; ++i) {
        sink g = grad(c, y->src[i], &add);
        if (g) map(c, mse_back_map{ values(y->src[i]), values(y->src[1 - i]), gradient(y), g, (double)n, add }, n);
    }
}
static int64_t mse_workspace(const bmvp_ctx *, const bmvp_tensor *, int backward) { return reduce_workspace(backward); }

/* >>op l1 ---------------------------------------------------------------------------------------------------------- */

/* y = mean of |a - b|; da (+)= g sign(a - b) / n */
struct l1_reduce : join_sum {
    view a, b;
    sink y;
    double n;
    template <int N> __device__ pair value(int64_t i) const
    {
        float u[N], v[N];
        double sum = 0;
        load<N>(a, i, u);
        load<N>(b, i, v);
        BMVPI_UNROLLED
        for (int e = 0; e < N; ++e) sum += (double)fabsf(u[e] - v[e]);
        return pair{ sum, 0 };
    }
    __device__ void finish(pair p) const { put(y, 0, (float)(p.a / n), 0); }
};
struct l1_back_map {
    view a, b, g;
    sink da;
    double n;
    int add;
    template <int N> __device__ void run(int64_t i) const
    {
        float u[N], v[N];
        load<N>(a, i, u);
        load<N>(b, i, v);
        BMVPI_UNROLLED
        for (int e = 0; e < N; ++e) u[e] = (float)((double)g[0] / n) * (float)((u[e] > v[e]) - (u[e] < v[e]));
        store<N>(da, i, u, add);
    }
};
static void l1_forward(bmvp_ctx *c, bmvp_tensor *y)
{
    l1_reduce f;
    f.a = values(y->src[0]), f.b = values(y->src[1]), f.y = result(y), f.n = (double)y->src[0]->numel;
    reduce(c, f, y->src[0]->numel, bmvp_kernel_workspace(c));
}
static void l1_backward(bmvp_ctx *c, bmvp_tensor *y)
{
    const int64_t n = y->src[0]->numel;
    for (int i = 0, add; i < 2; ++i) {
        sink g = grad(c, y->src[i], &add);
        if (g) map(c, l1_back_map{ values(y->src[i]), values(y->src[1 - i]), gradient(y), g, (double)n, add }, n);
    }
}
static int64_t l1_workspace(const bmvp_ctx *, const bmvp_tensor *, int backward) { return reduce_workspace(backward); }

/* >>op bce_logits -------------------------------------------------------------------------------------------------- */

/* y = mean of max(x, 0) - x t + log(1 + exp(-|x|)); dx (+)= g / n ((1 - t) sigmoid(x) - t sigmoid(-x)) */
struct bce_reduce : join_sum {
    view x, t;
    sink y;
    double n;
    template <int N> __device__ pair value(int64_t i) const
    {
        float u[N], v[N];
        double sum = 0;
        load<N>(x, i, u);
        load<N>(t, i, v);
        for (int e = 0; e < N; ++e)
            sum += (double)((u[e] < 0.0f ? 0.0f : u[e]) - u[e] * v[e] + log1pf(expf(-fabsf(u[e]))));
        return pair{ sum, 0 };
    }
    __device__ void finish(pair p) const { put(y, 0, (float)(p.a / n), 0); }
};
struct bce_back_map {
    view x, t, g;
    sink dx;
    double n;
    int add;
    template <int N> __device__ void run(int64_t i) const
    {
        float u[N], v[N];
        load<N>(x, i, u);
        load<N>(t, i, v);
        BMVPI_UNROLLED
        for (int e = 0; e < N; ++e) {
            const float far = expf(-fabsf(u[e])), large = 1.0f / (1.0f + far), small = far * large;
            const float d = u[e] < 0.0f ? (1.0f - v[e]) * small - v[e] * large : (1.0f - v[e]) * large - v[e] * small;
            u[e] = (float)((double)g[0] / n) * d;
        }
        store<N>(dx, i, u, add);
    }
};
static void bce_logits_forward(bmvp_ctx *c, bmvp_tensor *y)
{
    bce_reduce f;
    f.x = values(y->src[0]), f.t = values(y->src[1]), f.y = result(y), f.n = (double)y->src[0]->numel;
    reduce(c, f, y->src[0]->numel, bmvp_kernel_workspace(c));
}
static void bce_logits_backward(bmvp_ctx *c, bmvp_tensor *y)
{
    const int64_t n = y->src[0]->numel;
    int add;
    sink gx = grad(c, y->src[0], &add);
    if (gx) map(c, bce_back_map{ values(y->src[0]), values(y->src[1]), gradient(y), gx, (double)n, add }, n);
}
static int64_t bce_logits_workspace(const bmvp_ctx *, const bmvp_tensor *, int backward)
{
    return reduce_workspace(backward);
}

/* >>op soft_dice --------------------------------------------------------------------------------------------------- */

/* Each (sample, class): saved = sum p t and the denominator's sum p^k + sum t^k */
struct dice_columns {
    view p, t;
    float *saved;
    columns k;
    int squared;
    template <int N> __device__ void value(int64_t i, int64_t, int64_t, pair *sum) const
    {
        float u[N], v[N];
        load<N>(p, i, u);
        load<N>(t, i, v);
        BMVPI_UNROLLED
        for (int e = 0; e < N; ++e) {
            const double a = (double)u[e], b = (double)v[e];
            sum[e].a += a * b;
            sum[e].b += squared ? a * a + b * b : a + b;
        }
    }
    __device__ void finish(int64_t sample, int64_t ch, pair s) const
    {
        saved[sample * k.c + ch] = (float)s.a;
        saved[(k.samples + sample) * k.c + ch] = (float)s.b;
    }
};
/* y = mean of 1 - (2 dot + e) / (den + e) over them */
struct dice_reduce : join_sum {
    const float *saved;
    sink y;
    int64_t n;
    double e;
    template <int N> __device__ pair value(int64_t i) const
    {
        double sum = 0;
        for (int j = 0; j < N; ++j) sum += 1.0 - (2.0 * (double)saved[i + j] + e) / ((double)saved[n + i + j] + e);
        return pair{ sum, 0 };
    }
    __device__ void finish(pair p) const { put(y, 0, (float)(p.a / (double)n), 0); }
};
/* dp (+)= g / n ((2 dot + e) k p^(k-1) / (den + e)^2 - 2 t / (den + e)) */
struct dice_back_map {
    view p, t;
    const float *saved;
    view g;
    sink dp;
    columns k;
    double e;
    int squared, add;
    template <int N> __device__ void run(int64_t i, int64_t sample, int64_t ch) const
    {
        const int64_t n = k.samples * k.c, at = sample * k.c + ch;
        const double share = (double)g[0] / (double)n;
        float v[N];
        for (int j = 0; j < N; ++j) {
            const double den = (double)saved[n + at + j] + e,
                         rise = share * (2.0 * (double)saved[at + j] + e) / (den * den);
            v[j] = (float)(rise * (squared ? 2.0 * (double)p[i + j] : 1.0) - 2.0 * share / den * (double)t[i + j]);
        }
        store<N>(dp, i, v, add);
    }
};
static columns dice_shape(const bmvp_tensor *y)
{
    const bmvp_tensor *p = y->src[0];
    return columns_of(p->dim[0], p->numel / p->dim[0] / last_dim(p), last_dim(p));
}
static void soft_dice_forward(bmvp_ctx *c, bmvp_tensor *y)
{
    const columns k = dice_shape(y);
    dice_reduce f;
    columns_sum(c, dice_columns{ values(y->src[0]), values(y->src[1]), y->saved, k, y->args.soft_dice.squared }, k,
                bmvp_kernel_workspace(c));
    f.saved = y->saved, f.y = result(y), f.n = k.samples * k.c, f.e = y->args.soft_dice.smooth;
    reduce(c, f, f.n, bmvp_kernel_workspace(c));
}
static void soft_dice_backward(bmvp_ctx *c, bmvp_tensor *y)
{
    const columns k = dice_shape(y);
    int add;
    sink gx = grad(c, y->src[0], &add);
    if (gx)
        columns_map(c,
                    dice_back_map{ values(y->src[0]), values(y->src[1]), y->saved, gradient(y), gx, k,
                                   y->args.soft_dice.smooth, y->args.soft_dice.squared, add },
                    k);
}
static int64_t soft_dice_workspace(const bmvp_ctx *, const bmvp_tensor *y, int backward)
{
    return backward ? 0 : larger(columns_workspace(dice_shape(y)), REDUCE_FLOATS);
}

/* >>op cross_entropy ----------------------------------------------------------------------------------------------- */

/* Row r of (rows, classes): its loss log(sum exp(x)) - x[target] is taken as the CPU takes it, so that nothing cancels.
   Map over rows, each read twice. saved: targets (int32), largest x, log(sum exp(x - largest)), weights of the
   classes. */
struct cross_entropy_reduce : join_sum {
    view x;
    sink y;
    float *saved;
    int64_t rows, classes;
    double total;
    template <int N> __device__ pair value(int64_t i) const
    {
        double sum = 0;
        for (int e = 0; e < N; ++e) sum += row(i + e);
        return pair{ sum, 0 };
    }
    __device__ double row(int64_t r) const
    {
        const view in = x + r * classes;
        const int64_t target = ((const int32_t *)(const void *)saved)[r];
        float top = in[0];
        double others = 0;
        for (int64_t i = 1; i < classes; ++i) if (!(in[i] <= top)) top = in[i];
        for (int64_t i = 0; i < classes; ++i) if (i != target) others += (double)expf(in[i] - top);
        const double far = (double)top - (double)in[target];
        const double rest = far <= 0 ? log1p(others) : log(others + exp(-far));
        saved[rows + r] = top;
        saved[2 * rows + r] = (float)rest;
        return (double)saved[3 * rows + target] * (far <= 0 ? rest : far + rest);
    }
    __device__ void finish(pair p) const { put(y, 0, (float)(p.a / total), 0); }
};
/* dx (+)= g w[target] / total exp(x - largest - log), expm1 at the target */
struct cross_entropy_back_map {
    view x;
    const float *saved;
    view g;
    sink dx;
    int64_t rows, classes;
    double total;
    int add;
    template <int N> __device__ void run(int64_t i, int64_t, int64_t ch) const
    {
        const int64_t r = (i - ch) / classes, target = ((const int32_t *)(const void *)saved)[r];
        const float s = (float)((double)g[0] / total) * saved[3 * rows + target];
        const float top = saved[rows + r], rest = saved[2 * rows + r];
        float v[N];
        for (int e = 0; e < N; ++e) {
            const float log_p = x[i + e] - top - rest;
            v[e] = s * (ch + e == target ? expm1f(log_p) : expf(log_p));
        }
        store<N>(dx, i, v, add);
    }
};
static void cross_entropy_forward(bmvp_ctx *c, bmvp_tensor *y)
{
    const bmvp_tensor *x = y->src[0];
    cross_entropy_reduce f;
    f.x = values(x), f.y = result(y), f.saved = y->saved, f.rows = x->dim[0], f.classes = x->dim[1],
    f.total = y->args.cross_entropy.total;
    reduce(c, f, f.rows, bmvp_kernel_workspace(c));
}
static void cross_entropy_backward(bmvp_ctx *c, bmvp_tensor *y)
{
    const bmvp_tensor *x = y->src[0];
    int add;
    sink gx = grad(c, y->src[0], &add);
    if (!gx) return;
    columns_map(c,
                cross_entropy_back_map{ values(x), y->saved, gradient(y), gx, x->dim[0], x->dim[1],
                                        y->args.cross_entropy.total, add },
                columns_of(1, x->dim[0], x->dim[1]));
}
static int64_t cross_entropy_workspace(const bmvp_ctx *, const bmvp_tensor *, int backward)
{
    return reduce_workspace(backward);
}

/* >>kernel parts: storage, asynchronous copies, tensor cores ------------------------------------------------------- */

/* Kernels whose operands go through shared memory are templates over the type S that these have: float, or uint16_t for
   bfloat16. */

/* Numbers i to i + 3 of x, i a multiple of 4, as bfloat16; zeros if not inside */
static __device__ __forceinline__ piece<uint32_t, 2> four_halves(const view &x, int64_t i, int inside)
{
    piece<uint32_t, 2> h = { { 0, 0 } };
    if (inside && x.half) h = ((const piece<uint32_t, 2> *)x.p)[i / 4];
    else if (inside) {
        const piece<float, 4> v = ((const piece<float, 4> *)x.p)[i / 4];
        h.v[0] = round_bf16(v.v[0], v.v[1]);
        h.v[1] = round_bf16(v.v[2], v.v[3]);
    }
    return h;
}

/* How products are made: in float32 by the ordinary units; or on the tensor cores, sums in float32 and operands rounded
   to TF32 (to nearest, ties away) or bfloat16 (to nearest even). */
enum { EXACT, TF32, BF16 };
static int products_of(const bmvp_ctx *c)
{
    const bmvp_precision p = bmvp_precision_of(c);
    return p == BMVP_BF16 ? BF16 : p == BMVP_TF32 ? TF32 : EXACT;
}

#ifndef BMVP_CUDA_SHIM
/* N bytes (4, 8 or 16, aligned) from device to shared memory while the thread goes on; zeros if not inside, but `from`
   must be a device pointer. A copy is there for the thread after commit and wait, for others after a barrier
   besides. */
template <int N> static __device__ __forceinline__ void copy_async(void *to, const void *from, int inside)
{
    const unsigned shared = (unsigned)__cvta_generic_to_shared(to);
    if (N == 16)
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared), "l"(from), "r"(inside ? 16 : 0)
                     : "memory");
    else
        asm volatile("cp.async.ca.shared.global [%0], [%1], %3, %2;" ::"r"(shared), "l"(from), "r"(inside ? N : 0),
                     "n"(N)
                     : "memory");
}
static __device__ __forceinline__ void copy_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
/* Until at most N groups of copies are on their way */
template <int N> static __device__ __forceinline__ void copy_wait()
{
    asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}

static __device__ __forceinline__ uint32_t round_tf32(float x)
{
    uint32_t u;
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(u) : "f"(x));
    return u;
}
/* c += a b: a warp's 16 x 8 x 8 in TF32, 16 x 8 x 16 in bfloat16. With g = lane / 4, t = lane % 4 a lane holds
   a: rows g, g + 8, g, g + 8 at k = t, t, t + 4, t + 4 (bfloat16: the pairs at 2 t and 2 t + 8);
   b: column g at k = t, t + 4 (2 t, 2 t + 8); c: row g, columns 2 t and 2 t + 1, then row g + 8. */
static __device__ __forceinline__ void mma_tf32(float c[4], const uint32_t a[4], const uint32_t b[2])
{
    asm volatile(
        "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
static __device__ __forceinline__ void mma_bf16(float c[4], const uint32_t a[4], const uint32_t b[2])
{
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
/* Four 8 x 8 matrices of 16-bit numbers: lane 8 i + r names row r of matrix i; a lane gets of each the pair at row lane
   / 4, columns 2 (lane % 4), or the same of its transpose. */
static __device__ __forceinline__ void matrix_load(uint32_t r[4], const void *row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"((unsigned)__cvta_generic_to_shared(row))
                 : "memory");
}
static __device__ __forceinline__ void matrix_load_transposed(uint32_t r[4], const void *row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"((unsigned)__cvta_generic_to_shared(row))
                 : "memory");
}
#endif

/* Products of a warp whose left operand lies in registers, 16 rows at a time, and whose right one lies in shared
   memory, [k][n] with rows LD apart (8 more than a multiple of 64, so that loads are free of bank conflicts). */

/* Rows [first, first + ROWS) of a matrix of t rows `step` apart into a tile of COLS + 8 apart, asynchronously, by 128
   threads; zeros beyond */
template <int ROWS, int COLS>
static __device__ void load_rows(uint16_t *to, const uint16_t *x, int64_t first, int64_t t, int64_t step)
{
    enum { APART = 128 / (COLS / 8) };
    const int row = (int)threadIdx.x / (COLS / 8), col = (int)threadIdx.x % (COLS / 8) * 8;
    const uint16_t *from = x + (first + row) * step + col;
    const int left = (int)(t - first < ROWS ? t - first : ROWS) - row;
    to += row * (COLS + 8) + col;
    BMVPI_UNROLLED_BY_4
    for (int e = 0; e < ROWS; e += APART, from += APART * step)
        copy_async<16>(to + e * (COLS + 8), e < left ? from : x, e < left);
}

/* 16 rows of a tile as left operands, K steps of 16 */
template <int K, int LD> static __device__ __forceinline__ void warp_rows(uint32_t a[K][4], const uint16_t *tile)
{
    const int lane = (int)threadIdx.x % 32;
    BMVPI_UNROLLED
    for (int k = 0; k < K; ++k) matrix_load(a[k], tile + lane % 16 * LD + k * 16 + lane / 16 * 8);
}
/* The same of a tile that lies transposed, [k][row] */
template <int K, int LD> static __device__ __forceinline__ void warp_columns(uint32_t a[K][4], const uint16_t *tile)
{
    const int lane = (int)threadIdx.x % 32;
    BMVPI_UNROLLED
    for (int k = 0; k < K; ++k)
        matrix_load_transposed(a[k], tile + (k * 16 + lane % 8 + lane / 16 * 8) * LD + lane / 8 % 2 * 8);
}
/* o += a b: M times 16 rows, K steps of 16, N columns of 8 */
template <int M, int K, int N, int LD>
static __device__ __forceinline__ void warp_product(float o[M][N][4], const uint32_t a[M][K][4], const uint16_t *b)
{
    const int lane = (int)threadIdx.x % 32;
    BMVPI_UNROLLED
    for (int k = 0; k < K; ++k)
        BMVPI_UNROLLED
        for (int j = 0; j < N; j += 2) {
            uint32_t r[4];
            matrix_load_transposed(r, b + (k * 16 + lane % 16) * LD + j * 8 + lane / 16 * 8);
            BMVPI_UNROLLED
            for (int i = 0; i < M; ++i) {
                mma_bf16(o[i][j], a[i][k], r);
                mma_bf16(o[i][j + 1], a[i][k], r + 2);
            }
        }
}
/* o += a b^T, b as [n][k] */
template <int M, int K, int N, int LD>
static __device__ __forceinline__ void warp_product_transposed(float o[M][N][4], const uint32_t a[M][K][4],
                                                               const uint16_t *b)
{
    const int lane = (int)threadIdx.x % 32;
    BMVPI_UNROLLED
    for (int j = 0; j < N; j += 2)
        BMVPI_UNROLLED
        for (int k = 0; k < K; ++k) {
            uint32_t r[4];
            matrix_load(r, b + (j * 8 + lane % 8 + lane / 16 * 8) * LD + k * 16 + lane / 8 % 2 * 8);
            BMVPI_UNROLLED
            for (int i = 0; i < M; ++i) {
                mma_bf16(o[i][j], a[i][k], r);
                mma_bf16(o[i][j + 1], a[i][k], r + 2);
            }
        }
}
/* 16 K columns of a result as the left operand of the next product */
template <int K> static __device__ __forceinline__ void warp_pack(uint32_t a[K][4], const float s[2 * K][4])
{
    BMVPI_UNROLLED
    for (int k = 0; k < 4 * K; ++k)
        a[k / 4][k % 4] = round_bf16(s[k / 4 * 2 + k % 4 / 2][k % 2 * 2], s[k / 4 * 2 + k % 4 / 2][k % 2 * 2 + 1]);
}

/* More than 48 KB of shared memory must be asked for: once, and never less than another launch or backend has asked
   for, since a recorded launch that needs more may still be to come. */
template <class K> static int shared_memory(bmvp_ctx *c, K *kernel, size_t bytes)
{
    shared_most *m = of(c)->shared;
    cudaFuncAttributes now;
    while (m && m->kernel != (const void *)kernel) m = m->next;
    if (m && bytes <= m->bytes) return 1;
    if (!use(c) || !check(c, cudaFuncGetAttributes(&now, kernel), "shared memory of a kernel")) return 0;
    if (now.maxDynamicSharedSizeBytes < (int)bytes &&
        !check(c, cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes),
               "shared memory of a kernel"))
        return 0;
    if (!m) {
        m = (shared_most *)calloc(1, sizeof *m);
        if (!m) return 1; /* it is asked again */
        m->kernel = (const void *)kernel;
        m->next = of(c)->shared;
        of(c)->shared = m;
    }
    m->bytes = bytes;
    return 1;
}

/* y[i] (+)= sum of `parts` arrays of n.
   Who:    thread (x, y) adds parts y, y + 8, ... of element x of the block's; the first of an element adds the 8 sums
           in order.
   Launch: n / 32 blocks of 32 x 8 threads, 2 KB of shared memory.
   Bits:   double sums in fixed order.
   Traffic: 4 bytes a part and element, coalesced. */
static __global__ void join_parts_kernel(const float *part, int parts, int64_t n, sink y, int add)
{
    __shared__ double share[8][32];
    const int64_t i = blockIdx.x * (int64_t)32 + threadIdx.x;
    double s = 0;
    for (int p = (int)threadIdx.y; i < n && p < parts; p += 8) s += (double)part[p * n + i];
    share[threadIdx.y][threadIdx.x] = s;
    __syncthreads();
    for (int k = 1; threadIdx.y == 0 && k < 8; ++k) s += share[k][threadIdx.x];
    if (threadIdx.y == 0 && i < n) put(y, i, (float)s, add);
}
static void join_parts(bmvp_ctx *c, const float *part, int parts, int64_t n, const sink &y, int add)
{
    BMVPI_RUN(c, join_parts_kernel, dim3((unsigned)ceil_div(n, 32)), dim3(32, 8), 0, part, parts, n, y, add);
}

/* >>op matmul ------------------------------------------------------------------------------------------------------ */

/* which 0: y; 1: gradient of a; 2: gradient of b. float32 as on the CPU: cosines over a temperature, kernels multiplied
   by kernels. */
static gemm matmul_of(const bmvp_tensor *y, int which, const view &a, const view &b, const sink &to, int add)
{
    const int ta = y->args.matmul.transpose_a, tb = y->args.matmul.transpose_b;
    const bmvp_tensor *x = y->src[0];
    const int64_t m = y->dim[y->rank - 2], n = y->dim[y->rank - 1], k = x->dim[x->rank - (ta ? 2 : 1)];
    gemm g;
    if (which == 0) g = gemm_of(m, n, k, a, ta, b, tb, to, add);
    else if (which == 1 && !ta) g = gemm_of(m, k, n, gradient(y), 0, b, !tb, to, add);
    else if (which == 1) g = gemm_of(k, m, n, b, tb, gradient(y), 1, to, add);
    else if (!tb) g = gemm_of(k, n, m, a, !ta, gradient(y), 0, to, add);
    else g = gemm_of(n, k, m, gradient(y), 1, a, ta, to, add);
    g.exact = 1;
    g.batch = y->numel / (m * n);
    g.sa = g.m * g.k;
    g.sb = g.k * g.n;
    g.sc = g.m * g.n;
    return g;
}
static void matmul_forward(bmvp_ctx *c, bmvp_tensor *y)
{
    float *room = bmvp_kernel_workspace(c);
    view v[2];
    for (int i = 0; i < 2; ++i) v[i] = convert(c, values(y->src[i]), y->src[i]->numel, 0, &room);
    gemm_run(c, matmul_of(y, 0, v[0], v[1], result(y), 0));
}
static void matmul_backward(bmvp_ctx *c, bmvp_tensor *y)
{
    float *room = bmvp_kernel_workspace(c);
    int add[2];
    view v[2];
    sink g[2];
    for (int i = 0; i < 2; ++i) {
        v[i] = convert(c, values(y->src[i]), y->src[i]->numel, 0, &room);
        g[i] = grad(c, y->src[i], &add[i]);
    }
    for (int i = 0; i < 2; ++i) {
        if (g[i] && !g[i].half) gemm_run(c, matmul_of(y, i + 1, v[0], v[1], g[i], add[i]));
        if (!g[i].half) continue;
        gemm_run(c, matmul_of(y, i + 1, v[0], v[1], floats(room), 0));
        copy(c, floats(room), g[i], y->src[i]->numel, add[i]);
    }
}
static int64_t matmul_workspace(const bmvp_ctx *, const bmvp_tensor *y, int backward)
{
    int64_t n = 0, largest = 0;
    for (int i = 0; i < 2; ++i) {
        const int64_t own = y->src[i]->half ? floats_for(y->src[i]->numel, 0) : 0;
        n += own;
        largest = larger(largest, own);
    }
    return n + (backward ? largest : 0);
}

/* >>op linear ------------------------------------------------------------------------------------------------------ */

static void linear_forward(bmvp_ctx *c, bmvp_tensor *y)
{
    const int64_t in = y->src[1]->dim[0], out = y->src[1]->dim[1], rows = y->numel / out;
    float *room = bmvp_kernel_workspace(c);
    const view x = operand_of(c, y, y->src[0], &room), w = operand_of(c, y, y->src[1], &room),
               b = operand_bias(c, y, y->src[2], &room);
    gemm_bias(c, rows, out, in, x, w, b, result(y), y->n_src > 3 ? values(y->src[3]) : view{ NULL, 0 });
}
static void linear_backward(bmvp_ctx *c, bmvp_tensor *y)
{
    const int64_t in = y->src[1]->dim[0], out = y->src[1]->dim[1], rows = y->numel / out;
    float *room = bmvp_kernel_workspace(c);
    const view x = operand_of(c, y, y->src[0], &room), w = operand_of(c, y, y->src[1], &room),
               gy = operand_gradient(c, y, &room);
    int add[3];
    sink g[3];
    if (y->n_src > 3) bmvp_kernel_grad_pass(c, y, y->src[3]);
    for (int i = 0; i < 3; ++i) g[i] = grad(c, y->src[i], &add[i]);
    if (g[0]) gemm_run(c, gemm_of(rows, in, out, gy, 0, w, 1, g[0], add[0]));
    if (g[1]) gemm_run(c, gemm_of(in, out, rows, x, 1, gy, 0, g[1], add[1]));
    if (g[2]) bias_grad(c, gradient(y), rows, out, g[2], add[2], room);
}
static int64_t linear_workspace(const bmvp_ctx *, const bmvp_tensor *y, int backward)
{
    const int64_t room = operand_room(y, y->src[0]) + operand_room(y, y->src[1]);
    if (!backward) return room + operand_room(y, y->src[2]);
    return room + operand_room(y, y) + (y->src[2] ? bias_workspace(y->numel / last_dim(y), last_dim(y)) : 0);
}

/* >>op mlp: with its kernels --------------------------------------------------------------------------------------- */

/* The hidden layer exists for a tile of tokens at a time: at most 16 M numbers. Tiles are of fours, so that rows of any
   length start where four numbers can be read at once. */
struct mlp_shape { int64_t m, i, h, o, tile; };
static mlp_shape mlp_of(const bmvp_tensor *y)
{
    mlp_shape s;
    s.i = y->src[1]->dim[0];
    s.h = y->src[1]->dim[1];
    s.o = y->src[3]->dim[1];
    s.m = y->numel / s.o;
    s.tile = smaller(s.m, larger(256, (1 << 24) / s.h / 4 * 4));
    return s;
}
static view mlp_residual(const bmvp_tensor *y) { return y->n_src > 5 ? values(y->src[5]) : view{ NULL, 0 }; }
/* a = GELU(a + b) in place; 8 bytes an element */
struct mlp_gelu_map {
    sink a;
    view b;
    template <int N> __device__ void run(int64_t i, int64_t, int64_t ch) const
    {
        float v[N];
        load<N>(a, i, v);
        BMVPI_UNROLLED
        for (int e = 0; e < N; ++e) v[e] = gelu_of(v[e] + (b ? b[ch + e] : 0.0f));
        store<N>(a, i, v, 0);
    }
};
/* d = d GELU'(a + b), then a = GELU(a + b), in place; 16 bytes an element */
struct mlp_gelu_back_map {
    sink a, d;
    view b;
    template <int N> __device__ void run(int64_t i, int64_t, int64_t ch) const
    {
        float u[N], v[N];
        load<N>(a, i, u);
        load<N>(d, i, v);
        BMVPI_UNROLLED
        for (int e = 0; e < N; ++e) {
            u[e] += b ? b[ch + e] : 0.0f;
            v[e] *= gelu_slope(u[e]);
            u[e] = gelu_of(u[e]);
        }
        store<N>(d, i, v, 0);
        store<N>(a, i, u, 0);
    }
};
struct mlp_fused {
    view x, b2, residual;
    const float *b1; /* biases and the residual may be none */
    const uint16_t *w1, *w2; /* rounded */
    sink y;
    int64_t m;
    int h;
};
/* GELU and its derivative Phi(x) + x phi(x), with erf as 1 - polynomial(1 / (1 + p x)) exp(-x^2), whose error of 2.5e-5
   is far below bfloat16's rounding (Abramowitz, Stegun: Handbook of Mathematical Functions, 7.1.25). Both take one
   exponential. */
static __device__ __forceinline__ float gelu_near(float x, float *slope)
{
    const float z = fabsf(x) * 0.70710678f, t = __fdividef(1.0f, 1.0f + 0.47047f * z),
                bell = exp2f(-1.44269504f * z * z);
    const float e = 1.0f - t * (0.3480242f + t * (-0.0958798f + t * 0.7478556f)) * bell;
    *slope = 0.5f + copysignf(0.5f * e, x) + 0.39894228f * x * bell;
    return 0.5f * (x + fabsf(x) * e);
}

/* 64 columns of w1 and of b1, which may be none, and 64 rows of w2 from h0 on, asynchronously, by 128 threads: w1
   [C][64] with rows LD1 apart, w2 [64][C] with rows LD apart, b1 as floats. */
template <int C> struct mlp_chunk {
    enum { LD = C + 8, LD1 = 64 + 8, W2 = C * LD1, B1 = W2 + 64 * LD, SIZE = B1 + 2 * 64 };
    static __device__ __forceinline__ void load(uint16_t *to, const uint16_t *w1, const float *b1, const uint16_t *w2,
                                                int h, int h0)
    {
        load_rows<C, 64>(to, w1 + h0, 0, C, h);
        load_rows<64, C>(to + W2, w2, h0, h, C);
        if (threadIdx.x < 64)
            copy_async<4>((float *)(void *)(to + B1) + threadIdx.x, b1 ? b1 + h0 + threadIdx.x : (const float *)w1,
                          b1 != NULL);
        copy_commit();
    }
    static __device__ __forceinline__ const float *bias(const uint16_t *chunk)
    {
        return (const float *)(const void *)(chunk + B1);
    }
};

/* y = residual + GELU(x w1 + b1) w2 + b2 in bfloat16 with sums in float32; the hidden layer exists 64 columns at a
   time, in registers.
   Who:    a block of 4 warps makes 4 x 16 M rows; a warp's rows of x lie in registers. The next 64 columns of w1, b1
           and rows of w2 are on their way into shared memory while the last ones are used.
   Launch: ceil(m / (64 M)) blocks of 128 threads; C = 64 with M = 2, 128 with M = 1; 56 and 89 KB of shared memory. H a
           multiple of 64.
   Bits:   each row by one warp, hidden columns in order.
   Traffic: x, residual and y once, weights from L2 for every block; 4 m C H operations. */
template <int C, int M> __global__ void __launch_bounds__(128, 2) mlp_kernel(mlp_fused f)
{
    typedef mlp_chunk<C> chunk;
    enum { LD = chunk::LD, ROWS = 64 * M };
    BMVPI_DYNAMIC(uint16_t, xs);
    uint16_t *stage = xs + ROWS * LD;
    const int t = (int)threadIdx.x, lane = t % 32, warp = t / 32;
    const int64_t first = blockIdx.x * (int64_t)ROWS;
    uint32_t a[M][C / 16][4], p[M][4][4];
    float s[M][8][4], o[M][C / 8][4], slope;
    chunk::load(stage, f.w1, f.b1, f.w2, f.h, 0);
    for (int i = t; i < ROWS * C / 4; i += 128)
        *(piece<uint32_t, 2> *)(void *)(xs + i / (C / 4) * LD + i % (C / 4) * 4) =
            four_halves(f.x, first * C + i * 4, first + i / (C / 4) < f.m);
    __syncthreads();
    BMVPI_UNROLLED
    for (int i = 0; i < M; ++i) warp_rows<C / 16, LD>(a[i], xs + (warp * 16 * M + i * 16) * LD);
    BMVPI_UNROLLED
    for (int i = 0; i < M * C / 2; ++i) o[i / (C / 2)][i / 4 % (C / 8)][i % 4] = 0;
    BMVPI_ROLLED
    for (int h0 = 0; h0 < f.h; h0 += 64) {
        const uint16_t *now = stage + h0 / 64 % 2 * chunk::SIZE;
        copy_wait<0>();
        __syncthreads(); /* these columns are there, and nobody reads the last ones any more */
        if (h0 + 64 < f.h) chunk::load(stage + (h0 / 64 + 1) % 2 * chunk::SIZE, f.w1, f.b1, f.w2, f.h, h0 + 64);
        BMVPI_UNROLLED
        for (int i = 0; i < M * 32; ++i)
            s[i / 32][i / 4 % 8][i % 4] = chunk::bias(now)[i / 4 % 8 * 8 + lane % 4 * 2 + i % 2];
        warp_product<M, C / 16, 8, chunk::LD1>(s, a, now);
        BMVPI_UNROLLED
        for (int i = 0; i < M * 32; ++i) s[i / 32][i / 4 % 8][i % 4] = gelu_near(s[i / 32][i / 4 % 8][i % 4], &slope);
        BMVPI_UNROLLED
        for (int i = 0; i < M; ++i) warp_pack<4>(p[i], s[i]);
        warp_product<M, 4, C / 8, LD>(o, p, now + chunk::W2);
    }
    BMVPI_UNROLLED
    for (int i = 0; i < M * C / 2; i += 2) {
        const int64_t row = first + warp * 16 * M + i / (C / 2) * 16 + i % 4 / 2 * 8 + lane / 4;
        const int col = i / 4 % (C / 8) * 8 + lane % 4 * 2;
        const float *v = &o[i / (C / 2)][i / 4 % (C / 8)][i % 4];
        float u[2] = { 0, 0 };
        if (f.residual && row < f.m) bmvpi_cuda::load<2>(f.residual, row * C + col, u);
        for (int e = 0; e < 2; ++e) u[e] += v[e] + (f.b2 ? f.b2[col + e] : 0.0f);
        if (row < f.m) put_pair(f.y, row * C + col, u[0], u[1], 0);
    }
}

/* Backward, in the shape of attention's: a hidden unit is a key, its column of w1 the k and its row of w2 the v. The
   hidden layer is made twice, which saves the atomics. */
struct mlp_back {
    const uint16_t *x, *gy, *w1, *w2; /* bfloat16 */
    const float *b1;                  /* may be none */
    sink dx;
    float *part[3]; /* of the gradients of w1, b1, w2 */
    int64_t m, rows; /* rows of a part: a multiple of 64 */
    int h, parts, add;
};

/* dx (+)= (gy w2^T * GELU'(x w1 + b1)) w1^T.
   Who:    a block of 4 warps has 64 rows, 16 a warp, whose x and gy lie in registers, and goes over the hidden units 64
           at a time while the next ones are on their way into shared memory.
   Launch: ceil(m / 64) blocks of 128 threads; C = 64 or 128; 37 and 71 KB of shared memory: x and gy come where the
           second 64 units will be. H a multiple of 64.
   Bits:   each row by one warp, hidden units in order.
   Traffic: x, gy and dx once, weights from L2 for every block; 6 m C H operations. */
template <int C> __global__ void __launch_bounds__(128, C == 64 ? 3 : 2) mlp_dx_kernel(mlp_back f)
{
    typedef mlp_chunk<C> chunk;
    enum { UNITS = C == 64 ? 64 : 32 }; /* at a time: what the registers hold */
    BMVPI_DYNAMIC(uint16_t, stage);
    const int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32;
    const int64_t first = blockIdx.x * (int64_t)64;
    uint16_t *xs = stage + chunk::SIZE, *gs = xs + 64 * chunk::LD;
    uint32_t x[1][C / 16][4], gy[1][C / 16][4], p[1][UNITS / 16][4];
    float s[1][UNITS / 8][4], d[1][UNITS / 8][4], dx[1][C / 8][4];
    BMVPI_UNROLLED
    for (int i = 0; i < C / 2; ++i) dx[0][i / 4][i % 4] = 0;
    load_rows<64, C>(xs, f.x, first, f.m, C);
    load_rows<64, C>(gs, f.gy, first, f.m, C);
    chunk::load(stage, f.w1, f.b1, f.w2, f.h, 0);
    copy_wait<0>();
    __syncthreads();
    warp_rows<C / 16, chunk::LD>(x[0], xs + warp * 16 * chunk::LD);
    warp_rows<C / 16, chunk::LD>(gy[0], gs + warp * 16 * chunk::LD);
    BMVPI_ROLLED
    for (int h0 = 0; h0 < f.h; h0 += 64) {
        const uint16_t *now = stage + h0 / 64 % 2 * chunk::SIZE;
        copy_wait<0>();
        __syncthreads(); /* these units are there, and nobody reads the last ones, or x and gy, any more */
        if (h0 + 64 < f.h) chunk::load(stage + (h0 / 64 + 1) % 2 * chunk::SIZE, f.w1, f.b1, f.w2, f.h, h0 + 64);
        BMVPI_ROLLED
        for (int u = 0; u < 64; u += UNITS) {
            const uint16_t *w1 = now + u, *w2 = now + chunk::W2 + u * chunk::LD;
            BMVPI_UNROLLED
            for (int i = 0; i < UNITS / 2; ++i) {
                s[0][i / 4][i % 4] = chunk::bias(now)[u + i / 4 * 8 + lane % 4 * 2 + i % 2];
                d[0][i / 4][i % 4] = 0;
            }
            warp_product<1, C / 16, UNITS / 8, chunk::LD1>(s, x, w1);
            warp_product_transposed<1, C / 16, UNITS / 8, chunk::LD>(d, gy, w2);
            BMVPI_UNROLLED
            for (int i = 0; i < UNITS / 2; ++i) {
                float slope;
                (void)gelu_near(s[0][i / 4][i % 4], &slope);
                d[0][i / 4][i % 4] *= slope;
            }
            warp_pack<UNITS / 16>(p[0], d[0]);
            warp_product_transposed<1, UNITS / 16, C / 8, chunk::LD1>(dx, p, w1);
        }
    }
    BMVPI_UNROLLED
    for (int i = 0; i < C / 2; i += 2) {
        const int64_t row = first + warp * 16 + i % 4 / 2 * 8 + lane / 4;
        if (row < f.m)
            put_pair(f.dx, row * C + i / 4 * 8 + lane % 4 * 2, dx[0][i / 4][i % 4], dx[0][i / 4][i % 4 + 1], f.add);
    }
}

/* A warp's 16 units from h0 on into the part */
template <int C>
static __device__ __forceinline__ void mlp_dw_store(const mlp_back &f, int part, int h0, int lane,
                                                    const float dw1[1][C / 8][4], const float dw2[1][C / 8][4],
                                                    float db[2])
{
    BMVPI_UNROLLED
    for (int i = 0; i < 2; ++i) {
        const int64_t unit = h0 + i * 8 + lane / 4;
        for (int other = 2; other > 0; other /= 2) db[i] += __shfl_xor_sync(0xffffffffu, db[i], other);
        if (lane % 4 == 0) f.part[1][part * (int64_t)f.h + unit] = db[i];
        BMVPI_UNROLLED
        for (int j = 0; j < C / 4; ++j) { /* two neighbours of each 8 channels */
            const int64_t ch = j / 2 * 8 + lane % 4 * 2 + j % 2;
            f.part[0][(part * (int64_t)C + ch) * f.h + unit] = dw1[0][j / 2][i * 2 + j % 2];
            f.part[2][(part * (int64_t)f.h + unit) * C + ch] = dw2[0][j / 2][i * 2 + j % 2];
        }
    }
}
/* A part of dw1 = x^T d, db1 = sum of d and dw2 = GELU(x w1 + b1)^T gy, with d = gy w2^T * GELU'(x w1 + b1).
   Who:    a block of 4 warps has 64 hidden units, 16 a warp, and goes over the rows of a part, 64 (C = 128: 32) at a
           time while the next ones are on their way into shared memory. The hidden layer is made transposed, a row for
           a unit: then it comes as left operand. The warp's columns of w1 and rows of w2 stay in registers at C = 64.
           Rows beyond m are zeros and add nothing.
   Launch: parts x H / 64 blocks of 128 threads, those of the same rows one after the other; C = 64 or 128; 55 and 69 KB
           of shared memory.
   Bits:   rows in order, a unit's sum of 4 lanes as a tree; no other block adds to these numbers.
   Traffic: x and gy H / 64 times, from L2; 4 (2 C + 1) H bytes a part; 8 m C H operations. */
template <int C> struct mlp_dw {
    enum { ROWS = C == 64 ? 64 : 32, TILE = ROWS * (C + 8), BYTES = 2 * (mlp_chunk<C>::SIZE + 4 * TILE) };
};
template <int C> __global__ void __launch_bounds__(128, 2) mlp_dw_kernel(mlp_back f)
{
    typedef mlp_chunk<C> chunk;
    enum { ROWS = mlp_dw<C>::ROWS, TILE = mlp_dw<C>::TILE, LD = chunk::LD, RESIDENT = C == 64 };
    BMVPI_DYNAMIC(uint16_t, weights);
    uint16_t *stage = weights + chunk::SIZE;
    const int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32;
    const int h0 = (int)(blockIdx.x % (unsigned)(f.h / 64)) * 64, part = (int)(blockIdx.x / (unsigned)(f.h / 64));
    const int64_t begin = part * f.rows, end = begin + f.rows < f.m ? begin + f.rows : f.m;
    const uint16_t *w1 = weights + warp * 16, *w2 = weights + chunk::W2 + warp * 16 * LD;
    uint32_t a1[1][C / 16][4], a2[1][C / 16][4], p[1][ROWS / 16][4];
    float s[1][ROWS / 8][4], d[1][ROWS / 8][4], dw1[1][C / 8][4], dw2[1][C / 8][4], bias[2], db[2] = { 0, 0 };
    const auto load = [&](int64_t row) {
        uint16_t *to = stage + (row - begin) / ROWS % 2 * 2 * TILE;
        load_rows<ROWS, C>(to, f.x, row, f.m, C);
        load_rows<ROWS, C>(to + TILE, f.gy, row, f.m, C);
        copy_commit();
    };
    BMVPI_UNROLLED
    for (int i = 0; i < C / 2; ++i) dw1[0][i / 4][i % 4] = dw2[0][i / 4][i % 4] = 0;
    chunk::load(weights, f.w1, f.b1, f.w2, f.h, h0);
    load(begin);
    copy_wait<0>();
    __syncthreads();
    BMVPI_UNROLLED
    for (int i = 0; i < 2; ++i) bias[i] = chunk::bias(weights)[warp * 16 + i * 8 + lane / 4];
    if (RESIDENT) {
        warp_columns<C / 16, chunk::LD1>(a1[0], w1);
        warp_rows<C / 16, LD>(a2[0], w2);
    }
    BMVPI_ROLLED
    for (int64_t row = begin; row < end; row += ROWS) {
        const uint16_t *x = stage + (row - begin) / ROWS % 2 * 2 * TILE, *gy = x + TILE;
        copy_wait<0>();
        __syncthreads(); /* these rows are there, and nobody reads the last ones any more */
        if (row + ROWS < end) load(row + ROWS);
        BMVPI_UNROLLED
        for (int i = 0; i < ROWS / 2; ++i) s[0][i / 4][i % 4] = bias[i % 4 / 2], d[0][i / 4][i % 4] = 0;
        if (!RESIDENT) warp_columns<C / 16, chunk::LD1>(a1[0], w1);
        warp_product_transposed<1, C / 16, ROWS / 8, LD>(s, a1, x);
        if (!RESIDENT) warp_rows<C / 16, LD>(a2[0], w2);
        warp_product_transposed<1, C / 16, ROWS / 8, LD>(d, a2, gy);
        BMVPI_UNROLLED
        for (int i = 0; i < ROWS / 2; ++i) {
            float slope;
            s[0][i / 4][i % 4] = gelu_near(s[0][i / 4][i % 4], &slope);
            db[i % 4 / 2] += d[0][i / 4][i % 4] *= slope;
        }
        warp_pack<ROWS / 16>(p[0], s[0]);
        warp_product<1, ROWS / 16, C / 8, LD>(dw2, p, gy);
        warp_pack<ROWS / 16>(p[0], d[0]);
        warp_product<1, ROWS / 16, C / 8, LD>(dw1, p, x);
    }
    mlp_dw_store<C>(f, part, h0 + warp * 16, lane, dw1, dw2, db);
}
static int mlp_is_fused(const bmvp_ctx *c, const mlp_shape &s)
{
    return products_of(c) == BF16 && s.i == s.o && (s.i == 64 || s.i == 128) && s.h % 64 == 0;
}
template <int C, int M> static void mlp_launch(bmvp_ctx *c, const mlp_fused &f)
{
    const size_t bytes = sizeof(uint16_t) * (64 * M * (C + 8) + 2 * mlp_chunk<C>::SIZE);
    if (shared_memory(c, mlp_kernel<C, M>, bytes))
        BMVPI_RUN(c, (mlp_kernel<C, M>), dim3((unsigned)ceil_div(f.m, 64 * M)), dim3(128), bytes, f);
}
/* room: for both matrices rounded */
static void mlp_run(bmvp_ctx *c, const bmvp_tensor *y, const mlp_shape &s, float *room)
{
    mlp_fused f;
    f.x = values(y->src[0]);
    f.b1 = (const float *)convert(c, values(y->src[2]), s.h, 0, &room).p;
    f.b2 = values(y->src[4]);
    f.residual = mlp_residual(y);
    f.w1 = (const uint16_t *)convert(c, values(y->src[1]), s.i * s.h, 1, &room).p;
    f.w2 = (const uint16_t *)convert(c, values(y->src[3]), s.h * s.o, 1, &room).p;
    f.y = result(y);
    f.m = s.m;
    f.h = (int)s.h;
    if (s.i == 64) mlp_launch<64, 2>(c, f);
    else mlp_launch<128, 1>(c, f);
}
static void mlp_forward(bmvp_ctx *c, bmvp_tensor *y)
{
    const mlp_shape s = mlp_of(y);
    float *room = bmvp_kernel_workspace(c);
    if (mlp_is_fused(c, s)) {
        mlp_run(c, y, s, room);
        return;
    }
    const view x = operand_of(c, y, y->src[0], &room), w1 = operand_of(c, y, y->src[1], &room),
               w2 = operand_of(c, y, y->src[3], &room);
    const view b2 = operand_bias(c, y, y->src[4], &room);
    const sink a = { room, is_half(y) };
    const view residual = mlp_residual(y);
    for (int64_t t = 0; t < s.m; t += s.tile) {
        const int64_t n = smaller(s.tile, s.m - t);
        gemm_run(c, gemm_of(n, s.h, s.i, x + t * s.i, 0, w1, 0, a, 0));
        columns_map(c, mlp_gelu_map{ a, values(y->src[2]) }, columns_of(1, n, s.h));
        gemm_bias(c, n, s.o, s.h, a, w2, b2, result(y) + t * s.o, residual ? residual + t * s.o : residual);
    }
}
/* The rows of a part that sums weights, and the parts: about two blocks for each multiprocessor of an H100, none with
   fewer than 512 rows */
static void mlp_cut(mlp_back *f)
{
    f->rows = ceil_div(larger(512, ceil_div(f->m, ceil_div(BMVPI_MANY_TILES, f->h / 64))), 64) * 64;
    f->parts = (int)ceil_div(f->m, f->rows);
}
template <int C> static void mlp_launch_back(bmvp_ctx *c, const mlp_back &f, int weights)
{
    enum { DX_BYTES = 2 * 2 * mlp_chunk<C>::SIZE, DW_BYTES = mlp_dw<C>::BYTES };
    if (!shared_memory(c, mlp_dx_kernel<C>, DX_BYTES) || !shared_memory(c, mlp_dw_kernel<C>, DW_BYTES)) return;
    if (f.dx) BMVPI_RUN(c, mlp_dx_kernel<C>, dim3((unsigned)ceil_div(f.m, 64)), dim3(128), DX_BYTES, f);
    if (weights) BMVPI_RUN(c, mlp_dw_kernel<C>, dim3((unsigned)(f.parts * (f.h / 64))), dim3(128), DW_BYTES, f);
}
/* room: for what is not bfloat16 rounded, and the parts or the bias's workspace */
static void mlp_run_back(bmvp_ctx *c, const bmvp_tensor *y, const mlp_shape &s, const sink g[5], const int add[5],
                         float *room)
{
    const int64_t n[3] = { s.i * s.h, s.h, s.h * s.o };
    mlp_back f;
    f.x = (const uint16_t *)convert(c, values(y->src[0]), y->src[0]->numel, 1, &room).p;
    f.gy = (const uint16_t *)convert(c, gradient(y), y->numel, 1, &room).p;
    f.w1 = (const uint16_t *)convert(c, values(y->src[1]), n[0], 1, &room).p;
    f.b1 = (const float *)convert(c, values(y->src[2]), n[1], 0, &room).p;
    f.w2 = (const uint16_t *)convert(c, values(y->src[3]), n[2], 1, &room).p;
    f.dx = g[0];
    f.add = add[0];
    f.m = s.m;
    f.h = (int)s.h;
    mlp_cut(&f);
    for (int k = 0; k < 3; ++k) f.part[k] = k ? f.part[k - 1] + f.parts * n[k - 1] : room;
    if (s.i == 64) mlp_launch_back<64>(c, f, g[1] || g[2] || g[3]);
    else mlp_launch_back<128>(c, f, g[1] || g[2] || g[3]);
    for (int k = 0; k < 3; ++k)
        if (g[k + 1]) join_parts(c, f.part[k], f.parts, n[k], g[k + 1], add[k + 1]);
    if (g[4]) bias_grad(c, gradient(y), s.m, s.o, g[4], add[4], room);
}
static void mlp_backward(bmvp_ctx *c, bmvp_tensor *y)
{
    const mlp_shape s = mlp_of(y);
    float *room = bmvp_kernel_workspace(c);
    sink g[5];
    int add[5], wanted = 0;
    if (y->n_src > 5) bmvp_kernel_grad_pass(c, y, y->src[5]);
    for (int k = 0; k < 5; ++k) wanted |= (g[k] = grad(c, y->src[k], &add[k])).p != NULL;
    if (mlp_is_fused(c, s)) {
        mlp_run_back(c, y, s, g, add, room);
        return;
    }
    const view x_all = operand_of(c, y, y->src[0], &room), w1 = operand_of(c, y, y->src[1], &room),
               w2 = operand_of(c, y, y->src[3], &room);
    const view gy_all = operand_gradient(c, y, &room);
    const int64_t hidden = floats_for(s.tile * s.h, is_half(y));
    const sink a = { room, is_half(y) }, d = { room + hidden, is_half(y) };
    float *part = room + 2 * hidden;
    for (int64_t t = 0; wanted && t < s.m; t += s.tile) {
        const int64_t n = smaller(s.tile, s.m - t);
        const view x = x_all + t * s.i, gy = gy_all + t * s.o;
        gemm_run(c, gemm_of(n, s.h, s.i, x, 0, w1, 0, a, 0));
        gemm_run(c, gemm_of(n, s.h, s.o, gy, 0, w2, 1, d, 0));
        columns_map(c, mlp_gelu_back_map{ a, d, values(y->src[2]) }, columns_of(1, n, s.h));
        if (g[0]) gemm_run(c, gemm_of(n, s.i, s.h, d, 0, w1, 1, g[0] + t * s.i, add[0]));
        if (g[1]) gemm_run(c, gemm_of(s.i, s.h, n, x, 1, d, 0, g[1], add[1] || t > 0));
        if (g[2]) bias_grad(c, d, n, s.h, g[2], add[2] || t > 0, part);
        if (g[3]) gemm_run(c, gemm_of(s.h, s.o, n, a, 1, gy, 0, g[3], add[3] || t > 0));
        if (g[4]) bias_grad(c, gradient(y) + t * s.o, n, s.o, g[4], add[4] || t > 0, part);
    }
}
/* Floats of workspace of the fused kernels */
static int64_t mlp_fused_workspace(const bmvp_tensor *y, const mlp_shape &s, int backward)
{
    const int64_t rounded = 2 * floats_for(s.i * s.h, 1) + (y->src[2] && y->src[2]->half ? floats_for(s.h, 0) : 0);
    mlp_back f;
    if (!backward) return rounded;
    f.m = s.m;
    f.h = (int)s.h;
    mlp_cut(&f);
    return rounded + (y->src[0]->half ? 0 : floats_for(y->src[0]->numel, 1)) + (y->half ? 0 : floats_for(y->numel, 1)) +
           larger(f.parts * (2 * s.i + 1) * s.h, bias_workspace(s.m, s.o));
}
static int64_t mlp_workspace(const bmvp_ctx *c, const bmvp_tensor *y, int backward)
{
    const mlp_shape s = mlp_of(y);
    const int64_t hidden = floats_for(s.tile * s.h, is_half(y));
    const int64_t room = operand_room(y, y->src[0]) + operand_room(y, y->src[1]) + operand_room(y, y->src[3]);
    if (mlp_is_fused(c, s)) return mlp_fused_workspace(y, s, backward);
    if (!backward) return room + operand_room(y, y->src[4]) + hidden;
    return room + operand_room(y, y) + 2 * hidden + larger(bias_workspace(s.tile, s.h), bias_workspace(s.tile, s.o));
}

/* >>kernel attention ----------------------------------------------------------------------------------------------- */

/* qkv (N, T, 3 C) = [q | k | v], C = heads x d. A block has one (sample, head) and a tile of rows; 256 threads as 16 x
   16, a thread having M rows (ty M + i) and columns tx, tx + 16, ... W: d rounded up to 16, 32, 64 or 128; the rest is
   zeros. */
struct attention {
    view qkv, y, g;
    sink out, dqkv;
    float *lse, *dot; /* lse (N, heads, T); dot (N, T, heads) */
    int64_t t, tiles, c;
    int heads, d, add;
    float scale;
    view table, place, region; /* of window attention: (rows, heads), (T), and (windows, T) or none */
    int64_t rows, windows;
    /* Row of the table that has the bias of tokens i and k */
    __device__ __forceinline__ int64_t bias_row(int64_t i, int64_t k) const
    {
        return (int64_t)(place[i] - place[k]) + rows / 2;
    }
    /* What comes to scale q k^T */
    __device__ __forceinline__ float bias(int64_t nh, int64_t i, int64_t k) const
    {
        const int64_t w = region ? nh / heads % windows * t : 0;
        if (!table || i >= t || k >= t) return 0;
        return table[bias_row(i, k) * heads + nh % heads] - (region && region[w + i] != region[w + k] ? 100.0f : 0.0f);
    }
    __device__ int64_t qkv_at(int64_t nh) const { return nh / heads * t * 3 * c + nh % heads * d; }
    __device__ int64_t y_at(int64_t nh) const { return nh / heads * t * c + nh % heads * d; }
    /* D of the first query; the next is `heads` further */
    __device__ const float *dot_of(int64_t nh) const { return dot + nh / heads * t * heads + nh % heads; }
};
template <int W> struct attention_tile {
    enum {
        ROWS = W <= 64 ? 64 : 32,
        M = ROWS / 16,
        COLS = W / 16,
        LD = W + 1,
        LP = ROWS + 1,
        MATRIX = ROWS * LD,
        SCORES = ROWS * LP
    };
};

/* Rows [first, first + ROWS) of a matrix of t rows `step` apart, into shared memory, zeros beyond. */
template <int W>
static __device__ void attention_load(float *s, const view &x, int64_t first, int64_t t, int64_t step, int d)
{
    typedef attention_tile<W> A;
    for (int i = (int)threadIdx.x; i < A::ROWS * W; i += THREADS)
        s[i / W * A::LD + i % W] = first + i / W < t && i % W < d ? x[(first + i / W) * step + i % W] : 0.0f;
}
/* s[i][j] = row ty M + i of a times row tx + 16 j of b */
template <int W> static __device__ void attention_scores(const float *a, const float *b, float s[4][4])
{
    typedef attention_tile<W> A;
    const int tx = (int)threadIdx.x % 16, ty = (int)threadIdx.x / 16;
    for (int i = 0; i < A::M; ++i) for (int j = 0; j < A::M; ++j) s[i][j] = 0;
    for (int x = 0; x < W; ++x) {
        float u[A::M], v[A::M];
        BMVPI_UNROLLED
        for (int i = 0; i < A::M; ++i) u[i] = a[(ty * A::M + i) * A::LD + x], v[i] = b[(tx + 16 * i) * A::LD + x];
        BMVPI_UNROLLED
        for (int i = 0; i < A::M; ++i)
            BMVPI_UNROLLED
            for (int j = 0; j < A::M; ++j) s[i][j] += u[i] * v[j];
    }
}
/* o[i][j] += sum over k of p[row, k] b[k, tx + 16 j], row ty M + i; transposed: of p[k, row] */
template <int W, int TRANSPOSED> static __device__ void attention_apply(const float *p, const float *b, float o[4][8])
{
    typedef attention_tile<W> A;
    const int tx = (int)threadIdx.x % 16, ty = (int)threadIdx.x / 16;
    for (int k = 0; k < A::ROWS; ++k) {
        float u[A::M], v[A::COLS];
        BMVPI_UNROLLED
        for (int i = 0; i < A::M; ++i)
            u[i] = TRANSPOSED ? p[k * A::LP + ty * A::M + i] : p[(ty * A::M + i) * A::LP + k];
        BMVPI_UNROLLED
        for (int j = 0; j < A::COLS; ++j) v[j] = b[k * A::LD + tx + 16 * j];
        BMVPI_UNROLLED
        for (int i = 0; i < A::M; ++i)
            BMVPI_UNROLLED
            for (int j = 0; j < A::COLS; ++j) o[i][j] += u[i] * v[j];
    }
}

/* y = softmax(q k^T scale) v with a running softmax; lse: log-sum-exp of each row (NULL: not kept).
   Who:    a block makes a tile of queries and goes over all keys, tile by tile; see above.
   Launch: N heads x tiles blocks, 256 threads, 66 KB of shared memory at d = 64 (3 tiles and the scores); d up to 128.
   Bits:   keys in order, sums of 16 lanes as a tree.
   Traffic: k and v are read T / 64 times, from L2; 4 N T^2 C operations, limited by loads from shared memory. */
template <int W> __global__ void attention_kernel(attention p)
{
    typedef attention_tile<W> A;
    BMVPI_DYNAMIC(float, q);
    float *key = q + A::MATRIX, *v = key + A::MATRIX, *prob = v + A::MATRIX;
    const int tx = (int)threadIdx.x % 16, ty = (int)threadIdx.x / 16;
    const int64_t nh = blockIdx.x / p.tiles, q0 = blockIdx.x % p.tiles * A::ROWS, step = 3 * p.c;
    const view in = p.qkv + p.qkv_at(nh);
    float o[4][8] = { { 0 } }, s[4][4], top[4], sum[4];
    for (int i = 0; i < A::M; ++i) top[i] = -INFINITY, sum[i] = 0;
    attention_load<W>(q, in, q0, p.t, step, p.d);
    for (int64_t k0 = 0; k0 < p.t; k0 += A::ROWS) {
        __syncthreads(); /* the last tile has been used */
        attention_load<W>(key, in + p.c, k0, p.t, step, p.d);
        attention_load<W>(v, in + 2 * p.c, k0, p.t, step, p.d);
        __syncthreads();
        attention_scores<W>(q, key, s);
        BMVPI_UNROLLED
        for (int i = 0; i < A::M; ++i) { /* unrolled: else the longer body keeps o, s, top and sum out of registers */
            float now = top[i], total = 0;
            BMVPI_UNROLLED
            for (int j = 0; j < A::M; ++j) {
                const int64_t k = k0 + tx + 16 * j;
                s[i][j] = k < p.t ? s[i][j] * p.scale + p.bias(nh, q0 + ty * A::M + i, k) : -INFINITY;
                now = fmaxf(now, s[i][j]);
            }
            for (int lane = 8; lane > 0; lane /= 2) now = fmaxf(now, __shfl_xor_sync(0xffffffffu, now, lane, 16));
            const float shrink = expf(top[i] - now);
            BMVPI_UNROLLED
            for (int j = 0; j < A::M; ++j) {
                const float e = expf(s[i][j] - now);
                prob[(ty * A::M + i) * A::LP + tx + 16 * j] = e;
                total += e;
            }
            for (int lane = 8; lane > 0; lane /= 2) total += __shfl_xor_sync(0xffffffffu, total, lane, 16);
            sum[i] = sum[i] * shrink + total;
            top[i] = now;
            BMVPI_UNROLLED
            for (int j = 0; j < A::COLS; ++j) o[i][j] *= shrink;
        }
        __syncthreads();
        attention_apply<W, 0>(prob, v, o);
    }
    for (int i = 0; i < A::M; ++i) {
        const int64_t row = q0 + ty * A::M + i;
        if (row >= p.t) continue;
        for (int j = 0; j < A::COLS; ++j)
            if (tx + 16 * j < p.d) put(p.out, p.y_at(nh) + row * p.c + tx + 16 * j, o[i][j] / sum[i], 0);
        if (p.lse && tx == 0) p.lse[nh * p.t + row] = top[i] + logf(sum[i]);
    }
}

/* Scores of a tile of queries and one of keys as backward needs them, into shared memory: P = exp(scale q k^T - lse),
   and dS = P (dy v^T - D) scale. prob may be NULL. */
template <int W>
static __device__ void attention_back_scores(const attention &p, int64_t nh, int64_t q0, int64_t k0, const float *q,
                                             const float *g, const float *key, const float *v, float *prob, float *ds)
{
    typedef attention_tile<W> A;
    const int tx = (int)threadIdx.x % 16, ty = (int)threadIdx.x / 16;
    const float *dots = p.dot_of(nh);
    float s[4][4], dp[4][4];
    attention_scores<W>(q, key, s);
    attention_scores<W>(g, v, dp);
    for (int i = 0; i < A::M; ++i) {
        const int64_t row = q0 + ty * A::M + i;
        const float lse = row < p.t ? p.lse[nh * p.t + row] : 0.0f;
        const float dot = row < p.t ? dots[row * p.heads] : 0.0f;
        for (int j = 0; j < A::M; ++j) {
            const int at = (ty * A::M + i) * A::LP + tx + 16 * j;
            const int64_t k = k0 + tx + 16 * j;
            const float e = row < p.t && k < p.t ? expf(s[i][j] * p.scale + p.bias(nh, row, k) - lse) : 0.0f;
            if (prob) prob[at] = e;
            ds[at] = e * (dp[i][j] - dot) * p.scale;
        }
    }
}
/* A thread's part of a tile into place `which` (0 q, 1 k, 2 v) of the gradient */
template <int W>
static __device__ void attention_store(const attention &p, int64_t nh, int64_t first, int which, float o[4][8])
{
    typedef attention_tile<W> A;
    const int tx = (int)threadIdx.x % 16, ty = (int)threadIdx.x / 16;
    for (int i = 0; i < A::M; ++i)
        for (int j = 0; j < A::COLS; ++j)
            if (first + ty * A::M + i < p.t && tx + 16 * j < p.d)
                put(p.dqkv, p.qkv_at(nh) + (first + ty * A::M + i) * 3 * p.c + which * p.c + tx + 16 * j, o[i][j],
                    p.add);
}

/* dV = P^T dy and dK = dS^T Q.
   Who:    a block makes a tile of keys and goes over all queries, tile by tile.
   Launch: N heads x tiles blocks, 256 threads, 98 KB of shared memory at d = 64 (4 tiles and 2 of scores), 73 KB at
           128.
   Bits:   queries in order; no other block adds to these rows.
   Traffic: q and dy are read T / 64 times, from L2; 8 N T^2 C operations. */
template <int W> __global__ void attention_dkv_kernel(attention p)
{
    typedef attention_tile<W> A;
    BMVPI_DYNAMIC(float, q);
    float *g = q + A::MATRIX, *key = g + A::MATRIX, *v = key + A::MATRIX, *prob = v + A::MATRIX, *ds = prob + A::SCORES;
    const int64_t nh = blockIdx.x / p.tiles, k0 = blockIdx.x % p.tiles * A::ROWS, step = 3 * p.c;
    const view in = p.qkv + p.qkv_at(nh);
    float dk[4][8] = { { 0 } }, dv[4][8] = { { 0 } };
    attention_load<W>(key, in + p.c, k0, p.t, step, p.d);
    attention_load<W>(v, in + 2 * p.c, k0, p.t, step, p.d);
    for (int64_t q0 = 0; q0 < p.t; q0 += A::ROWS) {
        __syncthreads();
        attention_load<W>(q, in, q0, p.t, step, p.d);
        attention_load<W>(g, p.g + p.y_at(nh), q0, p.t, p.c, p.d);
        __syncthreads();
        attention_back_scores<W>(p, nh, q0, k0, q, g, key, v, prob, ds);
        __syncthreads();
        attention_apply<W, 1>(prob, g, dv);
        attention_apply<W, 1>(ds, q, dk);
    }
    attention_store<W>(p, nh, k0, 1, dk);
    attention_store<W>(p, nh, k0, 2, dv);
}

/* dQ = dS K.
   Who:    a block makes a tile of queries and goes over all keys, tile by tile.
   Launch: as above, without P: 82 KB of shared memory at d = 64.
   Bits:   keys in order; no other block adds to these rows.
   Traffic: k and v are read T / 64 times, from L2; 6 N T^2 C operations: doing the scores twice saves the atomics. */
template <int W> __global__ void attention_dq_kernel(attention p)
{
    typedef attention_tile<W> A;
    BMVPI_DYNAMIC(float, q);
    float *g = q + A::MATRIX, *key = g + A::MATRIX, *v = key + A::MATRIX, *ds = v + A::MATRIX;
    const int64_t nh = blockIdx.x / p.tiles, q0 = blockIdx.x % p.tiles * A::ROWS, step = 3 * p.c;
    const view in = p.qkv + p.qkv_at(nh);
    float dq[4][8] = { { 0 } };
    attention_load<W>(q, in, q0, p.t, step, p.d);
    attention_load<W>(g, p.g + p.y_at(nh), q0, p.t, p.c, p.d);
    for (int64_t k0 = 0; k0 < p.t; k0 += A::ROWS) {
        __syncthreads();
        attention_load<W>(key, in + p.c, k0, p.t, step, p.d);
        attention_load<W>(v, in + 2 * p.c, k0, p.t, step, p.d);
        __syncthreads();
        attention_back_scores<W>(p, nh, q0, k0, q, g, key, v, NULL, ds);
        __syncthreads();
        attention_apply<W, 0>(ds, key, dq);
    }
    attention_store<W>(p, nh, q0, 0, dq);
}

/* Gradient of the table: part[b][row of the table] = sum of P (dy v^T - D) over the pairs of that row whose query is in
   range number r of head h, b = h ranges + r.
   Who:    a block has one head and QUERIES queries, one after the other; a thread keys, and of each pair all samples.
           The keys of one query have different rows of the table, so nobody adds to another's.
   Launch: heads x ceil(T / QUERIES) blocks, 256 threads.
   Bits:   samples in order, then queries in order; attention_table_sum adds the blocks' parts in order.
   Traffic: 4 N T^2 C operations, and q, k, v and dy are read T times each, from L2: a plain kernel. */
enum { ATTENTION_QUERIES = 16 };
static __global__ void attention_table_kernel(attention p, int64_t samples, float *part)
{
    const int64_t ranges = (p.t + ATTENTION_QUERIES - 1) / ATTENTION_QUERIES, h = blockIdx.x / ranges, step = 3 * p.c;
    const int64_t first = blockIdx.x % ranges * ATTENTION_QUERIES;
    float *to = part + blockIdx.x * p.rows;
    for (int64_t r = threadIdx.x; r < p.rows; r += THREADS) to[r] = 0;
    for (int64_t i = first; i < first + ATTENTION_QUERIES && i < p.t; ++i) {
        __syncthreads();
        for (int64_t k = threadIdx.x; k < p.t; k += THREADS) {
            float sum = 0;
            for (int64_t n = 0; n < samples; ++n) {
                const int64_t nh = n * p.heads + h;
                const view q = p.qkv + (p.qkv_at(nh) + i * step), key = p.qkv + (p.qkv_at(nh) + k * step + p.c);
                const view v = key + p.c, g = p.g + (p.y_at(nh) + i * p.c);
                float s = 0, dp = 0;
                for (int x = 0; x < p.d; ++x) s += q[x] * key[x], dp += g[x] * v[x];
                s = expf(s * p.scale + p.bias(nh, i, k) - p.lse[nh * p.t + i]);
                sum += s * (dp - p.dot[(n * p.t + i) * p.heads + h]);
            }
            to[p.bias_row(i, k)] += sum;
        }
    }
}
/* One number of the table's gradient: its head's parts in order. 4 bytes a part, coalesced along rows. */
struct attention_table_sum {
    const float *part;
    sink table;
    int64_t rows, ranges;
    int heads, add;
    __device__ void operator()(int64_t i) const
    {
        const int64_t r = i / heads, h = i % heads;
        float sum = 0;
        for (int64_t k = 0; k < ranges; ++k) sum += part[(h * ranges + k) * rows + r];
        put(table, i, sum, add);
    }
};

/* D = dy y of each (sample, token, head): rows of d */
struct attention_dot_rows {
    view y, g;
    float *dot;
    __device__ void row(int64_t row, int64_t n, int lane, int team, int live) const
    {
        double s = 0;
        for (int64_t i = lane; live && i < n; i += team) s += (double)y[row * n + i] * (double)g[row * n + i];
        s = team_sum(s, team);
        if (live && lane == 0) dot[row] = (float)s;
    }
};

/* Tiles, and as much shared memory as the kernel needs */
template <int W>
static int attention_room(bmvp_ctx *c, attention *p, void (*kernel)(attention), int matrices, int scores, size_t *bytes)
{
    typedef attention_tile<W> A;
    *bytes = (size_t)(matrices * A::MATRIX + scores * A::SCORES) * sizeof(float);
    p->tiles = ceil_div(p->t, A::ROWS);
    return shared_memory(c, kernel, *bytes);
}
template <int W> static void attention_run(bmvp_ctx *c, attention p, int64_t blocks)
{
    size_t bytes;
    if (!attention_room<W>(c, &p, attention_kernel<W>, 3, 1, &bytes)) return;
    BMVPI_RUN(c, attention_kernel<W>, dim3((unsigned)(blocks * p.tiles)), dim3(THREADS), bytes, p);
}
template <int W> static void attention_run_back(bmvp_ctx *c, attention p, int64_t blocks)
{
    size_t bytes;
    if (!attention_room<W>(c, &p, attention_dkv_kernel<W>, 4, 2, &bytes)) return;
    BMVPI_RUN(c, attention_dkv_kernel<W>, dim3((unsigned)(blocks * p.tiles)), dim3(THREADS), bytes, p);
    if (!attention_room<W>(c, &p, attention_dq_kernel<W>, 4, 1, &bytes)) return;
    BMVPI_RUN(c, attention_dq_kernel<W>, dim3((unsigned)(blocks * p.tiles)), dim3(THREADS), bytes, p);
}
static attention attention_of(const bmvp_tensor *y)
{
    attention p;
    memset(&p, 0, sizeof p);
    p.qkv = values(y->src[0]);
    p.y = values(y);
    p.out = result(y);
    p.g = gradient(y);
    p.lse = y->saved;
    p.t = y->dim[1];
    p.c = y->dim[2];
    p.heads = (int)y->args.attention.heads;
    p.d = (int)(y->dim[2] / y->args.attention.heads);
    p.scale = (float)y->args.attention.scale;
    if (y->n_src == 1) return p;
    p.table = values(y->src[1]);
    p.place = values(y->src[2]);
    p.region = values(y->src[3]);
    p.rows = y->src[1]->dim[0];
    p.windows = y->src[3] ? y->src[3]->dim[0] : 1;
    return p;
}

/* >>kernel flash: attention on tensor cores ------------------------------------------------------------------------ */

/* Heads of 64 channels in bfloat16, scores and sums in float32. A block of 4 warps has one (sample, head); tiles of 64
   channels lie in shared memory with rows of 144 bytes, so that matrix loads are free of bank conflicts. A warp's part
   of the scores leaves a product as what the next product takes (see mma_tf32): probabilities never go through shared
   memory. */
enum { FLASH = 64, FLASH_LD = FLASH + 8, FLASH_TILE = FLASH * FLASH_LD, FLASH_THREADS = 128 };
struct flash {
    attention p;
    const uint16_t *qkv, *g; /* bfloat16 */
    float log2_scale;        /* scale / ln 2: exp(scale s) = 2^(log2_scale s) */
};

/* s = a b^T: 16 rows each against the tile's 64 */
template <int M>
static __device__ __forceinline__ void flash_scores(float s[M][8][4], const uint32_t a[M][4][4], const uint16_t *b)
{
    BMVPI_UNROLLED
    for (int i = 0; i < M * 32; ++i) s[i / 32][i / 4 % 8][i % 4] = 0;
    warp_product_transposed<M, 4, 8, FLASH_LD>(s, a, b);
}

/* One tile of scores: probabilities in place, with the running maximum and sum of each row; o shrinks with the maximum.
   Rows of a lane: g and g + 8, whose 64 scores lie in 4 neighbouring lanes. */
static __device__ __forceinline__ void flash_softmax(float s[8][4], float o[8][4], float top[2], float sum[2],
                                                     float log2_scale)
{
    BMVPI_UNROLLED
    for (int h = 0; h < 2; ++h) {
        float now = top[h], total = 0;
        BMVPI_UNROLLED
        for (int j = 0; j < 8; ++j) now = fmaxf(now, fmaxf(s[j][2 * h], s[j][2 * h + 1]));
        for (int lane = 2; lane > 0; lane /= 2) now = fmaxf(now, __shfl_xor_sync(0xffffffffu, now, lane));
        const float shrink = exp2f((top[h] - now) * log2_scale), base = now * log2_scale;
        BMVPI_UNROLLED
        for (int j = 0; j < 8; ++j)
            BMVPI_UNROLLED
            for (int e = 2 * h; e < 2 * h + 2; ++e) {
                s[j][e] = exp2f(s[j][e] * log2_scale - base);
                o[j][e] *= shrink;
                total += s[j][e];
            }
        sum[h] = sum[h] * shrink + total;
        top[h] = now;
    }
}

/* y = softmax(q k^T scale) v with a running softmax; lse: log-sum-exp of each row (NULL: not kept).
   Who:    a block makes 128 queries, 32 a warp, and goes over all keys 64 at a time while the next tile is on its way.
   Launch: N heads x ceil(T / 128) blocks of 128 threads, 54 KB of shared memory (queries, two tiles of k and v). d =
           64, scale > 0.
   Bits:   keys in order; a row's sum of 4 lanes as a tree.
   Traffic: k and v are read T / 128 times, from L2; 4 N T^2 C operations, 32 matrix loads for 128 products of a
            warp. */
static __global__ void __launch_bounds__(FLASH_THREADS, 2) flash_kernel(flash f)
{
    BMVPI_DYNAMIC(uint16_t, q);
    uint16_t *stage = q + 2 * FLASH_TILE;
    const attention &p = f.p;
    const int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32;
    const int64_t nh = blockIdx.x / p.tiles, q0 = blockIdx.x % p.tiles * 2 * FLASH, step = 3 * p.c;
    const uint16_t *in = f.qkv + p.qkv_at(nh);
    uint32_t a[2][4][4], prob[2][4][4];
    float s[2][8][4], o[2][8][4], top[2][2], sum[2][2];
    BMVPI_UNROLLED
    for (int i = 0; i < 64; ++i) o[i / 32][i / 4 % 8][i % 4] = 0;
    BMVPI_UNROLLED
    for (int i = 0; i < 4; ++i) top[i / 2][i % 2] = -INFINITY, sum[i / 2][i % 2] = 0;
    load_rows<2 * FLASH, FLASH>(q, in, q0, p.t, step);
    load_rows<FLASH, FLASH>(stage, in + p.c, 0, p.t, step);
    load_rows<FLASH, FLASH>(stage + FLASH_TILE, in + 2 * p.c, 0, p.t, step);
    copy_commit();
    copy_wait<0>();
    __syncthreads();
    for (int i = 0; i < 2; ++i) warp_rows<4, FLASH_LD>(a[i], q + (warp * 32 + i * 16) * FLASH_LD);
    BMVPI_ROLLED
    for (int64_t k0 = 0; k0 < p.t; k0 += FLASH) {
        const uint16_t *key = stage + k0 / FLASH % 2 * 2 * FLASH_TILE;
        uint16_t *next = stage + (k0 / FLASH + 1) % 2 * 2 * FLASH_TILE;
        copy_wait<0>();
        __syncthreads(); /* this tile is there, and nobody reads the other one any more */
        if (k0 + FLASH < p.t) {
            load_rows<FLASH, FLASH>(next, in + p.c, k0 + FLASH, p.t, step);
            load_rows<FLASH, FLASH>(next + FLASH_TILE, in + 2 * p.c, k0 + FLASH, p.t, step);
        }
        copy_commit();
        flash_scores<2>(s, a, key);
        if (k0 + FLASH > p.t) {
            BMVPI_UNROLLED
            for (int i = 0; i < 64; ++i)
                if (k0 + i / 4 % 8 * 8 + lane % 4 * 2 + i % 2 >= p.t) s[i / 32][i / 4 % 8][i % 4] = -INFINITY;
        }
        BMVPI_UNROLLED
        for (int i = 0; i < 2; ++i) {
            flash_softmax(s[i], o[i], top[i], sum[i], f.log2_scale);
            warp_pack<4>(prob[i], s[i]);
        }
        warp_product<2, 4, 8, FLASH_LD>(o, prob, key + FLASH_TILE);
    }
    BMVPI_UNROLLED
    for (int i = 0; i < 4; ++i) { /* row g or g + 8 of the warp's first or second 16 */
        const int64_t row = q0 + warp * 32 + i * 8 + lane / 4;
        float total = sum[i / 2][i % 2];
        for (int other = 2; other > 0; other /= 2) total += __shfl_xor_sync(0xffffffffu, total, other);
        const float over = 1.0f / total;
        BMVPI_UNROLLED
        for (int j = 0; j < 8; ++j)
            if (row < p.t)
                put_pair(p.out, p.y_at(nh) + row * p.c + j * 8 + lane % 4 * 2, o[i / 2][j][i % 2 * 2] * over,
                         o[i / 2][j][i % 2 * 2 + 1] * over, 0);
        if (p.lse && row < p.t && lane % 4 == 0) p.lse[nh * p.t + row] = top[i / 2][i % 2] * p.scale + logf(total);
    }
}

/* A warp's 16 rows into place `which` (0 q, 1 k, 2 v) of the gradient */
static __device__ __forceinline__ void flash_store(const attention &p, int64_t nh, int64_t first, int which,
                                                   const float o[8][4])
{
    const int lane = (int)threadIdx.x % 32;
    BMVPI_UNROLLED
    for (int i = 0; i < 32; i += 2) {
        const int64_t row = first + i % 4 / 2 * 8 + lane / 4,
                      at = p.qkv_at(nh) + row * 3 * p.c + which * p.c + i / 4 * 8 + lane % 4 * 2;
        if (row < p.t) put_pair(p.dqkv, at, o[i / 4][i % 4], o[i / 4][i % 4 + 1], p.add);
    }
}
/* lse and D (those of a sample and head) of 64 queries, asynchronously; zeros beyond */
static __device__ void flash_load_sums(float *to, const attention &p, const float *lse, const float *dot, int64_t q0)
{
    const int i = (int)threadIdx.x % FLASH, inside = q0 + i < p.t;
    if (threadIdx.x < FLASH) copy_async<4>(to + i, lse + (inside ? q0 + i : 0), inside);
    else copy_async<4>(to + FLASH + i, dot + (inside ? (q0 + i) * p.heads : 0), inside);
}

/* dV = P^T dy and dK = dS^T q, with P = exp(scale q k^T - lse) and dS = P (dy v^T - D) scale.
   Who:    a block has 64 keys, 16 a warp, whose rows of k and v lie in registers, and goes over all queries 64 at a
           time. Scores are made transposed, a row for a key: then P^T and dS^T come as left operands. Queries beyond T
           are zeros and add nothing.
   Launch: N heads x ceil(T / 64) blocks of 128 threads, 56 KB of shared memory (k, v, two tiles of q, dy and their
           sums). d = 64.
   Bits:   queries in order; no other block adds to these rows.
   Traffic: q and dy are read T / 64 times, from L2; 8 N T^2 C operations, 64 matrix loads for 128 products of a
            warp. */
static __global__ void __launch_bounds__(FLASH_THREADS, 2) flash_dkv_kernel(flash f)
{
    enum { STAGE = 2 * FLASH_TILE + 4 * FLASH }; /* q, dy; lse and D as floats */
    BMVPI_DYNAMIC(uint16_t, key);
    uint16_t *stage = key + 2 * FLASH_TILE;
    const attention &p = f.p;
    const int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32;
    const int64_t nh = blockIdx.x / p.tiles, k0 = blockIdx.x % p.tiles * FLASH, step = 3 * p.c;
    const uint16_t *in = f.qkv + p.qkv_at(nh), *g = f.g + p.y_at(nh);
    const float *lses = p.lse + nh * p.t, *dots = p.dot_of(nh); /* here: a division of 64 bits is a call */
    uint32_t ak[1][4][4], av[1][4][4], prob[1][4][4];
    float s[1][8][4], dp[1][8][4], dk[1][8][4], dv[1][8][4];
    const auto load = [&](int64_t q0) {
        uint16_t *to = stage + q0 / FLASH % 2 * STAGE;
        load_rows<FLASH, FLASH>(to, in, q0, p.t, step);
        load_rows<FLASH, FLASH>(to + FLASH_TILE, g, q0, p.t, p.c);
        flash_load_sums((float *)(void *)(to + 2 * FLASH_TILE), p, lses, dots, q0);
    };
    BMVPI_UNROLLED
    for (int i = 0; i < 32; ++i) dk[0][i / 4][i % 4] = dv[0][i / 4][i % 4] = 0;
    load_rows<FLASH, FLASH>(key, in + p.c, k0, p.t, step);
    load_rows<FLASH, FLASH>(key + FLASH_TILE, in + 2 * p.c, k0, p.t, step);
    load(0);
    copy_commit();
    copy_wait<0>();
    __syncthreads();
    warp_rows<4, FLASH_LD>(ak[0], key + warp * 16 * FLASH_LD);
    warp_rows<4, FLASH_LD>(av[0], key + FLASH_TILE + warp * 16 * FLASH_LD);
    BMVPI_ROLLED
    for (int64_t q0 = 0; q0 < p.t; q0 += FLASH) {
        const uint16_t *q = stage + q0 / FLASH % 2 * STAGE, *dy = q + FLASH_TILE;
        const float *lse = (const float *)(const void *)(dy + FLASH_TILE), *dot = lse + FLASH;
        copy_wait<0>();
        __syncthreads();
        if (q0 + FLASH < p.t) load(q0 + FLASH);
        copy_commit();
        flash_scores<1>(s, ak, q);
        flash_scores<1>(dp, av, dy);
        BMVPI_UNROLLED
        for (int i = 0; i < 32; ++i) {
            const int at = i / 4 * 8 + lane % 4 * 2 + i % 2;
            s[0][i / 4][i % 4] = exp2f(s[0][i / 4][i % 4] * f.log2_scale - lse[at] * 1.44269504f);
            dp[0][i / 4][i % 4] = s[0][i / 4][i % 4] * (dp[0][i / 4][i % 4] - dot[at]) * p.scale;
        }
        warp_pack<4>(prob[0], s[0]);
        warp_product<1, 4, 8, FLASH_LD>(dv, prob, dy);
        warp_pack<4>(prob[0], dp[0]);
        warp_product<1, 4, 8, FLASH_LD>(dk, prob, q);
    }
    flash_store(p, nh, k0 + warp * 16, 1, dk[0]);
    flash_store(p, nh, k0 + warp * 16, 2, dv[0]);
}

/* dQ = dS k.
   Who:    a block has 64 queries, 16 a warp, and goes over all keys 64 at a time.
   Launch: N heads x ceil(T / 64) blocks of 128 threads, 55 KB of shared memory (q, dy, two tiles of k and v). d = 64.
   Bits:   keys in order; no other block adds to these rows.
   Traffic: k and v are read T / 64 times, from L2; 6 N T^2 C operations: doing the scores twice saves the atomics. */
static __global__ void __launch_bounds__(FLASH_THREADS, 2) flash_dq_kernel(flash f)
{
    BMVPI_DYNAMIC(uint16_t, q);
    uint16_t *stage = q + 2 * FLASH_TILE;
    const attention &p = f.p;
    const int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32;
    const int64_t nh = blockIdx.x / p.tiles, q0 = blockIdx.x % p.tiles * FLASH, step = 3 * p.c;
    const uint16_t *in = f.qkv + p.qkv_at(nh);
    uint32_t aq[1][4][4], ag[1][4][4], ds[1][4][4];
    float s[1][8][4], dp[1][8][4], dq[1][8][4], lse[2], dot[2];
    const auto load = [&](int64_t k0) {
        uint16_t *to = stage + k0 / FLASH % 2 * 2 * FLASH_TILE;
        load_rows<FLASH, FLASH>(to, in + p.c, k0, p.t, step);
        load_rows<FLASH, FLASH>(to + FLASH_TILE, in + 2 * p.c, k0, p.t, step);
    };
    for (int h = 0; h < 2; ++h) {
        const int64_t row = q0 + warp * 16 + h * 8 + lane / 4;
        lse[h] = row < p.t ? p.lse[nh * p.t + row] * 1.44269504f : 0.0f;
        dot[h] = row < p.t ? p.dot_of(nh)[row * p.heads] : 0.0f;
    }
    BMVPI_UNROLLED
    for (int i = 0; i < 32; ++i) dq[0][i / 4][i % 4] = 0;
    load_rows<FLASH, FLASH>(q, in, q0, p.t, step);
    load_rows<FLASH, FLASH>(q + FLASH_TILE, f.g + p.y_at(nh), q0, p.t, p.c);
    load(0);
    copy_commit();
    copy_wait<0>();
    __syncthreads();
    warp_rows<4, FLASH_LD>(aq[0], q + warp * 16 * FLASH_LD);
    warp_rows<4, FLASH_LD>(ag[0], q + FLASH_TILE + warp * 16 * FLASH_LD);
    BMVPI_ROLLED
    for (int64_t k0 = 0; k0 < p.t; k0 += FLASH) {
        const uint16_t *key = stage + k0 / FLASH % 2 * 2 * FLASH_TILE;
        copy_wait<0>();
        __syncthreads();
        if (k0 + FLASH < p.t) load(k0 + FLASH);
        copy_commit();
        flash_scores<1>(s, aq, key);
        flash_scores<1>(dp, ag, key + FLASH_TILE);
        BMVPI_UNROLLED
        for (int i = 0; i < 32; ++i) {
            const int h = i % 4 / 2;
            const float e =
                k0 + i / 4 * 8 + lane % 4 * 2 + i % 2 < p.t ? exp2f(s[0][i / 4][i % 4] * f.log2_scale - lse[h]) : 0.0f;
            dp[0][i / 4][i % 4] = e * (dp[0][i / 4][i % 4] - dot[h]) * p.scale;
        }
        warp_pack<4>(ds[0], dp[0]);
        warp_product<1, 4, 8, FLASH_LD>(dq, ds, key);
    }
    flash_store(p, nh, q0 + warp * 16, 0, dq[0]);
}

/* Is this attention one for the tensor cores? */
static int flash_takes(const bmvp_ctx *c, const bmvp_tensor *y)
{
    return products_of(c) == BF16 && y->dim[2] / y->args.attention.heads == FLASH && y->args.attention.scale > 0 &&
           y->n_src == 1;
}
/* Floats of workspace: q, k, v rounded; for backward dy, too; where they are not bfloat16 */
static int64_t flash_workspace(const bmvp_tensor *y, int backward)
{
    return (y->src[0]->half ? 0 : floats_for(3 * y->numel, 1)) + (backward && !y->half ? floats_for(y->numel, 1) : 0);
}
static flash flash_of(bmvp_ctx *c, const attention &p, int64_t samples, int backward, float *room)
{
    const int64_t n = samples * p.t * p.c;
    flash f;
    f.p = p;
    f.log2_scale = p.scale * 1.44269504f;
    f.qkv = (const uint16_t *)convert(c, p.qkv, 3 * n, 1, &room).p;
    f.g = backward ? (const uint16_t *)convert(c, p.g, n, 1, &room).p : NULL;
    return f;
}
enum { FLASH_BYTES = 6 * FLASH_TILE * (int)sizeof(uint16_t), FLASH_SUMS = 4 * FLASH * (int)sizeof(float) };
static void flash_run(bmvp_ctx *c, flash f, int64_t blocks)
{
    if (!shared_memory(c, flash_kernel, FLASH_BYTES)) return;
    f.p.tiles = ceil_div(f.p.t, 2 * FLASH);
    BMVPI_RUN(c, flash_kernel, dim3((unsigned)(blocks * f.p.tiles)), dim3(FLASH_THREADS), FLASH_BYTES, f);
}
static void flash_run_back(bmvp_ctx *c, flash f, int64_t blocks)
{
    if (!shared_memory(c, flash_dkv_kernel, FLASH_BYTES + FLASH_SUMS) ||
        !shared_memory(c, flash_dq_kernel, FLASH_BYTES))
        return;
    f.p.tiles = ceil_div(f.p.t, FLASH);
    BMVPI_RUN(c, flash_dkv_kernel, dim3((unsigned)(blocks * f.p.tiles)), dim3(FLASH_THREADS), FLASH_BYTES + FLASH_SUMS,
              f);
    BMVPI_RUN(c, flash_dq_kernel, dim3((unsigned)(blocks * f.p.tiles)), dim3(FLASH_THREADS), FLASH_BYTES, f);
}

/* >>op attention --------------------------------------------------------------------------------------------------- */

static void attention_forward(bmvp_ctx *c, bmvp_tensor *y)
{
    attention p = attention_of(y);
    const int64_t blocks = y->dim[0] * y->args.attention.heads;
    if (flash_takes(c, y)) flash_run(c, flash_of(c, p, y->dim[0], 0, bmvp_kernel_workspace(c)), blocks);
    else if (p.d <= 16) attention_run<16>(c, p, blocks);
    else if (p.d <= 32) attention_run<32>(c, p, blocks);
    else if (p.d <= 64) attention_run<64>(c, p, blocks);
    else if (p.d <= 128) attention_run<128>(c, p, blocks);
    else bmvp_fail(c, BMVP_E_UNSUPPORTED, "attention: cuda: heads of %d channels; at most 128", p.d);
}
/* Floats of workspace behind those of D: the table's parts */
static int64_t attention_parts(const bmvp_tensor *y)
{
    return y->n_src > 1 ? ceil_div(y->dim[1], ATTENTION_QUERIES) * y->src[1]->numel : 0;
}
static int64_t attention_dots(const bmvp_tensor *y) { return y->dim[0] * y->dim[1] * y->args.attention.heads; }
static void attention_table_backward(bmvp_ctx *c, bmvp_tensor *y, const attention &p, float *part)
{
    int add;
    sink table = y->n_src > 1 ? grad(c, y->src[1], &add) : sink{ NULL, 0 };
    const int64_t ranges = ceil_div(p.t, ATTENTION_QUERIES);
    if (!table) return;
    BMVPI_RUN(c, attention_table_kernel, dim3((unsigned)(ranges * p.heads)), dim3(THREADS), 0, p, y->dim[0], part);
    each(c, attention_table_sum{ part, table, p.rows, ranges, p.heads, add }, y->src[1]->numel);
}
static void attention_backward(bmvp_ctx *c, bmvp_tensor *y)
{
    attention p = attention_of(y);
    const int64_t blocks = y->dim[0] * y->args.attention.heads;
    p.dqkv = grad(c, y->src[0], &p.add);
    if (!p.dqkv && (y->n_src == 1 || !y->src[1]->wants_grad)) return;
    p.dot = bmvp_kernel_workspace(c) + (flash_takes(c, y) ? flash_workspace(y, 1) : 0);
    rows_map(c, attention_dot_rows{ values(y), gradient(y), p.dot }, y->numel / p.d, p.d);
    attention_table_backward(c, y, p, p.dot + attention_dots(y));
    if (!p.dqkv) return;
    if (flash_takes(c, y)) flash_run_back(c, flash_of(c, p, y->dim[0], 1, bmvp_kernel_workspace(c)), blocks);
    else if (p.d <= 16) attention_run_back<16>(c, p, blocks);
    else if (p.d <= 32) attention_run_back<32>(c, p, blocks);
    else if (p.d <= 64) attention_run_back<64>(c, p, blocks);
    else attention_run_back<128>(c, p, blocks);
}
static int64_t attention_workspace(const bmvp_ctx *c, const bmvp_tensor *y, int backward)
{
    return (backward ? attention_dots(y) + attention_parts(y) : 0) +
           (flash_takes(c, y) ? flash_workspace(y, backward) : 0);
}

/* >>kernel tile: dense convolutions -------------------------------------------------------------------------------- */

/* C (m, n) = A (m, k) B (k, n) where A and B are functions of their indices: a convolution without its unfolded input.
   BK steps of k lie in shared memory at a time: A as it lies in device memory, [m][k] when k runs along memory
   (P::A_ALONG_K), else [k][m]; likewise B. */
enum { BK = 32, TILE_THREADS = 128 };

/* A place of a sliding window: where its tap 0 lies in the array the window slides over, and the taps (10 bits an axis)
   that lie inside. */
struct spot { int base; unsigned taps; };

/* Shapes of a BM x BN tile; E: what lies in shared memory. The padding keeps rows aligned to 16 bytes and reads free of
   bank conflicts. */
template <class P, int MODE, int BM, int BN> struct tile_shape {
    typedef typename P::storage S;
    enum {
        HALF = MODE == BF16,
        PAD_K = HALF ? 8 : 4,
        PAD = 8,
        A_ROWS = P::A_ALONG_K ? BM : BK,
        A_COLS = P::A_ALONG_K ? BK : BM,
        A_LD = A_COLS + (P::A_ALONG_K ? PAD_K : PAD),
        B_ROWS = P::B_ALONG_K ? BN : BK,
        B_COLS = P::B_ALONG_K ? BK : BN,
        B_LD = B_COLS + (P::B_ALONG_K ? PAD_K : PAD),
        A_SIZE = A_ROWS * A_LD,
        B_SIZE = B_ROWS * B_LD,
        STAGE = A_SIZE + B_SIZE,
        PLACES = P::PLACES_ARE_ROWS ? BM : 2 * BK
    };
    static size_t bytes() { return sizeof(int) * 2 * PLACES + 2 * STAGE * (HALF ? 2 : 4); }
};

/* Products of a tile in float32: 16 x 8 threads, each BM / 16 x BN / 8 of it; k in order. Rows and columns of a thread
   are such that the lanes of a warp read different banks or the same word. */
template <class P, int BM, int BN> struct tile_exact {
    typedef tile_shape<P, EXACT, BM, BN> T;
    typedef float E;
    enum { M = BM / 16, N = BN / 8 };
    float sum[M][N];
    static __device__ __forceinline__ int at(int t, int i, int threads, int along_k)
    {
        return along_k ? t + threads * i : i / 4 * 4 * threads + t * 4 + i % 4;
    }
    static __device__ __forceinline__ int row(int i) { return at((int)threadIdx.x / 8, i, 16, P::A_ALONG_K); }
    static __device__ __forceinline__ int col(int j) { return at((int)threadIdx.x % 8, j, 8, P::B_ALONG_K); }
    __device__ void start()
    {
        BMVPI_UNROLLED
        for (int i = 0; i < M * N; ++i) sum[i / N][i % N] = 0;
    }
    /* 4 steps of k of operands that lie along k, or 4 neighbours of one step */
    static __device__ __forceinline__ piece<float, 4> four(const float *x, int ld, int along_k, int k, int e, int own,
                                                           int quad)
    {
        return *(const piece<float, 4> *)(const void *)(along_k ? x + own * ld + k : x + (k + e) * ld + quad);
    }
    __device__ void step(const float *a, const float *b)
    {
        BMVPI_ROLLED
        for (int k = 0; k < BK; k += 4) {
            piece<float, 4> u[M], v[N];
            BMVPI_UNROLLED
            for (int i = 0; i < M; ++i) u[i] = four(a, T::A_LD, P::A_ALONG_K, k, i % 4, row(i), row(i / 4 * 4));
            BMVPI_UNROLLED
            for (int j = 0; j < N; ++j) v[j] = four(b, T::B_LD, P::B_ALONG_K, k, j % 4, col(j), col(j / 4 * 4));
            BMVPI_UNROLLED
            for (int e = 0; e < 4; ++e)
                BMVPI_UNROLLED
                for (int i = 0; i < M; ++i)
                    BMVPI_UNROLLED
                    for (int j = 0; j < N; ++j)
                        sum[i][j] += (P::A_ALONG_K ? u[i].v[e] : u[i / 4 * 4 + e].v[i % 4]) *
                                     (P::B_ALONG_K ? v[j].v[e] : v[j / 4 * 4 + e].v[j % 4]);
        }
    }
    __device__ void store(const P &p, int z, int m0, int n0) const
    {
        BMVPI_UNROLLED
        for (int i = 0; i < M; ++i)
            BMVPI_UNROLLED
            for (int j = 0; j < N; ++j)
                if (m0 + row(i) < p.m && n0 + col(j) < p.n) p.store(z, m0 + row(i), n0 + col(j), sum[i][j]);
    }
};

/* On tensor cores: 2 x 2 warps, each BM / 2 x BN / 2 of the tile as fragments of 16 x 8 (see mma_tf32). */
template <class P, int MODE, int BM, int BN> struct tile_mma {
    typedef tile_shape<P, MODE, BM, BN> T;
    enum { M = BM / 32, N = BN / 16 };
    float sum[M][N][4];
    static __device__ int warp_row() { return (int)threadIdx.x / 64 * (BM / 2); }
    static __device__ int warp_col() { return (int)threadIdx.x / 32 % 2 * (BN / 2); }
    __device__ void start()
    {
        BMVPI_UNROLLED
        for (int i = 0; i < M * N * 4; ++i) sum[i / (N * 4)][i / 4 % N][i % 4] = 0;
    }
    __device__ void step(const uint16_t *a, const uint16_t *b) /* bfloat16 */
    {
        const int lane = (int)threadIdx.x % 32, low = lane % 8, odd = lane / 8 % 2 * 8, high = lane / 16 * 8;
        BMVPI_UNROLLED
        for (int k = 0; k < BK; k += 16) {
            uint32_t u[M][4], v[N][2], r[4];
            BMVPI_UNROLLED
            for (int i = 0; i < M; ++i) {
                const int m = warp_row() + i * 16;
                if (P::A_ALONG_K) matrix_load(u[i], a + (m + low + odd) * T::A_LD + k + high);
                else matrix_load_transposed(u[i], a + (k + low + high) * T::A_LD + m + odd);
            }
            BMVPI_UNROLLED
            for (int j = 0; j < N; j += 2) {
                const int n = warp_col() + j * 8;
                if (P::B_ALONG_K) matrix_load(r, b + (n + low + high) * T::B_LD + k + odd);
                else matrix_load_transposed(r, b + (k + low + odd) * T::B_LD + n + high);
                v[j][0] = r[0], v[j][1] = r[1], v[j + 1][0] = r[2], v[j + 1][1] = r[3];
            }
            BMVPI_UNROLLED
            for (int i = 0; i < M; ++i)
                BMVPI_UNROLLED
                for (int j = 0; j < N; ++j) mma_bf16(sum[i][j], u[i], v[j]);
        }
    }
    static __device__ __forceinline__ uint32_t a_at(const float *a, int m, int k)
    {
        return round_tf32(a[P::A_ALONG_K ? m * T::A_LD + k : k * T::A_LD + m]);
    }
    static __device__ __forceinline__ uint32_t b_at(const float *b, int k, int n)
    {
        return round_tf32(b[P::B_ALONG_K ? n * T::B_LD + k : k * T::B_LD + n]);
    }
    __device__ void step(const float *a, const float *b) /* TF32 */
    {
        const int g = (int)threadIdx.x % 32 / 4, t = (int)threadIdx.x % 4;
        BMVPI_UNROLLED
        for (int k = 0; k < BK; k += 8) {
            uint32_t u[M][4], v[N][2];
            BMVPI_UNROLLED
            for (int i = 0; i < M * 4; ++i)
                u[i / 4][i % 4] = a_at(a, warp_row() + i / 4 * 16 + i % 2 * 8 + g, k + t + i % 4 / 2 * 4);
            BMVPI_UNROLLED
            for (int j = 0; j < N * 2; ++j) v[j / 2][j % 2] = b_at(b, k + t + j % 2 * 4, warp_col() + j / 2 * 8 + g);
            BMVPI_UNROLLED
            for (int i = 0; i < M; ++i)
                BMVPI_UNROLLED
                for (int j = 0; j < N; ++j) mma_tf32(sum[i][j], u[i], v[j]);
        }
    }
    __device__ void store(const P &p, int z, int m0, int n0) const
    {
        const int g = (int)threadIdx.x % 32 / 4, t = (int)threadIdx.x % 4;
        BMVPI_UNROLLED
        for (int i = 0; i < M; ++i)
            BMVPI_UNROLLED
            for (int j = 0; j < N; ++j)
                BMVPI_UNROLLED
                for (int e = 0; e < 4; ++e) {
                    const int row = m0 + warp_row() + i * 16 + e / 2 * 8 + g,
                              col = n0 + warp_col() + j * 8 + 2 * t + e % 2;
                    if (row < p.m && col < p.n) p.store(z, row, col, sum[i][j][e]);
                }
    }
};
template <class P, int MODE, int BM, int BN> struct tile_products { typedef tile_mma<P, MODE, BM, BN> type; };
template <class P, int BM, int BN> struct tile_products<P, EXACT, BM, BN> { typedef tile_exact<P, BM, BN> type; };
template <int MODE> struct tile_element { typedef float type; };
template <> struct tile_element<BF16> { typedef uint16_t type; };

/* ROWS x COLS of an operand from device to shared memory, V neighbours at a time, from where at(row) says (NULL:
   zeros). Straight when both hold the same type; else begin fetches, and finish rounds what was fetched on its way into
   shared memory. */
template <class S, class E, int V, int ROWS, int COLS, int LD> struct tile_copy {
    enum {
        STRAIGHT = sizeof(S) == sizeof(E) && V * sizeof(S) >= 4,
        WIDE = COLS / V,
        STEP = TILE_THREADS / WIDE,
        N = ROWS / STEP
    };
    piece<S, V> held[STRAIGHT ? 1 : N];
    static __device__ __forceinline__ int col() { return (int)threadIdx.x % WIDE * V; }
    static __device__ __forceinline__ int row(int e) { return (int)threadIdx.x / WIDE + e * STEP; }
    template <class A> __device__ __forceinline__ void begin(const A &at, const S *any, E *to)
    {
        BMVPI_UNROLLED
        for (int e = 0; e < N; ++e) {
            const S *from = at(row(e));
            if (STRAIGHT) {
                copy_async<STRAIGHT ? (int)(V * sizeof(S)) : 4>(to + row(e) * LD + col(), from ? from : any,
                                                                from != NULL);
                continue;
            }
            if (from) held[STRAIGHT ? 0 : e] = *(const piece<S, V> *)(const void *)from;
            else for (int i = 0; i < V; ++i) held[STRAIGHT ? 0 : e].v[i] = S(0.0f);
        }
    }
    __device__ __forceinline__ void finish(uint16_t *to) const
    {
        BMVPI_UNROLLED
        for (int e = 0; !STRAIGHT && e < N; ++e) {
            const piece<S, V> &h = held[STRAIGHT ? 0 : e];
            if (V == 1) to[row(e) * LD + col()] = (uint16_t)round_bf16(value(h.v[0]), 0.0f);
            for (int i = 0; i + 1 < V; i += 2)
                *(uint32_t *)(void *)(to + row(e) * LD + col() + i) =
                    round_bf16(value(h.v[i]), value(h.v[i + 1 < V ? i + 1 : i]));
        }
    }
    __device__ __forceinline__ void finish(float *) const {} /* the copies were straight */
};

/* P gives m, n, the k range of slice z; place(z, i), the spot of place i of A; a_column(z, j), what is the same down a
   column of A as it lies in memory; a(spot, column, z) and b(z, row, column), addresses; store(z, i, j, value).
   Who:    128 threads make a tile of BM x BN (128 x 64, 64 x 32). While they multiply BK steps of k the next ones are
           on their way into the other half of shared memory. Threads of a warp load neighbouring pieces of a row.
   Launch: tiles along x, those of one row of tiles next to each other; slices (groups, parts of k) along y; 56 KB of
           shared memory in float32 and TF32, 29 KB in bfloat16, at 128 x 64. m, n, k below 2^31.
   Bits:   each element by one thread or warp, k in order within its slice.
   Traffic: A is read n / BN times and B m / BM times, mostly from L2; 2 m n k operations. float32: 16 loads of 16 bytes
           from shared memory for 256 multiply-adds of a thread; bfloat16: 6 matrix loads for 16 products of a warp. */
template <class P, int MODE, int V, int BM, int BN>
__global__ void __launch_bounds__(TILE_THREADS, 3) tile_kernel(P p, int n_tiles)
{
    typedef typename P::storage S;
    typedef tile_shape<P, MODE, BM, BN> T;
    typedef typename tile_element<MODE>::type E;
    BMVPI_DYNAMIC(spot, places);
    E *stage = (E *)(void *)(places + T::PLACES);
    const int t = (int)threadIdx.x, z = (int)blockIdx.y, first = p.k_first(z), last = p.k_last(z);
    const int m0 = (int)(blockIdx.x / (unsigned)n_tiles) * BM, n0 = (int)(blockIdx.x % (unsigned)n_tiles) * BN;
    typename tile_products<P, MODE, BM, BN>::type products;
    tile_copy<S, E, V, T::A_ROWS, T::A_COLS, T::A_LD> copy_a;
    tile_copy<S, E, V, T::B_ROWS, T::B_COLS, T::B_LD> copy_b;
    const auto begin = [&](int k0) {
        E *to = stage + (k0 - first) / BK % 2 * T::STAGE;
        const spot *row = places + (P::PLACES_ARE_ROWS ? 0 : (k0 - first) / BK % 2 * BK);
        const typename P::column column = p.a_column(z, (P::A_ALONG_K ? k0 : m0) + copy_a.col());
        copy_a.begin([&](int r) { return p.a(row[r], column, z); }, p.x, to);
        const int b_row = P::B_ALONG_K ? n0 : k0, b_col = (P::B_ALONG_K ? k0 : n0) + copy_b.col();
        copy_b.begin([&](int r) { return p.b(z, b_row + r, b_col); }, p.x, to + T::A_SIZE);
        copy_commit();
    };
    const auto finish = [&](int k0) {
        E *to = stage + (k0 - first) / BK % 2 * T::STAGE;
        copy_a.finish(to);
        copy_b.finish(to + T::A_SIZE);
    };
    for (int i = t; i < T::PLACES; i += TILE_THREADS) places[i] = p.place(z, (P::PLACES_ARE_ROWS ? m0 : first) + i);
    products.start();
    __syncthreads();
    if (first < last) {
        begin(first);
        finish(first);
    }
    BMVPI_ROLLED
    for (int k0 = first; k0 < last; k0 += BK) {
        const E *now = stage + (k0 - first) / BK % 2 * T::STAGE;
        copy_wait<0>();
        __syncthreads(); /* this half is there, and nobody reads the other one any more */
        if (k0 + BK < last) begin(k0 + BK);
        if (!P::PLACES_ARE_ROWS && t < BK) places[(k0 - first) / BK % 2 * BK + t] = p.place(z, k0 + 2 * BK + t);
        products.step(now, now + T::A_SIZE);
        if (k0 + BK < last) finish(k0 + BK);
    }
    products.store(p, z, m0, n0);
}
template <int MODE, int V, int BM, int BN, class P> static void tile_launch(bmvp_ctx *c, const P &p, int slices)
{
    const int64_t n_tiles = ceil_div(p.n, BN), tiles = ceil_div(p.m, BM) * n_tiles;
    const size_t bytes = tile_shape<P, MODE, BM, BN>::bytes();
    if (!shared_memory(c, tile_kernel<P, MODE, V, BM, BN>, bytes)) return;
    BMVPI_RUN(c, (tile_kernel<P, MODE, V, BM, BN>), dim3((unsigned)tiles, (unsigned)slices), dim3(TILE_THREADS), bytes,
              p, (int)n_tiles);
}
/* Large tiles where there are enough of them; pieces of 16 bytes where all rows are made of such, or 4 neighbours. */
static int tile_is_large(int64_t m, int64_t n, int64_t slices)
{
    return n > 32 && ceil_div(m, 128) * ceil_div(n, 64) * slices >= BMVPI_MANY_TILES;
}
template <int MODE, class P> static void tile_run_mode(bmvp_ctx *c, const P &p, int slices)
{
    enum { V = 16 / sizeof(typename P::storage) };
    if (!p.in_pieces(4)) tile_launch<MODE, 1, 64, 32>(c, p, slices);
    else if (!p.in_pieces(V)) tile_launch<MODE, 4, 64, 32>(c, p, slices);
    else if (tile_is_large(p.m, p.n, slices)) tile_launch<MODE, V, 128, 64>(c, p, slices);
    else tile_launch<MODE, V, 64, 32>(c, p, slices);
}
template <class S> struct tile_modes {
    template <class P> static void run(bmvp_ctx *c, const P &p, int slices)
    {
        const int mode = products_of(c);
        if (mode == BF16) tile_run_mode<BF16>(c, p, slices);
        else if (mode == TF32) tile_run_mode<TF32>(c, p, slices);
        else tile_run_mode<EXACT>(c, p, slices);
    }
};
template <> struct tile_modes<uint16_t> { /* tensors of bfloat16 are only there in that precision */
    template <class P> static void run(bmvp_ctx *c, const P &p, int slices) { tile_run_mode<BF16>(c, p, slices); }
};
template <class P> static void tile_run(bmvp_ctx *c, const P &p, int slices)
{
    tile_modes<typename P::storage>::run(c, p, slices);
}

/* >>op conv3d ------------------------------------------------------------------------------------------------------ */

struct conv {
    int n, ci, co, groups, in[3], out[3], k[3], s[3], p[3];
    int cig, cog; /* channels of a group */
    int taps, places, voxels; /* k^3; output and input places of all samples */
};
static conv conv_of(const bmvp_tensor *y)
{
    const bmvp_tensor *x = y->src[0], *w = y->src[1];
    conv v;
    v.n = (int)x->dim[0];
    v.ci = (int)x->dim[4];
    v.co = (int)y->dim[4];
    v.groups = (int)y->args.conv3d.groups;
    v.cig = v.ci / v.groups;
    v.cog = v.co / v.groups;
    v.taps = 1;
    v.places = v.voxels = v.n;
    for (int i = 0; i < 3; ++i) {
        v.in[i] = (int)x->dim[i + 1];
        v.out[i] = (int)y->dim[i + 1];
        v.k[i] = (int)w->dim[i];
        v.s[i] = (int)y->args.conv3d.stride[i];
        v.p[i] = (int)y->args.conv3d.pad[i];
        v.taps *= v.k[i];
        v.places *= v.out[i];
        v.voxels *= v.in[i];
    }
    return v;
}
/* Kernel = stride, no padding, one group: cut into blocks it is a matrix product. */
static int conv_is_blocks(const bmvp_tensor *y)
{
    const bmvp_conv_shape *s = &y->args.conv3d;
    int blocks = s->groups == 1;
    for (int i = 0; i < 3; ++i) blocks = blocks && y->src[1]->dim[i] == s->stride[i] && s->pad[i] == 0;
    return blocks;
}
static int conv_is_pointwise(const bmvp_tensor *y)
{
    const int64_t *s = y->args.conv3d.stride;
    return conv_is_blocks(y) && s[0] * s[1] * s[2] == 1;
}

/* What a column (tap, channel) adds to a place: the tap's distance, the channel, the tap's bits (all of them: there is
   no such column). */
struct window_column { int shift, ch; unsigned bits; };
enum { WINDOW_TAPS = 10 };

static __device__ __forceinline__ void window_split(int i, const int dim[3], int at[4]) /* n, z, y, x */
{
    for (int a = 2; a >= 0; --a) at[a + 1] = i % dim[a], i /= dim[a];
    at[0] = i;
}
/* Output place i on x: input q + tap with q = stride o - pad */
static __device__ spot window_on_input(const conv &v, int i)
{
    int at[4];
    spot s = { 0, 0 };
    if (i >= v.places) return s;
    window_split(i, v.out, at);
    s.base = at[0];
    for (int a = 0; a < 3; ++a) {
        const int q = at[a + 1] * v.s[a] - v.p[a], lo = q < 0 ? -q : 0,
                  hi = v.in[a] - q < v.k[a] ? v.in[a] - q : v.k[a];
        s.base = s.base * v.in[a] + q;
        if (hi > lo) s.taps |= ((1u << hi) - (1u << lo)) << (WINDOW_TAPS * (2 - a));
    }
    return s;
}
/* Input voxel i on y: output (q - tap) / stride where that is whole, q = i + pad; which is q / stride - tap / stride,
   both rounded down */
static __device__ spot window_on_output(const conv &v, int i)
{
    int at[4];
    spot s = { 0, 0 };
    if (i >= v.voxels) return s;
    window_split(i, v.in, at);
    s.base = at[0];
    for (int a = 0; a < 3; ++a) {
        const int q = at[a + 1] + v.p[a];
        s.base = s.base * v.out[a] + q / v.s[a];
        for (int t = q % v.s[a]; t < v.k[a] && t <= q; t += v.s[a])
            if ((q - t) / v.s[a] < v.out[a]) s.taps |= 1u << (t + WINDOW_TAPS * (2 - a));
    }
    return s;
}
/* Column j of `columns` = (tap, channel of `channels`) */
static __device__ window_column window_column_of(const conv &v, int j, int columns, int channels, int on_input)
{
    const int tap = j / channels, x = tap % v.k[2], y = tap / v.k[2] % v.k[1], z = tap / v.k[2] / v.k[1];
    window_column c;
    c.ch = j % channels;
    c.bits = j < columns ? 1u << x | 1u << (y + WINDOW_TAPS) | 1u << (z + 2 * WINDOW_TAPS) : ~0u;
    if (on_input) c.shift = (z * v.in[1] + y) * v.in[2] + x;
    else c.shift = -((z / v.s[0] * v.out[1] + y / v.s[1]) * v.out[2] + x / v.s[2]);
    return c;
}

/* y: rows are output places, columns output channels, k = (tap, input channel) */
template <class S> struct conv_forward_tile {
    enum { A_ALONG_K = 1, B_ALONG_K = 0, PLACES_ARE_ROWS = 1 };
    typedef S storage;
    typedef window_column column;
    int m, n;
    conv v;
    const S *x, *w;
    view bias;
    sink y;
    int in_pieces(int by) const { return v.cig % by == 0 && v.cog % by == 0; }
    __device__ int k_first(int) const { return 0; }
    __device__ int k_last(int) const { return v.taps * v.cig; }
    __device__ spot place(int, int i) const { return window_on_input(v, i); }
    __device__ column a_column(int, int j) const { return window_column_of(v, j, v.taps * v.cig, v.cig, 1); }
    __device__ const S *a(const spot &s, const column &c, int z) const
    {
        return (s.taps & c.bits) == c.bits ? x + (int64_t)(s.base + c.shift) * v.ci + z * v.cig + c.ch : NULL;
    }
    __device__ const S *b(int z, int k, int j) const
    {
        return k < k_last(z) && j < n ? w + (int64_t)k * v.co + z * v.cog + j : NULL;
    }
    __device__ void store(int z, int i, int j, float sum) const
    {
        const int ch = z * v.cog + j;
        put(y, (int64_t)i * v.co + ch, sum + (bias ? bias[ch] : 0.0f), 0);
    }
};
/* dx: rows are input voxels, columns input channels, k = (tap, output channel). With a stride, voxels fall into phases
   by their remainder along each axis; those of one meet the same taps, every stride-th along an axis. Slice z is a
   phase of a group. */
template <class S> struct conv_dx_tile {
    enum { A_ALONG_K = 1, B_ALONG_K = 1, PLACES_ARE_ROWS = 1 };
    typedef S storage;
    typedef window_column column;
    int m, n;
    conv v;
    const S *x, *w; /* x: dy */
    sink dx;
    int add;
    int phases[3], plain; /* strides, or 1; plain: there is one phase */
    int in_pieces(int by) const { return v.cog % by == 0; }
    /* Along axis a: the phase of slice z, its first tap, how many it has */
    __device__ int rest(int z, int a) const
    {
        const int p = z / v.groups;
        return (a == 0 ? p / (phases[1] * phases[2]) : a == 1 ? p / phases[2] : p) % phases[a];
    }
    __device__ int tap_first(int z, int a) const { return (rest(z, a) + v.p[a]) % phases[a]; }
    __device__ int taps(int z, int a) const { return (v.k[a] - tap_first(z, a) + phases[a] - 1) / phases[a]; }
    /* Voxel i of the phase, or one that is none */
    __device__ int voxel(int z, int i) const
    {
        int at[4], side[3];
        if (plain) return i;
        for (int a = 0; a < 3; ++a) {
            side[a] = (v.in[a] - rest(z, a) + phases[a] - 1) / phases[a];
            if (side[a] <= 0) return v.voxels;
        }
        window_split(i, side, at);
        for (int a = 0; a < 3; ++a) at[0] = at[0] * v.in[a] + at[a + 1] * phases[a] + rest(z, a);
        return at[0];
    }
    /* k of the phase among all (tap, channel); beyond them where the phase has no such k */
    __device__ int among_all(int z, int k) const
    {
        int at[4], n_taps[3], tap = 0;
        if (plain) return k;
        if (k >= k_last(z)) return v.taps * v.cog;
        for (int a = 0; a < 3; ++a) n_taps[a] = taps(z, a);
        window_split(k / v.cog, n_taps, at);
        for (int a = 0; a < 3; ++a) tap = tap * v.k[a] + at[a + 1] * phases[a] + tap_first(z, a);
        return tap * v.cog + k % v.cog;
    }
    __device__ int k_first(int) const { return 0; }
    __device__ int k_last(int z) const { return (plain ? v.taps : taps(z, 0) * taps(z, 1) * taps(z, 2)) * v.cog; }
    __device__ spot place(int z, int i) const { return window_on_output(v, i < m ? voxel(z, i) : v.voxels); }
    __device__ column a_column(int z, int j) const
    {
        return window_column_of(v, among_all(z, j), v.taps * v.cog, v.cog, 0);
    }
    __device__ const S *a(const spot &s, const column &c, int z) const
    {
        return (s.taps & c.bits) == c.bits ? x + (int64_t)(s.base + c.shift) * v.co + z % v.groups * v.cog + c.ch
                                           : NULL;
    }
    __device__ const S *b(int z, int j, int k) const
    {
        const int all = among_all(z, k);
        return all < v.taps * v.cog && j < n
                   ? w + (int64_t)(all / v.cog * v.cig + j) * v.co + z % v.groups * v.cog + all % v.cog
                   : NULL;
    }
    __device__ void store(int z, int i, int j, float sum) const
    {
        const int at = voxel(z, i);
        if (at < v.voxels) put(dx, (int64_t)at * v.ci + z % v.groups * v.cig + j, sum, add);
    }
};
template <class S>
static void conv_dx_run(bmvp_ctx *c, const conv &v, const view &g, const view &w, const sink &dx, int add)
{
    const int phased = v.s[0] * v.s[1] * v.s[2] <= 64;
    conv_dx_tile<S> p = { v.n, v.cig, v, (const S *)g.p, (const S *)w.p, dx, add, { 1, 1, 1 }, 0 };
    for (int a = 0; a < 3; ++a) {
        if (phased) p.phases[a] = v.s[a];
        p.m *= (int)ceil_div(v.in[a], p.phases[a]);
    }
    const int phases = p.phases[0] * p.phases[1] * p.phases[2];
    p.plain = phases == 1;
    tile_run(c, p, v.groups * phases);
}
/* dw: rows are (tap, input channel), columns output channels, k = output places, cut into parts that are added
   afterwards; slice z is a part of a group */
template <class S> struct conv_dw_tile {
    enum { A_ALONG_K = 0, B_ALONG_K = 0, PLACES_ARE_ROWS = 0 };
    typedef S storage;
    typedef window_column column;
    int m, n;
    conv v;
    const S *x, *g;
    float *part;
    int parts, length; /* of a group; places of a part */
    int in_pieces(int by) const { return v.cig % by == 0 && v.cog % by == 0; }
    __device__ int k_first(int z) const { return z % parts * length; }
    __device__ int k_last(int z) const { return k_first(z) + length < v.places ? k_first(z) + length : v.places; }
    __device__ spot place(int, int i) const { return window_on_input(v, i); }
    __device__ column a_column(int, int j) const { return window_column_of(v, j, m, v.cig, 1); }
    __device__ const S *a(const spot &s, const column &c, int z) const
    {
        return (s.taps & c.bits) == c.bits ? x + (int64_t)(s.base + c.shift) * v.ci + z / parts * v.cig + c.ch : NULL;
    }
    __device__ const S *b(int z, int k, int j) const
    {
        return k < k_last(z) && j < n ? g + (int64_t)k * v.co + z / parts * v.cog + j : NULL;
    }
    __device__ void store(int z, int i, int j, float sum) const
    {
        part[((int64_t)(z % parts) * m + i) * v.co + z / parts * v.cog + j] = sum;
    }
};
/* About 512 tiles, none with fewer than 1024 places */
template <class S> static conv_dw_tile<S> conv_dw_of(const conv &v)
{
    const int large = v.cog > 32;
    const int64_t tiles = ceil_div(v.taps * v.cig, large ? 128 : 64) * ceil_div(v.cog, large ? 64 : 32) * v.groups;
    conv_dw_tile<S> p;
    memset(&p, 0, sizeof p);
    p.v = v;
    p.m = v.taps * v.cig;
    p.n = v.cog;
    p.parts = (int)larger(1, smaller(ceil_div(512, tiles), ceil_div(v.places, 1024)));
    p.length = (int)(ceil_div(ceil_div(v.places, p.parts), BK) * BK);
    return p;
}

/* Between a volume and its blocks (places, k^3 C): to the blocks, or back. */
static void conv_blocks(bmvp_ctx *c, const bmvp_tensor *volume, const int64_t blocks[3], const int64_t k[3],
                        const view &from, const sink &to, int back, int add)
{
    int64_t dim[8], xs[8], ys[8];
    block_axes(volume->dim, blocks, k, dim, xs, ys);
    strided_copy(c, 8, dim, from, back ? ys : xs, to, back ? xs : ys, add);
}
static int conv_fits(bmvp_ctx *c, const bmvp_tensor *y)
{
    const int64_t most = larger(larger(y->src[0]->numel / y->src[0]->dim[4], y->numel / y->dim[4]), y->src[1]->numel);
    int64_t taps = 1;
    for (int i = 0; i < 3; ++i) taps = larger(taps, y->src[1]->dim[i]);
    if (most >= INT32_MAX - 128) bmvp_fail(c, BMVP_E_UNSUPPORTED, "conv3d: cuda: 2^31 places or weights are too many");
    else if (!conv_is_blocks(y) && taps > WINDOW_TAPS)
        bmvp_fail(c, BMVP_E_UNSUPPORTED, "conv3d: cuda: kernels of up to %d voxels along an axis", (int)WINDOW_TAPS);
    else if (y->args.conv3d.groups > 65535 / 512) bmvp_fail(c, BMVP_E_UNSUPPORTED, "conv3d: cuda: up to 127 groups");
    else return 1;
    return 0;
}
template <class S> static void conv_forward_run(bmvp_ctx *c, const bmvp_tensor *y, const view &x, const view &w)
{
    const conv v = conv_of(y);
    tile_run(c,
             conv_forward_tile<S>{ v.places, v.cog, v, (const S *)x.p, (const S *)w.p, values(y->src[2]), result(y) },
             v.groups);
}
/* The blocks of x in `room`, or x itself where they are the same, as the product takes them; room then points behind */
static view conv_blocks_of(bmvp_ctx *c, const bmvp_tensor *y, float **room)
{
    const sink u = { *room, is_half(y) };
    if (conv_is_pointwise(y)) return operand_of(c, y, y->src[0], room);
    conv_blocks(c, y->src[0], y->dim + 1, y->args.conv3d.stride, values(y->src[0]), u, 0, 0);
    *room += floats_for(y->numel / y->dim[4] * (y->src[1]->numel / y->dim[4]), u.half);
    return u;
}
static void conv3d_forward(bmvp_ctx *c, bmvp_tensor *y)
{
    float *room = bmvp_kernel_workspace(c);
    if (!conv_fits(c, y)) return;
    const view w = operand_of(c, y, y->src[1], &room);
    if (conv_is_blocks(y)) {
        const view b = operand_bias(c, y, y->src[2], &room), u = conv_blocks_of(c, y, &room);
        gemm_bias(c, y->numel / y->dim[4], y->dim[4], y->src[1]->numel / y->dim[4], u, w, b, result(y));
        return;
    }
    const view x = operand_of(c, y, y->src[0], &room);
    if (x.half) conv_forward_run<uint16_t>(c, y, x, w);
    else conv_forward_run<float>(c, y, x, w);
}
/* Gradients of x and w as products with the blocks, gy and w as these take them */
static void conv_blocks_backward(bmvp_ctx *c, bmvp_tensor *y, const view &gy, const view &w, const sink &gx, int add_x,
                                 const sink &gw, int add_w, float *room)
{
    const bmvp_tensor *x = y->src[0];
    const int64_t rows = y->numel / y->dim[4], k = y->src[1]->numel / y->dim[4];
    const int plain = conv_is_pointwise(y);
    const sink u = { room, is_half(y) };
    if (gw) gemm_run(c, gemm_of(k, y->dim[4], rows, conv_blocks_of(c, y, &room), 1, gy, 0, gw, add_w));
    if (!gx) return;
    gemm_run(c, gemm_of(rows, k, y->dim[4], gy, 0, w, 1, plain ? gx : u, plain && add_x));
    if (plain) return;
    if (!add_x && rows * k < x->numel) fill(c, gx, 0, x->numel); /* voxels beyond the last whole block */
    conv_blocks(c, x, y->dim + 1, y->args.conv3d.stride, u, gx, 1, add_x);
}
template <class S>
static void conv_dw_run(bmvp_ctx *c, const bmvp_tensor *y, const view &x, const view &gy, const sink &gw, int add,
                        float *part)
{
    conv_dw_tile<S> p = conv_dw_of<S>(conv_of(y));
    p.x = (const S *)x.p;
    p.g = (const S *)gy.p;
    p.part = part;
    tile_run(c, p, p.parts * p.v.groups);
    join_parts(c, part, p.parts, y->src[1]->numel, gw, add);
}
static void conv3d_backward(bmvp_ctx *c, bmvp_tensor *y)
{
    float *room = bmvp_kernel_workspace(c);
    const view gy = operand_gradient(c, y, &room), w = operand_of(c, y, y->src[1], &room);
    int add[3];
    sink g[3];
    for (int i = 0; i < 3; ++i) g[i] = grad(c, y->src[i], &add[i]);
    if (g[2]) bias_grad(c, gradient(y), y->numel / y->dim[4], y->dim[4], g[2], add[2], room);
    if (conv_is_blocks(y)) {
        conv_blocks_backward(c, y, gy, w, g[0], add[0], g[1], add[1], room);
        return;
    }
    if (g[0] && gy.half) conv_dx_run<uint16_t>(c, conv_of(y), gy, w, g[0], add[0]);
    else if (g[0]) conv_dx_run<float>(c, conv_of(y), gy, w, g[0], add[0]);
    if (!g[1]) return;
    const view x = operand_of(c, y, y->src[0], &room);
    if (x.half) conv_dw_run<uint16_t>(c, y, x, gy, g[1], add[1], room);
    else conv_dw_run<float>(c, y, x, gy, g[1], add[1], room);
}
static int64_t conv3d_workspace(const bmvp_ctx *, const bmvp_tensor *y, int backward)
{
    const int64_t rows = y->numel / y->dim[4], x = operand_room(y, y->src[0]), w = operand_room(y, y->src[1]);
    const int64_t before = w + operand_room(y, backward ? y : y->src[2]);
    int64_t room = x;
    if (conv_is_blocks(y) && !conv_is_pointwise(y))
        room = floats_for(rows * (y->src[1]->numel / y->dim[4]), is_half(y));
    else if (!conv_is_blocks(y) && backward) room += y->src[1]->numel * conv_dw_of<float>(conv_of(y)).parts;
    return before + larger(room, backward && y->src[2] ? bias_workspace(rows, y->dim[4]) : 0);
}

/* >>op depthwise3d: with its kernels ------------------------------------------------------------------------------- */

struct depthwise {
    int64_t n, d, h, w, c;
    int residual;                 /* 1: y = x + ...: the middle weight is one more, also in the gradient to x */
    int k, wide;                  /* kernel; channels of a block, of the kernels for any K */
    int64_t strips;               /* runs of STRIP outputs along W */
    int64_t lines, chunk, chunks; /* rows along W of all samples; lines, or tiles, of a block that sums weights */
    int across, down;             /* warps of a tile along W and along H */
    int64_t tiles_w, tiles_h, depth, slabs; /* tiles of a plane; planes of a block and how many such slabs make D */
};
enum { STRIP = 8, WARP = 32 };
/* Rows of a tile whose weight gradient a block sums: STRIP x that many places, one warp for a row of it and a row of
   taps */
template <int K> struct depthwise_weight_tile { enum { ROWS = K == 3 ? 8 : 4 }; };
static int depthwise_in_tiles(const depthwise &s) { return (s.k == 3 || s.k == 5) && s.h * s.w * s.c < INT32_MAX; }

/* Warps of a tile: what two blocks' registers allow */
template <int K> struct depthwise_tile { enum { WARPS = K == 3 ? 8 : 6 }; };

/* Each warp makes 2 rows of STRIP outputs: the tile that computes and loads least for this plane. */
static void depthwise_choose_tile(depthwise *s)
{
    const int most = s->k == 3 ? (int)depthwise_tile<3>::WARPS : (int)depthwise_tile<5>::WARPS;
    double least = INFINITY;
    for (int across = 1; across <= 4; ++across)
        for (int down = 1; down * across <= most; ++down) {
            const int64_t tw = ceil_div(s->w, across * STRIP), th = ceil_div(s->h, down * 2);
            const double made = (double)(across * STRIP * down * 2),
                         read = (double)((across * STRIP + s->k - 1) * (down * 2 + s->k - 1));
            /* few warps hide little */
            const double cost = (double)(tw * th) * (made + 0.25 * read) * (across * down < 4 ? 1.5 : 1.0);
            if (cost >= least) continue;
            least = cost;
            s->across = across, s->down = down, s->tiles_w = tw, s->tiles_h = th;
        }
    s->depth = s->d;
    while (s->depth > 8 && s->n * s->tiles_w * s->tiles_h * ceil_div(s->c, WARP) * ceil_div(s->d, s->depth) < 512)
        s->depth = ceil_div(s->depth, 2);
    s->slabs = ceil_div(s->d, s->depth);
}
static depthwise depthwise_of(const bmvp_tensor *y)
{
    depthwise s;
    memset(&s, 0, sizeof s);
    s.n = y->dim[0], s.d = y->dim[1], s.h = y->dim[2], s.w = y->dim[3], s.c = y->dim[4];
    s.residual = y->args.depthwise3d.residual;
    s.k = (int)y->src[1]->dim[0];
    s.wide = power_of_two(s.c, 32);
    s.strips = ceil_div(s.w, STRIP);
    s.lines = s.n * s.d * s.h;
    s.chunk = larger(THREADS / s.wide, ceil_div(s.lines, 64));
    s.chunks = ceil_div(s.lines, s.chunk);
    if (!depthwise_in_tiles(s)) return s;
    depthwise_choose_tile(&s);
    const int rows = s.k == 3 ? (int)depthwise_weight_tile<3>::ROWS : (int)depthwise_weight_tile<5>::ROWS;
    const int64_t tiles = s.n * s.strips * ceil_div(s.h, rows);
    s.chunk = ceil_div(tiles * ceil_div(s.c, WARP), 1024);
    s.chunks = ceil_div(tiles, s.chunk);
    return s;
}

/* What the residual adds to the weight of a tap */
static __device__ __forceinline__ float depthwise_own(const depthwise &s, int tap, int taps)
{
    return s.residual && tap == taps / 2 ? 1.0f : 0.0f;
}

/* Rows [row0, row0 + rows) and columns [col0, col0 + cols) of a plane, 32 channels, into shared memory; zeros where
   there are none. A warp takes a row; whole rows of 16-byte pieces are copied asynchronously, odd channel counts are
   not. */
template <class S>
static __device__ void depthwise_load(const depthwise &s, const S *plane, S *to, int row0, int rows, int col0, int cols,
                                      int channels)
{
    enum { PIECE = 16 / sizeof(S), PIECES = WARP / PIECE };
    const int lane = (int)threadIdx.x, c = (int)s.c, w = (int)s.w;
    BMVPI_ROLLED
    for (int r = (int)threadIdx.y; r < rows; r += (int)blockDim.y) {
        const int row = row0 + r, live = row >= 0 && row < s.h;
        S *line = to + r * cols * WARP;
        BMVPI_ROLLED
        for (int i = lane; c % PIECE == 0 && i < cols * PIECES; i += WARP) {
            const int col = col0 + i / PIECES, ch = i % PIECES * PIECE,
                      inside = live && col >= 0 && col < w && ch < channels;
            copy_async<16>(line + i * PIECE, inside ? plane + (row * w + col) * c + ch : plane, inside);
        }
        BMVPI_ROLLED
        for (int i = 0; c % PIECE != 0 && i < cols; ++i) {
            const int col = col0 + i, inside = live && col >= 0 && col < w && lane < channels;
            line[i * WARP + lane] = inside ? plane[(row * w + col) * c + lane] : S(0.0f);
        }
    }
}

/* Input plane z onto the K output planes it belongs to, of which those in [z0, z1) are wanted: 2 rows of STRIP of
   each */
template <class S, int K>
static __device__ __forceinline__ void depthwise_add_plane(const S *from, int cols, const float *weight, int z, int z0,
                                                           int z1, float sum[K][2][STRIP])
{
    enum { R = K / 2, RUN = STRIP + K - 1 };
    float v[2][RUN];
    BMVPI_UNROLLED
    for (int t = 0; t < RUN; ++t) v[1][t] = value(from[t * WARP]);
    BMVPI_ROLLED
    for (int j = 0; j < K; ++j) {
        BMVPI_UNROLLED
        for (int t = 0; t < RUN; ++t) {
            v[0][t] = v[1][t];
            v[1][t] = value(from[((j + 1) * cols + t) * WARP]);
        }
        BMVPI_UNROLLED
        for (int i = 0; i < K; ++i) {
            if (z + R - i < z0 || z + R - i >= z1) continue;
            BMVPI_UNROLLED
            for (int l = 0; l < K; ++l) {
                const float f = weight[((i * K + j) * K + l) * WARP];
                BMVPI_UNROLLED
                for (int t = 0; t < STRIP; ++t) sum[i][0][t] += v[0][t + l] * f, sum[i][1][t] += v[1][t + l] * f;
            }
        }
    }
}

/* y[n, d, h, w, c] (+)= b[c] + sum of x[n, d + i - r, h + j - r, w + l - r, c] w[i, j, l, c]; flip: taps in reverse,
   which is the input gradient. With a residual 1 is added to the middle weight, which is as much as to add x, or for
   the gradient that of y.
   Who:    a block makes 32 channels (lanes) of a tile in H and W (2 rows of 8 outputs a warp) and goes along D: an
           input plane is read into shared memory once, while the next one is on its way, and added to the K output
           planes it belongs to, which lie in registers.
   Launch: up to 8 warps, 6 for K = 5; samples x slabs of D x tiles along x, channels / 32 along y; two planes of a tile
           and the weights, at most 72 KB of shared memory. K 3 and 5.
   Bits:   each output by one thread, taps in order.
   Traffic: x once and the tile's rim again, from L2: 1.4 and 2.1 times in all for K 3 and 5 with tiles of 8 x 16 and 6
            x 16; y once. 2 K^3
           operations an output; for K = 5 about 200 loads from shared memory for 2000 multiply-adds of a thread. */
template <class S, int K>
__global__ void __launch_bounds__(WARP * depthwise_tile<K>::WARPS, 2)
depthwise_kernel(depthwise s, const S *x, view w, view bias, sink y, int flip, int add)
{
    enum { R = K / 2, ROWS = 2, TAPS = K * K * K };
    BMVPI_DYNAMIC(float, weight);
    const int lane = (int)threadIdx.x, warp = (int)threadIdx.y, rows = s.down * ROWS + K - 1,
              cols = s.across * STRIP + K - 1;
    const int row0 = (int)(blockIdx.x / s.tiles_w % s.tiles_h) * s.down * ROWS,
              col0 = (int)(blockIdx.x % s.tiles_w) * s.across * STRIP;
    const int64_t slab = blockIdx.x / (s.tiles_w * s.tiles_h), sample = slab / s.slabs,
                  ch0 = blockIdx.y * (int64_t)WARP, ch = ch0 + lane;
    const int z0 = (int)(slab % s.slabs * s.depth), z1 = z0 + s.depth < s.d ? (int)(z0 + s.depth) : (int)s.d;
    const int channels = s.c - ch0 < WARP ? (int)(s.c - ch0) : (int)WARP, y0 = warp / s.across * ROWS,
              x0 = warp % s.across * STRIP;
    const int64_t plane = s.h * s.w * s.c;
    const int size = rows * cols * WARP; /* of a buffer; plane z lies in that of its parity */
    const S *in = x + sample * s.d * plane + ch0;
    S *buffer = (S *)(void *)(weight + TAPS * WARP);
    float sum[K][ROWS][STRIP];
    const float start = bias && ch < s.c ? bias[ch] : 0.0f;
    const int64_t out = ((sample * s.d + z0) * s.h + row0 + y0) * s.w * s.c + (col0 + x0) * s.c + ch;
    const int live_rows = ch < s.c ? (int)s.h - row0 - y0 : 0, live_cols = (int)s.w - col0 - x0;
    for (int tap = warp; tap < TAPS; tap += (int)blockDim.y)
        weight[tap * WARP + lane] =
            ch < s.c ? w[(flip ? TAPS - 1 - tap : tap) * s.c + ch] + depthwise_own(s, tap, TAPS) : 0.0f;
    BMVPI_UNROLLED
    for (int i = 0; i < K * ROWS * STRIP; ++i) sum[i / (ROWS * STRIP)][i / STRIP % ROWS][i % STRIP] = start;
    const int first = z0 - R > 0 ? z0 - R : 0;
    depthwise_load(s, in + first * plane, buffer + (first & 1) * size, row0 - R, rows, col0 - R, cols, channels);
    copy_commit();
    BMVPI_ROLLED
    for (int z = z0 - R; z < z1 + R; ++z) {
        if (z >= 0 && z < s.d) {
            const S *from = buffer + (z & 1) * size + (y0 * cols + x0) * WARP + lane;
            copy_wait<0>();
            __syncthreads(); /* plane z is there, and nobody reads the other buffer any more */
            if (z + 1 < s.d && z + 1 < z1 + R)
                depthwise_load(s, in + (z + 1) * plane, buffer + ((z + 1) & 1) * size, row0 - R, rows, col0 - R, cols,
                               channels);
            copy_commit();
            depthwise_add_plane<S, K>(from, cols, weight + lane, z, z0, z1, sum);
        }
        if (z - R >= z0) {
            BMVPI_UNROLLED
            for (int b = 0; b < ROWS; ++b) {
                const sink line = y + (out + (z - R - z0) * plane + b * (int)(s.w * s.c));
                BMVPI_UNROLLED
                for (int t = 0; t < STRIP; ++t)
                    if (b < live_rows && t < live_cols) put(line, t * s.c, sum[K - 1][b][t], add);
            }
        }
        BMVPI_UNROLLED
        for (int b = 0; b < ROWS; ++b)
            BMVPI_UNROLLED
            for (int t = 0; t < STRIP; ++t) {
                BMVPI_UNROLLED
                for (int i = K - 1; i > 0; --i) sum[i][b][t] = sum[i - 1][b][t];
                sum[0][b][t] = start;
            }
    }
}

/* The same for any odd kernel.
   Who:    a thread makes 8 neighbours along W of one channel.
   Launch: 256 threads = up to 32 channels x strips; blocks along x: strips, along y: channels / 32.
   Bits:   each output by one thread, taps in order.
   Traffic: x is read k^3 times, from L1 and L2 but for the first: for kernels that no network here has. */
template <class S>
__global__ void depthwise_any_kernel(depthwise s, const S *x, view w, view bias, sink y, int flip, int add)
{
    const int k = s.k, r = k / 2, taps = k * k * k;
    const int64_t ch = blockIdx.y * (int64_t)blockDim.x + threadIdx.x,
                  strip = blockIdx.x * (int64_t)blockDim.y + threadIdx.y;
    const int64_t line = strip / s.strips, w0 = strip % s.strips * STRIP, z = line / s.h % s.d, row = line % s.h;
    float sum[STRIP];
    if (ch >= s.c || line >= s.lines) return;
    for (int t = 0; t < STRIP; ++t) sum[t] = bias ? bias[ch] : 0.0f;
    for (int tap = 0; tap < taps; ++tap) {
        const int i = tap / (k * k) - r, j = tap / k % k - r, l = tap % k - r;
        if (z + i < 0 || z + i >= s.d || row + j < 0 || row + j >= s.h) continue;
        const S *in = x + ((line + i * s.h + j) * s.w) * s.c + ch;
        const float f = w[(flip ? taps - 1 - tap : tap) * s.c + ch] + depthwise_own(s, tap, taps);
        for (int t = 0; t < STRIP; ++t)
            if (w0 + t + l >= 0 && w0 + t + l < s.w) sum[t] += value(in[(w0 + t + l) * s.c]) * f;
    }
    for (int t = 0; t < STRIP; ++t)
        if (w0 + t < s.w) put(y, (line * s.w + w0 + t) * s.c + ch, sum[t], add);
}

template <class S, int K>
static void depthwise_run_tiles(bmvp_ctx *c, const depthwise &s, const S *x, const view &w, const view &bias,
                                const sink &y, int flip, int add)
{
    const size_t planes = 2 * sizeof(S) * (size_t)((s.down * 2 + K - 1) * (s.across * STRIP + K - 1) * WARP);
    const size_t bytes = planes + sizeof(float) * K * K * K * WARP;
    if (!shared_memory(c, depthwise_kernel<S, K>, bytes)) return;
    BMVPI_RUN(c, (depthwise_kernel<S, K>),
              dim3((unsigned)(s.n * s.slabs * s.tiles_h * s.tiles_w), (unsigned)ceil_div(s.c, WARP)),
              dim3(WARP, (unsigned)(s.across * s.down)), bytes, s, x, w, bias, y, flip, add);
}
template <class S>
static void depthwise_run(bmvp_ctx *c, const depthwise &s, const S *x, const view &w, const view &bias, const sink &y,
                          int flip, int add)
{
    const dim3 block((unsigned)s.wide, (unsigned)(THREADS / s.wide));
    const dim3 grid((unsigned)ceil_div(s.lines * s.strips, block.y), (unsigned)ceil_div(s.c, s.wide));
    if (!depthwise_in_tiles(s)) BMVPI_RUN(c, depthwise_any_kernel<S>, grid, block, 0, s, x, w, bias, y, flip, add);
    else if (s.k == 3) depthwise_run_tiles<S, 3>(c, s, x, w, bias, y, flip, add);
    else depthwise_run_tiles<S, 5>(c, s, x, w, bias, y, flip, add);
}

/* part[chunk, i, j, l, c] = sum over the chunk's tiles of g[n, d, h, w, c] x[n, d + i - r, h + j - r, w + l - r, c].
   Who:    a block takes 32 channels (lanes) of a tile of a few rows x 8 places and goes along D, planes of x and g on
           their way while the last ones are used; warp (q, j) sums the K^2 taps (i, l) of row q of the tile and row j
           of the taps: it keeps K planes of its 8 places of g in registers, so that a row of x is read once for K^2
           taps. Then the rows of the tile are added in order.
   Launch: 20 warps for K = 5, 24 for K = 3; chunks along x, channels / 32 along y; 49 and 33 KB of shared memory.
   Bits:   tiles are cut by shape; fixed order.
   Traffic: g once, x 3 and 1.6 times (the tile's rim, from L2) for K 5 and 3; 2 K^3 operations an element, 20 loads
            from shared memory for
           200 multiply-adds of a thread at K = 5. */
template <class S, int K>
__global__ void __launch_bounds__(WARP * K * depthwise_weight_tile<K>::ROWS, 1)
depthwise_weight_kernel(depthwise s, const S *x, const S *g, float *part)
{
    enum { R = K / 2, TH = depthwise_weight_tile<K>::ROWS, ROWS = TH + K - 1, RUN = STRIP + K - 1, TAPS = K * K * K,
           X_PLANE = ROWS * RUN * WARP, G_PLANE = TH * STRIP * WARP };
    BMVPI_DYNAMIC(float, total);
    const int lane = (int)threadIdx.x, q = (int)threadIdx.y / K, j = (int)threadIdx.y % K;
    const int64_t plane = s.h * s.w * s.c, ch0 = blockIdx.y * (int64_t)WARP, bands = (s.h + TH - 1) / TH,
                  tiles = s.n * bands * s.strips;
    const int64_t last = (blockIdx.x + 1) * s.chunk < tiles ? (blockIdx.x + 1) * s.chunk : tiles;
    const int channels = s.c - ch0 < WARP ? (int)(s.c - ch0) : (int)WARP, depth = (int)s.d;
    S *xs = (S *)(void *)(total + TAPS * WARP), *gs = xs + 2 * X_PLANE;
    float sum[K][K] = { { 0 } }, u[K][STRIP], v[RUN];
    for (int64_t tile = blockIdx.x * s.chunk; tile < last; ++tile) {
        const int col0 = (int)(tile % s.strips) * STRIP, row0 = (int)(tile / s.strips % bands) * TH;
        const int64_t at = tile / s.strips / bands * depth * plane + ch0;
        BMVPI_UNROLLED
        for (int i = 0; i < K * STRIP; ++i) u[i / STRIP][i % STRIP] = 0;
        /* the last planes of the tile before have been used: its last steps read no g */
        depthwise_load(s, g + at, gs, row0, TH, col0, STRIP, channels);
        copy_commit();
        BMVPI_ROLLED
        for (int z = -R; z < depth; ++z) { /* planes z of x and z + R of g lie in the buffers of their parity */
            copy_wait<0>();
            __syncthreads();
            if (z + 1 >= 0 && z + 1 < depth)
                depthwise_load(s, x + at + (z + 1) * plane, xs + ((z + 1) & 1) * X_PLANE, row0 - R, ROWS, col0 - R, RUN,
                               channels);
            if (z + 1 + R < depth)
                depthwise_load(s, g + at + (z + 1 + R) * plane, gs + ((z + 1 + R) & 1) * G_PLANE, row0, TH, col0, STRIP,
                               channels);
            copy_commit();
            BMVPI_UNROLLED
            for (int t = 0; t < STRIP; ++t) {
                BMVPI_UNROLLED
                for (int i = K - 1; i > 0; --i) u[i][t] = u[i - 1][t];
                u[0][t] = z + R < depth ? value(gs[((z + R) & 1) * G_PLANE + (q * STRIP + t) * WARP + lane]) : 0.0f;
            }
            if (z < 0) continue;
            BMVPI_UNROLLED
            for (int t = 0; t < RUN; ++t) v[t] = value(xs[(z & 1) * X_PLANE + ((q + j) * RUN + t) * WARP + lane]);
            BMVPI_UNROLLED
            for (int i = 0; i < K; ++i)
                BMVPI_UNROLLED
                for (int l = 0; l < K; ++l)
                    BMVPI_UNROLLED
                    for (int t = 0; t < STRIP; ++t) sum[i][l] += u[i][t] * v[t + l];
        }
    }
    for (int turn = 0; turn < TH; ++turn) {
        BMVPI_UNROLLED
        for (int i = 0; i < K * K; ++i) {
            float *to = total + ((i / K * K + j) * K + i % K) * WARP + lane;
            if (q == turn) *to = turn ? *to + sum[i / K][i % K] : sum[i / K][i % K];
        }
        __syncthreads();
    }
    for (int tap = (int)threadIdx.y; tap < TAPS; tap += (int)blockDim.y)
        if (lane < channels) part[(blockIdx.x * (int64_t)TAPS + tap) * s.c + ch0 + lane] = total[tap * WARP + lane];
}

/* The same for any odd kernel, one tap at a time.
   Who:    a thread sums one tap of one channel over every so many lines of the chunk; the threads of a channel add up
           in order.
   Launch: 256 threads; chunks x k along x, channels / 32 along y, k^2 along z (k up to 255).
   Bits:   as above.
   Traffic: x and g are read k^3 times: for kernels that no network here has. */
template <class S> __global__ void depthwise_weight_any_kernel(depthwise s, const S *x, const S *g, float *part)
{
    __shared__ float share[THREADS];
    const int k = s.k, r = k / 2, l = (int)(blockIdx.x % (unsigned)k);
    const int j = (int)(blockIdx.z % (unsigned)k), i = (int)(blockIdx.z / (unsigned)k);
    const int64_t chunk = blockIdx.x / (unsigned)k, first = chunk * s.chunk;
    const int64_t ch = blockIdx.y * (int64_t)blockDim.x + threadIdx.x,
                  last = first + s.chunk < s.lines ? first + s.chunk : s.lines;
    float sum = 0, total = 0;
    for (int64_t line = first + threadIdx.y; ch < s.c && line < last; line += blockDim.y) {
        const int64_t z = line / s.h % s.d + i - r, row = line % s.h + j - r;
        if (z < 0 || z >= s.d || row < 0 || row >= s.h) continue;
        for (int64_t t = 0; t < s.w; ++t)
            if (t + l - r >= 0 && t + l - r < s.w)
                sum += value(g[(line * s.w + t) * s.c + ch]) *
                       value(x[((line + (i - r) * s.h + j - r) * s.w + t + l - r) * s.c + ch]);
    }
    share[threadIdx.y * blockDim.x + threadIdx.x] = sum;
    __syncthreads();
    for (unsigned t = 0; threadIdx.y == 0 && t < blockDim.y; ++t) total += share[t * blockDim.x + threadIdx.x];
    if (threadIdx.y == 0 && ch < s.c) part[(chunk * k * k * k + (i * k + j) * k + l) * s.c + ch] = total;
}
template <class S, int K>
static void depthwise_weight_tiles(bmvp_ctx *c, const depthwise &s, const S *x, const S *g, float *part)
{
    const int rows = depthwise_weight_tile<K>::ROWS;
    const size_t planes = 2 * sizeof(S) * (size_t)(((rows + K - 1) * (STRIP + K - 1) + rows * STRIP) * WARP);
    const size_t bytes = planes + sizeof(float) * K * K * K * WARP;
    if (!shared_memory(c, depthwise_weight_kernel<S, K>, bytes)) return;
    BMVPI_RUN(c, (depthwise_weight_kernel<S, K>), dim3((unsigned)s.chunks, (unsigned)ceil_div(s.c, WARP)),
              dim3(WARP, (unsigned)(K * rows)), bytes, s, x, g, part);
}
template <class S>
static void depthwise_weights(bmvp_ctx *c, const depthwise &s, const S *x, const S *g, const sink &gw, int add,
                              float *part)
{
    const dim3 block((unsigned)s.wide, (unsigned)(THREADS / s.wide));
    const unsigned chunks = (unsigned)s.chunks, wide = (unsigned)ceil_div(s.c, s.wide), k = (unsigned)s.k;
    if (!depthwise_in_tiles(s))
        BMVPI_RUN(c, depthwise_weight_any_kernel<S>, dim3(chunks * k, wide, k * k), block, 0, s, x, g, part);
    else if (s.k == 3) depthwise_weight_tiles<S, 3>(c, s, x, g, part);
    else depthwise_weight_tiles<S, 5>(c, s, x, g, part);
    join_parts(c, part, (int)s.chunks, (int64_t)s.k * s.k * s.k * s.c, gw, add);
}
static void depthwise3d_forward(bmvp_ctx *c, bmvp_tensor *y)
{
    const view x = values(y->src[0]), w = values(y->src[1]), b = values(y->src[2]);
    if (x.half) depthwise_run(c, depthwise_of(y), (const uint16_t *)x.p, w, b, result(y), 0, 0);
    else depthwise_run(c, depthwise_of(y), (const float *)x.p, w, b, result(y), 0, 0);
}
static void depthwise3d_backward(bmvp_ctx *c, bmvp_tensor *y)
{
    const depthwise s = depthwise_of(y);
    float *room = bmvp_kernel_workspace(c);
    const view x = operand_of(c, y, y->src[0], &room), gy = operand_gradient(c, y, &room), w = values(y->src[1]),
               none = { NULL, 0 };
    int add[3];
    sink g[3];
    for (int i = 0; i < 3; ++i) g[i] = grad(c, y->src[i], &add[i]);
    if (g[0] && gy.half) depthwise_run(c, s, (const uint16_t *)gy.p, w, none, g[0], 1, add[0]);
    else if (g[0]) depthwise_run(c, s, (const float *)gy.p, w, none, g[0], 1, add[0]);
    if (g[1] && gy.half) depthwise_weights(c, s, (const uint16_t *)x.p, (const uint16_t *)gy.p, g[1], add[1], room);
    else if (g[1]) depthwise_weights(c, s, (const float *)x.p, (const float *)gy.p, g[1], add[1], room);
    if (g[2]) bias_grad(c, gradient(y), y->numel / s.c, s.c, g[2], add[2], room);
}
static int64_t depthwise3d_workspace(const bmvp_ctx *, const bmvp_tensor *y, int backward)
{
    const depthwise s = depthwise_of(y);
    if (!backward) return 0;
    return operand_room(y, y->src[0]) + operand_room(y, y) +
           larger(s.chunks * y->src[1]->numel, y->src[2] ? bias_workspace(y->numel / s.c, s.c) : 0);
}

/* >>op conv_transpose3d -------------------------------------------------------------------------------------------- */

/* x (places, Ci) times w (Ci, k^3 Co) gives the blocks of y. */
static void conv_transpose3d_forward(bmvp_ctx *c, bmvp_tensor *y)
{
    const int64_t ci = y->src[1]->dim[0], k = y->src[1]->numel / ci;
    float *room = bmvp_kernel_workspace(c);
    const view x = operand_of(c, y, y->src[0], &room), w = operand_of(c, y, y->src[1], &room);
    const sink u = { room, is_half(y) };
    gemm_run(c, gemm_of(y->src[0]->numel / ci, k, ci, x, 0, w, 0, u, 0));
    conv_blocks(c, y, y->src[0]->dim + 1, y->src[1]->dim + 1, u, result(y), 1, 0);
    add_bias(c, result(y), y->numel / y->dim[4], y->dim[4], values(y->src[2]));
}
static void conv_transpose3d_backward(bmvp_ctx *c, bmvp_tensor *y)
{
    const int64_t ci = y->src[1]->dim[0], k = y->src[1]->numel / ci, places = y->src[0]->numel / ci;
    float *room = bmvp_kernel_workspace(c);
    const view x = operand_of(c, y, y->src[0], &room), w = operand_of(c, y, y->src[1], &room);
    const sink u = { room, is_half(y) };
    int add[3];
    sink g[3];
    for (int i = 0; i < 3; ++i) g[i] = grad(c, y->src[i], &add[i]);
    if (g[2]) bias_grad(c, gradient(y), y->numel / y->dim[4], y->dim[4], g[2], add[2], room);
    if (g[0] || g[1]) conv_blocks(c, y, y->src[0]->dim + 1, y->src[1]->dim + 1, gradient(y), u, 0, 0);
    if (g[0]) gemm_run(c, gemm_of(places, ci, k, u, 0, w, 1, g[0], add[0]));
    if (g[1]) gemm_run(c, gemm_of(ci, k, places, x, 1, u, 0, g[1], add[1]));
}
static int64_t conv_transpose3d_workspace(const bmvp_ctx *, const bmvp_tensor *y, int backward)
{
    const int64_t room = operand_room(y, y->src[0]) + operand_room(y, y->src[1]);
    const int64_t bias = backward && y->src[2] ? bias_workspace(y->numel / y->dim[4], y->dim[4]) : 0;
    return room + larger(floats_for(y->numel, is_half(y)), bias);
}

/* >>norms: statistics of each (sample, group of channels); batch norm is one sample, C groups ---------------------- */

/* Workspace: the parts of the column sums; sums (samples, C) as pairs; then four arrays (samples, C): mean, scale,
   slope, shift; and of batch norm over several ranks, 2 C + 1 numbers of this rank and those of all. */
struct norm {
    columns k;
    int64_t groups, width; /* channels of a group */
    view x, g, gamma;
    int relu;              /* 1: leaky ReLU behind it, of slope leak; y: the result, residual: what is added before */
    float leak;
    view y, residual;
    float *saved;          /* mean, then 1 / sqrt(var + eps), samples x groups each */
    pair *sum;
    float *mean, *scale, *slope, *shift;
    double *own, *all;     /* own: what this rank has (C, C, rows), then in backward what all have together */
    const bmvp_comm *comm; /* of batch norm; NULL: statistics of this rank alone */
};
static norm norm_of(const bmvp_ctx *c, const bmvp_tensor *y, int64_t samples, int64_t groups, const bmvp_comm *comm)
{
    const int64_t ch = last_dim(y);
    norm s;
    s.k = columns_of(samples, y->numel / samples / ch, ch);
    s.groups = groups;
    s.width = ch / groups;
    s.x = values(y->src[0]);
    s.g = gradient(y);
    s.gamma = values(y->src[1]);
    s.relu = y->op == BMVP_OP_GROUPNORM_RELU;
    s.leak = s.relu ? (float)y->args.groupnorm_relu.slope : 0.0f;
    s.y = values(y);
    s.residual = values(s.relu ? y->src[3] : NULL);
    s.saved = y->saved;
    s.sum = (pair *)(void *)(bmvp_kernel_workspace(c) + columns_workspace(s.k));
    s.mean = (float *)(void *)(s.sum + samples * ch);
    s.scale = s.mean + samples * ch;
    s.slope = s.scale + samples * ch;
    s.shift = s.slope + samples * ch;
    s.own = (double *)(void *)(s.shift + samples * ch);
    s.all = s.own + 2 * ch + 1;
    s.comm = comm;
    return s;
}
static int64_t norm_workspace(const bmvp_tensor *y, int64_t samples)
{
    const int64_t ch = last_dim(y);
    return columns_workspace(columns_of(samples, y->numel / samples / ch, ch)) + 8 * samples * ch;
}

/* The gradient of the norm's result: what the ReLU behind it lets through */
template <int N> __device__ static void load_gradient(const norm &s, int64_t i, float *g)
{
    float y[N];
    load<N>(s.g, i, g);
    if (!s.relu) return;
    load<N>(s.y, i, y);
    BMVPI_UNROLLED
    for (int e = 0; e < N; ++e) g[e] = y[e] > 0.0f ? g[e] : s.leak * g[e];
}
/* sum[sample, c] = sums of x and x^2 (in double nothing cancels), or of g and g (x - mean) */
struct norm_columns {
    norm s;
    int back;
    template <int N> __device__ void value(int64_t i, int64_t sample, int64_t ch, pair *p) const
    {
        const float *mean = s.mean + sample * s.k.c + ch;
        float v[N], d[N];
        load<N>(s.x, i, v);
        if (back) load_gradient<N>(s, i, d);
        BMVPI_UNROLLED
        for (int e = 0; e < N; ++e) {
            const double x = (double)v[e], g = back ? (double)d[e] : x;
            p[e].a += g;
            p[e].b += g * (back ? x - (double)mean[e] : x);
        }
    }
    __device__ void finish(int64_t sample, int64_t ch, pair p) const { s.sum[sample * s.k.c + ch] = p; }
};
/* Mean and sum of squared deviations of n numbers from their sum and sum of squares */
static __device__ pair moments(pair sum, double n)
{
    const double mean = sum.a / n, squares = sum.b - sum.a * mean;
    return pair{ mean, squares > 0 ? squares : 0 };
}
/* Over several ranks: own = each channel's mean, its sum of squared deviations, and the number of rows; map over C */
struct norm_moments_map {
    norm s;
    __device__ void operator()(int64_t ch) const
    {
        const pair p = moments(s.sum[ch], (double)s.k.rows);
        s.own[ch] = p.a;
        s.own[s.k.c + ch] = p.b;
        if (ch == 0) s.own[2 * s.k.c] = (double)s.k.rows;
    }
};
/* Statistics of group i from its channels' sums, or from all ranks' moments, joined in their order as the CPU does;
   batch norm's running ones move too. Map over samples x groups. */
struct norm_statistics_map {
    norm s;
    int ranks; /* 0: from sums */
    double eps, momentum;
    float *running_mean, *running_var; /* or NULL */
    __device__ pair joined(int64_t ch, double *rows) const
    {
        const int64_t step = 2 * s.k.c + 1;
        const double *count = s.all + 2 * s.k.c;
        double n = 0, mean = 0, squares = 0;
        for (int r = 0; r < ranks; ++r) n += count[r * step];
        for (int r = 0; r < ranks; ++r) mean += s.all[r * step + ch] * (count[r * step] / n);
        for (int r = 0; r < ranks; ++r) {
            const double apart = s.all[r * step + ch] - mean;
            squares += s.all[r * step + s.k.c + ch] + count[r * step] * apart * apart;
        }
        *rows = n;
        return pair{ mean, squares };
    }
    __device__ void operator()(int64_t i) const
    {
        double n = (double)(s.k.rows * s.width);
        pair p = join_sum::none();
        for (int64_t j = i * s.width; ranks == 0 && j < (i + 1) * s.width; ++j) p = join_sum::join(p, s.sum[j]);
        p = ranks ? joined(i, &n) : moments(p, n);
        const double mean = p.a, var = p.b / n;
        s.saved[i] = (float)mean;
        s.saved[s.k.samples * s.groups + i] = (float)(1.0 / sqrt(var + eps));
        if (!running_mean) return;
        running_mean[i] += (float)(momentum * ((double)(float)mean - (double)running_mean[i]));
        running_var[i] += (float)(momentum * (var * (n / (n > 1 ? n - 1 : 1)) - (double)running_var[i]));
    }
};
/* saved from the running statistics */
struct norm_running_map {
    const float *mean, *var;
    float *saved;
    int64_t n;
    double eps;
    __device__ void operator()(int64_t i) const
    {
        saved[i] = mean[i];
        saved[n + i] = (float)(1.0 / sqrt((double)var[i] + eps));
    }
};
/* mean, slope and shift of each (sample, channel), for the forward pass; map over samples x C */
struct norm_fold_map {
    norm s;
    view beta;
    __device__ void operator()(int64_t i) const
    {
        const int64_t group = i / s.width;
        s.mean[i] = s.saved[group];
        if (s.slope) s.slope[i] = s.saved[s.k.samples * s.groups + group] * (s.gamma ? s.gamma[i % s.k.c] : 1.0f);
        if (s.shift) s.shift[i] = beta ? beta[i % s.k.c] : 0.0f;
    }
};
/* y = (x - mean) slope + shift, or leaky ReLU of it and the residual; 8 bytes an element, with a residual 12 */
struct norm_apply_map {
    norm s;
    sink y;
    template <int N> __device__ void run(int64_t i, int64_t sample, int64_t ch) const
    {
        const int64_t at = sample * s.k.c + ch;
        float v[N], r[N];
        load<N>(s.x, i, v);
        BMVPI_UNROLLED
        for (int e = 0; e < N; ++e) v[e] = (v[e] - s.mean[at + e]) * s.slope[at + e] + s.shift[at + e];
        if (s.residual) {
            load<N>(s.residual, i, r);
            BMVPI_UNROLLED
            for (int e = 0; e < N; ++e) v[e] += r[e];
        }
        BMVPI_UNROLLED
        for (int e = 0; e < N && s.relu; ++e) v[e] = v[e] < 0.0f ? (s.leak > 0.0f ? s.leak * v[e] : 0.0f) : v[e];
        store<N>(y, i, v, 0);
    }
};
/* With M elements in a group, r = 1 / std, a and b the group's sums of gamma g and gamma g (x - mean): dx = r gamma g -
   r a / M - (x - mean) r^3 b / M. Here the factors; map over samples x groups. batch 0: constant statistics, only the
   first term. */
struct norm_factors_map {
    norm s;
    int batch;
    const double *rows; /* of all ranks; NULL: this rank's */
    __device__ void operator()(int64_t i) const
    {
        const double r = (double)s.saved[s.k.samples * s.groups + i], n = rows ? *rows : (double)(s.k.rows * s.width);
        double a = 0, b = 0;
        for (int64_t j = i * s.width; batch && j < (i + 1) * s.width; ++j) {
            const double gamma = s.gamma ? (double)s.gamma[j % s.k.c] : 1.0;
            a += gamma * s.sum[j].a;
            b += gamma * s.sum[j].b;
        }
        for (int64_t j = i * s.width; j < (i + 1) * s.width; ++j) {
            s.scale[j] = (float)(r * (s.gamma ? (double)s.gamma[j % s.k.c] : 1.0));
            s.slope[j] = (float)(-r * r * r * b / n);
            s.shift[j] = (float)(-r * a / n);
        }
    }
};
/* dx (+)= g scale + (x - mean) slope + shift; 12 bytes an element */
struct norm_back_map {
    norm s;
    sink dx;
    int add;
    template <int N> __device__ void run(int64_t i, int64_t sample, int64_t ch) const
    {
        const int64_t at = sample * s.k.c + ch;
        float v[N], d[N];
        load<N>(s.x, i, v);
        load_gradient<N>(s, i, d);
        BMVPI_UNROLLED
        for (int e = 0; e < N; ++e)
            d[e] = d[e] * s.scale[at + e] + (v[e] - s.mean[at + e]) * s.slope[at + e] + s.shift[at + e];
        store<N>(dx, i, d, add);
    }
};
/* dgamma (+)= sum of g (x - mean) r, dbeta (+)= sum of g, over samples; map over C */
struct norm_affine_map {
    norm s;
    sink dgamma, dbeta;
    int add_gamma, add_beta;
    __device__ void operator()(int64_t ch) const
    {
        double a = 0, b = 0;
        for (int64_t sample = 0; sample < s.k.samples; ++sample) {
            const int64_t j = sample * s.k.c + ch;
            a += s.sum[j].b * (double)s.saved[s.k.samples * s.groups + j / s.width];
            b += s.sum[j].a;
        }
        if (dgamma) put(dgamma, ch, (float)a, add_gamma);
        if (dbeta) put(dbeta, ch, (float)b, add_beta);
    }
};

/* Over several ranks, before their exchange: own = both sums of each channel, and the number of rows; map over 2 C +
   1 */
struct norm_sums_map {
    norm s;
    __device__ void operator()(int64_t i) const
    {
        s.own[i] = i == 2 * s.k.c ? (double)s.k.rows : i % 2 ? s.sum[i / 2].b : s.sum[i / 2].a;
    }
};
/* and after it: own = the sum over ranks, in their order */
struct norm_ranks_map {
    norm s;
    int ranks;
    __device__ void operator()(int64_t i) const
    {
        double v = 0;
        for (int r = 0; r < ranks; ++r) v += s.all[r * (2 * s.k.c + 1) + i];
        s.own[i] = v;
    }
};
static void norm_gather(bmvp_ctx *c, const norm &s)
{
    bmvp_kernel_gather(c, s.own, (2 * s.k.c + 1) * (int64_t)sizeof *s.own, s.all);
}

static void norm_statistics(bmvp_ctx *c, const norm &s, double eps, double momentum, float *running_mean,
                            float *running_var)
{
    columns_sum(c, norm_columns{ s, 0 }, s.k, bmvp_kernel_workspace(c));
    if (s.comm) {
        each(c, norm_moments_map{ s }, s.k.c);
        norm_gather(c, s);
    }
    each(c, norm_statistics_map{ s, s.comm ? s.comm->size : 0, eps, momentum, running_mean, running_var },
         s.k.samples * s.groups);
}
static void norm_apply(bmvp_ctx *c, bmvp_tensor *y, const norm &s)
{
    each(c, norm_fold_map{ s, values(y->src[2]) }, s.k.samples * s.k.c);
    columns_map(c, norm_apply_map{ s, result(y) }, s.k);
}
static void norm_backward(bmvp_ctx *c, bmvp_tensor *y, int64_t samples, int64_t groups, int batch,
                          const bmvp_comm *comm)
{
    norm s = norm_of(c, y, samples, groups, comm), fold = s;
    int add, add_gamma, add_beta;
    sink gx = grad(c, y->src[0], &add), ggamma = grad(c, y->src[1], &add_gamma);
    sink gbeta = grad(c, y->src[2], &add_beta);
    if (!gx && !ggamma && !gbeta) return;
    fold.slope = fold.shift = NULL; /* only the mean; slope and shift come from the sums */
    each(c, norm_fold_map{ fold, view{ NULL, 0 } }, samples * s.k.c);
    columns_sum(c, norm_columns{ s, 1 }, s.k, bmvp_kernel_workspace(c));
    if (ggamma || gbeta) each(c, norm_affine_map{ s, ggamma, gbeta, add_gamma, add_beta }, s.k.c);
    if (s.comm) { /* whether or not somebody wants gx: the other ranks wait for this one */
        each(c, norm_sums_map{ s }, 2 * s.k.c + 1);
        norm_gather(c, s);
        each(c, norm_ranks_map{ s, s.comm->size }, 2 * s.k.c + 1);
        s.sum = (pair *)(void *)s.own;
    }
    if (!gx) return;
    each(c, norm_factors_map{ s, batch, s.comm ? s.own + 2 * s.k.c : NULL }, samples * groups);
    columns_map(c, norm_back_map{ s, gx, add }, s.k);
}

/* >>op batchnorm --------------------------------------------------------------------------------------------------- */

static const bmvp_comm *batchnorm_comm(const bmvp_ctx *c, const bmvp_tensor *y)
{
    return y->args.batchnorm.training ? bmvp_comm_of(c) : NULL;
}
static void batchnorm_forward(bmvp_ctx *c, bmvp_tensor *y)
{
    const int64_t ch = last_dim(y);
    const norm s = norm_of(c, y, 1, ch, batchnorm_comm(c, y));
    if (!bmvp_kernel_recomputes(c)) {
        if (y->args.batchnorm.training)
            norm_statistics(c, s, y->args.batchnorm.eps, y->args.batchnorm.momentum,
                            y->src[3] ? buffer_of(y->src[3]) : NULL, y->src[3] ? buffer_of(y->src[4]) : NULL);
        else
            each(c, norm_running_map{ buffer_of(y->src[3]), buffer_of(y->src[4]), y->saved, ch, y->args.batchnorm.eps },
                 ch);
    }
    norm_apply(c, y, s);
}
static void batchnorm_backward(bmvp_ctx *c, bmvp_tensor *y) 
{
    norm_backward(c, y, 1, last_dim(y), y->args.batchnorm.training, batchnorm_comm(c, y));
}
static int64_t batchnorm_workspace(const bmvp_ctx *c, const bmvp_tensor *y, int)
{
    const bmvp_comm *m = bmvp_comm_of(c);
    return norm_workspace(y, 1) + (m ? 2 * (1 + m->size) * (2 * last_dim(y) + 1) : 0);
}

/* >>op layernorm: along the last axis ------------------------------------------------------------------------------ */

/* y = (x - mean) s gamma + beta, s = 1 / sqrt(var + eps), two passes over the row; saved: mean and s of each row. Lanes
   take N neighbours. */
template <int N> struct layernorm_rows {
    view x, gamma, beta;
    sink y;
    float *saved;
    double eps;
    __device__ void row(int64_t row, int64_t n, int lane, int team, int live) const
    {
        double sum = 0, square = 0;
        float v[N], f[N], b[N];
        for (int64_t i = lane * N; live && i < n; i += team * N) {
            load<N>(x, row * n + i, v);
            for (int e = 0; e < N; ++e) sum += (double)v[e];
        }
        const float mean = (float)(team_sum(sum, team) / (double)n);
        for (int64_t i = lane * N; live && i < n; i += team * N) {
            load<N>(x, row * n + i, v);
            for (int e = 0; e < N; ++e) square += (double)(v[e] - mean) * (double)(v[e] - mean);
        }
        const float s = (float)(1.0 / sqrt(team_sum(square, team) / (double)n + eps));
        if (live && lane == 0) saved[2 * row] = mean, saved[2 * row + 1] = s;
        for (int64_t i = lane * N; live && i < n; i += team * N) {
            load<N>(x, row * n + i, v);
            load<N>(gamma, i, f);
            load<N>(beta, i, b);
            for (int e = 0; e < N; ++e) v[e] = (v[e] - mean) * s * f[e] + b[e];
            store<N>(y, row * n + i, v, 0);
        }
    }
};
/* With h = gamma g, t = (x - mean) s: dx (+)= s (h - mean(h) - t mean(h t)) */
template <int N> struct layernorm_back_rows {
    view x, g, gamma;
    const float *saved;
    sink dx;
    int add;
    __device__ void row(int64_t row, int64_t n, int lane, int team, int live) const
    {
        const float mean = saved[2 * row], s = saved[2 * row + 1];
        double sum = 0, dot = 0;
        float v[N], d[N], f[N];
        for (int64_t i = lane * N; live && i < n; i += team * N) {
            load<N>(x, row * n + i, v);
            load<N>(g, row * n + i, d);
            load<N>(gamma, i, f);
            for (int e = 0; e < N; ++e) {
                const double h = (double)d[e] * (double)f[e];
                sum += h;
                dot += h * (double)((v[e] - mean) * s);
            }
        }
        const float a = (float)(team_sum(sum, team) / (double)n), b = (float)(team_sum(dot, team) / (double)n);
        for (int64_t i = lane * N; live && i < n; i += team * N) {
            load<N>(x, row * n + i, v);
            load<N>(g, row * n + i, d);
            load<N>(gamma, i, f);
            for (int e = 0; e < N; ++e) d[e] = s * (d[e] * f[e] - a - (v[e] - mean) * s * b);
            store<N>(dx, row * n + i, d, add);
        }
    }
};
/* dgamma (+)= sum of g t, dbeta (+)= sum of g, over rows */
struct layernorm_affine_grad {
    view x, g;
    const float *saved;
    int64_t n;
    sink dgamma, dbeta;
    int add_gamma, add_beta;
    template <int N> __device__ void value(int64_t i, int64_t, int64_t ch, pair *p) const
    {
        const int64_t row = (i - ch) / n;
        const float mean = saved[2 * row], s = saved[2 * row + 1];
        float v[N], d[N];
        load<N>(x, i, v);
        load<N>(g, i, d);
        BMVPI_UNROLLED
        for (int e = 0; e < N; ++e) p[e].a += (double)d[e] * (double)((v[e] - mean) * s), p[e].b += (double)d[e];
    }
    __device__ void finish(int64_t, int64_t ch, pair p) const
    {
        if (dgamma) put(dgamma, ch, (float)p.a, add_gamma);
        if (dbeta) put(dbeta, ch, (float)p.b, add_beta);
    }
};
template <int N> static void layernorm_run(bmvp_ctx *c, bmvp_tensor *y)
{
    const int64_t n = last_dim(y);
    const view x = values(y->src[0]), gamma = values(y->src[1]), beta = values(y->src[2]);
    rows_map(c, layernorm_rows<N>{ x, gamma, beta, result(y), y->saved, (double)(float)y->args.layernorm.eps },
             y->numel / n, n, N);
}
static void layernorm_forward(bmvp_ctx *c, bmvp_tensor *y)
{
    if (last_dim(y) % 4 == 0) layernorm_run<4>(c, y);
    else layernorm_run<1>(c, y);
}
template <int N> static void layernorm_back_run(bmvp_ctx *c, bmvp_tensor *y, const sink &gx, int add)
{
    const int64_t n = last_dim(y);
    rows_map(c, layernorm_back_rows<N>{ values(y->src[0]), gradient(y), values(y->src[1]), y->saved, gx, add },
             y->numel / n, n, N);
}
static void layernorm_backward(bmvp_ctx *c, bmvp_tensor *y)
{
    const columns k = columns_of(1, y->numel / last_dim(y), last_dim(y));
    int add, add_gamma, add_beta;
    sink gx = grad(c, y->src[0], &add), ggamma = grad(c, y->src[1], &add_gamma), gbeta = grad(c, y->src[2], &add_beta);
    if (ggamma || gbeta)
        columns_sum(
            c,
            layernorm_affine_grad{ values(y->src[0]), gradient(y), y->saved, k.c, ggamma, gbeta, add_gamma, add_beta },
            k, bmvp_kernel_workspace(c));
    if (gx && k.c % 4 == 0) layernorm_back_run<4>(c, y, gx, add);
    else if (gx) layernorm_back_run<1>(c, y, gx, add);
}
static int64_t layernorm_workspace(const bmvp_ctx *, const bmvp_tensor *y, int backward)
{
    return backward ? bias_workspace(y->numel / last_dim(y), last_dim(y)) : 0;
}

/* >>op groupnorm --------------------------------------------------------------------------------------------------- */

static void groupnorm_forward(bmvp_ctx *c, bmvp_tensor *y)
{
    const norm s = norm_of(c, y, y->dim[0], y->args.groupnorm.groups, NULL);
    if (!bmvp_kernel_recomputes(c)) norm_statistics(c, s, y->args.groupnorm.eps, 0, NULL, NULL);
    norm_apply(c, y, s);
}
static void groupnorm_backward(bmvp_ctx *c, bmvp_tensor *y) 
{
    norm_backward(c, y, y->dim[0], y->args.groupnorm.groups, 1, NULL);
}
static int64_t groupnorm_workspace(const bmvp_ctx *, const bmvp_tensor *y, int) { return norm_workspace(y, y->dim[0]); }

/* >>op groupnorm_relu ---------------------------------------------------------------------------------------------- */

static void groupnorm_relu_forward(bmvp_ctx *c, bmvp_tensor *y)
{
    const norm s = norm_of(c, y, y->dim[0], y->args.groupnorm_relu.groups, NULL);
    if (!bmvp_kernel_recomputes(c)) norm_statistics(c, s, y->args.groupnorm_relu.eps, 0, NULL, NULL);
    norm_apply(c, y, s);
}
static void groupnorm_relu_backward(bmvp_ctx *c, bmvp_tensor *y)
{
    int add;
    sink gr = grad(c, y->src[3], &add);
    if (gr) map(c, relu_back_map{ result(y), gradient(y), gr, (float)y->args.groupnorm_relu.slope, add }, y->numel);
    norm_backward(c, y, y->dim[0], y->args.groupnorm_relu.groups, 1, NULL);
}
static int64_t groupnorm_relu_workspace(const bmvp_ctx *, const bmvp_tensor *y, int)
{
    return norm_workspace(y, y->dim[0]);
}

/* >>op masked_fill ------------------------------------------------------------------------------------------------- */

struct masked {
    view x, filler, mask;
    int64_t h, w, f[3], start[3];
    /* Index in the filler of element i of x; -1 outside. */
    __device__ int64_t place(int64_t i) const
    {
        const int64_t z = i / w / h + start[0], y = i / w % h + start[1], e = i % w + start[2];
        return z < 0 || z >= f[0] || y < 0 || y >= f[1] || e < 0 || e >= f[2] ? -1 : (z * f[1] + y) * f[2] + e;
    }
};
/* y = mask ? filler : x; 12 bytes an element */
struct masked_map {
    masked s;
    sink y;
    __device__ void operator()(int64_t i) const
    {
        const int64_t at = s.place(i);
        put(y, i, s.mask[i] == 0.0f ? s.x[i] : at >= 0 ? s.filler[at] : 0.0f, 0);
    }
};
/* dx (+)= mask ? 0 : g; dfiller += g where the mask is set: each voxel of it is met at most once. dx, dfiller may be
   none. */
struct masked_back_map {
    masked s;
    view g;
    sink dx, dfiller;
    int add;
    __device__ void operator()(int64_t i) const
    {
        const int64_t at = s.place(i);
        if (dx) put(dx, i, s.mask[i] == 0.0f ? g[i] : 0.0f, add);
        if (dfiller && s.mask[i] != 0.0f && at >= 0) put(dfiller, at, g[i], 1);
    }
};
static masked masked_of(const bmvp_tensor *y)
{
    masked s;
    s.x = values(y->src[0]), s.filler = values(y->src[1]), s.mask = values(y->src[2]);
    s.h = y->dim[1], s.w = y->dim[2];
    for (int i = 0; i < 3; ++i) s.f[i] = y->src[1]->dim[i], s.start[i] = y->args.masked_fill.start[i];
    return s;
}
static void masked_fill_forward(bmvp_ctx *c, bmvp_tensor *y)
{
    each(c, masked_map{ masked_of(y), result(y) }, y->numel);
}
static void masked_fill_backward(bmvp_ctx *c, bmvp_tensor *y)
{
    int add;
    sink gx = grad(c, y->src[0], &add), gf = grad_add(c, y->src[1]);
    if (gx && gx.p == gf.p) { /* x is its own filler: two threads may add to one element */
        if (!add) fill(c, gx, 0, y->numel);
        each(c, masked_back_map{ masked_of(y), gradient(y), gx, sink{ NULL, 0 }, 1 }, y->numel);
        gx.p = NULL;
    }
    if (gx || gf) each(c, masked_back_map{ masked_of(y), gradient(y), gx, gf, add }, y->numel);
}
BMVPI_NO_WORKSPACE(masked_fill)

/* >>op minmax ------------------------------------------------------------------------------------------------------ */

/* saved[0, 1] = minimum and maximum */
struct range_reduce : join_range {
    view x;
    float *saved;
    template <int N> __device__ pair value(int64_t i) const
    {
        float v[N];
        pair p = none();
        load<N>(x, i, v);
        for (int e = 0; e < N; ++e) p = join(p, pair{ (double)v[e], (double)v[e] });
        return p;
    }
    __device__ void finish(pair p) const { saved[0] = (float)p.a, saved[1] = (float)p.b; }
};
/* y = (x - min) / (max - min + eps); saved[2, 3] = how many elements equal each. 8 bytes an element */
struct minmax_reduce : join_sum {
    view x;
    sink y;
    float *saved, eps;
    template <int N> __device__ pair value(int64_t i) const
    {
        const float low = saved[0], high = saved[1];
        pair p = none();
        float v[N];
        load<N>(x, i, v);
        for (int e = 0; e < N; ++e) {
            p = join(p, pair{ v[e] == low ? 1.0 : 0.0, v[e] == high ? 1.0 : 0.0 });
            v[e] = (v[e] - low) / (high - low + eps);
        }
        store<N>(y, i, v, 0);
        return p;
    }
    __device__ void finish(pair p) const { saved[2] = (float)p.a, saved[3] = (float)p.b; }
};
/* share[0, 1] = what each element equal to min and to max gets: sum g (v - 1) / s and -sum g v / s, v = (x - min) / s,
   each over their number */
struct minmax_back_reduce : join_sum {
    view x, g;
    const float *saved;
    double *share;
    float eps;
    template <int N> __device__ pair value(int64_t i) const
    {
        const double s = (double)(saved[1] - saved[0] + eps);
        pair p = none();
        float u[N], d[N];
        load<N>(x, i, u);
        load<N>(g, i, d);
        for (int e = 0; e < N; ++e) {
            const double v = ((double)u[e] - (double)saved[0]) / s;
            p = join(p, pair{ (double)d[e] * (v - 1.0) / s, -(double)d[e] * v / s });
        }
        return p;
    }
    __device__ void finish(pair p) const { share[0] = p.a / (double)saved[2], share[1] = p.b / (double)saved[3]; }
};
/* dx (+)= g / s, and the shares at the extremes. 12 bytes an element */
struct minmax_back_map {
    view x, g;
    const float *saved;
    const double *share;
    sink dx;
    float eps;
    int add;
    __device__ void operator()(int64_t i) const
    {
        double d = (double)g[i] / (double)(saved[1] - saved[0] + eps);
        if (x[i] == saved[0]) d += share[0];
        if (x[i] == saved[1]) d += share[1];
        put(dx, i, (float)d, add);
    }
};
static void minmax_forward(bmvp_ctx *c, bmvp_tensor *y)
{
    range_reduce r;
    minmax_reduce f;
    r.x = f.x = values(y->src[0]);
    r.saved = f.saved = y->saved;
    f.y = result(y);
    f.eps = (float)y->args.minmax.eps;
    reduce(c, r, y->numel, bmvp_kernel_workspace(c));
    reduce(c, f, y->numel, bmvp_kernel_workspace(c));
}
static void minmax_backward(bmvp_ctx *c, bmvp_tensor *y)
{
    minmax_back_reduce f;
    int add;
    sink gx = grad(c, y->src[0], &add);
    if (!gx) return;
    f.x = values(y->src[0]), f.g = gradient(y), f.saved = y->saved, f.eps = (float)y->args.minmax.eps;
    f.share = (double *)(void *)(bmvp_kernel_workspace(c) + REDUCE_FLOATS);
    reduce(c, f, y->numel, bmvp_kernel_workspace(c));
    each(c, minmax_back_map{ f.x, f.g, f.saved, f.share, gx, f.eps, add }, y->numel);
}
static int64_t minmax_workspace(const bmvp_ctx *, const bmvp_tensor *, int) { return REDUCE_FLOATS + 4; }

/* >>optimizer ------------------------------------------------------------------------------------------------------ */

/* All tensors in one launch: block b has a piece of 8192 elements of the tensor whose `first` block is the last not
   above b. */
struct listed { bmvp_update u; int64_t first; };
enum { PIECE = 8192 };

static __device__ __forceinline__ int listed_find(const listed *list, int n, int64_t block)
{
    int low = 0, high = n; /* list[low].first <= block < list[high].first */
    while (high - low > 1) {
        const int middle = (low + high) / 2;
        if (list[middle].first <= block) low = middle;
        else high = middle;
    }
    return low;
}

/* Elements i to i + N - 1 of a step */
template <int N> static __device__ __forceinline__ void update_some(const bmvp_update &u, float scale, int64_t i)
{
    const float keep = 1.0f - u.lr * u.decay;
    float p[N], g[N], m[N], v[N], top[N];
    load<N>(view{ u.g, 0 }, i, g);
    load<N>(view{ u.m, 0 }, i, m);
    if (!u.p) {
        BMVPI_UNROLLED
        for (int e = 0; e < N; ++e) m[e] += u.b1 * (g[e] - m[e]);
        store<N>(sink{ u.m, 0 }, i, m, 0);
        return;
    }
    load<N>(view{ u.p, 0 }, i, p);
    if (u.v) load<N>(view{ u.v, 0 }, i, v);
    if (u.top) load<N>(view{ u.top, 0 }, i, top);
    BMVPI_UNROLLED
    for (int e = 0; e < N; ++e) {
        const float d = g[e] * scale + u.l2 * p[e];
        if (!u.v) {
            m[e] = u.b1 * m[e] + d;
            p[e] -= u.lr * m[e];
            continue;
        }
        m[e] += u.b1 * (d - m[e]);
        v[e] += u.b2 * (d * d - v[e]);
        top[e] = u.top && v[e] <= top[e] ? top[e] : v[e];
        p[e] = p[e] * keep - u.step * m[e] / (sqrtf(top[e]) * u.root + u.eps);
    }
    store<N>(sink{ u.p, 0 }, i, p, 0);
    store<N>(sink{ u.m, 0 }, i, m, 0);
    if (u.v) store<N>(sink{ u.v, 0 }, i, v, 0);
    if (u.top) store<N>(sink{ u.top, 0 }, i, top, 0);
}

/* The step of SGD, Adam and AdamW, AMSGrad, or an average, as bmvp_update says; with a rule its scale, and no step if
   it has halted.
   Who:    block b takes piece b; its threads go through it four neighbours at a time, the first ones take what is left
           over.
   Launch: one block of 256 threads a piece; any number of tensors.
   Bits:   each element by one thread.
   Traffic: 28 bytes an element (SGD 20, AMSGrad 36, an average 12), 16 a thread, and about 16 operations: at the
           memory's speed. */
static __global__ void update_kernel(const listed *list, int n, const float *rule)
{
    if (rule && rule[BMVP_RULE_HALTED] != 0.0f) return;
    const listed *l = &list[listed_find(list, n, blockIdx.x)];
    const bmvp_update u = l->u;
    const int64_t from = (blockIdx.x - l->first) * PIECE, to = from + PIECE < u.n ? from + PIECE : u.n;
    const float scale = rule ? rule[BMVP_RULE_SCALE] : u.scale;
    for (int64_t i = from / 4 + threadIdx.x; i < to / 4; i += THREADS) update_some<4>(u, scale, 4 * i);
    if (threadIdx.x < to % 4) update_some<1>(u, scale, to - 1 - threadIdx.x);
}

/* part[b] = sum of squares of the gradient's piece b.
   Who:    block b takes piece b as above, then a tree over its threads.
   Launch: one block of 256 threads a piece, 4 KB of shared memory.
   Bits:   pieces are cut by shape; double sums in fixed order.
   Traffic: 4 bytes an element, 16 a thread. */
static __global__ void square_kernel(const listed *list, int n, pair *part)
{
    const listed *l = &list[listed_find(list, n, blockIdx.x)];
    const int64_t from = (blockIdx.x - l->first) * PIECE, to = from + PIECE < l->u.n ? from + PIECE : l->u.n;
    pair p = join_sum::none();
    for (int64_t i = from / 4 + threadIdx.x; i < to / 4; i += THREADS) {
        float g[4];
        load<4>(view{ l->u.g, 0 }, 4 * i, g);
        BMVPI_UNROLLED
        for (int e = 0; e < 4; ++e) p.a += (double)g[e] * (double)g[e];
    }
    if (threadIdx.x < to % 4) p.a += (double)l->u.g[to - 1 - threadIdx.x] * (double)l->u.g[to - 1 - threadIdx.x];
    p = block_join<join_sum>(p);
    if (threadIdx.x == 0) part[blockIdx.x] = p;
}
struct square_total : join_sum {
    double *total;
    __device__ void finish(pair p) const { total[0] = p.a; }
};

/* Room of the backend's own for `bytes`. */
static void *scratch(bmvp_ctx *c, int64_t bytes)
{
    state *s = of(c);
    if (bytes <= s->scratch_bytes) return s->scratch;
    memory_free(c, s->scratch);
    s->scratch = memory_alloc(c, bytes);
    s->scratch_bytes = s->scratch ? bytes : 0;
    return s->scratch;
}
/* The list on the device, `extra` bytes behind it; *blocks pieces in all. NULL and a failure when memory is short. */
static listed *list_make(bmvp_ctx *c, const bmvp_update *u, int n, int64_t extra_a_block, int64_t *blocks)
{
    listed *host = (listed *)malloc((size_t)n * sizeof *host), *list = NULL;
    int i;
    *blocks = 0;
    if (!host) return (listed *)bmvp_fail(c, BMVP_E_OOM, "out of memory for the optimizer's list of tensors");
    for (i = 0; i < n; ++i) {
        host[i].u = u[i];
        host[i].first = *blocks;
        *blocks += ceil_div(u[i].n, PIECE);
    }
    list = (listed *)scratch(c, n * (int64_t)sizeof *list + (*blocks + 1) * extra_a_block);
    if (list) (void)send(c, list, host, n * (int64_t)sizeof *list);
    free(host);
    return bmvp_failed(c) ? NULL : list;
}
static void optimizer_update(bmvp_ctx *c, const bmvp_update *u, int n)
{
    int64_t blocks;
    const listed *list = list_make(c, u, n, 0, &blocks);
    if (list) BMVPI_RUN(c, update_kernel, dim3((unsigned)blocks), dim3(THREADS), 0, list, n, (const float *)NULL);
}
/* Sums of squares of all gradients; f finishes with the total, which is left in double behind the parts. */
template <class F> static void square_sum(bmvp_ctx *c, const listed *list, int n, int64_t blocks, const F &f)
{
    pair *part = (pair *)(void *)(list + n);
    BMVPI_RUN(c, square_kernel, dim3((unsigned)blocks), dim3(THREADS), 0, list, n, part);
    BMVPI_RUN(c, reduce_finish_kernel<F>, dim3(1), dim3(THREADS), 0, f, (int)blocks, (const pair *)part);
}
static double optimizer_square_sum(bmvp_ctx *c, const bmvp_update *u, int n)
{
    square_total f;
    double total = (double)NAN;
    int64_t blocks;
    listed *list = list_make(c, u, n, (int64_t)sizeof(pair), &blocks);
    if (!list) return total;
    f.total = (double *)(void *)((pair *)(void *)(list + n) + blocks);
    square_sum(c, list, n, blocks, f);
    return fetch(c, &total, f.total, (int64_t)sizeof total) ? total : (double)NAN;
}

/* The rule from the sum of squares */
struct rule_total : join_sum {
    float *rule;
    double clip;
    __device__ void finish(pair p) const
    {
        const double norm = sqrt(p.a);
        rule[BMVP_RULE_NORM] = (float)norm;
        rule[BMVP_RULE_SCALE] = clip > 0 && norm > clip ? (float)(clip / norm) : 1.0f;
        if (!(norm <= (double)FLT_MAX)) rule[BMVP_RULE_HALTED] = 1;
        if (rule[BMVP_RULE_HALTED] != 0.0f) rule[BMVP_RULE_SKIPPED] += 1;
    }
};
/* One thread */
struct rule_watch {
    const float *x;
    float *rule;
    __device__ void operator()(int64_t) const { if (!(fabsf(*x) <= FLT_MAX)) rule[BMVP_RULE_HALTED] = 1; }
};
static void optimizer_watch(bmvp_ctx *c, const float *x, float *rule) { each(c, rule_watch{ x, rule }, 1); }
static void optimizer_clipped_update(bmvp_ctx *c, const bmvp_update *u, int n, double clip, float *rule)
{
    rule_total f;
    int64_t blocks;
    const listed *list = list_make(c, u, n, (int64_t)sizeof(pair), &blocks);
    f.rule = rule;
    f.clip = clip;
    if (!list) return;
    square_sum(c, list, n, blocks, f);
    BMVPI_RUN(c, update_kernel, dim3((unsigned)blocks), dim3(THREADS), 0, list, n, (const float *)rule);
}

/* >>table ---------------------------------------------------------------------------------------------------------- */

/* An op of the list without its functions above does not compile. */
#define BMVP_X(id, name, reads, type) { name##_forward, name##_backward, name##_workspace },
static const bmvp_kernel kernels[BMVP_OP_COUNT] = { BMVP_OPS(BMVP_X) };
#undef BMVP_X

static int all_precisions(const bmvp_config *, bmvp_error *) { return 1; }

static void describe(state *s)
{
    s->backend.name = s->name;
    memcpy(s->backend.op, kernels, sizeof kernels);
    s->backend.device = &s->device;
    s->device.user = s;
    s->device.runs_ahead = 1;
    s->device.computes = all_precisions;
    s->device.half_least = 4096; /* smaller results (losses, pooled features, cosines) save nothing */
    s->device.alloc = memory_alloc;
    s->device.free = memory_free;
    s->device.write = memory_write;
    s->device.read = memory_read;
    s->device.fill = memory_fill;
    s->device.add = memory_add;
    s->device.update = optimizer_update;
    s->device.square_sum = optimizer_square_sum;
    s->device.clipped_update = optimizer_clipped_update;
    s->device.watch = optimizer_watch;
    s->device.post = mail_post;
    s->device.collect = mail_collect;
    s->device.sync = memory_sync;
    s->device.capture_begin = capture_begin;
    s->device.capture_end = capture_finish;
    s->capture.changed = 1; /* the first step makes its memory */
}

} /* namespace bmvpi_cuda */

extern "C" BMVP_API const bmvp_backend *bmvp_cuda_backend(int device, bmvp_error *err)
{
    using namespace bmvpi_cuda;
    int n = 0;
    cudaError_t e = cudaGetDeviceCount(&n);
    state *s;
    (void)cudaGetLastError();
    if (e != cudaSuccess || n < 1) {
        bmvp_error_set(err, BMVP_E_UNSUPPORTED, "cuda: no GPU can be used: %s",
                       e != cudaSuccess ? cudaGetErrorString(e) : "there is none");
        return NULL;
    }
    if (device < 0 || device >= n) {
        bmvp_error_set(err, BMVP_E_ARG, "cuda: there is no GPU %d; GPUs 0 to %d are there", device, n - 1);
        return NULL;
    }
    s = (state *)calloc(1, sizeof *s);
    if (!s) {
        bmvp_error_set(err, BMVP_E_OOM, "out of memory for the cuda backend");
        return NULL;
    }
    snprintf(s->name, sizeof s->name, "cuda:%d", device);
    s->number = device;
    describe(s);
    e = cudaSetDevice(device);
    /* what a host program gives the default stream meanwhile neither waits for a recorded step nor spoils it */
    if (e == cudaSuccess) e = cudaStreamCreateWithFlags(&s->stream, cudaStreamNonBlocking);
    if (e == cudaSuccess) e = cudaMalloc(&s->product_space, BMVPI_PRODUCT_SPACE);
    /* cuBLAS makes a workspace in its first call, and in a recorded step at each launch, unless it is given one; a new
       stream takes it away again. */
    if (e != cudaSuccess)
        bmvp_error_set(err, e == cudaErrorMemoryAllocation ? BMVP_E_OOM : BMVP_E_INTERNAL, "cuda: GPU %d: %s", device,
                       cudaGetErrorString(e));
    else if (cublasCreate(&s->blas) != CUBLAS_STATUS_SUCCESS || cublasLtCreate(&s->lt) != CUBLAS_STATUS_SUCCESS ||
             cublasSetStream(s->blas, s->stream) != CUBLAS_STATUS_SUCCESS ||
             cublasSetWorkspace(s->blas, s->product_space, BMVPI_PRODUCT_SPACE) != CUBLAS_STATUS_SUCCESS ||
             cublasSetMathMode(s->blas, CUBLAS_DEFAULT_MATH) != CUBLAS_STATUS_SUCCESS)
        bmvp_error_set(err, BMVP_E_INTERNAL, "cuda: GPU %d: cuBLAS does not start", device);
    else return &s->backend;
    bmvp_cuda_release(&s->backend);
    return NULL;
}

extern "C" BMVP_API void bmvp_cuda_release(const bmvp_backend *backend)
{
    using namespace bmvpi_cuda;
    state *s = backend ? (state *)backend->device->user : NULL;
    int i;
    if (!s) return;
    (void)cudaSetDevice(s->number);
    if (s->capture.by) { /* a context that ended within its step */
        cudaGraph_t recorded = NULL;
        if (cudaStreamEndCapture(s->stream, &recorded) == cudaSuccess) (void)cudaGraphDestroy(recorded);
    }
    ranks_forget(s);
    for (i = 0; i < PRODUCT_LISTS; ++i)
        while (s->products[i]) {
            product *p = s->products[i];
            s->products[i] = p->next;
            product_free(p);
        }
    while (s->shared) {
        shared_most *m = s->shared;
        s->shared = m->next;
        free(m);
    }
    if (s->blas) (void)cublasDestroy(s->blas);
    if (s->stream) (void)cudaStreamSynchronize(s->stream);
    if (s->lt) (void)cublasLtDestroy(s->lt);
    if (s->product_space) (void)cudaFree(s->product_space);
    stage_free(&s->stage);
    capture_free(&s->capture);
    mail_free(&s->mail);
    if (s->scratch) (void)cudaFree(s->scratch);
    if (s->stream) (void)cudaStreamDestroy(s->stream);
    free(s);
}

extern "C" BMVP_API bmvp_status bmvp_cuda_comm_id(unsigned char id[128], bmvp_error *err)
{
#ifdef BMVP_NCCL
    ncclUniqueId made;
    const ncclResult_t r = ncclGetUniqueId(&made);
    if (r != ncclSuccess)
        return bmvp_error_set(err, BMVP_E_IO, "nccl: no id for the ranks: %s (%s)", ncclGetErrorString(r),
                              ncclGetLastError(NULL));
    memcpy(id, &made, sizeof made);
    return BMVP_OK;
#else
    memset(id, 0, 128);
    return bmvp_error_set(err, BMVP_E_UNSUPPORTED,
                          "cuda: built without NCCL; build it with: make CUDA=1 NCCL_HOME=/where/it/is");
#endif
}

extern "C" BMVP_API bmvp_status bmvp_cuda_comm_join(const bmvp_backend *b, const unsigned char id[128], int rank,
                                                    int size, double deadline_s, bmvp_comm *out, bmvp_error *err)
{
    using namespace bmvpi_cuda;
    memset(out, 0, sizeof *out);
    if (!b || !b->device || b->device->alloc != memory_alloc)
        return bmvp_error_set(err, BMVP_E_ARG, "cuda_comm_join: needs a backend that bmvp_cuda_backend made");
    if (size < 1 || rank < 0 || rank >= size || !(deadline_s > 0))
        return bmvp_error_set(err, BMVP_E_ARG,
                              "cuda_comm_join: rank %d of %d, deadline %g s: must be 0 <= rank < size, and some time",
                              rank, size, deadline_s);
#ifdef BMVP_NCCL
    {
        state *s = (state *)b->device->user;
        nccl *n = s->ranks ? NULL : (nccl *)calloc(1, sizeof *n);
        bmvp_status st;
        if (s->ranks)
            return bmvp_error_set(err, BMVP_E_STATE,
                                  "cuda_comm_join: %s has joined already; bmvp_cuda_comm_leave first", b->name);
        if (!n) return bmvp_error_set(err, BMVP_E_OOM, "out of memory for the communicator");
        n->s = s;
        n->rank = rank;
        n->size = size;
        n->deadline = deadline_s;
        st = nccl_open(n, id, err);
        if (st) {
            nccl_free(n);
            return st;
        }
        s->ranks = n;
        nccl_describe(n, out);
        return BMVP_OK;
    }
#else
    {
        unsigned char unused[128];
        (void)id;
        return bmvp_cuda_comm_id(unused, err);
    }
#endif
}

extern "C" BMVP_API void bmvp_cuda_comm_leave(bmvp_comm *m)
{
#ifdef BMVP_NCCL
    using namespace bmvpi_cuda;
    nccl *n = m ? (nccl *)m->user : NULL;
    bmvp_error err;
    if (!n) return;
    if (n->comm && !__atomic_load_n(&n->stop, __ATOMIC_ACQUIRE) &&
        !nccl_settle(n, ncclCommFinalize(n->comm), "leave", &err)) {
        (void)ncclCommDestroy(n->comm);
        n->comm = NULL;
    }
    nccl_free(n);
    memset(m, 0, sizeof *m);
#else
    (void)m;
#endif
}

/* ---------------------------------------------------------------------------------------------------------------
   MIT License. Copyright (c) 2026 the bmvp authors.
   Permission is hereby granted, free of charge, to any person obtaining a copy of this software and associated
   documentation files (the "Software"), to deal in the Software without restriction, including without limitation the
   rights to use, copy, modify, merge, publish, distribute, sublicense, and/or sell copies of the Software, and to
   permit persons to whom the Software is furnished to do so, subject to the following conditions: the above copyright
   notice and this permission notice shall be included in all copies or substantial portions of the Software. THE
   SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT NOT LIMITED TO THE
   WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR
   COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR
   OTHERWISE, ARISING FROM, OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE. */
