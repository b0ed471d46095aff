/* fuzz_log.c - any bytes as a log of trials: it is no log, or its good part reads back to the same trials and no
 * notice, and a notice says so when there was more than that. */
#include <stdlib.h>
#include <string.h>

#include "checkpoint.h"

static void check(int condition) {
    if (!condition) abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n);
int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n) {
    struct log *log, *again;
    size_t used, used_again;
    char notice[300], no_notice[300];
    struct error e = {0};
    if (log_decode(&log, bytes, n, &used, notice, sizeof notice, &e) != OK) {
        check(e.kind == ERROR_USER && log == NULL && e.text[0] != '\0');
        return 0;
    }
    check(used <= n && (notice[0] != '\0') == (used < n));
    check(log_decode(&again, bytes, used, &used_again, no_notice, sizeof no_notice, &e) == OK);
    check(used_again == used && no_notice[0] == '\0' && log_count(again) == log_count(log));
    check(strcmp(log_get_header(log)->space, log_get_header(again)->space) == 0);
    for (int i = 0; i < log_count(log); i++) {
        const struct trial *a = log_trial(log, i), *b = log_trial(again, i);
        check(a->number == b->number && a->status == b->status && a->epochs == b->epochs);
        check(a->status == TRIAL_OK || a->status == TRIAL_FAILED);
        check(strcmp(a->name, b->name) == 0 && strcmp(a->reason, b->reason) == 0);
        for (int k = 0; k < i; k++) check(log_trial(log, k)->number != a->number);
    }
    log_close(again);
    log_close(log);
    return 0;
}
