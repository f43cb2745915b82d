/* join.c - from a launch to the table of its ranks, see launch.h */
#include "transport.h"
#include <string.h>

bmvp_status bmvp_launch_join(const bmvp_launch *l, const bmvp_launch_settings *s, bmvp_comm *out, bmvp_error *err)
{
    const bmvp_launch_settings normal = bmvp_launch_settings_default(l);
    bmvp_transport t;
    bmvp_status st;
    memset(out, 0, sizeof *out);
    st = bmvp_tcp_open(&t, l, s ? s : &normal, err);
    return st ? st : bmvp_queue_open(out, &t, err);
}

void bmvp_launch_leave(bmvp_comm *m)
{
    if (m->user) bmvp_queue_close(m);
}
