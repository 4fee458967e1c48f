// The FUSE wire structures of the kernel, libfuse3 for mounting only, and the few calls Swift cannot make itself.
#define FUSE_USE_VERSION 314
#ifndef _GNU_SOURCE
#define _GNU_SOURCE 1
#endif
#include <errno.h>
#include <fcntl.h>
#include <fuse3/fuse_lowlevel.h>
#include <linux/falloc.h>
#include <linux/fuse.h>
#include <stdlib.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <unistd.h>

// Debian 12's header ends at 7.38; these are later, with the values of the kernel's include/uapi/linux/fuse.h.
#ifndef FUSE_DIRECT_IO_ALLOW_MMAP
#define FUSE_DIRECT_IO_ALLOW_MMAP (1ULL << 36)
#endif
#ifndef FUSE_PASSTHROUGH
#define FUSE_PASSTHROUGH (1ULL << 37)
#endif
#ifndef FUSE_HAS_RESEND
#define FUSE_HAS_RESEND (1ULL << 39)
#endif
#ifndef FUSE_OVER_IO_URING
#define FUSE_OVER_IO_URING (1ULL << 41)
#endif
#ifndef PR_SET_IO_FLUSHER
#define PR_SET_IO_FLUSHER 57
#endif

// Mounts through libfuse (fusermount3 for an ordinary user) and returns a descriptor of /dev/fuse that is ours,
// or -errno. libfuse's own session is given up at once: it never reads a request.
static inline int farshore_fuse_mount(const char *directory, const char *options) {
    char *words[] = {(char *)"farshore", (char *)"-o", (char *)options, NULL};
    struct fuse_args args = FUSE_ARGS_INIT(3, words);
    struct fuse_lowlevel_ops none;
    memset(&none, 0, sizeof none);
    errno = 0;
    struct fuse_session *session = fuse_session_new(&args, &none, sizeof none, NULL);
    if (session == NULL) {
        fuse_opt_free_args(&args);
        return errno ? -errno : -EINVAL;
    }
    errno = 0;
    int device = -EPERM;
    if (fuse_session_mount(session, directory) == 0) {
        device = fcntl(fuse_session_fd(session), F_DUPFD_CLOEXEC, 64);
        if (device < 0) device = -errno;
    } else if (errno != 0) {
        device = -errno;
    }
    fuse_session_destroy(session);
    fuse_opt_free_args(&args);
    return device;
}

static inline const char *farshore_libfuse_version(void) { return fuse_pkgversion(); }

// Lets this thread's allocations under memory pressure make progress without waiting for writeback through itself.
static inline int farshore_set_io_flusher(void) { return prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0); }
static inline void farshore_name_thread(const char *name) { prctl(PR_SET_NAME, name, 0, 0, 0); }
static inline int farshore_memfd(const char *name) { return memfd_create(name, MFD_CLOEXEC); }
static inline int farshore_duplicate_above(int fd, int lowest) { return fcntl(fd, F_DUPFD_CLOEXEC, lowest); }
static inline void *farshore_map_shared(int fd, size_t length) {
    void *memory = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, 0);
    return memory == MAP_FAILED ? NULL : memory;
}
extern char **environ;
static inline char **farshore_environment(void) { return environ; }
// A descriptor that reads as soon as one of the signals a supervisor cares for is pending; they are blocked from here on.
static inline int farshore_supervisor_signals(void) {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGHUP);
    sigaddset(&set, SIGCHLD);
    if (sigprocmask(SIG_BLOCK, &set, NULL) != 0) return -1;
    return signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
}
// The number of the next pending signal, 0 when none is.
static inline int farshore_next_signal(int fd) {
    struct signalfd_siginfo info;
    return read(fd, &info, sizeof info) == (ssize_t)sizeof info ? (int)info.ssi_signo : 0;
}
// Waits for SIGTERM or SIGINT, which the caller has blocked in all threads.
static inline void farshore_wait_for_stop_signal(void) {
    sigset_t set;
    int signal;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    while (sigwait(&set, &signal) != 0) {}
}
static inline void farshore_block_stop_signals(void) {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGHUP);
    sigprocmask(SIG_BLOCK, &set, NULL);
    signal(SIGPIPE, SIG_IGN);
}
