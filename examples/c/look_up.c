/* Looks up rows of an artifact's tables from C.
 *
 *     cc look_up.c $(pkg-config --cflags --libs memrec) -o look_up
 *     ./look_up model.safetensors tables.0 17 4 2
 *
 * Prints one line of floats per id. Ids outside the table read as zeros.
 */
#include <memrec.h>
#include <stdio.h>
#include <stdlib.h>

static int complain(const memrec_error* error) {
    fprintf(stderr, "%s\n", error->text);
    return error->status;
}

int main(int count, char** arguments) {
    memrec_artifact* artifact;
    memrec_error error;
    memrec_table table;
    memrec_lookup lookup = {0};
    int64_t *ids, number, column;

    if (count < 4) {
        fprintf(stderr, "usage: look_up FILE TABLE ID...\n");
        return 1;
    }
    if (memrec_open(arguments[1], NULL, &artifact, &error) != MEMREC_OK) return complain(&error);
    if (memrec_verify(artifact, &error) != MEMREC_OK) return complain(&error); /* once, where the file arrives */

    lookup.table = memrec_find_table(artifact, arguments[2]);
    if (memrec_get_table(artifact, lookup.table, &table, &error) != MEMREC_OK) return complain(&error);

    lookup.outside = MEMREC_OUTSIDE_ZERO;
    lookup.id_bits = 64;
    lookup.id_count = count - 3;
    ids = malloc((size_t)lookup.id_count * sizeof *ids);
    lookup.out = malloc((size_t)lookup.id_count * (size_t)table.dim * sizeof *lookup.out);
    if (!ids || !lookup.out) return 1;
    for (number = 0; number < lookup.id_count; ++number) ids[number] = strtoll(arguments[number + 3], NULL, 10);
    lookup.ids = ids;
    if (memrec_look_up(artifact, &lookup, 1, lookup.id_count, NULL, &error) != MEMREC_OK) return complain(&error);

    for (number = 0; number < lookup.id_count; ++number)
        for (column = 0; column < table.dim; ++column)
            printf("%.9g%c", lookup.out[number * table.dim + column], column + 1 < table.dim ? ' ' : '\n');
    free(ids);
    free(lookup.out);
    memrec_close(artifact);
    return 0;
}
