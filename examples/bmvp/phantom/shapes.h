/* shapes.h - implicit bodies in template millimetres, positive inside, and the random fields that fold and spread
   them */
#ifndef SHAPES_H_INCLUDED
#define SHAPES_H_INCLUDED

#include <math.h>
#include "bmvp_tensor.h"

/* Streams of random numbers; any distinct values. */
enum { PH_STREAM_CLASS = 0x50480001, PH_STREAM_ANATOMY, PH_STREAM_TUMOUR, PH_STREAM_VESSELS, PH_STREAM_GRID,
       PH_STREAM_TISSUE, PH_STREAM_SEQUENCE, PH_STREAM_MISSING, PH_STREAM_NOISE, PH_STREAM_HEAD, PH_STREAM_OVERLAP,
       PH_STREAM_DECOYS, PH_STREAM_WIDE, PH_STREAM_SITE, PH_STREAM_SCANNER, PH_STREAM_SETS };

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

#define PH_COUNT(a) ((int)(sizeof(a) / sizeof((a)[0])))

static inline float ph_min(float a, float b) { return a < b ? a : b; }
static inline float ph_max(float a, float b) { return a > b ? a : b; }
static inline float ph_clamp(float x, float lo, float hi) { return x < lo ? lo : x > hi ? hi : x; }
static inline float ph_mix(float a, float b, float t) { return a + (b - a) * t; }

/* Share of a voxel of width h that lies inside a surface at distance d from its centre. */
static inline float ph_inside(float d, float h) { return ph_clamp(d / h + 0.5f, 0.0f, 1.0f); }

/* Union with a rounded seam of width k. */
static inline float ph_smooth_max(float a, float b, float k)
{
    float overlap = ph_max(k - fabsf(a - b), 0.0f) / k;
    return ph_max(a, b) + 0.25f * k * overlap * overlap;
}

static inline float ph_length(float x, float y, float z) { return sqrtf(x * x + y * y + z * z); }

static inline float ph_range(bmvp_rng *r, float lo, float hi) { return ph_mix(lo, hi, bmvp_rng_uniform(r)); }

/* sin(2 pi t) for t in [-0.5, 0.5], error below 0.001: two parabolas, then one correction. */
static inline float ph_sine(float t)
{
    float y = 8.0f * t - 16.0f * t * fabsf(t);
    return 0.225f * (y * fabsf(y) - y) + y;
}

/* t minus its nearest integer, for |t| < 1000. */
static inline float ph_fraction(float t) { return t - (float)((int)(t + 1024.5f) - 1024); }

/* A unit vector. */
void ph_direction(bmvp_rng *r, float v[3]);
/* n: a multiple of 8, up to PH_MAX_WAVES; wavelength in mm; spread 0.3: wave numbers within 30 % of it. */
void ph_noise_init(ph_noise *f, bmvp_rng *r, int n, float wavelength, float spread);
/* Value at p. Eight waves side by side, which compilers turn into vector code. */
float ph_noise_at(const ph_noise *f, const float p[3]);
/* Value and length of the gradient per mm. */
float ph_noise_slope(const ph_noise *f, const float p[3], float *slope);
/* First-order distance to an ellipsoid with half axes rx, ry, rz around c. */
float ph_ellipsoid(float x, float y, float z, float rx, float ry, float rz);
/* The same for a body between an ellipsoid and a box: heads are fuller than ellipsoids. */
float ph_full_ellipsoid(float x, float y, float z, float rx, float ry, float rz);
float ph_tube_at(const ph_tube *t, float x, float y, float z);
float ph_tubes_at(const ph_tube *t, int n, float x, float y, float z, float scale);
/* Hull of the cerebrum: an egg that is flat below, and the temporal lobes. */
float ph_cerebrum_at(const float p[3]);
float ph_cerebellum_at(const float p[3]);
float ph_brainstem_at(const float p[3]);

/* One side; x is the distance from the midline. Cross-sections are flattened by PH_VENTRICLE_FLAT in x. */
#define PH_VENTRICLE_FLAT 1.35f
extern const ph_tube ph_ventricle_tubes[7], ph_caudate_tubes[3], ph_hippocampus_tubes[2];

#endif
