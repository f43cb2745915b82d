/* weights.h - weights that another program has trained: what `bmvp predict` must be told of them, what it assumes, and
   what it says of both */
#ifndef WEIGHTS_H_INCLUDED
#define WEIGHTS_H_INCLUDED

#include "cli.h"
#include "bmvp_tensor.h"
#include "bmvp_nn.h"
#include "bmvp_ssl.h"

typedef struct weights_options {
    const char *network, *set, *modalities, *labels, *outputs, *window, *axes;
    double spacing, low, high;
    int intensity, box, average;
} weights_options;

/* Rows of the command's table of options. */
#define WEIGHTS_OPTIONS(o) \
    cli_string("network", &(o).network, NULL, "NAME", \
               "the checkpoint is a state dict of another program (MONAI ..): unetr, swin_unetr, unet3d .."), \
    cli_string("set", &(o).set, NULL, "NAME=VALUE,..", \
               "of that network: what no tensor shows, as new_merging=1 (Swin-UNETR of MONAI 1.5), num_heads=12"), \
    cli_string("modalities", &(o).modalities, NULL, "A,B,..", "its input channels, in their order"), \
    cli_string("labels", &(o).labels, NULL, "NAME|FILE|JSON", \
               "what it segments: brats2021 .., a list or dataset.json, or {\"WT\": [1, 2, 4], ..}"), \
    cli_string("outputs", &(o).outputs, NULL, "A,B,..", \
               "the regions in the order of its outputs; none: as --labels has them, classes by value"), \
    cli_float("spacing", &(o).spacing, 1, 0, 100, "voxel size in mm that it was trained with; 0: that of the image"), \
    cli_string("axes", &(o).axes, "RAS", "RAS|LPS|..", "where its axes run to"), \
    cli_choice("box", &(o).box, 0, "foreground|centre|whole", "what of a volume it saw"), \
    cli_choice("intensity", &(o).intensity, 0, "percentiles|zscore|zscore-all|range|as-it-is", \
               "how values were scaled; zscore: of voxels that are not 0 (MONAI NormalizeIntensity nonzero)"), \
    cli_float("low", &(o).low, 1, -1e9, 1e9, "percentile or (range) value that becomes 0"), \
    cli_float("high", &(o).high, 99, -1e9, 1e9, "percentile or (range) value that becomes 1"), \
    cli_choice("average", &(o).average, 0, "logits|probabilities", \
               "of overlapping windows; MONAI's and nnU-Net's programs average logits"), \
    cli_string("window", &(o).window, NULL, "X,Y,Z", \
               "voxels of a window; none: the checkpoint's crop, the network's only size, or 96,96,96")

typedef struct weights_said { /* w points into the rest, and into the command line */
    bmvp_ft_weights w;
    bmvp_labels labels;
    char fields[256], names[BMVP_MODALITIES][24], outputs[BMVP_MAX_REGIONS][BMVP_LABEL_NAME];
} weights_said;

/* BMVP_E_ARG or _FORMAT names the option. */
bmvp_status weights_parse(const weights_options *o, weights_said *out, bmvp_error *err);
/* The first option that is for such weights alone and was given; NULL: none. */
const char *weights_given(const cli_option *opt, int n_opt);

/* Prints what was found in the file, what was said, and what is assumed, by the names of the options. */
void weights_print(const char *path, const bmvp_ctx *c, const bmvp_ft_info *info, const weights_said *said,
                   const cli_option *opt, int n_opt);
/* For files that start a fine-tuning: 1: a field of the network that no tensor shows, and a line with what they are. */
int weights_unseen(const bmvp_net_config *net, const char *name);
void weights_print_unseen(const bmvp_net_config *net);
/* The same as members "network", "modalities", "window", "preparation" of an object. */
void weights_write(bmvp_jw *w, const bmvp_ft_info *info, const bmvp_preparation *how);

#endif
