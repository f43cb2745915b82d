/* labels.h - what the values of label maps mean, as lists say it */
#ifndef LABELS_H_INCLUDED
#define LABELS_H_INCLUDED

#include "bmvp_tensor.h"
#include "bmvp_nn.h"
#include "bmvp_ssl.h"

/* "labels" (and "labels_kind") of a list or case, see dataset.h. name: of the list, for messages. */
bmvp_status labels_parse(const bmvp_json *labels, const char *kind, const char *name, bmvp_labels *out,
                         bmvp_error *err);
void labels_save(bmvp_jw *w, const bmvp_labels *l);

/* Rewrites n values from one definition into another: a value becomes the one that lies in the regions of the same
   names, what is ignored what is ignored. BMVP_E_FORMAT naming the value that has none. */
bmvp_status labels_translate(const bmvp_labels *from, const bmvp_labels *to, float *values, int64_t n, const char *path,
                             bmvp_error *err);

#endif
