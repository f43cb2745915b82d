/* 05_attention.c - lesson 5: attention by hand, and why the N x N matrix is never kept

   What you learn: every token asks all others: a row of softmax(q k^T / sqrt d) says how much it takes of each v.
   With N tokens that is N x N numbers a head; a 96^3 crop at stride 8 has 1728 tokens, and training would keep 12 MB
   for each head, layer and sample. But a softmax can be added up as one goes: a running maximum and a running sum are
   enough, and backward makes the row again from one kept number, its log-sum-exp.
   Run:  cc -O2 -I. examples/05_attention.c -o 05_attention -lm -lpthread && ./05_attention  (no time; compiling: 10 s)
   You see, numbers within 0.1 % or 0.00002; and 05_attention.svg, what four tokens look at:
   | 64 tokens on a 4^3 grid, 2 heads of 8
   | row of token 0, head 0: sum 1.00000, largest 0.03314
   | with the matrix and without, largest difference 0.00000
   | the op and the matrix, largest difference 0.00000
   | out[0] -0.15113 out[last] 0.04939 sum of squares 24.7191
   | scores times 50: with the matrix nan, as one goes finite, the op finite
   | 1728 tokens, 5 heads: matrices 59.7 MB, kept by the op 0.035 MB
   Exercises:
   1. Let each token see only those before it and itself. Hint: in attend_streaming() the loop over keys ends earlier.
   2. Why does the matrix overflow in the last row but one? Repair it. Hint: subtract a row's maximum; softmax does
      not change.
   In the headers: bmvp_tensor.h >>op attention, its tiles in >>fast attention. */
#define BMVP_IMPLEMENTATION
#include "bmvp_tensor.h"
#include "picture.h"
#include <math.h>
#include <stdlib.h>

enum { T = 64, HEADS = 2, SIZE = 8, C = HEADS * SIZE };
static float qkv[T * 3 * C]; /* a row a token: q of all heads, k of all heads, v of all heads */

/* Numbers between -1 and 1 that the twin in PyTorch makes, too. */
static void fill(float *v, int64_t n, int64_t salt)
{
    int64_t i;
    for (i = 0; i < n; ++i) v[i] = (float)((i * 7919 + salt * 104729) % 2003) / 1001.5f - 1;
}

/* q_i k_j / sqrt d of a head, times `sharp` */
static float score(int head, int i, int j, float sharp)
{
    const float *q = qkv + i * 3 * C + head * SIZE, *k = qkv + j * 3 * C + C + head * SIZE;
    float s = 0;
    int d;
    for (d = 0; d < SIZE; ++d) s += q[d] * k[d];
    return s * sharp / sqrtf((float)SIZE);
}
static const float *value(int head, int j) { return qkv + j * 3 * C + 2 * C + head * SIZE; }

/* As it is written: the matrix, its softmax, the product with v. */
static void attend_matrix(float (*p)[T], int head, float sharp, float *out)
{
    int i, j, d;
    for (i = 0; i < T; ++i) {
        float sum = 0;
        for (j = 0; j < T; ++j) sum += p[i][j] = expf(score(head, i, j, sharp));
        for (j = 0; j < T; ++j) p[i][j] /= sum;
        for (d = 0; d < SIZE; ++d)
            for (out[i * C + head * SIZE + d] = 0, j = 0; j < T; ++j)
                out[i * C + head * SIZE + d] += p[i][j] * value(head, j)[d];
    }
}

/* The same with three numbers and one row of `out` at a time. When a larger score comes what was added so far is
   scaled down to it. */
static void attend_streaming(int head, float sharp, float *out)
{
    int i, j, d;
    for (i = 0; i < T; ++i) {
        float *o = out + i * C + head * SIZE, top = -INFINITY, sum = 0;
        for (d = 0; d < SIZE; ++d) o[d] = 0;
        for (j = 0; j < T; ++j) {
            const float s = score(head, i, j, sharp), new_top = s > top ? s : top;
            const float shrink = expf(top - new_top), p = expf(s - new_top);
            top = new_top;
            sum = sum * shrink + p;
            for (d = 0; d < SIZE; ++d) o[d] = o[d] * shrink + p * value(head, j)[d];
        }
        for (d = 0; d < SIZE; ++d) o[d] /= sum; /* top + log(sum) is the row's log-sum-exp: all that backward needs */
    }
}

static void attend_op(bmvp_ctx *c, double sharp, float *out)
{
    const int64_t dim[3] = { 1, T, 3 * C };
    bmvp_step_begin(c);
    bmvp_read(c, bmvp_attention(c, bmvp_input(c, 3, dim, qkv), HEADS, sharp / sqrt((double)SIZE)), out);
}

static double difference(const float *a, const float *b)
{
    double worst = 0;
    int i;
    for (i = 0; i < T * C; ++i) {
        const double d = fabs((double)a[i] - (double)b[i]);
        if (d > worst || isnan(d)) worst = d; /* a NaN stays: nothing is larger than it */
    }
    return worst;
}
static const char *finite_or_not(const float *a) /* x - x is 0 for all that is finite */
{
    int i;
    for (i = 0; i < T * C && a[i] - a[i] == 0; ++i) continue;
    return i < T * C ? "nan" : "finite";
}

/* Bytes that a step keeps between forward and backward: a plan counts them, and computes nothing. */
static double kept_by_op(int64_t tokens, int64_t heads, int64_t size)
{
    const int64_t dim[3] = { 1, tokens, 3 * heads * size };
    bmvp_config cfg = bmvp_config_default();
    bmvp_ctx *c;
    bmvp_tensor *x;
    int64_t before, kept;
    cfg.plan = 1;
    c = bmvp_create(&cfg, NULL);
    x = bmvp_leaf(c, 3, dim, NULL);
    before = bmvp_memory_of(c).step;
    x = bmvp_attention(c, x, (int)heads, 1);
    kept = bmvp_memory_of(c).step - before - (x ? x->numel * (int64_t)sizeof(float) : 0);
    bmvp_destroy(c);
    return 1e-6 * (double)kept;
}

int main(void)
{
    static float p[HEADS][T][T], matrix[T * C], streaming[T * C], op[T * C];
    bmvp_ctx *c = bmvp_create(NULL, NULL);
    picture look[4];
    double squares = 0, sum = 0, largest = 0;
    int i, h;
    if (!c) return 1;
    fill(qkv, T * 3 * C, 3);
    for (h = 0; h < HEADS; ++h) attend_matrix(p[h], h, 1, matrix), attend_streaming(h, 1, streaming);
    attend_op(c, 1, op);
    for (i = 0; i < T; ++i) {
        sum += (double)p[0][0][i];
        if ((double)p[0][0][i] > largest) largest = (double)p[0][0][i];
    }
    for (i = 0; i < T * C; ++i) squares += (double)op[i] * (double)op[i];
    printf("%d tokens on a 4^3 grid, %d heads of %d\n", T, HEADS, SIZE);
    printf("row of token 0, head 0: sum %.5f, largest %.5f\n", sum, largest);
    printf("with the matrix and without, largest difference %.5f\n", difference(matrix, streaming));
    printf("the op and the matrix, largest difference %.5f\n", difference(matrix, op));
    printf("out[0] %.5f out[last] %.5f sum of squares %.4f\n", (double)op[0], (double)op[T * C - 1], squares);

    for (i = 0; i < 4; ++i) { /* a row of the matrix as the grid it speaks of: 4 slices of 4 x 4, one below the other */
        static const char *const title[4] = { "token 0", "token 21", "token 42", "token 63" };
        look[i].title = title[i], look[i].width = 4, look[i].height = 16, look[i].value = p[0][21 * i];
        look[i].low = 0, look[i].high = (float)largest;
    }
    if (picture_write("05_attention.svg", "What a token looks at: its row as the grid, 4 slices, one below the other; "
                      "white: most.", look, 4)) return 1;

    for (h = 0; h < HEADS; ++h) attend_matrix(p[h], h, 50, matrix), attend_streaming(h, 50, streaming);
    attend_op(c, 50, op);
    printf("scores times 50: with the matrix %s, as one goes %s, the op %s\n", finite_or_not(matrix),
           finite_or_not(streaming), finite_or_not(op));
    printf("1728 tokens, 5 heads: matrices %.1f MB, kept by the op %.3f MB\n", 1e-6 * 1728 * 1728 * 5 * 4,
           kept_by_op(1728, 5, 64));
    bmvp_destroy(c);
    return 0;
}
