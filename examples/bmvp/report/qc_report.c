/* qc_report.c - see qc_report.h */
#define _DEFAULT_SOURCE
#include "qc_report.h"
#include "report.h"
#include "data/files.h"
#include "data/preparation.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SHOWN = 24, PLANES = 3, PICTURES = BMVP_MODALITIES * PLANES };
#define AROUND_MM 20 /* what is shown beyond the box of a brain: scalp, and brain that its mask has missed */

typedef struct qc_case {
    const data_case *item, *from;        /* prepared, and what it was made from */
    double matrix[BMVP_MODALITIES][16];  /* mm of the prepared grid -> mm of the image; [15] 0: not known */
    double loop, litres, edge; /* the largest loop of its images, mm; of its mask */
    int has_loop, has_mask, stripped;
    int reference;             /* known modality, -1: not known */
    char doubt[240];           /* what is doubtful of its mask */
} qc_case;

typedef struct qc_pictures { /* what the pictures of a case point to */
    report_picture picture[PICTURES];
    unsigned char *rgb[PICTURES];
    const char *row[BMVP_MODALITIES];
    int rows;
} qc_pictures;

/* >>figures -------------------------------------------------------------------------------------------------------- */

static void read_matrix(double matrix[16], const bmvp_json *node)
{
    const bmvp_json *v = bmvp_json_get(node, "matrix");
    int i = 0;
    for (v = v ? v->first : NULL; v && i < 16; v = v->next) matrix[i++] = bmvp_json_double(v, 0);
    if (i < 16) matrix[15] = 0;
}

static void read_transforms(qc_case *c, const char *dir)
{
    char name[400], *path;
    bmvp_json_doc *doc = NULL;
    const bmvp_json *root, *node, *brain;
    int m;
    snprintf(name, sizeof name, "%s/transforms.json", c->item->id);
    path = path_join(dir, name);
    c->reference = -1;
    if (path && file_exists(path) && bmvp_json_read(path, NULL, &doc, NULL) == BMVP_OK) {
        root = bmvp_json_root(doc);
        c->reference = bmvp_modality_find(bmvp_json_string(bmvp_json_get(root, "reference"), ""));
        for (node = root->first; node; node = node->next) {
            const bmvp_json *loop = node->type == BMVP_JSON_OBJECT ? bmvp_json_get(node, "loop_mm") : NULL;
            if (!loop) continue;
            c->has_loop = 1;
            c->loop = fmax(c->loop, bmvp_json_double(loop, 0));
        }
        for (m = 0; m < BMVP_MODALITIES; ++m) read_matrix(c->matrix[m], bmvp_json_get(root, bmvp_modality_name(m)));
        brain = bmvp_json_get(root, "brain");
        c->stripped = bmvp_json_bool(bmvp_json_get(brain, "stripped_before"), 0);
        c->has_mask = brain && !c->stripped;
        c->litres = bmvp_json_double(bmvp_json_get(brain, "litres"), 0);
        c->edge = bmvp_json_double(bmvp_json_get(brain, "edge"), 0);
        snprintf(c->doubt, sizeof c->doubt, "%s", bmvp_json_string(bmvp_json_get(brain, "doubtful"), ""));
    }
    bmvp_json_free(doc);
    free(path);
}

static int by_doubt(const void *x, const void *y)
{
    const qc_case *a = (const qc_case *)x, *b = (const qc_case *)y;
    if ((a->doubt[0] != 0) != (b->doubt[0] != 0)) return a->doubt[0] ? -1 : 1;
    if (a->loop < b->loop || a->loop > b->loop) return a->loop > b->loop ? -1 : 1;
    return strcmp(a->item->id, b->item->id);
}

static bmvp_status show_table(report_page *r, const qc_case *c, int64_t n)
{
    static const char *const head[5] = { "case", "loop mm", "brain litres", "at the edge", "look at" };
    const char **cell = (const char **)calloc((size_t)n * 5, sizeof *cell);
    char(*text)[3][32] = (char(*)[3][32])malloc((size_t)n * sizeof *text);
    bmvp_status st = cell && text ? BMVP_OK : BMVP_E_OOM;
    int64_t i;
    for (i = 0; i < n && !st; ++i) {
        snprintf(text[i][0], sizeof text[i][0], "%.2f", c[i].loop);
        snprintf(text[i][1], sizeof text[i][1], "%.2f", c[i].litres);
        snprintf(text[i][2], sizeof text[i][2], "%.0f %%", 100 * c[i].edge);
        cell[5 * i] = c[i].item->id;
        if (c[i].has_loop) cell[5 * i + 1] = text[i][0];
        if (c[i].has_mask) cell[5 * i + 2] = text[i][1], cell[5 * i + 3] = text[i][2];
        if (c[i].stripped) cell[5 * i + 4] = "stripped before";
        if (c[i].loop > 1) cell[5 * i + 4] = "loop above 1 mm";
        if (c[i].doubt[0]) cell[5 * i + 4] = c[i].doubt;
    }
    if (!st) st = report_table(r, NULL, head, cell, (int)n, 5);
    free(cell);
    free(text);
    return st;
}

/* >>pictures ------------------------------------------------------------------------------------------------------- */

static const report_colour marks[2] = { { "edges of the reference", { 80, 200, 255 } },
                                        { "outline of the mask", { 255, 120, 60 } } };

/* 1 where the slope of a slice is among its steepest tenth. */
static void mark_edges(unsigned char *mark, const float *slice, int width, int height)
{
    double sum = 0, square = 0, bound;
    int x, y, pass;
    for (pass = 0; pass < 2; ++pass) {
        const double n = (double)width * height;
        bound = sum / n + 1.3 * sqrt(fmax(square / n - sum * sum / (n * n), 0));
        for (y = 1; y + 1 < height; ++y)
            for (x = 1; x + 1 < width; ++x) {
                const float *p = slice + y * width + x;
                const double a = (double)(p[1] - p[-1]), b = (double)(p[width] - p[-width]), g = sqrt(a * a + b * b);
                if (pass == 0) sum += g, square += g * g;
                else if (g > bound) mark[y * width + x] = 1;
            }
    }
}

/* 2 on the border of a mask. */
static void mark_outline(unsigned char *mark, const float *slice, int width, int height)
{
    int x, y;
    for (y = 0; y < height; ++y)
        for (x = 0; x < width; ++x) {
            const float *p = slice + y * width + x;
            if (!(*p > 0)) continue;
            if ((x > 0 && !(p[-1] > 0)) || (x + 1 < width && !(p[1] > 0)) || (y > 0 && !(p[-width] > 0)) ||
                (y + 1 < height && !(p[width] > 0)))
                mark[y * width + x] = 2;
        }
}

static bmvp_status load(bmvp_nii_volume *v, const char *dir, const char *id, const char *file, bmvp_error *err)
{
    char name[440], *path;
    bmvp_status st;
    snprintf(name, sizeof name, "%s/%s", id, file);
    path = path_join(dir, name);
    memset(v, 0, sizeof *v);
    st = path ? BMVP_OK : bmvp_error_set(err, BMVP_E_OOM, "out of memory");
    if (!st) st = bmvp_nii_read_volume(v, path, NULL, NULL, err);
    free(path);
    return st;
}

/* The grid of a mask and AROUND_MM more on every side; without data. */
static bmvp_nii_volume grid_around(const bmvp_nii_volume *mask)
{
    bmvp_nii_volume grid = *mask;
    int64_t more[3];
    int i, a;
    grid.data = NULL;
    for (a = 0; a < 3; ++a) {
        const double *m = mask->affine + a;
        more[a] = (int64_t)ceil(AROUND_MM / sqrt(m[0] * m[0] + m[4] * m[4] + m[8] * m[8]));
        grid.dim[a] += 2 * more[a];
    }
    for (i = 0; i < 3; ++i)
        for (a = 0; a < 3; ++a) grid.affine[4 * i + 3] -= mask->affine[4 * i + a] * (double)more[a];
    return grid;
}

/* Image m as it was before it was stripped, on grid. */
static bmvp_status load_whole(bmvp_nii_volume *v, const qc_case *c, int m, const bmvp_nii_volume *grid, bmvp_error *err)
{
    static const bmvp_nii_scale scale = { 1, 99, 0, 1, 1, 0, 0 };
    bmvp_image image[BMVP_MODALITIES];
    bmvp_nii_volume raw;
    const int n = case_images(c->from, image);
    int i = 0;
    bmvp_status st;
    while (i < n && bmvp_modality_find(image[i].modality) != m) ++i;
    if (i == n) return bmvp_error_set(err, BMVP_E_IO, "%s: %s is not in the data", c->item->id, bmvp_modality_name(m));
    st = bmvp_image_read(&raw, &image[i], NULL, err);
    if (!st) st = bmvp_nii_resample_to(v, &raw, grid, c->matrix[m], BMVP_NII_LINEAR, 0, err);
    if (!st) st = bmvp_nii_scale_percentiles(v, &scale, NULL, err);
    bmvp_nii_volume_free(&raw);
    return st;
}

/* The mask, if there is one, and what it was made from around it: what it cuts away is to be seen. Without one the
   prepared images. */
static bmvp_status load_case(bmvp_nii_volume *v, bmvp_nii_volume *mask, const char *dir, const qc_case *c,
                             bmvp_error *err)
{
    bmvp_nii_volume grid, whole;
    bmvp_status st = BMVP_OK;
    char name[32];
    int m;
    if (c->has_mask) (void)load(mask, dir, c->item->id, "brain_mask.nii.gz", NULL);
    grid = *mask;
    if (mask->data) {
        grid = grid_around(mask);
        st = bmvp_nii_resample_to(&whole, mask, &grid, NULL, BMVP_NII_NEAREST, 0, err);
        bmvp_nii_volume_free(mask);
        *mask = whole;
    }
    for (m = 0; m < BMVP_MODALITIES && !st; ++m) {
        if (!c->item->image[m]) continue;
        snprintf(name, sizeof name, "%s.nii", bmvp_modality_name(m));
        if (mask->data && c->matrix[m][15] != 0) st = load_whole(&v[m], c, m, &grid, err);
        else st = load(&v[m], dir, c->item->id, name, err);
    }
    return st;
}

static int same_grid(const bmvp_nii_volume *a, const bmvp_nii_volume *b)
{
    return a->data && b->data && memcmp(a->dim, b->dim, sizeof a->dim) == 0;
}

/* One plane of v with what is marked over it. reference NULL: no edges. */
static bmvp_status draw(report_picture *to, unsigned char **rgb, const bmvp_nii_volume *v,
                        const bmvp_nii_volume *reference, const bmvp_nii_volume *mask, int plane)
{
    const int64_t dim[3] = { v->dim[2], v->dim[1], v->dim[0] };
    int width, height;
    const int64_t n = report_slice(v->data, dim, (report_plane)plane, -1, NULL, &width, &height);
    float *slice = (float *)malloc((size_t)n * 2 * sizeof *slice + 1), *other = slice ? slice + n : NULL;
    unsigned char *mark = (unsigned char *)calloc((size_t)n + 1, 1);
    *rgb = (unsigned char *)malloc((size_t)n * 3 + 1);
    memset(to, 0, sizeof *to);
    if (n > 0 && slice && mark && *rgb) {
        (void)report_slice(v->data, dim, (report_plane)plane, -1, slice, &width, &height);
        if (reference) {
            (void)report_slice(reference->data, dim, (report_plane)plane, -1, other, &width, &height);
            mark_edges(mark, other, width, height);
        }
        if (same_grid(mask, v)) {
            (void)report_slice(mask->data, dim, (report_plane)plane, -1, other, &width, &height);
            mark_outline(mark, other, width, height);
        }
        report_overlay(slice, mark, n, 0, 1, marks, 2, 0.8, *rgb);
        to->rgb = *rgb;
        to->width = width;
        to->height = height;
    }
    free(slice);
    free(mark);
    return to->rgb ? BMVP_OK : BMVP_E_OOM;
}

static bmvp_status draw_case(qc_pictures *q, const char *dir, const qc_case *c, bmvp_error *err)
{
    bmvp_nii_volume v[BMVP_MODALITIES], mask;
    bmvp_status st;
    int m, plane, reference = c->reference;
    memset(v, 0, sizeof v);
    memset(&mask, 0, sizeof mask);
    st = load_case(v, &mask, dir, c, err);
    for (m = BMVP_MODALITIES - 1; m >= 0 && c->reference < 0; --m)
        if (v[m].data) reference = m;
    for (m = 0; m < BMVP_MODALITIES && !st; ++m) {
        if (!v[m].data) continue;
        q->row[q->rows] = bmvp_modality_name(m);
        for (plane = 0; plane < PLANES && !st; ++plane) {
            const int at = q->rows * PLANES + plane;
            const int edges = m != reference && reference >= 0 && same_grid(&v[reference], &v[m]);
            st = draw(&q->picture[at], &q->rgb[at], &v[m], edges ? &v[reference] : NULL, &mask, plane);
        }
        ++q->rows;
    }
    for (m = 0; m < BMVP_MODALITIES; ++m) bmvp_nii_volume_free(&v[m]);
    bmvp_nii_volume_free(&mask);
    return st;
}

static bmvp_status show_case(report_page *r, const char *dir, const qc_case *c)
{
    static const char *const planes[PLANES] = { "axial", "coronal", "sagittal" };
    qc_pictures *q = (qc_pictures *)calloc(1, sizeof *q);
    report_grid grid;
    bmvp_error err;
    bmvp_status st = q ? BMVP_OK : BMVP_E_OOM;
    char caption[320];
    int i;
    memset(&err, 0, sizeof err);
    if (!st) st = draw_case(q, dir, c, &err);
    if (!st) {
        memset(&grid, 0, sizeof grid);
        snprintf(caption, sizeof caption, "%s%s%s", c->item->id, c->doubt[0] ? ": " : "", c->doubt);
        grid.caption = caption;
        grid.row_name = q->row;
        grid.col_name = planes;
        grid.picture = q->picture;
        grid.rows = q->rows;
        grid.cols = PLANES;
        grid.legend = marks;
        grid.n_legend = 2;
        st = report_images(r, &grid);
    } else if (err.message[0]) {
        st = report_note(r, err.message); /* a case that cannot be read costs its pictures */
    }
    for (i = 0; q && i < PICTURES; ++i) free(q->rgb[i]);
    free(q);
    return st;
}

/* Cases of d with what they were made from, in its order. */
static void find_sources(qc_case *c, const dataset *d, const dataset *from)
{
    int64_t i, k = 0;
    for (i = 0; i < d->n; ++i) {
        c[i].item = &d->item[i];
        while (strcmp(from->item[k].id, d->item[i].id) != 0) ++k;
        c[i].from = &from->item[k];
    }
}

bmvp_status qc_report(const char *dir, const dataset *d, const dataset *from, bmvp_error *err)
{
    char *path = path_join(dir, "qc.html"), intro[480];
    qc_case *c = (qc_case *)calloc((size_t)d->n + 1, sizeof *c);
    report_page r;
    bmvp_status st = path && c ? BMVP_OK : bmvp_error_set(err, BMVP_E_OOM, "out of memory");
    int64_t i;
    if (!st) find_sources(c, d, from);
    for (i = 0; i < d->n && !st; ++i) read_transforms(&c[i], dir);
    if (!st) {
        qsort(c, (size_t)d->n, sizeof *c, by_doubt);
        snprintf(intro, sizeof intro,
                 "%lld cases, doubtful ones first; pictures of %lld of them. Loop: how far a point of the head lands "
                 "from where it was when it is taken to the reference, to another image and back; above 1 mm look "
                 "twice. At the edge: the share of the mask's surface that the image cuts off.",
                 (long long)d->n, (long long)(d->n < SHOWN ? d->n : SHOWN));
        st = report_open(&r, path, "Prepared cases", "qc", "Prepared cases");
        if (!st) st = report_section(&r, "Cases", intro);
        if (!st) st = show_table(&r, c, d->n);
        if (!st)
            st = report_section(&r, "Pictures",
                                "The middle planes. Blue are the edges of the reference image: in the other images "
                                "of the case they should lie on the same edges. Orange is the outline of the brain "
                                "mask: it should run along the surface of the brain. Images with a mask are shown as "
                                "they were before it cut them.");
        for (i = 0; i < d->n && i < SHOWN && !st; ++i) st = show_case(&r, dir, &c[i]);
        if (!st) st = report_close(&r);
        else report_discard(&r);
        if (st) bmvp_error_set(err, st, "%s", r.error.status ? r.error.message : "qc.html: out of memory");
    }
    free(path);
    free(c);
    return st;
}
