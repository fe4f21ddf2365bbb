// SPDX-License-Identifier: MIT
#include "decompose.hpp"

double part1(double factor) { return decompose<4>(factor) + decompose<9>(factor); }
