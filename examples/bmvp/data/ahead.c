/* ahead.c - a step's data, read ahead by a thread, see ahead.h */
#define _DEFAULT_SOURCE
#include "ahead.h"
#include <stdlib.h>
#include <string.h>

static void *ahead_main(void *arg)
{
    read_ahead *a = (read_ahead *)arg;
    pthread_mutex_lock(&a->lock);
    while (!a->quit) {
        const int64_t step = a->next;
        const int b = (int)(step % 2);
        if (a->ready[b]) {
            pthread_cond_wait(&a->changed, &a->lock);
            continue;
        }
        pthread_mutex_unlock(&a->lock);
        a->status[b] = a->fn(a->user, b, step, &a->err[b]);
        pthread_mutex_lock(&a->lock);
        a->step[b] = step;
        a->ready[b] = 1;
        ++a->next;
        pthread_cond_broadcast(&a->changed);
    }
    pthread_mutex_unlock(&a->lock);
    return NULL;
}

bmvp_status read_ahead_start(read_ahead *a, read_ahead_fn fn, void *user, int64_t first, bmvp_error *err)
{
    memset(a, 0, sizeof *a);
    a->fn = fn;
    a->user = user;
    a->next = first;
    pthread_mutex_init(&a->lock, NULL);
    pthread_cond_init(&a->changed, NULL);
    a->running = pthread_create(&a->thread, NULL, ahead_main, a) == 0;
    if (a->running) return BMVP_OK;
    pthread_mutex_destroy(&a->lock);
    pthread_cond_destroy(&a->changed);
    return bmvp_error_set(err, BMVP_E_OOM, "no thread for reading crops ahead");
}

int read_ahead_get(read_ahead *a, int64_t step, bmvp_error *err)
{
    const int b = (int)(step % 2), before = 1 - b;
    pthread_mutex_lock(&a->lock);
    if (a->ready[before] && a->step[before] == step - 1) a->ready[before] = 0; /* the caller is done with it */
    pthread_cond_broadcast(&a->changed);
    while (!a->ready[b]) pthread_cond_wait(&a->changed, &a->lock);
    pthread_mutex_unlock(&a->lock);
    if (a->status[b] == BMVP_OK && a->step[b] == step) return b;
    if (a->status[b]) bmvp_error_set(err, a->status[b], "%s", a->err[b].message);
    else
        bmvp_error_set(err, BMVP_E_INTERNAL, "crops of step %lld were read, not of %lld", (long long)a->step[b],
                       (long long)step);
    return -1;
}

void read_ahead_stop(read_ahead *a)
{
    if (!a->running) return;
    pthread_mutex_lock(&a->lock);
    a->quit = 1;
    a->ready[0] = a->ready[1] = 0;
    pthread_cond_broadcast(&a->changed);
    pthread_mutex_unlock(&a->lock);
    pthread_join(a->thread, NULL);
    pthread_mutex_destroy(&a->lock);
    pthread_cond_destroy(&a->changed);
    a->running = 0;
}

int64_t read_position(const read_start *at, int64_t step, int batch) { return at->samples + (step - at->step) * batch; }

bmvp_status read_buffers_make(read_buffers *b, const read_sizes *n, bmvp_error *err)
{
    int i, ok;
    memset(b, 0, sizeof *b);
    b->order = (int64_t *)malloc((size_t)n->cases * sizeof *b->order);
    ok = b->order != NULL;
    for (i = 0; i < 2; ++i) {
        b->draw[i] = calloc(n->draws, n->draw);
        b->item[i] = calloc(n->items, n->item);
        b->voxels[i] = (float *)malloc(n->voxels * sizeof(float));
        ok = ok && b->draw[i] && b->item[i] && b->voxels[i];
    }
    if (ok) return BMVP_OK;
    return bmvp_error_set(err, BMVP_E_OOM, "no memory for reading crops ahead (%.1f MB)", (double)n->voxels * 8e-6);
}

void read_buffers_free(read_buffers *b)
{
    int i;
    free(b->order);
    for (i = 0; i < 2; ++i) {
        free(b->draw[i]);
        free(b->item[i]);
        free(b->voxels[i]);
    }
    memset(b, 0, sizeof *b);
}
