/* fixture.h - reads the reference files of tests/fixtures. Include after bmvp_nn.h and check.h. */
#ifndef BMVP_FIXTURE_H
#define BMVP_FIXTURE_H

#include <stdlib.h>

#ifndef TEST_FIXTURES
#define TEST_FIXTURES "tests/fixtures" /* tests are run from the top folder */
#endif

/* One tensor of a fixture; x is NULL when the file has none of that name. Free with free(x). */
typedef struct fixture_tensor {
    float *x;
    int64_t numel, dim[BMVP_MAX_DIMS];
    int rank;
} fixture_tensor;

/* path below TEST_FIXTURES; NULL (a failed check) when it cannot be read. */
static inline bmvp_ckpt *fixture_open(const char *path)
{
    char full[512];
    bmvp_ckpt *f = NULL;
    bmvp_error err;
    snprintf(full, sizeof full, "%s/%s", TEST_FIXTURES, path);
    if (!check_report(bmvp_ckpt_open(full, NULL, &f, &err) == BMVP_OK, __FILE__, __LINE__, "%s", err.message))
        return NULL;
    return f;
}

static inline fixture_tensor fixture_load(bmvp_ckpt *f, const char *format, ...)
{
    char name[200];
    fixture_tensor t;
    bmvp_error err;
    va_list ap;
    int i;
    memset(&t, 0, sizeof t);
    va_start(ap, format);
    vsnprintf(name, sizeof name, format, ap);
    va_end(ap);
    i = bmvp_ckpt_find(f, NULL, name);
    if (i < 0) return t;
    t.numel = f->entry[i].numel;
    t.rank = f->entry[i].rank;
    memcpy(t.dim, f->entry[i].dim, sizeof t.dim);
    t.x = (float *)malloc((size_t)t.numel * sizeof(float));
    if (t.x && bmvp_ckpt_load_f32(f, i, 0, t.numel, t.x, &err) != BMVP_OK) {
        check_report(0, __FILE__, __LINE__, "%s", err.message);
        free(t.x);
        t.x = NULL;
    }
    return t;
}

/* Metadata entry, or NULL. */
static inline const char *fixture_text(const bmvp_ckpt *f, const char *format, ...)
{
    char name[200];
    const bmvp_ckpt_meta *m;
    va_list ap;
    va_start(ap, format);
    vsnprintf(name, sizeof name, format, ap);
    va_end(ap);
    m = bmvp_ckpt_find_meta(f, "", name);
    return m ? m->value : NULL;
}

/* "1,2,3" -> at most max numbers; returns how many. NULL has none. */
static inline int fixture_numbers(const char *text, int64_t *out, int max)
{
    int n = 0;
    char *end;
    while (text && *text && n < max) {
        out[n++] = (int64_t)strtoll(text, &end, 10);
        text = *end == ',' ? end + 1 : NULL;
    }
    return n;
}

#endif /* BMVP_FIXTURE_H */
