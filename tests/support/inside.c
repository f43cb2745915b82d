/* inside.c - see inside.h */
#define BMVP_IMPLEMENTATION
#include "tests/support/inside.h"

int64_t inside_data_at(const bmvp_ckpt *c, int entry) { return (int64_t)c->file->record[c->entry[entry].record].at; }

void inside_zip64_from(bmvp_ckpt_writer *w, int64_t bytes) { w->zip64_from = (uint64_t)bytes; }

int inside_write_pickle(const char *path, const void *pickle, size_t n)
{
    bmvp_ckpt_writer *w;
    char storage[64];
    bmvp_error err;
    int written;
    memset(storage, 1, sizeof storage);
    if (bmvp_ckpt_writer_begin(path, BMVP_CKPT_PT, NULL, &w, &err) != BMVP_OK) return 0;
    w->started = 1; /* the pickle comes from here, not from declarations */
    bmvpi_cw_record(w, "archive/data.pkl", pickle, n);
    bmvpi_cw_record(w, "archive/data/0", storage, sizeof storage);
    bmvpi_cw_directory(w);
    written = w->kept.status == BMVP_OK &&
              rename(w->out.tmp, path) == 0; /* not finish: thousands of syncs take minutes */
    bmvp_ckpt_writer_abort(w);
    return written;
}

void inside_unetr_tokens(bmvp_net *net, bmvp_tensor *x, bmvp_tensor *hidden[14])
{
    bmvpi_unetr_tokens(net, x, hidden);
}
bmvp_tensor *inside_unetr_decode(bmvp_net *net, const bmvp_features *f, bmvp_tensor *map[8])
{
    const bmvpi_unetr *u = (const bmvpi_unetr *)net->layers;
    bmvp_tensor *y = bmvpi_unetr_decode(net, f, map);
    map[3] = bmvpi_unetr_rise(&net->m, &u->start[2], NULL, 0, f->map[2]); /* the decoder drops it */
    return y;
}

bmvp_tensor *inside_mg_decode(bmvp_net *net, const bmvp_features *f, bmvp_tensor *map[3])
{
    return bmvpi_unet3d_mg_decode(net, f, map);
}

bmvp_features inside_swin_maps(bmvp_net *net, bmvp_tensor *x, bmvp_tensor *seen[17])
{
    return bmvpi_swin_maps(net, x, seen);
}
void inside_swin_decode(bmvp_net *net, const bmvp_features *f, bmvp_tensor *map[11]) { bmvpi_swin_decode(net, f, map); }

bmvp_tensor *inside_swin_block(bmvp_net *net, int stage, int block, bmvp_tensor *x)
{
    const bmvpi_swin *u = (const bmvpi_swin *)net->layers;
    return bmvpi_swin_run_block(&net->m, &u->block[stage][block], bmvpi_swin_window(&net->cfg), block % 2, x);
}
bmvp_tensor *inside_swin_merge(bmvp_net *net, int stage, int new_merging, bmvp_tensor *x)
{
    const bmvpi_swin *u = (const bmvpi_swin *)net->layers;
    return bmvpi_swin_merge(&net->m, &u->merged[stage], &u->reduction[stage], new_merging, x);
}
