/* run.c - what pretrain and finetune share, see run.h */
#define _DEFAULT_SOURCE
#include "run.h"
#include "data/files.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

/* >>memory --------------------------------------------------------------------------------------------------------- */

void run_print_memory(const bmvp_memory *plan, double ahead, double passing)
{
    const double lasting = (double)plan->persistent, step = (double)plan->step_peak, saving = 2 * (double)plan->largest;
    const double rest = run_peak_memory_mb() * 1e6 + (double)plan->records + ahead +
                        (passing > saving ? passing : saving);
    printf("memory   %.1f MB for parameters, templates, gradients and moments, %.1f MB for a step, %.1f MB for the "
           "program, crops read ahead, "
           "saving and reports: %.1f MB in all\n",
           lasting * 1e-6, step * 1e-6, rest * 1e-6, (lasting + step + rest) * 1e-6);
}

/* >>checkpoints ---------------------------------------------------------------------------------------------------- */

static int ends_in(const char *text, const char *end)
{
    const size_t n = strlen(text), m = strlen(end);
    return n >= m && strcmp(text + n - m, end) == 0;
}

/* Entry i is the first tensor of another network than the taken one: the same name in another group. */
static int is_twin(const bmvp_ckpt *f, int i, const char *taken, const char *name)
{
    int k;
    if (strcmp(f->entry[i].group, taken) == 0 || strstr(f->entry[i].group, "optim")) return 0;
    if (!ends_in(f->entry[i].name, name)) return 0;
    for (k = 0; k < i; ++k)
        if (strcmp(f->entry[k].group, f->entry[i].group) == 0 && ends_in(f->entry[k].name, name)) return 0;
    return 1;
}

static const char *group_name(const char *group) { return *group ? group : "the root"; }

void run_say_group(const bmvp_ckpt *f, const char *taken)
{
    int i, first, n = 0;
    for (first = 0; first < f->n_entries && strcmp(f->entry[first].group, taken) != 0; ++first) { }
    for (i = 0; i < f->n_entries && first < f->n_entries; ++i) {
        if (!is_twin(f, i, taken, f->entry[first].name)) continue;
        if (n++ == 0) say(stdout, "weights  taken from '%s' of %s; not taken:", group_name(taken), f->path);
        say(stdout, " '%s'", group_name(f->entry[i].group));
    }
    if (n) printf("\n");
}

void run_say_group_of(const char *path)
{
    const char *taken;
    bmvp_error err;
    bmvp_ckpt *f = NULL;
    if (bmvp_ckpt_open(path, NULL, &f, &err) == BMVP_OK && bmvp_state_group(f, &taken, &err) == BMVP_OK)
        run_say_group(f, taken);
    bmvp_ckpt_close(f);
}

/* >>the folder and the session ------------------------------------------------------------------------------------- */

volatile sig_atomic_t run_interrupted;
static void on_signal(int sig) { run_interrupted = sig; }

void run_catch_signals(void)
{
    struct sigaction act;
    memset(&act, 0, sizeof act);
    act.sa_handler = on_signal;
    act.sa_flags = (int)SA_RESETHAND;
    sigaction(SIGINT, &act, NULL);
    sigaction(SIGTERM, &act, NULL);
}

void run_ignore_closed_output(void) { (void)signal(SIGPIPE, SIG_IGN); }

double run_peak_memory_mb(void)
{
#ifdef __APPLE__
    const double unit = 1e-6; /* bytes */
#else
    const double unit = 1024e-6;
#endif
    struct rusage u;
    return getrusage(RUSAGE_SELF, &u) == 0 ? (double)u.ru_maxrss * unit : 0;
}

char *run_file(const char *out, const char *name) { return path_join(out, name); }

static const char *const run_files[] = { "checkpoint.safetensors", "log.jsonl",  "report.html",
                                         "cases.json",             "split.json", "best.safetensors",
                                         "snapshots.safetensors",  NULL };

/* A folder without the lock of a run, and with a file of the name of one: somebody else's. */
static bmvp_status check_foreign(const char *out, bmvp_error *err)
{
    char *lock = run_file(out, ".lock");
    const int known = lock && file_exists(lock);
    bmvp_status st = BMVP_OK;
    size_t i;
    for (i = 1; run_files[i] && !known && !st; ++i) { /* the checkpoint has been looked for */
        char *path = run_file(out, run_files[i]);
        if (!path) st = bmvp_error_set(err, BMVP_E_OOM, "out of memory");
        else if (file_exists(path))
            st = bmvp_error_set(err, BMVP_E_STATE,
                                "%s: no run has written this file, and a new one would overwrite it; choose another "
                                "--out",
                                path);
        free(path);
    }
    free(lock);
    return st;
}

bmvp_status run_open(const char *out, int resume, bmvp_error *err)
{
    bmvp_status st = resume ? BMVP_OK : check_foreign(out, err);
    if (!st) st = folder_take(out, err);
    if (!st) folder_clear(out, run_files);
    return st;
}

static bmvp_status trim_log(const char *path, int64_t first, double *seconds, bmvp_error *err)
{
    bmvp_bytes in, out;
    bmvp_status st;
    char *line, *end;
    bmvp_bytes_init(&in, NULL);
    bmvp_bytes_init(&out, NULL);
    st = file_exists(path) ? bmvp_file_read(path, (size_t)1 << 31, &in, err) : BMVP_OK;
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

bmvp_status run_log(const char *out, int64_t first, FILE **log, double *seconds, bmvp_error *err)
{
    char *path = run_file(out, "log.jsonl");
    bmvp_status st = path ? trim_log(path, first, seconds, err) : bmvp_error_set(err, BMVP_E_OOM, "out of memory");
    if (!st && !(*log = fopen(path, "a"))) st = bmvp_error_set(err, BMVP_E_IO, "%s: %s", path, strerror(errno));
    free(path);
    return st;
}

bmvp_status run_log_line(FILE *log, const char *out, bmvp_jw *w, bmvp_error *err)
{
    bmvp_status st = bmvp_jw_finish(w, err);
    if (!st && (fwrite(w->out.data, 1, w->out.len, log) != w->out.len || fflush(log) != 0))
        st = bmvp_error_set(err, BMVP_E_IO, "%s/log.jsonl: %s", out, strerror(errno));
    return st;
}

bmvp_status run_apply_settings(void *cfg,
                               bmvp_status (*set)(void *cfg, const char *name, const char *value, bmvp_error *err),
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
