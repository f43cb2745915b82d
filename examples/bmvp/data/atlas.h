/* atlas.h - the template head of --template: its files, and what is said of the masks made with it */
#ifndef ATLAS_H_INCLUDED
#define ATLAS_H_INCLUDED

#include "dataset.h"

typedef struct atlas {
    bmvp_nii_volume head, brain;
    bmvp_atlas is; /* points to them */
} atlas;

/* file: of the head, or "auto": Debian's mricron-data (Colin27), with its brain unless one is named. brain: its file,
   or NULL. Zeroes a; afterwards atlas_free. BMVP_E_IO names what to install. */
bmvp_status atlas_load(atlas *a, const char *file, const char *brain, bmvp_error *err);
void atlas_free(atlas *a);

/* Lines on stdout: how much brain, or that there was no head to be taken away; warnings on stderr. */
void atlas_say(const char *id, const bmvp_prepared_images *p, const bmvp_preparation *how);
/* The same of a mask that is doubtful, on stderr. */
void atlas_warn(const char *id, const bmvp_nii_brain_report *report);
/* Members "template" and "brain" of an object. */
void atlas_write(bmvp_jw *w, const bmvp_prepared_images *p, const bmvp_preparation *how);

#endif
