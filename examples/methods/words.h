/* words.h - visual words (TransVW, transvw.c): places of the head, each a class of the crops that lie there in scans
   which are alike: whose codes (coder.h) are near */
#ifndef WORDS_H_INCLUDED
#define WORDS_H_INCLUDED

#include "coder.h"

enum { WORDS_MOST = 64 };

/* >>table: which scans are of which words -------------------------------------------------------------------------- */

typedef struct words {
    int n, nearest;             /* words; scans of each, in each modality */
    int64_t cases, modalities, width;
    int64_t place[WORDS_MOST][3];
    int32_t *order;             /* cases at random: the reference of word i is number i of them that has a code */
    bmvp_ctx *host;             /* whose memory the table lies in */
    bmvp_state_list list;       /* what a run keeps of it */
    bmvp_tensor *known;         /* (cases x modalities, 1 + width): 1 once the scan has a code, then the code */
    bmvp_tensor *until;         /* (2): the steps at which the run's first two stages end; 0: not known yet */
    float *table, *next;        /* as `of` was made from it, and room for another */
    uint64_t *of;               /* bit i: the scan is of word i; 0: it has no code yet */
} words;
/* n, nearest, cases, modalities and width are set. A failure is c's. */
void words_begin(words *w, bmvp_ctx *c, const draws *r);
void words_start(words *w); /* nothing is known */
void words_free(words *w, bmvp_ctx *c);
/* The steps at which stages of `first` and `second` steps end: those that the run began with, however long it is by
   now. Not in a plan. */
void words_stages(words *w, double first, double second, float until[2]);
/* Scans of this pass, of all ranks, that have no code get one: their regions of crop^3 voxels, as edge^3. */
void words_meet(bmvp_pass *p, words *w, coder *k, int64_t crop, int64_t edge);
/* n rows, each the number of a scan (case x modalities + modality) and its code, go into the table. 0: no memory */
int words_note(words *w, int64_t n, const float *rows);
/* One of the words that the scan is of. */
int words_pick(const draws *r, const words *w, int64_t of_case, int modality);

/* Rows of `width` numbers by growing Euclidean distance to row `reference`, which is the first. 0: no memory. */
int words_nearest(int64_t rows, int64_t width, const float *feature, int64_t reference, int32_t *order);

/* >>crops ---------------------------------------------------------------------------------------------------------- */

/* n centres of crops of `to` voxels in the middle three fifths of a cube of `edge`, `apart` voxels between any two. 0:
   there is no room. */
int words_places(const draws *r, int64_t edge, int64_t to, double apart, int n, int64_t (*place)[3]);
/* The crop around a place, as to^3 voxels: a third of them as they are, the others a cube of another size, moved. It
   stays within the region. */
void words_cut(const draws *r, int64_t edge, const float *region, const int64_t place[3], int64_t to, float *out);

#endif
