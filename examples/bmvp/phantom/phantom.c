/* phantom.c - `bmvp phantom`: a data set of multi-modal brain phantoms, made from a seed

   What it makes: skull-stripped heads with folded cortex, white matter, ventricles, deep grey matter, brainstem,
   cerebellum and an arterial tree; in a share of them a tumour of three parts. Geometry is a set of implicit
   functions in millimetres (>>shapes), deformed per case (>>case); each voxel gets fractions of tissues
   (>>anatomy, >>tumour), fractions become signal by the sequences' signal equations (>>physics), then come coil
   bias, Rician noise, int16 rounding and a file (>>render, >>write).

   What it is not: an atlas. Shapes are plausible, not measured; edges of the field of view, motion, distortion and
   skull are absent. It is meant for experiments that anybody can repeat, not for claims about patients.

   Head coordinates ("template"): millimetres, x to the right, y to the front, z up, origin near the anterior
   commissure; the brain spans about x -70..70, y -105..70, z -65..78. "World" is the file's millimetre space with its
   origin in the middle of the field of view. Distances of shapes are positive inside.

   Determinism: every random number is Philox(seed, stream, case, item), so case i depends on seed, i and the options
   alone: neither on the number of cases nor on threads. Its anatomy does not depend on the modalities asked for. */
#include "commands/commands.h"
#include "commands/cli.h"
#include "data/files.h"
#include "bmvp_tensor.h"
#include "bmvp_nifti.h"

#include <errno.h>
#include <math.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* >>shapes --------------------------------------------------------------------------------------------------------- */

/* Streams of random numbers; any distinct values. */
enum { PH_STREAM_CLASS = 0x50480001, PH_STREAM_ANATOMY, PH_STREAM_TUMOUR, PH_STREAM_VESSELS, PH_STREAM_GRID,
       PH_STREAM_TISSUE, PH_STREAM_SEQUENCE, PH_STREAM_MISSING, PH_STREAM_NOISE };

enum { PH_MAX_WAVES = 32 };

/* Random field of mean 0 and variance 1 with a narrow band of wavelengths: a sum of plane waves. Its zero set is a
   labyrinth of sheets half a wavelength apart, which is what sulci look like. */
typedef struct ph_noise {
    int n;
    float kx[PH_MAX_WAVES], ky[PH_MAX_WAVES], kz[PH_MAX_WAVES];    /* cycles per mm */
    float phase[PH_MAX_WAVES];                                     /* cycles */
} ph_noise;

/* A cone with round ends from a (radius ra) to b (radius rb). */
typedef struct ph_tube {
    float a[3], ra, b[3], rb;
} ph_tube;

static float ph_min(float a, float b) { return a < b ? a : b; }
static float ph_max(float a, float b) { return a > b ? a : b; }
static float ph_clamp(float x, float lo, float hi) { return x < lo ? lo : x > hi ? hi : x; }
static float ph_mix(float a, float b, float t) { return a + (b - a) * t; }

/* Share of a voxel of width h that lies inside a surface at distance d from its centre. */
static float ph_inside(float d, float h) { return ph_clamp(d / h + 0.5f, 0.0f, 1.0f); }

/* Union with a rounded seam of width k. */
static float ph_smooth_max(float a, float b, float k)
{
    float overlap = ph_max(k - fabsf(a - b), 0.0f) / k;
    return ph_max(a, b) + 0.25f * k * overlap * overlap;
}

static float ph_length(float x, float y, float z) { return sqrtf(x * x + y * y + z * z); }

static float ph_range(bmvp_rng *r, float lo, float hi) { return ph_mix(lo, hi, bmvp_rng_uniform(r)); }

/* sin(2 pi t) for t in [-0.5, 0.5], error below 0.001: two parabolas, then one correction. */
static float ph_sine(float t)
{
    float y = 8.0f * t - 16.0f * t * fabsf(t);
    return 0.225f * (y * fabsf(y) - y) + y;
}

/* t minus its nearest integer, for |t| < 1000. */
static float ph_fraction(float t) { return t - (float)((int)(t + 1024.5f) - 1024); }

static void ph_direction(bmvp_rng *r, float v[3])
{
    float z = ph_range(r, -1.0f, 1.0f), turn = bmvp_rng_uniform(r) - 0.5f, s = sqrtf(1.0f - z * z);
    v[0] = s * ph_sine(ph_fraction(turn + 0.25f));
    v[1] = s * ph_sine(turn);
    v[2] = z;
}

/* n: a multiple of 8, up to PH_MAX_WAVES; wavelength in mm; spread 0.3: wave numbers within 30 % of it. */
static void ph_noise_init(ph_noise *f, bmvp_rng *r, int n, float wavelength, float spread)
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

/* Value at p. Eight waves side by side, which compilers turn into vector code. */
static float ph_noise_at(const ph_noise *f, const float p[3])
{
    float sum[8] = {0}, scale = sqrtf(2.0f / (float)f->n);
    int i, j;
    for (i = 0; i < f->n; i += 8)
        for (j = 0; j < 8; j++)
            sum[j] += ph_sine(ph_fraction(f->kx[i + j] * p[0] + f->ky[i + j] * p[1] + f->kz[i + j] * p[2] +
                                          f->phase[i + j]));
    return scale * (sum[0] + sum[1] + sum[2] + sum[3] + sum[4] + sum[5] + sum[6] + sum[7]);
}

/* Value and length of the gradient per mm. */
static float ph_noise_slope(const ph_noise *f, const float p[3], float *slope)
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

/* First-order distance to an ellipsoid with half axes rx, ry, rz around c. */
static float ph_ellipsoid(float x, float y, float z, float rx, float ry, float rz)
{
    float a = x / rx, b = y / ry, c = z / rz, k0 = ph_length(a, b, c), k1 = ph_length(a / rx, b / ry, c / rz);
    return k1 > 1e-6f ? k0 * (1.0f - k0) / k1 : ph_min(rx, ph_min(ry, rz));
}

/* The same for a body between an ellipsoid and a box: heads are fuller than ellipsoids. */
static float ph_full_ellipsoid(float x, float y, float z, float rx, float ry, float rz)
{
    float a = x / rx, b = y / ry, c = z / rz, k0 = ph_length(a, b, c), k1 = ph_length(a / rx, b / ry, c / rz);
    float boxy = sqrtf(a * a * a * a + b * b * b * b + c * c * c * c), k = sqrtf(0.68f * k0 * k0 + 0.32f * boxy);
    return k1 > 1e-6f ? k0 * (1.0f - k) / k1 : ph_min(rx, ph_min(ry, rz));
}

static float ph_tube_at(const ph_tube *t, float x, float y, float z)
{
    float bx = t->b[0] - t->a[0], by = t->b[1] - t->a[1], bz = t->b[2] - t->a[2];
    float ax = x - t->a[0], ay = y - t->a[1], az = z - t->a[2];
    float u = ph_clamp((ax * bx + ay * by + az * bz) / (bx * bx + by * by + bz * bz + 1e-9f), 0.0f, 1.0f);
    return ph_mix(t->ra, t->rb, u) - ph_length(ax - u * bx, ay - u * by, az - u * bz);
}

static float ph_tubes_at(const ph_tube *t, int n, float x, float y, float z, float scale)
{
    float best = -1e9f;
    int i;
    for (i = 0; i < n; i++) {
        float u = ph_tube_at(&t[i], x, y, z) + (scale - 1.0f) * 0.5f * (t[i].ra + t[i].rb);
        best = ph_max(best, u);
    }
    return best;
}

/* One side; x is the distance from the midline. Cross-sections are flattened by PH_VENTRICLE_FLAT in x. */
#define PH_VENTRICLE_FLAT 1.35f
static const ph_tube ph_ventricle_tubes[] = {
    {{11, 34, 3}, 3.0f, {8, 19, 9}, 5.6f},      /* frontal horn */
    {{8, 19, 9}, 5.6f, {8, 0, 18}, 5.0f},       /* body */
    {{8, 0, 18}, 5.0f, {11, -22, 21}, 5.2f},
    {{11, -22, 21}, 5.2f, {23, -42, 13}, 7.0f}, /* atrium */
    {{23, -42, 13}, 7.0f, {23, -68, 7}, 2.4f},  /* occipital horn */
    {{23, -42, 13}, 6.0f, {33, -28, -6}, 2.4f}, /* temporal horn */
    {{33, -28, -6}, 2.4f, {34, -8, -17}, 2.2f}
};
static const ph_tube ph_caudate_tubes[] = {
    {{13, 16, 5}, 6.2f, {14, 6, 11}, 6.4f},     /* head */
    {{14, 6, 11}, 5.4f, {15, -8, 18}, 3.4f},    /* body */
    {{15, -8, 18}, 3.4f, {19, -26, 20}, 2.2f}   /* tail */
};
static const ph_tube ph_hippocampus_tubes[] = {
    {{24, -34, -3}, 3.6f, {28, -22, -13}, 4.4f}, {{28, -22, -13}, 4.4f, {25, -7, -18}, 6.5f}
};
static const ph_tube ph_brainstem_tubes[] = {
    {{0, -21, -9}, 10.0f, {0, -26, -27}, 13.5f}, {{0, -28, -30}, 12.0f, {0, -38, -48}, 8.5f},
    {{0, -38, -48}, 8.5f, {0, -43, -64}, 6.5f}
};

#define PH_COUNT(a) ((int)(sizeof(a) / sizeof((a)[0])))

/* Hull of the cerebrum: an egg that is flat below, and the temporal lobes. */
static float ph_cerebrum_at(const float p[3])
{
    float x = fabsf(p[0]), y = p[1] + 18.0f, z = p[2] - 20.0f;
    float egg = x * (1.0f + 0.0016f * (y + 7.0f)), height = z > 0.0f ? 58.0f : 40.0f;
    float main_part = ph_full_ellipsoid(egg, y, z, 65.0f, 85.0f, height);
    float temporal = ph_ellipsoid(x - 42.0f, p[1] + 14.0f, p[2] + 20.0f, 22.0f, 45.0f, 22.0f);
    return ph_smooth_max(main_part, temporal, 10.0f);
}

static float ph_cerebellum_at(const float p[3])
{
    float lobe = ph_ellipsoid(fabsf(p[0]) - 21.0f, p[1] + 65.0f, p[2] + 34.0f, 31.0f, 29.0f, 21.0f);
    float vermis = ph_ellipsoid(p[0], p[1] + 63.0f, p[2] + 30.0f, 14.0f, 24.0f, 18.0f);
    return ph_smooth_max(lobe, vermis, 6.0f);
}

static float ph_brainstem_at(const float p[3])
{
    return ph_tubes_at(ph_brainstem_tubes, PH_COUNT(ph_brainstem_tubes), p[0] * 0.92f, p[1], p[2], 1.0f);
}

/* >>physics -------------------------------------------------------------------------------------------------------- */

enum { PH_CSF, PH_GREY, PH_WHITE, PH_STRIATUM, PH_PALLIDUM, PH_THALAMUS, PH_NECROSIS, PH_SOLID, PH_ENHANCING, PH_OEDEMA,
       PH_BLOOD, PH_TISSUES };

/* Times in ms at 3 T, proton density relative to water, diffusion in 1e-3 mm^2/s, gadolinium (after injection) in
   mmol/l. */
typedef struct ph_tissue {
    float t1, t2, t2_star, density, diffusion, gadolinium;
} ph_tissue;

/* T1, T2 of grey and white matter: Wansapura et al., J Magn Reson Imaging 1999 (3 T). T2* of cortex, white matter and
   putamen: Peters et al., Magn Reson Imaging 2007 (3 T). T1 of CSF: Rooney et al., Magn Reson Med 2007; its T2, about
   2 s, is a round value. Blood: Stanisz et al., Magn Reson Med 2005 (3 T). Proton densities: Kwan, Evans and Pike,
   IEEE Trans Med Imaging 1999 (BrainWeb). Diffusion of cortex, deep grey and white matter: Helenius et al., AJNR 2002;
   of CSF: free water at body temperature. Deep grey matter lies between cortex and white matter, with iron (short T2
   and T2*) in the pallidum: our interpolation. The tumour rows are ours too: water content and relaxation times above
   normal tissue in the order solid < oedema < necrosis as gliomas show them, chosen for contrast, not measured. */
static const ph_tissue ph_tissues[PH_TISSUES] = {
    /* T1,   T2,  T2*, density, diffusion, gadolinium */
    {4300, 2000, 1000, 1.00f, 3.00f, 0.00f},    /* CSF */
    {1331,  110,   66, 0.86f, 0.89f, 0.02f},    /* cortex */
    { 832,   80,   53, 0.77f, 0.70f, 0.01f},    /* white matter */
    {1220,   92,   32, 0.84f, 0.75f, 0.02f},    /* caudate, putamen */
    { 980,   72,   25, 0.79f, 0.75f, 0.02f},    /* pallidum */
    {1120,   92,   48, 0.82f, 0.75f, 0.02f},    /* thalamus */
    {2500,  260,  180, 0.95f, 1.90f, 0.03f},    /* necrosis */
    {1600,  165,   90, 0.89f, 1.40f, 0.03f},    /* solid tumour without enhancement */
    {1450,  125,   70, 0.87f, 1.05f, 0.40f},    /* enhancing tumour */
    {1300,  140,   80, 0.87f, 1.30f, 0.01f},    /* oedema */
    {1932,  275,   60, 0.90f, 1.50f, 1.20f}     /* blood */
};

/* Relaxivity of gadobutrol in human plasma at 3 T, 1/(mmol/l)/ms: Szomolanyi et al., Invest Radiol 2019. */
#define PH_RELAXIVITY 0.00497

enum { PH_FLAIR, PH_T1, PH_T1C, PH_T2, PH_MRA, PH_PD, PH_DWI, PH_ADC, PH_MODALITIES };
#define PH_MODALITY_WORDS "flair|t1|t1c|t2|mra|pd|dwi|adc"
static const char *const ph_modality_names[PH_MODALITIES] = {"flair", "t1", "t1c", "t2", "mra", "pd", "dwi", "adc"};

typedef enum ph_kind { PH_SPIN_ECHO, PH_GRADIENT_ECHO, PH_INVERSION, PH_DIFFUSION } ph_kind;

/* A row of ranges: each case draws its own sequence from it. */
typedef struct ph_protocol {
    ph_kind kind;
    float tr[2], te[2], flip[2];    /* ms, ms, degrees */
    float noise[2];                 /* of the white matter's signal */
    float flow;                     /* signal of flowing blood relative to blood at rest: spin echoes lose it */
} ph_protocol;

static const ph_protocol ph_protocols[PH_MODALITIES] = {
    {PH_INVERSION,     {8000, 10000}, {100, 130}, {90, 90}, {0.025f, 0.06f}, 0.15f},
    {PH_GRADIENT_ECHO, {14, 26},      {3, 6},     {20, 30}, {0.015f, 0.04f}, 1.3f},
    {PH_GRADIENT_ECHO, {14, 26},      {3, 6},     {20, 30}, {0.015f, 0.04f}, 1.3f},
    {PH_SPIN_ECHO,     {3500, 6000},  {80, 110},  {90, 90}, {0.025f, 0.06f}, 0.15f},
    {PH_GRADIENT_ECHO, {20, 26},      {3, 5},     {18, 25}, {0.030f, 0.08f}, 1.0f},
    {PH_SPIN_ECHO,     {5500, 9000},  {8, 20},    {90, 90}, {0.015f, 0.04f}, 0.3f},
    {PH_DIFFUSION,     {5000, 8000},  {75, 95},   {90, 90}, {0.030f, 0.08f}, 0.05f},
    {PH_DIFFUSION,     {5000, 8000},  {75, 95},   {90, 90}, {0.010f, 0.03f}, 0.05f}
};

/* The other way to T1 weighting: a case uses one of the two for both t1 and t1c. */
static const ph_protocol ph_t1_spin_echo = {PH_SPIN_ECHO, {450, 650}, {8, 15}, {90, 90}, {0.015f, 0.04f}, 0.4f};

#define PH_B_VALUE 1.0 /* 1e3 s/mm^2 */

typedef struct ph_sequence {
    float signal[PH_TISSUES];      /* of a full voxel; white matter = gain */
    float fresh_blood;             /* of blood that has seen no pulse before (gradient echoes) */
    float weighted[PH_TISSUES];    /* adc only: the diffusion-weighted signal */
    float sigma;                   /* of the noise in both channels */
    float bias[9];                 /* exp(polynomial of degree 2 in world / 120 mm) */
    float slope;                   /* scl_slope of the file */
} ph_sequence;

/* Spoiled gradient echo in the steady state (Ernst) after n pulses: n < 0 is the steady state itself. */
static double ph_gradient_echo(const ph_tissue *s, double t1, double tr, double te, double flip, double n)
{
    double e1 = exp(-tr / t1), c = cos(flip), steady = (1.0 - e1) / (1.0 - c * e1);
    double mz = n < 0 ? steady : steady + (1.0 - steady) * pow(c * e1, n);
    return s->density * sin(flip) * mz * exp(-te / s->t2_star);
}

static double ph_spin_echo(const ph_tissue *s, double t1, double tr, double te)
{
    return s->density * (1.0 - exp(-tr / t1)) * exp(-te / s->t2);
}

/* Magnitude of a spin echo, ti after a 180 degree pulse. */
static double ph_inversion(const ph_tissue *s, double tr, double te, double ti)
{
    return s->density * fabs(1.0 - 2.0 * exp(-ti / s->t1) + exp(-tr / s->t1)) * exp(-te / s->t2);
}

/* Fills signals, noise, bias, gain and slope of one modality of a case. tissue: the case's own values. */
static void ph_sequence_draw(ph_sequence *q, int modality, const ph_tissue *tissue, uint64_t seed, uint32_t index)
{
    int contrast = modality == PH_T1C, family = contrast ? PH_T1 : modality, i;
    bmvp_rng shared = bmvp_rng_make(seed, PH_STREAM_SEQUENCE, index, (uint32_t)family);
    bmvp_rng own = bmvp_rng_make(seed, PH_STREAM_SEQUENCE, index, (uint32_t)(PH_MODALITIES + modality));
    int spin = family == PH_T1 && bmvp_rng_uniform(&shared) < 0.4f;
    const ph_protocol *p = spin ? &ph_t1_spin_echo : &ph_protocols[modality];
    double tr = ph_range(&shared, p->tr[0], p->tr[1]), te = ph_range(&shared, p->te[0], p->te[1]);
    double flip = ph_range(&shared, p->flip[0], p->flip[1]) * 3.14159265 / 180.0;
    double null = tissue[PH_CSF].t1 * log(2.0 / (1.0 + exp(-tr / tissue[PH_CSF].t1)));    /* TI at which CSF is dark */
    double ti = null * ph_range(&shared, 0.95f, 1.03f), gain, white;
    for (i = 0; i < PH_TISSUES; i++) {
        const ph_tissue *s = &tissue[i];
        double t1 = contrast ? 1.0 / (1.0 / s->t1 + PH_RELAXIVITY * s->gadolinium) : s->t1, value;
        if (p->kind == PH_GRADIENT_ECHO) value = ph_gradient_echo(s, t1, tr, te, flip, -1);
        else if (p->kind == PH_INVERSION) value = ph_inversion(s, tr, te, ti);
        else value = ph_spin_echo(s, t1, tr, te);
        if (i == PH_BLOOD) value *= contrast ? 1.0 : p->flow;
        q->weighted[i] = (float)(value * exp(-PH_B_VALUE * s->diffusion));
        q->signal[i] = modality == PH_DWI ? q->weighted[i] : (float)value;
    }
    q->fresh_blood = q->signal[PH_BLOOD];
    if (modality == PH_MRA)
        q->fresh_blood = (float)ph_gradient_echo(&tissue[PH_BLOOD], tissue[PH_BLOOD].t1, tr, te, flip, 0);
    white = q->signal[PH_WHITE];
    gain = 250.0 * exp(ph_range(&own, 0.0f, 1.3f));
    for (i = 0; i < PH_TISSUES; i++) {
        q->signal[i] = (float)(q->signal[i] / white * gain);
        q->weighted[i] = (float)(q->weighted[i] / white * gain);
    }
    q->fresh_blood = (float)(q->fresh_blood / white * gain);
    q->sigma = (float)gain * ph_range(&own, p->noise[0], p->noise[1]);
    for (i = 0; i < 9; i++) q->bias[i] = (modality == PH_ADC ? 0.0f : 0.13f) * bmvp_rng_normal(&own);
    q->slope = bmvp_rng_uniform(&own) < 0.6f || modality == PH_ADC ? 1.0f : ph_range(&own, 0.4f, 2.5f);
}

/* >>case ----------------------------------------------------------------------------------------------------------- */

enum { PH_HEALTHY, PH_LOW_GRADE, PH_HIGH_GRADE };

typedef struct ph_options {
    const char *out;
    int64_t cases, size, seed, threads;
    uint32_t modalities;
    double fov, tumours, high_grade, missing, thick;
    int oriented, force;    /* oriented: 0 mixed, 1 all RAS */
} ph_options;

typedef struct ph_tumour {
    float centre[3], axis[3];       /* axis: stretch along x, y, z */
    float radius, core, oedema;     /* mm; core relative to radius, 0 = none; width of the oedema in mm */
    float push;                     /* mass effect, mm */
    float nodule[3], nodule_radius; /* enhancing nodule of a low-grade tumour, radius 0 = none */
    ph_noise outline, inner, spread;
} ph_tumour;

enum { PH_LATTICE = 30, PH_MAX_VESSELS = 1024 };

typedef struct ph_vessel {
    ph_tube tube;       /* world mm */
    uint8_t fresh;      /* 255: blood that has seen no pulse; 0: saturated, or a vein */
} ph_vessel;

/* Everything is computed in RAS order (x fastest); only storing a voxel knows the file's axes. */
typedef struct ph_grid {
    int64_t dim[3];          /* voxels along world x, y, z */
    float step[3];           /* mm along world x, y, z */
    double centre[3];        /* where the header puts the middle of the field of view */
    int world_axis[3];       /* of each file axis */
    int reversed[3];         /* of each file axis: runs against its world axis */
} ph_grid;

typedef struct ph_case {
    int index, grade;
    uint32_t have;                              /* bit per modality */
    float linear[9], offset[3];                 /* world -> template, before the warp */
    float age;                                  /* 0..1: wide ventricles and sulci */
    float sulcus_width, sulcus_depth, cortex, rim, ventricle;
    ph_noise folds;
    float reach;                                /* half width of the lattice below, mm */
    float slow[PH_LATTICE * PH_LATTICE * PH_LATTICE][4];    /* warp in mm (x, y, z); a field of variance 1 */
    ph_tumour tumour;
    ph_grid grid;
    ph_tissue tissue[PH_TISSUES];
    int n_vessels;
    ph_vessel vessels[PH_MAX_VESSELS];
} ph_case;

/* The slow fields at a world point, trilinear between lattice nodes. */
static void ph_slow_at(const ph_case *c, const float world[3], float u[4])
{
    int i0[3], a, corner;
    float f[3];
    for (a = 0; a < 3; a++) {
        float t = ph_clamp((world[a] + c->reach) / (2.0f * c->reach), 0.0f, 1.0f) * (float)(PH_LATTICE - 1);
        i0[a] = (int)t < PH_LATTICE - 2 ? (int)t : PH_LATTICE - 2;
        f[a] = t - (float)i0[a];
    }
    u[0] = u[1] = u[2] = u[3] = 0.0f;
    for (corner = 0; corner < 8; corner++) {
        int dx = corner & 1, dy = corner >> 1 & 1, dz = corner >> 2;
        float w = (dx ? f[0] : 1 - f[0]) * (dy ? f[1] : 1 - f[1]) * (dz ? f[2] : 1 - f[2]);
        const float *node = c->slow[((i0[2] + dz) * PH_LATTICE + i0[1] + dy) * PH_LATTICE + i0[0] + dx];
        for (a = 0; a < 4; a++) u[a] += w * node[a];
    }
}

/* p[0..2]: template position; p[3]: the slow field there. */
static void ph_to_template(const ph_case *c, const float world[3], float p[4])
{
    const float *m = c->linear;
    int a;
    ph_slow_at(c, world, p);
    for (a = 0; a < 3; a++, m += 3) p[a] += m[0] * world[0] + m[1] * world[1] + m[2] * world[2] + c->offset[a];
}

/* Inverse by fixed-point steps: the linear part is near the identity and the warp is small. */
static void ph_to_world(const ph_case *c, const float p[3], float world[3])
{
    float q[4];
    int step, a;
    for (a = 0; a < 3; a++) world[a] = p[a] - c->offset[a];
    for (step = 0; step < 8; step++) {
        ph_to_template(c, world, q);
        for (a = 0; a < 3; a++) world[a] += p[a] - q[a];
    }
}

static void ph_draw_slow(ph_case *c, bmvp_rng *r, float reach)
{
    ph_noise field[4];
    float amplitude = ph_range(r, 1.2f, 2.6f);
    int x, y, z, a;
    for (a = 0; a < 4; a++) ph_noise_init(&field[a], r, 8, a < 3 ? 90.0f : 45.0f, 0.35f);
    c->reach = reach;
    for (z = 0; z < PH_LATTICE; z++)
        for (y = 0; y < PH_LATTICE; y++)
            for (x = 0; x < PH_LATTICE; x++) {
                const float scale = 2.0f * reach / (float)(PH_LATTICE - 1);
                float p[3], *node = c->slow[(z * PH_LATTICE + y) * PH_LATTICE + x];
                p[0] = (float)x * scale - reach;
                p[1] = (float)y * scale - reach;
                p[2] = (float)z * scale - reach;
                for (a = 0; a < 4; a++) node[a] = (a < 3 ? amplitude : 1.0f) * ph_noise_at(&field[a], p);
            }
}

/* Size, pose, folding, age. */
static void ph_draw_anatomy(ph_case *c, uint64_t seed, float fov)
{
    bmvp_rng r = bmvp_rng_make(seed, PH_STREAM_ANATOMY, (uint32_t)c->index, 0);
    float size = ph_range(&r, 0.90f, 1.01f), angle[3], s[3], k[3], m[9];
    static const float middle[3] = {0, -18, 6};    /* template point in the middle of the field of view */
    int a, b;
    for (a = 0; a < 3; a++) {
        float axis = size * ph_range(&r, 0.96f, 1.04f);
        angle[a] = ph_range(&r, -0.1f, 0.1f);
        s[a] = sinf(angle[a]);
        k[a] = cosf(angle[a]);
        m[a] = 1.0f / axis;
    }
    c->linear[0] = k[2] * k[1];
    c->linear[1] = k[2] * s[1] * s[0] - s[2] * k[0];
    c->linear[2] = k[2] * s[1] * k[0] + s[2] * s[0];
    c->linear[3] = s[2] * k[1];
    c->linear[4] = s[2] * s[1] * s[0] + k[2] * k[0];
    c->linear[5] = s[2] * s[1] * k[0] - k[2] * s[0];
    c->linear[6] = -s[1];
    c->linear[7] = k[1] * s[0];
    c->linear[8] = k[1] * k[0];
    for (a = 0; a < 3; a++)
        for (b = 0; b < 3; b++) c->linear[3 * a + b] *= m[a];
    for (a = 0; a < 3; a++) c->offset[a] = middle[a] + ph_range(&r, -5.0f, 5.0f);
    c->age = bmvp_rng_uniform(&r);
    c->ventricle = 0.75f + 0.7f * c->age + ph_range(&r, -0.1f, 0.15f);
    c->sulcus_width = 0.35f + 0.65f * c->age + ph_range(&r, 0.0f, 0.15f);
    c->sulcus_depth = ph_range(&r, 16.0f, 21.0f);
    c->cortex = ph_range(&r, 2.6f, 3.2f) - 0.3f * c->age;
    c->rim = ph_range(&r, 1.2f, 2.2f) + 1.0f * c->age;
    ph_noise_init(&c->folds, &r, 32, ph_range(&r, 19.0f, 23.0f), 0.3f);
    ph_draw_slow(c, &r, ph_min(0.5f * fov, 125.0f));
}

/* Class of a case. Golden-ratio steps spread the classes evenly, so that a small set has its share of each. */
static int ph_draw_grade(const ph_options *o, int index)
{
    bmvp_rng r = bmvp_rng_make((uint64_t)o->seed, PH_STREAM_CLASS, 0, 0);
    double u = fmod(bmvp_rng_uniform(&r) + 0.6180339887498949 * (double)(index + 1), 1.0);
    if (u >= o->tumours) return PH_HEALTHY;
    return u < o->tumours * o->high_grade ? PH_HIGH_GRADE : PH_LOW_GRADE;
}

/* Which modalities a case has: all, or in a share of the cases at least one and not all. */
static uint32_t ph_draw_have(const ph_options *o, int index)
{
    bmvp_rng r = bmvp_rng_make((uint64_t)o->seed, PH_STREAM_MISSING, (uint32_t)index, 0);
    int list[PH_MODALITIES], n = 0, m, drop;
    uint32_t have = o->modalities;
    for (m = 0; m < PH_MODALITIES; m++)
        if (have >> m & 1) list[n++] = m;
    if (!(bmvp_rng_uniform(&r) < o->missing) || n < 2) return have;
    drop = 1 + (int)(bmvp_rng_uniform(&r) * bmvp_rng_uniform(&r) * (float)(n - 1));    /* few more often than many */
    while (drop-- > 0) {
        int i = (int)bmvp_rng_below(&r, (uint32_t)n);
        have &= ~((uint32_t)1 << list[i]);
        list[i] = list[--n];
    }
    return have;
}

static void ph_draw_tissue(ph_case *c, uint64_t seed)
{
    bmvp_rng r = bmvp_rng_make(seed, PH_STREAM_TISSUE, (uint32_t)c->index, 0);
    int i;
    for (i = 0; i < PH_TISSUES; i++) {
        float spread = i >= PH_NECROSIS && i <= PH_OEDEMA ? 0.08f : 0.03f;
        c->tissue[i] = ph_tissues[i];
        c->tissue[i].t1 *= expf(spread * bmvp_rng_normal(&r));
        c->tissue[i].t2 *= expf(spread * bmvp_rng_normal(&r));
        c->tissue[i].t2_star *= expf(spread * bmvp_rng_normal(&r));
        c->tissue[i].density = ph_min(c->tissue[i].density * expf(0.01f * bmvp_rng_normal(&r)), 1.0f);
        c->tissue[i].diffusion *= expf(spread * bmvp_rng_normal(&r));
        c->tissue[i].gadolinium *= expf(3.0f * spread * bmvp_rng_normal(&r));
    }
}

/* Orientation, voxel size and header origin. */
static void ph_draw_grid(ph_case *c, const ph_options *o)
{
    static const char *const codes[] = {"RAS", "LPS", "LAS", "PIR", "SPL", "RPI", "LIA", "ASL"};
    static const float share[] = {0.35f, 0.55f, 0.65f, 0.72f, 0.79f, 0.86f, 0.93f, 1.0f};
    bmvp_rng r = bmvp_rng_make((uint64_t)o->seed, PH_STREAM_GRID, (uint32_t)c->index, 0);
    const char *letters = "RLAPSI";
    float u = bmvp_rng_uniform(&r), voxel = (float)o->fov / (float)o->size, thickness;
    float pick = bmvp_rng_uniform(&r), which = bmvp_rng_uniform(&r), want = ph_range(&r, 3.0f, 6.5f);
    int i = 0, a, slice = which < 0.6f ? 2 : which < 0.8f ? 0 : 1;
    while (i < PH_COUNT(codes) - 1 && u >= share[i]) i++;
    if (o->oriented) i = 0;
    thickness = ph_max(want, 1.5f * voxel);
    for (a = 0; a < 3; a++) {
        int thick = a == slice && pick < o->thick, letter = (int)(strchr(letters, codes[i][a]) - letters);
        c->grid.step[a] = thick ? thickness : voxel;
        c->grid.dim[a] = thick ? (int64_t)(o->fov / (double)thickness + 0.5) : o->size;
        c->grid.centre[a] = floor(100.0 * (double)ph_range(&r, -20.0f, 20.0f)) / 100.0;
        c->grid.world_axis[a] = letter / 2;
        c->grid.reversed[a] = letter % 2;
    }
}

/* >>anatomy -------------------------------------------------------------------------------------------------------- */

/* Hands a share f of the voxel to one tissue. */
static void ph_blend(float *w, int tissue, float f)
{
    int i;
    if (!(f > 0.0f)) return;
    for (i = 0; i < PH_TISSUES; i++) w[i] *= 1.0f - f;
    w[tissue] += f;
}

/* Distance to the nearest sulcus (negative inside it). Folds are drawn in coordinates stretched along the rays from the
   middle of the hemisphere, so that the sheets stand upright on the surface. */
static float ph_sulcus_at(const ph_case *c, const float p[4], float depth)
{
    float core = ph_ellipsoid(p[0], p[1] + 14.0f, p[2] - 8.0f, 36.0f, 54.0f, 26.0f);    /* none around the ventricles */
    float over = ph_max(0.0f, depth - c->sulcus_depth * (1.0f + 0.3f * p[3]));
    float side = p[0] < 0.0f ? -1.0f : 1.0f, v[3], s[3], value, slope, radius, stretch;
    const float typical = 0.3f;    /* rms of the gradient at a wavelength of 21 mm */
    if (ph_max(core, over) > 8.0f) return ph_max(core, over);    /* deep white matter: which sulcus does not matter */
    v[0] = p[0] - side * 22.0f;
    v[1] = p[1] + 18.0f;
    v[2] = p[2] - 12.0f;
    radius = ph_max(ph_length(v[0], v[1], v[2]), 8.0f);
    stretch = sqrtf(50.0f / radius);
    s[0] = side * 22.0f + v[0] * stretch;
    s[1] = -18.0f + v[1] * stretch;
    s[2] = 12.0f + v[2] * stretch;
    value = ph_noise_slope(&c->folds, s, &slope);
    value = fabsf(value) / (sqrtf(slope * slope + 0.1f * typical * typical) * stretch);
    value = sqrtf(value * value + over * over) - c->sulcus_width - 0.1f * ph_max(0.0f, 5.0f - depth);
    return ph_max(value, core);
}

/* Distance to the Sylvian fissure and the sheet of fluid over the insula. */
static float ph_sylvian_at(const ph_case *c, const float p[4])
{
    float x = fabsf(p[0]), wave = 2.5f * p[3] + 3.0f * ph_sine(ph_fraction(0.03f * p[1]));
    float z = (p[2] + 4.0f + 0.5f * (p[1] - 5.0f)) * 0.894f + wave;
    float out = ph_max(0.0f, 37.0f - x), front = ph_max(0.0f, p[1] - 24.0f), back = ph_max(0.0f, -42.0f - p[1]);
    float fissure = ph_length(z, out, front + back);
    float above = ph_max(0.0f, fabsf(z) - 9.0f), along = ph_max(0.0f, fabsf(p[1] + 2.0f) - 19.0f);
    float insula = ph_length(x - 38.0f - 0.8f * p[3], above, along);
    return ph_min(fissure, insula) - 0.4f - c->sulcus_width;
}

/* Cortex, white matter and the fluid around, as fractions. hull: distances to cerebrum, cerebellum, brainstem. */
static void ph_cerebrum(const ph_case *c, const float p[4], const float hull[3], float h, float *w)
{
    float callosum = ph_ellipsoid(p[0] * 0.2f, p[1] + 10.0f, p[2] - 5.0f, 20.0f, 46.0f, 26.0f);
    float falx = ph_max(fabsf(p[0]) - 0.5f - 0.5f * c->sulcus_width, callosum), pia = hull[0], solid, inner;
    pia = ph_min(pia, falx);
    pia = ph_min(pia, 0.5f * (hull[0] - hull[1]) - 0.8f);                    /* tentorium */
    if (p[2] < -5.0f) {
        float closed = ph_max(0.0f, 0.3f * (p[2] + 15.0f)) + ph_max(0.0f, 0.2f * (p[1] + 20.0f));
        pia = ph_min(pia, closed - hull[2] - 2.0f + p[3]);    /* cistern around the brainstem */
        pia = ph_min(pia, -ph_ellipsoid(p[0], p[1] - 1.0f, p[2] + 17.0f, 13.0f, 13.0f, 8.0f));
    }
    if (pia > -h && pia < 30.0f) pia = ph_min(pia, ph_sylvian_at(c, p));
    if (pia > -h && pia < 30.0f) pia = ph_min(pia, ph_sulcus_at(c, p, ph_min(hull[0], falx)));
    solid = ph_inside(pia, h);
    inner = ph_inside(pia - c->cortex, h);
    w[PH_CSF] = 1.0f - solid;
    w[PH_GREY] = solid - inner;
    w[PH_WHITE] = inner;
}

/* Folia: sheets that fan out from the roof of the fourth ventricle. */
static void ph_cerebellum(const float p[4], const float hull[3], float h, float *w)
{
    float y = p[1] + 42.0f, z = p[2] + 28.0f, radius = sqrtf(y * y + z * z) + 0.1f * fabsf(p[0]);
    float turn = ph_fraction(atan2f(z, y) * 3.0f + 0.06f * p[3]);
    float folium = 0.33f * radius * fabsf(ph_fraction(2.0f * turn)) * 0.5f;
    float over = ph_max(0.0f, hull[1] - 7.0f), pia, solid, inner;
    pia = ph_min(hull[1], sqrtf(folium * folium + over * over) - 0.25f);
    pia = ph_min(pia, 0.5f * (hull[1] - hull[0]) - 0.8f);
    solid = ph_inside(pia, h);
    inner = ph_inside(pia - 2.4f, h);
    w[PH_CSF] = 1.0f - solid;
    w[PH_GREY] = solid - inner;
    w[PH_WHITE] = inner;
}

/* Deep grey matter, then the ventricles over it. */
static void ph_deep(const ph_case *c, const float p[3], float h, float *w)
{
    float x = fabsf(p[0]), y = p[1], z = p[2], d;
    float tilt = 0.25f * (y - 2.0f);    /* putamen and pallidum open to the back */
    if (x > 46.0f || y > 42.0f || y < -80.0f || z > 40.0f || z < -34.0f) return;
    d = ph_tubes_at(ph_hippocampus_tubes, PH_COUNT(ph_hippocampus_tubes), x, y, z, 1.0f);
    ph_blend(w, PH_GREY, ph_inside(d, h));
    d = ph_tubes_at(ph_caudate_tubes, PH_COUNT(ph_caudate_tubes), x, y, z, 1.0f);
    ph_blend(w, PH_STRIATUM, ph_inside(d, h));
    d = ph_ellipsoid(x - 25.0f + tilt, y - 2.0f, z - 3.0f, 5.5f, 17.0f, 10.5f);
    ph_blend(w, PH_STRIATUM, ph_inside(d, h));    /* putamen */
    d = ph_ellipsoid(x - 18.5f + tilt, y + 2.0f, z - 1.0f, 4.2f, 10.0f, 7.0f);
    ph_blend(w, PH_PALLIDUM, ph_inside(d, h));
    d = ph_ellipsoid(x - 10.0f, y + 18.0f, z - 8.0f, 8.6f, 14.5f, 8.5f);
    ph_blend(w, PH_THALAMUS, ph_inside(d, h));
    d = ph_ellipsoid(p[0], y + 6.0f, z - 2.0f, 1.0f + 1.4f * c->ventricle, 13.0f, 8.0f);
    ph_blend(w, PH_CSF, ph_inside(d, h));         /* third ventricle */
    d = ph_tubes_at(ph_ventricle_tubes, PH_COUNT(ph_ventricle_tubes), (x - 3.0f) * PH_VENTRICLE_FLAT + 3.0f, y, z,
                    c->ventricle);
    ph_blend(w, PH_CSF, ph_inside(d, h));
}

/* Tissue at distance r from the tumour's centre came from nearer by: growth pushes outward, less with distance. */
static void ph_mass_effect(const ph_tumour *t, const float p[3], float q[3])
{
    float d[3], r, push;
    int a;
    for (a = 0; a < 3; a++) d[a] = p[a] - t->centre[a];
    r = ph_length(d[0], d[1], d[2]) + 1e-3f;
    push = t->push * (r < t->radius ? r / t->radius : expf((t->radius - r) / 20.0f));
    for (a = 0; a < 3; a++) q[a] = p[a] - d[a] / r * push;
}

static void ph_tumour_blend(const ph_case *c, const float p[3], float h, float *w);

/* Template position of a world point, with (q) and without (p) mass effect, distances to the hulls of cerebrum,
   cerebellum and brainstem; returns the distance to the border of the brain mask. */
static float ph_locate(const ph_case *c, const float world[3], float p[4], float q[4], float hull[3])
{
    ph_to_template(c, world, p);
    memcpy(q, p, 4 * sizeof *q);
    if (c->grade != PH_HEALTHY) ph_mass_effect(&c->tumour, p, q);
    hull[0] = ph_cerebrum_at(q);
    hull[1] = hull[2] = -100.0f;
    if (q[2] < 12.0f) {    /* higher up they matter to nobody */
        hull[1] = ph_cerebellum_at(q);
        hull[2] = ph_brainstem_at(q);
    }
    return ph_max(hull[0], ph_max(hull[1], hull[2])) + c->rim;
}

/* Fractions of the tissues (sum 1) in a cube of width h around a world point. Returns the share of it that lies in the
   brain mask; 0: w is not set. */
static float ph_point(const ph_case *c, const float world[3], float h, float *w)
{
    float p[4], q[4], hull[3], mask = ph_inside(ph_locate(c, world, p, q, hull), h);
    if (!(mask > 0.0f)) return 0.0f;
    memset(w, 0, PH_TISSUES * sizeof *w);
    if (hull[1] > hull[0]) ph_cerebellum(q, hull, h, w);
    else ph_cerebrum(c, q, hull, h, w);
    if (hull[2] > -h) {
        float f = ph_inside(hull[2], h);
        ph_blend(w, PH_WHITE, f);
        w[PH_GREY] += 0.25f * f;
        w[PH_WHITE] -= 0.25f * f;
        ph_blend(w, PH_CSF, ph_inside(ph_ellipsoid(q[0], q[1] + 43.0f, q[2] + 30.0f, 5.0f, 3.5f, 8.0f), h));
    }
    ph_deep(c, q, h, w);
    if (c->grade != PH_HEALTHY) ph_tumour_blend(c, p, h, w);
    return mask;
}

/* >>tumour --------------------------------------------------------------------------------------------------------- */

/* A place in the white matter of the cerebrum, off the midline, the ventricles and the base. */
static void ph_draw_place(ph_tumour *t, bmvp_rng *r)
{
    int tries;
    for (tries = 0; tries < 300; tries++) {
        float p[3], depth, ventricle;
        p[0] = ph_range(r, -60.0f, 60.0f);
        p[1] = ph_range(r, -90.0f, 60.0f);
        p[2] = ph_range(r, -30.0f, 65.0f);
        depth = ph_cerebrum_at(p);
        ventricle = ph_tubes_at(ph_ventricle_tubes, PH_COUNT(ph_ventricle_tubes), fabsf(p[0]), p[1], p[2], 1.0f);
        if (depth < 8.0f + 0.4f * t->radius || fabsf(p[0]) < 0.7f * t->radius + 4.0f) continue;
        if (ventricle > -0.5f * t->radius) continue;
        if (ph_brainstem_at(p) > -t->radius || ph_cerebellum_at(p) > -t->radius) continue;
        memcpy(t->centre, p, sizeof t->centre);
        return;
    }
    t->centre[0] = 32.0f;    /* always possible: the middle of the centrum semiovale */
    t->centre[1] = -12.0f;
    t->centre[2] = 36.0f;
}

static void ph_draw_tumour(ph_case *c, uint64_t seed)
{
    bmvp_rng r = bmvp_rng_make(seed, PH_STREAM_TUMOUR, (uint32_t)c->index, 0);
    ph_tumour *t = &c->tumour;
    int high = c->grade == PH_HIGH_GRADE, a;
    float nodule, v[3];
    t->radius = high ? ph_range(&r, 11.0f, 22.0f) : ph_range(&r, 10.0f, 21.0f);
    ph_draw_place(t, &r);
    for (a = 0; a < 3; a++) t->axis[a] = ph_range(&r, 0.8f, 1.25f);
    t->core = high ? ph_range(&r, 0.5f, 0.8f) : bmvp_rng_uniform(&r) < 0.25f ? ph_range(&r, 0.2f, 0.3f) : 0.0f;
    t->oedema = high ? ph_range(&r, 8.0f, 20.0f) : ph_range(&r, 2.0f, 8.0f);
    t->push = high ? ph_range(&r, 1.0f, 6.0f) : ph_range(&r, 0.0f, 3.0f);
    nodule = bmvp_rng_uniform(&r);
    t->nodule_radius = !high && nodule < 0.3f ? t->radius * ph_range(&r, 0.2f, 0.35f) : 0.0f;
    ph_direction(&r, v);
    for (a = 0; a < 3; a++) t->nodule[a] = t->centre[a] + 0.5f * t->radius * v[a];
    ph_noise_init(&t->outline, &r, 16, 1.5f * t->radius, 0.4f);
    ph_noise_init(&t->inner, &r, 16, 1.1f * t->radius, 0.4f);
    ph_noise_init(&t->spread, &r, 16, 32.0f, 0.4f);
}

/* Oedema infiltrates white matter; the tumour itself replaces whatever is there. */
static void ph_tumour_blend(const ph_case *c, const float p[3], float h, float *w)
{
    const ph_tumour *t = &c->tumour;
    float d[3], r, outline, f, core, nodule = 0.0f, edge = ph_max(h, c->grade == PH_HIGH_GRADE ? 1.0f : 3.0f);
    int a;
    for (a = 0; a < 3; a++) d[a] = (p[a] - t->centre[a]) * t->axis[a];
    r = ph_length(d[0], d[1], d[2]);
    if (r > 1.4f * t->radius + 2.0f * t->oedema + 5.0f) return;
    outline = t->radius * (1.0f + 0.2f * ph_clamp(ph_noise_at(&t->outline, p), -2.0f, 2.0f)) - r;
    f = ph_inside(outline + 2.0f * t->oedema, 5.0f);    /* the farthest that it reaches */
    if (f > 0.0f) {
        float reach = t->oedema * (1.0f + 0.5f * ph_clamp(ph_noise_at(&t->spread, p), -2.0f, 2.0f));
        f = ph_inside(outline + reach, 5.0f);
    }
    if (f > 0.0f) {
        float white = f * w[PH_WHITE], grey = 0.3f * f * w[PH_GREY];
        w[PH_WHITE] -= white;
        w[PH_GREY] -= grey;
        w[PH_OEDEMA] += white + grey;
    }
    f = ph_inside(outline, edge);
    if (!(f > 0.0f)) return;
    core = t->core * t->radius * (1.0f + 0.25f * ph_clamp(ph_noise_at(&t->inner, p), -2.0f, 2.0f)) - r;
    core = t->core > 0.0f ? ph_inside(ph_min(core, outline - 2.0f), edge) : 0.0f;    /* a closed rim of 2 mm */
    if (t->nodule_radius > 0.0f) {
        float off = ph_length(p[0] - t->nodule[0], p[1] - t->nodule[1], p[2] - t->nodule[2]);
        nodule = ph_inside(t->nodule_radius - off, h);
    }
    ph_blend(w, c->grade == PH_HIGH_GRADE ? PH_ENHANCING : PH_SOLID, f);
    ph_blend(w, PH_ENHANCING, f * nodule);
    ph_blend(w, PH_NECROSIS, f * core);
}

/* >>vessels -------------------------------------------------------------------------------------------------------- */

/* Large arteries, template mm; rows with x > 0 exist on both sides. `grow`: branches start at the second end. */
typedef struct ph_artery {
    ph_tube tube;
    int grow;
} ph_artery;

static const ph_artery ph_arteries[] = {
    {{{18, -14, -52}, 2.5f, {15, -4, -34}, 2.5f}, 0},    /* internal carotid */
    {{{15, -4, -34}, 2.5f, {13, 6, -26}, 2.4f}, 0},
    {{{13, 6, -26}, 2.4f, {12, 1, -18}, 2.3f}, 0},
    {{{12, 1, -18}, 2.0f, {24, 3, -14}, 1.9f}, 0},       /* middle cerebral */
    {{{24, 3, -14}, 1.9f, {36, 2, -9}, 1.8f}, 1},
    {{{36, 2, -9}, 1.5f, {40, -8, 2}, 1.4f}, 1},
    {{{40, -8, 2}, 1.4f, {48, -28, 16}, 1.2f}, 1},
    {{{36, 2, -9}, 1.5f, {41, 10, 2}, 1.3f}, 1},
    {{{12, 1, -18}, 1.6f, {3, 14, -13}, 1.5f}, 0},       /* anterior cerebral */
    {{{3, 14, -13}, 1.5f, {2, 35, -4}, 1.4f}, 1},
    {{{2, 35, -4}, 1.4f, {2, 42, 12}, 1.3f}, 1},
    {{{2, 42, 12}, 1.3f, {2, 28, 30}, 1.2f}, 1},
    {{{2, 28, 30}, 1.2f, {2, -5, 36}, 1.1f}, 1},
    {{{2, -5, 36}, 1.1f, {2, -32, 34}, 0.9f}, 1},
    {{{12, 1, -18}, 1.0f, {8, -12, -17}, 1.0f}, 0},      /* posterior communicating */
    {{{10, -22, -62}, 1.8f, {0, -14, -46}, 1.9f}, 0},    /* vertebral */
    {{{0, -13, -46}, 2.0f, {0, -11, -18}, 2.0f}, 0},     /* basilar */
    {{{0, -11, -18}, 1.6f, {12, -14, -15}, 1.5f}, 0},    /* posterior cerebral */
    {{{12, -14, -15}, 1.5f, {21, -32, -9}, 1.4f}, 1},
    {{{21, -32, -9}, 1.4f, {18, -58, 0}, 1.2f}, 1},
    {{{18, -58, 0}, 1.2f, {12, -82, 6}, 1.0f}, 1}
};

/* Adds a tube between template points. Blood that flows fast meets few pulses before it leaves the slab of about 25 mm;
   the share of magnetisation left is (cos(flip) e1)^n, here for a flip angle of 22 degrees and TR 23 ms. */
static void ph_add_vessel(ph_case *c, const float a[3], float ra, const float b[3], float rb, int vein)
{
    ph_vessel *v = &c->vessels[c->n_vessels];
    float speed = 30.0f + 150.0f * ph_min(0.25f * (ra + rb) * (ra + rb) * 0.25f, 2.0f);    /* mm/s */
    float pulses = 25.0f / (speed * 0.023f);
    if (c->n_vessels >= PH_MAX_VESSELS) return;
    c->n_vessels++;
    ph_to_world(c, a, v->tube.a);
    ph_to_world(c, b, v->tube.b);
    v->tube.ra = ra;
    v->tube.rb = rb;
    v->fresh = vein ? 0 : (uint8_t)(255.0f * powf(0.916f, pulses) + 0.5f);
}

/* A branch that wanders over the surface of the cerebrum, thins out and forks. */
static void ph_grow(ph_case *c, bmvp_rng *r, const float start[3], const float heading[3], float radius, int level)
{
    float p[3], d[3];
    int step, a;
    memcpy(p, start, sizeof p);
    memcpy(d, heading, sizeof d);
    for (step = 0; step < 12 && radius > 0.4f; step++) {
        float q[3], v[3], depth = ph_cerebrum_at(p), up[3], norm, outward;
        ph_direction(r, v);
        outward = ph_clamp(0.12f * (depth - 2.0f), -0.6f, 0.5f);    /* until 2 mm below the surface, then along it */
        for (a = 0; a < 3; a++) {
            memcpy(q, p, sizeof q);
            q[a] += 1.0f;
            up[a] = depth - ph_cerebrum_at(q);
        }
        for (a = 0; a < 3; a++) d[a] = 0.75f * d[a] + 0.55f * v[a] + outward * up[a];
        norm = ph_length(d[0], d[1], d[2]) + 1e-6f;
        for (a = 0; a < 3; a++) {
            d[a] /= norm;
            q[a] = p[a] + 7.0f * d[a];
        }
        ph_add_vessel(c, p, radius, q, 0.93f * radius, 0);
        radius *= 0.93f;
        memcpy(p, q, sizeof p);
        if (level < 2 && bmvp_rng_uniform(r) < 0.3f) {
            float side[3];
            ph_direction(r, v);
            for (a = 0; a < 3; a++) side[a] = d[a] + 0.9f * v[a];
            ph_grow(c, r, p, side, 0.8f * radius, level + 1);
        }
    }
}

static void ph_draw_vessels(ph_case *c, uint64_t seed)
{
    bmvp_rng r = bmvp_rng_make(seed, PH_STREAM_VESSELS, (uint32_t)c->index, 0);
    float last[3] = {0, 0, 0}, p[3];
    int i, side, a, y;
    c->n_vessels = 0;
    for (i = 0; i < PH_COUNT(ph_arteries); i++)
        for (side = -1; side <= 1; side += 2) {
            ph_tube t = ph_arteries[i].tube;
            float heading[3], jitter = ph_range(&r, 0.85f, 1.15f);
            if (side < 0 && !(t.a[0] > 0.0f || t.b[0] > 0.0f)) continue;
            t.a[0] *= (float)side;
            t.b[0] *= (float)side;
            for (a = 0; a < 3; a++) heading[a] = 0.08f * (t.b[a] - t.a[a]);
            ph_add_vessel(c, t.a, t.ra * jitter, t.b, t.rb * jitter, 0);
            if (ph_arteries[i].grow) ph_grow(c, &r, t.b, heading, 0.75f * t.rb, 0);
        }
    for (y = 60; y >= -100; y -= 8) {    /* superior sagittal sinus, in the fluid under the vertex */
        p[0] = 0.0f;
        p[1] = (float)y;
        p[2] = 20.0f;
        while (ph_cerebrum_at(p) > 0.5f) p[2] += 1.0f;
        if (y < 60) ph_add_vessel(c, last, 2.0f, p, 2.0f, 1);
        memcpy(last, p, sizeof last);
    }
}

/* World coordinate of a voxel along axis a, and back. */
static float ph_coordinate(const ph_grid *g, int a, float i)
{
    return g->step[a] * (i - 0.5f * (float)(g->dim[a] - 1));
}

static float ph_position(const ph_grid *g, int a, float world)
{
    return world / g->step[a] + 0.5f * (float)(g->dim[a] - 1);
}

/* Share of blood (share, 0..255) and its freshness per voxel, for one tube. */
static void ph_paint_vessel(const ph_grid *g, const ph_vessel *v, uint8_t *share, uint8_t *fresh)
{
    const ph_tube *t = &v->tube;
    float h = cbrtf(g->step[0] * g->step[1] * g->step[2]), r = ph_max(t->ra, t->rb), full, p[3];
    int64_t lo[3], hi[3], i[3];
    int a;
    full = ph_min(1.0f, 3.14f * r * r / (h * h));    /* a thin vessel does not fill a voxel that it crosses */
    for (a = 0; a < 3; a++) {
        float u = ph_position(g, a, t->a[a]), w = ph_position(g, a, t->b[a]), last = (float)(g->dim[a] - 1);
        float pad = (r + 0.5f * h) / g->step[a] + 1.0f;
        lo[a] = (int64_t)ph_clamp(floorf(ph_min(u, w) - pad), 0.0f, last);
        hi[a] = (int64_t)ph_clamp(ceilf(ph_max(u, w) + pad), 0.0f, last);
    }
    for (i[2] = lo[2]; i[2] <= hi[2]; i[2]++)
        for (i[1] = lo[1]; i[1] <= hi[1]; i[1]++)
            for (i[0] = lo[0]; i[0] <= hi[0]; i[0]++) {
                int64_t at = (i[2] * g->dim[1] + i[1]) * g->dim[0] + i[0];
                uint8_t value;
                for (a = 0; a < 3; a++) p[a] = ph_coordinate(g, a, (float)i[a]);
                value = (uint8_t)(255.0f * full * ph_inside(ph_tube_at(t, p[0], p[1], p[2]), h) + 0.5f);
                if (value <= share[at]) continue;
                share[at] = value;
                fresh[at] = v->fresh;
            }
}

/* >>render --------------------------------------------------------------------------------------------------------- */

typedef struct ph_volumes {
    ph_grid grid;
    uint8_t *share, *fresh;                 /* blood, RAS order */
    uint8_t *label;                         /* file order, as the images */
    int n_images, modality[PH_MODALITIES];
    ph_sequence sequence[PH_MODALITIES];    /* by image */
    int16_t *image[PH_MODALITIES];          /* stored numbers: value / slope */
} ph_volumes;

/* Label of a voxel: the largest tumour part where the tumour has at least half of it. The solid part of a low-grade
   tumour counts as core, as in BraTS (necrotic and non-enhancing core have one label). */
static uint8_t ph_label(const float *w)
{
    float core = w[PH_NECROSIS] + w[PH_SOLID], oedema = w[PH_OEDEMA], enhancing = w[PH_ENHANCING];
    if (core + oedema + enhancing < 0.5f) return 0;
    if (enhancing >= core && enhancing >= oedema) return 3;
    return core >= oedema ? 1 : 2;
}

/* Two independent normal numbers from two words. */
static void ph_normals(const uint32_t *word, float *a, float *b)
{
    float u = ((float)(word[0] >> 8) + 0.5f) * (1.0f / 16777216.0f);
    float r = sqrtf(-2.0f * logf(u)), t = (float)(word[1] >> 8) * (1.0f / 16777216.0f) - 0.5f;
    *a = r * ph_sine(ph_fraction(t + 0.25f));
    *b = r * ph_sine(t);
}

/* Magnitude of a complex signal with noise in both channels (Rician). */
static float ph_rician(float s, float sigma, const uint32_t *word)
{
    float a, b;
    ph_normals(word, &a, &b);
    a = s + sigma * a;
    b *= sigma;
    return sqrtf(a * a + b * b);
}

/* Value of one modality in a voxel: signal, coil, noise. monomial: the 9 terms of the bias polynomial. */
static float ph_value(const ph_sequence *q, int modality, const float *w, float fresh, const float *monomial,
                      const uint32_t *word)
{
    float s = 0, bias = 0;
    int i;
    for (i = 0; i < PH_TISSUES; i++) s += w[i] * q->signal[i];
    s += w[PH_BLOOD] * fresh * (q->fresh_blood - q->signal[PH_BLOOD]);
    if (modality == PH_ADC) {    /* as a scanner does it: from two noisy images, in 1e-6 mm^2/s */
        float weighted = 0, ratio;
        for (i = 0; i < PH_TISSUES; i++) weighted += w[i] * q->weighted[i];
        ratio = ph_rician(s, q->sigma, word) / ph_max(ph_rician(weighted, q->sigma, word + 2), 1e-3f * s + 1e-6f);
        return ph_clamp(logf(ratio) * (float)(1000.0 / PH_B_VALUE), 1.0f, 4000.0f);
    }
    for (i = 0; i < 9; i++) bias += q->bias[i] * monomial[i];
    return ph_rician(s * expf(bias), q->sigma, word);
}

/* Fractions of a voxel, from sub[0] x sub[1] x sub[2] points where voxels are coarse. 0: outside the mask. */
static int ph_voxel(const ph_case *c, const int64_t i[3], const int sub[3], float *w)
{
    const ph_grid *g = &c->grid;
    float part[PH_TISSUES], world[3], p[4], q[4], hull[3], mask = 0, f, h = 0;
    int s[3], a, t, n = sub[0] * sub[1] * sub[2];
    memset(w, 0, PH_TISSUES * sizeof *w);
    for (a = 0; a < 3; a++) {
        h = ph_max(h, g->step[a] / (float)sub[a]);
        world[a] = ph_coordinate(g, a, (float)i[a]);
    }
    if (ph_length(world[0] / 84.0f, world[1] / 108.0f, world[2] / 95.0f) > 1.0f) return 0;    /* no head reaches here */
    if (ph_locate(c, world, p, q, hull) < -ph_length(g->step[0], g->step[1], g->step[2])) return 0;
    for (s[2] = 0; s[2] < sub[2]; s[2]++)
        for (s[1] = 0; s[1] < sub[1]; s[1]++)
            for (s[0] = 0; s[0] < sub[0]; s[0]++) {
                for (a = 0; a < 3; a++)
                    world[a] = ph_coordinate(g, a, (float)i[a] + ((float)s[a] + 0.5f) / (float)sub[a] - 0.5f);
                f = ph_point(c, world, h, part);
                if (!(f > 0.0f)) continue;
                mask += f;
                for (t = 0; t < PH_TISSUES; t++) w[t] += f * part[t];
            }
    if (mask < 0.5f * (float)n) return 0;
    for (t = 0; t < PH_TISSUES; t++) w[t] /= mask;
    return 1;
}

/* Label and images of a voxel. Noise is numbered in RAS order: a case has the same voxels in every orientation. */
static void ph_store(ph_volumes *v, const ph_case *c, uint64_t seed, const int64_t i[3], float *w)
{
    const ph_grid *g = &v->grid;
    int64_t at = (i[2] * g->dim[1] + i[1]) * g->dim[0] + i[0], to = 0;
    float p[3], m[9], blood = (float)v->share[at] / 255.0f, fresh = (float)v->fresh[at] / 255.0f;
    uint32_t key[2], counter[4], word[4];
    int a, k;
    for (a = 2; a >= 0; a--) {
        int axis = g->world_axis[a];
        to = to * g->dim[axis] + (g->reversed[a] ? g->dim[axis] - 1 - i[axis] : i[axis]);
    }
    v->label[to] = ph_label(w);
    ph_blend(w, PH_BLOOD, blood);
    for (a = 0; a < 3; a++) p[a] = ph_coordinate(g, a, (float)i[a]) / 120.0f;
    for (a = 0; a < 3; a++) {
        m[a] = p[a];
        m[3 + a] = p[a] * p[a] - 0.15f;
        m[6 + a] = p[a] * p[(a + 1) % 3];
    }
    key[0] = (uint32_t)seed;
    key[1] = (uint32_t)(seed >> 32);
    for (k = 0; k < v->n_images; k++) {
        float value;
        counter[0] = (uint32_t)at;
        counter[1] = PH_STREAM_NOISE;
        counter[2] = (uint32_t)c->index;
        counter[3] = (uint32_t)v->modality[k];
        bmvp_philox4x32(key, counter, word);
        value = ph_value(&v->sequence[k], v->modality[k], w, fresh, m, word) / v->sequence[k].slope;
        v->image[k][to] = (int16_t)ph_clamp(value + 0.5f, 1.0f, 32767.0f);    /* 0 is left to the background */
    }
}

static void ph_render(ph_volumes *v, const ph_case *c, uint64_t seed)
{
    const ph_grid *g = &v->grid;
    float w[PH_TISSUES];
    int64_t i[3];
    int sub[3], a, k;
    for (a = 0; a < 3; a++) sub[a] = (int)ceilf(g->step[a] / 2.1f);    /* points at most about 2 mm apart */
    for (k = 0; k < c->n_vessels; k++) ph_paint_vessel(g, &c->vessels[k], v->share, v->fresh);
    for (i[2] = 0; i[2] < g->dim[2]; i[2]++)
        for (i[1] = 0; i[1] < g->dim[1]; i[1]++)
            for (i[0] = 0; i[0] < g->dim[0]; i[0]++)
                if (ph_voxel(c, i, sub, w)) ph_store(v, c, seed, i, w);
}

/* >>write ---------------------------------------------------------------------------------------------------------- */

static void ph_affine(const ph_grid *g, double affine[16])
{
    int a;
    memset(affine, 0, 16 * sizeof *affine);
    affine[15] = 1.0;
    for (a = 0; a < 3; a++) {
        int row = g->world_axis[a];
        double step = g->reversed[a] ? -(double)g->step[row] : (double)g->step[row];
        affine[4 * row + a] = step;
        affine[4 * row + 3] = g->centre[row] - step * 0.5 * (double)(g->dim[row] - 1);
    }
}

/* What the threads share. */
typedef struct ph_job {
    const ph_options *options;
    pthread_mutex_t lock;    /* guards the rest */
    cli_progress progress;
    int64_t done;
    int failed;
    char message[640];
} ph_job;

static void ph_set_failed(ph_job *job, const char *text)
{
    pthread_mutex_lock(&job->lock);
    if (!job->failed) snprintf(job->message, sizeof job->message, "%s", text);
    job->failed = 1;
    pthread_mutex_unlock(&job->lock);
}

/* Name of a file of a case, or of its folder (file NULL); NULL when memory is short. */
static char *ph_path(const ph_options *o, int index, const char *file)
{
    size_t n = strlen(o->out) + 64;
    char *path = (char *)malloc(n);
    if (path && file) snprintf(path, n, "%s/case_%04d/%s.nii.gz", o->out, index + 1, file);
    else if (path) snprintf(path, n, "%s/case_%04d", o->out, index + 1);
    return path;
}

static int ph_write_volumes(const ph_volumes *v, const ph_case *c, ph_job *job, bmvp_nii_image *out)
{
    bmvp_nii_write_options how;
    bmvp_nii_error err;
    int k;
    memset(&how, 0, sizeof how);
    how.level = 5;
    how.no_sync = 1;    /* dataset.json, which makes the set valid, is synced */
    for (k = -1; k < v->n_images; k++) {
        bmvp_nii_image *image = &out[k + 1];
        char *path = ph_path(job->options, c->index, k < 0 ? "seg" : ph_modality_names[v->modality[k]]);
        int bad = 1;
        if (!path) ph_set_failed(job, "out of memory");
        else if (bmvp_nii_write(path, image, &how, &err) != BMVP_NII_OK) ph_set_failed(job, err.message);
        else bad = 0;
        free(path);
        if (bad) return -1;
    }
    return 0;
}

/* Makes the images that rendering fills, label first. */
static int ph_create_volumes(ph_volumes *v, const ph_case *c, ph_job *job, bmvp_nii_image *out)
{
    bmvp_nii_error err;
    double affine[16];
    int64_t dim[3], n = 1;
    int a, m, k;
    memset(v, 0, sizeof *v);
    v->grid = c->grid;
    for (a = 0; a < 3; a++) n *= dim[a] = v->grid.dim[v->grid.world_axis[a]];
    ph_affine(&v->grid, affine);
    for (m = 0; m < PH_MODALITIES; m++) {
        if (!(c->have >> m & 1)) continue;
        k = v->n_images++;
        v->modality[k] = m;
        ph_sequence_draw(&v->sequence[k], m, c->tissue, (uint64_t)job->options->seed, (uint32_t)c->index);
    }
    for (k = -1; k < v->n_images; k++) {
        int type = k < 0 ? BMVP_NII_UINT8 : BMVP_NII_INT16;
        if (bmvp_nii_create(&out[k + 1], type, 3, dim, affine, NULL, &err) != BMVP_NII_OK) {
            ph_set_failed(job, err.message);
            return -1;
        }
        if (k < 0) v->label = (uint8_t *)out[0].data;
        else {
            v->image[k] = (int16_t *)out[k + 1].data;
            out[k + 1].scl_slope = (double)v->sequence[k].slope;
            out[k + 1].scl_inter = 0.0;
        }
    }
    v->share = (uint8_t *)calloc((size_t)n, 2);
    v->fresh = v->share ? v->share + n : NULL;
    if (!v->share) ph_set_failed(job, "out of memory");
    return v->share ? 0 : -1;
}

static void ph_make_case(ph_job *job, int index)
{
    const ph_options *o = job->options;
    bmvp_nii_image out[PH_MODALITIES + 1];
    ph_volumes v;
    ph_case *c = (ph_case *)calloc(1, sizeof *c);
    char *folder = ph_path(o, index, NULL), text[640];
    int k;
    memset(out, 0, sizeof out);
    memset(&v, 0, sizeof v);
    if (!c || !folder) ph_set_failed(job, "out of memory");
    else if (make_dir(folder) != 0) {
        snprintf(text, sizeof text, "%s: folder cannot be made: %s", folder, strerror(errno));
        ph_set_failed(job, text);
    } else {
        c->index = index;
        c->grade = ph_draw_grade(o, index);
        c->have = ph_draw_have(o, index);
        ph_draw_anatomy(c, (uint64_t)o->seed, (float)o->fov);
        ph_draw_tissue(c, (uint64_t)o->seed);
        ph_draw_grid(c, o);
        if (c->grade != PH_HEALTHY) ph_draw_tumour(c, (uint64_t)o->seed);
        ph_draw_vessels(c, (uint64_t)o->seed);
        if (ph_create_volumes(&v, c, job, out) == 0) {
            ph_render(&v, c, (uint64_t)o->seed);
            ph_write_volumes(&v, c, job, out);
        }
    }
    for (k = 0; k <= PH_MODALITIES; k++) bmvp_nii_image_free(&out[k]);
    free(v.share);
    free(folder);
    free(c);
}

static void ph_task(void *arg, int64_t task, int worker)
{
    ph_job *job = (ph_job *)arg;
    int stop;
    (void)worker;
    pthread_mutex_lock(&job->lock);
    stop = job->failed;
    pthread_mutex_unlock(&job->lock);
    if (stop) return;
    ph_make_case(job, (int)task);
    pthread_mutex_lock(&job->lock);
    job->done++;
    if (!job->failed)
        cli_status(&job->progress, job->done == job->options->cases, "phantom: %ld of %ld cases, %.1f s",
                   (long)job->done, (long)job->options->cases, cli_elapsed(&job->progress));
    pthread_mutex_unlock(&job->lock);
}

/* >>list ----------------------------------------------------------------------------------------------------------- */

typedef struct ph_text {
    char *text;
    size_t used, room;
    int failed;
} ph_text;

#if defined(__GNUC__)
__attribute__((format(printf, 2, 3)))
#endif
static void ph_print(ph_text *t, const char *format, ...)
{
    va_list args;
    int n;
    if (t->room - t->used < 1024) {
        char *more = (char *)realloc(t->text, t->room + 65536);
        if (!more) {
            t->failed = 1;
            return;
        }
        t->text = more;
        t->room += 65536;
    }
    va_start(args, format);
    n = vsnprintf(t->text + t->used, t->room - t->used, format, args);
    va_end(args);
    t->used += n > 0 ? (size_t)n : 0;
}

/* dataset.json: everything in it follows from the options, so it can be compared before any volume is made. */
static void ph_dataset(ph_text *t, const ph_options *o)
{
    const char *comma = "";
    int i, m;
    ph_print(t, "{\n  \"name\": \"bmvp phantoms\",\n  \"modalities\": [");
    for (m = 0; m < PH_MODALITIES; m++) {
        if (!(o->modalities >> m & 1)) continue;
        ph_print(t, "%s\"%s\"", comma, ph_modality_names[m]);
        comma = ", ";
    }
    ph_print(t, "],\n  \"labels\": \"phantom\",\n");
    ph_print(t, "  \"classes\": [\"healthy\", \"low grade\", \"high grade\"],\n");
    ph_print(t, "  \"generator\": {\"command\": \"bmvp phantom\", \"version\": 1, ");
    ph_print(t, "\"seed\": %lld, ", (long long)o->seed);
    ph_print(t, "\"size\": %ld, \"fov\": %g, \"tumours\": %g, \"high_grade\": %g, ", (long)o->size, o->fov, o->tumours,
             o->high_grade);
    ph_print(t, "\"missing\": %g, \"thick\": %g, \"orientation\": \"%s\"},\n", o->missing, o->thick,
             o->oriented ? "RAS" : "mixed");
    ph_print(t, "  \"cases\": [\n");
    for (i = 0; i < (int)o->cases; i++) {
        uint32_t have = ph_draw_have(o, i);
        ph_print(t, "    {\"id\": \"case_%04d\", \"images\": {", i + 1);
        for (m = 0, comma = ""; m < PH_MODALITIES; m++) {
            if (!(have >> m & 1)) continue;
            ph_print(t, "%s\"%s\": \"case_%04d/%s.nii.gz\"", comma, ph_modality_names[m], i + 1, ph_modality_names[m]);
            comma = ", ";
        }
        ph_print(t, "}, \"label\": \"case_%04d/seg.nii.gz\", \"class\": %d}%s\n", i + 1, ph_draw_grade(o, i),
                 i + 1 < (int)o->cases ? "," : "");
    }
    ph_print(t, "  ]\n}\n");
}

/* 0: nothing there or the same list; otherwise the exit code, with the reason printed. */
static int ph_check_folder(const ph_options *o, const char *path, const ph_text *list)
{
    size_t size = 0;
    char *old = cli_read_file(path, &size);
    int same = old && size == list->used && memcmp(old, list->text, size) == 0;
    if (!old && errno != ENOENT)
        return cli_fail(CLI_FAILED, "phantom", "%s: cannot be read: %s", path, strerror(errno));
    free(old);
    if (!old || same) return 0;
    if (!o->force)
        return cli_fail(CLI_FAILED, "phantom",
                        "%s belongs to a data set made with other options; --force replaces it, or choose "
                        "another --out", path);
    if (remove(path) != 0)    /* while volumes change, no list may say that they are valid */
        return cli_fail(CLI_FAILED, "phantom", "%s: cannot be removed: %s", path, strerror(errno));
    return 0;
}

/* >>command -------------------------------------------------------------------------------------------------------- */

static int ph_make_all(const ph_options *o)
{
    bmvp_config config = bmvp_config_default();
    bmvp_error err;
    bmvp_ctx *ctx;
    ph_job job;
    config.threads = (int)o->threads;
    ctx = bmvp_create(&config, &err);
    if (!ctx) return cli_fail(CLI_FAILED, "phantom", "%s", err.message);
    memset(&job, 0, sizeof job);
    job.options = o;
    cli_elapsed(&job.progress);
    pthread_mutex_init(&job.lock, NULL);
    bmvp_parallel(ctx, o->cases, ph_task, &job);
    pthread_mutex_destroy(&job.lock);
    bmvp_destroy(ctx);
    return job.failed ? cli_fail(CLI_FAILED, "phantom", "%s", job.message) : 0;
}

static int ph_run(const ph_options *o)
{
    size_t n = strlen(o->out) + 32;
    char *path = (char *)malloc(n);
    ph_text list;
    int code;
    memset(&list, 0, sizeof list);
    ph_dataset(&list, o);
    if (!path || list.failed) code = cli_fail(CLI_FAILED, "phantom", "out of memory");
    else {
        snprintf(path, n, "%s/dataset.json", o->out);
        if (make_dir(o->out) != 0)
            code = cli_fail(CLI_FAILED, "phantom", "%s: folder cannot be made: %s", o->out, strerror(errno));
        else {
            code = ph_check_folder(o, path, &list);
            if (!code) code = ph_make_all(o);
            if (!code && cli_write_file(path, list.text, list.used) != 0)
                code = cli_fail(CLI_FAILED, "phantom", "%s: cannot be written: %s", path, strerror(errno));
        }
    }
    free(list.text);
    free(path);
    return code;
}

int command_phantom(int argc, char **argv)
{
    ph_options o;
    uint32_t usual = 1u << PH_FLAIR | 1u << PH_T1 | 1u << PH_T1C | 1u << PH_T2;
    cli_option opt[] = {
        cli_required("out", &o.out, "DIR", "folder to write: case_0001/t1.nii.gz, .., dataset.json"),
        cli_int("cases", &o.cases, 16, 1, 9999, "number of cases"),
        cli_int("size", &o.size, 64, 24, 240, "voxels along each axis of an isotropic case"),
        cli_int("seed", &o.seed, 1, 0, 9e15, "which data set; case i of a seed is always the same"),
        cli_list("modalities", &o.modalities, usual, PH_MODALITY_WORDS, "images per case"),
        cli_float("fov", &o.fov, 240, 200, 300, "field of view in mm; voxels are fov / size"),
        cli_float("tumours", &o.tumours, 0.6, 0, 1, "share of the cases with a tumour"),
        cli_float("high-grade", &o.high_grade, 0.5, 0, 1, "share of the tumours that are of high grade"),
        cli_float("missing", &o.missing, 0.2, 0, 1, "share of the cases that lack modalities; one stays"),
        cli_float("thick", &o.thick, 0.25, 0, 1, "share of the cases with thick slices"),
        cli_choice("orientation", &o.oriented, 0, "mixed|RAS", "axis order of the files"),
        cli_int("threads", &o.threads, 0, 0, 256, "cases made at once; 0: one per processor; files are the same"),
        cli_flag("force", &o.force, "replace the data set of a folder that was made with other options")
    };
    int code = cli_parse("phantom",
        "Make multi-modal brain phantoms: skull-stripped heads that differ from case to case, signals by the\n"
        "sequences' equations from tissue T1, T2, T2*, proton density and diffusion, coil bias, Rician noise; tumours\n"
        "with necrotic or non-enhancing core (label 1), oedema (2) and enhancing part (3). Class: 0 healthy, 1 low\n"
        "grade, 2 high grade. A folder that holds the same data set is made again; one with another is refused.",
        opt, PH_COUNT(opt), argc, argv);
    return code >= 0 ? code : ph_run(&o);
}
