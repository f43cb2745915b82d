/* scanner.c - voxels from tissues, see scanner.h */
#include "scanner.h"
#include "head.h"
#include <math.h>
#include <string.h>

/* Label of a voxel: the largest tumour part where the tumour has at least half of it. The solid part of a low-grade
   tumour counts as core, as in BraTS (necrotic and non-enhancing core have one label). */
static uint8_t ph_label(const float *w)
{
    float core = w[PH_NECROSIS] + w[PH_CLOT] + w[PH_SOLID], oedema = w[PH_OEDEMA], enhancing = w[PH_ENHANCING];
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

/* Place of a voxel's point s of sub along an axis, in voxels; blur: edge of what the voxel averages. */
static float ph_sub_point(int64_t i, int s, int sub, float blur)
{
    float at = (float)i + ((float)s + 0.5f) / (float)sub - 0.5f;
    return blur > 1.0f ? (float)i + blur * (at - (float)i) : at;
}

/* Fractions of a voxel, from sub[0] x sub[1] x sub[2] points where voxels are coarse. 0: outside the mask. */
static int ph_voxel(const ph_case *c, const int64_t i[3], const int sub[3], float *w)
{
    const ph_grid *g = &c->grid;
    float part[PH_TISSUES], world[3], p[4], q[4], hull[3], mask = 0, f, h = 0;
    int s[3], a, t, n = sub[0] * sub[1] * sub[2];
    memset(w, 0, PH_TISSUES * sizeof *w);
    for (a = 0; a < 3; a++) {
        h = ph_max(h, g->step[a] * c->scanner.blur / (float)sub[a]);
        world[a] = ph_coordinate(g, a, (float)i[a]);
    }
    if (ph_length(world[0] / 84.0f, world[1] / 108.0f, world[2] / 95.0f) > 1.0f) return 0;    /* no head reaches here */
    if (ph_locate(c, world, p, q, hull) < -ph_length(g->step[0], g->step[1], g->step[2])) return 0;
    for (s[2] = 0; s[2] < sub[2]; s[2]++)
        for (s[1] = 0; s[1] < sub[1]; s[1]++)
            for (s[0] = 0; s[0] < sub[0]; s[0]++) {
                for (a = 0; a < 3; a++)
                    world[a] = ph_coordinate(g, a, ph_sub_point(i[a], s[a], sub[a], c->scanner.blur));
                f = ph_point(c, world, h, part);
                if (!(f > 0.0f)) continue;
                mask += f;
                for (t = 0; t < PH_TISSUES; t++) w[t] += f * part[t];
            }
    if (mask < 0.5f * (float)n) return 0;
    for (t = 0; t < PH_TISSUES; t++) w[t] /= mask;
    return 1;
}

/* A voxel's place, or a point's of it, in the head of a view. */
static void ph_view_point(const ph_view *v, const float at[3], float world[3])
{
    float point[3];
    int a;
    for (a = 0; a < 3; a++) point[a] = ph_coordinate(&v->grid, a, at[a]) + v->shift[a];
    ph_to_head(v, point, world);
}

/* Fractions of a voxel of a whole head, less than 1 where there is air. Returns the share that is brain. */
static float ph_head_voxel(const ph_case *c, const ph_view *v, const int64_t i[3], const int sub[3], float *w)
{
    const ph_grid *g = &v->grid;
    float part[PH_TISSUES], at[3], world[3], brain = 0, h = 0, n = (float)(sub[0] * sub[1] * sub[2]);
    int s[3], a, t;
    memset(w, 0, PH_TISSUES * sizeof *w);
    for (a = 0; a < 3; a++) {
        h = ph_max(h, g->step[a] * c->scanner.blur / (float)sub[a]);
        at[a] = (float)i[a];
    }
    ph_view_point(v, at, world);
    if (ph_skin_at(c, world) < -ph_length(g->step[0], g->step[1], g->step[2])) return 0;
    for (s[2] = 0; s[2] < sub[2]; s[2]++)
        for (s[1] = 0; s[1] < sub[1]; s[1]++)
            for (s[0] = 0; s[0] < sub[0]; s[0]++) {
                for (a = 0; a < 3; a++) at[a] = ph_sub_point(i[a], s[a], sub[a], c->scanner.blur);
                ph_view_point(v, at, world);
                brain += ph_head_point(c, world, h, part) / n;
                for (t = 0; t < PH_TISSUES; t++) w[t] += part[t] / n;
            }
    return brain;
}

/* Label and images of a voxel. Noise is numbered in RAS order: a case has the same voxels in every orientation. */
static void ph_store(ph_volumes *v, const ph_case *c, uint64_t seed, const int64_t i[3], float *w, float brain)
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
    if (v->brain) v->brain[to] = brain >= 0.5f;
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

/* All vessels as they lie in the grid. */
static void ph_paint_vessels(ph_volumes *v, const ph_case *c)
{
    int k, a;
    for (k = 0; k < c->n_vessels; k++) {
        ph_vessel moved = c->vessels[k];
        if (v->view) {
            ph_from_head(v->view, c->vessels[k].tube.a, moved.tube.a);
            ph_from_head(v->view, c->vessels[k].tube.b, moved.tube.b);
            for (a = 0; a < 3; a++) {
                moved.tube.a[a] -= v->view->shift[a];
                moved.tube.b[a] -= v->view->shift[a];
            }
        }
        ph_paint_vessel(&v->grid, &moved, v->share, v->fresh);
    }
}

void ph_render(ph_volumes *v, const ph_case *c, uint64_t seed)
{
    const ph_grid *g = &v->grid;
    const float apart = v->view ? 3.3f : 2.1f;    /* mm between points of a voxel, at most; of heads there is more */
    float w[PH_TISSUES];
    int64_t i[3];
    int sub[3], a;
    for (a = 0; a < 3; a++) sub[a] = (int)ceilf(g->step[a] * c->scanner.blur / apart);
    ph_paint_vessels(v, c);
    for (i[2] = 0; i[2] < g->dim[2]; i[2]++)
        for (i[1] = 0; i[1] < g->dim[1]; i[1]++)
            for (i[0] = 0; i[0] < g->dim[0]; i[0]++)
                if (v->view) ph_store(v, c, seed, i, w, ph_head_voxel(c, v->view, i, sub, w));
                else if (ph_voxel(c, i, sub, w)) ph_store(v, c, seed, i, w, 1);
}
