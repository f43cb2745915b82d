/* alignment.h - what brought the images of a case to one grid: said, and kept in files */
#ifndef ALIGNMENT_H_INCLUDED
#define ALIGNMENT_H_INCLUDED

#include "dataset.h"

/* A line on stdout with reference, turn, shift and loop of each image, a warning on stderr for a loop above 1 mm; and
   atlas_say. */
void alignment_say(const char *id, const bmvp_prepared_images *p, const bmvp_preparation *how);
/* Into the case's folder: transforms.json (matrices, NMI, overlap, turn, shift, loop; direction "reference mm to image
   mm, RAS", or "template mm ..") with atlas_write's members, and for each image that was moved NAME.tfm, the same
   matrix for ITK. */
bmvp_status alignment_write(const char *dir, const bmvp_prepared_images *p, const bmvp_preparation *how,
                            bmvp_error *err);

#endif
