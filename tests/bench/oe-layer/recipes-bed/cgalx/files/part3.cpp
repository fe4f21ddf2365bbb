// SPDX-License-Identifier: MIT
#include "triangulate.hpp"

int part3(int count) { return triangulate<3>(count); }
