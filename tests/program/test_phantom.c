/* test_phantom.c - what makes phantoms harder (phantom/variety.h) does what it says, and nothing where it is not asked
   for. Of cases as they are drawn; no volume is made. */
#include "examples/bmvp/phantom/variety.h"
#include "tests/support/check.h"

#include <stdlib.h>

static ph_options plain(void)
{
    ph_options o;
    memset(&o, 0, sizeof o);
    o.size = 64, o.seed = 5, o.fov = 240, o.cases = 40;
    o.modalities = 1u << PH_FLAIR | 1u << PH_T1 | 1u << PH_T1C | 1u << PH_T2;
    o.tumours = 1, o.high_grade = 0.5, o.motion = 5, o.first_scanner = 1;
    return o;
}

static ph_case *draw(const ph_options *o, int index)
{
    ph_case *c = (ph_case *)calloc(1, sizeof *c);
    if (c) ph_draw_case(c, o, index);
    return c;
}

static ph_sequence sequence_of(const ph_case *c, const ph_options *o, int modality)
{
    ph_sequence q;
    ph_sequence_draw(&q, modality, c->tissue, &c->scanner, (uint64_t)o->seed, (uint32_t)c->index);
    return q;
}

/* Mean over cases of |a - b| in a modality, in parts of white matter's signal. */
static float contrast(const ph_options *o, int modality, int a, int b)
{
    float sum = 0;
    int i;
    for (i = 0; i < 16; i++) {
        ph_case *c = draw(o, i);
        ph_sequence q;
        if (!CHECK(c != NULL)) return NAN;
        q = sequence_of(c, o, modality);
        sum += fabsf(q.signal[a] - q.signal[b]) / q.signal[PH_WHITE] / 16;
        free(c);
    }
    return sum;
}

/* Each pair of parts is alike in one weighting and differs in the other. */
static void test_overlap(void)
{
    ph_options easy = plain(), hard = plain();
    hard.overlap = 1;
    CHECK(contrast(&hard, PH_FLAIR, PH_SOLID, PH_OEDEMA) < 0.75f * contrast(&easy, PH_FLAIR, PH_SOLID, PH_OEDEMA));
    CHECK(contrast(&hard, PH_T1, PH_SOLID, PH_OEDEMA) > 1.7f * contrast(&easy, PH_T1, PH_SOLID, PH_OEDEMA));
    CHECK(contrast(&hard, PH_T1, PH_SOLID, PH_GREY) < 0.5f * contrast(&easy, PH_T1, PH_SOLID, PH_GREY));
    CHECK(contrast(&hard, PH_T2, PH_SOLID, PH_GREY) < 0.6f * contrast(&easy, PH_T2, PH_SOLID, PH_GREY));
    CHECK(contrast(&hard, PH_T1C, PH_ENHANCING, PH_CLOT) < 0.5f * contrast(&easy, PH_T1C, PH_ENHANCING, PH_CLOT));
    CHECK(contrast(&hard, PH_T1, PH_ENHANCING, PH_CLOT) > 0.5f);
    hard.overlap = 0.5;    /* between */
    CHECK(contrast(&hard, PH_T2, PH_SOLID, PH_GREY) < 0.9f * contrast(&easy, PH_T2, PH_SOLID, PH_GREY));
    CHECK(contrast(&hard, PH_T2, PH_SOLID, PH_GREY) > 0.5f * contrast(&easy, PH_T2, PH_SOLID, PH_GREY));
}

/* Spots of both kinds in white matter, in healthy heads too, none where none is asked for. */
static void test_decoys(void)
{
    ph_options o = plain();
    int i, k, spots = 0, kinds = 0, most = 0;
    o.tumours = 0;
    for (i = 0; i < 20; i++) {
        ph_case *c = draw(&o, i);
        if (!CHECK(c != NULL)) return;
        CHECK(c->n_decoys == 0);
        free(c);
    }
    o.decoys = 6;
    for (i = 0; i < 20; i++) {
        ph_case *c = draw(&o, i);
        if (!CHECK(c != NULL)) return;
        most = c->n_decoys > most ? c->n_decoys : most;
        for (k = 0; k < c->n_decoys; k++) {
            float w[PH_TISSUES];
            memset(w, 0, sizeof w);
            w[PH_WHITE] = 1;
            ph_decoys_blend(c, c->decoy[k].centre, 1, w);
            CHECK(w[c->decoy[k].tissue] > 0.99f);
            kinds |= c->decoy[k].tissue == PH_SCAR ? 1 : 2;
        }
        spots += c->n_decoys;
        free(c);
    }
    CHECK(most == 6 && kinds == 3);
    CHECK(spots > 40 && spots < 80);
}

/* Cases of one scanner share its protocol and coil; other numbers are other machines, in every data set the same. */
static void test_scanners(void)
{
    ph_options o = plain(), other = plain();
    ph_sequence first[2];
    int i, seen[2] = { 0, 0 }, same = 1;
    o.scanners = 2, o.first_scanner = 7;
    other.scanners = 1, other.first_scanner = 7, other.seed = 99;
    for (i = 0; i < 12; i++) {
        ph_case *c = draw(&o, i);
        int s;
        if (!CHECK(c != NULL)) return;
        s = c->scanner.number - 7;
        if (!CHECK(s == 0 || s == 1)) return;
        memcpy(c->tissue, ph_tissues, sizeof c->tissue);    /* the case's own apart */
        if (!seen[s]++) first[s] = sequence_of(c, &o, PH_T2);
        else {
            ph_sequence q = sequence_of(c, &o, PH_T2);
            CHECK_NEAR(q.signal[PH_GREY] / q.signal[PH_WHITE],
                       first[s].signal[PH_GREY] / first[s].signal[PH_WHITE], 1e-6);
        }
        free(c);
    }
    CHECK(seen[0] > 2 && seen[1] > 2);
    CHECK(fabsf(first[0].signal[PH_CSF] / first[0].signal[PH_WHITE] -
                first[1].signal[PH_CSF] / first[1].signal[PH_WHITE]) > 1e-3f);
    {
        ph_case *a = draw(&o, 0), *b = draw(&other, 0);
        for (i = 1; a && a->scanner.number != 7; i++) free(a), a = draw(&o, i);
        if (CHECK(a && b))
            same = memcmp(&a->scanner, &b->scanner, sizeof a->scanner) == 0;
        CHECK(same);
        free(a), free(b);
    }
}

/* Anatomy 1 varies more than 0: standard deviation of the ventricles' size; and both sides differ. */
static void test_anatomy(void)
{
    ph_options usual = plain(), wide = plain();
    double sum[2] = { 0, 0 }, square[2] = { 0, 0 };
    int i, k, lopsided = 0;
    wide.anatomy = 1;
    for (i = 0; i < 40; i++)
        for (k = 0; k < 2; k++) {
            ph_case *c = draw(k ? &wide : &usual, i);
            if (!CHECK(c != NULL)) return;
            sum[k] += (double)c->ventricle;
            square[k] += (double)c->ventricle * (double)c->ventricle;
            if (k) lopsided += fabsf(c->lopsided) > 0.1f;
            else CHECK(c->lopsided == 0);
            free(c);
        }
    CHECK(square[1] - sum[1] * sum[1] / 40 > 1.5 * (square[0] - sum[0] * sum[0] / 40));
    CHECK(lopsided > 20);
}

/* The five sets in their shares; the healthy one is healthy, and --missing takes from what a set has. */
static void test_sets(void)
{
    ph_options o = plain();
    int count[PH_SETS] = { 0, 0, 0, 0, 0 }, i, high[PH_SETS] = { 0, 0, 0, 0, 0 };
    o.as_sets = 1;
    o.modalities = (1u << PH_MODALITIES) - 1;
    for (i = 0; i < 1000; i++) {
        const int set = ph_draw_set(&o, i), grade = ph_draw_grade(&o, i);
        ++count[set];
        high[set] += grade == PH_HIGH_GRADE;
        CHECK(ph_draw_have(&o, i) == ph_set_have(set));
        CHECK((grade == PH_HEALTHY) == ph_set_is_healthy(set));
    }
    CHECK(abs(count[0] - 391) < 12 && abs(count[1] - 20) < 12 && abs(count[2] - 304) < 12);
    CHECK(abs(count[3] - 133) < 12 && abs(count[4] - 151) < 12);
    CHECK(abs(2 * high[0] - count[0]) < 60 && abs(2 * high[2] - count[2]) < 60);    /* grades go through the sets */
    o.missing = 1;
    for (i = 0; i < 50; i++) {
        const uint32_t have = ph_draw_have(&o, i), all = ph_set_have(ph_draw_set(&o, i));
        CHECK(have && (have & ~all) == 0 && have != all);
    }
}

int main(int argc, char **argv)
{
    check_begin(argc, argv);
    CHECK_RUN(test_overlap);
    CHECK_RUN(test_decoys);
    CHECK_RUN(test_scanners);
    CHECK_RUN(test_anatomy);
    CHECK_RUN(test_sets);
    return check_end();
}
