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
    written =
        w->kept.status == BMVP_OK && rename(w->out.tmp, path) == 0; /* not finish: thousands of syncs take minutes */
    bmvp_ckpt_writer_abort(w);
    return written;
}

int inside_uniformer_layers(bmvp_net *net, bmvp_tensor *x, bmvp_tensor **seen)
{
    bmvpi_uniformer *u = (bmvpi_uniformer *)net->layers;
    bmvp_module *m = &net->m;
    int s, i, n = 0;
    m->training = 1;
    for (s = 0; s < 4; ++s) {
        seen[n++] = x = bmvp_run_patch_embed(m, &u->embed[s], x);
        for (i = 0; i < net->cfg.depth[s]; ++i)
            seen[n++] = x =
                s < 2 ? bmvpi_cblock_run(m, &u->cblock[s][i], x) : bmvpi_sablock_run(m, &u->sablock[s - 2][i], x);
    }
    seen[n++] = x = bmvp_run(m, &u->norm, x);
    for (i = 0; i < 4; ++i) seen[n++] = x = bmvp_run(m, &u->up[i].up, x);
    return n;
}

int inside_unet3d_layers(bmvp_net *net, bmvp_tensor *x, bmvp_tensor *seen[16])
{
    const bmvp_conv_shape same = bmvp_conv_same(1, 1), halve = bmvp_conv_same(2, 1);
    bmvpi_unet3d *u = (bmvpi_unet3d *)net->layers;
    bmvp_ctx *c = net->m.c;
    int i, d, n = 0;
    seen[n++] = x = bmvp_conv3d(c, x, u->conv1a.w, u->conv1a.b, &same);
    for (i = 0; i < 12; ++i) {
        d = i / 2;
        if (i == 1 || i == 3 || i == 5) seen[n++] = x = bmvp_conv3d(c, x, u->ds[d].w, u->ds[d].b, &halve);
        if (i >= 9) x = bmvp_upsample_nearest(c, bmvp_linear(c, x, u->up[i - 9].w, u->up[i - 9].b), 2);
        seen[n++] = x = bmvpi_resblock_run(&net->m, &u->block[i], x);
    }
    return n;
}

void inside_uniunet_decode(bmvp_net *net, bmvp_tensor *x, const bmvp_features *f, bmvp_tensor *seen[4])
{
    const bmvpi_uniformer *u = (const bmvpi_uniformer *)net->layers;
    bmvp_tensor *y = f->last;
    int i;
    for (i = 0; i < 4; ++i)
        seen[i] = y =
            bmvpi_run_up_block(&net->m, &u->up[i], y, i < 3 ? f->map[2 - i] : bmvpi_input_skip(net, x), i == 3);
}

void inside_unet3d_decode(bmvp_net *net, const bmvp_features *f, bmvp_tensor *seen[3])
{
    const bmvpi_unet3d *u = (const bmvpi_unet3d *)net->layers;
    bmvp_tensor *y = f->last;
    int i;
    for (i = 0; i < 3; ++i) {
        y = bmvp_upsample_nearest(net->m.c, bmvp_run(&net->m, &u->up[i], y), 2);
        seen[i] = y = bmvpi_resblock_run(&net->m, &u->block[9 + i], bmvp_add(net->m.c, y, f->skip[2 - i]));
    }
}

void inside_unetr_tokens(bmvp_net *net, bmvp_tensor *x, bmvp_tensor *hidden[14]) { bmvpi_unetr_tokens(net, x, hidden); }
bmvp_tensor *inside_unetr_decode(bmvp_net *net, const bmvp_features *f, bmvp_tensor *map[8])
{
    return bmvpi_unetr_decode(net, f, map, 1);
}

bmvp_tensor *inside_mg_decode(bmvp_net *net, const bmvp_features *f, bmvp_tensor *map[3])
{
    return bmvpi_unet3d_mg_decode(net, f, map);
}

bmvp_features inside_swin_maps(bmvp_net *net, bmvp_tensor *x, bmvp_tensor *seen[17])
{
    return bmvpi_swin_maps(net, x, seen);
}
void inside_swin_decode(bmvp_net *net, const bmvp_features *f, bmvp_tensor *map[11])
{
    bmvpi_swin_decode(net, f, map, 1);
}

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

/* A ReLU's operand k, also of one behind a norm; `from`: the value that the op reads */
static double kink_operand(const bmvp_tensor *y, const float *from, int64_t k)
{
    const int64_t ch = y->dim[y->rank - 1], groups = y->args.groupnorm_relu.groups;
    const int64_t sample = k / (y->numel / y->dim[0]), group = sample * groups + k % ch / (ch / groups);
    const float *saved = y->saved;
    double v = (double)from[k] - (double)saved[group];
    v *= (double)saved[y->dim[0] * groups + group] * (y->src[1] ? (double)y->src[1]->x[k % ch] : 1);
    return v + (y->src[2] ? (double)y->src[2]->x[k % ch] : 0) + (y->src[3] ? (double)y->src[3]->x[k] : 0);
}
int64_t inside_kinks(bmvp_ctx *c, double within, inside_kink *out, int64_t most)
{
    int64_t i, k, n = 0;
    for (i = 0; i < c->n_step; ++i) {
        const bmvp_tensor *y = c->step[i], *x = y->src[0];
        const int norm = y->op == BMVP_OP_GROUPNORM_RELU;
        double square = 0, near, v;
        if ((y->op != BMVP_OP_RELU && !norm) || y->walked || !bmvpi_ensure_value(c, c->step[i]->src[0]) ||
            (norm && y->src[3] && !bmvpi_ensure_value(c, y->src[3])))
            continue;
        for (k = 0; k < x->numel; ++k) square += pow(norm ? kink_operand(y, x->x, k) : (double)x->x[k], 2);
        near = within * sqrt(square / (double)x->numel);
        for (k = 0; k < x->numel; ++k) {
            v = fabs(norm ? kink_operand(y, x->x, k) : (double)x->x[k]);
            if (v < near && n++ < most) {
                out[n - 1].node = i, out[n - 1].at = k, out[n - 1].of = x->numel;
                out[n - 1].share = within * v / near;
            }
        }
    }
    return n;
}
void inside_turn_kink(bmvp_ctx *c, const inside_kink *k)
{
    bmvp_tensor *y = c->step[k->node];
    if (!bmvpi_ensure_value(c, y)) return;
    y->dropped = 0; /* not made again */
    y->x[k->at] = y->x[k->at] > 0 ? -1e-30f : 1e-30f;
}

void inside_swin_regions(const int64_t whole[3], const int64_t window[3], const int64_t shift[3], int32_t *region)
{
    int32_t place[7 * 7 * 7];
    bmvpi_swin_grid g;
    int a;
    for (g.tokens = g.windows = 1, a = 0; a < 3; ++a) {
        g.n[a] = g.whole[a] = whole[a], g.w[a] = window[a], g.shift[a] = shift[a];
        g.tokens *= window[a], g.windows *= whole[a] / window[a];
    }
    bmvpi_swin_numbers(&g, 7, place, region);
}

bmvp_status inside_relate(double m[16], const double to[16], const double from[16])
{
    return bmvpi_relate(m, to, from, "", NULL);
}

float inside_linear_at(const float *v, const int64_t dim[3], const double p[3]) { return bmvpi_linear_at(v, dim, p); }

int inside_place(bmvp_ctx *c, const bmvp_labels *labels, const bmvp_prepared_images *prepared, const double to[16],
                 const int64_t size[3], const float *map, int outputs, bmvp_prediction *out, unsigned char *seen)
{
    const int64_t area = prepared->frame.dim[0] * prepared->frame.dim[1] * outputs;
    bmvpi_placing g;
    int64_t i;
    int a, ok = 1;
    memset(&g, 0, sizeof g);
    g.c = c, g.labels = labels, g.prepared = prepared, g.out = out, g.outputs = outputs;
    memcpy(g.dim, prepared->frame.dim, sizeof g.dim);
    memcpy(g.size, size, sizeof g.size);
    memcpy(g.to, to, sizeof g.to);
    memcpy(g.frame, to, sizeof g.frame);
    for (a = 0; a < 2; ++a) ok = (g.plane[a] = (float *)malloc((size_t)area * sizeof(float))) != NULL && ok;
    for (i = 0; ok && i < g.dim[2]; ++i) ok = bmvpi_place_planes(&g, i, 1, map + i * area) == BMVP_OK;
    for (i = 0; ok && i < size[0] * size[1] * size[2]; ++i)
        seen[i] = (unsigned char)bmvpi_has_content(&g, i % size[0], i / size[0] % size[1], i / size[0] / size[1]);
    for (a = 0; a < 2; ++a) free(g.plane[a]);
    return ok;
}
