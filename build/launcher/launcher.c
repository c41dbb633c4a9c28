/* The beginning of the one file that NanoClaw is. It unpacks the program, which lies behind it in the same file, once
 * into a cache folder, and becomes it. Every later start is a look at that folder and an execve.
 *
 *   [this ELF] [parcels, the program's among them] [index, JSON] [trailer: 128 bytes, see build/pack.py]
 *
 * Statically linked, so that it runs everywhere and can say what is missing where the program would not. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/stat.h>
#include <unistd.h>

#include "launcher.h"

enum { TRAILER = 128, FORMAT = 1, OLDEST_GLIBC = 28 };

#if defined(__x86_64__)
#define LOADER "/lib64/ld-linux-x86-64.so.2"
#elif defined(__aarch64__)
#define LOADER "/lib/ld-linux-aarch64.so.1"
#else
#error "for x86_64 and aarch64 only"
#endif

static const uint64_t MOST_UNPACKED = 512ULL << 20;

extern char **environ;
char reason[512];

_Noreturn void die(const char *hint, const char *format, ...) {
    va_list values;
    va_start(values, format);
    fputs("nanoclaw: error: ", stderr);
    vfprintf(stderr, format, values);
    va_end(values);
    fprintf(stderr, "\nnanoclaw: hint: %s\n", hint);
    exit(1);
}

enum outcome unusable(const char *format, ...) {
    va_list values;
    va_start(values, format);
    vsnprintf(reason, sizeof reason, format, values);
    va_end(values);
    return UNUSABLE;
}

enum outcome unusable_errno(const char *what) {
    if (errno == ENOSPC || errno == EDQUOT)
        return unusable("there is no room in it");
    return errno == EROFS ? unusable("read-only file system") : unusable("%s (%s)", what, strerror(errno));
}

_Noreturn static void damaged(const char *self, const char *how) {
    die("download it again", "this file is damaged: %s %s", self, how);
}

/* --- the file --- */

static uint64_t number(const unsigned char *at) {
    uint64_t value = 0;
    for (int i = 7; i >= 0; i--)
        value = value << 8 | at[i];
    return value;
}

/* By the kernel's own link: it leads to what runs, however it was started, and whatever took its name since. */
static int open_self(char path[MOST_PATH]) {
    int fd = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
    ssize_t length = readlink("/proc/self/exe", path, MOST_PATH - 1);
    if (length < 0)
        die("mount it: mount -t proc proc /proc", "NanoClaw needs /proc, which is not mounted here");
    path[length] = '\0';
    if (length == MOST_PATH - 1)
        die("move it to another folder", "the path of this file is too long");
    if (fd < 0)
        die("make it readable for you: chmod +r", "%s cannot be read (%s)", path, strerror(errno));
    return fd;
}

static void read_trailer(const char *self, struct host *host) {
    unsigned char trailer[TRAILER];
    struct stat status;
    if (fstat(host->file, &status) != 0 || status.st_size < TRAILER ||
        pread(host->file, trailer, TRAILER, status.st_size - TRAILER) != TRAILER ||
        memcmp(trailer, "NANOCLAW", 8) != 0 || number(trailer + 8) != FORMAT)
        damaged(self, "has lost its end");
    uint64_t size = (uint64_t)status.st_size - TRAILER;
    host->offset = number(trailer + 64);
    host->length = number(trailer + 72);
    host->unpacked = number(trailer + 80);
    memcpy(host->sha256, trailer + 88, 32);
    if (host->length == 0 || host->length > size || host->offset > size - host->length ||
        host->unpacked > MOST_UNPACKED)
        damaged(self, "has an altered end");
    for (int i = 0; i < 16; i++)
        snprintf(host->id + 2 * i, 3, "%02x", host->sha256[i]);
}

/* --- the machine --- */

/* Else the kernel would say "No such file or directory" of a program that is there, or the loader name a symbol. */
static void check_glibc(void) {
    char path[4096]; /* PATH_MAX, as realpath has it */
    int minor;
    if (realpath(LOADER, path) == NULL)
        die("use a system with glibc: Debian, Ubuntu, Fedora, Raspberry Pi OS (not Alpine)",
            "NanoClaw needs glibc 2.%d or newer, and this system has none (no %s)", OLDEST_GLIBC, LOADER);
    /* Up to 2.33 the loader is called after its version. */
    char *name = strrchr(path, '/') + 1;
    if (sscanf(name, "ld-2.%d.so", &minor) == 1 && minor < OLDEST_GLIBC)
        die("use a newer system: Debian 10, Ubuntu 20.04, or later",
            "NanoClaw needs glibc 2.%d or newer, and this system has 2.%d", OLDEST_GLIBC, minor);
}

/* What is opened next would otherwise become the program's standard input, or output. */
static void fill_standard_descriptors(void) {
    for (int fd = 0; fd <= 2; fd++)
        if (fcntl(fd, F_GETFD) < 0 && errno == EBADF && open("/dev/null", O_RDWR) != fd)
            exit(1);
}

/* --- the start --- */

static bool is_ours(const char *variable) {
    static const char *const ours[] = {"_NANOCLAW_", "_MEI", "_PYI", "LD_LIBRARY_PATH_ORIG="};
    for (size_t i = 0; i < sizeof ours / sizeof *ours; i++)
        if (strncmp(variable, ours[i], strlen(ours[i])) == 0)
            return true;
    return false;
}

/* What another frozen program left in the environment would lead the program's own start astray. */
static void clean_environment(void) {
    char **kept = environ;
    for (char **at = environ; *at != NULL; at++)
        if (!is_ours(*at))
            *kept++ = *at;
    *kept = NULL;
}

static void hand_over(const char *name, int fd, const char *colon, const char *path) {
    char value[MOST_PATH + 32];
    snprintf(value, sizeof value, "%d%s%s", fd, colon, path);
    if (fcntl(fd, F_SETFD, 0) != 0 || setenv(name, value, 1) != 0)
        die("close some programs", "there is not enough memory");
}

_Noreturn static void become(const struct place *place, const struct host *host, int hold, const char *self, char **argv) {
    char program[MOST_PATH + 64];
    snprintf(program, sizeof program, "%s/host/%s/nanoclaw", place->path, host->id);
    clean_environment();
    hand_over("_NANOCLAW_FILE", host->file, ":", self);
    hand_over("_NANOCLAW_HOLD", hold, "", "");
    execve(program, argv, environ);
    die("it may be forbidden by the machine's rules; try another folder: XDG_CACHE_HOME=DIR", "cannot run %s (%s)",
        program, strerror(errno));
}

int main(int argc, char **argv) {
    static struct place places[MOST_PLACES];
    static char self[MOST_PATH], why[MOST_PLACES * 640];
    struct host host;
    mode_t mask = umask(077);
    fill_standard_descriptors();
    if (getauxval(AT_SECURE) != 0 || geteuid() != getuid() || getegid() != getgid())
        die("remove that: chmod ug-s", "NanoClaw does not run with another's rights (set-user-id, set-group-id)");
    host.file = open_self(self);
    read_trailer(self, &host);
    check_glibc();
    size_t count = find_places(argc, argv, places), length = 0;
    for (size_t i = 0; i < count; i++) {
        int shelf = -1, hold = -1;
        enum outcome found = open_place(&places[i], &shelf);
        if (found == DONE)
            found = ready_copy(shelf, &host, &hold);
        if (found == DAMAGED)
            damaged(self, "does not hold what was built");
        if (found == DONE) {
            umask(mask);
            become(&places[i], &host, hold, self, argv);
        }
        if (hold >= 0)
            close(hold);
        if (shelf >= 0)
            close(shelf);
        length += (size_t)snprintf(why + length, sizeof why - length, "%s%.100s: %.500s", i == 0 ? "" : "; ",
                                   places[i].path, reason);
    }
    die("name a folder with room for it, where programs may be run: XDG_CACHE_HOME=DIR, or --home DIR",
        "NanoClaw found no folder to unpack itself into (%d MB): %s", (int)(host.unpacked >> 20) + 1, why);
}
