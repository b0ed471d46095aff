/* fuzz_config.c - any bytes as a configuration: the literal reader, then the network's reading of it. What it
 * accepts must print as JSON that reads back as the same configuration. */
#include <stdlib.h>
#include <string.h>

#include "config.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n);
int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n) {
    struct document doc = {0}, again = {0};
    struct error e;
    struct net_config c, c2;
    if (value_parse(&doc, (const char *)bytes, n, "fuzz", &e) == OK && config_read(&c, doc.root, "fuzz", &e) == OK) {
        struct text json = {0};
        value_print_json(&json, doc.root, 0);
        if (json.failed || value_parse(&again, json.s, json.n, "json", &e) != OK) abort();
        if (config_read(&c2, again.root, "json", &e) != OK || memcmp(&c, &c2, sizeof c) != 0) abort();
        text_free(&json);
        document_free(&again);
    }
    document_free(&doc);
    return 0;
}
