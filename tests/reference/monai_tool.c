/* monai_tool.c - state dicts of UNETR and Swin-UNETR both ways with MONAI (golden_net_reference.py monai).

     cc -I. tests/reference/monai_tool.c -o build/monai_tool -lm -lpthread
     build/monai_tool write ours.pt unetr     a fresh network (unetr, swin_unetr, swin_unetr_v2): its state_dict, an
                                              example input and its logits
     build/monai_tool read theirs.pt unetr    what MONAI wrote: every tensor has its place and its logits come out */
#define BMVP_IMPLEMENTATION
#include "bmvp_tensor.h"
#include "bmvp_nn.h"

enum { X = 32, Y = 32, Z = 64, IN = 2, OUT = 3, VOXELS = X * Y * Z };

static float image[VOXELS * IN], logits[VOXELS * OUT], torch[VOXELS * OUT], want[VOXELS * OUT];

/* (D, H, W, C) to (1, C, X, Y, Z) */
static void turn(const float *ours, int channels, float *out)
{
    int x, y, z, c;
    for (x = 0; x < X; ++x)
        for (y = 0; y < Y; ++y)
            for (z = 0; z < Z; ++z)
                for (c = 0; c < channels; ++c)
                    out[((c * X + x) * Y + y) * Z + z] = ours[((z * Y + y) * X + x) * channels + c];
}

static void run(bmvp_net *net)
{
    static const int64_t dim[5] = { 1, Z, Y, X, IN };
    bmvp_tensor *x;
    bmvp_features f;
    int i;
    for (i = 0; i < VOXELS * IN; ++i) image[i] = (float)(0.5 + 0.5 * sin(0.37 * i));
    (void)bmvp_set_grad(net->m.c, 0);
    x = bmvp_input(net->m.c, 5, dim, image);
    f = bmvp_net_encode(net, x, 0);
    (void)bmvp_read(net->m.c, bmvp_net_segment(net, x, &f, 0).full, logits);
    turn(logits, OUT, torch);
}

static bmvp_status write_file(bmvp_net *net, const char *path, bmvp_error *err)
{
    static const int64_t in[5] = { 1, IN, X, Y, Z }, out[5] = { 1, OUT, X, Y, Z }, one[1] = { 1 };
    static float turned[VOXELS * IN];
    const float heads = 3;
    bmvp_state_part part = { NULL, NULL, NULL, 0 };
    bmvp_ckpt_writer *w;
    if (bmvp_ckpt_writer_begin(path, BMVP_CKPT_PT, NULL, &w, err)) return err->status;
    turn(image, IN, turned);
    part.c = net->m.c, part.list = bmvp_net_state(net);
    (void)bmvp_state_declare(w, "state_dict", &part, err);
    (void)bmvp_ckpt_writer_add(w, "example", "input", BMVP_DTYPE_F32, 5, in, err);
    (void)bmvp_ckpt_writer_add(w, "example", "logits", BMVP_DTYPE_F32, 5, out, err);
    (void)bmvp_ckpt_writer_add(w, "example", "heads", BMVP_DTYPE_F32, 1, one, err);
    (void)bmvp_state_data(w, &part, err);
    (void)bmvp_ckpt_writer_data(w, turned, sizeof turned, err);
    (void)bmvp_ckpt_writer_data(w, torch, sizeof torch, err);
    (void)bmvp_ckpt_writer_data(w, &heads, sizeof heads, err);
    return bmvp_ckpt_writer_finish(w, err);
}

static bmvp_status read_file(bmvp_net *net, const char *path, bmvp_error *err)
{
    bmvp_state_part part = { NULL, NULL, NULL, 0 };
    double worst = 0, square = 0;
    bmvp_ckpt *f;
    int i;
    if (bmvp_ckpt_open(path, NULL, &f, err)) return err->status;
    part.c = net->m.c, part.list = bmvp_net_state(net);
    (void)bmvp_state_load(f, "state_dict", &part, err);
    if (!err->status) (void)bmvp_ckpt_load_f32(f, bmvp_ckpt_find(f, "example", "logits"), 0, VOXELS * OUT, want, err);
    bmvp_ckpt_close(f);
    if (err->status) return err->status;
    run(net);
    for (i = 0; i < VOXELS * OUT; ++i) {
        worst = fmax(worst, fabs((double)torch[i] - (double)want[i]));
        square += (double)want[i] * (double)want[i];
    }
    worst /= sqrt(square / (VOXELS * OUT));
    printf("logits are off by at most %.2g of the rms of MONAI's\n", worst);
    return worst <= 1e-4 ? BMVP_OK : bmvp_error_set(err, BMVP_E_FORMAT, "%s: other logits", path);
}

int main(int argc, char **argv)
{
    bmvp_ctx *c = bmvp_create(NULL, NULL);
    bmvp_net_config k;
    bmvp_error err = { BMVP_OK, "" };
    bmvp_net *net;
    int reads;
    if (argc != 4) return 2;
    reads = strcmp(argv[1], "read") == 0;
    k = bmvp_net_config_default(strcmp(argv[3], "unetr") == 0 ? "unetr" : "swin_unetr");
    k.task = BMVP_TASK_SEGMENT;
    (void)bmvp_net_config_set(&k, strcmp(argv[3], "unetr") == 0
                                      ? "in_channels=2 outputs=3 img_x=32 img_y=32 img_z=64 feature_size=2 "
                                        "hidden_size=12 mlp_dim=16 num_heads=3"
                                  : strcmp(argv[3], "swin_unetr") == 0
                                      ? "in_channels=2 outputs=3 feature_size=12"
                                      : "in_channels=2 outputs=3 feature_size=12 use_v2=1", NULL);
    net = bmvp_net_create(c, &k);
    bmvp_net_init(net, 1);
    if (bmvp_failed(c)) printf("%s\n", bmvp_error_of(c)->message);
    else if (reads) (void)read_file(net, argv[2], &err);
    else run(net), (void)write_file(net, argv[2], &err);
    if (err.status) printf("%s\n", err.message);
    bmvp_net_destroy(net);
    bmvp_destroy(c);
    return err.status != BMVP_OK;
}
