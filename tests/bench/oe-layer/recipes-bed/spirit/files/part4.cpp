// SPDX-License-Identifier: MIT
#include "parser.hpp"

double part4(const std::string &text) { return calculate<4>(text); }
