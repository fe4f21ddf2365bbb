// SPDX-License-Identifier: MIT
// Takes memory as its arguments say, in order, so that tests know what a tree of processes holds:
//   anon MIB         maps private memory and writes all of it      shared MIB       the same, shared with children
//   shm PATH MIB     maps a file of that size shared, writes all   file PATH        maps a file, reads all of it
//   free             unmaps the newest mapping                     rewrite MIB      writes to the start of the newest
//   read             reads all of the newest mapping               name NAME        sets the process's name
//   spin MS          uses as much CPU time                         sleep MS         sleeps
//   setsid           leaves the session                            mark             sets MEMGUARD_TASK to itself
//   fork N { ... }   N children do what stands in braces           spawn { ... }    the same for one, after exec
//   repeat N { ... } does that N times, or until stdin is closed;                        exec { ... }     goes on with that after exec
//   reap             waits for all children
//   wait             writes a byte to stdout, then waits until stdin is closed
// Whoever started it may die: every wait ends with it. Exit status 1: a system call failed, 2: an argument is wrong.
#define _GNU_SOURCE
#include <fcntl.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { MOST = 64, PAGE = 4096 };
static struct { char *at; size_t bytes; } mapped[MOST];
static int mappings;

static void check(int ok, const char *what) {
    if (!ok) { perror(what); _exit(1); }
}

static char *map(size_t bytes, int flags, int file, int access) {
    char *at = mmap(NULL, bytes, access, flags, file, 0);
    check(at != MAP_FAILED && mappings < MOST, "mmap");
    madvise(at, bytes, MADV_NOHUGEPAGE); // sizes are those asked for, not rounded up
    mapped[mappings].at = at;
    mapped[mappings++].bytes = bytes;
    return at;
}

// Another word in each page, so that nothing can be merged.
static void write_pages(char *at, size_t bytes) {
    for (size_t i = 0; i < bytes; i += PAGE) *(uint64_t *)(at + i) = ((uint64_t)getpid() << 32) + i + 1;
}

static void read_pages(const char *at, size_t bytes) {
    for (size_t i = 0; i < bytes; i += PAGE) *(volatile const char *)(at + i);
}

static void set_mark(void) {
    char line[4096], mark[64];
    FILE *stat = fopen("/proc/self/stat", "r");
    check(stat && fgets(line, sizeof line, stat), "stat");
    fclose(stat);
    char *field = strrchr(line, ')');
    for (int i = 0; i < 20; i++) field = strchr(field + 1, ' ');
    snprintf(mark, sizeof mark, "%d-%llu", getpid(), strtoull(field, NULL, 10));
    setenv("MEMGUARD_TASK", mark, 1);
}

static void wait_for_end(void) {
    char byte = '.';
    check(write(1, &byte, 1) == 1, "write");
    while (read(0, &byte, 1) > 0) {}
}

static int is_over(void) {
    struct pollfd in = {.fd = 0, .events = 0};
    return poll(&in, 1, 0) > 0; // the writer has closed it
}

static void spin(long ms) {
    struct timespec now;
    do clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now); while (now.tv_sec * 1000 + now.tv_nsec / 1000000 < ms);
}

static void become(char **words, int count) {
    char *arguments[count + 2];
    arguments[0] = "memory_program";
    memcpy(arguments + 1, words, count * sizeof *words);
    arguments[count + 1] = NULL;
    execv("/proc/self/exe", arguments);
    check(0, "exec");
}

static void run(char **words, int count) {
    for (int i = 0; i < count; i++) {
        const char *word = words[i];
        #define NEXT (++i < count ? words[i] : (_exit(2), (char *)0))
        #define MIB ((size_t)(atof(NEXT) * 1048576))
        if (!strcmp(word, "anon") || !strcmp(word, "shared")) {
            size_t bytes = MIB;
            int kind = *word == 'a' ? MAP_PRIVATE : MAP_SHARED;
            write_pages(map(bytes, kind | MAP_ANONYMOUS, -1, PROT_READ | PROT_WRITE), bytes);
        } else if (!strcmp(word, "shm")) {
            int file = open(NEXT, O_RDWR | O_CREAT, 0600);
            size_t bytes = MIB;
            check(file >= 0 && ftruncate(file, bytes) == 0, "shm");
            write_pages(map(bytes, MAP_SHARED, file, PROT_READ | PROT_WRITE), bytes);
            close(file);
        } else if (!strcmp(word, "file")) {
            struct stat found;
            int file = open(NEXT, O_RDONLY);
            check(file >= 0 && fstat(file, &found) == 0, "file");
            read_pages(map(found.st_size, MAP_SHARED, file, PROT_READ), found.st_size);
            close(file);
        } else if (!strcmp(word, "free")) {
            mappings--;
            munmap(mapped[mappings].at, mapped[mappings].bytes);
        } else if (!strcmp(word, "rewrite")) {
            write_pages(mapped[mappings - 1].at, MIB);
        } else if (!strcmp(word, "read")) {
            read_pages(mapped[mappings - 1].at, mapped[mappings - 1].bytes);
        } else if (!strcmp(word, "name")) {
            prctl(PR_SET_NAME, NEXT);
        } else if (!strcmp(word, "spin")) {
            spin(atol(NEXT));
        } else if (!strcmp(word, "sleep")) {
            usleep(atol(NEXT) * 1000);
        } else if (!strcmp(word, "setsid")) {
            check(setsid() >= 0, "setsid");
        } else if (!strcmp(word, "mark")) {
            set_mark();
        } else if (!strcmp(word, "wait")) {
            wait_for_end();
        } else if (!strcmp(word, "reap")) {
            while (wait(NULL) > 0) {}
        } else if (!strcmp(word, "fork") || !strcmp(word, "spawn") || !strcmp(word, "exec") || !strcmp(word, "repeat")) {
            int times = *word == 'f' || *word == 'r' ? atoi(NEXT) : 1, depth = 1, begin = i + 2;
            if (strcmp(NEXT, "{")) _exit(2);
            while (depth) depth += !strcmp(NEXT, "{") ? 1 : !strcmp(words[i], "}") ? -1 : 0;
            if (*word == 'e') become(words + begin, i - begin);
            while (times--) {
                if (*word == 'r') {
                    if (is_over()) break;
                    run(words + begin, i - begin);
                    continue;
                }
                pid_t child = fork();
                check(child >= 0, "fork");
                if (child) continue;
                if (*word == 's') become(words + begin, i - begin);
                run(words + begin, i - begin);
                _exit(0);
            }
        } else _exit(2);
    }
}

int main(int count, char **words) {
    run(words + 1, count - 1);
    return 0;
}
