/* formula.h - weights, inputs and masks given by formula, the same in C and in the scripts of tests/reference, so that
   fixtures hold only results. Include after bmvp_nn.h. */
#ifndef BMVP_FORMULA_H
#define BMVP_FORMULA_H

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* FNV-1a of the name starts a SplitMix64 stream. */
static inline uint64_t formula_stream(const char *name, uint64_t seed)
{
    uint64_t h = 0xCBF29CE484222325u;
    for (; *name; ++name) h = (h ^ (unsigned char)*name) * 0x100000001B3u;
    return h + seed;
}

/* Number k (from 0) of a stream, in [0, 1). */
static inline double formula_uniform(uint64_t stream, int64_t k)
{
    uint64_t z = stream + (uint64_t)(k + 1) * 0x9E3779B97F4A7C15u;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    z ^= z >> 31;
    return (double)(z >> 40) / 16777216.0;
}

static inline int formula_ends_with(const char *text, const char *end)
{
    const size_t n = strlen(text), m = strlen(end);
    return n >= m && strcmp(text + n - m, end) == 0;
}

/* A tensor of the state in the released order; templates are parts of one stack. */
static inline void formula_values(const bmvp_state *s, uint64_t seed, float *out)
{
    const uint64_t stream = formula_stream(s->stacked ? s->stacked : s->name, seed);
    const int weight = formula_ends_with(s->name, ".weight");
    double scale = 0.1, offset = 0;
    int64_t i, fan = 1;
    int a;
    for (a = 1; a < s->torch_rank; ++a) fan *= s->torch_dim[a];
    if (weight && s->torch_rank >= 2) scale = sqrt(3.0 / (double)fan);
    if (weight && s->torch_rank == 1) offset = 1;
    for (i = 0; i < s->t->numel; ++i) {
        const double u = formula_uniform(stream, s->part * s->t->numel + i);
        if (s->stacked) out[i] = (float)u;
        else if (formula_ends_with(s->name, "running_mean")) out[i] = 0;
        else if (formula_ends_with(s->name, "running_var")) out[i] = 1;
        else out[i] = (float)(offset + scale * (2 * u - 1));
    }
}

/* The whole state; 0: out of memory. */
static inline int formula_state(bmvp_ctx *c, bmvp_state_list *l, uint64_t seed)
{
    int64_t most = 1;
    float *buf;
    int i;
    for (i = 0; i < l->n; ++i) most = l->item[i].t->numel > most ? l->item[i].t->numel : most;
    buf = (float *)malloc((size_t)most * 2 * sizeof *buf);
    for (i = 0; i < l->n && buf; ++i) {
        if (l->item[i].torch_rank == 0) continue;
        formula_values(&l->item[i], seed, buf);
        bmvp_state_from_torch(&l->item[i], buf, buf + most);
        bmvp_write(c, l->item[i].t, buf + most);
    }
    free(buf);
    return buf != NULL;
}

/* Input of case c, modality slot m; dim = D, H, W. The formula names its axes X, Y, Z. */
static inline void formula_volume(int c, int m, const int64_t dim[3], float *out)
{
    int64_t x, y, z;
    for (z = 0; z < dim[0]; ++z)
        for (y = 0; y < dim[1]; ++y)
            for (x = 0; x < dim[2]; ++x)
                out[(z * dim[1] + y) * dim[2] + x] = (float)(0.5 + 0.25 * sin(0.11 * (double)x + 0.7 * m + 1.3 * c) +
                                                             0.25 * cos(0.13 * (double)y - 0.05 * (double)z + 0.4 * m));
}

typedef struct formula_rank {
    double u;
    int64_t block;
} formula_rank;
static inline int formula_by_value(const void *a, const void *b)
{
    const formula_rank *p = (const formula_rank *)a, *q = (const formula_rank *)b;
    return p->u < q->u ? -1 : p->u > q->u ? 1 : p->block < q->block ? -1 : 1;
}

/* Mask `number` of an edge^3 crop: aligned 8^3 blocks, an eighth of them kept (0). Returns 0: out of memory. */
static inline int formula_mask(int number, uint64_t seed, int64_t edge, float *out)
{
    const int64_t side = 8, b = edge / side, n = b * b * b;
    formula_rank *r = (formula_rank *)malloc((size_t)n * sizeof *r);
    char name[16];
    int64_t i, x, y, z;
    if (!r) return 0;
    snprintf(name, sizeof name, "mask%d", number);
    for (i = 0; i < n; ++i) {
        r[i].u = formula_uniform(formula_stream(name, seed), i);
        r[i].block = i;
    }
    qsort(r, (size_t)n, sizeof *r, formula_by_value);
    for (i = 0; i < edge * edge * edge; ++i) out[i] = 1;
    for (i = 0; i < n / 8; ++i)
        for (z = 0; z < side; ++z)
            for (y = 0; y < side; ++y)
                for (x = 0; x < side; ++x)
                    out[((r[i].block % b * side + z) * edge + r[i].block / b % b * side + y) * edge +
                        r[i].block / (b * b) * side + x] = 0;
    free(r);
    return 1;
}

#endif /* BMVP_FORMULA_H */
