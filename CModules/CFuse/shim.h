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
#include <sys/socket.h>
#include <sys/uio.h>
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
static inline void farshore_name_process(const char *name) { prctl(PR_SET_NAME, name, 0, 0, 0); }
static inline int farshore_memfd(const char *name) { return memfd_create(name, MFD_CLOEXEC); }
static inline int farshore_duplicate_above(int fd, int lowest) { return fcntl(fd, F_DUPFD_CLOEXEC, lowest); }
static inline void *farshore_map_shared(int fd, size_t length) {
    void *memory = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, 0);
    return memory == MAP_FAILED ? NULL : memory;
}
// The same of a part of the file, whose pages come when they are touched.
static inline void *farshore_map_shared_later(int fd, size_t offset, size_t length) {
    void *memory = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_SHARED, fd, (off_t)offset);
    return memory == MAP_FAILED ? NULL : memory;
}
// Close-on-exec, and the reading end never waits.
static inline int farshore_pipe(int pair[2]) {
    if (pipe2(pair, O_CLOEXEC) != 0) return -1;
    return fcntl(pair[0], F_SETFL, O_NONBLOCK);
}
// Refers to a file without opening it for anything but execution.
static inline int farshore_refer(const char *path) { return open(path, O_PATH | O_CLOEXEC); }
extern char **environ;
static inline char **farshore_environment(void) { return environ; }
static inline void farshore_supervisor_signal_set(sigset_t *set) {
    sigemptyset(set);
    sigaddset(set, SIGTERM);
    sigaddset(set, SIGINT);
    sigaddset(set, SIGHUP);
    sigaddset(set, SIGCHLD);
}
static inline void farshore_block_supervisor_signals(void) {
    sigset_t set;
    farshore_supervisor_signal_set(&set);
    sigprocmask(SIG_BLOCK, &set, NULL);
    signal(SIGPIPE, SIG_IGN);
}
// A descriptor that reads as soon as one of the signals a supervisor cares for is pending; they are blocked from here on.
static inline int farshore_supervisor_signals(void) {
    sigset_t set;
    farshore_block_supervisor_signals();
    farshore_supervisor_signal_set(&set);
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

// One datagram with up to 8 descriptors beside it (SCM_RIGHTS).
#define FARSHORE_DESCRIPTORS_MAX 96
static inline ssize_t farshore_send_with_descriptors(int socket, const void *bytes, size_t length, const int *descriptors, int count) {
    union {
        char space[CMSG_SPACE(sizeof(int) * FARSHORE_DESCRIPTORS_MAX)];
        struct cmsghdr alignment;
    } control;
    struct iovec part = {(void *)bytes, length};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
    if (count < 0 || count > FARSHORE_DESCRIPTORS_MAX) return -1;
    if (count > 0) {
        memset(&control, 0, sizeof control);
        message.msg_control = control.space;
        message.msg_controllen = CMSG_SPACE(sizeof(int) * count);
        struct cmsghdr *head = CMSG_FIRSTHDR(&message);
        head->cmsg_level = SOL_SOCKET;
        head->cmsg_type = SCM_RIGHTS;
        head->cmsg_len = CMSG_LEN(sizeof(int) * count);
        memcpy(CMSG_DATA(head), descriptors, sizeof(int) * count);
    }
    return sendmsg(socket, &message, MSG_NOSIGNAL);
}
// The received descriptors are close-on-exec; their number is stored to *count.
static inline ssize_t farshore_receive_with_descriptors(int socket, void *bytes, size_t length, int *descriptors, int *count, int flags) {
    union {
        char space[CMSG_SPACE(sizeof(int) * FARSHORE_DESCRIPTORS_MAX)];
        struct cmsghdr alignment;
    } control;
    struct iovec part = {bytes, length};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = control.space, .msg_controllen = sizeof control.space};
    *count = 0;
    ssize_t result = recvmsg(socket, &message, flags | MSG_CMSG_CLOEXEC);
    if (result < 0) return result;
    for (struct cmsghdr *head = CMSG_FIRSTHDR(&message); head != NULL; head = CMSG_NXTHDR(&message, head)) {
        if (head->cmsg_level != SOL_SOCKET || head->cmsg_type != SCM_RIGHTS) continue;
        int received = (int)((head->cmsg_len - CMSG_LEN(0)) / sizeof(int));
        for (int index = 0; index < received; index++) {
            int descriptor;
            memcpy(&descriptor, CMSG_DATA(head) + index * sizeof(int), sizeof(int));
            if (*count < FARSHORE_DESCRIPTORS_MAX) descriptors[(*count)++] = descriptor;
            else close(descriptor);
        }
    }
    return result;
}
