/* picture.h - what a lesson shows: grey pictures side by side, with a title each, and a sentence about them, as one SVG
   file for any browser. The program's writer makes them; stored, so that lessons 5 and 7 need no libdeflate. */
#ifndef PICTURE_H_INCLUDED
#define PICTURE_H_INCLUDED

#define PNG_STORED
#include "bmvp/report/png.h"
#include <stdio.h>

typedef struct picture {
    const char *title;
    int width, height;
    const float *value; /* height rows of width numbers, the first row on top; what is no number is black */
    float low, high;    /* black and white */
} picture;

static double picture_edge(const picture *p) { return 160.0 / (p->width > p->height ? p->width : p->height); }

/* Units from the left of a picture to that of the next: those of the picture or of its title */
static double picture_room(const picture *p)
{
    const double image = p->width * picture_edge(p), title = 6.0 * (double)strlen(p->title);
    return 10 + (image > title ? image : title);
}

/* Returns 0, or 1 where there is no memory. */
static int picture_put(FILE *f, const picture *p, double left)
{
    const int64_t n = (int64_t)p->width * p->height;
    unsigned char *grey = (unsigned char *)malloc((size_t)n);
    char *url;
    if (!grey) return 1;
    png_window(p->value, n, (double)p->low, (double)p->high, grey);
    url = png_url(grey, p->width, p->height, 1);
    free(grey);
    if (!url) return 1;
    fprintf(f, "<text x='%.2f' y='16'>%s</text>\n<image x='%.2f' y='24' width='%.2f' height='%.2f' ", left, p->title,
            left, p->width * picture_edge(p), p->height * picture_edge(p));
    fprintf(f, "preserveAspectRatio='none' style='image-rendering:pixelated' href='%s'/>\n", url);
    free(url);
    return 0;
}

/* n pictures of at most 160 x 160 units in a row, and `about` below. Says where they are, or why not; returns 0, or 1
   after a failure. */
static int picture_write(const char *path, const char *about, const picture *p, int n)
{
    FILE *f = fopen(path, "w");
    double left = 10, width = 10;
    int i, bad = 0;
    if (!f) {
        printf("%s could not be written\n", path);
        return 1;
    }
    for (i = 0; i < n; ++i) width += picture_room(&p[i]);
    if (width < 20 + 6.0 * (double)strlen(about)) width = 20 + 6.0 * (double)strlen(about);
    fprintf(f, "<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 %.0f 212' ", width);
    fprintf(f, "font-family='sans-serif' font-size='11'>\n<rect width='100%%' height='100%%' fill='white'/>\n");
    for (i = 0; i < n; ++i, left += picture_room(&p[i - 1])) bad |= picture_put(f, &p[i], left);
    fprintf(f, "<text x='10' y='202' fill='#555'>%s</text>\n</svg>\n", about);
    bad |= ferror(f);
    if (fclose(f) || bad) {
        printf("%s could not be written whole\n", path);
        return 1;
    }
    printf("look at %s\n", path);
    return 0;
}

#endif
