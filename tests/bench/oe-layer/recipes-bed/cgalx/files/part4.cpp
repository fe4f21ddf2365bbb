// SPDX-License-Identifier: MIT
#include "triangulate.hpp"

int part4(int count) { return triangulate<4>(count); }
