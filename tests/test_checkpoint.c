/* test_checkpoint.c - the log of trials and the tensors, there and back and hurt in every way: each bit flipped, each
 * length cut, each allocation refused, the disk full, the writer killed, two writers at once. What must hold: a trial
 * that is read is the one that was written, field by field, and one that log_append has recorded is there. */
#define _GNU_SOURCE
#include "checkpoint.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"

enum { VALUES = 3, MAGIC = 16 };

static char home[200], folder[300], log_path[400];
static const struct log_header header = {
    .seed = 0xFEDCBA9876543210u, .space = "{'x': hp.uniform('x', 0, 1)}", .settings = "{\"epochs\": 3}"};

/* In the place of the system's: the tests lose no power, so they need not wait for the disk; and it can fail. */
static int syncs, sync_fails;
int fsync(int file) {
    syncs += file >= 0;
    if (!sync_fails) return 0;
    errno = EIO;
    return -1;
}

/* ---- trials ---- */

static struct trial make_trial(uint32_t number, double values[VALUES]) {
    const int failed = number % 3 == 2;
    for (int i = 0; i < VALUES; i++) values[i] = number * 0.1 + i;
    values[number % VALUES] = NAN;
    return (struct trial){.number = number,
                          .status = failed ? TRIAL_FAILED : TRIAL_OK,
                          .loss = failed ? NAN : -0.01 * number,
                          .seconds = 1.5 * number,
                          .finished = 1700000000 + (int64_t)number,
                          .epochs = number + 1,
                          .fine_accuracy = 0.01 * number,
                          .coarse_accuracy = 0.02 * number,
                          .name = failed ? "" : "model_0.5_abcde",
                          .reason = failed ? "the loss is NaN \xc3\xa9" : "",
                          .values = values};
}

static int same_bits(const double *a, const double *b, size_t n) { return memcmp(a, b, n * sizeof *a) == 0; }

/* Is t, field by field, what make_trial makes for its number? */
static int is_whole(const struct trial *t) {
    double values[VALUES];
    const struct trial m = make_trial(t->number, values);
    return t->status == m.status && same_bits(&t->loss, &m.loss, 1) && t->seconds == m.seconds &&
           t->finished == m.finished && t->epochs == m.epochs && t->fine_accuracy == m.fine_accuracy &&
           t->coarse_accuracy == m.coarse_accuracy && strcmp(t->name, m.name) == 0 &&
           strcmp(t->reason, m.reason) == 0 && same_bits(t->values, m.values, VALUES);
}

/* Trials 0 .. n-1, in order, and nothing else? */
static int holds(const struct log *log, int n) {
    int good = log_count(log) == n;
    for (int i = 0; good && i < n; i++) good = log_trial(log, i)->number == (uint32_t)i && is_whole(log_trial(log, i));
    return good;
}

static int same_header(const struct log_header *h) {
    return h->seed == header.seed && strcmp(h->space, header.space) == 0 && strcmp(h->settings, header.settings) == 0;
}

static int append(struct log *log, uint32_t number, struct error *e) {
    double values[VALUES];
    const struct trial t = make_trial(number, values);
    return log_append(log, &t, VALUES, e);
}

/* ---- files ---- */

static void empty_folder(void) {
    DIR *d = opendir(folder);
    for (struct dirent *entry; d != NULL && (entry = readdir(d)) != NULL;) {
        char path[700];
        snprintf(path, sizeof path, "%s/%s", folder, entry->d_name);
        unlink(path);
    }
    if (d != NULL) closedir(d);
}

static void write_bytes(const char *path, const uint8_t *bytes, size_t n) {
    const int f = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0666);
    CHECK(f >= 0 && write(f, bytes, n) == (ssize_t)n, "%s", path);
    close(f);
}

static int file_is(const char *path, const uint8_t *bytes, size_t n) {
    char *found;
    size_t size;
    if (file_read(path, 1 << 20, &found, &size, NULL) != OK) return 0;
    const int same = size == n && memcmp(found, bytes, n) == 0;
    mem_free(found);
    return same;
}

/* A fresh log of n trials in the folder, and its bytes. */
static uint8_t *make_log(int n, size_t *size) {
    struct log *log;
    struct error e = {0};
    char notice[300], *bytes = NULL;
    empty_folder();
    CHECK(log_open(&log, folder, &header, 1, notice, sizeof notice, &e) == OK, "%s", e.text);
    for (uint32_t i = 0; log != NULL && i < (uint32_t)n; i++) CHECK(append(log, i, &e) == OK, "%s", e.text);
    log_close(log);
    CHECK(file_read(log_path, 1 << 20, &bytes, size, &e) == OK, "%s", e.text);
    return (uint8_t *)bytes;
}

static uint32_t word_at(const uint8_t *p) {
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

/* Where the record behind the one at `at` begins. */
static size_t next_record(const uint8_t *bytes, size_t at) { return at + 16 + word_at(bytes + at + 8); }

/* How many trials lie whole in front of byte `at`; -1 where not even the search does. */
static int trials_before(const uint8_t *bytes, size_t n, size_t at) {
    int count = -1;
    for (size_t p = next_record(bytes, MAGIC); p <= at; p = next_record(bytes, p)) {
        count++;
        if (p == n) break;
    }
    return count;
}

static size_t add_word(uint8_t *to, uint32_t x) {
    for (int i = 0; i < 4; i++) to[i] = (uint8_t)(x >> 8 * i);
    return 4;
}

static size_t add_record(uint8_t *to, uint32_t type, const void *payload, size_t n) {
    add_word(to, 0x7A52504C);
    add_word(to + 4, type);
    add_word(to + 8, (uint32_t)n);
    memcpy(to + 12, payload, n);
    return 12 + n + add_word(to + 12 + n, crc32c(0, to + 4, 8 + n));
}

/* ---- the log ---- */

static void test_there_and_back(void) {
    struct log *log;
    struct error e = {0};
    char notice[300];
    empty_folder();
    rmdir(folder);
    CHECK(log_open(&log, folder, NULL, 0, notice, sizeof notice, &e) == ERROR_USER && log == NULL, "a missing log");
    CHECK(strstr(e.text, "there is no search here") != NULL, "%s", e.text);
    CHECK(log_open(&log, folder, NULL, 1, notice, sizeof notice, &e) == ERROR_USER && log == NULL, "a missing log");
    CHECK(access(folder, F_OK) != 0, "no folder is made for a log that is only to be read");

    CHECK(log_open(&log, folder, &header, 1, notice, sizeof notice, &e) == OK, "%s", e.text);
    CHECK(notice[0] == '\0' && log_count(log) == 0 && same_header(log_get_header(log)));
    for (uint32_t i = 0; i < 100; i++) CHECK(append(log, i, &e) == OK, "%s", e.text);
    CHECK(holds(log, 100), "as appended");
    CHECK(syncs >= 100, "each is on the disk when log_append returns");
    sync_fails = 1;
    CHECK(append(log, 100, &e) == ERROR_ENVIRONMENT && holds(log, 100), "what is not on the disk is not recorded");
    sync_fails = 0;
    double values[VALUES];
    const struct trial t = make_trial(100, values);
    CHECK(log_append(log, &t, VALUES - 1, &e) == ERROR_USER, "another number of values");
    log_close(log);

    const struct log_header another = {.seed = 1, .space = "{}", .settings = ""};
    CHECK(log_open(&log, folder, &another, 1, notice, sizeof notice, &e) == OK, "%s", e.text);
    CHECK(same_header(log_get_header(log)), "the file's header counts; that it differs is the caller's matter");
    CHECK(notice[0] == '\0' && holds(log, 100));
    CHECK(append(log, 100, &e) == OK, "%s", e.text);
    log_close(log);
    CHECK(log_open(&log, folder, NULL, 0, notice, sizeof notice, &e) == OK, "%s", e.text);
    CHECK(notice[0] == '\0' && holds(log, 101));
    CHECK(append(log, 101, &e) != OK, "open for reading only");
    log_close(log);
}

static void test_other_files(void) {
    struct log *log;
    struct error e = {0};
    char notice[300];
    size_t n;
    uint8_t *bytes = make_log(1, &n);
    bytes[14] = '2';
    write_bytes(log_path, bytes, n);
    CHECK(log_open(&log, folder, &header, 1, notice, sizeof notice, &e) == ERROR_USER && log == NULL);
    CHECK(strstr(e.text, "another version of parzen ('parzen trials 2')") != NULL, "%s", e.text);
    CHECK(file_is(log_path, bytes, n), "what is not understood is left alone");
    static const uint8_t odd[] = {0, '\n', 27, ' ', 127, 128, 255};
    static const char *const shown[] = {"00", "0a", "1b", "20", "7f", "80", "ff"};
    for (size_t i = 0; i < sizeof odd; i++) { /* a terminal is shown no byte that it would obey */
        char want[40];
        bytes[14] = odd[i];
        write_bytes(log_path, bytes, n);
        CHECK(log_open(&log, folder, &header, 1, notice, sizeof notice, &e) == ERROR_USER && log == NULL);
        snprintf(want, sizeof want, "('parzen trials \\x%s');", shown[i]);
        CHECK(strstr(e.text, want) != NULL, "%s", e.text);
    }
    bytes[0] = 'P';
    write_bytes(log_path, bytes, n);
    CHECK(log_open(&log, folder, &header, 1, notice, sizeof notice, &e) == ERROR_USER && log == NULL);
    CHECK(strstr(e.text, "is not a log of parzen") != NULL, "%s", e.text);
    CHECK(file_is(log_path, bytes, n), "what is not understood is left alone");
    mem_free(bytes);
}

static void test_unknown_record(void) {
    struct log *log;
    struct error e = {0};
    char notice[300];
    uint8_t more[2000];
    size_t n, used;
    uint8_t *bytes = make_log(2, &n);
    const size_t second = next_record(bytes, next_record(bytes, MAGIC));
    memcpy(more, bytes, second);
    size_t size = second + add_record(more + second, 77, "of a later version", 18);
    memcpy(more + size, bytes + second, n - second);
    size += n - second;
    size += add_record(more + size, 0xFFFFFFFF, "", 0);
    CHECK(log_decode(&log, more, size, &used, notice, sizeof notice, &e) == OK, "%s", e.text);
    CHECK(log != NULL && holds(log, 2) && used == size && notice[0] == '\0', "%s", notice);
    log_close(log);
    write_bytes(log_path, more, size);
    CHECK(log_open(&log, folder, &header, 1, notice, sizeof notice, &e) == OK, "%s", e.text);
    CHECK(append(log, 2, &e) == OK && holds(log, 3) && notice[0] == '\0', "%s", notice);
    log_close(log);
    /* A good checksum over nonsense: a second search, a trial too short. */
    for (uint32_t type = 1; type <= 2; type++) {
        size = n + add_record(more + n, type, "0123456789", 10);
        memcpy(more, bytes, n);
        CHECK(log_decode(&log, more, size, &used, notice, sizeof notice, &e) == OK, "%s", e.text);
        CHECK(log != NULL && holds(log, 2) && used == n && notice[0] != '\0', "type %u", type);
        log_close(log);
    }
    mem_free(bytes);
}

/* Opens the hurt file that was `bytes`, hurt[n] now, of which `kept` trials and `good` bytes are whole. */
static int check_opened(const uint8_t *hurt, size_t n, int kept, size_t good) {
    struct log *log;
    struct error e = {0};
    char notice[600], cut[500];
    write_bytes(log_path, hurt, n);
    int failed = log_open(&log, folder, NULL, 0, notice, sizeof notice, &e);
    int right = (kept < 0 ? failed == ERROR_USER : !failed && holds(log, kept)) && file_is(log_path, hurt, n);
    log_close(log);
    failed = log_open(&log, folder, NULL, 1, notice, sizeof notice, &e);
    if (kept < 0) {
        right &= failed == ERROR_USER && file_is(log_path, hurt, n);
        log_close(log);
        return right;
    }
    if (failed) return 0;
    snprintf(cut, sizeof cut, "%s.cut-%zu", log_path, good);
    right &= holds(log, kept) && (good < n) == (notice[0] != '\0');
    if (good < n) right &= file_is(cut, hurt + good, n - good) && strstr(notice, cut) != NULL;
    right &= append(log, (uint32_t)kept, &e) == OK && holds(log, kept + 1);
    log_close(log);
    unlink(cut);
    failed = log_open(&log, folder, NULL, 0, notice, sizeof notice, &e);
    right &= !failed && holds(log, kept + 1) && notice[0] == '\0';
    log_close(log);
    return right;
}

static void test_flips(void) {
    struct log *log;
    struct error e = {0};
    char notice[300];
    size_t n, used;
    int wrong = 0, wrong_opened = 0;
    uint8_t *bytes = make_log(3, &n);
    for (size_t bit = 0; bit < 8 * n; bit++) {
        const int kept = trials_before(bytes, n, bit / 8);
        bytes[bit / 8] ^= (uint8_t)(1 << bit % 8);
        const int failed = log_decode(&log, bytes, n, &used, notice, sizeof notice, &e);
        if (kept < 0) {
            wrong += failed != ERROR_USER;
        } else {
            wrong += failed || !holds(log, kept) || !same_header(log_get_header(log)) || notice[0] == '\0';
            if (bit % 7 == 0) wrong_opened += !check_opened(bytes, n, kept, used);
        }
        if (kept < 0 && bit % 7 == 0) wrong_opened += !check_opened(bytes, n, -1, 0);
        log_close(log);
        bytes[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
    CHECK(wrong == 0, "%d of %zu flipped bits were not seen", wrong, 8 * n);
    CHECK(wrong_opened == 0, "%d flipped bits were not seen, or not mended, by log_open", wrong_opened);
    mem_free(bytes);
}

static void test_cuts(void) {
    struct log *log;
    struct error e = {0};
    char notice[300];
    size_t n, used;
    int wrong = 0, wrong_opened = 0, wrong_begun = 0;
    uint8_t *bytes = make_log(3, &n);
    const size_t begun = next_record(bytes, MAGIC);
    for (size_t size = 0; size <= n; size++) {
        const int kept = trials_before(bytes, n, size);
        size_t good = begun;
        for (int i = 0; i < kept; i++) good = next_record(bytes, good);
        const int failed = log_decode(&log, bytes, size, &used, notice, sizeof notice, &e);
        if (kept < 0) {
            wrong += failed != ERROR_USER;
        } else {
            wrong += failed || !holds(log, kept) || used != good || (notice[0] != '\0') != (good < size);
        }
        log_close(log);
        if (size % 5 == 0) wrong_opened += !check_opened(bytes, size, kept, good);
        if (size < begun && size % 3 == 0) { /* killed while it began: it begins again */
            write_bytes(log_path, bytes, size);
            if (log_open(&log, folder, &header, 1, notice, sizeof notice, &e) != OK) {
                wrong_begun++;
                continue;
            }
            wrong_begun += !same_header(log_get_header(log)) || append(log, 0, &e) != OK || !holds(log, 1);
            log_close(log);
        }
    }
    CHECK(wrong == 0, "%d of %zu lengths were read wrong", wrong, n);
    CHECK(wrong_opened == 0, "%d lengths were opened wrong", wrong_opened);
    CHECK(wrong_begun == 0, "%d logs did not begin again", wrong_begun);
    mem_free(bytes);
}

/* ---- what happens to processes ---- */

static void write_until_killed(int report) {
    struct log *log;
    struct error e = {0};
    char notice[300];
    if (log_open(&log, folder, &header, 1, notice, sizeof notice, &e) != OK) _exit(1);
    for (uint32_t number = (uint32_t)log_count(log);; number++) {
        if (append(log, number, &e) != OK) _exit(2);
        if (write(report, &number, sizeof number) != sizeof number) _exit(3);
    }
}

static void test_kill(void) {
    struct rng rng = rng_make(1, 0, RNG_NAME);
    struct log *log;
    struct error e = {0};
    char notice[300];
    long reported = 0;
    empty_folder();
    for (int round = 0; round < 60; round++) {
        int pipes[2], status, last = -1;
        CHECK(pipe(pipes) == 0);
        const pid_t child = fork();
        CHECK(child >= 0);
        if (child < 0) return;
        if (child == 0) write_until_killed(pipes[1]);
        close(pipes[1]);
        usleep(rng_below(&rng, 20000));
        kill(child, SIGKILL);
        for (uint32_t number; read(pipes[0], &number, sizeof number) == sizeof number; reported++) last = (int)number;
        close(pipes[0]);
        waitpid(child, &status, 0);
        CHECK(WIFSIGNALED(status), "the writer ended by itself: status %d", WEXITSTATUS(status));
        if (log_open(&log, folder, &header, 1, notice, sizeof notice, &e) != OK) {
            CHECK(0, "%s", e.text);
            return;
        }
        const int n = log_count(log);
        CHECK(holds(log, n) && n > last, "round %d: %d trials, number %d was reported", round, n, last);
        log_close(log);
    }
    CHECK(reported > 0, "no writer lived long enough to append a trial");
}

static int fill_disk(const uint8_t *bytes, size_t n) {
    struct log *log;
    struct error e = {0};
    char notice[300];
    struct rlimit limit;
    signal(SIGXFSZ, SIG_IGN);
    if (getrlimit(RLIMIT_FSIZE, &limit) != 0) return 1;
    const rlim_t before = limit.rlim_cur;
    if (log_open(&log, folder, &header, 1, notice, sizeof notice, &e) != OK) return 2;
    for (size_t room = 0; room < 40; room += 13) { /* none at all, and part of a record */
        limit.rlim_cur = n + room;
        if (setrlimit(RLIMIT_FSIZE, &limit) != 0) return 3;
        if (append(log, 2, &e) != ERROR_ENVIRONMENT || e.kind != ERROR_ENVIRONMENT) return 4;
        if (strstr(e.text, "cannot be written") == NULL) return 5;
        if (!file_is(log_path, bytes, n) || !holds(log, 2)) return 6;
    }
    limit.rlim_cur = before;
    if (setrlimit(RLIMIT_FSIZE, &limit) != 0) return 7;
    if (append(log, 2, &e) != OK || !holds(log, 3)) return 8;
    log_close(log);
    return 0;
}

static void test_disk_full(void) {
    struct log *log;
    struct error e = {0};
    char notice[300];
    int status = 0;
    size_t n;
    uint8_t *bytes = make_log(2, &n);
    const pid_t child = fork();
    if (child == 0) _exit(fill_disk(bytes, n));
    CHECK(child > 0 && waitpid(child, &status, 0) == child);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0, "step %d", WEXITSTATUS(status));
    CHECK(log_open(&log, folder, NULL, 0, notice, sizeof notice, &e) == OK && holds(log, 3) && notice[0] == '\0');
    log_close(log);
    mem_free(bytes);
}

static int append_every_other(uint32_t first) {
    struct log *log;
    struct error e = {0};
    char notice[300];
    if (log_open(&log, folder, &header, 1, notice, sizeof notice, &e) != OK) return 1;
    for (uint32_t i = 0; i < 200; i++) {
        if (append(log, first + 2 * i, &e) != OK) return 2;
    }
    log_close(log);
    return 0;
}

static void test_two_writers(void) {
    static int seen[400];
    struct log *log;
    struct error e = {0};
    char notice[300];
    pid_t children[2];
    empty_folder();
    for (uint32_t i = 0; i < 2; i++) {
        children[i] = fork();
        if (children[i] == 0) _exit(append_every_other(i));
    }
    for (int i = 0; i < 2; i++) {
        int status = 0;
        CHECK(children[i] > 0 && waitpid(children[i], &status, 0) == children[i]);
        CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0, "writer %d: status %d", i, status);
    }
    if (log_open(&log, folder, NULL, 0, notice, sizeof notice, &e) != OK) {
        CHECK(0, "%s", e.text);
        return;
    }
    int wrong = 0;
    for (int i = 0; i < log_count(log); i++) {
        const struct trial *t = log_trial(log, i);
        wrong += t->number >= 400 || seen[t->number % 400]++ || !is_whole(t);
    }
    CHECK(log_count(log) == 400 && wrong == 0 && notice[0] == '\0', "%d trials, %d wrong", log_count(log), wrong);
    log_close(log);

    /* Two logs in one process: each sees what the other has appended, when it appends; a number is told once. */
    struct log *one = NULL, *two = NULL;
    empty_folder();
    CHECK(log_open(&one, folder, &header, 1, notice, sizeof notice, &e) == OK, "%s", e.text);
    CHECK(log_open(&two, folder, &header, 1, notice, sizeof notice, &e) == OK, "%s", e.text);
    CHECK(append(one, 0, &e) == OK && append(two, 1, &e) == OK && append(one, 2, &e) == OK, "%s", e.text);
    CHECK(holds(two, 2) && holds(one, 3));
    CHECK(append(two, 2, &e) == OK && holds(two, 3), "the first record of a number counts");
    log_close(one);
    log_close(two);
}

/* Another writer's 5 trials are read before ours is appended; the n-th allocation fails. 1: it got by without. */
static int append_without_memory(long nth) {
    struct log *log = NULL, *other = NULL;
    struct error e = {0};
    char notice[300];
    empty_folder();
    CHECK(log_open(&log, folder, &header, 1, notice, sizeof notice, &e) == OK, "%s", e.text);
    CHECK(append(log, 0, &e) == OK, "%s", e.text);
    CHECK(log_open(&other, folder, &header, 1, notice, sizeof notice, &e) == OK, "%s", e.text);
    for (uint32_t i = 1; i < 6; i++) CHECK(append(other, i, &e) == OK, "%s", e.text);
    log_close(other);
    mem_fail_after = nth;
    const int failed = append(log, 6, &e);
    const int through = mem_fail_after > 0;
    mem_fail_after = 0;
    CHECK(through ? failed == OK : failed == ERROR_ENVIRONMENT, "allocation %ld: %d", nth, failed);
    if (failed) CHECK(append(log, 6, &e) == OK, "allocation %ld: %s", nth, e.text);
    CHECK(holds(log, 7), "allocation %ld: %d in memory", nth, log_count(log));
    log_close(log);
    CHECK(log_open(&log, folder, NULL, 0, notice, sizeof notice, &e) == OK, "%s", e.text);
    CHECK(log != NULL && holds(log, 7) && notice[0] == '\0', "allocation %ld: %s", nth, notice);
    log_close(log);
    return through;
}

static void test_no_memory(void) {
    struct log *log;
    struct error e = {0};
    char notice[600];
    size_t n, used;
    uint8_t *bytes = make_log(70, &n);
    int through = 0;
    for (long nth = 1; nth < 400 && !through; nth++) {
        mem_fail_after = nth;
        const int failed = log_decode(&log, bytes, n, &used, notice, sizeof notice, &e);
        through = mem_fail_after > 0;
        mem_fail_after = 0;
        CHECK(through ? failed == OK && holds(log, 70) : failed == ERROR_TRIAL && log == NULL, "allocation %ld", nth);
        log_close(log);
    }
    CHECK(through);
    through = 0;
    for (long nth = 1; nth < 400 && !through; nth++) { /* with a tail to cut */
        write_bytes(log_path, bytes, n - 1);
        mem_fail_after = nth;
        const int failed = log_open(&log, folder, &header, 1, notice, sizeof notice, &e);
        through = mem_fail_after > 0;
        mem_fail_after = 0;
        CHECK((failed == OK) == through && (log != NULL) == through, "allocation %ld: %d", nth, failed);
        log_close(log);
        CHECK(log_open(&log, folder, &header, 1, notice, sizeof notice, &e) == OK && holds(log, 69), "%s", e.text);
        log_close(log);
    }
    CHECK(through);
    through = 0;
    for (long nth = 1; nth < 400 && !through; nth++) { /* a new one */
        empty_folder();
        mem_fail_after = nth;
        const int failed = log_open(&log, folder, &header, 1, notice, sizeof notice, &e);
        through = mem_fail_after > 0;
        mem_fail_after = 0;
        CHECK((failed == OK) == through && (log != NULL) == through, "allocation %ld: %d", nth, failed);
        log_close(log);
        CHECK(log_open(&log, folder, &header, 1, notice, sizeof notice, &e) == OK && holds(log, 0), "%s", e.text);
        log_close(log);
    }
    CHECK(through);
    mem_free(bytes);
    through = 0;
    for (long nth = 1; nth < 400 && !through; nth++) through = append_without_memory(nth);
    CHECK(through);
}

/* ---- tensors ---- */

static float numbers[24];
static const struct tensor some[] = {{"conv/kernel", 4, {2, 3, 1, 2}, numbers},
                                     {"bias \"quoted\" \xc3\xa9", 1, {5}, numbers + 12},
                                     {"scalar", 0, {0}, numbers + 17},
                                     {"empty", 2, {0, 7}, numbers + 18},
                                     {"last", 2, {2, 3}, numbers + 18}};
static const char *const metadata[] = {"config", "{\"a\": \"b\\n\"}", "empty", "", NULL};

static char *make_tensors(const char *path, size_t *n) {
    struct error e = {0};
    char *bytes = NULL;
    for (int i = 0; i < 24; i++) numbers[i] = (float)i * 0.37f - 3;
    numbers[3] = INFINITY;
    numbers[13] = -0.0f;
    numbers[20] = 1e-42f;
    CHECK(tensors_write(path, some, 5, metadata, &e) == OK, "%s", e.text);
    CHECK(file_read(path, 1 << 20, &bytes, n, &e) == OK, "%s", e.text);
    return bytes;
}

static int are_whole(const struct tensors *t) {
    int good = t->n == 5;
    for (int i = 0; i < 5; i++) {
        const struct tensor *found = tensors_find(t, some[i].name);
        size_t floats = 1;
        if (found == NULL || found->dims != some[i].dims) return 0;
        for (int k = 0; k < found->dims; k++) {
            good &= found->shape[k] == some[i].shape[k];
            floats *= (size_t)some[i].shape[k];
        }
        good &= memcmp(found->data, some[i].data, floats * sizeof(float)) == 0;
    }
    for (int i = 0; i < 4; i += 2) {
        const char *s = tensors_get(t, metadata[i]);
        good &= s != NULL && strcmp(s, metadata[i + 1]) == 0;
    }
    return good && tensors_find(t, "none") == NULL && tensors_get(t, "none") == NULL;
}

static void test_tensors(void) {
    char path[500];
    struct tensors t;
    struct error e = {0};
    size_t n;
    snprintf(path, sizeof path, "%s/x.safetensors", folder);
    uint8_t *bytes = (uint8_t *)make_tensors(path, &n);
    CHECK(tensors_read(&t, path, &e) == OK, "%s", e.text);
    CHECK(are_whole(&t));
    tensors_free(&t);
    const size_t data = 8 + word_at(bytes);
    CHECK(data % 8 == 0 && n == data + sizeof numbers, "%zu bytes, data from %zu", n, data);
    for (size_t size = 0; size < n; size++) {
        uint8_t *cut = mem_alloc(size + 1); /* of its own, so that the sanitizer sees a read behind it */
        memcpy(cut, bytes, size);
        const int failed = tensors_decode(&t, cut, size, "cut", &e);
        CHECK(failed == ERROR_USER && t.all == NULL, "%zu of %zu bytes: %d", size, n, failed);
        mem_free(cut);
    }
    int unseen = 0;
    for (size_t bit = 0; bit < 8 * n; bit++) {
        bytes[bit / 8] ^= (uint8_t)(1 << bit % 8);
        const int failed = tensors_decode(&t, bytes, n, "flipped", &e);
        if (bit >= 8 * data) {
            unseen += failed != ERROR_USER || strstr(e.text, "checksum") == NULL;
        } else if (failed) { /* a name may change, a length may not */
            unseen += failed != ERROR_USER;
        }
        tensors_free(&t);
        bytes[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
    CHECK(unseen == 0, "%d flipped bits were not seen", unseen);
    int through = 0;
    for (long nth = 1; nth < 200 && !through; nth++) {
        mem_fail_after = nth;
        const int failed = tensors_read(&t, path, &e);
        through = mem_fail_after > 0;
        mem_fail_after = 0;
        CHECK(through ? failed == OK && are_whole(&t) : failed != OK && t.all == NULL, "allocation %ld", nth);
        tensors_free(&t);
    }
    CHECK(through);
    through = 0;
    for (long nth = 1; nth < 200 && !through; nth++) {
        mem_fail_after = nth;
        const int failed = tensors_write(path, some, 5, metadata, &e);
        through = mem_fail_after > 0;
        mem_fail_after = 0;
        CHECK((failed == OK) == through && file_is(path, bytes, n), "allocation %ld: the old file stays", nth);
    }
    CHECK(through);
    mem_free(bytes);
    unlink(path);
    CHECK(tensors_read(&t, path, &e) == ERROR_USER && t.all == NULL, "a missing file");
}

/* A header of our own, before 16 bytes of data. */
static int decode_header(const char *json, struct error *e) {
    struct tensors t;
    const size_t n = strlen(json);
    uint8_t *bytes = mem_zero(1, 8 + n + 16);
    add_word(bytes, (uint32_t)n);
    memcpy(bytes + 8, json, n);
    const int failed = tensors_decode(&t, bytes, 8 + n + 16, "hostile", e);
    if (!failed) tensors_free(&t);
    mem_free(bytes);
    return failed;
}

#define TENSOR(dtype, shape, offsets) "{\"dtype\":" dtype ",\"shape\":" shape ",\"data_offsets\":" offsets "}"

static void test_hostile_tensors(void) {
    static const char *const good[] = {
        "{\"a\":" TENSOR("\"F32\"", "[4]", "[0,16]") "}",
        "{\"a\":" TENSOR("\"F32\"", "[2]", "[0,8]") ",\"b\":" TENSOR("\"F32\"", "[2,1]", "[8,16]") "}",
        "{\"a\":" TENSOR("\"F32\"", "[4]", "[0,16]") ",\"__metadata__\":{\"k\":\"v\"}}   "};
    static const char *const bad[] = {
        "",
        "{",
        "{}", /* 16 bytes too many */
        "[]",
        "7",
        "null",
        "{\"a\":1}",
        "{\"a\":[]}",
        "{\"a\":{}}",
        "{\"a\":" TENSOR("\"F16\"", "[4]", "[0,16]") "}",
        "{\"a\":" TENSOR("7", "[4]", "[0,16]") "}",
        "{\"a\":" TENSOR("\"F32\"", "4", "[0,16]") "}",
        "{\"a\":" TENSOR("\"F32\"", "[4.0]", "[0,16]") "}",
        "{\"a\":" TENSOR("\"F32\"", "[-4]", "[0,16]") "}",
        "{\"a\":" TENSOR("\"F32\"", "[1,1,1,1,4]", "[0,16]") "}",
        "{\"a\":" TENSOR("\"F32\"", "[2147483647,2147483647,2147483647,2147483647]", "[0,16]") "}",
        "{\"a\":" TENSOR("\"F32\"", "[65536,65536,65536,65536]", "[0,0]") "}",
        "{\"a\":" TENSOR("\"F32\"", "[9223372036854775807]", "[0,16]") "}",
        "{\"a\":" TENSOR("\"F32\"", "[99999999999999999999]", "[0,16]") "}",
        "{\"a\":" TENSOR("\"F32\"", "[5]", "[0,20]") "}",
        "{\"a\":" TENSOR("\"F32\"", "[3]", "[0,12]") "}",
        "{\"a\":" TENSOR("\"F32\"", "[4]", "[0,12]") "}",
        "{\"a\":" TENSOR("\"F32\"", "[4]", "[16,0]") "}",
        "{\"a\":" TENSOR("\"F32\"", "[4]", "[0]") "}",
        "{\"a\":" TENSOR("\"F32\"", "[4]", "[\"0\",\"16\"]") "}",
        "{\"a\":" TENSOR("\"F32\"", "[4]", "[-16,0]") "}",
        "{\"a\":" TENSOR("\"F32\"", "[2]", "[8,16]") "}",                                               /* a hole */
        "{\"a\":" TENSOR("\"F32\"", "[4]", "[0,16]") ",\"b\":" TENSOR("\"F32\"", "[2]", "[8,16]") "}",  /* overlap */
        "{\"a\":" TENSOR("\"F32\"", "[4]", "[0,16]") ",\"b\":" TENSOR("\"F32\"", "[4]", "[0,16]") "}",  /* the same */
        "{\"a\":" TENSOR("\"F32\"", "[4]", "[0,16]") ",\"b\":" TENSOR("\"F32\"", "[4]", "[16,32]") "}", /* behind */
        "{\"a\":" TENSOR("\"F32\"", "[4]", "[0,16]") ",\"__metadata__\":{\"k\":7}}",
        "{\"a\":" TENSOR("\"F32\"", "[4]", "[0,16]") ",\"__metadata__\":{\"crc32c\":\"00000001\"}}",
        "{\"a\":" TENSOR("\"F32\"", "[4]", "[0,16]") ",\"__metadata__\":{\"crc32c\":7}}"};
    struct error e = {0};
    struct tensors t;
    for (size_t i = 0; i < sizeof good / sizeof *good; i++)
        CHECK(decode_header(good[i], &e) == OK, "%s: %s", good[i], e.text);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        const int failed = decode_header(bad[i], &e);
        CHECK(failed == ERROR_USER && strstr(e.text, "hostile") != NULL, "%s: %d '%s'", bad[i], failed, e.text);
    }
    char *deep = mem_zero(1, 100001);
    const char *const nests[] = {"[", "{\"a\":", "{\"__metadata__\":", "("};
    for (size_t i = 0; i < 4; i++) {
        const size_t size = strlen(nests[i]);
        for (size_t at = 0; at + size <= 100000; at += size) memcpy(deep + at, nests[i], size + 1);
        CHECK(decode_header(deep, &e) == ERROR_USER, "%s...", nests[i]);
    }
    mem_free(deep);
    const uint8_t lengths[][16] = {{255, 255, 255, 255, 255, 255, 255, 255, '{', '}'},
                                   {255, 255, 255, 255, 255, 255, 255, 127, '{', '}'},
                                   {9, 0, 0, 0, 0, 0, 0, 0, '{', '}', ' ', ' ', ' ', ' ', ' ', ' '},
                                   {2, 0, 0, 0, 1, 0, 0, 0, '{', '}'}};
    for (size_t i = 0; i < 4; i++) CHECK(tensors_decode(&t, lengths[i], 16, "length", &e) == ERROR_USER, "%zu", i);
}

/* ---- claims: what workers agree on ---- */

static int take(struct log *log, uint32_t number, uint32_t attempt, const char *worker) {
    double values[VALUES];
    struct error e;
    make_trial(number, values);
    const struct claim c = {.number = number, .attempt = attempt, .worker = worker, .since = 7, .values = values};
    return log_take(log, &c, VALUES, &e);
}

static void test_claims(void) {
    struct log *one, *two;
    struct claim c;
    char notice[400];
    struct error e = {0};
    empty_folder();
    CHECK(log_open(&one, folder, &header, 1, notice, sizeof notice, &e) == OK, "%s", e.text);
    CHECK(log_open(&two, folder, &header, 1, notice, sizeof notice, &e) == OK, "%s", e.text);
    CHECK(log_free(one) == 0 && log_claims(one) == 0);
    CHECK(take(one, 0, 1, "a") == OK && take(one, 1, 1, "a") == OK);
    CHECK(log_lock(two, &e) == OK, "%s", e.text); /* sees them, and only then */
    CHECK(log_claims(two) == 2 && log_free(two) == 2 && log_find_claim(two, 1, &c) && strcmp(c.worker, "a") == 0 &&
          c.attempt == 1 && c.since == 7 && !c.given_back && c.n_values == VALUES && c.space == 0);
    CHECK(take(two, 2, 1, "b") == OK);
    log_unlock(two);
    CHECK(append(one, 1, &e) == OK, "%s", e.text); /* recorded: it has no claim any more */
    CHECK(log_recorded(one, 1) && !log_find_claim(one, 1, &c) && log_claims(one) == 2 && !log_recorded(one, 0));
    CHECK(log_give_back(one, 0, 1, &e) == OK && log_find_claim(one, 0, &c) && c.given_back);
    CHECK(take(two, 0, 2, "b") == OK && log_find_claim(two, 0, &c) && c.attempt == 2 && !c.given_back);
    CHECK(log_give_back(one, 0, 1, &e) == OK && log_find_claim(one, 0, &c) && !c.given_back, "an old claim given back");
    CHECK(append(two, 0, &e) == OK && append(one, 0, &e) == OK, "%s", e.text); /* twice: the first counts */
    CHECK(take(one, 0, 3, "c") == OK && !log_find_claim(one, 0, &c), "a claim on what is recorded");
    CHECK(log_count(one) == 2 && log_claims(one) == 1 && log_free(one) == 3);
    /* Far numbers, a gap, and very many. */
    CHECK(take(one, 4000000000u, 1, "d") == OK && take(one, 4, 1, "d") == OK && log_free(one) == 3);
    for (uint32_t i = 5; i < 2000; i++) CHECK(take(one, i, 1, "e") == OK);
    for (uint32_t i = 1999; i >= 5; i--) CHECK(append(one, i, &e) == OK);
    CHECK(log_claims(one) == 3 && log_count(one) == 1997 && log_free(one) == 3);
    /* Another space: other numbers of values; and the first again for what comes then. */
    CHECK(log_change_space(one, "{'y': 1}", &e) == OK && log_spaces(one) == 2, "%s", e.text);
    CHECK(strcmp(log_get_header(one)->space, "{'y': 1}") == 0 && strcmp(log_space(one, 0), header.space) == 0);
    double value = 3;
    const struct claim other = {.number = 3, .attempt = 1, .worker = "f", .values = &value};
    const struct trial trial = {.number = 3, .name = "model", .reason = "", .values = &value};
    CHECK(log_take(one, &other, 1, &e) == OK && log_append(one, &trial, 1, &e) == OK, "%s", e.text);
    CHECK(append(one, 2, &e) == ERROR_USER, "as many values as the space before had");
    log_close(one);
    log_close(two);
    CHECK(log_open(&one, folder, NULL, 0, notice, sizeof notice, &e) == OK && notice[0] == '\0', "%s", e.text);
    CHECK(log_count(one) == 1998 && log_claims(one) == 3 && log_spaces(one) == 2 && log_free(one) == 2000,
          "%d trials, %d claims, %u free", log_count(one), log_claims(one), log_free(one));
    CHECK(log_trial(one, 1997)->n_values == 1 && log_trial(one, 1997)->space == 1 && log_trial(one, 0)->space == 0);
    CHECK(log_lock(one, &e) == ERROR_ENVIRONMENT, "open for reading only");
    log_close(one);
}

/* ---- a log that changes under an open one ---- */

static int take_told;
static void told(const char *line) { take_told += strstr(line, "dropped") != NULL; }

/* A newcomer finds damage and cuts the file back, to less than another process has read: that one must not write at
 * its old end, where a hole or the newcomer's records would be the price. */
static void test_cut_under(void) {
    struct log *old, *new;
    char notice[400];
    struct error e = {0};
    for (int more = 0; more < 9; more++) {
        uint8_t *bytes;
        size_t n;
        struct stat s;
        empty_folder();
        CHECK(log_open(&old, folder, &header, 1, notice, sizeof notice, &e) == OK, "%s", e.text);
        CHECK(append(old, 0, &e) == OK && append(old, 1, &e) == OK && stat(log_path, &s) == 0, "%s", e.text);
        for (uint32_t i = 2; i < 6; i++) CHECK(append(old, i, &e) == OK, "%s", e.text);
        CHECK(file_read(log_path, 1 << 20, (char **)&bytes, &n, &e) == OK, "%s", e.text);
        const int f = open(log_path, O_WRONLY);
        const uint8_t other = (uint8_t)(bytes[s.st_size + 20] ^ 1);
        CHECK(f >= 0 && pwrite(f, &other, 1, s.st_size + 20) == 1);
        close(f);
        mem_free(bytes);
        CHECK(log_open(&new, folder, &header, 1, notice, sizeof notice, &e) == OK && holds(new, 2), "%s", e.text);
        for (uint32_t i = 0; i < (uint32_t)more; i++) CHECK(append(new, 10 + i, &e) == OK, "%s", e.text);
        CHECK(append(old, 6, &e) == ERROR_ENVIRONMENT && strstr(e.text, "cut back") != NULL, "%d: %s", more, e.text);
        CHECK(append(new, 30, &e) == OK, "%s", e.text);
        log_close(old);
        log_close(new);
        CHECK(log_open(&new, folder, NULL, 0, notice, sizeof notice, &e) == OK && notice[0] == '\0', "%s", notice);
        CHECK(log_count(new) == 3 + more && log_recorded(new, 30), "%d: %d trials", more, log_count(new));
        log_close(new);
    }
    /* Another file in its place. */
    CHECK(log_open(&old, folder, &header, 1, notice, sizeof notice, &e) == OK, "%s", e.text);
    empty_folder();
    CHECK(append(old, 50, &e) == ERROR_ENVIRONMENT, "the file is gone");
    CHECK(log_open(&new, folder, &header, 1, notice, sizeof notice, &e) == OK, "%s", e.text);
    CHECK(append(old, 50, &e) == ERROR_ENVIRONMENT && append(new, 0, &e) == OK, "another file");
    log_close(old);
    /* A writer dies in the middle of a record: the next one keeps what it has left, and says so. */
    const int f = open(log_path, O_WRONLY | O_APPEND);
    CHECK(f >= 0 && write(f, "LPRz\2\0\0\0\100\0\0\0 half", 17) == 17);
    close(f);
    log_says = told;
    CHECK(append(new, 1, &e) == OK && holds(new, 2) && take_told == 1, "%s", e.text);
    log_says = NULL;
    log_close(new);
}

/* A trial that was begun before the space changed is recorded as one of its own space. */
static void test_append_of(void) {
    struct log *one, *two;
    char notice[400];
    struct error e = {0};
    double values[VALUES], value = 3;
    const struct trial late = make_trial(1, values);
    const struct trial next = {.number = 2, .name = "model", .reason = "", .values = &value};
    empty_folder();
    CHECK(log_open(&one, folder, &header, 1, notice, sizeof notice, &e) == OK, "%s", e.text);
    CHECK(append(one, 0, &e) == OK && take(one, 1, 1, "a") == OK);
    CHECK(log_open(&two, folder, &header, 1, notice, sizeof notice, &e) == OK, "%s", e.text);
    CHECK(log_change_space(two, "{'y': 1}", &e) == OK, "%s", e.text);
    CHECK(log_lock(one, &e) == OK && strcmp(log_get_header(one)->space, "{'y': 1}") == 0, "%s", e.text);
    CHECK(log_append_of(one, header.space, &late, VALUES, &e) == OK, "%s", e.text);
    log_unlock(one);
    CHECK(log_append(two, &next, 1, &e) == OK, "%s", e.text);
    log_close(one);
    log_close(two);
    CHECK(log_open(&one, folder, NULL, 0, notice, sizeof notice, &e) == OK && notice[0] == '\0', "%s", e.text);
    CHECK(log_count(one) == 3 && log_claims(one) == 0 && strcmp(log_get_header(one)->space, "{'y': 1}") == 0);
    for (int i = 0; i < 3 && i < log_count(one); i++) {
        const struct trial *t = log_trial(one, i);
        CHECK((int)t->number == i && t->n_values == (i < 2 ? VALUES : 1), "trial %d: %d values", i, t->n_values);
        CHECK(strcmp(log_space(one, t->space), i < 2 ? header.space : "{'y': 1}") == 0, "trial %d", i);
    }
    log_close(one);
}

int main(void) {
    const char *temporary = getenv("TMPDIR");
    snprintf(home, sizeof home, "%s/parzen-log-XXXXXX", temporary != NULL ? temporary : "/tmp");
    CHECK(mkdtemp(home) != NULL, "%s", home);
    snprintf(folder, sizeof folder, "%s/results", home);
    snprintf(log_path, sizeof log_path, "%s/trials.log", folder);
    test_there_and_back();
    test_other_files();
    test_unknown_record();
    test_flips();
    test_cuts();
    test_kill();
    test_disk_full();
    test_two_writers();
    test_claims();
    test_cut_under();
    test_append_of();
    test_no_memory();
    empty_folder();
    test_tensors();
    test_hostile_tensors();
    empty_folder();
    CHECK(rmdir(folder) == 0 && rmdir(home) == 0, "something is left in %s", folder);
    return check_done();
}
