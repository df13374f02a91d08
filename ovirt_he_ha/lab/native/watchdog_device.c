/* A watchdog device for a wdmd that has none: preloaded into it, together with `wdmd -w FILE`.
 *
 * FILE (named by HE_WATCHDOG_DEVICE) is a regular file. Opening it arms the device, as opening a real one does, and
 * closing it disarms it only after the magic 'V' was written; a process that is killed leaves it armed. The file's first
 * eight bytes hold the moment of the last sign of life, in nanoseconds of the machine's CLOCK_MONOTONIC, 0 while
 * disarmed; the next eight the timeout in seconds. Whoever watches the file resets the machine. The system call is made
 * directly: libfaketime changes what the C library says.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <linux/watchdog.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static struct {
    uint64_t alive, timeout;
} *device;
static int device_fd = -1;
static int magic;

static void *next(const char *name) { return dlsym(RTLD_NEXT, name); }

static void keepalive(void)
{
    struct timespec now;
    syscall(SYS_clock_gettime, CLOCK_MONOTONIC, &now);
    __atomic_store_n(&device->alive, (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec, __ATOMIC_SEQ_CST);
}

int open(const char *path, int flags, ...)
{
    int (*real)(const char *, int, ...) = (int (*)(const char *, int, ...))next("open");
    va_list more;
    va_start(more, flags);
    unsigned mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(more, unsigned) : 0;
    va_end(more);
    const char *name = getenv("HE_WATCHDOG_DEVICE");
    if (!name || strcmp(path, name))
        return real(path, flags, mode);
    int fd = real(path, O_RDWR | O_CLOEXEC);
    if (fd < 0)
        return fd;
    void *memory = mmap(NULL, sizeof *device, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (memory == MAP_FAILED) {
        close(fd);
        return -1;
    }
    device = memory;
    device_fd = fd;
    magic = 0;
    keepalive();
    return fd;
}

int ioctl(int fd, unsigned long request, ...)
{
    int (*real)(int, unsigned long, void *) = (int (*)(int, unsigned long, void *))next("ioctl");
    va_list more;
    va_start(more, request);
    void *argument = va_arg(more, void *);
    va_end(more);
    if (fd < 0 || fd != device_fd)
        return real(fd, request, argument);
    switch (request) {
    case WDIOC_GETSUPPORT:
        memset(argument, 0, sizeof(struct watchdog_info));
        ((struct watchdog_info *)argument)->options = WDIOF_SETTIMEOUT | WDIOF_MAGICCLOSE | WDIOF_KEEPALIVEPING;
        strcpy((char *)((struct watchdog_info *)argument)->identity, "stand-in");
        return 0;
    case WDIOC_SETTIMEOUT:
        device->timeout = (uint64_t) * (int *)argument;
        keepalive();
        return 0;
    case WDIOC_GETTIMEOUT:
        *(int *)argument = (int)device->timeout;
        return 0;
    case WDIOC_KEEPALIVE:
        keepalive();
        return 0;
    default:
        return real(fd, request, argument); /* a regular file: ENOTTY */
    }
}

ssize_t write(int fd, const void *data, size_t length)
{
    ssize_t (*real)(int, const void *, size_t) = (ssize_t(*)(int, const void *, size_t))next("write");
    if (fd < 0 || fd != device_fd)
        return real(fd, data, length);
    magic = memchr(data, 'V', length) != NULL;
    keepalive();
    return (ssize_t)length;
}

int close(int fd)
{
    int (*real)(int) = (int (*)(int))next("close");
    if (fd >= 0 && fd == device_fd) {
        if (magic)
            __atomic_store_n(&device->alive, 0, __ATOMIC_SEQ_CST);
        munmap(device, sizeof *device);
        device = NULL;
        device_fd = -1;
    }
    return real(fd);
}
