/* words.c - see words.h */
#include "words.h"
#include "views.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { TRIES = 10000 };

/* >>table ---------------------------------------------------------------------------------------------------------- */

static int64_t scans(const words *w) { return w->cases * w->modalities; }
static int64_t columns(const words *w) { return 1 + w->width; }

static bmvp_ctx *host_of(bmvp_ctx *c)
{
    bmvp_config k = bmvp_config_default();
    bmvp_error err;
    bmvp_ctx *host;
    k.threads = 1;
    host = bmvp_on_host(c) ? c : bmvp_create(&k, &err);
    if (!host) bmvp_fail(c, err.status, "words: %s", err.message);
    return host;
}

void words_begin(words *w, bmvp_ctx *c, const draws *r)
{
    const int64_t rows = scans(w), dim[2] = { rows, columns(w) }, two = 2;
    w->host = host_of(c);
    w->order = (int32_t *)malloc((size_t)w->cases * sizeof *w->order + 1);
    w->table = (float *)calloc((size_t)(rows * dim[1]) + 1, sizeof *w->table);
    w->next = (float *)malloc((size_t)(rows * dim[1]) * sizeof *w->next + 1);
    w->of = (uint64_t *)calloc((size_t)rows + 1, sizeof *w->of);
    if (!w->order || !w->table || !w->next || !w->of || !w->host) {
        bmvp_fail(c, BMVP_E_OOM, "words: no memory for the codes of %lld scans", (long long)rows);
        return;
    }
    r->order(r->user, w->cases, w->order);
    w->known = bmvp_state_add(w->host, &w->list, "known", BMVP_LAYOUT_SAME, 2, dim, 0, BMVP_INIT_ZERO, 0);
    w->until = bmvp_state_add(w->host, &w->list, "until", BMVP_LAYOUT_SAME, 1, &two, 0, BMVP_INIT_ZERO, 0);
    if (bmvp_failed(w->host)) bmvp_fail(c, bmvp_error_of(w->host)->status, "%s", bmvp_error_of(w->host)->message);
}

void words_start(words *w)
{
    bmvp_fill(w->host, w->known, 0);
    bmvp_fill(w->host, w->until, 0);
}

void words_stages(words *w, double first, double second, float until[2])
{
    if (bmvp_read(w->host, w->until, until) != BMVP_OK || until[0] > 0) return;
    until[0] = (float)first, until[1] = (float)(first + second);
    bmvp_write(w->host, w->until, until);
}

void words_free(words *w, bmvp_ctx *c)
{
    free(w->order), free(w->table), free(w->next), free(w->of);
    if (w->host) bmvp_state_list_free(w->host, &w->list);
    if (w->host != c) bmvp_destroy(w->host);
}

typedef struct neighbour { double square; int32_t row; } neighbour;
static int nearer(const void *a, const void *b)
{
    const neighbour *p = (const neighbour *)a, *q = (const neighbour *)b;
    return p->square < q->square ? -1 : p->square > q->square ? 1 : p->row < q->row ? -1 : 1;
}

int words_nearest(int64_t rows, int64_t width, const float *feature, int64_t reference, int32_t *order)
{
    neighbour *all = (neighbour *)malloc((size_t)rows * sizeof *all + 1);
    int64_t i, k;
    for (i = 0; i < rows && all; ++i) {
        all[i].row = (int32_t)i;
        for (all[i].square = 0, k = 0; k < width; ++k) {
            const double d = (double)feature[i * width + k] - (double)feature[reference * width + k];
            all[i].square += d * d;
        }
    }
    if (all) qsort(all, (size_t)rows, sizeof *all, nearer);
    for (i = 0; i < rows && all; ++i) order[i] = all[i].row;
    free(all);
    return all != NULL;
}

/* Codes of a modality's scans in the order of the references, their rows in the table and places in that order */
static int64_t codes_of(const words *w, int64_t modality, float *code, int32_t *row, int32_t *place)
{
    int64_t i, n = 0;
    for (i = 0; i < w->cases; ++i) {
        const int64_t at = w->order[i] * w->modalities + modality;
        const float *own = w->table + at * columns(w);
        if (own[0] == 0) continue;
        memcpy(code + n * w->width, own + 1, (size_t)w->width * sizeof *code);
        row[n] = (int32_t)at, place[n++] = (int32_t)i;
    }
    return n;
}

/* The nearest scans to each word's reference are of the word; a scan that is of none is of that whose it is nearest in
   rank. best: rank x WORDS_MOST + word of each scan, large numbers at first */
static int sort_modality(words *w, int64_t modality, float *code, int32_t *row, int64_t *best)
{
    int32_t *const place = row + w->cases, *const order = place + w->cases;
    const int64_t n = codes_of(w, modality, code, row, place);
    int64_t i, first;
    int k;
    for (k = 0; k < w->n && n > 0; ++k) {
        for (first = 0; first < n && place[first] < k % w->cases; ++first) {}
        if (!words_nearest(n, w->width, code, first % n, order)) return 0;
        for (i = 0; i < n; ++i) {
            const int64_t at = row[order[i]], rank = i * WORDS_MOST + k;
            if (i < w->nearest) w->of[at] |= (uint64_t)1 << k;
            if (rank < best[at]) best[at] = rank;
        }
    }
    for (i = 0; i < n; ++i)
        if (w->of[row[i]] == 0) w->of[row[i]] = (uint64_t)1 << best[row[i]] % WORDS_MOST;
    return 1;
}

/* By the table; 0: no memory */
static int sort(words *w)
{
    float *code = (float *)malloc((size_t)(w->cases * w->width) * sizeof *code + 1);
    int32_t *row = (int32_t *)malloc(3 * (size_t)w->cases * sizeof *row + 1);
    int64_t *best = (int64_t *)malloc((size_t)scans(w) * sizeof *best + 1), i;
    int ok = code && row && best;
    memset(w->of, 0, (size_t)scans(w) * sizeof *w->of);
    for (i = 0; i < scans(w) && ok; ++i) best[i] = INT64_MAX;
    for (i = 0; i < w->modalities && ok; ++i) ok = sort_modality(w, i, code, row, best);
    free(code), free(row), free(best);
    return ok;
}

int words_note(words *w, int64_t n, const float *rows)
{
    const int64_t width = columns(w);
    int64_t i;
    for (i = 0; i < n; ++i) {
        float *to = w->table + (int64_t)rows[i * width] * width;
        memcpy(to, rows + i * width, (size_t)width * sizeof *to);
        to[0] = 1;
    }
    bmvp_write(w->host, w->known, w->table);
    return sort(w);
}

/* n rows of this rank, each the number of a scan and its code, and those of the others go into the table. */
static void gather(bmvp_pass *p, words *w, int64_t n, float *rows)
{
    const int64_t dim[2] = { n, columns(w) };
    bmvp_tensor *own = n > 0 ? bmvp_input(p->c, 2, dim, rows) : NULL, *all = bmvp_pass_rows(p, own, dim[1], NULL);
    if (bmvp_is_plan(p->c) || !all || bmvp_read(p->c, all, rows) != BMVP_OK) return;
    if (!words_note(w, all->dim[0], rows)) bmvp_fail(p->c, BMVP_E_OOM, "words: no memory for their scans");
}

void words_meet(bmvp_pass *p, words *w, coder *k, int64_t crop, int64_t edge)
{
    const method_item *item = (const method_item *)p->items;
    const size_t bytes = (size_t)(scans(w) * columns(w)) * sizeof *w->table;
    const float **region = (const float **)calloc((size_t)p->n + 1, sizeof *region);
    float *rows = (float *)calloc((size_t)(p->n_all * columns(w)) + 1, sizeof *rows);
    const int plan = bmvp_is_plan(p->c);
    double fresh = 0;
    int64_t i, n = 0;
    int ok = region && rows;
    if (ok && !plan && bmvp_read(w->host, w->known, w->next) == BMVP_OK && memcmp(w->next, w->table, bytes) != 0)
        memcpy(w->table, w->next, bytes), ok = sort(w); /* a run that goes on */
    for (i = 0; i < p->n && ok; ++i) {
        const int64_t at = plan ? 0 : item[i].index * w->modalities + item[i].modality;
        if (!plan && w->of[at]) continue;
        rows[n * columns(w)] = (float)at;
        region[n++] = item[i].x;
    }
    fresh = (double)n;
    bmvp_pass_sum(p, &fresh, 1);
    if (ok && fresh > 0) {
        if (n > 0) coder_codes(k, n, region, crop, edge, rows + 1, columns(w));
        gather(p, w, n, rows);
    }
    if (!ok) bmvp_fail(p->c, BMVP_E_OOM, "words: no memory for the codes of %d scans", p->n);
    free((void *)region), free(rows);
}

int words_pick(const draws *r, const words *w, int64_t of_case, int modality)
{
    const uint64_t of = w->of[of_case * w->modalities + modality];
    int64_t n = 0;
    int i, last = 0;
    for (i = 0; i < w->n; ++i) n += (int64_t)(of >> i & 1u);
    n = n > 0 ? r->whole(r->user, 0, n - 1) : -1;
    for (i = 0; i < w->n && n >= 0; ++i)
        if (of >> i & 1u) last = i, --n;
    return last;
}

/* >>crops ---------------------------------------------------------------------------------------------------------- */

static double squared(const int64_t a[3], const int64_t b[3])
{
    double sum = 0;
    int i;
    for (i = 0; i < 3; ++i) sum += (double)((a[i] - b[i]) * (a[i] - b[i]));
    return sum;
}

int words_places(const draws *r, int64_t edge, int64_t to, double apart, int n, int64_t (*place)[3])
{
    const int64_t fifth = edge / 5, low = fifth > to / 2 ? fifth : to / 2;
    const int64_t high = edge - 1 - fifth < edge - to + to / 2 ? edge - 1 - fifth : edge - to + to / 2;
    int i = 0, j, a, tries;
    for (tries = 0; i < n && tries < TRIES && low <= high; ++tries) {
        for (a = 0; a < 3; ++a) place[i][a] = r->whole(r->user, low, high);
        for (j = 0; j < i && squared(place[i], place[j]) >= apart * apart; ++j) {}
        i += j == i;
    }
    return i == n;
}

/* Of 64 voxels the code takes sides of 50 to 80 and moves them by -10 to 9. */
void words_cut(const draws *r, int64_t edge, const float *region, const int64_t place[3], int64_t to, float *out)
{
    const int64_t d[3] = { edge, edge, edge }, cube[3] = { to, to, to };
    int64_t size[3], at[3], side = to, off;
    const int other = r->whole(r->user, 0, 2) > 0;
    int a;
    if (other) side = r->whole(r->user, to * 50 / 64, to * 80 / 64);
    if (side > edge) side = edge;
    for (a = 0; a < 3; ++a) {
        off = other ? r->whole(r->user, -(to * 10 / 64), to * 10 / 64 - 1) : 0;
        at[a] = place[a] - side / 2 + off, size[a] = side;
        at[a] = at[a] < 0 ? 0 : at[a] > edge - side ? edge - side : at[a];
    }
    view_cut(d, region, at, size, cube, out);
}
