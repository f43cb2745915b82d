/* png.c - PNG files, see report.h */
#include "markup.h"
#include <float.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if defined(BMVP_NIFTI_NO_GZIP)
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

static void put_be32(unsigned char *p, uint32_t v)
{
    p[0] = (unsigned char)(v >> 24);
    p[1] = (unsigned char)(v >> 16);
    p[2] = (unsigned char)(v >> 8);
    p[3] = (unsigned char)v;
}

/* zlib stream of raw[n] into out[cap]; returns its size, 0 on failure. */
#if defined(BMVP_NIFTI_NO_GZIP)
static size_t zlib_bound(size_t n)
{
    return n + 5 * (n / 65535 + 1) + 6;
}

static size_t zlib_pack(const unsigned char *raw, size_t n, unsigned char *out, size_t cap)
{
    uint32_t a = 1, b = 0;
    size_t i, o = 2;
    if (cap < zlib_bound(n)) return 0;
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
    put_be32(out + o, b << 16 | a);
    return o + 4;
}
#elif defined(BMVP_NIFTI_ZLIB)
static size_t zlib_bound(size_t n)
{
    return (size_t)compressBound((uLong)n);
}

static size_t zlib_pack(const unsigned char *raw, size_t n, unsigned char *out, size_t cap)
{
    uLongf size = (uLongf)cap;
    return compress2(out, &size, raw, (uLong)n, 9) == Z_OK ? (size_t)size : 0;
}
#else
static size_t zlib_bound(size_t n)
{
    return libdeflate_zlib_compress_bound(NULL, n);
}

static size_t zlib_pack(const unsigned char *raw, size_t n, unsigned char *out, size_t cap)
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

/* All rows, scaled up and filtered: (h scale) x (1 + w scale channels) bytes. */
static unsigned char *png_raw(const unsigned char *pixels, size_t w, size_t h, size_t channels, size_t scale,
                              size_t *size)
{
    size_t stride = w * scale * channels, x, y, k;
    unsigned char *raw = (unsigned char *)malloc((stride + 1) * h * scale);
    unsigned char *line = (unsigned char *)malloc(stride);
    if (!raw || !line) {
        free(raw);
        free(line);
        return NULL;
    }
    for (y = 0; y < h; y++) {
        unsigned char *out = raw + y * scale * (stride + 1);
        for (x = 0; x < w * scale; x++)
            memcpy(line + x * channels, pixels + (y * w + x / scale) * channels, channels);
        png_row(line, stride, channels, out);
        for (k = 1; k < scale; k++) memcpy(out + k * (stride + 1), out, stride + 1);
    }
    free(line);
    *size = (stride + 1) * h * scale;
    return raw;
}

/* Length, name, data (already at p + 8), checksum; returns the place of the next chunk. */
static unsigned char *png_chunk(unsigned char *p, const char *name, size_t n)
{
    put_be32(p, (uint32_t)n);
    memcpy(p + 4, name, 4);
    put_be32(p + 8 + n, png_crc(p + 4, n + 4));
    return p + 12 + n;
}

bmvp_status png_encode(const unsigned char *pixels, int width, int height, int channels, int scale,
                       bmvp_bytes *out)
{
    static const unsigned char magic[8] = { 0x89, 'P', 'N', 'G', '\r', '\n', 0x1a, '\n' };
    size_t n_raw = 0, n_packed, cap;
    unsigned char *raw, *file, *p;
    if (!pixels || width < 1 || width > MAX_EDGE || height < 1 || height > MAX_EDGE || scale < 1 || scale > 16 ||
        (channels != 1 && channels != 3)) return BMVP_E_ARG;
    if ((double)width * height * channels * scale * scale > 1e9) return BMVP_E_ARG;
    raw = png_raw(pixels, (size_t)width, (size_t)height, (size_t)channels, (size_t)scale, &n_raw);
    if (!raw) return BMVP_E_OOM;
    cap = zlib_bound(n_raw);
    file = (unsigned char *)calloc(cap + 8 + 25 + 12 + 12, 1);
    n_packed = file ? zlib_pack(raw, n_raw, file + 8 + 25 + 8, cap) : 0;
    free(raw);
    if (n_packed == 0) {
        free(file);
        return BMVP_E_OOM;
    }
    memcpy(file, magic, 8);
    put_be32(file + 16, (uint32_t)(width * scale));
    put_be32(file + 20, (uint32_t)(height * scale));
    memcpy(file + 24, channels == 3 ? "\10\2\0\0\0" : "\10\0\0\0\0", 5);   /* 8 bits, RGB or grey */
    p = png_chunk(file + 8, "IHDR", 13);
    p = png_chunk(p, "IDAT", n_packed);
    p = png_chunk(p, "IEND", 0);
    bmvp_bytes_append(out, file, (size_t)(p - file));
    free(file);
    return out->failed ? BMVP_E_OOM : BMVP_OK;
}

bmvp_status png_save(const char *path, const unsigned char *pixels, int width, int height, int channels, int scale,
                     bmvp_error *err)
{
    bmvp_bytes png;
    bmvp_status s;
    bmvp_bytes_init(&png, NULL);
    s = png_encode(pixels, width, height, channels, scale, &png);
    if (s != BMVP_OK)
        bmvp_error_set(err, s, "%s: %s for a picture of %d x %d pixels, %d channels, scale %d", path,
                       bmvp_status_text(s), width, height, channels, scale);
    else
        s = bmvp_file_write(path, png.data, png.len, NULL, err);
    bmvp_bytes_free(&png);
    return s;
}

void png_window(const float *in, int64_t n, double lo, double hi, unsigned char *out)
{
    double gain = hi > lo ? 255.0 / (hi - lo) : DBL_MAX;
    int64_t i;
    for (i = 0; i < n; i++) {
        double v = ((double)in[i] - lo) * gain;
        out[i] = (unsigned char)(v > 0 ? (v < 255 ? v + 0.5 : 255) : 0);   /* NaN is not > 0 */
    }
}
