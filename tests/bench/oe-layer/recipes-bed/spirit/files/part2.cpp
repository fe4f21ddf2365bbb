// SPDX-License-Identifier: MIT
#include "parser.hpp"

double part2(const std::string &text) { return calculate<2>(text); }
