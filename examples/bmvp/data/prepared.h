/* prepared.h - a prepared data set: uncompressed NIfTI files, all modalities of a case on one grid */
#ifndef PREPARED_H_INCLUDED
#define PREPARED_H_INCLUDED

#include "dataset.h"

typedef struct prepared_set {
    dataset data;
    bmvp_ssl_case *cases;                 /* bit k = run modality k */
    int n_modalities;
    int known[BMVP_MODALITIES];           /* run modality -> known modality */
    const char *names[BMVP_MODALITIES];
    int64_t grid[3];                      /* D, H, W: the largest volume per axis */
} prepared_set;

/* Opens every file once. Fails with file names when files are compressed, missing, or modalities of a case lie on
   different grids. */
bmvp_status prepared_load(prepared_set *p, const char *list_or_dir, bmvp_error *err);
/* Is the prepared file there, and as long as its header says? */
int prepared_is_whole(const char *path);
void prepared_free(prepared_set *p);
/* Values of run modality m of case i: size[0] x size[1] x size[2] voxels (D, H, W) from `start`; zero outside of the
   volume. */
bmvp_status prepared_crop(const prepared_set *p, int64_t i, int m, const int64_t start[3], const int64_t size[3],
                          float *dst, bmvp_error *err);
/* The same of the case's label map, which must be there and on the grid of its images. */
bmvp_status prepared_label(const prepared_set *p, int64_t i, const int64_t start[3], const int64_t size[3], float *dst,
                           bmvp_error *err);

/* The text of the prepare.json beside the list: the settings the cases were prepared with; "" when there is none. */
bmvp_status prepared_settings(const prepared_set *p, char *text, size_t size, bmvp_error *err);

#endif
