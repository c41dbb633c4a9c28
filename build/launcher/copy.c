/* The unpacked program:
 *
 *   host/ID/       ID is the beginning of the parcel's SHA-256
 *   host/ID.list   what was unpacked, one line each: mode, size, time, name
 *   host/ID.run    locked, shared, by every process that runs it, so that nobody prunes it
 *   host/lock      held by the one process that unpacks or prunes
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "launcher.h"

enum { MOST_LIST = 8 << 20, MOST_COPIES = 64, KEPT = 2 };

struct name {
    char text[64];
};

static struct name of(const char *id, const char *ending) {
    struct name name;
    snprintf(name.text, sizeof name.text, "%.32s%s", id, ending);
    return name;
}

/* --- is it as it was unpacked? --- */

/* One line of the list. A folder's time tells of what was added to it; its size tells nothing. */
static bool describe(int folder, const char *path, char line[400]) {
    struct stat status;
    if (fstatat(folder, path, &status, AT_SYMLINK_NOFOLLOW) != 0)
        return false;
    snprintf(line, 400, "%o %lld %lld.%09ld %.260s\n", (unsigned)status.st_mode,
             S_ISDIR(status.st_mode) ? 0LL : (long long)status.st_size, (long long)status.st_mtim.tv_sec,
             (long)status.st_mtim.tv_nsec, path);
    return true;
}

static bool matches(int folder, char *list) {
    char line[400];
    for (char *at = list, *end; (end = strchr(at, '\n')) != NULL; at = end + 1) {
        if (strcmp(at, "end\n") == 0)
            return true;
        char *path = at;
        for (int i = 0; i < 3 && path != NULL; i++)
            path = (path = strchr(path, ' ')) == NULL ? NULL : path + 1;
        if (path == NULL || path > end)
            return false;
        *end = '\0';
        bool there = describe(folder, path, line);
        *end = '\n';
        if (!there || strncmp(at, line, (size_t)(end - at) + 1) != 0)
            return false;
    }
    return false;
}

static bool is_whole(int shelf, const char *id) {
    char *list = read_file(shelf, of(id, ".list").text, MOST_LIST);
    int folder = list == NULL ? -1 : openat(shelf, of(id, "").text, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    bool whole = folder >= 0 && matches(folder, list);
    if (folder >= 0)
        close(folder);
    free(list);
    return whole;
}

/* --- who may touch it --- */

static int open_lock(int shelf, const char *name, int create) {
    return openat(shelf, name, O_RDWR | O_NOFOLLOW | O_CLOEXEC | create, 0600);
}

/* The copy, if it is there and whole, and nobody is removing it just now. */
static bool take(int shelf, const char *id, int *hold) {
    struct stat status;
    *hold = open_lock(shelf, of(id, ".run").text, 0);
    if (*hold < 0)
        return false;
    if (flock(*hold, LOCK_SH | LOCK_NB) == 0 && fstat(*hold, &status) == 0 && status.st_nlink > 0 &&
        is_whole(shelf, id))
        return true;
    close(*hold);
    return false;
}

static void late(int number) { (void)number; }

static enum outcome lock(int shelf, int *held) {
    *held = open_lock(shelf, "lock", O_CREAT);
    if (*held < 0)
        return unusable_errno("it cannot be written");
    if (flock(*held, LOCK_EX | LOCK_NB) == 0)
        return DONE;
    if (errno != EWOULDBLOCK)
        return unusable_errno("it cannot be locked");
    fputs("nanoclaw: waiting for another NanoClaw that is unpacking itself\n", stderr);
    struct sigaction before, alarmed = {.sa_handler = late}; /* without SA_RESTART: it ends the wait */
    sigaction(SIGALRM, &alarmed, &before);
    alarm(WAIT_SECONDS);
    int got = flock(*held, LOCK_EX), why = errno;
    alarm(0);
    sigaction(SIGALRM, &before, NULL);
    errno = why;
    if (got == 0)
        return DONE;
    return why == EINTR ? unusable("another process has been unpacking there for five minutes")
                        : unusable_errno("it cannot be locked");
}

/* --- making it --- */

static enum outcome write_list(int shelf, const char *id, int folder, const char *names, size_t size) {
    struct name part = of(id, ".list.part");
    char line[400];
    int fd = openat(shelf, part.text, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0600);
    bool written = fd >= 0 && describe(folder, ".", line) && write_all(fd, line, strlen(line));
    for (const char *name = names; written && name < names + size; name += strlen(name) + 1)
        written = describe(folder, name, line) && write_all(fd, line, strlen(line));
    written = written && write_all(fd, "end\n", 4) && fsync(fd) == 0;
    if (fd >= 0)
        written = close(fd) == 0 && written;
    return written ? DONE : unusable_errno("it cannot be unpacked");
}

/* Into ID.part first. The list of before goes first, and the new one comes last: without it no copy is believed. */
static enum outcome fill(int shelf, const struct host *host, int folder) {
    struct name list = of(host->id, ".list"), gone = of(host->id, ".gone");
    char *names = NULL;
    size_t size = 0;
    enum outcome made = unpack(host, folder, &names, &size);
    /* A rename can reach the disk before the data it names: after a power cut there would be empty files. */
    if (made == DONE && syncfs(folder) != 0)
        made = unusable_errno("it cannot be unpacked");
    if (made == DONE)
        made = write_list(shelf, host->id, folder, names, size);
    free(names);
    if (made != DONE)
        return made;
    unlinkat(shelf, list.text, 0);
    remove_tree(shelf, gone.text);
    /* An altered one may still run: what it opens from now on is the new one. */
    renameat(shelf, of(host->id, "").text, shelf, gone.text);
    bool settled = renameat(shelf, of(host->id, ".part").text, shelf, of(host->id, "").text) == 0 &&
                   remove_tree(shelf, gone.text) &&
                   renameat(shelf, of(host->id, ".list.part").text, shelf, list.text) == 0 && fsync(shelf) == 0;
    return settled ? DONE : unusable_errno("it cannot be unpacked");
}

static enum outcome make(int shelf, const struct host *host) {
    struct name part = of(host->id, ".part");
    struct statvfs system;
    remove_tree(shelf, part.text); /* of a process that was killed: the lock is ours */
    /* Known beforehand where it can be: on a full disk every start would write until there is no room. */
    if (fstatvfs(shelf, &system) == 0 && system.f_bavail * (uint64_t)system.f_frsize < host->unpacked)
        return unusable("there is no room in it");
    if (mkdirat(shelf, part.text, 0700) != 0)
        return unusable_errno("it cannot be written");
    int folder = openat(shelf, part.text, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (folder < 0)
        return unusable_errno("it cannot be opened");
    enum outcome made = fill(shelf, host, folder);
    close(folder);
    if (made != DONE) {
        remove_tree(shelf, part.text);
        unlinkat(shelf, of(host->id, ".list.part").text, 0);
    }
    return made;
}

/* --- letting go of others --- */

static bool is_id(const char *name) { return strlen(name) == 32 && strspn(name, "0123456789abcdef") == 32; }

static bool ends_in(const char *name, const char *ending) {
    size_t length = strlen(name), last = strlen(ending);
    return length > last && strcmp(name + length - last, ending) == 0;
}

static void remove_unused(int shelf, const char *id) {
    int run = open_lock(shelf, of(id, ".run").text, O_CREAT);
    if (run >= 0 && flock(run, LOCK_EX | LOCK_NB) == 0) {
        unlinkat(shelf, of(id, ".list").text, 0);
        if (remove_tree(shelf, of(id, "").text))
            unlinkat(shelf, of(id, ".run").text, 0);
    }
    if (run >= 0)
        close(run);
}

struct copy {
    char id[33];
    time_t since;
};

static int newest_first(const void *a, const void *b) {
    time_t one = ((const struct copy *)a)->since, other = ((const struct copy *)b)->since;
    return (one < other) - (one > other);
}

/* All but ours, the newest other one, those that run, and debris of processes that were killed. */
static void prune(int shelf, const char *ours) {
    struct copy copies[MOST_COPIES];
    struct stat status;
    size_t count = 0;
    int fd = openat(shelf, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *folder = fd < 0 ? NULL : fdopendir(fd);
    for (struct dirent *entry; folder != NULL && (entry = readdir(folder)) != NULL;) {
        if (ends_in(entry->d_name, ".part") || ends_in(entry->d_name, ".gone"))
            remove_tree(shelf, entry->d_name);
        if (!is_id(entry->d_name) || strcmp(entry->d_name, ours) == 0 || count == MOST_COPIES)
            continue;
        memcpy(copies[count].id, entry->d_name, 33);
        copies[count].since = fstatat(shelf, entry->d_name, &status, AT_SYMLINK_NOFOLLOW) == 0 ? status.st_mtime : 0;
        count++;
    }
    if (folder != NULL)
        closedir(folder);
    qsort(copies, count, sizeof *copies, newest_first);
    for (size_t i = KEPT - 1; i < count; i++)
        remove_unused(shelf, copies[i].id);
}

enum outcome ready_copy(int shelf, const struct host *host, int *hold) {
    int held;
    if (take(shelf, host->id, hold))
        return DONE;
    enum outcome made = lock(shelf, &held);
    if (made == DONE) {
        *hold = open_lock(shelf, of(host->id, ".run").text, O_CREAT);
        if (*hold < 0 || flock(*hold, LOCK_SH) != 0)
            made = unusable_errno("it cannot be written");
        else if (!is_whole(shelf, host->id) && (made = make(shelf, host)) == DONE)
            prune(shelf, host->id);
    }
    if (held >= 0)
        close(held); /* which unlocks it */
    return made;
}
