// SPDX-License-Identifier: MIT
#include "triangulate.hpp"

int part1(int count) { return triangulate<1>(count); }
