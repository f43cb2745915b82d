/* convert.c - `bmvp convert`: checkpoints from one container to the other. Both hold the released names, shapes and
   order, so nothing is computed: tensors, groups and scalars are copied. */
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

static bmvp_status copy_all(bmvp_ckpt *in, const char *path, bmvp_ckpt_format format, bmvp_error *err)
{
    bmvp_ckpt_writer *out = NULL;
    bmvp_status st = bmvp_ckpt_writer_begin(path, format, NULL, &out, err);
    int i;
    if (st) return st;
    for (i = 0; i < in->n_entries && !st; ++i) {
        const bmvp_ckpt_entry *e = &in->entry[i];
        st = bmvp_ckpt_writer_add(out, e->group, e->name, e->dtype, e->rank, e->dim, err);
    }
    for (i = 0; i < in->n_meta && !st; ++i)
        st = bmvp_ckpt_writer_meta(out, in->meta[i].group, in->meta[i].name, in->meta[i].kind, in->meta[i].value, err);
    for (i = 0; i < in->n_entries && !st; ++i) st = copy_tensor(in, i, out, err);
    if (!st) return bmvp_ckpt_writer_finish(out, err);
    bmvp_ckpt_writer_abort(out);
    return st;
}

int command_convert(int argc, char **argv)
{
    const char *in_path, *out_path;
    bmvp_ckpt *in = NULL;
    bmvp_ckpt_format format;
    bmvp_error err;
    bmvp_status st;
    cli_option opt[] = {
        cli_positional("IN", &in_path, 1, "checkpoint to read: the content tells its kind"),
        cli_positional("OUT", &out_path, 1, "file to write: its ending .pt, .pth or .safetensors tells its kind"),
    };
    int code = cli_parse("convert", "Copy a checkpoint from PyTorch's format to safetensors or back.", opt, 2, argc,
                         argv),
        n;
    if (code >= 0) return code;
    if (has_ending(out_path, ".pt") || has_ending(out_path, ".pth")) format = BMVP_CKPT_PT;
    else if (has_ending(out_path, ".safetensors")) format = BMVP_CKPT_SAFETENSORS;
    else return cli_fail(CLI_USAGE, "convert", "%s: the name must end in .pt, .pth or .safetensors", out_path);
    st = bmvp_ckpt_open(in_path, NULL, &in, &err);
    if (st) return cli_fail(CLI_FAILED, "convert", "%s", err.message);
    n = in->n_entries;
    st = file_may_replace(out_path, NULL, &err);
    if (!st) st = copy_all(in, out_path, format, &err);
    bmvp_ckpt_close(in);
    if (st) return cli_fail(CLI_FAILED, "convert", "%s", err.message);
    printf("%s: %d tensors\n", out_path, n);
    return CLI_DONE;
}
