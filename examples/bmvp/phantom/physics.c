/* physics.c - signal equations and the ranges that sequences are drawn from, see physics.h */
#include "physics.h"
#include "shapes.h"
#include <math.h>

const char *const ph_modality_names[PH_MODALITIES] = {"flair", "t1", "t1c", "t2", "mra", "pd", "dwi", "adc"};

/* T1, T2 of grey and white matter: Wansapura et al., J Magn Reson Imaging 1999 (3 T). T2* of cortex, white matter and
   putamen: Peters et al., Magn Reson Imaging 2007 (3 T). T1 of CSF: Rooney et al., Magn Reson Med 2007; its T2, about
   2 s, is a round value. Blood: Stanisz et al., Magn Reson Med 2005 (3 T). Proton densities: Kwan, Evans and Pike,
   IEEE Trans Med Imaging 1999 (BrainWeb). Diffusion of cortex, deep grey and white matter: Helenius et al., AJNR 2002;
   of CSF: free water at body temperature. Deep grey matter lies between cortex and white matter, with iron (short T2
   and T2*) in the pallidum: our interpolation. Fat and muscle: T1 and T2 of Gold et al., AJR 2004 (3 T); bone gives
   next to no signal: round values. The tumour rows are ours too: water content and relaxation times above normal tissue
   in the order solid < oedema < necrosis as gliomas show them, chosen for contrast, not measured; so are clot, scar and
   bleed, which only harder phantoms have (variety.h). */
const ph_tissue ph_tissues[PH_TISSUES] = {
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
    {1932,  275,   60, 0.90f, 1.50f, 1.20f},    /* blood */
    { 500,    1,  0.5f, 0.20f, 0.30f, 0.00f},   /* compact bone */
    { 371,  133,   50, 0.95f, 0.05f, 0.00f},    /* fat */
    {1420,   32,   25, 0.80f, 1.50f, 0.10f},    /* muscle, skin */
    { 574,  165,   60, 0.86f, 1.20f, 0.02f},    /* clotted core */
    {1331,  140,   90, 0.84f, 1.10f, 0.02f},    /* scar */
    { 574,  110,   40, 0.86f, 1.00f, 0.02f}     /* old bleed */
};

/* Relaxivity of gadobutrol in human plasma at 3 T, 1/(mmol/l)/ms: Szomolanyi et al., Invest Radiol 2019. */
#define PH_RELAXIVITY 0.00497

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

/* From a range; a scanner's is wider by a fifth to both sides. */
static double ph_setting(bmvp_rng *r, const float range[2], const ph_scanner *scanner)
{
    return scanner->number < 0 ? ph_range(r, range[0], range[1]) : ph_range(r, range[0] / 1.2f, range[1] * 1.2f);
}

/* A tissue in the field of a scanner; water keeps its T1. */
static ph_tissue ph_at_field(const ph_tissue *tissue, int which, const ph_scanner *scanner)
{
    ph_tissue t = *tissue;
    if (which != PH_CSF) t.t1 *= scanner->t1;
    return t;
}

/* The coil of the case, or the scanner's with a little of the case. */
static void ph_draw_bias(ph_sequence *q, int modality, const ph_scanner *scanner, bmvp_rng *own)
{
    int i;
    for (i = 0; i < 9; i++) {
        q->bias[i] = (scanner->number < 0 ? 0.13f : 0.4f * scanner->shade) * bmvp_rng_normal(own);
        if (scanner->number >= 0) q->bias[i] += scanner->bias[i];
        if (modality == PH_ADC) q->bias[i] = 0.0f;    /* a ratio of two images of one coil */
    }
}

void ph_sequence_draw(ph_sequence *q, int modality, const ph_tissue *tissue, const ph_scanner *scanner, uint64_t seed,
                      uint32_t index)
{
    int contrast = modality == PH_T1C, family = contrast ? PH_T1 : modality, i;
    bmvp_rng shared = scanner->number < 0
                          ? bmvp_rng_make(seed, PH_STREAM_SEQUENCE, index, (uint32_t)family)
                          : bmvp_rng_make(PH_SCANNER_SEED, PH_STREAM_SCANNER, (uint32_t)scanner->number,
                                          (uint32_t)family + 1);
    bmvp_rng own = bmvp_rng_make(seed, PH_STREAM_SEQUENCE, index, (uint32_t)(PH_MODALITIES + modality));
    int spin = family == PH_T1 && bmvp_rng_uniform(&shared) < 0.4f;
    const ph_protocol *p = spin ? &ph_t1_spin_echo : &ph_protocols[modality];
    double tr = ph_setting(&shared, p->tr, scanner), te = ph_setting(&shared, p->te, scanner);
    double flip = ph_setting(&shared, p->flip, scanner) * 3.14159265 / 180.0;    /* spin echoes do without */
    double null = tissue[PH_CSF].t1 * log(2.0 / (1.0 + exp(-tr / tissue[PH_CSF].t1)));    /* TI at which CSF is dark */
    double ti = null * ph_range(&shared, 0.95f, 1.03f), gain, white;
    for (i = 0; i < PH_TISSUES; i++) {
        const ph_tissue at = ph_at_field(&tissue[i], i, scanner), *s = &at;
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
    q->sigma = (float)gain * ph_range(&own, p->noise[0], p->noise[1]) * scanner->noise;
    ph_draw_bias(q, modality, scanner, &own);
    q->slope = bmvp_rng_uniform(&own) < 0.6f || modality == PH_ADC ? 1.0f : ph_range(&own, 0.4f, 2.5f);
}
