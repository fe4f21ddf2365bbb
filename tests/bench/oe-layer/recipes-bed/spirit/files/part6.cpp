// SPDX-License-Identifier: MIT
#include "parser.hpp"

double part6(const std::string &text) { return calculate<6>(text); }
