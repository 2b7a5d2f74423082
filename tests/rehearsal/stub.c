/* A CUDA runtime without a GPU: eight devices whose memory is the host's, and kernels that do
 * nothing. Each call is a line of STUB_LOG.<pid>:
 *
 *     thread  device  what  stream  written  read  bytes
 *
 * Names in capitals are what a rehearsal looks for: CONTEXT (the first use of a device), SYNC_ (the
 * host waits), PAGEABLE (a copy to or from memory that is not pinned). stub.py adds a function that
 * returns 0 for every other symbol of CUDA, cuBLAS and NCCL that torch asks for.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>
#include "driver_types.h"

enum { DEVICES = 8, NOT_READY = 600, HOST = 1, DEVICE = 2, POLLS = 2 };
struct three { unsigned x, y, z; };
struct handle { int device, polls; long recorded; void *stream; char rest[64]; };
struct block { char *at; size_t size; int kind, device; struct block *next; };

static __thread int device;
static int used[DEVICES];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct block *blocks;
static long records, passed; /* events in the order of their recording; up to which they have passed */

void stub_log(const char *what, const void *stream, const void *to, const void *from, long bytes) {
    static FILE *file;
    static const char *path;
    pthread_mutex_lock(&lock);
    if (!path) {
        char name[4096];
        path = getenv("STUB_LOG") ? getenv("STUB_LOG") : "";
        snprintf(name, sizeof name, "%s.%d", path, getpid());
        file = *path ? fopen(name, "a") : NULL;
    }
    if (file)
        fprintf(file, "%ld %d %s %lx %lx %lx %ld\n", syscall(SYS_gettid), device, what, (long)stream,
                (long)to, (long)from, bytes);
    pthread_mutex_unlock(&lock);
}
static void use(const char *by) {
    if (!used[device]) {
        used[device] = 1;
        char what[128];
        snprintf(what, sizeof what, "CONTEXT:%s", by);
        stub_log(what, 0, 0, 0, device);
    }
}
static void op(const char *what, void *stream, const void *to, const void *from, long bytes) {
    use(what);
    stub_log(what, stream, to, from, bytes);
}

/* devices */
int cudaGetDeviceCount(int *n) { *n = DEVICES; return 0; }
int cudaGetDevice(int *d) { *d = device; return 0; }
int cudaSetDevice(int d) { device = d; use("cudaSetDevice"); return 0; }
const char *cudaGetErrorString(int e) { return e == NOT_READY ? "not ready" : "stub"; }
const char *cudaGetErrorName(int e) { return cudaGetErrorString(e); }
int cudaDriverGetVersion(int *v) { *v = 13000; return 0; }
int cudaRuntimeGetVersion(int *v) { *v = 13000; return 0; }
int cudaGetDeviceProperties(struct cudaDeviceProp *p, int d) {
    memset(p, 0, sizeof *p);
    strcpy(p->name, "stub");
    p->major = 9; p->totalGlobalMem = 141ul << 30; p->multiProcessorCount = 132; p->warpSize = 32;
    p->maxThreadsPerBlock = 1024; p->maxThreadsPerMultiProcessor = 2048;
    p->maxThreadsDim[0] = p->maxThreadsDim[1] = 1024; p->maxThreadsDim[2] = 64;
    p->maxGridSize[0] = 2147483647; p->maxGridSize[1] = p->maxGridSize[2] = 65535;
    p->sharedMemPerBlock = 49152; p->sharedMemPerBlockOptin = 232448;
    p->sharedMemPerMultiprocessor = 233472; p->regsPerBlock = p->regsPerMultiprocessor = 65536;
    p->l2CacheSize = 60 << 20; p->maxBlocksPerMultiProcessor = 32; p->pciBusID = 0x10 + d;
    p->concurrentKernels = p->unifiedAddressing = 1; p->textureAlignment = 512;
    return 0;
}
int cudaDeviceGetAttribute(int *v, int which, int d) {
    static const struct { int which, value; } known[] = {
        {75, 9}, {76, 0}, {16, 132}, {10, 32}, {1, 1024}, {2, 1024}, {3, 1024}, {4, 64},
        {5, 2147483647}, {6, 65535}, {7, 65535}, {8, 49152}, {12, 65536}, {39, 2048}, {81, 233472},
        {82, 65536}, {97, 232448}};
    *v = 1;
    for (unsigned i = 0; i < sizeof known / sizeof *known; i++)
        if (known[i].which == which) *v = known[i].value;
    return 0;
}
int cudaDeviceGetPCIBusId(char *s, int n, int d) { snprintf(s, n, "0000:%02x:00.0", 16 + d); return 0; }
int cudaDeviceGetStreamPriorityRange(int *low, int *high) { *low = 0; *high = -5; return 0; }
int cudaDeviceCanAccessPeer(int *can, int a, int b) { *can = 0; return 0; }
int cudaDeviceSynchronize(void) { passed = records; op("SYNC_device", 0, 0, 0, 0); return 0; }
int cuDevicePrimaryCtxGetState(int d, unsigned *f, int *on) { if (f) *f = 0; *on = used[d]; return 0; }
int cudaGetDriverEntryPointByVersion(const char *name, void **p, unsigned v, unsigned long long f, int *s) {
    extern int cuInit();
    *p = dlsym(RTLD_DEFAULT, name);
    if (!*p) *p = (void *)cuInit;
    if (s) *s = 0;
    return 0;
}
int cuInit(unsigned f) { return 0; }
int cuDriverGetVersion(int *v) { *v = 13000; return 0; }
int cuDeviceGetCount(int *n) { *n = DEVICES; return 0; }
int cuCtxGetCurrent(void **c) { *c = (void *)1; return 0; }
int cuGetErrorString(int e, const char **s) { *s = "stub"; return 0; }

/* memory */
static struct block *block_of(const void *p) {
    struct block *b;
    pthread_mutex_lock(&lock);
    for (b = blocks; b && !((char *)p >= b->at && (char *)p < b->at + b->size);) b = b->next;
    pthread_mutex_unlock(&lock);
    return b;
}
static int taken(void **p, size_t n, int kind, const char *what) {
    struct block *b = malloc(sizeof *b);
    if (posix_memalign(p, 4096, n ? n : 1)) return 2;
    if (n < 64u << 20) memset(*p, 0, n);
    *b = (struct block){*p, n, kind, device, NULL};
    pthread_mutex_lock(&lock);
    b->next = blocks; blocks = b;
    pthread_mutex_unlock(&lock);
    op(what, 0, *p, 0, n);
    return 0;
}
static int given(void *p, const char *what) {
    struct block *b = p ? block_of(p) : NULL;
    op(what, 0, p, 0, 0);
    if (!b) return 0;
    pthread_mutex_lock(&lock);
    struct block **link = &blocks;
    while (*link != b) link = &(*link)->next;
    *link = b->next;
    pthread_mutex_unlock(&lock);
    free(b);
    free(p);
    return 0;
}
int cudaMalloc(void **p, size_t n) { return taken(p, n, DEVICE, "malloc"); }
int cudaFree(void *p) { return given(p, "free"); }
int cudaHostAlloc(void **p, size_t n, unsigned f) { return taken(p, n, HOST, "host_malloc"); }
int cudaFreeHost(void *p) { return given(p, "host_free"); }
int cudaMemGetInfo(size_t *f, size_t *t) { use("cudaMemGetInfo"); *f = 140ul << 30; *t = 141ul << 30; return 0; }
int cudaPointerGetAttributes(struct cudaPointerAttributes *a, const void *p) {
    struct block *b = block_of(p);
    memset(a, 0, sizeof *a);
    a->type = b ? b->kind : 0;
    a->device = b ? b->device : -2;
    a->devicePointer = (void *)p;
    a->hostPointer = b && b->kind == HOST ? (void *)p : 0;
    return 0;
}
int cudaMemcpyAsync(void *to, const void *from, size_t n, int kind, void *stream) {
    struct block *source = block_of(from), *target = block_of(to);
    op(source && target ? "copy" : "PAGEABLE", stream, to, from, n);
    if (source && !target) /* figures that no kernel has made: 0, and not what was there by chance */
        memset(to, 0, n);
    else
        memmove(to, from, n);
    return 0;
}
int cudaMemcpy(void *to, const void *from, size_t n, int kind) {
    op("SYNC_copy", 0, to, from, n);
    memmove(to, from, n);
    return 0;
}
int cudaMemsetAsync(void *to, int v, size_t n, void *stream) {
    op("memset", stream, to, 0, n);
    memset(to, v, n);
    return 0;
}
int cudaMemset(void *to, int v, size_t n) { return cudaMemsetAsync(to, v, n, 0); }

/* streams and events; one has passed when it is asked for the third time, and all before it too */
static int made(void **h, const char *what) {
    struct handle *new = calloc(1, sizeof *new);
    new->device = device;
    *h = new;
    op(what, 0, *h, 0, 0);
    return 0;
}
int cudaStreamCreateWithPriority(void **s, unsigned f, int p) { return made(s, "stream"); }
int cudaStreamCreateWithFlags(void **s, unsigned f) { return made(s, "stream"); }
int cudaStreamCreate(void **s) { return made(s, "stream"); }
int cudaStreamSynchronize(void *s) { passed = records; op("SYNC_stream", s, 0, 0, 0); return 0; }
int cudaStreamWaitEvent(void *s, void *e, unsigned f) { op("wait", s, 0, e, 0); return 0; }
int cudaStreamGetPriority(void *s, int *p) { *p = 0; return 0; }
/* a graph is one kernel, whatever was captured */
static void *captured;
int cudaStreamBeginCapture(void *s, int mode) { captured = s; op("capture", s, 0, 0, 0); return 0; }
int cudaStreamEndCapture(void *s, void **graph) { captured = NULL; return made(graph, "captured"); }
int cudaStreamIsCapturing(void *s, int *c) { *c = s && s == captured; return 0; }
int cudaStreamGetCaptureInfo(void *s, int *c, unsigned long long *id, void **g, void *d, void *e, void *n) {
    if (id) *id = 1;
    if (g) *g = captured;
    return cudaStreamIsCapturing(s, c);
}
int cudaGraphInstantiate(void **x, void *g, unsigned long long f) { return made(x, "graph"); }
int cudaGraphInstantiateWithFlags(void **x, void *g, unsigned long long f) { return made(x, "graph"); }
int cudaGraphGetNodes(void *g, void *nodes, size_t *n) { *n = 1; return 0; }
int cudaGraphLaunch(void *x, void *s) { op("kernel", s, 0, 0, 0); return 0; }
int cudaEventCreateWithFlags(void **e, unsigned f) { return made(e, "event"); }
int cudaEventCreate(void **e) { return made(e, "event"); }
int cudaEventRecord(void *e, void *s) {
    struct handle *event = e;
    if (event->device != device) op("FOREIGN_event", s, e, 0, event->device);
    event->polls = 0;
    event->recorded = __sync_add_and_fetch(&records, 1);
    op("record", s, e, 0, 0);
    return 0;
}
int cudaEventRecordWithFlags(void *e, void *s, unsigned f) { return cudaEventRecord(e, s); }
static void pass(struct handle *e) { if (e->recorded > passed) passed = e->recorded; }
int cudaEventQuery(void *e) {
    struct handle *event = e;
    if (event->recorded > passed && event->polls++ < POLLS) return NOT_READY;
    pass(event);
    op("passed", 0, 0, e, 0);
    return 0;
}
int cudaEventSynchronize(void *e) { pass(e); op("SYNC_event", 0, 0, e, 0); return 0; }
int cudaEventElapsedTime(float *ms, void *a, void *b) { *ms = 1; return 0; }

/* kernels */
static __thread struct { struct three grid, block; size_t shared; void *stream; } call;
int cudaLaunchKernel(const void *f, struct three g, struct three b, void **a, size_t n, void *s) {
    op("kernel", s, 0, 0, 0);
    return 0;
}
int __cudaLaunchKernel(const void *f, struct three g, struct three b, void **a, size_t n, void *s) {
    return cudaLaunchKernel(f, g, b, a, n, s);
}
int cudaLaunchKernelExC(const cudaLaunchConfig_t *c, const void *f, void **a) {
    op("kernel", c->stream, 0, 0, 0);
    return 0;
}
int __cudaGetKernel(void **k, const void *f) { *k = (void *)f; return 0; }
int cudaFuncGetAttributes(struct cudaFuncAttributes *a, const void *f) {
    memset(a, 0, sizeof *a);
    a->maxThreadsPerBlock = 1024; a->numRegs = 32; a->binaryVersion = a->ptxVersion = 90;
    return 0;
}
int cudaOccupancyMaxActiveBlocksPerMultiprocessor(int *n, const void *f, int b, size_t s) { *n = 8; return 0; }
int cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int *n, const void *f, int b, size_t s, unsigned g) { *n = 8; return 0; }
unsigned __cudaPushCallConfiguration(struct three g, struct three b, size_t n, void *s) {
    call.grid = g; call.block = b; call.shared = n; call.stream = s;
    return 0;
}
int __cudaPopCallConfiguration(struct three *g, struct three *b, size_t *n, void *s) {
    *g = call.grid; *b = call.block; *n = call.shared; *(void **)s = call.stream;
    return 0;
}
void **__cudaRegisterFatBinary(void *x) { static void *one[4]; return one; }
char __cudaInitModule(void **x) { return 1; }
int cudaGetSymbolAddress(void **p, const void *s) { static char room[4096]; *p = room; return 0; }

/* libraries: what a handle's stream is, and collectives that leave all as it is */
int stub_create(void **h) { *h = calloc(1, sizeof(struct handle)); return 0; }
int cublasSetStream_v2(void *h, void *s) { ((struct handle *)h)->stream = s; return 0; }
int cublasGetStream_v2(void *h, void **s) { *s = ((struct handle *)h)->stream; return 0; }
int stub_blas(void *h) { op("kernel", ((struct handle *)h)->stream, 0, 0, 0); return 0; }
int cublasLtMatmulAlgoGetHeuristic(void *h, void *d, void *a, void *b, void *c, void *e, void *p, int n, char *found, int *got) {
    memset(found, 0, 128);
    *got = 1;
    return 0;
}
int cublasLtMatmul(void *h, void *d, void *al, void *a, void *la, void *b, void *lb, void *be, void *c, void *lc, void *r, void *lr, void *algo, void *w, size_t n, void *s) {
    op("kernel", s, 0, 0, 0);
    return 0;
}
struct id { char bytes[128]; };
static int ranks = 1;
int ncclGetVersion(int *v) { *v = 22907; return 0; }
int ncclGetUniqueId(struct id *id) { memset(id, 7, sizeof *id); return 0; }
int ncclCommInitRank(void **c, int n, struct id id, int r) { ranks = n; return stub_create(c); }
int ncclCommInitRankConfig(void **c, int n, struct id id, int r, void *o) { ranks = n; return stub_create(c); }
int ncclCommInitRankScalable(void **c, int n, int r, int k, void *id, void *o) { ranks = n; return stub_create(c); }
int ncclCommCount(void *c, int *n) { *n = ranks; return 0; }
int ncclCommUserRank(void *c, int *r) { *r = 0; return 0; }
int ncclCommGetAsyncError(void *c, int *e) { *e = 0; return 0; }
const char *ncclGetErrorString(int e) { return "stub"; }
const char *ncclGetLastError(void *c) { return "stub"; }
int ncclAllReduce(const void *from, void *to, size_t n, int t, int o, void *c, void *s) {
    static const char sizes[] = {1, 1, 4, 4, 8, 8, 2, 4, 8, 2};
    op("nccl_all_reduce", s, to, from, n * (t < sizeof sizes ? sizes[t] : 1));
    return 0;
}
int ncclAllGather(const void *from, void *to, size_t n, int t, void *c, void *s) {
    op("nccl_all_gather", s, to, from, n);
    return 0;
}
int ncclBroadcast(const void *from, void *to, size_t n, int t, int r, void *c, void *s) {
    op("nccl_broadcast", s, to, from, n);
    return 0;
}
