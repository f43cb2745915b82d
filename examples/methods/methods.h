/* methods.h - the pre-training methods of the paper's tables, one file each

   A file of this folder holds a method as its paper has it: what is done to a crop (corruption), what the network is
   asked for (heads and loss), and the settings. It is a bmvp_method: schedule, clipping, checkpoints, ranks and log
   are the trainer's (bmvp_ssl.h, >>trainer), reading crops and the report page are the program's
   (examples/bmvp/commands/pretrain.c).

   Corruptions are functions of a crop and of draws, and the draws come from outside: from the trainer's generator in
   training, from a list in tests, where they are the ones that the authors' own code drew. */
#ifndef METHODS_H_INCLUDED
#define METHODS_H_INCLUDED

#include "bmvp_tensor.h"
#include "bmvp_nn.h"
#include "bmvp_ssl.h"

/* >>draws ---------------------------------------------------------------------------------------------------------- */

typedef struct draws {
    double (*uniform)(void *user);                                  /* [0, 1) */
    int64_t (*whole)(void *user, int64_t low, int64_t high);        /* low..high, both may come */
    void (*order)(void *user, int64_t n, int32_t *out);             /* out[i] = p(i), a permutation of 0..n-1 */
    void (*noise)(void *user, int64_t n, float *out);               /* n numbers in [0, 1) */
    void *user;
} draws;
draws draws_of(bmvp_rng *r); /* the library's generator; it must outlive them */

/* >>items ---------------------------------------------------------------------------------------------------------- */

typedef struct method_item { /* a crop, edge^3 voxels in [0, 1], z y x */
    const float *x;
    int modality;
    uint32_t slot;           /* names its random numbers */
} method_item;

/* >>table ---------------------------------------------------------------------------------------------------------- */

#define METHOD_FIELDS(X) X(int, crop, 16, 1024, "edge of the cubic crop in voxels")
/* The config of each begins with these. */
typedef struct method_config { BMVP_RUN_MEMBERS METHOD_FIELDS(BMVP_FIELD_MEMBER) } method_config;

typedef struct method_row {
    const char *name, *title, *source; /* as --method says it, in words, the paper */
    const char *network, *fast;        /* its own network, and the tiny one of preset fast */
    const bmvp_method *(*method)(void);
    int (*preset)(const char *name, void *config); /* release, paper, fast; 0: unknown */
    /* A look at one crop: what the network was given and what it made of it, both as large as the crop. NULL: the
       program has a page of its own for it. */
    bmvp_status (*look)(bmvp_trainer *t, const method_item *item, float *seen, float *back);
} method_row;

enum { METHOD_STREAM = 100 }; /* of a method's random numbers, bmvp_pass_rng */
/* What the network rebuilds of a crop, through a sigmoid or as it is. */
bmvp_status method_look(bmvp_trainer *t, int edge, const float *seen, int sigmoid, float *back);

const method_row *method_at(int i);              /* NULL past the last */
const method_row *method_find(const char *name); /* NULL: there is none */
const char *method_names(void);                  /* "brainmvp genesis ..." */

extern const method_row method_brainmvp, method_genesis;
extern const method_row method_mae3d; /* tokens.h */

/* >>corruptions ---------------------------------------------------------------------------------------------------- */

/* What the methods do to a volume of d = D, H, W before the network sees it; in each method's file. 0: no memory. */
typedef struct genesis_config genesis_config;
void genesis_flip(float *v, const int64_t d[3], int axis);
void genesis_shuffle(const draws *r, int windows, const int64_t d[3], const float *from, float *x, int32_t *order);
int genesis_bend(const double p[4], int falling, int64_t n, const float *v, float *out);
void genesis_paint_inside(const draws *r, const int64_t d[3], float *x, float *noise);
void genesis_paint_outside(const draws *r, const int64_t d[3], const float *from, float *x);
int genesis_pair(const draws *r, const genesis_config *k, const int64_t d[3], float *y, float *x, float *scratch);

#endif
