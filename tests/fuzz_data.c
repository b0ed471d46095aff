/* fuzz_data.c - any bytes as a file of CIFAR records; the first byte chooses how many labels a record has and their
 * limits. What is accepted has every label below its limit and every pixel in its place. */
#include <stdlib.h>
#include <string.h>

#include "data.h"

static void check(int condition) {
    if (!condition) abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n);
int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n) {
    struct images s;
    struct error e = {0};
    if (n == 0) return 0;
    const int labels = 1 + (bytes[0] & 1), fine = bytes[0] & 2 ? 100 : 10, coarse = bytes[0] & 4 ? 20 : 256;
    const size_t record = (size_t)labels + 3072;
    bytes++, n--;
    if (data_decode(&s, bytes, n, labels, fine, coarse, "fuzz", &e) != OK) {
        check(e.kind == ERROR_USER && strncmp(e.text, "fuzz:", 5) == 0 && strchr(e.text, '\n') == NULL);
        return 0;
    }
    check((size_t)s.n * record == n && s.h == 32 && s.w == 32 && s.c == 3);
    for (size_t i = 0; i < (size_t)s.n; i++) {
        check(s.fine[i] < fine && s.coarse[i] < coarse);
        for (size_t p = 0; p < 3072; p++)
            check(s.pixels[i * 3072 + p] == bytes[i * record + (size_t)labels + p % 3 * 1024 + p / 3]);
    }
    mem_free(s.pixels);
    mem_free(s.fine);
    mem_free(s.coarse);
    return 0;
}
