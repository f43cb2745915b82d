/* counted.c - memory that the program's readers take by malloc: both builds of the harnesses are linked with
 * -Wl,--wrap for these names. Counted is what is asked for between fuzz_counted_begin and fuzz_counted_end, by one
 * thread; what the C library takes for itself is not. */
#include "tests/fuzz/fuzz.h"
#include <malloc.h>

void *__real_malloc(size_t n);
void *__real_calloc(size_t n, size_t size);
void *__real_realloc(void *p, size_t n);
void __real_free(void *p);
void *__wrap_malloc(size_t n);
void *__wrap_calloc(size_t n, size_t size);
void *__wrap_realloc(void *p, size_t n);
void __wrap_free(void *p);

static int counting;
static int64_t live, most; /* bytes; less than none where the C library has made what is freed */

static void *taken(void *p)
{
    if (!counting) return p;
    live += (int64_t)malloc_usable_size(p);
    FUZZ_CHECK(live <= most);
    return p;
}

void fuzz_counted_begin(size_t n)
{
    live = 0;
    most = 20 * (int64_t)n + (64 << 20);
    counting = 1;
}
void fuzz_counted_end(void)
{
    counting = 0;
    FUZZ_CHECK(live <= 0);
}

void *__wrap_malloc(size_t n) { return taken(__real_malloc(n)); }
void *__wrap_calloc(size_t n, size_t size) { return taken(__real_calloc(n, size)); }
void *__wrap_realloc(void *p, size_t n)
{
    const int64_t old = counting ? (int64_t)malloc_usable_size(p) : 0;
    void *q = __real_realloc(p, n);
    if (q || !n) live -= old;
    return q ? taken(q) : q;
}
void __wrap_free(void *p)
{
    if (counting) live -= (int64_t)malloc_usable_size(p);
    __real_free(p);
}
