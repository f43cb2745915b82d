/* physics.h - tissues, and the signal that sequences get from them */
#ifndef PHYSICS_H_INCLUDED
#define PHYSICS_H_INCLUDED

#include "bmvp_tensor.h"

enum { PH_CSF, PH_GREY, PH_WHITE, PH_STRIATUM, PH_PALLIDUM, PH_THALAMUS, PH_NECROSIS, PH_SOLID, PH_ENHANCING, PH_OEDEMA,
       PH_BLOOD, PH_BONE, PH_FAT, PH_MUSCLE, PH_CLOT, PH_SCAR, PH_BLEED, PH_TISSUES };

/* Times in ms at 3 T, proton density relative to water, diffusion in 1e-3 mm^2/s, gadolinium (after injection) in
   mmol/l. */
typedef struct ph_tissue {
    float t1, t2, t2_star, density, diffusion, gadolinium;
} ph_tissue;
extern const ph_tissue ph_tissues[PH_TISSUES]; /* means over people */

enum { PH_FLAIR, PH_T1, PH_T1C, PH_T2, PH_MRA, PH_PD, PH_DWI, PH_ADC, PH_MODALITIES };
#define PH_MODALITY_WORDS "flair|t1|t1c|t2|mra|pd|dwi|adc"
extern const char *const ph_modality_names[PH_MODALITIES];

#define PH_B_VALUE 1.0 /* 1e3 s/mm^2 */

typedef struct ph_sequence {
    float signal[PH_TISSUES];      /* of a full voxel; white matter = gain */
    float fresh_blood;             /* of blood that has seen no pulse before (gradient echoes) */
    float weighted[PH_TISSUES];    /* adc only: the diffusion-weighted signal */
    float sigma;                   /* of the noise in both channels */
    float bias[9];                 /* exp(polynomial of degree 2 in world / 120 mm) */
    float slope;                   /* scl_slope of the file */
} ph_sequence;

/* A machine with its protocol; number -1: none, each case draws a protocol of its own. Others make all their cases with
   one protocol, from wider ranges. */
typedef struct ph_scanner {
    int number;
    float t1, noise;           /* T1 of tissue and noise, relative to those of physics.c */
    float blur;                /* edge of what a voxel averages, in voxels */
    float shade, bias[9];      /* standard deviation of the coil's polynomial, and the polynomial */
} ph_scanner;
#define PH_SCANNER_SEED 20241010 /* scanner k is the same in every data set */

/* Fills signals, noise, bias, gain and slope of one modality of a case. tissue: the case's own values. */
void ph_sequence_draw(ph_sequence *q, int modality, const ph_tissue *tissue, const ph_scanner *scanner, uint64_t seed,
                      uint32_t index);

#endif
