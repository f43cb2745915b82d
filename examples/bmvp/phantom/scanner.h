/* scanner.h - images and label map of a head: signal, coil, noise, rounding */
#ifndef SCANNER_H_INCLUDED
#define SCANNER_H_INCLUDED

#include "anatomy.h"

typedef struct ph_volumes {
    ph_grid grid;
    uint8_t *share, *fresh;                 /* blood, RAS order */
    uint8_t *label;                         /* file order, as the images */
    const ph_view *view;                    /* of a whole head; NULL: the brain alone */
    uint8_t *brain;                         /* of a whole head: 1 in its brain, file order */
    int n_images, modality[PH_MODALITIES];
    ph_sequence sequence[PH_MODALITIES];    /* by image */
    int16_t *image[PH_MODALITIES];          /* stored numbers: value / slope */
} ph_volumes;

/* Fills v, whose memory the caller has made. */
void ph_render(ph_volumes *v, const ph_case *c, uint64_t seed);

#endif
