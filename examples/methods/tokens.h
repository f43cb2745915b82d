/* tokens.h - what the methods on a transformer's tokens share (mae3d, simmim, mocov3): the network made for the crop,
   patches of a volume as rows, an order by noise. Tokens are numbered z, y, x. */
#ifndef TOKENS_H_INCLUDED
#define TOKENS_H_INCLUDED

#include "methods.h"

typedef struct token_grid {
    int64_t edge, patch;             /* of the crop and of a token, in voxels */
    int64_t side, count;             /* tokens along an axis, of a crop */
    int64_t voxels;                  /* of a token */
    int64_t channels;                /* of the embedded token */
} token_grid;
token_grid tokens_of(const bmvp_trainer *t); /* the crop is the config's, as in method_config */
/* The prepare of such a method: the network has tokens, the crop is whole patches, learned positions are for it, and
   no decoder is made, as the method has heads of its own. */
void tokens_prepare(bmvp_trainer *t);

/* Patches of p = D, H, W voxels of a volume of d = D, H, W, C: patch index[i] is row i, its voxels in C order, the
   channel fastest. fetch reads rows from the volume, place writes them back. */
void tokens_fetch(const int64_t d[4], const int64_t p[3], int64_t n, const int32_t *index, const float *volume,
                  float *row);
void tokens_place(const int64_t d[4], const int64_t p[3], int64_t n, const int32_t *index, const float *row,
                  float *volume);

/* Token numbers by growing noise, one draw for all; equal ones in their order. To be freed; NULL: no memory. */
int32_t *tokens_by_noise(const draws *r, int64_t tokens);
/* The rows of n crops as rows of all of them: token index[i] of crop i / each. */
void tokens_of_all(int64_t n, int64_t each, int64_t tokens, const int32_t *index, int32_t *all);

/* A parameter that stays as it starts: no rate, no decay. Before there is an optimizer. */
void tokens_freeze(bmvp_state_list *list, const bmvp_tensor *t);
/* .. of the patch embedding, which starts as MoCo v3's: uniform in +-sqrt(6 / (voxels of a patch + C)), bias 0. */
void tokens_freeze_embedding(bmvp_trainer *t);
/* A linear layer starts normal, deviation 0.02, cut at 2, its bias 0. */
void tokens_start_small(bmvp_module *m, const bmvp_layer *l);
/* bmvp_make_attention_block without biases of q, k and v, its linear layers starting so. */
bmvp_attention_block tokens_make_block(bmvp_module *m, const char *name, int64_t n, int heads, int64_t hidden);
/* Fixed positions (grid[0] grid[1] grid[2], dim) in the 3-D form of Chen et al. 2023: dim / 6 frequencies, for each
   axis sines then cosines, the second axis before the first. dim: a multiple of 6. */
void tokens_sincos(const int64_t grid[3], int64_t dim, float *position);
/* .. into the network's positions, and into `more` (or NULL), which has as many tokens. */
void tokens_fix_positions(bmvp_trainer *t, bmvp_tensor *more);

/* Where the run stands, in epochs of the config's number: 0 to epochs, whatever the steps of an epoch. */
double tokens_epoch(const bmvp_trainer *t, int64_t total);
/* lr e / warmup, then half a cosine down to floor. whole 1: as MIM-Med3D has it, from epoch to epoch, 0 in the first,
   lr in number warmup - 1. */
double tokens_rate(double lr, double floor, double warmup, double epochs, double e, int whole);
/* .. of a run; warmup_epochs 0: as without a rate of its own. */
double tokens_run_rate(const bmvp_trainer *t, int64_t total, int warmup_epochs, int whole);

/* Of a pass: its crops x and of each the patches `masked` (hidden of them), as rows. Nothing in a plan. */
void tokens_crops(const bmvp_pass *p, int64_t hidden, const int32_t *masked, float *x, float *wanted);
/* Mean of n numbers, and their deviation as a sample (n - 1), at least 1e-3. */
double tokens_deviation(int64_t n, const float *v, double *mean);

/* What comes back of the masked tokens of n crops x, (n masked, voxels of a patch). masked, then seen: tokens of the
   first crop, of the second .. */
typedef bmvp_tensor *(*tokens_rebuild_fn)(bmvp_trainer *t, int64_t n, const float *x, const int32_t *masked,
                                          const int32_t *seen);
/* A look at a crop whose `hidden` first tokens of index are masked: seen is the crop with 0 in their patches, back with
   what comes back of them, by their mean and deviation if they are normalised. */
void tokens_look(bmvp_trainer *t, const float *crop, int64_t hidden, const int32_t *index, int normalised,
                 tokens_rebuild_fn rebuild, float *seen, float *back);

/* >>the methods ---------------------------------------------------------------------------------------------------- */

typedef struct mae3d_config mae3d_config;
int64_t mae3d_masked(const mae3d_config *k, int64_t tokens); /* how many of them */
/* masked: mae3d_masked of the tokens, seen: the others. 0: no memory. */
int mae3d_choose(const draws *r, const mae3d_config *k, int64_t tokens, int32_t *masked, int32_t *seen);
/* Each of n rows less its mean, by its deviation. */
void mae3d_normalise(int64_t n, int64_t voxels, float *row);
bmvp_tensor *mae3d_loss(bmvp_ctx *c, const mae3d_config *k, bmvp_tensor *back, bmvp_tensor *wanted);
/* The loss of a pass whose items have these tokens; what came back of the masked ones, (n masked, voxels). */
bmvp_tensor *mae3d_losses(bmvp_pass *p, const int32_t *masked, const int32_t *seen);

typedef struct simmim_config simmim_config;
/* mask of grid[0] grid[1] grid[2] tokens: 1 in the first blocks of a permutation, as few as reach the ratio. 0: no
   memory. */
int simmim_blocks(const draws *r, double ratio, const int64_t grid[3], const int64_t block[3], int32_t *mask);
int simmim_largest(const draws *r, int64_t tokens, int32_t *index); /* tokens by falling noise */
bmvp_tensor *simmim_loss(bmvp_ctx *c, bmvp_tensor *back, bmvp_tensor *wanted, double voxels, int soft);
bmvp_tensor *simmim_losses(bmvp_pass *p, const int32_t *masked); /* as mae3d_losses */

typedef struct mocov3_config mocov3_config;
/* A view of a crop of edge^3 voxels, the first or the second; scratch: as many. */
void mocov3_view(const draws *r, const mocov3_config *k, int second, int64_t edge, const float *crop, float *view,
                 float *scratch);
/* Queries, of which the first belongs to key `first`, and keys of all ranks. */
bmvp_tensor *mocov3_contrast(bmvp_ctx *c, bmvp_tensor *query, bmvp_tensor *key, int64_t first, double temperature);
double mocov3_momentum(double first, double epochs, double e);
void mocov3_losses(bmvp_pass *p, bmvp_tensor *first, bmvp_tensor *second); /* of two views of each item */
bmvp_state_list *mocov3_slow(bmvp_trainer *t); /* parameters of the slow copy */

#endif
