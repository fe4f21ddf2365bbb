// SPDX-License-Identifier: MIT
#include <iomanip>
#include <iostream>
#include <sstream>
#include <string>

int UNIT(const std::string &text) {
    std::ostringstream out;
    out << std::setw(20) << text << std::hex << text.size();
    return static_cast<int>(out.str().size());
}
