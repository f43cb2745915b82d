/* golden_ssl.h - the numbers of BMVP_DATA/golden/ssl, from the code of other pre-training methods: how its files pack
   tensors, and what differs by how much is right, as its README says. After bmvp_nn.h, check.h, context.h and
   formula.h. */
#ifndef BMVP_TEST_GOLDEN_SSL_H
#define BMVP_TEST_GOLDEN_SSL_H

#include <math.h>
#include <stdio.h>

#ifdef __SANITIZE_ADDRESS__
enum { WHOLE_STEPS = 0 }; /* whole networks: `make asan` runs their small fixtures */
#else
enum { WHOLE_STEPS = 1 };
#endif

typedef struct golden_ssl {
    bmvp_json_doc *doc;
    uint64_t seed;
} golden_ssl;

/* 0: a failed check, the file cannot be read. */
static inline int golden_ssl_open_at(golden_ssl *g, const char *path)
{
    bmvp_error err;
    memset(g, 0, sizeof *g);
    if (!check_report(bmvp_json_read(path, NULL, &g->doc, &err) == BMVP_OK, __FILE__, __LINE__, "%s", err.message))
        return 0;
    g->seed = (uint64_t)bmvp_json_int(bmvp_json_get(bmvp_json_root(g->doc), "seed"), 0);
    return 1;
}

/* 0: the file is not there (the test counts as skipped) or cannot be read. */
static inline int golden_ssl_open(golden_ssl *g, const char *file)
{
    char path[700];
    FILE *f;
    snprintf(path, sizeof path, "%s/golden/ssl/%s", data_folder(), file);
    f = fopen(path, "rb");
    if (f) fclose(f);
    else check_skip("no such file below BMVP_DATA/golden/ssl");
    return f && golden_ssl_open_at(g, path);
}

static inline int golden_ssl_has(const golden_ssl *g, const char *of)
{
    return bmvp_json_get(bmvp_json_get(bmvp_json_root(g->doc), "cases"), of) != NULL;
}

/* What a case gives, by its name in "out"; a failed check if it is not there */
static inline const bmvp_json *golden_ssl_out(const golden_ssl *g, const char *of, const char *name)
{
    const bmvp_json *all = bmvp_json_get(bmvp_json_root(g->doc), "cases");
    const bmvp_json *v = bmvp_json_get(bmvp_json_get(bmvp_json_get(all, of), "out"), name);
    check_report(v != NULL, __FILE__, __LINE__, "%s has no %s", of, name);
    return v;
}

/* n numbers times + offset of the stream `name`, in double, rounded to float32 */
static inline void golden_ssl_uniform(const golden_ssl *g, const char *name, double times, double offset, int64_t n,
                                      float *out)
{
    int64_t i;
    for (i = 0; i < n; ++i) out[i] = (float)(times * formula_uniform(formula_stream(name, g->seed), i) + offset);
}

static inline void golden_ssl_near(const char *what, const char *part, double got, double want, double allowed)
{
    check_report(fabs(got - want) <= allowed, __FILE__, __LINE__, "%s: %s is %.9g, not %.9g (allowed: %.1e)", what,
                 part, got, want, allowed);
}

/* What a case says of what it was given; a failed check if it is not there */
static inline const bmvp_json *golden_ssl_in(const golden_ssl *g, const char *of, const char *name)
{
    const bmvp_json *all = bmvp_json_get(bmvp_json_root(g->doc), "cases");
    const bmvp_json *v = bmvp_json_get(bmvp_json_get(bmvp_json_get(all, of), "in"), name);
    check_report(v != NULL, __FILE__, __LINE__, "%s is given no %s", of, name);
    return v;
}

/* n numbers in PyTorch's order against a packed entry: all its figures, within eight times what float32 costs the
   original, at least `least`, of the root mean square; more NULL, or for each element what it may be off besides. */
static inline void golden_ssl_figures(const char *what, const bmvp_json *v, const float *x, int64_t n, double share,
                                      const float *more)
{
    const double l2 = bmvp_json_double(bmvp_json_get(v, "l2"), 0), r = l2 / sqrt((double)n);
    double mean = 0, square = 0, dot = 0, room = 0;
    int64_t i;
    for (i = 0; i < n; ++i) {
        mean += (double)x[i] / (double)n;
        square += (double)x[i] * (double)x[i];
        dot += (double)x[i] * cos(0.7 * (double)i);
        if (more) room += (double)more[i] * (double)more[i];
    }
    room = sqrt(room);
    golden_ssl_near(what, "the mean", mean, bmvp_json_double(bmvp_json_get(v, "mean"), 0),
                    share * r + room / sqrt((double)n));
    golden_ssl_near(what, "the norm", sqrt(square), l2, share * l2 + room);
    golden_ssl_near(what, "the sum with a cosine", dot, bmvp_json_double(bmvp_json_get(v, "cosdot"), 0),
                    share * l2 + room);
}
static inline void golden_ssl_room(const char *what, const bmvp_json *v, const float *x, int64_t n, double least,
                                   const float *more)
{
    const bmvp_json *value = bmvp_json_get(v, "value"), *index = bmvp_json_get(v, "index");
    const double dev = bmvp_json_double(bmvp_json_get(v, "dev32"), 0), l2 = bmvp_json_double(bmvp_json_get(v, "l2"), 0);
    const double share = 8 * dev > least ? 8 * dev : least, r = l2 / sqrt((double)n);
    int64_t i;
    if (!v || dev > 0.05) return;
    if (bmvp_json_get(v, "zero")) { /* but for rounding */
        const double most = 8 * bmvp_json_double(bmvp_json_get(v, "largest32"), 0);
        for (i = 0; i < n; ++i) golden_ssl_near(what, "a zero", (double)x[i], 0, most > 1e-5 ? most : 1e-5);
        return;
    }
    if (!CHECK(value != NULL)) return;
    if (value->type == BMVP_JSON_NUMBER) {
        const double want = bmvp_json_double(value, 0);
        golden_ssl_near(what, "the number", (double)x[0], want, share * fabs(want));
        return;
    }
    if (bmvp_json_get(v, "l2")) golden_ssl_figures(what, v, x, n, share, more);
    if (!index) check_report(bmvp_json_count(value) == n, __FILE__, __LINE__, "%s: not %d values", what, (int)n);
    for (i = 0; i < bmvp_json_count(value); ++i) {
        const int64_t at = index ? bmvp_json_int(bmvp_json_at(index, i), -1) : i;
        if (check_report(at >= 0 && at < n, __FILE__, __LINE__, "%s: no element %lld", what, (long long)at))
            golden_ssl_near(what, "a value", (double)x[at], bmvp_json_double(bmvp_json_at(value, i), 0),
                            share * r + (more ? (double)more[at] : 0));
    }
}
static inline void golden_ssl_within(const char *what, const bmvp_json *v, const float *x, int64_t n, double least)
{
    golden_ssl_room(what, v, x, n, least, NULL);
}

static inline void golden_ssl_check(const char *what, const bmvp_json *v, const float *x, int64_t n)
{
    golden_ssl_within(what, v, x, n, 2e-5);
}

/* The same of a tensor's values or gradient, in the order of entry s of a state (NULL: of its memory) */
static inline void golden_ssl_entry(const char *what, const bmvp_json *v, bmvp_ctx *c, const bmvp_tensor *t,
                                    const bmvp_state *s, int gradient)
{
    float *x = t ? (float *)malloc(2 * (size_t)t->numel * sizeof *x) : NULL;
    float *const torch = x ? x + t->numel : NULL;
    if (check_report(x != NULL, __FILE__, __LINE__, "%s: there is no such tensor", what) &&
        CHECK((gradient ? bmvp_read_grad(c, t, x) : bmvp_read(c, t, x)) == BMVP_OK)) {
        if (s) bmvp_state_to_torch(s, x, torch);
        golden_ssl_check(what, v, s ? torch : x, t->numel);
    }
    free(x);
}
static inline void golden_ssl_tensor(const golden_ssl *g, const char *of, const char *name, bmvp_ctx *c,
                                     const bmvp_tensor *t, int gradient)
{
    char what[128];
    snprintf(what, sizeof what, "%s %s", of, name);
    golden_ssl_entry(what, golden_ssl_out(g, of, name), c, t, NULL, gradient);
}

/* A file's name -> the state's; NULL: as it is. find: NULL and a failed check where there is none; fill: parameters of
   the names and shapes of these entries, by formula. */
typedef const char *(*golden_ssl_name)(const char *theirs, char *ours, size_t size);
static inline const bmvp_state *golden_ssl_find(const bmvp_state_list *l, const char *theirs, golden_ssl_name name)
{
    char ours[BMVP_NAME_MAX];
    const char *const wanted = name ? name(theirs, ours, sizeof ours) : theirs;
    int i;
    for (i = 0; i < l->n && strcmp(l->item[i].name, wanted) != 0; ++i) { }
    return check_report(i < l->n, __FILE__, __LINE__, "there is no %s (%s)", wanted, theirs) ? &l->item[i] : NULL;
}
static inline void golden_ssl_fill(const golden_ssl *g, const bmvp_json *entries, bmvp_ctx *c, bmvp_state_list *l,
                                   golden_ssl_name name)
{
    const bmvp_json *e;
    for (e = entries ? entries->first : NULL; e; e = e->next) {
        const bmvp_json *shape = bmvp_json_get(e, "shape"), *d;
        const bmvp_state *s = golden_ssl_find(l, e->key, name);
        const int matrix = bmvp_json_count(shape) > 1, weight = formula_ends_with(e->key, ".weight");
        double fan = 1;
        float *x = s ? (float *)malloc(2 * (size_t)s->t->numel * sizeof *x) : NULL;
        if (!x) continue;
        for (d = shape->first->next; d; d = d->next) fan *= (double)bmvp_json_int(d, 1);
        fan = weight && matrix ? sqrt(3 / fan) : 0.1;
        golden_ssl_uniform(g, e->key, 2 * fan, (weight && !matrix) - fan, s->t->numel, x);
        bmvp_state_from_torch(s, x, x + s->t->numel);
        bmvp_write(c, s->t, x + s->t->numel);
        free(x);
    }
}
/* .. and their values or gradients against the entries */
static inline void golden_ssl_entries(const bmvp_json *entries, bmvp_ctx *c, const bmvp_state_list *l,
                                      golden_ssl_name name, int gradient)
{
    const bmvp_json *e;
    for (e = entries ? entries->first : NULL; e; e = e->next) {
        const bmvp_state *s = golden_ssl_find(l, e->key, name);
        if (s) golden_ssl_entry(e->key, e, c, s->t, s, gradient);
    }
}

#endif /* BMVP_TEST_GOLDEN_SSL_H */
