/* fuzz_space.c - any bytes as a space: what is refused says where; what is accepted prints as a normal form that
 * reads back to itself, and its points are in their domain and make configurations that read back too. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "config.h"

static void check(int condition) {
    if (!condition) abort();
}

static void fuzz_points(const struct space *s) {
    struct rng rng = rng_make(1, 0, RNG_SUGGEST);
    struct error e;
    double *values = mem_zero((size_t)s->n_params + 1, sizeof *values);
    double *point = mem_zero((size_t)s->n_params + 1, sizeof *point);
    check(values != NULL && point != NULL);
    for (int i = 0; i < 3; i++) {
        struct document config, again;
        struct text python = {0}, once_more = {0}, json = {0};
        space_draw(s, &rng, values);
        check(space_check(s, values, &e) == OK);
        check(space_config(s, values, &config, &e) == OK);
        value_print_python(&python, config.root, NULL, 2);
        check(!python.failed && value_parse(&again, python.s, python.n, "python", &e) == OK);
        value_print_python(&once_more, again.root, NULL, 2);
        check(strcmp(python.s, once_more.s) == 0);
        document_free(&again);
        value_print_json(&json, config.root, 0);
        check(!json.failed && value_parse(&again, json.s, json.n, "json", &e) == OK);
        const int back = space_point(s, again.root, "json", point, &e); /* of int() not each has a way back */
        check(back == OK ? space_check(s, point, &e) == OK : strstr(s->text, "int(") != NULL);
        document_free(&again);
        document_free(&config);
        text_free(&python);
        text_free(&once_more);
        text_free(&json);
    }
    for (int i = -1; i < s->n_params && i < 100; i++) { /* the extremes are values that can be drawn */
        for (int k = 0; k < 100 && space_extreme(s, i, k, values); k++) {
            check(space_check(s, values, &e) == OK);
            check(i < 0 || !isnan(values[i]));
        }
    }
    mem_free(values);
    mem_free(point);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n);
int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n) {
    struct space *s, *again;
    struct error e = {0};
    if (space_parse(&s, (const char *)bytes, n, "fuzz", &e) != OK) {
        check(e.kind == ERROR_USER && strncmp(e.text, "fuzz:", 5) == 0 && strchr(e.text, '\n') == NULL);
        return 0;
    }
    check(space_parse(&again, s->text, strlen(s->text), "again", &e) == OK);
    check(again->n_params == s->n_params && strcmp(again->text, s->text) == 0);
    fuzz_points(s);
    const int failed = config_check_space(s, "fuzz", &e);
    check(failed == OK || (failed == ERROR_USER && strncmp(e.text, "fuzz:", 5) == 0));
    space_free(again);
    space_free(s);
    return 0;
}
