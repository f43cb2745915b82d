#define BMVP_IMPLEMENTATION
#include "bmvp_tensor.h"
#include "bmvp_nn.h"
#include "bmvp_ssl.h"
#include <stdio.h>
static float t1[32 * 32 * 32], t2[32 * 32 * 32];
int main(void)
{
    const char *names[2] = { "t1", "t2" };
    bmvp_ssl_item item = { 0 };
    bmvp_ssl_config cfg;
    bmvp_net_config net;
    bmvp_ssl_losses loss;
    int64_t grid[3] = { 32, 32, 32 }, i;
    bmvp_ctx *c = bmvp_create(NULL, NULL);
    for (i = 0; i < 32768; ++i) t1[i] = (float)(i % 64) / 64, t2[i] = 1 - t1[i];
    bmvp_ssl_preset("fast", &cfg);
    cfg.crop = 32;
    bmvp_net_preset("uniformer_tiny", &net);
    bmvp_ssl *ssl = bmvp_ssl_create(c, &net, &cfg, 2, names, grid);
    item.x = t1, item.other = t2;
    for (i = 0; i < 10 && !bmvp_ssl_step(ssl, &item, 1, 1e-3, &loss); ++i) printf("%g\n", loss.total);
    if (bmvp_failed(c)) printf("%s\n", bmvp_error_of(c)->message);
    bmvp_ssl_destroy(ssl);
    bmvp_destroy(c);
    return 0;
}
