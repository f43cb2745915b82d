/* context.h - what tests of several headers need of a context and of the machine: places for files, an allocator that
   fails when told to, instruction sets. After bmvp_tensor.h and check.h. */
#ifndef BMVP_TEST_CONTEXT_H
#define BMVP_TEST_CONTEXT_H

#include <stdlib.h>
#include <unistd.h>

/* Where the reference files are that are not in the repository. */
static inline const char *data_folder(void)
{
    const char *data = getenv("BMVP_DATA");
    return data && *data ? data : "../shared";
}

/* The file's name is the process's own, so that several can run at once. */
static inline const char *temporary(char *buf, size_t size, const char *suffix)
{
    snprintf(buf, size, "%s/bmvp_test.%ld.%s", getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp", (long)getpid(), suffix);
    return buf;
}

static inline void check_context(bmvp_ctx *c)
{
    check_report(!bmvp_failed(c), __FILE__, __LINE__, "%s", bmvp_error_of(c)->message);
}

/* An allocator that counts, and fails at call number fail_at (from 1; 0: never). */
typedef struct counter {
    int64_t calls, fail_at, live;
    int failed;
} counter;
static inline void *counter_alloc(size_t size, void *user)
{
    counter *n = (counter *)user;
    void *p;
    if (++n->calls == n->fail_at) {
        n->failed = 1;
        return NULL;
    }
    p = malloc(size);
    if (p) memset(p, 0xA5, size < 4096 ? size : 4096); /* nobody may count on zeros */
    n->live += p != NULL;
    return p;
}
static inline void counter_free(void *p, void *user)
{
    counter *n = (counter *)user;
    --n->live;
    free(p);
}
static inline bmvp_allocator counter_of(counter *n, int64_t fail_at)
{
    bmvp_allocator a;
    memset(n, 0, sizeof *n);
    n->fail_at = fail_at;
    a.alloc = counter_alloc;
    a.free = counter_free;
    a.user = n;
    return a;
}

enum { LEVEL_BF16 = BMVP_SIMD_AVX512 + 1 }; /* AVX-512 with bfloat16 products */

static inline bmvp_config config_of(bmvp_simd level, int threads)
{
    bmvp_config k = bmvp_config_default();
    k.simd = (int)level == LEVEL_BF16 ? BMVP_SIMD_AVX512 : level;
    k.precision = (int)level == LEVEL_BF16 ? BMVP_BF16 : BMVP_FP32;
    k.threads = threads;
    return k;
}
static inline const char *level_text(int level)
{
    return level == LEVEL_BF16 ? "bf16" : bmvp_simd_text((bmvp_simd)level);
}

static inline bmvp_simd best_level(void)
{
    bmvp_ctx *c = bmvp_create(NULL, NULL);
    const bmvp_simd level = c ? bmvp_simd_level(c) : BMVP_SIMD_PLAIN;
    bmvp_destroy(c);
    return level;
}

/* LEVEL_BF16 where the processor has it */
static inline int last_level(void)
{
    const bmvp_config k = config_of((bmvp_simd)LEVEL_BF16, 1);
    bmvp_ctx *c = bmvp_create(&k, NULL);
    const int has = c != NULL;
    bmvp_destroy(c);
    return has ? LEVEL_BF16 : (int)best_level();
}

#endif /* BMVP_TEST_CONTEXT_H */
