/* infer.h - a fine-tuned network over a whole prepared case in memory (used by predict and by the validation of finetune) */
#ifndef BMVP_INFER_H_INCLUDED
#define BMVP_INFER_H_INCLUDED

#include "bmvp_tensor.h"
#include "bmvp_nn.h"
#include "bmvp_ssl.h"

typedef struct bmvp_infer_case {
    const float *image[BMVP_MODALITIES]; /* by modality of the task, dim voxels in [0, 1]; NULL: missing, filled as the checkpoint says */
    int64_t dim[3];                      /* D, H, W */
} bmvp_infer_case;

/* Sliding windows over the case; planes of probabilities (H, W, outputs) in order. NULL `planes` fails. */
bmvp_status bmvp_infer_segment(bmvp_ctx *c, bmvp_ft *f, const bmvp_infer_case *k, const bmvp_window *w,
                               bmvp_status (*planes)(void *user, int64_t z0, int64_t n, const float *values), void *user, bmvp_error *err);
/* Classification: centre crop -> probability of each class. */
bmvp_status bmvp_infer_classify(bmvp_ctx *c, bmvp_ft *f, const bmvp_infer_case *k, float *probability, bmvp_error *err);

#endif
