/* conv3d_pictures.c - the pictures of conv3d.md: the window, Winograd's four products, and the ladder of its table

   Run: cc -O2 examples/conv3d_pictures.c -o conv3d_pictures && ./conv3d_pictures examples/conv3d.md examples
   You see: three SVG files in the folder named last; tests/program/course.sh compares them with those here. */
#include <stdio.h>
#include <string.h>

static FILE *begin(const char *folder, const char *name, int width, int height)
{
    char path[512];
    FILE *f;
    snprintf(path, sizeof path, "%s/%s.svg", folder, name);
    f = fopen(path, "w");
    if (!f) {
        printf("%s could not be written\n", path);
        return NULL;
    }
    fprintf(f, "<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 %d %d' font-family='sans-serif' font-size='13'>\n",
            width, height);
    fprintf(f, "<rect width='100%%' height='100%%' fill='white'/>\n");
    return f;
}
static int end(FILE *f)
{
    int bad;
    fprintf(f, "</svg>\n");
    bad = ferror(f);
    return fclose(f) || bad;
}
static void text(FILE *f, int x, int y, const char *anchor, const char *words)
{
    fprintf(f, "<text x='%d' y='%d' text-anchor='%s'>%s</text>\n", x, y, anchor, words);
}
static void box(FILE *f, int x, int y, int width, int height, const char *fill)
{
    fprintf(f, "<rect x='%d' y='%d' width='%d' height='%d' fill='%s' stroke='#888'/>\n", x, y, width, height, fill);
}
static void line(FILE *f, int x0, int y0, int x1, int y1, int sign)
{
    fprintf(f, "<line x1='%d' y1='%d' x2='%d' y2='%d' stroke='%s'%s/>\n", x0, y0, x1, y1, sign > 0 ? "#246" : "#c40",
            sign > 0 ? "" : " stroke-dasharray='4 3'");
}

/* A slice with its border of zeros, the window of one output voxel, and that voxel */
static int window(const char *folder)
{
    enum { CELL = 26, N = 6, AT_ROW = 1, AT_COLUMN = 3, RIGHT = 330 };
    FILE *f = begin(folder, "conv3d_window", 510, 270);
    int r, c;
    if (!f) return 1;
    text(f, 16, 22, "start", "x, with a border of zeros");
    text(f, RIGHT, 22, "start", "y");
    for (r = 0; r < N + 2; ++r)
        for (c = 0; c < N + 2; ++c) {
            const int border = r == 0 || c == 0 || r > N || c > N;
            const int below = r >= AT_ROW && r < AT_ROW + 3 && c >= AT_COLUMN && c < AT_COLUMN + 3;
            box(f, 16 + c * CELL, 34 + r * CELL, CELL, CELL, below ? "#8bd" : border ? "#ddd" : "#fff");
            if (border) text(f, 16 + c * CELL + CELL / 2, 34 + r * CELL + 18, "middle", "0");
        }
    for (r = 0; r < N; ++r)
        for (c = 0; c < N; ++c)
            box(f, RIGHT + c * CELL, 60 + r * CELL, CELL, CELL, r == AT_ROW && c == AT_COLUMN ? "#8bd" : "#fff");
    line(f, 16 + (AT_COLUMN + 3) * CELL, 34 + AT_ROW * CELL, RIGHT + AT_COLUMN * CELL, 60 + AT_ROW * CELL, 1);
    line(f, 16 + (AT_COLUMN + 3) * CELL, 34 + (AT_ROW + 3) * CELL, RIGHT + AT_COLUMN * CELL, 60 + (AT_ROW + 1) * CELL,
         1);
    text(f, RIGHT, 60 + N * CELL + 22, "start", "9 taps of 27 in this slice,");
    text(f, RIGHT, 60 + N * CELL + 38, "start", "each a product over channels");
    return end(f);
}

/* F(2, 3): what goes into what; dashed is subtracted */
static int winograd(const char *folder)
{
    static const int data[4][4] = { { 1, 0, -1, 0 }, { 0, 1, 1, 0 }, { 0, -1, 1, 0 }, { 0, 1, 0, -1 } };
    static const int result[2][4] = { { 1, 1, 1, 0 }, { 0, 1, -1, -1 } };
    static const char *const weight[4] = { "g0", "(g0 + g1 + g2) / 2", "(g0 - g1 + g2) / 2", "g2" };
    FILE *f = begin(folder, "conv3d_winograd", 600, 235);
    char name[8];
    int i, k;
    if (!f) return 1;
    for (k = 0; k < 4; ++k)
        for (i = 0; i < 4; ++i)
            if (data[k][i]) line(f, 60, 40 + i * 50, 170, 40 + k * 50, data[k][i]);
    for (k = 0; k < 2; ++k)
        for (i = 0; i < 4; ++i)
            if (result[k][i]) line(f, 430, 40 + i * 50, 530, 65 + k * 100, result[k][i]);
    for (i = 0; i < 4; ++i) {
        snprintf(name, sizeof name, "d%d", i);
        box(f, 16, 25 + i * 50, 44, 30, "#eef");
        text(f, 38, 45 + i * 50, "middle", name);
        text(f, 180, 45 + i * 50, "start", "\303\227");
        box(f, 200, 25 + i * 50, 150, 30, "#fec");
        text(f, 275, 45 + i * 50, "middle", weight[i]);
        line(f, 350, 40 + i * 50, 386, 40 + i * 50, 1);
        snprintf(name, sizeof name, "m%d", i);
        box(f, 386, 25 + i * 50, 44, 30, "#dfd");
        text(f, 408, 45 + i * 50, "middle", name);
    }
    for (k = 0; k < 2; ++k) {
        snprintf(name, sizeof name, "y%d", k);
        box(f, 530, 50 + k * 100, 44, 30, "#8bd");
        text(f, 552, 70 + k * 100, "middle", name);
    }
    text(f, 16, 228, "start", "full lines are added, dashed ones subtracted: four products for two outputs");
    return end(f);
}

/* Bars of the rows "| name | ms |" below the mark in the text */
static int ladder(const char *page, const char *folder)
{
    char row[512], name[64], words[80];
    FILE *in = fopen(page, "r"), *f;
    int n = 0, on = 0;
    double ms;
    if (!in) {
        printf("%s could not be read\n", page);
        return 1;
    }
    f = begin(folder, "conv3d_ladder", 600, 210);
    while (f && n < 6 && fgets(row, sizeof row, in)) {
        if (strncmp(row, "<!-- ladder -->", 15) == 0) on = 1;
        if (!on || sscanf(row, "| %63[^|] | %lf |", name, &ms) != 2) continue;
        name[strcspn(name, "|")] = '\0';
        text(f, 130, 32 + n * 28, "end", name);
        box(f, 140, 16 + n * 28, 1 + (int)(20 * ms), 22, "#8bd");
        snprintf(words, sizeof words, "%.2f ms", ms);
        text(f, 150 + (int)(20 * ms), 32 + n * 28, "start", words);
        ++n;
    }
    fclose(in);
    if (f) text(f, 140, 200, "start", "milliseconds, one core, 16 x 16 x 16 voxels, 16 channels to 16");
    return !f || end(f) || n < 6;
}

int main(int argc, char **argv)
{
    if (argc != 3) {
        printf("conv3d_pictures PAGE.md FOLDER\n");
        return 2;
    }
    return window(argv[2]) || winograd(argv[2]) || ladder(argv[1], argv[2]);
}
