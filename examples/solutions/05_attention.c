/* Solutions of lesson 5: each token sees itself and those before it; a matrix of weights that does not overflow. */
#include <math.h>
#include <stdio.h>

enum { T = 64, SIZE = 8 };
static float q[T][SIZE], k[T][SIZE], v[T][SIZE];

static float score(int i, int j, float sharp)
{
    float s = 0;
    int d;
    for (d = 0; d < SIZE; ++d) s += q[i][d] * k[j][d];
    return s * sharp / sqrtf((float)SIZE);
}

/* 1. As one goes: the loop over keys ends at the query. */
static void streaming(float sharp, float (*out)[SIZE])
{
    int i, j, d;
    for (i = 0; i < T; ++i) {
        float top = -INFINITY, sum = 0;
        for (d = 0; d < SIZE; ++d) out[i][d] = 0;
        for (j = 0; j <= i; ++j) {
            const float s = score(i, j, sharp), new_top = s > top ? s : top;
            const float shrink = expf(top - new_top), p = expf(s - new_top);
            top = new_top;
            sum = sum * shrink + p;
            for (d = 0; d < SIZE; ++d) out[i][d] = out[i][d] * shrink + p * v[j][d];
        }
        for (d = 0; d < SIZE; ++d) out[i][d] /= sum;
    }
}

/* 2. exp(100) is more than a float holds. exp(s - top) is at most 1, and the factor exp(top) that is missing above
   the line is missing below it, too. A later token's weight is 0: exp(-inf). */
static void matrix(float sharp, float (*out)[SIZE])
{
    static float p[T];
    int i, j, d;
    for (i = 0; i < T; ++i) {
        float top = -INFINITY, sum = 0;
        for (j = 0; j < T; ++j) {
            p[j] = j <= i ? score(i, j, sharp) : -INFINITY;
            if (p[j] > top) top = p[j];
        }
        for (j = 0; j < T; ++j) sum += p[j] = expf(p[j] - top);
        for (d = 0; d < SIZE; ++d)
            for (out[i][d] = 0, j = 0; j < T; ++j) out[i][d] += p[j] / sum * v[j][d];
    }
}

int main(void)
{
    static float a[T][SIZE], b[T][SIZE];
    const float sharp[2] = { 1, 1000 };
    double worst[2] = { 0, 0 };
    int n, i, d;
    for (i = 0; i < T; ++i)
        for (d = 0; d < SIZE; ++d) {
            q[i][d] = (float)((i * 7919 + d * 104729) % 2003) / 1001.5f - 1;
            k[i][d] = (float)((i * 6007 + d * 7001) % 1999) / 999.5f - 1;
            v[i][d] = (float)((i * 313 + d * 991) % 997) / 498.5f - 1;
        }
    for (n = 0; n < 2; ++n) {
        matrix(sharp[n], a), streaming(sharp[n], b);
        for (i = 0; i < T; ++i)
            for (d = 0; d < SIZE; ++d) {
                const double off = fabs((double)a[i][d] - (double)b[i][d]);
                if (off > worst[n] || isnan(off)) worst[n] = off; /* a NaN stays: nothing is larger than it */
            }
        printf("scores times %.0f: with the matrix and as one goes, largest difference %.6f\n", (double)sharp[n],
               worst[n]);
    }
    for (d = 0; d < SIZE && a[0][d] == v[0][d]; ++d) continue;
    printf("token 0 sees itself alone: %s\n", d == SIZE ? "its own value" : "something else");
    return d != SIZE || !(worst[0] < 1e-5) || !(worst[1] < 1e-5);
}
