/* pictures.c - rows of pictures, slices of volumes, templates and reconstructions, see report.h */
#include "markup.h"
#include "png.h"
#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* >>pictures ------------------------------------------------------------------------------------------------------- */

static int size_ok(int width, int height)
{
    return width >= 1 && width <= MAX_EDGE && height >= 1 && height <= MAX_EDGE;
}

/* Smallest and largest finite grey value of a row, for pictures without a window of their own. */
static void row_window(const report_picture *p, int cols, double *lo, double *hi)
{
    int j;
    int64_t i;
    *lo = DBL_MAX;
    *hi = -DBL_MAX;
    for (j = 0; j < cols; j++) {
        int64_t n = p[j].grey && size_ok(p[j].width, p[j].height) ? (int64_t)p[j].width * p[j].height : 0;
        for (i = 0; i < n; i++) {
            double v = (double)p[j].grey[i];
            if (!isfinite(v)) continue;
            if (v < *lo) *lo = v;
            if (v > *hi) *hi = v;
        }
    }
}

static bmvp_status put_png(bmvp_bytes *t, const report_picture *p, double lo, double hi)
{
    size_t n = (size_t)p->width * (size_t)p->height;
    unsigned char *grey = NULL;
    char *url;
    if (p->grey && !p->rgb) {
        grey = (unsigned char *)malloc(n);
        if (!grey) return BMVP_E_OOM;
        png_window(p->grey, (int64_t)n, lo, hi, grey);
    }
    url = png_url(grey ? grey : p->rgb, p->width, p->height, grey ? 1 : 3);
    free(grey);
    if (!url) return BMVP_E_OOM;
    text_put(t, url);
    free(url);
    return BMVP_OK;
}

/* Screen pixels per picture pixel: rows of at most about 1000 pixels; whole numbers where single voxels show. */
static double grid_scale(const report_grid *g)
{
    int64_t i;
    int edge = 1;
    double room = 1000.0 / (g->cols > 0 ? g->cols : 1) - 6, scale;
    for (i = 0; i < (int64_t)g->rows * g->cols; i++) {
        if (!g->picture[i].grey && !g->picture[i].rgb) continue;
        if (g->picture[i].width > edge) edge = g->picture[i].width;
        if (g->picture[i].height > edge) edge = g->picture[i].height;
    }
    room = room < 96 ? 96 : room > 190 ? 190 : room;
    scale = room / edge;
    return scale >= 2 ? floor(scale) : scale;
}

static bmvp_status put_picture(bmvp_bytes *t, const report_grid *g, int row, int col, double scale, double lo,
                               double hi)
{
    const report_picture *p = &g->picture[(int64_t)row * g->cols + col];
    bmvp_status s;
    if (!p->grey && !p->rgb) {
        text_put(t, "<td></td>\n");
        return BMVP_OK;
    }
    if (!size_ok(p->width, p->height)) return BMVP_E_ARG;
    text_element(t, "<td><small class=\"of\">", g->col_name[col], "</small>");
    text_format(t, "<img%s width=\"%.0f\" height=\"%.0f\" alt=\"", scale >= 2 ? " class=\"px\"" : "",
                p->width * scale, p->height * scale);
    text_element(t, "", g->caption, ": ");
    text_element(t, "", g->col_name[col], ", ");
    text_element(t, "", g->row_name[row], "");
    text_element(t, p->caption ? ", " : "", p->caption, "\" src=\"");
    s = p->lo < p->hi ? put_png(t, p, p->lo, p->hi) : put_png(t, p, lo, hi);
    text_put(t, "\">");
    if (p->caption) text_element(t, "<small>", p->caption, "</small>");
    text_put(t, "</td>\n");
    return s;
}

static void put_legend(bmvp_bytes *t, const report_grid *g)
{
    int i;
    if (!g->legend || g->n_legend < 1) return;
    text_put(t, "<div class=\"key area\">");
    for (i = 0; i < g->n_legend; i++) {
        const unsigned char *c = g->legend[i].rgb;
        text_format(t, "<span style=\"--k:rgb(%d,%d,%d)\">", c[0], c[1], c[2]);
        text_element(t, "", g->legend[i].name, "</span>\n");
    }
    text_put(t, "</div>\n");
}

bmvp_status report_images(report_page *r, const report_grid *g)
{
    bmvp_bytes *t = &r->body;
    bmvp_status s = BMVP_OK;
    double scale, lo, hi;
    int i, j;
    if (report_state(r) != BMVP_OK || figure_open(r, g->caption, g->about) != BMVP_OK) return r->error.status;
    scale = grid_scale(g);
    put_scroll(r, g->cols > 3 ? "pics" : "pics few", NULL);
    text_put(t, "<thead><tr><td></td>");
    for (j = 0; j < g->cols; j++) text_element(t, "<th scope=\"col\">", g->col_name[j], "</th>");
    text_put(t, "</tr></thead>\n<tbody>\n");
    for (i = 0; i < g->rows && s == BMVP_OK; i++) {
        text_element(t, "<tr><th scope=\"row\">", g->row_name[i], "</th>\n");
        row_window(g->picture + (int64_t)i * g->cols, g->cols, &lo, &hi);
        for (j = 0; j < g->cols && s == BMVP_OK; j++) s = put_picture(t, g, i, j, scale, lo, hi);
        text_put(t, "</tr>\n");
    }
    text_put(t, "</tbody></table></div>\n");
    put_legend(t, g);
    figure_close(r, g->about);
    if (s != BMVP_OK)
        return bmvp_error_set(&r->error, s, "%s: pictures \"%s\": %s", r->path, g->caption, bmvp_status_text(s));
    return report_state(r);
}

/* Axes of a plane in the order of dim (z, y, x): rows, columns, the axis across. */
static int plane_axes(report_plane plane, int *row, int *col, int *across)
{
    static const int table[3][3] = { { 1, 2, 0 }, { 0, 2, 1 }, { 0, 1, 2 } };
    if ((int)plane < 0 || (int)plane > 2) return -1;
    *row = table[plane][0];
    *col = table[plane][1];
    *across = table[plane][2];
    return 0;
}

int64_t report_slice(const float *volume, const int64_t dim[3], report_plane plane, int64_t index, float *out,
                     int *width, int *height)
{
    int row, col, across, k;
    int64_t stride[3], i, j;
    *width = *height = 0;
    if (plane_axes(plane, &row, &col, &across) != 0) return 0;
    for (k = 0; k < 3; k++)
        if (dim[k] < 1 || dim[k] > MAX_EDGE) return 0;
    if (index == -1) index = dim[across] / 2;
    if (index < 0 || index >= dim[across]) return 0;
    stride[2] = 1;
    stride[1] = dim[2];
    stride[0] = dim[1] * dim[2];
    *width = (int)dim[col];
    *height = (int)dim[row];
    for (i = 0; out && i < dim[row]; i++)   /* the first row shows the far end: superior or anterior */
        for (j = 0; j < dim[col]; j++)
            out[i * dim[col] + j] = volume[index * stride[across] + (dim[row] - 1 - i) * stride[row] + j * stride[col]];
    return dim[row] * dim[col];
}

void report_overlay(const float *grey, const unsigned char *label, int64_t n, double lo, double hi,
                    const report_colour *colour, int n_colours, double alpha, unsigned char *rgb)
{
    int64_t i;
    int k;
    for (i = 0; i < n; i++) {
        unsigned char g;
        double share = label[i] >= 1 && label[i] <= n_colours ? alpha : 0;
        png_window(grey + i, 1, lo, hi, &g);
        for (k = 0; k < 3; k++) {
            double top = share > 0 ? colour[label[i] - 1].rgb[k] : 0;
            rgb[3 * i + k] = (unsigned char)(g + share * (top - g) + 0.5);
        }
    }
}

/* >>pre-training --------------------------------------------------------------------------------------------------- */

static const char *const PLANE_NAME[3] = { "axial", "coronal", "sagittal" };

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Value below which 99.5 % of the pixels lie: bright vessels must not darken the whole template. */
static bmvp_status snapshot_white(const report_snapshot *s, double *white)
{
    size_t n = 0, k;
    int p;
    double *v;
    for (p = 0; p < 3; p++) n += s->plane[p] ? (size_t)s->width[p] * (size_t)s->height[p] : 0;
    v = (double *)malloc((n ? n : 1) * sizeof *v);
    if (!v) return BMVP_E_OOM;
    for (p = 0, n = 0; p < 3; p++)
        for (k = 0; s->plane[p] && k < (size_t)s->width[p] * (size_t)s->height[p]; k++)
            if (isfinite((double)s->plane[p][k])) v[n++] = (double)s->plane[p][k];
    qsort(v, n, sizeof *v, by_value);
    *white = n ? v[(size_t)(0.995 * (double)(n - 1))] : 0;
    if (!(*white > 1e-3)) *white = 1e-3;   /* still empty: do not blow up rounding noise */
    free(v);
    return BMVP_OK;
}

static bmvp_status snapshot_check(const report_snapshot *s)
{
    int p;
    for (p = 0; p < 3; p++)
        if (s->plane[p] && !size_ok(s->width[p], s->height[p])) return BMVP_E_ARG;
    return BMVP_OK;
}

bmvp_status report_templates(report_page *r, const char *modality, const report_snapshot *snapshot, int n)
{
    report_picture picture[3 * REPORT_SNAPSHOTS];
    const char *name[REPORT_SNAPSHOTS];
    char text[REPORT_SNAPSHOTS][32], caption[96];
    int cols = n < REPORT_SNAPSHOTS ? n : REPORT_SNAPSHOTS, i, p;
    report_grid grid;
    double white = 1;
    bmvp_status s;
    if (report_state(r) != BMVP_OK || n < 1) return r->error.status;
    s = snapshot_check(&snapshot[n - 1]);
    if (s == BMVP_OK) s = snapshot_white(&snapshot[n - 1], &white);
    if (s != BMVP_OK)
        return bmvp_error_set(&r->error, s, "%s: template of %s: %s", r->path, modality, bmvp_status_text(s));
    memset(picture, 0, sizeof picture);
    for (i = 0; i < cols; i++) {
        const report_snapshot *from = &snapshot[cols > 1 ? (int)((int64_t)i * (n - 1) / (cols - 1)) : n - 1];
        snprintf(text[i], sizeof text[i], "step %lld", (long long)from->step);
        name[i] = text[i];
        for (p = 0; p < 3; p++) {
            picture[p * cols + i].grey = from->plane[p];
            picture[p * cols + i].width = from->width[p];
            picture[p * cols + i].height = from->height[p];
            picture[p * cols + i].hi = white;
        }
    }
    snprintf(caption, sizeof caption, "%.40s, grey window 0 to %.2g", modality, white);
    memset(&grid, 0, sizeof grid);
    grid.caption = caption;
    grid.row_name = PLANE_NAME;
    grid.col_name = name;
    grid.picture = picture;
    grid.rows = 3;
    grid.cols = cols;
    return report_images(r, &grid);
}

enum { CASE_COLS = 7 };

typedef struct case_page {         /* the pictures of one case as they are collected */
    const report_case *c;
    report_picture picture[3 * CASE_COLS];
    const char *col_name[CASE_COLS];
    char caption[CASE_COLS][32];
    float *pixels;                 /* one slot of `slot` floats per picture */
    int64_t slot;
    int cols;
} case_page;

/* One column: slices of `volume`, or of |volume - input|, whose mean over the crop is its caption. */
static void case_column(case_page *g, const char *name, const float *volume, int error)
{
    const report_case *c = g->c;
    int64_t n = c->dim[0] * c->dim[1] * c->dim[2], i, count;
    double sum = 0;
    int p, col = g->cols++;
    g->col_name[col] = name;
    for (i = 0; error && i < n; i++) sum += fabs((double)volume[i] - (double)c->input[i]);
    if (error) snprintf(g->caption[col], sizeof g->caption[col], "mean %.4f", sum / (double)n);
    for (p = 0; p < c->planes; p++) {
        report_picture *q = &g->picture[p * CASE_COLS + col];
        float *out = g->pixels + g->slot * (p * CASE_COLS + col), *input = g->pixels + g->slot * 3 * CASE_COLS;
        count = report_slice(volume, c->dim, (report_plane)p, -1, out, &q->width, &q->height);
        if (error) report_slice(c->input, c->dim, (report_plane)p, -1, input, &q->width, &q->height);
        for (i = 0; error && i < count; i++) out[i] = fabsf(out[i] - input[i]);
        q->grey = out;
        q->hi = 1;
        q->caption = error && p == 0 ? g->caption[col] : NULL;
    }
}

static void case_columns(case_page *g)
{
    const report_case *c = g->c;
    case_column(g, "input", c->input, 0);
    if (c->cross_view) case_column(g, "cross-modal view", c->cross_view, 0);
    if (c->cross_output) case_column(g, "reconstruction", c->cross_output, 0);
    if (c->cross_output) case_column(g, "absolute error", c->cross_output, 1);
    if (c->template_view) case_column(g, "template view", c->template_view, 0);
    if (c->template_output) case_column(g, "reconstruction", c->template_output, 0);
    if (c->template_output) case_column(g, "absolute error", c->template_output, 1);
}

static bmvp_status case_check(const report_case *c)
{
    int k;
    if (!c->input || c->planes < 1 || c->planes > 3) return BMVP_E_ARG;
    for (k = 0; k < 3; k++)
        if (c->dim[k] < 1 || c->dim[k] > 1024) return BMVP_E_ARG;
    return BMVP_OK;
}

bmvp_status report_reconstruction(report_page *r, const report_case *c)
{
    case_page *g;
    report_grid grid;
    char caption[256];
    int64_t slot = 0;
    int k;
    bmvp_status s;
    if (report_state(r) != BMVP_OK) return r->error.status;
    s = case_check(c);
    for (k = 0; k < 3 && s == BMVP_OK; k++) {
        int64_t size = c->dim[k] * c->dim[(k + 1) % 3];
        if (size > slot) slot = size;
    }
    g = s == BMVP_OK ? (case_page *)calloc(1, sizeof *g) : NULL;
    if (g) g->pixels = (float *)malloc((size_t)slot * (3 * CASE_COLS + 1) * sizeof(float));
    if (!g || !g->pixels) {
        free(g);
        s = s == BMVP_OK ? BMVP_E_OOM : s;
        return bmvp_error_set(&r->error, s, "%s: pictures of case %s: %s", r->path, c->name, bmvp_status_text(s));
    }
    g->c = c;
    g->slot = slot;
    case_columns(g);
    for (k = 1; k < c->planes; k++)   /* close the gaps of columns that this case does not have */
        memmove(g->picture + k * g->cols, g->picture + k * CASE_COLS, (size_t)g->cols * sizeof g->picture[0]);
    snprintf(caption, sizeof caption, "%.120s, %.40s%s%.40s", c->name, c->modality,
             c->other ? ", masked voxels from " : ", the only modality", c->other ? c->other : "");
    memset(&grid, 0, sizeof grid);
    grid.caption = caption;
    grid.row_name = PLANE_NAME;
    grid.col_name = g->col_name;
    grid.picture = g->picture;
    grid.rows = c->planes;
    grid.cols = g->cols;
    s = report_images(r, &grid);
    free(g->pixels);
    free(g);
    return s;
}
