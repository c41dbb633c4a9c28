/* Where the program is unpacked: the cache of the person's home, by the same rules as host/config/home.py; where that
 * will not do (read-only, full, noexec, no home at all), a folder of our own in a place that is everyone's. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "launcher.h"

static const char *of_environment(const char *name) {
    const char *value = getenv(name);
    return value == NULL ? "" : value;
}

/* `--home DIR` or `--home=DIR`, wherever it stands, as the program itself will read it. */
static const char *home_option(int argc, char **argv) {
    const char *found = "";
    for (int i = 1; i < argc && strcmp(argv[i], "--") != 0; i++) {
        if (strncmp(argv[i], "--home=", 7) == 0)
            found = argv[i] + 7;
        else if (strcmp(argv[i], "--home") == 0 && i + 1 < argc)
            found = argv[++i];
    }
    return found;
}

static bool named(struct place *place, bool shared, const char *format, ...) {
    va_list values;
    va_start(values, format);
    int length = vsnprintf(place->path, sizeof place->path, format, values);
    va_end(values);
    place->shared = shared;
    place->home[0] = '\0';
    return length > 0 && (size_t)length < sizeof place->path;
}

static bool of_person(int argc, char **argv, struct place *place) {
    const char *home = home_option(argc, argv);
    char here[MOST_PATH] = "";
    if (*home == '\0')
        home = of_environment("NANOCLAW_HOME");
    if (*home == '/')
        return named(place, false, "%s/cache", home);
    if (*home != '\0')
        return getcwd(here, sizeof here) != NULL && named(place, false, "%s/%s/cache", here, home);
    if (*(home = of_environment("XDG_CACHE_HOME")) == '/')
        return named(place, false, "%s/nanoclaw", home);
    if (*(home = of_environment("HOME")) != '/' || !named(place, false, "%s/.cache/nanoclaw", home))
        return false;
    /* Under sudo HOME may be another's: a folder of root's in it would be in that person's way. */
    snprintf(place->home, sizeof place->home, "%s", home);
    return true;
}

size_t find_places(int argc, char **argv, struct place places[MOST_PLACES]) {
    const char *everyones[] = {of_environment("XDG_RUNTIME_DIR"), "/tmp", "/var/tmp", "/dev/shm"};
    size_t count = of_person(argc, argv, &places[0]) ? 1 : 0;
    for (size_t i = 0; i < sizeof everyones / sizeof *everyones; i++)
        if (everyones[i][0] == '/' && named(&places[count], true, "%s/nanoclaw-%u", everyones[i], geteuid()))
            count++;
    return count;
}

/* Every missing folder of the path, 0700. What is there already may be a link: the person named it. */
static enum outcome make_folders(const char *path) {
    char part[MOST_PATH];
    size_t length = strlen(path);
    memcpy(part, path, length + 1);
    for (size_t i = 1; i <= length; i++) {
        if (path[i] != '/' && path[i] != '\0')
            continue;
        part[i] = '\0';
        if (mkdir(part, 0700) != 0 && errno != EEXIST) {
            int why = errno; /* a parent may be closed to us, and what lies in it not */
            struct stat status;
            if (stat(part, &status) != 0)
                return errno = why, unusable_errno("it cannot be made");
        }
        part[i] = path[i];
    }
    return DONE;
}

static enum outcome open_own(const struct place *place, int *folder) {
    struct stat status;
    if (place->home[0] != '\0' && (stat(place->home, &status) != 0 || status.st_uid != geteuid()))
        return unusable("%s is not your own", place->home);
    enum outcome made = make_folders(place->path);
    if (made != DONE)
        return made;
    *folder = open(place->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return *folder < 0 ? unusable_errno("it cannot be opened") : DONE;
}

/* Where everyone may write, another may have been there before us, with a folder or a link of that name. */
static enum outcome open_shared(const struct place *place, int *folder) {
    char path[MOST_PATH];
    struct stat status;
    snprintf(path, sizeof path, "%s", place->path);
    char *name = strrchr(path, '/');
    *name++ = '\0';
    int parent = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (parent < 0)
        return unusable_errno("it cannot be opened");
    bool safe = fstat(parent, &status) == 0 && (status.st_uid == 0 || status.st_uid == geteuid()) &&
                ((status.st_mode & 022) == 0 || (status.st_mode & S_ISVTX) != 0);
    if (!safe) {
        close(parent);
        return unusable("others could exchange what lies in %s", path);
    }
    enum outcome made = DONE;
    if (mkdirat(parent, name, 0700) != 0 && errno != EEXIST)
        made = unusable_errno("it cannot be made");
    else if ((*folder = openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC)) < 0)
        made = errno == ELOOP || errno == ENOTDIR ? unusable("it is no folder") : unusable_errno("it cannot be opened");
    else if (fstat(*folder, &status) == 0 && status.st_uid == geteuid() && (status.st_mode & 077) != 0)
        made = unusable("others can enter it");
    if (made != DONE && *folder >= 0)
        close(*folder);
    close(parent);
    return made;
}

static enum outcome check(int folder) {
    struct stat status;
    struct statvfs system;
    if (fstat(folder, &status) != 0 || fstatvfs(folder, &system) != 0)
        return unusable_errno("it cannot be looked at");
    if (status.st_uid != geteuid())
        return unusable("it belongs to user %u", status.st_uid);
    if ((status.st_mode & 022) != 0)
        return unusable("others can write to it");
    if ((system.f_flag & ST_RDONLY) != 0)
        return unusable("read-only file system");
    if ((system.f_flag & ST_NOEXEC) != 0)
        return unusable("programs may not be run from there (noexec)");
    return DONE;
}

enum outcome open_place(const struct place *place, int *shelf) {
    int folder = -1;
    enum outcome found = place->shared ? open_shared(place, &folder) : open_own(place, &folder);
    if (found != DONE)
        return found;
    if ((found = check(folder)) == DONE) {
        if (mkdirat(folder, "host", 0700) != 0 && errno != EEXIST)
            found = unusable_errno("it cannot be written");
        else if ((*shelf = openat(folder, "host", O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC)) < 0)
            found = unusable_errno("its folder host cannot be opened");
        else if ((found = check(*shelf)) != DONE)
            close(*shelf);
    }
    close(folder);
    return found;
}
