#define BMVP_IMPLEMENTATION
#include "bmvp_tensor.h"
#include "bmvp_nn.h"
#include <stdio.h>
int main(void)
{
    int64_t dim[5] = { 1, 32, 32, 32, 1 };
    bmvp_ctx *c = bmvp_create(NULL, NULL);
    bmvp_net_config k;
    bmvp_features f;
    bmvp_net *net;
    bmvp_net_preset("uniformer_tiny", &k);
    net = bmvp_net_create(c, &k);
    bmvp_net_init(net, 1);
    bmvp_set_grad(c, 0);
    f = bmvp_net_encode(net, bmvp_leaf(c, 5, dim, NULL), 0);
    if (bmvp_failed(c)) printf("%s\n", bmvp_error_of(c)->message);
    else printf("last map: %d^3 voxels, %d channels\n", (int)f.last->dim[1], (int)f.last->dim[4]);
    bmvp_net_destroy(net);
    bmvp_destroy(c);
    return 0;
}
