/* bmvp_tensor.h - v0.2.0 - tensors, autograd and CPU kernels in one C header - MIT, no warranty (see its end)

   Do this:
       #define BMVP_IMPLEMENTATION          in ONE C or C++ file, before the include
       #include "bmvp_tensor.h"
       cc program.c -lm -lpthread

   What it is: channels-last float32 tensors, an eager tape, one list of operations with forward and backward, and
   vectorised CPU kernels chosen at run time (AVX-512, AVX2, portable vectors, plain C). Everything hangs on a
   context; contexts share nothing. Memory is planned: parameters live long, activations live one step in one block.
   What it is not: no graph optimiser, no broadcasting beyond what each op says, no types but float32 (and
   bfloat16 inside a device), no views but reshape. It never prints, exits or aborts.

   CONTENTS (search for the tag)
       >>status    >>config    >>context   >>memory    >>rng       >>tensor    >>autograd  >>comm      >>ops
       and in the implementation, the lecture
       >>base      >>for upper headers     >>record    >>host memory           >>values
       >>bfloat16  >>threads   >>rng impl  >>arena     >>context impl          >>comm impl
       >>node      >>backward  the tape, and how it is walked
       >>work      >>kernel pointwise      >>kernel reduce         >>kernel channel norm   >>kernel strided copy
       >>fast      >>op blocks >>op parts  the door to the machine room, how an op is written, what ops share
       >>op NAME   one for each op, in the order of BMVP_OPS
       >>product   before matmul           >>norms     before batchnorm
       >>device of the CPU     >>table     >>gradcheck
       and the machine room: the same again in vectors, left out by BMVP_NO_SIMD
       >>simd      >>kernel math           >>kernel softmax row    >>kernel depthwise      >>kernel gemm
       >>kernel conv           >>kernel fused rows     >>fast attention        >>fast mlp
       >>fast adamw

   A complete program:

       #define BMVP_IMPLEMENTATION
       #include "bmvp_tensor.h"
       #include <stdio.h>
       int main(void)
       {
           int64_t xd[2] = { 4, 3 }, wd[2] = { 3, 2 };
           float x[12] = { 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12 };
           bmvp_ctx *c = bmvp_create(NULL, NULL);
           bmvp_tensor *w = bmvp_param(c, "w", 2, wd);
           bmvp_fill(c, w, 0.1f);
           bmvp_tensor *y = bmvp_linear(c, bmvp_input(c, 2, xd, x), w, NULL);
           bmvp_tensor *loss = bmvp_mean(c, bmvp_mul(c, y, y));
           bmvp_backward(c, loss);
           if (bmvp_failed(c)) printf("%s\n", bmvp_error_of(c)->message);
           else printf("loss %g, dloss/dw[0] %g\n", (double)bmvp_scalar(c, loss), (double)bmvp_grad_at(c, w, 0));
           bmvp_destroy(c);
           return 0;
       }

   CONVENTIONS
       Layout     row-major, last axis contiguous. Images are (N, D, H, W, C): D = z slowest, W = x; a NIfTI volume as
                  it lies.
       Weights    in the order the kernels read them: linear (in, out), conv (kd, kh, kw, in / groups, out), depthwise
                  (kd, kh, kw, C).
       Errors     the first failure is kept in the context with op and shapes; builders then return NULL and accept
                  NULL, so a network needs one check at its end. The context stays usable after bmvp_clear_error and
                  bmvp_step_begin.
       Threads    one thread at a time per context; different contexts may run at once. Kernels use the context's own
                  pool.
       Bits       results do not depend on the number of threads: work is cut by shape, partial sums are added in fixed
                  order. They do depend on the instruction set chosen.

   CONFIG MACROS
       BMVP_API          linkage of public functions   default: nothing (extern)    set globally
       BMVP_NO_THREADS   no pthread, one thread only   default: off; MSVC, TCC: on  only with the implementation
       BMVP_NO_SIMD      plain loops only: the text of the machine room is left out    only with the implementation
*/
#ifndef BMVP_TENSOR_H_INCLUDED
#define BMVP_TENSOR_H_INCLUDED
#define BMVP_TENSOR_VERSION 200 /* major * 10000 + minor * 100 + patch */

#if defined(BMVP_IMPLEMENTATION) && !defined(BMVP_TENSOR_IMPLEMENTATION)
#define BMVP_TENSOR_IMPLEMENTATION
#endif
#if defined(__STRICT_ANSI__) && !defined(_DEFAULT_SOURCE) && defined(BMVP_TENSOR_IMPLEMENTATION)
#define _DEFAULT_SOURCE 1 /* madvise and the clock; works when this header comes before the C library's */
#endif

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* >>status ------------------------------------------------------------------------------------------------------- */

/* ---- common: the same text in bmvp_tensor.h and bmvp_nifti.h, so that each stands alone -------------------------- */
#ifndef BMVP_COMMON
#define BMVP_COMMON 1
#ifndef BMVP_API
#define BMVP_API
#endif
#if defined(__GNUC__)
#define BMVP_RESTRICT __restrict__
#define BMVP_PRINTF(f, a) __attribute__((format(printf, f, a)))
#else
#define BMVP_RESTRICT
#define BMVP_PRINTF(f, a)
#endif

#define BMVP_STATUSES(X) \
    X(OK,            "ok") \
    X(E_OOM,         "out of memory") \
    X(E_SHAPE,       "shapes do not fit") \
    X(E_ARG,         "bad argument") \
    X(E_UNSUPPORTED, "not supported") \
    X(E_IO,          "file could not be read or written") \
    X(E_FORMAT,      "file content is not valid") \
    X(E_STATE,       "called at the wrong time") \
    X(E_INTERNAL,    "internal error") \
    X(E_CANCELLED,   "cancelled")
#define BMVP_X(id, text) BMVP_##id,
typedef enum bmvp_status { BMVP_STATUSES(BMVP_X) BMVP_STATUS_COUNT } bmvp_status;
#undef BMVP_X

typedef struct bmvp_error {
    bmvp_status status;
    char message[512]; /* one sentence: what, where (op, file, field), and what to do where we know it */
} bmvp_error;

/* English text of a status, never NULL. */
static inline const char *bmvp_status_text(bmvp_status s)
{
#define BMVP_X(id, text) text,
    static const char *const t[] = { BMVP_STATUSES(BMVP_X) };
#undef BMVP_X
    return (unsigned)s < BMVP_STATUS_COUNT ? t[s] : "unknown status";
}

/* Both functions or neither (malloc and free). alloc returns NULL on failure; bmvp_nifti.h wants malloc's alignment,
   bmvp_tensor.h takes any. */
typedef struct bmvp_allocator {
    void *(*alloc)(size_t size, void *user);
    void (*free)(void *ptr, void *user);
    void *user;
} bmvp_allocator;

/* One piece of parallel work. task in [0, n_tasks), worker in [0, threads): no two running pieces have one worker. */
typedef void (*bmvp_task_fn)(void *arg, int64_t task, int worker);
/* Runs fn(arg, 0 .. n_tasks-1, worker), each once, in any order and place; returns when all are done. */
typedef void (*bmvp_parallel_fn)(void *user, int64_t n_tasks, bmvp_task_fn fn, void *arg);
#elif BMVP_COMMON != 1
#error "bmvp_tensor.h and bmvp_nifti.h are of different versions: take both from one release"
#endif
/* ---- end of the common part -------------------------------------------------------------------------------------- */

/* Writes status and a formatted message; err may be NULL. Returns s, so that `return bmvp_error_set(...)` reads
   well. */
BMVP_API bmvp_status bmvp_error_set(bmvp_error *err, bmvp_status s, const char *format, ...) BMVP_PRINTF(3, 4);

/* >>config ------------------------------------------------------------------------------------------------------- */

typedef enum bmvp_simd { /* instruction sets, worst to best */
    BMVP_SIMD_AUTO = -1, /* the best this processor has */
    BMVP_SIMD_PLAIN = 0, /* plain loops: the definition of each op */
    BMVP_SIMD_VECTOR,    /* 128-bit vector extensions: SSE2, NEON */
    BMVP_SIMD_AVX2,      /* with FMA */
    BMVP_SIMD_AVX512
} bmvp_simd;

/* What the operands of large matrix products (linear, mlp, attention, convolutions) are rounded to. Sums and the op
   matmul stay float32, and so do tensors; but in BMVP_BF16 a device may hold large results of ops and their gradients
   as bfloat16 (bmvp_device.half_least): never parameters, their gradients, buffers, inputs and losses. Reads and writes
   are float32 either way. */
typedef enum bmvp_precision {
    BMVP_FP32 = 0,
    BMVP_BF16, /* 8 bits of mantissa, range of float32. On the CPU it needs avx512_bf16: twice the products a second */
    BMVP_TF32  /* 11 bits of mantissa, range of float32: NVIDIA GPUs only */
} bmvp_precision;

typedef struct bmvp_backend bmvp_backend; /* table of kernels, see >>table; other devices plug in here */

typedef struct bmvp_config {
    bmvp_allocator allocator; /* default malloc and free */
    bmvp_parallel_fn parallel; /* default: a pool of its own */
    void *parallel_user;
    /* What else a run may want to know, a line at a time, without a newline: an instruction set or huge pages that are
       not to be had, step memory that was cut into pieces, a step that a GPU could not record. Default none. */
    void (*log)(void *user, const char *line);
    void *log_user;
    /* Is told how far a long call has come (bmvp_progress says who tells). Nonzero: stop; the call ends with
       BMVP_E_CANCELLED. Default none. */
    int (*progress)(void *user, const char *what, int64_t done, int64_t of);
    void *progress_user;
    int threads;                 /* 0: one per processor. With `parallel`: how many workers it has */
    bmvp_simd simd;              /* default AUTO; a level the processor lacks falls back to the best it has */
    /* default FP32; BMVP_E_UNSUPPORTED where processor, `simd` or backend has no such products */
    bmvp_precision precision;
    /* 1 (default): devices do what lies between bmvp_capture_begin and _end as one if they can; 0: never */
    int graph;
    int plan;                    /* 1: dry run. Builders count bytes, nothing is computed, values are not readable */
    const bmvp_backend *backend; /* default: the CPU */
    /* rows of bmvp_nn.h that the program adds, the last NULL; default none */
    const struct bmvp_net_kind *const *networks;
} bmvp_config;

BMVP_API bmvp_config bmvp_config_default(void);

/* >>context ------------------------------------------------------------------------------------------------------ */

typedef struct bmvp_ctx bmvp_ctx;
typedef struct bmvp_tensor bmvp_tensor;

/* cfg NULL: defaults. Returns NULL when memory is short (err, if given, says so). */
BMVP_API bmvp_ctx *bmvp_create(const bmvp_config *cfg, bmvp_error *err);
BMVP_API void bmvp_destroy(bmvp_ctx *c); /* frees everything made with c; NULL is fine */

BMVP_API int bmvp_failed(const bmvp_ctx *c);                 /* 1 after the first failure, until cleared */
BMVP_API const bmvp_error *bmvp_error_of(const bmvp_ctx *c); /* the first failure; status BMVP_OK if none */
BMVP_API void bmvp_clear_error(bmvp_ctx *c);
/* Records a failure (if it is the first) and returns NULL: for builders outside this header. */
BMVP_API void *bmvp_fail(bmvp_ctx *c, bmvp_status s, const char *format, ...) BMVP_PRINTF(3, 4);

BMVP_API int bmvp_threads(const bmvp_ctx *c);
BMVP_API bmvp_simd bmvp_simd_level(const bmvp_ctx *c);
BMVP_API const char *bmvp_simd_text(bmvp_simd level);
BMVP_API bmvp_precision bmvp_precision_of(const bmvp_ctx *c);
BMVP_API const char *bmvp_precision_text(bmvp_precision p); /* "fp32", "bf16", "tf32" */
BMVP_API int bmvp_is_plan(const bmvp_ctx *c);
BMVP_API const bmvp_allocator *bmvp_allocator_of(const bmvp_ctx *c);
/* Copies the failure, or BMVP_OK, to err (NULL: fine) and returns its status: for calls that have an err of their own.
   The context keeps it. */
BMVP_API bmvp_status bmvp_error_take(const bmvp_ctx *c, bmvp_error *err);
/* "`done` of `of` `what`" for bmvp_config.progress (of 0: not known). Who tells: bmvp_ssl.h's trainer ("steps" that
   are done, before each pass) and predictor (what its preparation tells, then "windows"); programs may, too. What has
   no context takes the same function in its settings: bmvp_prepare_images ("images", "resampled"), bmvp_nii_register
   ("poses"), bmvp_nii_brain_mask ("poses", "rounds", "masks"). A call that was stopped leaves nothing and can be made
   again, with the same bits. Returns the context's status: BMVP_E_CANCELLED once the hook wants to stop. Nobody is told
   in a plan or after a failure. */
BMVP_API bmvp_status bmvp_progress(bmvp_ctx *c, const char *what, int64_t done, int64_t of);
/* Not to be called from inside a task. */
BMVP_API void bmvp_parallel(bmvp_ctx *c, int64_t n_tasks, bmvp_task_fn fn, void *arg);
BMVP_API void bmvp_log(bmvp_ctx *c, const char *format, ...) BMVP_PRINTF(2, 3); /* a line to bmvp_config.log */

/* >>memory ------------------------------------------------------------------------------------------------------- */

typedef struct bmvp_memory {
    int64_t persistent; /* bytes of parameters, their gradients, buffers */
    int64_t largest;    /* of the largest of these: saving or loading it needs twice as much besides */
    int64_t records;    /* bytes of the context's own records: tape, blocks, descriptors of tensors */
    int64_t step;       /* bytes of step tensors alive now */
    int64_t step_peak;  /* their maximum since bmvp_create, holes included: the block a step needs */
} bmvp_memory;
BMVP_API bmvp_memory bmvp_memory_of(const bmvp_ctx *c);

/* Allocates the step block at once (for instance the step_peak of a plan). Without it the block grows and is joined at
   the next bmvp_step_begin. */
BMVP_API bmvp_status bmvp_reserve(bmvp_ctx *c, int64_t bytes);
/* Drops every step tensor. Pointers to them are dead afterwards. */
BMVP_API void bmvp_step_begin(bmvp_ctx *c);
/* Without a tape (bmvp_set_grad(c, 0)): mark; build; end drops all tensors made since the mark but `keep`. With a tape
   nothing is dropped, since backward needs it: network code calls it either way. Returns keep. */
BMVP_API int64_t bmvp_scope_begin(bmvp_ctx *c);
BMVP_API bmvp_tensor *bmvp_scope_end(bmvp_ctx *c, int64_t mark, bmvp_tensor *keep);

/* >>rng ---------------------------------------------------------------------------------------------------------- */

/* Counter-based random numbers, Philox 4x32-10 (Salmon et al., SC 2011). A stream is named by (seed, stream, step,
   sample); number i of a stream is always the same, whatever was drawn before, on every device. */
typedef struct bmvp_rng {
    uint32_t key[2], counter[4]; /* counter = { block index, stream, step, sample } */
    uint32_t out[4];
    int left;                    /* numbers of `out` not handed out yet */
} bmvp_rng;
BMVP_API void bmvp_philox4x32(const uint32_t key[2], const uint32_t counter[4], uint32_t out[4]);
BMVP_API bmvp_rng bmvp_rng_make(uint64_t seed, uint32_t stream, uint32_t step, uint32_t sample);
BMVP_API uint32_t bmvp_rng_u32(bmvp_rng *r);
BMVP_API float bmvp_rng_uniform(bmvp_rng *r);                /* [0, 1), 24 bits */
BMVP_API float bmvp_rng_normal(bmvp_rng *r);                 /* mean 0, variance 1 (Box-Muller, one of the pair) */
BMVP_API uint32_t bmvp_rng_below(bmvp_rng *r, uint32_t n);   /* [0, n), unbiased; n = 0 gives 0 */

/* >>tensor ------------------------------------------------------------------------------------------------------- */

enum { BMVP_MAX_DIMS = 8, BMVP_MAX_SRC = 8 };

typedef struct bmvp_conv_shape {
    int64_t stride[3], pad[3]; /* D, H, W */
    int64_t groups;
} bmvp_conv_shape;

/* How the second operand of add, mul, sub and div lies along the first: of the same shape; along its last axes, the
   same for all others (a channel vector, or positions that each sample gets); one number */
typedef enum bmvp_spread { BMVP_SPREAD_SAME, BMVP_SPREAD_CHANNELS, BMVP_SPREAD_NUMBER } bmvp_spread;

/* Attributes of ops: what one was called with besides its operands, kept in its result for the kernels of every
   backend. An op has the member of its name (add, mul, sub and div: binary); those that are not here have none. Names
   are those of the builders' parameters. */
typedef union bmvp_args {
    struct { bmvp_spread spread; } binary;
    struct { double factor, offset; } scale;
    struct { double slope; } relu;
    struct { double low, high; } clamp;
    struct { double eps; } l2_normalize;
    struct { int axes[BMVP_MAX_DIMS]; } permute;
    struct { int64_t by[BMVP_MAX_DIMS]; } roll; /* 0 <= by < length of the axis */
    struct { int64_t axis, start; } slice;
    struct { int64_t low[BMVP_MAX_DIMS]; } pad; /* zeros before each axis */
    struct { int64_t axis; } concat;
    struct { int64_t factor; } upsample_nearest;
    struct { int64_t factor; int align_corners; } upsample_trilinear;
    struct { int64_t kernel; } maxpool3d;
    struct { int64_t block; } space_to_depth;
    struct { int64_t size; } box_sum3d;
    struct { double smooth; int squared; } soft_dice;
    struct { double total; } cross_entropy; /* sum of the rows' weights */
    struct { int transpose_a, transpose_b; } matmul;
    struct { double scale; int64_t heads; } attention;
    bmvp_conv_shape conv3d;
    struct { int residual; } depthwise3d; /* 1: plus x */
    struct { double momentum, eps; int training; } batchnorm;
    struct { double eps; } layernorm;
    struct { double eps; int64_t groups; } groupnorm;
    struct { int64_t start[3]; } masked_fill;
    struct { double eps; } minmax;
} bmvp_args;

struct bmvp_tensor {
    float *x; /* values, in the backend's memory; NULL in a plan, after a drop, and once backward used them up */
    float *g;                        /* gradient, there too; NULL: none yet */
    int half; /* 1: x and g point to bfloat16, two bytes each: only on a device, see bmvp_device.half_least */
    int64_t dim[BMVP_MAX_DIMS];      /* unused trailing entries are 1 */
    int64_t numel;
    int rank;
    int wants_grad;                  /* a gradient flows into or through this tensor */
    const char *name;                /* parameters: released name; others NULL */
    int op;                          /* bmvp_op, or -1: a leaf */
    int n_src;
    bmvp_tensor *src[BMVP_MAX_SRC];  /* operands; an optional one that is absent is NULL */
    bmvp_args args;                  /* attributes of the op */
    float *saved;                    /* small statistics kept for backward (mean, log-sum-exp ...) */
    struct bmvpi_block *x_block, *g_block, *saved_block; /* where they live */
    int persistent, kept, grad_fresh;
    int dropped; /* 1 by bmvp_drop, 2 by bmvp_checkpoint or overwritten by bmvp_add_into: can be computed again */
    int lies_in;                     /* bmvpi_lies_in: whose memory its values are in */
    int spare;                       /* backward does without `saved`, only slower: a checkpoint frees it */
    int on_host;                     /* scratch of trainers: in the host's memory whatever the backend */
    int has_grad_memory;             /* of a parameter: memory for its gradient was made, or in a plan counted */
    int walked;                      /* backward has passed: operands' values may be gone */
    int64_t first_reader; /* of a parameter, while bmvp_on_gradient watches a backward: place of its first reader on the
                             tape, or -1 */
};

/* Parameter: persistent, with a gradient of the same size, whose memory is made by the first backward or optimizer that
   wants it. name is copied. Values start undefined: use bmvp_fill or write. */
BMVP_API bmvp_tensor *bmvp_param(bmvp_ctx *c, const char *name, int rank, const int64_t *dim);
/* Persistent tensor without gradient (running statistics, moments). */
BMVP_API bmvp_tensor *bmvp_buffer(bmvp_ctx *c, const char *name, int rank, const int64_t *dim);
/* Step tensor without gradient; data (numel floats, copied) or NULL: undefined. */
BMVP_API bmvp_tensor *bmvp_input(bmvp_ctx *c, int rank, const int64_t *dim, const float *data);
/* Step tensor with gradient: for tests and for optimising inputs. */
BMVP_API bmvp_tensor *bmvp_leaf(bmvp_ctx *c, int rank, const int64_t *dim, const float *data);

BMVP_API void bmvp_fill(bmvp_ctx *c, bmvp_tensor *t, float value);
BMVP_API void bmvp_write(bmvp_ctx *c, bmvp_tensor *t, const float *host);       /* numel floats */
BMVP_API bmvp_status bmvp_read(bmvp_ctx *c, const bmvp_tensor *t, float *host); /* numel floats */
BMVP_API bmvp_status bmvp_read_grad(bmvp_ctx *c, const bmvp_tensor *t, float *host);
BMVP_API float bmvp_scalar(bmvp_ctx *c, const bmvp_tensor *t);                  /* first value; NaN after an error */
BMVP_API float bmvp_grad_at(bmvp_ctx *c, const bmvp_tensor *t, int64_t i);      /* NaN if there is none */

/* >>autograd ----------------------------------------------------------------------------------------------------- */

/* Turns recording on or off; returns what it was. Off: no gradients, values may be dropped by scopes. Default on. */
BMVP_API int bmvp_set_grad(bmvp_ctx *c, int on);
/* Gradients of a one-element tensor into every tensor that wants one; parameters accumulate over calls. Values and
   gradients of step tensors are freed as they are used up, except of kept ones, so each graph can be walked once. */
BMVP_API void bmvp_backward(bmvp_ctx *c, bmvp_tensor *loss);
/* The same from any tensor with a given cotangent (numel floats). */
BMVP_API void bmvp_backward_from(bmvp_ctx *c, bmvp_tensor *t, const float *cotangent);
/* Keeps value and gradient of a step tensor readable after backward. Returns t. */
BMVP_API bmvp_tensor *bmvp_keep(bmvp_tensor *t);
/* Frees the value now; backward computes it again from its operands when a consumer needs it. Call it when all
   consumers have been built. For cheap ops between two expensive ones (norms). */
BMVP_API void bmvp_drop(bmvp_ctx *c, bmvp_tensor *t);
/* The end of a checkpointed block. With a tape: mark (bmvp_scope_begin); build; then the values of all tensors made
   since the mark but `keep` (and those of bmvp_keep) are freed. Backward computes them again, each once, when it comes
   to the block; statistics are saved, not computed again, so gradients are the same bits. Costs up to one more forward
   of the block, and saves all that lies between its ends. Without a tape the same as bmvp_scope_end. Nothing but `keep`
   may be read afterwards. Returns keep. */
BMVP_API bmvp_tensor *bmvp_checkpoint(bmvp_ctx *c, int64_t mark, bmvp_tensor *keep);
/* Forgets the gradient: the next backward overwrites it. Until then bmvp_has_grad is 0. */
BMVP_API void bmvp_zero_grad(bmvp_tensor *t);
BMVP_API int bmvp_has_grad(const bmvp_tensor *t);
/* From now on backward calls fn(user) each time gradients of parameters have become complete, that is when it has
   passed the first op that reads them: bmvp_grad_due says of which. For sending gradients while backward goes on. NULL:
   off. */
BMVP_API void bmvp_on_gradient(bmvp_ctx *c, void (*fn)(void *user), void *user);
BMVP_API int bmvp_grad_due(const bmvp_tensor *parameter); /* 1: the running backward may still add to its gradient */

/* >>comm --------------------------------------------------------------------------------------------------------- */

/* Processes (ranks) that train one model together, each on its part of a step's samples. The table is filled by whoever
   moves the bytes; none at all (NULL) is one process, and costs nothing. Every rank makes the same calls in the same
   order with the same sizes; a call returns when this rank may go on. Pointers are in the host's memory (but see
   on_device). Sums are of float32 in the order of the ranks, ((0 + 1) + 2) ..., so that bits do not depend on who was
   first. A call that fails returns a status and a message that names the rank that is missing, where it is known; the
   table is unusable then. tests/support/ranks.h has one whose ranks are threads. */
typedef struct bmvp_part { float *x; int64_t n; } bmvp_part;
typedef struct bmvp_comm bmvp_comm;
struct bmvp_comm {
    void *user;
    int rank, size; /* 0 <= rank < size */
    /* in place, n arrays at once */
    bmvp_status (*all_reduce)(const bmvp_comm *m, const bmvp_part *part, int n, bmvp_error *err);
    /* all: size x bytes, by rank */
    bmvp_status (*all_gather)(const bmvp_comm *m, const void *own, int64_t bytes, void *all, bmvp_error *err);
    /* own: sum of everybody's part number `rank` of all, size x n */
    bmvp_status (*reduce_scatter)(const bmvp_comm *m, const float *all, int64_t n, float *own, bmvp_error *err);
    bmvp_status (*broadcast)(const bmvp_comm *m, void *data, int64_t bytes, int root, bmvp_error *err);
    bmvp_status (*barrier)(const bmvp_comm *m, bmvp_error *err);
    /* Tells every rank to stop: the call it is in, or its next one, fails with this rank's number and the reason. From
       any thread. */
    void (*abort)(const bmvp_comm *m, const char *why);
    /* Both or neither (NULL): an all_reduce that goes on while the caller computes. Started ones take effect in their
       order; part is read before start returns; wait waits for all of them. Other calls may be made between. */
    bmvp_status (*start)(const bmvp_comm *m, const bmvp_part *part, int n, bmvp_error *err);
    bmvp_status (*wait)(const bmvp_comm *m, bmvp_error *err);
    /* 1: all_reduce, all_gather, reduce_scatter, broadcast and start take pointers in the memory of the backend and are
       done in the order of its work, which barrier waits for: they return before they are done, so a failure may be
       that of a later call or read. What was given to start stays as it is until wait. */
    int on_device;
};
/* The context's ranks: from now on batch normalisation in training takes its statistics over all of them (torch
   SyncBatchNorm). Failures are the context's; a table with on_device for a backend without memory of its own is
   BMVP_E_ARG. A device whose table is not on_device exchanges through the host, and with any table it captures nothing
   (bmvp_captures). NULL: one process, the default. The table must outlive the context or the next bmvp_set_comm. */
BMVP_API void bmvp_set_comm(bmvp_ctx *c, const bmvp_comm *comm);
BMVP_API const bmvp_comm *bmvp_comm_of(const bmvp_ctx *c);

/* >>ops ---------------------------------------------------------------------------------------------------------- */

/* The only list of ops. X(ID, name, reads, type). A row tells the tape, and every backend and test, all they know of an
   op; a backend without its kernels does not compile.
     reads  values that its backward reads besides the gradient of the result, BMVP_READS_...: operands by their number
            in src (IN01: 0 and 1), OUT: the result itself. Others need not be there: they are not computed again, and a
            result that is not read may be overwritten
     type   of the result where a device keeps bfloat16 (bmvp_device.half_least). LARGE: bfloat16 if it is large; EXACT:
            float32 always; MOVED: values of the operands in other places, bfloat16 if all of them are */
#define BMVP_OPS(X) \
    X(ADD,                 add,                NONE,    LARGE) \
    X(MUL,                 mul,                IN01,    LARGE) \
    X(SUB,                 sub,                NONE,    LARGE) \
    X(DIV,                 div,                IN01,    LARGE) \
    X(SCALE,               scale,              NONE,    LARGE) \
    X(RELU,                relu,               OUT,     LARGE) \
    X(SIGMOID,             sigmoid,            OUT,     LARGE) \
    X(GELU,                gelu,               IN0,     LARGE) \
    X(ABS,                 abs,                IN0,     LARGE) \
    X(SQRT,                sqrt,               OUT,     LARGE) \
    X(EXP,                 exp,                OUT,     LARGE) \
    X(NATURAL_LOG,         natural_log,        IN0,     LARGE) \
    X(CLAMP,               clamp,              IN0,     LARGE) \
    X(SOFTMAX,             softmax,            OUT,     LARGE) \
    X(L2_NORMALIZE,        l2_normalize,       OUT,     EXACT) \
    X(RESHAPE,             reshape,            NONE,    MOVED) \
    X(PERMUTE,             permute,            NONE,    MOVED) \
    X(ROLL,                roll,               NONE,    MOVED) \
    X(SLICE,               slice,              NONE,    MOVED) \
    X(PAD,                 pad,                NONE,    MOVED) \
    X(CONCAT,              concat,             NONE,    MOVED) \
    X(UPSAMPLE_NEAREST,    upsample_nearest,   NONE,    LARGE) \
    X(UPSAMPLE_TRILINEAR,  upsample_trilinear, NONE,    LARGE) \
    X(MAXPOOL3D,           maxpool3d,          IN0,     MOVED) \
    X(SPACE_TO_DEPTH,      space_to_depth,     NONE,    MOVED) \
    X(BOX_SUM3D,           box_sum3d,          NONE,    EXACT) \
    X(GRID_SAMPLE3D,       grid_sample3d,      IN01,    LARGE) \
    X(GATHER_ROWS,         gather_rows,        NONE,    MOVED) \
    X(WHERE_ROWS,          where_rows,         NONE,    LARGE) \
    X(SUM,                 sum,                NONE,    LARGE) \
    X(MEAN,                mean,               NONE,    LARGE) \
    X(GLOBAL_POOL,         global_pool,        NONE,    LARGE) \
    X(MSE,                 mse,                IN01,    LARGE) \
    X(L1,                  l1,                 IN01,    LARGE) \
    X(BCE_LOGITS,          bce_logits,         IN01,    LARGE) \
    X(SOFT_DICE,           soft_dice,          IN01,    LARGE) \
    X(CROSS_ENTROPY,       cross_entropy,      IN0,     LARGE) \
    X(MATMUL,              matmul,             IN01,    EXACT) \
    X(LINEAR,              linear,             IN01,    LARGE) \
    X(MLP,                 mlp,                IN0123,  LARGE) \
    X(ATTENTION,           attention,          IN0123_OUT, LARGE) \
    X(CONV3D,              conv3d,             IN01,    LARGE) \
    X(DEPTHWISE3D,         depthwise3d,        IN01,    LARGE) \
    X(CONV_TRANSPOSE3D,    conv_transpose3d,   IN01,    LARGE) \
    X(BATCHNORM,           batchnorm,          IN01,    LARGE) \
    X(LAYERNORM,           layernorm,          IN01,    LARGE) \
    X(GROUPNORM,           groupnorm,          IN01,    LARGE) \
    X(MASKED_FILL,         masked_fill,        IN2,     EXACT) \
    X(MINMAX,              minmax,             IN0,     EXACT)
#define BMVP_X(id, name, reads, type) BMVP_OP_##id,
typedef enum bmvp_op { BMVP_OPS(BMVP_X) BMVP_OP_COUNT } bmvp_op;
#undef BMVP_X
enum { /* bit i: operand i; the column `reads` */
    BMVP_READS_NONE = 0,
    BMVP_READS_IN0 = 1,
    BMVP_READS_IN01 = 3,
    BMVP_READS_IN2 = 4,
    BMVP_READS_IN0123 = 15,
    BMVP_READS_OUT = 1 << BMVP_MAX_SRC,
    BMVP_READS_IN0123_OUT = BMVP_READS_IN0123 | BMVP_READS_OUT
};
BMVP_API const char *bmvp_op_name(int op); /* "leaf" for -1 */

typedef void (*bmvp_kernel_fn)(bmvp_ctx *c, bmvp_tensor *y);
typedef struct bmvp_kernel {
    bmvp_kernel_fn forward;  /* reads src[i]->x, writes y->x and y->saved */
    bmvp_kernel_fn backward; /* reads y->g, adds into the gradients of the operands that want one */
    int64_t (*workspace)(const bmvp_ctx *c, const bmvp_tensor *y, int backward); /* floats; NULL: none */
} bmvp_kernel;
/* One tensor's step of an optimizer (bmvp_nn.h, >>optimizer). With d = g scale + l2 p. SGD (v NULL): m = b1 m + d,
   p -= lr m. Adam and AdamW: p *= 1 - lr decay, m += b1 (d - m), v += b2 (d^2 - v), p -= step m / (sqrt(v) root + eps);
   AMSGrad (top not NULL) has top = max(top, v) in the place of v there. An average (p NULL): m += b1 (g - m). */
typedef struct bmvp_update {
    float *p, *m, *v, *top;
    const float *g;
    int64_t n;
    float scale, lr, decay, l2, b1, b2, step, root, eps;
} bmvp_update;

enum { BMVP_POST_MOST = 8, BMVP_TICKETS = 64 };
/* Numbers of bmvp_device.clipped_update's rule */
enum { BMVP_RULE_NORM, BMVP_RULE_SCALE, BMVP_RULE_HALTED, BMVP_RULE_SKIPPED, BMVP_RULE_NUMBERS };

/* Memory and shared work of a backend: values, gradients and workspaces of its contexts lie there, and nothing outside
   of kernels reaches them but through this table. The CPU fills one, too (>>device of the CPU): its loops are the
   definition. Calls take effect in their order, but may return before (runs_ahead); a failure is recorded with
   bmvp_fail, at the latest by the next call that waits. None is made in a plan. */
typedef struct bmvp_device {
    void *user;              /* the backend's own */
    int on_host;             /* 1: this memory is the host's */
    int runs_ahead;     /* 1: calls return before they are done, but read, square_sum, collect and sync, which wait */
    int64_t half_least; /* in BMVP_BF16, results of ops of at least so many numbers, 2 or more, are bfloat16
                           (bmvp_tensor.half); 0: none are */
    int64_t mlp_keeps_least; /* the op mlp of at least so many input channels keeps its hidden layer for backward; 0: it
                                is always made again */
    /* In k->precision, with k->simd: 1, or 0 and BMVP_E_UNSUPPORTED with the reason */
    int (*computes)(const bmvp_config *k, bmvp_error *err);
    void *(*alloc)(bmvp_ctx *c, int64_t bytes); /* at a multiple of 64 bytes; NULL and a failure */
    void (*free)(bmvp_ctx *c, void *ptr);                                           /* NULL: nothing */
    void (*write)(bmvp_ctx *c, float *to, const float *host, int64_t n);            /* host may change then */
    void (*read)(bmvp_ctx *c, float *host, const float *from, int64_t n);           /* waits; NaN after a failure */
    void (*fill)(bmvp_ctx *c, float *to, float value, int64_t n);
    /* to = from, or to += from; half: of n bfloat16 instead of floats */
    void (*add)(bmvp_ctx *c, float *to, int half, const float *from, int from_half, int64_t n, int accumulate);
    void (*update)(bmvp_ctx *c, const bmvp_update *u, int n);                       /* n tensors */
    double (*square_sum)(bmvp_ctx *c, const bmvp_update *u, int n);                 /* of all their gradients; waits */
    /* The same step without waiting for the norm. rule: BMVP_RULE_NUMBERS numbers on the device, zeros at first. NORM
       becomes the norm of all gradients, SCALE clip / norm where that is above clip > 0, else 1. If HALTED is not 0
       nothing moves, and SKIPPED grows by 1: a norm that is not finite makes it so, or `watch`, if x is not finite. So
       the host may learn of it later: the values are those of the last good step. */
    void (*clipped_update)(bmvp_ctx *c, const bmvp_update *u, int n, double clip, float *rule);
    void (*watch)(bmvp_ctx *c, const float *x, float *rule);
    int64_t (*post)(bmvp_ctx *c, const float *const *x, int n);                     /* bmvp_post */
    int (*collect)(bmvp_ctx *c, int64_t ticket, float *x, int n);                   /* bmvp_collect */
    void (*sync)(bmvp_ctx *c);                                                      /* waits */
    /* Both or neither (NULL): as bmvp_capture_begin says. End is called after failures, too, and then starts
       nothing. */
    void (*capture_begin)(bmvp_ctx *c);
    void (*capture_end)(bmvp_ctx *c);
} bmvp_device;

struct bmvp_backend {
    const char *name;
    bmvp_kernel op[BMVP_OP_COUNT];
    const bmvp_device *device; /* never NULL; of kernels for the host's memory: bmvp_cpu_backend()->device */
};
BMVP_API const bmvp_backend *bmvp_cpu_backend(void);
BMVP_API const bmvp_backend *bmvp_backend_of(const bmvp_ctx *c);
/* In bmvp_cuda.cu: GPU number `device` (from 0). NULL and the reason when there is none or no driver
   (BMVP_E_UNSUPPORTED). It is used by the thread that made it, and outlives its contexts. */
BMVP_API const bmvp_backend *bmvp_cuda_backend(int device, bmvp_error *err);
BMVP_API void bmvp_cuda_release(const bmvp_backend *backend);
/* Several GPUs, a process each, by NCCL (a build without it: BMVP_E_UNSUPPORTED). Rank 0 makes an id and gives it to
   the others (a file, a socket, MPI); then every rank joins with its own backend, and all wait for each other. The
   table has on_device 1: exchanges are given to the GPU, on a stream of their own, and started sums go on beside the
   kernels. Sums are in NCCL's order, not that of the ranks: bits repeat from run to run with the same GPUs, NCCL and
   settings of it, and not elsewhere.
   deadline_s: seconds (above 0) that a rank waits for the others, when it joins and
   whenever the host waits for the GPU; then, or when NCCL finds that a rank is gone, the communicator is given up, and
   this and every later call fails with BMVP_E_IO. It must be longer than what one rank does alone while the others wait
   (saving, validation). abort stops this rank; the others find it missing. Leave after the last bmvp_destroy and before
   bmvp_cuda_release; a table of zeros or NULL is fine. */
BMVP_API bmvp_status bmvp_cuda_comm_id(unsigned char id[128], bmvp_error *err);
BMVP_API bmvp_status bmvp_cuda_comm_join(const bmvp_backend *b, const unsigned char id[128], int rank, int size,
                                         double deadline_s, bmvp_comm *out, bmvp_error *err);
BMVP_API void bmvp_cuda_comm_leave(bmvp_comm *m);
BMVP_API int bmvp_on_host(const bmvp_ctx *c);    /* 1: the host may read and write x and g of tensors */
BMVP_API int bmvp_runs_ahead(const bmvp_ctx *c); /* 1: calls return before they are done; to read a result waits */
/* Waits until the backend has done all it was given; returns the first failure. */
BMVP_API bmvp_status bmvp_sync(bmvp_ctx *c);
/* Reading without waiting: the numbers at x[0 .. n), n at most BMVP_POST_MOST, in the backend's memory (NULL: 0) are
   sent to the host. Returns a ticket above 0, or 0 and a failure. The last BMVP_TICKETS of a backend can be collected:
   x gets n numbers, 1 is returned, once that one has come; if not bmvp_runs_ahead, that is at once. 0, NaNs and a
   failure else. Not in a plan. */
BMVP_API int64_t bmvp_post(bmvp_ctx *c, const float *const *x, int n);
BMVP_API int bmvp_collect(bmvp_ctx *c, int64_t ticket, float *x, int n);
/* The backend may hold back what it is given between the two and do it as one piece at the end, or as soon as something
   has to wait for it; values are the same. Worth it around many calls without a read. Nothing happens where
   bmvp_captures is 0: on the CPU, in a plan, with bmvp_config.graph 0, or after bmvp_set_comm. */
BMVP_API void bmvp_capture_begin(bmvp_ctx *c);
BMVP_API void bmvp_capture_end(bmvp_ctx *c);
BMVP_API int bmvp_captures(const bmvp_ctx *c); /* 1: the two do something */

/* For kernels of other backends. Gradient of operand t: *accumulate 0: write every element, 1: add; NULL: none is
   wanted, or a plan. */
BMVP_API float *bmvp_kernel_grad(bmvp_ctx *c, bmvp_tensor *t, int *accumulate);
/* Gives y's gradient to operand t as it is: the buffer is shared until somebody adds to it. */
BMVP_API void bmvp_kernel_grad_pass(bmvp_ctx *c, bmvp_tensor *y, bmvp_tensor *t);
BMVP_API float *bmvp_kernel_workspace(const bmvp_ctx *c);   /* what the table's workspace() asked for */
/* 1: a dropped value is made again; statistics must stay as they are */
BMVP_API int bmvp_kernel_recomputes(const bmvp_ctx *c);
/* `bytes` (a multiple of 4) of each of the context's ranks into `all`, in their order; both are in the backend's
   memory. */
BMVP_API void bmvp_kernel_gather(bmvp_ctx *c, const void *own, int64_t bytes, void *all);

/* Checks one op's backward against central differences of its forward on its own sample shapes, with random cotangents.
   Returns the worst error relative to the gradient's size (NaN counts as infinite), -1 when the variant does not exist,
   HUGE_VAL when building failed. A gradient check cannot find a wrong forward: see the fixtures in tests/. */
BMVP_API double bmvp_gradcheck(const bmvp_config *cfg, int op, int variant, uint64_t seed);
/* Builds the op's sample number `variant` from fresh leaves (values undefined where they want a gradient): small and
   awkward. */
BMVP_API bmvp_tensor *bmvp_op_sample(bmvp_ctx *c, int op, int variant);

/* Builders. Each returns a step tensor, or NULL after a failure. Names are PyTorch's where it has one.
   Shapes: `...` stands for any leading axes. */

/* Pointwise. a and b of one shape; or b with a's last axes (C: a channel vector; D, H, W, C: the same for each sample),
   before which ones may stand; or b with one element. */
BMVP_API bmvp_tensor *bmvp_add(bmvp_ctx *c, bmvp_tensor *a, bmvp_tensor *b);
BMVP_API bmvp_tensor *bmvp_mul(bmvp_ctx *c, bmvp_tensor *a, bmvp_tensor *b);
BMVP_API bmvp_tensor *bmvp_sub(bmvp_ctx *c, bmvp_tensor *a, bmvp_tensor *b); /* a - b */
BMVP_API bmvp_tensor *bmvp_div(bmvp_ctx *c, bmvp_tensor *a, bmvp_tensor *b); /* a / b */
/* a + b for two tensors of one shape, written over b's memory: b's value is gone afterwards. b must be the result of an
   op whose backward does not read its output (column `reads` of the list) and must have no other reader. For residual
   branches. */
BMVP_API bmvp_tensor *bmvp_add_into(bmvp_ctx *c, bmvp_tensor *a, bmvp_tensor *b);
BMVP_API bmvp_tensor *bmvp_scale(bmvp_ctx *c, bmvp_tensor *x, double factor, double offset); /* factor x + offset */
BMVP_API bmvp_tensor *bmvp_relu(bmvp_ctx *c, bmvp_tensor *x);
BMVP_API bmvp_tensor *bmvp_leaky_relu(bmvp_ctx *c, bmvp_tensor *x, double slope); /* x > 0 ? x : slope x; slope > 0 */
BMVP_API bmvp_tensor *bmvp_sigmoid(bmvp_ctx *c, bmvp_tensor *x);
BMVP_API bmvp_tensor *bmvp_gelu(bmvp_ctx *c, bmvp_tensor *x); /* x Phi(x), the exact erf form */
BMVP_API bmvp_tensor *bmvp_abs(bmvp_ctx *c, bmvp_tensor *x);  /* the gradient at 0 is 0 */
BMVP_API bmvp_tensor *bmvp_sqrt(bmvp_ctx *c, bmvp_tensor *x); /* NaN below 0; the gradient at 0 is infinite */
BMVP_API bmvp_tensor *bmvp_exp(bmvp_ctx *c, bmvp_tensor *x);
BMVP_API bmvp_tensor *bmvp_natural_log(bmvp_ctx *c, bmvp_tensor *x); /* -infinity at 0, NaN below. torch log */
/* min(max(x, low), high), low <= high, either may be infinite; the gradient passes where low <= x <= high */
BMVP_API bmvp_tensor *bmvp_clamp(bmvp_ctx *c, bmvp_tensor *x, double low, double high);
BMVP_API bmvp_tensor *bmvp_softmax(bmvp_ctx *c, bmvp_tensor *x); /* over the last axis */
/* x / max(|x|, eps) over the last axis */
BMVP_API bmvp_tensor *bmvp_l2_normalize(bmvp_ctx *c, bmvp_tensor *x, double eps);

/* Shape. */
/* shares memory with x */
BMVP_API bmvp_tensor *bmvp_reshape(bmvp_ctx *c, bmvp_tensor *x, int rank, const int64_t *dim);
BMVP_API bmvp_tensor *bmvp_permute(bmvp_ctx *c, bmvp_tensor *x, const int *axes); /* y axis i is x axis axes[i] */
/* Along each axis values move up by `shift` places, and what leaves at its end comes in at its start: y[(i + shift) mod
   n] = x[i]; rank entries, of either sign. torch.roll */
BMVP_API bmvp_tensor *bmvp_roll(bmvp_ctx *c, bmvp_tensor *x, const int64_t *shift);
BMVP_API bmvp_tensor *bmvp_slice(bmvp_ctx *c, bmvp_tensor *x, int axis, int64_t start, int64_t length);
/* zeros; rank entries each, >= 0 */
BMVP_API bmvp_tensor *bmvp_pad(bmvp_ctx *c, bmvp_tensor *x, const int64_t *low, const int64_t *high);
BMVP_API bmvp_tensor *bmvp_concat(bmvp_ctx *c, int n, bmvp_tensor *const *x, int axis); /* 1 to BMVP_MAX_SRC tensors */
/* (N,D,H,W,C) -> (N,fD,fH,fW,C) */
BMVP_API bmvp_tensor *bmvp_upsample_nearest(bmvp_ctx *c, bmvp_tensor *x, int factor);
/* (N,D,H,W,C) -> (N,fD,fH,fW,C), linear along each axis. align_corners as in torch.nn.functional.interpolate. */
BMVP_API bmvp_tensor *bmvp_upsample_trilinear(bmvp_ctx *c, bmvp_tensor *x, int factor, int align_corners);
/* (N,D,H,W,C) -> (N,D/k,H/k,W/k,C): the largest of each block of k^3 voxels, k >= 1; what a block does not fill at the
   end of an axis is left out. The first largest in memory gets the gradient; a NaN is larger than all. torch max_pool3d
   of kernel and stride k */
BMVP_API bmvp_tensor *bmvp_maxpool3d(bmvp_ctx *c, bmvp_tensor *x, int kernel);
/* (N, ..., C) -> (N, C): mean over the axes between */
BMVP_API bmvp_tensor *bmvp_global_pool(bmvp_ctx *c, bmvp_tensor *x);
/* (N,D,H,W,C) -> (N,D/b,H/b,W/b,b*b*b*C), the block's voxels in (z,y,x) order before C. */
BMVP_API bmvp_tensor *bmvp_space_to_depth(bmvp_ctx *c, bmvp_tensor *x, int block);
/* (N,D,H,W,C) -> the same: sums over cubes of size^3 voxels around each one, size odd, zeros outside. conv3d with a
   kernel of ones for each channel */
BMVP_API bmvp_tensor *bmvp_box_sum3d(bmvp_ctx *c, bmvp_tensor *x, int size);
/* x (N,D,H,W,C) read at position (N,D',H',W',3), in voxels along D, H, W (0: the centre of the first voxel, need not be
   whole) -> (N,D',H',W',C): linear between the eight voxels around it, those outside are 0; NaN where a position is.
   Gradient into x and into the positions. Positions in bfloat16, 8 bits, are refused (BMVP_E_UNSUPPORTED).
   torch grid_sample(padding_mode = zeros, align_corners = True), whose grid is (W, H, D) and from -1 to 1 */
BMVP_API bmvp_tensor *bmvp_grid_sample3d(bmvp_ctx *c, bmvp_tensor *x, bmvp_tensor *position);
/* Rows of x (..., C), R = numel / C of them, in any order and any number: y[i] = x[index[i]] -> (n, C). index: n
   numbers in [0, R) (copied; not read in a plan). The gradient of a row that is taken several times is the sum in the
   order of the list. torch index_select, over several axes flattened */
BMVP_API bmvp_tensor *bmvp_gather_rows(bmvp_ctx *c, bmvp_tensor *x, int64_t n, const int32_t *index);
/* x (..., C) with the rows of a mask replaced by one, row (C): y[i] = mask[i] ? row : x[i]. mask: R = numel / C numbers
   (copied; not read in a plan). Gradient into x and into the row. torch where */
BMVP_API bmvp_tensor *bmvp_where_rows(bmvp_ctx *c, bmvp_tensor *x, bmvp_tensor *row, const int32_t *mask);

/* Reductions and losses: one number. */
BMVP_API bmvp_tensor *bmvp_sum(bmvp_ctx *c, bmvp_tensor *x);
BMVP_API bmvp_tensor *bmvp_mean(bmvp_ctx *c, bmvp_tensor *x);
BMVP_API bmvp_tensor *bmvp_mse(bmvp_ctx *c, bmvp_tensor *a, bmvp_tensor *b); /* mean of (a - b)^2 over all elements */
/* Mean of |a - b| over all elements; no gradient where they are equal. torch l1_loss */
BMVP_API bmvp_tensor *bmvp_l1(bmvp_ctx *c, bmvp_tensor *a, bmvp_tensor *b);
/* Mean over rows of -log softmax(logits)[target]; logits (R, K), target R class numbers in [0, K) (copied). */
BMVP_API bmvp_tensor *bmvp_cross_entropy(bmvp_ctx *c, bmvp_tensor *logits, const int32_t *target);
/* The same with class weights (K numbers, copied), sum of w[target] loss / sum of w[target]. torch
   cross_entropy(weight=) */
BMVP_API bmvp_tensor *bmvp_cross_entropy_weighted(bmvp_ctx *c, bmvp_tensor *logits, const int32_t *target,
                                                  const float *weight);
/* Mean over all elements of -(t log s + (1 - t) log(1 - s)), s = sigmoid(logits), t in [0, 1], no gradient into t.
   torch BCEWithLogits */
BMVP_API bmvp_tensor *bmvp_bce_logits(bmvp_ctx *c, bmvp_tensor *logits, bmvp_tensor *target);
/* Soft Dice loss: mean over n and c of 1 - (2 sum p t + smooth) / (sum p^k + sum t^k + smooth), sums over the axes
   between, k = 2 with `squared`, else 1. p, t (N, ..., C), no gradient into t. monai DiceLoss(squared_pred=,
   smooth_nr=, smooth_dr=) */
BMVP_API bmvp_tensor *bmvp_soft_dice(bmvp_ctx *c, bmvp_tensor *p, bmvp_tensor *target, int squared, double smooth);

/* Products. */
/* a (..., M, K) or transposed (..., K, M); b (..., K, N) or transposed (..., N, K); equal leading axes -> (..., M,
   N). */
BMVP_API bmvp_tensor *bmvp_matmul(bmvp_ctx *c, bmvp_tensor *a, bmvp_tensor *b, int transpose_a, int transpose_b);
/* x (..., I), w (I, O), b (O) or NULL -> (..., O). torch.nn.functional.linear with w transposed; also the 1x1x1
   convolution. */
BMVP_API bmvp_tensor *bmvp_linear(bmvp_ctx *c, bmvp_tensor *x, bmvp_tensor *w, bmvp_tensor *b);
/* residual + linear(x, w, b) in one pass; residual (..., O). */
BMVP_API bmvp_tensor *bmvp_linear_residual(bmvp_ctx *c, bmvp_tensor *x, bmvp_tensor *w, bmvp_tensor *b,
                                           bmvp_tensor *residual);
/* y = GELU(x w1 + b1) w2 + b2 with x (..., I), w1 (I, H), w2 (H, O), biases (H) and (O) or NULL -> (..., O). Equals
   linear, gelu, linear; the hidden layer is never stored: backward computes it again tile by tile. */
BMVP_API bmvp_tensor *bmvp_mlp(bmvp_ctx *c, bmvp_tensor *x, bmvp_tensor *w1, bmvp_tensor *b1, bmvp_tensor *w2,
                               bmvp_tensor *b2);
/* residual + mlp(x, w1, b1, w2, b2) in one pass; residual (..., O). */
BMVP_API bmvp_tensor *bmvp_mlp_residual(bmvp_ctx *c, bmvp_tensor *x, bmvp_tensor *w1, bmvp_tensor *b1, bmvp_tensor *w2,
                                        bmvp_tensor *b2, bmvp_tensor *residual);
/* Multi-head self-attention, softmax(q k^T scale) v per head: qkv (N, T, 3 C) = [q | k | v], each C = heads x head size
   -> (N, T, C). The T x T matrix is never stored; kept for backward: one log-sum-exp per row and head. */
BMVP_API bmvp_tensor *bmvp_attention(bmvp_ctx *c, bmvp_tensor *qkv, int heads, double scale);
/* The same within windows, with learned biases by relative place: qkv (N, T, 3 C), sample n being window n mod
   `windows` of a grid; to q_i k_j scale comes table[place[i] - place[j] + (R - 1) / 2, head], table (R, heads), R odd,
   place T numbers (copied, as region) at most (R - 1) / 2 apart; and -100 where region (windows, T) is another for i
   than for j; NULL: no regions. Nothing of T x T is kept, and biases of a tile are looked up once for many windows.
   MONAI's WindowAttention (Liu et al., ICCV 2021, with Swin-UNETR's masks) */
BMVP_API bmvp_tensor *bmvp_window_attention(bmvp_ctx *c, bmvp_tensor *qkv, int heads, double scale, bmvp_tensor *table,
                                            const int32_t *place, const int32_t *region, int64_t windows);

/* Convolutions over (N, D, H, W, C). Zero padding. b (Co) or NULL. */
BMVP_API bmvp_conv_shape bmvp_conv_same(int64_t stride, int64_t pad); /* equal on the three axes, one group */
/* x (N,D,H,W,Ci), w (kd,kh,kw,Ci/groups,Co) -> (N,D',H',W',Co). torch.nn.functional.conv3d */
BMVP_API bmvp_tensor *bmvp_conv3d(bmvp_ctx *c, bmvp_tensor *x, bmvp_tensor *w, bmvp_tensor *b,
                                  const bmvp_conv_shape *shape);
/* x (N,D,H,W,C), w (k,k,k,C), odd k, stride 1, pad k / 2 -> same shape. conv3d with groups = C */
BMVP_API bmvp_tensor *bmvp_depthwise3d(bmvp_ctx *c, bmvp_tensor *x, bmvp_tensor *w, bmvp_tensor *b);
/* x + depthwise3d(x, w, b) in one pass. */
BMVP_API bmvp_tensor *bmvp_depthwise3d_residual(bmvp_ctx *c, bmvp_tensor *x, bmvp_tensor *w, bmvp_tensor *b);
/* x (N,D,H,W,Ci), w (Ci,k,k,k,Co) -> (N,kD,kH,kW,Co): kernel = stride = k, no overlap.
   torch.nn.functional.conv_transpose3d */
BMVP_API bmvp_tensor *bmvp_conv_transpose3d(bmvp_ctx *c, bmvp_tensor *x, bmvp_tensor *w, bmvp_tensor *b);

/* Norms. gamma and beta (C). */
/* Batch norm over all axes but the last. training 1: batch statistics (biased variance), and the running ones move by
   momentum (unbiased variance); 0: running statistics. running_mean, running_var (C): buffers, updated in place. torch
   BatchNorm3d; gamma and beta may both be NULL (affine = False), in training the running ones, too
   (track_running_stats = False) */
BMVP_API bmvp_tensor *bmvp_batchnorm(bmvp_ctx *c, bmvp_tensor *x, bmvp_tensor *gamma, bmvp_tensor *beta,
                                     bmvp_tensor *running_mean, bmvp_tensor *running_var, int training, double momentum,
                                     double eps);
/* over the last axis */
BMVP_API bmvp_tensor *bmvp_layernorm(bmvp_ctx *c, bmvp_tensor *x, bmvp_tensor *gamma, bmvp_tensor *beta, double eps);
/* x (N, ..., C), statistics per sample and group of C / groups neighbouring channels. torch GroupNorm; gamma and beta
   may both be NULL */
BMVP_API bmvp_tensor *bmvp_groupnorm(bmvp_ctx *c, bmvp_tensor *x, bmvp_tensor *gamma, bmvp_tensor *beta, int groups,
                                     double eps);

/* Statistics per sample and channel, no affine part: group norm with C groups. torch InstanceNorm3d */
BMVP_API bmvp_tensor *bmvp_instancenorm(bmvp_ctx *c, bmvp_tensor *x, double eps);

/* Masking (BrainMVP's Phi). x (D, H, W), mask (D, H, W) of 0 and 1, filler (Z, Y, X): a volume of any size in which x
   lies at `start` (may be negative; outside of the filler its value is 0). y = mask ? filler at start + place : x.
   Gradient into x and into the filler. */
BMVP_API bmvp_tensor *bmvp_masked_fill(bmvp_ctx *c, bmvp_tensor *x, bmvp_tensor *filler, bmvp_tensor *mask,
                                       const int64_t start[3]);
/* (x - min) / (max - min + eps) over all elements; the gradient goes through min and max too, ties share it evenly. */
BMVP_API bmvp_tensor *bmvp_minmax(bmvp_ctx *c, bmvp_tensor *x, double eps);

#ifdef __cplusplus
}
#endif
#endif /* BMVP_TENSOR_H_INCLUDED */

/* ================================================================================================================
   Stop here if you only use the library. Implementation below.
   ================================================================================================================ */
#ifdef BMVP_TENSOR_IMPLEMENTATION
#ifndef BMVP_TENSOR_IMPLEMENTATION_ONCE
#define BMVP_TENSOR_IMPLEMENTATION_ONCE
#if defined(__FLT_EVAL_METHOD__) && __FLT_EVAL_METHOD__ != 0 && __FLT_EVAL_METHOD__ != 16 && !defined(BMVP_NO_SIMD)
#define BMVP_NO_SIMD /* x87, s390x: floats are computed in more bits, and a vector times a literal does not compile */
#endif

#if (!defined(__ATOMIC_RELAXED) || defined(_MSC_VER)) && !defined(BMVP_NO_THREADS)
#define BMVP_NO_THREADS /* TCC 0.9.27 and MSVC have no __atomic builtins, by which tasks are taken, MSVC no pthread.h */
#endif

#include <float.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#ifndef BMVP_NO_THREADS
#include <pthread.h>
#include <unistd.h>
#endif
#if defined(__linux__)
#include <sys/mman.h>
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* >>base --------------------------------------------------------------------------------------------------------- */

BMVP_API const char *bmvp_op_name(int op)
{
#define BMVP_X(id, name, reads, type) #name,
    static const char *const t[] = { BMVP_OPS(BMVP_X) };
#undef BMVP_X
    return op >= 0 && op < BMVP_OP_COUNT ? t[op] : "leaf";
}

/* Names come from files and peers: what a terminal would carry out is shown as '?'. */
static void bmvpi_error_clean(bmvp_error *err)
{
    char *p;
    for (p = err->message; *p; ++p)
        if ((*p > 0 && *p < ' ' && *p != '\n') || *p == 127) *p = '?';
}

BMVP_API bmvp_status bmvp_error_set(bmvp_error *err, bmvp_status s, const char *format, ...)
{
    va_list ap;
    if (!err) return s;
    err->status = s;
    va_start(ap, format);
    vsnprintf(err->message, sizeof err->message, format, ap);
    va_end(ap);
    bmvpi_error_clean(err);
    return s;
}

/* >>for upper headers ---------------------------------------------------------------------------------------------
   Private names that bmvp_nn.h and bmvp_ssl.h may use, and no others (tests/form/house.sh). All of them may change from
   one version to the next, with the headers. BMVPI_HOT (>>work) is one, too: a loop the compiler shall make vectors
   of. */

/* a * b, or -1 when either is negative or the product does not fit */
static int64_t bmvpi_mul_size(int64_t a, int64_t b)
{
    if (a < 0 || b < 0 || (b > 0 && a > INT64_MAX / b)) return -1;
    return a * b;
}

static int64_t bmvpi_min(int64_t a, int64_t b) { return a < b ? a : b; }
static int64_t bmvpi_max(int64_t a, int64_t b) { return a > b ? a : b; }
static int64_t bmvpi_ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

/* C libraries differ in the last bit of expf and the like. Their doubles differ, too, but far behind the last bit of a
   float: by way of double a network gets the same numbers on all of them. */
static float bmvpi_expf(float x) { return (float)exp((double)x); }
static float bmvpi_logf(float x) { return (float)log((double)x); }
static float bmvpi_erff(float x) { return (float)erf((double)x); }
static float bmvpi_log1pf(float x) { return (float)log1p((double)x); }
static float bmvpi_expm1f(float x) { return (float)expm1((double)x); }

static void *bmvpi_libc_alloc(size_t n, void *user) { (void)user; return malloc(n); }
static void bmvpi_libc_free(void *p, void *user) { (void)user; free(p); }

/* Memory of the context's allocator, not zeroed; NULL and the context's failure. NULL may be freed. */
static void *bmvpi_alloc(bmvp_ctx *c, int64_t size);
static void bmvpi_free(bmvp_ctx *c, void *p);

/* n floats between the host and x or g of a tensor, wherever that lies. Not in a plan. */
static void bmvpi_values_write(bmvp_ctx *c, float *to, const float *host, int64_t n);
static void bmvpi_values_read(bmvp_ctx *c, float *host, const float *from, int64_t n);
static void bmvpi_values_fill(bmvp_ctx *c, float *to, float value, int64_t n);

/* "(2,3,4)" into buf, for messages */
static const char *bmvpi_shape(const bmvp_tensor *t, char *buf, size_t size);
/* A persistent tensor; on_host: scratch in the host's memory, whatever the backend. Memory of a parameter's gradient */
static bmvp_tensor *bmvpi_lasting(bmvp_ctx *c, const char *name, int rank, const int64_t *dim, int with_grad,
                                  int on_host);
static int bmvpi_lasting_grad(bmvp_ctx *c, bmvp_tensor *t);

/* Of a context with ranks. takes_values: the ranks' table takes x and g as they are; else they go through the host, or
   through comm_space, memory of the backend that the next call may move. */
static int bmvpi_comm_takes_values(const bmvp_ctx *c);
static float *bmvpi_comm_space(bmvp_ctx *c, int64_t bytes);
static void bmvpi_comm_upload(bmvp_ctx *c, float *to, const void *host, int64_t bytes);
static void bmvpi_comm_download(bmvp_ctx *c, void *host, const float *from, int64_t bytes);
/* Gives a failure of the table to the context; 1: there is none. */
static int bmvpi_comm_done(bmvp_ctx *c, bmvp_status st, const bmvp_error *err);
/* Of the host's memory, whichever the table takes; 1: it went well. doubles: n of every rank, to be freed, or NULL */
static int bmvpi_comm_all_gather(bmvp_ctx *c, const void *own, int64_t bytes, void *all);
static double *bmvpi_comm_doubles(bmvp_ctx *c, const double *own, int64_t n);
static int bmvpi_comm_sum_doubles(bmvp_ctx *c, double *own, int64_t n);

/* >>record: what a context holds ------------------------------------------------------------------------------------
   In the order of the sections that follow: memory of the host, threads, step memory, the tape, ranks. */

enum { BMVPI_ALIGN = 64, BMVPI_MAX_CHUNKS = 256 };

typedef struct bmvpi_block {
    struct bmvpi_block *prev, *next; /* neighbours by address within the chunk */
    int64_t offset, size;            /* bytes */
    int chunk, refs;                 /* refs 0: free */
} bmvpi_block;

typedef struct bmvpi_chunk {
    char *base; /* in the backend's memory; NULL in a plan */
    int64_t size;
    bmvpi_block *first;
} bmvpi_chunk;

enum { BMVPI_POOL_ITEMS = 128 };
typedef struct bmvpi_slab { struct bmvpi_slab *next; } bmvpi_slab; /* header of a slab of equal items */
typedef struct bmvpi_items { bmvpi_slab *slabs; void *free_list; size_t item_size; } bmvpi_items;

#ifndef BMVP_NO_THREADS
typedef struct bmvpi_pool {
    pthread_mutex_t lock;
    pthread_cond_t start, done;
    pthread_t *thread;
    int n_started, quit;
    uint64_t round, busy; /* rounds begun; threads that work on this one */
    bmvp_task_fn fn;
    void *arg;
    int64_t n_tasks, next;
} bmvpi_pool;
typedef struct bmvpi_pool_seat { struct bmvpi_pool *pool; int worker; } bmvpi_pool_seat;
#endif

struct bmvp_ctx {
    bmvp_config cfg;
    bmvp_error err;
    bmvp_simd simd;
    int threads, grad_on, recompute, told_of_pages;
    bmvpi_chunk chunk[BMVPI_MAX_CHUNKS];
    int n_chunks;
    bmvpi_items blocks, nodes;
    int64_t step_bytes, step_peak, persistent_bytes, largest_bytes, record_bytes, min_chunk;
    bmvp_tensor **step;     /* step tensors in order of creation: the tape */
    int64_t n_step, cap_step;
    bmvp_tensor **lasting;  /* persistent tensors */
    int64_t n_lasting, cap_lasting;
    float *workspace;       /* of the kernel that is running */
    const bmvp_comm *comm;
    float *comm_space;      /* of the backend, for what the host exchanges over a table with on_device */
    int64_t comm_bytes;
    void (*on_gradient)(void *user);
    void *on_gradient_user;
    float mail[BMVP_TICKETS][BMVP_POST_MOST]; /* of the CPU: what was posted, ticket t at t % BMVP_TICKETS */
    int64_t mailed;         /* the last ticket */
#ifndef BMVP_NO_THREADS
    bmvpi_pool pool;
    bmvpi_pool_seat *seat;
    int pool_ready;
#endif
};

/* >>host memory ---------------------------------------------------------------------------------------------------- */

static void *bmvpi_alloc(bmvp_ctx *c, int64_t size)
{
    void *p = size >= 0 ? c->cfg.allocator.alloc((size_t)(size > 0 ? size : 1), c->cfg.allocator.user) : NULL;
    if (!p) bmvp_fail(c, BMVP_E_OOM, "out of memory: %.1f MB more were asked for", (double)size / 1e6);
    return p;
}
static void bmvpi_free(bmvp_ctx *c, void *p) { if (p) c->cfg.allocator.free(p, c->cfg.allocator.user); }

/* `bytes` of the host's at a multiple of 64; big ones at one of 2 MB, for huge pages: on virtual machines first-touch
   faults cost more than the arithmetic. What the allocator gave stands before them. */
static void *bmvpi_aligned_alloc(bmvp_ctx *c, int64_t bytes)
{
    const int64_t align = bytes >= (4 << 20) ? (2 << 20) : BMVPI_ALIGN, more = align + (int64_t)sizeof(void *);
    void *memory = bmvpi_alloc(c, bytes > INT64_MAX - more ? -1 : bytes + more);
    char *p = (char *)memory + sizeof memory;
    if (!memory) return NULL;
    p += (align - (int64_t)((uintptr_t)p & (uintptr_t)(align - 1))) & (align - 1);
    memcpy(p - sizeof memory, &memory, sizeof memory);
#if defined(__linux__) && defined(MADV_HUGEPAGE)
    if (align > BMVPI_ALIGN && madvise(p, (size_t)bytes & ~(size_t)((2 << 20) - 1), MADV_HUGEPAGE) &&
        !c->told_of_pages) {
        c->told_of_pages = 1;
        bmvp_log(c, "memory: the system gives no huge pages; the first use of memory is slower");
    }
#endif
    return p;
}
static void bmvpi_aligned_free(bmvp_ctx *c, void *p)
{
    void *memory = NULL;
    if (p) memcpy(&memory, (char *)p - sizeof memory, sizeof memory);
    bmvpi_free(c, memory);
}

/* >>values: numbers of tensors, in the backend's memory ------------------------------------------------------------ */

static float *bmvpi_values_alloc(bmvp_ctx *c, int64_t bytes)
{
    return (float *)c->cfg.backend->device->alloc(c, bytes);
}
static void bmvpi_values_free(bmvp_ctx *c, void *p) { c->cfg.backend->device->free(c, p); }
static void bmvpi_values_write(bmvp_ctx *c, float *to, const float *host, int64_t n)
{
    c->cfg.backend->device->write(c, to, host, n);
}
static void bmvpi_values_read(bmvp_ctx *c, float *host, const float *from, int64_t n)
{
    c->cfg.backend->device->read(c, host, from, n);
}
static void bmvpi_values_fill(bmvp_ctx *c, float *to, float value, int64_t n)
{
    c->cfg.backend->device->fill(c, to, value, n);
}

/* >>bfloat16 ------------------------------------------------------------------------------------------------------- */

/* Values of bfloat16, for backends with half_least. They are moved two at a time as what looks like a float, a last one
   alone with a zero beside it (blocks are a multiple of 64 bytes long). */
static uint16_t bmvpi_half_of(float x) /* to nearest even */
{
    uint32_t u;
    memcpy(&u, &x, sizeof u);
    return (uint16_t)((u & 0x7fffffffu) > 0x7f800000u ? 0x7fffu : (u + 0x7fffu + (u >> 16 & 1u)) >> 16);
}
static float bmvpi_half_value(uint16_t h)
{
    const uint32_t u = (uint32_t)h << 16;
    float x;
    memcpy(&x, &u, sizeof x);
    return x;
}
static void bmvpi_halves_write(bmvp_ctx *c, float *to, const float *host, int64_t n)
{
    enum { PIECE = 4096 };
    uint16_t h[PIECE];
    float pair[PIECE / 2];
    int64_t at, i;
    for (at = 0; at < n; at += PIECE) {
        const int64_t m = bmvpi_min(n - at, PIECE);
        for (i = 0; i < m; ++i) h[i] = bmvpi_half_of(host[at + i]);
        if (m % 2) h[m] = 0;
        memcpy(pair, h, sizeof pair);
        bmvpi_values_write(c, to + at / 2, pair, (m + 1) / 2);
    }
}
/* Into the front of host, and widened from its end on */
static void bmvpi_halves_read(bmvp_ctx *c, float *host, const float *from, int64_t n)
{
    const char *h = (const char *)host;
    int64_t i;
    uint16_t v;
    bmvpi_values_read(c, host, from, (n + 1) / 2);
    for (i = n - 1; i >= 0; --i) {
        memcpy(&v, h + 2 * i, sizeof v);
        host[i] = bmvpi_half_value(v);
    }
}
/* Number i */
static float bmvpi_half_at(bmvp_ctx *c, const float *from, int64_t i)
{
    float pair[2];
    bmvpi_halves_read(c, pair, from + i / 2, 2);
    return pair[i % 2];
}
static void bmvpi_halves_fill(bmvp_ctx *c, float *to, float value, int64_t n)
{
    const uint16_t h[2] = { bmvpi_half_of(value), bmvpi_half_of(value) };
    float pair;
    memcpy(&pair, h, sizeof pair);
    bmvpi_values_fill(c, to, pair, (n + 1) / 2);
}

/* >>threads -------------------------------------------------------------------------------------------------------- */

#ifndef BMVP_NO_THREADS
static void bmvpi_pool_work(bmvpi_pool *p, int worker)
{
    for (;;) {
        int64_t task = __atomic_fetch_add(&p->next, 1, __ATOMIC_RELAXED);
        if (task >= p->n_tasks) return;
        p->fn(p->arg, task, worker);
    }
}

/* Waits a little for *value to leave (leave 1) or to reach `that`; 0: it took too long, sleep. A training step is some
   800 pieces of parallel work, and to wake a thread takes as long as many of them. */
static int bmvpi_pool_spin(const uint64_t *value, uint64_t that, int leave)
{
    int i;
    for (i = 0; i < 4000; ++i) {
        if ((__atomic_load_n(value, __ATOMIC_ACQUIRE) != that) == leave) return 1;
#if defined(__x86_64__) || defined(__i386__)
        __builtin_ia32_pause();
#elif defined(__aarch64__)
        __asm__ __volatile__("yield");
#endif
    }
    return 0;
}

static void *bmvpi_pool_main(void *arg)
{
    bmvpi_pool_seat *seat = (bmvpi_pool_seat *)arg;
    bmvpi_pool *p = seat->pool;
    uint64_t seen = 0;
    for (;;) {
        if (!bmvpi_pool_spin(&p->round, seen, 1)) {
            pthread_mutex_lock(&p->lock);
            while (__atomic_load_n(&p->round, __ATOMIC_ACQUIRE) == seen) pthread_cond_wait(&p->start, &p->lock);
            pthread_mutex_unlock(&p->lock);
        }
        ++seen; /* no round starts before all have finished the one before */
        if (p->quit) return NULL;
        bmvpi_pool_work(p, seat->worker);
        if (__atomic_sub_fetch(&p->busy, 1, __ATOMIC_ACQ_REL) == 0) {
            pthread_mutex_lock(&p->lock);
            pthread_cond_signal(&p->done);
            pthread_mutex_unlock(&p->lock);
        }
    }
}

/* What the threads are to do must be written before. */
static void bmvpi_pool_round(bmvpi_pool *p)
{
    pthread_mutex_lock(&p->lock);
    __atomic_add_fetch(&p->round, 1, __ATOMIC_RELEASE);
    pthread_cond_broadcast(&p->start);
    pthread_mutex_unlock(&p->lock);
}

/* Starts what threads the system gives; with fewer the work is the same, only slower. */
static void bmvpi_pool_start(bmvp_ctx *c)
{
    bmvpi_pool *p = &c->pool;
    int i, want = c->threads - 1;
    c->pool_ready = 1;
    if (want < 1) return;
    p->thread = (pthread_t *)c->cfg.allocator.alloc((size_t)want * sizeof *p->thread, c->cfg.allocator.user);
    c->seat = (bmvpi_pool_seat *)c->cfg.allocator.alloc((size_t)want * sizeof *c->seat, c->cfg.allocator.user);
    if (!p->thread || !c->seat) return;
    if (pthread_mutex_init(&p->lock, NULL)) return;
    pthread_cond_init(&p->start, NULL);
    pthread_cond_init(&p->done, NULL);
    for (i = 0; i < want; ++i) {
        c->seat[i].pool = p;
        c->seat[i].worker = i + 1;
        if (pthread_create(&p->thread[i], NULL, bmvpi_pool_main, &c->seat[i])) break;
        p->n_started = i + 1;
    }
    if (p->n_started < want) bmvp_log(c, "threads: the system gives %d of %d", 1 + p->n_started, c->threads);
}

static void bmvpi_pool_stop(bmvp_ctx *c)
{
    bmvpi_pool *p = &c->pool;
    int i;
    if (p->n_started > 0) {
        p->quit = 1;
        bmvpi_pool_round(p);
        for (i = 0; i < p->n_started; ++i) pthread_join(p->thread[i], NULL);
        pthread_cond_destroy(&p->start);
        pthread_cond_destroy(&p->done);
        pthread_mutex_destroy(&p->lock);
    }
    bmvpi_free(c, p->thread);
    bmvpi_free(c, c->seat);
}
#endif

BMVP_API void bmvp_parallel(bmvp_ctx *c, int64_t n_tasks, bmvp_task_fn fn, void *arg)
{
    int64_t i;
    if (c->cfg.parallel && n_tasks > 1) {
        c->cfg.parallel(c->cfg.parallel_user, n_tasks, fn, arg);
        return;
    }
#ifndef BMVP_NO_THREADS
    if (n_tasks > 1 && c->threads > 1 && !c->cfg.parallel) {
        bmvpi_pool *p = &c->pool;
        if (!c->pool_ready) bmvpi_pool_start(c);
        if (p->n_started > 0) {
            p->fn = fn;
            p->arg = arg;
            p->n_tasks = n_tasks;
            p->next = 0;
            p->busy = (uint64_t)p->n_started;
            bmvpi_pool_round(p);
            bmvpi_pool_work(p, 0);
            if (!bmvpi_pool_spin(&p->busy, 0, 0)) {
                pthread_mutex_lock(&p->lock);
                while (__atomic_load_n(&p->busy, __ATOMIC_ACQUIRE) > 0) pthread_cond_wait(&p->done, &p->lock);
                pthread_mutex_unlock(&p->lock);
            }
            return;
        }
    }
#endif
    for (i = 0; i < n_tasks; ++i) fn(arg, i, 0);
}

/* >>rng impl ----------------------------------------------------------------------------------------------------- */

BMVP_API void bmvp_philox4x32(const uint32_t key[2], const uint32_t counter[4], uint32_t out[4])
{
    uint32_t x0 = counter[0], x1 = counter[1], x2 = counter[2], x3 = counter[3], k0 = key[0], k1 = key[1];
    int round;
    for (round = 0; round < 10; ++round) {
        const uint64_t a = (uint64_t)0xD2511F53u * x0, b = (uint64_t)0xCD9E8D57u * x2;
        const uint32_t y0 = (uint32_t)(b >> 32) ^ x1 ^ k0, y2 = (uint32_t)(a >> 32) ^ x3 ^ k1;
        x1 = (uint32_t)b;
        x3 = (uint32_t)a;
        x0 = y0;
        x2 = y2;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    out[0] = x0;
    out[1] = x1;
    out[2] = x2;
    out[3] = x3;
}

BMVP_API bmvp_rng bmvp_rng_make(uint64_t seed, uint32_t stream, uint32_t step, uint32_t sample)
{
    bmvp_rng r;
    memset(&r, 0, sizeof r);
    r.key[0] = (uint32_t)seed;
    r.key[1] = (uint32_t)(seed >> 32);
    r.counter[1] = stream;
    r.counter[2] = step;
    r.counter[3] = sample;
    return r;
}

BMVP_API uint32_t bmvp_rng_u32(bmvp_rng *r)
{
    if (r->left == 0) {
        bmvp_philox4x32(r->key, r->counter, r->out);
        ++r->counter[0];
        r->left = 4;
    }
    return r->out[4 - r->left--];
}

BMVP_API float bmvp_rng_uniform(bmvp_rng *r) { return (float)(bmvp_rng_u32(r) >> 8) * (1.0f / 16777216.0f); }

BMVP_API float bmvp_rng_normal(bmvp_rng *r)
{
    const double u = ((double)bmvp_rng_u32(r) + 1.0) / 4294967296.0, v = (double)bmvp_rng_u32(r) / 4294967296.0;
    return (float)(sqrt(-2.0 * log(u)) * cos(6.283185307179586 * v));
}

BMVP_API uint32_t bmvp_rng_below(bmvp_rng *r, uint32_t n)
{
    uint32_t x, limit;
    if (n == 0) return 0;
    limit = (0u - n) % n; /* 2^32 mod n: numbers below it would make small results likelier */
    do x = bmvp_rng_u32(r); while (x < limit);
    return x % n;
}

/* >>arena: step memory ---------------------------------------------------------------------------------------------
   Step memory is a few chunks cut into blocks. A block is a descriptor outside of the chunk, so the same code plans
   (no chunk behind it) and works. Best fit keeps the holes that backward leaves usable; reference counts let a
   reshape, an in-place add or a gradient handed on share one block. */

static void *bmvpi_item_new(bmvp_ctx *c, bmvpi_items *p)
{
    void *item;
    if (!p->free_list) {
        const size_t head = BMVPI_ALIGN;
        char *slab = (char *)bmvpi_alloc(c, (int64_t)(head + BMVPI_POOL_ITEMS * p->item_size));
        int i;
        if (!slab) return NULL;
        c->record_bytes += (int64_t)(head + BMVPI_POOL_ITEMS * p->item_size);
        ((bmvpi_slab *)(void *)slab)->next = p->slabs;
        p->slabs = (bmvpi_slab *)(void *)slab;
        for (i = BMVPI_POOL_ITEMS - 1; i >= 0; --i) {
            void **it = (void **)(void *)(slab + head + (size_t)i * p->item_size);
            *it = p->free_list;
            p->free_list = it;
        }
    }
    item = p->free_list;
    p->free_list = *(void **)item;
    memset(item, 0, p->item_size);
    return item;
}

static void bmvpi_item_free(bmvpi_items *p, void *item)
{
    *(void **)item = p->free_list;
    p->free_list = item;
}

static void bmvpi_items_destroy(bmvp_ctx *c, bmvpi_items *p)
{
    while (p->slabs) {
        bmvpi_slab *s = p->slabs;
        p->slabs = s->next;
        bmvpi_free(c, s);
    }
    p->free_list = NULL;
}

/* Adds a chunk with one free block. In a plan the only chunk is endless. */
static int bmvpi_chunk_add(bmvp_ctx *c, int64_t bytes)
{
    bmvpi_chunk *k = &c->chunk[c->n_chunks];
    bmvpi_block *b;
    if (c->n_chunks == BMVPI_MAX_CHUNKS) {
        bmvp_fail(c, BMVP_E_OOM, "step memory is cut into too many pieces; call bmvp_reserve with what the plan says");
        return 0;
    }
    b = (bmvpi_block *)bmvpi_item_new(c, &c->blocks);
    if (!b) return 0;
    memset(k, 0, sizeof *k);
    if (!c->cfg.plan) {
        k->base = (char *)(void *)bmvpi_values_alloc(c, bytes);
        if (!k->base) {
            bmvpi_item_free(&c->blocks, b);
            return 0;
        }
    }
    b->size = k->size = bytes;
    b->chunk = c->n_chunks++;
    k->first = b;
    return 1;
}

static void bmvpi_chunks_free(bmvp_ctx *c)
{
    int i;
    for (i = 0; i < c->n_chunks; ++i) {
        bmvpi_block *b = c->chunk[i].first, *next;
        for (; b; b = next) {
            next = b->next;
            bmvpi_item_free(&c->blocks, b);
        }
        bmvpi_values_free(c, c->chunk[i].base);
    }
    c->n_chunks = 0;
}

/* The smallest hole that holds it; the open end of a chunk only when no hole does, so that a plan (whose end is
   endless) and a real step cut alike. */
static bmvpi_block *bmvpi_best_fit(const bmvp_ctx *c, int64_t size)
{
    bmvpi_block *best = NULL, *b;
    int i;
    for (i = 0; i < c->n_chunks; ++i)
        for (b = c->chunk[i].first; b; b = b->next)
            if (b->refs == 0 && b->size >= size &&
                (!best || (b->next ? b->size : INT64_MAX) < (best->next ? best->size : INT64_MAX)))
                best = b;
    return best;
}

/* A block of at least `bytes`, with one reference; NULL and the sticky error when memory is short. */
static bmvpi_block *bmvpi_block_new(bmvp_ctx *c, int64_t bytes)
{
    bmvpi_block *b, *rest;
    int64_t size, end = 0;
    int i;
    if (bytes < 0 || bytes > INT64_MAX - (1 << 22)) {
        return (bmvpi_block *)bmvp_fail(c, BMVP_E_OOM, "a tensor's size does not fit in 63 bits");
    }
    size = (bmvpi_max(bytes, 1) + BMVPI_ALIGN - 1) / BMVPI_ALIGN * BMVPI_ALIGN;
    b = bmvpi_best_fit(c, size);
    if (!b) {
        if (!bmvpi_chunk_add(c, c->cfg.plan ? INT64_MAX / 2 : bmvpi_max(size, c->min_chunk))) return NULL;
        b = bmvpi_best_fit(c, size);
        if (!b)
            return (bmvpi_block *)bmvp_fail(c, BMVP_E_OOM, "a step tensor of %.1f MB does not fit", (double)size / 1e6);
    }
    if (b->size > size) {
        rest = (bmvpi_block *)bmvpi_item_new(c, &c->blocks);
        if (!rest) return NULL;
        rest->chunk = b->chunk;
        rest->offset = b->offset + size;
        rest->size = b->size - size;
        rest->prev = b;
        rest->next = b->next;
        if (b->next) b->next->prev = rest;
        b->next = rest;
        b->size = size;
    }
    b->refs = 1;
    c->step_bytes += size;
    for (i = 0; i < b->chunk; ++i) end += c->chunk[i].size;
    end += b->offset + size;
    if (end > c->step_peak) c->step_peak = end;
    return b;
}

static void bmvpi_block_merge(bmvp_ctx *c, bmvpi_block *b)
{
    bmvpi_block *n = b->next;
    if (!n || n->refs || b->refs) return;
    b->size += n->size;
    b->next = n->next;
    if (n->next) n->next->prev = b;
    bmvpi_item_free(&c->blocks, n);
}

static void bmvpi_block_drop(bmvp_ctx *c, bmvpi_block *b)
{
    bmvpi_block *p;
    if (!b || --b->refs > 0) return;
    c->step_bytes -= b->size;
    p = b->prev;
    bmvpi_block_merge(c, b);
    if (p) bmvpi_block_merge(c, p);
}

static float *bmvpi_block_ptr(const bmvp_ctx *c, const bmvpi_block *b)
{
    return c->cfg.plan ? NULL : (float *)(void *)(c->chunk[b->chunk].base + b->offset);
}

/* >>context impl ------------------------------------------------------------------------------------------------- */

BMVP_API bmvp_config bmvp_config_default(void)
{
    bmvp_config k;
    memset(&k, 0, sizeof k);
    k.simd = BMVP_SIMD_AUTO;
    k.graph = 1;
    return k;
}

static bmvp_simd bmvpi_simd_best(void)
{
#if defined(BMVP_NO_SIMD)
    return BMVP_SIMD_PLAIN;
#elif defined(__GNUC__) && defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
        __builtin_cpu_supports("avx512bw"))
        return BMVP_SIMD_AVX512;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return BMVP_SIMD_AVX2;
    return BMVP_SIMD_VECTOR;
#elif defined(__GNUC__)
    return BMVP_SIMD_VECTOR;
#else
    return BMVP_SIMD_PLAIN;
#endif
}

BMVP_API const char *bmvp_precision_text(bmvp_precision p)
{
    return p == BMVP_BF16 ? "bf16" : p == BMVP_TF32 ? "tf32" : "fp32";
}
BMVP_API const char *bmvp_simd_text(bmvp_simd level)
{
    static const char *const t[] = { "plain", "vector", "avx2", "avx512" };
    return level >= BMVP_SIMD_PLAIN && level <= BMVP_SIMD_AVX512 ? t[level] : "auto";
}

static int bmvpi_processors(void)
{
#if defined(BMVP_NO_THREADS)
    return 1;
#elif defined(_WIN32)
    const int n = pthread_num_processors_np();
    return n > 0 && n < 1024 ? n : 1;
#else
    const long n = sysconf(_SC_NPROCESSORS_ONLN);
    return n > 0 && n < 1024 ? (int)n : 1;
#endif
}

BMVP_API bmvp_ctx *bmvp_create(const bmvp_config *cfg, bmvp_error *err)
{
    bmvp_config k = cfg ? *cfg : bmvp_config_default();
    const bmvp_simd best = bmvpi_simd_best(), asked = k.simd;
    bmvp_ctx *c;
    if (err) memset(err, 0, sizeof *err);
    if (!k.allocator.alloc || !k.allocator.free) {
        k.allocator.alloc = bmvpi_libc_alloc;
        k.allocator.free = bmvpi_libc_free;
    }
    if (!k.backend) k.backend = bmvp_cpu_backend();
    if (k.simd < 0 || k.simd > best) k.simd = best;
    if (!k.backend->device) {
        bmvp_error_set(err, BMVP_E_ARG,
                       "backend %s: it has no table of its memory; one for the host's takes bmvp_cpu_backend()->device",
                       k.backend->name);
        return NULL;
    }
    if (!k.backend->device->computes(&k, err)) return NULL;
    c = (bmvp_ctx *)k.allocator.alloc(sizeof *c, k.allocator.user);
    if (!c) {
        bmvp_error_set(err, BMVP_E_OOM, "out of memory: no context could be made");
        return NULL;
    }
    memset(c, 0, sizeof *c);
    c->cfg = k;
    c->simd = k.simd;
    c->record_bytes = (int64_t)sizeof *c;
    c->threads = k.threads > 0 ? k.threads : bmvpi_processors();
#ifdef BMVP_NO_THREADS
    if (!k.parallel) c->threads = 1;
#endif
    c->grad_on = 1;
    c->min_chunk = 1 << 20;
    c->blocks.item_size = (sizeof(bmvpi_block) + 15) / 16 * 16;
    c->nodes.item_size = (sizeof(bmvp_tensor) + 15) / 16 * 16;
    if (asked > best)
        bmvp_log(c, "simd: this processor has no %s, %s is used", bmvp_simd_text(asked), bmvp_simd_text(best));
    return c;
}

static void bmvpi_lasting_free(bmvp_ctx *c, bmvp_tensor *t)
{
    if (!t) return;
    if (t->on_host) bmvpi_aligned_free(c, t->x);
    else bmvpi_values_free(c, t->x);
    bmvpi_values_free(c, t->g);
    bmvpi_free(c, (void *)(uintptr_t)t->name);
    bmvpi_free(c, t);
}

BMVP_API void bmvp_destroy(bmvp_ctx *c)
{
    int64_t i;
    if (!c) return;
#ifndef BMVP_NO_THREADS
    bmvpi_pool_stop(c);
#endif
    bmvpi_chunks_free(c);
    bmvpi_values_free(c, c->comm_space);
    for (i = 0; i < c->n_lasting; ++i) bmvpi_lasting_free(c, c->lasting[i]);
    bmvpi_free(c, c->lasting);
    bmvpi_free(c, c->step);
    bmvpi_items_destroy(c, &c->nodes);
    bmvpi_items_destroy(c, &c->blocks);
    bmvpi_free(c, c);
}

BMVP_API int bmvp_failed(const bmvp_ctx *c) { return c->err.status != BMVP_OK; }
BMVP_API const bmvp_error *bmvp_error_of(const bmvp_ctx *c) { return &c->err; }
BMVP_API void bmvp_clear_error(bmvp_ctx *c) { memset(&c->err, 0, sizeof c->err); }
BMVP_API int bmvp_threads(const bmvp_ctx *c) { return c->threads; }
BMVP_API bmvp_simd bmvp_simd_level(const bmvp_ctx *c) { return c->simd; }
BMVP_API bmvp_precision bmvp_precision_of(const bmvp_ctx *c) { return c->cfg.precision; }
BMVP_API int bmvp_is_plan(const bmvp_ctx *c) { return c->cfg.plan; }
BMVP_API const bmvp_allocator *bmvp_allocator_of(const bmvp_ctx *c) { return &c->cfg.allocator; }

BMVP_API bmvp_status bmvp_error_take(const bmvp_ctx *c, bmvp_error *err)
{
    if (err) *err = c->err;
    return c->err.status;
}

BMVP_API bmvp_status bmvp_progress(bmvp_ctx *c, const char *what, int64_t done, int64_t of)
{
    char all[32] = "";
    if (!c->cfg.progress || c->cfg.plan || bmvp_failed(c)) return c->err.status;
    if (of > 0) snprintf(all, sizeof all, " of %lld", (long long)of);
    if (c->cfg.progress(c->cfg.progress_user, what, done, of))
        bmvp_fail(c, BMVP_E_CANCELLED, "%s: stopped at %lld%s, as was asked for", what, (long long)done, all);
    return c->err.status;
}

BMVP_API void *bmvp_fail(bmvp_ctx *c, bmvp_status s, const char *format, ...)
{
    va_list ap;
    if (c->err.status) return NULL;
    c->err.status = s;
    va_start(ap, format);
    vsnprintf(c->err.message, sizeof c->err.message, format, ap);
    va_end(ap);
    bmvpi_error_clean(&c->err);
    return NULL;
}

BMVP_API void bmvp_log(bmvp_ctx *c, const char *format, ...)
{
    char line[512];
    va_list ap;
    if (!c->cfg.log) return;
    va_start(ap, format);
    vsnprintf(line, sizeof line, format, ap);
    va_end(ap);
    c->cfg.log(c->cfg.log_user, line);
}

BMVP_API bmvp_memory bmvp_memory_of(const bmvp_ctx *c)
{
    bmvp_memory m;
    m.persistent = c->persistent_bytes;
    m.largest = c->largest_bytes;
    m.records = c->record_bytes;
    m.step = c->step_bytes;
    m.step_peak = c->step_peak;
    return m;
}

BMVP_API bmvp_status bmvp_reserve(bmvp_ctx *c, int64_t bytes)
{
    if (bmvp_failed(c)) return c->err.status;
    if (c->n_step > 0) {
        bmvp_fail(c, BMVP_E_STATE, "bmvp_reserve was called while step tensors are alive; call bmvp_step_begin first");
        return c->err.status;
    }
    bmvpi_chunks_free(c);
    c->step_peak = 0;
    if (bytes > 0) (void)bmvpi_chunk_add(c, (bytes + BMVPI_ALIGN - 1) / BMVPI_ALIGN * BMVPI_ALIGN);
    return c->err.status;
}

static void bmvpi_tensor_release(bmvp_ctx *c, bmvp_tensor *t)
{
    bmvpi_block_drop(c, t->x_block);
    bmvpi_block_drop(c, t->g_block);
    bmvpi_block_drop(c, t->saved_block);
    bmvpi_item_free(&c->nodes, t);
}

BMVP_API void bmvp_step_begin(bmvp_ctx *c)
{
    const int joined = c->n_chunks > 1 && !c->cfg.plan;
    while (c->n_step > 0) bmvpi_tensor_release(c, c->step[--c->n_step]);
    if (joined) { /* one block of the size seen so far: the next step finds all of it in one piece */
        bmvp_log(c, "memory: the step took %d pieces, from now on it is one of %.1f MB; bmvp_reserve makes it at once",
                 c->n_chunks, (double)c->step_peak / 1e6);
        bmvpi_chunks_free(c);
        (void)bmvpi_chunk_add(c, c->step_peak);
    }
}

BMVP_API int64_t bmvp_scope_begin(bmvp_ctx *c) { return c->n_step; }

BMVP_API bmvp_tensor *bmvp_scope_end(bmvp_ctx *c, int64_t mark, bmvp_tensor *keep)
{
    int64_t i, n = mark;
    if (c->grad_on || mark < 0 || mark > c->n_step) return keep;
    for (i = mark; i < c->n_step; ++i) {
        if (c->step[i] == keep || c->step[i]->kept) c->step[n++] = c->step[i];
        else bmvpi_tensor_release(c, c->step[i]);
    }
    c->n_step = n;
    return keep;
}

BMVP_API int bmvp_set_grad(bmvp_ctx *c, int on)
{
    int was = c->grad_on;
    c->grad_on = on != 0;
    return was;
}

/* >>comm impl ---------------------------------------------------------------------------------------------------- */

BMVP_API void bmvp_set_comm(bmvp_ctx *c, const bmvp_comm *comm)
{
    c->comm = comm;
    if (comm && comm->on_device && bmvp_on_host(c))
        bmvp_fail(c, BMVP_E_ARG, "set_comm: the table exchanges memory of a device, and the context computes on the %s",
                  c->cfg.backend->name);
}
BMVP_API const bmvp_comm *bmvp_comm_of(const bmvp_ctx *c) { return c->comm; }

/* A call's failure goes to the context. 1: it went well. */
static int bmvpi_comm_done(bmvp_ctx *c, bmvp_status st, const bmvp_error *err)
{
    if (st) (void)bmvp_fail(c, st, "%s", err->message);
    return st == BMVP_OK;
}

/* Does the ranks' table take pointers to values? */
static int bmvpi_comm_takes_values(const bmvp_ctx *c) { return c->comm->on_device || bmvp_on_host(c); }

/* Memory of the backend, at least `bytes`, for a table with on_device; the next call may move it. */
static float *bmvpi_comm_space(bmvp_ctx *c, int64_t bytes)
{
    if (bytes > c->comm_bytes) {
        bmvpi_values_free(c, c->comm_space);
        c->comm_space = bmvpi_values_alloc(c, bytes);
        c->comm_bytes = c->comm_space ? bytes : 0;
    }
    return c->comm_space;
}
/* Bytes of the host to and from the backend, which counts in floats */
static void bmvpi_comm_upload(bmvp_ctx *c, float *to, const void *host, int64_t bytes)
{
    const int64_t n = bytes / 4;
    float tail = 0;
    if (n > 0) bmvpi_values_write(c, to, (const float *)host, n);
    memcpy(&tail, (const char *)host + 4 * n, (size_t)(bytes % 4));
    if (bytes % 4) bmvpi_values_write(c, to + n, &tail, 1);
}
static void bmvpi_comm_download(bmvp_ctx *c, void *host, const float *from, int64_t bytes)
{
    const int64_t n = bytes / 4;
    float tail;
    if (n > 0) bmvpi_values_read(c, (float *)host, from, n);
    if (bytes % 4) bmvpi_values_read(c, &tail, from + n, 1);
    if (bytes % 4) memcpy((char *)host + 4 * n, &tail, (size_t)(bytes % 4));
}

/* all_gather of the host's memory, whichever the table takes */
static int bmvpi_comm_all_gather(bmvp_ctx *c, const void *own, int64_t bytes, void *all)
{
    const bmvp_comm *m = c->comm;
    const int64_t from = (bytes + BMVPI_ALIGN - 1) / BMVPI_ALIGN * (BMVPI_ALIGN / 4);
    bmvp_error err;
    float *x;
    if (bmvp_failed(c)) return 0;
    if (!m->on_device) return bmvpi_comm_done(c, m->all_gather(m, own, bytes, all, &err), &err);
    x = bmvpi_comm_space(c, 4 * from + (m->size * bytes + 3) / 4 * 4);
    if (!x) return 0;
    bmvpi_comm_upload(c, x, own, bytes);
    if (bmvpi_comm_done(c, m->all_gather(m, x, bytes, x + from, &err), &err))
        bmvpi_comm_download(c, all, x + from, m->size * bytes);
    return !bmvp_failed(c);
}

BMVP_API void bmvp_kernel_gather(bmvp_ctx *c, const void *own, int64_t bytes, void *all)
{
    const bmvp_comm *m = c->comm;
    bmvp_error err;
    char *host;
    if (bmvp_failed(c)) return;
    if (bmvpi_comm_takes_values(c)) {
        (void)bmvpi_comm_done(c, m->all_gather(m, own, bytes, all, &err), &err);
        return;
    }
    host = (char *)bmvpi_alloc(c, (1 + m->size) * bytes);
    if (!host) return;
    bmvpi_comm_download(c, host, (const float *)own, bytes);
    if (bmvpi_comm_all_gather(c, host, bytes, host + bytes))
        bmvpi_comm_upload(c, (float *)all, host + bytes, m->size * bytes);
    bmvpi_free(c, host);
}
/* n doubles of every rank, in host memory; free them. NULL after a failure. */
static double *bmvpi_comm_doubles(bmvp_ctx *c, const double *own, int64_t n)
{
    double *all = (double *)bmvpi_alloc(c, c->comm->size * n * (int64_t)sizeof *all);
    if (!all) return NULL;
    if (bmvpi_comm_all_gather(c, own, n * (int64_t)sizeof *all, all)) return all;
    bmvpi_free(c, all);
    return NULL;
}

/* own = sum over ranks of their n doubles, added in the order of the ranks */
static int bmvpi_comm_sum_doubles(bmvp_ctx *c, double *own, int64_t n)
{
    double *all = bmvpi_comm_doubles(c, own, n);
    int64_t r, i;
    if (!all) return 0;
    for (i = 0; i < n; ++i)
        for (r = 0, own[i] = 0; r < c->comm->size; ++r) own[i] += all[r * n + i];
    bmvpi_free(c, all);
    return 1;
}

/* Mean and sum of squared deviations of ch columns over `rows` rows, joined with those of the other ranks as chunks
   are: exact for any numbers of rows. stat: mean (ch), squares (ch), and a place for the count. Returns the count, 0
   after a failure. */
static double bmvpi_comm_moments(bmvp_ctx *c, double *stat, int64_t ch, int64_t rows)
{
    const int64_t n = 2 * ch + 1;
    double *all, count = 0;
    int64_t r, i;
    stat[2 * ch] = (double)rows;
    all = bmvpi_comm_doubles(c, stat, n);
    if (!all) return 0;
    for (r = 0; r < c->comm->size; ++r) count += all[r * n + 2 * ch];
    for (i = 0; i < 2 * ch; ++i) stat[i] = 0;
    for (r = 0; r < c->comm->size && count > 0; ++r)
        for (i = 0; i < ch; ++i) stat[i] += all[r * n + i] * (all[r * n + 2 * ch] / count);
    for (r = 0; r < c->comm->size; ++r) {
        const double *p = all + r * n, k = p[2 * ch];
        for (i = 0; i < ch && k > 0; ++i) stat[ch + i] += p[ch + i] + k * (p[i] - stat[i]) * (p[i] - stat[i]);
    }
    bmvpi_free(c, all);
    return count;
}

/* >>node --------------------------------------------------------------------------------------------------------------
   The tape. There is no graph object: c->step, the step tensors in the order in which they were made, is the tape. The
   operands of an op exist before its result does, so this order is one in which a graph may be walked. A result keeps
   what backward will want to know of its call: the op, its attributes (args), its operands (src), and the few numbers
   that forward saved (a mean, a log-sum-exp).
   A builder (bmvp_conv3d) checks shapes, makes the node (bmvpi_node), fills in the attributes, and ends in bmvpi_run,
   which gives the result memory and runs the backend's forward at once: values may be looked at, or decide what comes
   next, before a network is complete. In a plan all of it happens but the kernels; so the same code counts bytes.
   wants_grad is inherited: a result wants a gradient if one of its operands does, unless recording is off.
   Who frees what, when. Parameters and buffers live as long as the context. What belongs to step tensors lies in blocks
   of one arena, counted by reference, since a reshape or a gradient that is handed on shares one:
     values     by backward, once it has passed their last reader; by bmvp_drop, bmvp_checkpoint and bmvp_add_into
                before that, which leave a mark (dropped) so that backward computes them again; never before the next
                step if bmvp_keep was called
     gradients  by backward, once it has passed the op itself; saved numbers, too
     the rest   by bmvp_step_begin, or without a tape at the end of a scope */

static int64_t bmvpi_numel(int rank, const int64_t *dim)
{
    int64_t n = 1;
    int i;
    if (rank < 0 || rank > BMVP_MAX_DIMS) return -1;
    for (i = 0; i < rank; ++i) n = dim[i] < 1 ? -1 : bmvpi_mul_size(n, dim[i]);
    return n > INT64_MAX / 16 ? -1 : n;
}

/* "(2,3,4)" into buf; for messages */
static const char *bmvpi_shape(const bmvp_tensor *t, char *buf, size_t size)
{
    size_t n = 0;
    int i, k;
    if (!t) return "none";
    buf[0] = '(';
    buf[n = 1] = 0;
    for (i = 0; i < t->rank && n + 24 < size; ++i) {
        k = snprintf(buf + n, size - n, i ? ",%lld" : "%lld", (long long)t->dim[i]);
        n += k > 0 ? (size_t)k : 0;
    }
    snprintf(buf + n, size - n, ")");
    return buf;
}

static int bmvpi_same_shape(const bmvp_tensor *a, const bmvp_tensor *b)
{
    return a->rank == b->rank && memcmp(a->dim, b->dim, sizeof a->dim) == 0;
}

static int bmvpi_list_push(bmvp_ctx *c, bmvp_tensor ***list, int64_t *n, int64_t *cap, bmvp_tensor *t)
{
    if (*n == *cap) {
        const int64_t grown = *cap ? *cap * 2 : 256;
        bmvp_tensor **p = (bmvp_tensor **)bmvpi_alloc(c, grown * (int64_t)sizeof *p);
        if (!p) return 0;
        if (*n) memcpy(p, *list, (size_t)*n * sizeof *p);
        bmvpi_free(c, *list);
        c->record_bytes += (grown - *cap) * (int64_t)sizeof *p;
        *list = p;
        *cap = grown;
    }
    (*list)[(*n)++] = t;
    return 1;
}

static void bmvpi_set_dims(bmvp_tensor *t, int rank, const int64_t *dim)
{
    int i;
    t->rank = rank;
    for (i = 0; i < BMVP_MAX_DIMS; ++i) t->dim[i] = i < rank ? dim[i] : 1;
    t->numel = bmvpi_numel(rank, dim);
    t->op = -1;
}

/* A step tensor without storage, on the list. */
static bmvp_tensor *bmvpi_step_tensor(bmvp_ctx *c, int rank, const int64_t *dim)
{
    bmvp_tensor *t;
    if (bmvp_failed(c)) return NULL;
    if (bmvpi_numel(rank, dim) < 0)
        return (bmvp_tensor *)bmvp_fail(
            c, BMVP_E_SHAPE, "a tensor needs up to %d axes, each at least 1 long, and a size that fits", BMVP_MAX_DIMS);
    t = (bmvp_tensor *)bmvpi_item_new(c, &c->nodes);
    if (!t) return NULL;
    bmvpi_set_dims(t, rank, dim);
    if (!bmvpi_list_push(c, &c->step, &c->n_step, &c->cap_step, t)) {
        bmvpi_item_free(&c->nodes, t);
        return NULL;
    }
    return t;
}

/* Bytes of a step tensor's values, and of its gradient */
static int64_t bmvpi_bytes_of(const bmvp_tensor *t) { return t->numel * (t->half ? 2 : 4); }

static int bmvpi_ensure_storage(bmvp_ctx *c, bmvp_tensor *t)
{
    if (t->x_block || t->persistent) return 1;
    t->x_block = bmvpi_block_new(c, bmvpi_bytes_of(t));
    if (!t->x_block) return 0;
    t->x = bmvpi_block_ptr(c, t->x_block);
    return 1;
}

static void bmvpi_drop_value(bmvp_ctx *c, bmvp_tensor *t)
{
    bmvpi_block_drop(c, t->x_block);
    t->x_block = NULL;
    t->x = NULL;
}

static void bmvpi_drop_grad(bmvp_ctx *c, bmvp_tensor *t)
{
    bmvpi_block_drop(c, t->g_block);
    t->g_block = NULL;
    t->g = NULL;
}

static bmvp_tensor *bmvpi_lasting(bmvp_ctx *c, const char *name, int rank, const int64_t *dim, int with_grad,
                                  int on_host)
{
    const int64_t n = bmvpi_numel(rank, dim), bytes = n * (int64_t)sizeof(float);
    const size_t len = name ? strlen(name) + 1 : 0;
    bmvp_tensor *t;
    if (bmvp_failed(c)) return NULL;
    if (n < 0) return (bmvp_tensor *)bmvp_fail(c, BMVP_E_SHAPE, "parameter %s: bad shape", name ? name : "?");
    t = (bmvp_tensor *)bmvpi_alloc(c, sizeof *t);
    if (!t) return NULL;
    memset(t, 0, sizeof *t);
    bmvpi_set_dims(t, rank, dim);
    t->persistent = 1;
    t->wants_grad = with_grad;
    t->on_host = on_host;
    t->grad_fresh = 1;
    t->first_reader = -1;
    if (name) {
        char *copy = (char *)bmvpi_alloc(c, (int64_t)len);
        if (copy) memcpy(copy, name, len);
        t->name = copy;
    }
    if (!c->cfg.plan && !bmvp_failed(c))
        t->x = on_host ? (float *)bmvpi_aligned_alloc(c, bytes) : bmvpi_values_alloc(c, bytes);
    if (bmvp_failed(c) || !bmvpi_list_push(c, &c->lasting, &c->n_lasting, &c->cap_lasting, t)) {
        bmvpi_lasting_free(c, t);
        return NULL;
    }
    c->persistent_bytes += bytes;
    c->largest_bytes = bmvpi_max(c->largest_bytes, bytes);
    c->record_bytes += (int64_t)(sizeof *t + len);
    return t;
}

/* Memory for a parameter's gradient, once: networks that only look never need it. */
static int bmvpi_lasting_grad(bmvp_ctx *c, bmvp_tensor *t)
{
    const int64_t bytes = t->numel * (int64_t)sizeof(float);
    if (t->has_grad_memory || !t->wants_grad) return !bmvp_failed(c);
    if (!c->cfg.plan) t->g = bmvpi_values_alloc(c, bytes);
    if (bmvp_failed(c)) return 0;
    t->has_grad_memory = 1;
    c->persistent_bytes += bytes;
    return 1;
}

BMVP_API bmvp_tensor *bmvp_param(bmvp_ctx *c, const char *name, int rank, const int64_t *dim)
{
    return bmvpi_lasting(c, name, rank, dim, 1, 0);
}
BMVP_API bmvp_tensor *bmvp_buffer(bmvp_ctx *c, const char *name, int rank, const int64_t *dim)
{
    return bmvpi_lasting(c, name, rank, dim, 0, 0);
}

BMVP_API bmvp_tensor *bmvp_input(bmvp_ctx *c, int rank, const int64_t *dim, const float *data)
{
    bmvp_tensor *t = bmvpi_step_tensor(c, rank, dim);
    if (!t || !bmvpi_ensure_storage(c, t)) return NULL;
    if (data) bmvp_write(c, t, data);
    return t;
}

BMVP_API bmvp_tensor *bmvp_leaf(bmvp_ctx *c, int rank, const int64_t *dim, const float *data)
{
    bmvp_tensor *t = bmvp_input(c, rank, dim, data);
    if (t) t->wants_grad = 1;
    if (!data) bmvp_fill(c, t, 0.0f);
    return t;
}

BMVP_API void bmvp_fill(bmvp_ctx *c, bmvp_tensor *t, float value)
{
    if (!t || bmvp_failed(c) || c->cfg.plan) return;
    if (t->half) bmvpi_halves_fill(c, t->x, value, t->numel);
    else bmvpi_values_fill(c, t->x, value, t->numel);
}

BMVP_API void bmvp_write(bmvp_ctx *c, bmvp_tensor *t, const float *host)
{
    if (!t || bmvp_failed(c) || c->cfg.plan) return;
    if (t->half) bmvpi_halves_write(c, t->x, host, t->numel);
    else bmvpi_values_write(c, t->x, host, t->numel);
}

static bmvp_status bmvpi_read(bmvp_ctx *c, const bmvp_tensor *t, const float *from, float *host, const char *what)
{
    if (bmvp_failed(c)) return c->err.status;
    if (!t || !from) {
        bmvp_fail(c, BMVP_E_STATE,
                  "the %s of %s is not there any more (bmvp_keep before backward keeps it) or was never computed", what,
                  t && t->name ? t->name
                  : t          ? bmvp_op_name(t->op)
                               : "a missing tensor");
        return c->err.status;
    }
    if (t->half) bmvpi_halves_read(c, host, from, t->numel);
    else bmvpi_values_read(c, host, from, t->numel);
    return c->err.status;
}

BMVP_API bmvp_status bmvp_read(bmvp_ctx *c, const bmvp_tensor *t, float *host)
{
    return bmvpi_read(c, t, t ? t->x : NULL, host, "value");
}
BMVP_API bmvp_status bmvp_read_grad(bmvp_ctx *c, const bmvp_tensor *t, float *host)
{
    return bmvpi_read(c, t, t && bmvp_has_grad(t) ? t->g : NULL, host, "gradient");
}
BMVP_API float bmvp_scalar(bmvp_ctx *c, const bmvp_tensor *t)
{
    float v = (float)NAN;
    if (bmvp_failed(c) || !t || !t->x) return v;
    if (t->half) return bmvpi_half_at(c, t->x, 0);
    bmvpi_values_read(c, &v, t->x, 1);
    return v;
}
BMVP_API float bmvp_grad_at(bmvp_ctx *c, const bmvp_tensor *t, int64_t i)
{
    float v = (float)NAN;
    if (bmvp_failed(c) || !bmvp_has_grad(t) || i < 0 || i >= t->numel) return v;
    if (t->half) return bmvpi_half_at(c, t->g, i);
    bmvpi_values_read(c, &v, t->g + i, 1);
    return v;
}

BMVP_API bmvp_tensor *bmvp_keep(bmvp_tensor *t)
{
    if (t) t->kept = 1;
    return t;
}
BMVP_API void bmvp_zero_grad(bmvp_tensor *t) { if (t) t->grad_fresh = 1; }
BMVP_API int bmvp_has_grad(const bmvp_tensor *t) { return t && t->g && !(t->persistent && t->grad_fresh); }

BMVP_API void bmvp_drop(bmvp_ctx *c, bmvp_tensor *t)
{
    if (!t || t->persistent || t->op < 0 || t->kept || bmvp_failed(c)) return;
    t->dropped = 1;
    bmvpi_drop_value(c, t);
}

BMVP_API bmvp_tensor *bmvp_checkpoint(bmvp_ctx *c, int64_t mark, bmvp_tensor *keep)
{
    int64_t i;
    if (!c->grad_on || mark < 0 || bmvp_failed(c)) return bmvp_scope_end(c, mark, keep);
    for (i = mark; i < c->n_step; ++i) {
        bmvp_tensor *t = c->step[i];
        if (t == keep || t->op < 0 || t->kept || t->dropped) continue;
        t->dropped = 2;
        bmvpi_drop_value(c, t);
        if (!t->spare) continue;
        bmvpi_block_drop(c, t->saved_block);
        t->saved_block = NULL;
        t->saved = NULL;
    }
    return keep;
}

/* Will backward pass through t? Kernels may skip what only backward needs. */
static int bmvpi_recording(const bmvp_ctx *c, const bmvp_tensor *t) { return c->grad_on && t && t->wants_grad; }

/* What the list says of an op */
enum { BMVPI_LARGE, BMVPI_EXACT, BMVPI_MOVED };
typedef struct bmvpi_traits { int reads, type; } bmvpi_traits;
static const bmvpi_traits *bmvpi_traits_of(const bmvp_tensor *y)
{
#define BMVP_X(id, name, reads, type) { BMVP_READS_##reads, BMVPI_##type },
    static const bmvpi_traits t[] = { BMVP_OPS(BMVP_X) };
#undef BMVP_X
    return &t[y->op];
}
static int bmvpi_reads_output(const bmvp_tensor *y) { return bmvpi_traits_of(y)->reads & BMVP_READS_OUT; }
static int bmvpi_reads_operand(const bmvp_tensor *y, int s) { return bmvpi_traits_of(y)->reads >> s & 1; }

/* Is this result of an op to be bfloat16? */
static int bmvpi_is_half(const bmvp_ctx *c, const bmvp_tensor *y)
{
    const bmvp_device *d = c->cfg.backend->device;
    const int type = bmvpi_traits_of(y)->type;
    int i;
    if (!d->half_least || c->cfg.precision != BMVP_BF16 || type == BMVPI_EXACT) return 0;
    if (type == BMVPI_LARGE) return y->numel >= d->half_least;
    for (i = 0; i < y->n_src; ++i) if (!y->src[i]->half) return 0;
    return 1;
}

/* Whose memory a result's values are in (lies_in): its own; its operand 0's, as long as that is there (reshape);
   operand 1's, which it took over (add_into) */
enum { BMVPI_OWN, BMVPI_SHARED, BMVPI_TAKEN };

/* One node: n_src operands (NULL: absent), then attributes are set by the builder, then bmvpi_run. */
static bmvp_tensor *bmvpi_node(bmvp_ctx *c, bmvp_op op, int rank, const int64_t *dim, int n_src,
                               bmvp_tensor *const *src)
{
    bmvp_tensor *y = bmvpi_step_tensor(c, rank, dim);
    int i;
    if (!y) return NULL;
    y->op = (int)op;
    y->n_src = n_src;
    for (i = 0; i < n_src; ++i) {
        y->src[i] = src[i];
        if (src[i] && src[i]->wants_grad && c->grad_on) y->wants_grad = 1;
    }
    y->half = bmvpi_is_half(c, y);
    return y;
}

/* n floats kept until backward has passed the node */
static int bmvpi_save(bmvp_ctx *c, bmvp_tensor *y, int64_t n)
{
    if (!y) return 0;
    y->saved_block = bmvpi_block_new(c, n * (int64_t)sizeof(float));
    if (!y->saved_block) return 0;
    y->saved = bmvpi_block_ptr(c, y->saved_block);
    return 1;
}

/* Runs one kernel of the node with its workspace. */
static void bmvpi_call(bmvp_ctx *c, bmvp_tensor *y, int backward)
{
    const bmvp_kernel *k = &c->cfg.backend->op[y->op];
    const int64_t n = k->workspace ? k->workspace(c, y, backward) : 0;
    bmvpi_block *ws = n > 0 ? bmvpi_block_new(c, n * (int64_t)sizeof(float)) : NULL;
    if (n > 0 && !ws) return;
    c->workspace = ws ? bmvpi_block_ptr(c, ws) : NULL;
    if (!c->cfg.plan || backward) (backward ? k->backward : k->forward)(c, y);
    c->workspace = NULL;
    bmvpi_block_drop(c, ws);
}

/* Gives y storage and computes it: the end of every builder. */
static bmvp_tensor *bmvpi_run(bmvp_ctx *c, bmvp_tensor *y)
{
    int i;
    if (!y || bmvp_failed(c)) return NULL;
    if (!c->cfg.backend->op[y->op].forward)
        return (bmvp_tensor *)bmvp_fail(c, BMVP_E_UNSUPPORTED, "%s: the %s backend has no kernel for it",
                                        bmvp_op_name(y->op), c->cfg.backend->name);
    for (i = 0; i < y->n_src; ++i)
        if (y->src[i] && !y->src[i]->x && !c->cfg.plan)
            return (bmvp_tensor *)bmvp_fail(c, BMVP_E_STATE,
                                            "%s: operand %d has no value any more (dropped or used up by backward)",
                                            bmvp_op_name(y->op), i);
    if (!bmvpi_ensure_storage(c, y)) return NULL;
    bmvpi_call(c, y, 0);
    return bmvp_failed(c) ? NULL : y;
}

/* The same of an op that adds its result to a residual (NULL: none), which then is the last operand. */
static bmvp_tensor *bmvpi_run_onto(bmvp_ctx *c, bmvp_tensor *y, const bmvp_tensor *residual)
{
    char s[128], t[128];
    if (y && residual && !bmvpi_same_shape(y, residual))
        return (bmvp_tensor *)bmvp_fail(c, BMVP_E_SHAPE, "%s: the residual is %s, the result %s", bmvp_op_name(y->op),
                                        bmvpi_shape(residual, s, sizeof s), bmvpi_shape(y, t, sizeof t));
    return bmvpi_run(c, y);
}

/* >>backward ----------------------------------------------------------------------------------------------------------
   The chain rule. With L the loss and a an operand of y, dL/da is a sum over all readers y of a of (dL/dy) (dy/da).
   bmvpi_backward_walk starts with dL/dL = 1 at the loss and walks the tape from there to its beginning. When it comes
   to a node it has passed all of the node's readers, so its gradient is complete: nothing needs to be sorted or
   counted.
   What happens there is bmvpi_backward_node:
     1. a node without a gradient is passed over: the loss does not depend on it
     2. its value is freed, if its own backward does not read it (column `reads` of the list of ops)
     3. what its backward reads and was dropped is computed again, after what that needs in turn
     4. the op's backward kernel: g times the op's derivative is added to the gradient of each operand that wants one.
        Whoever comes first writes it, those after him add (bmvpi_grad says which)
     5. its gradient, value and saved numbers are freed
   So memory falls as the walk goes on, and a graph can be walked once: a second time is an error with the op's name.
   A gradient that goes through unchanged (add, reshape) is not copied: both tensors have one block until somebody adds
   to it (bmvpi_grad_unshare). Parameters keep their gradients, and those of later backwards are added, until
   bmvp_zero_grad. A parameter's gradient is complete when the walk passes its first reader on the tape; that is when
   bmvp_on_gradient is told. */

/* y = x, or y += x, gradients of t and `of` */
static void bmvpi_grad_move(bmvp_ctx *c, const bmvp_tensor *t, float *y, const bmvp_tensor *of, const float *x,
                            int accumulate)
{
    c->cfg.backend->device->add(c, y, t->half, x, of->half, t->numel, accumulate);
}

/* A gradient that t has in common with others becomes its own. */
static int bmvpi_grad_unshare(bmvp_ctx *c, bmvp_tensor *t)
{
    bmvpi_block *b = bmvpi_block_new(c, bmvpi_bytes_of(t));
    float *g;
    if (!b) return 0;
    g = bmvpi_block_ptr(c, b);
    if (g) bmvpi_grad_move(c, t, g, t, t->g, 0);
    bmvpi_block_drop(c, t->g_block);
    t->g_block = b;
    t->g = g;
    return 1;
}

/* Where a backward kernel writes the gradient of operand t. *accumulate 0: the buffer is new, write every element; 1:
   add. NULL: no gradient is wanted, or this is a plan, or memory is short. */
static float *bmvpi_grad(bmvp_ctx *c, bmvp_tensor *t, int *accumulate)
{
    *accumulate = 1;
    if (!t || !t->wants_grad || bmvp_failed(c)) return NULL;
    if (t->persistent) {
        if (!bmvpi_lasting_grad(c, t)) return NULL;
        *accumulate = !t->grad_fresh;
        t->grad_fresh = 0;
        return t->g;
    }
    if (t->walked)
        return (float *)bmvp_fail(c, BMVP_E_STATE, "backward: the graph below %s was used up by an earlier backward",
                                  bmvp_op_name(t->op));
    if (!t->g_block) {
        *accumulate = 0;
        t->g_block = bmvpi_block_new(c, bmvpi_bytes_of(t));
        if (!t->g_block) return NULL;
        t->g = bmvpi_block_ptr(c, t->g_block);
    }
    if (t->g_block->refs > 1 && !bmvpi_grad_unshare(c, t)) return NULL;
    return t->g;
}

/* The same for kernels that only add. */
static float *bmvpi_grad_add(bmvp_ctx *c, bmvp_tensor *t)
{
    int accumulate;
    float *g = bmvpi_grad(c, t, &accumulate);
    if (g && !accumulate) memset(g, 0, (size_t)t->numel * sizeof(float));
    return g;
}

/* Hands y's gradient to operand t as it is (same number of elements): by sharing the buffer when t has none and the
   same type (whoever adds to it first takes a copy, and by then the others are mostly gone), else by adding. */
static void bmvpi_grad_pass(bmvp_ctx *c, bmvp_tensor *y, bmvp_tensor *t)
{
    int accumulate;
    float *g;
    if (!t || !t->wants_grad || bmvp_failed(c)) return;
    if (!t->persistent && !t->g_block && !t->walked && y->g_block && t->half == y->half) {
        t->g_block = y->g_block;
        t->g = y->g;
        ++y->g_block->refs;
        return;
    }
    g = bmvpi_grad(c, t, &accumulate);
    if (g && y->g) bmvpi_grad_move(c, t, g, y, y->g, accumulate);
}

static float *bmvpi_workspace(const bmvp_ctx *c) { return c->workspace; }

/* Computes t again from operands that have their values, in storage as its builder had it. */
static int bmvpi_compute_again(bmvp_ctx *c, bmvp_tensor *t)
{
    const int shared = t->lies_in == BMVPI_SHARED, into = t->lies_in == BMVPI_TAKEN;
    bmvp_tensor *from = t->src[into];
    if (shared || (into && from->x_block->refs == 1)) {
        t->x_block = from->x_block;
        t->x = from->x;
        ++t->x_block->refs;
    } else if (!bmvpi_ensure_storage(c, t)) {
        return 0;
    }
    c->recompute = 1;
    if (!shared) bmvpi_call(c, t, 0);
    c->recompute = 0;
    if (into) bmvpi_drop_value(c, from);
    return !bmvp_failed(c);
}

/* Computes a dropped value again, and first those it needs. Of these the ones of bmvp_drop go at once: they are cheap,
   and the backward that reads them may be far away; those of a checkpointed block stay until backward has passed
   them. */
static int bmvpi_ensure_value(bmvp_ctx *c, bmvp_tensor *t)
{
    unsigned spent = 0;
    int i;
    if (!t || t->x_block || t->persistent || !t->dropped) return 1;
    for (i = 0; i < t->n_src; ++i) {
        bmvp_tensor *s = t->src[i];
        if (s && !s->x_block && s->dropped == 1) spent |= 1u << i;
        if (!bmvpi_ensure_value(c, s)) return 0;
        if (s && !s->x_block && !s->persistent) {
            bmvp_fail(c, BMVP_E_STATE, "backward: the value of %s was used up by an earlier backward",
                      bmvp_op_name(s->op));
            return 0;
        }
    }
    if (!bmvpi_compute_again(c, t)) return 0;
    for (i = 0; i < t->n_src; ++i)
        if (spent >> i & 1u) bmvpi_drop_value(c, t->src[i]);
    return 1;
}

static void bmvpi_backward_node(bmvp_ctx *c, bmvp_tensor *y)
{
    int s;
    if (y->op >= 0 && !y->g_block && y->dropped) bmvpi_drop_value(c, y); /* computed again on the way to others */
    if (y->op < 0 || !y->g_block || y->walked) return;
    if (!bmvpi_reads_output(y) && !y->kept && y->numel > 1) bmvpi_drop_value(c, y); /* its readers have been passed */
    for (s = 0; s < y->n_src; ++s)
        if (bmvpi_reads_operand(y, s) && !bmvpi_ensure_value(c, y->src[s])) return;
    if (bmvpi_reads_output(y) && !bmvpi_ensure_value(c, y)) return;
    if (!c->cfg.backend->op[y->op].backward) {
        bmvp_fail(c, BMVP_E_UNSUPPORTED, "%s: the %s backend has no backward for it", bmvp_op_name(y->op),
                  c->cfg.backend->name);
        return;
    }
    bmvpi_call(c, y, 1);
    y->walked = 1;
    if (y->kept) return;
    bmvpi_drop_grad(c, y);
    if (y->numel > 1) bmvpi_drop_value(c, y);
    bmvpi_block_drop(c, y->saved_block);
    y->saved_block = NULL;
    y->saved = NULL;
}

BMVP_API void bmvp_on_gradient(bmvp_ctx *c, void (*fn)(void *user), void *user)
{
    c->on_gradient = fn;
    c->on_gradient_user = user;
}
BMVP_API int bmvp_grad_due(const bmvp_tensor *t) { return t->first_reader >= 0; }

/* Of every parameter: the place of its first reader among the tape's first n, where backward passes it last. What was
   made with recording off is no reader: backward adds nothing there, and another rank may have done without. */
static void bmvpi_find_readers(bmvp_ctx *c, int64_t n)
{
    int64_t i;
    int s;
    for (i = 0; i < c->n_lasting; ++i) c->lasting[i]->first_reader = -1;
    for (i = n; i-- > 0;)
        for (s = 0; c->step[i]->wants_grad && s < c->step[i]->n_src; ++s)
            if (c->step[i]->src[s] && c->step[i]->src[s]->persistent) c->step[i]->src[s]->first_reader = i;
}

/* Backward has passed place i: gradients that are complete now are no longer due. */
static void bmvpi_tell_gradients(bmvp_ctx *c, int64_t i)
{
    const bmvp_tensor *y = c->step[i];
    int s, found = 0;
    for (s = 0; s < y->n_src; ++s)
        if (y->src[s] && y->src[s]->persistent && y->src[s]->first_reader == i) {
            y->src[s]->first_reader = -1;
            found = 1;
        }
    if (found && !bmvp_failed(c)) c->on_gradient(c->on_gradient_user);
}

static void bmvpi_backward_walk(bmvp_ctx *c, bmvp_tensor *root)
{
    int64_t i = c->n_step;
    while (i > 0 && c->step[i - 1] != root) --i;
    if (c->on_gradient) bmvpi_find_readers(c, i);
    for (; i > 0 && !bmvp_failed(c); --i) {
        bmvpi_backward_node(c, c->step[i - 1]);
        if (c->on_gradient) bmvpi_tell_gradients(c, i - 1);
    }
}

BMVP_API void bmvp_backward_from(bmvp_ctx *c, bmvp_tensor *t, const float *cotangent)
{
    int accumulate;
    float *g;
    if (!t || bmvp_failed(c)) return;
    if (!t->wants_grad || t->persistent) {
        bmvp_fail(c, BMVP_E_STATE,
                  "backward from %s: nothing was recorded (no operand wants a gradient, or recording is off)",
                  bmvp_op_name(t->op));
        return;
    }
    g = bmvpi_grad(c, t, &accumulate);
    if (g && t->half) bmvpi_halves_write(c, g, cotangent, t->numel);
    else if (g) bmvpi_values_write(c, g, cotangent, t->numel);
    bmvpi_backward_walk(c, t);
}

BMVP_API void bmvp_backward(bmvp_ctx *c, bmvp_tensor *loss)
{
    const float one = 1.0f;
    char buf[128];
    if (!loss || bmvp_failed(c)) return;
    if (loss->numel != 1) {
        bmvp_fail(c, BMVP_E_SHAPE, "backward needs one number, got shape %s", bmvpi_shape(loss, buf, sizeof buf));
        return;
    }
    bmvp_backward_from(c, loss, &one);
}

/* >>work ----------------------------------------------------------------------------------------------------------- */
/* Plain loops that the compiler is asked to make vectors of. */
#if defined(__GNUC__) && !defined(__clang__)
#define BMVPI_HOT __attribute__((optimize("O3", "fp-contract=fast")))
#else
#define BMVPI_HOT
#endif

/* >>kernel pointwise --------------------------------------------------------------------------------------------------
   Work on a range of something (elements, rows), in tasks of a fixed grain, so that the cut depends on the shape
   only. */
typedef struct bmvpi_map {
    void (*fn)(const struct bmvpi_map *m, int64_t lo, int64_t hi);
    double (*sum)(const struct bmvpi_map *m, int64_t lo, int64_t hi); /* for bmvpi_map_sum */
    const bmvp_ctx *ctx;
    int64_t n, grain, c;       /* c: row length or channels */
    const float *a, *b;        /* operands of sums and products */
    const float *x;            /* the op's operand, */
    float *y;                  /* result, */
    const float *g;            /* gradient of the result, */
    float *dx;                 /* gradient of the operand: =, or with `add` += */
    float *to;                 /* of products, as dx */
    const float *gamma, *beta, *target, *weight;
    float *saved;              /* what forward keeps for backward */
    float number, factor, offset, slope, eps, low, high;
    int add;
    double *part;
} bmvpi_map;

enum { BMVPI_GRAIN = 1 << 15, BMVPI_MAX_PARTS = 256 };

static bmvpi_map bmvpi_map_make(const bmvp_ctx *c, int64_t n, int64_t row)
{
    bmvpi_map m;
    memset(&m, 0, sizeof m);
    m.ctx = c;
    m.n = n;
    m.c = row;
    m.grain = bmvpi_max(1, BMVPI_GRAIN / row);
    return m;
}
static void bmvpi_map_task(void *arg, int64_t task, int worker)
{
    const bmvpi_map *m = (const bmvpi_map *)arg;
    (void)worker;
    m->fn(m, task * m->grain, bmvpi_min(m->n, (task + 1) * m->grain));
}
static void bmvpi_map_run(bmvp_ctx *c, bmvpi_map *m, void (*fn)(const bmvpi_map *, int64_t, int64_t))
{
    m->fn = fn;
    bmvp_parallel(c, bmvpi_ceil_div(m->n, m->grain), bmvpi_map_task, m);
}
static void bmvpi_map_sum_task(void *arg, int64_t task, int worker)
{
    const bmvpi_map *m = (const bmvpi_map *)arg;
    (void)worker;
    m->part[task] = m->sum(m, task * m->grain, bmvpi_min(m->n, (task + 1) * m->grain));
}
/* The sum of fn over the ranges, added in order. */
static double bmvpi_map_sum(bmvp_ctx *c, bmvpi_map *m, double (*fn)(const bmvpi_map *, int64_t, int64_t))
{
    double part[BMVPI_MAX_PARTS], sum = 0;
    int64_t i, n;
    m->grain = bmvpi_max(m->grain, bmvpi_ceil_div(m->n, BMVPI_MAX_PARTS));
    n = bmvpi_ceil_div(m->n, m->grain);
    m->sum = fn;
    m->part = part;
    bmvp_parallel(c, n, bmvpi_map_sum_task, m);
    for (i = 0; i < n; ++i) sum += part[i];
    m->part = NULL;
    return sum;
}

/* >>kernel reduce: sums over n contiguous floats ----------------------------------------------------------------------
   16 float lanes (one cache line: four SSE registers, two AVX2, one AVX-512, by the compiler), emptied into a double
   every 4096 elements: error about 1e-7 of the sum of magnitudes whatever n. Reads 4 or 8 bytes an element. */
#define BMVPI_REDUCE(NAME, PARAMS, TERM) \
BMVPI_HOT static double NAME PARAMS \
{ \
    double sum = 0; \
    int64_t i = 0, end; \
    int l; \
    while (n - i >= 16) { \
        float lane[16] = { 0 }; \
        for (end = bmvpi_min(n - 15, i + 4096); i < end; i += 16) \
            for (l = 0; l < 16; ++l) lane[l] += TERM(i + l); \
        for (l = 0; l < 16; ++l) sum += (double)lane[l]; \
    } \
    for (; i < n; ++i) sum += (double)(TERM(i)); \
    return sum; \
}
#define BMVPI_TERM_SUM(i) a[i]
#define BMVPI_TERM_DOT(i) a[i] * b[i]
#define BMVPI_TERM_CENTRED(i) a[i] * b[i] * (e[i] - mean)
#define BMVPI_TERM_VAR(i) (a[i] - mean) * (a[i] - mean)
#define BMVPI_TERM_DIST(i) (a[i] - b[i]) * (a[i] - b[i])
#define BMVPI_TERM_APART(i) fabsf(a[i] - b[i])
BMVPI_REDUCE(bmvpi_reduce_sum, (const float *a, int64_t n), BMVPI_TERM_SUM)
BMVPI_REDUCE(bmvpi_reduce_dot, (const float *a, const float *b, int64_t n), BMVPI_TERM_DOT)
BMVPI_REDUCE(bmvpi_reduce_centred, (const float *a, const float *b, const float *e, float mean, int64_t n),
             BMVPI_TERM_CENTRED)
BMVPI_REDUCE(bmvpi_reduce_var, (const float *a, float mean, int64_t n), BMVPI_TERM_VAR)
BMVPI_REDUCE(bmvpi_reduce_dist, (const float *a, const float *b, int64_t n), BMVPI_TERM_DIST)
BMVPI_REDUCE(bmvpi_reduce_apart, (const float *a, const float *b, int64_t n), BMVPI_TERM_APART)

/* >>kernel channel norm: statistics down the columns of (samples, rows, C) --------------------------------------------
   Batch norm is one sample of all rows, group norm one a sample. A task is a chunk of about 64 KB (at most 1024
   rows): it sums each column, takes the mean, then the squares about that mean while the chunk is still in L2, so
   nothing cancels; chunks are joined in order in double. Moments read 4 bytes an element from memory, the backward
   sums 8, apply reads 4 and writes 4, its backward reads 8 and writes 4: memory-bound, SSE2 or NEON by the compiler
   is enough. */
typedef struct bmvpi_columns {
    int64_t samples, rows, c, chunk, chunks; /* chunks of a sample */
    /* (samples, rows, C); a: what is summed, a gradient or targets; mean (samples, C) or NULL: 0 */
    const float *x, *a, *mean;
    const float *scale, *slope, *shift;      /* (samples, C) */
    const float *saved, *gamma;              /* of layer norm: mean and 1 / std of each row, and (C) */
    float *part;                             /* samples x chunks x 2 x C */
    float *to;                               /* as x: =, or with `add` += */
    int add, squared;                        /* squared: of Dice */
} bmvpi_columns;

static bmvpi_columns bmvpi_columns_make(int64_t samples, int64_t rows, int64_t c)
{
    bmvpi_columns k;
    memset(&k, 0, sizeof k);
    k.samples = samples;
    k.rows = rows;
    k.c = c;
    k.chunk = bmvpi_max(1, bmvpi_min(1024, 16384 / c));
    k.chunks = bmvpi_ceil_div(rows, k.chunk);
    return k;
}
/* floats: the partials and two arrays of doubles (samples, C) */
static int64_t bmvpi_columns_workspace(const bmvpi_columns *k)
{
    return k->samples * k->c * (2 * k->chunks + 4) + 2;
}
/* The two arrays of doubles in workspace ws; the partials follow. */
static double *bmvpi_columns_attach(bmvpi_columns *k, float *ws)
{
    k->part = ws + 4 * k->samples * k->c;
    return (double *)(void *)ws;
}

/* Range of a task: first row (over all samples) and number of rows; *sample */
static int64_t bmvpi_columns_range(const bmvpi_columns *k, int64_t task, int64_t *sample, int64_t *n)
{
    const int64_t r = task % k->chunks * k->chunk;
    *sample = task / k->chunks;
    *n = bmvpi_min(k->chunk, k->rows - r);
    return *sample * k->rows + r;
}

BMVPI_HOT static void bmvpi_columns_moments_task(void *arg, int64_t task, int worker)
{
    const bmvpi_columns *k = (const bmvpi_columns *)arg;
    const int64_t c = k->c;
    int64_t sample, n, r, i;
    const float *x = k->x + bmvpi_columns_range(k, task, &sample, &n) * c;
    float *BMVP_RESTRICT mean = k->part + task * 2 * c, *BMVP_RESTRICT m2 = mean + c;
    (void)worker;
    memset(mean, 0, (size_t)(2 * c) * sizeof(float));
    for (r = 0; r < n; ++r)
        for (i = 0; i < c; ++i) mean[i] += x[r * c + i];
    for (i = 0; i < c; ++i) mean[i] /= (float)n;
    for (r = 0; r < n; ++r)
        for (i = 0; i < c; ++i) m2[i] += (x[r * c + i] - mean[i]) * (x[r * c + i] - mean[i]);
}

/* mean and sum of squared deviations of each (sample, column): out[0 .. samples C), out[samples C ...) */
static void bmvpi_columns_moments(bmvp_ctx *c, bmvpi_columns *k, double *out)
{
    double *mean = out, *m2 = out + k->samples * k->c;
    int64_t task, sample, n, i;
    bmvp_parallel(c, k->samples * k->chunks, bmvpi_columns_moments_task, k);
    for (i = 0; i < 2 * k->samples * k->c; ++i) out[i] = 0;
    for (task = 0; task < k->samples * k->chunks; ++task) {
        (void)bmvpi_columns_range(k, task, &sample, &n);
        for (i = 0; i < k->c; ++i)
            mean[sample * k->c + i] += (double)k->part[task * 2 * k->c + i] * ((double)n / (double)k->rows);
    }
    for (task = 0; task < k->samples * k->chunks; ++task) {
        (void)bmvpi_columns_range(k, task, &sample, &n);
        for (i = 0; i < k->c; ++i) {
            const double d = (double)k->part[task * 2 * k->c + i] - mean[sample * k->c + i];
            m2[sample * k->c + i] += (double)k->part[(task * 2 + 1) * k->c + i] + (double)n * d * d;
        }
    }
}

BMVPI_HOT static void bmvpi_columns_dots_task(void *arg, int64_t task, int worker)
{
    const bmvpi_columns *k = (const bmvpi_columns *)arg;
    const int64_t c = k->c;
    int64_t sample, n, r, i;
    const int64_t at = bmvpi_columns_range(k, task, &sample, &n) * c;
    const float *a = k->a + at, *x = k->x ? k->x + at : NULL, *mean = k->mean ? k->mean + sample * c : NULL;
    float *BMVP_RESTRICT sum = k->part + task * 2 * c, *BMVP_RESTRICT dot = sum + c;
    (void)worker;
    memset(sum, 0, (size_t)(2 * c) * sizeof(float));
    for (r = 0; r < n; ++r, a += c) {
        for (i = 0; i < c; ++i) sum[i] += a[i];
        if (!x) continue;
        if (mean) for (i = 0; i < c; ++i) dot[i] += a[i] * (x[r * c + i] - mean[i]);
        else for (i = 0; i < c; ++i) dot[i] += a[i] * x[r * c + i];
    }
}

/* Two sums of each (sample, column), out as above. The task is the one above (sums of a and of a (x - mean); x NULL:
   the second are 0), or another that fills the same partials. */
static void bmvpi_columns_sums(bmvp_ctx *c, bmvpi_columns *k, bmvp_task_fn fn, double *out)
{
    int64_t task, i;
    bmvp_parallel(c, k->samples * k->chunks, fn, k);
    for (i = 0; i < 2 * k->samples * k->c; ++i) out[i] = 0;
    for (task = 0; task < k->samples * k->chunks; ++task) {
        double *sum = out + task / k->chunks * k->c, *dot = sum + k->samples * k->c;
        const float *p = k->part + task * 2 * k->c;
        for (i = 0; i < k->c; ++i) {
            sum[i] += (double)p[i];
            dot[i] += (double)p[k->c + i];
        }
    }
}

/* y = (x - mean) slope + shift */
BMVPI_HOT static void bmvpi_columns_apply_task(void *arg, int64_t task, int worker)
{
    const bmvpi_columns *k = (const bmvpi_columns *)arg;
    const int64_t c = k->c;
    int64_t sample, n, r, i;
    const int64_t at = bmvpi_columns_range(k, task, &sample, &n) * c;
    const float *x = k->x + at, *mean = k->mean + sample * c, *slope = k->slope + sample * c,
                *shift = k->shift + sample * c;
    float *BMVP_RESTRICT y = k->to + at;
    (void)worker;
    for (r = 0; r < n; ++r)
        for (i = 0; i < c; ++i) y[r * c + i] = (x[r * c + i] - mean[i]) * slope[i] + shift[i];
}

/* to (+)= a scale + (x - mean) slope + shift */
BMVPI_HOT static void bmvpi_columns_join_task(void *arg, int64_t task, int worker)
{
    const bmvpi_columns *k = (const bmvpi_columns *)arg;
    const int64_t c = k->c;
    int64_t sample, n, r, i;
    const int64_t at = bmvpi_columns_range(k, task, &sample, &n) * c;
    const float *x = k->x + at, *a = k->a + at, *mean = k->mean + sample * c;
    const float *scale = k->scale + sample * c, *slope = k->slope + sample * c, *shift = k->shift + sample * c;
    float *BMVP_RESTRICT to = k->to + at;
    (void)worker;
    for (r = 0; r < n; ++r, x += c, a += c, to += c) {
        if (k->add) for (i = 0; i < c; ++i) to[i] += a[i] * scale[i] + (x[i] - mean[i]) * slope[i] + shift[i];
        else for (i = 0; i < c; ++i) to[i] = a[i] * scale[i] + (x[i] - mean[i]) * slope[i] + shift[i];
    }
}

/* >>kernel strided copy: what all shape operations are ----------------------------------------------------------------
   y[sum i_k ys_k] (+)= x[sum i_k xs_k] over a box of up to 8 axes. Axes that lie one in the other in both are joined,
   so that the inner run is long and mostly a memcpy. Each output element is written once: tasks are runs of inner
   rows. */
typedef struct bmvpi_strided {
    int rank;
    int64_t dim[BMVP_MAX_DIMS], xs[BMVP_MAX_DIMS], ys[BMVP_MAX_DIMS];
    const float *x;
    float *y;
    int add;
    int64_t rows, grain;
} bmvpi_strided;

BMVPI_HOT static void bmvpi_strided_row(const bmvpi_strided *s, const float *x, float *y)
{
    const int64_t n = s->dim[s->rank - 1], xs = s->xs[s->rank - 1], ys = s->ys[s->rank - 1];
    int64_t i;
    if (xs == 1 && ys == 1 && s->add) for (i = 0; i < n; ++i) y[i] += x[i];
    else if (xs == 1 && ys == 1) memcpy(y, x, (size_t)n * sizeof(float));
    else if (s->add) for (i = 0; i < n; ++i) y[i * ys] += x[i * xs];
    else for (i = 0; i < n; ++i) y[i * ys] = x[i * xs];
}

static void bmvpi_strided_task(void *arg, int64_t task, int worker)
{
    const bmvpi_strided *s = (const bmvpi_strided *)arg;
    const int64_t lo = task * s->grain, hi = bmvpi_min(s->rows, lo + s->grain);
    int64_t at[BMVP_MAX_DIMS] = { 0 }, xo = 0, yo = 0, r = lo;
    int k;
    (void)worker;
    for (k = s->rank - 2; k >= 0; --k) {
        at[k] = r % s->dim[k];
        r /= s->dim[k];
        xo += at[k] * s->xs[k];
        yo += at[k] * s->ys[k];
    }
    for (r = lo; r < hi; ++r) {
        bmvpi_strided_row(s, s->x + xo, s->y + yo);
        for (k = s->rank - 2; k >= 0; --k) { /* next row: count up, the last axis fastest */
            xo += s->xs[k];
            yo += s->ys[k];
            if (++at[k] < s->dim[k]) break;
            xo -= s->dim[k] * s->xs[k];
            yo -= s->dim[k] * s->ys[k];
            at[k] = 0;
        }
    }
}

static void bmvpi_swap(int64_t *a, int64_t *b)
{
    const int64_t t = *a;
    *a = *b;
    *b = t;
}

static void bmvpi_strided_copy(bmvp_ctx *c, int rank, const int64_t *dim, const float *x, const int64_t *xs, float *y,
                               const int64_t *ys, int add)
{
    bmvpi_strided s;
    int i, n = 0;
    memset(&s, 0, sizeof s);
    for (i = rank - 1; i >= 0; --i) { /* inner axes first; a joined run stays short enough to be shared out */
        const int joins = n > 0 && xs[i] == s.xs[n - 1] * s.dim[n - 1] && ys[i] == s.ys[n - 1] * s.dim[n - 1];
        if (dim[i] == 1) continue;
        if (joins && s.dim[n - 1] <= BMVPI_GRAIN / dim[i]) {
            s.dim[n - 1] *= dim[i];
            continue;
        }
        s.dim[n] = dim[i];
        s.xs[n] = xs[i];
        s.ys[n++] = ys[i];
    }
    for (i = 0; i < n / 2; ++i) {
        bmvpi_swap(&s.dim[i], &s.dim[n - 1 - i]);
        bmvpi_swap(&s.xs[i], &s.xs[n - 1 - i]);
        bmvpi_swap(&s.ys[i], &s.ys[n - 1 - i]);
    }
    if (n == 0) {
        s.dim[n] = s.xs[n] = s.ys[n] = 1;
        ++n;
    }
    s.rank = n;
    s.x = x;
    s.y = y;
    s.add = add;
    s.rows = 1;
    for (i = 0; i < n - 1; ++i) s.rows *= s.dim[i];
    s.grain = bmvpi_max(1, BMVPI_GRAIN / s.dim[n - 1]);
    bmvp_parallel(c, bmvpi_ceil_div(s.rows, s.grain), bmvpi_strided_task, &s);
}

/* Row-major strides of a shape */
static void bmvpi_strides(int rank, const int64_t *dim, int64_t *stride)
{
    int64_t s = 1;
    int i;
    for (i = rank - 1; i >= 0; --i) {
        stride[i] = s;
        s *= dim[i];
    }
}

/* >>fast: the door ------------------------------------------------------------------------------------------------- */
/* Each op below is defined by plain loops. Where the processor has vectors the kernels at the end of this file do the
   same: each of these does it and says 1, or says 0 and leaves it to the loops. With BMVP_NO_SIMD they always do. */
static int bmvpi_fast_gelu(const bmvp_ctx *c, int64_t n, const float *x, float *y);
static int bmvpi_fast_gelu_back(const bmvp_ctx *c, int64_t n, const float *x, const float *g, float *dx, int add);
static int bmvpi_fast_softmax_row(const bmvp_ctx *c, int64_t n, const float *x, float *y);
static int bmvpi_fast_attention(bmvp_ctx *c, bmvp_tensor *y);
static int bmvpi_fast_attention_back(bmvp_ctx *c, bmvp_tensor *y, float *g, int add, float *table, int add_table);
static int64_t bmvpi_fast_attention_workspace(const bmvp_ctx *c, const bmvp_tensor *y, int backward);
static int bmvpi_fast_mlp(bmvp_ctx *c, bmvp_tensor *y);
static int bmvpi_fast_mlp_back(bmvp_ctx *c, bmvp_tensor *y);
static int64_t bmvpi_fast_mlp_workspace(const bmvp_ctx *c, const bmvp_tensor *y, int backward);
static int bmvpi_fast_adamw(const bmvp_ctx *c, const bmvp_update *u, float scale, int64_t from, int64_t to);

/* >>op blocks: how an op is written -----------------------------------------------------------------------------------
   Each op below is one block, in the order of BMVP_OPS, and each block has the same parts in the same order:
     comment     formula, shapes, source (paper or PyTorch's name), what backward reads and what is saved for it
     builder     checks shapes (bmvpi_bad_shapes says what does not fit), makes the node, sets its attributes, runs it
     definition  plain loops, where forward is more than a line; a door of >>fast may do the same faster
     forward     bmvpi_NAME_cpu_forward: reads src[i]->x and args, writes x, and saved if it asked for it
     backward    bmvpi_NAME_cpu_backward: reads g and what the list says, adds into the gradients of operands
     workspace   floats that either needs while it runs, or NULL
     sample      small and awkward shapes, for gradient checks and for comparing backends
   Builders: NULL operands or a failed context give NULL, without a word. Backward kernels run in a plan, too, to count
   the gradients: they ask for each with bmvpi_grad and do nothing where that gives NULL. Work is cut into tasks by
   shape alone and sums of tasks are added in order, so that bits do not depend on the number of threads. */

/* >>op parts: what the blocks of several ops share ----------------------------------------------------------------- */

/* The failure of a builder whose operands do not fit: "linear: x (2,3), w (4,5), b none; WANT". names: of the operands,
   which may be absent. */
static bmvp_tensor *bmvpi_bad_shapes(bmvp_ctx *c, const char *op, const char *names, bmvp_tensor *const *src,
                                     const char *want, ...) BMVP_PRINTF(5, 6);
static bmvp_tensor *bmvpi_bad_shapes(bmvp_ctx *c, const char *op, const char *names, bmvp_tensor *const *src,
                                     const char *want, ...)
{
    char got[256], wanted[192], shape[128];
    size_t n = 0;
    va_list ap;
    got[0] = 0;
    while (*names && n < sizeof got) {
        const int length = (int)strcspn(names, " ");
        const int k = snprintf(got + n, sizeof got - n, "%s%.*s %s", n ? ", " : "", length, names,
                               bmvpi_shape(*src++, shape, sizeof shape));
        n += k > 0 ? (size_t)k : sizeof got;
        names += length + (names[length] == ' ');
    }
    va_start(ap, want);
    vsnprintf(wanted, sizeof wanted, want, ap);
    va_end(ap);
    return (bmvp_tensor *)bmvp_fail(c, BMVP_E_SHAPE, "%s: %s; %s", op, got, wanted);
}

static bmvp_tensor *bmvpi_pointwise(bmvp_ctx *c, bmvp_op op, bmvp_tensor *x)
{
    return x && !bmvp_failed(c) ? bmvpi_node(c, op, x->rank, x->dim, 1, &x) : NULL;
}

/* Number i of what was saved as int32 in place of floats */
static int64_t bmvpi_saved_int(const float *saved, int64_t i)
{
    int32_t number;
    memcpy(&number, saved + i, sizeof number);
    return number;
}

static int64_t bmvpi_last_dim(const bmvp_tensor *t) { return t->rank > 0 ? t->dim[t->rank - 1] : 1; }

static int bmvpi_norm_fits(const bmvp_tensor *x, const bmvp_tensor *v)
{
    return x->rank >= 1 && v->rank == 1 && v->dim[0] == x->dim[x->rank - 1];
}

/* What batch and group norm share: statistics of each (sample, group of channels), kept in `saved` as mean then 1 /
   sqrt(var + eps), each samples x groups. Batch norm is one sample with as many groups as channels. */
static bmvpi_columns bmvpi_norm_columns(const bmvp_tensor *y, int64_t samples)
{
    const int64_t ch = y->dim[y->rank - 1];
    bmvpi_columns k = bmvpi_columns_make(samples, y->numel / samples / ch, ch);
    k.x = y->src[0]->x;
    k.a = y->g;
    return k;
}

static int64_t bmvpi_norm_workspace(const bmvp_tensor *y, int64_t samples)
{
    const int64_t ch = y->dim[y->rank - 1];
    const bmvpi_columns k = bmvpi_columns_make(samples, y->numel / samples / ch, ch);
    return bmvpi_columns_workspace(&k) + 4 * samples * ch;
}

/* Are b's axes a's last ones, but for ones before them? */
static int bmvpi_is_row(const bmvp_tensor *a, const bmvp_tensor *b)
{
    int first = 0, i;
    while (first < b->rank && b->dim[first] == 1) ++first;
    if (b->rank - first > a->rank) return 0;
    for (i = first; i < b->rank; ++i)
        if (b->dim[i] != a->dim[a->rank - b->rank + i]) return 0;
    return 1;
}

/* add, mul, sub, div: what b is along a, the operands of a pass, the gradient of a b that was spread, the samples */
static bmvp_tensor *bmvpi_binary(bmvp_ctx *c, bmvp_op op, bmvp_tensor *a, bmvp_tensor *b)
{
    bmvp_tensor *src[2] = { a, b }, *y;
    bmvp_spread spread;
    if (!a || !b || bmvp_failed(c)) return NULL;
    spread = bmvpi_same_shape(a, b) ? BMVP_SPREAD_SAME : b->numel == 1 ? BMVP_SPREAD_NUMBER : BMVP_SPREAD_CHANNELS;
    if (spread == BMVP_SPREAD_CHANNELS && !bmvpi_is_row(a, b))
        return bmvpi_bad_shapes(c, bmvp_op_name((int)op), "a b", src,
                                "b must have a's shape, or a's last axes, or be a number");
    y = bmvpi_node(c, op, a->rank, a->dim, 2, src);
    if (y) y->args.binary.spread = spread;
    return bmvpi_run(c, y);
}
/* The operands of a pointwise pass over y: a whole, b as a whole tensor, a row or the number s */
static bmvpi_map bmvpi_binary_map(const bmvp_ctx *c, const bmvp_tensor *y, const float *a, const bmvp_tensor *b)
{
    const int64_t row = y->args.binary.spread == BMVP_SPREAD_CHANNELS ? b->numel : 1;
    bmvpi_map m = bmvpi_map_make(c, y->numel / row, row);
    m.a = a;
    m.b = y->args.binary.spread == BMVP_SPREAD_NUMBER ? NULL : b->x;
    m.number = b->x[0];
    return m;
}
/* to (+)= a b, of rows with the row b, or of a and the number */
BMVPI_HOT static void bmvpi_product_range(const bmvpi_map *m, int64_t lo, int64_t hi)
{
    const float *a = m->a, *b = m->b;
    float *to = m->to;
    int64_t r, i;
    if (!b) for (i = lo; i < hi; ++i) to[i] = (m->add ? to[i] : 0.0f) + a[i] * m->number;
    else if (m->c == 1) for (i = lo; i < hi; ++i) to[i] = (m->add ? to[i] : 0.0f) + a[i] * b[i];
    else
        for (r = lo; r < hi; ++r)
            for (i = 0; i < m->c; ++i) to[r * m->c + i] = (m->add ? to[r * m->c + i] : 0.0f) + a[r * m->c + i] * b[i];
}
static double bmvpi_total_range(const bmvpi_map *m, int64_t lo, int64_t hi)
{
    return bmvpi_reduce_sum(m->a + lo, hi - lo);
}
static double bmvpi_dot_range(const bmvpi_map *m, int64_t lo, int64_t hi)
{
    return bmvpi_reduce_dot(m->a + lo, m->b + lo, hi - lo);
}

/* to (+)= what TERM says of u from a and v from b, as above */
#define BMVPI_BINARY_RANGE(NAME, TERM) \
BMVPI_HOT static void NAME(const bmvpi_map *m, int64_t lo, int64_t hi) \
{ \
    const float *a = m->a, *b = m->b; \
    float *to = m->to; \
    int64_t r, i; \
    if (!b) for (i = lo; i < hi; ++i) to[i] = (m->add ? to[i] : 0.0f) + TERM(a[i], m->number); \
    else if (m->c == 1) for (i = lo; i < hi; ++i) to[i] = (m->add ? to[i] : 0.0f) + TERM(a[i], b[i]); \
    else \
        for (r = lo * m->c; r < hi * m->c; r += m->c) \
            for (i = 0; i < m->c; ++i) to[r + i] = (m->add ? to[r + i] : 0.0f) + TERM(a[r + i], b[i]); \
}

/* What a broadcast b's element i gets of `sum`, which is that of g (add, sub) or of g a (mul, div) over its places */
static float bmvpi_broadcast_share(const bmvp_tensor *y, double sum, int64_t i)
{
    const double b = y->op == BMVP_OP_DIV ? (double)y->src[1]->x[i] : 1.0;
    return (float)(y->op == BMVP_OP_SUB || y->op == BMVP_OP_DIV ? -sum / (b * b) : sum);
}
/* y as rows of b */
static bmvpi_columns bmvpi_broadcast_columns(const bmvp_tensor *y)
{
    return bmvpi_columns_make(1, y->numel / y->src[1]->numel, y->src[1]->numel);
}
/* Gradient of a broadcast b: g, or g times `by` (mul, div), summed over what b was spread over */
static void bmvpi_broadcast_grad(bmvp_ctx *c, const bmvp_tensor *y, const float *by, float *gb, int add)
{
    if (y->args.binary.spread == BMVP_SPREAD_NUMBER) {
        bmvpi_map m = bmvpi_map_make(c, y->numel, 1);
        m.a = y->g;
        m.b = by;
        gb[0] = (add ? gb[0] : 0.0f) +
                bmvpi_broadcast_share(y, bmvpi_map_sum(c, &m, by ? bmvpi_dot_range : bmvpi_total_range), 0);
    } else {
        bmvpi_columns k = bmvpi_broadcast_columns(y);
        double *sum = bmvpi_columns_attach(&k, bmvpi_workspace(c));
        int64_t i;
        k.x = by;
        k.a = y->g;
        bmvpi_columns_sums(c, &k, bmvpi_columns_dots_task, sum);
        for (i = 0; i < k.c; ++i)
            gb[i] = (add ? gb[i] : 0.0f) + bmvpi_broadcast_share(y, sum[by ? k.c + i : i], i);
    }
}
static int64_t bmvpi_broadcast_workspace(const bmvp_tensor *y, int backward)
{
    const bmvpi_columns k = bmvpi_broadcast_columns(y);
    return backward && y->args.binary.spread == BMVP_SPREAD_CHANNELS ? bmvpi_columns_workspace(&k) : 0;
}
/* Values of a sample where they must be above 0, from a leaf: x^2 + 1/4 */
static bmvp_tensor *bmvpi_sample_positive(bmvp_ctx *c, int rank, const int64_t *dim)
{
    bmvp_tensor *x = bmvp_leaf(c, rank, dim, NULL);
    return bmvp_scale(c, bmvp_mul(c, x, x), 1, 0.25);
}
/* a with a tensor, a channel vector, a number, itself, a matrix for each sample */
static bmvp_tensor *bmvpi_binary_sample(bmvp_ctx *c, bmvp_op op, int variant)
{
    const int64_t d[3] = { 2, 3, 5 }, ch[1] = { 5 }, one[1] = { 1 }, row[3] = { 1, 3, 5 },
                  *of = variant == 1 ? ch : variant == 2 ? one : variant == 4 ? row : d;
    const int rank = of == d || of == row ? 3 : 1;
    bmvp_tensor *a = NULL, *b;
    if (variant > 4) return NULL;
    if (variant != 3) a = bmvp_leaf(c, 3, d, NULL);
    b = op == BMVP_OP_DIV ? bmvpi_sample_positive(c, rank, of) : bmvp_leaf(c, rank, of, NULL);
    return bmvpi_binary(c, op, a ? a : b, b);
}

/* abs, sqrt, exp, natural_log, clamp: what a function of each element has but its builder. FORWARD is y from x; SLOPE
   its derivative, from FROM: x or y, the one that backward reads. */
#define BMVPI_FUNCTION(NAME, FORWARD, FROM, SLOPE) \
BMVPI_HOT static void bmvpi_##NAME##_range(const bmvpi_map *m, int64_t lo, int64_t hi) \
{ \
    int64_t i; \
    for (i = lo; i < hi; ++i) { \
        const float x = m->x[i]; \
        m->y[i] = FORWARD; \
    } \
} \
BMVPI_HOT static void bmvpi_##NAME##_back_range(const bmvpi_map *m, int64_t lo, int64_t hi) \
{ \
    int64_t i; \
    for (i = lo; i < hi; ++i) { \
        const float FROM = m->FROM[i]; \
        m->dx[i] = (m->add ? m->dx[i] : 0.0f) + m->g[i] * (SLOPE); \
    } \
} \
static void bmvpi_##NAME##_cpu_forward(bmvp_ctx *c, bmvp_tensor *y) \
{ \
    bmvpi_map m = bmvpi_function_map(c, y); \
    bmvpi_map_run(c, &m, bmvpi_##NAME##_range); \
} \
static void bmvpi_##NAME##_cpu_backward(bmvp_ctx *c, bmvp_tensor *y) \
{ \
    bmvpi_map m = bmvpi_function_map(c, y); \
    m.g = y->g; \
    m.dx = bmvpi_grad(c, y->src[0], &m.add); \
    if (m.dx) bmvpi_map_run(c, &m, bmvpi_##NAME##_back_range); \
}
static bmvpi_map bmvpi_function_map(const bmvp_ctx *c, const bmvp_tensor *y)
{
    bmvpi_map m = bmvpi_map_make(c, y->numel, 1);
    m.x = y->src[0]->x;
    m.y = y->x;
    if (y->op != BMVP_OP_CLAMP) return m;
    m.low = (float)y->args.clamp.low;
    m.high = (float)y->args.clamp.high;
    return m;
}

/* slice, pad, concat */
/* Copies the box `small` between its own array and its place in `big` that starts `shift` elements in. */
static void bmvpi_box_in(bmvp_ctx *c, const bmvp_tensor *big, const bmvp_tensor *box, const float *from, float *big_to,
                         int64_t shift, int add)
{
    int64_t bs[BMVP_MAX_DIMS], ss[BMVP_MAX_DIMS];
    bmvpi_strides(big->rank, big->dim, bs);
    bmvpi_strides(box->rank, box->dim, ss);
    bmvpi_strided_copy(c, box->rank, box->dim, from, ss, big_to + shift, bs, add);
}
static void bmvpi_box_out(bmvp_ctx *c, const bmvp_tensor *big, const bmvp_tensor *box, const float *big_from, float *to,
                          int64_t shift, int add)
{
    int64_t bs[BMVP_MAX_DIMS], ss[BMVP_MAX_DIMS];
    bmvpi_strides(big->rank, big->dim, bs);
    bmvpi_strides(box->rank, box->dim, ss);
    bmvpi_strided_copy(c, box->rank, box->dim, big_from + shift, bs, to, ss, add);
}
/* Elements before place `start` of one axis */
static int64_t bmvpi_axis_shift(const bmvp_tensor *t, int64_t axis, int64_t start)
{
    int64_t i;
    for (i = axis + 1; i < t->rank; ++i) start *= t->dim[i];
    return start;
}

/* Reductions and losses: an op of n operands whose result is one number */
static bmvp_tensor *bmvpi_to_number(bmvp_ctx *c, bmvp_op op, int n, bmvp_tensor *a, bmvp_tensor *b)
{
    const int64_t one[1] = { 1 };
    bmvp_tensor *src[2];
    if (!a || (n > 1 && !b) || bmvp_failed(c)) return NULL;
    src[0] = a;
    src[1] = b;
    return bmvpi_node(c, op, 1, one, n, src);
}
/* Targets of a sample: n values in [0, 1], fixed. */
static bmvp_tensor *bmvpi_sample_target(bmvp_ctx *c, int rank, const int64_t *dim)
{
    const int64_t n = bmvpi_numel(rank, dim);
    float *v = (float *)bmvpi_alloc(c, n * (int64_t)sizeof *v);
    bmvp_tensor *t;
    int64_t i;
    for (i = 0; v && i < n; ++i) v[i] = (float)(i * 5 % 4) / 3.0f;
    t = bmvp_input(c, rank, dim, v);
    bmvpi_free(c, v);
    return t;
}

/* >>op add: y = a + b; b of a's shape, or along a's last axes, or one number ------------------------------------------
   Backward reads nothing; db is g, its sums over the other axes in fixed order, or its sum. */
BMVP_API bmvp_tensor *bmvp_add(bmvp_ctx *c, bmvp_tensor *a, bmvp_tensor *b)
{
    return bmvpi_binary(c, BMVP_OP_ADD, a, b);
}

/* Range of rows: of one element, or of more with the row b. A number b is s. */
BMVPI_HOT static void bmvpi_add_range(const bmvpi_map *m, int64_t lo, int64_t hi)
{
    int64_t r, i;
    if (!m->b) for (i = lo; i < hi; ++i) m->y[i] = m->a[i] + m->number;
    else if (m->c == 1) for (i = lo; i < hi; ++i) m->y[i] = m->a[i] + m->b[i];
    else for (r = lo; r < hi; ++r) for (i = 0; i < m->c; ++i) m->y[r * m->c + i] = m->a[r * m->c + i] + m->b[i];
}
static void bmvpi_add_cpu_forward(bmvp_ctx *c, bmvp_tensor *y)
{
    bmvpi_map m = bmvpi_binary_map(c, y, y->src[0]->x, y->src[1]);
    m.y = y->x;
    bmvpi_map_run(c, &m, bmvpi_add_range);
}
static void bmvpi_add_cpu_backward(bmvp_ctx *c, bmvp_tensor *y)
{
    int add;
    float *gb;
    if (y->args.binary.spread == BMVP_SPREAD_SAME) {
        bmvpi_grad_pass(c, y, y->src[0]);
        bmvpi_grad_pass(c, y, y->src[1]);
        return;
    }
    gb = bmvpi_grad(c, y->src[1], &add);
    if (gb) bmvpi_broadcast_grad(c, y, NULL, gb, add);
    bmvpi_grad_pass(c, y, y->src[0]);
}
static int64_t bmvpi_add_cpu_workspace(const bmvp_ctx *c, const bmvp_tensor *y, int backward)
{
    (void)c;
    return bmvpi_broadcast_workspace(y, backward);
}
static bmvp_tensor *bmvpi_add_sample(bmvp_ctx *c, int variant) { return bmvpi_binary_sample(c, BMVP_OP_ADD, variant); }

/* >>op add_into: an add whose result takes the place of b ---------------------------------------------------------- */
BMVP_API bmvp_tensor *bmvp_add_into(bmvp_ctx *c, bmvp_tensor *a, bmvp_tensor *b)
{
    bmvp_tensor *src[2] = { a, b }, *y;
    if (!a || !b || bmvp_failed(c)) return NULL;
    if (!bmvpi_same_shape(a, b)) return bmvpi_bad_shapes(c, "add_into", "a b", src, "they must have one shape");
    if (b->op < 0 || bmvpi_reads_output(b) || !b->x_block || b->x_block->refs != 1 || b->kept || a == b)
        return (bmvp_tensor *)bmvp_fail(c, BMVP_E_STATE, "add_into: the value of %s is still needed; use add",
                                        bmvp_op_name(b->op));
    y = bmvpi_node(c, BMVP_OP_ADD, a->rank, a->dim, 2, src);
    if (!y) return NULL;
    y->lies_in = BMVPI_TAKEN;
    y->half = b->half;
    y->x_block = b->x_block;
    y->x = b->x;
    if (!c->cfg.plan) bmvpi_call(c, y, 0); /* may run in place: pointwise */
    b->x_block = NULL;
    b->x = NULL;
    b->dropped = 2;
    return bmvp_failed(c) ? NULL : y;
}

/* >>op mul: y = a b, b as in add --------------------------------------------------------------------------------------
   Backward reads a and b: da = g b, db = sum of g a over what b was spread over. */
BMVP_API bmvp_tensor *bmvp_mul(bmvp_ctx *c, bmvp_tensor *a, bmvp_tensor *b)
{
    return bmvpi_binary(c, BMVP_OP_MUL, a, b);
}
static void bmvpi_mul_cpu_forward(bmvp_ctx *c, bmvp_tensor *y)
{
    bmvpi_map m = bmvpi_binary_map(c, y, y->src[0]->x, y->src[1]);
    m.to = y->x;
    bmvpi_map_run(c, &m, bmvpi_product_range);
}
static void bmvpi_mul_cpu_backward(bmvp_ctx *c, bmvp_tensor *y)
{
    int add_a, add_b;
    float *ga = bmvpi_grad(c, y->src[0], &add_a),
          *gb = bmvpi_grad(c, y->src[1], &add_b); /* the same buffer for a times a: a's first */
    bmvpi_map m;
    if (ga) {
        m = bmvpi_binary_map(c, y, y->g, y->src[1]);
        m.to = ga;
        m.add = add_a;
        bmvpi_map_run(c, &m, bmvpi_product_range);
    }
    if (gb && y->args.binary.spread == BMVP_SPREAD_SAME) {
        m = bmvpi_binary_map(c, y, y->g, y->src[0]);
        m.to = gb;
        m.add = add_b;
        bmvpi_map_run(c, &m, bmvpi_product_range);
    } else if (gb) bmvpi_broadcast_grad(c, y, y->src[0]->x, gb, add_b);
}
static int64_t bmvpi_mul_cpu_workspace(const bmvp_ctx *c, const bmvp_tensor *y, int backward)
{
    (void)c;
    return bmvpi_broadcast_workspace(y, backward);
}
static bmvp_tensor *bmvpi_mul_sample(bmvp_ctx *c, int variant) { return bmvpi_binary_sample(c, BMVP_OP_MUL, variant); }

/* >>op sub: y = a - b, b as in add ------------------------------------------------------------------------------------
   Backward reads nothing: da = g, db = -g, summed over what b was spread over. torch sub. */
BMVP_API bmvp_tensor *bmvp_sub(bmvp_ctx *c, bmvp_tensor *a, bmvp_tensor *b)
{
    return bmvpi_binary(c, BMVP_OP_SUB, a, b);
}
#define BMVPI_TERM_DIFFERENCE(u, v) (u) - (v)
BMVPI_BINARY_RANGE(bmvpi_difference_range, BMVPI_TERM_DIFFERENCE)
static void bmvpi_sub_cpu_forward(bmvp_ctx *c, bmvp_tensor *y)
{
    bmvpi_map m = bmvpi_binary_map(c, y, y->src[0]->x, y->src[1]);
    m.to = y->x;
    bmvpi_map_run(c, &m, bmvpi_difference_range);
}
static void bmvpi_sub_cpu_backward(bmvp_ctx *c, bmvp_tensor *y)
{
    int add;
    float *gb = bmvpi_grad(c, y->src[1], &add);
    if (gb && y->args.binary.spread == BMVP_SPREAD_SAME) {
        bmvpi_map m = bmvpi_map_make(c, y->numel, 1);
        m.a = y->g;
        m.number = -1.0f;
        m.to = gb;
        m.add = add;
        bmvpi_map_run(c, &m, bmvpi_product_range);
    } else if (gb) bmvpi_broadcast_grad(c, y, NULL, gb, add);
    bmvpi_grad_pass(c, y, y->src[0]);
}
static int64_t bmvpi_sub_cpu_workspace(const bmvp_ctx *c, const bmvp_tensor *y, int backward)
{
    (void)c;
    return bmvpi_broadcast_workspace(y, backward);
}
static bmvp_tensor *bmvpi_sub_sample(bmvp_ctx *c, int variant) { return bmvpi_binary_sample(c, BMVP_OP_SUB, variant); }

/* >>op div: y = a / b, b as in add ------------------------------------------------------------------------------------
   Backward reads a and b: da = g / b, db = -g a / b^2, summed over what b was spread over. torch div. */
BMVP_API bmvp_tensor *bmvp_div(bmvp_ctx *c, bmvp_tensor *a, bmvp_tensor *b)
{
    return bmvpi_binary(c, BMVP_OP_DIV, a, b);
}
#define BMVPI_TERM_QUOTIENT(u, v) (u) / (v)
BMVPI_BINARY_RANGE(bmvpi_quotient_range, BMVPI_TERM_QUOTIENT)
BMVPI_HOT static void bmvpi_quotient_back_range(const bmvpi_map *m, int64_t lo, int64_t hi)
{
    int64_t i;
    for (i = lo; i < hi; ++i)
        m->to[i] = (m->add ? m->to[i] : 0.0f) - m->g[i] * m->a[i] / (m->b[i] * m->b[i]);
}
static void bmvpi_div_cpu_forward(bmvp_ctx *c, bmvp_tensor *y)
{
    bmvpi_map m = bmvpi_binary_map(c, y, y->src[0]->x, y->src[1]);
    m.to = y->x;
    bmvpi_map_run(c, &m, bmvpi_quotient_range);
}
static void bmvpi_div_cpu_backward(bmvp_ctx *c, bmvp_tensor *y)
{
    int add_a, add_b;
    float *ga = bmvpi_grad(c, y->src[0], &add_a),
          *gb = bmvpi_grad(c, y->src[1], &add_b); /* the same buffer for a by a: a's first */
    bmvpi_map m;
    if (ga) {
        m = bmvpi_binary_map(c, y, y->g, y->src[1]);
        m.to = ga;
        m.add = add_a;
        bmvpi_map_run(c, &m, bmvpi_quotient_range);
    }
    if (gb && y->args.binary.spread == BMVP_SPREAD_SAME) {
        m = bmvpi_binary_map(c, y, y->src[0]->x, y->src[1]);
        m.g = y->g;
        m.to = gb;
        m.add = add_b;
        bmvpi_map_run(c, &m, bmvpi_quotient_back_range);
    } else if (gb) bmvpi_broadcast_grad(c, y, y->src[0]->x, gb, add_b);
}
static int64_t bmvpi_div_cpu_workspace(const bmvp_ctx *c, const bmvp_tensor *y, int backward)
{
    (void)c;
    return bmvpi_broadcast_workspace(y, backward);
}
static bmvp_tensor *bmvpi_div_sample(bmvp_ctx *c, int variant) { return bmvpi_binary_sample(c, BMVP_OP_DIV, variant); }

/* >>op scale: y = factor x + offset -------------------------------------------------------------------------------- */
BMVP_API bmvp_tensor *bmvp_scale(bmvp_ctx *c, bmvp_tensor *x, double factor, double offset)
{
    bmvp_tensor *y = bmvpi_pointwise(c, BMVP_OP_SCALE, x);
    if (y) {
        y->args.scale.factor = factor;
        y->args.scale.offset = offset;
    }
    return bmvpi_run(c, y);
}
BMVPI_HOT static void bmvpi_scale_range(const bmvpi_map *m, int64_t lo, int64_t hi)
{
    int64_t i;
    for (i = lo; i < hi; ++i) m->y[i] = m->x[i] * m->factor + m->offset;
}
static void bmvpi_scale_cpu_forward(bmvp_ctx *c, bmvp_tensor *y)
{
    bmvpi_map m = bmvpi_map_make(c, y->numel, 1);
    m.x = y->src[0]->x;
    m.factor = (float)y->args.scale.factor;
    m.offset = (float)y->args.scale.offset;
    m.y = y->x;
    bmvpi_map_run(c, &m, bmvpi_scale_range);
}
static void bmvpi_scale_cpu_backward(bmvp_ctx *c, bmvp_tensor *y)
{
    bmvpi_map m = bmvpi_map_make(c, y->numel, 1);
    m.a = y->g;
    m.number = (float)y->args.scale.factor;
    m.to = bmvpi_grad(c, y->src[0], &m.add);
    if (m.to) bmvpi_map_run(c, &m, bmvpi_product_range);
}
#define bmvpi_scale_cpu_workspace NULL
static bmvp_tensor *bmvpi_scale_sample(bmvp_ctx *c, int variant)
{
    const int64_t d[2] = { 3, 5 };
    return variant == 0 ? bmvp_scale(c, bmvp_leaf(c, 2, d, NULL), -1.5, 0.25) : NULL;
}

/* >>op relu: y = x > 0 ? x : slope x, slope >= 0 (0: ReLU, else leaky ReLU) -------------------------------------------
   Backward reads y, whose sign is that of x: dx = y > 0 ? g : slope g. NaN stays NaN. torch relu,
   leaky_relu. */
BMVP_API bmvp_tensor *bmvp_leaky_relu(bmvp_ctx *c, bmvp_tensor *x, double slope)
{
    bmvp_tensor *y;
    if (!(slope >= 0) && !bmvp_failed(c))
        return (bmvp_tensor *)bmvp_fail(c, BMVP_E_ARG, "leaky_relu: slope %g must be at least 0", slope);
    y = bmvpi_pointwise(c, BMVP_OP_RELU, x);
    if (y) y->args.relu.slope = slope;
    return bmvpi_run(c, y);
}
BMVP_API bmvp_tensor *bmvp_relu(bmvp_ctx *c, bmvp_tensor *x) { return bmvp_leaky_relu(c, x, 0); }
BMVPI_HOT static void bmvpi_relu_range(const bmvpi_map *m, int64_t lo, int64_t hi)
{
    int64_t i;
    if (m->slope == 0.0f) for (i = lo; i < hi; ++i) m->y[i] = m->x[i] < 0.0f ? 0.0f : m->x[i];
    else for (i = lo; i < hi; ++i) m->y[i] = m->x[i] < 0.0f ? m->slope * m->x[i] : m->x[i];
}
static void bmvpi_relu_cpu_forward(bmvp_ctx *c, bmvp_tensor *y)
{
    bmvpi_map m = bmvpi_map_make(c, y->numel, 1);
    m.x = y->src[0]->x;
    m.y = y->x;
    m.slope = (float)y->args.relu.slope;
    bmvpi_map_run(c, &m, bmvpi_relu_range);
}
BMVPI_HOT static void bmvpi_relu_back_range(const bmvpi_map *m, int64_t lo, int64_t hi)
{
    int64_t i;
    if (m->add) for (i = lo; i < hi; ++i) m->dx[i] += m->y[i] > 0.0f ? m->g[i] : m->slope * m->g[i];
    else for (i = lo; i < hi; ++i) m->dx[i] = m->y[i] > 0.0f ? m->g[i] : m->slope * m->g[i];
}
static void bmvpi_relu_cpu_backward(bmvp_ctx *c, bmvp_tensor *y)
{
    bmvpi_map m = bmvpi_map_make(c, y->numel, 1);
    m.y = y->x;
    m.g = y->g;
    m.slope = (float)y->args.relu.slope;
    m.dx = bmvpi_grad(c, y->src[0], &m.add);
    if (m.dx) bmvpi_map_run(c, &m, bmvpi_relu_back_range);
}
#define bmvpi_relu_cpu_workspace NULL
static bmvp_tensor *bmvpi_relu_sample(bmvp_ctx *c, int variant)
{
    const int64_t d[2] = { 3, 5 };
    return variant < 2 ? bmvp_leaky_relu(c, bmvp_leaf(c, 2, d, NULL), variant * 0.1) : NULL;
}

/* >>op sigmoid: y = 1 / (1 + exp(-x)) ---------------------------------------------------------------------------------
   Backward reads y: dx = g y (1 - y). torch sigmoid. */
BMVP_API bmvp_tensor *bmvp_sigmoid(bmvp_ctx *c, bmvp_tensor *x)
{
    return bmvpi_run(c, bmvpi_pointwise(c, BMVP_OP_SIGMOID, x));
}
static void bmvpi_sigmoid_range(const bmvpi_map *m, int64_t lo, int64_t hi)
{
    int64_t i;
    for (i = lo; i < hi; ++i) m->y[i] = 1.0f / (1.0f + bmvpi_expf(-m->x[i]));
}
static void bmvpi_sigmoid_cpu_forward(bmvp_ctx *c, bmvp_tensor *y)
{
    bmvpi_map m = bmvpi_map_make(c, y->numel, 1);
    m.x = y->src[0]->x;
    m.y = y->x;
    bmvpi_map_run(c, &m, bmvpi_sigmoid_range);
}
BMVPI_HOT static void bmvpi_sigmoid_back_range(const bmvpi_map *m, int64_t lo, int64_t hi)
{
    int64_t i;
    for (i = lo; i < hi; ++i) m->dx[i] = (m->add ? m->dx[i] : 0.0f) + m->g[i] * m->y[i] * (1.0f - m->y[i]);
}
static void bmvpi_sigmoid_cpu_backward(bmvp_ctx *c, bmvp_tensor *y)
{
    bmvpi_map m = bmvpi_map_make(c, y->numel, 1);
    m.y = y->x;
    m.g = y->g;
    m.dx = bmvpi_grad(c, y->src[0], &m.add);
    if (m.dx) bmvpi_map_run(c, &m, bmvpi_sigmoid_back_range);
}
#define bmvpi_sigmoid_cpu_workspace NULL
static bmvp_tensor *bmvpi_sigmoid_sample(bmvp_ctx *c, int variant)
{
    const int64_t d[2] = { 3, 5 };
    return variant == 0 ? bmvp_sigmoid(c, bmvp_leaf(c, 2, d, NULL)) : NULL;
}

/* >>op gelu: y = x Phi(x), Phi the normal distribution (exact erf form) -----------------------------------------------
   Backward reads x: dx = g (Phi(x) + x phi(x)). torch gelu. Within 1e-6 of double precision. */
BMVP_API bmvp_tensor *bmvp_gelu(bmvp_ctx *c, bmvp_tensor *x)
{
    return bmvpi_run(c, bmvpi_pointwise(c, BMVP_OP_GELU, x));
}
static void bmvpi_gelu_plain(int64_t n, const float *x, float *y)
{
    int64_t i;
    for (i = 0; i < n; ++i) y[i] = 0.5f * x[i] * (1.0f + bmvpi_erff(x[i] * 0.707106781f));
}

static void bmvpi_gelu_back_plain(int64_t n, const float *x, const float *g, float *dx, int add)
{
    int64_t i;
    for (i = 0; i < n; ++i) {
        const float slope =
            0.5f * (1.0f + bmvpi_erff(x[i] * 0.707106781f)) + x[i] * 0.398942280f * bmvpi_expf(-0.5f * x[i] * x[i]);
        dx[i] = (add ? dx[i] : 0.0f) + g[i] * slope;
    }
}
static void bmvpi_gelu_range(const bmvpi_map *m, int64_t lo, int64_t hi)
{
    if (!bmvpi_fast_gelu(m->ctx, hi - lo, m->x + lo, m->y + lo)) bmvpi_gelu_plain(hi - lo, m->x + lo, m->y + lo);
}
static void bmvpi_gelu_cpu_forward(bmvp_ctx *c, bmvp_tensor *y)
{
    bmvpi_map m = bmvpi_map_make(c, y->numel, 1);
    m.x = y->src[0]->x;
    m.y = y->x;
    bmvpi_map_run(c, &m, bmvpi_gelu_range);
}
static void bmvpi_gelu_back_range(const bmvpi_map *m, int64_t lo, int64_t hi)
{
    if (!bmvpi_fast_gelu_back(m->ctx, hi - lo, m->x + lo, m->g + lo, m->dx + lo, m->add))
        bmvpi_gelu_back_plain(hi - lo, m->x + lo, m->g + lo, m->dx + lo, m->add);
}
static void bmvpi_gelu_cpu_backward(bmvp_ctx *c, bmvp_tensor *y)
{
    bmvpi_map m = bmvpi_map_make(c, y->numel, 1);
    m.x = y->src[0]->x;
    m.g = y->g;
    m.dx = bmvpi_grad(c, y->src[0], &m.add);
    if (m.dx) bmvpi_map_run(c, &m, bmvpi_gelu_back_range);
}
#define bmvpi_gelu_cpu_workspace NULL
static bmvp_tensor *bmvpi_gelu_sample(bmvp_ctx *c, int variant)
{
    const int64_t d[3] = { 2, 3, 7 };
    return variant == 0 ? bmvp_gelu(c, bmvp_leaf(c, 3, d, NULL)) : NULL;
}

/* >>op abs: y = |x| ---------------------------------------------------------------------------------------------------
   Backward reads x: dx = g sign(x), 0 at 0. torch abs. */
BMVP_API bmvp_tensor *bmvp_abs(bmvp_ctx *c, bmvp_tensor *x)
{
    return bmvpi_run(c, bmvpi_pointwise(c, BMVP_OP_ABS, x));
}
BMVPI_FUNCTION(abs, fabsf(x), x, (float)((x > 0.0f) - (x < 0.0f)))
#define bmvpi_abs_cpu_workspace NULL
static bmvp_tensor *bmvpi_abs_sample(bmvp_ctx *c, int variant)
{
    const int64_t d[2] = { 3, 5 };
    return variant == 0 ? bmvp_abs(c, bmvp_leaf(c, 2, d, NULL)) : NULL;
}

/* >>op sqrt: y = sqrt(x) ----------------------------------------------------------------------------------------------
   Backward reads y: dx = g / (2 y). torch sqrt. */
BMVP_API bmvp_tensor *bmvp_sqrt(bmvp_ctx *c, bmvp_tensor *x)
{
    return bmvpi_run(c, bmvpi_pointwise(c, BMVP_OP_SQRT, x));
}
BMVPI_FUNCTION(sqrt, sqrtf(x), y, 0.5f / y)
#define bmvpi_sqrt_cpu_workspace NULL
static bmvp_tensor *bmvpi_sqrt_sample(bmvp_ctx *c, int variant)
{
    const int64_t d[2] = { 3, 5 };
    return variant == 0 ? bmvp_sqrt(c, bmvpi_sample_positive(c, 2, d)) : NULL;
}

/* >>op exp: y = exp(x) ------------------------------------------------------------------------------------------------
   Backward reads y: dx = g y. torch exp. */
BMVP_API bmvp_tensor *bmvp_exp(bmvp_ctx *c, bmvp_tensor *x)
{
    return bmvpi_run(c, bmvpi_pointwise(c, BMVP_OP_EXP, x));
}
BMVPI_FUNCTION(exp, bmvpi_expf(x), y, y)
#define bmvpi_exp_cpu_workspace NULL
static bmvp_tensor *bmvpi_exp_sample(bmvp_ctx *c, int variant)
{
    const int64_t d[2] = { 3, 5 };
    return variant == 0 ? bmvp_exp(c, bmvp_leaf(c, 2, d, NULL)) : NULL;
}

/* >>op natural_log: y = log(x), to the base e -------------------------------------------------------------------------
   Backward reads x: dx = g / x. torch log. */
BMVP_API bmvp_tensor *bmvp_natural_log(bmvp_ctx *c, bmvp_tensor *x)
{
    return bmvpi_run(c, bmvpi_pointwise(c, BMVP_OP_NATURAL_LOG, x));
}
BMVPI_FUNCTION(natural_log, bmvpi_logf(x), x, 1.0f / x)
#define bmvpi_natural_log_cpu_workspace NULL
static bmvp_tensor *bmvpi_natural_log_sample(bmvp_ctx *c, int variant)
{
    const int64_t d[2] = { 3, 5 };
    return variant == 0 ? bmvp_natural_log(c, bmvpi_sample_positive(c, 2, d)) : NULL;
}

/* >>op clamp: y = min(max(x, low), high) ------------------------------------------------------------------------------
   Backward reads x: dx = g where low <= x <= high, else 0. NaN stays NaN. torch clamp. */
BMVP_API bmvp_tensor *bmvp_clamp(bmvp_ctx *c, bmvp_tensor *x, double low, double high)
{
    bmvp_tensor *y;
    if (!(low <= high) && !bmvp_failed(c))
        return (bmvp_tensor *)bmvp_fail(c, BMVP_E_ARG, "clamp: low %g must be at most high %g", low, high);
    y = bmvpi_pointwise(c, BMVP_OP_CLAMP, x);
    if (y) {
        y->args.clamp.low = low;
        y->args.clamp.high = high;
    }
    return bmvpi_run(c, y);
}
BMVPI_FUNCTION(clamp, x < m->low ? m->low : x > m->high ? m->high : x, x, x >= m->low && x <= m->high ? 1.0f : 0.0f)
#define bmvpi_clamp_cpu_workspace NULL
static bmvp_tensor *bmvpi_clamp_sample(bmvp_ctx *c, int variant)
{
    const int64_t d[2] = { 3, 5 };
    return variant < 2 ? bmvp_clamp(c, bmvp_leaf(c, 2, d, NULL), variant ? -0.1 : -2, variant ? 2 : 0.1) : NULL;
}

/* >>op softmax: y = exp(x - max) / sum over the last axis -------------------------------------------------------------
   Backward reads y: dx = y (g - sum(g y)). torch softmax(dim = -1). */
BMVP_API bmvp_tensor *bmvp_softmax(bmvp_ctx *c, bmvp_tensor *x)
{
    return bmvpi_run(c, bmvpi_pointwise(c, BMVP_OP_SOFTMAX, x));
}
static void bmvpi_softmax_row_plain(int64_t n, const float *x, float *y)
{
    float top = x[0], sum = 0;
    int64_t i;
    for (i = 1; i < n; ++i) if (!(x[i] <= top)) top = x[i];
    for (i = 0; i < n; ++i) sum += y[i] = bmvpi_expf(x[i] - top);
    for (i = 0; i < n; ++i) y[i] /= sum;
}
static void bmvpi_softmax_rows(const bmvpi_map *m, int64_t lo, int64_t hi)
{
    int64_t r;
    for (r = lo; r < hi; ++r)
        if (!bmvpi_fast_softmax_row(m->ctx, m->c, m->x + r * m->c, m->y + r * m->c))
            bmvpi_softmax_row_plain(m->c, m->x + r * m->c, m->y + r * m->c);
}
static void bmvpi_softmax_cpu_forward(bmvp_ctx *c, bmvp_tensor *y)
{
    const int64_t n = bmvpi_last_dim(y);
    bmvpi_map m = bmvpi_map_make(c, y->numel / n, n);
    m.x = y->src[0]->x;
    m.y = y->x;
    bmvpi_map_run(c, &m, bmvpi_softmax_rows);
}
BMVPI_HOT static void bmvpi_softmax_back_rows(const bmvpi_map *m, int64_t lo, int64_t hi)
{
    int64_t r, i;
    for (r = lo; r < hi; ++r) {
        const float *y = m->y + r * m->c, *g = m->g + r * m->c, dot = (float)bmvpi_reduce_dot(y, g, m->c);
        float *BMVP_RESTRICT dx = m->dx + r * m->c;
        if (m->add) for (i = 0; i < m->c; ++i) dx[i] += y[i] * (g[i] - dot);
        else for (i = 0; i < m->c; ++i) dx[i] = y[i] * (g[i] - dot);
    }
}
static void bmvpi_softmax_cpu_backward(bmvp_ctx *c, bmvp_tensor *y)
{
    const int64_t n = bmvpi_last_dim(y);
    bmvpi_map m = bmvpi_map_make(c, y->numel / n, n);
    m.y = y->x;
    m.g = y->g;
    m.dx = bmvpi_grad(c, y->src[0], &m.add);
    if (m.dx) bmvpi_map_run(c, &m, bmvpi_softmax_back_rows);
}
#define bmvpi_softmax_cpu_workspace NULL
static bmvp_tensor *bmvpi_softmax_sample(bmvp_ctx *c, int variant)
{
    const int64_t d[2] = { 3, 5 }, wide[2] = { 2, 37 };
    return variant == 0   ? bmvp_softmax(c, bmvp_leaf(c, 2, d, NULL))
           : variant == 1 ? bmvp_softmax(c, bmvp_leaf(c, 2, wide, NULL))
                          : NULL;
}

/* >>op l2_normalize: y = x / max(|x|, eps) over the last axis ---------------------------------------------------------
   saved: 1 / max(|x|, eps) of each row, negative where eps was used. Backward reads y: dx = (g - y
   sum(g y)) / |x|, or g / eps. torch functional.normalize. */
BMVP_API bmvp_tensor *bmvp_l2_normalize(bmvp_ctx *c, bmvp_tensor *x, double eps)
{
    bmvp_tensor *y = bmvpi_pointwise(c, BMVP_OP_L2_NORMALIZE, x);
    if (!bmvpi_save(c, y, y ? y->numel / bmvpi_last_dim(y) : 0)) return NULL;
    y->args.l2_normalize.eps = eps;
    return bmvpi_run(c, y);
}
BMVPI_HOT static void bmvpi_l2_rows(const bmvpi_map *m, int64_t lo, int64_t hi)
{
    int64_t r, i;
    for (r = lo; r < hi; ++r) {
        const float *x = m->x + r * m->c;
        const double norm = sqrt(bmvpi_reduce_dot(x, x, m->c)), eps = (double)m->eps;
        const float s = (float)(1.0 / (norm < eps ? eps : norm));
        float *BMVP_RESTRICT y = m->y + r * m->c;
        m->saved[r] = norm < eps ? -s : s;
        for (i = 0; i < m->c; ++i) y[i] = x[i] * s;
    }
}
static void bmvpi_l2_normalize_cpu_forward(bmvp_ctx *c, bmvp_tensor *y)
{
    const int64_t n = bmvpi_last_dim(y);
    bmvpi_map m = bmvpi_map_make(c, y->numel / n, n);
    m.x = y->src[0]->x;
    m.eps = (float)y->args.l2_normalize.eps;
    m.y = y->x;
    m.saved = y->saved;
    bmvpi_map_run(c, &m, bmvpi_l2_rows);
}
BMVPI_HOT static void bmvpi_l2_back_rows(const bmvpi_map *m, int64_t lo, int64_t hi)
{
    int64_t r, i;
    for (r = lo; r < hi; ++r) {
        const float *y = m->y + r * m->c, *g = m->g + r * m->c, s = m->saved[r] < 0.0f ? -m->saved[r] : m->saved[r];
        const float dot = m->saved[r] < 0.0f ? 0.0f : (float)bmvpi_reduce_dot(y, g, m->c);
        float *BMVP_RESTRICT dx = m->dx + r * m->c;
        if (m->add) for (i = 0; i < m->c; ++i) dx[i] += (g[i] - y[i] * dot) * s;
        else for (i = 0; i < m->c; ++i) dx[i] = (g[i] - y[i] * dot) * s;
    }
}
static void bmvpi_l2_normalize_cpu_backward(bmvp_ctx *c, bmvp_tensor *y)
{
    const int64_t n = bmvpi_last_dim(y);
    bmvpi_map m = bmvpi_map_make(c, y->numel / n, n);
    m.y = y->x;
    m.g = y->g;
    m.saved = y->saved;
    m.dx = bmvpi_grad(c, y->src[0], &m.add);
    if (m.dx) bmvpi_map_run(c, &m, bmvpi_l2_back_rows);
}
#define bmvpi_l2_normalize_cpu_workspace NULL
static bmvp_tensor *bmvpi_l2_normalize_sample(bmvp_ctx *c, int variant)
{
    const int64_t d[2] = { 3, 5 }, wide[3] = { 2, 1, 37 };
    if (variant == 0) return bmvp_l2_normalize(c, bmvp_leaf(c, 2, d, NULL), 1e-12);
    if (variant == 1) return bmvp_l2_normalize(c, bmvp_leaf(c, 3, wide, NULL), 1e-12);
    return variant == 2 ? bmvp_l2_normalize(c, bmvp_leaf(c, 2, d, NULL), 100.0) : NULL; /* all rows below eps */
}

/* >>op reshape: the same elements in the same order under other axes; shares storage ------------------------------- */
BMVP_API bmvp_tensor *bmvp_reshape(bmvp_ctx *c, bmvp_tensor *x, int rank, const int64_t *dim)
{
    bmvp_tensor *y;
    if (!x || bmvp_failed(c)) return NULL;
    if (bmvpi_numel(rank, dim) != x->numel)
        return bmvpi_bad_shapes(c, "reshape", "x", &x, "it has %lld elements, the shape asked for %lld (-1: none)",
                                (long long)x->numel, (long long)bmvpi_numel(rank, dim));
    y = bmvpi_node(c, BMVP_OP_RESHAPE, rank, dim, 1, &x);
    if (y && !x->persistent) y->lies_in = BMVPI_SHARED;
    if (y && x->x_block && !x->persistent) {
        y->x_block = x->x_block;
        y->x = x->x;
        ++x->x_block->refs;
        return y;
    }
    return bmvpi_run(c, y);
}
static void bmvpi_reshape_cpu_forward(bmvp_ctx *c, bmvp_tensor *y) /* of a parameter, or again after a drop */
{
    (void)c;
    memcpy(y->x, y->src[0]->x, (size_t)y->numel * sizeof(float));
}
static void bmvpi_reshape_cpu_backward(bmvp_ctx *c, bmvp_tensor *y) { bmvpi_grad_pass(c, y, y->src[0]); }
#define bmvpi_reshape_cpu_workspace NULL
static bmvp_tensor *bmvpi_reshape_sample(bmvp_ctx *c, int variant)
{
    const int64_t from[3] = { 2, 3, 4 }, to[2] = { 4, 6 };
    return variant == 0 ? bmvp_reshape(c, bmvp_leaf(c, 3, from, NULL), 2, to) : NULL;
}

/* >>op permute: y axis i is x axis axes[i] ----------------------------------------------------------------------------
   Backward is the inverse permutation. torch permute (copied). */
BMVP_API bmvp_tensor *bmvp_permute(bmvp_ctx *c, bmvp_tensor *x, const int *axes)
{
    int64_t d[BMVP_MAX_DIMS];
    bmvp_tensor *y;
    char at[128];
    unsigned seen = 0;
    int i;
    if (!x || bmvp_failed(c)) return NULL;
    for (i = 0; i < x->rank; ++i) {
        if (axes[i] < 0 || axes[i] >= x->rank || (seen >> axes[i] & 1u))
            return (bmvp_tensor *)bmvp_fail(c, BMVP_E_ARG, "permute: the axes of %s must each be named once",
                                            bmvpi_shape(x, at, sizeof at));
        seen |= 1u << axes[i];
        d[i] = x->dim[axes[i]];
    }
    y = bmvpi_node(c, BMVP_OP_PERMUTE, x->rank, d, 1, &x);
    for (i = 0; y && i < x->rank; ++i) y->args.permute.axes[i] = axes[i];
    return bmvpi_run(c, y);
}
static void bmvpi_permute_axes(const bmvp_tensor *y, int64_t *from, int64_t *to)
{
    int64_t xs[BMVP_MAX_DIMS];
    int i;
    bmvpi_strides(y->rank, y->src[0]->dim, xs);
    bmvpi_strides(y->rank, y->dim, to);
    for (i = 0; i < y->rank; ++i) from[i] = xs[y->args.permute.axes[i]];
}
static void bmvpi_permute_cpu_forward(bmvp_ctx *c, bmvp_tensor *y)
{
    int64_t from[BMVP_MAX_DIMS], to[BMVP_MAX_DIMS];
    bmvpi_permute_axes(y, from, to);
    bmvpi_strided_copy(c, y->rank, y->dim, y->src[0]->x, from, y->x, to, 0);
}
static void bmvpi_permute_cpu_backward(bmvp_ctx *c, bmvp_tensor *y)
{
    int64_t from[BMVP_MAX_DIMS], to[BMVP_MAX_DIMS];
    int add;
    float *gx = bmvpi_grad(c, y->src[0], &add);
    if (!gx) return;
    bmvpi_permute_axes(y, from, to);
    bmvpi_strided_copy(c, y->rank, y->dim, y->g, to, gx, from, add);
}
#define bmvpi_permute_cpu_workspace NULL
static bmvp_tensor *bmvpi_permute_sample(bmvp_ctx *c, int variant)
{
    const int64_t d[4] = { 2, 3, 4, 5 };
    const int axes[3][4] = { { 0, 2, 1, 3 }, { 3, 1, 0, 2 }, { 0, 1, 2, 3 } };
    return variant < 3 ? bmvp_permute(c, bmvp_leaf(c, 4, d, NULL), axes[variant]) : NULL;
}

/* >>op roll: y[(i + shift) mod n] = x[i] along each axis --------------------------------------------------------------
   An axis that is shifted falls in two pieces, so k of them make 2^k boxes, each copied to its place. Backward copies
   them back. torch roll. */
BMVP_API bmvp_tensor *bmvp_roll(bmvp_ctx *c, bmvp_tensor *x, const int64_t *shift)
{
    bmvp_tensor *y;
    int i;
    if (!x || bmvp_failed(c)) return NULL;
    y = bmvpi_node(c, BMVP_OP_ROLL, x->rank, x->dim, 1, &x);
    for (i = 0; y && i < x->rank; ++i) {
        const int64_t by = shift[i] % x->dim[i];
        y->args.roll.by[i] = by < 0 ? by + x->dim[i] : by;
    }
    return bmvpi_run(c, y);
}
/* Number `piece` of the 2^rank boxes: bit i says whether it is the end of axis i. Where it starts in x and in y; 0: it
   is empty. */
static int bmvpi_roll_box(const bmvp_tensor *y, int piece, int64_t *dim, int64_t *in_x, int64_t *in_y)
{
    int64_t stride[BMVP_MAX_DIMS];
    int i;
    bmvpi_strides(y->rank, y->dim, stride);
    for (i = 0, *in_x = *in_y = 0; i < y->rank; ++i) {
        const int64_t by = y->args.roll.by[i], end = piece >> i & 1;
        dim[i] = end ? by : y->dim[i] - by;
        *in_x += end ? (y->dim[i] - by) * stride[i] : 0;
        *in_y += end ? 0 : by * stride[i];
        if (dim[i] == 0) return 0;
    }
    return 1;
}
static void bmvpi_roll_cpu_forward(bmvp_ctx *c, bmvp_tensor *y)
{
    int64_t dim[BMVP_MAX_DIMS], stride[BMVP_MAX_DIMS], from, to;
    int piece;
    bmvpi_strides(y->rank, y->dim, stride);
    for (piece = 0; piece < 1 << y->rank; ++piece)
        if (bmvpi_roll_box(y, piece, dim, &from, &to))
            bmvpi_strided_copy(c, y->rank, dim, y->src[0]->x + from, stride, y->x + to, stride, 0);
}
static void bmvpi_roll_cpu_backward(bmvp_ctx *c, bmvp_tensor *y)
{
    int64_t dim[BMVP_MAX_DIMS], stride[BMVP_MAX_DIMS], to, from;
    int add, piece;
    float *gx = bmvpi_grad(c, y->src[0], &add);
    bmvpi_strides(y->rank, y->dim, stride);
    for (piece = 0; gx && piece < 1 << y->rank; ++piece)
        if (bmvpi_roll_box(y, piece, dim, &to, &from))
            bmvpi_strided_copy(c, y->rank, dim, y->g + from, stride, gx + to, stride, add);
}
#define bmvpi_roll_cpu_workspace NULL
static bmvp_tensor *bmvpi_roll_sample(bmvp_ctx *c, int variant)
{
    const int64_t d[4] = { 2, 3, 4, 5 }, shift[3][4] = { { 0, -1, 1, 0 }, { 1, 2, -3, 7 }, { 0, 0, 0, 0 } };
    return variant < 3 ? bmvp_roll(c, bmvp_leaf(c, 4, d, NULL), shift[variant]) : NULL;
}

/* >>op slice: `length` of x from `start` along one axis ---------------------------------------------------------------
   Backward adds into that part. torch narrow (copied). */
BMVP_API bmvp_tensor *bmvp_slice(bmvp_ctx *c, bmvp_tensor *x, int axis, int64_t start, int64_t length)
{
    int64_t d[BMVP_MAX_DIMS];
    bmvp_tensor *y;
    if (!x || bmvp_failed(c)) return NULL;
    if (axis < 0 || axis >= x->rank || start < 0 || length < 1 || start >= x->dim[axis] ||
        length > x->dim[axis] - start)
        return bmvpi_bad_shapes(c, "slice", "x", &x, "%lld from %lld along axis %d does not lie in it",
                                (long long)length, (long long)start, axis);
    memcpy(d, x->dim, sizeof d);
    d[axis] = length;
    y = bmvpi_node(c, BMVP_OP_SLICE, x->rank, d, 1, &x);
    if (y) {
        y->args.slice.axis = axis;
        y->args.slice.start = start;
    }
    return bmvpi_run(c, y);
}
static void bmvpi_slice_cpu_forward(bmvp_ctx *c, bmvp_tensor *y)
{
    const bmvp_tensor *x = y->src[0];
    bmvpi_box_out(c, x, y, x->x, y->x, bmvpi_axis_shift(x, y->args.slice.axis, y->args.slice.start), 0);
}
static void bmvpi_slice_cpu_backward(bmvp_ctx *c, bmvp_tensor *y)
{
    float *gx = bmvpi_grad_add(c, y->src[0]);
    if (gx)
        bmvpi_box_in(c, y->src[0], y, y->g, gx, bmvpi_axis_shift(y->src[0], y->args.slice.axis, y->args.slice.start),
                     1);
}
#define bmvpi_slice_cpu_workspace NULL
static bmvp_tensor *bmvpi_slice_sample(bmvp_ctx *c, int variant)
{
    const int64_t d[3] = { 3, 4, 5 };
    return variant < 3 ? bmvp_slice(c, bmvp_leaf(c, 3, d, NULL), variant, 1, 2) : NULL;
}

/* >>op pad: zeros around x --------------------------------------------------------------------------------------------
   Backward cuts x's part out of g. torch pad(mode = constant). */
BMVP_API bmvp_tensor *bmvp_pad(bmvp_ctx *c, bmvp_tensor *x, const int64_t *low, const int64_t *high)
{
    const int64_t most = INT64_MAX / 8;
    int64_t d[BMVP_MAX_DIMS];
    bmvp_tensor *y;
    char at[128];
    int i;
    if (!x || bmvp_failed(c)) return NULL;
    for (i = 0; i < x->rank; ++i) {
        if (low[i] < 0 || high[i] < 0 || low[i] > most || high[i] > most)
            return (bmvp_tensor *)bmvp_fail(c, BMVP_E_ARG, "pad: the numbers of zeros around %s must not be negative",
                                            bmvpi_shape(x, at, sizeof at));
        d[i] = x->dim[i] + low[i] + high[i];
    }
    y = bmvpi_node(c, BMVP_OP_PAD, x->rank, d, 1, &x);
    for (i = 0; y && i < x->rank; ++i) y->args.pad.low[i] = low[i];
    return bmvpi_run(c, y);
}
static int64_t bmvpi_pad_shift(const bmvp_tensor *y)
{
    int64_t s = 0;
    int i;
    for (i = 0; i < y->rank; ++i) s += bmvpi_axis_shift(y, i, y->args.pad.low[i]);
    return s;
}
static void bmvpi_pad_cpu_forward(bmvp_ctx *c, bmvp_tensor *y)
{
    memset(y->x, 0, (size_t)y->numel * sizeof(float));
    bmvpi_box_in(c, y, y->src[0], y->src[0]->x, y->x, bmvpi_pad_shift(y), 0);
}
static void bmvpi_pad_cpu_backward(bmvp_ctx *c, bmvp_tensor *y)
{
    int add;
    float *gx = bmvpi_grad(c, y->src[0], &add);
    if (gx) bmvpi_box_out(c, y, y->src[0], y->g, gx, bmvpi_pad_shift(y), add);
}
#define bmvpi_pad_cpu_workspace NULL
static bmvp_tensor *bmvpi_pad_sample(bmvp_ctx *c, int variant)
{
    const int64_t d[3] = { 2, 3, 4 }, low[3] = { 1, 0, 2 }, high[3] = { 0, 3, 1 };
    return variant == 0 ? bmvp_pad(c, bmvp_leaf(c, 3, d, NULL), low, high) : NULL;
}

/* >>op concat: tensors one after the other along an axis --------------------------------------------------------------
   Backward cuts g into the parts. torch cat. */
BMVP_API bmvp_tensor *bmvp_concat(bmvp_ctx *c, int n, bmvp_tensor *const *x, int axis)
{
    int64_t d[BMVP_MAX_DIMS];
    bmvp_tensor *pair[2], *y;
    char at[128];
    int i, k, fits;
    if (bmvp_failed(c)) return NULL;
    if (n < 1 || n > BMVP_MAX_SRC)
        return (bmvp_tensor *)bmvp_fail(c, BMVP_E_ARG, "concat: takes 1 to %d tensors", BMVP_MAX_SRC);
    for (i = 0; i < n; ++i) if (!x[i]) return NULL;
    if (axis < 0 || axis >= x[0]->rank)
        return (bmvp_tensor *)bmvp_fail(c, BMVP_E_ARG, "concat: %s has no axis %d", bmvpi_shape(x[0], at, sizeof at),
                                        axis);
    memcpy(d, x[0]->dim, sizeof d);
    for (i = 1; i < n; ++i) {
        fits = x[i]->rank == x[0]->rank && x[i]->dim[axis] <= INT64_MAX - d[axis];
        for (k = 0; fits && k < x[0]->rank; ++k) fits = k == axis || x[i]->dim[k] == d[k];
        pair[0] = x[0], pair[1] = x[i];
        if (!fits) return bmvpi_bad_shapes(c, "concat", "first other", pair, "they may differ only in axis %d", axis);
        d[axis] += x[i]->dim[axis];
    }
    y = bmvpi_node(c, BMVP_OP_CONCAT, x[0]->rank, d, n, x);
    if (y) y->args.concat.axis = axis;
    return bmvpi_run(c, y);
}
static void bmvpi_concat_cpu_forward(bmvp_ctx *c, bmvp_tensor *y)
{
    int64_t start = 0;
    int i;
    for (i = 0; i < y->n_src; start += y->src[i++]->dim[y->args.concat.axis])
        bmvpi_box_in(c, y, y->src[i], y->src[i]->x, y->x, bmvpi_axis_shift(y, y->args.concat.axis, start), 0);
}
static void bmvpi_concat_cpu_backward(bmvp_ctx *c, bmvp_tensor *y)
{
    int64_t start = 0;
    int i, add;
    for (i = 0; i < y->n_src; start += y->src[i++]->dim[y->args.concat.axis]) {
        float *g = bmvpi_grad(c, y->src[i], &add);
        if (g) bmvpi_box_out(c, y, y->src[i], y->g, g, bmvpi_axis_shift(y, y->args.concat.axis, start), add);
    }
}
#define bmvpi_concat_cpu_workspace NULL
static bmvp_tensor *bmvpi_concat_sample(bmvp_ctx *c, int variant)
{
    const int64_t a[3] = { 2, 3, 4 };
    int64_t b[3] = { 2, 3, 4 };
    bmvp_tensor *x[3];
    if (variant > 2) return NULL;
    b[variant] = 1;
    x[0] = bmvp_leaf(c, 3, a, NULL);
    x[1] = bmvp_leaf(c, 3, b, NULL);
    x[2] = x[0];
    return bmvp_concat(c, 3, x, variant);
}

/* >>op upsample_nearest: y[n, d, h, w, c] = x[n, d / f, h / f, w / f, c] ----------------------------------------------
   Backward sums the f^3 copies in fixed order. torch interpolate(mode = nearest) by a whole factor. */
BMVP_API bmvp_tensor *bmvp_upsample_nearest(bmvp_ctx *c, bmvp_tensor *x, int factor)
{
    int64_t d[5];
    bmvp_tensor *y;
    int i;
    if (!x || bmvp_failed(c)) return NULL;
    if (x->rank != 5 || factor < 1)
        return bmvpi_bad_shapes(c, "upsample_nearest", "x", &x, "it must be (N,D,H,W,C), the factor (%d) at least 1",
                                factor);
    for (i = 0; i < 5; ++i) d[i] = i >= 1 && i <= 3 ? bmvpi_mul_size(x->dim[i], factor) : x->dim[i];
    y = bmvpi_node(c, BMVP_OP_UPSAMPLE_NEAREST, 5, d, 1, &x);
    if (y) y->args.upsample_nearest.factor = factor;
    return bmvpi_run(c, y);
}
static void bmvpi_upsample_nearest_cpu_forward(bmvp_ctx *c, bmvp_tensor *y)
{
    const bmvp_tensor *x = y->src[0];
    const int64_t f = y->args.upsample_nearest.factor;
    int64_t xs[5], dim[8], from[8], to[8];
    int i, k = 0;
    bmvpi_strides(5, x->dim, xs);
    for (i = 0; i < 5; ++i) { /* axes of y, with every upsampled one split into (place, copy) */
        dim[k] = x->dim[i];
        from[k++] = xs[i];
        if (i < 1 || i > 3) continue;
        dim[k] = f;
        from[k++] = 0;
    }
    bmvpi_strides(8, dim, to);
    bmvpi_strided_copy(c, 8, dim, x->x, from, y->x, to, 0);
}
static void bmvpi_upsample_nearest_cpu_backward(bmvp_ctx *c, bmvp_tensor *y)
{
    const bmvp_tensor *x = y->src[0];
    const int64_t f = y->args.upsample_nearest.factor;
    int64_t xs[5], ys[5], from[5], i;
    int add;
    float *gx = bmvpi_grad(c, y->src[0], &add);
    if (!gx) return;
    bmvpi_strides(5, x->dim, xs);
    bmvpi_strides(5, y->dim, ys);
    for (i = 0; i < 5; ++i) from[i] = i >= 1 && i <= 3 ? ys[i] * f : ys[i];
    for (i = 0; i < f * f * f; ++i)
        bmvpi_strided_copy(c, 5, x->dim, y->g + i / (f * f) * ys[1] + i / f % f * ys[2] + i % f * ys[3], from, gx, xs,
                           add || i > 0);
}
#define bmvpi_upsample_nearest_cpu_workspace NULL
static bmvp_tensor *bmvpi_upsample_nearest_sample(bmvp_ctx *c, int variant)
{
    const int64_t d[5] = { 2, 1, 2, 3, 3 };
    return variant < 2 ? bmvp_upsample_nearest(c, bmvp_leaf(c, 5, d, NULL), variant + 2) : NULL;
}

/* >>op upsample_trilinear: linear interpolation along D, H and W by a whole factor ------------------------------------
   One axis after the other, D first: place j of n f reads x at j (n - 1) / (n f - 1)
   with aligned corners, else at (j + 1/2) / f - 1/2, not below 0; the neighbour beyond the end is the last. Backward is
   the transpose, axis by axis; each input row gathers its outputs in order. torch interpolate(mode = trilinear). */
BMVP_API bmvp_tensor *bmvp_upsample_trilinear(bmvp_ctx *c, bmvp_tensor *x, int factor, int align_corners)
{
    int64_t d[5];
    bmvp_tensor *y;
    int i;
    if (!x || bmvp_failed(c)) return NULL;
    if (x->rank != 5 || factor < 1)
        return bmvpi_bad_shapes(c, "upsample_trilinear", "x", &x, "it must be (N,D,H,W,C), the factor (%d) at least 1",
                                factor);
    for (i = 0; i < 5; ++i) d[i] = i >= 1 && i <= 3 ? bmvpi_mul_size(x->dim[i], factor) : x->dim[i];
    y = bmvpi_node(c, BMVP_OP_UPSAMPLE_TRILINEAR, 5, d, 1, &x);
    if (!y) return NULL;
    y->args.upsample_trilinear.factor = factor;
    y->args.upsample_trilinear.align_corners = align_corners != 0;
    return bmvpi_run(c, y);
}

typedef struct bmvpi_stretch { /* one axis: (outer, n, inner) <-> (outer, n f, inner) */
    const float *from;
    float *to;
    int64_t n, f, inner, rows, grain; /* rows of `to` */
    int corners, add;
} bmvpi_stretch;

/* Place j of the longer axis lies between i and i + 1 (or at the last i); returns the weight of the latter. */
static double bmvpi_stretch_place(const bmvpi_stretch *k, int64_t j, int64_t *i)
{
    const int64_t m = k->n * k->f;
    double at = k->corners ? (m > 1 ? (double)j * (double)(k->n - 1) / (double)(m - 1) : 0.0)
                           : ((double)j + 0.5) / (double)k->f - 0.5;
    if (at < 0) at = 0;
    *i = bmvpi_min((int64_t)at, k->n - 1);
    return at - (double)*i;
}
BMVPI_HOT static void bmvpi_stretch_task(void *arg, int64_t task, int worker)
{
    const bmvpi_stretch *k = (const bmvpi_stretch *)arg;
    const int64_t m = k->n * k->f, end = bmvpi_min(k->rows, (task + 1) * k->grain);
    int64_t row, i, v;
    (void)worker;
    for (row = task * k->grain; row < end; ++row) {
        const float w = (float)bmvpi_stretch_place(k, row % m, &i);
        const float *a = k->from + (row / m * k->n + i) * k->inner, *b = i + 1 < k->n ? a + k->inner : a;
        float *BMVP_RESTRICT y = k->to + row * k->inner;
        for (v = 0; v < k->inner; ++v) y[v] = (1.0f - w) * a[v] + w * b[v];
    }
}
/* The outputs that read input i are the places from just above i - 1 to just below i + 1. */
BMVPI_HOT static void bmvpi_stretch_back_task(void *arg, int64_t task, int worker)
{
    const bmvpi_stretch *k = (const bmvpi_stretch *)arg;
    const int64_t m = k->n * k->f, end = bmvpi_min(k->rows, (task + 1) * k->grain);
    int64_t row, j, at, v;
    (void)worker;
    for (row = task * k->grain; row < end; ++row) {
        const int64_t i = row % k->n;
        float *BMVP_RESTRICT y = k->to + row * k->inner;
        if (!k->add) for (v = 0; v < k->inner; ++v) y[v] = 0;
        for (j = bmvpi_max(0, (i - 1) * k->f - k->f); j < bmvpi_min(m, (i + 2) * k->f + k->f); ++j) {
            const double w = bmvpi_stretch_place(k, j, &at);
            double share = at == i ? 1.0 - w : at + 1 == i ? w : 0.0;
            const float *g = k->from + (row / k->n * m + j) * k->inner;
            if (at == i && i == k->n - 1) share = 1.0; /* both neighbours are the last */
            if (share == 0.0) continue;
            for (v = 0; v < k->inner; ++v) y[v] += (float)share * g[v];
        }
    }
}
/* Axis `axis` (1, 2, 3) of the chain: axes before it are long already, those after it are not. */
static void bmvpi_stretch_run(bmvp_ctx *c, const bmvp_tensor *y, int axis, const float *from, float *to, int backward,
                              int add)
{
    const bmvp_tensor *x = y->src[0];
    int64_t outer = x->dim[0];
    bmvpi_stretch k;
    int i;
    k.f = y->args.upsample_trilinear.factor;
    k.corners = y->args.upsample_trilinear.align_corners;
    k.n = x->dim[axis];
    k.inner = x->dim[4];
    for (i = 1; i < axis; ++i) outer *= y->dim[i];
    for (i = axis + 1; i < 4; ++i) k.inner *= x->dim[i];
    k.rows = outer * (backward ? k.n : k.n * k.f);
    k.grain = bmvpi_max(1, BMVPI_GRAIN / k.inner);
    k.from = from;
    k.to = to;
    k.add = add;
    bmvp_parallel(c, bmvpi_ceil_div(k.rows, k.grain), backward ? bmvpi_stretch_back_task : bmvpi_stretch_task, &k);
}
static void bmvpi_upsample_trilinear_cpu_forward(bmvp_ctx *c, bmvp_tensor *y)
{
    const bmvp_tensor *x = y->src[0];
    float *d = bmvpi_workspace(c), *h = d + x->numel * y->args.upsample_trilinear.factor;
    bmvpi_stretch_run(c, y, 1, x->x, d, 0, 0);
    bmvpi_stretch_run(c, y, 2, d, h, 0, 0);
    bmvpi_stretch_run(c, y, 3, h, y->x, 0, 0);
}
static void bmvpi_upsample_trilinear_cpu_backward(bmvp_ctx *c, bmvp_tensor *y)
{
    const bmvp_tensor *x = y->src[0];
    int add;
    float *gx = bmvpi_grad(c, y->src[0], &add), *d, *h;
    if (!gx) return;
    d = bmvpi_workspace(c), h = d + x->numel * y->args.upsample_trilinear.factor;
    bmvpi_stretch_run(c, y, 3, y->g, h, 1, 0);
    bmvpi_stretch_run(c, y, 2, h, d, 1, 0);
    bmvpi_stretch_run(c, y, 1, d, gx, 1, add);
}
static int64_t bmvpi_upsample_trilinear_cpu_workspace(const bmvp_ctx *c, const bmvp_tensor *y, int backward)
{
    (void)c;
    (void)backward;
    return y->src[0]->numel * y->args.upsample_trilinear.factor * (1 + y->args.upsample_trilinear.factor);
}
static bmvp_tensor *bmvpi_upsample_trilinear_sample(bmvp_ctx *c, int variant)
{
    const int64_t d[5] = { 2, 1, 2, 3, 3 };
    return variant < 4 ? bmvp_upsample_trilinear(c, bmvp_leaf(c, 5, d, NULL), 2 + variant / 2, variant % 2) : NULL;
}

/* >>op maxpool3d: y[n, d, h, w, c] = max over i, j, l < k of x[n, k d + i, k h + j, k w + l, c] -----------------------
   Backward reads x and looks for the first maximum again, in the order of i, j, l: dx = g there, 0 elsewhere. A
   task owns whole planes of blocks, so that no element is written twice. torch max_pool3d. */
BMVP_API bmvp_tensor *bmvp_maxpool3d(bmvp_ctx *c, bmvp_tensor *x, int kernel)
{
    int64_t d[5];
    bmvp_tensor *y;
    int i, ok;
    if (!x || bmvp_failed(c)) return NULL;
    ok = x->rank == 5 && kernel >= 1;
    for (i = 0; i < 5 && ok; ++i) {
        d[i] = i >= 1 && i <= 3 ? x->dim[i] / kernel : x->dim[i];
        ok = d[i] >= 1;
    }
    if (!ok)
        return bmvpi_bad_shapes(c, "maxpool3d", "x", &x, "it must be (N,D,H,W,C) with at least one block of %d^3",
                                kernel);
    y = bmvpi_node(c, BMVP_OP_MAXPOOL3D, 5, d, 1, &x);
    if (y) y->args.maxpool3d.kernel = kernel;
    return bmvpi_run(c, y);
}

typedef struct bmvpi_maxpool {
    const bmvp_tensor *x, *y;
    float *dx;
    int64_t k, row, plane, grain; /* floats of a row and of a plane of x; rows of blocks of a task */
    int add;
} bmvpi_maxpool;

/* First float of x in block row `row`, which counts over n, d and h */
static int64_t bmvpi_maxpool_row(const bmvpi_maxpool *p, int64_t row)
{
    const int64_t h = p->y->dim[2], d = p->y->dim[1];
    return ((row / h / d * p->x->dim[1] + row / h % d * p->k) * p->x->dim[2] + row % h * p->k) * p->row;
}
BMVPI_HOT static void bmvpi_maxpool_task(void *arg, int64_t task, int worker)
{
    const bmvpi_maxpool *p = (const bmvpi_maxpool *)arg;
    const int64_t c = p->y->dim[4], w = p->y->dim[3], k = p->k,
                  end = bmvpi_min(p->y->numel / (w * c), (task + 1) * p->grain);
    int64_t row, at, t, i;
    (void)worker;
    for (row = task * p->grain; row < end; ++row)
        for (at = 0; at < w; ++at) {
            const float *from = p->x->x + bmvpi_maxpool_row(p, row) + at * k * c;
            float *BMVP_RESTRICT y = p->y->x + (row * w + at) * c;
            for (i = 0; i < c; ++i) y[i] = from[i];
            for (t = 1; t < k * k * k; ++t) {
                const float *x = from + t / (k * k) * p->plane + t / k % k * p->row + t % k * c;
                for (i = 0; i < c; ++i) y[i] = y[i] >= x[i] || y[i] != y[i] ? y[i] : x[i];
            }
        }
}
BMVPI_HOT static void bmvpi_maxpool_back_task(void *arg, int64_t task, int worker)
{
    const bmvpi_maxpool *p = (const bmvpi_maxpool *)arg;
    const int64_t c = p->y->dim[4], w = p->y->dim[3], k = p->k,
                  end = bmvpi_min(p->y->numel / (w * c), (task + 1) * p->grain);
    int64_t row, at, t, i;
    (void)worker;
    for (row = task * p->grain; row < end; ++row)
        for (at = 0; at < w; ++at) {
            const int64_t first = bmvpi_maxpool_row(p, row) + at * k * c;
            const float *g = p->y->g + (row * w + at) * c;
            for (i = 0; i < c; ++i) {
                int64_t best = first + i;
                for (t = 0; t < k * k * k; ++t) {
                    const int64_t j = first + t / (k * k) * p->plane + t / k % k * p->row + t % k * c + i;
                    const float v = p->x->x[j], most = p->x->x[best];
                    if (!(most >= v || most != most)) best = j;
                    if (!p->add) p->dx[j] = 0;
                }
                p->dx[best] += g[i];
            }
        }
}
static bmvpi_maxpool bmvpi_maxpool_of(const bmvp_tensor *y)
{
    bmvpi_maxpool p;
    memset(&p, 0, sizeof p);
    p.x = y->src[0];
    p.y = y;
    p.k = y->args.maxpool3d.kernel;
    p.row = p.x->dim[3] * p.x->dim[4];
    p.plane = p.x->dim[2] * p.row;
    p.grain = bmvpi_max(1, BMVPI_GRAIN / (p.row * p.k * p.k));
    return p;
}
static void bmvpi_maxpool3d_cpu_forward(bmvp_ctx *c, bmvp_tensor *y)
{
    bmvpi_maxpool p = bmvpi_maxpool_of(y);
    bmvp_parallel(c, bmvpi_ceil_div(y->numel / (y->dim[3] * y->dim[4]), p.grain), bmvpi_maxpool_task, &p);
}
static void bmvpi_maxpool3d_cpu_backward(bmvp_ctx *c, bmvp_tensor *y)
{
    bmvpi_maxpool p = bmvpi_maxpool_of(y);
    p.dx = bmvpi_grad(c, y->src[0], &p.add);
    if (!p.dx) return;
    if (!p.add && y->numel * p.k * p.k * p.k != p.x->numel) { /* what no block holds */
        memset(p.dx, 0, (size_t)p.x->numel * sizeof *p.dx);
        p.add = 1;
    }
    bmvp_parallel(c, bmvpi_ceil_div(y->numel / (y->dim[3] * y->dim[4]), p.grain), bmvpi_maxpool_back_task, &p);
}
#define bmvpi_maxpool3d_cpu_workspace NULL
static bmvp_tensor *bmvpi_maxpool3d_sample(bmvp_ctx *c, int variant)
{
    const int64_t d[5] = { 1, 2, 4, 4, 3 }, odd[5] = { 1, 3, 2, 5, 2 };
    if (variant > 2) return NULL;
    return bmvp_maxpool3d(c, bmvp_leaf(c, 5, variant == 1 ? odd : d, NULL), variant == 2 ? 1 : 2);
}

/* >>op space_to_depth: every block of b^3 voxels becomes the channels of one ------------------------------------------
   (N,D,H,W,C) -> (N,D/b,H/b,W/b, b b b C), voxels in (z,y,x) order before C. A permutation: backward is
   its inverse. */
BMVP_API bmvp_tensor *bmvp_space_to_depth(bmvp_ctx *c, bmvp_tensor *x, int block)
{
    int64_t d[5], i;
    bmvp_tensor *y;
    if (!x || bmvp_failed(c)) return NULL;
    if (x->rank != 5 || block < 1 || x->dim[1] % block || x->dim[2] % block || x->dim[3] % block)
        return bmvpi_bad_shapes(c, "space_to_depth", "x", &x, "it must be (N,D,H,W,C) with D, H, W divisible by %d",
                                block);
    for (i = 0; i < 5; ++i) d[i] = i >= 1 && i <= 3 ? x->dim[i] / block : x->dim[i];
    d[4] *= x->numel / (d[0] * d[1] * d[2] * d[3] * d[4]);
    y = bmvpi_node(c, BMVP_OP_SPACE_TO_DEPTH, 5, d, 1, &x);
    if (y) y->args.space_to_depth.block = block;
    return bmvpi_run(c, y);
}
/* The axes of y as (N, D/b, H/b, W/b, z, y, x, C), and x's and y's strides along them */
static void bmvpi_space_to_depth_axes(const bmvp_tensor *y, int64_t dim[8], int64_t from[8], int64_t to[8])
{
    const bmvp_tensor *x = y->src[0];
    const int64_t b = y->args.space_to_depth.block;
    int64_t xs[5];
    int i;
    bmvpi_strides(5, x->dim, xs);
    for (i = 0; i < 4; ++i) {
        dim[i] = y->dim[i];
        from[i] = i ? xs[i] * b : xs[i];
        dim[i + 4] = i < 3 ? b : x->dim[4];
        from[i + 4] = xs[i + 1];
    }
    bmvpi_strides(8, dim, to);
}
static void bmvpi_space_to_depth_cpu_forward(bmvp_ctx *c, bmvp_tensor *y)
{
    int64_t dim[8], from[8], to[8];
    bmvpi_space_to_depth_axes(y, dim, from, to);
    bmvpi_strided_copy(c, 8, dim, y->src[0]->x, from, y->x, to, 0);
}
static void bmvpi_space_to_depth_cpu_backward(bmvp_ctx *c, bmvp_tensor *y)
{
    int64_t dim[8], from[8], to[8];
    int add;
    float *gx = bmvpi_grad(c, y->src[0], &add);
    if (!gx) return;
    bmvpi_space_to_depth_axes(y, dim, from, to);
    bmvpi_strided_copy(c, 8, dim, y->g, to, gx, from, add);
}
#define bmvpi_space_to_depth_cpu_workspace NULL
static bmvp_tensor *bmvpi_space_to_depth_sample(bmvp_ctx *c, int variant)
{
    const int64_t d[5] = { 2, 2, 4, 6, 3 };
    return variant == 0 ? bmvp_space_to_depth(c, bmvp_leaf(c, 5, d, NULL), 2) : NULL;
}

/* >>op box_sum3d: y = sum of x over a cube of size^3 voxels around each, zeros outside --------------------------------
   One axis after the other, D first: 3 size - 3 additions a voxel. A task sums shifted copies of the array into a piece
   of it that stays in L1. Backward is the same of g. torch conv3d(weight = ones, groups = C). */
typedef struct bmvpi_cube {
    const float *x;
    float *y;
    int64_t run, inner, radius, chunks; /* run: elements of a whole axis; inner: of one place of it */
    int add;
} bmvpi_cube;
enum { BMVPI_CUBE_PIECE = 4096 };
BMVPI_HOT static void bmvpi_cube_task(void *arg, int64_t task, int worker)
{
    const bmvpi_cube *b = (const bmvpi_cube *)arg;
    const int64_t first = task % b->chunks * BMVPI_CUBE_PIECE, last = bmvpi_min(b->run, first + BMVPI_CUBE_PIECE);
    const float *x = b->x + task / b->chunks * b->run;
    float *BMVP_RESTRICT y = b->y + task / b->chunks * b->run;
    int64_t i, r;
    (void)worker;
    if (!b->add) memset(y + first, 0, (size_t)(last - first) * sizeof(float));
    for (r = -b->radius; r <= b->radius; ++r) {
        const int64_t shift = r * b->inner, lo = bmvpi_max(first, -shift), hi = bmvpi_min(last, b->run - shift);
        for (i = lo; i < hi; ++i) y[i] += x[i + shift];
    }
}
static void bmvpi_cube_axis(bmvp_ctx *c, const bmvp_tensor *t, int axis, const float *x, float *y, int add)
{
    bmvpi_cube b;
    int i;
    b.x = x;
    b.y = y;
    b.add = add;
    b.radius = t->args.box_sum3d.size / 2;
    b.inner = 1;
    for (i = axis + 1; i < 5; ++i) b.inner *= t->dim[i];
    b.run = b.inner * t->dim[axis];
    b.chunks = bmvpi_ceil_div(b.run, BMVPI_CUBE_PIECE);
    bmvp_parallel(c, t->numel / b.run * b.chunks, bmvpi_cube_task, &b);
}
BMVP_API bmvp_tensor *bmvp_box_sum3d(bmvp_ctx *c, bmvp_tensor *x, int size)
{
    bmvp_tensor *y;
    if (!x || bmvp_failed(c)) return NULL;
    if (x->rank != 5 || size < 1 || size % 2 == 0)
        return bmvpi_bad_shapes(c, "box_sum3d", "x", &x, "it must be (N,D,H,W,C), the size (%d) odd", size);
    y = bmvpi_node(c, BMVP_OP_BOX_SUM3D, 5, x->dim, 1, &x);
    if (y) y->args.box_sum3d.size = size;
    return bmvpi_run(c, y);
}
static void bmvpi_box_sum3d_cpu_forward(bmvp_ctx *c, bmvp_tensor *y)
{
    float *w = bmvpi_workspace(c);
    bmvpi_cube_axis(c, y, 1, y->src[0]->x, y->x, 0);
    bmvpi_cube_axis(c, y, 2, y->x, w, 0);
    bmvpi_cube_axis(c, y, 3, w, y->x, 0);
}
static void bmvpi_box_sum3d_cpu_backward(bmvp_ctx *c, bmvp_tensor *y)
{
    float *w = bmvpi_workspace(c);
    int add;
    float *gx = bmvpi_grad(c, y->src[0], &add);
    if (!gx) return;
    bmvpi_cube_axis(c, y, 1, y->g, w, 0);
    bmvpi_cube_axis(c, y, 2, w, w + y->numel, 0);
    bmvpi_cube_axis(c, y, 3, w + y->numel, gx, add);
}
static int64_t bmvpi_box_sum3d_cpu_workspace(const bmvp_ctx *c, const bmvp_tensor *y, int backward)
{
    (void)c;
    return backward ? 2 * y->numel : y->numel;
}
static bmvp_tensor *bmvpi_box_sum3d_sample(bmvp_ctx *c, int variant)
{
    const int64_t d[5] = { 2, 2, 3, 4, 3 };
    return variant < 3 ? bmvp_box_sum3d(c, bmvp_leaf(c, 5, d, NULL), 2 * variant + 1) : NULL;
}

/* >>op grid_sample3d: y = x at positions between its voxels, linear, zeros outside ------------------------------------
   src x (N,D,H,W,C), position (N,D',H',W',3). A position lies in the cell between floor and floor + 1 along each axis.
   Backward reads both: dposition = sum over C of g times the slope of the cell there; dx = g spread over the cell's
   corners. That scatter is cut by where it arrives: a task owns planes of x and takes from the lines of positions, in
   their order, what falls into them; of every line the lowest and highest place along D are found before. */
typedef struct bmvpi_sampling {
    const float *x, *at, *g;
    float *y, *gx, *gat, *range; /* range: of each line */
    int64_t dim[3], c, places, line, lines, slabs; /* of x; places, lines and tasks of one sample */
    int add;
} bmvpi_sampling;
enum { BMVPI_PLANES = 4 }; /* planes of a task */

static bmvpi_sampling bmvpi_sampling_of(const bmvp_tensor *y)
{
    const bmvp_tensor *x = y->src[0];
    bmvpi_sampling s;
    memset(&s, 0, sizeof s);
    memcpy(s.dim, x->dim + 1, sizeof s.dim);
    s.x = x->x;
    s.at = y->src[1]->x;
    s.g = y->g;
    s.y = y->x;
    s.c = y->dim[4];
    s.line = y->dim[3];
    s.lines = y->dim[1] * y->dim[2];
    s.places = s.lines * s.line;
    s.slabs = bmvpi_ceil_div(s.dim[0], BMVPI_PLANES);
    return s;
}
/* The cell of a position: its lower corner, and how far it lies from that. 0: no corner is inside. */
static int bmvpi_sampling_cell(const bmvpi_sampling *s, const float *at, int64_t *low, float *far)
{
    int i;
    for (i = 0; i < 3; ++i) {
        const float whole = floorf(at[i]);
        if (!(at[i] > -1.0f && at[i] < (float)s->dim[i])) return 0;
        low[i] = (int64_t)whole;
        far[i] = at[i] - whole;
    }
    return 1;
}
/* Corner k of 8: its voxel, or -1 outside; its share along each axis */
static int64_t bmvpi_sampling_corner(const bmvpi_sampling *s, int k, const int64_t *low, const float *far, float *share)
{
    int64_t voxel = 0;
    int i, inside = 1;
    for (i = 0; i < 3; ++i) {
        const int upper = k >> (2 - i) & 1;
        const int64_t v = low[i] + upper;
        inside = inside && v >= 0 && v < s->dim[i];
        share[i] = upper ? far[i] : 1.0f - far[i];
        voxel = voxel * s->dim[i] + v;
    }
    return inside ? voxel : -1;
}
static int bmvpi_sampling_is_nan(const float *at) { return at[0] != at[0] || at[1] != at[1] || at[2] != at[2]; }

/* The places of a task; returns x of their sample. */
enum { BMVPI_PLACES = 2048 };
static const float *bmvpi_sampling_piece(const bmvpi_sampling *s, int64_t task, int64_t *begin, int64_t *end)
{
    const int64_t tasks = bmvpi_ceil_div(s->places, BMVPI_PLACES), sample = task / tasks;
    *begin = sample * s->places + task % tasks * BMVPI_PLACES;
    *end = bmvpi_min(*begin + BMVPI_PLACES, (sample + 1) * s->places);
    return s->x + sample * s->dim[0] * s->dim[1] * s->dim[2] * s->c;
}
static void bmvpi_sampling_task(void *arg, int64_t task, int worker)
{
    const bmvpi_sampling *s = (const bmvpi_sampling *)arg;
    int64_t p, i, begin, end, low[3], voxel;
    const float *x = bmvpi_sampling_piece(s, task, &begin, &end);
    float far[3], share[3];
    int k;
    (void)worker;
    for (p = begin; p < end; ++p) {
        const float *at = s->at + 3 * p;
        float *y = s->y + p * s->c;
        for (i = 0; i < s->c; ++i) y[i] = bmvpi_sampling_is_nan(at) ? (float)NAN : 0.0f;
        if (!bmvpi_sampling_cell(s, at, low, far)) continue;
        for (k = 0; k < 8; ++k) {
            if ((voxel = bmvpi_sampling_corner(s, k, low, far, share)) < 0) continue;
            for (i = 0; i < s->c; ++i) y[i] += share[0] * share[1] * share[2] * x[voxel * s->c + i];
        }
    }
}
/* Gradients of the positions */
static void bmvpi_sampling_slope_task(void *arg, int64_t task, int worker)
{
    const bmvpi_sampling *s = (const bmvpi_sampling *)arg;
    int64_t p, i, begin, end, low[3], voxel;
    const float *x = bmvpi_sampling_piece(s, task, &begin, &end);
    float far[3], share[3];
    int k;
    (void)worker;
    for (p = begin; p < end; ++p) {
        const float *at = s->at + 3 * p, *g = s->g + p * s->c;
        float d[3] = { 0, 0, 0 }, dot;
        const int inside = bmvpi_sampling_cell(s, at, low, far);
        for (k = 0; inside && k < 8; ++k) {
            if ((voxel = bmvpi_sampling_corner(s, k, low, far, share)) < 0) continue;
            for (dot = 0, i = 0; i < s->c; ++i) dot += g[i] * x[voxel * s->c + i];
            d[0] += (k & 4 ? dot : -dot) * share[1] * share[2];
            d[1] += (k & 2 ? dot : -dot) * share[0] * share[2];
            d[2] += (k & 1 ? dot : -dot) * share[0] * share[1];
        }
        for (i = 0; i < 3; ++i)
            s->gat[3 * p + i] = (s->add ? s->gat[3 * p + i] : 0.0f) + (bmvpi_sampling_is_nan(at) ? (float)NAN : d[i]);
    }
}
/* Lowest and highest place along D of a line */
static void bmvpi_sampling_range_task(void *arg, int64_t task, int worker)
{
    const bmvpi_sampling *s = (const bmvpi_sampling *)arg;
    const float *at = s->at + 3 * task * s->line;
    float lo = FLT_MAX, hi = -FLT_MAX;
    int64_t i;
    (void)worker;
    for (i = 0; i < s->line; ++i) {
        lo = at[3 * i] < lo ? at[3 * i] : lo;
        hi = at[3 * i] > hi ? at[3 * i] : hi;
    }
    s->range[2 * task] = lo;
    s->range[2 * task + 1] = hi;
}
static void bmvpi_sampling_scatter_line(const bmvpi_sampling *s, int64_t first, int64_t from, int64_t to, float *gx)
{
    int64_t p, i, low[3], voxel;
    float far[3], share[3];
    int k;
    for (p = first; p < first + s->line; ++p) {
        if (!bmvpi_sampling_cell(s, s->at + 3 * p, low, far) || low[0] + 1 < from || low[0] >= to) continue;
        for (k = low[0] < from ? 4 : 0; k < (low[0] + 1 < to ? 8 : 4); ++k) {
            if ((voxel = bmvpi_sampling_corner(s, k, low, far, share)) < 0) continue;
            for (i = 0; i < s->c; ++i) gx[voxel * s->c + i] += share[0] * share[1] * share[2] * s->g[p * s->c + i];
        }
    }
}
static void bmvpi_sampling_scatter_task(void *arg, int64_t task, int worker)
{
    const bmvpi_sampling *s = (const bmvpi_sampling *)arg;
    const int64_t sample = task / s->slabs, from = task % s->slabs * BMVPI_PLANES;
    const int64_t to = bmvpi_min(s->dim[0], from + BMVPI_PLANES), plane = s->dim[1] * s->dim[2] * s->c;
    float *gx = s->gx + sample * s->dim[0] * plane;
    int64_t l;
    (void)worker;
    if (!s->add) memset(gx + from * plane, 0, (size_t)((to - from) * plane) * sizeof(float));
    for (l = sample * s->lines; l < (sample + 1) * s->lines; ++l)
        if (s->range[2 * l + 1] > (float)(from - 1) && s->range[2 * l] < (float)to)
            bmvpi_sampling_scatter_line(s, l * s->line, from, to, gx);
}
BMVP_API bmvp_tensor *bmvp_grid_sample3d(bmvp_ctx *c, bmvp_tensor *x, bmvp_tensor *position)
{
    bmvp_tensor *src[2] = { x, position };
    int64_t d[5];
    if (!x || !position || bmvp_failed(c)) return NULL;
    if (x->rank != 5 || position->rank != 5 || position->dim[4] != 3 || position->dim[0] != x->dim[0])
        return bmvpi_bad_shapes(c, "grid_sample3d", "x position", src, "they must be (N,D,H,W,C) and (N,D',H',W',3)");
    if (position->half)
        return (bmvp_tensor *)bmvp_fail(c, BMVP_E_UNSUPPORTED,
                                        "grid_sample3d: the positions, of %s, are bfloat16, which has 8 bits: too "
                                        "coarse for places; set precision to tf32 or fp32",
                                        bmvp_op_name(position->op));
    memcpy(d, position->dim, sizeof d);
    d[4] = x->dim[4];
    return bmvpi_run(c, bmvpi_node(c, BMVP_OP_GRID_SAMPLE3D, 5, d, 2, src));
}
static void bmvpi_grid_sample3d_cpu_forward(bmvp_ctx *c, bmvp_tensor *y)
{
    bmvpi_sampling s = bmvpi_sampling_of(y);
    bmvp_parallel(c, y->dim[0] * bmvpi_ceil_div(s.places, BMVPI_PLACES), bmvpi_sampling_task, &s);
}
static void bmvpi_grid_sample3d_cpu_backward(bmvp_ctx *c, bmvp_tensor *y)
{
    bmvpi_sampling s = bmvpi_sampling_of(y);
    s.gat = bmvpi_grad(c, y->src[1], &s.add);
    if (s.gat) bmvp_parallel(c, y->dim[0] * bmvpi_ceil_div(s.places, BMVPI_PLACES), bmvpi_sampling_slope_task, &s);
    s.gx = bmvpi_grad(c, y->src[0], &s.add);
    if (!s.gx) return;
    s.range = bmvpi_workspace(c);
    bmvp_parallel(c, y->dim[0] * s.lines, bmvpi_sampling_range_task, &s);
    bmvp_parallel(c, y->dim[0] * s.slabs, bmvpi_sampling_scatter_task, &s);
}
static int64_t bmvpi_grid_sample3d_cpu_workspace(const bmvp_ctx *c, const bmvp_tensor *y, int backward)
{
    (void)c;
    return backward && y->src[0]->wants_grad ? 2 * y->dim[0] * y->dim[1] * y->dim[2] : 0;
}
/* Positions that stay within their cells, some of which reach over the border or lie outside */
static bmvp_tensor *bmvpi_grid_sample3d_sample(bmvp_ctx *c, int variant)
{
    const int64_t xd[2][5] = { { 2, 3, 2, 4, 2 }, { 1, 6, 3, 2, 4 } }, pd[5] = { 2 - variant, 2, 3, 2, 3 };
    float cell[2 * 2 * 3 * 2 * 3];
    bmvp_tensor *x, *p;
    int64_t i, n;
    if (variant > 1) return NULL;
    n = bmvpi_numel(5, pd);
    for (i = 0; i < n; ++i) cell[i] = (float)(i * 5 % (xd[variant][1 + i % 3] + 1)) - 0.5f;
    cell[3] = 9.5f;
    x = bmvp_leaf(c, 5, xd[variant], NULL);
    p = bmvp_add(c, bmvp_scale(c, bmvp_leaf(c, 5, pd, NULL), 0.45, 0), bmvp_input(c, 5, pd, cell));
    return bmvp_grid_sample3d(c, x, p);
}

/* >>op gather_rows: y[i] = x[index[i]], whole rows of the last axis ---------------------------------------------------
   saved, as int32: the index (n); for backward, the places of y by the row of x that they took, in order: where those
   of each row begin (R + 1), and the places (n). dx[r] = sum of g over the places that took r. torch index_select. */
static int bmvpi_gather_rows_save(bmvp_ctx *c, float *saved, int64_t rows, int64_t n, const int32_t *index)
{
    const int64_t all = 2 * n + rows + 1;
    const int there = bmvp_on_host(c); /* then it is made where it stays */
    int32_t *list = (int32_t *)(there ? (void *)saved : bmvpi_alloc(c, all * (int64_t)sizeof *list)), *start, *place;
    int64_t i;
    if (!list) return 0;
    start = list + n;
    place = start + rows + 1;
    memset(list, 0, (size_t)all * sizeof *list);
    for (i = 0; i < n; ++i) ++start[(list[i] = index[i]) + 1];
    for (i = 0; i < rows; ++i) start[i + 1] += start[i];
    for (i = 0; i < n; ++i) place[start[index[i]]++] = (int32_t)i; /* start: now where the next row's begin */
    for (i = rows; i > 0; --i) start[i] = start[i - 1];
    start[0] = 0;
    if (there) return 1;
    bmvpi_values_write(c, saved, (const float *)(const void *)list, all); /* as they are */
    bmvpi_free(c, list);
    return !bmvp_failed(c);
}
BMVP_API bmvp_tensor *bmvp_gather_rows(bmvp_ctx *c, bmvp_tensor *x, int64_t n, const int32_t *index)
{
    bmvp_tensor *y;
    char at[128];
    int64_t d[2], rows, i;
    if (!x || bmvp_failed(c)) return NULL;
    d[0] = n, d[1] = bmvpi_last_dim(x), rows = x->numel / d[1];
    if (x->rank < 1 || n < 1 || n > INT32_MAX || rows > INT32_MAX)
        return bmvpi_bad_shapes(c, "gather_rows", "x", &x, "it must be (..., C), and at least one row taken (%lld)",
                                (long long)n);
    for (i = 0; i < n && !bmvp_is_plan(c); ++i)
        if (index[i] < 0 || index[i] >= rows)
            return (bmvp_tensor *)bmvp_fail(
                c, BMVP_E_ARG, "gather_rows: index[%lld] = %d is no row of x %s, which has %lld", (long long)i,
                (int)index[i], bmvpi_shape(x, at, sizeof at), (long long)rows);
    y = bmvpi_node(c, BMVP_OP_GATHER_ROWS, 2, d, 1, &x);
    if (!bmvpi_save(c, y, 2 * n + rows + 1)) return NULL;
    if (y->saved && !bmvpi_gather_rows_save(c, y->saved, rows, n, index)) return NULL;
    return bmvpi_run(c, y);
}
static void bmvpi_gather_rows_range(const bmvpi_map *m, int64_t lo, int64_t hi)
{
    int64_t r;
    for (r = lo; r < hi; ++r)
        memcpy(m->y + r * m->c, m->x + bmvpi_saved_int(m->saved, r) * m->c, (size_t)m->c * sizeof(float));
}
static void bmvpi_gather_rows_cpu_forward(bmvp_ctx *c, bmvp_tensor *y)
{
    bmvpi_map m = bmvpi_map_make(c, y->dim[0], y->dim[1]);
    m.x = y->src[0]->x;
    m.y = y->x;
    m.saved = y->saved;
    bmvpi_map_run(c, &m, bmvpi_gather_rows_range);
}
/* rows of x; saved: where each row's places begin; target: the places */
BMVPI_HOT static void bmvpi_gather_rows_back_range(const bmvpi_map *m, int64_t lo, int64_t hi)
{
    int64_t r, i, k;
    for (r = lo; r < hi; ++r) {
        float *BMVP_RESTRICT dx = m->dx + r * m->c;
        for (i = 0; !m->add && i < m->c; ++i) dx[i] = 0;
        for (k = bmvpi_saved_int(m->saved, r); k < bmvpi_saved_int(m->saved, r + 1); ++k) {
            const float *g = m->g + bmvpi_saved_int(m->target, k) * m->c;
            for (i = 0; i < m->c; ++i) dx[i] += g[i];
        }
    }
}
static void bmvpi_gather_rows_cpu_backward(bmvp_ctx *c, bmvp_tensor *y)
{
    const int64_t rows = y->src[0]->numel / y->dim[1];
    bmvpi_map m = bmvpi_map_make(c, rows, y->dim[1]);
    m.g = y->g;
    m.dx = bmvpi_grad(c, y->src[0], &m.add);
    if (!m.dx) return;
    m.saved = y->saved + y->dim[0];
    m.target = m.saved + rows + 1;
    bmvpi_map_run(c, &m, bmvpi_gather_rows_back_range);
}
#define bmvpi_gather_rows_cpu_workspace NULL
static bmvp_tensor *bmvpi_gather_rows_sample(bmvp_ctx *c, int variant)
{
    const int64_t d[2][3] = { { 1, 5, 3 }, { 2, 3, 8 } };
    const int32_t index[5] = { 4, 0, 4, 2, 4 };
    return variant < 2 ? bmvp_gather_rows(c, bmvp_leaf(c, 3, d[variant], NULL), 5 - variant, index) : NULL;
}

/* >>op where_rows: y[i] = mask[i] ? row : x[i], whole rows of the last axis -------------------------------------------
   src x (..., C), row (C). saved: the mask (int32). dx = g where the mask is 0, else 0; the row's gradient is the sum
   of g where it is set, in fixed order. */
BMVP_API bmvp_tensor *bmvp_where_rows(bmvp_ctx *c, bmvp_tensor *x, bmvp_tensor *row, const int32_t *mask)
{
    bmvp_tensor *src[2] = { x, row }, *y;
    if (!x || !row || bmvp_failed(c)) return NULL;
    if (!bmvpi_norm_fits(x, row))
        return bmvpi_bad_shapes(c, "where_rows", "x row", src, "they must be (..., C) and (C)");
    y = bmvpi_node(c, BMVP_OP_WHERE_ROWS, x->rank, x->dim, 2, src);
    if (!bmvpi_save(c, y, x->numel / row->numel)) return NULL;
    if (y->saved) bmvpi_values_write(c, y->saved, (const float *)(const void *)mask, x->numel / row->numel);
    return bmvpi_run(c, y);
}
static bmvpi_map bmvpi_where_rows_map(const bmvp_ctx *c, const bmvp_tensor *y)
{
    bmvpi_map m = bmvpi_map_make(c, y->numel / y->src[1]->numel, y->src[1]->numel);
    m.saved = y->saved;
    return m;
}
/* to: y from rows x or b (forward), or dx from rows g or nothing */
BMVPI_HOT static void bmvpi_where_rows_range(const bmvpi_map *m, int64_t lo, int64_t hi)
{
    int64_t r, i;
    for (r = lo; r < hi; ++r) {
        const int masked = bmvpi_saved_int(m->saved, r) != 0;
        const float *from = masked ? m->b : m->a + r * m->c;
        float *BMVP_RESTRICT to = m->to + r * m->c;
        for (i = 0; i < m->c; ++i) to[i] = (m->add ? to[i] : 0.0f) + (from ? from[i] : 0.0f);
    }
}
static void bmvpi_where_rows_cpu_forward(bmvp_ctx *c, bmvp_tensor *y)
{
    bmvpi_map m = bmvpi_where_rows_map(c, y);
    m.a = y->src[0]->x;
    m.b = y->src[1]->x;
    m.to = y->x;
    bmvpi_map_run(c, &m, bmvpi_where_rows_range);
}
/* saved: the mask; partials: sums of the rows where it is set */
BMVPI_HOT static void bmvpi_where_rows_sum_task(void *arg, int64_t task, int worker)
{
    const bmvpi_columns *k = (const bmvpi_columns *)arg;
    int64_t sample, n, r, i;
    const int64_t first = bmvpi_columns_range(k, task, &sample, &n);
    float *BMVP_RESTRICT sum = k->part + task * 2 * k->c;
    (void)worker;
    memset(sum, 0, (size_t)(2 * k->c) * sizeof(float));
    for (r = first; r < first + n; ++r)
        for (i = 0; i < k->c && bmvpi_saved_int(k->saved, r); ++i) sum[i] += k->a[r * k->c + i];
}
static void bmvpi_where_rows_cpu_backward(bmvp_ctx *c, bmvp_tensor *y)
{
    bmvpi_map m = bmvpi_where_rows_map(c, y);
    bmvpi_columns k = bmvpi_columns_make(1, m.n, m.c);
    int add;
    float *grow = bmvpi_grad(c, y->src[1], &add);
    int64_t i;
    m.a = y->g;
    m.to = bmvpi_grad(c, y->src[0], &m.add);
    if (m.to) bmvpi_map_run(c, &m, bmvpi_where_rows_range);
    if (grow) {
        double *sum = bmvpi_columns_attach(&k, bmvpi_workspace(c));
        k.a = y->g;
        k.saved = y->saved;
        bmvpi_columns_sums(c, &k, bmvpi_where_rows_sum_task, sum);
        for (i = 0; i < k.c; ++i) grow[i] = (add ? grow[i] : 0.0f) + (float)sum[i];
    }
}
static int64_t bmvpi_where_rows_cpu_workspace(const bmvp_ctx *c, const bmvp_tensor *y, int backward)
{
    const bmvpi_columns k = bmvpi_columns_make(1, y->numel / y->src[1]->numel, y->src[1]->numel);
    (void)c;
    return backward ? bmvpi_columns_workspace(&k) : 0;
}
static bmvp_tensor *bmvpi_where_rows_sample(bmvp_ctx *c, int variant)
{
    const int64_t d[2][3] = { { 2, 3, 5 }, { 1, 6, 8 } };
    const int32_t mask[6] = { 0, 1, 1, 0, 1, 0 };
    if (variant > 1) return NULL;
    return bmvp_where_rows(c, bmvp_leaf(c, 3, d[variant], NULL), bmvp_leaf(c, 1, d[variant] + 2, NULL), mask);
}

/* >>op sum: one number, the sum of all elements -------------------------------------------------------------------- */
BMVP_API bmvp_tensor *bmvp_sum(bmvp_ctx *c, bmvp_tensor *x)
{
    return bmvpi_run(c, bmvpi_to_number(c, BMVP_OP_SUM, 1, x, NULL));
}
static void bmvpi_sum_cpu_forward(bmvp_ctx *c, bmvp_tensor *y)
{
    bmvpi_map m = bmvpi_map_make(c, y->src[0]->numel, 1);
    m.a = y->src[0]->x;
    y->x[0] = (float)bmvpi_map_sum(c, &m, bmvpi_total_range);
}
BMVPI_HOT static void bmvpi_spread_range(const bmvpi_map *m, int64_t lo, int64_t hi)
{
    int64_t i;
    if (m->add) for (i = lo; i < hi; ++i) m->dx[i] += m->number;
    else for (i = lo; i < hi; ++i) m->dx[i] = m->number;
}
/* dx (+)= g times factor, everywhere */
static void bmvpi_spread(bmvp_ctx *c, const bmvp_tensor *y, double factor)
{
    bmvpi_map m = bmvpi_map_make(c, y->src[0]->numel, 1);
    m.dx = bmvpi_grad(c, y->src[0], &m.add);
    if (!m.dx) return;
    m.number = (float)((double)y->g[0] * factor);
    bmvpi_map_run(c, &m, bmvpi_spread_range);
}
static void bmvpi_sum_cpu_backward(bmvp_ctx *c, bmvp_tensor *y) { bmvpi_spread(c, y, 1.0); }
#define bmvpi_sum_cpu_workspace NULL
static bmvp_tensor *bmvpi_sum_sample(bmvp_ctx *c, int variant)
{
    const int64_t d[2] = { 3, 7 };
    return variant == 0 ? bmvp_sum(c, bmvp_leaf(c, 2, d, NULL)) : NULL;
}

/* >>op mean: one number, the mean of all elements ------------------------------------------------------------------ */
BMVP_API bmvp_tensor *bmvp_mean(bmvp_ctx *c, bmvp_tensor *x)
{
    return bmvpi_run(c, bmvpi_to_number(c, BMVP_OP_MEAN, 1, x, NULL));
}
static void bmvpi_mean_cpu_forward(bmvp_ctx *c, bmvp_tensor *y)
{
    bmvpi_map m = bmvpi_map_make(c, y->src[0]->numel, 1);
    m.a = y->src[0]->x;
    y->x[0] = (float)(bmvpi_map_sum(c, &m, bmvpi_total_range) / (double)y->src[0]->numel);
}
static void bmvpi_mean_cpu_backward(bmvp_ctx *c, bmvp_tensor *y) { bmvpi_spread(c, y, 1.0 / (double)y->src[0]->numel); }
#define bmvpi_mean_cpu_workspace NULL
static bmvp_tensor *bmvpi_mean_sample(bmvp_ctx *c, int variant)
{
    const int64_t d[2] = { 3, 7 };
    return variant == 0 ? bmvp_mean(c, bmvp_leaf(c, 2, d, NULL)) : NULL;
}

/* >>op global_pool: y[n, c] = mean of x[n, ..., c] --------------------------------------------------------------------
   Backward: dx = g / M everywhere, M the number of places. torch mean over the spatial axes. */
BMVP_API bmvp_tensor *bmvp_global_pool(bmvp_ctx *c, bmvp_tensor *x)
{
    int64_t d[2];
    if (!x || bmvp_failed(c)) return NULL;
    if (x->rank < 3) return bmvpi_bad_shapes(c, "global_pool", "x", &x, "it must be (N, ..., C) with axes between");
    d[0] = x->dim[0], d[1] = x->dim[x->rank - 1];
    return bmvpi_run(c, bmvpi_node(c, BMVP_OP_GLOBAL_POOL, 2, d, 1, &x));
}
static bmvpi_columns bmvpi_global_pool_columns(const bmvp_tensor *y)
{
    return bmvpi_columns_make(y->dim[0], y->src[0]->numel / y->numel, y->dim[1]);
}
static void bmvpi_global_pool_cpu_forward(bmvp_ctx *c, bmvp_tensor *y)
{
    bmvpi_columns k = bmvpi_global_pool_columns(y);
    double *sum = bmvpi_columns_attach(&k, bmvpi_workspace(c));
    int64_t i;
    k.a = y->src[0]->x;
    bmvpi_columns_sums(c, &k, bmvpi_columns_dots_task, sum);
    for (i = 0; i < y->numel; ++i) y->x[i] = (float)(sum[i] / (double)k.rows);
}
BMVPI_HOT static void bmvpi_columns_spread_task(void *arg, int64_t task, int worker)
{
    const bmvpi_columns *k = (const bmvpi_columns *)arg;
    int64_t sample, n, r, i;
    float *BMVP_RESTRICT dx = k->to + bmvpi_columns_range(k, task, &sample, &n) * k->c;
    const float *g = k->a + sample * k->c, share = 1.0f / (float)k->rows;
    (void)worker;
    for (r = 0; r < n; ++r, dx += k->c)
        for (i = 0; i < k->c; ++i) dx[i] = (k->add ? dx[i] : 0.0f) + g[i] * share;
}
static void bmvpi_global_pool_cpu_backward(bmvp_ctx *c, bmvp_tensor *y)
{
    bmvpi_columns k = bmvpi_global_pool_columns(y);
    k.a = y->g;
    k.to = bmvpi_grad(c, y->src[0], &k.add);
    if (k.to) bmvp_parallel(c, k.samples * k.chunks, bmvpi_columns_spread_task, &k);
}
static int64_t bmvpi_global_pool_cpu_workspace(const bmvp_ctx *c, const bmvp_tensor *y, int backward)
{
    const bmvpi_columns k = bmvpi_global_pool_columns(y);
    (void)c;
    return backward ? 0 : bmvpi_columns_workspace(&k);
}
static bmvp_tensor *bmvpi_global_pool_sample(bmvp_ctx *c, int variant)
{
    const int64_t d[5] = { 2, 1, 2, 3, 5 };
    return variant == 0 ? bmvp_global_pool(c, bmvp_leaf(c, 5, d, NULL)) : NULL;
}

/* >>op mse: one number, the mean of (a - b)^2 over all elements -------------------------------------------------------
   Backward reads a and b: da = 2 g (a - b) / n, db = -da. torch mse_loss. */
BMVP_API bmvp_tensor *bmvp_mse(bmvp_ctx *c, bmvp_tensor *a, bmvp_tensor *b)
{
    bmvp_tensor *src[2] = { a, b };
    if (a && b && !bmvpi_same_shape(a, b)) return bmvpi_bad_shapes(c, "mse", "a b", src, "they must have one shape");
    return bmvpi_run(c, bmvpi_to_number(c, BMVP_OP_MSE, 2, a, b));
}
static double bmvpi_dist_range(const bmvpi_map *m, int64_t lo, int64_t hi)
{
    return bmvpi_reduce_dist(m->a + lo, m->b + lo, hi - lo);
}
static void bmvpi_mse_cpu_forward(bmvp_ctx *c, bmvp_tensor *y)
{
    bmvpi_map m = bmvpi_map_make(c, y->src[0]->numel, 1);
    m.a = y->src[0]->x;
    m.b = y->src[1]->x;
    y->x[0] = (float)(bmvpi_map_sum(c, &m, bmvpi_dist_range) / (double)m.n);
}
BMVPI_HOT static void bmvpi_mse_back_range(const bmvpi_map *m, int64_t lo, int64_t hi)
{
    int64_t i;
    for (i = lo; i < hi; ++i) m->dx[i] = (m->add ? m->dx[i] : 0.0f) + m->factor * (m->a[i] - m->b[i]);
}
static void bmvpi_mse_cpu_backward(bmvp_ctx *c, bmvp_tensor *y)
{
    bmvpi_map m = bmvpi_map_make(c, y->src[0]->numel, 1);
    int i;
    for (i = 0; i < 2; ++i) {
        m.a = y->src[i]->x;
        m.b = y->src[1 - i]->x;
        m.dx = bmvpi_grad(c, y->src[i], &m.add);
        if (!m.dx) continue;
        m.factor = (float)(2.0 * (double)y->g[0] / (double)m.n);
        bmvpi_map_run(c, &m, bmvpi_mse_back_range);
    }
}
#define bmvpi_mse_cpu_workspace NULL
static bmvp_tensor *bmvpi_mse_sample(bmvp_ctx *c, int variant)
{
    const int64_t d[2] = { 3, 7 };
    return variant == 0 ? bmvp_mse(c, bmvp_leaf(c, 2, d, NULL), bmvp_leaf(c, 2, d, NULL)) : NULL;
}

/* >>op l1: one number, the mean of |a - b| over all elements ----------------------------------------------------------
   Backward reads a and b: da = g sign(a - b) / n, 0 where they are equal, db = -da. torch l1_loss. */
BMVP_API bmvp_tensor *bmvp_l1(bmvp_ctx *c, bmvp_tensor *a, bmvp_tensor *b)
{
    bmvp_tensor *src[2] = { a, b };
    if (a && b && !bmvpi_same_shape(a, b)) return bmvpi_bad_shapes(c, "l1", "a b", src, "they must have one shape");
    return bmvpi_run(c, bmvpi_to_number(c, BMVP_OP_L1, 2, a, b));
}
static double bmvpi_apart_range(const bmvpi_map *m, int64_t lo, int64_t hi)
{
    return bmvpi_reduce_apart(m->a + lo, m->b + lo, hi - lo);
}
static void bmvpi_l1_cpu_forward(bmvp_ctx *c, bmvp_tensor *y)
{
    bmvpi_map m = bmvpi_map_make(c, y->src[0]->numel, 1);
    m.a = y->src[0]->x;
    m.b = y->src[1]->x;
    y->x[0] = (float)(bmvpi_map_sum(c, &m, bmvpi_apart_range) / (double)m.n);
}
BMVPI_HOT static void bmvpi_l1_back_range(const bmvpi_map *m, int64_t lo, int64_t hi)
{
    int64_t i;
    for (i = lo; i < hi; ++i)
        m->dx[i] = (m->add ? m->dx[i] : 0.0f) + m->factor * (float)((m->a[i] > m->b[i]) - (m->a[i] < m->b[i]));
}
static void bmvpi_l1_cpu_backward(bmvp_ctx *c, bmvp_tensor *y)
{
    bmvpi_map m = bmvpi_map_make(c, y->src[0]->numel, 1);
    int i;
    for (i = 0; i < 2; ++i) {
        m.a = y->src[i]->x;
        m.b = y->src[1 - i]->x;
        m.dx = bmvpi_grad(c, y->src[i], &m.add);
        if (!m.dx) continue;
        m.factor = (float)((double)y->g[0] / (double)m.n);
        bmvpi_map_run(c, &m, bmvpi_l1_back_range);
    }
}
#define bmvpi_l1_cpu_workspace NULL
static bmvp_tensor *bmvpi_l1_sample(bmvp_ctx *c, int variant)
{
    const int64_t d[2] = { 2, 3 };
    return variant == 0 ? bmvp_l1(c, bmvp_leaf(c, 2, d, NULL), bmvp_leaf(c, 2, d, NULL)) : NULL;
}

/* >>op bce_logits: one number, the mean of max(x, 0) - x t + log(1 + exp(-|x|)) ---------------------------------------
   which is -(t log s + (1 - t) log(1 - s)) with s = sigmoid(x), without overflow. src x, t of one shape. Backward reads
   both: dx = g / n ((1 - t) sigmoid(x) - t sigmoid(-x)), which is s - t but does not cancel where the answer is right;
   none into t. torch binary_cross_entropy_with_logits. */
BMVP_API bmvp_tensor *bmvp_bce_logits(bmvp_ctx *c, bmvp_tensor *logits, bmvp_tensor *target)
{
    bmvp_tensor *src[2] = { logits, target };
    if (logits && target && !bmvpi_same_shape(logits, target))
        return bmvpi_bad_shapes(c, "bce_logits", "logits target", src, "they must have one shape");
    return bmvpi_run(c, bmvpi_to_number(c, BMVP_OP_BCE_LOGITS, 2, logits, target));
}
static double bmvpi_bce_range(const bmvpi_map *m, int64_t lo, int64_t hi)
{
    double sum = 0;
    int64_t i;
    for (i = lo; i < hi; ++i) {
        const float x = m->x[i];
        sum += (double)((x < 0.0f ? 0.0f : x) - x * m->target[i] + bmvpi_log1pf(bmvpi_expf(-fabsf(x))));
    }
    return sum;
}
static void bmvpi_bce_logits_cpu_forward(bmvp_ctx *c, bmvp_tensor *y)
{
    bmvpi_map m = bmvpi_map_make(c, y->src[0]->numel, 1);
    m.x = y->src[0]->x;
    m.target = y->src[1]->x;
    y->x[0] = (float)(bmvpi_map_sum(c, &m, bmvpi_bce_range) / (double)m.n);
}
static void bmvpi_bce_back_range(const bmvpi_map *m, int64_t lo, int64_t hi)
{
    int64_t i;
    for (i = lo; i < hi; ++i) {
        const float x = m->x[i], t = m->target[i], e = bmvpi_expf(-fabsf(x));
        const float large = 1.0f / (1.0f + e), small = e * large;
        const float d = x < 0.0f ? (1.0f - t) * small - t * large : (1.0f - t) * large - t * small;
        m->dx[i] = (m->add ? m->dx[i] : 0.0f) + m->factor * d;
    }
}
static void bmvpi_bce_logits_cpu_backward(bmvp_ctx *c, bmvp_tensor *y)
{
    bmvpi_map m = bmvpi_map_make(c, y->src[0]->numel, 1);
    m.x = y->src[0]->x;
    m.target = y->src[1]->x;
    m.dx = bmvpi_grad(c, y->src[0], &m.add);
    if (!m.dx) return;
    m.factor = (float)((double)y->g[0] / (double)m.n);
    bmvpi_map_run(c, &m, bmvpi_bce_back_range);
}
#define bmvpi_bce_logits_cpu_workspace NULL
static bmvp_tensor *bmvpi_bce_logits_sample(bmvp_ctx *c, int variant)
{
    const int64_t d[2] = { 3, 7 };
    return variant == 0 ? bmvp_bce_logits(c, bmvp_leaf(c, 2, d, NULL), bmvpi_sample_target(c, 2, d)) : NULL;
}

/* >>op soft_dice: one number, the mean over n and c of 1 - (2 sum p t + e) / (sum p^k + sum t^k + e) ------------------
   src p, t (N,...,C); k = 2 if squared, else 1; e = smooth. saved: sum p t and the denominator of each (n, c).
   Backward reads both: dp = g / (N C) ((2 sum p t + e) k p^(k-1) / den^2 - 2 t / den); none into t. monai DiceLoss. */
BMVP_API bmvp_tensor *bmvp_soft_dice(bmvp_ctx *c, bmvp_tensor *p, bmvp_tensor *target, int squared, double smooth)
{
    bmvp_tensor *src[2] = { p, target }, *y;
    if (!p || !target || bmvp_failed(c)) return NULL;
    if (p->rank < 2 || !bmvpi_same_shape(p, target))
        return bmvpi_bad_shapes(c, "soft_dice", "p target", src, "they must be (N, ..., C) of one shape");
    y = bmvpi_to_number(c, BMVP_OP_SOFT_DICE, 2, p, target);
    if (!bmvpi_save(c, y, 2 * p->dim[0] * p->dim[p->rank - 1])) return NULL;
    y->args.soft_dice.squared = squared != 0;
    y->args.soft_dice.smooth = smooth;
    return bmvpi_run(c, y);
}
static bmvpi_columns bmvpi_soft_dice_columns(const bmvp_tensor *y)
{
    const bmvp_tensor *p = y->src[0];
    const int64_t ch = p->dim[p->rank - 1];
    bmvpi_columns k = bmvpi_columns_make(p->dim[0], p->numel / p->dim[0] / ch, ch);
    k.x = p->x;
    k.a = y->src[1]->x;
    return k;
}
BMVPI_HOT static void bmvpi_soft_dice_task(void *arg, int64_t task, int worker)
{
    const bmvpi_columns *k = (const bmvpi_columns *)arg;
    const int64_t c = k->c;
    int64_t sample, n, r, i;
    const int64_t at = bmvpi_columns_range(k, task, &sample, &n) * c;
    const float *p = k->x + at, *t = k->a + at;
    float *BMVP_RESTRICT dot = k->part + task * 2 * c, *BMVP_RESTRICT den = dot + c;
    (void)worker;
    memset(dot, 0, (size_t)(2 * c) * sizeof(float));
    for (r = 0; r < n; ++r, p += c, t += c)
        for (i = 0; i < c; ++i) {
            dot[i] += p[i] * t[i];
            den[i] += k->squared ? p[i] * p[i] + t[i] * t[i] : p[i] + t[i];
        }
}
static void bmvpi_soft_dice_cpu_forward(bmvp_ctx *c, bmvp_tensor *y)
{
    bmvpi_columns k = bmvpi_soft_dice_columns(y);
    const int64_t n = k.samples * k.c;
    double *dot = bmvpi_columns_attach(&k, bmvpi_workspace(c)), loss = 0;
    int64_t i;
    k.squared = y->args.soft_dice.squared;
    bmvpi_columns_sums(c, &k, bmvpi_soft_dice_task, dot);
    for (i = 0; i < n; ++i) {
        loss += 1.0 - (2.0 * dot[i] + y->args.soft_dice.smooth) / (dot[n + i] + y->args.soft_dice.smooth);
        y->saved[i] = (float)dot[i];
        y->saved[n + i] = (float)dot[n + i];
    }
    y->x[0] = (float)(loss / (double)n);
}
static void bmvpi_soft_dice_cpu_backward(bmvp_ctx *c, bmvp_tensor *y)
{
    bmvpi_columns k = bmvpi_soft_dice_columns(y);
    const int64_t n = k.samples * k.c;
    float *mean = bmvpi_workspace(c), *scale = mean + n, *slope = scale + n, *shift = slope + n;
    const double e = y->args.soft_dice.smooth;
    double g;
    int64_t i;
    k.to = bmvpi_grad(c, y->src[0], &k.add);
    if (!k.to) return;
    g = (double)y->g[0] / (double)n;
    for (i = 0; i < n; ++i) {
        const double den = (double)y->saved[n + i] + e, rise = g * (2.0 * (double)y->saved[i] + e) / (den * den);
        mean[i] = 0;
        scale[i] = (float)(-2.0 * g / den);
        slope[i] = y->args.soft_dice.squared ? (float)(2.0 * rise) : 0.0f;
        shift[i] = y->args.soft_dice.squared ? 0.0f : (float)rise;
    }
    k.mean = mean;
    k.scale = scale;
    k.slope = slope;
    k.shift = shift;
    bmvp_parallel(c, k.samples * k.chunks, bmvpi_columns_join_task, &k);
}
static int64_t bmvpi_soft_dice_cpu_workspace(const bmvp_ctx *c, const bmvp_tensor *y, int backward)
{
    const bmvpi_columns k = bmvpi_soft_dice_columns(y);
    (void)c;
    return backward ? 4 * k.samples * k.c : bmvpi_columns_workspace(&k);
}
static bmvp_tensor *bmvpi_soft_dice_sample(bmvp_ctx *c, int variant)
{
    const int64_t d[5] = { 2, 1, 3, 2, 3 };
    return variant < 2 ? bmvp_soft_dice(c, bmvp_leaf(c, 5, d, NULL), bmvpi_sample_target(c, 5, d), variant,
                                        variant ? 1.0 : 20.0)
                       : NULL;
}

/* >>op cross_entropy: mean over rows of log(sum exp(x)) - x[target], each row weighted by its target's class ----------
   src x (R, K). saved: the R targets (int32), of each row its largest x, of each row log(sum exp(x - largest)), the K
   weights. Backward reads x: dx = g w[target] / sum w (softmax(x) - one at the target). Of a row that is almost right
   both the loss and the target's softmax - 1 are what is left of numbers that cancel: a log-sum-exp of 300 in float32
   has no digits for a loss of 1e-5. So it is kept in two parts, the softmax is exp(x - largest - log), less one at the
   target expm1, and where that is the largest the loss is log(1 + the others' sum). A target of -inf is a loss of inf,
   and dx is softmax less one still. torch cross_entropy with class numbers. */
static void bmvpi_cross_entropy_save(bmvp_ctx *c, float *saved, int64_t rows, int64_t classes, const int32_t *target,
                                     const float *weight)
{
    bmvpi_values_write(c, saved, (const float *)(const void *)target, rows); /* as they are */
    if (weight) bmvpi_values_write(c, saved + 3 * rows, weight, classes);
    else bmvpi_values_fill(c, saved + 3 * rows, 1.0f, classes);
}
BMVP_API bmvp_tensor *bmvp_cross_entropy_weighted(bmvp_ctx *c, bmvp_tensor *logits, const int32_t *target,
                                                  const float *weight)
{
    bmvp_tensor *y;
    char at[128];
    int64_t r, rows, classes;
    double total = 0;
    if (!logits || bmvp_failed(c)) return NULL;
    if (logits->rank != 2)
        return bmvpi_bad_shapes(c, "cross_entropy", "logits", &logits, "they must be (rows, classes)");
    rows = logits->dim[0], classes = logits->dim[1];
    for (r = 0; r < rows && !bmvp_is_plan(c); ++r) {
        if (target[r] < 0 || target[r] >= classes)
            return (bmvp_tensor *)bmvp_fail(c, BMVP_E_ARG,
                                            "cross_entropy: target %d of row %lld is not a class of logits %s",
                                            (int)target[r], (long long)r, bmvpi_shape(logits, at, sizeof at));
        total += weight ? (double)weight[target[r]] : 1.0;
    }
    y = bmvpi_to_number(c, BMVP_OP_CROSS_ENTROPY, 1, logits, NULL);
    if (!bmvpi_save(c, y, 3 * rows + classes)) return NULL;
    y->args.cross_entropy.total = total;
    if (y->saved) bmvpi_cross_entropy_save(c, y->saved, rows, classes, target, weight);
    return bmvpi_run(c, y);
}
BMVP_API bmvp_tensor *bmvp_cross_entropy(bmvp_ctx *c, bmvp_tensor *logits, const int32_t *target)
{
    return bmvp_cross_entropy_weighted(c, logits, target, NULL);
}
/* saved: largest x of the rows, then the logs */
static double bmvpi_cross_entropy_rows(const bmvpi_map *m, int64_t lo, int64_t hi)
{
    double total = 0;
    int64_t r, i;
    for (r = lo; r < hi; ++r) {
        const int64_t t = bmvpi_saved_int(m->target, r);
        const float *x = m->x + r * m->c;
        float top = x[0];
        double others = 0, far, rest;
        for (i = 1; i < m->c; ++i) if (!(x[i] <= top)) top = x[i];
        for (i = 0; i < m->c; ++i) if (i != t) others += exp((double)x[i] - (double)top);
        far = (double)top - (double)x[t];
        rest = far <= 0 ? log1p(others) : log(others + exp(-far)); /* NaN where far is */
        m->saved[r] = top;
        m->saved[m->n + r] = (float)rest;
        total += (double)m->weight[t] * (far <= 0 ? rest : far + rest);
    }
    return total;
}
static bmvpi_map bmvpi_cross_entropy_map(const bmvp_ctx *c, const bmvp_tensor *y)
{
    const bmvp_tensor *x = y->src[0];
    bmvpi_map m = bmvpi_map_make(c, x->dim[0], x->dim[1]);
    m.x = x->x;
    m.target = y->saved;
    m.saved = y->saved + x->dim[0];
    m.weight = m.saved + 2 * x->dim[0];
    return m;
}
static void bmvpi_cross_entropy_cpu_forward(bmvp_ctx *c, bmvp_tensor *y)
{
    bmvpi_map m = bmvpi_cross_entropy_map(c, y);
    y->x[0] = (float)(bmvpi_map_sum(c, &m, bmvpi_cross_entropy_rows) / y->args.cross_entropy.total);
}
static void bmvpi_cross_entropy_back_rows(const bmvpi_map *m, int64_t lo, int64_t hi)
{
    int64_t r, i;
    for (r = lo; r < hi; ++r) {
        const int64_t t = bmvpi_saved_int(m->target, r);
        const float s = m->factor * m->weight[t], *x = m->x + r * m->c;
        for (i = 0; i < m->c; ++i) {
            const float log_p = x[i] - m->saved[r] - m->saved[m->n + r];
            const float p = i == t ? bmvpi_expm1f(log_p) : bmvpi_expf(log_p);
            float *dx = m->dx + r * m->c + i;
            *dx = (m->add ? *dx : 0.0f) + s * p;
        }
    }
}
static void bmvpi_cross_entropy_cpu_backward(bmvp_ctx *c, bmvp_tensor *y)
{
    bmvpi_map m = bmvpi_cross_entropy_map(c, y);
    m.dx = bmvpi_grad(c, y->src[0], &m.add);
    if (!m.dx) return;
    m.factor = (float)((double)y->g[0] / y->args.cross_entropy.total);
    bmvpi_map_run(c, &m, bmvpi_cross_entropy_back_rows);
}
#define bmvpi_cross_entropy_cpu_workspace NULL
static bmvp_tensor *bmvpi_cross_entropy_sample(bmvp_ctx *c, int variant)
{
    const int64_t d[2] = { 4, 3 };
    const int32_t target[4] = { 2, 0, 1, 2 };
    const float weight[3] = { 0.5f, 2.0f, 1.25f };
    return variant < 2 ? bmvp_cross_entropy_weighted(c, bmvp_leaf(c, 2, d, NULL), target, variant ? weight : NULL)
                       : NULL;
}

/* >>product: C = A B for anything that has strides ------------------------------------------------------------------
   What matmul, linear and convolutions of kernel 1 are, and all bias gradients: the loop bmvpi_gemm_plain, cut into
   tasks by rows. */

/* C[m,n] (+)= A B + bias[n] for each of outer x inner matrices. Element (i, j) of A lies at a[i a_rs + j a_cs], so
   transposes are strides; C has contiguous rows. Batch strides: _bo outer (samples), _bi inner (heads); 0 shares the
   matrix. k >= 1. */
typedef struct bmvpi_gemm_args {
    int64_t m, n, k, outer, inner;
    const float *a, *b, *bias; /* bias (n) or NULL */
    float *c;
    int64_t a_rs, a_cs, b_rs, b_cs, c_rs;
    int64_t a_bo, a_bi, b_bo, b_bi, c_bo, c_bi;
    int accumulate; /* 1: C += */
    const float *residual; /* C = residual + A B + bias, laid out as C; NULL: none. For one matrix */
    int b_packed;   /* 1: b is what bmvpi_pack_b made, and shared by the batch */
    int exact;      /* 1: float32 whatever the context's precision */
    int b_near;     /* 1: b is in L2 already and its rows may be read to the end of a whole tile */
} bmvpi_gemm_args;

/* A matrix that is read: element (i, j) lies at p[i rs + j cs] */
typedef struct bmvpi_matrix { const float *p; int64_t rs, cs; } bmvpi_matrix;
static bmvpi_matrix bmvpi_strided_matrix(const float *p, int64_t rs, int64_t cs)
{
    bmvpi_matrix a;
    a.p = p;
    a.rs = rs;
    a.cs = cs;
    return a;
}
/* As it lies, rows `ld` apart; and its transpose */
static bmvpi_matrix bmvpi_rows(const float *p, int64_t ld) { return bmvpi_strided_matrix(p, ld, 1); }
static bmvpi_matrix bmvpi_transposed(const float *p, int64_t ld) { return bmvpi_strided_matrix(p, 1, ld); }

/* c (m x n), rows ldc apart, = a (m x k) b (k x n) */
static bmvpi_gemm_args bmvpi_gemm_make(int64_t m, int64_t n, int64_t k, bmvpi_matrix a, bmvpi_matrix b, float *c,
                                       int64_t ldc)
{
    bmvpi_gemm_args g;
    memset(&g, 0, sizeof g);
    g.m = m;
    g.n = n;
    g.k = k;
    g.a = a.p;
    g.a_rs = a.rs;
    g.a_cs = a.cs;
    g.b = b.p;
    g.b_rs = b.rs;
    g.b_cs = b.cs;
    g.c = c;
    g.c_rs = ldc;
    g.outer = g.inner = 1;
    return g;
}

/* Rows [m0, m1) of one matrix product: the definition. 2 k operations and 4 (k / m + k / n + 1) bytes per output. */
static void bmvpi_gemm_plain(const bmvpi_gemm_args *g, const float *a, const float *b, float *c, int64_t m0, int64_t m1)
{
    const int64_t rs = g->b_rs, cs = g->b_cs;
    int64_t i, j, k;
    for (i = m0; i < m1; ++i) {
        for (j = 0; j < g->n; ++j) {
            double sum = g->bias ? (double)g->bias[j] : 0.0;
            float *to = c + i * g->c_rs + j;
            for (k = 0; k < g->k; ++k) sum += (double)a[i * g->a_rs + k * g->a_cs] * (double)b[k * rs + j * cs];
            if (g->accumulate) sum += (double)*to;
            if (g->residual) sum += (double)g->residual[i * g->c_rs + j];
            *to = (float)sum;
        }
    }
}

/* to[j] (+)= sum over rows of x[i][j], for bias gradients: the product with a row of ones. */
static bmvpi_gemm_args bmvpi_colsum_args(const float *x, int64_t rows, int64_t cols, float *to, int accumulate)
{
    static const float one = 1.0f;
    bmvpi_gemm_args g = bmvpi_gemm_make(1, cols, rows, bmvpi_strided_matrix(&one, 0, 0), bmvpi_rows(x, cols), to, cols);
    g.accumulate = accumulate;
    g.exact = 1;
    return g;
}

static int bmvpi_fast_product(bmvp_ctx *c, const bmvpi_gemm_args *g, float *ws);
static int64_t bmvpi_fast_product_workspace(const bmvp_ctx *c, const bmvpi_gemm_args *g);

typedef struct bmvpi_product_job { const bmvpi_gemm_args *g; int64_t blocks, rows; } bmvpi_product_job;
static void bmvpi_product_task(void *arg, int64_t task, int worker) /* task = (matrix, block of rows) */
{
    const bmvpi_product_job *j = (const bmvpi_product_job *)arg;
    const bmvpi_gemm_args *g = j->g;
    const int64_t i = task / j->blocks, o = i / g->inner, in = i % g->inner, m0 = task % j->blocks * j->rows;
    (void)worker;
    bmvpi_gemm_plain(g, g->a + o * g->a_bo + in * g->a_bi, g->b + o * g->b_bo + in * g->b_bi,
                     g->c + o * g->c_bo + in * g->c_bi, m0, bmvpi_min(g->m, m0 + j->rows));
}

/* The product on all threads of the context. ws: bmvpi_gemm_workspace floats, 64-byte aligned. */
static void bmvpi_gemm(bmvp_ctx *c, const bmvpi_gemm_args *g, float *ws)
{
    bmvpi_product_job j;
    if (g->m < 1 || g->n < 1 || bmvpi_fast_product(c, g, ws)) return;
    j.g = g;
    j.blocks = bmvpi_ceil_div(g->m, 192);
    j.rows = bmvpi_ceil_div(g->m, j.blocks);
    bmvp_parallel(c, g->outer * g->inner * j.blocks, bmvpi_product_task, &j);
}
static int64_t bmvpi_gemm_workspace(const bmvp_ctx *c, const bmvpi_gemm_args *g)
{
    return bmvpi_fast_product_workspace(c, g);
}

/* >>op matmul: y = op(a) op(b) for each of the leading axes' matrices -------------------------------------------------
   a (..., M, K), or (..., K, M) with transpose_a; b (..., K, N), or (..., N, K) with transpose_b; y (..., M, N).
   torch.matmul without broadcasting. Backward reads a and b: da = g op(b)^T, db = op(a)^T g, each in its operand's
   layout. */
BMVP_API bmvp_tensor *bmvp_matmul(bmvp_ctx *c, bmvp_tensor *a, bmvp_tensor *b, int transpose_a, int transpose_b)
{
    bmvp_tensor *src[2] = { a, b }, *y;
    int64_t dim[BMVP_MAX_DIMS];
    int r;
    if (!a || !b || bmvp_failed(c)) return NULL;
    r = a->rank;
    if (r < 2 || b->rank != r || memcmp(a->dim, b->dim, (size_t)(r - 2) * sizeof *dim) != 0 ||
        a->dim[transpose_a ? r - 2 : r - 1] != b->dim[transpose_b ? r - 1 : r - 2])
        return bmvpi_bad_shapes(c, "matmul", "a b", src, "%s times %s does not multiply; leading axes must be equal",
                                transpose_a ? "a transposed" : "a", transpose_b ? "b transposed" : "b");
    memcpy(dim, a->dim, sizeof dim);
    dim[r - 2] = a->dim[transpose_a ? r - 1 : r - 2];
    dim[r - 1] = b->dim[transpose_b ? r - 2 : r - 1];
    y = bmvpi_node(c, BMVP_OP_MATMUL, r, dim, 2, src);
    if (y) {
        y->args.matmul.transpose_a = transpose_a != 0;
        y->args.matmul.transpose_b = transpose_b != 0;
    }
    return bmvpi_run(c, y);
}

/* which 0: y; 1: gradient of a; 2: gradient of b */
static bmvpi_gemm_args bmvpi_matmul_args(const bmvp_tensor *y, int which, float *to)
{
    const bmvp_tensor *a = y->src[0], *b = y->src[1];
    const int ta = y->args.matmul.transpose_a, tb = y->args.matmul.transpose_b;
    const int64_t m = y->dim[y->rank - 2], n = y->dim[y->rank - 1], k = a->dim[a->rank - (ta ? 2 : 1)];
    const bmvpi_matrix op_a = ta ? bmvpi_transposed(a->x, m) : bmvpi_rows(a->x, k),
                       op_a_t = ta ? bmvpi_rows(a->x, m) : bmvpi_transposed(a->x, k);
    const bmvpi_matrix op_b = tb ? bmvpi_transposed(b->x, k) : bmvpi_rows(b->x, n),
                       op_b_t = tb ? bmvpi_rows(b->x, k) : bmvpi_transposed(b->x, n);
    bmvpi_gemm_args g;
    if (which == 0) g = bmvpi_gemm_make(m, n, k, op_a, op_b, to, n);
    else if (which == 1 && !ta) g = bmvpi_gemm_make(m, k, n, bmvpi_rows(y->g, n), op_b_t, to, k);
    else if (which == 1) g = bmvpi_gemm_make(k, m, n, op_b, bmvpi_transposed(y->g, n), to, m);
    else if (!tb) g = bmvpi_gemm_make(k, n, m, op_a_t, bmvpi_rows(y->g, n), to, n);
    else g = bmvpi_gemm_make(n, k, m, bmvpi_transposed(y->g, n), op_a, to, k);
    g.exact = 1; /* cosines over a temperature, kernels multiplied by kernels: small, and worth their digits */
    g.inner = y->numel / (m * n);
    if (g.inner > 1) {
        g.c_bi = g.m * g.n;
        g.a_bi = g.m * g.k;
        g.b_bi = g.k * g.n;
    }
    return g;
}
static void bmvpi_matmul_cpu_forward(bmvp_ctx *c, bmvp_tensor *y)
{
    const bmvpi_gemm_args g = bmvpi_matmul_args(y, 0, y->x);
    bmvpi_gemm(c, &g, bmvpi_workspace(c));
}
static void bmvpi_matmul_cpu_backward(bmvp_ctx *c, bmvp_tensor *y)
{
    int which, add[3];
    float *to[3];
    for (which = 1; which < 3; ++which) to[which] = bmvpi_grad(c, y->src[which - 1], &add[which]);
    for (which = 1; which < 3; ++which) {
        bmvpi_gemm_args g = bmvpi_matmul_args(y, which, to[which]);
        g.accumulate = add[which];
        if (to[which]) bmvpi_gemm(c, &g, bmvpi_workspace(c));
    }
}
static int64_t bmvpi_matmul_cpu_workspace(const bmvp_ctx *c, const bmvp_tensor *y, int backward)
{
    const bmvpi_gemm_args f = bmvpi_matmul_args(y, 0, NULL), a = bmvpi_matmul_args(y, 1, NULL);
    const bmvpi_gemm_args b = bmvpi_matmul_args(y, 2, NULL);
    if (!backward) return bmvpi_gemm_workspace(c, &f);
    return bmvpi_max(bmvpi_gemm_workspace(c, &a), bmvpi_gemm_workspace(c, &b));
}
static bmvp_tensor *bmvpi_matmul_sample(bmvp_ctx *c, int variant)
{
    static const int64_t a[4][3] = { { 2, 3, 5 }, { 2, 5, 3 }, { 2, 3, 5 }, { 2, 5, 3 } };
    static const int64_t b[4][3] = { { 2, 5, 7 }, { 2, 5, 7 }, { 2, 7, 5 }, { 2, 7, 5 } };
    if (variant == 4) return bmvp_matmul(c, bmvp_leaf(c, 2, &a[0][1], NULL), bmvp_leaf(c, 2, &b[0][1], NULL), 0, 0);
    if (variant > 4) return NULL;
    return bmvp_matmul(c, bmvp_leaf(c, 3, a[variant], NULL), bmvp_leaf(c, 3, b[variant], NULL), variant & 1,
                       variant >> 1);
}

/* >>op linear: y = x w + b over the last axis -------------------------------------------------------------------------
   x (..., I), w (I, O), b (O) or NULL, y (..., O), residual as y or NULL. torch.nn.functional.linear (w transposed),
   1x1x1 convolution. Backward reads x and w: dx = g w^T, dw = x^T g, db = sum of g over rows. */
static bmvp_tensor *bmvpi_linear_node(bmvp_ctx *c, bmvp_tensor *x, bmvp_tensor *w, bmvp_tensor *b,
                                      bmvp_tensor *residual)
{
    bmvp_tensor *src[4] = { x, w, b, residual };
    int64_t dim[BMVP_MAX_DIMS];
    if (!x || !w || bmvp_failed(c)) return NULL;
    if (x->rank < 1 || w->rank != 2 || x->dim[x->rank - 1] != w->dim[0] ||
        (b && (b->rank != 1 || b->dim[0] != w->dim[1])))
        return bmvpi_bad_shapes(c, "linear", "x w b", src, "they must be (..., I), (I, O), (O)");
    memcpy(dim, x->dim, sizeof dim);
    dim[x->rank - 1] = w->dim[1];
    return bmvpi_run_onto(c, bmvpi_node(c, BMVP_OP_LINEAR, x->rank, dim, residual ? 4 : 3, src), residual);
}
BMVP_API bmvp_tensor *bmvp_linear(bmvp_ctx *c, bmvp_tensor *x, bmvp_tensor *w, bmvp_tensor *b)
{
    return bmvpi_linear_node(c, x, w, b, NULL);
}
BMVP_API bmvp_tensor *bmvp_linear_residual(bmvp_ctx *c, bmvp_tensor *x, bmvp_tensor *w, bmvp_tensor *b,
                                           bmvp_tensor *residual)
{
    if (!residual) return NULL;
    return bmvpi_linear_node(c, x, w, b, residual);
}

/* which 0: y; 1, 2, 3: gradient of x, w, b */
static bmvpi_gemm_args bmvpi_linear_args(const bmvp_tensor *y, int which, float *to)
{
    const bmvp_tensor *x = y->src[0], *w = y->src[1];
    const int64_t in = w->dim[0], out = w->dim[1], rows = y->numel / out;
    bmvpi_gemm_args g;
    if (which == 1) return bmvpi_gemm_make(rows, in, out, bmvpi_rows(y->g, out), bmvpi_transposed(w->x, out), to, in);
    if (which == 2) return bmvpi_gemm_make(in, out, rows, bmvpi_transposed(x->x, in), bmvpi_rows(y->g, out), to, out);
    if (which == 3) return bmvpi_colsum_args(y->g, rows, out, to, 0);
    g = bmvpi_gemm_make(rows, out, in, bmvpi_rows(x->x, in), bmvpi_rows(w->x, out), to, out);
    g.bias = y->src[2] ? y->src[2]->x : NULL;
    g.residual = y->n_src > 3 ? y->src[3]->x : NULL;
    return g;
}
static void bmvpi_linear_cpu_forward(bmvp_ctx *c, bmvp_tensor *y)
{
    const bmvpi_gemm_args g = bmvpi_linear_args(y, 0, y->x);
    bmvpi_gemm(c, &g, bmvpi_workspace(c));
}
static void bmvpi_linear_cpu_backward(bmvp_ctx *c, bmvp_tensor *y)
{
    int which, add[4];
    float *to[4];
    if (y->n_src > 3) bmvpi_grad_pass(c, y, y->src[3]);
    for (which = 1; which < 4; ++which) to[which] = bmvpi_grad(c, y->src[which - 1], &add[which]);
    for (which = 1; which < 4; ++which) {
        bmvpi_gemm_args g = bmvpi_linear_args(y, which, to[which]);
        g.accumulate = add[which];
        if (to[which]) bmvpi_gemm(c, &g, bmvpi_workspace(c));
    }
}
static int64_t bmvpi_linear_cpu_workspace(const bmvp_ctx *c, const bmvp_tensor *y, int backward)
{
    int64_t n = 0;
    int which;
    for (which = backward ? 1 : 0; which < (backward ? 4 : 1); ++which) {
        const bmvpi_gemm_args g = bmvpi_linear_args(y, which, NULL);
        if (!backward || (y->src[which - 1] && y->src[which - 1]->wants_grad))
            n = bmvpi_max(n, bmvpi_gemm_workspace(c, &g));
    }
    return n;
}
static bmvp_tensor *bmvpi_linear_sample(bmvp_ctx *c, int variant)
{
    const int64_t x[3] = { 2, 5, 7 }, w[2] = { 7, 33 }, b[1] = { 33 }, y[3] = { 2, 5, 33 };
    if (variant > 2) return NULL;
    if (variant == 2)
        return bmvp_linear_residual(c, bmvp_leaf(c, 3, x, NULL), bmvp_leaf(c, 2, w, NULL), NULL,
                                    bmvp_leaf(c, 3, y, NULL));
    return bmvp_linear(c, bmvp_leaf(c, 3, x, NULL), bmvp_leaf(c, 2, w, NULL),
                       variant ? NULL : bmvp_leaf(c, 1, b, NULL));
}

/* >>op mlp: y = GELU(x w1 + b1) w2 + b2 -------------------------------------------------------------------------------
   src x (..., I), w1 (I, H), b1 (H) or NULL, w2 (H, O), b2 (O) or NULL, residual as y: may be absent, is added. saved
   when recording, where I >= the device's mlp_keeps_least and H % 16 = 0: a = x w1 + b1. Of fewer channels a is
   computed again.
   With h = GELU(a) and da = (dy w2^T) GELU'(a): dw2 = h^T dy, dx = da w1^T, dw1 = x^T da, biases: column sums.
   Tiles of tokens x hidden units stay in L2. Forward: a task is a tile of tokens. Backward: a task is a range of tokens
   and all hidden units, with its own sums for the weights, or (large weights, few tokens) all tokens and a range of
   hidden units, with its own sum for dx: whichever needs less memory. The sums are added in order. */
static int bmvpi_mlp_saves(const bmvp_ctx *c, const bmvp_tensor *w1)
{
    const int64_t least = c->cfg.backend->device->mlp_keeps_least;
    return least > 0 && w1->dim[0] >= least && w1->dim[1] % 16 == 0;
}
static bmvp_tensor *bmvpi_mlp_node(bmvp_ctx *c, bmvp_tensor *x, bmvp_tensor *w1, bmvp_tensor *b1, bmvp_tensor *w2,
                                   bmvp_tensor *b2, bmvp_tensor *residual)
{
    bmvp_tensor *src[6] = { x, w1, b1, w2, b2, residual }, *y;
    int64_t dim[BMVP_MAX_DIMS];
    if (!x || !w1 || !w2 || bmvp_failed(c)) return NULL;
    if (x->rank < 1 || w1->rank != 2 || w2->rank != 2 || x->dim[x->rank - 1] != w1->dim[0] ||
        w1->dim[1] != w2->dim[0] || (b1 && b1->numel != w1->dim[1]) || (b2 && b2->numel != w2->dim[1]))
        return bmvpi_bad_shapes(c, "mlp", "x w1 b1 w2 b2", src, "they must be (..., I), (I, H), (H), (H, O), (O)");
    memcpy(dim, x->dim, sizeof dim);
    dim[x->rank - 1] = w2->dim[1];
    if (w1 == w2 || x == w1 || x == w2 || (b1 && (b1 == b2 || b1 == x)) || (b2 && b2 == x))
        return (bmvp_tensor *)bmvp_fail(c, BMVP_E_ARG,
                                        "mlp: operands must be different tensors; use linear, gelu, linear");
    y = bmvpi_node(c, BMVP_OP_MLP, x->rank, dim, residual ? 6 : 5, src);
    if (y) y->spare = 1; /* a is large, and can be computed again */
    if (bmvpi_recording(c, y) && bmvpi_mlp_saves(c, w1) && !bmvpi_save(c, y, y->numel / w2->dim[1] * w1->dim[1]))
        return NULL;
    return bmvpi_run_onto(c, y, residual);
}
BMVP_API bmvp_tensor *bmvp_mlp(bmvp_ctx *c, bmvp_tensor *x, bmvp_tensor *w1, bmvp_tensor *b1, bmvp_tensor *w2,
                               bmvp_tensor *b2)
{
    return bmvpi_mlp_node(c, x, w1, b1, w2, b2, NULL);
}
BMVP_API bmvp_tensor *bmvp_mlp_residual(bmvp_ctx *c, bmvp_tensor *x, bmvp_tensor *w1, bmvp_tensor *b1, bmvp_tensor *w2,
                                        bmvp_tensor *b2, bmvp_tensor *residual)
{
    if (!residual) return NULL;
    return bmvpi_mlp_node(c, x, w1, b1, w2, b2, residual);
}

/* The definition: one token after the other; the hidden unit a is never stored. */
static void bmvpi_mlp_plain(const bmvp_tensor *y)
{
    const bmvp_tensor *x = y->src[0], *w1 = y->src[1], *b1 = y->src[2], *w2 = y->src[3], *b2 = y->src[4],
                      *r = y->n_src > 5 ? y->src[5] : NULL;
    const int64_t I = w1->dim[0], H = w1->dim[1], O = w2->dim[1];
    int64_t m, i, h, o;
    for (m = 0; m < y->numel / O; ++m) {
        float *to = y->x + m * O, a;
        for (o = 0; o < O; ++o) to[o] = (b2 ? b2->x[o] : 0.0f) + (r ? r->x[m * O + o] : 0.0f);
        for (h = 0; h < H; ++h) {
            a = b1 ? b1->x[h] : 0.0f;
            for (i = 0; i < I; ++i) a += x->x[m * I + i] * w1->x[i * H + h];
            bmvpi_gelu_plain(1, &a, &a);
            for (o = 0; o < O; ++o) to[o] += a * w2->x[h * O + o];
        }
    }
}
/* g: gradients in the order of src, each NULL where none is wanted */
static void bmvpi_mlp_plain_back(const bmvp_tensor *y, float *const *g)
{
    const bmvp_tensor *w1 = y->src[1], *b1 = y->src[2], *w2 = y->src[3];
    const int64_t I = w1->dim[0], H = w1->dim[1], O = w2->dim[1];
    int64_t m, i, h, o;
    for (m = 0; m < y->numel / O; ++m) {
        const float *x = y->src[0]->x + m * I, *gy = y->g + m * O;
        for (o = 0; g[4] && o < O; ++o) g[4][o] += gy[o];
        for (h = 0; h < H; ++h) {
            float a = b1 ? b1->x[h] : 0.0f, v, d = 0;
            for (i = 0; i < I; ++i) a += x[i] * w1->x[i * H + h];
            for (o = 0; o < O; ++o) d += gy[o] * w2->x[h * O + o];
            bmvpi_gelu_plain(1, &a, &v);
            bmvpi_gelu_back_plain(1, &a, &d, &d, 0);
            if (g[2]) g[2][h] += d;
            for (o = 0; g[3] && o < O; ++o) g[3][h * O + o] += v * gy[o];
            for (i = 0; g[1] && i < I; ++i) g[1][i * H + h] += d * x[i];
            for (i = 0; g[0] && i < I; ++i) g[0][m * I + i] += d * w1->x[i * H + h];
        }
    }
}
static void bmvpi_mlp_cpu_forward(bmvp_ctx *c, bmvp_tensor *y)
{
    if (!bmvpi_fast_mlp(c, y)) bmvpi_mlp_plain(y);
}
static void bmvpi_mlp_cpu_backward(bmvp_ctx *c, bmvp_tensor *y)
{
    float *g[5];
    int k, wanted = 0;
    if (y->n_src > 5) bmvpi_grad_pass(c, y, y->src[5]);
    if (bmvpi_fast_mlp_back(c, y)) return;
    for (k = 0; k < 5; ++k) wanted |= (g[k] = bmvpi_grad_add(c, y->src[k])) != NULL;
    if (wanted) bmvpi_mlp_plain_back(y, g);
}
static int64_t bmvpi_mlp_cpu_workspace(const bmvp_ctx *c, const bmvp_tensor *y, int backward)
{
    return bmvpi_fast_mlp_workspace(c, y, backward);
}
static bmvp_tensor *bmvpi_mlp_sample(bmvp_ctx *c, int variant)
{
    /* tokens many and few: both cuts */
    static const int64_t x[4][3] = { { 2, 3, 5 }, { 1, 13, 8 }, { 1, 1, 3 }, { 2, 3, 5 } };
    static const int64_t hid[4] = { 7, 16, 40, 7 }, out[4] = { 6, 8, 2, 5 };
    bmvp_tensor *b1, *b2;
    int64_t w1[2], w2[2];
    if (variant > 3) return NULL;
    w1[0] = x[variant][2];
    w1[1] = w2[0] = hid[variant];
    w2[1] = out[variant];
    b1 = variant ? bmvp_leaf(c, 1, &w1[1], NULL) : NULL;
    b2 = variant ? bmvp_leaf(c, 1, &w2[1], NULL) : NULL;
    if (variant == 3)
        return bmvp_mlp_residual(c, bmvp_leaf(c, 3, x[3], NULL), bmvp_leaf(c, 2, w1, NULL), b1,
                                 bmvp_leaf(c, 2, w2, NULL), b2, bmvp_leaf(c, 3, x[3], NULL));
    return bmvp_mlp(c, bmvp_leaf(c, 3, x[variant], NULL), bmvp_leaf(c, 2, w1, NULL), b1, bmvp_leaf(c, 2, w2, NULL), b2);
}

/* >>op attention: y = softmax(q k^T scale + bias) v per head ----------------------------------------------------------
   src qkv (N, T, 3 C) = [q | k | v], C = heads x d; of window attention also table (R, heads), place (T) and, or NULL,
   region (windows, T), whole numbers. bias[i, j] = table[place_i - place_j + (R - 1) / 2, head], less 100 where the
   regions of i and j in window n mod windows differ; 0 without a table. saved, when recording: log-sum-exp of each row,
   (N, heads, T). Source: Vaswani et al. 2017, eq. 1; tiles with a running softmax as in Dao et al. 2022; biases of Liu
   et al. 2021.
   Backward computes P = exp(scale q k^T + bias - lse) again, tile by tile. With D_i = dy_i y_i: dV = P^T dy,
   dS = P (dy V^T - D), dQ = scale dS K, dK = scale dS^T Q; a row of the table gets the sum of dS over all pairs that it
   is the bias of. A task is (sample, head, range of rows); when there are several ranges each sums dK and dV on its own
   and they are added in order. With a table it is (head, range of samples): a tile of biases is looked up once, and one
   of dS summed, for all samples of the range; the ranges' tables are added in order. */
static bmvp_tensor *bmvpi_attention(bmvp_ctx *c, int n_src, bmvp_tensor *const *src, int heads, double scale)
{
    const bmvp_tensor *qkv = src[0];
    bmvp_tensor *y;
    int64_t dim[3];
    if (qkv->rank != 3 || heads < 1 || qkv->dim[2] % (3 * (int64_t)heads) != 0)
        return bmvpi_bad_shapes(c, "attention", "qkv", src,
                                "it must be (N,T,3C), C a multiple of the number of heads (%d)", heads);
    dim[0] = qkv->dim[0];
    dim[1] = qkv->dim[1];
    dim[2] = qkv->dim[2] / 3;
    y = bmvpi_node(c, BMVP_OP_ATTENTION, 3, dim, n_src, src);
    if (!y) return NULL;
    y->args.attention.heads = heads;
    y->args.attention.scale = scale;
    if (bmvpi_recording(c, y) && !bmvpi_save(c, y, dim[0] * heads * dim[1])) return NULL;
    return bmvpi_run(c, y);
}
BMVP_API bmvp_tensor *bmvp_attention(bmvp_ctx *c, bmvp_tensor *qkv, int heads, double scale)
{
    return qkv && !bmvp_failed(c) ? bmvpi_attention(c, 1, &qkv, heads, scale) : NULL;
}

/* Whole numbers as a step tensor (float32 holds them up to 2^24), a piece at a time: a step asks for no memory */
static bmvp_tensor *bmvpi_whole_numbers(bmvp_ctx *c, int rank, const int64_t *dim, const int32_t *value)
{
    bmvp_tensor *t = bmvp_input(c, rank, dim, NULL);
    float x[256];
    int64_t i, k, n;
    for (i = 0; t && !bmvp_is_plan(c) && i < t->numel; i += n) {
        n = bmvpi_min(t->numel - i, 256);
        for (k = 0; k < n; ++k) x[k] = (float)value[i + k];
        bmvpi_values_write(c, t->x + i, x, n);
    }
    return t;
}
BMVP_API bmvp_tensor *bmvp_window_attention(bmvp_ctx *c, bmvp_tensor *qkv, int heads, double scale, bmvp_tensor *table,
                                            const int32_t *place, const int32_t *region, int64_t windows)
{
    bmvp_tensor *src[4];
    int64_t dim[2], i, low, high;
    if (!qkv || !table || bmvp_failed(c)) return NULL;
    src[0] = qkv, src[1] = table, src[3] = NULL;
    if (qkv->rank != 3 || table->rank != 2 || table->dim[1] != heads || table->dim[0] % 2 == 0 ||
        (region && (windows < 1 || qkv->dim[0] % windows != 0)))
        return bmvpi_bad_shapes(c, "window attention", "qkv table", src,
                                "they must be (N,T,3C), N a multiple of the %lld windows, and (odd,%d)",
                                (long long)windows, heads);
    for (low = high = place[0], i = 1; i < qkv->dim[1]; ++i) {
        low = bmvpi_min(low, place[i]);
        high = bmvpi_max(high, place[i]);
    }
    if (high - low > table->dim[0] / 2)
        return (bmvp_tensor *)bmvp_fail(c, BMVP_E_ARG,
                                        "window attention: places %lld and %lld are further apart than a table of "
                                        "%lld rows says",
                                        (long long)low, (long long)high, (long long)table->dim[0]);
    dim[0] = windows, dim[1] = qkv->dim[1];
    src[2] = bmvpi_whole_numbers(c, 1, dim + 1, place);
    if (region) src[3] = bmvpi_whole_numbers(c, 2, dim, region);
    return src[2] && (src[3] || !region) ? bmvpi_attention(c, 4, src, heads, scale) : NULL;
}

/* Place in the table of the bias of tokens i and k; what is added for their regions in sample n */
static int64_t bmvpi_bias_at(const bmvp_tensor *y, int64_t h, int64_t i, int64_t k)
{
    const float *place = y->src[2]->x;
    return ((int64_t)(place[i] - place[k]) + y->src[1]->dim[0] / 2) * y->args.attention.heads + h;
}
static float bmvpi_apart(const bmvp_tensor *y, int64_t n, int64_t i, int64_t k)
{
    const float *region = y->src[3] ? y->src[3]->x + n % y->src[3]->dim[0] * y->dim[1] : NULL;
    return region && region[i] != region[k] ? -100.0f : 0.0f;
}
/* The definition: one row of scores p after the other. */
static void bmvpi_attention_plain(const bmvp_tensor *y, float *p)
{
    const int64_t t = y->dim[1], c = y->dim[2], heads = y->args.attention.heads, d = c / heads, step = 3 * c;
    const float scale = (float)y->args.attention.scale;
    int64_t nh, i, k, x;
    for (nh = 0; nh < y->dim[0] * heads; ++nh) {
        const float *q = y->src[0]->x + nh / heads * t * step + nh % heads * d, *key = q + c, *v = key + c;
        float *out = y->x + nh / heads * t * c + nh % heads * d;
        for (i = 0; i < t; ++i) {
            float top = -FLT_MAX, sum = 0;
            for (k = 0; k < t; ++k) {
                for (p[k] = 0, x = 0; x < d; ++x) p[k] += q[i * step + x] * key[k * step + x];
                p[k] *= scale;
                if (y->n_src > 1)
                    p[k] += y->src[1]->x[bmvpi_bias_at(y, nh % heads, i, k)] + bmvpi_apart(y, nh / heads, i, k);
                if (p[k] > top) top = p[k];
            }
            for (k = 0; k < t; ++k) sum += p[k] = bmvpi_expf(p[k] - top);
            for (x = 0; x < d; ++x) {
                float s = 0;
                for (k = 0; k < t; ++k) s += p[k] * v[k * step + x];
                out[i * c + x] = s / sum;
            }
            if (y->saved) y->saved[nh * t + i] = top + bmvpi_logf(sum);
        }
    }
}
/* table: its gradient, or NULL */
static void bmvpi_attention_plain_back(const bmvp_tensor *y, float *g, float *table, float *p)
{
    const int64_t t = y->dim[1], c = y->dim[2], heads = y->args.attention.heads, d = c / heads, step = 3 * c;
    const float scale = (float)y->args.attention.scale;
    float *ds = p + t;
    int64_t nh, i, k, x;
    for (nh = 0; nh < y->dim[0] * heads; ++nh) {
        const int64_t at = nh / heads * t * step + nh % heads * d;
        const float *q = y->src[0]->x + at, *key = q + c, *v = key + c;
        const float *gy = y->g + nh / heads * t * c + nh % heads * d;
        float *dq = g + at, *dk = dq + c, *dv = dk + c;
        for (i = 0; i < t; ++i, gy += c) {
            float dot = 0;
            for (k = 0; k < t; ++k) {
                for (p[k] = ds[k] = 0, x = 0; x < d; ++x) {
                    p[k] += q[i * step + x] * key[k * step + x];
                    ds[k] += gy[x] * v[k * step + x];
                }
                p[k] *= scale;
                if (y->n_src > 1)
                    p[k] += y->src[1]->x[bmvpi_bias_at(y, nh % heads, i, k)] + bmvpi_apart(y, nh / heads, i, k);
                p[k] = bmvpi_expf(p[k] - y->saved[nh * t + i]);
                dot += p[k] * ds[k];
            }
            for (k = 0; k < t; ++k) ds[k] = p[k] * (ds[k] - dot);
            for (k = 0; k < t && table; ++k) table[bmvpi_bias_at(y, nh % heads, i, k)] += ds[k];
            for (k = 0; k < t; ++k) ds[k] *= scale;
            for (k = 0; k < t; ++k)
                for (x = 0; x < d; ++x) {
                    dq[i * step + x] += ds[k] * key[k * step + x];
                    dk[k * step + x] += ds[k] * q[i * step + x];
                    dv[k * step + x] += p[k] * gy[x];
                }
        }
    }
}
static void bmvpi_attention_cpu_forward(bmvp_ctx *c, bmvp_tensor *y)
{
    if (!bmvpi_fast_attention(c, y)) bmvpi_attention_plain(y, bmvpi_workspace(c));
}
static int64_t bmvpi_attention_own_workspace(const bmvp_ctx *c, const bmvp_tensor *y, int backward)
{
    return bmvpi_max(2 * y->dim[1], bmvpi_fast_attention_workspace(c, y, backward));
}
/* A table may want a gradient where qkv wants none: that goes to the workspace. */
static void bmvpi_attention_cpu_backward(bmvp_ctx *c, bmvp_tensor *y)
{
    int add, add_table = 1;
    float *g = bmvpi_grad(c, y->src[0], &add), *table = y->n_src > 1 ? bmvpi_grad(c, y->src[1], &add_table) : NULL;
    if (!g && !table) return;
    if (!g) {
        g = bmvpi_workspace(c) + bmvpi_attention_own_workspace(c, y, 1);
        add = 0;
    }
    if (bmvpi_fast_attention_back(c, y, g, add, table, add_table)) return;
    if (!add) memset(g, 0, (size_t)y->src[0]->numel * sizeof *g);
    if (!add_table) memset(table, 0, (size_t)y->src[1]->numel * sizeof *table);
    bmvpi_attention_plain_back(y, g, table, bmvpi_workspace(c));
}
static int64_t bmvpi_attention_cpu_workspace(const bmvp_ctx *c, const bmvp_tensor *y, int backward)
{
    return bmvpi_attention_own_workspace(c, y, backward) +
           (backward && !y->src[0]->wants_grad ? y->src[0]->numel : 0);
}
/* Without and with a table (of a window of 3 x 3), with regions, too, and with a fixed qkv */
static bmvp_tensor *bmvpi_attention_sample(bmvp_ctx *c, int variant)
{
    const int64_t d[3][3] = { { 2, 5, 3 * 2 * 3 }, { 1, 1, 3 * 4 }, { 1, 7, 3 * 3 * 2 } };
    const int64_t window[3] = { 4, 6, 3 * 2 * 3 }, table[2] = { 25, 2 };
    static const int heads[3] = { 2, 1, 3 };
    static const int32_t place[6] = { 0, 1, 2, 5, 6, 7 };
    static const int32_t region[12] = { 0, 0, 0, 0, 0, 0, 1, 1, 2, 1, 1, 2 };
    if (variant < 3) return bmvp_attention(c, bmvp_leaf(c, 3, d[variant], NULL), heads[variant], 0.7);
    if (variant > 5) return NULL;
    return bmvp_window_attention(c, variant == 5 ? bmvpi_sample_target(c, 3, window) : bmvp_leaf(c, 3, window, NULL), 2,
                                 0.6, bmvp_leaf(c, 2, table, NULL), place, variant == 3 ? NULL : region, 2);
}

/* >>op conv3d: y[n, o, co] = b[co] + sum over taps k and ci of x[n, o stride - pad + k, ci] w[k, ci, co] -------------
   x (N,D,H,W,Ci), w (kd,kh,kw,Ci/groups,Co), b (Co) or NULL, y (N,D',H',W',Co), D' = (D + 2 pad - kd) / stride + 1;
   zeros outside; output channel co reads the input channels of its group. torch.nn.functional.conv3d.
   Backward reads x and w. */
BMVP_API bmvp_conv_shape bmvp_conv_same(int64_t stride, int64_t pad)
{
    bmvp_conv_shape s;
    s.stride[0] = s.stride[1] = s.stride[2] = stride;
    s.pad[0] = s.pad[1] = s.pad[2] = pad;
    s.groups = 1;
    return s;
}
BMVP_API bmvp_tensor *bmvp_conv3d(bmvp_ctx *c, bmvp_tensor *x, bmvp_tensor *w, bmvp_tensor *b,
                                  const bmvp_conv_shape *shape)
{
    const int64_t most = 1 << 20; /* of stride and padding: keeps sizes far from overflow */
    int64_t dim[5], groups = shape->groups;
    bmvp_tensor *src[3] = { x, w, b }, *y;
    int i, fits;
    if (!x || !w || bmvp_failed(c)) return NULL;
    fits = x->rank == 5 && w->rank == 5 && groups >= 1 && w->dim[3] <= x->dim[4] / groups &&
           x->dim[4] == w->dim[3] * groups && w->dim[4] % groups == 0 &&
           (!b || (b->rank == 1 && b->dim[0] == w->dim[4]));
    for (i = 0; i < 3; ++i) fits = fits && shape->stride[i] >= 1 && shape->pad[i] >= 0 && shape->stride[i] <= most &&
                                   shape->pad[i] <= most && x->dim[i + 1] + 2 * shape->pad[i] >= w->dim[i];
    if (!fits)
        return bmvpi_bad_shapes(c, "conv3d", "x w b", src,
                                "they must be (N,D,H,W,Ci), (kd,kh,kw,Ci/groups,Co), (Co) with %lld groups, stride at "
                                "least 1, and the kernel no larger than the padded volume",
                                (long long)groups);
    dim[0] = x->dim[0];
    for (i = 0; i < 3; ++i) dim[i + 1] = (x->dim[i + 1] + 2 * shape->pad[i] - w->dim[i]) / shape->stride[i] + 1;
    dim[4] = w->dim[4];
    y = bmvpi_node(c, BMVP_OP_CONV3D, 5, dim, 3, src);
    if (y) y->args.conv3d = *shape;
    return bmvpi_run(c, y);
}

/* The weights' element (tap, ci, co) lies at w[tap wt + ci wi + co wo], tap = (kd kh kw) in order and wt = ci wi, so
   that one code serves convolutions (wo = 1) and, read backwards, transposed ones (wi = 1). ci counts within the
   group. */
typedef struct bmvpi_conv {
    int64_t n, ci, co, groups;
    int64_t in[3], out[3], k[3], s[3], p[3]; /* D, H, W: input, output, kernel, stride, padding */
    int64_t wt, wi, wo;
} bmvpi_conv;

/* One call: FORWARD: y = x * w + bias; DX: dx = the gradient of x from that of y, g (+ bias: a transposed convolution);
   DW: dw += the gradient of w. y and dx with `accumulate`: +=. The plain loops below are the definition. */
enum { BMVPI_CONV_FORWARD, BMVPI_CONV_DX, BMVPI_CONV_DW };
typedef struct bmvpi_conv_call {
    const bmvpi_conv *v;
    const float *x, *w, *bias, *g;
    float *y, *dx, *dw;
    int accumulate;
} bmvpi_conv_call;
static bmvpi_conv_call bmvpi_conv_call_of(const bmvpi_conv *v)
{
    bmvpi_conv_call q;
    memset(&q, 0, sizeof q);
    q.v = v;
    return q;
}

static void bmvpi_conv_plain_forward(void *arg, int64_t task, int worker) /* task = one row (n, od, oh) of y */
{
    const bmvpi_conv_call *q = (const bmvpi_conv_call *)arg;
    const bmvpi_conv *v = q->v;
    const int64_t n = task / (v->out[0] * v->out[1]), od = task / v->out[1] % v->out[0], oh = task % v->out[1];
    const int64_t cig = v->ci / v->groups, cog = v->co / v->groups;
    int64_t ow, o, a, b, e, i;
    (void)worker;
    for (ow = 0; ow < v->out[2]; ++ow) {
        float *y = q->y + (task * v->out[2] + ow) * v->co;
        for (o = 0; o < v->co; ++o) {
            double sum = q->bias ? (double)q->bias[o] : 0.0;
            for (a = 0; a < v->k[0]; ++a) for (b = 0; b < v->k[1]; ++b) for (e = 0; e < v->k[2]; ++e) {
                const int64_t z = od * v->s[0] - v->p[0] + a, h = oh * v->s[1] - v->p[1] + b;
                const int64_t x = ow * v->s[2] - v->p[2] + e;
                const float *xp = q->x + (((n * v->in[0] + z) * v->in[1] + h) * v->in[2] + x) * v->ci + o / cog * cig;
                const float *wp = q->w + ((a * v->k[1] + b) * v->k[2] + e) * v->wt + o * v->wo;
                if (z < 0 || z >= v->in[0] || h < 0 || h >= v->in[1] || x < 0 || x >= v->in[2]) continue;
                for (i = 0; i < cig; ++i) sum += (double)xp[i] * (double)wp[i * v->wi];
            }
            y[o] = (float)(q->accumulate ? (double)y[o] + sum : sum);
        }
    }
}

/* Where output position o met input position i under tap k: *o, or 0 if it did not. */
static int bmvpi_conv_meets(const bmvpi_conv *v, int axis, int64_t i, int64_t k, int64_t *o)
{
    const int64_t at = i + v->p[axis] - k;
    *o = at / v->s[axis];
    return at >= 0 && at % v->s[axis] == 0 && *o < v->out[axis];
}

/* Gradient of x: the transposed convolution of g */
static void bmvpi_conv_plain_dx(void *arg, int64_t task, int worker) /* task = one row (n, id, ih) */
{
    const bmvpi_conv_call *q = (const bmvpi_conv_call *)arg;
    const bmvpi_conv *v = q->v;
    const int64_t n = task / (v->in[0] * v->in[1]), id = task / v->in[1] % v->in[0], ih = task % v->in[1];
    const int64_t cig = v->ci / v->groups, cog = v->co / v->groups;
    int64_t iw, i, a, b, e, z, h, x, o;
    (void)worker;
    for (iw = 0; iw < v->in[2]; ++iw) {
        float *dx = q->dx + (task * v->in[2] + iw) * v->ci;
        for (i = 0; i < v->ci; ++i) {
            double sum = q->bias ? (double)q->bias[i] : 0.0;
            for (a = 0; a < v->k[0]; ++a) for (b = 0; b < v->k[1]; ++b) for (e = 0; e < v->k[2]; ++e) {
                const float *wp = q->w + ((a * v->k[1] + b) * v->k[2] + e) * v->wt + i % cig * v->wi +
                                  i / cig * cog * v->wo;
                const float *gp;
                if (!bmvpi_conv_meets(v, 0, id, a, &z) || !bmvpi_conv_meets(v, 1, ih, b, &h) ||
                    !bmvpi_conv_meets(v, 2, iw, e, &x))
                    continue;
                gp = q->g + (((n * v->out[0] + z) * v->out[1] + h) * v->out[2] + x) * v->co + i / cig * cog;
                for (o = 0; o < cog; ++o) sum += (double)gp[o] * (double)wp[o * v->wo];
            }
            dx[i] = (float)(q->accumulate ? (double)dx[i] + sum : sum);
        }
    }
}

/* Gradient of w, added */
static void bmvpi_conv_plain_dw(void *arg, int64_t task, int worker) /* task = (tap, input channel of the group) */
{
    const bmvpi_conv_call *q = (const bmvpi_conv_call *)arg;
    const bmvpi_conv *v = q->v;
    const int64_t cig = v->ci / v->groups, cog = v->co / v->groups, tap = task / cig, i = task % cig;
    const int64_t a = tap / (v->k[1] * v->k[2]), b = tap / v->k[2] % v->k[1], e = tap % v->k[2];
    int64_t o, r, x;
    (void)worker;
    for (o = 0; o < v->co; ++o) {
        double sum = 0;
        for (r = 0; r < v->n * v->out[0] * v->out[1]; ++r) {
            const int64_t n = r / (v->out[0] * v->out[1]), z = r / v->out[1] % v->out[0] * v->s[0] - v->p[0] + a;
            const int64_t h = r % v->out[1] * v->s[1] - v->p[1] + b;
            const int64_t row = ((n * v->in[0] + z) * v->in[1] + h) * v->in[2];
            if (z < 0 || z >= v->in[0] || h < 0 || h >= v->in[1]) continue;
            for (x = 0; x < v->out[2]; ++x) {
                const int64_t at = x * v->s[2] - v->p[2] + e;
                if (at < 0 || at >= v->in[2]) continue;
                sum += (double)q->x[(row + at) * v->ci + o / cog * cig + i] *
                       (double)q->g[(r * v->out[2] + x) * v->co + o];
            }
        }
        q->dw[tap * v->wt + i * v->wi + o * v->wo] += (float)sum;
    }
}
static int bmvpi_fast_conv(bmvp_ctx *c, const bmvpi_conv_call *q, int what, float *ws);
static int64_t bmvpi_fast_conv_workspace(const bmvp_ctx *c, const bmvpi_conv *v, int what);

static void bmvpi_conv_run(bmvp_ctx *c, int what, bmvpi_conv_call *q)
{
    const bmvpi_conv *v = q->v;
    if (bmvpi_fast_conv(c, q, what, bmvpi_workspace(c))) return;
    if (what == BMVPI_CONV_FORWARD) bmvp_parallel(c, v->n * v->out[0] * v->out[1], bmvpi_conv_plain_forward, q);
    else if (what == BMVPI_CONV_DX) bmvp_parallel(c, v->n * v->in[0] * v->in[1], bmvpi_conv_plain_dx, q);
    else bmvp_parallel(c, v->k[0] * v->k[1] * v->k[2] * (v->ci / v->groups), bmvpi_conv_plain_dw, q);
}
static int64_t bmvpi_conv_workspace(const bmvp_ctx *c, const bmvpi_conv *v, int what)
{
    return bmvpi_fast_conv_workspace(c, v, what);
}

static bmvpi_conv bmvpi_conv3d_of(const bmvp_tensor *y)
{
    const bmvp_tensor *x = y->src[0], *w = y->src[1];
    bmvpi_conv v;
    int i;
    v.n = x->dim[0];
    v.ci = x->dim[4];
    v.co = y->dim[4];
    v.groups = y->args.conv3d.groups;
    for (i = 0; i < 3; ++i) {
        v.in[i] = x->dim[i + 1];
        v.out[i] = y->dim[i + 1];
        v.k[i] = w->dim[i];
        v.s[i] = y->args.conv3d.stride[i];
        v.p[i] = y->args.conv3d.pad[i];
    }
    v.wt = w->dim[3] * v.co;
    v.wi = v.co;
    v.wo = 1;
    return v;
}
static void bmvpi_conv3d_cpu_forward(bmvp_ctx *c, bmvp_tensor *y)
{
    const bmvpi_conv v = bmvpi_conv3d_of(y);
    bmvpi_conv_call q = bmvpi_conv_call_of(&v);
    q.x = y->src[0]->x;
    q.w = y->src[1]->x;
    q.bias = y->src[2] ? y->src[2]->x : NULL;
    q.y = y->x;
    bmvpi_conv_run(c, BMVPI_CONV_FORWARD, &q);
}
static void bmvpi_conv3d_cpu_backward(bmvp_ctx *c, bmvp_tensor *y)
{
    const bmvpi_conv v = bmvpi_conv3d_of(y);
    bmvpi_conv_call q = bmvpi_conv_call_of(&v);
    float *gb;
    int add_b;
    q.x = y->src[0]->x;
    q.w = y->src[1]->x;
    q.g = y->g;
    q.dx = bmvpi_grad(c, y->src[0], &q.accumulate);
    q.dw = bmvpi_grad_add(c, y->src[1]);
    gb = bmvpi_grad(c, y->src[2], &add_b);
    if (q.dx) bmvpi_conv_run(c, BMVPI_CONV_DX, &q);
    if (q.dw) bmvpi_conv_run(c, BMVPI_CONV_DW, &q);
    if (gb) {
        const bmvpi_gemm_args g = bmvpi_colsum_args(y->g, y->numel / v.co, v.co, gb, add_b);
        bmvpi_gemm(c, &g, bmvpi_workspace(c));
    }
}

/* Workspace of a convolution's backward; v as the kernels see it, x and w the operands whose gradients they make. */
static int64_t bmvpi_conv_backward_workspace(const bmvp_ctx *c, const bmvpi_conv *v, int what_x, const bmvp_tensor *y)
{
    const int64_t co = y->dim[4];
    const bmvpi_gemm_args g = bmvpi_colsum_args(NULL, y->numel / co, co, NULL, 0);
    int64_t n = y->src[2] && y->src[2]->wants_grad ? bmvpi_gemm_workspace(c, &g) : 0;
    if (y->src[0]->wants_grad) n = bmvpi_max(n, bmvpi_conv_workspace(c, v, what_x));
    if (y->src[1]->wants_grad) n = bmvpi_max(n, bmvpi_conv_workspace(c, v, BMVPI_CONV_DW));
    return n;
}
static int64_t bmvpi_conv3d_cpu_workspace(const bmvp_ctx *c, const bmvp_tensor *y, int backward)
{
    const bmvpi_conv v = bmvpi_conv3d_of(y);
    if (backward) return bmvpi_conv_backward_workspace(c, &v, BMVPI_CONV_DX, y);
    return bmvpi_conv_workspace(c, &v, BMVPI_CONV_FORWARD);
}
static bmvp_tensor *bmvpi_conv3d_sample(bmvp_ctx *c, int variant)
{
    static const int64_t x[4][5] = { { 2, 3, 4, 5, 3 }, { 1, 5, 4, 7, 2 }, { 2, 4, 2, 6, 1 }, { 1, 3, 2, 3, 4 } };
    static const int64_t w[4][5] = { { 3, 3, 3, 3, 5 }, { 3, 3, 3, 2, 3 }, { 2, 2, 2, 1, 5 }, { 1, 2, 3, 2, 6 } };
    bmvp_conv_shape s;
    if (variant > 3) return NULL;
    s = bmvp_conv_same(variant == 1 || variant == 2 ? 2 : 1, variant == 2 ? 0 : 1);
    s.groups = variant == 3 ? 2 : 1;
    return bmvp_conv3d(c, bmvp_leaf(c, 5, x[variant], NULL), bmvp_leaf(c, 5, w[variant], NULL),
                       variant == 2 ? NULL : bmvp_leaf(c, 1, &w[variant][4], NULL), &s);
}

/* >>op depthwise3d: y[n,d,h,w,c] = b[c] + sum x[n, d+i-r, h+j-r, w+l-r, c] w[i,j,l,c], r = k / 2 ----------------------
   src x (N,D,H,W,C), w (k,k,k,C), b (C) or NULL; odd k, stride 1. torch conv3d with groups = C. Backward reads x and w.
   residual: plus x. Bits do not depend on threads: weight gradients are summed task by task in order. */
static bmvp_tensor *bmvpi_depthwise3d_node(bmvp_ctx *c, bmvp_tensor *x, bmvp_tensor *w, bmvp_tensor *b, int residual)
{
    bmvp_tensor *src[3] = { x, w, b }, *y;
    if (!x || !w || bmvp_failed(c)) return NULL;
    if (x->rank != 5 || w->rank != 4 || w->dim[0] % 2 == 0 || w->dim[0] > 255 || w->dim[1] != w->dim[0] ||
        w->dim[2] != w->dim[0] || w->dim[3] != x->dim[4] || (b && (b->rank != 1 || b->dim[0] != x->dim[4])))
        return bmvpi_bad_shapes(c, "depthwise3d", "x w b", src,
                                "they must be (N,D,H,W,C), (k,k,k,C) with odd k up to 255, (C)");
    y = bmvpi_node(c, BMVP_OP_DEPTHWISE3D, 5, x->dim, 3, src);
    if (y) y->args.depthwise3d.residual = residual;
    return bmvpi_run(c, y);
}
BMVP_API bmvp_tensor *bmvp_depthwise3d(bmvp_ctx *c, bmvp_tensor *x, bmvp_tensor *w, bmvp_tensor *b)
{
    return bmvpi_depthwise3d_node(c, x, w, b, 0);
}
/* 3^3, 64 channels, 48^3: saves reading y and x and writing y in forward, copying g and reading dx in backward */
BMVP_API bmvp_tensor *bmvp_depthwise3d_residual(bmvp_ctx *c, bmvp_tensor *x, bmvp_tensor *w, bmvp_tensor *b)
{
    return bmvpi_depthwise3d_node(c, x, w, b, 1);
}
typedef struct bmvpi_dw {
    int64_t n, d, h, w, c;
    int k;
    int residual; /* 1: y = x + ...: the middle weight is one more, also in the gradient to x */
} bmvpi_dw;
typedef struct bmvpi_dw_call { /* forward: y of x, w, bias; the gradient to x: dx of g, w; weights: dw, db of x, g */
    bmvpi_dw s;
    const float *x, *g, *w, *bias;
    float *y, *dx, *dw, *db;
    int add, add_b; /* to dx, or dw; to db */
} bmvpi_dw_call;
static int bmvpi_fast_depthwise(bmvp_ctx *c, const bmvpi_dw_call *q, float *ws);
static int bmvpi_fast_depthwise_weights(bmvp_ctx *c, const bmvpi_dw_call *q, float *ws);
static int64_t bmvpi_fast_depthwise_workspace(const bmvp_ctx *c, const bmvpi_dw *s, int weights);

/* The definition, for any odd k: task = one plane of y, or of dx, which is the same of g with the weights turned
   round. */
static void bmvpi_dw_plain_task(void *arg, int64_t task, int worker)
{
    const bmvpi_dw_call *j = (const bmvpi_dw_call *)arg;
    const int64_t k = j->s.k, r = k / 2, d = task % j->s.d, D = j->s.d, H = j->s.h, W = j->s.w, C = j->s.c;
    const float *x = (j->dx ? j->g : j->x) + (task - d) * H * W * C;
    int64_t h, w, c, a, b, e;
    (void)worker;
    for (h = 0; h < H; ++h) for (w = 0; w < W; ++w) for (c = 0; c < C; ++c) {
        float *y = (j->dx ? j->dx : j->y) + ((task * H + h) * W + w) * C + c, sum = j->bias ? j->bias[c] : 0.0f;
        for (a = bmvpi_max(0, r - d); a < bmvpi_min(k, D + r - d); ++a)
            for (b = bmvpi_max(0, r - h); b < bmvpi_min(k, H + r - h); ++b)
                for (e = bmvpi_max(0, r - w); e < bmvpi_min(k, W + r - w); ++e) {
                    const int64_t tap = (a * k + b) * k + e;
                    sum += x[(((d + a - r) * H + h + b - r) * W + w + e - r) * C + c] *
                           j->w[(j->dx ? k * k * k - 1 - tap : tap) * C + c];
                }
        if (j->s.residual) sum += x[((d * H + h) * W + w) * C + c];
        *y = (j->add ? *y : 0.0f) + sum;
    }
}

/* The definition of the weight gradient: task = one tap; the last task is the bias. */
static void bmvpi_dw_plain_weights_task(void *arg, int64_t task, int worker)
{
    const bmvpi_dw_call *j = (const bmvpi_dw_call *)arg;
    const int64_t k = j->s.k, r = k / 2, D = j->s.d, H = j->s.h, W = j->s.w, C = j->s.c;
    const int is_bias = task == k * k * k, add = is_bias ? j->add_b : j->add;
    const int64_t od = is_bias ? 0 : task / (k * k) - r, oh = is_bias ? 0 : task / k % k - r,
                  ow = is_bias ? 0 : task % k - r;
    float *out = is_bias ? j->db : j->dw ? j->dw + task * C : NULL;
    int64_t n, d, h, w, c;
    (void)worker;
    for (c = 0; out && c < C; ++c) {
        double sum = 0;
        for (n = 0; n < j->s.n; ++n)
            for (d = bmvpi_max(0, -od); d < bmvpi_min(D, D - od); ++d)
                for (h = bmvpi_max(0, -oh); h < bmvpi_min(H, H - oh); ++h)
                    for (w = bmvpi_max(0, -ow); w < bmvpi_min(W, W - ow); ++w) {
                        const double g = (double)j->g[(((n * D + d) * H + h) * W + w) * C + c];
                        sum += is_bias ? g : g * (double)j->x[(((n * D + d + od) * H + h + oh) * W + w + ow) * C + c];
                    }
        out[c] = (add ? out[c] : 0.0f) + (float)sum;
    }
}
static bmvpi_dw bmvpi_depthwise3d_shape(const bmvp_tensor *y)
{
    bmvpi_dw s;
    s.n = y->dim[0];
    s.d = y->dim[1];
    s.h = y->dim[2];
    s.w = y->dim[3];
    s.c = y->dim[4];
    s.k = (int)y->src[1]->dim[0];
    s.residual = y->args.depthwise3d.residual;
    return s;
}
static bmvpi_dw_call bmvpi_depthwise3d_call(const bmvp_tensor *y)
{
    bmvpi_dw_call q;
    memset(&q, 0, sizeof q);
    q.s = bmvpi_depthwise3d_shape(y);
    q.x = y->src[0]->x;
    q.w = y->src[1]->x;
    q.g = y->g;
    return q;
}
/* y, or dx if that is set */
static void bmvpi_dw_run(bmvp_ctx *c, bmvpi_dw_call *q)
{
    if (!bmvpi_fast_depthwise(c, q, bmvpi_workspace(c))) bmvp_parallel(c, q->s.n * q->s.d, bmvpi_dw_plain_task, q);
}
static void bmvpi_depthwise3d_cpu_forward(bmvp_ctx *c, bmvp_tensor *y)
{
    bmvpi_dw_call q = bmvpi_depthwise3d_call(y);
    q.bias = y->src[2] ? y->src[2]->x : NULL;
    q.y = y->x;
    bmvpi_dw_run(c, &q);
}
static void bmvpi_depthwise3d_cpu_backward(bmvp_ctx *c, bmvp_tensor *y)
{
    bmvpi_dw_call q = bmvpi_depthwise3d_call(y);
    int add_w;
    q.dx = bmvpi_grad(c, y->src[0], &q.add);
    q.dw = bmvpi_grad(c, y->src[1], &add_w);
    q.db = bmvpi_grad(c, y->src[2], &q.add_b);
    if (q.dx) bmvpi_dw_run(c, &q);
    q.add = add_w;
    if (!q.dw && !q.db) return;
    if (!bmvpi_fast_depthwise_weights(c, &q, bmvpi_workspace(c)))
        bmvp_parallel(c, (int64_t)q.s.k * q.s.k * q.s.k + 1, bmvpi_dw_plain_weights_task, &q);
}
static int64_t bmvpi_depthwise3d_cpu_workspace(const bmvp_ctx *c, const bmvp_tensor *y, int backward)
{
    const bmvpi_dw s = bmvpi_depthwise3d_shape(y);
    return bmvpi_fast_depthwise_workspace(c, &s, backward);
}
static bmvp_tensor *bmvpi_depthwise3d_sample(bmvp_ctx *c, int variant)
{
    const int64_t x3[5] = { 1, 3, 4, 6, 17 }, x5[5] = { 2, 2, 3, 5, 3 }, w3[4] = { 3, 3, 3, 17 },
                  w5[4] = { 5, 5, 5, 3 }, b[1] = { 17 };
    const int64_t x1[5] = { 1, 2, 1, 3, 2 }, w1[4] = { 1, 1, 1, 2 };
    if (variant == 0)
        return bmvp_depthwise3d(c, bmvp_leaf(c, 5, x3, NULL), bmvp_leaf(c, 4, w3, NULL), bmvp_leaf(c, 1, b, NULL));
    if (variant == 1) return bmvp_depthwise3d(c, bmvp_leaf(c, 5, x5, NULL), bmvp_leaf(c, 4, w5, NULL), NULL);
    if (variant == 2) return bmvp_depthwise3d(c, bmvp_leaf(c, 5, x1, NULL), bmvp_leaf(c, 4, w1, NULL), NULL);
    return variant == 3 ? bmvp_depthwise3d_residual(c, bmvp_leaf(c, 5, x3, NULL), bmvp_leaf(c, 4, w3, NULL),
                                                    bmvp_leaf(c, 1, b, NULL))
                        : NULL;
}

/* >>op conv_transpose3d: y[n, k d + a, k h + b, k w + e, o] = bias[o] + sum over i of x[n, d, h, w, i] w[i, a, b, e, o]
   x (N,D,H,W,Ci), w (Ci,k,k,k,Co), bias (Co) or NULL, y (N,kD,kH,kW,Co). torch.nn.functional.conv_transpose3d with
   kernel = stride = k. The order of w makes it one matrix (Ci, k^3 Co), as which decoders are composed. It is the
   gradient of the convolution y -> x with the same kernel and is computed by those kernels. Backward reads x and w. */
BMVP_API bmvp_tensor *bmvp_conv_transpose3d(bmvp_ctx *c, bmvp_tensor *x, bmvp_tensor *w, bmvp_tensor *b)
{
    bmvp_tensor *src[3] = { x, w, b };
    int64_t dim[5];
    int i;
    if (!x || !w || bmvp_failed(c)) return NULL;
    if (x->rank != 5 || w->rank != 5 || w->dim[0] != x->dim[4] || w->dim[1] != w->dim[2] || w->dim[1] != w->dim[3] ||
        (b && (b->rank != 1 || b->dim[0] != w->dim[4])))
        return bmvpi_bad_shapes(c, "conv_transpose3d", "x w b", src, "they must be (N,D,H,W,Ci), (Ci,k,k,k,Co), (Co)");
    dim[0] = x->dim[0];
    for (i = 1; i < 4; ++i) dim[i] = bmvpi_mul_size(x->dim[i], w->dim[i]);
    dim[4] = w->dim[4];
    return bmvpi_run(c, bmvpi_node(c, BMVP_OP_CONV_TRANSPOSE3D, 5, dim, 3, src));
}

static bmvpi_conv bmvpi_conv_transpose3d_of(const bmvp_tensor *y) /* the convolution from y to x */
{
    const bmvp_tensor *x = y->src[0], *w = y->src[1];
    bmvpi_conv v;
    int i;
    v.n = x->dim[0];
    v.ci = y->dim[4];
    v.co = x->dim[4];
    v.groups = 1;
    for (i = 0; i < 3; ++i) {
        v.in[i] = y->dim[i + 1];
        v.out[i] = x->dim[i + 1];
        v.k[i] = v.s[i] = w->dim[i + 1];
        v.p[i] = 0;
    }
    v.wt = v.ci;
    v.wi = 1;
    v.wo = w->numel / v.co;
    return v;
}
/* Of the convolution from y to x: x is its "gradient of the result", y its "gradient of the operand" */
static void bmvpi_conv_transpose3d_cpu_forward(bmvp_ctx *c, bmvp_tensor *y)
{
    const bmvpi_conv v = bmvpi_conv_transpose3d_of(y);
    bmvpi_conv_call q = bmvpi_conv_call_of(&v);
    q.g = y->src[0]->x;
    q.w = y->src[1]->x;
    q.bias = y->src[2] ? y->src[2]->x : NULL;
    q.dx = y->x;
    bmvpi_conv_run(c, BMVPI_CONV_DX, &q);
}
static void bmvpi_conv_transpose3d_cpu_backward(bmvp_ctx *c, bmvp_tensor *y)
{
    const bmvpi_conv v = bmvpi_conv_transpose3d_of(y);
    bmvpi_conv_call q = bmvpi_conv_call_of(&v);
    float *gb;
    int add_b;
    q.x = y->g;
    q.w = y->src[1]->x;
    q.g = y->src[0]->x;
    q.y = bmvpi_grad(c, y->src[0], &q.accumulate);
    q.dw = bmvpi_grad_add(c, y->src[1]);
    gb = bmvpi_grad(c, y->src[2], &add_b);
    if (q.y) bmvpi_conv_run(c, BMVPI_CONV_FORWARD, &q);
    if (q.dw) bmvpi_conv_run(c, BMVPI_CONV_DW, &q);
    if (gb) {
        const bmvpi_gemm_args g = bmvpi_colsum_args(y->g, y->numel / v.ci, v.ci, gb, add_b);
        bmvpi_gemm(c, &g, bmvpi_workspace(c));
    }
}
static int64_t bmvpi_conv_transpose3d_cpu_workspace(const bmvp_ctx *c, const bmvp_tensor *y, int backward)
{
    const bmvpi_conv v = bmvpi_conv_transpose3d_of(y);
    if (backward) return bmvpi_conv_backward_workspace(c, &v, BMVPI_CONV_FORWARD, y);
    return bmvpi_conv_workspace(c, &v, BMVPI_CONV_DX);
}
static bmvp_tensor *bmvpi_conv_transpose3d_sample(bmvp_ctx *c, int variant)
{
    static const int64_t x[2][5] = { { 2, 3, 1, 4, 5 }, { 1, 2, 3, 2, 3 } };
    static const int64_t w[2][5] = { { 5, 2, 2, 2, 3 }, { 3, 3, 3, 3, 2 } };
    if (variant > 1) return NULL;
    return bmvp_conv_transpose3d(c, bmvp_leaf(c, 5, x[variant], NULL), bmvp_leaf(c, 5, w[variant], NULL),
                                 variant ? NULL : bmvp_leaf(c, 1, &w[variant][4], NULL));
}

/* >>norms ---------------------------------------------------------------------------------------------------------- */

/* Returns the number of rows a statistic was taken over: with `all_ranks` (of one sample) those of all of them. */
static double bmvpi_norm_statistics(bmvp_ctx *c, bmvp_tensor *y, int64_t samples, int64_t groups, double eps,
                                    int all_ranks)
{
    bmvpi_columns k = bmvpi_norm_columns(y, samples);
    double *mean = bmvpi_columns_attach(&k, bmvpi_workspace(c)), *m2 = mean + samples * k.c, rows = (double)k.rows;
    const int64_t width = k.c / groups;
    int64_t i, j;
    bmvpi_columns_moments(c, &k, mean);
    if (all_ranks && c->comm) rows = bmvpi_comm_moments(c, mean, k.c, k.rows);
    for (i = 0; i < samples * groups; ++i) {
        double m = 0, v = 0;
        for (j = i * width; j < (i + 1) * width; ++j) m += mean[j] / (double)width;
        for (j = i * width; j < (i + 1) * width; ++j) v += m2[j] + rows * (mean[j] - m) * (mean[j] - m);
        v /= rows * (double)width;
        y->saved[i] = (float)m;
        y->saved[samples * groups + i] = (float)(1.0 / sqrt(v + eps));
    }
    return rows;
}

/* y = (x - mean) / std gamma + beta */
static void bmvpi_norm_apply(bmvp_ctx *c, bmvp_tensor *y, int64_t samples, int64_t groups)
{
    bmvpi_columns k = bmvpi_norm_columns(y, samples);
    const int64_t n = samples * k.c, width = k.c / groups;
    float *mean = bmvpi_workspace(c), *slope = mean + n, *shift = slope + n;
    int64_t i;
    for (i = 0; i < n; ++i) {
        mean[i] = y->saved[i / width];
        slope[i] = y->saved[samples * groups + i / width] * (y->src[1] ? y->src[1]->x[i % k.c] : 1.0f);
        shift[i] = y->src[2] ? y->src[2]->x[i % k.c] : 0.0f;
    }
    k.mean = mean;
    k.slope = slope;
    k.shift = shift;
    k.to = y->x;
    bmvp_parallel(c, samples * k.chunks, bmvpi_columns_apply_task, &k);
}

/* The two sums of a batch norm's backward over the rows of all ranks, and their number; free them. */
static double *bmvpi_comm_norm_sums(bmvp_ctx *c, const double *own, int64_t ch, double *rows)
{
    double *sum = (double *)bmvpi_alloc(c, (2 * ch + 1) * (int64_t)sizeof *sum);
    if (!sum) return NULL;
    memcpy(sum, own, (size_t)(2 * ch) * sizeof *sum);
    sum[2 * ch] = *rows;
    if (bmvpi_comm_sum_doubles(c, sum, 2 * ch + 1)) {
        *rows = sum[2 * ch];
        return sum;
    }
    bmvpi_free(c, sum);
    return NULL;
}

/* With M elements in a group, s = 1 / std, sums over the group: dx = s (gamma g - sum(gamma g) / M - (x - mean) s^2
   sum(gamma g (x - mean)) / M); without batch statistics (constant mean and std) only the first term. dgamma = sum g
   (x - mean) s, dbeta = sum g. Batch norm over several ranks: the sums of dx are over the rows of all, those of dgamma
   and dbeta over this rank's, as all gradients of parameters before they are exchanged. */
static void bmvpi_norm_backward(bmvp_ctx *c, bmvp_tensor *y, int64_t samples, int64_t groups, int batch, int all_ranks)
{
    bmvpi_columns k = bmvpi_norm_columns(y, samples);
    const int64_t n = samples * k.c, width = k.c / groups;
    int add_gamma, add_beta;
    float *gx = bmvpi_grad(c, y->src[0], &k.add), *ggamma = bmvpi_grad(c, y->src[1], &add_gamma);
    float *gbeta = bmvpi_grad(c, y->src[2], &add_beta);
    float *mean, *scale, *slope, *shift;
    double *sum, *dot, *all, rows = (double)k.rows;
    int64_t i, j;
    if (!gx && !ggamma && !gbeta) return;
    sum = bmvpi_columns_attach(&k, bmvpi_workspace(c));
    dot = sum + n;
    mean = bmvpi_workspace(c) + bmvpi_columns_workspace(&k);
    scale = mean + n;
    slope = scale + n;
    shift = slope + n;
    for (i = 0; i < n; ++i) mean[i] = y->saved[i / width];
    k.mean = mean;
    bmvpi_columns_sums(c, &k, bmvpi_columns_dots_task, sum);
    all = all_ranks && batch && c->comm ? bmvpi_comm_norm_sums(c, sum, k.c, &rows) : sum;
    for (i = 0; all && i < samples * groups; ++i) {
        const double s = (double)y->saved[samples * groups + i], m = rows * (double)width;
        double a = 0, b = 0;
        for (j = i * width; batch && j < (i + 1) * width; ++j) {
            const double gamma = y->src[1] ? (double)y->src[1]->x[j % k.c] : 1.0;
            a += gamma * all[j];
            b += gamma * all[n + j];
        }
        for (j = i * width; j < (i + 1) * width; ++j) {
            scale[j] = (float)(s * (y->src[1] ? (double)y->src[1]->x[j % k.c] : 1.0));
            slope[j] = (float)(-s * s * s * b / m);
            shift[j] = (float)(-s * a / m);
            dot[j] *= s;
        }
    }
    if (all != sum) bmvpi_free(c, all);
    for (i = 0; i < k.c; ++i) {
        double a = 0, b = 0;
        for (j = i; j < n; j += k.c) {
            a += dot[j];
            b += sum[j];
        }
        if (ggamma) ggamma[i] = (add_gamma ? ggamma[i] : 0.0f) + (float)a;
        if (gbeta) gbeta[i] = (add_beta ? gbeta[i] : 0.0f) + (float)b;
    }
    k.scale = scale;
    k.slope = slope;
    k.shift = shift;
    k.to = gx;
    if (gx) bmvp_parallel(c, samples * k.chunks, bmvpi_columns_join_task, &k);
}

/* >>op batchnorm: y = (x - mean) / sqrt(var + eps) gamma + beta over all axes but the last ----------------------------
   src x (...,C), gamma, beta, running mean, running var (C), of each pair both or none. Training:
   batch mean and biased variance, and running += momentum (batch - running) with the unbiased variance; else the
   running ones. torch BatchNorm3d. saved: mean, 1 / std. A value computed again after a drop uses these and leaves
   the running ones alone. With bmvp_set_comm the batch is that of all ranks. */
BMVP_API bmvp_tensor *bmvp_batchnorm(bmvp_ctx *c, bmvp_tensor *x, bmvp_tensor *gamma, bmvp_tensor *beta,
                                     bmvp_tensor *running_mean, bmvp_tensor *running_var, int training, double momentum,
                                     double eps)
{
    bmvp_tensor *src[5] = { x, gamma, beta, running_mean, running_var }, *y;
    int i;
    if (!x || bmvp_failed(c)) return NULL;
    for (i = 1; i < 5; ++i)
        if (x->rank < 1 || (src[i] && !bmvpi_norm_fits(x, src[i])) || !src[i] != !src[i % 2 ? i + 1 : i - 1] ||
            (!training && !running_mean))
            return bmvpi_bad_shapes(c, "batchnorm", "x gamma beta running_mean running_var", src,
                                    "x must be (..., C), the others (C), or both of a pair none%s",
                                    training ? "" : "; without training it needs running statistics");
    y = bmvpi_node(c, BMVP_OP_BATCHNORM, x->rank, x->dim, 5, src);
    if (!bmvpi_save(c, y, 2 * bmvpi_last_dim(x))) return NULL;
    y->args.batchnorm.training = training != 0;
    y->args.batchnorm.momentum = momentum;
    y->args.batchnorm.eps = eps;
    return bmvpi_run(c, y);
}
static void bmvpi_batchnorm_cpu_forward(bmvp_ctx *c, bmvp_tensor *y)
{
    const int64_t ch = bmvpi_last_dim(y);
    const double momentum = y->args.batchnorm.momentum, eps = y->args.batchnorm.eps;
    float *mean = y->src[3] ? y->src[3]->x : NULL, *var = mean ? y->src[4]->x : NULL;
    int64_t i;
    if (y->args.batchnorm.training && !c->recompute) {
        const double *m2 = (const double *)(const void *)bmvpi_workspace(c) + ch;
        const double rows = bmvpi_norm_statistics(c, y, 1, ch, eps, 1), unbiased = rows / (rows > 1 ? rows - 1 : 1);
        for (i = 0; mean && i < ch && rows > 0; ++i) {
            mean[i] += (float)(momentum * ((double)y->saved[i] - (double)mean[i]));
            var[i] += (float)(momentum * (m2[i] / rows * unbiased - (double)var[i]));
        }
    }
    for (i = 0; !y->args.batchnorm.training && !c->recompute && i < ch; ++i) {
        y->saved[i] = mean[i];
        y->saved[ch + i] = (float)(1.0 / sqrt((double)var[i] + eps));
    }
    bmvpi_norm_apply(c, y, 1, ch);
}
static void bmvpi_batchnorm_cpu_backward(bmvp_ctx *c, bmvp_tensor *y)
{
    bmvpi_norm_backward(c, y, 1, bmvpi_last_dim(y), y->args.batchnorm.training, 1);
}
static int64_t bmvpi_batchnorm_cpu_workspace(const bmvp_ctx *c, const bmvp_tensor *y, int backward)
{
    (void)c;
    (void)backward;
    return bmvpi_norm_workspace(y, 1);
}
static bmvp_tensor *bmvpi_batchnorm_sample(bmvp_ctx *c, int variant)
{
    const int64_t d[5] = { 2, 2, 1, 3, 5 }, ch[1] = { 5 };
    bmvp_tensor *mean, *var;
    if (variant == 2) return bmvp_batchnorm(c, bmvp_leaf(c, 5, d, NULL), NULL, NULL, NULL, NULL, 1, 0, 1e-5);
    if (variant > 2) return NULL;
    mean = bmvp_buffer(c, "mean", 1, ch);
    var = bmvp_buffer(c, "var", 1, ch);
    bmvp_fill(c, mean, 0.1f);
    bmvp_fill(c, var, 0.5f);
    return bmvp_batchnorm(c, bmvp_leaf(c, 5, d, NULL), bmvp_leaf(c, 1, ch, NULL), bmvp_leaf(c, 1, ch, NULL), mean, var,
                          variant == 0, 0.1, 1e-5);
}

/* >>op layernorm: y = (x - mean) / sqrt(var + eps) gamma + beta over the last axis ------------------------------------
   src x (...,C), gamma, beta (C); biased variance, two passes over a row in L1. torch LayerNorm. saved:
   mean and 1 / std of each row. Backward reads x, gamma: with h = gamma g, t = (x - mean) s: dx = s (h - mean(h) - t
   mean(h t)). */
BMVP_API bmvp_tensor *bmvp_layernorm(bmvp_ctx *c, bmvp_tensor *x, bmvp_tensor *gamma, bmvp_tensor *beta, double eps)
{
    bmvp_tensor *src[3] = { x, gamma, beta }, *y;
    if (!x || !gamma || !beta || bmvp_failed(c)) return NULL;
    if (!bmvpi_norm_fits(x, gamma) || !bmvpi_norm_fits(x, beta))
        return bmvpi_bad_shapes(c, "layernorm", "x gamma beta", src, "they must be (..., C), (C), (C)");
    y = bmvpi_node(c, BMVP_OP_LAYERNORM, x->rank, x->dim, 3, src);
    if (!bmvpi_save(c, y, x->numel / gamma->numel * 2)) return NULL;
    y->args.layernorm.eps = eps;
    return bmvpi_run(c, y);
}
BMVPI_HOT static void bmvpi_layernorm_rows(const bmvpi_map *m, int64_t lo, int64_t hi)
{
    int64_t r, i;
    for (r = lo; r < hi; ++r) {
        const float *x = m->x + r * m->c;
        const float mean = (float)(bmvpi_reduce_sum(x, m->c) / (double)m->c);
        const float s = (float)(1.0 / sqrt(bmvpi_reduce_var(x, mean, m->c) / (double)m->c + (double)m->eps));
        float *BMVP_RESTRICT y = m->y + r * m->c;
        m->saved[2 * r] = mean;
        m->saved[2 * r + 1] = s;
        for (i = 0; i < m->c; ++i) y[i] = (x[i] - mean) * s * m->gamma[i] + m->beta[i];
    }
}
static void bmvpi_layernorm_cpu_forward(bmvp_ctx *c, bmvp_tensor *y)
{
    const int64_t ch = y->src[1]->numel;
    bmvpi_map m = bmvpi_map_make(c, y->numel / ch, ch);
    m.x = y->src[0]->x;
    m.gamma = y->src[1]->x;
    m.beta = y->src[2]->x;
    m.eps = (float)y->args.layernorm.eps;
    m.y = y->x;
    m.saved = y->saved;
    bmvpi_map_run(c, &m, bmvpi_layernorm_rows);
}
/* dx of a chunk of rows, when wanted, and its sums of g and g t */
BMVPI_HOT static void bmvpi_layernorm_back_task(void *arg, int64_t task, int worker)
{
    const bmvpi_columns *k = (const bmvpi_columns *)arg;
    const int64_t c = k->c;
    int64_t sample, n, r, i;
    const int64_t first = bmvpi_columns_range(k, task, &sample, &n);
    float *BMVP_RESTRICT sum = k->part + task * 2 * c, *BMVP_RESTRICT dot = sum + c;
    (void)worker;
    memset(sum, 0, (size_t)(2 * c) * sizeof(float));
    for (r = first; r < first + n; ++r) {
        const float *x = k->x + r * c, *g = k->a + r * c, *gamma = k->gamma;
        const float mean = k->saved[2 * r], s = k->saved[2 * r + 1];
        float *BMVP_RESTRICT dx = k->to + r * c;
        for (i = 0; i < c; ++i) {
            sum[i] += g[i];
            dot[i] += g[i] * ((x[i] - mean) * s);
        }
        if (k->to) {
            const float a = (float)(bmvpi_reduce_dot(g, gamma, c) / (double)c);
            const float b = (float)(bmvpi_reduce_centred(g, gamma, x, mean, c) / (double)c) * s;
            if (k->add) for (i = 0; i < c; ++i) dx[i] += s * (g[i] * gamma[i] - a - (x[i] - mean) * s * b);
            else for (i = 0; i < c; ++i) dx[i] = s * (g[i] * gamma[i] - a - (x[i] - mean) * s * b);
        }
    }
}
static void bmvpi_layernorm_cpu_backward(bmvp_ctx *c, bmvp_tensor *y)
{
    bmvpi_columns k = bmvpi_norm_columns(y, 1);
    int add_gamma, add_beta;
    float *ggamma, *gbeta;
    double *sum;
    int64_t i;
    k.to = bmvpi_grad(c, y->src[0], &k.add);
    ggamma = bmvpi_grad(c, y->src[1], &add_gamma);
    gbeta = bmvpi_grad(c, y->src[2], &add_beta);
    if (!k.to && !ggamma && !gbeta) return;
    k.saved = y->saved;
    k.gamma = y->src[1]->x;
    sum = bmvpi_columns_attach(&k, bmvpi_workspace(c));
    bmvpi_columns_sums(c, &k, bmvpi_layernorm_back_task, sum);
    for (i = 0; ggamma && i < k.c; ++i) ggamma[i] = (add_gamma ? ggamma[i] : 0.0f) + (float)sum[k.c + i];
    for (i = 0; gbeta && i < k.c; ++i) gbeta[i] = (add_beta ? gbeta[i] : 0.0f) + (float)sum[i];
}
static int64_t bmvpi_layernorm_cpu_workspace(const bmvp_ctx *c, const bmvp_tensor *y, int backward)
{
    (void)c;
    return backward ? bmvpi_norm_workspace(y, 1) : 0;
}
static bmvp_tensor *bmvpi_layernorm_sample(bmvp_ctx *c, int variant)
{
    const int64_t d[3] = { 2, 3, 7 }, ch[1] = { 7 }, wide[2] = { 3, 37 }, wch[1] = { 37 };
    if (variant == 0)
        return bmvp_layernorm(c, bmvp_leaf(c, 3, d, NULL), bmvp_leaf(c, 1, ch, NULL), bmvp_leaf(c, 1, ch, NULL), 1e-6);
    return variant == 1 ? bmvp_layernorm(c, bmvp_leaf(c, 2, wide, NULL), bmvp_leaf(c, 1, wch, NULL),
                                         bmvp_leaf(c, 1, wch, NULL), 1e-5)
                        : NULL;
}

/* >>op groupnorm: y = (x - mean) / sqrt(var + eps) gamma + beta per sample and group of C / G neighbouring channels ---
   src x (N,...,C), gamma, beta (C) or both absent; G groups; biased variance. torch GroupNorm; G = C
   is instance norm. saved: mean, 1 / std of each (n, g). Backward reads x and gamma. */
BMVP_API bmvp_tensor *bmvp_groupnorm(bmvp_ctx *c, bmvp_tensor *x, bmvp_tensor *gamma, bmvp_tensor *beta, int groups,
                                     double eps)
{
    bmvp_tensor *src[3] = { x, gamma, beta }, *y;
    if (!x || bmvp_failed(c)) return NULL;
    if (x->rank < 2 || !gamma != !beta || (gamma && (!bmvpi_norm_fits(x, gamma) || !bmvpi_norm_fits(x, beta))) ||
        groups < 1 || x->dim[x->rank - 1] % groups)
        return bmvpi_bad_shapes(c, "groupnorm", "x gamma beta", src,
                                "they must be (N, ..., C), (C), (C) or both none, and C divisible by %d groups",
                                groups);
    y = bmvpi_node(c, BMVP_OP_GROUPNORM, x->rank, x->dim, 3, src);
    if (!bmvpi_save(c, y, 2 * x->dim[0] * groups)) return NULL;
    y->args.groupnorm.groups = groups;
    y->args.groupnorm.eps = eps;
    return bmvpi_run(c, y);
}
BMVP_API bmvp_tensor *bmvp_instancenorm(bmvp_ctx *c, bmvp_tensor *x, double eps)
{
    return x && x->rank >= 1 && x->dim[x->rank - 1] <= INT32_MAX
               ? bmvp_groupnorm(c, x, NULL, NULL, (int)x->dim[x->rank - 1], eps)
               : NULL;
}
static void bmvpi_groupnorm_cpu_forward(bmvp_ctx *c, bmvp_tensor *y)
{
    if (!c->recompute) (void)bmvpi_norm_statistics(c, y, y->dim[0], y->args.groupnorm.groups, y->args.groupnorm.eps, 0);
    bmvpi_norm_apply(c, y, y->dim[0], y->args.groupnorm.groups);
}
static void bmvpi_groupnorm_cpu_backward(bmvp_ctx *c, bmvp_tensor *y)
{
    bmvpi_norm_backward(c, y, y->dim[0], y->args.groupnorm.groups, 1, 0);
}
static int64_t bmvpi_groupnorm_cpu_workspace(const bmvp_ctx *c, const bmvp_tensor *y, int backward)
{
    (void)c;
    (void)backward;
    return bmvpi_norm_workspace(y, y->dim[0]);
}
static bmvp_tensor *bmvpi_groupnorm_sample(bmvp_ctx *c, int variant)
{
    const int64_t d[5] = { 2, 2, 3, 1, 6 }, ch[1] = { 6 };
    const int groups[3] = { 2, 6, 1 };
    if (variant > 3) return NULL;
    if (variant == 3) return bmvp_instancenorm(c, bmvp_leaf(c, 5, d, NULL), 1e-5);
    return bmvp_groupnorm(c, bmvp_leaf(c, 5, d, NULL), bmvp_leaf(c, 1, ch, NULL), bmvp_leaf(c, 1, ch, NULL),
                          groups[variant], 1e-5);
}

/* >>op masked_fill: y = mask ? filler : x -----------------------------------------------------------------------------
   src x, filler, mask; start (D, H, W) of x in the filler. Backward reads the mask only. Source: method of
   BrainMVP, Algorithm 1 (Phi). Each filler voxel is met at most once, so the scatter needs no order. */
BMVP_API bmvp_tensor *bmvp_masked_fill(bmvp_ctx *c, bmvp_tensor *x, bmvp_tensor *filler, bmvp_tensor *mask,
                                       const int64_t start[3])
{
    bmvp_tensor *src[3] = { x, filler, mask }, *y;
    int i;
    if (!x || !filler || !mask || bmvp_failed(c)) return NULL;
    if (x->rank != 3 || filler->rank != 3 || !bmvpi_same_shape(x, mask))
        return bmvpi_bad_shapes(c, "masked_fill", "x filler mask", src,
                                "x and mask must be (D,H,W) of one shape, the filler a volume");
    y = bmvpi_node(c, BMVP_OP_MASKED_FILL, 3, x->dim, 3, src);
    for (i = 0; y && i < 3; ++i) y->args.masked_fill.start[i] = start[i];
    return bmvpi_run(c, y);
}

/* Row (z, y) of x: the part [*lo, *hi) that lies in the filler, and the filler's index of its first element. */
static int64_t bmvpi_masked_row(const bmvp_tensor *t, int64_t z, int64_t y, int64_t *lo, int64_t *hi)
{
    const bmvp_tensor *f = t->src[1];
    const int64_t fz = z + t->args.masked_fill.start[0], fy = y + t->args.masked_fill.start[1],
                  fx = t->args.masked_fill.start[2];
    *lo = bmvpi_min(bmvpi_max(0, -fx), t->dim[2]);
    *hi = bmvpi_max(*lo, bmvpi_min(t->dim[2], f->dim[2] - fx));
    if (fz < 0 || fz >= f->dim[0] || fy < 0 || fy >= f->dim[1]) *hi = *lo;
    return *hi > *lo ? (fz * f->dim[1] + fy) * f->dim[2] + fx + *lo : 0;
}
static void bmvpi_masked_fill_cpu_forward(bmvp_ctx *c, bmvp_tensor *t)
{
    int64_t r, i, lo, hi;
    (void)c;
    for (r = 0; r < t->dim[0] * t->dim[1]; ++r) {
        const int64_t f0 = bmvpi_masked_row(t, r / t->dim[1], r % t->dim[1], &lo, &hi);
        const float *x = t->src[0]->x + r * t->dim[2], *m = t->src[2]->x + r * t->dim[2], *f = t->src[1]->x + f0;
        float *y = t->x + r * t->dim[2];
        for (i = 0; i < t->dim[2]; ++i) y[i] = m[i] == 0.0f ? x[i] : i >= lo && i < hi ? f[i - lo] : 0.0f;
    }
}
static void bmvpi_masked_fill_cpu_backward(bmvp_ctx *c, bmvp_tensor *t)
{
    int64_t r, i, lo, hi;
    float *gx = bmvpi_grad_add(c, t->src[0]), *gf = bmvpi_grad_add(c, t->src[1]);
    for (r = 0; (gx || gf) && r < t->dim[0] * t->dim[1]; ++r) {
        const int64_t f0 = bmvpi_masked_row(t, r / t->dim[1], r % t->dim[1], &lo, &hi), x0 = r * t->dim[2];
        const float *m = t->src[2]->x + x0, *g = t->g + x0;
        for (i = 0; gx && i < t->dim[2]; ++i) if (m[i] == 0.0f) gx[x0 + i] += g[i];
        for (i = lo; gf && i < hi; ++i) if (m[i] != 0.0f) gf[f0 + i - lo] += g[i];
    }
}
#define bmvpi_masked_fill_cpu_workspace NULL
static bmvp_tensor *bmvpi_masked_fill_sample(bmvp_ctx *c, int variant)
{
    const int64_t xd[3] = { 3, 4, 5 }, fd[3] = { 4, 3, 6 }, start[2][3] = { { 1, 0, 1 }, { -1, -2, 3 } };
    float mask[3 * 4 * 5];
    int64_t i;
    if (variant > 1) return NULL;
    for (i = 0; i < 3 * 4 * 5; ++i) mask[i] = (float)(i * 7 % 3 != 0);
    return bmvp_masked_fill(c, bmvp_leaf(c, 3, xd, NULL), bmvp_leaf(c, 3, fd, NULL), bmvp_input(c, 3, xd, mask),
                            start[variant]);
}

/* >>op minmax: y = (x - min) / (max - min + eps) ----------------------------------------------------------------------
   saved: min, max, number of elements equal to each. The release's template normalisation. With y = (x - a) / s,
   s = b - a + eps: dx += g / s everywhere; da = sum g (y - 1) / s, db = -sum g y / s, shared evenly by the ties of min
   and max. */
BMVP_API bmvp_tensor *bmvp_minmax(bmvp_ctx *c, bmvp_tensor *x, double eps)
{
    bmvp_tensor *y = x ? bmvpi_node(c, BMVP_OP_MINMAX, x->rank, x->dim, 1, &x) : NULL;
    if (y) y->args.minmax.eps = eps;
    return bmvpi_save(c, y, 4) ? bmvpi_run(c, y) : NULL;
}
static void bmvpi_minmax_cpu_forward(bmvp_ctx *c, bmvp_tensor *y)
{
    const float *x = y->src[0]->x;
    float lo = x[0], hi = x[0], s;
    int64_t i, n_lo = 0, n_hi = 0;
    (void)c;
    for (i = 0; i < y->numel; ++i) {
        lo = x[i] < lo ? x[i] : lo;
        hi = x[i] > hi ? x[i] : hi;
    }
    s = hi - lo + (float)y->args.minmax.eps;
    for (i = 0; i < y->numel; ++i) {
        n_lo += x[i] == lo;
        n_hi += x[i] == hi;
        y->x[i] = (x[i] - lo) / s;
    }
    y->saved[0] = lo;
    y->saved[1] = hi;
    y->saved[2] = (float)n_lo;
    y->saved[3] = (float)n_hi;
}
static void bmvpi_minmax_cpu_backward(bmvp_ctx *c, bmvp_tensor *y)
{
    float *gx = bmvpi_grad_add(c, y->src[0]);
    const float *x = y->src[0]->x, *g = y->g;
    double da = 0, db = 0, s;
    int64_t i;
    if (!gx) return;
    s = (double)(y->saved[1] - y->saved[0] + (float)y->args.minmax.eps);
    for (i = 0; i < y->numel; ++i) {
        const double v = ((double)x[i] - (double)y->saved[0]) / s;
        da += (double)g[i] * (v - 1.0) / s;
        db -= (double)g[i] * v / s;
    }
    da /= (double)y->saved[2];
    db /= (double)y->saved[3];
    for (i = 0; i < y->numel; ++i) {
        double d = (double)g[i] / s;
        if (x[i] == y->saved[0]) d += da;
        if (x[i] == y->saved[1]) d += db;
        gx[i] += (float)d;
    }
}
#define bmvpi_minmax_cpu_workspace NULL
static bmvp_tensor *bmvpi_minmax_sample(bmvp_ctx *c, int variant)
{
    const int64_t d[3] = { 2, 3, 5 };
    return variant == 0 ? bmvp_minmax(c, bmvp_leaf(c, 3, d, NULL), 0.25) : NULL;
}

/* >>device of the CPU ------------------------------------------------------------------------------------------------
   What another backend does with its own memory and its own optimizer, here with the host's: so no caller asks which
   one it has. All is done when a call returns, and what was posted is there. The step of an optimizer is cut into
   pieces of 65536 elements, for threads and for the fixed order of the norm's sum. */

#if !defined(BMVP_NO_SIMD) && defined(__x86_64__) && (defined(__clang__) || (defined(__GNUC__) && __GNUC__ >= 10))
#define BMVPI_HAVE_BF16 1
#endif
static int bmvpi_cpu_computes(const bmvp_config *k, bmvp_error *err)
{
    if (k->precision == BMVP_FP32) return 1;
#if defined(BMVPI_HAVE_BF16)
    if (k->precision == BMVP_BF16 && k->simd == BMVP_SIMD_AVX512 && __builtin_cpu_supports("avx512bf16")) return 1;
#endif
    if (k->precision == BMVP_TF32)
        bmvp_error_set(err, BMVP_E_UNSUPPORTED, "precision: tf32 is for NVIDIA GPUs; the CPU has fp32 and bf16");
    else
        bmvp_error_set(err, BMVP_E_UNSUPPORTED,
                       "precision: %s needs a processor with avx512_bf16, here it is %s; use fp32",
                       bmvp_precision_text(k->precision), bmvp_simd_text(k->simd));
    return 0;
}

static void bmvpi_cpu_write(bmvp_ctx *c, float *to, const float *host, int64_t n)
{
    (void)c;
    memcpy(to, host, (size_t)n * sizeof *to);
}
static void bmvpi_cpu_fill(bmvp_ctx *c, float *to, float value, int64_t n)
{
    int64_t i;
    (void)c;
    for (i = 0; i < n; ++i) to[i] = value;
}

typedef struct bmvpi_add_job {
    float *y;
    const float *x;
    int64_t n;
    int accumulate;
} bmvpi_add_job;
static void bmvpi_cpu_add_task(void *arg, int64_t task, int worker) /* task = 256 KB */
{
    const bmvpi_add_job *j = (const bmvpi_add_job *)arg;
    const int64_t from = task << 16, n = bmvpi_min(j->n - from, 1 << 16);
    float *BMVP_RESTRICT y = j->y + from;
    const float *BMVP_RESTRICT x = j->x + from;
    int64_t i;
    (void)worker;
    if (!j->accumulate) memcpy(y, x, (size_t)n * sizeof(float));
    else for (i = 0; i < n; ++i) y[i] += x[i];
}
static void bmvpi_cpu_add(bmvp_ctx *c, float *to, int half, const float *from, int from_half, int64_t n, int accumulate)
{
    bmvpi_add_job j;
    (void)half; /* half_least is 0: there are none */
    (void)from_half;
    j.y = to;
    j.x = from;
    j.n = n;
    j.accumulate = accumulate;
    bmvp_parallel(c, bmvpi_ceil_div(n, 1 << 16), bmvpi_cpu_add_task, &j);
}

/* bmvp_update's formula. 28 bytes and about 16 operations an element: at the memory's speed. The body is one loop that
   compilers turn into vectors of the target; the machine room has it once more for AVX2. */
#define BMVPI_ADAMW_BODY \
    { \
        float *BMVP_RESTRICT p = u->p, *BMVP_RESTRICT m = u->m, *BMVP_RESTRICT v = u->v; \
        const float *BMVP_RESTRICT g = u->g; \
        const float keep = 1.0f - u->lr * u->decay, l2 = u->l2, b1 = u->b1, b2 = u->b2, step = u->step, \
                    root = u->root, eps = u->eps; \
        int64_t i; \
        for (i = from; i < to; ++i) { \
            const float d = g[i] * scale + l2 * p[i], mi = m[i] + b1 * (d - m[i]), vi = v[i] + b2 * (d * d - v[i]); \
            m[i] = mi; \
            v[i] = vi; \
            p[i] = p[i] * keep - step * mi / (sqrtf(vi) * root + eps); \
        } \
    }
#if defined(__GNUC__) && !defined(__clang__)
#define BMVPI_ADAMW_HOT __attribute__((optimize("O3", "no-math-errno")))
#else
#define BMVPI_ADAMW_HOT
#endif
BMVPI_ADAMW_HOT static void bmvpi_adamw(const bmvp_update *u, float scale, int64_t from, int64_t to) BMVPI_ADAMW_BODY
BMVPI_ADAMW_HOT static void bmvpi_amsgrad(const bmvp_update *u, float scale, int64_t from, int64_t to)
{
    const float keep = 1.0f - u->lr * u->decay;
    int64_t i;
    for (i = from; i < to; ++i) {
        const float d = u->g[i] * scale + u->l2 * u->p[i];
        u->m[i] += u->b1 * (d - u->m[i]);
        u->v[i] += u->b2 * (d * d - u->v[i]);
        if (!(u->v[i] <= u->top[i])) u->top[i] = u->v[i];
        u->p[i] = u->p[i] * keep - u->step * u->m[i] / (sqrtf(u->top[i]) * u->root + u->eps);
    }
}
BMVPI_ADAMW_HOT static void bmvpi_average(const bmvp_update *u, int64_t from, int64_t to)
{
    float *BMVP_RESTRICT m = u->m;
    const float *BMVP_RESTRICT g = u->g;
    const float b1 = u->b1;
    int64_t i;
    for (i = from; i < to; ++i) m[i] += b1 * (g[i] - m[i]);
}
static void bmvpi_sgd(const bmvp_update *u, float scale, int64_t from, int64_t to)
{
    int64_t i;
    for (i = from; i < to; ++i) {
        const float d = u->g[i] * scale + u->l2 * u->p[i];
        u->m[i] = u->b1 * u->m[i] + d;
        u->p[i] -= u->lr * u->m[i];
    }
}

/* Pieces of many tensors, so many at once. factor NULL: the update's own scale */
enum { BMVPI_PIECE = 1 << 16, BMVPI_PIECES = 256 };
typedef struct bmvpi_update_piece { const bmvp_update *u; int64_t from, to; double sum; } bmvpi_update_piece;
typedef struct bmvpi_update_job {
    const bmvp_ctx *ctx;
    const float *factor;
    int n;
    bmvpi_update_piece piece[BMVPI_PIECES];
} bmvpi_update_job;

static void bmvpi_update_task(void *arg, int64_t task, int worker)
{
    const bmvpi_update_job *j = (const bmvpi_update_job *)arg;
    const bmvpi_update_piece *p = &j->piece[task];
    const float scale = j->factor ? *j->factor : p->u->scale;
    (void)worker;
    if (!p->u->p) bmvpi_average(p->u, p->from, p->to);
    else if (!p->u->v) bmvpi_sgd(p->u, scale, p->from, p->to);
    else if (p->u->top) bmvpi_amsgrad(p->u, scale, p->from, p->to);
    else if (!bmvpi_fast_adamw(j->ctx, p->u, scale, p->from, p->to)) bmvpi_adamw(p->u, scale, p->from, p->to);
}
static void bmvpi_square_task(void *arg, int64_t task, int worker)
{
    bmvpi_update_piece *p = &((bmvpi_update_job *)arg)->piece[task];
    double sum = 0;
    int64_t i;
    (void)worker;
    for (i = p->from; i < p->to; ++i) sum += (double)p->u->g[i] * (double)p->u->g[i];
    p->sum = sum;
}
/* fn for every piece; returns the sum of their sums, in order. */
static double bmvpi_update_run(bmvp_ctx *c, bmvpi_update_job *j, const bmvp_update *u, int n, bmvp_task_fn fn)
{
    double sum = 0;
    int64_t from = 0;
    int i = 0, k;
    j->ctx = c;
    while (i < n) {
        for (j->n = 0; i < n && j->n < BMVPI_PIECES; ++j->n) {
            bmvpi_update_piece *p = &j->piece[j->n];
            p->u = &u[i];
            p->from = from;
            p->to = bmvpi_min(from + BMVPI_PIECE, u[i].n);
            p->sum = 0;
            from = p->to < u[i].n ? p->to : 0;
            i += from == 0;
        }
        bmvp_parallel(c, j->n, fn, j);
        for (k = 0; k < j->n; ++k) sum += j->piece[k].sum;
    }
    return sum;
}
static void bmvpi_cpu_update(bmvp_ctx *c, const bmvp_update *u, int n)
{
    bmvpi_update_job j;
    j.factor = NULL;
    (void)bmvpi_update_run(c, &j, u, n, bmvpi_update_task);
}
static double bmvpi_cpu_square_sum(bmvp_ctx *c, const bmvp_update *u, int n)
{
    bmvpi_update_job j;
    j.factor = NULL;
    return bmvpi_update_run(c, &j, u, n, bmvpi_square_task);
}
static void bmvpi_cpu_clipped_update(bmvp_ctx *c, const bmvp_update *u, int n, double clip, float *rule)
{
    const double norm = sqrt(bmvpi_cpu_square_sum(c, u, n));
    bmvpi_update_job j;
    rule[BMVP_RULE_NORM] = (float)norm;
    rule[BMVP_RULE_SCALE] = clip > 0 && norm > clip ? (float)(clip / norm) : 1.0f;
    if (!(norm <= (double)FLT_MAX)) rule[BMVP_RULE_HALTED] = 1;
    j.factor = &rule[BMVP_RULE_SCALE];
    if (rule[BMVP_RULE_HALTED] != 0) rule[BMVP_RULE_SKIPPED] += 1;
    else (void)bmvpi_update_run(c, &j, u, n, bmvpi_update_task);
}
static void bmvpi_cpu_watch(bmvp_ctx *c, const float *x, float *rule)
{
    (void)c;
    if (!(fabsf(*x) <= FLT_MAX)) rule[BMVP_RULE_HALTED] = 1;
}

static int64_t bmvpi_cpu_post(bmvp_ctx *c, const float *const *x, int n)
{
    float *place = c->mail[(c->mailed + 1) % BMVP_TICKETS];
    int i;
    if (bmvp_failed(c)) return 0;
    for (i = 0; i < n; ++i) place[i] = x[i] ? *x[i] : 0.0f;
    return ++c->mailed;
}
static int bmvpi_cpu_collect(bmvp_ctx *c, int64_t ticket, float *x, int n)
{
    int i;
    if (ticket < 1 || ticket > c->mailed || ticket <= c->mailed - BMVP_TICKETS)
        bmvp_fail(c, BMVP_E_STATE, "the last %d results can be read, %lld is none of them", (int)BMVP_TICKETS,
                  (long long)ticket);
    for (i = 0; i < n; ++i) x[i] = bmvp_failed(c) ? (float)NAN : c->mail[ticket % BMVP_TICKETS][i];
    return !bmvp_failed(c);
}
static void bmvpi_cpu_sync(bmvp_ctx *c) { (void)c; }

/* mlp_keeps_least: to make a number of the hidden layer again costs 2 I operations, to store and fetch it about 200 */
static const bmvp_device bmvpi_cpu_device = {
    NULL, 1, 0, 0, 256, bmvpi_cpu_computes, bmvpi_aligned_alloc, bmvpi_aligned_free, bmvpi_cpu_write, bmvpi_cpu_write,
    bmvpi_cpu_fill, bmvpi_cpu_add, bmvpi_cpu_update, bmvpi_cpu_square_sum, bmvpi_cpu_clipped_update, bmvpi_cpu_watch,
    bmvpi_cpu_post, bmvpi_cpu_collect, bmvpi_cpu_sync, NULL, NULL
};

BMVP_API int bmvp_on_host(const bmvp_ctx *c) { return c->cfg.backend->device->on_host; }
BMVP_API int bmvp_runs_ahead(const bmvp_ctx *c) { return c->cfg.backend->device->runs_ahead; }
BMVP_API bmvp_status bmvp_sync(bmvp_ctx *c)
{
    if (!c->cfg.plan) c->cfg.backend->device->sync(c);
    return c->err.status;
}
BMVP_API int64_t bmvp_post(bmvp_ctx *c, const float *const *x, int n)
{
    if (n < 1 || n > BMVP_POST_MOST) bmvp_fail(c, BMVP_E_ARG, "post: 1 to %d numbers, not %d", (int)BMVP_POST_MOST, n);
    return bmvp_failed(c) ? 0 : c->cfg.backend->device->post(c, x, n);
}
BMVP_API int bmvp_collect(bmvp_ctx *c, int64_t ticket, float *x, int n)
{
    return c->cfg.backend->device->collect(c, ticket, x, n);
}
BMVP_API int bmvp_captures(const bmvp_ctx *c)
{
    return c->cfg.graph && !c->cfg.plan && !c->comm && c->cfg.backend->device->capture_begin;
}
BMVP_API void bmvp_capture_begin(bmvp_ctx *c)
{
    if (bmvp_captures(c)) c->cfg.backend->device->capture_begin(c);
}
BMVP_API void bmvp_capture_end(bmvp_ctx *c)
{
    if (bmvp_captures(c)) c->cfg.backend->device->capture_end(c);
}

/* >>table -------------------------------------------------------------------------------------------------------- */

/* Filled from the list: a row without its functions does not compile. */
BMVP_API const bmvp_backend *bmvp_cpu_backend(void)
{
#define BMVP_X(id, name, reads, type) \
    { bmvpi_##name##_cpu_forward, bmvpi_##name##_cpu_backward, bmvpi_##name##_cpu_workspace },
    static const bmvp_backend cpu = { "cpu", { BMVP_OPS(BMVP_X) }, &bmvpi_cpu_device };
#undef BMVP_X
    return &cpu;
}

BMVP_API const bmvp_backend *bmvp_backend_of(const bmvp_ctx *c) { return c->cfg.backend; }
BMVP_API float *bmvp_kernel_grad(bmvp_ctx *c, bmvp_tensor *t, int *accumulate) { return bmvpi_grad(c, t, accumulate); }
BMVP_API void bmvp_kernel_grad_pass(bmvp_ctx *c, bmvp_tensor *y, bmvp_tensor *t) { bmvpi_grad_pass(c, y, t); }
BMVP_API float *bmvp_kernel_workspace(const bmvp_ctx *c) { return bmvpi_workspace(c); }
BMVP_API int bmvp_kernel_recomputes(const bmvp_ctx *c) { return c->recompute; }

BMVP_API bmvp_tensor *bmvp_op_sample(bmvp_ctx *c, int op, int variant)
{
#define BMVP_X(id, name, reads, type) bmvpi_##name##_sample,
    static bmvp_tensor *(*const sample[])(bmvp_ctx *, int) = { BMVP_OPS(BMVP_X) };
#undef BMVP_X
    return op >= 0 && op < BMVP_OP_COUNT ? sample[op](c, variant) : NULL;
}

/* >>gradcheck ---------------------------------------------------------------------------------------------------- */

/* loss = sum of y * cotangent, in double, after running the whole tape again; v holds y's values */
static double bmvpi_gradcheck_loss(bmvp_ctx *c, bmvp_tensor *y, const double *u, float *v)
{
    double s = 0;
    int64_t i;
    for (i = 0; i < c->n_step; ++i)
        if (c->step[i]->op >= 0 && c->step[i]->lies_in != BMVPI_SHARED)
            bmvpi_call(c, c->step[i], 0);
    if (bmvp_read(c, y, v)) return (double)NAN;
    for (i = 0; i < y->numel; ++i) s += (double)v[i] * u[i];
    return s;
}

/* Values of one leaf: magnitudes in [0.2, 1], away from the kink of ReLU and from ties */
static void bmvpi_gradcheck_fill(bmvp_ctx *c, bmvp_tensor *t, bmvp_rng *r)
{
    float *x = (float *)bmvpi_alloc(c, t->numel * (int64_t)sizeof *x);
    int64_t i;
    for (i = 0; x && i < t->numel; ++i) {
        const float v = 0.2f + 0.8f * bmvp_rng_uniform(r);
        x[i] = bmvp_rng_u32(r) & 1u ? v : -v;
    }
    if (x) bmvp_write(c, t, x);
    bmvpi_free(c, x);
}

/* Worst error of one leaf against central differences, relative to its largest gradient. x: its values. */
static double bmvpi_gradcheck_leaf(bmvp_ctx *c, bmvp_tensor *y, bmvp_tensor *t, const double *u, const float *g,
                                   float *x, float *v)
{
    const float h = 1e-2f;
    double worst = 0, scale = 1e-2, num, e;
    int64_t i;
    for (i = 0; i < t->numel; ++i) scale = fabs((double)g[i]) > scale ? fabs((double)g[i]) : scale;
    for (i = 0; i < t->numel; ++i) {
        const float keep = x[i], up = keep + h, down = keep - h;
        x[i] = up;
        bmvp_write(c, t, x);
        num = bmvpi_gradcheck_loss(c, y, u, v);
        x[i] = down;
        bmvp_write(c, t, x);
        num -= bmvpi_gradcheck_loss(c, y, u, v);
        x[i] = keep;
        bmvp_write(c, t, x);
        e = fabs(num / ((double)up - (double)down) - (double)g[i]) / scale;
        if (!(e <= worst)) worst = e != e ? HUGE_VAL : e; /* written so that NaN fails */
    }
    return worst;
}

static double bmvpi_gradcheck_sample(bmvp_ctx *c, bmvp_tensor *y, uint64_t seed)
{
    bmvp_rng r = bmvp_rng_make(seed, 0, (uint32_t)y->op, 0);
    double worst = 0, e;
    double *u = (double *)bmvpi_alloc(c, y->numel * (int64_t)sizeof(double));
    float *cot = (float *)bmvpi_alloc(c, y->numel * (int64_t)sizeof(float)), *g;
    float *v = (float *)bmvpi_alloc(c, y->numel * (int64_t)sizeof(float));
    int64_t i;
    for (i = 0; i < c->n_step; ++i) {
        bmvp_keep(c->step[i]);
        if (c->step[i]->op < 0 && c->step[i]->wants_grad) bmvpi_gradcheck_fill(c, c->step[i], &r);
    }
    for (i = 0; u && cot && i < y->numel; ++i) u[i] = (double)(cot[i] = 2.0f * bmvp_rng_uniform(&r) - 1.0f);
    if (u && cot && v) (void)bmvpi_gradcheck_loss(c, y, u, v);
    if (cot) bmvp_backward_from(c, y, cot);
    for (i = 0; u && i < c->n_step && !bmvp_failed(c); ++i) {
        bmvp_tensor *t = c->step[i];
        if (t->op >= 0 || !t->wants_grad) continue;
        g = (float *)bmvpi_alloc(c, 2 * t->numel * (int64_t)sizeof(float));
        if (g && v && !bmvp_read_grad(c, t, g) && !bmvp_read(c, t, g + t->numel)) {
            e = bmvpi_gradcheck_leaf(c, y, t, u, g, g + t->numel, v);
            worst = e > worst ? e : worst;
        }
        bmvpi_free(c, g);
    }
    bmvpi_free(c, u);
    bmvpi_free(c, cot);
    bmvpi_free(c, v);
    return bmvp_failed(c) ? HUGE_VAL : worst;
}

BMVP_API double bmvp_gradcheck(const bmvp_config *cfg, int op, int variant, uint64_t seed)
{
    bmvp_ctx *c = bmvp_create(cfg, NULL);
    bmvp_tensor *y;
    double worst = HUGE_VAL;
    if (!c) return worst;
    y = bmvp_op_sample(c, op, variant);
    if (y) worst = bmvpi_gradcheck_sample(c, y, seed);
    else if (!bmvp_failed(c)) worst = -1;
    bmvp_destroy(c);
    return worst;
}

/* ================================================================================================================
   The machine room: vector kernels. Nothing above needs to be read with it, and nothing in it says what an op is: each
   function behind the door (>>fast) computes what plain loops above define, to the rounding of float32, and tests hold
   the two together at every instruction set. It is left out by BMVP_NO_SIMD, which halves the text of the object.
   ================================================================================================================ */

#if defined(BMVP_NO_SIMD) || !defined(__GNUC__)
/* There is nobody behind the door. */
static int bmvpi_fast_gelu(const bmvp_ctx *c, int64_t n, const float *x, float *y)
{
    return (void)c, (void)n, (void)x, (void)y, 0;
}
static int bmvpi_fast_gelu_back(const bmvp_ctx *c, int64_t n, const float *x, const float *g, float *dx, int add)
{
    return (void)c, (void)n, (void)x, (void)g, (void)dx, (void)add, 0;
}
static int bmvpi_fast_softmax_row(const bmvp_ctx *c, int64_t n, const float *x, float *y)
{
    return (void)c, (void)n, (void)x, (void)y, 0;
}
static int bmvpi_fast_product(bmvp_ctx *c, const bmvpi_gemm_args *g, float *ws)
{
    return (void)c, (void)g, (void)ws, 0;
}
static int64_t bmvpi_fast_product_workspace(const bmvp_ctx *c, const bmvpi_gemm_args *g) { return (void)c, (void)g, 0; }
static int bmvpi_fast_conv(bmvp_ctx *c, const bmvpi_conv_call *q, int what, float *ws)
{
    return (void)c, (void)q, (void)what, (void)ws, 0;
}
static int64_t bmvpi_fast_conv_workspace(const bmvp_ctx *c, const bmvpi_conv *v, int what)
{
    return (void)c, (void)v, (void)what, 0;
}
static int bmvpi_fast_depthwise(bmvp_ctx *c, const bmvpi_dw_call *q, float *ws)
{
    return (void)c, (void)q, (void)ws, 0;
}
static int bmvpi_fast_depthwise_weights(bmvp_ctx *c, const bmvpi_dw_call *q, float *ws)
{
    return (void)c, (void)q, (void)ws, 0;
}
static int64_t bmvpi_fast_depthwise_workspace(const bmvp_ctx *c, const bmvpi_dw *s, int weights)
{
    return (void)c, (void)s, (void)weights, 0;
}
static int bmvpi_fast_attention(bmvp_ctx *c, bmvp_tensor *y) { return (void)c, (void)y, 0; }
static int bmvpi_fast_attention_back(bmvp_ctx *c, bmvp_tensor *y, float *g, int add, float *table, int add_table)
{
    return (void)c, (void)y, (void)g, (void)add, (void)table, (void)add_table, 0;
}
static int64_t bmvpi_fast_attention_workspace(const bmvp_ctx *c, const bmvp_tensor *y, int backward)
{
    return (void)c, (void)y, (void)backward, 0;
}
static int bmvpi_fast_mlp(bmvp_ctx *c, bmvp_tensor *y) { return (void)c, (void)y, 0; }
static int bmvpi_fast_mlp_back(bmvp_ctx *c, bmvp_tensor *y) { return (void)c, (void)y, 0; }
static int64_t bmvpi_fast_mlp_workspace(const bmvp_ctx *c, const bmvp_tensor *y, int backward)
{
    return (void)c, (void)y, (void)backward, 0;
}
static int bmvpi_fast_adamw(const bmvp_ctx *c, const bmvp_update *u, float scale, int64_t from, int64_t to)
{
    return (void)c, (void)u, (void)scale, (void)from, (void)to, 0;
}
#else

/* >>simd --------------------------------------------------------------------------------------------------------------
   Kernels are macros over a vector type, stamped out once for each instruction set and chosen at run time: no build
   flags are needed. GCC's vector extensions carry the arithmetic; `a * b + c` becomes one fused instruction where the
   target has it (BMVPI_HOT asks for that also under -std=c99, where GCC's default is not to fuse).
     bmvpi_v128  SSE2, NEON    bmvpi_v256  AVX2 + FMA    bmvpi_v512  AVX-512
   For each: bmvpi_vN (registers), bmvpi_uN (memory, any alignment), bmvpi_iN (integers of the same width), BMVPI_AT_vN
   (the attribute of functions that use it). */

#if defined(__clang__)
#define BMVPI_UNROLL _Pragma("clang loop unroll(full)")
#elif defined(__GNUC__)
#define BMVPI_UNROLL _Pragma("GCC unroll 16")
#endif

#if defined(__GNUC__)
#define BMVPI_HAVE_VECTORS 1
#define BMVPI_PREFETCH(p) __builtin_prefetch((p), 0, 2)
#define BMVPI_PREFETCH_WRITE(p) __builtin_prefetch((p), 1, 2)
#define BMVPI_VECTOR_TYPES(BITS) \
    typedef float bmvpi_v##BITS __attribute__((vector_size(BITS / 8))); \
    typedef int32_t bmvpi_i##BITS __attribute__((vector_size(BITS / 8))); \
    typedef float bmvpi_u##BITS __attribute__((vector_size(BITS / 8), aligned(4), may_alias));
BMVPI_VECTOR_TYPES(128)
#define BMVPI_AT_v128 BMVPI_HOT
#if defined(__x86_64__)
#define BMVPI_HAVE_X86 1
#include <immintrin.h>
BMVPI_VECTOR_TYPES(256)
BMVPI_VECTOR_TYPES(512)
#define BMVPI_AT_v256 BMVPI_HOT __attribute__((target("avx2,fma")))
#define BMVPI_AT_v512 BMVPI_HOT __attribute__((target("avx512f,avx512dq,avx512vl,avx512bw,avx2,fma")))
#define BMVPI_STAMP(MACRO) MACRO(128) MACRO(256) MACRO(512)
#else
#define BMVPI_STAMP(MACRO) MACRO(128)
#endif
#else
#define BMVPI_PREFETCH(p) ((void)(p))
#define BMVPI_PREFETCH_WRITE(p) ((void)(p))
#endif

/* The instance of a table of kernels NAME for the level of context c, as a pointer; NULL: plain loops. BMVPI_CHOOSE: of
   a function. */
#if defined(BMVPI_HAVE_X86)
#define BMVPI_CHOOSE_SET(c, NAME) \
    ((c)->simd == BMVP_SIMD_AVX512 ? &NAME##_v512 : (c)->simd == BMVP_SIMD_AVX2 ? &NAME##_v256 : \
     (c)->simd == BMVP_SIMD_VECTOR ? &NAME##_v128 : NULL)
#define BMVPI_CHOOSE(c, NAME) \
    ((c)->simd == BMVP_SIMD_AVX512 ? NAME##_v512 : (c)->simd == BMVP_SIMD_AVX2 ? NAME##_v256 : \
     (c)->simd == BMVP_SIMD_VECTOR ? NAME##_v128 : NULL)
#else
#define BMVPI_CHOOSE_SET(c, NAME) ((c)->simd == BMVP_SIMD_PLAIN ? NULL : &NAME##_v128)
#define BMVPI_CHOOSE(c, NAME) ((c)->simd == BMVP_SIMD_PLAIN ? NULL : NAME##_v128)
#endif

/* >>kernel math: exp, erf, GELU without calls and without branches ----------------------------------------------------
   exp(x) = 2^n (1 + r + r^2 P(r)), n = round(x / ln 2), |r| <= ln 2 / 2, P of degree 4: relative error 2e-7. n is
   found by truncating a positive number, so that it survives -ffast-math. Below -87.7 the result is 0, above 88 it
   stays at 1.6e38; NaN gives NaN. 17 operations. erf(x) = x Q(s), s = 2 (x / 3.95)^2 - 1, Q of degree 14, |x| cut at
   3.95 and the result at 1: absolute error 3e-7. The polynomial costs less than the division and exponential of the
   usual forms. 21 operations. Both polynomials are own minimax fits (Lawson's iteration in double). */
#if defined(BMVPI_HAVE_VECTORS)
#define BMVPI_PICK(BITS, mask, a, b) ((bmvpi_v##BITS)(((mask) & (bmvpi_i##BITS)(a)) | (~(mask) & (bmvpi_i##BITS)(b))))
#define BMVPI_INLINE static inline __attribute__((always_inline, unused))

#define BMVPI_EXP_PARTS(BITS) \
BMVPI_AT_v##BITS BMVPI_INLINE bmvpi_v##BITS bmvpi_v##BITS##_clamp(bmvpi_v##BITS x, float low, float high) \
{ /* NaN stays */ \
    const bmvpi_v##BITS zero = { 0.0f }, lo = zero + low, hi = zero + high; \
    const bmvpi_v##BITS y = BMVPI_PICK(BITS, (bmvpi_i##BITS)(x < lo), lo, x); \
    return BMVPI_PICK(BITS, (bmvpi_i##BITS)(y > hi), hi, y); \
} \
BMVPI_AT_v##BITS BMVPI_INLINE bmvpi_v##BITS bmvpi_v##BITS##_exp_of_rest(bmvpi_v##BITS r) \
{ \
    bmvpi_v##BITS p = r * 1.381422926e-3f + 8.368900775e-3f; \
    p = p * r + 4.166840577e-2f; \
    p = p * r + 1.666651911e-1f; \
    p = p * r + 4.999999335e-1f; \
    return p * (r * r) + r + 1.0f; \
}
BMVPI_STAMP(BMVPI_EXP_PARTS)

#define BMVPI_EXP(BITS) \
BMVPI_AT_v##BITS BMVPI_INLINE bmvpi_v##BITS bmvpi_v##BITS##_exp(bmvpi_v##BITS x) \
{ \
    const bmvpi_v##BITS y = bmvpi_v##BITS##_clamp(x, -88.0f, 88.02f); \
    const bmvpi_i##BITS e = __builtin_convertvector(y * 1.44269504f + 127.5f, bmvpi_i##BITS); /* biased exponent */ \
    const bmvpi_v##BITS n = __builtin_convertvector(e, bmvpi_v##BITS) - 127.0f; \
    const bmvpi_v##BITS r = (y - n * 0.693359375f) + n * 2.12194440e-4f; \
    return bmvpi_v##BITS##_exp_of_rest(r) * (bmvpi_v##BITS)(e << 23); \
}
BMVPI_EXP(128)
#if defined(BMVPI_HAVE_X86)
BMVPI_EXP(256)
/* The same with AVX-512's minimum, maximum, rounding conversion and scaling by a power of two: 14 operations. Below
   -87.7 it goes on to 0 by subnormal numbers. */
BMVPI_AT_v512 BMVPI_INLINE bmvpi_v512 bmvpi_v512_exp(bmvpi_v512 y)
{
    const bmvpi_v512 zero = { 0.0f }, low = zero - 110.0f, high = zero + 88.02f;
    const bmvpi_v512 x = (bmvpi_v512)_mm512_maskz_min_ps(0xffff, (__m512)high,
                                                         /* NaN stays */
                                                         _mm512_maskz_max_ps(0xffff, (__m512)low, (__m512)y));
    const bmvpi_v512 n = __builtin_convertvector(
        (bmvpi_i512)_mm512_maskz_cvtps_epi32(0xffff, (__m512)(x * 1.44269504f)), bmvpi_v512);
    const bmvpi_v512 r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
    return (bmvpi_v512)_mm512_maskz_scalef_ps(0xffff, (__m512)bmvpi_v512_exp_of_rest(r), (__m512)n);
}
#endif

#define BMVPI_MATH(BITS) \
BMVPI_AT_v##BITS BMVPI_INLINE bmvpi_v##BITS bmvpi_v##BITS##_erf(bmvpi_v##BITS x) \
{ \
    const bmvpi_v##BITS y = bmvpi_v##BITS##_clamp(x, -3.95f, 3.95f), s = (y * y) * 0.1281845858f - 1.0f; \
    bmvpi_v##BITS p = s * 1.978390213e-3f - 4.913457476e-3f; \
    p = p * s + 3.254114469e-3f; \
    p = p * s - 3.417191349e-3f; \
    p = p * s + 1.351624859e-2f; \
    p = p * s - 2.428560444e-2f; \
    p = p * s + 3.156483381e-2f; \
    p = p * s - 4.302880852e-2f; \
    p = p * s + 5.877114326e-2f; \
    p = p * s - 7.457576275e-2f; \
    p = p * s + 9.051069696e-2f; \
    p = p * s - 1.086159620e-1f; \
    p = p * s + 1.331752242e-1f; \
    p = p * s - 1.787700697e-1f; \
    p = p * s + 3.580007832e-1f; \
    return bmvpi_v##BITS##_clamp(p * y, -1.0f, 1.0f); \
} \
/* the first n < width floats at p, the rest fill */ \
BMVPI_AT_v##BITS BMVPI_INLINE bmvpi_v##BITS bmvpi_v##BITS##_load_part(const float *p, int64_t n, float fill) \
{ \
    float t[BITS / 32]; \
    int64_t i; \
    for (i = 0; i < BITS / 32; ++i) t[i] = i < n ? p[i] : fill; \
    return *(const bmvpi_u##BITS *)t; \
} \
BMVPI_AT_v##BITS BMVPI_INLINE void bmvpi_v##BITS##_store_part(float *p, int64_t n, bmvpi_v##BITS v) \
{ \
    float t[BITS / 32]; \
    *(bmvpi_u##BITS *)t = v; \
    memcpy(p, t, (size_t)n * sizeof(float)); \
}
BMVPI_STAMP(BMVPI_MATH)

/* Phi(x); *density = phi(x). The second costs nothing where it is not used. */
#define BMVPI_NORMAL(BITS) \
BMVPI_AT_v##BITS BMVPI_INLINE bmvpi_v##BITS bmvpi_v##BITS##_normal(bmvpi_v##BITS x, bmvpi_v##BITS *density) \
{ \
    *density = bmvpi_v##BITS##_exp(x * x * -0.5f) * 0.398942280f; \
    return bmvpi_v##BITS##_erf(x * 0.707106781f) * 0.5f + 0.5f; \
}
BMVPI_NORMAL(128)
#if defined(BMVPI_HAVE_X86)
BMVPI_NORMAL(256)
/* AVX-512 looks 32 numbers up in two registers: Phi(|x|) - 1/2 on 32 pieces of 0.18, on each a polynomial of degree 4
   in the distance from the middle, in pieces. Its derivative is phi. Half the operations of the forms above (19, 5 of
   them permutations; 3 more for phi); absolute errors 8e-8 and 4e-7. Own least-squares fits of both together. The last
   piece is constant: beyond 5.6 Phi is 1 and phi 0. */
static const float bmvpi_normal_table[5][32] = {
    { 3.5856392e-02f, 1.0641988e-01f, 1.7364478e-01f, 2.3565271e-01f, 2.9102990e-01f, 3.3891293e-01f,
    3.7899950e-01f, 4.1149202e-01f, 4.3699163e-01f, 4.5636708e-01f, 4.7062102e-01f, 4.8077384e-01f, 4.8777553e-01f,
    4.9245059e-01f, 4.9547288e-01f, 4.9736461e-01f, 4.9851099e-01f, 4.9918365e-01f, 4.9956578e-01f, 4.9977595e-01f,
    4.9988788e-01f, 4.9994558e-01f, 4.9997440e-01f, 4.9998832e-01f, 4.9999484e-01f, 4.9999779e-01f, 4.9999908e-01f,
    4.9999964e-01f, 4.9999985e-01f, 4.9999994e-01f, 4.9999997e-01f, 5.0000000e-01f },
    { 7.1519300e-02f, 6.9239222e-02f, 6.4894818e-02f, 5.8883920e-02f, 5.1726408e-02f, 4.3990292e-02f,
    3.6218479e-02f, 2.8869042e-02f, 2.2277342e-02f, 1.6642677e-02f, 1.2036819e-02f, 8.4280865e-03f, 5.7131406e-03f,
    3.7492940e-03f, 2.3820596e-03f, 1.4651575e-03f, 8.7245787e-04f, 5.0295953e-04f, 2.8070490e-04f, 1.5166844e-04f,
    7.9335703e-05f, 4.0176332e-05f, 1.9696994e-05f, 9.3488379e-06f, 4.2957918e-06f, 1.9109821e-06f, 8.2299596e-07f,
    3.4313612e-07f, 1.3850412e-07f, 5.4123561e-08f, 2.0475634e-08f, 0.0000000e+00f },
    { -5.7930546e-04f, -1.6825105e-03f, -2.6282358e-03f, -3.3387130e-03f, -3.7708490e-03f, -3.9195283e-03f,
    -3.8137995e-03f, -3.5075834e-03f, -3.0675861e-03f, -2.5613054e-03f, -2.0474617e-03f, -1.5701527e-03f,
    -1.1569123e-03f, -8.1997248e-04f, -5.5954803e-04f, -3.6790324e-04f, -2.3320997e-04f, -1.4259067e-04f,
    -8.4128529e-05f, -4.7912992e-05f, -2.6348034e-05f, -1.3993843e-05f, -7.1798227e-06f, -3.5592636e-06f,
    -1.7050922e-06f, -7.8947761e-07f, -3.5333906e-07f, -1.5288077e-07f, -6.3953991e-08f, -2.5868756e-08f,
    -1.0118409e-08f, 0.0000000e+00f },
    { -3.8231621e-04f, -3.4599504e-04f, -2.7904281e-04f, -1.9160486e-04f, -9.6153031e-05f, -5.0311000e-06f,
    7.1713897e-05f, 1.2774205e-04f, 1.6086022e-04f, 1.7255991e-04f, 1.6693697e-04f, 1.4936876e-04f, 1.2529576e-04f,
    9.9338336e-05f, 7.4835050e-05f, 5.3764161e-05f, 3.6934365e-05f, 2.4309673e-05f, 1.5353271e-05f, 9.3157587e-06f,
    5.4356369e-06f, 3.0523920e-06f, 1.6507133e-06f, 8.6016667e-07f, 4.3209084e-07f, 2.0932534e-07f, 9.7829982e-08f,
    4.4122014e-08f, 1.9208146e-08f, 8.0735116e-09f, 3.2769889e-09f, 0.0000000e+00f },
    { 4.6679852e-06f, 1.3264594e-05f, 1.9805328e-05f, 2.3415039e-05f, 2.3818551e-05f, 2.1343278e-05f,
    1.6779355e-05f, 1.1151003e-05f, 5.4711627e-06f, 5.4466636e-07f, -3.1405193e-06f, -5.4269776e-06f,
    -6.4268306e-06f, -6.4209876e-06f, -5.7541210e-06f, -4.7510966e-06f, -3.6666806e-06f, -2.6678852e-06f,
    -1.8404704e-06f, -1.2085411e-06f, -7.5753451e-07f, -4.5423815e-07f, -2.6099175e-07f, -1.4388131e-07f,
    -7.6186737e-08f, -3.8782186e-08f, -1.8992424e-08f, -8.9534717e-09f, -4.0653125e-09f, -1.7786250e-09f,
    -7.5012474e-10f, 0.0000000e+00f },
};
BMVPI_AT_v512 BMVPI_INLINE bmvpi_v512 bmvpi_v512_normal(bmvpi_v512 x, bmvpi_v512 *density)
{
    const bmvpi_v512 zero = { 0.0f }, half = zero + 0.5f;
    const bmvpi_i512 sign = (bmvpi_i512)x & INT32_MIN;
    const bmvpi_v512 t = (bmvpi_v512)_mm512_maskz_min_ps(0xffff, (__m512)((bmvpi_i512)x & INT32_MAX),
                                                   (__m512)(half * (2.0f * 5.7599993f))) * 5.55555556f;
    const bmvpi_i512 piece = __builtin_convertvector(t, bmvpi_i512);
    const bmvpi_v512 r = t - __builtin_convertvector(piece, bmvpi_v512) - half;
    bmvpi_v512 c[5], p, d;
    int i;
    BMVPI_UNROLL for (i = 0; i < 5; ++i)
        c[i] = (bmvpi_v512)_mm512_permutex2var_ps(*(const __m512_u *)bmvpi_normal_table[i], (__m512i)piece,
                                                  *(const __m512_u *)(bmvpi_normal_table[i] + 16));
    d = p = c[4];
    BMVPI_UNROLL for (i = 3; i > 0; --i) {
        p = p * r + c[i];
        d = d * r + p;
    }
    p = p * r + c[0];
    *density = d * 5.55555556f;
    return (bmvpi_v512)((bmvpi_i512)p ^ sign) + half;
}
#endif
/* x Phi(x) and its derivative Phi(x) + x phi(x) */
#define BMVPI_GELU_MATH(BITS) \
BMVPI_AT_v##BITS BMVPI_INLINE bmvpi_v##BITS bmvpi_v##BITS##_gelu(bmvpi_v##BITS x) \
{ \
    bmvpi_v##BITS density; \
    return x * bmvpi_v##BITS##_normal(x, &density); \
} \
BMVPI_AT_v##BITS BMVPI_INLINE bmvpi_v##BITS bmvpi_v##BITS##_gelu_slope(bmvpi_v##BITS x) \
{ \
    bmvpi_v##BITS density; \
    const bmvpi_v##BITS whole = bmvpi_v##BITS##_normal(x, &density); \
    return whole + x * density; \
}
BMVPI_STAMP(BMVPI_GELU_MATH)
#endif

/* >>kernel softmax row: y = exp(x - max) / sum over one row of n; x and y may be the same -------------------------- */

#if defined(BMVPI_HAVE_VECTORS)
#define BMVPI_POINTWISE(BITS) \
BMVPI_AT_v##BITS static void bmvpi_gelu_v##BITS(int64_t n, const float *x, float *y) \
{ \
    const int64_t width = BITS / 32; \
    int64_t i; \
    for (i = 0; i + width <= n; i += width) \
        *(bmvpi_u##BITS *)(y + i) = bmvpi_v##BITS##_gelu(*(const bmvpi_u##BITS *)(x + i)); \
    if (i < n) \
        bmvpi_v##BITS##_store_part(y + i, n - i, bmvpi_v##BITS##_gelu(bmvpi_v##BITS##_load_part(x + i, n - i, 0.0f))); \
} \
BMVPI_AT_v##BITS static void bmvpi_gelu_back_v##BITS(int64_t n, const float *x, const float *g, float *dx, int add) \
{ \
    const int64_t width = BITS / 32; \
    bmvpi_v##BITS d; \
    int64_t i; \
    for (i = 0; i + width <= n; i += width) { \
        d = *(const bmvpi_u##BITS *)(g + i) * bmvpi_v##BITS##_gelu_slope(*(const bmvpi_u##BITS *)(x + i)); \
        if (add) d += *(const bmvpi_u##BITS *)(dx + i); \
        *(bmvpi_u##BITS *)(dx + i) = d; \
    } \
    if (i == n) return; \
    d = bmvpi_v##BITS##_load_part(g + i, n - i, 0.0f); \
    d = d * bmvpi_v##BITS##_gelu_slope(bmvpi_v##BITS##_load_part(x + i, n - i, 0.0f)); \
    if (add) d += bmvpi_v##BITS##_load_part(dx + i, n - i, 0.0f); \
    bmvpi_v##BITS##_store_part(dx + i, n - i, d); \
} \
BMVPI_AT_v##BITS static void bmvpi_softmax_row_v##BITS(int64_t n, const float *x, float *y) \
{ \
    const int64_t width = BITS / 32; \
    bmvpi_v##BITS sum = { 0.0f }, e = sum + x[0]; \
    float top = x[0], total = 0; \
    int64_t i; \
    for (i = 0; i + width <= n; i += width) { \
        const bmvpi_v##BITS v = *(const bmvpi_u##BITS *)(x + i); \
        e = BMVPI_PICK(BITS, (bmvpi_i##BITS)(v <= e), e, v); /* NaN wins */ \
    } \
    for (; i < n; ++i) if (!(x[i] <= top)) top = x[i]; \
    for (i = 0; i < width; ++i) if (!(e[i] <= top)) top = e[i]; \
    for (i = 0; i + width <= n; i += width) { \
        e = bmvpi_v##BITS##_exp(*(const bmvpi_u##BITS *)(x + i) - top); \
        *(bmvpi_u##BITS *)(y + i) = e; \
        sum += e; \
    } \
    if (i < n) { \
        e = bmvpi_v##BITS##_exp(bmvpi_v##BITS##_load_part(x + i, n - i, -FLT_MAX) - top); \
        bmvpi_v##BITS##_store_part(y + i, n - i, e); \
        sum += e; \
    } \
    for (i = 0; i < width; ++i) total += sum[i]; \
    total = 1.0f / total; \
    for (i = 0; i < n; ++i) y[i] *= total; \
}
BMVPI_STAMP(BMVPI_POINTWISE)
#endif

static int bmvpi_fast_gelu(const bmvp_ctx *c, int64_t n, const float *x, float *y)
{
    void (*fn)(int64_t, const float *, float *) = BMVPI_CHOOSE(c, bmvpi_gelu);
    if (fn) fn(n, x, y);
    return fn != NULL;
}
static int bmvpi_fast_gelu_back(const bmvp_ctx *c, int64_t n, const float *x, const float *g, float *dx, int add)
{
    void (*fn)(int64_t, const float *, const float *, float *, int) = BMVPI_CHOOSE(c, bmvpi_gelu_back);
    if (fn) fn(n, x, g, dx, add);
    return fn != NULL;
}
static int bmvpi_fast_softmax_row(const bmvp_ctx *c, int64_t n, const float *x, float *y)
{
    void (*fn)(int64_t, const float *, float *) = BMVPI_CHOOSE(c, bmvpi_softmax_row);
    if (fn) fn(n, x, y);
    return fn != NULL;
}

/* >>kernel depthwise --------------------------------------------------------------------------------------------------
   y[n,d,h,w,c] = b[c] + sum over i,j,l < k of x[n, d+i-r, h+j-r, w+l-r, c] wgt[i,j,l,c], r = k / 2, zero outside. x,
   y (N,D,H,W,C), wgt (k,k,k,C). k^3 products an output. In channels-last memory the 16 channels of one cache line
   come back only every C floats: a column of such lines uses a fraction of the cache's sets and of the TLB. So the
   fast kernels copy a slab of 16 channels, plane by plane, into a ring of k zero-padded planes that stays in L2, and
   work there. A task is (sample, slab, range of depth) and walks its rows in blocks so that ring and gradient plane
   fit; work is cut by shape only. The hardware does not see these strides coming: while one plane is computed the
   lines of the next are prefetched, and those of the outputs to come (3^3, 64 channels, 48^3: 36 -> 53 GFLOP/s on one
   core). Bytes an output: 4 read, 4 written, and the overlap of the blocks. */

enum { BMVPI_SLAB = 16, BMVPI_DW_RING = 512 << 10 /* bytes of L2 for ring and gradient plane */, BMVPI_DW_MAX_K = 5 };

/* One tile of outputs from up to k ring planes: plane[p] points at the tile's first input, `row` floats between input
   rows, w the weights of the first plane. add: onto y. */
typedef void (*bmvpi_dw_tile_fn)(const float *const *plane, int64_t planes, int64_t row, const float *w,
                                 const float *bias, float *y, int64_t y_row, int64_t y_col, int add);
/* dw[j][l] += sum over i < n of x[i + j row] g[i - l], the k x k weights of one plane; all in slabs of 16 channels. */
typedef void (*bmvpi_dw_wgrad_fn)(const float *x, const float *g, int64_t row, int64_t n, float *dw);
/* n slabs from x, `step` floats apart, to y, one after the other. */
typedef void (*bmvpi_dw_gather_fn)(const float *x, int64_t step, int64_t n, float *y);
/* sum += n slabs of x */
typedef void (*bmvpi_dw_sum_fn)(const float *x, int64_t n, float *sum);
typedef struct bmvpi_dw_set {
    int rows;                            /* of a tile */
    bmvpi_dw_gather_fn gather;
    bmvpi_dw_sum_fn sum;
    bmvpi_dw_tile_fn tile8[2], tile4[2]; /* 8 and 4 columns wide; [0] k = 3, [1] k = 5 */
    bmvpi_dw_wgrad_fn wgrad[2];
} bmvpi_dw_set;

#if defined(BMVPI_HAVE_VECTORS)
/* Tile of NR x TW outputs x one vector of channels, all accumulators in registers; each input is read once a plane
   and used for up to NR k outputs. AVX-512, 2 x 8: 16 accumulators + 2 k weights of 32 registers; 122 loads for 400
   multiply-adds at k = 5. With 16 registers 1 x 8: 8 accumulators + k weights. 4 wide for what is left of a row. */
#define BMVPI_DW_ROW(BITS, K, TW, FROM, TO) /* input row r into the output rows FROM .. TO - 1 of the tile */ \
{ \
    bmvpi_v##BITS wr[2][K]; \
    BMVPI_UNROLL for (j = FROM; j < TO; ++j) \
        BMVPI_UNROLL for (l = 0; l < K; ++l) wr[j][l] = *(const bmvpi_u##BITS *)(wp + ((r - j) * K + l) * BMVPI_SLAB); \
    BMVPI_UNROLL for (i = 0; i < TW + K - 1; ++i) { \
        const bmvpi_v##BITS xv = *(const bmvpi_u##BITS *)(x + r * row + i * BMVPI_SLAB); \
        BMVPI_UNROLL for (j = FROM; j < TO; ++j) \
            BMVPI_UNROLL for (l = 0; l < K; ++l) \
                if (i - l >= 0 && i - l < TW) a[j][i - l] += xv * wr[j][l]; \
    } \
}
#define BMVPI_DW_TILE(NAME, BITS, K, NR, TW) \
BMVPI_AT_v##BITS static void NAME(const float *const *plane, int64_t planes, int64_t row, const float *w, \
                                  const float *bias, float *y, int64_t y_row, int64_t y_col, int add) \
{ \
    int64_t v, p; \
    int i, j, l, r; \
    for (v = 0; v < BMVPI_SLAB; v += BITS / 32) { \
        bmvpi_v##BITS a[NR][TW]; \
        BMVPI_UNROLL for (j = 0; j < NR; ++j) \
            BMVPI_UNROLL for (i = 0; i < TW; ++i) a[j][i] = *(const bmvpi_u##BITS *)(bias + v); \
        if (add) \
            BMVPI_UNROLL for (j = 0; j < NR; ++j) \
                BMVPI_UNROLL for (i = 0; i < TW; ++i) \
                    a[j][i] += *(const bmvpi_u##BITS *)(y + j * y_row + i * y_col + v); \
        for (p = 0; p < planes; ++p) { \
            const float *x = plane[p] + v, *wp = w + p * K * K * BMVPI_SLAB + v; \
            if (NR == 2) { r = 0; BMVPI_DW_ROW(BITS, K, TW, 0, 1) } \
            for (r = NR - 1; r < K; ++r) BMVPI_DW_ROW(BITS, K, TW, 0, NR) \
            if (NR == 2) BMVPI_DW_ROW(BITS, K, TW, 1, NR) \
        } \
        BMVPI_UNROLL for (j = 0; j < NR; ++j) \
            BMVPI_UNROLL for (i = 0; i < TW; ++i) *(bmvpi_u##BITS *)(y + j * y_row + i * y_col + v) = a[j][i]; \
    } \
}

/* NJ rows of the k x k weights: NJ k accumulators stay in registers over a whole plane (rows and their zero padding are
   one long run); a step reads NJ inputs and k gradients for NJ k multiply-adds. */
#define BMVPI_DW_WGRAD(NAME, BITS, K, NJ) \
BMVPI_AT_v##BITS static void NAME(const float *x, const float *g, int64_t row, int64_t n, float *dw) \
{ \
    int64_t v, i; \
    int j, l; \
    for (v = 0; v < BMVPI_SLAB; v += BITS / 32) { \
        const bmvpi_v##BITS zero = { 0.0f }; \
        bmvpi_v##BITS a[NJ][K]; \
        BMVPI_UNROLL for (j = 0; j < NJ; ++j) \
            BMVPI_UNROLL for (l = 0; l < K; ++l) a[j][l] = zero; \
        for (i = 0; i < n; ++i) { \
            bmvpi_v##BITS gv[K]; \
            BMVPI_UNROLL for (l = 0; l < K; ++l) gv[l] = *(const bmvpi_u##BITS *)(g + (i - l) * BMVPI_SLAB + v); \
            BMVPI_UNROLL for (j = 0; j < NJ; ++j) { \
                const bmvpi_v##BITS xv = *(const bmvpi_u##BITS *)(x + i * BMVPI_SLAB + j * row + v); \
                BMVPI_UNROLL for (l = 0; l < K; ++l) a[j][l] += xv * gv[l]; \
            } \
        } \
        BMVPI_UNROLL for (j = 0; j < NJ; ++j) \
            BMVPI_UNROLL for (l = 0; l < K; ++l) *(bmvpi_u##BITS *)(dw + (j * K + l) * BMVPI_SLAB + v) += a[j][l]; \
    } \
}

BMVPI_DW_TILE(bmvpi_dw_tile_3x8_v128, 128, 3, 1, 8)
BMVPI_DW_TILE(bmvpi_dw_tile_5x8_v128, 128, 5, 1, 8)
BMVPI_DW_TILE(bmvpi_dw_tile_3x4_v128, 128, 3, 1, 4)
BMVPI_DW_TILE(bmvpi_dw_tile_5x4_v128, 128, 5, 1, 4)
BMVPI_DW_WGRAD(bmvpi_dw_wgrad3_v128, 128, 3, 3)
BMVPI_DW_WGRAD(bmvpi_dw_wgrad5_2_v128, 128, 5, 2)
BMVPI_DW_WGRAD(bmvpi_dw_wgrad5_1_v128, 128, 5, 1)
#if defined(BMVPI_HAVE_X86)
BMVPI_DW_TILE(bmvpi_dw_tile_3x8_v256, 256, 3, 1, 8)
BMVPI_DW_TILE(bmvpi_dw_tile_5x8_v256, 256, 5, 1, 8)
BMVPI_DW_TILE(bmvpi_dw_tile_3x4_v256, 256, 3, 1, 4)
BMVPI_DW_TILE(bmvpi_dw_tile_5x4_v256, 256, 5, 1, 4)
BMVPI_DW_WGRAD(bmvpi_dw_wgrad3_v256, 256, 3, 3)
BMVPI_DW_WGRAD(bmvpi_dw_wgrad5_2_v256, 256, 5, 2)
BMVPI_DW_WGRAD(bmvpi_dw_wgrad5_1_v256, 256, 5, 1)
BMVPI_DW_TILE(bmvpi_dw_tile_3x8_v512, 512, 3, 2, 8)
BMVPI_DW_TILE(bmvpi_dw_tile_5x8_v512, 512, 5, 2, 8)
BMVPI_DW_TILE(bmvpi_dw_tile_3x4_v512, 512, 3, 2, 4)
BMVPI_DW_TILE(bmvpi_dw_tile_5x4_v512, 512, 5, 2, 4)
BMVPI_DW_WGRAD(bmvpi_dw_wgrad3_v512, 512, 3, 3)
BMVPI_DW_WGRAD(bmvpi_dw_wgrad5_v512, 512, 5, 5)
#endif

/* 25 accumulators do not fit into 16 registers: two rows of weights, two more, the last */
#define BMVPI_DW_WGRAD5(BITS) \
static void bmvpi_dw_wgrad5_v##BITS(const float *x, const float *g, int64_t row, int64_t n, float *dw) \
{ \
    bmvpi_dw_wgrad5_2_v##BITS(x, g, row, n, dw); \
    bmvpi_dw_wgrad5_2_v##BITS(x + 2 * row, g, row, n, dw + 10 * BMVPI_SLAB); \
    bmvpi_dw_wgrad5_1_v##BITS(x + 4 * row, g, row, n, dw + 20 * BMVPI_SLAB); \
}
BMVPI_DW_WGRAD5(128)
#if defined(BMVPI_HAVE_X86)
BMVPI_DW_WGRAD5(256)
#endif

#define BMVPI_DW_SET(BITS, ROWS) \
BMVPI_AT_v##BITS static void bmvpi_dw_gather_v##BITS(const float *x, int64_t step, int64_t n, float *y) \
{ \
    int64_t i, v; \
    for (i = 0; i < n; ++i, x += step, y += BMVPI_SLAB) \
        for (v = 0; v < BMVPI_SLAB; v += BITS / 32) *(bmvpi_u##BITS *)(y + v) = *(const bmvpi_u##BITS *)(x + v); \
} \
BMVPI_AT_v##BITS static void bmvpi_dw_sum_v##BITS(const float *x, int64_t n, float *sum) \
{ \
    int64_t i, v; \
    for (v = 0; v < BMVPI_SLAB; v += BITS / 32) { \
        bmvpi_v##BITS t = *(const bmvpi_u##BITS *)(sum + v); \
        for (i = 0; i < n; ++i) t += *(const bmvpi_u##BITS *)(x + i * BMVPI_SLAB + v); \
        *(bmvpi_u##BITS *)(sum + v) = t; \
    } \
} \
static const bmvpi_dw_set bmvpi_dw_set_v##BITS = { ROWS, bmvpi_dw_gather_v##BITS, bmvpi_dw_sum_v##BITS, \
    { bmvpi_dw_tile_3x8_v##BITS, bmvpi_dw_tile_5x8_v##BITS }, \
    { bmvpi_dw_tile_3x4_v##BITS, bmvpi_dw_tile_5x4_v##BITS }, \
    { bmvpi_dw_wgrad3_v##BITS, bmvpi_dw_wgrad5_v##BITS } };
BMVPI_DW_SET(128, 1)
#if defined(BMVPI_HAVE_X86)
BMVPI_DW_SET(256, 1)
BMVPI_DW_SET(512, 2)
#endif
#endif

/* Kernels for this context and k; NULL: the plain loops do it. */
static const bmvpi_dw_set *bmvpi_dw_kernels(const bmvp_ctx *c, const bmvpi_dw *s)
{
    return s->k == 3 || s->k == 5 ? BMVPI_CHOOSE_SET(c, bmvpi_dw_set) : NULL;
}

/* One call: operands, the cut into tasks and the layout of a worker's memory (floats). */
typedef struct bmvpi_dw_job {
    bmvpi_dw_call q;
    const float *from;                  /* x, or g for the gradient to x */
    float *to;                          /* y, or dx */
    const bmvpi_dw_set *set;
    float *ws, *part;
    int64_t slabs, chunks, depth;       /* tasks: N x slabs x chunks of `depth` planes */
    int64_t rows, wp, plane;            /* block of rows; padded row and plane of the ring */
    int64_t worker, partial;            /* floats of one worker, and of one task's weight gradient */
} bmvpi_dw_job;

static bmvpi_dw_job bmvpi_dw_cut(const bmvp_ctx *c, const bmvpi_dw *s)
{
    bmvpi_dw_job j;
    const int64_t k = s->k, r = k / 2, taps = k * k * k;
    int64_t rows, blocks;
    memset(&j, 0, sizeof j);
    j.q.s = *s;
    j.set = bmvpi_dw_kernels(c, s);
    j.slabs = bmvpi_ceil_div(s->c, BMVPI_SLAB);
    /* 16 tasks keep a few cores busy; a range of depth shorter than 3 k would read its margins too often */
    j.chunks = bmvpi_max(1, bmvpi_min(bmvpi_ceil_div(16, s->n * j.slabs), s->d / (3 * k)));
    j.depth = bmvpi_ceil_div(s->d, j.chunks);
    j.chunks = bmvpi_ceil_div(s->d, j.depth);
    j.wp = bmvpi_ceil_div(s->w, 4) * 4 + 2 * r;
    rows = BMVPI_DW_RING / ((k + 1) * j.wp * BMVPI_SLAB * (int64_t)sizeof(float)) - 2 * r;
    blocks = bmvpi_ceil_div(s->h, bmvpi_max(rows, 2 * k));
    j.rows = bmvpi_ceil_div(bmvpi_ceil_div(s->h, blocks), 2) * 2;
    j.plane = (j.rows + 2 * r) * j.wp * BMVPI_SLAB;
    j.partial = (taps + 1) * BMVPI_SLAB;
    /* ring, gradient plane with a margin in front, and weights + bias + one tile */
    j.worker = k * j.plane + j.plane + (BMVPI_DW_MAX_K + taps + 1 + 2 * 8) * BMVPI_SLAB;
    return j;
}

/* Rows h0 .. h0 + n - 1 (any of them may lie outside: zeros) of one plane of a slab of cc channels, `left` columns
   in. The column margins are zero already. */
static void bmvpi_dw_pack(const bmvpi_dw_job *j, const float *plane, int64_t cc, int64_t h0, int64_t n, int64_t left,
                          float *dst)
{
    int64_t h, w, i;
    for (h = h0; h < h0 + n; ++h, dst += j->wp * BMVPI_SLAB) {
        float *to = dst + left * BMVPI_SLAB;
        const float *from;
        if (h < 0 || h >= j->q.s.h) {
            memset(to, 0, (size_t)(j->q.s.w * BMVPI_SLAB) * sizeof(float));
            continue;
        }
        from = plane + h * j->q.s.w * j->q.s.c;
        if (cc == BMVPI_SLAB) j->set->gather(from, j->q.s.c, j->q.s.w, to);
        else
            for (w = 0; w < j->q.s.w; ++w)
                for (i = 0; i < cc; ++i) to[w * BMVPI_SLAB + i] = from[w * j->q.s.c + i];
    }
}

/* n rows of outputs of one plane at y, from `planes` ring planes. Tiles that stick out go through `tile`. next: the
   same rows of the input plane that is packed next. */
static void bmvpi_dw_rows(const bmvpi_dw_job *j, const float *const *ring, int64_t planes, const float *w,
                          const float *bias, float *tile, int64_t cc, int64_t n, const float *next, float *y)
{
    const int64_t cs = j->q.s.c, ys = j->q.s.w * cs, row = j->wp * BMVPI_SLAB;
    const float *at[BMVPI_DW_MAX_K];
    int64_t h, x, a, b, i, p, wide;
    for (h = 0; h < n; h += j->set->rows) {
        for (x = 0; x < j->q.s.w; x += wide) {
            const int64_t nh = bmvpi_min(j->set->rows, n - h), here = h * ys + x * cs;
            int64_t nw;
            bmvpi_dw_tile_fn fn;
            float *out = y + here;
            wide = j->q.s.w - x > 4 ? 8 : 4;
            nw = bmvpi_min(wide, j->q.s.w - x);
            fn = wide == 8 ? j->set->tile8[j->q.s.k == 5] : j->set->tile4[j->q.s.k == 5];
            for (p = 0; p < planes; ++p) at[p] = ring[p] + h * row + x * BMVPI_SLAB;
            for (a = 0; a < nh; ++a)
                for (b = 0; b < nw; ++b) {
                    BMVPI_PREFETCH(next + here + a * ys + b * cs);
                    if (h + nh + a < n) BMVPI_PREFETCH_WRITE(out + (a + nh) * ys + b * cs);
                }
            if (nh == j->set->rows && nw == wide && cc == BMVPI_SLAB) {
                fn(at, planes, row, w, bias, out, ys, cs, j->q.add);
                continue;
            }
            fn(at, planes, row, w, bias, tile, wide * BMVPI_SLAB, BMVPI_SLAB, 0);
            for (a = 0; a < nh; ++a)
                for (b = 0; b < nw; ++b)
                    for (i = 0; i < cc; ++i) {
                        float *o = out + a * ys + b * cs + i;
                        *o = (j->q.add ? *o : 0.0f) + tile[(a * wide + b) * BMVPI_SLAB + i];
                    }
        }
    }
}

/* The slab's weights (turned round for the gradient to x) and bias, 16 channels each, zeros beyond C */
static void bmvpi_dw_slab_weights(const bmvpi_dw_job *j, int64_t c0, int64_t cc, float *w, float *bias)
{
    const int64_t taps = (int64_t)j->q.s.k * j->q.s.k * j->q.s.k;
    int64_t t, i;
    memset(w, 0, (size_t)(taps * BMVPI_SLAB) * sizeof(float));
    memset(bias, 0, BMVPI_SLAB * sizeof(float));
    for (t = 0; t < taps; ++t)
        for (i = 0; i < cc; ++i) w[t * BMVPI_SLAB + i] = j->q.w[(j->q.dx ? taps - 1 - t : t) * j->q.s.c + c0 + i];
    for (i = 0; j->q.s.residual && i < cc; ++i) w[taps / 2 * BMVPI_SLAB + i] += 1.0f;
    for (i = 0; j->q.bias && i < cc; ++i) bias[i] = j->q.bias[c0 + i];
}

static void bmvpi_dw_forward_task(void *arg, int64_t task, int worker)
{
    const bmvpi_dw_job *j = (const bmvpi_dw_job *)arg;
    const int64_t k = j->q.s.k, r = k / 2, taps = k * k * k, step = j->q.s.h * j->q.s.w * j->q.s.c;
    const int64_t d0 = task % j->chunks * j->depth, d1 = bmvpi_min(d0 + j->depth, j->q.s.d);
    const int64_t c0 = task / j->chunks % j->slabs * BMVPI_SLAB, cc = bmvpi_min(BMVPI_SLAB, j->q.s.c - c0);
    const int64_t first = task / j->chunks / j->slabs * j->q.s.d * step + c0;
    float *ring = j->ws + worker * j->worker, *w = ring + (k + 1) * j->plane, *bias = w + taps * BMVPI_SLAB,
          *tile = bias + BMVPI_SLAB;
    int64_t h, d, q, n;
    bmvpi_dw_slab_weights(j, c0, cc, w, bias);
    memset(ring, 0, (size_t)(k * j->plane) * sizeof(float));
    for (h = 0; h < j->q.s.h; h += j->rows) {
        n = bmvpi_min(j->rows, j->q.s.h - h);
        for (d = d0, q = bmvpi_max(0, d0 - r); d < d1; ++d) {
            const float *at[BMVPI_DW_MAX_K];
            const int64_t lo = bmvpi_max(0, d - r), hi = bmvpi_min(j->q.s.d - 1, d + r);
            const int64_t at_row = first + h * j->q.s.w * j->q.s.c;
            int64_t p;
            for (; q <= hi; ++q)
                bmvpi_dw_pack(j, j->from + first + q * step, cc, h - r, n + 2 * r, r, ring + q % k * j->plane);
            for (p = lo; p <= hi; ++p) at[p - lo] = ring + p % k * j->plane;
            bmvpi_dw_rows(j, at, hi - lo + 1, w + (lo - d + r) * k * k * BMVPI_SLAB, bias, tile, cc, n,
                          j->from + at_row + bmvpi_min(d + r + 1, j->q.s.d - 1) * step, j->to + at_row + d * step);
        }
    }
}

static void bmvpi_dw_prefetch(const bmvpi_dw_job *j, const float *plane, int64_t h, int64_t n)
{
    int64_t i;
    for (i = h * j->q.s.w; i < (h + n) * j->q.s.w; ++i) BMVPI_PREFETCH(plane + i * j->q.s.c);
}

/* One task's share of the slab's weight gradient, then of its bias gradient, into its own partial. */
static void bmvpi_dw_weights_task(void *arg, int64_t task, int worker)
{
    const bmvpi_dw_job *j = (const bmvpi_dw_job *)arg;
    const int64_t k = j->q.s.k, r = k / 2, taps = k * k * k, step = j->q.s.h * j->q.s.w * j->q.s.c,
                  row = j->wp * BMVPI_SLAB;
    const int64_t d0 = task % j->chunks * j->depth, d1 = bmvpi_min(d0 + j->depth, j->q.s.d);
    const int64_t c0 = task / j->chunks % j->slabs * BMVPI_SLAB, cc = bmvpi_min(BMVPI_SLAB, j->q.s.c - c0);
    const int64_t first = task / j->chunks / j->slabs * j->q.s.d * step + c0;
    float *ring = j->ws + worker * j->worker, *g = ring + k * j->plane + BMVPI_DW_MAX_K * BMVPI_SLAB;
    float *dw = j->part + task * j->partial, *db = dw + taps * BMVPI_SLAB;
    int64_t h, d, q, n, p, i;
    memset(dw, 0, (size_t)j->partial * sizeof(float));
    memset(ring, 0, (size_t)j->worker * sizeof(float));
    for (h = 0; h < j->q.s.h; h += j->rows) {
        n = bmvpi_min(j->rows, j->q.s.h - h);
        for (d = d0, q = bmvpi_max(0, d0 - r); d < d1; ++d) {
            const int64_t lo = bmvpi_max(0, d - r), hi = bmvpi_min(j->q.s.d - 1, d + r);
            float sum[BMVPI_SLAB] = { 0 };
            for (; q <= hi; ++q)
                bmvpi_dw_pack(j, j->q.x + first + q * step, cc, h - r, n + 2 * r, r, ring + q % k * j->plane);
            bmvpi_dw_pack(j, j->q.g + first + d * step, cc, h, n, 0, g);
            for (i = 0; i < n; i += 4) { /* four rows: the gradient stays in L1 for the k planes */
                const int64_t some = bmvpi_min(4, n - i);
                bmvpi_dw_prefetch(j, j->q.x + first + bmvpi_min(d + r + 1, j->q.s.d - 1) * step, h + i, some);
                bmvpi_dw_prefetch(j, j->q.g + first + bmvpi_min(d + 1, j->q.s.d - 1) * step, h + i, some);
                for (p = lo; p <= hi; ++p)
                    j->set->wgrad[k == 5](ring + p % k * j->plane + i * row, g + i * row, row, some * j->wp,
                                          dw + (p - d + r) * k * k * BMVPI_SLAB);
            }
            j->set->sum(g, n * j->wp, sum);
            for (i = 0; i < BMVPI_SLAB; ++i) db[i] += sum[i];
        }
    }
}

/* Adds the partials of one slab, samples and depth ranges in order. */
static void bmvpi_dw_combine_task(void *arg, int64_t slab, int worker)
{
    const bmvpi_dw_job *j = (const bmvpi_dw_job *)arg;
    const int64_t taps = (int64_t)j->q.s.k * j->q.s.k * j->q.s.k, c0 = slab * BMVPI_SLAB,
                  cc = bmvpi_min(BMVPI_SLAB, j->q.s.c - c0);
    int64_t t, i, n, q;
    (void)worker;
    for (t = 0; t <= taps; ++t) {
        float *out = t < taps ? (j->q.dw ? j->q.dw + t * j->q.s.c + c0 : NULL) : j->q.db ? j->q.db + c0 : NULL;
        const int add = t < taps ? j->q.add : j->q.add_b;
        if (!out) continue;
        for (i = 0; i < cc; ++i) {
            double sum = 0;
            for (n = 0; n < j->q.s.n; ++n)
                for (q = 0; q < j->chunks; ++q)
                    sum += (double)j->part[((n * j->slabs + slab) * j->chunks + q) * j->partial + t * BMVPI_SLAB + i];
            out[i] = (add ? out[i] : 0.0f) + (float)sum;
        }
    }
}

static int64_t bmvpi_fast_depthwise_workspace(const bmvp_ctx *c, const bmvpi_dw *s, int weights)
{
    const bmvpi_dw_job j = bmvpi_dw_cut(c, s);
    if (!j.set) return 0;
    return j.worker * bmvp_threads(c) + (weights ? s->n * j.slabs * j.chunks * j.partial : 0);
}
static int bmvpi_fast_depthwise(bmvp_ctx *c, const bmvpi_dw_call *q, float *ws)
{
    bmvpi_dw_job j = bmvpi_dw_cut(c, &q->s);
    if (!j.set) return 0;
    j.q = *q;
    j.from = q->dx ? q->g : q->x;
    j.to = q->dx ? q->dx : q->y;
    j.ws = ws;
    bmvp_parallel(c, q->s.n * j.slabs * j.chunks, bmvpi_dw_forward_task, &j);
    return 1;
}
static int bmvpi_fast_depthwise_weights(bmvp_ctx *c, const bmvpi_dw_call *q, float *ws)
{
    bmvpi_dw_job j = bmvpi_dw_cut(c, &q->s);
    if (!j.set) return 0;
    j.q = *q;
    j.ws = ws;
    j.part = ws + j.worker * bmvp_threads(c);
    bmvp_parallel(c, q->s.n * j.slabs * j.chunks, bmvpi_dw_weights_task, &j);
    bmvp_parallel(c, j.slabs, bmvpi_dw_combine_task, &j);
    return 1;
}

/* >>kernel gemm: register tiles and matrix products -----------------------------------------------------------------
   Everything dense (linear, attention, convolutions, their gradients) is one register tile with other strides: C[i][j]
   (+)= sum over runs r and k of A[a_off[r] + i lda + k ka] B[b_off[r] + k ldb + j]. The run loop inside the tile is
   what makes a convolution one call: a run is one kernel row (forward) or one output row (weight gradient), and the
   sums stay in registers. A is read in place, whatever its strides: channels-last rows already lie k-contiguous, and
   packing them cost more than it gave on tall matrices. B is packed into panels of nr columns, zero-padded. */

typedef struct bmvpi_tile {
    const float *a, *b, *bias; /* bias: a full tile width readable, or NULL */
    float *c;
    const int64_t *a_off, *b_off; /* per run */
    int64_t runs, k;              /* k: length of each run */
    int64_t lda, ka, ldb, ldc;
    /* next[a_off[r] + k next_step] is fetched ahead into the cache: what the tile after this reads */
    const float *next;
    int64_t next_step;
    const float *onto; /* C = onto + ..., rows ldc apart as those of C: C itself, a residual, or NULL */
    /* of pairs: 1 if every run begins with the second of a pair; k counts the absent first, a does not */
    int odd;
} bmvpi_tile;
typedef void (*bmvpi_tile_fn)(const bmvpi_tile *t);

enum { BMVPI_MR_MAX = 12, BMVPI_NR_MAX = 32, BMVPI_PAIRS_K = 512, BMVPI_PAIRS_ROW = BMVPI_PAIRS_K / 2 + 16 };
/* fn[0]: tiles nr / 2 wide, fn[1]: nr wide; by number of rows, NULL where there is no such tile */
typedef struct bmvpi_tiles {
    int mr, nr;
    int pairs; /* 1: B's panels hold bfloat16, two rows of k in each row of nr floats */
    bmvpi_tile_fn fn[2][BMVPI_MR_MAX + 1];
} bmvpi_tiles;

#if defined(BMVPI_HAVE_VECTORS)
/* One tile: MR rows x NV vectors. A macro and not an inline function, because vectors may not cross functions of
   different targets. Per k: NV loads of B, MR broadcasts of A, MR NV multiply-adds. */
#define BMVPI_TILE(BITS, MR, NV) \
    BMVPI_AT_v##BITS static void bmvpi_tile_##MR##x##NV##_v##BITS(const bmvpi_tile *t) \
    { \
        enum { W = BITS / 32 }; \
        const int64_t lda = t->lda, ka = t->ka, ldb = t->ldb, ldc = t->ldc; \
        const bmvpi_v##BITS none = { 0 }; \
        bmvpi_v##BITS sum[MR][NV], v[NV]; \
        float *c = t->c; \
        int64_t r, k; \
        int i, j; \
        BMVPI_UNROLL for (j = 0; j < NV; ++j) { \
            v[j] = none; \
            if (t->bias) v[j] = *(const bmvpi_u##BITS *)(t->bias + j * W); \
            BMVPI_UNROLL for (i = 0; i < MR; ++i) sum[i][j] = v[j]; \
        } \
        BMVPI_UNROLL for (i = 0; i < MR; ++i) { \
            BMVPI_PREFETCH(c + i * ldc); \
            BMVPI_PREFETCH(c + i * ldc + NV * W - 1); \
        } \
        for (r = 0; r < t->runs; ++r) { \
            const float *a = t->a + t->a_off[r], *b = t->b + t->b_off[r], *next = t->next + t->a_off[r]; \
            for (k = t->k; k > 0; --k, a += ka, b += ldb, next += t->next_step) { \
                BMVPI_PREFETCH(next); \
                BMVPI_UNROLL for (j = 0; j < NV; ++j) v[j] = *(const bmvpi_u##BITS *)(b + j * W); \
                BMVPI_UNROLL for (i = 0; i < MR; ++i) { \
                    const float s = a[i * lda]; \
                    BMVPI_UNROLL for (j = 0; j < NV; ++j) sum[i][j] += s * v[j]; \
                } \
            } \
        } \
        BMVPI_UNROLL for (i = 0; i < MR; ++i) \
            BMVPI_UNROLL for (j = 0; j < NV; ++j) { \
                bmvpi_u##BITS *to = (bmvpi_u##BITS *)(c + i * ldc + j * W); \
                if (t->onto) sum[i][j] += *(const bmvpi_u##BITS *)(t->onto + i * ldc + j * W); \
                *to = sum[i][j]; \
            } \
    }
#define BMVPI_TILES(BITS, MR) BMVPI_TILE(BITS, MR, 1) BMVPI_TILE(BITS, MR, 2)
#define BMVPI_TILES_512(TYPE) BMVPI_TILES(TYPE, 1) BMVPI_TILES(TYPE, 2) BMVPI_TILES(TYPE, 3) BMVPI_TILES(TYPE, 4) \
    BMVPI_TILES(TYPE, 6) BMVPI_TILES(TYPE, 8) BMVPI_TILES(TYPE, 12)
#define BMVPI_TILES_512_TABLE(TYPE) { \
    BMVPI_TILE_ROW(TYPE, 1, NULL, bmvpi_tile_6x1_v##TYPE, NULL, bmvpi_tile_8x1_v##TYPE, NULL, NULL, NULL, \
                   bmvpi_tile_12x1_v##TYPE), \
    BMVPI_TILE_ROW(TYPE, 2, NULL, bmvpi_tile_6x2_v##TYPE, NULL, bmvpi_tile_8x2_v##TYPE, NULL, NULL, NULL, \
                   bmvpi_tile_12x2_v##TYPE) }
#define BMVPI_TILE_ROW(BITS, NV, T5, T6, T7, T8, T9, T10, T11, T12) \
    { NULL, bmvpi_tile_1x##NV##_v##BITS, bmvpi_tile_2x##NV##_v##BITS, bmvpi_tile_3x##NV##_v##BITS, \
      bmvpi_tile_4x##NV##_v##BITS, T5, T6, T7, T8, T9, T10, T11, T12 }

/* 128-bit: 4 x 8 is 8 sums of the 16 registers that SSE2 has. */
BMVPI_TILES(128, 1) BMVPI_TILES(128, 2) BMVPI_TILES(128, 3) BMVPI_TILES(128, 4)
static const bmvpi_tiles bmvpi_tiles_v128 = { 4, 8, 0, {
    BMVPI_TILE_ROW(128, 1, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL),
    BMVPI_TILE_ROW(128, 2, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL) } };

#if defined(BMVPI_HAVE_X86)
/* AVX2: 6 x 16 is 12 sums of 16 registers; AVX-512: 12 x 32 is 24 of 32, and 12 divides the rows of every layer of the
   networks here (96, 48, 24, 12). Both keep two multiply-add pipes of latency 4 busy; so do the tails 8, 6 and 4. */
BMVPI_TILES(256, 1) BMVPI_TILES(256, 2) BMVPI_TILES(256, 3) BMVPI_TILES(256, 4) BMVPI_TILES(256, 6)
BMVPI_TILES_512(512)
static const bmvpi_tiles bmvpi_tiles_v256 = { 6, 16, 0, {
    BMVPI_TILE_ROW(256, 1, NULL, bmvpi_tile_6x1_v256, NULL, NULL, NULL, NULL, NULL, NULL),
    BMVPI_TILE_ROW(256, 2, NULL, bmvpi_tile_6x2_v256, NULL, NULL, NULL, NULL, NULL, NULL) } };
static const bmvpi_tiles bmvpi_tiles_v512 = { 12, 32, 0, BMVPI_TILES_512_TABLE(512) };
#endif
#if defined(BMVPI_HAVE_BF16)
/* bfloat16: the same tile, two rows of k at a time. vdpbf16ps adds the products of a pair (k, k + 1) of A and one of B
   to a sum in float32, 64 operations an instruction where a multiply-add has 32. bmvpi_strip rounds A to pairs, the
   runs one after the other, into 16 KB of L1 for four panels of B, which are packed as pairs; nothing in memory changes
   its type. */
#define BMVPI_AT_bf16 BMVPI_HOT __attribute__((target("avx512f,avx512dq,avx512vl,avx512bw,avx512bf16,avx2,fma")))

/* 16 numbers, `step` apart; zeros from n on */
BMVPI_AT_bf16 static inline __m512 bmvpi_load16(const float *p, int64_t step, int n)
{
    float part[16];
    int i;
    if (step == 1) return _mm512_maskz_loadu_ps((__mmask16)((1u << n) - 1u), p);
    for (i = 0; i < 16; ++i) part[i] = i < n ? p[i * step] : 0.0f;
    return _mm512_loadu_ps(part);
}

/* (a[0], b[0]), (a[1], b[1]), ...: the pairs of 16 columns, in memory order */
BMVPI_AT_bf16 static inline __m512i bmvpi_pairs_of(__m512 a, __m512 b)
{
    const __m512i order = _mm512_set_epi32(0x1f000f, 0x1e000e, 0x1d000d, 0x1c000c, 0x1b000b, 0x1a000a, 0x190009,
                                           0x180008, 0x170007, 0x160006, 0x150005, 0x140004, 0x130003, 0x120002,
                                           0x110001, 0x100000);
    return _mm512_maskz_permutexvar_epi16(~(__mmask32)0, order, (__m512i)_mm512_cvtne2ps_pbh(b, a));
}

/* k numbers of a row of A as pairs */
BMVPI_AT_bf16 static inline void bmvpi_pairs_row(const float *a, int64_t k, int32_t *to)
{
    int64_t j;
    for (j = 0; j + 32 <= k; j += 32)
        _mm512_storeu_si512(to + j / 2,
                            (__m512i)_mm512_cvtne2ps_pbh(_mm512_loadu_ps(a + j + 16), _mm512_loadu_ps(a + j)));
    if (j < k) {
        const int low = (int)bmvpi_min(16, k - j), high = (int)(k - j) - low;
        _mm512_storeu_si512(
            to + j / 2, (__m512i)_mm512_cvtne2ps_pbh(bmvpi_load16(a + j + low, 1, high), bmvpi_load16(a + j, 1, low)));
    }
}

/* k numbers of each of `rows` <= 16 rows of A, `step` apart, as pairs: 16 rows next to each other, pair by pair. odd:
   see bmvpi_tile */
BMVPI_AT_bf16 static inline void bmvpi_pairs_columns(const float *a, int64_t step, int64_t ka, int rows, int64_t k,
                                                     int odd, int32_t *to)
{
    int64_t j = 0;
    if (odd) {
        _mm512_storeu_si512(to, bmvpi_pairs_of(_mm512_setzero_ps(), bmvpi_load16(a, step, rows)));
        a += ka;
        j = 2;
    }
    for (; j + 1 < k; j += 2, a += 2 * ka)
        _mm512_storeu_si512(to + j * 8, bmvpi_pairs_of(bmvpi_load16(a, step, rows), bmvpi_load16(a + ka, step, rows)));
    if (j < k) _mm512_storeu_si512(to + j * 8, bmvpi_pairs_of(bmvpi_load16(a, step, rows), _mm512_setzero_ps()));
}

/* The runs of `rows` rows of A as pairs; sets what t says of A to them. */
BMVPI_AT_bf16 static void bmvpi_pairs_a(bmvpi_tile *t, int rows, int32_t *to)
{
    const int by_row = t->ka == 1;
    const int64_t k = t->k;
    int64_t r, i;
    int32_t *at = to;
    for (r = 0; r < t->runs; ++r) {
        const float *a = t->a + t->a_off[r];
        for (i = 0; by_row && i < rows; ++i) bmvpi_pairs_row(a + i * t->lda, k, at + i * BMVPI_PAIRS_ROW);
        if (!by_row && t->lda == 1) bmvpi_pairs_columns(a, 1, t->ka, rows, k, t->odd, at);
        else if (!by_row) bmvpi_pairs_columns(a, t->lda, t->ka, rows, k, t->odd, at);
        at += (k + 1) / 2 * (by_row ? 1 : 16);
    }
    t->lda = by_row ? BMVPI_PAIRS_ROW : 1;
    t->ka = by_row ? 1 : 16;
    t->a = (const float *)(const void *)to;
}

#undef BMVPI_TILE
#define BMVPI_TILE(TYPE, MR, NV) \
    BMVPI_AT_bf16 static void bmvpi_tile_##MR##x##NV##_v##TYPE(const bmvpi_tile *t) \
    { \
        const int32_t *a = (const int32_t *)(const void *)t->a; \
        const int64_t row = t->lda, pair = t->ka; \
        __m512 sum[MR][NV]; \
        __m512bh v[NV]; \
        int64_t r, k; \
        int i, j; \
        BMVPI_UNROLL for (i = 0; i < MR; ++i) \
            BMVPI_UNROLL for (j = 0; j < NV; ++j) { \
                sum[i][j] = t->bias ? _mm512_loadu_ps(t->bias + j * 16) : _mm512_setzero_ps(); \
                BMVPI_PREFETCH(t->c + i * t->ldc + j * 16); \
            } \
        for (r = 0; r < t->runs; ++r) { \
            const float *b = t->b + t->b_off[r], *next = t->next + t->a_off[r]; \
            for (k = t->k; k > 0; k -= 2, a += pair, b += 2 * t->ldb, next += 2 * t->next_step) { \
                BMVPI_PREFETCH(next); \
                BMVPI_PREFETCH(next + t->next_step); \
                BMVPI_UNROLL for (j = 0; j < NV; ++j) v[j] = (__m512bh)_mm512_loadu_si512(b + j * 16); \
                BMVPI_UNROLL for (i = 0; i < MR; ++i) { \
                    const __m512bh s = (__m512bh)_mm512_set1_epi32(a[i * row]); \
                    BMVPI_UNROLL for (j = 0; j < NV; ++j) sum[i][j] = _mm512_dpbf16_ps(sum[i][j], s, v[j]); \
                } \
            } \
        } \
        BMVPI_UNROLL for (i = 0; i < MR; ++i) \
            BMVPI_UNROLL for (j = 0; j < NV; ++j) { \
                const int64_t at = i * t->ldc + j * 16; \
                _mm512_storeu_ps(t->c + at, \
                                 t->onto ? _mm512_add_ps(sum[i][j], _mm512_loadu_ps(t->onto + at)) : sum[i][j]); \
            } \
    }
BMVPI_TILES_512(bf16)
static const bmvpi_tiles bmvpi_tiles_bf16 = { 12, 32, 1, BMVPI_TILES_512_TABLE(bf16) };
#endif
#undef BMVPI_TILE_ROW
#undef BMVPI_TILES_512_TABLE
#undef BMVPI_TILES_512
#undef BMVPI_TILES
#undef BMVPI_TILE
#endif

/* Level of the tiles of products that a context may round: above all instruction sets */
enum { BMVPI_LEVEL_BF16 = BMVP_SIMD_AVX512 + 1 };
static int bmvpi_product_level(const bmvp_ctx *c)
{
    return c->cfg.precision == BMVP_BF16 ? BMVPI_LEVEL_BF16 : (int)c->simd;
}

/* The tiles of a level; NULL: plain loops. */
static const bmvpi_tiles *bmvpi_tiles_of(int level)
{
#if defined(BMVPI_HAVE_BF16)
    if (level == BMVPI_LEVEL_BF16) return &bmvpi_tiles_bf16;
#endif
#if defined(BMVPI_HAVE_X86)
    if (level >= BMVP_SIMD_AVX512) return &bmvpi_tiles_v512;
    if (level == BMVP_SIMD_AVX2) return &bmvpi_tiles_v256;
#endif
#if defined(BMVPI_HAVE_VECTORS)
    if (level >= BMVP_SIMD_VECTOR) return &bmvpi_tiles_v128;
#endif
    (void)level;
    return NULL;
}

/* long products pack so much at a time: panels of 24 KB in L1, 192 KB in L2 */
enum { BMVPI_LONG_K = 192, BMVPI_LONG_N = 256 };

/* Fetch ahead what the next call reads of A: the rows below, or, where A is read along its columns, the next stretch
   of k. Matrices that come from memory gain a third: no hardware prefetcher follows twelve short streams. */
static void bmvpi_tile_ahead(bmvpi_tile *t, int mr)
{
    t->next = t->a + (t->ka == 1 ? mr * t->lda : BMVPI_LONG_K * t->ka);
    t->next_step = t->ka == 1 ? mr * t->lda / bmvpi_max(1, t->k) : t->ka;
}

/* One tile of `mr` rows x cols <= nr columns. The last columns of a matrix go through a whole tile beside it; bias is
   readable for cols only. */
static void bmvpi_tile_run(const bmvpi_tiles *q, const bmvpi_tile *strip, int mr, int64_t cols)
{
    float side[BMVPI_MR_MAX * BMVPI_NR_MAX];
    const int wide = cols * 2 > q->nr, width = wide ? q->nr : q->nr / 2;
    bmvpi_tile t;
    int64_t i, j;
    if (cols == width) {
        q->fn[wide][mr](strip);
        return;
    }
    t = *strip;
    t.bias = NULL;
    t.c = side;
    t.ldc = width;
    t.onto = NULL;
    q->fn[wide][mr](&t);
    for (i = 0; i < mr; ++i)
        for (j = 0; j < cols; ++j)
            strip->c[i * strip->ldc + j] = side[i * width + j] + (strip->bias ? strip->bias[j] : 0.0f) +
                                           (strip->onto ? strip->onto[i * strip->ldc + j] : 0.0f);
}

/* `rows` rows x cols columns: neighbouring panels of B, `panel` floats apart. */
static void bmvpi_strip(const bmvpi_tiles *q, const bmvpi_tile *strip, int64_t rows, int64_t cols, int64_t panel)
{
    /* first tile of r last rows: two that keep the pipes busy are better than a large and a small one */
    static const int first[BMVPI_MR_MAX + 1] = { 0, 1, 2, 3, 4, 3, 6, 4, 8, 6, 6, 8, 12 };
    int64_t row, n;
    int mr;
#if defined(BMVPI_HAVE_BF16)
    int32_t pairs[16 * BMVPI_PAIRS_ROW];
#endif
    for (row = 0; row < rows; row += mr) {
        bmvpi_tile t = *strip;
        mr = rows - row >= q->mr ? q->mr : first[rows - row];
        t.a += row * t.lda;
        t.next += row * t.lda;
        t.c += row * t.ldc;
        if (t.onto) t.onto += row * t.ldc;
#if defined(BMVPI_HAVE_BF16)
        if (q->pairs) bmvpi_pairs_a(&t, mr, pairs);
#endif
        for (n = 0; n < cols; n += q->nr, t.b += panel, t.c += q->nr) {
            if (strip->bias) t.bias = strip->bias + n;
            bmvpi_tile_run(q, &t, mr, bmvpi_min(q->nr, cols - n));
            if (t.onto) t.onto += q->nr;
        }
    }
}

/* Panels that one pass over rows of A serves */
static int64_t bmvpi_panel_group(const bmvpi_tiles *q) { return q->pairs ? 4 : 1; }
/* keeps workspace parts 64-byte aligned */
static int64_t bmvpi_round16(int64_t n) { return (n + 15) / 16 * 16; }

/* A packed matrix is panels of nr columns (plain: one). Floats from a row of k to the next; of pairs only even rows
   have a place. */
static int64_t bmvpi_panel_row(const bmvpi_tiles *q) { return !q ? 1 : q->pairs ? q->nr / 2 : q->nr; }

/* From panel to panel. The odd cache line keeps panels of 2^i rows from falling into the same cache sets. */
static int64_t bmvpi_panel_step(const bmvpi_tiles *q, int64_t k)
{
    return bmvpi_round16(bmvpi_panel_row(q) * (q && q->pairs ? k + k % 2 : k)) + 16;
}

/* Floats of a packed k x n matrix. A multiple of 16. */
static int64_t bmvpi_packed_size(int level, int64_t k, int64_t n)
{
    const bmvpi_tiles *q = bmvpi_tiles_of(level);
    return bmvpi_ceil_div(n, q ? q->nr : 1) * bmvpi_panel_step(q, k);
}

#if defined(BMVPI_HAVE_BF16)
/* bmvpi_pack_rows for bfloat16. k0 is even; k1 too, or it is k: then the last pair's second number is zero. */
BMVPI_AT_bf16 static void bmvpi_pack_pairs(const bmvpi_tiles *q, const float *b, int64_t rs, int64_t cs, int64_t k,
                                           int64_t n, int64_t k0, int64_t k1, float *to)
{
    const int64_t step = bmvpi_panel_step(q, k), whole = cs == 1 ? n / 16 * 16 : 0;
    int64_t i, j;
    k1 -= k0;
    to += k0 * bmvpi_panel_row(q);
    for (i = 0; i < k1; i += 2) {
        const float *row = b + i * rs, *second = i + 1 < k1 ? row + rs : NULL;
        int32_t *p = (int32_t *)(void *)(to + i * bmvpi_panel_row(q));
        for (j = 0; j < whole; j += 16)
            _mm512_storeu_si512(
                p + j / 32 * step + j % 32,
                bmvpi_pairs_of(_mm512_loadu_ps(row + j), second ? _mm512_loadu_ps(second + j) : _mm512_setzero_ps()));
        for (; j < bmvpi_ceil_div(n, 32) * 32; j += 16) {
            const int cols = (int)bmvpi_max(0, bmvpi_min(16, n - j));
            _mm512_storeu_si512(p + j / 32 * step + j % 32,
                                bmvpi_pairs_of(bmvpi_load16(row + j * cs, cs, cols),
                                               bmvpi_load16(second ? second + j * cs : row, cs, second ? cols : 0)));
        }
    }
}
#endif

/* Rows [k0, k1) of all panels of a packed k x n matrix from b, whose element (k0 + i, j) lies at b[i rs + j cs]; the
   last panel is filled up with zeros. In order of B's memory: a panel at a time would fetch a few lines of each row. */
static void bmvpi_pack_rows(const bmvpi_tiles *q, const float *b, int64_t rs, int64_t cs, int64_t k, int64_t n,
                            int64_t k0, int64_t k1, float *to)
{
    const int64_t nr = q ? q->nr : 1, whole = cs == 1 ? n / nr : 0, step = bmvpi_panel_step(q, k);
    int64_t i, j, e;
#if defined(BMVPI_HAVE_BF16)
    if (q && q->pairs) {
        bmvpi_pack_pairs(q, b, rs, cs, k, n, k0, k1, to);
        return;
    }
#endif
    to += k0 * nr;
    k1 -= k0;
    for (i = 0; i < k1; ++i) {
        const float *row = b + i * rs;
        float *p = to + i * nr;
        for (j = 0; j < whole * nr; j += 16) BMVPI_PREFETCH(row + 8 * rs + j);
        if (nr == 32) for (j = 0; j < whole; ++j) memcpy(p + j * step, row + j * 32, 32 * sizeof(float));
        else if (nr == 16) for (j = 0; j < whole; ++j) memcpy(p + j * step, row + j * 16, 16 * sizeof(float));
        else for (j = 0; j < whole; ++j) memcpy(p + j * step, row + j * nr, (size_t)nr * sizeof(float));
    }
    for (j = whole * nr; j < bmvpi_ceil_div(n, nr) * nr; ++j) {
        float *p = to + j / nr * step + j % nr;
        const float *col = b + j * cs;
        for (i = 0, e = j < n ? k1 : 0; i < e; ++i) p[i * nr] = col[i * rs];
        for (; i < k1; ++i) p[i * nr] = 0.0f;
    }
}

/* Packs B for b_packed; `to` holds bmvpi_packed_size floats, 64-byte aligned. */
static void bmvpi_pack_b(int level, const float *b, int64_t rs, int64_t cs, int64_t k, int64_t n, float *to)
{
    int64_t i;
    for (i = 0; i < k; i += 64) /* short stretches: a transposed block stays in L1 */
        bmvpi_pack_rows(bmvpi_tiles_of(level), b + i * rs, rs, cs, k, n, i, bmvpi_min(k, i + 64), to);
}

/* Where the tiles find B: panels, or B itself (small m: packing would cost more than the product). */
typedef struct bmvpi_gemm_b {
    const float *b;
    int64_t ld, panel; /* from k to k, from panel to panel */
} bmvpi_gemm_b;

static const int64_t bmvpi_one_run = 0; /* the offset table of a plain matrix product */

/* Rows [m0, m1) x panels [p0, p1) of one product. Blocks of k keep a block of A (256 KB) in L2 while the panels pass.
   The sums of an output do not depend on the cut in m and n, only on the blocks of k. */
static void bmvpi_gemm_block(const bmvpi_tiles *q, const bmvpi_gemm_args *g, const float *a, const bmvpi_gemm_b *b,
                             float *c, int64_t m0, int64_t m1, int64_t p0, int64_t p1)
{
    const int64_t even = bmvpi_ceil_div(g->k, bmvpi_ceil_div(g->k, 512)), kc = q->pairs ? even + even % 2 : even;
    const int64_t mc = bmvpi_max(1, 65536 / kc / q->mr) * q->mr, group = bmvpi_panel_group(q);
    int64_t m, k, p, n;
    bmvpi_tile t;
    t.a_off = t.b_off = &bmvpi_one_run;
    t.runs = 1;
    t.odd = 0;
    t.lda = g->a_rs;
    t.ka = g->a_cs;
    t.ldb = b->ld;
    t.ldc = g->c_rs;
    for (m = m0; m < m1; m += mc) {
        for (k = 0; k < g->k; k += kc) {
            t.k = bmvpi_min(kc, g->k - k);
            t.a = a + m * g->a_rs + k * g->a_cs;
            bmvpi_tile_ahead(&t, q->mr);
            if (b->ld != bmvpi_panel_row(q) && !g->b_near) t.next = b->b + (k + BMVPI_LONG_K) * b->ld;
            for (p = p0; p < p1; p += group) {
                n = p * q->nr;
                t.b = b->b + p * b->panel + k * b->ld;
                t.bias = g->bias && k == 0 ? g->bias + n : NULL;
                t.c = c + m * g->c_rs + n;
                t.onto = k > 0 || g->accumulate ? t.c : g->residual ? g->residual + m * g->c_rs + n : NULL;
                bmvpi_strip(q, &t, bmvpi_min(mc, m1 - m), bmvpi_min(bmvpi_min(group, p1 - p) * q->nr, g->n - n),
                            b->panel);
            }
        }
    }
}

/* May the tiles read B where it lies? Only whole tiles: a partial one would read past the row. Of few rows of A, since
   packing would cost more than the product; of a near B if its panels fit L1, whose sets rows that are a multiple of 1
   KB apart share. */
static int bmvpi_gemm_direct(const bmvpi_tiles *q, const bmvpi_gemm_args *g)
{
    if (g->b_packed || g->b_cs != 1 || q->pairs) return 0;
    if (g->b_near) return g->k <= 128 && g->b_rs % 256 != 0;
    return g->m <= 2 * q->mr && g->n % (q->nr / 2) == 0;
}

static bmvpi_gemm_b bmvpi_gemm_b_of(const bmvpi_tiles *q, const bmvpi_gemm_args *g, const float *b)
{
    const int direct = bmvpi_gemm_direct(q, g);
    bmvpi_gemm_b r;
    r.b = b;
    r.ld = direct ? g->b_rs : bmvpi_panel_row(q);
    r.panel = direct ? q->nr : bmvpi_panel_step(q, g->k);
    return r;
}

/* The whole product on the calling thread: for use inside tasks. ws: bmvpi_packed_size floats, 64-byte aligned; NULL if
   b_packed. */
static void bmvpi_gemm_serial(int level, const bmvpi_gemm_args *g, float *ws)
{
    const bmvpi_tiles *q = bmvpi_tiles_of(level);
    const float *packed = NULL;
    int64_t i;
    for (i = 0; i < g->outer * g->inner; ++i) {
        const int64_t o = i / g->inner, n = i % g->inner;
        const float *a = g->a + o * g->a_bo + n * g->a_bi, *b = g->b + o * g->b_bo + n * g->b_bi;
        float *c = g->c + o * g->c_bo + n * g->c_bi;
        bmvpi_gemm_b from;
        if (!g->b_packed && !bmvpi_gemm_direct(q, g)) {
            if (packed != b) bmvpi_pack_b(level, b, g->b_rs, g->b_cs, g->k, g->n, ws);
            packed = b;
            b = ws;
        }
        from = bmvpi_gemm_b_of(q, g, b);
        bmvpi_gemm_block(q, g, a, &from, c, 0, g->m, 0, bmvpi_ceil_div(g->n, q->nr));
    }
}

/* How the parallel product is cut. Ordinary: B is packed once, tasks are blocks of rows x groups of panels. Long
   (weight gradients: few rows and columns, k = number of tokens): k is cut into `parts` by shape alone, each part
   packs its stretches of B itself and has its own C; the parts are added in order. */
typedef struct bmvpi_gemm_job {
    const bmvpi_gemm_args *g;
    const bmvp_ctx *c;
    const bmvpi_tiles *q;
    int level, direct, is_long;
    float *ws;
    int64_t packs, pack_size;                /* distinct B matrices to pack */
    int64_t row_blocks, rows, col_groups, panels; /* ordinary; rows and panels of a task */
    int64_t parts, part_k, groups, group_m; /* long */
    int64_t own;                             /* long: floats of workspace per worker */
} bmvpi_gemm_job;

static bmvpi_gemm_job bmvpi_gemm_cut(const bmvp_ctx *c, const bmvpi_gemm_args *g)
{
    bmvpi_gemm_job j;
    const int64_t batch = g->outer * g->inner;
    int64_t n_panels;
    memset(&j, 0, sizeof j);
    j.g = g;
    j.c = c;
    j.level = g->exact ? (int)c->simd : bmvpi_product_level(c);
    j.q = bmvpi_tiles_of(j.level);
    j.direct = j.q && bmvpi_gemm_direct(j.q, g);
    j.row_blocks = bmvpi_ceil_div(g->m, 192);
    j.rows = bmvpi_ceil_div(g->m, j.row_blocks);
    j.col_groups = 1;
    if (!j.q) return j;
    j.is_long = batch == 1 && !g->b_packed && g->k >= 2048 && g->k > 4 * bmvpi_max(g->m, g->n);
    if (j.is_long) {
        j.parts = bmvpi_max(1, bmvpi_min(bmvpi_min(16, (1 << 22) / bmvpi_max(1, g->m * g->n)), g->k / 1024));
        j.part_k = bmvpi_ceil_div(bmvpi_ceil_div(g->k, j.parts), BMVPI_LONG_K) * BMVPI_LONG_K;
        j.parts = bmvpi_ceil_div(g->k, j.part_k);
        j.groups = j.parts >= 8 ? 1 : bmvpi_max(1, bmvpi_min(bmvpi_ceil_div(16, j.parts), g->m / (4 * j.q->mr)));
        j.group_m = bmvpi_ceil_div(bmvpi_ceil_div(g->m, j.groups), j.q->mr) * j.q->mr;
        j.groups = bmvpi_ceil_div(g->m, j.group_m);
        j.own = j.direct ? 0 : bmvpi_packed_size(j.level, BMVPI_LONG_K, BMVPI_LONG_N);
        return j;
    }
    j.rows = bmvpi_ceil_div(j.rows, j.q->mr) * j.q->mr;
    j.row_blocks = bmvpi_ceil_div(g->m, j.rows);
    n_panels = bmvpi_ceil_div(g->n, j.q->nr);
    j.col_groups = bmvpi_max(1, bmvpi_min(n_panels, 4 * bmvp_threads(c) / bmvpi_max(1, j.row_blocks * batch)));
    j.panels = bmvpi_ceil_div(n_panels, j.col_groups);
    j.col_groups = bmvpi_ceil_div(n_panels, j.panels);
    if (!g->b_packed && !j.direct) {
        j.packs = (g->b_bo ? g->outer : 1) * (g->b_bi ? g->inner : 1);
        j.pack_size = bmvpi_packed_size(j.level, g->k, g->n);
    }
    return j;
}

/* Workspace of bmvpi_gemm, in floats. The pointers of g are not looked at. */
static int64_t bmvpi_fast_product_workspace(const bmvp_ctx *c, const bmvpi_gemm_args *g)
{
    const bmvpi_gemm_job j = bmvpi_gemm_cut(c, g);
    if (j.is_long) return j.own * bmvp_threads(c) + (j.parts > 1 ? j.parts * bmvpi_round16(g->m * g->n) : 0);
    return j.packs * j.pack_size;
}

static void bmvpi_gemm_pack_task(void *arg, int64_t task, int worker) /* task = 64 rows of one B */
{
    const bmvpi_gemm_job *j = (const bmvpi_gemm_job *)arg;
    const bmvpi_gemm_args *g = j->g;
    const int64_t blocks = bmvpi_ceil_div(g->k, 64), pack = task / blocks, k0 = task % blocks * 64;
    const int64_t inner = g->b_bi ? g->inner : 1;
    (void)worker;
    bmvpi_pack_rows(j->q, g->b + pack / inner * g->b_bo + pack % inner * g->b_bi + k0 * g->b_rs, g->b_rs, g->b_cs,
                    g->k, g->n, k0, bmvpi_min(g->k, k0 + 64), j->ws + pack * j->pack_size);
}

static void bmvpi_gemm_task(void *arg, int64_t task, int worker) /* task = (matrix, block of rows, group of panels) */
{
    const bmvpi_gemm_job *j = (const bmvpi_gemm_job *)arg;
    const bmvpi_gemm_args *g = j->g;
    const int64_t block = task / j->col_groups, i = block / j->row_blocks, o = i / g->inner, in = i % g->inner;
    const int64_t m0 = block % j->row_blocks * j->rows, m1 = bmvpi_min(g->m, m0 + j->rows);
    const float *a = g->a + o * g->a_bo + in * g->a_bi, *b = g->b + o * g->b_bo + in * g->b_bi;
    float *c = g->c + o * g->c_bo + in * g->c_bi;
    bmvpi_gemm_b from;
    (void)worker;
    if (j->packs) b = j->ws + ((g->b_bo ? o : 0) * (g->b_bi ? g->inner : 1) + (g->b_bi ? in : 0)) * j->pack_size;
    from = bmvpi_gemm_b_of(j->q, g, b);
    bmvpi_gemm_block(j->q, g, a, &from, c, m0, m1, task % j->col_groups * j->panels,
                     bmvpi_min(bmvpi_ceil_div(g->n, j->q->nr), (task % j->col_groups + 1) * j->panels));
}

static void bmvpi_gemm_long_task(void *arg, int64_t task, int worker) /* task = (part of k, group of rows) */
{
    const bmvpi_gemm_job *j = (const bmvpi_gemm_job *)arg;
    const int64_t part = task / j->groups, m0 = task % j->groups * j->group_m, m1 = bmvpi_min(j->g->m, m0 + j->group_m);
    const int64_t k_end = bmvpi_min(j->g->k, (part + 1) * j->part_k);
    float *own = j->ws + j->own * worker, *c = j->g->c;
    bmvpi_gemm_args g = *j->g;
    bmvpi_gemm_b from;
    int64_t k, n;
    if (j->parts > 1) {
        c = j->ws + j->own * bmvp_threads(j->c) + part * bmvpi_round16(g.m * g.n);
        g.c_rs = g.n;
        g.accumulate = 0;
        g.bias = g.residual = NULL;
    }
    for (k = part * j->part_k; k < k_end; k += BMVPI_LONG_K) {
        g.k = bmvpi_min(BMVPI_LONG_K, k_end - k);
        for (n = 0; n < j->g->n; n += BMVPI_LONG_N) {
            g.n = bmvpi_min(BMVPI_LONG_N, j->g->n - n);
            from.b = j->g->b + k * g.b_rs + n * g.b_cs;
            if (!j->direct) bmvpi_pack_b(j->level, from.b, g.b_rs, g.b_cs, g.k, g.n, own);
            from = bmvpi_gemm_b_of(j->q, &g, j->direct ? from.b : own);
            g.bias = j->parts > 1 || k > 0 || !j->g->bias ? NULL : j->g->bias + n;
            g.residual = j->parts > 1 || k > 0 || !j->g->residual ? NULL : j->g->residual + n;
            bmvpi_gemm_block(j->q, &g, g.a + k * g.a_cs, &from, c + n, m0, m1, 0, bmvpi_ceil_div(g.n, j->q->nr));
        }
        g.accumulate = 1;
    }
}

static void bmvpi_gemm_sum_task(void *arg, int64_t task, int worker) /* task = one row of C */
{
    const bmvpi_gemm_job *j = (const bmvpi_gemm_job *)arg;
    const bmvpi_gemm_args *g = j->g;
    const float *part = j->ws + j->own * bmvp_threads(j->c) + task * g->n;
    float *c = g->c + task * g->c_rs;
    int64_t i, p;
    (void)worker;
    for (i = 0; i < g->n; ++i) {
        float sum = (g->accumulate ? c[i] : 0.0f) + (g->bias ? g->bias[i] : 0.0f) +
                    (g->residual ? g->residual[task * g->c_rs + i] : 0.0f);
        for (p = 0; p < j->parts; ++p) sum += part[p * bmvpi_round16(g->m * g->n) + i];
        c[i] = sum;
    }
}

static int bmvpi_fast_product(bmvp_ctx *c, const bmvpi_gemm_args *g, float *ws)
{
    bmvpi_gemm_job j = bmvpi_gemm_cut(c, g);
    if (!j.q) return 0;
    j.ws = ws;
    if (j.is_long) {
        bmvp_parallel(c, j.parts * j.groups, bmvpi_gemm_long_task, &j);
        if (j.parts > 1) bmvp_parallel(c, g->m, bmvpi_gemm_sum_task, &j);
        return 1;
    }
    if (j.packs) bmvp_parallel(c, j.packs * bmvpi_ceil_div(g->k, 64), bmvpi_gemm_pack_task, &j);
    bmvp_parallel(c, g->outer * g->inner * j.row_blocks * j.col_groups, bmvpi_gemm_task, &j);
    return 1;
}

/* Where a product goes: rows ld apart, =, or with `add` += */
typedef struct bmvpi_target { float *p; int64_t ld; int add; } bmvpi_target;
static bmvpi_target bmvpi_onto(float *p, int64_t ld, int add)
{
    bmvpi_target c;
    c.p = p;
    c.ld = ld;
    c.add = add;
    return c;
}

/* c (m x n) = a b + bias, b packed by bmvpi_pack_b, on the calling thread */
static void bmvpi_mm(int level, int64_t m, int64_t n, int64_t k, bmvpi_matrix a, const float *packed, bmvpi_target c,
                     const float *bias)
{
    bmvpi_gemm_args g = bmvpi_gemm_make(m, n, k, a, bmvpi_strided_matrix(packed, 0, 0), c.p, c.ld);
    g.b_packed = 1;
    g.accumulate = c.add;
    g.bias = bias;
    bmvpi_gemm_serial(level, &g, NULL);
}

/* c (m x n) = a b, a and b tiles of the same few rows k, a read along them (transposed): what weight gradients sum. b's
   rows must be readable up to a multiple of 16 floats; ws: bmvpi_packed_size of k x n. */
static void bmvpi_mm_rows(int level, int64_t m, int64_t n, int64_t k, bmvpi_matrix a, bmvpi_matrix b, bmvpi_target c,
                          float *ws)
{
    bmvpi_gemm_args g = bmvpi_gemm_make(m, n, k, a, b, c.p, c.ld);
    g.b_near = n % 16 == 0 || b.rs >= (n + 31) / 32 * 32;
    g.accumulate = c.add;
    bmvpi_gemm_serial(level, &g, ws);
}

/* >>kernel conv: dense convolutions ---------------------------------------------------------------------------------
   A convolution, channels-last, with any kernel, stride and zero padding, and its three gradients. Nothing is
   unfolded: per task the few rows that the windows touch are copied once into a zero-padded slab in L2 (or read in
   place when no window leaves the volume), and the register tile walks the window itself, one run per kernel row,
   since the kernel row's kw ci values lie next to each other. Per output voxel 2 kd kh kw ci co operations; x is read
   1 to 4 times, y written once. Most 3^3 kernels at stride 1 take Winograd's way instead, at the end of this block. */


/* Sliding window: what forward and the gradient of x have in common. Along each axis, position q of the window reads
   [q step - pad, + window) and writes one output per phase r: q phases + r - shift. Forward has one phase. The
   gradient of x has one per stride: output i = q s + r - p meets the taps r, r + s, ...: a stride-1 convolution with
   those, reversed. */
typedef struct bmvpi_axis {
    int64_t in, out;                /* lengths of the tensor read and of the one written */
    /* phase r has (kernel - r + phases - 1) / phases taps, the last ones of the window */
    int64_t phases, kernel, window;
    int64_t step, pad, shift, lo, hi; /* lo <= q < hi */
} bmvpi_axis;

enum { BMVPI_RUNS_MAX = 256 }; /* kernel rows, and output rows at a time in the weight gradient */

typedef struct bmvpi_slide {
    bmvpi_conv_call call;
    const float *from;        /* x, or g for the gradient of x */
    float *to;                /* y, or dx */
    const bmvpi_tiles *q;
    int level;
    bmvpi_axis ax[3];
    int64_t ci, co;           /* channels read; written per q */
    int64_t w_k, w_n;         /* weights' strides along the channels read and written */
    int reversed, in_place;   /* taps in reverse; no padding: x is read where it lies */
    int64_t rows, row_blocks; /* q rows per task */
    int64_t slab[3], own;     /* planes, rows, columns of the padded copy; its floats */
    int64_t phases, pack_size;
    float *packed, *bias, *slabs; /* parts of the workspace */
} bmvpi_slide;

static int64_t bmvpi_axis_taps(const bmvpi_axis *a, int64_t r) { return (a->kernel - r + a->phases - 1) / a->phases; }

static bmvpi_axis bmvpi_axis_forward(const bmvpi_conv *v, int i)
{
    bmvpi_axis a;
    a.in = v->in[i];
    a.out = a.hi = v->out[i];
    a.phases = 1;
    a.kernel = a.window = v->k[i];
    a.step = v->s[i];
    a.pad = v->p[i];
    a.shift = a.lo = 0;
    return a;
}

static bmvpi_axis bmvpi_axis_dx(const bmvpi_conv *v, int i)
{
    bmvpi_axis a;
    a.in = v->out[i];
    a.out = v->in[i];
    a.phases = v->s[i];
    a.kernel = v->k[i];
    a.window = bmvpi_ceil_div(v->k[i], v->s[i]);
    a.step = 1;
    a.pad = a.window - 1;
    a.shift = v->p[i];
    a.lo = v->p[i] / v->s[i];
    a.hi = (v->in[i] - 1 + v->p[i]) / v->s[i] + 1;
    return a;
}

/* Kernel = stride along W and every column met once: the kw outputs of a position lie next to each other, so they are
   one row of kw ci channels and not kw phases. Patch embeddings and 2^3 transposed convolutions. */
static int bmvpi_conv_blocks(const bmvpi_conv *v)
{
    return v->k[2] == v->s[2] && v->p[2] == 0 && v->in[2] == v->out[2] * v->s[2];
}

static bmvpi_slide bmvpi_slide_make(const bmvp_ctx *c, const bmvpi_conv *v, int dx)
{
    bmvpi_slide s;
    int64_t row, window;
    int i;
    memset(&s, 0, sizeof s);
    for (i = 0; i < 3; ++i) s.ax[i] = dx ? bmvpi_axis_dx(v, i) : bmvpi_axis_forward(v, i);
    s.ci = dx ? v->co : v->ci;
    s.co = dx ? v->ci : v->co;
    s.w_k = dx ? v->wo : v->wi;
    s.w_n = dx ? v->wi : v->wo;
    s.reversed = dx;
    if (dx && bmvpi_conv_blocks(v)) {
        s.ax[2].out = s.ax[2].hi = v->out[2];
        s.ax[2].phases = s.ax[2].kernel = 1;
        s.co *= v->k[2];
    }
    window = s.ax[0].window * s.ax[1].window * s.ax[2].window;
    /* a pair must not reach into the next tap, and a tap must fit what is rounded at a time */
    s.level = s.ci % 2 || s.ci > BMVPI_PAIRS_K || window > BMVPI_RUNS_MAX ? (int)c->simd : bmvpi_product_level(c);
    s.q = bmvpi_tiles_of(s.level);
    s.in_place = 1;
    for (i = 0; i < 3; ++i) {
        const bmvpi_axis *a = &s.ax[i];
        if (a->lo * a->step < a->pad || (a->hi - 1) * a->step - a->pad + a->window > a->in) s.in_place = 0;
    }
    /* rows per task: a slab of 384 KB; up to 1.5 MB where that takes fewer than 72 voxels past each stretch of
       weights; and enough tasks for the threads */
    s.slab[0] = s.ax[0].window;
    s.slab[2] = (s.ax[2].hi - s.ax[2].lo - 1) * s.ax[2].step + s.ax[2].window;
    row = s.slab[0] * s.slab[2] * s.ci;
    s.rows = bmvpi_min((393216 / row - s.ax[1].window) / s.ax[1].step + 1, 72 / (s.ax[2].hi - s.ax[2].lo));
    s.rows = bmvpi_max(1, bmvpi_max(s.rows, (98304 / row - s.ax[1].window) / s.ax[1].step + 1));
    s.row_blocks = bmvpi_ceil_div(s.ax[1].hi - s.ax[1].lo, s.rows);
    s.row_blocks = bmvpi_max(s.row_blocks, bmvpi_min(s.ax[1].hi - s.ax[1].lo,
                             bmvpi_ceil_div(4 * bmvp_threads(c), v->n * (s.ax[0].hi - s.ax[0].lo))));
    s.rows = bmvpi_ceil_div(s.ax[1].hi - s.ax[1].lo, s.row_blocks);
    s.row_blocks = bmvpi_ceil_div(s.ax[1].hi - s.ax[1].lo, s.rows);
    s.slab[1] = (s.rows - 1) * s.ax[1].step + s.ax[1].window;
    s.own = s.in_place ? 0 : bmvpi_round16(s.slab[0] * s.slab[1] * s.slab[2] * s.ci);
    s.phases = s.ax[0].phases * s.ax[1].phases * s.ax[2].phases;
    s.pack_size = bmvpi_packed_size(s.level, window * s.ci, s.co);
    return s;
}

static int64_t bmvpi_slide_workspace(const bmvp_ctx *c, const bmvpi_slide *s)
{
    return s->phases * s->pack_size + bmvpi_round16(s->co) + s->own * bmvp_threads(c);
}

/* Phase number to phase per axis, taps per axis; returns the number of taps. */
static int64_t bmvpi_slide_phase(const bmvpi_slide *s, int64_t phase, int64_t r[3], int64_t taps[3])
{
    r[2] = phase % s->ax[2].phases;
    r[1] = phase / s->ax[2].phases % s->ax[1].phases;
    r[0] = phase / s->ax[2].phases / s->ax[1].phases;
    taps[0] = bmvpi_axis_taps(&s->ax[0], r[0]);
    taps[1] = bmvpi_axis_taps(&s->ax[1], r[1]);
    taps[2] = bmvpi_axis_taps(&s->ax[2], r[2]);
    return taps[0] * taps[1] * taps[2];
}

static void bmvpi_slide_pack_task(void *arg, int64_t task, int worker) /* task = (phase, tap of the full window) */
{
    const bmvpi_slide *s = (const bmvpi_slide *)arg;
    const bmvpi_conv *v = s->call.v;
    const int64_t window = s->ax[0].window * s->ax[1].window * s->ax[2].window, phase = task / window;
    const int64_t tap = task % window;
    int64_t r[3], taps[3], t[3], n;
    int i;
    (void)worker;
    n = bmvpi_slide_phase(s, phase, r, taps);
    if (tap >= n) return;
    t[0] = tap / (taps[1] * taps[2]);
    t[1] = tap / taps[2] % taps[1];
    t[2] = tap % taps[2];
    for (i = 0; s->reversed && i < 3; ++i) t[i] = r[i] + s->ax[i].phases * (taps[i] - 1 - t[i]);
    bmvpi_pack_rows(s->q, s->call.w + ((t[0] * v->k[1] + t[1]) * v->k[2] + t[2]) * v->wt, s->w_k, s->w_n,
                    n * s->ci, s->co, tap * s->ci, (tap + 1) * s->ci, s->packed + phase * s->pack_size);
}

/* Copies rows [h0, + slab rows) of planes [z0, + slab planes), columns [w0, + slab columns) of sample n; zeros
   outside. */
static void bmvpi_slide_fill(const bmvpi_slide *s, int64_t n, int64_t z0, int64_t h0, int64_t w0, float *to)
{
    const int64_t left = bmvpi_min(s->slab[2], bmvpi_max(0, -w0)), row = s->slab[2] * s->ci;
    const int64_t right = bmvpi_max(left, bmvpi_min(s->slab[2], s->ax[2].in - w0));
    const float *from;
    int64_t z, h;
    for (z = z0; z < z0 + s->slab[0]; ++z) {
        for (h = h0; h < h0 + s->slab[1]; ++h, to += row) {
            if (z < 0 || z >= s->ax[0].in || h < 0 || h >= s->ax[1].in || left == right) {
                memset(to, 0, (size_t)row * sizeof(float));
                continue;
            }
            memset(to, 0, (size_t)(left * s->ci) * sizeof(float));
            from = s->from + (((n * s->ax[0].in + z) * s->ax[1].in + h) * s->ax[2].in + w0 + left) * s->ci;
            memcpy(to + left * s->ci, from, (size_t)((right - left) * s->ci) * sizeof(float));
            memset(to + right * s->ci, 0, (size_t)(row - right * s->ci) * sizeof(float));
        }
    }
}

/* q range of an axis whose output of phase r exists: [*lo, *hi) */
static void bmvpi_axis_range(const bmvpi_axis *a, int64_t r, int64_t *lo, int64_t *hi)
{
    *lo = bmvpi_max(a->lo, bmvpi_ceil_div(bmvpi_max(0, a->shift - r), a->phases));
    *hi = a->out - 1 + a->shift < r ? *lo : bmvpi_min(a->hi, (a->out - 1 + a->shift - r) / a->phases + 1);
}

/* One phase of one task: q rows [h0, h1) of plane d of sample n. base: window of (d, h0, first column); plane, row:
   strides. Kernel rows are taken so many at a time that a panel of their weights (256 KB) stays in L2 while the voxels
   pass. */
static void bmvpi_slide_rows(const bmvpi_slide *s, int64_t phase, int64_t n, int64_t d, int64_t h0, int64_t h1,
                             const float *base, int64_t plane, int64_t row)
{
    int64_t r[3], taps[3], a_off[BMVPI_RUNS_MAX], b_off[BMVPI_RUNS_MAX], lo[3], hi[3], out[3], i, h, p, k, runs, col,
        cut;
    const bmvpi_axis *ax = s->ax;
    bmvpi_tile t;
    k = bmvpi_slide_phase(s, phase, r, taps) * s->ci;
    for (i = 0; i < 3; ++i) bmvpi_axis_range(&ax[i], r[i], &lo[i], &hi[i]);
    if (d < lo[0] || d >= hi[0] || lo[2] >= hi[2]) return;
    cut = s->q->pairs && taps[2] * s->ci > BMVPI_PAIRS_K ? taps[2] : 1; /* runs of a kernel row, or of one tap */
    runs = taps[0] * taps[1] * cut;
    t.k = taps[2] * s->ci / cut;
    t.ldb = bmvpi_panel_row(s->q);
    for (i = 0; i < runs; ++i) {
        a_off[i] = (ax[0].window - taps[0] + i / cut / taps[1]) * plane +
                   (ax[1].window - taps[1] + i / cut % taps[1]) * row + i % cut * t.k;
        b_off[i] = i * t.k * t.ldb;
    }
    t.b_off = b_off;
    t.odd = 0;
    t.lda = ax[2].step * s->ci;
    t.ka = 1;
    t.ldc = ax[2].phases * s->co;
    out[0] = d * ax[0].phases + r[0] - ax[0].shift;
    out[2] = lo[2] * ax[2].phases + r[2] - ax[2].shift;
    col = ((lo[2] - ax[2].lo) * ax[2].step + ax[2].window - taps[2]) * s->ci;
    i = 0;
    do { /* once even without taps: the output is then 0 or the bias */
        t.a_off = a_off + i;
        /* 512 products at most in one chain of float additions: halves the rounding error of wide layers */
        t.runs = bmvpi_min(runs - i, bmvpi_max(1, 512 / bmvpi_max(1, t.k)));
        for (p = 0; p * s->q->nr < s->co; p += bmvpi_panel_group(s->q)) {
            t.b = s->packed + phase * s->pack_size + p * bmvpi_panel_step(s->q, k) + i * t.k * t.ldb;
            t.bias = s->bias && i == 0 ? s->bias + p * s->q->nr : NULL;
            for (h = bmvpi_max(h0, lo[1]); h < bmvpi_min(h1, hi[1]); ++h) {
                out[1] = h * ax[1].phases + r[1] - ax[1].shift;
                t.a = base + (h - h0) * ax[1].step * row + col;
                t.c = s->to + (((n * ax[0].out + out[0]) * ax[1].out + out[1]) * ax[2].out + out[2]) * s->co +
                      p * s->q->nr;
                t.onto = s->call.accumulate || i > 0 ? t.c : NULL;
                bmvpi_tile_ahead(&t, s->q->mr);
                bmvpi_strip(s->q, &t, hi[2] - lo[2],
                            bmvpi_min(bmvpi_panel_group(s->q) * s->q->nr, s->co - p * s->q->nr),
                            bmvpi_panel_step(s->q, k));
            }
        }
        i += t.runs;
    } while (i < runs);
}

static void bmvpi_slide_task(void *arg, int64_t task, int worker) /* task = (sample, q plane, block of q rows) */
{
    const bmvpi_slide *s = (const bmvpi_slide *)arg;
    const bmvpi_axis *ax = s->ax;
    const int64_t planes = ax[0].hi - ax[0].lo, n = task / s->row_blocks / planes;
    const int64_t d = ax[0].lo + task / s->row_blocks % planes;
    const int64_t h0 = ax[1].lo + task % s->row_blocks * s->rows, h1 = bmvpi_min(ax[1].hi, h0 + s->rows);
    const int64_t z0 = d * ax[0].step - ax[0].pad, y0 = h0 * ax[1].step - ax[1].pad;
    const int64_t x0 = ax[2].lo * ax[2].step - ax[2].pad;
    int64_t plane = s->slab[1] * s->slab[2] * s->ci, row = s->slab[2] * s->ci, phase;
    const float *base;
    if (s->in_place) {
        plane = ax[1].in * ax[2].in * s->ci;
        row = ax[2].in * s->ci;
        base = s->from + ((n * ax[0].in + z0) * ax[1].in + y0) * row + x0 * s->ci;
    } else {
        base = s->slabs + worker * s->own;
        bmvpi_slide_fill(s, n, z0, y0, x0, s->slabs + worker * s->own);
    }
    for (phase = 0; phase < s->phases; ++phase) bmvpi_slide_rows(s, phase, n, d, h0, h1, base, plane, row);
}

static void bmvpi_slide_run(bmvp_ctx *c, bmvpi_slide *s, float *ws)
{
    const bmvpi_axis *ax = s->ax;
    const int64_t window = ax[0].window * ax[1].window * ax[2].window, co = s->reversed ? s->call.v->ci : s->call.v->co;
    int64_t i;
    s->packed = ws;
    ws += s->phases * s->pack_size;
    if (s->call.bias) { /* repeated where several voxels are written as one */
        s->bias = ws;
        for (i = 0; i < s->co; ++i) s->bias[i] = s->call.bias[i % co];
    }
    s->slabs = ws + bmvpi_round16(s->co);
    bmvp_parallel(c, s->phases * window, bmvpi_slide_pack_task, s);
    bmvp_parallel(c, s->call.v->n * (ax[0].hi - ax[0].lo) * s->row_blocks, bmvpi_slide_task, s);
}

/* Weight gradient: dw[tap, ci, co] += sum over voxels x[voxel under tap, ci] g[voxel, co]: per tap a product of x
   transposed with g over all output voxels, the runs being output rows, cut to the columns whose input exists. So x
   needs no padding and is read in place; g is packed, some rows at a time. Parts of the rows, cut by shape, have their
   own sums. */
typedef struct bmvpi_conv_dw_job {
    bmvpi_conv_call call;
    const bmvpi_tiles *q;
    int level;
    int64_t parts, part_rows, tap_groups, group_taps;
    int64_t m, taps, taps_w; /* rows of one product: ci, or kw ci where a kernel row can be read at once; taps left */
    int64_t rows, own, size; /* rows packed at a time; floats per worker; floats of dw */
    float *ws, *sums;
} bmvpi_conv_dw_job;

static bmvpi_conv_dw_job bmvpi_conv_dw_make(const bmvp_ctx *c, const bmvpi_conv *v)
{
    const int64_t rows = v->n * v->out[0] * v->out[1];
    const int whole = v->p[2] == 0 && (v->out[2] - 1) * v->s[2] + v->k[2] <= v->in[2];
    bmvpi_conv_dw_job j;
    memset(&j, 0, sizeof j);
    /* pairs are of one output row; x is read by columns */
    j.level = v->out[2] % 2 || v->out[2] > BMVPI_PAIRS_K || v->ci * v->s[2] == 1 ? (int)c->simd
                                                                                 : bmvpi_product_level(c);
    j.q = bmvpi_tiles_of(j.level);
    j.size = v->k[0] * v->k[1] * v->k[2] * v->ci * v->co;
    j.taps_w = whole ? 1 : v->k[2];
    j.taps = v->k[0] * v->k[1] * j.taps_w;
    j.m = whole ? v->k[2] * v->ci : v->ci;
    j.parts = bmvpi_max(1, bmvpi_min(bmvpi_min(16, (1 << 22) / j.size), rows * v->out[2] / 1024));
    j.part_rows = bmvpi_ceil_div(rows, j.parts);
    j.parts = bmvpi_ceil_div(rows, j.part_rows);
    j.tap_groups = j.parts >= 8 ? 1 : bmvpi_min(j.taps, bmvpi_ceil_div(16, j.parts));
    j.group_taps = bmvpi_ceil_div(j.taps, j.tap_groups);
    j.tap_groups = bmvpi_ceil_div(j.taps, j.group_taps);
    j.rows = bmvpi_min(BMVPI_RUNS_MAX, bmvpi_min(256, 65536 / v->co) / v->out[2]);
    j.rows = bmvpi_max(1, bmvpi_min(j.rows, j.part_rows));
    j.own = bmvpi_packed_size(j.level, j.rows * v->out[2], v->co);
    return j;
}

static int64_t bmvpi_conv_dw_workspace(const bmvp_ctx *c, const bmvpi_conv_dw_job *j)
{
    return j->own * bmvp_threads(c) + j->parts * bmvpi_round16(j->size);
}

/* Tap `tap` over output rows [r0, r1), whose g is packed in `own`; adds to its ci x co (or kw ci x co) of `sums`. */
static void bmvpi_conv_dw_tap(const bmvpi_conv_dw_job *j, int64_t tap, int64_t r0, int64_t r1, const float *own,
                              float *sums)
{
    const bmvpi_conv *v = j->call.v;
    const int64_t e = tap % j->taps_w, b = tap / j->taps_w % v->k[1], a = tap / j->taps_w / v->k[1];
    const int64_t lo = bmvpi_ceil_div(bmvpi_max(0, v->p[2] - e), v->s[2]);
    const int64_t last = v->in[2] - 1 + v->p[2] - e; /* of the columns under this tap */
    const int64_t hi = last < 0 ? 0 : bmvpi_min(v->out[2], last / v->s[2] + 1);
    const int64_t step = bmvpi_panel_step(j->q, (r1 - r0) * v->out[2]);
    int64_t a_off[BMVPI_RUNS_MAX], b_off[BMVPI_RUNS_MAX], r, p;
    bmvpi_tile t;
    t.runs = 0;
    t.ldb = bmvpi_panel_row(j->q);
    for (r = r0; r < r1 && lo < hi; ++r) {
        const int64_t z = r / v->out[1] % v->out[0] * v->s[0] - v->p[0] + a, h = r % v->out[1] * v->s[1] - v->p[1] + b;
        if (z < 0 || z >= v->in[0] || h < 0 || h >= v->in[1]) continue;
        a_off[t.runs] = ((r / (v->out[0] * v->out[1]) * v->in[0] + z) * v->in[1] + h) * v->in[2] * v->ci;
        b_off[t.runs++] = (r - r0) * v->out[2] * t.ldb;
    }
    if (t.runs == 0) return;
    t.a_off = a_off;
    t.b_off = b_off;
    t.odd = j->q->pairs && lo % 2;
    t.k = hi - lo + t.odd;
    t.a = j->call.x + (lo * v->s[2] - v->p[2] + e) * v->ci;
    t.lda = 1;
    t.ka = v->s[2] * v->ci;
    t.ldc = v->co;
    t.bias = NULL;
    bmvpi_tile_ahead(&t, j->q->mr);
    for (p = 0; p * j->q->nr < v->co; p += bmvpi_panel_group(j->q)) {
        t.b = own + p * step + (lo - t.odd) * t.ldb;
        t.onto = t.c = sums + tap * j->m * v->co + p * j->q->nr;
        bmvpi_strip(j->q, &t, j->m, bmvpi_min(bmvpi_panel_group(j->q) * j->q->nr, v->co - p * j->q->nr), step);
    }
}

static void bmvpi_conv_dw_task(void *arg, int64_t task, int worker) /* task = (part of the rows, group of taps) */
{
    const bmvpi_conv_dw_job *j = (const bmvpi_conv_dw_job *)arg;
    const bmvpi_conv *v = j->call.v;
    const int64_t part = task / j->tap_groups, t0 = task % j->tap_groups * j->group_taps;
    const int64_t t1 = bmvpi_min(j->taps, t0 + j->group_taps);
    const int64_t end = bmvpi_min(v->n * v->out[0] * v->out[1], (part + 1) * j->part_rows);
    float *own = j->ws + worker * j->own, *sums = j->sums + part * bmvpi_round16(j->size);
    int64_t r, r1, t;
    memset(sums + t0 * j->m * v->co, 0, (size_t)((t1 - t0) * j->m * v->co) * sizeof(float));
    for (r = part * j->part_rows; r < end; r = r1) {
        r1 = bmvpi_min(end, r + j->rows);
        bmvpi_pack_rows(j->q, j->call.g + r * v->out[2] * v->co, v->co, 1, (r1 - r) * v->out[2], v->co, 0,
                        (r1 - r) * v->out[2], own);
        for (t = t0; t < t1; ++t) bmvpi_conv_dw_tap(j, t, r, r1, own, sums);
    }
}

static void bmvpi_conv_dw_sum_task(void *arg, int64_t task, int worker) /* task = (tap, input channel) */
{
    const bmvpi_conv_dw_job *j = (const bmvpi_conv_dw_job *)arg;
    const bmvpi_conv *v = j->call.v;
    float *dw = j->call.dw + task / v->ci * v->wt + task % v->ci * v->wi;
    int64_t o, p;
    (void)worker;
    for (o = 0; o < v->co; ++o) {
        float sum = dw[o * v->wo];
        for (p = 0; p < j->parts; ++p) sum += j->sums[p * bmvpi_round16(j->size) + task * v->co + o];
        dw[o * v->wo] = sum;
    }
}

/* Winograd F(2^3, 3^3) (Winograd 1980; Lavin and Gray 2016): 3^3 kernels at stride 1 with padding 1. Along an axis two
   outputs of three taps are four products of transformed inputs d and weights g, y = A' ((G g) (B' d)):
       B' d = d0 - d2, d1 + d2, d2 - d1, d1 - d3        A' m = m0 + m1 + m2, m1 - m2 - m3
       G g = g0, (g0 + g1 + g2) / 2, (g0 - g1 + g2) / 2, g2
   In 3-D a tile of 2^3 outputs is 64 points, each a matrix product over channels: 64 multiply-adds for a pair of
   channels in place of 216. So is the weight gradient, dg = G' sum over tiles of (B' d) (A dy). A task is a block of
   tiles: it transforms their 4^3 inputs (each voxel is read 8 times, fetched a tile ahead), multiplies by the 64
   matrices of weights, which all tasks share, and transforms back. The points of a block, 64 (Ci + Co) floats a tile,
   lie in L2 up to Ci + Co = 128, else in L3. Constants are 0, 1 and 1/2: of random numbers, 64 to 64 channels, results
   and gradients are 3.6e-7 off (root mean square), those of the direct sums 2.8e-7 to 3.4e-7. */
enum { BMVPI_WINO_POINTS = 64, BMVPI_WINO_LEAST = 4096 };

typedef struct bmvpi_wino_set {
    /* c channels (a multiple of 16) of a tile. in: 4^3 voxels to 64 points, B' d, meanwhile the new half of the next
       tile's voxels is fetched; spread: 2^3 voxels to 64 points, A dy */
    void (*in)(const float *const *src, const float *const *next, int64_t c, float *to, int64_t point);
    void (*spread)(const float *const *src, int64_t c, float *to, int64_t point);
    /* 64 points to the 2^3 voxels that have a place, A' m + bias */
    void (*out)(const float *m, int64_t point, int64_t c, const float *bias, float *const *dst, int accumulate);
    /* y[i] += sum over 64 points of factor[p] m[p point + i]; factors of 0 are left out */
    void (*blend)(const float *m, int64_t point, const float *factor, int points, int64_t n, float *y);
} bmvpi_wino_set;

#if defined(BMVPI_HAVE_VECTORS)
/* LINE works on the N lines of v[16] (y, x) along x (S = 1) or y (S = 4): unrolled, so that all 16 stay in registers */
#define BMVPI_WINO_X(N, LINE) BMVPI_UNROLL for (i = 0; i < (N); ++i) { LINE(v, 4 * i, 1) }
#define BMVPI_WINO_Y(N, LINE) BMVPI_UNROLL for (i = 0; i < (N); ++i) { LINE(v, i, 4) }
#define BMVPI_WINO_IN(v, at, S) { \
        const vec a = v[at], b = v[(at) + (S)], d = v[(at) + 2 * (S)], e = v[(at) + 3 * (S)]; \
        v[at] = a - d; \
        v[(at) + (S)] = b + d; \
        v[(at) + 2 * (S)] = d - b; \
        v[(at) + 3 * (S)] = b - e; }
#define BMVPI_WINO_OUT(v, at, S) { \
        const vec b = v[(at) + (S)], d = v[(at) + 2 * (S)]; \
        v[at] = v[at] + b + d; \
        v[(at) + (S)] = b - d - v[(at) + 3 * (S)]; }
#define BMVPI_WINO_SPREAD(v, at, S) { \
        const vec a = v[at], b = v[(at) + (S)]; \
        v[(at) + (S)] = a + b; \
        v[(at) + 2 * (S)] = a - b; \
        v[(at) + 3 * (S)] = zero - b; }
/* Tiles of the input, 4^3, to 64 points. */
#define BMVPI_WINO_INPUT(BITS) \
BMVPI_AT_v##BITS static void bmvpi_wino_in_v##BITS(const float *const *src, const float *const *next, int64_t c, \
                                                   float *to, int64_t point) \
{ \
    typedef bmvpi_v##BITS vec; \
    int64_t ch; \
    int z, i; \
    for (ch = 0; ch < c; ch += BITS / 32) { \
        vec t[64], v[16]; \
        for (z = 0; z < 4; ++z) { \
            BMVPI_UNROLL for (i = 0; i < 16; ++i) { \
                v[i] = *(const bmvpi_u##BITS *)(src[16 * z + i] + ch); \
                if (i % 4 > 1) BMVPI_PREFETCH(next[16 * z + i] + ch); \
            } \
            BMVPI_WINO_X(4, BMVPI_WINO_IN) \
            BMVPI_WINO_Y(4, BMVPI_WINO_IN) \
            BMVPI_UNROLL for (i = 0; i < 16; ++i) t[16 * z + i] = v[i]; \
        } \
        for (i = 0; i < 16; ++i) { \
            float *at = to + i * point + ch; \
            BMVPI_WINO_IN(t, i, 16) \
            BMVPI_UNROLL for (z = 0; z < 4; ++z) *(bmvpi_u##BITS *)(at + 16 * z * point) = t[16 * z + i]; \
        } \
    } \
}
BMVPI_STAMP(BMVPI_WINO_INPUT)

/* Tiles of a gradient, 2^3, to 64 points. */
#define BMVPI_WINO_GRADIENT(BITS) \
BMVPI_AT_v##BITS static void bmvpi_wino_spread_v##BITS(const float *const *src, int64_t c, float *to, int64_t point) \
{ \
    typedef bmvpi_v##BITS vec; \
    const vec zero = { 0.0f }; \
    int64_t ch; \
    int z, i; \
    for (ch = 0; ch < c; ch += BITS / 32) { \
        vec t[64], v[16]; \
        for (z = 0; z < 2; ++z) { \
            BMVPI_UNROLL for (i = 0; i < 4; ++i) v[i / 2 * 4 + i % 2] = *(const bmvpi_u##BITS *)(src[4 * z + i] + ch); \
            BMVPI_WINO_X(2, BMVPI_WINO_SPREAD) \
            BMVPI_WINO_Y(4, BMVPI_WINO_SPREAD) \
            BMVPI_UNROLL for (i = 0; i < 16; ++i) t[16 * z + i] = v[i]; \
        } \
        for (i = 0; i < 16; ++i) { \
            float *at = to + i * point + ch; \
            BMVPI_WINO_SPREAD(t, i, 16) \
            BMVPI_UNROLL for (z = 0; z < 4; ++z) *(bmvpi_u##BITS *)(at + 16 * z * point) = t[16 * z + i]; \
        } \
    } \
}
BMVPI_STAMP(BMVPI_WINO_GRADIENT)

/* 64 points to tiles of the output, 2^3. */
#define BMVPI_WINO_OUTPUT(BITS) \
BMVPI_AT_v##BITS static void bmvpi_wino_out_v##BITS(const float *m, int64_t point, int64_t c, const float *bias, \
                                                    float *const *dst, int accumulate) \
{ \
    typedef bmvpi_v##BITS vec; \
    int64_t ch; \
    int z, i; \
    for (ch = 0; ch < c; ch += BITS / 32) { \
        vec t[64], v[16]; \
        vec added = { 0.0f }; \
        if (bias) added = *(const bmvpi_u##BITS *)(bias + ch); \
        for (i = 0; i < 16; ++i) { \
            const float *at = m + i * point + ch; \
            BMVPI_UNROLL for (z = 0; z < 4; ++z) t[16 * z + i] = *(const bmvpi_u##BITS *)(at + 16 * z * point); \
            BMVPI_WINO_OUT(t, i, 16) \
        } \
        for (z = 0; z < 2; ++z) { \
            BMVPI_UNROLL for (i = 0; i < 16; ++i) v[i] = t[16 * z + i]; \
            BMVPI_WINO_Y(4, BMVPI_WINO_OUT) \
            BMVPI_WINO_X(2, BMVPI_WINO_OUT) \
            BMVPI_UNROLL for (i = 0; i < 4; ++i) { \
                float *to = dst[4 * z + i]; \
                vec sum = v[i / 2 * 4 + i % 2] + added; \
                if (!to) continue; \
                if (accumulate) sum += *(const bmvpi_u##BITS *)(to + ch); \
                *(bmvpi_u##BITS *)(to + ch) = sum; \
            } \
        } \
    } \
}
BMVPI_STAMP(BMVPI_WINO_OUTPUT)

/* A weighed sum of points, for the gradient of the weights. */
#define BMVPI_WINO_BLEND(BITS) \
BMVPI_AT_v##BITS static void bmvpi_wino_blend_v##BITS(const float *m, int64_t point, const float *factor, int points, \
                                                      int64_t n, float *y) \
{ \
    int64_t i; \
    int p; \
    for (i = 0; i < n; i += BITS / 32) { \
        bmvpi_v##BITS v = *(const bmvpi_u##BITS *)(y + i); \
        for (p = 0; p < points; ++p) \
            if (factor[p] != 0.0f) v += factor[p] * *(const bmvpi_u##BITS *)(m + p * point + i); \
        *(bmvpi_u##BITS *)(y + i) = v; \
    } \
}
BMVPI_STAMP(BMVPI_WINO_BLEND)

/* All of one width. */
#define BMVPI_WINO_SET(BITS) \
static const bmvpi_wino_set bmvpi_wino_set_v##BITS = { bmvpi_wino_in_v##BITS, bmvpi_wino_spread_v##BITS, \
    bmvpi_wino_out_v##BITS, bmvpi_wino_blend_v##BITS };
BMVPI_STAMP(BMVPI_WINO_SET)
#undef BMVPI_WINO_SPREAD
#undef BMVPI_WINO_OUT
#undef BMVPI_WINO_IN
#undef BMVPI_WINO_Y
#undef BMVPI_WINO_X
#endif

static const bmvpi_wino_set *bmvpi_wino_of(const bmvp_ctx *c) { return BMVPI_CHOOSE_SET(c, bmvpi_wino_set); }

/* Where the products saved pay for the transforms: whole vectors of channels, and enough voxels for 64 matrices of
   weights. In float32 whatever the context's precision: as fast as bfloat16 products without it. */
static int bmvpi_wino_fits(const bmvp_ctx *c, const bmvpi_conv *v)
{
    int i, yes = bmvpi_wino_of(c) && v->groups == 1 && v->wo == 1 && v->ci % 16 == 0 &&
                 v->co % 16 == 0 && v->ci * v->co <= 65536 && v->n * v->in[0] * v->in[1] * v->in[2] >= BMVPI_WINO_LEAST;
    for (i = 0; i < 3; ++i) yes = yes && v->k[i] == 3 && v->s[i] == 1 && v->p[i] == 1;
    return yes;
}

typedef struct bmvpi_wino { /* one call */
    bmvpi_conv_call call;
    const float *from;            /* x, or g for the gradient of x */
    float *to;                    /* y, or dx */
    const bmvpi_wino_set *set;
    int level, what;
    int64_t ci, co;               /* channels read and written; DW: of x and of dy */
    int64_t tiles[3], total;
    int64_t rows, blocks;         /* tiles of a block; blocks */
    int64_t in_point, out_point;  /* floats from point to point of a block's inputs and outputs */
    int64_t own, pack;            /* floats of a worker; of the packed weights of one point */
    int64_t parts, part_blocks;   /* DW: partial sums of 64 points, blocks of each */
    /* DW: tasks of a part, channels of x of each: large weights would leave threads idle */
    int64_t groups, channels;
    float *packed, *owns, *zeros; /* DW: packed = the partial sums */
} bmvpi_wino;

static bmvpi_wino bmvpi_wino_make(const bmvp_ctx *c, const bmvpi_conv *v, int what)
{
    bmvpi_wino j;
    int i;
    memset(&j, 0, sizeof j);
    j.set = bmvpi_wino_of(c);
    j.level = (int)c->simd;
    j.what = what;
    j.ci = what == BMVPI_CONV_DX ? v->co : v->ci;
    j.co = what == BMVPI_CONV_DX ? v->ci : v->co;
    for (j.total = v->n, i = 0; i < 3; ++i) j.total *= j.tiles[i] = bmvpi_ceil_div(v->in[i], 2);
    /* 768 KB of points; not under 24 tiles, which use the weights of a point 24 times */
    j.rows = bmvpi_min(48, bmvpi_max(24, 3072 / (j.ci + j.co) / 12 * 12));
    j.blocks = bmvpi_ceil_div(j.total, j.rows);
    j.in_point = j.rows * j.ci + 16; /* points a multiple of 4 KB apart would share their place in the cache */
    j.out_point = j.rows * j.co + 16;
    j.pack = bmvpi_packed_size(j.level, j.ci, j.co);
    j.own = BMVPI_WINO_POINTS * (j.in_point + j.out_point);
    if (what == BMVPI_CONV_DW) {
        j.parts = bmvpi_min(j.blocks, bmvpi_max(1, bmvpi_min(16, (1 << 23) / (BMVPI_WINO_POINTS * j.ci * j.co))));
        j.part_blocks = bmvpi_ceil_div(j.blocks, j.parts);
        j.parts = bmvpi_ceil_div(j.blocks, j.part_blocks);
        /* each spreads dy anew */
        j.channels = bmvpi_max(16, bmvpi_ceil_div(j.ci, bmvpi_ceil_div(4, j.parts) * 16) * 16);
        j.groups = bmvpi_ceil_div(j.ci, j.channels);
        j.own += bmvpi_packed_size(j.level, j.rows, j.co);
    } else {
        j.own = bmvpi_max(j.own, j.ci * j.co); /* first, the weights of a point */
    }
    j.own = bmvpi_round16(j.own);
    return j;
}

static int64_t bmvpi_wino_workspace(const bmvp_ctx *c, const bmvpi_wino *j)
{
    const int64_t shared = j->what == BMVPI_CONV_DW ? j->parts * j->ci * j->co : j->pack;
    return BMVPI_WINO_POINTS * shared + bmvpi_max(j->ci, j->co) + j->own * bmvp_threads(c);
}

/* Row `point` of G: its factors of three taps */
static void bmvpi_wino_g(int64_t point, float g[3])
{
    g[0] = point < 3 ? (point == 0 ? 1.0f : 0.5f) : 0.0f;
    g[1] = point == 1 ? 0.5f : point == 2 ? -0.5f : 0.0f;
    g[2] = point > 0 ? (point == 3 ? 1.0f : 0.5f) : 0.0f;
}

static void bmvpi_wino_weights_task(void *arg, int64_t p, int worker) /* p = point: its matrix of weights, packed */
{
    const bmvpi_wino *j = (const bmvpi_wino *)arg;
    const int64_t n = j->ci * j->co;
    float *u = j->owns + worker * j->own, g[3][3], factor[27];
    int i;
    for (i = 0; i < 3; ++i) bmvpi_wino_g(i == 0 ? p / 16 : i == 1 ? p / 4 % 4 : p % 4, g[i]);
    for (i = 0; i < 27; ++i)
        factor[j->what == BMVPI_CONV_DX ? 26 - i : i] = g[0][i / 9] * g[1][i / 3 % 3] * g[2][i % 3];
    memset(u, 0, (size_t)n * sizeof *u);
    j->set->blend(j->call.w, j->call.v->wt, factor, 27, n, u);
    if (j->what == BMVPI_CONV_DX) bmvpi_pack_b(j->level, u, 1, j->ci, j->ci, j->co, j->packed + p * j->pack);
    else bmvpi_pack_b(j->level, u, j->co, 1, j->ci, j->co, j->packed + p * j->pack);
}

/* Voxels of tile t of a volume with c channels, `size` along each axis, the first at 2 tile - before; those outside:
   none */
static void bmvpi_wino_voxels(const bmvpi_wino *j, int64_t t, int size, int before, int64_t c, const float *x,
                              const float *none, const float **at)
{
    const int64_t *dim = j->call.v->in, *tiles = j->tiles;
    const int64_t z0 = t / tiles[2] / tiles[1] % tiles[0] * 2 - before, y0 = t / tiles[2] % tiles[1] * 2 - before;
    const int64_t x0 = t % tiles[2] * 2 - before, n = t / tiles[2] / tiles[1] / tiles[0];
    int64_t z, y, i;
    for (z = z0; z < z0 + size; ++z)
        for (y = y0; y < y0 + size; ++y, at += size) {
            const int inside = z >= 0 && z < dim[0] && y >= 0 && y < dim[1];
            const float *row = inside ? x + ((n * dim[0] + z) * dim[1] + y) * dim[2] * c : none;
            for (i = 0; i < size; ++i) at[i] = inside && x0 + i >= 0 && x0 + i < dim[2] ? row + (x0 + i) * c : none;
        }
}

/* Points of the inputs of `rows` tiles from t0: n channels from ch on */
static void bmvpi_wino_inputs(const bmvpi_wino *j, int64_t t0, int64_t rows, int64_t ch, int64_t n, float *in)
{
    const float *src[2][64];
    int64_t r;
    bmvpi_wino_voxels(j, t0, 4, 1, j->ci, j->from + ch, j->zeros, src[0]);
    for (r = 0; r < rows; ++r) {
        bmvpi_wino_voxels(j, bmvpi_min(t0 + r + 1, j->total - 1), 4, 1, j->ci, j->from + ch, j->zeros,
                          src[(r + 1) % 2]);
        j->set->in(src[r % 2], src[(r + 1) % 2], n, in + r * n, j->in_point);
    }
}

static void bmvpi_wino_task(void *arg, int64_t block, int worker)
{
    const bmvpi_wino *j = (const bmvpi_wino *)arg;
    const int64_t t0 = block * j->rows, rows = bmvpi_min(j->rows, j->total - t0);
    float *in = j->owns + worker * j->own, *out = in + BMVPI_WINO_POINTS * j->in_point, *dst[8];
    const float *to[8];
    int64_t r, p;
    int i;
    bmvpi_wino_inputs(j, t0, rows, 0, j->ci, in);
    for (p = 0; p < BMVPI_WINO_POINTS; ++p)
        bmvpi_mm(j->level, rows, j->co, j->ci, bmvpi_rows(in + p * j->in_point, j->ci), j->packed + p * j->pack,
                 bmvpi_onto(out + p * j->out_point, j->co, 0), NULL);
    for (r = 0; r < rows; ++r) {
        bmvpi_wino_voxels(j, t0 + r, 2, 0, j->co, j->to, NULL, to);
        for (i = 0; i < 8; ++i) dst[i] = to[i] ? j->to + (to[i] - j->to) : NULL;
        j->set->out(out + r * j->co, j->out_point, j->co, j->call.bias, dst, j->call.accumulate);
    }
}

static void bmvpi_wino_dw_task(void *arg, int64_t task, int worker) /* task = (part, group of channels of x) */
{
    const bmvpi_wino *j = (const bmvpi_wino *)arg;
    const int64_t part = task / j->groups, ch = task % j->groups * j->channels, n = bmvpi_min(j->channels, j->ci - ch);
    const int64_t last = bmvpi_min(j->blocks, (part + 1) * j->part_blocks), size = j->ci * j->co;
    float *in = j->owns + worker * j->own, *out = in + BMVPI_WINO_POINTS * j->in_point,
          *pack = out + BMVPI_WINO_POINTS * j->out_point;
    float *sums = j->packed + part * BMVPI_WINO_POINTS * size + ch * j->co;
    const float *src[8];
    int64_t b, r, p;
    for (b = part * j->part_blocks; b < last; ++b) {
        const int64_t rows = bmvpi_min(j->rows, j->total - b * j->rows);
        bmvpi_wino_inputs(j, b * j->rows, rows, ch, n, in);
        for (r = 0; r < rows; ++r) {
            bmvpi_wino_voxels(j, b * j->rows + r, 2, 0, j->co, j->call.g, j->zeros, src);
            j->set->spread(src, j->co, out + r * j->co, j->out_point);
        }
        for (p = 0; p < BMVPI_WINO_POINTS; ++p)
            bmvpi_mm_rows(j->level, n, j->co, rows, bmvpi_transposed(in + p * j->in_point, n),
                          bmvpi_rows(out + p * j->out_point, j->co),
                          bmvpi_onto(sums + p * size, j->co, b > part * j->part_blocks), pack);
    }
}

/* task = (tap, input channel): G' of the sums, parts in order */
static void bmvpi_wino_dw_sum_task(void *arg, int64_t task, int worker)
{
    const bmvpi_wino *j = (const bmvpi_wino *)arg;
    const int64_t tap = task / j->ci, ch = task % j->ci, size = j->ci * j->co;
    float g[3], factor[BMVPI_WINO_POINTS];
    int64_t p;
    (void)worker;
    for (p = 0; p < BMVPI_WINO_POINTS; ++p) {
        bmvpi_wino_g(p / 16, g);
        factor[p] = g[tap / 9];
        bmvpi_wino_g(p / 4 % 4, g);
        factor[p] *= g[tap / 3 % 3];
        bmvpi_wino_g(p % 4, g);
        factor[p] *= g[tap % 3];
    }
    for (p = 0; p < j->parts; ++p)
        j->set->blend(j->packed + p * BMVPI_WINO_POINTS * size + ch * j->co, size, factor, BMVPI_WINO_POINTS, j->co,
                      j->call.dw + tap * j->call.v->wt + ch * j->call.v->wi);
}

static void bmvpi_wino_run(bmvp_ctx *c, bmvpi_wino *j, float *ws)
{
    const int64_t channels = bmvpi_max(j->ci, j->co);
    j->zeros = ws;
    memset(ws, 0, (size_t)channels * sizeof *ws);
    j->packed = ws + channels;
    j->owns = j->packed + BMVPI_WINO_POINTS * (j->what == BMVPI_CONV_DW ? j->parts * j->ci * j->co : j->pack);
    if (j->what == BMVPI_CONV_DW) {
        bmvp_parallel(c, j->parts * j->groups, bmvpi_wino_dw_task, j);
        bmvp_parallel(c, 27 * j->ci, bmvpi_wino_dw_sum_task, j);
    } else {
        bmvp_parallel(c, BMVPI_WINO_POINTS, bmvpi_wino_weights_task, j);
        bmvp_parallel(c, j->blocks, bmvpi_wino_task, j);
    }
}

static int bmvpi_conv_is_product(const bmvpi_conv *v, int what)
{
    int i, yes = what != BMVPI_CONV_DW || v->wo == 1;
    for (i = 0; i < 3; ++i) yes = yes && v->k[i] == 1 && v->s[i] == 1 && v->p[i] == 0;
    return yes;
}

static bmvpi_gemm_args bmvpi_conv_product(const bmvpi_conv_call *q, int what)
{
    const bmvpi_conv *v = q->v;
    const int64_t voxels = v->n * v->in[0] * v->in[1] * v->in[2];
    bmvpi_gemm_args g;
    if (what == BMVPI_CONV_FORWARD)
        g = bmvpi_gemm_make(voxels, v->co, v->ci, bmvpi_rows(q->x, v->ci), bmvpi_strided_matrix(q->w, v->wi, v->wo),
                            q->y, v->co);
    else if (what == BMVPI_CONV_DX)
        g = bmvpi_gemm_make(voxels, v->ci, v->co, bmvpi_rows(q->g, v->co), bmvpi_strided_matrix(q->w, v->wo, v->wi),
                            q->dx, v->ci);
    else
        g = bmvpi_gemm_make(v->ci, v->co, voxels, bmvpi_transposed(q->x, v->ci), bmvpi_rows(q->g, v->co), q->dw, v->wi);
    g.bias = what == BMVPI_CONV_DW ? NULL : q->bias;
    g.accumulate = what == BMVPI_CONV_DW || q->accumulate;
    return g;
}

static int bmvpi_conv_is_fast(const bmvp_ctx *c, const bmvpi_conv *v)
{
    return bmvpi_tiles_of(bmvp_simd_level(c)) && v->groups == 1 && v->k[0] * v->k[1] <= BMVPI_RUNS_MAX;
}

static int64_t bmvpi_fast_conv_workspace(const bmvp_ctx *c, const bmvpi_conv *v, int what)
{
    if (!bmvpi_conv_is_fast(c, v)) return 0;
    if (bmvpi_conv_is_product(v, what)) {
        const bmvpi_conv_call q = bmvpi_conv_call_of(v);
        const bmvpi_gemm_args g = bmvpi_conv_product(&q, what);
        return bmvpi_gemm_workspace(c, &g);
    }
    if (bmvpi_wino_fits(c, v)) {
        const bmvpi_wino j = bmvpi_wino_make(c, v, what);
        return bmvpi_wino_workspace(c, &j);
    }
    if (what == BMVPI_CONV_DW) {
        const bmvpi_conv_dw_job j = bmvpi_conv_dw_make(c, v);
        return bmvpi_conv_dw_workspace(c, &j);
    } else {
        const bmvpi_slide s = bmvpi_slide_make(c, v, what == BMVPI_CONV_DX);
        return bmvpi_slide_workspace(c, &s);
    }
}

static int bmvpi_fast_conv(bmvp_ctx *c, const bmvpi_conv_call *q, int what, float *ws)
{
    const bmvpi_conv *v = q->v;
    if (!bmvpi_conv_is_fast(c, v)) return 0;
    if (bmvpi_conv_is_product(v, what)) {
        const bmvpi_gemm_args g = bmvpi_conv_product(q, what);
        bmvpi_gemm(c, &g, ws);
    } else if (bmvpi_wino_fits(c, v)) {
        bmvpi_wino j = bmvpi_wino_make(c, v, what);
        j.call = *q;
        j.from = what == BMVPI_CONV_DX ? q->g : q->x;
        j.to = what == BMVPI_CONV_DX ? q->dx : q->y;
        bmvpi_wino_run(c, &j, ws);
    } else if (what == BMVPI_CONV_DW) {
        bmvpi_conv_dw_job j = bmvpi_conv_dw_make(c, v);
        j.call = *q;
        j.ws = ws;
        j.sums = ws + j.own * bmvp_threads(c);
        bmvp_parallel(c, j.parts * j.tap_groups, bmvpi_conv_dw_task, &j);
        bmvp_parallel(c, j.size / v->co, bmvpi_conv_dw_sum_task, &j);
    } else {
        bmvpi_slide s = bmvpi_slide_make(c, v, what == BMVPI_CONV_DX);
        s.call = *q;
        s.from = s.reversed ? q->g : q->x;
        s.to = s.reversed ? q->dx : q->y;
        bmvpi_slide_run(c, &s, ws);
    }
    return 1;
}

/* >>kernel fused rows: what attention and the MLP do to a tile between two products -----------------------------------
   A tile is `rows` rows of n floats, ld apart, in the worker's memory; its rows are writable up to a multiple of 16, so
   that the elementwise ones need no tails. */

typedef struct bmvpi_fused {
    /* s = exp(s scale - top) with the running row maximum `top` and sum of a softmax that meets its row piece by piece;
       the first d floats of each row of o, sums so far, are scaled when the maximum moves. first: top and sum start. */
    void (*softmax)(int64_t rows, int64_t n, float *s, int64_t ld, float scale, int first, float *top, float *sum,
                    float *o, int64_t ldo, int64_t d);
    /* p = exp(p scale - lse[row]), dp = p (dp - dot[row]) scale */
    void (*softmax_back)(int64_t rows, int64_t n, float *p, float *dp, int64_t ld, float scale, const float *lse,
                         const float *dot);
    /* s = s scale + bias, less 100 where the column's region is not the row's; of_row NULL: no regions. Behind it come
       softmax and softmax_back with scale 1. */
    void (*bias)(int64_t rows, int64_t n, float *s, int64_t ld, float scale, const float *bias, int64_t ldb,
                 const float *of_row, const float *of_column);
    /* sum += ds, ds *= scale */
    void (*bias_back)(int64_t rows, int64_t n, float *ds, int64_t ld, float scale, float *sum, int64_t lds);
    /* h = GELU(a), h may be a */
    void (*gelu)(int64_t rows, int64_t n, const float *a, int64_t lda, float *h, int64_t ld);
    /* g = g GELU'(a), h = GELU(a); h may be a */
    void (*gelu_both)(int64_t rows, int64_t n, const float *a, int64_t lda, float *h, float *g, int64_t ld);
    /* out[row] = sum over i of a[row ld + i] b[row ld + i] */
    void (*row_dots)(int64_t rows, int64_t n, const float *a, const float *b, int64_t ld, float *out);
    /* y[i] = (add ? y[i] : 0) + sum over rows of x[row ld + i], in order of rows */
    void (*column_sums)(int64_t rows, int64_t n, const float *x, int64_t ld, float *y, int add);
} bmvpi_fused;

#if defined(BMVPI_HAVE_VECTORS)
/* Largest s of a row; NaN is left to the exponentials. */
#define BMVPI_ROW_TOP(BITS) \
BMVPI_AT_v##BITS static float bmvpi_row_top_v##BITS(int64_t n, const float *s, float scale) \
{ \
    const int64_t width = BITS / 32; \
    bmvpi_v##BITS e = { 0.0f }; \
    float top = s[0] * scale; \
    int64_t i; \
    e += top; \
    for (i = 0; i + width <= n; i += width) { \
        const bmvpi_v##BITS v = *(const bmvpi_u##BITS *)(s + i) * scale; \
        e = BMVPI_PICK(BITS, (bmvpi_i##BITS)(v > e), v, e); \
    } \
    for (; i < n; ++i) if (s[i] * scale > top) top = s[i] * scale; \
    for (i = 0; i < width; ++i) if (e[i] > top) top = e[i]; \
    return top; \
}
BMVPI_STAMP(BMVPI_ROW_TOP)

#define BMVPI_FUSED_SOFTMAX(BITS) \
BMVPI_AT_v##BITS static void bmvpi_fused_softmax_v##BITS(int64_t rows, int64_t n, float *s, int64_t ld, float scale, \
                                                         int first, float *top, float *sum, float *o, int64_t ldo, \
                                                         int64_t d) \
{ \
    const int64_t width = BITS / 32; \
    int64_t r, i; \
    for (r = 0; r < rows; ++r, s += ld, o += ldo) { \
        const float here = bmvpi_row_top_v##BITS(n, s, scale); \
        bmvpi_v##BITS e, total = { 0.0f }; \
        if (first) { \
            top[r] = here; \
            sum[r] = 0.0f; \
        } else if (here > top[r]) { \
            const float down = bmvpi_expf(top[r] - here); \
            sum[r] *= down; \
            top[r] = here; \
            for (i = 0; i < d; ++i) o[i] *= down; \
        } \
        for (i = 0; i + width <= n; i += width) { \
            e = bmvpi_v##BITS##_exp(*(const bmvpi_u##BITS *)(s + i) * scale - top[r]); \
            *(bmvpi_u##BITS *)(s + i) = e; \
            total += e; \
        } \
        if (i < n) { \
            e = bmvpi_v##BITS##_exp(bmvpi_v##BITS##_load_part(s + i, n - i, 0.0f) * scale - top[r]); \
            bmvpi_v##BITS##_store_part(s + i, n - i, e); \
            for (; i < n; ++i) sum[r] += s[i]; \
        } \
        for (i = 0; i < width; ++i) sum[r] += total[i]; \
    } \
}
BMVPI_STAMP(BMVPI_FUSED_SOFTMAX)

#define BMVPI_FUSED_SOFTMAX_BACK(BITS) \
BMVPI_AT_v##BITS static void bmvpi_fused_softmax_back_v##BITS(int64_t rows, int64_t n, float *p, float *dp, \
                                                              int64_t ld, float scale, const float *lse, \
                                                              const float *dot) \
{ \
    int64_t r, i; \
    for (r = 0; r < rows; ++r, p += ld, dp += ld) { \
        const float low = lse[r], mean = dot[r]; \
        for (i = 0; i < n; i += BITS / 32) { \
            const bmvpi_v##BITS e = bmvpi_v##BITS##_exp(*(const bmvpi_u##BITS *)(p + i) * scale - low); \
            *(bmvpi_u##BITS *)(p + i) = e; \
            *(bmvpi_u##BITS *)(dp + i) = (*(const bmvpi_u##BITS *)(dp + i) - mean) * (e * scale); \
        } \
    } \
}
BMVPI_STAMP(BMVPI_FUSED_SOFTMAX_BACK)

#define BMVPI_FUSED_BIAS(BITS) \
BMVPI_AT_v##BITS static void bmvpi_fused_bias_v##BITS(int64_t rows, int64_t n, float *s, int64_t ld, float scale, \
                                                      const float *bias, int64_t ldb, const float *of_row, \
                                                      const float *of_column) \
{ \
    const bmvpi_v##BITS zero = { 0.0f }, far = zero - 100.0f; \
    int64_t r, i; \
    for (r = 0; r < rows; ++r, s += ld, bias += ldb) \
        for (i = 0; i < n; i += BITS / 32) { \
            bmvpi_v##BITS v = *(const bmvpi_u##BITS *)(s + i) * scale + *(const bmvpi_u##BITS *)(bias + i); \
            if (of_row) { \
                const bmvpi_v##BITS region = *(const bmvpi_u##BITS *)(of_column + i); \
                v += BMVPI_PICK(BITS, (bmvpi_i##BITS)(region == zero + of_row[r]), zero, far); \
            } \
            *(bmvpi_u##BITS *)(s + i) = v; \
        } \
}
BMVPI_STAMP(BMVPI_FUSED_BIAS)

#define BMVPI_FUSED_BIAS_BACK(BITS) \
BMVPI_AT_v##BITS static void bmvpi_fused_bias_back_v##BITS(int64_t rows, int64_t n, float *ds, int64_t ld, \
                                                           float scale, float *sum, int64_t lds) \
{ \
    int64_t r, i; \
    for (r = 0; r < rows; ++r, ds += ld, sum += lds) \
        for (i = 0; i < n; i += BITS / 32) { \
            const bmvpi_v##BITS v = *(const bmvpi_u##BITS *)(ds + i); \
            *(bmvpi_u##BITS *)(sum + i) = *(const bmvpi_u##BITS *)(sum + i) + v; \
            *(bmvpi_u##BITS *)(ds + i) = v * scale; \
        } \
}
BMVPI_STAMP(BMVPI_FUSED_BIAS_BACK)

#define BMVPI_FUSED_GELU(BITS) \
BMVPI_AT_v##BITS static void bmvpi_fused_gelu_v##BITS(int64_t rows, int64_t n, const float *a, int64_t lda, float *h, \
                                                      int64_t ld) \
{ \
    int64_t r, i; \
    for (r = 0; r < rows; ++r, a += lda, h += ld) \
        for (i = 0; i < n; i += BITS / 32) \
            *(bmvpi_u##BITS *)(h + i) = bmvpi_v##BITS##_gelu(*(const bmvpi_u##BITS *)(a + i)); \
}
BMVPI_STAMP(BMVPI_FUSED_GELU)

#define BMVPI_FUSED_GELU_BOTH(BITS) \
BMVPI_AT_v##BITS static void bmvpi_fused_gelu_both_v##BITS(int64_t rows, int64_t n, const float *a, int64_t lda, \
                                                           float *h, float *g, int64_t ld) \
{ \
    int64_t r, i; \
    for (r = 0; r < rows; ++r, a += lda, h += ld, g += ld) \
        for (i = 0; i < n; i += BITS / 32) { \
            const bmvpi_v##BITS v = *(const bmvpi_u##BITS *)(a + i); \
            *(bmvpi_u##BITS *)(g + i) = *(const bmvpi_u##BITS *)(g + i) * bmvpi_v##BITS##_gelu_slope(v); \
            *(bmvpi_u##BITS *)(h + i) = bmvpi_v##BITS##_gelu(v); \
        } \
}
BMVPI_STAMP(BMVPI_FUSED_GELU_BOTH)

#define BMVPI_FUSED_ROW_DOTS(BITS) \
BMVPI_AT_v##BITS static void bmvpi_fused_row_dots_v##BITS(int64_t rows, int64_t n, const float *a, const float *b, \
                                                          int64_t ld, float *out) \
{ \
    const int64_t width = BITS / 32; \
    int64_t r, i; \
    for (r = 0; r < rows; ++r, a += ld, b += ld) { \
        bmvpi_v##BITS t = { 0.0f }; \
        float sum = 0; \
        for (i = 0; i + width <= n; i += width) \
            t += *(const bmvpi_u##BITS *)(a + i) * *(const bmvpi_u##BITS *)(b + i); \
        for (; i < n; ++i) sum += a[i] * b[i]; \
        for (i = 0; i < width; ++i) sum += t[i]; \
        out[r] = sum; \
    } \
}
BMVPI_STAMP(BMVPI_FUSED_ROW_DOTS)

#define BMVPI_FUSED_COLUMN_SUMS(BITS) \
BMVPI_AT_v##BITS static void bmvpi_fused_column_sums_v##BITS(int64_t rows, int64_t n, const float *x, int64_t ld, \
                                                             float *y, int add) \
{ \
    const int64_t width = BITS / 32; \
    const bmvpi_v##BITS zero = { 0.0f }; \
    int64_t r, i; \
    for (i = 0; i + 4 * width <= n; i += 4 * width) { \
        bmvpi_v##BITS t[4]; \
        int j; \
        BMVPI_UNROLL for (j = 0; j < 4; ++j) { \
            t[j] = zero; \
            if (add) t[j] = *(const bmvpi_u##BITS *)(y + i + j * width); \
        } \
        for (r = 0; r < rows; ++r) \
            BMVPI_UNROLL for (j = 0; j < 4; ++j) t[j] += *(const bmvpi_u##BITS *)(x + r * ld + i + j * width); \
        BMVPI_UNROLL for (j = 0; j < 4; ++j) *(bmvpi_u##BITS *)(y + i + j * width) = t[j]; \
    } \
    for (; i + width <= n; i += width) { \
        bmvpi_v##BITS t = zero; \
        if (add) t = *(const bmvpi_u##BITS *)(y + i); \
        for (r = 0; r < rows; ++r) t += *(const bmvpi_u##BITS *)(x + r * ld + i); \
        *(bmvpi_u##BITS *)(y + i) = t; \
    } \
    for (; i < n; ++i) { \
        float t = add ? y[i] : 0.0f; \
        for (r = 0; r < rows; ++r) t += x[r * ld + i]; \
        y[i] = t; \
    } \
}
BMVPI_STAMP(BMVPI_FUSED_COLUMN_SUMS)

/* All of one width. */
#define BMVPI_FUSED_SET(BITS) \
static const bmvpi_fused bmvpi_fused_v##BITS = { bmvpi_fused_softmax_v##BITS, bmvpi_fused_softmax_back_v##BITS, \
    bmvpi_fused_bias_v##BITS, bmvpi_fused_bias_back_v##BITS, \
    bmvpi_fused_gelu_v##BITS, bmvpi_fused_gelu_both_v##BITS, bmvpi_fused_row_dots_v##BITS, \
    bmvpi_fused_column_sums_v##BITS };
BMVPI_STAMP(BMVPI_FUSED_SET)
#endif

/* NULL: plain loops */
static const bmvpi_fused *bmvpi_fused_of(const bmvp_ctx *c) { return BMVPI_CHOOSE_SET(c, bmvpi_fused); }

/* Equal pieces of at most `most`, each but the last a multiple of `unit`: the length of one. */
static int64_t bmvpi_piece(int64_t n, int64_t most, int64_t unit)
{
    return bmvpi_ceil_div(bmvpi_ceil_div(n, bmvpi_ceil_div(n, most)), unit) * unit;
}

/* >>fast attention ---------------------------------------------------------------------------------------------- */

typedef struct bmvpi_attn { /* one call: shape, cut, layout of a worker's memory in floats */
    const bmvpi_fused *fused;        /* NULL: plain loops */
    int level;
    const bmvp_tensor *y;
    int64_t n, t, heads, d, c;
    int64_t rows, keys, blocks, ld; /* tile of scores, number of key blocks, floats from row to row of the tile */
    int64_t ranges;                 /* tasks of one (sample, head) */
    int64_t table, groups, ldb;     /* rows of the table (0: none), ranges of samples, floats of a row of biases */
    int64_t pack_k, pack_v;         /* one packed key block as (d x keys) and (keys x d) */
    int64_t pack, packs;            /* k and v packed (backward: also k^T): floats of one key block, of all */
    int64_t worker, parts;          /* floats of one worker; of all partial dK and dV, or gradients of the table */
    float scale, *ws, *g, *gtable;  /* gradients of qkv and of the table, or NULL */
    int accumulate, add_table;
} bmvpi_attn;

typedef struct bmvpi_attn_room { /* one worker's */
    float *s, *dp;                 /* tiles: scores, their gradient */
    float *top, *sum, *dot, *pack; /* of rows: running maximum and sum, dy y; a packed tile */
    float *bias, *gbias, *region;  /* of a tile of rows and all keys; of all keys. NULL: there is no table */
    int apart;                     /* this sample has several regions */
} bmvpi_attn_room;

static bmvpi_attn bmvpi_attn_cut(const bmvp_ctx *c, const bmvp_tensor *y, int backward)
{
    /* 16 tasks keep several cores evenly busy; a tile of 96 x 224 scores lies in L2 with its operands (48 to 192 rows
       x 128 to 448 keys are within 5 % of it). 48 ranges of windows, since they are of several lengths */
    const int64_t tasks = 16, window_tasks = 48, most_rows = 96, most_keys = 224;
    bmvpi_attn j;
    memset(&j, 0, sizeof j);
    j.level = bmvpi_product_level(c);
    j.fused = bmvpi_fused_of(c);
    j.y = y;
    j.n = y->dim[0];
    j.t = y->dim[1];
    j.c = y->dim[2];
    j.heads = y->args.attention.heads;
    j.d = j.c / j.heads;
    j.scale = (float)y->args.attention.scale;
    if (!j.fused) return j;
    j.rows = bmvpi_piece(j.t, most_rows, 12);
    j.keys = bmvpi_piece(j.t, most_keys, 32);
    j.blocks = bmvpi_ceil_div(j.t, j.keys);
    j.ld = j.keys + 16; /* rows a multiple of 4 KB apart would share their place in the cache */
    j.ranges = bmvpi_min(bmvpi_ceil_div(tasks, j.n * j.heads), bmvpi_ceil_div(j.t, j.rows));
    j.pack_k = bmvpi_packed_size(j.level, j.d, j.keys);
    j.pack_v = bmvpi_packed_size(j.level, j.keys, j.d);
    j.pack = j.pack_k + j.pack_v + (backward ? j.pack_k : 0);
    j.packs = j.n * j.heads * j.blocks * j.pack;
    j.worker = j.rows * j.ld + 2 * j.rows;
    if (y->n_src > 1) {
        j.ranges = 1;
        j.table = y->src[1]->dim[0];
        j.groups = bmvpi_min(bmvpi_ceil_div(window_tasks, j.heads), j.n);
        j.ldb = j.blocks * j.keys + 16;
        j.worker += (backward ? 2 : 1) * j.rows * j.ldb + j.ldb;
    }
    if (backward) {
        j.worker += j.rows * j.ld + bmvpi_packed_size(j.level, j.rows, j.d);
        j.parts = j.ranges > 1 ? bmvpi_round16(j.n * j.heads * j.ranges * j.t * 2 * j.d)
                               : bmvpi_round16(j.groups * j.heads * j.table);
    }
    j.worker = bmvpi_round16(j.worker);
    return j;
}

static bmvpi_attn_room bmvpi_attn_room_of(const bmvpi_attn *j, int worker)
{
    bmvpi_attn_room m;
    float *at = j->ws + j->packs + (j->g ? j->parts : 0) + worker * j->worker;
    memset(&m, 0, sizeof m);
    m.s = at, at += j->rows * j->ld;
    if (j->g) {
        m.dp = at, at += j->rows * j->ld;
        m.pack = at, at += bmvpi_packed_size(j->level, j->rows, j->d);
        m.dot = at, at += 2 * j->rows;
    } else {
        m.top = at, at += j->rows;
        m.sum = at, at += j->rows;
    }
    if (!j->table) return m;
    m.region = at, at += j->ldb;
    m.bias = at, at += j->rows * j->ldb;
    m.gbias = j->g ? at : NULL;
    return m;
}

/* Rows of one (sample, head): the tiles [*r0, *r1) of this task */
static void bmvpi_attn_place(const bmvpi_attn *j, int64_t task, int64_t *r0, int64_t *r1)
{
    const int64_t tiles = bmvpi_ceil_div(j->t, j->rows), part = task % j->ranges;
    *r0 = tiles * part / j->ranges * j->rows;
    *r1 = bmvpi_min(tiles * (part + 1) / j->ranges * j->rows, j->t);
}
/* Where q of a (sample, head) starts in qkv */
static int64_t bmvpi_attn_at(const bmvpi_attn *j, int64_t nh)
{
    return nh / j->heads * j->t * 3 * j->c + nh % j->heads * j->d;
}

/* task = key block of a (sample, head): its k as a right factor of q k^T; v of p v or, backward, of dy v^T; then k of
   ds k */
static void bmvpi_attn_pack_task(void *arg, int64_t task, int worker)
{
    const bmvpi_attn *j = (const bmvpi_attn *)arg;
    const int64_t step = 3 * j->c, nh = task / j->blocks, k0 = task % j->blocks * j->keys;
    const int64_t keys = bmvpi_min(j->keys, j->t - k0);
    const float *k = j->y->src[0]->x + (nh / j->heads * j->t + k0) * step + nh % j->heads * j->d + j->c;
    float *to = j->ws + task * j->pack;
    (void)worker;
    bmvpi_pack_b(j->level, k, 1, step, j->d, keys, to);
    if (!j->g) {
        bmvpi_pack_b(j->level, k + j->c, step, 1, keys, j->d, to + j->pack_k);
        return;
    }
    bmvpi_pack_b(j->level, k + j->c, 1, step, j->d, keys, to + j->pack_k);
    bmvpi_pack_b(j->level, k, step, 1, keys, j->d, to + 2 * j->pack_k);
}

/* Scores of rows from r0 and key block b become scale s + bias; returns the scale that is left to do. */
static float bmvpi_attn_biased(const bmvpi_attn *j, const bmvpi_attn_room *m, int64_t r0, int64_t b, int64_t rows,
                               int64_t keys)
{
    if (!j->table) return j->scale;
    j->fused->bias(rows, keys, m->s, j->ld, j->scale, m->bias + b * j->keys, j->ldb, m->apart ? m->region + r0 : NULL,
                   m->region + b * j->keys);
    return 1.0f;
}

/* Rows [r0, r0 + rows) of one (sample, head) */
static void bmvpi_attn_rows(const bmvpi_attn *j, const bmvpi_attn_room *m, int64_t nh, int64_t r0, int64_t rows)
{
    const int64_t step = 3 * j->c;
    const float *q = j->y->src[0]->x + bmvpi_attn_at(j, nh) + r0 * step;
    float *y = j->y->x + (nh / j->heads * j->t + r0) * j->c + nh % j->heads * j->d;
    int64_t b, i, x;
    for (b = 0; b < j->blocks; ++b) {
        const int64_t keys = bmvpi_min(j->keys, j->t - b * j->keys);
        const float *kp = j->ws + (nh * j->blocks + b) * j->pack, *vp = kp + j->pack_k;
        float scale;
        bmvpi_mm(j->level, rows, keys, j->d, bmvpi_rows(q, step), kp, bmvpi_onto(m->s, j->ld, 0), NULL);
        scale = bmvpi_attn_biased(j, m, r0, b, rows, keys);
        j->fused->softmax(rows, keys, m->s, j->ld, scale, b == 0, m->top, m->sum, y, j->c, j->d);
        bmvpi_mm(j->level, rows, j->d, keys, bmvpi_rows(m->s, j->ld), vp, bmvpi_onto(y, j->c, b > 0), NULL);
    }
    for (i = 0; i < rows; ++i) {
        const float over = 1.0f / m->sum[i];
        for (x = 0; x < j->d; ++x) y[i * j->c + x] *= over;
        if (j->y->saved) j->y->saved[nh * j->t + r0 + i] = m->top[i] + bmvpi_logf(m->sum[i]);
    }
}
static void bmvpi_attn_task(void *arg, int64_t task, int worker)
{
    const bmvpi_attn *j = (const bmvpi_attn *)arg;
    const bmvpi_attn_room m = bmvpi_attn_room_of(j, worker);
    int64_t r0, r1;
    for (bmvpi_attn_place(j, task, &r0, &r1); r0 < r1; r0 += j->rows)
        bmvpi_attn_rows(j, &m, task / j->ranges, r0, bmvpi_min(j->rows, r1 - r0));
}

/* The same backward: dQ of these rows; their part of dK and dV, at dk, is added, or written first. */
static void bmvpi_attn_back_rows(const bmvpi_attn *j, const bmvpi_attn_room *m, int64_t nh, int64_t r0, int64_t rows,
                                 float *dk, int add)
{
    const int64_t step = 3 * j->c, at = bmvpi_attn_at(j, nh), ldk = j->ranges > 1 ? 2 * j->d : step;
    const int64_t row = (nh / j->heads * j->t + r0) * j->c + nh % j->heads * j->d;
    const float *q = j->y->src[0]->x + at + r0 * step, *gy = j->y->g + row;
    float *dv = dk + (j->ranges > 1 ? j->d : j->c);
    int64_t b;
    j->fused->row_dots(rows, j->d, gy, j->y->x + row, j->c, m->dot);
    for (b = 0; b < j->blocks; ++b) {
        const int64_t keys = bmvpi_min(j->keys, j->t - b * j->keys), k0 = b * j->keys * ldk;
        const float *kt = j->ws + (nh * j->blocks + b) * j->pack, *vt = kt + j->pack_k, *kp = vt + j->pack_k;
        float scale;
        bmvpi_mm(j->level, rows, keys, j->d, bmvpi_rows(q, step), kt, bmvpi_onto(m->s, j->ld, 0), NULL);
        bmvpi_mm(j->level, rows, keys, j->d, bmvpi_rows(gy, j->c), vt, bmvpi_onto(m->dp, j->ld, 0), NULL);
        scale = bmvpi_attn_biased(j, m, r0, b, rows, keys);
        j->fused->softmax_back(rows, keys, m->s, m->dp, j->ld, scale, j->y->saved + nh * j->t + r0, m->dot);
        if (j->table) j->fused->bias_back(rows, keys, m->dp, j->ld, j->scale, m->gbias + b * j->keys, j->ldb);
        bmvpi_mm(j->level, rows, j->d, keys, bmvpi_rows(m->dp, j->ld), kp,
                 bmvpi_onto(j->g + at + r0 * step, step, b > 0 || j->accumulate), NULL);
        bmvpi_mm_rows(j->level, keys, j->d, rows, bmvpi_transposed(m->s, j->ld), bmvpi_rows(gy, j->c),
                      bmvpi_onto(dv + k0, ldk, add), m->pack);
        bmvpi_mm_rows(j->level, keys, j->d, rows, bmvpi_transposed(m->dp, j->ld), bmvpi_rows(q, step),
                      bmvpi_onto(dk + k0, ldk, add), m->pack);
    }
}
static void bmvpi_attn_back_task(void *arg, int64_t task, int worker)
{
    const bmvpi_attn *j = (const bmvpi_attn *)arg;
    const bmvpi_attn_room m = bmvpi_attn_room_of(j, worker);
    const int64_t nh = task / j->ranges;
    float *dk = j->ranges > 1 ? j->ws + j->packs + task * j->t * 2 * j->d : j->g + bmvpi_attn_at(j, nh) + j->c;
    int64_t r0, r1, first;
    bmvpi_attn_place(j, task, &r0, &r1);
    for (first = r0; r0 < r1; r0 += j->rows)
        bmvpi_attn_back_rows(j, &m, nh, r0, bmvpi_min(j->rows, r1 - r0), dk,
                             r0 > first || (j->ranges == 1 && j->accumulate));
}

/* Adds the partial dK and dV of one (sample, head), in order of ranges. */
static void bmvpi_attn_join_task(void *arg, int64_t nh, int worker)
{
    const bmvpi_attn *j = (const bmvpi_attn *)arg;
    const int64_t d = j->d, size = j->t * 2 * d;
    const float *part = j->ws + j->packs + nh * j->ranges * size;
    float *dk = j->g + bmvpi_attn_at(j, nh) + j->c;
    int64_t t;
    (void)worker;
    for (t = 0; t < j->t; ++t, part += 2 * d, dk += 3 * j->c) {
        j->fused->column_sums(j->ranges, d, part, size, dk, j->accumulate);
        j->fused->column_sums(j->ranges, d, part + d, size, dk + j->c, j->accumulate);
    }
}

/* Biases of a tile of rows for one head, zeros behind the last key */
static void bmvpi_attn_lookup(const bmvpi_attn *j, const bmvpi_attn_room *m, int64_t h, int64_t r0, int64_t rows)
{
    const float *table = j->y->src[1]->x;
    int64_t i, k;
    memset(m->bias, 0, (size_t)(rows * j->ldb) * sizeof(float));
    for (i = 0; i < rows; ++i)
        for (k = 0; k < j->t; ++k) m->bias[i * j->ldb + k] = table[bmvpi_bias_at(j->y, h, r0 + i, k)];
}
/* The tile's sums of dS go to their rows of the table, `to` (table). */
static void bmvpi_attn_scatter(const bmvpi_attn *j, const bmvpi_attn_room *m, int64_t r0, int64_t rows, float *to)
{
    int64_t i, k;
    for (i = 0; i < rows; ++i)
        for (k = 0; k < j->t; ++k) to[bmvpi_bias_at(j->y, 0, r0 + i, k) / j->heads] += m->gbias[i * j->ldb + k];
}
/* Regions of sample n; most windows have one only, and no mask */
static void bmvpi_attn_regions(const bmvpi_attn *j, bmvpi_attn_room *m, int64_t n)
{
    const bmvp_tensor *region = j->y->src[3];
    int64_t k;
    m->apart = 0;
    if (!region) return;
    memcpy(m->region, region->x + n % region->dim[0] * j->t, (size_t)j->t * sizeof(float));
    for (k = j->t; k < j->ldb; ++k) m->region[k] = 0;
    for (k = 1; k < j->t && !m->apart; ++k) m->apart = m->region[k] != m->region[0];
}
/* task = (range of samples, head): rows, tile by tile, of all its samples */
static void bmvpi_attn_window_task(void *arg, int64_t task, int worker)
{
    const bmvpi_attn *j = (const bmvpi_attn *)arg;
    const int64_t h = task % j->heads, group = task / j->heads;
    bmvpi_attn_room m = bmvpi_attn_room_of(j, worker);
    float *part = j->ws + j->packs + task * j->table;
    int64_t r0, n;
    if (j->g) memset(part, 0, (size_t)j->table * sizeof *part);
    for (r0 = 0; r0 < j->t; r0 += j->rows) {
        const int64_t rows = bmvpi_min(j->rows, j->t - r0);
        bmvpi_attn_lookup(j, &m, h, r0, rows);
        if (j->g) memset(m.gbias, 0, (size_t)(rows * j->ldb) * sizeof(float));
        for (n = j->n * group / j->groups; n < j->n * (group + 1) / j->groups; ++n) {
            const int64_t nh = n * j->heads + h;
            bmvpi_attn_regions(j, &m, n);
            if (!j->g) bmvpi_attn_rows(j, &m, nh, r0, rows);
            else bmvpi_attn_back_rows(j, &m, nh, r0, rows, j->g + bmvpi_attn_at(j, nh) + j->c, r0 > 0 || j->accumulate);
        }
        if (j->gtable) bmvpi_attn_scatter(j, &m, r0, rows, part);
    }
}
/* Adds the ranges' gradients of the table's column h, in their order. */
static void bmvpi_attn_table_task(void *arg, int64_t h, int worker)
{
    const bmvpi_attn *j = (const bmvpi_attn *)arg;
    int64_t r, k;
    (void)worker;
    for (r = 0; r < j->table; ++r) {
        float sum = j->add_table ? j->gtable[r * j->heads + h] : 0.0f;
        for (k = 0; k < j->groups; ++k) sum += j->ws[j->packs + (k * j->heads + h) * j->table + r];
        j->gtable[r * j->heads + h] = sum;
    }
}

static int64_t bmvpi_fast_attention_workspace(const bmvp_ctx *c, const bmvp_tensor *y, int backward)
{
    const bmvpi_attn j = bmvpi_attn_cut(c, y, backward);
    return j.fused ? j.packs + j.parts + j.worker * bmvp_threads(c) : 0;
}
static int bmvpi_fast_attention(bmvp_ctx *c, bmvp_tensor *y)
{
    bmvpi_attn j = bmvpi_attn_cut(c, y, 0);
    if (!j.fused) return 0;
    j.ws = bmvpi_workspace(c);
    bmvp_parallel(c, j.n * j.heads * j.blocks, bmvpi_attn_pack_task, &j);
    if (j.table) bmvp_parallel(c, j.groups * j.heads, bmvpi_attn_window_task, &j);
    else bmvp_parallel(c, j.n * j.heads * j.ranges, bmvpi_attn_task, &j);
    return 1;
}
static int bmvpi_fast_attention_back(bmvp_ctx *c, bmvp_tensor *y, float *g, int add, float *table, int add_table)
{
    bmvpi_attn j = bmvpi_attn_cut(c, y, 1);
    if (!j.fused) return 0;
    j.ws = bmvpi_workspace(c);
    j.g = g;
    j.gtable = table;
    j.accumulate = add;
    j.add_table = add_table;
    bmvp_parallel(c, j.n * j.heads * j.blocks, bmvpi_attn_pack_task, &j);
    if (j.table) bmvp_parallel(c, j.groups * j.heads, bmvpi_attn_window_task, &j);
    else bmvp_parallel(c, j.n * j.heads * j.ranges, bmvpi_attn_back_task, &j);
    if (j.ranges > 1) bmvp_parallel(c, j.n * j.heads, bmvpi_attn_join_task, &j);
    if (table) bmvp_parallel(c, j.heads, bmvpi_attn_table_task, &j);
    return 1;
}

/* >>fast mlp ---------------------------------------------------------------------------------------------------- */

typedef struct bmvpi_mlp { /* one call */
    const bmvpi_fused *fused; /* NULL: plain loops */
    int level;
    int64_t m, i, h, o;             /* tokens, widths */
    int64_t rows, tiles, hid, subs; /* tile: tokens x hidden units; numbers of them */
    int64_t ld;                     /* floats from a row of a tile to the next */
    int64_t token_cuts, hid_cuts;   /* backward: tasks = token_cuts x hid_cuts, one of which is 1 */
    int64_t pack[3], packs;         /* packed w1, w2 (backward: w2^T), w1^T of one hidden range; of all together */
    int64_t worker, copies, part;   /* floats of one worker; number and floats of partial gradients */
    const float *x, *w1, *b1, *w2, *b2, *residual, *gy;
    float *y, *saved, *ws, *parts; /* saved: a, or NULL */
    float *g[5]; /* gradients in the order of src; NULL: not wanted */
    int64_t size[5];
    int add[5];
    int own0, own1; /* gradients [own0, own1) are summed by each task on its own: all but x, or x alone */
} bmvpi_mlp;

/* Backward: which cut, see above. 16 ranges of tokens keep several cores evenly busy; of large weights fewer copies. */
static void bmvpi_mlp_cut_back(bmvpi_mlp *j)
{
    const int64_t weights = j->size[1] + j->size[2] + j->size[3] + j->size[4];
    const int64_t hid = bmvpi_piece(j->h, bmvpi_min(256, bmvpi_max(32, bmvpi_ceil_div(j->h, 8))), 32);
    const int64_t hid_cuts = bmvpi_ceil_div(j->h, hid);
    j->rows = bmvpi_piece(j->m, 96, 12);
    j->tiles = bmvpi_ceil_div(j->m, j->rows);
    j->token_cuts = bmvpi_min(weights > (1 << 18) ? 8 : 16, j->tiles);
    j->hid_cuts = 1;
    j->own0 = 1;
    j->own1 = 5;
    j->part = bmvpi_round16(weights);
    if ((double)hid_cuts * (double)j->size[0] < (double)j->token_cuts * (double)weights) {
        j->hid = hid;
        j->hid_cuts = hid_cuts;
        j->token_cuts = 1;
        j->own0 = 0;
        j->own1 = 1;
        j->part = bmvpi_round16(j->size[0]);
    }
    j->copies = j->token_cuts * j->hid_cuts;
    if (j->copies == 1) j->copies = 0; /* the one task writes the gradients themselves */
}

static bmvpi_mlp bmvpi_mlp_cut(const bmvp_ctx *c, const bmvp_tensor *y, int backward)
{
    bmvpi_mlp j;
    memset(&j, 0, sizeof j);
    j.fused = bmvpi_fused_of(c);
    j.level = bmvpi_product_level(c);
    j.i = y->src[1]->dim[0];
    j.h = y->src[1]->dim[1];
    j.o = y->src[3]->dim[1];
    j.m = y->numel / j.o;
    j.size[0] = j.m * j.i;
    j.size[1] = j.i * j.h;
    j.size[2] = j.h;
    j.size[3] = j.h * j.o;
    j.size[4] = j.o;
    j.x = y->src[0]->x;
    j.w1 = y->src[1]->x;
    j.b1 = y->src[2] ? y->src[2]->x : NULL;
    j.w2 = y->src[3]->x;
    j.b2 = y->src[4] ? y->src[4]->x : NULL;
    j.residual = y->n_src > 5 ? y->src[5]->x : NULL;
    j.y = y->x;
    j.gy = y->g;
    j.saved = y->saved;
    if (!j.fused) return j;
    j.hid = bmvpi_piece(j.h, backward ? 256 : 512, 32);
    if (backward) {
        bmvpi_mlp_cut_back(&j);
    } else { /* 192 KB of hidden values; at least 8 tasks */
        j.rows = bmvpi_piece(j.m, bmvpi_min(bmvpi_min(192, 49152 / j.hid), bmvpi_max(12, bmvpi_ceil_div(j.m, 8))), 12);
        j.tiles = bmvpi_ceil_div(j.m, j.rows);
    }
    j.subs = bmvpi_ceil_div(j.h, j.hid);
    j.ld = j.hid + 16; /* rows a multiple of 4 KB apart would share their place in the cache */
    j.pack[0] = bmvpi_packed_size(j.level, j.i, j.hid);
    j.pack[1] = backward ? bmvpi_packed_size(j.level, j.o, j.hid) : bmvpi_packed_size(j.level, j.hid, j.o);
    j.pack[2] = backward ? bmvpi_packed_size(j.level, j.hid, j.i) : 0;
    j.packs = bmvpi_round16(j.subs * (j.pack[0] + j.pack[1] + j.pack[2]));
    j.worker = j.rows * j.ld;
    if (backward) /* the second tile, and a packed right factor of the weight gradients */
        j.worker += j.rows * j.ld + bmvpi_packed_size(j.level, j.rows, bmvpi_max(j.hid, j.o));
    j.worker = bmvpi_round16(j.worker);
    return j;
}

/* Where the packed matrix `which` of hidden range s lies. */
static float *bmvpi_mlp_packed(const bmvpi_mlp *j, int which, int64_t s)
{
    float *p = j->ws + s * j->pack[which];
    if (which > 0) p += j->subs * j->pack[0];
    return which > 1 ? p + j->subs * j->pack[1] : p;
}

static void bmvpi_mlp_pack_task(void *arg, int64_t task, int worker) /* task = (hidden range, which) */
{
    const bmvpi_mlp *j = (const bmvpi_mlp *)arg;
    const int kinds = j->pack[2] ? 3 : 2, which = (int)(task % kinds);
    const int64_t s = task / kinds, h0 = s * j->hid, n = bmvpi_min(j->hid, j->h - h0);
    float *to = bmvpi_mlp_packed(j, which, s);
    (void)worker;
    if (which == 0) bmvpi_pack_b(j->level, j->w1 + h0, j->h, 1, j->i, n, to);
    else if (which == 2) bmvpi_pack_b(j->level, j->w1 + h0, 1, j->h, n, j->i, to);
    else if (kinds == 3) bmvpi_pack_b(j->level, j->w2 + h0 * j->o, 1, j->o, j->o, n, to);
    else bmvpi_pack_b(j->level, j->w2 + h0 * j->o, j->o, 1, n, j->o, to);
}

static void bmvpi_mlp_task(void *arg, int64_t task, int worker) /* task = tile of tokens */
{
    const bmvpi_mlp *j = (const bmvpi_mlp *)arg;
    const int64_t m = task * j->rows, rows = bmvpi_min(j->rows, j->m - m);
    float *a = j->ws + j->packs + worker * j->worker;
    bmvpi_gemm_args g;
    int64_t s;
    for (s = 0; s < j->subs; ++s) {
        const int64_t h0 = s * j->hid, n = bmvpi_min(j->hid, j->h - h0), lda = j->saved ? j->h : j->ld;
        float *before = j->saved ? j->saved + m * j->h + h0 : a;
        bmvpi_mm(j->level, rows, n, j->i, bmvpi_rows(j->x + m * j->i, j->i), bmvpi_mlp_packed(j, 0, s),
                 bmvpi_onto(before, lda, 0), j->b1 ? j->b1 + h0 : NULL);
        j->fused->gelu(rows, n, before, lda, a, j->ld);
        g = bmvpi_gemm_make(rows, j->o, n, bmvpi_rows(a, j->ld), bmvpi_strided_matrix(bmvpi_mlp_packed(j, 1, s), 0, 0),
                            j->y + m * j->o, j->o);
        g.b_packed = 1;
        g.accumulate = s > 0;
        g.bias = s > 0 ? NULL : j->b2;
        g.residual = s > 0 || !j->residual ? NULL : j->residual + m * j->o;
        bmvpi_gemm_serial(j->level, &g, NULL);
    }
}

/* Points a task at its own sums; they start at zero. */
static void bmvpi_mlp_own(bmvpi_mlp *j, int64_t task)
{
    float *p = j->parts + task * j->part;
    int k;
    for (k = j->own0; k < j->own1; ++k) {
        if (j->g[k]) j->g[k] = p;
        j->add[k] = 0;
        p += j->size[k];
    }
}

static void bmvpi_mlp_back_task(void *arg, int64_t task, int worker) /* task = range of tokens, or of hidden units */
{
    bmvpi_mlp j = *(const bmvpi_mlp *)arg;
    const int64_t cut = task % j.token_cuts, s0 = j.hid_cuts > 1 ? task : 0, s1 = j.hid_cuts > 1 ? task + 1 : j.subs;
    const int64_t t0 = j.tiles * cut / j.token_cuts, t1 = j.tiles * (cut + 1) / j.token_cuts;
    float *a = j.ws + j.packs + worker * j.worker, *d = a + j.rows * j.ld, *pack = d + j.rows * j.ld;
    int64_t t, s;
    if (j.copies) bmvpi_mlp_own(&j, task);
    for (t = t0; t < t1; ++t) {
        const int64_t m = t * j.rows, rows = bmvpi_min(j.rows, j.m - m);
        const float *x = j.x + m * j.i, *gy = j.gy + m * j.o;
        if (j.g[4] && s0 == 0) j.fused->column_sums(rows, j.o, gy, j.o, j.g[4], t > t0 || j.add[4]);
        for (s = s0; s < s1; ++s) {
            const int64_t h0 = s * j.hid, n = bmvpi_min(j.hid, j.h - h0), lda = j.saved ? j.h : j.ld;
            const float *before = j.saved ? j.saved + m * j.h + h0 : a;
            if (!j.saved)
                bmvpi_mm(j.level, rows, n, j.i, bmvpi_rows(x, j.i), bmvpi_mlp_packed(&j, 0, s), bmvpi_onto(a, j.ld, 0),
                         j.b1 ? j.b1 + h0 : NULL);
            bmvpi_mm(j.level, rows, n, j.o, bmvpi_rows(gy, j.o), bmvpi_mlp_packed(&j, 1, s), bmvpi_onto(d, j.ld, 0),
                     NULL);
            j.fused->gelu_both(rows, n, before, lda, a, d, j.ld);
            if (j.g[0])
                bmvpi_mm(j.level, rows, j.i, n, bmvpi_rows(d, j.ld), bmvpi_mlp_packed(&j, 2, s),
                         bmvpi_onto(j.g[0] + m * j.i, j.i, s > s0 || j.add[0]), NULL);
            if (j.g[1])
                bmvpi_mm_rows(j.level, j.i, n, rows, bmvpi_transposed(x, j.i), bmvpi_rows(d, j.ld),
                              bmvpi_onto(j.g[1] + h0, j.h, t > t0 || j.add[1]), pack);
            if (j.g[2]) j.fused->column_sums(rows, n, d, j.ld, j.g[2] + h0, t > t0 || j.add[2]);
            if (j.g[3])
                bmvpi_mm_rows(j.level, n, j.o, rows, bmvpi_transposed(a, j.ld), bmvpi_rows(gy, j.o),
                              bmvpi_onto(j.g[3] + h0 * j.o, j.o, t > t0 || j.add[3]), pack);
        }
    }
}

/* to (+)= sum of partial gradients, cut into pieces of 4096 */
typedef struct bmvpi_mlp_join {
    const bmvpi_fused *fused;
    const float *part;
    float *to;
    int64_t n, copies, stride;
    int add;
} bmvpi_mlp_join;

static void bmvpi_mlp_join_task(void *arg, int64_t task, int worker)
{
    const bmvpi_mlp_join *j = (const bmvpi_mlp_join *)arg;
    const int64_t at = task * 4096;
    (void)worker;
    j->fused->column_sums(j->copies, bmvpi_min(4096, j->n - at), j->part + at, j->stride, j->to + at, j->add);
}
static int64_t bmvpi_fast_mlp_workspace(const bmvp_ctx *c, const bmvp_tensor *y, int backward)
{
    const bmvpi_mlp j = bmvpi_mlp_cut(c, y, backward);
    return j.fused ? j.packs + j.worker * bmvp_threads(c) + j.copies * j.part : 0;
}
static int bmvpi_fast_mlp(bmvp_ctx *c, bmvp_tensor *y)
{
    bmvpi_mlp j = bmvpi_mlp_cut(c, y, 0);
    if (!j.fused) return 0;
    j.ws = bmvpi_workspace(c);
    bmvp_parallel(c, 2 * j.subs, bmvpi_mlp_pack_task, &j);
    bmvp_parallel(c, j.tiles, bmvpi_mlp_task, &j);
    return 1;
}
static int bmvpi_fast_mlp_back(bmvp_ctx *c, bmvp_tensor *y)
{
    bmvpi_mlp j = bmvpi_mlp_cut(c, y, 1);
    bmvpi_mlp_join sum;
    int k, wanted = 0;
    if (!j.fused) return 0;
    for (k = 0; k < 5; ++k) {
        j.g[k] = bmvpi_grad(c, y->src[k], &j.add[k]);
        wanted |= j.g[k] != NULL;
    }
    if (!wanted) return 1;
    j.ws = bmvpi_workspace(c);
    j.parts = j.ws + j.packs + j.worker * bmvp_threads(c);
    bmvp_parallel(c, 3 * j.subs, bmvpi_mlp_pack_task, &j);
    bmvp_parallel(c, j.token_cuts * j.hid_cuts, bmvpi_mlp_back_task, &j);
    sum.fused = j.fused;
    sum.part = j.parts;
    sum.copies = j.copies;
    sum.stride = j.part;
    for (k = j.own0; j.copies && k < j.own1; ++k) {
        sum.n = j.size[k];
        sum.to = j.g[k];
        sum.add = j.add[k];
        if (sum.to) bmvp_parallel(c, bmvpi_ceil_div(sum.n, 4096), bmvpi_mlp_join_task, &sum);
        sum.part += sum.n;
    }
    return 1;
}

/* >>fast adamw ----------------------------------------------------------------------------------------------------- */

#if defined(BMVPI_HAVE_X86)
BMVPI_ADAMW_HOT __attribute__((target("avx2,fma"))) static void bmvpi_adamw_v256(const bmvp_update *u, float scale,
                                                                                int64_t from, int64_t to)
    BMVPI_ADAMW_BODY
#endif
    static int bmvpi_fast_adamw(const bmvp_ctx *c, const bmvp_update *u, float scale, int64_t from, int64_t to)
{
#if defined(BMVPI_HAVE_X86)
    if (c->simd < BMVP_SIMD_AVX2) return 0;
    bmvpi_adamw_v256(u, scale, from, to);
    return 1;
#else
    return (void)c, (void)u, (void)scale, (void)from, (void)to, 0;
#endif
}

#endif /* BMVP_NO_SIMD */

#ifdef __cplusplus
}
#endif
#endif /* BMVP_TENSOR_IMPLEMENTATION_ONCE */
#endif /* BMVP_TENSOR_IMPLEMENTATION */

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
