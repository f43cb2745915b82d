/* fuzz.h - what the harnesses share. Each is one file with FUZZ_ONE: LLVMFuzzerTestOneInput, or a name of its own
 * where replay.c gives all of them the seeds. Memory is that of an allocator which is counted: at most 20 times the
 * input and 64 MB, all given back; processor time at most a second a MB, and two at the least. */
#ifndef BMVP_FUZZ_H
#define BMVP_FUZZ_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* memfd_create */
#endif
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "bmvp_nifti.h"
#include "bmvp_tensor.h"
#include "bmvp_nn.h"
#include "bmvp_ssl.h"

#ifndef FUZZ_ONE
#define FUZZ_ONE LLVMFuzzerTestOneInput
#endif
int FUZZ_ONE(const uint8_t *data, size_t n);

#define FUZZ_CHECK(x) \
    do { \
        if (!(x)) { \
            fprintf(stderr, "%s:%d: not true: %s\n", __FILE__, __LINE__, #x); \
            abort(); \
        } \
    } while (0)

typedef struct fuzz_memory { /* what an input has taken and may take */
    size_t live, peak, most;
    double began, seconds;
} fuzz_memory;

static inline void *fuzz_alloc(size_t n, void *user)
{
    fuzz_memory *m = (fuzz_memory *)user;
    size_t *p = n < (size_t)1 << 40 ? (size_t *)malloc(n + 16) : NULL;
    if (!p) return NULL;
    *p = n;
    m->live += n;
    if (m->live > m->peak) m->peak = m->live;
    FUZZ_CHECK(m->peak <= m->most);
    return p + 16 / sizeof *p;
}

static inline void fuzz_free(void *p, void *user)
{
    size_t *q = (size_t *)p;
    if (!p) return;
    q -= 16 / sizeof *q;
    ((fuzz_memory *)user)->live -= *q;
    free(q);
}

static inline double fuzz_now(void) { return (double)clock() / CLOCKS_PER_SEC; }

/* An input of n bytes begins. */
static inline bmvp_allocator fuzz_begin(fuzz_memory *m, size_t n)
{
    bmvp_allocator a;
    memset(m, 0, sizeof *m);
    m->most = 20 * n + ((size_t)64 << 20);
    m->began = fuzz_now();
    m->seconds = 2 + 1e-6 * (double)n;
    a.alloc = fuzz_alloc;
    a.free = fuzz_free;
    a.user = m;
    return a;
}
static inline void fuzz_end(const fuzz_memory *m)
{
    FUZZ_CHECK(m->live == 0);
    FUZZ_CHECK(fuzz_now() - m->began <= m->seconds);
}

/* The same bounds for readers of the program, which have malloc and no allocator (counted.c) */
void fuzz_counted_begin(size_t n);
void fuzz_counted_end(void);

/* The bytes as a file without a disk; one at a time. */
static inline const char *fuzz_file(const void *p, size_t n)
{
    static char path[64];
    static int fd = -1;
    if (fd < 0) fd = memfd_create("fuzz", 0);
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    FUZZ_CHECK(fd >= 0 && ftruncate(fd, 0) == 0 && pwrite(fd, p, n, 0) == (ssize_t)n);
    return path;
}

/* A refusal has a reason that a terminal can show. */
static inline void fuzz_refused(bmvp_status s, const bmvp_error *e)
{
    const char *p;
    FUZZ_CHECK(s == e->status && e->message[0]);
    for (p = e->message; *p; ++p) FUZZ_CHECK(((unsigned char)*p >= 32 || *p == '\n') && *p != 127);
}

/* Bytes that are put together. */
typedef struct fuzz_bytes {
    uint8_t *data;
    size_t n, cap;
} fuzz_bytes;
static inline void fuzz_put(fuzz_bytes *b, const void *p, size_t n)
{
    if (b->n + n > b->cap) {
        b->cap = 2 * (b->n + n) + 4096;
        b->data = (uint8_t *)realloc(b->data, b->cap);
        FUZZ_CHECK(b->data != NULL);
    }
    if (n) memcpy(b->data + b->n, p, n);
    b->n += n;
}
static inline void fuzz_number(fuzz_bytes *b, uint64_t v, int bytes) /* little-endian */
{
    for (; bytes-- > 0; v >>= 8) {
        const uint8_t c = (uint8_t)(v & 255);
        fuzz_put(b, &c, 1);
    }
}
static inline uint32_t fuzz_crc(const uint8_t *p, size_t n) /* CRC-32 of zip and gzip */
{
    uint32_t c = 0xffffffffu;
    int k;
    while (n-- > 0)
        for (c ^= *p++, k = 0; k < 8; ++k) c = c >> 1 ^ (c & 1 ? 0xedb88320u : 0);
    return ~c;
}

#endif
