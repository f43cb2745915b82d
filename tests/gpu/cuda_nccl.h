/* cuda_nccl.h - NCCL for the shim: the few functions that bmvp_cuda.cu calls, between processes of this machine,
   through a file that they map. Sums are in the order of the ranks. Communicators do not block: they are in progress
   for a while after every call, and a call meanwhile is an error. An exchange goes on when all ranks have come to it; a
   rank that never does leaves the others waiting, as on a device. */
#ifndef BMVP_CUDA_NCCL_H
#define BMVP_CUDA_NCCL_H

#include "cuda_shim.h"
#include <fcntl.h>
#include <memory>

#define NCCL_VERSION_CODE 22800
enum { NCCL_UNIQUE_ID_BYTES = 128, NCCL_CONFIG_UNDEF_INT = -1 };
enum ncclResult_t {
    ncclSuccess,
    ncclUnhandledCudaError,
    ncclSystemError,
    ncclInternalError,
    ncclInvalidArgument,
    ncclInvalidUsage,
    ncclRemoteError,
    ncclInProgress
};
enum ncclDataType_t { ncclChar = 0, ncclFloat = 7 };
enum ncclRedOp_t { ncclSum };
struct ncclUniqueId { char internal[NCCL_UNIQUE_ID_BYTES]; };
struct ncclConfig_t { int blocking; };
#define NCCL_CONFIG_INITIALIZER { NCCL_CONFIG_UNDEF_INT }

enum { SHIM_RANKS = 4, SHIM_PIECE = 1 << 20 };
struct shim_nccl_file { /* zeros at first */
    int joined;
    int64_t come[SHIM_RANKS];                    /* to how many exchanges each rank has come */
    char piece[2][SHIM_RANKS][SHIM_PIECE];       /* of the exchange, and of the one before */
};
struct shim_nccl_state {
    shim_nccl_file *file = nullptr;
    int rank = 0, size = 0, aborted = 0, in_progress = 1, joined = 0;
    int64_t exchanges = 0;                       /* done or under way */
    ~shim_nccl_state() { munmap(file, sizeof *file); }
};
struct shim_nccl { std::shared_ptr<shim_nccl_state> state; };
typedef shim_nccl *ncclComm_t;
struct shim_nccl_test { /* what a test sees and sets */
    int collectives = 0, aborts = 0, open = 0;
    ncclResult_t fails = ncclSuccess;            /* the state of every communicator */
    std::shared_ptr<shim_nccl_state> group;      /* what the open group has calls for */
};
inline shim_nccl_test shim_nccl_test;

inline const char *ncclGetErrorString(ncclResult_t r)
{
    return r == ncclRemoteError ? "remote process exited or there was a network error" : "NCCL error";
}
inline const char *ncclGetLastError(ncclComm_t) { return ""; }
inline ncclResult_t ncclGetUniqueId(ncclUniqueId *id)
{
    memset(id, 0, sizeof *id);
    snprintf(id->internal, sizeof id->internal, "/tmp/bmvp_nccl.XXXXXX");
    const int f = mkstemp(id->internal);
    if (f < 0 || ftruncate(f, sizeof(shim_nccl_file)) != 0) return ncclSystemError;
    close(f);
    return ncclSuccess;
}
inline ncclResult_t ncclCommInitRankConfig(ncclComm_t *comm, int size, ncclUniqueId id, int rank, ncclConfig_t *k)
{
    const int f = open(id.internal, O_RDWR);
    if (f < 0 || size < 1 || size > SHIM_RANKS || k->blocking != 0) return ncclInvalidArgument;
    void *map = mmap(nullptr, sizeof(shim_nccl_file), PROT_READ | PROT_WRITE, MAP_SHARED, f, 0);
    close(f);
    if (map == MAP_FAILED) return ncclSystemError;
    *comm = new shim_nccl{ std::make_shared<shim_nccl_state>() };
    shim_nccl_state *s = (*comm)->state.get();
    s->file = (shim_nccl_file *)map;
    s->rank = rank;
    s->size = size;
    if (__atomic_add_fetch(&s->file->joined, 1, __ATOMIC_SEQ_CST) == size) (void)unlink(id.internal);
    ++shim_nccl_test.open;
    return ncclInProgress;
}
inline ncclResult_t ncclCommGetAsyncError(ncclComm_t comm, ncclResult_t *r)
{
    shim_nccl_state *s = comm->state.get();
    s->joined |= __atomic_load_n(&s->file->joined, __ATOMIC_SEQ_CST) == s->size;
    *r = !s->joined || s->in_progress-- > 0 ? ncclInProgress : ncclSuccess;
    if (s->in_progress < 0) s->in_progress = 0;
    if (shim_nccl_test.fails != ncclSuccess) *r = shim_nccl_test.fails;
    return ncclSuccess;
}
inline ncclResult_t ncclCommFinalize(ncclComm_t comm)
{
    comm->state->in_progress = 2;
    return ncclInProgress;
}
inline ncclResult_t ncclCommDestroy(ncclComm_t comm)
{
    --shim_nccl_test.open;
    delete comm;
    return ncclSuccess;
}
inline ncclResult_t ncclCommAbort(ncclComm_t comm)
{
    comm->state->aborted = 1; /* what waits in streams ends without effect */
    ++shim_nccl_test.aborts;
    return ncclCommDestroy(comm);
}
inline ncclResult_t ncclGroupStart() { return ncclSuccess; }
inline ncclResult_t ncclGroupEnd()
{
    if (!shim_nccl_test.group) return ncclSuccess;
    shim_nccl_test.group->in_progress = 2;
    shim_nccl_test.group.reset();
    return ncclInProgress;
}

/* Gives `from` (bytes long) to the others a piece at a time; then(place, bytes, ranks) takes what they gave at that
   place. */
template <class F>
inline ncclResult_t shim_exchange_pieces(ncclComm_t comm, cudaStream_t stream, const void *from, int64_t bytes,
                                         const F &then)
{
    const std::shared_ptr<shim_nccl_state> s = comm->state;
    if (!s->joined || s->in_progress || !shim_side(stream)) return ncclInvalidUsage;
    ++shim_nccl_test.collectives;
    shim_nccl_test.group = s;
    for (int64_t at = 0; at < bytes; at += SHIM_PIECE) {
        const int64_t n = bytes - at < (int64_t)SHIM_PIECE ? bytes - at : (int64_t)SHIM_PIECE, number = ++s->exchanges;
        stream->work.push_back([=] {
            char(*piece)[SHIM_PIECE] = s->file->piece[number % 2];
            if (s->aborted) return 1;
            if (s->file->come[s->rank] < number) {
                memcpy(piece[s->rank], (const char *)from + at, (size_t)n);
                __atomic_store_n(&s->file->come[s->rank], number, __ATOMIC_SEQ_CST);
            }
            for (int r = 0; r < s->size; ++r)
                if (__atomic_load_n(&s->file->come[r], __ATOMIC_SEQ_CST) < number) return 0;
            then(at, n, piece);
            return 1;
        });
        ++stream->given;
    }
    return ncclSuccess;
}
inline void shim_sum(float *y, const char (*piece)[SHIM_PIECE], int size, int64_t bytes)
{
    for (int64_t i = 0; i < bytes / 4; ++i) {
        float v = ((const float *)(const void *)piece[0])[i];
        for (int r = 1; r < size; ++r) v += ((const float *)(const void *)piece[r])[i];
        y[i] = v;
    }
}
inline ncclResult_t ncclAllReduce(const void *from, void *to, size_t n, ncclDataType_t type, ncclRedOp_t,
                                  ncclComm_t comm, cudaStream_t stream)
{
    const int size = comm->state->size;
    if (type != ncclFloat) return ncclInvalidArgument;
    return shim_exchange_pieces(comm, stream, from, (int64_t)n * 4,
                                [=](int64_t at, int64_t bytes, const char(*piece)[SHIM_PIECE]) {
                                    shim_sum((float *)to + at / 4, piece, size, bytes);
                                });
}
inline ncclResult_t ncclAllGather(const void *from, void *to, size_t n, ncclDataType_t type, ncclComm_t comm,
                                  cudaStream_t stream)
{
    const int size = comm->state->size;
    if (type != ncclChar) return ncclInvalidArgument;
    return shim_exchange_pieces(comm, stream, from, (int64_t)n,
                                [=](int64_t at, int64_t bytes, const char(*piece)[SHIM_PIECE]) {
                                    for (int r = 0; r < size; ++r)
                                        memcpy((char *)to + r * (int64_t)n + at, piece[r], (size_t)bytes);
                                });
}
inline ncclResult_t ncclBroadcast(const void *from, void *to, size_t n, ncclDataType_t type, int root, ncclComm_t comm,
                                  cudaStream_t stream)
{
    if (type != ncclChar) return ncclInvalidArgument;
    return shim_exchange_pieces(comm, stream, from, (int64_t)n,
                                [=](int64_t at, int64_t bytes, const char(*piece)[SHIM_PIECE]) {
                                    memcpy((char *)to + at, piece[root], (size_t)bytes);
                                });
}
inline ncclResult_t ncclReduceScatter(const void *from, void *to, size_t n, ncclDataType_t type, ncclRedOp_t,
                                      ncclComm_t comm, cudaStream_t stream)
{
    const shim_nccl_state *s = comm->state.get();
    const int rank = s->rank, size = s->size;
    ncclResult_t result = type == ncclFloat ? ncclSuccess : ncclInvalidArgument;
    for (int part = 0; result == ncclSuccess && part < size; ++part)
        result = shim_exchange_pieces(comm, stream, (const float *)from + part * (int64_t)n, (int64_t)n * 4,
                                      [=](int64_t at, int64_t bytes, const char (*piece)[SHIM_PIECE]) {
                                          if (part == rank) shim_sum((float *)to + at / 4, piece, size, bytes);
                                      });
    return result;
}

#endif /* BMVP_CUDA_NCCL_H */
