/* The parcel "host": a zlib stream of a ustar, as build/pack.py makes it. Its SHA-256 is looked at last: until then
 * nothing of what was written is under its name, and nothing in here believes what it reads. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

#include "launcher.h"

enum { CHUNK = 65536, BLOCK = 512, MOST_NAME = 256 };

struct stream {
    const struct host *host;
    z_stream z;
    struct sha256 hash;
    uint64_t taken; /* bytes of the parcel that were read */
    uint64_t given; /* bytes that they uncompressed to */
    bool ended, shows;
    int percent;
    unsigned char in[CHUNK];
};

static void show(struct stream *s) {
    int percent = (int)(100 * s->taken / s->host->length);
    if (s->shows && percent >= s->percent + 5) {
        s->percent = percent;
        fprintf(stderr, "\r\033[Knanoclaw: unpacking itself, once for this version: %d %%", percent);
    }
}

static enum outcome refill(struct stream *s) {
    uint64_t left = s->host->length - s->taken;
    ssize_t got = pread(s->host->file, s->in, left < CHUNK ? (size_t)left : CHUNK, (off_t)(s->host->offset + s->taken));
    if (got <= 0)
        return DAMAGED;
    sha256_add(&s->hash, s->in, (size_t)got);
    s->taken += (uint64_t)got;
    s->z.next_in = s->in;
    s->z.avail_in = (unsigned)got;
    show(s);
    return DONE;
}

/* Exactly `size` bytes, or it is damaged. */
static enum outcome take(struct stream *s, unsigned char *data, size_t size) {
    if (size > s->host->unpacked - s->given)
        return DAMAGED;
    s->given += size;
    s->z.next_out = data;
    s->z.avail_out = (unsigned)size;
    while (s->z.avail_out > 0) {
        if (s->ended || (s->z.avail_in == 0 && refill(s) != DONE))
            return DAMAGED;
        int state = inflate(&s->z, Z_NO_FLUSH);
        if (state != Z_OK && state != Z_STREAM_END)
            return DAMAGED;
        s->ended = state == Z_STREAM_END;
    }
    return DONE;
}

/* What follows the last file, to the end of all; then the digest. */
static enum outcome finish(struct stream *s) {
    unsigned char data[BLOCK], digest[32];
    while (s->given < s->host->unpacked)
        if (take(s, data, s->host->unpacked - s->given < BLOCK ? (size_t)(s->host->unpacked - s->given) : BLOCK) != DONE)
            return DAMAGED;
    while (s->taken < s->host->length)
        if (refill(s) != DONE)
            return DAMAGED;
    sha256_end(&s->hash, digest);
    return memcmp(digest, s->host->sha256, sizeof digest) == 0 ? DONE : DAMAGED;
}

/* The folder that `name` is to be made in, and its last part. No link on the way is followed. */
static int open_parent(int root, char *name, char **last) {
    int folder = dup(root);
    for (char *slash; folder >= 0 && (slash = strchr(name, '/')) != NULL; name = slash + 1) {
        *slash = '\0';
        int next = openat(folder, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        *slash = '/';
        close(folder);
        folder = next;
    }
    *last = name;
    return folder;
}

/* Relative, and without a part that leads elsewhere. */
static bool is_plain(const char *name) {
    for (const char *part = name;; part++) {
        size_t length = strcspn(part, "/");
        if (length == 0 || (part[0] == '.' && (length == 1 || (length == 2 && part[1] == '.'))))
            return false;
        part += length;
        if (*part == '\0')
            return strcspn(name, "\n") == strlen(name);
    }
}

/* Whether a link called `name` stays within what is unpacked. */
static bool stays(const char *name, const char *target) {
    int deep = 0;
    if (*target == '/' || *target == '\0')
        return false;
    for (const char *c = name; *c != '\0'; c++)
        deep += *c == '/';
    for (const char *part = target; *part != '\0' && deep >= 0;) {
        size_t length = strcspn(part, "/");
        if (length == 2 && part[0] == '.' && part[1] == '.')
            deep--;
        else if (length > 0 && !(length == 1 && part[0] == '.'))
            deep++;
        part += length + (part[length] == '/');
    }
    return deep >= 0;
}

static enum outcome write_file(struct stream *s, int fd, uint64_t size) {
    static unsigned char data[CHUNK];
    unsigned char rest[BLOCK];
    for (uint64_t left = size; left > 0;) {
        size_t part = left < CHUNK ? (size_t)left : CHUNK;
        if (take(s, data, part) != DONE)
            return DAMAGED;
        if (!write_all(fd, data, part))
            return unusable_errno("it cannot be unpacked");
        left -= part;
    }
    return size % BLOCK == 0 ? DONE : take(s, rest, BLOCK - size % BLOCK);
}

static enum outcome make(struct stream *s, int parent, const char *name, const char *full, const unsigned char *header) {
    char target[101], number[13];
    memcpy(target, header + 157, 100);
    memcpy(number, header + 124, 12);
    target[100] = number[12] = '\0';
    if (header[156] == '5')
        return mkdirat(parent, name, 0700) == 0 ? DONE : unusable_errno("it cannot be unpacked");
    if (header[156] == '2') {
        if (!stays(full, target))
            return DAMAGED;
        return symlinkat(target, parent, name) == 0 ? DONE : unusable_errno("it cannot be unpacked");
    }
    if (header[156] != '0')
        return DAMAGED;
    bool runs = (header[104] & 1) != 0; /* the mode is seven octal digits: this one is the owner's */
    int fd = openat(parent, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, runs ? 0700 : 0600);
    if (fd < 0)
        return unusable_errno("it cannot be unpacked");
    enum outcome written = write_file(s, fd, strtoull(number, NULL, 8));
    if (close(fd) != 0 && written == DONE)
        written = unusable_errno("it cannot be unpacked");
    return written;
}

/* The whole name of a member: what ustar keeps in two parts. */
static void name_of(const unsigned char *header, char name[MOST_NAME + 2]) {
    char prefix[156], rest[101];
    memcpy(prefix, header + 345, 155);
    memcpy(rest, header, 100);
    prefix[155] = rest[100] = '\0';
    snprintf(name, MOST_NAME + 2, "%s%s%s", prefix, *prefix == '\0' ? "" : "/", rest);
    size_t length = strlen(name);
    if (length > 0 && name[length - 1] == '/' && header[156] == '5')
        name[length - 1] = '\0';
}

static enum outcome members(struct stream *s, int root, char *names, size_t *size) {
    unsigned char header[BLOCK];
    char name[MOST_NAME + 2], *last;
    for (int count = 0; count <= MOST_FILES; count++) {
        if (take(s, header, BLOCK) != DONE)
            return DAMAGED;
        if (header[0] == '\0')
            return finish(s);
        name_of(header, name);
        if (count == MOST_FILES || !is_plain(name))
            return DAMAGED;
        int parent = open_parent(root, name, &last);
        if (parent < 0)
            return DAMAGED;
        enum outcome made = make(s, parent, last, name, header);
        close(parent);
        if (made != DONE)
            return made;
        memcpy(names + *size, name, strlen(name) + 1);
        *size += strlen(name) + 1;
    }
    return DAMAGED;
}

/* Unpack into the empty folder `folder`. `names`: of all that was made, each with a NUL, `size` bytes together. */
enum outcome unpack(const struct host *host, int folder, char **names, size_t *size) {
    static struct stream s;
    memset(&s, 0, sizeof s);
    s.host = host;
    s.shows = isatty(STDERR_FILENO) == 1;
    s.percent = -5;
    *size = 0;
    *names = malloc((size_t)MOST_FILES * (MOST_NAME + 2));
    if (*names == NULL || inflateInit(&s.z) != Z_OK)
        return unusable("there is not enough memory");
    sha256_begin(&s.hash);
    enum outcome made = members(&s, folder, *names, size);
    inflateEnd(&s.z);
    if (s.shows)
        fputs("\r\033[K", stderr);
    return made;
}
