/* coder.h - an auto-encoder of whole regions of scans, whose codes say which are alike (words.h) */
#ifndef CODER_H_INCLUDED
#define CODER_H_INCLUDED

#include "methods.h"

/* Four levels of two convolutions (3^3, batch norm, ReLU), width and 2 width channels at full size, doubled with each
   pooling, and back by nearest voxels. No skips, which would carry the picture past the code: the 16 width averages of
   the coarsest map. */
enum { CODER_CONVS = 14 };
typedef struct coder { bmvp_module m; bmvp_layer conv[CODER_CONVS], norm[CODER_CONVS], last; } coder;
void coder_make(coder *k, bmvp_ctx *c, bmvp_state_list *list, int64_t width);
/* Mean square of what it makes of the regions of this pass, crop^3 voxels resized to edge^3; NULL: a failure. */
bmvp_tensor *coder_loss(bmvp_pass *p, coder *k, int64_t crop, int64_t edge);
/* Codes of n regions, by the statistics of training: of number i at code + i apart. In a plan its memory alone. */
void coder_codes(coder *k, int64_t n, const float *const *region, int64_t crop, int64_t edge, float *code,
                 int64_t apart);

#endif
