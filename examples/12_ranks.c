/* 12_ranks.c - lesson 12: several ranks train as one

   What you learn: a rank is a process with its share of each step; here ranks are threads of one program, so that you
   see them all. Adding up gradients is not enough for two to equal one: batch normalisation has to see the whole
   batch (SyncBatchNorm), and the contrast has to look for a crop among those of all ranks (gathered negatives).
   What ranks exchange with is a table of six functions, bmvp_comm; tests/support/ranks.h fills one for threads, the
   program has others for sockets and MPI.
   Run:  cc -O2 -I. examples/12_ranks.c -o 12_ranks -lm -lpthread && ./12_ranks             (5 s; compiling: 20 s)
   You see, numbers within 1 % or 0.02 (tests: the best level, AVX2, C's vectors; `make course-levels`: plain, 16 s):
   | rank 0 alone 0.50 with the others 1.50
   | rank 1 alone 2.50 with the others 1.50
   | contrast of step 1, log 4 is 1.386, log 2 0.693
   | one rank 1.399 two with gathered negatives 1.399 two without 0.690
   | step 1: loss of one rank 1.9215 of two 1.9215
   | step 3: loss of one rank 1.6624 of two 1.6624
   | the two ranks: same bits
   | one rank and two: apart by 2.7e-07 of the largest, without gathering by 3.5e-02
   Exercises:
   1. Three ranks: who takes what of four crops, and are the bits those of two? Hint: RANKS; bmvp_trainer_share.
   2. Let each rank go on with its own gradients. Hint: without bmvp_set_comm before bmvp_ssl_create there is no sum;
      how far apart are the parameters after three steps?
   In the headers: bmvp_tensor.h >>comm; bmvp_nn.h >>data parallel; bmvp_ssl.h >>ranks, >>forward. */
#define BMVP_IMPLEMENTATION
#include "bmvp_tensor.h"
#include "bmvp_nn.h"
#include "bmvp_ssl.h"
#include "tests/support/ranks.h"
#include <math.h>

enum { EDGE = 32, N = EDGE * EDGE * EDGE, CROPS = 4, STEPS = 3, RANKS = 2 };
static float crop[CROPS][2][N]; /* of every case t1 and t2 */

/* What one rank does, and what it ends with. */
typedef struct worker {
    member me;                  /* its table of functions */
    int gather;                 /* contrast over the crops of all ranks */
    float batch_mean[2];        /* what batch normalisation took for the mean: alone, and with the others */
    double contrast[STEPS], total[STEPS];
    float *end;                 /* all parameters, one after the other */
    int64_t n;
    char said[512];             /* the first error */
} worker;

/* The running mean of a channel whose values are the numbers of the rank's crops: with momentum 1 that of the batch. */
static float mean_seen(bmvp_ctx *c, int first, int count)
{
    const int64_t dim[2] = { count, 1 }, one = 1;
    bmvp_tensor *mean = bmvp_buffer(c, "mean", 1, &one), *var = bmvp_buffer(c, "variance", 1, &one);
    float x[CROPS];
    int i;
    for (i = 0; i < count; ++i) x[i] = (float)(first + i);
    bmvp_fill(c, mean, 0), bmvp_fill(c, var, 1);
    bmvp_step_begin(c);
    (void)bmvp_batchnorm(c, bmvp_input(c, 2, dim, x), NULL, NULL, mean, var, 1, 1, 1e-5);
    return bmvp_scalar(c, mean);
}

static void train(worker *w, bmvp_ctx *c)
{
    const char *const names[2] = { "t1", "t2" };
    const int64_t grid[3] = { EDGE, EDGE, EDGE };
    bmvp_ssl_item item[CROPS];
    bmvp_ssl_config cfg;
    bmvp_net_config net;
    bmvp_ssl_losses l;
    bmvp_state_list *state;
    bmvp_ssl *s;
    int i, first, count;
    (void)bmvp_ssl_preset("paper", &cfg);
    cfg.crop = EDGE, cfg.batch = CROPS, cfg.contrast_from_epoch = 0, cfg.optimizer = 1, cfg.beta1 = 0;
    cfg.gather_negatives = w->gather;
    (void)bmvp_net_preset("uniformer_tiny", &net);
    s = bmvp_ssl_create(c, &net, &cfg, 2, names, grid);
    if (!s) return;
    count = bmvp_ssl_share(CROPS, w->me.table.rank, w->me.table.size, &first);
    memset(item, 0, sizeof item);
    for (i = 0; i < count; ++i) { /* its share of the crops; slot: number within the step, names the masks */
        item[i].x = crop[first + i][0], item[i].other = crop[first + i][1], item[i].slot = (uint32_t)(first + i);
    }
    for (i = 0; i < STEPS && !bmvp_ssl_step(s, item, count, 0.05, &l); ++i)
        w->contrast[i] = l.cl, w->total[i] = l.total;
    state = bmvp_ssl_state(s);
    for (i = 0; i < state->n; ++i) w->n += state->item[i].trained ? state->item[i].t->numel : 0;
    w->end = (float *)malloc((size_t)w->n * sizeof *w->end);
    for (w->n = 0, i = 0; i < state->n && w->end; ++i) {
        if (!state->item[i].trained) continue;
        (void)bmvp_read(c, state->item[i].t, w->end + w->n);
        w->n += state->item[i].t->numel;
    }
    bmvp_ssl_destroy(s);
}

static void *work(void *arg)
{
    worker *w = (worker *)arg;
    bmvp_config k = bmvp_config_default();
    bmvp_ctx *c;
    int first, count = bmvp_ssl_share(CROPS, w->me.table.rank, w->me.table.size, &first);
    k.threads = 1;
    c = bmvp_create(&k, NULL);
    if (!c) return NULL;
    w->batch_mean[0] = mean_seen(c, first, count);
    if (w->me.of) bmvp_set_comm(c, &w->me.table); /* from here on the context is one of several */
    w->batch_mean[1] = mean_seen(c, first, count);
    train(w, c);
    if (bmvp_failed(c)) {
        snprintf(w->said, sizeof w->said, "%s", bmvp_error_of(c)->message);
        if (w->me.of) w->me.table.abort(&w->me.table, w->said); /* the others would wait for ever */
    }
    bmvp_destroy(c);
    return NULL;
}

/* A thread a rank; one alone has no table. */
static void run(worker *w, int size, int gather)
{
    static group g;
    pthread_t thread[MOST];
    int i;
    group_open(&g, size);
    for (i = 0; i < size; ++i) {
        memset(&w[i], 0, sizeof w[i]);
        w[i].gather = gather;
        join(&w[i].me, size > 1 ? &g : NULL, i, 0);
    }
    for (i = 0; i < size; ++i) (void)pthread_create(&thread[i], NULL, work, &w[i]);
    for (i = 0; i < size; ++i) pthread_join(thread[i], NULL);
    for (i = 0; i < size; ++i) if (w[i].said[0]) printf("rank %d: %s\n", i, w[i].said);
    group_close(&g);
}

/* Largest difference of parameters / the largest parameter */
static double apart(const worker *a, const worker *b)
{
    double most = 0, worst = 0;
    int64_t i;
    if (!a->end || !b->end || a->n != b->n) return HUGE_VAL;
    for (i = 0; i < a->n; ++i) {
        const double x = (double)a->end[i], d = fabs(x - (double)b->end[i]);
        most = fabs(x) > most ? fabs(x) : most;
        if (d > worst || isnan(d)) worst = d; /* a NaN stays: nothing is larger than it */
    }
    return worst / most;
}

int main(void)
{
    static worker one[1], two[RANKS], alone[RANKS];
    int i, k;
    for (i = 0; i < CROPS; ++i)
        for (k = 0; k < N; ++k) {
            crop[i][0][k] = (float)(k / (5 + i) % 8 + k / 1024 % 4) / 11;
            crop[i][1][k] = 1 - crop[i][0][k];
        }
    run(one, 1, 1), run(two, RANKS, 1), run(alone, RANKS, 0);
    printf("values 0 1 2 3, half of them on each of %d ranks: what batch normalisation takes for their mean\n", RANKS);
    for (i = 0; i < RANKS; ++i)
        printf("rank %d alone %.2f with the others %.2f\n", i, (double)two[i].batch_mean[0],
               (double)two[i].batch_mean[1]);
    printf("contrast of step 1, log 4 is %.3f, log 2 %.3f\n", log(4.0), log(2.0));
    printf("one rank %.3f two with gathered negatives %.3f two without %.3f\n", one->contrast[0], two->contrast[0],
           alone->contrast[0]);
    for (i = 0; i < STEPS; ++i)
        printf("step %d: loss of one rank %.4f of two %.4f\n", i + 1, one->total[i], two->total[i]);
    printf("after %d steps, parameters\n", STEPS);
    printf("the two ranks: %s\n", apart(&two[0], &two[1]) == 0 ? "same bits" : "they differ");
    printf("one rank and two: apart by %.1e of the largest, without gathering by %.1e\n", apart(one, two),
           apart(one, alone));
    for (i = 0; i < RANKS; ++i) free(two[i].end), free(alone[i].end);
    free(one->end);
    return 0;
}
