// SPDX-License-Identifier: MIT
#include <cstdio>
#include <string>

double part1(const std::string &text);
double part2(const std::string &text);

int main(int argc, char **argv) {
    const std::string text = argc > 1 ? argv[1] : "1 + 2 * (3 - 4)";
    std::printf("%g %g\n", part1(text), part2(text));
}
