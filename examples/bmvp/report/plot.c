/* plot.c - curves: ticks, bins, panels, see report.h */
#include "markup.h"
#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_BINS = 600, MAX_TICKS = 16 };

/* >>ticks ---------------------------------------------------------------------------------------------------------- */

typedef struct axis {
    double lo, hi;                 /* lo < hi; both > 0 when log */
    double p0, p1;                 /* their places in the drawing */
    int log, n;
    double tick[MAX_TICKS];
} axis;

static double axis_place(const axis *a, double v)
{
    double t = a->log ? log(v / a->lo) / log(a->hi / a->lo) : (v - a->lo) / (a->hi - a->lo);
    t = a->p0 + t * (a->p1 - a->p0);
    return t < -9999 ? -9999 : t > 9999 ? 9999 : t;   /* far outside the panel: it is clipped anyway */
}

/* About `want` steps of 1, 2 or 5 times a power of ten. outward: the ends move to ticks. whole: no fractions. */
static void axis_linear(axis *a, int want, int outward, int whole)
{
    double raw = (a->hi - a->lo) / want, power = pow(10, floor(log10(raw))), m = raw / power, step, i;
    step = power * (m < 1.5 ? 1 : m < 3.5 ? 2 : m < 7.5 ? 5 : 10);
    if (whole && step < 1) step = 1;
    if (outward) {
        a->lo = floor(a->lo / step + 1e-9) * step;
        a->hi = ceil(a->hi / step - 1e-9) * step;
    }
    a->n = 0;
    for (i = ceil(a->lo / step - 1e-9); i * step <= a->hi + 1e-9 * step && a->n < MAX_TICKS; i++)
        a->tick[a->n++] = i == 0 ? 0 : i * step;
}

/* Ends at 1, 2 or 5 times a power of ten; ticks at these or, over more than two decades, at powers of ten. */
static void axis_log(axis *a)
{
    static const double digit[] = { 1, 2, 5, 10 };
    double low = pow(10, floor(log10(a->lo))), high = pow(10, floor(log10(a->hi))), power, decades;
    int i, stride;
    for (i = 3; i > 0 && digit[i] * low > a->lo * (1 + 1e-9); i--) { }
    a->lo = digit[i] * low;
    for (i = 0; i < 3 && digit[i] * high < a->hi * (1 - 1e-9); i++) { }
    a->hi = digit[i] * high;
    if (a->hi <= a->lo * (1 + 1e-9)) a->hi = 2 * a->lo;
    decades = log10(a->hi / a->lo);
    stride = decades > 6 ? (int)ceil(decades / 6) : 1;
    a->n = 0;
    for (power = low; power <= a->hi * (1 + 1e-9); power *= pow(10, stride))
        for (i = 0; i < (decades > 2.1 ? 1 : 3); i++)
            if (digit[i] * power >= a->lo * (1 - 1e-9) && digit[i] * power <= a->hi * (1 + 1e-9) && a->n < MAX_TICKS)
                a->tick[a->n++] = digit[i] * power;
}

/* Number for a label, short and exact enough for ticks: 250, 20k, 1.5M, 0.002, 5e-4. */
static void tick_text(double v, char *buf, size_t size)
{
    double a = fabs(v);
    if (a >= 1e12) snprintf(buf, size, "%.3g", v);
    else if (a >= 1e6) snprintf(buf, size, "%gM", v / 1e6);
    else if (a >= 1e4) snprintf(buf, size, "%gk", v / 1e3);
    else if (a >= 9.99e-4 || a < 1e-300) snprintf(buf, size, "%g", v);
    else snprintf(buf, size, "%.3ge%d", v / pow(10, floor(log10(a) + 1e-9)), (int)floor(log10(a) + 1e-9));
}

/* >>bins ----------------------------------------------------------------------------------------------------------- */

typedef struct bin {
    double x, lo, hi, mean, smooth;
    int64_t count;
} bin;

typedef struct curve {             /* a series as it will be drawn */
    bin b[MAX_BINS];
    int n, binned, banded;
} curve;

/* Point i as it is drawn; 0 if it is left out. The limits keep the arithmetic of the axes far from overflow. */
static int point_get(const report_series *s, int64_t i, double *x, double *y)
{
    *x = s->x ? s->x[i] : (double)i + 1;
    *y = s->y[i];
    if (!(fabs(*x) < 1e100 && fabs(*y) < 1e100)) return 0;
    if (fabs(*x) < 1e-100) *x = 0;
    if (fabs(*y) < 1e-100) *y = 0;
    return 1;
}

/* At most MAX_BINS points are kept as they are; more become MAX_BINS bins of equal width, without the empty ones. */
static void curve_bin(const report_series *s, double x0, double x1, curve *c)
{
    int64_t i, shown = 0;
    int k, n = 0;
    double x, y, half;
    memset(c, 0, sizeof *c);
    for (i = 0; i < s->n; i++) shown += point_get(s, i, &x, &y);
    c->binned = shown > MAX_BINS;
    c->banded = c->binned || s->spread;
    for (i = 0; i < s->n; i++) {
        bin *b;
        if (!point_get(s, i, &x, &y)) continue;
        k = c->binned ? (int)((x - x0) / (x1 - x0) * (double)MAX_BINS) : n++;
        b = &c->b[k < 0 ? 0 : k >= MAX_BINS ? MAX_BINS - 1 : k];
        half = s->spread && s->spread[i] > 0 && s->spread[i] < 1e100 ? s->spread[i] : 0;
        b->lo = b->count && b->lo < y - half ? b->lo : y - half;
        b->hi = b->count && b->hi > y + half ? b->hi : y + half;
        b->count++;
        b->x += (x - b->x) / (double)b->count;
        b->mean += (y - b->mean) / (double)b->count;
    }
    for (k = 0; k < MAX_BINS; k++)
        if (c->b[k].count) c->b[c->n++] = c->b[k];
}

/* Gaussian over neighbours, 1.5 % of the run wide; of logarithms where the panel is logarithmic, so that the steep
   start does not lift what follows. A line fitted under the weights, not their mean: it does not bend at the ends. */
static void curve_smooth(curve *c, int logarithmic, int exact)
{
    double sigma = 0.015 * c->n > 1.2 ? 0.015 * c->n : 1.2;
    int i, j, reach = (int)(3 * sigma) + 1;
    for (i = 0; i < c->n; i++) {
        double s0 = 0, s1 = 0, s2 = 0, t0 = 0, t1 = 0, det;
        for (j = i > reach ? i - reach : 0; j < c->n && j <= i + reach; j++) {
            double d = j - i, w = exp(-0.5 * d * d / (sigma * sigma));
            double v = logarithmic ? log(c->b[j].mean) : c->b[j].mean;
            s0 += w;
            s1 += w * d;
            s2 += w * d * d;
            t0 += w * v;
            t1 += w * d * v;
        }
        det = s0 * s2 - s1 * s1;
        c->b[i].smooth = det > 1e-9 ? (t0 * s2 - t1 * s1) / det : t0 / s0;
        if (logarithmic) c->b[i].smooth = exp(c->b[i].smooth);
        if (exact) c->b[i].smooth = c->b[i].mean;
    }
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Widens *lo, *hi to all of the curve but the outermost 1 % at either side: one spike must not flatten the rest. */
static void curve_range(const curve *c, double *lo, double *hi)
{
    double low[MAX_BINS], high[MAX_BINS];
    int i, cut = c->n / 100;
    for (i = 0; i < c->n; i++) {
        low[i] = c->b[i].lo;
        high[i] = c->b[i].hi;
    }
    if (c->n == 0) return;
    qsort(low, (size_t)c->n, sizeof low[0], by_value);
    qsort(high, (size_t)c->n, sizeof high[0], by_value);
    if (low[cut] < *lo) *lo = low[cut];
    if (high[c->n - 1 - cut] > *hi) *hi = high[c->n - 1 - cut];
}

/* On a logarithmic panel there is no place for zero and below. */
static void curve_keep_positive(curve *c)
{
    int i, n = 0;
    for (i = 0; i < c->n; i++) {
        if (!(c->b[i].mean > 0)) continue;
        if (!(c->b[i].lo > 0)) c->b[i].lo = c->b[i].mean;
        c->b[n++] = c->b[i];
    }
    c->n = n;
}

/* >>curves --------------------------------------------------------------------------------------------------------- */

enum { PLOT_W = 520, PLOT_H = 300, PLOT_SMALL = 210, PLOT_LEFT = 68, PLOT_RIGHT = 498, PLOT_TOP = 30, PLOT_FOOT = 44 };

static void plot_x_axis(const report_plot *p, axis *a)
{
    int i;
    int64_t k;
    double x, y;
    memset(a, 0, sizeof *a);
    a->lo = DBL_MAX;
    a->hi = -DBL_MAX;
    for (i = 0; i < p->n_series; i++) {
        for (k = 0; k < p->series[i].n; k++) {
            if (!point_get(&p->series[i], k, &x, &y)) continue;
            if (x < a->lo) a->lo = x;
            if (x > a->hi) a->hi = x;
        }
    }
    if (a->lo > 0 && a->lo <= 0.05 * a->hi) a->lo = 0;
    if (!(a->hi - a->lo > 1e-9 * fabs(a->hi))) {   /* a single place, or none */
        a->hi = a->lo <= a->hi ? a->lo + 0.5 : 1;
        a->lo = a->hi - 1;
    }
    a->p0 = PLOT_LEFT;
    a->p1 = PLOT_RIGHT;
    axis_linear(a, 5, 0, 1);
}

static void plot_y_axis(const report_plot *p, curve *c, axis *a, int height)
{
    int i;
    memset(a, 0, sizeof *a);
    a->lo = DBL_MAX;
    a->hi = -DBL_MAX;
    for (i = 0; i < p->n_series; i++) curve_range(&c[i], &a->lo, &a->hi);
    a->log = p->scale == REPORT_LOG || (p->scale == REPORT_AUTO && a->lo > 0 && a->hi >= 12 * a->lo);
    if (a->log && a->lo <= 0) {
        a->lo = DBL_MAX;
        for (i = 0; i < p->n_series; i++) {
            curve_keep_positive(&c[i]);
            curve_range(&c[i], &a->lo, &a->hi);
        }
    }
    for (i = 0; i < p->n_series; i++) {
        if (a->log) curve_keep_positive(&c[i]);
        curve_smooth(&c[i], a->log, p->series[i].exact);
    }
    if (a->lo > a->hi || (a->log && !(a->hi > 0))) {   /* nothing to draw */
        a->log = 0;
        a->lo = 0;
        a->hi = 1;
    }
    if (!a->log) {
        if (a->lo >= 0 && a->lo < 0.4 * a->hi) a->lo = 0;
        if (!(a->hi - a->lo > 1e-9 * fabs(a->hi))) {
            double half = 0.1 * fabs(a->hi);
            a->lo -= half;
            a->hi = a->hi != 0 ? a->hi + half : 1;   /* zeros alone: most often shares, which are not below 0 */
        }
    }
    a->p0 = height - PLOT_FOOT;
    a->p1 = PLOT_TOP;
    if (a->log && a->lo < 1e-12 * a->hi) a->lo = 1e-12 * a->hi;
    if (a->log) axis_log(a);
    else axis_linear(a, p->small ? 3 : 5, 1, 0);
}

static void put_axes(bmvp_bytes *t, const axis *x, const axis *y, const report_plot *p)
{
    char label[32];
    int i;
    for (i = 0; i < y->n; i++) {
        double v = axis_place(y, y->tick[i]);
        tick_text(y->tick[i], label, sizeof label);
        text_format(t, "<path class=\"grid\" d=\"M%d,%.1fH%d\"/>", PLOT_LEFT, v, PLOT_RIGHT);
        text_format(t, "<text x=\"%d\" y=\"%.1f\" text-anchor=\"end\">%s</text>\n", PLOT_LEFT - 7, v + 4, label);
    }
    for (i = 0; i < x->n; i++) {
        double v = axis_place(x, x->tick[i]);
        tick_text(x->tick[i], label, sizeof label);
        text_format(t, "<path class=\"axis\" d=\"M%.1f,%.1fv4\"/><text x=\"%.1f\" y=\"%.1f\" text-anchor=\"middle\">%s"
                    "</text>\n", v, y->p0, v, y->p0 + 19, label);
    }
    text_format(t, "<path class=\"axis\" d=\"M%d,%.1fH%d\"/><text x=\"%d\" y=\"%.1f\" text-anchor=\"end\">", PLOT_LEFT,
                y->p0, PLOT_RIGHT, PLOT_RIGHT, y->p0 + 38);
    text_element(t, "", p->x_label, "</text><text x=\"0\" y=\"14\">");
    text_element(t, "", p->y_label, y->log ? "; logarithmic</text>\n" : "</text>\n");
}

static void put_path(bmvp_bytes *t, const curve *c, const axis *x, const axis *y, int smooth)
{
    int i;
    for (i = 0; i < c->n; i++)
        text_format(t, "%c%.1f,%.1f", i ? 'L' : 'M', axis_place(x, c->b[i].x),
                    axis_place(y, smooth ? c->b[i].smooth : c->b[i].mean));
}

static void put_band(bmvp_bytes *t, const curve *c, const axis *x, const axis *y, int colour)
{
    int i;
    if (c->n == 0) return;
    text_format(t, "<path class=\"band\" fill=\"var(--c%d)\" d=\"", colour);
    for (i = 0; i < c->n; i++)
        text_format(t, "%c%.1f,%.1f", i ? 'L' : 'M', axis_place(x, c->b[i].x), axis_place(y, c->b[i].hi));
    for (i = c->n - 1; i >= 0; i--)
        text_format(t, "L%.1f,%.1f", axis_place(x, c->b[i].x), axis_place(y, c->b[i].lo));
    text_put(t, "Z\"/>\n");
}

static void put_curve(bmvp_bytes *t, const report_series *s, const curve *c, const axis *x, const axis *y)
{
    int colour = s->colour & 7;
    if (c->banded) put_band(t, c, x, y, colour);
    if (c->n > 1 && !s->exact) {
        text_format(t, "<path class=\"raw\" stroke=\"var(--c%d)\" d=\"", colour);
        put_path(t, c, x, y, 0);
        text_put(t, "\"/>\n");
    }
    if (c->n > 0) {
        text_format(t, "<path class=\"line\" stroke=\"var(--c%d)\" d=\"", colour);
        put_path(t, c, x, y, 1);
        text_put(t, "\"/>\n");
    }
    if (c->n == 1)
        text_format(t, "<circle r=\"3.5\" fill=\"var(--c%d)\" cx=\"%.1f\" cy=\"%.1f\"/>\n", colour,
                    axis_place(x, c->b[0].x), axis_place(y, c->b[0].mean));
}

/* Name and last smoothed value of each curve, beside its colour. */
static void put_key(bmvp_bytes *t, const report_plot *p, const curve *c)
{
    int i;
    text_put(t, "<div class=\"key\">");
    for (i = 0; i < p->n_series; i++) {
        if (c[i].n == 0) continue;
        text_format(t, "<span style=\"--k:var(--c%d)\">", p->series[i].colour & 7);
        text_element(t, "", p->series[i].name, "");
        text_format(t, " <b>%.4g</b></span>\n", c[i].b[c[i].n - 1].smooth);
    }
    text_element(t, "<em class=\"at\" data-x=\"", p->x_label, "\"></em></div>\n");
}

/* In an open figure */
static void put_plot(bmvp_bytes *t, const report_plot *p, const char *part, int number, curve *c)
{
    int i, shown = 0, height = p->small ? PLOT_SMALL : PLOT_H;
    axis x, y;
    plot_x_axis(p, &x);
    for (i = 0; i < p->n_series; i++) curve_bin(&p->series[i], x.lo, x.hi, &c[i]);
    plot_y_axis(p, c, &y, height);
    put_key(t, p, c);
    text_format(t, "<svg class=\"plot\" viewBox=\"0 0 %d %d\" role=\"img\" data-axes=\"%g %g %.10g %.10g %g %g %.10g "
                "%.10g %d\" aria-label=\"", PLOT_W, height, x.p0, x.p1, x.lo, x.hi, y.p0, y.p1, y.lo, y.hi, y.log);
    text_escape(t, p->title);
    for (i = 0; i < p->n_series; i++) {
        if (c[i].n == 0) continue;
        text_element(t, shown++ ? ", " : ": ", p->series[i].name, "");
        text_format(t, " from %.4g to %.4g", c[i].b[0].smooth, c[i].b[c[i].n - 1].smooth);
    }
    text_format(t, "\">\n<clipPath id=\"clip-%s-%d\"><rect x=\"%d\" y=\"%d\" width=\"%d\" height=\"%d\"/></clipPath>\n",
                part, number, PLOT_LEFT, PLOT_TOP - 4, PLOT_W - PLOT_LEFT, height - PLOT_FOOT - PLOT_TOP + 6);
    put_axes(t, &x, &y, p);
    text_format(t, "<g clip-path=\"url(#clip-%s-%d)\">\n", part, number);
    for (i = 0; i < p->n_series; i++) put_curve(t, &p->series[i], &c[i], &x, &y);
    text_put(t, "</g><path class=\"cross\"/>");
    if (!shown) text_format(t, "<text x=\"%d\" y=\"%d\">no values yet</text>", PLOT_LEFT + 20, height / 2);
    text_put(t, "</svg>\n");
}

bmvp_status report_curves(report_page *r, const report_plot *plot, int n)
{
    int i;
    if (report_state(r) != BMVP_OK) return r->error.status;
    text_put(&r->body, "<div class=\"plots\">\n");
    for (i = 0; i < n; i++) {
        size_t room = plot[i].n_series > 0 ? (size_t)plot[i].n_series : 1;
        curve *c = (curve *)calloc(room, sizeof *c);
        if (!c) return bmvp_error_set(&r->error, BMVP_E_OOM, "%s: out of memory for curves", r->path);
        if (figure_open(r, plot[i].title, plot[i].about) == BMVP_OK) {
            put_plot(&r->body, &plot[i], r->part, ++r->plots, c);
            figure_close(r, plot[i].about);
        }
        free(c);
    }
    text_put(&r->body, "</div>\n");
    return report_state(r);
}
