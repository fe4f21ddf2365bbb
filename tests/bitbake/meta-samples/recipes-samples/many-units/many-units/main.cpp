// SPDX-License-Identifier: MIT
#include <string>

int regex_1(const std::string &text);
int tree_1(const std::string &text);
int text_1(const std::string &text);
int plain_1(const std::string &text);

int main(int argc, char **argv) {
    const std::string text = argc > 1 ? argv[1] : "a word";
    return regex_1(text) + tree_1(text) + text_1(text) + plain_1(text) == 0;
}
