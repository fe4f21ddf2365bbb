// SPDX-License-Identifier: MIT
#include "convert.hpp"

std::string part1(const std::string &text) { return convert<1>(text); }
