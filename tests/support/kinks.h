/* kinks.h - a ReLU's operand within rounding of 0 has one slope in float32 and may have the other in double, and each
   such value is a little part of all gradients before it. So a pass is run again with all of them on their other side:
   what a gradient differs by then is what rounding may do to it, and nothing else is allowed beyond the files' rule.
   After inside.h, nets.h and check.h. */
#ifndef BMVP_TEST_KINKS_H
#define BMVP_TEST_KINKS_H

enum { KINKS = 64 };
typedef struct kinks {
    bmvp_ctx *c;
    double near_zero; /* of the operand's root mean square: what float32 is off by at most there */
    int64_t n;
    int once;
    float **other; /* gradients of the other sides, by entry of the state */
} kinks;

static inline void kinks_turn(void *user) /* told of the last layer's gradient: behind it there are no ReLUs */
{
    kinks *k = (kinks *)user;
    inside_kink list[KINKS];
    int64_t i;
    if (k->once++) return;
    k->n = inside_kinks(k->c, k->near_zero, list, KINKS);
    CHECK(k->n <= KINKS);
    for (i = 0; i < k->n && i < KINKS; ++i) inside_turn_kink(k->c, &list[i]);
}

/* From here the next backward goes over the other sides; at the end its gradients are kept and forgotten by the net. */
static inline void kinks_begin(kinks *k, bmvp_ctx *c, double near_zero)
{
    memset(k, 0, sizeof *k);
    k->c = c;
    k->near_zero = near_zero;
    bmvp_on_gradient(c, kinks_turn, k);
}
static inline void kinks_end(kinks *k, const bmvp_state_list *l)
{
    int i;
    bmvp_on_gradient(k->c, NULL, NULL);
    k->other = (float **)calloc((size_t)l->n, sizeof *k->other);
    for (i = 0; k->other && i < l->n; ++i)
        if (bmvp_has_grad(l->item[i].t)) {
            k->other[i] = device_copy(k->c, l->item[i].t, 1);
            bmvp_zero_grad(l->item[i].t);
        }
}
static inline void kinks_free(kinks *k, const bmvp_state_list *l)
{
    int i;
    for (i = 0; k->other && i < l->n; ++i) free(k->other[i]);
    free(k->other);
}

/* other becomes what an element of x may be off: its own difference, and their root mean square. */
static inline void kinks_room(const float *x, float *other, int64_t n)
{
    double square = 0;
    int64_t i;
    for (i = 0; i < n; ++i) square += pow((double)x[i] - (double)other[i], 2);
    for (i = 0; i < n; ++i) other[i] = (float)(fabs((double)x[i] - (double)other[i]) + sqrt(square / (double)n));
}

#endif
