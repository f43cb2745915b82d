/* head.h - what lies around the brain of a phantom, and how its images were taken */
#ifndef HEAD_H_INCLUDED
#define HEAD_H_INCLUDED

#include "anatomy.h"

/* Bone, scalp and the view of each modality of a case that is drawn otherwise. */
void ph_draw_head(ph_case *c, const ph_options *o);
/* Distance to the skin at a world point, positive inside. */
float ph_skin_at(const ph_case *c, const float world[3]);
/* Fractions of the tissues in a cube of width h around a world point; what they lack to 1 is air. Returns the share of
   it that lies in the brain mask. */
float ph_head_point(const ph_case *c, const float world[3], float h, float *w);
/* A scanner's point of a view, mm from the case's origin, in the head; and back. */
void ph_to_head(const ph_view *v, const float point[3], float world[3]);
void ph_from_head(const ph_view *v, const float world[3], float point[3]);
/* The truth of registration: header mm of the first image -> header mm of the view. */
void ph_true_matrix(const ph_case *c, const ph_view *v, double m[16]);

#endif
