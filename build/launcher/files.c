/* Files and folders, by descriptors: what is done beneath a folder stays beneath it. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "launcher.h"

enum { MOST_DEEP = 64 };

static bool remove_beneath(int parent, const char *name, int deep) {
    if (unlinkat(parent, name, 0) == 0 || errno == ENOENT)
        return true;
    if (errno != EISDIR && errno != EPERM)
        return false;
    int fd = openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    DIR *folder = fd < 0 || deep == 0 ? NULL : fdopendir(fd);
    if (folder == NULL) {
        if (fd >= 0)
            close(fd);
        return false;
    }
    for (struct dirent *entry; (entry = readdir(folder)) != NULL;)
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
            remove_beneath(dirfd(folder), entry->d_name, deep - 1); /* what is left keeps its folder */
    closedir(folder);
    return unlinkat(parent, name, AT_REMOVEDIR) == 0;
}

bool remove_tree(int parent, const char *name) { return remove_beneath(parent, name, MOST_DEEP); }

bool write_all(int fd, const void *data, size_t size) {
    for (const char *at = data; size > 0;) {
        ssize_t written = write(fd, at, size);
        if (written < 0 && errno == EINTR)
            continue;
        if (written <= 0)
            return false;
        at += written, size -= (size_t)written;
    }
    return true;
}

/* All of a file, with a NUL after it; NULL if it is not there, or larger than `most`. The caller frees it. */
char *read_file(int folder, const char *name, size_t most) {
    struct stat status;
    char *text = NULL;
    int fd = openat(folder, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0)
        return NULL;
    if (fstat(fd, &status) == 0 && S_ISREG(status.st_mode) && (uint64_t)status.st_size <= most) {
        size_t size = (size_t)status.st_size, have = 0;
        text = malloc(size + 1);
        for (ssize_t got = 1; text != NULL && have < size && got > 0; have += got > 0 ? (size_t)got : 0)
            got = read(fd, text + have, size - have);
        if (text != NULL)
            text[have] = '\0';
    }
    close(fd);
    return text;
}
