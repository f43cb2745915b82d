/* pretrain_method.c - `bmvp pretrain --method NAME`: the other methods of the paper's tables (examples/methods), with
   the loader, the run loop, the files and the page of the program */
#define _DEFAULT_SOURCE
#include "commands.h"
#include "cli.h"
#include "device.h"
#include "resume.h"
#include "train.h"
#include "data/crops.h"
#include "data/files.h"
#include "report/method_report.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct options {
    const char *data, *out, *method, *network, *set, *device;
    int preset, resume, simd, precision, graph, plan, recompute;
    int64_t crop, batch, epochs, steps, seed, threads, save_every, report_every, stop_after;
    double lr;
} options;

typedef struct session {
    options o;
    const method_row *row;
    const bmvp_method *m;
    rank_group ranks;
    prepared_set data;
    void *config, *was;         /* the method's; with --resume: of the run */
    bmvp_net_config net;
    const bmvp_backend *device; /* NULL: the CPU */
    bmvp_ctx *c;
    bmvp_trainer *trainer;
    crop_loader loader;
    method_item *item;          /* of a step */
    train_loop loop;
    resume_state past;
    run_length length;
    int64_t step, samples;      /* of the run that goes on */
    char *list, *kept;          /* as in pretrain.c */
    char preparation[512];
    bmvp_error err;
} session;

static method_config *common(const session *s) { return (method_config *)s->config; }

/* >>configuration -------------------------------------------------------------------------------------------------- */

typedef struct settings { const bmvp_field *fields; void *config; } settings;
static bmvp_status set_field(void *to, const char *name, const char *value, bmvp_error *err)
{
    return bmvp_field_set(((settings *)to)->fields, ((settings *)to)->config, name, value, err);
}

static const resume_option kept_options[] = { { "precision", 0 }, { NULL, 0 } };

/* What the run was started with. */
static bmvp_status look_back(session *s, const char *path, cli_option *opt, int n_opt)
{
    const options *o = &s->o;
    bmvp_net_config net;
    bmvp_status st = s->row->preset("release", s->was) ? BMVP_OK : BMVP_E_STATE;
    if (!st) st = bmvp_trainer_inspect(path, s->m, &net, s->was, &s->step, &s->samples, &s->err);
    if (st) return st;
    if (cli_given(opt, n_opt, "network") && strcmp(net.name, o->network) != 0)
        return bmvp_error_set(&s->err, BMVP_E_ARG, "%s is a run of %s, not of %s", o->out, net.name, o->network);
    s->net = net;
    if (!cli_given(opt, n_opt, "preset")) memcpy(s->config, s->was, s->m->config_size);
    return resume_options(&s->past, "pretrain", o->out, path, kept_options, opt, n_opt, &s->err);
}

static bmvp_status configure(session *s, cli_option *opt, int n_opt)
{
    static const char *const presets[] = { "release", "paper", "fast" };
    const options *o = &s->o;
    const char *const network = *o->network ? o->network : o->preset == 2 ? s->row->fast : s->row->network;
    char *path = run_file(o->out, "checkpoint.safetensors");
    const int exists = path && file_exists(path);
    settings to;
    bmvp_status st = BMVP_OK;
    (void)s->row->preset(presets[o->preset], s->config);
    if (!bmvp_net_preset(network, &s->net))
        st = bmvp_error_set(&s->err, BMVP_E_ARG, "--network %s: there are %s", network, bmvp_net_preset_names());
    else if (o->resume && !exists)
        st = bmvp_error_set(&s->err, BMVP_E_IO, "%s: nothing to resume; leave out --resume to start a run",
                            path ? path : o->out);
    else if (!o->resume && exists && !o->plan)
        st = bmvp_error_set(&s->err, BMVP_E_ARG,
                            "%s already holds a run: --resume goes on with it, another --out starts a new one", o->out);
    if (!st && o->resume) st = look_back(s, path, opt, n_opt);
    free(path);
    if (cli_given(opt, n_opt, "crop")) common(s)->crop = (int)o->crop;
    if (cli_given(opt, n_opt, "batch")) common(s)->batch = (int)o->batch;
    if (cli_given(opt, n_opt, "epochs")) common(s)->epochs = (int)o->epochs;
    if (cli_given(opt, n_opt, "lr")) common(s)->lr = o->lr;
    if (cli_given(opt, n_opt, "seed")) common(s)->seed = (int)o->seed;
    if (o->recompute) common(s)->recompute = 1;
    to.fields = s->m->fields, to.config = s->config;
    if (!st) st = run_apply_settings(&to, set_field, o->set, &s->err);
    if (!st && o->resume) resume_settings(&s->past, s->m->fields, s->was, s->config);
    return st;
}

static void print_configuration(const session *s)
{
    const char *name, *meaning;
    char value[64];
    int i;
    printf("method   %s: %s, %s\n", s->row->name, s->row->title, s->row->source);
    printf("network  %s\n", s->net.name);
    printf("data     %s: %lld cases, modalities", s->data.data.path, (long long)s->data.data.n);
    for (i = 0; i < s->data.n_modalities; ++i) printf(" %s", s->data.names[i]);
    printf("\npreset   %s\n", common(s)->preset);
    for (i = 0; bmvp_field_get(s->m->fields, s->config, i, &name, &meaning, value, sizeof value); ++i)
        printf("  %-22s %-10s %s\n", name, value, meaning);
    resume_say(&s->past);
}

/* The sampler's part of the settings: which case, modality and crop. */
static bmvp_ssl_config sampling(const session *s)
{
    bmvp_ssl_config k;
    (void)bmvp_ssl_preset("paper", &k);
    k.crop = common(s)->crop;
    k.batch = common(s)->batch;
    k.seed = common(s)->seed;
    return k;
}

/* >>start ---------------------------------------------------------------------------------------------------------- */

/* Of several ranks: what the one with the largest share needs. */
static bmvp_status plan_memory(session *s, const bmvp_config *k)
{
    const int size = s->ranks.launch.size, batch = common(s)->batch;
    const bmvp_ssl_config draw = sampling(s);
    bmvp_memory m;
    bmvp_status st;
    common(s)->batch = (batch + size - 1) / size;
    st = bmvp_trainer_plan(k, s->m, &s->net, s->config, NULL, &m, &s->err);
    common(s)->batch = batch;
    if (st) return st;
    if (ranks_lead(&s->ranks))
        run_print_memory(&m, crop_loader_bytes(&s->data, &draw, size), method_report_bytes(common(s)));
    if (s->o.plan) return BMVP_OK;
    s->c = bmvp_create(k, &s->err);
    if (!s->c) return BMVP_E_OOM;
    st = bmvp_reserve(s->c, m.step_peak);
    return st ? bmvp_error_set(&s->err, st, "%s (the step needs %.2f GB: a smaller --batch, --crop or --network)",
                               bmvp_error_of(s->c)->message, (double)m.step_peak / 1e9) : BMVP_OK;
}

/* Rank 0, or the only one: the folder, the state it starts from, the log. */
static bmvp_status start_lead(session *s)
{
    char *checkpoint = run_file(s->o.out, "checkpoint.safetensors");
    bmvp_status st = s->o.resume ? bmvp_trainer_load(s->trainer, checkpoint, 1, &s->err) : BMVP_OK;
    free(checkpoint);
    return st ? st : run_log(s->o.out, s->trainer->steps, &s->loop.log, &s->loop.before, &s->err);
}

static bmvp_status start(session *s)
{
    const int lead = ranks_lead(&s->ranks);
    const bmvp_ssl_config draw = sampling(s);
    bmvp_status st = lead ? run_open(s->o.out, &s->err) : BMVP_OK;
    read_start at;
    if (st) return st;
    if (train_set_ranks(&s->ranks, s->c, s->device, &s->err)) return s->err.status;
    if (lead) device_print(s->c);
    s->trainer = bmvp_trainer_create(s->c, s->m, &s->net, s->config, NULL, 1);
    if (!s->trainer) return train_failed(s->c, &s->err);
    if (lead) st = start_lead(s);
    if (!st && lead)
        st = resume_cases(&s->past, s->c, s->o.out, &s->data.data, s->o.data, s->o.resume, &s->err);
    if (!st && bmvp_trainer_broadcast(s->trainer)) st = train_failed(s->c, &s->err);
    if (st) return st;
    at.step = s->trainer->steps;
    at.samples = s->trainer->samples;
    return crop_loader_start(&s->loader, &s->data, &draw, s->ranks.launch.rank, s->ranks.launch.size, s->data.grid, at,
                             0, &s->err);
}

/* >>steps ---------------------------------------------------------------------------------------------------------- */

static bmvp_status one_step(void *user, int64_t step, double lr)
{
    session *s = (session *)user;
    const crop_batch *b = crop_loader_get(&s->loader, step, &s->err);
    int count, first, i;
    if (!b) return s->err.status;
    s->trainer->epoch = s->trainer->samples / s->data.data.n;
    count = bmvp_trainer_mine(s->trainer, b->n, &first);
    for (i = 0; i < count; ++i) {
        s->item[i].x = b->item[i].x;
        s->item[i].modality = b->item[i].modality;
        s->item[i].slot = b->item[i].slot;
    }
    return bmvp_trainer_step(s->trainer, s->item, count, lr, NULL) ? train_failed(s->c, &s->err) : BMVP_OK;
}

static void status_words(void *user, int64_t step, bmvp_jw *w, char *words, size_t size)
{
    const session *s = (const session *)user;
    size_t at = 0;
    bmvp_losses l;
    int i;
    (void)w;
    if (bmvp_trainer_losses_of(s->trainer, step, &l)) return;
    for (i = 0; s->m->loss[i] && s->m->loss[1] && at < size; ++i) /* one loss is the total */
        at += (size_t)snprintf(words + at, size - at, "  %s %.4f", s->m->loss[i], l.part[i]);
}

static bmvp_status save(void *user)
{
    session *s = (session *)user;
    char *path = run_file(s->o.out, "checkpoint.safetensors");
    const char *extra[5] = { "preparation", s->preparation, "options", s->kept, NULL };
    bmvp_status st = path ? bmvp_trainer_save(s->trainer, path, 1, extra, &s->err)
                          : bmvp_error_set(&s->err, BMVP_E_OOM, "out of memory");
    free(path);
    return st;
}

static int reads(const void *user, int64_t step)
{
    const session *s = (const session *)user;
    return s->o.report_every > 0 && (step + 1) % s->o.report_every == 0;
}

static bmvp_status report(session *s)
{
    method_page p;
    p.row = s->row;
    p.trainer = s->trainer;
    p.data = &s->data;
    p.out = s->o.out;
    p.total = s->length.total;
    p.seconds = train_seconds(&s->loop);
    return method_report(&p, &s->err);
}
static bmvp_status report_step(void *user, int64_t step)
{
    (void)step;
    return report((session *)user);
}

static bmvp_status train(session *s)
{
    train_loop *t = &s->loop;
    t->command = "pretrain";
    t->out = s->o.out;
    t->ranks = &s->ranks;
    t->trainer = s->trainer;
    t->first = s->trainer->steps;
    t->total = s->length.total;
    t->stop_after = s->o.stop_after;
    t->cases = s->data.data.n;
    t->save_every = s->o.save_every;
    t->ahead = s->device != NULL;
    t->err = &s->err;
    t->user = s;
    t->step = one_step;
    t->reads = reads;
    t->columns = status_words;
    t->after_log = report_step;
    t->save = save;
    return train_run(t);
}

static int give_up(session *s, int code) { return train_give_up(&s->ranks, "pretrain", code, &s->err); }

static int finish(session *s)
{
    const int64_t done = s->trainer->steps;
    bmvp_status st = BMVP_OK;
    if (!ranks_lead(&s->ranks)) return train_exit_code(&s->loop);
    if (s->trainer->since == 0 && done > s->loop.first) st = save(s);
    if (!st) st = report(s);
    if (st) return give_up(s, CLI_FAILED);
    if (done < s->length.total) {
        fprintf(stderr, "\n");
        printf("stopped after step %lld of %lld; go on with: bmvp pretrain --method %s --data %s --out %s --resume\n",
               (long long)done, (long long)s->length.total, s->row->name, s->o.data, s->o.out);
        return train_exit_code(&s->loop);
    }
    printf("done: %s/checkpoint.safetensors, %s/report.html, %s/log.jsonl\n", s->o.out, s->o.out, s->o.out);
    return CLI_DONE;
}

/* The data of the run that goes on are those of its start, or prepared alike. */
static bmvp_status load_data(session *s)
{
    bmvp_status st = BMVP_OK;
    if (!s->o.data && !(s->o.data = s->list = resume_data(s->o.out, &s->err))) return BMVP_E_ARG;
    st = prepared_load(&s->data, s->o.data, &s->err);
    if (!st) st = prepared_settings(&s->data, s->preparation, sizeof s->preparation, &s->err);
    if (st || !s->o.resume) return st;
    return resume_preparation(&s->past, s->o.out, s->data.data.path, s->preparation, &s->err);
}

/* Everything before memory is asked for. */
static bmvp_status prepare(session *s, cli_option *opt, int n_opt)
{
    bmvp_status st;
    s->config = calloc(2, s->m->config_size);
    if (!s->config) return bmvp_error_set(&s->err, BMVP_E_OOM, "out of memory");
    s->was = (char *)s->config + s->m->config_size;
    st = configure(s, opt, n_opt);
    if (!st) st = device_open(s->o.device, s->ranks.launch.local_rank, &s->device, &s->err);
    if (!st) st = load_data(s);
    if (st) return st;
    s->length = resume_length(&s->past, s->config, s->o.steps, cli_given(opt, n_opt, "epochs"), s->data.data.n, s->step,
                              s->samples);
    s->kept = resume_keep(kept_options, opt, n_opt, s->length.samples, s->length.by_steps);
    s->item = (method_item *)calloc((size_t)common(s)->batch, sizeof *s->item);
    if (!s->kept || !s->item) return bmvp_error_set(&s->err, BMVP_E_OOM, "out of memory");
    if (!s->o.plan)
        st = train_compare_ranks(&s->ranks, s->net.name, s->m, s->config, s->data.cases, s->data.data.n,
                                 s->length.total, &s->err);
    if (!st && ranks_lead(&s->ranks)) print_configuration(s);
    return st;
}

static int run(session *s, cli_option *opt, int n_opt)
{
    bmvp_config k = bmvp_config_default();
    bmvp_status st = s->o.plan ? ranks_look(&s->ranks, &s->err) : ranks_open(&s->ranks, &s->err);
    run_ignore_closed_output();
    if (!st) st = prepare(s, opt, n_opt);
    if (st) return give_up(s, st == BMVP_E_ARG ? CLI_USAGE : CLI_FAILED);
    k.threads = s->o.threads > 0 ? (int)s->o.threads : ranks_threads(&s->ranks);
    k.simd = (bmvp_simd)(s->o.simd - 1);
    k.precision = (bmvp_precision)s->o.precision;
    k.graph = s->o.graph;
    k.backend = s->device;
    st = plan_memory(s, &k);
    if (st == BMVP_E_ARG) return give_up(s, CLI_USAGE);
    if (s->o.plan && !st) return CLI_DONE;
    if (!st) st = start(s);
    run_catch_signals();
    if (!st) st = train(s);
    return st ? give_up(s, CLI_FAILED) : finish(s);
}

static void close_session(session *s)
{
    crop_loader_stop(&s->loader);
    if (s->loop.log) fclose(s->loop.log);
    bmvp_trainer_destroy(s->trainer);
    bmvp_destroy(s->c);
    ranks_close(&s->ranks);
    device_close(s->device);
    prepared_free(&s->data);
    resume_free(&s->past);
    free(s->item);
    free(s->config);
    free(s->list);
    free(s->kept);
    free(s);
}

const char *method_of_run(int argc, char **argv)
{
    const char *const out = cli_peek("out", argc, argv);
    char *path = out ? run_file(out, "checkpoint.safetensors") : NULL;
    const bmvp_ckpt_meta *format = NULL;
    const char *name = NULL;
    bmvp_ckpt *f = NULL;
    bmvp_error err;
    int i;
    if (path && file_exists(path) && bmvp_ckpt_open(path, NULL, &f, &err) == BMVP_OK)
        format = bmvp_ckpt_find_meta(f, "", "format");
    for (i = 0; format && method_at(i); ++i)
        if (strcmp(format->value, method_at(i)->method()->format) == 0) name = method_at(i)->name;
    bmvp_ckpt_close(f);
    free(path);
    return name;
}

int command_pretrain_method(const char *method, int argc, char **argv)
{
    session *s;
    options *o;
    int code;
    if (!method_find(method))
        return cli_fail(CLI_USAGE, "pretrain", "--method %s: there are brainmvp %s", method, method_names());
    s = (session *)calloc(1, sizeof *s);
    if (!s) return cli_fail(CLI_FAILED, "pretrain", "out of memory");
    s->row = method_find(method);
    s->m = s->row->method();
    o = &s->o;
    {
        cli_option opt[] = {
            cli_string("method", &o->method, s->row->name, "NAME", s->row->title),
            cli_string("data", &o->data, NULL, "DIR|LIST",
                       "prepared cases: what `bmvp prepare` wrote (required; with --resume: those of the run)"),
            cli_required("out", &o->out, "RUN", "folder of the run: log, checkpoint, report"),
            cli_choice("preset", &o->preset, 0, "release|paper|fast",
                       "which defaults; every field is printed at start. fast: the tiny network, minutes"),
            cli_string("network", &o->network, "", "NAME", "another network than the method's own"),
            cli_int("crop", &o->crop, 96, 16, 1024, "edge of the crop in voxels"),
            cli_int("batch", &o->batch, 1, 1, 256, "cases in a step, of all ranks together"),
            cli_int("epochs", &o->epochs, 100, 1, 1e9, "passes over the cases"),
            cli_int("steps", &o->steps, 0, 0, 1e12, "length of the run in steps instead of epochs"),
            cli_float("lr", &o->lr, 3e-4, 0, 10, "highest learning rate"),
            cli_int("seed", &o->seed, 0, 0, 2147483647, "of every random number"),
            cli_int("threads", &o->threads, 0, 0, 1024,
                    "of each rank; 0: one for each processor; the result does not depend on it"),
            cli_flag("resume", &o->resume, "go on from RUN/checkpoint.safetensors with the settings stored there"),
            cli_flag("recompute", &o->recompute,
                     "less memory, more time: backward computes blocks again; the result does not depend on it"),
            cli_string("set", &o->set, NULL, "NAME=VALUE,..", "any field of the configuration"),
            cli_int("save-every", &o->save_every, 0, 0, 1e12,
                    "steps between checkpoints; 0: every ten minutes and at the end"),
            cli_int("report-every", &o->report_every, 0, 0, 1e12, "steps between reports; 0: at the end"),
            cli_int("stop-after", &o->stop_after, 0, 0, 1e12, "stop after this many steps of the session, resumable"),
            cli_choice("simd", &o->simd, 0, "auto|plain|vector|avx2|avx512", "instruction set"),
            device_option(&o->device),
            precision_option(&o->precision),
            graph_option(&o->graph),
            cli_flag("plan", &o->plan, "print configuration and memory, then stop"),
        };
        const int n_opt = (int)(sizeof opt / sizeof *opt);
        code = cli_parse("pretrain", "Pre-train a network on prepared cases with another method of the paper's tables.",
                         opt, n_opt, argc, argv);
        if (code < 0 && !o->data && !o->resume)
            code = cli_fail(CLI_USAGE, "pretrain", "--data is required (prepared cases: what `bmvp prepare` wrote)");
        if (code < 0) code = run(s, opt, n_opt);
    }
    close_session(s);
    return code;
}
