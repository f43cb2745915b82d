/* anatomy.h - a head drawn from a seed: its size, pose, folds, tumour and vessels, and the tissues at a point of it */
#ifndef ANATOMY_H_INCLUDED
#define ANATOMY_H_INCLUDED

#include "physics.h"
#include "shapes.h"

enum { PH_HEALTHY, PH_LOW_GRADE, PH_HIGH_GRADE };

typedef struct ph_options {
    const char *out;
    int64_t cases, size, seed, threads;
    uint32_t modalities;
    double fov, tumours, high_grade, missing, thick;
    double overlap, anatomy;    /* variety.h: how alike the parts of lesions look; how much wider anatomy varies */
    int64_t decoys, scanners, first_scanner;
    int as_sets;            /* 1: cases stand for the sets that BrainMVP was pre-trained on */
    double motion;          /* of whole heads: most mm along and degrees about each axis between two images */
    int oriented, force;    /* oriented: 0 mixed, 1 all RAS */
    int heads;              /* 1: whole heads, every image on a grid of its own */
} ph_options;

typedef struct ph_tumour {
    float centre[3], axis[3];       /* axis: stretch along x, y, z */
    float radius, core, oedema;     /* mm; core relative to radius, 0 = none; width of the oedema in mm */
    float push;                     /* mass effect, mm */
    float nodule[3], nodule_radius; /* enhancing nodule of a low-grade tumour, radius 0 = none */
    ph_noise outline, inner, spread;
} ph_tumour;

typedef struct ph_decoy { /* a spot that is no part of a lesion; template mm */
    float centre[3], radius;
    int tissue;
} ph_decoy;

enum { PH_LATTICE = 30, PH_MAX_VESSELS = 1024, PH_MAX_DECOYS = 20 };

typedef struct ph_vessel {
    ph_tube tube;       /* world mm */
    uint8_t fresh;      /* 255: blood that has seen no pulse; 0: saturated, or a vein */
} ph_vessel;

/* Everything is computed in RAS order (x fastest); only storing a voxel knows the file's axes. */
typedef struct ph_grid {
    int64_t dim[3];          /* voxels along world x, y, z */
    float step[3];           /* mm along world x, y, z */
    double centre[3];        /* where the header puts the middle of the field of view */
    int world_axis[3];       /* of each file axis */
    int reversed[3];         /* of each file axis: runs against its world axis */
} ph_grid;

/* What is around the brain. */
typedef struct ph_head {
    float skull, scalp, fat;    /* mm: thickness of the bone, of what covers it, of the fat in that */
    ph_noise lobules;           /* fat between muscles, air in bone */
} ph_head;

/* An image of a whole head: its grid, and how the head lay then. A point of the scanner, mm from the case's origin, is
   at turn * point + move of the head. */
typedef struct ph_view {
    ph_grid grid;
    float shift[3];             /* of the field of view from the origin; the header knows it */
    float turn[9], move[3];     /* the header does not know them; identity for the first image of a case */
} ph_view;

typedef struct ph_case {
    int index, grade;
    uint32_t have;                              /* bit per modality */
    float linear[9], offset[3];                 /* world -> template, before the warp */
    float age;                                  /* 0..1: wide ventricles and sulci */
    float sulcus_width, sulcus_depth, cortex, rim, ventricle;
    float lopsided;                             /* the left ventricle is smaller by this share, the right larger */
    ph_noise folds;
    float reach;                                /* half width of the lattice below, mm */
    float slow[PH_LATTICE * PH_LATTICE * PH_LATTICE][4];    /* warp in mm (x, y, z); a field of variance 1 */
    ph_tumour tumour;
    float clot;                                 /* share of a tumour's core that is clotted blood */
    int n_decoys;
    ph_decoy decoy[PH_MAX_DECOYS];
    ph_scanner scanner;
    ph_grid grid;
    ph_tissue tissue[PH_TISSUES];
    int n_vessels;
    ph_vessel vessels[PH_MAX_VESSELS];
    int first;                                  /* of whole heads: the modality on whose grid the label lies */
    ph_head head;
    ph_view view[PH_MODALITIES];
} ph_case;

/* Everything of case `index` (c zeroed). */
void ph_draw_case(ph_case *c, const ph_options *o, int index);
/* Class of a case. Golden-ratio steps spread the classes evenly, so that a small set has its share of each. */
int ph_draw_grade(const ph_options *o, int index);
/* Which modalities a case has: all, or in a share of the cases at least one and not all. */
uint32_t ph_draw_have(const ph_options *o, int index);

/* Orientation and voxels of a grid: about voxel mm an edge, slices thick in a share of the grids. Centre: 0. */
void ph_draw_axes(ph_grid *g, const ph_options *o, float voxel, bmvp_rng *r);
/* Rotation by three angles (radians) about x, then y, then z. */
void ph_rotation(const float angle[3], float m[9]);

/* Hands a share f of the voxel to one tissue. */
void ph_blend(float *w, int tissue, float f);
/* Template position of a world point, with (q) and without (p) mass effect, distances to the hulls of cerebrum,
   cerebellum and brainstem; returns the distance to the border of the brain mask. */
float ph_locate(const ph_case *c, const float world[3], float p[4], float q[4], float hull[3]);
/* Fractions of the tissues of a brain (sum 1) at a point that ph_locate has placed. */
void ph_brain(const ph_case *c, const float p[4], const float q[4], const float hull[3], float h, float *w);
/* Fractions of the tissues (sum 1) in a cube of width h around a world point. Returns the share of it that lies in the
   brain mask; 0: w is not set. */
float ph_point(const ph_case *c, const float world[3], float h, float *w);
/* World coordinate of a voxel along axis a. */
float ph_coordinate(const ph_grid *g, int a, float i);
/* Share of blood (share, 0..255) and its freshness per voxel, for one tube. */
void ph_paint_vessel(const ph_grid *g, const ph_vessel *v, uint8_t *share, uint8_t *fresh);

#endif
