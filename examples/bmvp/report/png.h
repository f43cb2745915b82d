/* png.h - pictures as PNG, as text that a page or an SVG file holds: the one writer of the program and of the lessons

   Needs libdeflate; with BMVP_NIFTI_ZLIB zlib; with BMVP_NIFTI_NO_GZIP, or with PNG_STORED before the include, nothing
   (pictures are then stored, and larger). Functions are static: lessons are one file that one line compiles. */
#ifndef PNG_H_INCLUDED
#define PNG_H_INCLUDED

#include <float.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if defined(BMVP_NIFTI_NO_GZIP) && !defined(PNG_STORED)
#define PNG_STORED
#endif
#if defined(PNG_STORED)
#elif defined(BMVP_NIFTI_ZLIB)
#include <zlib.h>
#else
#include <libdeflate.h>
#endif

static uint32_t png_crc(const unsigned char *p, size_t n)
{
    static const uint32_t table[16] = {  /* the polynomial 0xedb88320 for four bits at a time */
        0x00000000, 0x1db71064, 0x3b6e20c8, 0x26d930ac, 0x76dc4190, 0x6b6b51f4, 0x4db26158, 0x5005713c,
        0xedb88320, 0xf00f9344, 0xd6d6a3e8, 0xcb61b38c, 0x9b64c2b0, 0x86d3d2d4, 0xa00ae278, 0xbdbdf21c };
    uint32_t c = 0xffffffffu;
    size_t i;
    for (i = 0; i < n; i++) {
        c ^= p[i];
        c = c >> 4 ^ table[c & 15];
        c = c >> 4 ^ table[c & 15];
    }
    return ~c;
}

static void png_be32(unsigned char *p, uint32_t v)
{
    p[0] = (unsigned char)(v >> 24);
    p[1] = (unsigned char)(v >> 16);
    p[2] = (unsigned char)(v >> 8);
    p[3] = (unsigned char)v;
}

/* zlib stream of raw[n] into out[cap]; returns its size, 0 on failure. */
#if defined(PNG_STORED)
static size_t png_bound(size_t n)
{
    return n + 5 * (n / 65535 + 1) + 6;
}

static size_t png_pack(const unsigned char *raw, size_t n, unsigned char *out, size_t cap)
{
    uint32_t a = 1, b = 0;
    size_t i, o = 2;
    if (cap < png_bound(n)) return 0;
    out[0] = 0x78;
    out[1] = 0x01;
    for (i = 0; i < n; ) {
        size_t len = n - i < 65535 ? n - i : 65535;
        out[o] = i + len == n;
        out[o + 1] = (unsigned char)(len & 255);
        out[o + 2] = (unsigned char)(len >> 8);
        out[o + 3] = (unsigned char)(~len & 255);
        out[o + 4] = (unsigned char)(~len >> 8 & 255);
        memcpy(out + o + 5, raw + i, len);
        o += 5 + len;
        i += len;
    }
    for (i = 0; i < n; i++) {
        a = (a + raw[i]) % 65521;
        b = (b + a) % 65521;
    }
    png_be32(out + o, b << 16 | a);
    return o + 4;
}
#elif defined(BMVP_NIFTI_ZLIB)
static size_t png_bound(size_t n)
{
    return (size_t)compressBound((uLong)n);
}

static size_t png_pack(const unsigned char *raw, size_t n, unsigned char *out, size_t cap)
{
    uLongf size = (uLongf)cap;
    return compress2(out, &size, raw, (uLong)n, 9) == Z_OK ? (size_t)size : 0;
}
#else
static size_t png_bound(size_t n)
{
    return libdeflate_zlib_compress_bound(NULL, n);
}

static size_t png_pack(const unsigned char *raw, size_t n, unsigned char *out, size_t cap)
{
    struct libdeflate_compressor *c = libdeflate_alloc_compressor(9);
    size_t size = c ? libdeflate_zlib_compress(c, raw, n, out, cap) : 0;
    libdeflate_free_compressor(c);
    return size;
}
#endif

/* One filtered row: Sub (1) where the differences are smaller than the values (smooth pictures), else None (0). */
static void png_row(const unsigned char *row, size_t n, size_t channels, unsigned char *out)
{
    size_t i;
    int64_t plain = 0, sub = 0;
    for (i = 0; i < n; i++) {
        int d = (signed char)(unsigned char)(row[i] - (i < channels ? 0 : row[i - channels]));
        plain += row[i] < 128 ? row[i] : 256 - row[i];
        sub += d < 0 ? -d : d;
    }
    out[0] = sub < plain;
    for (i = 0; i < n; i++) out[i + 1] = (unsigned char)(row[i] - (out[0] && i >= channels ? row[i - channels] : 0));
}

/* Length, name, data (already at p + 8), checksum; returns the place of the next chunk. */
static unsigned char *png_chunk(unsigned char *p, const char *name, size_t n)
{
    png_be32(p, (uint32_t)n);
    memcpy(p + 4, name, 4);
    png_be32(p + 8 + n, png_crc(p + 4, n + 4));
    return p + 12 + n;
}

/* The file, to be freed, and its size; NULL: no memory */
static unsigned char *png_file(const unsigned char *pixels, int width, int height, int channels, size_t *size)
{
    static const unsigned char magic[8] = { 0x89, 'P', 'N', 'G', '\r', '\n', 0x1a, '\n' };
    const size_t row = (size_t)width * (size_t)channels, n = (row + 1) * (size_t)height, room = png_bound(n);
    unsigned char *raw = (unsigned char *)malloc(n), *file = (unsigned char *)calloc(room + 8 + 25 + 12 + 12, 1), *p;
    size_t packed = 0;
    int y;
    for (y = 0; raw && y < height; y++)
        png_row(pixels + (size_t)y * row, row, (size_t)channels, raw + (size_t)y * (row + 1));
    if (raw && file) packed = png_pack(raw, n, file + 8 + 25 + 8, room);
    free(raw);
    if (!packed) {
        free(file);
        return NULL;
    }
    memcpy(file, magic, 8);
    png_be32(file + 16, (uint32_t)width);
    png_be32(file + 20, (uint32_t)height);
    memcpy(file + 24, channels == 3 ? "\10\2\0\0\0" : "\10\0\0\0\0", 5);   /* 8 bits, RGB or grey */
    p = png_chunk(file + 8, "IHDR", 13);
    p = png_chunk(p, "IDAT", packed);
    p = png_chunk(p, "IEND", 0);
    *size = (size_t)(p - file);
    return file;
}

/* "data:image/png;base64,.." of pixels (height, width, channels), sizes 1 to 4096, channels 1 (grey) or 3 (RGB): a text
   to be freed. NULL: no memory */
static char *png_url(const unsigned char *pixels, int width, int height, int channels)
{
    static const char digit[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    static const char head[] = "data:image/png;base64,";
    size_t n = 0, i;
    unsigned char *p = png_file(pixels, width, height, channels, &n);
    char *text = p ? (char *)malloc(sizeof head + (n + 2) / 3 * 4) : NULL, *q = text;
    if (text) {
        memcpy(text, head, sizeof head - 1);
        q += sizeof head - 1;
    }
    for (i = 0; text && i < n; i += 3, q += 4) {
        const size_t left = n - i;
        const unsigned v = (unsigned)p[i] << 16 | (left > 1 ? (unsigned)p[i + 1] << 8 : 0) | (left > 2 ? p[i + 2] : 0u);
        q[0] = digit[v >> 18];
        q[1] = digit[v >> 12 & 63];
        q[2] = left > 1 ? digit[v >> 6 & 63] : '=';
        q[3] = left > 2 ? digit[v & 63] : '=';
    }
    if (text) *q = 0;
    free(p);
    return text;
}

/* Grey values: lo and below 0, hi and above 255, NaN 0. hi <= lo: a step at lo. */
static void png_window(const float *in, int64_t n, double lo, double hi, unsigned char *out)
{
    double gain = hi > lo ? 255.0 / (hi - lo) : DBL_MAX;
    int64_t i;
    for (i = 0; i < n; i++) {
        double v = ((double)in[i] - lo) * gain;
        out[i] = (unsigned char)(v > 0 ? (v < 255 ? v + 0.5 : 255) : 0);   /* NaN is not > 0 */
    }
}

#endif
