/* variety.h - what makes phantoms harder: lesions whose parts are alike in any one image, spots that are no lesion,
   wider anatomy, scanners that differ, sets that lack modalities; all absent by default */
#ifndef VARIETY_H_INCLUDED
#define VARIETY_H_INCLUDED

#include "anatomy.h"

/* How far the parts of a lesion look alike (0..1, o->overlap): moves the case's tissues, drawn before, towards core and
   oedema alike in t2 and flair, core and cortex alike in t1, clotted core and enhancing part alike in t1c. */
void ph_overlap_tissue(ph_case *c, const ph_options *o);
/* Wider ranges (0..1, o->anatomy) of warp, folds, ventricles and their symmetry than ph_draw_anatomy has. */
void ph_widen_anatomy(ph_case *c, const ph_options *o);
/* Up to o->decoys spots in white matter that have no label: scars, bright in t2 and flair, and bleeds, bright in t1. */
void ph_draw_decoys(ph_case *c, const ph_options *o);
/* Puts the spots into the tissues of a point; p: its template position. */
void ph_decoys_blend(const ph_case *c, const float p[3], float h, float *w);
/* The scanner of a case (c->scanner; number -1: each case has a protocol of its own). */
void ph_draw_scanner(ph_case *c, const ph_options *o);

/* The sets that BrainMVP was pre-trained on (its section 4): share of the cases and what is there. */
enum { PH_SETS = 5 };
/* Which of them a case stands for (o->as_sets); the last has no tumours. */
int ph_draw_set(const ph_options *o, int index);
/* The modalities of a set. */
uint32_t ph_set_have(int set);
int ph_set_is_healthy(int set);

#endif
