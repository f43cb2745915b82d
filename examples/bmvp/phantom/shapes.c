/* shapes.c - the bodies that a head is made of, see shapes.h */
#include "shapes.h"

void ph_direction(bmvp_rng *r, float v[3])
{
    float z = ph_range(r, -1.0f, 1.0f), turn = bmvp_rng_uniform(r) - 0.5f, s = sqrtf(1.0f - z * z);
    v[0] = s * ph_sine(ph_fraction(turn + 0.25f));
    v[1] = s * ph_sine(turn);
    v[2] = z;
}

void ph_noise_init(ph_noise *f, bmvp_rng *r, int n, float wavelength, float spread)
{
    int i;
    f->n = n;
    for (i = 0; i < n; i++) {
        float v[3], k = (1.0f + ph_range(r, -spread, spread)) / wavelength;
        ph_direction(r, v);
        f->kx[i] = k * v[0];
        f->ky[i] = k * v[1];
        f->kz[i] = k * v[2];
        f->phase[i] = bmvp_rng_uniform(r);
    }
}

float ph_noise_at(const ph_noise *f, const float p[3])
{
    float sum[8] = {0}, scale = sqrtf(2.0f / (float)f->n);
    int i, j;
    for (i = 0; i < f->n; i += 8)
        for (j = 0; j < 8; j++)
            sum[j] += ph_sine(ph_fraction(f->kx[i + j] * p[0] + f->ky[i + j] * p[1] + f->kz[i + j] * p[2] +
                                          f->phase[i + j]));
    return scale * (sum[0] + sum[1] + sum[2] + sum[3] + sum[4] + sum[5] + sum[6] + sum[7]);
}

float ph_noise_slope(const ph_noise *f, const float p[3], float *slope)
{
    float v[8] = {0}, x[8] = {0}, y[8] = {0}, z[8] = {0}, scale = sqrtf(2.0f / (float)f->n);
    int i, j;
    for (i = 0; i < f->n; i += 8)
        for (j = 0; j < 8; j++) {
            float kx = f->kx[i + j], ky = f->ky[i + j], kz = f->kz[i + j];
            float t = kx * p[0] + ky * p[1] + kz * p[2] + f->phase[i + j], c = ph_sine(ph_fraction(t + 0.25f));
            v[j] += ph_sine(ph_fraction(t));
            x[j] += c * kx;
            y[j] += c * ky;
            z[j] += c * kz;
        }
    for (j = 1; j < 8; j++) {
        v[0] += v[j];
        x[0] += x[j];
        y[0] += y[j];
        z[0] += z[j];
    }
    *slope = 6.2831853f * scale * ph_length(x[0], y[0], z[0]);
    return scale * v[0];
}

float ph_ellipsoid(float x, float y, float z, float rx, float ry, float rz)
{
    float a = x / rx, b = y / ry, c = z / rz, k0 = ph_length(a, b, c), k1 = ph_length(a / rx, b / ry, c / rz);
    return k1 > 1e-6f ? k0 * (1.0f - k0) / k1 : ph_min(rx, ph_min(ry, rz));
}

float ph_full_ellipsoid(float x, float y, float z, float rx, float ry, float rz)
{
    float a = x / rx, b = y / ry, c = z / rz, k0 = ph_length(a, b, c), k1 = ph_length(a / rx, b / ry, c / rz);
    float boxy = sqrtf(a * a * a * a + b * b * b * b + c * c * c * c), k = sqrtf(0.68f * k0 * k0 + 0.32f * boxy);
    return k1 > 1e-6f ? k0 * (1.0f - k) / k1 : ph_min(rx, ph_min(ry, rz));
}

float ph_tube_at(const ph_tube *t, float x, float y, float z)
{
    float bx = t->b[0] - t->a[0], by = t->b[1] - t->a[1], bz = t->b[2] - t->a[2];
    float ax = x - t->a[0], ay = y - t->a[1], az = z - t->a[2];
    float u = ph_clamp((ax * bx + ay * by + az * bz) / (bx * bx + by * by + bz * bz + 1e-9f), 0.0f, 1.0f);
    return ph_mix(t->ra, t->rb, u) - ph_length(ax - u * bx, ay - u * by, az - u * bz);
}

float ph_tubes_at(const ph_tube *t, int n, float x, float y, float z, float scale)
{
    float best = -1e9f;
    int i;
    for (i = 0; i < n; i++) {
        float u = ph_tube_at(&t[i], x, y, z) + (scale - 1.0f) * 0.5f * (t[i].ra + t[i].rb);
        best = ph_max(best, u);
    }
    return best;
}

const ph_tube ph_ventricle_tubes[7] = {
    {{11, 34, 3}, 3.0f, {8, 19, 9}, 5.6f},      /* frontal horn */
    {{8, 19, 9}, 5.6f, {8, 0, 18}, 5.0f},       /* body */
    {{8, 0, 18}, 5.0f, {11, -22, 21}, 5.2f},
    {{11, -22, 21}, 5.2f, {23, -42, 13}, 7.0f}, /* atrium */
    {{23, -42, 13}, 7.0f, {23, -68, 7}, 2.4f},  /* occipital horn */
    {{23, -42, 13}, 6.0f, {33, -28, -6}, 2.4f}, /* temporal horn */
    {{33, -28, -6}, 2.4f, {34, -8, -17}, 2.2f}
};
const ph_tube ph_caudate_tubes[3] = {
    {{13, 16, 5}, 6.2f, {14, 6, 11}, 6.4f},     /* head */
    {{14, 6, 11}, 5.4f, {15, -8, 18}, 3.4f},    /* body */
    {{15, -8, 18}, 3.4f, {19, -26, 20}, 2.2f}   /* tail */
};
const ph_tube ph_hippocampus_tubes[2] = {
    {{24, -34, -3}, 3.6f, {28, -22, -13}, 4.4f}, {{28, -22, -13}, 4.4f, {25, -7, -18}, 6.5f}
};
static const ph_tube ph_brainstem_tubes[] = {
    {{0, -21, -9}, 10.0f, {0, -26, -27}, 13.5f}, {{0, -28, -30}, 12.0f, {0, -38, -48}, 8.5f},
    {{0, -38, -48}, 8.5f, {0, -43, -64}, 6.5f}
};

float ph_cerebrum_at(const float p[3])
{
    float x = fabsf(p[0]), y = p[1] + 18.0f, z = p[2] - 20.0f;
    float egg = x * (1.0f + 0.0016f * (y + 7.0f)), height = z > 0.0f ? 58.0f : 40.0f;
    float main_part = ph_full_ellipsoid(egg, y, z, 65.0f, 85.0f, height);
    float temporal = ph_ellipsoid(x - 42.0f, p[1] + 14.0f, p[2] + 20.0f, 22.0f, 45.0f, 22.0f);
    return ph_smooth_max(main_part, temporal, 10.0f);
}

float ph_cerebellum_at(const float p[3])
{
    float lobe = ph_ellipsoid(fabsf(p[0]) - 21.0f, p[1] + 65.0f, p[2] + 34.0f, 31.0f, 29.0f, 21.0f);
    float vermis = ph_ellipsoid(p[0], p[1] + 63.0f, p[2] + 30.0f, 14.0f, 24.0f, 18.0f);
    return ph_smooth_max(lobe, vermis, 6.0f);
}

float ph_brainstem_at(const float p[3])
{
    return ph_tubes_at(ph_brainstem_tubes, PH_COUNT(ph_brainstem_tubes), p[0] * 0.92f, p[1], p[2], 1.0f);
}
