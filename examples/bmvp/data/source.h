/* source.h - where a prepared file comes from, so that what is found in a folder is used only if it fits */
#ifndef SOURCE_H_INCLUDED
#define SOURCE_H_INCLUDED

#include <stddef.h>
#include <stdint.h>
#include "bmvp_tensor.h"
#include "bmvp_nn.h"

typedef struct data_source {
    char *path;          /* absolute */
    int64_t bytes;       /* of the file; of a .hdr with its .img */
    int64_t modified;    /* seconds since 1970 */
    uint64_t hash;       /* FNV-1a of the first and last 64 KiB and the size */
} data_source;

/* FNV-1a, gone on with from hash */
#define SOURCE_HASH 0xcbf29ce484222325u
uint64_t source_hash(uint64_t hash, const void *data, size_t n);
/* BMVP_E_IO: the file cannot be read. */
bmvp_status source_read(data_source *s, const char *path, bmvp_error *err);
int source_equal(const data_source *a, const data_source *b); /* the same content, wherever it lies */
void source_free(data_source *s);
void source_write(bmvp_jw *w, const char *key, const data_source *s);
/* What source_write wrote; 0: it is not that. */
int source_parse(const bmvp_json *node, data_source *s);

#endif
