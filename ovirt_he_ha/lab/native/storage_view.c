/* One host's view of the shared storage: `storage_view DIRECTORY MOUNTPOINT CONTROL_FD`.
 *
 * A pass-through of DIRECTORY that can be told to hang, to fail or to be slow. It reads commands from the socket
 * CONTROL_FD, one line each, and answers each with a line when it is in force:
 *
 *     ok | hang | error | slow MILLISECONDS
 *
 * after a first "ready" of its own, once it is mounted. It ends when the other side of the socket is closed. Nothing is
 * cached: what one host wrote another reads at once, as with the directory itself. Locks stay local to a view, as on a
 * file server without a lock service.
 */
#define _GNU_SOURCE
#define FUSE_USE_VERSION 31
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <fuse.h>
#include <fuse_lowlevel.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <time.h>
#include <unistd.h>

/* As many requests as can wait at one time; more than a host's processes have under way. */
#define THREADS 32
#define STACK (256 * 1024)

enum mode { OK, HANG, FAIL, SLOW };

static const char *base;
static int control;
static struct fuse_session *session;

/* --- the gate -----------------------------------------------------------------------------------------------------*/

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed, drained = PTHREAD_COND_INITIALIZER;
static enum mode mode = OK;
static long delay_ms;
static unsigned long under_way;

/* Every request comes through here before it touches the directory, and leaves by leave(). 0, or the error to answer. */
static int enter(int data)
{
    struct timespec due;
    int waited = 0, error = 0;
    pthread_mutex_lock(&lock);
    for (;;) {
        if (mode == HANG) {
            pthread_cond_wait(&changed, &lock);
        } else if (mode == FAIL && data) {
            error = -EIO;
            break;
        } else if (mode == SLOW && data && waited != ETIMEDOUT) {
            if (!waited) {
                clock_gettime(CLOCK_MONOTONIC, &due);
                due.tv_sec += delay_ms / 1000;
                due.tv_nsec += delay_ms % 1000 * 1000000;
                if (due.tv_nsec >= 1000000000) {
                    due.tv_sec++;
                    due.tv_nsec -= 1000000000;
                }
            }
            waited = pthread_cond_timedwait(&changed, &lock, &due) == ETIMEDOUT ? ETIMEDOUT : EAGAIN;
        } else {
            break;
        }
    }
    if (!error)
        under_way++;
    pthread_mutex_unlock(&lock);
    return error;
}

static int leave(int result)
{
    int saved = errno;
    pthread_mutex_lock(&lock);
    if (!--under_way)
        pthread_cond_broadcast(&drained);
    pthread_mutex_unlock(&lock);
    return result < 0 ? -saved : result;
}

/* When a hang or an error is in force, nothing that came before is still being done. */
static void switch_to(enum mode wanted, long milliseconds)
{
    pthread_mutex_lock(&lock);
    mode = wanted;
    delay_ms = milliseconds;
    pthread_cond_broadcast(&changed);
    while (under_way && (wanted == HANG || wanted == FAIL))
        pthread_cond_wait(&drained, &lock);
    pthread_mutex_unlock(&lock);
}

static void *obey(void *unused)
{
    FILE *lines = fdopen(control, "r");
    char line[64];
    (void)unused;
    while (lines && fgets(line, sizeof line, lines)) {
        long ms = 0;
        const char *answer = "done\n";
        if (!strcmp(line, "ok\n"))
            switch_to(OK, 0);
        else if (!strcmp(line, "hang\n"))
            switch_to(HANG, 0);
        else if (!strcmp(line, "error\n"))
            switch_to(FAIL, 0);
        else if (sscanf(line, "slow %ld\n", &ms) == 1 && ms > 0)
            switch_to(SLOW, ms);
        else
            answer = "unknown\n";
        if (write(control, answer, strlen(answer)) < 0)
            break;
    }
    _exit(0); /* our keeper is gone: the kernel ends the connection, and with it whatever waits on it */
}

/* --- the pass-through ---------------------------------------------------------------------------------------------*/

static const char *at(const char *path, char *buffer)
{
    snprintf(buffer, PATH_MAX, "%s%s", base, path);
    return buffer;
}

#define GATE(data)                 \
    char full[PATH_MAX];           \
    int refused = enter(data);     \
    if (refused)                   \
        return refused;            \
    (void)full

static int view_getattr(const char *path, struct stat *st, struct fuse_file_info *fi)
{
    GATE(0);
    return leave(fi ? fstat((int)fi->fh, st) : lstat(at(path, full), st));
}

static int view_readlink(const char *path, char *target, size_t size)
{
    GATE(0);
    ssize_t length = readlink(at(path, full), target, size - 1);
    if (length >= 0)
        target[length] = 0;
    return leave(length < 0 ? -1 : 0);
}

static int owned(const char *full, int result)
{
    struct fuse_context *who = fuse_get_context();
    return result < 0 ? result : lchown(full, who->uid, who->gid);
}

static int view_mkdir(const char *path, mode_t bits)
{
    GATE(0);
    at(path, full);
    return leave(owned(full, mkdir(full, bits)));
}

static int view_symlink(const char *target, const char *path)
{
    GATE(0);
    at(path, full);
    return leave(owned(full, symlink(target, full)));
}

static int view_unlink(const char *path)
{
    GATE(0);
    return leave(unlink(at(path, full)));
}

static int view_rmdir(const char *path)
{
    GATE(0);
    return leave(rmdir(at(path, full)));
}

static int view_rename(const char *from, const char *to, unsigned flags)
{
    char target[PATH_MAX];
    GATE(0);
    return leave(renameat2(AT_FDCWD, at(from, full), AT_FDCWD, at(to, target), flags));
}

static int view_link(const char *from, const char *to)
{
    char target[PATH_MAX];
    GATE(0);
    return leave(link(at(from, full), at(to, target)));
}

static int view_chmod(const char *path, mode_t bits, struct fuse_file_info *fi)
{
    GATE(0);
    return leave(fi ? fchmod((int)fi->fh, bits) : chmod(at(path, full), bits));
}

static int view_chown(const char *path, uid_t uid, gid_t gid, struct fuse_file_info *fi)
{
    GATE(0);
    return leave(fi ? fchown((int)fi->fh, uid, gid) : lchown(at(path, full), uid, gid));
}

static int view_utimens(const char *path, const struct timespec times[2], struct fuse_file_info *fi)
{
    GATE(0);
    return leave(fi ? futimens((int)fi->fh, times) : utimensat(AT_FDCWD, at(path, full), times, AT_SYMLINK_NOFOLLOW));
}

static int view_truncate(const char *path, off_t size, struct fuse_file_info *fi)
{
    GATE(1);
    return leave(fi ? ftruncate((int)fi->fh, size) : truncate(at(path, full), size));
}

/* Direct I/O ends here: the buffers that requests come in are not aligned. It holds between the host and us (nothing is
 * cached on the host's side), and all views share the machine's page cache, which direct readers of the directory see. */
static int opened(int fd, struct fuse_file_info *fi)
{
    if (fd >= 0) {
        fi->fh = (uint64_t)fd;
        fi->direct_io = 1;
    }
    return fd < 0 ? -1 : 0;
}

static int flags_of(const struct fuse_file_info *fi) { return (fi->flags & ~(O_DIRECT | O_NOFOLLOW)) | O_CLOEXEC; }

static int view_open(const char *path, struct fuse_file_info *fi)
{
    GATE(0);
    return leave(opened(open(at(path, full), flags_of(fi)), fi));
}

static int view_create(const char *path, mode_t bits, struct fuse_file_info *fi)
{
    struct fuse_context *who = fuse_get_context();
    GATE(0);
    int fd = open(at(path, full), flags_of(fi) | O_CREAT, bits);
    if (fd >= 0 && fchown(fd, who->uid, who->gid) < 0) {
        int saved = errno;
        close(fd);
        errno = saved;
        fd = -1;
    }
    return leave(opened(fd, fi));
}

static int view_read(const char *path, char *data, size_t size, off_t offset, struct fuse_file_info *fi)
{
    (void)path;
    GATE(1);
    return leave((int)pread((int)fi->fh, data, size, offset));
}

static int view_write(const char *path, const char *data, size_t size, off_t offset, struct fuse_file_info *fi)
{
    (void)path;
    GATE(1);
    return leave((int)pwrite((int)fi->fh, data, size, offset));
}

static int view_fsync(const char *path, int data_only, struct fuse_file_info *fi)
{
    (void)path;
    GATE(1);
    return leave(data_only ? fdatasync((int)fi->fh) : fsync((int)fi->fh));
}

static int view_fallocate(const char *path, int how, off_t offset, off_t length, struct fuse_file_info *fi)
{
    (void)path;
    GATE(1);
    return leave(fallocate((int)fi->fh, how, offset, length));
}

static int view_release(const char *path, struct fuse_file_info *fi)
{
    (void)path;
    close((int)fi->fh);
    return 0;
}

static int view_statfs(const char *path, struct statvfs *st)
{
    GATE(0);
    return leave(statvfs(at(path, full), st));
}

static int view_opendir(const char *path, struct fuse_file_info *fi)
{
    GATE(0);
    DIR *directory = opendir(at(path, full));
    fi->fh = (uintptr_t)directory;
    return leave(directory ? 0 : -1);
}

static int view_readdir(const char *path, void *buffer, fuse_fill_dir_t fill, off_t offset, struct fuse_file_info *fi,
                        enum fuse_readdir_flags flags)
{
    (void)path, (void)offset, (void)flags;
    GATE(0);
    DIR *directory = (DIR *)(uintptr_t)fi->fh;
    rewinddir(directory);
    for (struct dirent *entry; (entry = readdir(directory));)
        fill(buffer, entry->d_name, NULL, 0, 0);
    return leave(0);
}

static int view_releasedir(const char *path, struct fuse_file_info *fi)
{
    (void)path;
    closedir((DIR *)(uintptr_t)fi->fh);
    return 0;
}

/* With a handle there may be no path: the file may have been removed. */
static void *view_init(struct fuse_conn_info *connection, struct fuse_config *config)
{
    (void)connection;
    config->use_ino = 1;
    config->nullpath_ok = 1;
    config->hard_remove = 1;
    config->entry_timeout = config->attr_timeout = config->negative_timeout = 0;
    return NULL;
}

static const struct fuse_operations operations = {
    .init = view_init,
    .getattr = view_getattr,
    .readlink = view_readlink,
    .mkdir = view_mkdir,
    .symlink = view_symlink,
    .unlink = view_unlink,
    .rmdir = view_rmdir,
    .rename = view_rename,
    .link = view_link,
    .chmod = view_chmod,
    .chown = view_chown,
    .utimens = view_utimens,
    .truncate = view_truncate,
    .open = view_open,
    .create = view_create,
    .read = view_read,
    .write = view_write,
    .fsync = view_fsync,
    .fallocate = view_fallocate,
    .release = view_release,
    .statfs = view_statfs,
    .opendir = view_opendir,
    .readdir = view_readdir,
    .releasedir = view_releasedir,
};

/* --- serving ------------------------------------------------------------------------------------------------------*/

/* A fixed number of threads of our own: the library's loop ends and starts them, and one of its versions has only ten. */
static void *serve(void *unused)
{
    struct fuse_buf buffer = {0};
    (void)unused;
    while (!fuse_session_exited(session)) {
        int length = fuse_session_receive_buf(session, &buffer);
        if (length == -EINTR)
            continue;
        if (length <= 0)
            break;
        fuse_session_process_buf(session, &buffer);
    }
    _exit(0); /* unmounted, or the connection was cut */
}

static void start(void *(*body)(void *))
{
    pthread_attr_t attributes;
    pthread_t thread;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, STACK);
    int error = pthread_create(&thread, &attributes, body, NULL);
    if (error) {
        fprintf(stderr, "storage_view: no thread: %s\n", strerror(error));
        _exit(1);
    }
}

int main(int argc, char **argv)
{
    char *words[] = {argv[0], "-oallow_other,default_permissions,fsname=he-lab-storage,subtype=he-lab", NULL};
    struct fuse_args options = FUSE_ARGS_INIT(2, words);
    pthread_condattr_t monotonic;
    if (argc != 4) {
        fprintf(stderr, "storage_view DIRECTORY MOUNTPOINT CONTROL_FD\n");
        return 2;
    }
    base = argv[1];
    control = atoi(argv[3]);
    umask(0);
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&changed, &monotonic);
    struct fuse *fuse = fuse_new(&options, &operations, sizeof operations, NULL);
    if (!fuse || fuse_mount(fuse, argv[2])) {
        fprintf(stderr, "storage_view: %s cannot be mounted\n", argv[2]);
        return 1;
    }
    session = fuse_get_session(fuse);
    if (write(control, "ready\n", 6) != 6)
        return 1;
    start(obey);
    for (int thread = 1; thread < THREADS; thread++)
        start(serve);
    serve(NULL);
}
