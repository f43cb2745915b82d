/* info_volume.h - what `bmvp info` says of a volume */
#ifndef INFO_VOLUME_H_INCLUDED
#define INFO_VOLUME_H_INCLUDED

#include "bmvp_nifti.h"
#include "bmvp_tensor.h"
#include "bmvp_nn.h"

/* Header fields of `image`, which was read from `path`, and the figures of its voxels, which are read there. Voxels
   that cannot be read are said under "voxels". */
void info_volume(bmvp_jw *w, const char *path, const bmvp_nii_image *image);

#endif
