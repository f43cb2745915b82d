/* picture.h - what a lesson shows: grey pictures side by side, with a title each, and a sentence about them, as one SVG
   file for any browser. The program's own writer (bmvp/report) makes whole pages and PNG files; it needs bmvp_nn.h and
   gzip, without which lessons 5 and 6 compile from one line. */
#ifndef PICTURE_H_INCLUDED
#define PICTURE_H_INCLUDED

#include <stdio.h>
#include <string.h>

typedef struct picture {
    const char *title;
    int width, height;
    const float *value; /* height rows of width numbers, the first row on top */
    float low, high;    /* black and white */
} picture;

/* Grey of a value, 0 to 255; what is no number is black.  */
static int picture_grey(const picture *p, int x, int y)
{
    const float v = (p->value[y * p->width + x] - p->low) / (p->high - p->low);
    return !(v > 0) ? 0 : v < 1 ? (int)(255 * v + 0.5f) : 255;
}

/* One row: neighbours of one grey are one rectangle. */
static void picture_row(FILE *f, const picture *p, int y, double left, double edge)
{
    int x, from = 0;
    for (x = 1; x <= p->width; ++x) {
        const int grey = picture_grey(p, from, y);
        if (x < p->width && picture_grey(p, x, y) == grey) continue;
        fprintf(f, "<rect x='%.2f' y='%.2f' width='%.2f' height='%.2f' fill='#%02x%02x%02x'/>\n", left + from * edge,
                24 + y * edge, (x - from) * edge + 0.05, edge + 0.05, grey, grey, grey);
        from = x;
    }
}

static double picture_edge(const picture *p) { return 160.0 / (p->width > p->height ? p->width : p->height); }

/* Units from the left of a picture to that of the next: those of the picture or of its title */
static double picture_room(const picture *p)
{
    const double image = p->width * picture_edge(p), title = 6.0 * (double)strlen(p->title);
    return 10 + (image > title ? image : title);
}

/* n pictures of at most 160 x 160 units in a row, and `about` below. Says where they are, or why not; returns 0, or 1
   after a failure. */
static int picture_write(const char *path, const char *about, const picture *p, int n)
{
    FILE *f = fopen(path, "w");
    double left = 10, width = 10;
    int i, y, bad;
    if (!f) {
        printf("%s could not be written\n", path);
        return 1;
    }
    for (i = 0; i < n; ++i) width += picture_room(&p[i]);
    if (width < 20 + 6.0 * (double)strlen(about)) width = 20 + 6.0 * (double)strlen(about);
    fprintf(f, "<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 %.0f 212' shape-rendering='crispEdges' ", width);
    fprintf(f, "font-family='sans-serif' font-size='11'>\n<rect width='100%%' height='100%%' fill='white'/>\n");
    for (i = 0; i < n; ++i, left += picture_room(&p[i - 1])) {
        fprintf(f, "<text x='%.2f' y='16'>%s</text>\n", left, p[i].title);
        for (y = 0; y < p[i].height; ++y) picture_row(f, &p[i], y, left, picture_edge(&p[i]));
    }
    fprintf(f, "<text x='10' y='202' fill='#555'>%s</text>\n</svg>\n", about);
    bad = ferror(f);
    if (fclose(f) || bad) printf("%s could not be written whole\n", path);
    else printf("look at %s\n", path);
    return bad;
}

#endif
