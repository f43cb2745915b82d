/* page.c - the page writer: parts, contents, style and tables, see report.h */
#ifndef _POSIX_C_SOURCE
#define _POSIX_C_SOURCE 200809L /* access */
#endif
#include "markup.h"
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* >>text ----------------------------------------------------------------------------------------------------------- */

void text_put(bmvp_bytes *t, const char *s)
{
    bmvp_bytes_append(t, s, strlen(s));
}

void text_format(bmvp_bytes *t, const char *format, ...)
{
    char buf[512];
    va_list ap;
    va_start(ap, format);
    vsnprintf(buf, sizeof buf, format, ap);
    va_end(ap);
    text_put(t, buf);
}

void text_escape(bmvp_bytes *t, const char *s)
{
    for (; s && *s; s++) {
        if (*s == '&') text_put(t, "&amp;");
        else if (*s == '<') text_put(t, "&lt;");
        else if (*s == '>') text_put(t, "&gt;");
        else if (*s == '"') text_put(t, "&quot;");
        else bmvp_bytes_append(t, s, 1);
    }
}

void text_element(bmvp_bytes *t, const char *open, const char *s, const char *close)
{
    text_put(t, open);
    text_escape(t, s);
    text_put(t, close);
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
    "h3{font-size:16px;margin:30px 0 6px}p{margin:4px 0 10px;max-width:78ch}\n"
    ".note,.say{color:var(--soft);font-size:13px}.say{margin:4px 0 14px}\n"
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
    "table.pics .of{display:none}\n"
    "table.pics small{display:block;width:0;min-width:100%;color:var(--soft);font-size:11.5px;line-height:1.3;"
    "padding-top:1px;font-variant-numeric:tabular-nums}\n",
    ".plots{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,400px),1fr));gap:14px 28px;"
    "margin:10px 0}\nfigure{margin:0 0 14px;min-width:0;break-inside:avoid}\n"
    "figure .scroll{margin-bottom:4px}"
    "figure svg{display:block;width:100%;height:auto;touch-action:pan-y}\n"
    ".key{display:flex;flex-wrap:wrap;gap:2px 16px;font-size:13px;color:var(--soft);min-height:20px}\n"
    ".key span::before{content:'';display:inline-block;width:14px;height:3px;border-radius:2px;margin-right:6px;"
    "vertical-align:middle;background:var(--k)}.key.area span::before{width:12px;height:12px}\n"
    ".key b{color:var(--fg);font-weight:500;font-variant-numeric:tabular-nums}\n",
    "svg text{font-size:12px;fill:var(--soft);font-variant-numeric:tabular-nums}svg .grid{stroke:var(--line)}\n"
    "svg .axis{stroke:var(--soft)}svg .band{stroke:none;opacity:.16}svg .raw{fill:none;stroke-width:1;opacity:.38}\n"
    "svg .line{fill:none;stroke-width:2;stroke-linejoin:round;stroke-linecap:round}svg .cross{stroke:var(--soft);"
    "stroke-dasharray:3 3;visibility:hidden}\n"
    /* On a phone nothing is wider than the screen: pictures go on in the next line, each with its column's name. */
    "@media(max-width:560px){svg text{font-size:18px}main,body>header,body>footer{padding-left:14px;padding-right:14px}"
    "h1{font-size:22px}.tiles div{flex-basis:40%}.tiles dd{font-size:15px}table.data{font-size:13px}"
    "table.data th,table.data td{padding-right:10px;white-space:normal}table.pics thead{display:none}"
    "table.pics,table.pics tbody,table.pics tbody th,table.pics td{display:block}"
    "table.pics tr{display:grid;grid-template-columns:repeat(4,minmax(0,1fr));gap:0 6px;margin-bottom:8px}"
    "table.pics.few tr{grid-template-columns:repeat(3,minmax(0,1fr))}table.pics tbody th{grid-column:1/-1}"
    "table.pics td{padding:0 0 4px;display:grid;grid-row:span 3;grid-template-rows:subgrid}"
    "table.pics img{width:100%;height:auto}table.pics .of{display:block;align-self:end;font-size:10.5px}}\n",
    "@media print{:root{--bg:#fff;--fg:#000;--soft:#444;--line:#ccc;--panel:#fff;--c0:#2468b4;--c1:#c8581a;"
    "--c2:#2b8a57;--c3:#8650b4;--c4:#a5741a;--c5:#0f8593;--c6:#b93a5f;--c7:#444;color-scheme:light;"
    "print-color-adjust:exact;-webkit-print-color-adjust:exact}body{font-size:11pt}nav{display:none}"
    "h2,h3,h3+p,.cap,.key,figcaption{break-after:avoid}.say{break-before:avoid}.tiles dd{font-size:12pt}"
    ".scroll{overflow:visible;break-inside:avoid}table.pics{zoom:.66}"
    ".plots{grid-template-columns:1fr 1fr}svg text{font-size:17px}}\n"
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

bmvp_status report_state(report_page *r)
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
    r->intro = intro ? ++r->says : 0;
    if (intro) text_format(&r->body, "<p id=\"%s-say-%d\">", r->part, r->intro);
    if (intro) text_element(&r->body, "", intro, "</p>\n");
    return report_state(r);
}

bmvp_status report_note(report_page *r, const char *text)
{
    if (report_state(r) != BMVP_OK) return r->error.status;
    text_element(&r->body, "<p class=\"note\">", text, "</p>\n");
    return report_state(r);
}

/* >>figures -------------------------------------------------------------------------------------------------------- */

bmvp_status figure_open(report_page *r, const char *title, const char *about)
{
    if (report_state(r) != BMVP_OK) return r->error.status;
    if (!about && !r->intro)
        return bmvp_error_set(&r->error, BMVP_E_ARG, "%s: nothing explains figure \"%s\"", r->path,
                              title ? title : "without title");
    text_format(&r->body, "<figure aria-describedby=\"%s-say-%d\">\n", r->part, about ? ++r->says : r->intro);
    if (title) text_element(&r->body, "<figcaption>", title, "</figcaption>\n");
    return report_state(r);
}

void figure_close(report_page *r, const char *about)
{
    if (about) text_format(&r->body, "<p class=\"say\" id=\"%s-say-%d\">", r->part, r->says);
    if (about) text_element(&r->body, "", about, "</p>\n");
    text_put(&r->body, "</figure>\n");
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

void put_scroll(report_page *r, const char *kind, const char *caption)
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
