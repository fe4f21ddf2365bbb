// SPDX-License-Identifier: MIT
#include "parser.hpp"

double part5(const std::string &text) { return calculate<5>(text); }
