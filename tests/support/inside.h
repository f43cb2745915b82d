/* inside.h - what a few tests must see of the headers' private parts. inside.c holds an implementation and these doors
   to it; such a test is linked with it in place of build/library.o and includes no implementation of its own. */
#ifndef BMVP_TEST_INSIDE_H
#define BMVP_TEST_INSIDE_H

#include "bmvp_nifti.h"
#include "bmvp_tensor.h"
#include "bmvp_nn.h"
#include "bmvp_ssl.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Where the data of a tensor begin in the file. */
int64_t inside_data_at(const bmvp_ckpt *c, int entry);

/* The writer makes Zip64 records from this size on, in place of 4 GB. */
void inside_zip64_from(bmvp_ckpt_writer *w, int64_t bytes);

/* Writes a zip file as torch.save makes it around this pickle, with one storage of 64 bytes under data/0. 0: it could
   not be written. */
int inside_write_pickle(const char *path, const void *pickle, size_t n);

/* What the layers of a UniFormer give, in order: of each stage the embedding and its blocks, the last norm, and the
   four transposed convolutions of the plain decoder. Returns how many. The same of a UNET3D: conv1a, then its blocks,
   with what halves before the 2nd, 4th and 6th. */
int inside_uniformer_layers(bmvp_net *net, bmvp_tensor *x, bmvp_tensor **seen);
int inside_unet3d_layers(bmvp_net *net, bmvp_tensor *x, bmvp_tensor *seen[16]);
/* .. of their decoders for segmentation. */
void inside_uniunet_decode(bmvp_net *net, bmvp_tensor *x, const bmvp_features *f, bmvp_tensor *seen[4]);
void inside_unet3d_decode(bmvp_net *net, const bmvp_features *f, bmvp_tensor *seen[3]);

/* A UNETR's tokens as maps: after block 0 to 11, the last one normalised, and before all blocks. */
void inside_unetr_tokens(bmvp_net *net, bmvp_tensor *x, bmvp_tensor *hidden[14]);
/* What its encoder1 to 4 and decoder5 to 2 give; returns the logits. */
bmvp_tensor *inside_unetr_decode(bmvp_net *net, const bmvp_features *f, bmvp_tensor *map[8]);

/* The joined levels of the U-Net of Models Genesis, coarse to fine; returns the logits. */
bmvp_tensor *inside_mg_decode(bmvp_net *net, const bmvp_features *f, bmvp_tensor *map[3]);

/* A Swin-UNETR's maps, and what each stage's two blocks, merging and residual block gave ([4 stage + 0 .. 3]), and the
   embedding ([16]). What encoder1, 2, 3, 4, 10, decoder5 to 1 give, and the logits. */
bmvp_features inside_swin_maps(bmvp_net *net, bmvp_tensor *x, bmvp_tensor *seen[17]);
void inside_swin_decode(bmvp_net *net, const bmvp_features *f, bmvp_tensor *map[11]);
/* Block `block` of a stage, odd ones with shifted windows; the merging behind the stage. */
bmvp_tensor *inside_swin_block(bmvp_net *net, int stage, int block, bmvp_tensor *x);
bmvp_tensor *inside_swin_merge(bmvp_net *net, int stage, int new_merging, bmvp_tensor *x);

/* Region of each token of each window of a grid that is cut into windows and shifted, all C order of three axes */
void inside_swin_regions(const int64_t whole[3], const int64_t window[3], const int64_t shift[3], int32_t *region);

/* Kinks: values of ReLUs on the tape whose operand is nearer to 0 than `within` of its root mean square, of which the
   first `most` are written to out; returns how many there are. turn: backward takes such a value's other slope. Both
   while a tape is there, also from bmvp_on_gradient, for the nodes that backward has yet to pass. */
typedef struct inside_kink { int64_t node, at, of; double share; } inside_kink;
int64_t inside_kinks(bmvp_ctx *c, double within, inside_kink *out, int64_t most);
void inside_turn_kink(bmvp_ctx *c, const inside_kink *k);

/* Voxels of one grid in those of another. */
bmvp_status inside_relate(double m[16], const double to[16], const double from[16]);
/* Values at a place in voxels, x y z. */
float inside_linear_at(const float *v, const int64_t dim[3], const double p[3]);
/* Prepared probabilities (z y x outputs; frame and content as in prepared), placed on an image of `size`, whose voxels
   are related to theirs by `to`: into out. seen: content at each voxel of the image. */
int inside_place(bmvp_ctx *c, const bmvp_labels *labels, const bmvp_prepared_images *prepared, const double to[16],
                 const int64_t size[3], const float *map, int outputs, bmvp_prediction *out, unsigned char *seen);

#ifdef __cplusplus
}
#endif

#endif /* BMVP_TEST_INSIDE_H */
