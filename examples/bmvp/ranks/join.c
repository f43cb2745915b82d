/* join.c - from a launch to the table of its ranks, see launch.h and transport.h */
#include "transport.h"
#include <stdio.h>
#include <string.h>

/* >>calls ---------------------------------------------------------------------------------------------------------- */

void call_next(call_header *h, rank_call call, int64_t bytes, int detail)
{
    ++h->number;
    h->call = (uint32_t)call;
    h->detail = (uint32_t)detail;
    h->bytes = (uint64_t)bytes;
}

void call_name(char text[CALL_TEXT], const call_header *h)
{
    static const char *const names[CALLS] = { "all_reduce", "all_gather", "reduce_scatter", "broadcast", "barrier" };
    const char *name = h->call < CALLS ? names[h->call] : "an unknown call";
    const unsigned long long bytes = h->bytes;
    if (h->call == CALL_BROADCAST) snprintf(text, CALL_TEXT, "%s of %llu bytes from rank %u", name, bytes, h->detail);
    else if (h->call == CALL_ALL_REDUCE)
        snprintf(text, CALL_TEXT, "%s of %llu bytes in %u arrays", name, bytes, h->detail);
    else if (h->call == CALL_BARRIER) snprintf(text, CALL_TEXT, "%s", name);
    else snprintf(text, CALL_TEXT, "%s of %llu bytes", name, bytes);
}

int call_differs(char *text, size_t size, const call_header *first, const call_header *h, int r, const char *host)
{
    char own[CALL_TEXT], other[CALL_TEXT];
    if (memcmp(first, h, sizeof *h) == 0) return 0;
    call_name(own, first);
    call_name(other, h);
    return snprintf(text, size,
                    "rank %d%s%s calls %s where rank 0 calls %s (call %llu): all ranks must make the same calls", r,
                    host ? " on " : "", host ? host : "", other, own, (unsigned long long)first->number);
}

/* >>join ----------------------------------------------------------------------------------------------------------- */

static int join_by_mpi(const launch_place *l)
{
#ifdef PROGRAM_MPI
    return l->by == LAUNCH_MPIRUN;
#else
    (void)l;
    return 0;
#endif
}

const char *launch_over(const launch_place *l) { return join_by_mpi(l) ? "MPI" : "TCP"; }

bmvp_status launch_join(const launch_place *l, const launch_settings *s, bmvp_comm *out, bmvp_error *err)
{
    const launch_settings normal = launch_settings_default(l);
    transport t;
    bmvp_status st;
    memset(out, 0, sizeof *out);
    st = (join_by_mpi(l) ? mpi_open : tcp_open)(&t, l, s ? s : &normal, err);
    return st ? st : queue_open(out, &t, err);
}

void launch_leave(bmvp_comm *m)
{
    if (m->user) queue_close(m);
}
