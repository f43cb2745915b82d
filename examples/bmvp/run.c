/* run.c - what pretrain and finetune share, see run.h */
#define _DEFAULT_SOURCE
#include "run.h"
#include "cli.h"
#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

/* ---- prepared cases --------------------------------------------------------------------------------------------------- */

static bmvp_status nii_failed(bmvp_error *err, const bmvp_nii_error *e)
{
    return bmvp_error_set(err, BMVP_E_IO, "%s", e->message);
}

/* Grid of one case; every modality must have it. */
static bmvp_status load_grid(bmvp_prepared *p, int64_t i, bmvp_error *err)
{
    const bmvp_case *k = &p->data.item[i];
    const char *first = NULL;
    bmvp_status st = BMVP_OK;
    bmvp_nii_error e;
    bmvp_nii_file f;
    int m, a;
    for (m = 0; m < p->n_modalities && !st; ++m) {
        const char *path = k->image[p->known[m]];
        if (!path) continue;
        p->cases[i].modalities |= 1u << m;
        if (bmvp_nii_open(&f, path, NULL, &e) != BMVP_NII_OK) {
            st = bmvp_error_set(err, BMVP_E_IO, "%s (case '%s'; training reads what `bmvp prepare` writes)", e.message, k->id);
            break;
        }
        for (a = 0; a < 3; ++a) {
            const int64_t n = f.image.dim[2 - a];
            if (!first) p->cases[i].dim[a] = n;
            else if (p->cases[i].dim[a] != n && !st)
                st = bmvp_error_set(err, BMVP_E_SHAPE, "case '%s': %s and %s are on different grids (%lld and %lld voxels along %c)", k->id,
                                    first, path, (long long)p->cases[i].dim[a], (long long)n, "zyx"[a]);
        }
        first = path;
        bmvp_nii_close(&f);
    }
    for (a = 0; a < 3 && !st; ++a)
        if (p->cases[i].dim[a] > p->grid[a]) p->grid[a] = p->cases[i].dim[a];
    return st;
}

bmvp_status bmvp_prepared_load(bmvp_prepared *p, const char *list_or_dir, bmvp_error *err)
{
    bmvp_status st;
    int64_t i;
    int m;
    memset(p, 0, sizeof *p);
    st = bmvp_dataset_load(&p->data, list_or_dir, err);
    if (st) return st;
    for (m = 0; m < BMVP_MODALITIES; ++m)
        if (p->data.modalities >> m & 1u) {
            p->known[p->n_modalities] = m;
            p->names[p->n_modalities++] = bmvp_modality_name(m);
        }
    p->cases = (bmvp_ssl_case *)calloc((size_t)p->data.n, sizeof *p->cases);
    if (!p->cases) st = bmvp_error_set(err, BMVP_E_OOM, "out of memory");
    for (i = 0; i < p->data.n && !st; ++i) st = load_grid(p, i, err);
    if (st) bmvp_prepared_free(p);
    return st;
}

void bmvp_prepared_free(bmvp_prepared *p)
{
    free(p->cases);
    bmvp_dataset_free(&p->data);
    memset(p, 0, sizeof *p);
}

static bmvp_status read_box(const char *path, const int64_t start[3], const int64_t size[3], const int64_t grid[3], float *dst,
                            bmvp_error *err)
{
    bmvp_nii_error e;
    bmvp_nii_file f;
    bmvp_nii_box box;
    bmvp_nii_status st;
    int a, same = 1;
    for (a = 0; a < 3; ++a) {
        box.start[a] = start[2 - a];
        box.end[a] = start[2 - a] + size[2 - a];
    }
    if (bmvp_nii_open(&f, path, NULL, &e) != BMVP_NII_OK) return nii_failed(err, &e);
    for (a = 0; a < 3; ++a) same = same && f.image.dim[a] == grid[2 - a];
    st = same ? bmvp_nii_read_box(dst, &f, &box, 0, &e) : BMVP_NII_OK;
    if (!same)
        bmvp_error_set(err, BMVP_E_SHAPE, "%s has %lldx%lldx%lld voxels, the images of its case %lldx%lldx%lld: both must lie on one grid", path,
                       (long long)f.image.dim[0], (long long)f.image.dim[1], (long long)f.image.dim[2], (long long)grid[2],
                       (long long)grid[1], (long long)grid[0]);
    bmvp_nii_close(&f);
    if (!same) return BMVP_E_SHAPE;
    return st == BMVP_NII_OK ? BMVP_OK : nii_failed(err, &e);
}

bmvp_status bmvp_prepared_crop(const bmvp_prepared *p, int64_t i, int m, const int64_t start[3], const int64_t size[3], float *dst,
                               bmvp_error *err)
{
    return read_box(p->data.item[i].image[p->known[m]], start, size, p->cases[i].dim, dst, err);
}

bmvp_status bmvp_prepared_label(const bmvp_prepared *p, int64_t i, const int64_t start[3], const int64_t size[3], float *dst, bmvp_error *err)
{
    const bmvp_case *k = &p->data.item[i];
    if (!k->label) return bmvp_error_set(err, BMVP_E_ARG, "case '%s' has no label", k->id);
    return read_box(k->label, start, size, p->cases[i].dim, dst, err);
}

bmvp_status bmvp_run_preparation(const bmvp_prepared *p, char *text, size_t size, bmvp_error *err)
{
    const char *list = p->data.path, *slash = strrchr(list, '/');
    char dir[1024], *path, *content;
    bmvp_status st = BMVP_OK;
    size_t n = 0;
    text[0] = 0;
    snprintf(dir, sizeof dir, "%.*s", slash ? (int)(slash - list) : 1, slash ? list : ".");
    path = bmvp_path_join(dir, "prepare.json");
    content = path ? bmvp_cli_read_file(path, &n) : NULL;
    if (content && n >= size) st = bmvp_error_set(err, BMVP_E_FORMAT, "%s: longer than what `bmvp prepare` writes", path);
    else if (content) memcpy(text, content, n + 1);
    free(content);
    free(path);
    return st;
}

/* ---- memory ---------------------------------------------------------------------------------------------------------------- */

void bmvp_run_print_memory(const bmvp_memory *plan, double ahead, double passing)
{
    const double lasting = (double)plan->persistent, step = (double)plan->step_peak, saving = 2 * (double)plan->largest;
    const double rest = bmvp_peak_memory_mb() * 1e6 + (double)plan->records + ahead + (passing > saving ? passing : saving);
    printf("memory   %.1f MB for parameters, templates, gradients and moments, %.1f MB for a step, %.1f MB for the program, crops read ahead, "
           "saving and reports: %.1f MB in all\n", lasting * 1e-6, step * 1e-6, rest * 1e-6, (lasting + step + rest) * 1e-6);
}

/* ---- read ahead ------------------------------------------------------------------------------------------------------------ */

static void *ahead_main(void *arg)
{
    bmvp_ahead *a = (bmvp_ahead *)arg;
    pthread_mutex_lock(&a->lock);
    while (!a->quit) {
        const int64_t step = a->next;
        const int b = (int)(step % 2);
        if (a->ready[b]) {
            pthread_cond_wait(&a->changed, &a->lock);
            continue;
        }
        pthread_mutex_unlock(&a->lock);
        a->status[b] = a->fn(a->user, b, step, &a->err[b]);
        pthread_mutex_lock(&a->lock);
        a->step[b] = step;
        a->ready[b] = 1;
        ++a->next;
        pthread_cond_broadcast(&a->changed);
    }
    pthread_mutex_unlock(&a->lock);
    return NULL;
}

bmvp_status bmvp_ahead_start(bmvp_ahead *a, bmvp_ahead_fn fn, void *user, int64_t first, bmvp_error *err)
{
    memset(a, 0, sizeof *a);
    a->fn = fn;
    a->user = user;
    a->next = first;
    pthread_mutex_init(&a->lock, NULL);
    pthread_cond_init(&a->changed, NULL);
    a->running = pthread_create(&a->thread, NULL, ahead_main, a) == 0;
    if (a->running) return BMVP_OK;
    pthread_mutex_destroy(&a->lock);
    pthread_cond_destroy(&a->changed);
    return bmvp_error_set(err, BMVP_E_OOM, "no thread for reading crops ahead");
}

int bmvp_ahead_get(bmvp_ahead *a, int64_t step, bmvp_error *err)
{
    const int b = (int)(step % 2), before = 1 - b;
    pthread_mutex_lock(&a->lock);
    if (a->ready[before] && a->step[before] == step - 1) a->ready[before] = 0; /* the caller is done with it */
    pthread_cond_broadcast(&a->changed);
    while (!a->ready[b]) pthread_cond_wait(&a->changed, &a->lock);
    pthread_mutex_unlock(&a->lock);
    if (a->status[b] == BMVP_OK && a->step[b] == step) return b;
    if (a->status[b]) bmvp_error_set(err, a->status[b], "%s", a->err[b].message);
    else bmvp_error_set(err, BMVP_E_INTERNAL, "crops of step %lld were read, not of %lld", (long long)a->step[b], (long long)step);
    return -1;
}

void bmvp_ahead_stop(bmvp_ahead *a)
{
    if (!a->running) return;
    pthread_mutex_lock(&a->lock);
    a->quit = 1;
    a->ready[0] = a->ready[1] = 0;
    pthread_cond_broadcast(&a->changed);
    pthread_mutex_unlock(&a->lock);
    pthread_join(a->thread, NULL);
    pthread_mutex_destroy(&a->lock);
    pthread_cond_destroy(&a->changed);
    a->running = 0;
}

/* ---- pre-training's crops --------------------------------------------------------------------------------------------------- */

int bmvp_batch_pass(const bmvp_batch *b, const bmvp_ssl_config *cfg, int from)
{
    int to = from + 1;
    while (to < b->n && b->draw[to].slot / (uint32_t)cfg->batch == b->draw[from].slot / (uint32_t)cfg->batch) ++to;
    return to;
}

/* What draw d takes from its case, into t and its two crops at x. */
static bmvp_status load_item(const bmvp_loader *l, const bmvp_ssl_draw *d, bmvp_ssl_item *t, float *x, bmvp_error *err)
{
    const int64_t crop = l->cfg.crop, size[3] = { crop, crop, crop };
    const bmvp_prepared *p = l->data;
    bmvp_status st;
    memset(t, 0, sizeof *t);
    t->x = x;
    t->modality = d->modality;
    t->slot = d->slot;
    t->weight = d->weight;
    bmvp_template_place(d->crop, p->cases[d->index].dim, l->template_grid, t->template_start);
    st = bmvp_prepared_crop(p, d->index, d->modality, d->crop, size, x, err);
    if (d->other < 0 || st) return st;
    x += crop * crop * crop;
    t->other = x;
    return bmvp_prepared_crop(p, d->index, d->other, d->crop, size, x, err);
}

static bmvp_status load_batch(void *user, int buffer, int64_t step, bmvp_error *err)
{
    bmvp_loader *l = (bmvp_loader *)user;
    bmvp_batch *b = &l->batch[buffer];
    const int64_t voxels = 2 * (int64_t)l->cfg.crop * l->cfg.crop * l->cfg.crop;
    bmvp_status st = BMVP_OK;
    int i, from, to, first, count, at = 0;
    b->n = bmvp_ssl_sample(&l->cfg, l->data->cases, l->data->data.n, l->data->n_modalities, step, l->order, b->draw);
    for (from = 0; from < b->n; from = to) {
        to = bmvp_batch_pass(b, &l->cfg, from);
        count = bmvp_ssl_share(to - from, l->rank, l->size, &first);
        for (i = 0; i < count && !st; ++i, ++at) st = load_item(l, &b->draw[from + first + i], &b->item[at], b->voxels + at * voxels, err);
    }
    return st;
}

/* Of a step: draws of all ranks, and at most so many items of one. */
static size_t loader_items(const bmvp_prepared *data, const bmvp_ssl_config *cfg, int size)
{
    return (size_t)((cfg->batch + size - 1) / size) * (size_t)(cfg->all_modalities ? data->n_modalities : 1);
}

/* Of one of the two buffers. */
static size_t loader_voxels(const bmvp_prepared *data, const bmvp_ssl_config *cfg, int size)
{
    return 2 * loader_items(data, cfg, size) * (size_t)cfg->crop * (size_t)cfg->crop * (size_t)cfg->crop;
}

double bmvp_loader_bytes(const bmvp_prepared *data, const bmvp_ssl_config *cfg, int size)
{
    return 2.0 * (double)loader_voxels(data, cfg, size) * (double)sizeof(float);
}

bmvp_status bmvp_loader_start(bmvp_loader *l, const bmvp_prepared *data, const bmvp_ssl_config *cfg, int rank, int size,
                              const int64_t template_grid[3], int64_t first, bmvp_error *err)
{
    const size_t draws = loader_items(data, cfg, 1), items = loader_items(data, cfg, size), voxels = loader_voxels(data, cfg, size);
    bmvp_status st = BMVP_OK;
    int i, ok = 1;
    memset(l, 0, sizeof *l);
    l->data = data;
    l->cfg = *cfg;
    l->rank = rank;
    l->size = size;
    memcpy(l->template_grid, template_grid, sizeof l->template_grid);
    l->order = (int64_t *)malloc((size_t)data->data.n * sizeof *l->order);
    for (i = 0; i < 2; ++i) {
        l->batch[i].draw = (bmvp_ssl_draw *)calloc(draws, sizeof *l->batch[i].draw);
        l->batch[i].item = (bmvp_ssl_item *)calloc(items, sizeof *l->batch[i].item);
        l->batch[i].voxels = (float *)malloc(voxels * sizeof(float));
        ok = ok && l->batch[i].draw && l->batch[i].item && l->batch[i].voxels;
    }
    if (!ok || !l->order) st = bmvp_error_set(err, BMVP_E_OOM, "no memory for reading crops ahead (%.1f MB)", (double)voxels * 8e-6);
    if (!st) st = bmvp_ahead_start(&l->ahead, load_batch, l, first, err);
    if (st) bmvp_loader_stop(l);
    return st;
}

const bmvp_batch *bmvp_loader_get(bmvp_loader *l, int64_t step, bmvp_error *err)
{
    const int b = bmvp_ahead_get(&l->ahead, step, err);
    return b < 0 ? NULL : &l->batch[b];
}

void bmvp_loader_stop(bmvp_loader *l)
{
    int i;
    bmvp_ahead_stop(&l->ahead);
    free(l->order);
    for (i = 0; i < 2; ++i) {
        free(l->batch[i].draw);
        free(l->batch[i].item);
        free(l->batch[i].voxels);
    }
    memset(l, 0, sizeof *l);
}

/* ---- the folder and the session ---------------------------------------------------------------------------------------- */

volatile sig_atomic_t bmvp_interrupted;
static void on_signal(int sig) { bmvp_interrupted = sig; }

void bmvp_catch_signals(void)
{
    struct sigaction act;
    memset(&act, 0, sizeof act);
    act.sa_handler = on_signal;
    act.sa_flags = (int)SA_RESETHAND;
    sigaction(SIGINT, &act, NULL);
    sigaction(SIGTERM, &act, NULL);
}

double bmvp_peak_memory_mb(void)
{
    struct rusage u;
    return getrusage(RUSAGE_SELF, &u) == 0 ? (double)u.ru_maxrss * 1024e-6 : 0;
}

char *bmvp_run_file(const char *out, const char *name) { return bmvp_path_join(out, name); }

bmvp_status bmvp_run_open(const char *out, bmvp_error *err)
{
    DIR *dir = bmvp_cli_make_dir(out) == 0 ? opendir(out) : NULL;
    struct dirent *e;
    if (!dir) return bmvp_error_set(err, BMVP_E_IO, "--out %s: %s", out, strerror(errno));
    while ((e = readdir(dir)) != NULL) {
        char *path = strstr(e->d_name, ".tmp.") ? bmvp_run_file(out, e->d_name) : NULL;
        if (path) (void)unlink(path);
        free(path);
    }
    closedir(dir);
    return BMVP_OK;
}

static bmvp_status trim_log(const char *path, int64_t first, double *seconds, bmvp_error *err)
{
    bmvp_bytes in, out;
    bmvp_status st;
    char *line, *end;
    bmvp_bytes_init(&in, NULL);
    bmvp_bytes_init(&out, NULL);
    st = bmvp_file_exists(path) ? bmvp_file_read(path, (size_t)1 << 32, &in, err) : BMVP_OK;
    for (line = in.data; !st && line && (end = strchr(line, '\n')) != NULL; line = end + 1) {
        bmvp_json_doc *doc = NULL;
        if (bmvp_json_parse(line, (size_t)(end - line), path, NULL, &doc, NULL) == BMVP_OK &&
            bmvp_json_int(bmvp_json_get(bmvp_json_root(doc), "step"), INT64_MAX) <= first) {
            bmvp_bytes_append(&out, line, (size_t)(end + 1 - line));
            *seconds = bmvp_json_double(bmvp_json_get(bmvp_json_root(doc), "seconds"), *seconds);
        }
        bmvp_json_free(doc);
    }
    if (!st) st = bmvp_file_write(path, out.data ? out.data : "", out.len, NULL, err);
    bmvp_bytes_free(&in);
    bmvp_bytes_free(&out);
    return st;
}

bmvp_status bmvp_run_log(const char *out, int64_t first, FILE **log, double *seconds, bmvp_error *err)
{
    char *path = bmvp_run_file(out, "log.jsonl");
    bmvp_status st = path ? trim_log(path, first, seconds, err) : bmvp_error_set(err, BMVP_E_OOM, "out of memory");
    if (!st && !(*log = fopen(path, "a"))) st = bmvp_error_set(err, BMVP_E_IO, "%s: %s", path, strerror(errno));
    free(path);
    return st;
}

bmvp_status bmvp_run_log_line(FILE *log, const char *out, bmvp_jw *w, bmvp_error *err)
{
    bmvp_status st = bmvp_jw_finish(w, err);
    if (!st && (fwrite(w->out.data, 1, w->out.len, log) != w->out.len || fflush(log) != 0))
        st = bmvp_error_set(err, BMVP_E_IO, "%s/log.jsonl: %s", out, strerror(errno));
    return st;
}

bmvp_status bmvp_apply_settings(void *cfg, bmvp_status (*set)(void *cfg, const char *name, const char *value, bmvp_error *err),
                                const char *text, bmvp_error *err)
{
    char pair[128], *equals;
    while (text && *text) {
        const size_t n = strcspn(text, ",");
        if (n >= sizeof pair) return bmvp_error_set(err, BMVP_E_ARG, "--set: '%s' is too long", text);
        memcpy(pair, text, n);
        pair[n] = 0;
        equals = strchr(pair, '=');
        if (!equals) return bmvp_error_set(err, BMVP_E_ARG, "--set: '%s' must be name=value", pair);
        *equals = 0;
        if (set(cfg, pair, equals + 1, err)) return BMVP_E_ARG;
        text += n + (text[n] == ',');
    }
    return BMVP_OK;
}
