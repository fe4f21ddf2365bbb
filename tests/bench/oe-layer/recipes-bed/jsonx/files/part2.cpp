// SPDX-License-Identifier: MIT
#include "convert.hpp"

std::string part2(const std::string &text) { return convert<2>(text); }
