// SPDX-License-Identifier: MIT
#include <regex>
#include <string>

int UNIT(const std::string &text) {
    static const std::regex word("([[:alpha:]]+)|([[:digit:]]+)");
    std::smatch found;
    return std::regex_search(text, found, word) ? static_cast<int>(found.size()) : 0;
}
