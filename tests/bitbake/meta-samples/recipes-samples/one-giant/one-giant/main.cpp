// SPDX-License-Identifier: MIT
#include <cstdio>
#include <string>

double part1(const std::string &text);
std::string small1(const std::string &text);

int main(int argc, char **argv) {
    const std::string text = argc > 1 ? argv[1] : "1 + 2 * (3 - 4)";
    std::printf("%s = %g\n", small1(text).c_str(), part1(text));
}
