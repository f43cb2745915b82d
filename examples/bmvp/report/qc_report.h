/* qc_report.h - qc.html: whether the images of prepared cases lie on each other, and what was taken for brain */
#ifndef QC_REPORT_H_INCLUDED
#define QC_REPORT_H_INCLUDED

#include "data/dataset.h"

/* DIR/qc.html of the prepared cases d, which were made from those of `from` of the same names, in their order: a table
   of all, those whose masks and loops are doubtful first; of the first 24 three planes of each image with the edges of
   the reference and the outline of the mask. What prepare wrote is read: DIR/ID/transforms.json, brain_mask.nii.gz
   (either may be missing) and the images; of cases with a mask, the images of `from`, by the matrices of
   transforms.json, so that what the mask cuts away is seen. */
bmvp_status qc_report(const char *dir, const dataset *d, const dataset *from, bmvp_error *err);

#endif
