// The C library's calls, defined anew: the linker takes these in place of the library's, for the program and for Swift's
// runtime alike. What concerns no simulated thing goes to the kernel, or to the library where it must.
#define _GNU_SOURCE 1
#include "Fibers.h"
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

static bool is_simulated(int descriptor) { return descriptor >= SIMULATED_DESCRIPTOR_MIN; }
static bool is_path(const char *path) { return strncmp(path, SIMULATED_ROOT, sizeof SIMULATED_ROOT - 1) == 0; }
static int64_t answer(int64_t result) {
    if (result >= 0) return result;
    errno = (int)-result;
    return -1;
}

static long kernel(long number, long a, long b, long c, long d, long e, long f) {
    long result;
#if defined(__x86_64__)
    register long r10 __asm__("r10") = d;
    register long r8 __asm__("r8") = e;
    register long r9 __asm__("r9") = f;
    __asm__ volatile("syscall" : "=a"(result) : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9) : "rcx", "r11", "memory");
#elif defined(__aarch64__)
    register long x8 __asm__("x8") = number;
    register long x0 __asm__("x0") = a;
    register long x1 __asm__("x1") = b;
    register long x2 __asm__("x2") = c;
    register long x3 __asm__("x3") = d;
    register long x4 __asm__("x4") = e;
    register long x5 __asm__("x5") = f;
    __asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x5) : "memory");
    result = x0;
#else
#error "the simulation knows x86-64 and arm64"
#endif
    return answer(result);
}
#define KERNEL(number, ...) KERNEL_(number, __VA_ARGS__, 0, 0, 0, 0, 0, 0)
#define KERNEL_(number, a, b, c, d, e, f, ...) kernel(number, (long)(a), (long)(b), (long)(c), (long)(d), (long)(e), (long)(f))
#define LIBRARY(name) ({ static __typeof__(&name) found; if (!found) found = (__typeof__(&name))dlsym(RTLD_NEXT, #name); found; })

// MARK: files

static int open_any(const char *path, int flags, int mode) {
    int again;
    bool is_again = sscanf(path, "/proc/self/fd/%d", &again) == 1 && is_simulated(again);
    if (is_again) return (int)answer(simulated_open_again(again));
    return is_path(path) ? (int)answer(simulated_open(path, flags)) : (int)KERNEL(SYS_openat, AT_FDCWD, path, flags, mode);
}
int open(const char *path, int flags, ...) {
    va_list more;
    va_start(more, flags);
    int mode = va_arg(more, int);
    va_end(more);
    return open_any(path, flags, mode);
}
int open64(const char *path, int flags, ...) {
    va_list more;
    va_start(more, flags);
    int mode = va_arg(more, int);
    va_end(more);
    return open_any(path, flags, mode);
}
int close(int descriptor) { return is_simulated(descriptor) ? (int)answer(simulated_close(descriptor)) : (int)KERNEL(SYS_close, descriptor); }

ssize_t pread(int descriptor, void *bytes, size_t count, off_t offset) {
    return is_simulated(descriptor) ? answer(simulated_pread(descriptor, bytes, count, offset)) : KERNEL(SYS_pread64, descriptor, bytes, count, offset);
}
ssize_t pread64(int descriptor, void *bytes, size_t count, off_t offset) { return pread(descriptor, bytes, count, offset); }
ssize_t pwrite(int descriptor, const void *bytes, size_t count, off_t offset) {
    return is_simulated(descriptor) ? answer(simulated_pwrite(descriptor, bytes, count, offset, false)) : KERNEL(SYS_pwrite64, descriptor, bytes, count, offset);
}
ssize_t pwrite64(int descriptor, const void *bytes, size_t count, off_t offset) { return pwrite(descriptor, bytes, count, offset); }

// One call on the disk, whatever the number of pieces in memory.
static ssize_t gather(int descriptor, const struct iovec *pieces, int count, off_t offset, bool durable) {
    size_t total = 0, done = 0;
    for (int at = 0; at < count; at++) total += pieces[at].iov_len;
    char *bytes = malloc(total ? total : 1);
    for (int at = 0; at < count; done += pieces[at++].iov_len) memcpy(bytes + done, pieces[at].iov_base, pieces[at].iov_len);
    ssize_t written = simulated_pwrite(descriptor, bytes, total, offset, durable);
    free(bytes);
    return answer(written);
}
static ssize_t scatter(int descriptor, const struct iovec *pieces, int count, off_t offset) {
    ssize_t done = 0;
    for (int at = 0; at < count; at++) {
        ssize_t part = simulated_pread(descriptor, pieces[at].iov_base, pieces[at].iov_len, offset + done);
        if (part < 0) return answer(part);
        done += part;
        if ((size_t)part < pieces[at].iov_len) break;
    }
    return done;
}
ssize_t pwritev(int descriptor, const struct iovec *pieces, int count, off_t offset) {
    return is_simulated(descriptor) ? gather(descriptor, pieces, count, offset, false) : KERNEL(SYS_pwritev, descriptor, pieces, count, offset);
}
ssize_t pwritev64(int descriptor, const struct iovec *pieces, int count, off_t offset) { return pwritev(descriptor, pieces, count, offset); }
ssize_t pwritev2(int descriptor, const struct iovec *pieces, int count, off_t offset, int flags) {
    if (!is_simulated(descriptor)) return KERNEL(SYS_pwritev2, descriptor, pieces, count, offset, 0, flags);
    return gather(descriptor, pieces, count, offset, flags & (RWF_DSYNC | RWF_SYNC));
}
ssize_t pwritev64v2(int descriptor, const struct iovec *pieces, int count, off_t offset, int flags) { return pwritev2(descriptor, pieces, count, offset, flags); }
ssize_t preadv(int descriptor, const struct iovec *pieces, int count, off_t offset) {
    return is_simulated(descriptor) ? scatter(descriptor, pieces, count, offset) : KERNEL(SYS_preadv, descriptor, pieces, count, offset);
}
ssize_t preadv64(int descriptor, const struct iovec *pieces, int count, off_t offset) { return preadv(descriptor, pieces, count, offset); }
ssize_t preadv2(int descriptor, const struct iovec *pieces, int count, off_t offset, int flags) {
    if (!is_simulated(descriptor)) return KERNEL(SYS_preadv2, descriptor, pieces, count, offset, 0, flags);
    // Now and then what is asked for is not in memory.
    if ((flags & RWF_NOWAIT) && simulated_random() % 2) return answer(-EAGAIN);
    return scatter(descriptor, pieces, count, offset);
}
ssize_t preadv64v2(int descriptor, const struct iovec *pieces, int count, off_t offset, int flags) { return preadv2(descriptor, pieces, count, offset, flags); }

int fdatasync(int descriptor) { return is_simulated(descriptor) ? (int)answer(simulated_sync(descriptor, true)) : (int)KERNEL(SYS_fdatasync, descriptor); }
int fsync(int descriptor) { return is_simulated(descriptor) ? (int)answer(simulated_sync(descriptor, false)) : (int)KERNEL(SYS_fsync, descriptor); }
int sync_file_range(int descriptor, off_t offset, off_t length, unsigned flags) {
    // Starts writing, promises nothing.
    return is_simulated(descriptor) ? 0 : (int)KERNEL(SYS_sync_file_range, descriptor, offset, length, flags);
}
int ftruncate(int descriptor, off_t bytes) {
    return is_simulated(descriptor) ? (int)answer(simulated_truncate(descriptor, bytes)) : (int)KERNEL(SYS_ftruncate, descriptor, bytes);
}
int ftruncate64(int descriptor, off_t bytes) { return ftruncate(descriptor, bytes); }
int fallocate(int descriptor, int mode, off_t offset, off_t length) {
    return is_simulated(descriptor) ? (int)answer(simulated_fallocate(descriptor, mode, offset, length)) : (int)KERNEL(SYS_fallocate, descriptor, mode, offset, length);
}
int fallocate64(int descriptor, int mode, off_t offset, off_t length) { return fallocate(descriptor, mode, offset, length); }
int posix_fadvise(int descriptor, off_t offset, off_t length, int advice) {
    return is_simulated(descriptor) ? 0 : (int)KERNEL(SYS_fadvise64, descriptor, offset, length, advice);
}
int posix_fadvise64(int descriptor, off_t offset, off_t length, int advice) { return posix_fadvise(descriptor, offset, length, advice); }
ssize_t readahead(int descriptor, off_t offset, size_t count) { return is_simulated(descriptor) ? 0 : KERNEL(SYS_readahead, descriptor, offset, count); }
off_t lseek(int descriptor, off_t offset, int whence) {
    return is_simulated(descriptor) ? answer(simulated_seek(descriptor, offset, whence == SEEK_DATA)) : KERNEL(SYS_lseek, descriptor, offset, whence);
}
off_t lseek64(int descriptor, off_t offset, int whence) { return lseek(descriptor, offset, whence); }
int fstat(int descriptor, struct stat *status) {
    return is_simulated(descriptor) ? (int)answer(simulated_stat(descriptor, status)) : (int)KERNEL(SYS_fstat, descriptor, status);
}
int fstat64(int descriptor, struct stat64 *status) { return fstat(descriptor, (struct stat *)status); }
static int control(int descriptor, int command, void *argument) {
    if (!is_simulated(descriptor)) return (int)KERNEL(SYS_fcntl, descriptor, command, argument);
    if (command == F_OFD_SETLK) return (int)answer(simulated_lock(descriptor, ((struct flock *)argument)->l_type, false));
    if (command != F_OFD_GETLK) return 0;
    if (!simulated_lock(descriptor, ((struct flock *)argument)->l_type, true)) ((struct flock *)argument)->l_type = F_UNLCK;
    return 0;
}
int fcntl(int descriptor, int command, ...) {
    va_list more;
    va_start(more, command);
    void *argument = va_arg(more, void *);
    va_end(more);
    return control(descriptor, command, argument);
}
int fcntl64(int descriptor, int command, ...) {
    va_list more;
    va_start(more, command);
    void *argument = va_arg(more, void *);
    va_end(more);
    return control(descriptor, command, argument);
}

// MARK: names

int unlink(const char *path) { return is_path(path) ? (int)answer(simulated_unlink(path)) : (int)KERNEL(SYS_unlinkat, AT_FDCWD, path, 0); }
int rename(const char *from, const char *to) {
    return is_path(from) ? (int)answer(simulated_rename(from, to)) : (int)KERNEL(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, 0);
}
int mkdir(const char *path, mode_t mode) { return is_path(path) ? (int)answer(simulated_make_directory(path)) : (int)KERNEL(SYS_mkdirat, AT_FDCWD, path, mode); }
int rmdir(const char *path) { return is_path(path) ? (int)answer(simulated_remove_directory(path)) : (int)KERNEL(SYS_unlinkat, AT_FDCWD, path, AT_REMOVEDIR); }
int access(const char *path, int mode) { return is_path(path) ? (int)answer(simulated_access(path)) : (int)KERNEL(SYS_faccessat, AT_FDCWD, path, mode); }

struct listing {
    uint64_t mark;
    int list, place;
    struct dirent entry;
};
static const uint64_t listing_mark = 0x53494D4C49535431ull;
static bool is_listing(DIR *stream) { return *(uint64_t *)stream == listing_mark; }

DIR *opendir(const char *path) {
    if (!is_path(path)) return LIBRARY(opendir)(path);
    int list = simulated_list(path);
    if (list < 0) return answer(list), NULL;
    struct listing *listing = calloc(1, sizeof *listing);
    listing->mark = listing_mark;
    listing->list = list;
    return (DIR *)listing;
}
struct dirent *readdir(DIR *stream) {
    if (!is_listing(stream)) return LIBRARY(readdir)(stream);
    struct listing *listing = (struct listing *)stream;
    bool is_there = simulated_list_name(listing->list, listing->place++, listing->entry.d_name, sizeof listing->entry.d_name);
    return is_there ? &listing->entry : NULL;
}
int closedir(DIR *stream) {
    if (!is_listing(stream)) return LIBRARY(closedir)(stream);
    free(stream);
    return 0;
}

// MARK: time, chance, identity

static void put_time(struct timespec *time, int64_t nanoseconds) {
    time->tv_sec = nanoseconds / 1000000000;
    time->tv_nsec = nanoseconds % 1000000000;
}
int clock_gettime(clockid_t clock, struct timespec *time) {
    if (!simulated_is_on()) return (int)KERNEL(SYS_clock_gettime, clock, time);
    put_time(time, clock == CLOCK_REALTIME ? simulated_wall() : (int64_t)simulated_now());
    return 0;
}
int usleep(useconds_t microseconds) {
    if (simulated_is_on()) return simulated_sleep((uint64_t)microseconds * 1000), 0;
    struct timespec time;
    put_time(&time, (int64_t)microseconds * 1000);
    return (int)KERNEL(SYS_nanosleep, &time, NULL);
}
int nanosleep(const struct timespec *time, struct timespec *rest) {
    if (!simulated_is_on()) return (int)KERNEL(SYS_nanosleep, time, rest);
    return simulated_sleep((uint64_t)time->tv_sec * 1000000000 + (uint64_t)time->tv_nsec), 0;
}
int sched_yield(void) {
    if (!simulated_is_on()) return (int)KERNEL(SYS_sched_yield, 0);
    return simulated_sleep(100), 0;
}
// Process numbers are part of file names.
pid_t getpid(void) { return simulated_is_on() ? (pid_t)(1000 + simulated_process()) : (pid_t)KERNEL(SYS_getpid, 0); }

// Swift's Mutex, its thread ids and its random numbers come this way.
long syscall(long number, ...) {
    va_list more;
    va_start(more, number);
    long a = va_arg(more, long), b = va_arg(more, long), c = va_arg(more, long), d = va_arg(more, long), e = va_arg(more, long), f = va_arg(more, long);
    va_end(more);
    if (number == SYS_getrandom) {
        for (long at = 0; at < b; at++) ((unsigned char *)a)[at] = (unsigned char)simulated_random();
        return b;
    }
    if (simulated_is_on() && number == SYS_gettid && simulated_fiber() > 0) return 1000000 + simulated_fiber();
    int futex = (int)b & ~FUTEX_PRIVATE_FLAG;
    if (simulated_is_on() && number == SYS_futex && (futex == FUTEX_LOCK_PI || futex == FUTEX_TRYLOCK_PI)) {
        uint32_t *word = (uint32_t *)a;
        if (*word != 0 && futex == FUTEX_TRYLOCK_PI) return answer(-EAGAIN);
        simulated_wait_word(word);
        *word = simulated_fiber() > 0 ? 1000000 + simulated_fiber() : (uint32_t)kernel(SYS_gettid, 0, 0, 0, 0, 0, 0);
        return 0;
    }
    return kernel(number, a, b, c, d, e, f);
}

// MARK: threads

// A mutex made during a run is a word and this mark; all others (the runtime's own) are the library's and never waited for,
// because no fiber gives way while it holds one.
struct simulated_mutex {
    uint32_t is_held;
    uint32_t unused[5];
    uint64_t mark;
};
static const uint64_t mutex_mark = 0x53494D4D55544558ull;
static struct simulated_mutex *simulated(pthread_mutex_t *mutex) {
    struct simulated_mutex *own = (struct simulated_mutex *)mutex;
    return own->mark == mutex_mark ? own : NULL;
}

int pthread_mutex_init(pthread_mutex_t *mutex, const pthread_mutexattr_t *attributes) {
    if (!simulated_is_on()) return LIBRARY(pthread_mutex_init)(mutex, attributes);
    memset(mutex, 0, sizeof *mutex);
    ((struct simulated_mutex *)mutex)->mark = mutex_mark;
    return 0;
}
int pthread_mutex_lock(pthread_mutex_t *mutex) {
    struct simulated_mutex *own = simulated(mutex);
    if (!own) return LIBRARY(pthread_mutex_lock)(mutex);
    simulated_point();
    simulated_wait_word(&own->is_held);
    own->is_held = 1;
    return 0;
}
int pthread_mutex_trylock(pthread_mutex_t *mutex) {
    struct simulated_mutex *own = simulated(mutex);
    if (!own) return LIBRARY(pthread_mutex_trylock)(mutex);
    simulated_point();
    if (own->is_held) return EBUSY;
    own->is_held = 1;
    return 0;
}
int pthread_mutex_unlock(pthread_mutex_t *mutex) {
    struct simulated_mutex *own = simulated(mutex);
    if (!own) return LIBRARY(pthread_mutex_unlock)(mutex);
    own->is_held = 0;
    simulated_point();
    return 0;
}
int pthread_mutex_destroy(pthread_mutex_t *mutex) { return simulated(mutex) ? 0 : LIBRARY(pthread_mutex_destroy)(mutex); }

int pthread_cond_wait(pthread_cond_t *signal, pthread_mutex_t *mutex) {
    struct simulated_mutex *own = simulated(mutex);
    if (!own) return LIBRARY(pthread_cond_wait)(signal, mutex);
    own->is_held = 0;
    simulated_wait_signal(signal, UINT64_MAX);
    simulated_wait_word(&own->is_held);
    own->is_held = 1;
    return 0;
}
int pthread_cond_timedwait(pthread_cond_t *signal, pthread_mutex_t *mutex, const struct timespec *until) {
    struct simulated_mutex *own = simulated(mutex);
    if (!own) return LIBRARY(pthread_cond_timedwait)(signal, mutex, until);
    own->is_held = 0;
    bool was_woken = simulated_wait_signal(signal, (uint64_t)until->tv_sec * 1000000000 + (uint64_t)until->tv_nsec);
    simulated_wait_word(&own->is_held);
    own->is_held = 1;
    return was_woken ? 0 : ETIMEDOUT;
}
int pthread_cond_broadcast(pthread_cond_t *signal) {
    if (!simulated_is_on()) return LIBRARY(pthread_cond_broadcast)(signal);
    simulated_wake(signal, true);
    return 0;
}
int pthread_cond_signal(pthread_cond_t *signal) {
    if (!simulated_is_on()) return LIBRARY(pthread_cond_signal)(signal);
    simulated_wake(signal, false);
    return 0;
}

int pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*body)(void *), void *argument) {
    if (!simulated_is_on()) return LIBRARY(pthread_create)(thread, attributes, body, argument);
    *thread = (pthread_t)simulated_start(simulated_process(), body, argument);
    simulated_point();
    return 0;
}
int pthread_join(pthread_t thread, void **result) {
    if (!simulated_is_on()) return LIBRARY(pthread_join)(thread, result);
    simulated_join((int)thread);
    if (result) *result = NULL;
    return 0;
}
