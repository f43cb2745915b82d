/* report.c - see report.h */
#ifndef _POSIX_C_SOURCE
#define _POSIX_C_SOURCE 200809L    /* access */
#endif
#include "bmvp_tensor.h"
#include "bmvp_nn.h"
#include "report.h"

#include <float.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#if defined(BMVP_NIFTI_NO_GZIP)
#elif defined(BMVP_NIFTI_ZLIB)
#include <zlib.h>
#else
#include <libdeflate.h>
#endif

#if defined(__GNUC__)
#define REPORT_PRINTF(f, a) __attribute__((format(printf, f, a)))
#else
#define REPORT_PRINTF(f, a)
#endif

enum { MAX_EDGE = 4096, MAX_PAGE = 1 << 30, MAX_BINS = 600, MAX_TICKS = 16 };

/* >>text ----------------------------------------------------------------------------------------------------------- */

static void text_put(bmvp_bytes *t, const char *s)
{
    bmvp_bytes_append(t, s, strlen(s));
}

/* Markup whose arguments are numbers or our own words: at most 511 bytes. */
REPORT_PRINTF(2, 3)
static void text_format(bmvp_bytes *t, const char *format, ...)
{
    char buf[512];
    va_list ap;
    va_start(ap, format);
    vsnprintf(buf, sizeof buf, format, ap);
    va_end(ap);
    text_put(t, buf);
}

/* Text of the caller, for element content and for attributes in double quotes. */
static void text_escape(bmvp_bytes *t, const char *s)
{
    for (; s && *s; s++) {
        if (*s == '&') text_put(t, "&amp;");
        else if (*s == '<') text_put(t, "&lt;");
        else if (*s == '>') text_put(t, "&gt;");
        else if (*s == '"') text_put(t, "&quot;");
        else bmvp_bytes_append(t, s, 1);
    }
}

static void text_element(bmvp_bytes *t, const char *open, const char *s, const char *close)
{
    text_put(t, open);
    text_escape(t, s);
    text_put(t, close);
}

static void text_base64(bmvp_bytes *t, const unsigned char *p, size_t n)
{
    static const char digit[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    size_t i;
    for (i = 0; i < n; i += 3) {
        size_t left = n - i;
        unsigned v = (unsigned)p[i] << 16 | (left > 1 ? (unsigned)p[i + 1] << 8 : 0) | (left > 2 ? p[i + 2] : 0u);
        char q[4];
        q[0] = digit[v >> 18];
        q[1] = digit[v >> 12 & 63];
        q[2] = left > 1 ? digit[v >> 6 & 63] : '=';
        q[3] = left > 2 ? digit[v & 63] : '=';
        bmvp_bytes_append(t, q, 4);
    }
}

/* >>png ------------------------------------------------------------------------------------------------------------ */

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

/* >>page ----------------------------------------------------------------------------------------------------------- */

static const char *const PAGE_STYLE[] = {
    ":root{--bg:#fff;--fg:#1c2127;--soft:#5a6571;--line:#dfe3e8;--panel:#f6f7f9;--link:#1f62a8;"
    "--c0:#2468b4;--c1:#c8581a;--c2:#2b8a57;--c3:#8650b4;--c4:#a5741a;--c5:#0f8593;--c6:#b93a5f;--c7:#5b6570;"
    "color-scheme:light dark}\n",
    "@media(prefers-color-scheme:dark){:root{--bg:#14171b;--fg:#e4e8ec;--soft:#9aa5b1;--line:#2f363e;--panel:#1c2126;"
    "--link:#7db4ee;--c0:#6aaaf0;--c1:#f0955a;--c2:#63c592;--c3:#bd93e8;--c4:#d9b15a;--c5:#56c3d0;--c6:#ef83a2;"
    "--c7:#9aa5b1}}\n",
    "*{box-sizing:border-box}html{-webkit-text-size-adjust:100%}\n"
    "body{margin:0;background:var(--bg);color:var(--fg);font:15px/1.5 system-ui,-apple-system,'Segoe UI',Roboto,"
    "'Helvetica Neue',Arial,sans-serif}\n"
    "main,body>header,body>footer{max-width:1120px;margin:0 auto;padding:0 20px}\n"
    "body>header{padding-top:28px}body>footer{padding-top:20px;padding-bottom:40px;color:var(--soft);font-size:13px}\n",
    "h1{font-size:26px;line-height:1.2;margin:0 0 8px;letter-spacing:-.01em;overflow-wrap:anywhere}\n"
    "h2{font-size:20px;margin:28px 0 12px;padding-top:14px;border-top:2px solid var(--fg)}\n"
    "h3{font-size:16px;margin:30px 0 6px}p{margin:4px 0 10px;max-width:78ch}.note{color:var(--soft);font-size:13px}\n"
    "nav{font-size:14px}nav div{display:flex;flex-wrap:wrap;gap:2px 16px;padding:2px 0}nav b{font-weight:600}\n"
    "a{color:var(--link);text-decoration:none}a:hover{text-decoration:underline}\n",
    ".tiles{display:flex;flex-wrap:wrap;gap:1px;margin:12px 0;padding:0;"
    "background:var(--line);border:1px solid var(--line);border-radius:8px;overflow:hidden}\n"
    ".tiles div{flex:1 1 140px;background:var(--panel);padding:9px 14px}.tiles dt{color:var(--soft);font-size:12.5px}\n"
    ".tiles dd{margin:0;font-size:19px;font-weight:600;font-variant-numeric:tabular-nums;overflow-wrap:anywhere}\n",
    ".pairs{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,250px),1fr));gap:0 32px;"
    "margin:6px 0 14px;font-size:14px}.pairs div{display:flex;justify-content:space-between;gap:14px;padding:4px 0;"
    "border-bottom:1px solid var(--line)}.pairs dt{color:var(--soft);white-space:nowrap}\n"
    ".pairs dd{margin:0;text-align:right;overflow-wrap:anywhere;font-variant-numeric:tabular-nums}\n"
    ".pairs .wide{grid-column:1/-1;justify-content:flex-start}.pairs .wide dd{text-align:left}\n",
    ".scroll{overflow-x:auto;margin:8px 0 18px}table{border-collapse:collapse;font-size:14px}\n"
    "figcaption,.cap{text-align:left;font-weight:600;font-size:14px;padding:2px 0 4px}\n"
    "table.data th,table.data td{padding:5px 14px 5px 0;text-align:left;border-bottom:1px solid var(--line);"
    "white-space:nowrap}table.data thead th{color:var(--soft);font-weight:500;border-bottom:1px solid var(--soft);"
    "vertical-align:bottom}table.data tbody th{font-weight:500}\n"
    "table.data .num{text-align:right;font-variant-numeric:tabular-nums}\n",
    "table.pics{border-spacing:0}table.pics th{font-weight:400;font-size:12.5px;color:var(--soft);line-height:1.3}\n"
    "table.pics thead th{padding:0 3px 4px;text-align:center;vertical-align:bottom}\n"
    "table.pics tbody th{padding-right:8px;text-align:left;position:sticky;left:0;background:var(--bg)}\n"
    "table.pics td{padding:2px 3px;vertical-align:top;text-align:center}\n"
    "table.pics img{display:block;margin:0 auto;background:#000;border-radius:2px}img.px{image-rendering:pixelated}\n"
    "table.pics small{display:block;color:var(--soft);font-size:11.5px;line-height:1.3;padding-top:1px;"
    "font-variant-numeric:tabular-nums}\n",
    ".plots{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,400px),1fr));gap:14px 28px;"
    "margin:10px 0}\nfigure{margin:0;min-width:0;break-inside:avoid}\n"
    "figure svg{display:block;width:100%;height:auto;touch-action:pan-y}\n"
    ".key{display:flex;flex-wrap:wrap;gap:2px 16px;font-size:13px;color:var(--soft);min-height:20px}\n"
    ".key span::before{content:'';display:inline-block;width:14px;height:3px;border-radius:2px;margin-right:6px;"
    "vertical-align:middle;background:var(--k)}.key.area span::before{width:12px;height:12px}\n"
    ".key b{color:var(--fg);font-weight:500;font-variant-numeric:tabular-nums}\n",
    "svg text{font-size:12px;fill:var(--soft);font-variant-numeric:tabular-nums}svg .grid{stroke:var(--line)}\n"
    "svg .axis{stroke:var(--soft)}svg .band{stroke:none;opacity:.16}svg .raw{fill:none;stroke-width:1;opacity:.38}\n"
    "svg .line{fill:none;stroke-width:2;stroke-linejoin:round;stroke-linecap:round}svg .cross{stroke:var(--soft);"
    "stroke-dasharray:3 3;visibility:hidden}\n"
    "@media(max-width:560px){svg text{font-size:16px}main,body>header,body>footer{padding-left:14px;padding-right:14px}"
    "h1{font-size:22px}.tiles div{flex-basis:104px}.tiles dd{font-size:17px}"
    "table.pics img{max-width:25vw;height:auto}}\n",
    "@media print{:root{--bg:#fff;--fg:#000;--soft:#444;--line:#ccc;--panel:#fff;--c0:#2468b4;--c1:#c8581a;"
    "--c2:#2b8a57;--c3:#8650b4;--c4:#a5741a;--c5:#0f8593;--c6:#b93a5f;--c7:#444;color-scheme:light;"
    "print-color-adjust:exact;-webkit-print-color-adjust:exact}body{font-size:11pt}nav{display:none}"
    "h2,h3,h3+p,.cap,.key{break-after:avoid}"
    ".scroll{overflow:visible;break-inside:avoid}table.pics{zoom:.66}"
    ".plots{grid-template-columns:1fr 1fr}svg text{font-size:14px}}\n"
};

/* Values under the pointer: pixels of the drawn lines turned back into numbers, so no data is kept twice. */
static const char *const PAGE_SCRIPT[] = {
    "function text(k){return k.textContent}\n"
    "document.querySelectorAll('svg.plot').forEach(function(s){\n"
    "var a=s.dataset.axes.split(' ').map(Number),f=s.closest('figure'),key=f.querySelectorAll('.key span b'),\n"
    "at=f.querySelector('.at'),cross=s.querySelector('.cross'),first=[].map.call(key,text),\n"
    "lines=[].map.call(s.querySelectorAll('.line'),function(p){return p.getAttribute('d').slice(1).split('L')\n"
    ".map(function(q){return q.split(',').map(Number)})});\n"
    "function num(v){return Math.abs(v)>=1e5||v&&Math.abs(v)<1e-3?v.toExponential(2):String(+v.toPrecision(4))}\n",
    "function move(e){var b=s.getBoundingClientRect(),v=s.viewBox.baseVal,x=(e.clientX-b.left)*v.width/b.width;\n"
    "x=Math.min(Math.max(x,a[0]),a[1]);cross.setAttribute('d','M'+x+','+a[5]+'V'+a[4]);\n"
    "cross.style.visibility='visible';\n"
    "at.textContent=at.dataset.x+' '+Math.round(a[2]+(x-a[0])/(a[1]-a[0])*(a[3]-a[2]));\n"
    "lines.forEach(function(l,i){var n=l[0];l.forEach(function(q){if(Math.abs(q[0]-x)<Math.abs(n[0]-x))n=q});\n"
    "var t=(n[1]-a[4])/(a[5]-a[4]),y=a[8]?a[6]*Math.pow(a[7]/a[6],t):a[6]+t*(a[7]-a[6]);\n"
    "key[i].textContent=x<l[0][0]-3?'\\u2013':num(y)})}\n",
    "function out(){cross.style.visibility='hidden';at.textContent='';\n"
    "key.forEach(function(k,i){k.textContent=first[i]})}\n"
    "s.addEventListener('pointermove',move);s.addEventListener('pointerdown',move);"
    "s.addEventListener('pointerleave',out)});\n"
};

static const char PART_BEGIN[] = "<!-- bmvp:part ", PART_END[] = "<!-- bmvp:end -->\n";
static const char PAGE_MARK[] = "<meta name=\"generator\" content=\"bmvp report\">";

/* The state of a report: the first error sticks. */
static bmvp_status report_state(report_page *r)
{
    if (r->error.status != BMVP_OK) return r->error.status;
    if (!r->path) return bmvp_error_set(&r->error, BMVP_E_STATE, "report: not open");
    if (r->body.failed || r->old.failed) return bmvp_error_set(&r->error, BMVP_E_OOM, "%s: out of memory", r->path);
    return BMVP_OK;
}

static int part_valid(const char *part)
{
    size_t n = strlen(part);
    return n >= 1 && n < sizeof ((report_page *)0)->part && strspn(part, "abcdefghijklmnopqrstuvwxyz0123456789-") == n;
}

void report_discard(report_page *r)
{
    bmvp_bytes_free(&r->title);
    bmvp_bytes_free(&r->old);
    bmvp_bytes_free(&r->body);
    free(r->path);
    r->path = NULL;
}

/* Title, and the start of the part. An old title is escaped already and is kept so. */
static void open_part(report_page *r, const char *title, const char *label)
{
    const char *a = r->old.data ? strstr(r->old.data, "<h1>") : NULL, *b = a ? strstr(a, "</h1>") : NULL;
    if (!title && b) bmvp_bytes_append(&r->title, a + 4, (size_t)(b - a - 4));
    else text_escape(&r->title, title && title[0] ? title : "BrainMVP");
    text_format(&r->body, "%s%s -->\n<section aria-labelledby=\"%s\">\n", PART_BEGIN, r->part, r->part);
    text_format(&r->body, "<h2 id=\"%s\">", r->part);
    text_escape(&r->body, label);
    text_put(&r->body, "</h2>\n");
    if (r->title.failed) r->body.failed = 1;
}

bmvp_status report_open(report_page *r, const char *path, const char *title, const char *part, const char *label)
{
    size_t n = strlen(path) + 1;
    memset(r, 0, sizeof *r);
    bmvp_bytes_init(&r->title, NULL);
    bmvp_bytes_init(&r->old, NULL);
    bmvp_bytes_init(&r->body, NULL);
    r->path = (char *)malloc(n);
    if (!r->path) return bmvp_error_set(&r->error, BMVP_E_OOM, "%s: out of memory", path);
    memcpy(r->path, path, n);
    if (part_valid(part)) memcpy(r->part, part, strlen(part) + 1);
    else bmvp_error_set(&r->error, BMVP_E_ARG, "%s: part name \"%s\" is not 1 to 31 of a-z, 0-9 and -", path, part);
    if (report_state(r) == BMVP_OK && access(path, F_OK) == 0 &&
        bmvp_file_read(path, MAX_PAGE, &r->old, &r->error) == BMVP_OK && r->old.len && !strstr(r->old.data, PAGE_MARK))
        bmvp_error_set(&r->error, BMVP_E_FORMAT,
                       "%s: is no report page of this program; move it away or choose another name", path);
    if (report_state(r) == BMVP_OK) open_part(r, title, label);
    if (report_state(r) != BMVP_OK) report_discard(r);
    return r->error.status;
}

/* Copies the parts of the old page into out, ours in the place of its old form or at the end. */
static void page_parts(const report_page *r, bmvp_bytes *out)
{
    const char *p = r->old.data ? strstr(r->old.data, PART_BEGIN) : NULL;
    int done = 0;
    while (p) {
        const char *name = p + sizeof PART_BEGIN - 1, *stop = strstr(p, PART_END);
        size_t n = strlen(r->part);
        if (!stop) break;
        stop += sizeof PART_END - 1;
        if (strncmp(name, r->part, n) == 0 && name[n] == ' ') {
            if (!done) bmvp_bytes_append(out, r->body.data, r->body.len);
            done = 1;
        } else {
            bmvp_bytes_append(out, p, (size_t)(stop - p));
        }
        p = strstr(stop, PART_BEGIN);
    }
    if (!done) bmvp_bytes_append(out, r->body.data, r->body.len);
}

/* Links to every heading of the parts, found by the form in which they are written here. */
static void page_contents(bmvp_bytes *out, const char *parts)
{
    const char *p = parts;
    int n = 0;
    text_put(out, "<nav aria-label=\"Contents\">");
    while (p && (p = strstr(p, "<h")) != NULL) {
        const char *id = p + 8, *quote, *stop;
        char level = p[2];
        p += 2;
        if ((level != '2' && level != '3') || strncmp(p + 1, " id=\"", 5) != 0) continue;
        quote = strchr(id, '"');
        stop = quote ? strstr(quote, "</h") : NULL;
        if (!stop) break;
        if (level == '2') text_put(out, n++ ? "</div>\n<div><b>" : "<div><b>");
        text_put(out, "<a href=\"#");
        bmvp_bytes_append(out, id, (size_t)(quote - id));
        text_put(out, "\">");
        bmvp_bytes_append(out, quote + 2, (size_t)(stop - quote - 2));
        text_put(out, level == '2' ? "</a></b>\n" : "</a>\n");
        p = stop;
    }
    text_put(out, n ? "</div></nav>\n" : "</nav>\n");
}

static void page_build(const report_page *r, const bmvp_bytes *parts, bmvp_bytes *page)
{
    size_t i;
    text_put(page, "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
                   "<meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\n");
    text_put(page, PAGE_MARK);
    text_put(page, "\n<title>");
    text_put(page, r->title.data);
    text_put(page, "</title>\n<style>\n");
    for (i = 0; i < sizeof PAGE_STYLE / sizeof PAGE_STYLE[0]; i++) text_put(page, PAGE_STYLE[i]);
    text_put(page, "</style>\n</head>\n<body>\n<header>\n<h1>");
    text_put(page, r->title.data);
    text_put(page, "</h1>\n");
    page_contents(page, parts->data);
    text_put(page, "</header>\n<main>\n");
    bmvp_bytes_append(page, parts->data, parts->len);
    text_put(page, "</main>\n<footer>Written by bmvp. The patient&#8217;s left is on the left of axial and coronal "
                   "pictures; anterior is on the right of sagittal ones.</footer>\n<script>\n");
    for (i = 0; i < sizeof PAGE_SCRIPT / sizeof PAGE_SCRIPT[0]; i++) text_put(page, PAGE_SCRIPT[i]);
    text_put(page, "</script>\n</body>\n</html>\n");
}

bmvp_status report_close(report_page *r)
{
    bmvp_bytes page, parts;
    bmvp_bytes_init(&page, NULL);
    bmvp_bytes_init(&parts, NULL);
    if (r->path) text_put(&r->body, "</section>\n");
    if (r->path) text_put(&r->body, PART_END);
    if (report_state(r) == BMVP_OK) {
        page_parts(r, &parts);
        if (!parts.failed) page_build(r, &parts, &page);
        r->body.failed = page.failed || parts.failed;
    }
    if (report_state(r) == BMVP_OK) bmvp_file_write(r->path, page.data, page.len, NULL, &r->error);
    bmvp_bytes_free(&page);
    bmvp_bytes_free(&parts);
    report_discard(r);
    return r->error.status;
}

bmvp_status report_section(report_page *r, const char *heading, const char *intro)
{
    if (report_state(r) != BMVP_OK) return r->error.status;
    text_format(&r->body, "<h3 id=\"%s-%d\">", r->part, ++r->sections);
    text_escape(&r->body, heading);
    text_put(&r->body, "</h3>\n");
    if (intro) text_element(&r->body, "<p>", intro, "</p>\n");
    return report_state(r);
}

bmvp_status report_note(report_page *r, const char *text)
{
    if (report_state(r) != BMVP_OK) return r->error.status;
    text_element(&r->body, "<p class=\"note\">", text, "</p>\n");
    return report_state(r);
}

/* >>tables --------------------------------------------------------------------------------------------------------- */

static void put_definitions(bmvp_bytes *t, const char *name, const char *const *key, const char *const *value,
                            int n)
{
    int i;
    text_format(t, "<dl class=\"%s\">\n", name);
    for (i = 0; i < n; i++) {
        int wide = value[i] && strlen(value[i]) > 40;   /* a long value gets a line of its own */
        text_element(t, wide ? "<div class=\"wide\"><dt>" : "<div><dt>", key[i], "</dt>");
        text_element(t, "<dd>", value[i], "</dd></div>\n");
    }
    text_put(t, "</dl>\n");
}

bmvp_status report_tiles(report_page *r, const char *const *names, const char *const *values, int n)
{
    if (report_state(r) != BMVP_OK) return r->error.status;
    put_definitions(&r->body, "tiles", names, values, n);
    return report_state(r);
}

bmvp_status report_pairs(report_page *r, const char *caption, const char *const *keys,
                         const char *const *values, int n)
{
    if (report_state(r) != BMVP_OK) return r->error.status;
    if (caption) text_element(&r->body, "<div class=\"cap\">", caption, "</div>\n");
    put_definitions(&r->body, "pairs", keys, values, n);
    return report_state(r);
}

/* Opens a table that scrolls sideways on narrow screens; its caption stays outside, where it can wrap. */
static void put_scroll(report_page *r, const char *kind, const char *caption)
{
    bmvp_bytes *t = &r->body;
    if (caption) {
        text_format(t, "<div class=\"cap\" id=\"%s-cap-%d\">", r->part, ++r->captions);
        text_element(t, "", caption, "</div>\n");
    }
    text_format(t, "<div class=\"scroll\" tabindex=\"0\"><table class=\"%s\"", kind);
    if (caption) text_format(t, " aria-labelledby=\"%s-cap-%d\"", r->part, r->captions);
    text_put(t, ">\n");
}

/* 12, -0.5, 0.78 (with a spread behind it), 95 %, nan: begins like a number and holds no words. */
static int cell_numeric(const char *s)
{
    static const char letters[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    char *end;
    if (strcmp(s, "nan") == 0 || strcmp(s, "inf") == 0) return 1;
    strtod(s, &end);
    return end != s && end[strcspn(end, letters)] == 0;
}

/* A column is numeric when every cell that is not empty is. */
static int column_numeric(const char *const *cell, int rows, int cols, int col)
{
    int i, seen = 0;
    for (i = 0; i < rows; i++) {
        const char *s = cell[(size_t)i * (size_t)cols + (size_t)col];
        if (!s || !*s) continue;
        if (!cell_numeric(s)) return 0;
        seen = 1;
    }
    return seen;
}

bmvp_status report_table(report_page *r, const char *caption, const char *const *head, const char *const *cell,
                         int rows, int cols)
{
    bmvp_bytes *t = &r->body;
    int i, j;
    if (report_state(r) != BMVP_OK) return r->error.status;
    put_scroll(r, "data", caption);
    text_put(t, "<thead><tr>");
    for (j = 0; j < cols; j++) {
        int numeric = j > 0 && column_numeric(cell, rows, cols, j);
        text_element(t, numeric ? "<th scope=\"col\" class=\"num\">" : "<th scope=\"col\">", head[j], "</th>");
    }
    text_put(t, "</tr></thead>\n<tbody>\n");
    for (i = 0; i < rows; i++) {
        text_put(t, "<tr>");
        for (j = 0; j < cols; j++) {
            const char *s = cell[(size_t)i * (size_t)cols + (size_t)j];
            if (j == 0) text_element(t, "<th scope=\"row\">", s, "</th>");
            else text_element(t, column_numeric(cell, rows, cols, j) ? "<td class=\"num\">" : "<td>", s, "</td>");
        }
        text_put(t, "</tr>\n");
    }
    text_put(t, "</tbody></table></div>\n");
    return report_state(r);
}

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

enum { PLOT_W = 520, PLOT_H = 280, PLOT_SMALL = 190, PLOT_LEFT = 58, PLOT_RIGHT = 498, PLOT_TOP = 10, PLOT_FOOT = 44 };

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
            double half = a->hi != 0 ? 0.1 * fabs(a->hi) : 0.5;
            a->lo -= half;
            a->hi += half;
        }
    }
    a->p0 = height - PLOT_FOOT;
    a->p1 = PLOT_TOP;
    if (a->log && a->lo < 1e-12 * a->hi) a->lo = 1e-12 * a->hi;
    if (a->log) axis_log(a);
    else axis_linear(a, p->small ? 3 : 5, 1, 0);
}

static void put_axes(bmvp_bytes *t, const axis *x, const axis *y, const char *x_label)
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
    text_escape(t, x_label);
    if (y->log) text_format(t, "</text><text x=\"%d\" y=\"%.1f\">logarithmic", PLOT_LEFT, y->p0 + 38);
    text_put(t, "</text>\n");
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

static void put_plot(bmvp_bytes *t, const report_plot *p, const char *part, int number, curve *c)
{
    int i, shown = 0, height = p->small ? PLOT_SMALL : PLOT_H;
    axis x, y;
    plot_x_axis(p, &x);
    for (i = 0; i < p->n_series; i++) curve_bin(&p->series[i], x.lo, x.hi, &c[i]);
    plot_y_axis(p, c, &y, height);
    text_element(t, "<figure>\n<figcaption>", p->title, "</figcaption>\n");
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
    put_axes(t, &x, &y, p->x_label);
    text_format(t, "<g clip-path=\"url(#clip-%s-%d)\">\n", part, number);
    for (i = 0; i < p->n_series; i++) put_curve(t, &p->series[i], &c[i], &x, &y);
    text_put(t, "</g><path class=\"cross\"/>");
    if (!shown) text_format(t, "<text x=\"%d\" y=\"%d\">no values yet</text>", PLOT_LEFT + 20, height / 2);
    text_put(t, "</svg>\n</figure>\n");
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
        put_plot(&r->body, &plot[i], r->part, ++r->plots, c);
        free(c);
    }
    text_put(&r->body, "</div>\n");
    return report_state(r);
}

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
    bmvp_bytes png;
    bmvp_status s;
    if (p->grey && !p->rgb) {
        grey = (unsigned char *)malloc(n);
        if (!grey) return BMVP_E_OOM;
        png_window(p->grey, (int64_t)n, lo, hi, grey);
    }
    bmvp_bytes_init(&png, NULL);
    s = png_encode(grey ? grey : p->rgb, p->width, p->height, grey ? 1 : 3, 1, &png);
    text_put(t, "data:image/png;base64,");
    if (s == BMVP_OK) text_base64(t, (const unsigned char *)png.data, png.len);
    bmvp_bytes_free(&png);
    free(grey);
    return s;
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
    text_format(t, "<td><img%s width=\"%.0f\" height=\"%.0f\" alt=\"", scale >= 2 ? " class=\"px\"" : "",
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
    if (report_state(r) != BMVP_OK) return r->error.status;
    scale = grid_scale(g);
    put_scroll(r, "pics", g->caption);
    text_put(t, "<thead><tr><td></td>");
    for (j = 0; j < g->cols; j++) text_element(t, "<th scope=\"col\">", g->col_name[j], "</th>");
    text_put(t, "</tr></thead>\n<tbody>\n");
    for (i = 0; i < g->rows && s == BMVP_OK; i++) {
        text_element(t, "<tr><th scope=\"row\">", g->row_name[i], "</th>\n");
        row_window(g->picture + (int64_t)i * g->cols, g->cols, &lo, &hi);
        for (j = 0; j < g->cols && s == BMVP_OK; j++) s = put_picture(t, g, i, j, scale, lo, hi);
        text_put(t, "</tr>\n");
    }
    text_put(t, "</tbody></table>\n");
    put_legend(t, g);
    text_put(t, "</div>\n");
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

/* >>log ------------------------------------------------------------------------------------------------------------ */

void report_log_free(report_log *log)
{
    int i;
    for (i = 0; log->value && i < log->columns; i++) free(log->value[i]);
    free(log->value);
    memset(log, 0, sizeof *log);
}

static int log_allocate(report_log *log, int columns, size_t lines)
{
    int i;
    if (lines >= SIZE_MAX / sizeof(double)) return -1;
    log->value = (double **)calloc((size_t)columns, sizeof *log->value);
    if (!log->value) return -1;
    log->columns = columns;
    for (i = 0; i < columns; i++) {
        log->value[i] = (double *)malloc((lines + 1) * sizeof(double));
        if (!log->value[i]) return -1;
    }
    return 0;
}

/* BMVP_E_OOM, or BMVP_OK also where the line is skipped. */
static bmvp_status log_line(report_log *log, const char *const *name, const char *line, size_t n)
{
    bmvp_json_doc *doc = NULL;
    const bmvp_json *root;
    bmvp_status s = bmvp_json_parse(line, n, "log", NULL, &doc, NULL);
    double first;
    int i;
    if (s == BMVP_E_OOM) return s;
    root = s == BMVP_OK ? bmvp_json_root(doc) : NULL;
    first = bmvp_json_double(bmvp_json_get(root, name[0]), (double)NAN);
    if (isnan(first)) {
        log->skipped++;
    } else {
        while (log->n > 0 && log->value[0][log->n - 1] >= first) log->n--;
        for (i = 0; i < log->columns; i++)
            log->value[i][log->n] = bmvp_json_double(bmvp_json_get(root, name[i]), (double)NAN);
        log->n++;
    }
    bmvp_json_free(doc);
    return BMVP_OK;
}

bmvp_status report_log_load(const char *path, const char *const *name, int columns, report_log *log,
                            bmvp_error *err)
{
    bmvp_bytes text;
    bmvp_status s;
    const char *p, *end;
    size_t lines = 0;
    memset(log, 0, sizeof *log);
    if (columns < 1) return bmvp_error_set(err, BMVP_E_ARG, "%s: no field asked for", path);
    bmvp_bytes_init(&text, NULL);
    s = bmvp_file_read(path, MAX_PAGE, &text, err);
    if (s == BMVP_OK) {
        end = text.data + text.len;
        for (p = text.data; p && p < end; p++) lines += *p == '\n';
        if (log_allocate(log, columns, lines) != 0) s = BMVP_E_OOM;
        for (p = text.data; s == BMVP_OK && p && p < end; ) {
            const char *stop = (const char *)memchr(p, '\n', (size_t)(end - p));
            if (!stop) stop = end;
            if (stop > p) s = log_line(log, name, p, (size_t)(stop - p));
            p = stop + 1;
        }
        if (s == BMVP_E_OOM) bmvp_error_set(err, s, "%s: out of memory", path);
    }
    if (s != BMVP_OK) report_log_free(log);
    bmvp_bytes_free(&text);
    return s;
}

enum { LOG_STEP, LOG_TOTAL, LOG_CROSS, LOG_TEMPLATE, LOG_CONTRAST, LOG_RATE, LOG_SPEED, LOG_FIELDS };

static report_series log_series(const report_log *log, int field, const char *name, int colour, int exact)
{
    report_series s;
    memset(&s, 0, sizeof s);
    s.name = name;
    s.x = log->value[LOG_STEP];
    s.y = log->value[field];
    s.n = log->n;
    s.colour = colour;
    s.exact = exact;
    return s;
}

static int log_has(const report_log *log, int field)
{
    int64_t i;
    for (i = 0; i < log->n; i++)
        if (isfinite(log->value[field][i])) return 1;
    return 0;
}

bmvp_status report_losses(report_page *r, const char *log_path)
{
    static const char *const field[LOG_FIELDS] = { "step", "loss", "loss_cmr", "loss_md", "loss_cl", "lr",
                                                   "samples_per_s" };
    static const char *const title[4] = { "Reconstruction losses", "Contrastive and total loss", "Learning rate",
                                          "Samples per second" };
    report_log log;
    report_series s[6];
    report_plot plot[4];
    int i, n = 0;
    if (report_state(r) != BMVP_OK) return r->error.status;
    if (report_log_load(log_path, field, LOG_FIELDS, &log, &r->error) != BMVP_OK) return r->error.status;
    s[0] = log_series(&log, LOG_CROSS, "cross-modal", 0, 0);
    s[1] = log_series(&log, LOG_TEMPLATE, "distillation", 1, 0);
    s[2] = log_series(&log, LOG_CONTRAST, "contrast", 2, 0);
    s[3] = log_series(&log, LOG_TOTAL, "total", 3, 0);
    s[4] = log_series(&log, LOG_RATE, "learning rate", 7, 1);
    s[5] = log_series(&log, LOG_SPEED, "samples/s", 5, 0);
    memset(plot, 0, sizeof plot);
    for (i = 0; i < 4; i++) {
        int single = i >= 2, first = single ? i + 2 : 2 * i;
        int a = LOG_STEP, b = LOG_STEP;
        if (i == 0) a = LOG_CROSS, b = LOG_TEMPLATE;
        if (i == 1) a = LOG_CONTRAST, b = LOG_TOTAL;
        if (single) a = b = i == 2 ? LOG_RATE : LOG_SPEED;
        if (!log_has(&log, a) && !log_has(&log, b)) continue;
        plot[n].title = title[i];
        plot[n].x_label = "step";
        plot[n].series = s + first;
        plot[n].n_series = single ? 1 : 2;
        plot[n].scale = single ? REPORT_LINEAR : REPORT_AUTO;
        plot[n++].small = single;
    }
    if (n) report_curves(r, plot, n);
    else report_note(r, "No step has been logged yet.");
    report_log_free(&log);
    return report_state(r);
}
