/* cuda_shim.h - for tests: a .cu file compiled as C++ runs on the CPU, so that its kernels are tested where there is
   no GPU.

   Every CUDA thread is a fiber with a stack of its own; one block runs at a time. Warps are scheduled in a seeded
   random order and for a random number of turns, and blocks in a seeded order, so that a missing barrier or a
   dependence between blocks shows as a wrong result (shim_seed; try several). What is an error on the device is one
   here: a barrier that some threads of the block never reach, a shuffle that some lanes of the mask never reach, too
   many threads, too much shared memory, a grid too large.

   As on a device, launches, matrix products and copies are only noted where they are called, and done in their order
   by the next call that waits: pinned memory that is changed too early shows as a wrong result. A captured stream only
   notes them for its graph, and calls that are not allowed then fail. The stream that cuBLAS was given is the one that
   computes. Further ones (copies of pinned memory and tests/gpu/cuda_nccl.h give them work) go on at random times as
   far as events let them: as soon as can be or as late, so that an event that is missing shows. Work for a stream of
   another device than the current one is refused.

   Device memory is pages of their own: an access beyond its end hits a guard page, new memory is NaN, and while no
   kernel runs it cannot be touched at all, so that the host reading a device pointer dies at once. Dynamic shared
   memory is NaN at the start of a block and of exact size for AddressSanitizer. cuBLAS and cuBLASLt are in
   cuda_blas.h. */
#ifndef BMVP_CUDA_SHIM_H
#define BMVP_CUDA_SHIM_H

#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <deque>
#include <functional>
#include <map>
#include <vector>
#include <sys/mman.h>
#include <unistd.h>
#if !defined(__x86_64__) || defined(SHIM_UCONTEXT)
#include <ucontext.h>
#endif
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

#define __global__
#define __device__
#define __host__
#define __shared__ static
#define __forceinline__ inline
#define __launch_bounds__(...)

struct uint3 { unsigned x, y, z; };
struct dim3 {
    unsigned x, y, z;
    dim3(unsigned a = 1, unsigned b = 1, unsigned c = 1) : x(a), y(b), z(c) {}
};

[[noreturn]] inline void shim_die(const char *kernel, const char *why)
{
    fprintf(stderr, "cuda shim: %s: %s\n", kernel, why);
    abort();
}

/* ---- fibers ------------------------------------------------------------------------------------------------------ */

enum shim_state { SHIM_READY, SHIM_AT_BLOCK, SHIM_AT_WARP, SHIM_DONE };

#if defined(__x86_64__) && !defined(SHIM_UCONTEXT)
/* Saves what a function call must keep, leaves the stack pointer in *from, continues at `to`. */
extern "C" void shim_switch(void **from, void *to);
asm(".text\n.weak shim_switch\n.type shim_switch,@function\nshim_switch:\n"
    "pushq %rbp\npushq %rbx\npushq %r12\npushq %r13\npushq %r14\npushq %r15\nmovq %rsp,(%rdi)\n"
    "movq %rsi,%rsp\npopq %r15\npopq %r14\npopq %r13\npopq %r12\npopq %rbx\npopq %rbp\nret\n");
typedef void *shim_place;
#else
typedef ucontext_t shim_place;
#endif

struct shim_copy { /* started by copy_async, done when waited for */
    void *to;
    const void *from;
    int bytes, group;
};

struct shim_fiber {
    shim_place place;
    uint3 thread;
    int number, state;
    void *fake; /* AddressSanitizer's */
    std::deque<shim_copy> copies;
    int group; /* of copies: those started until the next commit */
};

struct shim_warp {
    uint32_t arrived, mask;
    unsigned char slot[32][16]; /* what a shuffle hands over */
    uint32_t part[32][6];       /* a lane's part of the operands of a matrix product */
};

struct shim_block {
    const char *name;
    const std::function<void()> *body;
    std::vector<shim_fiber> fiber;
    std::vector<shim_warp> warp;
    std::vector<unsigned char> dynamic;
    uint3 index;
    dim3 size, grid;
    int arrived, left;
    shim_place scheduler;
    void *fake;
};

enum { SHIM_STACK = 1 << 16 };
struct shim_machine {
    uint64_t random = 88172645463325252ull;
    char *stacks = nullptr;
    size_t n_stacks = 0;
    int device = 0;                    /* the current one */
    const void *main_bottom = nullptr; /* of the scheduler's stack, for AddressSanitizer */
    size_t main_size = 0;
    shim_block *block = nullptr;
    shim_fiber *now = nullptr;
    int error = 0, late_error = 0, devices = 1;  /* late: what the next synchronisation finds */
    int64_t launches = 0, allocations_left = -1; /* -1: any number */
    int64_t heuristics = 0;                      /* asked of cuBLASLt */
    int no_algorithm = 0;                        /* 1: cuBLASLt has none */
    std::map<const void *, int> shared_limit;
    struct region { size_t pages, bytes; int device; };
    std::map<char *, region> memory;             /* by the pages' first byte */
    int open = 0, locked = 1, closed = 0;
    std::deque<std::function<void()>> stream;    /* what has not been done yet */
    int64_t given = 0;                           /* to the stream, so far: given - stream.size() are done */
    int running = 0, stalled = 0;                /* its work is being done; that cannot go on yet */
    std::vector<struct shim_stream *> sides;     /* further streams */
    std::map<char *, size_t> pinned;
    struct node { const char *what; std::function<void()> work; };
    std::vector<node> recorded;                  /* of a stream that is captured */
    struct shim_stream *recorder = nullptr;      /* that stream */
    int recording = 0, spoilt = 0;               /* spoilt: by a call that is not allowed then */
    int relaxed = 0;                             /* its capture's mode */
    std::map<const void *, int> loaded;          /* kernels that have been launched */
    int graphs = 0, updates = 0, graph_launches = 0;
    int graph_nodes = 0; /* of the last one launched */
    int waits = 0; /* of the host for all that the stream has been given */
};
inline shim_machine shim;

/* A stream. Of those that do not compute: their work, which says 0 when it cannot go on yet */
struct shim_stream {
    int device = 0, flags = 0;
    int computes = 0;
    std::deque<std::function<int()>> work = {};
    int64_t given = 0;
    int busy = 0;
    int64_t done() const { return given - (int64_t)work.size(); }
};
typedef struct shim_stream *cudaStream_t;
enum { cudaStreamNonBlocking = 1 };

/* Work for a stream that computes; none: the default stream, which waits for all that are not cudaStreamNonBlocking */
inline void shim_give(cudaStream_t s, const char *what, const std::function<void()> &work)
{
    if (shim.recording && s == shim.recorder) {
        shim.recorded.push_back({ what, work });
        return;
    }
    if (shim.recording && !s && !(shim.recorder->flags & cudaStreamNonBlocking)) shim.spoilt = 1;
    shim.stream.push_back(work);
    ++shim.given;
}
/* Is this call, which waits or may wait, forbidden now, since a stream is captured? What concerns another device is not
   in relaxed mode. */
inline int shim_forbidden()
{
    if (shim.recording && shim.relaxed && shim.device != shim.recorder->device) return 0;
    shim.spoilt |= shim.recording;
    return shim.recording;
}

inline void shim_seed(uint64_t seed) { shim.random = seed * 0x9e3779b97f4a7c15ull + 88172645463325252ull; }
inline uint32_t shim_random(uint32_t below)
{
    shim.random ^= shim.random << 13;
    shim.random ^= shim.random >> 7;
    shim.random ^= shim.random << 17;
    return (uint32_t)((shim.random >> 16) % below);
}

inline void shim_jump(shim_place *from, shim_place *to)
{
#if defined(__x86_64__) && !defined(SHIM_UCONTEXT)
    shim_switch(from, *to);
#else
    swapcontext(from, to);
#endif
}

/* From the running thread back to the scheduler. */
inline void shim_leave(int state)
{
    shim_fiber *f = shim.now;
    f->state = state;
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(state == SHIM_DONE ? nullptr : &f->fake, shim.main_bottom, shim.main_size);
#endif
    shim_jump(&f->place, &shim.block->scheduler);
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(f->fake, nullptr, nullptr);
#endif
}

inline void shim_start()
{
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(nullptr, &shim.main_bottom, &shim.main_size);
#endif
    (*shim.block->body)();
    shim_leave(SHIM_DONE);
    abort();
}

inline void shim_enter(shim_fiber *f)
{
    shim.now = f;
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(&shim.block->fake, shim.stacks + (size_t)f->number * SHIM_STACK, SHIM_STACK);
#endif
    shim_jump(&shim.block->scheduler, &f->place);
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(shim.block->fake, nullptr, nullptr);
#endif
}

inline void shim_prepare(shim_block *b, int i)
{
    shim_fiber *f = &b->fiber[(size_t)i];
    char *bottom = shim.stacks + (size_t)i * SHIM_STACK;
    f->number = i;
    f->state = SHIM_READY;
    f->fake = nullptr;
    f->copies.clear();
    f->group = 0;
    f->thread.x = (unsigned)i % b->size.x;
    f->thread.y = (unsigned)i / b->size.x % b->size.y;
    f->thread.z = (unsigned)i / b->size.x / b->size.y;
#if defined(__x86_64__) && !defined(SHIM_UCONTEXT)
    void **sp = (void **)(void *)(bottom + SHIM_STACK);
    *--sp = nullptr; /* where shim_start would return to: keeps the stack aligned as after a call */
    *--sp = (void *)shim_start;
    for (int k = 0; k < 6; ++k) *--sp = nullptr;
    f->place = sp;
#else
    getcontext(&f->place);
    f->place.uc_stack.ss_sp = bottom;
    f->place.uc_stack.ss_size = SHIM_STACK;
    f->place.uc_link = nullptr;
    makecontext(&f->place, shim_start, 0);
#endif
}

/* One turn: every lane of a warp that can run does so until it waits or ends, from a random lane on. Returns how many
   ran. */
inline int shim_turn(shim_block *b, size_t w)
{
    const size_t first = shim_random(32);
    int ran = 0;
    for (size_t i = 0; i < 32; ++i) {
        shim_fiber *f = &b->fiber[w * 32 + (first + i) % 32];
        if (f->state != SHIM_READY) continue;
        shim_enter(f);
        ++ran;
        b->left -= f->state == SHIM_DONE;
    }
    return ran;
}

inline void shim_run_block(shim_block *b)
{
    const size_t warps = b->warp.size();
    b->arrived = 0;
    b->left = (int)b->fiber.size();
    for (unsigned char &byte : b->dynamic) byte = 0xff;
    for (size_t i = 0; i < b->fiber.size(); ++i) shim_prepare(b, (int)i);
    for (size_t w = 0; w < warps; ++w) b->warp[w].arrived = 0;
    while (b->left > 0) {
        const size_t from = shim_random((uint32_t)warps);
        int ran = 0;
        for (size_t k = 0; k < warps && !ran; ++k) /* the first warp from there on that can run */
            for (uint32_t turns = 1 + shim_random(8); turns > 0; --turns) ran += shim_turn(b, (from + k) % warps);
        if (!ran) shim_die(b->name, "threads wait at a barrier or shuffle that others never reach");
    }
}

/* ---- device memory ----------------------------------------------------------------------------------------------- */

inline void shim_lock(int on)
{
    if (shim.locked == on) return;
    for (auto &m : shim.memory) mprotect(m.first, m.second.pages, on ? PROT_NONE : PROT_READ | PROT_WRITE);
    shim.locked = on;
}
/* While one lives, device memory can be touched. Many allocations are slow to lock: then only every 16th time. */
struct shim_access {
    shim_access()
    {
        if (shim.open++ == 0) shim_lock(0);
    }
    ~shim_access()
    {
        if (--shim.open == 0 && (shim.memory.size() <= 64 || ++shim.closed % 16 == 0)) shim_lock(1);
    }
};

/* Does [p, p + bytes) lie in device memory? */
inline int shim_is_device(const void *p, size_t bytes)
{
    auto m = shim.memory.upper_bound((char *)(uintptr_t)p);
    if (m == shim.memory.begin()) return 0;
    --m;
    return (const char *)p + bytes <= m->first + m->second.pages;
}

enum cudaError_t {
    cudaSuccess = 0,
    cudaErrorInvalidValue = 1,
    cudaErrorMemoryAllocation = 2,
    cudaErrorInvalidConfiguration = 9,
    cudaErrorInsufficientDriver = 35,
    cudaErrorNoDevice = 100,
    cudaErrorInvalidDevice = 101,
    cudaErrorInvalidResourceHandle = 400,
    cudaErrorNotReady = 600,
    cudaErrorIllegalAddress = 700,
    cudaErrorStreamCaptureUnsupported = 900,
    cudaErrorStreamCaptureInvalidated = 901,
    cudaErrorGraphExecUpdateFailure = 910
};
enum cudaMemcpyKind { cudaMemcpyHostToDevice = 1, cudaMemcpyDeviceToHost = 2, cudaMemcpyDeviceToDevice = 3 };
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize = 8 };

inline const char *cudaGetErrorString(cudaError_t e)
{
    switch (e) {
    case cudaSuccess: return "no error";
    case cudaErrorInvalidValue: return "invalid argument";
    case cudaErrorMemoryAllocation: return "out of memory";
    case cudaErrorInvalidConfiguration: return "invalid configuration argument";
    case cudaErrorInsufficientDriver: return "CUDA driver version is insufficient for CUDA runtime version";
    case cudaErrorNoDevice: return "no CUDA-capable device is detected";
    case cudaErrorStreamCaptureUnsupported: return "operation not permitted when stream is capturing";
    case cudaErrorStreamCaptureInvalidated: return "operation failed due to a previous error during capture";
    case cudaErrorGraphExecUpdateFailure:
        return "the graph update was not performed because it included changes which violated constraints";
    case cudaErrorInvalidDevice: return "invalid device ordinal";
    case cudaErrorInvalidResourceHandle: return "invalid resource handle";
    case cudaErrorNotReady: return "device not ready";
    default: return "an illegal memory access was encountered";
    }
}
inline cudaError_t cudaGetLastError()
{
    const cudaError_t e = (cudaError_t)shim.error;
    shim.error = 0;
    return e;
}
inline cudaError_t cudaGetDeviceCount(int *n)
{
    *n = shim.devices;
    return shim.devices ? cudaSuccess : cudaErrorNoDevice;
}
inline cudaError_t cudaSetDevice(int i)
{
    if (i < 0 || i >= shim.devices) return cudaErrorInvalidDevice;
    shim.device = i;
    return cudaSuccess;
}
inline cudaError_t cudaGetDevice(int *i)
{
    *i = shim.device;
    return cudaSuccess;
}
inline shim_stream *shim_side(cudaStream_t s) { return s && !s->computes ? s : nullptr; }
/* Is it a stream of another device? */
inline int shim_foreign(cudaStream_t s) { return s && s->device != shim.device; }
inline int64_t shim_done() { return shim.given - (int64_t)shim.stream.size(); }
/* Goes on with a further stream up to its work number `last`; 1: that is done. */
inline int shim_run_side(shim_stream *s, int64_t last)
{
    const shim_access access;
    for (int went_on = 1; !s->busy && went_on && s->done() < last;) {
        s->busy = 1;
        went_on = s->work.front()();
        s->busy = 0;
        if (went_on) s->work.pop_front();
    }
    return s->done() >= last;
}
/* Does the stream's work up to the one with number `last`; with wait 0 only while it can go on. 1: that is done. */
inline int shim_run(int64_t last, int wait = 1)
{
    const shim_access access;
    while (!shim.stream.empty() && shim_done() < last) {
        const std::function<void()> work = shim.stream.front();
        shim.running = 1;
        shim.stalled = 0;
        for (shim_stream *s : shim.sides) if (shim_random(4) == 0) (void)shim_run_side(s, s->given);
        work();
        shim.running = 0;
        if (!shim.stalled) shim.stream.pop_front();
        else if (wait) usleep(100);
        else return 0;
    }
    return 1;
}
inline cudaError_t cudaStreamCreateWithFlags(cudaStream_t *s, unsigned flags)
{
    *s = new shim_stream;
    (*s)->device = shim.device;
    (*s)->flags = (int)flags;
    shim.sides.push_back(*s);
    return cudaSuccess;
}
inline cudaError_t cudaStreamCreate(cudaStream_t *s) { return cudaStreamCreateWithFlags(s, 0); }
inline cudaError_t cudaStreamDestroy(cudaStream_t s)
{
    if (!s) return cudaErrorInvalidResourceHandle;
    while (shim_side(s) && !shim_run_side(s, s->given)) usleep(100);
    for (size_t i = 0; i < shim.sides.size(); ++i)
        if (shim.sides[i] == s) shim.sides.erase(shim.sides.begin() + (std::ptrdiff_t)i);
    delete s;
    return cudaSuccess;
}
inline cudaError_t cudaStreamSynchronize(cudaStream_t)
{
    if (shim_forbidden()) return cudaErrorStreamCaptureUnsupported;
    ++shim.waits;
    shim_run(shim.given);
    const cudaError_t e = (cudaError_t)shim.late_error;
    shim.late_error = 0;
    return e;
}

inline cudaError_t cudaMalloc(void **p, size_t bytes)
{
    const size_t page = (size_t)sysconf(_SC_PAGESIZE), used = (bytes + 63) / 64 * 64,
                 pages = (used + page - 1) / page * page;
    if (shim_forbidden()) return cudaErrorStreamCaptureUnsupported;
    if (shim.allocations_left == 0) return cudaErrorMemoryAllocation;
    if (shim.allocations_left > 0) --shim.allocations_left;
    char *m = (char *)mmap(nullptr, pages + page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (m == MAP_FAILED) return cudaErrorMemoryAllocation;
    mprotect(m, pages, PROT_READ | PROT_WRITE);
    memset(m, 0xff, pages);
    if (shim.locked) mprotect(m, pages, PROT_NONE);
    shim.memory[m] = shim_machine::region{ pages, bytes, shim.device };
    *p = m + pages - used; /* ends where the guard page begins */
    return cudaSuccess;
}
inline cudaError_t cudaFree(void *p)
{
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    if (!p) return cudaSuccess;
    if (shim_forbidden()) return cudaErrorStreamCaptureUnsupported;
    shim_run(shim.given);
    for (shim_stream *s : shim.sides) while (!shim_run_side(s, s->given)) usleep(100);
    auto m = shim.memory.upper_bound((char *)p);
    if (m == shim.memory.begin()) return cudaErrorInvalidValue;
    --m;
    if (m->first + m->second.pages - (m->second.bytes + 63) / 64 * 64 != (char *)p) return cudaErrorInvalidValue;
    munmap(m->first, m->second.pages + page);
    shim.memory.erase(m);
    return cudaSuccess;
}
inline int shim_is_pinned(const void *p, size_t bytes)
{
    auto m = shim.pinned.upper_bound((char *)(uintptr_t)p);
    if (m == shim.pinned.begin()) return 0;
    --m;
    return (const char *)p + bytes <= m->first + m->second;
}
inline cudaError_t cudaMallocHost(void **p, size_t bytes)
{
    if (shim_forbidden()) return cudaErrorStreamCaptureUnsupported;
    if (shim.allocations_left == 0) return cudaErrorMemoryAllocation;
    if (shim.allocations_left > 0) --shim.allocations_left;
    *p = malloc(bytes);
    if (!*p) return cudaErrorMemoryAllocation;
    shim.pinned[(char *)*p] = bytes;
    return cudaSuccess;
}
inline cudaError_t cudaFreeHost(void *p)
{
    if (!p) return cudaSuccess;
    if (shim_forbidden()) return cudaErrorStreamCaptureUnsupported;
    if (!shim.pinned.erase((char *)p)) return cudaErrorInvalidValue;
    free(p);
    return cudaSuccess;
}
/* Pinned memory is read late; other memory of the host at once, or, written, with a wait. */
inline cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, cudaMemcpyKind kind, cudaStream_t s)
{
    if ((kind != cudaMemcpyHostToDevice) != shim_is_device(from, bytes) ||
        (kind != cudaMemcpyDeviceToHost) != shim_is_device(to, bytes))
        return cudaErrorInvalidValue;
    if (kind != cudaMemcpyDeviceToDevice && !shim_is_pinned(kind == cudaMemcpyHostToDevice ? from : to, bytes) &&
        shim_forbidden())
        return cudaErrorStreamCaptureUnsupported;
    if (shim_foreign(s)) return cudaErrorInvalidResourceHandle;
    if (shim_side(s)) {
        if (kind != cudaMemcpyHostToDevice || !shim_is_pinned(from, bytes)) return cudaErrorInvalidValue;
        s->work.push_back([=] {
            memcpy(to, from, bytes);
            return 1;
        });
        ++s->given;
        return cudaSuccess;
    }
    if (kind == cudaMemcpyHostToDevice && !shim_is_pinned(from, bytes)) {
        const std::vector<char> now((const char *)from, (const char *)from + bytes);
        shim_give(s, "copy", [=] { memcpy(to, now.data(), bytes); });
    } else shim_give(s, "copy", [=] { memcpy(to, from, bytes); });
    if (kind == cudaMemcpyDeviceToHost && !shim_is_pinned(to, bytes)) shim_run(shim.given);
    return cudaSuccess;
}

struct shim_event { int64_t last; shim_stream *side; int device; };
typedef shim_event *cudaEvent_t;
enum { cudaEventDisableTiming = 2 };
inline cudaError_t cudaEventCreateWithFlags(cudaEvent_t *e, unsigned)
{
    *e = new shim_event{ 0, nullptr, shim.device };
    return cudaSuccess;
}
inline cudaError_t cudaEventDestroy(cudaEvent_t e)
{
    delete e;
    return cudaSuccess;
}
inline cudaError_t cudaEventRecord(cudaEvent_t e, cudaStream_t s)
{
    if (shim_forbidden()) return cudaErrorStreamCaptureUnsupported;
    if (shim_foreign(s) || e->device != shim.device) return cudaErrorInvalidResourceHandle;
    e->side = shim_side(s);
    e->last = e->side ? e->side->given : shim.given;
    return cudaSuccess;
}
/* Has what comes before the event been done, or can it be done now? */
inline int shim_reached(shim_event e)
{
    if (e.side) return shim_run_side(e.side, e.last);
    return shim_done() >= e.last || (!shim.running && shim_run(e.last, 0));
}
inline cudaError_t cudaEventQuery(cudaEvent_t e)
{
    if (shim_forbidden()) return cudaErrorStreamCaptureUnsupported;
    if (!shim_reached(*e)) {
        usleep(100); /* other processes want to go on */
        return (cudaError_t)(shim.error = cudaErrorNotReady);
    }
    const cudaError_t late = (cudaError_t)shim.late_error;
    shim.late_error = 0;
    return late;
}
inline cudaError_t cudaStreamWaitEvent(cudaStream_t s, cudaEvent_t e, unsigned)
{
    const shim_event now = *e;
    if (shim_forbidden()) return cudaErrorStreamCaptureUnsupported;
    if (!shim_side(s)) shim_give(s, "wait", [=] { shim.stalled = !shim_reached(now); });
    else {
        s->work.push_back([=] { return shim_reached(now); });
        ++s->given;
    }
    return cudaSuccess;
}
inline cudaError_t cudaEventSynchronize(cudaEvent_t e)
{
    if (shim_forbidden()) return cudaErrorStreamCaptureUnsupported;
    shim_run(e->last);
    const cudaError_t late = (cudaError_t)shim.late_error;
    shim.late_error = 0;
    return late;
}

/* Graphs: a chain of nodes. An update takes the new nodes' arguments if they are as many and of the same kinds, none of
   them memory that comes or goes. */
struct shim_graph { std::vector<shim_machine::node> node; };
typedef shim_graph *cudaGraph_t;
typedef shim_graph *cudaGraphExec_t;
struct cudaGraphExecUpdateResultInfo { int result; };
enum cudaStreamCaptureMode { cudaStreamCaptureModeThreadLocal = 1, cudaStreamCaptureModeRelaxed = 2 };
inline cudaError_t cudaStreamBeginCapture(cudaStream_t s, cudaStreamCaptureMode mode)
{
    if (shim_forbidden()) return cudaErrorStreamCaptureUnsupported;
    if (!s || shim_foreign(s)) return cudaErrorInvalidResourceHandle;
    shim.recording = 1;
    shim.recorder = s;
    shim.relaxed = mode == cudaStreamCaptureModeRelaxed;
    shim.spoilt = 0;
    shim.recorded.clear();
    return cudaSuccess;
}
inline cudaError_t cudaStreamEndCapture(cudaStream_t s, cudaGraph_t *g)
{
    *g = nullptr;
    if (!shim.recording || s != shim.recorder) return cudaErrorInvalidValue;
    shim.recording = 0;
    if (shim.spoilt) return cudaErrorStreamCaptureInvalidated;
    *g = new shim_graph{ shim.recorded };
    return cudaSuccess;
}
inline cudaError_t cudaGraphGetNodes(cudaGraph_t g, void *, size_t *n)
{
    *n = g->node.size();
    return cudaSuccess;
}
inline cudaError_t cudaGraphInstantiate(cudaGraphExec_t *e, cudaGraph_t g, unsigned long long)
{
    ++shim.graphs;
    *e = new shim_graph(*g);
    return cudaSuccess;
}
inline cudaError_t cudaGraphExecUpdate(cudaGraphExec_t e, cudaGraph_t g, cudaGraphExecUpdateResultInfo *)
{
    if (e->node.size() != g->node.size()) return cudaErrorGraphExecUpdateFailure;
    for (size_t i = 0; i < g->node.size(); ++i)
        if (strcmp(e->node[i].what, g->node[i].what) != 0 || strcmp(g->node[i].what, "memory") == 0)
            return cudaErrorGraphExecUpdateFailure;
    ++shim.updates;
    *e = *g;
    return cudaSuccess;
}
inline cudaError_t cudaGraphLaunch(cudaGraphExec_t e, cudaStream_t s)
{
    if (shim_foreign(s)) return cudaErrorInvalidResourceHandle;
    ++shim.graph_launches;
    shim.graph_nodes = (int)e->node.size();
    for (const auto &n : e->node) shim_give(s, n.what, n.work);
    return cudaSuccess;
}
inline cudaError_t cudaGraphDestroy(cudaGraph_t g)
{
    delete g;
    return cudaSuccess;
}
inline cudaError_t cudaGraphExecDestroy(cudaGraphExec_t e)
{
    delete e;
    return cudaSuccess;
}
struct cudaFuncAttributes { int maxDynamicSharedSizeBytes; };
template <class K> inline cudaError_t cudaFuncGetAttributes(cudaFuncAttributes *a, K *kernel)
{
    const auto limit = shim.shared_limit.find((const void *)kernel);
    a->maxDynamicSharedSizeBytes = limit == shim.shared_limit.end() ? 48 * 1024 : limit->second;
    return cudaSuccess;
}
/* A limit that is lowered is refused: what was recorded with more may still be launched. */
template <class K> inline cudaError_t cudaFuncSetAttribute(K *kernel, cudaFuncAttribute, int bytes)
{
    cudaFuncAttributes now;
    (void)cudaFuncGetAttributes(&now, kernel);
    if (bytes > 163 * 1024 || bytes < now.maxDynamicSharedSizeBytes) return cudaErrorInvalidValue; /* most: of sm_80 */
    shim.shared_limit[(const void *)kernel] = bytes;
    return cudaSuccess;
}

/* ---- launch and what kernels call -------------------------------------------------------------------------------- */

#define threadIdx (shim.now->thread)
#define blockIdx (shim.block->index)
#define blockDim (shim.block->size)
#define gridDim (shim.block->grid)

inline void shim_run_kernel(const char *name, dim3 grid, dim3 block, size_t shared, const std::function<void()> &body)
{
    const size_t threads = (size_t)block.x * block.y * block.z, blocks = (size_t)grid.x * grid.y * grid.z;
    shim_block b;
    size_t stride, i;
    if (threads % 32) shim_die(name, "blocks must be whole warps");
    if (!shim.stacks) {
        shim.n_stacks = 1024;
        shim.stacks = (char *)mmap(nullptr, shim.n_stacks * SHIM_STACK, PROT_READ | PROT_WRITE,
                                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    }
    b.name = name;
    b.body = &body;
    b.fiber.resize(threads);
    b.warp.resize(threads / 32);
    b.dynamic.resize(shared);
    b.size = block;
    b.grid = grid;
    shim.block = &b;
    stride = 1 + shim_random((uint32_t)(blocks < 4096 ? blocks : 4096));
    for (i = 2; i <= stride; ++i) /* made coprime to blocks */
        while (stride % i == 0 && blocks % i == 0) stride /= i;
    for (i = 0; i < blocks; ++i) {
        const size_t k = i * stride % blocks;
        b.index.x = (unsigned)(k % grid.x);
        b.index.y = (unsigned)(k / grid.x % grid.y);
        b.index.z = (unsigned)(k / grid.x / grid.y);
        shim_run_block(&b);
    }
    shim.block = nullptr;
    shim.now = nullptr;
}
inline void shim_launch(const char *name, const void *kernel, dim3 grid, dim3 block, size_t shared, cudaStream_t stream,
                        const std::function<void()> &body)
{
    const size_t threads = (size_t)block.x * block.y * block.z, blocks = (size_t)grid.x * grid.y * grid.z;
    const auto limit = shim.shared_limit.find(kernel);
    ++shim.launches;
    if (threads == 0 || threads > 1024 || block.z > 64 || blocks == 0 || grid.x > 0x7fffffffu || grid.y > 65535 ||
        grid.z > 65535 || shared > (size_t)(limit == shim.shared_limit.end() ? 48 * 1024 : limit->second)) {
        shim.error = cudaErrorInvalidConfiguration;
        return;
    }
    if (shim_foreign(stream)) {
        shim.error = cudaErrorInvalidResourceHandle;
        return;
    }
    /* its code is loaded by the first launch, which waits: not while a stream is captured, but in relaxed mode */
    if (!shim.loaded[kernel]++ && shim.recording && !shim.relaxed) shim.spoilt = 1;
    shim_give(stream, "kernel", [=] { shim_run_kernel(name, grid, block, shared, body); });
}
#define BMVPI_LAUNCH(kernel, grid, block, shared, stream, ...) \
    shim_launch(#kernel, (const void *)&kernel, grid, block, shared, stream, [=] { kernel(__VA_ARGS__); })
#define BMVPI_DYNAMIC(type, name) type *name = (type *)(void *)shim.block->dynamic.data()
#define BMVPI_UNROLLED
#define BMVPI_ROLLED
#define BMVPI_UNROLLED_BY_4
#define BMVPI_ALIGNED(address, bytes) \
    do { \
        if ((uintptr_t)(address) % (bytes)) shim_die(shim.block->name, "an access is not aligned"); \
    } while (0)
#define BMVPI_MANY_TILES 6 /* so that small shapes meet large tiles */
#define BMVPI_PRODUCT_SPACE 4096
#define BMVPI_STAGE_MOST (1 << 18) /* so that small uploads come round */

inline void __syncthreads()
{
    shim_block *b = shim.block;
    if (++b->arrived < (int)b->fiber.size()) {
        shim_leave(SHIM_AT_BLOCK);
        return;
    }
    b->arrived = 0;
    for (auto &f : b->fiber) if (f.state == SHIM_AT_BLOCK) f.state = SHIM_READY;
}

inline void __syncwarp(uint32_t mask = 0xffffffffu)
{
    shim_block *b = shim.block;
    const size_t w = (size_t)shim.now->number / 32;
    const uint32_t lane = 1u << (shim.now->number % 32);
    if (!(mask & lane)) shim_die(b->name, "a lane is not in its own mask");
    if (b->warp[w].arrived && b->warp[w].mask != mask) shim_die(b->name, "lanes of a warp meet with different masks");
    b->warp[w].mask = mask;
    b->warp[w].arrived |= lane;
    if (b->warp[w].arrived != mask) {
        shim_leave(SHIM_AT_WARP);
        return;
    }
    b->warp[w].arrived = 0;
    for (size_t i = 0; i < 32; ++i)
        if ((mask >> i & 1u) && b->fiber[w * 32 + i].state == SHIM_AT_WARP) b->fiber[w * 32 + i].state = SHIM_READY;
}

template <class T> inline T shim_exchange(uint32_t mask, T v, int from)
{
    static_assert(sizeof(T) <= 16, "shuffles hand over up to 16 bytes");
    shim_warp *w = &shim.block->warp[(size_t)shim.now->number / 32];
    T out;
    memcpy(w->slot[shim.now->number % 32], &v, sizeof v);
    __syncwarp(mask);
    if (!(mask >> from & 1u)) shim_die(shim.block->name, "a shuffle reads a lane that is not in the mask");
    memcpy(&out, w->slot[from], sizeof out);
    __syncwarp(mask);
    return out;
}
inline unsigned long long atomicAdd(unsigned long long *p, unsigned long long v)
{
    const unsigned long long old = *p;
    *p += v;
    return old;
}
template <class T> inline T __shfl_xor_sync(uint32_t mask, T v, int other, int width = 32)
{
    const int lane = shim.now->number % 32, from = lane ^ other;
    return shim_exchange(mask, v, from / width == lane / width ? from : lane);
}

/* Asynchronous copies into shared memory: done as late as allowed, so that a missing wait shows. */
template <int N> inline void copy_async(void *to, const void *from, int inside)
{
    static_assert(N == 4 || N == 8 || N == 16, "pieces of 4, 8 or 16 bytes");
    if ((uintptr_t)to % N || (inside && (uintptr_t)from % N))
        shim_die(shim.block->name, "an asynchronous copy is not aligned");
    shim.now->copies.push_back(shim_copy{ to, inside ? from : nullptr, N, shim.now->group });
}
inline float __fdividef(float a, float b) { return a / b; }
inline void copy_commit() { ++shim.now->group; }
template <int N> inline void copy_wait()
{
    shim_fiber *f = shim.now;
    for (; !f->copies.empty() && f->copies.front().group < f->group - N; f->copies.pop_front()) {
        const shim_copy &k = f->copies.front();
        if (k.from) memcpy(k.to, k.from, (size_t)k.bytes);
        else memset(k.to, 0, (size_t)k.bytes);
    }
}

/* ---- tensor cores ------------------------------------------------------------------------------------------------ */

inline uint32_t shim_bits(float x) { uint32_t u; memcpy(&u, &x, sizeof u); return u; }
inline float shim_float(uint32_t u) { float x; memcpy(&x, &u, sizeof x); return x; }
inline float __uint_as_float(uint32_t u) { return shim_float(u); }
inline uint32_t round_tf32(float x) /* to nearest, ties away; the hardware does not read the 13 bits cut off */
{
    const uint32_t u = shim_bits(x);
    return (u & 0x7f800000u) == 0x7f800000u ? u : (u + 0x1000u) & ~0x1fffu;
}
inline uint32_t shim_bf16(float x) /* to nearest even */
{
    const uint32_t u = shim_bits(x);
    return (u & 0x7fffffffu) > 0x7f800000u ? 0x7fffu : (u + 0x7fffu + (u >> 16 & 1u)) >> 16;
}
inline uint32_t round_bf16(float first, float second) { return shim_bf16(second) << 16 | shim_bf16(first); }

/* The lanes' parts of a and b, for everybody: a[4], b[2]. All lanes of the warp must come. */
inline const uint32_t (*shim_gather(const uint32_t a[4], const uint32_t b[2]))[6]
{
    shim_warp *w = &shim.block->warp[(size_t)shim.now->number / 32];
    uint32_t *mine = w->part[shim.now->number % 32];
    for (int i = 0; i < 4; ++i) mine[i] = a[i];
    for (int i = 0; i < 2; ++i) mine[4 + i] = b[i];
    __syncwarp();
    return w->part;
}
inline void mma_tf32(float c[4], const uint32_t a[4], const uint32_t b[2])
{
    const uint32_t (*all)[6] = shim_gather(a, b);
    const int g = shim.now->number % 32 / 4, t = shim.now->number % 4;
    for (int e = 0; e < 4; ++e)
        for (int k = 0; k < 8; ++k)
            c[e] += shim_float(all[g * 4 + k % 4][e / 2 + k / 4 * 2] & ~0x1fffu) *
                    shim_float(all[(2 * t + e % 2) * 4 + k % 4][4 + k / 4] & ~0x1fffu);
    __syncwarp();
}
inline float shim_half(uint32_t pair, int upper) { return shim_float(upper ? pair & 0xffff0000u : pair << 16); }
inline void mma_bf16(float c[4], const uint32_t a[4], const uint32_t b[2])
{
    const uint32_t (*all)[6] = shim_gather(a, b);
    const int g = shim.now->number % 32 / 4, t = shim.now->number % 4;
    for (int e = 0; e < 4; ++e)
        for (int k = 0; k < 16; ++k) {
            const int lane = k % 8 / 2;
            c[e] += shim_half(all[g * 4 + lane][e / 2 + k / 8 * 2], k % 2) *
                    shim_half(all[(2 * t + e % 2) * 4 + lane][4 + k / 8], k % 2);
        }
    __syncwarp();
}
inline void shim_matrix_load(uint32_t r[4], const void *row, int transposed)
{
    shim_warp *w = &shim.block->warp[(size_t)shim.now->number / 32];
    const int lane = shim.now->number % 32;
    if ((uintptr_t)row % 16) shim_die(shim.block->name, "a matrix's row is not aligned to 16 bytes");
    memcpy(w->slot[lane], &row, sizeof row);
    __syncwarp();
    for (int m = 0; m < 4; ++m) {
        uint16_t pair[2];
        for (int i = 0; i < 2; ++i) {
            const uint16_t *p;
            const int at = transposed ? lane / 4 : lane % 4 * 2 + i;
            memcpy(&p, w->slot[m * 8 + (transposed ? lane % 4 * 2 + i : lane / 4)], sizeof p);
            pair[i] = p[at];
        }
        r[m] = (uint32_t)pair[1] << 16 | pair[0];
    }
    __syncwarp();
}
inline void matrix_load(uint32_t r[4], const void *row) { shim_matrix_load(r, row, 0); }
inline void matrix_load_transposed(uint32_t r[4], const void *row) { shim_matrix_load(r, row, 1); }

#include "cuda_blas.h"

#endif /* BMVP_CUDA_SHIM_H */
