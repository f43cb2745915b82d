/* pretrain.c - `bmvp pretrain`: the three tasks of BrainMVP on prepared cases */
#define _DEFAULT_SOURCE
#include "commands.h"
#include "cli.h"
#include "device.h"
#include "learnable.h"
#include "resume.h"
#include "train.h"
#include "data/crops.h"
#include "data/files.h"
#include "report/pretrain_report.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct options {
    const char *data, *out, *network, *set, *device;
    int preset, resume, all_modalities, simd, precision, graph, plan, recompute;
    int64_t crop, batch, epochs, steps, seed, threads, save_every, report_every, stop_after;
    double lr;
} options;

typedef struct session { /* what one call of the command holds */
    options o;
    rank_group ranks;
    prepared_set data;
    bmvp_ssl_config cfg;
    bmvp_net_config net;
    const bmvp_backend *device; /* NULL: the CPU */
    bmvp_ctx *c;
    bmvp_ssl *ssl;
    crop_loader loader;
    train_loop loop;
    resume_state past;
    bmvp_ssl_info was;          /* with --resume: what its checkpoint says */
    run_length length;
    char *list;                 /* --data of the run that goes on, when it is not given */
    char *kept;                 /* what the checkpoint keeps of the command line */
    char preparation[512]; /* settings of `bmvp prepare`, kept in the checkpoint: templates fit data prepared alike */
    bmvp_error err;
} session;

/* >>configuration -------------------------------------------------------------------------------------------------- */

static bmvp_status set_field(void *cfg, const char *name, const char *value, bmvp_error *err)
{
    return bmvp_ssl_set((bmvp_ssl_config *)cfg, name, value, err);
}

static const resume_option kept_options[] = { { "precision", 0 }, { NULL, 0 } };

/* What the run was started with. */
static bmvp_status look_back(session *s, const char *path, cli_option *opt, int n_opt)
{
    const options *o = &s->o;
    bmvp_status st = bmvp_ssl_inspect(path, &s->was, &s->err);
    if (st) return st;
    if (s->was.net.task != BMVP_TASK_PRETRAIN)
        return bmvp_error_set(
            &s->err, BMVP_E_ARG,
            "%s is a fine-tuned checkpoint, not a pre-training run: `bmvp finetune --resume` goes on with it", path);
    if (cli_given(opt, n_opt, "network") && strcmp(s->was.net.name, o->network) != 0)
        return bmvp_error_set(&s->err, BMVP_E_ARG, "%s is a run of %s, not of %s", o->out, s->was.net.name, o->network);
    s->net = s->was.net;
    if (!cli_given(opt, n_opt, "preset")) s->cfg = s->was.cfg;
    return resume_options(&s->past, "pretrain", o->out, path, kept_options, opt, n_opt, &s->err);
}

/* Options given on the command line win over the preset (or, with --resume, over the stored run). */
static bmvp_status configure(session *s, cli_option *opt, int n_opt)
{
    static const char *const presets[] = { "paper", "release", "fast" };
    const options *o = &s->o;
    char *path = run_file(s->o.out, "checkpoint.safetensors");
    const int exists = path && file_exists(path);
    bmvp_status st = BMVP_OK;
    (void)bmvp_ssl_preset(presets[o->preset], &s->cfg);
    if (!bmvp_net_preset(o->network, &s->net))
        st = bmvp_error_set(&s->err, BMVP_E_ARG, "--network %s: there are %s", o->network, bmvp_net_preset_names());
    else if (o->resume && !exists)
        st = bmvp_error_set(&s->err, BMVP_E_IO, "%s: nothing to resume; leave out --resume to start a run",
                            path ? path : o->out);
    else if (!o->resume && exists && !o->plan)
        st = bmvp_error_set(&s->err, BMVP_E_ARG,
                            "%s already holds a run: --resume goes on with it, another --out starts a new one", o->out);
    if (!st && o->resume) st = look_back(s, path, opt, n_opt);
    free(path);
    if (cli_given(opt, n_opt, "crop")) s->cfg.crop = (int)o->crop;
    if (cli_given(opt, n_opt, "batch")) s->cfg.batch = (int)o->batch;
    if (cli_given(opt, n_opt, "epochs")) s->cfg.epochs = (int)o->epochs;
    if (cli_given(opt, n_opt, "lr")) s->cfg.lr = o->lr;
    if (cli_given(opt, n_opt, "seed")) s->cfg.seed = (int)o->seed;
    if (o->all_modalities) s->cfg.all_modalities = 1;
    if (o->recompute) s->cfg.recompute = 1;
    if (!st) st = run_apply_settings(&s->cfg, set_field, o->set, &s->err);
    if (!st && o->resume) resume_settings(&s->past, bmvp_ssl_method()->fields, &s->was.cfg, &s->cfg);
    return st;
}

static void print_configuration(const session *s)
{
    const char *name, *meaning;
    char value[64];
    int i;
    printf("network  %s\n", s->net.name);
    printf("data     %s: %lld cases, modalities", s->data.data.path, (long long)s->data.data.n);
    for (i = 0; i < s->data.n_modalities; ++i) printf(" %s", s->data.names[i]);
    printf("\n");
    printf("preset   %s\n", s->cfg.preset);
    for (i = 0; bmvp_ssl_field(&s->cfg, i, &name, &meaning, value, sizeof value); ++i)
        printf("  %-22s %-10s %s\n", name, value, meaning);
}

/* >>start ---------------------------------------------------------------------------------------------------------- */

/* Templates start as the mean of up to 32 training volumes each, centred in the grid. */
static bmvp_status mean_templates(session *s)
{
    const prepared_set *p = &s->data;
    bmvp_status st = BMVP_OK;
    int m;
    for (m = 0; m < p->n_modalities && !st; ++m) {
        bmvp_tensor *t = bmvp_ssl_template(s->ssl, m);
        float *sum = (float *)calloc((size_t)t->numel, sizeof *sum);
        int64_t i, z, y, x, used = 0;
        if (!sum) return bmvp_error_set(&s->err, BMVP_E_OOM, "out of memory");
        for (i = 0; i < p->data.n && used < 32 && !st; ++i) {
            static const int64_t origin[3] = { 0, 0, 0 };
            const int64_t *d = p->cases[i].dim, n = d[0] * d[1] * d[2];
            int64_t at[3];
            float *v;
            if (!(p->cases[i].modalities >> m & 1u)) continue;
            v = (float *)malloc((size_t)n * sizeof *v);
            st = v ? prepared_crop(p, i, m, origin, d, v, &s->err)
                   : bmvp_error_set(&s->err, BMVP_E_OOM, "out of memory");
            bmvp_template_place(origin, d, t->dim, at);
            for (z = 0; z < d[0] && !st; ++z)
                for (y = 0; y < d[1]; ++y)
                    for (x = 0; x < d[2]; ++x) {
                        const int64_t a = z + at[0], b = y + at[1], c = x + at[2];
                        if (a >= 0 && a < t->dim[0] && b >= 0 && b < t->dim[1] && c >= 0 && c < t->dim[2])
                            sum[(a * t->dim[1] + b) * t->dim[2] + c] += v[(z * d[1] + y) * d[2] + x];
                    }
            free(v);
            ++used;
        }
        for (i = 0; i < t->numel && used > 1; ++i) sum[i] /= (float)used;
        bmvp_write(s->c, t, sum);
        free(sum);
    }
    return st;
}

/* A run that goes on keeps its templates, also where the largest volume is another now. */
static const int64_t *template_grid(const session *s) { return s->was.n_modalities ? s->was.grid : s->data.grid; }

/* Of several ranks: what the one with the largest share needs. */
static bmvp_status plan_memory(session *s, bmvp_config *k)
{
    const int size = s->ranks.launch.size;
    bmvp_ssl_config share = s->cfg;
    bmvp_memory m;
    bmvp_status st;
    share.batch = (share.batch + size - 1) / size;
    st = bmvp_ssl_plan(k, &s->net, &share, s->data.n_modalities, s->data.names, template_grid(s), &m, &s->err);
    if (st) return st;
    if (ranks_lead(&s->ranks))
        run_print_memory(&m, crop_loader_bytes(&s->data, &s->cfg, size), pretrain_report_bytes(&s->cfg));
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
    bmvp_status st = BMVP_OK;
    if (s->o.resume) st = bmvp_ssl_load(s->ssl, checkpoint, &s->err);
    else if (s->cfg.template_mean_start) st = mean_templates(s);
    free(checkpoint);
    if (!st) st = resume_cases(&s->past, s->c, s->o.out, &s->data.data, s->o.data, s->o.resume, &s->err);
    if (st) return st;
    resume_say(&s->past);
    st = run_log(s->o.out, bmvp_ssl_steps(s->ssl), &s->loop.log, &s->loop.before, &s->err);
    return st || s->o.resume ? st : pretrain_snapshot(s->c, s->ssl, s->o.out, &s->err);
}

static bmvp_status start(session *s)
{
    const int lead = ranks_lead(&s->ranks);
    bmvp_status st = lead ? run_open(s->o.out, s->o.resume, &s->err) : BMVP_OK;
    read_start at;
    if (st) return st;
    if (train_set_ranks(&s->ranks, s->c, s->device, &s->err)) return s->err.status;
    if (lead) device_print(s->c);
    s->ssl = bmvp_ssl_create(s->c, &s->net, &s->cfg, s->data.n_modalities, s->data.names, template_grid(s));
    if (!s->ssl) return train_failed(s->c, &s->err);
    if (lead) st = start_lead(s);
    if (!st && bmvp_ssl_broadcast(s->ssl)) st = train_failed(s->c, &s->err);
    if (st) return st;
    at.step = bmvp_ssl_steps(s->ssl);
    at.samples = bmvp_ssl_trainer(s->ssl)->samples;
    return crop_loader_start(&s->loader, &s->data, &s->cfg, s->ranks.launch.rank, s->ranks.launch.size,
                             bmvp_ssl_template(s->ssl, 0)->dim, at, &s->err);
}

/* >>steps ---------------------------------------------------------------------------------------------------------- */

/* A device is only given the step. */
static bmvp_status one_step(void *user, int64_t step, double lr)
{
    session *s = (session *)user;
    const crop_batch *b = crop_loader_get(&s->loader, step, &s->err);
    bmvp_status st = BMVP_OK;
    int from, to, first, count, at;
    if (!b) return s->err.status;
    bmvp_ssl_set_epoch(s->ssl, s->loop.trainer->samples / s->data.data.n);
    for (from = at = 0; from < b->n && !st; from = to, at += count) {
        to = crop_batch_pass(b, &s->cfg, from);
        count = bmvp_trainer_mine(s->loop.trainer, to - from, &first);
        if (to == b->n) bmvp_ssl_last_pass(s->ssl);
        st = bmvp_ssl_accumulate(s->ssl, b->item + at, count, NULL);
    }
    if (!st) st = bmvp_ssl_update(s->ssl, lr, NULL);
    return st ? train_failed(s->c, &s->err) : BMVP_OK;
}

static void status_words(void *user, int64_t step, bmvp_jw *w, char *words, size_t size)
{
    bmvp_ssl_losses l;
    (void)w;
    if (bmvp_ssl_losses_of(((session *)user)->ssl, step, &l) == BMVP_OK)
        snprintf(words, size, "  cmr %.4f  md %.4f  cl %.4f", l.cmr, l.md, l.cl);
}

static bmvp_status save(void *user)
{
    session *s = (session *)user;
    char *path = run_file(s->o.out, "checkpoint.safetensors");
    const char *extra[5] = { "preparation", s->preparation, "options", s->kept, NULL };
    bmvp_status st =
        path ? bmvp_ssl_save(s->ssl, path, extra, &s->err) : bmvp_error_set(&s->err, BMVP_E_OOM, "out of memory");
    free(path);
    return st;
}

/* Snapshots: about eight columns in the report, spread over the run. */
static int is_snapshot_step(const session *s, int64_t done)
{
    const int64_t total = s->length.total;
    return done == total || done * 8 / total != (done - 1) * 8 / total;
}
static int report_is_due(const session *s, int64_t step)
{
    return s->o.report_every > 0 && (step + 1) % s->o.report_every == 0;
}
static int reads(const void *user, int64_t step)
{
    return is_snapshot_step((const session *)user, step + 1) || report_is_due((const session *)user, step);
}

static bmvp_status report(session *s)
{
    return pretrain_report(s->ssl, &s->data, s->o.out, s->length.total, train_seconds(&s->loop), &s->err);
}

static bmvp_status snapshot_and_report(void *user, int64_t step)
{
    session *s = (session *)user;
    bmvp_status st = BMVP_OK;
    if (is_snapshot_step(s, step + 1)) st = pretrain_snapshot(s->c, s->ssl, s->o.out, &s->err);
    return !st && report_is_due(s, step) ? report(s) : st;
}

static bmvp_status train(session *s)
{
    train_loop *t = &s->loop;
    t->command = "pretrain";
    t->out = s->o.out;
    t->ranks = &s->ranks;
    t->trainer = bmvp_ssl_trainer(s->ssl);
    t->first = bmvp_ssl_steps(s->ssl);
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
    t->after_log = snapshot_and_report;
    t->save = save;
    return train_run(t);
}

static int give_up(session *s, int code) { return train_give_up(&s->ranks, "pretrain", code, &s->err); }

static int finish(session *s)
{
    const int64_t done = bmvp_ssl_steps(s->ssl);
    bmvp_status st = BMVP_OK;
    if (!ranks_lead(&s->ranks)) return train_exit_code(&s->loop);
    if (s->loop.trainer->since == 0 && done > s->loop.first) st = save(s);
    if (!st) st = report(s);
    if (st) return give_up(s, CLI_FAILED);
    if (done < s->length.total) {
        fprintf(stderr, "\n");
        printf("stopped after step %lld of %lld; go on with: bmvp pretrain --data %s --out %s --resume\n",
               (long long)done, (long long)s->length.total, s->o.data, s->o.out);
        return train_exit_code(&s->loop);
    }
    printf("done: %s/checkpoint.safetensors, %s/report.html, %s/log.jsonl\n", s->o.out, s->o.out, s->o.out);
    return CLI_DONE;
}

/* The data of the run that goes on are those of its start, or fit it. */
static bmvp_status load_data(session *s)
{
    bmvp_status st = BMVP_OK;
    if (!s->o.data && !(s->o.data = s->list = resume_data(s->o.out, &s->err))) return BMVP_E_ARG;
    st = prepared_load(&s->data, s->o.data, &s->err);
    if (!st) st = prepared_settings(&s->data, s->preparation, sizeof s->preparation, &s->err);
    if (st || !s->o.resume) return st;
    st = resume_modalities(s->o.out, &s->data, s->was.n_modalities, s->was.names, &s->err);
    return st ? st : resume_preparation(&s->past, s->o.out, s->data.data.path, s->preparation, &s->err);
}

/* Everything before memory is asked for. */
static bmvp_status prepare(session *s, cli_option *opt, int n_opt)
{
    bmvp_status st = configure(s, opt, n_opt);
    if (!st) st = device_open(s->o.device, s->ranks.launch.local_rank, &s->device, &s->err);
    if (!st) st = load_data(s);
    if (st) return st;
    s->length = resume_length(&s->past, &s->cfg, s->o.steps, cli_given(opt, n_opt, "epochs"), s->data.data.n,
                              s->was.step, s->was.samples);
    s->kept = resume_keep(kept_options, opt, n_opt, s->length.samples, s->length.by_steps);
    if (!s->kept) return bmvp_error_set(&s->err, BMVP_E_OOM, "out of memory");
    if (!s->o.plan)
        st = train_compare_ranks(&s->ranks, s->net.name, bmvp_ssl_method(), &s->cfg, s->data.cases, s->data.data.n,
                                 s->length.total, &s->err);
    if (!st && ranks_lead(&s->ranks)) print_configuration(s);
    return st ? st
              : learnable_tasks(&s->data, &s->cfg, s->ranks.launch.size, s->length.total, s->length.samples,
                                ranks_lead(&s->ranks), &s->err);
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

int command_pretrain(int argc, char **argv)
{
    session *s = (session *)calloc(1, sizeof *s);
    options *o;
    int code;
    if (!s) return cli_fail(CLI_FAILED, "pretrain", "out of memory");
    o = &s->o;
    {
        cli_option opt[] = {
            cli_string("data", &o->data, NULL, "DIR|LIST",
                       "prepared cases: what `bmvp prepare` wrote (required; with --resume: those of the run)"),
            cli_required("out", &o->out, "RUN", "folder of the run: log, checkpoint, report"),
            cli_choice("preset", &o->preset, 0, "paper|release|fast",
                       "which defaults; every field is printed at start"),
            cli_string("network", &o->network, "uniformer_small", "NAME", bmvp_net_preset_names()),
            cli_int("crop", &o->crop, 96, 8, 1024, "edge of the crop, a multiple of 16 (UNET3D: 8)"),
            cli_int("batch", &o->batch, 3, 1, 256, "cases in a step, of all ranks together"),
            cli_int("epochs", &o->epochs, 1500, 1, 1e9, "passes over the cases"),
            cli_int("steps", &o->steps, 0, 0, 1e12, "length of the run in steps instead of epochs"),
            cli_float("lr", &o->lr, 3e-4, 0, 10, "highest learning rate"),
            cli_int("seed", &o->seed, 0, 0, 2147483647, "of every random number"),
            cli_int("threads", &o->threads, 0, 0, 1024,
                    "of each rank; 0: one for each processor; the result does not depend on it"),
            cli_flag("resume", &o->resume, "go on from RUN/checkpoint.safetensors with the settings stored there"),
            cli_flag("all-modalities", &o->all_modalities,
                     "exact mean over the modalities of a case instead of one drawn"),
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
        code = cli_parse("pretrain", "Pre-train a network on prepared cases with the tasks of BrainMVP.", opt, n_opt,
                         argc, argv);
        if (code < 0 && !o->data && !o->resume)
            code = cli_fail(CLI_USAGE, "pretrain", "--data is required (prepared cases: what `bmvp prepare` wrote)");
        if (code < 0) code = run(s, opt, n_opt);
    }
    crop_loader_stop(&s->loader);
    if (s->loop.log) fclose(s->loop.log);
    bmvp_ssl_destroy(s->ssl);
    bmvp_destroy(s->c);
    ranks_close(&s->ranks);
    device_close(s->device);
    prepared_free(&s->data);
    resume_free(&s->past);
    free(s->list);
    free(s->kept);
    free(s);
    return code;
}
