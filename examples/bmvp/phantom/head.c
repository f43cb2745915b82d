/* head.c - skull, scalp, face and neck around the brain, see head.h

   The skull is a shell around the brain mask, whose distance ph_locate gives; skin and fat cover it. Face, nose, ears
   and neck are bodies of their own (template mm, as in shapes.h); in them lie the orbits with the eyes, the jaws, the
   spine with its canal, and air: nose, sinuses, mastoid cells, throat. Air gives no signal, compact bone next to none:
   at a brain's edge both matter more to an algorithm than what the face looks like. */
#include "head.h"
#include <math.h>
#include <string.h>

/* >>view ----------------------------------------------------------------------------------------------------------- */

static void ph_draw_view(ph_case *c, const ph_options *o, int m)
{
    bmvp_rng r = bmvp_rng_make((uint64_t)o->seed, PH_STREAM_HEAD, (uint32_t)c->index, (uint32_t)(1 + m));
    ph_view *v = &c->view[m];
    const float voxel = (float)o->fov / (float)o->size * ph_range(&r, 0.87f, 1.15f), most = (float)o->motion;
    float angle[3];
    int a;
    ph_draw_axes(&v->grid, o, voxel, &r);
    for (a = 0; a < 3; a++) {
        v->shift[a] = ph_range(&r, -4.0f, 4.0f);
        v->grid.centre[a] = c->grid.centre[a] + (double)v->shift[a];
        angle[a] = ph_range(&r, -most, most) * 0.017453293f;
        v->move[a] = ph_range(&r, -most, most);
        if (m != c->first) continue;
        angle[a] = 0.0f;
        v->move[a] = 0.0f;
    }
    ph_rotation(angle, v->turn);
}

void ph_draw_head(ph_case *c, const ph_options *o)
{
    bmvp_rng r = bmvp_rng_make((uint64_t)o->seed, PH_STREAM_HEAD, (uint32_t)c->index, 0);
    int m;
    c->head.skull = ph_range(&r, 4.5f, 8.0f);
    c->head.scalp = ph_range(&r, 4.5f, 8.0f);
    c->head.fat = ph_range(&r, 1.5f, 4.0f);
    ph_noise_init(&c->head.lobules, &r, 8, 15.0f, 0.4f);
    c->first = 0;
    while (!(c->have >> c->first & 1u)) c->first++;
    for (m = 0; m < PH_MODALITIES; m++) ph_draw_view(c, o, m);
}

void ph_to_head(const ph_view *v, const float point[3], float world[3])
{
    int a;
    for (a = 0; a < 3; a++)
        world[a] = v->turn[3 * a] * point[0] + v->turn[3 * a + 1] * point[1] + v->turn[3 * a + 2] * point[2] +
                   v->move[a];
}

void ph_from_head(const ph_view *v, const float world[3], float point[3])
{
    float d[3];
    int a;
    for (a = 0; a < 3; a++) d[a] = world[a] - v->move[a];
    for (a = 0; a < 3; a++) point[a] = v->turn[a] * d[0] + v->turn[3 + a] * d[1] + v->turn[6 + a] * d[2];
}

void ph_true_matrix(const ph_case *c, const ph_view *v, double m[16])
{
    int a, b;
    memset(m, 0, 16 * sizeof *m);
    m[15] = 1.0;
    for (a = 0; a < 3; a++) {
        m[4 * a + 3] = c->grid.centre[a];
        for (b = 0; b < 3; b++) {
            m[4 * a + b] = (double)v->turn[3 * b + a];
            m[4 * a + 3] -= m[4 * a + b] * (c->grid.centre[b] + (double)v->move[b]);
        }
    }
}

/* >>head ----------------------------------------------------------------------------------------------------------- */

static const ph_tube ph_nose = {{0, 84, -38}, 7, {0, 98, -60}, 12};
static const ph_tube ph_neck = {{0, -36, -82}, 54, {0, -30, -240}, 60};
static const ph_tube ph_cord = {{0, -43, -64}, 6.0f, {0, -38, -240}, 5.5f};
static const ph_tube ph_spine = {{0, -20, -84}, 14, {0, -14, -240}, 16};
static const ph_tube ph_throat = {{0, 14, -68}, 9, {0, 4, -240}, 9};
static const ph_tube ph_jaw[2] = {{{50, 4, -64}, 7, {44, 32, -98}, 8}, {{44, 32, -98}, 8, {0, 72, -106}, 9}};
static const ph_tube ph_cheek[1] = {{{46, 56, -46}, 6, {66, 14, -40}, 3.5f}};
static const ph_tube ph_optic[1] = {{{31, 54, -27}, 2.2f, {12, 20, -20}, 2.2f}};

/* brain: distance to the border of the brain mask. */
static float ph_skin(const ph_case *c, const float p[4], float brain)
{
    const float x = fabsf(p[0]), y = p[1], z = p[2];
    float d = brain + c->head.skull + c->head.scalp;
    d = ph_smooth_max(d, ph_full_ellipsoid(x, y - 38.0f, z + 58.0f, 62.0f, 54.0f, 62.0f), 14.0f);
    d = ph_smooth_max(d, ph_tube_at(&ph_neck, x, y, z), 20.0f);
    d = ph_smooth_max(d, ph_tube_at(&ph_nose, x, y, z), 8.0f);
    return ph_max(d, ph_ellipsoid(x - 80.0f, y + 22.0f, z + 30.0f, 7.0f, 15.0f, 26.0f));
}

float ph_skin_at(const ph_case *c, const float world[3])
{
    float p[4], q[4], hull[3], brain = ph_locate(c, world, p, q, hull);
    return ph_skin(c, p, brain);
}

/* Air takes a share of what is there. */
static void ph_hollow(float *w, float f)
{
    int i;
    for (i = 0; i < PH_TISSUES; i++) w[i] *= 1.0f - f;
}

/* Compact bone with marrow 2 mm below its surface. */
static void ph_bone(float *w, float d, float h)
{
    ph_blend(w, PH_BONE, ph_inside(d, h));
    ph_blend(w, PH_FAT, 0.6f * ph_inside(d - 2.0f, h));
}

static void ph_soft(const ph_case *c, const float p[4], float skin, float lobule, float h, float *w)
{
    const float x = fabsf(p[0]), y = p[1], z = p[2], under = skin - 1.8f;
    float d;
    ph_blend(w, PH_MUSCLE, ph_inside(skin, h));
    ph_blend(w, PH_FAT, ph_inside(ph_min(under, c->head.fat - under), h));
    ph_blend(w, PH_FAT, ph_inside(ph_min(skin - 5.0f, 3.0f * (lobule - 0.9f)), h));
    ph_bone(w, ph_tube_at(&ph_spine, x, y, z), h);
    d = ph_tube_at(&ph_cord, x, y, z);
    ph_blend(w, PH_CSF, ph_inside(d + 4.0f, h));
    ph_blend(w, PH_WHITE, ph_inside(d, h));
    ph_bone(w, ph_tubes_at(ph_jaw, PH_COUNT(ph_jaw), x, y, z, 1.0f), h);
    ph_bone(w, ph_tubes_at(ph_cheek, PH_COUNT(ph_cheek), x, y, z, 1.0f), h);
    ph_bone(w, ph_ellipsoid(x, y - 60.0f, z + 76.0f, 28.0f, 20.0f, 9.0f), h);
    ph_blend(w, PH_FAT, ph_inside(ph_ellipsoid(x - 31.0f, y - 54.0f, z + 26.0f, 17.0f, 24.0f, 17.0f), h));
    ph_blend(w, PH_WHITE, ph_inside(ph_tubes_at(ph_optic, PH_COUNT(ph_optic), x, y, z, 1.0f), h));
    d = ph_ellipsoid(x - 32.0f, y - 67.0f, z + 27.0f, 12.0f, 12.0f, 12.0f);
    ph_blend(w, PH_MUSCLE, ph_inside(d, h));
    ph_blend(w, PH_CSF, ph_inside(d - 1.2f, h));    /* the eye is water, too */
    ph_blend(w, PH_MUSCLE, ph_inside(ph_ellipsoid(x - 32.0f, y - 75.0f, z + 27.0f, 4.5f, 2.5f, 4.5f), h));
}

/* Nose, sinuses, throat. */
static void ph_cavities(const float p[4], float h, float *w)
{
    const float x = fabsf(p[0]), y = p[1], z = p[2];
    float d = ph_ellipsoid(x - 7.0f, y - 66.0f, z + 52.0f, 6.0f, 26.0f, 18.0f);
    d = ph_max(d, ph_ellipsoid(x - 32.0f, y - 52.0f, z + 56.0f, 12.0f, 15.0f, 12.0f));
    d = ph_max(d, ph_ellipsoid(x, y - 22.0f, z + 37.0f, 12.0f, 11.0f, 9.0f));
    d = ph_max(d, ph_tube_at(&ph_throat, x, y, z));
    ph_hollow(w, ph_inside(d, h));
}

static void ph_skull(const ph_case *c, const float p[4], float brain, float lobule, float h, float *w)
{
    const float x = fabsf(p[0]), y = p[1], z = p[2];
    float thick = c->head.skull * (1.0f + 0.18f * ph_clamp(p[3], -1.5f, 1.5f)), d;
    thick *= ph_clamp((z + 80.0f) / 16.0f, 0.0f, 1.0f);    /* the hole that the cord leaves by */
    ph_blend(w, PH_BONE, ph_inside(brain + thick, h));
    d = ph_min(ph_min(brain + 0.72f * thick, -brain - 0.28f * thick), 0.3f * (z + 12.0f));
    ph_blend(w, PH_FAT, 0.7f * ph_inside(d, h));           /* marrow of the vault */
    d = ph_ellipsoid(x - 9.0f, y - 73.0f, z - 2.0f, 8.0f, 4.0f, 10.0f);
    d = ph_max(d, ph_min(ph_ellipsoid(x - 56.0f, y + 38.0f, z + 46.0f, 12.0f, 14.0f, 14.0f), 4.0f * (lobule - 0.2f)));
    ph_hollow(w, ph_inside(d, h));
}

float ph_head_point(const ph_case *c, const float world[3], float h, float *w)
{
    float p[4], q[4], hull[3], part[PH_TISSUES], brain = ph_locate(c, world, p, q, hull), inside = ph_inside(brain, h);
    int i;
    memset(w, 0, PH_TISSUES * sizeof *w);
    if (inside < 1.0f) {
        const float lobule = ph_noise_at(&c->head.lobules, p), skin = ph_skin(c, p, brain);
        ph_soft(c, p, skin, lobule, h, w);
        ph_cavities(p, h, w);
        ph_skull(c, p, brain, lobule, h, w);
    }
    if (inside > 0.0f) {
        ph_brain(c, p, q, hull, h, part);
        for (i = 0; i < PH_TISSUES; i++) w[i] = (1.0f - inside) * w[i] + inside * part[i];
    }
    return inside;
}
