/* The launcher: what its parts share. See launcher.c for what it does. */
#ifndef LAUNCHER_H
#define LAUNCHER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    MOST_PATH = 3072,    /* of a cache folder; what lies in it is at most 300 bytes longer */
    MOST_FILES = 20000,  /* in the program, as build/pack.py has it */
    WAIT_SECONDS = 300,  /* for another process that unpacks: a slow SD card needs one or two minutes */
};

/* What is to be unpacked, by the trailer of the file. */
struct host {
    int file;
    uint64_t offset, length, unpacked;
    unsigned char sha256[32];
    char id[33]; /* the beginning of its SHA-256, in hex: the name of its folder */
};

enum outcome {
    DONE = 0,
    UNUSABLE, /* this cache folder will not do; the reason is in `reason` */
    DAMAGED,  /* the file itself is not what was built */
};

/* Why a folder will not do: one line for the person. */
extern char reason[512];
enum outcome unusable(const char *format, ...) __attribute__((format(printf, 1, 2)));
enum outcome unusable_errno(const char *what);

_Noreturn void die(const char *hint, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* sha256.c */
struct sha256 {
    uint32_t state[8];
    uint64_t length;
    unsigned char block[64];
};
void sha256_begin(struct sha256 *hash);
void sha256_add(struct sha256 *hash, const unsigned char *data, size_t size);
void sha256_end(struct sha256 *hash, unsigned char digest[32]);

/* place.c: folders that the program may be unpacked into, the best first. */
struct place {
    char path[MOST_PATH];
    bool shared;  /* its parent is everyone's, as /tmp is */
    char home[MOST_PATH]; /* if not empty: must belong to us, or nothing is made in it */
};
enum { MOST_PLACES = 6 };
size_t find_places(int argc, char **argv, struct place places[MOST_PLACES]);
/* PLACE/host, made if it is not there, and nobody else's: its descriptor. */
enum outcome open_place(const struct place *place, int *shelf);

/* copy.c: the unpacked program in PLACE/host. `hold` is a lock that keeps it from being pruned. */
enum outcome ready_copy(int shelf, const struct host *host, int *hold);

/* unpack.c */
enum outcome unpack(const struct host *host, int folder, char **names, size_t *size);

/* files.c */
bool remove_tree(int parent, const char *name);
bool write_all(int fd, const void *data, size_t size);
char *read_file(int folder, const char *name, size_t most);

#endif
