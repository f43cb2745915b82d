/* convert.c - `bmvp convert`: checkpoints from one container to the other. Both hold the released names, shapes and
   order, so nothing is computed: tensors, groups and scalars are copied, all or those of the weights alone. */
#include "commands.h"
#include "cli.h"
#include "data/files.h"
#include "bmvp_tensor.h"
#include "bmvp_nn.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int has_ending(const char *path, const char *end)
{
    const size_t n = strlen(path), k = strlen(end);
    return n >= k && strcmp(path + n - k, end) == 0;
}

static bmvp_status copy_tensor(bmvp_ckpt *in, int i, bmvp_ckpt_writer *out, bmvp_error *err)
{
    const int64_t bytes = in->entry[i].bytes;
    void *data = bytes > 0 ? malloc((size_t)bytes) : NULL;
    bmvp_status st = BMVP_OK;
    if (bytes == 0) return BMVP_OK;
    if (!data)
        return bmvp_error_set(err, BMVP_E_OOM, "out of memory: tensor %s needs %.1f MB", in->entry[i].name,
                              (double)bytes / 1e6);
    st = bmvp_ckpt_load(in, i, data, bytes, err);
    if (!st) st = bmvp_ckpt_writer_data(out, data, bytes, err);
    free(data);
    return st;
}

/* 1: of an optimizer or its schedule, which only a run that goes on needs. */
static int is_of_training(const char *group, const char *name)
{
    static const char *const parts[] = { "exp_avg", "exp_avg_sq", "max_exp_avg_sq", "optimizer_steps", "options" };
    size_t i;
    for (i = 0; i < sizeof parts / sizeof *parts; ++i)
        if (strcmp(*group ? group : name, parts[i]) == 0) return 1;
    return strncmp(group, "optim", 5) == 0 || strncmp(group, "opt_", 4) == 0 || strstr(group, "optimizer") != NULL ||
           strstr(group, "scheduler") != NULL;
}

typedef struct job {
    bmvp_ckpt *in;
    bmvp_ckpt_writer *out;
    int weights_only, n; /* n: tensors that are copied */
} job;

static int takes(const job *j, const char *group, const char *name)
{
    return !j->weights_only || !is_of_training(group, name);
}

static bmvp_status copy_all(job *j, const char *path, bmvp_ckpt_format format, bmvp_error *err)
{
    const bmvp_ckpt *in = j->in;
    bmvp_status st = BMVP_OK;
    int i;
    for (i = 0; i < in->n_entries; ++i) j->n += takes(j, in->entry[i].group, in->entry[i].name);
    if (j->n == 0 && in->n_entries > 0)
        return bmvp_error_set(err, BMVP_E_ARG,
                              "%s: --weights-only leaves nothing: all of its tensors are an optimizer's", in->path);
    st = bmvp_ckpt_writer_begin(path, format, NULL, &j->out, err);
    if (st) return st;
    for (i = 0; i < in->n_entries && !st; ++i) {
        const bmvp_ckpt_entry *e = &in->entry[i];
        if (takes(j, e->group, e->name))
            st = bmvp_ckpt_writer_add(j->out, e->group, e->name, e->dtype, e->rank, e->dim, err);
    }
    for (i = 0; i < in->n_meta && !st; ++i) {
        const bmvp_ckpt_meta *m = &in->meta[i];
        if (takes(j, m->group, m->name))
            st = bmvp_ckpt_writer_meta(j->out, m->group, m->name, m->kind, m->value, err);
    }
    for (i = 0; i < in->n_entries && !st; ++i)
        if (takes(j, in->entry[i].group, in->entry[i].name)) st = copy_tensor(j->in, i, j->out, err);
    if (!st) return bmvp_ckpt_writer_finish(j->out, err);
    bmvp_ckpt_writer_abort(j->out);
    return st;
}

int command_convert(int argc, char **argv)
{
    const char *in_path, *out_path;
    bmvp_ckpt_format format;
    bmvp_error err;
    bmvp_status st;
    job j;
    cli_option opt[] = {
        cli_positional("IN", &in_path, 1, "checkpoint to read: the content tells its kind"),
        cli_positional("OUT", &out_path, 1, "file to write: its ending .pt, .pth or .safetensors tells its kind"),
        cli_flag("weights-only", &j.weights_only,
                 "leave out what only a run that goes on needs: moments, counts and schedule of the optimizer"),
    };
    const int code = cli_parse("convert", "Copy a checkpoint from PyTorch's format to safetensors or back.", opt,
                               (int)(sizeof opt / sizeof *opt), argc, argv);
    int of;
    if (code >= 0) return code;
    if (has_ending(out_path, ".pt") || has_ending(out_path, ".pth")) format = BMVP_CKPT_PT;
    else if (has_ending(out_path, ".safetensors")) format = BMVP_CKPT_SAFETENSORS;
    else return cli_fail(CLI_USAGE, "convert", "%s: the name must end in .pt, .pth or .safetensors", out_path);
    j.n = 0, j.out = NULL;
    st = bmvp_ckpt_open(in_path, NULL, &j.in, &err);
    if (st) return cli_fail(CLI_FAILED, "convert", "%s", err.message);
    of = j.in->n_entries;
    st = file_may_replace(out_path, NULL, &err);
    if (!st) st = copy_all(&j, out_path, format, &err);
    bmvp_ckpt_close(j.in);
    if (st) return cli_fail(CLI_FAILED, "convert", "%s", err.message);
    printf("%s: %d tensors", out_path, j.n);
    if (j.n < of) printf(", without %d of the optimizer", of - j.n);
    printf("\n");
    return CLI_DONE;
}
