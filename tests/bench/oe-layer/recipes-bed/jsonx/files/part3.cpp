// SPDX-License-Identifier: MIT
#include "convert.hpp"

std::string part3(const std::string &text) { return convert<3>(text); }
