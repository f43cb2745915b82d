/* picture.h - what a lesson shows: grey pictures side by side, with a title each, as one SVG file for any browser */
#ifndef PICTURE_H_INCLUDED
#define PICTURE_H_INCLUDED

#include <stdio.h>

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

/* n pictures of 160 units in a row. Says where they are, or why not; returns 0, or 1 after a failure. */
static int picture_write(const char *path, const picture *p, int n)
{
    FILE *f = fopen(path, "w");
    int i, y, bad;
    if (!f) {
        printf("%s could not be written\n", path);
        return 1;
    }
    fprintf(f, "<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 %d 192' ", n * 170 + 10);
    fprintf(f, "font-family='sans-serif' font-size='11'>\n<rect width='100%%' height='100%%' fill='white'/>\n");
    for (i = 0; i < n; ++i) {
        const double edge = 160.0 / (p[i].width > p[i].height ? p[i].width : p[i].height);
        fprintf(f, "<text x='%d' y='16'>%s</text>\n", 10 + i * 170, p[i].title);
        for (y = 0; y < p[i].height; ++y) picture_row(f, &p[i], y, 10 + i * 170, edge);
    }
    fprintf(f, "</svg>\n");
    bad = ferror(f);
    if (fclose(f) || bad) printf("%s could not be written whole\n", path);
    else printf("look at %s\n", path);
    return bad;
}

#endif
