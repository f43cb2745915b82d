/* tokens.h - a network of tests that has tokens, on the public layers: a transformer of any patch and depth, as the
   files of golden/ssl have it. Its names are MONAI's, as far as bmvp_make_attention_block gives them. After
   bmvp_nn.h. */
#ifndef BMVP_TEST_TOKENS_H
#define BMVP_TEST_TOKENS_H

#include <string.h>

enum { TOKENS_BLOCKS = 4 };
typedef struct tokens_vit {
    bmvp_layer embed, norm;
    bmvp_tensor *position;
    bmvp_attention_block block[TOKENS_BLOCKS];
} tokens_vit;

static inline int64_t tokens_vit_stride(const bmvp_net_config *k) { return bmvp_net_option_of(k, "patch", 8); }
static inline int64_t tokens_vit_channels(const bmvp_net_config *k) { return bmvp_net_option_of(k, "hidden", 24); }

static inline void tokens_vit_make(bmvp_net *net)
{
    const bmvp_net_config *k = &net->cfg;
    const int64_t p = tokens_vit_stride(k), n = tokens_vit_channels(k),
                  side = bmvp_net_option_of(k, "img_size", 24) / p, grid[3] = { side, side, side };
    tokens_vit *v = (tokens_vit *)net->layers;
    bmvp_module *m = &net->m;
    char name[32];
    int i;
    m->axes = BMVP_AXES_ZYX;
    bmvp_enter(m, "encoder");
    v->position = bmvp_make_tokens(m, "patch_embedding.position_embeddings", grid, n);
    v->embed = bmvp_make_linear(m, "patch_embedding.patch_embeddings.1", p * p * p * k->in_channels, n, 1);
    for (i = 0; i < bmvp_net_option_of(k, "layers", 2) && i < TOKENS_BLOCKS; ++i) {
        snprintf(name, sizeof name, "blocks.%d", i);
        v->block[i] = bmvp_make_attention_block(m, name, n, bmvp_net_option_of(k, "heads", 3),
                                                bmvp_net_option_of(k, "mlp", 48), 0);
    }
    v->norm = bmvp_make_layernorm(m, "norm", n);
    bmvp_leave(m);
}

static inline bmvp_tensor *tokens_vit_embed(bmvp_net *net, bmvp_tensor *x)
{
    return bmvp_run(&net->m, &((tokens_vit *)net->layers)->embed,
                    bmvp_space_to_depth(net->m.c, x, (int)tokens_vit_stride(&net->cfg)));
}
static inline bmvp_tensor *tokens_vit_positions(const bmvp_net *net) { return ((tokens_vit *)net->layers)->position; }
static inline bmvp_tensor *tokens_vit_blocks(bmvp_net *net, bmvp_tensor *x, int norm)
{
    const tokens_vit *v = (tokens_vit *)net->layers;
    int i;
    for (i = 0; i < bmvp_net_option_of(&net->cfg, "layers", 2); ++i)
        x = bmvp_run_attention_block(&net->m, &v->block[i], x);
    return norm ? bmvp_run(&net->m, &v->norm, x) : x;
}

/* "test_vit": options img_size, patch, hidden, mlp, layers, heads */
static inline bmvp_net_kind tokens_vit_row(void)
{
    static const bmvp_net_tokens tokens = { tokens_vit_embed, tokens_vit_positions, tokens_vit_blocks };
    bmvp_net_kind row;
    memset(&row, 0, sizeof row);
    row.name = "test_vit", row.fields = "img_size patch hidden mlp layers heads", row.size = sizeof(tokens_vit);
    row.stride = tokens_vit_stride, row.channels = tokens_vit_channels, row.make = tokens_vit_make;
    row.tokens = &tokens;
    return row;
}

#endif /* BMVP_TEST_TOKENS_H */
