# SPDX-License-Identifier: MIT
# Writes one unit of C, or with `units` the program that calls all of them.
BEGIN {
    if (units) {
        for (number = 1; number <= units; number++)
            printf "int unit_%d(int);\n", number
        print "int main(int count, char **words) {\n    (void)words;"
        for (number = 1; number <= units; number++)
            printf "    count += unit_%d(count);\n", number
        print "    return count & 1;\n}"
        exit
    }
    for (number = 0; number < 300; number++) {
        printf "static __attribute__((noinline)) int step_%d_%d(int value) {\n    int sum = value, other = %d;\n", unit, number, number
        for (line = 1; line <= 4; line++)
            printf "    if (sum %% %d > other) sum = sum * %d + other; else other ^= sum >> %d;\n", line + number % 7 + 2, line + unit, line % 5 + 1
        print "    return sum + other;\n}"
    }
    printf "int unit_%d(int value) {\n", unit
    for (number = 0; number < 300; number++)
        printf "    value += step_%d_%d(value);\n", unit, number
    print "    return value;\n}"
}
