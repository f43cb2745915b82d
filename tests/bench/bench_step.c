/* bench_step.c - speed and memory of training and inference, of the kernels they consist of, and the ceiling of the
   machine.

   cc -std=c99 -O2 -I. tests/bench/bench_step.c -o bench_step -lm -lpthread
   bench_step [--only NAME] [--threads N] [--simd LEVEL] [--precision fp32|bf16]
              [--batch N] [--reps N] [--preset NAME] [--json] [--list] [--machine]
   cc -DBENCH_CUDA ... build/bmvp_cuda.o (make build/bench_step_cuda): also [--device cpu|cuda[:N]] and --precision tf32

   Every row is the median of --reps runs after one that is not counted. GFLOP/s counts the operations that the result
   needs, two for a multiply-add; what backward computes a second time is not counted, and what Winograd's algorithm
   saves is: dense 3^3 convolutions may pass the ceiling, and so may --precision bf16, since the ceiling is float32's.
   It is measured here too: independent multiply-adds in registers, with the same instruction set and threads. Memory is
   the largest resident size less what the process held before the row; each row of a network is a process of its own,
   so that nothing of the row before is reused. tests/bench/twin.py is the same rows in PyTorch, with the same weights
   and inputs by formula: `check` is the first loss, or the root mean square of a corner of the output, and must be
   equal on both sides; of the real step it is the loss of the fourth, and has no twin: the masks are others.

   On a GPU there are the rows of networks and the real step (bench_cuda.c has the kernels). It does not wait, so a run
   is five calls between two waits, divided by five, after five that are not counted; inputs come from the host in every
   call. A pass is recorded as the trainers do. Batches are 8 crops for inference, whose time and operations are then of
   one crop, 2 for uniunet_step as in fine-tuning, otherwise 1. Memory is what is taken of the GPU's at the end of the
   row less what was before its context, so nothing else may use that GPU; CUDA's own context, about half a GB, is in
   neither. */
#define BMVP_IMPLEMENTATION
#include "bmvp_tensor.h"
#include "bmvp_nn.h"
#include "bmvp_ssl.h"
#include "tests/support/formula.h"
#ifdef BENCH_CUDA
#include "tests/bench/gpu.h"
#endif
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#if defined(__unix__) || defined(__APPLE__)
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>
#endif

/* Others of these are for trying it out where 96^3 takes too long. */
#ifndef BENCH_CROP
#define BENCH_CROP 96
#endif
#ifndef BENCH_NET
#define BENCH_NET "uniformer_small"
#endif

enum { MAX_REPS = 1000, CROP = BENCH_CROP, DEVICE_CALLS = 5 };

typedef struct options {
    const char *only, *preset, *device;
    int threads, reps, json, list, machine;
    int batch; /* of networks' rows; 0: as the row is */
    bmvp_simd simd;
    bmvp_precision precision;
    const bmvp_backend *backend; /* of a GPU, or NULL */
} options;

typedef struct bench {
    options opt;
    double ceiling; /* GFLOP/s of the threads and instruction set chosen */
    int rows, failed;
} bench;

typedef struct result { /* of one row */
    double second[MAX_REPS];
    int n;
    double gflop;      /* 0: not a meaningful number */
    double peak_mb;    /* largest resident size during the row, less what was there before; 0: unknown */
    double plan_mb;    /* what the dry run says: parameters, what training keeps of them, step; 0: unknown */
    double weights_mb; /* values of the parameters, part of both */
    double check;      /* equal in the twin */
    int batch;
} result;

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* >>memory: the largest resident size can be set back on Linux, so that each row has its own ---------------------- */

static void peak_reset(void)
{
    FILE *f = fopen("/proc/self/clear_refs", "w");
    if (!f) return;
    fputs("5", f);
    fclose(f);
}

/* A line of the process's status in MB: "VmRSS:" resident now, "VmHWM:" at most since peak_reset. */
static double status_mb(const char *key)
{
    char line[256];
    double kb = 0;
    FILE *f = fopen("/proc/self/status", "r");
    while (f && fgets(line, (int)sizeof line, f))
        if (strncmp(line, key, strlen(key)) == 0) kb = strtod(line + strlen(key), NULL);
    if (f) fclose(f);
#if defined(__unix__)
    if (kb == 0 && strcmp(key, "VmHWM:") == 0) {
        struct rusage r;
        if (getrusage(RUSAGE_SELF, &r) == 0) kb = (double)r.ru_maxrss;
    }
#endif
    return kb * 1024e-6;
}

/* >>device: none of it happens on the CPU -------------------------------------------------------------------------- */

/* "cpu" or "cuda", the first GPU, or "cuda:N". 0 and a line on stderr: there is none. */
static int device_open(const char *text, options *o)
{
    char *end = NULL;
    const char *number = strncmp(text, "cuda:", 5) == 0 ? text + 5 : "0";
    const long n = strtol(number, &end, 10);
    if (strcmp(text, "cpu") == 0) return 1;
    if ((strcmp(text, "cuda") != 0 && number != text + 5) || end == number || *end || n < 0 || n > 1023) {
        fprintf(stderr, "bench_step: --device %s: cpu, cuda or cuda:N\n", text);
        return 0;
    }
#ifdef BENCH_CUDA
    {
        bmvp_error err;
        memset(&err, 0, sizeof err);
        o->backend = bmvp_cuda_backend((int)n, &err);
        if (!o->backend) fprintf(stderr, "bench_step: %s\n", err.message);
    }
#else
    fprintf(stderr, "bench_step: --device %s: this build has no CUDA: make build/bench_step_cuda\n", text);
#endif
    return o->backend != NULL;
}

static void device_close(options *o)
{
#ifdef BENCH_CUDA
    bmvp_cuda_release(o->backend);
#endif
    o->backend = NULL;
}

/* Memory in use as a row begins, and what it has taken at most since. */
static double memory_before(const options *o)
{
#ifdef BENCH_CUDA
    if (o->backend) return gpu_used_mb();
#endif
    (void)o;
    peak_reset();
    return status_mb("VmRSS:");
}
static double memory_since(const options *o, double before)
{
#ifdef BENCH_CUDA
    if (o->backend) return gpu_used_mb() - before; /* blocks are kept until the context ends */
#endif
    (void)o;
    return status_mb("VmHWM:") - before;
}

/* Calls of a run, and its start when all before is done. */
static int calls(const options *o) { return o->backend ? DEVICE_CALLS : 1; }
static double start_of(bmvp_ctx *c)
{
    (void)bmvp_sync(c);
    return now();
}

/* >>ceiling: twelve independent sums keep two pipes of latency four busy; nothing touches memory ------------------- */

enum { CEILING_SUMS = 12, CEILING_LOOPS = 4000000 };
typedef void (*ceiling_fn)(float *out);

#define SUMS(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11)
#define SUM_MAKE(i) v##i = zero + (float)(i);
#define SUM_STEP(i) v##i = v##i * b + d;
#define SUM_ADD(i) total += v##i;
#define CEILING(NAME, BYTES, TARGET) \
    typedef float NAME##_v __attribute__((vector_size(BYTES))); \
    TARGET static void NAME(float *out) \
    { \
        const NAME##_v zero = { 0.0f }, b = zero + 0.999f, d = zero + 1e-3f; \
        NAME##_v v0, v1, v2, v3, v4, v5, v6, v7, v8, v9, v10, v11, total = zero; \
        int k; \
        SUMS(SUM_MAKE) \
        for (k = 0; k < CEILING_LOOPS; ++k) { \
            SUMS(SUM_STEP) \
        } \
        SUMS(SUM_ADD) \
        out[0] = total[0]; \
    }

#if defined(__GNUC__)
CEILING(ceiling_128, 16, )
#if defined(__x86_64__) || defined(__i386__)
CEILING(ceiling_256, 32, __attribute__((target("avx2,fma"))))
CEILING(ceiling_512, 64, __attribute__((target("avx512f,fma"))))
#endif
#endif

static void ceiling_plain(float *out)
{
    float v[CEILING_SUMS] = { 0 };
    int i, k;
    for (k = 0; k < CEILING_LOOPS; ++k)
        for (i = 0; i < CEILING_SUMS; ++i) v[i] = v[i] * 0.999f + 1e-3f;
    for (out[0] = 0, i = 0; i < CEILING_SUMS; ++i) out[0] += v[i];
}

static ceiling_fn ceiling_of(bmvp_simd level, int *width)
{
    *width = 1;
#if defined(__GNUC__)
    *width = 4;
#if defined(__x86_64__) || defined(__i386__)
    if (level == BMVP_SIMD_AVX512) return *width = 16, ceiling_512;
    if (level == BMVP_SIMD_AVX2) return *width = 8, ceiling_256;
#endif
    if (level >= BMVP_SIMD_VECTOR) return ceiling_128;
    *width = 1;
#else
    (void)level;
#endif
    return ceiling_plain;
}

typedef struct ceiling_job {
    ceiling_fn fn;
    float out[16]; /* of task 0 .. 15: the results must be used */
} ceiling_job;

static void ceiling_task(void *arg, int64_t task, int worker)
{
    ceiling_job *j = (ceiling_job *)arg;
    float sum;
    (void)worker;
    j->fn(&sum);
    if (task < 16) j->out[task] = sum;
}

static bmvp_ctx *context(const options *o, int threads, int plan)
{
    bmvp_config cfg = bmvp_config_default();
    bmvp_error err;
    bmvp_ctx *c;
    cfg.threads = threads;
    cfg.simd = o->simd;
    cfg.precision = o->precision;
    cfg.backend = o->backend;
    cfg.plan = plan;
    c = bmvp_create(&cfg, &err);
    if (!c) fprintf(stderr, "bench_step: %s\n", err.message);
    return c;
}

/* GFLOP/s, the best of nine: others on the machine can only make it smaller. */
static double ceiling(const options *o, int threads)
{
    bmvp_ctx *c = context(o, threads, 0);
    ceiling_job j;
    double best = 0;
    int width, i, tasks;
    if (!c) return 0;
    j.fn = ceiling_of(bmvp_simd_level(c), &width);
    tasks = 2 * bmvp_threads(c);
    for (i = 0; i < 9; ++i) {
        double t = now(), rate;
        bmvp_parallel(c, tasks, ceiling_task, &j);
        t = now() - t;
        rate = 2.0 * width * CEILING_SUMS * CEILING_LOOPS * tasks / t * 1e-9;
        if (rate > best) best = rate;
    }
    bmvp_destroy(c);
    return best;
}

/* >>rows ----------------------------------------------------------------------------------------------------------- */

static int by_size(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static int wanted(const bench *b, const char *name)
{
    const size_t n = b->opt.only ? strlen(b->opt.only) : 0;
    return n == 0 || (strncmp(name, b->opt.only, n) == 0 && (name[n] == 0 || name[n] == '_'));
}

static void heading(const bench *b)
{
    if (!b->opt.json && b->rows == 0)
        printf("%-26s %10s %10s %7s %9s %7s %9s %9s\n", "row", "median ms", "best ms", "spread", "GFLOP/s", "ceiling",
               "peak MB", "plan MB");
}

static void report(bench *b, const char *name, result *r)
{
    double median, best, spread, rate;
    heading(b);
    ++b->rows;
    qsort(r->second, (size_t)r->n, sizeof *r->second, by_size);
    best = r->second[0];
    median = (r->second[r->n / 2] + r->second[(r->n - 1) / 2]) / 2;
    spread = (r->second[r->n - 1] - best) / median;
    rate = r->gflop / median;
    if (b->opt.json) {
        printf("{\"row\":\"%s\",\"precision\":\"%s\",\"batch\":%d,\"median_ms\":%.4f,\"best_ms\":%.4f,\"spread\":%.3f,"
               "\"runs\":%d,\"gflops\":%.1f,"
               "\"ceiling_share\":%.3f,\"peak_mb\":%.1f,\"plan_mb\":%.1f,\"weights_mb\":%.1f,\"check\":%.9g}\n",
               name, bmvp_precision_text(b->opt.precision), r->batch, median * 1e3, best * 1e3, spread, r->n, rate,
               b->ceiling > 0 ? rate / b->ceiling : 0, r->peak_mb, r->plan_mb, r->weights_mb, r->check);
    } else {
        printf("%-26s %10.2f %10.2f %6.0f%% ", name, median * 1e3, best * 1e3, spread * 100);
        if (rate > 0) printf("%9.1f ", rate);
        else printf("%9s ", "-");
        if (rate > 0 && b->ceiling > 0) printf("%6.0f%%", rate / b->ceiling * 100);
        else printf("%7s", "-");
        if (r->peak_mb > 0) printf(" %9.0f", r->peak_mb);
        if (r->plan_mb > 0) printf(" %9.0f", r->plan_mb);
        if (r->check != 0) printf("  check %.6g", r->check);
        printf("\n");
    }
    fflush(stdout);
}

static int broken(bench *b, const char *name, const bmvp_ctx *c)
{
    if (c && !bmvp_failed(c)) return 0;
    fprintf(stderr, "bench_step: %s: %s\n", name, c ? bmvp_error_of(c)->message : "no context");
    b->failed = 1;
    return 1;
}

/* >>networks: operations ------------------------------------------------------------------------------------------- */

static double uniformer_gflop(const bmvp_net_config *k, int decoder)
{
    double sum = 0, side = CROP;
    int i;
    for (i = 0; i < 4; ++i) {
        const double c = k->dim[i], in = i ? k->dim[i - 1] : k->in_channels, mlp = 2.0 * k->mlp_ratio * c * c;
        double t, each;
        side /= 2;
        t = side * side * side;
        each = i < 2 ? (27 + 125) * c + 2 * c * c + mlp : 27 * c + 4 * c * c + 2 * t * c + mlp;
        sum += t * (8 * in * c + k->depth[i] * each);
    }
    if (decoder) sum += side * side * side * k->dim[3] * 4096; /* the four layers composed to one matrix */
    return 2e-9 * sum;
}

/* The segmentation decoder: transposed convolution, two 3^3 convolutions and a shortcut at each of four scales, input
   skip, head. */
static double uniunet_gflop(const bmvp_net_config *k)
{
    double sum = 0, voxels = (double)CROP * CROP * CROP;
    const double full = voxels;
    int i;
    for (i = 0; i < 4; ++i, voxels /= 8) {
        const double in = k->dim[i], o = k->dim[i > 0 ? i - 1 : 0];
        sum += voxels * (in * o + 27 * 3 * o * o + 2 * o * o);
    }
    return uniformer_gflop(k, 0) + 2e-9 * (sum + full * k->dim[0] * (27.0 * k->in_channels + k->outputs));
}

static double unet3d_gflop(const bmvp_net_config *k)
{
    static const int convs[4] = { 4, 6, 6, 8 }; /* 3^3 of the level's width, residual blocks down and up */
    double sum = 0, voxels = (double)CROP * CROP * CROP, c = k->width;
    int i;
    for (i = 0; i < 4; ++i, voxels /= 8, c *= 2) {
        sum += voxels * 27 * c * (c * convs[i] + (i ? c / 2 : 1));
        if (i) sum += voxels * c * c / 2;
    }
    return 2e-9 * (sum + (double)CROP * CROP * CROP * k->width);
}

/* >>networks ------------------------------------------------------------------------------------------------------- */

typedef enum work {
    ENCODE,
    FORWARD,
    STEP
} work; /* inference without and with the decoder; forward, backward and AdamW */

typedef struct net_row {
    const char *name, *preset;
    work what;
    int segment; /* four modalities, three regions, heads on three scales */
} net_row;

static const net_row net_rows[] = {
    { "step", BENCH_NET, STEP, 0 },
    { "inference", BENCH_NET, ENCODE, 0 },
    { "unet3d_forward", "unet3d", FORWARD, 0 },
    { "unet3d_step", "unet3d", STEP, 0 },
    { "uniunet_forward", BENCH_NET, FORWARD, 1 },
    { "uniunet_step", BENCH_NET, STEP, 1 },
};

typedef struct training { /* one network with its optimizer in one context */
    const net_row *row;
    bmvp_net_config cfg;
    bmvp_ctx *c;
    bmvp_net *net;
    bmvp_optim *optim;
    float *crop, *target; /* inputs, (N, D, H, W, C) */
    int batch;            /* N */
    double check;         /* of the first run */
} training;

static int row_batch(const options *o, const net_row *row)
{
    if (o->batch) return o->batch;
    if (o->backend && row->what == ENCODE) return 8;
    return o->backend && row->segment && row->what == STEP ? 2 : 1;
}

/* Crop s is that of case s: modality m as the tests' formula gives it; region r is a ball, the same in all. */
static void crop_data(training *t, int s, float *one)
{
    const int64_t dim[3] = { CROP, CROP, CROP }, n = (int64_t)CROP * CROP * CROP, channels = t->cfg.in_channels,
                  regions = t->cfg.outputs;
    float *crop = t->crop + s * n * channels, *target = t->target + s * n * regions;
    int64_t i, k;
    for (k = 0; k < channels; ++k) {
        formula_volume(s, (int)k, dim, one);
        for (i = 0; i < n; ++i) crop[i * channels + k] = one[i];
    }
    for (i = 0; i < n; ++i)
        for (k = 0; k < regions; ++k) {
            const int64_t z = i / (CROP * CROP) - 44 * CROP / 96, y = i / CROP % CROP - 50 * CROP / 96;
            const int64_t x = i % CROP - (40 + 4 * k) * CROP / 96, r = (14 + 6 * k) * CROP / 96;
            target[i * regions + k] = x * x + y * y + z * z < r * r;
        }
}
static int training_data(training *t)
{
    const int64_t n = (int64_t)CROP * CROP * CROP;
    float *one = (float *)malloc((size_t)n * sizeof *one);
    int s;
    t->crop = (float *)malloc((size_t)(t->batch * n * t->cfg.in_channels) * sizeof *t->crop);
    t->target = (float *)malloc((size_t)(t->batch * n * t->cfg.outputs) * sizeof *t->target);
    for (s = 0; one && t->crop && t->target && s < t->batch; ++s) crop_data(t, s, one);
    free(one);
    return one && t->crop && t->target;
}

static void training_close(training *t)
{
    bmvp_net_destroy(t->net);
    bmvp_optim_destroy(t->optim);
    bmvp_destroy(t->c);
    t->net = NULL;
    t->optim = NULL;
    t->c = NULL;
}

static int training_open(const options *o, int plan, training *t)
{
    t->c = context(o, o->threads, plan);
    t->net = t->c ? bmvp_net_create(t->c, &t->cfg) : NULL;
    if (!t->net || (!plan && !formula_state(t->c, bmvp_net_state(t->net), 0))) return 0;
    if (t->row->what == STEP) {
        const bmvp_optim_config cfg = bmvp_optim_config_default(BMVP_ADAMW);
        t->optim = bmvp_optim_create(t->c, bmvp_net_state(t->net), &cfg);
    } else bmvp_set_grad(t->c, 0);
    return !bmvp_failed(t->c);
}

/* Root mean square of the corner z < D/2, y < H/3, x < W/4 of y, at least one voxel, all samples and channels. */
static double corner(bmvp_ctx *c, const bmvp_tensor *y)
{
    float *v = y ? (float *)malloc((size_t)y->numel * sizeof *v) : NULL;
    double sum = 0, n = 0;
    int64_t s, z, row, i;
    if (!v || bmvp_read(c, y, v) != BMVP_OK) {
        free(v);
        return 0;
    }
    for (s = 0; s < y->dim[0]; ++s)
        for (z = 0; z == 0 || z < y->dim[1] / 2; ++z)
            for (row = 0; row == 0 || row < y->dim[2] / 3; ++row) {
                const float *p = v + ((s * y->dim[1] + z) * y->dim[2] + row) * y->dim[3] * y->dim[4];
                for (i = 0; i < y->dim[4] || i < y->dim[3] / 4 * y->dim[4]; ++i, ++n)
                    sum += (double)p[i] * (double)p[i];
            }
    free(v);
    return sqrt(sum / n);
}

/* Soft Dice over all three scales, as the paper's fine-tuning. */
static bmvp_tensor *segment_loss(training *t, bmvp_tensor *x, const bmvp_features *f)
{
    const int64_t dim[5] = { t->batch, CROP, CROP, CROP, t->cfg.outputs };
    const bmvp_logits l = bmvp_net_segment(t->net, x, f, 1);
    bmvp_tensor *target = bmvp_input(t->c, 5, dim, t->target), *scale[3], *sum = NULL;
    int i;
    scale[0] = l.full;
    scale[1] = l.half;
    scale[2] = l.quarter;
    for (i = 0; i < 3; ++i) {
        bmvp_tensor *dice = bmvp_soft_dice(t->c, bmvp_sigmoid(t->c, scale[i]), target, 0, 1e-5);
        sum = sum ? bmvp_add(t->c, sum, dice) : dice;
    }
    return sum;
}

static void training_update(training *t)
{
    bmvp_optim_step(t->optim, 1e-4, 1);
    bmvp_optim_zero_grad(t->optim);
}

static void training_run(training *t)
{
    const int64_t dim[5] = { t->batch, CROP, CROP, CROP, t->cfg.in_channels };
    const int learn = t->row->what == STEP;
    bmvp_features f;
    bmvp_tensor *x, *y;
    bmvp_step_begin(t->c);
    bmvp_capture_begin(t->c);
    x = bmvp_input(t->c, 5, dim, t->crop);
    f = bmvp_net_encode(t->net, x, learn);
    if (t->row->what == ENCODE) y = f.last;
    else if (!t->row->segment) y = bmvp_net_reconstruct(t->net, &f);
    else y = learn ? segment_loss(t, x, &f) : bmvp_net_segment(t->net, x, &f, 0).full;
    if (learn && !t->row->segment) y = bmvp_mse(t->c, y, x);
    if (learn) {
        bmvp_keep(y);
        bmvp_backward(t->c, y);
        training_update(t);
    }
    bmvp_capture_end(t->c);
    if (t->check == 0 && !bmvp_is_plan(t->c)) t->check = learn && y ? (double)bmvp_scalar(t->c, y) : corner(t->c, y);
}

static void net_memory(training *t, result *r)
{
    const bmvp_memory m = bmvp_memory_of(t->c);
    bmvp_state_list *l = bmvp_net_state(t->net);
    double values = 0;
    int i;
    for (i = 0; i < l->n; ++i) {
        if (l->item[i].torch_rank == 0) continue;
        values += (double)l->item[i].t->numel * 4e-6;
    }
    r->weights_mb = values;
    r->plan_mb = (double)(m.persistent + m.step_peak) * 1e-6;
}

/* The dry run says how large the step's block must be. */
static int net_plan(const options *o, training *t, result *r, int64_t *bytes)
{
    int i, ok = training_open(o, 1, t);
    for (i = 0; ok && i < 2; ++i) training_run(t);
    ok = ok && !bmvp_failed(t->c);
    if (ok) {
        net_memory(t, r);
        *bytes = bmvp_memory_of(t->c).step_peak;
    }
    return ok;
}

static double net_gflop(const training *t)
{
    const double once = strcmp(t->cfg.kind, "unet3d") == 0 ? unet3d_gflop(&t->cfg)
                        : t->row->segment              ? uniunet_gflop(&t->cfg)
                                                       : uniformer_gflop(&t->cfg, t->row->what != ENCODE);
    return t->row->what == STEP ? 3 * once * t->batch : t->row->what == ENCODE ? once : once * t->batch;
}

/* The runs of a row; the time of inference is of one crop. */
static void network_runs(const options *o, training *t, result *r)
{
    const int n = calls(o), crops = t->row->what == ENCODE ? t->batch : 1;
    int i, j;
    for (i = -1; i < o->reps && !bmvp_failed(t->c); ++i) {
        const double start = start_of(t->c);
        for (j = 0; j < n; ++j) training_run(t);
        (void)bmvp_sync(t->c);
        if (i >= 0) r->second[r->n++] = (now() - start) / (n * crops);
    }
    r->gflop = net_gflop(t);
    r->check = t->check;
    r->batch = t->batch;
}

static void bench_network(bench *b, const net_row *row)
{
    training t;
    result r;
    int64_t block = 0;
    memset(&r, 0, sizeof r);
    memset(&t, 0, sizeof t);
    t.row = row;
    t.batch = row_batch(&b->opt, row);
    bmvp_net_preset(row->preset, &t.cfg);
    t.cfg.outputs = 3;
    if (row->segment) {
        t.cfg.in_channels = 4;
        t.cfg.task = BMVP_TASK_SEGMENT;
        t.cfg.deep_supervision = 1;
    }
    if (training_data(&t) && net_plan(&b->opt, &t, &r, &block)) {
        double before;
        training_close(&t);
        before = memory_before(&b->opt);
        if (training_open(&b->opt, 0, &t) && bmvp_reserve(t.c, block) == BMVP_OK) network_runs(&b->opt, &t, &r);
        r.peak_mb = memory_since(&b->opt, before);
    }
    if (!broken(b, row->name, t.c)) report(b, row->name, &r);
    training_close(&t);
    free(t.crop);
    free(t.target);
}

/* >>the real step: three cases, two views each, all losses, templates of eight modalities -------------------------- */

enum { CASES = 3, VALUES = CROP * CROP * CROP };

static float *real_items(bmvp_ssl_item *item)
{
    const int64_t dim[3] = { CROP, CROP, CROP };
    float *volume = (float *)malloc(2 * CASES * VALUES * sizeof *volume);
    int i;
    memset(item, 0, CASES * sizeof *item);
    for (i = 0; volume && i < CASES; ++i) {
        item[i].x = volume + 2 * i * VALUES;
        item[i].other = volume + (2 * i + 1) * VALUES;
        formula_volume(i, 1, dim, volume + 2 * i * VALUES);
        formula_volume(i, 3, dim, volume + (2 * i + 1) * VALUES);
        item[i].modality = i;
        item[i].template_start[0] = 20 + i;
        item[i].template_start[1] = item[i].template_start[2] = 70 - i;
        item[i].slot = (uint32_t)i;
    }
    return volume;
}

/* Three steps that are not counted meet the templates of all modalities, so that each has its gradient: what the plan
   counts. On a device then those that record what is timed. A run ends with its last losses on the host. */
static void real_run(bench *b, bmvp_ctx *c, bmvp_ssl *ssl, bmvp_ssl_item *item, result *r)
{
    const int n = calls(&b->opt);
    int64_t step = 0;
    bmvp_ssl_losses loss;
    int i, j, first = b->opt.backend != NULL;
    memset(&loss, 0, sizeof loss);
    for (i = 0; i < 3; ++i, ++step) {
        for (j = 0; j < CASES; ++j) item[j].modality = (j + CASES * (i + 1)) % BMVP_MODALITIES;
        (void)bmvp_ssl_step(ssl, item, CASES, 1e-4, NULL);
    }
    for (j = 0; j < CASES; ++j) item[j].modality = j;
    for (i = -first; i < b->opt.reps && !bmvp_failed(c); ++i) {
        const double start = start_of(c);
        for (j = 0; j < n; ++j, ++step) (void)bmvp_ssl_step(ssl, item, CASES, 1e-4, NULL);
        (void)bmvp_ssl_losses_of(ssl, step - 1, &loss);
        (void)bmvp_sync(c);
        if (i >= 0) r->second[r->n++] = (now() - start) / n;
        if (i == -first && bmvp_ssl_losses_of(ssl, 3, &loss) == BMVP_OK) r->check = loss.total;
    }
}

static void bench_real(bench *b, const char *row, int recompute)
{
    const int64_t grid[3] = { 155, 240, 240 };
    const char *names[BMVP_MODALITIES];
    bmvp_ssl_item item[CASES];
    bmvp_ssl_config cfg;
    bmvp_net_config net;
    bmvp_config ctx = bmvp_config_default();
    bmvp_memory m;
    bmvp_error err;
    bmvp_ctx *c = NULL;
    bmvp_ssl *ssl = NULL;
    float *volume = real_items(item);
    result r;
    int i;
    memset(&r, 0, sizeof r);
    memset(&err, 0, sizeof err);
    for (i = 0; i < BMVP_MODALITIES; ++i) names[i] = bmvp_modality_name(i);
    bmvp_net_preset(BENCH_NET, &net);
    bmvp_ssl_preset(b->opt.preset, &cfg);
    cfg.contrast_from_epoch = 0; /* all tasks at work, an update in every step */
    cfg.update_every = 1;
    cfg.crop = CROP;
    cfg.recompute = recompute;
    ctx.threads = b->opt.threads;
    ctx.simd = b->opt.simd;
    ctx.precision = b->opt.precision;
    ctx.backend = b->opt.backend;
    if (volume && bmvp_ssl_plan(&ctx, &net, &cfg, BMVP_MODALITIES, names, grid, &m, &err) == BMVP_OK) {
        const double before = memory_before(&b->opt);
        c = bmvp_create(&ctx, &err);
        if (c) bmvp_reserve(c, m.step_peak);
        ssl = c ? bmvp_ssl_create(c, &net, &cfg, BMVP_MODALITIES, names, grid) : NULL;
        if (ssl) real_run(b, c, ssl, item, &r);
        r.peak_mb = memory_since(&b->opt, before);
        r.batch = CASES;
        r.plan_mb = (double)(m.persistent + m.step_peak) * 1e-6;
        r.gflop = 2 * CASES * 3 * uniformer_gflop(&net, 1);
    }
    if (err.status) fprintf(stderr, "bench_step: %s: %s\n", row, err.message);
    if (!broken(b, row, c) && r.n > 0) report(b, row, &r);
    bmvp_ssl_destroy(ssl);
    bmvp_destroy(c);
    free(volume);
}

/* >>kernels -------------------------------------------------------------------------------------------------------- */

typedef enum kind { DEPTHWISE, LINEAR, ATTENTION, MLP, CONV } kind;
/* DEPTHWISE, CONV: a = voxels along an edge, b = channels, d = kernel; LINEAR: a rows, b -> d; ATTENTION: a tokens,
   b heads of d channels; MLP: a rows, b -> d -> b */
typedef struct kernel {
    const char *name;
    kind what;
    int64_t a, b, d;
} kernel;

static const kernel kernels[] = {
    { "depthwise5_64_48", DEPTHWISE, 48, 64, 5 },
    { "depthwise3_64_48", DEPTHWISE, 48, 64, 3 },
    { "depthwise5_128_24", DEPTHWISE, 24, 128, 5 },
    { "depthwise3_320_12", DEPTHWISE, 12, 320, 3 },
    { "linear_110592_64_256", LINEAR, 110592, 64, 256 },
    { "linear_110592_256_64", LINEAR, 110592, 256, 64 },
    { "linear_110592_64_64", LINEAR, 110592, 64, 64 },
    { "linear_13824_128_512", LINEAR, 13824, 128, 512 },
    { "linear_13824_512_128", LINEAR, 13824, 512, 128 },
    { "linear_1728_320_1280", LINEAR, 1728, 320, 1280 },
    { "linear_1728_1280_320", LINEAR, 1728, 1280, 320 },
    { "linear_1728_320_960", LINEAR, 1728, 320, 960 },
    { "linear_216_512_2048", LINEAR, 216, 512, 2048 },
    { "attention_5_1728_64", ATTENTION, 1728, 5, 64 },
    { "mlp_110592_64_256", MLP, 110592, 64, 256 },
    { "mlp_13824_128_512", MLP, 13824, 128, 512 },
    { "mlp_1728_320_1280", MLP, 1728, 320, 1280 },
    { "conv3_64_48", CONV, 48, 64, 3 },
};

static bmvp_tensor *weight(bmvp_ctx *c, int rank, int64_t d0, int64_t d1, int64_t d2, int64_t d3, int64_t d4)
{
    int64_t dim[5], i;
    bmvp_tensor *t;
    dim[0] = d0;
    dim[1] = d1;
    dim[2] = d2;
    dim[3] = d3;
    dim[4] = d4;
    t = bmvp_param(c, "bench", rank, dim);
    for (i = 0; t && i < t->numel; ++i) t->x[i] = (float)(i * 2654435761u % 1000) * 1e-3f - 0.5f;
    return t;
}

static void kernel_operands(bmvp_ctx *c, const kernel *k, bmvp_tensor **p)
{
    const int64_t a = k->a, b = k->b, d = k->d;
    switch (k->what) {
    case DEPTHWISE:
        p[0] = weight(c, 5, 1, a, a, a, b);
        p[1] = weight(c, 4, d, d, d, b, 1);
        p[2] = weight(c, 1, b, 1, 1, 1, 1);
        break;
    case LINEAR:
        p[0] = weight(c, 2, a, b, 1, 1, 1);
        p[1] = weight(c, 2, b, d, 1, 1, 1);
        p[2] = weight(c, 1, d, 1, 1, 1, 1);
        break;
    case ATTENTION:
        p[0] = weight(c, 3, 1, a, 3 * b * d, 1, 1);
        break;
    case MLP:
        p[0] = weight(c, 2, a, b, 1, 1, 1);
        p[1] = weight(c, 2, b, d, 1, 1, 1);
        p[2] = weight(c, 1, d, 1, 1, 1, 1);
        p[3] = weight(c, 2, d, b, 1, 1, 1);
        p[4] = weight(c, 1, b, 1, 1, 1, 1);
        break;
    case CONV:
        p[0] = weight(c, 5, 1, a, a, a, b);
        p[1] = weight(c, 5, d, d, d, b, b);
        p[2] = weight(c, 1, b, 1, 1, 1, 1);
        break;
    }
}

static bmvp_tensor *kernel_call(bmvp_ctx *c, const kernel *k, bmvp_tensor **p)
{
    bmvp_conv_shape same;
    switch (k->what) {
    case DEPTHWISE: return bmvp_depthwise3d(c, p[0], p[1], p[2]);
    case LINEAR: return bmvp_linear(c, p[0], p[1], p[2]);
    case ATTENTION: return bmvp_attention(c, p[0], (int)k->b, 0.125);
    case MLP: return bmvp_mlp(c, p[0], p[1], p[2], p[3], p[4]);
    case CONV:
        same = bmvp_conv_same(1, k->d / 2);
        return bmvp_conv3d(c, p[0], p[1], p[2], &same);
    }
    return NULL;
}

static double kernel_gflop(const kernel *k)
{
    const double a = (double)k->a, b = (double)k->b, d = (double)k->d;
    switch (k->what) {
    case DEPTHWISE: return 2e-9 * a * a * a * b * d * d * d;
    case LINEAR: return 2e-9 * a * b * d;
    case ATTENTION: return 4e-9 * a * a * b * d;
    case MLP: return 4e-9 * a * b * d;
    case CONV: return 2e-9 * a * a * a * b * b * d * d * d;
    }
    return 0;
}

/* One run. The copy of the cotangent that starts a backward from the middle is no part of the kernel: its time is
   measured beside it and taken off. */
static void kernel_run(bmvp_ctx *c, const kernel *k, bmvp_tensor **p, float *cotangent, float *copy, double *seconds)
{
    bmvp_tensor *y;
    volatile float *seen = copy; /* or the compiler leaves the copy out, and its time stays in that of backward */
    double t0, t1, t2, t3;
    int i;
    for (i = 0; i < 5; ++i)
        if (p[i]) bmvp_zero_grad(p[i]);
    bmvp_step_begin(c);
    t0 = now();
    y = kernel_call(c, k, p);
    t1 = now();
    if (!y) return;
    memcpy(copy, cotangent, (size_t)y->numel * sizeof *copy);
    (void)*seen;
    t2 = now();
    bmvp_backward_from(c, y, cotangent);
    t3 = now();
    seconds[0] = t1 - t0;
    seconds[1] = t3 - t2 - (t2 - t1);
}

static void bench_kernel(bench *b, const kernel *k)
{
    bmvp_tensor *p[5] = { NULL, NULL, NULL, NULL, NULL };
    const int64_t last = k->what == LINEAR ? k->d : k->what == ATTENTION ? k->b * k->d : k->b;
    const int64_t rows = k->what == DEPTHWISE || k->what == CONV ? k->a * k->a * k->a : k->a;
    char name[2][64];
    float *cotangent, *copy;
    bmvp_ctx *c;
    result r[2];
    int i, j, reps = b->opt.reps;
    snprintf(name[0], sizeof name[0], "%s_forward", k->name);
    snprintf(name[1], sizeof name[1], "%s_backward", k->name);
    if (!wanted(b, name[0]) && !wanted(b, name[1])) return;
    memset(r, 0, sizeof r);
    c = context(&b->opt, b->opt.threads, 0);
    cotangent = (float *)malloc((size_t)(rows * last) * sizeof *cotangent);
    copy = (float *)calloc((size_t)(rows * last), sizeof *copy);
    if (c && cotangent && copy) {
        double seconds[2] = { 0, 0 };
        int64_t n;
        for (n = 0; n < rows * last; ++n) cotangent[n] = (float)(n % 89) * 0.01f - 0.4f;
        kernel_operands(c, k, p);
        for (i = -2; i < reps && !bmvp_failed(c); ++i) {
            kernel_run(c, k, p, cotangent, copy, seconds);
            for (j = 0; i >= 0 && j < 2; ++j) r[j].second[r[j].n++] = seconds[j];
        }
    }
    if (!broken(b, k->name, c) && r[0].n > 0)
        for (j = 0; j < 2; ++j) {
            r[j].gflop = (j + 1) * kernel_gflop(k);
            r[j].batch = 1;
            if (wanted(b, name[j])) report(b, name[j], &r[j]);
        }
    bmvp_destroy(c);
    free(cotangent);
    free(copy);
}

/* >>main ----------------------------------------------------------------------------------------------------------- */

static int parse(int argc, char **argv, options *o)
{
    static const char *const level[] = { "plain", "vector", "avx2", "avx512" };
    int i, j;
    memset(o, 0, sizeof *o);
    o->preset = "paper";
    o->reps = 7;
    o->simd = BMVP_SIMD_AUTO;
    for (i = 1; i < argc; ++i) {
        const char *a = argv[i], *v = i + 1 < argc ? argv[i + 1] : "";
        if (strcmp(a, "--json") == 0) o->json = 1;
        else if (strcmp(a, "--list") == 0) o->list = 1;
        else if (strcmp(a, "--machine") == 0) o->machine = 1;
        else if (strcmp(a, "--only") == 0 && *v) o->only = argv[++i];
        else if (strcmp(a, "--preset") == 0 && *v) o->preset = argv[++i];
        else if (strcmp(a, "--threads") == 0) o->threads = atoi(argv[++i < argc ? i : 0]);
        else if (strcmp(a, "--batch") == 0) o->batch = atoi(argv[++i < argc ? i : 0]);
        else if (strcmp(a, "--device") == 0 && *v) o->device = argv[++i];
        else if (strcmp(a, "--reps") == 0) o->reps = atoi(argv[++i < argc ? i : 0]);
        else if (strcmp(a, "--simd") == 0) {
            for (j = 0; j < 4 && strcmp(v, level[j]) != 0; ++j) {}
            if (j == 4) return 0;
            o->simd = (bmvp_simd)j;
            ++i;
        } else if (strcmp(a, "--precision") == 0) {
            for (j = BMVP_FP32; j <= BMVP_TF32 && strcmp(v, bmvp_precision_text((bmvp_precision)j)) != 0; ++j) {}
            if (j > BMVP_TF32) return 0;
            o->precision = (bmvp_precision)j;
            ++i;
        } else return 0;
    }
    return o->reps >= 1 && o->reps <= MAX_REPS && o->threads >= 0 && o->batch >= 0 && o->batch <= 64;
}

static const char *compiler_text(void)
{
#if defined(__clang__)
    return __VERSION__; /* names the compiler itself */
#elif defined(__VERSION__)
    return "gcc " __VERSION__;
#else
    return "unknown";
#endif
}

#ifdef BENCH_CUDA
static void machine_gpu(const bench *b)
{
    char text[512];
    gpu_text(text, sizeof text);
    printf(b->opt.json ? "{\"gpu\":\"%s\",\"compiler\":\"%s\"}\n" : "%s, compiler %s\n\n", text, compiler_text());
    fflush(stdout);
}
#endif

static void machine(bench *b)
{
    char line[256], *model = NULL;
    FILE *f = fopen("/proc/cpuinfo", "r");
    bmvp_ctx *c = context(&b->opt, b->opt.threads, 0);
    double one;
    while (f && !model && fgets(line, (int)sizeof line, f))
        if (strncmp(line, "model name", 10) == 0) model = strchr(line, ':');
    if (f) fclose(f);
    if (model) {
        model += 2;
        model[strcspn(model, "\n\"\\")] = 0;
    }
    if (!c) return;
    one = ceiling(&b->opt, 1);
    b->opt.threads = bmvp_threads(c);
    b->ceiling = b->opt.threads > 1 ? ceiling(&b->opt, b->opt.threads) : one;
    printf(b->opt.json ? "{\"cpu\":\"%s\",\"threads\":%d,\"simd\":\"%s\",\"compiler\":\"%s\",\"ceiling_1\":%.1f,"
                         "\"ceiling\":%.1f}\n"
                       : "%s, %d threads, %s, compiler %s\n"
                         "multiply-add ceiling: %.0f GFLOP/s with 1 thread, %.0f with all\n\n",
           model ? model : "unknown processor", b->opt.threads, bmvp_simd_text(bmvp_simd_level(c)), compiler_text(),
           one, b->ceiling);
    fflush(stdout);
    bmvp_destroy(c);
}

enum { NETS = sizeof net_rows / sizeof *net_rows, KERNELS = sizeof kernels / sizeof *kernels, LARGE = NETS + 2 };

/* Rows of whole networks: passes, then the real step, as it is and with checkpointed blocks. */
static const char *large_name(int i) { return i < NETS ? net_rows[i].name : i == NETS ? "real" : "real_checkpoint"; }

static void bench_large(bench *b, int i)
{
    if (i < NETS) bench_network(b, &net_rows[i]);
    else bench_real(b, large_name(i), i > NETS);
}

/* Row i in a process of its own where there are such: its memory is then its own too. Not with a device: CUDA does not
   survive a fork, and a row's memory there ends with its context. */
static void bench_alone(bench *b, int i)
{
    if (!wanted(b, large_name(i))) return;
    heading(b);
#if defined(__unix__) || defined(__APPLE__)
    if (!b->opt.backend) {
        int status = 0;
        pid_t child;
        fflush(stdout);
        child = fork();
        if (child == 0) {
            ++b->rows; /* the heading is printed */
            bench_large(b, i);
            fflush(stdout);
            _exit(b->failed);
        }
        if (child > 0 && waitpid(child, &status, 0) == child) {
            ++b->rows;
            if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) b->failed = 1;
            if (WIFSIGNALED(status)) fprintf(stderr, "bench_step: ended by signal %d\n", WTERMSIG(status));
            return;
        }
    }
#endif
    bench_large(b, i);
}

static void list(const options *o)
{
    int i;
    for (i = 0; i < LARGE; ++i) printf("%s\n", large_name(i));
    for (i = 0; i < KERNELS && !o->device; ++i) printf("%s_forward\n%s_backward\n", kernels[i].name, kernels[i].name);
}

int main(int argc, char **argv)
{
    bmvp_ssl_config any;
    bench b;
    int i;
    memset(&b, 0, sizeof b);
    if (!parse(argc, argv, &b.opt) || !bmvp_ssl_preset(b.opt.preset, &any)) {
        fprintf(stderr,
                "usage: bench_step [--only ROW] [--threads N] [--simd plain|vector|avx2|avx512] [--reps 1..%d]\n"
                "                  [--precision fp32|bf16|tf32] [--device cpu|cuda[:N]] [--batch 1..64]\n"
                "                  [--preset paper|release|fast] [--json] [--list] [--machine]\n",
                MAX_REPS);
        return 2;
    }
    if (b.opt.list) return list(&b.opt), 0;
    if (b.opt.device && !device_open(b.opt.device, &b.opt)) return 2;
#ifdef BENCH_CUDA
    if (b.opt.backend) machine_gpu(&b);
#endif
    if (!b.opt.backend) machine(&b);
    for (i = 0; i < LARGE && !b.opt.machine; ++i) bench_alone(&b, i);
    for (i = 0; i < KERNELS && !b.opt.machine && !b.opt.backend; ++i) bench_kernel(&b, &kernels[i]);
    if (b.opt.backend) device_close(&b.opt);
    if (b.opt.machine) return 0;
    if (!b.rows && !b.failed) fprintf(stderr, "bench_step: no row is named '%s'; --list prints them\n", b.opt.only);
    return b.failed || !b.rows;
}
