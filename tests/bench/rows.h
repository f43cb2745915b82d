/* rows.h - what every row of bench_step.c needs: options, the clock, memory on the CPU and on a GPU, the ceiling of the
   machine, and the line that a row prints. After bmvp_tensor.h. */
#ifndef ROWS_H_INCLUDED
#define ROWS_H_INCLUDED

#ifdef BENCH_CUDA
#include "tests/bench/gpu.h"
#endif
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#if defined(__unix__) || defined(__APPLE__)
#include <sys/resource.h>
#endif

enum { MAX_REPS = 1000, DEVICE_CALLS = 5 };

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

#endif /* ROWS_H_INCLUDED */
