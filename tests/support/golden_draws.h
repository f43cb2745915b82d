/* golden_draws.h - draws of a method as its authors' generator gave them (BMVP_DATA/golden/ssl, "draws"): kinds and
   values in the order of the calls; permutations and noise by formula. After golden_ssl.h. */
#ifndef BMVP_TEST_GOLDEN_DRAWS_H
#define BMVP_TEST_GOLDEN_DRAWS_H

#include "examples/methods/methods.h"

typedef struct golden_draws { /* the calls of the authors' generator in their order */
    const golden_ssl *g;
    const bmvp_json *kind, *value;
    const char *shuffle, *noise; /* names of the formulas; number k is appended */
    const bmvp_json *inner;      /* next value of a call that gave a list of them */
    int64_t call, n_shuffle, n_noise;
    int bare;                    /* 1: there is one, and no number is appended */
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
    int64_t v;
    if (!l->inner && l->value && l->value->type == BMVP_JSON_ARRAY) l->inner = l->value->first;
    v = l->inner ? bmvp_json_int(l->inner, -1) : (int64_t)golden_draw(l, "ic");
    if (l->inner) {
        l->inner = l->inner->next;
        if (!l->inner) (void)golden_draw(l, "i");
    }
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
    if (l->bare) snprintf(name, sizeof name, "%s", l->shuffle);
    else snprintf(name, sizeof name, "%s.%lld", l->shuffle, (long long)l->n_shuffle++);
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
    golden_ssl_uniform(l->g, name, 1, 0, n, out);
}
/* Number i of two streams by the rule of golden/ssl: Box and Muller */
static inline float golden_normal(uint64_t a, uint64_t b, int64_t i)
{
    return (float)(sqrt(-2 * log(1 - formula_uniform(a, i))) * cos(2 * 3.14159265358979323846 * formula_uniform(b, i)));
}
static inline void golden_draws_normal(void *user, int64_t n, float *out)
{
    golden_draws *l = (golden_draws *)user;
    char name[64];
    uint64_t a, b;
    int64_t i;
    snprintf(name, sizeof name, "%s.%lld.a", l->noise, (long long)l->n_noise);
    a = formula_stream(name, l->g->seed);
    snprintf(name, sizeof name, "%s.%lld.b", l->noise, (long long)l->n_noise++);
    b = formula_stream(name, l->g->seed);
    for (i = 0; i < n; ++i) out[i] = golden_normal(a, b, i);
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
    d.noise = golden_draws_noise, d.normal = golden_draws_normal, d.user = l;
    return d;
}

#endif
