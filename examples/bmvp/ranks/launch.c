/* launch.c - rank, size and where to meet, from the environment, see launch.h */
#include "launch.h"
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

typedef struct launch_env {
    launch_get get;
    void *user;
} launch_env;

/* A variable that is set to nothing counts as not set. */
static const char *launch_value(const launch_env *e, const char *name)
{
    const char *v = e->get ? e->get(e->user, name) : getenv(name);
    return v && *v ? v : NULL;
}

/* The first of two that is set */
static const char *launch_either(const launch_env *e, const char *first, const char *second)
{
    return launch_value(e, first) ? first : second;
}

/* *out keeps its value where the variable is not set; `missing` then says what to do, NULL: nothing. */
static bmvp_status launch_int(const launch_env *e, const char *name, long lo, long hi, int *out, const char *missing,
                              bmvp_error *err)
{
    const char *v = launch_value(e, name);
    char *end = NULL;
    long n;
    if (!v) return missing ? bmvp_error_set(err, BMVP_E_ARG, "%s is not set: %s", name, missing) : BMVP_OK;
    errno = 0;
    n = strtol(v, &end, 10);
    if (v[0] < '0' || v[0] > '9' || *end || errno || n < lo || n > hi)
        return bmvp_error_set(err, BMVP_E_ARG, "%s=%.60s: must be a whole number from %ld to %ld", name, v, lo, hi);
    *out = (int)n;
    return BMVP_OK;
}

/* >>nonce ---------------------------------------------------------------------------------------------------------- */

/* FNV-1a, 64 bits, with a separator after each text */
static uint64_t launch_hash(uint64_t h, const char *text)
{
    for (; *text; ++text) h = (h ^ (unsigned char)*text) * 1099511628211u;
    return (h ^ 0xff) * 1099511628211u;
}
static uint64_t launch_hash_of(const launch_env *e, const char *first, const char *second)
{
    const char *a = launch_value(e, first), *b = second ? launch_value(e, second) : NULL;
    return launch_hash(launch_hash(14695981039346656037u, a ? a : ""), b ? b : "");
}

/* first, second: variables that name the job */
static void launch_nonce(launch_place *l, const launch_env *e, const char *first, const char *second)
{
    l->nonce = launch_value(e, "BMVP_JOB") ? launch_hash_of(e, "BMVP_JOB", NULL) : launch_hash_of(e, first, second);
}

/* >>where ---------------------------------------------------------------------------------------------------------- */

static bmvp_status launch_address(launch_place *l, const char *name, const char *text, bmvp_error *err)
{
    const size_t n = strlen(text);
    if (n >= sizeof l->address || strcspn(text, " \t\r\n,[]/") != n)
        return bmvp_error_set(err, BMVP_E_ARG, "%s=%.60s: must be the name or number of one host, without a port", name,
                              text);
    memcpy(l->address, text, n + 1);
    return BMVP_OK;
}

/* First host of Slurm's list: node[003-007,9],gpu2 is node003; each pair of brackets gives its first number. */
static bmvp_status launch_first_host(launch_place *l, const char *name, const char *list, bmvp_error *err)
{
    char host[sizeof l->address];
    const char *p = list;
    size_t n = 0;
    while (*p && *p != ',') {
        if (*p == '[') {
            const size_t digits = strspn(p + 1, "0123456789");
            const char *end = strchr(p, ']');
            if (!digits || !end || strspn(p + 1, "0123456789-,") != (size_t)(end - p - 1) || n + digits >= sizeof host)
                break;
            memcpy(host + n, p + 1, digits);
            n += digits;
            p = end + 1;
        } else {
            if (n + 1 >= sizeof host || *p == ']') break;
            host[n++] = *p++;
        }
    }
    host[n] = 0;
    if (n == 0 || (*p && *p != ','))
        return bmvp_error_set(err, BMVP_E_ARG, "%s=%.60s: not a list of hosts; set MASTER_ADDR to the host of rank 0",
                              name, list);
    return launch_address(l, name, host, err);
}

/* `missing`: what to do without MASTER_PORT; NULL: a port below those that systems give to clients, from the job's
   number */
static bmvp_status launch_port(launch_place *l, const launch_env *e, const char *missing, bmvp_error *err)
{
    const char *shared = launch_value(e, "TORCHELASTIC_USE_AGENT_STORE");
    bmvp_status st;
    l->port = 15000 + (int)(l->nonce % 15000);
    if (launch_value(e, "BMVP_PORT")) return launch_int(e, "BMVP_PORT", 1, 65535, &l->port, NULL, err);
    st = launch_int(e, "MASTER_PORT", 1, 65535, &l->port, missing, err);
    if (!st && l->by == LAUNCH_TORCHRUN && shared && strcmp(shared, "True") == 0) l->port += l->port < 65535 ? 1 : -1;
    return st;
}

/* >>launchers ------------------------------------------------------------------------------------------------------ */

static bmvp_status launch_numbers(launch_place *l, const launch_env *e, const char *rank, const char *size,
                                  const char *local, const char *advice, bmvp_error *err)
{
    bmvp_status st = launch_int(e, size, 1, LAUNCH_MOST, &l->size, advice, err);
    if (!st) st = launch_int(e, rank, 0, INT_MAX, &l->rank, advice, err);
    if (!st) st = launch_int(e, local, 0, INT_MAX, &l->local_rank, NULL, err);
    if (!st && l->rank >= l->size)
        st = bmvp_error_set(err, BMVP_E_ARG, "%s=%d with %s=%d: ranks count from 0 to %d", rank, l->rank, size, l->size,
                            l->size - 1);
    return st;
}

static bmvp_status launch_torchrun(launch_place *l, const launch_env *e, bmvp_error *err)
{
    const char *address = launch_value(e, "MASTER_ADDR");
    bmvp_status st = launch_numbers(l, e, "RANK", "WORLD_SIZE", "LOCAL_RANK",
                                    "set both RANK and WORLD_SIZE, as torchrun does, or neither", err);
    if (st || l->size == 1) return st;
    if (!address)
        return bmvp_error_set(
            err, BMVP_E_ARG,
            "MASTER_ADDR is not set: set it to the host of rank 0, the same for all ranks, as torchrun does");
    st = launch_address(l, "MASTER_ADDR", address, err);
    if (launch_value(e, "TORCHELASTIC_RUN_ID")) launch_nonce(l, e, "TORCHELASTIC_RUN_ID", "MASTER_PORT");
    else launch_nonce(l, e, "MASTER_ADDR", "MASTER_PORT");
    return st ? st
              : launch_port(l, e, "set it to a free port of MASTER_ADDR, the same for all ranks, as torchrun does",
                            err);
}

static bmvp_status launch_mpirun(launch_place *l, const launch_env *e, bmvp_error *err)
{
    const char *job = launch_either(e, "PMIX_NAMESPACE", "OMPI_MCA_ess_base_jobid"),
               *address = launch_value(e, "MASTER_ADDR");
    int here = 0;
    bmvp_status st = launch_numbers(l, e, "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK",
                                    "mpirun sets it; start the program with mpirun", err);
    if (!st) st = launch_int(e, "OMPI_COMM_WORLD_LOCAL_SIZE", 1, INT_MAX, &here, NULL, err);
    if (st || l->size == 1) return st;
    if (!address && here != l->size)
        return bmvp_error_set(
            err, BMVP_E_ARG,
            "MASTER_ADDR is not set and the ranks are on several hosts: give mpirun -x MASTER_ADDR=HOST, the "
            "host of rank 0");
    launch_nonce(l, e, job, NULL);
    st = launch_address(l, "MASTER_ADDR", address ? address : "127.0.0.1", err);
    return st ? st
              : launch_port(l, e,
                            launch_value(e, job) || launch_value(e, "BMVP_JOB")
                                ? NULL
                                : "give mpirun -x MASTER_PORT=N, a free port",
                            err);
}

static bmvp_status launch_srun(launch_place *l, const launch_env *e, bmvp_error *err)
{
    const char *list = launch_either(e, "SLURM_STEP_NODELIST", "SLURM_JOB_NODELIST"),
               *address = launch_value(e, "MASTER_ADDR");
    bmvp_status st = launch_numbers(l, e, "SLURM_PROCID", launch_either(e, "SLURM_STEP_NUM_TASKS", "SLURM_NTASKS"),
                                    "SLURM_LOCALID", "start the program with srun --ntasks=N", err);
    if (st || l->size == 1) return st;
    if (!address && !launch_value(e, list))
        return bmvp_error_set(err, BMVP_E_ARG,
                              "%s is not set: start the program with srun, or set MASTER_ADDR to the host of rank 0",
                              list);
    st = address ? launch_address(l, "MASTER_ADDR", address, err)
                 : launch_first_host(l, list, launch_value(e, list), err);
    launch_nonce(l, e, "SLURM_JOB_ID", "SLURM_STEP_ID");
    return st ? st
              : launch_port(
                    l, e, launch_value(e, "SLURM_JOB_ID") ? NULL : "set it to a free port of the host of rank 0", err);
}

/* Alone, unless another mpirun says that there are more: ranks that each think so would write the same files. */
static bmvp_status launch_alone(const launch_env *e, bmvp_error *err)
{
    const char *size = launch_value(e, "PMI_SIZE");
    if (!size || strcmp(size, "1") == 0) return BMVP_OK;
    return bmvp_error_set(
        err, BMVP_E_ARG,
        "PMI_SIZE=%.20s: ranks are read from Open MPI's mpirun; with another one set RANK, WORLD_SIZE, "
        "LOCAL_RANK, MASTER_ADDR and MASTER_PORT for each rank, as torchrun does",
        size);
}

bmvp_status launch_read(launch_place *l, launch_get get, void *user, bmvp_error *err)
{
    const launch_env e = { get, user };
    int seconds = 0;
    const bmvp_status st = launch_int(&e, "BMVP_TIMEOUT", 1, 1000000, &seconds, NULL, err);
    memset(l, 0, sizeof *l);
    l->size = 1;
    l->timeout = seconds;
    if (st) return st;
    if (launch_value(&e, "RANK") || launch_value(&e, "WORLD_SIZE")) l->by = LAUNCH_TORCHRUN;
    else if (launch_value(&e, "OMPI_COMM_WORLD_SIZE"))
        l->by = LAUNCH_MPIRUN; /* before srun: mpirun itself may run inside of a Slurm job */
    else if (launch_value(&e, "SLURM_PROCID")) l->by = LAUNCH_SRUN;
    switch (l->by) {
    case LAUNCH_TORCHRUN: return launch_torchrun(l, &e, err);
    case LAUNCH_MPIRUN: return launch_mpirun(l, &e, err);
    case LAUNCH_SRUN: return launch_srun(l, &e, err);
    default: return launch_alone(&e, err);
    }
}

launch_settings launch_settings_default(const launch_place *l)
{
    launch_settings s = { 60, 5, 300, 1, 8, 1 << 20, NULL, NULL };
    if (l->timeout > 0) s.join = s.call = l->timeout;
    return s;
}
