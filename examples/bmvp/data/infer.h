/* infer.h - a fine-tuned network over a whole prepared case in memory (used by predict and by the validation of finetune) */
#ifndef INFER_H_INCLUDED
#define INFER_H_INCLUDED

#include "bmvp_tensor.h"
#include "bmvp_nn.h"
#include "bmvp_ssl.h"

typedef struct infer_input {
    const float *image[BMVP_MODALITIES]; /* by modality of the task, dim voxels in [0, 1]; NULL: missing, filled as the checkpoint says */
    int64_t dim[3];                      /* D, H, W */
} infer_input;

/* Sliding windows over the case; planes of probabilities (H, W, outputs) in order. NULL `planes` fails. */
bmvp_status infer_segment(bmvp_ctx *c, bmvp_ft *f, const infer_input *k, const bmvp_window *w,
                          bmvp_status (*planes)(void *user, int64_t z0, int64_t n, const float *values), void *user, bmvp_error *err);
/* Classification: centre crop -> probability of each class. */
bmvp_status infer_classify(bmvp_ctx *c, bmvp_ft *f, const infer_input *k, float *probability, bmvp_error *err);

#endif
