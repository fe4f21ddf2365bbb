// SPDX-License-Identifier: MIT
#include "parser.hpp"

double part3(const std::string &text) { return calculate<3>(text); }
