/* bmvp_ssl.h - v0.2.0 - multi-modal vision pre-training (BrainMVP) in one C header - MIT, no warranty (see its end)

   Do this:
       #define BMVP_IMPLEMENTATION          in ONE C or C++ file, before the includes
       #include "bmvp_tensor.h"
       #include "bmvp_nn.h"
       #include "bmvp_ssl.h"

   What it is: the method of "Multi-modal Vision Pre-training for Medical Image Analysis" (Rui et al., CVPR 2025, arXiv
   2410.10604): masking, learnable modality templates, cross-modal reconstruction, modality-wise distillation,
   modality-aware contrast, the sampler. Numbers in, numbers out: it opens no image files. Below it one trainer, for
   this method, for fine-tuning and for methods of your own: schedule, gradients added up, clipping, several ranks,
   losses, checkpoints to go on from. And what comes after: fine-tuning for segmentation and classification with
   templates standing in for modalities, definitions of labels, sliding windows, and metrics. The last three need no
   training: labels and metrics take arrays, windows any function that predicts. What it is not: a data loader
   (examples/bmvp reads crops of prepared NIfTI files).

   CONTENTS (search for the tag)
       >>modality  >>fields    >>config    >>mask      >>template  >>sampler   >>pretrain  >>trainer
       >>labels    >>metrics   >>window    >>finetune  >>predict
       and in the implementation
       the method:     >>mask impl         >>template impl         >>sampler impl          >>views
                       >>losses            >>forward
       the trainer:    >>trainer impl      >>fields impl           >>record                >>ranks
                       >>pass              >>update                >>files of a run        >>plan
       what it trains: >>modality impl     >>config impl           >>pretrain impl
       and the rest:   >>labels impl       >>metrics impl          >>mirror                >>window impl
       fine-tuning:    >>finetune impl     >>finetune start        >>finetune copies       >>finetune loss
                       >>finetune faces    >>finetune files
       prediction:     >>predict impl      >>predict weights       >>predict images        >>predict atlas
                       >>predict align         >>predict call

   A complete program:

       #define BMVP_IMPLEMENTATION
       #include "bmvp_tensor.h"
       #include "bmvp_nn.h"
       #include "bmvp_ssl.h"
       #include <stdio.h>
       static float t1[32 * 32 * 32], t2[32 * 32 * 32];
       int main(void)
       {
           const char *names[2] = { "t1", "t2" };
           bmvp_ssl_item item = { 0 };
           bmvp_ssl_config cfg;
           bmvp_net_config net;
           bmvp_ssl_losses loss;
           int64_t grid[3] = { 32, 32, 32 }, i;
           bmvp_ctx *c = bmvp_create(NULL, NULL);
           for (i = 0; i < 32768; ++i) t1[i] = (float)(i % 64) / 64, t2[i] = 1 - t1[i];
           bmvp_ssl_preset("fast", &cfg);
           cfg.crop = 32;
           bmvp_net_preset("uniformer_tiny", &net);
           bmvp_ssl *ssl = bmvp_ssl_create(c, &net, &cfg, 2, names, grid);
           item.x = t1, item.other = t2;
           for (i = 0; i < 10 && !bmvp_ssl_step(ssl, &item, 1, 1e-3, &loss); ++i) printf("%g\n", loss.total);
           if (bmvp_failed(c)) printf("%s\n", bmvp_error_of(c)->message);
           bmvp_ssl_destroy(ssl);
           bmvp_destroy(c);
           return 0;
       }

   CONVENTIONS  crops are (D, H, W) = (z, y, x), x fastest, values in [0, 1]; errors are the context's.
*/
#ifndef BMVP_SSL_H_INCLUDED
#define BMVP_SSL_H_INCLUDED
#define BMVP_SSL_VERSION 200
#ifndef BMVP_NN_H_INCLUDED
#error "bmvp_ssl.h needs bmvp_tensor.h and bmvp_nn.h: include them first"
#endif
#if BMVP_NN_VERSION != BMVP_SSL_VERSION || BMVP_TENSOR_VERSION != BMVP_SSL_VERSION
#error "bmvp_ssl.h, bmvp_nn.h and bmvp_tensor.h are of different versions: take all from one release"
#endif
#if defined(BMVP_IMPLEMENTATION) && !defined(BMVP_SSL_IMPLEMENTATION)
#define BMVP_SSL_IMPLEMENTATION
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* >>modality ----------------------------------------------------------------------------------------------------- */

/* The known modalities in template order. */
#define BMVP_MODALITY_LIST(X) X("flair") X("t1") X("t1c") X("t2") X("mra") X("pd") X("dwi") X("adc")
#define BMVP_X(name) +1
enum { BMVP_MODALITIES = 0 BMVP_MODALITY_LIST(BMVP_X) };
#undef BMVP_X
/* Number m of the list. NULL outside 0..7. */
BMVP_API const char *bmvp_modality_name(int m);
BMVP_API const char *bmvp_modality_names(void); /* "flair t1 t1c ..." */
/* Index of a name as data sets write it (T1, t1n, t1ce, t1gd, T2w, t2f, FLAIR ...; case does not matter), -1:
   unknown. */
BMVP_API int bmvp_modality_find(const char *name);

/* >>fields --------------------------------------------------------------------------------------------------------- */

/* A config is a struct made of a list X(type, name, lowest, highest, text), type int or double. The list makes the
   members (BMVP_FIELD_MEMBER), the printout, the parser of `--set name=value` and the record in checkpoints
   (BMVP_FIELD). What every training run can be told stands in BMVP_RUN_FIELDS; a method's struct begins with
   BMVP_RUN_MEMBERS and goes on with its own. */
#define BMVP_RUN_FIELDS(X) \
    X(int, batch, 1, 256, "cases in a step, of all ranks together") \
    X(int, update_every, 1, 1000000, "steps whose gradients are added up before an update") \
    X(int, recompute, 0, 1, "1: backward computes the inside of blocks again: less memory, more time, same bits") \
    X(int, epochs, 1, 1000000000, "passes over the cases") \
    X(double, lr, 0, 10, "highest learning rate") \
    X(double, lr_floor, 0, 10, "learning rate at the end of the cosine") \
    X(int, warmup, 0, 1000000000, "steps of linear warm-up") \
    X(int, optimizer, 0, 2, "0: AdamW, 1: SGD with momentum, 2: Adam") \
    X(double, weight_decay, 0, 1, "AdamW: decoupled; else added to the gradient") \
    X(double, beta1, 0, 0.999999, "decay of the mean; SGD: momentum") \
    X(double, beta2, 0, 0.999999, "decay of the square") \
    X(double, clip, 0, 1e9, "largest L2 norm of the gradient; 0: no clipping") \
    X(int, seed, 0, 2147483647, "of every random number")
#define BMVP_FIELD_MEMBER(type, name, low, high, text) type name;
#define BMVP_RUN_MEMBERS char preset[16]; BMVP_RUN_FIELDS(BMVP_FIELD_MEMBER)
typedef struct bmvp_run_config { BMVP_RUN_MEMBERS } bmvp_run_config;
/* batch 3, lr 3e-4, AdamW (0.9, 0.999) with decay 1e-5, an update every step, 100 epochs; the rest 0. config: any
   such struct */
BMVP_API void bmvp_run_default(void *config);

typedef struct bmvp_field { /* of a table; the last one has no name */
    const char *name, *text;
    size_t at;              /* offset within the config */
    int whole;              /* 1: an int, 0: a double */
    double low, high;
} bmvp_field;
#define BMVP_FIELD(config, type, name, low, high, text) \
    { #name, text, offsetof(config, name), sizeof(type) == sizeof(int), (double)(low), (double)(high) },
#define BMVP_FIELDS_END { NULL, NULL, 0, 0, 0, 0 }
/* Sets one field from text. On failure the message names the field, its range or, for an unknown name, all names. */
BMVP_API bmvp_status bmvp_field_set(const bmvp_field *table, void *config, const char *name, const char *value,
                                    bmvp_error *err);
/* Field number i as text: its name, meaning, and value into buf. Returns 0 past the last. */
BMVP_API int bmvp_field_get(const bmvp_field *table, const void *config, int i, const char **name, const char **meaning,
                            char *buf, size_t size);

/* >>config --------------------------------------------------------------------------------------------------------- */

typedef enum bmvp_mask_form { BMVP_MASK_BOXES, BMVP_MASK_BLOCKS } bmvp_mask_form;
typedef enum bmvp_template_value { BMVP_TEMPLATE_PLAIN, BMVP_TEMPLATE_MINMAX } bmvp_template_value;

#define BMVP_MASK_FIELDS(X) \
    X(int, mask_patch, 1, 256, "edge r of a masked box in voxels") \
    X(double, mask_ratio, 0, 1, "masked share p* of the crop (fine-tuning: of a case with one modality)")

/* Everything the method can be told, besides BMVP_RUN_FIELDS. Presets fill it; every field may be changed
   afterwards. */
#define BMVP_SSL_FIELDS(X) \
    X(int, crop, 8, 1024, "edge of the cubic crop in voxels") \
    X(int, mask_form, 0, 1, "0: overlapping boxes (paper, Algorithm 1), 1: aligned blocks (release)") \
    BMVP_MASK_FIELDS(X) \
    X(double, weight_cmr, 0, 1e6, "weight of cross-modal reconstruction; 0 switches the task off") \
    X(double, weight_md, 0, 1e6, "weight of modality-wise distillation; 0 switches the task off") \
    X(double, weight_cl, 0, 1e6, "weight of the contrastive loss; 0 switches the task off") \
    X(double, temperature, 1e-4, 1e4, "tau of the contrastive loss") \
    X(int, gather_negatives, 0, 1, "several ranks: 1: contrast over the pairs of all, 0: each over its own (release)") \
    X(int, contrast_from_epoch, 0, 1000000000, "the contrastive loss starts at this epoch") \
    X(int, template_only_epochs, 0, 1000000000, "until this epoch both views are filled from the template (release)") \
    X(int, all_modalities, 0, 1, "1: exact mean over the modalities of a case, 0: one drawn per case and step") \
    X(int, shared_slot, 0, 1, "1: one modality slot per step, shared by the batch (release)") \
    X(int, template_value, 0, 1, "0: the template itself, 1: min-max normalised over the volume (release)") \
    X(double, template_eps, 1e-12, 1, "epsilon of that normalisation") \
    X(int, template_mean_start, 0, 1, "1: templates start as the mean of training volumes, 0: at zero") \
    X(double, template_lr_scale, 0, 1e6, "learning rate of the templates / that of the network") \
    X(int, template_update_all, 0, 1, "1: the optimizer moves all templates each step (release), 0: the batch's") \
    X(int, template_x, 0, 4096, "template grid in voxels along x; 0: as large as the largest prepared volume") \
    X(int, template_y, 0, 4096, "template grid along y") \
    X(int, template_z, 0, 4096, "template grid along z") \
    X(double, percentile_low, 0, 100, "`prepare` clips values to these percentiles and scales them to [0, 1]") \
    X(double, percentile_high, 0, 100, "upper percentile") \
    X(int, half_period, 0, 1, "1: cosine of half the period, back at lr at the end (release)")
typedef struct bmvp_ssl_config { BMVP_RUN_MEMBERS BMVP_SSL_FIELDS(BMVP_FIELD_MEMBER) } bmvp_ssl_config;

/* "paper" (as published), "release" (as the released Python code), "fast" (what trains best for the same time). 0:
   unknown name. */
BMVP_API int bmvp_ssl_preset(const char *name, bmvp_ssl_config *cfg);
/* bmvp_field_set and bmvp_field_get with its fields. */
BMVP_API bmvp_status bmvp_ssl_set(bmvp_ssl_config *cfg, const char *name, const char *value, bmvp_error *err);
BMVP_API int bmvp_ssl_field(const bmvp_ssl_config *cfg, int i, const char **name, const char **meaning, char *buf,
                            size_t size);

/* >>mask ----------------------------------------------------------------------------------------------------------- */

/* Algorithm 1 of the paper: boxes of edge r around uniform centres, clipped at the border, until at least ratio x
   total voxels are masked. mask: D x H x W floats, 1 = masked. dim = D, H, W. */
BMVP_API void bmvp_mask_boxes(float *mask, const int64_t dim[3], int64_t r, double ratio, bmvp_rng *rng);
/* The release: aligned r^3 blocks, a random permutation keeps floor(n (1 - ratio)) of them. Sides need not be
   multiples of r (the last block of an axis is then smaller). */
BMVP_API void bmvp_mask_blocks(float *mask, const int64_t dim[3], int64_t r, double ratio, bmvp_rng *rng);

/* >>template ------------------------------------------------------------------------------------------------------- */

/* Where a crop lies in the template's grid: the volume is centred in it, start = crop + floor((template - volume) /
   2) per axis. May be negative and may reach beyond the grid: outside of it the template counts as zero. */
BMVP_API void bmvp_template_place(const int64_t crop[3], const int64_t volume[3], const int64_t grid[3],
                                  int64_t start[3]);

/* >>sampler -------------------------------------------------------------------------------------------------------- */

typedef struct bmvp_ssl_case { /* what the sampler must know of a case */
    uint32_t modalities;       /* bit k: modality k of the run is there */
    int64_t dim[3];            /* D, H, W */
} bmvp_ssl_case;
typedef struct bmvp_ssl_draw {
    int64_t index;    /* of the case */
    int modality;     /* m, an index into the run's modalities */
    int other;        /* n, -1 when the case has only m */
    /* start of the crop; negative on an axis shorter than the crop, which is then zero-padded evenly */
    int64_t crop[3];
    uint32_t slot;    /* number within the step: names the random numbers of its masks */
    double weight;    /* share of the step's loss */
} bmvp_ssl_draw;

/* The epoch of a step of a run whose batch was never changed: step x batch / n_cases; else it is bmvp_trainer.samples /
   n_cases. Samples run through the cases in a new order each epoch without a gap, so no case is left out. */
BMVP_API int64_t bmvp_ssl_epoch_of(const bmvp_ssl_config *cfg, int64_t n_cases, int64_t step);
/* Everything random of a step but the masks: numbers only, the same for (seed, step, samples) always. samples: how many
   the run has taken before this step (bmvp_trainer.samples); it goes on with the next ones, also where earlier steps
   had another batch. order: n_cases entries of scratch. out holds batch x (all_modalities ? number of modalities : 1)
   draws; returns how many there are. With all_modalities the draws of one modality slot follow each other: each run of
   draws with equal `slot / batch` is one forward pass. */
BMVP_API int bmvp_ssl_sample_at(const bmvp_ssl_config *cfg, const bmvp_ssl_case *cases, int64_t n_cases,
                                int n_modalities, int64_t step, int64_t samples, int64_t *order, bmvp_ssl_draw *out);
/* .. of a run whose batch was never changed: samples = step x batch. */
BMVP_API int bmvp_ssl_sample(const bmvp_ssl_config *cfg, const bmvp_ssl_case *cases, int64_t n_cases, int n_modalities,
                             int64_t step, int64_t *order, bmvp_ssl_draw *out);

/* >>pretrain ------------------------------------------------------------------------------------------------------- */

typedef struct bmvp_ssl_item { /* one crop of a step */
    const float *x;            /* crop^3 values of modality m */
    const float *other;        /* the same place of modality n; NULL: the case has one modality only */
    int modality;              /* m */
    int64_t template_start[3]; /* of the crop in the template's grid: bmvp_template_place */
    uint32_t slot;             /* of the draw: names the random numbers of the masks */
    double weight;             /* 0: 1 / number of items, of all ranks */
    const float *mask_template, *mask_modal; /* crop^3 zeros and ones; NULL: drawn from (seed, step, slot) */
} bmvp_ssl_item;

typedef struct bmvp_ssl_losses { /* weighted sums over the items; a task that is off or has no items is NaN */
    double total, cmr, md, cl;
    double grad_norm; /* before clipping; NaN in a step without update */
} bmvp_ssl_losses;

/* A run of BrainMVP: its trainer (bmvp_ssl_trainer) and its templates. What takes a bmvp_ssl below and has a
   namesake bmvp_trainer_* is that function under another name, so both may be used. */
typedef struct bmvp_ssl bmvp_ssl;

/* Network, templates and optimizer of a run. names: the modalities of the training set (known ones); grid: D, H, W
   of the largest volume, for templates without a fixed size. Fresh weights from cfg->seed. NULL and the context's
   error on failure. */
BMVP_API bmvp_ssl *bmvp_ssl_create(bmvp_ctx *c, const bmvp_net_config *net, const bmvp_ssl_config *cfg,
                                   int n_modalities, const char *const *names, const int64_t grid[3]);
BMVP_API void bmvp_ssl_destroy(bmvp_ssl *s);

/* One training step: masks, both views as one batch, encoder, contrast, decoder, losses, backward, and (every
   update_every steps) clipping and optimizer. lr: of this step. More than one pass in a step: bmvp_ssl_accumulate
   for each, then bmvp_ssl_update. */
BMVP_API bmvp_status bmvp_ssl_step(bmvp_ssl *s, const bmvp_ssl_item *items, int n, double lr, bmvp_ssl_losses *out);
BMVP_API bmvp_status bmvp_ssl_accumulate(bmvp_ssl *s, const bmvp_ssl_item *items, int n, bmvp_ssl_losses *out);
BMVP_API bmvp_status bmvp_ssl_update(bmvp_ssl *s, double lr, bmvp_ssl_losses *out); /* counts the step */
BMVP_API bmvp_status bmvp_ssl_losses_of(bmvp_ssl *s, int64_t step, bmvp_ssl_losses *out);
BMVP_API int bmvp_ssl_share(int n, int rank, int size, int *first);
BMVP_API void bmvp_ssl_last_pass(bmvp_ssl *s);
BMVP_API bmvp_status bmvp_ssl_broadcast(bmvp_ssl *s);
BMVP_API double bmvp_ssl_lr(const bmvp_ssl *s, int64_t total); /* half_period: the release's cosine */

/* What a step sees, without training (evaluation statistics): crop^3 values each; any pointer may be NULL. */
typedef struct bmvp_ssl_preview { float *view_modal, *view_template, *rec_modal, *rec_template; } bmvp_ssl_preview;
BMVP_API bmvp_status bmvp_ssl_look(bmvp_ssl *s, const bmvp_ssl_item *item, const bmvp_ssl_preview *out);

BMVP_API bmvp_net *bmvp_ssl_net(bmvp_ssl *s);
BMVP_API bmvp_ssl_config *bmvp_ssl_config_of(bmvp_ssl *s);
BMVP_API bmvp_state_list *bmvp_ssl_state(bmvp_ssl *s); /* network and templates */
BMVP_API bmvp_tensor *bmvp_ssl_template(bmvp_ssl *s, int modality); /* (Z, Y, X) */
BMVP_API int64_t bmvp_ssl_steps(const bmvp_ssl *s); /* taken so far */
BMVP_API void bmvp_ssl_set_epoch(bmvp_ssl *s, int64_t epoch); /* for contrast_from_epoch and template_only_epochs */
/* Features of the last accumulate, kept for tests when `keep` is on: maps and the reconstruction, batch order
   [template views; modal views]. */
BMVP_API void bmvp_ssl_keep_features(bmvp_ssl *s, int keep);
BMVP_API const bmvp_features *bmvp_ssl_features(const bmvp_ssl *s, bmvp_tensor **reconstruction);

/* Bytes of one step, from a dry run with a context of its own. The gradients of all templates count, also of those
   that a short run does not come to. Of several ranks: with a rank's share as cfg->batch; exchanges take two crops
   of each item of the step besides. */
BMVP_API bmvp_status bmvp_ssl_plan(const bmvp_config *ctx, const bmvp_net_config *net, const bmvp_ssl_config *cfg,
                                   int n_modalities, const char *const *names, const int64_t grid[3], bmvp_memory *out,
                                   bmvp_error *err);

/* Files are safetensors in the released names and order, templates stacked as "rep_template". */
BMVP_API bmvp_status bmvp_ssl_save(bmvp_ssl *s, const char *path, const char *const *extra, bmvp_error *err);
BMVP_API bmvp_status bmvp_ssl_load(bmvp_ssl *s, const char *path, bmvp_error *err);

typedef struct bmvp_ssl_info { /* what a checkpoint says of its run */
    bmvp_net_config net;
    bmvp_ssl_config cfg;
    int n_modalities;      /* 0 in files without templates */
    const char *names[BMVP_MODALITIES];
    int64_t grid[3];       /* D, H, W of the templates */
    int64_t step, samples; /* taken; 0 in files not written by bmvp_ssl_save */
} bmvp_ssl_info;
/* Ours, or the released code's (network and modality count are then inferred from names and shapes; cfg is the
   release's preset). */
BMVP_API bmvp_status bmvp_ssl_inspect(const char *path, bmvp_ssl_info *out, bmvp_error *err);

/* >>trainer -------------------------------------------------------------------------------------------------------- */

/* What every training run needs besides its method: passes added up to a step, backward, clipping, update, schedule,
   several ranks, losses that are read when somebody asks, files to go on from, a plan of its memory. Once, for every
   method: a method is a table of functions (bmvp_method) and a list of fields. BrainMVP (bmvp_ssl_method) and
   fine-tuning (bmvp_ft_method) are two; examples/09_own_method.c is a third, on 80 lines.

   A step is: bmvp_trainer_lr, bmvp_trainer_step with the step's items; or, in several passes,
   bmvp_trainer_accumulate for each, then bmvp_trainer_update. Errors are the context's. Before a pass
   bmvp_config.progress is told the steps that are done (of 0: the trainer does not know how many there will be); if it
   wants to stop, the call ends with BMVP_E_CANCELLED and nothing was computed: after bmvp_clear_error the same pass can
   be given again. Of several ranks all must answer alike.

   Several ranks (bmvp_set_comm before bmvp_trainer_create) train as one with the whole batch: every rank draws the
   whole step, which depends on (seed, step) alone, and takes its share of each pass (bmvp_trainer_share); random
   numbers are named by (seed, step, slot of the item). Losses, gradients, batch statistics and rows (bmvp_pass_rows)
   are those of all ranks; after each update all hold the same bits. Equal to one rank but for rounding, for any
   number of ranks up to `batch`, so a run may be resumed with another number. Every rank makes the same calls; rank
   0 saves.

   Where a run stands is counted in samples, `batch` of them a step, and kept in its files: a run that goes on with
   another batch or update_every takes the cases that come next, and its learning rate goes on from the share of the
   samples that it has seen. Steps are counted on; they name random numbers and lines of the log. */

typedef struct bmvp_trainer bmvp_trainer;
enum { BMVP_LOSSES = BMVP_POST_MOST - 1 }; /* named losses of a method, at most */
typedef struct bmvp_losses {               /* of a pass or step, over all ranks; NaN: not there */
    double total, part[BMVP_LOSSES];       /* what was minimised; the method's named losses */
    double grad_norm;                      /* before clipping; NaN in a step without update */
} bmvp_losses;

typedef struct bmvp_pass { /* one forward pass, as the functions of a method see it */
    bmvp_trainer *trainer;
    bmvp_ctx *c;
    bmvp_net *net;
    const void *config;     /* the method's structs */
    void *state;
    const void *items;
    int n;                  /* items of this pass on this rank; in a plan they are zeros */
    /* .. on all ranks: an item that counts like any other has the weight 1 / n_all; how many are before this rank's */
    int64_t n_all, first;
    int64_t step, epoch;
    /* set it where a pass may have no loss of its own (pairs): a tensor behind the network's batch norms */
    bmvp_tensor *through;
    /* filled by bmvp_pass_loss: what is minimised, of this rank's items and of all ranks' rows */
    bmvp_tensor *own, *all;
    bmvp_tensor *part[BMVP_LOSSES];
    unsigned part_of_all;   /* bit i: part i is of all ranks' rows */
} bmvp_pass;

typedef enum bmvp_loss_kind {
    BMVP_LOSS_MEAN, /* the mean over this pass's n items */
    BMVP_LOSS_SUM,  /* a sum over them with weights that add up to 1 over all n_all */
    BMVP_LOSS_ALL   /* of rows from bmvp_pass_rows, so that every rank has the whole */
} bmvp_loss_kind;
/* Adds weight x loss (one element; NULL: not there in this pass) to what is minimised; weight 0: not at all. part:
   which of the named losses it is in the log, without the weight; -1: none. */
BMVP_API void bmvp_pass_loss(bmvp_pass *p, int part, bmvp_loss_kind kind, double weight, bmvp_tensor *loss);
/* Rows (n, d) of all ranks in the order of the ranks, n may differ, own NULL: none here. This rank's carry their
   gradient, the others' are numbers: a loss of kind BMVP_LOSS_ALL on them gives every rank the gradient of its own
   rows, and the sum is that of one rank with all rows. first (or NULL): the row where this rank's begin. One rank:
   own itself. */
BMVP_API bmvp_tensor *bmvp_pass_rows(bmvp_pass *p, bmvp_tensor *own, int64_t d, int64_t *first);
/* Each of n numbers becomes its sum over all ranks. */
BMVP_API void bmvp_pass_sum(bmvp_pass *p, double *x, int n);
/* 1 if every rank has n > 0 of `what` ("view"). Else 0: on one rank a pass without a loss; of several a failure that
   names the rank, since the others would wait for it in the first batch norm. remedy ends the sentence. */
BMVP_API int bmvp_pass_needs(bmvp_pass *p, int n, const char *what, const char *remedy);
/* The gradient of `volume`, a trained entry of the network's list that is a slice of a stacked one (a template),
   lies in this box of the pass only: before an update ranks tell each other boxes instead of whole volumes. start
   NULL: anywhere. For bmvp_method.boxes. */
BMVP_API void bmvp_pass_box(bmvp_pass *p, bmvp_tensor *volume, const int64_t start[3], const int64_t size[3]);
/* Random numbers of the item `slot` in this step. Streams below 100 are the library's. */
BMVP_API bmvp_rng bmvp_pass_rng(const bmvp_pass *p, uint32_t stream, uint32_t slot);

/* A method. Fill it with zeros first; what is NULL is left out. Functions that build may fail with bmvp_fail. */
typedef struct bmvp_method {
    const char *name;        /* "brainmvp": stands in the description of its files */
    /* first words of its files: "bmvp pre-training 1"; a file of another method is refused by it */
    const char *format;
    const char *const *loss; /* names of the parts, NULL at the end: columns "loss_<name>" of a log */
    const bmvp_field *fields;
    size_t config_size;      /* of its structs; the config begins with BMVP_RUN_MEMBERS, the state is zeros at first */
    size_t state_size;
    size_t item_size;
    int mean_of_updates;     /* 1: an update takes the mean of the gradients of its update_every steps, 0: their sum */
    /* before there is a network: checks the config; may change t->net_config and read t->setup */
    void (*prepare)(bmvp_trainer *t);
    /* adds parameters to bmvp_net_state(t->net), whose values will begin by their init; bmvp_trainer_keep */
    void (*create)(bmvp_trainer *t);
    void (*start)(bmvp_trainer *t);    /* fresh values are there: changes them; makes scratch memory */
    void (*destroy)(bmvp_trainer *t);
    void (*check)(bmvp_pass *p);       /* items, before anything is done */
    void (*forward)(bmvp_pass *p);     /* builds the graph; bmvp_pass_loss for each loss */
    /* of several ranks, after forward: bmvp_pass_box for each gradient of a stacked entry */
    void (*boxes)(bmvp_pass *p);
    void (*before_update)(bmvp_trainer *t); /* gradients of all ranks are there */
    void (*after_update)(bmvp_trainer *t);  /* parameters have moved: averages of them */
    double (*rate)(const bmvp_trainer *t, int64_t total); /* NULL: warm-up and half a cosine, bmvp_schedule_lr */
    void (*optimizer)(const bmvp_trainer *t, bmvp_optim_config *k); /* changes what the run's fields say */
    void (*plan)(bmvp_trainer *t, void *items, int n);    /* what a plan's items and epoch must say to count the most */
    /* members of the file's description beside "network" and "config" */
    void (*describe)(const bmvp_trainer *t, bmvp_jw *w);
} bmvp_method;

struct bmvp_trainer {
    bmvp_ctx *c;
    bmvp_method method;
    bmvp_net_config net_config;
    bmvp_net *net;
    bmvp_optim *optim;             /* NULL: made for prediction */
    void *config, *state;          /* the method's structs */
    const void *setup;             /* as given to bmvp_trainer_create, while it runs */
    int64_t steps, epoch;          /* taken so far; the last one that was set, -1: none */
    int pending;                   /* passes since the last update */
    int64_t samples;               /* taken so far: the batch of every step */
    int since;                     /* steps since the last update */
    struct bmvpi_trainer *private_part;
};

/* Network, parameters of the method, optimizer; fresh values from the config's seed. config and m are copied, setup
   is what the method wants to know besides. train 0: for prediction, without optimizer. NULL and the context's error
   on failure. */
BMVP_API bmvp_trainer *bmvp_trainer_create(bmvp_ctx *c, const bmvp_method *m, const bmvp_net_config *net,
                                           const void *config, const void *setup, int train);
BMVP_API void bmvp_trainer_destroy(bmvp_trainer *t);
/* A list that is saved, loaded and broadcast with the run, as `group` of its files: frozen templates, averaged
   parameters. c: whose memory it is. */
BMVP_API void bmvp_trainer_keep(bmvp_trainer *t, const char *group, bmvp_ctx *c, bmvp_state_list *list);

/* Items of the method's type. lr: of this step. out: losses of the pass (step, accumulate), the gradient's norm
   (step, update). NULL: not now. Then a device is not waited for: it does this step while the program prepares the
   next one. A loss or gradient that is not finite is an error of the call that learns of it, the one below or
   bmvp_trainer_save at the latest; no parameters have moved since. */
BMVP_API bmvp_status bmvp_trainer_step(bmvp_trainer *t, const void *items, int n, double lr, bmvp_losses *out);
BMVP_API bmvp_status bmvp_trainer_accumulate(bmvp_trainer *t, const void *items, int n, bmvp_losses *out);
BMVP_API bmvp_status bmvp_trainer_update(bmvp_trainer *t, double lr, bmvp_losses *out); /* counts the step */
/* Losses of a step, all its passes together, one of the last 32: step is what t->steps was before it. Waits for it. */
BMVP_API bmvp_status bmvp_trainer_losses_of(bmvp_trainer *t, int64_t step, bmvp_losses *out);
/* .. as members "loss", "loss_<name>" and "grad_norm" of a log line. */
BMVP_API bmvp_status bmvp_trainer_log(bmvp_trainer *t, int64_t step, bmvp_jw *w);
/* Learning rate of the current step, over the `total` steps that the run would take with the batch it has now: of step
   samples / batch, which is t->steps itself unless the batch was changed. */
BMVP_API double bmvp_trainer_lr(const bmvp_trainer *t, int64_t total);
/* .. by warm-up and half a cosine, as where the method has no rate of its own: for a rate that is one in some runs. */
BMVP_API double bmvp_trainer_cosine(const bmvp_trainer *t, int64_t total);

/* Rank `rank`'s items of a pass of n: [*first, *first + returned). Shares differ by at most one. */
BMVP_API int bmvp_trainer_share(int n, int rank, int size, int *first);
BMVP_API int bmvp_trainer_mine(const bmvp_trainer *t, int n, int *first); /* .. of this rank */
/* Of several ranks: the next pass is the step's last, so its gradients may leave while backward goes on. Only speed
   depends on it; bmvp_trainer_step says it itself. */
BMVP_API void bmvp_trainer_last_pass(bmvp_trainer *t);
/* Of several ranks: parameters, statistics, moments, kept lists and step of rank 0 go to all, for instance after it
   has loaded a run. */
BMVP_API bmvp_status bmvp_trainer_broadcast(bmvp_trainer *t);

/* Everything to resume: parameters, statistics, kept lists, moments (train 1), step, config, network. A safetensors
   file, written beside and renamed. extra: more metadata (pairs key, value, NULL-terminated), or NULL. */
BMVP_API bmvp_status bmvp_trainer_save(bmvp_trainer *t, const char *path, int train, const char *const *extra,
                                       bmvp_error *err);
/* The same run goes on (train 0: without moments): all must fit, the first mismatch is named and nothing has changed
   then. A file without a description (of PyTorch) gives the network only. */
BMVP_API bmvp_status bmvp_trainer_load(bmvp_trainer *t, const char *path, int train, bmvp_error *err);
/* What a file of method m says: network, steps and samples taken, and the fields of config that it has. */
BMVP_API bmvp_status bmvp_trainer_inspect(const char *path, const bmvp_method *m, bmvp_net_config *net, void *config,
                                          int64_t *step, int64_t *samples, bmvp_error *err);
/* Bytes of one step with a rank's share as `batch`, from a dry run with a context of its own. */
BMVP_API bmvp_status bmvp_trainer_plan(const bmvp_config *ctx, const bmvp_method *m, const bmvp_net_config *net,
                                       const void *config, const void *setup, bmvp_memory *out, bmvp_error *err);

BMVP_API const bmvp_method *bmvp_ssl_method(void);
BMVP_API bmvp_trainer *bmvp_ssl_trainer(bmvp_ssl *s);

/* >>labels --------------------------------------------------------------------------------------------------------- */

/* What the values of a label map mean. Two kinds:
     regions  may overlap (whole tumour holds the enhancing part): one sigmoid output each
     classes  exclude each other: one softmax output each, output 0 is "none of them" (background) */
enum {
    BMVP_MAX_REGIONS = 16,
    BMVP_LABEL_VALUES = 256,
    BMVP_LABEL_NAME = 96 /* bytes of a region's name, with its 0 */
};
typedef struct bmvp_labels {
    char name[32];                /* of the built-in definition, or "custom" */
    int exclusive;                /* 1: classes, 0: regions */
    int n;                        /* regions or classes, without the background */
    char region[BMVP_MAX_REGIONS][BMVP_LABEL_NAME];
    unsigned char in[BMVP_MAX_REGIONS][BMVP_LABEL_VALUES]; /* 1: this label value belongs to it */
    /* the value written for a voxel of the region (of the last one that holds it) */
    unsigned char paint[BMVP_MAX_REGIONS];
    unsigned char known[BMVP_LABEL_VALUES]; /* 1: the value may occur; 0 (background) always may */
    unsigned char ignore; /* voxels of this value are not judged: neither loss nor figures see them. 0: no such value */
} bmvp_labels;

/* brats2021 (1 NCR, 2 ED, 4 ET), brats2023 (1, 2, 3 = ET), msd_brats (1 ED, 2 NET, 3 ET): regions WT TC ET; phantom
   (1 core, 2 oedema, 3 enhancing): the same; mrbrains: classes CSF (5 extracerebral, 6 ventricles), GM (1 cortex, 2
   basal ganglia), WM (3, 4 lesions), and 7 cerebellum, 8 brainstem, 9 infarction, 10 other (of 2018), which count as
   background; isles, ms: lesion (1); vs: tumour (1), and 2 cochlea as background. 0: unknown name. */
BMVP_API int bmvp_labels_builtin(const char *name, bmvp_labels *out);
BMVP_API const char *bmvp_labels_names(void); /* "brats2021 brats2023 ..." */
/* Adds a region or class. BMVP_E_ARG with a message: too many, a name twice or with control characters, a value
   outside 1..255 or (classes) in two classes. */
BMVP_API bmvp_status bmvp_labels_add(bmvp_labels *l, const char *region, const int *values, int n_values,
                                     bmvp_error *err);
/* Sets the value whose voxels are not judged (nnU-Net's "ignore"), and makes it known. BMVP_E_ARG: outside 1..255, or
   of a region or class that was added. */
BMVP_API bmvp_status bmvp_labels_ignore(bmvp_labels *l, int value, bmvp_error *err);
/* Fixes `paint` and the painting order after the last add: regions sorted from large to small (those that hold
   others first), each painted with its lowest value that no smaller region holds. BMVP_E_ARG if two regions are the
   same set of values. */
BMVP_API bmvp_status bmvp_labels_finish(bmvp_labels *l, bmvp_error *err);
BMVP_API int bmvp_labels_outputs(const bmvp_labels *l); /* of a network: n, classes n + 1 */
/* -1 if all n values are known whole numbers, else the place of the first that is not. */
BMVP_API int64_t bmvp_labels_unknown(const bmvp_labels *l, const float *values, int64_t n);
/* The same of a map of dim = D, H, W: BMVP_E_FORMAT with `name`, the value and its voxel (x, y, z). l NULL: any whole
   number from -32768 to 32767 is known. */
BMVP_API bmvp_status bmvp_labels_check(const bmvp_labels *l, const float *values, const int64_t dim[3],
                                       const char *name, bmvp_error *err);
/* Is the value in region r? mask: n zeros and ones. */
BMVP_API void bmvp_labels_mask(const bmvp_labels *l, int r, const float *values, int64_t n, unsigned char *mask);
/* Before two masks are compared: 0 where the truth's value is l->ignore. */
BMVP_API void bmvp_labels_judged(const bmvp_labels *l, const float *truth, int64_t n, unsigned char *mask);
/* The label value of one voxel from its bmvp_labels_outputs probabilities: regions: the last painted one at 0.5 or
   more; classes: the most likely one. */
BMVP_API unsigned char bmvp_labels_decide(const bmvp_labels *l, const float *probability);
/* As JSON object `key` and back (files written by fine-tuning): {"name", "kind": "regions" | "classes", "regions":
   {"WT": [1, 2, 4], ...}, "known": [...], "ignore": 3 (where there is one)}. */
BMVP_API void bmvp_labels_write(bmvp_jw *w, const char *key, const bmvp_labels *l);
BMVP_API bmvp_status bmvp_labels_read(const bmvp_json *node, bmvp_labels *l, bmvp_error *err);

/* >>metrics -------------------------------------------------------------------------------------------------------- */

/* Needs no context and no network: masks and scores in, numbers out. Memory comes from an allocator; NULL is malloc. */

/* What a figure is when a mask is empty.
     MONAI  Dice: NaN when the truth is empty. Distance: NaN when both are, or (percentiles) when one is; infinite
            for the maximum
     BRATS  Dice: 1 when both are empty, 0 when one is. Distance: 0 when both are, 374 mm (the diagonal of
            240x240x155) when one is */
typedef enum bmvp_empty_rule { BMVP_EMPTY_MONAI, BMVP_EMPTY_BRATS } bmvp_empty_rule;
BMVP_API const char *bmvp_empty_rule_text(bmvp_empty_rule rule);

/* 2 |a b| / (|a| + |b|) over n zeros and non-zeros. MONAI DiceMetric (ignore_empty) */
BMVP_API double bmvp_dice(const unsigned char *prediction, const unsigned char *truth, int64_t n, bmvp_empty_rule rule);
/* Squared distance in mm^2 of every voxel to the nearest voxel where the mask is not 0 (0 there); infinite if there
   is none. Exact (Felzenszwalb and Huttenlocher 2012). dim and mm in D, H, W order. BMVP_E_OOM, BMVP_E_ARG (an edge
   below 1, a spacing outside 1e-12 to 1e12) */
BMVP_API bmvp_status bmvp_distance_transform(const unsigned char *mask, const int64_t dim[3], const double mm[3],
                                             float *squared, const bmvp_allocator *a);
/* Distance of the two surfaces (6-neighbour cross, the image's border counts): for each direction the percentile
   (torch.quantile, linear) of the surface's distances to the other surface, then the larger of the two. percentile
   100: the Hausdorff distance; 95: HD95. MONAI HausdorffDistanceMetric(directed=False), also in that percentile 0 is
   the maximum. BMVP_E_OOM, BMVP_E_ARG (percentile outside 0..100, edges and spacings as above); *out is then NaN. */
BMVP_API bmvp_status bmvp_hausdorff(const unsigned char *prediction, const unsigned char *truth, const int64_t dim[3],
                                    const double mm[3], double percentile, bmvp_empty_rule rule,
                                    const bmvp_allocator *a, double *out);

/* Classification. score (n, classes): probabilities; truth: class numbers. Figures that a missing class makes
   undefined are NaN. Multi-class: AUC one against the rest, macro mean; F1, sensitivity, specificity macro means;
   two classes: those of class 1. The predicted class is the likeliest, the first of equals. sklearn roc_auc_score,
   f1_score. BMVP_E_OOM, BMVP_E_ARG (a class number outside 0..classes-1, a score that is NaN, no case, fewer than
   two classes): all are then NaN */
typedef struct bmvp_class_metrics { double accuracy, auc, f1, sensitivity, specificity; } bmvp_class_metrics;
BMVP_API bmvp_status bmvp_classification(const float *score, const int *truth, int64_t n, int classes,
                                         const bmvp_allocator *a, bmvp_class_metrics *out);
/* Area under the ROC curve of one score, ties count half; NaN when one of the two groups is empty, a score is NaN or
   memory is short. truth: 0 or not 0. */
BMVP_API double bmvp_auc(const float *score, const int *truth, int64_t n, const bmvp_allocator *a);

/* Mean of the values that are numbers, and its 95 % percentile interval over resamples (with replacement) of them;
   the same for a seed always. n_used 0: everything is NaN. BMVP_E_OOM, BMVP_E_ARG (resamples below 1, more than 2^32
   - 1 values) */
typedef struct bmvp_interval { double mean, low, high; int64_t n_used; } bmvp_interval;
BMVP_API bmvp_status bmvp_bootstrap(const double *value, int64_t n, int resamples, uint64_t seed,
                                    const bmvp_allocator *a, bmvp_interval *out);

/* >>window --------------------------------------------------------------------------------------------------------- */

/* Sliding windows over a volume larger than the network's input. The numbers are MONAI 1.4.0's
   sliding_window_inference (constant and gaussian importance, sigma 0.125 roi, padding of small volumes), but planes
   are handed out as soon as no further window touches them, so memory holds one roi's depth of sums, not the
   volume's. */
typedef struct bmvp_window {
    int64_t roi[3];     /* D, H, W */
    double overlap;     /* in [0, 1) of the roi; 0.5 */
    int gaussian;       /* 0: all places of a window count alike */
    int batch;          /* windows at once */
    int mirror;         /* bits 0, 1, 2: average also over flips along W, H, D and their combinations */
} bmvp_window;
typedef struct bmvp_window_calls {
    /* Writes the roi voxels x channels from `start` to dst (roi_d, roi_h, roi_w, channels). On an axis where the
       volume is smaller than the roi it is centred: `start` is negative there, and what lies outside of the volume
       is to be 0. */
    bmvp_status (*read)(void *user, const int64_t start[3], float *dst);
    /* x (B, roi, channels) -> (B, roi, outputs), recording is off. NULL after a failure of the context. */
    bmvp_tensor *(*predict)(void *user, bmvp_tensor *x);
    /* Receives planes z0 .. z0 + planes - 1 of the volume, each (H, W, outputs); in order, each once. */
    bmvp_status (*planes)(void *user, int64_t z0, int64_t planes, const float *values);
    void *user;
} bmvp_window_calls;
/* Drops all step tensors of c (bmvp_step_begin before each batch), and tells bmvp_config.progress of the windows done.
   The first error of a callback, or of the context, is returned. BMVP_E_ARG, BMVP_E_SHAPE (predict returned another
   size), BMVP_E_OOM. */
BMVP_API bmvp_status bmvp_sliding_window(bmvp_ctx *c, const bmvp_window *w, const int64_t dim[3], int channels,
                                         int outputs, const bmvp_window_calls *calls);

/* >>finetune ------------------------------------------------------------------------------------------------------- */

/* Method section 5: what it can be told, besides BMVP_RUN_FIELDS. */
#define BMVP_FT_FIELDS(X) \
    X(int, crop_x, 8, 1024, "crop in voxels along x") \
    X(int, crop_y, 8, 1024, "crop along y") \
    X(int, crop_z, 8, 1024, "crop along z") \
    X(double, crop_on_label, 0, 1, "share of the crops that are centred on a labelled voxel; the rest lie anywhere") \
    X(int, copies, 0, 1, "1: two copies with modalities replaced by templates (paper), 0: the case as it is") \
    X(double, whole_share, 0, 1, "share of the copies that keep all modalities; the rest lose some, never all") \
    X(double, copy_weight, 0, 1e6, "weight of each copy's loss: 1 their sum (paper), 0.5 their mean (release)") \
    X(int, fill, 0, 1, "what stands for a missing or replaced modality: 0 its template, 1 zeros") \
    BMVP_MASK_FIELDS(X) \
    X(double, consistency_weight, 0, 1e6, "weight of the consistency between the two copies") \
    X(int, consistency_on, 0, 1, "0: L2 norm of last maps (paper), 1: mean square of quarter logits (release)") \
    X(double, dice_weight, 0, 1e6, "weight of the soft Dice loss") \
    X(double, ce_weight, 0, 1e6, "weight of the cross-entropy (regions: binary)") \
    X(int, dice_squared, 0, 1, "1: squares in the denominator of the Dice loss") \
    X(double, dice_smooth, 0, 1e6, "added to its numerator and denominator") \
    X(int, dice_batch, 0, 1, "1: one Dice a region over batch and copies (release), 0: one for each case") \
    X(int, deep_supervision, 0, 1, "1: losses on the quarter and half scale too (UniFormer)") \
    X(double, head_prior, 0, 0.5, "fresh output heads start at this probability; 0: as the release's") \
    X(double, flip, 0, 1, "probability of a flip, for each axis") \
    X(double, intensity_shift, 0, 1, "largest shift of a modality's values") \
    X(double, intensity_scale, 0, 1, "largest relative change of a modality's contrast") \
    X(int, validate_every, 1, 1000000000, "epochs between validations") \
    X(double, encoder_lr_scale, 0, 1e6, "learning rate of the encoder / that of the rest") \
    X(double, overlap, 0, 0.95, "overlap of the windows in validation")
typedef struct bmvp_ft_config { BMVP_RUN_MEMBERS BMVP_FT_FIELDS(BMVP_FIELD_MEMBER) } bmvp_ft_config;

/* "paper", "release", "fast" for a task (BMVP_TASK_SEGMENT, BMVP_TASK_CLASSIFY) and kind of network. 0: unknown
   name. */
BMVP_API int bmvp_ft_preset(const char *name, bmvp_net_task task, const char *kind, bmvp_ft_config *cfg);
BMVP_API bmvp_status bmvp_ft_set(bmvp_ft_config *cfg, const char *name, const char *value, bmvp_error *err);
BMVP_API int bmvp_ft_field(const bmvp_ft_config *cfg, int i, const char **name, const char **meaning, char *buf,
                           size_t size);

typedef struct bmvp_ft_draw {          /* what the sampler says of one crop */
    int64_t index;                     /* of the case */
    /* D, H, W: start of a crop anywhere in the volume; negative as in bmvp_ssl_draw */
    int64_t crop[3];
    int on_label;                      /* 1: centre it on a labelled voxel instead, if the case has one ... */
    double pick;                       /* ... the one at this share (in [0, 1)) of the list of them */
    uint32_t slot;
} bmvp_ft_draw;
/* Everything random of a step but augmentation and replacement, the same for (seed, step, samples) always: cfg->batch
   draws; every case once an epoch. samples as in bmvp_ssl_sample_at; order: n_cases entries of scratch. */
BMVP_API void bmvp_ft_sample_at(const bmvp_ft_config *cfg, const bmvp_ssl_case *cases, int64_t n_cases, int64_t step,
                                int64_t samples, int64_t *order, bmvp_ft_draw *out);
/* .. of a run whose batch was never changed: samples = step x batch. */
BMVP_API void bmvp_ft_sample(const bmvp_ft_config *cfg, const bmvp_ssl_case *cases, int64_t n_cases, int64_t step,
                             int64_t *order, bmvp_ft_draw *out);

typedef struct bmvp_ft_item {          /* one crop of a step */
    /* by modality of the task, crop_z x crop_y x crop_x values; NULL: the case lacks it */
    const float *image[BMVP_MODALITIES];
    const float *labels;               /* label values of the crop; NULL in classification */
    int class_index;                   /* class number, from 0; classification only */
    int64_t template_start[3];         /* of the crop in the template's grid: bmvp_template_place */
    uint32_t slot;                     /* number within the step: names the random numbers of the item */
    /* two bit sets: the modalities replaced in the copies; NULL: drawn from (seed, step, slot) */
    const uint32_t *replace;
} bmvp_ft_item;
typedef struct bmvp_ft_losses { double total, dice, ce, consistency, grad_norm; } bmvp_ft_losses; /* NaN: not there */

typedef struct bmvp_ft bmvp_ft;
/* Network (net->task says which), frozen templates and optimizer. names: modalities of the task, in the order of the
   network's input channels; net->in_channels and net->outputs are set from them and from labels (classification:
   net->outputs stays). grid: D, H, W of the templates; NULL: none (fill must be 1, or bmvp_ft_init brings them). */
BMVP_API bmvp_ft *bmvp_ft_create(bmvp_ctx *c, const bmvp_net_config *net, const bmvp_ft_config *cfg,
                                 const bmvp_labels *labels, int n_modalities, const char *const *names,
                                 const int64_t grid[3]);
BMVP_API void bmvp_ft_destroy(bmvp_ft *f);
BMVP_API const bmvp_method *bmvp_ft_method(void);
BMVP_API bmvp_trainer *bmvp_ft_trainer(bmvp_ft *f);
/* Starts from a pre-training checkpoint, ours or released: weights by bmvp_net_adopt, templates of the task's
   modalities by name (the first one that is missing is named: needed when cfg.copies is 1 or cfg.fill is 0). */
BMVP_API bmvp_status bmvp_ft_init(bmvp_ft *f, const char *path, int spread_stem, bmvp_net_adoption *what,
                                  bmvp_error *err);

/* Weights of the cross-entropy: one number for each output, copied. NULL: all alike (the default). Classes and
   classification only. */
BMVP_API void bmvp_ft_class_weights(bmvp_ft *f, const float *weight);

/* One training step: augmentation, copies, loss, backward, and (every update_every steps) clipping and optimizer.
   The two copies go through the network one after the other, each with its own batch statistics, as in the release.
   What takes a bmvp_ft and has a namesake bmvp_trainer_* is that function. Several ranks: >>trainer; items are the
   rank's share of the step's draws, and a Dice over the whole batch (dice_batch) or weighed classes are those of all
   ranks. */
BMVP_API bmvp_status bmvp_ft_step(bmvp_ft *f, const bmvp_ft_item *items, int n, double lr, bmvp_ft_losses *out);
BMVP_API bmvp_status bmvp_ft_accumulate(bmvp_ft *f, const bmvp_ft_item *items, int n, bmvp_ft_losses *out);
BMVP_API bmvp_status bmvp_ft_update(bmvp_ft *f, double lr, bmvp_ft_losses *out); /* counts the step */
BMVP_API bmvp_status bmvp_ft_losses_of(bmvp_ft *f, int64_t step, bmvp_ft_losses *out);
BMVP_API double bmvp_ft_lr(const bmvp_ft *f, int64_t total);
BMVP_API void bmvp_ft_last_pass(bmvp_ft *f);
BMVP_API bmvp_status bmvp_ft_broadcast(bmvp_ft *f); /* templates, too */

/* One input as the network sees it at prediction: dim voxels x n_modalities, channels last; missing modalities
   (NULL) filled by cfg.fill. image[m]: dim voxels each. */
BMVP_API void bmvp_ft_input(const bmvp_ft *f, const float *const *image, const int64_t template_start[3],
                            const int64_t dim[3], float *dst);
/* x (N, D, H, W, modalities) -> probabilities (N, D, H, W, outputs), classification (N, outputs); running
   statistics. */
BMVP_API bmvp_tensor *bmvp_ft_predict(bmvp_ft *f, bmvp_tensor *x);

typedef struct bmvp_ft_info {          /* what a fine-tuned checkpoint says of itself */
    bmvp_net_config net;
    bmvp_ft_config cfg;
    bmvp_labels labels;
    int n_modalities;
    const char *names[BMVP_MODALITIES];
    int64_t grid[3];                   /* of its templates; 0: it has none */
    int64_t step;
    double best;                       /* validation figure it was kept for; NaN: none */
    char preparation[512];             /* the JSON object of prepare.json, or "" */
    int64_t samples;                   /* taken in these steps */
    int n_left;                        /* bmvp_ft_open_weights: tensors of the file that the network has no place for */
    char left[256];                    /* the names of the first of them */
} bmvp_ft_info;
BMVP_API bmvp_status bmvp_ft_inspect(const char *path, bmvp_ft_info *out, bmvp_error *err);
/* Weights, templates, statistics and (train 1) moments: all to resume. extra as in bmvp_ssl_save; "preparation" and
   "best" are read back by bmvp_ft_inspect. */
BMVP_API bmvp_status bmvp_ft_save(bmvp_ft *f, const char *path, int train, const char *const *extra, bmvp_error *err);
BMVP_API bmvp_status bmvp_ft_load(bmvp_ft *f, const char *path, int train, bmvp_error *err);
/* Inspects, creates and loads for prediction. NULL and err on failure. */
BMVP_API bmvp_ft *bmvp_ft_open(bmvp_ctx *c, const char *path, bmvp_ft_info *info, bmvp_error *err);

BMVP_API bmvp_net *bmvp_ft_net(bmvp_ft *f);
BMVP_API const bmvp_ft_config *bmvp_ft_config_of(const bmvp_ft *f);
BMVP_API const bmvp_labels *bmvp_ft_labels(const bmvp_ft *f);
BMVP_API void bmvp_ft_set_fill(bmvp_ft *f, int fill); /* the config's field of that name, for prediction */
/* (Z, Y, X), frozen, in the host's memory; NULL: none */
BMVP_API bmvp_tensor *bmvp_ft_template(bmvp_ft *f, int modality);
BMVP_API int64_t bmvp_ft_steps(const bmvp_ft *f);
/* Bytes of one step or (train 0) of one prediction of `batch` windows, from a dry run. */
BMVP_API bmvp_status bmvp_ft_plan(const bmvp_config *ctx, const bmvp_net_config *net, const bmvp_ft_config *cfg,
                                  const bmvp_labels *labels, int n_modalities, const char *const *names,
                                  const int64_t grid[3], int train, bmvp_memory *out, bmvp_error *err);

/* >>predict ------------------------------------------------------------------------------------------------------

   The way of an image there and back. A network has seen cases of one preparation: axes to the right, front and top
   (RAS), cubic voxels, a box around the head, values between two percentiles mapped to [0, 1]. A scan is anything:
   other axes, thick and tilted slices, integers with a slope. So a prediction walks three grids:

       image voxel i  --O-->  mm in the scanner  <--P--  prepared voxel p          p = inverse(P) O i

   O is the image's own affine, P that of the prepared grid, which reorienting, resampling, cropping and resizing have
   changed at each step. Sliding windows fill the prepared grid with probabilities, plane after plane; a missing
   modality is its template, or zeros, there. Then each image voxel looks up its p and takes the linear mean of the
   eight prepared voxels around it; half a voxel beyond the border still belongs to the grid (its value is repeated),
   farther out there is no head. Since p depends on all three indices of i, shear, rotation, flips and permutations are
   one case and not four. Only two prepared planes are ever held: the image voxels between them are the ones whose p_z
   lies there, and along a row of the image these are one run, found by bisection. What is decided comes last: the label
   of a voxel is made of interpolated probabilities, never interpolated itself. Where every image is 0 there is nothing
   to see: the background has probability 1 on the prepared grid, and the label map is 0. */

/* How images become what the network sees; `bmvp prepare` writes it, a fine-tuned checkpoint keeps it, the predictor
   does it again. In this order: axes; voxel size (linear, border voxels repeated, MONAI Spacing); box; values, from the
   voxels in the box; resize. What `prepare` writes has RAS axes, a box and percentiles; the rest is there for networks
   that other programs have trained. */
typedef enum bmvp_intensity {
    BMVP_INTENSITY_PERCENTILES,
    BMVP_INTENSITY_ZSCORE,     /* (x - mean) / deviation of the voxels that are not 0; 0 stays. MONAI
                                  NormalizeIntensity(nonzero=True, channel_wise=True) */
    BMVP_INTENSITY_ZSCORE_ALL, /* of all voxels. MONAI NormalizeIntensity(channel_wise=True) */
    BMVP_INTENSITY_RANGE,      /* low becomes 0, high 1, clipped. MONAI ScaleIntensityRange(low, high, 0, 1, True) */
    BMVP_INTENSITY_AS_IT_IS
} bmvp_intensity;
/* What brings images of a case that lie on different grids to that of one of them, the reference. */
typedef enum bmvp_alignment {
    BMVP_ALIGN_NONE,   /* nothing: they must lie on one grid */
    BMVP_ALIGN_HEADER, /* their affines: right as far as the head lay still between them */
    BMVP_ALIGN_RIGID   /* bmvp_nii_register, also where they lie on one grid */
} bmvp_alignment;
BMVP_API const char *bmvp_alignment_names(void); /* "none header rigid" */
/* Where a case comes to lie. */
typedef enum bmvp_atlas_space {
    BMVP_TO_REFERENCE, /* where its reference lies */
    BMVP_TO_RIGID,     /* on the grid of a template head, turned and shifted: sizes stay */
    BMVP_TO_AFFINE     /* scaled and sheared to its size, too */
} bmvp_atlas_space;

typedef struct bmvp_preparation {
    double spacing;         /* edge of a voxel in mm, 0 to 100; 0: as the image has it */
    double percentile_low;  /* of all voxels in the box, 0 to 100: becomes 0 */
    double percentile_high; /* becomes 1; what lies beyond is clipped */
    int centre_crop;   /* 1: the box is symmetric about the middle of the volume (release), 0: it is that of the voxels
                          above 0 */
    int64_t resize[3]; /* then resized (linear) to so many voxels x, y, z, 1 to 4096; 0: not */
    int whole;         /* 1: no box: the volume as it is */
    char axes[4];      /* where x, y, z run to, "LPS"; "": RAS */
    bmvp_intensity intensity;
    double range_low, range_high; /* of INTENSITY_RANGE */
    bmvp_alignment align;         /* of the images of a case; each is then interpolated once */
    char reference[8];            /* modality whose grid they get; "", or not in the case: the one with the smallest
                                     voxels, of equals t1c, t1, flair, t2, then the others in their order */
    int search_all;               /* 1: RIGID tries all turns of a cube, too (BMVP_NII_SEARCH_ALL) */
    char atlas[64];               /* name of a template head (bmvp_atlas); "": none, then neither `to` nor `strip` */
    bmvp_atlas_space to;
    int strip;                    /* 1: what lies outside of the brain becomes 0 (bmvp_nii_brain_mask) ... */
    double strip_margin;          /* ... so many mm beyond it, -20 to 20 */
} bmvp_preparation;
/* 1 mm, percentiles 1 and 99, box of the foreground, not resized, RAS */
BMVP_API bmvp_preparation bmvp_preparation_default(void);
BMVP_API const char *bmvp_intensity_names(void); /* "percentiles zscore zscore-all range as-it-is" */
/* BMVP_E_ARG names a field that is out of its range, or does not fit another. */
BMVP_API bmvp_status bmvp_preparation_check(const bmvp_preparation *p, bmvp_error *err);
/* As JSON object `key` (NULL: the root): {"spacing", "percentile_low", "percentile_high", "centre_crop"} and, only
   where they are not as by default, "resize": [x, y, z], "whole": true, "axes": "LPS", "intensity": "zscore", "range":
   [low, high], "register": "rigid", "reference": "t1", "search": "all", "atlas": name, "to": "affine", "strip": true,
   "strip_margin": 2. */
BMVP_API void bmvp_preparation_write(bmvp_jw *w, const char *key, const bmvp_preparation *p);
/* And back from text; name: for messages. BMVP_E_FORMAT names a field that is missing, unknown or out of its range. */
BMVP_API bmvp_status bmvp_preparation_read(const char *text, const char *name, bmvp_preparation *p, bmvp_error *err);
/* 0: a and b are the same. Else text names the first field that differs, with both values. */
BMVP_API int bmvp_preparation_differs(const bmvp_preparation *a, const bmvp_preparation *b, char *text, size_t size);

typedef struct bmvp_ft_case {            /* a whole prepared case in memory */
    const float *image[BMVP_MODALITIES]; /* by modality of the task, dim voxels in [0, 1]; NULL: missing, filled as
                                            cfg.fill says */
    int64_t dim[3];                      /* D, H, W */
} bmvp_ft_case;
/* Sliding windows over the case; planes as in bmvp_window_calls: probabilities (H, W, outputs), z0 ascending. err as
   that of the context. */
BMVP_API bmvp_status bmvp_ft_segment(bmvp_ft *f, const bmvp_ft_case *k, const bmvp_window *w,
                                     bmvp_status (*planes)(void *user, int64_t z0, int64_t n, const float *values),
                                     void *user, bmvp_error *err);
/* Classification of the crop in the middle of the case: probability of each of the network's classes. */
BMVP_API bmvp_status bmvp_ft_classify(bmvp_ft *f, const bmvp_ft_case *k, float *probability, bmvp_error *err);

/* A file of weights alone: a state dict of PyTorch, as MONAI's programs save it. Sizes are read off its tensors; what
   they do not show is said here, or has the default. */
typedef struct bmvp_ft_weights {
    const char *network; /* a row or a preset of bmvp_nn.h: "swin_unetr" */
    const char *fields;  /* of it, what no tensor shows: "new_merging=1"; NULL: as bmvp_net_infer assumes it */
    int n_modalities;
    const char *names[BMVP_MODALITIES];    /* what the input channels are, in the order of the channels */
    const bmvp_labels *labels;             /* what the outputs are; NULL: the network classifies cases */
    const char *outputs[BMVP_MAX_REGIONS]; /* the regions of labels in the order of the outputs (of classes behind the
                                              background); NULL: in the order of labels */
    int64_t window[3];                     /* x, y, z; 0: the only size that the network takes, or else 96 */
    int probabilities; /* of overlapping windows: 0: logits are averaged (MONAI, nnU-Net), 1: probabilities, as ours */
    bmvp_preparation preparation;
} bmvp_ft_weights;
/* Everything 0 but the preparation, which is the default. */
BMVP_API bmvp_ft_weights bmvp_ft_weights_default(void);
/* For prediction, as bmvp_ft_open; what the network lacks is filled with zeros. info says what was found. Errors name
   file and tensor: another network, other numbers of channels or outputs, a network that rebuilds images only, a file
   that says itself what it is. */
BMVP_API bmvp_ft *bmvp_ft_open_weights(bmvp_ctx *c, const char *path, const bmvp_ft_weights *w, bmvp_ft_info *info,
                                       bmvp_error *err);

#ifdef BMVP_NIFTI_H_INCLUDED /* what follows reads and writes images: include bmvp_nifti.h before this header */

typedef struct bmvp_image {        /* one image of a case; exactly one of path, image and volume is given */
    const char *modality;          /* "t1", "T1ce" ...: any name that bmvp_modality_find knows */
    const char *path;              /* a file: .nii, .nii.gz, a pair ... */
    const bmvp_nii_image *image;   /* or an image with its data, borrowed: read, not changed, not kept */
    const bmvp_nii_volume *volume; /* or a volume, borrowed */
    int64_t channel;               /* k: the k-th of several volumes in it, from 1; 0: it holds one number a voxel */
    int64_t channels;              /* with channel: it must hold so many; 0: at least that one */
} bmvp_image;
/* Wherever one is read: it holds one number a voxel (or the channel says which), else BMVP_E_FORMAT names the file and
   its dimensions (vectors, series, RGB, complex). Metres and micrometres of xyzt_units become mm. NaN and infinity are
   refused. */

/* In RAS. io: memory, NULL: malloc. */
BMVP_API bmvp_status bmvp_image_read(bmvp_nii_volume *v, const bmvp_image *image, const bmvp_nii_options *io,
                                     bmvp_error *err);
/* A template head, and its brain: above 0 on the same grid; NULL: not known, which `strip` needs. Borrowed. */
typedef struct bmvp_atlas {
    const bmvp_nii_volume *head, *brain;
    char name[64]; /* of its file, a blank, eight digits made from all voxels: files of one name are told apart */
} bmvp_atlas;
/* BMVP_E_SHAPE: two grids. BMVP_E_FORMAT: a head that nothing can be registered to (one voxel thick, NaN or infinite
   voxels, one value), or a brain that is nowhere or everywhere. */
BMVP_API bmvp_status bmvp_atlas_set(bmvp_atlas *a, const char *file, const bmvp_nii_volume *head,
                                    const bmvp_nii_volume *brain, bmvp_error *err);
typedef struct bmvp_prepare_job {
    const bmvp_image *image; /* n images of different modalities */
    int n;
    const bmvp_image *label;   /* on the grid of the images, resampled to the nearest voxel; NULL: none */
    const bmvp_labels *labels; /* which values it may have; NULL: any whole ones of 16 bits */
    const bmvp_preparation *how;
    const bmvp_atlas *atlas; /* the template that `how` names; NULL: none */
    int keep_doubtful; /* 1: a doubtful alignment (see bmvp_aligned) is no error */
    int other_grids; /* 0: images that do not lie on one grid (bmvp_nii_one_grid) are refused by name (as `prepare`
                        does); 1: they are resampled (linear, full affine, 0 outside) to the grid of the first image */
    int constants; /* 1: an image of one value counts as missing whatever that is; 0: only if it is 0 */
    int masks;       /* 1: fill `content` and `inside` */
    const bmvp_nii_options *io; /* memory of the volumes; NULL: malloc */
    /* As bmvp_config.progress: "images" before each is read and, on grids of their own, "resampled" before each is
       (done of n), between them "poses", "rounds" and "masks" as bmvp_nii_register and bmvp_nii_brain_mask say them.
       Nonzero: stop with BMVP_E_CANCELLED, nothing is left, and the job can be given again. NULL: none */
    int (*progress)(void *user, const char *what, int64_t done, int64_t of);
    void *progress_user;
} bmvp_prepare_job;
/* What alignment has found of an image. */
typedef struct bmvp_aligned {
    double matrix[16];   /* mm of the prepared grid (the reference's, or with `to` the template's) -> mm of this image;
                            all 0: not aligned */
    double nmi, overlap; /* of RIGID: as in bmvp_nii_registration; the reference: 2 and 1. overlap of HEADER: share of
                            the reference's head that lies in it */
    double turn, shift;  /* degrees; mm, in the middle of the reference */
    double loop;         /* RIGID: mean mm over the head by which reference -> this -> another -> reference misses (of
                            two images: there and back): an estimate of the error that needs no truth. With four images
                            the smaller of two loops. Above 3, or an overlap below 0.3: doubtful, BMVP_E_FORMAT; so is
                            an overlap of 0 by HEADER, kept or not */
} bmvp_aligned;
typedef struct bmvp_prepared_images {
    bmvp_nii_volume image[BMVP_MODALITIES]; /* by known modality (bmvp_modality_find); data NULL: not given, or blank */
    bmvp_nii_volume label;
    uint32_t blank;         /* bit k: the image of known modality k is blank: it counts as missing */
    bmvp_nii_volume frame;  /* grid of the first image that is not blank, in RAS (aligned: of the reference, after
                               resampling); without data */
    unsigned char *content; /* of its voxels: 1 where an image is not 0 */
    int64_t box[3];         /* x, y, z: the box before it was resized .. */
    unsigned char *inside;  /* .. and the same of its voxels; NULL: the frame is the box */
    uint32_t by_qform; /* bit k: the image of known modality k (k BMVP_MODALITIES: the label) lies where its qform says,
                          and its sform says another place (bmvp_nii_rectify_affine) */
    double forms_apart[BMVP_MODALITIES + 1]; /* of these: bmvp_nii_volume's; 0: sform and qform say one place */
    uint32_t few;      /* bit k: the image of known modality k has fewer than nine different values */
    int64_t label_cut;      /* labelled voxels that lie outside of the box, and are not in `label` */
    int label_lost;         /* a value from 1 to 255 of which resampling or the box has left no voxel; 0: none */
    int reference;          /* known modality, where the preparation aligns */
    bmvp_aligned aligned[BMVP_MODALITIES];
    double to_atlas[16], atlas_nmi;     /* of `to`: mm of the template -> mm of the reference */
    bmvp_nii_volume brain;              /* of `strip`: 1 where the images are kept, in their box; data NULL: .. */
    int stripped;                       /* .. 1: they were stripped already */
    bmvp_nii_brain_report brain_report; /* of `brain` */
    bmvp_allocator allocator;
} bmvp_prepared_images;
/* All of the preparation that needs the images together, up to the box. Fails with a message that begins with the file:
   unreadable, NaN, no voxel above 0, a label map among the images, a second image of a modality, another grid. All
   blank: every data is NULL, BMVP_OK. */
BMVP_API bmvp_status bmvp_prepare_images(bmvp_prepared_images *p, const bmvp_prepare_job *job, bmvp_error *err);
/* The rest, for one of them (data NULL: nothing): percentiles to [0, 1] if it is not the label, and resizing. */
BMVP_API bmvp_status bmvp_prepare_values(bmvp_nii_volume *v, int is_label, const bmvp_preparation *how,
                                         bmvp_error *err);
BMVP_API void bmvp_prepared_images_free(bmvp_prepared_images *p);
/* The text for the header (descrip) of a prepared file: it says that, and the settings. */
BMVP_API void bmvp_prepared_mark(char text[81], const bmvp_preparation *how);
/* Was a header with this text written so? */
BMVP_API int bmvp_is_prepared(const bmvp_nii_image *image);

typedef struct bmvp_predictor bmvp_predictor;
/* A fine-tuned checkpoint, ready to predict. NULL and err on failure. The context must outlive it and its
   predictions. */
BMVP_API bmvp_predictor *bmvp_predictor_open(bmvp_ctx *c, const char *checkpoint, bmvp_error *err);
/* The same of weights that another program has trained. */
BMVP_API bmvp_predictor *bmvp_predictor_open_weights(bmvp_ctx *c, const char *path, const bmvp_ft_weights *w,
                                                     bmvp_error *err);
BMVP_API void bmvp_predictor_close(bmvp_predictor *p); /* NULL is fine */
BMVP_API const bmvp_ft_info *bmvp_predictor_info(const bmvp_predictor *p);
BMVP_API const bmvp_preparation *bmvp_predictor_preparation(const bmvp_predictor *p);

typedef enum bmvp_predict_fill { BMVP_FILL_CHECKPOINT, BMVP_FILL_TEMPLATE, BMVP_FILL_ZERO } bmvp_predict_fill;
typedef struct bmvp_predict_options {
    bmvp_window window;     /* roi 0: the checkpoint's crop */
    bmvp_predict_fill fill; /* what stands for a missing modality */
    int align;              /* how images come to one grid; 0: as the checkpoint's cases, else 1 + a bmvp_alignment */
    int keep_doubtful, other_grids; /* as in bmvp_prepare_job */
    const bmvp_atlas *atlas; /* the template that the checkpoint's preparation names; NULL: none */
    int probabilities;      /* 1: also one image an output, 2 bytes a voxel each */
    const char *grid;       /* modality of the image whose grid the results have; NULL: the first of the images */
} bmvp_predict_options;
/* overlap 0.5, constant weights, one window at once, no flips */
BMVP_API bmvp_predict_options bmvp_predict_options_default(void);

typedef struct bmvp_prediction {
    bmvp_nii_image label;          /* segmentation: uint8 on that grid; affine, codes, units are the image's */
    int n;                         /* outputs: regions; classes, the background first; classes of a classification */
    bmvp_nii_image *probability;   /* n images, int16 of slope 1 / 32767; exclusive classes add up to 1; or NULL */
    float *score;                  /* classification: n probabilities; else NULL */
    int likeliest;                 /* classification: the class */
    uint32_t given, filled, blank; /* bit m: modality m of the task (info->names) was used; filled; given, but blank */
    uint32_t by_qform, few;        /* as in bmvp_prepared_images, of modality m of the task */
    uint32_t apart;                /* bit m: its sform, which was taken, and its qform say places .. */
    double forms_apart;            /* .. so far apart, mm; the largest of them */
    bmvp_predict_fill fill;        /* by what they were filled */
    bmvp_alignment aligned;        /* how the images came to one grid .. */
    int reference;                 /* .. that of this known modality .. */
    double loop;                   /* .. and the largest loop error of them, mm */
    int stripped;                  /* a preparation that strips: the images came without head .. */
    bmvp_nii_brain_report brain;   /* .. or this of the mask; all 0: none was made */
    bmvp_allocator allocator;
} bmvp_prediction;
/* Predicts a case from n images, of any subset of the task's modalities (others take part in the box only, as in
   `prepare`); a blank image counts as missing. Images that `prepare` wrote are taken as they are if it had this
   network's settings, else refused. Progress and cancelling are the context's (bmvp_config.progress is told what a
   bmvp_prepare_job tells, then "windows"). On failure out is
   empty and err says why; after a failure of the context (BMVP_E_CANCELLED, BMVP_E_OOM) bmvp_clear_error makes it ready
   for the next case. BMVP_E_ARG, BMVP_E_FORMAT, BMVP_E_IO, BMVP_E_SHAPE (grids), BMVP_E_OOM, BMVP_E_CANCELLED. Memory:
   the prepared images, two planes of probabilities, what the window needs, and the results. */
BMVP_API bmvp_status bmvp_predict(bmvp_predictor *p, const bmvp_image *image, int n,
                                  const bmvp_predict_options *options, bmvp_prediction *out, bmvp_error *err);
BMVP_API void bmvp_prediction_free(bmvp_prediction *p); /* before the context is destroyed */

#endif /* BMVP_NIFTI_H_INCLUDED */

#ifdef __cplusplus
}
#endif
#endif /* BMVP_SSL_H_INCLUDED */

/* ================================================================================================================
   Stop here if you only use the library. Implementation below.
   ================================================================================================================ */
#ifdef BMVP_SSL_IMPLEMENTATION
#ifndef BMVP_SSL_IMPLEMENTATION_ONCE
#define BMVP_SSL_IMPLEMENTATION_ONCE
#ifndef BMVP_NN_IMPLEMENTATION_ONCE
#error "the implementation of bmvp_ssl.h goes into the same file as those of bmvp_tensor.h and bmvp_nn.h"
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* Streams of random numbers: bmvp_rng_make(seed, stream, step, sample). Network initialisation uses 1000 and up, a
   method of a program 100 to 999. */
enum {
    BMVPI_STREAM_ORDER = 1,
    BMVPI_STREAM_DRAW,
    BMVPI_STREAM_MASK_TEMPLATE,
    BMVPI_STREAM_MASK_MODAL,
    BMVPI_STREAM_REPLACE,
    BMVPI_STREAM_AUGMENT,
    BMVPI_STREAM_MASK_COPY
};

/* >>mask impl ------------------------------------------------------------------------------------------------------ */

/* A mask is drawn as bits, at the start of the caller's floats, and spread over them at the end: boxes overlap several
   times (4000 of 8^3 for 90 % of 96^3), and 8 x 8 voxels of a slice are one word this way. A volume of columns (W = 1)
   is taken as one of rows, which lie the same, so that words have room and are read before floats come over them. */
typedef struct bmvpi_mask_bits {
    unsigned char *word; /* [D][ceil(H / 8)][ceil(W / 8)] of 8 bytes: bit 8 j + i is row j, column i of 8 x 8 */
    int64_t dim[3], wide, slice; /* D, H, W, turned; words of a row and of a slice */
    int turn;                    /* axis a of the caller's is (a + turn) % 3 here */
    uint64_t single;             /* a volume of one voxel has no room for a word */
} bmvpi_mask_bits;

static void bmvpi_mask_start(bmvpi_mask_bits *b, float *mask, const int64_t dim[3])
{
    int a;
    b->turn = dim[2] > 1 ? 0 : dim[1] > 1 ? 1 : 2;
    for (a = 0; a < 3; ++a) b->dim[(a + b->turn) % 3] = dim[a];
    b->wide = bmvpi_ceil_div(b->dim[2], 8);
    b->slice = bmvpi_ceil_div(b->dim[1], 8) * b->wide;
    b->word = dim[0] * dim[1] * dim[2] > 1 ? (unsigned char *)mask : (unsigned char *)&b->single;
    memset(b->word, 0, (size_t)(8 * b->dim[0] * b->slice));
}

/* How many bits of each byte are 1, and of all */
static uint64_t bmvpi_ones_of_bytes(uint64_t v)
{
    v -= v >> 1 & UINT64_C(0x5555555555555555);
    v = (v & UINT64_C(0x3333333333333333)) + (v >> 2 & UINT64_C(0x3333333333333333));
    return (v + (v >> 4)) & UINT64_C(0x0f0f0f0f0f0f0f0f);
}
static int64_t bmvpi_ones(uint64_t v)
{
    return (int64_t)(bmvpi_ones_of_bytes(v) * UINT64_C(0x0101010101010101) >> 56);
}

/* Sets the bits of `set` in `depth` words `step` bytes apart, returns how many of them were 0. Counts of 1, 2 and 4 are
   kept for each bit by itself, so that few words are counted. */
static int64_t bmvpi_mask_column(unsigned char *at, int64_t depth, int64_t step, uint64_t set)
{
    uint64_t one = 0, two = 0, four = 0, v, u;
    int64_t fresh = 0;
    for (; depth > 0; --depth, at += step) {
        memcpy(&v, at, 8);
        u = set & ~v;
        v |= set;
        memcpy(at, &v, 8);
        v = one & u;
        one ^= u;
        u = two & v;
        two ^= v;
        v = four & u;
        four ^= u;
        if (v) fresh += 8 * bmvpi_ones(v);
    }
    return fresh + bmvpi_ones(one) + 2 * bmvpi_ones(two) + 4 * bmvpi_ones(four);
}

/* The bits of [low, high) among the eight from `first` on */
static uint64_t bmvpi_mask_span(int64_t first, int64_t low, int64_t high)
{
    return (low > first ? 255u << (low - first) : 255u) & (high < first + 8 ? 255u >> (first + 8 - high) : 255u);
}

/* Sets a box to 1; with `count` returns how many voxels of it were 0, else 0. */
static int64_t bmvpi_mask_box(bmvpi_mask_bits *b, const int64_t low[3], const int64_t high[3], int count)
{
    const uint64_t each = UINT64_C(0x0101010101010101);
    const int z0 = (3 - b->turn) % 3, y0 = (4 - b->turn) % 3, x0 = (5 - b->turn) % 3;
    const int64_t depth = high[z0] - low[z0], step = 8 * b->slice;
    int64_t z, y, x, fresh = 0;
    for (y = low[y0] / 8 * 8; y < high[y0]; y += 8) {
        const int64_t skip = bmvpi_max(low[y0] - y, 0), beyond = bmvpi_max(y + 8 - high[y0], 0);
        const uint64_t rows = each << 8 * skip & each >> 8 * beyond;
        for (x = low[x0] / 8 * 8; x < high[x0]; x += 8) {
            const uint64_t set = rows * bmvpi_mask_span(x, low[x0], high[x0]);
            unsigned char *at = b->word + low[z0] * step + y * b->wide + x;
            if (count) fresh += bmvpi_mask_column(at, depth, step, set);
            else
                for (z = 0; z < depth; ++z, at += step) {
                    uint64_t v;
                    memcpy(&v, at, 8);
                    v |= set;
                    memcpy(at, &v, 8);
                }
        }
    }
    return fresh;
}

/* How many voxels are 1. Counts of a byte's bits are at most 8: of 31 words they have room in it. */
static int64_t bmvpi_mask_count(const bmvpi_mask_bits *b)
{
    const int64_t n = b->dim[0] * b->slice;
    int64_t i = 0, sum = 0, last;
    uint64_t v, bytes;
    while (i < n) {
        for (last = bmvpi_min(i + 31, n), bytes = 0; i < last; ++i) {
            memcpy(&v, b->word + 8 * i, 8);
            bytes += bmvpi_ones_of_bytes(v);
        }
        bytes = (bytes & UINT64_C(0x00ff00ff00ff00ff)) + (bytes >> 8 & UINT64_C(0x00ff00ff00ff00ff));
        sum += (int64_t)(bytes * UINT64_C(0x0001000100010001) >> 48);
    }
    return sum;
}

/* Eight bits as n of eight floats, four at a time */
static void bmvpi_mask_floats(float *to, int64_t n, uint64_t bits)
{
    static const float four[16][4] = {
        { 0, 0, 0, 0 }, { 1, 0, 0, 0 }, { 0, 1, 0, 0 }, { 1, 1, 0, 0 }, { 0, 0, 1, 0 }, { 1, 0, 1, 0 },
        { 0, 1, 1, 0 }, { 1, 1, 1, 0 }, { 0, 0, 0, 1 }, { 1, 0, 0, 1 }, { 0, 1, 0, 1 }, { 1, 1, 0, 1 },
        { 0, 0, 1, 1 }, { 1, 0, 1, 1 }, { 0, 1, 1, 1 }, { 1, 1, 1, 1 },
    };
    const int64_t first = bmvpi_min(n, 4);
    memcpy(to, four[bits & 15], (size_t)first * sizeof *to);
    memcpy(to + first, four[bits >> 4 & 15], (size_t)(n - first) * sizeof *to);
}
/* The bits as floats, in place, from the end: the words that are still needed lie before what is written. */
static void bmvpi_mask_spread(const bmvpi_mask_bits *b, float *mask)
{
    const int64_t w = b->dim[2];
    float *row = mask + b->dim[0] * b->dim[1] * w;
    int64_t z, y, x;
    uint64_t v;
    for (z = b->dim[0]; z-- > 0;)
        for (y = b->dim[1]; y-- > 0;) {
            const unsigned char *from = b->word + 8 * (z * b->slice + y / 8 * b->wide);
            const int64_t down = y % 8 * 8;
            row -= w;
            if (w % 8) {
                memcpy(&v, from + w / 8 * 8, 8);
                bmvpi_mask_floats(row + w / 8 * 8, w % 8, v >> down);
            }
            for (x = w / 8 * 8; x > 0;) {
                x -= 8;
                memcpy(&v, from + x, 8);
                bmvpi_mask_floats(row + x, 8, v >> down);
            }
        }
}

/* Returns its voxels. */
static int64_t bmvpi_mask_draw(const int64_t dim[3], int64_t r, bmvp_rng *rng, int64_t low[3], int64_t high[3])
{
    int a;
    for (a = 0; a < 3; ++a) {
        const int64_t centre = bmvp_rng_below(rng, (uint32_t)dim[a]);
        low[a] = bmvpi_max(0, centre - r / 2);
        high[a] = bmvpi_min(dim[a], centre - r / 2 + r);
    }
    return (high[0] - low[0]) * (high[1] - low[1]) * (high[2] - low[2]);
}

/* As long as much is left to mask, boxes are counted together: those before the sum of their voxels is as much as is
   left are wanted whatever they cover of each other. */
BMVP_API void bmvp_mask_boxes(float *mask, const int64_t dim[3], int64_t r, double ratio, bmvp_rng *rng)
{
    const double total = (double)(dim[0] * dim[1] * dim[2]), wanted = (ratio < 1 ? ratio : 1) * total;
    int64_t masked = 0, low[3], high[3];
    bmvpi_mask_bits b;
    bmvpi_mask_start(&b, mask, dim);
    while (wanted - (double)masked > total / 8) {
        while ((double)masked < wanted) {
            masked += bmvpi_mask_draw(dim, r, rng, low, high);
            (void)bmvpi_mask_box(&b, low, high, 0);
        }
        masked = bmvpi_mask_count(&b);
    }
    while ((double)masked < wanted) {
        (void)bmvpi_mask_draw(dim, r, rng, low, high);
        masked += bmvpi_mask_box(&b, low, high, 1);
    }
    bmvpi_mask_spread(&b, mask);
}

/* Selection sampling: visits the blocks once and keeps each with the chance (still to keep) / (still to visit),
   which is the distribution of the first entries of a random permutation. */
BMVP_API void bmvp_mask_blocks(float *mask, const int64_t dim[3], int64_t r, double ratio, bmvp_rng *rng)
{
    const int64_t n[3] = { bmvpi_ceil_div(dim[0], r), bmvpi_ceil_div(dim[1], r), bmvpi_ceil_div(dim[2], r) };
    int64_t left = n[0] * n[1] * n[2], keep = (int64_t)((double)left * (1.0 - ratio)), i, low[3], high[3];
    bmvpi_mask_bits b;
    bmvpi_mask_start(&b, mask, dim);
    for (i = 0; left > 0; ++i, --left) {
        if ((int64_t)bmvp_rng_below(rng, (uint32_t)left) < keep) {
            --keep;
            continue;
        }
        low[0] = i / (n[1] * n[2]) * r;
        low[1] = i / n[2] % n[1] * r;
        low[2] = i % n[2] * r;
        high[0] = bmvpi_min(dim[0], low[0] + r);
        high[1] = bmvpi_min(dim[1], low[1] + r);
        high[2] = bmvpi_min(dim[2], low[2] + r);
        (void)bmvpi_mask_box(&b, low, high, 0);
    }
    bmvpi_mask_spread(&b, mask);
}

/* >>template impl -------------------------------------------------------------------------------------------------- */

static int64_t bmvpi_floor_half(int64_t v) { return v >= 0 ? v / 2 : -((-v + 1) / 2); }

BMVP_API void bmvp_template_place(const int64_t crop[3], const int64_t volume[3], const int64_t grid[3],
                                  int64_t start[3])
{
    int a;
    for (a = 0; a < 3; ++a) start[a] = crop[a] + bmvpi_floor_half(grid[a] - volume[a]);
}

/* >>sampler impl --------------------------------------------------------------------------------------------------- */

BMVP_API int64_t bmvp_ssl_epoch_of(const bmvp_ssl_config *cfg, int64_t n_cases, int64_t step)
{
    return n_cases > 0 ? step * cfg->batch / n_cases : 0;
}

/* The order of the cases in one epoch: Fisher-Yates. */
static void bmvpi_case_order(int seed, int64_t n, int64_t epoch, int64_t *order)
{
    bmvp_rng r = bmvp_rng_make((uint64_t)seed, BMVPI_STREAM_ORDER, (uint32_t)epoch, 0);
    int64_t i;
    for (i = 0; i < n; ++i) order[i] = i;
    for (i = n - 1; i > 0; --i) {
        const int64_t j = bmvp_rng_below(&r, (uint32_t)(i + 1)), t = order[i];
        order[i] = order[j];
        order[j] = t;
    }
}

/* The k-th modality of a set, -1 past the last. */
static int bmvpi_set_member(uint32_t set, int k)
{
    int m;
    for (m = 0; m < 32; ++m)
        if ((set >> m & 1u) && k-- == 0) return m;
    return -1;
}

static int bmvpi_set_size(uint32_t set)
{
    int n = 0;
    for (; set; set &= set - 1) ++n;
    return n;
}

/* Start of a crop on an axis with `room` voxels to spare: uniform; a crop longer than the volume is centred on it. */
static int64_t bmvpi_crop_start(int64_t room, bmvp_rng *r)
{
    const uint32_t at = bmvp_rng_below(r, (uint32_t)bmvpi_max(room + 1, 1));
    return room >= 0 ? (int64_t)at : -(-room / 2);
}

static void bmvpi_ssl_draw_one(const bmvp_ssl_config *cfg, const bmvp_ssl_case *k, int64_t step, int slot_of_step,
                               bmvp_ssl_draw *d)
{
    bmvp_rng r = bmvp_rng_make((uint64_t)cfg->seed, BMVPI_STREAM_DRAW, (uint32_t)step, d->slot);
    const int count = bmvpi_set_size(k->modalities);
    int pick = (int)bmvp_rng_below(&r, (uint32_t)count),
        other = (int)bmvp_rng_below(&r, (uint32_t)(count > 1 ? count - 1 : 1)), a;
    if (slot_of_step >= 0) pick = slot_of_step % count;
    other += other >= pick;
    d->modality = bmvpi_set_member(k->modalities, pick);
    d->other = count > 1 ? bmvpi_set_member(k->modalities, other) : -1;
    for (a = 0; a < 3; ++a) d->crop[a] = bmvpi_crop_start(k->dim[a] - cfg->crop, &r);
}

BMVP_API int bmvp_ssl_sample(const bmvp_ssl_config *cfg, const bmvp_ssl_case *cases, int64_t n_cases, int n_modalities,
                             int64_t step, int64_t *order, bmvp_ssl_draw *out)
{
    return bmvp_ssl_sample_at(cfg, cases, n_cases, n_modalities, step, step * cfg->batch, order, out);
}

BMVP_API int bmvp_ssl_sample_at(const bmvp_ssl_config *cfg, const bmvp_ssl_case *cases, int64_t n_cases,
                                int n_modalities, int64_t step, int64_t samples, int64_t *order, bmvp_ssl_draw *out)
{
    const int rounds = cfg->all_modalities ? n_modalities : 1;
    int64_t epoch = -1;
    int i, m, n = 0, shared = -1;
    if (cfg->shared_slot) {
        bmvp_rng r = bmvp_rng_make((uint64_t)cfg->seed, BMVPI_STREAM_DRAW, (uint32_t)step, 0xffffffffu);
        shared = (int)bmvp_rng_below(&r, 8 * 9 * 5 * 7); /* a multiple of every possible count: modulo stays uniform */
    }
    for (m = 0; m < rounds; ++m)
        for (i = 0; i < cfg->batch; ++i) {
            const int64_t at = samples + i;
            bmvp_ssl_draw *d = &out[n];
            if (epoch != at / n_cases) bmvpi_case_order(cfg->seed, n_cases, epoch = at / n_cases, order);
            d->index = order[at % n_cases];
            d->slot = (uint32_t)(m * cfg->batch + i);
            d->weight = 1.0 / cfg->batch;
            if (cfg->all_modalities) {
                const int count = bmvpi_set_size(cases[d->index].modalities);
                if (m >= count) continue;
                d->weight /= count;
            }
            bmvpi_ssl_draw_one(cfg, &cases[d->index], step, cfg->all_modalities ? m : shared, d);
            ++n;
        }
    return n;
}

/* >>views: one crop, shown twice with most of it hidden ---------------------------------------------------------------

   A training step sees of each case i one crop X_im of a modality m, and makes two views of it. A view is Phi
   (Algorithm 1): where a random mask is 1 the crop shows a filler instead, and only 1 - p* (an eighth) of the crop
   itself is left:

       Phi_distill(X_im, T_m)   filled from the template T_m of its modality, which is learned: gradients flow through
                                the masked voxels into it
       Phi_modal(X_im, X_in)    filled from another modality n of the same case, at the same place

   The network has one input channel whatever m and n are, so a case may have any number of modalities; one with a
   single modality has no second view. Both views of all cases go through the encoder as one batch, the template
   views first: batch statistics are joint. Each view has a mask of its own, drawn from (seed, step, slot of the
   item), so that a run that goes on, or on other ranks, draws the same.

   The release differs in three ways, each a field: aligned blocks instead of boxes (mask_form), templates normalised
   to [0, 1] over their whole volume in every step (template_value), and, in its first 300 epochs, both views filled
   from the template (template_only_epochs). */

enum { BMVPI_SSL_BATCH = 256, BMVPI_SSL_CMR = 0, BMVPI_SSL_MD, BMVPI_SSL_CL };

struct bmvp_ssl { /* the state of the method */
    bmvp_trainer *t;
    bmvp_ctx *c;
    bmvp_ssl_config *cfg; /* the trainer's */
    int n_modalities, modality[BMVP_MODALITIES]; /* known index of each, ascending */
    bmvp_tensor *templ[BMVP_MODALITIES];         /* T_m */
    int64_t grid[3];
    float *mask;          /* crop^3, scratch */
    int keep;
    bmvp_features features;
    bmvp_tensor *reconstruction;
};

typedef struct bmvpi_views { /* of one forward pass */
    bmvp_pass *p;
    bmvp_ssl *s;
    const bmvp_ssl_item *item;
    int n, n_template, n_modal;
    bmvp_tensor *crop[BMVPI_SSL_BATCH];      /* X_im */
    bmvp_tensor *view[2 * BMVPI_SSL_BATCH];  /* [n_template template views; n_modal modal views] */
    int modal_item[BMVPI_SSL_BATCH];         /* the item of each modal view */
    bmvp_tensor *filler[BMVP_MODALITIES];    /* template values, made when first needed */
} bmvpi_views;

static bmvp_tensor *bmvpi_ssl_filler(bmvpi_views *v, int m)
{
    bmvp_ssl *s = v->s;
    if (m < 0 || m >= s->n_modalities)
        return (bmvp_tensor *)bmvp_fail(s->c, BMVP_E_ARG, "item of modality %d, but the run has %d", m,
                                        s->n_modalities);
    if (!v->filler[m])
        v->filler[m] = s->cfg->template_value == BMVP_TEMPLATE_MINMAX
                           ? bmvp_minmax(s->c, s->templ[m], s->cfg->template_eps) : s->templ[m];
    return v->filler[m];
}

static bmvp_tensor *bmvpi_ssl_mask(bmvp_ssl *s, const float *given, uint32_t slot, uint32_t stream,
                                   const int64_t dim[3])
{
    bmvp_rng r = bmvp_rng_make((uint64_t)s->cfg->seed, stream, (uint32_t)s->t->steps, slot);
    if (!given && !bmvp_is_plan(s->c)) {
        (s->cfg->mask_form == BMVP_MASK_BOXES ? bmvp_mask_boxes : bmvp_mask_blocks)(s->mask, dim, s->cfg->mask_patch,
                                                                                    s->cfg->mask_ratio, &r);
        given = s->mask;
    }
    return bmvp_input(s->c, 3, dim, given);
}

/* Item i as (1, D, H, W, 1): Phi_distill(X_im, T_m) or, with from_template 0, Phi_modal(X_im, X_in) */
static bmvp_tensor *bmvpi_ssl_view(bmvpi_views *v, int i, int from_template, int modal_mask)
{
    static const int64_t origin[3] = { 0, 0, 0 };
    bmvp_ssl *s = v->s;
    const bmvp_ssl_item *t = &v->item[i];
    const int64_t e = s->cfg->crop, dim[3] = { e, e, e }, batch[5] = { 1, e, e, e, 1 };
    bmvp_tensor *mask = bmvpi_ssl_mask(s, modal_mask ? t->mask_modal : t->mask_template, t->slot,
                                       modal_mask ? BMVPI_STREAM_MASK_MODAL : BMVPI_STREAM_MASK_TEMPLATE, dim);
    bmvp_tensor *filler = from_template ? bmvpi_ssl_filler(v, t->modality) : bmvp_input(s->c, 3, dim, t->other);
    bmvp_tensor *y = bmvp_masked_fill(s->c, v->crop[i], filler, mask, from_template ? t->template_start : origin);
    return bmvp_reshape(s->c, y, 5, batch);
}

static int bmvpi_ssl_only_template(const bmvp_pass *p)
{
    return p->epoch < ((const bmvp_ssl_config *)p->config)->template_only_epochs;
}
static int bmvpi_ssl_contrasts(const bmvp_pass *p)
{
    const bmvp_ssl_config *k = (const bmvp_ssl_config *)p->config;
    return k->weight_cl > 0 && p->epoch >= k->contrast_from_epoch;
}

static void bmvpi_ssl_views(bmvpi_views *v)
{
    const bmvp_ssl_config *k = v->s->cfg;
    const int64_t dim[3] = { k->crop, k->crop, k->crop };
    const int contrast = bmvpi_ssl_contrasts(v->p), only_template = bmvpi_ssl_only_template(v->p);
    int i;
    for (i = 0; i < v->n; ++i) {
        v->crop[i] = bmvp_input(v->s->c, 3, dim, v->item[i].x);
        if (k->weight_md > 0 || contrast) v->view[v->n_template++] = bmvpi_ssl_view(v, i, 1, 0);
    }
    for (i = 0; i < v->n && (k->weight_cmr > 0 || contrast); ++i) {
        if (!v->item[i].other && !only_template && !bmvp_is_plan(v->s->c)) continue;
        v->modal_item[v->n_modal] = i;
        v->view[v->n_template + v->n_modal++] = bmvpi_ssl_view(v, i, only_template, 1);
    }
    for (i = 0; i < v->s->n_modalities; ++i) bmvp_drop(v->s->c, v->filler[i]); /* backward reads their values nowhere */
}

/* Any number of tensors along axis 0, in order. */
static bmvp_tensor *bmvpi_stack(bmvp_ctx *c, bmvp_tensor **x, int n)
{
    int i, k = 0;
    while (n > 1) {
        for (i = 0, k = 0; i < n; i += BMVP_MAX_SRC, ++k)
            x[k] = bmvp_concat(c, n - i < BMVP_MAX_SRC ? n - i : BMVP_MAX_SRC, &x[i], 0);
        n = k;
    }
    return x[0];
}

/* >>losses: what the network is asked ---------------------------------------------------------------------------------

   F = decoder(encoder(.)) rebuilds a volume from a view; f and g are what the encoder alone makes of the two views
   (its last map, flattened).

       (2)    L_CMR = || F(Phi_modal(X_im, X_in)) - X_im ||^2     cross-modal reconstruction: what m shows where only n
                                                                  can be seen
       (3)    L_MD  = || F(Phi_distill(X_im, T_m)) - X_im ||^2    modality-wise distillation: T_m becomes what crops of
                                                                  m have in common
       (4, 5) L_CL  = 1/2 ( CE(f_i . g_j / tau, i)                modality-aware contrast: the two views of a crop are
                          + CE(g_i . f_j / tau, i) )              recognised as such among those of the other cases
       (6)    L_SSL = mean over cases of ( L_CMR + lambda_MD L_MD + lambda_CL L_CL )

   (2) and (3) are mean squares over all voxels, masked and visible. In (4, 5) f and g have the length 1; there is no
   projection head. The mean over the modalities of a case, which (6) has in the paper, is by default estimated by
   one m a case and step (all_modalities 0).

   Why both reconstructions: (2) alone learns to translate between modalities that are there, (3) what a modality is
   like when none is. In fine-tuning T_m then stands in for a modality that a patient lacks. */

static bmvp_tensor *bmvpi_plus(bmvp_ctx *c, bmvp_tensor *sum, bmvp_tensor *t)
{
    return sum && t ? bmvp_add(c, sum, t) : sum ? sum : t;
}

static double bmvpi_ssl_weight(const bmvpi_views *v, int i)
{
    return v->item[i].weight > 0 ? v->item[i].weight : 1.0 / (double)v->p->n_all;
}

/* (2), (3): sum of w_i mse(what was rebuilt of view first + j, crop of item j or item[j]) over `count` of them */
static bmvp_tensor *bmvpi_ssl_rebuild_loss(const bmvpi_views *v, bmvp_tensor *rebuilt, int first, int count,
                                           const int *item)
{
    bmvp_ctx *c = v->s->c;
    bmvp_tensor *sum = NULL;
    int j;
    for (j = 0; j < count && rebuilt && !bmvp_failed(c); ++j) {
        const int i = item ? item[j] : j;
        bmvp_tensor *r = bmvp_reshape(c, bmvp_slice(c, rebuilt, 0, first + j, 1), 3, v->crop[i]->dim);
        sum = bmvpi_plus(c, sum, bmvp_scale(c, bmvp_mse(c, r, v->crop[i]), bmvpi_ssl_weight(v, i), 0));
    }
    return sum;
}

/* (4, 5): symmetric InfoNCE over the pairs (f_i, g_i), both (P, D), rows of length 1. */
static bmvp_tensor *bmvpi_ssl_contrast_loss(bmvp_ctx *c, bmvp_tensor *f, bmvp_tensor *g, double tau)
{
    bmvp_tensor *rows, *cols, *y;
    int32_t *target;
    int i;
    if (!f || !g) return NULL;
    target = (int32_t *)bmvpi_alloc(c, f->dim[0] * (int64_t)sizeof *target);
    if (!target) return NULL;
    for (i = 0; i < (int)f->dim[0]; ++i) target[i] = i;
    rows = bmvp_scale(c, bmvp_matmul(c, f, g, 0, 1), 1.0 / tau, 0);
    cols = bmvp_scale(c, bmvp_matmul(c, g, f, 0, 1), 1.0 / tau, 0);
    y = bmvp_add(c, bmvp_cross_entropy(c, rows, target), bmvp_cross_entropy(c, cols, target));
    bmvpi_free(c, target);
    return bmvp_scale(c, y, 0.5, 0);
}

/* n maps as (n, D), each of length 1 */
static bmvp_tensor *bmvpi_ssl_rows(bmvp_ctx *c, bmvp_tensor *maps, int n)
{
    int64_t flat[2];
    if (!maps) return NULL;
    flat[0] = n, flat[1] = maps->numel / n;
    return bmvp_l2_normalize(c, bmvp_reshape(c, maps, 2, flat), 1e-12);
}

/* >>forward: one pass over a batch of crops ------------------------------------------------------------------------ */

/* f and g of the cases with both views, and the weight of such cases among all. With gather_negatives the other
   cases are those of the whole step, wherever they are computed. */
static void bmvpi_ssl_add_contrast(bmvpi_views *v, bmvp_tensor *last)
{
    const bmvp_ssl_config *k = v->s->cfg;
    const bmvp_loss_kind kind = k->gather_negatives ? BMVP_LOSS_ALL : BMVP_LOSS_SUM;
    double sum[3] = { 0, 0, 0 }, *given = &sum[1], *open = &sum[2]; /* pairs; their weights, and how many have none */
    bmvp_tensor *both[BMVPI_SSL_BATCH], *f = NULL, *g = NULL, *loss;
    bmvp_ctx *c = v->s->c;
    int j;
    for (j = 0; j < v->n_modal; ++j) {
        both[j] = bmvp_slice(c, last, 0, v->modal_item[j], 1);
        if (v->item[v->modal_item[j]].weight > 0) *given += v->item[v->modal_item[j]].weight;
        else ++*open;
    }
    if (v->n_modal > 0) {
        f = bmvpi_ssl_rows(c, bmvp_slice(c, last, 0, v->n_template, v->n_modal), v->n_modal);
        g = bmvpi_ssl_rows(c, bmvpi_stack(c, both, v->n_modal), v->n_modal);
    }
    sum[0] = v->n_modal;
    if (kind == BMVP_LOSS_ALL) {
        bmvp_pass_sum(v->p, sum, 3);
        f = bmvp_pass_rows(v->p, f, last->numel / last->dim[0], NULL);
        g = bmvp_pass_rows(v->p, g, last->numel / last->dim[0], NULL);
    }
    if (!(sum[0] > 0)) return;
    loss = bmvpi_ssl_contrast_loss(c, f, g, k->temperature);
    bmvp_pass_loss(v->p, BMVPI_SSL_CL, kind, k->weight_cl,
                   bmvp_scale(c, loss, *given + *open / (double)v->p->n_all, 0));
}

static void bmvpi_ssl_keep_all(bmvp_ssl *s)
{
    int i;
    for (i = 0; i < 4; ++i) bmvp_keep(s->features.map[i]);
    bmvp_keep(s->reconstruction);
}

/* (6) */
static void bmvpi_ssl_forward(bmvp_pass *p)
{
    bmvp_ssl *s = (bmvp_ssl *)p->state;
    const bmvp_ssl_config *k = s->cfg;
    bmvpi_views v;
    memset(&v, 0, sizeof v);
    v.p = p;
    v.s = s;
    v.item = (const bmvp_ssl_item *)p->items;
    v.n = p->n;
    bmvpi_ssl_views(&v);
    if (!bmvp_pass_needs(p, v.n_template + v.n_modal, "view", "weight_md > 0 where cases have one modality")) return;
    s->features = bmvp_net_encode(p->net, bmvpi_stack(s->c, v.view, v.n_template + v.n_modal), 1);
    s->reconstruction = k->weight_cmr > 0 || k->weight_md > 0 ? bmvp_net_reconstruct(p->net, &s->features) : NULL;
    p->through = s->features.last;
    if (s->keep) bmvpi_ssl_keep_all(s);
    if (bmvp_failed(s->c)) return;
    if (k->weight_cmr > 0)
        bmvp_pass_loss(p, BMVPI_SSL_CMR, BMVP_LOSS_SUM, k->weight_cmr,
                       bmvpi_ssl_rebuild_loss(&v, s->reconstruction, v.n_template, v.n_modal, v.modal_item));
    if (k->weight_md > 0)
        bmvp_pass_loss(p, BMVPI_SSL_MD, BMVP_LOSS_SUM, k->weight_md,
                       bmvpi_ssl_rebuild_loss(&v, s->reconstruction, 0, v.n_template, NULL));
    if (bmvpi_ssl_contrasts(p)) bmvpi_ssl_add_contrast(&v, s->features.last);
}

/* >>trainer impl: a run of any method ---------------------------------------------------------------------------------

   A step passes through bmvp_trainer_step, bmvpi_trainer_pass (check, forward of the method, backward, its losses
   into the record) and bmvp_trainer_update (gradients of all ranks, clipping, optimizer). All that a run is stands
   in bmvp_trainer and its private part. */

enum { BMVPI_RECORDS = 32, BMVPI_NUMBERS = 1 + BMVP_LOSSES, BMVPI_NORM = BMVPI_NUMBERS, BMVPI_KEPT = 4 };
/* The total, the named losses and the gradient's norm; NaN: not there */
typedef struct bmvpi_losses { int64_t step; double loss[BMVPI_NUMBERS + 1]; } bmvpi_losses;
typedef struct bmvpi_post { int64_t ticket, step; unsigned has; } bmvpi_post; /* bit i: loss[i] is sent with it */
/* part of a volume, inside of it; size 0: all of it */
typedef struct bmvpi_box { int64_t entry, start[3], size[3]; } bmvpi_box;

typedef struct bmvpi_trainer {
    bmvpi_losses record[BMVPI_RECORDS];  /* of step s at s % BMVPI_RECORDS */
    bmvpi_post post[BMVP_TICKETS];       /* number i at i % BMVP_TICKETS */
    int64_t posted, read;
    double pass[BMVPI_NUMBERS + 1];      /* losses of the pass that was read last, and the norm */
    int parts;                           /* named losses of the method */
    bmvp_reducer *reducer;               /* of several ranks; NULL: one */
    int last_pass;
    bmvpi_box *box;                      /* where stacked entries have got gradients since the last update */
    int64_t n_box, cap_box;
    struct { const char *group; bmvp_ctx *c; bmvp_state_list *list; } kept[BMVPI_KEPT];
    int n_kept;
} bmvpi_trainer;

/* The fields that every run has: a config begins with them. */
static bmvp_run_config bmvpi_run_of(const bmvp_trainer *t)
{
    bmvp_run_config k;
    memcpy(&k, t->config, sizeof k);
    return k;
}

/* n floats that the host reads and writes, for as long as the context: counted like a buffer. NULL in a plan. */
static float *bmvpi_scratch(bmvp_ctx *c, int64_t n)
{
    const bmvp_tensor *t = bmvpi_lasting(c, NULL, 1, &n, 0, 1);
    return t ? t->x : NULL;
}

static void bmvpi_trainer_optim(bmvp_trainer *t)
{
    static const bmvp_optim_kind kind[3] = { BMVP_ADAMW, BMVP_SGD, BMVP_ADAM };
    const bmvp_run_config run = bmvpi_run_of(t);
    bmvp_optim_config k = bmvp_optim_config_default(kind[run.optimizer]);
    k.weight_decay = run.weight_decay;
    k.beta1 = k.momentum = run.beta1;
    k.beta2 = run.beta2;
    if (t->method.optimizer) t->method.optimizer(t, &k);
    t->optim = bmvp_optim_create(t->c, bmvp_net_state(t->net), &k);
    if (t->c->comm) t->private_part->reducer = bmvp_reducer_create(t->c, bmvp_net_state(t->net));
}

/* In the order that bmvp_method tells. */
static void bmvpi_trainer_build(bmvp_trainer *t, int train)
{
    const bmvp_run_config run = bmvpi_run_of(t);
    if (train && t->c->comm && t->c->comm->size > run.batch)
        bmvp_fail(
            t->c, BMVP_E_ARG,
            "batch %d is the number of cases of a step over all ranks, of which there are %d: each needs one at least",
            run.batch, t->c->comm->size);
    if (t->method.prepare && !bmvp_failed(t->c)) t->method.prepare(t);
    if (!bmvp_failed(t->c)) t->net = bmvp_net_create(t->c, &t->net_config);
    if (t->method.create && !bmvp_failed(t->c)) t->method.create(t);
    if (bmvp_failed(t->c)) return;
    bmvp_net_init(t->net, (uint64_t)run.seed);
    if (train) bmvpi_trainer_optim(t);
    if (t->method.start && !bmvp_failed(t->c)) t->method.start(t);
}

BMVP_API bmvp_trainer *bmvp_trainer_create(bmvp_ctx *c, const bmvp_method *m, const bmvp_net_config *net,
                                           const void *config, const void *setup, int train)
{
    bmvp_trainer *t = bmvp_failed(c) ? NULL : (bmvp_trainer *)bmvpi_zeros(c, sizeof *t);
    if (!t) return NULL;
    t->c = c;
    t->method = *m;
    t->net_config = *net;
    t->setup = setup;
    t->epoch = -1;
    t->private_part = (bmvpi_trainer *)bmvpi_zeros(c, sizeof *t->private_part);
    t->config = bmvpi_zeros(c, m->config_size);
    t->state = bmvpi_zeros(c, m->state_size);
    if (t->config) memcpy(t->config, config, m->config_size);
    while (t->private_part && m->loss && m->loss[t->private_part->parts]) ++t->private_part->parts;
    if (t->private_part && t->private_part->parts > BMVP_LOSSES)
        bmvp_fail(c, BMVP_E_ARG, "method %s names more than %d losses", m->name, (int)BMVP_LOSSES);
    if (!bmvp_failed(c)) bmvpi_trainer_build(t, train);
    t->setup = NULL;
    if (!bmvp_failed(c)) return t;
    bmvp_trainer_destroy(t);
    return NULL;
}

BMVP_API void bmvp_trainer_destroy(bmvp_trainer *t)
{
    if (!t) return;
    if (t->method.destroy && t->state) t->method.destroy(t);
    if (t->private_part) {
        bmvp_reducer_destroy(t->private_part->reducer);
        bmvpi_free(t->c, t->private_part->box);
    }
    bmvp_optim_destroy(t->optim);
    bmvp_net_destroy(t->net);
    bmvpi_free(t->c, t->private_part);
    bmvpi_free(t->c, t->config);
    bmvpi_free(t->c, t->state);
    bmvpi_free(t->c, t);
}

BMVP_API void bmvp_trainer_keep(bmvp_trainer *t, const char *group, bmvp_ctx *c, bmvp_state_list *list)
{
    bmvpi_trainer *k = t->private_part;
    if (k->n_kept == BMVPI_KEPT) {
        bmvp_fail(t->c, BMVP_E_ARG, "method %s keeps more than %d lists", t->method.name, (int)BMVPI_KEPT);
        return;
    }
    k->kept[k->n_kept].group = group;
    k->kept[k->n_kept].c = c;
    k->kept[k->n_kept++].list = list;
}

BMVP_API double bmvp_trainer_lr(const bmvp_trainer *t, int64_t total)
{
    return t->method.rate ? t->method.rate(t, total) : bmvp_trainer_cosine(t, total);
}

BMVP_API double bmvp_trainer_cosine(const bmvp_trainer *t, int64_t total)
{
    const bmvp_run_config run = bmvpi_run_of(t);
    bmvp_schedule k;
    memset(&k, 0, sizeof k);
    k.lr = run.lr;
    k.floor = run.lr_floor;
    k.total = total;
    k.warmup = run.warmup;
    return bmvp_schedule_lr(&k, t->samples / run.batch);
}

/* >>fields impl ---------------------------------------------------------------------------------------------------- */

BMVP_API void bmvp_run_default(void *config)
{
    bmvp_run_config k;
    memset(&k, 0, sizeof k);
    snprintf(k.preset, sizeof k.preset, "default");
    k.batch = 3;
    k.update_every = 1;
    k.epochs = 100;
    k.lr = 3e-4;
    k.weight_decay = 1e-5;
    k.beta1 = 0.9;
    k.beta2 = 0.999;
    memcpy(config, &k, sizeof k);
}

static double bmvpi_field_value(const bmvp_field *f, const void *config)
{
    const void *p = (const char *)config + f->at;
    return f->whole ? (double)*(const int *)p : *(const double *)p;
}

/* 0: it is not a whole number. */
static int bmvpi_field_put(const bmvp_field *f, void *config, double v)
{
    void *p = (char *)config + f->at;
    if (f->whole && v != floor(v)) return 0;
    if (f->whole) *(int *)p = (int)v;
    else *(double *)p = v;
    return 1;
}

BMVP_API bmvp_status bmvp_field_set(const bmvp_field *table, void *config, const char *name, const char *value,
                                    bmvp_error *err)
{
    char *end = NULL, all[768] = "";
    const double v = strtod(value, &end);
    const int number = end != value && *end == 0 && v == v;
    const bmvp_field *f = table;
    size_t n = 0;
    for (; f->name && strcmp(f->name, name) != 0; ++f)
        if (n < sizeof all) n += (size_t)snprintf(all + n, sizeof all - n, " %s", f->name);
    if (!f->name) return bmvp_error_set(err, BMVP_E_ARG, "there is no setting '%s'; there are:%s", name, all);
    if (number && v >= f->low && v <= f->high && bmvpi_field_put(f, config, v)) return BMVP_OK;
    return bmvp_error_set(err, BMVP_E_ARG, "%s = '%s': must be a number (%s) from %g to %g: %s", name, value,
                          f->whole ? "int" : "double", f->low, f->high, f->text);
}

BMVP_API int bmvp_field_get(const bmvp_field *table, const void *config, int i, const char **name, const char **meaning,
                            char *buf, size_t size)
{
    for (; table->name && i > 0; --i) ++table;
    if (!table->name) return 0;
    *name = table->name;
    *meaning = table->text;
    snprintf(buf, size, "%.10g", bmvpi_field_value(table, config));
    return 1;
}

/* >>record: the losses of the last steps, on a device as tickets until somebody asks for them ---------------------- */

static bmvpi_losses *bmvpi_record_of(bmvpi_trainer *k, int64_t step)
{
    bmvpi_losses *r = &k->record[step % BMVPI_RECORDS];
    int i;
    if (r->step == step + 1) return r; /* one more: 0 is none */
    r->step = step + 1;
    r->loss[0] = 0;
    for (i = 1; i <= BMVPI_NORM; ++i) r->loss[i] = (double)NAN;
    return r;
}

/* What is there of a pass or an update is added up. A number that is not finite stops the run. */
static void bmvpi_record_add(bmvp_trainer *t, int64_t step, const double *loss)
{
    bmvpi_losses *r = bmvpi_record_of(t->private_part, step);
    int i;
    memcpy(t->private_part->pass, loss, sizeof t->private_part->pass);
    for (i = 0; i <= BMVPI_NORM; ++i)
        if (loss[i] == loss[i] || i == 0)
            r->loss[i] = r->loss[i] == r->loss[i] || i == 0 ? r->loss[i] + loss[i] : loss[i];
    if (!(fabs(loss[0]) <= FLT_MAX))
        bmvp_fail(
            t->c, BMVP_E_STATE,
            "the loss is %g at step %lld: a lower lr or clipping (clip = 1) may help; the parameters are those of the "
            "step before",
            loss[0], (long long)step);
}

static void bmvpi_record_norm(bmvp_trainer *t, int64_t step, double norm)
{
    bmvpi_record_of(t->private_part, step)->loss[BMVPI_NORM] = t->private_part->pass[BMVPI_NORM] = norm;
    if (!(norm <= (double)FLT_MAX))
        bmvp_fail(
            t->c, BMVP_E_STATE,
            "the gradient is not finite at step %lld: a lower lr may help; the parameters are those of the step before",
            (long long)step);
}

/* Collects the oldest post. After a failure the optimizer may move parameters again: whoever clears the error goes
   on. */
static void bmvpi_record_collect(bmvp_trainer *t)
{
    bmvpi_trainer *k = t->private_part;
    const bmvpi_post *p = &k->post[k->read++ % BMVP_TICKETS];
    double loss[BMVPI_NUMBERS + 1];
    float x[BMVPI_NUMBERS];
    int i;
    if (!bmvp_collect(t->c, p->ticket, x, BMVPI_NUMBERS)) {
        for (i = 0; i <= BMVPI_NORM; ++i) k->pass[i] = (double)NAN;
        return;
    }
    for (i = 0; i < BMVPI_NUMBERS; ++i) loss[i] = p->has >> i & 1u ? (double)x[i] : i > 0 ? (double)NAN : 0;
    loss[BMVPI_NORM] = (double)NAN;
    if (p->has >> BMVPI_NORM) bmvpi_record_norm(t, p->step, (double)x[0]);
    else bmvpi_record_add(t, p->step, loss);
    if (!bmvp_failed(t->c)) return;
    k->read = k->posted;
    bmvp_optim_resume(t->optim);
}

/* All that was sent up to and with `step` */
static void bmvpi_record_read(bmvp_trainer *t, int64_t step)
{
    bmvpi_trainer *k = t->private_part;
    while (k->read < k->posted && k->post[k->read % BMVP_TICKETS].step <= step) bmvpi_record_collect(t);
}

static void bmvpi_record_post(bmvp_trainer *t, int64_t step, const float *const *x, unsigned has)
{
    bmvpi_trainer *k = t->private_part;
    bmvpi_post *p = &k->post[k->posted % BMVP_TICKETS];
    if (k->posted - k->read == BMVP_TICKETS) bmvpi_record_collect(t);
    if (bmvp_failed(t->c)) return;
    p->ticket = bmvp_post(t->c, x, BMVPI_NUMBERS);
    p->step = step;
    p->has = has;
    k->posted += p->ticket > 0;
    if (!bmvp_runs_ahead(t->c)) bmvpi_record_read(t, step); /* it is there */
}

/* The losses of a pass (NULL: not there). */
static void bmvpi_record_pass(bmvp_trainer *t, bmvp_tensor *const loss[BMVPI_NUMBERS])
{
    const float *x[BMVPI_NUMBERS];
    unsigned has = 0;
    int i;
    if (bmvp_failed(t->c) || bmvp_is_plan(t->c)) return;
    for (i = 0; i < BMVPI_NUMBERS; ++i) {
        x[i] = loss[i] ? loss[i]->x : NULL;
        if (loss[i]) has |= 1u << i;
    }
    bmvp_optim_watch(t->optim, x[0]);
    bmvpi_record_post(t, t->steps, x, has);
}

/* Losses of a pass over several ranks: what the sum of all is decides, so the host waits. */
static void bmvpi_record_ranks(bmvp_pass *p)
{
    double sum[2 + 2 * BMVP_LOSSES], now[BMVPI_NUMBERS + 1];
    double *total = &sum[0], *value = &sum[2], *there = &sum[2 + BMVP_LOSSES];
    const double all = p->all ? (double)bmvp_scalar(p->c, p->all) : 0;
    int i;
    memset(sum, 0, sizeof sum);
    *total = p->own ? (double)bmvp_scalar(p->c, p->own) : 0;
    for (i = 0; i < BMVP_LOSSES; ++i) {
        there[i] = p->part[i] != NULL;
        value[i] = p->part[i] ? (double)bmvp_scalar(p->c, p->part[i]) : 0;
        now[1 + i] = value[i];
    }
    bmvp_pass_sum(p, sum, 2 + 2 * BMVP_LOSSES);
    now[0] = *total + all;
    for (i = 0; i < BMVP_LOSSES; ++i)
        if (!(there[i] > 0)) now[1 + i] = (double)NAN;
        else if (!(p->part_of_all >> i & 1u)) now[1 + i] = value[i];
    now[BMVPI_NORM] = (double)NAN;
    if (!bmvp_failed(p->c)) bmvpi_record_add(p->trainer, p->step, now);
}

static void bmvpi_losses_from(const double loss[BMVPI_NUMBERS + 1], bmvp_losses *out)
{
    out->total = loss[0];
    memcpy(out->part, loss + 1, sizeof out->part);
    out->grad_norm = loss[BMVPI_NORM];
}

/* What was posted of step `step` is read; the losses of the last pass. */
static bmvp_status bmvpi_record_last(bmvp_trainer *t, int64_t step, bmvp_losses *out)
{
    bmvpi_record_read(t, step);
    bmvpi_losses_from(t->private_part->pass, out);
    return bmvp_error_of(t->c)->status;
}

BMVP_API bmvp_status bmvp_trainer_losses_of(bmvp_trainer *t, int64_t step, bmvp_losses *out)
{
    const bmvpi_losses *r = &t->private_part->record[step >= 0 ? step % BMVPI_RECORDS : 0];
    if (t->optim) bmvpi_record_read(t, step);
    if (step >= 0 && r->step == step + 1) bmvpi_losses_from(r->loss, out);
    else
        bmvp_fail(t->c, BMVP_E_ARG, "losses of step %lld: those of the last %d steps are known", (long long)step,
                  (int)BMVPI_RECORDS);
    return bmvp_error_of(t->c)->status;
}

BMVP_API bmvp_status bmvp_trainer_log(bmvp_trainer *t, int64_t step, bmvp_jw *w)
{
    char name[64];
    bmvp_losses l;
    int i;
    if (bmvp_trainer_losses_of(t, step, &l)) return bmvp_error_of(t->c)->status;
    bmvp_jw_double(w, "loss", l.total);
    for (i = 0; i < t->private_part->parts; ++i) {
        snprintf(name, sizeof name, "loss_%s", t->method.loss[i]);
        bmvp_jw_double(w, name, l.part[i]);
    }
    bmvp_jw_double(w, "grad_norm", l.grad_norm);
    return BMVP_OK;
}

/* >>ranks: what several of them tell each other in a pass and before an update ------------------------------------- */

BMVP_API int bmvp_trainer_share(int n, int rank, int size, int *first)
{
    const int more = n % size;
    *first = rank * (n / size) + (rank < more ? rank : more);
    return n / size + (rank < more);
}

BMVP_API int bmvp_trainer_mine(const bmvp_trainer *t, int n, int *first)
{
    return bmvp_trainer_share(n, t->c->comm ? t->c->comm->rank : 0, t->c->comm ? t->c->comm->size : 1, first);
}

BMVP_API void bmvp_trainer_last_pass(bmvp_trainer *t) { t->private_part->last_pass = 1; }

BMVP_API void bmvp_pass_sum(bmvp_pass *p, double *x, int n)
{
    if (p->trainer->private_part->reducer) (void)bmvpi_comm_sum_doubles(p->c, x, n);
}

BMVP_API int bmvp_pass_needs(bmvp_pass *p, int n, const char *what, const char *remedy)
{
    const double own = n;
    double *all;
    int r;
    if (bmvp_failed(p->c)) return 0;
    if (!p->trainer->private_part->reducer) return n > 0;
    all = bmvpi_comm_doubles(p->c, &own, 1);
    for (r = 0; all && r < p->c->comm->size; ++r)
        if (!(all[r] > 0))
            bmvp_fail(p->c, BMVP_E_ARG, "rank %d has no %s in this pass of %lld crops; take fewer ranks, or %s", r,
                      what, (long long)p->n_all, remedy);
    bmvpi_free(p->c, all);
    return !bmvp_failed(p->c);
}

/* all: most numbers of each rank, of which n[r] count: they move together. */
static void bmvpi_rows_close(float *all, const double *n, int64_t d, int64_t most, int size)
{
    float *to = all;
    int r;
    for (r = 0; r < size; to += (int64_t)n[r++] * d)
        memmove(to, all + r * most, (size_t)((int64_t)n[r] * d) * sizeof *all);
}

BMVP_API bmvp_tensor *bmvp_pass_rows(bmvp_pass *p, bmvp_tensor *own, int64_t d, int64_t *first)
{
    bmvp_ctx *c = p->c;
    const double rows = own ? (double)(own->numel / d) : 0;
    double *n;
    bmvp_tensor *part[3], *y = NULL;
    int64_t dim[2], most = 0, before = 0, sum = 0;
    float *all = NULL;
    int r, k = 0;
    if (first) *first = 0;
    if (!p->trainer->private_part->reducer || bmvp_failed(c)) return own;
    n = bmvpi_comm_doubles(c, &rows, 1);
    for (r = 0; n && r < c->comm->size; sum += (int64_t)n[r++]) {
        most = bmvpi_max(most, (int64_t)n[r] * d);
        if (r < c->comm->rank) before += (int64_t)n[r];
    }
    if (n && sum > 0) all = (float *)bmvpi_zeros(c, (size_t)(most * (1 + c->comm->size)) * sizeof *all);
    if (all && own) (void)bmvp_read(c, own, all);
    if (all && bmvpi_comm_all_gather(c, all, most * (int64_t)sizeof *all, all + most)) {
        bmvpi_rows_close(all + most, n, d, most, c->comm->size);
        dim[1] = d;
        dim[0] = before;
        if (before > 0) part[k++] = bmvp_input(c, 2, dim, all + most);
        if (own) part[k++] = own;
        dim[0] = sum - before - (int64_t)rows;
        if (dim[0] > 0) part[k++] = bmvp_input(c, 2, dim, all + most + (sum - dim[0]) * d);
        y = bmvpi_stack(c, part, k);
    }
    if (first) *first = before;
    bmvpi_free(c, all);
    bmvpi_free(c, n);
    return y;
}

/* A gradient becomes the sum of those of all ranks. */
static void bmvpi_comm_sum_grad(bmvp_ctx *c, bmvp_tensor *t)
{
    const int through_host = !bmvpi_comm_takes_values(c);
    bmvp_error err;
    bmvp_part part;
    if (bmvp_failed(c)) return;
    part.n = t->numel;
    part.x = through_host ? (float *)bmvpi_alloc(c, t->numel * (int64_t)sizeof(float)) : t->g;
    if (!part.x) return;
    if (through_host) bmvpi_values_read(c, part.x, t->g, t->numel);
    if (bmvpi_comm_done(c, c->comm->all_reduce(c->comm, &part, 1, &err), &err) && through_host)
        bmvpi_values_write(c, t->g, part.x, t->numel);
    if (through_host) bmvpi_free(c, part.x);
}

static int bmvpi_box_room(bmvp_trainer *t)
{
    bmvpi_trainer *k = t->private_part;
    const int64_t cap = 2 * k->n_box + 64;
    bmvpi_box *box;
    if (k->n_box < k->cap_box) return 1;
    box = (bmvpi_box *)bmvpi_zeros(t->c, (size_t)cap * sizeof *box);
    if (!box) return 0;
    if (k->n_box) memcpy(box, k->box, (size_t)k->n_box * sizeof *box);
    bmvpi_free(t->c, k->box);
    k->box = box;
    k->cap_box = cap;
    return 1;
}

BMVP_API void bmvp_pass_box(bmvp_pass *p, bmvp_tensor *volume, const int64_t start[3], const int64_t size[3])
{
    const bmvp_state_list *l = bmvp_net_state(p->net);
    const int whole = !start || !bmvp_on_host(p->c); /* else the gradient is summed where it lies */
    bmvpi_box *b;
    int a;
    if (!volume || !p->trainer->private_part->reducer || !bmvpi_box_room(p->trainer)) return;
    b = &p->trainer->private_part->box[p->trainer->private_part->n_box++];
    memset(b, 0, sizeof *b);
    while (b->entry < l->n - 1 && l->item[b->entry].t != volume) ++b->entry;
    for (a = 0; a < 3 && !whole; ++a) {
        const int64_t end = bmvpi_min(start[a] + size[a], volume->dim[a]);
        b->start[a] = bmvpi_min(bmvpi_max(start[a], 0), volume->dim[a]);
        b->size[a] = bmvpi_max(end - b->start[a], 0);
        if (b->size[a] == 0) { /* outside */
            --p->trainer->private_part->n_box;
            return;
        }
    }
}

static int64_t bmvpi_box_size(const bmvpi_box *b) { return b->size[0] * b->size[1] * b->size[2]; }

static bmvp_tensor *bmvpi_box_volume(const bmvp_trainer *t, const bmvpi_box *b)
{
    bmvp_tensor *v = bmvp_net_state(t->net)->item[b->entry].t;
    if (!bmvp_has_grad(v)) bmvpi_grad_zeros(t->c, v);
    return v;
}

/* Takes a box of a gradient out and leaves zeros (out 1), or adds one (0). x: its voxels. */
static void bmvpi_box_move(const bmvp_trainer *t, const bmvpi_box *b, float *x, int out)
{
    bmvp_tensor *v = bmvpi_box_volume(t, b);
    const size_t bytes = (size_t)b->size[2] * sizeof *x;
    int64_t z, y, i;
    if (bmvp_failed(t->c)) return;
    for (z = 0; z < b->size[0]; ++z)
        for (y = 0; y < b->size[1]; ++y, x += b->size[2]) {
            float *g = v->g + ((b->start[0] + z) * v->dim[1] + b->start[1] + y) * v->dim[2] + b->start[2];
            if (out) memcpy(x, g, bytes);
            if (out) memset(g, 0, bytes);
            else for (i = 0; i < b->size[2]; ++i) g[i] += x[i];
        }
}

/* Gradients of whole volumes, each summed once whichever ranks have touched it. */
static void bmvpi_boxes_whole(bmvp_trainer *t, const double *count, int64_t most, const bmvpi_box *box)
{
    char *done = (char *)bmvpi_zeros(t->c, (size_t)bmvp_net_state(t->net)->n);
    int64_t i;
    int r;
    for (r = 0; done && r < t->c->comm->size; ++r)
        for (i = 0; i < (int64_t)count[2 * r]; ++i) {
            const bmvpi_box *b = &box[r * most + i];
            if (b->size[0] > 0 || done[b->entry]++) continue;
            bmvpi_comm_sum_grad(t->c, bmvpi_box_volume(t, b));
        }
    bmvpi_free(t->c, done);
}

/* n[0] boxes and n[1] voxels at most from each rank: box and x hold this rank's, then those of all. */
static void bmvpi_boxes_add(bmvp_trainer *t, const double *count, const int64_t n[2], bmvpi_box *box, float *x)
{
    bmvp_ctx *c = t->c;
    const bmvpi_trainer *k = t->private_part;
    float *to = x;
    int64_t i;
    int r;
    for (i = 0; i < k->n_box; to += bmvpi_box_size(&box[i++])) {
        box[i] = k->box[i];
        if (box[i].size[0] > 0) bmvpi_box_move(t, &box[i], to, 1);
    }
    (void)bmvpi_comm_all_gather(c, box, n[0] * (int64_t)sizeof *box, box + n[0]);
    (void)bmvpi_comm_all_gather(c, x, n[1] * (int64_t)sizeof *x, x + n[1]);
    if (!bmvp_failed(c)) bmvpi_boxes_whole(t, count, n[0], box + n[0]);
    for (r = 0; r < c->comm->size; ++r) {
        const bmvpi_box *b = box + (1 + r) * n[0];
        to = x + (1 + r) * n[1];
        for (i = 0; i < (int64_t)count[2 * r] && !bmvp_failed(c); to += bmvpi_box_size(&b[i++]))
            if (b[i].size[0] > 0) bmvpi_box_move(t, &b[i], to, 0);
    }
}

/* Gradients of stacked entries (templates) of all ranks, as the boxes they come from: of each rank the boxes, then
   their voxels; added rank by rank, so that all get the same bits. Boxes that overlap are taken out one after the
   other: what they share is in the first. */
static void bmvpi_boxes_exchange(bmvp_trainer *t)
{
    bmvp_ctx *c = t->c;
    bmvpi_trainer *k = t->private_part;
    bmvpi_box *box = NULL;
    double own[2] = { 0, 0 }, *count;
    int64_t i, n[2] = { 1, 1 };
    float *x = NULL;
    int r;
    if (bmvp_failed(c) || !t->method.boxes) return;
    for (i = 0; i < k->n_box; ++i) own[1] += (double)bmvpi_box_size(&k->box[i]);
    own[0] = (double)k->n_box;
    count = bmvpi_comm_doubles(c, own, 2);
    for (r = 0; count && r < 2 * c->comm->size; ++r) n[r % 2] = bmvpi_max(n[r % 2], (int64_t)count[r]);
    if (count) box = (bmvpi_box *)bmvpi_zeros(c, (size_t)(n[0] * (1 + c->comm->size)) * sizeof *box);
    if (box) x = (float *)bmvpi_zeros(c, (size_t)(n[1] * (1 + c->comm->size)) * sizeof *x);
    if (x) bmvpi_boxes_add(t, count, n, box, x);
    bmvpi_free(c, count);
    bmvpi_free(c, box);
    bmvpi_free(c, x);
    k->n_box = 0;
}

BMVP_API bmvp_status bmvp_trainer_broadcast(bmvp_trainer *t)
{
    bmvpi_trainer *k = t->private_part;
    int i, j;
    if (!t->c->comm) return bmvp_error_of(t->c)->status;
    bmvp_state_broadcast(t->c, bmvp_net_state(t->net), t->optim);
    for (i = 0; i < k->n_kept; ++i) {
        if (k->kept[i].c == t->c) bmvp_state_broadcast(t->c, k->kept[i].list, NULL);
        for (j = 0; j < k->kept[i].list->n && k->kept[i].c != t->c; ++j) { /* in the host's memory */
            bmvp_tensor *x = k->kept[i].list->item[j].t;
            bmvpi_comm_broadcast(t->c, x->x, x->numel * (int64_t)sizeof(float));
        }
    }
    bmvpi_comm_broadcast(t->c, &t->steps, (int64_t)sizeof t->steps);
    bmvpi_comm_broadcast(t->c, &t->samples, (int64_t)sizeof t->samples);
    return bmvp_error_of(t->c)->status;
}

/* >>pass: from items to gradients ---------------------------------------------------------------------------------- */

BMVP_API bmvp_rng bmvp_pass_rng(const bmvp_pass *p, uint32_t stream, uint32_t slot)
{
    return bmvp_rng_make((uint64_t)bmvpi_run_of(p->trainer).seed, stream, (uint32_t)p->step, slot);
}

BMVP_API void bmvp_pass_loss(bmvp_pass *p, int part, bmvp_loss_kind kind, double weight, bmvp_tensor *loss)
{
    bmvp_tensor **sum = kind == BMVP_LOSS_ALL ? &p->all : &p->own;
    if (!loss) return;
    if (kind == BMVP_LOSS_MEAN && p->n < p->n_all) loss = bmvp_scale(p->c, loss, (double)p->n / (double)p->n_all, 0);
    if (part >= 0 && part < p->trainer->private_part->parts) {
        p->part[part] = loss;
        if (kind == BMVP_LOSS_ALL) p->part_of_all |= 1u << part;
    }
    if (weight != 0) *sum = bmvpi_plus(p->c, *sum, bmvp_scale(p->c, loss, weight, 0));
}

/* What backward begins with. Of several ranks one may have no loss of its own while others have: it passes on zeros,
   since in batch norm they wait for its backward. */
static bmvp_tensor *bmvpi_pass_total(bmvp_pass *p)
{
    bmvp_tensor *total = bmvpi_plus(p->c, p->own, p->all);
    if (p->trainer->private_part->reducer && p->through && !(total && total->wants_grad))
        total = bmvpi_plus(p->c, bmvp_scale(p->c, bmvp_mean(p->c, p->through), 0, 0), total);
    return total;
}

/* n_all and first */
static void bmvpi_pass_count(bmvp_pass *p)
{
    const double own = p->n;
    double *n;
    int r;
    p->n_all = p->n;
    if (!p->trainer->private_part->reducer || bmvp_failed(p->c)) return;
    n = bmvpi_comm_doubles(p->c, &own, 1);
    for (r = 0, p->n_all = 0; n && r < p->c->comm->size; ++r) {
        if (r == p->c->comm->rank) p->first = p->n_all;
        p->n_all += (int64_t)n[r];
    }
    bmvpi_free(p->c, n);
}

static int bmvpi_pass_open(bmvp_pass *p, bmvp_trainer *t, const void *items, int n)
{
    memset(p, 0, sizeof *p);
    if (bmvp_failed(t->c)) return 0;
    p->trainer = t;
    p->c = t->c;
    p->net = t->net;
    p->config = t->config;
    p->state = t->state;
    p->items = items;
    p->n = n;
    p->step = t->steps;
    p->epoch = bmvpi_max(t->epoch, 0);
    if (!t->optim) bmvp_fail(t->c, BMVP_E_STATE, "opened for prediction: it cannot be trained");
    else if (n < !t->private_part->reducer) bmvp_fail(t->c, BMVP_E_ARG, "a pass takes 1 item at least, not %d", n);
    else if (t->method.check) t->method.check(p);
    bmvpi_pass_count(p);
    return !bmvp_failed(t->c);
}

static bmvp_status bmvpi_trainer_pass(bmvp_trainer *t, const void *items, int n)
{
    const bmvp_run_config run = bmvpi_run_of(t);
    bmvpi_trainer *k = t->private_part;
    /* comes next, and is captured with the pass */
    const int updates = k->last_pass && t->since + 1 >= run.update_every;
    bmvp_tensor *loss[BMVPI_NUMBERS], *mean;
    bmvp_pass p;
    int i;
    if (bmvp_progress(t->c, "steps", t->steps, 0)) return bmvp_error_of(t->c)->status;
    if (!bmvpi_pass_open(&p, t, items, n)) return bmvp_error_of(t->c)->status;
    bmvp_step_begin(t->c);
    bmvp_capture_begin(t->c);
    bmvp_net_set_recompute(t->net, run.recompute);
    t->method.forward(&p);
    if (k->reducer && t->method.boxes && !bmvp_failed(t->c)) t->method.boxes(&p);
    loss[0] = bmvpi_pass_total(&p);
    for (i = 0; i < BMVP_LOSSES; ++i) loss[1 + i] = p.part[i];
    for (i = 0; i < BMVPI_NUMBERS; ++i) bmvp_keep(loss[i]);
    if (k->reducer) bmvp_keep(p.own), bmvp_keep(p.all);
    if (k->reducer && updates) bmvp_reducer_start(k->reducer);
    k->last_pass = 0;
    mean = loss[0] && t->method.mean_of_updates && run.update_every > 1
               ? bmvp_scale(t->c, loss[0], 1.0 / run.update_every, 0)
               : loss[0];
    if (mean) bmvp_backward(t->c, mean);
    if (k->reducer) bmvpi_record_ranks(&p);
    else bmvpi_record_pass(t, loss);
    if (!updates || bmvp_failed(t->c)) bmvp_capture_end(t->c);
    t->pending += loss[0] != NULL;
    return bmvp_error_of(t->c)->status;
}

/* >>update: from gradients to parameters --------------------------------------------------------------------------- */

/* Norm, clipping and step of the optimizer; the norm is recorded. */
static void bmvpi_update_move(bmvp_trainer *t, double lr, double clip)
{
    const float *x[BMVPI_NUMBERS] = { NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL };
    x[0] = bmvp_optim_clipped_step(t->optim, lr, clip);
    bmvpi_record_post(t, t->steps - 1, x, 1u << BMVPI_NORM);
}

static void bmvpi_update_now(bmvp_trainer *t, double lr)
{
    if (t->private_part->reducer) {
        bmvp_reducer_finish(t->private_part->reducer);
        bmvpi_boxes_exchange(t);
    }
    if (t->method.before_update && !bmvp_failed(t->c)) t->method.before_update(t);
    if (!bmvp_failed(t->c)) bmvpi_update_move(t, lr, bmvpi_run_of(t).clip);
    if (bmvp_failed(t->c)) return;
    bmvp_optim_zero_grad(t->optim);
    t->pending = t->since = 0;
    if (t->method.after_update) t->method.after_update(t);
}

BMVP_API bmvp_status bmvp_trainer_accumulate(bmvp_trainer *t, const void *items, int n, bmvp_losses *out)
{
    const bmvp_status st = bmvpi_trainer_pass(t, items, n);
    return out ? bmvpi_record_last(t, t->steps, out) : st;
}

BMVP_API bmvp_status bmvp_trainer_update(bmvp_trainer *t, double lr, bmvp_losses *out)
{
    if (bmvp_failed(t->c)) return bmvp_error_of(t->c)->status;
    ++t->steps;
    t->samples += bmvpi_run_of(t).batch;
    if (bmvp_is_plan(t->c)) return BMVP_OK;
    if (++t->since >= bmvpi_run_of(t).update_every) bmvpi_update_now(t, lr);
    bmvp_capture_end(t->c);
    if (!out) return bmvp_error_of(t->c)->status;
    bmvpi_record_read(t, t->steps - 1);
    out->grad_norm = t->private_part->pass[BMVPI_NORM];
    return bmvp_error_of(t->c)->status;
}

BMVP_API bmvp_status bmvp_trainer_step(bmvp_trainer *t, const void *items, int n, double lr, bmvp_losses *out)
{
    bmvp_status st;
    bmvp_trainer_last_pass(t);
    st = bmvpi_trainer_pass(t, items, n);
    if (!st) st = bmvp_trainer_update(t, lr, NULL);
    return out ? bmvpi_record_last(t, t->steps, out) : st;
}

/* >>files of a run: checkpoints to go on from ---------------------------------------------------------------------- */

/* what a file holds, in its order: the network, kept lists, moments; counts and a description */
typedef struct bmvpi_file {
    bmvp_trainer *t;
    bmvp_state_part part[1 + BMVP_MOMENTS + BMVPI_KEPT];
    const char *group[1 + BMVP_MOMENTS + BMVPI_KEPT];
    int n;
    bmvp_optim *optim; /* NULL: without moments */
} bmvpi_file;

static void bmvpi_file_add(bmvpi_file *r, const char *group, bmvp_ctx *c, bmvp_state_list *list, bmvp_optim *optim,
                           int moment)
{
    bmvp_state_part *p = &r->part[r->n];
    p->c = c;
    p->list = list;
    p->optim = optim;
    p->moment = moment;
    r->group[r->n++] = group;
}

static bmvpi_file bmvpi_file_of(bmvp_trainer *t, int train)
{
    const bmvpi_trainer *own = t->private_part;
    bmvp_state_list *l = bmvp_net_state(t->net);
    bmvp_optim_config k;
    bmvpi_file r;
    int i;
    memset(&r, 0, sizeof r);
    r.t = t;
    bmvpi_file_add(&r, "state_dict", t->c, l, NULL, -1);
    for (i = 0; i < own->n_kept; ++i)
        if (own->kept[i].list->n > 0)
            bmvpi_file_add(&r, own->kept[i].group, own->kept[i].c, own->kept[i].list, NULL, -1);
    if (!train || !t->optim) return r;
    r.optim = t->optim;
    bmvpi_file_add(&r, "exp_avg", t->c, l, r.optim, 0);
    k = bmvp_optim_config_of(r.optim);
    if (k.kind != BMVP_SGD) bmvpi_file_add(&r, "exp_avg_sq", t->c, l, r.optim, 1);
    if (k.kind != BMVP_SGD && k.amsgrad) bmvpi_file_add(&r, "max_exp_avg_sq", t->c, l, r.optim, 2);
    return r;
}

static bmvp_status bmvpi_file_meta(const bmvpi_file *r, bmvp_ckpt_writer *w, const char *description,
                                   const char *const *extra, bmvp_error *err)
{
    const bmvp_trainer *t = r->t;
    bmvp_status st = bmvp_ckpt_writer_meta(w, "", "format", BMVP_META_STRING, t->method.format, err);
    if (!st) st = bmvp_ckpt_writer_meta(w, "", "run", BMVP_META_STRING, description, err);
    if (!st) st = bmvp_ckpt_writer_meta_int(w, "", "step", t->steps, err);
    if (!st) st = bmvp_ckpt_writer_meta_int(w, "", "samples", t->samples, err);
    if (!st && t->epoch >= 0) st = bmvp_ckpt_writer_meta_int(w, "", "current_epoch", t->epoch, err);
    for (; !st && extra && extra[0] && extra[1]; extra += 2)
        st = bmvp_ckpt_writer_meta(w, "", extra[0], BMVP_META_STRING, extra[1], err);
    return st;
}

static bmvp_status bmvpi_file_write(const bmvpi_file *r, const char *path, const char *description,
                                    const char *const *extra, bmvp_error *err)
{
    const int64_t entries = r->part[0].list->n;
    bmvp_ckpt_writer *w = NULL;
    bmvp_status st = bmvp_ckpt_writer_begin(path, BMVP_CKPT_SAFETENSORS, bmvp_allocator_of(r->t->c), &w, err);
    int i;
    if (st) return st;
    for (i = 0; i < r->n && !st; ++i) st = bmvp_state_declare(w, r->group[i], &r->part[i], err);
    if (!st && r->optim) st = bmvp_ckpt_writer_add(w, "", "optimizer_steps", BMVP_DTYPE_I64, 1, &entries, err);
    if (!st) st = bmvpi_file_meta(r, w, description, extra, err);
    for (i = 0; i < r->n && !st; ++i) st = bmvp_state_data(w, &r->part[i], err);
    if (!st && r->optim) st = bmvp_ckpt_writer_data(w, bmvp_optim_count(r->optim, 0), entries * 8, err);
    if (!st) return bmvp_ckpt_writer_finish(w, err);
    bmvp_ckpt_writer_abort(w);
    return st;
}

static void bmvpi_fields_write(const bmvp_field *f, const void *config, bmvp_jw *w)
{
    bmvp_jw_object(w, "config");
    bmvp_jw_string(w, "preset", ((const char *)config));
    for (; f->name; ++f) bmvp_jw_double(w, f->name, bmvpi_field_value(f, config));
    bmvp_jw_end(w);
}

static void bmvpi_fields_read(const bmvp_field *f, const bmvp_json *node, void *config)
{
    snprintf((char *)config, sizeof((bmvp_run_config *)config)->preset, "%s",
             bmvp_json_string(bmvp_json_get(node, "preset"), "custom"));
    for (; f->name; ++f)
        (void)bmvpi_field_put(f, config, bmvp_json_double(bmvp_json_get(node, f->name), bmvpi_field_value(f, config)));
}

BMVP_API bmvp_status bmvp_trainer_save(bmvp_trainer *t, const char *path, int train, const char *const *extra,
                                       bmvp_error *err)
{
    const bmvpi_file r = bmvpi_file_of(t, train);
    bmvp_status st;
    bmvp_jw w;
    if (t->optim) bmvpi_record_read(t, t->steps); /* nothing is written of a run that has failed unseen */
    if (bmvp_failed(t->c)) return bmvp_error_take(t->c, err);
    if (t->pending || t->since)
        return bmvp_error_set(err, BMVP_E_STATE,
                              "%s: not written: gradients are pending (update_every %d); save after an update", path,
                              bmvpi_run_of(t).update_every);
    bmvp_jw_init(&w, 0, bmvp_allocator_of(t->c));
    bmvp_jw_object(&w, NULL);
    bmvp_jw_string(&w, "method", t->method.name);
    bmvp_net_config_write(&w, "network", bmvp_net_config_of(t->net));
    if (t->method.describe) t->method.describe(t, &w);
    bmvpi_fields_write(t->method.fields, t->config, &w);
    bmvp_jw_end(&w);
    st = bmvp_jw_finish(&w, err);
    if (!st) st = bmvpi_file_write(&r, path, w.out.data, extra, err);
    bmvp_jw_free(&w);
    return st;
}

/* A file that says of itself that it is another method's. */
static bmvp_status bmvpi_file_is(const bmvp_ckpt *f, const bmvp_method *m, bmvp_error *err)
{
    const bmvp_ckpt_meta *format = bmvp_ckpt_find_meta(f, "", "format");
    if (!format || strcmp(format->value, m->format) == 0) return BMVP_OK;
    return bmvp_error_set(err, BMVP_E_FORMAT, "%s: written as '%s', but this run is '%s'", f->path, format->value,
                          m->format);
}

/* Moments that the file has are those of this run's optimizer. */
static bmvp_status bmvpi_file_moments(const bmvpi_file *r, const bmvp_ckpt *f, bmvp_error *err)
{
    const bmvp_optim_config k = bmvp_optim_config_of(r->optim);
    int i, squares = 0, largest = 0;
    for (i = 0; i < f->n_entries; ++i) {
        squares |= strcmp(f->entry[i].group, "exp_avg_sq") == 0;
        largest |= strcmp(f->entry[i].group, "max_exp_avg_sq") == 0;
    }
    if (squares && k.kind == BMVP_SGD)
        return bmvp_error_set(err, BMVP_E_ARG, "%s: written by AdamW, but this run uses SGD (optimizer = 1)", f->path);
    if (squares && largest != (k.kind != BMVP_SGD && k.amsgrad))
        return bmvp_error_set(err, BMVP_E_ARG, "%s: written %s amsgrad, but this run is %s it", f->path,
                              largest ? "with" : "without", largest ? "without" : "with");
    return BMVP_OK;
}

/* Steps and samples taken. Files of 0.1 count steps only, all of the batch that they name. */
static bmvp_status bmvpi_file_position(const bmvp_ckpt *f, int64_t *steps, int64_t *samples, bmvp_error *err)
{
    const bmvp_ckpt_meta *step = bmvp_ckpt_find_meta(f, "", "step"), *seen = bmvp_ckpt_find_meta(f, "", "samples"),
                         *run = bmvp_ckpt_find_meta(f, "", "run");
    bmvp_json_doc *doc = NULL;
    bmvp_status st = BMVP_OK;
    *steps = step ? strtoll(step->value, NULL, 10) : 0;
    *samples = seen ? strtoll(seen->value, NULL, 10) : 0;
    if (seen || !run) return st;
    st = bmvp_json_parse(run->value, strlen(run->value), f->path, NULL, &doc, err);
    *samples = *steps * bmvp_json_int(bmvp_json_get(bmvp_json_get(bmvp_json_root(doc), "config"), "batch"), 1);
    bmvp_json_free(doc);
    return st;
}

static bmvp_status bmvpi_file_compare(bmvpi_file *r, bmvp_ckpt *f, bmvp_error *err)
{
    const int ours = bmvp_ckpt_find_meta(f, "", "run") != NULL, n = ours ? r->n : 1;
    bmvp_status st = bmvp_state_group(f, &r->group[0], err);
    int i;
    if (!st && ours && r->optim && bmvp_ckpt_find(f, "", "optimizer_steps") < 0)
        st = bmvp_error_set(err, BMVP_E_FORMAT,
                            "%s: it holds the weights and no moments of an optimizer: a new run can start from it, "
                            "none can go on", f->path);
    if (!st && ours && r->optim) st = bmvpi_file_moments(r, f, err);
    for (i = 0; i < n && !st; ++i) st = bmvp_state_check(f, r->group[i], &r->part[i], err);
    return st;
}

/* All parts are compared before any is loaded. A file of the released code (no description) has the network only. */
static bmvp_status bmvpi_file_read(bmvpi_file *r, bmvp_ckpt *f, bmvp_error *err)
{
    bmvp_trainer *t = r->t;
    const int ours = bmvp_ckpt_find_meta(f, "", "run") != NULL;
    const bmvp_ckpt_meta *epoch = bmvp_ckpt_find_meta(f, "", "current_epoch");
    const int k = bmvp_ckpt_find(f, "", "optimizer_steps"), n = ours ? r->n : 1;
    const int64_t bytes = (int64_t)r->part[0].list->n * 8;
    bmvp_status st = bmvpi_file_compare(r, f, err);
    int i;
    if (!st && ours && r->optim && (k < 0 || f->entry[k].bytes != bytes || f->entry[k].dtype != BMVP_DTYPE_I64))
        st = bmvp_error_set(err, BMVP_E_FORMAT, "%s: optimizer_steps does not fit the network", f->path);
    for (i = 0; i < n && !st; ++i) st = bmvp_state_load(f, r->group[i], &r->part[i], err);
    if (st || !ours) return st;
    if (r->optim) st = bmvp_ckpt_load(f, k, bmvp_optim_count(r->optim, 0), bytes, err);
    if (t->pending && t->optim) bmvp_optim_zero_grad(t->optim); /* of steps that are not taken any more */
    t->pending = t->since = 0;
    if (epoch) t->epoch = strtoll(epoch->value, NULL, 10);
    return st ? st : bmvpi_file_position(f, &t->steps, &t->samples, err);
}

BMVP_API bmvp_status bmvp_trainer_load(bmvp_trainer *t, const char *path, int train, bmvp_error *err)
{
    bmvpi_file r = bmvpi_file_of(t, train);
    bmvpi_trainer *k = t->private_part;
    bmvp_ckpt *f = NULL;
    bmvp_status st;
    if (t->optim) bmvpi_record_read(t, t->steps);
    if (bmvp_failed(t->c)) return bmvp_error_take(t->c, err);
    st = bmvp_ckpt_open(path, bmvp_allocator_of(t->c), &f, err);
    if (!st) st = bmvpi_file_is(f, &t->method, err);
    if (!st) st = bmvpi_file_read(&r, f, err);
    if (!st) memset(k->record, 0, sizeof k->record); /* its steps will be taken again */
    bmvp_ckpt_close(f);
    return st;
}

/* What a file says of itself. more: the method's members of the description, or NULL. */
typedef bmvp_status (*bmvpi_description_fn)(const bmvp_json *root, const char *path, void *user, bmvp_error *err);
static bmvp_status bmvpi_file_inspect(const bmvp_ckpt *f, const bmvp_method *m, bmvp_net_config *net, void *config,
                                      bmvpi_description_fn more, void *user, bmvp_error *err)
{
    const bmvp_ckpt_meta *run = bmvp_ckpt_find_meta(f, "", "run");
    bmvp_json_doc *doc = NULL;
    bmvp_status st;
    if (!run) return bmvp_error_set(err, BMVP_E_FORMAT, "%s: its description is missing", f->path);
    st = bmvp_json_parse(run->value, strlen(run->value), f->path, NULL, &doc, err);
    if (st) return st;
    st = bmvp_net_config_read(bmvp_json_get(bmvp_json_root(doc), "network"), net, err);
    if (!st && more) st = more(bmvp_json_root(doc), f->path, user, err);
    bmvpi_fields_read(m->fields, bmvp_json_get(bmvp_json_root(doc), "config"), config);
    bmvp_json_free(doc);
    return st;
}

BMVP_API bmvp_status bmvp_trainer_inspect(const char *path, const bmvp_method *m, bmvp_net_config *net, void *config,
                                          int64_t *step, int64_t *samples, bmvp_error *err)
{
    bmvp_ckpt *f = NULL;
    bmvp_status st = bmvp_ckpt_open(path, NULL, &f, err);
    if (!st) st = bmvpi_file_is(f, m, err);
    if (!st) st = bmvpi_file_inspect(f, m, net, config, NULL, NULL, err);
    if (!st) st = bmvpi_file_position(f, step, samples, err);
    bmvp_ckpt_close(f);
    return st;
}

/* >>plan: the memory of a step, from a dry run --------------------------------------------------------------------- */

typedef struct bmvpi_plan_job { /* what a dry run builds */
    const bmvp_method *method;
    const bmvp_net_config *net;
    const void *config, *setup;
} bmvpi_plan_job;

/* fn builds it in a context that computes nothing, and reads the memory before it takes down what it has built. */
static bmvp_status bmvpi_plan(const bmvp_config *ctx, const bmvpi_plan_job *job,
                              void (*fn)(bmvp_ctx *c, const bmvpi_plan_job *job, bmvp_memory *out), bmvp_memory *out,
                              bmvp_error *err)
{
    bmvp_config k = ctx ? *ctx : bmvp_config_default();
    bmvp_status st;
    bmvp_ctx *c;
    k.plan = 1;
    c = bmvp_create(&k, err);
    if (!c) return BMVP_E_OOM;
    fn(c, job, out);
    st = bmvp_error_of(c)->status;
    if (st) (void)bmvp_error_take(c, err);
    bmvp_destroy(c);
    return st;
}

static void bmvpi_plan_step(bmvp_ctx *c, const bmvpi_plan_job *job, bmvp_memory *out)
{
    bmvp_trainer *t = bmvp_trainer_create(c, job->method, job->net, job->config, job->setup, 1);
    const int n = t ? bmvpi_run_of(t).batch : 0;
    void *items = t ? bmvpi_zeros(c, (size_t)n * job->method->item_size) : NULL;
    if (items && job->method->plan) job->method->plan(t, items, n);
    if (items) (void)bmvp_trainer_accumulate(t, items, n, NULL);
    bmvpi_free(c, items);
    *out = bmvp_memory_of(c);
    bmvp_trainer_destroy(t);
}

BMVP_API bmvp_status bmvp_trainer_plan(const bmvp_config *ctx, const bmvp_method *m, const bmvp_net_config *net,
                                       const void *config, const void *setup, bmvp_memory *out, bmvp_error *err)
{
    bmvpi_plan_job job;
    job.method = m;
    job.net = net;
    job.config = config;
    job.setup = setup;
    return bmvpi_plan(ctx, &job, bmvpi_plan_step, out, err);
}

/* >>modality impl -------------------------------------------------------------------------------------------------- */

#define BMVP_X(name) name,
static const char *const bmvpi_modality_table[] = { BMVP_MODALITY_LIST(BMVP_X) NULL };
#undef BMVP_X

BMVP_API const char *bmvp_modality_name(int m)
{
    return m >= 0 && m < BMVP_MODALITIES ? bmvpi_modality_table[m] : NULL;
}
#define BMVP_X(name) " " name
BMVP_API const char *bmvp_modality_names(void) { return &(BMVP_MODALITY_LIST(BMVP_X))[1]; }
#undef BMVP_X

BMVP_API int bmvp_modality_find(const char *name)
{
    static const struct { const char *alias; int m; } table[] = {
        { "flair", 0 }, { "t2f", 0 },   { "t2flair", 0 }, { "t1", 1 }, { "t1n", 1 }, { "t1w", 1 }, { "t1c", 2 },
        { "t1ce", 2 },  { "t1gd", 2 },  { "t1cw", 2 },    { "t2", 3 }, { "t2w", 3 }, { "mra", 4 }, { "pd", 5 },
        { "pdw", 5 },   { "dwi", 6 },   { "adc", 7 },
    };
    char low[16];
    size_t i, n = name ? strlen(name) : 0;
    if (n == 0 || n >= sizeof low) return -1;
    for (i = 0; i <= n; ++i) low[i] = name[i] >= 'A' && name[i] <= 'Z' ? (char)(name[i] - 'A' + 'a') : name[i];
    for (i = 0; i < sizeof table / sizeof *table; ++i)
        if (strcmp(low, table[i].alias) == 0) return table[i].m;
    return -1;
}

/* Known names, each once, and if ordered in the known order. */
static int bmvpi_check_modalities(bmvp_ctx *c, int n, const char *const *names, int ordered)
{
    uint32_t seen = 0;
    int i, last = -1, m;
    if (n < 1 || n > BMVP_MODALITIES)
        bmvp_fail(c, BMVP_E_ARG, "a run needs 1 to %d modalities, not %d", BMVP_MODALITIES, n);
    for (i = 0; i < n && !bmvp_failed(c); ++i, last = ordered ? m : -1) {
        m = bmvp_modality_find(names[i]);
        if (m < 0) bmvp_fail(c, BMVP_E_ARG, "unknown modality '%s'; known are %s", names[i], bmvp_modality_names());
        else if (seen >> m & 1u || m <= last)
            bmvp_fail(c, BMVP_E_ARG, "modality '%s' is out of order or twice; the order is %s", names[i],
                      bmvp_modality_names());
        else seen |= 1u << m;
    }
    return !bmvp_failed(c);
}

static void bmvpi_modalities_write(bmvp_jw *w, const int *modality, int n, const int64_t grid[3])
{
    int i;
    bmvp_jw_array(w, "modalities");
    for (i = 0; i < n; ++i) bmvp_jw_string(w, NULL, bmvp_modality_name(modality[i]));
    bmvp_jw_end(w);
    bmvp_jw_array(w, "grid");
    for (i = 0; i < 3; ++i) bmvp_jw_int(w, NULL, grid[i]);
    bmvp_jw_end(w);
}

static bmvp_status bmvpi_modalities_read(const bmvp_json *root, const char *path, int *n, const char **names,
                                         int64_t grid[3], bmvp_error *err)
{
    const bmvp_json *m = bmvp_json_get(root, "modalities");
    int i;
    *n = 0;
    for (m = m ? m->first : NULL; m && *n < BMVP_MODALITIES; m = m->next) {
        const char *name = bmvp_modality_name(bmvp_modality_find(bmvp_json_string(m, "")));
        if (!name) return bmvp_error_set(err, BMVP_E_FORMAT, "%s: unknown modality in its description", path);
        names[(*n)++] = name;
    }
    for (i = 0; i < 3; ++i) grid[i] = bmvp_json_int(bmvp_json_at(bmvp_json_get(root, "grid"), i), 0);
    return BMVP_OK;
}

/* >>config impl ---------------------------------------------------------------------------------------------------- */

static void bmvpi_ssl_paper(bmvp_ssl_config *k)
{
    k->crop = 96;
    k->mask_form = BMVP_MASK_BOXES;
    k->mask_patch = 8;
    k->mask_ratio = 0.875;
    k->weight_cmr = k->weight_md = k->weight_cl = 1;
    k->temperature = 1;
    k->gather_negatives = 1;
    k->contrast_from_epoch = 1000;
    k->template_value = BMVP_TEMPLATE_PLAIN;
    k->template_eps = 1e-3;
    k->template_lr_scale = 1;
    k->template_x = k->template_y = 240;
    k->template_z = 155;
    k->percentile_low = 1;
    k->percentile_high = 99;
    k->batch = 3;
    k->epochs = 1500;
    k->lr = 3e-4;
    k->weight_decay = 1e-5;
    k->beta1 = 0.9;
    k->beta2 = 0.999;
    k->update_every = 1;
}

static void bmvpi_ssl_release(bmvp_ssl_config *k)
{
    k->mask_form = BMVP_MASK_BLOCKS;
    k->mask_ratio = 0.8;
    k->weight_md = 10;
    k->contrast_from_epoch = 0;
    k->gather_negatives = 0;
    k->template_only_epochs = 301; /* while epoch <= 300 */
    k->shared_slot = 1;
    k->template_value = BMVP_TEMPLATE_MINMAX;
    k->template_eps = 1e-9;
    k->template_update_all = 1;
    k->percentile_low = 5;
    k->percentile_high = 95;
    k->half_period = 1;
    k->update_every = 2;
}

static void bmvpi_ssl_fast(bmvp_ssl_config *k)
{
    k->mask_form = BMVP_MASK_BLOCKS;
    k->contrast_from_epoch = 0;
    k->weight_cl = 0.03; /* at 1 its gradient is ten times that of the reconstructions, which then stop improving */
    k->template_mean_start = 1;
    k->template_x = k->template_y = k->template_z = 0;
    k->epochs = 100;
    k->lr = 1e-3;
    k->warmup = 20;
    k->clip = 1;
}

BMVP_API int bmvp_ssl_preset(const char *name, bmvp_ssl_config *cfg)
{
    memset(cfg, 0, sizeof *cfg);
    bmvpi_ssl_paper(cfg);
    if (strcmp(name, "release") == 0) bmvpi_ssl_release(cfg);
    else if (strcmp(name, "fast") == 0) bmvpi_ssl_fast(cfg);
    else if (strcmp(name, "paper") != 0) return 0;
    snprintf(cfg->preset, sizeof cfg->preset, "%s", name);
    return 1;
}

#define BMVPI_SSL_FIELD(type, name, low, high, text) BMVP_FIELD(bmvp_ssl_config, type, name, low, high, text)
static const bmvp_field bmvpi_ssl_fields[] = { BMVP_SSL_FIELDS(BMVPI_SSL_FIELD) BMVP_RUN_FIELDS(BMVPI_SSL_FIELD)
                                                   BMVP_FIELDS_END };

BMVP_API bmvp_status bmvp_ssl_set(bmvp_ssl_config *cfg, const char *name, const char *value, bmvp_error *err)
{
    return bmvp_field_set(bmvpi_ssl_fields, cfg, name, value, err);
}

BMVP_API int bmvp_ssl_field(const bmvp_ssl_config *cfg, int i, const char **name, const char **meaning, char *buf,
                            size_t size)
{
    return bmvp_field_get(bmvpi_ssl_fields, cfg, i, name, meaning, buf, size);
}

/* >>pretrain impl: the method as the trainer knows it -------------------------------------------------------------- */

typedef struct bmvpi_ssl_setup { int n; const char *const *names; const int64_t *grid; } bmvpi_ssl_setup;

static void bmvpi_ssl_prepare(bmvp_trainer *t)
{
    const bmvpi_ssl_setup *u = (const bmvpi_ssl_setup *)t->setup;
    bmvp_ssl *s = (bmvp_ssl *)t->state;
    s->t = t;
    s->c = t->c;
    s->cfg = (bmvp_ssl_config *)t->config;
    t->epoch = 0;
    if (s->cfg->weight_cmr == 0 && s->cfg->weight_md == 0 && s->cfg->weight_cl == 0)
        bmvp_fail(t->c, BMVP_E_ARG, "all three tasks are off: give weight_cmr, weight_md or weight_cl a value");
    else (void)bmvpi_check_modalities(t->c, u->n, u->names, 1);
}

/* A template for each modality, stacked in the released order. */
static void bmvpi_ssl_templates(bmvp_trainer *t)
{
    const bmvpi_ssl_setup *u = (const bmvpi_ssl_setup *)t->setup;
    const int stride = (int)bmvp_net_stride(t->net);
    bmvp_ssl *s = (bmvp_ssl *)t->state;
    bmvp_state_list *l = bmvp_net_state(t->net);
    int64_t dim[3];
    char name[64];
    int i;
    if (s->cfg->crop % stride)
        bmvp_fail(t->c, BMVP_E_ARG, "crop %d must be a multiple of %d for %s", s->cfg->crop, stride,
                  t->net_config.name);
    s->grid[0] = s->cfg->template_z > 0 ? s->cfg->template_z : u->grid[0];
    s->grid[1] = s->cfg->template_y > 0 ? s->cfg->template_y : u->grid[1];
    s->grid[2] = s->cfg->template_x > 0 ? s->cfg->template_x : u->grid[2];
    dim[0] = s->grid[2], dim[1] = s->grid[1], dim[2] = s->grid[0]; /* the released order is X, Y, Z */
    for (i = 0; i < u->n && !bmvp_failed(t->c); ++i) {
        s->modality[i] = bmvp_modality_find(u->names[i]);
        snprintf(name, sizeof name, "rep_template.%s", bmvp_modality_name(s->modality[i]));
        s->templ[i] = bmvp_state_add(t->c, l, name, BMVP_LAYOUT_VOLUME, 3, dim, 1, BMVP_INIT_ZERO, 0);
        if (!s->templ[i]) return;
        l->item[l->n - 1].part = i;
        l->item[l->n - 1].parts = u->n;
        l->item[l->n - 1].stacked = "rep_template";
        l->item[l->n - 1].lr_scale = s->cfg->template_lr_scale;
    }
    s->n_modalities = u->n;
}

static void bmvpi_ssl_start(bmvp_trainer *t)
{
    bmvp_ssl *s = (bmvp_ssl *)t->state;
    s->mask = bmvpi_scratch(t->c, (int64_t)s->cfg->crop * s->cfg->crop * s->cfg->crop);
}

static void bmvpi_ssl_check(bmvp_pass *p)
{
    if (p->n > BMVPI_SSL_BATCH)
        bmvp_fail(p->c, BMVP_E_ARG, "a pass takes 1 to %d items, not %d", BMVPI_SSL_BATCH, p->n);
}

/* Templates' gradients lie in the crops; min-max normalisation gives voxels outside of them some, too. */
static void bmvpi_ssl_boxes(bmvp_pass *p)
{
    const bmvp_ssl *s = (const bmvp_ssl *)p->state;
    const bmvp_ssl_item *item = (const bmvp_ssl_item *)p->items;
    const int64_t size[3] = { s->cfg->crop, s->cfg->crop, s->cfg->crop };
    const int whole = s->cfg->template_value == BMVP_TEMPLATE_MINMAX;
    int i;
    if (s->cfg->weight_md <= 0 && !bmvpi_ssl_contrasts(p) && !bmvpi_ssl_only_template(p)) return;
    for (i = 0; i < p->n; ++i)
        bmvp_pass_box(p, s->templ[item[i].modality], whole ? NULL : item[i].template_start, size);
}

/* The release's AdamW decays all templates every step, those without a gradient, too. */
static void bmvpi_ssl_before_update(bmvp_trainer *t)
{
    const bmvp_ssl *s = (const bmvp_ssl *)t->state;
    int i;
    for (i = 0; s->cfg->template_update_all && t->pending && i < s->n_modalities; ++i)
        if (!bmvp_has_grad(s->templ[i])) bmvpi_grad_zeros(t->c, s->templ[i]);
}

static double bmvpi_ssl_rate(const bmvp_trainer *t, int64_t total)
{
    const bmvp_ssl_config *cfg = (const bmvp_ssl_config *)t->config;
    bmvp_schedule k;
    memset(&k, 0, sizeof k);
    k.lr = cfg->lr;
    k.floor = cfg->lr_floor;
    k.total = total;
    k.warmup = cfg->warmup;
    k.half_period = cfg->half_period;
    return bmvp_schedule_lr(&k, t->samples / cfg->batch);
}

static void bmvpi_ssl_plan(bmvp_trainer *t, void *items, int n)
{
    const bmvp_ssl *s = (const bmvp_ssl *)t->state;
    int i;
    for (i = 0; i < n; ++i) ((bmvp_ssl_item *)items)[i].modality = i % s->n_modalities;
    t->epoch = bmvpi_max(s->cfg->contrast_from_epoch, s->cfg->template_only_epochs);
}

static void bmvpi_ssl_describe(const bmvp_trainer *t, bmvp_jw *w)
{
    const bmvp_ssl *s = (const bmvp_ssl *)t->state;
    bmvpi_modalities_write(w, s->modality, s->n_modalities, s->grid);
}

BMVP_API const bmvp_method *bmvp_ssl_method(void)
{
    static const char *const loss[] = { "cmr", "md", "cl", NULL };
    static const bmvp_method m = { "brainmvp",
                                   "bmvp pre-training 1",
                                   loss,
                                   bmvpi_ssl_fields,
                                   sizeof(bmvp_ssl_config),
                                   sizeof(bmvp_ssl),
                                   sizeof(bmvp_ssl_item),
                                   0 /* mean_of_updates */,
                                   bmvpi_ssl_prepare,
                                   bmvpi_ssl_templates,
                                   bmvpi_ssl_start,
                                   NULL /* destroy */,
                                   bmvpi_ssl_check,
                                   bmvpi_ssl_forward,
                                   bmvpi_ssl_boxes,
                                   bmvpi_ssl_before_update,
                                   NULL /* after_update */,
                                   bmvpi_ssl_rate,
                                   NULL /* optimizer */,
                                   bmvpi_ssl_plan,
                                   bmvpi_ssl_describe };
    return &m;
}

static bmvpi_ssl_setup bmvpi_ssl_setup_of(int n, const char *const *names, const int64_t grid[3])
{
    bmvpi_ssl_setup u;
    u.n = n;
    u.names = names;
    u.grid = grid;
    return u;
}

BMVP_API bmvp_ssl *bmvp_ssl_create(bmvp_ctx *c, const bmvp_net_config *net, const bmvp_ssl_config *cfg,
                                   int n_modalities, const char *const *names, const int64_t grid[3])
{
    const bmvpi_ssl_setup u = bmvpi_ssl_setup_of(n_modalities, names, grid);
    bmvp_trainer *t = bmvp_trainer_create(c, bmvp_ssl_method(), net, cfg, &u, 1);
    return t ? (bmvp_ssl *)t->state : NULL;
}

BMVP_API void bmvp_ssl_destroy(bmvp_ssl *s)
{
    if (s) bmvp_trainer_destroy(s->t);
}

BMVP_API bmvp_trainer *bmvp_ssl_trainer(bmvp_ssl *s) { return s->t; }
BMVP_API bmvp_net *bmvp_ssl_net(bmvp_ssl *s) { return s->t->net; }
BMVP_API bmvp_ssl_config *bmvp_ssl_config_of(bmvp_ssl *s) { return s->cfg; }
BMVP_API bmvp_state_list *bmvp_ssl_state(bmvp_ssl *s) { return bmvp_net_state(s->t->net); }
BMVP_API bmvp_tensor *bmvp_ssl_template(bmvp_ssl *s, int m)
{
    return m >= 0 && m < s->n_modalities ? s->templ[m] : NULL;
}
BMVP_API int64_t bmvp_ssl_steps(const bmvp_ssl *s) { return s->t->steps; }
BMVP_API void bmvp_ssl_set_epoch(bmvp_ssl *s, int64_t epoch) { s->t->epoch = epoch; }
BMVP_API void bmvp_ssl_keep_features(bmvp_ssl *s, int keep) { s->keep = keep; }
BMVP_API int bmvp_ssl_share(int n, int rank, int size, int *first) { return bmvp_trainer_share(n, rank, size, first); }
BMVP_API void bmvp_ssl_last_pass(bmvp_ssl *s) { bmvp_trainer_last_pass(s->t); }
BMVP_API bmvp_status bmvp_ssl_broadcast(bmvp_ssl *s) { return bmvp_trainer_broadcast(s->t); }
BMVP_API double bmvp_ssl_lr(const bmvp_ssl *s, int64_t total) { return bmvp_trainer_lr(s->t, total); }
BMVP_API const bmvp_features *bmvp_ssl_features(const bmvp_ssl *s, bmvp_tensor **reconstruction)
{
    if (reconstruction) *reconstruction = s->reconstruction;
    return &s->features;
}

static bmvp_status bmvpi_ssl_losses(bmvp_status st, const bmvp_losses *l, bmvp_ssl_losses *out)
{
    out->total = l->total;
    out->cmr = l->part[BMVPI_SSL_CMR];
    out->md = l->part[BMVPI_SSL_MD];
    out->cl = l->part[BMVPI_SSL_CL];
    out->grad_norm = l->grad_norm;
    return st;
}

BMVP_API bmvp_status bmvp_ssl_step(bmvp_ssl *s, const bmvp_ssl_item *items, int n, double lr, bmvp_ssl_losses *out)
{
    bmvp_losses l;
    const bmvp_status st = bmvp_trainer_step(s->t, items, n, lr, out ? &l : NULL);
    return out ? bmvpi_ssl_losses(st, &l, out) : st;
}

BMVP_API bmvp_status bmvp_ssl_accumulate(bmvp_ssl *s, const bmvp_ssl_item *items, int n, bmvp_ssl_losses *out)
{
    bmvp_losses l;
    const bmvp_status st = bmvp_trainer_accumulate(s->t, items, n, out ? &l : NULL);
    return out ? bmvpi_ssl_losses(st, &l, out) : st;
}

BMVP_API bmvp_status bmvp_ssl_update(bmvp_ssl *s, double lr, bmvp_ssl_losses *out)
{
    bmvp_losses l;
    bmvp_status st;
    l.grad_norm = out ? out->grad_norm : 0;
    st = bmvp_trainer_update(s->t, lr, out ? &l : NULL);
    if (out) out->grad_norm = l.grad_norm;
    return st;
}

BMVP_API bmvp_status bmvp_ssl_losses_of(bmvp_ssl *s, int64_t step, bmvp_ssl_losses *out)
{
    bmvp_losses l;
    const bmvp_status st = bmvp_trainer_losses_of(s->t, step, &l);
    return st ? st : bmvpi_ssl_losses(st, &l, out);
}

static void bmvpi_ssl_look_view(bmvpi_views *v, int from_template, float *view, float *rec)
{
    bmvp_tensor *x = bmvpi_ssl_view(v, 0, from_template, !from_template);
    bmvp_features f;
    if (x && view) (void)bmvp_read(v->s->c, x, view);
    if (!rec) return;
    f = bmvp_net_encode(v->s->t->net, x, 0);
    x = bmvp_net_reconstruct(v->s->t->net, &f);
    if (x) (void)bmvp_read(v->s->c, x, rec);
}

BMVP_API bmvp_status bmvp_ssl_look(bmvp_ssl *s, const bmvp_ssl_item *item, const bmvp_ssl_preview *out)
{
    const int64_t dim[3] = { s->cfg->crop, s->cfg->crop, s->cfg->crop };
    const int was = bmvp_set_grad(s->c, 0);
    bmvpi_views v;
    memset(&v, 0, sizeof v);
    v.s = s;
    v.item = item;
    v.n = 1;
    bmvp_step_begin(s->c);
    v.crop[0] = bmvp_input(s->c, 3, dim, item->x);
    if (out->view_template || out->rec_template) bmvpi_ssl_look_view(&v, 1, out->view_template, out->rec_template);
    if (item->other && (out->view_modal || out->rec_modal)) bmvpi_ssl_look_view(&v, 0, out->view_modal, out->rec_modal);
    bmvp_step_begin(s->c);
    (void)bmvp_set_grad(s->c, was);
    return bmvp_error_of(s->c)->status;
}

BMVP_API bmvp_status bmvp_ssl_plan(const bmvp_config *ctx, const bmvp_net_config *net, const bmvp_ssl_config *cfg,
                                   int n_modalities, const char *const *names, const int64_t grid[3], bmvp_memory *out,
                                   bmvp_error *err)
{
    const bmvpi_ssl_setup u = bmvpi_ssl_setup_of(n_modalities, names, grid);
    return bmvp_trainer_plan(ctx, bmvp_ssl_method(), net, cfg, &u, out, err);
}

BMVP_API bmvp_status bmvp_ssl_save(bmvp_ssl *s, const char *path, const char *const *extra, bmvp_error *err)
{
    return bmvp_trainer_save(s->t, path, 1, extra, err);
}

BMVP_API bmvp_status bmvp_ssl_load(bmvp_ssl *s, const char *path, bmvp_error *err)
{
    return bmvp_trainer_load(s->t, path, 1, err);
}

static bmvp_status bmvpi_ssl_description(const bmvp_json *root, const char *path, void *user, bmvp_error *err)
{
    bmvp_ssl_info *o = (bmvp_ssl_info *)user;
    (void)bmvp_ssl_preset("paper", &o->cfg);
    return bmvpi_modalities_read(root, path, &o->n_modalities, o->names, o->grid, err);
}

static bmvp_status bmvpi_ssl_inspect_released(bmvp_ckpt *f, bmvp_ssl_info *o, bmvp_error *err)
{
    const char *group;
    bmvp_status st = bmvp_state_group(f, &group, err);
    int k, i;
    if (!st) st = bmvp_net_infer(f, group, &o->net, err);
    if (st) return st;
    (void)bmvp_ssl_preset("release", &o->cfg);
    k = bmvp_ckpt_find(f, group, "rep_template");
    if (k < 0 || f->entry[k].rank != 4 || f->entry[k].dim[0] > BMVP_MODALITIES) return BMVP_OK;
    o->n_modalities = (int)f->entry[k].dim[0];
    for (i = 0; i < o->n_modalities; ++i) o->names[i] = bmvp_modality_name(i);
    for (i = 0; i < 3; ++i) o->grid[i] = f->entry[k].dim[3 - i];
    o->cfg.template_x = (int)o->grid[2];
    o->cfg.template_y = (int)o->grid[1];
    o->cfg.template_z = (int)o->grid[0];
    return BMVP_OK;
}

BMVP_API bmvp_status bmvp_ssl_inspect(const char *path, bmvp_ssl_info *out, bmvp_error *err)
{
    bmvp_ckpt *f = NULL;
    bmvp_status st = bmvp_ckpt_open(path, NULL, &f, err);
    const bmvp_ckpt_meta *run;
    memset(out, 0, sizeof *out);
    if (st) return st;
    run = bmvp_ckpt_find_meta(f, "", "run");
    st = run ? bmvpi_file_inspect(f, bmvp_ssl_method(), &out->net, &out->cfg, bmvpi_ssl_description, out, err)
             : bmvpi_ssl_inspect_released(f, out, err);
    if (!st && run) st = bmvpi_file_position(f, &out->step, &out->samples, err);
    bmvp_ckpt_close(f);
    return st;
}


/* >>labels impl ---------------------------------------------------------------------------------------------------- */

/* "WT:1,2,4 TC:1,4 ET:4", and values that may occur without belonging to anything. */
typedef struct bmvpi_labels_row { const char *name; int exclusive; const char *regions, *others; } bmvpi_labels_row;
static const bmvpi_labels_row bmvpi_labels_rows[] = {
    { "brats2021", 0, "WT:1,2,4 TC:1,4 ET:4", "" },
    { "brats2023", 0, "WT:1,2,3 TC:1,3 ET:3", "" },
    { "msd_brats", 0, "WT:1,2,3 TC:2,3 ET:3", "" },
    { "mrbrains", 1, "CSF:5,6 GM:1,2 WM:3,4", "7,8,9,10" }, /* the others of MRBrainS13 and 18 count as background */
    { "isles", 0, "lesion:1", "" },
    { "vs", 0, "tumour:1", "2" }, /* 2: the cochlea, in releases that have it */
    { "ms", 0, "lesion:1", "" },
    { "phantom", 0, "WT:1,2,3 TC:1,3 ET:3", "" },
};
enum { BMVPI_LABELS_ROWS = (int)(sizeof bmvpi_labels_rows / sizeof *bmvpi_labels_rows) };

BMVP_API const char *bmvp_labels_names(void) { return "brats2021 brats2023 msd_brats mrbrains isles vs ms phantom"; }

/* Numbers of "1,2,4" into v; returns the first character after them. */
static const char *bmvpi_labels_numbers(const char *text, int *v, int *n)
{
    char *end;
    for (*n = 0; *text >= '0' && *text <= '9' && *n < BMVP_LABEL_VALUES; text = end + (*end == ','))
        v[(*n)++] = (int)strtol(text, &end, 10);
    return text;
}

BMVP_API int bmvp_labels_builtin(const char *name, bmvp_labels *out)
{
    int v[BMVP_LABEL_VALUES], n, i, k;
    char region[32];
    for (i = 0; i < BMVPI_LABELS_ROWS; ++i) {
        const char *p = bmvpi_labels_rows[i].regions;
        if (strcmp(bmvpi_labels_rows[i].name, name) != 0) continue;
        memset(out, 0, sizeof *out);
        snprintf(out->name, sizeof out->name, "%s", name);
        out->exclusive = bmvpi_labels_rows[i].exclusive;
        while (*p) {
            snprintf(region, sizeof region, "%.*s", (int)strcspn(p, ":"), p);
            p = bmvpi_labels_numbers(p + strcspn(p, ":") + 1, v, &n);
            (void)bmvp_labels_add(out, region, v, n, NULL);
            p += *p == ' ';
        }
        (void)bmvpi_labels_numbers(bmvpi_labels_rows[i].others, v, &n);
        for (k = 0; k < n; ++k) out->known[v[k]] = 1;
        return bmvp_labels_finish(out, NULL) == BMVP_OK;
    }
    return 0;
}

BMVP_API bmvp_status bmvp_labels_add(bmvp_labels *l, const char *region, const int *values, int n_values,
                                     bmvp_error *err)
{
    int i, r;
    if (l->n == BMVP_MAX_REGIONS)
        return bmvp_error_set(err, BMVP_E_ARG, "labels: more than %d regions", BMVP_MAX_REGIONS);
    if (!*region || strlen(region) >= sizeof l->region[0])
        return bmvp_error_set(err, BMVP_E_ARG, "labels: the name '%s' must have 1 to %d characters", region,
                              (int)sizeof l->region[0] - 1);
    for (i = 0; region[i]; ++i)
        if ((region[i] > 0 && region[i] < ' ') || region[i] == 127)
            return bmvp_error_set(err, BMVP_E_ARG, "labels: the name '%s' has a control character", region);
    if (n_values < 1) return bmvp_error_set(err, BMVP_E_ARG, "labels: '%s' has no values", region);
    for (r = 0; r < l->n; ++r)
        if (strcmp(l->region[r], region) == 0)
            return bmvp_error_set(err, BMVP_E_ARG, "labels: '%s' is there twice", region);
    for (i = 0; i < n_values; ++i) {
        if (values[i] < 1 || values[i] >= BMVP_LABEL_VALUES)
            return bmvp_error_set(err, BMVP_E_ARG, "labels: value %d of '%s' is outside of 1 to %d", values[i], region,
                                  BMVP_LABEL_VALUES - 1);
        for (r = 0; r < l->n && l->exclusive; ++r)
            if (l->in[r][values[i]])
                return bmvp_error_set(err, BMVP_E_ARG,
                                      "labels: value %d is in both classes '%s' and '%s'; overlapping sets are regions",
                                      values[i], l->region[r], region);
    }
    snprintf(l->region[l->n], sizeof l->region[l->n], "%s", region);
    memset(l->in[l->n], 0, sizeof l->in[l->n]);
    for (i = 0; i < n_values; ++i) l->in[l->n][values[i]] = l->known[values[i]] = 1;
    ++l->n;
    return BMVP_OK;
}

BMVP_API bmvp_status bmvp_labels_ignore(bmvp_labels *l, int value, bmvp_error *err)
{
    int r;
    if (value < 1 || value >= BMVP_LABEL_VALUES)
        return bmvp_error_set(err, BMVP_E_ARG, "labels: the value to ignore, %d, is outside of 1 to %d", value,
                              BMVP_LABEL_VALUES - 1);
    for (r = 0; r < l->n; ++r)
        if (l->in[r][value])
            return bmvp_error_set(err, BMVP_E_ARG, "labels: value %d is to be ignored and belongs to '%s'", value,
                                  l->region[r]);
    l->ignore = (unsigned char)value;
    l->known[value] = 1;
    return BMVP_OK;
}

static int bmvpi_labels_size(const bmvp_labels *l, int r)
{
    int v, n = 0;
    for (v = 1; v < BMVP_LABEL_VALUES; ++v) n += l->in[r][v];
    return n;
}

static void bmvpi_labels_swap(bmvp_labels *l, int a, int b)
{
    const bmvp_labels t = *l;
    memcpy(l->region[a], t.region[b], sizeof t.region[b]);
    memcpy(l->region[b], t.region[a], sizeof t.region[a]);
    memcpy(l->in[a], t.in[b], sizeof t.in[b]);
    memcpy(l->in[b], t.in[a], sizeof t.in[a]);
}

/* The lowest value of region r that no smaller region (a later one) holds; if they hold all, its lowest value. */
static int bmvpi_labels_paint(const bmvp_labels *l, int r)
{
    int v, k, lowest = 0;
    for (v = BMVP_LABEL_VALUES - 1; v > 0; --v)
        if (l->in[r][v]) lowest = v;
    for (v = 1; v < BMVP_LABEL_VALUES; ++v) {
        for (k = r + 1; k < l->n && !l->in[k][v]; ++k) { }
        if (l->in[r][v] && k == l->n) return v;
    }
    return lowest;
}

BMVP_API bmvp_status bmvp_labels_finish(bmvp_labels *l, bmvp_error *err)
{
    int a, b;
    if (l->n < 1) return bmvp_error_set(err, BMVP_E_ARG, "labels: no regions or classes");
    for (a = 0; a < l->n; ++a)
        for (b = a + 1; b < l->n; ++b)
            if (memcmp(l->in[a], l->in[b], sizeof l->in[a]) == 0)
                return bmvp_error_set(err, BMVP_E_ARG, "labels: '%s' and '%s' are the same values", l->region[a],
                                      l->region[b]);
    for (a = 1; a < l->n && !l->exclusive; ++a) /* insertion keeps the given order of equal sizes */
        for (b = a; b > 0 && bmvpi_labels_size(l, b - 1) < bmvpi_labels_size(l, b); --b) bmvpi_labels_swap(l, b - 1, b);
    for (a = 0; a < l->n; ++a) l->paint[a] = (unsigned char)bmvpi_labels_paint(l, a);
    return BMVP_OK;
}

BMVP_API int bmvp_labels_outputs(const bmvp_labels *l) { return l->n + (l->exclusive ? 1 : 0); }

static uint64_t bmvpi_pair_bits(const float *values)
{
    uint64_t pair;
    memcpy(&pair, values, sizeof pair);
    return pair;
}

/* The first of n values from i on that is not 0, or n: label maps, and images around the head, are 0 in most places,
   which a block at a time tells. */
static int64_t bmvpi_skip_zeros(const float *values, int64_t i, int64_t n)
{
    for (; i + 8 <= n; i += 8) {
        const uint64_t any = bmvpi_pair_bits(values + i) | bmvpi_pair_bits(values + i + 2) |
                             bmvpi_pair_bits(values + i + 4) | bmvpi_pair_bits(values + i + 6);
        if (any & 0x7fffffff7fffffffu) break; /* -0 is 0, too */
    }
    while (i < n && values[i] == 0.0f) ++i;
    return i;
}

typedef struct bmvpi_label_look {
    unsigned char has[256]; /* 1: this value from 1 to 255 is there */
    int64_t first, last;    /* no voxel before and none after is other than 0; last -1: all are 0 */
} bmvpi_label_look;

/* The first of n values that l does not know, or (l NULL) that no 16 bits hold; -1: none, and *look is whole. */
static int64_t bmvpi_labels_scan(const bmvp_labels *l, const float *values, int64_t n, bmvpi_label_look *look)
{
    int64_t i;
    memset(look, 0, sizeof *look);
    look->first = n;
    look->last = -1;
    for (i = 0; i < n; ++i) {
        const float v = values[i];
        int u;
        if (v == 0.0f) {
            i = bmvpi_skip_zeros(values, i, n) - 1;
            continue;
        }
        if (!(v >= -32768 && v <= 32767) || v != (float)(int)v) return i;
        u = (int)v;
        if (l && (u < 0 || u >= BMVP_LABEL_VALUES || !l->known[u])) return i;
        if (u > 0 && u < 256) look->has[u] = 1;
        if (i < look->first) look->first = i;
        look->last = i;
    }
    return -1;
}

BMVP_API int64_t bmvp_labels_unknown(const bmvp_labels *l, const float *values, int64_t n)
{
    bmvpi_label_look look;
    return bmvpi_labels_scan(l, values, n, &look);
}

/* bmvp_labels_check, which also says what it saw. */
static bmvp_status bmvpi_labels_look(const bmvp_labels *l, const float *values, const int64_t dim[3], const char *name,
                                     bmvpi_label_look *look, bmvp_error *err)
{
    const int64_t i = bmvpi_labels_scan(l, values, dim[0] * dim[1] * dim[2], look);
    const long long x = i < 0 ? 0 : i % dim[2], y = i < 0 ? 0 : i / dim[2] % dim[1];
    const long long z = i < 0 ? 0 : i / dim[2] / dim[1];
    if (i < 0) return BMVP_OK;
    if (l)
        return bmvp_error_set(err, BMVP_E_FORMAT,
                              "%s: value %.9g at voxel (%lld, %lld, %lld) is not in the definition of "
                              "the labels ('%s'); is it the right one?",
                              name, (double)values[i], x, y, z, l->name);
    return bmvp_error_set(err, BMVP_E_FORMAT,
                          "%s: value %.9g at voxel (%lld, %lld, %lld): label values are whole numbers "
                          "from -32768 to 32767; was the map resampled with interpolation?", name, (double)values[i], x,
                          y, z);
}

BMVP_API bmvp_status bmvp_labels_check(const bmvp_labels *l, const float *values, const int64_t dim[3],
                                       const char *name, bmvp_error *err)
{
    bmvpi_label_look look;
    return bmvpi_labels_look(l, values, dim, name, &look, err);
}

BMVP_API void bmvp_labels_mask(const bmvp_labels *l, int r, const float *values, int64_t n, unsigned char *mask)
{
    int64_t i;
    for (i = 0; i < n; ++i)
        mask[i] = values[i] > 0 && values[i] < (float)BMVP_LABEL_VALUES ? l->in[r][(int)values[i]] : 0;
}

BMVP_API void bmvp_labels_judged(const bmvp_labels *l, const float *truth, int64_t n, unsigned char *mask)
{
    int64_t i;
    for (i = 0; i < n && l->ignore; ++i)
        if (truth[i] == (float)l->ignore) mask[i] = 0;
}

BMVP_API unsigned char bmvp_labels_decide(const bmvp_labels *l, const float *probability)
{
    int r, best = 0;
    unsigned char v = 0;
    for (r = 0; r < l->n && !l->exclusive; ++r)
        if (probability[r] >= 0.5f) v = l->paint[r];
    for (r = 1; r <= l->n && l->exclusive; ++r)
        if (probability[r] > probability[best]) best = r;
    return best > 0 ? l->paint[best - 1] : v;
}

BMVP_API void bmvp_labels_write(bmvp_jw *w, const char *key, const bmvp_labels *l)
{
    int r, v;
    bmvp_jw_object(w, key);
    bmvp_jw_string(w, "name", l->name);
    bmvp_jw_string(w, "kind", l->exclusive ? "classes" : "regions");
    bmvp_jw_object(w, "regions");
    for (r = 0; r < l->n; ++r) {
        bmvp_jw_array(w, l->region[r]);
        for (v = 1; v < BMVP_LABEL_VALUES; ++v)
            if (l->in[r][v]) bmvp_jw_int(w, NULL, v);
        bmvp_jw_end(w);
    }
    bmvp_jw_end(w);
    bmvp_jw_array(w, "known");
    for (v = 1; v < BMVP_LABEL_VALUES; ++v)
        if (l->known[v]) bmvp_jw_int(w, NULL, v);
    bmvp_jw_end(w);
    if (l->ignore) bmvp_jw_int(w, "ignore", l->ignore);
    bmvp_jw_end(w);
}

/* "regions" is an object of arrays, each no longer than there are values; the others are what they should be, or not
   there. The values themselves are looked at when they are added. */
static bmvp_status bmvpi_labels_schema(const bmvp_json *node, bmvp_error *err)
{
    static const char *const name[] = { "name", "kind", "regions", "known" };
    static const bmvp_json_type type[] = { BMVP_JSON_STRING, BMVP_JSON_STRING, BMVP_JSON_OBJECT, BMVP_JSON_ARRAY };
    const bmvp_json *m;
    const char *kind = bmvp_json_string(bmvp_json_get(node, "kind"), "regions");
    int i;
    for (i = 0; i < 4; ++i) {
        m = bmvp_json_get(node, name[i]);
        if (m && m->type != type[i])
            return bmvp_error_set(err, BMVP_E_FORMAT, "labels: \"%s\" must be %s", name[i],
                                  i < 2 ? "a text" : i == 2 ? "an object: names and their values" : "an array");
    }
    if (strcmp(kind, "regions") != 0 && strcmp(kind, "classes") != 0)
        return bmvp_error_set(err, BMVP_E_FORMAT, "labels: \"kind\" must be regions or classes");
    m = bmvp_json_get(node, "regions");
    for (m = m ? m->first : NULL; m; m = m->next)
        if (m->type != BMVP_JSON_ARRAY || bmvp_json_count(m) > BMVP_LABEL_VALUES)
            return bmvp_error_set(err, BMVP_E_FORMAT, "labels: region '%.40s' must be an array of at most %d values",
                                  m->key, BMVP_LABEL_VALUES);
    return BMVP_OK;
}

BMVP_API bmvp_status bmvp_labels_read(const bmvp_json *node, bmvp_labels *l, bmvp_error *err)
{
    const bmvp_json *regions = bmvp_json_get(node, "regions"), *r, *v;
    int value[BMVP_LABEL_VALUES], n;
    bmvp_status st = bmvpi_labels_schema(node, err);
    memset(l, 0, sizeof *l);
    if (st) return st;
    snprintf(l->name, sizeof l->name, "%s", bmvp_json_string(bmvp_json_get(node, "name"), "custom"));
    l->exclusive = strcmp(bmvp_json_string(bmvp_json_get(node, "kind"), "regions"), "classes") == 0;
    for (r = regions ? regions->first : NULL; r && !st; r = r->next) {
        for (n = 0, v = r->first; v && n < BMVP_LABEL_VALUES; v = v->next) {
            const int64_t k = bmvp_json_int(v, -1);
            value[n++] = k < 0 || k > BMVP_LABEL_VALUES ? -1 : (int)k; /* refused */
        }
        st = bmvp_labels_add(l, r->key, value, n, err);
    }
    v = bmvp_json_get(node, "known");
    for (v = v ? v->first : NULL; v && !st; v = v->next) {
        const int64_t k = bmvp_json_int(v, 0);
        if (k > 0 && k < BMVP_LABEL_VALUES) l->known[k] = 1;
    }
    v = bmvp_json_get(node, "ignore");
    if (!st && v) {
        const int64_t k = bmvp_json_int(v, -1);
        st = bmvp_labels_ignore(l, k < 0 || k > BMVP_LABEL_VALUES ? -1 : (int)k, err);
    }
    return st ? st : bmvp_labels_finish(l, err);
}

/* >>metrics impl --------------------------------------------------------------------------------------------------- */

enum { BMVPI_STREAM_BOOTSTRAP = 500 };
#define BMVPI_BRATS_FAR 374.0 /* mm, what a missed or an invented region costs */

BMVP_API const char *bmvp_empty_rule_text(bmvp_empty_rule rule)
{
    switch (rule) {
    case BMVP_EMPTY_MONAI:
        return "MONAI: Dice is NaN when the truth is empty, the distance when a mask is (the maximum: inf when one is)";
    case BMVP_EMPTY_BRATS:
        return "BraTS: Dice is 1 and the distance 0 mm when both masks are empty, 0 and 374 mm when one is";
    }
    return "unknown rule for empty masks";
}

static void *bmvpi_alloc_array(const bmvp_allocator *a, int64_t n, int64_t size)
{
    const int64_t bytes = bmvpi_mul_size(n, size);
    return bytes < 0 || (uint64_t)bytes > SIZE_MAX ? NULL : a->alloc((size_t)bmvpi_max(bytes, 1), a->user);
}

/* Voxels in the prediction, in the truth, in both. */
BMVPI_HOT static void bmvpi_overlap(const unsigned char *p, const unsigned char *t, int64_t n, int64_t count[3])
{
    int64_t i, k;
    count[0] = count[1] = count[2] = 0;
    for (i = 0; i < n; i = k) {
        uint32_t a = 0, b = 0, both = 0; /* narrow sums: twice as many fit into a register */
        const int64_t end = bmvpi_min(n, i + (1 << 20));
        for (k = i; k < end; ++k) {
            const unsigned char in_p = p[k] != 0, in_t = t[k] != 0;
            a += in_p;
            b += in_t;
            both += (unsigned char)(in_p & in_t);
        }
        count[0] += a;
        count[1] += b;
        count[2] += both;
    }
}

BMVP_API double bmvp_dice(const unsigned char *prediction, const unsigned char *truth, int64_t n, bmvp_empty_rule rule)
{
    int64_t count[3];
    bmvpi_overlap(prediction, truth, n, count);
    if (rule == BMVP_EMPTY_MONAI && count[1] == 0) return (double)NAN;
    if (count[0] + count[1] <= 0) return 1;
    return 2.0 * (double)count[2] / (double)(count[0] + count[1]);
}

/* ---- distances: the same text in bmvp_ssl.h and bmvp_nifti.h, so that each stands alone ---------------------------

   Exact, axis by axis (Felzenszwalb and Huttenlocher 2012): the least f(v) + w (y - v)^2 over all v
   is w y^2 plus the least F(v) - 2 w y v, F(v) = f(v) + w v^2. So the v that matter are the lower convex hull of the
   points (v, F(v)), and each holds as long as 2 w y lies between the slopes left and right of it. The hull has a
   copy of what it needs: columns are transformed in place. */
#ifndef BMVP_DISTANCES
#define BMVP_DISTANCES 1
typedef struct bmvpi_hull { double f, lift, v, slope; } bmvpi_hull; /* lift: F(v); slope: from the point before */
typedef struct bmvpi_edt {
    double w[3];      /* mm^2 of one step along D, H, W */
    bmvpi_hull *hull; /* of the longest axis */
    float *square;    /* of whole numbers: distances along W are kept in steps, which floats hold exactly */
    int64_t looked;   /* places that searches looked at */
    unsigned char *wanted; /* along W: are columns of this place to be transformed? */
} bmvpi_edt;

static int64_t bmvpi_edt_longest(const int64_t dim[3])
{
    const int64_t n = dim[0] > dim[1] ? dim[0] : dim[1];
    return n > dim[2] ? n : dim[2];
}

/* -1: too many. */
static int64_t bmvpi_edt_bytes(const int64_t dim[3])
{
    const int64_t longest = bmvpi_edt_longest(dim);
    const int64_t each = (int64_t)(sizeof(bmvpi_hull) + sizeof(float) + 4); /* 4: `wanted`, floats may follow */
    return longest > INT64_MAX / each ? -1 : longest * each;
}

static void bmvpi_edt_init(bmvpi_edt *e, const int64_t dim[3], const double mm[3], void *memory)
{
    const int64_t longest = bmvpi_edt_longest(dim);
    int64_t k;
    int a;
    for (a = 0; a < 3; ++a) e->w[a] = mm[a] * mm[a];
    e->hull = (bmvpi_hull *)memory;
    e->square = (float *)(void *)(e->hull + longest);
    e->wanted = (unsigned char *)(e->square + longest);
    memset(e->wanted, 1, (size_t)dim[2]);
    for (k = 0; k < dim[2]; ++k) e->square[k] = (float)k * (float)k;
}

/* First place from i on that is not 0, n: none. */
static int64_t bmvpi_next_set(const unsigned char *mask, int64_t i, int64_t n)
{
    uint64_t eight;
    for (; i + 8 <= n; i += 8) {
        memcpy(&eight, mask + i, 8);
        if (eight) break;
    }
    while (i < n && !mask[i]) ++i;
    return i;
}

/* Along W the nearest set voxel is one of the two neighbours in the row. */
static void bmvpi_edt_row(const bmvpi_edt *e, const unsigned char *mask, int64_t n, float *out)
{
    int64_t last = -1, next, i = 0;
    for (next = bmvpi_next_set(mask, 0, n); next < n; next = bmvpi_next_set(mask, next + 1, n)) {
        const int64_t middle = last < 0 ? 0 : (last + next) / 2 + 1;
        for (; i < middle; ++i) out[i] = e->square[i - last];
        for (; i <= next; ++i) out[i] = e->square[next - i];
        last = next;
    }
    for (; i < n; ++i) out[i] = last < 0 ? (float)HUGE_VAL : e->square[i - last];
}

/* x: squares, in mm^2 when multiplied by unit; in mm^2 afterwards. */
static void bmvpi_edt_column(const bmvpi_edt *e, double unit, double w, float *x, int64_t n, int64_t stride)
{
    bmvpi_hull *const h = e->hull;
    int64_t i, top = -1, k = 0;
    for (i = 0; i < n; ++i) {
        const double f = unit * (double)x[i * stride], v = (double)i, lift = f + w * v * v;
        double slope = -HUGE_VAL;
        if (f == HUGE_VAL) continue;
        while (top >= 0 && (slope = (lift - h[top].lift) / (v - h[top].v)) <= h[top].slope) --top;
        ++top;
        h[top].f = f;
        h[top].lift = lift;
        h[top].v = v;
        h[top].slope = slope;
    }
    for (i = 0; i < n && top >= 0; ++i) {
        const double y = (double)i;
        while (k < top && h[k + 1].slope <= 2 * w * y) ++k;
        x[i * stride] = (float)(h[k].f + w * (y - h[k].v) * (y - h[k].v));
    }
}

/* Axis W: squared distances within rows, in steps. */
static void bmvpi_edt_rows(const bmvpi_edt *e, const unsigned char *mask, const int64_t dim[3], float *x)
{
    int64_t i;
    for (i = 0; i < dim[0] * dim[1]; ++i) bmvpi_edt_row(e, mask + i * dim[2], dim[2], x + i * dim[2]);
}

/* Axis H, of distances within rows: now within planes, in mm^2. A row is finite or infinite as a whole: one column
   shows if any is. */
static void bmvpi_edt_planes(const bmvpi_edt *e, const int64_t dim[3], float *x)
{
    int64_t z, i;
    for (z = 0; z < dim[0]; ++z, x += dim[1] * dim[2]) {
        for (i = 0; i < dim[1] && (double)x[i * dim[2]] == HUGE_VAL; ++i) {}
        if (i == dim[1]) continue;
        for (i = 0; i < dim[2]; ++i)
            if (e->wanted[i]) bmvpi_edt_column(e, e->w[2], e->w[1], x + i, dim[1], dim[2]);
    }
}

/* All three: squared mm, infinite where nothing is set. */
static void bmvpi_edt_all(const bmvpi_edt *e, const unsigned char *mask, const int64_t dim[3], float *x)
{
    const int64_t plane = dim[1] * dim[2];
    int64_t i;
    bmvpi_edt_rows(e, mask, dim, x);
    bmvpi_edt_planes(e, dim, x);
    for (i = 0; i < plane; ++i) bmvpi_edt_column(e, 1, e->w[0], x + i, dim[0], plane);
}
#endif /* BMVP_DISTANCES */
/* ---- end of the distances ---------------------------------------------------------------------------------------- */

/* Voxels of a volume, -1 when a size is not positive, they are too many, or a spacing is none (its squares must fit
   into a float). */
static int64_t bmvpi_volume(const int64_t dim[3], const double mm[3])
{
    int64_t n = 1;
    int a;
    for (a = 0; a < 3; ++a) {
        n = dim[a] > 0 ? bmvpi_mul_size(n, dim[a]) : -1;
        if (!(mm[a] >= 1e-12 && mm[a] <= 1e12)) n = -1;
    }
    return n;
}

BMVP_API bmvp_status bmvp_distance_transform(const unsigned char *mask, const int64_t dim[3], const double mm[3],
                                             float *squared, const bmvp_allocator *a)
{
    const bmvp_allocator al = bmvpi_allocator_or_libc(a);
    bmvpi_edt e;
    void *memory;
    if (bmvpi_volume(dim, mm) < 0) return BMVP_E_ARG;
    memory = bmvpi_alloc_array(&al, bmvpi_edt_bytes(dim), 1);
    if (!memory) return BMVP_E_OOM;
    bmvpi_edt_init(&e, dim, mm, memory);
    bmvpi_edt_all(&e, mask, dim, squared);
    al.free(memory, al.user);
    return BMVP_OK;
}

/* ---- distance of two surfaces, within the box that holds both masks: beyond it there is nothing but zeros */

BMVPI_HOT static int bmvpi_any(const unsigned char *x, int64_t n)
{
    unsigned char any = 0;
    int64_t i;
    for (i = 0; i < n; ++i) any |= x[i];
    return any != 0;
}

/* Box of the voxels of either mask, from low up to before high. Returns bit k: mask k is not empty. */
static int bmvpi_union_box(const unsigned char *const mask[2], const int64_t dim[3], int64_t low[3], int64_t high[3])
{
    int64_t z, y, x;
    int found = 0, a;
    for (a = 0; a < 3; ++a) low[a] = dim[a], high[a] = 0;
    for (z = 0; z < dim[0]; ++z)
        for (y = 0; y < dim[1]; ++y) {
            const unsigned char *p = mask[0] + (z * dim[1] + y) * dim[2], *t = mask[1] + (z * dim[1] + y) * dim[2];
            const int here = bmvpi_any(p, dim[2]) | bmvpi_any(t, dim[2]) << 1;
            if (!here) continue;
            found |= here;
            low[0] = bmvpi_min(low[0], z), high[0] = z + 1;
            low[1] = bmvpi_min(low[1], y), high[1] = bmvpi_max(high[1], y + 1);
            for (x = 0; x < low[2] && !p[x] && !t[x]; ++x) {}
            low[2] = bmvpi_min(low[2], x);
            for (x = dim[2]; x > high[2] && !p[x - 1] && !t[x - 1]; --x) {}
            high[2] = bmvpi_max(high[2], x);
        }
    return found;
}

/* One row: set voxels with a neighbour that is not. c: the row, dy and dz: steps to the neighbouring rows; 0: at the
   border of the box. */
BMVPI_HOT static int64_t bmvpi_surface_row(const unsigned char *c, int64_t n, int64_t dy, int64_t dz,
                                           unsigned char *out)
{
    uint32_t count = 0;
    int64_t x;
    if (dy == 0 || n < 3)
        for (x = 0; x < n; ++x) out[x] = c[x] != 0;
    else {
        const unsigned char *l = c - 1, *r = c + 1, *u = c - dy, *d = c + dy, *b = c - dz, *f = c + dz;
        for (x = 1; x < n - 1; ++x)
            out[x] = (unsigned char)((c[x] != 0) & ((l[x] == 0) | (r[x] == 0) | (u[x] == 0) | (d[x] == 0) |
                                                    (b[x] == 0) | (f[x] == 0)));
        out[0] = c[0] != 0;
        out[n - 1] = c[n - 1] != 0;
    }
    for (x = 0; x < n; ++x) count += out[x];
    return (int64_t)count;
}

/* Surface of a mask within the box, zeros and ones; returns its number of voxels. Faces of the box are surface
   wherever they are set: what lies beyond is zero or outside of the image. */
static int64_t bmvpi_surface(const unsigned char *mask, const int64_t dim[3], const int64_t low[3],
                             const int64_t box[3], unsigned char *out)
{
    int64_t z, y, n = 0;
    for (z = 0; z < box[0]; ++z)
        for (y = 0; y < box[1]; ++y, out += box[2]) {
            const int inside = z > 0 && z < box[0] - 1 && y > 0 && y < box[1] - 1;
            const unsigned char *row = mask + ((low[0] + z) * dim[1] + low[1] + y) * dim[2] + low[2];
            n += bmvpi_surface_row(row, box[2], inside ? dim[2] : 0, dim[1] * dim[2], out);
        }
    return n;
}

/* The least of `best` and what row y of a plane and the rows around it have, outwards until no farther one can be
   less. x: a column of squares in steps along W; base: mm^2 of the way to that plane. */
static double bmvpi_edt_search(bmvpi_edt *e, const float *x, const int64_t dim[3], int64_t y, double base, double best)
{
    double far = base;
    int64_t k;
    for (k = 0; (k <= y || y + k < dim[1]) && far < best; ++k, far = base + e->w[1] * (double)k * (double)k) {
        const double a = k <= y ? e->w[2] * (double)x[(y - k) * dim[2]] + far : best;
        const double b = y + k < dim[1] ? e->w[2] * (double)x[(y + k) * dim[2]] + far : best;
        best = a < best ? a : best;
        best = b < best ? b : best;
    }
    e->looked += k;
    return best;
}

/* The same in plane z and the planes around it. at: the column in plane z. */
static double bmvpi_edt_search_disc(bmvpi_edt *e, const float *at, const int64_t dim[3], int64_t z, int64_t y,
                                    double best)
{
    const int64_t plane = dim[1] * dim[2];
    double far = 0;
    int64_t k;
    for (k = 0; (k <= z || z + k < dim[0]) && far < best; ++k, far = e->w[0] * (double)k * (double)k) {
        if (k <= z) best = bmvpi_edt_search(e, at - k * plane, dim, y, far, best);
        if (k > 0 && z + k < dim[0]) best = bmvpi_edt_search(e, at + k * plane, dim, y, far, best);
    }
    return best;
}

/* Distances of the voxels of `from` to the surface whose distances within rows are `squared`, each from a search
   around it: little work while the surfaces are close. The distance of the voxel before and the way from there are a
   bound. 0: given up, they are not close. */
static int bmvpi_surface_near(bmvpi_edt *e, const unsigned char *from, int64_t count, const float *squared,
                              const int64_t dim[3], float *out)
{
    const int64_t plane = dim[1] * dim[2], each = dim[0] * plane / count;
    int64_t z, y, x, last[3] = { 0, 0, 0 }, enough = dim[0] * plane / 8;
    double best = HUGE_VAL;
    e->looked = 0;
    for (z = 0; z < dim[0]; ++z)
        for (y = 0; y < dim[1]; ++y) {
            const unsigned char *row = from + z * plane + y * dim[2];
            for (x = bmvpi_next_set(row, 0, dim[2]); x < dim[2]; x = bmvpi_next_set(row, x + 1, dim[2])) {
                const double dz = (double)(z - last[0]), dy = (double)(y - last[1]), dx = (double)(x - last[2]);
                best = sqrt(best) + sqrt(e->w[0] * dz * dz + e->w[1] * dy * dy + e->w[2] * dx * dx);
                best *= best * (1 + 1e-6); /* rounding */
                best = bmvpi_edt_search_disc(e, squared + z * plane + x, dim, z, y, best);
                *out++ = (float)sqrt(best);
                last[0] = z, last[1] = y, last[2] = x;
                enough += each;
                if (e->looked > enough) return 0;
            }
        }
    return 1;
}

BMVPI_HOT static void bmvpi_or(unsigned char *BMVP_RESTRICT to, const unsigned char *BMVP_RESTRICT x, int64_t n)
{
    int64_t i;
    for (i = 0; i < n; ++i) to[i] |= x[i];
}

/* The same for surfaces far apart (squared is used up): the transform, but only where columns hold voxels of `from`. */
static void bmvpi_surface_far(const bmvpi_edt *e, const unsigned char *from, float *squared, const int64_t dim[3],
                              float *out)
{
    const int64_t plane = dim[1] * dim[2];
    int64_t i, z;
    memset(e->wanted, 0, (size_t)dim[2]);
    for (i = 0; i < dim[0] * dim[1]; ++i) bmvpi_or(e->wanted, from + i * dim[2], dim[2]);
    bmvpi_edt_planes(e, dim, squared);
    for (i = 0; i < plane; ++i) {
        for (z = 0; z < dim[0] && !from[z * plane + i]; ++z) {}
        if (z < dim[0]) bmvpi_edt_column(e, 1, e->w[0], squared + i, dim[0], plane);
        for (; z < dim[0]; ++z)
            if (from[z * plane + i]) *out++ = (float)sqrt((double)squared[z * plane + i]);
    }
}

/* Number k (from 0) of the sorted values, none negative: their bits are in the same order. Digits of 11, 11 and 10
   bits, so the time does not depend on the values. */
static float bmvpi_select(const float *x, int64_t n, int64_t k)
{
    static const int shift[3] = { 21, 10, 0 }, width[3] = { 11, 11, 10 };
    int64_t count[1 << 11], i;
    uint32_t bits, known = 0, mask = 0;
    float value;
    int pass;
    for (pass = 0; pass < 3; ++pass) {
        const uint32_t digit = (1u << width[pass]) - 1;
        uint32_t d = 0;
        memset(count, 0, sizeof count);
        for (i = 0; i < n; ++i) {
            memcpy(&bits, &x[i], 4);
            if ((bits & mask) == known) ++count[bits >> shift[pass] & digit];
        }
        while (k >= count[d]) k -= count[d++];
        known |= d << shift[pass];
        mask |= digit << shift[pass];
    }
    memcpy(&value, &known, 4);
    return value;
}

/* torch.quantile (linear) in its own float32 arithmetic; 0 means the maximum, as in MONAI. */
static float bmvpi_surface_quantile(const float *x, int64_t n, double percentile)
{
    const float rank = (float)(percentile / 100) * (float)(n - 1);
    const int64_t below = bmvpi_min((int64_t)rank, n - 1), above = bmvpi_min((int64_t)ceil((double)rank), n - 1);
    const float part = rank - (float)below;
    float low, high;
    if (percentile <= 0 || percentile >= 100) return bmvpi_select(x, n, n - 1);
    low = bmvpi_select(x, n, below);
    high = above > below ? bmvpi_select(x, n, above) : low;
    return part < 0.5f ? low + part * (high - low) : high - (high - low) * (1 - part);
}

static double bmvpi_hausdorff_empty(int found, double percentile, bmvp_empty_rule rule)
{
    if (rule == BMVP_EMPTY_BRATS) return found ? BMVPI_BRATS_FAR : 0;
    return found && (percentile <= 0 || percentile >= 100) ? HUGE_VAL : (double)NAN;
}

BMVP_API bmvp_status bmvp_hausdorff(const unsigned char *prediction, const unsigned char *truth, const int64_t dim[3],
                                    const double mm[3], double percentile, bmvp_empty_rule rule,
                                    const bmvp_allocator *a, double *out)
{
    const bmvp_allocator al = bmvpi_allocator_or_libc(a);
    const unsigned char *mask[2] = { prediction, truth };
    int64_t low[3], box[3], n, edt, count[2];
    unsigned char *memory, *surface[2];
    float *squared, *distance, far[2];
    bmvpi_edt e;
    int i, found;
    *out = (double)NAN;
    if (bmvpi_volume(dim, mm) < 0 || !(percentile >= 0 && percentile <= 100)) return BMVP_E_ARG;
    found = bmvpi_union_box(mask, dim, low, box);
    if (found != 3) {
        *out = bmvpi_hausdorff_empty(found, percentile, rule);
        return BMVP_OK;
    }
    for (i = 0; i < 3; ++i) box[i] -= low[i];
    n = box[0] * box[1] * box[2];
    surface[0] = (unsigned char *)bmvpi_alloc_array(&al, n, 2);
    if (!surface[0]) return BMVP_E_OOM;
    surface[1] = surface[0] + n;
    for (i = 0; i < 2; ++i) count[i] = bmvpi_surface(mask[i], dim, low, box, surface[i]);
    edt = bmvpi_edt_bytes(box);
    memory = (unsigned char *)bmvpi_alloc_array(&al, edt + (n + bmvpi_max(count[0], count[1])) * 4, 1);
    if (memory) {
        bmvpi_edt_init(&e, box, mm, memory);
        squared = (float *)(void *)(memory + edt);
        distance = squared + n;
        for (i = 0; i < 2; ++i) {
            bmvpi_edt_rows(&e, surface[!i], box, squared);
            if (!bmvpi_surface_near(&e, surface[i], count[i], squared, box, distance))
                bmvpi_surface_far(&e, surface[i], squared, box, distance);
            far[i] = bmvpi_surface_quantile(distance, count[i], percentile);
        }
        *out = (double)(far[0] > far[1] ? far[0] : far[1]);
        al.free(memory, al.user);
    }
    al.free(surface[0], al.user);
    return memory ? BMVP_OK : BMVP_E_OOM;
}

/* ---- classification */

typedef struct bmvpi_scored { float score; int truth; } bmvpi_scored;

static int bmvpi_by_score(const void *a, const void *b)
{
    const float x = ((const bmvpi_scored *)a)->score, y = ((const bmvpi_scored *)b)->score;
    return x < y ? -1 : x > y;
}

/* Twice the pairs of one of each group that the score puts in order, ties half: whole numbers, so no rounding. */
static double bmvpi_auc(bmvpi_scored *s, int64_t n)
{
    int64_t i, k, below = 0, ones = 0, twice = 0;
    qsort(s, (size_t)n, sizeof *s, bmvpi_by_score);
    for (i = 0; i < n; i = k) {
        int64_t one = 0;
        for (k = i; k < n && s[k].score == s[i].score; ++k) one += s[k].truth;
        twice += one * (2 * below + (k - i - one));
        ones += one;
        below += k - i - one;
    }
    return ones > 0 && below > 0 ? (double)twice / (2.0 * (double)ones * (double)below) : (double)NAN;
}

BMVP_API double bmvp_auc(const float *score, const int *truth, int64_t n, const bmvp_allocator *a)
{
    const bmvp_allocator al = bmvpi_allocator_or_libc(a);
    bmvpi_scored *s = (bmvpi_scored *)bmvpi_alloc_array(&al, n, (int64_t)sizeof *s);
    double auc = (double)NAN;
    int64_t i;
    for (i = 0; s && i < n && score[i] == score[i]; ++i) {
        s[i].score = score[i];
        s[i].truth = truth[i] != 0;
    }
    if (s && i == n) auc = bmvpi_auc(s, n);
    if (s) al.free(s, al.user);
    return auc;
}

static double bmvpi_share(int64_t part, int64_t all) { return all > 0 ? (double)part / (double)all : (double)NAN; }

/* The most likely class, the first of equals. */
static int bmvpi_likeliest(const float *score, int classes)
{
    int k, best = 0;
    for (k = 1; k < classes; ++k)
        if (score[k] > score[best]) best = k;
    return best;
}

/* Adds weight times the figures of class k against the rest. guess: the likeliest class of each case. */
static void bmvpi_class_figures(const float *score, const int *truth, const int *guess, int64_t n, int classes, int k,
                                double weight, bmvpi_scored *s, bmvp_class_metrics *out)
{
    int64_t count[2][2] = { { 0, 0 }, { 0, 0 } }, i; /* by truth and prediction */
    for (i = 0; i < n; ++i) {
        s[i].score = score[i * classes + k];
        s[i].truth = truth[i] == k;
        ++count[s[i].truth][guess[i] == k];
    }
    out->auc += weight * bmvpi_auc(s, n);
    out->f1 += weight * bmvpi_share(2 * count[1][1], 2 * count[1][1] + count[0][1] + count[1][0]);
    out->sensitivity += weight * bmvpi_share(count[1][1], count[1][0] + count[1][1]);
    out->specificity += weight * bmvpi_share(count[0][0], count[0][0] + count[0][1]);
}

BMVP_API bmvp_status bmvp_classification(const float *score, const int *truth, int64_t n, int classes,
                                         const bmvp_allocator *a, bmvp_class_metrics *out)
{
    const bmvp_allocator al = bmvpi_allocator_or_libc(a);
    bmvpi_scored *s;
    int64_t i, right = 0;
    int k, *guess;
    out->accuracy = out->auc = out->f1 = out->sensitivity = out->specificity = (double)NAN;
    if (n < 1 || classes < 2 || bmvpi_mul_size(n, classes) < 0) return BMVP_E_ARG;
    for (i = 0; i < n; ++i)
        if (truth[i] < 0 || truth[i] >= classes) return BMVP_E_ARG;
    for (i = 0; i < n * classes; ++i)
        if (score[i] != score[i]) return BMVP_E_ARG;
    s = (bmvpi_scored *)bmvpi_alloc_array(&al, n, (int64_t)(sizeof *s + sizeof *guess));
    if (!s) return BMVP_E_OOM;
    guess = (int *)(void *)(s + n);
    for (i = 0; i < n; ++i) {
        guess[i] = bmvpi_likeliest(score + i * classes, classes);
        right += guess[i] == truth[i];
    }
    out->accuracy = bmvpi_share(right, n);
    out->auc = out->f1 = out->sensitivity = out->specificity = 0;
    for (k = classes == 2; k < classes; ++k)
        bmvpi_class_figures(score, truth, guess, n, classes, k, classes == 2 ? 1 : 1.0 / classes, s, out);
    al.free(s, al.user);
    return BMVP_OK;
}

/* ---- bootstrap */

static int bmvpi_by_double(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

/* numpy.percentile (linear) of sorted values. */
static double bmvpi_percentile(const double *x, int64_t n, double percentile)
{
    const double rank = percentile / 100 * (double)(n - 1), part = rank - floor(rank);
    const int64_t i = (int64_t)rank;
    return part > 0 && x[i + 1] > x[i] ? x[i] + part * (x[i + 1] - x[i]) : x[i]; /* equal infinities stay */
}

static double bmvpi_resampled_mean(const double *x, int64_t n, uint64_t seed, int64_t number)
{
    bmvp_rng r = bmvp_rng_make(seed, BMVPI_STREAM_BOOTSTRAP, (uint32_t)number, 0);
    double sum = 0;
    int64_t i;
    for (i = 0; i < n; ++i) sum += x[bmvp_rng_below(&r, (uint32_t)n)];
    return sum / (double)n;
}

BMVP_API bmvp_status bmvp_bootstrap(const double *value, int64_t n, int resamples, uint64_t seed,
                                    const bmvp_allocator *a, bmvp_interval *out)
{
    const bmvp_allocator al = bmvpi_allocator_or_libc(a);
    double *x, *mean, sum = 0;
    int64_t i, used = 0;
    out->mean = out->low = out->high = (double)NAN;
    out->n_used = 0;
    if (n < 0 || n > 0xffffffff || resamples < 1) return BMVP_E_ARG;
    x = (double *)bmvpi_alloc_array(&al, n + resamples, (int64_t)sizeof *x);
    if (!x) return BMVP_E_OOM;
    mean = x + n;
    for (i = 0; i < n; ++i)
        if (value[i] == value[i]) sum += x[used++] = value[i];
    for (i = 0; i < resamples && used > 0; ++i) mean[i] = bmvpi_resampled_mean(x, used, seed, i);
    if (used > 0) {
        qsort(mean, (size_t)resamples, sizeof *mean, bmvpi_by_double);
        out->mean = sum / (double)used;
        out->low = bmvpi_percentile(mean, resamples, 2.5);
        out->high = bmvpi_percentile(mean, resamples, 97.5);
        out->n_used = used;
    }
    al.free(x, al.user);
    return BMVP_OK;
}

/* >>mirror: of volumes, for windows seen from several sides and for the crops of fine-tuning ----------------------- */

/* Mirrors x (dim voxels of n values) in place along the axes of `axes`: bit 0 x, bit 1 y, bit 2 z. */
static void bmvpi_flip(float *x, const int64_t dim[3], int n, int axes)
{
    int64_t z, y, k;
    int j;
    for (z = 0; z < dim[0]; ++z)
        for (y = 0; y < dim[1]; ++y)
            for (k = 0; k < dim[2]; ++k) {
                const int64_t to_z = axes & 4 ? dim[0] - 1 - z : z, to_y = axes & 2 ? dim[1] - 1 - y : y;
                const int64_t from = (z * dim[1] + y) * dim[2] + k;
                const int64_t to = (to_z * dim[1] + to_y) * dim[2] + (axes & 1 ? dim[2] - 1 - k : k);
                for (j = 0; j < n && to > from; ++j) {
                    const float v = x[from * n + j];
                    x[from * n + j] = x[to * n + j];
                    x[to * n + j] = v;
                }
            }
}

/* >>window impl ---------------------------------------------------------------------------------------------------- */

typedef struct bmvpi_scan {
    bmvp_ctx *c;
    const bmvp_window *w;
    const bmvp_window_calls *calls;
    const int64_t *dim;
    /* zeros before the volume; with them; steps; windows along each axis */
    int64_t low[3], padded[3], interval[3], count[3];
    int channels, outputs;
    float *map, *in, *view, *pred; /* importance of each place; a batch of windows, mirrored, predicted */
    float *sum, *norm, *plane;     /* ring of roi planes: weighted sums and weights; one plane to hand out */
    int64_t done;                  /* padded planes below this one were handed out */
} bmvpi_scan;

/* Along axis a: one window when the roi covers it, else steps of roi (1 - overlap), the last one flush with the end. */
static void bmvpi_scan_axis(bmvpi_scan *s, int a)
{
    const int64_t roi = s->w->roi[a], missing = roi - s->dim[a];
    s->low[a] = missing > 0 ? missing / 2 : 0;
    s->padded[a] = bmvpi_max(roi, s->dim[a]);
    s->interval[a] = roi == s->padded[a] ? roi : bmvpi_max(1, (int64_t)((double)roi * (1.0 - s->w->overlap)));
    s->count[a] = bmvpi_ceil_div(s->padded[a] - roi, s->interval[a]) + 1;
}
static int64_t bmvpi_scan_start(const bmvpi_scan *s, int a, int64_t i)
{
    return bmvpi_min(i * s->interval[a], s->padded[a] - s->w->roi[a]);
}

/* exp(-x^2 / (2 sigma^2)) about the middle, sigma an eighth of the roi, in each axis; not below the larger of 1e-3
   and its own least. */
static void bmvpi_scan_map(bmvpi_scan *s)
{
    const int64_t *r = s->w->roi, n = r[0] * r[1] * r[2];
    float least = 1;
    int64_t i;
    int a;
    for (i = 0; i < n; ++i) {
        const int64_t at[3] = { i / (r[1] * r[2]), i / r[2] % r[1], i % r[2] };
        s->map[i] = 1;
        for (a = 2; a >= 0 && s->w->gaussian; --a) { /* x first, as the arrays of MONAI */
            const double x = (double)at[a] - (double)(r[a] - 1) / 2, sigma = 0.125 * (double)r[a];
            s->map[i] *= (float)exp(-x * x / (2 * sigma * sigma));
        }
        least = s->map[i] < least ? s->map[i] : least;
    }
    least = least > 1e-3f ? least : 1e-3f;
    for (i = 0; i < n; ++i) s->map[i] = s->map[i] < least ? least : s->map[i];
}

static int bmvpi_scan_alloc(bmvpi_scan *s)
{
    const int64_t roi = bmvpi_mul_size(bmvpi_mul_size(s->w->roi[0], s->w->roi[1]), s->w->roi[2]),
                  f = (int64_t)sizeof(float);
    const int64_t ring = bmvpi_mul_size(bmvpi_mul_size(s->padded[1], s->padded[2]), s->w->roi[0]);
    const int64_t windows = bmvpi_mul_size(roi, s->w->batch);
    const int64_t in = bmvpi_mul_size(windows, s->channels), out = bmvpi_mul_size(windows, s->outputs);
    s->map = (float *)bmvpi_alloc(s->c, bmvpi_mul_size(roi, f));
    s->in = (float *)bmvpi_alloc(s->c, bmvpi_mul_size(in, f));
    if (s->w->mirror) s->view = (float *)bmvpi_alloc(s->c, bmvpi_mul_size(bmvpi_max(in, out), f));
    s->pred = (float *)bmvpi_alloc(s->c, bmvpi_mul_size(out, f));
    s->sum = (float *)bmvpi_alloc(s->c, bmvpi_mul_size(bmvpi_mul_size(ring, s->outputs), f));
    s->norm = (float *)bmvpi_alloc(s->c, bmvpi_mul_size(ring, f));
    s->plane = (float *)bmvpi_alloc(s->c, bmvpi_mul_size(bmvpi_mul_size(s->dim[1], s->dim[2]), s->outputs * f));
    if (bmvp_failed(s->c)) return 0;
    memset(s->sum, 0, (size_t)(ring * s->outputs) * sizeof(float));
    memset(s->norm, 0, (size_t)ring * sizeof(float));
    return 1;
}

/* Hands out the padded planes below `end`, as far as they belong to the volume, and clears their place in the ring. */
static bmvp_status bmvpi_scan_finish(bmvpi_scan *s, int64_t end)
{
    const int64_t area = s->padded[1] * s->padded[2];
    bmvp_status st = BMVP_OK;
    int64_t y, x;
    int k;
    for (; s->done < end && !st; ++s->done) {
        float *sum = s->sum + s->done % s->w->roi[0] * area * s->outputs,
              *norm = s->norm + s->done % s->w->roi[0] * area, *to = s->plane;
        const int64_t z = s->done - s->low[0];
        for (y = 0; y < s->dim[1] && z >= 0 && z < s->dim[0]; ++y)
            for (x = 0; x < s->dim[2]; ++x) {
                const int64_t at = (y + s->low[1]) * s->padded[2] + x + s->low[2];
                for (k = 0; k < s->outputs; ++k) *to++ = sum[at * s->outputs + k] / norm[at];
            }
        if (z >= 0 && z < s->dim[0]) st = s->calls->planes(s->calls->user, z, 1, s->plane);
        memset(sum, 0, (size_t)(area * s->outputs) * sizeof(float));
        memset(norm, 0, (size_t)area * sizeof(float));
    }
    return st;
}

static void bmvpi_scan_add(bmvpi_scan *s, const int64_t start[3], const float *pred)
{
    const int64_t *r = s->w->roi;
    const float *map = s->map;
    int64_t z, y, x;
    int k;
    for (z = 0; z < r[0]; ++z)
        for (y = 0; y < r[1]; ++y) {
            const int64_t at = ((start[0] + z) % r[0] * s->padded[1] + start[1] + y) * s->padded[2] + start[2];
            float *sum = s->sum + at * s->outputs, *norm = s->norm + at;
            for (x = 0; x < r[2]; ++x, ++map) {
                norm[x] += *map;
                for (k = 0; k < s->outputs; ++k) *sum++ += *map * *pred++;
            }
        }
}

/* Windows in s->in -> s->pred; all flips of the axes in w->mirror are averaged. */
static bmvp_status bmvpi_scan_predict(bmvpi_scan *s, int n)
{
    const int64_t *r = s->w->roi, voxels = r[0] * r[1] * r[2], dim[5] = { n, r[0], r[1], r[2], s->channels };
    const int64_t outputs = n * voxels * s->outputs;
    int axes, views = 0, i;
    int64_t v;
    for (axes = 0; axes < 8; ++axes) {
        float *in = axes ? s->view : s->in, *out = axes ? s->view : s->pred;
        bmvp_tensor *y;
        if (axes & ~s->w->mirror) continue;
        if (axes) memcpy(in, s->in, (size_t)(n * voxels * s->channels) * sizeof(float));
        for (i = 0; i < n && axes; ++i) bmvpi_flip(in + i * voxels * s->channels, r, s->channels, axes);
        bmvp_step_begin(s->c);
        y = s->calls->predict(s->calls->user, bmvp_input(s->c, 5, dim, in));
        if (y && y->numel != outputs)
            bmvp_fail(s->c, BMVP_E_SHAPE, "sliding window: %lld predicted values for %lld voxels of %d outputs",
                      (long long)y->numel, (long long)(n * voxels), s->outputs);
        if (!y && !bmvp_failed(s->c)) bmvp_fail(s->c, BMVP_E_STATE, "sliding window: nothing was predicted");
        if (bmvp_failed(s->c)) return bmvp_error_of(s->c)->status;
        (void)bmvp_read(s->c, y, out);
        ++views;
        for (i = 0; i < n && axes; ++i) bmvpi_flip(out + i * voxels * s->outputs, r, s->outputs, axes);
        for (v = 0; v < outputs && axes; ++v) s->pred[v] += out[v];
    }
    for (v = 0; v < outputs && views > 1; ++v) s->pred[v] /= (float)views;
    return bmvp_error_of(s->c)->status;
}

static bmvp_status bmvpi_scan_run(bmvpi_scan *s)
{
    const int64_t *r = s->w->roi, voxels = r[0] * r[1] * r[2], n = s->count[0] * s->count[1] * s->count[2];
    int64_t start[3], from[3], i, first;
    bmvp_status st = BMVP_OK;
    int a, b, batch;
    for (first = 0; first < n && !st; first += batch) {
        batch = (int)bmvpi_min(s->w->batch, n - first);
        for (b = 0; b < 2 * batch && !st; ++b) { /* all are read, then all are added */
            i = first + b % batch;
            if (b == batch) st = bmvpi_scan_predict(s, batch);
            start[0] = bmvpi_scan_start(s, 0, i / (s->count[1] * s->count[2]));
            start[1] = bmvpi_scan_start(s, 1, i / s->count[2] % s->count[1]);
            start[2] = bmvpi_scan_start(s, 2, i % s->count[2]);
            for (a = 0; a < 3; ++a) from[a] = start[a] - s->low[a];
            if (b < batch) {
                st = s->calls->read(s->calls->user, from, s->in + b * voxels * s->channels);
                continue;
            }
            if (!st) st = bmvpi_scan_finish(s, start[0]); /* no later window touches the planes before this one */
            if (!st) bmvpi_scan_add(s, start, s->pred + (b - batch) * voxels * s->outputs);
        }
        if (!st) st = bmvp_progress(s->c, "windows", first + batch, n);
    }
    return st ? st : bmvpi_scan_finish(s, s->padded[0]);
}

BMVP_API bmvp_status bmvp_sliding_window(bmvp_ctx *c, const bmvp_window *w, const int64_t dim[3], int channels,
                                         int outputs, const bmvp_window_calls *calls)
{
    bmvp_status st = BMVP_OK;
    bmvpi_scan s;
    int a, was,
        ok = w->batch >= 1 && w->overlap >= 0 && w->overlap < 1 && w->mirror >= 0 && w->mirror < 8 && channels >= 1 &&
             outputs >= 1;
    if (bmvp_failed(c)) return bmvp_error_of(c)->status;
    for (a = 0; a < 3; ++a)
        ok = ok && w->roi[a] >= 1 && dim[a] >= 1 && dim[a] < INT64_MAX / 4 && w->roi[a] < INT64_MAX / 4;
    if (!ok) {
        bmvp_fail(c, BMVP_E_ARG,
                  "sliding window: roi, volume, batch, channels and outputs must be at least 1, the overlap in [0, 1), "
                  "mirror 0 to 7");
        return BMVP_E_ARG;
    }
    memset(&s, 0, sizeof s);
    s.c = c;
    s.w = w;
    s.calls = calls;
    s.dim = dim;
    s.channels = channels;
    s.outputs = outputs;
    for (a = 0; a < 3; ++a) bmvpi_scan_axis(&s, a);
    was = bmvp_set_grad(c, 0);
    if (bmvpi_scan_alloc(&s)) {
        bmvpi_scan_map(&s);
        st = bmvpi_scan_run(&s);
        bmvp_step_begin(c);
    }
    (void)bmvp_set_grad(c, was);
    bmvpi_free(c, s.map);
    bmvpi_free(c, s.in);
    bmvpi_free(c, s.view);
    bmvpi_free(c, s.pred);
    bmvpi_free(c, s.sum);
    bmvpi_free(c, s.norm);
    bmvpi_free(c, s.plane);
    return st ? st : bmvp_error_of(c)->status;
}

/* >>finetune impl -------------------------------------------------------------------------------------------------- */

static void bmvpi_ft_paper(bmvp_ft_config *k, bmvp_net_task task, const bmvp_net_kind *kind)
{
    const int segment = task == BMVP_TASK_SEGMENT;
    k->crop_x = k->crop_y = 96;
    k->crop_z = segment ? 96 : 64;
    k->copies = 1;
    k->copy_weight = 1;
    k->mask_patch = 8;
    k->mask_ratio = 0.875;
    k->consistency_weight = 0.1;
    k->dice_weight = segment;
    k->ce_weight = !segment;
    k->dice_smooth = 1e-5;
    k->deep_supervision = segment && kind && kind->deep;
    k->flip = 0.5;
    k->intensity_shift = k->intensity_scale = 0.1;
    k->batch = segment ? 3 : 4;
    k->update_every = segment ? 1 : 16;
    k->epochs = segment ? 500 : 200;
    k->validate_every = 5;
    k->lr = 3e-4;
    k->encoder_lr_scale = 1;
    k->weight_decay = kind ? kind->weight_decay : 1e-5;
    k->beta1 = 0.9;
    k->beta2 = 0.999;
    k->overlap = 0.5;
}

static void bmvpi_ft_release(bmvp_ft_config *k)
{
    k->copy_weight = 0.5;
    k->consistency_on = k->deep_supervision;
    k->optimizer = 2;
    if (k->dice_weight <= 0) return; /* classification */
    k->dice_weight = 0.7;
    k->ce_weight = 0.3;
    k->dice_squared = 1;
    k->dice_smooth = 1;
    k->dice_batch = 1;
}

static void bmvpi_ft_fast(bmvp_ft_config *k)
{
    k->crop_on_label = 0.5;
    k->head_prior = 0.02;
    k->whole_share = 0.5; /* or the network never sees what most patients have: all modalities */
    k->consistency_weight = 0;
    k->ce_weight = 1;
    k->update_every = 1;
    k->epochs = 100;
    k->lr = 1e-3;
    k->warmup = 20;
    k->clip = 1;
}

BMVP_API int bmvp_ft_preset(const char *name, bmvp_net_task task, const char *kind, bmvp_ft_config *cfg)
{
    memset(cfg, 0, sizeof *cfg);
    bmvpi_ft_paper(cfg, task, bmvp_net_kind_find(NULL, kind));
    if (strcmp(name, "release") == 0) bmvpi_ft_release(cfg);
    else if (strcmp(name, "fast") == 0) bmvpi_ft_fast(cfg);
    else if (strcmp(name, "paper") != 0) return 0;
    snprintf(cfg->preset, sizeof cfg->preset, "%s", name);
    return 1;
}

BMVP_API void bmvp_ft_sample(const bmvp_ft_config *cfg, const bmvp_ssl_case *cases, int64_t n_cases, int64_t step,
                             int64_t *order, bmvp_ft_draw *out)
{
    bmvp_ft_sample_at(cfg, cases, n_cases, step, step * cfg->batch, order, out);
}

BMVP_API void bmvp_ft_sample_at(const bmvp_ft_config *cfg, const bmvp_ssl_case *cases, int64_t n_cases, int64_t step,
                                int64_t samples, int64_t *order, bmvp_ft_draw *out)
{
    const int64_t crop[3] = { cfg->crop_z, cfg->crop_y, cfg->crop_x };
    int64_t epoch = -1;
    int i, a;
    for (i = 0; i < cfg->batch; ++i) {
        const int64_t at = samples + i;
        bmvp_rng r = bmvp_rng_make((uint64_t)cfg->seed, BMVPI_STREAM_DRAW, (uint32_t)step, (uint32_t)i);
        bmvp_ft_draw *d = &out[i];
        if (epoch != at / n_cases) bmvpi_case_order(cfg->seed, n_cases, epoch = at / n_cases, order);
        d->index = order[at % n_cases];
        d->slot = (uint32_t)i;
        for (a = 0; a < 3; ++a) d->crop[a] = bmvpi_crop_start(cases[d->index].dim[a] - crop[a], &r);
        d->on_label = (double)bmvp_rng_uniform(&r) < cfg->crop_on_label;
        d->pick = (double)bmvp_rng_uniform(&r);
    }
}

#define BMVPI_FT_FIELD(type, name, low, high, text) BMVP_FIELD(bmvp_ft_config, type, name, low, high, text)
static const bmvp_field bmvpi_ft_fields[] = { BMVP_FT_FIELDS(BMVPI_FT_FIELD) BMVP_RUN_FIELDS(BMVPI_FT_FIELD)
                                                  BMVP_FIELDS_END };

BMVP_API bmvp_status bmvp_ft_set(bmvp_ft_config *cfg, const char *name, const char *value, bmvp_error *err)
{
    return bmvp_field_set(bmvpi_ft_fields, cfg, name, value, err);
}

BMVP_API int bmvp_ft_field(const bmvp_ft_config *cfg, int i, const char **name, const char **meaning, char *buf,
                           size_t size)
{
    return bmvp_field_get(bmvpi_ft_fields, cfg, i, name, meaning, buf, size);
}

struct bmvp_ft { /* the state of the method */
    bmvp_trainer *t;
    /* host: of the templates, which are read on the CPU; c unless c has a device */
    bmvp_ctx *c, *host;
    bmvp_net *net;
    bmvp_ft_config *cfg;                         /* the trainer's */
    bmvp_labels labels;
    int n_modalities, modality[BMVP_MODALITIES]; /* known index of each, ascending where it trains */
    bmvp_state_list templates;                   /* one entry a modality, or none at all */
    int64_t grid[3];
    float *input, *target, *mask, *class_weight; /* of a batch, channels last; one crop; outputs numbers or NULL */
    float *judged;                               /* of a batch, a number an output; where a label is ignored */
    int logits;                                  /* windows are averaged before they become probabilities */
    int32_t *category;                           /* class of each voxel (or case) of a batch */
};
typedef struct bmvpi_ft_setup {
    const bmvp_labels *labels;
    int n;
    const char *const *names;
    const int64_t *grid;
    int ordered; /* the names must be in the known order */
} bmvpi_ft_setup;

static int64_t bmvpi_ft_voxels(const bmvp_ft_config *k) { return (int64_t)k->crop_x * k->crop_y * k->crop_z; }
static int bmvpi_ft_segments(const bmvp_ft *f) { return f->t->net_config.task == BMVP_TASK_SEGMENT; }
static int bmvpi_ft_ignores(const bmvp_ft *f) { return bmvpi_ft_segments(f) && f->labels.ignore; }

static int bmvpi_ft_check_config(bmvp_ctx *c, const bmvp_net_config *net, const bmvp_ft_config *cfg,
                                 const bmvp_labels *labels)
{
    const bmvp_net_kind *kind = bmvp_net_kind_find(c, net->kind);
    if (!kind) bmvp_fail(c, BMVP_E_ARG, "%s: there is no network '%s'", net->name, net->kind);
    else if (net->task != BMVP_TASK_SEGMENT && net->task != BMVP_TASK_CLASSIFY)
        bmvp_fail(c, BMVP_E_ARG, "fine-tuning needs a network whose task is segmentation or classification");
    else if (net->task == BMVP_TASK_SEGMENT && (!labels || labels->n < 1))
        bmvp_fail(c, BMVP_E_ARG, "segmentation needs a definition of its labels");
    else if (cfg->dice_weight <= 0 && cfg->ce_weight <= 0)
        bmvp_fail(c, BMVP_E_ARG, "the loss is empty: give dice_weight or ce_weight a value");
    else if (net->task == BMVP_TASK_CLASSIFY && cfg->ce_weight <= 0)
        bmvp_fail(c, BMVP_E_ARG, "classification needs ce_weight above 0");
    else if (cfg->consistency_on && !(net->task == BMVP_TASK_SEGMENT && kind->deep && cfg->deep_supervision))
        bmvp_fail(
            c, BMVP_E_ARG,
            "consistency_on = 1 compares quarter-scale logits: it needs a network that has them, such as a "
            "UniFormer, and that segments with deep_supervision = 1; consistency_on = 0 works with every network");
    return !bmvp_failed(c);
}

static void bmvpi_ft_make_templates(bmvp_ft *f, const int64_t grid[3])
{
    const int64_t dim[3] = { grid[2], grid[1], grid[0] }; /* the released order is X, Y, Z */
    int m;
    memcpy(f->grid, grid, sizeof f->grid);
    for (m = 0; m < f->n_modalities && !bmvp_failed(f->host); ++m)
        (void)bmvp_state_add(f->host, &f->templates, bmvp_modality_name(f->modality[m]), BMVP_LAYOUT_VOLUME, 3, dim, 0,
                             BMVP_INIT_ZERO, 0);
    for (m = 0; m < f->templates.n; ++m) bmvp_fill(f->host, f->templates.item[m].t, 0);
    if (bmvp_failed(f->host)) bmvp_fail(f->c, bmvp_error_of(f->host)->status, "%s", bmvp_error_of(f->host)->message);
}

static bmvp_ctx *bmvpi_ft_host(bmvp_ctx *c)
{
    bmvp_config k = c->cfg;
    bmvp_error err;
    bmvp_ctx *host;
    if (bmvp_on_host(c)) return c;
    k.backend = NULL;
    k.threads = 1;
    host = bmvp_create(&k, &err);
    if (!host) bmvp_fail(c, err.status, "%s", err.message);
    return host;
}

/* What the trainer calls before there is a network, */
static void bmvpi_ft_prepare(bmvp_trainer *t)
{
    const bmvpi_ft_setup *u = (const bmvpi_ft_setup *)t->setup;
    bmvp_ft *f = (bmvp_ft *)t->state;
    bmvp_net_config *k = &t->net_config;
    int i;
    f->t = t;
    f->c = t->c;
    f->cfg = (bmvp_ft_config *)t->config;
    if (!bmvpi_ft_check_config(t->c, k, f->cfg, u->labels) || !bmvpi_check_modalities(t->c, u->n, u->names, u->ordered))
        return;
    f->host = bmvpi_ft_host(t->c);
    if (u->labels) f->labels = *u->labels;
    f->n_modalities = u->n;
    for (i = 0; i < u->n; ++i) f->modality[i] = bmvp_modality_find(u->names[i]);
    k->in_channels = u->n;
    if (k->task == BMVP_TASK_SEGMENT) k->outputs = bmvp_labels_outputs(u->labels);
    k->deep_supervision =
        k->task == BMVP_TASK_SEGMENT && bmvp_net_kind_find(t->c, k->kind)->deep && f->cfg->deep_supervision;
}

/* when it has no values yet, */
static void bmvpi_ft_make(bmvp_trainer *t)
{
    const bmvpi_ft_setup *u = (const bmvpi_ft_setup *)t->setup;
    bmvp_ft *f = (bmvp_ft *)t->state;
    const bmvp_ft_config *k = f->cfg;
    bmvp_state_list *l = bmvp_net_state(t->net);
    const int stride = (int)bmvp_net_stride(t->net);
    int i;
    f->net = t->net;
    if (k->crop_x % stride || k->crop_y % stride || k->crop_z % stride)
        bmvp_fail(t->c, BMVP_E_ARG, "crop %dx%dx%d: each side must be a multiple of %d for %s", k->crop_x, k->crop_y,
                  k->crop_z, stride, t->net_config.name);
    if (f->host && u->grid && u->grid[0] > 0 && !bmvp_failed(t->c)) bmvpi_ft_make_templates(f, u->grid);
    bmvp_trainer_keep(t, "templates", f->host, &f->templates);
    for (i = 0; i < l->n; ++i)
        if (bmvp_net_in_part(t->net, l->item[i].name, BMVP_PART_ENCODER)) l->item[i].lr_scale = k->encoder_lr_scale;
}

/* Heads as the release starts them give first logits of about 6: with rare regions, hundreds of steps go into
   unlearning them. Here weights start as PyTorch's Linear and biases at the prior, log(p / (1 - p)) of a region, log
   p of a class beside the background. */
static void bmvpi_ft_calm_heads(bmvp_ft *f)
{
    const bmvp_state_list *l = bmvp_net_state(f->net);
    const double p = f->cfg->head_prior;
    int i;
    for (i = 0; i < l->n && p > 0 && bmvpi_ft_segments(f); ++i) {
        bmvp_state s = l->item[i];
        if (!bmvp_net_in_part(f->net, s.name, BMVP_PART_HEAD)) continue;
        s.init = BMVP_INIT_UNIFORM_IN;
        s.fan = s.torch_rank > 1 ? s.torch_dim[1] : 1;
        bmvp_state_init(f->c, &s, (uint64_t)f->cfg->seed, (uint32_t)(1000 + i));
        if (s.torch_rank > 1) continue;
        bmvp_fill(f->c, s.t, (float)(f->labels.exclusive ? log(p) : log(p / (1 - p))));
        if (f->labels.exclusive && s.t->x) bmvpi_values_fill(f->c, s.t->x, 0.0f, 1); /* the background */
    }
}

/* Memory of a batch; what prediction needs not is not there. */
static void bmvpi_ft_make_batch(bmvp_ft *f)
{
    const int64_t n = bmvpi_ft_voxels(f->cfg), batch = f->cfg->batch, segments = bmvpi_ft_segments(f);
    f->input = bmvpi_scratch(f->c, bmvpi_mul_size(batch * n, f->n_modalities));
    f->mask = bmvpi_scratch(f->c, n);
    f->category = (int32_t *)(void *)bmvpi_scratch(f->c, segments ? batch * n : batch);
    if (segments) f->target = bmvpi_scratch(f->c, bmvpi_mul_size(batch * n, f->labels.n));
    if (bmvpi_ft_ignores(f))
        f->judged = bmvpi_scratch(f->c, bmvpi_mul_size(batch * n, bmvp_labels_outputs(&f->labels)));
}

/* and when it has. */
static void bmvpi_ft_start(bmvp_trainer *t)
{
    bmvp_ft *f = (bmvp_ft *)t->state;
    bmvpi_ft_calm_heads(f);
    if (t->optim) bmvpi_ft_make_batch(f);
}

static void bmvpi_ft_end(bmvp_trainer *t)
{
    bmvp_ft *f = (bmvp_ft *)t->state;
    if (f->host) bmvpi_free(f->host, f->templates.item);
    if (f->host != f->c) bmvp_destroy(f->host);
    bmvpi_free(t->c, f->class_weight);
}

BMVP_API void bmvp_ft_class_weights(bmvp_ft *f, const float *weight)
{
    const int64_t bytes = bmvp_net_config_of(f->net)->outputs * (int64_t)sizeof(float);
    bmvpi_free(f->c, f->class_weight);
    f->class_weight = weight ? (float *)bmvpi_alloc(f->c, bytes) : NULL;
    if (f->class_weight) memcpy(f->class_weight, weight, (size_t)bytes);
}

/* >>finetune start: from a pre-training checkpoint ----------------------------------------------------------------- */

/* Frozen templates are used as pre-training used them: normalised once if it normalised them in every step. */
static void bmvpi_ft_normalise(bmvp_tensor *t, double eps) /* t lies in the host's memory, as all templates here */
{
    float low = t->x[0], high = t->x[0];
    int64_t i;
    for (i = 1; i < t->numel; ++i) {
        low = t->x[i] < low ? t->x[i] : low;
        high = t->x[i] > high ? t->x[i] : high;
    }
    for (i = 0; i < t->numel; ++i)
        t->x[i] = (float)(((double)t->x[i] - (double)low) / ((double)high - (double)low + eps));
}

/* Where templates lie in a checkpoint: slices of the tensor `name` of `group`, one for each modality. */
typedef struct bmvpi_ft_source {
    int n;
    const char *names[BMVP_MODALITIES];
    int64_t grid[3];
    int fine_tuned, normalise;
    double eps;
} bmvpi_ft_source;

static bmvp_status bmvpi_ft_find_source(const char *path, bmvp_ckpt *f, bmvpi_ft_source *s, bmvp_error *err)
{
    const bmvp_ckpt_meta *format = bmvp_ckpt_find_meta(f, "", "format");
    bmvp_ssl_info pre;
    bmvp_ft_info fine;
    bmvp_status st;
    memset(s, 0, sizeof *s);
    s->fine_tuned = format && strcmp(format->value, bmvp_ft_method()->format) == 0;
    st = s->fine_tuned ? bmvp_ft_inspect(path, &fine, err) : bmvp_ssl_inspect(path, &pre, err);
    if (st) return st;
    s->n = s->fine_tuned ? fine.n_modalities : pre.n_modalities;
    memcpy(s->grid, s->fine_tuned ? fine.grid : pre.grid, sizeof s->grid);
    memcpy(s->names, s->fine_tuned ? fine.names : pre.names, sizeof s->names);
    if (s->grid[0] <= 0) s->n = 0;
    s->normalise = !s->fine_tuned && pre.cfg.template_value == BMVP_TEMPLATE_MINMAX;
    s->eps = s->fine_tuned ? 0 : pre.cfg.template_eps;
    return BMVP_OK;
}

static bmvp_status bmvpi_ft_take_template(bmvp_ft *f, bmvp_ckpt *file, const bmvpi_ft_source *s, int m, float *buf,
                                          bmvp_error *err)
{
    const char *name = bmvp_modality_name(f->modality[m]), *group = "templates";
    const int64_t n = f->templates.item[m].t->numel;
    bmvp_status st = BMVP_OK;
    int64_t i;
    int part, k;
    for (part = 0; part < s->n && strcmp(s->names[part], name) != 0; ++part) { }
    if (part == s->n)
        return bmvp_error_set(
            err, BMVP_E_FORMAT,
            "%s: no template of modality %s, which the task uses; pre-train with it, or set fill = 1 and "
            "copies = 0",
            file->path, name);
    if (!s->fine_tuned) st = bmvp_state_group(file, &group, err);
    k = st ? -1 : bmvp_ckpt_find(file, group, s->fine_tuned ? name : "rep_template");
    if (!st && k < 0) st = bmvp_error_set(err, BMVP_E_FORMAT, "%s: the template of %s is missing", file->path, name);
    if (!st) st = bmvp_ckpt_load_f32(file, k, s->fine_tuned ? 0 : part * n, n, buf, err);
    for (i = 0; i < n && !st; ++i)
        if (!(buf[i] - buf[i] <= 0)) /* it would make every result NaN without a word */
            st = bmvp_error_set(err, BMVP_E_FORMAT,
                                "%s: tensor '%s', the template of %s, holds %g: the run that wrote it has diverged; "
                                "take an earlier file",
                                file->path, file->entry[k].name, name, (double)buf[i]);
    if (st) return st;
    bmvp_state_from_torch(&f->templates.item[m], buf, f->templates.item[m].t->x);
    if (s->normalise) bmvpi_ft_normalise(f->templates.item[m].t, s->eps);
    return BMVP_OK;
}

static bmvp_status bmvpi_ft_take_templates(bmvp_ft *f, bmvp_ckpt *file, bmvp_error *err)
{
    bmvpi_ft_source s;
    bmvp_status st = bmvpi_ft_find_source(file->path, file, &s, err);
    float *buf;
    int m;
    if (st) return st;
    if (s.n == 0)
        return bmvp_error_set(err, BMVP_E_FORMAT,
                              "%s: it holds no templates; set fill = 1 and copies = 0 to do without", file->path);
    if (f->templates.n == 0) bmvpi_ft_make_templates(f, s.grid);
    if (bmvp_failed(f->c)) return bmvp_error_take(f->c, err);
    if (memcmp(f->grid, s.grid, sizeof f->grid) != 0)
        return bmvp_error_set(
            err, BMVP_E_SHAPE,
            "%s: its templates have %lldx%lldx%lld voxels, those of this run %lldx%lldx%lld (z, y, x)", file->path,
            (long long)s.grid[0], (long long)s.grid[1], (long long)s.grid[2], (long long)f->grid[0],
            (long long)f->grid[1], (long long)f->grid[2]);
    buf = (float *)bmvpi_alloc(f->c, f->templates.item[0].t->numel * (int64_t)sizeof(float));
    if (!buf) return bmvp_error_set(err, BMVP_E_OOM, "out of memory for a template");
    for (m = 0; m < f->n_modalities && !st; ++m) st = bmvpi_ft_take_template(f, file, &s, m, buf, err);
    bmvpi_free(f->c, buf);
    return st;
}

/* Is it a pre-training run's? Of a method whose channels are modalities (M3AE), those must be the task's. */
static bmvp_status bmvpi_ft_pretrained(const bmvp_ft *f, const bmvp_ckpt *file, int *is, bmvp_error *err)
{
    const bmvp_ckpt_meta *format = bmvp_ckpt_find_meta(file, "", "format");
    bmvp_ssl_info pre;
    bmvp_status st;
    int m;
    *is = format && strcmp(format->value, bmvp_ft_method()->format) != 0;
    if (!*is) return BMVP_OK;
    st = bmvp_ssl_inspect(file->path, &pre, err);
    if (st || pre.net.in_channels == 1 || pre.net.in_channels != pre.n_modalities) return st;
    for (m = 0; m < pre.n_modalities && m < f->n_modalities; ++m)
        if (strcmp(pre.names[m], bmvp_modality_name(f->modality[m])) != 0)
            return bmvp_error_set(err, BMVP_E_ARG,
                                  "%s: channel %d of its network is %s, of this task %s: the same modalities in the "
                                  "same order",
                                  file->path, m + 1, pre.names[m], bmvp_modality_name(f->modality[m]));
    return BMVP_OK;
}

BMVP_API bmvp_status bmvp_ft_init(bmvp_ft *f, const char *path, int spread_stem, bmvp_net_adoption *what,
                                  bmvp_error *err)
{
    bmvp_ckpt *file = NULL;
    int pretrained = 0;
    bmvp_status st = bmvp_ckpt_open(path, bmvp_allocator_of(f->c), &file, err);
    if (!st) st = bmvpi_ft_pretrained(f, file, &pretrained, err);
    if (!st && f->cfg->fill == 0) st = bmvpi_ft_take_templates(f, file, err);
    if (!st)
        st = bmvp_net_adopt(f->net, file,
                            (spread_stem ? BMVP_ADOPT_SPREAD : 0) | (pretrained ? BMVP_ADOPT_NEW_HEAD : 0), what, err);
    bmvp_ckpt_close(file);
    return st;
}

/* >>finetune copies: what the network sees ------------------------------------------------------------------------- */

/* Channel m of dst (dim voxels, channels last) becomes the template at `start`, or zeros; with a mask only where it
   is not 0. */
static void bmvpi_ft_fill(const bmvp_ft *f, int m, const int64_t start[3], const int64_t dim[3], const float *mask,
                          float *dst)
{
    const bmvp_tensor *t = f->cfg->fill == 0 && m < f->templates.n ? f->templates.item[m].t : NULL;
    const int64_t c = f->n_modalities;
    int64_t z, y, x, i = 0;
    for (z = 0; z < dim[0]; ++z)
        for (y = 0; y < dim[1]; ++y) {
            const int64_t tz = z + start[0], ty = y + start[1];
            const int row = t && tz >= 0 && tz < t->dim[0] && ty >= 0 && ty < t->dim[1];
            for (x = 0; x < dim[2]; ++x, ++i) {
                const int64_t tx = x + start[2];
                if (mask && mask[i] == 0.0f) continue;
                dst[i * c + m] = row && tx >= 0 && tx < t->dim[2] ? t->x[(tz * t->dim[1] + ty) * t->dim[2] + tx] : 0.0f;
            }
        }
}

static void bmvpi_ft_put(const float *from, int64_t n, float scale, float shift, int channels, float *dst)
{
    int64_t i;
    for (i = 0; i < n; ++i) dst[i * channels] = from[i] * scale + shift;
}

BMVP_API void bmvp_ft_input(const bmvp_ft *f, const float *const *image, const int64_t template_start[3],
                            const int64_t dim[3], float *dst)
{
    int m;
    for (m = 0; m < f->n_modalities; ++m)
        if (image[m]) bmvpi_ft_put(image[m], dim[0] * dim[1] * dim[2], 1, 0, f->n_modalities, dst + m);
        else bmvpi_ft_fill(f, m, template_start, dim, NULL, dst);
}

typedef struct bmvpi_ft_change { /* how one item is changed: the same for both copies */
    int flips;
    float scale[BMVP_MODALITIES], shift[BMVP_MODALITIES];
} bmvpi_ft_change;

static bmvpi_ft_change bmvpi_ft_draw_change(const bmvp_ft *f, uint32_t slot)
{
    bmvp_rng r = bmvp_rng_make((uint64_t)f->cfg->seed, BMVPI_STREAM_AUGMENT, (uint32_t)f->t->steps, slot);
    bmvpi_ft_change a;
    int i;
    a.flips = 0;
    for (i = 0; i < 3; ++i) a.flips |= ((double)bmvp_rng_uniform(&r) < f->cfg->flip) << i;
    for (i = 0; i < f->n_modalities; ++i) {
        a.scale[i] = 1.0f + (float)f->cfg->intensity_scale * (2.0f * bmvp_rng_uniform(&r) - 1.0f);
        a.shift[i] = (float)f->cfg->intensity_shift * (2.0f * bmvp_rng_uniform(&r) - 1.0f);
    }
    return a;
}

static uint32_t bmvpi_ft_present(const bmvp_ft *f, const bmvp_ft_item *t)
{
    uint32_t set = 0;
    int m;
    for (m = 0; m < f->n_modalities; ++m) set |= (uint32_t)(t->image[m] != NULL) << m;
    return set;
}

/* Method 5: some of the modalities that are there, at least one (but in whole_share of the copies none), never all. */
static uint32_t bmvpi_ft_draw_replaced(const bmvp_ft *f, uint32_t present, uint32_t slot, int copy)
{
    bmvp_rng r =
        bmvp_rng_make((uint64_t)f->cfg->seed, BMVPI_STREAM_REPLACE, (uint32_t)f->t->steps, slot * 2 + (uint32_t)copy);
    const int there = bmvpi_set_size(present), whole = (double)bmvp_rng_uniform(&r) < f->cfg->whole_share;
    uint32_t set = 0;
    int n = there > 1 && !whole ? 1 + (int)bmvp_rng_below(&r, (uint32_t)(there - 1)) : 0;
    for (; n > 0; --n)
        set |=
            1u << bmvpi_set_member(present & ~set, (int)bmvp_rng_below(&r, (uint32_t)bmvpi_set_size(present & ~set)));
    return set;
}

/* One item of a copy (channels last, into dst). With two copies, a case of a single modality is masked instead
   (Algorithm 1). */
static void bmvpi_ft_copy(bmvp_ft *f, const bmvp_ft_item *t, const bmvpi_ft_change *a, int copy, float *dst)
{
    const int64_t dim[3] = { f->cfg->crop_z, f->cfg->crop_y, f->cfg->crop_x }, n = bmvpi_ft_voxels(f->cfg);
    const uint32_t present = bmvpi_ft_present(f, t);
    const int masked = f->cfg->copies && bmvpi_set_size(present) == 1 && !t->replace;
    uint32_t replaced = t->replace       ? t->replace[copy]
                        : f->cfg->copies ? bmvpi_ft_draw_replaced(f, present, t->slot, copy)
                                         : 0;
    int m;
    replaced |= ~present;
    for (m = 0; m < f->n_modalities; ++m) {
        if (replaced >> m & 1u) bmvpi_ft_fill(f, m, t->template_start, dim, NULL, dst);
        else bmvpi_ft_put(t->image[m], n, a->scale[m], a->shift[m], f->n_modalities, dst + m);
        if (!masked || (replaced >> m & 1u)) continue;
        {
            bmvp_rng r = bmvp_rng_make((uint64_t)f->cfg->seed, BMVPI_STREAM_MASK_COPY, (uint32_t)f->t->steps,
                                       t->slot * 2 + (uint32_t)copy);
            bmvp_mask_boxes(f->mask, dim, f->cfg->mask_patch, f->cfg->mask_ratio, &r);
            bmvpi_ft_fill(f, m, t->template_start, dim, f->mask, dst);
        }
    }
    if (a->flips) bmvpi_flip(dst, dim, f->n_modalities, a->flips);
}

/* What of item i is judged, value by value of the logits: all of a voxel, or, where its label is ignored, at most the
   background's. */
static void bmvpi_ft_judge(bmvp_ft *f, int i)
{
    const int outputs = bmvp_labels_outputs(&f->labels);
    const int64_t n = bmvpi_ft_voxels(f->cfg);
    float *judged = f->judged + i * n * outputs;
    int64_t v;
    int r;
    for (v = 0; v < n; ++v)
        for (r = 0; r < outputs; ++r)
            judged[v * outputs + r] =
                (float)((int)f->mask[v] != f->labels.ignore || (f->labels.exclusive && r == 0));
}

/* The label values of one item become targets: f->target (masks, channels last) and f->category (class of each
   voxel). */
static void bmvpi_ft_targets(bmvp_ft *f, const bmvp_ft_item *t, int i, const bmvpi_ft_change *a)
{
    const int64_t dim[3] = { f->cfg->crop_z, f->cfg->crop_y, f->cfg->crop_x }, n = bmvpi_ft_voxels(f->cfg);
    float *target = f->target + i * n * f->labels.n;
    int32_t *category = f->category + i * n;
    int64_t v;
    int r;
    memcpy(f->mask, t->labels, (size_t)n * sizeof(float));
    if (a->flips) bmvpi_flip(f->mask, dim, 1, a->flips);
    for (v = 0; v < n; ++v) {
        const int value = (int)f->mask[v];
        category[v] = 0;
        for (r = 0; r < f->labels.n; ++r) {
            const int in = f->labels.in[r][value & (BMVP_LABEL_VALUES - 1)];
            target[v * f->labels.n + r] = (float)in;
            if (in) category[v] = r + 1;
        }
    }
    if (bmvpi_ft_ignores(f)) bmvpi_ft_judge(f, i);
}

/* >>finetune loss -------------------------------------------------------------------------------------------------- */

/* Voxels whose label is ignored (nnU-Net: loss_mask, ignore_index). To the losses the network says of them, and for
   certain, that nothing is there: their logits are replaced by such that no region has. The target says the same, so
   they add nothing to Dice (no p t, no p, no t) and nothing to a cross-entropy but to the number it is the mean of,
   which bmvpi_ft_weigh mends; and what was replaced has no gradient. Without an ignored label all this is not there. */
#define BMVPI_FT_NEVER 1e4 /* exp(-1e4) is 0 */
enum { BMVPI_FT_DICE, BMVPI_FT_CE, BMVPI_FT_CONSISTENCY }; /* losses that are named */

typedef struct bmvpi_ft_pass { /* one forward pass over the batch: both copies */
    bmvp_pass *p;
    bmvp_ft *f;
    const bmvp_ft_item *item;
    int n;
    bmvpi_ft_change *change;
    /* what the mean that the op takes is to be multiplied by: this rank's share of the cross-entropy's weights / its
       share of the items, and the weights of all its voxels / of those that are judged */
    double ce_share;
    bmvp_tensor *target, *dice, *ce; /* sums over copies of the full-scale parts, for the log */
    bmvp_tensor *judged;             /* of the shape of logits, 0: replaced; NULL: nothing is ignored */
    bmvp_logits logits[2];         /* of the copies; NULLs: not there */
} bmvpi_ft_pass;

static bmvp_tensor *bmvpi_ft_copies(bmvpi_ft_pass *p, int copy)
{
    bmvp_ft *f = p->f;
    const int64_t dim[5] = { p->n, f->cfg->crop_z, f->cfg->crop_y, f->cfg->crop_x, f->n_modalities };
    const int64_t n = bmvpi_ft_voxels(f->cfg) * f->n_modalities;
    int i;
    for (i = 0; i < p->n && !bmvp_is_plan(f->c); ++i)
        bmvpi_ft_copy(f, &p->item[i], &p->change[i], copy, f->input + i * n);
    return bmvp_input(f->c, 5, dim, f->input);
}

/* Of each region or class but the background: what Dice compares */
static bmvp_tensor *bmvpi_ft_shares(bmvp_ft *f, bmvp_tensor *logits)
{
    if (!f->labels.exclusive) return bmvp_sigmoid(f->c, logits);
    return bmvp_slice(f->c, bmvp_softmax(f->c, logits), 4, 1, f->labels.n);
}

static bmvp_tensor *bmvpi_ft_dice(bmvp_ft *f, bmvp_tensor *logits, bmvp_tensor *target)
{
    return bmvp_soft_dice(f->c, bmvpi_ft_shares(f, logits), target, f->cfg->dice_squared, f->cfg->dice_smooth);
}

/* Dice of a whole batch depends on sums over its voxels alone: of p t, of p and of t (p squared where the loss has
   squares). So a volume of a few voxels with the same sums has the same Dice, and the same gradient: (p, t) = (sum
   of p t, 1) and (sum of p - sum of p t, 0) of each rank, and one voxel with p = 0 and what is left of the sum of t. */
static bmvp_tensor *bmvpi_ft_sums_dice(bmvpi_ft_pass *p, bmvp_tensor *prob, bmvp_tensor *target)
{
    const bmvp_ft_config *k = p->f->cfg;
    const int n = p->f->labels.n;
    const double voxels = (double)(prob->numel / n);
    bmvp_ctx *c = p->f->c;
    bmvp_tensor *row[2], *t = bmvp_scale(c, bmvp_global_pool(c, target), voxels, 0);
    int64_t dim[3] = { 1, 1, 0 }, i;
    double truth[BMVP_MAX_REGIONS];
    float *value, *last;
    row[0] = bmvp_scale(c, bmvp_global_pool(c, bmvp_mul(c, prob, target)), voxels, 0);
    row[1] = bmvp_scale(c, bmvp_global_pool(c, k->dice_squared ? bmvp_mul(c, prob, prob) : prob), voxels, 0);
    row[1] = bmvp_add(c, row[1], bmvp_scale(c, row[0], -1, 0));
    row[0] = bmvp_pass_rows(p->p, bmvp_concat(c, 2, row, 0), n, NULL);
    dim[2] = n;
    row[1] = bmvp_input(c, 2, dim + 1, NULL);
    if (bmvp_failed(c)) return NULL;
    bmvp_fill(c, row[1], 0);
    dim[1] = row[0]->dim[0] + 1;
    value = (float *)bmvpi_zeros(c, (size_t)(dim[1] * n) * sizeof *value);
    if (!value) return NULL;
    last = value + (dim[1] - 1) * n;
    (void)bmvp_read(c, t, last);
    for (i = 0; i < n; ++i) truth[i] = (double)last[i];
    bmvp_pass_sum(p->p, truth, n);
    for (i = 0; i < (dim[1] - 1) * n; ++i) value[i] = i / n % 2 == 0;
    for (i = 0; i < n; ++i) last[i] = (float)(truth[i] - (double)((dim[1] - 1) / 2));
    t = bmvp_input(c, 3, dim, value);
    bmvpi_free(c, value);
    return bmvp_soft_dice(c, bmvp_reshape(c, bmvp_concat(c, 2, row, 0), 3, dim), t, 0, k->dice_smooth);
}

/* Dice of one scale with the voxels of all cases and copies in one sum. */
static bmvp_tensor *bmvpi_ft_batch_dice(bmvpi_ft_pass *p, bmvp_tensor *first, bmvp_tensor *second)
{
    bmvp_ctx *c = p->f->c;
    bmvp_tensor *logits[2], *target[2], *y, *t;
    int64_t dim[5];
    logits[0] = first, logits[1] = second;
    target[0] = target[1] = p->target;
    y = bmvp_concat(c, second ? 2 : 1, logits, 0);
    t = bmvp_concat(c, second ? 2 : 1, target, 0);
    if (!y || !t) return NULL;
    memcpy(dim, y->dim, sizeof dim);
    dim[0] = 1, dim[1] *= y->dim[0];
    y = bmvp_reshape(c, y, 5, dim);
    dim[4] = t->dim[4];
    t = bmvp_reshape(c, t, 5, dim);
    /* the others' voxels are elsewhere */
    if (p->p->n < p->p->n_all) return bmvpi_ft_sums_dice(p, bmvpi_ft_shares(p->f, y), t);
    return bmvpi_ft_dice(p->f, y, t);
}

/* The same of all scales, weighed as the copies' losses are. */
static bmvp_tensor *bmvpi_ft_batch_dices(bmvpi_ft_pass *p)
{
    const bmvp_ft_config *k = p->f->cfg;
    const bmvp_logits *a = &p->logits[0], *b = &p->logits[1];
    bmvp_ctx *c = p->f->c;
    bmvp_tensor *sum = bmvpi_ft_batch_dice(p, a->full, b->full);
    p->dice = bmvp_scale(c, sum, k->copies ? 2 : 1, 0);
    if (a->quarter) sum = bmvp_add(c, sum, bmvpi_ft_batch_dice(p, a->quarter, b->quarter));
    if (a->half) sum = bmvp_add(c, sum, bmvpi_ft_batch_dice(p, a->half, b->half));
    return bmvp_scale(c, sum, k->dice_weight * (k->copies ? 2 * k->copy_weight : 1), 0);
}

/* The sum of the classes' weights over what it is the mean of: with weights, ranks with as many items have not the
   same share, and the op counts voxels that are not judged. */
static void bmvpi_ft_weigh(bmvpi_ft_pass *p)
{
    bmvp_ft *f = p->f;
    const int64_t n = p->n * (bmvpi_ft_segments(f) ? bmvpi_ft_voxels(f->cfg) : 1);
    const int outputs = bmvp_net_config_of(f->net)->outputs;
    double counted = 0, all = 0;
    int64_t i;
    p->ce_share = 1;
    if (!bmvpi_ft_ignores(f) && (!f->class_weight || p->p->n == p->p->n_all)) return;
    for (i = 0; i < n && !bmvp_is_plan(f->c); ++i) {
        const double w = f->class_weight ? (double)f->class_weight[f->category[i]] : 1;
        counted += w;
        if (!bmvpi_ft_ignores(f) || f->judged[(i + 1) * outputs - 1] != 0.0f) all += w;
    }
    if (p->p->n < p->p->n_all) bmvp_pass_sum(p->p, &all, 1);
    if (all > 0) p->ce_share = counted / all * (double)p->p->n_all / (double)p->n;
    else if (bmvpi_ft_ignores(f)) p->ce_share = 0;
}

static bmvp_tensor *bmvpi_ft_cross_entropy(bmvpi_ft_pass *p, bmvp_tensor *logits)
{
    bmvp_ft *f = p->f;
    const int regions = bmvpi_ft_segments(f) && !f->labels.exclusive;
    bmvp_tensor *ce;
    int64_t rows[2];
    if (!logits) return NULL;
    rows[1] = bmvp_net_config_of(f->net)->outputs, rows[0] = logits->numel / rows[1];
    if (!regions && logits->rank != 2) logits = bmvp_reshape(f->c, logits, 2, rows);
    ce = regions ? bmvp_bce_logits(f->c, logits, p->target)
                 : bmvp_cross_entropy_weighted(f->c, logits, f->category, f->class_weight);
    return p->ce_share != 1 ? bmvp_scale(f->c, ce, p->ce_share, 0) : ce;
}

/* The logits as the losses see them. */
static bmvp_tensor *bmvpi_ft_seen(bmvpi_ft_pass *p, bmvp_tensor *logits)
{
    bmvp_ctx *c = p->f->c;
    if (!p->judged || !logits) return logits;
    return bmvp_add(c, bmvp_mul(c, logits, p->judged), bmvp_scale(c, p->judged, BMVPI_FT_NEVER, -BMVPI_FT_NEVER));
}

/* Dice (unless it is that of the batch) and cross-entropy of logits (N, ..., outputs) against the batch's targets;
   parts go to *dice and *ce (NULL: off). */
static bmvp_tensor *bmvpi_ft_segment_loss(bmvpi_ft_pass *p, bmvp_tensor *logits, bmvp_tensor **dice, bmvp_tensor **ce)
{
    bmvp_ft *f = p->f;
    const bmvp_ft_config *k = f->cfg;
    bmvp_ctx *c = f->c;
    bmvp_tensor *total = NULL;
    *dice = *ce = NULL;
    if (!logits) return NULL;
    if (k->dice_weight > 0 && !k->dice_batch) {
        *dice = bmvpi_ft_dice(f, logits, p->target);
        total = bmvp_scale(c, *dice, k->dice_weight, 0);
    }
    if (k->ce_weight > 0) {
        *ce = bmvpi_ft_cross_entropy(p, logits);
        total = bmvpi_plus(c, total, bmvp_scale(c, *ce, k->ce_weight, 0));
    }
    return total;
}

/* || a - b ||_2 of each sample, averaged: with u = d / |d|, sum(d u) = |d|, and its gradient is u. */
static bmvp_tensor *bmvpi_ft_distance(bmvp_ctx *c, bmvp_tensor *a, bmvp_tensor *b)
{
    bmvp_tensor *d;
    int64_t flat[2];
    if (!a || !b) return NULL;
    flat[0] = a->dim[0], flat[1] = a->numel / a->dim[0];
    d = bmvp_reshape(c, bmvp_add(c, a, bmvp_scale(c, b, -1, 0)), 2, flat);
    return bmvp_scale(c, bmvp_sum(c, bmvp_mul(c, d, bmvp_l2_normalize(c, d, 1e-12))), 1.0 / (double)flat[0], 0);
}

/* The loss of one copy over all scales; last and quarter are what the consistency compares. */
static bmvp_tensor *bmvpi_ft_copy_loss(bmvpi_ft_pass *p, int copy, bmvp_tensor **last, bmvp_tensor **quarter)
{
    bmvp_ft *f = p->f;
    bmvp_ctx *c = f->c;
    bmvp_tensor *x = bmvpi_ft_copies(p, copy), *loss, *dice = NULL, *ce = NULL, *unused[2];
    bmvp_features map = bmvp_net_encode(f->net, x, 1);
    *last = map.last;
    *quarter = NULL;
    if (bmvpi_ft_segments(f)) {
        bmvp_logits l = bmvp_net_segment(f->net, x, &map, f->cfg->deep_supervision);
        *quarter = l.quarter;
        l.full = bmvpi_ft_seen(p, l.full);
        l.quarter = bmvpi_ft_seen(p, l.quarter);
        l.half = bmvpi_ft_seen(p, l.half);
        p->logits[copy] = l;
        loss = bmvpi_ft_segment_loss(p, l.full, &dice, &ce);
        if (l.quarter) loss = bmvp_add(c, loss, bmvpi_ft_segment_loss(p, l.quarter, &unused[0], &unused[1]));
        if (l.half) loss = bmvp_add(c, loss, bmvpi_ft_segment_loss(p, l.half, &unused[0], &unused[1]));
    } else {
        ce = bmvpi_ft_cross_entropy(p, bmvp_net_classify(f->net, &map));
        loss = bmvp_scale(c, ce, f->cfg->ce_weight, 0);
    }
    if (dice) p->dice = bmvpi_plus(c, p->dice, dice);
    if (ce) p->ce = bmvpi_plus(c, p->ce, ce);
    return bmvp_scale(c, loss, f->cfg->copies ? f->cfg->copy_weight : 1, 0);
}

/* Losses of the whole batch's sums go into the log and the total as such, the others as means over this pass's
   items. */
static void bmvpi_ft_add_losses(bmvpi_ft_pass *p, bmvp_tensor *total, bmvp_tensor *dice_of_all,
                                bmvp_tensor *consistency)
{
    const double copies = p->f->cfg->copies ? 2 : 1;
    bmvp_ctx *c = p->f->c;
    bmvp_tensor *dice = p->dice ? bmvp_scale(c, p->dice, 1 / copies, 0) : NULL,
                *ce = p->ce ? bmvp_scale(c, p->ce, 1 / copies, 0) : NULL;
    if (p->p->n == p->p->n_all) total = bmvpi_plus(c, total, dice_of_all), dice_of_all = NULL;
    bmvp_pass_loss(p->p, BMVPI_FT_DICE, dice_of_all ? BMVP_LOSS_ALL : BMVP_LOSS_MEAN, 0, dice);
    bmvp_pass_loss(p->p, BMVPI_FT_CE, BMVP_LOSS_MEAN, 0, ce);
    bmvp_pass_loss(p->p, -1, BMVP_LOSS_MEAN, 1, total);
    bmvp_pass_loss(p->p, BMVPI_FT_CONSISTENCY, BMVP_LOSS_MEAN, p->f->cfg->consistency_weight, consistency);
    bmvp_pass_loss(p->p, -1, BMVP_LOSS_ALL, 1, dice_of_all);
}

/* Both copies, their losses, and what they should have in common. */
static void bmvpi_ft_build(bmvpi_ft_pass *p)
{
    bmvp_ft *f = p->f;
    const bmvp_ft_config *k = f->cfg;
    int64_t dim[5] = { p->n, k->crop_z, k->crop_y, k->crop_x, f->labels.n };
    bmvp_tensor *total, *last[2], *quarter[2], *dice_of_all = NULL, *consistency = NULL;
    int i;
    for (i = 0; i < p->n && !bmvp_is_plan(f->c); ++i) {
        p->change[i] = bmvpi_ft_draw_change(f, p->item[i].slot);
        if (bmvpi_ft_segments(f)) bmvpi_ft_targets(f, &p->item[i], i, &p->change[i]);
        else f->category[i] = p->item[i].class_index;
    }
    bmvpi_ft_weigh(p);
    if (bmvpi_ft_segments(f)) p->target = bmvp_input(f->c, 5, dim, f->target);
    dim[4] = bmvp_net_config_of(f->net)->outputs;
    if (bmvpi_ft_ignores(f)) p->judged = bmvp_input(f->c, 5, dim, f->judged);
    total = bmvpi_ft_copy_loss(p, 0, &last[0], &quarter[0]);
    if (k->copies) total = bmvpi_plus(f->c, total, bmvpi_ft_copy_loss(p, 1, &last[1], &quarter[1]));
    if (bmvpi_ft_segments(f) && k->dice_weight > 0 && k->dice_batch) dice_of_all = bmvpi_ft_batch_dices(p);
    if (k->copies && k->consistency_weight > 0)
        consistency =
            k->consistency_on ? bmvp_mse(f->c, quarter[0], quarter[1]) : bmvpi_ft_distance(f->c, last[0], last[1]);
    bmvpi_ft_add_losses(p, total, dice_of_all, consistency);
}

static void bmvpi_ft_forward(bmvp_pass *q)
{
    bmvpi_ft_pass p;
    memset(&p, 0, sizeof p);
    p.p = q;
    p.f = (bmvp_ft *)q->state;
    p.item = (const bmvp_ft_item *)q->items;
    p.n = q->n;
    p.change = (bmvpi_ft_change *)bmvpi_alloc(q->c, q->n * (int64_t)sizeof *p.change);
    if (p.change) bmvpi_ft_build(&p);
    bmvpi_free(q->c, p.change);
}

static void bmvpi_ft_check(bmvp_pass *p)
{
    bmvp_ft *f = (bmvp_ft *)p->state;
    const bmvp_ft_item *item = (const bmvp_ft_item *)p->items;
    const uint32_t all = (1u << f->n_modalities) - 1;
    const int outputs = bmvp_net_config_of(f->net)->outputs;
    int i;
    if (p->n < 1 || p->n > f->cfg->batch)
        bmvp_fail(f->c, BMVP_E_ARG, "a pass takes 1 to %d items (batch), not %d", f->cfg->batch, p->n);
    for (i = 0; i < p->n && !bmvp_failed(f->c) && !bmvp_is_plan(f->c); ++i) {
        const uint32_t present = bmvpi_ft_present(f, &item[i]);
        if (!present) bmvp_fail(f->c, BMVP_E_ARG, "item %d has no image", i);
        else if (f->cfg->fill == 0 && f->templates.n == 0 && (f->cfg->copies || present != all))
            bmvp_fail(
                f->c, BMVP_E_STATE,
                "no templates to fill modalities with: start from a pre-training checkpoint, or set fill = 1 (zeros)");
        else if (bmvpi_ft_segments(f) && !item[i].labels) bmvp_fail(f->c, BMVP_E_ARG, "item %d has no labels", i);
        else if (!bmvpi_ft_segments(f) && (item[i].class_index < 0 || item[i].class_index >= outputs))
            bmvp_fail(f->c, BMVP_E_ARG, "item %d has class %d, but there are %d classes", i, item[i].class_index,
                      outputs);
    }
}

/* >>finetune faces: the method as the trainer knows it, and as programs do ----------------------------------------- */

static void bmvpi_ft_describe(const bmvp_trainer *t, bmvp_jw *w)
{
    const bmvp_ft *f = (const bmvp_ft *)t->state;
    bmvpi_modalities_write(w, f->modality, f->n_modalities, f->grid);
    if (f->labels.n) bmvp_labels_write(w, "labels", &f->labels);
}

BMVP_API const bmvp_method *bmvp_ft_method(void)
{
    static const char *const loss[] = { "dice", "ce", "consistency", NULL };
    static const bmvp_method m = { "finetune",
                                   "bmvp fine-tuning 1",
                                   loss,
                                   bmvpi_ft_fields,
                                   sizeof(bmvp_ft_config),
                                   sizeof(bmvp_ft),
                                   sizeof(bmvp_ft_item),
                                   1 /* mean_of_updates */,
                                   bmvpi_ft_prepare,
                                   bmvpi_ft_make,
                                   bmvpi_ft_start,
                                   bmvpi_ft_end,
                                   bmvpi_ft_check,
                                   bmvpi_ft_forward,
                                   NULL /* boxes */,
                                   NULL /* before_update */,
                                   NULL /* after_update */,
                                   NULL /* rate */,
                                   NULL /* optimizer */,
                                   NULL /* plan */,
                                   bmvpi_ft_describe };
    return &m;
}

static bmvp_ft *bmvpi_ft_create(bmvp_ctx *c, const bmvp_net_config *net, const bmvp_ft_config *cfg,
                                const bmvp_labels *labels, int n, const char *const *names, const int64_t *grid,
                                int train)
{
    bmvpi_ft_setup u;
    bmvp_trainer *t;
    u.labels = labels;
    u.n = n;
    u.names = names;
    u.grid = grid;
    u.ordered = train;
    t = bmvp_trainer_create(c, bmvp_ft_method(), net, cfg, &u, train);
    return t ? (bmvp_ft *)t->state : NULL;
}

BMVP_API bmvp_ft *bmvp_ft_create(bmvp_ctx *c, const bmvp_net_config *net, const bmvp_ft_config *cfg,
                                 const bmvp_labels *labels, int n_modalities, const char *const *names,
                                 const int64_t grid[3])
{
    return bmvpi_ft_create(c, net, cfg, labels, n_modalities, names, grid, 1);
}

BMVP_API void bmvp_ft_destroy(bmvp_ft *f)
{
    if (f) bmvp_trainer_destroy(f->t);
}

BMVP_API bmvp_trainer *bmvp_ft_trainer(bmvp_ft *f) { return f->t; }
BMVP_API bmvp_net *bmvp_ft_net(bmvp_ft *f) { return f->net; }
BMVP_API const bmvp_ft_config *bmvp_ft_config_of(const bmvp_ft *f) { return f->cfg; }
BMVP_API const bmvp_labels *bmvp_ft_labels(const bmvp_ft *f) { return &f->labels; }
BMVP_API int64_t bmvp_ft_steps(const bmvp_ft *f) { return f->t->steps; }
BMVP_API void bmvp_ft_set_fill(bmvp_ft *f, int fill) { f->cfg->fill = fill != 0; }
BMVP_API bmvp_tensor *bmvp_ft_template(bmvp_ft *f, int m)
{
    return m >= 0 && m < f->templates.n ? f->templates.item[m].t : NULL;
}
BMVP_API double bmvp_ft_lr(const bmvp_ft *f, int64_t total) { return bmvp_trainer_lr(f->t, total); }
BMVP_API void bmvp_ft_last_pass(bmvp_ft *f) { bmvp_trainer_last_pass(f->t); }

/* A rank that was made without templates gets the grid of rank 0's first. */
BMVP_API bmvp_status bmvp_ft_broadcast(bmvp_ft *f)
{
    if (f->c->comm) bmvpi_comm_broadcast(f->c, f->grid, (int64_t)sizeof f->grid);
    if (f->c->comm && f->grid[0] > 0 && f->templates.n == 0 && !bmvp_failed(f->c)) bmvpi_ft_make_templates(f, f->grid);
    return bmvp_trainer_broadcast(f->t);
}

static bmvp_status bmvpi_ft_losses(bmvp_status st, const bmvp_losses *l, bmvp_ft_losses *out)
{
    out->total = l->total;
    out->dice = l->part[BMVPI_FT_DICE];
    out->ce = l->part[BMVPI_FT_CE];
    out->consistency = l->part[BMVPI_FT_CONSISTENCY];
    out->grad_norm = l->grad_norm;
    return st;
}

BMVP_API bmvp_status bmvp_ft_step(bmvp_ft *f, const bmvp_ft_item *items, int n, double lr, bmvp_ft_losses *out)
{
    bmvp_losses l;
    const bmvp_status st = bmvp_trainer_step(f->t, items, n, lr, out ? &l : NULL);
    return out ? bmvpi_ft_losses(st, &l, out) : st;
}

BMVP_API bmvp_status bmvp_ft_accumulate(bmvp_ft *f, const bmvp_ft_item *items, int n, bmvp_ft_losses *out)
{
    bmvp_losses l;
    const bmvp_status st = bmvp_trainer_accumulate(f->t, items, n, out ? &l : NULL);
    return out ? bmvpi_ft_losses(st, &l, out) : st;
}

BMVP_API bmvp_status bmvp_ft_update(bmvp_ft *f, double lr, bmvp_ft_losses *out)
{
    bmvp_losses l;
    bmvp_status st;
    l.grad_norm = out ? out->grad_norm : 0;
    st = bmvp_trainer_update(f->t, lr, out ? &l : NULL);
    if (out) out->grad_norm = l.grad_norm;
    return st;
}

BMVP_API bmvp_status bmvp_ft_losses_of(bmvp_ft *f, int64_t step, bmvp_ft_losses *out)
{
    bmvp_losses l;
    const bmvp_status st = bmvp_trainer_losses_of(f->t, step, &l);
    return st ? st : bmvpi_ft_losses(st, &l, out);
}

BMVP_API bmvp_tensor *bmvp_ft_predict(bmvp_ft *f, bmvp_tensor *x)
{
    bmvp_features map = bmvp_net_encode(f->net, x, 0);
    if (!bmvpi_ft_segments(f)) return bmvp_softmax(f->c, bmvp_net_classify(f->net, &map));
    x = bmvp_net_segment(f->net, x, &map, 0).full;
    return f->labels.exclusive ? bmvp_softmax(f->c, x) : bmvp_sigmoid(f->c, x);
}

static void bmvpi_ft_plan_prediction(bmvp_ctx *c, const bmvpi_plan_job *job, bmvp_memory *out)
{
    bmvp_trainer *t = bmvp_trainer_create(c, job->method, job->net, job->config, job->setup, 0);
    const bmvp_ft_config *k = (const bmvp_ft_config *)job->config;
    const int64_t dim[5] = { k->batch, k->crop_z, k->crop_y, k->crop_x, ((const bmvpi_ft_setup *)job->setup)->n };
    (void)bmvp_set_grad(c, 0);
    if (t) (void)bmvp_ft_predict((bmvp_ft *)t->state, bmvp_input(c, 5, dim, NULL));
    *out = bmvp_memory_of(c);
    bmvp_trainer_destroy(t);
}

BMVP_API bmvp_status bmvp_ft_plan(const bmvp_config *ctx, const bmvp_net_config *net, const bmvp_ft_config *cfg,
                                  const bmvp_labels *labels, int n_modalities, const char *const *names,
                                  const int64_t grid[3], int train, bmvp_memory *out, bmvp_error *err)
{
    bmvpi_plan_job job;
    bmvpi_ft_setup u;
    u.labels = labels;
    u.n = n_modalities;
    u.names = names;
    u.grid = grid;
    u.ordered = 1;
    job.method = bmvp_ft_method();
    job.net = net;
    job.config = cfg;
    job.setup = &u;
    return bmvpi_plan(ctx, &job, train ? bmvpi_plan_step : bmvpi_ft_plan_prediction, out, err);
}

/* >>finetune files ------------------------------------------------------------------------------------------------- */

BMVP_API bmvp_status bmvp_ft_save(bmvp_ft *f, const char *path, int train, const char *const *extra, bmvp_error *err)
{
    return bmvp_trainer_save(f->t, path, train, extra, err);
}

static bmvp_status bmvpi_ft_open_file(const bmvp_ft *f, const char *path, bmvp_ckpt **file, bmvp_error *err)
{
    bmvp_status st = bmvp_ckpt_open(path, f ? bmvp_allocator_of(f->c) : NULL, file, err);
    const bmvp_ckpt_meta *format = st ? NULL : bmvp_ckpt_find_meta(*file, "", "format");
    if (!st && (!format || strcmp(format->value, bmvp_ft_method()->format) != 0)) {
        bmvp_ckpt_close(*file);
        *file = NULL;
        st = bmvp_error_set(err, BMVP_E_FORMAT, "%s: not a fine-tuned checkpoint%s", path,
                            format ? " (a pre-training run; `bmvp finetune --init` starts from it)"
                                   : " written here; of another program's weights say what they are: --network, "
                                     "--modalities, --labels (bmvp_predictor_open_weights)");
    }
    return st;
}

BMVP_API bmvp_status bmvp_ft_load(bmvp_ft *f, const char *path, int train, bmvp_error *err)
{
    bmvp_ckpt *file = NULL;
    const bmvp_status st = bmvpi_ft_open_file(f, path, &file, err);
    bmvp_ckpt_close(file);
    return st ? st : bmvp_trainer_load(f->t, path, train, err);
}

static bmvp_status bmvpi_ft_description(const bmvp_json *root, const char *path, void *user, bmvp_error *err)
{
    bmvp_ft_info *o = (bmvp_ft_info *)user;
    const bmvp_json *labels = bmvp_json_get(root, "labels");
    bmvp_status st = BMVP_OK;
    (void)bmvp_ft_preset("paper", o->net.task, o->net.kind, &o->cfg);
    if (labels) st = bmvp_labels_read(labels, &o->labels, err);
    return st ? st : bmvpi_modalities_read(root, path, &o->n_modalities, o->names, o->grid, err);
}

BMVP_API bmvp_status bmvp_ft_inspect(const char *path, bmvp_ft_info *out, bmvp_error *err)
{
    const bmvp_ckpt_meta *best, *prep;
    bmvp_ckpt *f = NULL;
    bmvp_status st;
    memset(out, 0, sizeof *out);
    st = bmvpi_ft_open_file(NULL, path, &f, err);
    if (!st)
        st = bmvpi_file_inspect(f, bmvp_ft_method(), &out->net, &out->cfg, bmvpi_ft_description, out, err);
    if (!st) st = bmvpi_file_position(f, &out->step, &out->samples, err);
    best = st ? NULL : bmvp_ckpt_find_meta(f, "", "best");
    prep = st ? NULL : bmvp_ckpt_find_meta(f, "", "preparation");
    out->best = best ? strtod(best->value, NULL) : (double)NAN;
    if (prep && strlen(prep->value) < sizeof out->preparation) strcpy(out->preparation, prep->value);
    bmvp_ckpt_close(f);
    return st;
}

/* The file holds what its description says: compared in a context that makes names and shapes only, as a description
   may ask for any amount of memory and time. */
static bmvp_status bmvpi_ft_holds(const bmvp_ctx *c, const char *path, const bmvp_ft_info *info, bmvp_error *err)
{
    bmvp_config k = bmvp_config_default();
    bmvp_ckpt *file = NULL;
    bmvp_status st;
    bmvp_ctx *dry;
    bmvp_ft *f;
    k.allocator = *bmvp_allocator_of(c);
    k.networks = c->cfg.networks;
    k.threads = 1;
    k.plan = 1;
    dry = bmvp_create(&k, err);
    if (!dry) return BMVP_E_OOM;
    f = bmvpi_ft_create(dry, &info->net, &info->cfg, info->labels.n ? &info->labels : NULL, info->n_modalities,
                        info->names, info->grid, 0);
    st = f ? bmvpi_ft_open_file(f, path, &file, err)
           : bmvp_error_set(err, bmvp_error_of(dry)->status, "%s: %s", path, bmvp_error_of(dry)->message);
    if (!st) {
        bmvpi_file r = bmvpi_file_of(f->t, 0);
        st = bmvpi_file_compare(&r, file, err);
    }
    bmvp_ckpt_close(file);
    bmvp_ft_destroy(f);
    bmvp_destroy(dry);
    return st;
}

BMVP_API bmvp_ft *bmvp_ft_open(bmvp_ctx *c, const char *path, bmvp_ft_info *info, bmvp_error *err)
{
    bmvp_ft *f;
    if (bmvp_ft_inspect(path, info, err) || bmvpi_ft_holds(c, path, info, err)) return NULL;
    f = bmvpi_ft_create(c, &info->net, &info->cfg, info->labels.n ? &info->labels : NULL, info->n_modalities,
                        info->names, info->grid, 0);
    if (!f) {
        bmvp_error_set(err, bmvp_error_of(c)->status, "%s: %s", path, bmvp_error_of(c)->message);
        return NULL;
    }
    if (bmvp_ft_load(f, path, 0, err) == BMVP_OK) return f;
    bmvp_ft_destroy(f);
    return NULL;
}

/* >>predict impl --------------------------------------------------------------------------------------------------- */

static const char *const bmvpi_preparation_fields[4] = { "spacing", "percentile_low", "percentile_high",
                                                         "centre_crop" };
static const char *const bmvpi_intensity_name[] = { "percentiles", "zscore", "zscore-all", "range", "as-it-is" };
enum { BMVPI_INTENSITIES = (int)(sizeof bmvpi_intensity_name / sizeof *bmvpi_intensity_name) };

static const char *const bmvpi_alignment_name[] = { "none", "header", "rigid" };
enum { BMVPI_ALIGNMENTS = (int)(sizeof bmvpi_alignment_name / sizeof *bmvpi_alignment_name) };
static const char *const bmvpi_atlas_space_name[] = { "reference", "rigid", "affine" };
enum { BMVPI_ATLAS_SPACES = (int)(sizeof bmvpi_atlas_space_name / sizeof *bmvpi_atlas_space_name) };

BMVP_API const char *bmvp_alignment_names(void) { return "none header rigid"; }
BMVP_API const char *bmvp_intensity_names(void) { return "percentiles zscore zscore-all range as-it-is"; }

BMVP_API bmvp_preparation bmvp_preparation_default(void)
{
    bmvp_preparation p;
    memset(&p, 0, sizeof p);
    p.spacing = 1;
    p.percentile_low = 1;
    p.percentile_high = 99;
    return p;
}

BMVP_API void bmvp_preparation_write(bmvp_jw *w, const char *key, const bmvp_preparation *p)
{
    int a;
    bmvp_jw_object(w, key);
    bmvp_jw_double(w, "spacing", p->spacing);
    bmvp_jw_double(w, "percentile_low", p->percentile_low);
    bmvp_jw_double(w, "percentile_high", p->percentile_high);
    bmvp_jw_bool(w, "centre_crop", p->centre_crop);
    if (p->resize[0] > 0) {
        bmvp_jw_array(w, "resize");
        for (a = 0; a < 3; ++a) bmvp_jw_int(w, NULL, p->resize[a]);
        bmvp_jw_end(w);
    }
    if (p->whole) bmvp_jw_bool(w, "whole", 1);
    if (p->axes[0]) bmvp_jw_string(w, "axes", p->axes);
    if (p->align) bmvp_jw_string(w, "register", bmvpi_alignment_name[p->align]);
    if (p->reference[0]) bmvp_jw_string(w, "reference", p->reference);
    if (p->search_all) bmvp_jw_string(w, "search", "all");
    if (p->atlas[0]) bmvp_jw_string(w, "atlas", p->atlas);
    if (p->to) bmvp_jw_string(w, "to", bmvpi_atlas_space_name[p->to]);
    if (p->strip) bmvp_jw_bool(w, "strip", 1);
    if (p->strip_margin != 0) bmvp_jw_double(w, "strip_margin", p->strip_margin);
    if (p->intensity) bmvp_jw_string(w, "intensity", bmvpi_intensity_name[p->intensity]);
    if (p->intensity == BMVP_INTENSITY_RANGE) {
        bmvp_jw_array(w, "range");
        bmvp_jw_double(w, NULL, p->range_low);
        bmvp_jw_double(w, NULL, p->range_high);
        bmvp_jw_end(w);
    }
    bmvp_jw_end(w);
}

/* Three letters, one for each axis of the body */
static int bmvpi_axes_known(const char *axes)
{
    static const char *const pair[3] = { "LR", "AP", "IS" };
    int used = 0, i, k;
    for (i = 0; i < 3 && axes[i]; ++i)
        for (k = 0; k < 3; ++k)
            if (strchr(pair[k], axes[i])) used |= 1 << k;
    return i == 0 || (i == 3 && !axes[3] && used == 7);
}

static bmvp_status bmvpi_preparation_check_atlas(const bmvp_preparation *p, bmvp_error *err)
{
    if (!memchr(p->atlas, 0, sizeof p->atlas)) return bmvp_error_set(err, BMVP_E_ARG, "atlas: its name is too long");
    if ((int)p->to < 0 || (int)p->to >= BMVPI_ATLAS_SPACES)
        return bmvp_error_set(err, BMVP_E_ARG, "to %d is none of: reference rigid affine", (int)p->to);
    if ((p->atlas[0] != 0) != (p->to || p->strip))
        return bmvp_error_set(err, BMVP_E_ARG, "to and strip need an atlas, and an atlas one of them");
    if (!(p->strip_margin >= -20 && p->strip_margin <= 20) || (p->strip_margin != 0 && !p->strip))
        return bmvp_error_set(err, BMVP_E_ARG, "strip_margin %g must be from -20 to 20 mm, and is of strip",
                              p->strip_margin);
    return BMVP_OK;
}

BMVP_API bmvp_status bmvp_preparation_check(const bmvp_preparation *p, bmvp_error *err)
{
    if (!(p->spacing >= 0 && p->spacing <= 100))
        return bmvp_error_set(err, BMVP_E_ARG, "spacing %g must be from 0 to 100 mm", p->spacing);
    if (!(p->percentile_low >= 0 && p->percentile_low < p->percentile_high && p->percentile_high <= 100))
        return bmvp_error_set(err, BMVP_E_ARG, "percentile_low %g is not below percentile_high %g",
                              p->percentile_low, p->percentile_high);
    if (!memchr(p->axes, 0, sizeof p->axes) || !bmvpi_axes_known(p->axes))
        return bmvp_error_set(err, BMVP_E_ARG, "axes '%.4s' must be three of R or L, A or P, S or I, as RAS", p->axes);
    if ((int)p->intensity < 0 || (int)p->intensity >= BMVPI_INTENSITIES)
        return bmvp_error_set(err, BMVP_E_ARG, "intensity %d is none of: %s", (int)p->intensity,
                              bmvp_intensity_names());
    if (p->intensity == BMVP_INTENSITY_RANGE && !(p->range_low < p->range_high))
        return bmvp_error_set(err, BMVP_E_ARG, "range: %g is not below %g", p->range_low, p->range_high);
    if ((int)p->align < 0 || (int)p->align >= BMVPI_ALIGNMENTS)
        return bmvp_error_set(err, BMVP_E_ARG, "register %d is none of: %s", (int)p->align, bmvp_alignment_names());
    if (!memchr(p->reference, 0, sizeof p->reference) || (p->reference[0] && bmvp_modality_find(p->reference) < 0))
        return bmvp_error_set(err, BMVP_E_ARG, "reference '%.8s' is no modality; known are %s", p->reference,
                              bmvp_modality_names());
    if (!p->align && (p->reference[0] || p->search_all))
        return bmvp_error_set(err, BMVP_E_ARG, "reference and search are of a preparation that registers");
    if (p->whole && p->centre_crop)
        return bmvp_error_set(err, BMVP_E_ARG, "centre_crop cuts a box out, and the whole volume is wanted");
    return bmvpi_preparation_check_atlas(p, err);
}

static bmvp_status bmvpi_preparation_number(const bmvp_json *node, const char *name, double high, double *out,
                                            bmvp_error *err)
{
    if (node->type == BMVP_JSON_NUMBER && node->d >= 0 && node->d <= high) {
        *out = node->d;
        return BMVP_OK;
    }
    return bmvp_error_set(err, BMVP_E_FORMAT, "%s: how its cases were prepared: %s must be a number from 0 to %g", name,
                          node->key, high);
}

static bmvp_status bmvpi_preparation_resize(const bmvp_json *node, const char *name, int64_t resize[3], bmvp_error *err)
{
    int a;
    for (a = 0; a < 3; ++a) {
        const bmvp_json *n = bmvp_json_at(node, a);
        resize[a] = n && n->type == BMVP_JSON_NUMBER && n->is_int && n->i >= 1 && n->i <= 4096 ? n->i : 0;
        if (resize[a] == 0 || bmvp_json_count(node) != 3)
            return bmvp_error_set(err, BMVP_E_FORMAT,
                                  "%s: how its cases were prepared: resize must be three whole numbers from 1 to 4096",
                                  name);
    }
    return BMVP_OK;
}

/* The same of a template. */
static int bmvpi_preparation_atlas(const bmvp_json *node, bmvp_preparation *p)
{
    const char *text = bmvp_json_string(node, "");
    int k = 0;
    if (strcmp(node->key, "atlas") == 0) {
        snprintf(p->atlas, sizeof p->atlas, "%s", text);
        return text[0] && strlen(text) < sizeof p->atlas ? 1 : -1;
    }
    if (strcmp(node->key, "to") == 0) {
        while (k < BMVPI_ATLAS_SPACES && strcmp(text, bmvpi_atlas_space_name[k]) != 0) ++k;
        p->to = (bmvp_atlas_space)k;
        return k < BMVPI_ATLAS_SPACES ? 1 : -1;
    }
    if (strcmp(node->key, "strip") == 0) {
        p->strip = bmvp_json_bool(node, 0);
        return p->strip ? 1 : -1;
    }
    if (strcmp(node->key, "strip_margin") != 0) return 0;
    p->strip_margin = bmvp_json_double(node, 0);
    return node->type == BMVP_JSON_NUMBER ? 1 : -1;
}

/* The fields that a file has only where they are not as by default. 0: none of them; -1: it has no such value. */
static int bmvpi_preparation_more(const bmvp_json *node, bmvp_preparation *p)
{
    const char *text = bmvp_json_string(node, "");
    int k = 0;
    if (strcmp(node->key, "whole") == 0) p->whole = bmvp_json_bool(node, 0);
    else if (strcmp(node->key, "axes") == 0) snprintf(p->axes, sizeof p->axes, "%s", text);
    else if (strcmp(node->key, "range") == 0) {
        p->range_low = bmvp_json_double(bmvp_json_at(node, 0), 0);
        p->range_high = bmvp_json_double(bmvp_json_at(node, 1), 0);
    } else if (strcmp(node->key, "intensity") == 0) {
        while (k < BMVPI_INTENSITIES && strcmp(text, bmvpi_intensity_name[k]) != 0) ++k;
        p->intensity = (bmvp_intensity)k;
    } else if (strcmp(node->key, "register") == 0) {
        while (k < BMVPI_ALIGNMENTS && strcmp(text, bmvpi_alignment_name[k]) != 0) ++k;
        p->align = (bmvp_alignment)k;
        return k < BMVPI_ALIGNMENTS ? 1 : -1;
    } else if (strcmp(node->key, "reference") == 0) {
        snprintf(p->reference, sizeof p->reference, "%s", text);
        return strlen(text) < sizeof p->reference ? 1 : -1;
    } else if (strcmp(node->key, "search") == 0) {
        p->search_all = strcmp(text, "all") == 0;
        return p->search_all ? 1 : -1;
    } else return bmvpi_preparation_atlas(node, p);
    return k < BMVPI_INTENSITIES && strlen(text) <= 11 ? 1 : -1;
}

static bmvp_status bmvpi_preparation_field(const bmvp_json *node, const char *name, bmvp_preparation *p, int *had,
                                           bmvp_error *err)
{
    double *const number[3] = { &p->spacing, &p->percentile_low, &p->percentile_high };
    int k;
    if (strcmp(node->key, "resize") == 0) return bmvpi_preparation_resize(node, name, p->resize, err);
    k = bmvpi_preparation_more(node, p);
    if (k > 0) return BMVP_OK;
    if (k < 0)
        return bmvp_error_set(err, BMVP_E_FORMAT, "%s: how its cases were prepared: %s has a value that is not known",
                              name, node->key);
    for (k = 0; k < 4 && strcmp(node->key, bmvpi_preparation_fields[k]) != 0; ++k) {
    }
    if (k == 4)
        return bmvp_error_set(err, BMVP_E_FORMAT,
                              "%s: how its cases were prepared: '%s' is not known here; a newer version made it", name,
                              node->key);
    *had |= 1 << k;
    if (k < 3) return bmvpi_preparation_number(node, name, 100, number[k], err);
    if (node->type != BMVP_JSON_BOOL)
        return bmvp_error_set(err, BMVP_E_FORMAT, "%s: how its cases were prepared: centre_crop must be true or false",
                              name);
    p->centre_crop = (int)node->i;
    return BMVP_OK;
}

BMVP_API bmvp_status bmvp_preparation_read(const char *text, const char *name, bmvp_preparation *p, bmvp_error *err)
{
    bmvp_json_doc *doc = NULL;
    bmvp_status st = bmvp_json_parse(text, strlen(text), name, NULL, &doc, err);
    const bmvp_json *root = st ? NULL : bmvp_json_root(doc), *node;
    bmvp_error e;
    int had = 0, k;
    *p = bmvp_preparation_default();
    if (!st && root->type != BMVP_JSON_OBJECT)
        st = bmvp_error_set(err, BMVP_E_FORMAT, "%s: how its cases were prepared: no JSON object", name);
    for (node = st ? NULL : root->first; node && !st; node = node->next)
        st = bmvpi_preparation_field(node, name, p, &had, err);
    for (k = 0; k < 4 && !st; ++k)
        if (!(had >> k & 1))
            st = bmvp_error_set(err, BMVP_E_FORMAT, "%s: how its cases were prepared: %s is missing", name,
                                bmvpi_preparation_fields[k]);
    if (!st && bmvp_preparation_check(p, &e))
        st = bmvp_error_set(err, BMVP_E_FORMAT, "%s: how its cases were prepared: %s", name, e.message);
    bmvp_json_free(doc);
    return st;
}

/* What tells a template from others: the end of its name. */
static const char *bmvpi_atlas_mark(const char *name)
{
    const size_t n = strlen(name);
    return n > 8 ? name + n - 8 : name;
}

static void bmvpi_preparation_size(const bmvp_preparation *p, char text[64])
{
    if (p->resize[0] > 0)
        snprintf(text, 64, "%lldx%lldx%lld", (long long)p->resize[0], (long long)p->resize[1], (long long)p->resize[2]);
    else snprintf(text, 64, "not");
}

/* How values are scaled, the box, and the axes where they are not RAS: "1-99% box", "zscore whole LPS" */
static void bmvpi_preparation_text(const bmvp_preparation *p, char text[96])
{
    int n = snprintf(text, 96, "%s", bmvpi_intensity_name[p->intensity]);
    if (p->intensity == BMVP_INTENSITY_PERCENTILES)
        n = snprintf(text, 96, "%.9g-%.9g%%", p->percentile_low, p->percentile_high);
    if (p->intensity == BMVP_INTENSITY_RANGE)
        n = snprintf(text, 96, "range %.9g-%.9g", p->range_low, p->range_high);
    snprintf(text + n, (size_t)(96 - n), " %s%s%s%s%s%s%s%s", p->whole ? "whole" : p->centre_crop ? "centre" : "box",
             p->axes[0] ? " " : "", p->axes, p->align ? " " : "", p->align ? bmvpi_alignment_name[p->align] : "",
             p->reference[0] ? ":" : "", p->reference, p->search_all ? " all" : "");
    n = (int)strlen(text);
    if (p->atlas[0])
        n += snprintf(text + n, (size_t)(96 - n), " %.8s %s", bmvpi_atlas_mark(p->atlas),
                      bmvpi_atlas_space_name[p->to]);
    if (p->strip) snprintf(text + n, (size_t)(96 - n), " strip%+g", p->strip_margin);
}

BMVP_API int bmvp_preparation_differs(const bmvp_preparation *a, const bmvp_preparation *b, char *text, size_t size)
{
    const double x[4] = { a->spacing, a->percentile_low, a->percentile_high, (double)a->centre_crop };
    const double y[4] = { b->spacing, b->percentile_low, b->percentile_high, (double)b->centre_crop };
    char as[96], bs[96];
    int k;
    for (k = 0; k < 4; ++k)
        if (!(x[k] == y[k])) {
            snprintf(text, size, "%s %g, %g", bmvpi_preparation_fields[k], x[k], y[k]);
            return 1;
        }
    bmvpi_preparation_text(a, as);
    bmvpi_preparation_text(b, bs);
    if (strcmp(as, bs) != 0) {
        snprintf(text, size, "%s, %s", as, bs);
        return 1;
    }
    bmvpi_preparation_size(a, as);
    bmvpi_preparation_size(b, bs);
    if (strcmp(as, bs) == 0) return 0;
    snprintf(text, size, "resized %s, %s", as, bs);
    return 1;
}

/* ---- a whole prepared case ---- */

typedef struct bmvpi_whole {
    bmvp_ft *f;
    const bmvp_ft_case *k;
    int64_t size[3];
    float *crop; /* one crop of each modality */
    float *plane; /* where logits become probabilities; NULL: they are */
    bmvp_status (*planes)(void *user, int64_t z0, int64_t n, const float *values);
    void *user;
} bmvpi_whole;

/* size voxels from `start`, zero outside of the volume. */
static void bmvpi_copy_crop(const float *from, const int64_t dim[3], const int64_t start[3], const int64_t size[3],
                            float *to)
{
    const int64_t x0 = start[2] < 0 ? -start[2] : 0, x1 = start[2] + size[2] > dim[2] ? dim[2] - start[2] : size[2];
    int64_t z, y;
    memset(to, 0, (size_t)(size[0] * size[1] * size[2]) * sizeof *to);
    for (z = 0; z < size[0]; ++z)
        for (y = 0; y < size[1]; ++y) {
            const int64_t a = z + start[0], b = y + start[1];
            if (a < 0 || a >= dim[0] || b < 0 || b >= dim[1] || x1 <= x0) continue;
            memcpy(to + (z * size[1] + y) * size[2] + x0, from + (a * dim[1] + b) * dim[2] + start[2] + x0,
                   (size_t)(x1 - x0) * sizeof *to);
        }
}

static bmvp_status bmvpi_whole_read(void *user, const int64_t start[3], float *dst)
{
    bmvpi_whole *s = (bmvpi_whole *)user;
    const int64_t n = s->size[0] * s->size[1] * s->size[2];
    const float *image[BMVP_MODALITIES] = { NULL };
    const bmvp_tensor *t = bmvp_ft_template(s->f, 0);
    int64_t at[3] = { 0, 0, 0 };
    int m;
    for (m = 0; m < bmvp_net_config_of(bmvp_ft_net(s->f))->in_channels; ++m) {
        if (!s->k->image[m]) continue;
        bmvpi_copy_crop(s->k->image[m], s->k->dim, start, s->size, s->crop + m * n);
        image[m] = s->crop + m * n;
    }
    if (t) bmvp_template_place(start, s->k->dim, t->dim, at);
    bmvp_ft_input(s->f, image, at, s->size, dst);
    return BMVP_OK;
}

static bmvp_tensor *bmvpi_whole_predict(void *user, bmvp_tensor *x)
{
    bmvp_ft *f = ((bmvpi_whole *)user)->f;
    bmvp_features map;
    if (!f->logits) return bmvp_ft_predict(f, x);
    map = bmvp_net_encode(f->net, x, 0);
    return bmvp_net_segment(f->net, x, &map, 0).full;
}

/* n voxels: sigmoid of each logit, or softmax of a voxel's */
static void bmvpi_whole_activate(const bmvp_ft *f, const float *logit, int64_t n, float *out)
{
    const int outputs = bmvp_labels_outputs(&f->labels);
    int64_t i;
    int k;
    for (i = 0; i < n; ++i, logit += outputs, out += outputs) {
        float most = logit[0], sum = 0;
        for (k = 1; k < outputs; ++k) most = logit[k] > most ? logit[k] : most;
        for (k = 0; k < outputs && f->labels.exclusive; ++k) sum += out[k] = bmvpi_expf(logit[k] - most);
        for (k = 0; k < outputs; ++k) out[k] = f->labels.exclusive ? out[k] / sum : 1 / (1 + bmvpi_expf(-logit[k]));
    }
}

static bmvp_status bmvpi_whole_planes(void *user, int64_t z0, int64_t n, const float *values)
{
    bmvpi_whole *s = (bmvpi_whole *)user;
    const int64_t area = s->k->dim[1] * s->k->dim[2];
    bmvp_status st = BMVP_OK;
    int64_t z;
    if (!s->plane) return s->planes(s->user, z0, n, values);
    for (z = 0; z < n && !st; ++z) {
        bmvpi_whole_activate(s->f, values + z * area * bmvp_labels_outputs(&s->f->labels), area, s->plane);
        st = s->planes(s->user, z0 + z, 1, s->plane);
    }
    return st;
}

/* What went wrong, in the caller's words: the context's first failure, if it has one. */
static bmvp_status bmvpi_whole_failed(const bmvp_ft *f, bmvp_status st, bmvp_error *err)
{
    if (bmvp_failed(f->c)) return bmvp_error_take(f->c, err);
    return st ? bmvp_error_set(err, st, "prediction failed: %s", bmvp_status_text(st)) : BMVP_OK;
}

static void bmvpi_whole_begin(bmvpi_whole *s, bmvp_ft *f, const bmvp_ft_case *k, const int64_t size[3])
{
    const int channels = bmvp_net_config_of(bmvp_ft_net(f))->in_channels;
    memset(s, 0, sizeof *s);
    s->f = f;
    s->k = k;
    memcpy(s->size, size, sizeof s->size);
    s->crop = (float *)bmvpi_alloc(f->c, size[0] * size[1] * size[2] * channels * (int64_t)sizeof *s->crop);
}

BMVP_API bmvp_status bmvp_ft_segment(bmvp_ft *f, const bmvp_ft_case *k, const bmvp_window *w,
                                     bmvp_status (*planes)(void *user, int64_t z0, int64_t n, const float *values),
                                     void *user, bmvp_error *err)
{
    const bmvp_net_config *net = bmvp_net_config_of(bmvp_ft_net(f));
    bmvp_window_calls calls;
    bmvp_status st = BMVP_OK;
    bmvpi_whole s;
    if (bmvp_failed(f->c)) return bmvpi_whole_failed(f, BMVP_OK, err);
    bmvpi_whole_begin(&s, f, k, w->roi);
    s.planes = planes;
    s.user = user;
    calls.read = bmvpi_whole_read;
    calls.predict = bmvpi_whole_predict;
    calls.planes = bmvpi_whole_planes;
    calls.user = &s;
    if (f->logits)
        s.plane = (float *)bmvpi_alloc(f->c, bmvpi_mul_size(k->dim[1] * k->dim[2],
                                                            net->outputs * (int64_t)sizeof *s.plane));
    if (s.crop && !bmvp_failed(f->c))
        st = bmvp_sliding_window(f->c, w, k->dim, net->in_channels, net->outputs, &calls);
    bmvpi_free(f->c, s.crop);
    bmvpi_free(f->c, s.plane);
    return bmvpi_whole_failed(f, st, err);
}

BMVP_API bmvp_status bmvp_ft_classify(bmvp_ft *f, const bmvp_ft_case *k, float *probability, bmvp_error *err)
{
    const bmvp_ft_config *cfg = bmvp_ft_config_of(f);
    const int64_t size[3] = { cfg->crop_z, cfg->crop_y, cfg->crop_x };
    const int64_t dim[5] = { 1, size[0], size[1], size[2], bmvp_net_config_of(bmvp_ft_net(f))->in_channels };
    int64_t start[3];
    bmvpi_whole s;
    float *x;
    int a, was;
    if (bmvp_failed(f->c)) return bmvpi_whole_failed(f, BMVP_OK, err);
    for (a = 0; a < 3; ++a) {
        const int64_t room = k->dim[a] - size[a];
        start[a] = room >= 0 ? room / 2 : -(-room / 2);
    }
    bmvpi_whole_begin(&s, f, k, size);
    x = (float *)bmvpi_alloc(f->c, dim[1] * dim[2] * dim[3] * dim[4] * (int64_t)sizeof *x);
    if (s.crop && x) {
        was = bmvp_set_grad(f->c, 0);
        (void)bmvpi_whole_read(&s, start, x);
        bmvp_step_begin(f->c);
        (void)bmvp_read(f->c, bmvp_ft_predict(f, bmvp_input(f->c, 5, dim, x)), probability);
        bmvp_step_begin(f->c);
        (void)bmvp_set_grad(f->c, was);
    }
    bmvpi_free(f->c, x);
    bmvpi_free(f->c, s.crop);
    return bmvpi_whole_failed(f, BMVP_OK, err);
}

/* >>predict weights: files that say nothing of themselves ---------------------------------------------------------- */

BMVP_API bmvp_ft_weights bmvp_ft_weights_default(void)
{
    bmvp_ft_weights w;
    memset(&w, 0, sizeof w);
    w.preparation = bmvp_preparation_default();
    return w;
}

/* The channels that go in */
static bmvp_status bmvpi_weights_inputs(const bmvp_ctx *c, const bmvp_ft_weights *w, const bmvp_ckpt *f,
                                        const char *group, bmvp_ft_info *o, bmvp_error *err)
{
    const int stem = bmvp_net_part_in(c, &o->net, BMVP_PART_STEM, f, group),
              i = stem < 0 ? bmvp_net_part_in(c, &o->net, BMVP_PART_INPUT, f, group) : stem;
    char named[160] = "";
    int m;
    o->n_modalities = w->n_modalities;
    if (w->n_modalities < 1 || w->n_modalities > BMVP_MODALITIES)
        return bmvp_error_set(err, BMVP_E_ARG,
                              "%s: tensor '%s' takes %d channels: say which modality each is (of %s)", f->path,
                              i < 0 ? "" : f->entry[i].name, o->net.in_channels, bmvp_modality_names());
    for (m = 0; m < w->n_modalities; ++m) {
        o->names[m] = bmvp_modality_name(bmvp_modality_find(w->names[m]));
        if (!o->names[m])
            return bmvp_error_set(err, BMVP_E_ARG, "unknown modality '%s'; known are %s", w->names[m],
                                  bmvp_modality_names());
        snprintf(named + strlen(named), sizeof named - strlen(named), " %s", o->names[m]);
    }
    if (i < 0) o->net.in_channels = w->n_modalities; /* a network of the program's own: loading compares */
    if (o->net.in_channels == w->n_modalities) return BMVP_OK;
    return bmvp_error_set(err, BMVP_E_SHAPE,
                          "%s: tensor '%s' takes %d channels, but %d modalities are named (%s): name one for each "
                          "channel, in their order",
                          f->path, f->entry[i].name, o->net.in_channels, w->n_modalities, named + 1);
}

/* What comes out: how many, and that they are what is said */
static bmvp_status bmvpi_weights_outputs(const bmvp_ctx *c, const bmvp_ft_weights *w, const bmvp_ckpt *f,
                                         const char *group, bmvp_ft_info *o, bmvp_error *err)
{
    const int i = bmvp_net_part_in(c, &o->net, BMVP_PART_HEAD, f, group),
              classifies = o->net.task == BMVP_TASK_CLASSIFY,
              rows = i >= 0 ? (int)f->entry[i].dim[0] : 0, n = w->labels ? bmvp_labels_outputs(w->labels) : 0;
    if (classifies && !w->labels) return BMVP_OK;
    if (classifies)
        return bmvp_error_set(err, BMVP_E_ARG,
                              "%s: 'head.weight' classifies cases into %d classes; labels are for networks that "
                              "segment",
                              f->path, o->net.outputs);
    if (i < 0 && bmvp_net_kind_find(c, o->net.kind)->part[BMVP_PART_HEAD])
        return bmvp_error_set(err, BMVP_E_FORMAT,
                              "%s: has no last layer of a segmentation (%s): a pre-trained network; fine-tune it first",
                              f->path, bmvp_net_kind_find(c, o->net.kind)->part[BMVP_PART_HEAD]);
    if (!w->labels)
        return bmvp_error_set(err, BMVP_E_ARG,
                              "%s: tensor '%s' gives %d outputs: say what they are (labels: %s, or a definition)",
                              f->path, i < 0 ? "" : f->entry[i].name, rows, bmvp_labels_names());
    o->labels = *w->labels;
    o->net.task = BMVP_TASK_SEGMENT;
    o->net.outputs = n;
    if (i < 0 || rows == n) return BMVP_OK;
    return bmvp_error_set(err, BMVP_E_SHAPE,
                          "%s: tensor '%s' gives %d outputs, but labels '%s' are %d %s%s: other labels, or regions "
                          "where these are classes",
                          f->path, f->entry[i].name, rows, w->labels->name, w->labels->n,
                          w->labels->exclusive ? "classes" : "regions",
                          w->labels->exclusive ? " and the background" : "");
}

/* The window, and the rest of what a checkpoint of ours would say. */
static bmvp_status bmvpi_weights_describe(const bmvp_ctx *c, const bmvp_ft_weights *w, const char *path,
                                          bmvp_ft_info *o, bmvp_error *err)
{
    int64_t only[3], size[3]; /* z, y, x */
    const int fixed = bmvp_net_only_size(c, &o->net, only);
    bmvp_jw text;
    bmvp_status st = bmvp_preparation_check(&w->preparation, err);
    int a;
    for (a = 0; a < 3; ++a) {
        size[a] = w->window[2 - a] ? w->window[2 - a] : fixed ? only[a] : 96;
        if (!st && (size[a] < 1 || size[a] > 4096))
            st = bmvp_error_set(err, BMVP_E_ARG, "window: %lld voxels, should be 1 to 4096", (long long)size[a]);
        if (!st && fixed && size[a] != only[a])
            st = bmvp_error_set(err, BMVP_E_ARG, "%s: the network takes windows of %lldx%lldx%lld alone", path,
                                (long long)only[2], (long long)only[1], (long long)only[0]);
    }
    (void)bmvp_ft_preset("paper", o->net.task, o->net.kind, &o->cfg);
    o->cfg.copies = 0;
    o->cfg.fill = 1;
    o->cfg.deep_supervision = o->net.deep_supervision;
    o->cfg.crop_z = (int)size[0], o->cfg.crop_y = (int)size[1], o->cfg.crop_x = (int)size[2];
    o->best = (double)NAN;
    bmvp_jw_init(&text, 0, NULL);
    bmvp_preparation_write(&text, NULL, &w->preparation);
    if (!st) st = bmvp_jw_finish(&text, err);
    if (!st) snprintf(o->preparation, sizeof o->preparation, "%s", text.out.data);
    bmvp_jw_free(&text);
    return st;
}

/* row[k]: where in the file output k of the labels is. */
static bmvp_status bmvpi_weights_order(const bmvp_ft_weights *w, const bmvp_labels *l, int *row, bmvp_error *err)
{
    const int first = l->exclusive ? 1 : 0;
    int i, k;
    for (k = 0; k < l->n + first; ++k) row[k] = k;
    for (i = 0; i < l->n && w->outputs[0]; ++i) {
        for (k = 0; k < l->n && (!w->outputs[i] || strcmp(l->region[k], w->outputs[i]) != 0); ++k) { }
        if (k == l->n)
            return bmvp_error_set(err, BMVP_E_ARG, "outputs: '%s' is none of labels '%s'; name each of its %d once",
                                  w->outputs[i] ? w->outputs[i] : "", l->name, l->n);
        row[k + first] = i + first;
    }
    for (i = 0; i < l->n; ++i)
        for (k = 0; k < i; ++k)
            if (row[i + first] == row[k + first] || (w->outputs[0] && strcmp(w->outputs[i], w->outputs[k]) == 0))
                return bmvp_error_set(err, BMVP_E_ARG, "outputs: '%s' is there twice", w->outputs[i]);
    return BMVP_OK;
}

/* The last layers' rows come into the order of the labels. */
static bmvp_status bmvpi_weights_turn(bmvp_ft *f, const int *row, bmvp_error *err)
{
    const bmvp_state_list *l = bmvp_net_state(f->net);
    const int64_t outputs = bmvp_net_config_of(f->net)->outputs;
    int i, k;
    for (i = 0; i < l->n && !bmvp_failed(f->c); ++i) {
        const bmvp_state *s = &l->item[i];
        float *from, *to;
        int64_t n;
        if (!bmvp_net_in_part(f->net, s->name, BMVP_PART_HEAD) || s->torch_rank < 1 || s->torch_dim[0] != outputs)
            continue;
        n = s->t->numel / outputs;
        from = (float *)bmvpi_alloc(f->c, 2 * s->t->numel * (int64_t)sizeof *from);
        if (!from) break;
        to = from + s->t->numel;
        if (bmvp_read(f->c, s->t, to) == BMVP_OK) {
            bmvp_state_to_torch(s, to, from);
            for (k = 0; k < (int)outputs; ++k)
                memcpy(to + k * n, from + row[k] * n, (size_t)n * sizeof *to);
            bmvp_state_from_torch(s, to, from);
            bmvp_write(f->c, s->t, from);
        }
        bmvpi_free(f->c, from);
    }
    return bmvp_failed(f->c) ? bmvp_error_take(f->c, err) : BMVP_OK;
}

/* What the file holds, compared with what is said of it. */
static bmvp_status bmvpi_weights_inspect(const bmvp_ctx *c, const char *path, const bmvp_ft_weights *w,
                                         bmvp_ft_info *o, bmvp_error *err)
{
    const bmvp_ckpt_meta *format;
    const char *group;
    bmvp_ckpt *f = NULL;
    bmvp_status st = bmvp_ckpt_open(path, NULL, &f, err);
    memset(o, 0, sizeof *o);
    format = st ? NULL : bmvp_ckpt_find_meta(f, "", "format");
    if (format)
        st = bmvp_error_set(err, BMVP_E_ARG,
                            "%s: says itself what it is ('%s'): leave away what is said of its network, modalities "
                            "and labels",
                            path, format->value);
    if (!st) st = bmvp_state_group(f, &group, err);
    if (!st) st = bmvp_net_infer_as(c, w->network, w->fields, f, group, &o->net, err);
    if (!st) st = bmvpi_weights_inputs(c, w, f, group, o, err);
    if (!st) st = bmvpi_weights_outputs(c, w, f, group, o, err);
    if (!st) st = bmvpi_weights_describe(c, w, path, o, err);
    bmvp_ckpt_close(f);
    return st;
}

/* Which tensors are of no use; not those of a larger network. */
static bmvp_status bmvpi_weights_left(bmvp_ft *f, const char *path, bmvp_ft_info *o, bmvp_error *err)
{
    const char *group;
    bmvp_ckpt *file = NULL;
    bmvp_status st = bmvp_ckpt_open(path, bmvp_allocator_of(f->c), &file, err);
    int i;
    if (!st) st = bmvp_state_group(file, &group, err);
    if (!st && (i = bmvp_state_larger(file, group, bmvp_net_state(f->net))) >= 0)
        st = bmvp_error_set(err, BMVP_E_SHAPE,
                            "%s: tensor '%s' has no place in the network that its other tensors show: a larger one, or "
                            "tensors are missing",
                            path, file->entry[i].name);
    if (!st) o->n_left = bmvp_state_left(file, group, bmvp_net_state(f->net), o->left, sizeof o->left);
    bmvp_ckpt_close(file);
    return st;
}

BMVP_API bmvp_ft *bmvp_ft_open_weights(bmvp_ctx *c, const char *path, const bmvp_ft_weights *w, bmvp_ft_info *info,
                                       bmvp_error *err)
{
    int row[BMVP_MAX_REGIONS + 1];
    bmvp_ft *f;
    bmvp_status st = bmvpi_weights_inspect(c, path, w, info, err);
    if (!st && w->labels) st = bmvpi_weights_order(w, w->labels, row, err);
    if (st) return NULL;
    f = bmvpi_ft_create(c, &info->net, &info->cfg, w->labels, info->n_modalities, info->names, info->grid, 0);
    if (!f) {
        bmvp_error_set(err, bmvp_error_of(c)->status, "%s: %s", path, bmvp_error_of(c)->message);
        return NULL;
    }
    f->logits = w->labels && !w->probabilities;
    st = bmvp_trainer_load(f->t, path, 0, err);
    if (!st && w->labels) st = bmvpi_weights_turn(f, row, err);
    if (!st) st = bmvpi_weights_left(f, path, info, err);
    if (!st) return f;
    bmvp_ft_destroy(f);
    return NULL;
}

#ifdef BMVP_NIFTI_H_INCLUDED

/* >>predict images: reading, and what prepare does with them ---------------------------------------------------------
 */

static const char *const bmvpi_prepared_text = "bmvp prepared";

/* The error of a transform, which knows no file, with the name of one. */
static bmvp_status bmvpi_named(const char *name, bmvp_status st, const bmvp_error *e, bmvp_error *err)
{
    return st ? bmvp_error_set(err, st, "%s: %s", name, e->message) : BMVP_OK;
}

static const char *bmvpi_image_name(const bmvp_image *k)
{
    return k->path ? k->path : k->modality ? k->modality : "label";
}

static bmvp_status bmvpi_image_given(const bmvp_image *k, bmvp_error *err)
{
    if (!k->path + !k->image + !k->volume == 2) return BMVP_OK;
    return bmvp_error_set(err, BMVP_E_ARG, "%s: give one of path, image and volume", bmvpi_image_name(k));
}

/* A volume as an image that borrows its data. */
static bmvp_status bmvpi_image_of_volume(bmvp_nii_image *i, const bmvp_nii_volume *v, bmvp_error *e)
{
    int a;
    memset(i, 0, sizeof *i);
    i->version = 1;
    i->datatype = BMVP_NII_FLOAT32;
    i->ndim = 3;
    for (a = 0; a < BMVP_NII_MAX_DIMS; ++a) i->dim[a] = a < 3 ? v->dim[a] : 1;
    i->n_voxels = v->dim[0] * v->dim[1] * v->dim[2];
    i->data_bytes = i->n_voxels * (int64_t)sizeof(float);
    i->xyzt_units = 2;
    i->data = v->data;
    return bmvp_nii_set_affine(i, v->affine, 1, e);
}

BMVP_API bmvp_status bmvp_image_read(bmvp_nii_volume *v, const bmvp_image *k, const bmvp_nii_options *io,
                                     bmvp_error *err)
{
    const bmvp_nii_image *use = k->image;
    bmvp_nii_image own;
    bmvp_nii_load how;
    bmvp_error e;
    bmvp_status st = BMVP_OK;
    memset(v, 0, sizeof *v);
    memset(&how, 0, sizeof how);
    how.axcodes = "RAS";
    how.first = k->channel > 0;
    how.t = k->channel > 0 ? k->channel - 1 : 0;
    how.of = k->channel > 0 ? k->channels : 0;
    st = bmvpi_image_given(k, err);
    if (st) return st;
    if (k->path) return bmvp_nii_read_volume(v, k->path, &how, io, err);
    if (k->volume) {
        st = bmvpi_image_of_volume(&own, k->volume, &e);
        use = &own;
    }
    if (!st) st = bmvp_nii_to_volume(v, use, &how, io, &e);
    return bmvpi_named(bmvpi_image_name(k), st, &e, err);
}

/* b's voxel of a's (x, y, z): inverse(to) x from */
static bmvp_status bmvpi_relate(double m[16], const double to[16], const double from[16], const char *name,
                                bmvp_error *err)
{
    double inverse[16];
    bmvp_error e;
    int r, c, k;
    bmvp_status st = bmvpi_named(name, bmvp_nii_affine_inverse(inverse, to, &e), &e, err);
    for (r = 0; r < 4 && !st; ++r)
        for (c = 0; c < 4; ++c)
            for (m[4 * r + c] = 0, k = 0; k < 4; ++k) m[4 * r + c] += inverse[4 * r + k] * from[4 * k + c];
    return st;
}

/* ---- checks of values ---- */

static int bmvpi_one_value(const bmvp_nii_volume *v)
{
    const int64_t n = v->dim[0] * v->dim[1] * v->dim[2];
    int64_t i = v->data[0] == 0 ? bmvpi_skip_zeros(v->data, 0, n) : 1;
    for (; i < n && v->data[i] == v->data[0]; ++i) {
    }
    return i >= n;
}

/* How many different values, up to 8; 0: more. *whole: all are whole numbers from 0 to 255. */
static int bmvpi_few_values(const bmvp_nii_volume *v, int *whole)
{
    const int64_t n = v->dim[0] * v->dim[1] * v->dim[2];
    float seen[8];
    int n_seen = 0, j;
    int64_t i;
    *whole = 1;
    for (i = 0; i < n; ++i) {
        const float x = v->data[i];
        if (i > 0 && x == v->data[i - 1]) {
            if (x == 0) i = bmvpi_skip_zeros(v->data, i, n) - 1;
            continue;
        }
        for (j = 0; j < n_seen && seen[j] != x; ++j) {
        }
        if (j < n_seen) continue;
        if (n_seen == 8) return 0;
        *whole = *whole && x >= 0 && x <= 255 && x == (float)(int)x;
        seen[n_seen++] = x;
    }
    return n_seen;
}

static bmvp_status bmvpi_check_finite(const bmvp_nii_volume *v, const char *name, bmvp_error *err)
{
    if (v->n_nan + v->n_inf == 0) return BMVP_OK;
    return bmvp_error_set(err, BMVP_E_FORMAT, "%s: %lld voxels are NaN or infinite; repair the file", name,
                          (long long)(v->n_nan + v->n_inf));
}

/* One slice has no place in space that could be found, or be filled from elsewhere. */
static bmvp_status bmvpi_check_thick(const bmvp_nii_volume *v, const char *name, bmvp_error *err)
{
    const long long x = (long long)v->dim[0], y = (long long)v->dim[1], z = (long long)v->dim[2];
    if (x > 1 && y > 1 && z > 1) return BMVP_OK;
    return bmvp_error_set(err, BMVP_E_FORMAT,
                          "%s: dim is %lld x %lld x %lld (along the axes of the preparation): one voxel thick, it "
                          "cannot be aligned",
                          name, x, y, z);
}

/* Few whole numbers are a label map given as an image; *few: few others may be one, or an image of little content. */
static bmvp_status bmvpi_check_image(const bmvp_nii_volume *v, const char *name, const char *modality, int *few,
                                     bmvp_error *err)
{
    const int64_t n = v->dim[0] * v->dim[1] * v->dim[2];
    int64_t i;
    int whole;
    for (i = bmvpi_skip_zeros(v->data, 0, n); i < n && v->data[i] <= 0; i = bmvpi_skip_zeros(v->data, i + 1, n)) {
    }
    if (i == n) return bmvp_error_set(err, BMVP_E_FORMAT, "%s: no voxel is above 0: there is no foreground", name);
    *few = bmvpi_few_values(v, &whole);
    if (*few > 1 && whole)
        return bmvp_error_set(
            err, BMVP_E_FORMAT,
            "%s looks like a label map (only a few whole numbers), but stands as modality %s; labels belong "
            "under \"label\"",
            name, modality);
    return BMVP_OK;
}

/* Does the caller want to go on? */
static bmvp_status bmvpi_prepare_asked(const bmvp_prepare_job *job, const char *what, int done)
{
    return job->progress && job->progress(job->progress_user, what, done, job->n) ? BMVP_E_CANCELLED : BMVP_OK;
}

/* ---- one grid ---- */

/* A case on its way: images are held without the zeros around them, each cut out of `grid` at `at`. */
typedef struct bmvpi_preparing {
    bmvp_prepared_images *p;
    const bmvp_prepare_job *job;
    const char *first; /* name of the image that has given the frame; NULL: none has yet */
    const char *name[BMVP_MODALITIES];
    bmvp_nii_volume grid; /* of the frame after resampling; without data */
    int64_t at[BMVP_MODALITIES][3];
    bmvpi_label_look had; /* the label before anything could lose a value */
    int resampled;        /* the label */
} bmvpi_preparing;

static bmvp_nii_volume bmvpi_grid_of(const bmvp_nii_volume *v)
{
    bmvp_nii_volume grid = *v;
    grid.data = NULL;
    grid.block = NULL;
    return grid;
}

/* Linear at p (x, y, z), the border's value within half a voxel beyond it, then 0. */
static float bmvpi_linear_at(const float *v, const int64_t dim[3], const double p[3])
{
    int64_t at[3], next[3] = { 0, 0, 0 };
    double w[3], sum = 0;
    int a, corner;
    for (a = 0; a < 3; ++a) {
        const double last = (double)(dim[a] - 1);
        if (!(p[a] >= -0.5001 && p[a] <= last + 0.5001)) return 0;
        w[a] = p[a] < 0 ? 0 : p[a] > last ? last : p[a];
        at[a] = (int64_t)w[a];
        next[a] = at[a] + 1 < dim[a];
        w[a] -= (double)at[a];
    }
    for (corner = 0; corner < 8; ++corner) {
        const int x = corner & 1, y = corner >> 1 & 1, z = corner >> 2;
        const double share = (x ? w[0] : 1 - w[0]) * (y ? w[1] : 1 - w[1]) * (z ? w[2] : 1 - w[2]);
        const int64_t i = ((at[2] + z * next[2]) * dim[1] + at[1] + y * next[1]) * dim[0] + at[0] + x * next[0];
        sum += share * (double)v[i];
    }
    return (float)sum;
}

/* v at the voxels of the frame. */
static bmvp_status bmvpi_regrid(bmvp_nii_volume *v, const bmvp_nii_volume *frame, const char *name,
                                const bmvp_nii_options *io, bmvp_error *err)
{
    double m[16], p[3];
    bmvp_nii_volume out;
    bmvp_error e;
    int64_t x, y, z;
    float *to;
    int a;
    bmvp_status st = bmvpi_relate(m, v->affine, frame->affine, name, err);
    if (!st) st = bmvpi_named(name, bmvp_nii_volume_create(&out, frame->dim, frame->affine, io, &e), &e, err);
    if (st) return st;
    for (z = 0, to = out.data; z < out.dim[2]; ++z)
        for (y = 0; y < out.dim[1]; ++y)
            for (x = 0; x < out.dim[0]; ++x, ++to) {
                for (a = 0; a < 3; ++a)
                    p[a] = m[4 * a] * (double)x + m[4 * a + 1] * (double)y + m[4 * a + 2] * (double)z + m[4 * a + 3];
                *to = bmvpi_linear_at(v->data, v->dim, p);
            }
    bmvp_nii_volume_free(v);
    *v = out;
    return BMVP_OK;
}

/* Brings v to the frame, which the first image gives; then all have the same numbers for it. */
static bmvp_status bmvpi_to_frame(bmvpi_preparing *s, bmvp_nii_volume *v, const char *name, int is_label,
                                  bmvp_error *err)
{
    bmvp_nii_volume *frame = &s->p->frame;
    if (!s->first) {
        s->first = name;
        *frame = bmvpi_grid_of(v);
        return BMVP_OK;
    }
    if (bmvp_nii_one_grid(frame, v)) {
        memcpy(v->affine, frame->affine, sizeof v->affine);
        return BMVP_OK;
    }
    if (s->job->other_grids && !is_label) return bmvpi_regrid(v, frame, name, s->job->io, err);
    if (is_label)
        return bmvp_error_set(err, BMVP_E_SHAPE, "label %s and image %s are on different grids", name, s->first);
    return bmvp_error_set(
        err, BMVP_E_SHAPE,
        "%s (%lldx%lldx%lld) and %s (%lldx%lldx%lld) are on different grids%s; bring them to one: "
        "--register rigid, or header where the head lay still (bmvp_preparation.align)",
        s->first, (long long)frame->dim[0], (long long)frame->dim[1], (long long)frame->dim[2], name,
        (long long)v->dim[0], (long long)v->dim[1], (long long)v->dim[2],
        memcmp(v->dim, frame->dim, sizeof v->dim) ? "" : " (by their affines)");
}

static void bmvpi_voxel_size(const bmvp_nii_volume *v, double mm[3])
{
    int a;
    for (a = 0; a < 3; ++a) {
        const double *m = v->affine + a;
        mm[a] = sqrt(m[0] * m[0] + m[4] * m[4] + m[8] * m[8]);
    }
}

/* Is the header in another unit than it says? Voxels of no scan; a scan that resampling would make huge, or a few
   voxels: a head is larger than 64 mm, its voxels than 0.2. */
static int bmvpi_is_odd_size(const bmvp_nii_volume *v, const double mm[3], double times)
{
    const double n = (double)v->dim[0] * (double)v->dim[1] * (double)v->dim[2];
    double field = 0;
    int a, odd = 0;
    for (a = 0; a < 3; ++a) {
        odd |= !(mm[a] >= 0.01 && mm[a] <= 100);
        field = fmax(field, mm[a] * (double)v->dim[a]);
    }
    if (times > 125 && times * n > 134217728.0) odd = 1; /* 512^3 */
    return odd || (times < 1.0 / 125 && mm[0] * mm[1] * mm[2] < 1.0 / 125 && field < 64);
}

static bmvp_status bmvpi_check_spacing(const bmvp_nii_volume *v, double spacing, bmvp_error *e)
{
    double mm[3], times;
    char become[64] = "";
    bmvpi_voxel_size(v, mm);
    times = spacing > 0 ? mm[0] * mm[1] * mm[2] / (spacing * spacing * spacing) : 1;
    if (!bmvpi_is_odd_size(v, mm, times)) return BMVP_OK;
    if (spacing > 0)
        snprintf(become, sizeof become, " would become %.3g of %g mm",
                 times * (double)v->dim[0] * (double)v->dim[1] * (double)v->dim[2], spacing);
    return bmvp_error_set(e, BMVP_E_FORMAT,
                          "%lldx%lldx%lld voxels of %g x %g x %g mm%s: is pixdim in the unit of xyzt_units?%s",
                          (long long)v->dim[0], (long long)v->dim[1], (long long)v->dim[2], mm[0], mm[1], mm[2], become,
                          spacing > 0 ? " Or choose another spacing" : "");
}

static bmvp_status bmvpi_spacing(bmvp_nii_volume *v, double spacing, int mode, bmvp_error *e)
{
    const double mm[3] = { spacing, spacing, spacing };
    bmvp_nii_resample how;
    if (bmvpi_check_spacing(v, spacing, e)) return e->status;
    memset(&how, 0, sizeof how);
    how.mode = mode;
    return spacing > 0 ? bmvp_nii_spacing(v, mm, &how, e) : BMVP_OK;
}

static bmvp_status bmvpi_trim(bmvp_nii_volume *v, int64_t at[3], bmvp_error *e)
{
    bmvp_nii_box box;
    bmvp_status st = bmvp_nii_nonzero_box(&box, v, e);
    if (st == BMVP_OK && box.end[0] > box.start[0]) st = bmvp_nii_crop(v, &box, 0, e);
    memcpy(at, box.start, sizeof box.start);
    return st;
}

static void *bmvpi_nii_zeros(const bmvp_allocator *memory, int64_t bytes)
{
    void *p = memory->alloc ? memory->alloc((size_t)bytes, memory->user) : malloc((size_t)bytes);
    if (p) memset(p, 0, (size_t)bytes);
    return p;
}
static void bmvpi_nii_release(const bmvp_allocator *memory, void *p)
{
    if (!memory->alloc) free(p);
    else if (p) memory->free(p, memory->user);
}

/* Marks the voxels of v that are not 0, at their place in an array of dim. */
static void bmvpi_mark(unsigned char *marks, const int64_t dim[3], const bmvp_nii_volume *v, const int64_t at[3])
{
    int64_t x, y, z;
    for (z = 0; z < v->dim[2]; ++z)
        for (y = 0; y < v->dim[1]; ++y) {
            unsigned char *to = marks + ((z + at[2]) * dim[1] + y + at[1]) * dim[0] + at[0];
            const float *from = v->data + (z * v->dim[1] + y) * v->dim[0];
            for (x = 0; x < v->dim[0]; ++x) to[x] |= from[x] != 0;
        }
}

static bmvp_status bmvpi_mark_content(bmvpi_preparing *s, const bmvp_nii_volume *v, bmvp_error *err)
{
    static const int64_t origin[3] = { 0, 0, 0 };
    bmvp_prepared_images *p = s->p;
    if (!s->job->masks) return BMVP_OK;
    if (!p->content) p->content = (unsigned char *)bmvpi_nii_zeros(&p->allocator, v->dim[0] * v->dim[1] * v->dim[2]);
    if (!p->content) return bmvp_error_set(err, BMVP_E_OOM, "out of memory for a mask");
    bmvpi_mark(p->content, p->frame.dim, v, origin);
    return BMVP_OK;
}

/* Along the axes of the preparation */
static bmvp_status bmvpi_read_along(const bmvpi_preparing *s, int m, bmvp_nii_volume *v, const bmvp_image *k,
                                    bmvp_error *err)
{
    const char *const axes = s->job->how->axes;
    bmvp_status st = bmvp_image_read(v, k, s->job->io, err);
    bmvp_error e;
    s->p->by_qform |= (uint32_t)v->by_qform << m;
    s->p->forms_apart[m] = v->forms_apart;
    return st || !axes[0] ? st : bmvpi_named(bmvpi_image_name(k), bmvp_nii_orient(v, axes, &e), &e, err);
}

/* *m: the known modality of an image, each once. */
static bmvp_status bmvpi_image_slot(bmvpi_preparing *s, const bmvp_image *k, int *m, bmvp_error *err)
{
    const char *name = bmvpi_image_name(k);
    *m = k->modality ? bmvp_modality_find(k->modality) : -1;
    if (*m < 0)
        return bmvp_error_set(err, BMVP_E_ARG, "%s: modality '%s' is not known", name, k->modality ? k->modality : "");
    if (s->name[*m])
        return bmvp_error_set(err, BMVP_E_ARG, "%s and %s are both given as %s", s->name[*m], name,
                              bmvp_modality_name(*m));
    s->name[*m] = name;
    return BMVP_OK;
}

/* 1: the image holds nothing, and is now missing. */
static int bmvpi_take_blank(bmvpi_preparing *s, int m)
{
    const bmvp_nii_volume *v = &s->p->image[m];
    if (!bmvpi_one_value(v) || (v->data[0] != 0 && !s->job->constants)) return 0;
    s->p->blank |= 1u << m;
    bmvp_nii_volume_free(&s->p->image[m]);
    return 1;
}

/* Reads an image, which is *m; -1: it is blank. */
static bmvp_status bmvpi_take_image(bmvpi_preparing *s, const bmvp_image *k, int *m, bmvp_error *err)
{
    const char *name = bmvpi_image_name(k);
    bmvp_nii_volume *v;
    int few = 0;
    bmvp_status st = bmvpi_image_slot(s, k, m, err);
    if (st) return st;
    v = &s->p->image[*m];
    st = bmvpi_read_along(s, *m, v, k, err);
    if (!st) st = bmvpi_check_finite(v, name, err);
    if (!st && bmvpi_take_blank(s, *m)) {
        *m = -1;
        return BMVP_OK;
    }
    if (!st) st = bmvpi_check_image(v, name, bmvp_modality_name(*m), &few, err);
    s->p->few |= (uint32_t)(few > 0) << *m;
    return st;
}

static bmvp_status bmvpi_prepare_image(bmvpi_preparing *s, const bmvp_image *k, bmvp_error *err)
{
    const char *name = bmvpi_image_name(k);
    bmvp_nii_volume *v;
    bmvp_error e;
    int m;
    bmvp_status st = bmvpi_take_image(s, k, &m, err);
    if (st || m < 0) return st;
    v = &s->p->image[m];
    st = bmvpi_to_frame(s, v, name, 0, err);
    if (!st) st = bmvpi_mark_content(s, v, err);
    if (!st) st = bmvpi_named(name, bmvpi_spacing(v, s->job->how->spacing, BMVP_NII_LINEAR, &e), &e, err);
    if (st) return st;
    s->grid = bmvpi_grid_of(v);
    return bmvpi_named(name, bmvpi_trim(v, s->at[m], &e), &e, err);
}

static int64_t bmvpi_count_nonzero(const float *v, int64_t n)
{
    int64_t i, count = 0;
    for (i = bmvpi_skip_zeros(v, 0, n); i < n; i = v[i] != 0 ? i + 1 : bmvpi_skip_zeros(v, i, n))
        count += v[i] != 0;
    return count;
}

/* How many voxels outside of the box are not 0. look: of v, or NULL: slices in which it saw nothing are not read
   again. */
static int64_t bmvpi_count_outside(const bmvp_nii_volume *v, const bmvp_nii_box *box, const bmvpi_label_look *look)
{
    const int64_t n = v->dim[0], slice = n * v->dim[1];
    const int64_t end = look ? (look->last + slice) / slice : v->dim[2];
    int64_t y, z, count = 0;
    for (z = look ? look->first / slice : 0; z < end; ++z)
        for (y = 0; y < v->dim[1]; ++y) {
            const float *row = v->data + (z * v->dim[1] + y) * n;
            const int inside = z >= box->start[2] && z < box->end[2] && y >= box->start[1] && y < box->end[1];
            const int64_t low = inside ? bmvpi_max(0, bmvpi_min(box->start[0], n)) : n;
            const int64_t high = inside ? bmvpi_max(low, bmvpi_min(box->end[0], n)) : n;
            count += bmvpi_count_nonzero(row, low) + bmvpi_count_nonzero(row + high, n - high);
        }
    return count;
}

/* Another voxel size than v has? */
static int bmvpi_resamples(const bmvp_nii_volume *v, double spacing)
{
    double mm[3];
    int a, other = 0;
    bmvpi_voxel_size(v, mm);
    for (a = 0; a < 3; ++a) other |= !(fabs(mm[a] - spacing) <= 1e-3 * spacing);
    return spacing > 0 && other;
}

static bmvp_status bmvpi_crop_label(bmvpi_preparing *s, const bmvp_nii_box *box, bmvp_error *err)
{
    bmvp_prepared_images *p = s->p;
    const bmvp_nii_volume *v = &p->label;
    bmvpi_label_look now;
    bmvp_error e;
    int u;
    p->label_cut = bmvpi_count_outside(v, box, s->resampled ? NULL : &s->had);
    if (bmvp_nii_crop(&p->label, box, 0, &e)) return bmvpi_named(bmvpi_image_name(s->job->label), e.status, &e, err);
    if (!p->label_cut && !s->resampled) return BMVP_OK; /* nothing can be lost */
    (void)bmvpi_labels_scan(NULL, v->data, v->dim[0] * v->dim[1] * v->dim[2], &now);
    for (u = 1; u < 256 && !p->label_lost; ++u)
        if (s->had.has[u] && !now.has[u]) p->label_lost = u;
    return BMVP_OK;
}

static bmvp_status bmvpi_prepare_label(bmvpi_preparing *s, bmvp_error *err)
{
    const bmvp_image *k = s->job->label;
    bmvp_nii_volume *v = &s->p->label;
    const char *name;
    bmvp_error e;
    bmvp_status st;
    int64_t dim[3];
    if (!k || !s->first) return BMVP_OK;
    name = bmvpi_image_name(k);
    st = bmvpi_read_along(s, BMVP_MODALITIES, v, k, err);
    if (!st) st = bmvpi_to_frame(s, v, name, 1, err);
    dim[0] = v->dim[2], dim[1] = v->dim[1], dim[2] = v->dim[0];
    if (!st) st = bmvpi_labels_look(s->job->labels, v->data, dim, name, &s->had, err);
    s->resampled = !st && bmvpi_resamples(v, s->job->how->spacing);
    return st ? st : bmvpi_named(name, bmvpi_spacing(v, s->job->how->spacing, BMVP_NII_NEAREST, &e), &e, err);
}

/* Resampling has left no voxel above 0. */
static bmvp_status bmvpi_nothing_left(const bmvpi_preparing *s, bmvp_error *err)
{
    const int64_t *n = s->p->frame.dim;
    double mm[3];
    bmvpi_voxel_size(&s->p->frame, mm);
    return bmvp_error_set(err, BMVP_E_FORMAT,
                          "%s: of %lldx%lldx%lld voxels of %g x %g x %g mm none above 0 is left at %g mm: is pixdim in "
                          "the unit of xyzt_units? Or choose another spacing",
                          s->first, (long long)n[0], (long long)n[1], (long long)n[2], mm[0], mm[1], mm[2],
                          s->job->how->spacing);
}

/* The box of voxels above 0 in any modality, in the grid they share. */
static bmvp_status bmvpi_foreground(bmvp_nii_box *box, const bmvpi_preparing *s, bmvp_error *err)
{
    bmvp_error e;
    int m, a;
    memset(box, 0, sizeof *box);
    if (s->job->how->whole) {
        memcpy(box->end, s->grid.dim, sizeof box->end);
        return BMVP_OK;
    }
    for (m = 0; m < BMVP_MODALITIES; ++m) {
        const bmvp_nii_volume *v = &s->p->image[m];
        bmvp_nii_box own;
        bmvp_status st;
        if (!v->data) continue;
        st = bmvpi_named(s->name[m], bmvp_nii_foreground_box(&own, v, 1, 0, &e), &e, err);
        if (st) return st;
        if (own.end[0] == own.start[0]) continue;
        for (a = 0; a < 3; ++a) {
            const int64_t start = own.start[a] + s->at[m][a], end = own.end[a] + s->at[m][a];
            own.start[a] = box->end[a] > 0 && box->start[a] < start ? box->start[a] : start;
            own.end[a] = box->end[a] > end ? box->end[a] : end;
        }
        *box = own;
    }
    if (box->end[0] == 0) return bmvpi_nothing_left(s, err);
    if (s->job->how->centre_crop) bmvp_nii_center_box(box, s->grid.dim);
    return BMVP_OK;
}

/* One box for all images and the label. */
static bmvp_status bmvpi_prepare_box(bmvpi_preparing *s, bmvp_error *err)
{
    static const int64_t origin[3] = { 0, 0, 0 };
    bmvp_prepared_images *p = s->p;
    bmvp_nii_box box;
    bmvp_error e;
    int m, a;
    bmvp_status st = bmvpi_foreground(&box, s, err);
    for (a = 0; a < 3; ++a) p->box[a] = box.end[a] - box.start[a];
    if (!st && s->job->masks)
        p->inside = (unsigned char *)bmvpi_nii_zeros(&p->allocator, p->box[0] * p->box[1] * p->box[2]);
    if (!st && s->job->masks && !p->inside) st = bmvp_error_set(err, BMVP_E_OOM, "out of memory for a mask");
    for (m = 0; m < BMVP_MODALITIES && !st; ++m) {
        bmvp_nii_volume *v = &p->image[m];
        bmvp_nii_box own = box;
        if (!v->data) continue;
        for (a = 0; a < 3; ++a) own.start[a] -= s->at[m][a], own.end[a] -= s->at[m][a];
        st = bmvpi_named(s->name[m], bmvp_nii_crop(v, &own, 0, &e), &e, err);
        bmvp_nii_box_affine(v->affine, s->grid.affine, &box); /* the numbers of one crop, not of two */
        if (!st && p->inside) bmvpi_mark(p->inside, p->box, v, origin);
    }
    if (!st && p->brain.data) st = bmvpi_named(s->first, bmvp_nii_crop(&p->brain, &box, 0, &e), &e, err);
    return !st && p->label.data ? bmvpi_crop_label(s, &box, err) : st;
}

/* >>predict atlas: a template head whose brain is known ---------------------------------------------------------------

   The reference of a case is registered to the template, or the template's brain is carried to the case, or both. All
   happens before any image is resampled: P, mm of the template to mm of the reference, is multiplied onto the matrices
   of the images, and the mask, made on the reference's own grid, is taken along. */

/* FNV-1a over n bytes. */
static uint32_t bmvpi_atlas_hash(uint32_t h, const void *data, size_t n)
{
    const unsigned char *p = (const unsigned char *)data;
    while (n-- > 0) h = (h ^ *p++) * 16777619u;
    return h;
}

/* Can a case be registered to it, and is there a brain in it? */
static bmvp_status bmvpi_atlas_usable(const char *file, const bmvp_nii_volume *head, const bmvp_nii_volume *brain,
                                      bmvp_error *err)
{
    const int64_t *d = head->dim, n = d[0] * d[1] * d[2];
    int64_t i, inside = 0;
    bmvp_status st = bmvpi_check_thick(head, file, err);
    if (!st) st = bmvpi_check_finite(head, file, err);
    if (!st && brain) st = bmvpi_check_finite(brain, file, err);
    if (!st && bmvpi_one_value(head))
        st = bmvp_error_set(err, BMVP_E_FORMAT, "%s: all voxels are %g: this is no template head", file,
                            (double)head->data[0]);
    if (st || !brain) return st;
    if (!bmvp_nii_one_grid(head, brain))
        return bmvp_error_set(err, BMVP_E_SHAPE, "%s: its brain lies on another grid", file);
    for (i = 0; i < n; ++i) inside += brain->data[i] > 0;
    if (inside == 0 || inside == n)
        return bmvp_error_set(err, BMVP_E_FORMAT, "%s: its brain (voxels above 0) is %s", file,
                              inside ? "everywhere: is it the head?" : "nowhere");
    return BMVP_OK;
}

BMVP_API bmvp_status bmvp_atlas_set(bmvp_atlas *a, const char *file, const bmvp_nii_volume *head,
                                    const bmvp_nii_volume *brain, bmvp_error *err)
{
    const char *slash = strrchr(file, '/');
    const size_t n = (size_t)(head->dim[0] * head->dim[1] * head->dim[2]) * sizeof(float);
    uint32_t h;
    bmvp_status st = bmvpi_atlas_usable(file, head, brain, err);
    memset(a, 0, sizeof *a);
    if (st) return st;
    a->head = head;
    a->brain = brain;
    h = bmvpi_atlas_hash(2166136261u, head->dim, sizeof head->dim);
    h = bmvpi_atlas_hash(h, head->data, n);
    if (brain) h = bmvpi_atlas_hash(h, brain->data, n);
    snprintf(a->name, sizeof a->name, "%.40s %08lx", slash ? slash + 1 : file, (unsigned long)h);
    return BMVP_OK;
}

/* Is the template of the job the one that the preparation names? */
static bmvp_status bmvpi_atlas_check(const bmvp_prepare_job *job, bmvp_error *err)
{
    const bmvp_atlas *a = job->atlas;
    const char *want = job->how->atlas;
    if (!want[0]) return BMVP_OK;
    if (!a || !a->head || (job->how->strip && !a->brain))
        return bmvp_error_set(err, BMVP_E_ARG, "its preparation needs the template head '%s'%s: --template FILE%s",
                              want, job->how->strip ? " and its brain" : "",
                              job->how->strip ? " --template-brain FILE" : "");
    if (strcmp(bmvpi_atlas_mark(want), bmvpi_atlas_mark(a->name)) != 0)
        return bmvp_error_set(err, BMVP_E_ARG, "the template '%s' is not '%s', which its preparation names", a->name,
                              want);
    return BMVP_OK;
}

/* A mask of the template up to `most` mm around its brain. */
static bmvp_status bmvpi_atlas_near(bmvp_nii_volume *near_brain, const bmvp_atlas *a, double most, bmvp_error *err)
{
    int64_t i, n;
    bmvp_status st = bmvp_nii_distance(near_brain, a->brain, err);
    if (st) return st;
    n = near_brain->dim[0] * near_brain->dim[1] * near_brain->dim[2];
    for (i = 0; i < n; ++i) near_brain->data[i] = (double)near_brain->data[i] < most;
    return BMVP_OK;
}

static void bmvpi_cut_away(bmvp_nii_volume *v, const bmvp_nii_volume *mask)
{
    const int64_t n = v->dim[0] * v->dim[1] * v->dim[2];
    int64_t i;
    for (i = 0; i < n; ++i)
        if (!(mask->data[i] > 0)) v->data[i] = 0;
}

/* P by registration: the template's samples lie around its brain where that is known. */
static bmvp_status bmvpi_atlas_register(bmvpi_preparing *s, bmvp_error *err)
{
    bmvp_prepared_images *p = s->p;
    const bmvp_atlas *a = s->job->atlas;
    bmvp_nii_volume head, region;
    bmvp_nii_register_how how;
    bmvp_nii_registration r;
    bmvp_error e;
    bmvp_status st = BMVP_OK;
    memset(&how, 0, sizeof how);
    memset(&head, 0, sizeof head);
    memset(&region, 0, sizeof region);
    how.dof = s->job->how->to == BMVP_TO_AFFINE ? BMVP_NII_AFFINE : BMVP_NII_RIGID;
    how.search = s->job->how->search_all ? BMVP_NII_SEARCH_ALL : BMVP_NII_SEARCH_SMALL;
    how.progress = s->job->progress;
    how.progress_user = s->job->progress_user;
    if (a->brain) {
        st = bmvpi_atlas_near(&region, a, p->stripped ? 8 : 25, &e);
        how.mask = &region;
    }
    if (!st && a->brain && p->stripped) st = bmvp_nii_volume_copy(&head, a->head, &e);
    if (!st && head.data) bmvpi_cut_away(&head, a->brain);
    if (!st) st = bmvp_nii_register(&r, head.data ? &head : a->head, &p->image[p->reference], &how, &e);
    bmvp_nii_volume_free(&head);
    bmvp_nii_volume_free(&region);
    if (st) return bmvp_error_set(err, st, "%s cannot be registered to the template: %s", s->first, e.message);
    if (r.overlap < 0.3 && !s->job->keep_doubtful)
        return bmvp_error_set(err, BMVP_E_FORMAT,
                              "%s: only %.0f %% of the template's head lie in it; keep such cases with --keep-doubtful",
                              s->first, 100 * r.overlap);
    memcpy(p->to_atlas, r.matrix, sizeof p->to_atlas);
    p->atlas_nmi = r.nmi;
    return BMVP_OK;
}

/* The mask on the reference's own grid, from all images. */
static bmvp_status bmvpi_atlas_mask(bmvpi_preparing *s, bmvp_nii_volume *mask, bmvp_error *err)
{
    bmvp_prepared_images *p = s->p;
    bmvp_nii_volume v[BMVP_MODALITIES];
    bmvp_nii_brain_how how;
    bmvp_error e;
    bmvp_status st = BMVP_OK;
    int m, n = 1;
    memset(&how, 0, sizeof how);
    how.margin = s->job->how->strip_margin;
    how.progress = s->job->progress;
    how.progress_user = s->job->progress_user;
    v[0] = p->image[p->reference];
    for (m = 0; m < BMVP_MODALITIES && !st; ++m) {
        if (!p->image[m].data || m == p->reference) continue;
        st = bmvp_nii_resample_to(&v[n], &p->image[m], v, p->aligned[m].matrix, BMVP_NII_LINEAR, 0, &e);
        if (!st && bmvpi_one_value(&v[n])) bmvp_nii_volume_free(&v[n]); /* it lies elsewhere */
        else if (!st) ++n;
    }
    if (!st)
        st = bmvp_nii_brain_mask(mask, v, n, s->job->atlas->head, s->job->atlas->brain, &how, &p->brain_report, &e);
    while (--n > 0) bmvp_nii_volume_free(&v[n]);
    return st ? bmvp_error_set(err, st, "%s: no brain is found: %s", s->first, e.message) : BMVP_OK;
}

/* Mask (data NULL: none) and P; all matrices of images are then of mm of the prepared grid. */
static bmvp_status bmvpi_atlas(bmvpi_preparing *s, bmvp_nii_volume *mask, bmvp_error *err)
{
    bmvp_prepared_images *p = s->p;
    const bmvp_preparation *how = s->job->how;
    bmvp_status st = BMVP_OK;
    int m;
    p->stripped = bmvp_nii_is_stripped(&p->image[p->reference]);
    if (how->strip && !p->stripped) st = bmvpi_atlas_mask(s, mask, err);
    if (st || !how->to) return st;
    if (how->to == BMVP_TO_AFFINE && mask->data) {
        memcpy(p->to_atlas, p->brain_report.matrix, sizeof p->to_atlas);
        p->atlas_nmi = p->brain_report.nmi;
    } else st = bmvpi_atlas_register(s, err);
    for (m = 0; m < BMVP_MODALITIES && !st; ++m)
        if (p->image[m].data)
            bmvp_nii_matrix_multiply(p->aligned[m].matrix, p->aligned[m].matrix, p->to_atlas);
    return st;
}

/* The template's grid at the spacing of the preparation, along its axes. */
static bmvp_status bmvpi_atlas_grid(bmvpi_preparing *s, bmvp_error *err)
{
    const bmvp_preparation *how = s->job->how;
    bmvp_nii_volume v;
    bmvp_error e;
    bmvp_status st = bmvp_nii_volume_copy(&v, s->job->atlas->head, &e);
    if (!st && how->axes[0]) st = bmvp_nii_orient(&v, how->axes, &e);
    if (!st) st = bmvpi_spacing(&v, how->spacing, BMVP_NII_LINEAR, &e);
    s->grid = bmvpi_grid_of(&v);
    bmvp_nii_volume_free(&v);
    return st ? bmvp_error_set(err, st, "template: %s", e.message) : BMVP_OK;
}

/* The mask on the prepared grid. */
static bmvp_status bmvpi_atlas_brain(bmvpi_preparing *s, const bmvp_nii_volume *mask, bmvp_error *err)
{
    bmvp_nii_volume *to = &s->p->brain;
    bmvp_error e;
    int64_t i, n;
    bmvp_status st;
    if (!mask->data) return BMVP_OK;
    st = bmvp_nii_resample_to(to, mask, &s->grid, s->job->how->to ? s->p->to_atlas : NULL, BMVP_NII_LINEAR, 0, &e);
    if (st) return bmvpi_named(s->first, st, &e, err);
    n = to->dim[0] * to->dim[1] * to->dim[2];
    for (i = 0; i < n; ++i) to->data[i] = to->data[i] >= 0.5f;
    return BMVP_OK;
}

/* >>predict align: images of one case on their own grids --------------------------------------------------------------

   A scanner gives each sequence a grid of its own, and heads move between them. One image is the reference; every other
   one has a matrix T from mm of the reference to its own mm, from the headers alone or from registration. A voxel of
   the prepared grid at mm x takes the value at T x, in one interpolation; a label map goes by the matrix of the image
   on whose grid it was drawn; a prediction comes back to any of the images by the inverse. */

/* The reference; -1: no image is left. */
static int bmvpi_align_reference(const bmvpi_preparing *s)
{
    static const char *const order[4] = { "t1c", "t1", "flair", "t2" };
    const int wanted = bmvp_modality_find(s->job->how->reference);
    double least = 0;
    int i, best = -1;
    if (wanted >= 0 && s->p->image[wanted].data) return wanted;
    for (i = 0; i < 4 + BMVP_MODALITIES; ++i) {
        const int m = i < 4 ? bmvp_modality_find(order[i]) : i - 4;
        double mm[3];
        if (!s->p->image[m].data) continue;
        bmvpi_voxel_size(&s->p->image[m], mm);
        if (best >= 0 && !(mm[0] * mm[1] * mm[2] < 0.999 * least)) continue;
        least = mm[0] * mm[1] * mm[2];
        best = m;
    }
    return best;
}

static bmvp_status bmvpi_align_pair(double matrix[16], bmvp_aligned *to, const bmvpi_preparing *s, int fixed,
                                    int moving, bmvp_error *err)
{
    bmvp_nii_register_how how;
    bmvp_nii_registration r;
    bmvp_error e;
    bmvp_status st;
    memset(&how, 0, sizeof how);
    how.search = s->job->how->search_all ? BMVP_NII_SEARCH_ALL : BMVP_NII_SEARCH_SMALL;
    how.progress = s->job->progress;
    how.progress_user = s->job->progress_user;
    st = bmvp_nii_register(&r, &s->p->image[fixed], &s->p->image[moving], &how, &e);
    if (st)
        return bmvp_error_set(err, st, "%s cannot be registered to %s: %s", s->name[moving], s->name[fixed], e.message);
    memcpy(matrix, r.matrix, sizeof r.matrix);
    if (to) to->nmi = r.nmi, to->overlap = r.overlap;
    return BMVP_OK;
}

/* 1 where the reference is above a tenth of its bright voxels: the head, for means over it. */
static bmvp_status bmvpi_align_head(bmvp_nii_volume *head, const bmvp_nii_volume *v, bmvp_error *err)
{
    static const double q[2] = { 2, 98 };
    const int64_t n = v->dim[0] * v->dim[1] * v->dim[2];
    float at[2], bound;
    int64_t i;
    bmvp_status st = bmvp_nii_percentiles(at, q, 2, v->data, n, &v->allocator, err);
    memset(head, 0, sizeof *head);
    if (!st) st = bmvp_nii_volume_copy(head, v, err);
    if (st) return st;
    bound = at[0] + 0.1f * (at[1] - at[0]);
    for (i = 0; i < n; ++i) head->data[i] = v->data[i] > bound;
    return BMVP_OK;
}

/* mm by which the loop reference -> a -> b -> reference misses. a = b: there and back. */
static bmvp_status bmvpi_align_loop(double *mm, const bmvpi_preparing *s, const bmvp_nii_volume *head, int a, int b,
                                    bmvp_error *err)
{
    static const double one[16] = { 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1 };
    const bmvp_aligned *const of = s->p->aligned;
    double loop[16], back[16];
    bmvp_status st = bmvpi_align_pair(loop, NULL, s, a, a == b ? s->p->reference : b, err);
    if (!st) bmvp_nii_matrix_multiply(loop, loop, of[a].matrix);
    if (!st && a != b) st = bmvp_nii_affine_inverse(back, of[b].matrix, err);
    if (!st && a != b) bmvp_nii_matrix_multiply(loop, back, loop);
    *mm = st ? 0 : bmvp_nii_matrix_distance(loop, one, head);
    return st;
}

/* Loops of neighbours in a ring of the moving images: each is in two of them (of three images: in one), and takes the
   smaller, so that a wrong one does not spoil the figure of the others. */
static bmvp_status bmvpi_align_loops(bmvpi_preparing *s, bmvp_error *err)
{
    bmvp_aligned *const of = s->p->aligned;
    int ring[BMVP_MODALITIES], n = 0, m, i;
    bmvp_nii_volume head;
    bmvp_status st;
    for (m = 0; m < BMVP_MODALITIES; ++m)
        if (s->p->image[m].data && m != s->p->reference) ring[n++] = m, of[m].loop = -1;
    if (n == 0) return BMVP_OK;
    st = bmvpi_align_head(&head, &s->p->image[s->p->reference], err);
    for (i = 0; i < (n == 2 ? 1 : n) && !st; ++i) {
        const int a = ring[i], b = ring[(i + 1) % n];
        double mm;
        st = bmvpi_align_loop(&mm, s, &head, a, b, err);
        if (of[a].loop < 0 || mm < of[a].loop) of[a].loop = mm;
        if (of[b].loop < 0 || mm < of[b].loop) of[b].loop = mm;
    }
    bmvp_nii_volume_free(&head);
    return st;
}

/* Which share of the reference's head lies in an image, by the headers. */
static bmvp_status bmvpi_align_share(double *share, const bmvp_nii_volume *head, const bmvp_nii_volume *v,
                                     const char *name, bmvp_error *err)
{
    double m[16];
    int64_t x, y, z, i = 0, n = 0, inside = 0;
    int a;
    bmvp_status st = bmvpi_relate(m, v->affine, head->affine, name, err);
    for (z = 0; z < head->dim[2] && !st; ++z)
        for (y = 0; y < head->dim[1]; ++y)
            for (x = 0; x < head->dim[0]; ++x, ++i) {
                int in = 1;
                if (!(head->data[i] > 0)) continue;
                for (a = 0; a < 3 && in; ++a) {
                    const double at = m[4 * a] * (double)x + m[4 * a + 1] * (double)y + m[4 * a + 2] * (double)z +
                                      m[4 * a + 3];
                    in = at >= -0.5 && at <= (double)v->dim[a] - 0.5;
                }
                inside += in;
                ++n;
            }
    *share = n > 0 ? (double)inside / (double)n : 0;
    return st;
}

/* By the headers: images whose fields of view lie apart would become 0. */
static bmvp_status bmvpi_align_shares(bmvpi_preparing *s, bmvp_error *err)
{
    const int r = s->p->reference;
    bmvp_nii_volume head;
    bmvp_error e;
    bmvp_status st = bmvpi_named(s->name[r], bmvpi_align_head(&head, &s->p->image[r], &e), &e, err);
    int m;
    for (m = 0; m < BMVP_MODALITIES && !st; ++m) {
        bmvp_aligned *a = &s->p->aligned[m];
        if (!s->p->image[m].data || m == r) continue;
        st = bmvpi_align_share(&a->overlap, &head, &s->p->image[m], s->name[m], err);
        if (!st && !(a->overlap > 0))
            st = bmvp_error_set(err, BMVP_E_FORMAT,
                                "%s: by the headers nothing of the head in %s lies in it: its affine is of another "
                                "place; --register rigid looks at the images",
                                s->name[m], s->name[r]);
    }
    bmvp_nii_volume_free(&head);
    return st;
}

/* How far the matrix turns and, in the middle of the reference, shifts. */
static void bmvpi_align_measure(bmvp_aligned *a, const bmvp_nii_volume *reference)
{
    const double *t = a->matrix, *g = reference->affine;
    const double trace = t[0] + t[5] + t[10];
    double middle[3], square = 0;
    int i, k;
    for (i = 0; i < 3; ++i)
        for (middle[i] = g[4 * i + 3], k = 0; k < 3; ++k)
            middle[i] += g[4 * i + k] * 0.5 * (double)(reference->dim[k] - 1);
    for (i = 0; i < 3; ++i) {
        double d = t[4 * i + 3] - middle[i];
        for (k = 0; k < 3; ++k) d += t[4 * i + k] * middle[k];
        square += d * d;
    }
    a->turn = acos(fmax(-1, fmin(1, (trace - 1) / 2))) * 57.295779513082321;
    a->shift = sqrt(square);
}

static bmvp_status bmvpi_align_doubt(const bmvpi_preparing *s, bmvp_error *err)
{
    int m;
    for (m = 0; m < BMVP_MODALITIES; ++m) {
        const bmvp_aligned *a = &s->p->aligned[m];
        if (s->job->keep_doubtful || !s->p->image[m].data || m == s->p->reference) continue;
        if (a->loop > 3)
            return bmvp_error_set(err, BMVP_E_FORMAT,
                                  "%s: its registration is doubtful: to %s and back over another image misses by %.1f "
                                  "mm; look at the images, name another reference or search (--search all), or keep "
                                  "such cases (--keep-doubtful)",
                                  s->name[m], bmvp_modality_name(s->p->reference), a->loop);
        if (a->overlap < 0.3)
            return bmvp_error_set(err, BMVP_E_FORMAT,
                                  "%s: only %.0f %% of the head in %s lie in it; keep such cases with --keep-doubtful",
                                  s->name[m], 100 * a->overlap, bmvp_modality_name(s->p->reference));
    }
    return BMVP_OK;
}

/* The matrices of all images. */
static bmvp_status bmvpi_align_find(bmvpi_preparing *s, bmvp_error *err)
{
    const int rigid = s->job->how->align == BMVP_ALIGN_RIGID;
    bmvp_status st = BMVP_OK;
    int m, k;
    for (m = 0; m < BMVP_MODALITIES && !st; ++m) {
        bmvp_aligned *a = &s->p->aligned[m];
        if (!s->p->image[m].data) continue;
        st = bmvpi_check_thick(&s->p->image[m], s->name[m], err);
        if (!st && !s->job->how->align) st = bmvpi_to_frame(s, &s->p->image[m], s->name[m], 0, err);
        for (k = 0; k < 16; ++k) a->matrix[k] = k % 5 == 0;
        a->nmi = rigid ? 2 : 0;
        a->overlap = 1;
        if (!st && rigid && m != s->p->reference) st = bmvpi_align_pair(a->matrix, a, s, s->p->reference, m, err);
        bmvpi_align_measure(a, &s->p->image[s->p->reference]);
    }
    if (!st && rigid) st = bmvpi_align_loops(s, err);
    if (!st && s->job->how->align == BMVP_ALIGN_HEADER) st = bmvpi_align_shares(s, err);
    return st ? st : bmvpi_align_doubt(s, err);
}

/* The label by the matrix of the image it was drawn on: the one that it names, the reference if it has its grid, or the
   first that has. native: the grids as they were. */
static bmvp_status bmvpi_align_label(bmvpi_preparing *s, const bmvp_nii_volume *native, bmvp_error *err)
{
    const bmvp_image *k = s->job->label;
    const char *name = k ? bmvpi_image_name(k) : "";
    bmvp_nii_volume v, *const to = &s->p->label;
    bmvp_error e;
    int64_t dim[3];
    int m, on = -1;
    bmvp_status st;
    if (!k) return BMVP_OK;
    st = bmvpi_read_along(s, BMVP_MODALITIES, &v, k, err);
    if (st) return st;
    for (m = -1; m < BMVP_MODALITIES && on < 0; ++m) {
        const int i = m < 0 ? s->p->reference : m;
        if (native[i].dim[0] && bmvp_nii_one_grid(&native[i], &v)) on = i;
    }
    if (k->modality && bmvp_modality_find(k->modality) >= 0) on = bmvp_modality_find(k->modality);
    if (on < 0 || !native[on].dim[0])
        st = bmvp_error_set(err, BMVP_E_SHAPE, "label %s lies on the grid of no image of its case", name);
    dim[0] = v.dim[2], dim[1] = v.dim[1], dim[2] = v.dim[0];
    if (!st) st = bmvpi_labels_look(s->job->labels, v.data, dim, name, &s->had, err);
    s->resampled = 1;
    if (!st)
        st = bmvpi_named(
            name, bmvp_nii_resample_to(to, &v, &s->grid, s->p->aligned[on].matrix, BMVP_NII_NEAREST, 0, &e), &e, err);
    bmvp_nii_volume_free(&v);
    return st;
}

/* Image m on the prepared grid: in one interpolation. */
static bmvp_status bmvpi_align_resample(bmvpi_preparing *s, int m, bmvp_error *err)
{
    bmvp_nii_volume *v = &s->p->image[m], out;
    bmvp_error e;
    bmvp_status st = bmvp_nii_resample_to(&out, v, &s->grid, s->p->aligned[m].matrix, BMVP_NII_LINEAR, 0, &e);
    if (st) return bmvpi_named(s->name[m], st, &e, err);
    bmvp_nii_volume_free(v);
    *v = out;
    return BMVP_OK;
}

static bmvp_status bmvpi_align(bmvpi_preparing *s, bmvp_error *err)
{
    bmvp_prepared_images *p = s->p;
    bmvp_nii_volume native[BMVP_MODALITIES], mask;
    bmvp_error e;
    bmvp_status st = bmvpi_atlas_check(s->job, err);
    int i, m, r;
    memset(&mask, 0, sizeof mask);
    for (i = 0; i < s->job->n && !st; ++i) {
        st = bmvpi_prepare_asked(s->job, "images", i);
        if (!st) st = bmvpi_take_image(s, &s->job->image[i], &m, err);
    }
    r = st ? -1 : bmvpi_align_reference(s);
    if (r < 0) return st;
    p->reference = r;
    s->first = s->name[r];
    p->frame = bmvpi_grid_of(&p->image[r]);
    st = bmvpi_align_find(s, err);
    if (!st && s->job->how->atlas[0]) st = bmvpi_atlas(s, &mask, err);
    for (m = 0; m < BMVP_MODALITIES; ++m) native[m] = bmvpi_grid_of(&p->image[m]);
    if (!st && !s->job->how->to)
        st = bmvpi_named(s->first, bmvpi_spacing(&p->image[r], s->job->how->spacing, BMVP_NII_LINEAR, &e), &e, err);
    s->grid = bmvpi_grid_of(&p->image[r]);
    if (!st && s->job->how->to) st = bmvpi_atlas_grid(s, err);
    p->frame = s->grid;
    if (!st) st = bmvpi_atlas_brain(s, &mask, err);
    bmvp_nii_volume_free(&mask);
    for (m = 0, i = 0; m < BMVP_MODALITIES && !st; ++m) {
        if (!p->image[m].data) continue;
        st = bmvpi_prepare_asked(s->job, "resampled", i++);
        if (!st && (m != r || s->job->how->to)) st = bmvpi_align_resample(s, m, err);
        if (!st && p->brain.data) bmvpi_cut_away(&p->image[m], &p->brain);
        if (!st) st = bmvpi_mark_content(s, &p->image[m], err);
        if (!st) st = bmvpi_named(s->name[m], bmvpi_trim(&p->image[m], s->at[m], &e), &e, err);
    }
    return st ? st : bmvpi_align_label(s, native, err);
}

BMVP_API bmvp_status bmvp_prepare_images(bmvp_prepared_images *p, const bmvp_prepare_job *job, bmvp_error *err)
{
    const int aligns = job->how->align || job->how->atlas[0];
    bmvpi_preparing s;
    bmvp_status st = BMVP_OK;
    int i;
    memset(p, 0, sizeof *p);
    memset(&s, 0, sizeof s);
    if (job->io) p->allocator = job->io->allocator;
    s.p = p;
    s.job = job;
    if (aligns) st = bmvpi_align(&s, err);
    for (i = 0; i < job->n && !aligns && !st; ++i) {
        st = bmvpi_prepare_asked(job, "images", i);
        if (!st) st = bmvpi_prepare_image(&s, &job->image[i], err);
    }
    if (!st && !aligns) st = bmvpi_prepare_label(&s, err);
    if (!st && s.first) st = bmvpi_prepare_box(&s, err);
    if (st) bmvp_prepared_images_free(p);
    return st == BMVP_E_CANCELLED ? bmvp_error_set(err, st, "preparation: stopped, as was asked for") : st;
}

/* To mean 0 and deviation 1, of all voxels or of those that are not 0. Where all are alike they become 0. */
static void bmvpi_standardise(bmvp_nii_volume *v, int all)
{
    const int64_t n = v->dim[0] * v->dim[1] * v->dim[2];
    double sum = 0, square = 0, mean, deviation;
    int64_t i, counted = 0;
    for (i = 0; i < n; ++i)
        if (all || v->data[i] != 0) sum += (double)v->data[i], ++counted;
    if (counted == 0) return;
    mean = sum / (double)counted;
    for (i = 0; i < n; ++i)
        if (all || v->data[i] != 0) square += ((double)v->data[i] - mean) * ((double)v->data[i] - mean);
    deviation = square > 0 ? sqrt(square / (double)counted) : 1;
    for (i = 0; i < n; ++i)
        if (all || v->data[i] != 0) v->data[i] = (float)(((double)v->data[i] - mean) / deviation);
}

static void bmvpi_to_range(bmvp_nii_volume *v, double low, double high)
{
    const int64_t n = v->dim[0] * v->dim[1] * v->dim[2];
    int64_t i;
    for (i = 0; i < n; ++i) v->data[i] = (float)fmin(1, fmax(0, ((double)v->data[i] - low) / (high - low)));
}

static bmvp_status bmvpi_scale_values(bmvp_nii_volume *v, const bmvp_preparation *how, bmvp_error *err)
{
    bmvp_nii_scale scale;
    memset(&scale, 0, sizeof scale);
    scale.lower = how->percentile_low;
    scale.upper = how->percentile_high;
    scale.b_max = 1;
    scale.clip = 1;
    scale.sparse = 1;
    switch (how->intensity) {
    case BMVP_INTENSITY_PERCENTILES: return bmvp_nii_scale_percentiles(v, &scale, NULL, err);
    case BMVP_INTENSITY_ZSCORE: bmvpi_standardise(v, 0); break;
    case BMVP_INTENSITY_ZSCORE_ALL: bmvpi_standardise(v, 1); break;
    case BMVP_INTENSITY_RANGE: bmvpi_to_range(v, how->range_low, how->range_high); break;
    case BMVP_INTENSITY_AS_IT_IS: break;
    }
    return BMVP_OK;
}

BMVP_API bmvp_status bmvp_prepare_values(bmvp_nii_volume *v, int is_label, const bmvp_preparation *how, bmvp_error *err)
{
    bmvp_status st = BMVP_OK;
    if (!v->data) return BMVP_OK;
    if (!is_label) st = bmvpi_scale_values(v, how, err);
    if (!st && how->resize[0] > 0)
        st = bmvp_nii_resize(v, how->resize, is_label ? BMVP_NII_NEAREST : BMVP_NII_LINEAR, 0, err);
    return st;
}

BMVP_API void bmvp_prepared_images_free(bmvp_prepared_images *p)
{
    int m;
    for (m = 0; m < BMVP_MODALITIES; ++m) bmvp_nii_volume_free(&p->image[m]);
    bmvp_nii_volume_free(&p->label);
    bmvp_nii_volume_free(&p->brain);
    bmvpi_nii_release(&p->allocator, p->content);
    bmvpi_nii_release(&p->allocator, p->inside);
    memset(p, 0, sizeof *p);
}

BMVP_API void bmvp_prepared_mark(char text[81], const bmvp_preparation *how)
{
    char size[64], rest[96];
    int used;
    bmvpi_preparation_text(how, rest);
    used = snprintf(text, 81, "%s %.9g mm %s", bmvpi_prepared_text, how->spacing, rest);
    bmvpi_preparation_size(how, size);
    if (how->resize[0] > 0 && used > 0 && used < 81) snprintf(text + used, (size_t)(81 - used), " %.14s", size);
}

BMVP_API int bmvp_is_prepared(const bmvp_nii_image *image)
{
    return strncmp(image->descrip, bmvpi_prepared_text, strlen(bmvpi_prepared_text)) == 0;
}

/* >>predict call: a checkpoint, images in, maps out -------------------------------------------------------------------
 */

struct bmvp_predictor {
    bmvp_ctx *c;
    bmvp_ft *f;
    bmvp_ft_info info;
    bmvp_preparation how;
    bmvp_nii_options io; /* the context's memory */
};

/* NIfTI's hooks want memory for any type, an allocator gives any alignment: the block's own address is kept before it.
 */
static void *bmvpi_nii_hook_alloc(size_t bytes, void *user)
{
    const bmvp_allocator *a = bmvp_allocator_of((const bmvp_ctx *)user);
    char *block = (char *)a->alloc(bytes + 48, a->user), *p;
    if (!block) return NULL;
    p = block + 16 + sizeof block;
    p -= (uintptr_t)p & 15u;
    memcpy(p - sizeof block, &block, sizeof block);
    return p;
}
static void bmvpi_nii_hook_free(void *p, void *user)
{
    const bmvp_allocator *a = bmvp_allocator_of((const bmvp_ctx *)user);
    char *block;
    if (!p) return;
    memcpy(&block, (char *)p - sizeof block, sizeof block);
    a->free(block, a->user);
}

/* w NULL: the file says itself what it is. */
static bmvp_predictor *bmvpi_predictor_open(bmvp_ctx *c, const char *path, const bmvp_ft_weights *w, bmvp_error *err)
{
    bmvp_predictor *p;
    bmvp_status st = BMVP_OK;
    if (bmvp_failed(c)) {
        bmvp_error_set(err, bmvp_error_of(c)->status, "%s", bmvp_error_of(c)->message);
        return NULL;
    }
    p = (bmvp_predictor *)bmvpi_alloc(c, (int64_t)sizeof *p);
    if (!p) {
        bmvp_error_set(err, BMVP_E_OOM, "%s", bmvp_error_of(c)->message);
        return NULL;
    }
    memset(p, 0, sizeof *p);
    p->c = c;
    p->io.allocator.alloc = bmvpi_nii_hook_alloc;
    p->io.allocator.free = bmvpi_nii_hook_free;
    p->io.allocator.user = c;
    p->f = w ? bmvp_ft_open_weights(c, path, w, &p->info, err) : bmvp_ft_open(c, path, &p->info, err);
    if (p->f && !p->info.preparation[0])
        st = bmvp_error_set(
            err, BMVP_E_FORMAT,
            "%s: it does not say how its cases were prepared; fine-tune on what `bmvp prepare` writes, or save "
            "\"preparation\" (bmvp_preparation_write) with it",
            path);
    else if (p->f) st = bmvp_preparation_read(p->info.preparation, path, &p->how, err);
    if (p->f && !st) return p;
    bmvp_predictor_close(p);
    return NULL;
}

BMVP_API bmvp_predictor *bmvp_predictor_open(bmvp_ctx *c, const char *checkpoint, bmvp_error *err)
{
    return bmvpi_predictor_open(c, checkpoint, NULL, err);
}

BMVP_API bmvp_predictor *bmvp_predictor_open_weights(bmvp_ctx *c, const char *path, const bmvp_ft_weights *w,
                                                     bmvp_error *err)
{
    return bmvpi_predictor_open(c, path, w, err);
}

BMVP_API void bmvp_predictor_close(bmvp_predictor *p)
{
    if (!p) return;
    bmvp_ft_destroy(p->f);
    bmvpi_free(p->c, p);
}

BMVP_API const bmvp_ft_info *bmvp_predictor_info(const bmvp_predictor *p) { return &p->info; }
BMVP_API const bmvp_preparation *bmvp_predictor_preparation(const bmvp_predictor *p) { return &p->how; }

BMVP_API bmvp_predict_options bmvp_predict_options_default(void)
{
    bmvp_predict_options o;
    memset(&o, 0, sizeof o);
    o.window.overlap = 0.5;
    o.window.batch = 1;
    return o;
}

BMVP_API void bmvp_prediction_free(bmvp_prediction *p)
{
    int i;
    for (i = 0; p->probability && i < p->n; ++i) bmvp_nii_image_free(&p->probability[i]);
    bmvpi_nii_release(&p->allocator, p->probability);
    bmvpi_nii_release(&p->allocator, p->score);
    bmvp_nii_image_free(&p->label);
    memset(p, 0, sizeof *p);
}

/* ---- prepared probabilities at the voxels of an image ---- */

typedef struct bmvpi_placing {
    bmvp_ctx *c;
    const bmvp_labels *labels;
    const bmvp_prepared_images *prepared;
    bmvp_prediction *out;
    int outputs;
    int64_t dim[3], size[3];  /* of the prepared grid, of the image: x, y, z */
    double to[16], frame[16]; /* image voxel -> prepared voxel, -> voxel of `content` */
    float *plane[2];          /* of prepared z: the last two, z in plane[z % 2] */
    int64_t cell;             /* its image voxels are next: those between prepared planes cell and cell + 1 */
} bmvpi_placing;

/* Of base + step i, i in [0, n), which rises or falls with i: the first i that has passed the bound. */
static int64_t bmvpi_passed(double base, double step, int64_t n, double bound)
{
    int64_t low = 0, high = n;
    while (low < high) {
        const int64_t mid = low + (high - low) / 2;
        const double v = base + step * (double)mid;
        if (step >= 0 ? v >= bound : v < bound) high = mid;
        else low = mid + 1;
    }
    return low;
}

/* Cuts [*from, *to) down to the i with low <= base + step i < high. */
static void bmvpi_cut_run(double base, double step, int64_t n, double low, double high, int64_t *from, int64_t *to)
{
    const double end = base + step * (double)(n - 1), least = fmin(base, end), most = fmax(base, end);
    if (least >= low && most < high) return;
    if (!(most >= low && least < high)) {
        *to = *from;
        return;
    }
    *from = bmvpi_max(*from, bmvpi_passed(base, step, n, step >= 0 ? low : high));
    *to = bmvpi_min(*to, bmvpi_passed(base, step, n, step >= 0 ? high : low));
}

/* Where the grid begins and ends along an axis: half a voxel beyond its outermost centres, and what rounding may add.
 */
static double bmvpi_grid_low(void) { return -0.5001; }
static double bmvpi_grid_high(int64_t n) { return (double)n - 0.4999; }

/* Is an image not 0 at the voxel of the frame nearest to image voxel (x, y, z)? */
static int bmvpi_has_content(const bmvpi_placing *s, int64_t x, int64_t y, int64_t z)
{
    const bmvp_prepared_images *p = s->prepared;
    int64_t at[3];
    int a;
    for (a = 0; a < 3; ++a) {
        const double *m = s->frame + 4 * a;
        const double q = floor(m[0] * (double)x + m[1] * (double)y + m[2] * (double)z + m[3] + 0.5);
        if (!(q >= 0 && q < (double)p->frame.dim[a])) return 0;
        at[a] = (int64_t)q;
    }
    return p->content[(at[2] * p->frame.dim[1] + at[1]) * p->frame.dim[0] + at[0]];
}

/* Probabilities at prepared voxel p, which lies in the cell: linear in each plane, then between the two. */
static void bmvpi_mix(const bmvpi_placing *s, const double p[3], float *out)
{
    const float *below = s->plane[s->cell % 2], *above = s->plane[s->dim[2] > 1 ? (s->cell + 1) % 2 : 0];
    int64_t low[3], at[4];
    float share[3], w[4];
    int a, k, j;
    for (a = 0; a < 3; ++a) {
        const double last = (double)(s->dim[a] - 1), q = p[a] < 0 ? 0 : p[a] > last ? last : p[a];
        low[a] = (int64_t)q < s->dim[a] - 1 ? (int64_t)q : bmvpi_max(0, s->dim[a] - 2);
        share[a] = (float)(q - (double)low[a]);
    }
    for (j = 0; j < 4; ++j) {
        const int64_t x = low[0] + (j % 2 && s->dim[0] > 1), y = low[1] + (j / 2 && s->dim[1] > 1);
        at[j] = (y * s->dim[0] + x) * s->outputs;
        w[j] = (j / 2 ? share[1] : 1 - share[1]) * (j % 2 ? share[0] : 1 - share[0]);
    }
    for (k = 0; k < s->outputs; ++k) {
        float lower = 0, upper = 0;
        for (j = 0; j < 4; ++j) {
            lower += w[j] * below[at[j] + k];
            upper += w[j] * above[at[j] + k];
        }
        out[k] = (1 - share[2]) * lower + share[2] * upper;
    }
}

/* The voxels of one row of the image (y, z) that lie in the cell. */
static void bmvpi_place_row(const bmvpi_placing *s, int64_t y, int64_t z, double low, double high)
{
    float value[BMVP_MAX_REGIONS + 1];
    double base[3], p[3];
    int64_t from = 0, to = s->size[0], x;
    int a, k;
    for (a = 0; a < 3; ++a) base[a] = s->to[4 * a + 1] * (double)y + s->to[4 * a + 2] * (double)z + s->to[4 * a + 3];
    bmvpi_cut_run(base[2], s->to[8], s->size[0], low, high, &from, &to);
    for (a = 0; a < 2 && from < to; ++a)
        bmvpi_cut_run(base[a], s->to[4 * a], s->size[0], bmvpi_grid_low(), bmvpi_grid_high(s->dim[a]), &from, &to);
    for (x = from; x < to; ++x) {
        const int64_t at = (z * s->size[1] + y) * s->size[0] + x;
        unsigned char label;
        for (a = 0; a < 3; ++a) p[a] = base[a] + s->to[4 * a] * (double)x;
        bmvpi_mix(s, p, value);
        label = bmvp_labels_decide(s->labels, value);
        if (label && bmvpi_has_content(s, x, y, z)) ((unsigned char *)s->out->label.data)[at] = label;
        for (k = 0; s->out->probability && k < s->outputs; ++k)
            ((int16_t *)s->out->probability[k].data)[at] = (int16_t)lrintf(value[k] * 32767.0f);
    }
}

static void bmvpi_place_slice(void *arg, int64_t z, int worker)
{
    const bmvpi_placing *s = (const bmvpi_placing *)arg;
    const int64_t last = bmvpi_max(0, s->dim[2] - 2);
    const double low = s->cell == 0 ? bmvpi_grid_low() : (double)s->cell;
    const double high = s->cell == last ? bmvpi_grid_high(s->dim[2]) : (double)(s->cell + 1);
    const double base = s->to[10] * (double)z + s->to[11];
    const double along_x = s->to[8] * (double)(s->size[0] - 1), along_y = s->to[9] * (double)(s->size[1] - 1);
    int64_t y;
    (void)worker;
    if (base + fmax(0, along_x) + fmax(0, along_y) < low - 1 || base + fmin(0, along_x) + fmin(0, along_y) > high + 1)
        return;
    for (y = 0; y < s->size[1]; ++y) bmvpi_place_row(s, y, z, low, high);
}

/* Nothing is segmented where no image has content: background there, or no region. */
static void bmvpi_clear_empty(const bmvpi_placing *s, int64_t z, float *plane)
{
    const bmvp_prepared_images *p = s->prepared;
    const unsigned char *inside = p->inside ? p->inside : p->content;
    const int64_t *box = p->inside ? p->box : p->frame.dim;
    int64_t x, y;
    int k;
    for (y = 0; y < s->dim[1]; ++y)
        for (x = 0; x < s->dim[0]; ++x, plane += s->outputs) {
            const int64_t bx = (2 * x + 1) * box[0] / (2 * s->dim[0]), by = (2 * y + 1) * box[1] / (2 * s->dim[1]);
            const int64_t bz = (2 * z + 1) * box[2] / (2 * s->dim[2]);
            if (inside[(bz * box[1] + by) * box[0] + bx]) continue;
            for (k = 0; k < s->outputs; ++k) plane[k] = s->labels->exclusive && k == 0;
        }
}

static bmvp_status bmvpi_place_planes(void *user, int64_t z0, int64_t n, const float *values)
{
    bmvpi_placing *s = (bmvpi_placing *)user;
    const int64_t area = s->dim[0] * s->dim[1] * s->outputs;
    int64_t z;
    for (z = z0; z < z0 + n; ++z, values += area) {
        memcpy(s->plane[z % 2], values, (size_t)area * sizeof *values);
        bmvpi_clear_empty(s, z, s->plane[z % 2]);
        if (z == 0 && s->dim[2] > 1) continue;
        s->cell = bmvpi_max(0, z - 1);
        bmvp_parallel(s->c, s->size[2], bmvpi_place_slice, s);
    }
    return BMVP_OK;
}

/* ---- one case ---- */

typedef struct bmvpi_predicting {
    const bmvp_predictor *p;
    const bmvp_image *image;
    int n;
    bmvp_predict_options o;
    bmvp_nii_image header; /* of the image whose grid the results have, without data */
    const char *name;      /* of that image */
    bmvp_prepared_images prepared;
    const bmvp_nii_volume *any; /* one of the prepared images, for their grid */
    bmvp_ft_case k;
    bmvp_prediction *out;
} bmvpi_predicting;

static bmvp_status bmvpi_image_header(bmvp_nii_image *out, const bmvp_image *k, const bmvp_nii_options *io,
                                      bmvp_error *err)
{
    bmvp_status st = bmvpi_image_given(k, err);
    bmvp_error e;
    memset(out, 0, sizeof *out);
    if (st) return st;
    if (k->path) {
        st = bmvp_nii_read_header(out, k->path, io, err);
    } else if (k->volume) {
        st = bmvpi_named(bmvpi_image_name(k), bmvpi_image_of_volume(out, k->volume, &e), &e, err);
    } else if (k->image) {
        *out = *k->image;
        out->block = NULL;
        out->extensions = NULL;
        out->n_extensions = 0;
    }
    out->data = NULL;
    return st;
}

/* Settings that a prepared file names are those of the checkpoint; the files of 0.1 have them in prepare.json of their
 * data set. */
static bmvp_status bmvpi_same_settings(const bmvpi_predicting *s, const bmvp_image *k, const bmvp_nii_image *header,
                                       bmvp_error *err)
{
    const char *name = bmvpi_image_name(k), *slash = k->path ? strrchr(k->path, '/') : NULL;
    char mark[81], other[160] = "", path[1100];
    bmvp_preparation found;
    bmvp_bytes text;
    bmvp_status st = BMVP_OK;
    bmvp_prepared_mark(mark, &s->p->how);
    if (strcmp(header->descrip, bmvpi_prepared_text) != 0) {
        if (strcmp(header->descrip, mark) == 0) return BMVP_OK;
        return bmvp_error_set(
            err, BMVP_E_ARG,
            "%s was prepared with other settings ('%s') than the cases of the checkpoint ('%s'); predict from "
            "the images as they were",
            name, header->descrip, mark);
    }
    if (!k->path || snprintf(path, sizeof path, "%.*s/../prepare.json", slash ? (int)(slash - k->path) : 1,
                             slash ? k->path : ".") >= (int)sizeof path)
        return BMVP_OK;
    bmvp_bytes_init(&text, bmvp_allocator_of(s->p->c));
    if (bmvp_file_read(path, 4096, &text, NULL) == BMVP_OK && text.data) {
        st = bmvp_preparation_read(text.data, path, &found, err);
        if (!st && bmvp_preparation_differs(&found, &s->p->how, other, sizeof other))
            st = bmvp_error_set(
                err, BMVP_E_ARG,
                "%s was prepared with other settings than the cases of the checkpoint (%s); predict from the images "
                "as they were",
                name, other);
    }
    bmvp_bytes_free(&text);
    return st;
}

/* Headers first: the grid of the results, and whether `prepare` wrote the images. */
static bmvp_status bmvpi_predict_headers(bmvpi_predicting *s, int *ready, bmvp_error *err)
{
    const int grid = s->o.grid ? bmvp_modality_find(s->o.grid) : -1;
    int i, found = 0;
    *ready = 1;
    for (i = 0; i < s->n; ++i) {
        const bmvp_image *k = &s->image[i];
        const int here =
            !found && (!s->o.grid || (k->modality && grid >= 0 && bmvp_modality_find(k->modality) == grid));
        bmvp_nii_image header;
        bmvp_status st = bmvpi_image_header(&header, k, &s->p->io, err);
        if (!st && !bmvp_is_prepared(&header)) *ready = 0;
        else if (!st) st = bmvpi_same_settings(s, k, &header, err);
        bmvp_nii_image_free(&header);
        if (st) return st;
        if (!here) continue;
        found = 1;
        st = bmvpi_image_header(&s->header, k, &s->p->io, err);
        s->name = bmvpi_image_name(k);
        if (st) return st;
    }
    if (found) return BMVP_OK;
    if (s->n < 1) return bmvp_error_set(err, BMVP_E_ARG, "no image was given");
    return bmvp_error_set(err, BMVP_E_ARG, "the results are to have the grid of '%s', but no image of it was given",
                          s->o.grid);
}

/* What prepare wrote is taken as it is. */
static bmvp_status bmvpi_take_prepared(bmvpi_predicting *s, const bmvp_prepare_job *job, bmvp_error *err)
{
    bmvp_prepared_images *p = &s->prepared;
    bmvpi_preparing t;
    bmvp_status st = BMVP_OK;
    int i;
    memset(&t, 0, sizeof t);
    t.p = p;
    t.job = job;
    p->allocator = job->io->allocator;
    for (i = 0; i < s->n && !st; ++i) {
        const bmvp_image *k = &s->image[i];
        int m;
        st = bmvpi_prepare_asked(job, "images", i);
        if (st) return bmvp_error_set(err, st, "stopped, as was asked for");
        st = bmvpi_image_slot(&t, k, &m, err);
        if (!st) st = bmvp_image_read(&p->image[m], k, job->io, err);
        if (!st) st = bmvpi_check_finite(&p->image[m], t.name[m], err);
        if (!st && bmvpi_take_blank(&t, m)) continue;
        if (!st) st = bmvpi_to_frame(&t, &p->image[m], t.name[m], 0, err);
        if (!st) st = bmvpi_mark_content(&t, &p->image[m], err);
    }
    return st;
}

/* The context asks: what it fails with is what bmvp_clear_error takes away. */
static int bmvpi_predict_asked(void *user, const char *what, int64_t done, int64_t of)
{
    return bmvp_progress((bmvp_ctx *)user, what, done, of) != BMVP_OK;
}

static bmvp_status bmvpi_predict_prepare(bmvpi_predicting *s, bmvp_error *err)
{
    bmvp_prepare_job job;
    bmvp_preparation how;
    bmvp_status st;
    int m, ready;
    memset(&job, 0, sizeof job);
    job.image = s->image;
    job.n = s->n;
    how = s->p->how;
    if (s->o.align) how.align = (bmvp_alignment)(s->o.align - 1);
    if (!how.align) how.search_all = how.reference[0] = 0;
    job.how = &how;
    job.atlas = s->o.atlas;
    job.keep_doubtful = s->o.keep_doubtful;
    job.other_grids = s->o.other_grids;
    job.constants = 1;
    job.masks = 1;
    job.io = &s->p->io;
    job.progress = bmvpi_predict_asked;
    job.progress_user = s->p->c;
    st = bmvpi_predict_headers(s, &ready, err);
    if (st) return st;
    if (ready) return bmvpi_take_prepared(s, &job, err);
    st = bmvp_prepare_images(&s->prepared, &job, err);
    s->out->aligned = how.align;
    s->out->reference = s->prepared.reference;
    s->out->stripped = how.strip && s->prepared.stripped;
    s->out->brain = s->prepared.brain_report;
    for (m = 0; m < BMVP_MODALITIES && !st; ++m) {
        s->out->loop = fmax(s->out->loop, s->prepared.aligned[m].loop);
        st = bmvp_prepare_values(&s->prepared.image[m], 0, &how, err);
    }
    return st;
}

/* What the network needs of the images, and what is missing. */
static bmvp_status bmvpi_predict_gather(bmvpi_predicting *s, bmvp_error *err)
{
    const bmvp_ft_info *info = &s->p->info;
    bmvp_prediction *out = s->out;
    char all[160] = "", missing[160] = "";
    int m, a;
    for (m = 0; m < info->n_modalities; ++m) {
        const int known = bmvp_modality_find(info->names[m]);
        const bmvp_nii_volume *v = &s->prepared.image[known];
        char *list = v->data ? all : missing;
        snprintf(all + strlen(all), sizeof all - strlen(all), " %s", info->names[m]);
        if (!v->data) snprintf(list + strlen(list), sizeof missing - strlen(list), " %s", info->names[m]);
        out->blank |= (s->prepared.blank >> known & 1u) << m;
        out->by_qform |= (s->prepared.by_qform >> known & 1u) << m;
        out->few |= (s->prepared.few >> known & 1u) << m;
        out->apart |= (uint32_t)(s->prepared.forms_apart[known] > 0) << m;
        out->forms_apart = fmax(out->forms_apart, s->prepared.forms_apart[known]);
        if (v->data) out->given |= 1u << m, s->any = v, s->k.image[m] = v->data;
        else out->filled |= 1u << m;
    }
    out->fill = bmvp_ft_config_of(s->p->f)->fill ? BMVP_FILL_ZERO : BMVP_FILL_TEMPLATE;
    if (!s->any)
        return bmvp_error_set(err, BMVP_E_ARG, "none of the modalities that the network was trained with is there%s:%s",
                              s->prepared.blank ? ", or blank" : "", all);
    if (out->filled && out->fill == BMVP_FILL_TEMPLATE && !bmvp_ft_template(s->p->f, 0))
        return bmvp_error_set(err, BMVP_E_ARG,
                              "lacks%s, and the checkpoint holds no templates: fill with zeros (--fill zero)", missing);
    for (a = 0; a < 3; ++a) s->k.dim[a] = s->any->dim[2 - a];
    return BMVP_OK;
}

/* An image like the header's with other data: axes, affine, codes and units stay, bit for bit. */
static bmvp_status bmvpi_map_like(bmvp_nii_image *map, const bmvpi_predicting *s, int datatype, double slope,
                                  bmvp_error *err)
{
    bmvp_nii_image made;
    bmvp_error e;
    int a;
    bmvp_status st =
        bmvpi_named(s->name, bmvp_nii_create(&made, datatype, 3, s->header.dim, NULL, &s->p->io, &e), &e, err);
    if (st) return st;
    *map = s->header;
    map->datatype = datatype;
    map->ndim = 3;
    for (a = 3; a < BMVP_NII_MAX_DIMS; ++a) map->dim[a] = 1;
    map->n_voxels = made.n_voxels;
    map->data_bytes = made.data_bytes;
    map->data = made.data;
    map->block = made.block;
    map->allocator = made.allocator;
    map->scl_slope = slope;
    map->scl_inter = map->cal_min = map->cal_max = 0;
    map->is_pair = map->intent_code = map->n_extensions = 0;
    map->extensions = NULL;
    map->intent_name[0] = map->aux_file[0] = 0;
    snprintf(map->descrip, sizeof map->descrip, "bmvp predict");
    return BMVP_OK;
}

static bmvp_status bmvpi_make_maps(const bmvpi_predicting *s, const bmvp_labels *l, bmvp_error *err)
{
    bmvp_prediction *out = s->out;
    bmvp_status st = bmvpi_map_like(&out->label, s, BMVP_NII_UINT8, 1, err);
    int64_t i;
    int k;
    if (st || !s->o.probabilities) return st;
    out->probability = (bmvp_nii_image *)bmvpi_nii_zeros(&out->allocator, out->n * (int64_t)sizeof *out->probability);
    if (!out->probability) return bmvp_error_set(err, BMVP_E_OOM, "out of memory for probabilities");
    for (k = 0; k < out->n && !st; ++k) st = bmvpi_map_like(&out->probability[k], s, BMVP_NII_INT16, 1.0 / 32767, err);
    for (i = 0; !st && l->exclusive && i < out->label.n_voxels; ++i) ((int16_t *)out->probability[0].data)[i] = 32767;
    return st;
}

/* affine of the image whose grid the results have, in mm of the prepared images: the way back through its matrix. */
static bmvp_status bmvpi_from_aligned(double affine[16], const bmvpi_predicting *s, bmvp_error *err)
{
    const bmvp_aligned *a = NULL;
    double back[16];
    bmvp_status st;
    int i;
    for (i = 0; i < s->n && !a; ++i)
        if (strcmp(bmvpi_image_name(&s->image[i]), s->name) == 0)
            a = &s->prepared.aligned[bmvp_modality_find(s->image[i].modality)];
    if (!a || a->matrix[15] == 0) return BMVP_OK;
    st = bmvp_nii_affine_inverse(back, a->matrix, err);
    if (!st) bmvp_nii_matrix_multiply(affine, back, affine);
    return st;
}

static bmvp_status bmvpi_predict_maps(bmvpi_predicting *s, bmvp_error *err)
{
    const bmvp_predictor *p = s->p;
    const bmvp_ft_config *cfg = bmvp_ft_config_of(p->f);
    const int64_t crop[3] = { cfg->crop_z, cfg->crop_y, cfg->crop_x };
    bmvpi_placing g;
    double affine[16];
    bmvp_status st;
    int a;
    memset(&g, 0, sizeof g);
    g.c = p->c;
    g.labels = bmvp_ft_labels(p->f);
    g.prepared = &s->prepared;
    g.out = s->out;
    g.outputs = s->out->n;
    for (a = 0; a < 3; ++a) {
        g.dim[a] = s->any->dim[a];
        g.size[a] = s->header.dim[a];
        if (s->o.window.roi[a] <= 0) s->o.window.roi[a] = crop[a];
    }
    (void)bmvp_nii_rectify_affine(affine, &s->header);
    st = bmvpi_from_aligned(affine, s, err);
    if (!st) st = bmvpi_relate(g.to, s->any->affine, affine, s->name, err);
    if (!st) st = bmvpi_relate(g.frame, s->prepared.frame.affine, affine, s->name, err);
    if (!st) st = bmvpi_make_maps(s, g.labels, err);
    for (a = 0; a < 2 && !st; ++a) {
        g.plane[a] =
            (float *)bmvpi_alloc(p->c, bmvpi_mul_size(g.dim[0] * g.dim[1], g.outputs * (int64_t)sizeof(float)));
        if (!g.plane[a]) st = bmvpi_whole_failed(p->f, BMVP_E_OOM, err);
    }
    if (!st) st = bmvp_ft_segment(p->f, &s->k, &s->o.window, bmvpi_place_planes, &g, err);
    for (a = 0; a < 2; ++a) bmvpi_free(p->c, g.plane[a]);
    return st;
}

static bmvp_status bmvpi_predict_scores(bmvpi_predicting *s, bmvp_error *err)
{
    bmvp_prediction *out = s->out;
    bmvp_status st;
    int i;
    out->score = (float *)bmvpi_nii_zeros(&out->allocator, out->n * (int64_t)sizeof *out->score);
    if (!out->score) return bmvp_error_set(err, BMVP_E_OOM, "out of memory");
    st = bmvp_ft_classify(s->p->f, &s->k, out->score, err);
    for (i = 1; i < out->n && !st; ++i)
        if (out->score[i] > out->score[out->likeliest]) out->likeliest = i;
    return st;
}

BMVP_API bmvp_status bmvp_predict(bmvp_predictor *p, const bmvp_image *image, int n,
                                  const bmvp_predict_options *options, bmvp_prediction *out, bmvp_error *err)
{
    const int fill = bmvp_ft_config_of(p->f)->fill;
    bmvpi_predicting s;
    bmvp_status st;
    memset(out, 0, sizeof *out);
    memset(&s, 0, sizeof s);
    s.p = p;
    s.image = image;
    s.n = n;
    s.o = options ? *options : bmvp_predict_options_default();
    s.out = out;
    out->allocator = p->io.allocator;
    out->n = p->info.net.outputs;
    if (s.o.fill != BMVP_FILL_CHECKPOINT) bmvp_ft_set_fill(p->f, s.o.fill == BMVP_FILL_ZERO);
    st = bmvpi_whole_failed(p->f, BMVP_OK, err);
    if (!st) st = bmvpi_predict_prepare(&s, err);
    if (!st) st = bmvpi_predict_gather(&s, err);
    if (!st && p->info.net.task == BMVP_TASK_CLASSIFY) st = bmvpi_predict_scores(&s, err);
    else if (!st) st = bmvpi_predict_maps(&s, err);
    bmvp_ft_set_fill(p->f, fill);
    bmvp_prepared_images_free(&s.prepared);
    bmvp_nii_image_free(&s.header);
    if (st) bmvp_prediction_free(out);
    return st;
}

#endif /* BMVP_NIFTI_H_INCLUDED */

#ifdef __cplusplus
}
#endif
#endif /* BMVP_SSL_IMPLEMENTATION_ONCE */
#endif /* BMVP_SSL_IMPLEMENTATION */

/* ---------------------------------------------------------------------------------------------------------------
   MIT License. Copyright (c) 2026 the bmvp authors.
   Permission is hereby granted, free of charge, to any person obtaining a copy of this software and associated
   documentation files (the "Software"), to deal in the Software without restriction, including without limitation the
   rights to use, copy, modify, merge, publish, distribute, sublicense, and/or sell copies of the Software, and to
   permit persons to whom the Software is furnished to do so, subject to the following conditions: the above copyright
   notice and this permission notice shall be included in all copies or substantial portions of the Software. THE
   SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT NOT LIMITED TO THE
   WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR
   COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR
   OTHERWISE, ARISING FROM, OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE. */
