/* launch.h - data-parallel runs: which rank of how many this process is, from the environment of what started it

   Read are, the first that is there:
       torchrun   RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT, TORCHELASTIC_RUN_ID
       mpirun     OMPI_COMM_WORLD_RANK, .._SIZE, .._LOCAL_RANK, .._LOCAL_SIZE, PMIX_NAMESPACE or OMPI_MCA_ess_base_jobid
       srun       SLURM_PROCID, SLURM_NTASKS (of the step where SLURM_STEP_NUM_TASKS is set), SLURM_LOCALID,
       SLURM_STEP_NODELIST or
                  SLURM_JOB_NODELIST, SLURM_JOB_ID, SLURM_STEP_ID
   With none of them the process is alone. For all three
       MASTER_ADDR   host of rank 0, as the other ranks reach it. Default of srun: the first host of the list; of mpirun
       with all
                     ranks on one host: 127.0.0.1
       BMVP_PORT     port on that host. Default MASTER_PORT (torchrun's agent listens there itself when
       TORCHELASTIC_USE_AGENT_STORE is True:
                     the next one then); of srun and mpirun without it: one derived from the job
       BMVP_JOB      any text, the same for all ranks: only ranks with the same text meet. Default: the job's number or
       name BMVP_TIMEOUT  seconds that ranks wait for one another */
#ifndef LAUNCH_H_INCLUDED
#define LAUNCH_H_INCLUDED

#include "bmvp_tensor.h"

enum { LAUNCH_MOST = 1024 }; /* ranks */

typedef enum launch_by { LAUNCH_ALONE, LAUNCH_TORCHRUN, LAUNCH_MPIRUN, LAUNCH_SRUN } launch_by;

typedef struct launch_place {
    launch_by by;
    int rank, size;     /* 0 <= rank < size */
    int local_rank;     /* number among the ranks of this host */
    char address[256];  /* name or number of rank 0's host; "" when alone */
    int port;
    uint64_t nonce;     /* of the job: the same on all ranks, another for other jobs */
    double timeout;     /* BMVP_TIMEOUT, 0: not given */
} launch_place;

typedef struct launch_settings { /* seconds, bytes */
    double join;   /* until all ranks have met */
    double hello;  /* until a connection has said who it is */
    double call;   /* until the other ranks have come to a call, or went on in it */
    double beat;   /* from one sign of life to the next */
    double silent; /* without a sign of life: the rank is given up */
    int64_t chunk; /* largest piece of a sum: rank 0 keeps one of each rank */
    void (*failed)(void *user, const char *why); /* over TCP: called once when a rank is known to have failed, from any
                                                    thread, and must not make calls of the table; or NULL */
    void *user;
} launch_settings;

/* 60, 5, 300, 1, 8 seconds, 1 MiB, nobody to be told; with BMVP_TIMEOUT that for join and call. */
launch_settings launch_settings_default(const launch_place *l);

/* Value of a variable, NULL: not set. */
typedef const char *(*launch_get)(void *user, const char *name);

/* get NULL: this process's environment. BMVP_E_ARG naming the variable that is missing or wrong, and what to do. */
bmvp_status launch_read(launch_place *l, launch_get get, void *user, bmvp_error *err);

/* All ranks meet; the table is for bmvp_set_comm, with start and wait. s NULL: the defaults. BMVP_E_IO: a rank did not
   come. Every rank that has joined leaves, after failures too; a process that ends without leaving is a failure on the
   other ranks. Before ending because of a failure of its own, a rank calls abort; over MPI that ends all processes at
   once, with the reason on stderr. A run started alone has a table of one rank, which works. */
bmvp_status launch_join(const launch_place *l, const launch_settings *s, bmvp_comm *out, bmvp_error *err);
void launch_leave(bmvp_comm *m);
const char *launch_over(const launch_place *l); /* "TCP"; "MPI": started by mpirun, in a program made with MPI=1 */

#endif /* LAUNCH_H_INCLUDED */
