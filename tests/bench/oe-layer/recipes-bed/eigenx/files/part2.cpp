// SPDX-License-Identifier: MIT
#include "decompose.hpp"

double part2(double factor) { return decompose<5>(factor) + decompose<10>(factor); }
