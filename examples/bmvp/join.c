/* join.c - from a launch to the table of its ranks, see launch.h and transport.h */
#include "transport.h"
#include <stdio.h>
#include <string.h>

/* >>calls ---------------------------------------------------------------------------------------------------------------------- */

void bmvp_call_next(bmvp_call_header *h, bmvp_call call, int64_t bytes, int detail)
{
    ++h->number;
    h->call = (uint32_t)call;
    h->detail = (uint32_t)detail;
    h->bytes = (uint64_t)bytes;
}

void bmvp_call_name(char text[BMVP_CALL_TEXT], const bmvp_call_header *h)
{
    static const char *const names[BMVP_CALLS] = { "all_reduce", "all_gather", "reduce_scatter", "broadcast", "barrier" };
    const char *name = h->call < BMVP_CALLS ? names[h->call] : "an unknown call";
    const unsigned long long bytes = h->bytes;
    if (h->call == BMVP_CALL_BROADCAST) snprintf(text, BMVP_CALL_TEXT, "%s of %llu bytes from rank %u", name, bytes, h->detail);
    else if (h->call == BMVP_CALL_ALL_REDUCE) snprintf(text, BMVP_CALL_TEXT, "%s of %llu bytes in %u arrays", name, bytes, h->detail);
    else if (h->call == BMVP_CALL_BARRIER) snprintf(text, BMVP_CALL_TEXT, "%s", name);
    else snprintf(text, BMVP_CALL_TEXT, "%s of %llu bytes", name, bytes);
}

int bmvp_call_differs(char *text, size_t size, const bmvp_call_header *first, const bmvp_call_header *h, int r, const char *host)
{
    char own[BMVP_CALL_TEXT], other[BMVP_CALL_TEXT];
    if (memcmp(first, h, sizeof *h) == 0) return 0;
    bmvp_call_name(own, first);
    bmvp_call_name(other, h);
    return snprintf(text, size, "rank %d%s%s calls %s where rank 0 calls %s (call %llu): all ranks must make the same calls", r, host ? " on " : "",
                    host ? host : "", other, own, (unsigned long long)first->number);
}

/* >>join ------------------------------------------------------------------------------------------------------------------------- */

static int join_by_mpi(const bmvp_launch *l)
{
#ifdef BMVP_PROGRAM_MPI
    return l->by == BMVP_LAUNCH_MPIRUN;
#else
    (void)l;
    return 0;
#endif
}

const char *bmvp_launch_over(const bmvp_launch *l) { return join_by_mpi(l) ? "MPI" : "TCP"; }

bmvp_status bmvp_launch_join(const bmvp_launch *l, const bmvp_launch_settings *s, bmvp_comm *out, bmvp_error *err)
{
    const bmvp_launch_settings normal = bmvp_launch_settings_default(l);
    bmvp_transport t;
    bmvp_status st;
    memset(out, 0, sizeof *out);
    st = (join_by_mpi(l) ? bmvp_mpi_open : bmvp_tcp_open)(&t, l, s ? s : &normal, err);
    return st ? st : bmvp_queue_open(out, &t, err);
}

void bmvp_launch_leave(bmvp_comm *m)
{
    if (m->user) bmvp_queue_close(m);
}
