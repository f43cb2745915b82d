#define BMVP_IMPLEMENTATION
#include "bmvp_tensor.h"
#include "bmvp_nn.h"
#include <stdio.h>
int main(void)
{
    int64_t dim[5] = { 1, 32, 32, 32, 1 };
    bmvp_ctx *c = bmvp_create(NULL, NULL);
    bmvp_net_config cfg;
    bmvp_features f;
    bmvp_net_preset("uniformer_tiny", &cfg);
    bmvp_net *net = bmvp_net_create(c, &cfg);
    bmvp_net_init(net, 1);
    f = bmvp_net_encode(net, bmvp_leaf(c, 5, dim, NULL), 1);
    bmvp_backward(c, bmvp_mean(c, bmvp_net_reconstruct(net, &f)));
    puts(bmvp_failed(c) ? bmvp_error_of(c)->message : "gradients are there");
    return 0;
}
