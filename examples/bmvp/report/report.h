/* report.h - RUN/report.html: one self-contained page with tables, curves and pictures; the training log

   Do this:
       report_page r;
       if (report_open(&r, "run/report.html", "My run", "pretrain", "Pre-training") == BMVP_OK) {
           report_section(&r, "Configuration", NULL);
           report_pairs(&r, NULL, keys, values, n);
           report_close(&r);
       }
       if (r.error.status != BMVP_OK) fprintf(stderr, "%s\n", r.error.message);

   A page consists of parts, one per command. Opening a part of a page that exists keeps the other parts and replaces
   this one, so `finetune` adds to the page of `pretrain` and may be run again. Nothing is written before
   report_close, which replaces the file in one rename.
   The page needs no network; scripts only add values under the pointer. All text is UTF-8 and is escaped here.
   Functions return a status; `error` holds it with a sentence that names the file. The first failure sticks: later
   calls do nothing and return it too, so one check after report_close is enough.

   CONTENTS (search for the tag)
       >>page   >>tables   >>curves   >>pictures   >>pre-training   >>log
   page.c: page and tables; plot.c: curves; pictures.c: pictures and pre-training; png.h; log.c

   Needs libdeflate; with BMVP_NIFTI_ZLIB zlib; with BMVP_NIFTI_NO_GZIP nothing (pictures are then stored, larger). */
#ifndef REPORT_H_INCLUDED
#define REPORT_H_INCLUDED

#ifndef BMVP_NN_H_INCLUDED
#error "include bmvp_tensor.h and bmvp_nn.h before report.h"
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* >>page ----------------------------------------------------------------------------------------------------------- */

typedef struct report_page {
    bmvp_error error;              /* status BMVP_OK while all is well; the only member to look at */
    char *path;                    /* NULL: not open */
    char part[32];
    bmvp_bytes title, old, body;  /* page as it was; this part */
    int sections, plots, captions, says;
    int intro;                     /* number of the paragraph that explains this section; 0: it has none */
} report_page;

/* part: 1 to 31 of a-z 0-9 - that name the part for replacing; label: its heading. title NULL keeps the title of a page
   that exists ("BrainMVP" for a new one). Fails if a file is there that is not such a page. Call report_close or
   report_discard afterwards, on failure neither is needed. */
bmvp_status report_open(report_page *r, const char *path, const char *title, const char *part, const char *label);
bmvp_status report_close(report_page *r);      /* writes the page and frees everything but `error` */
void report_discard(report_page *r);   /* frees everything, the file stays as it was */

/* Starts a section; intro: one paragraph or NULL. It also explains the section's figures that have no `about`. */
bmvp_status report_section(report_page *r, const char *heading, const char *intro);
bmvp_status report_note(report_page *r, const char *text);   /* a small grey paragraph */

/* >>tables --------------------------------------------------------------------------------------------------------- */

/* The few numbers to see first (step, epoch, time used, ...) as a row of tiles. */
bmvp_status report_tiles(report_page *r, const char *const *names, const char *const *values, int n);
/* Key and value pairs (configuration, data, machine); caption may be NULL. */
bmvp_status report_pairs(report_page *r, const char *caption, const char *const *keys,
                         const char *const *values, int n);
/* cell: (rows, cols), row by row; the first column names the row. NULL is an empty cell; numbers are aligned right. */
bmvp_status report_table(report_page *r, const char *caption, const char *const *head, const char *const *cell,
                         int rows, int cols);

/* >>curves --------------------------------------------------------------------------------------------------------- */

/* Each plot and row of pictures is a figure and is explained to a reader who sees it for the first time: `about` says
   what is shown and what is good, in a sentence. NULL: the section's intro does; without either, BMVP_E_ARG. */

typedef enum report_scale { REPORT_AUTO, REPORT_LINEAR, REPORT_LOG } report_scale;

typedef struct report_series {
    const char *name;
    const double *x, *y;           /* x non-decreasing, NULL: 1 to n. Points that are not below 1e100 are left out */
    const double *spread;          /* half the width of a band about the line (standard deviation), or NULL */
    int64_t n;                     /* any number; above 600 points the panel shows bins with minimum, mean, maximum */
    int colour;                    /* 0 to 7; the same colour means the same thing in all panels */
    int exact;                     /* 1: draw the line through the values, without smoothing (learning rate, Dice) */
} report_series;

typedef struct report_plot {
    const char *title, *about;
    const char *x_label, *y_label; /* with units */
    const report_series *series;
    int n_series;
    report_scale scale;       /* of y. AUTO: logarithmic when all is positive and spans a factor of 12 */
    int small;                /* 1: a low panel */
} report_plot;

/* Panels side by side where the page is wide enough. A logarithmic panel leaves out values <= 0. */
bmvp_status report_curves(report_page *r, const report_plot *plot, int n);

/* >>pictures ------------------------------------------------------------------------------------------------------- */

typedef struct report_picture {
    const float *grey;             /* (height, width), or NULL */
    const unsigned char *rgb;      /* (height, width, 3), or NULL; both NULL: an empty cell */
    int width, height;             /* 1 to 4096 */
    double lo, hi;                 /* values shown black and white; lo >= hi: smallest and largest of the row */
    const char *caption;           /* below the picture, or NULL */
} report_picture;

typedef struct report_colour {
    const char *name;
    unsigned char rgb[3];
} report_colour;

typedef struct report_grid {
    const char *caption, *about;
    const char *const *row_name, *const *col_name;
    const report_picture *picture;   /* (rows, cols); all are shown at one scale */
    int rows, cols;
    const report_colour *legend;     /* may be NULL */
    int n_legend;
} report_grid;

bmvp_status report_images(report_page *r, const report_grid *grid);

typedef enum report_plane { REPORT_AXIAL, REPORT_CORONAL, REPORT_SAGITTAL } report_plane;

/* Cuts one slice out of a RAS volume (depth z, height y, width x; x fastest; dim = {D, H, W}, each 1 to 4096). index
   -1: the middle one. Superior (axial: anterior) is up, the patient's left is left (sagittal: posterior is left). out
   (height, width) may be NULL to get the size only. Returns the number of pixels, 0 if an argument is out of range. */
int64_t report_slice(const float *volume, const int64_t dim[3], report_plane plane, int64_t index, float *out,
                     int *width, int *height);

/* Lays labels over a grey picture: rgb (n, 3) = grey in the window, mixed with colour[label - 1] by alpha (0 to 1)
   where label is 1 to n_colours; other labels stay grey. */
void report_overlay(const float *grey, const unsigned char *label, int64_t n, double lo, double hi,
                    const report_colour *colour, int n_colours, double alpha, unsigned char *rgb);

/* >>pre-training --------------------------------------------------------------------------------------------------- */

typedef struct report_snapshot {   /* a template at one step: its middle slices as report_slice cuts them */
    int64_t step;
    const float *plane[3];
    int width[3], height[3];
} report_snapshot;

/* One modality: a column per snapshot, a row per plane, one grey window (0 to the 99.5th percentile of the last). At
   most `REPORT_SNAPSHOTS` columns are shown, first and last among them. */
enum { REPORT_SNAPSHOTS = 7 };
bmvp_status report_templates(report_page *r, const char *modality, const report_snapshot *snapshot, int n);

typedef struct report_case {
    const char *name, *modality, *other;       /* other: modality of the cross-modal view, NULL if there is none */
    int64_t dim[3];                            /* {D, H, W} of the crop */
    const float *input;
    const float *cross_view, *cross_output;    /* masked view and reconstruction; NULL if there is no such task */
    const float *template_view, *template_output;
    int planes;                                /* 1 axial, 2 and coronal, 3 and sagittal */
} report_case;

/* Input, masked views, reconstructions and absolute errors in the window 0 to 1, mean absolute errors below. */
bmvp_status report_reconstruction(report_page *r, const report_case *c);

/* >>log ------------------------------------------------------------------------------------------------------------ */

typedef struct report_log {
    int64_t n;                     /* lines kept */
    int columns;
    double **value;                /* (columns, n): field `name[i]`, NaN where absent or null */
    int64_t skipped;               /* lines that are not a JSON object with the first field (a torn last line) */
} report_log;

/* Reads a file of one JSON object per line. name[0] ("step") counts up: where it falls back, as after resuming from an
   earlier checkpoint, the later lines replace the earlier ones. A missing file is BMVP_E_IO, an empty one is fine.
   On failure log is empty. */
bmvp_status report_log_load(const char *path, const char *const *name, int columns, report_log *log,
                            bmvp_error *err);
void report_log_free(report_log *log);

/* The panels of a pre-training run from its log file (fields step, loss, loss_cmr, loss_md, loss_cl, lr,
   samples_per_s): reconstruction, contrast and total, learning rate, throughput. Panels without values are left out. */
bmvp_status report_losses(report_page *r, const char *log_path);

#ifdef __cplusplus
}
#endif
#endif
