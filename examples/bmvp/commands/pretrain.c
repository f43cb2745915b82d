/* pretrain.c - `bmvp pretrain`: a method on prepared cases, BrainMVP's three tasks or another one */
#define _DEFAULT_SOURCE
#include "commands.h"
#include "pretrain.h"
#include "data/files.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const presets[] = { "paper", "release", "fast" };
static method_config *common(const pretraining *s) { return (method_config *)s->config; }

/* >>configuration -------------------------------------------------------------------------------------------------- */

typedef struct settings { const bmvp_field *fields; void *config; } settings;
static bmvp_status set_field(void *to, const char *name, const char *value, bmvp_error *err)
{
    return bmvp_field_set(((settings *)to)->fields, ((settings *)to)->config, name, value, err);
}

static const resume_option kept_options[] = { { "precision", 0 }, { NULL, 0 } };

/* What the run was started with. */
static bmvp_status look_back(pretraining *s, const char *path, cli_option *opt, int n_opt)
{
    const pretrain_options *o = &s->o;
    bmvp_status st = s->kind->inspect(s, path);
    if (st) return st;
    if (cli_given(opt, n_opt, "network") && strcmp(s->net.name, o->network) != 0)
        return bmvp_error_set(&s->err, BMVP_E_ARG, "%s is a run of %s, not of %s", o->out, s->net.name, o->network);
    if (!cli_given(opt, n_opt, "preset")) memcpy(s->config, s->was, s->m->config_size);
    return resume_options(&s->past, "pretrain", o->out, path, kept_options, opt, n_opt, &s->err);
}

/* An option that is a field of every run, if it is given. */
static bmvp_status set_option(pretraining *s, const cli_option *opt, int n_opt, const char *name, double value)
{
    char text[32];
    snprintf(text, sizeof text, "%.17g", value);
    return cli_given(opt, n_opt, name) ? bmvp_field_set(s->m->fields, s->config, name, text, &s->err) : BMVP_OK;
}

/* What the options and --set say. */
static bmvp_status apply_options(pretraining *s, const cli_option *opt, int n_opt)
{
    const pretrain_options *o = &s->o;
    settings to;
    bmvp_status st = set_option(s, opt, n_opt, "crop", (double)o->crop);
    if (!st) st = set_option(s, opt, n_opt, "batch", (double)o->batch);
    if (!st) st = set_option(s, opt, n_opt, "epochs", (double)o->epochs);
    if (!st) st = set_option(s, opt, n_opt, "lr", o->lr);
    if (!st) st = set_option(s, opt, n_opt, "seed", (double)o->seed);
    if (st) return st;
    to.fields = s->m->fields, to.config = s->config;
    if (o->recompute) common(s)->recompute = 1;
    if (o->all_modalities && bmvp_field_set(s->m->fields, s->config, "all_modalities", "1", &s->err))
        return bmvp_error_set(&s->err, BMVP_E_ARG, "--all-modalities: %s takes one modality of a case", s->row->title);
    return run_apply_settings(&to, set_field, o->set, &s->err);
}

/* Options given on the command line win over the preset (or, with --resume, over the stored run). */
static bmvp_status configure(pretraining *s, cli_option *opt, int n_opt)
{
    const pretrain_options *o = &s->o;
    const char *network = o->preset == 2 && !cli_given(opt, n_opt, "network") ? s->row->fast : o->network;
    char *path = run_file(s->o.out, "checkpoint.safetensors");
    const int exists = path && file_exists(path);
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
    if (!st) st = apply_options(s, opt, n_opt);
    if (!st && o->resume) resume_settings(&s->past, s->m->fields, s->was, s->config);
    return st;
}

static void print_configuration(const pretraining *s)
{
    const char *name, *meaning;
    char value[64];
    int i;
    printf("method   %s: %s, %s\n", s->row->name, s->row->title, s->row->source);
    printf("network  %s\n", s->net.name);
    printf("data     %s: %lld cases, modalities", s->data.data.path, (long long)s->data.data.n);
    for (i = 0; i < s->data.n_modalities; ++i) printf(" %s", s->data.names[i]);
    printf("\n");
    printf("preset   %s\n", common(s)->preset);
    for (i = 0; bmvp_field_get(s->m->fields, s->config, i, &name, &meaning, value, sizeof value); ++i)
        printf("  %-22s %-10s %s\n", name, value, meaning);
}

/* >>start ---------------------------------------------------------------------------------------------------------- */

/* Of several ranks: what the one with the largest share needs. */
static bmvp_status plan_memory(pretraining *s, bmvp_config *k)
{
    const int size = s->ranks.launch.size, batch = common(s)->batch;
    const bmvp_ssl_config draw = s->kind->sampling(s);
    bmvp_memory m;
    bmvp_status st;
    common(s)->batch = (batch + size - 1) / size;
    st = s->kind->plan(s, k, s->config, &m);
    common(s)->batch = batch;
    if (st) return st;
    if (ranks_lead(&s->ranks))
        run_print_memory(&m, crop_loader_bytes(&s->data, &draw, size, s->row->wants), s->kind->report_bytes(s));
    if (s->o.plan) return BMVP_OK;
    s->c = bmvp_create(k, &s->err);
    if (!s->c) return BMVP_E_OOM;
    st = bmvp_reserve(s->c, m.step_peak);
    return st ? bmvp_error_set(&s->err, st, "%s (the step needs %.2f GB: a smaller --batch, --crop or --network)",
                               bmvp_error_of(s->c)->message, (double)m.step_peak / 1e9) : BMVP_OK;
}

/* Rank 0, or the only one: the folder, the state it starts from, the log. */
static bmvp_status start_lead(pretraining *s)
{
    char *checkpoint = run_file(s->o.out, "checkpoint.safetensors");
    bmvp_status st = s->o.resume ? bmvp_trainer_load(s->trainer, checkpoint, 1, &s->err) : BMVP_OK;
    free(checkpoint);
    if (!st) st = resume_cases(&s->past, s->c, s->o.out, &s->data.data, s->o.data, s->o.resume, &s->err);
    if (st) return st;
    resume_say(&s->past);
    st = run_log(s->o.out, s->trainer->steps, &s->loop.log, &s->loop.before, &s->err);
    return st || s->o.resume || !s->kind->fresh ? st : s->kind->fresh(s);
}

static bmvp_status start(pretraining *s)
{
    const int lead = ranks_lead(&s->ranks);
    const bmvp_ssl_config draw = s->kind->sampling(s);
    bmvp_status st = lead ? run_open(s->o.out, s->o.resume, &s->err) : BMVP_OK;
    read_start at;
    if (st) return st;
    if (train_set_ranks(&s->ranks, s->c, s->device, &s->err)) return s->err.status;
    if (lead) device_print(s->c);
    s->trainer = s->kind->create(s);
    if (!s->trainer) return train_failed(s->c, &s->err);
    if (lead) st = start_lead(s);
    if (!st && bmvp_trainer_broadcast(s->trainer)) st = train_failed(s->c, &s->err);
    if (st) return st;
    at.step = s->trainer->steps;
    at.samples = s->trainer->samples;
    return crop_loader_start(&s->loader, &s->data, &draw, s->ranks.launch.rank, s->ranks.launch.size, s->kind->grid(s),
                             at, s->row->wants, &s->err);
}

/* >>steps ---------------------------------------------------------------------------------------------------------- */

/* A device is only given the step. */
static bmvp_status one_step(void *user, int64_t step, double lr)
{
    pretraining *s = (pretraining *)user;
    const crop_batch *b = crop_loader_get(&s->loader, step, &s->err);
    bmvp_status st = BMVP_OK;
    int from, to, first, count, at;
    if (!b) return s->err.status;
    s->trainer->epoch = s->trainer->samples / s->data.data.n;
    for (from = at = 0; from < b->n && !st; from = to, at += count) {
        to = crop_batch_pass(b, &s->loader.cfg, from);
        count = bmvp_trainer_mine(s->trainer, to - from, &first);
        if (to == b->n) bmvp_trainer_last_pass(s->trainer);
        st = s->kind->pass(s, b->item + at, b->draw + from + first, count);
    }
    if (!st) st = bmvp_trainer_update(s->trainer, lr, NULL);
    return st ? train_failed(s->c, &s->err) : BMVP_OK;
}

static void status_words(void *user, int64_t step, bmvp_jw *w, char *words, size_t size)
{
    const pretraining *s = (const pretraining *)user;
    size_t at = 0;
    bmvp_losses l;
    int i;
    if (!s->m->loss[1] || bmvp_trainer_losses_of(s->trainer, step, &l)) return; /* one loss is the total */
    for (i = 0; s->m->loss[i] && at < size; ++i) {
        at += (size_t)snprintf(words + at, size - at, "  %s ", s->m->loss[i]);
        if (at >= size) return;
        if (s->kind == &pretrain_brainmvp && strcmp(s->m->loss[i], "cl") == 0 && l.part[i] == 0) {
            bmvp_jw_bool(w, "no_negatives", 1); /* a pair that is compared with itself alone: exactly 0 */
            at += (size_t)snprintf(words + at, size - at, "0 (one pair: no negatives)");
        } else if (l.part[i] != l.part[i]) at += (size_t)snprintf(words + at, size - at, "-"); /* no case for it */
        else at += (size_t)snprintf(words + at, size - at, "%.4f", l.part[i]);
    }
}

static bmvp_status save(void *user)
{
    pretraining *s = (pretraining *)user;
    char *path = run_file(s->o.out, "checkpoint.safetensors");
    const char *extra[7] = { "preparation", s->preparation, "options", s->kept, "trained", s->past.trained, NULL };
    bmvp_status st = path ? bmvp_trainer_save(s->trainer, path, 1, extra, &s->err)
                          : bmvp_error_set(&s->err, BMVP_E_OOM, "out of memory");
    free(path);
    return st;
}

static int look_is_due(const pretraining *s, int64_t step) { return s->kind->looks && s->kind->looks(s, step + 1); }
static int report_is_due(const pretraining *s, int64_t step)
{
    return s->o.report_every > 0 && (step + 1) % s->o.report_every == 0;
}
static int reads(const void *user, int64_t step)
{
    return look_is_due((const pretraining *)user, step) || report_is_due((const pretraining *)user, step);
}

static bmvp_status look_and_report(void *user, int64_t step)
{
    pretraining *s = (pretraining *)user;
    bmvp_status st = BMVP_OK;
    if (look_is_due(s, step)) st = s->kind->look(s);
    if (st || !report_is_due(s, step)) return st;
    train_tell(&s->loop, "writing report.html");
    st = s->kind->report(s);
    train_tell(&s->loop, NULL);
    return st;
}

static bmvp_status train(pretraining *s)
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
    t->after_log = look_and_report;
    t->save = save;
    return train_run(t);
}

static int give_up(pretraining *s, int code) { return train_give_up(&s->ranks, "pretrain", code, &s->err); }

static int finish(pretraining *s)
{
    const int64_t done = s->trainer->steps;
    bmvp_status st = BMVP_OK;
    if (!ranks_lead(&s->ranks)) return train_exit_code(&s->loop);
    train_tell(&s->loop, "writing the checkpoint");
    if (s->trainer->since == 0 && done > s->loop.first) st = save(s);
    train_tell(&s->loop, "writing report.html");
    if (!st) st = s->kind->report(s);
    train_tell(&s->loop, NULL);
    if (st) return give_up(s, CLI_FAILED);
    if (done < s->length.total) {
        printf("stopped after step %lld of %lld; go on with: bmvp pretrain --out %s --resume\n",
               (long long)done, (long long)s->length.total, s->o.out);
        return train_exit_code(&s->loop);
    }
    printf("done: %s/checkpoint.safetensors, %s/report.html, %s/log.jsonl\n", s->o.out, s->o.out, s->o.out);
    return CLI_DONE;
}

/* The data of the run that goes on are those of its start, or fit it. */
static bmvp_status load_data(pretraining *s)
{
    bmvp_status st = BMVP_OK;
    if (!s->o.data && !(s->o.data = s->list = resume_data(s->o.out, &s->err))) return BMVP_E_ARG;
    st = prepared_load(&s->data, s->o.data, &s->err);
    if (!st && ranks_lead(&s->ranks)) dataset_say(&s->data.data, "pretrain");
    if (!st) st = prepared_settings(&s->data, s->preparation, sizeof s->preparation, &s->err);
    if (st || !s->o.resume) return st;
    if (s->kind->fits) st = s->kind->fits(s);
    return st ? st : resume_preparation(&s->past, s->o.out, s->data.data.path, s->preparation, &s->err);
}

/* Everything before memory is asked for. */
static bmvp_status prepare(pretraining *s, cli_option *opt, int n_opt)
{
    bmvp_status st = configure(s, opt, n_opt);
    if (!st) st = device_open(s->o.device, s->ranks.launch.local_rank, &s->device, &s->err);
    if (!st) st = load_data(s);
    if (st) return st;
    s->length = resume_length(&s->past, s->config, s->o.steps, cli_given(opt, n_opt, "epochs"), s->data.data.n,
                              s->step, s->samples);
    s->kept = resume_keep(kept_options, opt, n_opt, s->length.samples, s->length.by_steps);
    if (!s->kept) return bmvp_error_set(&s->err, BMVP_E_OOM, "out of memory");
    st = resume_trained(&s->past, "pretrain", NULL, s->data.data.path, s->data.data.n, -1, &s->err);
    if (!st && !s->o.plan)
        st = train_compare_ranks(&s->ranks, s->net.name, s->m, s->config, s->data.cases, s->data.data.n,
                                 s->length.total, &s->err);
    if (!st && ranks_lead(&s->ranks)) print_configuration(s);
    return st || !s->kind->learnable ? st : s->kind->learnable(s);
}

static int run(pretraining *s, cli_option *opt, int n_opt)
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

/* >>command -------------------------------------------------------------------------------------------------------- */

const char *pretrain_method_of(const char *path)
{
    const bmvp_ckpt_meta *format = NULL;
    const char *name = NULL;
    bmvp_ckpt *f = NULL;
    bmvp_error err;
    int i;
    if (file_exists(path) && bmvp_ckpt_open(path, NULL, &f, &err) == BMVP_OK)
        format = bmvp_ckpt_find_meta(f, "", "format");
    for (i = 0; format && method_at(i); ++i)
        if (strcmp(format->value, method_at(i)->method()->format) == 0) name = method_at(i)->name;
    bmvp_ckpt_close(f);
    return name;
}

/* The method of the run in --out; NULL: there is none yet. */
static const char *method_of_run(int argc, char **argv)
{
    const char *const out = cli_peek("out", argc, argv);
    char *path = out ? run_file(out, "checkpoint.safetensors") : NULL;
    const char *const name = path ? pretrain_method_of(path) : NULL;
    free(path);
    return name;
}

static bmvp_status session_make(pretraining *s, const method_row *row)
{
    s->row = row;
    s->kind = row == &method_brainmvp ? &pretrain_brainmvp : &pretrain_method;
    s->m = row->method();
    s->own = calloc(1, s->kind->own + 1);
    s->config = calloc(2, s->m->config_size);
    if (!s->own || !s->config) return bmvp_error_set(&s->err, BMVP_E_OOM, "out of memory");
    s->was = (char *)s->config + s->m->config_size;
    (void)row->preset(presets[0], s->config); /* the defaults that --help shows */
    return BMVP_OK;
}

static void session_free(pretraining *s)
{
    crop_loader_stop(&s->loader);
    if (s->loop.log) fclose(s->loop.log);
    if (s->own) s->kind->destroy(s);
    bmvp_destroy(s->c);
    ranks_close(&s->ranks);
    device_close(s->device);
    prepared_free(&s->data);
    resume_free(&s->past);
    free(s->own);
    free(s->config);
    free(s->list);
    free(s->kept);
    free(s);
}

static int parse_and_run(pretraining *s, int argc, char **argv)
{
    pretrain_options *o = &s->o;
    const method_config *k = common(s);
    cli_option opt[] = {
        cli_string("data", &o->data, NULL, "DIR|LIST",
                   "prepared cases: what `bmvp prepare` wrote (required; with --resume: those of the run)"),
        cli_required("out", &o->out, "RUN", "folder of the run: log, checkpoint, report"),
        cli_string("method", &o->method, s->row->name, "NAME", method_names()),
        cli_choice("preset", &o->preset, 0, "paper|release|fast", "which defaults; every field is printed at start"),
        cli_string("network", &o->network, s->row->network, "NAME", bmvp_net_preset_names()),
        cli_int("crop", &o->crop, k->crop, 8, 1024, "edge of the crop, a multiple of 16 (UNET3D: 8)"),
        cli_int("batch", &o->batch, k->batch, 1, 256, "cases in a step, of all ranks together"),
        cli_int("epochs", &o->epochs, k->epochs, 1, 1e9, "passes over the cases"),
        cli_int("steps", &o->steps, 0, 0, 1e12, "length of the run in steps instead of epochs"),
        cli_float("lr", &o->lr, k->lr, 0, 10, "highest learning rate"),
        cli_int("seed", &o->seed, 0, 0, 2147483647, "of every random number"),
        cli_flag("all-modalities", &o->all_modalities,
                 "exact mean over the modalities of a case instead of one drawn (brainmvp)"),
        cli_int("report-every", &o->report_every, 0, 0, 1e12, "steps between reports; 0: at the end"),
        TRAIN_OPTIONS(*o),
    };
    const int n_opt = (int)(sizeof opt / sizeof *opt);
    int code = cli_parse("pretrain", "Pre-train a network on prepared cases, with BrainMVP's tasks or another method.",
                         opt, n_opt, argc, argv);
    if (code < 0 && !o->data && !o->resume)
        code = cli_fail(CLI_USAGE, "pretrain", "--data is required (prepared cases: what `bmvp prepare` wrote)");
    return code < 0 ? run(s, opt, n_opt) : code;
}

/* For scripts that run them all: name, title, paper, network, network of preset fast, with tabs between. */
static int list_methods(void)
{
    int i;
    for (i = 0; method_at(i); ++i)
        printf("%s\t%s\t%s\t%s\t%s\n", method_at(i)->name, method_at(i)->title, method_at(i)->source,
               method_at(i)->network, method_at(i)->fast);
    return CLI_DONE;
}

int command_pretrain(int argc, char **argv)
{
    const char *const given = cli_peek("method", argc, argv), *const found = given ? given : method_of_run(argc, argv);
    const method_row *row = method_find(found ? found : "brainmvp");
    pretraining *s;
    int code;
    if (found && strcmp(found, "list") == 0) return list_methods();
    if (!row) return cli_fail(CLI_USAGE, "pretrain", "--method %s: there are %s", found, method_names());
    s = (pretraining *)calloc(1, sizeof *s);
    if (!s) return cli_fail(CLI_FAILED, "pretrain", "out of memory");
    code = session_make(s, row) ? cli_fail(CLI_FAILED, "pretrain", "%s", s->err.message) : parse_and_run(s, argc, argv);
    session_free(s);
    return code;
}
