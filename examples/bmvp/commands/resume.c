/* resume.c - a run that goes on as it was started, see resume.h */
#define _DEFAULT_SOURCE
#include "resume.h"
#include "data/files.h"
#include "data/ledger.h"
#include "data/roles.h"
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void add(resume_state *r, const char *format, ...) BMVP_PRINTF(2, 3);
static void add(resume_state *r, const char *format, ...)
{
    const size_t at = strlen(r->text);
    va_list args;
    va_start(args, format);
    text_say(r->text + at, sizeof r->text - at, format, args);
    va_end(args);
}

void resume_say(const resume_state *r) { fputs(r->text, stdout); }

void resume_free(resume_state *r)
{
    bmvp_json_free(r->doc);
    memset(r, 0, sizeof *r);
}

/* >>options -------------------------------------------------------------------------------------------------------- */

/* "--train train --val val" of 0.1 as the object of today. */
static bmvp_status read_line(const char *line, const char *path, bmvp_json_doc **doc, bmvp_error *err)
{
    char word[2][256];
    int used = 0;
    bmvp_status st;
    bmvp_jw w;
    bmvp_jw_init(&w, 0, NULL);
    bmvp_jw_object(&w, NULL);
    while (sscanf(line, " --%255s %255s%n", word[0], word[1], &used) == 2) {
        bmvp_jw_string(&w, word[0], word[1]);
        line += used;
    }
    bmvp_jw_end(&w);
    st = bmvp_jw_finish(&w, err);
    if (!st) st = bmvp_json_parse(w.out.data, w.out.len, path, NULL, doc, err);
    bmvp_jw_free(&w);
    return st;
}

static bmvp_status take_option(resume_state *r, const char *command, const char *run, const resume_option *t,
                               const cli_option *o, bmvp_error *err)
{
    const char *was = bmvp_json_string(bmvp_json_get(bmvp_json_root(r->doc), t->name), NULL);
    char now[512];
    if (!was) return BMVP_OK;
    cli_text(o, now, sizeof now);
    if (!o->given)
        return !*was || cli_set(command, o, was) < 0
                   ? BMVP_OK
                   : bmvp_error_set(err, BMVP_E_FORMAT, "%s: its --%s '%s' is not known here", run, t->name, was);
    if (strcmp(was, now) == 0) return BMVP_OK;
    if (t->fixed)
        return bmvp_error_set(err, BMVP_E_ARG,
                              "%s was started with --%s %s, not with --%s %s: the same options, or another --out", run,
                              t->name, was, t->name, now);
    add(r, "changed  --%s %s (the run was started %s%s)\n", t->name, now, *was ? "with " : "without it", was);
    return BMVP_OK;
}

bmvp_status resume_options(resume_state *r, const char *command, const char *run, const char *checkpoint,
                           const resume_option *table, cli_option *opt, int n_opt, bmvp_error *err)
{
    bmvp_ckpt *f = NULL;
    bmvp_status st = bmvp_ckpt_open(checkpoint, NULL, &f, err);
    const bmvp_ckpt_meta *m = st ? NULL : bmvp_ckpt_find_meta(f, "", "options");
    const bmvp_ckpt_meta *how = st ? NULL : bmvp_ckpt_find_meta(f, "", "preparation");
    const bmvp_ckpt_meta *by = st ? NULL : bmvp_ckpt_find_meta(f, "", "trained");
    const bmvp_json *root;
    if (by && strlen(by->value) < sizeof r->trained) strcpy(r->trained, by->value);
    if (how && strlen(how->value) < sizeof r->preparation) strcpy(r->preparation, how->value);
    if (m && m->value[0] == '-') st = read_line(m->value, checkpoint, &r->doc, err);
    else if (m) st = bmvp_json_parse(m->value, strlen(m->value), checkpoint, NULL, &r->doc, err);
    bmvp_ckpt_close(f);
    if (st || !r->doc) return st;
    root = bmvp_json_root(r->doc);
    r->planned = bmvp_json_int(bmvp_json_get(root, "samples"), 0);
    r->by_steps = strcmp(bmvp_json_string(bmvp_json_get(root, "by"), ""), "steps") == 0;
    for (; table->name && !st; ++table)
        st = take_option(r, command, run, table, cli_find_option(opt, n_opt, table->name), err);
    return st;
}

char *resume_keep(const resume_option *table, cli_option *opt, int n_opt, int64_t samples, int by_steps)
{
    char text[512], *kept = NULL;
    bmvp_error err;
    bmvp_jw w;
    bmvp_jw_init(&w, 0, NULL);
    bmvp_jw_object(&w, NULL);
    for (; table->name; ++table) {
        cli_text(cli_find_option(opt, n_opt, table->name), text, sizeof text);
        bmvp_jw_string(&w, table->name, text);
    }
    bmvp_jw_int(&w, "samples", samples);
    bmvp_jw_string(&w, "by", by_steps ? "steps" : "epochs");
    bmvp_jw_end(&w);
    if (bmvp_jw_finish(&w, &err) == BMVP_OK) kept = text_copy(w.out.data);
    bmvp_jw_free(&w);
    return kept;
}

/* A list by its name, dataset.json by that of its folder. */
static char *data_name(const char *data)
{
    char *path = realpath(data, NULL), *name = NULL, *base = path ? strrchr(path, '/') : NULL;
    if (base && strcmp(base, "/dataset.json") == 0) {
        *base = 0;
        base = strrchr(path, '/');
    }
    if (path) name = text_copy(base ? base + 1 : path);
    free(path);
    return name;
}

bmvp_status resume_trained(resume_state *r, const char *command, const char *from, const char *data, int64_t cases,
                           int64_t validated, bmvp_error *err)
{
    char *name = data_name(data), by[64];
    bmvp_json_doc *doc = NULL;
    bmvp_status st;
    bmvp_jw w;
    if (!name) return bmvp_error_set(err, BMVP_E_OOM, "out of memory");
    if (r->trained[0] && bmvp_json_parse(r->trained, strlen(r->trained), "trained", NULL, &doc, err) == BMVP_OK)
        from = bmvp_json_string(bmvp_json_get(bmvp_json_root(doc), "from"), NULL);
    else if (from) from = path_base(from);
    snprintf(by, sizeof by, "bmvp %s %d.%d.%d", command, BMVP_SSL_VERSION / 10000, BMVP_SSL_VERSION / 100 % 100,
             BMVP_SSL_VERSION % 100);
    bmvp_jw_init(&w, 0, NULL);
    bmvp_jw_object(&w, NULL);
    bmvp_jw_string(&w, "by", by);
    if (from) bmvp_jw_string(&w, "from", from);
    bmvp_jw_string(&w, "data", name);
    bmvp_jw_int(&w, "cases", cases);
    if (validated >= 0) bmvp_jw_int(&w, "validated_on", validated);
    bmvp_jw_end(&w);
    st = bmvp_jw_finish(&w, err);
    if (!st) snprintf(r->trained, sizeof r->trained, "%s", w.out.len < sizeof r->trained ? w.out.data : "{}");
    bmvp_jw_free(&w);
    bmvp_json_free(doc);
    free(name);
    return st;
}

void resume_settings(resume_state *r, const bmvp_field *fields, const void *was, const void *now)
{
    const char *name, *meaning;
    char before[64], after[64];
    int i;
    for (i = 0; bmvp_field_get(fields, now, i, &name, &meaning, after, sizeof after); ++i) {
        (void)bmvp_field_get(fields, was, i, &name, &meaning, before, sizeof before);
        if (strcmp(before, after) != 0) add(r, "changed  %s %s (the run was at %s)\n", name, after, before);
    }
}

/* >>data ----------------------------------------------------------------------------------------------------------- */

char *resume_data(const char *out, bmvp_error *err)
{
    char *data = NULL;
    ledger l;
    if (ledger_load(&l, out, "cases.json", err)) return NULL;
    if (l.data && *l.data) data = text_copy(l.data);
    else bmvp_error_set(err, BMVP_E_ARG, "%s does not say which data it was started with: --data", out);
    ledger_free(&l);
    return data;
}

typedef struct reading { ledger *l; const dataset *d; } reading;
static void read_task(void *arg, int64_t i, int worker)
{
    const reading *r = (const reading *)arg;
    (void)worker;
    ledger_read_case(r->l, r->d, i);
}

/* Of one kind of difference the first few are named. */
enum { NAMED = 5 };

static void add_missing(resume_state *r, const ledger *of, const ledger *in, const char *what)
{
    int64_t i, n = 0;
    for (i = 0; i < of->n; ++i) n += !ledger_find(in, of->item[i].id);
    if (!n) return;
    add(r, "cases    %lld %s since the run was started:", (long long)n, what);
    for (i = n = 0; i < of->n; ++i) {
        if (ledger_find(in, of->item[i].id)) continue;
        if (n++ < NAMED) add(r, " %s", of->item[i].id);
    }
    add(r, "%s\n", n > NAMED ? " .." : "");
}

static void add_changed(resume_state *r, const ledger *was, const ledger *now)
{
    char text[256];
    int64_t i, n = 0;
    for (i = 0; i < now->n; ++i) {
        const ledger_entry *e = ledger_find(was, now->item[i].id);
        if (!e) continue;
        ledger_difference(e, &now->item[i], text, sizeof text);
        if (*text && n++ < NAMED) add(r, "cases    %s is other than before: %s\n", e->id, text);
    }
    if (n > NAMED) add(r, "cases    .. and %lld more are other than before\n", (long long)(n - NAMED));
}

bmvp_status resume_cases(resume_state *r, bmvp_ctx *c, const char *out, const dataset *d, const char *data, int resume,
                         bmvp_error *err)
{
    ledger was, now;
    reading job;
    bmvp_status st;
    memset(&was, 0, sizeof was);
    memset(&now, 0, sizeof now);
    job.l = &now;
    job.d = d;
    st = resume ? ledger_load(&was, out, "cases.json", err) : BMVP_OK;
    if (!st) st = ledger_begin(&now, d, data, err);
    if (!st) bmvp_parallel(c, d->n, read_task, &job);
    if (!st && was.n) {
        add_missing(r, &now, &was, "new");
        add_missing(r, &was, &now, "gone");
        add_changed(r, &was, &now);
    }
    if (!st) st = ledger_save(&now, out, "cases.json", err);
    ledger_free(&was);
    ledger_free(&now);
    return st;
}

/* "spacing 2 (was 1), low 0 (was 5)" */
static void name_settings(const bmvp_json *was, const bmvp_json *now, char *text, size_t size)
{
    const bmvp_json *m;
    size_t at = 0;
    text[0] = 0;
    for (m = now ? now->first : NULL; m; m = m->next) {
        const bmvp_json *old = bmvp_json_get(was, m->key);
        const double a = bmvp_json_double(m, 0), b = bmvp_json_double(old, 0);
        const int number = m->type == BMVP_JSON_NUMBER && old && old->type == BMVP_JSON_NUMBER;
        if (at >= size || (number && a == b)) continue;
        if (number) at += (size_t)snprintf(text + at, size - at, "%s%s %g (was %g)", at ? ", " : "", m->key, a, b);
        else if (!old || strcmp(bmvp_json_string(m, ""), bmvp_json_string(old, "")) != 0 || m->i != old->i)
            at += (size_t)snprintf(text + at, size - at, "%s%s", at ? ", " : "", m->key);
    }
}

static void join(const char *const *names, int n, char *text, size_t size)
{
    size_t at = 0;
    int i;
    text[0] = 0;
    for (i = 0; i < n && at < size; ++i) at += (size_t)snprintf(text + at, size - at, "%s%s", i ? "," : "", names[i]);
}

bmvp_status resume_modalities(const char *run, const prepared_set *p, int n, const char *const *names, bmvp_error *err)
{
    char was[96], now[96];
    join(names, n, was, sizeof was);
    join(p->names, p->n_modalities, now, sizeof now);
    if (strcmp(was, now) == 0) return BMVP_OK;
    return bmvp_error_set(err, BMVP_E_STATE,
                          "%s was started with the modalities %s, now %s gives %s: the same ones, or another --out",
                          run, was, p->data.path, now);
}

bmvp_status resume_preparation(const resume_state *r, const char *run, const char *data, const char *now,
                               bmvp_error *err)
{
    const char *was = r->preparation;
    bmvp_json_doc *a = NULL, *b = NULL;
    char text[512] = "";
    if (!*was || strcmp(was, now) == 0) return BMVP_OK;
    if (!*now)
        return bmvp_error_set(err, BMVP_E_STATE,
                              "%s was started with prepared cases, but %s does not say how its cases were prepared: "
                              "prepare.json is not beside the list",
                              run, data);
    if (bmvp_json_parse(was, strlen(was), run, NULL, &a, err) == BMVP_OK &&
        bmvp_json_parse(now, strlen(now), data, NULL, &b, err) == BMVP_OK)
        name_settings(bmvp_json_root(a), bmvp_json_root(b), text, sizeof text);
    bmvp_json_free(a);
    bmvp_json_free(b);
    return bmvp_error_set(err, BMVP_E_STATE,
                          "%s was started with cases that were prepared with other settings than those of %s%s%s: "
                          "prepare them as they were, or choose another --out",
                          run, data, *text ? ": " : "", text);
}

/* >>length --------------------------------------------------------------------------------------------------------- */

run_length resume_length(resume_state *r, const void *config, int64_t steps, int epochs_given, int64_t n,
                         int64_t step, int64_t seen)
{
    bmvp_run_config k;
    int64_t left;
    run_length l;
    memcpy(&k, config, sizeof k); /* a config begins with these */
    l.step = step;
    l.seen = seen;
    l.by_steps = steps > 0 || (r->by_steps && !epochs_given);
    if (steps > 0) l.samples = seen + (steps > step ? steps - step : 0) * k.batch;
    else l.samples = l.by_steps ? r->planned : k.epochs * n;
    left = l.samples > seen ? (l.samples - seen + k.batch - 1) / k.batch : 0;
    l.total = step + (left + k.update_every - 1) / k.update_every * k.update_every;
    if (r->planned && r->planned != l.samples)
        add(r, "changed  the run ends after %lld samples (when it was started, after %lld)\n", (long long)l.samples,
            (long long)r->planned);
    return l;
}
