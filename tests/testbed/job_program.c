// SPDX-License-Identifier: MIT
// Stands in for a compiler: takes memory over time as a profile says, sleeps meanwhile, and writes its output at the end.
//   cc1plus -o OUTPUT -p SECONDS:MIB,SECONDS:MIB,... [-gate FILE BYTES]
// Between two points of the profile memory changes in a straight line; it begins with nothing, and ends at the last one.
// -gate: waits before it begins, while the number in FILE is above BYTES.
// Time goes by the clock, however long page faults take, but not while it is stopped: a stopped compiler gets nowhere.
// Exit status 1: a system call failed, 2: an argument is wrong.
#define _GNU_SOURCE
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

enum { MOST_POINTS = 64, PAGE = 4096 };
static const double TICK_S = 0.02;
static double at_s[MOST_POINTS + 1], mib[MOST_POINTS + 1];
static int points;
static volatile sig_atomic_t was_stopped;

static void note_stop(int number) { (void)number; was_stopped = 1; }

static void check(int ok, const char *what) {
    if (!ok) { perror(what); exit(1); }
}

static double now_s(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec + now.tv_nsec / 1e9;
}

static void pause_s(double seconds) {
    struct timespec pause = {0, (long)(seconds * 1e9)};
    nanosleep(&pause, NULL); // a signal ends it early, which the clock tells
}

static void parse(char *profile) {
    for (char *point = strtok(profile, ","); point; point = strtok(NULL, ",")) {
        if (points == MOST_POINTS || sscanf(point, "%lf:%lf", &at_s[points + 1], &mib[points + 1]) != 2) exit(2);
        points++;
    }
    if (!points) exit(2);
}

static double mib_at(double age_s) {
    for (int i = 1; i <= points; i++)
        if (age_s < at_s[i]) return mib[i - 1] + (mib[i] - mib[i - 1]) * (age_s - at_s[i - 1]) / (at_s[i] - at_s[i - 1]);
    return mib[points];
}

static void wait_for_gate(const char *path, long long most_bytes) {
    char text[32] = "";
    for (;; pause_s(0.05)) {
        int file = open(path, O_RDONLY);
        check(file >= 0 && read(file, text, sizeof text - 1) > 0, path);
        close(file);
        if (atoll(text) <= most_bytes) return;
    }
}

int main(int count, char **words) {
    const char *output = NULL, *gate = NULL;
    long long gate_bytes = 0;
    for (int i = 1; i < count; i++) {
        if (!strcmp(words[i], "-o") && i + 1 < count) output = words[++i];
        else if (!strcmp(words[i], "-p") && i + 1 < count) parse(strdup(words[++i])); // it is cut up
        else if (!strcmp(words[i], "-gate") && i + 2 < count) gate = words[i + 1], gate_bytes = atoll(words[i + 2]), i += 2;
        else return 2;
    }
    if (!output || !points) return 2;
    if (gate) wait_for_gate(gate, gate_bytes);

    double most = 0;
    for (int i = 1; i <= points; i++) most = mib[i] > most ? mib[i] : most;
    size_t bytes = (size_t)(most * 1048576) + PAGE, held = 0;
    char *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    check(memory != MAP_FAILED, "mmap");
    madvise(memory, bytes, MADV_NOHUGEPAGE); // sizes are those asked for, not rounded up

    struct sigaction action = {.sa_handler = note_stop};
    sigaction(SIGCONT, &action, NULL);
    for (double age_s = 0, last_s = now_s(); age_s < at_s[points];) {
        size_t wanted = (size_t)(mib_at(age_s) * 1048576) / PAGE * PAGE;
        for (; held < wanted; held += PAGE) *(volatile char *)(memory + held) = 1;
        if (wanted < held) madvise(memory + wanted, held - wanted, MADV_DONTNEED), held = wanted;
        double left_s = at_s[points] - age_s;
        pause_s(left_s < TICK_S ? left_s : TICK_S);
        double passed_s = now_s() - last_s;
        age_s += was_stopped && passed_s > TICK_S ? TICK_S : passed_s;
        was_stopped = 0;
        last_s = now_s();
    }
    int file = open(output, O_WRONLY | O_CREAT | O_TRUNC, 0644);
    check(file >= 0, output);
    return 0;
}
