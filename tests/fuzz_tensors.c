/* fuzz_tensors.c - any bytes as a file of tensors: refused in one line, or every value of every tensor can be read,
 * they fill the file's data one behind the other, and they are found by their names. */
#include <stdlib.h>
#include <string.h>

#include "checkpoint.h"

static void check(int condition) {
    if (!condition) abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n);
int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n) {
    struct tensors t;
    struct error e = {0};
    if (tensors_decode(&t, bytes, n, "fuzz", &e) != OK) {
        check(e.kind == ERROR_USER && e.text[0] != '\0' && t.all == NULL && t.block == NULL);
        return 0;
    }
    size_t floats = 0;
    for (int i = 0; i < t.n; i++) {
        size_t size = 1;
        for (int k = 0; k < t.all[i].dims; k++) size *= (size_t)t.all[i].shape[k];
        check(t.all[i].dims <= 4 && t.all[i].data == t.block + floats && tensors_find(&t, t.all[i].name) != NULL);
        floats += size;
        check(floats * sizeof(float) <= n);
    }
    check(memcmp(t.block, bytes + n - floats * sizeof(float), floats * sizeof(float)) == 0);
    const char *crc = tensors_get(&t, "crc32c");
    if (crc != NULL) check(strtoul(crc, NULL, 16) == crc32c(0, t.block, floats * sizeof(float)));
    tensors_free(&t);
    return 0;
}
