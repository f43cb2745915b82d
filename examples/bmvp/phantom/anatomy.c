/* anatomy.c - heads, see anatomy.h */
#include "anatomy.h"
#include "head.h"
#include "variety.h"
#include <math.h>
#include <string.h>

/* >>case ----------------------------------------------------------------------------------------------------------- */

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

void ph_rotation(const float angle[3], float m[9])
{
    float s[3], k[3];
    int a;
    for (a = 0; a < 3; a++) {
        s[a] = sinf(angle[a]);
        k[a] = cosf(angle[a]);
    }
    m[0] = k[2] * k[1];
    m[1] = k[2] * s[1] * s[0] - s[2] * k[0];
    m[2] = k[2] * s[1] * k[0] + s[2] * s[0];
    m[3] = s[2] * k[1];
    m[4] = s[2] * s[1] * s[0] + k[2] * k[0];
    m[5] = s[2] * s[1] * k[0] - k[2] * s[0];
    m[6] = -s[1];
    m[7] = k[1] * s[0];
    m[8] = k[1] * k[0];
}

/* Size, pose, folding, age. */
static void ph_draw_anatomy(ph_case *c, uint64_t seed, float fov)
{
    bmvp_rng r = bmvp_rng_make(seed, PH_STREAM_ANATOMY, (uint32_t)c->index, 0);
    float size = ph_range(&r, 0.90f, 1.01f), angle[3], m[3];
    static const float middle[3] = {0, -18, 6};    /* template point in the middle of the field of view */
    int a, b;
    for (a = 0; a < 3; a++) {
        float axis = size * ph_range(&r, 0.96f, 1.04f);
        angle[a] = ph_range(&r, -0.1f, 0.1f);
        m[a] = 1.0f / axis;
    }
    ph_rotation(angle, c->linear);
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

int ph_draw_grade(const ph_options *o, int index)
{
    bmvp_rng r = bmvp_rng_make((uint64_t)o->seed, PH_STREAM_CLASS, 0, 0);
    double u = fmod(bmvp_rng_uniform(&r) + 0.6180339887498949 * (double)(index + 1), 1.0);
    if (o->as_sets && ph_set_is_healthy(ph_draw_set(o, index))) return PH_HEALTHY;
    if (u >= o->tumours) return PH_HEALTHY;
    return u < o->tumours * o->high_grade ? PH_HIGH_GRADE : PH_LOW_GRADE;
}

uint32_t ph_draw_have(const ph_options *o, int index)
{
    bmvp_rng r = bmvp_rng_make((uint64_t)o->seed, PH_STREAM_MISSING, (uint32_t)index, 0);
    int list[PH_MODALITIES], n = 0, m, drop;
    uint32_t have = o->modalities;
    if (o->as_sets) have &= ph_set_have(ph_draw_set(o, index));
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

void ph_draw_axes(ph_grid *g, const ph_options *o, float voxel, bmvp_rng *r)
{
    static const char *const codes[] = {"RAS", "LPS", "LAS", "PIR", "SPL", "RPI", "LIA", "ASL"};
    static const float share[] = {0.35f, 0.55f, 0.65f, 0.72f, 0.79f, 0.86f, 0.93f, 1.0f};
    const char *letters = "RLAPSI";
    float u = bmvp_rng_uniform(r), thickness;
    float pick = bmvp_rng_uniform(r), which = bmvp_rng_uniform(r), want = ph_range(r, 3.0f, 6.5f);
    int i = 0, a, slice = which < 0.6f ? 2 : which < 0.8f ? 0 : 1;
    while (i < PH_COUNT(codes) - 1 && u >= share[i]) i++;
    if (o->oriented) i = 0;
    thickness = ph_max(want, 1.5f * voxel);
    for (a = 0; a < 3; a++) {
        int thick = a == slice && pick < o->thick, letter = (int)(strchr(letters, codes[i][a]) - letters);
        g->step[a] = thick ? thickness : voxel;
        g->dim[a] = (int64_t)(o->fov / (double)g->step[a] + 0.5);
        g->centre[a] = 0;
        g->world_axis[a] = letter / 2;
        g->reversed[a] = letter % 2;
    }
}

/* Orientation, voxel size and header origin. */
static void ph_draw_grid(ph_case *c, const ph_options *o)
{
    bmvp_rng r = bmvp_rng_make((uint64_t)o->seed, PH_STREAM_GRID, (uint32_t)c->index, 0);
    int a;
    ph_draw_axes(&c->grid, o, (float)o->fov / (float)o->size, &r);
    for (a = 0; a < 3; a++) c->grid.centre[a] = floor(100.0 * (double)ph_range(&r, -20.0f, 20.0f)) / 100.0;
}

/* >>anatomy -------------------------------------------------------------------------------------------------------- */

void ph_blend(float *w, int tissue, float f)
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
                    c->ventricle * (1.0f + (p[0] < 0.0f ? -c->lopsided : c->lopsided)));
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

float ph_locate(const ph_case *c, const float world[3], float p[4], float q[4], float hull[3])
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

void ph_brain(const ph_case *c, const float p[4], const float q[4], const float hull[3], float h, float *w)
{
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
    if (c->n_decoys) ph_decoys_blend(c, q, h, w);
    if (c->grade != PH_HEALTHY) ph_tumour_blend(c, p, h, w);
}

float ph_point(const ph_case *c, const float world[3], float h, float *w)
{
    float p[4], q[4], hull[3], mask = ph_inside(ph_locate(c, world, p, q, hull), h);
    if (mask > 0.0f) ph_brain(c, p, q, hull, h, w);
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

/* Clots fill one side of the necrosis: the half-space, by a slow field, that holds about their share. */
static void ph_clot_blend(const ph_case *c, const float p[3], float *w)
{
    float side = ph_clamp(2.0f * (ph_noise_at(&c->tumour.inner, p) + 2.0f * c->clot - 1.0f) + 0.5f, 0.0f, 1.0f);
    float moved = side * w[PH_NECROSIS];
    w[PH_NECROSIS] -= moved;
    w[PH_CLOT] += moved;
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
    if (c->clot > 0.0f && t->core > 0.0f) ph_clot_blend(c, p, w);
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

float ph_coordinate(const ph_grid *g, int a, float i)
{
    return g->step[a] * (i - 0.5f * (float)(g->dim[a] - 1));
}

static float ph_position(const ph_grid *g, int a, float world)
{
    return world / g->step[a] + 0.5f * (float)(g->dim[a] - 1);
}

void ph_paint_vessel(const ph_grid *g, const ph_vessel *v, uint8_t *share, uint8_t *fresh)
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

void ph_draw_case(ph_case *c, const ph_options *o, int index)
{
    c->index = index;
    c->grade = ph_draw_grade(o, index);
    c->have = ph_draw_have(o, index);
    ph_draw_anatomy(c, (uint64_t)o->seed, (float)o->fov);
    ph_widen_anatomy(c, o);
    ph_draw_tissue(c, (uint64_t)o->seed);
    ph_overlap_tissue(c, o);
    ph_draw_decoys(c, o);
    ph_draw_scanner(c, o);
    ph_draw_grid(c, o);
    if (c->grade != PH_HEALTHY) ph_draw_tumour(c, (uint64_t)o->seed);
    ph_draw_vessels(c, (uint64_t)o->seed);
    if (o->heads) ph_draw_head(c, o);
}
