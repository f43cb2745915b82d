/* bmvp_nn.h - v0.2.0 - networks, optimizers, JSON and checkpoints in one C header - MIT, no warranty (see its end)

   Do this:
       #define BMVP_IMPLEMENTATION          in ONE C or C++ file, before the includes
       #include "bmvp_tensor.h"
       #include "bmvp_nn.h"

   What it is: layers that are made by name as PyTorch's modules are, the networks of BrainMVP made of them (UniFormer
   encoder with its pre-training decoder, UniUnet and UNET3D for segmentation, heads for classification) with the
   released names of every parameter, their initialisation and the start from a pre-trained file, AdamW, Adam and SGD,
   learning-rate schedules, and files: safetensors and PyTorch .pt, read and written without Python; a small strict JSON
   reader and writer that goes with them.

   What it is not: no model zoo; a network of your own is a block of layers and a row of a table (>>layers, >>network).
   Files written by others are read as hostile: a pickle that wants to run code is refused by name.

   CONTENTS (search for the tag)
       >>state     >>layers    >>network   >>optimizer             >>data parallel         >>files     >>json
       >>checkpoint            >>state files
       and in the implementation
       >>for upper headers     >>state impl            >>layers impl           >>residual blocks
       >>uniformer >>decoder   >>unet3d    >>unetr     >>unet3d_mg >>unet3d_gvsl           >>swin_unetr
       >>network impl          >>optimizer impl        >>data parallel impl    >>state files impl
       >>adopt     >>bump      >>text      >>files impl            >>json parser           >>json writer
       >>checkpoint base       >>zip
       >>pickle    >>pickle walk           >>pickle without zip    >>safetensors           >>checkpoint reader
       >>weights   >>checkpoint writer     >>pickle writer

   A complete program:

       #define BMVP_IMPLEMENTATION
       #include "bmvp_tensor.h"
       #include "bmvp_nn.h"
       #include <stdio.h>
       int main(void)
       {
           int64_t dim[5] = { 1, 32, 32, 32, 1 };
           bmvp_ctx *c = bmvp_create(NULL, NULL);
           bmvp_net_config k;
           bmvp_features f;
           bmvp_net *net;
           bmvp_net_preset("uniformer_tiny", &k);
           net = bmvp_net_create(c, &k);
           bmvp_net_init(net, 1);
           bmvp_set_grad(c, 0);
           f = bmvp_net_encode(net, bmvp_leaf(c, 5, dim, NULL), 0);
           if (bmvp_failed(c)) printf("%s\n", bmvp_error_of(c)->message);
           else printf("last map: %d^3 voxels, %d channels\n", (int)f.last->dim[1], (int)f.last->dim[4]);
           bmvp_net_destroy(net);
           bmvp_destroy(c);
           return 0;
       }
*/
#ifndef BMVP_NN_H_INCLUDED
#define BMVP_NN_H_INCLUDED
#define BMVP_NN_VERSION 200
#ifndef BMVP_TENSOR_H_INCLUDED
#error "bmvp_nn.h needs bmvp_tensor.h: include it first"
#endif
#if BMVP_TENSOR_VERSION != BMVP_NN_VERSION
#error "bmvp_nn.h and bmvp_tensor.h are of different versions: take both from one release"
#endif
#if defined(BMVP_IMPLEMENTATION) && !defined(BMVP_NN_IMPLEMENTATION)
#define BMVP_NN_IMPLEMENTATION
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* >>state -------------------------------------------------------------------------------------------------------- */

/* The state of a network is a list of named tensors: PyTorch's state_dict, in its order. Files hold PyTorch's names,
   shapes and element order, memory the order of bmvp_tensor.h (channels last); an entry knows both. */

/* The order of the three axes of space within PyTorch's tensors. Ours are always Z, Y, X. */
typedef enum bmvp_axes {
    BMVP_AXES_XYZ, /* arrays as nibabel and MONAI give them: (N, C, X, Y, Z). The default */
    BMVP_AXES_ZXY, /* BrainMVP's encoder, which permutes its input */
    BMVP_AXES_ZYX  /* arrays as SimpleITK gives them: (N, C, Z, Y, X) */
} bmvp_axes;

/* How a tensor lies in PyTorch's files <-> here. The three of a kind stand in the order of bmvp_axes. */
typedef enum bmvp_layout {
    BMVP_LAYOUT_SAME,          /* any shape, as it is */
    BMVP_LAYOUT_LINEAR,        /* (O, I)           <-> (I, O) */
    BMVP_LAYOUT_POINTWISE,     /* (O, I, 1, 1, 1)  <-> (I, O) */
    BMVP_LAYOUT_CONV_XYZ,      /* (O, I, kx,ky,kz) <-> (kz, ky, kx, I, O) */
    BMVP_LAYOUT_CONV_ZXY,
    BMVP_LAYOUT_CONV_ZYX,
    BMVP_LAYOUT_DEPTHWISE_XYZ, /* (C, 1, kx,ky,kz) <-> (kz, ky, kx, C) */
    BMVP_LAYOUT_DEPTHWISE_ZXY,
    BMVP_LAYOUT_DEPTHWISE_ZYX,
    BMVP_LAYOUT_CONVT_XYZ,     /* (I, O, kx,ky,kz) <-> (I, kz, ky, kx, O) */
    BMVP_LAYOUT_CONVT_ZXY,
    BMVP_LAYOUT_CONVT_ZYX,
    BMVP_LAYOUT_VOLUME         /* (X, Y, Z)        <-> (Z, Y, X) */
} bmvp_layout;

typedef enum bmvp_init {      /* how a fresh entry starts; PyTorch's function in torch.nn.init */
    BMVP_INIT_ZERO,
    BMVP_INIT_ONE,
    BMVP_INIT_KAIMING_OUT,    /* normal, variance 2 / fan, fan = O k^3: kaiming_normal_ of fan_out and relu */
    BMVP_INIT_UNIFORM_IN,     /* uniform in +-1/sqrt(fan), fan = I k^3: start of Linear, Conv3d, ConvTranspose3d */
    BMVP_INIT_XAVIER_UNIFORM, /* uniform in +-sqrt(6 / fan), fan = (I + O) k^3: xavier_uniform_ */
    BMVP_INIT_NORMAL,         /* normal, standard deviation `value`: normal_ */
    BMVP_INIT_TRUNC_NORMAL,   /* the same, drawn again beyond +-2: trunc_normal_ */
    BMVP_INIT_CONSTANT,       /* `value` */
    BMVP_INIT_WINDOW_INDEX    /* (w^3, w^3), w = `value`: relative_position_index of Swin's windows of w^3 tokens */
} bmvp_init;

/* One entry of a network's state, named as in PyTorch. */
typedef struct bmvp_state {
    const char *name;
    bmvp_tensor *t;
    int64_t counter; /* entries of torch_rank 0 are counters (num_batches_tracked): their value is here, t is unused */
    int trained;     /* 1: parameter with gradient; 0: statistics, counters, and parameters carried but never used */
    int carried;     /* 1: never used, there for programs that want it in a file; ours need not have it */
    int torch_rank;        /* PyTorch's shape */
    int64_t torch_dim[BMVP_MAX_DIMS];
    int walk_rank;         /* the same with axes split that are several of ours (tokens are z, y, x); else equal */
    int64_t walk_dim[BMVP_MAX_DIMS];
    int64_t stride[BMVP_MAX_DIMS]; /* of our memory, one for each of walk_dim */
    bmvp_init init;
    int64_t fan;
    double value;          /* of NORMAL, TRUNC_NORMAL and CONSTANT */
    double lr_scale;       /* learning rate of this tensor / that of the rest */
    double decay_scale;    /* the same of weight decay, 0: none. Both are what PyTorch has parameter groups for */
    const char *stacked; /* this is slice `part` of `parts` of the file's tensor of this name (templates); else NULL */
    int part, parts;
} bmvp_state;

typedef struct bmvp_state_list { /* begins as zeros */
    bmvp_state *item;
    int n, cap;
} bmvp_state_list;

/* Registers a tensor. torch_dim: PyTorch's shape. Returns the tensor (NULL after a failure). */
BMVP_API bmvp_tensor *bmvp_state_add(bmvp_ctx *c, bmvp_state_list *list, const char *name, bmvp_layout layout,
                                     int torch_rank, const int64_t *torch_dim, int trained, bmvp_init init,
                                     int64_t fan);
/* Frees the list; the tensors go with the context. Networks free theirs. */
BMVP_API void bmvp_state_list_free(bmvp_ctx *c, bmvp_state_list *list);
/* Start values of one entry, from random stream `stream` of seed (bmvp_net_init takes 1000 + its place in the list). */
BMVP_API void bmvp_state_init(bmvp_ctx *c, const bmvp_state *s, uint64_t seed, uint32_t stream);
/* Copies between our memory and PyTorch's order (numel floats). */
BMVP_API void bmvp_state_to_torch(const bmvp_state *s, const float *ours, float *torch);
BMVP_API void bmvp_state_from_torch(const bmvp_state *s, const float *torch, float *ours);

/* >>layers ------------------------------------------------------------------------------------------------------- */

/* Layers are made by name and run. Making one adds its tensors to a list of states under the names that PyTorch's
   module of that name gives them, with its shapes and its initialisation; so a network of layers is saved, loaded from
   .pt and .safetensors, optimised, planned and shared by ranks with nothing more to do. Running one is a call of its
   op:

       l = bmvp_make_conv(m, "conv1", 1, 16, 3, 1, 1, 1);         self.conv1 = nn.Conv3d(1, 16, 3, stride=1, padding=1)
       y = bmvp_relu(m->c, bmvp_run(m, &l, x));                   y = F.relu(self.conv1(x))

   A bmvp_module is the place in the tree of names where layers are made, and what a pass has to know (training or not).
   bmvp_enter goes down a level, bmvp_leave up again: bmvp_enter(m, "decoder.%d", i) gives "decoder.2.conv1.weight".
   After a failure all of them do nothing, and layers are zeros. Maps are (N, D, H, W, C) here and (N, C, X, Y, Z) in
   PyTorch, unless m->axes says otherwise. */
enum { BMVP_NAME_MAX = 200, BMVP_LEVELS_MAX = 12 };
typedef struct bmvp_module {
    bmvp_ctx *c;
    bmvp_state_list *list;
    bmvp_axes axes;      /* of the convolutions made from now on */
    int carried;         /* 1: what is made from now on is carried in files, but never used nor trained; 0 */
    int training;        /* this pass: batch statistics, drop path */
    int counting;        /* this pass counts in num_batches_tracked; 1 */
    int recompute;       /* bmvp_block_end keeps only what lies between blocks; 0 */
    int drawn;           /* draws of drop path have been set: bmvp_module_draws */
    uint64_t seed;
    uint32_t step, sample, draws;
    int level;           /* how often entered */
    size_t end[BMVP_LEVELS_MAX]; /* length of the name at each level */
    char name[BMVP_NAME_MAX];
} bmvp_module;
/* A module whose tensors go to `list`: for layers outside of a network. Networks have theirs: net->m. */
BMVP_API void bmvp_module_begin(bmvp_module *m, bmvp_ctx *c, bmvp_state_list *list);
BMVP_API void bmvp_enter(bmvp_module *m, const char *format, ...) BMVP_PRINTF(2, 3);
BMVP_API void bmvp_leave(bmvp_module *m);

typedef struct bmvp_layer {
    bmvp_tensor *w, *b;       /* weight and bias in our order, for the fused ops; NULL: it has none */
    bmvp_tensor *mean, *var;  /* batch norm: running statistics */
    int counter;              /* batch norm: place of num_batches_tracked in the list */
    int groups;               /* group norm */
    double eps;               /* norms: 1e-5; may be changed */
    bmvp_conv_shape shape;    /* convolutions */
    bmvp_tensor *(*run)(bmvp_module *m, const struct bmvp_layer *l, bmvp_tensor *x);
} bmvp_layer;
BMVP_API bmvp_tensor *bmvp_run(bmvp_module *m, const bmvp_layer *l, bmvp_tensor *x);

/* torch.nn.Linear(in, out, bias): x (..., in) -> (..., out). weight (out, in) and bias uniform in +-1/sqrt(in). */
BMVP_API bmvp_layer bmvp_make_linear(bmvp_module *m, const char *name, int64_t in, int64_t out, int bias);
/* torch.nn.Conv3d(in, out, kernel, stride, padding, bias=): x (N, D, H, W, in) -> (N, D', H', W', out), zeros outside.
   weight (out, in, k, k, k) and bias uniform in +-1/sqrt(in k^3). A kernel of 1 without stride and padding runs as a
   linear layer. */
BMVP_API bmvp_layer bmvp_make_conv(bmvp_module *m, const char *name, int64_t in, int64_t out, int64_t kernel,
                                   int64_t stride, int64_t pad, int bias);
/* torch.nn.Conv3d(n, n, kernel, padding=kernel // 2, groups=n), kernel odd: shapes stay. weight (n, 1, k, k, k) and
   bias uniform in
   +-1/sqrt(k^3). */
BMVP_API bmvp_layer bmvp_make_depthwise(bmvp_module *m, const char *name, int64_t n, int64_t kernel);
/* torch.nn.ConvTranspose3d(in, out, kernel, stride=kernel, bias=): (N, D, H, W, in) -> (N, kD, kH, kW, out). weight
   (in, out, k, k, k) and bias uniform in +-1/sqrt(out k^3). */
BMVP_API bmvp_layer bmvp_make_conv_transpose(bmvp_module *m, const char *name, int64_t in, int64_t out, int64_t kernel,
                                             int bias);

/* Norms keep shapes; weight (n) starts as 1, bias (n) as 0, eps 1e-5.
   BatchNorm3d(n): over all axes but channels, batch statistics when m->training, else running_mean (0) and running_var
   (1), which move by 0.1; num_batches_tracked counts. LayerNorm(n): over channels. GroupNorm(groups, n): groups of
   neighbouring channels, all voxels of a sample. InstanceNorm3d(n, affine=): each channel of a sample; without `affine`
   it has no tensors, and name may be NULL. */
BMVP_API bmvp_layer bmvp_make_batchnorm(bmvp_module *m, const char *name, int64_t n);
/* .. without weight and bias (affine=False), as at the end of heads. */
BMVP_API bmvp_layer bmvp_make_batchnorm_plain(bmvp_module *m, const char *name, int64_t n);
BMVP_API bmvp_layer bmvp_make_layernorm(bmvp_module *m, const char *name, int64_t n);
BMVP_API bmvp_layer bmvp_make_groupnorm(bmvp_module *m, const char *name, int64_t n, int groups);
BMVP_API bmvp_layer bmvp_make_instancenorm(bmvp_module *m, const char *name, int64_t n, int affine);

/* torch.nn.Parameter(torch.zeros(dim)): a learnable tensor as it is, for bmvp_init_as and the ops. */
BMVP_API bmvp_tensor *bmvp_make_tensor(bmvp_module *m, const char *name, int rank, const int64_t *dim);
/* Learnable positions of a grid of tokens, {D, H, W}: PyTorch (1, tokens, n), its tokens in the order of m->axes, here
   (1, D, H, W, n). Starts as zeros; bmvp_add_tokens adds it. */
BMVP_API bmvp_tensor *bmvp_make_tokens(bmvp_module *m, const char *name, const int64_t grid[3], int64_t n);
/* x (N, ...) + t (1, ...), the same t for each sample: positions. */
BMVP_API bmvp_tensor *bmvp_add_tokens(bmvp_module *m, bmvp_tensor *x, bmvp_tensor *t);

/* Instead of a layer's own start, as nn.init does after a module is made: of t, a tensor made in m (NULL: nothing to
   do). fan follows from PyTorch's shape. */
BMVP_API void bmvp_init_as(bmvp_module *m, const bmvp_tensor *t, bmvp_init init, double value);

/* Two linear layers with GELU between (timm's Mlp: name.fc1, name.fc2), as one op: the hidden layer is never stored.
   residual NULL: none; else it is added. */
typedef struct bmvp_mlp_layer {
    bmvp_layer fc1, fc2;
} bmvp_mlp_layer;
BMVP_API bmvp_mlp_layer bmvp_make_mlp(bmvp_module *m, const char *name, int64_t n, int64_t hidden);
BMVP_API bmvp_tensor *bmvp_run_mlp(bmvp_module *m, const bmvp_mlp_layer *l, bmvp_tensor *x, bmvp_tensor *residual);

/* Pre-norm transformer block over the tokens between the first and the last axis: x += proj(MHSA(norm1(x))); x +=
   mlp(norm2(x)); timm's Block: norm1, attn.qkv, attn.proj, norm2, mlp.fc1, mlp.fc2 below `name` (NULL: where m is). qkv
   (3 n, n) has the rows of q, then k, then v, head by head; softmax(q k^T / sqrt(n / heads)). Networks whose names or
   order differ (MONAI: attn.out_proj, mlp.linear1) make the six layers themselves. drop_path: rate at which a sample
   skips a branch in training; 0. */
typedef struct bmvp_attention_block {
    bmvp_layer norm1, qkv, proj, norm2;
    bmvp_mlp_layer mlp;
    int heads;
    double drop_path;
} bmvp_attention_block;
BMVP_API bmvp_attention_block bmvp_make_attention_block(bmvp_module *m, const char *name, int64_t n, int heads,
                                                        int64_t hidden, int qkv_bias);
BMVP_API bmvp_tensor *bmvp_run_attention_block(bmvp_module *m, const bmvp_attention_block *b, bmvp_tensor *x);

/* Patches of p^3 voxels to tokens: name.proj = Conv3d(in, out, p, stride=p), and with `norm` name.norm =
   LayerNorm(out). */
typedef struct bmvp_patch_embed {
    bmvp_layer proj, norm;
} bmvp_patch_embed;
BMVP_API bmvp_patch_embed bmvp_make_patch_embed(bmvp_module *m, const char *name, int64_t in, int64_t out, int64_t p,
                                                int norm);
BMVP_API bmvp_tensor *bmvp_run_patch_embed(bmvp_module *m, const bmvp_patch_embed *e, bmvp_tensor *x);

/* Stochastic depth (Huang et al., ECCV 2016; timm's DropPath): in training a sample's x becomes 0 with probability
   `rate`, else x / (1 - rate). Draws are counted from (seed, step, sample): a resumed run, or one with other ranks,
   draws the same. Set them before each training pass; sample is the number of the pass's first one. */
BMVP_API bmvp_tensor *bmvp_drop_path(bmvp_module *m, bmvp_tensor *x, double rate);
BMVP_API void bmvp_module_draws(bmvp_module *m, uint64_t seed, uint32_t step, uint32_t sample);

/* The end of a block that began with mark = bmvp_scope_begin(c): what it made but y is freed, for good without a tape,
   and with m->recompute until backward computes it again. Returns y. */
BMVP_API bmvp_tensor *bmvp_block_end(bmvp_module *m, int64_t mark, bmvp_tensor *y);

/* >>network ------------------------------------------------------------------------------------------------------ */

/* A network is a block of code and a row of a table. The block has a struct of layers, a function that makes them and
   functions that run them; the row, a bmvp_net_kind, names the functions. Everything that knows networks asks the row:
   pre-training needs encode and reconstruct, fine-tuning encode and segment or classify, a loader the stride, and files
   the prefixes of names that say what belongs to the encoder. So nobody asks which network it is.

   The way of an input: encode makes maps from fine to coarse; what stands on them depends on the task that the network
   was made for. Between blocks only their ends are kept: a block begins with bmvp_scope_begin and ends with
   bmvp_block_end, and what backward computes cheaply again (norms, activations) is dropped at once by bmvp_drop.

   The rows of this header are `uniformer` (BrainMVP's encoder with its pre-training decoder and UniUnet), `unet3d`
   (option deep 1: heads on the maps at 1/4 and 1/2 in segmentation, as M3AE's has),
   `unetr` (MONAI's, of one input size: options img_size or img_x, img_y, img_z, feature_size, hidden_size, mlp_dim,
   num_heads, and perceptron 1 for its linear patch embedding), `unet3d_mg` (Models Genesis and TransVW; width),
   `unet3d_gvsl` (GVSL; width) and `swin_unetr` (MONAI's, of any size: feature_size, window_size, num_heads, depth,
   use_v2, new_merging 1 where MONAI 1.5 or later trained it, 2 where its "mergingv2" did, which no file shows, dae 1:
   DAE's, with a patch embedding of its own, and encoders 1: the encoder alone has the blocks of the skips, too). A
   program adds rows by bmvp_config.networks (examples/08_own_network.c); plans, files, training and prediction then
   know them. A config is plain data: it names its row, and numbers that are no field of it are options with names, so
   a checkpoint's description can be read, and printed, where the row is not known. */

typedef enum bmvp_net_task {
    BMVP_TASK_PRETRAIN,
    BMVP_TASK_SEGMENT,
    BMVP_TASK_CLASSIFY,
    BMVP_TASK_ENCODE /* the encoder alone: for methods of pre-training with heads of their own */
} bmvp_net_task;

enum { BMVP_NET_OPTIONS = 12 };
typedef struct bmvp_net_option { /* what a network needs to know beyond the fields of bmvp_net_config */
    char name[24];               /* "": none */
    int value;
} bmvp_net_option;

typedef struct bmvp_net_config {
    char name[32];        /* of the preset, or "custom" */
    char kind[24];        /* the row: "uniformer", "unet3d", or one of bmvp_config.networks */
    int in_channels;      /* 1 in pre-training */
    int dim[4], depth[4]; /* UniFormer: channels and blocks of the four stages */
    int head_dim;         /* UniFormer: channels of one attention head; divides dim[2] and dim[3] */
    int mlp_ratio;        /* UniFormer: hidden width / width */
    int width;            /* U-Nets: n; UNET3D's levels have n, 2n, 4n, 8n channels */
    int groups;           /* UNET3D: groups of GroupNorm; divides n */
    int plain_decoder; /* UniFormer: 1 runs the decoder layer by layer, 0 composes it to one matrix (equal, faster) */
    bmvp_net_task task;   /* which network stands on the encoder; presets: pre-training */
    int outputs;          /* segmentation: channels of the logits; classification: classes; pre-training: unused */
    int deep_supervision; /* 1 adds heads on coarser maps, where the row has them: UniFormer's segmentation, at 1/4 and
                             1/2 of the input */
    bmvp_net_option option[BMVP_NET_OPTIONS];
} bmvp_net_config;

/* uniformer_small, uniformer_base, uniformer_tiny, unet3d, unet3d_m3ae (its width), unet3d_tiny, unetr, unetr_tiny,
   unet3d_mg, unet3d_mg_tiny, unet3d_gvsl, unet3d_gvsl_tiny, swin_unetr, swin_unetr_tiny; 0 when the name is none of
   them. */
BMVP_API int bmvp_net_preset(const char *name, bmvp_net_config *cfg);
BMVP_API const char *bmvp_net_preset_names(void); /* "uniformer_small uniformer_base ..." */
/* A config of this kind with one input channel and everything else 0. */
BMVP_API bmvp_net_config bmvp_net_config_default(const char *kind);
/* Sets fields by name: "dim=16,32,64,128 head_dim=16"; a name that is no field of bmvp_net_config becomes an option.
   BMVP_E_ARG says where the text is wrong. */
BMVP_API bmvp_status bmvp_net_config_set(bmvp_net_config *cfg, const char *text, bmvp_error *err);
BMVP_API int bmvp_net_option_of(const bmvp_net_config *cfg, const char *name, int otherwise);

/* Feature maps, finest first: UniFormer x1..x4 at 1/2, 1/4, 1/8, 1/16 of the input; UNET3D at 1/2, 1/4, 1/8, and the
   last at 1/8; UNETR's four are all at 1/16; Swin-UNETR's five at 1/2 to 1/32. NULL: not there. */
typedef struct bmvp_features {
    bmvp_tensor *map[6];
    bmvp_tensor *skip[6]; /* what the row's decoder wants besides: UNET3D's maps at 1, 1/2, 1/4 of the input, UNETR's
                             and Swin-UNETR's the input, GVSL's maps at 1 to 1/8, the input, and in pre-training the
                             decoded map; with encoders 1 Swin-UNETR's encoder1, 2, 3, 4 and 10 are [1] to [5] */
    bmvp_tensor *last; /* the coarsest: what the contrast compares and the decoder reads */
} bmvp_features;

typedef struct bmvp_logits {
    bmvp_tensor *full;
    bmvp_tensor *quarter, *half; /* deep supervision, upsampled to full size; NULL without it */
} bmvp_logits;

typedef struct bmvp_net bmvp_net;
/* Of a network whose blocks work on tokens (UNETR), for methods that choose or replace some of them; see
   bmvp_net_embed. Such a row has an option img_size, as positions are learned for one size. */
typedef struct bmvp_net_tokens {
    bmvp_tensor *(*embed)(bmvp_net *net, bmvp_tensor *x);
    bmvp_tensor *(*positions)(const bmvp_net *net);
    bmvp_tensor *(*blocks)(bmvp_net *net, bmvp_tensor *tokens, int norm);
} bmvp_net_tokens;
typedef enum bmvp_net_part {
    BMVP_PART_ENCODER, BMVP_PART_STEM, BMVP_PART_HEAD, BMVP_PART_INPUT, BMVP_PART_COUNT
} bmvp_net_part;
struct bmvp_ckpt;

/* One row. Zeros (NULL) where the network has no such thing. The functions return NULL (or zeros) after a failure, as
   builders do. */
typedef struct bmvp_net_kind {
    const char *name;                                       /* as in bmvp_net_config.kind and in files */
    const char *title;                                      /* in messages; NULL: name */
    const char *fields; /* names of the fields and options that are its own, by spaces */
    const char *unseen; /* those of them that no tensor of a file shows: `infer` assumes them */
    size_t size;        /* of its struct of layers: net->layers, zeros before make */
    int64_t (*stride)(const bmvp_net_config *k);            /* crops must be a multiple of this */
    void (*only)(const bmvp_net_config *k, int64_t size[3]); /* the one D, H, W that it takes; NULL: any multiple */
    /* Of the last map; for classification without a `classify` of its own. */
    int64_t (*channels)(const bmvp_net_config *k);
    int (*check)(bmvp_ctx *c, const bmvp_net_config *k);    /* 1: sizes fit; else bmvp_fail says why */
    void (*make)(bmvp_net *net);                            /* the layers, for net->cfg.task */
    void (*destroy)(bmvp_net *net);                         /* what make allocated besides net->layers */
    bmvp_features (*encode)(bmvp_net *net, bmvp_tensor *x); /* x (N, D, H, W, in_channels) */
    bmvp_tensor *(*reconstruct)(bmvp_net *net, const bmvp_features *f);               /* -> (N, D, H, W, 1) */
    /* -> (N, D, H, W, outputs); deep 1: the coarser heads, too */
    bmvp_logits (*segment)(bmvp_net *net, bmvp_tensor *x, const bmvp_features *f, int deep);
    /* -> (N, outputs); NULL: Linear `head` of the last map's average */
    bmvp_tensor *(*classify)(bmvp_net *net, const bmvp_features *f);
    /* From names and shapes of a checkpoint without a description: 1 and the config (name, kind and in_channels = 1 are
       set), or 0: another network's. NULL: such files are not recognised. */
    int (*infer)(const struct bmvp_ckpt *f, const char *group, bmvp_net_config *k);
    int deep;                                               /* 1: segment has coarser heads when cfg.deep_supervision */
    double weight_decay;                                    /* of fine-tuning in the paper's table */
    /* Prefixes of names, by spaces. Encoder: what fine-tuning takes from pre-training, must fit, and may learn slower.
       Stem: its first layer, spread when there are more channels. Head: the last layers, never taken from pre-training.
       Input: other layers that read the image, fresh when the number of channels differs. */
    const char *part[BMVP_PART_COUNT];
    const char *alias[2]; /* two prefixes for one thing (a task's names have a level more) */
    const bmvp_net_tokens *tokens; /* NULL: it has none */
} bmvp_net_kind;
/* A row of the header or of bmvp_config.networks (c NULL: of the header); NULL: there is none of that name. */
BMVP_API const bmvp_net_kind *bmvp_net_kind_find(const bmvp_ctx *c, const char *name);

struct bmvp_net { /* for the functions of rows; programs use those below */
    bmvp_module m;
    const bmvp_net_kind *kind;
    bmvp_net_config cfg;
    bmvp_state_list state;
    void *layers;    /* the row's struct */
    bmvp_layer head; /* classification without a `classify` of the row's own */
    bmvp_tensor *(*on_tokens)(struct bmvp_net *net, bmvp_tensor *tokens, void *user); /* bmvp_net_on_tokens */
    void *on_tokens_user;
};

/* Makes the parameters (values undefined until bmvp_net_init or a checkpoint is loaded). NULL and the context's error
   on failure. */
BMVP_API bmvp_net *bmvp_net_create(bmvp_ctx *c, const bmvp_net_config *cfg);
BMVP_API void bmvp_net_destroy(bmvp_net *net); /* the parameters go with the context */
BMVP_API const bmvp_net_config *bmvp_net_config_of(const bmvp_net *net);
BMVP_API bmvp_state_list *bmvp_net_state(bmvp_net *net);
BMVP_API int64_t bmvp_net_stride(const bmvp_net *net); /* crops must be a multiple of this: UniFormer 16, UNET3D 8 */
/* The same before there is a network, and the channels of the last map; 0: the kind is not known to c (or says
   nothing). */
BMVP_API int64_t bmvp_net_stride_of(const bmvp_ctx *c, const bmvp_net_config *cfg);
BMVP_API int64_t bmvp_net_channels_of(const bmvp_ctx *c, const bmvp_net_config *cfg);
/* 1: inputs have this one size, D, H, W (UNETR: its positions are learned); 0: any multiple of the stride. */
BMVP_API int bmvp_net_only_size(const bmvp_ctx *c, const bmvp_net_config *cfg, int64_t size[3]);
/* 1: the tensor `name` belongs to the part. */
BMVP_API int bmvp_net_in_part(const bmvp_net *net, const char *name, bmvp_net_part part);
BMVP_API void bmvp_net_init(bmvp_net *net, uint64_t seed);
/* 1: from now on passes keep for backward only what lies between blocks, and backward computes the inside of each block
   again (bmvp_checkpoint): less memory, more time, the same bits. Default 0. */
BMVP_API void bmvp_net_set_recompute(bmvp_net *net, int on);
/* For methods that hide or turn tokens: from now on what the first layer makes of an input (UniFormer and Swin-UNETR:
   the patch embedding, (N, D/2, H/2, W/2, C)) goes through fn, whose result, of the same shape, the encoder goes on
   with. fn NULL: no more. The other rows do not call it. */
BMVP_API void bmvp_net_on_tokens(bmvp_net *net, bmvp_tensor *(*fn)(bmvp_net *net, bmvp_tensor *tokens, void *user),
                                 void *user);
/* x (N, D, H, W, in_channels) -> maps. training: batch statistics in BatchNorm, else running ones; holds for the calls
   below, too. */
BMVP_API bmvp_features bmvp_net_encode(bmvp_net *net, bmvp_tensor *x, int training);
/* The pre-training decoder, no skip connections: features -> (N, D, H, W, 1). */
BMVP_API bmvp_tensor *bmvp_net_reconstruct(bmvp_net *net, const bmvp_features *f);
/* Segmentation (method 4.3 UniUnet, 4.4 UNET3D with its skip additions): x is the network's input, f its features ->
   logits (N, D, H, W, outputs). deep_supervision 1: the coarser heads too (made with the config's field of that
   name). */
BMVP_API bmvp_logits bmvp_net_segment(bmvp_net *net, bmvp_tensor *x, const bmvp_features *f, int deep_supervision);
/* Classification: global average of the last map -> Linear: logits (N, outputs). */
BMVP_API bmvp_tensor *bmvp_net_classify(bmvp_net *net, const bmvp_features *f);

/* In place of encode, for methods that mask tokens. embed: patches of s^3 voxels, s the stride, to tokens, x (N, D, H,
   W, in_channels) -> (N, D/s, H/s, W/s, C), without positions. positions: (1, D/s, H/s, W/s, C), learned, for
   bmvp_add_tokens or bmvp_gather_rows. blocks: tokens (N, ..., C), any number and choice of them -> the same shape;
   norm 1: with the LayerNorm at the end. blocks(embed(x) + positions, 1) is the last map of encode. A network without
   tokens: BMVP_E_ARG, and the message names those that have them. */
BMVP_API bmvp_tensor *bmvp_net_embed(bmvp_net *net, bmvp_tensor *x, int training);
BMVP_API bmvp_tensor *bmvp_net_positions(bmvp_net *net);
BMVP_API bmvp_tensor *bmvp_net_blocks(bmvp_net *net, bmvp_tensor *tokens, int norm);
/* The same question before there is a network: 1, or 0 and the error. */
BMVP_API int bmvp_net_needs_tokens(bmvp_ctx *c, const bmvp_net_config *cfg);

/* >>optimizer ---------------------------------------------------------------------------------------------------- */

typedef enum bmvp_optim_kind { BMVP_ADAMW, BMVP_SGD, BMVP_ADAM } bmvp_optim_kind;

typedef struct bmvp_optim_config {
    bmvp_optim_kind kind;
    /* AdamW (Loshchilov and Hutter, ICLR 2019; torch.optim.AdamW) and Adam: 0.9, 0.999, 1e-8. What a step does to a
       number stands at bmvp_update in bmvp_tensor.h, its loop in >>device of the CPU there */
    double beta1, beta2, eps;
    double weight_decay;      /* AdamW: decoupled; SGD and Adam: added to the gradient. 1e-5 */
    double momentum;          /* SGD: torch.optim.SGD without dampening. 0.9 */
    int amsgrad; /* 1: AdamW and Adam divide by the largest exp_avg_sq so far (Reddi et al., ICLR 2018): 4 bytes more */
} bmvp_optim_config;
BMVP_API bmvp_optim_config bmvp_optim_config_default(bmvp_optim_kind kind);

/* A parameter without a gradient in a step is left alone, its step count too (PyTorch's grad = None). */
typedef struct bmvp_optim bmvp_optim;
/* Makes the moments of every trained entry of the list, which must outlive the optimizer and not grow. */
BMVP_API bmvp_optim *bmvp_optim_create(bmvp_ctx *c, bmvp_state_list *list, const bmvp_optim_config *cfg);
BMVP_API void bmvp_optim_destroy(bmvp_optim *o);
BMVP_API void bmvp_optim_zero_grad(bmvp_optim *o);
/* L2 norm over all gradients present; summed in double in a fixed order. Waits. */
BMVP_API double bmvp_optim_grad_norm(bmvp_optim *o);
/* One step with learning rate lr; every gradient is first multiplied by grad_scale (clipping: min(1, limit / norm)). */
BMVP_API void bmvp_optim_step(bmvp_optim *o, double lr, double grad_scale);
/* Norm, clipping (torch.nn.utils.clip_grad_norm_ without its 1e-6; clip 0: none) and step at once, without waiting for
   any of them. Returns where the norm will be, in the backend's memory until the next such step: bmvp_post it. NULL:
   there are no gradients, a plan, or a failure. A step whose norm is not finite moves nothing, nor do the ones after
   it, until bmvp_optim_resume: the values stay those of the last good step. */
BMVP_API const float *bmvp_optim_clipped_step(bmvp_optim *o, double lr, double clip);
/* The same of a number of the backend's memory, a loss: if it is not finite the clipped steps given from now on move
   nothing. */
BMVP_API void bmvp_optim_watch(bmvp_optim *o, const float *x);
/* After the failure was seen: clipped steps will move again once it is cleared. Those that moved nothing do not count
   in bmvp_optim_count. */
BMVP_API void bmvp_optim_resume(bmvp_optim *o);
/* Moments of entry i of the list (NULL for what is not trained) and its step count, for checkpoints. which 0: exp_avg
   or the momentum buffer, 1: exp_avg_sq, 2: max_exp_avg_sq (of amsgrad). */
enum { BMVP_MOMENTS = 3 };
BMVP_API bmvp_tensor *bmvp_optim_moment(bmvp_optim *o, int i, int which);
BMVP_API int64_t *bmvp_optim_count(bmvp_optim *o, int i);
BMVP_API bmvp_optim_config bmvp_optim_config_of(const bmvp_optim *o);
/* decay_scale 0 for every entry of one axis (biases, norms, single tokens), as most transformers are trained. Before
   the first step. */
BMVP_API void bmvp_state_decay_matrices(bmvp_state_list *list);
/* A slowly moving copy of a network (mean teacher, MoCo's momentum encoder): every trained entry of `to` becomes
   keep x itself + (1 - keep) x the same entry of `from`; keep 0 copies, statistics and counters, too. The lists have
   the same entries in the same order (two networks of one config); `to` is of no optimizer, and is run with
   bmvp_set_grad 0. bmvp_trainer_keep saves it with a run. Nothing in a plan. */
BMVP_API void bmvp_state_average(bmvp_ctx *c, bmvp_state_list *to, const bmvp_state_list *from, double keep);

/* Learning rate of `step` (from 0) out of `total`: linear warm-up from 0 over `warmup` steps, then half a cosine to
   `floor`. Make it of zeros and fill in what is wanted:
     half_period  1: as the release, whose cosine has half the period: the rate is 0 at half time and climbs back
     warm_from    1: step t of the warm-up has start + (lr - start) t / warmup; 0: lr (t + 1) / (warmup + 1)
     whole        1: the cosine is counted from step 0, not from the end of the warm-up (which it falls from)
     every        above 0: in place of the cosine, lr factor^(step / every). torch StepLR (step_size, gamma) */
typedef struct bmvp_schedule {
    double lr, floor;
    int64_t total, warmup;
    int half_period;
    int warm_from, whole;
    double start;
    int64_t every;
    double factor;
} bmvp_schedule;
BMVP_API double bmvp_schedule_lr(const bmvp_schedule *s, int64_t step);

/* >>data parallel ------------------------------------------------------------------------------------------------ */

/* Sums gradients over the context's ranks (bmvp_set_comm): those of every trained entry of the list but stacked ones
   (templates: of those a step touches crops only, and dense sums would be 286 MB). They travel in buckets of about 25
   MB, the first of 1 MB, in the order in which backward completes them. A device's gradients go through the host,
   without overlap, unless the table is on_device. The list must outlive the reducer and not grow; all ranks have the
   same one. bmvp_set_comm comes first. */
typedef struct bmvp_reducer bmvp_reducer;
/* NULL and the context's error on failure. */
BMVP_API bmvp_reducer *bmvp_reducer_create(bmvp_ctx *c, bmvp_state_list *list);
BMVP_API void bmvp_reducer_destroy(bmvp_reducer *r);
/* Optional, before the last backward of a step: buckets leave while it goes on (comm's start, or else its
   all_reduce). */
BMVP_API void bmvp_reducer_start(bmvp_reducer *r);
/* After the last backward of a step: sends what has not left, waits. A parameter has a gradient afterwards if it had
   one on any rank. */
BMVP_API void bmvp_reducer_finish(bmvp_reducer *r);
/* How many, and how many of them left during the last backward. */
BMVP_API int bmvp_reducer_buckets(const bmvp_reducer *r, int *sent);
/* Values and counters of the list, and moments of its optimizer (or NULL), become those of rank 0. */
BMVP_API void bmvp_state_broadcast(bmvp_ctx *c, bmvp_state_list *list, bmvp_optim *optim);

/* >>files -------------------------------------------------------------------------------------------------------- */

/* Memory of this part comes from an allocator; NULL means malloc and free. Messages begin with the path of the file. */

/* A buffer of bytes that grows. After a failed allocation `failed` is 1 and further appends do nothing. */
typedef struct bmvp_bytes {
    char *data; /* always followed by a 0 byte, once something was appended */
    size_t len, cap;
    int failed;
    bmvp_allocator allocator;
} bmvp_bytes;
BMVP_API void bmvp_bytes_init(bmvp_bytes *b, const bmvp_allocator *a);
BMVP_API void bmvp_bytes_append(bmvp_bytes *b, const void *data, size_t bytes);
BMVP_API void bmvp_bytes_free(bmvp_bytes *b);

/* Replaces path by these bytes, or leaves it as it was: written to path.tmp.<process>, synced, renamed. */
BMVP_API bmvp_status bmvp_file_write(const char *path, const void *data, size_t bytes, const bmvp_allocator *a,
                                     bmvp_error *err);
/* Appends the whole regular file to out. More than max_bytes: BMVP_E_UNSUPPORTED. */
BMVP_API bmvp_status bmvp_file_read(const char *path, size_t max_bytes, bmvp_bytes *out, bmvp_error *err);

/* >>json --------------------------------------------------------------------------------------------------------- */

typedef enum bmvp_json_type {
    BMVP_JSON_NULL, BMVP_JSON_BOOL, BMVP_JSON_NUMBER, BMVP_JSON_STRING, BMVP_JSON_ARRAY, BMVP_JSON_OBJECT
} bmvp_json_type;

typedef struct bmvp_json {
    bmvp_json_type type;
    int is_int;             /* number: the value of its digits is exactly i (1e3, 7.0: yes; 9007199254740993.5: no) */
    int64_t i; /* number (if is_int), bool (0, 1), length of a string in bytes, members of an array or object */
    double d;               /* number */
    const char *str;        /* string: UTF-8, 0-terminated, no 0 inside */
    const char *key;        /* name within an object, else NULL */
    const struct bmvp_json *first, *next; /* first member of an array or object; next member of the same parent */
} bmvp_json;

typedef struct bmvp_json_doc bmvp_json_doc;
enum { BMVP_JSON_MAX_DEPTH = 64 };

/* Strict parser (RFC 8259): one value, valid UTF-8, no comments, no trailing commas, no key twice in one object, no
   \u0000, no number beyond double, at most BMVP_JSON_MAX_DEPTH arrays and objects inside each other. A byte order mark
   is skipped. Failure: BMVP_E_FORMAT with "name:line:column: expected ..., found ..." or BMVP_E_OOM. Safe on hostile
   text. */
BMVP_API bmvp_status bmvp_json_parse(const char *text, size_t bytes, const char *name, const bmvp_allocator *a,
                                     bmvp_json_doc **doc, bmvp_error *err);
BMVP_API bmvp_status bmvp_json_read(const char *path, const bmvp_allocator *a, bmvp_json_doc **doc, bmvp_error *err);
BMVP_API void bmvp_json_free(bmvp_json_doc *doc); /* all nodes and strings die with it; NULL is fine */
BMVP_API const bmvp_json *bmvp_json_root(const bmvp_json_doc *doc);

/* Lookups accept NULL and nodes of other types, so they chain: bmvp_json_int(bmvp_json_get(root, "n"), 0). Walk long
   arrays with first and next: bmvp_json_at counts from the start each time. */
BMVP_API const bmvp_json *bmvp_json_get(const bmvp_json *object, const char *key);
BMVP_API const bmvp_json *bmvp_json_at(const bmvp_json *array, int64_t index);
BMVP_API int64_t bmvp_json_count(const bmvp_json *node); /* members; 0 for others */
BMVP_API const char *bmvp_json_string(const bmvp_json *node, const char *otherwise);
BMVP_API int64_t bmvp_json_int(const bmvp_json *node, int64_t otherwise);
BMVP_API double bmvp_json_double(const bmvp_json *node, double otherwise);
BMVP_API int bmvp_json_bool(const bmvp_json *node, int otherwise);

/* Writer. key is the name inside an object and NULL elsewhere. Strings that are not UTF-8 get U+FFFD for each bad byte.
   Numbers take the fewest digits that read back as the same float or double, with '.' in every locale; NaN and infinity
   become null. */
typedef struct bmvp_jw {
    bmvp_bytes out;
    int indent;          /* spaces a level; 0: everything on one line */
    int depth, misused;
    uint64_t object, filled; /* bit per level: is an object, has a member */
} bmvp_jw;
BMVP_API void bmvp_jw_init(bmvp_jw *w, int indent, const bmvp_allocator *a);
BMVP_API void bmvp_jw_free(bmvp_jw *w);
BMVP_API void bmvp_jw_reset(bmvp_jw *w); /* empty again, memory kept: one writer serves all lines of a log */
BMVP_API void bmvp_jw_object(bmvp_jw *w, const char *key);
BMVP_API void bmvp_jw_array(bmvp_jw *w, const char *key);
BMVP_API void bmvp_jw_end(bmvp_jw *w);
BMVP_API void bmvp_jw_string(bmvp_jw *w, const char *key, const char *value); /* value NULL: null */
BMVP_API void bmvp_jw_int(bmvp_jw *w, const char *key, int64_t value);
BMVP_API void bmvp_jw_float(bmvp_jw *w, const char *key, float value);
BMVP_API void bmvp_jw_double(bmvp_jw *w, const char *key, double value);
BMVP_API void bmvp_jw_bool(bmvp_jw *w, const char *key, int value);
BMVP_API void bmvp_jw_null(bmvp_jw *w, const char *key);
/* Text is complete in w->out, followed by a newline. BMVP_E_OOM; BMVP_E_STATE: key given or missing where it must not,
   levels left open or deeper than BMVP_JSON_MAX_DEPTH. */
BMVP_API bmvp_status bmvp_jw_finish(bmvp_jw *w, bmvp_error *err);

/* >>checkpoint --------------------------------------------------------------------------------------------------- */

/* Files of named tensors: safetensors (huggingface/safetensors, format 0.x) and PyTorch's zip files (torch.save
   since 1.6: .pt, .pth). Tensors lie in a tree of dicts: `group` is the path of the dict, joined by '.', `name` the key
   in it. The release's files hold group "state_dict", name "module.encoder.norm1.weight"; group "optimizer.state.0",
   name "exp_avg"; a plain state_dict has group "". */

#define BMVP_DTYPES(X) /* id, bytes, PyTorch storage, PyTorch name */ \
    X(F32,  4, "FloatStorage",    "float32")  \
    X(F64,  8, "DoubleStorage",   "float64")  \
    X(F16,  2, "HalfStorage",     "float16")  \
    X(BF16, 2, "BFloat16Storage", "bfloat16") \
    X(I64,  8, "LongStorage",     "int64")    \
    X(I32,  4, "IntStorage",      "int32")    \
    X(I16,  2, "ShortStorage",    "int16")    \
    X(I8,   1, "CharStorage",     "int8")     \
    X(U8,   1, "ByteStorage",     "uint8")    \
    X(BOOL, 1, "BoolStorage",     "bool")
#define BMVP_X(id, size, storage, name) BMVP_DTYPE_##id,
typedef enum bmvp_dtype { BMVP_DTYPES(BMVP_X) BMVP_DTYPE_COUNT } bmvp_dtype;
#undef BMVP_X
BMVP_API const char *bmvp_dtype_name(bmvp_dtype t); /* "float32" */
BMVP_API int64_t bmvp_dtype_size(bmvp_dtype t);     /* bytes of one element */

typedef struct bmvp_ckpt_entry {
    const char *group, *name;
    bmvp_dtype dtype;
    int rank;                    /* 0: one value */
    int64_t dim[BMVP_MAX_DIMS];  /* PyTorch's order; unused ones are 1 */
    int64_t numel, bytes;        /* of the tensor, as bmvp_ckpt_load delivers it */
    int64_t stride[BMVP_MAX_DIMS], first; /* where it lies in its record, in elements */
    int record, contiguous;
} bmvp_ckpt_entry;

typedef enum bmvp_meta_kind {
    BMVP_META_STRING, BMVP_META_INT, BMVP_META_FLOAT, BMVP_META_BOOL, BMVP_META_NONE, BMVP_META_JSON
} bmvp_meta_kind;
typedef struct bmvp_ckpt_meta {
    const char *group, *name;
    bmvp_meta_kind kind;
    const char *value; /* text: "12", "0.5", "nan", "inf", "-inf", "true", "null"; of a list without tensors its JSON */
} bmvp_ckpt_meta;

typedef enum bmvp_ckpt_format { BMVP_CKPT_SAFETENSORS, BMVP_CKPT_PT } bmvp_ckpt_format;

typedef struct bmvp_ckpt {
    bmvp_ckpt_format format;
    const char *path;
    const bmvp_ckpt_entry *entry;
    int n_entries;
    const bmvp_ckpt_meta *meta;
    int n_meta;
    struct bmvpi_ckpt_file *file;
} bmvp_ckpt;

/* Reads names, shapes and metadata; the format is told by content. Safe on hostile files: of a pickle only tensors and
   plain containers are read, anything that would run code is refused by name, every size is checked against the file,
   no tensor name comes twice. BMVP_E_IO, BMVP_E_FORMAT (damaged or hostile), BMVP_E_UNSUPPORTED (TorchScript, other
   dtypes), BMVP_E_OOM. One thread at a time per bmvp_ckpt. */
BMVP_API bmvp_status bmvp_ckpt_open(const char *path, const bmvp_allocator *a, bmvp_ckpt **ckpt, bmvp_error *err);
BMVP_API void bmvp_ckpt_close(bmvp_ckpt *ckpt);

/* Index, or -1. group NULL: the first entry with that name in any group. */
BMVP_API int bmvp_ckpt_find(const bmvp_ckpt *ckpt, const char *group, const char *name);
BMVP_API const bmvp_ckpt_meta *bmvp_ckpt_find_meta(const bmvp_ckpt *ckpt, const char *group,
                                                   const char *name); /* or NULL */
/* Removes the prefix from every name of this group that has it ("module." of DataParallel). BMVP_E_FORMAT if two names
   become equal; then nothing is changed. */
BMVP_API bmvp_status bmvp_ckpt_strip(bmvp_ckpt *ckpt, const char *group, const char *prefix, bmvp_error *err);

/* Whole tensor, row-major in the order of dim, its elements in the machine's byte order (files are little-endian).
   bytes must be entry->bytes. PyTorch files: the record's CRC-32 is checked at its first use. */
BMVP_API bmvp_status bmvp_ckpt_load(bmvp_ckpt *ckpt, int index, void *dst, int64_t bytes, bmvp_error *err);
/* Elements [first, first + count) as float32: for instance one template out of all. Integers are rounded to float, bool
   is 0 or 1. */
BMVP_API bmvp_status bmvp_ckpt_load_f32(bmvp_ckpt *ckpt, int index, int64_t first, int64_t count, float *dst,
                                        bmvp_error *err);

/* Writer. begin; add and meta in the order wanted; then the data of every tensor in that order; finish. The first
   failure is kept: later calls return it too, so checking finish is enough. Nothing appears under `path` before finish
   succeeds, and what was there stays until then: the file is written to path.tmp.<process> in the same folder, synced,
   renamed, and the folder synced. PyTorch files: torch.load gives nested dicts by group; a part of a group that is a
   number becomes an int key ("optimizer.state.0"). safetensors: the key is group.name; groups and kinds of metadata are
   kept in the metadata entry "bmvp", so that reading gives them back. */
typedef struct bmvp_ckpt_writer bmvp_ckpt_writer;
/* Fills dst with bytes [offset, offset + bytes) of tensor `index` (count of adds before it). Anything but BMVP_OK stops
   the file. */
typedef bmvp_status (*bmvp_ckpt_fetch)(void *user, int index, int64_t offset, void *dst, size_t bytes);

BMVP_API bmvp_status bmvp_ckpt_writer_begin(const char *path, bmvp_ckpt_format format, const bmvp_allocator *a,
                                            bmvp_ckpt_writer **w, bmvp_error *err);
BMVP_API bmvp_status bmvp_ckpt_writer_add(bmvp_ckpt_writer *w, const char *group, const char *name, bmvp_dtype dtype,
                                          int rank, const int64_t *dim, bmvp_error *err);
/* value is text as in bmvp_ckpt_meta. _JSON becomes lists and dicts in a PyTorch file. */
BMVP_API bmvp_status bmvp_ckpt_writer_meta(bmvp_ckpt_writer *w, const char *group, const char *name,
                                           bmvp_meta_kind kind, const char *value, bmvp_error *err);
BMVP_API bmvp_status bmvp_ckpt_writer_meta_int(bmvp_ckpt_writer *w, const char *group, const char *name, int64_t value,
                                               bmvp_error *err);
BMVP_API bmvp_status bmvp_ckpt_writer_meta_float(bmvp_ckpt_writer *w, const char *group, const char *name, double value,
                                                 bmvp_error *err);
/* The next bytes of the tensor whose turn it is, elements in the machine's byte order: all, or some at a time; never
   across the end of a tensor. Empty tensors have no turn. */
BMVP_API bmvp_status bmvp_ckpt_writer_data(bmvp_ckpt_writer *w, const void *data, int64_t bytes, bmvp_error *err);
/* The whole tensor whose turn it is, asked for in pieces of at most 1 MiB that hold whole elements. */
BMVP_API bmvp_status bmvp_ckpt_writer_fetch(bmvp_ckpt_writer *w, bmvp_ckpt_fetch fetch, void *user, bmvp_error *err);
/* Frees w in every case. BMVP_E_STATE when data is missing. */
BMVP_API bmvp_status bmvp_ckpt_writer_finish(bmvp_ckpt_writer *w, bmvp_error *err);
BMVP_API void bmvp_ckpt_writer_abort(bmvp_ckpt_writer *w); /* frees w, removes the temporary file; NULL is fine */

/* >>state files: networks in checkpoints --------------------------------------------------------------------------- */

/* What of a state list is meant: its values, or one moment of its optimizer (bmvp_optim_moment; trained entries
   only). */
typedef struct bmvp_state_part {
    bmvp_ctx *c;
    bmvp_state_list *list;
    bmvp_optim *optim; /* NULL: values */
    int moment;
} bmvp_state_part;

/* Writing: declare every part in the file's order, then give their data in the same order. Templates are stacked to one
   tensor. */
BMVP_API bmvp_status bmvp_state_declare(bmvp_ckpt_writer *w, const char *group, const bmvp_state_part *part,
                                        bmvp_error *err);
BMVP_API bmvp_status bmvp_state_data(bmvp_ckpt_writer *w, const bmvp_state_part *part, bmvp_error *err);
/* Reading: every entry of the part must be in the group with its shape (what is carried only, never used, may be
   missing); the first mismatch is named (BMVP_E_FORMAT: it is missing, BMVP_E_SHAPE) and nothing has changed then.
   Further tensors of the file are ignored: bmvp_state_left names them. NaN, infinity or a running_var below 0 is
   BMVP_E_FORMAT; what stood before is loaded. */
BMVP_API bmvp_status bmvp_state_load(bmvp_ckpt *ckpt, const char *group, const bmvp_state_part *part, bmvp_error *err);
/* How many tensors of the group have no entry in the list. text: their names, by commas, as many as fit. */
BMVP_API int bmvp_state_left(const bmvp_ckpt *ckpt, const char *group, const bmvp_state_list *list, char *text,
                             size_t size);
/* The first of them that is called like an entry but for its numbers ("blocks.12.norm1.weight" of a network with
   blocks.0 to 11): the file's network is larger than that of the list. -1: none. */
BMVP_API int bmvp_state_larger(const bmvp_ckpt *ckpt, const char *group, const bmvp_state_list *list);
/* Only the comparison: for files of several parts, before any of them is loaded. */
BMVP_API bmvp_status bmvp_state_check(const bmvp_ckpt *ckpt, const char *group, const bmvp_state_part *part,
                                      bmvp_error *err);
/* The group that holds the network, whatever program wrote the file: "state_dict", or what else such groups are called
   ("model", "network_weights", "student" ...), "" in a plain state_dict; what wrappers put before its names ("module.",
   "_orig_mod.", "model." ...) is stripped. Where several groups may be meant, a network that the header knows is
   preferred. BMVP_E_FORMAT: there is none, or more than one under names that say nothing; the message lists the groups
   with the number and size of their tensors. */
BMVP_API bmvp_status bmvp_state_group(bmvp_ckpt *ckpt, const char **group, bmvp_error *err);

/* The network's shape from the names and shapes of a released checkpoint (no tensor shows the head size: it is taken to
   be dim[0], as in all presets, or the next smaller divisor of dim[2] and dim[3]; files written here say it
   themselves). */
BMVP_API bmvp_status bmvp_net_infer(const bmvp_ckpt *ckpt, const char *group, bmvp_net_config *cfg, bmvp_error *err);
/* The same of a file that is to hold one network: a row (one of bmvp_config.networks, too) or a preset. fields: what
   the row's `unseen` names, "num_heads=12 new_merging=1"; NULL: nothing, it is assumed as bmvp_net_infer does. Fields
   that the tensors show may be said, too, and must agree. BMVP_E_ARG: no such network, no such field, or the tensors
   say otherwise; BMVP_E_FORMAT: the file holds another network, which is named. */
BMVP_API bmvp_status bmvp_net_infer_as(const bmvp_ctx *c, const char *network, const char *fields,
                                       const bmvp_ckpt *ckpt, const char *group, bmvp_net_config *cfg,
                                       bmvp_error *err);
/* The first tensor of the group that belongs to the part; -1: none. */
BMVP_API int bmvp_net_part_in(const bmvp_ctx *c, const bmvp_net_config *cfg, bmvp_net_part part, const bmvp_ckpt *ckpt,
                              const char *group);
/* As JSON object `key` and back. */
BMVP_API void bmvp_net_config_write(bmvp_jw *w, const char *key, const bmvp_net_config *cfg);
BMVP_API bmvp_status bmvp_net_config_read(const bmvp_json *node, bmvp_net_config *cfg, bmvp_error *err);

/* Takes what fits from a pre-training checkpoint (ours or released; a segmentation checkpoint of the same network works
   too). Fresh entries keep their values: call bmvp_net_init first. A one-channel stem (kernel and bias) is spread over
   the C inputs: repeated and divided by C (BMVP_ADOPT_SPREAD), or left fresh (0). The head is taken from a network that
   segments or classifies, unless BMVP_ADOPT_NEW_HEAD. Refused (BMVP_E_FORMAT or _SHAPE, names the tensor) when the
   encoder does not fit; nothing has changed then. NaN or infinity in a tensor is BMVP_E_FORMAT, too; what stood before
   it has been taken. */
typedef enum bmvp_adopted { BMVP_ADOPT_TAKEN, BMVP_ADOPT_ADAPTED, BMVP_ADOPT_FRESH } bmvp_adopted;
typedef struct bmvp_net_adoption {
    int n[3];              /* entries taken, adapted, fresh */
    unsigned char *how;    /* by entry of bmvp_net_state, a bmvp_adopted; room for all of them, or NULL: not wanted */
} bmvp_net_adoption;
enum { BMVP_ADOPT_SPREAD = 1, BMVP_ADOPT_NEW_HEAD = 2 };
BMVP_API bmvp_status bmvp_net_adopt(bmvp_net *net, bmvp_ckpt *ckpt, int flags, bmvp_net_adoption *what,
                                    bmvp_error *err);

#ifdef __cplusplus
}
#endif
#endif /* BMVP_NN_H_INCLUDED */

/* ================================================================================================================
   Stop here if you only use the library. Implementation below.
   ================================================================================================================ */
#ifdef BMVP_NN_IMPLEMENTATION
#ifndef BMVP_NN_IMPLEMENTATION_ONCE
#define BMVP_NN_IMPLEMENTATION_ONCE
#ifndef BMVP_TENSOR_IMPLEMENTATION_ONCE
#error "the implementation of bmvp_nn.h goes into the same file as that of bmvp_tensor.h"
#endif
#if defined(__FAST_MATH__) || (defined(__FINITE_MATH_ONLY__) && __FINITE_MATH_ONLY__)
#error "-ffast-math takes NaN, infinity and the sign of 0 from files and checks: compile bmvp_nn.h without it"
#endif
#include <float.h>
#include <limits.h>
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>

/* ---- system: the same text in bmvp_nn.h and bmvp_nifti.h: files of POSIX, and of Windows by UTF-8 names ---------- */
#ifndef BMVPI_SYSTEM_ONCE
#define BMVPI_SYSTEM_ONCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#if defined(_WIN32)
#include <io.h>
#include <process.h>
#include <wchar.h>
#else
#include <unistd.h>
#endif

#ifdef __cplusplus
extern "C" {
#endif

enum { BMVPI_SYS_READ, BMVPI_SYS_NEW }; /* a file that is there; one that must not be there, for writing */

#if defined(_WIN32)
struct _OVERLAPPED;
/* From windows.h, whose macros take names from everybody: the same declarations. */
__declspec(dllimport) int __stdcall MultiByteToWideChar(unsigned page, unsigned long how, const char *from, int bytes,
                                                        wchar_t *to, int room);
__declspec(dllimport) int __stdcall MoveFileExW(const wchar_t *from, const wchar_t *to, unsigned long how);
__declspec(dllimport) int __stdcall ReadFile(void *file, void *to, unsigned long n, unsigned long *got,
                                             struct _OVERLAPPED *place);
__declspec(dllimport) unsigned long __stdcall GetLastError(void);
enum { BMVPI_SYS_WIDE = 4096 };

/* The name for Windows; 0: it is not UTF-8, or too long, and errno says so. */
static int bmvpi_sys_wide(wchar_t to[BMVPI_SYS_WIDE], const char *path)
{
    const unsigned utf8 = 65001, refuse_others = 8;
    if (MultiByteToWideChar(utf8, refuse_others, path, -1, to, BMVPI_SYS_WIDE) > 0) return 1;
    errno = strlen(path) < BMVPI_SYS_WIDE ? EILSEQ : ENAMETOOLONG;
    return 0;
}
static int bmvpi_sys_open(const char *path, int how)
{
    wchar_t wide[BMVPI_SYS_WIDE];
    const int flags = _O_BINARY | _O_NOINHERIT | (how == BMVPI_SYS_NEW ? _O_WRONLY | _O_CREAT | _O_EXCL : _O_RDONLY);
    return bmvpi_sys_wide(wide, path) ? _wopen(wide, flags, _S_IREAD | _S_IWRITE) : -1;
}
static int64_t bmvpi_sys_size(int fd)
{
    struct _stati64 s;
    return _fstati64(fd, &s) == 0 && (s.st_mode & _S_IFMT) == _S_IFREG ? (int64_t)s.st_size : -1;
}
static int64_t bmvpi_sys_read(int fd, void *to, int64_t n, int64_t at)
{
    struct { size_t internal[2]; uint32_t low, high; void *event; } place; /* OVERLAPPED: of this call alone */
    unsigned long got = 0, most = (unsigned long)(n < (1 << 30) ? n : 1 << 30);
    memset(&place, 0, sizeof place);
    place.low = (uint32_t)((uint64_t)at & 0xffffffffu);
    place.high = (uint32_t)((uint64_t)at >> 32);
    if (ReadFile((void *)_get_osfhandle(fd), to, most, &got, (struct _OVERLAPPED *)(void *)&place))
        return (int64_t)got;
    if (GetLastError() == 38) return 0; /* the end of the file */
    errno = EIO;
    return -1;
}
static int64_t bmvpi_sys_write(int fd, const void *from, int64_t n, int64_t at)
{
    if (_lseeki64(fd, at, SEEK_SET) < 0) return -1;
    return _write(fd, from, (unsigned)(n < (1 << 30) ? n : 1 << 30));
}
static int bmvpi_sys_sync(int fd) { return _commit(fd); }
static int bmvpi_sys_close(int fd) { return _close(fd); }
static int bmvpi_sys_remove(const char *path)
{
    wchar_t wide[BMVPI_SYS_WIDE];
    return bmvpi_sys_wide(wide, path) ? _wunlink(wide) : -1;
}
static int bmvpi_sys_rename(const char *from, const char *to)
{
    wchar_t wide[2][BMVPI_SYS_WIDE];
    const unsigned long replace = 1, to_disk = 8;
    unsigned long why;
    if (!bmvpi_sys_wide(wide[0], from) || !bmvpi_sys_wide(wide[1], to)) return -1;
    if (MoveFileExW(wide[0], wide[1], replace | to_disk)) return 0;
    why = GetLastError();
    errno = why == 2 || why == 3 ? ENOENT : why == 112 ? ENOSPC : EACCES;
    return -1;
}
static long bmvpi_sys_process(void) { return (long)_getpid(); }
#else
#if defined(__GLIBC__) && !defined(__USE_MISC) && !defined(__cplusplus) && \
    (!defined(__USE_FILE_OFFSET64) || defined(__LP64__))
/* Strict C99, and another header was included before these: the C library hid what it has. */
extern ssize_t pread(int fd, void *buffer, size_t n, off_t offset);
extern ssize_t pwrite(int fd, const void *buffer, size_t n, off_t offset);
extern int fsync(int fd);
#endif
#ifndef O_CLOEXEC
#define O_CLOEXEC 0
#endif
static int bmvpi_sys_open(const char *path, int how) /* a FIFO must not block the open */
{
    const int flags = how == BMVPI_SYS_NEW ? O_WRONLY | O_CREAT | O_EXCL : O_RDONLY | O_NONBLOCK;
    return open(path, flags | O_CLOEXEC, 0666);
}
static int64_t bmvpi_sys_size(int fd) /* -1: not of a regular file */
{
    struct stat s;
    return fstat(fd, &s) == 0 && S_ISREG(s.st_mode) ? (int64_t)s.st_size : -1;
}
static int64_t bmvpi_sys_read(int fd, void *to, int64_t n, int64_t at)
{
    return (int64_t)pread(fd, to, n < (1 << 30) ? (size_t)n : (size_t)1 << 30, (off_t)at);
}
static int64_t bmvpi_sys_write(int fd, const void *from, int64_t n, int64_t at)
{
    return (int64_t)pwrite(fd, from, n < (1 << 30) ? (size_t)n : (size_t)1 << 30, (off_t)at);
}
static int bmvpi_sys_sync(int fd)
{
#ifdef F_FULLFSYNC
    if (fcntl(fd, F_FULLFSYNC) == 0) return 0; /* macOS: fsync leaves the bytes in the disk's cache */
#endif
    return fsync(fd);
}
static int bmvpi_sys_close(int fd) { return close(fd); }
static int bmvpi_sys_remove(const char *path) { return unlink(path); }
static int bmvpi_sys_rename(const char *from, const char *to) { return rename(from, to); }
static long bmvpi_sys_process(void) { return (long)getpid(); }
#endif

#ifdef __cplusplus
}
#endif
#endif
/* ---- end of the system part ------------------------------------------------------------------------------------ */

#ifdef __cplusplus
extern "C" {
#endif

/* >>for upper headers ---------------------------------------------------------------------------------------------
   Private names that bmvp_ssl.h may use, and no others (tests/form/house.sh). */

/* Zeroed memory of the context, freed by bmvpi_free; NULL and a failure. */
static void *bmvpi_zeros(bmvp_ctx *c, size_t bytes);
/* a, or for NULL malloc and free */
static bmvp_allocator bmvpi_allocator_or_libc(const bmvp_allocator *a);
/* A parameter without a gradient gets one of zeros. */
static void bmvpi_grad_zeros(bmvp_ctx *c, bmvp_tensor *t);
/* From rank 0, the host's memory, whichever the ranks' table takes */
static void bmvpi_comm_broadcast(bmvp_ctx *c, void *data, int64_t bytes);

/* >>state impl: named tensors and how PyTorch's files hold them ---------------------------------------------------- */

static void *bmvpi_zeros(bmvp_ctx *c, size_t bytes)
{
    void *p = bmvpi_alloc(c, (int64_t)(bytes ? bytes : 1));
    if (p) memset(p, 0, bytes);
    return p;
}

static bmvp_state *bmvpi_state_push(bmvp_ctx *c, bmvp_state_list *l)
{
    if (l->n == l->cap) {
        const int cap = l->cap ? l->cap * 2 : 128;
        bmvp_state *p = (bmvp_state *)bmvpi_alloc(c, cap * (int64_t)sizeof *p);
        if (!p) return NULL;
        if (l->n) memcpy(p, l->item, (size_t)l->n * sizeof *p);
        bmvpi_free(c, l->item);
        l->item = p;
        l->cap = cap;
    }
    memset(&l->item[l->n], 0, sizeof *l->item);
    l->item[l->n].lr_scale = l->item[l->n].decay_scale = 1;
    return &l->item[l->n++];
}

BMVP_API void bmvp_state_list_free(bmvp_ctx *c, bmvp_state_list *list)
{
    bmvpi_free(c, list->item);
    memset(list, 0, sizeof *list);
}

/* Which of (z, y, x) = 2, 1, 0 is axis i of space in PyTorch's tensors */
static const int bmvpi_axis_of[3][3] = { { 0, 1, 2 }, { 2, 0, 1 }, { 2, 1, 0 } };

/* Strides of PyTorch's three axes of space, k voxels each, in memory that lies z, y, x, each step of x being `unit`;
   ours gets the extents in z, y, x. */
static void bmvpi_space_strides(int axes, const int64_t *k, int64_t unit, int64_t *ours, int64_t *stride)
{
    int64_t extent[3], step[3];
    int i;
    for (i = 0; i < 3; ++i) extent[bmvpi_axis_of[axes][i]] = k[i];
    step[0] = unit, step[1] = extent[0] * unit, step[2] = extent[1] * step[1];
    for (i = 0; i < 3; ++i) {
        stride[i] = step[bmvpi_axis_of[axes][i]];
        ours[i] = extent[2 - i];
    }
}

/* Our shape for PyTorch's d; fills the strides of our memory along PyTorch's axes. Returns our rank. */
static int bmvpi_layout_dims(bmvp_layout layout, int rank, const int64_t *d, int64_t *ours, int64_t *stride)
{
    int i;
    memset(stride, 0, BMVP_MAX_DIMS * sizeof *stride);
    switch (layout) {
    case BMVP_LAYOUT_SAME:
        for (i = rank; i-- > 0;) {
            ours[i] = d[i];
            stride[i] = i == rank - 1 ? 1 : stride[i + 1] * d[i + 1];
        }
        return rank;
    case BMVP_LAYOUT_LINEAR:
    case BMVP_LAYOUT_POINTWISE:
        ours[0] = d[1], ours[1] = d[0];
        stride[0] = 1, stride[1] = d[0];
        return 2;
    case BMVP_LAYOUT_CONV_XYZ:
    case BMVP_LAYOUT_CONV_ZXY:
    case BMVP_LAYOUT_CONV_ZYX:
        bmvpi_space_strides((int)layout - BMVP_LAYOUT_CONV_XYZ, d + 2, d[0] * d[1], ours, stride + 2);
        ours[3] = d[1], ours[4] = d[0];
        stride[0] = 1, stride[1] = d[0];
        return 5;
    case BMVP_LAYOUT_DEPTHWISE_XYZ:
    case BMVP_LAYOUT_DEPTHWISE_ZXY:
    case BMVP_LAYOUT_DEPTHWISE_ZYX:
        bmvpi_space_strides((int)layout - BMVP_LAYOUT_DEPTHWISE_XYZ, d + 2, d[0], ours, stride + 2);
        ours[3] = d[0];
        stride[0] = 1;
        return 4;
    case BMVP_LAYOUT_CONVT_XYZ:
    case BMVP_LAYOUT_CONVT_ZXY:
    case BMVP_LAYOUT_CONVT_ZYX: /* d[0] is the input width here */
        bmvpi_space_strides((int)layout - BMVP_LAYOUT_CONVT_XYZ, d + 2, d[1], ours + 1, stride + 2);
        ours[0] = d[0], ours[4] = d[1];
        stride[0] = d[1] * d[2] * d[3] * d[4], stride[1] = 1;
        return 5;
    default: /* BMVP_LAYOUT_VOLUME */
        bmvpi_space_strides(BMVP_AXES_XYZ, d, 1, ours, stride);
        return 3;
    }
}

/* Adds the entry that s describes (shapes, walk and strides), and makes its tensor, dim in our order. */
static bmvp_tensor *bmvpi_state_make(bmvp_ctx *c, bmvp_state_list *list, const char *name, const bmvp_state *s,
                                     int rank, const int64_t *dim)
{
    bmvp_state *e = bmvp_failed(c) ? NULL : bmvpi_state_push(c, list);
    bmvp_tensor *t;
    if (!e) return NULL;
    t = s->trained ? bmvp_param(c, name, rank, dim) : bmvp_buffer(c, name, rank, dim);
    if (!t) {
        --list->n;
        return NULL;
    }
    *e = *s;
    e->lr_scale = e->decay_scale = 1;
    e->name = t->name;
    return e->t = t;
}

BMVP_API bmvp_tensor *bmvp_state_add(bmvp_ctx *c, bmvp_state_list *list, const char *name, bmvp_layout layout,
                                     int torch_rank, const int64_t *torch_dim, int trained, bmvp_init init, int64_t fan)
{
    int64_t dim[BMVP_MAX_DIMS];
    bmvp_state s;
    int i;
    memset(&s, 0, sizeof s);
    for (i = 0; i < BMVP_MAX_DIMS; ++i) s.torch_dim[i] = s.walk_dim[i] = i < torch_rank ? torch_dim[i] : 1;
    s.torch_rank = s.walk_rank = torch_rank;
    s.trained = trained;
    s.init = init;
    s.fan = fan;
    return bmvpi_state_make(c, list, name, &s, bmvpi_layout_dims(layout, torch_rank, s.torch_dim, dim, s.stride), dim);
}

/* Walks PyTorch's order; to_torch 1 gathers, 0 scatters. */
static void bmvpi_state_copy(const bmvp_state *s, const float *from, float *to, int to_torch)
{
    int64_t at[BMVP_MAX_DIMS] = { 0 }, n = s->t ? s->t->numel : 0, i, ours = 0;
    int a;
    for (i = 0; i < n; ++i) {
        if (to_torch) to[i] = from[ours];
        else to[ours] = from[i];
        for (a = s->walk_rank - 1; a >= 0; --a) {
            ours += s->stride[a];
            if (++at[a] < s->walk_dim[a]) break;
            ours -= s->stride[a] * at[a];
            at[a] = 0;
        }
    }
}
BMVP_API void bmvp_state_to_torch(const bmvp_state *s, const float *ours, float *torch)
{
    bmvpi_state_copy(s, ours, torch, 1);
}
BMVP_API void bmvp_state_from_torch(const bmvp_state *s, const float *torch, float *ours)
{
    bmvpi_state_copy(s, torch, ours, 0);
}

static float bmvpi_init_draw(const bmvp_state *s, bmvp_rng *r)
{
    const double fan = s->fan > 0 ? (double)s->fan : INFINITY;
    float v;
    switch (s->init) {
    case BMVP_INIT_KAIMING_OUT: return (float)sqrt(2.0 / fan) * bmvp_rng_normal(r);
    case BMVP_INIT_UNIFORM_IN: return (float)(1.0 / sqrt(fan)) * (2.0f * bmvp_rng_uniform(r) - 1.0f);
    case BMVP_INIT_XAVIER_UNIFORM: return (float)sqrt(6.0 / fan) * (2.0f * bmvp_rng_uniform(r) - 1.0f);
    case BMVP_INIT_NORMAL: return (float)s->value * bmvp_rng_normal(r);
    default: /* BMVP_INIT_TRUNC_NORMAL */
        do v = (float)s->value * bmvp_rng_normal(r);
        while (v < -2 || v > 2);
        return v;
    }
}

/* Place of a token of w^3, counted with x slowest: two of them less each other, plus that of the largest difference,
   are the row of the table of (2 w - 1)^3 biases */
static int64_t bmvpi_window_place(int64_t w, int64_t token)
{
    return (token / (w * w) * (2 * w - 1) + token / w % w) * (2 * w - 1) + token % w;
}
/* Number i of the index, w^3 x w^3 */
static float bmvpi_window_index(int64_t w, int64_t i)
{
    const int64_t n = w * w * w;
    return (float)(bmvpi_window_place(w, i / n) - bmvpi_window_place(w, i % n) + bmvpi_window_place(w, n - 1));
}

BMVP_API void bmvp_state_init(bmvp_ctx *c, const bmvp_state *s, uint64_t seed, uint32_t stream)
{
    bmvp_rng r = bmvp_rng_make(seed, stream, 0, 0);
    float *v;
    int64_t i;
    if (!s->t || !s->t->x) return;
    if (s->init == BMVP_INIT_ZERO || s->init == BMVP_INIT_ONE || s->init == BMVP_INIT_CONSTANT) {
        bmvp_fill(c, s->t, s->init == BMVP_INIT_CONSTANT ? (float)s->value : s->init == BMVP_INIT_ONE ? 1.0f : 0.0f);
        return;
    }
    v = (float *)bmvpi_alloc(c, s->t->numel * (int64_t)sizeof *v);
    for (i = 0; v && i < s->t->numel; ++i)
        v[i] = s->init == BMVP_INIT_WINDOW_INDEX ? bmvpi_window_index((int64_t)s->value, i) : bmvpi_init_draw(s, &r);
    if (v) bmvp_write(c, s->t, v);
    bmvpi_free(c, v);
}

/* >>layers impl ---------------------------------------------------------------------------------------------------- */

BMVP_API void bmvp_module_begin(bmvp_module *m, bmvp_ctx *c, bmvp_state_list *list)
{
    memset(m, 0, sizeof *m);
    m->c = c;
    m->list = list;
    m->counting = 1;
}

BMVP_API void bmvp_enter(bmvp_module *m, const char *format, ...)
{
    const size_t at = strlen(m->name);
    va_list ap;
    int n;
    if (bmvp_failed(m->c)) return;
    va_start(ap, format);
    n = vsnprintf(m->name + at, sizeof m->name - at, format, ap);
    va_end(ap);
    if (n < 0 || at + (size_t)n + 2 > sizeof m->name || m->level == BMVP_LEVELS_MAX) {
        bmvp_fail(m->c, BMVP_E_ARG, "layers: the name %.80s... is too long, or has more than %d levels", m->name,
                  BMVP_LEVELS_MAX);
        return;
    }
    strcat(m->name, ".");
    m->end[m->level++] = at;
}

BMVP_API void bmvp_leave(bmvp_module *m)
{
    if (bmvp_failed(m->c)) return;
    if (m->level == 0) bmvp_fail(m->c, BMVP_E_STATE, "layers: bmvp_leave without bmvp_enter");
    else m->name[m->end[--m->level]] = 0;
}

/* `name` and `field` below the place where m is: "decoder.2." "conv1" "weight". name NULL: the place itself. 0: too
   long. */
static int bmvpi_full_name(bmvp_module *m, const char *name, const char *field, char full[BMVP_NAME_MAX])
{
    const int n = snprintf(full, BMVP_NAME_MAX, "%s%s%s%s", m->name, name ? name : "", name && field ? "." : "",
                           field ? field : "");
    if (n > 0 && n < BMVP_NAME_MAX) return 1;
    bmvp_fail(m->c, BMVP_E_ARG, "layers: the name %.80s... is too long", full);
    return 0;
}

static bmvp_tensor *bmvpi_make(bmvp_module *m, const char *name, const char *field, bmvp_layout layout, int rank,
                               const int64_t *dim, int trained, bmvp_init init, int64_t fan)
{
    char full[BMVP_NAME_MAX];
    bmvp_tensor *t;
    if (bmvp_failed(m->c) || !bmvpi_full_name(m, name, field, full)) return NULL;
    t = bmvp_state_add(m->c, m->list, full, layout, rank, dim, trained && !m->carried, init, fan);
    if (t) m->list->item[m->list->n - 1].carried = m->carried;
    return t;
}

/* weight in PyTorch's shape (d0, d1, k, k, k) and, of n > 0, bias: both uniform in +-1/sqrt(d1 k^3). PyTorch's
   reset_parameters says kaiming_uniform_(a=sqrt(5)), which is that. */
static bmvp_layer bmvpi_make_weights(bmvp_module *m, const char *name, bmvp_layout layout, int rank, int64_t d0,
                                     int64_t d1, int64_t k, int64_t n)
{
    const int64_t fan = rank > 2 ? d1 * k * k * k : d1;
    int64_t dim[5];
    bmvp_layer l;
    memset(&l, 0, sizeof l);
    dim[0] = d0, dim[1] = d1, dim[2] = dim[3] = dim[4] = k;
    l.w = bmvpi_make(m, name, "weight", layout, rank, dim, 1, BMVP_INIT_UNIFORM_IN, fan);
    if (n > 0) l.b = bmvpi_make(m, name, "bias", BMVP_LAYOUT_SAME, 1, &n, 1, BMVP_INIT_UNIFORM_IN, fan);
    return l;
}

static bmvp_tensor *bmvpi_run_linear(bmvp_module *m, const bmvp_layer *l, bmvp_tensor *x)
{
    return bmvp_linear(m->c, x, l->w, l->b);
}
static bmvp_tensor *bmvpi_run_conv(bmvp_module *m, const bmvp_layer *l, bmvp_tensor *x)
{
    return bmvp_conv3d(m->c, x, l->w, l->b, &l->shape);
}
static bmvp_tensor *bmvpi_run_depthwise(bmvp_module *m, const bmvp_layer *l, bmvp_tensor *x)
{
    return bmvp_depthwise3d(m->c, x, l->w, l->b);
}
static bmvp_tensor *bmvpi_run_conv_transpose(bmvp_module *m, const bmvp_layer *l, bmvp_tensor *x)
{
    return bmvp_conv_transpose3d(m->c, x, l->w, l->b);
}
static bmvp_tensor *bmvpi_run_batchnorm(bmvp_module *m, const bmvp_layer *l, bmvp_tensor *x)
{
    if (m->training && m->counting && x) ++m->list->item[l->counter].counter;
    return bmvp_batchnorm(m->c, x, l->w, l->b, l->mean, l->var, m->training, 0.1, l->eps);
}
static bmvp_tensor *bmvpi_run_layernorm(bmvp_module *m, const bmvp_layer *l, bmvp_tensor *x)
{
    return bmvp_layernorm(m->c, x, l->w, l->b, l->eps);
}
static bmvp_tensor *bmvpi_run_groupnorm(bmvp_module *m, const bmvp_layer *l, bmvp_tensor *x)
{
    return bmvp_groupnorm(m->c, x, l->w, l->b, l->groups, l->eps);
}
static bmvp_tensor *bmvpi_run_instancenorm(bmvp_module *m, const bmvp_layer *l, bmvp_tensor *x)
{
    return bmvp_instancenorm(m->c, x, l->eps);
}

BMVP_API bmvp_tensor *bmvp_run(bmvp_module *m, const bmvp_layer *l, bmvp_tensor *x)
{
    if (bmvp_failed(m->c)) return NULL;
    if (!l->run) return (bmvp_tensor *)bmvp_fail(m->c, BMVP_E_STATE, "layers: this layer was not made");
    return l->run(m, l, x);
}

/* The layout that follows `xyz` for these axes */
static bmvp_layout bmvpi_layout_along(bmvp_layout xyz, bmvp_axes axes) { return (bmvp_layout)((int)xyz + (int)axes); }

BMVP_API bmvp_layer bmvp_make_linear(bmvp_module *m, const char *name, int64_t in, int64_t out, int bias)
{
    bmvp_layer l = bmvpi_make_weights(m, name, BMVP_LAYOUT_LINEAR, 2, out, in, 1, bias ? out : 0);
    l.run = bmvpi_run_linear;
    return l;
}

BMVP_API bmvp_layer bmvp_make_conv(bmvp_module *m, const char *name, int64_t in, int64_t out, int64_t kernel,
                                   int64_t stride, int64_t pad, int bias)
{
    const int product = kernel == 1 && stride == 1 && pad == 0;
    const bmvp_layout layout = product ? BMVP_LAYOUT_POINTWISE : bmvpi_layout_along(BMVP_LAYOUT_CONV_XYZ, m->axes);
    bmvp_layer l = bmvpi_make_weights(m, name, layout, 5, out, in, kernel, bias ? out : 0);
    l.shape = bmvp_conv_same(stride, pad);
    l.run = product ? bmvpi_run_linear : bmvpi_run_conv;
    return l;
}

BMVP_API bmvp_layer bmvp_make_depthwise(bmvp_module *m, const char *name, int64_t n, int64_t kernel)
{
    bmvp_layer l =
        bmvpi_make_weights(m, name, bmvpi_layout_along(BMVP_LAYOUT_DEPTHWISE_XYZ, m->axes), 5, n, 1, kernel, n);
    l.run = bmvpi_run_depthwise;
    return l;
}

BMVP_API bmvp_layer bmvp_make_conv_transpose(bmvp_module *m, const char *name, int64_t in, int64_t out, int64_t kernel,
                                             int bias)
{
    bmvp_layer l = bmvpi_make_weights(m, name, bmvpi_layout_along(BMVP_LAYOUT_CONVT_XYZ, m->axes), 5, in, out, kernel,
                                      bias ? out : 0);
    l.run = bmvpi_run_conv_transpose;
    return l;
}

static bmvp_layer bmvpi_make_affine(bmvp_module *m, const char *name, int64_t n)
{
    bmvp_layer l;
    memset(&l, 0, sizeof l);
    l.eps = 1e-5;
    l.w = bmvpi_make(m, name, "weight", BMVP_LAYOUT_SAME, 1, &n, 1, BMVP_INIT_ONE, 0);
    l.b = bmvpi_make(m, name, "bias", BMVP_LAYOUT_SAME, 1, &n, 1, BMVP_INIT_ZERO, 0);
    return l;
}

BMVP_API bmvp_layer bmvp_make_layernorm(bmvp_module *m, const char *name, int64_t n)
{
    bmvp_layer l = bmvpi_make_affine(m, name, n);
    l.run = bmvpi_run_layernorm;
    return l;
}

BMVP_API bmvp_layer bmvp_make_groupnorm(bmvp_module *m, const char *name, int64_t n, int groups)
{
    bmvp_layer l = bmvpi_make_affine(m, name, n);
    l.groups = groups;
    l.run = bmvpi_run_groupnorm;
    return l;
}

BMVP_API bmvp_layer bmvp_make_instancenorm(bmvp_module *m, const char *name, int64_t n, int affine)
{
    bmvp_layer l;
    if (affine) return bmvp_make_groupnorm(m, name, n, (int)n);
    memset(&l, 0, sizeof l);
    l.eps = 1e-5;
    l.run = bmvpi_run_instancenorm;
    return l;
}

static bmvp_layer bmvpi_make_statistics(bmvp_module *m, const char *name, int64_t n, bmvp_layer l)
{
    l.mean = bmvpi_make(m, name, "running_mean", BMVP_LAYOUT_SAME, 1, &n, 0, BMVP_INIT_ZERO, 0);
    l.var = bmvpi_make(m, name, "running_var", BMVP_LAYOUT_SAME, 1, &n, 0, BMVP_INIT_ONE, 0);
    l.counter = m->list->n;
    (void)bmvpi_make(m, name, "num_batches_tracked", BMVP_LAYOUT_SAME, 0, NULL, 0, BMVP_INIT_ZERO, 0);
    l.run = bmvpi_run_batchnorm;
    return l;
}

BMVP_API bmvp_layer bmvp_make_batchnorm(bmvp_module *m, const char *name, int64_t n)
{
    return bmvpi_make_statistics(m, name, n, bmvpi_make_affine(m, name, n));
}

BMVP_API bmvp_layer bmvp_make_batchnorm_plain(bmvp_module *m, const char *name, int64_t n)
{
    bmvp_layer l;
    memset(&l, 0, sizeof l);
    l.eps = 1e-5;
    return bmvpi_make_statistics(m, name, n, l);
}

BMVP_API bmvp_tensor *bmvp_make_tensor(bmvp_module *m, const char *name, int rank, const int64_t *dim)
{
    return bmvpi_make(m, name, NULL, BMVP_LAYOUT_SAME, rank, dim, 1, BMVP_INIT_ZERO, 0);
}

BMVP_API bmvp_tensor *bmvp_make_tokens(bmvp_module *m, const char *name, const int64_t grid[3], int64_t n)
{
    char full[BMVP_NAME_MAX];
    int64_t dim[5];
    bmvp_state s;
    int i;
    if (bmvp_failed(m->c) || !bmvpi_full_name(m, name, NULL, full)) return NULL;
    memset(&s, 0, sizeof s);
    for (i = 0; i < BMVP_MAX_DIMS; ++i) s.torch_dim[i] = s.walk_dim[i] = 1;
    s.torch_rank = 3;
    s.torch_dim[1] = grid[0] * grid[1] * grid[2];
    s.torch_dim[2] = n;
    s.walk_rank = 5;
    for (i = 0; i < 3; ++i) s.walk_dim[1 + i] = grid[2 - bmvpi_axis_of[m->axes][i]];
    s.walk_dim[4] = n;
    bmvpi_space_strides((int)m->axes, s.walk_dim + 1, n, dim + 1, s.stride + 1);
    dim[0] = 1, dim[4] = n;
    s.stride[4] = 1;
    s.trained = !m->carried;
    return bmvpi_state_make(m->c, m->list, full, &s, 5, dim);
}

BMVP_API bmvp_tensor *bmvp_add_tokens(bmvp_module *m, bmvp_tensor *x, bmvp_tensor *t)
{
    char a[96], b[96];
    if (!x || !t || bmvp_failed(m->c)) return NULL;
    if (t->dim[0] == 1 && t->rank == x->rank && t->numel * x->dim[0] == x->numel) return bmvp_add(m->c, x, t);
    return (bmvp_tensor *)bmvp_fail(m->c, BMVP_E_SHAPE, "add_tokens: %s does not fit each sample of %s",
                                    bmvpi_shape(t, a, sizeof a), bmvpi_shape(x, b, sizeof b));
}

BMVP_API void bmvp_init_as(bmvp_module *m, const bmvp_tensor *t, bmvp_init init, double value)
{
    int64_t k = 1;
    bmvp_state *s;
    int i = m->list->n, a;
    if (!t || bmvp_failed(m->c)) return;
    while (--i >= 0 && m->list->item[i].t != t) { }
    if (i < 0) {
        bmvp_fail(m->c, BMVP_E_ARG, "init_as: %s was not made in this module", t->name ? t->name : "the tensor");
        return;
    }
    s = &m->list->item[i];
    for (a = 2; a < s->torch_rank; ++a) k *= s->torch_dim[a];
    s->init = init;
    s->value = value;
    if (s->torch_rank < 2) { /* a bias keeps the fan of its weight */
        if (s->fan == 0 &&
            (init == BMVP_INIT_KAIMING_OUT || init == BMVP_INIT_UNIFORM_IN || init == BMVP_INIT_XAVIER_UNIFORM))
            bmvp_fail(m->c, BMVP_E_ARG, "init_as: %s has one axis only, from which no fan follows", s->name);
        return;
    }
    s->fan = (init == BMVP_INIT_KAIMING_OUT ? s->torch_dim[0] : init == BMVP_INIT_UNIFORM_IN ? s->torch_dim[1]
              : s->torch_dim[0] + s->torch_dim[1]) * k;
}

BMVP_API bmvp_mlp_layer bmvp_make_mlp(bmvp_module *m, const char *name, int64_t n, int64_t hidden)
{
    bmvp_mlp_layer l;
    bmvp_enter(m, "%s", name);
    l.fc1 = bmvp_make_linear(m, "fc1", n, hidden, 1);
    l.fc2 = bmvp_make_linear(m, "fc2", hidden, n, 1);
    bmvp_leave(m);
    return l;
}

BMVP_API bmvp_tensor *bmvp_run_mlp(bmvp_module *m, const bmvp_mlp_layer *l, bmvp_tensor *x, bmvp_tensor *residual)
{
    if (!residual) return bmvp_mlp(m->c, x, l->fc1.w, l->fc1.b, l->fc2.w, l->fc2.b);
    return bmvp_mlp_residual(m->c, x, l->fc1.w, l->fc1.b, l->fc2.w, l->fc2.b, residual);
}

BMVP_API bmvp_attention_block bmvp_make_attention_block(bmvp_module *m, const char *name, int64_t n, int heads,
                                                        int64_t hidden, int qkv_bias)
{
    bmvp_attention_block b;
    if (name) bmvp_enter(m, "%s", name);
    b.norm1 = bmvp_make_layernorm(m, "norm1", n);
    b.qkv = bmvp_make_linear(m, "attn.qkv", n, 3 * n, qkv_bias);
    b.proj = bmvp_make_linear(m, "attn.proj", n, n, 1);
    b.norm2 = bmvp_make_layernorm(m, "norm2", n);
    b.mlp = bmvp_make_mlp(m, "mlp", n, hidden);
    b.heads = heads;
    b.drop_path = 0;
    if (name) bmvp_leave(m);
    return b;
}

/* The norms' outputs are dropped: cheaper to compute again than to keep. Without drop path the residual sums are part
   of the products. */
BMVP_API bmvp_tensor *bmvp_run_attention_block(bmvp_module *m, const bmvp_attention_block *b, bmvp_tensor *x)
{
    bmvp_ctx *c = m->c;
    const int drops = b->drop_path > 0 && m->training;
    bmvp_tensor *n, *h;
    int64_t tokens[3];
    int rank;
    if (!x || bmvp_failed(c)) return NULL;
    rank = x->rank;
    tokens[0] = x->dim[0], tokens[2] = 3 * x->dim[rank - 1];
    tokens[1] = x->numel / (tokens[0] * x->dim[rank - 1]);
    n = bmvp_run(m, &b->norm1, x);
    h = bmvp_run(m, &b->qkv, n);
    bmvp_drop(c, n);
    h = bmvp_attention(c, bmvp_reshape(c, h, 3, tokens), b->heads, 1.0 / sqrt((double)(x->dim[rank - 1] / b->heads)));
    h = bmvp_reshape(c, h, rank, x->dim);
    if (drops) x = bmvp_add(c, x, bmvp_drop_path(m, bmvp_run(m, &b->proj, h), b->drop_path));
    else x = bmvp_linear_residual(c, h, b->proj.w, b->proj.b, x);
    n = bmvp_run(m, &b->norm2, x);
    if (drops) x = bmvp_add(c, x, bmvp_drop_path(m, bmvp_run_mlp(m, &b->mlp, n, NULL), b->drop_path));
    else x = bmvp_run_mlp(m, &b->mlp, n, x);
    bmvp_drop(c, n);
    return x;
}

BMVP_API bmvp_patch_embed bmvp_make_patch_embed(bmvp_module *m, const char *name, int64_t in, int64_t out, int64_t p,
                                                int norm)
{
    bmvp_patch_embed e;
    memset(&e, 0, sizeof e);
    bmvp_enter(m, "%s", name);
    e.proj = bmvp_make_conv(m, "proj", in, out, p, p, 0, 1);
    if (norm) e.norm = bmvp_make_layernorm(m, "norm", out);
    bmvp_leave(m);
    return e;
}

BMVP_API bmvp_tensor *bmvp_run_patch_embed(bmvp_module *m, const bmvp_patch_embed *e, bmvp_tensor *x)
{
    const int64_t scope = bmvp_scope_begin(m->c);
    x = bmvp_run(m, &e->proj, x);
    if (e->norm.run) x = bmvp_run(m, &e->norm, x);
    return bmvp_scope_end(m->c, scope, x);
}

BMVP_API void bmvp_module_draws(bmvp_module *m, uint64_t seed, uint32_t step, uint32_t sample)
{
    m->drawn = 1;
    m->seed = seed;
    m->step = step;
    m->sample = sample;
    m->draws = 0;
}

enum { BMVPI_STREAM_DROP_PATH = 0x64726f70 }; /* and the numbers behind it: one a call */

/* A diagonal matrix times x as a matrix of samples: it scales rows exactly, and backward scales the gradient's. */
BMVP_API bmvp_tensor *bmvp_drop_path(bmvp_module *m, bmvp_tensor *x, double rate)
{
    int64_t square[2], flat[2], i, n;
    bmvp_tensor *y;
    float *d;
    if (!x || bmvp_failed(m->c) || rate <= 0 || !m->training) return x;
    if (rate >= 1) return (bmvp_tensor *)bmvp_fail(m->c, BMVP_E_ARG, "drop_path: rate %g must be below 1", rate);
    if (!m->drawn)
        return (bmvp_tensor *)bmvp_fail(m->c, BMVP_E_STATE,
                                        "drop_path: call bmvp_module_draws before each training pass");
    n = square[0] = square[1] = flat[0] = x->dim[0];
    flat[1] = x->numel / n;
    d = (float *)bmvpi_alloc(m->c, n * n * (int64_t)sizeof *d);
    if (!d) return NULL;
    memset(d, 0, (size_t)(n * n) * sizeof *d);
    for (i = 0; i < n; ++i) {
        bmvp_rng r = bmvp_rng_make(m->seed, BMVPI_STREAM_DROP_PATH + m->draws, m->step, m->sample + (uint32_t)i);
        if ((double)bmvp_rng_uniform(&r) >= rate) d[i * n + i] = (float)(1 / (1 - rate));
    }
    ++m->draws;
    y = bmvp_matmul(m->c, bmvp_input(m->c, 2, square, d), bmvp_reshape(m->c, x, 2, flat), 0, 0);
    bmvpi_free(m->c, d);
    return bmvp_reshape(m->c, y, x->rank, x->dim);
}

BMVP_API bmvp_tensor *bmvp_block_end(bmvp_module *m, int64_t mark, bmvp_tensor *y)
{
    return m->recompute ? bmvp_checkpoint(m->c, mark, y) : bmvp_scope_end(m->c, mark, y);
}

/* The same where y was made from x that is cheap to compute: rather twice in backward than held on to. */
static bmvp_tensor *bmvpi_from_cheap(bmvp_module *m, int64_t mark, bmvp_tensor *x, bmvp_tensor *y)
{
    if (m->recompute) bmvp_drop(m->c, x);
    return bmvp_block_end(m, mark, y);
}

/* Frees a value that only backward would need. */
static void bmvpi_spent(bmvp_module *m, bmvp_tensor *t)
{
    if (!m->c->grad_on) bmvp_drop(m->c, t);
}

/* A convolution as the release starts it: normal by the fan of the outputs, bias 0. */
static bmvp_layer bmvpi_released(bmvp_module *m, bmvp_layer l)
{
    bmvp_init_as(m, l.w, BMVP_INIT_KAIMING_OUT, 0);
    bmvp_init_as(m, l.b, BMVP_INIT_ZERO, 0);
    return l;
}

/* What the encoder goes on with behind its first layer */
static bmvp_tensor *bmvpi_net_tokens(bmvp_net *net, bmvp_tensor *x)
{
    return x && net->on_tokens ? net->on_tokens(net, x, net->on_tokens_user) : x;
}

/* >>residual blocks: MONAI's, of UniUnet, UNETR and Swin-UNETR ----------------------------------------------------- */

/* UnetResBlock: conv1 and conv2 (3^3), instance norms without parameters after both, leaky ReLU between and after the
   sum with x, which passes conv3 (1x1x1) and a norm where the width changes. No biases.
   UnetrUpBlock: a transposed convolution that doubles the grid, [upsampled, skip], a residual block. */
typedef struct bmvpi_res_block {
    bmvp_layer conv1, conv2, conv3; /* conv3 of zeros: in and out are equal */
} bmvpi_res_block;
typedef struct bmvpi_up_block {
    bmvp_layer up;
    bmvpi_res_block res;
} bmvpi_up_block;

/* name.conv1.conv, name.conv2.conv and, of in != out, name.conv3.conv; name NULL: where m is. */
static bmvpi_res_block bmvpi_make_res_block(bmvp_module *m, const char *name, int64_t in, int64_t out)
{
    bmvpi_res_block b;
    memset(&b, 0, sizeof b);
    if (name) bmvp_enter(m, "%s", name);
    b.conv1 = bmvp_make_conv(m, "conv1.conv", in, out, 3, 1, 1, 0);
    b.conv2 = bmvp_make_conv(m, "conv2.conv", out, out, 3, 1, 1, 0);
    if (in != out) b.conv3 = bmvp_make_conv(m, "conv3.conv", in, out, 1, 1, 0, 0);
    if (name) bmvp_leave(m);
    return b;
}

/* name.transp_conv and name.conv_block; the skip has `out` channels. */
static bmvpi_up_block bmvpi_make_up_block(bmvp_module *m, const char *name, int64_t in, int64_t out)
{
    bmvpi_up_block b;
    bmvp_enter(m, "%s", name);
    b.up = bmvp_make_conv_transpose(m, "transp_conv.conv", in, out, 2, 0);
    b.res = bmvpi_make_res_block(m, "conv_block", 2 * out, out);
    bmvp_leave(m);
    return b;
}

/* IN(conv2(leaky(IN(conv1(x))))), norm and leaky ReLU dropped; with `last` x too: it has no reader after conv1. */
static bmvp_tensor *bmvpi_res_branch(bmvp_module *m, const bmvpi_res_block *b, bmvp_tensor *x, int last)
{
    bmvp_ctx *c = m->c;
    const int64_t scope = bmvp_scope_begin(c);
    bmvp_tensor *h = bmvp_run(m, &b->conv1, x), *n, *r;
    if (last) bmvp_drop(c, x);
    n = bmvp_instancenorm(c, h, 1e-5);
    bmvpi_spent(m, h);
    r = bmvp_leaky_relu(c, n, 0.01);
    bmvp_drop(c, n);
    h = bmvp_run(m, &b->conv2, r);
    bmvp_drop(c, r);
    return bmvp_scope_end(c, scope, bmvp_instancenorm(c, h, 1e-5));
}

/* At full size every tensor of a block is large (64 channels of 96^3 are 226 MB): all but the convolutions' outputs and
   the result are dropped and computed again. The shortcut is built first, so that backward is done with the branch's
   maps when it comes to it. cheap: x is cheap to compute again and has no other reader; it is dropped, too. */
static bmvp_tensor *bmvpi_run_res_block(bmvp_module *m, const bmvpi_res_block *b, bmvp_tensor *x, int cheap)
{
    bmvp_ctx *c = m->c;
    const int wider = b->conv3.run != NULL;
    bmvp_tensor *h, *n = x, *sum, *y;
    if (wider) {
        h = bmvp_run(m, &b->conv3, x);
        n = bmvp_instancenorm(c, h, 1e-5);
        bmvp_drop(c, h);
    }
    sum = bmvp_add_into(c, n, bmvpi_res_branch(m, b, x, cheap && wider));
    y = bmvp_leaky_relu(c, sum, 0.01);
    if (wider || cheap) bmvp_drop(c, n); /* backward reads neither */
    bmvp_drop(c, sum);
    return y;
}

/* [up(x), skip] along the channels. The upsampled map is dropped, and with drop_skip a skip that nobody else reads:
   cheaper to compute again than to keep. */
static bmvp_tensor *bmvpi_join(bmvp_module *m, const bmvp_layer *up, bmvp_tensor *x, bmvp_tensor *skip, int drop_skip)
{
    const int64_t scope = bmvp_scope_begin(m->c);
    bmvp_tensor *part[2], *y;
    part[0] = bmvp_run(m, up, x);
    part[1] = skip;
    y = bmvp_concat(m->c, 2, part, 4);
    bmvp_drop(m->c, part[0]);
    if (drop_skip) bmvp_drop(m->c, skip);
    return bmvp_scope_end(m->c, scope, y);
}

static bmvp_tensor *bmvpi_run_up_block(bmvp_module *m, const bmvpi_up_block *b, bmvp_tensor *x, bmvp_tensor *skip,
                                       int drop_skip)
{
    const int64_t scope = bmvp_scope_begin(m->c);
    x = bmvpi_join(m, &b->up, x, skip, drop_skip);
    return bmvp_block_end(m, scope, bmvpi_run_res_block(m, &b->res, x, 1));
}

/* >>uniformer (method: UniFormer of Li et al., ICLR 2022, as BrainMVP uses it) ------------------------------------- */

typedef struct bmvpi_cblock {
    bmvp_layer pos, norm1, conv1, conv2, attn, norm2;
    bmvp_mlp_layer mlp;
} bmvpi_cblock;
typedef struct bmvpi_sablock {
    bmvp_layer pos;
    bmvp_attention_block attention;
} bmvpi_sablock;

enum { BMVPI_MAX_DEPTH = 64 };
typedef struct bmvpi_uniformer {
    bmvp_patch_embed embed[4];
    bmvpi_cblock *cblock[2];
    bmvpi_sablock *sablock[2];
    bmvp_layer norm;
    bmvpi_up_block up[4]; /* coarse to fine; pre-training runs their transposed convolutions alone */
    bmvp_layer proj1, proj1_norm, out, scale[2];
} bmvpi_uniformer;

/* timm's Mlp of 1x1x1 convolutions */
static bmvp_mlp_layer bmvpi_make_conv_mlp(bmvp_module *m, int64_t n, int64_t hidden)
{
    bmvp_mlp_layer l;
    l.fc1 = bmvpi_released(m, bmvp_make_conv(m, "mlp.fc1", n, hidden, 1, 1, 0, 1));
    l.fc2 = bmvpi_released(m, bmvp_make_conv(m, "mlp.fc2", hidden, n, 1, 1, 0, 1));
    return l;
}

static void bmvpi_make_cblock(bmvp_module *m, bmvpi_cblock *b, int64_t n, int mlp_ratio)
{
    b->pos = bmvpi_released(m, bmvp_make_depthwise(m, "pos_embed", n, 3));
    b->norm1 = bmvp_make_batchnorm(m, "norm1", n);
    b->conv1 = bmvpi_released(m, bmvp_make_conv(m, "conv1", n, n, 1, 1, 0, 1));
    b->conv2 = bmvpi_released(m, bmvp_make_conv(m, "conv2", n, n, 1, 1, 0, 1));
    b->attn = bmvpi_released(m, bmvp_make_depthwise(m, "attn", n, 5));
    b->norm2 = bmvp_make_batchnorm(m, "norm2", n);
    b->mlp = bmvpi_make_conv_mlp(m, n, n * mlp_ratio);
}

static void bmvpi_make_sablock(bmvp_module *m, bmvpi_sablock *b, int64_t n, const bmvp_net_config *k)
{
    b->pos = bmvpi_released(m, bmvp_make_depthwise(m, "pos_embed", n, 3));
    b->attention = bmvp_make_attention_block(m, NULL, n, (int)n / k->head_dim, n * k->mlp_ratio, 1);
    b->attention.norm1.eps = b->attention.norm2.eps = 1e-6;
}

/* 1: a decoder stands on the encoder. */
static int bmvpi_net_decodes(const bmvp_net_config *k)
{
    return k->task == BMVP_TASK_PRETRAIN || k->task == BMVP_TASK_SEGMENT;
}

/* The decoder's blocks with skip connections exist in the released pre-training checkpoint too, but pre-training never
   runs them: there they are carried, so that a checkpoint written here loads strictly, and fine-tuning finds them. */
static void bmvpi_make_decoder(bmvp_net *net)
{
    const int *d = net->cfg.dim, segment = net->cfg.task == BMVP_TASK_SEGMENT, outputs = segment ? net->cfg.outputs : 1;
    const int64_t in[4] = { d[3], d[2], d[1], d[0] }, out[4] = { d[2], d[1], d[0], d[0] };
    bmvpi_uniformer *u = (bmvpi_uniformer *)net->layers;
    bmvp_module *m = &net->m;
    int i;
    bmvp_enter(m, "decoder");
    for (i = 0; i < 4; ++i) {
        bmvp_enter(m, "decoder%d", 5 - i);
        u->up[i].up = bmvp_make_conv_transpose(m, "transp_conv.conv", in[i], out[i], 2, 0);
        m->carried = !segment;
        u->up[i].res = bmvpi_make_res_block(m, "conv_block", 2 * out[i], out[i]);
        u->up[i].res.conv1 = bmvpi_released(m, u->up[i].res.conv1);
        u->up[i].res.conv2 = bmvpi_released(m, u->up[i].res.conv2);
        u->up[i].res.conv3 = bmvpi_released(m, u->up[i].res.conv3);
        m->carried = 0;
        bmvp_leave(m);
    }
    m->carried = !segment;
    m->axes = BMVP_AXES_ZXY;
    u->proj1 = bmvpi_released(m, bmvp_make_conv(m, "proj1.proj", net->cfg.in_channels, d[0], 3, 1, 1, 1));
    u->proj1_norm = bmvp_make_layernorm(m, "proj1.norm", d[0]);
    m->carried = 0;
    m->axes = BMVP_AXES_XYZ;
    u->out =
        bmvpi_released(m, bmvp_make_conv(m, segment ? "out.conv.conv" : "out_1.conv.conv", d[0], outputs, 1, 1, 0, 1));
    bmvp_leave(m);
    for (i = 0; i < 2 && segment && net->cfg.deep_supervision; ++i)
        u->scale[i] = bmvp_make_conv(m, i ? "ms_out.1" : "ms_out.0", d[1 - i], outputs, 1, 1, 0, 1);
}

/* The encoder's kernels are stored for the input that the release permutes to (Z, X, Y). */
static void bmvpi_uniformer_make(bmvp_net *net)
{
    bmvpi_uniformer *u = (bmvpi_uniformer *)net->layers;
    const bmvp_net_config *k = &net->cfg;
    bmvp_module *m = &net->m;
    char name[24];
    int s, i;
    m->axes = BMVP_AXES_ZXY;
    bmvp_enter(m, k->task == BMVP_TASK_PRETRAIN ? "encoder.uniformer" : "encoder");
    for (s = 0; s < 4; ++s) {
        snprintf(name, sizeof name, "patch_embed%d", s + 1);
        u->embed[s] = bmvp_make_patch_embed(m, name, s ? k->dim[s - 1] : k->in_channels, k->dim[s], 2, 1);
        u->embed[s].proj = bmvpi_released(m, u->embed[s].proj);
    }
    for (s = 0; s < 4; ++s) {
        if (s < 2) u->cblock[s] = (bmvpi_cblock *)bmvpi_zeros(m->c, (size_t)k->depth[s] * sizeof(bmvpi_cblock));
        else u->sablock[s - 2] = (bmvpi_sablock *)bmvpi_zeros(m->c, (size_t)k->depth[s] * sizeof(bmvpi_sablock));
        for (i = 0; i < k->depth[s] && !bmvp_failed(m->c); ++i) {
            bmvp_enter(m, "blocks%d.%d", s + 1, i);
            if (s < 2) bmvpi_make_cblock(m, &u->cblock[s][i], k->dim[s], k->mlp_ratio);
            else bmvpi_make_sablock(m, &u->sablock[s - 2][i], k->dim[s], k);
            bmvp_leave(m);
        }
    }
    u->norm = bmvp_make_batchnorm(m, "norm", k->dim[3]);
    bmvp_leave(m);
    m->axes = BMVP_AXES_XYZ;
    if (bmvpi_net_decodes(k)) bmvpi_make_decoder(net);
}

static void bmvpi_uniformer_destroy(bmvp_net *net)
{
    bmvpi_uniformer *u = (bmvpi_uniformer *)net->layers;
    int s;
    for (s = 0; s < 2; ++s) {
        bmvpi_free(net->m.c, u->cblock[s]);
        bmvpi_free(net->m.c, u->sablock[s]);
    }
}

/* x += DW3(x); x += PW(DW5(PW(BN(x)))); x += MLP(BN(x)). The norms' outputs are dropped: cheaper to compute again than
   to keep. x has no other reader. */
static bmvp_tensor *bmvpi_cblock_run(bmvp_module *m, const bmvpi_cblock *b, bmvp_tensor *x)
{
    bmvp_ctx *c = m->c;
    const int64_t scope = bmvp_scope_begin(c);
    bmvp_tensor *n, *h, *in = x;
    x = bmvp_depthwise3d_residual(c, x, b->pos.w, b->pos.b);
    bmvpi_spent(m, in);
    n = bmvp_run(m, &b->norm1, x);
    h = bmvp_run(m, &b->conv1, n);
    bmvp_drop(c, n);
    n = bmvp_run(m, &b->attn, h);
    bmvpi_spent(m, h);
    in = x;
    x = bmvp_linear_residual(c, n, b->conv2.w, b->conv2.b, x);
    bmvpi_spent(m, n);
    bmvpi_spent(m, in);
    n = bmvp_run(m, &b->norm2, x);
    x = bmvp_run_mlp(m, &b->mlp, n, x);
    bmvp_drop(c, n);
    return bmvp_block_end(m, scope, x);
}

/* x += DW3(x), then a transformer block over the tokens of the map. x has no other reader. */
static bmvp_tensor *bmvpi_sablock_run(bmvp_module *m, const bmvpi_sablock *b, bmvp_tensor *x)
{
    const int64_t scope = bmvp_scope_begin(m->c);
    x = bmvp_depthwise3d_residual(m->c, x, b->pos.w, b->pos.b);
    return bmvp_block_end(m, scope, bmvp_run_attention_block(m, &b->attention, x));
}

static bmvp_features bmvpi_uniformer_encode(bmvp_net *net, bmvp_tensor *x)
{
    const bmvpi_uniformer *u = (const bmvpi_uniformer *)net->layers;
    bmvp_module *m = &net->m;
    bmvp_features f;
    int64_t scope;
    int s, i;
    memset(&f, 0, sizeof f);
    for (s = 0; s < 4; ++s) {
        scope = bmvp_scope_begin(m->c);
        x = bmvp_run_patch_embed(m, &u->embed[s], x);
        if (s == 0) x = bmvpi_net_tokens(net, x);
        for (i = 0; i < net->cfg.depth[s]; ++i) {
            x = s < 2 ? bmvpi_cblock_run(m, &u->cblock[s][i], x) : bmvpi_sablock_run(m, &u->sablock[s - 2][i], x);
            if (i == 0) x = bmvp_block_end(m, scope, x); /* the embedding belongs to the first block */
        }
        if (s == 3) x = bmvp_run(m, &u->norm, x);
        x = bmvp_scope_end(m->c, scope, x);
        f.map[s] = x;
    }
    f.last = x;
    return f;
}

/* >>decoder -------------------------------------------------------------------------------------------------------- */

static bmvp_tensor *bmvpi_decode_plain(bmvp_net *net, bmvp_tensor *x)
{
    const bmvpi_uniformer *u = (const bmvpi_uniformer *)net->layers;
    bmvp_module *m = &net->m;
    bmvp_tensor *y;
    int i;
    for (i = 0; i < 4; ++i) x = bmvp_run(m, &u->up[i].up, x);
    y = bmvp_run(m, &u->out, x);
    if (m->recompute) bmvp_drop(m->c, x); /* at full size it is the largest by far */
    return y;
}

/* The decoder is linear: four transposed convolutions and a 1x1x1 without anything between. From the output side,
   M_0 = out (C, 1); M_{i+1} (I, (2k)^3) = up_i (I, 2,2,2, O) times M_i (O, k^3), its axes (2z,k,2y,k,2x,k) interleaved.
   The result is one matrix (512, 16^3): a token of the coarsest map times it is the block of voxels it covers. */
static bmvp_tensor *bmvpi_decode_composed(bmvp_net *net, bmvp_tensor *x)
{
    static const int weave[7] = { 0, 1, 4, 2, 5, 3, 6 };
    const bmvpi_uniformer *u = (const bmvpi_uniformer *)net->layers;
    bmvp_ctx *c = net->m.c;
    const int64_t scope = bmvp_scope_begin(c);
    bmvp_tensor *m = u->out.w, *y;
    int64_t d[7], k = 1, z, h, w, n;
    int i;
    if (!x) return NULL;
    for (i = 3; i >= 0; --i, k *= 2) {
        bmvp_tensor *up = u->up[i].up.w;
        d[0] = up->dim[0] * 8, d[1] = up->dim[4];
        m = bmvp_matmul(c, bmvp_reshape(c, up, 2, d), m, 0, 0);
        d[0] = up->dim[0], d[1] = d[2] = d[3] = 2, d[4] = d[5] = d[6] = k;
        m = bmvp_permute(c, bmvp_reshape(c, m, 7, d), weave);
        d[1] = 8 * k * k * k;
        m = bmvp_reshape(c, m, 2, d);
    }
    n = x->dim[0], z = x->dim[1], h = x->dim[2], w = x->dim[3];
    y = bmvp_linear(c, x, m, NULL);
    d[0] = n, d[1] = z, d[2] = h, d[3] = w, d[4] = d[5] = d[6] = k;
    y = bmvp_permute(c, bmvp_reshape(c, y, 7, d), weave);
    d[1] = z * k, d[2] = h * k, d[3] = w * k, d[4] = 1;
    return bmvp_block_end(&net->m, scope, bmvp_add(c, bmvp_reshape(c, y, 5, d), u->out.b));
}

static bmvp_tensor *bmvpi_uniformer_reconstruct(bmvp_net *net, const bmvp_features *f)
{
    return net->cfg.plain_decoder ? bmvpi_decode_plain(net, f->last) : bmvpi_decode_composed(net, f->last);
}

/* The finest skip: a 3^3 convolution of the input itself, with a LayerNorm over channels. */
static bmvp_tensor *bmvpi_input_skip(bmvp_net *net, bmvp_tensor *x)
{
    const bmvpi_uniformer *u = (const bmvpi_uniformer *)net->layers;
    const int64_t scope = bmvp_scope_begin(net->m.c);
    bmvp_tensor *h = bmvp_run(&net->m, &u->proj1, x);
    return bmvpi_from_cheap(&net->m, scope, h, bmvp_run(&net->m, &u->proj1_norm, h));
}

static bmvp_tensor *bmvpi_scale_head(bmvp_module *m, const bmvp_layer *head, int factor, bmvp_tensor *map)
{
    const int64_t scope = bmvp_scope_begin(m->c);
    return bmvp_block_end(m, scope, bmvp_upsample_trilinear(m->c, bmvp_run(m, head, map), factor, 1));
}

static bmvp_logits bmvpi_uniunet_segment(bmvp_net *net, bmvp_tensor *x, const bmvp_features *f, int deep)
{
    const bmvpi_uniformer *u = (const bmvpi_uniformer *)net->layers;
    bmvp_module *m = &net->m;
    bmvp_tensor *y = f->last;
    bmvp_logits l;
    int i;
    memset(&l, 0, sizeof l);
    for (i = 0; i < 4; ++i) {
        y = bmvpi_run_up_block(m, &u->up[i], y, i == 3 ? bmvpi_input_skip(net, x) : f->map[2 - i], i == 3);
        if (deep && i == 1) l.quarter = bmvpi_scale_head(m, &u->scale[0], 4, y);
        if (deep && i == 2) l.half = bmvpi_scale_head(m, &u->scale[1], 2, y);
    }
    l.full = bmvp_run(m, &u->out, y);
    bmvp_drop(m->c, y);
    return l;
}

static int64_t bmvpi_uniformer_stride(const bmvp_net_config *k) { (void)k; return 16; }
static int64_t bmvpi_uniformer_channels(const bmvp_net_config *k) { return k->dim[3]; }

static int bmvpi_uniformer_check(bmvp_ctx *c, const bmvp_net_config *k)
{
    int i, ok = 1;
    for (i = 0; i < 4; ++i)
        ok = ok && k->dim[i] >= 1 && k->dim[i] <= 1 << 16 && k->depth[i] >= 1 && k->depth[i] <= BMVPI_MAX_DEPTH;
    ok = ok && k->head_dim >= 1 && k->dim[2] % k->head_dim == 0 && k->dim[3] % k->head_dim == 0;
    ok = ok && k->mlp_ratio >= 1 && k->mlp_ratio <= 64;
    if (!ok)
        bmvp_fail(c, BMVP_E_ARG,
                  "UniFormer: dims %d/%d/%d/%d, depths %d/%d/%d/%d, head size %d: depths must be 1 to %d and the head "
                  "size must divide the last two dims",
                  k->dim[0], k->dim[1], k->dim[2], k->dim[3], k->depth[0], k->depth[1], k->depth[2], k->depth[3],
                  k->head_dim, BMVPI_MAX_DEPTH);
    return ok;
}

/* Size of one axis of a checkpoint's tensor; 0: there is no such tensor or axis. */
static int bmvpi_infer_dim(const bmvp_ckpt *f, const char *group, const char *name, int axis)
{
    const int k = bmvp_ckpt_find(f, group, name);
    return k >= 0 && f->entry[k].rank > axis && f->entry[k].dim[axis] < 1 << 20 ? (int)f->entry[k].dim[axis] : 0;
}

/* Which network stands on the encoder, by the name of its last layer. */
static void bmvpi_infer_task(const bmvp_ckpt *f, const char *group, const char *segment, bmvp_net_config *cfg)
{
    const int classes = bmvpi_infer_dim(f, group, "head.weight", 0), regions = bmvpi_infer_dim(f, group, segment, 0);
    if (classes < 1 && regions < 1) return;
    cfg->task = classes > 0 ? BMVP_TASK_CLASSIFY : BMVP_TASK_SEGMENT;
    cfg->outputs = classes > 0 ? classes : regions;
    cfg->deep_supervision = bmvp_ckpt_find(f, group, "ms_out.0.weight") >= 0;
}

/* The same of a U-Net whose pre-training ends with the layer that its segmentation has: one channel in and one out
   rebuilds intensities. */
static void bmvpi_infer_task_of_unet(const bmvp_ckpt *f, const char *group, const char *segment, bmvp_net_config *cfg)
{
    bmvpi_infer_task(f, group, segment, cfg);
    if (cfg->task != BMVP_TASK_SEGMENT || cfg->outputs > 1 || cfg->in_channels > 1) return;
    cfg->task = BMVP_TASK_PRETRAIN;
    cfg->outputs = 0;
}

/* No tensor shows the head size: it is taken to be dim[0], as in all presets, or the next smaller divisor of dim[2] and
   dim[3]. */
static int bmvpi_uniformer_infer(const bmvp_ckpt *f, const char *group, bmvp_net_config *cfg)
{
    const char *prefix =
        bmvp_ckpt_find(f, group, "encoder.patch_embed1.proj.weight") >= 0 ? "encoder." : "encoder.uniformer.";
    char name[96];
    int s, n, h;
    for (s = 0; s < 4; ++s) {
        snprintf(name, sizeof name, "%spatch_embed%d.proj.weight", prefix, s + 1);
        cfg->dim[s] = bmvpi_infer_dim(f, group, name, 0);
        if (s == 0) cfg->in_channels = bmvpi_infer_dim(f, group, name, 1);
        for (n = 0; n < BMVPI_MAX_DEPTH; ++n) {
            snprintf(name, sizeof name, "%sblocks%d.%d.pos_embed.weight", prefix, s + 1, n);
            if (bmvp_ckpt_find(f, group, name) < 0) break;
        }
        cfg->depth[s] = n;
        if (cfg->dim[s] < 1 || n < 1) return 0;
    }
    snprintf(name, sizeof name, "%sblocks1.0.mlp.fc1.weight", prefix);
    cfg->mlp_ratio = bmvpi_infer_dim(f, group, name, 0) / cfg->dim[0];
    for (h = cfg->dim[0]; h > 1 && (cfg->dim[2] % h || cfg->dim[3] % h); --h) { }
    cfg->head_dim = h;
    bmvpi_infer_task(f, group, "decoder.out.conv.conv.weight", cfg);
    return 1;
}

static const bmvp_net_kind bmvpi_uniformer_kind = {
    "uniformer", "UniFormer",
    "dim depth head_dim mlp_ratio",
    "head_dim",
    sizeof(bmvpi_uniformer),
    bmvpi_uniformer_stride,
    NULL,                         /* only: any size */
    bmvpi_uniformer_channels,
    bmvpi_uniformer_check,
    bmvpi_uniformer_make,
    bmvpi_uniformer_destroy,
    bmvpi_uniformer_encode,
    bmvpi_uniformer_reconstruct,
    bmvpi_uniunet_segment,
    NULL,                         /* classify: as all */
    bmvpi_uniformer_infer,
    1,                            /* deep */
    1e-4,                         /* weight_decay */
    { "encoder.",                 /* parts: encoder, stem, head, input */
      "encoder.uniformer.patch_embed1.proj. encoder.patch_embed1.proj.",
      "decoder.out.conv.conv. ms_out.",
      "decoder.proj1.proj." },
    { "encoder.", "encoder.uniformer." },
    NULL                          /* tokens */
};

/* >>unet3d: GroupNorm residual network of method 4.4 --------------------------------------------------------------- */

enum { BMVPI_UNET_BLOCKS = 12 };
typedef struct bmvpi_resblock {
    bmvp_layer gn1, conv1, gn2, conv2;
} bmvpi_resblock;
typedef struct bmvpi_unet3d {
    bmvp_layer conv1a, ds[3], up[3], out, scale[2]; /* scale: heads at 1/4 and 1/2, of M3AE */
    bmvpi_resblock block[BMVPI_UNET_BLOCKS]; /* 1b 2a 2b 3a 3b 4a 4b 4c 4d up4 up3 up2 */
} bmvpi_unet3d;

static bmvp_layer bmvpi_make_conv3(bmvp_module *m, const char *name, int64_t in, int64_t out, int64_t stride)
{
    return bmvpi_released(m, bmvp_make_conv(m, name, in, out, 3, stride, 1, 1));
}

static void bmvpi_unet3d_make(bmvp_net *net)
{
    static const char *const name[BMVPI_UNET_BLOCKS] = { "conv1b", "conv2a",   "conv2b",   "conv3a",
                                                         "conv3b", "conv4a",   "conv4b",   "conv4c",
                                                         "conv4d", "up4convb", "up3convb", "up2convb" };
    static const char *const up[3] = { "up4conva", "up3conva", "up2conva" }, *const ds[3] = { "ds1", "ds2", "ds3" };
    static const int level[BMVPI_UNET_BLOCKS] = { 0, 1, 1, 2, 2, 3, 3, 3, 3, 2, 1, 0 };
    const int64_t n = net->cfg.width;
    const int decodes = bmvpi_net_decodes(&net->cfg),
              outputs = net->cfg.task == BMVP_TASK_SEGMENT ? net->cfg.outputs : 1;
    bmvpi_unet3d *u = (bmvpi_unet3d *)net->layers;
    bmvp_module *m = &net->m;
    int i;
    u->conv1a = bmvpi_make_conv3(m, "conv1a", net->cfg.in_channels, n, 1);
    for (i = 0; i < (decodes ? BMVPI_UNET_BLOCKS : 9); ++i) { /* 9: those of the encoder */
        const int64_t w = n << level[i];
        if (i == 1 || i == 3 || i == 5) u->ds[i / 2] = bmvpi_make_conv3(m, ds[i / 2], w / 2, w, 2);
        if (i >= 9) u->up[i - 9] = bmvpi_released(m, bmvp_make_conv(m, up[i - 9], 2 * w, w, 1, 1, 0, 1));
        bmvp_enter(m, "%s", name[i]);
        u->block[i].gn1 = bmvp_make_groupnorm(m, "gn1", w, net->cfg.groups);
        u->block[i].conv1 = bmvpi_make_conv3(m, "conv1", w, w, 1);
        u->block[i].gn2 = bmvp_make_groupnorm(m, "gn2", w, net->cfg.groups);
        u->block[i].conv2 = bmvpi_make_conv3(m, "conv2", w, w, 1);
        bmvp_leave(m);
    }
    if (decodes) u->out = bmvpi_released(m, bmvp_make_conv(m, "up1conv", n, outputs, 1, 1, 0, 1));
    if (net->cfg.task != BMVP_TASK_SEGMENT || !bmvp_net_option_of(&net->cfg, "deep", 0)) return;
    u->scale[0] = bmvpi_released(m, bmvp_make_conv(m, "ds_out.0", 4 * n, outputs, 1, 1, 0, 1));
    u->scale[1] = bmvpi_released(m, bmvp_make_conv(m, "ds_out.1", 2 * n, outputs, 1, 1, 0, 1));
}

/* conv(relu(norm(x))), norm and relu dropped */
static bmvp_tensor *bmvpi_norm_relu_conv(bmvp_module *m, const bmvp_layer *norm, const bmvp_layer *conv, bmvp_tensor *x)
{
    bmvp_tensor *n = bmvp_run(m, norm, x), *r = bmvp_relu(m->c, n), *y;
    bmvp_drop(m->c, n);
    y = bmvp_run(m, conv, r);
    bmvp_drop(m->c, r);
    return y;
}

static bmvp_tensor *bmvpi_resblock_run(bmvp_module *m, const bmvpi_resblock *b, bmvp_tensor *x)
{
    const int64_t scope = bmvp_scope_begin(m->c);
    bmvp_tensor *h = bmvpi_norm_relu_conv(m, &b->gn1, &b->conv1, x);
    h = bmvpi_norm_relu_conv(m, &b->gn2, &b->conv2, h);
    return bmvp_block_end(m, scope, bmvp_add_into(m->c, x, h));
}

static bmvp_features bmvpi_unet3d_encode(bmvp_net *net, bmvp_tensor *x)
{
    const bmvpi_unet3d *u = (const bmvpi_unet3d *)net->layers;
    bmvp_module *m = &net->m;
    const int64_t scope = bmvp_scope_begin(m->c);
    bmvp_features f;
    int s, i, b = 1;
    memset(&f, 0, sizeof f);
    x = bmvp_run(m, &u->conv1a, x);
    x = bmvpi_from_cheap(m, scope, x, bmvpi_resblock_run(m, &u->block[0], x));
    for (s = 0; s < 3; ++s) {
        f.skip[s] = x;
        x = f.map[s] = bmvp_run(m, &u->ds[s], x);
        for (i = 0; i < (s < 2 ? 2 : 4); ++i) x = bmvpi_resblock_run(m, &u->block[b++], x);
    }
    f.map[3] = f.last = x;
    return f;
}

/* skip NULL: pre-training, nothing is added. coarse NULL, or two logits of the maps at 1/4 and 1/2 as large as the
   input. */
static bmvp_tensor *bmvpi_unet3d_decode(bmvp_net *net, bmvp_tensor *x, bmvp_tensor *const *skip, bmvp_tensor **coarse)
{
    const bmvpi_unet3d *u = (const bmvpi_unet3d *)net->layers;
    bmvp_module *m = &net->m;
    bmvp_tensor *l;
    int64_t scope;
    int s;
    for (s = 0; s < 3; ++s) {
        scope = bmvp_scope_begin(m->c);
        l = bmvp_run(m, &u->up[s], x);
        x = bmvp_upsample_nearest(m->c, l, 2);
        bmvp_drop(m->c, l); /* backward reads it nowhere */
        if (skip) x = bmvp_add_into(m->c, skip[2 - s], x);
        x = bmvpi_from_cheap(m, scope, x, bmvpi_resblock_run(m, &u->block[9 + s], x));
        if (coarse && s < 2) coarse[s] = bmvpi_scale_head(m, &u->scale[s], 4 >> s, x);
    }
    return bmvp_run(m, &u->out, x);
}

static bmvp_tensor *bmvpi_unet3d_reconstruct(bmvp_net *net, const bmvp_features *f)
{
    return bmvpi_unet3d_decode(net, f->last, NULL, NULL);
}

static bmvp_logits bmvpi_unet3d_segment(bmvp_net *net, bmvp_tensor *x, const bmvp_features *f, int deep)
{
    bmvp_tensor *coarse[2] = { NULL, NULL };
    bmvp_logits l;
    (void)x;
    (void)deep;
    memset(&l, 0, sizeof l);
    l.full = bmvpi_unet3d_decode(net, f->last, f->skip, bmvp_net_option_of(&net->cfg, "deep", 0) ? coarse : NULL);
    l.quarter = coarse[0], l.half = coarse[1];
    return l;
}

static int64_t bmvpi_unet3d_stride(const bmvp_net_config *k) { (void)k; return 8; }
static int64_t bmvpi_unet3d_channels(const bmvp_net_config *k) { return 8 * (int64_t)k->width; }

static int bmvpi_unet3d_check(bmvp_ctx *c, const bmvp_net_config *k)
{
    if (k->width >= 1 && k->width <= 4096 && k->groups >= 1 && k->width % k->groups == 0) return 1;
    bmvp_fail(c, BMVP_E_ARG, "UNET3D: width %d must be a multiple of %d groups", k->width, k->groups);
    return 0;
}

/* No tensor shows the number of groups: it is that of the presets, 8. */
static int bmvpi_unet3d_infer(const bmvp_ckpt *f, const char *group, bmvp_net_config *cfg)
{
    cfg->width = bmvpi_infer_dim(f, group, "conv1a.weight", 0);
    cfg->groups = 8;
    if (cfg->width < 1) return 0;
    cfg->in_channels = bmvpi_infer_dim(f, group, "conv1a.weight", 1);
    if (bmvp_ckpt_find(f, group, "ds_out.0.weight") >= 0) (void)bmvp_net_config_set(cfg, "deep=1", NULL);
    bmvpi_infer_task_of_unet(f, group, "up1conv.weight", cfg);
    return 1;
}

static const bmvp_net_kind bmvpi_unet3d_kind = {
    "unet3d", "UNET3D",
    "width groups deep",
    "groups",
    sizeof(bmvpi_unet3d),
    bmvpi_unet3d_stride,
    NULL,                         /* only: any size */
    bmvpi_unet3d_channels,
    bmvpi_unet3d_check,
    bmvpi_unet3d_make,
    NULL,                         /* destroy: nothing more */
    bmvpi_unet3d_encode,
    bmvpi_unet3d_reconstruct,
    bmvpi_unet3d_segment,
    NULL,                         /* classify: as all */
    bmvpi_unet3d_infer,
    0,                            /* deep */
    1e-5,                         /* weight_decay */
    { "conv ds1. ds2. ds3.", "conv1a.", "up1conv. ds_out.", NULL },
    { NULL, NULL },
    NULL                          /* tokens */
};

/* >>unetr: UNETR of Hatamizadeh et al., WACV 2022, as MONAI 1.4 and 1.5 write it --------------------------------------

   A vision transformer over patches of 16^3 voxels, whose tokens stay at 1/16 all the way; its maps after blocks 3, 6
   and 9 are brought up by transposed convolutions and joined by a decoder of residual blocks. Position embeddings are
   learned for one grid, so the input has the size that the network was made for. The state dict has, for each block,
   a second attention that MONAI never runs (norm_cross_attn, cross_attn): it is carried. */
enum { BMVPI_UNETR_DEPTH = 12, BMVPI_UNETR_PATCH = 16, BMVPI_UNETR_MAPS = 8 };
typedef struct bmvpi_unetr {
    bmvp_layer embed;
    bmvp_tensor *position;
    bmvp_attention_block block[BMVPI_UNETR_DEPTH];
    bmvp_layer norm;
    bmvpi_res_block encoder1;                /* of the image */
    bmvp_layer start[3];                     /* encoder2, 3, 4: tokens to 1/8 */
    bmvpi_up_block rise[3];                  /* encoder2's two steps, encoder3's one: twice the grid, a block */
    bmvpi_up_block decoder[4];               /* 5, 4, 3, 2 */
    bmvp_layer out;
} bmvpi_unetr;

static int bmvpi_unetr_feature(const bmvp_net_config *k) { return bmvp_net_option_of(k, "feature_size", 16); }
static int bmvpi_unetr_hidden(const bmvp_net_config *k) { return bmvp_net_option_of(k, "hidden_size", 768); }
static int bmvpi_unetr_heads(const bmvp_net_config *k) { return bmvp_net_option_of(k, "num_heads", 12); }

/* Voxels along Z, Y, X that the network is made for */
static void bmvpi_unetr_size(const bmvp_net_config *k, int64_t size[3])
{
    static const char *const name[3] = { "img_z", "img_y", "img_x" };
    int i;
    for (i = 0; i < 3; ++i) size[i] = bmvp_net_option_of(k, name[i], bmvp_net_option_of(k, "img_size", 96));
}

/* Linear of a patch's voxels, (h, p^3 c) in the order x, y, z, c: the same product as the convolution's. */
static bmvp_layer bmvpi_make_perceptron(bmvp_module *m, const char *name, int64_t in, int64_t out)
{
    const int64_t p = BMVPI_UNETR_PATCH;
    char full[BMVP_NAME_MAX];
    int64_t dim[5];
    bmvp_layer l;
    bmvp_state s;
    int i;
    memset(&l, 0, sizeof l);
    memset(&s, 0, sizeof s);
    if (bmvp_failed(m->c) || !bmvpi_full_name(m, name, "weight", full)) return l;
    for (i = 0; i < BMVP_MAX_DIMS; ++i) s.torch_dim[i] = s.walk_dim[i] = 1;
    s.torch_rank = 2, s.walk_rank = 5;
    s.torch_dim[0] = s.walk_dim[0] = out;
    s.torch_dim[1] = p * p * p * in;
    s.walk_dim[1] = s.walk_dim[2] = s.walk_dim[3] = p;
    s.walk_dim[4] = in;
    bmvpi_space_strides((int)m->axes, s.walk_dim + 1, in * out, dim, s.stride + 1);
    dim[3] = in, dim[4] = out;
    s.stride[0] = 1, s.stride[4] = out;
    s.trained = !m->carried;
    l.w = bmvpi_state_make(m->c, m->list, full, &s, 5, dim);
    bmvp_init_as(m, l.w, BMVP_INIT_TRUNC_NORMAL, 0.02);
    l.b = bmvpi_make(m, name, "bias", BMVP_LAYOUT_SAME, 1, &out, 1, BMVP_INIT_ZERO, 0);
    l.shape = bmvp_conv_same(p, 0);
    l.run = bmvpi_run_conv;
    return l;
}

static void bmvpi_unetr_make_embedding(bmvp_net *net)
{
    const bmvp_net_config *k = &net->cfg;
    const int hidden = bmvpi_unetr_hidden(k);
    bmvpi_unetr *u = (bmvpi_unetr *)net->layers;
    bmvp_module *m = &net->m;
    int64_t grid[3];
    int i;
    bmvpi_unetr_size(k, grid);
    for (i = 0; i < 3; ++i) grid[i] /= BMVPI_UNETR_PATCH;
    bmvp_enter(m, "patch_embedding");
    u->position = bmvp_make_tokens(m, "position_embeddings", grid, hidden);
    bmvp_init_as(m, u->position, BMVP_INIT_TRUNC_NORMAL, 0.02);
    u->embed = bmvp_net_option_of(k, "perceptron", 0)
                   ? bmvpi_make_perceptron(m, "patch_embeddings.1", k->in_channels, hidden)
                   : bmvp_make_conv(m, "patch_embeddings", k->in_channels, hidden, BMVPI_UNETR_PATCH,
                                    BMVPI_UNETR_PATCH, 0, 1);
    bmvp_leave(m);
}

/* The order of MONAI's TransformerBlock */
static bmvp_attention_block bmvpi_unetr_make_block(bmvp_module *m, int64_t n, int64_t mlp, int heads)
{
    bmvp_attention_block b;
    memset(&b, 0, sizeof b);
    b.mlp.fc1 = bmvp_make_linear(m, "mlp.linear1", n, mlp, 1);
    b.mlp.fc2 = bmvp_make_linear(m, "mlp.linear2", mlp, n, 1);
    b.norm1 = bmvp_make_layernorm(m, "norm1", n);
    b.proj = bmvp_make_linear(m, "attn.out_proj", n, n, 1);
    b.qkv = bmvp_make_linear(m, "attn.qkv", n, 3 * n, 0);
    b.norm2 = bmvp_make_layernorm(m, "norm2", n);
    b.heads = heads;
    m->carried = 1;
    (void)bmvp_make_layernorm(m, "norm_cross_attn", n);
    (void)bmvp_make_linear(m, "cross_attn.out_proj", n, n, 1);
    (void)bmvp_make_linear(m, "cross_attn.to_q", n, n, 0);
    (void)bmvp_make_linear(m, "cross_attn.to_k", n, n, 0);
    (void)bmvp_make_linear(m, "cross_attn.to_v", n, n, 0);
    m->carried = 0;
    return b;
}

static void bmvpi_unetr_make_decoder(bmvp_net *net)
{
    static const char *const rise[3] = { "encoder2.blocks.0", "encoder2.blocks.1", "encoder3.blocks.0" };
    const int64_t f = bmvpi_unetr_feature(&net->cfg), h = bmvpi_unetr_hidden(&net->cfg);
    const int outputs = net->cfg.task == BMVP_TASK_SEGMENT ? net->cfg.outputs : 1;
    bmvpi_unetr *u = (bmvpi_unetr *)net->layers;
    bmvp_module *m = &net->m;
    char name[16];
    int i, b = 0;
    u->encoder1 = bmvpi_make_res_block(m, "encoder1.layer", net->cfg.in_channels, f);
    for (i = 0; i < 3; ++i) {
        const int64_t w = (2 * f) << i;
        snprintf(name, sizeof name, "encoder%d", 2 + i);
        bmvp_enter(m, "%s", name);
        u->start[i] = bmvp_make_conv_transpose(m, "transp_conv_init.conv", h, w, 2, 0);
        bmvp_leave(m);
        for (; b < (i == 0 ? 2 : 3) && i < 2; ++b) {
            bmvp_enter(m, "%s", rise[b]);
            u->rise[b].up = bmvp_make_conv_transpose(m, "0.conv", w, w, 2, 0);
            u->rise[b].res = bmvpi_make_res_block(m, "1", w, w);
            bmvp_leave(m);
        }
    }
    for (i = 0; i < 4; ++i) {
        snprintf(name, sizeof name, "decoder%d", 5 - i);
        u->decoder[i] = bmvpi_make_up_block(m, name, i ? (16 * f) >> i : h, (8 * f) >> i);
    }
    u->out = bmvp_make_conv(m, "out.conv.conv", f, outputs, 1, 1, 0, 1);
}

static void bmvpi_unetr_make(bmvp_net *net)
{
    const int hidden = bmvpi_unetr_hidden(&net->cfg), heads = bmvpi_unetr_heads(&net->cfg),
              mlp = bmvp_net_option_of(&net->cfg, "mlp_dim", 3072);
    bmvpi_unetr *u = (bmvpi_unetr *)net->layers;
    bmvp_module *m = &net->m;
    int i;
    bmvp_enter(m, "vit");
    bmvpi_unetr_make_embedding(net);
    for (i = 0; i < BMVPI_UNETR_DEPTH; ++i) {
        bmvp_enter(m, "blocks.%d", i);
        u->block[i] = bmvpi_unetr_make_block(m, hidden, mlp, heads);
        bmvp_leave(m);
    }
    u->norm = bmvp_make_layernorm(m, "norm", hidden);
    bmvp_leave(m);
    if (bmvpi_net_decodes(&net->cfg)) bmvpi_unetr_make_decoder(net);
}

/* 1: the input has the size that the positions were made for. */
static int bmvpi_unetr_fits(const bmvp_net *net, const bmvp_tensor *x)
{
    int64_t s[3];
    bmvpi_unetr_size(&net->cfg, s);
    if (x->dim[1] == s[0] && x->dim[2] == s[1] && x->dim[3] == s[2]) return 1;
    bmvp_fail(net->m.c, BMVP_E_SHAPE,
              "%s: the input is %d x %d x %d voxels (x, y, z), but the positions are learned for %d x %d x %d: take "
              "crops of that size, or make it with img_size (img_x, img_y, img_z)",
              net->cfg.name, (int)x->dim[3], (int)x->dim[2], (int)x->dim[1], (int)s[2], (int)s[1], (int)s[0]);
    return 0;
}

/* All blocks, and with `norm` the LayerNorm behind them. hidden (or NULL): what each block gives. */
static bmvp_tensor *bmvpi_unetr_blocks(bmvp_net *net, bmvp_tensor *x, int norm, bmvp_tensor **hidden)
{
    const bmvpi_unetr *u = (const bmvpi_unetr *)net->layers;
    bmvp_module *m = &net->m;
    int i;
    for (i = 0; i < BMVPI_UNETR_DEPTH; ++i) {
        const int64_t scope = bmvp_scope_begin(m->c);
        x = bmvp_block_end(m, scope, bmvp_run_attention_block(m, &u->block[i], x));
        if (hidden) hidden[i] = x;
    }
    return norm ? bmvp_run(m, &u->norm, x) : x;
}

/* The tokens as a map (N, D/16, H/16, W/16, hidden): hidden[i] after block i, [12] the last one normalised, [13] before
   all blocks. */
static void bmvpi_unetr_tokens(bmvp_net *net, bmvp_tensor *x, bmvp_tensor *hidden[BMVPI_UNETR_DEPTH + 2])
{
    const bmvpi_unetr *u = (const bmvpi_unetr *)net->layers;
    bmvp_module *m = &net->m;
    const int64_t scope = bmvp_scope_begin(m->c);
    x = bmvp_scope_end(m->c, scope, bmvp_add_tokens(m, bmvp_run(m, &u->embed, x), u->position));
    hidden[BMVPI_UNETR_DEPTH + 1] = x;
    hidden[BMVPI_UNETR_DEPTH] = bmvpi_unetr_blocks(net, x, 1, hidden);
}

static bmvp_tensor *bmvpi_unetr_embed(bmvp_net *net, bmvp_tensor *x)
{
    return bmvpi_unetr_fits(net, x) ? bmvp_run(&net->m, &((const bmvpi_unetr *)net->layers)->embed, x) : NULL;
}
static bmvp_tensor *bmvpi_unetr_positions(const bmvp_net *net)
{
    return ((const bmvpi_unetr *)net->layers)->position;
}
static bmvp_tensor *bmvpi_unetr_run_blocks(bmvp_net *net, bmvp_tensor *tokens, int norm)
{
    return bmvpi_unetr_blocks(net, tokens, norm, NULL);
}
static const bmvp_net_tokens bmvpi_unetr_token_functions = { bmvpi_unetr_embed, bmvpi_unetr_positions,
                                                             bmvpi_unetr_run_blocks };

/* map: after blocks 3, 6 and 9 (counted from 0) and the normalised end, all at 1/16; skip[0]: the image, for the
   decoder. */
static bmvp_features bmvpi_unetr_encode(bmvp_net *net, bmvp_tensor *x)
{
    bmvp_tensor *hidden[BMVPI_UNETR_DEPTH + 2];
    bmvp_features f;
    int i;
    memset(&f, 0, sizeof f);
    if (!bmvpi_unetr_fits(net, x)) return f;
    memset(hidden, 0, sizeof hidden);
    bmvpi_unetr_tokens(net, x, hidden);
    for (i = 0; i < 3; ++i) f.map[i] = hidden[3 + 3 * i];
    f.map[3] = f.last = hidden[BMVPI_UNETR_DEPTH];
    f.skip[0] = x;
    return f;
}

/* Tokens to 1 / 2^(3 - steps): the transposed convolutions' maps are dropped, cheaper to compute again than to keep. */
static bmvp_tensor *bmvpi_unetr_rise(bmvp_module *m, const bmvp_layer *start, const bmvpi_up_block *rise, int steps,
                                     bmvp_tensor *tokens)
{
    bmvp_tensor *x = bmvp_run(m, start, tokens), *below;
    int i;
    for (i = 0; i < steps; ++i) {
        const int64_t scope = bmvp_scope_begin(m->c);
        below = x;
        x = bmvp_block_end(m, scope, bmvpi_run_res_block(m, &rise[i].res, bmvp_run(m, &rise[i].up, x), 1));
        bmvpi_spent(m, below);
    }
    return x;
}

/* map[0..3]: what encoder1 to 4 give, dropped unless `keep`; [4..7]: decoder5 to 2. Returns the logits. */
static bmvp_tensor *bmvpi_unetr_decode(bmvp_net *net, const bmvp_features *f, bmvp_tensor *map[BMVPI_UNETR_MAPS],
                                       int keep)
{
    const bmvpi_unetr *u = (const bmvpi_unetr *)net->layers;
    bmvp_module *m = &net->m;
    const int64_t scope = bmvp_scope_begin(m->c);
    bmvp_tensor *y = f->last;
    int i;
    map[0] = bmvp_block_end(m, scope, bmvpi_run_res_block(m, &u->encoder1, f->skip[0], 0));
    map[1] = bmvpi_unetr_rise(m, &u->start[0], u->rise, 2, f->map[0]);
    map[2] = bmvpi_unetr_rise(m, &u->start[1], u->rise + 2, 1, f->map[1]);
    map[3] = bmvpi_unetr_rise(m, &u->start[2], NULL, 0, f->map[2]);
    for (i = 0; i < 4 && keep; ++i) (void)bmvp_keep(map[i]);
    for (i = 0; i < 4; ++i) {
        map[4 + i] = bmvpi_run_up_block(m, &u->decoder[i], y, map[3 - i], 1);
        if (i > 0) bmvpi_spent(m, y);
        y = map[4 + i];
    }
    return bmvp_run(m, &u->out, y);
}

static bmvp_tensor *bmvpi_unetr_reconstruct(bmvp_net *net, const bmvp_features *f)
{
    bmvp_tensor *map[BMVPI_UNETR_MAPS];
    return bmvpi_unetr_decode(net, f, map, 0);
}

static bmvp_logits bmvpi_unetr_segment(bmvp_net *net, bmvp_tensor *x, const bmvp_features *f, int deep)
{
    bmvp_logits l;
    (void)x;
    (void)deep;
    memset(&l, 0, sizeof l);
    l.full = bmvpi_unetr_reconstruct(net, f);
    return l;
}

static int64_t bmvpi_unetr_stride(const bmvp_net_config *k) { (void)k; return BMVPI_UNETR_PATCH; }
static int64_t bmvpi_unetr_channels(const bmvp_net_config *k) { return bmvpi_unetr_hidden(k); }

static int bmvpi_unetr_check(bmvp_ctx *c, const bmvp_net_config *k)
{
    const int f = bmvpi_unetr_feature(k), h = bmvpi_unetr_hidden(k), heads = bmvpi_unetr_heads(k),
              mlp = bmvp_net_option_of(k, "mlp_dim", 3072);
    int64_t s[3];
    int i, ok = f >= 1 && f <= 1024 && h >= 1 && h <= 1 << 16 && heads >= 1 && h % heads == 0 && mlp >= 1 &&
                mlp <= 1 << 18;
    bmvpi_unetr_size(k, s);
    for (i = 0; i < 3; ++i) ok = ok && s[i] >= BMVPI_UNETR_PATCH && s[i] <= 4096 && s[i] % BMVPI_UNETR_PATCH == 0;
    if (!ok)
        bmvp_fail(c, BMVP_E_ARG,
                  "UNETR: image %d x %d x %d (img_x, img_y, img_z, or img_size), feature_size %d, hidden_size %d, "
                  "num_heads %d, mlp_dim %d: the image's axes must be multiples of 16, the heads divide the hidden "
                  "size",
                  (int)s[2], (int)s[1], (int)s[0], f, h, heads, mlp);
    return ok;
}

/* No tensor shows the number of heads: 64 channels each, as in all presets, or the next smaller divisor; nor the sides
   of the image, but how many tokens it has: they are taken to be a cube. Where they are none img_size is 0, and no
   network can be made before img_x, img_y and img_z are said. */
static int bmvpi_unetr_infer(const bmvp_ckpt *f, const char *group, bmvp_net_config *cfg)
{
    static const char embed[] = "vit.patch_embedding.patch_embeddings.weight",
                      flat[] = "vit.patch_embedding.patch_embeddings.1.weight";
    const int perceptron = bmvp_ckpt_find(f, group, flat) >= 0,
              hidden = bmvpi_infer_dim(f, group, perceptron ? flat : embed, 0),
              tokens = bmvpi_infer_dim(f, group, "vit.patch_embedding.position_embeddings", 1),
              mlp = bmvpi_infer_dim(f, group, "vit.blocks.0.mlp.linear1.weight", 0),
              feature = bmvpi_infer_dim(f, group, "encoder1.layer.conv1.conv.weight", 0);
    int edge = 1, h = 64;
    char text[160];
    while (edge * edge * edge < tokens) ++edge;
    if (hidden < 1 || mlp < 1 || tokens < 1) return 0;
    if (edge * edge * edge != tokens) edge = 0;
    cfg->in_channels = bmvpi_infer_dim(f, group, perceptron ? flat : embed, 1) / (perceptron ? 16 * 16 * 16 : 1);
    while (hidden % h) --h;
    snprintf(text, sizeof text, "img_size=%d hidden_size=%d mlp_dim=%d num_heads=%d perceptron=%d", 16 * edge, hidden,
             mlp, hidden / h, perceptron);
    (void)bmvp_net_config_set(cfg, text, NULL);
    snprintf(text, sizeof text, "feature_size=%d", feature);
    if (feature > 0) (void)bmvp_net_config_set(cfg, text, NULL);
    bmvpi_infer_task(f, group, "out.conv.conv.weight", cfg);
    return 1;
}

static const bmvp_net_kind bmvpi_unetr_kind = {
    "unetr", "UNETR",
    "img_size img_x img_y img_z feature_size hidden_size mlp_dim num_heads perceptron",
    "img_size img_x img_y img_z num_heads",
    sizeof(bmvpi_unetr),
    bmvpi_unetr_stride,
    bmvpi_unetr_size,
    bmvpi_unetr_channels,
    bmvpi_unetr_check,
    bmvpi_unetr_make,
    NULL,                         /* destroy: nothing more */
    bmvpi_unetr_encode,
    bmvpi_unetr_reconstruct,
    bmvpi_unetr_segment,
    NULL,                         /* classify: as all */
    bmvpi_unetr_infer,
    0,                            /* deep */
    1e-5,                         /* weight_decay */
    { "vit.",
      "vit.patch_embedding.patch_embeddings.", /* and, of a perceptron, .1. */
      "out.conv.conv.",
      "encoder1.layer." },
    { NULL, NULL },
    &bmvpi_unetr_token_functions
};

/* >>unet3d_mg: the U-Net of Models Genesis (Zhou et al., MIA 2021) and TransVW ----------------------------------------

   Two convolutions with batch norm and ReLU a level, max-pooling down, transposed convolutions of one width up, beside
   the map from before the pooling. The authors make batch norm without running statistics in the pass: evaluation, too,
   takes those of the batch, moves the running ones that nobody reads, and counts no batches. Their sigmoid stands at
   the end of reconstruct; segment gives logits. */
typedef struct bmvpi_mg_conv { bmvp_layer conv, norm; } bmvpi_mg_conv;
typedef struct bmvpi_unet3d_mg {
    bmvpi_mg_conv down[4][2], join[3][2];
    bmvp_layer up[3], out;
} bmvpi_unet3d_mg;

static bmvpi_mg_conv bmvpi_make_mg_conv(bmvp_module *m, int number, int64_t in, int64_t out)
{
    bmvpi_mg_conv l;
    bmvp_enter(m, "ops.%d", number);
    l.conv = bmvp_make_conv(m, "conv1", in, out, 3, 1, 1, 1);
    l.norm = bmvp_make_batchnorm(m, "bn1", out);
    bmvp_leave(m);
    return l;
}

static void bmvpi_unet3d_mg_make(bmvp_net *net)
{
    const int64_t w = net->cfg.width;
    const int outputs = net->cfg.task == BMVP_TASK_SEGMENT ? net->cfg.outputs : 1;
    bmvpi_unet3d_mg *u = (bmvpi_unet3d_mg *)net->layers;
    bmvp_module *m = &net->m;
    int i;
    for (i = 0; i < 4; ++i) {
        const int64_t in = i ? w << i : net->cfg.in_channels, mid = w << i;
        bmvp_enter(m, "down_tr%d", 64 << i);
        u->down[i][0] = bmvpi_make_mg_conv(m, 0, in, mid);
        u->down[i][1] = bmvpi_make_mg_conv(m, 1, mid, 2 * mid);
        bmvp_leave(m);
    }
    if (!bmvpi_net_decodes(&net->cfg)) return;
    for (i = 0; i < 3; ++i) {
        const int64_t in = (16 * w) >> i, out = in / 2;
        bmvp_enter(m, "up_tr%d", 256 >> i);
        u->up[i] = bmvp_make_conv_transpose(m, "up_conv", in, in, 2, 1);
        u->join[i][0] = bmvpi_make_mg_conv(m, 0, in + out, out);
        u->join[i][1] = bmvpi_make_mg_conv(m, 1, out, out);
        bmvp_leave(m);
    }
    u->out = bmvp_make_conv(m, "out_tr.final_conv", 2 * w, outputs, 1, 1, 0, 1);
}

/* relu(norm(conv(x))) twice; norms are dropped, and with `cheap` x is. */
static bmvp_tensor *bmvpi_mg_level(bmvp_module *m, const bmvpi_mg_conv level[2], bmvp_tensor *x, int cheap)
{
    bmvp_ctx *c = m->c;
    bmvp_tensor *h, *n, *in;
    int i;
    for (i = 0; i < 2; ++i) {
        const bmvp_layer *l = &level[i].norm;
        h = bmvp_run(m, &level[i].conv, in = x);
        n = bmvp_batchnorm(c, h, l->w, l->b, l->mean, l->var, 1, 0.1, l->eps);
        if (i == 0 && cheap) bmvp_drop(c, in);
        else if (i > 0) bmvpi_spent(m, in);
        bmvpi_spent(m, h);
        x = bmvp_relu(c, n);
        bmvp_drop(c, n);
    }
    return x;
}

/* map: the four levels at 1, 1/2, 1/4, 1/8 */
static bmvp_features bmvpi_unet3d_mg_encode(bmvp_net *net, bmvp_tensor *x)
{
    const bmvpi_unet3d_mg *u = (const bmvpi_unet3d_mg *)net->layers;
    bmvp_module *m = &net->m;
    bmvp_features f;
    int i;
    memset(&f, 0, sizeof f);
    for (i = 0; i < 4; ++i) {
        const int64_t scope = bmvp_scope_begin(m->c);
        if (i) x = bmvp_maxpool3d(m->c, x, 2);
        f.map[i] = x = bmvp_block_end(m, scope, bmvpi_mg_level(m, u->down[i], x, i > 0));
    }
    f.last = x;
    return f;
}

/* map[0..2]: the joined levels at 1/4, 1/2 and 1 */
static bmvp_tensor *bmvpi_unet3d_mg_decode(bmvp_net *net, const bmvp_features *f, bmvp_tensor *map[3])
{
    const bmvpi_unet3d_mg *u = (const bmvpi_unet3d_mg *)net->layers;
    bmvp_module *m = &net->m;
    bmvp_tensor *x = f->last;
    int i;
    for (i = 0; i < 3; ++i) {
        const int64_t scope = bmvp_scope_begin(m->c);
        map[i] = x = bmvp_block_end(
            m, scope, bmvpi_mg_level(m, u->join[i], bmvpi_join(m, &u->up[i], x, f->map[2 - i], 0), 1));
        if (i > 0) bmvpi_spent(m, map[i - 1]);
    }
    return bmvp_run(m, &u->out, x);
}

static bmvp_tensor *bmvpi_unet3d_mg_reconstruct(bmvp_net *net, const bmvp_features *f)
{
    bmvp_tensor *map[3];
    return bmvpi_unet3d_mg_decode(net, f, map); /* the authors' sigmoid is the method's */
}
static bmvp_logits bmvpi_unet3d_mg_segment(bmvp_net *net, bmvp_tensor *x, const bmvp_features *f, int deep)
{
    bmvp_tensor *map[3];
    bmvp_logits l;
    (void)x;
    (void)deep;
    memset(&l, 0, sizeof l);
    l.full = bmvpi_unet3d_mg_decode(net, f, map);
    return l;
}

static int64_t bmvpi_unet3d_mg_channels(const bmvp_net_config *k) { return 16 * (int64_t)k->width; }
static int bmvpi_unet3d_mg_check(bmvp_ctx *c, const bmvp_net_config *k)
{
    if (k->width >= 1 && k->width <= 4096) return 1;
    bmvp_fail(c, BMVP_E_ARG, "U-Net of Models Genesis: width %d, should be 1 to 4096", k->width);
    return 0;
}
static int bmvpi_unet3d_mg_infer(const bmvp_ckpt *f, const char *group, bmvp_net_config *cfg)
{
    cfg->width = bmvpi_infer_dim(f, group, "down_tr64.ops.0.conv1.weight", 0);
    if (cfg->width < 1) return 0;
    cfg->in_channels = bmvpi_infer_dim(f, group, "down_tr64.ops.0.conv1.weight", 1);
    bmvpi_infer_task_of_unet(f, group, "out_tr.final_conv.weight", cfg);
    return 1;
}

static const bmvp_net_kind bmvpi_unet3d_mg_kind = {
    "unet3d_mg", "U-Net of Models Genesis",
    "width",
    NULL,                         /* unseen: nothing */
    sizeof(bmvpi_unet3d_mg),
    bmvpi_unet3d_stride,
    NULL,                         /* only: any size */
    bmvpi_unet3d_mg_channels,
    bmvpi_unet3d_mg_check,
    bmvpi_unet3d_mg_make,
    NULL,                         /* destroy: nothing more */
    bmvpi_unet3d_mg_encode,
    bmvpi_unet3d_mg_reconstruct,
    bmvpi_unet3d_mg_segment,
    NULL,                         /* classify: as all */
    bmvpi_unet3d_mg_infer,
    0,                            /* deep */
    1e-5,                         /* weight_decay */
    { "down_tr", "down_tr64.ops.0.conv1.", "out_tr.", NULL },
    { NULL, NULL },
    NULL                          /* tokens */
};

/* >>unet3d_gvsl: the U-Net of GVSL (He et al., CVPR 2023) -------------------------------------------------------------

   Two convolutions with group norm (8 channels a group) and leaky ReLU (.2) a level, max-pooling down, linear
   interpolation up, beside the skip. Any size: axes are padded with zeros to multiples of 16, half of it in front, and
   the last map is cropped. Pre-training is the authors' UNet_base, which ends with a map of `width` channels: encode
   gives it as skip[5], for the method's heads. Segmentation has their out_conv (3^3); its softmax is left to the
   loss. */
enum { BMVPI_GVSL_LEVELS = 5 };
typedef struct bmvpi_gvsl_level { bmvp_layer conv[2], norm[2]; } bmvpi_gvsl_level;
typedef struct bmvpi_unet3d_gvsl {
    bmvpi_gvsl_level down[BMVPI_GVSL_LEVELS], up[BMVPI_GVSL_LEVELS - 1];
    bmvp_layer out;
} bmvpi_unet3d_gvsl;

static bmvpi_gvsl_level bmvpi_make_gvsl_level(bmvp_module *m, const char *name, int64_t in, int64_t out)
{
    bmvpi_gvsl_level l;
    bmvp_enter(m, "%s.double_conv", name);
    l.conv[0] = bmvp_make_conv(m, "0", in, out, 3, 1, 1, 1);
    l.norm[0] = bmvp_make_groupnorm(m, "1", out, (int)out / 8);
    l.conv[1] = bmvp_make_conv(m, "3", out, out, 3, 1, 1, 1);
    l.norm[1] = bmvp_make_groupnorm(m, "4", out, (int)out / 8);
    bmvp_leave(m);
    return l;
}

static void bmvpi_unet3d_gvsl_make(bmvp_net *net)
{
    const int64_t w = net->cfg.width;
    const int pretrains = net->cfg.task == BMVP_TASK_PRETRAIN;
    bmvpi_unet3d_gvsl *u = (bmvpi_unet3d_gvsl *)net->layers;
    bmvp_module *m = &net->m;
    char name[32];
    int i;
    if (!pretrains) bmvp_enter(m, "unet");
    u->down[0] = bmvpi_make_gvsl_level(m, "inc", net->cfg.in_channels, w);
    for (i = 1; i < BMVPI_GVSL_LEVELS; ++i) {
        snprintf(name, sizeof name, "down%d.maxpool_conv.1", i);
        u->down[i] = bmvpi_make_gvsl_level(m, name, w << (i - 1), w << i);
    }
    for (i = 0; i < BMVPI_GVSL_LEVELS - 1 && bmvpi_net_decodes(&net->cfg); ++i) {
        const int64_t out = (8 * w) >> i;
        snprintf(name, sizeof name, "up%d.conv", i + 1);
        u->up[i] = bmvpi_make_gvsl_level(m, name, 3 * out, out);
    }
    if (!pretrains) bmvp_leave(m);
    if (net->cfg.task == BMVP_TASK_SEGMENT) u->out = bmvp_make_conv(m, "out_conv", w, net->cfg.outputs, 3, 1, 1, 1);
}

/* leaky(norm(conv(x))) twice; norms are dropped, and with `cheap` x is. */
static bmvp_tensor *bmvpi_gvsl_run_level(bmvp_module *m, const bmvpi_gvsl_level *l, bmvp_tensor *x, int cheap)
{
    bmvp_tensor *h, *n, *in;
    int i;
    for (i = 0; i < 2; ++i) {
        h = bmvp_run(m, &l->conv[i], in = x);
        n = bmvp_run(m, &l->norm[i], h);
        if (i == 0 && cheap) bmvp_drop(m->c, in);
        else if (i > 0) bmvpi_spent(m, in);
        bmvpi_spent(m, h);
        x = bmvp_leaky_relu(m->c, n, 0.2);
        bmvp_drop(m->c, n);
    }
    return x;
}

/* Zeros before each axis, and behind it, up to a multiple of 16. Returns whether there are any. */
static int bmvpi_gvsl_room(const bmvp_tensor *x, int64_t low[5], int64_t high[5])
{
    int i, any = 0;
    for (i = 0; i < 5; ++i) {
        const int64_t room = i >= 1 && i <= 3 ? (16 - x->dim[i] % 16) % 16 : 0;
        low[i] = room / 2, high[i] = room - low[i];
        any |= room > 0;
    }
    return any;
}

/* map[0..3]: the joined levels at 1/8 to 1, not cropped. Returns the last one on the grid of the input x. */
static bmvp_tensor *bmvpi_unet3d_gvsl_decode(bmvp_net *net, const bmvp_features *f, bmvp_tensor *map[4])
{
    const bmvpi_unet3d_gvsl *u = (const bmvpi_unet3d_gvsl *)net->layers;
    bmvp_module *m = &net->m;
    bmvp_tensor *x = f->last, *part[2], *cat;
    int64_t low[5], high[5];
    int i;
    for (i = 0; i < BMVPI_GVSL_LEVELS - 1; ++i) {
        const int64_t scope = bmvp_scope_begin(m->c);
        part[0] = f->skip[3 - i];
        part[1] = bmvp_upsample_trilinear(m->c, x, 2, 1);
        cat = bmvp_concat(m->c, 2, part, 4);
        bmvp_drop(m->c, part[1]);
        map[i] = x = bmvp_block_end(m, scope, bmvpi_gvsl_run_level(m, &u->up[i], cat, 1));
    }
    if (!x || !bmvpi_gvsl_room(f->skip[4], low, high)) return x;
    for (i = 1; i < 4; ++i) x = bmvp_slice(m->c, x, i, low[i], f->skip[4]->dim[i]);
    return x;
}

/* map: levels at 1/2 to 1/16 of the padded input; skip[0..3]: at 1 to 1/8, [4]: the input, [5]: in pre-training, the
   decoder's map */
static bmvp_features bmvpi_unet3d_gvsl_encode(bmvp_net *net, bmvp_tensor *x)
{
    const bmvpi_unet3d_gvsl *u = (const bmvpi_unet3d_gvsl *)net->layers;
    bmvp_module *m = &net->m;
    int64_t low[5], high[5];
    bmvp_tensor *map[4];
    bmvp_features f;
    int i, padded;
    memset(&f, 0, sizeof f);
    f.skip[4] = x;
    padded = bmvpi_gvsl_room(x, low, high);
    if (padded) x = bmvp_pad(m->c, x, low, high);
    for (i = 0; i < BMVPI_GVSL_LEVELS; ++i) {
        const int64_t scope = bmvp_scope_begin(m->c);
        if (i) x = bmvp_maxpool3d(m->c, x, 2);
        x = bmvp_block_end(m, scope, bmvpi_gvsl_run_level(m, &u->down[i], x, i > 0));
        if (i < 4) f.skip[i] = x;
        if (i > 0) f.map[i - 1] = x;
    }
    f.last = x;
    if (net->cfg.task == BMVP_TASK_PRETRAIN) f.skip[5] = bmvpi_unet3d_gvsl_decode(net, &f, map);
    return f;
}

static bmvp_logits bmvpi_unet3d_gvsl_segment(bmvp_net *net, bmvp_tensor *x, const bmvp_features *f, int deep)
{
    const bmvpi_unet3d_gvsl *u = (const bmvpi_unet3d_gvsl *)net->layers;
    bmvp_tensor *map[4];
    bmvp_logits l;
    (void)x;
    (void)deep;
    memset(&l, 0, sizeof l);
    l.full = bmvp_run(&net->m, &u->out, bmvpi_unet3d_gvsl_decode(net, f, map));
    return l;
}

static int64_t bmvpi_unet3d_gvsl_stride(const bmvp_net_config *k) { (void)k; return 1; }
static int bmvpi_unet3d_gvsl_check(bmvp_ctx *c, const bmvp_net_config *k)
{
    if (k->width >= 8 && k->width <= 4096 && k->width % 8 == 0) return 1;
    bmvp_fail(c, BMVP_E_ARG, "U-Net of GVSL: width %d must be a multiple of 8, its groups have 8 channels", k->width);
    return 0;
}
static int bmvpi_unet3d_gvsl_infer(const bmvp_ckpt *f, const char *group, bmvp_net_config *cfg)
{
    const char *stem = bmvp_ckpt_find(f, group, "unet.inc.double_conv.0.weight") >= 0 ? "unet.inc.double_conv.0.weight"
                                                                                      : "inc.double_conv.0.weight";
    cfg->width = bmvpi_infer_dim(f, group, stem, 0);
    if (cfg->width < 1) return 0;
    cfg->in_channels = bmvpi_infer_dim(f, group, stem, 1);
    bmvpi_infer_task(f, group, "out_conv.weight", cfg);
    return 1;
}

static const bmvp_net_kind bmvpi_unet3d_gvsl_kind = {
    "unet3d_gvsl", "U-Net of GVSL",
    "width",
    NULL,                         /* unseen: nothing */
    sizeof(bmvpi_unet3d_gvsl),
    bmvpi_unet3d_gvsl_stride,
    NULL,                         /* only: any size */
    bmvpi_unet3d_mg_channels,
    bmvpi_unet3d_gvsl_check,
    bmvpi_unet3d_gvsl_make,
    NULL,                         /* destroy: nothing more */
    bmvpi_unet3d_gvsl_encode,
    NULL,                         /* reconstruct: the method's heads do */
    bmvpi_unet3d_gvsl_segment,
    NULL,                         /* classify: as all */
    bmvpi_unet3d_gvsl_infer,
    0,                            /* deep */
    1e-5,                         /* weight_decay */
    { "inc. down unet.inc. unet.down", "inc.double_conv.0. unet.inc.double_conv.0.", "out_conv.", NULL },
    { "unet.", "" },
    NULL                          /* tokens */
};

/* >>swin_unetr: Swin-UNETR of Hatamizadeh et al., BrainLes 2021, as MONAI writes it -----------------------------------

   Four stages of attention within windows of 7^3 tokens (Liu et al., ICCV 2021): in odd blocks the windows are shifted
   by half their side, so that tokens meet that were apart; behind each stage 2^3 tokens are merged to one of twice the
   width. Maps of all stages go through residual blocks to a decoder of residual blocks.
   What a reimplementation gets wrong: a map is filled up to whole windows by zeros behind its norm, and those take part
   in attention (q, k and v are then the bias alone) without a mask; an axis of at most a window's length is one window
   of that length and is not shifted; and a smaller window takes the first rows and columns of the whole window's index
   of biases, as if token i of it were token i of that one, so that the order in which tokens are counted matters: x
   slowest, as in MONAI, though here they lie with z slowest.
   Options: feature_size, window_size, num_heads (of the first stage; each has twice as many as the one before), depth
   (blocks of the stages; of all 0: 2), use_v2 (a residual block before each stage), new_merging (order of the octants:
   0 as MONAI up to 1.4 has it, which takes two of them twice and leaves two out; 1 as from 1.5; 2 as its "mergingv2",
   z fastest). No tensor of a file shows the last.
   dae 1: as DAE has it (Valanarasu et al., MIDL 2024): two convolutions of 3^3 with instance norms that learn, the
   first of stride 2, are the patch embedding, and the decoder reads maps without a norm of their own.
   encoders 1: the encoder alone (BMVP_TASK_ENCODE) has encoder1 to 10 beside the transformer. */
enum { BMVPI_SWIN_BLOCKS = 32, BMVPI_SWIN_MAPS = 11, BMVPI_SWIN_SEEN = 17 };
typedef struct bmvpi_swin_block {
    bmvp_attention_block b;
    bmvp_tensor *table;
} bmvpi_swin_block;
typedef struct bmvpi_swin {
    bmvp_layer embed, embed2, embed_norm[2]; /* the last three: DAE's */
    bmvpi_swin_block block[4][BMVPI_SWIN_BLOCKS];
    bmvp_layer reduction[4], merged[4]; /* of merging: linear and norm */
    bmvpi_res_block before[4];          /* v2 */
    bmvpi_res_block encoder[5];         /* encoder1, 2, 3, 4, 10 */
    bmvpi_up_block decoder[5];          /* 5, 4, 3, 2, 1 */
    bmvp_layer out;
} bmvpi_swin;

static int bmvpi_swin_feature(const bmvp_net_config *k) { return bmvp_net_option_of(k, "feature_size", 48); }
static int bmvpi_swin_window(const bmvp_net_config *k) { return bmvp_net_option_of(k, "window_size", 7); }
static int bmvpi_swin_heads(const bmvp_net_config *k) { return bmvp_net_option_of(k, "num_heads", 3); }
static int bmvpi_swin_dae(const bmvp_net_config *k) { return bmvp_net_option_of(k, "dae", 0); }
/* 1: without a decoder, but with encoder1 to 10. */
static int bmvpi_swin_encoders(const bmvp_net_config *k)
{
    return k->task == BMVP_TASK_ENCODE && bmvp_net_option_of(k, "encoders", 0);
}
static int bmvpi_swin_depth(const bmvp_net_config *k, int stage)
{
    return k->depth[0] || k->depth[1] || k->depth[2] || k->depth[3] ? k->depth[stage] : 2;
}

/* A linear layer as MONAI's SwinTransformer starts it */
static bmvp_layer bmvpi_swin_linear(bmvp_module *m, const char *name, int64_t in, int64_t out, int bias)
{
    bmvp_layer l = bmvp_make_linear(m, name, in, out, bias);
    bmvp_init_as(m, l.w, BMVP_INIT_TRUNC_NORMAL, 0.02);
    bmvp_init_as(m, l.b, BMVP_INIT_ZERO, 0);
    return l;
}
static bmvpi_swin_block bmvpi_swin_make_block(bmvp_module *m, int64_t n, int heads, int window)
{
    const int64_t side = 2 * window - 1, tokens = (int64_t)window * window * window;
    int64_t table[2], index[2];
    bmvpi_swin_block s;
    memset(&s, 0, sizeof s);
    table[0] = side * side * side, table[1] = heads, index[0] = index[1] = tokens;
    s.b.norm1 = bmvp_make_layernorm(m, "norm1", n);
    s.table = bmvp_make_tensor(m, "attn.relative_position_bias_table", 2, table);
    bmvp_init_as(m, s.table, BMVP_INIT_TRUNC_NORMAL, 0.02);
    m->carried = 1; /* attention goes by the formula; MONAI wants the index in the file */
    bmvp_init_as(m, bmvp_make_tensor(m, "attn.relative_position_index", 2, index), BMVP_INIT_WINDOW_INDEX, window);
    m->carried = 0;
    s.b.qkv = bmvpi_swin_linear(m, "attn.qkv", n, 3 * n, 1);
    s.b.proj = bmvpi_swin_linear(m, "attn.proj", n, n, 1);
    s.b.norm2 = bmvp_make_layernorm(m, "norm2", n);
    s.b.mlp.fc1 = bmvpi_swin_linear(m, "mlp.linear1", n, 4 * n, 1);
    s.b.mlp.fc2 = bmvpi_swin_linear(m, "mlp.linear2", 4 * n, n, 1);
    s.b.heads = heads;
    return s;
}

static void bmvpi_swin_make_decoder(bmvp_net *net)
{
    static const int place[5] = { 1, 2, 3, 4, 10 }, width[5] = { 1, 1, 2, 4, 16 };
    const int64_t f = bmvpi_swin_feature(&net->cfg);
    const int outputs = net->cfg.task == BMVP_TASK_SEGMENT ? net->cfg.outputs : 1;
    bmvpi_swin *u = (bmvpi_swin *)net->layers;
    bmvp_module *m = &net->m;
    char name[24];
    int i;
    for (i = 0; i < 5; ++i) {
        snprintf(name, sizeof name, "encoder%d.layer", place[i]);
        u->encoder[i] = bmvpi_make_res_block(m, name, i ? width[i] * f : net->cfg.in_channels, width[i] * f);
    }
    if (bmvpi_swin_encoders(&net->cfg)) return;
    for (i = 0; i < 5; ++i) {
        snprintf(name, sizeof name, "decoder%d", 5 - i);
        u->decoder[i] = bmvpi_make_up_block(m, name, (16 * f) >> i, i < 4 ? (8 * f) >> i : f);
    }
    u->out = bmvp_make_conv(m, "out.conv.conv", f, outputs, 1, 1, 0, 1);
}
static void bmvpi_swin_make_embed(bmvp_module *m, bmvpi_swin *u, int64_t in, int64_t f, int dae)
{
    bmvp_enter(m, "patch_embed");
    if (!dae) u->embed = bmvp_make_conv(m, "proj", in, f, 2, 2, 0, 1);
    else {
        u->embed = bmvp_make_conv(m, "proj.conv1.conv", in, f, 3, 2, 1, 0);
        u->embed2 = bmvp_make_conv(m, "proj.conv2.conv", f, f, 3, 1, 1, 0);
        u->embed_norm[0] = bmvp_make_instancenorm(m, "proj.norm1", f, 1);
        u->embed_norm[1] = bmvp_make_instancenorm(m, "proj.norm2", f, 1);
    }
    bmvp_leave(m);
}
static void bmvpi_swin_make(bmvp_net *net)
{
    const bmvp_net_config *k = &net->cfg;
    const int64_t f = bmvpi_swin_feature(k);
    bmvpi_swin *u = (bmvpi_swin *)net->layers;
    bmvp_module *m = &net->m;
    int s, i;
    bmvp_enter(m, "swinViT");
    bmvpi_swin_make_embed(m, u, k->in_channels, f, bmvpi_swin_dae(k));
    for (s = 0; s < 4; ++s) {
        bmvp_enter(m, "layers%d.0", s + 1);
        for (i = 0; i < bmvpi_swin_depth(k, s) && !bmvp_failed(m->c); ++i) {
            bmvp_enter(m, "blocks.%d", i);
            u->block[s][i] = bmvpi_swin_make_block(m, f << s, bmvpi_swin_heads(k) << s, bmvpi_swin_window(k));
            bmvp_leave(m);
        }
        u->reduction[s] = bmvpi_swin_linear(m, "downsample.reduction", (8 * f) << s, (2 * f) << s, 0);
        u->merged[s] = bmvp_make_layernorm(m, "downsample.norm", (8 * f) << s);
        bmvp_leave(m);
    }
    for (s = 0; s < 4 && bmvp_net_option_of(k, "use_v2", 0); ++s) {
        bmvp_enter(m, "layers%dc.0", s + 1);
        u->before[s] = bmvpi_make_res_block(m, "layer", f << s, f << s);
        bmvp_leave(m);
    }
    bmvp_leave(m);
    if (bmvpi_net_decodes(k) || bmvpi_swin_encoders(k)) bmvpi_swin_make_decoder(net);
}

/* How a map is cut: along z, y and x its length, that of whole windows, the window's, the shift */
typedef struct bmvpi_swin_grid { int64_t n[3], whole[3], w[3], shift[3], tokens, windows; } bmvpi_swin_grid;
static bmvpi_swin_grid bmvpi_swin_cut(const bmvp_tensor *x, int window, int shifted)
{
    bmvpi_swin_grid g;
    int a;
    for (g.tokens = g.windows = 1, a = 0; a < 3; ++a) {
        g.n[a] = x->dim[1 + a];
        g.w[a] = bmvpi_min(window, g.n[a]);
        g.whole[a] = bmvpi_ceil_div(g.n[a], g.w[a]) * g.w[a];
        g.shift[a] = shifted && g.n[a] > window ? window / 2 : 0;
        g.tokens *= g.w[a];
        g.windows *= g.whole[a] / g.w[a];
    }
    return g;
}
/* Region of a place along axis a of the shifted grid: what was there before lies apart in the image. */
static int bmvpi_swin_region(const bmvpi_swin_grid *g, int a, int64_t at)
{
    if (!g->shift[a]) return 0;
    return at < g->whole[a] - g->w[a] ? 0 : at < g->whole[a] - g->shift[a] ? 1 : 2;
}
/* place: of each token in the whole window's counting; region, if there is a shift, of each token of each window */
static void bmvpi_swin_numbers(const bmvpi_swin_grid *g, int window, int32_t *place, int32_t *region)
{
    int64_t t, n, at[3], first[3];
    int a;
    for (t = 0; t < g->tokens; ++t) {
        at[2] = t % g->w[2], at[1] = t / g->w[2] % g->w[1], at[0] = t / g->w[2] / g->w[1];
        place[t] = (int32_t)bmvpi_window_place(window, (at[2] * g->w[1] + at[1]) * g->w[0] + at[0]);
        for (n = 0; region && n < g->windows; ++n) {
            const int64_t across = g->whole[2] / g->w[2], down = g->whole[1] / g->w[1];
            int32_t r = 0;
            first[2] = n % across * g->w[2], first[1] = n / across % down * g->w[1];
            first[0] = n / across / down * g->w[0];
            for (a = 0; a < 3; ++a) r = 3 * r + bmvpi_swin_region(g, a, first[a] + at[a]);
            region[n * g->tokens + t] = r;
        }
    }
}
/* A map of whole windows as (N windows, tokens, C), or back. What lies between is dropped: only moves. */
static bmvp_tensor *bmvpi_swin_windows(bmvp_ctx *c, const bmvpi_swin_grid *g, bmvp_tensor *x, int64_t samples, int back)
{
    static const int apart[8] = { 0, 1, 3, 5, 2, 4, 6, 7 }, together[8] = { 0, 1, 4, 2, 5, 3, 6, 7 };
    int64_t dim[8], n;
    bmvp_tensor *cut, *y;
    int a;
    if (!x) return NULL;
    n = x->dim[x->rank - 1];
    dim[0] = samples, dim[7] = n;
    for (a = 0; a < 3; ++a) {
        dim[back ? 1 + a : 1 + 2 * a] = g->whole[a] / g->w[a];
        dim[back ? 4 + a : 2 + 2 * a] = g->w[a];
    }
    cut = bmvp_reshape(c, x, 8, dim);
    y = bmvp_permute(c, cut, back ? together : apart);
    bmvp_drop(c, cut);
    dim[0] = back ? samples : samples * g->windows, dim[1] = back ? g->whole[0] : g->tokens;
    dim[2] = back ? g->whole[1] : n, dim[3] = g->whole[2], dim[4] = n;
    x = bmvp_reshape(c, y, back ? 5 : 3, dim);
    bmvp_drop(c, y);
    return x;
}
/* The norm's map x, filled up and shifted, as windows */
static bmvp_tensor *bmvpi_swin_apart(bmvp_ctx *c, const bmvpi_swin_grid *g, bmvp_tensor *x)
{
    int64_t low[5] = { 0 }, high[5] = { 0 }, shift[5] = { 0 }, more = 0, turned = 0;
    bmvp_tensor *y = x;
    int a;
    if (!x) return NULL;
    for (a = 0; a < 3; ++a) {
        more += high[1 + a] = g->whole[a] - g->n[a];
        turned += g->shift[a];
        shift[1 + a] = -g->shift[a];
    }
    if (more) y = bmvp_pad(c, y, low, high);
    if (y != x) bmvp_drop(c, x);
    x = y;
    if (turned) y = bmvp_roll(c, y, shift);
    if (y != x) bmvp_drop(c, x);
    x = bmvpi_swin_windows(c, g, y, y ? y->dim[0] : 0, 0);
    bmvp_drop(c, y);
    return x;
}
static bmvp_tensor *bmvpi_swin_together(bmvp_ctx *c, const bmvpi_swin_grid *g, bmvp_tensor *x, int64_t samples)
{
    int64_t shift[5] = { 0 }, turned = 0;
    bmvp_tensor *y = bmvpi_swin_windows(c, g, x, samples, 1), *from;
    int a;
    for (a = 0; a < 3; ++a) turned += shift[1 + a] = g->shift[a];
    from = y;
    if (turned) y = bmvp_roll(c, y, shift);
    if (y != from) bmvp_drop(c, from);
    for (a = 0; a < 3; ++a) {
        from = y;
        if (g->whole[a] > g->n[a]) y = bmvp_slice(c, y, 1 + a, 0, g->n[a]);
        if (y != from) bmvp_drop(c, from);
    }
    return y;
}

/* x += proj(attention of windows(norm1(x))); x += mlp(norm2(x)). The moves and norms are dropped: cheaper to do again
   than to keep. */
static bmvp_tensor *bmvpi_swin_run_block(bmvp_module *m, const bmvpi_swin_block *s, int window, int shifted,
                                         bmvp_tensor *x)
{
    bmvp_ctx *c = m->c;
    const int64_t scope = bmvp_scope_begin(c);
    bmvpi_swin_grid g;
    bmvp_tensor *n, *h;
    int32_t *place, *region;
    double scale;
    if (!x || bmvp_failed(c)) return NULL;
    g = bmvpi_swin_cut(x, window, shifted);
    shifted = g.shift[0] || g.shift[1] || g.shift[2];
    scale = 1.0 / sqrt((double)(x->dim[4] / s->b.heads));
    place = (int32_t *)bmvpi_alloc(c, (1 + (shifted ? g.windows : 0)) * g.tokens * (int64_t)sizeof *place);
    if (!place) return NULL;
    region = shifted ? place + g.tokens : NULL;
    bmvpi_swin_numbers(&g, window, place, region);
    n = bmvpi_swin_apart(c, &g, bmvp_run(m, &s->b.norm1, x));
    h = bmvp_run(m, &s->b.qkv, n);
    bmvp_drop(c, n);
    h = bmvp_window_attention(c, h, s->b.heads, scale, s->table, place, region, g.windows);
    bmvpi_free(c, place);
    h = bmvpi_swin_together(c, &g, h, x->dim[0]);
    x = bmvp_linear_residual(c, h, s->b.proj.w, s->b.proj.b, x);
    bmvp_drop(c, h);
    n = bmvp_run(m, &s->b.norm2, x);
    x = bmvp_run_mlp(m, &s->b.mlp, n, x);
    bmvp_drop(c, n);
    return bmvp_block_end(m, scope, x);
}

/* 8 octants of 2^3 tokens one after the other, a norm, a linear layer. The lists have bit 0 for x, 1 for y, 2 for z, as
   space_to_depth has them. */
static bmvp_tensor *bmvpi_swin_merge(bmvp_module *m, const bmvp_layer *norm, const bmvp_layer *reduction,
                                     int order, bmvp_tensor *x)
{
    static const int octant[3][8] = { { 0, 1, 2, 4, 5, 2, 4, 7 },
                                      { 0, 1, 2, 4, 3, 5, 6, 7 },
                                      { 0, 4, 2, 6, 1, 5, 3, 7 } };
    bmvp_ctx *c = m->c;
    const int64_t scope = bmvp_scope_begin(c);
    bmvp_tensor *part[8], *s, *y;
    int64_t n;
    int i;
    if (!x || bmvp_failed(c)) return NULL;
    n = x->dim[4];
    s = bmvp_space_to_depth(c, x, 2);
    for (i = 0; i < 8; ++i) part[i] = bmvp_slice(c, s, 4, octant[order][i] * n, n);
    y = bmvp_concat(c, 8, part, 4);
    bmvp_drop(c, s);
    for (i = 0; i < 8; ++i) bmvp_drop(c, part[i]);
    s = bmvp_run(m, norm, y);
    bmvp_drop(c, y);
    y = bmvp_run(m, reduction, s);
    bmvp_drop(c, s);
    return bmvp_block_end(m, scope, y);
}

/* LayerNorm over channels without parameters: proj_out */
static bmvp_tensor *bmvpi_swin_bare_norm(bmvp_ctx *c, bmvp_tensor *x)
{
    bmvp_tensor *one, *zero;
    if (!x) return NULL;
    one = bmvp_input(c, 1, &x->dim[4], NULL);
    zero = bmvp_input(c, 1, &x->dim[4], NULL);
    bmvp_fill(c, one, 1);
    bmvp_fill(c, zero, 0);
    return bmvp_layernorm(c, x, one, zero, 1e-5);
}

/* The patch embedding; DAE's norms and leaky ReLUs are dropped. */
static bmvp_tensor *bmvpi_swin_embed(bmvp_module *m, const bmvpi_swin *u, bmvp_tensor *x)
{
    const int64_t scope = bmvp_scope_begin(m->c);
    bmvp_tensor *n, *y = bmvp_run(m, &u->embed, x);
    if (!u->embed2.run) return y;
    n = bmvp_run(m, &u->embed_norm[0], y);
    y = bmvp_leaky_relu(m->c, n, 0.01);
    bmvp_drop(m->c, n);
    n = y;
    y = bmvp_run(m, &u->embed2, n);
    bmvp_drop(m->c, n);
    n = bmvp_run(m, &u->embed_norm[1], y);
    y = bmvp_leaky_relu(m->c, n, 0.01);
    bmvp_drop(m->c, n);
    return bmvp_block_end(m, scope, y);
}

/* The maps: f->map[0..4], normalised but for DAE's, at 1/2 to 1/32. seen, or NULL: what the embedding ([16]) and in
   each stage the first two blocks, merging and v2's residual block gave ([4 stage + 0 .. 3]). */
static bmvp_features bmvpi_swin_maps(bmvp_net *net, bmvp_tensor *x, bmvp_tensor *seen[BMVPI_SWIN_SEEN])
{
    const bmvpi_swin *u = (const bmvpi_swin *)net->layers;
    const bmvp_net_config *k = &net->cfg;
    bmvp_module *m = &net->m;
    bmvp_features f;
    int64_t scope;
    int s, i;
    memset(&f, 0, sizeof f);
    f.skip[0] = x;
    x = bmvpi_swin_embed(m, u, x);
    if (seen) seen[16] = x;
    x = bmvpi_net_tokens(net, x);
    f.map[0] = bmvpi_swin_dae(k) ? x : bmvpi_swin_bare_norm(m->c, x);
    for (s = 0; s < 4; ++s) {
        if (u->before[s].conv1.run) {
            scope = bmvp_scope_begin(m->c);
            x = bmvp_block_end(m, scope, bmvpi_run_res_block(m, &u->before[s], x, 0));
            if (seen) seen[4 * s + 3] = x;
        }
        for (i = 0; i < bmvpi_swin_depth(k, s); ++i) {
            x = bmvpi_swin_run_block(m, &u->block[s][i], bmvpi_swin_window(k), i % 2, x);
            if (seen && i < 2) seen[4 * s + i] = x;
        }
        x = bmvpi_swin_merge(m, &u->merged[s], &u->reduction[s], bmvp_net_option_of(k, "new_merging", 0), x);
        if (seen) seen[4 * s + 2] = x;
        f.map[1 + s] = bmvpi_swin_dae(k) ? x : bmvpi_swin_bare_norm(m->c, x);
    }
    f.last = f.map[4];
    return f;
}
/* What encoder1, 2, 3, 4 or 10 (i 0 to 4) makes of the image or a map */
static bmvp_tensor *bmvpi_swin_skip(bmvp_net *net, const bmvp_features *f, int i)
{
    static const int from[5] = { 0, 0, 1, 2, 4 };
    const int64_t scope = bmvp_scope_begin(net->m.c);
    return bmvp_block_end(&net->m, scope,
                          bmvpi_run_res_block(&net->m, &((const bmvpi_swin *)net->layers)->encoder[i],
                                              i ? f->map[from[i]] : f->skip[0], 0));
}
static bmvp_features bmvpi_swin_encode(bmvp_net *net, bmvp_tensor *x)
{
    bmvp_features f = bmvpi_swin_maps(net, x, NULL);
    int i;
    for (i = 0; i < 5 && f.last && bmvpi_swin_encoders(&net->cfg); ++i) f.skip[1 + i] = bmvpi_swin_skip(net, &f, i);
    return f;
}

/* map: what encoder1, 2, 3, 4 ([0..3], dropped unless `keep`) and 10 ([4]) and decoder5 to 1 ([5..9]) give, and the
   logits ([10]) */
static void bmvpi_swin_decode(bmvp_net *net, const bmvp_features *f, bmvp_tensor *map[BMVPI_SWIN_MAPS], int keep)
{
    const bmvpi_swin *u = (const bmvpi_swin *)net->layers;
    bmvp_module *m = &net->m;
    bmvp_tensor *y;
    int i;
    memset(map, 0, BMVPI_SWIN_MAPS * sizeof *map);
    if (f->last->numel / f->last->dim[0] == f->last->dim[4]) {
        bmvp_fail(m->c, BMVP_E_SHAPE,
                  "%s: the input is one voxel at 1/32, of which there are no statistics: a side must have 64 voxels or "
                  "more", net->cfg.name);
        return;
    }
    for (i = 0; i < 5; ++i) {
        map[i] = bmvpi_swin_skip(net, f, i);
        if (keep) (void)bmvp_keep(map[i]);
    }
    for (y = map[4], i = 0; i < 5; ++i) {
        bmvp_tensor *skip = i ? map[4 - i] : f->map[3];
        map[5 + i] = bmvpi_run_up_block(m, &u->decoder[i], y, skip, i > 0);
        bmvpi_spent(m, y);
        y = map[5 + i];
    }
    map[10] = bmvp_run(m, &u->out, y);
}
static bmvp_tensor *bmvpi_swin_reconstruct(bmvp_net *net, const bmvp_features *f)
{
    bmvp_tensor *map[BMVPI_SWIN_MAPS];
    bmvpi_swin_decode(net, f, map, 0);
    return map[10];
}
static bmvp_logits bmvpi_swin_segment(bmvp_net *net, bmvp_tensor *x, const bmvp_features *f, int deep)
{
    bmvp_logits l;
    (void)x;
    (void)deep;
    memset(&l, 0, sizeof l);
    l.full = bmvpi_swin_reconstruct(net, f);
    return l;
}

static int64_t bmvpi_swin_stride(const bmvp_net_config *k) { (void)k; return 32; }
static int64_t bmvpi_swin_channels(const bmvp_net_config *k) { return 16 * (int64_t)bmvpi_swin_feature(k); }
static int bmvpi_swin_check(bmvp_ctx *c, const bmvp_net_config *k)
{
    const int f = bmvpi_swin_feature(k), w = bmvpi_swin_window(k), heads = bmvpi_swin_heads(k);
    const int encoders = bmvp_net_option_of(k, "encoders", 0), dae = bmvpi_swin_dae(k),
              merging = bmvp_net_option_of(k, "new_merging", 0);
    int i, ok = f >= 1 && f <= 4096 && heads >= 1 && f % heads == 0 && w >= 2 && w <= 16;
    if (encoders < 0 || encoders > 1 || dae < 0 || dae > 1)
        return bmvp_fail(c, BMVP_E_ARG, "Swin-UNETR: encoders %d and dae %d are 0 or 1", encoders, dae) != NULL;
    if (merging < 0 || merging > 2)
        return bmvp_fail(c, BMVP_E_ARG, "Swin-UNETR: new_merging %d is 0, 1 or 2", merging) != NULL;
    for (i = 0; i < 4; ++i) ok = ok && bmvpi_swin_depth(k, i) >= 1 && bmvpi_swin_depth(k, i) <= BMVPI_SWIN_BLOCKS;
    if (!ok)
        bmvp_fail(c, BMVP_E_ARG,
                  "Swin-UNETR: feature_size %d, num_heads %d, window_size %d, depth %d,%d,%d,%d: the heads must divide "
                  "the features, windows are 2 to 16 long, depths 1 to %d",
                  f, heads, w, k->depth[0], k->depth[1], k->depth[2], k->depth[3], BMVPI_SWIN_BLOCKS);
    return ok;
}

/* No tensor shows the order of octants: it is taken to be that of MONAI up to 1.4, from which the public checkpoints
   are. */
static int bmvpi_swin_infer(const bmvp_ckpt *f, const char *group, bmvp_net_config *cfg)
{
    static const char first[] = "swinViT.layers1.0.blocks.0.attn.relative_position_bias_table";
    const int dae = bmvp_ckpt_find(f, group, "swinViT.patch_embed.proj.conv1.conv.weight") >= 0;
    const char *const embed =
        dae ? "swinViT.patch_embed.proj.conv1.conv.weight" : "swinViT.patch_embed.proj.weight";
    const int feature = bmvpi_infer_dim(f, group, embed, 0),
              rows = bmvpi_infer_dim(f, group, first, 0), heads = bmvpi_infer_dim(f, group, first, 1),
              v2 = bmvp_ckpt_find(f, group, "swinViT.layers1c.0.layer.conv1.conv.weight") >= 0;
    char name[80], text[120];
    int s, w = 1;
    while ((2 * w - 1) * (2 * w - 1) * (2 * w - 1) < rows) ++w;
    if (feature < 1 || heads < 1 || w < 2) return 0;
    cfg->in_channels = bmvpi_infer_dim(f, group, embed, 1);
    for (s = 0; s < 4; ++s) {
        do {
            snprintf(name, sizeof name, "swinViT.layers%d.0.blocks.%d.norm1.weight", s + 1, cfg->depth[s]);
        } while (bmvp_ckpt_find(f, group, name) >= 0 && ++cfg->depth[s] < BMVPI_SWIN_BLOCKS);
        if (!cfg->depth[s]) cfg->depth[s] = 1; /* loading names what is missing */
    }
    snprintf(text, sizeof text, "feature_size=%d window_size=%d num_heads=%d use_v2=%d new_merging=0", feature, w,
             heads, v2);
    (void)bmvp_net_config_set(cfg, text, NULL);
    if (dae) (void)bmvp_net_config_set(cfg, "dae=1", NULL);
    bmvpi_infer_task(f, group, "out.conv.conv.weight", cfg);
    return 1;
}

static const bmvp_net_kind bmvpi_swin_kind = {
    "swin_unetr", "Swin-UNETR",
    "feature_size window_size num_heads depth use_v2 new_merging dae encoders",
    "new_merging",
    sizeof(bmvpi_swin),
    bmvpi_swin_stride,
    NULL,                         /* only: any size */
    bmvpi_swin_channels,
    bmvpi_swin_check,
    bmvpi_swin_make,
    NULL,                         /* destroy: nothing more */
    bmvpi_swin_encode,
    bmvpi_swin_reconstruct,
    bmvpi_swin_segment,
    NULL,                         /* classify: as all */
    bmvpi_swin_infer,
    0,                            /* deep */
    1e-5,                         /* weight_decay */
    { "swinViT.",
      "swinViT.patch_embed.proj.weight swinViT.patch_embed.proj.bias swinViT.patch_embed.proj.conv1.",
      "out.conv.conv.", "encoder1.layer." },
    { NULL, NULL },
    NULL                          /* tokens */
};

/* >>network impl --------------------------------------------------------------------------------------------------- */

static const bmvp_net_kind *const bmvpi_net_kinds[] = { &bmvpi_uniformer_kind, &bmvpi_unet3d_kind, &bmvpi_unetr_kind,
                                                     &bmvpi_unet3d_mg_kind, &bmvpi_unet3d_gvsl_kind,
                                                     &bmvpi_swin_kind };
enum { BMVPI_NET_KINDS = (int)(sizeof bmvpi_net_kinds / sizeof *bmvpi_net_kinds) };

#define BMVPI_NET_PRESETS(X) /* kind, name, fields */ \
    X("uniformer", "uniformer_small", "dim=64,128,320,512 depth=3,4,8,3 head_dim=64 mlp_ratio=4") \
    X("uniformer", "uniformer_base", "dim=64,128,320,512 depth=5,8,20,7 head_dim=64 mlp_ratio=4") \
    X("uniformer", "uniformer_tiny", "dim=16,32,64,128 depth=1,1,2,1 head_dim=16 mlp_ratio=4") \
    X("unet3d", "unet3d", "width=32 groups=8") \
    X("unet3d", "unet3d_m3ae", "width=16 groups=8") \
    X("unet3d", "unet3d_tiny", "width=8 groups=8") \
    X("unetr", "unetr", "img_size=96 feature_size=16 hidden_size=768 mlp_dim=3072 num_heads=12 perceptron=0") \
    X("unetr", "unetr_tiny", "img_size=32 feature_size=4 hidden_size=48 mlp_dim=96 num_heads=3 perceptron=0") \
    X("unet3d_mg", "unet3d_mg", "width=32") \
    X("unet3d_mg", "unet3d_mg_tiny", "width=4") \
    X("unet3d_gvsl", "unet3d_gvsl", "width=32") \
    X("unet3d_gvsl", "unet3d_gvsl_tiny", "width=8") \
    X("swin_unetr", "swin_unetr", "depth=2,2,2,2 feature_size=48 window_size=7 num_heads=3 use_v2=0 new_merging=0") \
    X("swin_unetr", "swin_unetr_tiny", "depth=2,2,2,2 feature_size=12 window_size=7 num_heads=3 use_v2=0 new_merging=0")
static const struct { const char *kind, *name, *fields; } bmvpi_net_preset[] = {
#define BMVP_X(kind, name, fields) { kind, name, fields },
    BMVPI_NET_PRESETS(BMVP_X)
#undef BMVP_X
};
enum { BMVPI_NET_PRESET_COUNT = (int)(sizeof bmvpi_net_preset / sizeof *bmvpi_net_preset) };

/* The fields that are numbers, for presets, files and comparisons */
static const struct { const char *name; size_t at; int n; } bmvpi_net_field[] = {
#define BMVPI_FIELD(name, n) { #name, offsetof(bmvp_net_config, name), n }
    BMVPI_FIELD(in_channels, 1),     BMVPI_FIELD(dim, 4),           BMVPI_FIELD(depth, 4),
    BMVPI_FIELD(head_dim, 1),        BMVPI_FIELD(mlp_ratio, 1),     BMVPI_FIELD(width, 1),
    BMVPI_FIELD(groups, 1),          BMVPI_FIELD(plain_decoder, 1), BMVPI_FIELD(outputs, 1),
    BMVPI_FIELD(deep_supervision, 1)
#undef BMVPI_FIELD
};
enum { BMVPI_NET_FIELDS = (int)(sizeof bmvpi_net_field / sizeof *bmvpi_net_field) };

/* The numbers of field i of cfg */
static int *bmvpi_net_numbers(bmvp_net_config *cfg, int i)
{
    return (int *)(void *)((char *)cfg + bmvpi_net_field[i].at);
}

/* Is the n characters at `word` one of the words of `list`? */
static int bmvpi_word_in(const char *list, const char *word, size_t n)
{
    for (; list && *list; list += strcspn(list, " "), list += *list == ' ')
        if (strcspn(list, " ") == n && memcmp(list, word, n) == 0) return 1;
    return 0;
}

/* Room for option `name` (n characters), its own or an empty one; NULL: all are taken, or the name is too long. */
static bmvp_net_option *bmvpi_net_option_room(bmvp_net_config *cfg, const char *name, size_t n)
{
    int i;
    for (i = 0; i < BMVP_NET_OPTIONS && n > 0 && n < sizeof cfg->option[0].name; ++i) {
        bmvp_net_option *o = &cfg->option[i];
        if (o->name[0] && (strlen(o->name) != n || memcmp(o->name, name, n) != 0)) continue;
        memcpy(o->name, name, n);
        o->name[n] = 0;
        return o;
    }
    return NULL;
}

BMVP_API bmvp_status bmvp_net_config_set(bmvp_net_config *cfg, const char *text, bmvp_error *err)
{
    while (*(text += strspn(text, " "))) {
        const size_t n = strcspn(text, "= ");
        bmvp_net_option *o = NULL;
        char *end = NULL;
        int f, most = 1, got, *to;
        for (f = 0;
             f < BMVPI_NET_FIELDS && (strlen(bmvpi_net_field[f].name) != n || memcmp(bmvpi_net_field[f].name, text, n));
             ++f) {
        }
        if (f < BMVPI_NET_FIELDS) most = bmvpi_net_field[f].n;
        else o = bmvpi_net_option_room(cfg, text, n);
        to = f < BMVPI_NET_FIELDS ? bmvpi_net_numbers(cfg, f) : o ? &o->value : NULL;
        for (got = 0; to && got < most && text[n] == '='; ++got) {
            const char *at = got ? end + 1 : text + n + 1;
            const long v = strtol(at, &end, 10);
            if (end == at || v < INT_MIN || v > INT_MAX) break;
            to[got] = (int)v;
            if (*end != ',') {
                ++got;
                break;
            }
        }
        if (got != most || (*end && *end != ' '))
            return bmvp_error_set(err, BMVP_E_ARG, "network field '%.*s': there should be %d whole number%s behind '='",
                                  (int)strcspn(text, " "), text, most, most > 1 ? "s with commas" : "");
        text = end;
    }
    return BMVP_OK;
}

BMVP_API int bmvp_net_option_of(const bmvp_net_config *cfg, const char *name, int otherwise)
{
    int i;
    for (i = 0; i < BMVP_NET_OPTIONS; ++i)
        if (cfg->option[i].name[0] && strcmp(cfg->option[i].name, name) == 0) return cfg->option[i].value;
    return otherwise;
}

BMVP_API bmvp_net_config bmvp_net_config_default(const char *kind)
{
    bmvp_net_config k;
    memset(&k, 0, sizeof k);
    snprintf(k.name, sizeof k.name, "custom");
    snprintf(k.kind, sizeof k.kind, "%s", kind);
    k.in_channels = 1;
    return k;
}

BMVP_API const char *bmvp_net_preset_names(void)
{
#define BMVP_X(kind, name, fields) " " name
    static const char names[] = BMVPI_NET_PRESETS(BMVP_X);
#undef BMVP_X
    return names + 1;
}

BMVP_API int bmvp_net_preset(const char *name, bmvp_net_config *cfg)
{
    int i;
    for (i = 0; i < BMVPI_NET_PRESET_COUNT; ++i)
        if (strcmp(bmvpi_net_preset[i].name, name) == 0) {
            *cfg = bmvp_net_config_default(bmvpi_net_preset[i].kind);
            snprintf(cfg->name, sizeof cfg->name, "%s", name);
            return bmvp_net_config_set(cfg, bmvpi_net_preset[i].fields, NULL) == BMVP_OK;
        }
    return 0;
}

BMVP_API const bmvp_net_kind *bmvp_net_kind_find(const bmvp_ctx *c, const char *name)
{
    int i;
    for (i = 0; i < BMVPI_NET_KINDS; ++i)
        if (strcmp(bmvpi_net_kinds[i]->name, name) == 0) return bmvpi_net_kinds[i];
    for (i = 0; c && c->cfg.networks && c->cfg.networks[i]; ++i)
        if (strcmp(c->cfg.networks[i]->name, name) == 0) return c->cfg.networks[i];
    return NULL;
}

static const char *bmvpi_net_title(const bmvp_net_kind *kind) { return kind->title ? kind->title : kind->name; }

/* 1: this network can be made. */
static int bmvpi_net_config_check(bmvp_ctx *c, const bmvp_net_kind *kind, const bmvp_net_config *k)
{
    static const char *const what[3] = { "pre-training", "segmentation", "classification" };
    const int task = (int)k->task, labelled = task == BMVP_TASK_SEGMENT || task == BMVP_TASK_CLASSIFY,
              has[3] = { 1, kind->segment != NULL, kind->classify || kind->channels };
    int i;
    if (task < 0 || task > BMVP_TASK_ENCODE || (labelled && !has[task]))
        return bmvp_fail(c, BMVP_E_ARG, "%s: the network has no %s", k->name, labelled ? what[task] : "such task") !=
               NULL;
    if (k->in_channels < 1 || k->in_channels > 1024)
        return bmvp_fail(c, BMVP_E_ARG, "%s: %d input channels, should be 1 to 1024", k->name, k->in_channels) != NULL;
    if (labelled && (k->outputs < 1 || k->outputs > 4096))
        return bmvp_fail(c, BMVP_E_ARG, "%s: a segmentation or classification network needs 1 to 4096 outputs, not %d",
                         k->name, k->outputs) != NULL;
    for (i = 0; i < BMVP_NET_OPTIONS; ++i)
        if (k->option[i].name[0] && !bmvpi_word_in(kind->fields, k->option[i].name, strlen(k->option[i].name)))
            return bmvp_fail(c, BMVP_E_ARG, "%s: there is no field '%s'; a %s has: %s", k->name, k->option[i].name,
                             bmvpi_net_title(kind), kind->fields ? kind->fields : "none") != NULL;
    return !kind->check || kind->check(c, k);
}

BMVP_API bmvp_net *bmvp_net_create(bmvp_ctx *c, const bmvp_net_config *cfg)
{
    const bmvp_net_kind *kind = bmvp_net_kind_find(c, cfg->kind);
    bmvp_net *net;
    if (bmvp_failed(c)) return NULL;
    if (!kind)
        return (bmvp_net *)bmvp_fail(c, BMVP_E_ARG,
                                     "%s: there is no network '%s'; a program gives its own by bmvp_config.networks",
                                     cfg->name, cfg->kind);
    if (!bmvpi_net_config_check(c, kind, cfg) || !(net = (bmvp_net *)bmvpi_zeros(c, sizeof *net))) return NULL;
    bmvp_module_begin(&net->m, c, &net->state);
    net->kind = kind;
    net->cfg = *cfg;
    net->layers = bmvpi_zeros(c, kind->size);
    if (net->layers) kind->make(net);
    if (net->m.level > 0 && !bmvp_failed(c))
        bmvp_fail(c, BMVP_E_STATE, "%s: bmvp_leave is missing after '%s'", kind->name, net->m.name);
    if (cfg->task == BMVP_TASK_CLASSIFY && !kind->classify && !bmvp_failed(c))
        net->head = bmvp_make_linear(&net->m, "head", kind->channels(cfg), cfg->outputs, 1);
    if (!bmvp_failed(c)) return net;
    bmvp_net_destroy(net);
    return NULL;
}

BMVP_API void bmvp_net_destroy(bmvp_net *net)
{
    if (!net) return;
    if (net->layers && net->kind->destroy) net->kind->destroy(net);
    bmvp_state_list_free(net->m.c, &net->state);
    bmvpi_free(net->m.c, net->layers);
    bmvpi_free(net->m.c, net);
}

BMVP_API const bmvp_net_config *bmvp_net_config_of(const bmvp_net *net) { return &net->cfg; }
BMVP_API bmvp_state_list *bmvp_net_state(bmvp_net *net) { return &net->state; }
BMVP_API void bmvp_net_set_recompute(bmvp_net *net, int on) { if (net) net->m.recompute = on != 0; }
BMVP_API void bmvp_net_on_tokens(bmvp_net *net, bmvp_tensor *(*fn)(bmvp_net *net, bmvp_tensor *tokens, void *user),
                                 void *user)
{
    if (!net) return;
    net->on_tokens = fn;
    net->on_tokens_user = user;
}
BMVP_API int64_t bmvp_net_stride(const bmvp_net *net) { return net->kind->stride(&net->cfg); }

BMVP_API int64_t bmvp_net_stride_of(const bmvp_ctx *c, const bmvp_net_config *cfg)
{
    const bmvp_net_kind *kind = bmvp_net_kind_find(c, cfg->kind);
    return kind ? kind->stride(cfg) : 0;
}
BMVP_API int64_t bmvp_net_channels_of(const bmvp_ctx *c, const bmvp_net_config *cfg)
{
    const bmvp_net_kind *kind = bmvp_net_kind_find(c, cfg->kind);
    return kind && kind->channels ? kind->channels(cfg) : 0;
}

BMVP_API int bmvp_net_only_size(const bmvp_ctx *c, const bmvp_net_config *cfg, int64_t size[3])
{
    const bmvp_net_kind *kind = bmvp_net_kind_find(c, cfg->kind);
    if (!kind || !kind->only) return 0;
    kind->only(cfg, size);
    return 1;
}

/* Does name begin with one of the prefixes, which stand between spaces? */
static int bmvpi_has_prefix(const char *prefixes, const char *name)
{
    size_t n;
    for (; prefixes && *prefixes; prefixes += n, prefixes += *prefixes == ' ') {
        n = strcspn(prefixes, " ");
        if (strncmp(name, prefixes, n) == 0) return 1;
    }
    return 0;
}
BMVP_API int bmvp_net_in_part(const bmvp_net *net, const char *name, bmvp_net_part part)
{
    return bmvpi_has_prefix(net->kind->part[part], name);
}

BMVP_API void bmvp_net_init(bmvp_net *net, uint64_t seed)
{
    int i;
    if (!net || bmvp_failed(net->m.c)) return;
    for (i = 0; i < net->state.n; ++i) {
        bmvp_state_init(net->m.c, &net->state.item[i], seed, (uint32_t)(1000 + i));
        net->state.item[i].counter = 0;
    }
}

static int bmvpi_net_input_check(bmvp_net *net, const bmvp_tensor *x)
{
    const int64_t s = bmvp_net_stride(net);
    char buf[128];
    if (x->rank == 5 && x->dim[4] == net->cfg.in_channels && x->dim[1] % s == 0 && x->dim[2] % s == 0 &&
        x->dim[3] % s == 0)
        return 1;
    bmvp_fail(net->m.c, BMVP_E_SHAPE, "%s: input %s must be (N, D, H, W, %d) with D, H and W multiples of %d",
              net->cfg.name, bmvpi_shape(x, buf, sizeof buf), net->cfg.in_channels, (int)s);
    return 0;
}

BMVP_API bmvp_features bmvp_net_encode(bmvp_net *net, bmvp_tensor *x, int training)
{
    bmvp_features none;
    memset(&none, 0, sizeof none);
    if (!net || !x || bmvp_failed(net->m.c) || !bmvpi_net_input_check(net, x)) return none;
    net->m.training = training != 0;
    return net->kind->encode(net, x);
}

/* 1: the network was made for this task, and there are features to work on. */
static int bmvpi_net_ready(bmvp_net *net, const bmvp_features *f, bmvp_net_task task, const char *message)
{
    if (!net || !f || !f->last || bmvp_failed(net->m.c)) return 0;
    if (net->cfg.task != task) bmvp_fail(net->m.c, BMVP_E_STATE, "%s: %s", net->cfg.name, message);
    return !bmvp_failed(net->m.c);
}

BMVP_API bmvp_tensor *bmvp_net_reconstruct(bmvp_net *net, const bmvp_features *f)
{
    if (!bmvpi_net_ready(net, f, BMVP_TASK_PRETRAIN, "only a pre-training network reconstructs")) return NULL;
    if (net->kind->reconstruct) return net->kind->reconstruct(net, f);
    return (bmvp_tensor *)bmvp_fail(net->m.c, BMVP_E_STATE, "%s: a %s has no decoder for pre-training", net->cfg.name,
                                    bmvpi_net_title(net->kind));
}

BMVP_API bmvp_logits bmvp_net_segment(bmvp_net *net, bmvp_tensor *x, const bmvp_features *f, int deep_supervision)
{
    bmvp_logits none;
    memset(&none, 0, sizeof none);
    if (!x || !bmvpi_net_ready(net, f, BMVP_TASK_SEGMENT, "not a segmentation network")) return none;
    return net->kind->segment(net, x, f, deep_supervision && net->cfg.deep_supervision && net->kind->deep);
}

BMVP_API bmvp_tensor *bmvp_net_classify(bmvp_net *net, const bmvp_features *f)
{
    if (!bmvpi_net_ready(net, f, BMVP_TASK_CLASSIFY, "not a classification network")) return NULL;
    if (net->kind->classify) return net->kind->classify(net, f);
    return bmvp_run(&net->m, &net->head, bmvp_global_pool(net->m.c, f->last));
}

BMVP_API int bmvp_net_needs_tokens(bmvp_ctx *c, const bmvp_net_config *cfg)
{
    const bmvp_net_kind *kind = bmvp_net_kind_find(c, cfg->kind);
    char names[160] = "";
    int i;
    if (bmvp_failed(c) || (kind && kind->tokens)) return !bmvp_failed(c);
    for (i = 0; i < BMVPI_NET_PRESET_COUNT; ++i)
        if (bmvp_net_kind_find(NULL, bmvpi_net_preset[i].kind)->tokens && strlen(names) < 120)
            snprintf(names + strlen(names), 32, " %s", bmvpi_net_preset[i].name);
    bmvp_fail(c, BMVP_E_ARG, "%s: a %s has no tokens to mask or replace; networks that have them:%s", cfg->name,
              kind ? bmvpi_net_title(kind) : cfg->kind, names);
    return 0;
}

BMVP_API bmvp_tensor *bmvp_net_embed(bmvp_net *net, bmvp_tensor *x, int training)
{
    if (!net || !x || !bmvp_net_needs_tokens(net->m.c, &net->cfg) || !bmvpi_net_input_check(net, x)) return NULL;
    net->m.training = training != 0;
    return net->kind->tokens->embed(net, x);
}

BMVP_API bmvp_tensor *bmvp_net_positions(bmvp_net *net)
{
    return net && bmvp_net_needs_tokens(net->m.c, &net->cfg) ? net->kind->tokens->positions(net) : NULL;
}

BMVP_API bmvp_tensor *bmvp_net_blocks(bmvp_net *net, bmvp_tensor *tokens, int norm)
{
    const int64_t c = net && net->kind->channels ? net->kind->channels(&net->cfg) : 0;
    char buf[128];
    if (!net || !tokens || !bmvp_net_needs_tokens(net->m.c, &net->cfg)) return NULL;
    if (tokens->rank >= 3 && tokens->dim[tokens->rank - 1] == c) return net->kind->tokens->blocks(net, tokens, norm);
    return (bmvp_tensor *)bmvp_fail(net->m.c, BMVP_E_SHAPE, "%s: tokens %s must be (N, ..., %d)", net->cfg.name,
                                    bmvpi_shape(tokens, buf, sizeof buf), (int)c);
}

/* >>optimizer impl ------------------------------------------------------------------------------------------------- */

struct bmvp_optim {
    bmvp_ctx *c;
    bmvp_optim_config cfg;
    bmvp_state_list *list;
    bmvp_tensor **moment; /* BMVP_MOMENTS for each entry */
    int64_t *count;       /* steps taken, one for each entry */
    uint64_t *moved;      /* as count: bit k, it was to move in the last clipped step but k */
    bmvp_update *update;  /* what the running step is made of, one for each entry that moves */
    bmvp_tensor *rule;    /* of bmvp_device.clipped_update */
    int resumes; /* bmvp_optim_resume was called: before the next step, as nothing can be read until the failure is
                    cleared */
};

BMVP_API bmvp_optim_config bmvp_optim_config_default(bmvp_optim_kind kind)
{
    bmvp_optim_config k;
    memset(&k, 0, sizeof k);
    k.kind = kind;
    k.beta1 = 0.9;
    k.beta2 = 0.999;
    k.eps = 1e-8;
    k.weight_decay = 1e-5;
    k.momentum = 0.9;
    return k;
}

BMVP_API bmvp_optim *bmvp_optim_create(bmvp_ctx *c, bmvp_state_list *list, const bmvp_optim_config *cfg)
{
    const int64_t rule = BMVP_RULE_NUMBERS;
    const int moments = cfg->kind == BMVP_SGD ? 1 : cfg->amsgrad ? 3 : 2;
    bmvp_optim *o;
    int i, w;
    if (bmvp_failed(c) || !list) return NULL;
    o = (bmvp_optim *)bmvpi_alloc(c, (int64_t)sizeof *o);
    if (!o) return NULL;
    memset(o, 0, sizeof *o);
    o->c = c;
    o->cfg = *cfg;
    o->list = list;
    o->moment = (bmvp_tensor **)bmvpi_alloc(c, BMVP_MOMENTS * list->n * (int64_t)sizeof *o->moment);
    o->count = (int64_t *)bmvpi_alloc(c, list->n * (int64_t)sizeof *o->count);
    o->moved = (uint64_t *)bmvpi_alloc(c, list->n * (int64_t)sizeof *o->moved);
    o->update = (bmvp_update *)bmvpi_alloc(c, list->n * (int64_t)sizeof *o->update);
    if (o->moved) memset(o->moved, 0, (size_t)list->n * sizeof *o->moved);
    if (o->moment) memset(o->moment, 0, BMVP_MOMENTS * (size_t)list->n * sizeof *o->moment);
    if (o->count) memset(o->count, 0, (size_t)list->n * sizeof *o->count);
    for (i = 0; i < list->n && !bmvp_failed(c); ++i) {
        bmvp_tensor *t = list->item[i].t;
        if (!list->item[i].trained || !bmvpi_lasting_grad(c, t)) continue;
        for (w = 0; w < moments; ++w) {
            o->moment[BMVP_MOMENTS * i + w] = bmvp_buffer(c, NULL, t->rank, t->dim);
            bmvp_fill(c, o->moment[BMVP_MOMENTS * i + w], 0.0f);
        }
    }
    o->rule = bmvp_buffer(c, NULL, 1, &rule);
    bmvp_fill(c, o->rule, 0.0f);
    if (!bmvp_failed(c)) return o;
    bmvp_optim_destroy(o);
    return NULL;
}

BMVP_API void bmvp_optim_destroy(bmvp_optim *o)
{
    if (!o) return;
    bmvpi_free(o->c, o->moment);
    bmvpi_free(o->c, o->count);
    bmvpi_free(o->c, o->moved);
    bmvpi_free(o->c, o->update);
    bmvpi_free(o->c, o);
}

BMVP_API void bmvp_optim_zero_grad(bmvp_optim *o)
{
    int i;
    for (i = 0; o && i < o->list->n; ++i)
        if (o->list->item[i].trained) bmvp_zero_grad(o->list->item[i].t);
}

BMVP_API bmvp_tensor *bmvp_optim_moment(bmvp_optim *o, int i, int which) { return o->moment[BMVP_MOMENTS * i + which]; }
BMVP_API bmvp_optim_config bmvp_optim_config_of(const bmvp_optim *o) { return o->cfg; }

/* Steps that moved nothing are taken from the counts, and steps move again. */
static void bmvpi_optim_begin_anew(bmvp_optim *o)
{
    float rule[BMVP_RULE_NUMBERS];
    int i, k;
    if (!o->resumes || bmvp_failed(o->c) || bmvp_is_plan(o->c)) return;
    if (bmvp_read(o->c, o->rule, rule)) return;
    for (i = 0; i < o->list->n; ++i)
        for (k = 0; k < 64 && k < (int)rule[BMVP_RULE_SKIPPED]; ++k) o->count[i] -= (int64_t)(o->moved[i] >> k & 1u);
    bmvp_fill(o->c, o->rule, 0.0f);
    o->resumes = 0;
}
BMVP_API void bmvp_optim_resume(bmvp_optim *o) { if (o) o->resumes = 1; }
BMVP_API int64_t *bmvp_optim_count(bmvp_optim *o, int i)
{
    bmvpi_optim_begin_anew(o);
    return &o->count[i];
}

static int bmvpi_optim_moves(const bmvp_optim *o, int i)
{
    return o->list->item[i].trained && bmvp_has_grad(o->list->item[i].t);
}

/* What the step of entry i is made of; its step counts. */
static bmvp_update bmvpi_optim_update(bmvp_optim *o, int i, double lr, double grad_scale)
{
    const bmvp_optim_config *k = &o->cfg;
    bmvp_tensor *t = o->list->item[i].t;
    const double n = (double)++o->count[i], weight_decay = k->weight_decay * o->list->item[i].decay_scale;
    bmvp_update u;
    memset(&u, 0, sizeof u);
    u.p = t->x;
    u.g = t->g;
    u.m = bmvp_optim_moment(o, i, 0)->x;
    u.n = t->numel;
    u.scale = (float)grad_scale;
    u.lr = (float)lr;
    u.decay = k->kind == BMVP_ADAMW ? (float)weight_decay : 0.0f;
    u.l2 = k->kind == BMVP_ADAMW ? 0.0f : (float)weight_decay;
    u.b1 = (float)k->momentum;
    if (k->kind != BMVP_SGD) {
        u.v = bmvp_optim_moment(o, i, 1)->x;
        if (k->amsgrad) u.top = bmvp_optim_moment(o, i, 2)->x;
        u.b1 = (float)(1.0 - k->beta1); /* in double: 1 - 0.999f is wrong in the fifth digit */
        u.b2 = (float)(1.0 - k->beta2);
        u.step = (float)(lr / (1.0 - pow(k->beta1, n)));
        u.root = (float)(1.0 / sqrt(1.0 - pow(k->beta2, n)));
        u.eps = (float)k->eps;
    }
    return u;
}

/* The steps of all entries that move, into o->update; returns how many. */
static int bmvpi_optim_updates(bmvp_optim *o, double lr, double grad_scale)
{
    int i, n = 0;
    for (i = 0; i < o->list->n; ++i)
        if (bmvpi_optim_moves(o, i))
            o->update[n++] = bmvpi_optim_update(o, i, lr * o->list->item[i].lr_scale, grad_scale);
    return n;
}

BMVP_API double bmvp_optim_grad_norm(bmvp_optim *o)
{
    int i, n = 0;
    if (!o || bmvp_failed(o->c) || bmvp_is_plan(o->c)) return 0;
    for (i = 0; i < o->list->n; ++i) {
        if (!bmvpi_optim_moves(o, i)) continue;
        memset(&o->update[n], 0, sizeof o->update[n]);
        o->update[n].g = o->list->item[i].t->g;
        o->update[n++].n = o->list->item[i].t->numel;
    }
    return n > 0 ? sqrt(bmvp_backend_of(o->c)->device->square_sum(o->c, o->update, n)) : 0;
}

BMVP_API void bmvp_optim_step(bmvp_optim *o, double lr, double grad_scale)
{
    int n;
    if (!o || bmvp_failed(o->c) || bmvp_is_plan(o->c)) return;
    n = bmvpi_optim_updates(o, lr, grad_scale);
    if (n > 0) bmvp_backend_of(o->c)->device->update(o->c, o->update, n);
}

BMVP_API const float *bmvp_optim_clipped_step(bmvp_optim *o, double lr, double clip)
{
    int i, n;
    if (!o || bmvp_failed(o->c) || bmvp_is_plan(o->c)) return NULL;
    bmvpi_optim_begin_anew(o);
    for (i = 0; i < o->list->n; ++i) o->moved[i] = o->moved[i] << 1 | (uint64_t)bmvpi_optim_moves(o, i);
    n = bmvpi_optim_updates(o, lr, 1);
    if (n > 0) bmvp_backend_of(o->c)->device->clipped_update(o->c, o->update, n, clip, o->rule->x);
    return n > 0 ? &o->rule->x[BMVP_RULE_NORM] : NULL;
}

BMVP_API void bmvp_optim_watch(bmvp_optim *o, const float *x)
{
    if (!o || !x || bmvp_failed(o->c) || bmvp_is_plan(o->c)) return;
    bmvpi_optim_begin_anew(o);
    bmvp_backend_of(o->c)->device->watch(o->c, x, o->rule->x);
}

BMVP_API void bmvp_state_decay_matrices(bmvp_state_list *list)
{
    int i;
    for (i = 0; i < list->n; ++i)
        if (list->item[i].torch_rank < 2) list->item[i].decay_scale = 0;
}

BMVP_API void bmvp_state_average(bmvp_ctx *c, bmvp_state_list *to, const bmvp_state_list *from, double keep)
{
    bmvp_update *u;
    int i, n = 0;
    if (bmvp_failed(c)) return;
    if (!(keep >= 0 && keep <= 1))
        bmvp_fail(c, BMVP_E_ARG, "state_average: keep is the share of the old values, 0 to 1, not %g", keep);
    else if (to->n != from->n)
        bmvp_fail(c, BMVP_E_SHAPE, "state_average: lists of %d and %d entries, they must be alike", to->n, from->n);
    for (i = 0; i < to->n && !bmvp_failed(c); ++i)
        if (to->item[i].torch_rank != from->item[i].torch_rank || to->item[i].trained != from->item[i].trained ||
            memcmp(to->item[i].torch_dim, from->item[i].torch_dim,
                   (size_t)from->item[i].torch_rank * sizeof(int64_t)) != 0)
            bmvp_fail(c, BMVP_E_SHAPE, "state_average: entry %d is %s and %s, which are not of one shape", i,
                      to->item[i].name, from->item[i].name);
    u = bmvp_failed(c) || bmvp_is_plan(c) ? NULL : (bmvp_update *)bmvpi_alloc(c, (to->n + 1) * (int64_t)sizeof *u);
    for (i = 0; u && i < to->n; ++i) {
        const bmvp_state *s = &from->item[i];
        if (keep == 0 && s->torch_rank == 0) to->item[i].counter = s->counter;
        else if (keep == 0) bmvp_backend_of(c)->device->add(c, to->item[i].t->x, 0, s->t->x, 0, s->t->numel, 0);
        if (keep == 0 || !s->trained) continue;
        memset(&u[n], 0, sizeof *u);
        u[n].m = to->item[i].t->x;
        u[n].g = s->t->x;
        u[n].n = s->t->numel;
        u[n++].b1 = (float)(1.0 - keep);
    }
    if (n > 0) bmvp_backend_of(c)->device->update(c, u, n);
    bmvpi_free(c, u);
}

BMVP_API double bmvp_schedule_lr(const bmvp_schedule *s, int64_t step)
{
    const int64_t from = s->whole ? 0 : s->warmup;
    const double span = (double)bmvpi_max(1, s->total - from) * (s->half_period ? 0.5 : 1.0);
    if (step < s->warmup)
        return s->warm_from ? s->start + (s->lr - s->start) * (double)step / (double)s->warmup
                            : s->lr * (double)(step + 1) / (double)(s->warmup + 1);
    if (s->every > 0) return s->lr * pow(s->factor, (double)(step / s->every));
    return s->floor + (s->lr - s->floor) * 0.5 * (1.0 + cos(3.14159265358979323846 * (double)(step - from) / span));
}

/* >>data parallel impl ------------------------------------------------------------------------------------------- */

enum { BMVPI_BUCKET_FIRST = 1 << 18, BMVPI_BUCKET = 25 << 18 }; /* floats */

struct bmvp_reducer {
    bmvp_ctx *c;
    int n, n_buckets, next, early; /* next: bucket to leave; early: those that left in backward */
    bmvp_tensor **t;               /* in the order of backward */
    int *end;                      /* of each bucket, in t */
    bmvp_part *part;               /* as t */
    unsigned char *had;            /* as t: this rank had a gradient; then the same of all ranks */
    float *host;                   /* the gradients, as t, where the ranks' table does not take them; else NULL */
};

BMVP_API void bmvp_reducer_destroy(bmvp_reducer *r)
{
    if (!r) return;
    if (r->c->on_gradient_user == r) bmvp_on_gradient(r->c, NULL, NULL); /* a step that failed has left it there */
    bmvpi_free(r->c, r->t);
    bmvpi_free(r->c, r->end);
    bmvpi_free(r->c, r->part);
    bmvpi_free(r->c, r->had);
    bmvpi_free(r->c, r->host);
    bmvpi_free(r->c, r);
}

/* Parameters are registered in the order of forward: backward completes them from the last to the first. */
static void bmvpi_reducer_cut(bmvp_reducer *r, const bmvp_state_list *list)
{
    int64_t in_bucket = 0;
    int i;
    for (i = list->n; i-- > 0;) {
        bmvp_tensor *t = list->item[i].t;
        if (!list->item[i].trained || list->item[i].stacked) continue;
        if (in_bucket > 0 && in_bucket + t->numel > (r->n_buckets == 0 ? BMVPI_BUCKET_FIRST : BMVPI_BUCKET)) {
            r->end[r->n_buckets++] = r->n;
            in_bucket = 0;
        }
        in_bucket += t->numel;
        r->t[r->n++] = t;
    }
    if (in_bucket > 0) r->end[r->n_buckets++] = r->n;
}

/* A place on the host for every gradient: started sums end there until they are waited for. */
static void bmvpi_reducer_host(bmvp_reducer *r)
{
    int64_t total = 0;
    int i;
    for (i = 0; i < r->n; ++i) total += r->t[i]->numel;
    r->host = (float *)bmvpi_alloc(r->c, total * (int64_t)sizeof *r->host);
    for (i = 0, total = 0; r->host && i < r->n; total += r->t[i++]->numel) r->part[i].x = r->host + total;
}

BMVP_API bmvp_reducer *bmvp_reducer_create(bmvp_ctx *c, bmvp_state_list *list)
{
    bmvp_reducer *r = bmvp_failed(c) ? NULL : (bmvp_reducer *)bmvpi_alloc(c, (int64_t)sizeof *r);
    const int64_t n = list->n, size = c->comm ? c->comm->size : 1;
    if (!r) return NULL;
    memset(r, 0, sizeof *r);
    r->c = c;
    r->t = (bmvp_tensor **)bmvpi_alloc(c, n * (int64_t)sizeof *r->t);
    r->end = (int *)bmvpi_alloc(c, n * (int64_t)sizeof *r->end);
    r->part = (bmvp_part *)bmvpi_alloc(c, n * (int64_t)sizeof *r->part);
    r->had = (unsigned char *)bmvpi_alloc(c, n * (1 + size));
    if (!bmvp_failed(c)) bmvpi_reducer_cut(r, list);
    if (!bmvp_failed(c) && c->comm && !bmvpi_comm_takes_values(c)) bmvpi_reducer_host(r);
    if (!bmvp_failed(c)) return r;
    bmvp_reducer_destroy(r);
    return NULL;
}

static void bmvpi_grad_zeros(bmvp_ctx *c, bmvp_tensor *t)
{
    if (!bmvpi_lasting_grad(c, t)) return;
    bmvpi_values_fill(c, t->g, 0.0f, t->numel);
    t->grad_fresh = 0;
}

static void bmvpi_reducer_send(bmvp_reducer *r)
{
    const bmvp_comm *m = r->c->comm;
    const int from = r->next > 0 ? r->end[r->next - 1] : 0, to = r->end[r->next];
    bmvp_error err;
    int i;
    for (i = from; i < to; ++i) {
        r->had[i] = (unsigned char)bmvp_has_grad(r->t[i]);
        if (!r->had[i]) bmvpi_grad_zeros(r->c, r->t[i]);
        if (r->host && !bmvp_failed(r->c)) bmvpi_values_read(r->c, r->part[i].x, r->t[i]->g, r->t[i]->numel);
        else if (!r->host) r->part[i].x = r->t[i]->g;
        r->part[i].n = r->t[i]->numel;
    }
    ++r->next;
    if (!bmvp_failed(r->c))
        (void)bmvpi_comm_done(r->c, (m->start ? m->start : m->all_reduce)(m, r->part + from, to - from, &err), &err);
}

/* Sends the buckets whose gradients are complete, in order: the order is the same on every rank. */
static void bmvpi_reducer_go_on(void *user)
{
    bmvp_reducer *r = (bmvp_reducer *)user;
    for (; r->next < r->n_buckets && !bmvp_failed(r->c); ++r->early) {
        int i = r->next > 0 ? r->end[r->next - 1] : 0;
        for (; i < r->end[r->next]; ++i)
            if (bmvp_grad_due(r->t[i])) return;
        bmvpi_reducer_send(r);
    }
}

BMVP_API void bmvp_reducer_start(bmvp_reducer *r)
{
    r->early = 0;
    if (r->c->comm) bmvp_on_gradient(r->c, bmvpi_reducer_go_on, r);
}

BMVP_API void bmvp_reducer_finish(bmvp_reducer *r)
{
    bmvp_ctx *c = r->c;
    unsigned char *all = r->had + r->n;
    bmvp_error err;
    int i, k;
    bmvp_on_gradient(c, NULL, NULL);
    if (!c->comm) return;
    while (r->next < r->n_buckets && !bmvp_failed(c)) bmvpi_reducer_send(r);
    r->next = 0;
    if (!bmvpi_comm_all_gather(c, r->had, r->n, all)) return;
    if (c->comm->wait) (void)bmvpi_comm_done(c, c->comm->wait(c->comm, &err), &err);
    for (i = 0; r->host && !bmvp_failed(c) && i < r->n; ++i)
        bmvpi_values_write(c, r->t[i]->g, r->part[i].x, r->t[i]->numel);
    for (i = 0; i < r->n; ++i) {
        int somewhere = 0;
        for (k = 0; k < c->comm->size; ++k) somewhere |= all[k * r->n + i];
        r->t[i]->grad_fresh = !somewhere;
    }
}

BMVP_API int bmvp_reducer_buckets(const bmvp_reducer *r, int *sent)
{
    *sent = r->early;
    return r->n_buckets;
}

static void bmvpi_comm_broadcast(bmvp_ctx *c, void *data, int64_t bytes)
{
    const bmvp_comm *m = c->comm;
    bmvp_error err;
    float *x;
    if (bmvp_failed(c)) return;
    if (!m->on_device) (void)bmvpi_comm_done(c, m->broadcast(m, data, bytes, 0, &err), &err);
    else if ((x = bmvpi_comm_space(c, (bytes + 3) / 4 * 4)) != NULL) {
        bmvpi_comm_upload(c, x, data, bytes);
        if (bmvpi_comm_done(c, m->broadcast(m, x, bytes, 0, &err), &err)) bmvpi_comm_download(c, data, x, bytes);
    }
}
static void bmvpi_comm_broadcast_tensor(bmvp_ctx *c, bmvp_tensor *t)
{
    const int64_t bytes = t->numel * (int64_t)sizeof(float);
    bmvp_error err;
    float *host;
    if (bmvp_failed(c)) return;
    if (bmvpi_comm_takes_values(c)) (void)bmvpi_comm_done(c, c->comm->broadcast(c->comm, t->x, bytes, 0, &err), &err);
    else if ((host = (float *)bmvpi_alloc(c, bytes)) != NULL) {
        bmvpi_values_read(c, host, t->x, t->numel);
        bmvpi_comm_broadcast(c, host, bytes);
        if (!bmvp_failed(c)) bmvpi_values_write(c, t->x, host, t->numel);
        bmvpi_free(c, host);
    }
}

BMVP_API void bmvp_state_broadcast(bmvp_ctx *c, bmvp_state_list *list, bmvp_optim *optim)
{
    int i, w;
    for (i = 0; c->comm && i < list->n; ++i) {
        bmvp_state *s = &list->item[i];
        if (s->torch_rank == 0) bmvpi_comm_broadcast(c, &s->counter, (int64_t)sizeof s->counter);
        else bmvpi_comm_broadcast_tensor(c, s->t);
        for (w = 0; optim && w < BMVP_MOMENTS; ++w) {
            bmvp_tensor *m = bmvp_optim_moment(optim, i, w);
            if (m) bmvpi_comm_broadcast_tensor(c, m);
        }
        if (optim) bmvpi_comm_broadcast(c, bmvp_optim_count(optim, i), (int64_t)sizeof(int64_t));
    }
}

/* >>state files impl ----------------------------------------------------------------------------------------------- */

static bmvp_tensor *bmvpi_part_tensor(const bmvp_state_part *p, int i)
{
    return p->optim ? bmvp_optim_moment(p->optim, i, p->moment) : p->list->item[i].t;
}

/* Name and shape of entry i in files; for a stack of templates those of the whole stack. */
static const char *bmvpi_state_shape(const bmvp_state *s, int *rank, int64_t *dim)
{
    int a, stack = s->stacked != NULL;
    *rank = s->torch_rank + stack;
    if (stack) dim[0] = s->parts;
    for (a = 0; a < s->torch_rank; ++a) dim[a + stack] = s->torch_dim[a];
    return stack ? s->stacked : s->name;
}

/* Counters and indexes are integers in PyTorch. */
static int bmvpi_state_integers(const bmvp_state *s) { return s->torch_rank == 0 || s->init == BMVP_INIT_WINDOW_INDEX; }

BMVP_API bmvp_status bmvp_state_declare(bmvp_ckpt_writer *w, const char *group, const bmvp_state_part *part,
                                        bmvp_error *err)
{
    bmvp_status st = BMVP_OK;
    int64_t dim[BMVP_MAX_DIMS + 1];
    int i, rank;
    for (i = 0; i < part->list->n && !st; ++i) {
        const bmvp_state *s = &part->list->item[i];
        const char *name = bmvpi_state_shape(s, &rank, dim);
        if (!bmvpi_part_tensor(part, i) || (s->stacked && s->part > 0)) continue;
        st = bmvp_ckpt_writer_add(w, group, name, bmvpi_state_integers(s) ? BMVP_DTYPE_I64 : BMVP_DTYPE_F32, rank, dim,
                                  err);
    }
    return st;
}

/* Values of t in the file's order, from and into the host's memory. space: for as many numbers again, in our order */
static bmvp_status bmvpi_state_get(bmvp_ctx *c, const bmvp_state *s, const bmvp_tensor *t, float *torch, float *space,
                                   bmvp_error *err)
{
    if (bmvp_read(c, t, space)) return bmvp_error_take(c, err);
    bmvp_state_to_torch(s, space, torch);
    return BMVP_OK;
}
static bmvp_status bmvpi_state_put(bmvp_ctx *c, const bmvp_state *s, const float *torch, float *space, bmvp_tensor *t,
                                   bmvp_error *err)
{
    bmvp_state_from_torch(s, torch, space);
    bmvp_write(c, t, space);
    return bmvp_failed(c) ? bmvp_error_take(c, err) : BMVP_OK;
}

/* Twice the numbers of the largest tensor: the second half, at *space, for the two above */
static float *bmvpi_state_scratch(const bmvp_state_part *part, float **space, bmvp_error *err)
{
    const bmvp_state_list *l = part->list;
    const bmvp_allocator *a = bmvp_allocator_of(part->c);
    int64_t n = 1;
    float *p;
    int i;
    for (i = 0; i < l->n; ++i) n = bmvpi_max(n, l->item[i].t->numel);
    p = (float *)a->alloc((size_t)n * 2 * sizeof *p, a->user);
    if (!p) bmvp_error_set(err, BMVP_E_OOM, "out of memory: %.1f MB for reordering a tensor", (double)n * 8e-6);
    *space = p + (p ? n : 0);
    return p;
}

/* n whole numbers become int64 where they are: there is room for twice their bytes, and the last one goes first. */
static void bmvpi_state_widen(float *x, int64_t n)
{
    while (n-- > 0) {
        const int64_t v = (int64_t)x[n];
        memcpy(&x[2 * n], &v, sizeof v);
    }
}

BMVP_API bmvp_status bmvp_state_data(bmvp_ckpt_writer *w, const bmvp_state_part *part, bmvp_error *err)
{
    float *space, *buf = bmvpi_state_scratch(part, &space, err);
    bmvp_status st = buf ? BMVP_OK : BMVP_E_OOM;
    int i;
    for (i = 0; i < part->list->n && !st; ++i) {
        const bmvp_state *s = &part->list->item[i];
        const bmvp_tensor *t = bmvpi_part_tensor(part, i);
        if (!t) continue;
        if (s->torch_rank == 0) {
            st = bmvp_ckpt_writer_data(w, &s->counter, (int64_t)sizeof s->counter, err);
            continue;
        }
        st = bmvpi_state_get(part->c, s, t, buf, space, err);
        if (!st && bmvpi_state_integers(s)) bmvpi_state_widen(buf, t->numel);
        if (!st) st = bmvp_ckpt_writer_data(w, buf, t->numel * (bmvpi_state_integers(s) ? 8 : 4), err);
    }
    bmvpi_free(part->c, buf);
    return st;
}

static void bmvpi_dims_text(int rank, const int64_t *dim, char *buf, size_t size)
{
    size_t n = 0;
    int a;
    buf[n++] = '(';
    for (a = 0; a < rank && n + 24 < size; ++a)
        n += (size_t)snprintf(buf + n, size - n, a ? ", %lld" : "%lld", (long long)dim[a]);
    snprintf(buf + n, size - n, ")");
}

/* Place of the file's tensor for entry s, or a message that names the mismatch. */
static bmvp_status bmvpi_state_match(const bmvp_ckpt *f, const char *group, const bmvp_state *s, int *place,
                                     bmvp_error *err)
{
    int64_t dim[BMVP_MAX_DIMS + 1];
    char have[160], want[160];
    int rank, a, ok;
    const char *name = bmvpi_state_shape(s, &rank, dim);
    const int k = bmvp_ckpt_find(f, group, name);
    *place = k;
    if (k < 0)
        return bmvp_error_set(err, BMVP_E_FORMAT,
                              "%s: tensor '%s' is missing from '%s'; is this a checkpoint of another network?", f->path,
                              name, group);
    ok = f->entry[k].rank == rank;
    for (a = 0; ok && a < rank; ++a) ok = f->entry[k].dim[a] == dim[a];
    if (ok) return BMVP_OK;
    bmvpi_dims_text(f->entry[k].rank, f->entry[k].dim, have, sizeof have);
    bmvpi_dims_text(rank, dim, want, sizeof want);
    return bmvp_error_set(err, BMVP_E_SHAPE,
                          "%s: tensor '%s' has shape %s, but the network wants %s: another network, or other templates",
                          f->path, name, have, want);
}

/* Numbers of a network or of its moments. NaN, infinity and a variance below 0, which a run that diverged
   leaves, would make every result NaN without a word. */
static bmvp_status bmvpi_state_read(bmvp_ckpt *f, int k, int64_t first, int64_t n, float *to, bmvp_error *err)
{
    const bmvp_status st = bmvp_ckpt_load_f32(f, k, first, n, to, err);
    const char *end = strstr(f->entry[k].name, "running_var");
    const float low = end && !end[11] ? 0 : -FLT_MAX;
    int64_t i;
    for (i = 0; i < n && !st; ++i)
        if (!(to[i] >= low && to[i] <= FLT_MAX))
            return bmvp_error_set(err, BMVP_E_FORMAT,
                                  "%s: tensor '%s' holds %g: the run that wrote it has diverged; take an earlier file",
                                  f->path, f->entry[k].name, (double)to[i]);
    return st;
}

static bmvp_status bmvpi_state_load_one(bmvp_ctx *c, bmvp_ckpt *f, int k, bmvp_state *s, bmvp_tensor *t, float *buf,
                                        float *space, bmvp_error *err)
{
    bmvp_status st;
    if (s->torch_rank == 0) {
        if (f->entry[k].dtype == BMVP_DTYPE_I64)
            return bmvp_ckpt_load(f, k, &s->counter, (int64_t)sizeof s->counter, err);
        st = bmvpi_state_read(f, k, 0, 1, buf, err);
        if (!st) s->counter = buf[0] < 1e18f && buf[0] > -1e18f ? (int64_t)buf[0] : 0;
        return st;
    }
    st = bmvpi_state_read(f, k, s->part * t->numel, t->numel, buf, err);
    return st ? st : bmvpi_state_put(c, s, buf, space, t, err);
}

/* 1: entry i is to be read. What is never used keeps its values where the file has none of that name. */
static int bmvpi_state_wants(const bmvp_state_part *part, int i, const bmvp_ckpt *ckpt, const char *group)
{
    const bmvp_state *s = &part->list->item[i];
    return bmvpi_part_tensor(part, i) && (!s->carried || bmvp_ckpt_find(ckpt, group, s->name) >= 0);
}

BMVP_API bmvp_status bmvp_state_check(const bmvp_ckpt *ckpt, const char *group, const bmvp_state_part *part,
                                      bmvp_error *err)
{
    bmvp_status st = BMVP_OK;
    int i, k;
    for (i = 0; i < part->list->n && !st; ++i)
        if (bmvpi_state_wants(part, i, ckpt, group))
            st = bmvpi_state_match(ckpt, group, &part->list->item[i], &k, err);
    return st;
}

BMVP_API bmvp_status bmvp_state_load(bmvp_ckpt *ckpt, const char *group, const bmvp_state_part *part, bmvp_error *err)
{
    bmvp_status st = bmvp_state_check(ckpt, group, part, err);
    float *buf, *space;
    int i, k;
    if (st) return st;
    buf = bmvpi_state_scratch(part, &space, err);
    if (!buf) return BMVP_E_OOM;
    for (i = 0; i < part->list->n && !st; ++i) {
        bmvp_tensor *t = bmvpi_part_tensor(part, i);
        if (!bmvpi_state_wants(part, i, ckpt, group)) continue;
        st = bmvpi_state_match(ckpt, group, &part->list->item[i], &k, err);
        if (!st) st = bmvpi_state_load_one(part->c, ckpt, k, &part->list->item[i], t, buf, space, err);
    }
    bmvpi_free(part->c, buf);
    return st;
}

/* 1: equal; numbers 0: but for the numbers in them. */
static int bmvpi_state_alike(const char *a, const char *b, int numbers)
{
    static const char digit[] = "0123456789";
    if (numbers) return strcmp(a, b) == 0;
    for (; *a && *b; a += strspn(a, digit), b += strspn(b, digit)) {
        const size_t n = strcspn(a, digit);
        if (n != strcspn(b, digit) || memcmp(a, b, n) != 0) return 0;
        a += n, b += n;
        if (strspn(a, digit) == 0 || strspn(b, digit) == 0) break;
    }
    return !*a && !*b;
}

static int bmvpi_state_has(const bmvp_state_list *list, const char *name, int numbers)
{
    int64_t dim[BMVP_MAX_DIMS + 1];
    int i, rank;
    for (i = 0; i < list->n; ++i)
        if (bmvpi_state_alike(bmvpi_state_shape(&list->item[i], &rank, dim), name, numbers)) return 1;
    return 0;
}

BMVP_API int bmvp_state_left(const bmvp_ckpt *ckpt, const char *group, const bmvp_state_list *list, char *text,
                             size_t size)
{
    size_t at = 0;
    int i, n = 0;
    if (size) text[0] = 0;
    for (i = 0; i < ckpt->n_entries; ++i) {
        const char *name = ckpt->entry[i].name;
        if (strcmp(ckpt->entry[i].group, group) != 0 || bmvpi_state_has(list, name, 1)) continue;
        if (at + strlen(name) + 2 < size) at += (size_t)snprintf(text + at, size - at, "%s%s", at ? ", " : "", name);
        ++n;
    }
    return n;
}

BMVP_API int bmvp_state_larger(const bmvp_ckpt *ckpt, const char *group, const bmvp_state_list *list)
{
    int i;
    for (i = 0; i < ckpt->n_entries; ++i) {
        const char *name = ckpt->entry[i].name;
        if (strcmp(ckpt->entry[i].group, group) == 0 && !bmvpi_state_has(list, name, 1) &&
            bmvpi_state_has(list, name, 0))
            return i;
    }
    return -1;
}

/* 1: a and b have the same value of the field or option of this name (n characters); absent is 0. */
static int bmvpi_net_same_field(const bmvp_net_config *a, const bmvp_net_config *b, const char *name, size_t n)
{
    bmvp_net_config k[2];
    char word[24];
    int f;
    k[0] = *a, k[1] = *b;
    for (f = 0; f < BMVPI_NET_FIELDS; ++f)
        if (strlen(bmvpi_net_field[f].name) == n && memcmp(bmvpi_net_field[f].name, name, n) == 0)
            return memcmp(bmvpi_net_numbers(&k[0], f), bmvpi_net_numbers(&k[1], f),
                          (size_t)bmvpi_net_field[f].n * sizeof(int)) == 0;
    snprintf(word, sizeof word, "%.*s", (int)n, name);
    return bmvp_net_option_of(a, word, 0) == bmvp_net_option_of(b, word, 0);
}

/* The name of the preset with these sizes, or "custom". */
static void bmvpi_net_rename(bmvp_net_config *cfg, const bmvp_net_kind *kind)
{
    bmvp_net_config k;
    const char *p;
    int i;
    snprintf(cfg->name, sizeof cfg->name, "custom");
    for (i = 0; i < BMVPI_NET_PRESET_COUNT; ++i) {
        if (!bmvp_net_preset(bmvpi_net_preset[i].name, &k) || strcmp(k.kind, cfg->kind) != 0) continue;
        for (p = kind->fields; p && *p && bmvpi_net_same_field(&k, cfg, p, strcspn(p, " "));) {
            p += strcspn(p, " ");
            p += *p == ' ';
        }
        if (p && !*p) snprintf(cfg->name, sizeof cfg->name, "%s", k.name);
    }
}

/* 1: kind recognises the file, and cfg says how large its network is. */
static int bmvpi_net_infer_kind(const bmvp_net_kind *kind, const bmvp_ckpt *ckpt, const char *group,
                                bmvp_net_config *cfg)
{
    *cfg = bmvp_net_config_default(kind->name);
    if (!kind->infer || !kind->infer(ckpt, group, cfg)) return 0;
    bmvpi_net_rename(cfg, kind);
    return 1;
}

static void bmvpi_weight_text(const bmvp_ckpt *ckpt, char *out, size_t size);

BMVP_API bmvp_status bmvp_net_infer(const bmvp_ckpt *ckpt, const char *group, bmvp_net_config *cfg, bmvp_error *err)
{
    char found[400];
    int i;
    for (i = 0; i < BMVPI_NET_KINDS; ++i)
        if (bmvpi_net_infer_kind(bmvpi_net_kinds[i], ckpt, group, cfg)) return BMVP_OK;
    bmvpi_weight_text(ckpt, found, sizeof found);
    return bmvp_error_set(err, BMVP_E_FORMAT,
                          "%.200s: a checkpoint of none of the networks: %s (looked for "
                          "encoder.uniformer.patch_embed1.proj.weight, encoder.patch_embed1.proj.weight, "
                          "conv1a.weight, vit.patch_embedding.patch_embeddings.weight, "
                          "swinViT.patch_embed.proj.weight, down_tr64.ops.0.conv1.weight or "
                          "inc.double_conv.0.weight)",
                          ckpt->path, found);
}

/* The row of that name, or of the preset of that name. */
static const bmvp_net_kind *bmvpi_net_kind_or_preset(const bmvp_ctx *c, const char *name, bmvp_error *err)
{
    const bmvp_net_kind *kind = bmvp_net_kind_find(c, name);
    bmvp_net_config preset;
    char rows[200] = "";
    int i;
    if (!kind && bmvp_net_preset(name, &preset)) kind = bmvp_net_kind_find(c, preset.kind);
    for (i = 0; i < BMVPI_NET_KINDS && !kind; ++i)
        snprintf(rows + strlen(rows), sizeof rows - strlen(rows), " %s", bmvpi_net_kinds[i]->name);
    if (!kind) bmvp_error_set(err, BMVP_E_ARG, "there is no network '%.40s'; there are%s", name, rows);
    return kind;
}

BMVP_API int bmvp_net_part_in(const bmvp_ctx *c, const bmvp_net_config *cfg, bmvp_net_part part, const bmvp_ckpt *ckpt,
                              const char *group)
{
    const bmvp_net_kind *kind = bmvp_net_kind_find(c, cfg->kind);
    int i;
    for (i = 0; kind && i < ckpt->n_entries; ++i)
        if (strcmp(ckpt->entry[i].group, group) == 0 && bmvpi_has_prefix(kind->part[part], ckpt->entry[i].name))
            return i;
    return -1;
}

/* Not the network that was asked for. */
static bmvp_status bmvpi_net_other(const bmvp_ctx *c, const bmvp_net_kind *asked, const bmvp_ckpt *ckpt,
                                   const char *group, bmvp_error *err)
{
    bmvp_net_config k;
    const bmvp_status st = bmvp_net_infer(ckpt, group, &k, err);
    const int i = st ? -1 : bmvp_net_part_in(c, &k, BMVP_PART_ENCODER, ckpt, group);
    if (st) return st;
    return bmvp_error_set(err, BMVP_E_FORMAT, "%.200s: holds a %s (its tensor '%.80s'), no %s: the network is %s",
                          ckpt->path, bmvpi_net_title(bmvp_net_kind_find(c, k.kind)),
                          i < 0 ? "" : ckpt->entry[i].name, bmvpi_net_title(asked), k.kind);
}

BMVP_API bmvp_status bmvp_net_infer_as(const bmvp_ctx *c, const char *network, const char *fields,
                                       const bmvp_ckpt *ckpt, const char *group, bmvp_net_config *cfg,
                                       bmvp_error *err)
{
    const bmvp_net_kind *kind = bmvpi_net_kind_or_preset(c, network, err);
    bmvp_net_config shown;
    const char *p;
    bmvp_status st;
    if (!kind) return BMVP_E_ARG;
    if (!bmvpi_net_infer_kind(kind, ckpt, group, &shown) && kind->infer)
        return bmvpi_net_other(c, kind, ckpt, group, err);
    *cfg = shown;
    st = fields ? bmvp_net_config_set(cfg, fields, err) : BMVP_OK;
    for (p = fields; p && *(p += strspn(p, " ")) && !st; p += strcspn(p, " ")) {
        const size_t n = strcspn(p, "= ");
        if (!bmvpi_word_in(kind->fields, p, n) && kind->infer)
            st = bmvp_error_set(err, BMVP_E_ARG, "%s: there is no field '%.*s'; a %s has: %s", kind->name, (int)n, p,
                                bmvpi_net_title(kind), kind->fields);
        else if (kind->infer && !bmvpi_word_in(kind->unseen, p, n) && !bmvpi_net_same_field(&shown, cfg, p, n))
            st = bmvp_error_set(err, BMVP_E_ARG,
                                "%.200s: its tensors say other than '%.*s'; leave it away: they show it", ckpt->path,
                                (int)strcspn(p, " "), p);
    }
    if (!st) bmvpi_net_rename(cfg, kind);
    return st;
}

static const char *const bmvpi_task_name[4] = { "pretrain", "segment", "classify", "encode" };

BMVP_API void bmvp_net_config_write(bmvp_jw *w, const char *key, const bmvp_net_config *cfg)
{
    bmvp_net_config k = *cfg;
    int i, j;
    bmvp_jw_object(w, key);
    bmvp_jw_string(w, "name", cfg->name);
    bmvp_jw_string(w, "kind", cfg->kind);
    bmvp_jw_string(w, "task", bmvpi_task_name[cfg->task]);
    for (i = 0; i < BMVPI_NET_FIELDS; ++i) {
        const int *v = bmvpi_net_numbers(&k, i), n = bmvpi_net_field[i].n;
        if (n == 1) bmvp_jw_int(w, bmvpi_net_field[i].name, v[0]);
        else {
            bmvp_jw_array(w, bmvpi_net_field[i].name);
            for (j = 0; j < n; ++j) bmvp_jw_int(w, NULL, v[j]);
            bmvp_jw_end(w);
        }
    }
    bmvp_jw_object(w, "options");
    for (i = 0; i < BMVP_NET_OPTIONS; ++i)
        if (k.option[i].name[0]) bmvp_jw_int(w, k.option[i].name, k.option[i].value);
    bmvp_jw_end(w);
    bmvp_jw_end(w);
}

BMVP_API bmvp_status bmvp_net_config_read(const bmvp_json *node, bmvp_net_config *cfg, bmvp_error *err)
{
    const char *kind = bmvp_json_string(bmvp_json_get(node, "kind"), "");
    const char *task = bmvp_json_string(bmvp_json_get(node, "task"), "pretrain");
    const bmvp_json *options = bmvp_json_get(node, "options"), *o;
    int i, j;
    *cfg = bmvp_net_config_default(kind);
    if (!*kind || strlen(kind) >= sizeof cfg->kind)
        return bmvp_error_set(err, BMVP_E_FORMAT, "network description: kind '%.40s' is no name of a network", kind);
    snprintf(cfg->name, sizeof cfg->name, "%s", bmvp_json_string(bmvp_json_get(node, "name"), "custom"));
    for (i = 0; i < BMVPI_NET_FIELDS; ++i) {
        const bmvp_json *v = bmvp_json_get(node, bmvpi_net_field[i].name);
        int *to = bmvpi_net_numbers(cfg, i);
        for (j = 0; j < bmvpi_net_field[i].n; ++j)
            to[j] = (int)bmvp_json_int(bmvpi_net_field[i].n > 1 ? bmvp_json_at(v, j) : v, to[j]);
    }
    for (i = 0; i < 4 && strcmp(task, bmvpi_task_name[i]) != 0; ++i) { }
    if (i == 4)
        return bmvp_error_set(err, BMVP_E_FORMAT,
                              "network description: task '%s' is none of pretrain, segment, classify, encode", task);
    cfg->task = (bmvp_net_task)i;
    for (o = options ? options->first : NULL; o && o->key; o = o->next) {
        bmvp_net_option *to = bmvpi_net_option_room(cfg, o->key, strlen(o->key));
        if (!to)
            return bmvp_error_set(err, BMVP_E_FORMAT,
                                  "network description: option '%.40s' is one too many, or its name too long", o->key);
        to->value = (int)bmvp_json_int(o, 0);
    }
    return BMVP_OK;
}

/* >>adopt: a network starts from the checkpoint of another --------------------------------------------------------- */

/* The file's tensor for entry s, whose part may go by the kind's other prefix; -1: none. */
static int bmvpi_adopt_find(const bmvp_net_kind *kind, const bmvp_ckpt *f, const char *group, const bmvp_state *s)
{
    char name[BMVP_NAME_MAX + 40];
    int k = bmvp_ckpt_find(f, group, s->name), i;
    for (i = 0; i < 2 && k < 0 && kind->alias[0]; ++i) {
        const size_t n = strlen(kind->alias[i]);
        if (strncmp(s->name, kind->alias[i], n) != 0) continue;
        snprintf(name, sizeof name, "%s%s", kind->alias[1 - i], s->name + n);
        k = bmvp_ckpt_find(f, group, name);
    }
    return k;
}

static int bmvpi_adopt_same_shape(const bmvp_ckpt_entry *e, const bmvp_state *s, int from_axis)
{
    int a, same = e->rank == s->torch_rank;
    for (a = 0; same && a < e->rank; ++a) same = e->dim[a] == (a == from_axis ? 1 : s->torch_dim[a]);
    return same;
}

/* Is this the weight or the bias of a stem that may be spread? Only the number of input channels differs: axis 1 of a
   convolution; those of a linear layer are counted within each voxel of its patch. */
static int bmvpi_adopt_spreads(const bmvp_net *net, const bmvp_ckpt_entry *e, const bmvp_state *s)
{
    if (!bmvp_net_in_part(net, s->name, BMVP_PART_STEM)) return 0;
    if (s->torch_rank != 2) return bmvpi_adopt_same_shape(e, s, 1);
    return e->rank == 2 && e->dim[0] == s->torch_dim[0] && e->dim[1] * net->cfg.in_channels == s->torch_dim[1];
}

/* How entry s is to be filled from entry *k of the file; -1 and a message when it must fit and does not. */
static int bmvpi_adopt_how(const bmvp_net *net, const bmvp_ckpt *f, const char *group, const bmvp_state *s,
                           const bmvp_net_config *source, int flags, int *k, bmvp_error *err)
{
    const int channels = net->cfg.in_channels, other_stem = source->in_channels == 1 && channels > 1;
    char have[160], want[160];
    *k = bmvpi_adopt_find(net->kind, f, group, s);
    if ((source->task == BMVP_TASK_PRETRAIN || flags & BMVP_ADOPT_NEW_HEAD) &&
        bmvp_net_in_part(net, s->name, BMVP_PART_HEAD))
        return BMVP_ADOPT_FRESH;
    if (source->in_channels != channels && bmvp_net_in_part(net, s->name, BMVP_PART_INPUT))
        return BMVP_ADOPT_FRESH; /* bias too */
    if (*k >= 0 && other_stem && bmvpi_adopt_spreads(net, &f->entry[*k], s))
        return flags & BMVP_ADOPT_SPREAD ? BMVP_ADOPT_ADAPTED : BMVP_ADOPT_FRESH;
    if (*k >= 0 && bmvpi_adopt_same_shape(&f->entry[*k], s, -1)) return BMVP_ADOPT_TAKEN;
    if (!bmvp_net_in_part(net, s->name, BMVP_PART_ENCODER) || (*k < 0 && s->carried)) return BMVP_ADOPT_FRESH;
    if (*k < 0)
        bmvp_error_set(err, BMVP_E_FORMAT, "%s: tensor '%s' is missing; is this a checkpoint of another network?",
                       f->path, s->name);
    else {
        bmvpi_dims_text(f->entry[*k].rank, f->entry[*k].dim, have, sizeof have);
        bmvpi_dims_text(s->torch_rank, s->torch_dim, want, sizeof want);
        bmvp_error_set(err, BMVP_E_SHAPE,
                       "%s: tensor '%s' has shape %s, but the network wants %s: another network, or other "
                       "modalities (only a stem of one channel can be spread)",
                       f->path, f->entry[*k].name, have, want);
    }
    return -1;
}

/* (O, 1, k, k, k) -> (O, C, k, k, k), (O, k^3) -> (O, k^3 C), each the C-th part: the sum over equal inputs is what it
   was. */
static void bmvpi_adopt_spread(const bmvp_state *s, int64_t numel, const float *one, float *all)
{
    const int64_t c = s->t->numel / numel, k = numel / s->torch_dim[0];
    int64_t i;
    for (i = 0; i < s->t->numel; ++i)
        all[i] = one[s->torch_rank == 2 ? i / c : i / (c * k) * k + i % k] / (float)c;
}

static bmvp_status bmvpi_adopt_fill(bmvp_ctx *c, bmvp_ckpt *f, int k, bmvp_state *s, int how, float *buf, int64_t room,
                                    bmvp_error *err)
{
    bmvp_status st;
    if (how == BMVP_ADOPT_FRESH) return BMVP_OK;
    if (how == BMVP_ADOPT_TAKEN || s->torch_rank < 2)
        return bmvpi_state_load_one(c, f, k, s, s->t, buf, buf + room, err);
    st = bmvpi_state_read(f, k, 0, f->entry[k].numel, buf + room, err);
    if (st) return st;
    bmvpi_adopt_spread(s, f->entry[k].numel, buf + room, buf);
    return bmvpi_state_put(c, s, buf, buf + room, s->t, err);
}

/* A decoder of pre-training may have a segmentation's names: the task is what the file says of itself. */
static void bmvpi_adopt_task(const bmvp_net *net, const bmvp_ckpt *f, bmvp_net_config *source)
{
    const bmvp_ckpt_meta *run = bmvp_ckpt_find_meta(f, "", "run");
    bmvp_json_doc *doc = NULL;
    bmvp_net_config said;
    if (!run) return;
    if (bmvp_json_parse(run->value, strlen(run->value), f->path, bmvp_allocator_of(net->m.c), &doc, NULL)) return;
    if (bmvp_net_config_read(bmvp_json_get(bmvp_json_root(doc), "network"), &said, NULL) == BMVP_OK)
        source->task = said.task;
    bmvp_json_free(doc);
}

/* What the file holds: its own description, where the kind cannot tell by names and shapes; it must be the network's
   kind. */
static bmvp_status bmvpi_adopt_source(const bmvp_net *net, const bmvp_ckpt *f, const char *group,
                                      bmvp_net_config *source, bmvp_error *err)
{
    const bmvp_ckpt_meta *run = bmvp_ckpt_find_meta(f, "", "run");
    bmvp_json_doc *doc = NULL;
    bmvp_status st;
    if (bmvpi_net_infer_kind(net->kind, f, group, source)) {
        bmvpi_adopt_task(net, f, source);
        return BMVP_OK;
    }
    if (run && !bmvp_json_parse(run->value, strlen(run->value), f->path, bmvp_allocator_of(net->m.c), &doc, err)) {
        st = bmvp_net_config_read(bmvp_json_get(bmvp_json_root(doc), "network"), source, err);
        bmvp_json_free(doc);
    } else if (net->kind->infer) st = bmvp_net_infer(f, group, source, err);
    else { /* a plain state_dict: it fits, or the comparison says where it does not */
        *source = net->cfg;
        return BMVP_OK;
    }
    if (st || strcmp(source->kind, net->kind->name) == 0) return st;
    return bmvp_error_set(err, BMVP_E_FORMAT, "%s: holds a %s, the network is a %s", f->path,
                          bmvp_net_kind_find(net->m.c, source->kind)
                              ? bmvpi_net_title(bmvp_net_kind_find(net->m.c, source->kind))
                              : source->kind,
                          bmvpi_net_title(net->kind));
}

/* A shallower network would find all its names in a deeper one's file: every tensor of the file's encoder must have a
   place. used: by entry of the file. */
static bmvp_status bmvpi_adopt_all_used(const bmvp_net *net, const bmvp_ckpt *f, const char *group, const char *used,
                                        bmvp_error *err)
{
    int i;
    for (i = 0; i < f->n_entries; ++i)
        if (!used[i] && strcmp(f->entry[i].group, group) == 0 &&
            bmvp_net_in_part(net, f->entry[i].name, BMVP_PART_ENCODER))
            return bmvp_error_set(err, BMVP_E_SHAPE,
                                  "%s: tensor '%s' has no place in the network: another one, or a smaller one", f->path,
                                  f->entry[i].name);
    return BMVP_OK;
}

typedef struct bmvpi_adoption { /* by entry of the network's state: how, and from which of the file; used: by entry of
                                   the file */
    int *how, *from;
    char *used;
    float *buf;
    int64_t room;
} bmvpi_adoption;

static bmvp_status bmvpi_adopt_begin(bmvpi_adoption *p, const bmvp_net *net, const bmvp_ckpt *ckpt, bmvp_error *err)
{
    const bmvp_allocator *a = bmvp_allocator_of(net->m.c);
    const size_t n = (size_t)net->state.n;
    int i;
    p->room = 1;
    for (i = 0; i < net->state.n; ++i) p->room = bmvpi_max(p->room, net->state.item[i].t->numel);
    p->how = (int *)a->alloc(n * sizeof *p->how + 1, a->user);
    p->from = (int *)a->alloc(n * sizeof *p->from + 1, a->user);
    p->used = (char *)a->alloc((size_t)ckpt->n_entries + 1, a->user);
    p->buf = (float *)a->alloc((size_t)p->room * 2 * sizeof *p->buf, a->user);
    if (p->used) memset(p->used, 0, (size_t)ckpt->n_entries + 1);
    if (p->how && p->from && p->used && p->buf) return BMVP_OK;
    return bmvp_error_set(err, BMVP_E_OOM, "out of memory for reading %s", ckpt->path);
}

static void bmvpi_adopt_end(bmvpi_adoption *p, bmvp_ctx *c)
{
    bmvpi_free(c, p->how);
    bmvpi_free(c, p->from);
    bmvpi_free(c, p->used);
    bmvpi_free(c, p->buf);
}

BMVP_API bmvp_status bmvp_net_adopt(bmvp_net *net, bmvp_ckpt *ckpt, int flags, bmvp_net_adoption *what,
                                    bmvp_error *err)
{
    bmvp_state_list *l = &net->state;
    bmvp_net_config source;
    bmvpi_adoption p;
    const char *group;
    bmvp_status st = bmvp_state_group(ckpt, &group, err);
    int i;
    memset(&p, 0, sizeof p);
    if (!st) st = bmvpi_adopt_source(net, ckpt, group, &source, err);
    if (!st) st = bmvpi_adopt_begin(&p, net, ckpt, err);
    if (what) memset(what->n, 0, sizeof what->n);
    for (i = 0; i < l->n && !st; ++i) {
        p.how[i] = bmvpi_adopt_how(net, ckpt, group, &l->item[i], &source, flags, &p.from[i], err);
        if (p.how[i] < 0) st = err ? err->status : BMVP_E_FORMAT;
        else if (p.from[i] >= 0) p.used[p.from[i]] = 1;
    }
    if (!st) st = bmvpi_adopt_all_used(net, ckpt, group, p.used, err);
    for (i = 0; i < l->n && !st; ++i) {
        st = bmvpi_adopt_fill(net->m.c, ckpt, p.from[i], &l->item[i], p.how[i], p.buf, p.room, err);
        if (what) ++what->n[p.how[i]];
        if (what && what->how) what->how[i] = (unsigned char)p.how[i];
    }
    bmvpi_adopt_end(&p, net->m.c);
    return st;
}

/* >>bump: memory that is freed all at once ------------------------------------------------------------------------- */

typedef struct bmvpi_bump_chunk {
    struct bmvpi_bump_chunk *next;
    size_t cap, used; /* bytes behind this header */
} bmvpi_bump_chunk;

typedef struct bmvpi_bump {
    bmvp_allocator a;
    bmvpi_bump_chunk *top;
    uint64_t total, most; /* bytes taken; no more than these (0: as many as there are) */
    int full;             /* they were not enough */
} bmvpi_bump;

static bmvp_allocator bmvpi_allocator_or_libc(const bmvp_allocator *a)
{
    bmvp_allocator libc;
    libc.alloc = bmvpi_libc_alloc;
    libc.free = bmvpi_libc_free;
    libc.user = NULL;
    return a && a->alloc && a->free ? *a : libc;
}

/* n bytes, aligned for every type used here, not zeroed; NULL when memory is short. Chunks double, so that a file of
   any size takes few allocations and wastes at most half. */
static void *bmvpi_bump_get(bmvpi_bump *b, size_t n)
{
    bmvpi_bump_chunk *c = b->top;
    size_t cap = 4096;
    if (n > SIZE_MAX / 4) return NULL;
    n = (n + 7) & ~(size_t)7;
    if (!c || c->cap - c->used < n) {
        if (c) cap = c->cap < ((size_t)1 << 20) ? c->cap * 2 : c->cap;
        if (cap < n) cap = n;
        if (b->most && b->total + cap > b->most) {
            b->full = 1;
            return NULL;
        }
        c = (bmvpi_bump_chunk *)b->a.alloc(sizeof *c + cap, b->a.user);
        if (!c) return NULL;
        c->next = b->top;
        c->cap = cap;
        c->used = 0;
        b->top = c;
        b->total += cap;
    }
    c->used += n;
    return (char *)(c + 1) + (c->used - n);
}

static char *bmvpi_bump_text(bmvpi_bump *b, const char *s, size_t n)
{
    char *p = (char *)bmvpi_bump_get(b, n + 1);
    if (!p) return NULL;
    if (n) memcpy(p, s, n);
    p[n] = 0;
    return p;
}

static void bmvpi_bump_free(bmvpi_bump *b)
{
    while (b->top) {
        bmvpi_bump_chunk *c = b->top;
        b->top = c->next;
        b->a.free(c, b->a.user);
    }
}

/* Room for one more element in an array that lives in the bump memory; 0 when memory is short. */
static int bmvpi_bump_grow(bmvpi_bump *b, void **array, int64_t n, int64_t *cap, size_t size)
{
    const int64_t more = *cap ? *cap * 2 : 8;
    void *p;
    if (n < *cap) return 1;
    if ((uint64_t)more > SIZE_MAX / 4 / size || !(p = bmvpi_bump_get(b, (size_t)more * size))) return 0;
    if (n) memcpy(p, *array, (size_t)n * size);
    *array = p;
    *cap = more;
    return 1;
}

/* >>text ----------------------------------------------------------------------------------------------------------- */

/* Bytes of the UTF-8 character at p (n > 0 bytes are left), 0 if it is not valid: overlong forms, surrogates and values
   above U+10FFFF are refused (Unicode 15, table 3-7). */
static size_t bmvpi_utf8_next(const char *text, size_t n)
{
    const unsigned char *p = (const unsigned char *)text;
    size_t k, i;
    unsigned lo = 0x80, hi = 0xbf; /* range of the second byte */
    if (p[0] < 0x80) return 1;
    if (p[0] < 0xc2 || p[0] > 0xf4) return 0;
    k = p[0] < 0xe0 ? 2 : p[0] < 0xf0 ? 3 : 4;
    if (p[0] == 0xe0) lo = 0xa0;
    if (p[0] == 0xed) hi = 0x9f;
    if (p[0] == 0xf0) lo = 0x90;
    if (p[0] == 0xf4) hi = 0x8f;
    if (n < k || p[1] < lo || p[1] > hi) return 0;
    for (i = 2; i < k; i++)
        if (p[i] < 0x80 || p[i] > 0xbf) return 0;
    return k;
}

static int bmvpi_utf8_valid(const char *s, size_t n)
{
    size_t i = 0;
    while (i < n) {
        const size_t k = bmvpi_utf8_next(s + i, n - i);
        if (!k) return 0;
        i += k;
    }
    return 1;
}

/* Code point -> UTF-8; returns the number of bytes. */
static size_t bmvpi_utf8_put(uint32_t c, char *out)
{
    const size_t k = c < 0x80 ? 1 : c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
    size_t i;
    static const uint8_t lead[5] = { 0, 0, 0xc0, 0xe0, 0xf0 };
    for (i = k; i-- > 1; c >>= 6) out[i] = (char)(0x80 | (c & 0x3f));
    out[0] = (char)(lead[k] | c);
    return k;
}

typedef struct bmvpi_shown { char text[84]; } bmvpi_shown;

/* A name from a file as it may stand in a message: control characters replaced (they could drive a terminal),
   shortened. */
static bmvpi_shown bmvpi_show(const char *s, size_t n)
{
    bmvpi_shown r;
    size_t i;
    const size_t m = n < 80 ? n : 77;
    for (i = 0; i < m; i++) r.text[i] = (unsigned char)s[i] < 32 || s[i] == 127 ? '?' : s[i];
    if (n > m)
        for (; i < 80; i++) r.text[i] = '.';
    r.text[i] = 0;
    return r;
}

static int bmvpi_text_order(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* Sorts the n strings and returns one that comes twice, or NULL. */
static const char *bmvpi_text_twice(const char **s, size_t n)
{
    size_t i;
    if (n > 1) qsort(s, n, sizeof *s, bmvpi_text_order);
    for (i = 1; i < n; i++)
        if (!strcmp(s[i - 1], s[i])) return s[i];
    return NULL;
}

/* Locale-proof number text: C's conversions use the locale's decimal point, files always have '.'. Finds what stands
   between the digits of 0.5. */
static size_t bmvpi_decimal_point(char out[16])
{
    char half[32];
    const int n = snprintf(half, sizeof half, "%.1f", 0.5);
    const size_t k = n > 2 && n < 18 ? (size_t)n - 2 : 1;
    memcpy(out, half + 1, k);
    out[k] = 0;
    return k;
}

/* Fewest digits that read back as the same number: as float if single, else as double. Finite values only. out: 40
   bytes. */
static void bmvpi_number_text(char *out, double v, int single)
{
    char point[16], *at;
    const size_t k = bmvpi_decimal_point(point);
    int digits = single ? 6 : 15;
    for (;; digits++) {
        snprintf(out, 40, "%.*g", digits, v);
        if (digits >= (single ? 9 : 17)) break;
        if (single ? strtof(out, NULL) == (float)v : strtod(out, NULL) == v) break;
    }
    at = strstr(out, point);
    if (at) {
        *at = '.';
        memmove(at + 1, at + k, strlen(at + k) + 1);
    }
}

/* Reads number text (already checked, n < 400 characters) with '.' in every locale. */
static double bmvpi_number_value(const char *text, size_t n)
{
    char buf[432], point[16];
    const size_t k = bmvpi_decimal_point(point);
    const char *dot = (const char *)memchr(text, '.', n);
    const size_t head = dot ? (size_t)(dot - text) : n;
    memcpy(buf, text, head);
    if (dot) {
        memcpy(buf + head, point, k);
        memcpy(buf + head + k, dot + 1, n - head - 1);
        n += k - 1;
    }
    buf[n] = 0;
    return strtod(buf, NULL);
}

/* >>files impl ----------------------------------------------------------------------------------------------------- */

BMVP_API void bmvp_bytes_init(bmvp_bytes *b, const bmvp_allocator *a)
{
    memset(b, 0, sizeof *b);
    b->allocator = bmvpi_allocator_or_libc(a);
}

BMVP_API void bmvp_bytes_append(bmvp_bytes *b, const void *data, size_t bytes)
{
    if (b->failed) return;
    if (bytes >= SIZE_MAX / 4 - b->len) { b->failed = 1; return; }
    if (b->len + bytes + 1 > b->cap) {
        size_t cap = b->cap ? b->cap * 2 : 256;
        char *p;
        while (cap < b->len + bytes + 1) cap *= 2;
        p = (char *)b->allocator.alloc(cap, b->allocator.user);
        if (!p) { b->failed = 1; return; }
        if (b->len) memcpy(p, b->data, b->len);
        if (b->data) b->allocator.free(b->data, b->allocator.user);
        b->data = p;
        b->cap = cap;
    }
    if (bytes) memcpy(b->data + b->len, data, bytes);
    b->len += bytes;
    b->data[b->len] = 0;
}

BMVP_API void bmvp_bytes_free(bmvp_bytes *b)
{
    if (b->data) b->allocator.free(b->data, b->allocator.user);
    bmvp_bytes_init(b, &b->allocator);
}

typedef struct bmvpi_in { /* a regular file open for reading */
    int fd;
    int64_t size;
    const char *path;
} bmvpi_in;

static bmvp_status bmvpi_in_open(bmvpi_in *in, const char *path, bmvp_error *err)
{
    in->path = path;
    in->fd = bmvpi_sys_open(path, BMVPI_SYS_READ);
    if (in->fd < 0) return bmvp_error_set(err, BMVP_E_IO, "%.300s: cannot be opened: %s", path, strerror(errno));
    in->size = bmvpi_sys_size(in->fd);
    if (in->size >= 0) return BMVP_OK;
    bmvpi_sys_close(in->fd);
    in->fd = -1;
    return bmvp_error_set(err, BMVP_E_IO, "%.300s: is not a regular file", path);
}

static bmvp_status bmvpi_in_read(const bmvpi_in *in, int64_t at, void *dst, int64_t n, bmvp_error *err)
{
    char *p = (char *)dst;
    while (n > 0) {
        const int64_t k = bmvpi_sys_read(in->fd, p, n, at);
        if (k < 0 && errno == EINTR) continue;
        if (k < 0) return bmvp_error_set(err, BMVP_E_IO, "%.300s: cannot be read: %s", in->path, strerror(errno));
        if (k == 0) return bmvp_error_set(err, BMVP_E_IO, "%.300s: became shorter while it was read", in->path);
        p += k;
        at += k;
        n -= k;
    }
    return BMVP_OK;
}

BMVP_API bmvp_status bmvp_file_read(const char *path, size_t max_bytes, bmvp_bytes *out, bmvp_error *err)
{
    bmvpi_in in;
    bmvp_status s = bmvpi_in_open(&in, path, err);
    char piece[16384];
    int64_t at = 0;
    if (s) return s;
    if ((uint64_t)in.size > max_bytes)
        s = bmvp_error_set(err, BMVP_E_UNSUPPORTED, "%.300s: has %.1f MB, more than the %.1f MB read at most", path,
                           (double)in.size / 1e6, (double)max_bytes / 1e6);
    while (!s && at < in.size) {
        const int64_t n = in.size - at < (int64_t)sizeof piece ? in.size - at : (int64_t)sizeof piece;
        s = bmvpi_in_read(&in, at, piece, n, err);
        if (!s) bmvp_bytes_append(out, piece, (size_t)n);
        at += n;
    }
    if (!s) bmvp_bytes_append(out, "", 0);
    if (!s && out->failed) s = bmvp_error_set(err, BMVP_E_OOM, "%.300s: out of memory while reading", path);
    bmvpi_sys_close(in.fd);
    return s;
}

typedef struct bmvpi_out { /* a file that appears under its name only when complete */
    bmvp_allocator a;
    int fd;             /* -1: not open */
    char *path, *tmp;   /* one allocation */
} bmvpi_out;

static bmvp_status bmvpi_out_error(const bmvpi_out *o, const char *what, bmvp_error *err)
{
    const char *hint =
        errno == ENOSPC || errno == EFBIG ? " (free some space; the file that was there before is kept)" : "";
    return bmvp_error_set(err, BMVP_E_IO, "%.250s: %s: %s%s", o->path, what, strerror(errno), hint);
}

static void bmvpi_out_discard(bmvpi_out *o)
{
    if (o->fd >= 0) {
        bmvpi_sys_close(o->fd);
        bmvpi_sys_remove(o->tmp);
    }
    o->fd = -1;
    if (o->path) o->a.free(o->path, o->a.user);
    o->path = o->tmp = NULL;
}

static bmvp_status bmvpi_out_open(bmvpi_out *o, const char *path, const bmvp_allocator *a, bmvp_error *err)
{
    const size_t n = strlen(path), m = 2 * n + 40;
    o->a = bmvpi_allocator_or_libc(a);
    o->fd = -1;
    o->tmp = NULL;
    o->path = (char *)o->a.alloc(m, o->a.user);
    if (!o->path) return bmvp_error_set(err, BMVP_E_OOM, "%.300s: out of memory", path);
    memcpy(o->path, path, n + 1);
    o->tmp = o->path + n + 1;
    snprintf(o->tmp, m - n - 1, "%s.tmp.%ld", path, bmvpi_sys_process());
    o->fd = bmvpi_sys_open(o->tmp, BMVPI_SYS_NEW);
    if (o->fd < 0 && errno == EEXIST) { /* left by a killed process that had our number */
        bmvpi_sys_remove(o->tmp);
        o->fd = bmvpi_sys_open(o->tmp, BMVPI_SYS_NEW);
    }
    return o->fd >= 0 ? BMVP_OK : bmvpi_out_error(o, "cannot be written", err);
}

static bmvp_status bmvpi_out_write(bmvpi_out *o, int64_t at, const void *data, int64_t n, bmvp_error *err)
{
    const char *p = (const char *)data;
    while (n > 0) {
        const int64_t k = bmvpi_sys_write(o->fd, p, n, at);
        if (k < 0 && errno == EINTR) continue;
        if (k < 0) return bmvpi_out_error(o, "cannot be written", err);
        p += k;
        at += k;
        n -= k;
    }
    return BMVP_OK;
}

/* The rename is durable only once the folder is on disk too. Some file systems cannot sync a folder and say EINVAL. */
static bmvp_status bmvpi_out_sync_folder(bmvpi_out *o, bmvp_error *err)
{
    char *slash = strrchr(o->tmp, '/');
    bmvp_status s = BMVP_OK;
    int fd;
    if (slash) slash[slash == o->tmp] = 0;
    fd = bmvpi_sys_open(slash ? o->tmp : ".", BMVPI_SYS_READ);
    if (fd < 0) return BMVP_OK; /* a folder that may be written but not read; Windows opens none */
    if (bmvpi_sys_sync(fd) && errno == EIO) s = bmvpi_out_error(o, "folder cannot be synced", err);
    bmvpi_sys_close(fd);
    return s;
}

/* Frees o in every case. */
static bmvp_status bmvpi_out_commit(bmvpi_out *o, bmvp_error *err)
{
    bmvp_status s = BMVP_OK;
    int failed;
    if (bmvpi_sys_sync(o->fd)) s = bmvpi_out_error(o, "cannot be synced to disk", err);
    if (!s) {
        failed = bmvpi_sys_close(o->fd);
        o->fd = -1;
        if (failed) s = bmvpi_out_error(o, "cannot be closed", err);
        if (!s && bmvpi_sys_rename(o->tmp, o->path)) s = bmvpi_out_error(o, "cannot be replaced", err);
        if (s) bmvpi_sys_remove(o->tmp);
        else s = bmvpi_out_sync_folder(o, err);
    }
    bmvpi_out_discard(o);
    return s;
}

BMVP_API bmvp_status bmvp_file_write(const char *path, const void *data, size_t bytes, const bmvp_allocator *a,
                                     bmvp_error *err)
{
    bmvpi_out o;
    bmvp_status s = bmvpi_out_open(&o, path, a, err);
    if (!s) s = bmvpi_out_write(&o, 0, data, (int64_t)bytes, err);
    if (!s) return bmvpi_out_commit(&o, err);
    bmvpi_out_discard(&o);
    return s;
}

/* >>json parser ---------------------------------------------------------------------------------------------------- */

struct bmvp_json_doc {
    bmvpi_bump mem;
    bmvp_json *root;
};

typedef struct bmvpi_jp { /* parser state */
    const char *text, *p, *end, *name;
    bmvpi_bump *mem;
    int depth;
    bmvp_status status;
    bmvp_error *err;
} bmvpi_jp;

/* Fails at q with "name:line:column: what, found ...". Only the first failure counts. Returns 0. */
static int bmvpi_jp_fail(bmvpi_jp *j, const char *q, const char *what)
{
    int64_t line = 1, column = 1;
    const char *t;
    char found[32];
    if (j->status) return 0;
    for (t = j->text; t < q; t++) {
        column = *t == '\n' ? 1 : column + ((*t & 0xc0) != 0x80); /* counts characters, not bytes */
        line += *t == '\n';
    }
    if (q >= j->end) snprintf(found, sizeof found, "the end of the text");
    else if (*q > 32 && *q < 127) snprintf(found, sizeof found, "'%c'", *q);
    else snprintf(found, sizeof found, "byte 0x%02x", (unsigned char)*q);
    j->status = bmvp_error_set(j->err, BMVP_E_FORMAT, "%.300s:%lld:%lld: %s, found %s", j->name, (long long)line,
                               (long long)column, what, found);
    return 0;
}

static int bmvpi_jp_oom(bmvpi_jp *j)
{
    if (!j->status) j->status = bmvp_error_set(j->err, BMVP_E_OOM, "%.300s: out of memory while reading JSON", j->name);
    return 0;
}

static void bmvpi_jp_space(bmvpi_jp *j)
{
    while (j->p < j->end && (*j->p == ' ' || *j->p == '\t' || *j->p == '\n' || *j->p == '\r')) j->p++;
}

/* Four hexadecimal digits at q; -1 if they are not. */
static int32_t bmvpi_jp_hex4(const bmvpi_jp *j, const char *q)
{
    int32_t v = 0;
    int i;
    if (j->end - q < 4) return -1;
    for (i = 0; i < 4; i++) {
        const char c = q[i];
        const int d = c >= '0' && c <= '9'   ? c - '0'
                      : c >= 'a' && c <= 'f' ? c - 'a' + 10
                      : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                             : -1;
        if (d < 0) return -1;
        v = v * 16 + d;
    }
    return v;
}

/* Character after a backslash at p -> its UTF-8 in out; returns the bytes written, 0 after a failure. */
static size_t bmvpi_jp_escape(bmvpi_jp *j, char *out)
{
    static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
    const char *hit = j->p < j->end && *j->p ? strchr(from, *j->p) : NULL;
    int32_t c, low;
    if (hit) {
        j->p++;
        *out = to[hit - from];
        return 1;
    }
    if (j->p >= j->end || *j->p != 'u')
        return (size_t)bmvpi_jp_fail(j, j->p, "expected one of \" \\ / b f n r t u after a backslash");
    c = bmvpi_jp_hex4(j, j->p + 1);
    if (c < 0) return (size_t)bmvpi_jp_fail(j, j->p, "expected four hexadecimal digits after \\u");
    if (c == 0) return (size_t)bmvpi_jp_fail(j, j->p, "expected a character other than \\u0000");
    if (c >= 0xdc00 && c <= 0xdfff) return (size_t)bmvpi_jp_fail(j, j->p, "expected a high surrogate before a low one");
    j->p += 5;
    if (c < 0xd800 || c > 0xdfff) return bmvpi_utf8_put((uint32_t)c, out);
    low = j->end - j->p >= 6 && j->p[0] == '\\' && j->p[1] == 'u' ? bmvpi_jp_hex4(j, j->p + 2) : -1;
    if (low < 0xdc00 || low > 0xdfff)
        return (size_t)bmvpi_jp_fail(j, j->p, "expected \\u with a low surrogate after a high one");
    j->p += 6;
    return bmvpi_utf8_put(0x10000u + ((uint32_t)(c - 0xd800) << 10) + (uint32_t)(low - 0xdc00), out);
}

/* String with its quotes at p -> 0-terminated copy; NULL after a failure. */
static const char *bmvpi_jp_string(bmvpi_jp *j, int64_t *length)
{
    const char *q = j->p + 1;
    char *out, *start;
    while (q < j->end && *q != '"') q += *q == '\\' && j->end - q > 1 ? 2 : 1;
    start = out = (char *)bmvpi_bump_get(j->mem, (size_t)(q - j->p)); /* unescaping never makes text longer */
    if (!out) { bmvpi_jp_oom(j); return NULL; }
    j->p++;
    for (;;) {
        size_t k;
        if (j->p >= j->end) { bmvpi_jp_fail(j, j->p, "expected '\"' at the end of a string"); return NULL; }
        if (*j->p == '"') break;
        if (*j->p == '\\') {
            j->p++;
            if (!(k = bmvpi_jp_escape(j, out))) return NULL;
        } else {
            if ((unsigned char)*j->p < 32) {
                bmvpi_jp_fail(j, j->p, "expected \\n, \\t or \\u for a control character in a string");
                return NULL;
            }
            k = bmvpi_utf8_next(j->p, (size_t)(j->end - j->p));
            if (!k) { bmvpi_jp_fail(j, j->p, "expected UTF-8"); return NULL; }
            memcpy(out, j->p, k);
            j->p += k;
        }
        out += k;
    }
    j->p++;
    *out = 0;
    *length = (int64_t)(out - start);
    return start;
}

static int bmvpi_jp_digits(bmvpi_jp *j)
{
    const char *q = j->p;
    while (j->p < j->end && *j->p >= '0' && *j->p <= '9') j->p++;
    return j->p > q;
}

/* Is the number of these characters an integer of 64 bits? By its digits: from 2^53 on a double is many integers. */
static int bmvpi_jp_integer(const char *p, const char *end, int64_t *value)
{
    const int negative = *p == '-';
    const char *mantissa, *q;
    int64_t n = 0;
    int places = 0, exponent = 0; /* places: digits that stand before the point, once the exponent has moved it */
    for (mantissa = p += negative; mantissa < end && *mantissa != 'e' && *mantissa != 'E';) mantissa++;
    for (q = mantissa; q < end; q++)
        if (*q >= '0' && *q <= '9' && exponent < 1000) exponent = 10 * exponent + (*q - '0');
    for (q = p; q < mantissa && *q != '.';) q++;
    places = (int)(q - p) + (mantissa + 1 < end && mantissa[1] == '-' ? -exponent : exponent);
    while (mantissa > p && (mantissa[-1] == '0' || (mantissa[-1] == '.' && q < mantissa))) mantissa--;
    *value = 0;
    if (mantissa == p) return 1; /* zero, with any exponent */
    for (; p < mantissa || places > 0; places--) {
        int digit = 0;
        if (p < mantissa && *p == '.') p++;
        if (p < mantissa) digit = *p++ - '0';
        if ((places <= 0 && digit) || n < (INT64_MIN + digit) / 10) return 0;
        n = n * 10 - digit;
    }
    if (!negative && n == INT64_MIN) return 0;
    *value = negative ? n : -n;
    return 1;
}

static int bmvpi_jp_number(bmvpi_jp *j, bmvp_json *v)
{
    const char *start = j->p;
    if (*j->p == '-') j->p++;
    if (j->p < j->end && *j->p == '0') j->p++; /* no digit may follow: then ',' or the like is expected */
    else if (!bmvpi_jp_digits(j)) return bmvpi_jp_fail(j, j->p, "expected a digit");
    if (j->p < j->end && *j->p == '.') {
        j->p++;
        if (!bmvpi_jp_digits(j)) return bmvpi_jp_fail(j, j->p, "expected a digit after '.'");
    }
    if (j->p < j->end && (*j->p == 'e' || *j->p == 'E')) {
        j->p++;
        if (j->p < j->end && (*j->p == '+' || *j->p == '-')) j->p++;
        if (!bmvpi_jp_digits(j)) return bmvpi_jp_fail(j, j->p, "expected a digit in the exponent");
    }
    if (j->p - start >= 400) return bmvpi_jp_fail(j, start, "expected a number of less than 400 characters");
    v->type = BMVP_JSON_NUMBER;
    v->d = bmvpi_number_value(start, (size_t)(j->p - start));
    if (!(v->d >= -DBL_MAX && v->d <= DBL_MAX))
        return bmvpi_jp_fail(j, start, "expected a number within double's range");
    v->is_int = bmvpi_jp_integer(start, j->p, &v->i);
    return 1;
}

static int bmvpi_jp_word(bmvpi_jp *j, bmvp_json *v)
{
    static const char *const word[3] = { "null", "false", "true" };
    int k;
    for (k = 0; k < 3; k++) {
        const size_t n = strlen(word[k]);
        if ((size_t)(j->end - j->p) < n || memcmp(j->p, word[k], n)) continue;
        j->p += n;
        v->type = k ? BMVP_JSON_BOOL : BMVP_JSON_NULL;
        v->i = k == 2;
        return 1;
    }
    return bmvpi_jp_fail(j, j->p, "expected a value");
}

static int bmvpi_jp_value(bmvpi_jp *j, bmvp_json *v);

/* "key" : before an object's member; q is where the key stood. */
static int bmvpi_jp_key(bmvpi_jp *j, bmvp_json *m)
{
    int64_t length;
    if (j->p >= j->end || *j->p != '"') return bmvpi_jp_fail(j, j->p, "expected a key in '\"'");
    if (!(m->key = bmvpi_jp_string(j, &length))) return 0;
    bmvpi_jp_space(j);
    if (j->p >= j->end || *j->p != ':') return bmvpi_jp_fail(j, j->p, "expected ':' after a key");
    j->p++;
    bmvpi_jp_space(j);
    return 1;
}

static int bmvpi_jp_unique(bmvpi_jp *j, const bmvp_json *object)
{
    const char **keys, *twice;
    const bmvp_json *m;
    size_t n = 0;
    if (object->i < 2) return 1;
    keys = (const char **)j->mem->a.alloc((size_t)object->i * sizeof *keys, j->mem->a.user);
    if (!keys) return bmvpi_jp_oom(j);
    for (m = object->first; m; m = m->next) keys[n++] = m->key;
    twice = bmvpi_text_twice(keys, n);
    j->mem->a.free((void *)keys, j->mem->a.user);
    if (twice) {
        char what[140];
        snprintf(what, sizeof what, "key '%s' comes twice in the object that ends here",
                 bmvpi_show(twice, strlen(twice)).text);
        return bmvpi_jp_fail(j, j->p - 1, what);
    }
    return 1;
}

static int bmvpi_jp_members(bmvpi_jp *j, bmvp_json *v)
{
    const int object = *j->p == '{';
    const char close_with = object ? '}' : ']';
    bmvp_json *last = NULL;
    if (++j->depth > BMVP_JSON_MAX_DEPTH)
        return bmvpi_jp_fail(j, j->p, "expected fewer arrays and objects inside each other");
    v->type = object ? BMVP_JSON_OBJECT : BMVP_JSON_ARRAY;
    j->p++;
    bmvpi_jp_space(j);
    while (j->p >= j->end || *j->p != close_with || last) {
        bmvp_json *m = (bmvp_json *)bmvpi_bump_get(j->mem, sizeof *m);
        if (!m) return bmvpi_jp_oom(j);
        memset(m, 0, sizeof *m);
        if (object && !bmvpi_jp_key(j, m)) return 0;
        if (!bmvpi_jp_value(j, m)) return 0;
        if (last) last->next = m;
        else v->first = m;
        last = m;
        v->i++;
        bmvpi_jp_space(j);
        if (j->p < j->end && *j->p == close_with) break;
        if (j->p >= j->end || *j->p != ',')
            return bmvpi_jp_fail(j, j->p, object ? "expected ',' or '}'" : "expected ',' or ']'");
        j->p++;
        bmvpi_jp_space(j);
    }
    j->p++;
    j->depth--;
    return !object || bmvpi_jp_unique(j, v);
}

static int bmvpi_jp_value(bmvpi_jp *j, bmvp_json *v)
{
    const char c = j->p < j->end ? *j->p : 0;
    if (c == '{' || c == '[') return bmvpi_jp_members(j, v);
    if (c == '-' || (c >= '0' && c <= '9')) return bmvpi_jp_number(j, v);
    if (c != '"') return bmvpi_jp_word(j, v);
    v->type = BMVP_JSON_STRING;
    return (v->str = bmvpi_jp_string(j, &v->i)) != NULL;
}

BMVP_API bmvp_status bmvp_json_parse(const char *text, size_t bytes, const char *name, const bmvp_allocator *a,
                                     bmvp_json_doc **doc, bmvp_error *err)
{
    const bmvp_allocator al = bmvpi_allocator_or_libc(a);
    bmvp_json_doc *d = (bmvp_json_doc *)al.alloc(sizeof *d, al.user);
    bmvpi_jp j;
    *doc = NULL;
    if (!d) return bmvp_error_set(err, BMVP_E_OOM, "%.300s: out of memory while reading JSON", name);
    memset(d, 0, sizeof *d);
    d->mem.a = al;
    memset(&j, 0, sizeof j);
    j.text = j.p = text;
    j.end = text + bytes;
    j.name = name;
    j.mem = &d->mem;
    j.err = err;
    if (bytes >= 3 && !memcmp(text, "\xef\xbb\xbf", 3)) j.text = j.p = text + 3;
    bmvpi_jp_space(&j);
    d->root = (bmvp_json *)bmvpi_bump_get(&d->mem, sizeof *d->root);
    if (!d->root) bmvpi_jp_oom(&j);
    else {
        memset(d->root, 0, sizeof *d->root);
        if (bmvpi_jp_value(&j, d->root)) bmvpi_jp_space(&j);
        if (!j.status && j.p < j.end) bmvpi_jp_fail(&j, j.p, "expected nothing more after the value");
    }
    if (j.status) bmvp_json_free(d);
    else *doc = d;
    return j.status;
}

BMVP_API bmvp_status bmvp_json_read(const char *path, const bmvp_allocator *a, bmvp_json_doc **doc, bmvp_error *err)
{
    bmvp_bytes b;
    bmvp_status s;
    *doc = NULL;
    bmvp_bytes_init(&b, a);
    s = bmvp_file_read(path, (size_t)1 << 28, &b, err);
    if (!s) s = bmvp_json_parse(b.data, b.len, path, a, doc, err);
    bmvp_bytes_free(&b);
    return s;
}

BMVP_API void bmvp_json_free(bmvp_json_doc *doc)
{
    if (!doc) return;
    bmvpi_bump_free(&doc->mem);
    doc->mem.a.free(doc, doc->mem.a.user);
}

BMVP_API const bmvp_json *bmvp_json_root(const bmvp_json_doc *doc) { return doc ? doc->root : NULL; }

BMVP_API const bmvp_json *bmvp_json_get(const bmvp_json *object, const char *key)
{
    const bmvp_json *m = object && object->type == BMVP_JSON_OBJECT ? object->first : NULL;
    while (m && strcmp(m->key, key)) m = m->next;
    return m;
}

BMVP_API const bmvp_json *bmvp_json_at(const bmvp_json *array, int64_t index)
{
    const bmvp_json *m = index >= 0 && index < bmvp_json_count(array) ? array->first : NULL;
    while (m && index-- > 0) m = m->next;
    return m;
}

BMVP_API int64_t bmvp_json_count(const bmvp_json *node)
{
    return node && (node->type == BMVP_JSON_ARRAY || node->type == BMVP_JSON_OBJECT) ? node->i : 0;
}

BMVP_API const char *bmvp_json_string(const bmvp_json *node, const char *otherwise)
{
    return node && node->type == BMVP_JSON_STRING ? node->str : otherwise;
}

BMVP_API int64_t bmvp_json_int(const bmvp_json *node, int64_t otherwise)
{
    return node && node->type == BMVP_JSON_NUMBER && node->is_int ? node->i : otherwise;
}

BMVP_API double bmvp_json_double(const bmvp_json *node, double otherwise)
{
    return node && node->type == BMVP_JSON_NUMBER ? node->d : otherwise;
}

BMVP_API int bmvp_json_bool(const bmvp_json *node, int otherwise)
{
    return node && node->type == BMVP_JSON_BOOL ? (int)node->i : otherwise;
}

/* >>json writer ---------------------------------------------------------------------------------------------------- */

BMVP_API void bmvp_jw_init(bmvp_jw *w, int indent, const bmvp_allocator *a)
{
    memset(w, 0, sizeof *w);
    bmvp_bytes_init(&w->out, a);
    w->indent = indent;
}

BMVP_API void bmvp_jw_free(bmvp_jw *w) { bmvp_bytes_free(&w->out); }

BMVP_API void bmvp_jw_reset(bmvp_jw *w)
{
    w->out.len = 0;
    w->out.failed = w->depth = w->misused = 0;
    w->object = w->filled = 0;
}

static void bmvpi_jw_put(bmvp_jw *w, const char *text) { bmvp_bytes_append(&w->out, text, strlen(text)); }

static void bmvpi_jw_line(bmvp_jw *w)
{
    int i;
    if (w->indent <= 0) return;
    bmvpi_jw_put(w, "\n");
    for (i = 0; i < w->indent * w->depth; i++) bmvpi_jw_put(w, " ");
}

static void bmvpi_jw_quote(bmvp_jw *w, const char *s)
{
    const size_t n = strlen(s);
    size_t i = 0;
    bmvpi_jw_put(w, "\"");
    while (i < n) {
        const size_t k = bmvpi_utf8_next(s + i, n - i);
        char code[8];
        if (!k) bmvpi_jw_put(w, "\xef\xbf\xbd");
        else if (s[i] == '"' || s[i] == '\\') {
            code[0] = '\\', code[1] = s[i], code[2] = 0;
            bmvpi_jw_put(w, code);
        } else if (k == 1 && ((unsigned char)s[i] < 32 || s[i] == 127)) {
            if (s[i] == '\n' || s[i] == '\t') snprintf(code, sizeof code, "\\%c", s[i] == '\n' ? 'n' : 't');
            else snprintf(code, sizeof code, "\\u%04x", (unsigned)(unsigned char)s[i]);
            bmvpi_jw_put(w, code);
        } else bmvp_bytes_append(&w->out, s + i, k);
        i += k ? k : 1;
    }
    bmvpi_jw_put(w, "\"");
}

/* What comes before every value: comma, line, key. */
static void bmvpi_jw_before(bmvp_jw *w, const char *key)
{
    const uint64_t bit = w->depth > 0 && w->depth <= 64 ? (uint64_t)1 << (w->depth - 1) : 0;
    if ((key != NULL) != ((w->object & bit) != 0) || (!bit && w->out.len)) w->misused = 1;
    if (w->filled & bit) bmvpi_jw_put(w, w->indent > 0 ? "," : ", ");
    w->filled |= bit;
    if (bit) bmvpi_jw_line(w);
    if (key) {
        bmvpi_jw_quote(w, key);
        bmvpi_jw_put(w, ": ");
    }
}

static void bmvpi_jw_value(bmvp_jw *w, const char *key, const char *text)
{
    bmvpi_jw_before(w, key);
    bmvpi_jw_put(w, text);
}

static void bmvpi_jw_open(bmvp_jw *w, const char *key, int object)
{
    uint64_t bit;
    bmvpi_jw_value(w, key, object ? "{" : "[");
    if (w->depth == BMVP_JSON_MAX_DEPTH) { w->misused = 1; return; }
    bit = (uint64_t)1 << w->depth++;
    w->object = object ? w->object | bit : w->object & ~bit;
    w->filled &= ~bit;
}

BMVP_API void bmvp_jw_object(bmvp_jw *w, const char *key) { bmvpi_jw_open(w, key, 1); }
BMVP_API void bmvp_jw_array(bmvp_jw *w, const char *key) { bmvpi_jw_open(w, key, 0); }

BMVP_API void bmvp_jw_end(bmvp_jw *w)
{
    uint64_t bit;
    if (w->depth == 0) { w->misused = 1; return; }
    bit = (uint64_t)1 << --w->depth;
    if (w->filled & bit) bmvpi_jw_line(w);
    bmvpi_jw_put(w, w->object & bit ? "}" : "]");
}

BMVP_API void bmvp_jw_string(bmvp_jw *w, const char *key, const char *value)
{
    if (!value) { bmvp_jw_null(w, key); return; }
    bmvpi_jw_before(w, key);
    bmvpi_jw_quote(w, value);
}

BMVP_API void bmvp_jw_int(bmvp_jw *w, const char *key, int64_t value)
{
    char text[32];
    snprintf(text, sizeof text, "%lld", (long long)value);
    bmvpi_jw_value(w, key, text);
}

static void bmvpi_jw_number(bmvp_jw *w, const char *key, double value, int single)
{
    char text[40];
    if (!(value >= -DBL_MAX && value <= DBL_MAX)) { bmvp_jw_null(w, key); return; }
    bmvpi_number_text(text, value, single);
    bmvpi_jw_value(w, key, text);
}

BMVP_API void bmvp_jw_float(bmvp_jw *w, const char *key, float value) { bmvpi_jw_number(w, key, (double)value, 1); }
BMVP_API void bmvp_jw_double(bmvp_jw *w, const char *key, double value) { bmvpi_jw_number(w, key, value, 0); }
BMVP_API void bmvp_jw_bool(bmvp_jw *w, const char *key, int value) { bmvpi_jw_value(w, key, value ? "true" : "false"); }
BMVP_API void bmvp_jw_null(bmvp_jw *w, const char *key) { bmvpi_jw_value(w, key, "null"); }

BMVP_API bmvp_status bmvp_jw_finish(bmvp_jw *w, bmvp_error *err)
{
    const int open_level = w->depth > 0 && !w->misused;
    if (!w->out.failed && (w->misused || w->depth || !w->out.len))
        return bmvp_error_set(
            err, BMVP_E_STATE, "JSON writer: %s",
            open_level
                ? "a level was not ended"
                : "calls do not make one JSON value (a key in an array, none in an object, too deep, or nothing)");
    bmvpi_jw_put(w, "\n");
    return w->out.failed ? bmvp_error_set(err, BMVP_E_OOM, "JSON writer: out of memory") : BMVP_OK;
}

/* >>checkpoint base ------------------------------------------------------------------------------------------------ */

static const struct { int64_t size; const char *storage, *name; } bmvpi_dtype_table[BMVP_DTYPE_COUNT] = {
#define BMVP_X(id, size, storage, name) { size, storage, name },
    BMVP_DTYPES(BMVP_X)
#undef BMVP_X
};
static const char *const bmvpi_dtype_ids[BMVP_DTYPE_COUNT] = { /* as safetensors spells them */
#define BMVP_X(id, size, storage, name) #id,
    BMVP_DTYPES(BMVP_X)
#undef BMVP_X
};
static const char *const bmvpi_meta_kinds[6] = { "string", "int", "float", "bool", "none", "json" };

BMVP_API const char *bmvp_dtype_name(bmvp_dtype t)
{
    return (unsigned)t < BMVP_DTYPE_COUNT ? bmvpi_dtype_table[t].name : "unknown";
}

BMVP_API int64_t bmvp_dtype_size(bmvp_dtype t)
{
    return (unsigned)t < BMVP_DTYPE_COUNT ? bmvpi_dtype_table[t].size : 0;
}

/* CRC-32 of zip (ISO-HDLC), eight bytes a turn: table k advances a byte by k more bytes of zeros. */
typedef struct bmvpi_crc { uint32_t t[8][256]; } bmvpi_crc;

static void bmvpi_crc_init(bmvpi_crc *c)
{
    uint32_t i, k, v;
    for (i = 0; i < 256; i++) {
        for (v = i, k = 0; k < 8; k++) v = (v >> 1) ^ (v & 1 ? 0xedb88320u : 0);
        c->t[0][i] = v;
    }
    for (i = 0; i < 256; i++)
        for (k = 1; k < 8; k++) c->t[k][i] = (c->t[k - 1][i] >> 8) ^ c->t[0][c->t[k - 1][i] & 255];
}

static uint32_t bmvpi_crc_add(const bmvpi_crc *c, uint32_t crc, const void *data, int64_t n)
{
    const uint8_t *p = (const uint8_t *)data;
    crc = ~crc;
    for (; n >= 8; n -= 8, p += 8) {
        const uint32_t a = crc ^ (p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24);
        crc = c->t[7][a & 255] ^ c->t[6][a >> 8 & 255] ^ c->t[5][a >> 16 & 255] ^ c->t[4][a >> 24] ^ c->t[3][p[4]] ^
              c->t[2][p[5]] ^ c->t[1][p[6]] ^ c->t[0][p[7]];
    }
    for (; n > 0; n--, p++) crc = (crc >> 8) ^ c->t[0][(crc ^ *p) & 255];
    return ~crc;
}

static uint64_t bmvpi_le_get(const void *data, int n)
{
    const uint8_t *p = (const uint8_t *)data;
    uint64_t v = 0;
    while (n-- > 0) v = v << 8 | p[n];
    return v;
}

static void bmvpi_le_put(void *data, int n, uint64_t v)
{
    uint8_t *p = (uint8_t *)data;
    for (; n > 0; n--, v >>= 8) *p++ = (uint8_t)v;
}

/* Loading and writing copy whole tensors, which lie little-endian in files. */
static int bmvpi_is_little_endian(void)
{
    const uint16_t one = 1;
    uint8_t first;
    memcpy(&first, &one, 1);
    return first == 1;
}

/* Elements as they lie in a file become the machine's, where they are. */
static void bmvpi_le_native(void *data, int64_t numel, int64_t size)
{
    uint8_t *p = (uint8_t *)data;
    int64_t i, k;
    if (bmvpi_is_little_endian()) return;
    for (i = 0; i < numel; i++, p += size)
        for (k = 0; k < size / 2; k++) {
            const uint8_t b = p[k];
            p[k] = p[size - 1 - k];
            p[size - 1 - k] = b;
        }
}

/* Element count and bytes of a shape; 0 if it has more than BMVP_MAX_DIMS axes, a negative one, or does not fit. */
static int bmvpi_ck_shape(bmvp_ckpt_entry *e, bmvp_dtype dtype, int64_t rank, const int64_t *dim)
{
    int64_t i, n = 1;
    if (rank < 0 || rank > BMVP_MAX_DIMS) return 0;
    e->dtype = dtype;
    e->rank = (int)rank;
    for (i = 0; i < BMVP_MAX_DIMS; i++) {
        e->dim[i] = i < rank ? dim[i] : 1;
        n = bmvpi_mul_size(n, e->dim[i]);
    }
    e->numel = n;
    e->bytes = bmvpi_mul_size(n, bmvp_dtype_size(dtype));
    e->contiguous = 1;
    for (i = BMVP_MAX_DIMS, n = 1; i-- > 0; n *= e->dim[i] > 0 ? e->dim[i] : 1) {
        if (e->bytes < 0 || n > INT64_MAX / (e->dim[i] > 0 ? e->dim[i] : 1))
            return 0; /* (0, 2^62, 2^62) has no strides */
        e->stride[i] = n;
    }
    return 1;
}

typedef struct bmvpi_record { /* a run of bytes of the file */
    const char *name;
    int64_t at, size; /* zip: `at` is the local header until resolved */
    uint32_t crc;
    int stored, resolved, verified; /* stored: neither compressed nor encrypted */
    int element;      /* bytes of an element, of a pickle without zip */
} bmvpi_record;

typedef struct bmvpi_ckpt_file { /* what bmvp_ckpt keeps to itself */
    bmvp_ckpt ck;
    bmvpi_in in;
    bmvpi_bump mem;
    bmvpi_record *record; /* zip: sorted by name */
    int64_t n_records, cap_records;
    int64_t zip_end;      /* where the central directory begins */
    bmvp_ckpt_entry *entry;
    bmvp_ckpt_meta *meta;
    int64_t n_entries, cap_entries, n_meta, cap_meta;
    bmvpi_crc crc;
} bmvpi_ckpt_file;

/* Memory that reading a file may take, beside the values of its tensors: far more than torch.save's own files need
   (three to eight times the pickle), and a bound for those that share containers to blow up. */
static uint64_t bmvpi_ck_most(int64_t file_bytes) { return 16 * (uint64_t)file_bytes + ((uint64_t)48 << 20); }

static bmvp_status bmvpi_ck_oom(const bmvpi_ckpt_file *f, bmvp_error *err)
{
    if (f->mem.full)
        return bmvp_error_set(err, BMVP_E_FORMAT,
                              "%.300s: describes more than fits in 16 times its size and 48 MB: no checkpoint does",
                              f->ck.path);
    return bmvp_error_set(err, BMVP_E_OOM, "%.300s: out of memory while reading", f->ck.path);
}

static bmvp_status bmvpi_ck_add(bmvpi_ckpt_file *f, const bmvp_ckpt_entry *e, bmvp_error *err)
{
    if (f->n_entries >= INT32_MAX / 2 ||
        !bmvpi_bump_grow(&f->mem, (void **)&f->entry, f->n_entries, &f->cap_entries, sizeof *e))
        return bmvpi_ck_oom(f, err);
    f->entry[f->n_entries++] = *e;
    return BMVP_OK;
}

static bmvp_status bmvpi_ck_add_meta(bmvpi_ckpt_file *f, const bmvp_ckpt_meta *m, bmvp_error *err)
{
    if (f->n_meta >= INT32_MAX / 2 || !bmvpi_bump_grow(&f->mem, (void **)&f->meta, f->n_meta, &f->cap_meta, sizeof *m))
        return bmvpi_ck_oom(f, err);
    f->meta[f->n_meta++] = *m;
    return BMVP_OK;
}

/* "group.name", or "name" without a group; NULL when memory is short. */
static const char *bmvpi_ck_full(bmvpi_bump *mem, const char *group, const char *name)
{
    const size_t g = strlen(group), n = strlen(name);
    char *p = (char *)bmvpi_bump_get(mem, g + n + 2);
    if (!p) return NULL;
    memcpy(p, group, g);
    if (g) p[g] = '.';
    memcpy(p + g + (g > 0), name, n + 1);
    return p;
}

/* Fails if two entries of this list have the same full name. */
static bmvp_status bmvpi_ck_unique(const char *path, const bmvp_allocator *a, const bmvp_ckpt_entry *e, int64_t n,
                                   bmvp_error *err)
{
    bmvpi_bump mem;
    const char **names, *twice;
    int64_t i;
    bmvp_status s = BMVP_OK;
    memset(&mem, 0, sizeof mem);
    mem.a = *a;
    names = (const char **)bmvpi_bump_get(&mem, (size_t)n * sizeof *names);
    for (i = 0; names && i < n; i++)
        if (!(names[i] = bmvpi_ck_full(&mem, e[i].group, e[i].name))) break;
    if (!names || i < n) s = bmvp_error_set(err, BMVP_E_OOM, "%.300s: out of memory", path);
    else if ((twice = bmvpi_text_twice(names, (size_t)n)) != NULL)
        s = bmvp_error_set(err, BMVP_E_FORMAT, "%.300s: two tensors have the name '%s'", path,
                           bmvpi_show(twice, strlen(twice)).text);
    bmvpi_bump_free(&mem);
    return s;
}

/* >>zip ------------------------------------------------------------------------------------------------------------ */

/* PKWARE APPNOTE 6.3: sections 4.3.7 (local header), 4.3.12 (central directory), 4.3.14 to 4.3.16 (ends), 4.5.3
   (zip64). */
enum { BMVPI_ZIP_LOCAL = 30, BMVPI_ZIP_CENTRAL = 46, BMVPI_ZIP_END = 22, BMVPI_ZIP_LOCATOR = 20, BMVPI_ZIP_END64 = 56,
       BMVPI_ZIP_ALIGN = 64, BMVPI_ZIP_MAX_DIRECTORY = 1 << 26 };
#define BMVPI_ZIP_LOCAL_SIGN 0x04034b50u
#define BMVPI_ZIP_CENTRAL_SIGN 0x02014b50u
#define BMVPI_ZIP_END_SIGN 0x06054b50u
#define BMVPI_ZIP_LOCATOR_SIGN 0x07064b50u
#define BMVPI_ZIP_END64_SIGN 0x06064b50u
#define BMVPI_ZIP_BIG 0xffffffffu

static bmvp_status bmvpi_zip_bad(const bmvpi_ckpt_file *f, const char *record, const char *what, bmvp_error *err)
{
    return bmvp_error_set(err, BMVP_E_FORMAT, "%.250s: damaged PyTorch file: %s%s%s", f->ck.path,
                          record ? bmvpi_show(record, strlen(record)).text : "", record ? ": " : "", what);
}

/* Place of the central directory: offset, bytes, entries. */
static bmvp_status bmvpi_zip_find_end(bmvpi_ckpt_file *f, uint64_t where[3], bmvp_error *err)
{
    const int64_t n = f->in.size < 65557 ? f->in.size : 65557,
                  at = f->in.size - n; /* the end's comment has up to 65535 */
    uint8_t *tail = (uint8_t *)bmvpi_bump_get(&f->mem, (size_t)n), e64[BMVPI_ZIP_END64];
    int64_t i = n - BMVPI_ZIP_END, end;
    bmvp_status s;
    if (!tail) return bmvpi_ck_oom(f, err);
    if ((s = bmvpi_in_read(&f->in, at, tail, n, err)) != BMVP_OK) return s;
    while (i >= 0 && !(bmvpi_le_get(tail + i, 4) == BMVPI_ZIP_END_SIGN &&
                       (int64_t)bmvpi_le_get(tail + i + 20, 2) == n - i - BMVPI_ZIP_END)) i--;
    if (i < 0)
        return bmvpi_zip_bad(f, NULL, "the end of the zip directory is missing (a copy or download that was cut off?)",
                             err);
    end = at + i;
    where[0] = bmvpi_le_get(tail + i + 16, 4);
    where[1] = bmvpi_le_get(tail + i + 12, 4);
    where[2] = bmvpi_le_get(tail + i + 10, 2);
    if (bmvpi_le_get(tail + i + 4, 4) || bmvpi_le_get(tail + i + 8, 2) != where[2])
        return bmvpi_zip_bad(f, NULL, "the zip archive has several parts", err);
    if (i >= BMVPI_ZIP_LOCATOR && bmvpi_le_get(tail + i - BMVPI_ZIP_LOCATOR, 4) == BMVPI_ZIP_LOCATOR_SIGN) {
        const uint64_t p = bmvpi_le_get(tail + i - 12, 8);
        if (end < BMVPI_ZIP_LOCATOR + BMVPI_ZIP_END64 || p > (uint64_t)(end - BMVPI_ZIP_LOCATOR - BMVPI_ZIP_END64))
            return bmvpi_zip_bad(f, NULL, "the zip64 end lies outside of the file", err);
        if ((s = bmvpi_in_read(&f->in, (int64_t)p, e64, BMVPI_ZIP_END64, err)) != BMVP_OK) return s;
        if (bmvpi_le_get(e64, 4) != BMVPI_ZIP_END64_SIGN)
            return bmvpi_zip_bad(f, NULL, "the zip64 end is missing", err);
        where[0] = bmvpi_le_get(e64 + 48, 8);
        where[1] = bmvpi_le_get(e64 + 40, 8);
        where[2] = bmvpi_le_get(e64 + 32, 8);
        end = (int64_t)p;
    }
    if (where[0] > (uint64_t)end || where[1] > (uint64_t)end - where[0] || where[2] > where[1] / BMVPI_ZIP_CENTRAL)
        return bmvpi_zip_bad(f, NULL, "the zip directory lies outside of the file", err);
    if (where[1] > BMVPI_ZIP_MAX_DIRECTORY)
        return bmvp_error_set(err, BMVP_E_UNSUPPORTED, "%.300s: zip directory of more than 64 MiB", f->ck.path);
    return BMVP_OK;
}

/* zip64: fields that are full in the directory are continued in extra field 1, in this order. */
static int bmvpi_zip_extra(const uint8_t *x, uint64_t n, uint64_t *field[3])
{
    uint64_t len = 0, at = 0;
    int k;
    while (n >= 4 && bmvpi_le_get(x, 2) != 1) {
        len = bmvpi_le_get(x + 2, 2) + 4;
        if (len > n) return 0;
        x += len;
        n -= len;
    }
    len = n >= 4 ? bmvpi_le_get(x + 2, 2) : 0;
    if (n >= 4 && len > n - 4) return 0;
    for (k = 0; k < 3; k++) {
        if (*field[k] != BMVPI_ZIP_BIG) continue;
        if (at + 8 > len) return 0;
        *field[k] = bmvpi_le_get(x + 4 + at, 8);
        at += 8;
    }
    return 1;
}

static int bmvpi_record_order(const void *a, const void *b)
{
    return strcmp(((const bmvpi_record *)a)->name, ((const bmvpi_record *)b)->name);
}

static bmvpi_record *bmvpi_zip_find(const bmvpi_ckpt_file *f, const char *name)
{
    bmvpi_record key;
    key.name = name;
    return (bmvpi_record *)bsearch(&key, f->record, (size_t)f->n_records, sizeof key, bmvpi_record_order);
}

/* One directory entry at p -> record. Returns its bytes, 0 after a failure. */
static uint64_t bmvpi_zip_entry(bmvpi_ckpt_file *f, const uint8_t *p, uint64_t left, bmvpi_record *r, bmvp_error *err)
{
    uint64_t packed, size, at, n_name, n_extra, len, *field[3];
    if (left < BMVPI_ZIP_CENTRAL || bmvpi_le_get(p, 4) != BMVPI_ZIP_CENTRAL_SIGN)
        return (uint64_t)(bmvpi_zip_bad(f, NULL, "the zip directory ends early", err), 0);
    n_name = bmvpi_le_get(p + 28, 2);
    n_extra = bmvpi_le_get(p + 30, 2);
    len = BMVPI_ZIP_CENTRAL + n_name + n_extra + bmvpi_le_get(p + 32, 2);
    if (len > left) return (uint64_t)(bmvpi_zip_bad(f, NULL, "the zip directory ends early", err), 0);
    memset(r, 0, sizeof *r);
    r->name = bmvpi_bump_text(&f->mem, (const char *)p + BMVPI_ZIP_CENTRAL, (size_t)n_name);
    if (!r->name) return (uint64_t)(bmvpi_ck_oom(f, err), 0);
    packed = bmvpi_le_get(p + 20, 4);
    size = bmvpi_le_get(p + 24, 4);
    at = bmvpi_le_get(p + 42, 4);
    field[0] = &size, field[1] = &packed, field[2] = &at;
    if (strlen(r->name) != n_name || !bmvpi_zip_extra(p + BMVPI_ZIP_CENTRAL + n_name, n_extra, field))
        return (uint64_t)(bmvpi_zip_bad(f, r->name, "its zip directory entry is broken", err), 0);
    r->stored = !(bmvpi_le_get(p + 8, 2) & 1) && bmvpi_le_get(p + 10, 2) == 0 && packed == size;
    if (at > (uint64_t)f->zip_end || packed > (uint64_t)f->zip_end - at || size > (uint64_t)INT64_MAX)
        return (uint64_t)(bmvpi_zip_bad(f, r->name, "lies outside of the file", err), 0);
    r->at = (int64_t)at;
    r->size = (int64_t)size;
    r->crc = (uint32_t)bmvpi_le_get(p + 16, 4);
    return len;
}

static bmvp_status bmvpi_zip_open(bmvpi_ckpt_file *f, bmvp_error *err)
{
    uint64_t where[3] = { 0, 0, 0 }, i, at = 0;
    uint8_t *dir;
    bmvp_status s = bmvpi_zip_find_end(f, where, err);
    if (s) return s;
    f->zip_end = (int64_t)where[0];
    dir = (uint8_t *)bmvpi_bump_get(&f->mem, (size_t)where[1]);
    f->record = (bmvpi_record *)bmvpi_bump_get(&f->mem, (size_t)where[2] * sizeof *f->record);
    if (!dir || !f->record) return bmvpi_ck_oom(f, err);
    if ((s = bmvpi_in_read(&f->in, f->zip_end, dir, (int64_t)where[1], err)) != BMVP_OK) return s;
    for (i = 0; i < where[2]; i++) {
        bmvp_error e;
        const uint64_t n = bmvpi_zip_entry(f, dir + at, where[1] - at, &f->record[i], &e);
        if (!n) return bmvp_error_set(err, e.status, "%s", e.message);
        at += n;
    }
    f->n_records = (int64_t)where[2];
    if (f->n_records) qsort(f->record, (size_t)f->n_records, sizeof *f->record, bmvpi_record_order);
    for (i = 1; i < where[2]; i++)
        if (!strcmp(f->record[i - 1].name, f->record[i].name))
            return bmvpi_zip_bad(f, f->record[i].name, "comes twice", err);
    return BMVP_OK;
}

/* Finds the data behind the local header, which must agree with the directory. */
static bmvp_status bmvpi_zip_resolve(bmvpi_ckpt_file *f, bmvpi_record *r, bmvp_error *err)
{
    uint8_t h[BMVPI_ZIP_LOCAL];
    char name[256];
    const size_t n = strlen(r->name);
    int64_t data;
    bmvp_status s;
    if (r->resolved) return BMVP_OK;
    if (!r->stored) return bmvpi_zip_bad(f, r->name, "is compressed or encrypted, which torch.save never does", err);
    if (n >= sizeof name || r->at > f->zip_end - BMVPI_ZIP_LOCAL - (int64_t)n)
        return bmvpi_zip_bad(f, r->name, "its local header lies outside of the file", err);
    if ((s = bmvpi_in_read(&f->in, r->at, h, BMVPI_ZIP_LOCAL, err)) != BMVP_OK) return s;
    if ((s = bmvpi_in_read(&f->in, r->at + BMVPI_ZIP_LOCAL, name, (int64_t)n, err)) != BMVP_OK) return s;
    data = r->at + BMVPI_ZIP_LOCAL + (int64_t)n + (int64_t)bmvpi_le_get(h + 28, 2);
    if (bmvpi_le_get(h, 4) != BMVPI_ZIP_LOCAL_SIGN || bmvpi_le_get(h + 26, 2) != n || memcmp(name, r->name, n) ||
        bmvpi_le_get(h + 8, 2) != 0 || (bmvpi_le_get(h + 6, 2) & 1))
        return bmvpi_zip_bad(f, r->name, "its local header does not agree with the directory", err);
    if (data > f->zip_end || r->size > f->zip_end - data)
        return bmvpi_zip_bad(f, r->name, "lies outside of the file", err);
    r->at = data;
    r->resolved = 1;
    return BMVP_OK;
}

static bmvp_status bmvpi_zip_check(bmvpi_ckpt_file *f, bmvpi_record *r, uint32_t crc, bmvp_error *err)
{
    if (crc != r->crc)
        return bmvpi_zip_bad(f, r->name, "CRC-32 is wrong: its bytes have changed since they were written", err);
    r->verified = 1;
    return BMVP_OK;
}

/* Bytes [from, from + n) of a record, after its CRC was verified once. */
static bmvp_status bmvpi_ck_read(bmvpi_ckpt_file *f, bmvpi_record *r, int64_t from, void *dst, int64_t n,
                                 bmvp_error *err)
{
    uint8_t piece[16384];
    uint32_t crc = 0;
    int64_t at = 0;
    bmvp_status s = bmvpi_zip_resolve(f, r, err);
    if (!s && !r->verified && n == r->size) {
        s = bmvpi_in_read(&f->in, r->at, dst, n, err);
        return s ? s : bmvpi_zip_check(f, r, bmvpi_crc_add(&f->crc, 0, dst, n), err);
    }
    while (!s && !r->verified) {
        const int64_t k = r->size - at < (int64_t)sizeof piece ? r->size - at : (int64_t)sizeof piece;
        s = bmvpi_in_read(&f->in, r->at + at, piece, k, err);
        if (!s) crc = bmvpi_crc_add(&f->crc, crc, piece, k);
        at += k;
        if (!s && at == r->size) s = bmvpi_zip_check(f, r, crc, err);
    }
    return s ? s : bmvpi_in_read(&f->in, r->at + from, dst, n, err);
}

/* >>pickle: a restricted reader -------------------------------------------------------------------------------------
   A pickle is a program for a stack machine; its GLOBAL and REDUCE can call anything. Here the only callables are the
   ones in bmvpi_pk_globals, each carried out by our own code, and the only opcodes are those torch.save uses (Python's
   pickletools lists all). Memory is bounded by the file's size (bmvpi_ck_most), the walk over the result has a budget,
   so shared and cyclic containers cannot blow up. */

enum {
    BMVPI_PY_NONE, BMVPI_PY_BOOL, BMVPI_PY_INT, BMVPI_PY_FLOAT, BMVPI_PY_STR, BMVPI_PY_BYTES, BMVPI_PY_TUPLE,
    BMVPI_PY_LIST, BMVPI_PY_DICT, BMVPI_PY_GLOBAL, BMVPI_PY_STORAGE, BMVPI_PY_TENSOR, BMVPI_PY_DTYPE,
    BMVPI_PY_OPAQUE
};
enum {
    BMVPI_PK_STORAGE, BMVPI_PK_DICT, BMVPI_PK_TENSOR, BMVPI_PK_PARAMETER, BMVPI_PK_SIZE, BMVPI_PK_OPAQUE,
    BMVPI_PK_ENCODE, BMVPI_PK_DTYPE, BMVPI_PK_SCALAR, BMVPI_PK_SET, BMVPI_PK_FROM_TYPE
};
enum {
    BMVPI_PK_MAX = 1 << 24, BMVPI_PK_DEPTH = 32, BMVPI_PK_PATH = 1024,
    BMVPI_PK_REPEATED = 1 << 20 /* bytes of a tensor whose strides repeat elements (0: expand) */
};

static const struct { const char *name; int id; } bmvpi_pk_globals[] = {
    { "collections.OrderedDict", BMVPI_PK_DICT },
    { "collections.Counter", BMVPI_PK_DICT },               /* milestones of MultiStepLR */
    { "__builtin__.set", BMVPI_PK_SET },
    { "builtins.set", BMVPI_PK_SET },
    { "__builtin__.bytearray", BMVPI_PK_OPAQUE },
    { "builtins.bytearray", BMVPI_PK_OPAQUE },
    { "__builtin__.complex", BMVPI_PK_OPAQUE },
    { "builtins.complex", BMVPI_PK_OPAQUE },
    { "torch._utils._rebuild_tensor", BMVPI_PK_TENSOR },
    { "torch._utils._rebuild_tensor_v2", BMVPI_PK_TENSOR },
    { "torch._utils._rebuild_parameter", BMVPI_PK_PARAMETER },
    { "torch._utils._rebuild_parameter_with_state", BMVPI_PK_PARAMETER },
    { "torch._tensor._rebuild_from_type_v2", BMVPI_PK_FROM_TYPE }, /* a tensor to which somebody has added attributes */
    { "torch.Tensor", BMVPI_PK_OPAQUE },
    { "torch.nn.parameter.Parameter", BMVPI_PK_OPAQUE },
    { "torch.Size", BMVPI_PK_SIZE },
    { "torch.device", BMVPI_PK_OPAQUE },
    { "_codecs.encode", BMVPI_PK_ENCODE },                  /* how protocol 2 spells the bytes of a numpy scalar */
    { "numpy.dtype", BMVPI_PK_DTYPE },
    { "numpy.core.multiarray.scalar", BMVPI_PK_SCALAR },
    { "numpy._core.multiarray.scalar", BMVPI_PK_SCALAR },
};

typedef struct bmvpi_py bmvpi_py;
typedef struct bmvpi_pylist {
    bmvpi_py **v; /* dict: key, value, key, value ... */
    int64_t n, cap;
} bmvpi_pylist;
struct bmvpi_py {
    int kind, id; /* id: of a global, dtype of a storage */
    int64_t i;    /* int, bool; bytes of a string; record of a storage; dtype of a storage class or numpy dtype */
    union { double d; const char *s; bmvpi_pylist *list; bmvp_ckpt_entry *tensor; } u;
};

typedef struct bmvpi_pk {
    bmvpi_ckpt_file *f;
    const char *start, *p, *end;
    const char *root;          /* archive folder with '/'; NULL: no zip, data come behind the pickle */
    bmvpi_pylist stack, memo;  /* NULL in the stack is a mark */
    bmvp_status status;
    bmvp_error *err;
    int64_t budget;            /* of the walk */
    int64_t odd_keys;          /* of dicts, seen so far */
    bmvpi_py *result;
} bmvpi_pk;

static void *bmvpi_pk_fail(bmvpi_pk *k, bmvp_status s, const char *what, const char *name)
{
    if (!k->status)
        k->status = bmvp_error_set(k->err, s, "%.200s: %s at byte %lld: %s%s", k->f->ck.path,
                                   k->root ? "data.pkl" : "pickle", (long long)(k->p - k->start),
                                   name ? bmvpi_show(name, strlen(name)).text : "", what);
    return NULL;
}

static void *bmvpi_pk_bad(bmvpi_pk *k, const char *what) { return bmvpi_pk_fail(k, BMVP_E_FORMAT, what, NULL); }

static void *bmvpi_pk_oom(bmvpi_pk *k)
{
    if (!k->status) k->status = bmvpi_ck_oom(k->f, k->err);
    return NULL;
}

static const char *bmvpi_pk_take(bmvpi_pk *k, uint64_t n)
{
    const char *p = k->p;
    if (n > (uint64_t)(k->end - k->p)) return (const char *)bmvpi_pk_bad(k, "ends in the middle of an item");
    k->p += n;
    return p;
}

static uint64_t bmvpi_pk_number(bmvpi_pk *k, int bytes)
{
    const char *p = bmvpi_pk_take(k, (uint64_t)bytes);
    return p ? bmvpi_le_get(p, bytes) : 0;
}

static void bmvpi_pk_append(bmvpi_pk *k, bmvpi_pylist *l, bmvpi_py *o)
{
    if (!bmvpi_bump_grow(&k->f->mem, (void **)&l->v, l->n, &l->cap, sizeof *l->v)) { bmvpi_pk_oom(k); return; }
    l->v[l->n++] = o;
}

static bmvpi_py *bmvpi_pk_push(bmvpi_pk *k, int kind)
{
    bmvpi_py *o = (bmvpi_py *)bmvpi_bump_get(&k->f->mem, sizeof *o);
    if (!o) return (bmvpi_py *)bmvpi_pk_oom(k);
    memset(o, 0, sizeof *o);
    o->kind = kind;
    if (kind == BMVPI_PY_TUPLE || kind == BMVPI_PY_LIST || kind == BMVPI_PY_DICT) {
        o->u.list = (bmvpi_pylist *)bmvpi_bump_get(&k->f->mem, sizeof *o->u.list);
        if (!o->u.list) return (bmvpi_py *)bmvpi_pk_oom(k);
        memset(o->u.list, 0, sizeof *o->u.list);
    }
    bmvpi_pk_append(k, &k->stack, o);
    return o;
}

static bmvpi_py *bmvpi_pk_pop(bmvpi_pk *k)
{
    bmvpi_py *o = k->stack.n > 0 ? k->stack.v[--k->stack.n] : NULL;
    return o ? o : (bmvpi_py *)bmvpi_pk_bad(k, "takes from an empty stack");
}

/* Index of the first item above the last mark, -1 without one. */
static int64_t bmvpi_pk_mark(bmvpi_pk *k)
{
    int64_t i = k->stack.n;
    while (i > 0 && k->stack.v[i - 1]) i--;
    if (i == 0) bmvpi_pk_bad(k, "misses a mark");
    return i > 0 ? i : -1;
}

static void bmvpi_pk_string(bmvpi_pk *k, int kind, int length_bytes)
{
    const uint64_t n = bmvpi_pk_number(k, length_bytes);
    const char *p = k->status ? NULL : bmvpi_pk_take(k, n);
    bmvpi_py *o;
    if (!p) return;
    if (kind == BMVPI_PY_STR && !bmvpi_utf8_valid(p, (size_t)n)) {
        bmvpi_pk_bad(k, "has a string that is not UTF-8");
        return;
    }
    if (!(o = bmvpi_pk_push(k, kind))) return;
    o->i = (int64_t)n;
    if (!(o->u.s = bmvpi_bump_text(&k->f->mem, p, (size_t)n))) bmvpi_pk_oom(k);
}

static void bmvpi_pk_int(bmvpi_pk *k, int kind, int64_t v)
{
    bmvpi_py *o = bmvpi_pk_push(k, kind);
    if (o) o->i = v;
}

/* The opcodes come in four families; each function returns 0 if op is not of its family. */
static int bmvpi_pk_scalar_op(bmvpi_pk *k, int op)
{
    uint64_t n, bits;
    const char *p;
    bmvpi_py *o;
    int i;
    switch (op) {
    case 'N': bmvpi_pk_push(k, BMVPI_PY_NONE); return 1;
    case 0x88: case 0x89: bmvpi_pk_int(k, BMVPI_PY_BOOL, op == 0x88); return 1;
    case 'J': bmvpi_pk_int(k, BMVPI_PY_INT, (int64_t)(int32_t)(uint32_t)bmvpi_pk_number(k, 4)); return 1;
    case 'K': bmvpi_pk_int(k, BMVPI_PY_INT, (int64_t)bmvpi_pk_number(k, 1)); return 1;
    case 'M': bmvpi_pk_int(k, BMVPI_PY_INT, (int64_t)bmvpi_pk_number(k, 2)); return 1;
    case 0x8a: /* LONG1: two's complement of n bytes */
        n = bmvpi_pk_number(k, 1);
        if (!(p = bmvpi_pk_take(k, n))) return 1;
        bits = bmvpi_le_get(p, n <= 8 ? (int)n : 0);
        if (n > 0 && n < 8 && (p[n - 1] & 0x80)) bits |= ~(uint64_t)0 << (8 * n);
        bmvpi_pk_int(k, n <= 8 ? BMVPI_PY_INT : BMVPI_PY_OPAQUE, (int64_t)bits);
        return 1;
    case 'G': /* big-endian double */
        if (!(p = bmvpi_pk_take(k, 8))) return 1;
        for (bits = 0, i = 0; i < 8; i++) bits = bits << 8 | (uint8_t)p[i];
        if ((o = bmvpi_pk_push(k, BMVPI_PY_FLOAT)) != NULL) memcpy(&o->u.d, &bits, 8);
        return 1;
    case 'X': bmvpi_pk_string(k, BMVPI_PY_STR, 4); return 1;
    case 'U': bmvpi_pk_string(k, BMVPI_PY_STR, 1); return 1; /* of Python 2 */
    case 0x8c: bmvpi_pk_string(k, BMVPI_PY_STR, 1); return 1;
    case 0x8d: bmvpi_pk_string(k, BMVPI_PY_STR, 8); return 1;
    case 'B': bmvpi_pk_string(k, BMVPI_PY_BYTES, 4); return 1;
    case 'C': bmvpi_pk_string(k, BMVPI_PY_BYTES, 1); return 1;
    default: return 0;
    }
}

/* Moves the items from index `from` to the end of the stack into the list. */
static void bmvpi_pk_move(bmvpi_pk *k, int64_t from, bmvpi_pylist *to)
{
    int64_t i;
    for (i = from; i < k->stack.n && !k->status; i++) {
        if (k->stack.v[i]) bmvpi_pk_append(k, to, k->stack.v[i]);
        else bmvpi_pk_bad(k, "takes more items than there are");
    }
    k->stack.n = from;
}

static void bmvpi_pk_tuple(bmvpi_pk *k, int64_t from, int marked)
{
    bmvpi_pylist items;
    bmvpi_py *o;
    memset(&items, 0, sizeof items);
    if (from < 0) { bmvpi_pk_bad(k, "takes from an empty stack"); return; }
    bmvpi_pk_move(k, from, &items);
    k->stack.n -= marked;
    if (!k->status && (o = bmvpi_pk_push(k, BMVPI_PY_TUPLE)) != NULL) *o->u.list = items;
}

static int bmvpi_pk_container_op(bmvpi_pk *k, int op)
{
    const int many = op == 'e' || op == 'u' || op == 0x90, pairs = op == 's' || op == 'u';
    int64_t from;
    bmvpi_py *o;
    switch (op) {
    case ')': bmvpi_pk_push(k, BMVPI_PY_TUPLE); return 1;
    case ']': case 0x8f: bmvpi_pk_push(k, BMVPI_PY_LIST); return 1; /* a set is read as a list */
    case '}': bmvpi_pk_push(k, BMVPI_PY_DICT); return 1;
    case 0x85: case 0x86: case 0x87: bmvpi_pk_tuple(k, k->stack.n - (op - 0x84), 0); return 1;
    case 't':
        from = bmvpi_pk_mark(k);
        if (from >= 0) bmvpi_pk_tuple(k, from, 1);
        return 1;
    case 'a':
    case 'e':
    case 's':
    case 'u':
    case 0x90: /* list.append, list.extend, dict[k] = v, dict.update, set.update */
        from = many ? bmvpi_pk_mark(k) : k->stack.n - (op == 'a' ? 1 : 2);
        if (from - many < 1) { bmvpi_pk_bad(k, "adds to nothing"); return 1; }
        o = k->stack.v[from - many - 1];
        if (!o || o->kind != (pairs ? BMVPI_PY_DICT : BMVPI_PY_LIST) ||
            (o->kind == BMVPI_PY_DICT && (k->stack.n - from) % 2)) {
            bmvpi_pk_bad(k, "adds items to something that cannot take them");
            return 1;
        }
        bmvpi_pk_move(k, from, o->u.list);
        k->stack.n -= many;
        return 1;
    default: return 0;
    }
}

static int bmvpi_pk_memo_op(bmvpi_pk *k, int op)
{
    const int put = op == 'q' || op == 'r' || op == 0x94;
    int64_t at;
    if (!put && op != 'h' && op != 'j') return 0;
    at = op == 0x94 ? k->memo.n : (int64_t)bmvpi_pk_number(k, op == 'q' || op == 'h' ? 1 : 4);
    if (k->status) return 1;
    if (put) {
        bmvpi_py *o = k->stack.n > 0 ? k->stack.v[k->stack.n - 1] : NULL;
        if (!o || at > k->end - k->start) {
            bmvpi_pk_bad(k, "remembers nothing, or under a number too high");
            return 1;
        }
        while (k->memo.n <= at && !k->status) bmvpi_pk_append(k, &k->memo, NULL);
        if (!k->status) k->memo.v[at] = o;
    } else if (at >= k->memo.n || !k->memo.v[at]) bmvpi_pk_bad(k, "recalls what was never remembered");
    else bmvpi_pk_append(k, &k->stack, k->memo.v[at]);
    return 1;
}

/* module.name -> a global we know, or refusal. */
static void bmvpi_pk_global(bmvpi_pk *k, const char *module, size_t n_module, const char *name, size_t n_name)
{
    char full[160];
    size_t i;
    int id = -1, dtype = 0;
    bmvpi_py *o;
    snprintf(full, sizeof full, "%.*s.%.*s", n_module < 75 ? (int)n_module : 75, module, n_name < 75 ? (int)n_name : 75,
             name);
    for (i = 0; i < sizeof bmvpi_pk_globals / sizeof *bmvpi_pk_globals; i++)
        if (!strcmp(full, bmvpi_pk_globals[i].name)) id = bmvpi_pk_globals[i].id;
    for (i = 0; i < BMVP_DTYPE_COUNT && id < 0 && !strncmp(full, "torch.", 6); i++) {
        if (!strcmp(full + 6, bmvpi_dtype_table[i].name)) id = BMVPI_PK_OPAQUE; /* a dtype kept as a value */
        if (!strcmp(full + 6, bmvpi_dtype_table[i].storage)) id = BMVPI_PK_STORAGE, dtype = (int)i;
    }
    if (id < 0 && strlen(full) > 7 && !strncmp(full, "torch.", 6) && !strcmp(full + strlen(full) - 7, "Storage"))
        bmvpi_pk_fail(k, BMVP_E_UNSUPPORTED, ": tensors of this type are not supported", full);
    else if (id < 0)
        bmvpi_pk_fail(k, BMVP_E_FORMAT,
                      " refused: the file wants Python to run code, or holds more than tensors and plain containers. "
                      "If you trust where it came from, load it in Python and save only its state_dict",
                      full);
    else if ((o = bmvpi_pk_push(k, BMVPI_PY_GLOBAL)) != NULL) {
        o->id = id;
        o->i = dtype;
    }
}

static void bmvpi_pk_global_op(bmvpi_pk *k, int op)
{
    if (op == 'c') { /* two lines */
        const char *a = k->p, *b = (const char *)memchr(a, '\n', (size_t)(k->end - a)), *c;
        c = b ? (const char *)memchr(b + 1, '\n', (size_t)(k->end - b - 1)) : NULL;
        if (!c) { bmvpi_pk_bad(k, "ends in the middle of an item"); return; }
        k->p = c + 1;
        bmvpi_pk_global(k, a, (size_t)(b - a), b + 1, (size_t)(c - b - 1));
    } else {
        bmvpi_py *name = bmvpi_pk_pop(k), *module = k->status ? NULL : bmvpi_pk_pop(k);
        if (!module) return;
        if (name->kind != BMVPI_PY_STR || module->kind != BMVPI_PY_STR) {
            bmvpi_pk_bad(k, "names a global by no text");
            return;
        }
        bmvpi_pk_global(k, module->u.s, strlen(module->u.s), name->u.s, strlen(name->u.s));
    }
}

/* The storage of this key in a file without zip, made where it is new: where its data lie, the end of the file says. */
static bmvpi_record *bmvpi_pk_later(bmvpi_pk *k, const char *key, int64_t bytes, int element)
{
    bmvpi_ckpt_file *f = k->f;
    bmvpi_record *r;
    int64_t i;
    if ((k->budget -= f->n_records) < 0) return (bmvpi_record *)bmvpi_pk_bad(k, "has too many storages for its size");
    for (i = f->n_records - 1; i >= 0; --i)
        if (!strcmp(f->record[i].name, key)) return &f->record[i];
    if (!bmvpi_bump_grow(&f->mem, (void **)&f->record, f->n_records, &f->cap_records, sizeof *f->record))
        return (bmvpi_record *)bmvpi_pk_oom(k);
    r = &f->record[f->n_records++];
    memset(r, 0, sizeof *r);
    r->name = key;
    r->size = bytes;
    r->element = element;
    return r;
}

/* ('storage', class, key, location, elements) -> storage: the record data/key. Without zip the tuple has one more: a
   part of another storage, which PyTorch has not written since 0.4. */
static void bmvpi_pk_storage(bmvpi_pk *k)
{
    bmvpi_py *id = bmvpi_pk_pop(k), **v, *o;
    bmvpi_record *r;
    char name[256];
    int64_t bytes;
    if (!id) return;
    v = id->kind == BMVPI_PY_TUPLE && id->u.list->n == (k->root ? 5 : 6) ? id->u.list->v : NULL;
    if (!v || (!k->root && v[5]->kind != BMVPI_PY_NONE) || v[0]->kind != BMVPI_PY_STR ||
        strcmp(v[0]->u.s, "storage") || v[1]->kind != BMVPI_PY_GLOBAL || v[1]->id != BMVPI_PK_STORAGE ||
        v[2]->kind != BMVPI_PY_STR || v[4]->kind != BMVPI_PY_INT || v[2]->i > 100) {
        bmvpi_pk_bad(k, "refers to a storage in an unknown way");
        return;
    }
    snprintf(name, sizeof name, k->root ? "%.100sdata/%.100s" : "%s%.100s", k->root ? k->root : "storage ",
             v[2]->u.s);
    bytes = bmvpi_mul_size(v[4]->i, bmvpi_dtype_table[v[1]->i].size);
    r = k->root ? bmvpi_zip_find(k->f, name)
                : bmvpi_pk_later(k, v[2]->u.s, bytes, (int)bmvpi_dtype_table[v[1]->i].size);
    if (k->status) return;
    if (!r) { bmvpi_pk_fail(k, BMVP_E_FORMAT, " is missing in the zip archive", name); return; }
    if (bytes < 0 || bytes != r->size) {
        bmvpi_pk_fail(k, BMVP_E_FORMAT, " has another size than data.pkl says", name);
        return;
    }
    if (!(o = bmvpi_pk_push(k, BMVPI_PY_STORAGE))) return;
    o->id = (int)v[1]->i;
    o->i = r - k->f->record;
}

/* (storage, first, sizes, strides, requires_grad, hooks) -> tensor; checked against its storage. */
static void bmvpi_pk_tensor(bmvpi_pk *k, bmvpi_pylist *a)
{
    bmvp_ckpt_entry *e = (bmvp_ckpt_entry *)bmvpi_bump_get(&k->f->mem, sizeof *e);
    bmvpi_py *o;
    int64_t dim[BMVP_MAX_DIMS], i, elements, last;
    const bmvpi_pylist *sizes, *strides;
    if (!e) { bmvpi_pk_oom(k); return; }
    memset(e, 0, sizeof *e);
    if (a->n < 4 || a->v[0]->kind != BMVPI_PY_STORAGE || a->v[1]->kind != BMVPI_PY_INT ||
        a->v[2]->kind != BMVPI_PY_TUPLE || a->v[3]->kind != BMVPI_PY_TUPLE ||
        a->v[2]->u.list->n != a->v[3]->u.list->n) {
        bmvpi_pk_bad(k, "describes a tensor in an unknown way");
        return;
    }
    sizes = a->v[2]->u.list, strides = a->v[3]->u.list;
    if (sizes->n > BMVP_MAX_DIMS) {
        bmvpi_pk_fail(k, BMVP_E_UNSUPPORTED, "has a tensor with more than 8 dimensions", NULL);
        return;
    }
    for (i = 0; i < sizes->n; i++) dim[i] = sizes->v[i]->kind == BMVPI_PY_INT ? sizes->v[i]->i : -1;
    if (!bmvpi_ck_shape(e, (bmvp_dtype)a->v[0]->id, sizes->n, dim)) {
        bmvpi_pk_bad(k, "has a tensor with an impossible size");
        return;
    }
    e->record = (int)a->v[0]->i;
    last = e->first = a->v[1]->i;
    elements = k->f->record[e->record].size / bmvp_dtype_size(e->dtype);
    for (i = 0; i < sizes->n && e->numel > 0; i++) {
        const int64_t s = strides->v[i]->kind == BMVPI_PY_INT ? strides->v[i]->i : -1,
                      way = bmvpi_mul_size(s, dim[i] - 1);
        if (s < 0 || way < 0 || last < 0 || way > INT64_MAX - last) {
            bmvpi_pk_bad(k, "has a tensor with impossible strides");
            return;
        }
        last += way;
        if (s != e->stride[i] && dim[i] > 1) e->contiguous = 0;
        e->stride[i] = s;
    }
    if (e->numel > 0 && (e->first < 0 || last >= elements)) {
        bmvpi_pk_bad(k, "has a tensor that reaches out of its storage");
        return;
    }
    if (e->numel > elements && e->bytes > BMVPI_PK_REPEATED) {
        bmvpi_pk_fail(k, BMVP_E_UNSUPPORTED,
                      "has a tensor that repeats a smaller storage (expand): save it with .contiguous()", NULL);
        return;
    }
    if ((o = bmvpi_pk_push(k, BMVPI_PY_TENSOR)) != NULL) o->u.tensor = e;
}

/* numpy.dtype('f8', ...) and numpy's scalar(dtype, bytes): a best score kept as numpy.float64 is common. */
static void bmvpi_pk_numpy(bmvpi_pk *k, int id, bmvpi_pylist *a)
{
    static const char code[5][3] = { "f8", "f4", "i8", "i4", "b1" };
    static const bmvp_dtype type[5] = { BMVP_DTYPE_F64, BMVP_DTYPE_F32, BMVP_DTYPE_I64, BMVP_DTYPE_I32,
                                        BMVP_DTYPE_BOOL };
    bmvpi_py *o;
    int i;
    if (id == BMVPI_PK_DTYPE) {
        for (i = 0; i < 5 && a->n >= 1 && a->v[0]->kind == BMVPI_PY_STR; i++) {
            if (strcmp(a->v[0]->u.s, code[i])) continue;
            bmvpi_pk_int(k, BMVPI_PY_DTYPE, type[i]);
            return;
        }
    } else if (a->n == 2 && a->v[0]->kind == BMVPI_PY_DTYPE && a->v[1]->kind == BMVPI_PY_BYTES &&
               a->v[1]->i == bmvp_dtype_size((bmvp_dtype)a->v[0]->i)) {
        const bmvp_dtype t = (bmvp_dtype)a->v[0]->i;
        const uint64_t bits = bmvpi_le_get(a->v[1]->u.s, (int)a->v[1]->i);
        const uint32_t low = (uint32_t)bits;
        float single;
        memcpy(&single, &low, 4);
        if (t == BMVP_DTYPE_F64 || t == BMVP_DTYPE_F32) {
            if (!(o = bmvpi_pk_push(k, BMVPI_PY_FLOAT))) return;
            if (t == BMVP_DTYPE_F32) o->u.d = (double)single;
            else memcpy(&o->u.d, &bits, 8);
        } else if (t == BMVP_DTYPE_BOOL) bmvpi_pk_int(k, BMVPI_PY_BOOL, bits != 0);
        else bmvpi_pk_int(k, BMVPI_PY_INT, t == BMVP_DTYPE_I64 ? (int64_t)bits : (int64_t)(int32_t)low);
        return;
    }
    bmvpi_pk_bad(k, "has a numpy scalar of an unknown kind");
}

/* _codecs.encode(text, 'latin1') -> bytes: one for each character. */
static void bmvpi_pk_encode(bmvpi_pk *k, bmvpi_pylist *a)
{
    const bmvpi_py *t = a->n == 2 && a->v[0]->kind == BMVPI_PY_STR ? a->v[0] : NULL;
    bmvpi_py *o;
    char *out;
    int64_t i, n = 0;
    if (!t || a->v[1]->kind != BMVPI_PY_STR || strcmp(a->v[1]->u.s, "latin1")) {
        bmvpi_pk_bad(k, "encodes in an unknown way");
        return;
    }
    if (!(out = bmvpi_bump_text(&k->f->mem, t->u.s, (size_t)t->i))) { bmvpi_pk_oom(k); return; }
    for (i = 0; i < t->i; i++, n++) {
        const unsigned c = (unsigned char)t->u.s[i];
        if (c > 0xc3) { bmvpi_pk_bad(k, "encodes a character that is not latin1"); return; }
        out[n] = (char)(c < 0x80 ? c : (c & 3u) << 6 | ((unsigned char)t->u.s[++i] & 0x3fu));
    }
    if (!(o = bmvpi_pk_push(k, BMVPI_PY_BYTES))) return;
    o->i = n;
    o->u.s = out;
}

/* (function that makes the tensor, its type, arguments, attributes) -> the tensor, without the attributes. */
static void bmvpi_pk_from_type(bmvpi_pk *k, bmvpi_pylist *a)
{
    const bmvpi_py *fn = a->n == 4 && a->v[0]->kind == BMVPI_PY_GLOBAL && a->v[2]->kind == BMVPI_PY_TUPLE ? a->v[0]
                                                                                                          : NULL;
    bmvpi_pylist *args = fn ? a->v[2]->u.list : NULL;
    if (fn && fn->id == BMVPI_PK_TENSOR) bmvpi_pk_tensor(k, args);
    else if (fn && fn->id == BMVPI_PK_PARAMETER && args->n > 0 && args->v[0]->kind == BMVPI_PY_TENSOR)
        bmvpi_pk_append(k, &k->stack, args->v[0]);
    else bmvpi_pk_bad(k, "makes a tensor in an unknown way");
}

/* callable(*args) for the callables we know. */
static void bmvpi_pk_reduce(bmvpi_pk *k)
{
    bmvpi_py *args = bmvpi_pk_pop(k), *fn = k->status ? NULL : bmvpi_pk_pop(k), *a0;
    if (!fn) return;
    if (fn->kind != BMVPI_PY_GLOBAL || args->kind != BMVPI_PY_TUPLE) {
        bmvpi_pk_bad(k, "calls what is no function");
        return;
    }
    a0 = args->u.list->n ? args->u.list->v[0] : NULL;
    switch (fn->id) {
    case BMVPI_PK_DICT:
        if (!a0) bmvpi_pk_push(k, BMVPI_PY_DICT);
        else if (a0->kind == BMVPI_PY_DICT) bmvpi_pk_append(k, &k->stack, a0);
        else bmvpi_pk_bad(k, "makes a dict in an unknown way");
        return;
    case BMVPI_PK_TENSOR: bmvpi_pk_tensor(k, args->u.list); return;
    case BMVPI_PK_PARAMETER:
        if (a0 && a0->kind == BMVPI_PY_TENSOR) bmvpi_pk_append(k, &k->stack, a0);
        else bmvpi_pk_bad(k, "makes a parameter of no tensor");
        return;
    case BMVPI_PK_SIZE:
        if (a0 && (a0->kind == BMVPI_PY_TUPLE || a0->kind == BMVPI_PY_LIST)) bmvpi_pk_append(k, &k->stack, a0);
        else bmvpi_pk_bad(k, "makes a size of no list");
        return;
    case BMVPI_PK_SET:
        if (!a0) bmvpi_pk_push(k, BMVPI_PY_LIST);
        else if (a0->kind == BMVPI_PY_LIST || a0->kind == BMVPI_PY_TUPLE) bmvpi_pk_append(k, &k->stack, a0);
        else bmvpi_pk_bad(k, "makes a set of no list");
        return;
    case BMVPI_PK_FROM_TYPE: bmvpi_pk_from_type(k, args->u.list); return;
    case BMVPI_PK_OPAQUE: bmvpi_pk_push(k, BMVPI_PY_OPAQUE); return;
    case BMVPI_PK_ENCODE: bmvpi_pk_encode(k, args->u.list); return;
    case BMVPI_PK_DTYPE: case BMVPI_PK_SCALAR: bmvpi_pk_numpy(k, fn->id, args->u.list); return;
    default: bmvpi_pk_bad(k, "calls what is no function");
    }
}

/* obj.__setstate__(state): attributes of an OrderedDict (_metadata of a state_dict) are dropped, a numpy dtype says its
   byte order, nothing else has state. */
static void bmvpi_pk_build(bmvpi_pk *k)
{
    bmvpi_py *state = bmvpi_pk_pop(k), *o = k->status ? NULL : k->stack.n > 0 ? k->stack.v[k->stack.n - 1] : NULL;
    const bmvpi_py *order;
    if (o && o->kind == BMVPI_PY_DICT) return;
    order = o && o->kind == BMVPI_PY_DTYPE && state->kind == BMVPI_PY_TUPLE && state->u.list->n > 1
                ? state->u.list->v[1]
                : NULL;
    if (!order || order->kind != BMVPI_PY_STR || (*order->u.s != '<' && *order->u.s != '|'))
        bmvpi_pk_bad(k, "sets the state of an unknown object");
}

static int bmvpi_pk_other_op(bmvpi_pk *k, int op)
{
    int64_t from;
    switch (op) {
    case 0x80:
        if (bmvpi_pk_number(k, 1) > 5) bmvpi_pk_bad(k, "has a pickle protocol above 5");
        return 1;
    case 0x95: bmvpi_pk_number(k, 8); return 1; /* FRAME only helps buffered readers */
    case '(': bmvpi_pk_append(k, &k->stack, NULL); return 1;
    case '0': bmvpi_pk_pop(k); return 1;
    case '1':
        from = bmvpi_pk_mark(k);
        if (from > 0) k->stack.n = from - 1;
        return 1;
    case 'c': case 0x93: bmvpi_pk_global_op(k, op); return 1;
    case 'R': case 0x81: bmvpi_pk_reduce(k); return 1; /* cls.__new__ of a known class is the same here */
    case 'b': bmvpi_pk_build(k); return 1;
    case 'Q': bmvpi_pk_storage(k); return 1;
    case '.':
        k->result = bmvpi_pk_pop(k);
        return 1;
    default: return 0;
    }
}

static void bmvpi_pk_run(bmvpi_pk *k)
{
    while (!k->status && !k->result) {
        const char *p = bmvpi_pk_take(k, 1);
        const int op = p ? (unsigned char)*p : 0;
        char hex[8];
        if (!p || bmvpi_pk_scalar_op(k, op) || bmvpi_pk_container_op(k, op) || bmvpi_pk_memo_op(k, op) ||
            bmvpi_pk_other_op(k, op))
            continue;
        snprintf(hex, sizeof hex, "0x%02x", (unsigned)op);
        bmvpi_pk_fail(k, BMVP_E_FORMAT, " is an opcode that torch.save never writes", hex);
    }
}

/* >>pickle walk: containers -> names ------------------------------------------------------------------------------- */

/* Every visit costs; a container reachable by many ways, or from inside itself, runs into this or the depth limit. */
static int bmvpi_pw_spend(bmvpi_pk *k, int depth, int64_t cost)
{
    k->budget -= cost + 16;
    if (k->budget < 0 || depth > BMVPI_PK_DEPTH) bmvpi_pk_bad(k, "has containers nested too deep or shared too often");
    return !k->status;
}

static int bmvpi_pw_has_tensor(bmvpi_pk *k, const bmvpi_py *o, int depth)
{
    int64_t i;
    if (o->kind == BMVPI_PY_TENSOR) return 1;
    if (o->kind < BMVPI_PY_TUPLE || o->kind > BMVPI_PY_DICT) return 0;
    for (i = 0; i < o->u.list->n && bmvpi_pw_spend(k, depth, 0); i++)
        if (bmvpi_pw_has_tensor(k, o->u.list->v[i], depth + 1)) return 1;
    return 0;
}

/* Key of a dict as text; number: 32 bytes for it to live in. Keys that are no text are spelt as Python does, others get
   a number. */
static const char *bmvpi_pw_key(bmvpi_pk *k, const bmvpi_py *key, char *number)
{
    switch (key->kind) {
    case BMVPI_PY_STR:
        if ((int64_t)strlen(key->u.s) == key->i) return key->u.s;
        break;
    case BMVPI_PY_INT: snprintf(number, 32, "%lld", (long long)key->i); return number;
    case BMVPI_PY_BOOL: return key->i ? "True" : "False";
    case BMVPI_PY_NONE: return "None";
    default: break;
    }
    snprintf(number, 32, "(key %lld)", (long long)++k->odd_keys);
    return number;
}

static void bmvpi_pw_json(bmvpi_pk *k, bmvp_jw *w, const char *name, const bmvpi_py *o, int depth)
{
    int64_t i;
    char number[32];
    if (!bmvpi_pw_spend(k, depth, (name ? (int64_t)strlen(name) : 0) + (o->kind == BMVPI_PY_STR ? o->i : 0))) return;
    if (w->out.len > bmvpi_ck_most(k->end - k->start)) { bmvpi_pk_bad(k, "has containers shared too often"); return; }
    switch (o->kind) {
    case BMVPI_PY_BOOL: bmvp_jw_bool(w, name, (int)o->i); return;
    case BMVPI_PY_INT: bmvp_jw_int(w, name, o->i); return;
    case BMVPI_PY_FLOAT: bmvp_jw_double(w, name, o->u.d); return;
    case BMVPI_PY_STR: bmvp_jw_string(w, name, o->u.s); return;
    case BMVPI_PY_TUPLE: case BMVPI_PY_LIST:
        bmvp_jw_array(w, name);
        for (i = 0; i < o->u.list->n && !k->status; i++) bmvpi_pw_json(k, w, NULL, o->u.list->v[i], depth + 1);
        bmvp_jw_end(w);
        return;
    case BMVPI_PY_DICT:
        bmvp_jw_object(w, name);
        for (i = 0; i + 1 < o->u.list->n && !k->status; i += 2) {
            const char *key = bmvpi_pw_key(k, o->u.list->v[i], number);
            if (key) bmvpi_pw_json(k, w, key, o->u.list->v[i + 1], depth + 1);
        }
        bmvp_jw_end(w);
        return;
    default: bmvp_jw_null(w, name);
    }
}

/* A value without tensors -> metadata. */
static void bmvpi_pw_meta(bmvpi_pk *k, const char *group, const char *name, const bmvpi_py *o, int depth)
{
    static const bmvp_meta_kind kinds[5] = { BMVP_META_NONE, BMVP_META_BOOL, BMVP_META_INT, BMVP_META_FLOAT,
                                             BMVP_META_STRING };
    bmvp_ckpt_meta m;
    bmvp_jw w;
    if (o->kind > BMVPI_PY_STR && o->kind != BMVPI_PY_TUPLE && o->kind != BMVPI_PY_LIST)
        return; /* nothing we can show */
    m.group = group;
    m.kind = o->kind <= BMVPI_PY_STR ? kinds[o->kind] : BMVP_META_JSON;
    m.name = bmvpi_bump_text(&k->f->mem, name, strlen(name));
    bmvp_jw_init(&w, 0, &k->f->mem.a);
    if (o->kind == BMVPI_PY_STR) m.value = (int64_t)strlen(o->u.s) == o->i ? o->u.s : "";
    else if (o->kind == BMVPI_PY_FLOAT && o->u.d != o->u.d) m.value = "nan";
    else if (o->kind == BMVPI_PY_FLOAT && (o->u.d > DBL_MAX || o->u.d < -DBL_MAX))
        m.value = o->u.d > 0 ? "inf" : "-inf";
    else {
        bmvpi_pw_json(k, &w, NULL, o, depth);
        m.value = !w.out.failed && w.out.data ? bmvpi_bump_text(&k->f->mem, w.out.data, w.out.len) : NULL;
    }
    bmvp_jw_free(&w);
    if (!m.name || !m.value) bmvpi_pk_oom(k);
    else if (!k->status) k->status = bmvpi_ck_add_meta(k->f, &m, k->err);
}

/* path: dict path so far, n characters; items that hold no tensor and are no dict become metadata. */
static void bmvpi_pw_walk(bmvpi_pk *k, char *path, size_t n, const bmvpi_py *o, int depth)
{
    const int step = o->kind == BMVPI_PY_DICT ? 2 : 1;
    const char *group = bmvpi_bump_text(&k->f->mem, path, n);
    int64_t i;
    if (!group) { bmvpi_pk_oom(k); return; }
    for (i = 0; i + step <= o->u.list->n && bmvpi_pw_spend(k, depth, (int64_t)n); i += step) {
        const bmvpi_py *v = o->u.list->v[i + step - 1];
        char number[32];
        const char *key = number;
        size_t m;
        if (step == 2) key = bmvpi_pw_key(k, o->u.list->v[i], number);
        else snprintf(number, sizeof number, "%lld", (long long)i);
        if (!key) return;
        m = strlen(key);
        if (!bmvpi_pw_spend(k, depth, (int64_t)m)) return;
        if (v->kind == BMVPI_PY_TENSOR) {
            bmvp_ckpt_entry e = *v->u.tensor;
            e.group = group;
            e.name = bmvpi_bump_text(&k->f->mem, key, m);
            if (!e.name) { bmvpi_pk_oom(k); return; }
            k->status = bmvpi_ck_add(k->f, &e, k->err);
        } else if (v->kind == BMVPI_PY_DICT || ((v->kind == BMVPI_PY_TUPLE || v->kind == BMVPI_PY_LIST) &&
                                                bmvpi_pw_has_tensor(k, v, depth))) {
            if (n + m + 2 > BMVPI_PK_PATH) { bmvpi_pk_bad(k, "has dict keys that are too long"); return; }
            if (n) path[n] = '.';
            memcpy(path + n + (n > 0), key, m);
            bmvpi_pw_walk(k, path, n + (n > 0) + m, v, depth + 1);
        } else bmvpi_pw_meta(k, group, key, v, depth);
        if (k->status) return;
    }
}

static bmvpi_pk bmvpi_pk_make(bmvpi_ckpt_file *f, const char *root, const char *pickle, int64_t n, bmvp_error *err)
{
    bmvpi_pk k;
    memset(&k, 0, sizeof k);
    k.f = f;
    k.start = k.p = pickle;
    k.end = pickle + n;
    k.root = root;
    k.err = err;
    k.budget = 64 * n + 65536;
    return k;
}

/* What was read -> entries and metadata of its file. */
static bmvp_status bmvpi_pk_take_in(bmvpi_pk *k)
{
    char path[BMVPI_PK_PATH];
    if (k->status) return k->status;
    if (k->result->kind == BMVPI_PY_TENSOR) {
        bmvp_ckpt_entry e = *k->result->u.tensor;
        e.group = "";
        e.name = "tensor";
        return bmvpi_ck_add(k->f, &e, k->err);
    }
    if (k->result->kind >= BMVPI_PY_TUPLE && k->result->kind <= BMVPI_PY_DICT)
        bmvpi_pw_walk(k, path, 0, k->result, 0);
    return k->status;
}

/* data.pkl (whole, in memory) -> entries and metadata of f. */
static bmvp_status bmvpi_pk_read(bmvpi_ckpt_file *f, const char *root, const char *pickle, int64_t n, bmvp_error *err)
{
    bmvpi_pk k = bmvpi_pk_make(f, root, pickle, n, err);
    bmvpi_pk_run(&k);
    return bmvpi_pk_take_in(&k);
}

/* >>pickle without zip ---------------------------------------------------------------------------------------------
   What torch.save wrote before 1.6, and writes still where _use_new_zipfile_serialization is off. Five pickles, one
   behind the other: a magic number, the version 1001, what the machine was (little_endian ...), the object, and the
   keys of its storages. Then for each key the number of its elements in 8 bytes, and they. Storages are named before
   it is known where they lie: records are made on the way and placed at the end. */

static bmvpi_py *bmvpi_pl_next(bmvpi_pk *k)
{
    k->result = NULL;
    k->stack.n = k->memo.n = 0;
    bmvpi_pk_run(k);
    return k->status ? NULL : k->result;
}

/* The first three. */
static void bmvpi_pl_head(bmvpi_pk *k)
{
    static const unsigned char magic[10] = { 0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19 };
    const bmvpi_py *o = bmvpi_pl_next(k);
    int64_t i;
    if (o && (o->kind != BMVPI_PY_OPAQUE || k->p - k->start < 13 || memcmp(k->p - 11, magic, sizeof magic)))
        bmvpi_pk_fail(k, BMVP_E_UNSUPPORTED, "a pickle that torch.save did not write", NULL);
    if ((o = k->status ? NULL : bmvpi_pl_next(k)) != NULL && (o->kind != BMVPI_PY_INT || o->i != 1001))
        bmvpi_pk_fail(k, BMVP_E_UNSUPPORTED, "has another version of the format than 1001", NULL);
    o = k->status ? NULL : bmvpi_pl_next(k);
    for (i = 0; o && o->kind == BMVPI_PY_DICT && i + 1 < o->u.list->n; i += 2) {
        const bmvpi_py *key = o->u.list->v[i], *v = o->u.list->v[i + 1];
        if (key->kind == BMVPI_PY_STR && !strcmp(key->u.s, "little_endian") && v->kind == BMVPI_PY_BOOL && !v->i)
            bmvpi_pk_fail(k, BMVP_E_UNSUPPORTED, "byte order is not 'little'", NULL);
    }
}

/* The data of the storages, in the order of the keys, from byte `at` of the file on. */
static void bmvpi_pl_place(bmvpi_pk *k, const bmvpi_py *keys, int64_t at)
{
    bmvpi_ckpt_file *f = k->f;
    char count[8];
    int64_t i, j;
    if (keys->kind != BMVPI_PY_LIST) { bmvpi_pk_bad(k, "has no list of storages"); return; }
    for (i = 0; i < keys->u.list->n && !k->status; ++i) {
        const bmvpi_py *key = keys->u.list->v[i];
        bmvpi_record *r = NULL;
        if ((k->budget -= f->n_records) < 0) { bmvpi_pk_bad(k, "has too many storages for its size"); return; }
        for (j = 0; j < f->n_records && key->kind == BMVPI_PY_STR && !r; ++j)
            if (!strcmp(f->record[j].name, key->u.s)) r = &f->record[j];
        if (!r || r->resolved) { bmvpi_pk_bad(k, "lists a storage that no tensor has, or twice"); return; }
        if (at > f->in.size - 8 || r->size > f->in.size - 8 - at) {
            bmvpi_pk_fail(k, BMVP_E_FORMAT, ": the file ends before its data do", r->name);
            return;
        }
        k->status = bmvpi_in_read(&f->in, at, count, 8, k->err);
        if (!k->status && bmvpi_le_get(count, 8) != (uint64_t)(r->size / r->element))
            bmvpi_pk_fail(k, BMVP_E_FORMAT, ": the storage has another size than the pickle says", r->name);
        r->at = at + 8;
        r->resolved = r->verified = 1; /* there is no checksum */
        at += 8 + r->size;
    }
    for (j = 0; j < f->n_records && !k->status; ++j)
        if (!f->record[j].resolved) bmvpi_pk_fail(k, BMVP_E_FORMAT, ": the storage has no data", f->record[j].name);
}

static bmvp_status bmvpi_pl_open(bmvpi_ckpt_file *f, bmvp_error *err)
{
    const int64_t n = f->in.size < BMVPI_PK_MAX ? f->in.size : (int64_t)BMVPI_PK_MAX;
    char *text = (char *)bmvpi_bump_get(&f->mem, (size_t)n);
    const bmvpi_py *keys;
    bmvpi_py *object;
    bmvpi_pk k;
    bmvp_status s;
    f->ck.format = BMVP_CKPT_PT;
    if (!text) return bmvpi_ck_oom(f, err);
    s = bmvpi_in_read(&f->in, 0, text, n, err);
    if (s) return s;
    k = bmvpi_pk_make(f, NULL, text, n, err);
    bmvpi_pl_head(&k);
    object = k.status ? NULL : bmvpi_pl_next(&k);
    keys = k.status ? NULL : bmvpi_pl_next(&k);
    if (keys) bmvpi_pl_place(&k, keys, k.p - k.start);
    k.result = object;
    return bmvpi_pk_take_in(&k);
}

static bmvp_status bmvpi_pt_open(bmvpi_ckpt_file *f, bmvp_error *err)
{
    bmvp_status s = bmvpi_zip_open(f, err);
    bmvpi_record *r, *pkl = NULL;
    char root[128], name[160], order[8];
    char *pickle;
    int64_t i;
    f->ck.format = BMVP_CKPT_PT;
    for (i = 0; !s && i < f->n_records; i++) {
        const char *slash = strchr(f->record[i].name, '/');
        if (slash && slash - f->record[i].name < 100 && !strcmp(slash, "/data.pkl")) {
            if (pkl) return bmvpi_zip_bad(f, f->record[i].name, "is a second data.pkl", err);
            pkl = &f->record[i];
        }
    }
    if (s) return s;
    if (!pkl)
        return bmvp_error_set(err, BMVP_E_FORMAT, "%.300s: zip archive without data.pkl: not written by torch.save",
                              f->ck.path);
    snprintf(root, sizeof root, "%.*s", (int)(strchr(pkl->name, '/') - pkl->name + 1), pkl->name);
    snprintf(name, sizeof name, "%sconstants.pkl", root);
    if (bmvpi_zip_find(f, name))
        return bmvp_error_set(err, BMVP_E_UNSUPPORTED,
                              "%.300s: TorchScript program; save the model's state_dict with torch.save", f->ck.path);
    snprintf(name, sizeof name, "%sbyteorder", root);
    if ((r = bmvpi_zip_find(f, name)) != NULL) {
        if (r->size != 6 || bmvpi_ck_read(f, r, 0, order, 6, err) || memcmp(order, "little", 6))
            return bmvp_error_set(err, BMVP_E_UNSUPPORTED, "%.300s: byte order is not 'little'", f->ck.path);
    }
    if (pkl->size > BMVPI_PK_MAX)
        return bmvp_error_set(err, BMVP_E_UNSUPPORTED, "%.300s: data.pkl has more than 16 MiB", f->ck.path);
    pickle = (char *)bmvpi_bump_get(&f->mem, (size_t)pkl->size);
    if (!pickle) return bmvpi_ck_oom(f, err);
    s = bmvpi_ck_read(f, pkl, 0, pickle, pkl->size, err);
    return s ? s : bmvpi_pk_read(f, root, pickle, pkl->size, err);
}

/* >>safetensors ---------------------------------------------------------------------------------------------------- */

enum { BMVPI_ST_MAX_HEADER = 1 << 25 }; /* bytes: some 200 000 tensors */

static bmvp_status bmvpi_st_bad(const bmvpi_ckpt_file *f, const char *name, const char *what, bmvp_error *err)
{
    return bmvp_error_set(err, BMVP_E_FORMAT, "%.250s: damaged safetensors file: tensor '%s' %s", f->ck.path,
                          bmvpi_show(name, strlen(name)).text, what);
}

/* {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]} -> entry and its record. */
static bmvp_status bmvpi_st_entry(bmvpi_ckpt_file *f, const bmvp_json *m, int64_t base, bmvp_error *err)
{
    const bmvp_json *shape = bmvp_json_get(m, "shape"), *offsets = bmvp_json_get(m, "data_offsets"), *v;
    const char *dtype = bmvp_json_string(bmvp_json_get(m, "dtype"), "");
    const int64_t begin = bmvp_json_int(bmvp_json_at(offsets, 0), -1),
                  end = bmvp_json_int(bmvp_json_at(offsets, 1), -1);
    bmvpi_record *r = &f->record[f->n_records];
    bmvp_ckpt_entry e;
    int64_t dim[BMVP_MAX_DIMS];
    int t = 0, rank = 0;
    while (t < BMVP_DTYPE_COUNT && strcmp(dtype, bmvpi_dtype_ids[t])) t++;
    if (t == BMVP_DTYPE_COUNT)
        return bmvp_error_set(err, BMVP_E_UNSUPPORTED, "%.250s: tensor '%s' has the dtype '%s', which is not supported",
                              f->ck.path, bmvpi_show(m->key, strlen(m->key)).text,
                              bmvpi_show(dtype, strlen(dtype)).text);
    if (!shape || shape->type != BMVP_JSON_ARRAY || bmvp_json_count(offsets) != 2)
        return bmvpi_st_bad(f, m->key, "lacks shape or data_offsets", err);
    if (shape->i > BMVP_MAX_DIMS)
        return bmvp_error_set(err, BMVP_E_UNSUPPORTED, "%.250s: tensor '%s' has more than %d dimensions", f->ck.path,
                              bmvpi_show(m->key, strlen(m->key)).text, BMVP_MAX_DIMS);
    for (v = shape->first; v; v = v->next) dim[rank++] = bmvp_json_int(v, -1);
    memset(&e, 0, sizeof e);
    if (!bmvpi_ck_shape(&e, (bmvp_dtype)t, rank, dim)) return bmvpi_st_bad(f, m->key, "has an impossible shape", err);
    if (begin < 0 || end < begin || end > f->in.size - base || end - begin != e.bytes)
        return bmvpi_st_bad(f, m->key, "has data_offsets outside of the file or not of its size", err);
    e.record = (int)f->n_records++;
    memset(r, 0, sizeof *r);
    r->at = base + begin;
    r->size = e.bytes;
    r->resolved = r->verified = 1; /* safetensors has no checksum */
    e.group = "";
    r->name = e.name = bmvpi_bump_text(&f->mem, m->key, strlen(m->key));
    return e.name ? bmvpi_ck_add(f, &e, err) : bmvpi_ck_oom(f, err);
}

static int bmvpi_record_place(const void *a, const void *b)
{
    const bmvpi_record *x = (const bmvpi_record *)a, *y = (const bmvpi_record *)b;
    if (x->at != y->at) return x->at < y->at ? -1 : 1;
    return (x->size > y->size) - (x->size < y->size);
}

/* The format asks for data without holes or overlaps up to the end of the file: a cut file cannot pass. */
static bmvp_status bmvpi_st_tiling(bmvpi_ckpt_file *f, int64_t base, bmvp_error *err)
{
    const size_t n = (size_t)f->n_records;
    bmvpi_record *sorted = (bmvpi_record *)bmvpi_bump_get(&f->mem, n * sizeof *sorted);
    int64_t at = base;
    size_t i;
    if (!sorted) return bmvpi_ck_oom(f, err);
    if (n) memcpy(sorted, f->record, n * sizeof *sorted);
    if (n) qsort(sorted, n, sizeof *sorted, bmvpi_record_place);
    for (i = 0; i < n; i++) {
        if (sorted[i].at != at)
            return bmvpi_st_bad(f, sorted[i].name, "overlaps another one, or a hole comes before it", err);
        at += sorted[i].size;
    }
    if (at != f->in.size)
        return bmvp_error_set(err, BMVP_E_FORMAT, "%.300s: damaged safetensors file: %lld bytes after the last tensor",
                              f->ck.path, (long long)(f->in.size - at));
    return BMVP_OK;
}

/* Nodes sorted by key, or by text in an array: the lookups below stay fast in hostile files. */
static const char *bmvpi_node_text(const bmvp_json *n) { return n->key ? n->key : bmvp_json_string(n, ""); }

static int bmvpi_node_order(const void *a, const void *b)
{
    return strcmp(bmvpi_node_text(*(const bmvp_json *const *)a), bmvpi_node_text(*(const bmvp_json *const *)b));
}

static const bmvp_json **bmvpi_nodes(bmvpi_bump *mem, const bmvp_json *parent)
{
    const bmvp_json **v = (const bmvp_json **)bmvpi_bump_get(mem, (size_t)bmvp_json_count(parent) * sizeof *v), *m;
    size_t n = 0;
    if (!v) return NULL;
    for (m = bmvp_json_count(parent) ? parent->first : NULL; m; m = m->next) v[n++] = m;
    if (n) qsort((void *)v, n, sizeof *v, bmvpi_node_order);
    return v;
}

static const bmvp_json *bmvpi_node_find(const bmvp_json **v, int64_t n, const char *text)
{
    bmvp_json key;
    const bmvp_json *p = &key, **hit;
    memset(&key, 0, sizeof key);
    key.key = text;
    hit = (const bmvp_json **)bsearch(&p, (const void *)v, (size_t)n, sizeof *v, bmvpi_node_order);
    return hit ? *hit : NULL;
}

/* No group is called by more characters than this, which are those of a .pt file: so the look-ups of a name of many
   dots are linear in it. */
#define BMVPI_GROUP_MOST ((size_t)BMVPI_PK_PATH)

/* Cuts "group.name" at the longest group that is listed. */
static bmvp_status bmvpi_st_split(bmvpi_ckpt_file *f, const bmvp_json **groups, int64_t n, const char **group,
                                  const char **name, bmvp_error *err)
{
    const size_t len = strlen(*name);
    size_t at = len < BMVPI_GROUP_MOST ? len : BMVPI_GROUP_MOST;
    char *copy = bmvpi_bump_text(&f->mem, *name, at);
    if (!copy) return bmvpi_ck_oom(f, err);
    if (len > at && (*name)[at] == '.') ++at; /* the dot behind the longest group */
    while (at-- > 0) {
        if ((*name)[at] != '.') continue;
        copy[at] = 0;
        if (!bmvpi_node_find(groups, n, copy)) continue;
        *group = copy;
        *name += at + 1;
        break;
    }
    return BMVP_OK;
}

/* Our own entry of __metadata__ says which prefixes are groups and which values are not strings. */
static bmvp_status bmvpi_st_ours(bmvpi_ckpt_file *f, const char *text, bmvp_error *err)
{
    bmvp_json_doc *doc;
    const bmvp_json *groups, *kinds, **group, **kind;
    bmvp_status s = bmvp_json_parse(text, strlen(text), f->ck.path, &f->mem.a, &doc, err);
    int64_t i;
    if (s) return s;
    groups = bmvp_json_get(bmvp_json_root(doc), "groups");
    kinds = bmvp_json_get(bmvp_json_root(doc), "kinds");
    group = bmvpi_nodes(&f->mem, groups);
    kind = bmvpi_nodes(&f->mem, kinds);
    if (!group || !kind) s = bmvpi_ck_oom(f, err);
    for (i = 0; !s && i < bmvp_json_count(groups); i++)
        if (strlen(bmvpi_node_text(group[i])) > BMVPI_GROUP_MOST)
            s = bmvp_error_set(err, BMVP_E_FORMAT,
                               "%.300s: damaged safetensors file: a group of more than %d characters", f->ck.path,
                               (int)BMVPI_GROUP_MOST);
    for (i = 0; !s && i < f->n_entries; i++)
        s = bmvpi_st_split(f, group, bmvp_json_count(groups), &f->entry[i].group, &f->entry[i].name, err);
    for (i = 0; !s && i < f->n_meta; i++) {
        const char *k = bmvp_json_string(bmvpi_node_find(kind, bmvp_json_count(kinds), f->meta[i].name), "string");
        int j = 6;
        while (j-- > 1 && strcmp(k, bmvpi_meta_kinds[j])) {}
        f->meta[i].kind = j > 0 ? (bmvp_meta_kind)j : BMVP_META_STRING;
        s = bmvpi_st_split(f, group, bmvp_json_count(groups), &f->meta[i].group, &f->meta[i].name, err);
    }
    bmvp_json_free(doc);
    return s;
}

static bmvp_status bmvpi_st_metadata(bmvpi_ckpt_file *f, const bmvp_json *object, bmvp_error *err)
{
    const bmvp_json *v;
    bmvp_status s = BMVP_OK;
    for (v = bmvp_json_count(object) ? object->first : NULL; v && !s; v = v->next) {
        bmvp_ckpt_meta m;
        if (v->type != BMVP_JSON_STRING || object->type != BMVP_JSON_OBJECT)
            return bmvp_error_set(err, BMVP_E_FORMAT,
                                  "%.300s: damaged safetensors file: __metadata__ holds more than strings", f->ck.path);
        if (!strcmp(v->key, "bmvp")) continue;
        m.group = "";
        m.kind = BMVP_META_STRING;
        m.name = bmvpi_bump_text(&f->mem, v->key, strlen(v->key));
        m.value = bmvpi_bump_text(&f->mem, v->str, (size_t)v->i);
        s = m.name && m.value ? bmvpi_ck_add_meta(f, &m, err) : bmvpi_ck_oom(f, err);
    }
    v = bmvp_json_get(object, "bmvp");
    return s || !v ? s : bmvpi_st_ours(f, v->str, err);
}

/* 8 bytes: length of the header; the header, JSON; the data. */
static bmvp_status bmvpi_st_open(bmvpi_ckpt_file *f, int64_t n, bmvp_error *err)
{
    char *text = (char *)bmvpi_bump_get(&f->mem, (size_t)n), where[300];
    bmvp_json_doc *doc;
    const bmvp_json *root, *m;
    bmvp_status s;
    f->ck.format = BMVP_CKPT_SAFETENSORS;
    if (!text) return bmvpi_ck_oom(f, err);
    s = bmvpi_in_read(&f->in, 8, text, n, err);
    snprintf(where, sizeof where, "%.250s: header", f->ck.path);
    if (!s) s = bmvp_json_parse(text, (size_t)n, where, &f->mem.a, &doc, err);
    if (s) return s;
    root = bmvp_json_root(doc);
    f->record = (bmvpi_record *)bmvpi_bump_get(&f->mem, (size_t)bmvp_json_count(root) * sizeof *f->record);
    if (!f->record) s = bmvpi_ck_oom(f, err);
    else if (root->type != BMVP_JSON_OBJECT) s = bmvp_error_set(err, BMVP_E_FORMAT, "%s is not an object", where);
    for (m = s ? NULL : root->first; m && !s; m = m->next)
        if (strcmp(m->key, "__metadata__")) s = bmvpi_st_entry(f, m, 8 + n, err);
    if (!s) s = bmvpi_st_tiling(f, 8 + n, err);
    if (!s) s = bmvpi_st_metadata(f, bmvp_json_get(root, "__metadata__"), err);
    bmvp_json_free(doc);
    return s;
}

/* >>checkpoint reader ---------------------------------------------------------------------------------------------- */

static bmvp_status bmvpi_ck_detect(bmvpi_ckpt_file *f, bmvp_error *err)
{
    uint8_t h[512];
    const int64_t n = f->in.size < (int64_t)sizeof h ? f->in.size : (int64_t)sizeof h;
    const char *what = NULL;
    uint64_t header;
    bmvp_status s;
    memset(h, 0, sizeof h);
    if ((s = bmvpi_in_read(&f->in, 0, h, n, err)) != BMVP_OK) return s;
    if (!memcmp(h, "PK\3\4", 4) || !memcmp(h, "PK\5\6", 4)) return bmvpi_pt_open(f, err);
    header = bmvpi_le_get(h, 8);
    if (h[0] == 0x80 && h[1] >= 2 && h[1] <= 5 && h[8] != '{') return bmvpi_pl_open(f, err);
    if (!memcmp(h + 257, "ustar", 5))
        what = "is a tar archive, as PyTorch 0.1 wrote; run torch.save(torch.load(f), f) once";
    else if (h[0] == 0x1f && h[1] == 0x8b) what = "is compressed by gzip; run gunzip on it";
    else if (!memcmp(h, "\x89HDF", 4)) what = "is an HDF5 file (Keras?), not a PyTorch or safetensors file";
    if (what) return bmvp_error_set(err, BMVP_E_UNSUPPORTED, "%.300s: %s", f->ck.path, what);
    if (n < 10 || h[8] != '{')
        return bmvp_error_set(err, BMVP_E_FORMAT, "%.300s: neither a safetensors file nor a PyTorch zip file",
                              f->ck.path);
    if (header > (uint64_t)(f->in.size - 8))
        return bmvp_error_set(err, BMVP_E_FORMAT, "%.300s: damaged safetensors file: shorter than its header says",
                              f->ck.path);
    if (header > BMVPI_ST_MAX_HEADER)
        return bmvp_error_set(err, BMVP_E_UNSUPPORTED, "%.300s: safetensors header of more than 32 MiB", f->ck.path);
    return bmvpi_st_open(f, (int64_t)header, err);
}

BMVP_API bmvp_status bmvp_ckpt_open(const char *path, const bmvp_allocator *a, bmvp_ckpt **ckpt, bmvp_error *err)
{
    const bmvp_allocator al = bmvpi_allocator_or_libc(a);
    bmvpi_ckpt_file *f;
    bmvp_status s;
    *ckpt = NULL;
    f = (bmvpi_ckpt_file *)al.alloc(sizeof *f, al.user);
    if (!f) return bmvp_error_set(err, BMVP_E_OOM, "%.300s: out of memory", path);
    memset(f, 0, sizeof *f);
    f->mem.a = al;
    f->in.fd = -1;
    f->ck.file = f;
    f->ck.path = bmvpi_bump_text(&f->mem, path, strlen(path));
    bmvpi_crc_init(&f->crc);
    s = f->ck.path ? bmvpi_in_open(&f->in, f->ck.path, err)
                   : bmvp_error_set(err, BMVP_E_OOM, "%.300s: out of memory", path);
    f->mem.most = s ? 0 : bmvpi_ck_most(f->in.size);
    if (!s) s = bmvpi_ck_detect(f, err);
    if (!s) s = bmvpi_ck_unique(f->ck.path, &al, f->entry, f->n_entries, err);
    f->ck.entry = f->entry;
    f->ck.n_entries = (int)f->n_entries;
    f->ck.meta = f->meta;
    f->ck.n_meta = (int)f->n_meta;
    if (s) bmvp_ckpt_close(&f->ck);
    else *ckpt = &f->ck;
    return s;
}

BMVP_API void bmvp_ckpt_close(bmvp_ckpt *ckpt)
{
    bmvpi_ckpt_file *f = ckpt ? ckpt->file : NULL;
    if (!f) return;
    if (f->in.fd >= 0) bmvpi_sys_close(f->in.fd);
    bmvpi_bump_free(&f->mem);
    f->mem.a.free(f, f->mem.a.user);
}

BMVP_API int bmvp_ckpt_find(const bmvp_ckpt *ckpt, const char *group, const char *name)
{
    int i;
    for (i = 0; i < ckpt->n_entries; i++)
        if (!strcmp(ckpt->entry[i].name, name) && (!group || !strcmp(ckpt->entry[i].group, group))) return i;
    return -1;
}

BMVP_API const bmvp_ckpt_meta *bmvp_ckpt_find_meta(const bmvp_ckpt *ckpt, const char *group, const char *name)
{
    int i;
    for (i = ckpt->n_meta; i-- > 0;) /* the last one counts, as in a Python dict */
        if (!strcmp(ckpt->meta[i].name, name) && (!group || !strcmp(ckpt->meta[i].group, group))) return &ckpt->meta[i];
    return NULL;
}

BMVP_API bmvp_status bmvp_ckpt_strip(bmvp_ckpt *ckpt, const char *group, const char *prefix, bmvp_error *err)
{
    bmvpi_ckpt_file *f = ckpt->file;
    const size_t n = strlen(prefix), bytes = (size_t)f->n_entries * sizeof *f->entry;
    bmvp_ckpt_entry *e = (bmvp_ckpt_entry *)bmvpi_bump_get(&f->mem, bytes);
    int64_t i;
    bmvp_status s;
    if (!e) return bmvpi_ck_oom(f, err);
    if (bytes) memcpy(e, f->entry, bytes);
    for (i = 0; i < f->n_entries; i++)
        if (!strcmp(e[i].group, group) && !strncmp(e[i].name, prefix, n) && e[i].name[n]) e[i].name += n;
    s = bmvpi_ck_unique(ckpt->path, &f->mem.a, e, f->n_entries, err);
    if (!s) ckpt->entry = f->entry = e;
    return s;
}

/* Strided elements [first, first + count) out of the run of the record that the tensor touches. */
static bmvp_status bmvpi_ck_gather(bmvpi_ckpt_file *f, const bmvp_ckpt_entry *e, int64_t first, int64_t count,
                                   char *dst, bmvp_error *err)
{
    const int64_t size = bmvp_dtype_size(e->dtype);
    int64_t at[BMVP_MAX_DIMS], span = 1, from = 0, i, n;
    char *run;
    int d;
    bmvp_status s;
    for (d = e->rank, i = first; d-- > 0; i /= e->dim[d]) {
        at[d] = i % e->dim[d];
        from += at[d] * e->stride[d];
        span += (e->dim[d] - 1) * e->stride[d];
    }
    run = (char *)f->mem.a.alloc((size_t)(span * size), f->mem.a.user);
    if (!run) return bmvpi_ck_oom(f, err);
    s = bmvpi_ck_read(f, &f->record[e->record], e->first * size, run, span * size, err);
    for (n = 0; n < count && !s; n++) {
        memcpy(dst + n * size, run + from * size, (size_t)size);
        for (d = e->rank; d-- > 0; at[d] = 0) { /* next position, like an odometer; an axis of 1 may have any stride */
            if (++at[d] < e->dim[d]) {
                from += e->stride[d];
                break;
            }
            from -= (e->dim[d] - 1) * e->stride[d];
        }
    }
    f->mem.a.free(run, f->mem.a.user);
    return s;
}

static bmvp_status bmvpi_ck_elements(bmvp_ckpt *ckpt, int index, int64_t first, int64_t count, void *dst,
                                     bmvp_error *err)
{
    bmvpi_ckpt_file *f = ckpt->file;
    const bmvp_ckpt_entry *e = &f->entry[index];
    const int64_t size = bmvp_dtype_size(e->dtype);
    if (count == 0) return BMVP_OK;
    if (!e->contiguous) return bmvpi_ck_gather(f, e, first, count, (char *)dst, err);
    return bmvpi_ck_read(f, &f->record[e->record], (e->first + first) * size, dst, count * size, err);
}

BMVP_API bmvp_status bmvp_ckpt_load(bmvp_ckpt *ckpt, int index, void *dst, int64_t bytes, bmvp_error *err)
{
    const bmvp_ckpt_entry *e;
    bmvp_status s;
    if (index < 0 || index >= ckpt->n_entries)
        return bmvp_error_set(err, BMVP_E_ARG, "%.300s: has no tensor number %d", ckpt->path, index);
    if (bytes != ckpt->entry[index].bytes)
        return bmvp_error_set(err, BMVP_E_SHAPE, "%.250s: tensor '%.100s' has %lld bytes, room was given for %lld",
                              ckpt->path, ckpt->entry[index].name, (long long)ckpt->entry[index].bytes,
                              (long long)bytes);
    e = &ckpt->entry[index];
    s = bmvpi_ck_elements(ckpt, index, 0, e->numel, dst, err);
    if (!s) bmvpi_le_native(dst, e->numel, bmvp_dtype_size(e->dtype));
    return s;
}

static float bmvpi_float_of_bits(uint32_t bits)
{
    float v;
    memcpy(&v, &bits, 4);
    return v;
}

/* IEEE 754 binary16 -> binary32, exactly. */
static float bmvpi_float_of_half(uint32_t h)
{
    const uint32_t sign = (h & 0x8000u) << 16, e = h >> 10 & 31, m = h & 1023;
    const float tiny = (float)m * (1.0f / 16777216.0f); /* subnormal: m x 2^-24 */
    if (e == 0) return sign ? -tiny : tiny;
    return bmvpi_float_of_bits(sign | (e == 31 ? 0x7f800000u : (e + 112) << 23) | m << 13);
}

static float bmvpi_ck_float(bmvp_dtype t, const uint8_t *p)
{
    const uint64_t bits = bmvpi_le_get(p, (int)bmvpi_dtype_table[t].size);
    double d;
    switch (t) {
    case BMVP_DTYPE_F64: memcpy(&d, &bits, 8); return (float)d;
    case BMVP_DTYPE_F16: return bmvpi_float_of_half((uint32_t)bits);
    case BMVP_DTYPE_BF16: return bmvpi_float_of_bits((uint32_t)bits << 16);
    case BMVP_DTYPE_I64: return (float)(int64_t)bits;
    case BMVP_DTYPE_I32: return (float)(int32_t)(uint32_t)bits;
    case BMVP_DTYPE_I16: return (float)(int16_t)(uint16_t)bits;
    case BMVP_DTYPE_I8: return (float)(int8_t)(uint8_t)bits;
    case BMVP_DTYPE_U8: return (float)bits;
    case BMVP_DTYPE_BOOL: return bits ? 1.0f : 0.0f;
    default: return bmvpi_float_of_bits((uint32_t)bits);
    }
}

BMVP_API bmvp_status bmvp_ckpt_load_f32(bmvp_ckpt *ckpt, int index, int64_t first, int64_t count, float *dst,
                                        bmvp_error *err)
{
    const bmvp_ckpt_entry *e = index >= 0 && index < ckpt->n_entries ? &ckpt->entry[index] : NULL;
    const bmvp_allocator *a = &ckpt->file->mem.a;
    int64_t i, size;
    uint8_t *raw;
    bmvp_status s;
    if (!e) return bmvp_error_set(err, BMVP_E_ARG, "%.300s: has no tensor number %d", ckpt->path, index);
    if (first < 0 || count < 0 || first > e->numel || count > e->numel - first)
        return bmvp_error_set(err, BMVP_E_SHAPE,
                              "%.250s: tensor '%.100s' has %lld elements; %lld from %lld on were asked for", ckpt->path,
                              e->name, (long long)e->numel, (long long)count, (long long)first);
    if (e->dtype == BMVP_DTYPE_F32) {
        s = bmvpi_ck_elements(ckpt, index, first, count, dst, err);
        if (!s) bmvpi_le_native(dst, count, (int64_t)sizeof *dst);
        return s;
    }
    size = bmvp_dtype_size(e->dtype);
    raw = (uint8_t *)a->alloc((size_t)(count * size) + 1, a->user);
    if (!raw) return bmvpi_ck_oom(ckpt->file, err);
    s = bmvpi_ck_elements(ckpt, index, first, count, raw, err);
    for (i = 0; i < count && !s; i++) dst[i] = bmvpi_ck_float(e->dtype, raw + i * size);
    a->free(raw, a->user);
    return s;
}

/* >>weights: where the files of other programs hold a network ------------------------------------------------------

   A checkpoint is a tree of dicts, and every program hangs the network somewhere else: under "state_dict" (the release,
   Lightning), "model" (DINO, MAE, timm), "network_weights" (nnU-Net), "model_state_dict" (PyTorch's own tutorials),
   "student" beside "teacher" (self-distillation), or at the root. Around it stand optimizers, averages of weights,
   queues. And what wraps a network goes before the names of its tensors: "module." (DataParallel), "_orig_mod."
   (torch.compile), "model." (a Lightning module's attribute), one around another.
   So: groups are tried by the names that people give them, then the root, then the rest; taken is the first in which a
   network of the header is recognised. Where none is - a network of the program's own - the first group with such a
   name, else the only one there is. Prefixes that only wrappers write are always stripped; words that a network may use
   for its own parts ("model.", "net.") only where all tensors have them and a network of the header appears behind
   them. Last, names that another program has for the tensors of a network of the header become those. */

enum { BMVPI_GROUPS = 64 };
static const char *const bmvpi_weight_keys[] = {
    "state_dict", "model_state_dict", "network_weights", "model_state",   "model",          "network", "net",
    "student",    "weights",          "params",          "model_weights", "net_state_dict", ""
};
static const char *const bmvpi_wrappers[] = { "module.", "_orig_mod.", "_forward_module.", "_fsdp_wrapped_module.",
                                              "_checkpoint_wrapped_module." };
static const char *const bmvpi_holders[] = { "model.",      "net.",     "network.", "student.", "backbone.",
                                             "encoder.",    "encoder_q.", "base_encoder.", "model_state_dict.",
                                             "state_dict.", "model.net.", "model.network.", "model.backbone.",
                                             "model.encoder.", "network.encoder.", "student.backbone." };
enum {
    BMVPI_WEIGHT_KEYS = sizeof bmvpi_weight_keys / sizeof *bmvpi_weight_keys,
    BMVPI_WRAPPERS = sizeof bmvpi_wrappers / sizeof *bmvpi_wrappers,
    BMVPI_HOLDERS = sizeof bmvpi_holders / sizeof *bmvpi_holders
};

typedef struct bmvpi_weight_group {
    const char *name;
    int64_t tensors, bytes;
} bmvpi_weight_group;

/* The groups of a file in its order, BMVPI_GROUPS at most. */
static int bmvpi_weight_groups(const bmvp_ckpt *ckpt, bmvpi_weight_group *g)
{
    int i, k, n = 0;
    for (i = 0; i < ckpt->n_entries; ++i) {
        for (k = n; k > 0 && strcmp(g[k - 1].name, ckpt->entry[i].group) != 0; --k) { }
        if (k == 0 && n == BMVPI_GROUPS) continue;
        if (k == 0) {
            g[n].name = ckpt->entry[i].group;
            g[n].tensors = g[n].bytes = 0;
            k = ++n;
        }
        g[k - 1].tensors += 1;
        g[k - 1].bytes += ckpt->entry[i].bytes;
    }
    return n;
}

/* "its tensors stand under 'teacher' (113, 35.2 MB), the root (2, 0.1 MB)", cut where it is too long. */
static void bmvpi_weight_text(const bmvp_ckpt *ckpt, char *out, size_t size)
{
    bmvpi_weight_group g[BMVPI_GROUPS];
    const int n = bmvpi_weight_groups(ckpt, g);
    size_t at = (size_t)snprintf(out, size, n > 0 ? "its tensors stand " : "it holds no tensors");
    int i;
    for (i = 0; i < n && at + 80 < size; ++i) {
        at += *g[i].name ? (size_t)snprintf(out + at, size - at, "%sunder '%.40s'", i ? ", " : "", g[i].name)
                         : (size_t)snprintf(out + at, size - at, "%sat the root", i ? ", " : "");
        at += (size_t)snprintf(out + at, size - at, " (%lld, %.1f MB)", (long long)g[i].tensors,
                               (double)g[i].bytes / 1e6);
    }
    if (i < n) snprintf(out + at, size - at, " and %d more", n - i);
}

/* Optimizers keep tensors of the network's shapes. */
static int bmvpi_weight_moments(const char *group)
{
    return strncmp(group, "optim", 5) == 0 || strncmp(group, "opt_", 4) == 0 || strstr(group, "optimizer") != NULL;
}

/* The name behind wrappers, behind `holder` if it is not NULL, and behind wrappers again. NULL: it has no such
   holder. */
static const char *bmvpi_unwrapped(const char *name, const char *holder)
{
    int i = 0;
    while (i < BMVPI_WRAPPERS) {
        const size_t n = strlen(bmvpi_wrappers[i]);
        if (strncmp(name, bmvpi_wrappers[i], n) == 0 && name[n]) name += n, i = 0;
        else ++i;
    }
    if (!holder) return name;
    return strncmp(name, holder, strlen(holder)) == 0 && name[strlen(holder)]
               ? bmvpi_unwrapped(name + strlen(holder), NULL)
               : NULL;
}

/* 1: with these names the group is a network of the header; all of its names have the holder. */
static int bmvpi_weight_known(bmvp_ckpt *ckpt, const char *group, const char *holder, bmvp_ckpt_entry *room)
{
    bmvp_ckpt view = *ckpt;
    bmvp_net_config cfg;
    int i, n = 0;
    for (i = 0; i < ckpt->n_entries; ++i) {
        if (strcmp(ckpt->entry[i].group, group) != 0) continue;
        room[n] = ckpt->entry[i];
        room[n].name = bmvpi_unwrapped(room[n].name, holder);
        if (!room[n++].name) return 0;
    }
    view.entry = room;
    view.n_entries = n;
    for (i = 0; i < BMVPI_NET_KINDS && n > 0; ++i)
        if (bmvpi_net_infer_kind(bmvpi_net_kinds[i], &view, group, &cfg)) return 1;
    return 0;
}

/* The names of the group without what wraps them, for good. */
static bmvp_status bmvpi_weight_unwrap(bmvp_ckpt *ckpt, const char *group, const char *holder, bmvp_error *err)
{
    bmvpi_ckpt_file *f = ckpt->file;
    const size_t bytes = (size_t)f->n_entries * sizeof *f->entry;
    bmvp_ckpt_entry *e = (bmvp_ckpt_entry *)bmvpi_bump_get(&f->mem, bytes + 1);
    int64_t i;
    bmvp_status s;
    if (!e) return bmvpi_ck_oom(f, err);
    if (bytes) memcpy(e, f->entry, bytes);
    for (i = 0; i < f->n_entries; ++i) {
        const char *name = strcmp(e[i].group, group) == 0 ? bmvpi_unwrapped(e[i].name, holder) : NULL;
        if (name) e[i].name = name;
    }
    s = bmvpi_ck_unique(ckpt->path, &f->mem.a, e, f->n_entries, err);
    if (!s) ckpt->entry = f->entry = e;
    return s;
}

/* Other programs' names for the tensors of a network of the header: where one of a group's names begins with `mark`,
   `from` at the beginning of its names is `to` here. Not ours where a name says something else: "layers1.0.0." and
   ".mlp.fc1" of DAE and of MONAI's self-supervised weights, see bmvpi_weight_ours. */
static const struct { const char *mark, *from, *to; } bmvpi_dialects[] = {
    { "patch_embed.proj.", "patch_embed.", "swinViT.patch_embed." }, /* MONAI's self-supervised weights */
    { "patch_embed.proj.", "layers", "swinViT.layers" },
    { "swin_vit.patch_embed.", "swin_vit.", "swinViT." },
    { "encoder.patch_embed.proj.", "encoder.patch_embed.", "swinViT.patch_embed." }, /* DAE */
    { "encoder.patch_embed.proj.", "encoder.layers", "swinViT.layers" },
    { "backbone.swinViT.patch_embed.", "backbone.", "" },                            /* VoCo */
    { "unet.conv1a.", "unet.", "" }                                                  /* M3AE */
};
enum { BMVPI_DIALECTS = sizeof bmvpi_dialects / sizeof *bmvpi_dialects, BMVPI_LONGER = 24 };

/* Our name for `name`: as long as that and BMVPI_LONGER at most, with its 0. spoken: by dialect, whether its mark is
   there. */
static void bmvpi_weight_ours(const char *name, const char *spoken, char *out, size_t size)
{
    static const char stage[] = "swinViT.layers";
    char *rest, *mlp;
    int i;
    for (i = 0; i < BMVPI_DIALECTS; ++i)
        if (spoken[i] && strncmp(name, bmvpi_dialects[i].from, strlen(bmvpi_dialects[i].from)) == 0) break;
    snprintf(out, size, "%s%s", i < BMVPI_DIALECTS ? bmvpi_dialects[i].to : "",
             i < BMVPI_DIALECTS ? name + strlen(bmvpi_dialects[i].from) : name);
    if (strncmp(out, stage, sizeof stage - 1) != 0) return;
    rest = out + sizeof stage - 1;
    rest += strspn(rest, "1234");
    if (strncmp(rest, ".0.0.", 5) == 0) memmove(rest, rest + 2, strlen(rest + 2) + 1);
    mlp = strstr(rest, ".mlp.fc");
    if (!mlp) return;
    memmove(mlp + strlen(".mlp.linear"), mlp + strlen(".mlp.fc"), strlen(mlp + strlen(".mlp.fc")) + 1);
    memcpy(mlp, ".mlp.linear", strlen(".mlp.linear"));
}

/* The group's names become ours where they are another program's and a network of the header appears behind them. */
static bmvp_status bmvpi_weight_translate(bmvp_ckpt *ckpt, const char *group, bmvp_error *err)
{
    bmvpi_ckpt_file *f = ckpt->file;
    const size_t bytes = (size_t)f->n_entries * sizeof *f->entry;
    char spoken[BMVPI_DIALECTS] = { 0 };
    bmvp_ckpt_entry *e;
    bmvp_ckpt view = *ckpt;
    bmvp_net_config cfg;
    bmvp_error other;
    int i, k, any = 0;
    if (bmvp_ckpt_find_meta(ckpt, "", "format")) return BMVP_OK; /* ours, which may hold a program's own network */
    for (i = 0; i < ckpt->n_entries; ++i)
        for (k = 0; k < BMVPI_DIALECTS && strcmp(ckpt->entry[i].group, group) == 0; ++k)
            if (strncmp(ckpt->entry[i].name, bmvpi_dialects[k].mark, strlen(bmvpi_dialects[k].mark)) == 0)
                any = spoken[k] = 1;
    for (i = 0; i < ckpt->n_entries && !any; ++i)
        any = strncmp(ckpt->entry[i].name, "swinViT.", 8) == 0 && strstr(ckpt->entry[i].name, ".mlp.fc");
    e = any ? (bmvp_ckpt_entry *)bmvpi_bump_get(&f->mem, bytes + 1) : NULL;
    if (!e) return any ? bmvpi_ck_oom(f, err) : BMVP_OK;
    memcpy(e, f->entry, bytes);
    for (i = 0; i < ckpt->n_entries; ++i) {
        const size_t room = strlen(e[i].name) + BMVPI_LONGER;
        char *name = strcmp(e[i].group, group) == 0 ? (char *)bmvpi_bump_get(&f->mem, room) : NULL;
        if (strcmp(e[i].group, group) != 0) continue;
        if (!name) return bmvpi_ck_oom(f, err);
        bmvpi_weight_ours(e[i].name, spoken, name, room);
        e[i].name = name;
    }
    view.entry = e;
    for (i = 0; i < BMVPI_NET_KINDS && !bmvpi_net_infer_kind(bmvpi_net_kinds[i], &view, group, &cfg); ++i) { }
    if (i < BMVPI_NET_KINDS && !bmvpi_ck_unique(ckpt->path, &f->mem.a, e, f->n_entries, &other))
        ckpt->entry = f->entry = e;
    return BMVP_OK;
}

/* The groups to try: those with a name for weights in the order of the names, then the rest. Returns how many; *named:
   of the first kind. */
static int bmvpi_weight_order(const bmvp_ckpt *ckpt, const char **order, int *named)
{
    bmvpi_weight_group g[BMVPI_GROUPS];
    const int n = bmvpi_weight_groups(ckpt, g);
    int taken[BMVPI_GROUPS] = { 0 }, i, k, m = 0;
    for (k = 0; k < BMVPI_WEIGHT_KEYS; ++k)
        for (i = 0; i < n; ++i) {
            const char *last = strrchr(g[i].name, '.');
            if (taken[i] || bmvpi_weight_moments(g[i].name) ||
                strcmp(last ? last + 1 : g[i].name, bmvpi_weight_keys[k]) != 0)
                continue;
            taken[i] = 1;
            order[m++] = g[i].name;
        }
    *named = m;
    for (i = 0; i < n; ++i)
        if (!taken[i] && !bmvpi_weight_moments(g[i].name)) order[m++] = g[i].name;
    return m;
}

BMVP_API bmvp_status bmvp_state_group(bmvp_ckpt *ckpt, const char **group, bmvp_error *err)
{
    const bmvp_allocator *a = &ckpt->file->mem.a;
    const char *order[BMVPI_GROUPS], *holder = NULL;
    char found[400];
    int named, i, h, n = bmvpi_weight_order(ckpt, order, &named);
    bmvp_ckpt_entry *room = (bmvp_ckpt_entry *)a->alloc((size_t)ckpt->n_entries * sizeof *room + 1, a->user);
    if (!room) return bmvpi_ck_oom(ckpt->file, err);
    *group = NULL;
    for (i = 0; i < n && !*group; ++i)
        for (h = -1; h < BMVPI_HOLDERS && !*group; ++h) {
            holder = h < 0 ? NULL : bmvpi_holders[h];
            if (bmvpi_weight_known(ckpt, order[i], holder, room)) *group = order[i];
        }
    a->free(room, a->user);
    if (!*group) {
        holder = NULL;
        if (named > 0 || n == 1) *group = order[0];
    }
    if (*group) {
        const bmvp_status st = bmvpi_weight_unwrap(ckpt, *group, holder, err);
        return st ? st : bmvpi_weight_translate(ckpt, *group, err);
    }
    bmvpi_weight_text(ckpt, found, sizeof found);
    return bmvp_error_set(err, BMVP_E_FORMAT, "%.300s: no network in it: %s", ckpt->path, found);
}

/* >>checkpoint writer ---------------------------------------------------------------------------------------------- */

typedef struct bmvpi_tree { /* a dict of the PyTorch file, or a leaf of it */
    const char *name;
    struct bmvpi_tree *first, *last, *next;
    int64_t entry, meta; /* leaf: index, else -1 */
    int is_ordered;      /* a dict that holds tensors itself is an OrderedDict, as state_dict() returns */
} bmvpi_tree;

struct bmvp_ckpt_writer {
    bmvpi_out out;
    bmvpi_bump mem;
    bmvp_ckpt_format format;
    bmvp_error kept; /* the first failure */
    bmvp_ckpt_entry *entry; /* first: place of the data in the file */
    bmvp_ckpt_meta *meta;
    bmvpi_record *record;   /* PyTorch: what is in the zip so far */
    int64_t n_entries, cap_entries, n_meta, cap_meta, n_records, cap_records;
    int64_t current, done;  /* tensor whose turn it is, bytes of it written */
    int64_t end;            /* of what is written or laid out */
    uint64_t zip64_from;    /* sizes from here on need zip64 fields */
    int started;
    bmvpi_crc crc;
    uint8_t turned[4096]; /* big-endian machines: data on their way into the file */
};

static bmvp_status bmvpi_cw_result(const bmvp_ckpt_writer *w, bmvp_error *err)
{
    if (w->kept.status && err) *err = w->kept;
    return w->kept.status;
}

static void bmvpi_cw_fail(bmvp_ckpt_writer *w, bmvp_status s, const char *what, const char *name)
{
    if (!w->kept.status)
        bmvp_error_set(&w->kept, s, "%.300s: %s%s%s%s", w->out.path, what, name ? " '" : "",
                       name ? bmvpi_show(name, strlen(name)).text : "", name ? "'" : "");
}

static void bmvpi_cw_oom(bmvp_ckpt_writer *w) { bmvpi_cw_fail(w, BMVP_E_OOM, "out of memory while writing", NULL); }

BMVP_API bmvp_status bmvp_ckpt_writer_begin(const char *path, bmvp_ckpt_format format, const bmvp_allocator *a,
                                            bmvp_ckpt_writer **writer, bmvp_error *err)
{
    const bmvp_allocator al = bmvpi_allocator_or_libc(a);
    bmvp_ckpt_writer *w;
    bmvp_status s;
    *writer = NULL;
    if (format != BMVP_CKPT_SAFETENSORS && format != BMVP_CKPT_PT)
        return bmvp_error_set(err, BMVP_E_ARG, "%.300s: unknown checkpoint format %d", path, (int)format);
    w = (bmvp_ckpt_writer *)al.alloc(sizeof *w, al.user);
    if (!w) return bmvp_error_set(err, BMVP_E_OOM, "%.300s: out of memory", path);
    memset(w, 0, sizeof *w);
    w->mem.a = al;
    w->format = format;
    w->zip64_from = BMVPI_ZIP_BIG;
    bmvpi_crc_init(&w->crc);
    s = bmvpi_out_open(&w->out, path, &al, err);
    if (s) bmvp_ckpt_writer_abort(w);
    else *writer = w;
    return s;
}

BMVP_API void bmvp_ckpt_writer_abort(bmvp_ckpt_writer *w)
{
    if (!w) return;
    bmvpi_out_discard(&w->out);
    bmvpi_bump_free(&w->mem);
    w->mem.a.free(w, w->mem.a.user);
}

/* Copies group and name; both must be UTF-8, the name not empty, the group without empty parts. */
static int bmvpi_cw_names(bmvp_ckpt_writer *w, const char **group, const char **name)
{
    const char *g = *group ? *group : "", *n = *name ? *name : "";
    const size_t k = strlen(g), m = strlen(n);
    if (w->kept.status) return 0;
    if (w->started)
        bmvpi_cw_fail(w, BMVP_E_STATE, "all tensors and metadata must be declared before the first data, not", n);
    else if (!m || !bmvpi_utf8_valid(n, m) || !bmvpi_utf8_valid(g, k))
        bmvpi_cw_fail(w, BMVP_E_ARG, "empty name, or name or group not UTF-8:", n);
    else if (k && (*g == '.' || g[k - 1] == '.' || strstr(g, "..")))
        bmvpi_cw_fail(w, BMVP_E_ARG, "group with an empty part:", g);
    else if (k > BMVPI_GROUP_MOST) bmvpi_cw_fail(w, BMVP_E_ARG, "group of more than 1024 characters:", g);
    else {
        *group = bmvpi_bump_text(&w->mem, g, k);
        *name = bmvpi_bump_text(&w->mem, n, m);
        if (!*group || !*name) bmvpi_cw_oom(w);
    }
    return !w->kept.status;
}

BMVP_API bmvp_status bmvp_ckpt_writer_add(bmvp_ckpt_writer *w, const char *group, const char *name, bmvp_dtype dtype,
                                          int rank, const int64_t *dim, bmvp_error *err)
{
    bmvp_ckpt_entry e;
    memset(&e, 0, sizeof e);
    if (!bmvpi_cw_names(w, &group, &name)) return bmvpi_cw_result(w, err);
    e.group = group;
    e.name = name;
    if ((unsigned)dtype >= BMVP_DTYPE_COUNT || !bmvpi_ck_shape(&e, dtype, rank, dim))
        bmvpi_cw_fail(w, BMVP_E_ARG, "unknown dtype or impossible shape of tensor", name);
    else if (w->n_entries >= INT32_MAX / 2 ||
             !bmvpi_bump_grow(&w->mem, (void **)&w->entry, w->n_entries, &w->cap_entries, sizeof e))
        bmvpi_cw_oom(w);
    else w->entry[w->n_entries++] = e;
    return bmvpi_cw_result(w, err);
}

static int bmvpi_is_special(const char *v) { return !strcmp(v, "nan") || !strcmp(v, "inf") || !strcmp(v, "-inf"); }

/* Does the text fit the kind? What is written from it later cannot fail then. */
static int bmvpi_cw_meta_valid(bmvp_ckpt_writer *w, bmvp_meta_kind kind, const char *value)
{
    bmvp_json_doc *doc;
    const bmvp_json *r;
    int ok;
    if (kind == BMVP_META_STRING || (kind == BMVP_META_FLOAT && bmvpi_is_special(value))) return 1;
    if (bmvp_json_parse(value, strlen(value), w->out.path, &w->mem.a, &doc, &w->kept)) return 0;
    r = bmvp_json_root(doc);
    ok = kind == BMVP_META_INT     ? r->type == BMVP_JSON_NUMBER && r->is_int
         : kind == BMVP_META_FLOAT ? r->type == BMVP_JSON_NUMBER
         : kind == BMVP_META_BOOL  ? r->type == BMVP_JSON_BOOL
         : kind == BMVP_META_NONE  ? r->type == BMVP_JSON_NULL
                                   : 1;
    bmvp_json_free(doc);
    return ok;
}

BMVP_API bmvp_status bmvp_ckpt_writer_meta(bmvp_ckpt_writer *w, const char *group, const char *name,
                                           bmvp_meta_kind kind, const char *value, bmvp_error *err)
{
    bmvp_ckpt_meta m;
    if (!bmvpi_cw_names(w, &group, &name)) return bmvpi_cw_result(w, err);
    m.group = group;
    m.name = name;
    m.kind = kind;
    m.value = value ? bmvpi_bump_text(&w->mem, value, strlen(value)) : NULL;
    if (value && !m.value) bmvpi_cw_oom(w);
    else if (!value || (unsigned)kind > BMVP_META_JSON || !bmvpi_utf8_valid(value, strlen(value)) ||
             !bmvpi_cw_meta_valid(w, kind, value))
        bmvpi_cw_fail(w, BMVP_E_ARG, "not a value of its kind: metadata", name);
    else if (w->n_meta >= INT32_MAX / 2 ||
             !bmvpi_bump_grow(&w->mem, (void **)&w->meta, w->n_meta, &w->cap_meta, sizeof m))
        bmvpi_cw_oom(w);
    else w->meta[w->n_meta++] = m;
    return bmvpi_cw_result(w, err);
}

BMVP_API bmvp_status bmvp_ckpt_writer_meta_int(bmvp_ckpt_writer *w, const char *group, const char *name, int64_t value,
                                               bmvp_error *err)
{
    char text[32];
    snprintf(text, sizeof text, "%lld", (long long)value);
    return bmvp_ckpt_writer_meta(w, group, name, BMVP_META_INT, text, err);
}

BMVP_API bmvp_status bmvp_ckpt_writer_meta_float(bmvp_ckpt_writer *w, const char *group, const char *name, double value,
                                                 bmvp_error *err)
{
    char text[40];
    if (value >= -DBL_MAX && value <= DBL_MAX) bmvpi_number_text(text, value, 0);
    else snprintf(text, sizeof text, "%s", value != value ? "nan" : value > 0 ? "inf" : "-inf");
    return bmvp_ckpt_writer_meta(w, group, name, BMVP_META_FLOAT, text, err);
}

static void bmvpi_cw_put(bmvp_ckpt_writer *w, int64_t at, const void *data, int64_t n)
{
    if (!w->kept.status) bmvpi_out_write(&w->out, at, data, n, &w->kept);
}

/* Writes the header of a stored zip record of `size` bytes at the end; its data begin at a multiple of 64, as
   torch.save does, so that the file can be mapped. The CRC is filled in by bmvpi_cw_record_end. */
static void bmvpi_cw_record_begin(bmvp_ckpt_writer *w, const char *name, int64_t size)
{
    uint8_t h[BMVPI_ZIP_LOCAL + 256 + 20 + 4 + BMVPI_ZIP_ALIGN];
    const size_t n = strlen(name);
    const int big = (uint64_t)size >= w->zip64_from;
    const uint64_t field = big ? BMVPI_ZIP_BIG : (uint64_t)size;
    size_t len = BMVPI_ZIP_LOCAL + n, pad;
    bmvpi_record r;
    memset(&r, 0, sizeof r);
    r.name = bmvpi_bump_text(&w->mem, name, n);
    r.at = w->end;
    r.size = size;
    if (!r.name || !bmvpi_bump_grow(&w->mem, (void **)&w->record, w->n_records, &w->cap_records, sizeof r)) {
        bmvpi_cw_oom(w);
        return;
    }
    w->record[w->n_records++] = r;
    memset(h, 0, sizeof h);
    bmvpi_le_put(h, 4, BMVPI_ZIP_LOCAL_SIGN);
    bmvpi_le_put(h + 4, 2, big ? 45 : 20);
    bmvpi_le_put(h + 6, 2, 0x0800); /* names are UTF-8 */
    bmvpi_le_put(h + 18, 4, field);
    bmvpi_le_put(h + 22, 4, field);
    bmvpi_le_put(h + 26, 2, n);
    memcpy(h + BMVPI_ZIP_LOCAL, name, n);
    if (big) {
        bmvpi_le_put(h + len, 2, 1);
        bmvpi_le_put(h + len + 2, 2, 16);
        bmvpi_le_put(h + len + 4, 8, (uint64_t)size);
        bmvpi_le_put(h + len + 12, 8, (uint64_t)size);
        len += 20;
    }
    pad = (BMVPI_ZIP_ALIGN - ((size_t)w->end + len + 4) % BMVPI_ZIP_ALIGN) % BMVPI_ZIP_ALIGN;
    memcpy(h + len, "FB", 2); /* the field torch.save pads with */
    bmvpi_le_put(h + len + 2, 2, pad);
    len += 4 + pad;
    bmvpi_le_put(h + 28, 2, len - BMVPI_ZIP_LOCAL - n);
    bmvpi_cw_put(w, w->end, h, (int64_t)len);
    w->end += (int64_t)len;
}

static void bmvpi_cw_record_data(bmvp_ckpt_writer *w, const void *data, int64_t n)
{
    bmvpi_record *r = w->n_records ? &w->record[w->n_records - 1] : NULL;
    if (w->kept.status || !r) return;
    r->crc = bmvpi_crc_add(&w->crc, r->crc, data, n);
    bmvpi_cw_put(w, w->end, data, n);
    w->end += n;
}

static void bmvpi_cw_record_end(bmvp_ckpt_writer *w)
{
    uint8_t crc[4];
    if (w->kept.status) return;
    bmvpi_le_put(crc, 4, w->record[w->n_records - 1].crc);
    bmvpi_cw_put(w, w->record[w->n_records - 1].at + 14, crc, 4);
}

static void bmvpi_cw_record(bmvp_ckpt_writer *w, const char *name, const void *data, size_t n)
{
    bmvpi_cw_record_begin(w, name, (int64_t)n);
    bmvpi_cw_record_data(w, data, (int64_t)n);
    bmvpi_cw_record_end(w);
}

/* Directory, zip64 end (always, as torch.save) and end. */
static void bmvpi_cw_directory(bmvp_ckpt_writer *w)
{
    const int64_t start = w->end;
    uint8_t h[BMVPI_ZIP_END64 + BMVPI_ZIP_LOCATOR + BMVPI_ZIP_END];
    int64_t i;
    uint64_t size;
    for (i = 0; i < w->n_records && !w->kept.status; i++) {
        const bmvpi_record *r = &w->record[i];
        const size_t n = strlen(r->name);
        const int big = (uint64_t)r->size >= w->zip64_from, far = (uint64_t)r->at >= w->zip64_from;
        uint8_t d[BMVPI_ZIP_CENTRAL + 28], *x = d + BMVPI_ZIP_CENTRAL + 4;
        memset(d, 0, sizeof d);
        bmvpi_le_put(d, 4, BMVPI_ZIP_CENTRAL_SIGN);
        bmvpi_le_put(d + 6, 2, big || far ? 45 : 20);
        bmvpi_le_put(d + 8, 2, 0x0800);
        bmvpi_le_put(d + 16, 4, r->crc);
        bmvpi_le_put(d + 20, 4, big ? BMVPI_ZIP_BIG : (uint64_t)r->size);
        bmvpi_le_put(d + 24, 4, big ? BMVPI_ZIP_BIG : (uint64_t)r->size);
        bmvpi_le_put(d + 28, 2, n);
        bmvpi_le_put(d + 42, 4, far ? BMVPI_ZIP_BIG : (uint64_t)r->at);
        if (big) bmvpi_le_put(x, 8, (uint64_t)r->size), bmvpi_le_put(x + 8, 8, (uint64_t)r->size), x += 16;
        if (far) bmvpi_le_put(x, 8, (uint64_t)r->at), x += 8;
        if (big || far) {
            bmvpi_le_put(d + 30, 2, (uint64_t)(x - d) - BMVPI_ZIP_CENTRAL);
            bmvpi_le_put(d + BMVPI_ZIP_CENTRAL, 2, 1);
            bmvpi_le_put(d + BMVPI_ZIP_CENTRAL + 2, 2, (uint64_t)(x - d) - BMVPI_ZIP_CENTRAL - 4);
        } else x = d + BMVPI_ZIP_CENTRAL;
        bmvpi_cw_put(w, w->end, d, BMVPI_ZIP_CENTRAL);
        bmvpi_cw_put(w, w->end + BMVPI_ZIP_CENTRAL, r->name, (int64_t)n);
        bmvpi_cw_put(w, w->end + BMVPI_ZIP_CENTRAL + (int64_t)n, d + BMVPI_ZIP_CENTRAL,
                     (int64_t)(x - d) - BMVPI_ZIP_CENTRAL);
        w->end += (int64_t)n + (int64_t)(x - d);
    }
    size = (uint64_t)(w->end - start);
    memset(h, 0, sizeof h);
    bmvpi_le_put(h, 4, BMVPI_ZIP_END64_SIGN);
    bmvpi_le_put(h + 4, 8, BMVPI_ZIP_END64 - 12);
    bmvpi_le_put(h + 12, 4, 45u | 45u << 16);
    bmvpi_le_put(h + 24, 8, (uint64_t)w->n_records);
    bmvpi_le_put(h + 32, 8, (uint64_t)w->n_records);
    bmvpi_le_put(h + 40, 8, size);
    bmvpi_le_put(h + 48, 8, (uint64_t)start);
    bmvpi_le_put(h + 56, 4, BMVPI_ZIP_LOCATOR_SIGN);
    bmvpi_le_put(h + 64, 8, (uint64_t)w->end);
    bmvpi_le_put(h + 72, 4, 1);
    bmvpi_le_put(h + 76, 4, BMVPI_ZIP_END_SIGN);
    bmvpi_le_put(h + 84, 2, w->n_records < 0xffff ? (uint64_t)w->n_records : 0xffff);
    bmvpi_le_put(h + 86, 2, w->n_records < 0xffff ? (uint64_t)w->n_records : 0xffff);
    bmvpi_le_put(h + 88, 4, size < w->zip64_from ? size : BMVPI_ZIP_BIG);
    bmvpi_le_put(h + 92, 4, (uint64_t)start < w->zip64_from ? (uint64_t)start : BMVPI_ZIP_BIG);
    bmvpi_cw_put(w, w->end, h, (int64_t)sizeof h);
}

/* Child dict or new leaf. Dicts are found from the end: groups mostly come one after the other. */
static bmvpi_tree *bmvpi_tree_add(bmvp_ckpt_writer *w, bmvpi_tree *parent, const char *name)
{
    bmvpi_tree *t = (bmvpi_tree *)bmvpi_bump_get(&w->mem, sizeof *t);
    if (!t) { bmvpi_cw_oom(w); return NULL; }
    memset(t, 0, sizeof *t);
    t->name = name;
    t->entry = t->meta = -1;
    if (parent && parent->last) parent->last->next = t;
    else if (parent) parent->first = t;
    if (parent) parent->last = t;
    return t;
}

static bmvpi_tree *bmvpi_tree_group(bmvp_ckpt_writer *w, bmvpi_tree *t, const char *group)
{
    while (t && *group) {
        const size_t n = strcspn(group, ".");
        bmvpi_tree *c = t->last;
        const char *name;
        if (!(c && c->entry < 0 && c->meta < 0 && strlen(c->name) == n && !memcmp(c->name, group, n)))
            for (c = t->first; c; c = c->next)
                if (c->entry < 0 && c->meta < 0 && strlen(c->name) == n && !memcmp(c->name, group, n)) break;
        if (!c) {
            name = bmvpi_bump_text(&w->mem, group, n);
            if (!name) { bmvpi_cw_oom(w); return NULL; }
            c = bmvpi_tree_add(w, t, name);
        }
        t = c;
        group += n + (group[n] == '.');
    }
    return t;
}

/* >>pickle writer: protocol 2 -------------------------------------------------------------------------------------- */

static void bmvpi_pk_op(bmvp_bytes *b, const char *ops) { bmvp_bytes_append(b, ops, strlen(ops)); }

static void bmvpi_pk_put_text(bmvp_bytes *b, const char *s)
{
    uint8_t h[5];
    h[0] = 'X';
    bmvpi_le_put(h + 1, 4, strlen(s));
    bmvp_bytes_append(b, h, 5);
    bmvp_bytes_append(b, s, strlen(s));
}

static void bmvpi_pk_put_int(bmvp_bytes *b, int64_t v)
{
    uint8_t h[10];
    const int small = v >= INT32_MIN && v <= INT32_MAX;
    h[0] = small ? 'J' : 0x8a;
    h[1] = 8;
    bmvpi_le_put(h + (small ? 1 : 2), small ? 4 : 8, (uint64_t)v);
    bmvp_bytes_append(b, h, small ? 5 : 10);
}

static void bmvpi_pk_put_double(bmvp_bytes *b, double v)
{
    uint8_t h[9];
    uint64_t bits;
    int i;
    memcpy(&bits, &v, 8);
    h[0] = 'G';
    for (i = 8; i > 0; i--, bits >>= 8) h[i] = (uint8_t)bits;
    bmvp_bytes_append(b, h, 9);
}

static void bmvpi_pk_put_json(bmvp_bytes *b, const bmvp_json *v, int as_float)
{
    const bmvp_json *m;
    switch (v->type) {
    case BMVP_JSON_BOOL: bmvpi_pk_op(b, v->i ? "\x88" : "\x89"); return;
    case BMVP_JSON_STRING: bmvpi_pk_put_text(b, v->str); return;
    case BMVP_JSON_NUMBER:
        if (v->is_int && !as_float) bmvpi_pk_put_int(b, v->i);
        else bmvpi_pk_put_double(b, v->d);
        return;
    case BMVP_JSON_ARRAY: case BMVP_JSON_OBJECT:
        bmvpi_pk_op(b, v->type == BMVP_JSON_ARRAY ? "](" : "}(");
        for (m = v->first; m; m = m->next) {
            if (m->key) bmvpi_pk_put_text(b, m->key);
            bmvpi_pk_put_json(b, m, 0);
        }
        bmvpi_pk_op(b, v->type == BMVP_JSON_ARRAY ? "e" : "u");
        return;
    default: bmvpi_pk_op(b, "N");
    }
}

static void bmvpi_pk_put_meta(bmvp_ckpt_writer *w, bmvp_bytes *b, const bmvp_ckpt_meta *m)
{
    bmvp_json_doc *doc;
    if (m->kind == BMVP_META_STRING) { bmvpi_pk_put_text(b, m->value); return; }
    if (m->kind == BMVP_META_FLOAT && bmvpi_is_special(m->value)) {
        bmvpi_pk_put_double(b, *m->value == 'n' ? (double)NAN : *m->value == '-' ? -HUGE_VAL : HUGE_VAL);
        return;
    }
    if (bmvp_json_parse(m->value, strlen(m->value), w->out.path, &w->mem.a, &doc, &w->kept)) return;
    bmvpi_pk_put_json(b, bmvp_json_root(doc), m->kind == BMVP_META_FLOAT);
    bmvp_json_free(doc);
}

/* torch._utils._rebuild_tensor_v2(storage, first, sizes, strides, requires_grad, hooks) */
static void bmvpi_pk_put_tensor(bmvp_bytes *b, const bmvp_ckpt_entry *e, int64_t index)
{
    char text[48];
    int i;
    bmvpi_pk_op(b, "ctorch._utils\n_rebuild_tensor_v2\n((");
    bmvpi_pk_put_text(b, "storage");
    snprintf(text, sizeof text, "ctorch\n%s\n", bmvpi_dtype_table[e->dtype].storage);
    bmvpi_pk_op(b, text);
    snprintf(text, sizeof text, "%lld", (long long)index);
    bmvpi_pk_put_text(b, text);
    bmvpi_pk_put_text(b, "cpu");
    bmvpi_pk_put_int(b, e->numel);
    bmvpi_pk_op(b, "tQ");
    bmvpi_pk_put_int(b, 0);
    bmvpi_pk_op(b, "(");
    for (i = 0; i < e->rank; i++) bmvpi_pk_put_int(b, e->dim[i]);
    bmvpi_pk_op(b, "t(");
    for (i = 0; i < e->rank; i++) bmvpi_pk_put_int(b, e->stride[i]);
    bmvpi_pk_op(b, "t\x89" "ccollections\nOrderedDict\n)RtR");
}

static void bmvpi_pk_put_tree(bmvp_ckpt_writer *w, bmvp_bytes *b, const bmvpi_tree *t)
{
    const bmvpi_tree *c;
    bmvpi_pk_op(b, t->is_ordered ? "ccollections\nOrderedDict\n)R(" : "}(");
    for (c = t->first; c; c = c->next) {
        const size_t n = strlen(c->name);
        const int is_dict = c->entry < 0 && c->meta < 0;
        if (is_dict && n < 10 && strspn(c->name, "0123456789") == n) bmvpi_pk_put_int(b, strtol(c->name, NULL, 10));
        else bmvpi_pk_put_text(b, c->name);
        if (is_dict) bmvpi_pk_put_tree(w, b, c);
        else if (c->entry >= 0) bmvpi_pk_put_tensor(b, &w->entry[c->entry], c->entry);
        else bmvpi_pk_put_meta(w, b, &w->meta[c->meta]);
    }
    bmvpi_pk_op(b, "u");
}

static void bmvpi_cw_start_pt(bmvp_ckpt_writer *w)
{
    bmvpi_tree *root = bmvpi_tree_add(w, NULL, ""), *t;
    bmvp_bytes b;
    int64_t i;
    bmvp_bytes_init(&b, &w->mem.a);
    for (i = 0; i < w->n_entries && !w->kept.status; i++) {
        if (!(t = bmvpi_tree_group(w, root, w->entry[i].group))) break;
        t->is_ordered = 1;
        if ((t = bmvpi_tree_add(w, t, w->entry[i].name)) != NULL) t->entry = i;
    }
    for (i = 0; i < w->n_meta && !w->kept.status; i++) {
        if (!(t = bmvpi_tree_group(w, root, w->meta[i].group))) break;
        if ((t = bmvpi_tree_add(w, t, w->meta[i].name)) != NULL) t->meta = i;
    }
    if (!w->kept.status) {
        bmvpi_pk_op(&b, "\x80\x02");
        bmvpi_pk_put_tree(w, &b, root);
        bmvpi_pk_op(&b, ".");
        if (b.failed) bmvpi_cw_oom(w);
    }
    if (!w->kept.status) {
        bmvpi_cw_record(w, "archive/data.pkl", b.data, b.len);
        bmvpi_cw_record(w, "archive/byteorder", "little", 6);
    }
    bmvp_bytes_free(&b);
}

/* Groups and kinds, so that reading gives back what was declared; NULL when all is plain. */
static void bmvpi_cw_ours(const bmvp_ckpt_writer *w, bmvp_jw *j, bmvpi_bump *mem)
{
    const char *last = "";
    int64_t i;
    bmvp_jw_object(j, NULL);
    bmvp_jw_array(j, "groups");
    for (i = 0; i < w->n_entries + w->n_meta; i++) {
        const char *g = i < w->n_entries ? w->entry[i].group : w->meta[i - w->n_entries].group;
        if (*g && strcmp(g, last)) bmvp_jw_string(j, NULL, g);
        last = g;
    }
    bmvp_jw_end(j);
    bmvp_jw_object(j, "kinds");
    for (i = 0; i < w->n_meta; i++) {
        const char *full =
            w->meta[i].kind == BMVP_META_STRING ? NULL : bmvpi_ck_full(mem, w->meta[i].group, w->meta[i].name);
        if (full) bmvp_jw_string(j, full, bmvpi_meta_kinds[w->meta[i].kind]);
        else if (w->meta[i].kind != BMVP_META_STRING) j->out.failed = 1;
    }
    bmvp_jw_end(j);
    bmvp_jw_end(j);
}

static void bmvpi_cw_st_metadata(bmvp_ckpt_writer *w, bmvp_jw *j)
{
    bmvp_jw ours;
    int64_t i;
    int plain = 1;
    for (i = 0; i < w->n_entries; i++) plain = plain && !*w->entry[i].group;
    for (i = 0; i < w->n_meta; i++) plain = plain && !*w->meta[i].group && w->meta[i].kind == BMVP_META_STRING;
    if (plain && !w->n_meta) return;
    bmvp_jw_object(j, "__metadata__");
    for (i = 0; i < w->n_meta; i++) {
        const char *full = bmvpi_ck_full(&w->mem, w->meta[i].group, w->meta[i].name);
        if (full) bmvp_jw_string(j, full, w->meta[i].value);
        else j->out.failed = 1;
    }
    if (!plain) {
        bmvp_jw_init(&ours, 0, &w->mem.a);
        bmvpi_cw_ours(w, &ours, &w->mem);
        if (bmvp_jw_finish(&ours, NULL)) j->out.failed = 1;
        else bmvp_jw_string(j, "bmvp", ours.out.data);
        bmvp_jw_free(&ours);
    }
    bmvp_jw_end(j);
}

/* Tensors of wide elements come first in the data, so that each is aligned without holes, which the format forbids. */
static void bmvpi_cw_start_st(bmvp_ckpt_writer *w)
{
    int64_t size, i, at = 0;
    uint8_t length[8];
    bmvp_jw j;
    bmvp_jw_init(&j, 0, &w->mem.a);
    for (size = 8; size > 0; size /= 2)
        for (i = 0; i < w->n_entries; i++) {
            bmvp_ckpt_entry *e = &w->entry[i];
            if (bmvp_dtype_size(e->dtype) != size) continue;
            if (e->bytes > INT64_MAX / 2 - at) {
                bmvpi_cw_fail(w, BMVP_E_ARG, "is too large with tensor", e->name);
                return;
            }
            e->first = at;
            at += e->bytes;
        }
    bmvp_jw_object(&j, NULL);
    bmvpi_cw_st_metadata(w, &j);
    for (i = 0; i < w->n_entries; i++) {
        const bmvp_ckpt_entry *e = &w->entry[i];
        const char *full = bmvpi_ck_full(&w->mem, e->group, e->name);
        int d;
        if (!full) { j.out.failed = 1; break; }
        bmvp_jw_object(&j, full);
        bmvp_jw_string(&j, "dtype", bmvpi_dtype_ids[e->dtype]);
        bmvp_jw_array(&j, "shape");
        for (d = 0; d < e->rank; d++) bmvp_jw_int(&j, NULL, e->dim[d]);
        bmvp_jw_end(&j);
        bmvp_jw_array(&j, "data_offsets");
        bmvp_jw_int(&j, NULL, e->first);
        bmvp_jw_int(&j, NULL, e->first + e->bytes);
        bmvp_jw_end(&j);
        bmvp_jw_end(&j);
    }
    bmvp_jw_end(&j);
    while (!j.out.failed && j.out.len % 8) bmvp_bytes_append(&j.out, " ", 1);
    if (j.out.failed) bmvpi_cw_oom(w);
    else {
        bmvpi_le_put(length, 8, j.out.len);
        bmvpi_cw_put(w, 0, length, 8);
        bmvpi_cw_put(w, 8, j.out.data, (int64_t)j.out.len);
        for (i = 0; i < w->n_entries; i++) w->entry[i].first += 8 + (int64_t)j.out.len;
    }
    bmvp_jw_free(&j);
}

/* Is one of the dicts that lead to this group also a name in the sorted list? */
static int bmvpi_cw_is_leaf(bmvp_ckpt_writer *w, const char *group, const char **names, size_t n)
{
    char *path = bmvpi_bump_text(&w->mem, group, strlen(group)), *dot;
    const char *key = path;
    if (!path) { bmvpi_cw_oom(w); return 0; }
    for (; *path; *dot = 0) {
        if (bsearch((const void *)&key, (const void *)names, n, sizeof *names, bmvpi_text_order)) return 1;
        if (!(dot = strrchr(path, '.'))) break;
    }
    return 0;
}

/* Names must differ, and none may be a group as well: in a PyTorch file one would replace the other. */
static void bmvpi_cw_unique(bmvp_ckpt_writer *w)
{
    const int64_t n = w->n_entries + w->n_meta;
    const char **names = (const char **)bmvpi_bump_get(&w->mem, (size_t)n * sizeof *names), *twice, *last = "";
    int64_t i;
    for (i = 0; names && i < n; i++) {
        names[i] = i < w->n_entries ? bmvpi_ck_full(&w->mem, w->entry[i].group, w->entry[i].name)
                   : bmvpi_ck_full(&w->mem, w->meta[i - w->n_entries].group, w->meta[i - w->n_entries].name);
        if (!names[i]) break;
    }
    if (!names || i < n) { bmvpi_cw_oom(w); return; }
    if ((twice = bmvpi_text_twice(names, (size_t)n)) != NULL)
        bmvpi_cw_fail(w, BMVP_E_ARG, "two tensors or values have the name", twice);
    for (i = 0; !w->kept.status && i < n; i++) {
        const char *g = i < w->n_entries ? w->entry[i].group : w->meta[i - w->n_entries].group;
        if (strcmp(g, last) && bmvpi_cw_is_leaf(w, g, names, (size_t)n))
            bmvpi_cw_fail(w, BMVP_E_ARG, "a tensor or value has the name of a part of group", g);
        if (w->format == BMVP_CKPT_SAFETENSORS && (!strcmp(names[i], "__metadata__") || !strcmp(names[i], "bmvp")))
            bmvpi_cw_fail(w, BMVP_E_ARG, "safetensors files keep for themselves the name", names[i]);
        last = g;
    }
}

/* Opens the tensor whose turn it is; passes over empty ones, which in a zip still have a record. */
static void bmvpi_cw_turn(bmvp_ckpt_writer *w)
{
    char name[64];
    for (; w->current < w->n_entries && !w->kept.status; w->current++) {
        if (w->format == BMVP_CKPT_PT) {
            snprintf(name, sizeof name, "archive/data/%lld", (long long)w->current);
            bmvpi_cw_record_begin(w, name, w->entry[w->current].bytes);
        }
        if (w->entry[w->current].bytes > 0) return;
        if (w->format == BMVP_CKPT_PT) bmvpi_cw_record_end(w);
    }
}

static void bmvpi_cw_start(bmvp_ckpt_writer *w)
{
    if (w->started || w->kept.status) return;
    w->started = 1;
    bmvpi_cw_unique(w);
    if (!w->kept.status && w->format == BMVP_CKPT_PT) bmvpi_cw_start_pt(w);
    else if (!w->kept.status) bmvpi_cw_start_st(w);
    bmvpi_cw_turn(w);
}

static void bmvpi_cw_bytes(bmvp_ckpt_writer *w, int64_t at, const void *data, int64_t bytes)
{
    if (w->format == BMVP_CKPT_PT) bmvpi_cw_record_data(w, data, bytes);
    else bmvpi_cw_put(w, at, data, bytes);
}

/* Big-endian machines: the bytes of each element in the other order, also where a piece ends within one. */
static void bmvpi_cw_turned(bmvp_ckpt_writer *w, const bmvp_ckpt_entry *e, const uint8_t *data, int64_t bytes)
{
    const int64_t most = sizeof w->turned, size = bmvp_dtype_size(e->dtype);
    int64_t i, at = w->done;
    for (i = 0; i < bytes; i++, at++) {
        const int64_t k = at % most;
        w->turned[k ^ (size - 1)] = data[i]; /* sizes are powers of two */
        if (k + 1 == most || at + 1 == e->bytes) bmvpi_cw_bytes(w, e->first + at - k, w->turned, k + 1);
    }
}

BMVP_API bmvp_status bmvp_ckpt_writer_data(bmvp_ckpt_writer *w, const void *data, int64_t bytes, bmvp_error *err)
{
    const bmvp_ckpt_entry *e;
    bmvpi_cw_start(w);
    if (w->kept.status || bytes == 0) return bmvpi_cw_result(w, err);
    e = w->current < w->n_entries ? &w->entry[w->current] : NULL;
    if (!e) bmvpi_cw_fail(w, BMVP_E_STATE, "more data than the tensors declared", NULL);
    else if (bytes < 0 || bytes > e->bytes - w->done)
        bmvpi_cw_fail(w, BMVP_E_ARG, "data reach over the end of tensor", e->name);
    else if (bmvpi_is_little_endian()) bmvpi_cw_bytes(w, e->first + w->done, data, bytes);
    else bmvpi_cw_turned(w, e, (const uint8_t *)data, bytes);
    if (!w->kept.status && (w->done += bytes) == e->bytes) {
        if (w->format == BMVP_CKPT_PT) bmvpi_cw_record_end(w);
        w->current++;
        w->done = 0;
        bmvpi_cw_turn(w);
    }
    return bmvpi_cw_result(w, err);
}

BMVP_API bmvp_status bmvp_ckpt_writer_fetch(bmvp_ckpt_writer *w, bmvp_ckpt_fetch fetch, void *user, bmvp_error *err)
{
    const int64_t piece = 1 << 20;
    int64_t at = 0, n, bytes = 0;
    int index;
    void *buf;
    bmvpi_cw_start(w);
    if (w->kept.status) return bmvpi_cw_result(w, err);
    index = (int)w->current;
    if (index < w->n_entries && w->done == 0) bytes = w->entry[index].bytes;
    else bmvpi_cw_fail(w, BMVP_E_STATE, "no tensor waits for its first byte", NULL);
    buf = w->mem.a.alloc((size_t)(bytes < piece ? bytes + 1 : piece), w->mem.a.user);
    if (!buf) bmvpi_cw_oom(w);
    for (; at < bytes && !w->kept.status; at += n) {
        bmvp_status s;
        n = bytes - at < piece ? bytes - at : piece;
        if ((s = fetch(user, index, at, buf, (size_t)n)) != BMVP_OK)
            bmvpi_cw_fail(w, s, "values could not be fetched of tensor", w->entry[index].name);
        else bmvp_ckpt_writer_data(w, buf, n, NULL);
    }
    if (buf) w->mem.a.free(buf, w->mem.a.user);
    return bmvpi_cw_result(w, err);
}

BMVP_API bmvp_status bmvp_ckpt_writer_finish(bmvp_ckpt_writer *w, bmvp_error *err)
{
    bmvp_status s;
    bmvpi_cw_start(w);
    if (w->current < w->n_entries)
        bmvpi_cw_fail(w, BMVP_E_STATE, "data are missing of tensor", w->entry[w->current].name);
    if (!w->kept.status && w->format == BMVP_CKPT_PT) {
        bmvpi_cw_record(w, "archive/version", "3\n", 2);
        bmvpi_cw_directory(w);
    }
    if (!w->kept.status) bmvpi_out_commit(&w->out, &w->kept);
    s = bmvpi_cw_result(w, err);
    bmvp_ckpt_writer_abort(w);
    return s;
}

#ifdef __cplusplus
}
#endif
#endif /* BMVP_NN_IMPLEMENTATION_ONCE */
#endif /* BMVP_NN_IMPLEMENTATION */

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
