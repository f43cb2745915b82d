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
    void (*normal)(void *user, int64_t n, float *out);              /* n of mean 0 and variance 1 */
    void *user;
} draws;
draws draws_of(bmvp_rng *r); /* the library's generator; it must outlive them */

/* >>items ---------------------------------------------------------------------------------------------------------- */

/* What a method wants of a case beside the crop, edge^3 voxels in [0, 1], z y x */
typedef enum method_wants {
    METHOD_CROP,     /* nothing */
    METHOD_MIDDLE,   /* nothing, and the crop is always the middle of the case's volume, zeros around it */
    METHOD_MODALITY, /* the same place of another modality of the case, where it has one */
    METHOD_CASE,     /* the same place, as seen from the centre, of another case that has the modality */
    METHOD_ALL       /* the same place of every modality of the data, one after the other; missing ones are zeros */
} method_wants;

typedef struct method_item {
    const float *x;
    int modality;        /* of setup's */
    int64_t index;       /* of the case */
    uint32_t slot;       /* names its random numbers */
    const float *other;  /* what is wanted besides; NULL: nothing */
    unsigned present;    /* bit m: the case has modality m */
    int64_t place[3];    /* of the crop in setup's grid, in which volumes are centred: bmvp_template_place */
    const draws *given;  /* in place of the trainer's generator, for tests; NULL */
} method_item;
/* What the item's corruption draws from; r must outlive it. */
draws method_draws(const bmvp_pass *p, const method_item *item, bmvp_rng *r);

/* What a method may ask about the data of its run: the setup of its trainer, there in prepare and create. */
typedef struct method_setup {
    int n_modalities;
    const char *const *names;
    int64_t count[BMVP_MODALITIES]; /* cases that have modality m */
    int64_t cases, grid[3];         /* D, H, W: the largest volume per axis */
    int ranks;                      /* a plan's batch is the share of one of them */
} method_setup;

/* >>table ---------------------------------------------------------------------------------------------------------- */

#define METHOD_FIELDS(X) X(int, crop, 16, 1024, "edge of the cubic crop in voxels")
/* The config of each begins with these. */
typedef struct method_config { BMVP_RUN_MEMBERS METHOD_FIELDS(BMVP_FIELD_MEMBER) } method_config;

typedef struct method_row {
    const char *name, *title, *source; /* as --method says it, in words, the paper */
    const char *network, *fast;        /* its own network, and the tiny one of preset fast */
    const bmvp_method *(*method)(void);
    int (*preset)(const char *name, void *config); /* release, paper, fast; 0: unknown */
    /* A look at one crop: what the network was given and what it made of it, both as large as the crop. NULL:
       nothing comes back, or the program has a page of its own for it. */
    bmvp_status (*look)(bmvp_trainer *t, const method_item *item, float *seen, float *back);
    method_wants wants;
    const char *back; /* what look's second picture shows; NULL: the crop, rebuilt */
} method_row;

enum { METHOD_STREAM = 100 }; /* of a method's random numbers, bmvp_pass_rng */
/* What the network rebuilds of a crop, through a sigmoid or as it is. */
bmvp_status method_look(bmvp_trainer *t, int edge, const float *seen, int sigmoid, float *back);
/* The same in steps, for a network that is run in another way: without a tape until the end, which reads channel
   `channel` of what the network saw and of what it made of it. was: what begin returned. seen NULL: it is there. */
int method_look_begin(bmvp_trainer *t);
bmvp_status method_look_end(bmvp_trainer *t, int was, const bmvp_tensor *x, const bmvp_tensor *y, int channel,
                            float *seen, float *back);
/* For create: 1, or a failure that names the multiples which the network takes. */
int method_crop_fits(bmvp_trainer *t, int crop);
/* For prepare: 1, or a failure that says what needs crops of two cases in a step, and what switches it off. */
int method_has_pairs(bmvp_trainer *t, const char *what, const char *off);

/* A learnable volume for each modality of the data, on their grid, in files as BrainMVP's templates ("rep_template"): a
   run goes on with the same modalities, and fine-tuning fills missing ones from them. */
typedef struct method_templates {
    int n, modality[BMVP_MODALITIES];
    int64_t grid[3];
    bmvp_tensor *volume[BMVP_MODALITIES]; /* (Z, Y, X) */
} method_templates;
/* For create: normal numbers of this deviation, their rate lr_scale times the network's. */
void method_templates_make(bmvp_trainer *t, method_templates *l, double deviation, double lr_scale);
void method_templates_describe(const method_templates *l, bmvp_jw *w); /* for describe */

/* Contrast of pairs: rows z of one view of each thing, then of its other view. Mean over rows of -log of exp(cosine
   with the pair / temperature) over the sum of it over all other rows (InfoNCE, SimCLR). */
bmvp_tensor *method_info_nce(bmvp_ctx *c, bmvp_tensor *z, double temperature);
/* Zeros, the defaults of every run, and the name. */
typedef enum method_preset_kind { METHOD_UNKNOWN, METHOD_RELEASE, METHOD_PAPER, METHOD_FAST } method_preset_kind;
method_preset_kind method_preset(const char *name, void *config, size_t size);
/* For rate: lr, halved after so many epochs again and again; 0: by warm-up and half a cosine */
double method_halved(const bmvp_trainer *t, int64_t total, double lr, int epochs);
/* The crops of this pass of all ranks, edge^3 voxels and a place for the slot each, in the order of the ranks: for
   corruptions that mix crops. Zeros in a plan. NULL after a failure; free it. */
float *method_crops_of_all(bmvp_pass *p, int edge);
uint32_t method_slot(const float *crops, int64_t edge, int64_t i); /* of crop i of those */
/* The modalities of those crops, and room for as many numbers behind them */
int32_t *method_modalities_of_all(bmvp_pass *p);

const method_row *method_at(int i);              /* NULL past the last */
const method_row *method_find(const char *name); /* NULL: there is none */
const char *method_names(void);                  /* of all of them, by spaces */

extern const method_row method_brainmvp, method_genesis;
extern const method_row method_m3ae, method_gvsl;
extern const method_row method_mae3d, method_simmim, method_mocov3; /* tokens.h */
extern const method_row method_swin_ssl, method_dae, method_voco;
extern const method_row method_transvw;

/* >>corruptions ---------------------------------------------------------------------------------------------------- */

typedef struct method_box { int64_t start[3], size[3]; } method_box; /* part of a volume of d = D, H, W */
/* Its voxels in C order: where number i stands in the volume. */
int64_t method_box_at(const method_box *b, const int64_t d[3], int64_t i);

/* What the methods do to a volume of d = D, H, W before the network sees it; in each method's file. 0: no memory. */
typedef struct genesis_config genesis_config;
void genesis_flip(float *v, const int64_t d[3], int axis);
void genesis_shuffle(const draws *r, int windows, const int64_t d[3], const float *from, float *x, int32_t *order);
int genesis_bend(const double p[4], int falling, int64_t n, const float *v, float *out);
int genesis_curve(const double p[4], int falling, int64_t n, const double *v, double *out); /* the same, exact */
/* `least` to `most` boxes are painted over, or all but 1 to `most`; from: as x is before. */
void genesis_paint_inside(const draws *r, int least, int most, const int64_t d[3], float *x, float *noise);
void genesis_paint_outside(const draws *r, int most, const int64_t d[3], const float *from, float *x);
int genesis_pair(const draws *r, const genesis_config *k, const int64_t d[3], float *y, float *x, float *scratch);

typedef struct m3ae_config m3ae_config;
void m3ae_keep(const draws *r, const m3ae_config *k, int n, unsigned present, int64_t each, int32_t *left, float *kept);
void m3ae_hide(const float *kept, int64_t edge, int64_t patch, float *hidden);
bmvp_tensor *m3ae_fill(bmvp_ctx *c, const int64_t d[3], int n, const float *x, const float *hidden,
                       bmvp_tensor *const *limage, const int64_t place[3]);
bmvp_tensor *m3ae_norm(bmvp_ctx *c, int n, bmvp_tensor *const *limage);
typedef struct gvsl_config gvsl_config;
int gvsl_shuffle(const draws *r, int windows, const int64_t d[3], const float *from, float *x, int32_t *order);
void gvsl_paint(const draws *r, int boxes, const int64_t d[3], float *x, float *noise);
int gvsl_spoil(const draws *r, const gvsl_config *k, const int64_t d[3], const float *from, float *x, float *scratch);
typedef struct gvsl_moved { bmvp_tensor *mat, *flow, *warped, *align, *smooth; } gvsl_moved;
bmvp_tensor *gvsl_run(bmvp_trainer *t, bmvp_tensor *seen, bmvp_tensor *a, gvsl_moved *moved);
/* A turn by quarters, and the boxes that are cut into volume i of n. */
typedef struct swin_ssl_config swin_ssl_config;
void swin_ssl_turn(int quarters, const int64_t d[3], int i, int j, const float *from, float *to);
void swin_ssl_spoil(const draws *r, const swin_ssl_config *k, const int64_t d[3], int64_t n, int64_t i, float *x,
                    float *scratch);
/* Noise and few voxels; out: not x. Fewer channels of tokens, by bmvp_net_on_tokens with user a dae_hidden. */
typedef struct dae_config dae_config;
void dae_disrupt(const draws *r, const dae_config *k, const int64_t d[3], const float *x, float *out);
typedef struct dae_hidden { draws *r; double share; int turned; } dae_hidden;
bmvp_tensor *dae_hide(bmvp_net *net, bmvp_tensor *t, void *user);

/* >>motion --------------------------------------------------------------------------------------------------------- */

/* Moving, bending and comparing volumes (1, D, H, W, C); in motion.c. */
bmvp_tensor *motion_matrix(bmvp_ctx *c, bmvp_tensor *angle, bmvp_tensor *scale, bmvp_tensor *shift, bmvp_tensor *shear);
bmvp_tensor *motion_affine(bmvp_ctx *c, bmvp_tensor *x, bmvp_tensor *m);
bmvp_tensor *motion_warp(bmvp_ctx *c, bmvp_tensor *x, bmvp_tensor *flow);
bmvp_tensor *motion_smooth(bmvp_ctx *c, bmvp_tensor *noise, double sigma, int radius);
bmvp_tensor *motion_field(bmvp_ctx *c, const int64_t d[3], const float *noise, double alpha, double sigma);
bmvp_tensor *motion_augment(bmvp_ctx *c, const draws *r, double share, double bend, int edge, bmvp_tensor *x);
void motion_products(bmvp_ctx *c, bmvp_tensor *a, bmvp_tensor *b, bmvp_tensor *s[3]);
bmvp_tensor *motion_correlation(bmvp_ctx *c, bmvp_tensor *a, bmvp_tensor *b);
bmvp_tensor *motion_smoothness(bmvp_ctx *c, bmvp_tensor *flow);

/* >>parts ---------------------------------------------------------------------------------------------------------- */

/* Heads and losses where a test must see them: the state of a method's trainer, what the network answers. */
typedef struct swin_ssl_heads {
    bmvp_module m;
    bmvp_layer turn, vector, conv[8], last;
    int levels;
} swin_ssl_heads;
typedef struct swin_ssl_answers { bmvp_tensor *turn, *vector, *rebuilt, *step[8]; } swin_ssl_answers;
swin_ssl_answers swin_ssl_run(bmvp_net *net, swin_ssl_heads *h, bmvp_tensor *x, int training);

typedef struct voco_config voco_config;
typedef enum voco_form { VOCO_SQUARES, VOCO_ALIKE, VOCO_LOGS } voco_form;
typedef struct voco_state {
    bmvp_net *slow; /* NULL: there is none */
    bmvp_layer head[3], slow_head[3];
} voco_state;
void voco_make_head(bmvp_module *m, bmvp_layer head[3], int64_t in, int64_t hidden, int64_t out);
bmvp_tensor *voco_project(bmvp_module *m, const bmvp_layer head[3], bmvp_tensor *x);
bmvp_tensor *voco_features(bmvp_net *net, bmvp_tensor *x, int training);
bmvp_tensor *voco_losses(bmvp_ctx *c, voco_form form, bmvp_tensor *const crop[2], bmvp_tensor *const base[2],
                         const float *label, bmvp_tensor *loss[3]);

typedef struct transvw_config transvw_config;
typedef enum transvw_kind { TRANSVW_SHUFFLE, TRANSVW_BEND, TRANSVW_INSIDE, TRANSVW_OUTSIDE } transvw_kind;
transvw_kind transvw_choice(double r); /* of a number in [0, 1) */
void transvw_make_head(bmvp_module *m, bmvp_layer head[3], int64_t in, int n);
bmvp_tensor *transvw_tell(bmvp_module *m, const bmvp_layer head[3], bmvp_tensor *last);

bmvp_tensor *dae_logits(bmvp_ctx *c, bmvp_tensor *rows, double temperature);
void dae_targets(int64_t n, const int32_t *modality, int32_t *target);

#endif
