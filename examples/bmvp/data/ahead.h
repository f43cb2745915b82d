/* ahead.h - a step's data, read ahead by a thread */
#ifndef AHEAD_H_INCLUDED
#define AHEAD_H_INCLUDED

#include <pthread.h>
#include "bmvp_tensor.h"

/* Reads what step `step` needs into buffer 0 or 1. */
typedef bmvp_status (*read_ahead_fn)(void *user, int buffer, int64_t step, bmvp_error *err);
typedef struct read_ahead {
    read_ahead_fn fn;
    void *user;
    int64_t next, step[2];
    int ready[2], running, quit;
    bmvp_status status[2];
    bmvp_error err[2];
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t changed;
} read_ahead;
/* Starts reading step `first` and those after it. */
bmvp_status read_ahead_start(read_ahead *a, read_ahead_fn fn, void *user, int64_t first, bmvp_error *err);
/* Waits for `step`, which must follow the last one; its buffer stays as it is until the next call. Returns the buffer,
   -1 after an error. */
int read_ahead_get(read_ahead *a, int64_t step, bmvp_error *err);
void read_ahead_stop(read_ahead *a); /* zero-initialised or stopped: fine */

/* Where a session begins; samples of a later step of it. */
typedef struct read_start { int64_t step, samples; } read_start;
int64_t read_position(const read_start *at, int64_t step, int batch);

/* What the two steps lie in, whatever is trained: draws, items and their voxels, and scratch for the order of cases. */
typedef struct read_buffers {
    int64_t *order;
    void *draw[2], *item[2];
    float *voxels[2];
} read_buffers;
typedef struct read_sizes { /* of one step: how many, and their bytes */
    int64_t cases;
    size_t draws, draw, items, item, voxels;
} read_sizes;
/* Draws and items begin as zeros. Free it after a failure, too. */
bmvp_status read_buffers_make(read_buffers *b, const read_sizes *n, bmvp_error *err);
void read_buffers_free(read_buffers *b); /* zero-initialised or freed: fine */

#endif
