/* segment.c - a C program that segments the images it is given with a fine-tuned checkpoint

   What you learn: prediction is one call; any subset of the modalities, in any orientation, is enough.
   Run: build/segment run/best.safetensors map.nii.gz flair=a.nii.gz t1=b.nii.gz
   You see: what was used and what was filled; map.nii.gz lies on the grid of the first image. */
#define BMVP_IMPLEMENTATION
#include "bmvp_nifti.h"
#include "bmvp_tensor.h"
#include "bmvp_nn.h"
#include "bmvp_ssl.h"
#include <stdio.h>
#include <string.h>

int main(int argc, char **argv)
{
    bmvp_ctx *c = bmvp_create(NULL, NULL);
    bmvp_image image[BMVP_MODALITIES];
    bmvp_predictor *p = NULL;
    bmvp_prediction map;
    bmvp_error err;
    int n, failed = 1;
    memset(image, 0, sizeof image);
    for (n = 0; n < BMVP_MODALITIES && n + 3 < argc && strchr(argv[n + 3], '='); ++n) {
        image[n].modality = strtok(argv[n + 3], "=");
        image[n].path = strtok(NULL, "");
    }
    if (c && n > 0 && n + 3 == argc) p = bmvp_predictor_open(c, argv[1], &err);
    else puts("usage: segment CHECKPOINT OUT.nii.gz MODALITY=IMAGE...");
    if (p && bmvp_predict(p, image, n, NULL, &map, &err) == BMVP_OK) {
        failed = map.score || bmvp_nii_write(argv[2], &map.label, NULL, &err);
        for (n = 0; n < bmvp_predictor_info(p)->n_modalities; ++n)
            printf("%s: %s\n", bmvp_predictor_info(p)->names[n], map.given >> n & 1u ? "used" : "filled");
        bmvp_prediction_free(&map);
    }
    if (failed && c && argc > 3) puts(err.message);
    bmvp_predictor_close(p);
    bmvp_destroy(c);
    return failed;
}
