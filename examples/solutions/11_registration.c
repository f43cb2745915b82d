/* Solutions of lesson 11, with its functions: from which turns climb() comes home; climbing on the correlation. */
#define main lesson
#include "11_registration.c"
#undef main

/* 2. Pearson's correlation of the two brightnesses, moving seen through the matrix */
static double correlation_of(const bmvp_nii_volume *fixed, const bmvp_nii_volume *moving, const double m[16])
{
    double a = 0, b = 0, aa = 0, bb = 0, ab = 0;
    const double n = X * Y * Z;
    bmvp_nii_volume seen;
    int i;
    must(bmvp_nii_resample_to(&seen, moving, fixed, m, BMVP_NII_LINEAR, 0, &err));
    for (i = 0; i < X * Y * Z; ++i) {
        const double x = (double)fixed->data[i], y = (double)seen.data[i];
        a += x, b += y, aa += x * x, bb += y * y, ab += x * y;
    }
    bmvp_nii_volume_free(&seen);
    return (ab - a * b / n) / sqrt((aa - a * a / n) * (bb - b * b / n));
}

static double climb_correlation(const bmvp_nii_volume *fixed, const bmvp_nii_volume *moving, double pose[6],
                                double m[16])
{
    double step = 4, best, now, was;
    int k, sweep;
    matrix_of(m, pose), best = correlation_of(fixed, moving, m);
    for (sweep = 0; step > 0.2 && sweep < SWEEPS; ++sweep) {
        was = best;
        for (k = 0; k < 12; ++k) {
            const double d = k % 2 ? -step : step;
            pose[k / 2] += d;
            matrix_of(m, pose);
            now = correlation_of(fixed, moving, m);
            if (now > best) best = now;
            else pose[k / 2] -= d;
        }
        if (best < was + 0.001) step /= 2;
    }
    matrix_of(m, pose);
    return best;
}

int main(void)
{
    static float joint[BINS * BINS];
    const double moved[6] = { 5, -6, 3, 4, -3, 7 };
    double home[6] = { 0 }, truth[16], m[16], distance[7], value, at_truth, off, itself;
    bmvp_nii_volume t1, t2;
    int i;
    matrix_of(m, home), matrix_of(truth, moved);
    scan(&t1, m, 0), scan(&t2, truth, 1);
    itself = correlation_of(&t1, &t1, m); /* m is no movement yet */
    for (i = 0; i < 7; ++i) {
        double turned[6] = { 0 };
        turned[5] = 30 * i;
        value = climb(&t1, &t2, turned, m, joint);
        distance[i] = bmvp_nii_matrix_distance(m, truth, &t1);
        printf("turned by %d degrees: NMI %.3f, %.1f mm from the truth\n", 30 * i, value, distance[i]);
    }
    value = climb_correlation(&t1, &t2, home, m);
    at_truth = correlation_of(&t1, &t2, truth);
    off = bmvp_nii_matrix_distance(m, truth, &t1);
    printf("climbed on the correlation: %.3f, at the truth %.3f; %.1f mm from it\n", value, at_truth, off);
    bmvp_nii_volume_free(&t1), bmvp_nii_volume_free(&t2);
    return !(distance[3] < 1) || !(distance[6] > 10) || !(off > 1) || !(off < 5) ||
           !(fabs(itself - 1) < 1e-6);
}
