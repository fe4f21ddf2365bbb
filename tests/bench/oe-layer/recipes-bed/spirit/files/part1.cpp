// SPDX-License-Identifier: MIT
#include "parser.hpp"

double part1(const std::string &text) { return calculate<1>(text); }
