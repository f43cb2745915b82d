/* oom.c - a library that is put before the C library's (LD_PRELOAD): allocation OOM_AT of the process, counted
 * from 1, fails. OOM_COUNT: the file that the number of all is written to. What dlsym itself allocates comes
 * from a block of its own. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

typedef void *(*malloc_fn)(size_t);
typedef void *(*calloc_fn)(size_t, size_t);
typedef void *(*realloc_fn)(void *, size_t);
typedef int (*align_fn)(void **, size_t, size_t);

static malloc_fn real_malloc;
static calloc_fn real_calloc;
static realloc_fn real_realloc;
static align_fn real_align;
static long fail_at, count;
static int state; /* 0: nothing is known, 1: being looked up, 2: known */
static char block[65536];
static size_t used;

static void *from_block(size_t n)
{
    void *p = block + used;
    used += (n + 15) & ~(size_t)15;
    return used <= sizeof block ? p : NULL;
}

static int is_known(void)
{
    const char *at;
    if (state) return state == 2;
    state = 1;
    *(void **)&real_malloc = dlsym(RTLD_NEXT, "malloc");
    *(void **)&real_calloc = dlsym(RTLD_NEXT, "calloc");
    *(void **)&real_realloc = dlsym(RTLD_NEXT, "realloc");
    *(void **)&real_align = dlsym(RTLD_NEXT, "posix_memalign");
    at = getenv("OOM_AT");
    fail_at = at ? atol(at) : 0;
    state = 2;
    return 1;
}

static int fails(void)
{
    if (__atomic_add_fetch(&count, 1, __ATOMIC_RELAXED) != fail_at) return 0;
    errno = ENOMEM;
    return 1;
}

void *malloc(size_t n) { return !is_known() ? from_block(n) : fails() ? NULL : real_malloc(n); }
void *calloc(size_t n, size_t size)
{
    return !is_known() ? from_block(n * size) : fails() ? NULL : real_calloc(n, size); /* the block is zeros */
}
void *realloc(void *p, size_t n) { return !is_known() ? from_block(n) : fails() ? NULL : real_realloc(p, n); }
int posix_memalign(void **p, size_t align, size_t n)
{
    (void)is_known();
    return fails() ? ENOMEM : real_align(p, align, n);
}

__attribute__((destructor)) static void write_count(void)
{
    const char *path = getenv("OOM_COUNT");
    char text[32];
    const int file = path ? open(path, O_WRONLY | O_CREAT | O_TRUNC, 0644) : -1;
    const int n = snprintf(text, sizeof text, "%ld\n", count);
    if (file >= 0 && write(file, text, (size_t)n) == n) close(file);
}
