/* golden_ssl.h - the numbers of the methods' own code (BMVP_DATA/golden/ssl): cases, samples, draws as they were drawn.
   Include after bmvp_nn.h, check.h and formula.h. */
#ifndef GOLDEN_SSL_H
#define GOLDEN_SSL_H

#include "examples/methods/methods.h"

typedef struct golden_ssl {
    bmvp_json_doc *doc;
    const bmvp_json *root;
    uint64_t seed;
} golden_ssl;

/* 0 where the file is absent or not wanted: the test is skipped. */
static inline int golden_ssl_open(golden_ssl *g, const char *method)
{
    const char *data = getenv("BMVP_DATA");
    char path[600];
    bmvp_error err;
    FILE *f;
    memset(g, 0, sizeof *g);
    if (!check_start("golden %s", method)) return 0;
    snprintf(path, sizeof path, "%s/golden/ssl/%s.json", data && *data ? data : "../shared", method);
    f = fopen(path, "rb");
    if (!f) {
        check_skip("no such file below BMVP_DATA/golden/ssl");
        return 0;
    }
    fclose(f);
    CHECK(bmvp_json_read(path, NULL, &g->doc, &err) == BMVP_OK);
    g->root = bmvp_json_root(g->doc);
    g->seed = (uint64_t)bmvp_json_int(bmvp_json_get(g->root, "seed"), -1);
    return g->doc != NULL;
}

static inline const bmvp_json *golden_ssl_at(const golden_ssl *g, const char *name, const char *part)
{
    return bmvp_json_get(bmvp_json_get(bmvp_json_get(g->root, "cases"), name), part);
}

static inline void golden_ssl_uniform(const golden_ssl *g, const char *name, int64_t n, float *out)
{
    const uint64_t s = formula_stream(name, g->seed);
    int64_t i;
    for (i = 0; i < n; ++i) out[i] = (float)formula_uniform(s, i);
}

/* ---- samples ----------------------------------------------------------------------------------------------------- */

/* A packed tensor against x, within tol of its root mean square and eight times what float32 costs the original. */
static inline void golden_ssl_same(const bmvp_json *sample, const float *x, double least, const char *what)
{
    const bmvp_json *d = bmvp_json_get(sample, "shape"), *v = bmvp_json_get(sample, "value"),
                    *at = bmvp_json_get(sample, "index");
    const double l2 = bmvp_json_double(bmvp_json_get(sample, "l2"), (double)NAN),
                 dev = bmvp_json_double(bmvp_json_get(sample, "dev32"), 0), tol = 8 * dev > least ? 8 * dev : least;
    double n = 1, sum = 0, square = 0, cosdot = 0, rms, worst = 0;
    int64_t i, k = 0;
    CHECK(d && v);
    for (d = d ? d->first : NULL; d; d = d->next) n *= bmvp_json_double(d, 1);
    rms = l2 / sqrt(n);
    for (i = 0; i < (int64_t)n; ++i) {
        sum += (double)x[i], square += (double)x[i] * (double)x[i];
        cosdot += (double)x[i] * cos(0.7 * (double)i);
    }
    at = at ? at->first : NULL;
    for (v = v ? v->first : NULL; v; v = v->next, ++k) {
        const double off = fabs((double)x[at ? bmvp_json_int(at, 0) : k] - bmvp_json_double(v, (double)NAN));
        if (!(off <= worst)) worst = off == off ? off : HUGE_VAL;
        at = at ? at->next : NULL;
    }
    check_report(worst <= tol * rms, __FILE__, __LINE__, "%s: %g of the rms off", what, worst / rms);
    check_report(fabs(sum / n - bmvp_json_double(bmvp_json_get(sample, "mean"), (double)NAN)) <= tol * rms, __FILE__,
                 __LINE__, "%s: mean %g", what, sum / n);
    check_report(fabs(sqrt(square) - l2) <= tol * l2, __FILE__, __LINE__, "%s: norm %.9g", what, sqrt(square));
    check_report(fabs(cosdot - bmvp_json_double(bmvp_json_get(sample, "cosdot"), (double)NAN)) <= tol * rms * sqrt(n),
                 __FILE__, __LINE__, "%s: cosdot %.9g", what, cosdot);
}

/* ---- draws ------------------------------------------------------------------------------------------------------- */

typedef struct golden_draws { /* the calls of the authors' generator in their order */
    const golden_ssl *g;
    const bmvp_json *kind, *value;
    const char *shuffle, *noise; /* names of the formulas; number k is appended */
    int64_t call, n_shuffle, n_noise;
    int wrong;                   /* calls that were not the ones of the list */
} golden_draws;

static inline double golden_draw(golden_draws *l, const char *kinds)
{
    const char *text = bmvp_json_string(l->kind, "");
    const double v = bmvp_json_double(l->value, (double)NAN);
    if (!l->value || !strchr(kinds, text[l->call])) {
        ++l->wrong;
        return 0.5;
    }
    ++l->call;
    l->value = l->value->next;
    return v;
}

static inline double golden_draws_uniform(void *user) { return golden_draw((golden_draws *)user, "ru"); }
static inline int64_t golden_draws_whole(void *user, int64_t low, int64_t high)
{
    golden_draws *l = (golden_draws *)user;
    const int64_t v = (int64_t)golden_draw(l, "ic");
    if (v >= low && v <= high) return v;
    ++l->wrong;
    return low;
}

typedef struct golden_key { double u; int32_t at; } golden_key;
static inline int golden_key_order(const void *a, const void *b)
{
    const golden_key *x = (const golden_key *)a, *y = (const golden_key *)b;
    return x->u < y->u ? -1 : x->u > y->u ? 1 : x->at < y->at ? -1 : 1;
}
static inline void golden_draws_order(void *user, int64_t n, int32_t *out)
{
    golden_draws *l = (golden_draws *)user;
    golden_key *k = (golden_key *)malloc((size_t)n * sizeof *k + 1);
    uint64_t s;
    char name[64];
    int64_t i;
    snprintf(name, sizeof name, "%s.%lld", l->shuffle, (long long)l->n_shuffle++);
    s = formula_stream(name, l->g->seed);
    for (i = 0; i < n && k; ++i) k[i].u = formula_uniform(s, i), k[i].at = (int32_t)i;
    if (k) qsort(k, (size_t)n, sizeof *k, golden_key_order);
    for (i = 0; i < n && k; ++i) out[i] = k[i].at;
    free(k);
}
static inline void golden_draws_noise(void *user, int64_t n, float *out)
{
    golden_draws *l = (golden_draws *)user;
    char name[64];
    snprintf(name, sizeof name, "%s.%lld", l->noise, (long long)l->n_noise++);
    golden_ssl_uniform(l->g, name, n, out);
}

static inline draws golden_draws_of(golden_draws *l, const golden_ssl *g, const bmvp_json *list, const char *shuffle,
                                    const char *noise)
{
    draws d;
    memset(l, 0, sizeof *l);
    l->g = g, l->shuffle = shuffle, l->noise = noise;
    l->kind = list ? list->first : NULL;
    l->value = l->kind && l->kind->next ? l->kind->next->first : NULL;
    d.uniform = golden_draws_uniform, d.whole = golden_draws_whole, d.order = golden_draws_order;
    d.noise = golden_draws_noise, d.user = l;
    return d;
}

#endif
