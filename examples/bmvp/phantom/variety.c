/* variety.c - harder phantoms, see variety.h. Every number here is drawn from a stream of its own, after those of the
   phantom without it, so that a set keeps its bytes where nothing is asked for. */
#include "variety.h"
#include <math.h>
#include <string.h>

/* >>lesions -------------------------------------------------------------------------------------------------------- */

/* What overlap 1 means. Chosen by the signal equations of physics.c, not measured: core and oedema have T2s that give
   t2 and flair images a contrast below their usual noise and bias; the core has the T1 and density of cortex, oedema
   those of white matter; gadolinium brings the enhancing part to about what a clot is without it. */
typedef struct ph_alike {
    int tissue;
    float t1, t2, density, gadolinium;
} ph_alike;
static const ph_alike ph_alikes[] = {
    {PH_NECROSIS,  1331, 130, 0.86f, 0.02f},
    {PH_SOLID,     1331, 130, 0.86f, 0.02f},
    {PH_ENHANCING, 1331, 130, 0.86f, 0.20f},
    {PH_OEDEMA,     832, 118, 0.77f, 0.01f},
    {PH_CLOT,       574, 130, 0.86f, 0.02f}
};

void ph_overlap_tissue(ph_case *c, const ph_options *o)
{
    bmvp_rng r = bmvp_rng_make((uint64_t)o->seed, PH_STREAM_OVERLAP, (uint32_t)c->index, 0);
    const float share = (float)o->overlap;
    const float own = 1.0f - 0.7f * share;    /* parts differ less from case to case than whole lesions do */
    const float shade = expf(0.1f * share * bmvp_rng_normal(&r));    /* of the whole lesion: no threshold fits all */
    int i;
    if (!(share > 0.0f)) return;
    for (i = 0; i < PH_COUNT(ph_alikes); i++) {
        const ph_alike *to = &ph_alikes[i];
        const ph_tissue *from = &ph_tissues[to->tissue];
        ph_tissue *t = &c->tissue[to->tissue];
        t->t1 = from->t1 * powf(t->t1 / from->t1, own) * powf(to->t1 / from->t1, share);
        t->t2 = from->t2 * powf(t->t2 / from->t2, own) * powf(to->t2 / from->t2, share) * shade;
        t->density = ph_min(t->density * powf(to->density / from->density, share), 1.0f);
        t->gadolinium *= powf(to->gadolinium / from->gadolinium, share);
    }
    c->clot = share * ph_range(&r, 0.0f, 0.9f);
}

/* >>decoys --------------------------------------------------------------------------------------------------------- */

void ph_draw_decoys(ph_case *c, const ph_options *o)
{
    bmvp_rng r = bmvp_rng_make((uint64_t)o->seed, PH_STREAM_DECOYS, (uint32_t)c->index, 0);
    int want = (int)bmvp_rng_below(&r, (uint32_t)o->decoys + 1), tries;
    c->n_decoys = 0;
    for (tries = 0; tries < 100 * want && c->n_decoys < want; tries++) {
        ph_decoy *d = &c->decoy[c->n_decoys];
        float x = ph_range(&r, -60.0f, 60.0f), y = ph_range(&r, -90.0f, 60.0f), z = ph_range(&r, -25.0f, 65.0f), p[3];
        float pick = bmvp_rng_uniform(&r), radius = ph_range(&r, 2.5f, 7.0f);
        p[0] = x, p[1] = y, p[2] = z;
        if (ph_cerebrum_at(p) < 8.0f + radius || fabsf(x) < 6.0f + radius) continue;
        if (ph_tubes_at(ph_ventricle_tubes, PH_COUNT(ph_ventricle_tubes), fabsf(x), y, z, 1.0f) > -radius) continue;
        d->tissue = pick < 0.65f ? PH_SCAR : PH_BLEED;
        d->radius = radius;
        memcpy(d->centre, p, sizeof p);
        c->n_decoys++;
    }
}

void ph_decoys_blend(const ph_case *c, const float p[3], float h, float *w)
{
    int i;
    for (i = 0; i < c->n_decoys; i++) {
        const ph_decoy *d = &c->decoy[i];
        float off = ph_length(p[0] - d->centre[0], p[1] - d->centre[1], p[2] - d->centre[2]);
        if (off < d->radius + h) ph_blend(w, d->tissue, ph_inside(d->radius - off, h) * (1.0f - w[PH_CSF]));
    }
}

/* >>anatomy -------------------------------------------------------------------------------------------------------- */

void ph_widen_anatomy(ph_case *c, const ph_options *o)
{
    bmvp_rng r = bmvp_rng_make((uint64_t)o->seed, PH_STREAM_WIDE, (uint32_t)c->index, 0);
    const float wide = (float)o->anatomy;
    float warp = 1.0f + wide * bmvp_rng_uniform(&r), fold = expf(wide * ph_range(&r, -0.25f, 0.25f));
    int i, a, b;
    if (!(wide > 0.0f)) return;
    for (i = 0; i < PH_LATTICE * PH_LATTICE * PH_LATTICE; i++)
        for (a = 0; a < 3; a++) c->slow[i][a] *= warp;
    for (i = 0; i < c->folds.n; i++) {
        c->folds.kx[i] *= fold;
        c->folds.ky[i] *= fold;
        c->folds.kz[i] *= fold;
    }
    for (a = 0; a < 3; a++) {    /* narrower heads only: the render loop knows how far the largest reaches */
        float axis = expf(wide * ph_range(&r, 0.0f, 0.1f));
        for (b = 0; b < 3; b++) c->linear[3 * a + b] *= axis;
    }
    c->ventricle *= expf(wide * ph_range(&r, -0.4f, 0.5f));
    c->lopsided = wide * ph_range(&r, -0.35f, 0.35f);
    c->sulcus_width += wide * ph_range(&r, 0.0f, 0.6f);
    c->sulcus_depth *= expf(wide * ph_range(&r, -0.2f, 0.2f));
    c->cortex *= expf(wide * ph_range(&r, -0.15f, 0.15f));
}

/* >>scanners ------------------------------------------------------------------------------------------------------- */

void ph_draw_scanner(ph_case *c, const ph_options *o)
{
    bmvp_rng which = bmvp_rng_make((uint64_t)o->seed, PH_STREAM_SITE, (uint32_t)c->index, 0), r;
    ph_scanner *s = &c->scanner;
    int i;
    s->number = -1;
    s->t1 = s->noise = s->blur = 1.0f;
    if (o->scanners == 0) return;
    s->number = (int)o->first_scanner + (int)bmvp_rng_below(&which, (uint32_t)o->scanners);
    r = bmvp_rng_make(PH_SCANNER_SEED, PH_STREAM_SCANNER, (uint32_t)s->number, 0);
    s->t1 = bmvp_rng_uniform(&r) < 0.4f ? 0.75f : 1.0f;    /* about what T1 is at 1.5 T to 3 T */
    s->noise = expf(ph_range(&r, -0.4f, 0.9f));
    s->blur = ph_range(&r, 1.0f, 1.7f);
    s->shade = ph_range(&r, 0.08f, 0.25f);
    for (i = 0; i < 9; i++) s->bias[i] = s->shade * bmvp_rng_normal(&r);
}

/* >>sets ----------------------------------------------------------------------------------------------------------- */

#define PH_BIT(m) ((uint32_t)1 << (m))
#define PH_BRATS (PH_BIT(PH_FLAIR) | PH_BIT(PH_T1) | PH_BIT(PH_T1C) | PH_BIT(PH_T2))
typedef struct ph_set {
    int cases, healthy;
    uint32_t have;
} ph_set;
static const ph_set ph_sets[PH_SETS] = {
    {1470, 0, PH_BRATS},                                                        /* BraTS2021 */
    {75,   0, PH_BRATS},                                                        /* BraTS2023-SSA */
    {1141, 0, PH_BRATS},                                                        /* BraTS2023-MEN */
    {501,  0, PH_BRATS | PH_BIT(PH_DWI) | PH_BIT(PH_ADC)},                      /* UCSF-PDGM */
    {568,  1, PH_BIT(PH_T1) | PH_BIT(PH_T2) | PH_BIT(PH_PD) | PH_BIT(PH_MRA)}   /* IXI: volunteers */
};

/* Steps of sqrt(2) spread the sets evenly and, unlike golden-ratio steps, independently of the grades. */
int ph_draw_set(const ph_options *o, int index)
{
    bmvp_rng r = bmvp_rng_make((uint64_t)o->seed, PH_STREAM_SETS, 0, 0);
    double u = fmod(bmvp_rng_uniform(&r) + 0.41421356237309505 * (double)(index + 1), 1.0), total = 0, below = 0;
    int i;
    for (i = 0; i < PH_SETS; i++) total += ph_sets[i].cases;
    for (i = 0; i + 1 < PH_SETS; i++) {
        below += ph_sets[i].cases / total;
        if (u < below) break;
    }
    return i;
}

uint32_t ph_set_have(int set) { return ph_sets[set].have; }
int ph_set_is_healthy(int set) { return ph_sets[set].healthy; }
