/* test_launch.c - data-parallel runs: what the environment says */
#include "bmvp_tensor.h"
#include "examples/bmvp/launch.h"
#include "check.h"

/* >>environment --------------------------------------------------------------------------------------------------------- */

/* "NAME=value;NAME=value": the value, in one of a few buffers */
static const char *value_in(void *user, const char *name)
{
    static char value[16][400];
    static int turn;
    const char *p = (const char *)user;
    const size_t n = strlen(name);
    while (p && *p) {
        const size_t length = strcspn(p, ";");
        if (length > n && strncmp(p, name, n) == 0 && p[n] == '=') {
            turn = (turn + 1) % 16;
            snprintf(value[turn], sizeof value[turn], "%.*s", (int)(length - n - 1), p + n + 1);
            return value[turn];
        }
        p += length + (p[length] == ';');
    }
    return NULL;
}

#define TORCH "RANK=1;WORLD_SIZE=4;LOCAL_RANK=1;MASTER_ADDR=node7;MASTER_PORT=29500"
#define SLURM "SLURM_PROCID=5;SLURM_NTASKS=8;SLURM_LOCALID=1;SLURM_JOB_ID=4711"
#define OMPI "OMPI_COMM_WORLD_RANK=1;OMPI_COMM_WORLD_SIZE=2;OMPI_COMM_WORLD_LOCAL_RANK=1"

static void test_environment(void)
{
    static const struct { const char *env; int by, rank, size, local; const char *address; int port; /* 0: derived */ } row[] = {
        { "", BMVP_LAUNCH_ALONE, 0, 1, 0, "", 0 },
        { "MASTER_ADDR=x;MASTER_PORT=y", BMVP_LAUNCH_ALONE, 0, 1, 0, "", 0 },
        { TORCH, BMVP_LAUNCH_TORCHRUN, 1, 4, 1, "node7", 29500 },
        { TORCH ";BMVP_PORT=31000", BMVP_LAUNCH_TORCHRUN, 1, 4, 1, "node7", 31000 },
        { TORCH ";TORCHELASTIC_USE_AGENT_STORE=True", BMVP_LAUNCH_TORCHRUN, 1, 4, 1, "node7", 29501 },
        { TORCH ";TORCHELASTIC_USE_AGENT_STORE=False", BMVP_LAUNCH_TORCHRUN, 1, 4, 1, "node7", 29500 },
        { TORCH ";" SLURM, BMVP_LAUNCH_TORCHRUN, 1, 4, 1, "node7", 29500 },
        { "RANK=0;WORLD_SIZE=1", BMVP_LAUNCH_TORCHRUN, 0, 1, 0, "", 0 },
        { "RANK=0;WORLD_SIZE=2;MASTER_ADDR=fe80::1%eth0;MASTER_PORT=65535;TORCHELASTIC_USE_AGENT_STORE=True", BMVP_LAUNCH_TORCHRUN, 0, 2, 0,
          "fe80::1%eth0", 65534 },
        { SLURM ";SLURM_JOB_NODELIST=node[003-007,9],gpu2", BMVP_LAUNCH_SRUN, 5, 8, 1, "node003", 0 },
        { SLURM ";SLURM_JOB_NODELIST=gpu2,node[003-007,9]", BMVP_LAUNCH_SRUN, 5, 8, 1, "gpu2", 0 },
        { SLURM ";SLURM_JOB_NODELIST=node9", BMVP_LAUNCH_SRUN, 5, 8, 1, "node9", 0 },
        { SLURM ";SLURM_JOB_NODELIST=rack[2,5]n[07-11]-ib.x,y", BMVP_LAUNCH_SRUN, 5, 8, 1, "rack2n07-ib.x", 0 },
        { SLURM ";SLURM_JOB_NODELIST=a[1-2];SLURM_STEP_NODELIST=a2", BMVP_LAUNCH_SRUN, 5, 8, 1, "a2", 0 },
        { SLURM ";SLURM_JOB_NODELIST=a;MASTER_ADDR=b;MASTER_PORT=1234", BMVP_LAUNCH_SRUN, 5, 8, 1, "b", 1234 },
        { SLURM ";SLURM_JOB_NODELIST=a;SLURM_STEP_NUM_TASKS=6;TORCHELASTIC_USE_AGENT_STORE=True;MASTER_PORT=7", BMVP_LAUNCH_SRUN, 5, 6, 1, "a", 7 },
        { "SLURM_PROCID=0;SLURM_NTASKS=1", BMVP_LAUNCH_SRUN, 0, 1, 0, "", 0 },
        { OMPI ";OMPI_COMM_WORLD_LOCAL_SIZE=2;PMIX_NAMESPACE=77", BMVP_LAUNCH_MPIRUN, 1, 2, 1, "127.0.0.1", 0 },
        { OMPI ";OMPI_COMM_WORLD_LOCAL_SIZE=2;OMPI_MCA_ess_base_jobid=77", BMVP_LAUNCH_MPIRUN, 1, 2, 1, "127.0.0.1", 0 },
        { OMPI ";OMPI_COMM_WORLD_LOCAL_SIZE=1;MASTER_ADDR=h1;MASTER_PORT=99;" SLURM, BMVP_LAUNCH_MPIRUN, 1, 2, 1, "h1", 99 },
    };
    size_t i;
    for (i = 0; i < sizeof row / sizeof *row; ++i) {
        bmvp_launch l;
        bmvp_error err;
        const bmvp_status st = bmvp_launch_read(&l, value_in, (void *)(uintptr_t)row[i].env, &err);
        if (!check_report(st == BMVP_OK, __FILE__, __LINE__, "%s: %s", row[i].env, err.message)) continue;
        check_report((int)l.by == row[i].by && l.rank == row[i].rank && l.size == row[i].size && l.local_rank == row[i].local &&
                     strcmp(l.address, row[i].address) == 0 && (row[i].port || l.size == 1 ? l.port == row[i].port : l.port >= 15000 && l.port < 30000),
                     __FILE__, __LINE__, "%s: by %d, rank %d of %d, local %d, %s:%d", row[i].env, (int)l.by, l.rank, l.size, l.local_rank, l.address,
                     l.port);
    }
}

/* What is wrong, and the two things its message must name: the variable and what to do */
static void test_bad_environment(void)
{
    static const struct { const char *env, *variable, *advice; } row[] = {
        { "RANK=1", "WORLD_SIZE is not set", "or neither" },
        { "WORLD_SIZE=2", "RANK is not set", "or neither" },
        { "RANK=4;WORLD_SIZE=4;MASTER_ADDR=a;MASTER_PORT=1", "RANK=4", "from 0 to 3" },
        { "RANK=-1;WORLD_SIZE=4", "RANK=-1", "from 0" },
        { "RANK= 1;WORLD_SIZE=4", "RANK= 1", "whole number" },
        { "RANK=1x;WORLD_SIZE=4", "RANK=1x", "whole number" },
        { "RANK=99999999999999999999;WORLD_SIZE=4", "RANK=9999", "whole number" },
        { "RANK=0;WORLD_SIZE=0", "WORLD_SIZE=0", "from 1 to" },
        { "RANK=0;WORLD_SIZE=1000000", "WORLD_SIZE=1000000", "from 1 to" },
        { "RANK=0;WORLD_SIZE=2;LOCAL_RANK=one", "LOCAL_RANK=one", "whole number" },
        { "RANK=0;WORLD_SIZE=2;MASTER_PORT=1", "MASTER_ADDR is not set", "host of rank 0" },
        { "RANK=0;WORLD_SIZE=2;MASTER_ADDR=a", "MASTER_PORT is not set", "free port" },
        { "RANK=0;WORLD_SIZE=2;MASTER_ADDR=a;MASTER_PORT=65536", "MASTER_PORT=65536", "to 65535" },
        { "RANK=0;WORLD_SIZE=2;MASTER_ADDR=a;MASTER_PORT=0", "MASTER_PORT=0", "from 1" },
        { "RANK=0;WORLD_SIZE=2;MASTER_ADDR=a;MASTER_PORT=5;BMVP_PORT=no", "BMVP_PORT=no", "whole number" },
        { "RANK=0;WORLD_SIZE=2;MASTER_ADDR=http://a/;MASTER_PORT=5", "MASTER_ADDR=http://a/", "without a port" },
        { "SLURM_PROCID=0", "SLURM_NTASKS is not set", "srun" },
        { "SLURM_PROCID=8;SLURM_NTASKS=8", "SLURM_PROCID=8", "from 0 to 7" },
        { "SLURM_PROCID=0;SLURM_NTASKS=2;SLURM_JOB_ID=1", "SLURM_JOB_NODELIST is not set", "MASTER_ADDR" },
        { "SLURM_PROCID=0;SLURM_NTASKS=2;SLURM_JOB_NODELIST=a", "MASTER_PORT is not set", "free port" },
        { SLURM ";SLURM_JOB_NODELIST=node[003-007", "SLURM_JOB_NODELIST=node[003", "MASTER_ADDR" },
        { SLURM ";SLURM_JOB_NODELIST=node[]", "SLURM_JOB_NODELIST=node[]", "MASTER_ADDR" },
        { SLURM ";SLURM_JOB_NODELIST=node[a-b]", "SLURM_JOB_NODELIST=node[a-b]", "MASTER_ADDR" },
        { SLURM ";SLURM_JOB_NODELIST=node]3", "SLURM_JOB_NODELIST=node]3", "MASTER_ADDR" },
        { SLURM ";SLURM_JOB_NODELIST=,a", "SLURM_JOB_NODELIST=,a", "MASTER_ADDR" },
        { "OMPI_COMM_WORLD_SIZE=2", "OMPI_COMM_WORLD_RANK is not set", "mpirun" },
        { "OMPI_COMM_WORLD_RANK=2;OMPI_COMM_WORLD_SIZE=2", "OMPI_COMM_WORLD_RANK=2", "from 0 to 1" },
        { OMPI ";OMPI_COMM_WORLD_LOCAL_SIZE=1", "MASTER_ADDR is not set", "mpirun -x" },
        { OMPI ";OMPI_COMM_WORLD_LOCAL_SIZE=2", "MASTER_PORT is not set", "mpirun -x" },
        { "BMVP_TIMEOUT=soon", "BMVP_TIMEOUT=soon", "whole number" },
    };
    char list[700] = SLURM ";SLURM_JOB_NODELIST=";
    bmvp_launch l;
    bmvp_error err;
    size_t i;
    for (i = 0; i < sizeof row / sizeof *row; ++i) {
        if (!check_report(bmvp_launch_read(&l, value_in, (void *)(uintptr_t)row[i].env, &err) == BMVP_E_ARG, __FILE__, __LINE__, "%s: taken",
                          row[i].env)) continue;
        CHECK_HOLDS(err.message, row[i].variable);
        CHECK_HOLDS(err.message, row[i].advice);
    }
    memset(list + strlen(list), 'n', 300); /* a name longer than any */
    CHECK(bmvp_launch_read(&l, value_in, list, &err) == BMVP_E_ARG);
}

static uint64_t nonce_of(const char *env)
{
    bmvp_launch l;
    bmvp_error err;
    CHECK(bmvp_launch_read(&l, value_in, (void *)(uintptr_t)env, &err) == BMVP_OK);
    return l.nonce;
}

/* Of the job and of nothing that differs between its ranks */
static void test_nonce(void)
{
    const char *one = "SLURM_PROCID=0;SLURM_NTASKS=8;SLURM_JOB_ID=4711;SLURM_JOB_NODELIST=a", *two = SLURM ";SLURM_JOB_NODELIST=a";
    CHECK(nonce_of(one) == nonce_of(two));
    CHECK(nonce_of(SLURM ";SLURM_JOB_NODELIST=a;SLURM_STEP_ID=0") != nonce_of(SLURM ";SLURM_JOB_NODELIST=a;SLURM_STEP_ID=1"));
    CHECK(nonce_of(SLURM "1;SLURM_JOB_NODELIST=a") != nonce_of(two));
    CHECK(nonce_of(TORCH ";TORCHELASTIC_RUN_ID=a") != nonce_of(TORCH ";TORCHELASTIC_RUN_ID=b"));
    CHECK(nonce_of(TORCH) != nonce_of("RANK=1;WORLD_SIZE=4;MASTER_ADDR=node7;MASTER_PORT=29501"));
    CHECK(nonce_of(TORCH ";BMVP_JOB=a") == nonce_of(SLURM ";SLURM_JOB_NODELIST=a;BMVP_JOB=a"));
    CHECK(nonce_of(TORCH ";BMVP_JOB=a") != nonce_of(TORCH ";BMVP_JOB=b"));
}

int main(int argc, char **argv)
{
    check_begin(argc, argv);
    CHECK_RUN(test_environment);
    CHECK_RUN(test_bad_environment);
    CHECK_RUN(test_nonce);
    return check_end();
}
